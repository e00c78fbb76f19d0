//! Builds the shim as a small static program, so that it can be embedded in the library (see `shim_program.rs`).
//!
//! It needs flags of its own (static, optimised for size, whatever the profile of this build), so it is built by a nested
//! cargo with a target directory of its own below `OUT_DIR`. The crates it needs are those of the workspace's lock file.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    let manifest_directory = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out_directory = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let shim = manifest_directory.join("../shim");
    for path in ["Cargo.toml", "src"] {
        println!("cargo:rerun-if-changed={}", shim.join(path).display());
    }
    println!("cargo:rerun-if-changed={}", manifest_directory.join("../../Cargo.lock").display());
    println!("cargo:rerun-if-changed=build.rs");

    let target_directory = out_directory.join("shim-target");
    let build = |offline: bool| {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // What the outer build was told (wrappers, flags, profile overrides) is not meant for the shim.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            let ours = ["CARGO_PROFILE_", "CARGO_FEATURE_", "CARGO_CFG_", "CARGO_BUILD_"].iter().any(|prefix| text.starts_with(prefix));
            if ours || matches!(&*text, "RUSTFLAGS" | "CARGO_ENCODED_RUSTFLAGS" | "RUSTC_WRAPPER" | "RUSTC_WORKSPACE_WRAPPER" | "CARGO_TARGET_DIR" | "CARGO_MAKEFLAGS" | "MAKEFLAGS") {
                cargo.env_remove(&name);
            }
        }
        cargo
            .args(["build", "--release", "--quiet", "--bin", "knarr-shim", "--target", &target])
            .arg("--manifest-path")
            .arg(shim.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&target_directory)
            .args(offline.then_some("--offline"))
            .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "z")
            .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
            .env("CARGO_PROFILE_RELEASE_LTO", "true")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
            .env("CARGO_PROFILE_RELEASE_STRIP", "true")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "false");
        cargo.status().is_ok_and(|status| status.success())
    };
    // The outer build has fetched everything already; where it has not (a partial vendor directory), cargo may fetch.
    assert!(build(true) || build(false), "building the shim for {target} failed; cargo's messages are above");
    let built = target_directory.join(&target).join("release/knarr-shim");
    install(&built, &out_directory.join("knarr-shim"));
}

fn install(built: &Path, destination: &Path) {
    let program = std::fs::read(built).unwrap_or_else(|error| panic!("could not read {}: {error}", built.display()));
    // An unchanged program keeps its file, so that nothing is compiled again because of it.
    if std::fs::read(destination).ok().as_ref() != Some(&program) {
        std::fs::write(destination, program).unwrap_or_else(|error| panic!("could not write {}: {error}", destination.display()));
    }
    println!("cargo:rustc-env=KNARR_SHIM_PROGRAM={}", destination.display());
}
