//! The node's API as its callers see it, over an in-memory connection and a scripted runtime.

use http::HeaderMap;
use http_body_util::Empty;
use serde_json::{Value, json};
use streaming::{Outcome, StreamOptions, client::Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::pods::tests::{Bench, simple};

fn connect(bench: &Bench) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    bench.node.as_ref().unwrap().node_api_service().serve(Box::new(far));
    near
}

async fn get(bench: &Bench, path: &str) -> (u16, String) {
    ask(bench, Request::get(path)).await
}

async fn ask(bench: &Bench, request: http::request::Builder) -> (u16, String) {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(connect(bench))).await.unwrap();
    tokio::spawn(connection);
    let request = request.header("host", "node").body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn bench_with(command: Value) -> Bench {
    let bench = Bench::new().await;
    let mut spec = simple("Always");
    spec["containers"][0]["command"] = command;
    bench.create(spec).await;
    bench.until_phase("Running").await;
    bench
}

#[tokio::test]
async fn logs_are_served_whole_in_part_and_as_they_grow() {
    let bench = bench_with(json!(["sh", "-c", "echo one; echo two; sleep 1; echo three; sleep 1000"])).await;
    let path = "/containerLogs/a/web/c";
    // The scripted process needs a moment to print.
    while !get(&bench, path).await.1.contains("two") {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(get(&bench, &format!("{path}?tailLines=1")).await.1.lines().count(), 1);
    let following = format!("{path}?follow=true");
    let (_, followed) = tokio::join!(
        async {
            while !get(&bench, path).await.1.contains("three") {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            let container = bench.runtime.find_container("web", "c").unwrap();
            bench.runtime.exit_container(&container, 0);
        },
        get(&bench, &following),
    );
    assert_eq!(followed, (200, "one\ntwo\nthree\n".to_owned()), "following ends with the container");
}

#[tokio::test]
async fn what_has_no_log_is_explained() {
    let bench = bench_with(json!(["serve"])).await;
    let cases = [
        ("/containerLogs/a/none/c", 404, "pod \"none\" does not exist"),
        ("/containerLogs/a/web/x", 404, "container \"x\" not found in pod \"web\""),
        ("/exec/a/none/c?command=true&output=1", 404, "pod does not exist"),
        ("/containerLogs/a/web/c?previous=true", 400, "previous terminated container \"c\" in pod \"web\" not found"),
        ("/containerLogs/a/web/c?tailLines=many", 400, "tailLines must be a number, not \"many\""),
        ("/exec/a/web/x?command=true&output=1", 404, "container not found (\"x\")"),
        ("/nothing", 404, "404 page not found"),
    ];
    for (path, status, words) in cases {
        assert_eq!(get(&bench, path).await, (status, words.to_owned()), "{path}");
    }
}

#[tokio::test]
async fn a_checkpoint_is_refused_as_by_a_runtime_that_makes_none() {
    let bench = bench_with(json!(["serve"])).await;
    let unimplemented = "rpc error: code = Unimplemented desc = unknown method CheckpointContainer for service runtime.v1.RuntimeService";
    let cases = [
        ("/checkpoint/a/none/c", 404, "pod does not exist".to_owned()),
        ("/checkpoint/a/web/x", 404, "container x does not exist".to_owned()),
        ("/checkpoint/a/web/c?timeout=5&timeout=long", 404, "cannot parse value of timeout parameter".to_owned()),
        ("/checkpoint/a/web/c?timeout=long&timeout=5", 500, format!("checkpointing of a/web/c failed ({unimplemented})")),
    ];
    for (path, status, words) in cases {
        assert_eq!(ask(&bench, Request::post(path)).await, (status, words), "{path}");
    }
    assert_eq!(get(&bench, "/checkpoint/a/web/c").await, (405, "405: Method Not Allowed".to_owned()));
}

#[tokio::test]
async fn the_node_tells_of_its_settings_and_not_of_what_only_go_has() {
    let bench = bench_with(json!(["serve"])).await;
    let (status, page) = get(&bench, "/statusz").await;
    assert!(status == 200 && page.starts_with("\nkubelet statusz\nWarning: ") && page.contains("\nBinary version: 1.36.0\nEmulation version: 1.36\n"), "{page}");
    let object = |path: &str, kind: &str| ask(&bench, Request::get(path.to_owned()).header("accept", format!("application/json;v=v1beta1;g=config.k8s.io;as={kind}")));
    let (status, answer) = object("/statusz", "Statusz").await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((status, &answer["kind"], &answer["apiVersion"], &answer["metadata"]["name"]), (200, &json!("Statusz"), &json!("config.k8s.io/v1beta1"), &json!("kubelet")));
    assert!(answer["uptimeSeconds"].is_u64() && answer["paths"].as_array().unwrap().contains(&json!("/healthz")), "{answer}");
    assert!(get(&bench, "/flagz").await.1.contains("\nmax-pods=110\n"));
    let flags: Value = serde_json::from_str(&object("/flagz", "Flagz").await.1).unwrap();
    assert_eq!(flags["flags"]["max-pods"], "110");
    assert_eq!(object("/flagz", "Statusz").await.0, 406);
    let config: Value = serde_json::from_str(&get(&bench, "/configz").await.1).unwrap();
    let config = &config["kubeletconfig"];
    assert_eq!((&config["maxPods"], &config["containerLogMaxSize"], &config["evictionHard"]["memory.available"]), (&json!(110), &json!("10Mi"), &json!("100Mi")));
    assert_eq!(config["shutdownGracePeriodByPodPriority"], json!([{ "priority": 0, "shutdownGracePeriodSeconds": 10 }]));
    for (path, words) in [("/debug/pprof/", "profiling endpoint is disabled.\n"), ("/debug/pprof/heap", "profiling endpoint is disabled.\n"), ("/debug/flags/v", "flags endpoint is disabled.\n")] {
        assert_eq!(get(&bench, path).await, (405, words.to_owned()), "{path}");
    }
    for path in ["/pods", "/configz", "/statusz", "/containerLogs/a/web/c", "/stats/summary"] {
        assert_eq!(ask(&bench, Request::post(path)).await.0, 405, "{path}");
    }
    assert_eq!(get(&bench, "/run/a/web/c?cmd=true").await.0, 405);
}

#[tokio::test]
async fn commands_run_with_their_streams_and_exit_codes() {
    let bench = bench_with(json!(["serve"])).await;
    for protocol in [Protocol::WebSocket, Protocol::Spdy] {
        let options = StreamOptions { stdin: true, stdout: true, stderr: false, tty: false };
        let path = "/exec/a/web/c?command=cat&input=1&output=1";
        let mut running = streaming::client::remote_command(connect(&bench), path, HeaderMap::new(), protocol, options).await.unwrap();
        let mut stdin = running.stdin.take().unwrap();
        stdin.write_all(b"hello").await.unwrap();
        stdin.shutdown().await.unwrap();
        let mut text = String::new();
        running.stdout.as_mut().unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        assert_eq!(running.outcome().await.unwrap(), Outcome::Success);
        let options = StreamOptions { stdin: false, stdout: true, stderr: true, tty: false };
        let path = "/exec/a/web/c?command=sh&command=-c&command=exit%203&output=1&error=1";
        let running = streaming::client::remote_command(connect(&bench), path, HeaderMap::new(), protocol, options).await.unwrap();
        assert_eq!(running.outcome().await.unwrap(), Outcome::ExitCode(3));
    }
}

#[tokio::test]
async fn monitoring_finds_pods_and_numbers() {
    let bench = Bench::new().await;
    let mut spec = simple("Always");
    spec["containers"][0]["command"] = json!(["serve"]);
    spec["volumes"] = json!([{ "name": "host", "hostPath": { "path": "/" } }, { "name": "cache", "emptyDir": {} }]);
    bench.create(spec).await;
    bench.until_phase("Running").await;
    let pods: Value = serde_json::from_str(&get(&bench, "/pods").await.1).unwrap();
    assert_eq!(pods["items"][0]["metadata"]["name"], "web");
    let summary: Value = serde_json::from_str(&get(&bench, "/stats/summary").await.1).unwrap();
    assert_eq!((summary["node"]["nodeName"].as_str(), summary["pods"][0]["containers"][0]["name"].as_str()), (Some("n1"), Some("c")));
    for place in [&summary["node"]["fs"], &summary["node"]["runtime"]["imageFs"], &summary["pods"][0]["containers"][0]["rootfs"]] {
        assert!(place["capacityBytes"].is_u64() && place["availableBytes"].is_u64() && place["usedBytes"].is_u64(), "{place}");
    }
    assert!(summary["node"]["rlimit"]["maxpid"].as_u64() > summary["node"]["rlimit"]["curproc"].as_u64(), "{summary}");
    let pod = &summary["pods"][0];
    assert_eq!(pod["volume"].as_array().map(Vec::len), Some(1), "{pod}");
    assert_eq!((&pod["volume"][0]["name"], &pod["volume"][0]["inodesUsed"], &pod["volume"][0]["pvcRef"]), (&json!("cache"), &json!(1), &Value::Null));
    for place in [&pod["volume"][0], &pod["ephemeral-storage"]] {
        assert!(place["usedBytes"].is_u64() && place["inodesUsed"].as_u64() > Some(0) && place["capacityBytes"].is_u64(), "{pod}");
    }
    assert!(summary["node"]["network"]["name"].is_string() && summary["node"]["swap"]["swapUsageBytes"].is_u64() && summary["node"]["startTime"].is_string(), "{summary}");
    let less: Value = serde_json::from_str(&get(&bench, "/stats/summary?only_cpu_and_memory=true").await.1).unwrap();
    let names = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&less["node"]), ["cpu", "memory", "nodeName", "startTime"]);
    assert_eq!(names(&less["pods"][0]), ["containers", "cpu", "memory", "podRef", "startTime"]);
    assert_eq!(names(&less["pods"][0]["containers"][0]), ["cpu", "memory", "name", "startTime"]);
    assert!(get(&bench, "/metrics/resource").await.1.contains("container_memory_working_set_bytes{container=\"c\",namespace=\"a\",pod=\"web\"}"));
    assert!(get(&bench, "/metrics").await.1.contains("kubelet_started_containers_total 1"));
    let running: Value = serde_json::from_str(&get(&bench, "/runningpods/").await.1).unwrap();
    let container = &running["items"][0]["spec"]["containers"][0];
    assert_eq!((running["items"][0]["metadata"]["name"].as_str(), container["name"].as_str(), container["image"].is_string()), (Some("web"), Some("c"), true));
    assert_eq!(get(&bench, "/healthz").await, (200, "ok".to_owned()));
    assert_eq!(get(&bench, "/healthz/syncloop").await, (200, "ok".to_owned()));
    assert_eq!(get(&bench, "/healthz?verbose").await, (200, "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n".to_owned()));
    assert_eq!(get(&bench, "/healthz/other").await.0, 404);
}
