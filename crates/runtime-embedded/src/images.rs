//! Images: from a registry (`pull.rs`) or an archive (`import.rs`) into layers that containers share (`layers.rs`).
//!
//! Everything is verified by its digest, streamed, bounded, and durable against being killed at any moment.

pub mod configuration;
pub mod digest;
pub mod import;
pub mod layers;
pub mod pull;
pub mod registries;
pub mod store;
pub mod unpack;
