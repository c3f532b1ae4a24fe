//! The judge: whether a candidate does harm, and whether it may have more of the traffic.
//!
//! Pure: counts of both variants come in, check by check, and a [`Judgement`] comes out; what time it is comes with the
//! check. One method for everything, in `evidence`: e-processes, which stay valid however often one looks. So there is
//! no window, no minimum count and no "five times in a row"; a check a second costs nothing in false rollbacks, and a
//! trouble that both variants share is evidence against neither. `docs/judge.md` has the formulas and their promises.
//!
//! State is constant: a few hundred bytes a metric, and two histograms.

mod alone;
mod comparison;
mod counts;
mod evidence;
mod latency;
mod policy;
pub mod protocol;
mod rate;
mod scalar;
mod split;
#[cfg(test)]
mod tests;
mod verdict;
mod words;

pub use counts::{Counts, KeyCap, Totals};
pub use evidence::Tally;
pub use latency::Thresholds;
pub use policy::{Bound, Buckets, Count, Errors, Names, NoData, Policy, PolicyError, Quantile, Scalar};
pub use scalar::Sample;
pub use verdict::{Cause, Judgement, MetricVerdict, Unit, Verdict};

use evidence::Pair;
use latency::Latency;
use policy::Bars;
use rate::Rate;
use std::time::Duration;

/// The name of the metric that every policy has.
pub const ERROR_RATE: &str = "error-rate";

/// A share of the traffic, 0..=1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Share(f64);

impl Share {
    pub const FULL: Share = Share(1.0);

    /// None for what is no share: NaN, negative, above 1.
    pub fn new(share: f64) -> Option<Share> {
        (0.0..=1.0).contains(&share).then_some(Share(share))
    }
}

/// What happened since the last check.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The candidate's weight during this check.
    pub weight: Share,
    /// The weight that a pass would move it to; full where there is none.
    pub next: Share,
    pub candidate: Counts,
    pub baseline: Counts,
    /// Somebody else knows that the candidate warms up, beside [`Policy::warm_up`].
    pub warm: bool,
    /// For each of the policy's scalars; None, or no entry: no sample was due.
    pub scalars: Vec<Option<Sample>>,
}

/// Judges one candidate over one rollout.
#[derive(Clone, Debug)]
pub struct Judge {
    bars: Bars,
    names: Names,
    min_requests: u64,
    warm_up: Duration,
    warm_until: Duration,
    last: Duration,
    step: Step,
    errors: Rate,
    latency: Option<Latency>,
    counts: Vec<Rate>,
    scalars: Vec<scalar::Scalar>,
    split: Option<split::Split>,
    failed: Option<Judgement>,
}

/// The time at one weight.
#[derive(Clone, Copy, Debug, Default)]
struct Step {
    weight: Option<Share>,
    /// Candidate requests in it.
    requests: u64,
    /// Seconds since the candidate's last request.
    idle: f64,
}

/// What all metrics of a check are told.
struct Moment<'a> {
    /// Length of the check.
    seconds: f64,
    /// The candidate has all the weight.
    full: bool,
    /// Candidate requests for each one of the baseline, by the weight.
    per_baseline: f64,
    /// The share of more failures that the gate to the next weight lets through.
    margin: f64,
    warm: bool,
    /// Candidate requests in the step, those that it needs, and seconds without any.
    in_step: u64,
    min_requests: u64,
    idle: f64,
    bars: &'a Bars,
    names: &'a Names,
}

impl Judge {
    /// Begins at `now`, any clock that goes forward. `buckets`: of the histograms, where latency is judged.
    pub fn new(policy: &Policy, buckets: Option<Buckets>, now: Duration) -> Result<Judge, PolicyError> {
        policy.check()?;
        if buckets.is_none() && !policy.quantiles.is_empty() {
            return Err(PolicyError::NoBuckets);
        }
        Ok(Judge {
            bars: policy.bars(),
            names: policy.names.clone(),
            min_requests: policy.min_requests,
            warm_up: policy.warm_up,
            warm_until: now + policy.warm_up,
            last: now,
            step: Step::default(),
            errors: Rate::new(ERROR_RATE, policy.errors.max_ratio, Some(policy.errors.max)),
            latency: buckets.map(|buckets| Latency::new(buckets, &policy.quantiles)),
            counts: policy.counts.iter().map(|count| Rate::new(&count.name, count.max_ratio, None)).collect(),
            scalars: policy.scalars.iter().cloned().map(scalar::Scalar::new).collect(),
            split: policy.check_split.then(split::Split::new),
            failed: None,
        })
    }

