//! The cluster's names, answered by every node itself.
