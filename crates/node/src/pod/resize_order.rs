//! Whose resize is granted first where several pods wait for what has become free. [`super::resize`] gives pods what was granted.
//! Source: Kubernetes 1.36, `pkg/kubelet/allocation`, `sortPendingResizes`.

use std::cmp::{Ordering, Reverse};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{
    admission::fits,
    qos::{QosClass, qos_class},
    resources::pod_request,
    spec,
};
use crate::machine::Allocatable;

/// A pod whose resize is not granted yet.
#[derive(Debug, Clone, Copy)]
pub struct Waiting<'a> {
    /// The pod with what it asks for.
    pub wanted: &'a Pod,
    /// The same with what it has.
    pub granted: &'a Pod,
}

impl Waiting<'_> {
    /// Who asks for no more than it has always gets it; then the priority counts, then the class, then who has waited longest.
    fn place(&self) -> (bool, Reverse<i32>, bool, Option<Timestamp>) {
        let grows = ["cpu", "memory"].into_iter().any(|resource| pod_request(self.wanted, resource) > pod_request(self.granted, resource));
        let is_guaranteed = qos_class(self.wanted) == QosClass::Guaranteed;
        (grows, Reverse(spec(self.wanted).priority.unwrap_or(0)), !is_guaranteed, waiting_since(self.wanted))
    }

    /// Less is earlier. One that has not been told to wait comes after those that have.
    fn compare(&self, other: &Self) -> Ordering {
        let ((grows, priority, class, since), (others_grows, others_priority, others_class, others_since)) = (self.place(), other.place());
        let by_rank = (grows, priority, class).cmp(&(others_grows, others_priority, others_class));
        by_rank.then_with(|| match (since, others_since) {
            (Some(since), Some(others_since)) => since.cmp(&others_since),
            (since, others_since) => others_since.is_some().cmp(&since.is_some()),
        })
    }
}

fn waiting_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().find(|condition| condition.type_ == "PodResizePending")?.last_transition_time.as_ref().map(|time| time.0)
}

/// Whether a pod gets what it asks for, when everybody who waits and comes before it gets theirs where it fits. `steady` are the
/// pods that wait for nothing, with what they were granted.
///
/// # Errors
/// Reason and message of what is short, in upstream's words.
pub fn fits_in_turn<'a>(one: Waiting<'a>, waiting: &[Waiting<'a>], steady: &[&'a Pod], allocatable: &Allocatable) -> Result<(), (String, String)> {
    let mut earlier: Vec<&Waiting<'a>> = waiting.iter().filter(|other| other.compare(&one) == Ordering::Less).collect();
    earlier.sort_by(|left, right| left.compare(right));
    // What each has while it waits; one that gets its turn has what it asked for.
    let mut held: Vec<&'a Pod> = waiting.iter().map(|other| other.granted).collect();
    for next in earlier {
        let others: Vec<&Pod> = steady.iter().chain(&held).copied().filter(|other| !std::ptr::eq(*other, next.granted)).chain([one.granted]).collect();
        if fits(next.wanted, &others, allocatable).is_ok()
            && let Some(place) = held.iter_mut().find(|other| std::ptr::eq(**other, next.granted))
        {
            *place = next.wanted;
        }
    }
    let others: Vec<&Pod> = steady.iter().chain(&held).copied().collect();
    fits(one.wanted, &others, allocatable)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::quantity::Amount;

    /// A pod that has `has` processors and asks for `wants`; it was told to wait at that second, if at all.
    struct Case {
        wanted: Pod,
        granted: Pod,
    }

    fn case(name: &str, has: &str, wants: &str, priority: i32, guaranteed: bool, since: Option<i64>) -> Case {
        let pod = |cpu: &str| {
            let requests = json!({ "cpu": cpu, "memory": "1" });
            let resources = if guaranteed { json!({ "requests": requests, "limits": requests }) } else { json!({ "requests": requests }) };
            let conditions = since.map(|second| json!([{ "type": "PodResizePending", "status": "True", "lastTransitionTime": Timestamp::from_second(second).unwrap() }]));
            serde_json::from_value(json!({
                "metadata": { "name": name }, "spec": { "priority": priority, "containers": [{ "name": "c", "resources": resources }] },
                "status": { "conditions": conditions },
            }))
            .unwrap()
        };
        Case { wanted: pod(wants), granted: pod(has) }
    }

    impl Case {
        fn waiting(&self) -> Waiting<'_> {
            Waiting { wanted: &self.wanted, granted: &self.granted }
        }
    }

    #[test]
    fn who_waits_is_sorted_as_upstream_does() {
        // In the order in which they must come.
        let cases = [
            case("shrinks", "2", "1", -5, false, None),
            case("high", "1", "2", 10, false, Some(90)),
            case("high-and-late", "1", "2", 10, false, Some(91)),
            case("guaranteed", "1", "2", 0, true, Some(90)),
            case("guaranteed-and-new", "1", "2", 0, true, None),
            case("early", "1", "2", 0, false, Some(80)),
            case("late", "1", "2", 0, false, Some(85)),
            case("new", "1", "2", 0, false, None),
            case("low", "1", "2", -1, true, Some(1)),
        ];
        for (left, one) in cases.iter().enumerate() {
            for (right, other) in cases.iter().enumerate() {
                assert_eq!(one.waiting().compare(&other.waiting()), left.cmp(&right), "{left} and {right}");
            }
        }
    }

    /// Which of the cases get what they ask for on a node of that many processors, each looked at as if it were the first to ask.
    #[track_caller]
    fn check(cpu: i64, steady: &[Case], waiting: &[Case], expected: &[&str]) {
        let allocatable = Allocatable { cpu: Amount::units(cpu), memory: Amount::units(1000), ..Allocatable::default() };
        let steady: Vec<&Pod> = steady.iter().map(|case| &case.granted).collect();
        let got = waiting.iter().filter(|one| {
            let others: Vec<Waiting<'_>> = waiting.iter().filter(|other| !std::ptr::eq(*other, *one)).map(Case::waiting).collect();
            fits_in_turn(one.waiting(), &others, &steady, &allocatable).is_ok()
        });
        assert_eq!(got.map(|case| super::super::name(&case.wanted)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_free_goes_to_the_first_in_line() {
        let early = || case("early", "1", "2", 0, false, Some(1));
        let late = || case("late", "1", "2", 0, false, Some(2));
        check(4, &[], &[late(), early()], &["late", "early"]);
        check(3, &[], &[late(), early()], &["early"]);
        check(2, &[], &[late(), early()], &[]);
        check(4, &[case("other", "1", "1", 0, false, None)], &[late(), early()], &["early"]);
        check(3, &[], &[early(), late(), case("new", "1", "2", 5, false, None)], &[]);
        check(4, &[], &[early(), late(), case("new", "1", "2", 5, false, None)], &["new"]);
    }

    #[test]
    fn one_for_whom_it_is_not_enough_does_not_hold_up_the_others() {
        let large = case("large", "1", "5", 9, false, Some(1));
        check(3, &[], &[large, case("small", "1", "2", 0, false, Some(2))], &["small"]);
    }

    #[test]
    fn what_a_shrinking_pod_gives_back_counts_at_once() {
        check(3, &[], &[case("grows", "1", "2", 9, false, Some(1)), case("shrinks", "2", "1", 0, false, None)], &["grows", "shrinks"]);
    }
}
