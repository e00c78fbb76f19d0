//! Tables: what is on nodes, who comes, and who must leave.

use std::sync::Arc;

use api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    decision::decide,
    plugins::default_profile,
    pod_info::PodInfo,
    preemption::{Budget, plan},
};

fn node(name: &str) -> Node {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"host": name}}, "status": {"allocatable": {"cpu": "1", "pods": "10"}}})).unwrap()
}

fn pod(name: &str, priority: i32, cpu: &str, extra: Value) -> Arc<PodInfo> {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": name}},
        "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
    });
    meta::patch::merge_patch(&mut value, &extra);
    Arc::new(PodInfo::of(&serde_json::from_value::<Pod>(value).unwrap()))
}

fn cluster(placed: &[(&str, Arc<PodInfo>)]) -> Cluster {
    let mut cluster = Cluster::default();
    for (name, pod) in placed {
        if cluster.node(name).is_none() {
            cluster.apply_node(&node(name));
        }
        cluster.place(pod.clone(), name);
    }
    cluster
}

fn budget(app: &str, allowed: i32) -> Budget {
    let budget = json!({"metadata": {"namespace": "n", "name": app}, "spec": {"selector": {"matchLabels": {"app": app}}}, "status": {"disruptionsAllowed": allowed}});
    Budget::of(&serde_json::from_value(budget).unwrap())
}

/// `node: victims`, or why there are none. What was tried leaves no trace.
#[track_caller]
fn check(cluster: &mut Cluster, pod: &Arc<PodInfo>, budgets: &[Budget], expected: &str) {
    let profile = default_profile();
    let refusal = decide(&profile, pod, cluster, &mut 0).expect_err("it fits");
    let before = format!("{:?}", cluster.nodes().map(|node| (&node.requested, node.pods.len())).collect::<Vec<_>>());
    let answer = match plan(&profile, pod, cluster, &refusal, budgets) {
        Ok(plan) => {
            let victims: Vec<&str> = plan.victims.iter().map(|victim| victim.name.as_str()).collect();
            format!("{}: {}", cluster.at(plan.slot).unwrap().name, victims.join(","))
        }
        Err(why) => why,
    };
    assert_eq!(answer, expected);
    assert_eq!(before, format!("{:?}", cluster.nodes().map(|node| (&node.requested, node.pods.len())).collect::<Vec<_>>()));
}

#[test]
fn as_few_and_as_unimportant_pods_leave_as_possible() {
    let mut cluster = cluster(&[
        ("a", pod("a1", 5, "500m", json!({}))),
        ("a", pod("a2", 1, "500m", json!({}))),
        ("b", pod("b1", 2, "500m", json!({}))),
        ("b", pod("b2", 2, "500m", json!({}))),
    ]);
    check(&mut cluster, &pod("p", 10, "500m", json!({})), &[], "a: a2");
    check(&mut cluster, &pod("p", 10, "1", json!({})), &[], "b: b1,b2");
}

#[test]
fn nobody_leaves_for_an_equal_or_for_one_who_displaces_nobody() {
    let mut cluster = cluster(&[("a", pod("a1", 5, "1", json!({}))), ("b", pod("b1", 9, "1", json!({})))]);
    check(&mut cluster, &pod("p", 5, "1", json!({})), &[], "0/2 nodes are available: 2 No preemption victims found for incoming pod.");
    check(&mut cluster, &pod("p", 10, "1", json!({"spec": {"preemptionPolicy": "Never"}})), &[], "not eligible due to preemptionPolicy=Never.");
    check(&mut cluster, &pod("p", 10, "3", json!({})), &[], "0/2 nodes are available: 2 Preemption is not helpful for scheduling.");
}

#[test]
fn a_node_where_even_that_does_not_help_says_why() {
    // What stays is more important than the newcomer.
    let mut cluster = cluster(&[("a", pod("a1", 20, "800m", json!({}))), ("a", pod("a2", 1, "100m", json!({}))), ("b", pod("b1", 20, "1", json!({})))]);
    let expected = "0/2 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod.";
    check(&mut cluster, &pod("p", 10, "500m", json!({})), &[], expected);
}

