//! PostgreSQL and Redis with claims of their own, written to all the time: whatever was acknowledged is there, whatever happens to their pods.

use std::time::Instant;

use crate::{Place, alone};

/// The API is on the first node, and others use it while an agent is killed.
fn on_the_second_node(place: &Place, objects: &str) -> String {
    let node = format!("    spec:\n      nodeSelector: {{ kubernetes.io/hostname: {} }}\n      terminationGracePeriodSeconds:", place.cluster.node(2));
    let placed = objects.replace("    spec:\n      terminationGracePeriodSeconds:", &node);
    assert_ne!(placed, objects);
    placed
}

/// Does to a database what happens to databases: `progress` counts what was acknowledged, and must go on after each.
fn trouble(place: &Place, set: &str, progress: &dyn Fn() -> Option<u64>) {
    let pod = format!("{set}-0");
    let goes_on = |what: &str, began: Instant| {
        // Commands in pods do not run while their node's agent is away.
        let before = place.cluster.eventually("it can be looked at", progress);
        let after = place.cluster.eventually(&format!("{set} serves after {what}"), || progress().filter(|after| *after > before));
        println!("{set}: {what}: served again after {:.1} s, {after} acknowledged", began.elapsed().as_secs_f64());
    };
    let uid = || place.try_kubectl(&["get", "pod", &pod, "-o", "jsonpath={.metadata.uid}"]);
    let replaced = |before: Option<String>| place.cluster.eventually("another pod has its name", || uid().filter(|uid| !uid.is_empty() && Some(uid) != before.as_ref()));

    let (began, before) = (Instant::now(), uid());
    place.kubectl(&["delete", "pod", &pod]);
    replaced(before);
    place.ready(&pod);
    goes_on("its pod was deleted", began);

    let (began, before) = (Instant::now(), uid());
    place.kubectl(&["delete", "pod", &pod, "--grace-period=0", "--force"]);
    replaced(before);
    place.ready(&pod);
    goes_on("its pod was deleted by force", began);

    let began = Instant::now();
    let container = place.at(&format!("pod/{pod}"), ".status.containerStatuses[0].containerID");
    place.cluster.kill_agent(2);
    place.cluster.eventually("the agent runs again", || place.cluster.nodes().iter().all(|node| node["running"] == true).then_some(()));
    goes_on("its node's agent was killed", began);
    assert_eq!(place.at(&format!("pod/{pod}"), ".status.containerStatuses[0].containerID"), container, "its container goes on");

    let (began, before) = (Instant::now(), uid());
    place.kubectl(&["set", "env", &format!("statefulset/{set}"), "STEP=two"]);
    place.rolled_out(&format!("statefulset/{set}"));
    assert_ne!(uid(), before);
    assert_eq!(place.at(&format!("pod/{pod}"), ".spec.containers[0].env[?(@.name==\"STEP\")].value"), "two");
    goes_on("a rolling update", began);
}

#[test]
fn postgresql_loses_nothing_that_pgbench_was_told_is_done() {
    let _alone = alone();
    let place = Place::open("postgresql");
    place.apply(&on_the_second_node(&place, include_str!("postgresql.yaml")));
    place.rolled_out("statefulset/postgresql");
    place.ready("pgbench");
    // A line for each transaction; the third field is a time where it was done, and a word where it was not.
    let acknowledged = || {
        let counted = place.try_kubectl(&["exec", "pgbench", "--", "sh", "-c", "cat run-* 2> /dev/null | awk '$3 ~ /^[0-9]+$/' | wc -l"]);
        counted?.trim().parse::<u64>().ok()
    };
    place.cluster.eventually("transactions are done", || acknowledged().filter(|count| *count > 100));
    trouble(&place, "postgresql", &acknowledged);

    place.kubectl(&["exec", "pgbench", "--", "touch", "stop"]);
    place.cluster.eventually("pgbench has ended", || place.kubectl(&["logs", "pgbench", "--tail=1"]).contains("ended").then_some(()));
    let told = acknowledged().unwrap();
    let question = "select (select count(*) from pgbench_history), (select coalesce(sum(delta), 0) from pgbench_history), (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), (select sum(bbalance) from pgbench_branches)";
    let answer = place.kubectl(&["exec", "postgresql-0", "--", "psql", "--no-align", "--tuples-only", "--command", question]);
    let [done, history, accounts, tellers, branches] = answer.trim().split('|').map(|number| number.parse::<i64>().unwrap()).collect::<Vec<_>>()[..] else { panic!("{answer}") };
    println!("postgresql: {told} transactions were acknowledged, {done} are there");
    assert!(u64::try_from(done).unwrap() >= told, "{told} were acknowledged, {done} are there");
    assert_eq!((accounts, tellers, branches), (history, history, history), "none is there by half");
}

#[test]
fn redis_never_counts_a_number_twice() {
    let _alone = alone();
    let place = Place::open("redis");
    place.apply(&on_the_second_node(&place, include_str!("redis.yaml")));
    place.rolled_out("statefulset/redis");
    place.ready("counting");
    let acknowledged = || place.try_kubectl(&["exec", "counting", "--", "cat", "last"])?.trim().parse::<u64>().ok();
    place.cluster.eventually("it counts", || acknowledged().filter(|count| *count > 20));
    trouble(&place, "redis", &acknowledged);

    place.kubectl(&["exec", "counting", "--", "touch", "stop"]);
    place.cluster.eventually("counting has ended", || place.kubectl(&["logs", "counting", "--tail=1"]).contains("ended").then_some(()));
    let lost = place.kubectl(&["exec", "counting", "--", "sh", "-c", "cat lost 2> /dev/null || true"]);
    assert_eq!(lost, "", "numbers came twice");
    let (told, counter) = (acknowledged().unwrap(), place.kubectl(&["exec", "redis-0", "--", "redis-cli", "get", "counter"]).trim().parse::<u64>().unwrap());
    println!("redis: counted to {told}, {counter} is there");
    assert!(counter >= told, "{told} was acknowledged, {counter} is there");
}
