//! Transactions: changes of one table that the kernel takes together or not at all.

use std::fmt;

use crate::{
    rule::Rule,
    set::{Element, Set},
};

/// Why a transaction was not taken. Nothing of it has happened then.
#[derive(Debug, thiserror::Error)]
pub enum NftablesError {
    /// The kernel refused.
    #[error("the kernel did not take the changes to nftables table {table}")]
    Refused {
        /// The table.
        table: String,
        /// Which change, and why.
        #[source]
        source: netlink::NetlinkError,
    },
}

impl NftablesError {
    /// The kernel's error number.
    pub fn errno(&self) -> nix::errno::Errno {
        match self {
            Self::Refused { source, .. } => source.errno(),
        }
    }
}

/// Where a base chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Arrived, before it is decided where to.
    Prerouting,
    /// Meant for this host.
    Input,
    /// Passing through.
    Forward,
    /// Made by this host.
    Output,
    /// About to leave.
    Postrouting,
}

/// What a base chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Judge every packet.
    Filter,
    /// Translate addresses; sees the first packet of each flow.
    Nat,
}

/// How a chain hangs in the path of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseChain {
    /// What it may do.
    pub kind: ChainKind,
    /// Where it sees packets.
    pub hook: Hook,
    /// Its place among the chains of the hook: lower comes first.
    pub priority: i32,
}

impl BaseChain {
    /// Before connections are tracked, so that a packet is seen as it was on the wire.
    pub const BEFORE_TRACKING: i32 = -300;
    /// Before destinations are translated.
    pub const BEFORE_DESTINATION_NAT: i32 = -110;
    /// Where packets are judged.
    pub const FILTER: i32 = 0;
    /// Where destinations are translated.
    pub const DESTINATION_NAT: i32 = -100;
    /// Where sources are translated.
    pub const SOURCE_NAT: i32 = 100;
}

/// One change of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Makes the table unless it is there.
    AddTable,
    /// Deletes the table, which must be there, with all that is in it.
    DeleteTable,
    /// Makes a chain unless it is there.
    AddChain {
        /// Its name.
        name: String,
        /// Where it hangs; none for chains that are only jumped to.
        base: Option<BaseChain>,
    },
    /// Empties a chain.
    FlushChain(String),
    /// Deletes a chain that nothing jumps to.
    DeleteChain(String),
    /// Makes a set or map unless it is there.
    AddSet(Set),
    /// Deletes a set or map that no rule uses.
    DeleteSet(String),
    /// Empties a set or map.
    FlushSet(String),
    /// Appends a rule to a chain.
    AddRule {
        /// The chain.
        chain: String,
        /// The rule.
        rule: Rule,
    },
    /// Adds elements to a set or map; a key must be absent or map to the same.
    AddElements {
        /// The set.
        set: String,
        /// The elements.
        elements: Vec<Element>,
    },
    /// Deletes elements, which must be there.
    DeleteElements {
        /// The set.
        set: String,
        /// The elements.
        elements: Vec<Element>,
    },
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |elements: &[Element]| elements.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::AddTable => formatter.write_str("add table"),
            Self::DeleteTable => formatter.write_str("delete table"),
            Self::AddChain { name, base: None } => write!(formatter, "add chain {name}"),
            Self::AddChain { name, base: Some(base) } => {
                write!(formatter, "add chain {name} {{ {:?} {:?} {} }}", base.kind, base.hook, base.priority)
            }
            Self::FlushChain(name) => write!(formatter, "flush chain {name}"),
            Self::DeleteChain(name) => write!(formatter, "delete chain {name}"),
            Self::AddSet(set) => write!(formatter, "add set {set}"),
            Self::DeleteSet(name) => write!(formatter, "delete set {name}"),
            Self::FlushSet(name) => write!(formatter, "flush set {name}"),
            Self::AddRule { chain, rule } => write!(formatter, "add rule {chain}: {rule}"),
            Self::AddElements { set, elements } => write!(formatter, "add to {set}: {}", list(elements)),
            Self::DeleteElements { set, elements } => write!(formatter, "delete from {set}: {}", list(elements)),
        }
    }
}

/// Changes of one table of the `inet` family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The table's name.
    pub table: String,
    /// The changes, in order.
    pub operations: Vec<Operation>,
}

impl Transaction {
    /// An empty transaction.
    pub fn new(table: impl Into<String>) -> Self {
        Self { table: table.into(), operations: Vec::new() }
    }

    /// A transaction that begins with an empty table, whatever was there.
    pub fn replacing(table: impl Into<String>) -> Self {
        // Deleting asks for the table to be there, so it is made first.
        Self { table: table.into(), operations: vec![Operation::AddTable, Operation::DeleteTable, Operation::AddTable] }
    }

    /// A transaction that leaves no table, whatever was there.
    pub fn removing(table: impl Into<String>) -> Self {
        Self { table: table.into(), operations: vec![Operation::AddTable, Operation::DeleteTable] }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Appends a change.
    pub fn push(&mut self, operation: Operation) -> &mut Self {
        self.operations.push(operation);
        self
    }

    /// Appends a chain that hangs in the path of packets.
    pub fn base_chain(&mut self, name: &str, kind: ChainKind, hook: Hook, priority: i32) -> &mut Self {
        let base = Some(BaseChain { kind, hook, priority });
        self.push(Operation::AddChain { name: name.to_owned(), base })
    }

    /// Appends a chain that is jumped to.
    pub fn chain(&mut self, name: &str) -> &mut Self {
        self.push(Operation::AddChain { name: name.to_owned(), base: None })
    }

    /// Appends a rule.
    pub fn rule(&mut self, chain: &str, rule: Rule) -> &mut Self {
        self.push(Operation::AddRule { chain: chain.to_owned(), rule })
    }

    /// Appends a set or map.
    pub fn set(&mut self, set: Set) -> &mut Self {
        self.push(Operation::AddSet(set))
    }

    /// Appends elements; none is fine.
    pub fn elements(&mut self, set: &str, elements: Vec<Element>) -> &mut Self {
        if !elements.is_empty() {
            self.push(Operation::AddElements { set: set.to_owned(), elements });
        }
        self
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for operation in &self.operations {
            writeln!(formatter, "{operation}")?;
        }
        Ok(())
    }
}

/// Where transactions go. One call is one transaction: all of it or nothing.
pub trait Ruleset: Send + Sync + 'static {
    /// Applies a transaction; an empty one does nothing.
    fn commit(&self, transaction: &Transaction) -> Result<(), NftablesError>;
}
