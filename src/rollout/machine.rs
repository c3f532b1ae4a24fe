//! The machine's doors: what comes in, what is to be done, when it wants to be woken.

use super::calls;
use super::command::{Command, Order, Refused, StartError};
use super::event::{Deciding, Event, EventKind};
use super::plan::{Plan, PlanError, Stay};
use super::record::{Clocks, Pause, PauseKind, Phase, Record, Seen};
use super::shares::Shares;
use super::{OUTBOX, SAVE_MS, WAKE_MS};
use crate::judge::{Judgement, Share, Tally, Verdict};
use std::collections::VecDeque;

/// What time it is, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds by a clock that goes on steadily while this process runs.
    pub mono_ms: u64,
    /// Milliseconds since 1970, as the calendar has it; may jump.
    pub wall_ms: u64,
}

/// Which evidence a verdict rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Judges begin anew with each run.
    pub run: u32,
    pub entry: u32,
}

/// To be done, in the order in which they come.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make [`Machine::record`] durable; what follows must not be seen before. After a crash that forgets it, what came
    /// before it is done again, or harmless.
    Save,
    /// Publish. Comes before [`Effect::Save`] where traffic is taken back, which waits for no disk.
    SetWeights(Shares),
    /// Judge these, and tell [`Machine::handle_verdict`]. More checks than those asked for are welcome.
    Check { stamp: Stamp, candidates: Vec<Asked> },
    /// Ask, and tell [`Machine::handle_answer`] within the hook's own deadline, whatever becomes of it.
    Call(CallId),
    /// Tell whoever wants to know, and [`Machine::handle_told`] once that is certain.
    Tell(Box<Event>),
}

/// A candidate to be judged, and the shares that the judge needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    /// Index into the plan's variants.
    pub variant: usize,
    /// Of the traffic that it and the baseline have.
    pub weight: Share,
    /// The same after the next step.
    pub next: Share,
}

/// One call of a hook; the number is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallId {
    pub number: u64,
    /// Index into the plan's hooks.
    pub hook: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Pass,
    Fail(String),
    /// Neither: a time-out, a connection refused, "not yet". Asked again.
    Hold(String),
}

/// One rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    pub(super) record: Record,
    pub(super) last_mono_ms: u64,
    /// Of the call that is being handled: the record is to be saved.
    pub(super) touched: bool,
    pub(super) staged: Vec<Effect>,
    /// Weights that take traffic back; they come before all that is staged.
    urgent: Option<Shares>,
    effects: VecDeque<Effect>,
}

impl Machine {
    /// Begins; the baseline has everything from now on, until the first step.
    pub fn start(plan: Plan, order: &Order, now: Now) -> Result<Machine, StartError> {
        plan.check()?;
        if let Some(until_ms) = plan.frozen_until(now.wall_ms).filter(|_| !order.force) {
            return Err(StartError::Refused(Refused::Frozen { until_ms }));
        }
        let count = plan.variants.len();
        let record = Record {
            weights: plan.baseline_shares(),
            plan,
            phase: Phase::Starting,
            step: 0,
            next: 0,
            out: vec![false; count],
            pause: None,
            reason: String::new(),
            started_by: order.by.clone(),
            run: 1,
            entry: 0,
            chosen: None,
            by_hand: order.force,
            told_holding: false,
            clocks: Clocks::default(),
            seen: vec![None; count],
            calls: Vec::new(),
            next_call: 1,
            exposure: vec![Default::default(); count],
            outbox: VecDeque::new(),
            next_event: 1,
        };
        let mut machine = Machine::of(record, now);
        let shares = machine.record.weights.clone();
        machine.set_weights(shares, false);
        machine.begin(EventKind::Started, order, now);
        machine.finish(now);
        Ok(machine)
    }

    /// Goes on from a record, after a crash or in another process.
    pub fn restore(record: Record, now: Now) -> Result<Machine, PlanError> {
        record.check()?;
        let mut machine = Machine::of(record, now);
        let record = &mut machine.record;
        // What was judged before says nothing of what is served now.
        record.seen.iter_mut().for_each(|seen| *seen = None);
        record.calls.iter_mut().for_each(calls::ask_anew);
        record.clocks.check_in_ms = record.plan.analysis.map_or(0, |analysis| analysis.interval_ms);
        let told: Vec<Event> = record.outbox.iter().cloned().collect();
        // The weights of somebody's shift are in the live state, not here; and so is whatever came after the end.
        let is_shifted = machine.record.pause.as_ref().is_some_and(|pause| pause.kind == PauseKind::Shifted);
        if !is_shifted && !machine.is_over() {
            machine.staged.push(Effect::SetWeights(machine.record.weights.clone()));
        }
        machine.staged.extend(told.into_iter().map(Box::new).map(Effect::Tell));
        machine.finish(now);
        Ok(machine)
    }

