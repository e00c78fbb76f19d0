//! A deployment that follows its load.

use std::time::Instant;

use crate::Place;

#[test]
fn a_deployment_grows_under_load_and_shrinks_without() {
    let place = Place::open("busy");
    place.apply(include_str!("autoscaled.yaml"));
    place.rolled_out("deployment/busy");
    place.rolled_out("deployment/visitors");
    let started = Instant::now();
    let replicas = |wanted: &str| place.kubectl(&["wait", "deployment/busy", &format!("--for=jsonpath={{.status.readyReplicas}}={wanted}"), "--timeout=150s"]);
    replicas("3");
    println!("grown to three after {:.0} s", started.elapsed().as_secs_f64());
    let events = place.kubectl(&["describe", "hpa", "busy"]);
    assert!(events.contains("SuccessfulRescale") && events.contains("cpu resource utilization (percentage of request) above target"), "{events}");
    let started = Instant::now();
    place.kubectl(&["scale", "deployment/visitors", "--replicas=0"]);
    replicas("1");
    println!("shrunk to one after {:.0} s", started.elapsed().as_secs_f64());
    assert!(place.kubectl(&["describe", "hpa", "busy"]).contains("New size: 1; reason: All metrics below target"));
}
