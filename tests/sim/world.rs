//! Who drives the machine, with a disk that forgets what was not saved.

use std::collections::VecDeque;
use weir::judge::{Cause, Judgement, MetricVerdict, Unit, Verdict};
use weir::rollout::{CallId, Effect, Event, Machine, Now, Order, Plan, Record, Shares, Stamp};

pub struct World {
    pub machine: Machine,
    pub now: Now,
    /// The record on disk, as text.
    pub disk: String,
    /// What the proxy splits by.
    pub live: Shares,
    /// All weights that were ever live, in order.
    pub visited: Vec<Shares>,
    pub checks: VecDeque<Stamp>,
    pub calls: VecDeque<CallId>,
    pub told: Vec<Event>,
    pub saves: usize,
}

/// Wednesday, 21 January 1970, 00:00 UTC.
pub const WEDNESDAY_MS: u64 = 20 * 86_400_000;

impl World {
    pub fn start(plan: Plan, wall_ms: u64) -> World {
        let now = Now { mono_ms: 1_000_000, wall_ms };
        let machine = Machine::start(plan, &Order::by("test"), now).expect("the plan is good and nothing is frozen");
        let live = machine.record().plan.baseline_shares();
        let mut world = World {
            machine,
            now,
            disk: String::new(),
            live: live.clone(),
            visited: vec![live],
            checks: VecDeque::new(),
            calls: VecDeque::new(),
            told: Vec::new(),
            saves: 0,
        };
        world.drain(usize::MAX);
        world
    }

    /// Does what is to be done, at most `most` of it; false if there was more.
    pub fn drain(&mut self, most: usize) -> bool {
        for _ in 0..most {
            match self.machine.poll_effect() {
                None => return true,
                Some(Effect::Save) => {
                    self.saves += 1;
                    self.disk = serde_json::to_string(self.machine.record()).expect("records are plain data");
                }
                Some(Effect::SetWeights(shares)) => {
                    if shares != self.live {
                        self.visited.push(shares.clone());
                    }
                    self.live = shares;
                }
                Some(Effect::Check { stamp, .. }) => self.checks.push_back(stamp),
                Some(Effect::Call(call)) => self.calls.push_back(call),
                Some(Effect::Tell(event)) => {
                    self.machine.handle_told(event.number);
                    self.told.push(*event);
                }
            }
        }
        self.machine.poll_effect().is_none()
    }

    /// Another process, after `down_ms`, with another steady clock.
    pub fn crash(&mut self, down_ms: u64) {
        let record: Record = serde_json::from_str(&self.disk).expect("what was written can be read");
        self.now.mono_ms = 77_777 + self.now.mono_ms % 1000;
        self.now.wall_ms += down_ms;
        self.machine = Machine::restore(record, self.now).expect("what was saved holds together");
        self.checks.clear();
        self.calls.clear();
        self.drain(usize::MAX);
    }

    pub fn pass_ms(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
    }

    /// To the next moment that the machine asked for; false if it is over.
    pub fn tick(&mut self) -> bool {
        let Some(at) = self.machine.poll_timeout() else { return false };
        assert!(at > self.now.mono_ms, "the machine wants to be woken in the past");
        self.pass_ms(at - self.now.mono_ms);
        self.machine.handle_tick(self.now);
        self.drain(usize::MAX);
        true
    }
}

pub fn judgement(verdict: Verdict) -> Judgement {
    let cause = match verdict {
        Verdict::Pass => Cause::Harmless,
        Verdict::Hold => Cause::TooFew,
        Verdict::Fail => Cause::Proven,
    };
    let metric = MetricVerdict {
        name: "error-rate".to_owned(),
        verdict,
        cause,
        unit: Unit::Share,
        candidate: Some(0.25),
        baseline: Some(0.125),
        limit: Some(0.1875),
        samples: 1000,
        needs: None,
        reason: format!("{verdict:?}"),
    };
    Judgement { verdict, reason: metric.reason.clone(), metrics: vec![metric], alarm: None }
}
