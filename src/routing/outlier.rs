//! Which of a pool's targets is left alone for what it answers: the outliers among them.
//!
//! A target is judged by the requests that it gets anyway. Each worker judges by its own, so that nothing is shared for
//! a request that works; what a worker concludes holds for all of them. Two signs are looked for: so many failures one
//! after the other, and more failures than the other targets have. The second compares targets with each other, so
//! that a failure of what is behind them all ejects none.

use super::recovery::Share;
use std::time::Duration;

/// How far apart two shares of failures are to be, in standard errors, before the difference is one of the targets'.
const STANDARD_ERRORS: f64 = 3.0;

/// A pool's outliers; at least one sign is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// So many failures in a row, of any kind. None: not looked for.
    pub consecutive_5xx: Option<u32>,
    /// So many requests in a row that got no answer.
    pub consecutive_failures: Option<u32>,
    /// Its share of failures is this much above the others'.
    pub success_rate_gap: Option<Share>,
    /// Over this time, and so many requests in the whole process.
    pub interval: Duration,
    pub min_requests: u32,
    /// The first ejection's length; the second is twice as long, and so on.
    pub eject_for: Duration,
    pub max_eject_for: Duration,
    /// Which share of the pool's targets may be ejected at once.
    pub max_ejected: Share,
}

/// What a target did with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Answer,
    ServerError,
    Connect,
    Reset,
    Timeout,
}

/// Failures one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    /// Of any kind, and those without an answer.
    failed: u32,
    unanswered: u32,
}

impl Streak {
    pub fn is_none(self) -> bool {
        self.failed == 0
    }

    /// The streak with what was seen next.
    #[must_use]
    pub fn with(self, seen: Seen) -> Streak {
        match seen {
            Seen::Answer => Streak::default(),
            Seen::ServerError => Streak { failed: self.failed.saturating_add(1), unanswered: 0 },
            Seen::Connect | Seen::Reset | Seen::Timeout => {
                Streak { failed: self.failed.saturating_add(1), unanswered: self.unanswered.saturating_add(1) }
            }
        }
    }
}

/// What a target did with its requests since they were last compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub requests: u32,
    pub failed: u32,
}

impl Tally {
    #[must_use]
    pub fn with(self, seen: Seen) -> Tally {
        let failed = u32::from(seen != Seen::Answer);
        Tally { requests: self.requests.saturating_add(1), failed: self.failed.saturating_add(failed) }
    }
}

impl Outlier {
    /// The streak is long enough.
    pub fn is_reached(&self, streak: Streak) -> bool {
        self.consecutive_5xx.is_some_and(|most| streak.failed >= most)
            || self.consecutive_failures.is_some_and(|most| streak.unanswered >= most)
    }

    /// How many of a pool's targets may be ejected at once: their share, one at least, and never all.
    pub fn may_eject(&self, targets: usize) -> usize {
        let share = usize::try_from(self.max_ejected.of(targets as u64)).unwrap_or(usize::MAX);
        share.max(1).min(targets.saturating_sub(1))
    }

    /// The length of a target's `time`th ejection, from 1.
    pub fn length(&self, time: u32) -> Duration {
        self.eject_for.saturating_mul(time.max(1)).min(self.max_eject_for.max(self.eject_for))
    }

    /// How many of its ejections count against a target that has been back for this long: one less for each
    /// `eject_for`.
    pub fn remembered(&self, ejections: u32, back_for: Duration) -> u32 {
        let forgotten = back_for.as_millis() / self.eject_for.as_millis().max(1);
        ejections.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }

