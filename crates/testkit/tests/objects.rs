//! Objects through the whole API server: created, read, changed in every way there is, and deleted.

use serde_json::{Value, json};
use testkit::{Answer, ApiHarness, Caller};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, value: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "key": value } })
}

async fn administrator_with_maps(names: &[&str]) -> (ApiHarness, Caller) {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    for name in names {
        administrator.post(MAPS, &map(name, "one")).await.expect(201);
    }
    (api, administrator)
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_created_object_is_read_back_with_what_the_server_adds() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    let created = administrator.post(MAPS, &map("a", "one")).await.expect(201);
    let metadata = &created["metadata"];
    assert_eq!(metadata["namespace"], "default");
    assert!(metadata["uid"].as_str().is_some_and(|uid| uid.len() == 36), "{metadata}");
    assert!(metadata["resourceVersion"].as_str().is_some_and(|version| version.parse::<u64>().is_ok()), "{metadata}");
    assert!(metadata["creationTimestamp"].is_string(), "{metadata}");
    assert_eq!(administrator.get(&format!("{MAPS}/a")).await.expect(200), created);
}

#[tokio::test]
async fn a_generated_name_begins_as_asked() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    let body = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "generateName": "part-" } });
    let name = administrator.post(MAPS, &body).await.expect(201)["metadata"]["name"].clone();
    assert!(name.as_str().is_some_and(|name| name.starts_with("part-") && name.len() == 10), "{name}");
}

#[tokio::test]
async fn pages_of_a_list_are_its_snapshot() {
    let (_api, administrator) = administrator_with_maps(&["a", "b", "c"]).await;
    let first = administrator.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    administrator.post(MAPS, &map("d", "one")).await.expect(201);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = administrator.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["c"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert!(second["metadata"].get("continue").is_none());
}

#[tokio::test]
async fn a_list_is_as_new_as_asked_for_and_exactly_that_where_that_is_asked() {
    let (_api, administrator) = administrator_with_maps(&["a"]).await;
    let list = async |query: &str| administrator.get(&format!("{MAPS}?{query}")).await;
    let version = list("").await.expect(200)["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    administrator.post(MAPS, &map("b", "one")).await.expect(201);
    administrator.delete(&format!("{MAPS}/a")).await.expect(200);
    let now = list("").await.expect(200)["metadata"]["resourceVersion"].clone();
    // Unset is the newest; any and not older than are answered with the newest, which both allow.
    for query in ["", "resourceVersion=0", "resourceVersion=0&resourceVersionMatch=NotOlderThan", &format!("resourceVersion={version}"), &format!("resourceVersion={version}&resourceVersionMatch=NotOlderThan")] {
        let seen = list(query).await.expect(200);
        assert_eq!((names(&seen), &seen["metadata"]["resourceVersion"]), (vec!["b"], &now), "{query}");
    }
    // A limit without a word on how to match has always meant exactly.
    for query in [format!("resourceVersion={version}&resourceVersionMatch=Exact"), format!("resourceVersion={version}&limit=5")] {
        let seen = list(&query).await.expect(200);
        assert_eq!((names(&seen), &seen["metadata"]["resourceVersion"]), (vec!["a"], &json!(version)), "{query}");
    }
    let message = list("resourceVersion=0&resourceVersionMatch=Exact").await.expect(422)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""), "{message}");
    for query in ["", "?resourceVersion=0", &format!("?resourceVersion={version}")] {
        administrator.get(&format!("{MAPS}/b{query}")).await.expect(200);
    }
    administrator.get(&format!("{MAPS}/b?resourceVersion=99999999")).await.expect(504);
}

#[tokio::test]
async fn pages_whose_state_is_gone_go_on_with_what_there_is_by_another_token() {
    let (_api, administrator) = administrator_with_maps(&["a", "b", "c", "d"]).await;
    let list = async |query: &str| administrator.get(&format!("{MAPS}?limit=1&{query}")).await;
    let first = list("").await.expect(200);
    let version = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    administrator.delete(&format!("{MAPS}/b")).await.expect(200);
    // More than a history keeps, which keeps text packed: this does not shrink.
    let noise = testkit::noise(900_000);
    for number in 0..20 {
        administrator.patch(&format!("{MAPS}/d"), "merge-patch", &json!({ "data": { "key": format!("{number}{noise}") } })).await.expect(200);
    }
    let gone = list(&format!("continue={}", first["metadata"]["continue"].as_str().unwrap())).await.expect(410);
    assert_eq!((&gone["reason"], &gone["code"]), (&json!("Expired"), &json!(410)));
    let token = gone["metadata"]["continue"].as_str().unwrap().to_owned();
    let second = list(&format!("continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["c"], "as it is now");
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let third = list(&format!("continue={}", second["metadata"]["continue"].as_str().unwrap())).await.expect(200);
    assert_eq!((names(&third), third["metadata"].get("continue")), (vec!["d"], None));
    let old = list(&format!("resourceVersion={version}&resourceVersionMatch=Exact")).await.expect(410);
    assert!(old["message"].as_str().unwrap().starts_with("too old resource version: "), "{old}");
}

#[tokio::test]
async fn selectors_choose_by_labels_and_fields() {
    let (_api, administrator) = administrator_with_maps(&["a", "b"]).await;
    administrator.patch(&format!("{MAPS}/b"), "merge-patch", &json!({ "metadata": { "labels": { "tier": "web" } } })).await.expect(200);
    for (query, wanted) in [
        ("labelSelector=tier%3Dweb", vec!["b"]),
        ("labelSelector=tier%20notin%20(web)", vec!["a"]),
        ("labelSelector=!tier", vec!["a"]),
        ("fieldSelector=metadata.name%3Da", vec!["a"]),
        ("fieldSelector=metadata.name!%3Da", vec!["b"]),
    ] {
        let list = administrator.get(&format!("{MAPS}?{query}")).await.expect(200);
        assert_eq!(names(&list), wanted, "{query}");
    }
}

#[tokio::test]
async fn a_stale_update_is_refused_and_a_fresh_one_taken() {
    let (_api, administrator) = administrator_with_maps(&["a"]).await;
    let path = format!("{MAPS}/a");
    let old = administrator.get(&path).await.expect(200);
    let mut new = old.clone();
    new["data"]["key"] = "two".into();
    let changed = administrator.put(&path, &new).await.expect(200);
    assert_ne!(changed["metadata"]["resourceVersion"], old["metadata"]["resourceVersion"]);
    administrator.put(&path, &new).await.refused(
        409,
        "Conflict",
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again",
    );
}

#[tokio::test]
async fn an_update_that_changes_nothing_is_no_new_version() {
    let (_api, administrator) = administrator_with_maps(&["a"]).await;
    let path = format!("{MAPS}/a");
    let old = administrator.get(&path).await.expect(200);
    assert_eq!(administrator.put(&path, &old).await.expect(200)["metadata"]["resourceVersion"], old["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn patches_of_every_kind_change_what_they_name() {
    let (_api, administrator) = administrator_with_maps(&["a"]).await;
    let path = format!("{MAPS}/a");
    let merged = administrator.patch(&path, "merge-patch", &json!({ "data": { "key": null, "merged": "1" } })).await.expect(200);
    assert_eq!(merged["data"], json!({ "merged": "1" }));
    let replaced = administrator.patch(&path, "json-patch", &json!([{ "op": "add", "path": "/data/json", "value": "2" }])).await.expect(200);
    assert_eq!(replaced["data"], json!({ "merged": "1", "json": "2" }));
    let strategic = administrator.patch(&path, "strategic-merge-patch", &json!({ "data": { "$patch": "replace", "only": "3" } })).await.expect(200);
    assert_eq!(strategic["data"], json!({ "only": "3" }));
}

#[tokio::test]
async fn the_selector_of_a_disruption_budget_is_patched_as_a_whole() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "a" },
        "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "web", "tier": "front" } } },
    });
    administrator.post(budgets, &budget).await.expect(201);
    let patch = json!({ "spec": { "selector": { "matchLabels": { "app": "db" } } } });
    let patched = administrator.patch(&format!("{budgets}/a"), "strategic-merge-patch", &patch).await.expect(200);
    assert_eq!(patched["spec"], json!({ "minAvailable": 1, "selector": { "matchLabels": { "app": "db" } } }));
}

