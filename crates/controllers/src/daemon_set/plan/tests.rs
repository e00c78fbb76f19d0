use super::*;
use client::FakeClock;
use k8s_openapi::api::apps::v1::{DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

struct World {
    set: DaemonSet,
    nodes: Vec<Arc<Node>>,
    pods: BTreeMap<String, Vec<Arc<Pod>>>,
    failures: Failures,
    hash: String,
    now: i64,
}

impl World {
    fn new(nodes: &[&str]) -> Self {
        let node = |name: &&str| {
            let mut node = Node::default();
            node.metadata.name = Some((*name).to_owned());
            Arc::new(node)
        };
        let mut set = DaemonSet::default();
        set.metadata.name = Some("agent".to_owned());
        set.spec.get_or_insert_default();
        let failures = Failures::new(Arc::new(FakeClock::new(Timestamp::UNIX_EPOCH)));
        Self { set, nodes: nodes.iter().map(node).collect(), pods: BTreeMap::new(), failures, hash: "one".to_owned(), now: 10 }
    }

    fn limits(&mut self, surge: i32, unavailable: i32) {
        let rolling = RollingUpdateDaemonSet { max_surge: Some(IntOrString::Int(surge)), max_unavailable: Some(IntOrString::Int(unavailable)) };
        self.set.spec.as_mut().unwrap().update_strategy = Some(DaemonSetUpdateStrategy { type_: Some("RollingUpdate".to_owned()), rolling_update: Some(rolling) });
    }

    fn add(&mut self, node: &str, hash: &str, phase: &str) {
        self.now += 1;
        let mut pod = (*crate::pods::tests::pod(&format!("{node}-{}", self.now), phase, node, (phase == "Running").then_some(self.now))).clone();
        pod.metadata.labels = Some([(REVISION_LABEL.to_owned(), hash.to_owned())].into());
        pod.metadata.creation_timestamp = Some(crate::pods::tests::second(self.now));
        self.pods.entry(node.to_owned()).or_default().push(Arc::new(pod));
    }

    fn plan(&self) -> Plan {
        plan(&self.set, &self.nodes, &self.pods, &self.hash, None, &self.failures, Timestamp::from_second(self.now + 1).unwrap())
    }

    /// Carries one plan out and says what it did.
    fn step(&mut self) -> String {
        let plan = self.plan();
        let mut did = Vec::new();
        for (pod, _) in &plan.delete {
            for on_node in self.pods.values_mut() {
                on_node.retain(|other| other.metadata.name != pod.metadata.name);
            }
            did.push(format!("-{}", pods::node_name(pod)));
        }
        self.pods.retain(|_, on_node| !on_node.is_empty());
        for node in &plan.create {
            let hash = self.hash.clone();
            self.add(node, &hash, "Running");
            did.push(format!("+{node}"));
        }
        did.join(" ")
    }

    #[track_caller]
    fn check(&mut self, expected: &[&str]) {
        let mut way = Vec::new();
        for _ in 0..20 {
            let did = self.step();
            if did.is_empty() {
                break;
            }
            way.push(did);
        }
        assert_eq!(way, expected);
    }
}

#[test]
fn every_fitting_node_gets_one_pod() {
    let mut world = World::new(&["a", "b", "c"]);
    let mut tainted = (*world.nodes[2]).clone();
    tainted.spec.get_or_insert_default().taints = Some(vec![Taint { key: "x".to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() }]);
    world.nodes[2] = Arc::new(tainted);
    world.check(&["+a +b"]);
    let status = world.plan().status;
    assert_eq!((status.desired_number_scheduled, status.number_ready, status.updated_number_scheduled, status.number_misscheduled), (2, 2, Some(2), 0));
    world.add("b", "one", "Running");
    world.check(&["-b"]);
    world.add("c", "one", "Running");
    assert_eq!(world.plan().status.number_misscheduled, 1);
    world.check(&[]);
}

#[test]
fn an_update_replaces_within_its_limit() {
    let mut world = World::new(&["a", "b", "c"]);
    world.limits(0, 1);
    world.check(&["+a +b +c"]);
    world.hash = "two".to_owned();
    world.check(&["-a", "+a", "-b", "+b", "-c", "+c"]);
}

#[test]
fn a_broken_pod_counts_against_the_limit_of_an_update() {
    let mut world = World::new(&["a", "b", "c"]);
    world.limits(0, 1);
    world.check(&["+a +b +c"]);
    let on_node = world.pods.get_mut("b").unwrap();
    let mut broken = (*on_node[0]).clone();
    broken.status.as_mut().unwrap().conditions = None;
    *on_node = vec![Arc::new(broken)];
    world.hash = "two".to_owned();
    world.check(&["-b", "+b", "-a", "+a", "-c", "+c"]);
}

#[test]
fn a_surging_update_starts_the_new_pod_first() {
    let mut world = World::new(&["a", "b"]);
    world.limits(1, 0);
    world.check(&["+a +b"]);
    world.hash = "two".to_owned();
    world.check(&["+a", "-a", "+b", "-b"]);
}

/// A pod of node `a` as it is found: revision, phase, since when ready, when it was made, whether it leaves.
fn found(hash: &str, phase: &str, ready_since: Option<i64>, made: i64, leaves: bool) -> Arc<Pod> {
    let mut pod = (*crate::pods::tests::pod(&format!("a-{made}"), phase, "a", ready_since)).clone();
    pod.metadata.labels = Some([(REVISION_LABEL.to_owned(), hash.to_owned())].into());
    pod.metadata.creation_timestamp = Some(crate::pods::tests::second(made));
    pod.metadata.deletion_timestamp = leaves.then(|| crate::pods::tests::second(made));
    Arc::new(pod)
}

#[test]
fn while_a_node_surges_its_old_pod_counts_and_goes_when_it_does_not_work() {
    let mut world = World::new(&["a"]);
    world.limits(1, 0);
    world.hash = "two".to_owned();
    let mut counts = |pods: Vec<Arc<Pod>>| {
        world.pods = [("a".to_owned(), pods)].into();
        let status = world.plan().status;
        let counts = (status.number_ready, status.updated_number_scheduled.unwrap_or(0), status.number_available.unwrap_or(0));
        (counts, world.step())
    };
    let (old, new) = (found("one", "Running", Some(1), 1, false), found("two", "Running", None, 5, false));
    assert_eq!(counts(vec![new.clone(), old.clone()]), ((1, 0, 1), String::new()));
    let broken = found("one", "Running", None, 1, false);
    assert_eq!(counts(vec![new, broken]), ((0, 0, 0), "-a".to_owned()));
    // A pod that leaves is not waited for.
    let leaving = found("one", "Running", None, 1, true);
    assert_eq!(counts(vec![leaving.clone()]).1, "+a");
    // Beside a pod that leaves, the new one decides whether the node has what it should.
    assert_eq!(counts(vec![leaving, found("two", "Running", Some(5), 5, false)]).1, "");
}

#[test]
fn a_pod_that_leaves_does_not_hold_up_the_update_of_others() {
    let mut world = World::new(&["a", "b"]);
    world.limits(0, 1);
    world.hash = "two".to_owned();
    world.add("b", "one", "Running");
    world.pods.insert("a".to_owned(), vec![found("one", "Running", None, 1, true), found("two", "Running", Some(5), 5, false)]);
    assert_eq!(world.step(), "-b");
}

#[test]
fn a_surging_update_keeps_pods_out_of_place_until_enough_work_elsewhere() {
    let mut world = World::new(&["a", "b"]);
    world.limits(1, 0);
    world.add("a", "one", "Running");
    world.add("b", "one", "Running");
    let mut tainted = (*world.nodes[0]).clone();
    tainted.spec.get_or_insert_default().taints = Some(vec![Taint { key: "x".to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() }]);
    world.nodes[0] = Arc::new(tainted);
    world.hash = "two".to_owned();
    // Two work, one is wanted.
    assert_eq!(world.step(), "-a +b");
    assert_eq!(world.step(), "-b");
    // An old one that does not work is of no use.
    world.pods.insert("a".to_owned(), vec![found("one", "Running", None, 1, false)]);
    assert_eq!(world.step(), "-a");
    // The only one that works stays.
    world.pods = [("a".to_owned(), vec![found("one", "Running", Some(1), 1, false)])].into();
    assert_eq!(world.step(), "+b");
}

#[test]
fn a_pod_is_current_by_its_revision_or_by_its_templates_number() {
    let mut set = DaemonSet::default();
    let mut pod = (*found("one", "Running", None, 1, false)).clone();
    assert!(is_current(&set, &pod, "one") && !is_current(&set, &pod, "two"));
    set.metadata.annotations = Some([(GENERATION_ANNOTATION.to_owned(), "3".to_owned())].into());
    pod.metadata.labels.as_mut().unwrap().insert(GENERATION_LABEL.to_owned(), "3".to_owned());
    assert!(is_current(&set, &pod, "two"));
    assert!(!is_over(&found("one", "Failed", None, 1, false)) && is_over(&found("one", "Failed", None, 1, true)));
}

#[test]
fn a_failed_pod_is_replaced_after_a_pause() {
    let mut world = World::new(&["a"]);
    world.add("a", "one", "Failed");
    world.check(&["-a", "+a"]);
    world.pods.clear();
    world.add("a", "one", "Failed");
    let plan = world.plan();
    assert!(plan.delete.is_empty());
    assert_eq!(plan.check_after, Some(FIRST_PAUSE));
    // A new generation begins anew.
    world.set.status = Some(DaemonSetStatus { observed_generation: Some(2), ..DaemonSetStatus::default() });
    world.check(&["-a", "+a"]);
}
