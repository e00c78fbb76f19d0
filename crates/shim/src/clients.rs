//! Attached clients: their input to a container, its output to them, and what happens when one is slow or goes away.

use std::{collections::HashMap, os::fd::OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use shim::Message;

use crate::{
    container::{Client, Container, Delivery, Sink},
    log_file::Stream,
    serve::{Shim, Source},
};

impl Shim {
    /// Drops clients that a container has waited for in vain, and lets containers go on that wait for nobody any more.
    pub(crate) fn let_go_of_the_deaf(&mut self) {
        let paused: Vec<String> = self.containers.values().filter(|container| container.paused).map(|container| container.id.clone()).collect();
        for id in paused {
            let clients = self.containers.get_mut(&id).map(|container| container.clients.as_mut_slice()).unwrap_or_default();
            let deaf = clients.iter_mut().filter_map(|client| client.sinks.iter_mut().any(Sink::is_deaf).then_some(client.connection));
            let connections: Vec<u64> = deaf.collect();
            for connection in connections {
                self.drop_connection(connection);
                self.detach(&id, connection, true);
            }
            self.set_pause(&id);
        }
    }

    /// Stops reading a container's output while a client is too far behind, and takes it up again afterwards.
    pub(crate) fn set_pause(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let behind = container.clients.iter().any(|client| client.sinks.iter().any(Sink::is_behind));
        if behind == container.paused {
            return;
        }
        container.paused = behind;
        for (token, source) in &self.sources {
            let end = match source {
                Source::Output(of, Stream::Output) if of == id => &container.stdout,
                Source::Output(of, Stream::Error) if of == id => &container.stderr,
                _ => continue,
            };
            if let Some(end) = end {
                let _ = if behind { epoll::delete(&self.epoll, end) } else { epoll::add(&self.epoll, end, EventData::new_u64(*token), EventFlags::IN) };
            }
        }
    }

    /// Takes an attached client away from its container. One whose container has ended still gets the rest of its output,
    /// unless it is `lost`.
    pub(crate) fn detach(&mut self, container: &str, connection: u64, lost: bool) {
        let Some(found) = self.containers.get_mut(container) else { return };
        let (gone, kept) = std::mem::take(&mut found.clients).into_iter().partition::<Vec<_>, _>(|client| client.connection == connection);
        found.clients = kept;
        for mut client in gone {
            if client.input.is_some() && found.stdin_once {
                found.close_input(&self.epoll, &mut self.sources);
            }
            let (waiting, over) = std::mem::take(&mut client.sinks).into_iter().partition::<Vec<_>, _>(|sink| !lost && found.ended.is_some() && !sink.unsent.is_empty());
            client.sinks = over;
            // The descriptors are shared with the agent, so closing ours would not take them out of the loop.
            let sinks = client.sinks.iter().map(|sink| (sink.token, &sink.descriptor));
            for (token, descriptor) in sinks.chain(client.input.iter().map(|(token, descriptor)| (*token, descriptor))) {
                let _ = epoll::delete(&self.epoll, descriptor);
                self.sources.remove(&token);
            }
            if !waiting.is_empty() {
                found.clients.push(Client { connection, input: None, sinks: waiting });
            }
        }
    }

    /// Closes the clients' ends of a stream that is over, as far as they have taken everything.
    pub(crate) fn end_sinks(&mut self, id: &str, stream: Stream) {
        let Some(container) = self.containers.get_mut(id) else { return };
        for client in &mut container.clients {
            for sink in client.sinks.iter().filter(|sink| sink.stream == stream && sink.unsent.is_empty()) {
                let _ = epoll::delete(&self.epoll, &sink.descriptor);
                self.sources.remove(&sink.token);
            }
            client.sinks.retain(|sink| sink.stream != stream || !sink.unsent.is_empty());
        }
    }

    pub(crate) fn give_output(&mut self, token: u64, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let over = [container.stdout.is_none(), container.stderr.is_none()];
        let mut lost = None;
        for client in &mut container.clients {
            let Some(sink) = client.sinks.iter_mut().find(|sink| sink.token == token) else { continue };
            match sink.send(&[]) {
                Delivery::Sent => {
                    let _ = epoll::delete(&self.epoll, &sink.descriptor);
                    let ended = over[usize::from(sink.stream == Stream::Error)];
                    if ended {
                        self.sources.remove(&token);
                        client.sinks.retain(|sink| sink.token != token);
                    }
                }
                Delivery::Waits => {}
                Delivery::Lost => lost = Some(client.connection),
            }
            break;
        }
        container.clients.retain(|client| !client.sinks.is_empty() || self.connections.contains_key(&client.connection));
        if let Some(connection) = lost {
            self.drop_connection(connection);
            self.detach(id, connection, true);
        }
        self.set_pause(id);
    }

    /// Removes everything of a container.
    pub(crate) fn forget(&mut self, id: &str) {
        let clients: Vec<u64> = self.containers.get(id).into_iter().flat_map(|container| &container.clients).map(|client| client.connection).collect();
        for connection in clients {
            self.detach(id, connection, true);
        }
        let Some(mut container) = self.containers.remove(id) else { return };
        container.close_input(&self.epoll, &mut self.sources);
        self.sources.retain(|_, source| !matches!(source, Source::Output(of, _) if of == id));
    }

    pub(crate) fn attach(&mut self, token: u64, request: &Message, descriptors: Vec<OwnedFd>) {
        let id = request.text("id").unwrap_or("").to_owned();
        if !self.containers.get(&id).is_some_and(|container| container.ended.is_none() && container.pid.is_some()) {
            self.send(token, &Message::new("failed").with("error", "the container is not running"));
            return;
        }
        let is_blocked = input_token(&self.sources, &id).is_some();
        let mut descriptors = descriptors.into_iter();
        let mut client = Client { connection: token, input: None, sinks: Vec::new() };
        for (name, stream) in [("stdin", None), ("stdout", Some(Stream::Output)), ("stderr", Some(Stream::Error))] {
            let Some(descriptor) = request.flag(name).then(|| descriptors.next()).flatten() else { continue };
            if rustix::io::ioctl_fionbio(&descriptor, true).is_err() {
                continue;
            }
            match stream {
                None => {
                    let input = self.token(Source::ClientInput(id.clone()));
                    // While the container takes no input, nobody is read: what was read would only pile up.
                    if is_blocked || epoll::add(&self.epoll, &descriptor, EventData::new_u64(input), EventFlags::IN).is_ok() {
                        client.input = Some((input, descriptor));
                    } else {
                        self.sources.remove(&input);
                    }
                }
                Some(stream) => {
                    let sink = self.token(Source::ClientOutput(id.clone()));
                    client.sinks.push(Sink { token: sink, stream, descriptor, unsent: Vec::new(), last_taken: std::time::Instant::now() });
                }
            }
        }
        if let Some(container) = self.containers.get_mut(&id) {
            container.clients.push(client);
        }
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.attached = Some(id);
        }
        self.send(token, &Message::new("attached"));
    }

    pub(crate) fn take_input(&mut self, token: u64, id: &str, buffer: &mut [u8]) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(client) = container.clients.iter_mut().find(|client| client.input.as_ref().is_some_and(|(input, _)| *input == token)) else { return };
        let Some((_, descriptor)) = &client.input else { return };
        match rustix::io::read(descriptor, &mut *buffer) {
            Ok(count) if count > 0 => {
                if container.stdin.is_some() {
                    container.unread_input.extend_from_slice(buffer.get(..count).unwrap_or_default());
                    self.give_input(id);
                }
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => {
                let _ = epoll::delete(&self.epoll, descriptor);
                client.input = None;
                self.sources.remove(&token);
                if container.stdin_once && container.unread_input.is_empty() {
                    container.close_input(&self.epoll, &mut self.sources);
                }
            }
        }
    }

    /// Hands waiting input to the container. While it takes none, its clients are not read.
    pub(crate) fn give_input(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let paused = input_token(&self.sources, id);
        let Some(stdin) = &container.stdin else { return container.unread_input.clear() };
        let mut blocked = false;
        let mut broken = false;
        while !container.unread_input.is_empty() && !blocked && !broken {
            match rustix::io::write(stdin, &container.unread_input) {
                Ok(count) => drop(container.unread_input.drain(..count.min(container.unread_input.len()))),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => blocked = true,
                Err(_) => broken = true,
            }
        }
        if blocked && paused.is_none() {
            for (_, input) in container.inputs() {
                let _ = epoll::delete(&self.epoll, input);
            }
            // A second descriptor, since the same one may be in the loop for reading (a terminal).
            self.next_token += 1;
            if epoll::add(&self.epoll, stdin, EventData::new_u64(self.next_token), EventFlags::OUT).is_ok() {
                self.sources.insert(self.next_token, Source::Input(id.to_owned()));
            }
        } else if !blocked && paused.is_some() {
            container.unblock_input(&self.epoll, &mut self.sources);
        }
        let last_left = !blocked && container.stdin_once && paused.is_some() && container.inputs().next().is_none();
        if broken || last_left {
            container.close_input(&self.epoll, &mut self.sources);
        } else if !blocked {
            container.unread_input = Vec::new();
        }
    }

    pub(crate) fn resize(&mut self, token: u64, request: &Message) {
        let attached = self.connections.get(&token).and_then(|connection| connection.attached.as_ref());
        let terminal = attached.and_then(|id| self.containers.get(id)).filter(|container| container.terminal).and_then(|container| container.stdout.as_ref());
        let number = |name: &str| request.number(name).and_then(|value| u16::try_from(value).ok()).unwrap_or(0);
        if let Some(terminal) = terminal {
            let size = rustix::termios::Winsize { ws_col: number("columns"), ws_row: number("rows"), ws_xpixel: 0, ws_ypixel: 0 };
            let _ = rustix::termios::tcsetwinsize(terminal, size);
        }
    }
}

