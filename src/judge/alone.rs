//! Absolute limits. They decide where the baseline has no traffic to compare with, and only there: what breaks a limit
//! beside a baseline either does worse than the baseline, which [`super::comparison`] finds, or shares its trouble.

use super::comparison::LEAST_BASELINE;
use super::evidence::{Decayed, Fading, Pair, StartMix, Tally, log_e_alone};
use super::policy::Bars;

/// Multiples of the limit that are bet on; the last stands for half way to everything.
const MULTIPLES: [f64; 5] = [1.5, 2.0, 4.0, 15.0, f64::INFINITY];
const PRIOR: [f64; 5] = [0.15, 0.25, 0.25, 0.20, 0.15];

/// A baseline that was itself beyond a limit moves it to this multiple of its rate.
const BASELINE_MULTIPLE: f64 = 5.0;

/// What counts as breaking a limit at present: a minute's memory.
const MINUTE: Fading = Fading(0.846);

/// One limit on a share of requests.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    max: f64,
    mix: StartMix<5>,
    /// The candidate's requests while it was alone.
    alone: Tally,
    /// The baseline's rate in all of its traffic, and both rates of the last minute.
    baseline: Decayed,
    recent: [Decayed; 2],
}

/// Who is beyond a limit at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beyond {
    Neither,
    Candidate,
    Both,
}

impl Limit {
    pub fn new(max: f64) -> Limit {
        let nothing = Decayed::new(0.0, 1.0, MINUTE);
        Limit {
            max,
            mix: StartMix::new(PRIOR),
            alone: Tally::default(),
            baseline: Decayed::new(0.0, 1.0, Fading::SLOW),
            recent: [nothing, nothing],
        }
    }

    /// Takes in a check. `full`: the candidate has all the weight; evidence comes of it if the baseline's rest is too
    /// small to compare with.
    pub fn add(&mut self, pair: &Pair, full: bool, seconds: f64) {
        if is_alone(pair, full) && pair.candidate.total > 0 {
            let limit = self.limit();
            let rates = MULTIPLES.map(|multiple| (multiple * limit).min(0.5 + 0.5 * limit));
            self.mix.update(rates.map(|rate| log_e_alone(pair.candidate, limit, rate)), seconds);
            self.alone = self.alone.plus(pair.candidate);
        }
        self.baseline.add(pair.baseline, seconds);
        self.recent[0].add(pair.candidate, seconds);
        self.recent[1].add(pair.baseline, seconds);
    }

    /// The share that the candidate may reach while it is alone.
    pub fn limit(&self) -> f64 {
        self.max.max(BASELINE_MULTIPLE * self.baseline.rate()).clamp(1e-6, 0.5)
    }

    pub fn max(&self) -> f64 {
        self.max
    }

    pub fn alone(&self) -> Tally {
        self.alone
    }

    /// Rates of the last minute: candidate, baseline.
    pub fn recent(&self) -> [f64; 2] {
        self.recent.map(|rate| rate.rate())
    }

    pub fn is_broken(&self, bars: &Bars, bad: u64) -> bool {
        self.mix.log_e() >= bars.proven_alone && bad >= Bars::LEAST_BAD
    }

    pub fn is_suspicious(&self) -> bool {
        self.mix.log_e() >= Bars::SUSPICION
    }

    pub fn beyond(&self) -> Beyond {
        let beyond = |rate: &Decayed| rate.bad() >= Bars::LEAST_BAD as f64 && rate.rate() > self.max;
        match self.recent.each_ref().map(beyond) {
            [true, true] => Beyond::Both,
            [true, false] => Beyond::Candidate,
            [false, _] => Beyond::Neither,
        }
    }
}

/// Whether the candidate has all the weight and next to nothing to be compared with.
pub(super) fn is_alone(pair: &Pair, full: bool) -> bool {
    full && pair.baseline.total < LEAST_BASELINE
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARS: Bars = Bars { proven: 6.0, proven_alone: 6.0 };

    fn pair(nc: u64, xc: u64, ns: u64, xs: u64) -> Pair {
        Pair { candidate: Tally { total: nc, bad: xc }, baseline: Tally { total: ns, bad: xs } }
    }

    #[test]
    fn a_limit_decides_only_alone() {
        let mut limit = Limit::new(0.01);
        for _ in 0..10 {
            limit.add(&pair(100, 60, 0, 0), false, 10.0);
            limit.add(&pair(100, 60, 100, 0), true, 10.0);
        }
        assert!(!limit.is_broken(&BARS, 1000));
        limit.add(&pair(100, 60, 0, 0), true, 10.0);
        assert!(limit.is_broken(&BARS, 60) && !limit.is_broken(&BARS, 2));
        assert_eq!(limit.alone(), Tally { total: 100, bad: 60 });
    }

    #[test]
    fn a_bad_baseline_moves_the_limit_that_decides() {
        let mut limit = Limit::new(0.01);
        limit.add(&pair(0, 0, 10_000, 500), false, 10.0);
        assert!((limit.limit() - 0.25).abs() < 0.001, "{}", limit.limit());
        for _ in 0..100 {
            limit.add(&pair(100, 5, 0, 0), true, 10.0);
        }
        assert!(!limit.is_broken(&BARS, 500) && !limit.is_suspicious());
    }

    #[test]
    fn who_is_beyond_the_limit_is_told_and_forgotten() {
        let mut limit = Limit::new(0.01);
        limit.add(&pair(100, 50, 1000, 0), false, 10.0);
        assert_eq!(limit.beyond(), Beyond::Candidate);
        limit.add(&pair(100, 50, 1000, 400), false, 10.0);
        assert_eq!(limit.beyond(), Beyond::Both);
        for _ in 0..60 {
            limit.add(&pair(100, 0, 1000, 0), false, 10.0);
        }
        assert_eq!(limit.beyond(), Beyond::Neither);
    }
}
