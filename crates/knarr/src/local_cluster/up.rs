//! `knarr up`: makes what is not there yet of a cluster, starts what does not run, and waits until it is ready.

use std::{
    fs,
    path::Path,
    process::Child,
    time::Instant,
};

use anyhow::{Context, bail};
use pki::{Fingerprint, JoinToken};

use super::{
    UpArgs, check_name, kubeconfig, lock, namespaces, network, node_directory,
    processes::{self, Process},
    ranges, ready,
    record::{KubeconfigEntry, NodeRecord, Record},
    require_root, say,
    settings::Settings,
};

/// Does it.
pub fn run(arguments: UpArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    check_name(&arguments.name)?;
    require_root("up")?;
    let _lock = lock()?;
    let data = fs::create_dir_all(&arguments.data_dir)
        .and_then(|()| arguments.data_dir.canonicalize())
        .with_context(|| format!("cannot make the directory {}", arguments.data_dir.display()))?
        .join(&arguments.name);
    let mut record = match Record::load(&arguments.name)? {
        Some(record) if record.data != data => {
            bail!("the cluster {} is running on the data in {}; name that directory, or another cluster", record.name, record.data.display())
        }
        other => other,
    };
    let settings = settings(&arguments, &data)?;
    if let Some(record) = &record
        && record.nodes.len() == usize::from(settings.nodes)
        && record.kubeconfig.is_some()
        && record.nodes.iter().all(|node| node.process.is_some_and(Process::is_running))
    {
        let nodes = record.nodes.len();
        say(&settings.name, &format!("is running already: {nodes} node{} at {}", if nodes == 1 { "" } else { "s" }, settings.api()?));
        return Ok(());
    }
    if record.is_none() {
        check_ranges(&settings)?;
    }
    let mut record = match record.take() {
        Some(record) => record,
        None => Record::begin(&settings.name, &data)?,
    };
    let children = make(&settings, &mut record).and_then(|children| {
        ready::wait(&settings, children)?;
        let path = match &arguments.kubeconfig {
            Some(path) => std::path::absolute(path)?,
            None => kubeconfig::user_file()?,
        };
        add_context(&settings, &mut record, &path)
    });
    children.with_context(|| format!("the cluster {0} is not complete: look at it with `knarr status`, go on with `knarr up --name {0}`, or end it with `knarr down --name {0}`", settings.name))?;
    say(&settings.name, &format!("is up after {:.1} s: try `kubectl get nodes`, end it with `knarr down --name {}`", started.elapsed().as_secs_f64(), settings.name));
    Ok(())
}

/// The settings kept from before, with what is asked for now; new ones where there are none.
fn settings(arguments: &UpArgs, data: &Path) -> anyhow::Result<Settings> {
    let mut settings = match Settings::load(data)? {
        Some(settings) => settings,
        None => {
            let chosen = ranges::choose(&ranges::used_here()?)?;
            // Only its id and secret are kept; the fingerprint follows from the authority.
            let token = JoinToken::generate(Fingerprint([0; 32]))?;
            Settings {
                name: arguments.name.clone(),
                nodes: 1,
                node_range: chosen.nodes.to_string(),
                pod_range: chosen.pods.to_string(),
                service_range: chosen.services.to_string(),
                token: (token.id, token.secret),
                server_options: Vec::new(),
                directory: data.to_owned(),
            }
        }
    };
    if let Some(wanted) = arguments.nodes {
        if wanted < settings.nodes {
            bail!(
                "the cluster {0} has {1} nodes, and nodes are not taken away one by one: leave --nodes out to keep them, or begin anew with `knarr down --name {0} --purge`",
                settings.name,
                settings.nodes
            );
        }
        settings.nodes = wanted;
    }
    if !arguments.server_option.is_empty() {
        settings.server_options.clone_from(&arguments.server_option);
    }
    settings.save()?;
    if let Some(file) = &arguments.registries {
        for number in 1..=settings.nodes {
            let place = settings.node_data(number);
            pki::private_file::create_directory(&place)?;
            fs::copy(file, place.join("registries.yaml")).with_context(|| format!("cannot copy {}", file.display()))?;
        }
    }
    Ok(settings)
}

