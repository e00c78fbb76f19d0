//! A wire between a client and a server, which can be cut: nobody gets through until it is mended.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// The wire, with its connections. What goes over it ends with it.
pub struct Wire {
    far: String,
    near: SocketAddr,
    carrying: JoinSet<()>,
}

impl Wire {
    /// To a server at `host:port`.
    pub async fn to(far: String) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut wire = Self { near: listener.local_addr()?, far, carrying: JoinSet::new() };
        wire.carry(listener);
        Ok(wire)
    }

    /// Where it begins.
    pub fn near(&self) -> SocketAddr {
        self.near
    }

    fn carry(&mut self, listener: TcpListener) {
        let far = self.far.clone();
        self.carrying.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut one, _)) = listener.accept().await {
                let far = far.clone();
                connections.spawn(async move {
                    if let Ok(mut other) = TcpStream::connect(far).await {
                        let _ = copy_bidirectional(&mut one, &mut other).await;
                    }
                });
            }
        });
    }

    /// Ends all connections, and takes none.
    pub async fn cut(&mut self) {
        self.carrying.shutdown().await;
    }

    /// Lets connections through again.
    pub async fn mend(&mut self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(self.near).await.context("the port was ours a moment ago")?;
        self.carry(listener);
        Ok(())
    }
}
