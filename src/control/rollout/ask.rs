//! Whoever is asked before a rollout goes on.

use crate::config::rollout::{Asked, RolloutConfig};
use crate::rollout::Answer;

/// Asks the hook with this index. Every call is answered, and within the hook's own time.
pub async fn hook(config: Option<&RolloutConfig>, index: usize) -> Answer {
    match config.and_then(|config| config.hook(index)) {
        Some(Asked::Smoke(_) | Asked::Webhook(_)) => Answer::Hold("it can't be asked yet".to_owned()),
        None => Answer::Hold("the file has no such hook any more".to_owned()),
    }
}
