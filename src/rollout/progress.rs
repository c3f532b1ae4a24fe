//! The way forward: from step to step, and what people do to it.

use super::command::{Command, Order, Refused};
use super::event::EventKind;
use super::machine::{Asked, Effect, Machine, Now};
use super::plan::{Moment, Stay};
use super::record::{PauseKind, Phase};
use super::shares::Shares;
use crate::judge::Share;
use crate::routing::split::Weight;

/// A verdict is stale after so many intervals.
const STALE_INTERVALS: u64 = 2;

impl Machine {
    /// The first asking, of a start and of each retry.
    pub(super) fn begin(&mut self, kind: EventKind, order: &Order, now: Now) {
        self.record.phase = Phase::Starting;
        self.call_all(Moment::BeforeStart);
        self.tell(kind, Some(order), order.reason.clone().unwrap_or_default(), now);
    }

    /// Goes as far as it goes without any more news.
    pub(super) fn settle(&mut self, now: Now) {
        // Each turn is a transition, and of those there are three a step at most.
        for _ in 0..3 * (self.record.plan.steps.len() + 2) {
            if self.record.pause.is_some() || !self.go_on(now) {
                break;
            }
        }
        self.limits(now);
        self.tell_holding(now);
        self.make_calls();
        self.ask_for_check();
    }

    /// A window lasts, and nobody went past it.
    fn is_frozen(&self, now: Now) -> bool {
        !self.record.by_hand && self.record.plan.frozen_until(now.wall_ms).is_some()
    }

    /// One transition, or false.
    fn go_on(&mut self, now: Now) -> bool {
        let frozen = self.is_frozen(now);
        let record = &self.record;
        match record.phase {
            Phase::Starting if self.calls_passed() && !frozen => self.go_past(0, now),
            Phase::Entering if self.calls_passed() && !frozen && (record.by_hand || self.gate_passes()) => {
                self.apply(now);
            }
            Phase::Step if self.is_time_over() && self.gate_passes() && self.calls_passed() && !frozen => {
                self.record.phase = Phase::Leaving;
                self.call_all(Moment::AfterStep);
            }
            Phase::Leaving if self.calls_passed() => self.go_past(record.step + 1, now),
            Phase::Watching if record.clocks.step_ms >= record.plan.keep_old_ms => self.complete(None, now),
            _ => return false,
        }
        self.touched = true;
        true
    }

    /// On to a step, or, after the last before the end, to whoever wins.
    fn go_past(&mut self, next: usize, now: Now) {
        if next >= self.record.plan.steps.len() && self.record.winner().is_none() {
            self.record.phase = Phase::Choosing;
            self.record.calls.clear();
            let reason = format!("which of {} is to get everything?", self.names());
            self.record.reason.clone_from(&reason);
            self.tell(EventKind::Paused, None, reason, now);
            return;
        }
        self.enter(next);
    }

    fn enter(&mut self, next: usize) {
        self.record.next = next;
        self.record.phase = Phase::Entering;
        self.call_all(Moment::BeforeStep);
    }

    /// The step begins that was waited for.
    fn apply(&mut self, now: Now) {
        let record = &mut self.record;
        let is_last = record.next >= record.plan.steps.len();
        let shares = match record.plan.steps.get(record.next) {
            Some(step) => step.weights.without(&record.out),
            None => {
                let winner = record.winner().expect("nobody enters the last step without a winner");
                Shares::all_to(winner, record.plan.variants.len())
            }
        };
        record.step = record.next;
        record.entry += 1;
        (record.by_hand, record.told_holding) = (false, false);
        (record.clocks.step_ms, record.clocks.hold_ms) = (0, 0);
        record.clocks.check_in_ms = record.plan.analysis.map_or(0, |analysis| analysis.interval_ms);
        record.seen.iter_mut().for_each(|seen| *seen = None);
        record.reason.clear();
        record.phase = if is_last { Phase::Watching } else { Phase::Step };
        if is_last {
            record.calls.clear();
        } else {
            self.call_all(Moment::Gate);
        }
        if shares != self.record.weights {
            self.set_weights(shares, false);
        }
        let kind = if is_last { EventKind::Promoted } else { EventKind::Step };
        self.tell(kind, None, String::new(), now);
        if !is_last && self.stay() == Some(Stay::UntilPromoted) {
            self.tell(EventKind::Paused, None, "waits to be promoted".to_owned(), now);
        }
    }

    pub(super) fn complete(&mut self, order: Option<&Order>, now: Now) {
        self.record.phase = Phase::Promoted;
        self.record.pause = None;
        self.record.calls.clear();
        self.tell(EventKind::Finished, order, String::new(), now);
    }

