//! Paths to fields and what is wrong with them, in upstream's words.
//!
//! Source: Kubernetes `apimachinery/pkg/util/validation/field` (texts are part of the API: clients match on them).

use std::fmt;

use serde_json::Value;

/// A path such as `spec.containers[0].env[NAME].value`. Cheap to extend.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct FieldPath(String);

impl FieldPath {
    /// A path that starts with a name; dots in it separate names.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }
    /// The object as a whole.
    pub fn root() -> Self {
        Self(String::new())
    }
    /// A field below.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }
    /// An element of a list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
    /// A value of a map.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// Kinds of mistakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldErrorKind {
    /// A named thing that does not exist.
    NotFound,
    /// Must be given.
    Required,
    /// Twice.
    Duplicate,
    /// Malformed or out of bounds.
    Invalid,
    /// Not among the allowed values.
    NotSupported,
    /// Not allowed here.
    Forbidden,
    /// Too many characters or bytes.
    TooLong,
    /// Too many elements.
    TooMany,
    /// Wrong type.
    TypeInvalid,
    /// Our own fault.
    Internal,
}

impl FieldErrorKind {
    /// `reason` of a cause in a Status.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }
    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

/// One mistake in one field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// What kind.
    pub kind: FieldErrorKind,
    /// Where.
    pub path: FieldPath,
    /// The value, where it is shown.
    pub value: Option<Value>,
    /// What is wrong with it.
    pub detail: String,
}

impl FieldError {
    fn make(kind: FieldErrorKind, path: &FieldPath, value: Option<Value>, detail: impl Into<String>) -> Self {
        Self { kind, path: path.clone(), value, detail: detail.into() }
    }
    /// Must be given.
    pub fn required(path: &FieldPath, detail: impl Into<String>) -> Self {
        Self::make(FieldErrorKind::Required, path, None, detail)
    }
    /// Malformed or out of bounds.
    pub fn invalid(path: &FieldPath, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::make(FieldErrorKind::Invalid, path, Some(value.into()), detail)
    }
    /// Malformed in a way that no value of one field shows: the value is left out.
    pub fn invalid_as_a_whole(path: &FieldPath, detail: impl Into<String>) -> Self {
        Self::make(FieldErrorKind::Invalid, path, None, detail)
    }
    /// Wrong type.
    pub fn type_invalid(path: &FieldPath, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::make(FieldErrorKind::TypeInvalid, path, Some(value.into()), detail)
    }
    /// Twice.
    pub fn duplicate(path: &FieldPath, value: impl Into<Value>) -> Self {
        Self::make(FieldErrorKind::Duplicate, path, Some(value.into()), "")
    }
    /// Names something that does not exist.
    pub fn not_found(path: &FieldPath, value: impl Into<Value>) -> Self {
        Self::make(FieldErrorKind::NotFound, path, Some(value.into()), "")
    }
    /// Not allowed here.
    pub fn forbidden(path: &FieldPath, detail: impl Into<String>) -> Self {
        Self::make(FieldErrorKind::Forbidden, path, None, detail)
    }
    /// Not among `supported` values.
    pub fn not_supported<T: AsRef<str>>(path: &FieldPath, value: impl Into<Value>, supported: &[T]) -> Self {
        let list: Vec<String> = supported.iter().map(|value| format!("{:?}", value.as_ref())).collect();
        let detail = if list.is_empty() { String::new() } else { format!("supported values: {}", list.join(", ")) };
        Self::make(FieldErrorKind::NotSupported, path, Some(value.into()), detail)
    }
    /// Too long; `maximum` in bytes.
    pub fn too_long(path: &FieldPath, maximum: usize) -> Self {
        Self::make(FieldErrorKind::TooLong, path, None, format!("may not be more than {maximum} bytes"))
    }
    /// Too many elements.
    pub fn too_many(path: &FieldPath, actual: usize, maximum: usize) -> Self {
        Self::make(FieldErrorKind::TooMany, path, Some(actual.into()), format!("must have at most {maximum} items"))
    }
    /// The message without the path, as it stands in a Status' cause.
    pub fn message(&self) -> String {
        let head = self.kind.text();
        let shown = match self.kind {
            FieldErrorKind::Required | FieldErrorKind::Forbidden | FieldErrorKind::TooLong | FieldErrorKind::Internal => None,
            _ => self.value.as_ref(),
        };
        let mut text = match shown {
            None => head.to_owned(),
            Some(Value::String(value)) => format!("{head}: {value:?}"),
            Some(value) => format!("{head}: {value}"),
        };
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.path, self.message())
    }
}
