//! What a rollout's judge is told of a variant: requests by duration, failures, and requests that are slow, counted when
//! they become so. Only for routes with a rollout under way, and only requests that the route's weights sent.
//!
//! As with all outcomes a worker writes its own shard, and control sums them. A candidate's failure besides pokes
//! control, at most once until control has looked: one flag that is read, and written once.

use super::outcomes::Count;
use crate::limits::{JUDGED_BUCKETS, JUDGED_FIRST_US, JUDGED_GROWTH, JUDGED_KEYS, JUDGED_QUANTILES};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use tokio::sync::Notify;

/// Of one rollout, by the variants' names.
#[derive(Debug)]
pub struct Judged {
    pub variants: Vec<(String, Arc<JudgedVariant>)>,
}

impl Judged {
    pub fn of(&self, name: &str) -> Option<&Arc<JudgedVariant>> {
        self.variants.iter().find(|(known, _)| known == name).map(|(_, variant)| variant)
    }
}

/// A route's, in the order of its variants; None where the route's rollout is not judged.
pub type JudgedRoute = Option<Box<[Option<Arc<JudgedVariant>>]>>;

#[derive(Debug)]
pub struct JudgedVariant {
    shards: Box<[JudgedShard]>,
    /// Above which a request is slow, in microseconds; [`u64::MAX`] where that is not known.
    slow_above_us: [AtomicU64; JUDGED_QUANTILES],
    /// Of routes whose clients stay with their variant.
    keys: Option<FailingKeys>,
    /// Whom a failure pokes: a candidate's.
    poke: Option<Arc<Poke>>,
}

/// One worker's part.
#[derive(Debug)]
#[repr(align(128))]
struct JudgedShard {
    /// Requests that ended, by [`bucket`].
    durations: [Count; JUDGED_BUCKETS],
    failures: Count,
    /// Requests that were found slow, and those of them that have ended.
    slow: [Count; JUDGED_QUANTILES],
    slow_ended: [Count; JUDGED_QUANTILES],
}

impl Default for JudgedShard {
    fn default() -> JudgedShard {
        JudgedShard {
            durations: std::array::from_fn(|_| Count::default()),
            failures: Count::default(),
            slow: Default::default(),
            slow_ended: Default::default(),
        }
    }
}

/// Since the rollout began, all workers together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JudgedTotal {
    pub requests: u64,
    pub failures: u64,
    pub durations: Vec<u64>,
    /// For each quantile: slow requests, and those with the requests that ended before they were.
    pub slow: [(u64, u64); JUDGED_QUANTILES],
}

/// Which thresholds a request under way has passed, a bit each.
pub type Passed = u8;
const _: () = assert!(JUDGED_QUANTILES <= Passed::BITS as usize);

impl JudgedVariant {
    pub fn new(workers: usize, sticky: bool, poke: Option<Arc<Poke>>) -> JudgedVariant {
        JudgedVariant {
            shards: (0..workers).map(|_| JudgedShard::default()).collect(),
            slow_above_us: std::array::from_fn(|_| AtomicU64::new(u64::MAX)),
            keys: sticky.then(FailingKeys::default),
            poke,
        }
    }

