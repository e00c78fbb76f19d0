use super::*;
use k8s_openapi::api::apps::v1::{RollingUpdateStatefulSetStrategy, StatefulSetUpdateStrategy};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A set and its pods, moved on by carrying plans out the way the cluster would.
struct World {
    set: StatefulSet,
    current: String,
    update: String,
    pods: Vec<Arc<Pod>>,
    /// Pods that never become ready, by name.
    broken: Vec<String>,
    now: i64,
}

impl World {
    fn new(replicas: i32, policy: &str) -> Self {
        let mut set = StatefulSet::default();
        set.metadata.name = Some("db".to_owned());
        set.metadata.namespace = Some("x".to_owned());
        let spec = set.spec.get_or_insert_default();
        spec.replicas = Some(replicas);
        spec.pod_management_policy = Some(policy.to_owned());
        spec.update_strategy = Some(StatefulSetUpdateStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdateStatefulSetStrategy { partition: Some(0), max_unavailable: None }),
        });
        Self { set, current: "one".to_owned(), update: "one".to_owned(), pods: Vec::new(), broken: Vec::new(), now: 0 }
    }

    fn spec(&mut self) -> &mut StatefulSetSpec {
        self.set.spec.get_or_insert_default()
    }

    fn rolling(&mut self) -> &mut RollingUpdateStatefulSetStrategy {
        self.spec().update_strategy.as_mut().unwrap().rolling_update.as_mut().unwrap()
    }

    /// One plan; says what it did.
    fn step(&mut self) -> String {
        self.now += 1;
        let templates = Templates {
            current_name: self.current.clone(),
            current: PodTemplateSpec::default(),
            update_name: self.update.clone(),
            update: PodTemplateSpec::default(),
            collisions: None,
        };
        let plan = plan(&self.set, &templates, &self.pods, Timestamp::from_second(self.now).unwrap());
        let mut did = Vec::new();
        for pod in plan.replace.iter().chain(&plan.delete) {
            let name = pod.metadata.name.clone().unwrap();
            self.pods.retain(|pod| pod.metadata.name.as_ref() != Some(&name));
            did.push(format!("-{}", name.trim_start_matches("db-")));
        }
        for pod in &plan.create {
            let name = pod.metadata.name.clone().unwrap();
            let broken = self.broken.contains(&name);
            let mut made = (*crate::pods::tests::pod(&name, if broken { "Pending" } else { "Running" }, "n", (!broken).then_some(self.now))).clone();
            made.metadata.labels = pod.metadata.labels.clone();
            self.pods.push(Arc::new(made));
            did.push(format!("+{}={}", name.trim_start_matches("db-"), identity::revision(pod).unwrap()));
        }
        self.current = plan.status.current_revision.clone().unwrap();
        self.set.status = Some(plan.status);
        did.join(" ")
    }

    #[track_caller]
    fn check(&mut self, expected: &[&str]) {
        let mut way = Vec::new();
        for _ in 0..30 {
            let did = self.step();
            if did.is_empty() {
                break;
            }
            way.push(did);
        }
        assert_eq!(way, expected);
    }

    fn counts(&self) -> (i32, i32, i32, &str) {
        let status = self.set.status.as_ref().unwrap();
        (status.replicas, status.ready_replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0), status.current_revision.as_deref().unwrap())
    }
}

#[test]
fn pods_come_and_go_one_by_one() {
    let mut world = World::new(3, "OrderedReady");
    world.check(&["+0=one", "+1=one", "+2=one"]);
    assert_eq!(world.counts(), (3, 3, 3, "one"));
    world.spec().replicas = Some(1);
    world.check(&["-2", "-1"]);
}

#[test]
fn a_pod_that_is_not_ready_holds_up_the_next() {
    let mut world = World::new(3, "OrderedReady");
    world.broken = vec!["db-1".to_owned()];
    world.check(&["+0=one", "+1=one"]);
}

#[test]
fn in_parallel_nothing_waits() {
    let mut world = World::new(3, "Parallel");
    world.broken = vec!["db-0".to_owned()];
    world.check(&["+0=one +1=one +2=one"]);
    world.spec().replicas = Some(0);
    world.check(&["-2 -1 -0"]);
}

