//! Holding up the machine's shutdown until this node's pods have ended, and hearing of it before anything else stops: an inhibitor lock of
//! systemd's login manager.
//!
//! Source: KEP-2000 and Kubernetes 1.36, `pkg/kubelet/nodeshutdown/systemd`; systemd's documentation "Inhibitor Locks".

use std::{io, os::fd::OwnedFd, path::Path, time::Duration};

use super::dbus::{Bus, Peer, Value};

/// Where the system's message bus is.
pub const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// Where settings of the login manager are.
pub const SETTINGS: &str = "/etc/systemd/logind.conf.d";

const MANAGER: &str = "org.freedesktop.login1.Manager";
const LOGIN: Peer<'_> = Peer { name: "org.freedesktop.login1", path: "/org/freedesktop/login1" };
const SYSTEMD: Peer<'_> = Peer { name: "org.freedesktop.systemd1", path: "/org/freedesktop/systemd1" };
const SIGNALS: &str = "type='signal',interface='org.freedesktop.login1.Manager',member='PrepareForShutdown',path='/org/freedesktop/login1'";

/// The login manager reads its settings when it gets round to it, and does not tell; it is asked this often.
const ASK_AGAIN: Duration = Duration::from_millis(100);
const TRIES: usize = 20;

/// Shutdown waits for us.
#[derive(Debug)]
pub struct Inhibitor {
    bus: Bus,
    lock: OwnedFd,
}

impl Inhibitor {
    /// Has shutdown wait for `needed`, which the login manager may have to be set to.
    ///
    /// # Errors
    /// There is no bus or no login manager on it, or it does not wait that long.
    pub fn take(socket: &Path, settings: &Path, needed: Duration) -> io::Result<Self> {
        let mut bus = Bus::connect(socket)?;
        // Before the lock, so that no shutdown is missed.
        bus.subscribe(SIGNALS)?;
        allow(&mut bus, settings, needed)?;
        let lock = inhibit(&mut bus)?;
        Ok(Self { bus, lock })
    }

    /// Waits until the machine goes down; it waits in turn as long as what is returned is held.
    ///
    /// # Errors
    /// The bus is gone.
    pub fn until_shutdown(mut self) -> io::Result<OwnedFd> {
        loop {
            let message = self.bus.receive()?;
            if message.is_signal(MANAGER, "PrepareForShutdown") && message.flag() == Some(true) {
                return Ok(self.lock);
            }
        }
    }
}

fn inhibit(bus: &mut Bus) -> io::Result<OwnedFd> {
    let arguments = [Value::Text("shutdown"), Value::Text("knarr"), Value::Text("pods of this node need time to end"), Value::Text("delay")];
    let mut answer = bus.call(LOGIN, MANAGER, "Inhibit", &arguments)?;
    answer.descriptors.pop().ok_or_else(|| io::Error::other("the login manager gave no lock"))
}

fn longest_wait(bus: &mut Bus) -> io::Result<Duration> {
    let arguments = [Value::Text(MANAGER), Value::Text("InhibitDelayMaxUSec")];
    let answer = bus.call(LOGIN, "org.freedesktop.DBus.Properties", "Get", &arguments)?;
    answer.any_long().map(Duration::from_micros).ok_or_else(|| io::Error::other("the login manager does not say how long it waits"))
}

