//! The OpenAPI documents say what clients look up: every reference leads somewhere, every kind has its paths, its words and
//! its extensions, and custom resources join in.

use std::sync::Arc;

use api::openapi::{self, PublishedKind, PublishedSubresource};
use meta::GroupVersionKind;
use serde_json::{Value, json};

fn built_in() -> Vec<PublishedKind> {
    api::resources().iter().map(PublishedKind::from).collect()
}

fn crontab(schema: Value) -> PublishedKind {
    let verbs: Vec<String> = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"].map(str::to_owned).into();
    PublishedKind {
        kind: GroupVersionKind::new("stable.example.com", "v1", "CronTab"),
        list_kind: Some("CronTabList".to_owned()),
        plural: "crontabs".to_owned(),
        namespaced: true,
        verbs,
        subresources: vec![PublishedSubresource {
            name: "status".to_owned(),
            kind: GroupVersionKind::new("stable.example.com", "v1", "CronTab"),
            verbs: ["get", "patch", "update"].map(str::to_owned).into(),
        }],
        custom: Some(Arc::new(schema)),
    }
}

fn crontab_schema() -> Value {
    json!({"type": "object", "description": "A CronTab.", "properties": {
        "spec": {"type": "object", "properties": {
            "cronSpec": {"type": "string", "description": "When."},
            "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "note": {"type": "string", "nullable": true},
        }},
    }})
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                found.push(reference.clone());
            }
            map.values().for_each(|inner| references(inner, found));
        }
        Value::Array(list) => list.iter().for_each(|inner| references(inner, found)),
        _ => {}
    }
}

