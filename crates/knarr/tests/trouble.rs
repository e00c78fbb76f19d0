//! What a server says where it cannot start: one sentence with what to do, and an exit that is no success. And what is no trouble.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use testkit::{Machine, RealCluster, real_cluster::Settings};

/// The binary under test: cargo's, or another build that `KNARR_BINARY` names.
fn binary() -> PathBuf {
    std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from)
}

/// What a server says that must not start. `prefix` stands before its command line.
#[track_caller]
fn refused(prefix: &[String], data: &Path, options: &[&str]) -> String {
    let binary = binary().display().to_string();
    let mut words = prefix.iter().map(String::as_str).chain([binary.as_str(), "server"]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).arg("--data-dir").arg(data).arg("--run-dir").arg(data.join("run")).args(options).stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it should not start; it said {said}");
    let last = said.lines().rfind(|line| line.starts_with("knarr: ")).unwrap_or_else(|| panic!("no sentence: {said}"));
    last.to_owned()
}

/// Only a control plane, on a port that is free.
fn alone() -> [&'static str; 5] {
    ["--disable-agent", "--bind", "127.0.0.1", "--port", "0"]
}

#[test]
fn a_reader_that_has_gone() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(binary()).arg("version").stdout(writer).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_node_without_root() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = ["unshare", "--user"].map(str::to_owned);
    let said = refused(&nobody, &directory.path().join("data"), &[]);
    assert!(said.contains("needs root") && said.contains("--disable-agent"), "{said}");
}

#[test]
fn a_second_server_on_the_same_data() {
    let cluster = RealCluster::start(&Settings { binary: &binary(), registry: None, control_plane_only: true });
    let said = refused(&[], &cluster.data_directory(), &alone());
    assert!(said.contains("in use by another server (process ") && said.contains("choose another data directory"), "{said}");
    assert_eq!(cluster.kubectl(["get", "--raw", "/readyz"]).trim(), "ok", "the first one goes on");
}

#[test]
fn a_damaged_data_directory() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    fs::create_dir_all(&store).unwrap();
    fs::write(store.join("log.redb"), vec![7; 100_000]).unwrap();
    fs::write(store.join("encryption.keys"), "nonsense").unwrap();
    let said = refused(&[], directory.path(), &alone());
    assert!(said.contains("restore") && said.contains("store"), "{said}");
}

#[test]
fn a_full_disk() {
    let machine = Machine::new();
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().display().to_string();
    machine.output(&["mount", "-t", "tmpfs", "-o", "size=16k", "full", &place]);
    let prefix: Vec<String> = machine.prefix().into_iter().map(|word| word.into_string().unwrap()).collect();
    let said = refused(&prefix, directory.path(), &alone());
    assert!(said.contains("no space left") && said.contains(&place), "{said}");
    assert!(said.contains("free some space and start again"), "{said}");
}

#[test]
fn a_machine_without_cgroups() {
    let machine = Machine::new();
    machine.output(&["umount", "--recursive", "/sys/fs/cgroup"]);
    let directory = tempfile::tempdir().unwrap();
    let prefix: Vec<String> = machine.prefix().into_iter().map(|word| word.into_string().unwrap()).collect();
    let said = refused(&prefix, directory.path(), &["--node-ip", "127.0.0.1", "--cluster-name", "without-cgroups", "--node-name", "none"]);
    assert!(said.contains("no cgroup hierarchy") && said.contains("mount one at /sys/fs/cgroup"), "{said}");
}
