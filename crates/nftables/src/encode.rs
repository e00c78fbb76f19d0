//! The wire form of operations and expressions. Numbers are from `linux/netfilter/nf_tables.h`.

use netlink::Message;

use crate::{
    expression::{Comparison, Expression, MetaKey, NatKind, PayloadBase, Register, RejectWith, Verdict},
    rule::Rule,
    set::{self, Element, ElementData, Field, Set, SetData},
    table_watch,
    transaction::{BaseChain, ChainKind, Hook, Operation},
};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const DELETE_CHAIN: u16 = SUBSYSTEM | 5;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const DELETE_RULE: u16 = SUBSYSTEM | 8;
const NEW_SET: u16 = SUBSYSTEM | 9;
const DELETE_SET: u16 = SUBSYSTEM | 11;
const NEW_ELEMENTS: u16 = SUBSYSTEM | 12;
const DELETE_ELEMENTS: u16 = SUBSYSTEM | 14;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const CREATE: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_CREATE) as u16;
const APPEND: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_CREATE | libc::NLM_F_APPEND) as u16;

const SET_ANONYMOUS: u32 = 0x1;
const SET_CONSTANT: u32 = 0x2;
const SET_INTERVAL: u32 = 0x4;
const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVALUATED: u32 = 0x20;
const SET_CONCATENATION: u32 = 0x80;
const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;

/// Elements in one message, so that it stays well below the 64 KiB that one attribute can hold.
const ELEMENTS_PER_MESSAGE: usize = 400;
/// What the kernel numbers a new anonymous map from.
const ANONYMOUS_MAP: &str = "__map%d";

fn family_header(resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [libc::NFPROTO_INET as u8, 0, high, low]
}

fn bracket(kind: u16) -> Message {
    let [high, low] = (SUBSYSTEM >> 8).to_be_bytes();
    Message::new(kind, REQUEST, &[libc::AF_UNSPEC as u8, 0, high, low])
}

/// The message that opens a transaction.
pub(crate) fn begin() -> Message {
    bracket(BATCH_BEGIN)
}

/// The message that closes a transaction.
pub(crate) fn end() -> Message {
    bracket(BATCH_END)
}

/// The question whether a table is there.
pub(crate) fn get_table(name: &str) -> Message {
    let mut message = Message::new(GET_TABLE, REQUEST, &family_header(0));
    message.text(1, name);
    message
}

/// The name of the table that a message says was deleted.
pub(crate) fn deleted_table(kind: u16, payload: &[u8]) -> Option<&[u8]> {
    (kind == DELETE_TABLE).then(|| table_watch::table_name(payload)).flatten()
}