#[tokio::test]
async fn a_field_of_another_applier_is_a_conflict_unless_forced() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    let apply = async |manager: &str, value: &str, force: bool| {
        administrator.patch(&format!("{MAPS}/a?fieldManager={manager}&force={force}"), "apply-patch", &map("a", value)).await
    };
    apply("first", "one", false).await.expect(201);
    let refused = apply("second", "two", false).await.expect(409);
    assert_eq!(refused["reason"], "Conflict");
    assert_eq!(refused["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(refused["details"]["causes"][0]["field"], ".data.key");
    let taken = apply("second", "two", true).await.expect(200);
    assert_eq!(taken["data"]["key"], "two");
    let managers: Vec<&Value> = taken["metadata"]["managedFields"].as_array().unwrap().iter().map(|entry| &entry["manager"]).collect();
    assert!(managers.contains(&&json!("second")), "{managers:?}");
}

#[tokio::test]
async fn a_dry_run_answers_and_writes_nothing() {
    let (_api, administrator) = administrator_with_maps(&["a"]).await;
    administrator.post(&format!("{MAPS}?dryRun=All"), &map("b", "one")).await.expect(201);
    administrator.get(&format!("{MAPS}/b")).await.expect(404);
    administrator.send("DELETE", &format!("{MAPS}/a?dryRun=All"), &[], "").await.expect(200);
    administrator.get(&format!("{MAPS}/a")).await.expect(200);
}

#[tokio::test]
async fn a_finalizer_keeps_an_object_until_it_is_taken_off() {
    let (_api, administrator) = administrator_with_maps(&["a"]).await;
    let path = format!("{MAPS}/a");
    administrator.patch(&path, "merge-patch", &json!({ "metadata": { "finalizers": ["example.com/wait"] } })).await.expect(200);
    administrator.delete(&path).await.expect(200);
    let going = administrator.get(&path).await.expect(200);
    assert!(going["metadata"]["deletionTimestamp"].is_string(), "{going}");
    administrator.patch(&path, "merge-patch", &json!({ "metadata": { "finalizers": null } })).await.expect(200);
    administrator.get(&path).await.expect(404);
}

/// The garbage collector does what the finalizers ask for; here nobody does, so they stay.
#[tokio::test]
async fn a_deletion_says_what_becomes_of_what_the_object_owns() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    let path = |name: &str| format!("{MAPS}/{name}");
    for (name, options, finalizers) in [
        ("foreground", json!({ "propagationPolicy": "Foreground" }), json!(["foregroundDeletion"])),
        ("orphan", json!({ "propagationPolicy": "Orphan" }), json!(["orphan"])),
        ("old-orphan", json!({ "orphanDependents": true }), json!(["orphan"])),
    ] {
        administrator.post(MAPS, &map(name, "one")).await.expect(201);
        let deleted = administrator.send("DELETE", &path(name), &[("content-type", "application/json")], options.to_string()).await.expect(200);
        assert_eq!((&deleted["metadata"]["finalizers"], deleted["metadata"]["deletionTimestamp"].is_string()), (&finalizers, true), "{options}");
        assert_eq!(administrator.get(&path(name)).await.expect(200)["metadata"]["finalizers"], finalizers);
        // Another word later counts.
        let query = format!("{}?propagationPolicy=Background", path(name));
        administrator.delete(&query).await.expect(200);
        administrator.get(&path(name)).await.expect(404);
    }
    for options in [json!({ "propagationPolicy": "Background" }), json!({ "orphanDependents": false }), json!({})] {
        administrator.post(MAPS, &map("gone", "one")).await.expect(201);
        administrator.send("DELETE", &path("gone"), &[("content-type", "application/json")], options.to_string()).await.expect(200);
        administrator.get(&path("gone")).await.expect(404);
    }
}

