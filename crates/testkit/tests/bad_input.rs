//! Bodies, names, queries and patches that are wrong, each with the code, the reason and the words that upstream answers.

use testkit::{ApiHarness, Caller};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// A request, and how it is refused: code, reason, and words of the message.
struct Case {
    method: &'static str,
    path: String,
    form: &'static str,
    body: String,
    refusal: (u16, &'static str, &'static str),
}

fn case(method: &'static str, path: &str, body: &str, refusal: (u16, &'static str, &'static str)) -> Case {
    Case { method, path: path.to_owned(), form: "application/json", body: body.to_owned(), refusal }
}

fn patch(form: &'static str, path: &str, body: &str, refusal: (u16, &'static str, &'static str)) -> Case {
    Case { method: "PATCH", path: path.to_owned(), form, body: body.to_owned(), refusal }
}

async fn check(caller: &Caller, cases: &[Case]) {
    for Case { method, path, form, body, refusal: (code, reason, words) } in cases {
        let answer = caller.send(method, path, &[("content-type", form)], body.clone()).await;
        let status = answer.json();
        let told = format!("{method} {path} {body}: {}", answer.text());
        assert_eq!(answer.status, *code, "{told}");
        assert_eq!((status["kind"].as_str(), status["status"].as_str()), (Some("Status"), Some("Failure")), "{told}");
        assert_eq!(status["reason"], *reason, "{told}");
        assert!(status["message"].as_str().is_some_and(|message| message.contains(words)), "{words:?} is not in {told}");
    }
}

fn map(rest: &str) -> String {
    format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"a"}}{rest}}}"#)
}

fn pod(spec: &str) -> String {
    format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"a"}},"spec":{{{spec}}}}}"#)
}

