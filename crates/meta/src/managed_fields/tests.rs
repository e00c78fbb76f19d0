use proptest::prelude::*;
use serde_json::{Value, json};

use super::{element::Element, *};
use crate::{
    object::Object,
    schema::{
        Schema,
        fixture::{config_map, deployment},
    },
    status::ApiError,
};

const NOW: &str = "2026-01-01T00:00:00Z";
const LATER: &str = "2026-01-02T00:00:00Z";

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap()
}

fn containers(list: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"}, "spec": {"template": {"spec": {"containers": list}}}})
}

/// The sets by manager, with `*` for appliers.
fn owners(object: &Object) -> Value {
    let mut owners = serde_json::Map::new();
    for entry in object.get(&["metadata", "managedFields"]).and_then(Value::as_array).into_iter().flatten() {
        let text = |name: &str| entry[name].as_str().unwrap_or_default();
        let star = if text("operation") == "Apply" { "*" } else { "" };
        let slash = if text("subresource").is_empty() { "" } else { "/" };
        owners.insert(format!("{}{slash}{}{star}", text("manager"), text("subresource")), entry["fieldsV1"].clone());
    }
    Value::Object(owners)
}

fn times(object: &Object) -> Vec<String> {
    let list = object.get(&["metadata", "managedFields"]).and_then(Value::as_array);
    list.into_iter().flatten().map(|entry| entry["time"].as_str().unwrap_or_default().to_owned()).collect()
}

fn written(old: Option<&Object>, mut new: Object, manager: &str) -> Object {
    update(&deployment(), &OneShape, old, &mut new, manager, "apps/v1", "", if old.is_some() { LATER } else { NOW }).unwrap();
    new
}

/// Reads a configuration as the API server does, then applies it.
fn applied(live: Option<&Object>, config: Value, manager: &str, force: bool) -> Result<Object, ApiError> {
    apply(&deployment(), &OneShape, live, &object(config), manager, force, "apps/v1", "", if live.is_some() { LATER } else { NOW })
}

#[test]
fn who_creates_an_object_owns_its_fields() {
    let mut new = object(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "uid": "1", "labels": {"x": "y"}}, "data": {"a": "b"}}));
    update(&config_map(), &OneShape, None, &mut new, "kubectl-create", "v1", "", NOW).unwrap();
    assert_eq!(
        new.get(&["metadata", "managedFields"]),
        Some(&json!([{
            "manager": "kubectl-create", "operation": "Update", "apiVersion": "v1", "time": NOW, "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:x": {}}}, "f:data": {".": {}, "f:a": {}}}
        }]))
    );
}

#[test]
fn built_in_containers_are_nobodys_and_lists_are_owned_by_element() {
    let new = written(
        None,
        object(containers(json!([{"name": "a", "image": "1", "ports": [{"containerPort": 80}], "args": ["x"]}]))),
        "create",
    );
    assert_eq!(
        owners(&new),
        json!({"create": {"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {
            ".": {}, "f:name": {}, "f:image": {}, "f:args": {},
            "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}
        }}}}}}})
    );
}

