//! What survives a crash: everything that the machine knows, but the evidence of the judge.

use super::budget::Exposure;
use super::event::{Deciding, Event};
use super::plan::{Plan, PlanError};
use super::shares::Shares;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;

/// A rollout, whole. Times are milliseconds gathered while it ran; none is a date.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub plan: Plan,
    pub phase: Phase,
    /// The step whose weights are live, from 0; as many as the plan has: the last, everything to the winner.
    pub step: usize,
    /// The step that is about to begin, while phases wait for it.
    pub(super) next: usize,
    pub weights: Shares,
    /// Which variants were taken out.
    pub out: Vec<bool>,
    pub pause: Option<Pause>,
    /// Why it ended, or what it last waited for.
    pub reason: String,
    pub started_by: String,
    /// +1 with each retry and each resume after a failure: evidence of an earlier run counts for nothing.
    pub run: u32,
    /// +1 with each step that begins: a verdict that passed in another step opens no gate.
    pub entry: u32,
    /// Whom a person chose to win.
    pub(super) chosen: Option<usize>,
    /// A person moved it on: no gate is asked.
    pub(super) by_hand: bool,
    pub(super) told_holding: bool,
    pub(super) clocks: Clocks,
    pub(super) seen: Vec<Option<Seen>>,
    pub(super) calls: Vec<Call>,
    pub(super) next_call: u64,
    pub exposure: Vec<Exposure>,
    /// Events that nobody was told of for certain.
    pub(super) outbox: VecDeque<Event>,
    pub(super) next_event: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Asks whoever must agree before any user meets a candidate.
    Starting,
    /// Asks whoever must agree before the next step. The weights are still those of the one before.
    Entering,
    Step,
    /// The step's time is over and its gate has passed; asks whoever must agree after it.
    Leaving,
    /// The steps are over and a person has to say who wins.
    Choosing,
    /// Everything is with the winner, and the baseline is ready.
    Watching,
    Promoted,
    RolledBack,
}

impl Phase {
    pub fn is_over(self) -> bool {
        matches!(self, Phase::Promoted | Phase::RolledBack)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Starting => "starting",
            Phase::Entering => "entering a step",
            Phase::Step => "in a step",
            Phase::Leaving => "leaving a step",
            Phase::Choosing => "waiting for a choice",
            Phase::Watching => "promoted, watching",
            Phase::Promoted => "promoted",
            Phase::RolledBack => "rolled back",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub kind: PauseKind,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseKind {
    Asked,
    /// The weights are somebody's, not the step's.
    Shifted,
    MaxHold,
    MaxTime,
    Failure,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Clocks {
    /// In the step, while not paused.
    pub step_ms: u64,
    /// Of that, past the step's time; and waiting for hooks.
    pub hold_ms: u64,
    /// Since the start or the last resume, without what `max_time` leaves out.
    pub total_ms: u64,
    pub check_in_ms: u64,
    /// Gathered and not saved.
    pub unsaved_ms: u64,
}

/// The last verdict on a candidate that did not fail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub passed: bool,
    pub age_ms: u64,
    pub deciding: Deciding,
}

/// A hook of the present phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Call {
    pub hook: usize,
    /// The number of the call that is under way.
    pub under_way: Option<u64>,
    /// The last answer passed, so long ago.
    pub passed_ms_ago: Option<u64>,
    /// Failing answers in a row.
    pub failures: u32,
    pub again_in_ms: u64,
    pub last: String,
}

impl Record {
    /// Whether it holds together: a record comes from a file.
    pub(super) fn check(&self) -> Result<(), PlanError> {
        self.plan.check()?;
        let count = self.plan.variants.len();
        let lengths = [self.weights.weights().len(), self.out.len(), self.seen.len(), self.exposure.len()];
        if lengths.iter().any(|length| *length != count) {
            return Err(PlanError::Record);
        }
        let hooks = self.plan.hooks.len();
        if self.step > self.plan.steps.len() || self.next > self.plan.steps.len() {
            return Err(PlanError::Record);
        }
        if self.calls.iter().any(|call| call.hook >= hooks) {
            return Err(PlanError::Record);
        }
        if self.chosen.is_some_and(|chosen| chosen == 0 || chosen >= count) {
            return Err(PlanError::Record);
        }
        let nobody_wins = self.next == self.plan.steps.len() && self.winner().is_none();
        match nobody_wins && self.phase == Phase::Entering {
            true => Err(PlanError::Record),
            false => Ok(()),
        }
    }

    pub(super) fn winner(&self) -> Option<usize> {
        self.chosen.or(self.plan.winner).filter(|winner| !self.out[*winner])
    }

    /// Candidates that are still in.
    pub fn candidates(&self) -> impl Iterator<Item = usize> {
        (1..self.plan.variants.len()).filter(|variant| !self.out[*variant])
    }
}
