//! What an autoscaler tells of itself.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The target can be read and resized.
pub(super) const ABLE: &str = "AbleToScale";
/// The load is known.
pub(super) const ACTIVE: &str = "ScalingActive";
/// The load asks for another size than is allowed.
pub(super) const LIMITED: &str = "ScalingLimited";

/// The conditions, while they are worked out.
pub(super) struct Conditions {
    all: Vec<HorizontalPodAutoscalerCondition>,
    now: Timestamp,
}

impl Conditions {
    pub fn new(all: Vec<HorizontalPodAutoscalerCondition>, now: Timestamp) -> Self {
        Self { all, now }
    }

    /// Sets one. The time of its transition stays while its status does.
    pub fn set(&mut self, kind: &str, is_true: bool, reason: &str, message: String) {
        let status = if is_true { "True" } else { "False" };
        let position = self.all.iter().position(|condition| condition.type_ == kind);
        let known = position.and_then(|position| self.all.get(position));
        let since = known.filter(|known| known.status == status).and_then(|known| known.last_transition_time.clone());
        let condition = HorizontalPodAutoscalerCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: since.or(Some(Time(self.now))),
        };
        match position.and_then(|position| self.all.get_mut(position)) {
            Some(place) => *place = condition,
            None => self.all.push(condition),
        }
    }

    pub fn into_option(self) -> Option<Vec<HorizontalPodAutoscalerCondition>> {
        (!self.all.is_empty()).then_some(self.all)
    }
}
