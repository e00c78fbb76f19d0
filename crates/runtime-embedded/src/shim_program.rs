//! The shim's program: embedded in us, written once per boot to a file named after its content, and started from there.
//!
//! Being a file of its own, it is shared by all shims of one release, and an upgrade of the agent leaves it alone.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use shim::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{images::digest, records};

/// The static executable that `build.rs` made.
static PROGRAM: &[u8] = include_bytes!(env!("KNARR_SHIM_PROGRAM"));

/// Writes the program below the first of these directories where it may be executed.
///
/// # Errors
/// Where it can be written to none.
pub fn install(directories: [&Path; 2]) -> io::Result<PathBuf> {
    let name = format!("shim-{}", digest::hex(&digest::of(PROGRAM)).chars().take(16).collect::<String>());
    let mut problem = io::Error::from(io::ErrorKind::PermissionDenied);
    for directory in directories {
        let directory = directory.join("bin");
        std::fs::create_dir_all(&directory)?;
        if rustix::fs::statvfs(&directory)?.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC) {
            continue;
        }
        let path = directory.join(&name);
        // Its name says what it holds, and it is renamed into place when it is whole.
        if path.metadata().is_ok_and(|metadata| metadata.len() == PROGRAM.len() as u64) {
            return Ok(path);
        }
        let written = records::write_bytes(&path, PROGRAM).and_then(|()| std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)));
        match written {
            Ok(()) => return Ok(path),
            Err(error) => problem = error,
        }
    }
    Err(problem)
}

/// Starts a shim in its sandbox's directory; gives its answer, which holds its pid.
///
/// # Errors
/// A sentence that says why it did not start.
pub async fn start(program: &Path, directory: &Path, configuration: &Message) -> Result<Message, String> {
    let mut child = tokio::process::Command::new(program)
        .current_dir(directory)
        .env_clear()
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .map_err(|error| format!("could not start the shim {}: {error}", program.display()))?;
    let answer = async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&configuration.encode()).await?;
        }
        let mut bytes = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(shim::MAX_MESSAGE_BYTES as u64).read_to_end(&mut bytes).await?;
        }
        Ok::<_, io::Error>(bytes)
    };
    let answer = answer.await;
    // Whoever is its parent when it ends must reap it: us, or whoever inherits it when we die first.
    tokio::spawn(async move { child.wait().await });
    let mut bytes = answer.map_err(|error| format!("could not talk to the new shim: {error}"))?;
    match Message::take_from(&mut bytes) {
        Ok(Some(message)) if message.verb() == "ready" => Ok(message),
        Ok(Some(message)) => Err(message.text("error").unwrap_or("the shim did not say why it failed").to_owned()),
        _ => Err("the shim ended without a word".to_owned()),
    }
}
