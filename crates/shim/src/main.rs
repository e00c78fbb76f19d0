//! The process that owns one pod's containers: stdio, logs and exit codes. A small static program, embedded in knarr.

fn main() {}
