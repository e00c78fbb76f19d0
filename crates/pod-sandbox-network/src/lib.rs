//! The seam between a node and whatever gives its pods their addresses.
