//! The cluster's certificate authority, the certificates it signs and the keys that sign tokens.
