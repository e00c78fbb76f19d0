//! Questions read and answers written, as far as this server needs it. Every byte may be hostile: what cannot be read is
//! none, and nothing here panics or loops.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const HEADER_BYTES: usize = 12;
/// What everybody can receive over UDP.
const PLAIN_UDP_BYTES: usize = 512;
/// What arrives over UDP without fragments nearly everywhere. Source: DNS flag day 2020.
pub const UDP_BYTES: usize = 1232;
const MAX_LABEL_BYTES: usize = 63;
const MAX_NAME_BYTES: usize = 255;

/// Kinds of records.
pub mod kind {
    /// An address of IPv4.
    pub const A: u16 = 1;
    /// A name server.
    pub const NS: u16 = 2;
    /// Another name.
    pub const CNAME: u16 = 5;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// The name of an address.
    pub const PTR: u16 = 12;
    /// A text.
    pub const TXT: u16 = 16;
    /// An address of IPv6.
    pub const AAAA: u16 = 28;
    /// Host and port of a service.
    pub const SRV: u16 = 33;
    /// Extensions of the message itself.
    pub const OPT: u16 = 41;
    /// Whatever there is.
    pub const ANY: u16 = 255;
}

/// How a question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Answered, perhaps with nothing.
    NoError,
    /// The question could not be read.
    Malformed,
    /// No answer could be had.
    Failed,
    /// The name does not exist.
    NoSuchName,
    /// Questions of this kind are not served.
    NotImplemented,
    /// Questions of this class are not answered.
    Refused,
    /// The extensions are of a version that is not known.
    BadVersion,
}

impl Code {
    /// The low four bits, and what goes into the extension.
    fn numbers(self) -> (u8, u8) {
        match self {
            Self::NoError => (0, 0),
            Self::Malformed => (1, 0),
            Self::Failed => (2, 0),
            Self::NoSuchName => (3, 0),
            Self::NotImplemented => (4, 0),
            Self::Refused => (5, 0),
            Self::BadVersion => (0, 1),
        }
    }
}

/// A question as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Chosen by the asker, repeated in the answer.
    pub id: u16,
    /// The name in lower case, without the last dot. Bytes that no host name has are shown as `?`.
    pub name: String,
    /// Kind of record.
    pub kind: u16,
    /// Class; 1 is the internet.
    pub class: u16,
    /// Whether the asker wants us to ask others.
    pub recursion: bool,
    /// What the asker can receive over UDP, in bytes; none where it knows no extensions.
    pub extended: Option<Extended>,
    /// The question section as it came, to be repeated with the asker's own letters.
    section: Vec<u8>,
}

/// The asker's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extended {
    /// Largest answer, in bytes.
    pub size: usize,
    /// Version; only 0 exists.
    pub version: u8,
}

/// Why bytes are no question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoQuestion {
    /// To be ignored: an answer, or too short to be answered.
    Ignore,
    /// To be refused under this number with this code.
    Refuse(u16, Code),
}

impl Question {
    /// Reads a question.
    pub fn read(bytes: &[u8]) -> Result<Self, NoQuestion> {
        let short = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let header = || Some((short(0)?, short(2)?, short(4)?, short(6)?, short(8)?, short(10)?));
        let (id, flags, questions, answers, authorities, additional) = header().ok_or(NoQuestion::Ignore)?;
        if flags & 0x8000 != 0 {
            return Err(NoQuestion::Ignore);
        }
        if (flags >> 11) & 0xf != 0 {
            return Err(NoQuestion::Refuse(id, Code::NotImplemented));
        }
        let malformed = NoQuestion::Refuse(id, Code::Malformed);
        if questions != 1 {
            return Err(malformed);
        }
        let (name, after) = read_name(bytes, HEADER_BYTES).ok_or(malformed)?;
        let kind = short(after).ok_or(malformed)?;
        let class = short(after + 2).ok_or(malformed)?;
        let end = after + 4;
        let section = bytes.get(HEADER_BYTES..end).ok_or(malformed)?.to_vec();
        let mut extended = None;
        let records = usize::from(answers) + usize::from(authorities) + usize::from(additional);
        let mut at = end;
        for _ in 0..records {
            let record = read_record(bytes, at).ok_or(malformed)?;
            if record.kind == kind::OPT {
                let [_, version, ..] = record.ttl.to_be_bytes();
                extended = Some(Extended { size: usize::from(record.class).max(PLAIN_UDP_BYTES), version });
            }
            at = record.end;
        }
        Ok(Self { id, name, kind, class, recursion: flags & 0x100 != 0, extended, section })
    }

