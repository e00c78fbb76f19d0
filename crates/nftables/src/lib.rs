//! Typed nftables transactions, sent to the kernel in one batch.
//!
//! A [`Transaction`] is a list of [`Operation`]s on one table: chains, sets, maps, their elements, rules. The kernel
//! takes it as a whole or not at all, between two packets. [`Ruleset`] is the seam: [`KernelRuleset`] speaks netlink
//! (no `nft` program is needed, and a transaction costs no process), [`RecordedRuleset`] remembers what it was sent.
//!
//! [`Contents`] is what a whole table should hold; it finds the transaction that leads there.
//!
//! [`TableWatch`] tells when somebody else took a table away (`nft flush ruleset`, a restarted firewall service).
//!
//! Rules are lists of [`Expression`]s, the instructions of the kernel's little machine, written with the methods of
//! [`Rule`]; they print in the words that `nft --debug=netlink` uses, so what a test shows can be compared with it.

mod contents;
mod encode;
mod expression;
mod kernel;
mod recorded;
mod rule;
mod set;
mod table_watch;
mod transaction;

pub use contents::{Chain, Contents};
pub use expression::{
    Comparison, DynamicUpdate, Expression, InlineMap, MetaKey, NatKind, PayloadBase, Register, RejectWith, Verdict,
};
pub use kernel::KernelRuleset;
pub use recorded::RecordedRuleset;
pub use rule::Rule;
pub use set::{Element, ElementData, Field, KeyBytes, Set, SetData};
pub use table_watch::TableWatch;
pub use transaction::{BaseChain, ChainKind, Hook, NftablesError, Operation, Ruleset, Transaction};
