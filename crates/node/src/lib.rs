//! The node agent: pod workers, probes, volumes, status, and the node's own API.
