//! Reads `tables/types.txt`: what every field is, in JSON and in protobuf.
//!
//! The format is one line per type and field, so that a change of upstream's API is a readable diff:
//! ```text
//! = io.k8s.api.core.v1
//! Volume
//!  configMap 2.19 ConfigMapVolumeSource
//!  name 1 string required
//! ```
//! Numbers joined by dots lead through messages that JSON flattens. A type's facts are `atomic` and
//! `root=group/version/kind`; a field's are `required`, `pointer` (a zero differs from absence), `value` (an empty message
//! does not), `atomic`, `granular`, `set`, `map=keys`, `merge`, `merge=key`, `retain-keys`,
//! `replace` and, last, `default=JSON`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use meta::schema::{Field, Item, ListType, ObjectType, PatchStrategy, Shape, TypeIndex, Types};

/// The parsed table.
pub(crate) struct Table {
    /// All types.
    pub(crate) types: Arc<Types>,
    /// How the types' fields are written in protobuf, by [`TypeIndex`].
    pub(crate) wire: Vec<Box<[WireField]>>,
    /// Types in the order of their definition names.
    by_name: Vec<TypeIndex>,
    roots: HashMap<(&'static str, &'static str, &'static str), TypeIndex>,
}

/// One field in protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WireField {
    /// Up to three field numbers, the outermost in the highest of three bytes.
    pub(crate) path: u32,
    /// Position in the type's fields.
    pub(crate) field: u16,
    /// What its values look like where the shape does not tell.
    pub(crate) form: WireForm,
    /// A zero differs from absence.
    pub(crate) keeps_zero: bool,
}

/// Messages that the shape in JSON does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WireForm {
    /// As the shape says.
    Plain,
    /// A message with the text of a JSON value (`RawExtension`, `JSON`).
    Raw,
    /// A message around a list (`Verbs`, `ExtraValue`).
    Wrapped,
    /// `JSONSchemaPropsOrArray`
    SchemaOrList,
    /// `JSONSchemaPropsOrBool`
    SchemaOrBool,
    /// `JSONSchemaPropsOrStringArray`
    SchemaOrNames,
}

impl Table {
    /// From the text of the table.
    ///
    /// # Errors
    /// A sentence with the line that cannot be understood.
    pub(crate) fn parse(text: &'static str) -> Result<Self, String> {
        let mut reader = Reader::new(text);
        let mut objects: Vec<ObjectType> = Vec::with_capacity(reader.names.len());
        let mut wire: Vec<Box<[WireField]>> = Vec::with_capacity(reader.names.len());
        let mut roots = HashMap::new();
        let mut package = "";
        let mut lines = text.lines().filter(|line| !line.starts_with('#')).peekable();
        while let Some(line) = lines.next() {
            if let Some(name) = line.strip_prefix("= ") {
                package = name;
                continue;
            }
            let mut words = line.split(' ');
            let name = words.next().unwrap_or_default();
            let mut object = ObjectType { name: format!("{package}.{name}").into(), ..ObjectType::default() };
            for fact in words {
                match fact.strip_prefix("root=") {
                    None if fact == "atomic" => object.atomic = true,
                    Some(kind) => {
                        let mut parts = kind.split('/');
                        let (Some(group), Some(version), Some(kind)) = (parts.next(), parts.next(), parts.next()) else {
                            return Err(format!("a root needs group, version and kind: \"{line}\""));
                        };
                        object.embedded_resource = true;
                        roots.insert((group, version, kind), index_of(objects.len()));
                    }
                    None => return Err(format!("unknown fact {fact} in \"{line}\"")),
                }
            }
            let mut fields: Vec<(Field, WireField)> = Vec::new();
            while let Some(line) = lines.next_if(|line| line.starts_with(' ')) {
                fields.push(reader.field(package, line)?);
            }
            fields.sort_by(|(left, _), (right, _)| left.name.cmp(&right.name));
            let (fields, mut facts): (Vec<Field>, Vec<WireField>) = fields.into_iter().unzip();
            facts.iter_mut().zip(0..).for_each(|(fact, field)| fact.field = field);
            facts.retain(|fact| fact.path != 0);
            facts.sort_unstable();
            object.fields = fields;
            objects.push(object);
            wire.push(facts.into_boxed_slice());
        }
        // A granular reference to an atomic type is a second type, equal but for that.
        for original in reader.granular_twins {
            let (Some(object), Some(facts)) = (objects.get(original.0 as usize).cloned(), wire.get(original.0 as usize).cloned()) else { continue };
            objects.push(ObjectType { atomic: false, ..object });
            wire.push(facts);
        }
        let mut by_name: Vec<TypeIndex> = (0..reader.names.len()).map(index_of).collect();
        by_name.sort_by(|left, right| objects.get(left.0 as usize).map(|object| &object.name).cmp(&objects.get(right.0 as usize).map(|object| &object.name)));
        Ok(Self { types: Arc::new(Types { objects }), wire, by_name, roots })
    }

