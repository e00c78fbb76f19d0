//! As much of D-Bus as it takes to ask systemd's login manager something and to hear from it: method calls with plain arguments, their
//! answers with descriptors, and signals. A library for all of it would be several times the size of this program's other clients.
//!
//! Source: the D-Bus specification 0.42, "Message Protocol" and "Authentication Protocol".

use std::{
    io::{self, Write},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// The message bus itself.
const BUS: Peer<'_> = Peer { name: "org.freedesktop.DBus", path: "/org/freedesktop/DBus" };
/// How long an answer may take, as in the reference implementation.
const PATIENCE: Duration = Duration::from_secs(25);
/// A longer message is not for us.
const LONGEST: usize = 1 << 20;

const CALL: u8 = 1;
const ANSWER: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// An object of somebody on the bus.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    /// The name it is called by, empty for everybody.
    pub name: &'a str,
    /// The object.
    pub path: &'a str,
}

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "some are said to us only, and by us in tests, which play the other side"))]
pub enum Value<'a> {
    /// `s`
    Text(&'a str),
    /// `i`
    Number(i32),
    /// `u`
    Count(u32),
    /// `b`
    Flag(bool),
    /// `h`: the number of a descriptor that is sent along.
    Descriptor(u32),
    /// `v` of `t`
    AnyLong(u64),
}

impl Value<'_> {
    fn signature(&self) -> &'static str {
        match self {
            Self::Text(_) => "s",
            Self::Number(_) => "i",
            Self::Count(_) => "u",
            Self::Flag(_) => "b",
            Self::Descriptor(_) => "h",
            Self::AnyLong(_) => "v",
        }
    }
}

/// A message that came.
#[derive(Debug, Default)]
pub struct Message {
    kind: u8,
    /// What an answer names; only tests answer.
    #[cfg(test)]
    serial: u32,
    reply_serial: u32,
    /// Who sent it.
    pub sender: String,
    /// Of a call or a signal: the interface.
    pub interface: String,
    /// Of a call or a signal: its name.
    pub member: String,
    error: String,
    signature: String,
    body: Vec<u8>,
    /// Descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

impl Message {
    /// The first string it says.
    pub fn text(&self) -> Option<String> {
        if !self.signature.starts_with('s') {
            return None;
        }
        Reader { bytes: &self.body, position: 0 }.text()
    }

    /// The one truth value it says.
    pub fn flag(&self) -> Option<bool> {
        if self.signature != "b" {
            return None;
        }
        Reader { bytes: &self.body, position: 0 }.count().map(|value| value != 0)
    }

    /// The one number of 64 bits it says, in a variant.
    pub fn any_long(&self) -> Option<u64> {
        if self.signature != "v" {
            return None;
        }
        let mut reader = Reader { bytes: &self.body, position: 0 };
        if reader.signature()? != "t" {
            return None;
        }
        reader.align(8);
        reader.take(8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
    }

    /// Whether it is this signal.
    pub fn is_signal(&self, interface: &str, member: &str) -> bool {
        self.kind == SIGNAL && self.interface == interface && self.member == member
    }
}

/// A connection to a message bus.
#[derive(Debug)]
pub struct Bus {
    stream: UnixStream,
    serial: u32,
    /// Signals that came while an answer was awaited.
    early: std::collections::VecDeque<Message>,
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the message bus does not speak D-Bus: {what}"))
}

impl Bus {
    /// Connects to the bus behind a socket and says who we are.
    ///
    /// # Errors
    /// There is no bus, or it does not let us in.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut bus = Self { stream, serial: 0, early: std::collections::VecDeque::new() };
        let user: String = rustix::process::getuid().as_raw().to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
        bus.stream.write_all(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
        bus.expect_line("OK ")?;
        bus.stream.write_all(b"NEGOTIATE_UNIX_FD\r\n")?;
        bus.expect_line("AGREE_UNIX_FD")?;
        bus.stream.write_all(b"BEGIN\r\n")?;
        bus.call(BUS, "org.freedesktop.DBus", "Hello", &[])?;
        Ok(bus)
    }

