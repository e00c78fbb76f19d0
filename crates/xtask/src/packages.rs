//! The Debian packages that building and testing need.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{run, say};

/// To build the binary.
pub const BUILD: &[&str] = &["gcc", "libc6-dev", "libseccomp-dev", "pkg-config"];

/// To run tests and the demo: the clients come out of a Python package, images out of busybox, and the rest looks at
/// what the kernel was told.
pub const RUN: &[&str] = &[
    "busybox-static",
    "conntrack",
    "curl",
    "dbus-daemon",
    "docker-registry",
    // A file system that can be made to fail.
    "e2fsprogs",
    "iproute2",
    // A wall clock that tests can set.
    "libfaketime",
    // The names of protocols, which nft prints.
    "netbase",
    "nftables",
    "openssl",
    "procps",
    "python3",
    "python3-pip",
    "util-linux",
];

fn installed(package: &str) -> bool {
    let asked = Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]).output();
    asked.is_ok_and(|answer| answer.status.success() && answer.stdout == b"installed")
}

/// Installs what is missing.
///
/// # Errors
/// Where packages are missing and the user is not root, or apt fails.
pub fn ensure(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let root = std::fs::metadata("/proc/self").context("cannot look at this process")?;
    if std::os::unix::fs::MetadataExt::uid(&root) != 0 {
        bail!("these Debian packages are missing: {}; install them, or run this as root", missing.join(" "));
    }
    say(&format!("installing the Debian packages {}", missing.join(", ")));
    let apt = |words: &[&str]| run(Command::new("apt-get").args(["-q", "-y", "-o", "Dpkg::Use-Pty=0"]).args(words).env("DEBIAN_FRONTEND", "noninteractive"));
    apt(&["update"])?;
    let mut words = vec!["install", "--no-install-recommends"];
    words.extend(missing);
    apt(&words)
}