#[test]
fn a_budget_that_covers_everybody_covers_nobody() {
    let all = json!({"metadata": {"namespace": "n", "name": "all"}, "spec": {"selector": {}}, "status": {"disruptionsAllowed": 0}});
    let all = Budget::of(&serde_json::from_value(all).unwrap());
    let placed = [("a", pod("a1", 1, "1", json!({})))];
    let newcomer = pod("p", 10, "1", json!({}));
    let refusal = decide(&default_profile(), &newcomer, &mut cluster(&placed), &mut 0).unwrap_err();
    assert_eq!(plan(&default_profile(), &newcomer, &mut cluster(&placed), &refusal, &[all]).unwrap().violations(), 0);
}

#[test]
fn who_has_not_started_yet_leaves_before_who_has() {
    let started = json!({"status": {"startTime": "2026-01-01T00:00:00Z"}});
    let placed = [("a", pod("a1", 1, "1", started)), ("b", pod("b1", 1, "1", json!({})))];
    check(&mut cluster(&placed), &pod("p", 10, "1", json!({})), &[], "b: b1");
}

#[test]
fn disruption_budgets_are_kept_where_there_is_a_choice() {
    let placed = [("a", pod("a1", 1, "1", json!({}))), ("b", pod("b1", 2, "1", json!({})))];
    let newcomer = pod("p", 10, "1", json!({}));
    check(&mut cluster(&placed), &newcomer, &[budget("a1", 0)], "b: b1");
    check(&mut cluster(&placed), &newcomer, &[budget("a1", 0), budget("b1", 0)], "a: a1");
    check(&mut cluster(&placed), &newcomer, &[budget("a1", 1)], "a: a1");
}

#[test]
fn pods_that_object_to_the_newcomer_leave() {
    let term = json!([{"topologyKey": "host", "labelSelector": {"matchLabels": {"app": "p"}}}]);
    let shy = pod("shy", 1, "100m", json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}}}));
    check(&mut cluster(&[("a", shy), ("a", pod("a1", 1, "100m", json!({})))]), &pod("p", 10, "100m", json!({})), &[], "a: shy");
}

#[test]
fn room_that_is_being_made_for_one_is_not_given_to_another() {
    let mut cluster = cluster(&[("a", pod("a1", 1, "100m", json!({})))]);
    let important = pod("important", 10, "900m", json!({}));
    cluster.nominate(&important, Some("a"));
    let refusal = decide(&default_profile(), &pod("p", 5, "500m", json!({})), &mut cluster, &mut 0).unwrap_err();
    assert_eq!(refusal.message(), "0/1 nodes are available: 1 Insufficient cpu.");
    assert!(decide(&default_profile(), &important, &mut cluster, &mut 0).is_ok());
    assert!(decide(&default_profile(), &pod("p", 11, "500m", json!({})), &mut cluster, &mut 0).is_ok());
}

#[test]
fn the_least_important_are_displaced_wherever_they_are_and_equals_where_they_run_shortest() {
    let started = |time: &str| json!({"status": {"startTime": time}});
    let three = |priorities: [i32; 3]| {
        let names = ["a", "b", "c"];
        let placed: Vec<(&str, Arc<PodInfo>)> = names.iter().zip(priorities).map(|(name, priority)| (*name, pod(&format!("{name}1"), priority, "1", json!({})))).collect();
        cluster(&placed)
    };
    check(&mut three([3, 1, 2]), &pod("p", 10, "1", json!({})), &[], "b: b1");
    check(&mut three([3, 9, 2]), &pod("p", 3, "1", json!({})), &[], "c: c1");
    check(&mut three([3, 3, 3]), &pod("p", 3, "1", json!({})), &[], "0/3 nodes are available: 3 No preemption victims found for incoming pod.");
    let placed = [("a", pod("a1", 1, "1", started("2026-01-01T00:00:00Z"))), ("b", pod("b1", 1, "1", started("2026-01-01T00:00:05Z")))];
    check(&mut cluster(&placed), &pod("p", 10, "1", json!({})), &[], "b: b1");
    // One important victim is worse than two unimportant ones; the fewer where they are alike.
    let placed = [("a", pod("a1", 5, "1", json!({}))), ("b", pod("b1", 1, "500m", json!({}))), ("b", pod("b2", 1, "500m", json!({})))];
    check(&mut cluster(&placed), &pod("p", 10, "1", json!({})), &[], "b: b1,b2");
    let placed = [("a", pod("a1", 1, "500m", json!({}))), ("a", pod("a2", 1, "500m", json!({}))), ("b", pod("b1", 1, "1", json!({})))];
    check(&mut cluster(&placed), &pod("p", 10, "1", json!({})), &[], "b: b1");
}