/// Has the login manager wait longer where it does not wait as long as is needed.
fn allow(bus: &mut Bus, settings: &Path, needed: Duration) -> io::Result<()> {
    if longest_wait(bus)? >= needed {
        return Ok(());
    }
    let seconds = needed.as_secs() + u64::from(needed.subsec_nanos() > 0);
    std::fs::create_dir_all(settings)?;
    let text = format!("# Written by knarr: pods of this node may take that long to end when the machine is shut down.\n[Login]\nInhibitDelayMaxSec={seconds}\n");
    std::fs::write(settings.join("99-knarr.conf"), text)?;
    bus.call(SYSTEMD, "org.freedesktop.systemd1.Manager", "KillUnit", &[Value::Text("systemd-logind.service"), Value::Text("all"), Value::Number(nix::libc::SIGHUP)])?;
    for _ in 0..TRIES {
        if longest_wait(bus)? >= needed {
            return Ok(());
        }
        std::thread::sleep(ASK_AGAIN);
    }
    let waits = longest_wait(bus)?;
    Err(io::Error::other(format!("the login manager waits for {waits:?} only when the machine is shut down, and {needed:?} are needed; a later file than 99-knarr.conf may say so")))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        os::fd::AsFd,
        process::{Child, Command, Stdio},
        sync::mpsc,
    };

    use super::*;

    /// A message bus of the test's own: the real daemon.
    struct Daemon {
        process: Child,
        directory: tempfile::TempDir,
    }

    impl Daemon {
        fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("bus");
            let configuration = directory.path().join("bus.conf");
            let rules = "<policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/></policy>";
            std::fs::write(&configuration, format!("<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>{rules}</busconfig>", socket.display())).unwrap();
            let mut process = Command::new("dbus-daemon")
                .args(["--nofork", "--print-address=1"])
                .arg(format!("--config-file={}", configuration.display()))
                .stdout(Stdio::piped())
                .spawn()
                .expect("dbus-daemon, of Debian's package of that name");
            // It says its address when it listens.
            let mut said = [0];
            process.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
            Self { process, directory }
        }

        fn socket(&self) -> std::path::PathBuf {
            self.directory.path().join("bus")
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    /// Plays both of systemd's services: waits `waits` at most, and longer once its settings say so. Tells which calls came, and shuts the
    /// machine down when it is told to.
    fn play_systemd(socket: &Path, settings: &Path, waits: Duration, calls: mpsc::Sender<String>, pipe: std::io::PipeWriter) {
        let mut bus = Bus::connect(socket).unwrap();
        bus.own(LOGIN.name).unwrap();
        bus.own(SYSTEMD.name).unwrap();
        calls.send("ready".to_owned()).unwrap();
        let (mut waits, mut pipe) = (waits, Some(pipe));
        while let Ok(call) = bus.receive() {
            if call.interface == "org.freedesktop.DBus" {
                continue;
            }
            match call.member.as_str() {
                "Get" => bus.answer(&call, &[Value::AnyLong(u64::try_from(waits.as_micros()).unwrap())], None).unwrap(),
                "KillUnit" => {
                    let text = std::fs::read_to_string(settings.join("99-knarr.conf")).unwrap();
                    let seconds = text.lines().find_map(|line| line.strip_prefix("InhibitDelayMaxSec=")).unwrap();
                    waits = Duration::from_secs(seconds.parse().unwrap());
                    bus.answer(&call, &[], None).unwrap();
                }
                "Inhibit" => {
                    bus.answer(&call, &[Value::Descriptor(0)], Some(pipe.as_ref().unwrap().as_fd())).unwrap();
                    // The other side has the only end now.
                    pipe = None;
                    calls.send(format!("Inhibit {}", call.text().unwrap())).unwrap();
                    // Of another kind first, and one that is taken back.
                    bus.signal(LOGIN.path, MANAGER, "PrepareForSleep", &[Value::Flag(true)]).unwrap();
                    bus.signal(LOGIN.path, MANAGER, "PrepareForShutdown", &[Value::Flag(false)]).unwrap();
                    bus.signal(LOGIN.path, MANAGER, "PrepareForShutdown", &[Value::Flag(true)]).unwrap();
                    continue;
                }
                other => panic!("nobody calls {other}"),
            }
            calls.send(call.member.clone()).unwrap();
        }
    }

    #[track_caller]
    fn check(waits: Duration, expected: &[&str]) {
        let daemon = Daemon::start();
        let settings = daemon.directory.path().join("logind.conf.d");
        let (calls, called) = mpsc::channel();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let player = std::thread::spawn({
            let (socket, settings) = (daemon.socket(), settings.clone());
            move || play_systemd(&socket, &settings, waits, calls, writer)
        });
        assert_eq!(called.recv().unwrap(), "ready");
        let lock = Inhibitor::take(&daemon.socket(), &settings, Duration::from_secs(30)).unwrap().until_shutdown().unwrap();
        // The pipe is open as long as the lock is held, and no longer.
        rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::NONBLOCK).unwrap();
        assert_eq!(reader.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        drop(daemon);
        player.join().unwrap();
        assert_eq!(called.try_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn shutdown_waits_as_long_as_the_lock_is_held() {
        check(Duration::from_secs(60), &["Get", "Inhibit shutdown"]);
    }

    #[test]
    fn a_login_manager_that_does_not_wait_long_enough_is_set_to() {
        check(Duration::from_secs(5), &["Get", "KillUnit", "Get", "Inhibit shutdown"]);
    }

    #[test]
    fn without_a_login_manager_it_says_so() {
        let daemon = Daemon::start();
        let problem = Inhibitor::take(&daemon.socket(), daemon.directory.path(), Duration::from_secs(1)).unwrap_err().to_string();
        assert!(problem.contains("org.freedesktop.DBus.Error.ServiceUnknown"), "{problem}");
    }
}
