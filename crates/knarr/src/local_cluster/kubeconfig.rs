//! The cluster's context in the user's kubeconfig: put in by `up`, taken out by `down`. Everything else in the file stays as it is.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde_yaml_ng::{Mapping, Value};

/// The lists of a kubeconfig that a cluster has one entry in each.
const LISTS: [&str; 3] = ["clusters", "users", "contexts"];

/// The file that kubectl would write a new context to: of those in `KUBECONFIG` the first that exists, else the last; without any,
/// `~/.kube/config`.
pub fn user_file() -> anyhow::Result<PathBuf> {
    let named = std::env::var_os("KUBECONFIG").unwrap_or_default();
    choose(&named, std::env::var_os("HOME"), &|path| path.exists())
}

fn choose(named: &OsString, home: Option<OsString>, exists: &dyn Fn(&Path) -> bool) -> anyhow::Result<PathBuf> {
    let files: Vec<PathBuf> = std::env::split_paths(named).filter(|path| !path.as_os_str().is_empty()).collect();
    if let Some(path) = files.iter().find(|path| exists(path)).or(files.last()) {
        return Ok(path.clone());
    }
    let home = home.filter(|home| !home.is_empty()).context("neither KUBECONFIG nor HOME is set: name a file with --kubeconfig")?;
    Ok(Path::new(&home).join(".kube/config"))
}

/// Puts a kubeconfig's entries into a file and makes its context the current one. Returns which one was that before.
pub fn put_in(path: &Path, addition: &str) -> anyhow::Result<Option<String>> {
    let mut whole = read(path)?;
    let addition: Mapping = serde_yaml_ng::from_str(addition).context("the cluster's kubeconfig cannot be read")?;
    let previous = merge(&mut whole, addition)?;
    write(path, &whole)?;
    Ok(previous)
}

/// Takes a context with its cluster and user out of a file; `previous` becomes the current one again, unless the user chose another.
pub fn take_out(path: &Path, name: &str, previous: Option<&str>) -> anyhow::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let mut whole = read(path)?;
    if remove(&mut whole, name, previous) { write(path, &whole) } else { Ok(()) }
}

fn read(path: &Path) -> anyhow::Result<Mapping> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    if text.trim().is_empty() {
        return Ok([("apiVersion", "v1"), ("kind", "Config")].into_iter().map(|(key, value)| (Value::from(key), Value::from(value))).collect());
    }
    serde_yaml_ng::from_str(&text).with_context(|| format!("{} is no kubeconfig; mend it, or name another file with --kubeconfig", path.display()))
}

fn name_of(entry: &Value) -> Option<&str> {
    entry.get("name")?.as_str()
}

fn merge(whole: &mut Mapping, addition: Mapping) -> anyhow::Result<Option<String>> {
    for list in LISTS {
        let new = addition.get(list).and_then(Value::as_sequence).cloned().unwrap_or_default();
        let entries = whole.entry(Value::from(list)).or_insert(Value::Null);
        if entries.is_null() {
            *entries = Value::Sequence(Vec::new());
        }
        let Some(entries) = entries.as_sequence_mut() else { bail!("the kubeconfig's `{list}` is no list") };
        entries.retain(|old| !new.iter().any(|new| name_of(new) == name_of(old)));
        entries.extend(new);
    }
    let previous = whole.get("current-context").and_then(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned);
    if let Some(current) = addition.get("current-context") {
        whole.insert(Value::from("current-context"), current.clone());
    }
    Ok(previous.filter(|previous| addition.get("current-context").and_then(Value::as_str) != Some(previous)))
}

fn remove(whole: &mut Mapping, name: &str, previous: Option<&str>) -> bool {
    let mut changed = false;
    for list in LISTS {
        if let Some(entries) = whole.get_mut(list).and_then(Value::as_sequence_mut) {
            let before = entries.len();
            entries.retain(|entry| name_of(entry) != Some(name));
            changed |= entries.len() != before;
        }
    }
    if whole.get("current-context").and_then(Value::as_str) == Some(name) {
        let contexts = whole.get("contexts").and_then(Value::as_sequence);
        let still_there = |wanted: &&str| contexts.into_iter().flatten().any(|context| name_of(context) == Some(wanted));
        let current = previous.filter(still_there).unwrap_or("");
        whole.insert(Value::from("current-context"), Value::from(current));
        changed = true;
    }
    changed
}

/// Writes the file as a whole. It stays its owner's, and a link stays a link.
fn write(path: &Path, whole: &Mapping) -> anyhow::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    pki::private_file::create_directory(directory)?;
    let owner = fs::metadata(&path).or_else(|_| fs::metadata(directory)).map(|metadata| (metadata.uid(), metadata.gid()));
    pki::private_file::write(&path, serde_yaml_ng::to_string(whole)?.as_bytes())?;
    if let Ok((user, group)) = owner {
        std::os::unix::fs::chown(&path, Some(user), Some(group)).with_context(|| format!("cannot give {} back to its owner", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "apiVersion: v1\nkind: Config\nclusters:\n- {name: knarr-x, cluster: {server: 'https://10.0.0.2:6443'}}\n\
                        users:\n- {name: knarr-x, user: {token: t}}\ncontexts:\n- {name: knarr-x, context: {cluster: knarr-x, user: knarr-x}}\n\
                        current-context: knarr-x\n";
    const THEIRS: &str = "apiVersion: v1\nkind: Config\npreferences: {colors: true}\nclusters:\n- name: work\n  cluster:\n    server: https://work\n\
                          users:\n- name: me\n  user:\n    token: mine\ncontexts:\n- name: work\n  context:\n    cluster: work\n    user: me\n\
                          current-context: work\n";

    #[test]
    fn a_context_comes_and_goes_and_the_rest_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        fs::write(&path, THEIRS).unwrap();
        assert_eq!(put_in(&path, OURS).unwrap().as_deref(), Some("work"));
        let with = fs::read_to_string(&path).unwrap();
        assert!(with.contains("current-context: knarr-x") && with.contains("server: https://work"), "{with}");
        assert_eq!(put_in(&path, OURS).unwrap(), None, "a second time it is the current one already");
        assert_eq!(fs::read_to_string(&path).unwrap(), with);
        take_out(&path, "knarr-x", Some("work")).unwrap();
        let before: Value = serde_yaml_ng::from_str(THEIRS).unwrap();
        let after: Value = serde_yaml_ng::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(after, before);
    }

    #[test]
    fn a_context_the_user_chose_meanwhile_stays_the_current_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/config");
        assert_eq!(put_in(&path, OURS).unwrap(), None);
        let text = fs::read_to_string(&path).unwrap().replace("current-context: knarr-x", "current-context: other");
        fs::write(&path, text).unwrap();
        take_out(&path, "knarr-x", None).unwrap();
        let after = fs::read_to_string(&path).unwrap();
        assert!(after.contains("current-context: other") && after.contains("clusters: []"), "{after}");
    }

    #[test]
    fn the_file_is_the_one_that_kubectl_would_write_to() {
        let home = || Some(OsString::from("/users/me"));
        let check = |named: &str, there: &str, expected: &str| {
            assert_eq!(choose(&named.into(), home(), &|path| path == Path::new(there)).unwrap(), Path::new(expected));
        };
        check("", "", "/users/me/.kube/config");
        check("/a:/b", "/b", "/b");
        check("/a:/b", "", "/b");
        assert!(choose(&OsString::new(), None, &|_| false).is_err());
    }
}
