//! The Dialer seam: how the API server reaches nodes, pods and webhook back ends.
