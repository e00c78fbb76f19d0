//! A folder per controller.
