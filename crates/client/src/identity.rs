//! Who an in-process request is from. Over TLS the API server finds that out from certificates and tokens; in process the
//! request carries it as an extension, which only code of this process can set.

use std::sync::Arc;

/// A user as the API server's authorization and audit see it. Kept as an extension of in-process requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user's name, for example `system:kube-scheduler`.
    pub user: Arc<str>,
    /// The user's unique id, where there is one.
    pub uid: Option<Arc<str>>,
    /// The groups, among them `system:authenticated`.
    pub groups: Arc<[String]>,
}

impl Identity {
    /// A user with the given groups, and with `system:authenticated`, which every known user is in.
    pub fn user(name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().copied().chain(["system:authenticated"]).map(str::to_owned).collect();
        Self { user: name.into(), uid: None, groups }
    }

    /// The service account `name` in `namespace`.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let of_namespace = format!("system:serviceaccounts:{namespace}");
        Self::user(&format!("system:serviceaccount:{namespace}:{name}"), &["system:serviceaccounts", &of_namespace])
    }

    /// The node called `name`.
    pub fn node(name: &str) -> Self {
        Self::user(&format!("system:node:{name}"), &["system:nodes"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_account_is_in_the_groups_of_all_and_of_its_namespace() {
        let identity = Identity::service_account("kube-system", "job-controller");
        assert_eq!(&*identity.user, "system:serviceaccount:kube-system:job-controller");
        assert_eq!(*identity.groups, ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"]);
    }
}