    /// Largest answer over UDP, in bytes.
    pub fn udp_bytes(&self) -> usize {
        self.extended.map_or(PLAIN_UDP_BYTES, |extended| extended.size.min(UDP_BYTES))
    }
}

/// A question to another server, under a number, for `name`.
pub fn write_question(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend(id.to_be_bytes());
    bytes.extend([0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    write_name(&mut bytes, name)?;
    bytes.extend(kind.to_be_bytes());
    bytes.extend(1_u16.to_be_bytes());
    Some(bytes)
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An address of IPv4.
    A(Ipv4Addr),
    /// An address of IPv6.
    Aaaa(Ipv6Addr),
    /// Another name for this one.
    Cname(String),
    /// The name of an address.
    Ptr(String),
    /// A name server.
    Ns(String),
    /// Host and port of a service.
    Srv {
        /// Of the targets with the lowest number, …
        priority: u16,
        /// … each gets this share.
        weight: u16,
        /// Port.
        port: u16,
        /// Host.
        target: String,
    },
    /// A text of at most 255 bytes.
    Txt(String),
    /// Start of authority; says how long "no" may be remembered.
    Soa {
        /// The zone's first server.
        server: String,
        /// Who is responsible.
        contact: String,
        /// Version of the zone.
        serial: u32,
        /// How long "no" may be remembered, in seconds.
        negative_ttl: u32,
    },
}

impl Data {
    /// An address record of either family.
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::A(address),
            IpAddr::V6(address) => Self::Aaaa(address),
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Self::A(_) => kind::A,
            Self::Aaaa(_) => kind::AAAA,
            Self::Cname(_) => kind::CNAME,
            Self::Ptr(_) => kind::PTR,
            Self::Ns(_) => kind::NS,
            Self::Srv { .. } => kind::SRV,
            Self::Txt(_) => kind::TXT,
            Self::Soa { .. } => kind::SOA,
        }
    }

    fn write(&self, bytes: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::A(address) => bytes.extend(address.octets()),
            Self::Aaaa(address) => bytes.extend(address.octets()),
            Self::Cname(name) | Self::Ptr(name) | Self::Ns(name) => write_name(bytes, name)?,
            Self::Srv { priority, weight, port, target } => {
                bytes.extend([*priority, *weight, *port].iter().flat_map(|number| number.to_be_bytes()));
                write_name(bytes, target)?;
            }
            Self::Txt(text) => {
                bytes.push(u8::try_from(text.len()).ok()?);
                bytes.extend(text.as_bytes());
            }
            Self::Soa { server, contact, serial, negative_ttl } => {
                write_name(bytes, server)?;
                write_name(bytes, contact)?;
                bytes.extend([*serial, 7200, 1800, 86400, *negative_ttl].iter().flat_map(|number| number.to_be_bytes()));
            }
        }
        Some(())
    }
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose; none for the name that was asked for.
    pub owner: Option<String>,
    /// How long it may be remembered, in seconds.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// An answer to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// How the question ended.
    pub code: Code,
    /// Whether we are the authority.
    pub authoritative: bool,
    /// Answers.
    pub answers: Vec<Record>,
    /// Says for how long there is no answer.
    pub authority: Vec<Record>,
    /// What may be asked next; left out where there is no room.
    pub additional: Vec<Record>,
}

impl Reply {
    /// An answer without records.
    pub fn bare(code: Code) -> Self {
        Self { code, authoritative: false, answers: Vec::new(), authority: Vec::new(), additional: Vec::new() }
    }