#[track_caller]
fn check_references(document: &Value) {
    let mut found = Vec::new();
    references(document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        // Fields such as `$ref` of JSONSchemaProps are properties of that name, not references.
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads outside"));
        let target = document.pointer(pointer);
        assert!(target.is_some_and(Value::is_object), "{reference} leads nowhere");
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_type_has_words() {
    let mut kinds = built_in();
    kinds.push(crontab(crontab_schema()));
    let versions: std::collections::BTreeSet<_> = kinds.iter().map(|kind| kind.kind.group_version()).collect();
    for version in versions {
        let document = openapi::v3_document(&version.group, &version.version, &kinds).expect("it is served");
        check_references(&document);
        for (name, schema) in document["components"]["schemas"].as_object().expect("there are schemas") {
            // Upstream has no words for this one either.
            let wordless = name == "io.k8s.api.admissionregistration.v1alpha1.MatchCondition";
            assert!(schema["description"].is_string() || wordless, "{name} has no words");
        }
    }
    check_references(&openapi::v2_document(&kinds));
}

#[test]
fn explain_finds_a_kind_by_its_paths_and_its_fields_by_references() {
    let document = openapi::v3_document("apps", "v1", &built_in()).expect("apps are served");
    let deployments = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments"];
    assert_eq!(deployments["post"]["x-kubernetes-group-version-kind"], json!({"group": "apps", "version": "v1", "kind": "Deployment"}));
    let schemas = &document["components"]["schemas"];
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(deployment["x-kubernetes-group-version-kind"], json!([{"group": "apps", "version": "v1", "kind": "Deployment"}]));
    assert_eq!(deployment["properties"]["spec"]["allOf"], json!([{"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"}]));
    assert!(deployment["properties"]["spec"]["description"].is_string());
    assert_eq!(schemas["io.k8s.api.apps.v1.DeploymentSpec"]["required"], json!(["selector", "template"]));
    let ports = &schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
    assert_eq!((&ports["x-kubernetes-patch-strategy"], &ports["x-kubernetes-patch-merge-key"]), (&json!("merge"), &json!("containerPort")));
    assert_eq!(schemas["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"]["default"], json!("TCP"));
}

#[test]
fn patches_take_field_validation_and_dry_run() {
    let kinds = [built_in(), vec![crontab(crontab_schema())]].concat();
    for (group, version, path) in [
        ("", "v1", "/api/v1/namespaces/{name}"),
        ("", "v1", "/api/v1/namespaces/{namespace}/pods/{name}"),
        ("apps", "v1", "/apis/apps/v1/namespaces/{namespace}/deployments/{name}/status"),
        ("stable.example.com", "v1", "/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}"),
    ] {
        let document = openapi::v3_document(group, version, &kinds).expect("it is served");
        let parameters = document["paths"][path]["patch"]["parameters"].as_array().unwrap_or_else(|| panic!("{path} cannot be patched"));
        for name in ["dryRun", "fieldValidation", "fieldManager", "force"] {
            assert!(parameters.iter().any(|parameter| parameter["name"] == name && parameter["in"] == "query"), "{path} lacks {name}");
        }
    }
}

#[test]
fn operations_have_names_of_their_own() {
    let document = openapi::v2_document(&built_in());
    let mut seen = std::collections::HashMap::new();
    for (path, operations) in document["paths"].as_object().expect("there are paths") {
        for (method, operation) in operations.as_object().expect("they are objects").iter().filter(|(method, _)| *method != "parameters") {
            let name = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no name"));
            if let Some(other) = seen.insert(name.to_owned(), path) {
                panic!("{name} names {path} and {other}");
            }
        }
    }
    assert!(seen.contains_key("readCoreV1NamespacedPod"), "upstream's names are kept");
    assert!(seen.contains_key("listAppsV1DeploymentForAllNamespaces"), "upstream's names are kept");
}

#[test]
fn custom_resources_join_in() {
    let kinds = [crontab(crontab_schema())];
    let document = openapi::v3_document("stable.example.com", "v1", &kinds).expect("it is served");
    let schema = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["properties"]["spec"]["properties"]["cronSpec"]["description"], "When.");
    assert_eq!(schema["properties"]["metadata"]["allOf"], json!([{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}]));
    assert_eq!(schema["x-kubernetes-group-version-kind"], json!([{"group": "stable.example.com", "version": "v1", "kind": "CronTab"}]));

    let document = openapi::v2_document(&kinds);
    let spec = &document["definitions"]["com.example.stable.v1.CronTab"]["properties"]["spec"]["properties"];
    assert_eq!(spec["port"], json!({"x-kubernetes-int-or-string": true}), "version 2 has no alternatives");
    assert_eq!(spec["note"], json!({}), "version 2 has no null");
}

#[test]
fn the_index_changes_with_what_it_points_to() {
    let url = |schema: Value| openapi::v3_index(&[crontab(schema)])["paths"]["apis/stable.example.com/v1"]["serverRelativeURL"].as_str().map(str::to_owned);
    let first = url(crontab_schema()).expect("it is in the index");
    assert!(first.starts_with("/openapi/v3/apis/stable.example.com/v1?hash="), "{first}");
    assert_eq!(url(crontab_schema()), Some(first.clone()));
    assert_ne!(url(json!({"type": "object"})), Some(first));
    assert!(openapi::v3_index(&built_in())["paths"]["api/v1"].is_object());
    assert_eq!(openapi::v3_document("apps", "v7", &built_in()), None);
}

#[test]
fn the_protobuf_form_of_version_2_is_well_formed() {
    let bytes = openapi::v2_protobuf(&json!({
        "swagger": "2.0",
        "info": {"title": "T", "version": "V"},
        "paths": {"/a": {"get": {"description": "D", "x-kind": "K"}}},
        "definitions": {"N": {"type": "object"}},
    }));
    let wanted = [
        &[0x0a, 3][..], b"2.0", // swagger
        &[0x12, 6, 0x0a, 1], b"T", &[0x12, 1], b"V", // info
        &[0x42, 0x20, 0x12, 0x1e, 0x0a, 2], b"/a", &[0x12, 0x18, 0x12, 0x16], // paths, one of them, its get
        &[0x1a, 1], b"D", &[0x4a, 0, 0x6a, 0x0f, 0x0a, 6], b"x-kind", &[0x12, 5, 0x12, 3], b"\"K\"", // description, responses, extension
        &[0x4a, 0x12, 0x0a, 0x10, 0x0a, 1], b"N", &[0x12, 0x0b, 0xb2, 1, 8, 0x0a, 6], b"object", // definitions
        &[0x6a, 0], // securityDefinitions
    ]
    .concat();
    assert_eq!(bytes, wanted);
}

/// Reads messages back by their numbers alone: every length must lead to the end of what it is in.
fn fields(bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut rest = bytes;
    let mut found = Vec::new();
    let number = |rest: &mut &[u8]| {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (byte, after) = rest.split_first().expect("a whole number");
            *rest = after;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    };
    while !rest.is_empty() {
        let tag = number(&mut rest);
        let content = match tag & 7 {
            0 => {
                number(&mut rest);
                &[][..]
            }
            1 => rest.split_off(..8).expect("eight bytes"),
            2 => {
                let length = number(&mut rest) as usize;
                rest.split_off(..length).expect("as many bytes as there should be")
            }
            other => panic!("wire type {other}"),
        };
        found.push((tag >> 3, content));
    }
    found
}

fn field<'a>(bytes: &'a [u8], path: &[u64]) -> &'a [u8] {
    path.iter().fold(bytes, |bytes, number| fields(bytes).into_iter().find(|(found, _)| found == number).unwrap_or_else(|| panic!("{number} of {path:?} is missing")).1)
}

