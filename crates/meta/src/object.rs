//! An API object as a JSON tree, with its metadata at hand.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// A JSON object with apiVersion, kind and metadata. The tree is open: behaviour that is not about metadata walks it
/// with a schema, or takes a typed copy ([`Object::decode`]).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Object(pub Map<String, Value>);

impl Object {
    /// From a tree; anything but a JSON object is handed back.
    ///
    /// # Errors
    /// The value itself, where it is no object.
    pub fn from_value(value: Value) -> Result<Self, Value> {
        match value {
            Value::Object(map) => Ok(Self(map)),
            other => Err(other),
        }
    }
    /// The tree.
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }
    /// A typed copy.
    ///
    /// # Errors
    /// Where the tree does not have the type's shape; the normalising reader has made sure of it for user input.
    pub fn decode<K: DeserializeOwned>(&self) -> Result<K, serde_json::Error> {
        serde_json::from_value(Value::Object(self.0.clone()))
    }
    /// From a typed object.
    ///
    /// # Errors
    /// Where it does not serialize to a JSON object.
    pub fn encode<K: Serialize>(value: &K) -> Result<Self, serde_json::Error> {
        match serde_json::to_value(value)? {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(serde::ser::Error::custom("an API object must be a JSON object")),
        }
    }
    /// The value at a path of field names.
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.0.get(*first)?, |value, name| value.get(name))
    }
    /// Text at a path of field names.
    pub fn text(&self, path: &[&str]) -> Option<&str> {
        self.get(path)?.as_str()
    }
    /// Sets the value at a path, making objects on the way (and replacing anything else that stands there).
    pub fn set(&mut self, path: &[&str], value: Value) {
        let Some((last, parents)) = path.split_last() else { return };
        let mut map = &mut self.0;
        for name in parents {
            let entry = map.entry((*name).to_owned()).or_insert_with(|| Value::Object(Map::new()));
            if !entry.is_object() {
                *entry = Value::Object(Map::new());
            }
            let Value::Object(inner) = entry else { return };
            map = inner;
        }
        map.insert((*last).to_owned(), value);
    }
    /// Takes the value at a path away.
    pub fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        let mut map = &mut self.0;
        for name in parents {
            map = map.get_mut(*name)?.as_object_mut()?;
        }
        map.remove(*last)
    }
    /// `apiVersion`, empty where absent.
    pub fn api_version(&self) -> &str {
        self.text(&["apiVersion"]).unwrap_or_default()
    }
    /// `kind`, empty where absent.
    pub fn kind(&self) -> &str {
        self.text(&["kind"]).unwrap_or_default()
    }
    /// `metadata.name`, empty where absent.
    pub fn name(&self) -> &str {
        self.text(&["metadata", "name"]).unwrap_or_default()
    }
    /// `metadata.generateName`, empty where absent.
    pub fn generate_name(&self) -> &str {
        self.text(&["metadata", "generateName"]).unwrap_or_default()
    }
    /// `metadata.namespace`, empty where absent.
    pub fn namespace(&self) -> &str {
        self.text(&["metadata", "namespace"]).unwrap_or_default()
    }
    /// `metadata.uid`, empty where absent.
    pub fn uid(&self) -> &str {
        self.text(&["metadata", "uid"]).unwrap_or_default()
    }
    /// `metadata.resourceVersion`, empty where absent.
    pub fn resource_version(&self) -> &str {
        self.text(&["metadata", "resourceVersion"]).unwrap_or_default()
    }
    /// `metadata.generation`, 0 where absent.
    pub fn generation(&self) -> i64 {
        self.get(&["metadata", "generation"]).and_then(Value::as_i64).unwrap_or_default()
    }
    /// `metadata.deletionTimestamp`
    pub fn deletion_timestamp(&self) -> Option<&str> {
        self.text(&["metadata", "deletionTimestamp"])
    }
    /// `metadata.finalizers`
    pub fn finalizers(&self) -> Vec<&str> {
        self.get(&["metadata", "finalizers"])
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default()
    }
    /// `metadata.labels`
    pub fn labels(&self) -> Option<&Map<String, Value>> {
        self.get(&["metadata", "labels"])?.as_object()
    }
    /// `metadata.annotations`
    pub fn annotations(&self) -> Option<&Map<String, Value>> {
        self.get(&["metadata", "annotations"])?.as_object()
    }
    /// `metadata`, made where absent.
    pub fn metadata_mut(&mut self) -> &mut Map<String, Value> {
        let entry = self.0.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if !entry.is_object() {
            *entry = Value::Object(Map::new());
        }
        match entry {
            Value::Object(map) => map,
            _ => unreachable!("it was made an object just above"),
        }
    }
}
