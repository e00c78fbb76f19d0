use super::*;
use crate::deployment::rollout::{HASH_LABEL, same_template, size};
use k8s_openapi::api::apps::v1::{DeploymentSpec, DeploymentStrategy, ReplicaSetStatus, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A Deployment and its sets, moved on by carrying plans out the way the cluster would.
struct World {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    now: i64,
    /// No new pod becomes available while this is set.
    stuck: bool,
}

impl World {
    fn new(replicas: i32, surge: &str, unavailable: &str) -> Self {
        let percent = |text: &str| Some(text.parse().map(IntOrString::Int).unwrap_or(IntOrString::String(text.to_owned())));
        let mut deployment = Deployment::default();
        deployment.metadata.name = Some("web".to_owned());
        deployment.metadata.uid = Some("uid-web".to_owned());
        deployment.metadata.generation = Some(1);
        deployment.spec = Some(DeploymentSpec {
            replicas: Some(replicas),
            progress_deadline_seconds: Some(600),
            revision_history_limit: Some(2),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment { max_surge: percent(surge), max_unavailable: percent(unavailable) }),
            }),
            ..DeploymentSpec::default()
        });
        Self { deployment, sets: Vec::new(), now: 0, stuck: false }
    }

    fn template(&mut self, version: &str) -> &mut Self {
        let spec = self.deployment.spec.get_or_insert_default();
        spec.template.spec.get_or_insert_default().hostname = Some(version.to_owned());
        self.deployment.metadata.generation = self.deployment.metadata.generation.map(|generation| generation + 1);
        self
    }

    fn resize(&mut self, replicas: i32) {
        self.deployment.spec.get_or_insert_default().replicas = Some(replicas);
        self.deployment.metadata.generation = self.deployment.metadata.generation.map(|generation| generation + 1);
    }

    fn plan(&self) -> Plan {
        plan(&self.deployment, &self.sets, |set| set.status.as_ref().is_some_and(|status| status.replicas > 0), Timestamp::from_second(self.now).unwrap())
    }

    /// Carries out one plan; the pods follow at once. Returns the sizes afterwards, oldest first, as `version:size`.
    fn step(&mut self) -> String {
        self.now += 1;
        let plan = self.plan();
        if let Some(mut set) = plan.create {
            set.metadata.uid = Some(format!("uid-{}", self.now));
            set.metadata.creation_timestamp = Some(crate::pods::tests::second(self.now));
            self.sets.push(Arc::new(set));
        }
        for (set, _) in plan.update {
            let slot = self.sets.iter_mut().find(|old| old.metadata.uid == set.metadata.uid).unwrap();
            *slot = Arc::new(set);
        }
        self.sets.retain(|set| !plan.delete.iter().any(|gone| gone.metadata.uid == set.metadata.uid));
        if let Some(annotations) = plan.annotations {
            self.deployment.metadata.annotations = Some(annotations);
        }
        self.deployment.status = Some(plan.status);
        for set in &mut self.sets {
            let set = Arc::make_mut(set);
            let before = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
            let replicas = size(set);
            let available = if self.stuck { before.min(replicas) } else { replicas };
            set.status = Some(ReplicaSetStatus { replicas, available_replicas: Some(available), ready_replicas: Some(available), ..ReplicaSetStatus::default() });
        }
        self.sizes()
    }

    fn sizes(&self) -> String {
        let version = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.template.as_ref()?.spec.as_ref()?.hostname.clone()).unwrap_or_default();
        let sizes: Vec<_> = self.sets.iter().map(|set| format!("{}:{}", version(set), size(set))).collect();
        sizes.join(" ")
    }

    /// Steps until nothing changes any more; returns all sizes on the way.
    #[track_caller]
    fn settle(&mut self) -> Vec<String> {
        let mut way = Vec::new();
        for _ in 0..50 {
            let before = (self.sets.clone(), self.deployment.status.clone());
            let sizes = self.step();
            if way.last() != Some(&sizes) {
                way.push(sizes);
            }
            if before == (self.sets.clone(), self.deployment.status.clone()) {
                return way;
            }
        }
        panic!("it never settles: {way:?}");
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let conditions = self.deployment.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let condition = conditions.into_iter().find(|condition| condition.type_ == kind).unwrap();
        (condition.status, condition.reason.unwrap_or_default())
    }

    fn revisions(&self) -> Vec<String> {
        self.sets.iter().map(|set| set.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"].clone()).collect()
    }
}

