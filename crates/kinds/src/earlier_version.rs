//! A beta or alpha version of a kind that is kept in another version: everything is judged in the form that is kept, so that all
//! versions have one behaviour.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use meta::{FieldError, Object, schema::Schema};
use serde_json::{Map, Value};

use crate::{
    scheme::{KindInfo, ServedKind, TableColumn},
    strategy::{DeletionGrace, NameRule, WriteContext},
};

/// A kind in a version beside the one that it is kept in.
pub struct EarlierVersion {
    info: KindInfo,
    schema: Schema,
    stable: Arc<dyn ServedKind>,
}

impl EarlierVersion {
    /// Names and shape of the version, and the kind that it is kept as.
    pub fn new(info: KindInfo, schema: Schema, stable: Arc<dyn ServedKind>) -> Self {
        Self { info, schema, stable }
    }
    fn name(&self, object: &mut Object, stable: bool) {
        let info = if stable { self.stable.info() } else { &self.info };
        object.0.insert("apiVersion".to_owned(), info.kind.group_version().to_string().into());
    }
    /// `resource.k8s.io/v1beta1` has the parts of a request and of a device in one.
    fn is_flat(&self) -> bool {
        &*self.info.kind.group == "resource.k8s.io" && &*self.info.kind.version == "v1beta1"
    }
    fn stable_form(&self, object: &Object) -> Object {
        let mut object = object.clone();
        if self.is_flat() {
            devices::nest(&mut object.0);
        }
        self.name(&mut object, true);
        object
    }
    fn own_form(&self, mut object: Object) -> Object {
        if self.is_flat() {
            devices::flatten(&mut object.0);
        }
        self.name(&mut object, false);
        object
    }
    fn through<T>(&self, object: &mut Object, act: impl FnOnce(&mut Object) -> Result<T, String>) -> Result<T, String> {
        let mut stable = self.stable_form(object);
        let outcome = act(&mut stable)?;
        *object = self.own_form(stable);
        Ok(outcome)
    }
}

impl ServedKind for EarlierVersion {
    fn info(&self) -> &KindInfo {
        &self.info
    }
    fn schema(&self) -> &Schema {
        &self.schema
    }
    fn from_storage(&self, object: Object) -> Result<Object, String> {
        Ok(self.own_form(object))
    }
    fn to_storage(&self, object: Object) -> Result<Object, String> {
        Ok(self.stable_form(&object))
    }
    fn looks_as_stored(&self) -> bool {
        !self.is_flat()
    }
    fn default(&self, object: &mut Object) -> Result<(), String> {
        self.through(object, |object| self.stable.default(object))
    }
    fn finish_create(&self, context: &WriteContext, new: &mut Object) -> Result<Vec<FieldError>, String> {
        self.through(new, |new| self.stable.finish_create(context, new))
    }
    fn finish_update(&self, context: &WriteContext, new: &mut Object, old: &Object) -> Result<Vec<FieldError>, String> {
        let old = self.stable_form(old);
        self.through(new, |new| self.stable.finish_update(context, new, &old))
    }
    fn finish_status_update(&self, context: &WriteContext, new: &mut Object, old: &Object) -> Result<Vec<FieldError>, String> {
        let old = self.stable_form(old);
        self.through(new, |new| self.stable.finish_status_update(context, new, &old))
    }
    fn prepare_subresource_update(&self, subresource: &str, new: &mut Object, old: &Object) -> Result<(), String> {
        let old = self.stable_form(old);
        self.through(new, |new| self.stable.prepare_subresource_update(subresource, new, &old))
    }
    fn finish_subresource_update(&self, subresource: &str, new: &mut Object, old: &Object) -> Result<Vec<FieldError>, String> {
        let old = self.stable_form(old);
        self.through(new, |new| self.stable.finish_subresource_update(subresource, new, &old))
    }
    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let old = old.map(|old| self.stable_form(old));
        self.stable.warnings(&self.stable_form(new), old.as_ref())
    }
    fn name_rule(&self) -> NameRule {
        self.stable.name_rule()
    }
    fn tracks_generation(&self) -> bool {
        self.stable.tracks_generation()
    }
    fn allows_create_on_update(&self) -> bool {
        self.stable.allows_create_on_update()
    }
    fn allows_unconditional_update(&self) -> bool {
        self.stable.allows_unconditional_update()
    }
    fn selectable_fields(&self, object: &Object) -> Vec<(String, String)> {
        self.stable.selectable_fields(&self.stable_form(object))
    }
    fn is_selectable(&self, field: &str) -> bool {
        self.stable.is_selectable(field)
    }
    fn columns(&self) -> Vec<TableColumn> {
        self.stable.columns()
    }
    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        self.stable.row(&self.stable_form(object), now)
    }
    fn deletion_grace(&self, object: &Object, requested: Option<i64>) -> DeletionGrace {
        self.stable.deletion_grace(&self.stable_form(object), requested)
    }
    fn orphans_by_default(&self) -> bool {
        self.stable.orphans_by_default()
    }
    fn lifetime(&self) -> Option<Duration> {
        self.stable.lifetime()
    }
}