    pub(super) fn stay(&self) -> Option<Stay> {
        self.record.plan.steps.get(self.record.step).map(|step| step.stay)
    }

    fn is_time_over(&self) -> bool {
        matches!(self.stay(), Some(Stay::For { ms }) if self.record.clocks.step_ms >= ms)
    }

    /// Nothing but the plan and its gates is waited for, no person.
    pub(super) fn is_working(&self) -> bool {
        match self.record.phase {
            Phase::Starting | Phase::Entering | Phase::Leaving => true,
            Phase::Step => self.stay() != Some(Stay::UntilPromoted),
            _ => false,
        }
    }

    /// Of the milliseconds that passed, those in which something was waited for past the step's time.
    pub(super) fn held_of(&self, ms: u64) -> u64 {
        match self.record.phase {
            Phase::Starting | Phase::Entering | Phase::Leaving => ms,
            Phase::Step if self.is_working() => ms.saturating_sub(self.step_left_ms().unwrap_or(0)),
            _ => 0,
        }
    }

    /// Every candidate that has users passed in this step, and not too long ago.
    pub(super) fn gate_passes(&self) -> bool {
        self.holding_candidate().is_none()
    }

    fn holding_candidate(&self) -> Option<usize> {
        let record = &self.record;
        let stale_ms = STALE_INTERVALS * record.plan.analysis?.interval_ms;
        let passed = |variant: &usize| {
            let seen = record.seen[*variant].as_ref();
            seen.is_some_and(|seen| seen.passed && seen.age_ms <= stale_ms)
        };
        let has_users = |variant: &usize| record.weights.of(*variant) > Weight::ZERO;
        record.candidates().filter(has_users).find(|variant| !passed(variant))
    }

    /// What is waited for past the step's time, in words.
    pub(super) fn holding(&self, frozen: bool) -> Option<String> {
        if frozen {
            return Some("a freeze window lasts".to_owned());
        }
        if let Some(call) = self.holding_call() {
            return Some(call);
        }
        let variant = self.holding_candidate()?;
        let name = self.record.plan.name_of(variant);
        Some(match &self.record.seen[variant] {
            Some(seen) if !seen.passed => format!("{name}: {}", seen.deciding.reason),
            Some(_) => format!("{name}: no new verdict"),
            None => format!("{name}: no verdict yet"),
        })
    }

    /// Once a step, when the next verdict after its time has not let it go on.
    fn tell_holding(&mut self, now: Now) {
        let frozen = self.is_frozen(now);
        let record = &self.record;
        let first_ms = record.plan.analysis.map_or(0, |analysis| analysis.interval_ms);
        let held = self.is_working() && (record.clocks.hold_ms > first_ms || frozen && self.step_left_ms().is_none());
        if !held || record.told_holding || record.pause.is_some() {
            return;
        }
        let Some(reason) = self.holding(frozen) else { return };
        let deciding = self.holding_candidate().and_then(|variant| self.record.seen[variant].clone());
        self.record.told_holding = true;
        self.record.reason.clone_from(&reason);
        self.tell_deciding(EventKind::Holding, None, reason, deciding.map(|seen| seen.deciding), now);
    }

    fn ask_for_check(&mut self) {
        let Some(analysis) = self.record.plan.analysis else { return };
        if !self.is_judged() || self.record.clocks.check_in_ms > 0 {
            return;
        }
        self.record.clocks.check_in_ms = analysis.interval_ms;
        let candidates = self.asked();
        self.staged.push(Effect::Check { stamp: self.stamp(), candidates });
    }

