//! One container as its shim sees it: the pipes or terminal, the log, who is attached, and how it ended.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::event::epoll::{self, EventData, EventFlags};
use shim::Message;

use crate::{
    log_file::{LogFile, Stream},
    process::Ended,
};

/// Bytes that an attached client may lag behind before the container has to wait for it, as upstream's does.
const MAX_LAG_BYTES: usize = 256 * 1024;

/// How long a container waits for a client that reads nothing at all, before it is let go.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A container.
pub struct Container {
    /// Its identifier.
    pub id: String,
    /// Its first process, once the helper said so.
    pub pid: Option<i32>,
    /// When it was started, since 1970.
    pub started_at: Option<Duration>,
    /// How it ended.
    pub ended: Option<End>,
    /// Has a terminal.
    pub terminal: bool,
    /// Its input is closed with the first client that leaves.
    pub stdin_once: bool,
    /// Our ends of its streams. With a terminal, `stdin` and `stdout` are two descriptors of the same.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
    /// Input that the container did not take yet.
    pub unread_input: Vec<u8>,
    /// Its log.
    pub log: LogFile,
    /// Where its exit is recorded.
    pub record: PathBuf,
    /// The file that counts OOM kills.
    pub out_of_memory_file: PathBuf,
    /// The cgroup to empty when the first process ends.
    pub cgroup_to_kill: Option<PathBuf>,
    /// Its output is not read, since a client is too far behind.
    pub paused: bool,
    /// Who sees its output.
    pub clients: Vec<Client>,
    /// What the helper said: the process's user and the like, kept for agents to come.
    pub result: Vec<u8>,
}

/// The end of a container.
#[derive(Debug, Clone)]
pub struct End {
    /// What the kernel said.
    pub ended: Ended,
    /// The OOM killer struck.
    pub out_of_memory: bool,
    /// Why it never ran.
    pub message: String,
}

/// One attached client: the ends of the agent's pipes.
pub struct Client {
    /// The connection that asked.
    pub connection: u64,
    /// Token of its input in the event loop.
    pub input: Option<(u64, OwnedFd)>,
    /// Where output and error go.
    pub sinks: Vec<Sink>,
}

/// One output stream of an attached client.
pub struct Sink {
    /// Token in the event loop.
    pub token: u64,
    /// Which stream.
    pub stream: Stream,
    /// The client's end.
    pub descriptor: OwnedFd,
    /// What it did not take yet.
    pub unsent: Vec<u8>,
    /// When it last took something.
    pub last_taken: Instant,
}

/// What became of a write to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// All is sent.
    Sent,
    /// Some waits until the client reads.
    Waits,
    /// The client is gone.
    Lost,
}

impl Sink {
    /// Sends as much as the client takes now and keeps the rest.
    pub fn send(&mut self, bytes: &[u8]) -> Delivery {
        if self.unsent.is_empty() {
            self.last_taken = Instant::now();
        }
        self.unsent.extend_from_slice(bytes);
        while !self.unsent.is_empty() {
            match rustix::io::write(&self.descriptor, &self.unsent) {
                Ok(count) => {
                    self.unsent.drain(..count.min(self.unsent.len()));
                    self.last_taken = Instant::now();
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Delivery::Waits,
                Err(_) => return Delivery::Lost,
            }
        }
        self.unsent = Vec::new();
        Delivery::Sent
    }

    /// Has the event loop tell when the client takes output again. It may be waiting already: what was left may have been
    /// sent along with something new, before the loop came to say that it could be.
    pub fn wait_in(&self, epoll: &OwnedFd) -> rustix::io::Result<()> {
        match epoll::add(epoll, &self.descriptor, EventData::new_u64(self.token), EventFlags::OUT) {
            Err(rustix::io::Errno::EXIST) => Ok(()),
            result => result,
        }
    }

    /// Whether the container has to wait for it.
    pub fn is_behind(&self) -> bool {
        self.unsent.len() > MAX_LAG_BYTES
    }

    /// Whether a container has waited for it in vain.
    pub fn is_deaf(&mut self) -> bool {
        let is_overdue = |sink: &Self| sink.is_behind() && sink.last_taken.elapsed() > PATIENCE;
        // A slow disk may have held us up ourselves: what the client has read meanwhile counts for it.
        is_overdue(self) && (self.send(&[]) == Delivery::Lost || is_overdue(self))
    }
}

impl Container {
    /// The container as agents are told of it: alone, or as the news of its end.
    pub fn describe(&self, verb: &str) -> Message {
        let mut message = Message::new(verb).with("id", &self.id).with("result", &self.result);
        if let Some(pid) = self.pid {
            message = message.with_number("pid", i64::from(pid));
        }
        if let Some(at) = self.started_at {
            message = message.with_number("started_at", nanoseconds(at));
        }
        if let Some(end) = &self.ended {
            message = message
                .with_number("ended", 1)
                .with_number("code", i64::from(end.ended.code))
                .with_number("signal", i64::from(end.ended.signal))
                .with_number("finished_at", nanoseconds(end.ended.at))
                .with_number("out_of_memory", i64::from(end.out_of_memory))
                .with("message", &end.message);
        }
        message
    }

    /// Writes the exit record: whole or not at all, and on the medium before anybody is told.
    pub fn write_record(&self) -> io::Result<()> {
        write_durably(&self.record, &self.describe("exited").encode())
    }
}

/// Replaces a file as a whole.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let temporary = path.with_extension("new");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

/// A time as it goes over the wire.
pub fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_client_may_fall_behind_again_before_the_loop_comes_to_it() {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&write, true).unwrap();
        let mut sink = Sink { token: 1, stream: Stream::Output, descriptor: write, unsent: Vec::new(), last_taken: Instant::now() };
        for _ in 0..3 {
            assert_eq!(sink.send(&[0; 100_000]), Delivery::Waits);
            sink.wait_in(&epoll).expect("it is still a client");
            let mut taken = 0;
            while taken < 100_000 {
                taken += rustix::io::read(read.as_fd(), &mut vec![0; 100_000 - taken]).unwrap();
                sink.send(&[]);
            }
            assert!(sink.unsent.is_empty());
        }
    }

    #[test]
    fn a_client_that_has_read_while_we_were_held_up_is_not_deaf() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&write, true).unwrap();
        let mut sink = Sink { token: 1, stream: Stream::Output, descriptor: write, unsent: Vec::new(), last_taken: Instant::now() };
        assert_eq!(sink.send(&vec![0; 2 * MAX_LAG_BYTES + 1_000_000]), Delivery::Waits);
        assert!(!sink.is_deaf(), "it was given something just now");
        let Some(long_ago) = Instant::now().checked_sub(2 * PATIENCE) else { return };
        sink.last_taken = long_ago;
        assert!(rustix::io::read(read.as_fd(), &mut vec![0; 65_536]).unwrap() > 0);
        assert!(!sink.is_deaf(), "it has read");
        sink.last_taken = long_ago;
        assert!(sink.is_deaf(), "it has not");
        drop(read);
        sink.last_taken = long_ago;
        assert!(sink.is_deaf(), "it is gone");
    }
}