    fn of(record: Record, now: Now) -> Machine {
        Machine {
            record,
            last_mono_ms: now.mono_ms,
            touched: false,
            staged: Vec::new(),
            urgent: None,
            effects: VecDeque::new(),
        }
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    /// What a verdict that is made now is to be stamped with.
    pub fn stamp(&self) -> Stamp {
        Stamp { run: self.record.run, entry: self.record.entry }
    }

    /// Time has passed, nothing else.
    pub fn handle_tick(&mut self, now: Now) {
        self.gather(now);
        self.finish(now);
    }

    /// What the judge says of a candidate. Verdicts of an earlier run are dropped, and so are those of an earlier step, but
    /// for failures.
    pub fn handle_verdict(&mut self, stamp: Stamp, variant: usize, judgement: &Judgement, now: Now) {
        self.gather(now);
        let is_in = variant > 0 && self.record.out.get(variant) == Some(&false);
        if self.is_over() || !is_in || stamp.run != self.record.run {
            return self.finish(now);
        }
        let deciding = Deciding::of(self.record.plan.name_of(variant), judgement);
        match judgement.verdict {
            Verdict::Fail => self.failed(variant, deciding, now),
            verdict if stamp.entry == self.record.entry => {
                let passed = verdict == Verdict::Pass;
                self.record.seen[variant] = Some(Seen { passed, age_ms: 0, deciding });
            }
            _ => {}
        }
        self.finish(now);
    }

    /// What a hook answered to a call. Of calls that nobody waits for any more it is dropped.
    pub fn handle_answer(&mut self, call: CallId, answer: Answer, now: Now) {
        self.gather(now);
        if !self.is_over() {
            self.answered(call, answer, now);
        }
        self.finish(now);
    }

    /// What a candidate and the baseline had since the last time, for the exposure budget; of run `run`.
    pub fn handle_counts(&mut self, run: u32, variant: usize, candidate: Tally, baseline: Tally, now: Now) {
        self.gather(now);
        let is_in = variant > 0 && self.record.out.get(variant) == Some(&false);
        if !self.is_over() && is_in && run == self.record.run {
            self.exposed(variant, candidate, baseline, now);
        }
        self.finish(now);
    }

    /// An event needs no telling any more.
    pub fn handle_told(&mut self, event: u64) {
        self.record.outbox.retain(|one| one.number != event);
    }

    pub fn handle_command(&mut self, command: Command, order: &Order, now: Now) -> Result<(), Refused> {
        self.gather(now);
        let done = match command {
            Command::Pause => self.pause_asked(PauseKind::Asked, order, now),
            Command::Shifted => self.pause_asked(PauseKind::Shifted, order, now),
            Command::Resume => self.resume(order, now),
            Command::Promote { full, to } => self.promote(full, to, order, now),
            Command::Abort => self.abort(order, now),
            Command::Retry => self.retry(order, now),
            Command::Undo => self.undo(order, now),
        };
        self.finish(now);
        done
    }

    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to call [`Machine::handle_tick`] at the latest, by the steady clock; None: it is over.
    pub fn poll_timeout(&self) -> Option<u64> {
        let record = &self.record;
        if record.phase.is_over() {
            return None;
        }
        let mut wait = WAKE_MS.min(SAVE_MS.saturating_sub(record.clocks.unsaved_ms));
        if self.is_judged() {
            wait = wait.min(record.clocks.check_in_ms);
        }
        if record.pause.is_none() {
            wait = wait.min(calls::due_in(&record.calls));
            if let Some(left_ms) = self.step_left_ms() {
                wait = wait.min(left_ms);
            }
            if let Some(limit) = record.plan.max_hold.filter(|_| record.clocks.hold_ms > 0) {
                wait = wait.min(limit.after_ms.saturating_sub(record.clocks.hold_ms));
            }
        }
        Some(self.last_mono_ms + wait.max(1))
    }

    pub(super) fn is_over(&self) -> bool {
        self.record.phase.is_over()
    }

    /// What is left of the step's or the watch's time; None when it is over, and where none runs.
    pub(super) fn step_left_ms(&self) -> Option<u64> {
        let record = &self.record;
        let whole = match (record.phase, record.plan.steps.get(record.step).map(|step| step.stay)) {
            (Phase::Watching, _) => record.plan.keep_old_ms,
            (Phase::Step, Some(Stay::For { ms })) => ms,
            _ => return None,
        };
        whole.checked_sub(record.clocks.step_ms).filter(|left| *left > 0)
    }

    /// Some candidate has users, and verdicts on it matter.
    pub(super) fn is_judged(&self) -> bool {
        let record = &self.record;
        record.plan.analysis.is_some()
            && !record.phase.is_over()
            && record.candidates().any(|variant| record.weights.of(variant).thousandths() > 0)
    }

    /// Adds the time since the last call to all clocks that run, [`SAVE_MS`] at most.
    fn gather(&mut self, now: Now) {
        let ms = now.mono_ms.saturating_sub(self.last_mono_ms).min(SAVE_MS);
        self.last_mono_ms = now.mono_ms;
        if self.is_over() {
            return;
        }
        let frozen = self.record.plan.frozen_until(now.wall_ms).is_some();
        let paused = self.record.pause.is_some();
        let judged = self.is_judged();
        let waited_ms = if paused || frozen { 0 } else { self.held_of(ms) };
        let counts_total = !paused && !frozen && self.is_working();
        let record = &mut self.record;
        let clocks = &mut record.clocks;
        if judged {
            clocks.check_in_ms = clocks.check_in_ms.saturating_sub(ms);
        }
        clocks.unsaved_ms += ms;
        clocks.hold_ms += waited_ms;
        if counts_total {
            clocks.total_ms += ms;
        }
        if !paused {
            if matches!(record.phase, Phase::Step | Phase::Watching) {
                clocks.step_ms += ms;
            }
            calls::gather(&mut record.calls, ms);
        }
        record.seen.iter_mut().flatten().for_each(|seen| seen.age_ms += ms);
    }

    /// Settles what time and news bring, and puts the effects in order.
    fn finish(&mut self, now: Now) {
        self.settle(now);
        if self.record.clocks.unsaved_ms >= SAVE_MS && !self.is_over() {
            self.touched = true;
        }
        let staged = std::mem::take(&mut self.staged);
        let save = std::mem::take(&mut self.touched);
        self.effects.extend(self.urgent.take().map(Effect::SetWeights));
        if save {
            self.record.clocks.unsaved_ms = 0;
            self.effects.push_back(Effect::Save);
        }
        self.effects.extend(staged);
    }

    /// `back`: what else this call wanted to publish is void.
    pub(super) fn set_weights(&mut self, shares: Shares, back: bool) {
        self.record.weights = shares.clone();
        self.touched = true;
        if back {
            self.staged.retain(|effect| !matches!(effect, Effect::SetWeights(_)));
            self.urgent = Some(shares);
        } else {
            self.staged.push(Effect::SetWeights(shares));
        }
    }

    pub(super) fn tell(&mut self, kind: EventKind, by: Option<&Order>, reason: String, now: Now) {
        self.tell_deciding(kind, by, reason, None, now);
    }

    pub(super) fn tell_deciding(
        &mut self,
        kind: EventKind,
        by: Option<&Order>,
        reason: String,
        deciding: Option<Deciding>,
        now: Now,
    ) {
        let record = &mut self.record;
        let step = match record.phase {
            Phase::Starting => 0,
            _ if record.entry == 0 => 0,
            _ => record.step + 1,
        };
        let event = Event {
            number: record.next_event,
            wall_ms: now.wall_ms,
            kind,
            step,
            steps: record.plan.steps.len() + 1,
            weights: record.weights.clone(),
            by: by.map(|order| order.by.clone()),
            reason,
            deciding,
        };
        record.next_event += 1;
        record.outbox.push_back(event.clone());
        while record.outbox.len() > OUTBOX {
            record.outbox.pop_front();
        }
        self.staged.push(Effect::Tell(Box::new(event)));
        self.touched = true;
    }

    pub(super) fn pause(&mut self, kind: PauseKind, reason: String) {
        self.record.reason.clone_from(&reason);
        self.record.pause = Some(Pause { kind, reason });
        self.touched = true;
    }
}
