//! Sockets by path, and the terminal that a helper sends over one: the shim takes those of containers so, the agent those of commands.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags, SocketType},
};

/// Connections that may wait at a socket for one terminal.
pub const ONE_HELPER: i32 = 1;

/// Connections that may wait at a shim's own socket.
pub const MANY_AGENTS: i32 = 64;

/// How long is waited for a helper that has sent its terminal already.
const LIMIT: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Binds a listening socket, which does not block, to a path that may be longer than a socket's address. What was there before is removed.
///
/// # Errors
/// What the kernel says.
pub fn listen(path: &Path, waiting: i32) -> io::Result<OwnedFd> {
    // By way of its directory, whose name in /proc is short.
    let directory = File::open(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    match std::fs::remove_file(path) {
        Err(problem) if problem.kind() != io::ErrorKind::NotFound => return Err(problem),
        _ => {}
    }
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(&short)?)?;
    rustix::net::listen(&socket, waiting)?;
    Ok(socket)
}

/// Takes the descriptor that a helper has sent, and makes it one that does not block. To be called when it said so, or when the socket can be read: then nothing here waits
/// noticeably, and a helper that sends nothing after all is given up.
///
/// # Errors
/// What the kernel says; also where nobody connects, or nothing is sent, within five seconds.
pub fn receive(listener: &OwnedFd) -> io::Result<OwnedFd> {
    wait_for(listener)?;
    let socket = rustix::net::accept_with(listener, SocketFlags::CLOEXEC)?;
    wait_for(&socket)?;
    let mut bytes = [0; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let terminal = control.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let terminal = terminal.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    // Whoever has it waits for many things at once.
    rustix::io::ioctl_fionbio(&terminal, true)?;
    Ok(terminal)
}

fn wait_for(socket: &OwnedFd) -> io::Result<()> {
    loop {
        match rustix::event::poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&LIMIT)) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(problem) => return Err(problem.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::IoSlice, os::fd::AsFd};

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

    use super::*;

    #[test]
    fn what_is_sent_to_a_path_of_any_length_is_received_and_a_socket_left_there_is_no_hindrance() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("x".repeat(100));
        std::fs::create_dir(&long).unwrap();
        let path = long.join("exec.sock");
        drop(listen(&path, ONE_HELPER).unwrap());
        let listener = listen(&path, ONE_HELPER).unwrap();
        let inside = File::open(&long).unwrap();
        let near = PathBuf::from(format!("/proc/self/fd/{}/exec.sock", inside.as_raw_fd()));
        let sender = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::connect(&sender, &SocketAddrUnix::new(&near).unwrap()).unwrap();
        let sent = [inside.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&sent)));
        rustix::net::sendmsg(&sender, &[IoSlice::new(b"terminal")], &mut control, SendFlags::empty()).unwrap();
        let received = receive(&listener).unwrap();
        assert!(rustix::fs::fcntl_getfl(&received).unwrap().contains(rustix::fs::OFlags::NONBLOCK), "who reads it must not wait");
        assert_eq!(rustix::fs::fstat(&received).unwrap().st_ino, rustix::fs::fstat(&inside).unwrap().st_ino);
    }

    #[test]
    fn who_connects_and_sends_no_descriptor_is_no_terminal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exec.sock");
        let listener = listen(&path, ONE_HELPER).unwrap();
        let sender = std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(sender);
        assert_eq!(receive(&listener).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
