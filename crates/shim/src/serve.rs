//! The shim's one loop: connections of agents, output of containers, results of helpers, ends of processes.
//!
//! Nothing a client does ends the shim: a connection that misbehaves or goes away is dropped, and that is all.

use std::{
    collections::HashMap,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, EventData, EventFlags},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags},
    pipe::PipeFlags,
};
use shim::{Message, PROTOCOL_VERSION, terminals};

use crate::{
    container::{Container, Delivery, End, nanoseconds},
    log_file::{LogFile, Stream},
    process::{self, Ended},
};

/// Bytes read at once. One buffer serves all, so that an idle shim holds nothing.
const READ_BYTES: usize = 32 * 1024;

/// Most reads of what a container printed before it ended: twice what a pipe holds at most (1 MiB, but for the mightiest). More is from
/// somebody who goes on writing, and is taken in turn.
const MAX_LAST_READS: usize = 64;

/// What a token of the event loop stands for.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Signals,
    Listener,
    Connection,
    /// The result pipe of the helper with this key.
    Result(u64),
    /// A terminal is on its way to the socket of the helper with this key.
    Console(u64),
    Output(String, Stream),
    /// The container takes input again.
    Input(String),
    /// Input of an attached client.
    ClientInput(String),
    /// An attached client takes output again.
    ClientOutput(String),
}

/// A connection of an agent.
pub(crate) struct Connection {
    pub(crate) socket: OwnedFd,
    pub(crate) received: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
    pub(crate) watching: bool,
    /// The process that was started by exec over this connection.
    pub(crate) process: Option<i32>,
    /// It is killed where the connection ends first.
    pub(crate) bound: bool,
    /// The container this connection is attached to.
    pub(crate) attached: Option<String>,
}

/// A helper at work.
pub(crate) struct Helper {
    pid: i32,
    connection: u64,
    /// The container that it starts, or none for exec.
    container: Option<String>,
    result: Option<OwnedFd>,
    bytes: Vec<u8>,
    ended: Option<Ended>,
    diagnosis: PathBuf,
    console: Option<OwnedFd>,
}

/// The shim.
pub struct Shim {
    pub(crate) epoll: OwnedFd,
    pub(crate) listener: OwnedFd,
    pub(crate) signals: OwnedFd,
    pub(crate) sources: HashMap<u64, Source>,
    pub(crate) next_token: u64,
    pub(crate) connections: HashMap<u64, Connection>,
    pub(crate) containers: HashMap<String, Container>,
    pub(crate) helpers: HashMap<u64, Helper>,
    /// Processes that ended before their helper told us whose they were.
    pub(crate) early: HashMap<i32, Ended>,
    /// Pid 1 of the pod, where it shares a process namespace.
    pub(crate) first_process: Option<i32>,
    pub(crate) over: bool,
}