#[tokio::test]
async fn a_deletion_with_a_stale_precondition_is_refused() {
    let (_api, administrator) = administrator_with_maps(&["a"]).await;
    let options = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": { "uid": "00000000-0000-0000-0000-000000000000" } });
    let path = format!("{MAPS}/a");
    let refused = administrator.send("DELETE", &path, &[("content-type", "application/json")], options.to_string()).await.expect(409);
    assert_eq!(refused["reason"], "Conflict");
    administrator.get(&path).await.expect(200);
}

#[tokio::test]
async fn an_eviction_takes_only_the_pod_that_is_meant_and_only_where_its_budget_allows() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    administrator.post("/api/v1/namespaces/default/serviceaccounts", &json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } })).await;
    let (pods, budgets) = ("/api/v1/namespaces/default/pods", "/apis/policy/v1/namespaces/default/poddisruptionbudgets");
    let pod = |name: &str| {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": "web" } }, "spec": { "containers": [{ "name": "main", "image": "i" }] } })
    };
    let evict = async |pod: &str, name: &str, preconditions: Value| {
        let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": name }, "deleteOptions": { "preconditions": preconditions } });
        administrator.post(&format!("{pods}/{pod}/eviction"), &eviction).await
    };
    let made = administrator.post(pods, &pod("a")).await.expect(201);
    evict("a", "", json!({})).await.expect(400);
    let refused = evict("a", "a", json!({ "uid": "another" })).await.expect(409);
    assert!(refused["message"].as_str().unwrap().contains("the UID in the precondition (another) does not match the UID in record"), "{refused}");
    evict("a", "a", json!({ "resourceVersion": "1" })).await.expect(409);
    // Nobody says of a pod that it goes when it does not.
    assert_eq!(administrator.get(&format!("{pods}/a")).await.expect(200), made);
    // A version that is the present one is the present one until the pod is gone.
    evict("a", "a", json!({ "resourceVersion": made["metadata"]["resourceVersion"], "uid": made["metadata"]["uid"] })).await.expect(201);
    administrator.get(&format!("{pods}/a")).await.expect(404);

    administrator.post(pods, &pod("b")).await.expect(201);
    let budget = json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "web" }, "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "web" } } } });
    administrator.post(budgets, &budget).await.expect(201);
    let running = json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
    administrator.patch(&format!("{pods}/b/status"), "merge-patch", &running).await.expect(200);
    let cause = |refused: &Value| refused["details"]["causes"][0]["message"].as_str().unwrap_or_default().to_owned();
    let refused = evict("b", "b", json!({})).await.expect(429);
    assert_eq!(cause(&refused), "The disruption budget web is still being processed by the server.");
    let condition = json!([{ "type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "no scale", "lastTransitionTime": "2026-01-01T00:00:00Z" }]);
    let status = |allowed: i32| json!({ "status": { "observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1, "conditions": condition } });
    administrator.patch(&format!("{budgets}/web/status"), "merge-patch", &status(0)).await.expect(200);
    let refused = evict("b", "b", json!({})).await.expect(429);
    assert_eq!(cause(&refused), "The disruption budget web does not allow evicting pods currently because it failed sync: no scale");
    administrator.patch(&format!("{budgets}/web/status"), "merge-patch", &status(1)).await.expect(200);
    evict("b", "b", json!({})).await.expect(201);
    let spent = administrator.get(&format!("{budgets}/web")).await.expect(200);
    assert_eq!((&spent["status"]["disruptionsAllowed"], spent["status"]["disruptedPods"].as_object().map(|pods| pods.len())), (&json!(0), Some(1)), "{spent}");
    // Once pods have not begun to run, no budget is asked.
    administrator.post(pods, &pod("c")).await.expect(201);
    evict("c", "c", json!({})).await.expect(201);
}

#[tokio::test]
async fn a_collection_is_deleted_by_its_selector() {
    let (_api, administrator) = administrator_with_maps(&["a", "b"]).await;
    administrator.delete(&format!("{MAPS}?fieldSelector=metadata.name%3Da")).await.expect(200);
    assert_eq!(names(&administrator.get(MAPS).await.expect(200)), ["b"]);
}

#[tokio::test]
async fn a_service_gets_an_address_of_its_own_and_gives_it_back() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, address: Option<&str>| {
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": { "ports": [{ "port": 80 }], "clusterIP": address } })
    };
    let created = administrator.post(services, &service("a", None)).await.expect(201);
    let address = created["spec"]["clusterIP"].as_str().unwrap();
    assert!(address.starts_with("10.96."), "{address}");
    assert_eq!(created["spec"]["type"], "ClusterIP");
    let refused = administrator.post(services, &service("b", Some(address))).await.expect(422);
    assert_eq!(refused["reason"], "Invalid");
    administrator.delete(&format!("{services}/a")).await.expect(200);
    administrator.post(services, &service("b", Some(address))).await.expect(201);
}

#[tokio::test]
async fn a_service_may_have_an_address_of_a_further_range_once_that_is_ready() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    let services = "/api/v1/namespaces/default/services";
    let ranges = "/apis/networking.k8s.io/v1/servicecidrs";
    let service = |name: &str| {
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": { "ports": [{ "port": 80 }], "clusterIP": "10.200.0.9" } })
    };
    let range = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": { "name": "more" }, "spec": { "cidrs": ["10.200.0.0/24"] } });
    administrator.post(ranges, &range).await.expect(201);
    administrator.post(services, &service("early")).await.expect(422);
    let ready = json!({ "type": "Ready", "status": "True", "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" });
    administrator.patch(&format!("{ranges}/more/status"), "merge-patch", &json!({ "status": { "conditions": [ready] } })).await.expect(200);
    let created = administrator.post(services, &service("late")).await.expect(201);
    assert_eq!(created["spec"]["clusterIPs"], json!(["10.200.0.9"]));
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_is_not_there() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    administrator.post("/api/v1/namespaces/nowhere/configmaps", &map("a", "one")).await.refused(404, "NotFound", "namespaces \"nowhere\" not found");
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_is_going_away() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    administrator.post("/api/v1/namespaces", &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "short" } })).await.expect(201);
    let going = administrator.delete("/api/v1/namespaces/short").await.expect(200);
    assert_eq!(going["status"]["phase"], "Terminating");
    let refused = administrator.post("/api/v1/namespaces/short/configmaps", &map("a", "one")).await.expect(403);
    assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating");
}

