//! The knarr binary: a whole cluster in one process, or one part of a large one.
//!
//! [`cli`] says what a user can ask for; each command has a file of that name. The same binary is also the short-lived
//! helper of the container runtime, which has to start before anything else does (see `runtime-embedded`).

mod agent;
mod cli;
mod control_plane;
mod encryption_configuration;
mod image;
mod join;
mod key_management;
mod local_cluster;
mod node_options;
mod node_parts;
mod output;
mod power;
mod renewal;
mod server;
mod token;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    runtime_embedded::run_helper_if_asked();
    cli::run()
}
