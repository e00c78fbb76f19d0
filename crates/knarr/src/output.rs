//! What commands tell on standard output.
//!
//! `println!` panics where nobody reads any more, as in `knarr image list | head -1`. Here that is no failure: what a command does is
//! done all the same.

use std::{fmt::Arguments, io::{self, ErrorKind, Write}};

/// Writes to standard output.
pub fn write(text: Arguments<'_>) {
    let mut output = io::stdout().lock();
    match output.write_fmt(text).and_then(|()| output.flush()) {
        Err(problem) if problem.kind() != ErrorKind::BrokenPipe => drop(writeln!(io::stderr(), "knarr: cannot write to standard output: {problem}")),
        _ => {}
    }
}

/// Tells a line.
macro_rules! tell {
    ($($text:tt)*) => { $crate::output::write(format_args!("{}\n", format_args!($($text)*))) };
}
pub(crate) use tell;