#[tokio::test]
async fn a_client_owns_what_it_asked_for_and_nobody_what_the_server_adds() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    administrator.post("/api/v1/namespaces/default/serviceaccounts", &json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } })).await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" },
        "spec": { "containers": [{ "name": "main", "image": "busybox" }] },
    });
    let pods = "/api/v1/namespaces/default/pods";
    let created = administrator.post(pods, &pod).await.expect(201);
    assert!(created["spec"]["tolerations"].is_array(), "admission adds tolerations: {created}");
    let owned = &created["metadata"]["managedFields"];
    assert_eq!(owned.as_array().map(Vec::len), Some(1), "{owned}");
    let spec = &owned[0]["fieldsV1"]["f:spec"];
    assert!(spec.get("f:containers").is_some() && spec.get("f:restartPolicy").is_some(), "{spec}");
    assert!(spec.get("f:tolerations").is_none() && spec.get("f:volumes").is_none() && spec.get("f:priority").is_none(), "{spec}");
    assert!(owned[0]["fieldsV1"].get("f:status").is_none(), "{owned}");

    // So whoever takes over from that manager, and does not name the tolerations, leaves them alone.
    let manager = owned[0]["manager"].as_str().unwrap();
    let taken = administrator.patch(&format!("{pods}/a?fieldManager={manager}&force=true"), "apply-patch", &pod).await.expect(200);
    assert_eq!(taken["spec"]["tolerations"], created["spec"]["tolerations"]);

    // What is created by apply is owned as far as it was applied.
    let mut applied = pod.clone();
    applied["metadata"]["name"] = json!("b");
    let created = administrator.patch(&format!("{pods}/b?fieldManager=me"), "apply-patch", &applied).await.expect(201);
    let owned = created["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(owned.len(), 1, "{owned:?}");
    assert_eq!(owned[0]["operation"], "Apply");
    assert_eq!(owned[0]["fieldsV1"]["f:spec"], json!({ "f:containers": { "k:{\"name\":\"main\"}": { ".": {}, "f:image": {}, "f:name": {} } } }));
}

/// A binding that says nothing but where the pod goes takes a shorter way than one that brings labels and annotations.
#[tokio::test]
async fn a_binding_gives_a_pod_its_node_and_nobody_else_anything() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    administrator.post("/api/v1/namespaces/default/serviceaccounts", &json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } })).await;
    let pods = "/api/v1/namespaces/default/pods";
    for (name, extra) in [("a", json!({ "annotations": { "by": "us" }, "labels": { "zone": "x" } })), ("b", json!({}))] {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": "web" }, "annotations": { "of": "them" } },
            "spec": { "containers": [{ "name": "main", "image": "busybox" }] },
        });
        let created = administrator.post(pods, &pod).await.expect(201);
        let binding = |uid: &str| {
            let mut metadata = json!({ "name": name, "uid": uid });
            metadata.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            json!({ "apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": { "kind": "Node", "name": "node-1" } })
        };
        let path = format!("{pods}/{name}/binding");
        administrator.post(&path, &binding("another")).await.expect(409);
        administrator.post(&format!("{path}?dryRun=All"), &binding("")).await.expect(201);
        assert_eq!(administrator.get(&format!("{pods}/{name}")).await.expect(200), created);
        administrator.post(&path, &binding(created["metadata"]["uid"].as_str().unwrap())).await.expect(201);
        let bound = administrator.get(&format!("{pods}/{name}")).await.expect(200);
        let condition = bound["status"]["conditions"].as_array().unwrap().iter().find(|condition| condition["type"] == "PodScheduled").cloned().unwrap();
        assert_eq!(condition["status"], "True");
        assert!(bound["metadata"]["resourceVersion"] != created["metadata"]["resourceVersion"]);
        // Besides what is said above, nothing changed: managers and generation neither.
        let mut expected = created.clone();
        expected["spec"]["nodeName"] = json!("node-1");
        for part in ["annotations", "labels"] {
            expected["metadata"][part].as_object_mut().unwrap().extend(extra[part].as_object().cloned().unwrap_or_default());
        }
        expected["metadata"]["resourceVersion"] = bound["metadata"]["resourceVersion"].clone();
        expected["status"]["conditions"] = json!([condition]);
        assert_eq!(bound, expected);
        let conflict = administrator.post(&path, &binding("")).await.expect(409);
        assert!(conflict["message"].as_str().unwrap().ends_with(&format!("pod {name} is already assigned to node \"node-1\"")), "{conflict}");
    }
    // Selectors find them by their node.
    let there = administrator.get(&format!("{pods}?fieldSelector=spec.nodeName%3Dnode-1")).await.expect(200);
    assert_eq!(there["items"].as_array().unwrap().len(), 2);
    let absent = administrator.post(&format!("{pods}/c/binding"), &json!({ "apiVersion": "v1", "kind": "Binding", "metadata": { "name": "c" }, "target": { "name": "node-1" } })).await;
    absent.expect(404);
}

