//! Every decoder by itself, fed with good text that something was done to. None may panic, none may take long, and what it takes it must
//! take again as it prints it.
//!
//! Decoders that their crates keep to themselves (SPDY, WebSocket, DNS, image archives) are fed by tests beside them.

use std::time::{Duration, Instant};

use meta::{managed_fields::{Element, FieldSet}, quantity::Quantity, schema::Schema, selector::{FieldSelector, LabelSelector}};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};

use crate::mutation;

/// Inputs for each decoder.
const INPUTS: usize = 4_000;

/// What is wrong with what a decoder made of some bytes.
type Complaint = Option<String>;

struct Decoder {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    feed: Box<dyn Fn(&[u8]) -> Complaint>,
}

fn schema(api_version: &str, kind: &str) -> Schema {
    api::schema(&meta::GroupVersion::parse(api_version).kind(kind)).expect("a known kind")
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"a": "b"}, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {
        "containers": [{"name": "a", "image": "a", "ports": [{"containerPort": 80}], "resources": {"requests": {"cpu": "100m"}},
            "livenessProbe": {"httpGet": {"port": "http"}}, "env": [{"name": "A", "value": "b"}]}],
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}], "terminationGracePeriodSeconds": 0, "tolerations": [{"operator": "Exists"}],
    }})
}

/// What a text means is the same when it is printed and read again.
fn stable<T: PartialEq + std::fmt::Debug, E>(read: impl Fn(&str) -> Result<T, E>, print: impl Fn(&T) -> String, bytes: &[u8]) -> Complaint {
    let text = String::from_utf8_lossy(bytes);
    let first = read(&text).ok()?;
    let printed = print(&first);
    match read(&printed) {
        Ok(second) if second == first => None,
        Ok(second) => Some(format!("{first:?} is printed as {printed:?}, which is {second:?}")),
        Err(_) => Some(format!("{first:?} is printed as {printed:?}, which cannot be read")),
    }
}

