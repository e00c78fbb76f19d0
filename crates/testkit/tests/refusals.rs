//! What the API server answers to requests it cannot take: status code, reason and words as upstream's.

use client::Identity;
use serde_json::{Value, json};
use testkit::ApiHarness;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: (&str, &str) = ("content-type", "application/json");

fn map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } })
}

#[tokio::test]
async fn an_object_that_is_not_there_is_not_found() {
    let api = ApiHarness::start().await;
    let body = api.administrator().get(&format!("{MAPS}/none")).await.refused(404, "NotFound", "configmaps \"none\" not found");
    assert_eq!(body["details"], json!({ "name": "none", "kind": "configmaps" }));
    assert_eq!(body["metadata"], json!({}));
}

#[tokio::test]
async fn a_kind_that_is_not_there_is_not_found() {
    let api = ApiHarness::start().await;
    for path in ["/api/v1/nothings", "/apis/example.com/v1/things", "/apis/apps/v1/namespaces/default/nothings"] {
        assert_eq!(api.administrator().get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn an_object_that_is_there_is_not_created_again() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    administrator.post(MAPS, &map("a")).await.expect(201);
    administrator.post(MAPS, &map("a")).await.refused(409, "AlreadyExists", "configmaps \"a\" already exists");
}

#[tokio::test]
async fn a_method_that_a_path_does_not_know_is_not_allowed() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    for (method, path) in [("PUT", MAPS.to_owned()), ("POST", format!("{MAPS}/a")), ("PATCH", MAPS.to_owned())] {
        let body = administrator.send(method, &path, &[JSON], map("a").to_string()).await.expect(405);
        assert_eq!(body["reason"], "MethodNotAllowed", "{method} {path}");
    }
}

#[tokio::test]
async fn a_form_that_nobody_makes_is_not_acceptable() {
    let api = ApiHarness::start().await;
    let body = api.administrator().send("GET", MAPS, &[("accept", "text/html")], "").await.expect(406);
    assert_eq!(body["reason"], "NotAcceptable");
}

#[tokio::test]
async fn a_review_cannot_be_a_table() {
    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let review = json!({ "spec": { "resourceAttributes": { "verb": "get", "resource": "pods" } } }).to_string();
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    administrator.send("POST", path, &[JSON, ("accept", TABLE)], review.clone()).await.expect(406);
    let either = format!("{TABLE}, application/json");
    let whole = administrator.send("POST", path, &[JSON, ("accept", &either)], review).await.expect(201);
    assert_eq!(whole["status"]["allowed"], true);
}

#[tokio::test]
async fn of_a_new_event_only_the_series_changes() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({
        "metadata": { "name": "a" }, "regarding": { "namespace": "default" }, "eventTime": "2017-09-19T13:49:16.000000Z", "note": "seen",
        "action": "Do", "reason": "Test", "type": "Normal", "reportingController": "c", "reportingInstance": "i",
    });
    administrator.post(events, &event).await.expect(201);
    let path = format!("{events}/a");
    for (field, value) in [("note", json!("changed")), ("action", json!("Undo")), ("related", json!({ "name": "b" })), ("reportingInstance", json!("j"))] {
        let refused = administrator.patch(&path, "strategic-merge-patch", &json!({ field: value })).await.expect(422);
        assert!(refused["message"].as_str().unwrap().ends_with("field is immutable"), "{field}: {refused}");
    }
    let series = |count: i32| json!({ "series": { "count": count, "lastObservedTime": "2017-09-19T13:49:16.000000Z" } });
    administrator.patch(&path, "strategic-merge-patch", &series(1)).await.expect(422);
    let patched = administrator.patch(&path, "strategic-merge-patch", &series(2)).await.expect(200);
    assert_eq!(patched["series"]["count"], 2);
}

/// The same events under both groups, which are deleted when their time is over, and watchers are told.
#[tokio::test]
async fn events_of_both_groups_are_the_same_and_go_when_their_time_is_over() {
    let api = ApiHarness::start_with(|parts| parts.facts.event_lifetime = std::time::Duration::from_secs(1)).await;
    let administrator = api.administrator();
    let (core, new) = ("/api/v1/namespaces/default/events", "/apis/events.k8s.io/v1/namespaces/default/events");
    let mut watch = administrator.watch(&format!("{new}?watch=true")).await;
    let event = json!({ "metadata": { "name": "a" }, "involvedObject": { "namespace": "default", "name": "p", "kind": "Pod" }, "reason": "Test", "message": "seen", "type": "Normal", "count": 3, "source": { "component": "c" } });
    administrator.post(core, &event).await.expect(201);
    let seen = watch.next().await.unwrap();
    assert_eq!((&seen["type"], &seen["object"]["apiVersion"], &seen["object"]["note"], &seen["object"]["deprecatedCount"]), (&json!("ADDED"), &json!("events.k8s.io/v1"), &json!("seen"), &json!(3)));
    assert_eq!((&seen["object"]["regarding"]["name"], &seen["object"]["deprecatedSource"]["component"]), (&json!("p"), &json!("c")));
    assert_eq!(watch.next_named().await, ("DELETED".to_owned(), "a".to_owned()));
    administrator.get(&format!("{core}/a")).await.expect(404);
}

