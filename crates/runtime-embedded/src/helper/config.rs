//! From a plan to the OCI configuration that libcontainer reads. Pure, apart from looking at devices.

use std::{collections::BTreeMap, os::unix::fs::MetadataExt, path::Path};

use container_runtime::{Mount, MountPropagation, SeccompProfile};
use serde_json::{Value, json};

use super::{plan::StartPlan, users::Identity};
use crate::{capabilities, images::configuration::RunConfiguration, seccomp};

/// Search path of a container whose image sets none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where programs look for their cgroup.
const CGROUP_PLACE: &str = "/sys/fs/cgroup";

/// Paths hidden from containers. Source: containerd 2, `oci.WithDefaultSpec`, and runc's list for newer kernels.
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
    "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
];

/// Paths that containers may only read.
const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Program and arguments: the pod's words over the image's. Giving a command also drops the image's arguments.
#[must_use]
pub fn arguments(command: &[String], args: &[String], image: &RunConfiguration) -> Vec<String> {
    let (program, rest) = match (command.is_empty(), args.is_empty()) {
        (false, _) => (command, args),
        (true, false) => (image.entrypoint.as_slice(), args),
        (true, true) => (image.entrypoint.as_slice(), image.cmd.as_slice()),
    };
    program.iter().chain(rest).cloned().collect()
}

/// The working directory, always absolute.
#[must_use]
pub fn working_directory(plan: &StartPlan) -> String {
    let written = plan.spec.working_directory.as_deref().filter(|directory| !directory.is_empty()).unwrap_or(&plan.image.working_dir);
    if written.starts_with('/') { written.to_owned() } else { format!("/{written}") }
}

/// The environment: ours, then the image's, then the pod's; a later value takes the place of an earlier one.
#[must_use]
pub fn environment(plan: &StartPlan, home: &str) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        if values.insert(name.to_owned(), value.to_owned()).is_none() {
            order.push(name.to_owned());
        }
    };
    let ours = [Some(DEFAULT_PATH.to_owned()), plan.spec.tty.then(|| "TERM=xterm".to_owned()), Some(format!("HOSTNAME={}", plan.hostname)), Some(format!("HOME={home}"))];
    for variable in ours.into_iter().flatten().chain(plan.image.env.iter().cloned()) {
        let (name, value) = variable.split_once('=').unwrap_or((&variable, ""));
        set(name, value);
    }
    for (name, value) in &plan.spec.environment {
        set(name, value);
    }
    // A program that is found by PATH needs one, whatever the image says.
    if values.get("PATH").is_some_and(String::is_empty) {
        values.insert("PATH".to_owned(), DEFAULT_PATH.trim_start_matches("PATH=").to_owned());
    }
    order.into_iter().filter_map(|name| values.get(&name).map(|value| format!("{name}={value}"))).collect()
}

/// The configuration. `helper` is a path by which this program can be run again inside the new mount namespace.
///
/// # Errors
/// A sentence, where the plan asks for something that cannot be.
pub fn build(plan: &StartPlan, identity: &Identity, root: &Path, out_of_memory_score: Option<i32>, helper: &Path) -> Result<Value, String> {
    let security = &plan.spec.security;
    let capability_names = capabilities::of(security, capabilities::own_bounding_set())?;
    let capability_list: Vec<String> = capability_names.iter().map(|name| format!("CAP_{name}")).collect();
    let mut process = json!({
        "terminal": plan.console.is_some(),
        "user": { "uid": identity.user, "gid": identity.group, "additionalGids": identity.groups },
        "args": arguments(&plan.spec.command, &plan.spec.args, &plan.image),
        "env": environment(plan, &identity.home),
        "cwd": working_directory(plan),
        "capabilities": { "bounding": capability_list, "effective": capability_list, "permitted": capability_list, "inheritable": [], "ambient": [] },
    });
    // `false` is left out: together with a filter, libcontainer takes it for "set, so load the filter late", which fails.
    insert(&mut process, "noNewPrivileges", security.no_new_privileges.then_some(json!(true)));
    insert(&mut process, "oomScoreAdj", out_of_memory_score.map(|score| json!(score)));

    let (devices, device_rules) = devices(plan)?;
    let open = security.privileged || security.unmasked_proc;
    let propagation = strongest_propagation(&plan.spec.mounts);
    let mut linux = json!({
        "cgroupsPath": format!("/{}", plan.cgroup.trim_start_matches('/')),
        "namespaces": namespaces(plan),
        "resources": { "devices": device_rules },
        "maskedPaths": if open { json!([]) } else { json!(MASKED_PATHS) },
        "readonlyPaths": if open { json!([]) } else { json!(READ_ONLY_PATHS) },
        "rootfsPropagation": match propagation {
            MountPropagation::Private => "private",
            _ if plan.users.is_some() => "slave",
            MountPropagation::HostToContainer => "slave",
            MountPropagation::Bidirectional => "shared",
        },
    });
    insert(&mut linux, "devices", (!devices.is_empty()).then(|| json!(devices)));
    if let Some(users) = plan.users {
        let mapping = json!([{ "containerID": 0, "hostID": users.first, "size": users.length }]);
        insert(&mut linux, "uidMappings", Some(mapping.clone()));
        insert(&mut linux, "gidMappings", Some(mapping));
    }
    insert(&mut linux, "seccomp", filter(plan, &capability_names)?);
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": { "path": root, "readonly": security.read_only_root_file_system },
        "mounts": mounts(plan),
        "linux": linux,
    });
    // In a pod with users of its own, each mount was given its propagation before.
    if propagation != MountPropagation::Private && plan.users.is_none() {
        config["hooks"] = json!({ "createContainer": [{
            "path": helper,
            "args": [helper, super::HELPER_ARGUMENT, "propagation", plan.bundle.join("propagation.json")],
            "env": [format!("{}=1", super::plan::HELPER_VARIABLE)],
        }] });
    }
    Ok(config)
}

