//! What the judge is fed: counts of both variants, of one check or since the start.

use super::evidence::Tally;

/// A variant's counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub requests: u64,
    /// Answers 5xx, resets, time-outs and failed connections; a retried request by its last attempt.
    pub failures: u64,
    /// For each of the policy's quantiles, requests slower than the threshold of their variant, see
    /// [`super::Judge::thresholds`], counted when they pass it; `total`: these, and those that ended before. Where
    /// empty, the histograms tell.
    pub slow: Vec<Tally>,
    /// Durations, by the judge's buckets; empty, or one count a bucket.
    pub histogram: Vec<u64>,
    /// For each of the policy's counts.
    pub counts: Vec<Tally>,
}

impl Counts {
    pub(super) fn tally(&self) -> Tally {
        Tally { total: self.requests, bad: self.failures }
    }

    /// What came since `earlier`; None if a count went backwards, as after a restart of what counts.
    pub fn since(&self, earlier: &Counts) -> Option<Counts> {
        Some(Counts {
            requests: self.requests.checked_sub(earlier.requests)?,
            failures: self.failures.checked_sub(earlier.failures)?,
            slow: tallies(&self.slow, &earlier.slow)?,
            histogram: self
                .histogram
                .iter()
                .enumerate()
                .map(|(at, count)| count.checked_sub(earlier.histogram.get(at).copied().unwrap_or(0)))
                .collect::<Option<_>>()?,
            counts: tallies(&self.counts, &earlier.counts)?,
        })
    }

    /// What no true counts can be.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let overfull = |tallies: &[Tally]| tallies.iter().any(|tally| tally.bad > tally.total);
        if self.failures > self.requests {
            return Some("more failures than requests");
        }
        (overfull(&self.slow) || overfull(&self.counts)).then_some("more bad requests than all")
    }
}

fn tallies(now: &[Tally], earlier: &[Tally]) -> Option<Vec<Tally>> {
    let since = |(at, tally): (usize, &Tally)| {
        let before = earlier.get(at).copied().unwrap_or_default();
        Some(Tally { total: tally.total.checked_sub(before.total)?, bad: tally.bad.checked_sub(before.bad)? })
    };
    now.iter().enumerate().map(since).collect()
}

/// Turns counts since the start into those of each check.
///
/// The first totals are where counting begins, and so are those after any count went backwards: what came in between
/// is lost, not guessed.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    last: Option<[Counts; 2]>,
}

impl Totals {
    /// The counts of candidate and baseline since the last call; all 0 where counting begins.
    pub fn advance(&mut self, candidate: Counts, baseline: Counts) -> [Counts; 2] {
        let since = self.last.as_ref().and_then(|[c, b]| Some([candidate.since(c)?, baseline.since(b)?]));
        self.last = Some([candidate, baseline]);
        since.unwrap_or_default()
    }
}

/// A key's failures beyond the second, in one variant and rollout, say more about the client than about the version.
///
/// Where a client stays with its variant (by a key), one whose every request fails would look like a bad version. So
/// after two failures a key's requests are left out, from requests and failures alike. The table is fixed: keys that
/// share a cell are left out together, in both variants with the same chance. One for each variant and rollout.
#[derive(Clone, Debug)]
pub struct KeyCap {
    /// Four cells a byte, by the low bits of the key's hash.
    cells: Box<[u8; KEY_CAP_BYTES]>,
}

const KEY_CAP_BYTES: usize = 16 * 1024;
const FAILURES_PER_KEY: u8 = 2;

impl Default for KeyCap {
    fn default() -> KeyCap {
        KeyCap { cells: Box::new([0; KEY_CAP_BYTES]) }
    }
}

impl KeyCap {
    /// Whether a request that ended is to be counted; remembers it if it failed. `hash`: of its key.
    pub fn counts(&mut self, hash: u64, failed: bool) -> bool {
        let cell = (hash % (KEY_CAP_BYTES as u64 * 4)) as usize;
        let (byte, shift) = (&mut self.cells[cell / 4], cell % 4 * 2);
        let failures = *byte >> shift & 3;
        if failures >= FAILURES_PER_KEY {
            return false;
        }
        if failed {
            *byte += 1 << shift;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(requests: u64, failures: u64) -> Counts {
        Counts { requests, failures, histogram: vec![requests, 0], ..Counts::default() }
    }

    #[test]
    fn totals_become_checks_and_a_restart_begins_anew() {
        let mut totals = Totals::default();
        assert_eq!(totals.advance(counts(100, 1), counts(900, 2)), [Counts::default(), Counts::default()]);
        assert_eq!(totals.advance(counts(110, 2), counts(950, 2)), [counts(10, 1), counts(50, 0)]);
        assert_eq!(totals.advance(counts(3, 0), counts(960, 2)), [Counts::default(), Counts::default()]);
        assert_eq!(totals.advance(counts(5, 1), counts(970, 3)), [counts(2, 1), counts(10, 1)]);
    }

    #[test]
    fn a_key_counts_two_failures_and_then_no_more() {
        let mut cap = KeyCap::default();
        assert!(cap.counts(7, false) && cap.counts(7, true) && cap.counts(7, false) && cap.counts(7, true));
        assert!(!cap.counts(7, true) && !cap.counts(7, false));
        assert!(cap.counts(6, true) && cap.counts(8, true) && cap.counts(u64::MAX, true));
        assert!(!cap.counts(7 + 65_536, false), "keys that share a cell are left out together");
    }

    #[test]
    fn impossible_counts_are_told() {
        assert_eq!(counts(5, 6).fault(), Some("more failures than requests"));
        assert!(Counts { slow: vec![Tally { total: 1, bad: 2 }], ..counts(5, 5) }.fault().is_some());
        assert_eq!(counts(5, 5).fault(), None);
    }
}
