//! One netlink socket: sends requests, collects the answers, turns refusals into errors that say what was being done.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::{
    errno::Errno,
    sys::socket::{
        self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
        sockopt::{RcvBufForce, SndBufForce},
    },
};

use crate::message::{self, Message, attributes};

const RECEIVE_BYTES: usize = 256 * 1024;
/// The receive buffer of the kernel: room for the acknowledgements of a large batch.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// Why a request over netlink failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused.
    #[error("could not {doing}: {}{}", errno.desc(), if explanation.is_empty() { String::new() } else { format!(" ({explanation})") })]
    Refused {
        /// What was asked for.
        doing: String,
        /// The kernel's answer.
        errno: Errno,
        /// Its words, where it gave some.
        explanation: String,
    },
    /// The socket itself failed.
    #[error("could not {doing}: the netlink socket failed: {}", errno.desc())]
    Socket {
        /// What was asked for.
        doing: String,
        /// The system's answer.
        errno: Errno,
    },
}

impl NetlinkError {
    /// The error number behind it.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Refused { errno, .. } | Self::Socket { errno, .. } => *errno,
        }
    }

    /// Whether what was to be made is there already.
    pub fn already_exists(&self) -> bool {
        self.errno() == Errno::EEXIST
    }
}

/// What the socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetlinkProtocol {
    /// Links, addresses, routes.
    Route,
    /// nftables and connection tracking.
    Netfilter,
}

