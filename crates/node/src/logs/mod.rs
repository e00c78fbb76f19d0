//! Container logs: [`line`] reads the CRI format, [`reader`] serves parts of a log and follows it, [`rotation`] keeps it small, [`place`] opens it
//! without being led elsewhere.

pub mod line;
pub mod place;
pub mod reader;
pub mod rotation;
