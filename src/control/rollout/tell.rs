//! Who hears of a rollout: the log, and whoever follows the events. All of it is off the path that traffic is shifted on.

use crate::limits::EVENTS_KEPT;
use crate::rollout::Event;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::broadcast;

/// An event with what a receiver needs to say it.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub route: String,
    /// The plan's, the baseline first: what the weights are of.
    pub variants: Vec<String>,
    pub event: Event,
}

/// An event with its number among all of this process, from 1.
pub type Numbered = (u64, Arc<Told>);

/// All clones tell the same.
#[derive(Clone, Debug)]
pub struct Teller {
    /// Tells the numbers of this process from those of another.
    process: u64,
    follow: broadcast::Sender<Numbered>,
    /// The newest last.
    kept: Arc<Mutex<VecDeque<Numbered>>>,
}

impl Teller {
    /// `process`: a number that no other process has, such as when it began.
    pub fn new(process: u64) -> Teller {
        Teller { process, follow: broadcast::Sender::new(EVENTS_KEPT), kept: Arc::default() }
    }

    pub fn tell(&self, told: Told) {
        let (route, event) = (&told.route, &told.event);
        let weights = event.weights.to_string();
        let by = event.by.as_deref().unwrap_or("rollout");
        tracing::info!(
            route, kind = ?event.kind, step = event.step, steps = event.steps, weights, by, reason = ?event.reason,
            "rollout"
        );
        let mut kept = self.kept();
        let numbered = (kept.back().map_or(1, |(number, _)| number + 1), Arc::new(told));
        if kept.len() == EVENTS_KEPT {
            kept.pop_front();
        }
        kept.push_back(numbered.clone());
        // Nobody follows: nobody misses it.
        let _ = self.follow.send(numbered);
    }

    /// The id of an event, for `Last-Event-ID`.
    pub fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.process)
    }

    /// What is kept of the events after this id, and all that come. Without an id nothing of what was; of an id of another
    /// process, all that is kept.
    pub fn follow(&self, last: Option<&str>) -> (Vec<Numbered>, broadcast::Receiver<Numbered>) {
        let kept = self.kept();
        let after = match last.map(|id| id.split_once('-')) {
            None => u64::MAX,
            Some(Some((process, number))) if process.parse() == Ok(self.process) => number.parse().unwrap_or(0),
            Some(_) => 0,
        };
        let missed = kept.iter().filter(|(number, _)| *number > after).cloned().collect();
        (missed, self.follow.subscribe())
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Numbered>> {
        self.kept.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::{EventKind, Shares};

    fn told(number: u64) -> Told {
        let event = Event {
            number,
            wall_ms: 0,
            kind: EventKind::Step,
            step: 1,
            steps: 2,
            weights: Shares::all_to(0, 2),
            by: None,
            reason: String::new(),
            deciding: None,
        };
        Told { route: "r".to_owned(), variants: Vec::new(), event }
    }

    #[test]
    fn who_comes_back_gets_what_was_missed() {
        let teller = Teller::new(7);
        (1..=5).for_each(|number| teller.tell(told(number)));
        let missed = |last| teller.follow(last).0.iter().map(|(number, _)| *number).collect::<Vec<_>>();
        assert_eq!(missed(None), [0_u64; 0]);
        assert_eq!(missed(Some("7-3")), [4, 5]);
        assert_eq!(missed(Some("7-5")), [0_u64; 0]);
        assert_eq!(missed(Some("6-5")), [1, 2, 3, 4, 5], "of another process");
        (6..2000).for_each(|number| teller.tell(told(number)));
        assert_eq!(missed(Some("7-1")).len(), EVENTS_KEPT);
    }
}