    /// The type of a kind. `DeleteOptions` and `WatchEvent` exist in every group and version.
    pub(crate) fn root(&self, group: &str, version: &str, kind: &str) -> Option<TypeIndex> {
        self.roots.get(&(group, version, kind)).or_else(|| self.roots.get(&("*", "*", kind))).copied()
    }

    /// Group, version and kind of a type, none for those that are no kind. What exists in every group is told as core.
    pub(crate) fn kinds_of(&self, index: TypeIndex) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        self.roots.iter().filter(move |(_, root)| **root == index).map(|(kind, _)| match *kind {
            ("*", _, kind) => ("", "v1", kind),
            kind => kind,
        })
    }

    /// The type of that definition name.
    pub(crate) fn named(&self, name: &str) -> Option<TypeIndex> {
        let position = self.by_name.binary_search_by(|index| (*self.types.object(*index).name).cmp(name)).ok()?;
        self.by_name.get(position).copied()
    }
}

fn index_of(position: usize) -> TypeIndex {
    TypeIndex(u32::try_from(position).unwrap_or(u32::MAX))
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// What is known before the fields are read: where each type will stand.
struct Reader {
    /// Package and name to position.
    names: HashMap<(&'static str, &'static str), TypeIndex>,
    /// Atomic types that a field refers to as granular; their twins follow the named types in this order.
    granular_twins: Vec<TypeIndex>,
    /// The second type of each.
    twins: BTreeMap<TypeIndex, TypeIndex>,
}

impl Reader {
    fn new(text: &'static str) -> Self {
        let mut names = HashMap::with_capacity(1024);
        let mut package = "";
        for line in text.lines().filter(|line| !line.starts_with([' ', '#'])) {
            match line.strip_prefix("= ") {
                Some(name) => package = name,
                None => {
                    let position = index_of(names.len());
                    names.insert((package, line.split(' ').next().unwrap_or_default()), position);
                }
            }
        }
        Self { names, granular_twins: Vec::new(), twins: BTreeMap::new() }
    }

    fn field(&mut self, package: &str, line: &str) -> Result<(Field, WireField), String> {
        let bad = |what: &str| format!("{what} in \"{line}\" of {package}");
        let (line_facts, default) = match line.split_once(" default=") {
            Some((facts, default)) => (facts, Some(default)),
            None => (line, None),
        };
        let mut words = line_facts.trim_start().split(' ');
        let (Some(name), Some(numbers), Some(shape)) = (words.next(), words.next(), words.next()) else {
            return Err(bad("name, numbers and shape are needed"));
        };
        let mut path: u32 = 0;
        let mut number: u32 = 0;
        let mut places = [16, 8, 0].into_iter();
        for part in numbers.split('.') {
            number = part.parse::<u8>().map_err(|_| bad("a number that is none"))?.into();
            path |= number << places.next().ok_or_else(|| bad("more than three numbers"))?;
        }
        let (shape, form) = self.shape(package, shape).ok_or_else(|| bad("unknown shape"))?;
        let mut fact = WireField { path, field: 0, form, keeps_zero: false };
        let mut item = Item::of(shape);
        if let Some(default) = default {
            item.default = Some(Arc::new(serde_json::from_str(default).map_err(|_| bad("a default that is not JSON"))?));
        }
        let mut field = Field { name: name.into(), number, required: false, omits_zero: true, item, patch: PatchStrategy::default() };
        let (mut keeps_zero, mut is_value) = (false, false);
        for word in words {
            let (word, value) = word.split_once('=').map_or((word, None), |(word, value)| (word, Some(value)));
            match (word, value, &mut field.item.shape) {
                ("required", None, _) => {
                    field.required = true;
                    keeps_zero = true;
                }
                ("pointer", None, _) => keeps_zero = true,
                ("value", None, Shape::Object(_)) => is_value = true,
                ("atomic", None, Shape::List { list, .. }) => *list = ListType::Atomic,
                ("set", None, Shape::List { list, .. }) => *list = ListType::Set,
                ("map", Some(keys), Shape::List { list, .. }) => *list = ListType::Map(keys.split(',').map(Box::from).collect()),
                ("atomic", None, Shape::Map { atomic, .. }) => *atomic = true,
                // Bytes are a list in upstream's Go types and one text in JSON.
                ("atomic", None, Shape::Bytes) => {}
                ("granular", None, Shape::Map { atomic, .. }) => *atomic = false,
                ("granular", None, Shape::Object(index)) => *index = self.twin(*index),
                ("merge", key, _) => {
                    field.patch.merge = true;
                    field.patch.merge_key = key.map(Box::from);
                }
                ("retain-keys", None, _) => field.patch.retain_keys = true,
                ("replace", None, Shape::Object(_)) => field.patch.replace = true,
                _ => return Err(bad("a fact that does not fit")),
            }
        }
        fact.keeps_zero = keeps_zero;
        field.omits_zero = if matches!(field.item.shape, Shape::Object(_)) { is_value } else { !keeps_zero };
        Ok((field, fact))
    }

    fn twin(&mut self, original: TypeIndex) -> TypeIndex {
        if let Some(twin) = self.twins.get(&original) {
            return *twin;
        }
        let twin = index_of(self.names.len() + self.granular_twins.len());
        self.granular_twins.push(original);
        self.twins.insert(original, twin);
        twin
    }

    fn shape(&self, package: &str, text: &str) -> Option<(Shape, WireForm)> {
        let inside = |open: char, close: char| text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        if let Some(inner) = inside('[', ']') {
            let (shape, form) = self.shape(package, inner)?;
            return Some((Shape::List { items: Box::new(Item::of(shape)), list: ListType::Atomic }, form));
        }
        if let Some(inner) = inside('<', '>') {
            let (shape, _) = self.shape(package, inner)?;
            return Some((Shape::List { items: Box::new(Item::of(shape)), list: ListType::Atomic }, WireForm::Wrapped));
        }
        if let Some(inner) = inside('{', '}') {
            let (shape, form) = self.shape(package, inner)?;
            return Some((Shape::Map { values: Box::new(Item::of(shape)), atomic: false }, form));
        }
        let shape = match text {
            "string" => Shape::String,
            "bool" => Shape::Boolean,
            "int32" => Shape::Integer32,
            "int64" => Shape::Integer64,
            "double" => Shape::Double,
            "quantity" => Shape::Quantity,
            "int-or-string" => Shape::IntOrString,
            "time" => Shape::Time,
            "micro-time" => Shape::MicroTime,
            "bytes" => Shape::Bytes,
            "fields-v1" => Shape::FieldsV1,
            "raw" => return Some((Shape::Any, WireForm::Raw)),
            "schema-or-list" => return Some((Shape::Any, WireForm::SchemaOrList)),
            "schema-or-bool" => return Some((Shape::Any, WireForm::SchemaOrBool)),
            "schema-or-names" => return Some((Shape::Any, WireForm::SchemaOrNames)),
            name => Shape::Object(self.reference(package, name)?),
        };
        Some((shape, WireForm::Plain))
    }

    fn reference(&self, package: &str, name: &str) -> Option<TypeIndex> {
        let Some((shortened, name)) = name.rsplit_once('.') else { return self.at(package, name) };
        if shortened == "meta.v1" {
            self.at(META, name)
        } else if shortened.contains(".pkg.") {
            self.at(&format!("io.k8s.{shortened}"), name)
        } else {
            self.at(&format!("io.k8s.api.{shortened}"), name)
        }
    }

    fn at(&self, package: &str, name: &str) -> Option<TypeIndex> {
        self.names.get(&(package, name)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &'static str) -> Table {
        Table::parse(text).expect("the text is a table")
    }

    #[test]
    fn fields_are_found_by_name_and_carry_their_facts() {
        let table = parse("= io.k8s.api.core.v1\nThing root=/v1/Thing\n ports 6 [Port] required map=port,protocol merge=port\nPort\n protocol 1.4 string default=\"TCP\"\n");
        let thing = table.types.object(table.root("", "v1", "Thing").expect("it is a root"));
        assert_eq!(&*thing.name, "io.k8s.api.core.v1.Thing");
        let ports = thing.field("ports").expect("it has ports");
        assert!(ports.required && ports.patch.merge);
        assert_eq!(ports.patch.merge_key.as_deref(), Some("port"));
        assert!(matches!(&ports.item.shape, Shape::List { list: ListType::Map(keys), .. } if keys.len() == 2));
        let port = table.types.object(table.named("io.k8s.api.core.v1.Port").expect("it is named"));
        let protocol = port.field("protocol").expect("it has a protocol");
        assert_eq!(protocol.item.default.as_deref(), Some(&serde_json::json!("TCP")));
        assert_eq!(protocol.number, 4);
    }

    #[test]
    fn a_granular_reference_to_an_atomic_type_is_not_atomic() {
        let table = parse("= io.k8s.api.core.v1\nReference atomic\n name 1 string\nVolume\n claim 1 Reference granular\n other 2 Reference\n");
        let volume = table.types.object(table.named("io.k8s.api.core.v1.Volume").expect("it is named"));
        let atomic = |name: &str| match volume.field(name).map(|field| &field.item.shape) {
            Some(Shape::Object(index)) => table.types.object(*index).atomic,
            other => panic!("not an object: {other:?}"),
        };
        assert!(!atomic("claim"));
        assert!(atomic("other"));
    }

    #[test]
    fn lines_that_make_no_sense_are_told() {
        for (text, part) in [
            ("= p\nThing\n name 1 strang\n", "unknown shape"),
            ("= p\nThing\n name 1\n", "needed"),
            ("= p\nThing\n name 1.2.3.4 string\n", "three numbers"),
            ("= p\nThing odd\n", "unknown fact"),
            ("= p\nThing\n name 1 string set\n", "does not fit"),
        ] {
            let problem = Table::parse(text).err().expect("it is refused");
            assert!(problem.contains(part), "{problem}");
        }
    }
}
