//! Kernel parameters that the node needs changed, with a record of how they were, so that they can be put back.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use netlink::{SysctlError, read_sysctl, write_sysctl};

/// Why a parameter could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ParameterError {
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] SysctlError),
    /// The record could not be written, so nothing was changed.
    #[error("could not record the kernel parameter {name} in {path}")]
    Record {
        /// The parameter.
        name: String,
        /// The record.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// The record of changed parameters.
#[derive(Debug)]
pub struct KernelParameters {
    path: PathBuf,
    before: BTreeMap<String, String>,
}

impl KernelParameters {
    /// Opens the record; what cannot be read counts as empty.
    pub fn open(path: &Path) -> Self {
        let before = fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { path: path.to_owned(), before }
    }

    /// Sets a parameter, recording its value from before the first change.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), ParameterError> {
        let now = read_sysctl(name)?;
        if now == value {
            return Ok(());
        }
        if !self.before.contains_key(name) {
            self.before.insert(name.to_owned(), now);
            let bytes = serde_json::to_vec(&self.before).unwrap_or_default();
            fs::write(&self.path, bytes).map_err(|source| ParameterError::Record {
                name: name.to_owned(),
                path: self.path.display().to_string(),
                source,
            })?;
        }
        Ok(write_sysctl(name, value)?)
    }

    /// Puts everything back as it was.
    pub fn restore(&mut self) -> Result<(), ParameterError> {
        for (name, value) in &self.before {
            match write_sysctl(name, value) {
                Err(error) if !error.is_unknown() => return Err(error.into()),
                _ => {}
            }
        }
        self.before.clear();
        let _ = fs::remove_file(&self.path);
        Ok(())
    }
}