    /// Writes the answer to a question in at most `limit` bytes. Where the answers do not fit, those that do are
    /// written and the answer is marked as cut, so that the asker comes again over TCP.
    pub fn write(&self, question: &Question, limit: usize) -> Vec<u8> {
        let (code, extended_code) = self.code.numbers();
        let mut bytes = header(question.id, code, self.authoritative, question.recursion);
        if let Some(place) = bytes.get_mut(4..6) {
            place.copy_from_slice(&1_u16.to_be_bytes());
        }
        bytes.extend(&question.section);
        let extension_bytes = if question.extended.is_some() { 11 } else { 0 };
        let room = limit.saturating_sub(extension_bytes);
        let mut cut = false;
        let mut counts = [0_u16; 3];
        for (section, records) in [&self.answers, &self.authority, &self.additional].into_iter().enumerate() {
            for record in records {
                let before = bytes.len();
                let written = write_record(&mut bytes, record);
                if written.is_none() || bytes.len() > room {
                    bytes.truncate(before);
                    // What may be asked next may be missing, an answer not.
                    cut |= section < 2;
                    break;
                }
                if let Some(count) = counts.get_mut(section) {
                    *count += 1;
                }
            }
            if cut {
                break;
            }
        }
        if question.extended.is_some() {
            bytes.push(0);
            bytes.extend(kind::OPT.to_be_bytes());
            bytes.extend((UDP_BYTES as u16).to_be_bytes());
            bytes.extend([extended_code, 0, 0, 0, 0, 0]);
            let [_, _, additional] = &mut counts;
            *additional += 1;
        }
        for (index, count) in counts.iter().enumerate() {
            if let Some(place) = bytes.get_mut(6 + 2 * index..8 + 2 * index) {
                place.copy_from_slice(&count.to_be_bytes());
            }
        }
        if cut && let Some(flags) = bytes.get_mut(2) {
            *flags |= 0x02;
        }
        bytes
    }
}

/// The refusal of a question that could not be read.
pub fn refusal(id: u16, code: Code) -> Vec<u8> {
    header(id, code.numbers().0, false, false)
}

fn header(id: u16, code: u8, authoritative: bool, recursion: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(UDP_BYTES);
    bytes.extend(id.to_be_bytes());
    bytes.push(0x80 | if authoritative { 0x04 } else { 0 } | u8::from(recursion));
    // We ask others when we are asked to.
    bytes.push(0x80 | code);
    bytes.extend([0; 8]);
    bytes
}

fn write_record(bytes: &mut Vec<u8>, record: &Record) -> Option<()> {
    match &record.owner {
        Some(owner) => write_name(bytes, owner)?,
        // The question's name stands right behind the header.
        None => bytes.extend([0xc0, HEADER_BYTES as u8]),
    }
    bytes.extend(record.data.kind().to_be_bytes());
    bytes.extend(1_u16.to_be_bytes());
    bytes.extend(record.ttl.to_be_bytes());
    let at = bytes.len();
    bytes.extend([0, 0]);
    record.data.write(bytes)?;
    let length = u16::try_from(bytes.len() - at - 2).ok()?;
    bytes.get_mut(at..at + 2)?.copy_from_slice(&length.to_be_bytes());
    Some(())
}

fn write_name(bytes: &mut Vec<u8>, name: &str) -> Option<()> {
    let start = bytes.len();
    for label in name.trim_end_matches('.').split('.').filter(|label| !label.is_empty()) {
        if label.len() > MAX_LABEL_BYTES {
            return None;
        }
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    (bytes.len() - start <= MAX_NAME_BYTES).then_some(())
}

/// Reads the name at a place; gives it in lower case, and the place behind it.
fn read_name(bytes: &[u8], start: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut at = start;
    let mut end = None;
    // Each jump leads backwards, so that it ends.
    let mut barrier = start;
    let mut total = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length & 0xc0 {
            0 if length == 0 => return Some((name, end.unwrap_or(at + 1))),
            0 => {
                total += length + 1;
                if total >= MAX_NAME_BYTES {
                    return None;
                }
                if !name.is_empty() {
                    name.push('.');
                }
                for byte in bytes.get(at + 1..at + 1 + length)? {
                    let plain = byte.is_ascii_graphic() && *byte != b'.';
                    name.push(if plain { char::from(byte.to_ascii_lowercase()) } else { '?' });
                }
                at += 1 + length;
            }
            0xc0 => {
                let target = (length & 0x3f) << 8 | usize::from(*bytes.get(at + 1)?);
                if target >= barrier {
                    return None;
                }
                end = end.or(Some(at + 2));
                barrier = target;
                at = target;
            }
            _ => return None,
        }
    }
}

struct RawRecord {
    owner: String,
    kind: u16,
    class: u16,
    ttl: u32,
    data_at: usize,
    end: usize,
}

