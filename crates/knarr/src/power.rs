//! Being asked to stop: alone, which pods outlive, or with the whole machine, when the node ends its pods in order first.
//!
//! The machine goes down where systemd's login manager says so, whom we have wait for our pods ([`logind`]); where systemd says so while we
//! are asked to stop; and where somebody sends SIGPWR, as init programs do when the power fails; so a machine without systemd needs one
//! `kill -PWR` in its shutdown script.

mod dbus;
mod logind;

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use anyhow::Context;
use node::Node;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What signals ask for.
#[derive(Clone)]
pub struct Signals {
    /// This process is to end.
    pub stop: CancellationToken,
    /// The machine goes down.
    machine_stops: CancellationToken,
}

impl Signals {
    /// Listens to SIGTERM, SIGINT and SIGPWR from now on.
    pub fn listen() -> anyhow::Result<Self> {
        let signals = Self { stop: CancellationToken::new(), machine_stops: CancellationToken::new() };
        for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::from_raw(nix::libc::SIGPWR)] {
            let mut received = signal(kind).context("cannot receive signals")?;
            let signals = signals.clone();
            tokio::spawn(async move {
                while received.recv().await.is_some() {
                    signals.take(kind).await;
                }
            });
        }
        Ok(signals)
    }

    async fn take(&self, kind: SignalKind) {
        let with_machine = kind.as_raw_value() == nix::libc::SIGPWR || tokio::task::spawn_blocking(machine_goes_down).await.unwrap_or(false);
        // Whoever asks again does not want to wait.
        if with_machine && !self.machine_stops.is_cancelled() {
            info!("the machine goes down");
            self.machine_stops.cancel();
        } else {
            info!("stopping; pods go on");
            self.stop.cancel();
        }
    }

    /// Has the node's pods ended before this process ends with the machine.
    pub fn end_pods_first(&self, node: Option<Arc<Node>>) {
        if let Some(needed) = node.as_ref().map(|node| node.shutdown_time()).filter(|time| !time.is_zero()) {
            self.hold_up_shutdown(needed);
        }
        let signals = self.clone();
        tokio::spawn(async move {
            signals.machine_stops.cancelled().await;
            if let Some(node) = node {
                signals.stop.run_until_cancelled(node.shut_down()).await;
            }
            signals.stop.cancel();
        });
    }
}

impl Signals {
    /// Has systemd's login manager tell us of a shutdown, and wait until this process has ended; where there is none, nobody waits.
    fn hold_up_shutdown(&self, needed: Duration) {
        let machine_stops = self.machine_stops.clone();
        // A thread of its own, which ends with the process: it waits for nothing else.
        std::thread::spawn(move || {
            let (bus, settings) = (Path::new(logind::SYSTEM_BUS), Path::new(logind::SETTINGS));
            let mut told = false;
            while bus.exists() {
                let taken = logind::Inhibitor::take(bus, settings, needed).inspect(|_| info!("the machine's shutdown will wait for the pods of this node"));
                match taken.and_then(logind::Inhibitor::until_shutdown) {
                    Ok(lock) => {
                        machine_stops.cancel();
                        // Until the process ends, whose descriptors are closed then.
                        std::mem::forget(lock);
                        return;
                    }
                    Err(problem) if !std::mem::replace(&mut told, true) => {
                        warn!(%problem, "the machine's shutdown does not wait for the pods of this node; trying again every {BUS_RETRY:?}");
                    }
                    Err(_) => {}
                }
                std::thread::sleep(BUS_RETRY);
            }
        });
    }
}

/// The message bus may restart, and nothing tells when it is back. Source: Kubernetes 1.36, `dbusReconnectPeriod`.
const BUS_RETRY: Duration = Duration::from_secs(1);

/// Whether systemd takes the machine down; without systemd nobody knows.
fn machine_goes_down() -> bool {
    if !Path::new("/run/systemd/system").is_dir() {
        return false;
    }
    // Its exit code is not zero then, so the word alone counts.
    Command::new("systemctl").arg("is-system-running").output().is_ok_and(|output| output.stdout.trim_ascii() == b"stopping")
}