#[test]
fn a_budget_protects_as_many_as_it_must_and_counts_nobody_twice() {
    let labelled = |name: &str| pod(name, 1, "300m", json!({"metadata": {"labels": {"app": "web"}}}));
    let placed = || [("a", labelled("a1")), ("a", labelled("a2")), ("a", pod("a3", 1, "300m", json!({})))];
    // The pods of the budget stay where another will do.
    check(&mut cluster(&placed()), &pod("p", 10, "300m", json!({})), &[budget("web", 0)], "a: a3");
    // One of them may go without breaking it, so one of them or the other is as good; two may not.
    let newcomer = pod("p", 10, "900m", json!({}));
    check(&mut cluster(&placed()), &newcomer, &[budget("web", 0)], "a: a1,a2,a3");
    let refusal = decide(&default_profile(), &newcomer, &mut cluster(&placed()), &mut 0).unwrap_err();
    let broken = |allowed: i32| plan(&default_profile(), &newcomer, &mut cluster(&placed()), &refusal, &[budget("web", allowed)]).unwrap().violations();
    assert_eq!([broken(0), broken(1), broken(2)], [2, 1, 0]);
}

#[test]
fn why_nothing_was_displaced_is_told_behind_why_nothing_fits() {
    let mut cluster = cluster(&[("a", pod("a1", 20, "1", json!({}))), ("b", pod("b1", 20, "1", json!({})))]);
    cluster.apply_node(&serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {"unschedulable": true}, "status": {"allocatable": {"cpu": "1", "pods": "10"}}})).unwrap());
    let message = |cluster: &mut Cluster, extra: Value| {
        let newcomer = pod("p", 10, "1", extra);
        let mut refusal = decide(&default_profile(), &newcomer, cluster, &mut 0).unwrap_err();
        refusal.preemption = plan(&default_profile(), &newcomer, cluster, &refusal, &[]).err();
        refusal.message()
    };
    let why = "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu. preemption: ";
    let none = "0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod.";
    assert_eq!(message(&mut cluster, json!({})), format!("{why}{none}"));
    let never = json!({"spec": {"preemptionPolicy": "Never"}});
    assert_eq!(message(&mut cluster, never), format!("{why}not eligible due to preemptionPolicy=Never."));
}

/// The numbers of upstream's conformance test "runs ReplicaSets to verify preemption running path".
#[test]
fn of_three_sets_the_two_least_important_make_room() {
    let asking = |name: &str, priority: i32, amount: u32| {
        let resources = json!({"requests": {"example.com/fakecpu": amount.to_string()}});
        pod(name, priority, "1m", json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}))
    };
    let mut cluster = Cluster::default();
    let node = json!({"metadata": {"name": "a"}, "status": {"allocatable": {"cpu": "1", "pods": "10", "example.com/fakecpu": "1000"}}});
    cluster.apply_node(&serde_json::from_value(node).unwrap());
    for (name, priority, amount) in [("pod1", 1, 200), ("pod2", 2, 300), ("pod3", 3, 450)] {
        cluster.place(asking(name, priority, amount), "a");
    }
    let preemptor = asking("pod4", 4, 500);
    check(&mut cluster, &preemptor, &[], "a: pod2,pod1");
    // What their sets make in their place does not get the room, and displaces nobody.
    cluster.nominate(&preemptor, Some("a"));
    cluster.remove("pod1");
    cluster.remove("pod2");
    check(&mut cluster, &asking("again1", 1, 200), &[], "0/1 nodes are available: 1 No preemption victims found for incoming pod.");
    check(&mut cluster, &asking("again2", 2, 300), &[], "0/1 nodes are available: 1 No preemption victims found for incoming pod.");
    assert!(decide(&default_profile(), &preemptor, &mut cluster, &mut 0).is_ok());
}
