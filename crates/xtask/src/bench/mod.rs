//! `cargo xtask bench`: what knarr costs and how fast it is, as a table beside what it is meant to reach.
//!
//! A benchmark, not a test: numbers depend on the machine, and nothing fails for being slow (but a full cluster does
//! that takes too much memory). Load comes from `wrk` over TLS with keep-alive, with the token of a service account whose rights are
//! checked at each request.

mod alone;
mod load;
mod placement;
mod scheduling;
mod server;

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    clients, images, packages, places,
    shell::{cargo, output, run, say},
};
use load::{load, milliseconds};
use server::{PORT, Server, Start, eventually};

/// What `cargo xtask bench` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// `json` for scripts.
    #[arg(short, long)]
    output: Option<String>,
    /// Measure this binary rather than build one.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Seconds that load and idling are measured for.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Measure scheduling alone.
    #[arg(long)]
    scheduling: bool,
    /// Measure this alone, on a server of its own.
    #[arg(long, value_enum)]
    only: Vec<Row>,
}

/// What can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Row {
    /// 5,000 nodes and 150,000 pods.
    FullCluster,
    /// 100 pods with probes on one node.
    ProbedPods,
    /// Start with 1,000 definitions of custom resources.
    Definitions,
    /// A config map's change reaches a mounted file.
    MountedChange,
}

impl Row {
    const ALL: [Self; 4] = [Self::MountedChange, Self::ProbedPods, Self::Definitions, Self::FullCluster];
}

/// A line of the table.
#[derive(Debug, Serialize)]
struct Measured {
    what: &'static str,
    measured: String,
    target: &'static str,
}

