//! A target that no worker sends requests to for a while, because one of them found it to be an outlier.
//!
//! One number says until when, and all workers read it with each choice among several targets. Whoever changes it from a
//! time that is over to one to come has ejected the target, and is the only one to write the rest, until that time is
//! over again. How many of a pool may be out is looked at after that, by counting: of two workers that eject at once
//! both see that it is too many, and take theirs back. For a moment none may be left; a choice among none is one among
//! all.

use super::labelled::labelled;
use crate::routing::outlier::{Outlier, Seen};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

labelled! {
    /// Why a target is ejected, as the metrics' `reason`: the last of the failures in a row, or their share.
    Ejected {
        ServerErrors = "consecutive_5xx",
        Connect = "connect",
        Reset = "reset",
        Timeout = "timeout",
        SuccessRate = "success_rate",
    }
}

impl Ejected {
    /// None for what is no failure.
    pub fn of(seen: Seen) -> Option<Ejected> {
        match seen {
            Seen::Answer => None,
            Seen::ServerError => Some(Ejected::ServerErrors),
            Seen::Connect => Some(Ejected::Connect),
            Seen::Reset => Some(Ejected::Reset),
            Seen::Timeout => Some(Ejected::Timeout),
        }
    }
}

/// Milliseconds since some moment of this process, above 0.
pub fn uptime_ms() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let ms = u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX);
    ms.saturating_add(1)
}

/// Written by any worker, and only when a target is ejected or comes back.
#[derive(Debug, Default)]
pub struct Ejection {
    /// 0: never ejected, or back and seen to be.
    until_ms: AtomicU64,
    /// Ejections that count against it, and when the last one was over.
    times: AtomicU32,
    over_ms: AtomicU64,
}

/// How often a target's addresses were ejected.
#[derive(Debug, Default)]
pub struct EjectionCounts([AtomicU64; Ejected::ALL.len()]);

impl EjectionCounts {
    pub fn add(&self, why: Ejected) {
        self.0[why as usize].fetch_add(1, Relaxed);
    }

    /// By [`Ejected`].
    pub fn load(&self) -> [u64; Ejected::ALL.len()] {
        std::array::from_fn(|at| self.0[at].load(Relaxed))
    }
}

/// What an ejection replaced, in case that it was one too many.
#[derive(Debug)]
struct Before {
    end_ms: u64,
    times: u32,
    over_ms: u64,
}

impl Ejection {
    /// Requests go elsewhere. Looks at a clock only for one that is, or was until a moment ago.
    #[inline]
    pub fn is_out(&self) -> bool {
        let until = self.until_ms.load(Relaxed);
        until != 0 && until > uptime_ms()
    }

    fn is_out_at(&self, now_ms: u64) -> bool {
        self.until_ms.load(SeqCst) > now_ms
    }

    /// A time that is over is forgotten, so that nobody has to look at a clock for it.
    pub fn settle(&self, now_ms: u64) {
        let until = self.until_ms.load(Relaxed);
        if until != 0 && until <= now_ms {
            let _ = self.until_ms.compare_exchange(until, 0, SeqCst, Relaxed);
        }
    }

    /// Brings the target back: its pool ejects no longer.
    pub fn lift(&self) {
        if self.until_ms.load(Relaxed) != 0 {
            self.until_ms.store(0, SeqCst);
        }
    }

