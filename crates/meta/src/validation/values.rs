//! Forms of ports, percentages, addresses, environment and configuration names.

use std::net::IpAddr;

use serde_json::Value;

use super::{inclusive_range, pattern_problem, too_long};
use crate::field::{FieldError, FieldPath};

/// Numbers of ports.
pub fn port_number_problems(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec![inclusive_range(1, 65535)] }
}

/// Names of ports (IANA service names, lower case).
pub fn port_name_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > 15 {
        problems.push(too_long(15));
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

/// Texts such as `25%`.
pub fn percent_problems(text: &str) -> Vec<String> {
    if percent(text).is_some() {
        return Vec::new();
    }
    let message = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![pattern_problem(message, "[0-9]+%", &["1%", "93%"])]
}

fn percent(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('%')?;
    let well_formed = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    well_formed.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// A whole number that is not negative, or a percentage of at most 100.
pub fn validate_non_negative_int_or_percent(value: &Value, path: &FieldPath) -> Vec<FieldError> {
    match value {
        Value::String(text) => match percent(text) {
            None => super::invalid_each(path, text, percent_problems(text)),
            Some(percent) if percent > 100 => vec![FieldError::invalid(path, text.as_str(), "must not be greater than 100%")],
            Some(_) => Vec::new(),
        },
        other => validate_non_negative(other.as_i64().unwrap_or_default(), path),
    }
}

/// A whole number that is not negative.
pub fn validate_non_negative(value: i64, path: &FieldPath) -> Vec<FieldError> {
    if value < 0 { vec![FieldError::invalid(path, value, "must be greater than or equal to 0")] } else { Vec::new() }
}

/// The value of a number or percentage of `total`; `up` rounds up.
pub fn scaled_int_or_percent(value: &Value, total: i64, up: bool) -> Option<i64> {
    match value {
        Value::String(text) => {
            let product = i128::from(percent(text)?) * i128::from(total);
            i64::try_from(if up { (product + 99).div_euclid(100) } else { product.div_euclid(100) }).ok()
        }
        other => other.as_i64(),
    }
}

/// Names of environment variables, as they were before 1.30.
pub fn environment_name_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if text.is_empty() || !text.bytes().all(inner) || text.starts_with(|first: char| first.is_ascii_digit()) {
        let message = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit";
        problems.push(pattern_problem(message, "[-._a-zA-Z][-._a-zA-Z0-9]*", &["my.env-name", "MY_ENV.NAME", "MyEnvName1"]));
    }
    problems.extend(directory_problems(text));
    problems
}

/// Names of environment variables: any printable ASCII but `=`.
pub fn relaxed_environment_name_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.is_empty() {
        problems.push("environment variable name must be non-empty".to_owned());
    }
    if !text.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=') {
        problems.push("a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned());
    }
    problems
}

/// Keys of ConfigMaps and Secrets.
pub fn config_map_key_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > 253 {
        problems.push(too_long(253));
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        problems.push(pattern_problem(message, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    problems.extend(directory_problems(text));
    problems
}

fn directory_problems(text: &str) -> Option<String> {
    match text {
        "." | ".." => Some(format!("must not be '{text}'")),
        _ if text.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// Names of HTTP headers.
pub fn http_header_name_problems(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Vec::new();
    }
    vec![pattern_problem("a valid HTTP header must consist of alphanumeric characters or '-'", "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// IPv4 and IPv6 addresses.
pub fn ip_problems(text: &str) -> Vec<String> {
    if text.parse::<IpAddr>().is_ok() {
        Vec::new()
    } else {
        vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
    }
}

/// Ranges such as `10.0.0.0/8`.
pub fn cidr_problems(text: &str) -> Vec<String> {
    if cidr(text).is_some() { Vec::new() } else { vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()] }
}

/// Whether every address of one range is of the other, which has more; none where either is no range.
pub fn is_strict_subset(inner: &str, outer: &str) -> Option<bool> {
    let ((inner, inner_length), (outer, outer_length)) = (cidr(inner)?, cidr(outer)?);
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    let ((inner_bits, size), (outer_bits, outer_size)) = (bits(inner), bits(outer));
    let rest = u32::from(size) - u32::from(outer_length.min(size));
    let same = inner_bits.checked_shr(rest).unwrap_or_default() == outer_bits.checked_shr(rest).unwrap_or_default();
    Some(size == outer_size && inner_length > outer_length && same)
}

fn cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    if !length.bytes().all(|byte| byte.is_ascii_digit()) || (length.len() > 1 && length.starts_with('0')) {
        return None;
    }
    let length: u8 = length.parse().ok()?;
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn values_have_their_forms() {
        let check = |rule: fn(&str) -> Vec<String>, good: &[&str], bad: &[&str]| {
            for text in good {
                assert_eq!(rule(text), Vec::<String>::new(), "{text:?}");
            }
            for text in bad {
                assert!(!rule(text).is_empty(), "{text:?}");
            }
        };
        check(port_name_problems, &["http", "a1", "1a", "a-b"], &["", "1", "A", "a--b", "-a", "a-", "abcdefghijklmnop"]);
        check(percent_problems, &["0%", "100%", "1000%"], &["", "%", "1", "-1%", "1.5%", "a%"]);
        check(environment_name_problems, &["A", "a.b", "_", "-"], &["", "1a", "a=b", ".", "..", "..a", "a b"]);
        check(relaxed_environment_name_problems, &["1a", ".", "a b"], &["", "a=b", "ä", "a\n"]);
        check(config_map_key_problems, &["a", ".a", "A_b-1"], &["", "a/b", ".", "..", "..a"]);
        check(ip_problems, &["1.2.3.4", "::1"], &["", "1.2.3", "01.2.3.4", "::1%eth0", "1.2.3.4/8"]);
        check(cidr_problems, &["10.0.0.0/8", "::/0", "1.2.3.4/32"], &["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "a/8", "10.0.0.0/08"]);
        check(http_header_name_problems, &["X-A"], &["", "X A", "a:b"]);
        assert!(port_number_problems(0).len() == 1 && port_number_problems(65535).is_empty() && port_number_problems(65536).len() == 1);
    }

    #[test]
    fn percentages_are_taken_of_a_total() {
        assert_eq!(scaled_int_or_percent(&json!("25%"), 10, true), Some(3));
        assert_eq!(scaled_int_or_percent(&json!("25%"), 10, false), Some(2));
        assert_eq!(scaled_int_or_percent(&json!(4), 10, false), Some(4));
        assert_eq!(scaled_int_or_percent(&json!("x"), 10, false), None);
        let path = FieldPath::new("spec.maxSurge");
        assert_eq!(validate_non_negative_int_or_percent(&json!("101%"), &path).len(), 1);
        assert_eq!(validate_non_negative_int_or_percent(&json!(-1), &path).len(), 1);
        assert_eq!(validate_non_negative_int_or_percent(&json!("100%"), &path), []);
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in ".*", total in any::<i64>()) {
            for rule in [port_name_problems, percent_problems, environment_name_problems, relaxed_environment_name_problems, config_map_key_problems,
                ip_problems, cidr_problems, http_header_name_problems] {
                let _ = rule(&text);
            }
            let _ = scaled_int_or_percent(&Value::from(text), total, true);
        }
    }
}