/// One message of an answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its kind.
    pub kind: u16,
    /// The family's header and the attributes.
    pub payload: Vec<u8>,
}

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open(protocol: NetlinkProtocol) -> Result<Self, NetlinkError> {
        let failed = |errno| NetlinkError::Socket { doing: "open a netlink socket".to_owned(), errno };
        let protocol = match protocol {
            NetlinkProtocol::Route => SockProtocol::NetlinkRoute,
            NetlinkProtocol::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let descriptor =
            socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(failed)?;
        // Without the right to force a size the kernel's default must do, which only very large batches outgrow.
        let _ = socket::setsockopt(&descriptor, RcvBufForce, &QUEUE_BYTES);
        let on: libc::c_int = 1;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            // SAFETY: the option's value is a live `c_int` and its size is given; a refusal only costs explanations.
            unsafe {
                libc::setsockopt(
                    descriptor.as_raw_fd(),
                    libc::SOL_NETLINK,
                    option,
                    (&raw const on).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                );
            }
        }
        Ok(Self { descriptor, sequence: 0 })
    }

    /// Opens a socket that hears what changes (the groups of the protocol, numbered from one), in the calling thread's
    /// network namespace. It never blocks.
    pub fn listen(protocol: NetlinkProtocol, group: u32) -> Result<Self, NetlinkError> {
        let failed = |errno| NetlinkError::Socket { doing: "listen on a netlink socket".to_owned(), errno };
        let socket = Self::open(protocol)?;
        let groups = 1_u32.checked_shl(group.saturating_sub(1)).unwrap_or(0);
        socket::bind(socket.descriptor.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(failed)?;
        Ok(socket)
    }

    /// The messages that have arrived since the last time; `None` where there were too many to keep them all.
    pub fn heard(&mut self) -> Result<Option<Vec<Answer>>, NetlinkError> {
        let doing = || "hear about changes".to_owned();
        let mut answers = Vec::new();
        let mut complete = true;
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            match self.receive(&mut buffer, MsgFlags::MSG_DONTWAIT, &doing) {
                Ok(received) => answers.extend(
                    message::messages(received)
                        .map(|message| Answer { kind: message.kind, payload: message.payload.to_vec() }),
                ),
                Err(error) if error.errno() == Errno::EAGAIN => return Ok(complete.then_some(answers)),
                Err(error) if error.errno() == Errno::ENOBUFS => complete = false,
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends one request with `NLM_F_REQUEST` and the flags it has, and collects the answer up to its
    /// acknowledgement, its error, or the end of a dump. `doing` completes "could not …".
    pub fn request(&mut self, message: Message, doing: &dyn Fn() -> String) -> Result<Vec<Answer>, NetlinkError> {
        let sequence = self.next_sequence();
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        self.send(&message.with_flags(flags).finish(sequence), doing)?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let received = self.receive(&mut buffer, MsgFlags::empty(), doing)?;
            for message in message::messages(received) {
                if message.sequence != sequence {
                    continue;
                }
                match i32::from(message.kind) {
                    libc::NLMSG_ERROR => {
                        refusal(&message, doing)?;
                        return Ok(answers);
                    }
                    libc::NLMSG_DONE => return Ok(answers),
                    libc::NLMSG_NOOP => {}
                    _ => answers.push(Answer { kind: message.kind, payload: message.payload.to_vec() }),
                }
            }
        }
    }

    /// Sends messages as one batch, which the kernel takes as a whole or not at all (netfilter's transactions). The
    /// first and the last are the brackets `begin` and `end`; `describe` names the n-th message in an error.
    pub fn batch(
        &mut self,
        begin: Message,
        messages: Vec<Message>,
        end: Message,
        describe: &dyn Fn(usize) -> String,
    ) -> Result<(), NetlinkError> {
        if messages.is_empty() {
            return Ok(());
        }
        let first = self.next_sequence();
        let count = messages.len();
        let mut bytes = begin.finish(first);
        for (index, message) in messages.into_iter().enumerate() {
            let message =
                if index + 1 == count { message.with_flags(libc::NLM_F_ACK as u16) } else { message };
            let sequence = self.next_sequence();
            bytes.extend(message.finish(sequence));
        }
        let last = self.sequence;
        let end_sequence = self.next_sequence();
        bytes.extend(end.finish(end_sequence));
        let whole = || format!("send a transaction of {count} changes");
        if bytes.len() > 64 * 1024 {
            // The whole batch is one datagram and must fit into the send buffer.
            let _ = socket::setsockopt(&self.descriptor, SndBufForce, &(bytes.len() * 2));
        }
        self.send(&bytes, &whole)?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut failure = None;
        loop {
            // The kernel has finished with the batch when the send returns, so the answers are here already, and an
            // empty queue means that there is none.
            let received = match self.receive(&mut buffer, MsgFlags::MSG_DONTWAIT, &whole) {
                Ok(received) => received,
                Err(NetlinkError::Socket { errno: Errno::EAGAIN, .. }) => break,
                Err(error) => {
                    failure.get_or_insert(error);
                    break;
                }
            };
            for message in message::messages(received) {
                let offset = message.sequence.wrapping_sub(first);
                if i32::from(message.kind) != libc::NLMSG_ERROR || offset > last.wrapping_sub(first) + 1 {
                    continue;
                }
                let doing = || match (offset as usize).checked_sub(1) {
                    Some(index) if index < count => describe(index),
                    _ => whole(),
                };
                if let Err(error) = refusal(&message, &doing) {
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8], doing: &dyn Fn() -> String) -> Result<(), NetlinkError> {
        loop {
            match socket::send(self.descriptor.as_raw_fd(), bytes, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(NetlinkError::Socket { doing: doing(), errno }),
            }
        }
    }

    fn receive<'a>(
        &self,
        buffer: &'a mut [u8],
        flags: MsgFlags,
        doing: &dyn Fn() -> String,
    ) -> Result<&'a [u8], NetlinkError> {
        loop {
            match socket::recv(self.descriptor.as_raw_fd(), buffer, flags) {
                Ok(length) => return Ok(buffer.get(..length).unwrap_or_default()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(NetlinkError::Socket { doing: doing(), errno }),
            }
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

/// Reads an `NLMSG_ERROR`: number zero is an acknowledgement.
fn refusal(message: &message::Received<'_>, doing: &dyn Fn() -> String) -> Result<(), NetlinkError> {
    /// `NLM_F_ACK_TLVS`: attributes follow.
    const EXPLAINED: u16 = 0x200;
    /// `NLM_F_CAPPED`: the request's own payload is not repeated.
    const CAPPED: u16 = 0x100;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let number = message::number(message.payload).unwrap_or_default() as i32;
    if number == 0 {
        return Ok(());
    }
    let mut explanation = String::new();
    if message.flags & EXPLAINED != 0 {
        let request = message.payload.get(4..8).and_then(message::number).unwrap_or_default() as usize;
        let skip = if message.flags & CAPPED != 0 { message::HEADER_BYTES } else { request.next_multiple_of(4) };
        let rest = message.payload.get(4 + skip..).unwrap_or_default();
        if let Some(found) = attributes(rest).find(NLMSGERR_ATTR_MSG) {
            explanation = message::text(found);
        }
    }
    Err(NetlinkError::Refused { doing: doing(), errno: Errno::from_raw(-number), explanation })
}
