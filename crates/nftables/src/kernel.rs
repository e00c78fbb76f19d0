//! The kernel as a ruleset, reached over netlink.

use std::sync::{Mutex, PoisonError};

use netlink::{Message, NetlinkError, NetlinkProtocol, Socket};

use crate::{
    encode,
    transaction::{NftablesError, Ruleset, Transaction},
};

/// nftables of one network namespace: that of the thread which opened it.
#[derive(Debug)]
pub struct KernelRuleset {
    socket: Mutex<Socket>,
}

impl KernelRuleset {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Mutex::new(Socket::open(NetlinkProtocol::Netfilter)?) })
    }
}

impl Ruleset for KernelRuleset {
    fn commit(&self, transaction: &Transaction) -> Result<(), NftablesError> {
        if transaction.is_empty() {
            return Ok(());
        }
        let mut messages: Vec<Message> = Vec::with_capacity(transaction.operations.len());
        let mut owners = Vec::with_capacity(transaction.operations.len());
        let mut encoder = encode::Encoder::new(&transaction.table);
        for (index, operation) in transaction.operations.iter().enumerate() {
            encoder.encode(operation, &mut messages);
            owners.resize(messages.len(), index);
        }
        let describe = |message: usize| {
            owners
                .get(message)
                .and_then(|owner| transaction.operations.get(*owner))
                .map_or_else(String::new, ToString::to_string)
        };
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        socket
            .batch(encode::begin(), messages, encode::end(), &describe)
            .map_err(|source| NftablesError::Refused { table: transaction.table.clone(), source })
    }
}