/// The two shapes of requests and devices in `resource.k8s.io`.
mod devices {
    use super::{Map, Value};

    /// What the stable form keeps under `exactly`.
    const OF_REQUESTS: &[&str] = &["adminAccess", "allocationMode", "capacity", "count", "deviceClassName", "selectors", "tolerations"];

    fn each<'a>(object: &'a mut Map<String, Value>, list: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> + use<'a> {
        let spec = object.get_mut("spec").and_then(Value::as_object_mut);
        // The specification of a template lies one deeper.
        let spec = spec.and_then(|spec| match spec.get("spec").is_some_and(Value::is_object) {
            true => spec.get_mut("spec").and_then(Value::as_object_mut),
            false => Some(spec),
        });
        let found = spec.and_then(|spec| match list {
            "requests" => spec.get_mut("devices").and_then(|devices| devices.get_mut("requests")),
            _ => spec.get_mut("devices"),
        });
        found.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
    }

    /// Into the stable form.
    pub fn nest(object: &mut Map<String, Value>) {
        let flat = |request: &&mut Map<String, Value>| !request.contains_key("firstAvailable") && !request.contains_key("exactly");
        for request in each(object, "requests").filter(flat) {
            let taken = OF_REQUESTS.iter().filter_map(|field| request.remove(*field).map(|value| ((*field).to_owned(), value)));
            let exactly: Map<String, Value> = taken.collect();
            if !exactly.is_empty() {
                request.insert("exactly".to_owned(), Value::Object(exactly));
            }
        }
        for device in each(object, "devices") {
            if let Some(Value::Object(basic)) = device.remove("basic") {
                device.extend(basic);
            }
        }
    }

    /// Into the earlier one.
    pub fn flatten(object: &mut Map<String, Value>) {
        for request in each(object, "requests") {
            if let Some(Value::Object(exactly)) = request.remove("exactly") {
                request.extend(exactly);
            }
        }
        for device in each(object, "devices").filter(|device| !device.contains_key("basic")) {
            let name = device.remove("name");
            let basic = std::mem::take(device);
            device.extend(name.map(|name| ("name".to_owned(), name)));
            device.insert("basic".to_owned(), Value::Object(basic));
        }
    }
}

#[cfg(test)]
mod tests {
    use meta::names::GroupVersionKind;
    use serde_json::json;

    use super::*;

    #[test]
    fn flat_requests_and_devices_come_back_from_the_stable_form() {
        let scheme = crate::served::serve(&crate::RuntimeConfig::parse("api/all=true").unwrap());
        let claim = |version: &str, request: Value| {
            let api_version = format!("resource.k8s.io/{version}");
            let spec = json!({"devices": {"requests": [request]}});
            json!({"apiVersion": api_version, "kind": "ResourceClaim", "metadata": {"name": "a"}, "spec": spec})
        };
        let exactly = json!({"deviceClassName": "gpu.example.com", "count": 2, "allocationMode": "ExactCount"});
        let mut request = exactly.clone();
        request["name"] = json!("gpu");
        let flat = claim("v1beta1", request);
        let stable = claim("v1", json!({"name": "gpu", "exactly": exactly}));
        let kind = scheme.by_kind(&GroupVersionKind::new("resource.k8s.io", "v1beta1", "ResourceClaim")).unwrap();
        let stored = kind.to_storage(Object::from_value(flat.clone()).unwrap()).unwrap();
        assert_eq!(stored.clone().into_value(), stable);
        assert_eq!(kind.from_storage(stored).unwrap().into_value(), flat);
        let slice = json!({"apiVersion": "resource.k8s.io/v1beta1", "kind": "ResourceSlice", "metadata": {"name": "a"},
            "spec": {"driver": "d", "devices": [{"name": "one", "basic": {"attributes": {"a": {"int": 1}}}}]}});
        let kind = scheme.by_kind(&GroupVersionKind::new("resource.k8s.io", "v1beta1", "ResourceSlice")).unwrap();
        let stored = kind.to_storage(Object::from_value(slice.clone()).unwrap()).unwrap();
        assert_eq!(stored.0["spec"]["devices"], json!([{"name": "one", "attributes": {"a": {"int": 1}}}]));
        assert_eq!(kind.from_storage(stored).unwrap().into_value(), slice);
    }
}