#[test]
fn who_changes_a_field_takes_it_over() {
    let first = written(None, object(containers(json!([{"name": "a", "image": "1"}]))), "create");
    let mut next = first.clone();
    next.0["spec"]["template"]["spec"]["containers"][0]["image"] = json!("2");
    next.0["spec"]["replicas"] = json!(3);
    let next = written(Some(&first), next, "edit");
    assert_eq!(
        owners(&next),
        json!({
            "create": {"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}}}}}}},
            "edit": {"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {"f:image": {}}}}}}}
        })
    );
    assert_eq!(times(&next), [NOW, LATER]);
    let mut last = next.clone();
    last.0["spec"]["template"]["spec"]["containers"] = json!([]);
    last.remove(&["spec", "replicas"]);
    let last = written(Some(&next), last, "clean");
    assert_eq!(owners(&last), json!({}), "managers that own nothing are dropped");
}

#[test]
fn a_write_that_changes_nothing_changes_no_owner_and_no_time() {
    let first = written(None, object(containers(json!([{"name": "a", "image": "1"}]))), "create");
    assert_eq!(written(Some(&first), first.clone(), "create"), first);
    assert_eq!(written(Some(&first), first.clone(), "other"), first);
    let mut without = first.clone();
    without.metadata_mut().remove("managedFields");
    assert_eq!(written(Some(&first), without.clone(), "other"), first, "leaving managedFields out does not reset them");
    without.set(&["metadata", "managedFields"], json!([]));
    assert_eq!(written(Some(&first), without.clone(), "other"), first, "an empty list does not reset them");
    without.set(&["metadata", "managedFields"], json!([{"manager": "x", "operation": "Guess"}]));
    assert_eq!(written(Some(&first), without, "other"), first, "nor do malformed entries");
}

#[test]
fn owners_can_be_forgotten_and_edited() {
    let mut first = written(None, object(containers(json!([{"name": "a"}]))), "create");
    first.set(&["metadata", "uid"], json!("1"));
    let mut reset = first.clone();
    reset.set(&["metadata", "managedFields"], json!([{}]));
    reset.set(&["spec", "replicas"], json!(2));
    let reset = written(Some(&first), reset, "edit");
    assert_eq!(reset.get(&["metadata", "managedFields"]), None);
    let mut again = reset.clone();
    again.set(&["spec", "replicas"], json!(3));
    assert_eq!(written(Some(&reset), again, "edit").get(&["metadata", "managedFields"]), None, "untracked until something is applied");
    let mut edited = first.clone();
    edited.0["metadata"]["managedFields"][0]["manager"] = json!("renamed");
    assert_eq!(owners(&written(Some(&first), edited, "edit")).as_object().unwrap().keys().collect::<Vec<_>>(), ["renamed"]);
}

#[test]
fn subresources_have_owners_of_their_own() {
    let first = written(None, object(containers(json!([{"name": "a"}]))), "manager");
    let mut next = first.clone();
    next.set(&["status", "replicas"], json!(1));
    next.set(&["metadata", "managedFields"], json!([{}]));
    update(&deployment(), &OneShape, Some(&first), &mut next, "manager", "apps/v1", "status", LATER).unwrap();
    let owners = owners(&next);
    assert_eq!(owners["manager/status"], json!({"f:status": {"f:replicas": {}}}));
    assert!(owners["manager"].is_object(), "a subresource cannot reset owners");
}

#[test]
fn what_a_request_cannot_set_is_not_owned() {
    let mut config = containers(json!([{"name": "a"}]));
    config["status"] = json!({});
    let live = written(None, object(config.clone()), "create");
    assert_eq!(owners(&live)["create"].get("f:status"), None);
    config["status"] = json!({"replicas": 1});
    let live = applied(Some(&live), config.clone(), "me", false).unwrap();
    assert_eq!(live.get(&["status", "replicas"]), None);
    config["spec"]["replicas"] = json!(9);
    let live = apply(&deployment(), &OneShape, Some(&live), &object(config), "me", false, "apps/v1", "status", LATER).unwrap();
    assert_eq!((live.get(&["status", "replicas"]), live.get(&["spec", "replicas"])), (Some(&json!(1)), None));
    assert_eq!(owners(&live)["me/status*"], json!({"f:status": {"f:replicas": {}}}));
}

#[test]
fn only_ten_updaters_are_told_apart() {
    let mut live = written(None, object(containers(json!([]))), "create");
    for index in 0..15 {
        let mut next = live.clone();
        next.set(&["metadata", "labels", &format!("l{index}")], json!("x"));
        update(&deployment(), &OneShape, Some(&live), &mut next, &format!("manager-{index:02}"), "apps/v1", "", &format!("2026-01-01T00:00:{index:02}Z")).unwrap();
        live = next;
    }
    let owners = owners(&live);
    let names: Vec<&str> = owners.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names.len(), 10);
    assert!(names.contains(&"ancient-changes") && names.contains(&"manager-14"), "{names:?}");
    assert_eq!(owners["ancient-changes"]["f:metadata"]["f:labels"]["f:l0"], json!({}));
}

#[test]
fn who_applies_owns_what_the_configuration_says() {
    let config = containers(json!([{"name": "a", "image": "1", "ports": [{"containerPort": 80}]}]));
    let live = applied(None, config.clone(), "me", false).unwrap();
    assert_eq!(
        owners(&live),
        json!({"me*": {"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {
            ".": {}, "f:name": {}, "f:image": {}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}
        }}}}}}})
    );
    assert_eq!(applied(Some(&live), config, "me", false).unwrap(), live, "a repeated apply changes nothing");
}

