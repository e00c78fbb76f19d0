//! Tells who wants to know that an object of any kind is gone from a namespace. The garbage collector, which watches every kind, is
//! the one who notices; a namespace that waits for its content to go is the one who listens.

use std::sync::Arc;

use parking_lot::Mutex;

type Listener = Box<dyn Fn(&str) + Send + Sync>;

/// A place to tell and to listen. Clones share it.
#[derive(Clone, Default)]
pub struct Removals {
    listeners: Arc<Mutex<Vec<Listener>>>,
}

impl Removals {
    /// Something is gone from `namespace`.
    pub fn tell(&self, namespace: &str) {
        for listener in self.listeners.lock().iter() {
            listener(namespace);
        }
    }

    /// Calls `listener` with the namespace of everything that goes.
    pub fn listen(&self, listener: impl Fn(&str) + Send + Sync + 'static) {
        self.listeners.lock().push(Box::new(listener));
    }
}