/// The farthest that any mount reaches.
#[must_use]
pub fn strongest_propagation(mounts: &[Mount]) -> MountPropagation {
    let wanted = |propagation| mounts.iter().any(|mount| mount.propagation == propagation);
    if wanted(MountPropagation::Bidirectional) {
        MountPropagation::Bidirectional
    } else if wanted(MountPropagation::HostToContainer) {
        MountPropagation::HostToContainer
    } else {
        MountPropagation::Private
    }
}

fn insert(object: &mut Value, name: &str, value: Option<Value>) {
    if let (Some(value), Some(object)) = (value, object.as_object_mut()) {
        object.insert(name.to_owned(), value);
    }
}

/// The namespaces that are the container's own. Those of the pod are the ones that this helper lives in already.
fn namespaces(plan: &StartPlan) -> Value {
    let mut namespaces = vec![json!({ "type": "mount" })];
    if let Some(path) = &plan.user_namespace {
        namespaces.push(json!({ "type": "user", "path": path }));
    }
    if let Some(path) = &plan.process_namespace {
        namespaces.push(json!({ "type": "pid", "path": path }));
    } else if !plan.host.pid {
        namespaces.push(json!({ "type": "pid" }));
    }
    // With one hierarchy for all, a container would see everybody's groups in it.
    if plan.cgroup_views.is_none() && !plan.spec.security.privileged {
        namespaces.push(json!({ "type": "cgroup" }));
    }
    json!(namespaces)
}

