//! What went through the interfaces of a network namespace, as the kernel counts it.
//!
//! Source of names and of what is left out: Kubernetes 1.36, `pkg/kubelet/stats/helper.go`, and cAdvisor, `container/libcontainer`.

use serde_json::{Value, json};

/// The interface that speaks for the whole namespace.
const DEFAULT_INTERFACE: &str = "eth0";
/// Interfaces that say nothing of it: of itself with itself, and the ends of other namespaces' links.
const IGNORED: [&str; 4] = ["lo", "veth", "docker", "nerdctl"];

/// Counts of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    name: String,
    received_bytes: u64,
    receive_errors: u64,
    sent_bytes: u64,
    send_errors: u64,
}

/// The counts in the namespace of a process, in the shape of a summary; nothing where it has ended.
pub fn of_process(pid: i32, time: &str) -> Option<Value> {
    of_file(&format!("/proc/{pid}/net/dev"), time)
}

/// The counts in this process's namespace, which is the node's.
pub fn of_node(time: &str) -> Option<Value> {
    of_file("/proc/self/net/dev", time)
}

fn of_file(path: &str, time: &str) -> Option<Value> {
    Some(shown(&parse(&std::fs::read_to_string(path).ok()?), time))
}

/// Reads `/proc/PID/net/dev`, see proc(5); lines that are not of an interface are passed over.
fn parse(text: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        let (name, counts) = line.split_once(':')?;
        let name = name.trim();
        let counts: Vec<u64> = counts.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        // Eight counts of what came, then eight of what went; each time bytes, packets, errors, and others.
        let found = Interface {
            name: name.to_owned(),
            received_bytes: *counts.first()?,
            receive_errors: *counts.get(2)?,
            sent_bytes: *counts.get(8)?,
            send_errors: *counts.get(10)?,
        };
        (!IGNORED.iter().any(|prefix| name.starts_with(prefix))).then_some(found)
    };
    text.lines().filter_map(interface).collect()
}

fn shown(interfaces: &[Interface], time: &str) -> Value {
    let one = |interface: &Interface| {
        json!({ "name": interface.name, "rxBytes": interface.received_bytes, "rxErrors": interface.receive_errors,
            "txBytes": interface.sent_bytes, "txErrors": interface.send_errors })
    };
    // A namespace without the default interface has a summary without its counts, and with an empty name.
    let mut all = interfaces.iter().find(|interface| interface.name == DEFAULT_INTERFACE).map_or_else(|| json!({ "name": "" }), one);
    all["time"] = time.into();
    if !interfaces.is_empty() {
        all["interfaces"] = interfaces.iter().map(one).collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_as_the_kernel_shows_them() {
        let head = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";
        let one = |name: &str, counts: [u64; 4]| Interface {
            name: name.to_owned(),
            received_bytes: counts[0],
            receive_errors: counts[1],
            sent_bytes: counts[2],
            send_errors: counts[3],
        };
        let table: [(&str, &[Interface]); 6] = [
            ("", &[]),
            ("    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n", &[]),
            ("  eth0: 1296 16 3 0 0 0 0 0 840 12 4 0 0 0 0 0\n", &[one("eth0", [1296, 3, 840, 4])]),
            ("ens3:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\nveth12ab: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n", &[one("ens3", [1, 3, 9, 11])]),
            ("eth0: 1 2 3\n", &[]),
            ("eth0: 1 x 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n", &[]),
        ];
        for (lines, expected) in table {
            assert_eq!(parse(&format!("{head}{lines}")), expected, "{lines}");
        }
    }

    #[test]
    fn the_default_interface_speaks_for_all() {
        let text = "ens3: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\neth0: 1296 16 0 0 0 0 0 0 840 12 0 0 0 0 0 0\n";
        let others = json!({ "name": "ens3", "rxBytes": 1, "rxErrors": 3, "txBytes": 9, "txErrors": 11 });
        let default = json!({ "name": "eth0", "rxBytes": 1296, "rxErrors": 0, "txBytes": 840, "txErrors": 0 });
        let mut expected = default.clone();
        (expected["time"], expected["interfaces"]) = ("now".into(), json!([others, default]));
        assert_eq!(shown(&parse(text), "now"), expected);
        assert_eq!(shown(&parse(text)[..1], "now"), json!({ "name": "", "time": "now", "interfaces": [others] }));
        assert_eq!(shown(&[], "now"), json!({ "name": "", "time": "now" }));
    }
}