fn read_record(bytes: &[u8], at: usize) -> Option<RawRecord> {
    let (owner, after) = read_name(bytes, at)?;
    let fixed: [u8; 10] = bytes.get(after..after + 10)?.try_into().ok()?;
    let [k0, k1, c0, c1, t0, t1, t2, t3, l0, l1] = fixed;
    let data_at = after + 10;
    let end = data_at + usize::from(u16::from_be_bytes([l0, l1]));
    bytes.get(data_at..end)?;
    Some(RawRecord {
        owner,
        kind: u16::from_be_bytes([k0, k1]),
        class: u16::from_be_bytes([c0, c1]),
        ttl: u32::from_be_bytes([t0, t1, t2, t3]),
        data_at,
        end,
    })
}

/// The addresses and further names in another server's answer, and whether it says that the name does not exist.
pub fn read_addresses(bytes: &[u8]) -> Option<(Vec<Record>, bool)> {
    let short = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let code = short(2)? & 0xf;
    if code != 0 && code != 3 {
        return None;
    }
    let mut at = HEADER_BYTES;
    for _ in 0..short(4)? {
        at = read_name(bytes, at)?.1 + 4;
    }
    let mut records = Vec::new();
    for _ in 0..short(6)? {
        let record = read_record(bytes, at)?;
        let data = bytes.get(record.data_at..record.end)?;
        let data = match record.kind {
            kind::A => Some(Data::A(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?))),
            kind::AAAA => Some(Data::Aaaa(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?))),
            kind::CNAME => Some(Data::Cname(read_name(bytes, record.data_at)?.0)),
            _ => None,
        };
        records.extend(data.map(|data| Record { owner: Some(record.owner), ttl: record.ttl, data }));
        at = record.end;
    }
    Some((records, code == 3))
}

/// Whether these bytes are an answer to a question that was sent under this number.
pub fn answers(answer: &[u8], id: u16, question: &[u8]) -> bool {
    let asked = read_name(question, HEADER_BYTES);
    let answered = read_name(answer, HEADER_BYTES);
    let is_answer = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    // An answer that only says that something is wrong may leave the question out.
    let bare = answer.get(4..6) == Some(&[0, 0]);
    answer.get(0..2) == Some(&id.to_be_bytes()) && is_answer && (bare || (asked.is_some() && asked == answered))
}