impl Shim {
    /// Takes over a listening socket and a descriptor on which SIGCHLD can be read.
    pub fn new(listener: OwnedFd, signals: OwnedFd, first_process: Option<i32>) -> io::Result<Self> {
        let mut shim = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            listener,
            signals,
            sources: HashMap::new(),
            next_token: 0,
            connections: HashMap::new(),
            containers: HashMap::new(),
            helpers: HashMap::new(),
            early: HashMap::new(),
            first_process,
            over: false,
        };
        let token = shim.token(Source::Listener);
        epoll::add(&shim.epoll, &shim.listener, EventData::new_u64(token), EventFlags::IN)?;
        let token = shim.token(Source::Signals);
        epoll::add(&shim.epoll, &shim.signals, EventData::new_u64(token), EventFlags::IN)?;
        Ok(shim)
    }

    /// Serves until an agent says `end`, or the pod's pid 1 is gone.
    pub fn run(mut self) {
        let mut buffer = vec![0; READ_BYTES];
        while !self.over {
            // Only while a container waits for a client is there anything that time alone decides.
            let waiting = self.containers.values().any(|container| container.paused);
            let second = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            if self.round(waiting.then_some(&second), &mut buffer).is_err() {
                return;
            }
            if waiting {
                self.let_go_of_the_deaf();
            }
        }
    }

    /// Waits for events and deals with them; gives how many there were.
    fn round(&mut self, limit: Option<&rustix::event::Timespec>, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        let mut events = Vec::with_capacity(32);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), limit) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let count = events.len();
        for event in events {
            let token = event.data.u64();
            // An earlier event of this round may have taken the source away.
            let Some(source) = self.sources.get(&token).cloned() else { continue };
            match source {
                Source::Signals => self.take_signals(buffer),
                Source::Listener => self.accept(),
                Source::Connection => self.take_requests(token),
                Source::Result(helper) => self.take_result(token, helper, buffer),
                Source::Console(helper) => self.take_terminal(token, helper),
                Source::Output(container, stream) => self.take_output(&container, stream, buffer),
                Source::Input(container) => self.give_input(&container),
                Source::ClientInput(container) => self.take_input(token, &container, buffer),
                Source::ClientOutput(container) => self.give_output(token, &container),
            }
        }
        Ok(count)
    }

    pub(crate) fn token(&mut self, source: Source) -> u64 {
        self.next_token += 1;
        self.sources.insert(self.next_token, source);
        self.next_token
    }

    fn accept(&mut self) {
        while let Ok(socket) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            let token = self.token(Source::Connection);
            if epoll::add(&self.epoll, &socket, EventData::new_u64(token), EventFlags::IN | EventFlags::RDHUP).is_err() {
                self.sources.remove(&token);
                continue;
            }
            let connection = Connection { socket, received: Vec::new(), descriptors: Vec::new(), watching: false, process: None, bound: false, attached: None };
            self.connections.insert(token, connection);
        }
    }

    pub(crate) fn drop_connection(&mut self, token: u64) {
        self.sources.remove(&token);
        let Some(connection) = self.connections.remove(&token) else { return };
        if let Some(process) = connection.process.filter(|_| connection.bound) {
            // Where it has ended meanwhile, it was not reaped yet, or we would not know it any more.
            let _ = process::signal(process, libc::SIGKILL);
        }
        if let Some(container) = connection.attached {
            self.detach(&container, token, false);
            self.set_pause(&container);
        }
    }

    fn take_requests(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let mut alive = true;
        loop {
            let mut bytes = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            match rustix::net::recvmsg(&connection.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => {
                    for part in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                            connection.descriptors.extend(descriptors);
                        }
                    }
                    if message.bytes == 0 {
                        alive = false;
                        break;
                    }
                    connection.received.extend_from_slice(bytes.get(..message.bytes).unwrap_or_default());
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => {
                    alive = false;
                    break;
                }
            }
        }
        loop {
            let Some(connection) = self.connections.get_mut(&token) else { return };
            match Message::take_from(&mut connection.received) {
                Ok(Some(request)) => {
                    let descriptors = std::mem::take(&mut connection.descriptors);
                    self.answer(token, &request, descriptors);
                }
                Ok(None) => break,
                Err(_) => {
                    alive = false;
                    break;
                }
            }
        }
        if !alive {
            self.drop_connection(token);
        }
    }

    /// Sends a message. A client that does not take it at once is gone or broken, and is dropped.
    pub(crate) fn send(&mut self, token: u64, message: &Message) {
        let Some(connection) = self.connections.get(&token) else { return };
        let bytes = message.encode();
        let sent = rustix::net::send(&connection.socket, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        if sent != Ok(bytes.len()) {
            self.drop_connection(token);
        }
    }

    fn answer(&mut self, token: u64, request: &Message, descriptors: Vec<OwnedFd>) {
        let id = request.text("id").unwrap_or("");
        match request.verb() {
            "hello" => {
                let pid = i64::from(rustix::process::getpid().as_raw_nonzero().get());
                self.send(token, &Message::new("hello").with_number("version", PROTOCOL_VERSION).with_number("pid", pid));
            }
            "watch" => self.watch(token),
            "start" => {
                let is_new = !self.containers.contains_key(id);
                if let Err(problem) = self.start(token, request) {
                    if is_new {
                        self.forget(id);
                    }
                    self.send(token, &Message::new("failed").with("error", problem));
                }
            }
            "exec" => {
                if let Err(problem) = self.exec(token, request, &descriptors) {
                    self.send(token, &Message::new("failed").with("error", problem));
                }
            }
            "attach" => self.attach(token, request, descriptors),
            "resize" => self.resize(token, request),
            "kill" => {
                let pid = match self.containers.get(id) {
                    Some(container) if container.ended.is_none() => container.pid,
                    Some(_) => None,
                    None => self.connections.get(&token).and_then(|connection| connection.process),
                };
                let signal = request.number("signal").and_then(|signal| i32::try_from(signal).ok()).unwrap_or(libc::SIGKILL);
                let killed = pid.is_some_and(|pid| process::signal(pid, signal).is_ok());
                self.send(token, &Message::new(if killed { "killed" } else { "gone" }));
            }
            "reopen" => {
                let found = self.containers.get_mut(id).map(|container| container.log.reopen()).is_some();
                self.send(token, &Message::new(if found { "done" } else { "gone" }));
            }
            "forget" => {
                let found = self.containers.get(id).is_some_and(|container| container.ended.is_some());
                if found {
                    self.forget(id);
                }
                self.send(token, &Message::new(if found { "done" } else { "gone" }));
            }
            "end" => {
                self.send(token, &Message::new("done"));
                self.over = true;
            }
            other => {
                let problem = format!("this shim does not know \"{other}\"");
                self.send(token, &Message::new("failed").with("error", problem));
            }
        }
    }

    fn watch(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        connection.watching = true;
        let containers: Vec<Message> = self.containers.values().map(|container| container.describe("container")).collect();
        for message in containers.into_iter().chain([Message::new("watching")]) {
            self.send(token, &message);
        }
    }

    fn start(&mut self, token: u64, request: &Message) -> Result<(), String> {
        let id = request.text("id").unwrap_or("").to_owned();
        if id.is_empty() || self.containers.contains_key(&id) {
            return Err(format!("container \"{id}\" was started before"));
        }
        let terminal = request.flag("terminal");
        let path = |name: &str| request.text(name).map(PathBuf::from);
        let doing = |what: &'static str| move |error: rustix::io::Errno| format!("could not {what}: {error}");
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").map_err(|error| format!("could not open /dev/null: {error}"))?;
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(doing("make a pipe"));
        let (mut ours, mut theirs): ([Option<OwnedFd>; 3], [Option<OwnedFd>; 3]) = Default::default();
        if !terminal {
            if request.flag("stdin") {
                let (read, write) = pipe()?;
                (ours[0], theirs[0]) = (Some(write), Some(read));
            }
            for index in [1, 2] {
                let (read, write) = pipe()?;
                (ours[index], theirs[index]) = (Some(read), Some(write));
            }
            for end in ours.iter().flatten() {
                rustix::io::ioctl_fionbio(end, true).map_err(doing("prepare a pipe"))?;
            }
        }
        let console = match path("console") {
            Some(path) if terminal => Some(terminals::listen(&path, terminals::ONE_HELPER).map_err(|error| format!("could not listen for the terminal: {error}"))?),
            _ => None,
        };
        let [stdin, stdout, stderr] = ours;
        let container = Container {
            id: id.clone(),
            pid: None,
            started_at: None,
            ended: None,
            terminal,
            stdin_once: request.flag("stdin_once"),
            stdin,
            stdout,
            stderr,
            unread_input: Vec::new(),
            log: path("log").map_or_else(LogFile::none, LogFile::open),
            record: path("record").unwrap_or_else(|| PathBuf::from(format!("{id}.exit"))),
            out_of_memory_file: path("out_of_memory_file").unwrap_or_default(),
            cgroup_to_kill: path("cgroup_to_kill"),
            paused: false,
            clients: Vec::new(),
            result: Vec::new(),
        };
        self.containers.insert(id.clone(), container);
        let streams = theirs.each_ref().map(|end| end.as_ref().map_or(null.as_fd(), AsFd::as_fd));
        let key = self.launch(token, Some(id.clone()), request, streams)?;
        self.read_output(&id);
        if let Some(console) = console {
            let console_token = self.token(Source::Console(key));
            epoll::add(&self.epoll, &console, EventData::new_u64(console_token), EventFlags::IN).map_err(doing("wait for the terminal"))?;
            if let Some(helper) = self.helpers.get_mut(&key) {
                helper.console = Some(console);
            }
        }
        Ok(())
    }

    /// Puts a container's streams into the event loop.
    fn read_output(&mut self, id: &str) {
        for stream in [Stream::Output, Stream::Error] {
            let token = self.token(Source::Output(id.to_owned(), stream));
            let end = self.containers.get(id).and_then(|container| match stream {
                Stream::Output => container.stdout.as_ref(),
                Stream::Error => container.stderr.as_ref(),
            });
            let added = end.map(|end| epoll::add(&self.epoll, end, EventData::new_u64(token), EventFlags::IN));
            if added != Some(Ok(())) {
                self.sources.remove(&token);
            }
        }
    }

    fn launch(&mut self, connection: u64, container: Option<String>, request: &Message, streams: [BorrowedFd<'_>; 3]) -> Result<u64, String> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| format!("could not make a pipe: {error}"))?;
        rustix::io::ioctl_fionbio(&read, true).map_err(|error| format!("could not prepare a pipe: {error}"))?;
        let diagnosis = PathBuf::from(request.text("diagnosis").unwrap_or("/dev/null"));
        let pid = process::start_helper(request, streams, write.as_fd(), &diagnosis).map_err(|error| format!("could not run the helper: {error}"))?;
        let pid = i32::try_from(pid).unwrap_or(0);
        self.next_token += 1;
        let key = self.next_token;
        let token = self.token(Source::Result(key));
        epoll::add(&self.epoll, &read, EventData::new_u64(token), EventFlags::IN).map_err(|error| format!("could not wait for the helper: {error}"))?;
        let helper = Helper { pid, connection, container, result: Some(read), bytes: Vec::new(), ended: None, diagnosis, console: None };
        self.helpers.insert(key, helper);
        Ok(key)
    }

    fn exec(&mut self, token: u64, request: &Message, descriptors: &[OwnedFd]) -> Result<(), String> {
        let [stdin, stdout, stderr] = descriptors else { return Err("exec needs three descriptors".to_owned()) };
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.bound = request.flag("bound");
        }
        self.launch(token, None, request, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
        Ok(())
    }

    fn take_result(&mut self, token: u64, key: u64, buffer: &mut [u8]) {
        let Some(helper) = self.helpers.get_mut(&key) else { return };
        let Some(pipe) = &helper.result else { return };
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) | Err(rustix::io::Errno::PIPE) => {
                helper.result = None;
                self.sources.remove(&token);
                self.finish_helper(key);
            }
            Ok(count) if helper.bytes.len() < shim::MAX_MESSAGE_BYTES => helper.bytes.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Ok(_) | Err(_) => {}
        }
    }

    /// Accepts the terminal that a helper made inside its container.
    fn take_terminal(&mut self, token: u64, key: u64) {
        let Some(helper) = self.helpers.get_mut(&key) else { return };
        let terminal = helper.console.take().and_then(|listener| terminals::receive(&listener).ok());
        let id = helper.container.clone();
        self.sources.remove(&token);
        let (Some(id), Some(terminal)) = (id, terminal) else { return };
        let Some(container) = self.containers.get_mut(&id) else { return };
        container.stdin = terminal.try_clone().ok();
        container.stdout = Some(terminal);
        self.read_output(&id);
    }

    /// Draws the conclusion once a helper has both spoken and ended.
    fn finish_helper(&mut self, key: u64) {
        let done = self.helpers.get(&key).is_some_and(|helper| helper.result.is_none() && helper.ended.is_some());
        if !done {
            return;
        }
        let Some(helper) = self.helpers.remove(&key) else { return };
        if helper.console.is_some() {
            self.sources.retain(|_, source| !matches!(source, Source::Console(other) if *other == key));
        }
        let mut bytes = helper.bytes;
        let answer = Message::take_from(&mut bytes).ok().flatten();
        let pid = answer.as_ref().and_then(|answer| answer.number("pid")).and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1);
        let error = answer.as_ref().and_then(|answer| answer.text("error")).map(str::to_owned);
        let early = pid.and_then(|pid| self.early.remove(&pid));
        if self.helpers.is_empty() {
            self.early.clear();
        }
        let problem = match (pid, error) {
            (Some(_), None) => None,
            (_, Some(error)) => Some(error),
            (None, None) => Some(last_words(&helper.diagnosis, helper.ended)),
        };
        let result = answer.map(|answer| answer.encode()).unwrap_or_default();
        let now = crate::timestamp::now();
        let reply = match (&problem, pid) {
            (None, Some(pid)) => Message::new("started")
                .with_number("pid", i64::from(pid))
                .with_number("started_at", nanoseconds(now))
                .with("result", &result),
            (problem, _) => Message::new("failed").with("error", problem.as_deref().unwrap_or("")).with("result", &result),
        };
        let Some(id) = helper.container else {
            match (pid, problem, self.connections.get_mut(&helper.connection)) {
                (Some(pid), None, Some(connection)) => {
                    connection.process = Some(pid);
                    self.send(helper.connection, &reply);
                    if let Some(ended) = early {
                        self.finish_process(helper.connection, ended);
                    }
                }
                // Whoever asked has left before it began: nobody would ever stop it.
                (Some(pid), None, None) if early.is_none() => {
                    let _ = process::signal(pid, libc::SIGKILL);
                }
                _ => self.send(helper.connection, &reply),
            }
            return;
        };
        if let Some(container) = self.containers.get_mut(&id) {
            container.result = result;
            container.pid = pid.filter(|_| problem.is_none());
        }
        match problem {
            None => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.started_at = Some(now);
                }
                self.send(helper.connection, &reply);
                if let Some(ended) = early {
                    self.finish_container(&id, ended, String::new());
                }
            }
            Some(problem) => {
                let ended = Ended { code: 128, signal: 0, at: crate::timestamp::now() };
                self.finish_container(&id, ended, problem);
                self.send(helper.connection, &reply);
            }
        }
    }

    fn take_signals(&mut self, buffer: &mut [u8]) {
        // What is read does not matter: one signal may stand for many ends.
        while rustix::io::read(&self.signals, &mut *buffer).is_ok_and(|count| count > 0) {}
        while let Some((pid, ended)) = process::reap() {
            self.take_end(pid, ended);
        }
    }

    fn take_end(&mut self, pid: i32, ended: Ended) {
        if self.first_process == Some(pid) {
            // The kernel killed everything in the pod with its pid 1; without it nothing new can start.
            self.over = true;
        } else if let Some((key, helper)) = self.helpers.iter_mut().find(|(_, helper)| helper.pid == pid) {
            helper.ended = Some(ended);
            let key = *key;
            self.finish_helper(key);
        } else if let Some(id) = self.containers.values().find(|container| container.pid == Some(pid) && container.ended.is_none()).map(|container| container.id.clone()) {
            self.finish_container(&id, ended, String::new());
        } else if let Some(token) = self.connections.iter().find(|(_, connection)| connection.process == Some(pid)).map(|(token, _)| *token) {
            self.finish_process(token, ended);
        } else if !self.helpers.is_empty() {
            self.early.insert(pid, ended);
        }
    }

    fn finish_process(&mut self, connection: u64, ended: Ended) {
        if let Some(found) = self.connections.get_mut(&connection) {
            found.process = None;
        }
        let message = Message::new("exited").with_number("code", i64::from(ended.code)).with_number("signal", i64::from(ended.signal));
        self.send(connection, &message);
    }

    fn finish_container(&mut self, id: &str, ended: Ended, message: String) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Some(cgroup) = &container.cgroup_to_kill {
            process::kill_cgroup(cgroup);
        }
        // The counter also counts when only a child was killed and the container went on or ended well.
        let out_of_memory = ended.code != 0 && process::out_of_memory_kills(&container.out_of_memory_file) > 0;
        container.ended = Some(End { ended, out_of_memory, message });
        // What it printed before it ended is part of its log.
        let mut buffer = vec![0; READ_BYTES];
        for stream in [Stream::Output, Stream::Error] {
            let _ = (0..MAX_LAST_READS).find(|_| !self.read_some(id, stream, &mut buffer));
        }
        let Some(container) = self.containers.get_mut(id) else { return };
        container.log.finish();
        container.close_input(&self.epoll, &mut self.sources);
        // Where the record cannot be written, agents still hear it from us.
        drop(container.write_record());
        let news = container.describe("exited");
        let attached: Vec<u64> = container.clients.iter().map(|client| client.connection).collect();
        let watching: Vec<u64> = self.connections.iter().filter(|(_, connection)| connection.watching).map(|(token, _)| *token).collect();
        for token in watching.into_iter().chain(attached) {
            self.send(token, &news);
        }
    }

    fn take_output(&mut self, id: &str, stream: Stream, buffer: &mut [u8]) {
        self.read_some(id, stream, buffer);
        self.set_pause(id);
    }

    /// Moves one buffer of output to log and clients. Gives whether there may be more.
    fn read_some(&mut self, id: &str, stream: Stream, buffer: &mut [u8]) -> bool {
        let Some(container) = self.containers.get_mut(id) else { return false };
        let end = match stream {
            Stream::Output => &mut container.stdout,
            Stream::Error => &mut container.stderr,
        };
        let Some(descriptor) = end.as_ref() else { return false };
        let count = match rustix::io::read(descriptor, &mut *buffer) {
            Ok(count) if count > 0 => count,
            Err(rustix::io::Errno::AGAIN) => return false,
            Err(rustix::io::Errno::INTR) => return true,
            // A terminal whose other side closed gives EIO.
            Ok(_) | Err(_) => {
                // A terminal has a second descriptor for input, which would keep it in the loop.
                let _ = epoll::delete(&self.epoll, descriptor);
                *end = None;
                self.sources.retain(|_, source| !matches!(source, Source::Output(container, of) if container == id && *of == stream));
                self.end_sinks(id, stream);
                return false;
            }
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        container.log.take(stream, bytes);
        let mut lost = Vec::new();
        for client in &mut container.clients {
            for sink in client.sinks.iter_mut().filter(|sink| sink.stream == stream) {
                let delivery = sink.send(bytes);
                if delivery == Delivery::Lost || (delivery == Delivery::Waits && sink.wait_in(&self.epoll).is_err()) {
                    lost.push(client.connection);
                }
            }
        }
        for connection in lost {
            self.drop_connection(connection);
            self.detach(id, connection, true);
        }
        true
    }
}

