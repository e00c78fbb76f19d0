//! Container logs: [`line`] reads the CRI format, [`reader`] serves parts of a log and follows it, [`rotation`] keeps it small.

pub mod line;
pub mod reader;
pub mod rotation;