#[tokio::test]
async fn a_form_that_nobody_reads_is_unsupported() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let body = administrator.send("POST", MAPS, &[("content-type", "text/html")], map("a").to_string()).await.expect(415);
    assert_eq!(body["reason"], "UnsupportedMediaType");
    administrator.post(MAPS, &map("a")).await.expect(201);
    let body = administrator.send("PATCH", &format!("{MAPS}/a"), &[JSON], "{}").await.expect(415);
    assert_eq!(body["reason"], "UnsupportedMediaType");
}

#[tokio::test]
async fn a_body_over_three_mebibytes_is_too_large() {
    let api = ApiHarness::start().await;
    let mut huge = map("huge");
    huge["data"] = json!({ "key": "x".repeat(3 * 1024 * 1024) });
    let body = api.administrator().post(MAPS, &huge).await.expect(413);
    assert_eq!(body["reason"], "RequestEntityTooLarge");
}

#[tokio::test]
async fn bodies_that_are_no_objects_are_bad_requests() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    for body in ["", "{", "[]", "null", "\"text\"", "{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"data\": 7}", "\u{0}"] {
        let answer = administrator.send("POST", MAPS, &[JSON], body).await;
        assert_eq!(answer.status, 400, "{body:?}: {}", answer.text());
        assert_eq!(answer.json()["reason"], "BadRequest", "{body:?}");
    }
}

