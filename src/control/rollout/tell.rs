//! Who hears of a rollout: whoever follows the events. Receivers are told off the path that traffic is shifted on.

use crate::rollout::Event;
use std::sync::Arc;
use tokio::sync::broadcast;

/// Events that somebody who follows may be behind by; who is further behind misses the oldest.
const BEHIND: usize = 1024;

/// An event with what a receiver needs to say it.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub route: String,
    /// The plan's, the baseline first: what the weights are of.
    pub variants: Vec<String>,
    pub event: Event,
}

/// All clones tell the same.
#[derive(Clone, Debug)]
pub struct Teller(broadcast::Sender<Arc<Told>>);

impl Default for Teller {
    fn default() -> Teller {
        Teller(broadcast::Sender::new(BEHIND))
    }
}

impl Teller {
    pub fn tell(&self, told: Told) {
        let (route, event) = (&told.route, &told.event);
        let weights = event.weights.to_string();
        let by = event.by.as_deref().unwrap_or("rollout");
        tracing::info!(
            route, kind = ?event.kind, step = event.step, steps = event.steps, weights, by, reason = ?event.reason,
            "rollout"
        );
        // Nobody follows: nobody misses it.
        let _ = self.0.send(Arc::new(told));
    }

    pub fn follow(&self) -> broadcast::Receiver<Arc<Told>> {
        self.0.subscribe()
    }
}
