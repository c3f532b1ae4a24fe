//! What a rollout of one candidate without hooks should do, as plainly as can be said: no effects, no queue, no clocks
//! beside three counters.

use weir::judge::Verdict;

pub const STEP_CREDIT_MS: u64 = 5_000;

#[derive(Clone, Debug)]
pub struct Plain {
    /// Percent of the candidate, and for how long; None: until promoted.
    pub steps: Vec<(u32, Option<u64>)>,
    pub keep_old_ms: u64,
    pub interval_ms: Option<u64>,
    pub pause_on_failure: bool,
    /// And whether it then only pauses.
    pub max_hold: Option<(u64, bool)>,
    /// From and to, in wall time.
    pub frozen: Vec<(u64, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Baseline,
    Step(usize),
    Watch,
    Promoted,
    Back,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Asked,
    Held,
    Failed,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub plan: Plain,
    pub at: At,
    pub spent_ms: u64,
    pub held_ms: u64,
    pub paused: Option<Why>,
    /// How old the last verdict is, if it passed.
    pub passed_ms_ago: Option<u64>,
    /// A person moved it past the gate, and a window keeps nobody.
    pub by_hand: bool,
}

impl Model {
    pub fn new(plan: Plain) -> Model {
        let at = At::Baseline;
        Model { plan, at, spent_ms: 0, held_ms: 0, paused: None, passed_ms_ago: None, by_hand: false }
    }

    pub fn percent(&self) -> u32 {
        match self.at {
            At::Baseline | At::Back => 0,
            At::Step(step) => self.plan.steps[step].0,
            At::Watch | At::Promoted => 100,
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.at, At::Promoted | At::Back)
    }

    pub fn is_frozen(&self, wall_ms: u64) -> bool {
        self.plan.frozen.iter().any(|(from, to)| (*from..*to).contains(&wall_ms))
    }

    pub fn time(&mut self, ms: u64, wall_ms: u64) {
        let ms = ms.min(STEP_CREDIT_MS);
        let frozen = self.is_frozen(wall_ms);
        if let Some(ago) = &mut self.passed_ms_ago {
            *ago += ms;
        }
        if self.paused.is_some() || self.is_over() {
            return;
        }
        if let At::Step(step) = self.at
            && let Some(whole) = self.plan.steps[step].1
            && !frozen
        {
            self.held_ms += ms.saturating_sub(whole.saturating_sub(self.spent_ms));
        }
        self.spent_ms += ms;
    }

    /// As far as it goes.
    pub fn settle(&mut self, wall_ms: u64) {
        while self.paused.is_none() && !self.is_over() {
            let frozen = self.is_frozen(wall_ms) && !self.by_hand;
            let next = match self.at {
                At::Baseline if !frozen => self.after(0),
                At::Step(step) if self.may_leave(step) && !frozen => self.after(step + 1),
                At::Watch if self.spent_ms >= self.plan.keep_old_ms => At::Promoted,
                _ => break,
            };
            self.go(next);
        }
        if let (Some((most, pauses)), At::Step(_), None) = (self.plan.max_hold, self.at, self.paused)
            && self.held_ms > 0
            && self.held_ms >= most
        {
            match pauses {
                true => self.paused = Some(Why::Held),
                false => self.go(At::Back),
            }
        }
    }

    fn may_leave(&self, step: usize) -> bool {
        let fresh = |interval| self.passed_ms_ago.is_some_and(|ago| ago <= 2 * interval);
        let time_over = self.plan.steps[step].1.is_some_and(|whole| self.spent_ms >= whole);
        time_over && (self.percent() == 0 || self.plan.interval_ms.is_none_or(fresh))
    }

    fn after(&self, step: usize) -> At {
        if step < self.plan.steps.len() { At::Step(step) } else { At::Watch }
    }

    pub fn go(&mut self, at: At) {
        if at == At::Back {
            self.paused = None;
        }
        if at != At::Promoted {
            (self.spent_ms, self.held_ms) = (0, 0);
        }
        (self.at, self.passed_ms_ago, self.by_hand) = (at, None, false);
    }

    pub fn verdict(&mut self, verdict: Verdict, of_this_step: bool) {
        match verdict {
            _ if self.is_over() => {}
            Verdict::Fail if self.plan.pause_on_failure => self.paused = Some(Why::Failed),
            Verdict::Fail => self.go(At::Back),
            Verdict::Pass if of_this_step => self.passed_ms_ago = Some(0),
            Verdict::Hold if of_this_step => self.passed_ms_ago = None,
            _ => {}
        }
    }

    /// Whether there was a pause.
    pub fn resume(&mut self) -> bool {
        let Some(why) = self.paused.take() else { return false };
        self.held_ms = 0;
        if why == Why::Failed {
            self.passed_ms_ago = None;
        }
        true
    }

    /// Whether it was allowed.
    pub fn promote(&mut self, full: bool, force: bool, wall_ms: u64) -> bool {
        if self.is_over() || (self.at == At::Watch && !full) {
            return false;
        }
        if self.at == At::Watch {
            self.paused = None;
            self.go(At::Promoted);
            return true;
        }
        if self.is_frozen(wall_ms) && !force {
            return false;
        }
        let next = match self.at {
            _ if full => At::Watch,
            At::Step(step) => self.after(step + 1),
            _ => self.after(0),
        };
        self.paused = None;
        self.go(next);
        true
    }
}
