//! Who is asked a second time. After a mutating webhook changed an object, everything that mutates runs once more: plug-ins
//! of the server always, webhooks where they ask for it and something changed since they were asked.
//!
//! Source: Kubernetes `apiserver/pkg/admission/reinvocation.go` and `plugin/webhook/mutating/reinvocationcontext.go`.

use std::collections::HashSet;

use meta::Object;

/// What happened to one request so far.
#[derive(Debug, Default)]
pub struct Reinvocation {
    second_round: bool,
    changed: bool,
    willing: HashSet<String>,
    to_ask_again: HashSet<String>,
    left_as: Option<Object>,
}

impl Reinvocation {
    /// Whether there must be a second round; begins it.
    pub fn begin_second_round(&mut self) -> bool {
        self.second_round = self.changed && !self.second_round;
        self.second_round
    }
    /// Called before webhooks are asked in a round.
    pub fn enter(&mut self, object: Option<&Object>) {
        if self.second_round && self.left_as.as_ref() != object {
            // The server's own plug-ins changed it.
            self.ask_willing_again();
        }
    }
    /// Called when all webhooks of a round were asked.
    pub fn leave(&mut self, object: Option<&Object>) {
        self.left_as = object.cloned();
    }
    /// Whether a webhook is asked in this round.
    pub fn asks(&self, id: &str) -> bool {
        !self.second_round || self.to_ask_again.contains(id)
    }
    /// A webhook was asked.
    pub fn asked(&mut self, id: &str, changed: bool, again_if_needed: bool) {
        if changed {
            self.ask_willing_again();
            self.changed = true;
        }
        if again_if_needed {
            self.willing.insert(id.to_owned());
        }
    }
    fn ask_willing_again(&mut self) {
        self.to_ask_again.extend(self.willing.drain());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_repeated_where_nobody_changed_anything() {
        let mut state = Reinvocation::default();
        state.enter(None);
        state.asked("a", false, true);
        state.leave(None);
        assert!(!state.begin_second_round());
    }

    #[test]
    fn who_is_willing_is_asked_again_after_a_later_change_and_only_once() {
        let mut state = Reinvocation::default();
        state.enter(None);
        state.asked("willing", false, true);
        state.asked("unwilling", false, false);
        state.asked("changes", true, true);
        state.leave(None);
        assert!(state.begin_second_round());
        state.enter(None);
        assert!(state.asks("willing"));
        assert!(!state.asks("unwilling") && !state.asks("changes"));
        state.asked("willing", true, true);
        assert!(!state.begin_second_round());
    }
}