#[tokio::test]
async fn a_pod_carries_the_zone_and_region_of_its_node_unless_it_says_another() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    administrator.post("/api/v1/namespaces/default/serviceaccounts", &json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } })).await.expect(201);
    let (zone, region) = ("topology.kubernetes.io/zone", "topology.kubernetes.io/region");
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n", "labels": { zone: "a", region: "north", "other": "x" } } });
    administrator.post("/api/v1/nodes", &node).await.expect(201);
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str, labels: Value, node: Option<&str>| json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": labels }, "spec": { "nodeName": node, "containers": [{ "name": "a", "image": "a" }] } });
    let labels = async |name: &str| administrator.get(&format!("{pods}/{name}")).await.expect(200)["metadata"]["labels"].clone();
    administrator.post(pods, &pod("bound", json!({ "app": "web" }), None)).await.expect(201);
    assert_eq!(labels("bound").await, json!({ "app": "web" }));
    let binding = json!({ "apiVersion": "v1", "kind": "Binding", "metadata": { "name": "bound" }, "target": { "kind": "Node", "name": "n" } });
    administrator.post(&format!("{pods}/bound/binding"), &binding).await.expect(201);
    assert_eq!(labels("bound").await, json!({ "app": "web", zone: "a", region: "north" }));
    let chosen = administrator.get(&format!("{pods}?labelSelector={zone}%3Da")).await.expect(200);
    assert_eq!(names(&chosen), ["bound"]);
    administrator.post(pods, &pod("placed", json!({ zone: "mine" }), Some("n"))).await.expect(201);
    assert_eq!(labels("placed").await, json!({ zone: "mine", region: "north" }));
    administrator.post(pods, &pod("lost", json!({}), Some("unknown"))).await.expect(201);
    assert_eq!(labels("lost").await, Value::Null);
}

/// Go's clients send `""` and zero for fields that nobody set, as far as their types cannot be empty otherwise.
#[tokio::test]
async fn empty_texts_and_zeros_are_nothing_where_gos_types_have_no_pointers() {
    let harness = ApiHarness::start().await;
    let caller = harness.administrator();
    let binding = json!({
        "metadata": {"name": "reader"}, "roleRef": {"apiGroup": "", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "", "kind": "ServiceAccount", "name": "default", "namespace": "default"}, {"apiGroup": "", "kind": "User", "name": "jane"}],
    });
    let made = caller.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", &binding).await.expect(201);
    assert_eq!(made["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(made["subjects"][1]["apiGroup"], "rbac.authorization.k8s.io");
    caller.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await.expect(201);
    let container = json!({
        "name": "c", "image": "i", "imagePullPolicy": "", "terminationMessagePolicy": "", "stdin": false, "ports": [{"containerPort": 80, "hostPort": 0, "protocol": ""}],
        "livenessProbe": {"httpGet": {"port": 80, "path": "", "scheme": ""}, "periodSeconds": 0, "successThreshold": 0},
    });
    let pod = json!({"metadata": {"name": "a"}, "spec": {"restartPolicy": "", "schedulerName": "", "hostNetwork": false, "terminationGracePeriodSeconds": 0, "containers": [container]}});
    let made = caller.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    let (spec, container) = (&made["spec"], &made["spec"]["containers"][0]);
    assert_eq!((&spec["restartPolicy"], &spec["schedulerName"], spec.get("hostNetwork")), (&json!("Always"), &json!("default-scheduler"), None));
    assert_eq!(spec["terminationGracePeriodSeconds"], 0, "a pointer keeps its zero");
    assert_eq!((&container["imagePullPolicy"], container.get("stdin")), (&json!("Always"), None));
    assert_eq!(container["ports"], json!([{"containerPort": 80, "protocol": "TCP"}]));
    assert_eq!((&container["livenessProbe"]["httpGet"]["path"], &container["livenessProbe"]["periodSeconds"]), (&json!("/"), &json!(10)));
    let patched = caller.patch("/api/v1/namespaces/default/pods/a", "strategic-merge-patch", &json!({"spec": {"restartPolicy": ""}})).await.expect(200);
    assert_eq!(patched["spec"]["restartPolicy"], "Always");
    let class = json!({"metadata": {"name": "none"}, "value": 0});
    assert_eq!(caller.post("/apis/scheduling.k8s.io/v1/priorityclasses", &class).await.expect(201)["value"], 0);
}

/// Clients of the conformance suite change labels in a status and expect to find the old ones.
#[tokio::test]
async fn a_status_of_a_deployment_does_not_bring_labels_along() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({ "app": "web" });
    let template = json!({ "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "web", "image": "web" }] } });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "labels": { "stage": "updated" } },
        "spec": { "selector": { "matchLabels": labels }, "template": template },
    });
    administrator.post(deployments, &deployment).await.expect(201);
    let change = json!({ "metadata": { "labels": { "stage": "patched" }, "annotations": { "seen": "yes" } }, "status": { "replicas": 3 } });
    administrator.patch(&format!("{deployments}/web/status"), "strategic-merge-patch", &change).await.expect(200);
    let after = administrator.get(&format!("{deployments}/web/status")).await.expect(200);
    assert_eq!(after["status"]["replicas"], 3);
    assert_eq!(after["metadata"]["annotations"], json!({ "seen": "yes" }));
    assert_eq!(after["metadata"]["labels"], json!({ "stage": "updated" }));
}

fn told(answer: &testkit::Answer) -> Vec<String> {
    answer.headers.get_all("warning").iter().map(|value| value.to_str().unwrap().trim_start_matches("299 - ").replace('\\', "")).collect()
}

#[tokio::test]
async fn what_does_nothing_in_a_template_is_told_when_it_comes_not_when_it_stays() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let container = json!({ "name": "web", "image": "web", "env": [{ "name": "A", "value": "a" }, { "name": "A", "value": "b" }] });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web.b" },
        "spec": { "selector": { "matchLabels": { "app": "web" } }, "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [container] } } },
    });
    let created = administrator.post(deployments, &deployment).await;
    created.expect(201);
    assert_eq!(
        told(&created),
        [
            "\"metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]\"",
            "\"spec.template.spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply\"",
        ]
    );
    let scaled = administrator.patch(&format!("{deployments}/web.b"), "merge-patch", &json!({ "spec": { "replicas": 2 } })).await;
    scaled.expect(200);
    assert_eq!(told(&scaled), Vec::<String>::new());
    let selector = json!({ "spec": { "template": { "spec": { "nodeSelector": { "beta.kubernetes.io/os": "linux" } } } } });
    let changed = administrator.patch(&format!("{deployments}/web.b"), "merge-patch", &selector).await;
    changed.expect(200);
    assert_eq!(told(&changed)[0], "\"spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead\"");
}

