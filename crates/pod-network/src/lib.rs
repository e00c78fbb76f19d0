//! Pod addresses and links of one node, and its routes to the others.
