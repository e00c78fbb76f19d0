//! Kernel parameters of the calling thread's network namespace, under `/proc/sys`.

use std::{fs, io, path::PathBuf};

/// A parameter that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("could not {doing} the kernel parameter {name}")]
pub struct SysctlError {
    doing: &'static str,
    name: String,
    #[source]
    source: io::Error,
}

impl SysctlError {
    /// Whether this kernel or namespace has no such parameter.
    pub fn is_unknown(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

fn path_of(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

/// Reads a parameter by its path below `/proc/sys`, such as `net/ipv4/ip_forward`.
pub fn read_sysctl(name: &str) -> Result<String, SysctlError> {
    fs::read_to_string(path_of(name))
        .map(|value| value.trim().to_owned())
        .map_err(|source| SysctlError { doing: "read", name: name.to_owned(), source })
}

/// Writes a parameter by its path below `/proc/sys`.
pub fn write_sysctl(name: &str, value: &str) -> Result<(), SysctlError> {
    fs::write(path_of(name), value).map_err(|source| SysctlError { doing: "write", name: name.to_owned(), source })
}