    fn begin(&self, outlier: &Outlier, now_ms: u64) -> Option<(Before, Duration)> {
        let until = self.until_ms.load(SeqCst);
        if until > now_ms {
            return None;
        }
        let (times, over_ms) = (self.times.load(SeqCst), self.over_ms.load(SeqCst));
        let back_for = Duration::from_millis(now_ms.saturating_sub(over_ms));
        let before = Before { end_ms: until, times, over_ms };
        let times = outlier.remembered(times, back_for).saturating_add(1);
        let length = outlier.length(times);
        let end = now_ms.saturating_add(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
        self.until_ms.compare_exchange(until, end, SeqCst, SeqCst).ok()?;
        self.times.store(times, SeqCst);
        self.over_ms.store(end, SeqCst);
        Some((Before { end_ms: end, ..before }, length))
    }

    fn undo(&self, before: &Before) {
        self.times.store(before.times, SeqCst);
        self.over_ms.store(before.over_ms, SeqCst);
        // Another's, if this one was over before.
        let _ = self.until_ms.compare_exchange(before.end_ms, 0, SeqCst, Relaxed);
    }
}

/// Ejects a target, unless too many of its pool are, or none that can be used would be left. Says for how long.
/// `pool` has all of the pool's targets that can be used otherwise, this one among them.
pub fn eject<'t>(
    target: &Ejection,
    pool: impl Iterator<Item = &'t Ejection>,
    outlier: &Outlier,
    now_ms: u64,
) -> Option<Duration> {
    let (before, length) = target.begin(outlier, now_ms)?;
    let (targets, out) = pool.fold((0, 0), |(all, out), one| (all + 1, out + usize::from(one.is_out_at(now_ms))));
    if out > outlier.may_eject(targets) {
        target.undo(&before);
        return None;
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::outlier::tests::outlier;
    use crate::routing::recovery::Share;
    use proptest::prelude::*;

    fn out(pool: &[Ejection], now_ms: u64) -> usize {
        pool.iter().filter(|one| one.is_out_at(now_ms)).count()
    }

    #[test]
    fn it_grows_is_counted_and_comes_back() {
        let (outlier, pool) = (outlier(), [Ejection::default(), Ejection::default()]);
        let eject = |now_ms| eject(&pool[0], pool.iter(), &outlier, now_ms);
        assert_eq!(eject(1_000), Some(Duration::from_secs(30)));
        assert_eq!(eject(1_001), None, "it is out already");
        assert_eq!(super::eject(&pool[1], pool.iter(), &outlier, 1_002), None, "the last one");
        assert!(pool[0].is_out_at(30_999) && !pool[0].is_out_at(31_000) && !pool[1].is_out_at(1_002));
        assert_eq!(eject(31_000), Some(Duration::from_secs(60)), "once more at once: twice as long");
        assert_eq!(eject(91_000 + 60_000), Some(Duration::from_secs(30)), "after two lengths both are forgotten");
        pool[0].settle(160_000);
        assert!(pool[0].is_out_at(160_000), "not before its time");
        pool[0].settle(181_000);
        assert_eq!(pool[0].until_ms.load(Relaxed), 0);
    }

    /// Workers on threads of their own, as they are: whoever looks sees no more out than may be, once ejecting is over.
    #[test]
    fn several_workers_at_once_never_leave_too_many_out() {
        let outlier =
            Outlier { eject_for: Duration::from_millis(5), max_eject_for: Duration::from_millis(5), ..outlier() };
        let pool: Vec<Ejection> = (0..4).map(|_| Ejection::default()).collect();
        let (pool, outlier) = (&pool, &outlier);
        let ejected: u64 = std::thread::scope(|scope| {
            let worker = |seed: usize| {
                move || {
                    let mut ejected = 0;
                    for turn in 0..20_000 {
                        let target = &pool[(seed + turn * (seed + 1)) % pool.len()];
                        ejected += u64::from(eject(target, pool.iter(), outlier, uptime_ms()).is_some());
                    }
                    ejected
                }
            };
            let workers: Vec<_> = (0..3).map(|seed| scope.spawn(worker(seed))).collect();
            workers.into_iter().map(|worker| worker.join().expect("a worker does not panic")).sum()
        });
        assert!(out(pool, uptime_ms()) <= 2);
        assert!(ejected > 0);
    }

    proptest! {
        /// Whatever fails when: no more are out than may be, never all, each for a length between the shortest and the
        /// longest, and one that is refused would have been too many.
        #[test]
        fn no_more_than_may_be(
            targets in 1usize..8,
            percent in 1u32..=100,
            steps in proptest::collection::vec((0usize..8, 0u64..40_000, any::<bool>()), 1..80),
        ) {
            let outlier = Outlier { max_ejected: Share::parse(&format!("{percent}%")).unwrap(), ..outlier() };
            let pool: Vec<Ejection> = (0..targets).map(|_| Ejection::default()).collect();
            let most = outlier.may_eject(targets);
            let mut now_ms = 1;
            for (which, later, settles) in steps {
                now_ms += later;
                if settles {
                    pool.iter().for_each(|one| one.settle(now_ms));
                }
                let target = &pool[which % targets];
                let (was_out, others) = (target.is_out_at(now_ms), out(&pool, now_ms));
                let length = eject(target, pool.iter(), &outlier, now_ms);
                prop_assert_eq!(length.is_some(), !was_out && others < most);
                prop_assert_eq!(target.is_out_at(now_ms), was_out || length.is_some());
                if let Some(length) = length {
                    prop_assert!(length >= outlier.eject_for && length <= outlier.max_eject_for);
                }
                prop_assert!(out(&pool, now_ms) <= most && most < targets.max(1));
            }
        }
    }
}
