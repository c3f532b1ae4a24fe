//! The way back: what fails, what takes too long, and people who have seen enough.

use super::command::{Order, Refused};
use super::event::{Deciding, EventKind};
use super::machine::{Machine, Now};
use super::plan::Reaction;
use super::record::{PauseKind, Phase};
use crate::judge::Tally;

impl Machine {
    /// The judge says of a candidate that it does harm.
    pub(super) fn failed(&mut self, variant: usize, deciding: Deciding, now: Now) {
        let reason = format!("{}: {}", deciding.variant, deciding.reason);
        match self.record.plan.on_failure {
            Reaction::Rollback => self.take_out(variant, reason, Some(deciding), now),
            Reaction::Pause => self.pause_over(PauseKind::Failure, reason, Some(deciding), now),
        }
    }

    /// Counts for the exposure budget; over it, the candidate is out, whatever else the plan says.
    pub(super) fn exposed(&mut self, variant: usize, candidate: Tally, baseline: Tally, now: Now) {
        self.record.exposure[variant].add(candidate, baseline);
        let excess = self.record.exposure[variant].excess();
        let Some(budget) = self.record.plan.max_failures.filter(|budget| excess > *budget) else { return };
        let exposure = &self.record.exposure[variant];
        let reason = format!(
            "{excess} failed requests more than the baseline explains, {budget} are allowed ({} of {} failed)",
            exposure.failures, exposure.requests
        );
        let name = self.record.plan.name_of(variant);
        let deciding = Deciding {
            variant: name.to_owned(),
            metric: "max_failures".to_owned(),
            unit: "requests".to_owned(),
            value: Some(excess as f64),
            baseline: None,
            limit: Some(budget as f64),
            samples: exposure.requests,
            reason: reason.clone(),
        };
        self.take_out(variant, format!("{name}: {reason}"), Some(deciding), now);
    }

    /// A hook said no.
    pub(super) fn refused_by_hook(&mut self, reason: String, now: Now) {
        self.react(self.record.plan.on_failure, PauseKind::Failure, reason, now);
    }

    /// What lasts too long.
    pub(super) fn limits(&mut self, now: Now) {
        let record = &self.record;
        if record.pause.is_some() || !self.is_working() {
            return;
        }
        let held_ms = record.clocks.hold_ms;
        if let Some(limit) = record.plan.max_hold.filter(|limit| held_ms > 0 && held_ms >= limit.after_ms) {
            let why = self.holding(false).unwrap_or_default();
            let reason = format!("held for {}: {why}", minutes(held_ms));
            return self.react(limit.then, PauseKind::MaxHold, reason, now);
        }
        let total_ms = record.clocks.total_ms;
        if record.plan.max_time_ms.is_some_and(|most| total_ms >= most) {
            let reason = format!("not promoted after {}", minutes(total_ms));
            self.react(record.plan.on_failure, PauseKind::MaxTime, reason, now);
        }
    }

    fn react(&mut self, reaction: Reaction, kind: PauseKind, reason: String, now: Now) {
        match reaction {
            Reaction::Rollback => self.roll_back(reason, None, None, now),
            Reaction::Pause => self.pause_over(kind, reason, None, now),
        }
    }

    /// A pause that nobody asked for. One that is there already stays as it is, and nobody is told twice.
    fn pause_over(&mut self, kind: PauseKind, reason: String, deciding: Option<Deciding>, now: Now) {
        if let Some(pause) = &mut self.record.pause {
            if kind == PauseKind::Failure && pause.kind != PauseKind::Shifted && pause.kind != kind {
                pause.kind = kind;
                pause.reason.clone_from(&reason);
            } else {
                return;
            }
        } else {
            self.pause(kind, reason.clone());
        }
        self.tell_deciding(EventKind::Paused, None, reason, deciding, now);
    }

    /// One candidate is out; with the last of them, or the winner, it is over.
    fn take_out(&mut self, variant: usize, reason: String, deciding: Option<Deciding>, now: Now) {
        let others = self.record.candidates().any(|other| other != variant);
        let is_won = self.record.phase == Phase::Watching;
        if !others || is_won {
            return self.roll_back(reason, deciding, None, now);
        }
        self.record.out[variant] = true;
        self.record.seen[variant] = None;
        let shares = self.record.weights.without(&self.record.out);
        if shares != self.record.weights {
            self.set_weights(shares, true);
        }
        // The step that is waited for may have been the one in which this one wins.
        if self.record.next >= self.record.plan.steps.len()
            && self.record.phase == Phase::Entering
            && self.record.winner().is_none()
        {
            (self.record.phase, self.record.by_hand) = (Phase::Choosing, false);
            self.record.calls.clear();
        }
        self.touched = true;
        self.tell_deciding(EventKind::Dropped, None, reason, deciding, now);
    }

    /// Everything to the baseline, now.
    pub(super) fn roll_back(&mut self, reason: String, deciding: Option<Deciding>, by: Option<&Order>, now: Now) {
        self.record.phase = Phase::RolledBack;
        self.record.pause = None;
        self.record.calls.clear();
        self.record.by_hand = false;
        self.record.reason.clone_from(&reason);
        self.set_weights(self.record.plan.baseline_shares(), true);
        self.tell_deciding(EventKind::RolledBack, by, reason, deciding, now);
    }

    pub(super) fn abort(&mut self, order: &Order, now: Now) -> Result<(), Refused> {
        if self.is_over() {
            return Err(Refused::Over(self.record.phase));
        }
        self.by_person("aborted", order, now);
        Ok(())
    }

    pub(super) fn undo(&mut self, order: &Order, now: Now) -> Result<(), Refused> {
        if !matches!(self.record.phase, Phase::Watching | Phase::Promoted) {
            return Err(Refused::NotPromoted(self.record.phase));
        }
        self.by_person("undone", order, now);
        Ok(())
    }

    fn by_person(&mut self, what: &str, order: &Order, now: Now) {
        let reason = order.reason.clone().unwrap_or_else(|| format!("{what} by {}", order.by));
        self.roll_back(reason, None, Some(order), now);
    }
}

/// `90 s`, `12 min`.
fn minutes(ms: u64) -> String {
    match ms / 1000 {
        seconds @ ..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    }
}