#[tokio::test]
async fn what_other_objects_are_better_without_is_told() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    let spec = json!({ "ports": [{ "port": 80 }], "externalIPs": ["2001:db8:0:0::2"], "trafficDistribution": "PreferClose" });
    let service = administrator.post("/api/v1/namespaces/default/services", &json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a" }, "spec": spec })).await;
    service.expect(201);
    assert_eq!(
        told(&service),
        [
            "\"spec.externalIPs[0]: IPv6 address \"2001:db8:0:0::2\" should be in RFC 5952 canonical format (\"2001:db8::2\")\"",
            "\"spec.externalIPs is deprecated and may no longer be implemented in some clusters\"",
            "\"spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"\"",
        ]
    );
    let spec = json!({
        "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "hostPath": { "path": "/a" }, "persistentVolumeReclaimPolicy": "Recycle",
        "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [{ "key": "node-role.kubernetes.io/master", "operator": "Exists" }] }] } },
    });
    let volume = administrator.post("/api/v1/persistentvolumes", &json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "a" }, "spec": spec })).await;
    volume.expect(201);
    assert_eq!(
        told(&volume),
        [
            "\"spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.\"",
            "\"spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: node-role.kubernetes.io/master is use \"node-role.kubernetes.io/control-plane\" instead\"",
        ]
    );
    let reported = administrator.patch("/api/v1/persistentvolumes/a/status", "merge-patch", &json!({ "status": { "phase": "Available" } })).await;
    reported.expect(200);
    assert_eq!(told(&reported), Vec::<String>::new());
    // Reading is enough where the version itself is of old.
    let endpoints = administrator.get("/api/v1/namespaces/default/endpoints").await;
    endpoints.expect(200);
    assert_eq!(told(&endpoints), ["\"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""]);
}

#[tokio::test]
async fn addresses_and_ranges_that_can_be_written_otherwise_are_told_wherever_they_stand() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    let told = |answer: &Answer| -> Vec<String> {
        let warnings = answer.headers.get_all("warning").iter().map(|value| value.to_str().unwrap().trim_start_matches("299 - ").replace("\\\"", "'"));
        warnings.map(|text| text.trim_matches('"').to_owned()).filter(|text| !text.contains("is deprecated in v1.33+")).collect()
    };
    let ip = |path: &str| format!("{path}: IPv6 address '2001:db8:0:0::2' should be in RFC 5952 canonical format ('2001:db8::2')");
    let range = |path: &str| format!("{path}: CIDR value '10.1.2.3/24' is ambiguous in this context (should be '10.1.2.0/24' or '10.1.2.3/32'?)");
    let block = |range: &str| json!({ "ipBlock": { "cidr": range } });
    let policy = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "a" }, "spec": { "podSelector": {},
        "ingress": [{ "from": [block("10.0.0.0/8"), { "ipBlock": { "cidr": "10.0.0.0/8", "except": ["10.1.2.3/24"] } }] }], "egress": [{ "to": [block("10.1.2.3/24")] }] } });
    let policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    let answer = administrator.post(policies, &policy).await;
    answer.expect(201);
    let expected = [range("spec.ingress[0].from[1].ipBlock.except[0]"), range("spec.egress[0].to[0].ipBlock.cidr")];
    assert_eq!(told(&answer), expected);
    let endpoints = |name: &str, labels: Value| json!({ "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": name, "labels": labels },
        "subsets": [{ "addresses": [{ "ip": "2001:db8:0:0::2" }], "notReadyAddresses": [{ "ip": "10.0.0.1" }, { "ip": "2001:db8:0:0::2" }] }] });
    let answer = administrator.post("/api/v1/namespaces/default/endpoints", &endpoints("a", json!({}))).await;
    answer.expect(201);
    assert_eq!(told(&answer), [ip("subsets[0].addresses[0].ip"), ip("subsets[0].notReadyAddresses[1].ip")]);
    let answer = administrator.post("/api/v1/namespaces/default/endpoints", &endpoints("b", json!({ "endpoints.kubernetes.io/managed-by": "endpoint-controller" }))).await;
    answer.expect(201);
    assert_eq!(told(&answer), Vec::<String>::new(), "the controller knows");
    let slice = |name: &str, kind: &str, address: &str, labels: Value| json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": { "name": name, "labels": labels },
        "addressType": kind, "endpoints": [{ "addresses": [address] }] });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    for (slice, expected) in [
        (slice("a", "IPv6", "2001:db8:0:0::2", json!({})), vec![ip("endpoints[0].addresses[0]")]),
        (slice("b", "FQDN", "a.example", json!({})), vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()]),
        (slice("c", "IPv6", "2001:db8:0:0::2", json!({ "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io" })), vec![]),
    ] {
        let answer = administrator.post(slices, &slice).await;
        answer.expect(201);
        assert_eq!(told(&answer), expected);
    }
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "a" }, "spec": { "podCIDRs": ["10.1.2.3/24"], "podCIDR": "10.1.2.3/24", "externalID": "x" } });
    let answer = administrator.post("/api/v1/nodes", &node).await;
    answer.expect(201);
    assert_eq!(told(&answer), ["spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned(), range("spec.podCIDRs[0]")]);
    // Reports.
    administrator.post("/api/v1/namespaces/default/serviceaccounts", &json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } })).await.expect(201);
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" }, "spec": { "containers": [{ "name": "a", "image": "a" }] } });
    administrator.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a" }, "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] } });
    administrator.post("/api/v1/namespaces/default/services", &service).await.expect(201);
    let ingress = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": "a" }, "spec": { "defaultBackend": { "service": { "name": "a", "port": { "number": 80 } } } } });
    administrator.post("/apis/networking.k8s.io/v1/namespaces/default/ingresses", &ingress).await.expect(201);
    let balancer = json!({ "loadBalancer": { "ingress": [{ "hostname": "a.example" }, { "ip": "2001:db8:0:0::2" }] } });
    let pods = json!({ "podIPs": [{ "ip": "2001:db8:0:0::2" }], "podIP": "2001:db8:0:0::2", "hostIPs": [{ "ip": "10.0.0.1" }, { "ip": "2001:db8:0:0::2" }], "hostIP": "10.0.0.1" });
    for (path, status, expected) in [
        ("/api/v1/namespaces/default/pods/a/status", pods, vec![ip("status.podIPs[0].ip"), ip("status.hostIPs[1].ip")]),
        ("/api/v1/namespaces/default/services/a/status", balancer.clone(), vec![ip("status.loadBalancer.ingress[1]")]),
        ("/apis/networking.k8s.io/v1/namespaces/default/ingresses/a/status", balancer, vec![ip("status.loadBalancer.ingress[1].ip")]),
    ] {
        let answer = administrator.patch(path, "merge-patch", &json!({ "status": status })).await;
        answer.expect(200);
        assert_eq!(told(&answer), expected, "{path}");
    }
}

