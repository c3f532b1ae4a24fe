//! Those who are asked before it goes on: webhooks, smoke requests.

use super::machine::{Answer, CallId, Effect, Machine, Now};
use super::plan::Moment;
use super::record::{Call, Phase};

/// From an answer that was not enough to the next call, where no analysis has an interval.
const AGAIN_MS: u64 = 10_000;
/// A gate's answer is stale after so many intervals; a webhook may take one to answer.
const STALE_INTERVALS: u64 = 3;

/// What was under way is asked anew; what had passed at a gate counts no more.
pub(super) fn ask_anew(call: &mut Call) {
    call.under_way = None;
    call.again_in_ms = 0;
}

/// In how long a call is to be made.
pub(super) fn due_in(calls: &[Call]) -> u64 {
    let waiting = calls.iter().filter(|call| call.under_way.is_none() && call.is_wanted());
    waiting.map(|call| call.again_in_ms).min().unwrap_or(u64::MAX)
}

pub(super) fn gather(calls: &mut [Call], ms: u64) {
    for call in calls {
        call.again_in_ms = call.again_in_ms.saturating_sub(ms);
        if let Some(ago) = &mut call.passed_ms_ago {
            *ago += ms;
        }
    }
}

impl Call {
    fn of(hook: usize, again: bool) -> Call {
        Call {
            hook,
            under_way: None,
            passed_ms_ago: None,
            failures: 0,
            again_in_ms: if again { 0 } else { u64::MAX },
            last: String::new(),
        }
    }

    /// It has not passed, or is asked again and again.
    fn is_wanted(&self) -> bool {
        self.again_in_ms < u64::MAX
    }
}

impl Machine {
    /// Begins to ask those of a moment, and forgets all others.
    pub(super) fn call_all(&mut self, moment: Moment) {
        let calls = self.record.plan.hooks_on(moment).map(|hook| Call::of(hook, true)).collect();
        self.record.calls = calls;
    }

    /// Makes the calls that are due.
    pub(super) fn make_calls(&mut self) {
        if self.record.pause.is_some() || self.is_over() {
            return;
        }
        let record = &mut self.record;
        for call in &mut record.calls {
            if call.under_way.is_none() && call.again_in_ms == 0 {
                let number = record.next_call;
                record.next_call += 1;
                call.under_way = Some(number);
                self.staged.push(Effect::Call(CallId { number, hook: call.hook }));
                self.touched = true;
            }
        }
    }

    pub(super) fn answered(&mut self, id: CallId, answer: Answer, now: Now) {
        let again_ms = self.again_ms();
        let again_and_again = self.record.phase == Phase::Step;
        let Some(call) = self.record.calls.iter_mut().find(|call| call.under_way == Some(id.number)) else { return };
        call.under_way = None;
        call.again_in_ms = again_ms;
        let hook = &self.record.plan.hooks[call.hook];
        match answer {
            Answer::Pass => {
                (call.passed_ms_ago, call.failures) = (Some(0), 0);
                call.last.clear();
                if !again_and_again {
                    call.again_in_ms = u64::MAX;
                }
            }
            Answer::Hold(why) => (call.passed_ms_ago, call.last) = (None, why),
            Answer::Fail(why) => {
                call.failures += 1;
                call.passed_ms_ago = None;
                call.last.clone_from(&why);
                if call.failures >= hook.failures.max(1) {
                    let reason = format!("{} failed: {why}", hook.name);
                    // After a pause for it, it begins to count anew.
                    call.failures = 0;
                    self.refused_by_hook(reason, now);
                }
            }
        }
        self.touched = true;
    }

    /// All that are asked once have passed; those of a gate, not too long ago.
    pub(super) fn calls_passed(&self) -> bool {
        self.holding_call().is_none()
    }

    /// Who has not passed, in words.
    pub(super) fn holding_call(&self) -> Option<String> {
        let stale_ms = match self.record.phase {
            Phase::Step => STALE_INTERVALS * self.again_ms(),
            _ => u64::MAX,
        };
        let holds = |call: &&Call| call.passed_ms_ago.is_none_or(|ago| ago > stale_ms);
        self.record.calls.iter().find(holds).map(|call| {
            let name = &self.record.plan.hooks[call.hook].name;
            match call.last.as_str() {
                "" => format!("{name}: no answer yet"),
                last => format!("{name}: {last}"),
            }
        })
    }

    fn again_ms(&self) -> u64 {
        self.record.plan.analysis.map_or(AGAIN_MS, |analysis| analysis.interval_ms)
    }
}
