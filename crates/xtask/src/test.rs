//! `cargo xtask test`: everything that must hold, from unit tests to pods on a real cluster.

use std::time::Instant;

use anyhow::Result;

use crate::{clients, images, packages, places, shell::{cargo, run, say}, tidy};

/// Tests that run at once in one test program. Many make namespaces and processes, so more would mostly wait.
const TEST_THREADS: &str = "--test-threads=2";

/// Runs everything.
///
/// # Errors
/// Where something is missing that cannot be installed, or a test fails.
pub fn all() -> Result<()> {
    let started = Instant::now();
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::RUN)?;
    let clients = clients::ensure_all()?;
    images::ensure(&["postgresql", "redis"])?;
    say("tidy: layers, module heads, no paths of a machine");
    tidy::check(places::workspace())?;
    say("unit, contract, integration and end-to-end tests");
    run(cargo()
        .current_dir(places::workspace())
        .args(["test", "--workspace", "--no-fail-fast", "--", TEST_THREADS])
        .env("KNARR_CLIENTS", &clients.folder))?;
    say(&format!("all tests passed in {} s", started.elapsed().as_secs()));
    Ok(())
}
