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
    let held = Remaining { objects: pods(), finalizers: BTreeMap::from([("x/y".to_owned(), 1)]), failures: Vec::new() };
    check(held, ["ContentDeleted", "SomeResourcesRemain", "SomeFinalizersRemain"]);
    check(Remaining { failures: vec!["secrets: no".to_owned()], ..Remaining::default() }, ["ContentDeletionFailed", "ContentRemoved", "ContentHasNoFinalizers"]);
}
