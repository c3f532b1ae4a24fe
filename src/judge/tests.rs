//! The judge as a whole: its arithmetic against 60 digits, what the formulas promise, simulated releases, its protocol.

mod arithmetic;
mod promises;
mod protocol;
mod releases;
mod sentences;

use super::*;

fn share(share: f64) -> Share {
    Share::new(share).expect("a share")
}

fn counts(requests: u64, failures: u64) -> Counts {
    Counts { requests, failures, ..Counts::default() }
}

/// Requests and failures of candidate and baseline at a weight.
fn check(weight: f64, next: f64, candidate: (u64, u64), baseline: (u64, u64)) -> Check {
    Check {
        weight: share(weight),
        next: share(next),
        candidate: counts(candidate.0, candidate.1),
        baseline: counts(baseline.0, baseline.1),
        warm: false,
        scalars: Vec::new(),
    }
}

/// A judge and the time of its last check.
struct Court {
    judge: Judge,
    now: Duration,
}

impl Court {
    fn new(policy: &Policy, buckets: Option<Buckets>) -> Court {
        Court { judge: Judge::new(policy, buckets, Duration::ZERO).expect("a valid policy"), now: Duration::ZERO }
    }

    fn of_errors() -> Court {
        Court::new(&Policy::default(), None)
    }

    fn check(&mut self, check: &Check, seconds: f64) -> Judgement {
        self.now += Duration::from_secs_f64(seconds);
        self.judge.check(check, self.now)
    }
}

fn buckets() -> Buckets {
    Buckets::new(2.0, 1.04, 200).expect("buckets")
}

fn with_latency() -> Policy {
    let quantile = |quantile| Quantile { quantile, max_ratio: 1.2, max_ms: None };
    Policy { quantiles: vec![quantile(0.99), quantile(0.9)], ..Policy::default() }
}