/// Turns the operations of one transaction into messages.
pub(crate) struct Encoder<'a> {
    table: &'a str,
    /// Numbers the sets made in this transaction, by which rules of the same transaction find the anonymous ones.
    next_set: u32,
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(table: &'a str) -> Self {
        Self { table, next_set: 1 }
    }

    pub(crate) fn encode(&mut self, operation: &Operation, messages: &mut Vec<Message>) {
        match operation {
            Operation::AddTable => messages.push(self.named(NEW_TABLE, CREATE, 1, self.table)),
            Operation::DeleteTable => messages.push(self.named(DELETE_TABLE, REQUEST, 1, self.table)),
            Operation::AddChain { name, base } => messages.push(self.chain(name, base.as_ref())),
            Operation::FlushChain(name) => messages.push(self.in_table(DELETE_RULE, REQUEST, 2, name)),
            Operation::DeleteChain(name) => messages.push(self.in_table(DELETE_CHAIN, REQUEST, 3, name)),
            Operation::AddSet(set) => messages.push(self.set(set)),
            Operation::DeleteSet(name) => messages.push(self.in_table(DELETE_SET, REQUEST, 2, name)),
            Operation::FlushSet(name) => messages.push(self.in_table(DELETE_ELEMENTS, REQUEST, 2, name)),
            Operation::AddRule { chain, rule } => self.rule(chain, rule, messages),
            Operation::AddElements { set, elements } => self.elements(NEW_ELEMENTS, CREATE, set, None, elements, messages),
            Operation::DeleteElements { set, elements } => {
                self.elements(DELETE_ELEMENTS, REQUEST, set, None, elements, messages);
            }
        }
    }

    fn named(&self, kind: u16, flags: u16, attribute: u16, name: &str) -> Message {
        let mut message = Message::new(kind, flags, &family_header(0));
        message.text(attribute, name);
        message
    }

    fn in_table(&self, kind: u16, flags: u16, attribute: u16, name: &str) -> Message {
        let mut message = self.named(kind, flags, 1, self.table);
        message.text(attribute, name);
        message
    }

    fn chain(&self, name: &str, base: Option<&BaseChain>) -> Message {
        let mut message = self.in_table(NEW_CHAIN, CREATE, 3, name);
        if let Some(base) = base {
            let hook = match base.hook {
                Hook::Prerouting => 0,
                Hook::Input => 1,
                Hook::Forward => 2,
                Hook::Output => 3,
                Hook::Postrouting => 4,
            };
            let kind = match base.kind {
                ChainKind::Filter => "filter",
                ChainKind::Nat => "nat",
            };
            message.nested(4, |place| {
                place.network_number(1, hook).network_number(2, base.priority as u32);
            });
            message.text(7, kind);
        }
        message
    }

    fn set(&mut self, set: &Set) -> Message {
        let mut flags = 0;
        if set.data != SetData::None {
            flags |= SET_MAP;
        }
        if set.interval {
            flags |= SET_INTERVAL;
        }
        if set.timeout.is_some() {
            flags |= SET_TIMEOUT | SET_EVALUATED;
        }
        let identifier = self.number_set();
        let mut message = self.set_message(&set.name, identifier, flags, &set.key, &set.data, set.size);
        if let Some(timeout) = set.timeout {
            message.attribute(11, &milliseconds(timeout));
        }
        message
    }

    fn number_set(&mut self) -> u32 {
        let identifier = self.next_set;
        self.next_set += 1;
        identifier
    }

    fn set_message(
        &self,
        name: &str,
        identifier: u32,
        mut flags: u32,
        key: &[Field],
        data: &SetData,
        size: Option<u32>,
    ) -> Message {
        if key.len() > 1 {
            flags |= SET_CONCATENATION;
        }
        let mut message = self.in_table(NEW_SET, CREATE, 2, name);
        message.network_number(3, flags);
        message.network_number(4, set::data_type(key)).network_number(5, set::width(key));
        match data {
            SetData::None => {}
            SetData::Verdict => {
                message.network_number(6, DATA_TYPE_VERDICT).network_number(7, 16);
            }
            SetData::Value(fields) => {
                message.network_number(6, set::data_type(fields)).network_number(7, set::width(fields));
            }
        }
        message.network_number(10, identifier);
        if key.len() > 1 || size.is_some() {
            message.nested(9, |description| {
                if let Some(size) = size {
                    description.network_number(1, size);
                }
                if key.len() > 1 {
                    description.nested(2, |fields| {
                        for field in key {
                            fields.nested(1, |entry| {
                                entry.network_number(1, field.width() as u32);
                            });
                        }
                    });
                }
            });
        }
        if key == [Field::Number] {
            // Tells `nft` that the keys are in this machine's byte order, so that it prints them right.
            let [a, b, c, d] = 1_u32.to_ne_bytes();
            message.attribute(13, &[0, 4, a, b, c, d]);
        }
        message
    }

    fn elements(
        &self,
        kind: u16,
        flags: u16,
        set: &str,
        identifier: Option<u32>,
        elements: &[Element],
        messages: &mut Vec<Message>,
    ) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let mut message = self.in_table(kind, flags, 2, set);
            if let Some(identifier) = identifier {
                message.network_number(4, identifier);
            }
            message.nested(3, |list| {
                for element in chunk {
                    list.nested(1, |entry| write_element(entry, element));
                }
            });
            messages.push(message);
        }
    }

    fn rule(&mut self, chain: &str, rule: &Rule, messages: &mut Vec<Message>) {
        let mut inline = Vec::new();
        for expression in &rule.expressions {
            if let Expression::InlineLookup { map, .. } = expression {
                let identifier = self.number_set();
                inline.push(identifier);
                let size = Some(u32::try_from(map.elements.len()).unwrap_or(u32::MAX));
                let data =
                    if map.value.is_empty() { SetData::Verdict } else { SetData::Value(map.value.clone()) };
                let flags = SET_ANONYMOUS | SET_CONSTANT | SET_MAP;
                messages.push(self.set_message(ANONYMOUS_MAP, identifier, flags, &map.key, &data, size));
                self.elements(NEW_ELEMENTS, CREATE, ANONYMOUS_MAP, Some(identifier), &map.elements, messages);
            }
        }
        let mut inline = inline.into_iter();
        let mut message = self.in_table(NEW_RULE, APPEND, 2, chain);
        message.nested(4, |list| {
            for expression in &rule.expressions {
                let identifier = if matches!(expression, Expression::InlineLookup { .. }) { inline.next() } else { None };
                list.nested(1, |entry| write_expression(entry, expression, identifier));
            }
        });
        messages.push(message);
    }
}

fn milliseconds(duration: std::time::Duration) -> [u8; 8] {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).to_be_bytes()
}

fn write_element(entry: &mut Message, element: &Element) {
    entry.nested(1, |key| {
        key.attribute(1, element.key.bytes());
    });
    match &element.data {
        ElementData::None => {}
        ElementData::Verdict(verdict) => {
            entry.nested(2, |data| write_verdict(data, verdict));
        }
        ElementData::Value(value) => {
            entry.nested(2, |data| {
                data.attribute(1, value.bytes());
            });
        }
        ElementData::IntervalEnd => {
            entry.network_number(3, 1);
        }
    }
}

fn write_verdict(data: &mut Message, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3_i32, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    data.nested(2, |verdict| {
        verdict.network_number(1, code as u32);
        if let Some(chain) = chain {
            verdict.text(2, chain);
        }
    });
}