#[tokio::test]
async fn every_answer_has_a_name_which_is_the_clients_where_that_gave_one() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let mut names = Vec::new();
    for path in [maps, "/api/v1/namespaces/default/configmaps/missing", "/apis", "/readyz", "/nothing", "/api/v1/nodes?watch=true&timeoutSeconds=1"] {
        let name = administrator.get(path).await.header("audit-id").to_owned();
        assert_eq!((name.len(), name.matches('-').count()), (36, 4), "{path}: {name}");
        names.push(name);
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 6, "no two are alike");
    assert_eq!(administrator.send("GET", maps, &[("audit-id", "mine, as it is")], "").await.header("audit-id"), "mine, as it is");
}

#[tokio::test]
async fn a_scale_is_shown_in_columns_and_by_its_metadata_alone() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let spec = json!({ "replicas": 3, "selector": { "matchLabels": { "a": "b" } }, "template": { "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "name": "a", "image": "a" }] } } });
    administrator.post(deployments, &json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "a" }, "spec": spec })).await.expect(201);
    let path = "/apis/apps/v1/namespaces/default/deployments/a/scale";
    let accepting = |accept: &'static str| async { administrator.send("GET", path, &[("accept", accept)], "").await.expect(200).clone() };
    let table = accepting("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await;
    let columns: Vec<&str> = table["columnDefinitions"].as_array().unwrap().iter().map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!((table["kind"].as_str().unwrap(), columns), ("Table", vec!["Name", "Desired", "Available", "Age"]));
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[..3], [json!("a"), json!(3), json!(0)]);
    assert!(cells[3].as_str().is_some_and(|age| age.ends_with('s')), "{cells:?}");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let metadata = accepting("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").await;
    assert_eq!((metadata["kind"].as_str().unwrap(), metadata["metadata"]["name"].as_str().unwrap(), metadata.get("spec")), ("PartialObjectMetadata", "a", None));
    assert_eq!(accepting("application/json").await["spec"]["replicas"], 3);
}