/// What a helper printed before it died without a result.
fn last_words(diagnosis: &std::path::Path, ended: Option<Ended>) -> String {
    let text = std::fs::read_to_string(diagnosis).unwrap_or_default();
    let tail: String = text.chars().rev().take(1000).collect::<Vec<_>>().into_iter().rev().collect();
    let code = ended.map_or(-1, |ended| ended.code);
    format!("the helper ended with code {code} and without a result: {}", tail.trim())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const NO_TIME: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };

    /// A shim to which nobody connects and no child ends; and what keeps it so.
    fn shim() -> (Shim, [OwnedFd; 2]) {
        let ((listener, one), (signals, two)) = (rustix::pipe::pipe().unwrap(), rustix::pipe::pipe().unwrap());
        rustix::io::ioctl_fionbio(&signals, true).unwrap();
        (Shim::new(listener, signals, None).unwrap(), [one, two])
    }

    fn connect(shim: &mut Shim) -> (u64, OwnedFd) {
        let (ours, theirs) = rustix::net::socketpair(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::io::ioctl_fionbio(&ours, true).unwrap();
        let token = shim.token(Source::Connection);
        shim.connections.insert(token, Connection { socket: ours, received: Vec::new(), descriptors: Vec::new(), watching: false, process: None, bound: false, attached: None });
        (token, theirs)
    }

    fn container(directory: &Path, id: &str, pid: i32) -> Container {
        Container {
            id: id.to_owned(),
            pid: Some(pid),
            started_at: None,
            ended: None,
            terminal: false,
            stdin_once: false,
            stdin: None,
            stdout: None,
            stderr: None,
            unread_input: Vec::new(),
            log: LogFile::open(directory.join(format!("{id}.log"))),
            record: directory.join(format!("{id}.exit")),
            out_of_memory_file: PathBuf::new(),
            cgroup_to_kill: None,
            paused: false,
            clients: Vec::new(),
            result: Vec::new(),
        }
    }

    /// Attaches a client that has input; gives its connection and where it writes.
    fn attach_input(shim: &mut Shim, id: &str) -> (u64, OwnedFd, OwnedFd) {
        let (token, socket) = connect(shim);
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&write, true).unwrap();
        shim.attach(token, &Message::new("attach").with("id", id).with_number("stdin", 1), vec![read]);
        (token, write, socket)
    }

    /// Writes until nobody takes more; gives how much was taken.
    fn fill(shim: &mut Shim, input: &OwnedFd, most: usize) -> usize {
        let (mut buffer, mut written) = (vec![0; READ_BYTES], 0);
        while written < most {
            match rustix::io::write(input, &[b'x'; 4096]) {
                Ok(count) => written += count,
                Err(_) if shim.round(Some(&NO_TIME), &mut buffer).unwrap() == 0 => break,
                Err(_) => {}
            }
        }
        while shim.round(Some(&NO_TIME), &mut buffer).unwrap() > 0 {}
        written
    }

    #[test]
    fn a_process_with_the_number_of_a_container_that_ended_is_not_that_container() {
        let directory = tempfile::tempdir().unwrap();
        let (mut shim, _kept) = shim();
        let ended = |code| Ended { code, signal: 0, at: std::time::Duration::ZERO };
        shim.containers.insert("done".to_owned(), container(directory.path(), "done", 4711));
        shim.take_end(4711, ended(0));
        let (connection, socket) = connect(&mut shim);
        shim.connections.get_mut(&connection).unwrap().process = Some(4711);
        shim.take_end(4711, ended(7));
        assert_eq!(shim.containers["done"].ended.as_ref().unwrap().ended.code, 0, "it ended once");
        let mut heard = vec![0; 4096];
        let count = rustix::net::recv(&socket, &mut *heard, RecvFlags::DONTWAIT).expect("the command's end is told").1;
        heard.truncate(count);
        let message = Message::take_from(&mut heard).unwrap().unwrap();
        assert_eq!((message.verb(), message.number("code")), ("exited", Some(7)));
    }

    #[test]
    fn a_command_ends_with_the_connection_that_asked_for_it_where_that_was_said() {
        use std::os::unix::process::ExitStatusExt;
        let (mut shim, _kept) = shim();
        let sleeper = || std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let (mut bound, mut free, mut late) = (sleeper(), sleeper(), sleeper());
        for (child, is_bound) in [(&bound, true), (&free, false)] {
            let (connection, _socket) = connect(&mut shim);
            let known = shim.connections.get_mut(&connection).unwrap();
            (known.process, known.bound) = (i32::try_from(child.id()).ok(), is_bound);
            shim.drop_connection(connection);
        }
        assert_eq!(bound.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(free.try_wait().unwrap().is_none(), "a user's command goes on");
        free.kill().unwrap();
        free.wait().unwrap();
        // Its helper had not answered when the connection ended.
        let bytes = Message::new("done").with_number("pid", i64::from(late.id())).encode();
        let ended = Some(Ended { code: 0, signal: 0, at: std::time::Duration::ZERO });
        shim.helpers.insert(1, Helper { pid: 0, connection: 4711, container: None, result: None, bytes, ended, diagnosis: PathBuf::new(), console: None });
        shim.finish_helper(1);
        assert_eq!(late.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn a_second_start_leaves_the_first_container_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (mut shim, _kept) = shim();
        shim.containers.insert("web".to_owned(), container(directory.path(), "web", 4711));
        let (connection, _socket) = connect(&mut shim);
        shim.answer(connection, &Message::new("start").with("id", "web"), Vec::new());
        assert_eq!(shim.containers.get("web").and_then(|container| container.pid), Some(4711));
    }

    #[test]
    fn a_client_that_comes_while_the_container_takes_no_input_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let (mut shim, _kept) = shim();
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&write, true).unwrap();
        shim.containers.insert("web".to_owned(), Container { stdin: Some(write), ..container(directory.path(), "web", 4711) });
        let most = 10 << 20;
        let (_, first, _one) = attach_input(&mut shim, "web");
        assert!(fill(&mut shim, &first, most) < most);
        let waiting = shim.containers["web"].unread_input.len();
        let (_, second, _two) = attach_input(&mut shim, "web");
        assert!(fill(&mut shim, &second, most) < most, "the client's own pipe is full");
        assert_eq!(shim.containers["web"].unread_input.len(), waiting);
        // Both are read when the container is.
        let (mut taken, mut buffer) = (0, vec![0; READ_BYTES]);
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        loop {
            match rustix::io::read(&read, &mut *buffer) {
                Ok(count) => taken += count,
                Err(_) if shim.round(Some(&NO_TIME), &mut vec![0; READ_BYTES]).unwrap() == 0 => break,
                Err(_) => {}
            }
        }
        assert!(taken > 3 * 65_536, "{taken}");
    }

    #[test]
    fn a_terminal_whose_client_left_in_the_middle_of_its_input_does_not_keep_the_shim_busy() {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let directory = tempfile::tempdir().unwrap();
        let (mut shim, _kept) = shim();
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let inside = rustix::fs::open(&name, rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK, rustix::fs::Mode::empty()).unwrap();
        let mut modes = rustix::termios::tcgetattr(&inside).unwrap();
        modes.make_raw();
        rustix::termios::tcsetattr(&inside, rustix::termios::OptionalActions::Now, &modes).unwrap();
        rustix::io::ioctl_fionbio(&terminal, true).unwrap();
        let stdin = Some(terminal.try_clone().unwrap());
        shim.containers.insert("web".to_owned(), Container { terminal: true, stdin_once: true, stdin, stdout: Some(terminal), ..container(directory.path(), "web", 4711) });
        let (client, input, _socket) = attach_input(&mut shim, "web");
        let most = 10 << 20;
        assert!(fill(&mut shim, &input, most) < most);
        shim.drop_connection(client);
        let mut buffer = vec![0; READ_BYTES];
        // The container reads on: now its terminal could be written to.
        while rustix::io::read(&inside, &mut *buffer).is_ok_and(|count| count > 0) {
            shim.round(Some(&NO_TIME), &mut buffer).unwrap();
        }
        assert_eq!(shim.round(Some(&NO_TIME), &mut buffer).unwrap(), 0, "nothing is left to do");
    }

    #[test]
    fn who_goes_on_writing_for_a_container_that_has_ended_does_not_hold_the_shim_up() {
        let directory = tempfile::tempdir().unwrap();
        let (mut shim, _kept) = shim();
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        let log = LogFile::none();
        shim.containers.insert("web".to_owned(), Container { stdout: Some(read), log, ..container(directory.path(), "web", 4711) });
        shim.read_output("web");
        // What another container was handed through a socket, for example.
        let writer = std::thread::spawn(move || while rustix::io::write(&write, &[b'x'; 65_536]).is_ok() {});
        shim.take_end(4711, Ended { code: 0, signal: 0, at: std::time::Duration::ZERO });
        assert!(shim.round(None, &mut vec![0; READ_BYTES]).unwrap() > 0, "it is still read");
        shim.forget("web");
        writer.join().unwrap();
    }

    #[test]
    fn nothing_is_left_of_a_container_that_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let (mut shim, _kept) = shim();
        let before = shim.sources.len();
        let (stdin, stdout) = (rustix::pipe::pipe().unwrap(), rustix::pipe::pipe().unwrap());
        rustix::io::ioctl_fionbio(&stdin.1, true).unwrap();
        shim.containers.insert("web".to_owned(), Container { stdin: Some(stdin.1), stdout: Some(stdout.0), ..container(directory.path(), "web", 4711) });
        shim.read_output("web");
        let (client, input, _socket) = attach_input(&mut shim, "web");
        let (read, write) = rustix::pipe::pipe().unwrap();
        shim.attach(client, &Message::new("attach").with("id", "web").with_number("stdout", 1), vec![write]);
        fill(&mut shim, &input, 10 << 20);
        let ended = Ended { code: 0, signal: 0, at: std::time::Duration::ZERO };
        drop(stdout.1);
        shim.take_end(4711, ended);
        shim.answer(client, &Message::new("forget").with("id", "web"), Vec::new());
        shim.drop_connection(client);
        assert_eq!(shim.sources.len(), before, "{:?}", shim.sources);
        drop(read);
    }
}