fn mounts(plan: &StartPlan) -> Vec<Value> {
    let privileged = plan.spec.security.privileged;
    let access = if privileged { "rw" } else { "ro" };
    let shared_memory = match &plan.shared_memory {
        Some(path) => json!({ "destination": "/dev/shm", "type": "bind", "source": path, "options": ["rbind", "nosuid", "noexec", "nodev"] }),
        None => json!({ "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] }),
    };
    let mut standard = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] }),
        json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] }),
        json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", access] }),
        shared_memory,
    ];
    match &plan.cgroup_views {
        None => standard.push(json!({ "destination": CGROUP_PLACE, "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", access] })),
        // libcontainer would mount the old hierarchies writable, whatever it is told.
        Some(views) => {
            standard.push(json!({ "destination": CGROUP_PLACE, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec", "nodev", "mode=755", "size=4k"] }));
            standard.extend(views.iter().map(|(name, directory)| {
                json!({ "destination": format!("{CGROUP_PLACE}/{name}"), "type": "bind", "source": directory, "options": ["bind", "nosuid", "noexec", "nodev", access] })
            }));
        }
    }
    // What the pod mounts at such a place replaces it and what is below; and shallower mounts come first, so that none
    // hides a deeper one.
    let places: Vec<&str> = plan.spec.mounts.iter().map(|mount| mount.container_path.trim_end_matches('/')).filter(|place| !place.is_empty()).collect();
    let replaced = |mount: &Value| mount["destination"].as_str().is_some_and(|destination| places.iter().any(|place| Path::new(destination).starts_with(place) && (*place == destination || destination.starts_with(CGROUP_PLACE))));
    let mut mounts: Vec<Value> = standard.into_iter().filter(|mount| !replaced(mount)).collect();
    let mut own: Vec<&Mount> = plan.spec.mounts.iter().collect();
    own.sort_by_key(|mount| Path::new(&mount.container_path).components().count());
    mounts.extend(own.into_iter().map(one_mount));
    mounts
}

fn one_mount(mount: &Mount) -> Value {
    let access = match (mount.read_only, mount.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    match &mount.host_path {
        Some(source) => json!({ "destination": mount.container_path, "type": "bind", "source": source, "options": ["rbind", access] }),
        None => json!({ "destination": mount.container_path, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777", if mount.read_only { "ro" } else { "rw" }] }),
    }
}

/// Device nodes to make, and the rules that allow them.
fn devices(plan: &StartPlan) -> Result<(Vec<Value>, Vec<Value>), String> {
    let mut nodes = Vec::new();
    let mut rules = vec![json!({ "allow": false, "type": "a", "access": "rwm" })];
    let mut wanted: Vec<(std::path::PathBuf, std::path::PathBuf, String)> =
        plan.spec.devices.iter().map(|device| (device.host_path.clone(), device.container_path.clone(), device.permissions.clone())).collect();
    if plan.spec.security.privileged {
        rules = vec![json!({ "allow": true, "type": "a", "access": "rwm" })];
        all_devices(Path::new("/dev"), &mut wanted);
    }
    for (host, container, permissions) in wanted {
        let metadata = std::fs::metadata(&host).map_err(|error| format!("device {} cannot be used: {error}", host.display()))?;
        let kind = match rustix::fs::FileType::from_raw_mode(metadata.mode()) {
            rustix::fs::FileType::CharacterDevice => "c",
            rustix::fs::FileType::BlockDevice => "b",
            _ => return Err(format!("{} is not a device", host.display())),
        };
        let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        nodes.push(json!({
            "path": container, "type": kind, "major": major, "minor": minor,
            "fileMode": metadata.mode() & 0o7777, "uid": metadata.uid(), "gid": metadata.gid(),
        }));
        if !plan.spec.security.privileged {
            let access = if permissions.is_empty() { "rwm" } else { &permissions };
            rules.push(json!({ "allow": true, "type": kind, "major": major, "minor": minor, "access": access }));
        }
    }
    Ok((nodes, rules))
}

/// Every device below `/dev`, for privileged containers; not those that each container has of its own.
fn all_devices(directory: &Path, found: &mut Vec<(std::path::PathBuf, std::path::PathBuf, String)>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Ok(kind) = entry.file_type() else { continue };
        let own = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console", "tty", "ptmx"].iter().any(|own| name == *own);
        if own && directory == Path::new("/dev") {
            continue;
        }
        if kind.is_dir() {
            all_devices(&path, found);
        } else if std::os::unix::fs::FileTypeExt::is_char_device(&kind) || std::os::unix::fs::FileTypeExt::is_block_device(&kind) {
            found.push((path.clone(), path, "rwm".to_owned()));
        }
    }
}

fn filter(plan: &StartPlan, capability_names: &[&str]) -> Result<Option<Value>, String> {
    if plan.spec.security.privileged {
        return Ok(None);
    }
    match &plan.spec.security.seccomp {
        SeccompProfile::Unconfined => Ok(None),
        SeccompProfile::RuntimeDefault => Ok(Some(seccomp::runtime_default(capability_names))),
        SeccompProfile::Localhost(path) => {
            let text = std::fs::read(path).map_err(|error| format!("cannot load seccomp profile \"{}\": {error}", path.display()))?;
            let profile: Value = serde_json::from_slice(&text).map_err(|error| format!("cannot load seccomp profile \"{}\": {error}", path.display()))?;
            Ok(Some(profile))
        }
    }
}

#[cfg(test)]
mod tests {
    use container_runtime::{ContainerSpec, Device, HostNamespaces, ImageId, ResourceLimits, SecurityContext};

    use super::*;

    fn plan() -> StartPlan {
        StartPlan {
            id: "c1".into(),
            spec: ContainerSpec {
                name: "web".into(),
                attempt: 0,
                image: ImageId("sha256:0".into()),
                command: vec![],
                args: vec![],
                working_directory: None,
                environment: vec![],
                mounts: vec![],
                devices: vec![],
                security: SecurityContext::default(),
                resources: ResourceLimits::default(),
                oom_score_adjust: 0,
                stdin: false,
                stdin_once: false,
                tty: false,
                stop_signal: None,
                processes_of: None,
                annotations: BTreeMap::new(),
                labels: BTreeMap::new(),
            },
            image: RunConfiguration { entrypoint: vec!["/entry".into()], cmd: vec!["arg".into()], env: vec!["A=image".into(), "B=image".into()], ..RunConfiguration::default() },
            hostname: "pod-1".into(),
            host: HostNamespaces::default(),
            users: None,
            user_namespace: None,
            process_namespace: None,
            layers_directory: "/layers".into(),
            layers: vec![],
            upper: "/upper".into(),
            work: "/work".into(),
            bundle: "/bundle".into(),
            shared_memory: Some("/shm".into()),
            cgroup: "knarr/pod/c1".into(),
            cgroup_views: None,
            console: None,
        }
    }

    fn build_it(plan: &StartPlan) -> Value {
        let identity = Identity { user: 0, group: 0, groups: vec![], home: "/root".into() };
        let value = build(plan, &identity, Path::new("/bundle/rootfs"), Some(5), Path::new("/helper")).unwrap();
        // Whatever we write must be what libcontainer understands.
        serde_json::from_value::<libcontainer::oci_spec::runtime::Spec>(value.clone()).unwrap();
        value
    }

    #[test]
    fn the_pods_command_drops_the_images_arguments() {
        let image = plan().image;
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(arguments(&[], &[], &image), words(&["/entry", "arg"]));
        assert_eq!(arguments(&[], &words(&["x"]), &image), words(&["/entry", "x"]));
        assert_eq!(arguments(&words(&["/p"]), &[], &image), words(&["/p"]));
        assert_eq!(arguments(&words(&["/p"]), &words(&["x"]), &image), words(&["/p", "x"]));
    }

    #[test]
    fn later_values_replace_earlier_ones_in_place() {
        let mut plan = plan();
        plan.spec.environment = vec![("B".into(), "pod".into()), ("C".into(), "a=b".into()), ("C".into(), "last".into())];
        assert_eq!(environment(&plan, "/root"), [DEFAULT_PATH, "HOSTNAME=pod-1", "HOME=/root", "A=image", "B=pod", "C=last"]);
        plan.spec.tty = true;
        plan.image.env = vec!["PATH=".into()];
        assert!(environment(&plan, "/").contains(&DEFAULT_PATH.to_owned()));
        assert!(environment(&plan, "/").contains(&"TERM=xterm".to_owned()));
    }

    #[test]
    fn no_new_privileges_is_left_out_unless_it_is_wanted() {
        let mut plan = plan();
        plan.spec.security.seccomp = SeccompProfile::RuntimeDefault;
        assert!(build_it(&plan)["process"].get("noNewPrivileges").is_none());
        plan.spec.security.no_new_privileges = true;
        assert_eq!(build_it(&plan)["process"]["noNewPrivileges"], true);
    }

    #[test]
    fn a_privileged_container_is_open() {
        let mut plan = plan();
        plan.spec.security.privileged = true;
        plan.spec.security.seccomp = SeccompProfile::RuntimeDefault;
        let config = build_it(&plan);
        assert_eq!(config["linux"]["maskedPaths"], json!([]));
        assert_eq!(config["linux"]["resources"]["devices"][0]["allow"], true);
        assert!(config["linux"].get("seccomp").is_none());
        assert!(config["linux"]["devices"].as_array().unwrap().iter().any(|device| device["path"] == "/dev/null"));
    }

    #[test]
    fn a_pods_mount_replaces_a_standard_one_and_deeper_ones_come_later() {
        let mut plan = plan();
        let mount = |path: &str| Mount { container_path: path.into(), host_path: Some("/src".into()), read_only: true, recursive_read_only: false, propagation: MountPropagation::Private };
        plan.spec.mounts = vec![mount("/data/deep/er"), mount("/dev/shm"), mount("/data"), mount("/dev/termination-log")];
        let config = build_it(&plan);
        let places: Vec<&str> = config["mounts"].as_array().unwrap().iter().map(|mount| mount["destination"].as_str().unwrap()).collect();
        assert_eq!(places, ["/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup", "/data", "/dev/shm", "/dev/termination-log", "/data/deep/er"]);
    }

    #[test]
    fn mounts_that_propagate_ask_for_the_hook() {
        let mut plan = plan();
        assert!(build_it(&plan).get("hooks").is_none());
        plan.spec.mounts =
            vec![Mount { container_path: "/a".into(), host_path: Some("/a".into()), read_only: false, recursive_read_only: false, propagation: MountPropagation::Bidirectional }];
        let config = build_it(&plan);
        assert_eq!(config["linux"]["rootfsPropagation"], "shared");
        assert_eq!(config["hooks"]["createContainer"][0]["args"][2], "propagation");
    }

    #[test]
    fn devices_are_allowed_with_their_permissions() {
        let mut plan = plan();
        plan.spec.devices = vec![Device { host_path: "/dev/null".into(), container_path: "/dev/mine".into(), permissions: "r".into() }];
        let config = build_it(&plan);
        assert_eq!(config["linux"]["devices"][0]["path"], "/dev/mine");
        assert_eq!(config["linux"]["resources"]["devices"][1]["access"], "r");
        plan.spec.devices[0].host_path = "/etc/passwd".into();
        let identity = Identity { user: 0, group: 0, groups: vec![], home: "/".into() };
        assert!(build(&plan, &identity, Path::new("/r"), None, Path::new("/h")).unwrap_err().contains("is not a device"));
    }
}