#[test]
fn the_protobuf_form_of_version_3_says_what_the_document_says() {
    let document = openapi::v3_document("apps", "v1", &built_in()).unwrap();
    let bytes = openapi::v3_protobuf(&document);
    assert_eq!((field(&bytes, &[1]), field(&bytes, &[2, 6])), (&b"3.0.0"[..], &b"v1.36.0"[..]));
    let named = |list: &[u8], number: u64| -> Vec<(String, Vec<u8>)> {
        let items = fields(list).into_iter().filter(|(found, _)| *found == number);
        items.map(|(_, item)| (String::from_utf8(field(item, &[1]).to_vec()).unwrap(), field(item, &[2]).to_vec())).collect()
    };
    let paths = named(field(&bytes, &[4]), 1);
    let schemas = named(field(&bytes, &[5, 1]), 1);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), keys(&document["paths"]));
    assert_eq!(schemas.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), keys(&document["components"]["schemas"]));
    let (name, spec) = schemas.iter().find(|(name, _)| name == "io.k8s.api.apps.v1.DeploymentSpec").unwrap();
    let written = &document["components"]["schemas"][name];
    let spec = field(spec, &[1]);
    assert_eq!((field(spec, &[25]), field(spec, &[34])), (&b"object"[..], written["description"].as_str().unwrap().as_bytes()));
    let required: Vec<&str> = fields(spec).into_iter().filter(|(number, _)| *number == 23).map(|(_, name)| std::str::from_utf8(name).unwrap()).collect();
    assert_eq!(json!(required), written["required"]);
    let properties = named(field(spec, &[31]), 1);
    assert_eq!(properties.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), keys(&written["properties"]));
    let replicas = &properties.iter().find(|(name, _)| name == "replicas").unwrap().1;
    assert_eq!((field(replicas, &[1, 25]), field(replicas, &[1, 35])), (&b"integer"[..], &b"int32"[..]));
    let (_, item) = paths.iter().find(|(path, _)| path == "/apis/apps/v1/namespaces/{namespace}/deployments").unwrap();
    assert_eq!(field(item, &[4, 5]), b"listAppsV1NamespacedDeployment");
    assert_eq!(field(item, &[6, 5]), b"createAppsV1NamespacedDeployment");
    let body = named(field(item, &[6, 7, 1, 2]), 1);
    assert_eq!(field(&body[0].1, &[1, 2, 1]), b"#/components/schemas/io.k8s.api.apps.v1.Deployment");
    // And all of it is whole, down to the last field of every schema.
    for (_, schema) in &schemas {
        fields(field(schema, &[1]));
    }
}

#[test]
fn shapes_are_told_where_no_schema_is_at_hand() {
    let quota = api::schema_named("io.k8s.api.core.v1.LocalObjectReference").expect("it is known");
    assert_eq!(
        openapi::describe_shape(&quota),
        json!({"type": "object", "properties": {"name": {"type": "string"}}, "x-kubernetes-map-type": "atomic"})
    );
}

#[test]
fn connections_are_told_of_by_every_method_that_opens_them() {
    let document = openapi::v2_document(&built_in());
    let methods = |path: &str| -> Vec<String> {
        let operations = document["paths"][path].as_object().unwrap_or_else(|| panic!("{path} is missing"));
        operations.keys().filter(|key| *key != "parameters").cloned().collect()
    };
    let mut proxy = methods("/api/v1/namespaces/{namespace}/pods/{name}/proxy/{path}");
    proxy.sort();
    assert_eq!(proxy, ["delete", "get", "head", "options", "patch", "post", "put"]);
    let head = &document["paths"]["/api/v1/nodes/{name}/proxy"]["head"];
    assert_eq!((head["operationId"].as_str(), head["x-kubernetes-action"].as_str()), (Some("connectCoreV1HeadNodeProxy"), Some("connect")));
    let exec = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/exec"];
    assert_eq!(exec["get"]["operationId"], "connectCoreV1GetNamespacedPodExec");
    let asked: Vec<&str> = exec["parameters"].as_array().unwrap().iter().filter(|one| one["in"] == "query").filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(asked, ["command", "container", "stderr", "stdin", "stdout", "tty"]);
}

#[test]
fn types_of_which_one_field_is_given_say_so() {
    let document = openapi::v2_document(&built_in());
    let union = &document["definitions"]["io.k8s.api.flowcontrol.v1.Subject"]["x-kubernetes-unions"];
    assert_eq!(*union, json!([{"discriminator": "kind", "fields-to-discriminateBy": {"group": "Group", "serviceAccount": "ServiceAccount", "user": "User"}}]));
    let all = document["definitions"].as_object().unwrap();
    assert_eq!(all.values().filter(|definition| definition.get("x-kubernetes-unions").is_some()).count(), 8);
}