#[test]
fn an_update_starts_at_the_highest_number() {
    let mut world = World::new(3, "OrderedReady");
    world.check(&["+0=one", "+1=one", "+2=one"]);
    world.update = "two".to_owned();
    world.check(&["-2", "+2=two", "-1", "+1=two", "-0", "+0=two"]);
    assert_eq!(world.counts(), (3, 3, 3, "two"));
}

#[test]
fn numbers_below_the_partition_keep_their_template() {
    let mut world = World::new(3, "OrderedReady");
    world.check(&["+0=one", "+1=one", "+2=one"]);
    world.rolling().partition = Some(2);
    world.update = "two".to_owned();
    world.check(&["-2", "+2=two"]);
    assert_eq!(world.counts(), (3, 3, 1, "one"));
    world.pods.retain(|pod| pod.metadata.name.as_deref() != Some("db-0"));
    world.check(&["+0=one"]);
}

#[test]
fn a_broken_update_stops_and_a_better_one_goes_on() {
    let mut world = World::new(2, "OrderedReady");
    world.check(&["+0=one", "+1=one"]);
    world.broken = vec!["db-1".to_owned()];
    world.update = "bad".to_owned();
    world.check(&["-1", "+1=bad"]);
    world.broken.clear();
    world.update = "good".to_owned();
    // In order, the broken pod holds everything up until somebody deletes it: so says the documentation.
    world.check(&[]);
    world.pods.retain(|pod| pod.metadata.name.as_deref() != Some("db-1"));
    world.check(&["+1=good", "-0", "+0=good"]);
}

#[test]
fn more_than_one_pod_may_be_updated_at_a_time() {
    let mut world = World::new(4, "Parallel");
    world.check(&["+0=one +1=one +2=one +3=one"]);
    world.rolling().max_unavailable = Some(IntOrString::Int(2));
    world.update = "two".to_owned();
    world.check(&["-3 -2", "+2=two +3=two", "-1 -0", "+0=two +1=two"]);
}

#[test]
fn on_delete_waits_for_somebody_to_delete() {
    let mut world = World::new(2, "OrderedReady");
    world.check(&["+0=one", "+1=one"]);
    world.spec().update_strategy = Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".to_owned()), rolling_update: None });
    world.update = "two".to_owned();
    world.check(&[]);
    world.pods.retain(|pod| pod.metadata.name.as_deref() != Some("db-0"));
    world.check(&["+0=two"]);
}

#[test]
fn a_pod_that_ended_is_replaced() {
    let mut world = World::new(1, "OrderedReady");
    world.check(&["+0=one"]);
    let mut ended = (*world.pods[0]).clone();
    ended.status.as_mut().unwrap().phase = Some("Failed".to_owned());
    world.pods = vec![Arc::new(ended)];
    world.check(&["-0", "+0=one"]);
}

#[test]
fn numbers_can_start_elsewhere() {
    let mut world = World::new(2, "OrderedReady");
    world.spec().ordinals = Some(k8s_openapi::api::apps::v1::StatefulSetOrdinals { start: Some(5) });
    world.check(&["+5=one", "+6=one"]);
}

/// A pod of a set, as it is found: its number, phase, revision, since when it is ready, and whether it leaves.
fn found(number: i32, phase: &str, revision: &str, ready_since: Option<i64>, leaves: bool) -> Arc<Pod> {
    let mut pod = (*crate::pods::tests::pod(&format!("db-{number}"), phase, "n", ready_since)).clone();
    pod.metadata.labels = Some([(crate::revisions::REVISION_LABEL.to_owned(), revision.to_owned())].into());
    pod.metadata.deletion_timestamp = leaves.then(|| crate::pods::tests::second(0));
    Arc::new(pod)
}

#[test]
fn in_parallel_neither_ended_pods_nor_leaving_ones_hold_up_an_update() {
    let mut world = World::new(3, "Parallel");
    world.update = "two".to_owned();
    world.pods = vec![
        found(0, "Failed", "one", None, true),
        found(1, "Failed", "one", None, false),
        found(2, "Running", "one", Some(0), false),
        found(3, "Running", "one", Some(0), true),
    ];
    assert_eq!(world.step(), "-1 -2");
    // The first two were replaced from the new template at once; the third is updated although the fourth has not left yet.
    assert_eq!(world.step(), "+1=two +2=two");
}

