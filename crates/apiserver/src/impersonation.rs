//! Acting as somebody else, by the `Impersonate-*` headers, for those who have the right to.
//!
//! Source: Kubernetes `apiserver/pkg/endpoints/filters/impersonation.go`.

use std::sync::Arc;

use http::HeaderMap;
use meta::{ApiError, GroupResource};

use crate::{
    authorization::{Attributes, Authorizer, Decision},
    core::Core,
    user::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User},
};

/// The user a request is to be answered as.
///
/// # Errors
/// 403 where the one who asks may not, 400 for headers that make no sense.
pub fn impersonate(core: &Core, headers: &HeaderMap, user: Arc<User>) -> Result<Arc<User>, ApiError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let Some(name) = text("impersonate-user") else {
        if headers.keys().any(|header| header.as_str().starts_with("impersonate-")) {
            return Err(ApiError::bad_request("requested impersonation without impersonating a user: set the header Impersonate-User"));
        }
        return Ok(user);
    };
    let check = |group: &str, resource: &str, namespace: &str, name: &str, subresource: &str| {
        let attributes = Attributes {
            user: &user,
            verb: "impersonate",
            group,
            version: "v1",
            resource,
            subresource,
            namespace,
            name,
            is_resource: true,
            path: "",
            field_selector: "", label_selector: None,
        };
        match core.authorization.authorize(&attributes) {
            Decision::Allow(_) => Ok(()),
            _ => Err(ApiError::forbidden(&GroupResource::new(group, resource), name, attributes.describe_refusal())),
        }
    };
    let mut groups: Vec<String> =
        headers.get_all("impersonate-group").iter().filter_map(|value| value.to_str().ok().map(str::to_owned)).collect();
    if let Some((namespace, account)) = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        check("", "serviceaccounts", namespace, account, "")?;
        if groups.is_empty() {
            groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        }
    } else {
        check("", "users", "", &name, "")?;
    }
    for group in headers.get_all("impersonate-group").iter().filter_map(|value| value.to_str().ok()) {
        check("", "groups", "", group, "")?;
    }
    let uid = text("impersonate-uid");
    if let Some(uid) = &uid {
        check("authentication.k8s.io", "uids", "", uid, "")?;
    }
    let mut acting = User { name, uid: uid.unwrap_or_default(), groups, ..User::default() };
    for header in headers.keys().filter_map(|header| header.as_str().strip_prefix("impersonate-extra-")) {
        let key = url::form_urlencoded::parse(format!("k={header}").as_bytes()).next().map_or_else(String::new, |(_, value)| value.into_owned());
        let values: Vec<String> = headers
            .get_all(format!("impersonate-extra-{header}"))
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        for value in &values {
            check("authentication.k8s.io", "userextras", "", value, &key)?;
        }
        acting.extra.insert(key, values);
    }
    if acting.name == ANONYMOUS {
        if !acting.in_group(UNAUTHENTICATED) {
            acting.groups.push(UNAUTHENTICATED.to_owned());
        }
    } else if !acting.in_group(AUTHENTICATED) && !acting.in_group(UNAUTHENTICATED) {
        acting.groups.push(AUTHENTICATED.to_owned());
    }
    Ok(Arc::new(acting))
}
