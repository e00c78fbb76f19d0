//! The smallest program that can be the runtime's helper. The tests of this crate use it; knarr is its own helper.

fn main() {
    runtime_embedded::run_helper_if_asked();
    eprintln!("this program only helps the container runtime; it is not meant to be started by hand");
    std::process::exit(64);
}