#[tokio::test]
async fn bodies_of_the_wrong_shape_are_refused() {
    let api = ApiHarness::start().await;
    let bad = |words| (400, "BadRequest", words);
    let yaml = Case { form: "application/yaml", ..case("POST", MAPS, "a: b: c", bad("error converting YAML to JSON")) };
    let protobuf = Case { form: "application/vnd.kubernetes.protobuf", ..case("POST", MAPS, "xx", bad("does not appear to be a protobuf message, expected prefix [107 56 115 0]")) };
    check(
        &api.administrator(),
        &[
            yaml,
            protobuf,
            case("POST", MAPS, &map(r#","data":7"#), bad("json: cannot unmarshal number into Go struct field ConfigMap.data of type map[string]string")),
            case("POST", MAPS, &map(r#","data":{"a":7}"#), bad("json: cannot unmarshal number into Go struct field ConfigMap.data of type string")),
            case("POST", MAPS, &map("").replace("ConfigMap", "Pod"), bad("Pod in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Pod) to (v1.ConfigMap): unknown conversion")),
            case("POST", MAPS, &map("").replace("v1", "v2"), bad("ConfigMap in version \"v2\" cannot be handled as a ConfigMap")),
            case("POST", MAPS, r#"{"metadata":{"name":"a""#, bad("unexpected end of JSON input")),
            case("POST", MAPS, &map("").replace(r#""a""#, r#""a","namespace":"other""#), bad("the namespace of the provided object does not match the namespace sent on the request")),
            case("POST", PODS, &pod(r#""containers":[{"name":"a","image":"b"}],"terminationGracePeriodSeconds":"x""#), bad("json: cannot unmarshal string into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64")),
            case("POST", PODS, &pod(r#""containers":[{"name":"a","image":"b","resources":{"limits":{"cpu":"x"}}}]"#), bad("quantities must match the regular expression")),
            case("DELETE", &format!("{MAPS}/a"), r#"{"gracePeriodSeconds":"x"}"#, bad("json: cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64")),
        ],
    )
    .await;
}

#[tokio::test]
async fn values_that_no_object_may_have_are_told_by_their_paths() {
    let api = ApiHarness::start().await;
    // No controller makes it here, and without it pods are refused before anybody looks at them.
    let account = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#;
    api.administrator().send("POST", "/api/v1/namespaces/default/serviceaccounts", &[("content-type", "application/json")], account).await.expect(201);
    let invalid = |words| (422, "Invalid", words);
    let long = "a".repeat(260);
    check(
        &api.administrator(),
        &[
            case("POST", MAPS, &map("").replace(r#""a""#, &format!("{long:?}")), invalid("must be no more than 253 bytes")),
            case("POST", MAPS, &map("").replace(r#""name":"a""#, ""), invalid("metadata.name: Required value: name or generateName is required")),
            case("POST", MAPS, &map("").replace(r#""a""#, r#""a","labels":{"a b":"c"}"#), invalid("metadata.labels: Invalid value: \"a b\": name part must consist of")),
            case("POST", MAPS, &map("").replace(r#""a""#, r#""a","labels":{"a":"c d"}"#), invalid("metadata.labels: Invalid value: \"c d\": a valid label must be an empty string or consist of")),
            case("POST", MAPS, &map("").replace(r#""a""#, r#""a","annotations":{"-x":""}"#), invalid("metadata.annotations: Invalid value: \"-x\"")),
            case("POST", PODS, &pod(r#""containers":[]"#), invalid("spec.containers: Required value")),
            case("POST", PODS, &pod(r#""containers":[{"name":"A_","image":"b"}]"#), invalid("spec.containers[0].name: Invalid value: \"A_\": a lowercase RFC 1123 label must consist of")),
            case("POST", PODS, &pod(r#""containers":[{"name":"a","image":"b"},{"name":"a","image":"b"}]"#), invalid("spec.containers[1].name: Duplicate value: \"a\"")),
            case("POST", PODS, &pod(r#""containers":[{"name":"a","image":"b","volumeMounts":[{"name":"no","mountPath":"/a"}]}]"#), invalid("spec.containers[0].volumeMounts[0].name: Not found: \"no\"")),
            case("POST", PODS, &pod(r#""containers":[{"name":"a","image":"b"}],"restartPolicy":"Sometimes""#), invalid("spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"")),
            case("POST", DEPLOYMENTS, r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"},"spec":{"replicas":-1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"c"}},"spec":{"containers":[{"name":"a","image":"b"}]}}}}"#, invalid("spec.replicas: Invalid value: -1: must be greater than or equal to 0")),
            case("POST", DEPLOYMENTS, r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"c"}},"spec":{"containers":[{"name":"a","image":"b"}]}}}}"#, invalid("`selector` does not match template `labels`")),
        ],
    )
    .await;
}

#[tokio::test]
async fn options_that_no_request_may_have_are_invalid() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    administrator.send("POST", MAPS, &[("content-type", "application/json")], map("")).await.expect(201);
    let invalid = |words| (422, "Invalid", words);
    let one = format!("{MAPS}/a");
    check(
        &administrator,
        &[
            case("POST", &format!("{MAPS}?dryRun=Some"), &map(""), invalid("CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"")),
            case("PUT", &format!("{one}?fieldValidation=Sometimes"), &map(""), invalid("UpdateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Sometimes\": supported values: \"Ignore\", \"Strict\", \"Warn\"")),
            case("DELETE", &one, r#"{"propagationPolicy":"Sometimes"}"#, invalid("DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Sometimes\"")),
            case("DELETE", &one, r#"{"orphanDependents":true,"propagationPolicy":"Foreground"}"#, invalid("orphanDependents and deletionPropagation cannot be both set")),
            case("DELETE", &one, r#"{"dryRun":["Some"]}"#, invalid("dryRun: Unsupported value")),
            case("GET", &format!("{MAPS}?resourceVersionMatch=Exact"), "", invalid("resourceVersionMatch is forbidden unless resourceVersion is provided")),
            case("GET", &format!("{MAPS}?sendInitialEvents=true"), "", invalid("sendInitialEvents is forbidden for list")),
            case("GET", &format!("{MAPS}?resourceVersion=99999999"), "", (504, "Timeout", "Too large resource version: 99999999, current: ")),
            patch("application/apply-patch+yaml", &one, &map(""), invalid("PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch")),
        ],
    )
    .await;
}

#[tokio::test]
async fn writes_that_are_too_late_or_meant_for_another_object_conflict() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    administrator.send("POST", MAPS, &[("content-type", "application/json")], map(r#","data":{"k":"v"}"#)).await.expect(201);
    let one = format!("{MAPS}/a");
    let stale = map("").replace(r#""a""#, r#""a","resourceVersion":"1""#);
    let conflict = |words| (409, "Conflict", words);
    check(
        &administrator,
        &[
            case("PUT", &one, &stale, conflict("the object has been modified; please apply your changes to the latest version and try again")),
            patch("application/merge-patch+json", &one, r#"{"metadata":{"resourceVersion":"1"},"data":{"k":"w"}}"#, conflict("the object has been modified")),
            case("DELETE", &one, r#"{"preconditions":{"uid":"x"}}"#, conflict("Precondition failed: UID in precondition: x, UID in object meta: ")),
            patch("application/apply-patch+yaml", &format!("{one}?fieldManager=other"), &map(r#","data":{"k":"w"}"#), conflict("Apply failed with 1 conflict: conflict with")),
            case("PUT", &one, &map("").replace(r#""a""#, r#""b""#), (400, "BadRequest", "the name of the object (b) does not match the name on the URL (a)")),
            case("PUT", &format!("{MAPS}/none"), &map("").replace(r#""a""#, r#""none""#), (404, "NotFound", "configmaps \"none\" not found")),
        ],
    )
    .await;
    assert_eq!(administrator.get(&one).await.expect(200)["data"]["k"], "v", "nothing was written");
}

#[tokio::test]
async fn patches_that_cannot_be_applied_are_refused() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    administrator.send("POST", MAPS, &[("content-type", "application/json")], map(r#","data":{"k":"v"}"#)).await.expect(201);
    let one = format!("{MAPS}/a");
    let (merge, json, strategic) = ("application/merge-patch+json", "application/json-patch+json", "application/strategic-merge-patch+json");
    let unapplied = (422, "Invalid", "the server rejected our request due to an error in our request");
    check(
        &administrator,
        &[
            patch(merge, &one, "{", (400, "BadRequest", "error decoding patch")),
            patch(merge, &one, "[]", (400, "BadRequest", "error decoding patch")),
            patch(json, &one, "{}", (400, "BadRequest", "json: cannot unmarshal object into Go value of type jsonpatch.Patch")),
            patch(json, &one, r#"[{"op":"test","path":"/metadata/name","value":"x"}]"#, unapplied),
            patch(json, &one, r#"[{"op":"remove","path":"/data/nope"}]"#, unapplied),
            patch(strategic, &one, r#"{"data":{"$patch":"nope"}}"#, unapplied),
            patch(merge, &one, r#"{"data":{"a":7}}"#, (400, "BadRequest", "json: cannot unmarshal number into Go struct field ConfigMap.data of type string")),
            patch(merge, &one, r#"{"metadata":{"name":"x"}}"#, (422, "Invalid", "metadata.name: Invalid value: \"x\": field is immutable")),
            patch(merge, &format!("{MAPS}/none"), "{}", (404, "NotFound", "configmaps \"none\" not found")),
        ],
    )
    .await;
}