#[test]
fn a_conflict_names_its_owner_and_field_and_force_takes_it() {
    let mut config = containers(json!([{"name": "a", "image": "1"}]));
    config["spec"]["replicas"] = json!(3);
    let live = written(None, object(config.clone()), "boss");
    let mut mine = containers(json!([{"name": "a"}]));
    mine["spec"]["replicas"] = json!(4);
    let error = applied(Some(&live), mine.clone(), "me", false).unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (409, "Conflict"));
    assert_eq!(error.message, r#"Apply failed with 1 conflict: conflict with "boss" using apps/v1: .spec.replicas"#);
    assert_eq!(error.causes.len(), 1);
    assert_eq!(
        (error.causes[0].reason.as_str(), error.causes[0].message.as_str(), error.causes[0].field.as_str()),
        ("FieldManagerConflict", r#"conflict with "boss" using apps/v1"#, ".spec.replicas")
    );
    mine["spec"]["template"]["spec"]["containers"][0]["image"] = json!("2");
    let error = applied(Some(&live), mine.clone(), "me", false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 2 conflicts: conflicts with \"boss\" using apps/v1:\n- .spec.replicas\n- .spec.template.spec.containers[name=\"a\"].image"
    );
    let forced = applied(Some(&live), mine.clone(), "me", true).unwrap();
    assert_eq!(forced.get(&["spec", "replicas"]), Some(&json!(4)));
    assert_eq!(owners(&forced)["boss"], json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}}}}}}}));
    // The same value is shared, not fought over.
    let shared = applied(Some(&forced), mine, "friend", false).unwrap();
    assert_eq!(owners(&shared)["friend*"], owners(&shared)["me*"]);
    let mut other = containers(json!([{"name": "a"}]));
    other["spec"]["replicas"] = json!(5);
    let error = applied(Some(&shared), other, "third", false).unwrap_err();
    assert_eq!(error.message, "Apply failed with 2 conflicts: conflicts with \"friend\":\n- .spec.replicas\nconflicts with \"me\":\n- .spec.replicas");
}

#[test]
fn what_is_applied_no_more_goes_unless_somebody_else_owns_it() {
    let full = || containers(json!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}, {"name": "b", "image": "1"}]));
    let live = applied(None, full(), "me", false).unwrap();
    let live = applied(Some(&live), containers(json!([{"name": "b", "image": "1"}])), "friend", false).unwrap();
    let less = containers(json!([{"name": "a", "image": "1", "env": [{"name": "Y", "value": "2"}]}]));
    let live = applied(Some(&live), less, "me", false).unwrap();
    assert_eq!(
        live.get(&["spec", "template", "spec", "containers"]),
        Some(&json!([{"name": "a", "image": "1", "env": [{"name": "Y", "value": "2"}]}, {"name": "b", "image": "1"}]))
    );
    let live = applied(Some(&live), containers(json!([{"name": "a", "image": "1"}])), "me", false).unwrap();
    assert_eq!(live.get(&["spec", "template", "spec", "containers"]).unwrap()[0], json!({"name": "a", "image": "1"}), "an emptied list goes");
    let live = applied(Some(&live), containers(json!([])), "friend", false).unwrap();
    assert_eq!(live.get(&["spec", "template", "spec", "containers"]), Some(&json!([{"name": "a", "image": "1"}])));
    assert_eq!(live.name(), "web");
}

