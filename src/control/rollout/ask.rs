//! Whoever is asked before a rollout goes on.

use crate::config::rollout::{Asked, RolloutConfig};
use crate::control::ground::Ground;
use crate::rollout::{Answer, CallId, Machine};
use crate::routing::split::Weight;
use std::sync::Arc;

/// What a hook is asked about.
#[derive(Clone, Debug)]
pub struct Question {
    /// With the candidate's pool and its targets.
    pub ground: Arc<Ground>,
    pub route: String,
    /// The same when the same call is made again, after a crash.
    pub call: CallId,
    /// From 1; 0 before the first.
    pub step: usize,
    pub steps: usize,
    /// The plan's variants and what they have at present, the baseline first.
    pub weights: Vec<(String, Weight)>,
}

impl Question {
    pub fn of(machine: &Machine, call: CallId, route: &str, ground: Arc<Ground>) -> Question {
        let record = machine.record();
        let weights = record.plan.variants.iter().cloned().zip(record.weights.weights().iter().copied());
        Question {
            ground,
            route: route.to_owned(),
            call,
            step: if record.entry == 0 { 0 } else { record.step + 1 },
            steps: record.plan.steps.len() + 1,
            weights: weights.collect(),
        }
    }
}

/// Asks the hook that the question's call is of. Every call is answered, and within the hook's own time.
pub async fn hook(config: Option<&RolloutConfig>, question: &Question) -> Answer {
    let Question { route, call, step, steps, weights, ground } = question;
    let known = ground.route(route).is_some();
    tracing::debug!(route, known, call = call.number, step, steps, variants = weights.len(), "a hook is asked");
    match config.and_then(|config| config.hook(call.hook)) {
        Some(Asked::Smoke(_) | Asked::Webhook(_)) => Answer::Hold("it can't be asked yet".to_owned()),
        None => Answer::Hold("the file has no such hook any more".to_owned()),
    }
}
