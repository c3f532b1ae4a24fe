//! What a rollout is to do. A [`Plan`] is checked whole before anything moves by it, and goes into the record of the
//! rollout that follows it: a file that changes meanwhile concerns the next one.

use super::freeze::Freeze;
use super::shares::Shares;
use crate::routing::split::Weight;
use serde::{Deserialize, Serialize};

/// How far a plan may go in steps, calls, and windows; far beyond what anybody writes.
const MOST: usize = 1000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub strategy: Strategy,
    /// The baseline first: what a rollback returns to. All others are candidates.
    pub variants: Vec<String>,
    /// Those before the last, which is everything to the winner.
    pub steps: Vec<Step>,
    /// Who gets everything after the steps, as an index into the variants; None: whom a person then names.
    pub winner: Option<usize>,
    /// For how long the winner is watched afterwards, with the baseline ready to take everything back.
    pub keep_old_ms: u64,
    /// None: steps end by their time alone.
    pub analysis: Option<Analysis>,
    pub hooks: Vec<Hook>,
    pub on_failure: Reaction,
    pub max_hold: Option<MaxHold>,
    /// The longest that it may take to the last step, without the time in which a person or a window is waited for.
    pub max_time_ms: Option<u64>,
    /// The exposure budget, a candidate: beyond it, out at once, whatever `on_failure` says.
    pub max_failures: Option<u64>,
    pub freeze: Vec<Freeze>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    Canary,
    BlueGreen,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub weights: Shares,
    pub stay: Stay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stay {
    /// At least this long, and until the gate passes.
    For {
        ms: u64,
    },
    UntilPromoted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Analysis {
    /// From check to check. A verdict that passed is stale after two.
    pub interval_ms: u64,
}

/// Somebody who is asked: a webhook, smoke requests. What exactly, who drives the machine knows by the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    pub name: String,
    pub on: Moment,
    /// So many failing answers in a row are a failure; fewer are asked again.
    pub failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    BeforeStart,
    /// Also before the last step.
    BeforeStep,
    AfterStep,
    /// Again and again while a step lasts.
    Gate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reaction {
    Rollback,
    /// Leaves the weights as they are, and waits for a person.
    Pause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxHold {
    /// From the end of a step's time.
    pub after_ms: u64,
    pub then: Reaction,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("a rollout needs a baseline and a candidate")]
    Variants,
    #[error("step {0} has not one weight for each variant")]
    Count(usize),
    #[error("step {step} gives {variant:?} less than the step before")]
    Falls { step: usize, variant: String },
    #[error("step {0} leaves the baseline nothing; the last step does that, and keep_old says for how long")]
    Full(usize),
    #[error("there is no variant {0} to win, or it is the baseline")]
    Winner(usize),
    #[error("the interval of the analysis is 0")]
    Interval,
    #[error("at most {MOST} steps, hooks and windows each")]
    Size,
    #[error("the record does not fit the plan in it")]
    Record,
}

impl Plan {
    /// A canary by percent and milliseconds, with no more than that.
    pub fn canary(baseline: &str, candidate: &str, steps: Vec<Step>) -> Plan {
        Plan {
            strategy: Strategy::Canary,
            variants: vec![baseline.to_owned(), candidate.to_owned()],
            steps,
            winner: Some(1),
            keep_old_ms: 0,
            analysis: None,
            hooks: Vec::new(),
            on_failure: Reaction::Rollback,
            max_hold: None,
            max_time_ms: None,
            max_failures: None,
            freeze: Vec::new(),
        }
    }

    /// A candidate that is reached without a share of the users until somebody promotes it, or only until its hooks have
    /// passed; then everything at once.
    pub fn blue_green(baseline: &str, candidate: &str, auto_promote: bool, keep_old_ms: u64) -> Plan {
        let stay = if auto_promote { Stay::For { ms: 0 } } else { Stay::UntilPromoted };
        let steps = vec![Step { weights: Shares::all_to(0, 2), stay }];
        Plan { strategy: Strategy::BlueGreen, keep_old_ms, ..Plan::canary(baseline, candidate, steps) }
    }

    /// The first thing that is wrong with it.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.variants.len() < 2 {
            return Err(PlanError::Variants);
        }
        if self.steps.len().max(self.hooks.len()).max(self.freeze.len()) > MOST {
            return Err(PlanError::Size);
        }
        let mut before = Shares::all_to(0, self.variants.len());
        for (at, step) in self.steps.iter().enumerate() {
            let weights = &step.weights;
            if weights.weights().len() != self.variants.len() {
                return Err(PlanError::Count(at + 1));
            }
            if weights.baseline() == Weight::ZERO {
                return Err(PlanError::Full(at + 1));
            }
            let falls = |variant: &usize| weights.of(*variant) < before.of(*variant);
            if let Some(variant) = (1..self.variants.len()).find(falls) {
                return Err(PlanError::Falls { step: at + 1, variant: self.variants[variant].clone() });
            }
            before = weights.clone();
        }
        if let Some(winner) = self.winner.filter(|winner| *winner == 0 || *winner >= self.variants.len()) {
            return Err(PlanError::Winner(winner));
        }
        match self.analysis {
            Some(Analysis { interval_ms: 0 }) => Err(PlanError::Interval),
            _ => Ok(()),
        }
    }

    /// Everything to the baseline.
    pub fn baseline_shares(&self) -> Shares {
        Shares::all_to(0, self.variants.len())
    }

    pub fn name_of(&self, variant: usize) -> &str {
        self.variants.get(variant).map_or("?", String::as_str)
    }

    /// When the freeze ends that `wall_ms` lies in, in milliseconds since 1970; None outside.
    pub fn frozen_until(&self, wall_ms: u64) -> Option<u64> {
        self.freeze.iter().filter_map(|freeze| freeze.until(wall_ms)).max()
    }

    pub(super) fn hooks_on(&self, moment: Moment) -> impl Iterator<Item = usize> {
        self.hooks.iter().enumerate().filter(move |(_, hook)| hook.on == moment).map(|(at, _)| at)
    }
}

impl Step {
    /// A canary's step: percent of the candidate, and milliseconds. None for what is no weight.
    pub fn of(percent: f64, ms: u64) -> Option<Step> {
        let weights = Shares::of_candidates(&[Weight::from_percent(percent).ok()?])?;
        Some(Step { weights, stay: Stay::For { ms } })
    }
}
