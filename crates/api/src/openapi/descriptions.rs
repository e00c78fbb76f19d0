//! Descriptions of types and fields: taken out of `k8s-openapi` by `build.rs`, packed in the program, and unpacked for as long as a
//! document is written.

use std::{collections::HashMap, io::Read};

use flate2::read::ZlibDecoder;
use serde_json::Value;

/// Lines of a definition's name, a tab, and its words as JSON.
static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.zlib"));

/// The words of every type, each read when it is asked for.
pub(super) struct Descriptions {
    text: String,
    lines: HashMap<String, std::ops::Range<usize>>,
}

impl Descriptions {
    /// Unpacks them.
    pub(super) fn unpack() -> Self {
        let mut text = String::new();
        // What the build packed itself can be unpacked.
        let _ = ZlibDecoder::new(PACKED).read_to_string(&mut text);
        let mut lines = HashMap::new();
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            if let Some((name, _)) = line.split_once('\t') {
                lines.insert(name.to_owned(), start + name.len() + 1..start + line.len());
            }
            start += line.len();
        }
        Self { text, lines }
    }

    /// `description` of a type and of its fields under `properties`; null where there are none.
    pub(super) fn of(&self, name: &str) -> Value {
        self.lines.get(name).and_then(|range| serde_json::from_str(self.text.get(range.clone())?).ok()).unwrap_or_default()
    }

    #[cfg(test)]
    fn names(&self) -> impl Iterator<Item = &str> {
        self.lines.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_served_kind_is_described() {
        let descriptions = Descriptions::unpack();
        for resource in crate::resources() {
            let index = crate::table().root(resource.group, resource.version, resource.kind).unwrap();
            let words = descriptions.of(&crate::types().object(index).name);
            assert!(words["description"].is_string() || words["properties"].is_object(), "{resource:?}");
        }
    }

    #[test]
    fn descriptions_are_named_like_the_types_of_the_table() {
        let descriptions = Descriptions::unpack();
        let mut known = 0;
        for name in descriptions.names() {
            let Some(index) = crate::type_named(name) else { continue };
            known += 1;
            let object = crate::types().object(index);
            for field in descriptions.of(name)["properties"].as_object().into_iter().flatten().map(|(field, _)| field) {
                assert!(object.field(field).is_some(), "{name}.{field} is not in the table");
            }
        }
        assert!(known > 300, "only {known} types are described");
    }
}
