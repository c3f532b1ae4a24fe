//! What a machine wants done, in an order that a slow disk can't turn round: of what waits for one save, the newest record
//! and the newest weights go together, and who was to hear of it hears after it.

use super::driver::{ActError, Acted};
use super::{Epoch, LiveRollout, RolloutChange, Weighing};
use crate::boundary::judged::Judged;
use crate::control::command::Origin;
use crate::control::history::{PROMOTE, ROLLBACK, ROLLOUT};
use crate::control::persist::StateError;
use crate::rollout::{CallId, Effect, Event, EventKind, Machine, Shares};
use crate::routing::split::Weight;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// What waits for the disk, and what waits for that.
#[derive(Default)]
pub struct Writes {
    save: bool,
    weights: Option<Weighing>,
    /// Lines of the audit log.
    audit: Vec<String>,
    after: Vec<After>,
    /// The save that is under way, and what waits for it.
    under_way: Option<Batch>,
    epoch: Epoch,
    /// The last save failed: not before then again.
    retry_at: Option<Instant>,
}

struct Batch {
    weights: Option<Weighing>,
    audit: Vec<String>,
    after: Vec<After>,
    epoch: Epoch,
}

/// What comes after a save.
pub enum After {
    Tell(Box<Event>),
    Call(CallId),
    Answer {
        to: oneshot::Sender<Result<Acted, ActError>>,
        acted: Box<Acted>,
        /// As it was before: what can't be saved is undone, unless traffic was taken back.
        before: Option<Box<Machine>>,
    },
}

/// What is to be done at once.
pub enum AtOnce {
    TakeBack(RolloutChange),
    Tell(Box<Event>),
}

impl Writes {
    /// Takes what the machine wants since the last time. `asker`: whose command it is.
    pub fn take(
        &mut self,
        machine: &mut Machine,
        asker: Option<&Origin>,
        (route, judged): (&str, Option<&Arc<Judged>>),
    ) -> Vec<AtOnce> {
        let effects: Vec<Effect> = std::iter::from_fn(|| machine.poll_effect()).collect();
        let first = |wanted: fn(&Effect) -> bool| effects.iter().position(wanted).unwrap_or(usize::MAX);
        let urgent = first(|effect| matches!(effect, Effect::SetWeights(_))) < first(|effect| *effect == Effect::Save);
        let event = effects.iter().rev().find_map(|effect| match effect {
            Effect::Tell(event) if event.kind != EventKind::Paused => Some(event.as_ref().clone()),
            _ => None,
        });
        let mut at_once = Vec::new();
        for effect in effects {
            match effect {
                Effect::Save => self.save = true,
                // Looked at with every turn anyway.
                Effect::Check { .. } => {}
                Effect::SetWeights(shares) => {
                    let weighing = weighing(machine, &shares, event.as_ref(), asker);
                    if urgent {
                        at_once.push(AtOnce::TakeBack(RolloutChange {
                            route: route.to_owned(),
                            rollout: Some(Arc::new(live(machine, judged))),
                            weights: Some(weighing.clone()),
                            audit: Vec::new(),
                            epoch: self.epoch.next(),
                        }));
                    }
                    // Also with the save that follows: it changes nothing by then, unless somebody came between.
                    self.weights = Some(weighing);
                }
                Effect::Tell(event) if urgent => at_once.push(AtOnce::Tell(event)),
                Effect::Tell(event) => self.after.push(After::Tell(event)),
                Effect::Call(call) => self.after.push(After::Call(call)),
            }
        }
        at_once
    }

    /// With the next save: a line of the audit log, and an answer.
    pub fn answer(&mut self, line: String, answer: After) {
        self.save = true;
        self.audit.push(line);
        self.after.push(answer);
    }

    pub fn want_save(&mut self) {
        self.save = true;
    }

