//! The shape of objects: one type for built-in kinds (filled from `api`'s table) and custom resources (filled from their
//! definition). Strict reading, pruning, defaulting, strategic merge, server-side apply, protobuf and OpenAPI all walk it.

use std::sync::Arc;

use serde_json::Value;

/// Index of an [`ObjectType`] in its [`Types`]; types refer to each other by it, so they may be recursive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeIndex(pub u32);

/// An arena of object types.
#[derive(Debug, Clone, Default)]
pub struct Types {
    /// The types.
    pub objects: Vec<ObjectType>,
}

/// An object with named fields.
#[derive(Debug, Clone, Default)]
pub struct ObjectType {
    /// Upstream's definition name (`io.k8s.api.core.v1.Container`); empty for nested types of custom resources.
    pub name: Box<str>,
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// What happens to fields that are not named.
    pub unknown: UnknownFields,
    /// Owned and replaced as a whole (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// It is a whole object with apiVersion, kind and metadata (`x-kubernetes-embedded-resource`, and every root).
    pub embedded_resource: bool,
    /// Value rules for the object as a whole (custom resources only).
    pub rules: Option<Arc<Rules>>,
}

/// What happens to fields a type does not name.
#[derive(Debug, Clone, Default)]
pub enum UnknownFields {
    /// Reported under strict validation, then dropped.
    #[default]
    Prune,
    /// Kept as they are (`x-kubernetes-preserve-unknown-fields`).
    Keep,
}

/// One field of an object.
#[derive(Debug, Clone)]
pub struct Field {
    /// Name in JSON.
    pub name: Box<str>,
    /// Number in protobuf, 0 where there is none (custom resources).
    pub number: u32,
    /// Must be present (after defaulting).
    pub required: bool,
    /// An empty text, a zero, `false` and an empty object are the same as nothing: Go's type of the field is no pointer and
    /// cannot tell them apart (built-in kinds only).
    pub omits_zero: bool,
    /// What it holds.
    pub item: Item,
    /// How strategic merge treats it.
    pub patch: PatchStrategy,
}

/// What a field, a list element or a map value holds.
#[derive(Debug, Clone)]
pub struct Item {
    /// Shape of the value.
    pub shape: Shape,
    /// `null` is a value of its own and kept (custom resources only).
    pub nullable: bool,
    /// Filled in where absent.
    pub default: Option<Arc<Value>>,
    /// Value rules (custom resources only).
    pub rules: Option<Arc<Rules>>,
}

impl Item {
    /// An item with a shape and nothing else.
    pub fn of(shape: Shape) -> Self {
        Self { shape, nullable: false, default: None, rules: None }
    }
}

/// Shapes of values.
#[derive(Debug, Clone)]
pub enum Shape {
    /// Any JSON, kept as it is (RawExtension, JSON, `preserve-unknown-fields` without a type).
    Any,
    /// Text.
    String,
    /// True or false.
    Boolean,
    /// Whole number of 32 bits.
    Integer32,
    /// Whole number of 64 bits.
    Integer64,
    /// Number.
    Double,
    /// `resource.Quantity`: a string (a number is taken too), made canonical when read.
    Quantity,
    /// A whole number or a string.
    IntOrString,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// Base64 text.
    Bytes,
    /// `FieldsV1` of managed fields: any JSON object; JSON text inside protobuf.
    FieldsV1,
    /// An object type.
    Object(TypeIndex),
    /// A map from names to values.
    Map {
        /// The values.
        values: Box<Item>,
        /// Owned as a whole.
        atomic: bool,
    },
    /// A list.
    List {
        /// The elements.
        items: Box<Item>,
        /// How ownership is tracked.
        list: ListType,
    },
}

/// `x-kubernetes-list-type`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListType {
    /// Owned as a whole.
    Atomic,
    /// Distinct scalars, each owned.
    Set,
    /// Objects told apart by these fields, each owned.
    Map(Vec<Box<str>>),
}

/// `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Lists are merged, by `merge_key` for objects and by value for scalars.
    pub merge: bool,
    /// Keys that are not in the patch are removed (`retainKeys`).
    pub retain_keys: bool,
    /// An object is taken from the patch as a whole (`replace`); what a patch does with lists anyway.
    pub replace: bool,
    /// Key of merged object lists.
    pub merge_key: Option<Box<str>>,
}

/// Value validations of a custom resource's structural schema.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// `minimum` and `exclusiveMinimum`
    pub minimum: Option<(f64, bool)>,
    /// `maximum` and `exclusiveMaximum`
    pub maximum: Option<(f64, bool)>,
    /// `multipleOf`
    pub multiple_of: Option<f64>,
    /// `minLength`
    pub min_length: Option<u64>,
    /// `maxLength`
    pub max_length: Option<u64>,
    /// `pattern`
    pub pattern: Option<Box<str>>,
    /// `format`
    pub format: Option<Box<str>>,
    /// `minItems`
    pub min_items: Option<u64>,
    /// `maxItems`
    pub max_items: Option<u64>,
    /// `uniqueItems`
    pub unique_items: bool,
    /// `minProperties`
    pub min_properties: Option<u64>,
    /// `maxProperties`
    pub max_properties: Option<u64>,
    /// `enum`; empty for none
    pub one_of_values: Vec<Value>,
    /// `required` of nested logical schemas; of the object itself it stands in its fields.
    pub required: Vec<Box<str>>,
    /// `allOf`, `anyOf`, `oneOf`, `not`: logical schemas as JSON, evaluated for validation only.
    pub logical: Option<Value>,
    /// `x-kubernetes-validations`, kept and published.
    pub expressions: Option<Value>,
}

/// A type with the arena it lives in: the shape of one kind and version.
#[derive(Debug, Clone)]
pub struct Schema {
    /// All types it reaches.
    pub types: Arc<Types>,
    /// The kind's own type.
    pub root: TypeIndex,
    /// Grows whenever defaults may have changed; stored beside each object (design decision 3).
    pub generation: u32,
}

impl Types {
    /// The type at an index.
    ///
    /// # Panics
    /// Where the index belongs to another arena; indexes are only made together with their arena.
    pub fn object(&self, index: TypeIndex) -> &ObjectType {
        &self.objects[index.0 as usize]
    }
}

impl ObjectType {
    /// The field of that name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|field| (*field.name).cmp(name)).ok().and_then(|index| self.fields.get(index))
    }
}

impl Schema {
    /// The kind's own type.
    pub fn root(&self) -> &ObjectType {
        self.types.object(self.root)
    }
}

#[cfg(test)]
pub(crate) mod fixture;
