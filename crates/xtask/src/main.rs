//! The project's own tasks: demo, test, bench, images, clients, tidy.

fn main() {}