    /// When to come back for a save that failed.
    pub fn due(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.save && self.under_way.is_none())
    }

    /// What waits for no save. Hooks are called when the record knows of the call, or will with the next save.
    pub fn ready(&mut self) -> Vec<After> {
        match self.save || self.under_way.is_some() {
            true => Vec::new(),
            false => std::mem::take(&mut self.after),
        }
    }

    /// The next save, if one is wanted and none is under way.
    pub fn begin(&mut self, machine: &Machine, judged: Option<&Arc<Judged>>, route: &str) -> Option<RolloutChange> {
        let early = self.retry_at.is_some_and(|at| Instant::now() < at);
        if !self.save || self.under_way.is_some() || early {
            return None;
        }
        self.save = false;
        let batch = Batch {
            weights: self.weights.take(),
            audit: std::mem::take(&mut self.audit),
            after: std::mem::take(&mut self.after),
            epoch: self.epoch.current(),
        };
        let change = RolloutChange {
            route: route.to_owned(),
            rollout: Some(Arc::new(live(machine, judged))),
            weights: batch.weights.clone(),
            audit: batch.audit.clone(),
            epoch: batch.epoch.clone(),
        };
        self.under_way = Some(batch);
        Some(change)
    }

    /// The save has ended; gives what waited for it. One that failed is tried again, but for what people asked for: that is
    /// undone where it can be, and they are told.
    pub fn ended(&mut self, machine: &mut Machine, result: Result<(), StateError>, again: Instant) -> Vec<After> {
        let Some(batch) = self.under_way.take() else { return Vec::new() };
        let Err(error) = result else {
            self.retry_at = None;
            return batch.after;
        };
        // Where another process has the state, the rollout goes on there.
        if !matches!(error, StateError::HandedOver) {
            tracing::error!(%error, "a rollout can't be saved, and goes no further until it can");
        }
        (self.save, self.retry_at) = (true, Some(again));
        let weights = self.weights.take().or(batch.weights);
        // Traffic that was taken back meanwhile is not given again.
        let may_undo = !batch.epoch.is_void();
        let (mut audit, mut after, mut undone) = (batch.audit, Vec::new(), false);
        for one in batch.after {
            match one {
                After::Answer { to, before, .. } => {
                    if let Some(before) = before.filter(|_| may_undo && !undone) {
                        *machine = *before;
                        undone = true;
                    }
                    // The caller may have gone.
                    let _ = to.send(Err(ActError::NotSaved(error.clone())));
                }
                other => after.push(other),
            }
        }
        if undone {
            audit.clear();
            after.clear();
        } else {
            self.weights = weights;
        }
        audit.append(&mut self.audit);
        after.append(&mut self.after);
        (self.audit, self.after) = (audit, after);
        Vec::new()
    }
}

/// A machine as part of its route's live state.
pub fn live(machine: &Machine, judged: Option<&Arc<Judged>>) -> LiveRollout {
    let record = serde_json::to_value(machine.record()).expect("a record is plain data");
    let under_way = !machine.record().phase.is_over();
    LiveRollout { record, under_way, judged: judged.filter(|_| under_way).map(Arc::clone) }
}

fn shares(machine: &Machine, shares: &Shares) -> Vec<(String, Weight)> {
    machine.record().plan.variants.iter().cloned().zip(shares.weights().iter().copied()).collect()
}

/// The weights with who is to stand for them in the history.
fn weighing(machine: &Machine, to: &Shares, event: Option<&Event>, asker: Option<&Origin>) -> Weighing {
    let action = match event.map(|event| event.kind) {
        Some(EventKind::Promoted) => PROMOTE,
        Some(EventKind::RolledBack | EventKind::Dropped) => ROLLBACK,
        _ => ROLLOUT,
    };
    let said = event.map(|event| match (event.kind, event.reason.as_str()) {
        (EventKind::Step, _) => format!("step {} of {}", event.step, event.steps),
        (_, reason) => reason.to_owned(),
    });
    let said = said.filter(|said| !said.is_empty());
    let origin = match asker {
        Some(asker) => Origin { reason: asker.reason.clone().or(said), ..asker.clone() },
        None => Origin { actor: "rollout".to_owned(), source: "weir".to_owned(), reason: said },
    };
    Weighing { shares: shares(machine, to), action, origin }
}
