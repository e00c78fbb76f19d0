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
        for deletion in &plan.delete {
            let name = deletion.pod.metadata.name.clone().unwrap();
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
