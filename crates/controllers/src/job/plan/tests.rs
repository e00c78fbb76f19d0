use super::*;
use crate::job::{TRACKING, job_pod};
use kinds::{Strategy as _, batch::job::JobStrategy};
use serde_json::json;

/// A Job and its pods, moved on by carrying plans out the way the cluster would.
struct World {
    job: Job,
    pods: Vec<Arc<Pod>>,
    now: i64,
    made: usize,
    backoff: Option<Backoff>,
}

impl World {
    fn new(spec: serde_json::Value) -> Self {
        let mut full = json!({ "template": { "spec": { "containers": [], "restartPolicy": "Never" } } });
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let job = serde_json::from_value(json!({ "metadata": { "name": "sum", "namespace": "x", "uid": "uid" }, "spec": full })).unwrap();
        Self { job, pods: Vec::new(), now: 1000, made: 0, backoff: None }
    }

    fn plan(&self) -> Plan {
        plan(&self.job, &self.pods, self.backoff, Timestamp::from_second(self.now).unwrap())
    }

    fn step(&mut self) -> bool {
        let plan = self.plan();
        let before = (self.job.clone(), self.pods.clone());
        let old = self.job.clone();
        self.backoff = Some(plan.backoff);
        self.job.status = Some(plan.status);
        // What the API server would say to it.
        let problems = JobStrategy.validate_status_update(&self.job, &old);
        assert!(problems.is_empty(), "{problems:?}: {:?} -> {:?}", old.status, self.job.status);
        for pod in &mut self.pods {
            let gone = |list: &[Arc<Pod>]| list.iter().any(|other| other.metadata.uid == pod.metadata.uid);
            let deleted: Vec<_> = plan.delete.iter().map(|(pod, _)| pod.clone()).collect();
            let uncounted: Vec<_> = plan.delete.iter().filter(|(_, counts)| !counts).map(|(pod, _)| pod.clone()).collect();
            let (release, delete) = (gone(&plan.release) || gone(&uncounted), gone(&deleted));
            let pod = Arc::make_mut(pod);
            if release {
                pod.metadata.finalizers = None;
            }
            if delete {
                pod.metadata.deletion_timestamp = Some(crate::pods::tests::second(self.now));
                // The node ends it at once.
                pod.status.get_or_insert_default().phase = Some("Failed".to_owned());
            }
        }
        self.pods.retain(|pod| pod.metadata.deletion_timestamp.is_none() || pod.metadata.finalizers.is_some());
        for new in plan.create {
            self.made += 1;
            let mut pod = job_pod::pod(&self.job, new);
            pod.metadata.name = Some(format!("p{}", self.made));
            pod.metadata.uid = Some(format!("uid-{}", self.made));
            pod.metadata.creation_timestamp = Some(crate::pods::tests::second(self.now));
            let status = pod.status.get_or_insert_default();
            status.phase = Some("Running".to_owned());
            status.conditions = serde_json::from_value(json!([{ "type": "Ready", "status": "True" }])).unwrap();
            assert_eq!(pod.metadata.finalizers.as_ref().unwrap(), &[TRACKING]);
            self.pods.push(Arc::new(pod));
        }
        before != (self.job.clone(), self.pods.clone())
    }

    fn settle(&mut self) -> &mut Self {
        for _ in 0..20 {
            if !self.step() {
                return self;
            }
        }
        panic!("it never settles: {:?}", self.job.status);
    }

    /// Ends the n-th pod that runs.
    fn end(&mut self, number: usize, phase: &str) -> &mut Self {
        self.now += 1;
        let now = self.now;
        let running: Vec<usize> = self.pods.iter().enumerate().filter(|(_, pod)| pods::is_active(pod)).map(|(position, _)| position).collect();
        let pod = Arc::make_mut(&mut self.pods[running[number]]);
        pod.metadata.creation_timestamp = Some(crate::pods::tests::second(now));
        pod.status.as_mut().unwrap().phase = Some(phase.to_owned());
        self.settle()
    }