#[test]
fn fields_set_by_others_stay_when_an_applier_lets_go() {
    let mut config = containers(json!([{"name": "a"}]));
    config["spec"]["replicas"] = json!(1);
    let live = applied(None, config, "me", false).unwrap();
    let mut scaled = live.clone();
    scaled.set(&["spec", "replicas"], json!(5));
    let scaled = written(Some(&live), scaled, "scaler");
    assert_eq!(owners(&scaled)["me*"]["f:spec"].get("f:replicas"), None);
    let after = applied(Some(&scaled), containers(json!([{"name": "a"}])), "me", false).unwrap();
    assert_eq!(after.get(&["spec", "replicas"]), Some(&json!(5)));
}

#[test]
fn elements_keep_the_configurations_order_among_those_of_others() {
    let named = |names: &[&str]| containers(Value::from(names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()));
    let live = written(None, object(named(&["a", "x", "b"])), "other");
    let order = |object: &Object| -> Vec<String> {
        let list = object.get(&["spec", "template", "spec", "containers"]).unwrap().as_array().unwrap();
        list.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(order(&applied(Some(&live), named(&["b", "a", "c"]), "me", false).unwrap()), ["x", "b", "a", "c"]);
    assert_eq!(order(&applied(Some(&live), named(&["x", "a"]), "me", false).unwrap()), ["x", "b", "a"]);
    assert_eq!(order(&applied(Some(&live), named(&["a", "n", "b"]), "me", false).unwrap()), ["a", "x", "n", "b"]);
    assert_eq!(order(&applied(Some(&live), named(&[]), "me", false).unwrap()), ["a", "x", "b"]);
}

#[test]
fn what_was_there_before_the_first_apply_belongs_to_nobody_in_particular() {
    let mut live = object(containers(json!([{"name": "a", "image": "1"}])));
    live.set(&["metadata", "uid"], json!("1"));
    let mut config = containers(json!([{"name": "a", "image": "2"}]));
    let error = applied(Some(&live), config.clone(), "me", false).unwrap_err();
    assert!(error.message.contains(r#"conflict with "before-first-apply" using apps/v1: .spec.template.spec.containers[name="a"].image"#), "{error}");
    config["spec"]["template"]["spec"]["containers"][0]["image"] = json!("1");
    let after = applied(Some(&live), config, "me", false).unwrap();
    assert_eq!(owners(&after).as_object().unwrap().keys().collect::<Vec<_>>(), ["before-first-apply", "me*"]);
}

#[test]
fn kubectl_takes_over_from_its_client_side_self() {
    let mut config = containers(json!([{"name": "a", "image": "1"}]));
    config["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": containers(json!([{"name": "a", "image": "1"}])).to_string()});
    let live = written(None, object(config), "kubectl-client-side-apply");
    let next = containers(json!([{"name": "a", "image": "2"}]));
    assert!(applied(Some(&live), next.clone(), "me", false).is_err());
    let after = applied(Some(&live), next.clone(), "kubectl", false).unwrap();
    assert_eq!(after.get(&["spec", "template", "spec", "containers"]), Some(&json!([{"name": "a", "image": "2"}])));
    let annotation = after.text(&["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"]).unwrap();
    assert_eq!(serde_json::from_str::<Value>(annotation).unwrap(), next);
}

#[test]
fn maps_sets_and_atomic_values_are_owned_by_their_parts_or_whole() {
    let mut config = containers(json!([{"name": "a", "args": ["1", "2"], "limits": {"cpu": "1"}}]));
    config["metadata"]["finalizers"] = json!(["x"]);
    config["metadata"]["labels"] = json!({"a": "1"});
    let live = applied(None, config.clone(), "me", false).unwrap();
    assert_eq!(owners(&live)["me*"]["f:metadata"], json!({"f:finalizers": {"v:\"x\"": {}}, "f:labels": {"f:a": {}}}));
    let mut other = containers(json!([{"name": "a"}]));
    other["metadata"]["finalizers"] = json!(["y"]);
    other["metadata"]["labels"] = json!({"b": "1"});
    let live = applied(Some(&live), other, "friend", false).unwrap();
    assert_eq!(live.get(&["metadata", "finalizers"]), Some(&json!(["x", "y"])));
    assert_eq!(live.get(&["metadata", "labels"]), Some(&json!({"a": "1", "b": "1"})));
    let error = applied(Some(&live), containers(json!([{"name": "a", "args": ["1"]}])), "friend", false).unwrap_err();
    assert!(error.message.ends_with(r#"conflict with "me": .spec.template.spec.containers[name="a"].args"#), "{error}");
}

#[test]
fn undeclared_fields_are_told_with_the_keys_of_their_elements() {
    let config = Object::from_value(containers(json!([{"name": "a"}, {"name": "b", "args": ["x"]}]))).unwrap();
    let paths = ["spec.template.spec.containers[1].foo", "spec.template.spec.containers[1].args[0].x", "spec.foo"].map(str::to_owned);
    let error = undeclared(&deployment(), &config, &paths);
    let words = concat!(
        "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): errors:\n",
        "  .spec.template.spec.containers[name=\"b\"].foo: field not declared in schema\n",
        "  .spec.template.spec.containers[name=\"b\"].args[0].x: field not declared in schema\n",
        "  .spec.foo: field not declared in schema",
    );
    assert_eq!((error.code, error.message.as_str()), (500, words));
}

#[test]
fn configurations_that_cannot_be_tracked_are_refused() {
    let error = applied(None, containers(json!([{"name": "a"}, {"name": "a"}])), "me", false).unwrap_err();
    assert_eq!(
        error.message,
        r#"failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.template.spec.containers: duplicate entries for key [name="a"]"#
    );
    assert!(applied(None, containers(json!([{"image": "a"}])), "me", false).is_err());
    let mut config = containers(json!([]));
    config["metadata"]["managedFields"] = json!([{}]);
    assert_eq!(applied(None, config, "me", false).unwrap_err().message, "metadata.managedFields must be nil");
}

#[test]
fn lists_that_wrongly_repeat_a_key_do_no_harm() {
    let live = written(None, object(containers(json!([{"name": "a", "image": "1"}, {"name": "a", "image": "2"}]))), "create");
    let mut next = live.clone();
    next.0["spec"]["template"]["spec"]["containers"][1]["image"] = json!("3");
    let next = written(Some(&live), next, "edit");
    assert!(owners(&next)["edit"].is_object());
    let _ = applied(Some(&next), containers(json!([{"name": "a", "image": "4"}])), "me", true).unwrap();
}

#[test]
fn sets_are_written_and_read() {
    let json = json!({"f:a": {}, "f:b": {".": {}, "k:{\"n\":1}": {"f:x": {}}}, "f:c": {"v:\"x\"": {}, "v:2": {}, "i:3": {}}});
    let set = FieldSet::from_json(&json).unwrap();
    assert_eq!(set.to_json(), json);
    let texts: Vec<String> = set.paths().iter().map(|path| set::path_text(path)).collect();
    assert_eq!(texts, [".a", ".b", ".b[n=1].x", ".c[=2]", ".c[=\"x\"]", ".c[3]"]);
    assert!(set.contains(&[Element::Field("a".into())]) && !set.contains(&[Element::Field("c".into())]));
    for bad in [json!([]), json!({"x": {}}), json!({"f:a": 1}), json!({"k:[]": {}}), json!({"v:": {}}), json!({"i:x": {}}), json!({"é": {}})] {
        assert_eq!(FieldSet::from_json(&bad), None, "{bad}");
    }
}

fn any_set() -> impl Strategy<Value = FieldSet> {
    prop::collection::vec(prop::collection::vec("[abc]", 1..4), 0..8).prop_map(|paths| {
        let mut set = FieldSet::default();
        for path in paths {
            set.insert_fields(&path.iter().map(String::as_str).collect::<Vec<_>>());
        }
        set
    })
}

fn any_deployment() -> impl Strategy<Value = Object> {
    let container = ("[abc]", prop::option::of("[12]"), prop::collection::vec(1..4_i32, 0..3)).prop_map(|(name, image, ports)| {
        let mut one = json!({"name": name, "ports": ports.into_iter().map(|port| json!({"containerPort": port})).collect::<Vec<_>>()});
        if let Some(image) = image {
            one["image"] = json!(image);
        }
        one
    });
    let labels = prop::collection::btree_map("[ab]", "[12]", 0..3);
    (prop::collection::vec(container, 0..3), labels, prop::option::of(1..3_i32)).prop_map(|(list, labels, replicas)| {
        let mut distinct: Vec<Value> = Vec::new();
        for one in list {
            if !distinct.iter().any(|known| known["name"] == one["name"]) {
                let ports = one["ports"].as_array().unwrap().clone();
                let mut one = one;
                let mut kept: Vec<Value> = Vec::new();
                for port in ports {
                    if !kept.contains(&port) {
                        kept.push(port);
                    }
                }
                one["ports"] = Value::from(kept);
                distinct.push(one);
            }
        }
        let mut all = containers(Value::from(distinct));
        all["metadata"]["labels"] = json!(labels);
        if let Some(replicas) = replicas {
            all["spec"]["replicas"] = json!(replicas);
        }
        object(all)
    })
}

fn schema_of_deployments() -> Schema {
    deployment()
}

proptest! {
    #[test]
    fn sets_obey_their_laws(a in any_set(), b in any_set()) {
        prop_assert_eq!(FieldSet::from_json(&a.to_json()), Some(a.clone()));
        prop_assert_eq!(a.union(&b), b.union(&a));
        prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
        prop_assert!(a.difference(&b).intersection(&b).is_empty());
        let json = b.to_json();
        prop_assert_eq!(a.touches(json.as_object().unwrap()), !a.intersection(&b).is_empty());
    }
    #[test]
    fn what_was_applied_by_force_is_there_and_repeating_changes_nothing(live in any_deployment(), first in any_deployment(), second in any_deployment()) {
        let live = written(None, live, "create");
        let mut at = live;
        for config in [&first, &second] {
            at = applied(Some(&at), config.clone().into_value(), "me", true).unwrap();
            prop_assert_eq!(at.get(&["spec", "replicas"]).is_some() || config.get(&["spec", "replicas"]).is_none(), true);
            let again = applied(Some(&at), config.clone().into_value(), "me", false).unwrap();
            prop_assert_eq!(&again, &at);
            let mut written_again = at.clone();
            update(&schema_of_deployments(), &OneShape, Some(&at), &mut written_again, "other", "apps/v1", "", LATER).unwrap();
            prop_assert_eq!(&written_again, &at);
        }
    }
    #[test]
    fn any_two_versions_can_follow_each_other(old in any_deployment(), new in any_deployment()) {
        let old = written(None, old, "a");
        let new = written(Some(&old), new, "b");
        // All owned fields exist, and nothing is owned by two updaters.
        let sets: Vec<FieldSet> = owners(&new).as_object().unwrap().values().map(|set| FieldSet::from_json(set).unwrap()).collect();
        if let [a, b] = sets.as_slice() {
            prop_assert!(a.intersection(b).is_empty());
        }
    }
}

#[test]
fn long_lists_take_no_quadratic_time() {
    let many = |reverse: bool| {
        let mut list: Vec<Value> = (0..20_000).map(|index| json!({"name": format!("c{index}")})).collect();
        if reverse {
            list.reverse();
        }
        containers(Value::from(list))
    };
    let start = std::time::Instant::now();
    let live = applied(None, many(true), "me", false).unwrap();
    let live = applied(Some(&live), many(false), "me", false).unwrap();
    let mut patched = live.clone().into_value();
    crate::patch::strategic_merge(&deployment(), &mut patched, &many(true)).unwrap();
    let _ = written(Some(&live), object(patched), "edit");
    // Seconds even on a slow machine without optimisation; quadratic time would be many minutes.
    assert!(start.elapsed().as_secs() < 60, "took {:?}", start.elapsed());
}