impl Container {
    fn inputs(&self) -> impl Iterator<Item = &(u64, OwnedFd)> {
        self.clients.iter().filter_map(|client| client.input.as_ref())
    }

    /// Reads clients again, where the container took no input.
    fn unblock_input(&self, epoll: &OwnedFd, sources: &mut HashMap<u64, Source>) {
        let Some(token) = input_token(sources, &self.id) else { return };
        // A terminal has a second descriptor for output, which would keep this one in the loop.
        let _ = self.stdin.as_ref().map(|stdin| epoll::delete(epoll, stdin));
        sources.remove(&token);
        for (token, input) in self.inputs() {
            let _ = epoll::add(epoll, input, EventData::new_u64(*token), EventFlags::IN);
        }
    }

    /// The container gets no more input.
    pub(crate) fn close_input(&mut self, epoll: &OwnedFd, sources: &mut HashMap<u64, Source>) {
        self.unblock_input(epoll, sources);
        self.unread_input = Vec::new();
        self.stdin = None;
    }
}

/// What stands for a container's input in the event loop, while it takes none.
fn input_token(sources: &HashMap<u64, Source>, id: &str) -> Option<u64> {
    sources.iter().find(|(_, source)| matches!(source, Source::Input(of) if of == id)).map(|(token, _)| *token)
}
