//! Typed nftables transactions, sent to the kernel in one batch.
