//! The machinery every controller runs on. It knows no kind but Lease.
//!
//! - [`reconciler`]: what a controller is: triggers, and `reconcile` for a key
//! - [`queue`]: which keys wait to be reconciled, each once
//! - [`runner`]: workers that take keys from a queue
//! - [`writes`]: whether the cache already shows what a controller wrote, so that it does not act twice
//! - [`ownership`]: who controls an object; adopting and releasing
//! - [`batches`]: many similar writes at once, few first
//! - [`leader`]: one active copy among several processes, by a Lease
//! - [`metrics`]: counters per controller
//!
//! A controller reconciles from state: it is handed a key, never an event, and makes reality match the object as it is now. Nothing
//! here polls; a controller without work costs nothing.

#![forbid(unsafe_code)]

pub mod batches;
pub mod leader;
pub mod metrics;
pub mod ownership;
pub mod queue;
pub mod reconciler;
pub mod runner;
pub mod writes;

pub use client::{Change, Clock, EventRecorder, EventType, Index, Informer, Informers, ObjectKey, Watchable, key_of};
pub use queue::WorkQueue;
pub use reconciler::{Doing, Outcome, ReconcileError, Reconciler, Trigger};
pub use runner::Runner;
pub use writes::Writes;