#[tokio::test]
async fn devices_of_others_are_for_namespaces_of_administrators() {
    let (_api, administrator) = administrator_with_maps(&[]).await;
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let request = json!({ "name": "a", "exactly": { "deviceClassName": "c", "adminAccess": true } });
    let claim = |name: &str, requests: Value| json!({ "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": { "name": name }, "spec": { "devices": { "requests": requests } } });
    let words = "adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace";
    let refused = administrator.post(claims, &claim("a", json!([request]))).await.expect(422);
    assert_eq!(refused["message"], format!("ResourceClaim.resource.k8s.io \"a\" is invalid: spec.devices.requests[0].{words}"));
    let template = json!({ "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": { "name": "a" }, "spec": claim("a", json!([request])).as_object().map(|claim| json!({ "spec": claim["spec"] })).unwrap() });
    let refused = administrator.post("/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates", &template).await.expect(422);
    assert_eq!(refused["message"], format!("ResourceClaimTemplate.resource.k8s.io \"a\" is invalid: spec.devices.requests[0].{words}"));

    let ordinary = json!({ "name": "a", "exactly": { "deviceClassName": "c" } });
    administrator.post(claims, &claim("b", json!([ordinary]))).await.expect(201);
    let given = json!({ "status": { "allocation": { "devices": { "results": [{ "request": "a", "driver": "d", "pool": "p", "device": "x", "adminAccess": true }] } } } });
    let refused = administrator.patch(&format!("{claims}/b/status"), "merge-patch", &given).await.expect(422);
    assert_eq!(refused["message"], format!("ResourceClaim.resource.k8s.io \"b\" is invalid: status.allocation.devices.results[0].{words}"));

    let label = json!({ "metadata": { "labels": { "resource.kubernetes.io/admin-access": "true" } } });
    administrator.patch("/api/v1/namespaces/default", "merge-patch", &label).await.expect(200);
    // The server's own view follows what was written.
    for attempt in 0.. {
        let answer = administrator.post(claims, &claim("a", json!([request]))).await;
        if answer.status == 201 {
            break;
        }
        assert!(attempt < 600, "{}", answer.text());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    administrator.patch(&format!("{claims}/b/status"), "merge-patch", &given).await.expect(200);
}

#[tokio::test]
async fn allocations_are_for_schedulers_and_what_devices_say_for_their_drivers() {
    let (api, administrator) = administrator_with_maps(&[]).await;
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let roles = "/apis/rbac.authorization.k8s.io/v1";
    let grant = async |name: &str, rules: Value| {
        administrator.post(&format!("{roles}/clusterroles"), &json!({ "metadata": { "name": name }, "rules": rules })).await.expect(201);
        let binding = json!({ "metadata": { "name": name }, "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name }, "subjects": [{ "kind": "User", "name": name }] });
        administrator.post(&format!("{roles}/clusterrolebindings"), &binding).await.expect(201);
    };
    let status = json!({ "apiGroups": ["resource.k8s.io"], "resources": ["resourceclaims/status"], "verbs": ["get", "patch", "update"] });
    let binding = json!({ "apiGroups": ["resource.k8s.io"], "resources": ["resourceclaims/binding"], "verbs": ["patch"] });
    let driver = json!({ "apiGroups": ["resource.k8s.io"], "resources": ["resourceclaims/driver"], "verbs": ["arbitrary-node:patch"], "resourceNames": ["d"] });
    grant("reporter", json!([status])).await;
    grant("binder", json!([status, binding])).await;
    grant("driver", json!([status, driver])).await;
    let requests = json!([{ "name": "a", "exactly": { "deviceClassName": "c" } }]);
    administrator.post(claims, &json!({ "metadata": { "name": "a" }, "spec": { "devices": { "requests": requests } } })).await.expect(201);

    let allocation = json!({ "status": { "allocation": { "devices": { "results": [{ "request": "a", "driver": "d", "pool": "p", "device": "x" }, { "request": "a", "driver": "e", "pool": "p", "device": "x" }] } } } });
    let report = json!({ "status": { "devices": [{ "driver": "d", "pool": "p", "device": "x" }] } });
    let both = json!({ "status": { "devices": [{ "driver": "d", "pool": "p", "device": "x" }, { "driver": "e", "pool": "p", "device": "x" }] } });
    let path = format!("{claims}/a/status");
    // The server's own view of roles follows what was written.
    let patch = async |user: &str, change: &Value| {
        let caller = api.caller(client::Identity::user(user, &[]));
        loop {
            let answer = caller.patch(&path, "merge-patch", change).await;
            if answer.status != 403 {
                return answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let refused = patch("reporter", &allocation).await.expect(422);
    let words = "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"patch\" permission: resourceclaims.resource.k8s.io is forbidden: User \"reporter\" cannot patch resource \"resourceclaims/binding\" in API group \"resource.k8s.io\" at the cluster scope";
    assert_eq!(refused["message"], format!("ResourceClaim.resource.k8s.io \"a\" is invalid: status: Forbidden: {words}"));
    patch("binder", &allocation).await.expect(200);
    let refused = patch("binder", &report).await.expect(422);
    let words = "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[arbitrary-node:patch]\" permission: resourceclaims.resource.k8s.io \"d\" is forbidden: User \"binder\" cannot arbitrary-node:patch resource \"resourceclaims/driver\" in API group \"resource.k8s.io\" in the namespace \"default\"";
    assert_eq!(refused["message"], format!("ResourceClaim.resource.k8s.io \"a\" is invalid: status.devices: Forbidden: {words}"));
    patch("driver", &both).await.expect(422);
    patch("driver", &report).await.expect(200);
    // What does not change needs no permission.
    patch("reporter", &report).await.expect(200);
}

/// Version 1 of an autoscaler has a percentage where version 2 has a list of metrics.
#[tokio::test]
async fn an_autoscaler_s_target_belongs_to_whoever_applied_it_in_either_version() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let path = |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers/a");
    let apply = async |version: &str, manager: &str, more: Value, force: bool| {
        let mut spec = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "maxReplicas": 9});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let body = json!({"apiVersion": format!("autoscaling/{version}"), "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"}, "spec": spec});
        administrator.patch(&format!("{}?fieldManager={manager}&force={force}", path(version)), "apply-patch", &body).await
    };
    let metrics = |percent: i64| {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        json!({"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]})
    };
    let percent = |percent: i64| json!({"targetCPUUtilizationPercentage": percent});
    let owners = |object: &Value, field: &str| -> Vec<String> {
        let entries = object["metadata"]["managedFields"].as_array().unwrap().iter();
        entries.filter(|entry| entry["fieldsV1"]["f:spec"].get(field).is_some()).map(|entry| entry["manager"].as_str().unwrap().to_owned()).collect()
    };
    let conflict = |answer: testkit::Answer| {
        let cause = answer.expect(409)["details"]["causes"][0].clone();
        (cause["message"].as_str().unwrap().to_owned(), cause["field"].as_str().unwrap().to_owned())
    };
    apply("v1", "one", percent(50), false).await.expect(201);
    let refused = conflict(apply("v2", "two", metrics(60), false).await);
    assert_eq!(refused, ("conflict with \"one\"".to_owned(), ".spec.targetCPUUtilizationPercentage".to_owned()));
    let shared = apply("v2", "two", metrics(50), false).await.expect(200);
    assert_eq!((owners(&shared, "f:metrics"), owners(&shared, "f:targetCPUUtilizationPercentage")), (vec!["two".to_owned()], vec!["one".to_owned()]));
    let refused = conflict(apply("v1", "one", percent(70), false).await);
    assert_eq!(refused, ("conflict with \"two\"".to_owned(), ".spec.metrics".to_owned()));
    let mut more = percent(70);
    more["minReplicas"] = json!(2);
    let taken = apply("v1", "one", more, true).await.expect(200);
    assert!(owners(&taken, "f:metrics").is_empty(), "{taken}");
    assert_eq!(owners(&taken, "f:maxReplicas"), ["one", "two"], "what did not change stays shared");
    // A write that is no apply takes, too.
    let patched = administrator.patch(&format!("{}?fieldManager=three", path("v2")), "merge-patch", &json!({"spec": metrics(75)})).await.expect(200);
    assert!(owners(&patched, "f:targetCPUUtilizationPercentage").is_empty(), "{patched}");
    // What the other version called otherwise is let go of with it: the defaults come back.
    apply("v1", "one", json!({"targetCPUUtilizationPercentage": 65, "minReplicas": 2}), true).await.expect(200);
    let left = apply("v2", "one", json!({}), false).await.expect(200);
    assert_eq!((&left["spec"]["metrics"], &left["spec"]["minReplicas"]), (&metrics(80)["metrics"], &json!(1)), "{left}");
    assert_eq!(administrator.get(&path("v1")).await.expect(200)["spec"]["targetCPUUtilizationPercentage"], 80);
}

/// An event is of two groups, which call its words differently.
#[tokio::test]
async fn what_an_event_says_is_owned_in_both_groups() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "R", "message": "m",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}});
    administrator.patch("/api/v1/namespaces/default/events/e?fieldManager=one", "apply-patch", &core).await.expect(201);
    let said = |note: &str| json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "note": note});
    let path = "/apis/events.k8s.io/v1/namespaces/default/events/e?fieldManager=two";
    let refused = administrator.patch(path, "apply-patch", &said("n")).await.expect(409);
    assert_eq!(refused["details"]["causes"], json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".message"}]));
}