/// After a reboot somebody else may have the addresses of the cluster's nodes.
fn check_ranges(settings: &Settings) -> anyhow::Result<()> {
    let nodes = settings.node_range.parse()?;
    if let Some(taken) = ranges::used_here()?.into_iter().find(|used| ranges::overlap(used, &nodes)) {
        bail!(
            "the nodes of the cluster {} have addresses of {nodes}, but this machine now has a route to {taken}: take that away, or begin anew with `knarr down --name {0} --purge`",
            settings.name
        );
    }
    Ok(())
}

/// Makes namespaces and links, and starts the nodes that do not run. Returns those with their processes.
fn make(settings: &Settings, record: &mut Record) -> anyhow::Result<Vec<(u8, Child)>> {
    network::ensure_host(record, settings)?;
    say("network", &format!("nodes {} on the bridge {}, pods {}, Services {}", settings.node_range, record.bridge, settings.pod_range, settings.service_range));
    let token = settings.join_token()?;
    let mut started = Vec::new();
    for number in 1..=settings.nodes {
        let name = settings.node_name(number);
        if record.node(number).is_none() {
            record.nodes.push(NodeRecord { number, name: name.clone(), address: settings.node_address(number)?, process: None });
            record.save()?;
        }
        if record.node(number).and_then(|node| node.process).is_some_and(Process::is_running) {
            continue;
        }
        let directory = node_directory(&settings.name, &name);
        pki::private_file::create_directory(&directory)?;
        let namespace = namespaces::ensure_network(&directory)?;
        namespaces::ensure_mounts(&directory, &settings.dns_address()?)?;
        network::ensure_node(record, settings, number, &namespace)?;
        let configuration = directory.join("node.yaml");
        pki::private_file::write(&configuration, &serde_json::to_vec_pretty(&node_settings(settings, number, &token, &directory)?)?)?;
        let data = settings.node_data(number);
        pki::private_file::create_directory(&data)?;
        let kind = if number == 1 { "server" } else { "agent" };
        let ranges = [settings.node_range.as_str(), &settings.pod_range, &settings.service_range];
        let child = processes::start(&settings.name, &name, kind, &configuration, &data.join("node.log"), &ranges)?;
        if let Some(node) = record.node(number) {
            node.process = Process::of(child.id());
        }
        record.save()?;
        started.push((number, child));
    }
    Ok(started)
}

/// The configuration file of a node's process.
fn node_settings(settings: &Settings, number: u8, token: &str, directory: &Path) -> anyhow::Result<serde_json::Map<String, serde_json::Value>> {
    let mut all = serde_json::Map::new();
    if number == 1 {
        for option in &settings.server_options {
            let (key, value) = option.split_once('=').with_context(|| format!("--server-option {option:?} must look like KEY=VALUE"))?;
            all.insert(key.trim_start_matches('-').to_owned(), serde_yaml_ng::from_str(value).unwrap_or_else(|_| value.into()));
        }
    }
    let mut set = |key: &str, value: String| all.insert(key.to_owned(), value.into());
    set("cluster-name", settings.name.clone());
    set("node-name", settings.node_name(number));
    set("node-ip", settings.node_address(number)?.to_string());
    set("data-dir", settings.node_data(number).display().to_string());
    set("run-dir", directory.display().to_string());
    set("namespaces", directory.display().to_string());
    set("cluster-cidr", settings.pod_range.clone());
    set("service-cidr", settings.service_range.clone());
    if number == 1 {
        set("port", super::settings::API_PORT.to_string());
        set("token", format!("{}.{}", settings.token.0, settings.token.1));
    } else {
        set("server", settings.api()?);
        set("token", token.to_owned());
    }
    Ok(all)
}

/// Puts the cluster's context into a kubeconfig, and into the record first.
fn add_context(settings: &Settings, record: &mut Record, path: &Path) -> anyhow::Result<()> {
    let text = ready::admin_kubeconfig(settings)?.to_yaml();
    let entry = record.kubeconfig.get_or_insert_with(|| KubeconfigEntry { path: path.to_owned(), previous: None }).clone();
    record.save()?;
    let previous = kubeconfig::put_in(&entry.path, &text)?;
    if let (Some(previous), Some(kept)) = (previous, &mut record.kubeconfig) {
        kept.previous = Some(previous);
        record.save()?;
    }
    say("kubectl", &format!("has the context knarr-{} in {}", settings.name, entry.path.display()));
    Ok(())
}
