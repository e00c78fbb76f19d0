//! `cargo xtask demo`: a cluster of two nodes in the background with the guestbook on it.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{
    clients, images, packages, places,
    shell::{cargo, output, run, say},
};

/// The demo's cluster, apart from others on this machine.
const CLUSTER: &str = "demo";

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

    say("starting a cluster of two nodes in the background");
    run(Command::new(&binary).args(["up", "--name", CLUSTER, "--nodes", "2"]))?;
    for archive in archives {
        say(&format!("bringing in {}", archive.display()));
        run(Command::new(&binary).args(["image", "import", "--name", CLUSTER]).arg(&archive))?;
    }
    let kubectl = || {
        let mut command = Command::new(&clients.kubectl);
        command.args(["--context", &format!("knarr-{CLUSTER}")]).env("NO_PROXY", "*");
        command
    };
    say("applying examples/guestbook");
    run(kubectl().args(["apply", "-f"]).arg(places::workspace().join("examples/guestbook")))?;
    for deployment in ["redis", "frontend"] {
        run(kubectl().args(["-n", "guestbook", "rollout", "status", "--timeout=120s", &format!("deployment/{deployment}")]))?;
    }
    let look = "jsonpath={.items[*].status.addresses[?(@.type==\"InternalIP\")].address}";
    let addresses = output(kubectl().args(["get", "nodes", "-o", look]))?;
    let page = |address: &str| format!("http://{address}:30080/");
    let pages: Vec<String> = addresses.split_whitespace().map(page).collect();
    let folder = clients.kubectl.parent().map(PathBuf::from).unwrap_or_default();
    println!(
        "\nThe guestbook is at {} : three front ends over Redis; each page says which of them served it.\n\n\
         Next, try\n  \
         export PATH=$PATH:{}:{}\n  \
         kubectl get nodes\n  \
         kubectl -n guestbook get pods -o wide\n  \
         kubectl -n guestbook scale deployment/frontend --replicas=5\n  \
         kubectl -n guestbook rollout restart deployment/frontend\n  \
         knarr status\n  \
         pkill -9 -f '^knarr server'    # the server dies and is back within a second; the page goes on\n\n\
         To end it: knarr down --name {CLUSTER} (with --purge its data are deleted too).",
        pages.join(" and "),
        folder.display(),
        binary.parent().unwrap_or(&folder).display(),
    );
    Ok(())
}
