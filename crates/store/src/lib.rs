//! The Store seam: ordered, versioned, opaque bytes; with the in-memory store and the contract suite every store passes.
