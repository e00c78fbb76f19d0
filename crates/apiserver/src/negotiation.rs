//! Which encoding and which form of an object a client wants, from its Accept header.
//!
//! Source: RFC 9110, section 12.5.1, and Kubernetes `apiserver/pkg/endpoints/handlers/negotiation`.

use kinds::KindInfo;
use meta::{ApiError, Reason};

/// Encodings of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

/// Forms of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// As it is.
    Whole,
    /// `meta.k8s.io/v1 Table`
    Table,
    /// `meta.k8s.io/v1 PartialObjectMetadata`
    Metadata,
}

/// What to answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Negotiated {
    /// Bytes.
    pub encoding: Encoding,
    /// Content.
    pub form: Form,
}

impl Negotiated {
    /// Plain JSON.
    pub const JSON: Self = Self { encoding: Encoding::Json, form: Form::Whole };
    /// The content type of one object or list.
    pub fn content_type(self) -> &'static str {
        match self.encoding {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
    /// The content type of a stream of watch events.
    pub fn stream_content_type(self) -> &'static str {
        match self.encoding {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }
}

struct Clause {
    encoding: Encoding,
    form: Form,
    quality: f32,
}

fn clause(text: &str, protobuf: bool) -> Option<Clause> {
    let mut parts = text.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "application/json" | "*/*" | "application/*" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        "application/vnd.kubernetes.protobuf" if protobuf => Encoding::Protobuf,
        _ => return None,
    };
    let mut clause = Clause { encoding, form: Form::Whole, quality: 1.0 };
    let mut version = "v1";
    for part in parts {
        match part.split_once('=') {
            Some(("as", "Table")) => clause.form = Form::Table,
            Some(("as", "PartialObjectMetadata" | "PartialObjectMetadataList")) => clause.form = Form::Metadata,
            Some(("as", _)) => return None,
            Some(("v", value)) => version = value,
            Some(("g", value)) if value != "meta.k8s.io" => return None,
            Some(("q", value)) => clause.quality = value.parse().unwrap_or(0.0),
            _ => {}
        }
    }
    if clause.form != Form::Whole && !matches!(version, "v1" | "v1beta1") {
        return None;
    }
    // A Table has no protobuf, so that the next clause may serve.
    if clause.form == Form::Table && clause.encoding == Encoding::Protobuf {
        return None;
    }
    (clause.quality > 0.0).then_some(clause)
}

/// The best clause of an Accept header. `protobuf` tells whether the object has that encoding.
///
/// # Errors
/// 406 where nothing the client takes can be made.
pub fn negotiate(accept: &str, protobuf: bool) -> Result<Negotiated, ApiError> {
    best_of(accept, protobuf, |_| true)
}

/// For answers that have neither metadata nor columns, such as reviews: clauses that ask for a table are passed over.
///
/// # Errors
/// As [`negotiate`].
pub fn negotiate_whole(accept: &str, protobuf: bool) -> Result<Negotiated, ApiError> {
    best_of(accept, protobuf, |clause| clause.form == Form::Whole)
}

fn best_of(accept: &str, protobuf: bool, possible: impl Fn(&Clause) -> bool) -> Result<Negotiated, ApiError> {
    if accept.is_empty() || accept == "application/json" || accept == "*/*" {
        return Ok(Negotiated::JSON);
    }
    let mut best: Option<Clause> = None;
    for candidate in accept.split(',').filter_map(|text| clause(text.trim(), protobuf)).filter(possible) {
        // Earlier ones win among equals.
        if best.as_ref().is_none_or(|best| candidate.quality > best.quality) {
            best = Some(candidate);
        }
    }
    best.map(|clause| Negotiated { encoding: clause.encoding, form: clause.form }).ok_or_else(|| {
        let list = if protobuf {
            "application/json, application/yaml, application/vnd.kubernetes.protobuf"
        } else {
            "application/json, application/yaml"
        };
        ApiError::new(406, Reason::NotAcceptable, format!("only the following media types are accepted: {list}"))
    })
}

/// For the objects of a kind.
///
/// # Errors
/// As [`negotiate`].
pub fn negotiate_for(accept: &str, kind: &KindInfo) -> Result<Negotiated, ApiError> {
    negotiate(accept, !kind.custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, encoding: Encoding, form: Form) {
        assert_eq!(negotiate(accept, true).unwrap(), Negotiated { encoding, form }, "{accept}");
    }

    #[test]
    fn the_best_clause_wins_and_earlier_ones_among_equals() {
        check("", Encoding::Json, Form::Whole);
        check("application/vnd.kubernetes.protobuf, */*", Encoding::Protobuf, Form::Whole);
        check("application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Encoding::Json, Form::Table);
        check("application/yaml;q=0.5, application/json;q=0.9", Encoding::Json, Form::Whole);
        check("text/html, */*;q=0.1", Encoding::Json, Form::Whole);
        check("application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Encoding::Protobuf, Form::Metadata);
        check("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json;as=Table;g=meta.k8s.io;v=v1", Encoding::Json, Form::Table);
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(negotiate_whole(table, true).unwrap_err().code, 406);
        assert_eq!(negotiate_whole(&format!("{table},application/yaml"), true).unwrap(), Negotiated { encoding: Encoding::Yaml, form: Form::Whole });
        assert_eq!(negotiate("text/html", true).unwrap_err().code, 406);
        assert_eq!(negotiate("application/json;as=Chart", true).unwrap_err().code, 406);
    }
}
