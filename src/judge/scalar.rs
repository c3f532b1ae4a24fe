//! A metric that comes as one number a variant: from Prometheus, a webhook, a script. A sample either keeps to its
//! bound or breaches it; one breach is noise, about five in a row are not.

use super::Moment;
use super::evidence::{StartMix, Tally, log_e_alone};
use super::policy::{Bars, Bound, NoData, Scalar as ScalarPolicy};
use super::verdict::{Cause, MetricVerdict, Unit};
use super::words::{grouped, short};

/// The share of samples that a healthy candidate may breach.
const TOLERATED: f64 = 0.2;
const RATES: [f64; 3] = [0.5, 0.8, 0.97];
const PRIOR: [f64; 3] = [0.3, 0.4, 0.3];

/// Samples within the bound before a gate opens.
const LEAST_GOOD: u64 = 5;

/// One sample of both variants over the same window; windows do not overlap. None, or not finite: it could not be had.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    pub candidate: Option<f64>,
    pub baseline: Option<f64>,
}

#[derive(Clone, Debug)]
pub(super) struct Scalar {
    policy: ScalarPolicy,
    mix: StartMix<3>,
    /// Samples, and those beyond the bound.
    seen: Tally,
    last: Option<Sample>,
    /// Since the last sample was weighed.
    seconds: f64,
    missing: bool,
}

enum Reading {
    Within,
    Breach,
    /// Says nothing.
    None,
}

impl Scalar {
    pub fn new(policy: ScalarPolicy) -> Scalar {
        let seen = Tally::default();
        Scalar { policy, mix: StartMix::new(PRIOR), seen, last: None, seconds: 0.0, missing: false }
    }

    /// `sample`: None if none was due in this check.
    pub fn check(&mut self, sample: Option<Sample>, moment: &Moment) -> MetricVerdict {
        self.seconds += moment.seconds;
        if let Some(sample) = sample {
            self.add(sample);
        }
        self.verdict(moment)
    }

    fn add(&mut self, sample: Sample) {
        let reading = read(self.policy.bound, sample);
        self.missing = matches!(reading, Reading::None) && !complete(self.policy.bound, sample);
        let breach = match reading {
            Reading::Within => false,
            Reading::Breach => true,
            Reading::None if self.missing && self.policy.no_data == NoData::Breach => true,
            Reading::None => return,
        };
        self.last = Some(sample);
        let tally = Tally { total: 1, bad: u64::from(breach) };
        self.seen = self.seen.plus(tally);
        let seconds = std::mem::take(&mut self.seconds);
        self.mix.update(RATES.map(|rate| log_e_alone(tally, TOLERATED, rate)), seconds);
    }

    fn verdict(&self, moment: &Moment) -> MetricVerdict {
        let (cause, reason) = self.cause(moment);
        let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
        let last = self.last.unwrap_or_default();
        let baseline = finite(last.baseline);
        MetricVerdict {
            name: self.policy.name.clone(),
            verdict: cause.verdict(),
            cause,
            unit: Unit::Plain,
            candidate: finite(last.candidate),
            baseline,
            limit: match self.policy.bound {
                Bound::Max(limit) | Bound::Min(limit) => Some(limit),
                Bound::MaxRatio(ratio) | Bound::MinRatio(ratio) => baseline.map(|value| value * ratio),
            },
            samples: self.seen.total,
            needs: None,
            reason,
        }
    }

    fn cause(&self, moment: &Moment) -> (Cause, String) {
        let baseline = &moment.names.baseline;
        let bound = match self.policy.bound {
            Bound::MaxRatio(ratio) => format!("above {}× {baseline}", short(ratio)),
            Bound::MinRatio(ratio) => format!("below {}× {baseline}", short(ratio)),
            Bound::Max(limit) => format!("above {}", short(limit)),
            Bound::Min(limit) => format!("below {}", short(limit)),
        };
        let breaches =
            format!("{} of {} samples {bound}{}", grouped(self.seen.bad), grouped(self.seen.total), self.values());
        let (name, log_e) = (&self.policy.name, self.mix.log_e());
        if log_e >= moment.bars.proven && self.seen.bad >= Bars::LEAST_BAD {
            return (Cause::Proven, format!("{name}: {breaches}: not noise"));
        }
        if log_e >= Bars::SUSPICION {
            return (Cause::Suspicion, format!("{name}: {breaches}: suspicious, not proven"));
        }
        if self.missing {
            return (Cause::NoData, format!("{name}: the last sample has no data"));
        }
        let good = self.seen.total - self.seen.bad;
        if good < LEAST_GOOD || log_e >= 0.0 {
            let samples = format!("{} samples within, {} needed", grouped(good), LEAST_GOOD);
            let needed = if good < LEAST_GOOD { samples } else { format!("{breaches}: not settled") };
            return (if self.seen.total == 0 { Cause::NoData } else { Cause::TooFew }, format!("{name}: {needed}"));
        }
        (Cause::Harmless, format!("{name}: {breaches}"))
    }

    /// `; last 31 against 10`
    fn values(&self) -> String {
        match self.last {
            Some(Sample { candidate: Some(candidate), baseline: Some(baseline) }) => {
                format!("; last {} against {}", short(candidate), short(baseline))
            }
            Some(Sample { candidate: Some(candidate), .. }) => format!("; last {}", short(candidate)),
            _ => String::new(),
        }
    }
}

/// Whether the sample has the numbers that its bound compares.
fn complete(bound: Bound, sample: Sample) -> bool {
    let finite = |value: Option<f64>| value.is_some_and(f64::is_finite);
    match bound {
        Bound::Max(_) | Bound::Min(_) => finite(sample.candidate),
        Bound::MaxRatio(_) | Bound::MinRatio(_) => {
            finite(sample.candidate) && finite(sample.baseline) && sample.baseline > Some(0.0)
        }
    }
}

/// A breach of an absolute bound that the baseline shares says nothing about the candidate.
fn read(bound: Bound, sample: Sample) -> Reading {
    if !complete(bound, sample) {
        return Reading::None;
    }
    let candidate = sample.candidate.unwrap_or(f64::NAN);
    let baseline = sample.baseline.unwrap_or(f64::NAN);
    let (breach, shared) = match bound {
        Bound::MaxRatio(ratio) => (candidate > ratio * baseline, false),
        Bound::MinRatio(ratio) => (candidate < ratio * baseline, false),
        Bound::Max(limit) => (candidate > limit, baseline > limit),
        Bound::Min(limit) => (candidate < limit, baseline < limit),
    };
    match (breach, shared) {
        (true, true) => Reading::None,
        (true, false) => Reading::Breach,
        (false, _) => Reading::Within,
    }
}
