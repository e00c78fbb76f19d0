//! The embedded container runtime: images, snapshots, one shim per pod, short-lived helpers around libcontainer.
