//! Nodes in the same process as the server: connections are handed over without a socket.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::{Connection, NodeApi};

/// Bytes that may be under way in each direction of such a connection.
const BUFFER_BYTES: usize = 64 * 1024;

/// The nodes of this process, by name.
#[derive(Clone, Default)]
pub struct LocalNodes(Arc<RwLock<HashMap<String, Arc<dyn NodeApi>>>>);

impl LocalNodes {
    /// Registers a node's API until the guard is dropped.
    pub fn register(&self, node: &str, api: impl NodeApi) -> LocalNodeGuard {
        let api: Arc<dyn NodeApi> = Arc::new(api);
        self.0.write().insert(node.to_owned(), Arc::clone(&api));
        LocalNodeGuard { nodes: self.clone(), node: node.to_owned(), api }
    }

    /// Whether the node is in this process.
    pub fn contains(&self, node: &str) -> bool {
        self.0.read().contains_key(node)
    }

    /// A connection to the node's API, when the node is in this process.
    pub fn connect(&self, node: &str) -> Option<Box<dyn Connection>> {
        let api = self.0.read().get(node).cloned()?;
        let (near, far) = tokio::io::duplex(BUFFER_BYTES);
        api.serve(Box::new(far));
        Some(Box::new(near))
    }
}

/// Keeps a node registered.
pub struct LocalNodeGuard {
    nodes: LocalNodes,
    node: String,
    api: Arc<dyn NodeApi>,
}

impl Drop for LocalNodeGuard {
    fn drop(&mut self) {
        let mut nodes = self.nodes.0.write();
        // A node of the same name may have taken the place in the meantime.
        if nodes.get(&self.node).is_some_and(|current| Arc::ptr_eq(current, &self.api)) {
            nodes.remove(&self.node);
        }
    }
}
