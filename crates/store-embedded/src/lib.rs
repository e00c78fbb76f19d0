//! The durable store of a single server: group commit to a log, encryption, compaction.