    /// Whom to judge at present, by what shares.
    pub fn asked(&self) -> Vec<Asked> {
        let record = &self.record;
        let next = match record.plan.steps.get(record.step + 1) {
            Some(step) => step.weights.without(&record.out),
            None => Shares::all_to(record.winner().unwrap_or(0), record.plan.variants.len()),
        };
        let asked = |variant: usize| {
            let weight = beside_baseline(&record.weights, variant)?;
            let next = beside_baseline(&next, variant).unwrap_or(Share::FULL);
            (record.weights.of(variant) > Weight::ZERO).then_some(Asked { variant, weight, next })
        };
        record.candidates().filter_map(asked).collect()
    }

    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.record.candidates().map(|variant| self.record.plan.name_of(variant)).collect();
        names.join(", ")
    }

    pub(super) fn pause_asked(&mut self, kind: PauseKind, order: &Order, now: Now) -> Result<(), Refused> {
        match (&self.record.pause, self.is_over()) {
            (_, true) => return Err(Refused::Over(self.record.phase)),
            (Some(_), _) if kind == PauseKind::Asked => return Err(Refused::Paused),
            _ => {}
        }
        let reason = order.reason.clone().unwrap_or_else(|| match kind {
            PauseKind::Shifted => "weights were shifted by hand".to_owned(),
            _ => "asked for".to_owned(),
        });
        self.pause(kind, reason.clone());
        self.tell(EventKind::Paused, Some(order), reason, now);
        Ok(())
    }

    pub(super) fn resume(&mut self, order: &Order, now: Now) -> Result<(), Refused> {
        if self.is_over() {
            return Err(Refused::Over(self.record.phase));
        }
        let Some(pause) = self.record.pause.take() else { return Err(Refused::NotPaused) };
        self.record.clocks.hold_ms = 0;
        match pause.kind {
            PauseKind::Asked => {}
            PauseKind::Shifted => {
                let shares = self.record.weights.clone();
                self.set_weights(shares, false);
            }
            PauseKind::MaxHold | PauseKind::MaxTime => self.record.clocks.total_ms = 0,
            PauseKind::Failure => self.forget(),
        }
        self.record.reason.clear();
        self.tell(EventKind::Resumed, Some(order), order.reason.clone().unwrap_or_default(), now);
        Ok(())
    }

    /// The evidence so far counts no more.
    fn forget(&mut self) {
        self.record.run += 1;
        self.record.seen.iter_mut().for_each(|seen| *seen = None);
        self.record.clocks.total_ms = 0;
    }

    pub(super) fn promote(&mut self, full: bool, to: Option<usize>, order: &Order, now: Now) -> Result<(), Refused> {
        let record = &self.record;
        let frozen = record.plan.frozen_until(now.wall_ms);
        match (record.phase, frozen, self.holding_call()) {
            (phase, ..) if phase.is_over() => return Err(Refused::Over(phase)),
            (Phase::Watching, ..) if !full => return Err(Refused::Watching),
            (Phase::Watching, ..) => {
                self.complete(Some(order), now);
                return Ok(());
            }
            (_, Some(until_ms), _) if !order.force => return Err(Refused::Frozen { until_ms }),
            (Phase::Starting | Phase::Entering, _, Some(call)) if !order.force => return Err(Refused::Waiting(call)),
            _ => {}
        }
        let count = record.plan.variants.len();
        if to.is_some_and(|to| to == 0 || to >= count || record.out[to]) {
            return Err(Refused::NoCandidate);
        }
        let next = match record.phase {
            _ if full => record.plan.steps.len(),
            Phase::Starting | Phase::Entering => record.next,
            _ => record.step + 1,
        };
        if next >= record.plan.steps.len() && to.or(record.winner()).is_none() {
            return Err(Refused::Which(self.names()));
        }
        self.record.chosen = to.or(self.record.chosen);
        self.record.by_hand = true;
        if self.record.pause.take().is_some_and(|pause| pause.kind == PauseKind::Failure) {
            self.forget();
        }
        self.enter(next);
        if order.force {
            self.record.calls.clear();
        }
        self.touched = true;
        Ok(())
    }

    pub(super) fn retry(&mut self, order: &Order, now: Now) -> Result<(), Refused> {
        if self.record.phase != Phase::RolledBack {
            return Err(match self.is_over() {
                true => Refused::Over(self.record.phase),
                false => Refused::UnderWay(self.record.phase),
            });
        }
        if let Some(until_ms) = self.record.plan.frozen_until(now.wall_ms).filter(|_| !order.force) {
            return Err(Refused::Frozen { until_ms });
        }
        let record = &mut self.record;
        record.out.iter_mut().for_each(|out| *out = false);
        record.exposure.iter_mut().for_each(|exposure| *exposure = Default::default());
        (record.step, record.next, record.chosen) = (0, 0, None);
        record.clocks = Default::default();
        (record.by_hand, record.told_holding) = (order.force, false);
        record.reason.clear();
        self.forget();
        self.begin(EventKind::Retried, order, now);
        Ok(())
    }
}

/// The share of a variant in what it and the baseline have; None where neither has anything.
fn beside_baseline(shares: &Shares, variant: usize) -> Option<Share> {
    let (candidate, baseline) = (shares.of(variant).thousandths(), shares.baseline().thousandths());
    match candidate + baseline {
        0 => None,
        both => Share::new(f64::from(candidate) / f64::from(both)),
    }
}

impl Command {
    /// The next step, whatever the gate says.
    pub const PROMOTE: Command = Command::Promote { full: false, to: None };
}
