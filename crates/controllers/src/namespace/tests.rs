use super::*;
use jiff::Timestamp;

fn check(remaining: Remaining, expected: [&str; 3]) {
    let status = conditions::status(&Namespace::default(), &remaining, Timestamp::UNIX_EPOCH);
    let conditions = status.conditions.unwrap();
    let reasons: Vec<_> = conditions.iter().skip(2).filter_map(|condition| condition.reason.as_deref()).collect();
    assert_eq!(reasons, expected);
    let again = conditions::status(&Namespace { status: Some(NamespaceStatus { conditions: Some(conditions.clone()), phase: None }), ..Namespace::default() }, &remaining, Timestamp::MAX);
    assert_eq!(again.conditions.unwrap(), conditions, "saying the same again changes nothing");
}

use k8s_openapi::api::core::v1::NamespaceStatus;

#[test]
fn conditions_say_what_holds_the_namespace_up() {
    check(Remaining::default(), ["ContentDeleted", "ContentRemoved", "ContentHasNoFinalizers"]);
    let pods = || BTreeMap::from([("pods".to_owned(), 2)]);
    check(Remaining { objects: pods(), ..Remaining::default() }, ["ContentDeleted", "SomeResourcesRemain", "ContentHasNoFinalizers"]);
    let held = Remaining { objects: pods(), finalizers: BTreeMap::from([("x/y".to_owned(), 1)]), ..Remaining::default() };
    check(held, ["ContentDeleted", "SomeResourcesRemain", "SomeFinalizersRemain"]);
    check(Remaining { failures: vec!["secrets: no".to_owned()], ..Remaining::default() }, ["ContentDeletionFailed", "ContentRemoved", "ContentHasNoFinalizers"]);
}

#[test]
fn a_group_that_does_not_answer_is_named() {
    assert_eq!(discovery_failure(&[]), None);
    let stale = ["a.example.com/v1".to_owned(), "metrics.k8s.io/v1beta1".to_owned()];
    let remaining = Remaining { discovery_failure: discovery_failure(&stale), ..Remaining::default() };
    let status = conditions::status(&Namespace::default(), &remaining, Timestamp::UNIX_EPOCH);
    let condition = &status.conditions.unwrap()[0];
    assert_eq!((condition.type_.as_str(), condition.status.as_str(), condition.reason.as_deref()), ("NamespaceDeletionDiscoveryFailure", "True", Some("DiscoveryFailed")));
    let expected = "Discovery failed for some groups, 2 failing: unable to retrieve the complete list of server APIs: \
        a.example.com/v1: stale GroupVersion discovery: a.example.com/v1, metrics.k8s.io/v1beta1: stale GroupVersion discovery: metrics.k8s.io/v1beta1";
    assert_eq!(condition.message.as_deref(), Some(expected));
}