#[test]
fn the_first_set_gets_all_pods_at_once_and_the_rollout_completes() {
    let mut world = World::new(3, "25%", "25%");
    assert_eq!(world.template("a").settle(), ["a:3"]);
    assert_eq!(world.condition("Available"), ("True".into(), "MinimumReplicasAvailable".into()));
    assert_eq!(world.condition("Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
    assert_eq!(world.revisions(), ["1"]);
    assert!(world.sets[0].spec.as_ref().unwrap().selector.match_labels.as_ref().unwrap().contains_key(HASH_LABEL));
    assert_eq!(world.plan().check_after, None);
}

#[test]
fn a_rolling_update_keeps_within_its_bounds() {
    let mut world = World::new(4, "25%", "25%");
    world.template("a").settle();
    assert_eq!(world.template("b").settle(), ["a:4 b:1", "a:2 b:1", "a:2 b:3", "a:0 b:3", "a:0 b:4"]);
    assert_eq!(world.revisions(), ["1", "2"]);
}

#[test]
fn without_surge_old_pods_make_room_first() {
    let mut world = World::new(2, "0", "1");
    world.template("a").settle();
    assert_eq!(world.template("b").settle(), ["a:2 b:0", "a:1 b:0", "a:1 b:1", "a:0 b:1", "a:0 b:2"]);
}

#[test]
fn going_back_reuses_the_old_set_under_a_new_revision() {
    let mut world = World::new(1, "1", "0");
    world.template("a").settle();
    world.template("b").settle();
    world.template("a").settle();
    assert_eq!(world.sizes(), "a:1 b:0");
    assert_eq!(world.revisions(), ["3", "2"]);
    assert_eq!(world.sets[0].metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(world.deployment.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"], "3");
}

#[test]
fn history_is_cut_to_its_limit() {
    let mut world = World::new(1, "1", "0");
    for version in ["a", "b", "c", "d", "e"] {
        world.template(version).settle();
    }
    assert_eq!(world.sizes(), "c:0 d:0 e:1");
}

#[test]
fn recreating_waits_until_the_old_pods_are_gone() {
    let mut world = World::new(2, "1", "1");
    world.deployment.spec.as_mut().unwrap().strategy = Some(DeploymentStrategy { type_: Some("Recreate".to_owned()), rolling_update: None });
    assert_eq!(world.template("a").settle(), ["a:2"]);
    assert_eq!(world.template("b").settle(), ["a:0", "a:0 b:2"]);
}

#[test]
fn a_bad_template_stops_the_rollout_and_misses_its_deadline() {
    let mut world = World::new(4, "25%", "25%");
    world.template("a").settle();
    world.stuck = true;
    assert_eq!(world.template("bad").settle().last().unwrap(), "a:3 bad:2");
    assert_eq!(world.condition("Progressing").1, "ReplicaSetUpdated");
    let wait = world.plan().check_after.unwrap();
    assert!(wait.as_secs() > 500 && wait.as_secs() <= 601, "{wait:?}");
    world.now += 700;
    world.step();
    assert_eq!(world.condition("Progressing"), ("False".into(), "ProgressDeadlineExceeded".into()));
    assert_eq!(world.condition("Available").0, "True");
}

#[test]
fn a_resize_in_the_middle_of_a_rollout_is_spread_in_proportion() {
    // The example of the Kubernetes documentation: 8 old and 5 new pods, then 5 more wanted.
    let mut world = World::new(10, "3", "2");
    world.template("a").settle();
    world.stuck = true;
    assert_eq!(world.template("bad").settle().last().unwrap(), "a:8 bad:5");
    world.resize(15);
    assert_eq!(world.step(), "a:11 bad:7");
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(2, "1", "0");
    world.template("a").settle();
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.template("b").resize(3);
    assert_eq!(world.settle(), ["a:3"]);
    assert_eq!(world.condition("Progressing"), ("Unknown".into(), "DeploymentPaused".into()));
    world.deployment.spec.as_mut().unwrap().paused = Some(false);
    assert_eq!(world.settle().last().unwrap(), "a:0 b:3");
}

#[test]
fn a_plain_resize_changes_only_the_one_active_set() {
    let mut world = World::new(1, "25%", "25%");
    world.template("a").settle();
    world.resize(5);
    assert_eq!(world.settle(), ["a:5"]);
    world.resize(0);
    assert_eq!(world.settle(), ["a:0"]);
    assert!(same_template(&world.sets[0], &world.deployment));
}
