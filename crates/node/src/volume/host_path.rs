//! `hostPath`: a file or directory of the node.

use std::{os::unix::fs::FileTypeExt, path::Path};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{Made, Plugin, Request};

/// The plug-in.
pub struct HostPath;

#[async_trait]
impl Plugin for HostPath {
    fn handles(&self, volume: &Volume) -> bool {
        volume.host_path.is_some()
    }

    async fn prepare(&self, request: &Request<'_>) -> Result<Made, String> {
        let source = request.volume.host_path.clone().unwrap_or_default();
        let path = Path::new(&source.path);
        check(path, source.type_.as_deref().unwrap_or_default())?;
        Ok(Made::at(path.to_owned()))
    }
}

/// Checks that a path is what the pod takes it for, making it where that is asked for.
///
/// # Errors
/// It is something else, in upstream's words.
pub fn check(path: &Path, wanted: &str) -> Result<(), String> {
    let shown = path.display();
    let failed = |problem: &str| Err(format!("hostPath type check failed: {shown} is not {problem}"));
    let io = |problem: std::io::Error| format!("could not make {shown}: {problem}");
    if matches!(wanted, "DirectoryOrCreate") && !path.exists() {
        std::fs::create_dir_all(path).map_err(io)?;
    }
    if matches!(wanted, "FileOrCreate") && !path.exists() {
        std::fs::File::create(path).map_err(io)?;
    }
    let kind = std::fs::metadata(path).map(|facts| facts.file_type()).ok();
    let is = |test: fn(&std::fs::FileType) -> bool| kind.as_ref().is_some_and(test);
    match wanted {
        "Directory" | "DirectoryOrCreate" if !is(std::fs::FileType::is_dir) => failed("a directory"),
        "File" | "FileOrCreate" if !is(std::fs::FileType::is_file) => failed("a file"),
        "Socket" if !is(FileTypeExt::is_socket) => failed("a socket file"),
        "CharDevice" if !is(FileTypeExt::is_char_device) => failed("a character device"),
        "BlockDevice" if !is(FileTypeExt::is_block_device) => failed("a block device"),
        // Without a type a missing path becomes a directory, as container runtimes do for bind mounts.
        "" if kind.is_none() => std::fs::create_dir_all(path).map_err(io),
        "" | "Directory" | "DirectoryOrCreate" | "File" | "FileOrCreate" | "Socket" | "CharDevice" | "BlockDevice" => Ok(()),
        other => Err(format!("hostPath type {other} is not known")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_is_checked() {
        let directory = tempfile::tempdir().unwrap();
        let (made, file) = (directory.path().join("a/b"), directory.path().join("file"));
        assert!(check(&made, "Directory").unwrap_err().ends_with("is not a directory"));
        check(&made, "DirectoryOrCreate").unwrap();
        check(&made, "Directory").unwrap();
        assert!(check(&made, "File").is_err());
        check(&file, "FileOrCreate").unwrap();
        check(&file, "File").unwrap();
        check(&file, "").unwrap();
        assert!(check(&file, "Socket").unwrap_err().ends_with("is not a socket file"));
        check(Path::new("/dev/null"), "CharDevice").unwrap();
        assert!(check(Path::new("/dev/null"), "BlockDevice").is_err());
    }
}