#[tokio::test]
async fn unknown_and_duplicate_fields_are_refused_warned_about_or_ignored_as_asked() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let body = |name: &str| format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"dta":{{}},"immutable":false,"immutable":false}}"#);
    let strict = administrator.send("POST", &format!("{MAPS}?fieldValidation=Strict"), &[JSON], body("a")).await;
    let message = strict.expect(400)["message"].as_str().unwrap().to_owned();
    // In the order of the text, as upstream's decoder meets them.
    assert!(message.contains(r#"strict decoding error: unknown field "dta", duplicate field "immutable""#), "{message}");
    let warned = administrator.send("POST", &format!("{MAPS}?fieldValidation=Warn"), &[JSON], body("b")).await;
    warned.expect(201);
    assert!(warned.headers.get_all("warning").iter().any(|value| value.to_str().unwrap().contains("unknown field")), "{:?}", warned.headers);
    let ignored = administrator.send("POST", &format!("{MAPS}?fieldValidation=Ignore"), &[JSON], body("c")).await;
    assert!(ignored.expect(201).get("dta").is_none());
    assert_eq!(ignored.headers.get_all("warning").iter().count(), 0);
}

#[tokio::test]
async fn an_invalid_object_is_refused_with_the_path_of_each_field() {
    let api = ApiHarness::start().await;
    let mut bad = map("Not_A_Name");
    bad["data"] = json!({ "not a key": "x" });
    let body = api.administrator().post(MAPS, &bad).await.expect(422);
    assert_eq!(body["reason"], "Invalid");
    let fields: Vec<&str> = body["details"]["causes"].as_array().unwrap().iter().map(|cause| cause["field"].as_str().unwrap()).collect();
    assert!(fields.contains(&"metadata.name") && fields.contains(&"data[not a key]"), "{fields:?}");
}

#[tokio::test]
async fn queries_that_mean_nothing_are_bad_requests() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    for query in ["labelSelector=a%20b%20c", "fieldSelector=spec.nothing%3D1", "continue=nonsense", "limit=many", "resourceVersion=x"] {
        let answer = administrator.get(&format!("{MAPS}?{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_user_without_rights_is_told_which_right_is_missing() {
    let api = ApiHarness::start().await;
    let jane = api.caller(Identity::user("jane", &[]));
    jane.get(MAPS).await.refused(
        403,
        "Forbidden",
        "configmaps is forbidden: User \"jane\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\"",
    );
}

#[tokio::test]
async fn a_stranger_sees_versions_and_health_and_nothing_else() {
    let api = ApiHarness::start().await;
    let stranger = api.stranger();
    stranger.get("/version").await.expect(200);
    assert_eq!(stranger.get("/readyz").await.status, 200);
    let status = stranger.get(MAPS).await.status;
    assert!(matches!(status, 401 | 403), "{status}");
}

#[tokio::test]
async fn a_role_allows_what_it_names_from_its_first_moment() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "reader" },
        "rules": [{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"] }],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": "reader" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane" }],
    });
    administrator.post(&format!("{roles}/roles"), &role).await.expect(201);
    administrator.post(&format!("{roles}/rolebindings"), &binding).await.expect(201);
    let jane = api.caller(Identity::user("jane", &[]));
    jane.get(MAPS).await.expect(200);
    assert_eq!(jane.post(MAPS, &map("a")).await.status, 403);
    assert_eq!(jane.get("/api/v1/namespaces/kube-system/configmaps").await.status, 403);
}

#[tokio::test]
async fn health_says_what_was_left_out_and_the_root_lists_every_path() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    let text = async |path: &str| {
        let answer = caller.get(path).await;
        (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
    };
    let expected = "[+]ping ok\n[+]log ok\n[+]etcd excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"nonsense\"\nlivez check passed\n";
    assert_eq!(text("/livez?verbose&exclude=etcd&exclude=nonsense").await, (200, expected.to_owned()));
    assert_eq!(text("/livez?exclude=etcd").await, (200, "ok".to_owned()));
    let listed = caller.get("/").await.expect(200);
    let paths: Vec<&str> = listed["paths"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    assert!(paths.is_sorted());
    for path in ["/apis/apps", "/apis/apps/v1", "/healthz/ping", "/readyz/poststarthook/bootstrap", "/metrics/slis", "/openapi/v3", "/version"] {
        assert!(paths.contains(&path), "{path} is not in {paths:?}");
    }
    // What is listed is there; documents of tokens are none where there are no keys.
    for path in paths.into_iter().filter(|path| !path.contains("openid")) {
        assert_eq!(caller.get(path).await.status, 200, "{path}");
    }
    let refused = caller.get("/api/v1/pods?labelSelector=a%3D%3D%3Db").await;
    refused.refused(400, "BadRequest", "unable to parse requirement: found '=', expected: identifier");
    let refused = caller.get("/api/v1/pods?resourceVersion=1&resourceVersionMatch=Foo").await.expect(422);
    assert_eq!(refused["details"]["causes"][0]["message"], "Unsupported value: \"Foo\": supported values: \"Exact\", \"NotOlderThan\", \"\"");
}

#[tokio::test]
async fn answers_are_compressed_or_indented_for_whom_wants_that() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    let mut large = map("large");
    large["data"] = json!({"a": "x".repeat(200_000)});
    caller.post(MAPS, &large).await.expect(201);
    let sent = caller.send("GET", MAPS, &[("accept-encoding", "gzip")], "").await;
    assert_eq!((sent.header("content-encoding"), sent.header("vary")), ("gzip", "Accept-Encoding"));
    assert!(sent.body.len() < 20_000, "{} bytes", sent.body.len());
    assert_eq!(caller.get(MAPS).await.header("content-encoding"), "");
    for path in [format!("{MAPS}?pretty=true"), "/apis/apps".to_owned()] {
        let shown = caller.send("GET", &path, &[("user-agent", "curl/8.0")], "").await;
        assert!(shown.text().starts_with("{\n  \""), "{}", shown.text());
    }
    let refused = caller.send("GET", &format!("{MAPS}/none"), &[("user-agent", "curl/8.0")], "").await;
    assert!(refused.status == 404 && refused.text().contains("\n  \"reason\": \"NotFound\""), "{}", refused.text());
    let head = caller.send("HEAD", &format!("{MAPS}/large"), &[], "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(head.header("content-length").parse::<usize>().unwrap() > 200_000);
}

#[tokio::test]
async fn how_long_a_request_may_take_is_a_duration() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    for good in ["34s", "1m30s", "0s", "1.5h", "500ms", "-1s"] {
        caller.get(&format!("{MAPS}?timeout={good}")).await.expect(200);
    }
    for bad in ["abc", "34", "-", "1x", "1s2"] {
        let words = format!("invalid timeout specified in the request URL - time: invalid duration {bad:?}");
        caller.get(&format!("{MAPS}?timeout={bad}")).await.refused(400, "BadRequest", &words);
    }
    // A watch has no such parameter.
    let watch = caller.first_of("GET", &format!("{MAPS}?watch=true&timeout=abc"), &[]).await;
    assert_eq!(watch.status, 200);
}

#[tokio::test]
async fn components_say_how_they_are_and_versions_that_are_not_to_be_used_say_so_to_readers_too() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    let listed = caller.get("/api/v1/componentstatuses").await;
    assert_eq!(listed.header("warning"), "299 - \"v1 ComponentStatus is deprecated in v1.19+\"");
    let items = listed.expect(200)["items"].clone();
    let names: Vec<&str> = items.as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["controller-manager", "etcd-0", "scheduler"]);
    let expected = json!([{"type": "Healthy", "status": "True", "message": "ok"}]);
    assert_eq!(caller.get("/api/v1/componentstatuses/etcd-0").await.expect(200)["conditions"], expected);
    caller.get("/api/v1/componentstatuses/none").await.refused(404, "NotFound", "componentstatuses \"none\" not found");
    let one = caller.get("/api/v1/componentstatuses?fieldSelector=metadata.name%3Dscheduler").await.expect(200);
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
    let table = caller.send("GET", "/api/v1/componentstatuses", &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")], "").await.expect(200);
    assert_eq!(table["rows"][0]["cells"], json!(["controller-manager", "Healthy", "ok", ""]));

    for path in ["/api/v1/endpoints", "/api/v1/namespaces/default/endpoints/kubernetes"] {
        let answer = caller.get(path).await;
        assert_eq!(answer.header("warning"), "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"", "{path}: {}", answer.status);
    }
    assert_eq!(caller.get(MAPS).await.header("warning"), "");
}
