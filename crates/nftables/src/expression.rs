//! The instructions that rules are made of. Their wire form is in `encode.rs`, the ways to write them in `rule.rs`.

use std::{fmt, time::Duration};

use crate::set::{Element, Field};

/// One of the sixteen registers of four bytes each that a rule computes with. Wider values use the following ones too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register(pub u8);

impl fmt::Display for Register {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "r{}", self.0)
    }
}

/// What happens with a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It passes this hook.
    Accept,
    /// It is thrown away.
    Drop,
    /// Back to where the chain was called from.
    Return,
    /// On with another chain, and back here afterwards.
    Jump(String),
    /// On with another chain, and then to where this one was called from.
    Goto(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => formatter.write_str("accept"),
            Self::Drop => formatter.write_str("drop"),
            Self::Return => formatter.write_str("return"),
            Self::Jump(chain) => write!(formatter, "jump {chain}"),
            Self::Goto(chain) => write!(formatter, "goto {chain}"),
        }
    }
}

/// Facts about a packet that are not in its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetaKey {
    /// The family (`NFPROTO_IPV4`, `NFPROTO_IPV6`), one byte.
    Family,
    /// The protocol of the transport layer, one byte.
    Protocol,
    /// Name of the link it came by, sixteen bytes.
    InputLinkName,
    /// Name of the link it leaves by, sixteen bytes.
    OutputLinkName,
}

/// Where an offset into a packet counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PayloadBase {
    /// The IP header.
    Network,
    /// The header of TCP, UDP or SCTP.
    Transport,
}

/// How a register is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less or equal, the first byte counting most.
    AtMost,
    /// Greater or equal, the first byte counting most.
    AtLeast,
}

/// Which end of a flow is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NatKind {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectWith {
    /// By a TCP reset.
    TcpReset,
    /// By the ICMP message "port unreachable".
    PortUnreachable,
}

/// A map that belongs to one rule and goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineMap {
    /// What its keys are made of.
    pub key: Vec<Field>,
    /// What its values are made of; empty for verdicts.
    pub value: Vec<Field>,
    /// Its elements.
    pub elements: Vec<Element>,
}

/// A set or map that a rule fills while packets pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynamicUpdate {
    /// The set's name.
    pub set: String,
    /// Where the key is.
    pub key: Register,
    /// Where the value is, for maps.
    pub value: Option<Register>,
    /// How long the element stays; the set's own time where none.
    pub timeout: Option<Duration>,
}

