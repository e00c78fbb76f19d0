//! Who asks.

use std::{collections::BTreeMap, sync::Arc};

/// A user as authentication found it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// Name.
    pub name: String,
    /// UID, empty for none.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Anything else authentication knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Everybody who showed credentials.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everybody who did not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Name of whoever shows no credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// May do anything.
pub const MASTERS: &str = "system:masters";

impl User {
    /// Nobody in particular.
    pub fn anonymous() -> Arc<Self> {
        Arc::new(Self { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..Self::default() })
    }
    /// Somebody with groups; `system:authenticated` is added.
    pub fn authenticated(name: impl Into<String>, uid: impl Into<String>, groups: Vec<String>) -> Self {
        let mut groups = groups;
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), uid: uid.into(), groups, extra: BTreeMap::new() }
    }
    /// Whether the user is in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|known| known == group)
    }
}
