//! OpenAPI documents of other servers among this one's: of version 2 everything in one document, of version 3 by the index.

use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Remote, back_end::BackEndServer};
use crate::core::Core;

/// What another server publishes.
#[derive(Clone, Default)]
pub struct RemoteDocuments {
    /// `/openapi/v2`
    pub second: Option<Arc<Value>>,
    /// Where its document of version 3 is.
    pub third: Option<String>,
    /// Changes with the two.
    pub hash: String,
}

impl RemoteDocuments {
    /// Asks for them; a server may do without either.
    pub async fn read(server: &BackEndServer, core: &Core, group: &str, version: &str) -> Self {
        let second = server.get(core, "/openapi/v2").await.ok().map(Arc::new);
        let index = server.get(core, "/openapi/v3").await.ok();
        let url = index.as_ref().and_then(|index| index.get("paths")?.get(format!("apis/{group}/{version}"))?.get("serverRelativeURL")?.as_str());
        let third = url.map(str::to_owned);
        let mut digest = Sha256::new();
        digest.update(second.as_ref().map(|document| document.to_string()).unwrap_or_default());
        digest.update(third.as_deref().unwrap_or_default());
        let hash = digest.finalize().iter().map(|byte| format!("{byte:02X}")).collect();
        Self { second, third, hash }
    }
}

fn add(into: &mut Value, part: &str, from: &Value, wanted: impl Fn(&str) -> bool) {
    if let (Some(into), Some(from)) = (into.get_mut(part).and_then(Value::as_object_mut), from.get(part).and_then(Value::as_object)) {
        for (name, value) in from.iter().filter(|(name, _)| wanted(name)) {
            // Types that both have, such as ObjectMeta, stay this server's.
            into.entry(name).or_insert_with(|| value.clone());
        }
    }
}

/// Adds what others publish to the document of version 2.
pub fn add_to_second(document: &mut Value, remotes: &[Arc<Remote>]) {
    for remote in remotes {
        let Some(theirs) = &remote.documents.second else { continue };
        let prefix = format!("/apis/{}/", remote.group);
        add(document, "paths", theirs, |path| path.starts_with(&prefix));
        add(document, "definitions", theirs, |_| true);
    }
}

/// Adds what others publish to the index of version 3.
pub fn add_to_index(index: &mut Value, remotes: &[Arc<Remote>]) {
    for remote in remotes {
        if let (Some(url), Some(paths)) = (&remote.documents.third, index.get_mut("paths").and_then(Value::as_object_mut)) {
            paths.insert(format!("apis/{}/{}", remote.group, remote.version), serde_json::json!({"serverRelativeURL": url}));
        }
    }
}

/// What the documents of all change with; empty where nobody else publishes anything.
pub fn hash(remotes: &[Arc<Remote>]) -> String {
    remotes.iter().map(|remote| remote.documents.hash.as_str()).collect()
}
