//! The project's own tasks: demo, test, bench, images, clients, tidy.

mod tables;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("tables") => tables::run(words),
        other => bail!("unknown task {}; there is: tables", other.unwrap_or("(none)")),
    }
}