    /// Active, succeeded, failed, and the reason of the end.
    #[track_caller]
    fn check(&self, active: i32, succeeded: i32, failed: i32, end: Option<(&str, &str)>) {
        let status = self.job.status.as_ref().unwrap();
        let found = [COMPLETE, FAILED].into_iter().find_map(|kind| condition(status, kind));
        let found = found.map(|found| (found.type_.as_str(), found.reason.as_deref().unwrap()));
        assert_eq!((status.active.unwrap_or(0), status.succeeded.unwrap_or(0), status.failed.unwrap_or(0), found), (active, succeeded, failed, end));
    }
}

#[test]
fn a_job_runs_until_enough_have_succeeded() {
    let mut world = World::new(json!({ "completions": 3, "parallelism": 2 }));
    world.settle().check(2, 0, 0, None);
    world.end(0, "Succeeded").check(2, 1, 0, None);
    world.end(0, "Succeeded").check(1, 2, 0, None);
    world.end(0, "Succeeded").check(0, 3, 0, Some((COMPLETE, "CompletionsReached")));
    assert!(world.pods.iter().all(|pod| pod.metadata.finalizers.is_none()));
    assert!(world.job.status.as_ref().unwrap().completion_time.is_some());
}

#[test]
fn a_failure_is_tried_again_after_a_pause_until_the_limit() {
    let mut world = World::new(json!({ "completions": 1, "backoffLimit": 1 }));
    world.settle();
    world.end(0, "Failed").check(0, 0, 1, None);
    assert_eq!(world.plan().check_after, Some(FIRST_PAUSE));
    world.now += 10;
    world.settle().check(1, 0, 1, None);
    world.end(0, "Failed").check(0, 0, 2, Some((FAILED, "BackoffLimitExceeded")));
}

#[test]
fn a_pod_is_counted_only_after_it_was_noted_and_let_go() {
    let mut world = World::new(json!({ "completions": 2 }));
    world.settle();
    Arc::make_mut(&mut world.pods[0]).status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
    let noted = world.plan();
    assert_eq!((noted.status.succeeded, noted.release.len()), (None, 1));
    assert_eq!(noted.status.uncounted_terminated_pods.unwrap().succeeded.unwrap(), ["uid-1"]);
}

#[test]
fn a_work_queue_is_done_when_one_succeeded_and_none_runs() {
    let mut world = World::new(json!({ "parallelism": 2 }));
    world.settle().check(2, 0, 0, None);
    world.end(0, "Succeeded").check(1, 1, 0, None);
    world.end(0, "Succeeded").check(0, 2, 0, Some((COMPLETE, "CompletionsReached")));
}

#[test]
fn a_suspended_job_loses_its_pods_and_gets_new_ones_later() {
    let mut world = World::new(json!({ "completions": 1, "suspend": true }));
    world.settle().check(0, 0, 0, None);
    assert_eq!((world.made, world.job.status.as_ref().unwrap().start_time.clone()), (0, None));
    world.job.spec.as_mut().unwrap().suspend = Some(false);
    world.settle().check(1, 0, 0, None);
    world.job.spec.as_mut().unwrap().suspend = Some(true);
    world.settle().check(0, 0, 0, None);
    assert!(world.pods.is_empty());
    world.job.spec.as_mut().unwrap().suspend = Some(false);
    world.settle().check(1, 0, 0, None);
}

#[test]
fn a_deadline_ends_the_job_and_its_pods() {
    let mut world = World::new(json!({ "completions": 1, "activeDeadlineSeconds": 30 }));
    world.settle();
    assert_eq!(world.plan().check_after, Some(Duration::from_secs(30)));
    world.now += 30;
    world.settle().check(0, 0, 1, Some((FAILED, "DeadlineExceeded")));
}

