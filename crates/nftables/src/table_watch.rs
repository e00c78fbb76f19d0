//! Notices when a table is gone that should be there: firewall services flush the whole ruleset when they restart, and
//! nobody tells those whose rules went with it.

use netlink::{Message, NetlinkError, NetlinkProtocol, Socket, attributes};
use nix::errno::Errno;
use tokio::io::{Interest, unix::AsyncFd};

use crate::encode;

/// `NFNLGRP_NFTABLES`
const GROUP: u32 = 7;

/// Watches one table in the network namespace of the thread that opened it.
pub struct TableWatch {
    table: String,
    /// Asks; apart from the one that listens, so that answers and news do not mix.
    asking: Socket,
    listening: AsyncFd<Socket>,
}

impl TableWatch {
    /// Begins to watch. Must be called within a tokio runtime.
    pub fn open(table: impl Into<String>) -> Result<Self, NetlinkError> {
        let listening = Socket::listen(NetlinkProtocol::Netfilter, GROUP)?;
        #[expect(deprecated, reason = "its successor is unsafe to call, and this crate has no unsafe code; the socket is owned and never closed meanwhile")]
        let listening = AsyncFd::with_interest(listening, Interest::READABLE).map_err(|error| NetlinkError::Socket {
            doing: "wait for changes of nftables".to_owned(),
            errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
        })?;
        Ok(Self { table: table.into(), asking: Socket::open(NetlinkProtocol::Netfilter)?, listening })
    }

    /// Waits until the table was deleted and is not there. A table that is replaced in one transaction counts as there.
    /// May be dropped and called again; nothing is missed.
    pub async fn lost(&mut self) -> Result<(), NetlinkError> {
        loop {
            let news = {
                let mut ready = self.listening.readable_mut().await.map_err(|error| NetlinkError::Socket {
                    doing: "wait for changes of nftables".to_owned(),
                    errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
                })?;
                let news = ready.get_inner_mut().heard()?;
                ready.clear_ready();
                news
            };
            let suspicious = news.is_none_or(|news| {
                news.iter().any(|message| {
                    let deleted = encode::deleted_table(message.kind, &message.payload);
                    deleted.is_some_and(|name| name == self.table.as_bytes())
                })
            });
            if suspicious && !self.is_there()? {
                return Ok(());
            }
        }
    }

    fn is_there(&mut self) -> Result<bool, NetlinkError> {
        let question: Message = encode::get_table(&self.table);
        match self.asking.request(question, &|| format!("look up nftables table {}", self.table)) {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == Errno::ENOENT => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The name in a message about a table, without its last zero byte.
pub(crate) fn table_name(payload: &[u8]) -> Option<&[u8]> {
    attributes(payload.get(4..)?).find(1).map(|name| name.strip_suffix(&[0]).unwrap_or(name))
}