/// One instruction. A comparison or lookup that fails ends the rule, and the next one is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Loads a fact.
    Meta {
        /// Which.
        key: MetaKey,
        /// Where to.
        to: Register,
    },
    /// Loads bytes of the packet.
    Payload {
        /// Counted from here.
        base: PayloadBase,
        /// How far, in bytes.
        offset: u32,
        /// How many bytes.
        length: u32,
        /// Where to.
        to: Register,
    },
    /// Loads the state bit of the flow (`new`, `established`, …).
    ConntrackState {
        /// Where to.
        to: Register,
    },
    /// Loads the flow's mark.
    ConntrackMark {
        /// Where to.
        to: Register,
    },
    /// Sets the flow's mark.
    SetConntrackMark {
        /// Where from.
        from: Register,
    },
    /// `to = (from & mask) ^ flip`, over as many bytes as the mask has.
    Bitwise {
        /// Where from.
        from: Register,
        /// Where to.
        to: Register,
        /// Bits that stay.
        mask: Vec<u8>,
        /// Bits that turn.
        flip: Vec<u8>,
    },
    /// Goes on if a register compares like this with a value.
    Compare {
        /// How.
        comparison: Comparison,
        /// The register.
        register: Register,
        /// The value.
        value: Vec<u8>,
    },
    /// Loads a value.
    Load {
        /// The value.
        value: Vec<u8>,
        /// Where to.
        to: Register,
    },
    /// Loads what kind of address the destination is here (`RTN_LOCAL`, …), four bytes.
    DestinationKind {
        /// Where to.
        to: Register,
    },
    /// The same of the source.
    SourceKind {
        /// Where to.
        to: Register,
    },
    /// A random number below a modulus.
    Random {
        /// The modulus.
        modulus: u32,
        /// Where to.
        to: Register,
    },
    /// Goes on if a key is in a set (or is not); a map yields its value, or follows its verdict.
    Lookup {
        /// The set's or map's name.
        set: String,
        /// Where the key is.
        key: Register,
        /// Where the value goes, for maps to values.
        to: Option<Register>,
        /// Whether the map holds verdicts.
        verdict: bool,
        /// Whether to go on when the key is absent instead.
        inverted: bool,
    },
    /// As a lookup, in a map of the rule's own.
    InlineLookup {
        /// The map.
        map: InlineMap,
        /// Where the key is.
        key: Register,
        /// Where the value goes.
        to: Register,
    },
    /// Adds an element to a set or renews it.
    Update(DynamicUpdate),
    /// Translates the addresses of the flow.
    Nat {
        /// Which end.
        kind: NatKind,
        /// Whether the addresses are of IPv4.
        ipv4: bool,
        /// Where the new address is.
        address: Register,
        /// Where the new port is; unchanged where none.
        port: Option<Register>,
    },
    /// Translates the source to the address of the link that the flow leaves by.
    Masquerade,
    /// Refuses.
    Reject(RejectWith),
    /// Counts packets and bytes.
    Counter,
    /// Ends with a verdict.
    Verdict(Verdict),
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Display for Expression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta { key, to } => {
                let key = match key {
                    MetaKey::Family => "family",
                    MetaKey::Protocol => "protocol",
                    MetaKey::InputLinkName => "input link",
                    MetaKey::OutputLinkName => "output link",
                };
                write!(formatter, "{to} = {key}")
            }
            Self::Payload { base, offset, length, to } => {
                let base = match base {
                    PayloadBase::Network => "network",
                    PayloadBase::Transport => "transport",
                };
                match (base, offset, length) {
                    ("network", 12, 4) => write!(formatter, "{to} = ip saddr"),
                    ("network", 16, 4) => write!(formatter, "{to} = ip daddr"),
                    ("network", 8, 16) => write!(formatter, "{to} = ip6 saddr"),
                    ("network", 24, 16) => write!(formatter, "{to} = ip6 daddr"),
                    ("transport", 0, 2) => write!(formatter, "{to} = sport"),
                    ("transport", 2, 2) => write!(formatter, "{to} = dport"),
                    _ => write!(formatter, "{to} = {base} header [{offset}, {length} bytes]"),
                }
            }
            Self::ConntrackState { to } => write!(formatter, "{to} = ct state"),
            Self::ConntrackMark { to } => write!(formatter, "{to} = ct mark"),
            Self::SetConntrackMark { from } => write!(formatter, "ct mark = {from}"),
            Self::Bitwise { from, to, mask, flip } => {
                write!(formatter, "{to} = ({from} & 0x{}) ^ 0x{}", hexadecimal(mask), hexadecimal(flip))
            }
            Self::Compare { comparison, register, value } => {
                let sign = match comparison {
                    Comparison::Equal => "==",
                    Comparison::NotEqual => "!=",
                    Comparison::AtMost => "<=",
                    Comparison::AtLeast => ">=",
                };
                write!(formatter, "{register} {sign} 0x{}", hexadecimal(value))
            }
            Self::Load { value, to } => write!(formatter, "{to} = 0x{}", hexadecimal(value)),
            Self::DestinationKind { to } => write!(formatter, "{to} = fib daddr type"),
            Self::SourceKind { to } => write!(formatter, "{to} = fib saddr type"),
            Self::Random { modulus, to } => write!(formatter, "{to} = random below {modulus}"),
            Self::Lookup { set, key, to, verdict, inverted } => {
                let sign = if *inverted { "not in" } else { "in" };
                match (to, verdict) {
                    (Some(to), _) => write!(formatter, "{to} = @{set}[{key}]"),
                    (None, true) => write!(formatter, "{key} vmap @{set}"),
                    (None, false) => write!(formatter, "{key} {sign} @{set}"),
                }
            }
            Self::InlineLookup { map, key, to } => {
                let elements = map.elements.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                if map.value.is_empty() {
                    write!(formatter, "{key} vmap {{ {elements} }}")
                } else {
                    write!(formatter, "{to} = {{ {elements} }}[{key}]")
                }
            }
            Self::Update(update) => {
                write!(formatter, "update @{}[{}]", update.set, update.key)?;
                if let Some(value) = update.value {
                    write!(formatter, " = {value}")?;
                }
                if let Some(timeout) = update.timeout {
                    write!(formatter, " for {}s", timeout.as_secs())?;
                }
                Ok(())
            }
            Self::Nat { kind, ipv4, address, port } => {
                let kind = if *kind == NatKind::Source { "snat" } else { "dnat" };
                let family = if *ipv4 { "ip" } else { "ip6" };
                write!(formatter, "{kind} {family} to {address}")?;
                if let Some(port) = port {
                    write!(formatter, " port {port}")?;
                }
                Ok(())
            }
            Self::Masquerade => formatter.write_str("masquerade"),
            Self::Reject(RejectWith::TcpReset) => formatter.write_str("reject with tcp reset"),
            Self::Reject(RejectWith::PortUnreachable) => formatter.write_str("reject with port unreachable"),
            Self::Counter => formatter.write_str("counter"),
            Self::Verdict(verdict) => write!(formatter, "{verdict}"),
        }
    }
}
