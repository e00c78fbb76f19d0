//! What is in each image.

/// An image to make. Each has busybox with all of its commands as its shell.
pub struct Recipe {
    /// Its name.
    pub name: &'static str,
    /// Debian packages it is made of, with the libraries that those depend on.
    pub packages: &'static [&'static str],
    /// Programs, and libraries that they load by name, out of them.
    pub programs: &'static [&'static str],
    /// Whole directories out of them.
    pub trees: &'static [&'static str],
    /// Empty directories: path, and the user that owns them.
    pub directories: &'static [(&'static str, u64)],
    /// Files of our own: path, mode and text.
    pub files: &'static [(&'static str, u32, &'static str)],
    /// `USER`, none for root.
    pub user: Option<&'static str>,
    /// `ENV`, beside a `PATH`.
    pub environment: &'static [&'static str],
    /// `CMD`.
    pub command: &'static [&'static str],
    /// Holds the workspace's own probe server.
    pub probe_server: bool,
}

/// An image of busybox alone, for the others to build on.
const PLAIN: Recipe = Recipe {
    name: "busybox",
    packages: &[],
    programs: &[],
    trees: &[],
    directories: &[],
    files: &[],
    user: None,
    environment: &[],
    command: &["/bin/sh"],
    probe_server: false,
};

const NGINX_CONFIGURATION: &str = "daemon off;
error_log /dev/stderr;
pid /run/nginx.pid;
events { worker_connections 512; }
http {
    include /etc/nginx/mime.types;
    access_log /dev/stdout;
    server {
        listen 80 default_server;
        root /usr/share/nginx/html;
    }
}
";

const POSTGRESQL_START: &str = "#!/bin/sh
# Makes the database where there is none yet, then becomes the server.
set -e
if [ ! -s \"$PGDATA/PG_VERSION\" ]; then
    initdb --auth=trust --username=postgres --no-locale --encoding=UTF8
    echo 'host all all all trust' >> \"$PGDATA/pg_hba.conf\"
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp
";

/// All images.
pub const RECIPES: &[Recipe] = &[
    PLAIN,
    Recipe { name: "probe", command: &["/bin/probe-server"], probe_server: true, ..PLAIN },
    Recipe {
        name: "redis",
        packages: &["redis-server", "redis-tools"],
        programs: &["usr/bin/redis-server", "usr/bin/redis-cli"],
        command: &["/usr/bin/redis-server", "--protected-mode", "no"],
        ..PLAIN
    },
    Recipe {
        name: "nginx",
        packages: &["nginx", "nginx-common"],
        programs: &["usr/sbin/nginx"],
        directories: &[("var/log/nginx", 0), ("var/lib/nginx", 0), ("run", 0)],
        trees: &[],
        files: &[
            ("etc/nginx/nginx.conf", 0o644, NGINX_CONFIGURATION),
            ("etc/nginx/mime.types", 0o644, "types { text/html html; text/plain txt; text/css css; application/javascript js; application/json json; image/png png; }\n"),
            ("usr/share/nginx/html/index.html", 0o644, "<!doctype html>\n<title>nginx</title>\n<p>nginx serves this page.</p>\n"),
        ],
        command: &["/usr/sbin/nginx"],
        ..PLAIN
    },
    Recipe {
        name: "postgresql",
        packages: &["postgresql-15", "postgresql-client-15", "tzdata"],
        programs: &[
            "usr/lib/postgresql/15/bin/initdb",
            "usr/lib/postgresql/15/bin/postgres",
            "usr/lib/postgresql/15/bin/pg_ctl",
            "usr/lib/postgresql/15/bin/pg_isready",
            "usr/lib/postgresql/15/bin/pgbench",
            "usr/lib/postgresql/15/bin/psql",
            "usr/lib/postgresql/15/lib/dict_snowball.so",
            "usr/lib/postgresql/15/lib/libpqwalreceiver.so",
            "usr/lib/postgresql/15/lib/plpgsql.so",
        ],
        trees: &["usr/share/postgresql/15", "usr/share/zoneinfo/Etc"],
        directories: &[("var/lib/postgresql/data", 999)],
        files: &[("bin/start-postgresql", 0o755, POSTGRESQL_START)],
        user: Some("999"),
        environment: &["PGDATA=/var/lib/postgresql/data", "PGHOST=/tmp", "PGUSER=postgres"],
        command: &["/bin/start-postgresql"],
        ..PLAIN
    },
];
