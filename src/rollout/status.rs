//! A rollout as it is shown.

use super::event::Deciding;
use super::machine::{Machine, Now};
use super::record::{Pause, Phase};
use super::shares::Shares;
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    pub phase: Phase,
    /// From 1; 0 before the first.
    pub step: usize,
    /// With the last, everything to the winner.
    pub steps: usize,
    pub weights: Shares,
    pub pause: Option<Pause>,
    /// Of the step's or the watch's time; None where none runs.
    pub remaining_ms: Option<u64>,
    /// How long it has held past the step's time.
    pub held_ms: u64,
    /// Until a freeze window ends, in milliseconds since 1970.
    pub frozen_until_ms: Option<u64>,
    /// What is waited for past the step's time, or why it ended.
    pub reason: String,
    pub candidates: Vec<CandidateStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CandidateStatus {
    pub variant: String,
    pub is_out: bool,
    /// Of the last check in this step.
    pub passed: Option<bool>,
    pub deciding: Option<Deciding>,
    /// Of the exposure budget.
    pub excess_failures: u64,
}

impl Machine {
    pub fn status(&self, now: Now) -> Status {
        let record = self.record();
        let frozen_until_ms = record.plan.frozen_until(now.wall_ms).filter(|_| !record.phase.is_over());
        let candidate = |variant: usize| {
            let seen = record.seen[variant].as_ref();
            CandidateStatus {
                variant: record.plan.name_of(variant).to_owned(),
                is_out: record.out[variant],
                passed: seen.map(|seen| seen.passed),
                deciding: seen.map(|seen| seen.deciding.clone()),
                excess_failures: record.exposure[variant].excess(),
            }
        };
        let waits = self.is_working() && record.pause.is_none() && self.step_left_ms().is_none();
        let reason = match (&record.pause, self.holding(frozen_until_ms.is_some())) {
            (Some(pause), _) => pause.reason.clone(),
            (None, Some(holding)) if waits => holding,
            _ => record.reason.clone(),
        };
        Status {
            phase: record.phase,
            step: if record.entry == 0 { 0 } else { record.step + 1 },
            steps: record.plan.steps.len() + 1,
            weights: record.weights.clone(),
            pause: record.pause.clone(),
            remaining_ms: self.step_left_ms(),
            held_ms: record.clocks.hold_ms,
            frozen_until_ms,
            reason,
            candidates: (1..record.plan.variants.len()).map(candidate).collect(),
        }
    }
}
