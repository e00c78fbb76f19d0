//! The older text format, which everybody reads, from OpenMetrics, which `prometheus-client` writes.
//!
//! In it a counter's name has its `_total` in the comments too, nothing tells the end, and bounds of buckets are written as programs in
//! Go write numbers, which is how dashboards compare them.
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::Write;

use prometheus_client::{encoding::text::encode, registry::Registry};

/// A registry in the text format. A counter that is registered as `NAME_count` keeps that name, since upstream has some without `_total`.
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = encode(&mut text, registry);
    from_open_metrics(&text)
}

fn from_open_metrics(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help: Option<(&str, &str)> = None;
    let mut without_total = false;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            without_total = kind == "counter" && name.ends_with("_count");
            let suffix = if kind == "counter" && !without_total { "_total" } else { "" };
            if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
                let _ = writeln!(text, "# HELP {name}{suffix} {}", words.trim_end_matches('.'));
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            sample(&mut text, line, without_total);
        }
    }
    text
}

fn sample(text: &mut String, line: &str, without_total: bool) {
    let line = match line.find(['{', ' ']).map(|end| line.split_at(end)) {
        Some((name, rest)) => {
            text.push_str(if without_total { name.strip_suffix("_total").unwrap_or(name) } else { name });
            rest
        }
        None => line,
    };
    // Values of other labels are escaped, so that this cannot be found within one.
    match line.split_once("le=\"").and_then(|(before, rest)| rest.split_once('"').map(|(bound, after)| (before, bound, after))) {
        Some((before, bound, after)) if before == "{" || before.ends_with(',') => {
            let _ = writeln!(text, "{before}le=\"{}\"{after}", go_number(bound));
        }
        _ => {
            text.push_str(line);
            text.push('\n');
        }
    }
}

/// A number as Go writes it: `1` for `1.0`, `1e+06` for a million, `5e-07`.
fn go_number(bound: &str) -> String {
    let Ok(number) = bound.parse::<f64>() else { return bound.to_owned() };
    if !number.is_finite() {
        return bound.to_owned();
    }
    let written = format!("{number:e}");
    let Some((digits, exponent)) = written.split_once('e').and_then(|(digits, exponent)| Some((digits, exponent.parse::<i32>().ok()?))) else {
        return bound.to_owned();
    };
    if number != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.unsigned_abs());
    }
    number.to_string()
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        encoding::EncodeLabelSet,
        metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    };

    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
    struct Labels {
        name: String,
    }

    #[test]
    fn the_text_is_what_upstream_would_write() {
        let mut registry = Registry::default();
        let requests = Family::<Labels, Counter>::default();
        requests.get_or_create(&Labels { name: "a\"le=\"2.0".to_owned() }).inc();
        registry.register("requests", "Requests", requests);
        let refusals = Family::<Labels, Counter>::default();
        refusals.get_or_create(&Labels { name: "b".to_owned() }).inc();
        registry.register("refusal_count", "Refusals", refusals);
        let sizes = Histogram::new([0.005, 1.0, 1e6]);
        sizes.observe(3.0);
        registry.register("sizes", "Sizes", sizes);
        let gauge: Gauge = Gauge::default();
        gauge.set(5);
        registry.register("now", "Now", gauge);
        let expected = concat!(
            "# HELP requests_total Requests\n# TYPE requests_total counter\nrequests_total{name=\"a\\\"le=\\\"2.0\"} 1\n",
            "# HELP refusal_count Refusals\n# TYPE refusal_count counter\nrefusal_count{name=\"b\"} 1\n",
            "# HELP sizes Sizes\n# TYPE sizes histogram\nsizes_sum 3.0\nsizes_count 1\n",
            "sizes_bucket{le=\"0.005\"} 0\nsizes_bucket{le=\"1\"} 0\nsizes_bucket{le=\"1e+06\"} 1\nsizes_bucket{le=\"+Inf\"} 1\n",
            "# HELP now Now\n# TYPE now gauge\nnow 5\n",
        );
        assert_eq!(text(&registry), expected);
    }

    #[test]
    fn numbers_are_written_as_go_does() {
        for (given, written) in [("1.0", "1"), ("0.0001", "0.0001"), ("0.0000005", "5e-07"), ("5242.88", "5242.88"), ("1000.0", "1000"), ("100000.0", "100000"), ("1000000000.0", "1e+09"), ("1234567.0", "1.234567e+06"), ("0.0", "0"), ("+Inf", "+Inf")] {
            assert_eq!(go_number(given), written);
        }
    }
}