    /// The candidate has an instance more: its latency is not judged until that one is warm.
    pub fn instance_added(&mut self, now: Duration) {
        self.warm_until = self.warm_until.max(now + self.warm_up);
    }

    /// For each of the policy's quantiles, above which durations [`Counts::slow`] is to count from now on; None until
    /// the baseline is known.
    pub fn thresholds(&self) -> Vec<Option<Thresholds>> {
        self.latency.as_ref().map(Latency::thresholds).unwrap_or_default()
    }

    /// Judges what came since the last check; call it as often as you like. A fail is final: later checks answer it.
    ///
    /// The first check of a step is the one with the new weight. Counts that cannot be (more failures than requests)
    /// are left out, and hold.
    pub fn check(&mut self, check: &Check, now: Duration) -> Judgement {
        if let Some(failed) = &self.failed {
            return failed.clone();
        }
        if let Some(judgement) = self.refused(check) {
            return judgement;
        }
        let seconds = now.saturating_sub(self.last).as_secs_f64();
        self.last = self.last.max(now);
        let changed = self.begin(check, seconds);
        let judgement = self.weigh(check, seconds, changed, now);
        if judgement.verdict == Verdict::Fail {
            self.failed = Some(judgement.clone());
        }
        judgement
    }

    /// Counts the check into its step; whether it is the first.
    fn begin(&mut self, check: &Check, seconds: f64) -> bool {
        let changed = self.step.weight != Some(check.weight);
        if changed {
            self.step = Step { weight: Some(check.weight), requests: 0, idle: self.step.idle };
            self.errors.flush();
            self.counts.iter_mut().for_each(Rate::flush);
            self.latency.iter_mut().for_each(Latency::flush);
        }
        self.step.requests = self.step.requests.saturating_add(check.candidate.requests);
        self.step.idle = if check.candidate.requests > 0 { 0.0 } else { self.step.idle + seconds };
        changed
    }

    fn weigh(&mut self, check: &Check, seconds: f64, changed: bool, now: Duration) -> Judgement {
        let Share(weight) = check.weight;
        let next = if check.next.0 > 0.0 { check.next.0 } else { 1.0 };
        let moment = Moment {
            seconds,
            full: weight >= 1.0,
            per_baseline: (weight / (1.0 - weight)).clamp(1e-6, 1e6),
            margin: (0.001 / next).clamp(0.001, 0.01),
            warm: check.warm || now <= self.warm_until && self.warm_up > Duration::ZERO,
            in_step: self.step.requests,
            min_requests: self.min_requests,
            idle: self.step.idle,
            bars: &self.bars,
            names: &self.names,
        };
        let (candidate, baseline) = (&check.candidate, &check.baseline);
        let pair = Pair { candidate: candidate.tally(), baseline: baseline.tally() };
        let mut metrics = vec![self.errors.check(pair, &moment)];
        if let Some(latency) = &mut self.latency {
            metrics.extend(latency.check(candidate, baseline, &moment));
        }
        for (nth, count) in self.counts.iter_mut().enumerate() {
            let tally = |counts: &Counts| counts.counts.get(nth).copied().unwrap_or_default();
            metrics.push(count.check(Pair { candidate: tally(candidate), baseline: tally(baseline) }, &moment));
        }
        for (nth, scalar) in self.scalars.iter_mut().enumerate() {
            metrics.push(scalar.check(check.scalars.get(nth).copied().flatten(), &moment));
        }
        let alarm = self.split.as_mut().and_then(|split| {
            if changed {
                split.changed();
                return None;
            }
            split.check(candidate.requests, baseline.requests, weight, seconds)
        });
        Judgement::of(metrics, alarm)
    }

    fn refused(&self, check: &Check) -> Option<Judgement> {
        let of = |counts: &Counts, name: &str| counts.fault().map(|fault| format!("the counts of {name} have {fault}"));
        let fault =
            of(&check.candidate, &self.names.candidate).or_else(|| of(&check.baseline, &self.names.baseline))?;
        let cause = Cause::NoData;
        let metric = MetricVerdict {
            name: ERROR_RATE.to_owned(),
            verdict: cause.verdict(),
            cause,
            unit: Unit::Share,
            candidate: None,
            baseline: None,
            limit: None,
            samples: 0,
            needs: None,
            reason: fault,
        };
        Some(Judgement::of(vec![metric], None))
    }
}