/// Measures, and prints the table.
///
/// # Errors
/// Where the server does not start, or a tool is missing.
pub fn measure(arguments: &Arguments) -> Result<()> {
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::RUN)?;
    packages::ensure(&["wrk", "curl"])?;
    let clients = clients::ensure()?;
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => {
            say("building the release binary");
            run(cargo().current_dir(places::workspace()).args(["build", "--release", "-p", "knarr"]))?;
            places::target().join("release/knarr")
        }
    };
    let mut table = Vec::new();
    let mut note = |what, measured: String, target| table.push(Measured { what, measured, target });

    let tools = alone::Tools { binary: &binary, kubectl: &clients.kubectl, load: load::program, seconds: arguments.seconds };
    let alone = |rows: &[Row]| rows.iter().map(|row| tools.measure(*row)).collect::<Result<Vec<_>>>().map(|rows| rows.into_iter().flatten());
    if !arguments.only.is_empty() {
        return print(&alone(&arguments.only)?.collect::<Vec<_>>(), arguments.output.as_deref());
    }
    let program = load::program()?;
    let alone = if arguments.scheduling { Vec::new() } else { alone(&Row::ALL)?.collect() };
    note("durable bindings, 5000 pods on 200 nodes", scheduling::measure(&scheduling::SMALL, &binary, &clients.kubectl, &program)?, "5000 /s");
    let large = "durable bindings, 10000 pods on 5000 nodes, 30 % spread over zones, 20 % apart";
    note(large, scheduling::measure(&scheduling::LARGE, &binary, &clients.kubectl, &program)?, "2000 /s");
    note("Deployment 0 to 1000 on 100 simulated nodes", scheduling::scale(&binary, &clients.kubectl, &program)?, "2 s");
    if arguments.scheduling {
        return print(&table, arguments.output.as_deref());
    }
    say("starting a server with an empty data directory");
    let (server, started) = Server::start(&Start { binary: &binary, kubectl: &clients.kubectl, name: "bench", arguments: &[] })?;
    // Under its own name curl is given indented JSON, as people read it.
    let curl = |words: &[&str]| output(Command::new("curl").args(["--silent", "--insecure", "--fail", "--noproxy", "*", "--user-agent", "bench"]).args(words));
    server.ready()?;
    note("exec to /readyz", format!("{:.2} s", started.elapsed().as_secs_f64()), "0.6 s");
    eventually("kubectl works", || server.kubectl(&["get", "node", "bench"]).is_ok())?;
    server.kubectl(&["wait", "--for=condition=Ready", "node/bench", "--timeout=60s"])?;
    note("exec to node Ready, as kubectl sees it", format!("{:.2} s", started.elapsed().as_secs_f64()), "1.0 s");

    say(&format!("idling for {} s", arguments.seconds));
    std::thread::sleep(Duration::from_secs(5)); // What starting stirred up is to settle before idling is measured.
    let before = server.ticks();
    std::thread::sleep(Duration::from_secs(arguments.seconds)); // This is the measurement.
    let used = server.ticks().saturating_sub(before);
    note("idle CPU, of one core", format!("{:.1} %", used as f64 / arguments.seconds as f64), "1 %");
    note("idle memory of everything (PSS)", format!("{:.0} MiB", server.memory_kibibytes() as f64 / 1024.0), "80 MiB");

    let archive = images::ensure(&["busybox"])?;
    for archive in &archive {
        run(Command::new(&binary).args(["image", "import", "--run-dir", &server.run_directory, "--cluster-name", "bench"]).arg(archive))?;
    }
    say("starting pods");
    let pods = load::own(&program, &server, &["pods", "busybox:knarr", "11", "30"])?;
    let single = format!("{:.2} s, slowest {:.2} s", milliseconds(&pods, "single_median_ms") / 1000.0, milliseconds(&pods, "single_worst_ms") / 1000.0);
    note("pod created to Ready, one at a time (median)", single, "0.3 s");
    note("30 pods at once, until all run", format!("{:.1} s", milliseconds(&pods, "all_ms") / 1000.0), "3 s");
    say("watching with 1000 watchers");
    let watchers = load::own(&program, &server, &["watchers", "1000", "20"])?;
    let seen = format!("{:.0} ms, slowest {:.0} ms", milliseconds(&watchers, "median_ms"), milliseconds(&watchers, "worst_ms"));
    note("watch event seen by 1000 watchers (median)", seen, "50 ms");

    server.kubectl(&["create", "serviceaccount", "load"])?;
    server.kubectl(&["create", "clusterrolebinding", "load", "--clusterrole=cluster-admin", "--serviceaccount=default:load"])?;
    let token = server.kubectl(&["create", "token", "load", "--duration=1h"])?.trim().to_owned();
    server.kubectl(&["create", "configmap", "one", &format!("--from-literal=key={}", "x".repeat(1024))])?;
    say("reading one object");
    note("GET one object, 16 connections", load(16, arguments.seconds, &token, "/api/v1/namespaces/default/configmaps/one", None)?, "15000 /s");
    for (connections, what, target) in [(16, "durable CREATE of 1 KiB, 16 clients", "4000 /s, p99 10 ms"), (64, "durable CREATE of 1 KiB, 64 clients", "8000 /s")] {
        say(&format!("creating objects from {connections} connections"));
        let namespace = format!("load-{connections}");
        server.kubectl(&["create", "namespace", &namespace])?;
        let script = creating()?;
        note(what, load(connections, arguments.seconds, &token, &format!("/api/v1/namespaces/{namespace}/configmaps"), Some(script.path()))?, target);
    }
    say("listing 5000 objects");
    server.kubectl(&["create", "namespace", "load-list"])?;
    load::own(&program, &server, &["objects", "load-list", "5000"])?;
    let header = format!("Authorization: Bearer {token}");
    let list = format!("https://127.0.0.1:{PORT}/api/v1/namespaces/load-list/configmaps");
    let median = |url: &str, form: &str| {
        let mut times = Vec::new();
        for _ in 0..11 {
            let accept = format!("Accept: {form}");
            let said = curl(&["--header", &header, "--header", &accept, "--output", "/dev/null", "--write-out", "%{time_pretransfer} %{time_total}", url])?;
            let mut numbers = said.split(' ').filter_map(|number| number.parse::<f64>().ok());
            if let (Some(connected), Some(total)) = (numbers.next(), numbers.next()) {
                times.push((total - connected) * 1000.0);
            }
        }
        times.sort_by(f64::total_cmp);
        Ok::<String, anyhow::Error>(times.get(times.len() / 2).map_or("not measured".to_owned(), |time| format!("{time:.1} ms")))
    };
    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
    note("LIST 5000 objects of 1 KiB (median)", median(&list, "application/json")?, "15 ms");
    note("the same in protobuf, after the first", median(&list, PROTOBUF)?, "as JSON");
    let page = format!("{list}?limit=500");
    note("a page of 500 of them (median)", median(&page, "application/json")?, "2 ms");
    let script = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    fs::write(script.path(), format!("wrk.headers[\"Accept\"] = \"{PROTOBUF}\"\n")).context("cannot write the load script")?;
    let one = "/api/v1/namespaces/default/configmaps/one";
    note("GET in protobuf, 16 connections", load(16, arguments.seconds, &token, one, Some(script.path()))?, "as JSON");
    say("reading while 64 clients write");
    server.kubectl(&["create", "namespace", "load-mixed"])?;
    let script = creating()?;
    let (seconds, writer_token) = (arguments.seconds, token.clone());
    let written = std::thread::spawn(move || load(64, seconds, &writer_token, "/api/v1/namespaces/load-mixed/configmaps", Some(script.path())));
    note("GET by 2 clients under 64 that write", load(2, arguments.seconds, &token, one, None)?, "p99 10 ms");
    let written = written.join().map_err(|_| anyhow::anyhow!("the writers failed"))??;
    note("what those 64 wrote meanwhile", written, "");
    say("applying a manifest of 200 objects again and again");
    server.kubectl(&["create", "namespace", "load-apply"])?;
    let applied = load::own(&program, &server, &["apply", "load-apply", "200", "20"])?;
    let rate = applied["objects_per_second"].as_f64().unwrap_or(f64::NAN);
    note("unchanged server-side apply, of 200 objects", format!("{rate:.0} /s"), "2000 /s");
    let size = fs::metadata(&binary).map(|found| found.len()).unwrap_or_default();
    note("binary", format!("{:.1} MB", size as f64 / 1e6), "40 MB");

    table.extend(alone);
    say("counting what reads cost");
    for counted in load::counted()? {
        table.push(Measured { what: "counted, of 1000 objects of 1 KiB", measured: counted, target: "" });
    }

    print(&table, arguments.output.as_deref())
}

/// A script for `wrk` that creates config maps of 1 KiB.
fn creating() -> Result<tempfile::NamedTempFile> {
    let script = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    let body = format!(r#"{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"c%d\"}},\"data\":{{\"key\":\"{}\"}}}}"#, "x".repeat(1024));
    let lua = format!("local n = 0\nwrk.method = \"POST\"\nwrk.headers[\"Content-Type\"] = \"application/json\"\nfunction request()\n n = n + 1\n return wrk.format(nil, nil, nil, string.format(\"{body}\", n))\nend\n");
    fs::write(script.path(), lua).context("cannot write the load script")?;
    Ok(script)
}

fn print(table: &[Measured], form: Option<&str>) -> Result<()> {
    if form == Some("json") {
        println!("{}", serde_json::to_string_pretty(table)?);
    } else {
        println!("\n{:<42} {:<34} target", "what", "measured");
        for line in table {
            println!("{:<42} {:<34} {}", line.what, line.measured, line.target);
        }
    }
    Ok(())
}
