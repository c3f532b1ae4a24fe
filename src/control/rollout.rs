//! Rollouts as they run: a machine for each, driven by time, verdicts and people.
//!
//! One task, [`driver`], has all machines. What they want to last or to publish goes to the controller as any other
//! change, with the revision and the line in the audit log that go with it. Taking traffic back is the exception: it goes by
//! a way of its own, is published at once, and gets to the disk after. So neither a slow disk nor whoever waits for one
//! delays it.

mod ask;
mod driver;
mod evidence;
pub mod tell;
pub mod view;
mod writes;

pub use driver::{Act, ActError, Acted, Asked, Driver, Message};

use super::command::Origin;
use crate::boundary::judged::Judged;
use crate::config::RouteConfig;
use crate::routing::split::Weight;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// A route's rollout as it is part of the live state.
#[derive(Debug)]
pub struct LiveRollout {
    /// Of [`crate::rollout::Record`].
    pub record: Value,
    /// Weights are its own: nobody else changes them without overriding it.
    pub under_way: bool,
    /// Where its requests are counted, while it is judged.
    pub judged: Option<Arc<Judged>>,
}

/// Two of one record are the same: where they count is no part of what is saved.
impl PartialEq for LiveRollout {
    fn eq(&self, other: &LiveRollout) -> bool {
        self.record == other.record
    }
}

impl LiveRollout {
    /// As the state file has it.
    pub fn found(record: Value) -> LiveRollout {
        let under_way = !matches!(record["phase"].as_str(), Some("promoted" | "rolled_back"));
        LiveRollout { record, under_way, judged: None }
    }

    /// All its variants are the route's.
    pub fn fits(&self, route: &RouteConfig) -> bool {
        let variants = self.record["plan"]["variants"].as_array();
        let known = |name: &Value| route.variants.iter().any(|variant| name.as_str() == Some(&variant.name));
        variants.is_some_and(|variants| variants.iter().all(known))
    }
}

/// What a rollout makes of its route.
#[derive(Clone, Debug)]
pub struct RolloutChange {
    pub route: String,
    /// None: as if there had been none.
    pub rollout: Option<Arc<LiveRollout>>,
    pub weights: Option<Weighing>,
    /// Of what people asked for, where no weights changed.
    pub audit: Vec<String>,
    pub epoch: Epoch,
}

#[derive(Clone, Debug)]
pub struct Weighing {
    /// Variants that are not named get nothing.
    pub shares: Vec<(String, Weight)>,
    /// In the history.
    pub action: &'static str,
    pub origin: Origin,
}

/// Which of a rollout's changes are void, because traffic was taken back after they were made and before they were done.
#[derive(Clone, Debug, Default)]
pub struct Epoch {
    now: Arc<AtomicU64>,
    made: u64,
}

impl Epoch {
    /// For a change that is made now.
    pub fn current(&self) -> Epoch {
        Epoch { now: Arc::clone(&self.now), made: self.now.load(SeqCst) }
    }

    /// Whatever was made before is void.
    pub fn next(&self) -> Epoch {
        let made = self.now.fetch_add(1, SeqCst) + 1;
        Epoch { now: Arc::clone(&self.now), made }
    }

    pub fn is_void(&self) -> bool {
        self.made != self.now.load(SeqCst)
    }
}
