//! Query parameters and delete options, read strictly once at the edge.

use std::time::Duration;

use meta::{ApiError, FieldError, FieldPath, GroupKind, Object, read::FieldValidation, selector::{FieldSelector, LabelSelector}};
use serde_json::Value;

/// `resourceVersionMatch`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionMatch {
    /// Exactly that revision.
    Exact,
    /// That revision or any later one.
    NotOlderThan,
}

/// A request's query.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// `labelSelector`
    pub labels: Option<LabelSelector>,
    /// `fieldSelector`
    pub fields: Option<FieldSelector>,
    /// `fieldSelector` as it came.
    pub field_selector_text: String,
    /// `resourceVersion`; none where it is not given or empty.
    pub resource_version: Option<String>,
    /// `resourceVersionMatch`
    pub version_match: Option<VersionMatch>,
    /// `limit`, 0 for none.
    pub limit: usize,
    /// `continue`
    pub continue_token: Option<String>,
    /// `watch`
    pub watch: bool,
    /// `allowWatchBookmarks`
    pub bookmarks: bool,
    /// `sendInitialEvents`
    pub send_initial_events: Option<bool>,
    /// `timeoutSeconds`
    pub timeout: Option<Duration>,
    /// `timeout` of a request that is no stream, where it is more than nothing.
    pub deadline: Option<Duration>,
    /// `dryRun=All`
    pub dry_run: bool,
    /// `fieldManager`
    pub field_manager: Option<String>,
    /// `fieldValidation`
    pub field_validation: Option<FieldValidation>,
    /// `force` of an apply.
    pub force: Option<bool>,
    /// `includeObject` of a table.
    pub include_object: Option<String>,
    /// Delete options given in the query.
    pub delete: DeleteOptions,
    /// A `timeout` that is no duration: refused but for streams.
    pub unreadable_deadline: Option<String>,
    /// Everything, in order, for subresources with parameters of their own.
    pub pairs: Vec<(String, String)>,
}

