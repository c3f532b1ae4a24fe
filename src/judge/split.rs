//! Whether the candidate's share of the requests is its weight: an alarm about the split, never a verdict on the
//! candidate. A candidate that gets none of its requests looks flawless.

use super::evidence::{StartMix, Tally, log_e_alone};
use super::words::percent;

/// What a share may differ from its weight, up or down, before it is evidence: connections that outlive a change of
/// weights, retries.
const TOLERATED: f64 = 0.1;

/// One in a hundred rollouts may alarm, both directions together.
const LOG_ALARM: f64 = 5.298_317_366_548_037;

#[derive(Clone, Debug)]
pub(super) struct Split {
    more: StartMix<2>,
    less: StartMix<2>,
    /// Of the step: all requests, and the candidate's.
    step: Tally,
}

impl Split {
    pub fn new() -> Split {
        Split { more: StartMix::new([0.5; 2]), less: StartMix::new([0.5; 2]), step: Tally::default() }
    }

    /// A check in which the weight changed has requests of both weights: it is left out.
    pub fn changed(&mut self) {
        self.step = Tally::default();
    }

    pub fn check(&mut self, candidate: u64, baseline: u64, weight: f64, seconds: f64) -> Option<String> {
        let tally = Tally { total: candidate.saturating_add(baseline), bad: candidate };
        if weight > 0.0 && weight < 1.0 && tally.total > 0 {
            let (high, low) = (weight * (1.0 + TOLERATED), weight * (1.0 - TOLERATED));
            if high < 1.0 {
                let rates = [1.3, 2.0].map(|multiple| (multiple * weight).min(0.5 + 0.5 * high));
                self.more.update(rates.map(|rate| log_e_alone(tally, high, rate)), seconds);
            }
            self.less.update([0.7, 0.3].map(|multiple| log_e_alone(tally, low, multiple * weight)), seconds);
            self.step = self.step.plus(tally);
        }
        let alarming = self.more.log_e().max(self.less.log_e()) >= LOG_ALARM;
        let share = self.step.share()?;
        alarming.then(|| {
            let (share, weight) = (percent(share), percent(weight));
            format!("the split is off: {share} of this step's requests instead of {weight}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_that_is_not_the_weight_alarms_and_one_that_is_does_not() {
        let alarms = |weight: f64, candidate: u64, baseline: u64| {
            let mut split = Split::new();
            (0..500).find_map(|_| split.check(candidate, baseline, weight, 1.0))
        };
        for weight in [0.05, 0.5, 0.95] {
            let candidate = (weight * 1000.0) as u64;
            assert_eq!(alarms(weight, candidate, 1000 - candidate), None);
        }
        assert_eq!(alarms(0.05, 0, 100).unwrap(), "the split is off: 0 % of this step's requests instead of 5 %");
        assert!(alarms(0.05, 10, 90).is_some() && alarms(0.95, 99, 99).is_some() && alarms(0.5, 700, 300).is_some());
        assert_eq!(alarms(1.0, 100, 0), None);
        assert_eq!(alarms(0.05, 0, 0), None);
    }
}
