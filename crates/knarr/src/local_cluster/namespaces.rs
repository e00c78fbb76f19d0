//! A node's namespaces: network and mounts are pinned, so that a node that died is started again among the same links and mounts;
//! the host name's is made anew by each process.

use std::{
    fs::{self, File},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::mpsc,
};

use anyhow::{Context, bail};
use netlink::NetworkNamespace;
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

/// A node's network namespace.
pub fn network_pin(directory: &Path) -> PathBuf {
    directory.join("network-namespace")
}

/// A node's mount namespace.
pub fn mount_pin(directory: &Path) -> PathBuf {
    directory.join("mount-namespace")
}

/// Whether something is mounted on a file: a pin that an `up` was cut off from making is an empty file.
fn is_pinned(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| rustix::fs::fstatfs(&file).is_ok_and(|status| status.f_type == NAMESPACE_FILES))
}

/// `NSFS_MAGIC` of `linux/magic.h`.
const NAMESPACE_FILES: rustix::fs::FsWord = 0x6e73_6673;

/// Makes the network namespace of a node, where it is not there.
pub fn ensure_network(directory: &Path) -> anyhow::Result<NetworkNamespace> {
    let pin = network_pin(directory);
    if is_pinned(&pin) {
        return Ok(NetworkNamespace::open(&pin)?);
    }
    NetworkNamespace::create_pinned(&pin).context("cannot make a network namespace: does this kernel have CONFIG_NET_NS, and may you use it here?")
}

/// Makes the mount namespace of a node, where it is not there. Mounts of the host arrive in it, none of its own goes back; pods may
/// share mounts with it. Its `resolv.conf` names the node's own DNS server, since the host's may name an address of the host's loopback.
pub fn ensure_mounts(directory: &Path, dns: &[IpAddr]) -> anyhow::Result<()> {
    let pin = mount_pin(directory);
    if is_pinned(&pin) {
        return Ok(());
    }
    File::create(&pin).with_context(|| format!("cannot make {}", pin.display()))?;
    let resolver = directory.join("resolv.conf");
    let of_host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    fs::write(&resolver, resolver_text(&of_host, dns)).with_context(|| format!("cannot write {}", resolver.display()))?;
    let mut outcome = pin_new_mounts(&pin, &resolver, None)?;
    // Some kernels (6.18 is one) number namespaces for each processor apart, and refuse to pin one in a mount namespace of a higher
    // number: on the processor where ours was made, a new one has a higher number.
    for processor in 0..=last_processor() {
        if outcome != Err(Errno::EINVAL) {
            break;
        }
        outcome = pin_new_mounts(&pin, &resolver, Some(processor))?;
    }
    outcome.context("cannot pin a mount namespace")
}

/// The number of the last processor that this machine may have.
fn last_processor() -> usize {
    fs::read_to_string("/sys/devices/system/cpu/possible").ok().and_then(|text| text.trim().rsplit(['-', ',']).next()?.parse().ok()).unwrap_or(0)
}

/// Makes new mounts, on a certain processor if need be, and pins them. What comes back second is what the kernel says to the pinning.
fn pin_new_mounts(pin: &Path, resolver: &Path, processor: Option<usize>) -> anyhow::Result<Result<(), Errno>> {
    let (made, thread_made) = mpsc::channel::<anyhow::Result<i32>>();
    let (pinned, thread_pinned) = mpsc::channel::<()>();
    let resolver = resolver.to_owned();
    let thread = std::thread::spawn(move || {
        if let Some(processor) = processor {
            let mut set = nix::sched::CpuSet::new();
            let _ = set.set(processor).and_then(|()| nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set));
        }
        let _ = made.send(new_mounts(&resolver).map(|()| nix::unistd::gettid().as_raw()));
        // The namespace ends with this thread unless it is pinned by then.
        let _ = thread_pinned.recv();
    });
    let outcome = thread_made.recv().context("the thread that makes a mount namespace ended")?.map(|thread| {
        let made = format!("/proc/self/task/{thread}/ns/mnt");
        mount(Some(made.as_str()), pin, None::<&str>, MsFlags::MS_BIND, None::<&str>)
    });
    drop(pinned);
    if thread.join().is_err() {
        bail!("the thread that makes a mount namespace panicked");
    }
    outcome
}

/// Moves the calling thread into new mounts.
fn new_mounts(resolver: &Path) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace: does this kernel allow it here?")?;
    let propagate = |flags: MsFlags| mount(None::<&str>, "/", None::<&str>, flags | MsFlags::MS_REC, None::<&str>);
    propagate(MsFlags::MS_SLAVE).and_then(|()| propagate(MsFlags::MS_SHARED)).context("cannot set apart the mounts of a node")?;
    match fs::canonicalize("/etc/resolv.conf") {
        Ok(place) => mount(Some(resolver), &place, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("cannot mount a node's resolv.conf"),
        Err(_) => Ok(()),
    }
}

/// The host's resolver configuration with other servers.
fn resolver_text(of_host: &str, dns: &[IpAddr]) -> String {
    let mut text: String = dns.iter().map(|address| format!("nameserver {address}\n")).collect();
    for line in of_host.lines().filter(|line| matches!(line.split_whitespace().next(), Some("search" | "domain" | "options"))) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// What a node keeps of the host after it has entered its own namespaces.
pub struct HostSide {
    /// The host's network, for questions to its DNS servers.
    pub network: NetworkNamespace,
    /// Its root directory.
    pub root: File,
}

impl HostSide {
    /// The host's resolver configuration, however its file is replaced.
    pub fn resolv_conf(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/self/fd/{}/etc/resolv.conf", self.root.as_raw_fd()))
    }
}

/// Moves this process, which must not have threads yet, into the namespaces pinned in a directory, and names the host after the node.
/// It ends together with its parent, the node's keeper.
pub fn enter(directory: &Path, node: &str) -> anyhow::Result<HostSide> {
    let host = HostSide { network: NetworkNamespace::current()?, root: File::open("/").context("cannot open the root directory")? };
    let open = |path: PathBuf| File::open(&path).with_context(|| format!("cannot open {}: was this node made by `knarr up`?", path.display()));
    let (network, mounts) = (open(network_pin(directory))?, open(mount_pin(directory))?);
    setns(network, CloneFlags::CLONE_NEWNET).context("cannot enter the node's network namespace")?;
    setns(mounts, CloneFlags::CLONE_NEWNS).context("cannot enter the node's mount namespace")?;
    unshare(CloneFlags::CLONE_NEWUTS).context("cannot make a namespace for the host name")?;
    nix::unistd::sethostname(node).context("cannot set the host name")?;
    // The keeper waits for its signals with all of them blocked, and a child inherits that.
    nix::sys::signal::SigSet::all().thread_unblock().context("cannot receive signals")?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM)).context("cannot bind this process to its keeper")?;
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_resolver_asks_its_own_server_and_searches_as_the_host_does() {
        let host = "# made by somebody\nnameserver 127.0.0.53\nsearch example.org\noptions edns0 trust-ad\n";
        let dns = ["10.96.0.10".parse().unwrap()];
        assert_eq!(resolver_text(host, &dns), "nameserver 10.96.0.10\nsearch example.org\noptions edns0 trust-ad\n");
    }
}