#[test]
fn in_parallel_an_update_replaces_what_is_broken_first() {
    let with = |most: Option<i32>, policy: &str| {
        let mut world = World::new(4, policy);
        world.rolling().max_unavailable = most.map(IntOrString::Int);
        world.update = "two".to_owned();
        world.pods = vec![
            found(0, "Pending", "one", None, false),
            found(1, "Pending", "one", None, false),
            found(2, "Running", "one", Some(0), false),
            found(3, "Running", "one", Some(0), false),
        ];
        world
    };
    assert_eq!(with(Some(2), "Parallel").step(), "-1 -0");
    assert_eq!(with(Some(3), "Parallel").step(), "-1 -0 -3");
    // Of four pods 74 % are two, and a percent is one.
    for (share, expected) in [("74%", "-1 -0"), ("75%", "-1 -0 -3"), ("1%", "-1 -0")] {
        let mut world = with(None, "Parallel");
        world.rolling().max_unavailable = Some(IntOrString::String(share.to_owned()));
        assert_eq!(world.step(), expected);
    }
    // Who does not say how many has one after the other, whatever their state.
    assert_eq!(with(None, "Parallel").step(), "-3");
    assert_eq!(with(Some(2), "OrderedReady").step(), "");
}

#[test]
fn a_pod_of_too_high_a_number_waits_until_all_others_are_available() {
    let mut world = World::new(1, "OrderedReady");
    world.spec().min_ready_seconds = Some(10);
    world.pods = vec![found(0, "Running", "one", Some(-100), false), found(1, "Running", "one", Some(-100), false), found(2, "Running", "one", Some(0), false)];
    // The one that is not available yet is the first such itself.
    assert_eq!(world.step(), "-2");
    world.pods.insert(1, found(3, "Running", "one", Some(-100), false));
    world.pods.push(found(2, "Running", "one", Some(0), false));
    assert_eq!(world.step(), "-3");
    world.pods[1] = found(1, "Running", "one", None, false);
    world.pods.push(found(3, "Running", "one", None, false));
    assert_eq!(world.step(), "");
}

#[test]
fn it_is_woken_when_a_pod_becomes_available_by_time_alone() {
    let mut set = World::new(2, "Parallel").set;
    set.spec.as_mut().unwrap().min_ready_seconds = Some(30);
    set.spec.as_mut().unwrap().update_strategy = Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".to_owned()), rolling_update: None });
    let templates = Templates { current_name: "one".to_owned(), current: PodTemplateSpec::default(), update_name: "one".to_owned(), update: PodTemplateSpec::default(), collisions: None };
    let pods = [found(0, "Running", "one", Some(0), false), found(1, "Running", "one", Some(10), false)];
    let plan = plan(&set, &templates, &pods, Timestamp::from_second(15).unwrap());
    assert_eq!((plan.check_after, plan.status.available_replicas), (Some(Duration::from_secs(15)), Some(0)));
}

#[test]
fn pending_pods_need_their_claims_and_settled_ones_keep_theirs() {
    let mut world = World::new(3, "OrderedReady");
    world.spec().replicas = Some(2);
    let names = |pods: &[Arc<Pod>]| pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect::<Vec<_>>();
    let templates = Templates { current_name: "one".to_owned(), current: PodTemplateSpec::default(), update_name: "one".to_owned(), update: PodTemplateSpec::default(), collisions: None };
    let mut pods = vec![found(0, "Running", "one", Some(0), false), found(1, "Pending", "one", None, false), found(2, "Running", "one", Some(0), false)];
    let now = Timestamp::from_second(1).unwrap();
    let waiting = plan(&world.set, &templates, &pods, now);
    assert_eq!((names(&waiting.need_claims), names(&waiting.stay), names(&waiting.leave)), (vec!["db-1".to_owned()], vec!["db-0".to_owned()], vec![]));
    pods[1] = found(1, "Running", "one", Some(0), false);
    let shrinking = plan(&world.set, &templates, &pods, now);
    assert_eq!((names(&shrinking.stay).len(), names(&shrinking.leave), names(&shrinking.delete)), (2, vec!["db-2".to_owned()], vec!["db-2".to_owned()]));
}
