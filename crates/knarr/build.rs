//! Asks the linker to keep one of several identical functions, which generic code leaves behind by the thousand, and to write
//! down relocations in the short form (RELR, which glibc reads since 2.36).

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    // Only where rustc links with LLD by itself; other linkers may not know the flag. Nothing in Rust may rely on two functions
    // having different addresses, so folding all of them is sound.
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
