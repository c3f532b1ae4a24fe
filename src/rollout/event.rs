//! What is told of a rollout, to people and to their machines.

use super::shares::Shares;
use crate::judge::{Judgement, Unit};
use serde::{Deserialize, Serialize};

/// Something that happened. `number` tells a message that is sent twice, after a crash, from two messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub number: u64,
    pub wall_ms: u64,
    pub kind: EventKind,
    /// From 1; 0 before the first.
    pub step: usize,
    pub steps: usize,
    /// From now on.
    pub weights: Shares,
    /// Who asked for it; None: the rollout itself.
    pub by: Option<String>,
    /// A sentence for people.
    pub reason: String,
    pub deciding: Option<Deciding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Started,
    Step,
    /// A step's time is over and its gate has not passed; once a step.
    Holding,
    /// Waits for a person.
    Paused,
    Resumed,
    /// One of several candidates was taken out; the others go on.
    Dropped,
    /// Everything is with the winner; it is still watched.
    Promoted,
    /// The watch is over.
    Finished,
    RolledBack,
    Retried,
}

/// The numbers that decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deciding {
    pub variant: String,
    pub metric: String,
    pub unit: String,
    pub value: Option<f64>,
    pub baseline: Option<f64>,
    pub limit: Option<f64>,
    /// Requests of the candidate, or samples.
    pub samples: u64,
    pub reason: String,
}

impl Deciding {
    pub fn of(variant: &str, judgement: &Judgement) -> Deciding {
        let metric = judgement.decisive();
        let unit = match metric.unit {
            Unit::Share => "share",
            Unit::Milliseconds => "milliseconds",
            Unit::Plain => "plain",
        };
        // JSON has no NaN and no infinity.
        let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
        Deciding {
            variant: variant.to_owned(),
            metric: metric.name.clone(),
            unit: unit.to_owned(),
            value: finite(metric.candidate),
            baseline: finite(metric.baseline),
            limit: finite(metric.limit),
            samples: metric.samples,
            reason: judgement.reason.clone(),
        }
    }
}