fn texts(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

fn decoder(name: &'static str, seeds: Vec<Vec<u8>>, feed: impl Fn(&[u8]) -> Complaint + 'static) -> Decoder {
    Decoder { name, seeds, feed: Box::new(feed) }
}

/// A tree that was read is read again from what it prints.
fn same_tree(value: &Value) -> Complaint {
    let again = meta::read::parse_untyped(value.to_string().as_bytes());
    (again.as_ref() != Ok(value)).then(|| format!("{value} is read again as {again:?}"))
}

fn decoders() -> Vec<Decoder> {
    let json_seeds = vec![pod().to_string().into_bytes(), br#"{"a":[1,2.5e3,-0,"\u00e9\ud83d\udea2",null,true,{"b":{}}],"a":1}"#.to_vec()];
    let yaml_seeds = texts(&[
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels: {a: b}\nspec:\n  containers:\n  - name: a\n    command: [\"a\", 'b']\n    args:\n    - |\n      x\n      y\n    - >-\n      z\n",
        "a: &x {b: [1, 0x10, 0o7, .inf, ~, 1e3, yes, 2026-01-01]}\nb: *x\n<<: *x\n? c\n: !!str 1\n---\nd: e\n",
        "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]\n",
    ]);
    let bindings = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "a.b.c"}, "spec": {"group": "b.c", "scope": "Namespaced",
        "names": {"plural": "a", "kind": "A"}, "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"a": {"type": "array", "items": {"type": "string", "default": "x"}}, "b": {"additionalProperties": {"maximum": 2.5}, "not": {"enum": [1, "a"]}}}}}}]}});
    let documents: Vec<Vec<u8>> = [pod(), bindings].iter().map(|object| crate::requests::shapes().encode(object)).collect();
    let read_as_pod = |pod: Schema, yaml: bool| {
        move |bytes: &[u8]| {
            let read = if yaml { meta::read::read_yaml(bytes, &pod) } else { meta::read::read_json(bytes, &pod) };
            let object = read.ok()?.object;
            let again = meta::read::read_json(Value::Object(object.0.clone()).to_string().as_bytes(), &pod).map(|outcome| outcome.object);
            (again.as_ref() != Ok(&object)).then(|| format!("{:?} is read again as {again:?}", object.0))
        }
    };
    let patched = |apply: fn(&Schema, &mut Value, &Value)| {
        move |bytes: &[u8]| {
            let patch = meta::read::parse_untyped(bytes).ok()?;
            let mut target = pod();
            apply(&schema("v1", "Pod"), &mut target, &patch);
            // Whatever comes out is read like anything from outside.
            let _ = meta::read::normalise_value(target, &schema("v1", "Pod"));
            None
        }
    };
    let key = pki::PrivateKey::generate().expect("a key");
    let request = pki::CertificateRequest::create(&pki::Subject::new("a", ["b"]), &pki::AlternativeNames::default(), &[], &key).expect("a request");
    let token = pki::JoinToken::generate(pki::Fingerprint::of(b"a")).expect("a token").to_string();
    let signer = pki::TokenSigner::new("https://a", pki::PrivateKey::generate().expect("a key"));
    let verifier = pki::TokenVerifier::new(["https://a"], [signer.public_key()]);
    let bound = |name: &str| pki::service_account_token::BoundObject { name: name.to_owned(), uid: "u".to_owned() };
    let directory = tempfile::tempdir().expect("a directory");
    let authority = pki::ClusterAuthority::open_or_create(directory.path(), jiff::Timestamp::now()).expect("an authority").certificate_pem().to_owned();
    let kubeconfigs = texts(&[
        &json!({"apiVersion": "v1", "kind": "Config", "current-context": "a", "contexts": [{"name": "a", "context": {"cluster": "b", "user": "c"}}],
            "clusters": [{"name": "b", "cluster": {"server": "https://127.0.0.1:6443", "certificate-authority-data": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &authority)}}],
            "users": [{"name": "c", "user": {"token": "d"}}]})
        .to_string(),
        "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts:\n- {name: a, context: {cluster: b, user: c, namespace: x}}\nclusters:\n- {name: b, cluster: {server: 'http://[::1]:1', insecure-skip-tls-verify: true}}\nusers:\n- {name: c, user: {tokenFile: config, client-certificate: config, client-key: config}}\n",
    ]);
    let now = jiff::Timestamp::UNIX_EPOCH;
    let (signed, _) = signer
        .sign(
            &pki::TokenRequest {
                namespace: "default".to_owned(),
                service_account: bound("a"),
                pod: Some(bound("p")),
                node: None,
                secret: None,
                audiences: vec!["b".to_owned()],
                lifetime: jiff::SignedDuration::from_secs(600),
                warn_after: None,
            },
            now,
        )
        .expect("a token");
    let (good, others) = (signed.clone(), verifier);
    vec![
        decoder("JSON", json_seeds.clone(), |bytes| same_tree(&meta::read::parse_untyped(bytes).ok()?)),
        decoder("YAML", yaml_seeds.clone(), |bytes| same_tree(&meta::read::parse_untyped_yaml(bytes).ok()?)),
        decoder("JSON of a pod", json_seeds, read_as_pod(schema("v1", "Pod"), false)),
        decoder("YAML of a pod", yaml_seeds, read_as_pod(schema("v1", "Pod"), true)),
        decoder("protobuf", documents, |bytes| {
            let first = api::protobuf::decode_document(bytes).ok()?;
            let Ok(again) = api::protobuf::encode_document(&first) else { return Some(format!("cannot be written again: {first}")) };
            let second = api::protobuf::decode_document(&again);
            (second.as_ref() != Ok(&first)).then(|| format!("{first} is read again as {second:?}"))
        }),
        decoder("quantity", texts(&["100m", "1.5Gi", "-3", "12e6", "0.000000001", "1E", "+5Ki", "9223372036854775807", "1e-30"]), |bytes| {
            stable(Quantity::parse, ToString::to_string, bytes)
        }),
        decoder("time", texts(&["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456+02:00", "0001-01-01T00:00:00Z", "1969-12-31T23:59:60Z"]), |bytes| {
            let print = |text: &String| text.clone();
            stable(|text| meta::read::canonical_time(text).ok_or(()), print, bytes).or_else(|| stable(|text| meta::read::canonical_micro_time(text).ok_or(()), print, bytes))
        }),
        decoder("label selector", texts(&["a=b,c!=d", "a in (b, c),!d", "x notin (),y", "a/b==c", "n>1,m<-2"]), |bytes| {
            stable(LabelSelector::parse, ToString::to_string, bytes)
        }),
        decoder("field selector", texts(&["metadata.name=a", "a!=b,c==d\\,e", "a=\\\\,b=\\="]), |bytes| stable(FieldSelector::parse, ToString::to_string, bytes)),
        decoder(
            "JSON patch",
            texts(&[r#"[{"op":"add","path":"/spec/containers/-","value":{"name":"b"}},{"op":"move","from":"/metadata/name","path":"/spec/a~1b"},{"op":"test","path":"","value":1}]"#]),
            patched(|_, target, patch| drop(meta::patch::json_patch(target, patch))),
        ),
        decoder("merge patch", texts(&[r#"{"spec":{"containers":null,"volumes":[{"a":1}]},"metadata":{"labels":{"a":null}}}"#]), patched(|_, target, patch| meta::patch::merge_patch(target, patch))),
        decoder(
            "strategic merge patch",
            texts(&[
                r#"{"spec":{"containers":[{"name":"a","env":[{"name":"A","$patch":"delete"}]},{"$patch":"replace"}],"$setElementOrder/containers":[{"name":"b"},{"name":"a"}]}}"#,
                r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["x"],"labels":{"$patch":"replace","c":"d"}},"spec":{"$retainKeys":["containers"],"tolerations":[{}]}}"#,
            ]),
            patched(|schema, target, patch| drop(meta::patch::strategic_merge(schema, target, patch))),
        ),
        decoder("managed fields", texts(&[r#"{"f:spec":{"f:containers":{"k:{\"name\":\"a\",\"port\":1}":{".":{},"f:image":{}}},"f:x":{"v:1.5":{},"v:\"a\"":{},"i:3":{}}}}"#]), |bytes| {
            let first = FieldSet::from_json(&meta::read::parse_untyped(bytes).ok()?)?;
            let second = FieldSet::from_json(&first.to_json())?;
            (first.paths() != second.paths()).then(|| format!("{} is not what {} says", second.to_json(), first.to_json()))
        }),
        decoder("path element", texts(&["f:a", r#"k:{"a":1,"b":"c"}"#, "v:1.50", "v:null", "i:-1"]), |bytes| {
            stable(|text| Element::parse(text).ok_or(()), Element::to_key, bytes)
        }),
        decoder("image name", texts(&["a", "docker.io/library/a:b", "localhost:5000/a/b@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "[::1]:5/a"]), |bytes| {
            stable(container_runtime::image_name::ImageName::parse, ToString::to_string, bytes)
        }),
        decoder("kubeconfig", kubeconfigs, move |bytes| {
            let kubeconfig = directory.path().join("config");
            std::fs::write(&kubeconfig, bytes).expect("a file");
            let read = client::kubeconfig::Kubeconfig::read(&kubeconfig);
            let again = client::kubeconfig::Kubeconfig::read(&kubeconfig);
            let shown = |read: Result<client::kubeconfig::Kubeconfig, client::kubeconfig::KubeconfigError>| read.map(|read| (read.server.to_string(), read.token)).map_err(|error| error.to_string());
            let (read, again) = (shown(read), shown(again));
            (read != again).then(|| format!("{read:?} is {again:?} when it is read again"))
        }),
        decoder("join token", vec![token.into_bytes()], |bytes| stable(str::parse::<pki::JoinToken>, ToString::to_string, bytes)),
        decoder("certificate request", vec![request.into_bytes()], |bytes| {
            let _ = pki::CertificateRequest::from_pem(bytes);
            let _ = pki::bootstrap::certificates_from_pem(&String::from_utf8_lossy(bytes));
            let _ = pki::TrustedBundle::from_pem(&String::from_utf8_lossy(bytes));
            None
        }),
        decoder("service account token", vec![signed.into_bytes()], move |bytes| {
            let text = String::from_utf8_lossy(bytes);
            // A forged one is never taken.
            (text != good && others.verify(&text, &["b"], now).is_ok()).then(|| format!("a forged token is taken: {text}"))
        }),
    ]
}

#[test]
fn no_decoder_panics_hangs_or_takes_what_it_cannot_print() {
    let mut random = StdRng::seed_from_u64(crate::number("KNARR_FUZZ_SEED", 1) as u64);
    let mut failures = Vec::new();
    let mut taken = 0;
    for decoder in decoders() {
        let before = failures.len();
        for seed in &decoder.seeds {
            if let Some(words) = (decoder.feed)(seed) {
                failures.push(format!("{}: {words}\n  {:?}", decoder.name, String::from_utf8_lossy(seed)));
            }
        }
        let began = Instant::now();
        for _ in 0..INPUTS {
            let mut input = decoder.seeds.choose(&mut random).cloned().unwrap_or_default();
            // Two good ones, one in the other, are as likely to confuse as noise.
            if random.random_ratio(1, 6) && !input.is_empty() {
                let other = decoder.seeds.choose(&mut random).cloned().unwrap_or_default();
                let place = random.random_range(0..input.len());
                input.splice(place..place, other);
            }
            mutation::bytes(&mut random, &mut input);
            let one = Instant::now();
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (decoder.feed)(&input)));
            let words = match result {
                Ok(words) => words,
                Err(_) => Some("it panics".to_owned()),
            };
            // A millisecond or so; the rest is for a slow and busy machine.
            let slow = (one.elapsed() > Duration::from_secs(10)).then(|| format!("it took {:?}", one.elapsed()));
            match words.or(slow) {
                Some(words) if failures.len() < before + 5 => failures.push(format!("{}: {words}\n  {:?}", decoder.name, String::from_utf8_lossy(&input))),
                Some(_) => {}
                None => taken += 1,
            }
        }
        println!("{}: {:?}", decoder.name, began.elapsed());
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(taken > 0);
}
