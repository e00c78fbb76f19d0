//! What this node has attached, one small file per sandbox on tmpfs: written before the kernel is touched, removed after
//! it is clean again. So an agent that was killed at any point knows what to take away, and gives no address twice.

use std::{
    collections::HashMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use pod_sandbox_network::AttachRequest;
use serde::{Deserialize, Serialize};

use crate::names;

/// One attached sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// What was asked for.
    pub request: AttachRequest,
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
}

/// The directory of records.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
}

impl Records {
    /// Opens the directory, made where it is missing, and reads what is in it. A record that cannot be read (a torn
    /// write) is removed: nothing was attached under it yet.
    pub fn open(directory: &Path) -> io::Result<(Self, HashMap<String, Attachment>)> {
        fs::create_dir_all(directory)?;
        let mut attachments = HashMap::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let read = fs::read(&path)?;
            match serde_json::from_slice::<Attachment>(&read) {
                Ok(attachment) if path.extension().is_some_and(|extension| extension == "json") => {
                    attachments.insert(attachment.request.sandbox.clone(), attachment);
                }
                _ => {
                    tracing::warn!(path = %path.display(), "removing a record of the pod network that cannot be read");
                    fs::remove_file(&path)?;
                }
            }
        }
        Ok((Self { directory: directory.to_owned() }, attachments))
    }

    /// Writes a record.
    pub fn write(&self, attachment: &Attachment) -> io::Result<()> {
        let path = self.directory.join(names::record_name(&attachment.request.sandbox));
        let temporary = path.with_extension("new");
        fs::write(&temporary, serde_json::to_vec(attachment)?)?;
        fs::rename(temporary, path)
    }

    /// Removes a record; one that is gone is fine.
    pub fn remove(&self, sandbox: &str) -> io::Result<()> {
        match fs::remove_file(self.directory.join(names::record_name(sandbox))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