    /// The first target whose share of failures is an outlier among these. Of each the pool's `workers` have a part.
    pub fn rate_outlier(&self, tallies: &[Tally], workers: usize) -> Option<usize> {
        let gap = self.success_rate_gap?.fraction();
        let least = u64::from(self.min_requests).div_ceil(workers.max(1) as u64).max(1);
        let sum = |of: fn(&Tally) -> u32| tallies.iter().map(|tally| u64::from(of(tally))).sum::<u64>();
        let (requests, failed) = (sum(|tally| tally.requests), sum(|tally| tally.failed));
        let is_outlier = |tally: &Tally| {
            let (own, own_failed) = (u64::from(tally.requests), u64::from(tally.failed));
            let (others, others_failed) = (requests - own, failed - own_failed);
            if own < least || others < least {
                return false;
            }
            let difference = own_failed as f64 / own as f64 - others_failed as f64 / others as f64;
            // One failure and one success more on each side: a share of 0 has an error, too.
            let variance = |failed: u64, of: u64| {
                let share = (failed as f64 + 1.0) / (of as f64 + 2.0);
                share * (1.0 - share) / of as f64
            };
            let error = (variance(own_failed, own) + variance(others_failed, others)).sqrt();
            difference >= gap && difference >= STANDARD_ERRORS * error
        };
        tallies.iter().position(is_outlier)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn outlier() -> Outlier {
        Outlier {
            consecutive_5xx: Some(5),
            consecutive_failures: Some(3),
            success_rate_gap: Share::parse("20%"),
            interval: Duration::from_secs(10),
            min_requests: 100,
            eject_for: Duration::from_secs(30),
            max_eject_for: Duration::from_secs(100),
            max_ejected: Share::parse("50%").expect("a share"),
        }
    }

    #[test]
    fn streaks_of_answers_and_of_none() {
        let after = |seen: &[Seen]| seen.iter().fold(Streak::default(), |streak, seen| streak.with(*seen));
        let outlier = outlier();
        assert!(
            !outlier.is_reached(after(&[Seen::ServerError; 4])) && outlier.is_reached(after(&[Seen::ServerError; 5]))
        );
        assert!(!outlier.is_reached(after(&[Seen::Reset; 2])) && outlier.is_reached(after(&[Seen::Reset; 3])));
        let mixed = [Seen::Connect, Seen::Timeout, Seen::ServerError, Seen::Timeout];
        assert!(!outlier.is_reached(after(&mixed)), "an answer ends a streak of none");
        assert!(outlier.is_reached(after(&mixed).with(Seen::ServerError)), "five failures all the same");
        let saved = after(&[Seen::ServerError, Seen::ServerError, Seen::ServerError, Seen::ServerError, Seen::Answer]);
        assert!(saved.is_none());
        let only = Outlier { consecutive_5xx: None, ..outlier };
        assert!(!only.is_reached(after(&[Seen::ServerError; 50])));
    }

    #[test]
    fn ejections_grow_and_are_forgotten() {
        let outlier = outlier();
        let seconds = |time| outlier.length(time).as_secs();
        assert_eq!([seconds(1), seconds(2), seconds(3), seconds(4), seconds(u32::MAX)], [30, 60, 90, 100, 100]);
        let remembered = |back| outlier.remembered(3, Duration::from_secs(back));
        assert_eq!(
            [remembered(0), remembered(29), remembered(30), remembered(89), remembered(1_000_000)],
            [3, 3, 2, 1, 0]
        );
    }

    #[test]
    fn the_rate_is_compared_with_the_others() {
        let outlier = outlier();
        let tally = |requests, failed| Tally { requests, failed };
        let (good, bad) = (tally(200, 2), tally(200, 80));
        assert_eq!(outlier.rate_outlier(&[good, bad, good], 1), Some(1));
        assert_eq!(outlier.rate_outlier(&[bad, bad, bad], 1), None, "what is behind them fails");
        assert_eq!(outlier.rate_outlier(&[good, tally(200, 30)], 1), None, "13 points more are not 20");
        assert_eq!(outlier.rate_outlier(&[good, tally(99, 99)], 1), None, "too few to tell");
        assert_eq!(outlier.rate_outlier(&[good, tally(50, 50)], 2), Some(1), "of two workers half is enough");
        assert_eq!(outlier.rate_outlier(&[bad], 1), None, "nobody to be compared with");
        assert_eq!(outlier.rate_outlier(&[good, tally(4, 2)], 100), None, "half of four is chance");
        let off = Outlier { success_rate_gap: None, ..outlier };
        assert_eq!(off.rate_outlier(&[good, bad], 1), None);
    }

    proptest! {
        #[test]
        fn never_all_and_always_one_of_several(targets in 0usize..200, percent in 1u32..=100) {
            let outlier = Outlier { max_ejected: Share::parse(&format!("{percent}%")).unwrap(), ..outlier() };
            let most = outlier.may_eject(targets);
            prop_assert_eq!(most >= 1, targets >= 2);
            prop_assert!(targets == 0 || most < targets);
            prop_assert!(most <= 1 || most * 100 <= targets * percent as usize);
        }
    }
}
