//! `cargo xtask demo`: a cluster of one node in the background with the guestbook on it.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    clients, images, packages, places,
    shell::{cargo, output, run, say},
};

/// The demo's cluster, apart from others on this machine.
const CLUSTER: &str = "demo";

/// Directory of what outlives a reboot.
const DATA: &str = "/var/lib/knarr-demo";

/// Directory of what lives until the next boot.
const RUN: &str = "/run/knarr-demo";

/// How long anything here may take to get ready.
const PATIENCE: Duration = Duration::from_secs(120);

/// Builds, starts, applies, and says what to look at.
///
/// # Errors
/// Where a step fails; it names the step.
pub fn start() -> Result<()> {
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::RUN)?;
    let clients = clients::ensure()?;
    let archives = images::ensure(&["busybox", "redis"])?;
    say("building the release binary (some minutes the first time)");
    run(cargo().current_dir(places::workspace()).args(["build", "--release", "-p", "knarr"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| places::workspace().join("target"), |folder| places::workspace().join(folder));
    let binary = target.join("release/knarr");

    let kubeconfig = Path::new(DATA).join("admin.kubeconfig");
    let kubectl = || {
        let mut command = Command::new(&clients.kubectl);
        command.env("KUBECONFIG", &kubeconfig).env("NO_PROXY", "*");
        command
    };
    let ready = || output(kubectl().args(["get", "--raw", "/readyz", "--request-timeout=2s"])).is_ok();
    fs::create_dir_all(DATA).with_context(|| format!("cannot make {DATA}"))?;
    let log = Path::new(DATA).join("server.log");
    if kubeconfig.exists() && ready() {
        say("the demo's server is running already");
    } else {
        say("starting a server in the background");
        let file = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut server = Command::new(&binary);
        server.args(["server", "--data-dir", DATA, "--run-dir", RUN, "--cluster-name", CLUSTER, "--node-name", "demo"]);
        // A group of its own, so that Ctrl-C here does not reach it.
        let mut server = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).process_group(0).spawn().context("cannot start the server")?;
        fs::write(Path::new(DATA).join("server.pid"), server.id().to_string()).context("cannot write down the server's process id")?;
        let started = Instant::now();
        while !ready() {
            if let Some(status) = server.try_wait()? {
                bail!("the server ended with {status}; it said:\n{}", fs::read_to_string(&log).unwrap_or_default());
            }
            if started.elapsed() > PATIENCE {
                bail!("the server is not ready after {} s; its log is {}", PATIENCE.as_secs(), log.display());
            }
            // The server tells nobody outside when its API is ready.
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    run(kubectl().args(["wait", "--for=condition=Ready", "node/demo", "--timeout=120s"]))?;
    for archive in archives {
        say(&format!("bringing in {}", archive.display()));
        run(Command::new(&binary).args(["image", "import", "--run-dir", RUN, "--cluster-name", CLUSTER]).arg(&archive))?;
    }
    say("applying examples/guestbook");
    run(kubectl().args(["apply", "-f"]).arg(places::workspace().join("examples/guestbook")))?;
    for deployment in ["redis", "frontend"] {
        run(kubectl().args(["-n", "guestbook", "rollout", "status", "--timeout=120s", &format!("deployment/{deployment}")]))?;
    }
    let address = output(kubectl().args(["get", "node", "demo", "-o", "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}"]))?;
    let process = fs::read_to_string(Path::new(DATA).join("server.pid")).unwrap_or_default();
    println!(
        "\nThe guestbook is at http://{address}:30080/ : three front ends over Redis; each page says which of them served it.\n\n\
         Next, try\n  \
         export KUBECONFIG={} PATH=$PATH:{}\n  \
         kubectl -n guestbook get pods -o wide\n  \
         kubectl -n guestbook scale deployment/frontend --replicas=5\n  \
         kubectl -n guestbook rollout restart deployment/frontend\n  \
         kill -9 {process}    # the server dies, the page goes on; `cargo xtask demo` starts the server again\n\n\
         To end it: kubectl delete namespace guestbook, then kill {process}; the log is {}.",
        kubeconfig.display(),
        clients.kubectl.parent().unwrap_or(Path::new("")).display(),
        log.display(),
    );
    Ok(())
}