    fn expect_line(&mut self, start: &str) -> io::Result<()> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.read(&mut byte, &mut Vec::new())?;
            line.push(byte[0]);
            if line.len() > 1024 {
                return Err(malformed("an endless line"));
            }
        }
        let line = String::from_utf8_lossy(&line);
        if line.starts_with(start) { Ok(()) } else { Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("the message bus says {:?}", line.trim_end()))) }
    }

    /// From now on, signals that a rule describes come here.
    ///
    /// # Errors
    /// The bus does not take the rule.
    pub fn subscribe(&mut self, rule: &str) -> io::Result<()> {
        self.call(BUS, "org.freedesktop.DBus", "AddMatch", &[Value::Text(rule)]).map(drop)
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// The bus is gone, nobody answers, or the answer is an error.
    pub fn call(&mut self, peer: Peer<'_>, interface: &str, member: &str, arguments: &[Value<'_>]) -> io::Result<Message> {
        let serial = self.send(CALL, &[(1, 'o', peer.path), (2, 's', interface), (3, 's', member), (6, 's', peer.name)], None, arguments)?;
        loop {
            let message = self.read_message()?;
            match message.kind {
                ANSWER if message.reply_serial == serial => return Ok(message),
                ERROR if message.reply_serial == serial => {
                    let words = message.text().unwrap_or_default();
                    return Err(io::Error::other(format!("{interface}.{member} fails: {}: {words}", message.error)));
                }
                SIGNAL => self.early.push_back(message),
                _ => {}
            }
        }
    }

    /// The next signal or call, however long it takes.
    ///
    /// # Errors
    /// The bus is gone.
    pub fn receive(&mut self) -> io::Result<Message> {
        if let Some(message) = self.early.pop_front() {
            return Ok(message);
        }
        self.stream.set_read_timeout(None)?;
        let message = loop {
            let message = self.read_message()?;
            if matches!(message.kind, SIGNAL | CALL) {
                break message;
            }
        };
        self.stream.set_read_timeout(Some(PATIENCE))?;
        Ok(message)
    }

    /// Sends a message; returns its serial number. Fields are those that are strings, by their code.
    fn send(&mut self, kind: u8, fields: &[(u8, char, &str)], reply_serial: Option<u32>, arguments: &[Value<'_>]) -> io::Result<u32> {
        self.stream.write_all(&self.encode(kind, fields, reply_serial, arguments))?;
        self.serial += 1;
        Ok(self.serial)
    }

    fn encode(&self, kind: u8, fields: &[(u8, char, &str)], reply_serial: Option<u32>, arguments: &[Value<'_>]) -> Vec<u8> {
        let mut body = Writer::default();
        arguments.iter().for_each(|argument| body.value(argument));
        let signature: String = arguments.iter().map(Value::signature).collect();
        let descriptors = arguments.iter().filter(|argument| matches!(argument, Value::Descriptor(_))).count();
        let mut header = Writer::default();
        for (code, form, text) in fields.iter().filter(|(_, _, text)| !text.is_empty()) {
            header.field(*code, *form);
            header.text(text);
        }
        if !signature.is_empty() {
            header.field(8, 'g');
            header.signature(&signature);
        }
        for (code, count) in [(5, reply_serial), (9, u32::try_from(descriptors).ok().filter(|count| *count > 0))] {
            if let Some(count) = count {
                header.field(code, 'u');
                header.count(count);
            }
        }
        let length = |writer: &Writer| u32::try_from(writer.0.len()).unwrap_or(u32::MAX);
        let mut message = Writer(vec![b'l', kind, 0, 1]);
        message.count(length(&body));
        message.count(self.serial + 1);
        message.count(length(&header));
        message.0.extend(&header.0);
        message.align(8);
        message.0.extend(&body.0);
        message.0
    }

    fn read_message(&mut self) -> io::Result<Message> {
        let mut descriptors = Vec::new();
        let mut start = [0; 16];
        self.read(&mut start, &mut descriptors)?;
        if start[0] != b'l' {
            return Err(malformed("numbers the other way round"));
        }
        let number = |at: usize| start.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let (body_length, fields_length) = (size(number(4)), size(number(12)));
        let padded = fields_length.saturating_add(7) / 8 * 8;
        if padded.saturating_add(body_length) > LONGEST {
            return Err(malformed("a message without measure"));
        }
        let mut rest = vec![0; padded + body_length];
        self.read(&mut rest, &mut descriptors)?;
        let body = rest.split_off(padded);
        rest.truncate(fields_length);
        let mut message = Message { kind: start[1], body, descriptors, ..Message::default() };
        #[cfg(test)]
        {
            message.serial = number(8);
        }
        // Fields begin at a multiple of eight, so positions in them align as in the whole message.
        let mut reader = Reader { bytes: &rest, position: 0 };
        while reader.position < fields_length {
            read_field(&mut reader, &mut message).ok_or_else(|| malformed("a header that cannot be read"))?;
        }
        Ok(message)
    }

    /// Fills the buffer. What it never reads beyond a message keeps the descriptors with theirs.
    fn read(&self, mut buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<()> {
        while !buffer.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = match recvmsg(&self.stream, &mut [io::IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    descriptors.extend(rights);
                }
            }
            if received.bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer = buffer.split_at_mut(received.bytes).1;
        }
        Ok(())
    }
}

fn read_field(reader: &mut Reader<'_>, message: &mut Message) -> Option<()> {
    reader.align(8);
    let code = *reader.take(1)?.first()?;
    let form = reader.signature()?;
    match form.as_str() {
        "s" | "o" => {
            let text = reader.text()?;
            match code {
                2 => message.interface = text,
                3 => message.member = text,
                4 => message.error = text,
                7 => message.sender = text,
                _ => {}
            }
        }
        "g" => {
            let text = reader.signature()?;
            if code == 8 {
                message.signature = text;
            }
        }
        "u" => {
            let number = reader.count()?;
            if code == 5 {
                message.reply_serial = number;
            }
        }
        // The specification knows no others.
        _ => return None,
    }
    Some(())
}

struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.position = self.position.div_ceil(to) * to;
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let end = self.position.checked_add(count)?;
        let taken = self.bytes.get(self.position..end)?;
        self.position = end;
        Some(taken)
    }

    fn count(&mut self) -> Option<u32> {
        self.align(4);
        self.take(4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.count()?).ok()?;
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.take(1)?;
        Some(text)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(*self.take(1)?.first()?);
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.take(1)?;
        Some(text)
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().div_ceil(to) * to, 0);
    }

    fn count(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.count(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// The beginning of a header field: its code, and the form of what follows.
    fn field(&mut self, code: u8, form: char) {
        self.align(8);
        self.0.push(code);
        self.signature(form.encode_utf8(&mut [0; 4]));
    }

    fn value(&mut self, value: &Value<'_>) {
        match value {
            Value::Text(text) => self.text(text),
            Value::Number(number) => self.count(number.cast_unsigned()),
            Value::Count(number) | Value::Descriptor(number) => self.count(*number),
            Value::Flag(flag) => self.count(u32::from(*flag)),
            Value::AnyLong(number) => {
                self.signature("t");
                self.align(8);
                self.0.extend(number.to_le_bytes());
            }
        }
    }
}

/// The other side, which only tests play.
#[cfg(test)]
impl Bus {
    /// Takes a name on the bus.
    pub fn own(&mut self, name: &str) -> io::Result<()> {
        self.call(BUS, "org.freedesktop.DBus", "RequestName", &[Value::Text(name), Value::Count(4)]).map(drop)
    }

    /// Answers a call, with a descriptor where there is one.
    pub fn answer(&mut self, call: &Message, arguments: &[Value<'_>], descriptor: Option<std::os::fd::BorrowedFd<'_>>) -> io::Result<()> {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        let bytes = self.encode(ANSWER, &[(6, 's', &call.sender)], Some(call.serial), arguments);
        self.serial += 1;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let rights: Vec<_> = descriptor.into_iter().collect();
        if !rights.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&rights)));
        }
        let sent = sendmsg(&self.stream, &[io::IoSlice::new(&bytes)], &mut control, SendFlags::empty())?;
        assert_eq!(sent, bytes.len());
        Ok(())
    }

    /// Sends a signal to everybody who wants it.
    pub fn signal(&mut self, path: &str, interface: &str, member: &str, arguments: &[Value<'_>]) -> io::Result<()> {
        self.send(SIGNAL, &[(1, 'o', path), (2, 's', interface), (3, 's', member)], None, arguments).map(drop)
    }
}
