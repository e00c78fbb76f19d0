//! Services as nftables verdict maps, updated in one transaction per change.
