//! What targets do with their requests, on one worker, for pools that look for outliers.
//!
//! A request that works costs two stores to memory of the worker's own. Only what a worker concludes is shared: see
//! `boundary::ejection`.

use super::LocalTarget;
use crate::boundary::ejection::{self, Ejected, uptime_ms};
use crate::boundary::table::Pool;
use crate::routing::outlier::{Outlier, Seen, Streak, Tally};
use std::rc::Rc;

/// Takes down what a target did, and ejects it where that was one failure too many.
#[inline(always)]
pub(super) fn saw(outlier: &Outlier, pool: &Pool, targets: &[Rc<LocalTarget>], target: &LocalTarget, seen: Seen) {
    target.tally.set(target.tally.get().with(seen));
    match Ejected::of(seen) {
        None if target.streak.get().is_none() => {}
        None => target.streak.set(Streak::default()),
        Some(why) => failed(outlier, pool, targets, target, (seen, why)),
    }
}

#[cold]
fn failed(
    outlier: &Outlier,
    pool: &Pool,
    targets: &[Rc<LocalTarget>],
    target: &LocalTarget,
    (seen, why): (Seen, Ejected),
) {
    if target.address.ejection.is_out() {
        // What it still had. It begins anew when it comes back.
        target.streak.set(Streak::default());
        return;
    }
    let streak = target.streak.get().with(seen);
    target.streak.set(streak);
    if outlier.is_reached(streak) {
        eject(outlier, pool, targets, target, why);
    }
}

/// Brings back those whose time is over, and forgets what led to it of the others; called once a second.
pub(super) fn settle(targets: &[Rc<LocalTarget>]) {
    for target in targets {
        match target.address.ejection.is_out() {
            true => {
                target.streak.set(Streak::default());
                target.was_out.set(true);
            }
            false => {
                target.address.ejection.settle(uptime_ms());
                if target.was_out.take() {
                    target.rises();
                }
            }
        }
    }
}

/// Compares the targets with each other; called once an interval.
pub(super) fn compare(outlier: &Outlier, pool: &Pool, targets: &[Rc<LocalTarget>], workers: usize) {
    let inside: Vec<_> = targets.iter().filter(|target| !target.address.ejection.is_out()).collect();
    let tallies: Vec<Tally> = inside.iter().map(|target| target.tally.get()).collect();
    if let Some(found) = outlier.rate_outlier(&tallies, workers) {
        eject(outlier, pool, targets, inside[found], Ejected::SuccessRate);
    }
    targets.iter().for_each(|target| target.tally.set(Tally::default()));
}

#[cold]
fn eject(outlier: &Outlier, pool: &Pool, targets: &[Rc<LocalTarget>], target: &LocalTarget, why: Ejected) {
    let all = targets.iter().map(|one| &one.address.ejection);
    let Some(length) = ejection::eject(&target.address.ejection, all, outlier, uptime_ms()) else { return };
    target.outcomes.ejected.add(why);
    target.streak.set(Streak::default());
    let (pool, reason, seconds) = (pool.name.as_str(), why.label(), length.as_secs_f64());
    tracing::warn!(pool, target = target.name, address = target.named_address(), reason, seconds, "target ejected");
}