/// DeleteOptions, from body and query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`
    pub grace_period_seconds: Option<i64>,
    /// `propagationPolicy`
    pub propagation: Option<Propagation>,
    /// `orphanDependents`, the old form.
    pub orphan_dependents: Option<bool>,
    /// `preconditions.uid`
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`
    pub resource_version: Option<String>,
    /// `dryRun: [All]`
    pub dry_run: bool,
}

/// `propagationPolicy`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Dependents stay.
    Orphan,
    /// Dependents go afterwards.
    Background,
    /// Dependents go first.
    Foreground,
}

impl Propagation {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "Orphan" => Some(Self::Orphan),
            "Background" => Some(Self::Background),
            "Foreground" => Some(Self::Foreground),
            _ => None,
        }
    }
}

fn truth(value: &str) -> bool {
    // As Go's conversion of query parameters: present and neither "false" nor "0".
    !matches!(value, "false" | "0")
}

/// A duration as Go writes it: `34s`, `1m30s`, `1.5h`; nothing for one below nothing. Source: Go, `time.ParseDuration`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at_checked(rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?)?;
        let (unit, tail) = tail.split_at_checked(tail.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(tail.len()))?;
        let of_unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * of_unit;
        rest = tail;
    }
    if text.starts_with('-') { Some(Duration::ZERO) } else { Duration::try_from_secs_f64(seconds).ok() }
}

fn number(name: &str, value: &str) -> Result<i64, ApiError> {
    value.parse().map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing {value:?}: invalid syntax (query parameter {name})")))
}

/// 422 for a value that options of a verb cannot have; `kind` is what upstream calls those options.
fn refused(kind: &str, error: FieldError) -> ApiError {
    ApiError::invalid(&GroupKind { group: "meta.k8s.io".into(), kind: kind.into() }, "", vec![error])
}

/// What upstream calls the options of a request.
fn options_of(method: &http::Method) -> &'static str {
    match *method {
        http::Method::POST => "CreateOptions",
        http::Method::PUT => "UpdateOptions",
        http::Method::PATCH => "PatchOptions",
        http::Method::DELETE => "DeleteOptions",
        _ => "ListOptions",
    }
}

impl Query {
    /// Reads the raw query string of a read.
    ///
    /// # Errors
    /// As [`Query::of`].
    pub fn parse(raw: &str) -> Result<Self, ApiError> {
        Self::of(&http::Method::GET, raw)
    }
    /// Reads the raw query string of a request.
    ///
    /// # Errors
    /// 400 for values that cannot be read, 422 for values that options cannot have.
    pub fn of(method: &http::Method, raw: &str) -> Result<Self, ApiError> {
        let kind = options_of(method);
        let mut query = Self::default();
        if raw.is_empty() {
            return Ok(query);
        }
        for (name, value) in url::form_urlencoded::parse(raw.as_bytes()) {
            match &*name {
                "labelSelector" if !value.is_empty() => {
                    query.labels = Some(LabelSelector::parse(&value).map_err(|error| ApiError::bad_request(error.to_string()))?);
                }
                "fieldSelector" if !value.is_empty() => {
                    query.fields = Some(FieldSelector::parse(&value).map_err(ApiError::bad_request)?);
                    query.field_selector_text = value.clone().into_owned();
                }
                "resourceVersion" if !value.is_empty() => query.resource_version = Some(value.clone().into_owned()),
                "resourceVersionMatch" if !value.is_empty() => {
                    query.version_match = Some(match &*value {
                        "Exact" => VersionMatch::Exact,
                        "NotOlderThan" => VersionMatch::NotOlderThan,
                        other => {
                            let path = FieldPath::new("resourceVersionMatch");
                            return Err(refused("ListOptions", FieldError::not_supported(&path, other, &["Exact", "NotOlderThan", ""])));
                        }
                    });
                }
                "limit" if !value.is_empty() => query.limit = usize::try_from(number("limit", &value)?).unwrap_or_default(),
                "continue" if !value.is_empty() => query.continue_token = Some(value.clone().into_owned()),
                "watch" => query.watch = truth(&value),
                "allowWatchBookmarks" => query.bookmarks = truth(&value),
                "sendInitialEvents" => query.send_initial_events = Some(truth(&value)),
                "timeoutSeconds" if !value.is_empty() => {
                    query.timeout = u64::try_from(number("timeoutSeconds", &value)?).ok().map(Duration::from_secs);
                }
                "timeout" if !value.is_empty() => {
                    // What stands behind a proxy may have a parameter of that name.
                    query.deadline = duration(&value);
                    query.unreadable_deadline = query.deadline.is_none().then(|| value.clone().into_owned());
                    query.deadline = query.deadline.filter(|deadline| !deadline.is_zero());
                }
                "dryRun" if !value.is_empty() => {
                    if value != "All" {
                        return Err(refused(kind, FieldError::not_supported(&FieldPath::new("dryRun"), vec![value.into_owned()], &["All"])));
                    }
                    query.dry_run = true;
                    query.delete.dry_run = true;
                }
                "fieldManager" if !value.is_empty() => query.field_manager = Some(value.clone().into_owned()),
                "fieldValidation" if !value.is_empty() => {
                    query.field_validation = Some(match &*value {
                        "Strict" => FieldValidation::Strict,
                        "Warn" => FieldValidation::Warn,
                        "Ignore" => FieldValidation::Ignore,
                        other => {
                            return Err(refused(kind, FieldError::not_supported(&FieldPath::new("fieldValidation"), other, &["Ignore", "Strict", "Warn"])));
                        }
                    });
                }
                "force" => query.force = Some(truth(&value)),
                "includeObject" => query.include_object = Some(value.clone().into_owned()),
                "gracePeriodSeconds" if !value.is_empty() => query.delete.grace_period_seconds = Some(number("gracePeriodSeconds", &value)?),
                "propagationPolicy" if !value.is_empty() => query.delete.propagation = Some(propagation(&value)?),
                "orphanDependents" if !value.is_empty() => query.delete.orphan_dependents = Some(truth(&value)),
                _ => {}
            }
            query.pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(query)
    }
    /// The first value of a parameter.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
    /// All values of a parameter.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.pairs.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }
    /// Whether a parameter is true.
    pub fn flag(&self, name: &str) -> bool {
        self.value(name).is_some_and(truth)
    }
}

fn propagation(text: &str) -> Result<Propagation, ApiError> {
    let known = ["Background", "Foreground", "Orphan"];
    Propagation::parse(text).ok_or_else(|| refused("DeleteOptions", FieldError::not_supported(&FieldPath::new("propagationPolicy"), text, &known)))
}

impl DeleteOptions {
    /// Reads a DeleteOptions object; what it does not say is taken from the query.
    ///
    /// # Errors
    /// 400 or 422 for what cannot be.
    pub fn read(body: Option<&Object>, query: &Query) -> Result<Self, ApiError> {
        let mut options = query.delete.clone();
        let Some(body) = body else { return options.checked() };
        if let Some(grace) = body.get(&["gracePeriodSeconds"]).filter(|value| !value.is_null()) {
            options.grace_period_seconds =
                Some(grace.as_i64().ok_or_else(|| ApiError::bad_request("gracePeriodSeconds must be a whole number"))?);
        }
        if let Some(policy) = body.text(&["propagationPolicy"]) {
            options.propagation = Some(propagation(policy)?);
        }
        if let Some(orphan) = body.get(&["orphanDependents"]).and_then(Value::as_bool) {
            options.orphan_dependents = Some(orphan);
        }
        if let Some(uid) = body.text(&["preconditions", "uid"]) {
            options.uid = Some(uid.to_owned());
        }
        if let Some(version) = body.text(&["preconditions", "resourceVersion"]) {
            options.resource_version = Some(version.to_owned());
        }
        if let Some(dry_run) = body.get(&["dryRun"]).and_then(Value::as_array)
            && !dry_run.is_empty()
        {
            if dry_run.iter().any(|value| value.as_str() != Some("All")) {
                return Err(refused("DeleteOptions", FieldError::not_supported(&FieldPath::new("dryRun"), dry_run.clone(), &["All"])));
            }
            options.dry_run = true;
        }
        options.checked()
    }
    fn checked(self) -> Result<Self, ApiError> {
        if let Some(policy) = self.propagation
            && self.orphan_dependents.is_some()
        {
            let path = FieldPath::new("propagationPolicy");
            return Err(refused("DeleteOptions", FieldError::invalid(&path, format!("{policy:?}"), "orphanDependents and deletionPropagation cannot be both set")));
        }
        Ok(self)
    }
    /// Seconds of grace asked for.
    pub fn grace(&self) -> Option<i64> {
        self.grace_period_seconds.map(|seconds| seconds.max(0))
    }
}
