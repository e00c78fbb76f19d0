//! The project's own tasks; `cargo xtask` lists them. Each has a module of its name.

mod bench;
mod clients;
mod demo;
mod images;
mod packages;
mod places;
mod shell;
mod tables;
mod test;
mod tidy;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// The project's own tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Tasks {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run everything: unit, contract, integration and end-to-end tests. Installs the Debian packages it needs.
    Test,
    /// Build the release binary, start a cluster of two nodes in the background, and apply examples/guestbook.
    Demo,
    /// Measure start, idling, reads and writes, and print them beside their targets.
    Bench(bench::Arguments),
    /// Make the container images of demo and tests out of Debian packages, and print where they are.
    Images,
    /// Fetch kubectl and helm into the cache, and print where they are.
    Clients,
    /// Check layers, module heads and other rules that no compiler checks.
    Tidy,
    /// Check the tables of API facts against upstream's description, or write them anew.
    Tables(tables::Arguments),
}

fn main() -> Result<()> {
    match Tasks::parse().task {
        Task::Test => test::all(),
        Task::Demo => demo::start(),
        Task::Bench(arguments) => bench::measure(&arguments),
        Task::Images => {
            for archive in images::ensure(&[])? {
                println!("{}", archive.display());
            }
            Ok(())
        }
        Task::Clients => {
            packages::ensure(&["python3", "python3-pip"])?;
            let clients = clients::ensure_all().context("cannot fetch the clients")?;
            println!("{}\n{}", clients.kubectl.display(), clients.helm.display());
            Ok(())
        }
        Task::Tidy => tidy::check(places::workspace()),
        Task::Tables(arguments) => tables::run(&arguments),
    }
}
