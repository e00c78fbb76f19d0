//! The embedded container runtime: images, snapshots, one shim per pod, short-lived helpers around libcontainer.
//!
//! The agent (`runtime.rs`) only keeps books. A pod's shim (the crate `shim`, embedded in `shim_program.rs`) owns its
//! namespaces and processes and outlives the agent; a helper (`helper.rs`, this program executed again) starts one
//! container or command and ends. Images are in `images.rs`, cgroups in `cgroup.rs`.
//!
//! Everything of this boot is on tmpfs below the run directory; images and writable layers are in the data directory.
//! Nothing is mounted in the host's namespace but a pod's `/dev/shm`.

mod capabilities;
mod cgroup;
mod class_weights;
mod container;
mod device_filter;
mod helper;
mod helper_program;
mod image_mounts;
mod images;
mod inside;
mod memory_backed;
mod options;
mod records;
mod runtime;
mod sandbox;
mod seccomp;
mod shim_connection;
mod shim_program;
mod strays;
mod streams;

pub use cgroup::Cgroups;
pub use helper::{HELPER_ARGUMENT, run_helper_if_asked};
pub use memory_backed::{ensure as ensure_memory_backed, remove_mount};
pub use options::{Helper, Options};
pub use runtime::EmbeddedRuntime;
