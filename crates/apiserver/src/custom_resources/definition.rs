//! The kind CustomResourceDefinition itself: its defaults, what its server fills in, and its validation.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kinds::{Column, DeletionGrace, KindInfo, NameRule, ServedKind, WriteContext, scheme::TableColumn};
use meta::{FieldError, Object, schema::Schema};
use serde_json::{Value, json};

use super::validation;

/// A CustomResourceDefinition as the generic handler sees it: the built-in shape with behaviour of its own.
pub struct DefinitionKind {
    plain: Arc<dyn ServedKind>,
}

impl DefinitionKind {
    /// Over the plain kind, which has names and shape.
    pub fn new(plain: Arc<dyn ServedKind>) -> Self {
        Self { plain }
    }
}

fn storage_version(definition: &Object) -> Option<String> {
    let versions = definition.get(&["spec", "versions"])?.as_array()?;
    let storage = versions.iter().find(|version| version.get("storage").and_then(Value::as_bool) == Some(true))?;
    storage.get("name")?.as_str().map(str::to_owned)
}

/// Names and a conversion where none are given.
fn fill_in(definition: &mut Object) {
    if !definition.0.get("spec").is_some_and(Value::is_object) {
        return;
    }
    let kind = definition.text(&["spec", "names", "kind"]).unwrap_or_default().to_owned();
    if !kind.is_empty() {
        for (name, value) in [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))] {
            if definition.text(&["spec", "names", name]).unwrap_or_default().is_empty() {
                definition.set(&["spec", "names", name], json!(value));
            }
        }
    }
    if definition.get(&["spec", "conversion"]).is_none_or(Value::is_null) {
        definition.set(&["spec", "conversion"], json!({"strategy": "None"}));
    }
}

impl ServedKind for DefinitionKind {
    fn info(&self) -> &KindInfo {
        self.plain.info()
    }
    fn schema(&self) -> &Schema {
        self.plain.schema()
    }
    fn default(&self, object: &mut Object) -> Result<(), String> {
        self.plain.default(object)?;
        fill_in(object);
        Ok(())
    }
    fn finish_create(&self, _context: &WriteContext, new: &mut Object) -> Result<Vec<FieldError>, String> {
        let stored: Vec<String> = storage_version(new).into_iter().collect();
        new.0.insert("status".to_owned(), json!({"acceptedNames": {"kind": "", "plural": ""}, "conditions": [], "storedVersions": stored}));
        Ok(validation::definition(new))
    }
    fn finish_update(&self, _context: &WriteContext, new: &mut Object, old: &Object) -> Result<Vec<FieldError>, String> {
        if let Some(storage) = storage_version(new) {
            let mut stored = new.get(&["status", "storedVersions"]).and_then(Value::as_array).cloned().unwrap_or_default();
            if !stored.iter().any(|known| known.as_str() == Some(storage.as_str())) {
                stored.push(json!(storage));
                new.set(&["status", "storedVersions"], Value::Array(stored));
            }
        }
        Ok(validation::definition_update(new, old))
    }
    fn finish_status_update(&self, _context: &WriteContext, new: &mut Object, old: &Object) -> Result<Vec<FieldError>, String> {
        // Of the metadata a status changes nothing but who manages what. Source: `statusStrategy.PrepareForUpdate`.
        let managers = new.get(&["metadata", "managedFields"]).cloned();
        if let Some(metadata) = old.0.get("metadata") {
            new.0.insert("metadata".to_owned(), metadata.clone());
        }
        match managers {
            Some(managers) => new.set(&["metadata", "managedFields"], managers),
            None => drop(new.metadata_mut().remove("managedFields")),
        }
        Ok(validation::definition_status(new))
    }
    fn warnings(&self, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }
    fn name_rule(&self) -> NameRule {
        NameRule::Dns1123Subdomain
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn allows_create_on_update(&self) -> bool {
        false
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn selectable_fields(&self, _object: &Object) -> Vec<(String, String)> {
        Vec::new()
    }
    fn is_selectable(&self, _field: &str) -> bool {
        false
    }
    fn columns(&self) -> Vec<TableColumn> {
        // The time itself is shown, not how long ago it was.
        vec![TableColumn::from(&Column::NAME), TableColumn { name: "Created At".to_owned(), ..TableColumn::from(&Column::AGE) }]
    }
    fn row(&self, object: &Object, _now: Timestamp) -> Vec<Value> {
        vec![json!(object.name()), json!(object.text(&["metadata", "creationTimestamp"]).unwrap_or_default())]
    }
    fn deletion_grace(&self, _object: &Object, _requested: Option<i64>) -> DeletionGrace {
        DeletionGrace::Immediate
    }
    fn orphans_by_default(&self) -> bool {
        false
    }
    fn lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_names_follow_from_the_kind() {
        let mut object = Object::from_value(json!({"spec": {"names": {"kind": "CronTab", "plural": "crontabs"}}})).unwrap();
        fill_in(&mut object);
        assert_eq!(
            object.0["spec"],
            json!({"names": {"kind": "CronTab", "plural": "crontabs", "singular": "crontab", "listKind": "CronTabList"}, "conversion": {"strategy": "None"}})
        );
    }
}