/// The registers of four bytes are numbered from eight.
fn number(register: Register) -> u32 {
    8 + u32::from(register.0)
}

fn write_expression(entry: &mut Message, expression: &Expression, inline_set: Option<u32>) {
    let mut write = |name: &str, fill: &mut dyn FnMut(&mut Message)| {
        entry.text(1, name).nested(2, |data| fill(data));
    };
    match expression {
        Expression::Meta { key, to } => write("meta", &mut |data| {
            let key = match key {
                MetaKey::InputLinkName => 6,
                MetaKey::OutputLinkName => 7,
                MetaKey::Family => 15,
                MetaKey::Protocol => 16,
            };
            data.network_number(1, number(*to)).network_number(2, key);
        }),
        Expression::Payload { base, offset, length, to } => write("payload", &mut |data| {
            let base = match base {
                PayloadBase::Network => 1,
                PayloadBase::Transport => 2,
            };
            data.network_number(1, number(*to)).network_number(2, base);
            data.network_number(3, *offset).network_number(4, *length);
        }),
        Expression::ConntrackState { to } => write("ct", &mut |data| {
            data.network_number(1, number(*to)).network_number(2, 0);
        }),
        Expression::ConntrackMark { to } => write("ct", &mut |data| {
            data.network_number(1, number(*to)).network_number(2, 3);
        }),
        Expression::SetConntrackMark { from } => write("ct", &mut |data| {
            data.network_number(2, 3).network_number(4, number(*from));
        }),
        Expression::Bitwise { from, to, mask, flip } => write("bitwise", &mut |data| {
            data.network_number(1, number(*from)).network_number(2, number(*to));
            data.network_number(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
            data.nested(4, |value| {
                value.attribute(1, mask);
            });
            data.nested(5, |value| {
                value.attribute(1, flip);
            });
        }),
        Expression::Compare { comparison, register, value } => write("cmp", &mut |data| {
            let comparison = match comparison {
                Comparison::Equal => 0,
                Comparison::NotEqual => 1,
                Comparison::AtMost => 3,
                Comparison::AtLeast => 5,
            };
            data.network_number(1, number(*register)).network_number(2, comparison);
            data.nested(3, |constant| {
                constant.attribute(1, value);
            });
        }),
        Expression::Load { value, to } => write("immediate", &mut |data| {
            data.network_number(1, number(*to));
            data.nested(2, |constant| {
                constant.attribute(1, value);
            });
        }),
        Expression::DestinationKind { to } => write("fib", &mut |data| {
            // Result "address type" of the destination address.
            data.network_number(1, number(*to)).network_number(2, 3).network_number(3, 2);
        }),
        Expression::SourceKind { to } => write("fib", &mut |data| {
            data.network_number(1, number(*to)).network_number(2, 3).network_number(3, 1);
        }),
        Expression::Random { modulus, to } => write("numgen", &mut |data| {
            data.network_number(1, number(*to)).network_number(2, *modulus);
            data.network_number(3, 1).network_number(4, 0);
        }),
        Expression::Lookup { set, key, to, verdict, inverted } => write("lookup", &mut |data| {
            data.text(1, set).network_number(2, number(*key));
            if let Some(to) = to {
                data.network_number(3, number(*to));
            } else if *verdict {
                data.network_number(3, 0);
            }
            if *inverted {
                data.network_number(5, 1);
            }
        }),
        Expression::InlineLookup { map, key, to } => write("lookup", &mut |data| {
            data.text(1, ANONYMOUS_MAP).network_number(2, number(*key));
            data.network_number(3, if map.value.is_empty() { 0 } else { number(*to) });
            if let Some(identifier) = inline_set {
                data.network_number(4, identifier);
            }
        }),
        Expression::Update(update) => write("dynset", &mut |data| {
            data.text(1, &update.set).network_number(3, 1).network_number(4, number(update.key));
            if let Some(value) = update.value {
                data.network_number(5, number(value));
            }
            if let Some(timeout) = update.timeout {
                data.attribute(6, &milliseconds(timeout));
            }
        }),
        Expression::Nat { kind, ipv4, address, port } => write("nat", &mut |data| {
            data.network_number(1, if *kind == NatKind::Source { 0 } else { 1 });
            data.network_number(2, if *ipv4 { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 } as u32);
            data.network_number(3, number(*address)).network_number(4, number(*address));
            if let Some(port) = port {
                data.network_number(5, number(*port)).network_number(6, number(*port));
            }
        }),
        Expression::Masquerade => write("masq", &mut |_| {}),
        Expression::Reject(with) => write("reject", &mut |data| match with {
            RejectWith::TcpReset => {
                data.network_number(1, 1).attribute(2, &[0]);
            }
            // "icmpx" number 1 is the port.
            RejectWith::PortUnreachable => {
                data.network_number(1, 2).attribute(2, &[1]);
            }
        }),
        Expression::Counter => write("counter", &mut |_| {}),
        Expression::Verdict(verdict) => write("immediate", &mut |data| {
            data.network_number(1, 0);
            data.nested(2, |value| write_verdict(value, verdict));
        }),
    }
}
