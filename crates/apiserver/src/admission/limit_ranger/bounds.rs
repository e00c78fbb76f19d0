//! Least, most, and the ratio of limit to request, of one container, one pod or one claim.

use api::core::v1::{Container, LimitRangeItem, PersistentVolumeClaim, Pod};
use kinds::quota::pods::asked;
use meta::quantity::Quantity;

use super::amount;

/// What one thing asks for and is limited to.
type Asked<'a> = &'a dyn Fn(&str, &str) -> Option<Quantity>;

fn less(one: &Quantity, other: &Quantity) -> bool {
    one.sub(other).signum() < 0
}

/// Every bound of an item that a thing breaks, in upstream's words.
fn broken(item: &LimitRangeItem, asked: Asked<'_>, problems: &mut Vec<String>) {
    let kind = &item.type_;
    for (name, _) in item.min.iter().flatten() {
        let Some(least) = amount(item.min.as_ref(), name) else { continue };
        match asked("requests", name) {
            None => problems.push(format!("minimum {name} usage per {kind} is {least}.  No request is specified")),
            Some(request) if less(&request, &least) => problems.push(format!("minimum {name} usage per {kind} is {least}, but request is {request}")),
            Some(_) => {}
        }
        if let Some(limit) = asked("limits", name).filter(|limit| less(limit, &least)) {
            problems.push(format!("minimum {name} usage per {kind} is {least}, but limit is {limit}"));
        }
    }
    for (name, _) in item.max.iter().flatten() {
        let Some(most) = amount(item.max.as_ref(), name) else { continue };
        match asked("limits", name) {
            None if kind != "PersistentVolumeClaim" => problems.push(format!("maximum {name} usage per {kind} is {most}.  No limit is specified")),
            Some(limit) if less(&most, &limit) => problems.push(format!("maximum {name} usage per {kind} is {most}, but limit is {limit}")),
            _ => {}
        }
        if let Some(request) = asked("requests", name).filter(|request| less(&most, request)) {
            problems.push(format!("maximum {name} usage per {kind} is {most}, but request is {request}"));
        }
    }
    for (name, _) in item.max_limit_request_ratio.iter().flatten() {
        let Some(most) = amount(item.max_limit_request_ratio.as_ref(), name) else { continue };
        match (asked("requests", name).filter(|request| !request.is_zero()), asked("limits", name).filter(|limit| !limit.is_zero())) {
            (None, _) => problems.push(format!("{name} max limit to request ratio per {kind} is {most}, but no request is specified or request is 0")),
            (_, None) => problems.push(format!("{name} max limit to request ratio per {kind} is {most}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let ratio = limit.approximate() / request.approximate();
                if ratio > most.approximate() {
                    problems.push(format!("{name} max limit to request ratio per {kind} is {most}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
}

fn of_container(container: &Container, field: &str, name: &str) -> Option<Quantity> {
    let resources = container.resources.as_ref()?;
    amount(if field == "limits" { resources.limits.as_ref() } else { resources.requests.as_ref() }, name)
}

/// What is wrong with a pod.
pub fn of_pod(items: &[LimitRangeItem], pod: &Pod) -> Vec<String> {
    let mut problems = Vec::new();
    let Some(spec) = &pod.spec else { return problems };
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    // A pod asks for what any of its containers asks for.
    let whole = |field: &str, name: &str| all().any(|container| of_container(container, field, name).is_some()).then(|| asked(pod, field, name));
    for item in items {
        match item.type_.as_str() {
            "Container" => {
                for container in all() {
                    broken(item, &|field, name| of_container(container, field, name), &mut problems);
                }
            }
            "Pod" => broken(item, &whole, &mut problems),
            _ => {}
        }
    }
    problems
}

/// What is wrong with a claim.
pub fn of_claim(items: &[LimitRangeItem], claim: &PersistentVolumeClaim) -> Vec<String> {
    let mut problems = Vec::new();
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    for item in items.iter().filter(|item| item.type_ == "PersistentVolumeClaim") {
        let asked = |field: &str, name: &str| if field == "requests" { amount(resources?.requests.as_ref(), name) } else { None };
        broken(item, &asked, &mut problems);
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(item: Value, resources: Value, expected: &[&str]) {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "a", "resources": resources}]}})).unwrap();
        assert_eq!(of_pod(&[serde_json::from_value(item).unwrap()], &pod), expected);
    }

    #[test]
    fn containers_stay_within_their_bounds() {
        let item = || json!({"type": "Container", "min": {"cpu": "50m"}, "max": {"memory": "500Mi"}});
        check(item(), json!({"requests": {"cpu": "10m"}, "limits": {"memory": "600Mi"}}), &[
            "minimum cpu usage per Container is 50m, but request is 10m",
            "maximum memory usage per Container is 500Mi, but limit is 600Mi",
        ]);
        check(item(), json!({"requests": {"cpu": "100m"}, "limits": {"memory": "100Mi"}}), &[]);
        check(item(), json!({"limits": {"memory": "1Mi"}}), &["minimum cpu usage per Container is 50m.  No request is specified"]);
    }

    #[test]
    fn limits_are_at_most_a_multiple_of_requests() {
        let item = || json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "2"}});
        check(item(), json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}), &[]);
        check(item(), json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}}), &["cpu max limit to request ratio per Pod is 2, but provided ratio is 3.000000"]);
        check(item(), json!({}), &["cpu max limit to request ratio per Pod is 2, but no request is specified or request is 0"]);
    }
}
