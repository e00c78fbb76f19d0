//! Running other programs: every task says what it does before it does it.

use std::{ffi::OsStr, process::Command};

use anyhow::{Context, Result, bail};

/// A step of a task, told to whoever watches.
pub fn say(what: &str) {
    eprintln!("\x1b[1m==> {what}\x1b[0m");
}

/// Cargo, as the one that runs this task.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command whose output the user sees.
///
/// # Errors
/// Where it cannot be started or does not succeed.
pub fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        bail!("{name} {} failed: {status}", words.join(" "));
    }
    Ok(())
}

/// Runs a command and returns what it printed.
///
/// # Errors
/// Where it cannot be started or does not succeed; then with what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        bail!("{name} failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
