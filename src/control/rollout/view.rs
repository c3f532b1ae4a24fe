//! Rollouts as readers see them, without asking whoever drives them.

use crate::judge::Judgement;
use crate::rollout::{Exposure, Plan, Status};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// By route; those under way and the last one of each route.
pub type Views = ArcSwap<BTreeMap<String, Arc<View>>>;

#[derive(Clone, Debug)]
pub struct View {
    /// When it was so.
    pub at: Instant,
    pub status: Status,
    pub plan: Plan,
    pub started_by: String,
    /// By the plan's variants.
    pub exposure: Vec<Exposure>,
    pub judgements: Vec<Option<Judgement>>,
}

impl View {
    /// Of the step's or the watch's time, by now.
    pub fn remaining_ms(&self) -> Option<u64> {
        let since = u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let runs = self.status.pause.is_none();
        self.status.remaining_ms.map(|left| if runs { left.saturating_sub(since) } else { left })
    }
}
