//! The exposure budget: how many failed requests of a candidate are more than the baseline explains.
//!
//! Explained is what the candidate's requests would have failed at the baseline's rate of the same moment, so that a trouble
//! that both share costs nothing; and what chance adds to that: four standard deviations of the difference, or a healthy
//! candidate with a million requests would go over any budget by itself. Without a baseline beside it, at full weight, five
//! times the last known rate is explained, as the judge's limits have it.
//!
//! In whole millionths of a request: a record that was written and read again is the same.

use crate::judge::Tally;
use serde::{Deserialize, Serialize};

const MILLION: u128 = 1_000_000;
const DEVIATIONS: u128 = 4;
const ALONE_MULTIPLE: u128 = 5;
/// The baseline's requests that its rate is remembered by; beyond, the older half fades.
const MEMORY: u64 = 100_000;

/// What one candidate has cost since the rollout began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposure {
    pub requests: u64,
    pub failures: u64,
    explained_millionths: u64,
    variance_millionths: u64,
    baseline_requests: u64,
    baseline_failures: u64,
}

impl Exposure {
    /// Takes in what both had since the last time; impossible counts (more failed than all) are cut to all.
    pub fn add(&mut self, candidate: Tally, baseline: Tally) {
        let (nc, ns) = (u128::from(candidate.total), u128::from(baseline.total));
        let xs = u128::from(baseline.bad.min(baseline.total));
        self.requests = self.requests.saturating_add(candidate.total);
        self.failures = self.failures.saturating_add(candidate.bad.min(candidate.total));
        // At the baseline's rate of this interval; None without any of its requests.
        let beside = nc.saturating_mul(xs).saturating_mul(MILLION).checked_div(ns);
        let (explained, variance) = match beside {
            Some(explained) => (explained, explained.saturating_mul(nc + ns) / ns.max(1)),
            None => {
                let known = u128::from(self.baseline_requests.max(1));
                let at_last_rate = nc.saturating_mul(u128::from(self.baseline_failures)).saturating_mul(MILLION);
                let explained = at_last_rate.saturating_mul(ALONE_MULTIPLE) / known;
                (explained, explained)
            }
        };
        self.explained_millionths = plus(self.explained_millionths, explained);
        self.variance_millionths = plus(self.variance_millionths, variance);
        self.remember(baseline.total, baseline.bad.min(baseline.total));
    }

    /// Failed requests beyond what the baseline and chance explain.
    pub fn excess(&self) -> u64 {
        let chance = (DEVIATIONS * DEVIATIONS * u128::from(self.variance_millionths) * MILLION).isqrt();
        let explained = u128::from(self.explained_millionths) + chance;
        let excess = (u128::from(self.failures) * MILLION).saturating_sub(explained);
        u64::try_from(excess / MILLION).unwrap_or(u64::MAX)
    }

    fn remember(&mut self, requests: u64, failures: u64) {
        if self.baseline_requests > MEMORY {
            self.baseline_requests /= 2;
            self.baseline_failures /= 2;
        }
        self.baseline_requests = self.baseline_requests.saturating_add(requests);
        self.baseline_failures = self.baseline_failures.saturating_add(failures);
    }
}

fn plus(sum: u64, more: u128) -> u64 {
    sum.saturating_add(u64::try_from(more).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    fn tally(total: u64, bad: u64) -> Tally {
        Tally { total, bad }
    }

    #[test]
    fn failures_that_nothing_explains_count_whole() {
        let mut exposure = Exposure::default();
        exposure.add(tally(10, 4), tally(190, 0));
        assert_eq!(exposure.excess(), 4);
        assert_eq!((exposure.requests, exposure.failures), (10, 4));
    }

    #[test]
    fn an_outage_of_both_costs_nothing() {
        let mut exposure = Exposure::default();
        for _ in 0..1000 {
            exposure.add(tally(50, 0), tally(950, 0));
        }
        for _ in 0..100 {
            exposure.add(tally(50, 50), tally(950, 950));
        }
        assert_eq!(exposure.excess(), 0);
    }

    #[test]
    fn alone_it_goes_by_the_last_rate() {
        let mut exposure = Exposure::default();
        exposure.add(tally(0, 0), tally(100_000, 100));
        exposure.add(tally(10_000, 40), tally(0, 0));
        assert_eq!(exposure.excess(), 0, "50 are explained");
        exposure.add(tally(1000, 500), tally(0, 0));
        assert!((400..500).contains(&exposure.excess()), "{}", exposure.excess());
    }

    #[test]
    fn huge_counts_do_not_overflow() {
        let mut exposure = Exposure::default();
        exposure.add(tally(u64::MAX, u64::MAX), tally(1, 1));
        exposure.add(tally(u64::MAX, u64::MAX), tally(0, 0));
        exposure.add(tally(1, 9), tally(u64::MAX, u64::MAX));
        exposure.add(tally(u64::MAX, u64::MAX), tally(u64::MAX, u64::MAX));
        assert_eq!(exposure.failures, u64::MAX);
        assert_eq!(Exposure::default().excess(), 0);
    }

    #[test]
    fn chance_alone_stays_below_a_small_budget() {
        let mut over = 0;
        for seed in 0..200 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut draw = |n: u64| tally(n, (0..n).filter(|_| rng.next_u64() % 100 == 0).count() as u64);
            let mut exposure = Exposure::default();
            let mut most = 0;
            for _ in 0..200 {
                exposure.add(draw(100), draw(300));
                most = most.max(exposure.excess());
            }
            over += u32::from(most > 5);
        }
        assert!(over <= 1, "{over} of 200 healthy candidates went over");
    }
}