/// Puts another number on a message.
pub fn set_id(bytes: &mut [u8], id: u16) {
    if let Some(place) = bytes.get_mut(0..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::{Message, ResponseCode},
        serialize::binary::{BinDecodable, BinDecoder},
    };

    use super::*;

    fn parsed(bytes: &[u8]) -> Message {
        Message::read(&mut BinDecoder::new(bytes)).expect("an independent reader understands it")
    }

    fn question(name: &str, kind: u16, extended: Option<u16>) -> Question {
        let mut bytes = write_question(7, name, kind).expect("a name");
        if let Some(size) = extended {
            bytes[11] = 1;
            bytes.push(0);
            bytes.extend(kind::OPT.to_be_bytes());
            bytes.extend(size.to_be_bytes());
            bytes.extend([0; 6]);
        }
        Question::read(&bytes).expect("a question")
    }

    fn addresses(count: u8) -> Reply {
        let record = |last| Record { owner: None, ttl: 5, data: Data::A(Ipv4Addr::new(10, 0, 0, last)) };
        Reply { answers: (0..count).map(record).collect(), authoritative: true, ..Reply::bare(Code::NoError) }
    }

    #[test]
    fn names_are_lowered_for_us_and_repeated_as_they_came() {
        let question = question("Web.Default.SVC.cluster.local", kind::A, None);
        assert_eq!(question.name, "web.default.svc.cluster.local");
        let message = parsed(&addresses(1).write(&question, 512));
        assert_eq!(message.queries[0].name().to_string(), "Web.Default.SVC.cluster.local.");
        assert_eq!(message.answers[0].name.to_string(), "Web.Default.SVC.cluster.local.");
        assert!(message.metadata.authoritative);
    }

    #[test]
    fn every_kind_of_record_is_understood() {
        let texts = |data: Data| {
            let reply = Reply { answers: vec![Record { owner: Some("x.y".into()), ttl: 5, data }], ..addresses(0) };
            parsed(&reply.write(&question("a.b", kind::ANY, None), 512)).answers[0].to_string()
        };
        let srv = Data::Srv { priority: 0, weight: 100, port: 80, target: "web.a.svc".into() };
        let soa = Data::Soa { server: "ns.z".into(), contact: "hostmaster.z".into(), serial: 3, negative_ttl: 5 };
        assert_eq!(texts(srv), "x.y. 5 IN SRV 0 100 80 web.a.svc.");
        assert_eq!(texts(soa), "x.y. 5 IN SOA ns.z. hostmaster.z. 3 7200 1800 86400 5");
        assert_eq!(texts(Data::Aaaa("fd00::1".parse().unwrap())), "x.y. 5 IN AAAA fd00::1");
        assert_eq!(texts(Data::Cname("other.example".into())), "x.y. 5 IN CNAME other.example.");
        assert_eq!(texts(Data::Ptr("web.a".into())), "x.y. 5 IN PTR web.a.");
        assert_eq!(texts(Data::Ns("ns.z".into())), "x.y. 5 IN NS ns.z.");
        assert!(texts(Data::Txt("1.1.0".into())).contains("1.1.0"));
    }

    #[test]
    fn what_does_not_fit_is_cut_at_a_record_and_said_to_be() {
        let plain = question("web.a", kind::A, None);
        let bytes = addresses(100).write(&plain, plain.udp_bytes());
        let message = parsed(&bytes);
        assert!(bytes.len() <= 512 && message.metadata.truncation && message.answers.len() == 30, "{}", bytes.len());
        let extended = question("web.a", kind::A, Some(4096));
        let bytes = addresses(100).write(&extended, extended.udp_bytes());
        let message = parsed(&bytes);
        assert!(bytes.len() <= UDP_BYTES && message.metadata.truncation && message.edns.is_some());
        let bytes = addresses(100).write(&plain, usize::from(u16::MAX));
        assert!(!parsed(&bytes).metadata.truncation);
    }

    #[test]
    fn extensions_of_an_unknown_version_are_said_to_be_so() {
        let message = parsed(&Reply::bare(Code::BadVersion).write(&question("a", kind::A, Some(1232)), 512));
        assert_eq!(u16::from(message.metadata.response_code), u16::from(ResponseCode::BADVERS));
    }

    #[test]
    fn hostile_bytes_are_refused_or_ignored() {
        let good = write_question(7, "web.default.svc.cluster.local", kind::A).unwrap();
        for length in 0..good.len() {
            let expected = if length < 12 { NoQuestion::Ignore } else { NoQuestion::Refuse(7, Code::Malformed) };
            assert_eq!(Question::read(&good[..length]), Err(expected), "{length}");
        }
        let mut update = good.clone();
        update[2] |= 5 << 3;
        assert_eq!(Question::read(&update), Err(NoQuestion::Refuse(7, Code::NotImplemented)));
        let mut answer = good.clone();
        answer[2] |= 0x80;
        assert_eq!(Question::read(&answer), Err(NoQuestion::Ignore));
        let mut pointing_at_itself = good[..12].to_vec();
        pointing_at_itself.extend([0xc0, 12, 0, 1, 0, 1]);
        assert_eq!(Question::read(&pointing_at_itself), Err(NoQuestion::Refuse(7, Code::Malformed)));
        // Every byte of a good question replaced by every value: no panic, no endless loop.
        for index in 0..good.len() {
            for value in 0..=255 {
                let mut bytes = good.clone();
                bytes[index] = value;
                let _ = Question::read(&bytes);
                let _ = read_addresses(&bytes);
            }
        }
    }

    #[test]
    fn a_name_that_is_too_long_cannot_be_written() {
        assert_eq!(write_question(1, &"a".repeat(64), kind::A), None);
        assert_eq!(write_question(1, &"abcdefg.".repeat(32), kind::A), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_judged(bytes: Vec<u8>, tail: Vec<u8>, name in "[a-z.]{0,40}", at: proptest::sample::Index, byte: u8) {
            // As they come, behind a good question, and with one byte of a good message replaced.
            let mut behind = write_question(7, "a.example", kind::A).expect("a name");
            behind.extend(&tail);
            let mut changed = write_question(7, &name, kind::AAAA).unwrap_or_default();
            changed.extend(&tail);
            if !changed.is_empty() {
                let place = at.index(changed.len());
                changed[place] = byte;
            }
            for message in [bytes, behind, changed] {
                let mut answer = message.clone();
                if let Some(flags) = answer.get_mut(2) {
                    *flags |= 0x80;
                }
                let read = Question::read(&message);
                // An answer is no question, whatever else it is.
                proptest::prop_assert!(message.len() < HEADER_BYTES || Question::read(&answer) == Err(NoQuestion::Ignore));
                let _ = (read, read_addresses(&answer), answers(&answer, 7, &message));
            }
        }
    }
}
