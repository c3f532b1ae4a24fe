//! What a person may ask of a rollout, and why it is refused.

use super::plan::PlanError;
use super::record::Phase;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Weights and remaining time stay as they are; a candidate that fails is taken out all the same.
    Pause,
    Resume,
    Promote {
        /// To the last step, past all others.
        full: bool,
        /// Which candidate, as an index into the plan's variants, where the plan names no winner.
        to: Option<usize>,
    },
    Abort,
    /// From the first step, after a rollback; the evidence begins anew.
    Retry,
    /// Back to the baseline after a promotion.
    Undo,
    /// Somebody shifted the weights past the rollout: it pauses, and sets its own again when it goes on.
    Shifted,
}

/// Who asks, and how much they insist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub by: String,
    pub reason: Option<String>,
    /// Past freeze windows and hooks that have not passed.
    pub force: bool,
}

impl Order {
    pub fn by(name: &str) -> Order {
        Order { by: name.to_owned(), reason: None, force: false }
    }

    pub fn forced(self) -> Order {
        Order { force: true, ..self }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the rollout is over: {0}")]
    Over(Phase),
    #[error("the rollout is not over: {0}")]
    UnderWay(Phase),
    #[error("nothing was promoted: {0}")]
    NotPromoted(Phase),
    #[error("it is paused already")]
    Paused,
    #[error("it is not paused")]
    NotPaused,
    /// Until when, in milliseconds since 1970.
    #[error("a freeze window lasts; force goes past it")]
    Frozen { until_ms: u64 },
    #[error("it waits for {0}; force goes past it")]
    Waiting(String),
    #[error("everything is promoted already; full ends the watch")]
    Watching,
    #[error("there is more than one candidate: say which of {0} is to get everything")]
    Which(String),
    #[error("that is no candidate that is still in")]
    NoCandidate,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Refused(#[from] Refused),
}
