//! What a pod takes of a control plane's memory, counted and not measured: the bytes that are allocated once the API server and the
//! informers of controllers and scheduler have it.
//!
//! A program of its own with a single test: the counter is the process's. `cargo xtask bench --only full-cluster` measures a whole server.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use api::core::v1::Pod;
use client::{Identity, Informers};
use serde_json::{Value, json};
use testkit::ApiHarness;
use tokio_util::sync::CancellationToken;

static ALLOCATED_BYTES: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: everything is passed on to the system's allocator as it came; `realloc` is made of the other two.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Pods that are there before anything is counted, so that what is made once is there too.
const FIRST: usize = 200;
const PODS: usize = 2000;
/// How much each may take. It was 11.8 KB when this was written; whole pods in the informers, or lists that have room for more, take
/// several KB each.
const BOUND_BYTES: usize = 13_000;
const PATIENCE: Duration = Duration::from_secs(120);

/// A pod as people write them. The API server adds what nobody writes, and managed fields, which are longer than all else.
fn pod(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("service-{}-6dbb5896b5-{number:05}", number / 100),
            "labels": {"app.kubernetes.io/name": format!("service-{}", number / 100), "app.kubernetes.io/part-of": "shop", "pod-template-hash": "6dbb5896b5"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9090"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("service-{}-6dbb5896b5", number / 100), "uid": format!("7f1d2c1e-0000-4000-8000-{:012}", number / 100), "controller": true}],
        },
        "spec": {
            "nodeName": format!("node-{}", number % 50), "volumes": [{"name": "content", "projected": {"sources": [{"configMap": {"name": "a"}}, {"configMap": {"name": "b"}}]}}],
            "containers": [{
                "name": "main", "image": format!("registry.example.com/team-1/service-{}:v1.2.3", number / 100), "args": ["--config=/etc/service/config.yaml"],
                "env": [
                    {"name": "LOG_LEVEL", "value": "info"}, {"name": "DATABASE_HOST", "value": "postgresql.databases.svc.cluster.local"},
                    {"name": "DATABASE_PORT", "value": "5432"}, {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ],
                "ports": [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10},
                "volumeMounts": [{"name": "content", "mountPath": "/content"}],
            }],
        },
    })
}

#[tokio::test]
async fn a_pod_takes_a_bounded_part_of_the_control_plane() {
    let harness = ApiHarness::start().await;
    let administrator = harness.administrator();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    administrator.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    let stop = CancellationToken::new();
    let parts = ["controllers", "scheduler"].map(|name| {
        let client = harness.client(Identity::user(name, &["system:masters"]));
        Informers::new(client, stop.clone()).shortened(controllers::shorten_pod)
    });
    let informers = parts.each_ref().map(Informers::of::<Pod>);
    let known = async |count: usize| {
        for informer in &informers {
            let mut changes = informer.subscribe();
            let all = async { while informer.len() < count && changes.recv().await.is_some() {} };
            tokio::time::timeout(PATIENCE, all).await.expect("every informer gets every pod");
        }
    };
    let create = async |numbers: std::ops::Range<usize>| {
        for number in numbers {
            administrator.post("/api/v1/namespaces/default/pods", &pod(number)).await.expect(201);
        }
    };
    create(0..FIRST).await;
    known(FIRST).await;
    let before = ALLOCATED_BYTES.load(Ordering::Relaxed);
    create(FIRST..FIRST + PODS).await;
    known(FIRST + PODS).await;
    let each = ALLOCATED_BYTES.load(Ordering::Relaxed).saturating_sub(before) / PODS;
    println!("{each} bytes a pod");
    assert!(each <= BOUND_BYTES, "{each} bytes a pod");
    let names = |informer: &client::Informer<Pod>| informer.list().iter().map(|pod| std::sync::Arc::as_ptr(pod)).collect::<Vec<_>>();
    assert_eq!(names(&informers[0]), names(&informers[1]), "both hold the same objects");
    stop.cancel();
}
