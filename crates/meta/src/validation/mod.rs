//! Rules that many kinds share: forms of names, labels, ports and addresses ([`names`], [`values`]), object metadata
//! ([`object_meta`]) and label selectors ([`label_selector`]), with upstream's exact messages.
//!
//! A `…_problems` function says what is wrong with one text, without a path; a `validate_…` function yields [`FieldError`]s.
//! Source: Kubernetes `apimachinery/pkg/util/validation`, `pkg/api/validation`, `pkg/apis/meta/v1/validation`.

pub mod label_selector;
pub mod names;
pub mod object_meta;
pub mod values;

use crate::field::{FieldError, FieldPath};

pub use label_selector::{validate_label_selector, validate_labels};
pub use names::{
    NameRule, any_name_problems, dns1035_label_problems, dns1123_label_problems, dns1123_subdomain_problems, dns1123_subdomain_with_underscore_problems,
    label_value_problems, path_segment_problems, qualified_name_problems, wildcard_dns1123_subdomain_problems,
};
pub use object_meta::{validate_finalizer_names, validate_object_meta, validate_object_meta_update};
pub use values::{
    cidr_problems, config_map_key_problems, environment_name_problems, http_header_name_problems, ip_problems, is_strict_subset, percent_problems, port_name_problems,
    port_number_problems, relaxed_environment_name_problems,
};

/// One [`FieldError::invalid`] per problem.
pub fn invalid_each(path: &FieldPath, value: &str, problems: Vec<String>) -> Vec<FieldError> {
    problems.into_iter().map(|problem| FieldError::invalid(path, value, problem)).collect()
}

/// Upstream's sentence on a text that is too long.
pub fn too_long(maximum: usize) -> String {
    format!("must be no more than {maximum} bytes")
}

/// Upstream's sentence on a number out of bounds.
pub fn inclusive_range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// Upstream's sentence on a text that does not match its pattern.
pub fn pattern_problem(message: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{pattern}')");
    }
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{pattern}')", examples.join(" or "))
}