    /// From now on requests above these are slow.
    pub fn slow_above(&self, thresholds_us: &[Option<u64>]) {
        for (at, threshold) in self.slow_above_us.iter().enumerate() {
            threshold.store(thresholds_us.get(at).copied().flatten().unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// A request under way has come to this age: counts what it has passed by now, and gives that.
    pub fn passes(&self, worker: usize, age_us: u64, passed: Passed) -> Passed {
        let mut now = passed;
        for (at, threshold) in self.slow_above_us.iter().enumerate() {
            if now & 1 << at == 0 && age_us > threshold.load(Relaxed) {
                now |= 1 << at;
                self.shards[worker].slow[at].add(1);
            }
        }
        now
    }

    /// A request has ended. `key`: the place of a client that stays with its variant.
    pub fn ended(&self, worker: usize, took_us: u64, failed: bool, passed: Passed, key: Option<u32>) {
        if let (Some(keys), Some(key)) = (&self.keys, key)
            && !keys.counts(key, failed)
        {
            return;
        }
        let shard = &self.shards[worker];
        shard.durations[bucket(took_us)].add(1);
        let passed = self.passes(worker, took_us, passed);
        if passed != 0 {
            (0..JUDGED_QUANTILES).filter(|at| passed & 1 << at != 0).for_each(|at| shard.slow_ended[at].add(1));
        }
        if failed {
            shard.failures.add(1);
            self.poke.iter().for_each(|poke| poke.poke());
        }
    }

    pub fn total(&self) -> JudgedTotal {
        let mut total = JudgedTotal { durations: vec![0; JUDGED_BUCKETS], ..JudgedTotal::default() };
        for shard in &self.shards {
            // What is written later is read first: so that no request is seen to have ended in part.
            total.failures += shard.failures.load();
            let ended = std::array::from_fn::<u64, JUDGED_QUANTILES, _>(|at| shard.slow_ended[at].load());
            let slow = std::array::from_fn::<u64, JUDGED_QUANTILES, _>(|at| shard.slow[at].load());
            let mut requests = 0;
            for (sum, count) in total.durations.iter_mut().zip(&shard.durations) {
                let count = count.load();
                *sum += count;
                requests += count;
            }
            total.requests += requests;
            for (at, (sum, all)) in total.slow.iter_mut().enumerate() {
                let under_way = slow[at].saturating_sub(ended[at]);
                *sum += slow[at];
                *all += (requests + under_way).max(slow[at]);
            }
        }
        total
    }

    /// Failed requests so far.
    pub fn failures(&self) -> u64 {
        self.shards.iter().map(|shard| shard.failures.load()).sum()
    }
}

/// The bucket of a duration: 0 up to [`JUDGED_FIRST_US`], i up to that times [`JUDGED_GROWTH`] to the power of i, the last
/// is open.
pub fn bucket(us: u64) -> usize {
    if us <= JUDGED_FIRST_US {
        return 0;
    }
    let ratio = us as f64 / JUDGED_FIRST_US as f64;
    let at = (ratio.ln() / JUDGED_GROWTH.ln()).ceil();
    (at as usize).min(JUDGED_BUCKETS - 1)
}

/// Of a client that stays with its variant, failures beyond the second say more of the client than of the version. So
/// after two, its requests are left out. Shared by the workers, and written with a client's first failures only.
#[derive(Debug)]
struct FailingKeys(Box<[AtomicU8]>);

const FAILURES_PER_KEY: u8 = 2;

impl Default for FailingKeys {
    fn default() -> FailingKeys {
        FailingKeys((0..JUDGED_KEYS).map(|_| AtomicU8::new(0)).collect())
    }
}

impl FailingKeys {
    fn counts(&self, key: u32, failed: bool) -> bool {
        let cell = &self.0[key as usize % self.0.len()];
        let more = |failures: u8| (failures < FAILURES_PER_KEY).then_some(failures + 1);
        match failed {
            true => cell.fetch_update(Relaxed, Relaxed, more).is_ok(),
            false => cell.load(Relaxed) < FAILURES_PER_KEY,
        }
    }
}

/// Wakes control when a candidate has failed a request.
#[derive(Debug, Default)]
pub struct Poke {
    raised: AtomicBool,
    notify: Notify,
}

impl Poke {
    #[inline]
    fn poke(&self) {
        if !self.raised.load(Relaxed) && !self.raised.swap(true, Relaxed) {
            self.notify.notify_one();
        }
    }

    /// Until somebody has poked.
    pub async fn poked(&self) {
        self.notify.notified().await;
    }

    /// Before control looks: what fails from now on pokes again.
    pub fn lower(&self) {
        self.raised.store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_they_say() {
        let upper = |at: usize| JUDGED_FIRST_US as f64 * JUDGED_GROWTH.powf(at as f64);
        let mut us = 1;
        while us < 100_000_000 {
            let at = bucket(us);
            assert!(at == JUDGED_BUCKETS - 1 || us as f64 <= upper(at) * (1.0 + 1e-9), "{us} in {at}");
            assert!(at == 0 || us as f64 > upper(at - 1) * (1.0 - 1e-9), "{us} in {at}");
            us += us / 50 + 1;
        }
        assert!(upper(JUDGED_BUCKETS - 1) > 55_000_000.0);
    }

    #[test]
    fn a_slow_request_counts_when_it_passes_and_once() {
        let variant = JudgedVariant::new(2, false, None);
        variant.slow_above(&[Some(1_000), None]);
        variant.ended(0, 500, false, 0, None);
        let passed = variant.passes(1, 900, 0);
        assert_eq!((passed, variant.total().slow[0]), (0, (0, 1)));
        let passed = variant.passes(1, 1_500, passed);
        assert_eq!((variant.total().slow[0], variant.total().requests), ((1, 2), 1), "it has not ended");
        let passed = variant.passes(1, 2_500, passed);
        variant.ended(1, 3_000, true, passed, None);
        variant.ended(1, 3_000, false, 0, None);
        let total = variant.total();
        assert_eq!((total.slow[0], total.requests, total.failures), ((2, 3), 3, 1));
        assert_eq!(total.slow[1], (0, 3));
    }

    #[test]
    fn a_client_that_stays_fails_twice_and_is_left_out() {
        let variant = JudgedVariant::new(1, true, None);
        for _ in 0..5 {
            variant.ended(0, 500, true, 0, Some(7));
            variant.ended(0, 500, false, 0, Some(7));
        }
        variant.ended(0, 500, true, 0, Some(8));
        variant.ended(0, 500, true, 0, None);
        let total = variant.total();
        assert_eq!((total.requests, total.failures), (5, 4), "two and one between of the first");
    }

    #[tokio::test]
    async fn failures_poke_once_until_somebody_looked() {
        let poke = Arc::new(Poke::default());
        let variant = JudgedVariant::new(1, false, Some(Arc::clone(&poke)));
        variant.ended(0, 500, false, 0, None);
        variant.ended(0, 500, true, 0, None);
        variant.ended(0, 500, true, 0, None);
        poke.poked().await;
        assert!(poke.raised.load(Relaxed));
        poke.lower();
        variant.ended(0, 500, true, 0, None);
        poke.poked().await;
    }
}
