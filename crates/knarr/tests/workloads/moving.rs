//! Pods that go and come under load: a node that is drained within a disruption budget, a large deployment that is rolled.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use testkit::load::Load;

use crate::{Place, alone};

/// A web server, so many times, that ends in peace: it is taken out of its Service before it stops. That takes a moment, and on two
/// processors that are busy with starting a hundred pods more than a second now and then, so its hook waits for five. Whoever must not
/// fail a request says also that he needs some time of a processor; others get what is left over.
fn web(replicas: usize, port: u16, budget: usize) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: web }}
spec:
  replicas: {replicas}
  selector: {{ matchLabels: {{ app: web }} }}
  strategy: {{ rollingUpdate: {{ maxSurge: 25%, maxUnavailable: 0 }} }}
  template:
    metadata: {{ labels: {{ app: web }} }}
    spec:
      terminationGracePeriodSeconds: 10
      topologySpreadConstraints: [{{ maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {{ matchLabels: {{ app: web }} }} }}]
      containers:
      - name: web
        image: busybox:knarr
        command: [sh, -c, "hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
        lifecycle: {{ preStop: {{ sleep: {{ seconds: 5 }} }} }}
        resources: {{ requests: {{ cpu: 10m }} }}
        readinessProbe: {{ tcpSocket: {{ port: 8080 }}, periodSeconds: 1 }}
---
apiVersion: v1
kind: Service
metadata: {{ name: web }}
spec: {{ type: NodePort, selector: {{ app: web }}, ports: [{{ port: 80, targetPort: 8080, nodePort: {port} }}] }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{ name: web }}
spec: {{ minAvailable: {budget}, selector: {{ matchLabels: {{ app: web }} }} }}
"#
    )
}

fn addresses(place: &Place, port: u16) -> [SocketAddr; 2] {
    [1, 2].map(|node| SocketAddr::new(place.cluster.address(node), port))
}

#[test]
fn a_node_is_drained_within_the_budget_and_no_request_fails() {
    let _alone = alone();
    let place = Place::open("drained");
    place.apply(&web(4, 30091, 4));
    place.rolled_out("deployment/web");
    let node = place.cluster.node(2);
    let drain = |timeout: &str| place.words(&["drain", &node, "--pod-selector=app=web", timeout]).into_iter().map(str::to_owned).collect::<Vec<_>>();
    // A budget that spares no pod stops it.
    let refused = place.cluster.kubectl_refused(drain("--timeout=10s"));
    assert!(refused.contains("Cannot evict pod as it would violate the pod's disruption budget."), "{refused}");
    assert_eq!(place.at("deployment/web", ".status.readyReplicas"), "4");

    // One that spares one lets pods go one by one, as others take their places.
    place.kubectl(&["patch", "pdb", "web", "-p", r#"{"spec":{"minAvailable":3}}"#]);
    place.kubectl(&["wait", "pdb/web", "--for=jsonpath={.status.disruptionsAllowed}=1", "--timeout=180s"]);
    let load = Load::on(addresses(&place, 30091), "/");
    let done = AtomicBool::new(false);
    let fewest = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut fewest = 4;
            while !done.load(Ordering::Relaxed) {
                // As often as kubectl can look, which sees whatever lasts.
                fewest = fewest.min(place.at("pdb/web", ".status.currentHealthy").parse().unwrap_or(0));
            }
            fewest
        });
        let drained = place.cluster.kubectl(drain("--timeout=300s"));
        done.store(true, Ordering::Relaxed);
        assert!(drained.contains(&format!("node/{node} drained")), "{drained}");
        watching.join().unwrap()
    });
    assert!(fewest >= 3, "{fewest} were left at some time, where the budget is three");
    place.rolled_out("deployment/web");
    let (answered, failures) = load.end();
    let nodes = place.kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}"]);
    place.cluster.kubectl(["uncordon", &node]);
    assert!(!nodes.contains(&node), "all pods are on the other node: {nodes}");
    println!("drained: {answered} requests were answered meanwhile, {} failed", failures.len());
    assert!(answered > 100 && failures.is_empty(), "{failures:#?}");
}

#[test]
fn a_hundred_pods_are_replaced_without_a_failed_request() {
    let _alone = alone();
    let place = Place::open("rolled");
    place.apply(&web(100, 30092, 1));
    place.rolled_out("deployment/web");
    let load = Load::on(addresses(&place, 30092), "/");
    let started = Instant::now();
    place.kubectl(&["set", "image", "deployment/web", "web=busybox:second"]);
    place.rolled_out("deployment/web");
    let taken = started.elapsed();
    let (answered, failures) = load.end();
    println!("a hundred pods were replaced in {:.1} s; {answered} requests were answered, {} failed", taken.as_secs_f64(), failures.len());
    assert!(answered > 100 && failures.is_empty(), "{failures:#?}\n{}", place.cluster.report());
    // The last of the old pods are still ending in peace.
    place.cluster.eventually("a hundred pods of the second image are left", || {
        let images = place.kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.containers[0].image}"]);
        (images.split_whitespace().collect::<Vec<_>>() == ["busybox:second"; 100]).then_some(())
    });
}
