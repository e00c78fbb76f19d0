//! Writing rules: each method appends what a phrase of the `nft` language would become.

use std::{fmt, net::IpAddr};

use crate::{
    expression::{
        Comparison, DynamicUpdate, Expression, InlineMap, MetaKey, NatKind, PayloadBase, Register, RejectWith, Verdict,
    },
    set::{Element, Field, KeyBytes},
};

/// `NFPROTO_IPV4`
const FAMILY_IPV4: u8 = 2;
/// `NFPROTO_IPV6`
const FAMILY_IPV6: u8 = 10;
/// `RTN_LOCAL`
const LOCAL_ADDRESS: u32 = 2;
/// The bit of `ct state new`.
const STATE_NEW: u32 = 8;
const FIRST: Register = Register(0);

/// A rule being written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// What it does, in order.
    pub expressions: Vec<Expression>,
}

impl Rule {
    /// A rule that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn push(mut self, expression: Expression) -> Self {
        self.expressions.push(expression);
        self
    }

    fn compare(self, comparison: Comparison, register: Register, value: &[u8]) -> Self {
        self.push(Expression::Compare { comparison, register, value: value.to_vec() })
    }

    /// Only packets of this family.
    pub fn family(self, ipv4: bool) -> Self {
        self.push(Expression::Meta { key: MetaKey::Family, to: FIRST })
            .compare(Comparison::Equal, FIRST, &[if ipv4 { FAMILY_IPV4 } else { FAMILY_IPV6 }])
    }

    /// Only packets of this transport protocol.
    pub fn protocol(self, protocol: u8) -> Self {
        self.push(Expression::Meta { key: MetaKey::Protocol, to: FIRST }).compare(Comparison::Equal, FIRST, &[protocol])
    }

    /// Only packets to an address of this host.
    pub fn to_this_host(self) -> Self {
        self.push(Expression::DestinationKind { to: FIRST })
            .compare(Comparison::Equal, FIRST, &LOCAL_ADDRESS.to_ne_bytes())
    }

    /// Only packets from an address of this host.
    pub fn from_this_host(self) -> Self {
        self.push(Expression::SourceKind { to: FIRST })
            .compare(Comparison::Equal, FIRST, &LOCAL_ADDRESS.to_ne_bytes())
    }

    /// Only the first packet of a flow.
    pub fn new_flow(self) -> Self {
        self.push(Expression::ConntrackState { to: FIRST })
            .push(Expression::Bitwise { from: FIRST, to: FIRST, mask: STATE_NEW.to_ne_bytes().to_vec(), flip: vec![0; 4] })
            .compare(Comparison::NotEqual, FIRST, &[0; 4])
    }

    /// Only flows with this bit in their mark.
    pub fn flow_marked(self, bit: u32) -> Self {
        self.push(Expression::ConntrackMark { to: FIRST })
            .push(Expression::Bitwise { from: FIRST, to: FIRST, mask: bit.to_ne_bytes().to_vec(), flip: vec![0; 4] })
            .compare(Comparison::NotEqual, FIRST, &[0; 4])
    }

    /// Sets this bit in the flow's mark.
    pub fn mark_flow(self, bit: u32) -> Self {
        self.push(Expression::ConntrackMark { to: FIRST })
            .push(Expression::Bitwise {
                from: FIRST,
                to: FIRST,
                mask: (!bit).to_ne_bytes().to_vec(),
                flip: bit.to_ne_bytes().to_vec(),
            })
            .push(Expression::SetConntrackMark { from: FIRST })
    }

    /// Only packets that leave by a link whose name begins like this (or does not).
    pub fn output_link_begins(self, begin: &str, comparison: Comparison) -> Self {
        self.push(Expression::Meta { key: MetaKey::OutputLinkName, to: FIRST })
            .compare(comparison, FIRST, begin.as_bytes())
    }

    /// Only packets that came by the link of this name (or did not).
    pub fn input_link(self, name: &str, comparison: Comparison) -> Self {
        self.link(MetaKey::InputLinkName, name, comparison)
    }

    /// Only packets that leave by the link of this name (or do not).
    pub fn output_link(self, name: &str, comparison: Comparison) -> Self {
        self.link(MetaKey::OutputLinkName, name, comparison)
    }

    fn link(self, key: MetaKey, name: &str, comparison: Comparison) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(16, 0);
        self.push(Expression::Meta { key, to: FIRST }).compare(comparison, FIRST, &bytes)
    }

    /// Loads the source address.
    pub fn load_source(self, ipv4: bool, to: Register) -> Self {
        let (offset, length) = if ipv4 { (12, 4) } else { (8, 16) };
        self.push(Expression::Payload { base: PayloadBase::Network, offset, length, to })
    }

    /// Loads the destination address.
    pub fn load_destination(self, ipv4: bool, to: Register) -> Self {
        let (offset, length) = if ipv4 { (16, 4) } else { (24, 16) };
        self.push(Expression::Payload { base: PayloadBase::Network, offset, length, to })
    }

    /// Loads the transport protocol.
    pub fn load_protocol(self, to: Register) -> Self {
        self.push(Expression::Meta { key: MetaKey::Protocol, to })
    }

    /// Loads the destination port.
    pub fn load_destination_port(self, to: Register) -> Self {
        self.push(Expression::Payload { base: PayloadBase::Transport, offset: 2, length: 2, to })
    }

    /// Only packets to these ports; of which protocol has to be said before.
    pub fn to_ports(self, first: u16, last: u16) -> Self {
        let rule = self.load_destination_port(FIRST);
        if first == last {
            return rule.compare(Comparison::Equal, FIRST, &first.to_be_bytes());
        }
        rule.compare(Comparison::AtLeast, FIRST, &first.to_be_bytes()).compare(Comparison::AtMost, FIRST, &last.to_be_bytes())
    }

    /// Loads destination address, protocol and port side by side.
    pub fn load_destination_key(self, ipv4: bool) -> Self {
        let wide = if ipv4 { 1 } else { 4 };
        self.load_destination(ipv4, FIRST)
            .load_protocol(Register(wide))
            .load_destination_port(Register(wide + 1))
    }

    /// Only packets whose source address is in a set of addresses or ranges (or is not).
    pub fn source_in(self, ipv4: bool, set: &str, inverted: bool) -> Self {
        self.load_source(ipv4, FIRST).lookup(set, FIRST, inverted)
    }

    /// Only packets whose destination address is in a set of addresses or ranges (or is not).
    pub fn destination_in(self, ipv4: bool, set: &str, inverted: bool) -> Self {
        self.load_destination(ipv4, FIRST).lookup(set, FIRST, inverted)
    }

    /// Only packets from within a range (or from outside).
    pub fn source_within(self, range: netlink::IpRange, comparison: Comparison) -> Self {
        self.load_source(range.is_ipv4(), FIRST).within(range, comparison)
    }

    /// Only packets to within a range (or to outside).
    pub fn destination_within(self, range: netlink::IpRange, comparison: Comparison) -> Self {
        self.load_destination(range.is_ipv4(), FIRST).within(range, comparison)
    }

    /// Compares the bits of the prefix of the address in the first register.
    fn within(mut self, range: netlink::IpRange, comparison: Comparison) -> Self {
        let base = match range.base() {
            IpAddr::V4(base) => base.octets().to_vec(),
            IpAddr::V6(base) => base.octets().to_vec(),
        };
        let mut mask = vec![0_u8; base.len()];
        for bit in 0..usize::from(range.prefix()) {
            if let Some(byte) = mask.get_mut(bit / 8) {
                *byte |= 0x80 >> (bit % 8);
            }
        }
        if mask.iter().any(|byte| *byte != 0xff) {
            let flip = vec![0; mask.len()];
            self = self.push(Expression::Bitwise { from: FIRST, to: FIRST, mask, flip });
        }
        self.compare(comparison, FIRST, &base)
    }

    /// Only if the key that begins in a register is in a set (or is not).
    pub fn lookup(self, set: &str, key: Register, inverted: bool) -> Self {
        self.push(Expression::Lookup { set: set.to_owned(), key, to: None, verdict: false, inverted })
    }

    /// Follows the verdict that a map has for the key that begins in the first register.
    pub fn verdict_map(self, map: &str) -> Self {
        self.push(Expression::Lookup { set: map.to_owned(), key: FIRST, to: None, verdict: true, inverted: false })
    }

    /// Loads what a map has for the key that begins in a register; ends the rule where it has nothing.
    pub fn map(self, map: &str, key: Register, to: Register) -> Self {
        self.push(Expression::Lookup { set: map.to_owned(), key, to: Some(to), verdict: false, inverted: false })
    }

    /// Loads one of some values at random, all equally likely.
    pub fn random_of(self, values: &[KeyBytes], fields: &[Field], to: Register) -> Self {
        let elements = values
            .iter()
            .zip(0_u32..)
            .map(|(value, index)| Element::value(KeyBytes::number(index), value.clone()))
            .collect();
        let map = InlineMap { key: vec![Field::Number], value: fields.to_vec(), elements };
        self.push(Expression::Random { modulus: u32::try_from(values.len()).unwrap_or(u32::MAX).max(1), to })
            .push(Expression::InlineLookup { map, key: to, to })
    }

    /// Follows one of some verdicts at random, all equally likely.
    pub fn random_verdict(self, verdicts: Vec<Verdict>) -> Self {
        let modulus = u32::try_from(verdicts.len()).unwrap_or(u32::MAX).max(1);
        let elements = verdicts
            .into_iter()
            .zip(0_u32..)
            .map(|(verdict, index)| Element::verdict(KeyBytes::number(index), verdict))
            .collect();
        let map = InlineMap { key: vec![Field::Number], value: Vec::new(), elements };
        self.push(Expression::Random { modulus, to: FIRST })
            .push(Expression::InlineLookup { map, key: FIRST, to: FIRST })
    }

    /// Loads bytes that are known now.
    pub fn load(self, value: &KeyBytes, to: Register) -> Self {
        self.push(Expression::Load { value: value.bytes().to_vec(), to })
    }

    /// Adds an element to a set or map, or renews it.
    pub fn update(self, update: DynamicUpdate) -> Self {
        self.push(Expression::Update(update))
    }

    /// Sends the flow to the address and port in registers.
    pub fn destination_nat(self, ipv4: bool, address: Register, port: Option<Register>) -> Self {
        self.push(Expression::Nat { kind: NatKind::Destination, ipv4, address, port })
    }

    /// Makes the flow come from the address of the link it leaves by.
    pub fn masquerade(self) -> Self {
        self.push(Expression::Masquerade)
    }

    /// Refuses the packet.
    pub fn reject(self, with: RejectWith) -> Self {
        self.push(Expression::Reject(with))
    }

    /// Ends with a verdict.
    pub fn verdict(self, verdict: Verdict) -> Self {
        self.push(Expression::Verdict(verdict))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, expression) in self.expressions.iter().enumerate() {
            if index > 0 {
                formatter.write_str("; ")?;
            }
            write!(formatter, "{expression}")?;
        }
        Ok(())
    }
}
