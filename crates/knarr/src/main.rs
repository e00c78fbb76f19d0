//! The knarr binary: a whole cluster in one process, or one part of a large one.

fn main() {}
