//! Errors as API clients see them: `Status` objects with upstream's codes, reasons, texts and causes.
//!
//! Source: Kubernetes `apimachinery/pkg/api/errors`.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::{
    field::FieldError,
    names::{GroupKind, GroupResource},
};

/// `Status.reason`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the constant of the same name in upstream's API")]
pub enum Reason {
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

impl Reason {
    /// From the text in `Status.reason`; [`Reason::Unknown`] for any that is not one of these.
    pub fn parse(text: &str) -> Self {
        const ALL: [Reason; 18] = [
            Reason::Unauthorized,
            Reason::Forbidden,
            Reason::NotFound,
            Reason::AlreadyExists,
            Reason::Conflict,
            Reason::Gone,
            Reason::Invalid,
            Reason::ServerTimeout,
            Reason::Timeout,
            Reason::TooManyRequests,
            Reason::BadRequest,
            Reason::MethodNotAllowed,
            Reason::NotAcceptable,
            Reason::RequestEntityTooLarge,
            Reason::UnsupportedMediaType,
            Reason::InternalError,
            Reason::Expired,
            Reason::ServiceUnavailable,
        ];
        ALL.into_iter().find(|reason| reason.as_str() == text).unwrap_or(Self::Unknown)
    }
    /// The text in `Status.reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Invalid => "Invalid",
            Self::ServerTimeout => "ServerTimeout",
            Self::Timeout => "Timeout",
            Self::TooManyRequests => "TooManyRequests",
            Self::BadRequest => "BadRequest",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::InternalError => "InternalError",
            Self::Expired => "Expired",
            Self::ServiceUnavailable => "ServiceUnavailable",
        }
    }
}

/// One entry of `Status.details.causes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable kind.
    pub reason: String,
    /// Words.
    pub message: String,
    /// Path of the field, empty for none.
    pub field: String,
}

/// An answer that is not a success. Its text is meant for the client; internal causes are logged, never carried here.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason.
    pub reason: Reason,
    /// Words for people.
    pub message: String,
    /// `details.name`
    pub name: String,
    /// `details.group`
    pub group: String,
    /// `details.kind` (a resource or a kind, as upstream does it).
    pub kind: String,
    /// `details.uid`
    pub uid: String,
    /// `details.causes`
    pub causes: Vec<Cause>,
    /// `details.retryAfterSeconds`, and the header of that name.
    pub retry_after_seconds: u32,
    /// `metadata.continue`: how a listing that expired can go on.
    pub continue_token: String,
}

impl ApiError {
    /// Any error without details.
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
            continue_token: String::new(),
        }
    }
    fn about(mut self, resource: &GroupResource, name: &str) -> Self {
        self.group = resource.group.to_string();
        self.kind = resource.resource.to_string();
        self.name = name.to_owned();
        self
    }
    /// 404 for an object.
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::new(404, Reason::NotFound, format!("{resource} \"{name}\" not found")).about(resource, name)
    }
    /// 404 for a path nobody serves.
    pub fn no_such_path() -> Self {
        Self::new(404, Reason::NotFound, "the server could not find the requested resource")
    }
    /// 409 for a name that is taken.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::new(409, Reason::AlreadyExists, format!("{resource} \"{name}\" already exists")).about(resource, name)
    }
    /// 409 for a stale version or a failed precondition.
    pub fn conflict(resource: &GroupResource, name: &str, why: &str) -> Self {
        Self::new(409, Reason::Conflict, format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}")).about(resource, name)
    }
    /// 409 for a write based on an older version of the object.
    pub fn stale(resource: &GroupResource, name: &str) -> Self {
        Self::conflict(resource, name, "the object has been modified; please apply your changes to the latest version and try again")
    }
    /// 422 with one cause per field.
    pub fn invalid(kind: &GroupKind, name: &str, errors: Vec<FieldError>) -> Self {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let list = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut error = Self::new(422, Reason::Invalid, format!("{kind} \"{name}\" is invalid: {list}"));
        error.name = name.to_owned();
        error.group = kind.group.to_string();
        error.kind = kind.kind.to_string();
        error.causes = errors
            .iter()
            .map(|error| Cause { reason: error.kind.reason().to_owned(), message: error.message(), field: error.path.to_string() })
            .collect();
        error
    }
    /// 400
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }
    /// 401
    pub fn unauthorized() -> Self {
        Self::new(401, Reason::Unauthorized, "Unauthorized")
    }
    /// 403 for an object.
    pub fn forbidden(resource: &GroupResource, name: &str, why: impl fmt::Display) -> Self {
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} \"{name}\" is forbidden: {why}")
        };
        Self::new(403, Reason::Forbidden, message).about(resource, name)
    }
    /// 405
    pub fn method_not_allowed(what: impl fmt::Display) -> Self {
        Self::new(405, Reason::MethodNotAllowed, format!("{what}"))
    }
    /// 410 for a resource version or continue token that is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message)
    }
    /// 413
    pub fn too_large(limit_bytes: usize) -> Self {
        Self::new(413, Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {limit_bytes}"))
    }
    /// 429 with a time to wait.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut error = Self::new(429, Reason::TooManyRequests, message);
        error.retry_after_seconds = retry_after_seconds;
        error
    }
    /// 500. The text is shown to the client.
    pub fn internal(message: impl fmt::Display) -> Self {
        let mut error = Self::new(500, Reason::InternalError, format!("Internal error occurred: {message}"));
        error.causes = vec![Cause { reason: String::new(), message: message.to_string(), field: String::new() }];
        error
    }
    /// 503
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message)
    }
    /// 504 for a server that could not finish in time.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, Reason::Timeout, message)
    }
    /// With a cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Self {
        self.causes.push(Cause { reason: reason.to_owned(), message: message.into(), field: field.to_owned() });
        self
    }

    /// The `Status` object.
    pub fn to_status(&self) -> Value {
        let mut details = Map::new();
        for (name, value) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !value.is_empty() {
                details.insert(name.to_owned(), json!(value));
            }
        }
        if !self.causes.is_empty() {
            let causes: Vec<Value> = self
                .causes
                .iter()
                .map(|cause| {
                    let mut entry = Map::new();
                    for (name, value) in [("reason", &cause.reason), ("message", &cause.message), ("field", &cause.field)] {
                        if !value.is_empty() {
                            entry.insert(name.to_owned(), json!(value));
                        }
                    }
                    Value::Object(entry)
                })
                .collect();
            details.insert("causes".to_owned(), Value::Array(causes));
        }
        if self.retry_after_seconds > 0 {
            details.insert("retryAfterSeconds".to_owned(), json!(self.retry_after_seconds));
        }
        let mut metadata = Map::new();
        if !self.continue_token.is_empty() {
            metadata.insert("continue".to_owned(), json!(self.continue_token));
        }
        let mut status = Map::new();
        status.insert("kind".to_owned(), json!("Status"));
        status.insert("apiVersion".to_owned(), json!("v1"));
        status.insert("metadata".to_owned(), Value::Object(metadata));
        status.insert("status".to_owned(), json!("Failure"));
        status.insert("message".to_owned(), json!(self.message));
        if self.reason != Reason::Unknown {
            status.insert("reason".to_owned(), json!(self.reason.as_str()));
        }
        if !details.is_empty() {
            status.insert("details".to_owned(), Value::Object(details));
        }
        status.insert("code".to_owned(), json!(self.code));
        Value::Object(status)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}