#[test]
fn each_index_is_done_once() {
    let mut world = World::new(json!({ "completions": 4, "parallelism": 4, "completionMode": "Indexed", "backoffLimit": 6 }));
    world.settle().check(4, 0, 0, None);
    world.end(3, "Failed").check(3, 0, 1, None);
    // A success forgives the failure before it: the failed index is tried again at once.
    world.end(1, "Succeeded").end(1, "Succeeded").check(2, 2, 1, None);
    assert_eq!(world.job.status.as_ref().unwrap().completed_indexes.as_deref(), Some("1,2"));
    world.end(0, "Succeeded").end(0, "Succeeded").check(0, 4, 1, Some((COMPLETE, "CompletionsReached")));
    assert_eq!(world.job.status.as_ref().unwrap().completed_indexes.as_deref(), Some("0-3"));
}

#[test]
fn an_index_may_fail_without_the_others() {
    let mut world = World::new(json!({ "completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 0 }));
    world.settle();
    world.end(0, "Failed").check(1, 0, 1, None);
    assert_eq!(world.job.status.as_ref().unwrap().failed_indexes.as_deref(), Some("0"));
    world.end(0, "Succeeded").check(0, 1, 1, Some((FAILED, "FailedIndexes")));
}

#[test]
fn success_can_come_early() {
    let policy = json!({ "rules": [{ "succeededIndexes": "0" }] });
    let mut world = World::new(json!({ "completions": 3, "parallelism": 3, "completionMode": "Indexed", "successPolicy": policy }));
    world.settle();
    world.end(0, "Succeeded").check(0, 1, 2, Some((COMPLETE, "SuccessPolicy")));
}

#[test]
fn fewer_in_parallel_means_that_some_go_uncounted() {
    let mut world = World::new(json!({ "completions": 5, "parallelism": 3 }));
    world.settle().check(3, 0, 0, None);
    world.job.spec.as_mut().unwrap().parallelism = Some(1);
    world.settle().check(1, 0, 0, None);
}

#[test]
fn a_failure_is_waited_for_although_its_pod_is_gone() {
    let mut world = World::new(json!({ "completions": 1 }));
    world.settle();
    world.end(0, "Failed").check(0, 0, 1, None);
    world.pods.clear();
    assert_eq!((world.plan().create.len(), world.plan().check_after), (0, Some(FIRST_PAUSE)));
    world.now += 10;
    world.settle().check(1, 0, 1, None);
    // The second one is waited for twice as long.
    world.end(0, "Failed");
    world.pods.clear();
    assert_eq!(world.plan().check_after, Some(FIRST_PAUSE * 2));
}

#[test]
fn failures_of_an_index_are_handed_on_from_pod_to_pod() {
    let mut world = World::new(json!({ "completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1 }));
    let failures = |pod: &Pod| pod.metadata.annotations.as_ref().and_then(|all| all.get(FAILURE_COUNT)).cloned();
    world.settle().check(2, 0, 0, None);
    assert!(world.pods.iter().all(|pod| failures(pod).as_deref() == Some("0")));
    // The failed pod is neither counted nor let go before another has taken over its count.
    world.end(0, "Failed").check(1, 0, 0, None);
    assert!(is_tracked(&world.pods[0]));
    assert_eq!(world.plan().check_after, Some(FIRST_PAUSE));
    world.now += 10;
    world.settle().check(2, 0, 1, None);
    assert!(!is_tracked(&world.pods[0]));
    assert_eq!(failures(&world.pods[2]).as_deref(), Some("1"));
    // Also when it is gone by then, the next failure is the last.
    world.pods.remove(0);
    world.end(1, "Failed").check(1, 0, 2, None);
    assert_eq!(world.job.status.as_ref().unwrap().failed_indexes.as_deref(), Some("0"));
    world.end(0, "Succeeded").check(0, 1, 2, Some((FAILED, "FailedIndexes")));
}

#[test]
fn ignored_failures_of_an_index_are_handed_on_apart() {
    let policy = json!({ "rules": [{ "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] }] });
    let mut world = World::new(json!({
        "completions": 1, "completionMode": "Indexed", "backoffLimitPerIndex": 0, "podFailurePolicy": policy, "podReplacementPolicy": "Failed",
    }));
    world.settle();
    let conditions = serde_json::from_value(json!([{ "type": "DisruptionTarget", "status": "True" }])).unwrap();
    Arc::make_mut(&mut world.pods[0]).status.as_mut().unwrap().conditions = Some(conditions);
    world.end(0, "Failed").check(0, 0, 0, None);
    world.now += 10;
    world.settle().check(1, 0, 0, None);
    assert_eq!(Failures::before(&world.pods[1]), Failures { counted: 0, ignored: 1 });
}

#[test]
fn an_indexed_job_that_shrinks_loses_the_pods_beyond_its_end() {
    let mut world = World::new(json!({ "completions": 4, "parallelism": 4, "completionMode": "Indexed" }));
    world.settle().check(4, 0, 0, None);
    let spec = world.job.spec.as_mut().unwrap();
    (spec.completions, spec.parallelism) = (Some(2), Some(2));
    world.settle().check(2, 0, 0, None);
    let left: Vec<_> = world.pods.iter().filter_map(|pod| indexes::of(pod)).collect();
    assert_eq!(left, [0, 1]);
    // Of two pods of one index the one that came less far goes, although there are not too many.
    let mut twin = (*world.pods[0]).clone();
    twin.metadata.uid = Some("twin".to_owned());
    twin.status.as_mut().unwrap().phase = Some("Pending".to_owned());
    world.pods[1] = Arc::new(twin);
    let delete: Vec<_> = world.plan().delete.into_iter().filter_map(|(pod, _)| pod.metadata.uid.clone()).collect();
    assert_eq!(delete, ["twin"]);
}

#[test]
fn failed_indexes_come_before_a_policy_of_success() {
    let policy = json!({ "rules": [{ "succeededIndexes": "1" }] });
    let mut world = World::new(json!({
        "completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 0, "maxFailedIndexes": 0, "successPolicy": policy,
    }));
    world.settle();
    for (pod, phase) in world.pods.iter_mut().zip(["Failed", "Succeeded"]) {
        Arc::make_mut(pod).status.as_mut().unwrap().phase = Some(phase.to_owned());
    }
    world.settle().check(0, 1, 1, Some((FAILED, "MaxFailedIndexesExceeded")));
}

#[test]
fn a_success_that_comes_early_makes_no_failures_of_pods_that_have_not_ended() {
    let policy = json!({ "rules": [{ "succeededIndexes": "0" }] });
    let mut world = World::new(json!({ "completions": 2, "parallelism": 2, "completionMode": "Indexed", "successPolicy": policy, "podReplacementPolicy": "Failed" }));
    world.settle();
    Arc::make_mut(&mut world.pods[0]).status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
    world.step();
    // It leaves, and its node has not ended it yet.
    let leaving = Arc::make_mut(world.pods.iter_mut().find(|pod| indexes::of(pod) == Some(1)).unwrap());
    leaving.status.as_mut().unwrap().phase = Some("Running".to_owned());
    let plan = world.plan();
    assert_eq!((plan.release.len(), plan.status.uncounted_terminated_pods.unwrap().failed), (1, None));
    assert_eq!(plan.status.terminating, Some(1));
}

#[test]
fn a_job_that_goes_lets_all_its_pods_go() {
    let mut world = World::new(json!({ "completions": 2, "parallelism": 2 }));
    world.settle();
    world.job.metadata.deletion_timestamp = Some(crate::pods::tests::second(1001));
    let plan = world.plan();
    assert_eq!((plan.release.len(), plan.delete.len(), plan.status.uncounted_terminated_pods.unwrap().failed), (2, 0, None));
}

#[test]
fn a_suspended_job_says_how_many_pods_leave() {
    let mut world = World::new(json!({ "completions": 2, "parallelism": 2 }));
    world.settle();
    world.job.spec.as_mut().unwrap().suspend = Some(true);
    let status = world.plan().status;
    assert_eq!((status.active, status.ready, status.terminating), (None, Some(0), Some(2)));
}
