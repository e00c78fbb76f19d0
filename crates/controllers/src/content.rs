//! What is in namespaces, of every kind. The garbage collector, which watches every kind, tells; a namespace that waits for its content to
//! go, and quotas that count it, listen and ask.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

/// Something came or went.
#[derive(Debug, Clone, Copy)]
pub struct ContentChange<'a> {
    /// Where.
    pub namespace: &'a str,
    /// It is gone now.
    pub is_gone: bool,
}

type Listener = Box<dyn Fn(ContentChange<'_>) + Send + Sync>;
type Counter = Box<dyn Fn(&str, &str, &str) -> Option<usize> + Send + Sync>;

/// A place to tell, to listen and to ask. Clones share it.
#[derive(Clone, Default)]
pub struct Content {
    listeners: Arc<Mutex<Vec<Listener>>>,
    counter: Arc<OnceLock<Counter>>,
}

impl Content {
    /// Something came or went.
    pub fn tell(&self, change: ContentChange<'_>) {
        for listener in self.listeners.lock().iter() {
            listener(change);
        }
    }

    /// Calls `listener` for everything that comes or goes.
    pub fn listen(&self, listener: impl Fn(ContentChange<'_>) + Send + Sync + 'static) {
        self.listeners.lock().push(Box::new(listener));
    }

    /// Says who counts. Only the first one counts.
    pub fn counted_by(&self, counter: impl Fn(&str, &str, &str) -> Option<usize> + Send + Sync + 'static) {
        // A second garbage collector would count the same.
        let _ = self.counter.set(Box::new(counter));
    }

    /// How many objects of a group's resource are in a namespace; `None` while nobody knows, or when there is no such resource.
    pub fn count(&self, group: &str, resource: &str, namespace: &str) -> Option<usize> {
        self.counter.get()?(group, resource, namespace)
    }
}
