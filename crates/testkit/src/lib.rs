//! A whole cluster for tests: in one process with a memory store, or real, with the real clients.
