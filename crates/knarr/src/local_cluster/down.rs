//! `knarr down`: ends a cluster and takes away everything that `up` made, by the record alone, however far `up` got.

use std::{fs, time::Duration};

use anyhow::Context;

use super::{
    DownArgs, check_name, kubeconfig, lock, namespaces, network, node_directory, processes,
    record::{self, Record},
    require_root, run_directory, say,
};
use netlink::NetworkNamespace;

/// How long a server may take to close its store: on a slow disk, beside others who write, a second is soon gone for each file.
const PATIENCE: Duration = Duration::from_secs(30);

/// Does it.
pub fn run(arguments: DownArgs) -> anyhow::Result<()> {
    check_name(&arguments.name)?;
    require_root("down")?;
    let _lock = lock()?;
    let name = &arguments.name;
    let mut data = arguments.data_dir.join(name);
    match Record::load(name)? {
        Some(record) => {
            data.clone_from(&record.data);
            take_away(&record)?;
            say(name, "is down: its processes, namespaces, links, rules and cgroups are gone");
        }
        None => {
            // An `up` that was cut off before its first word may have left a mount.
            Record::end(name).or_else(|error| if record::running().contains(name) { Err(error) } else { Ok(()) })?;
            say(name, "is not running");
        }
    }
    if !data.join("cluster.json").exists() {
        return Ok(());
    }
    if arguments.purge {
        fs::remove_dir_all(&data).with_context(|| format!("cannot delete {}", data.display()))?;
        say("data", &format!("in {} are deleted", data.display()));
    } else {
        say("data", &format!("stay in {0} for the next `knarr up`; `knarr down --name {name} --purge` deletes them", data.display()));
    }
    Ok(())
}

fn take_away(record: &Record) -> anyhow::Result<()> {
    let recorded = record.nodes.iter().filter_map(|node| node.process);
    processes::stop(recorded.chain(processes::with_configuration_in(&run_directory(&record.name))), PATIENCE);
    processes::end_all(&record.name)?;
    if let Some(entry) = &record.kubeconfig {
        // The user's own file may be broken by now, which must not keep the cluster's remains here.
        if let Err(error) = kubeconfig::take_out(&entry.path, &format!("knarr-{}", record.name), entry.previous.as_deref()) {
            eprintln!("knarr: the context knarr-{} stays in {}: {error:#}", record.name, entry.path.display());
        }
    }
    for node in &record.nodes {
        let directory = node_directory(&record.name, &node.name);
        for pin in [namespaces::network_pin(&directory), namespaces::mount_pin(&directory)] {
            NetworkNamespace::remove_pin(&pin)?;
        }
    }
    network::remove(record, record::neighbours(record))?;
    Record::end(&record.name)
}
