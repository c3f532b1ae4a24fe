//! What a release is judged by. A [`Policy`] is checked whole before anything is judged with it.

use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The share of healthy releases that may be rolled back, all metrics and looks together.
    pub false_rollback: f64,
    pub errors: Errors,
    pub quantiles: Vec<Quantile>,
    /// Metrics of one's own that come as bad and all.
    pub counts: Vec<Count>,
    /// Metrics of one's own that come as one number a variant.
    pub scalars: Vec<Scalar>,
    /// Candidate requests that a step must have seen before it may pass.
    pub min_requests: u64,
    /// The candidate's latency is not judged for this long, from the start and from each new instance.
    pub warm_up: Duration,
    /// Whether a share of requests that is not the weight gives an alarm; only where requests are split one by one.
    pub check_split: bool,
    /// Candidates judged side by side, each by a judge of its own: the false rollbacks are shared among them.
    pub candidates: u32,
    pub names: Names,
}

/// What the variants are called in sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    pub candidate: String,
    pub baseline: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Errors {
    /// A candidate beyond this multiple of the baseline has to be caught. Up to 1.2 times (or this, if less) is tolerated.
    pub max_ratio: f64,
    /// The share of requests that may fail; decides alone where the baseline has no traffic.
    pub max: f64,
}

/// `{ quantile: 0.99, max_ratio: 1.2 }`: the p99, at most 1.2 times the baseline's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantile {
    pub quantile: f64,
    pub max_ratio: f64,
    /// Decides alone where the baseline has no traffic.
    pub max_ms: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Count {
    pub name: String,
    pub max_ratio: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Scalar {
    pub name: String,
    pub bound: Bound,
    pub no_data: NoData,
}

/// What a sample of a scalar must keep to; beyond it, it is a breach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    MaxRatio(f64),
    MinRatio(f64),
    Max(f64),
    Min(f64),
}

/// What a sample that could not be had counts as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoData {
    #[default]
    Hold,
    Breach,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PolicyError {
    #[error("{key} is {value}; it must be above {above} and at most {most}")]
    Range { key: &'static str, value: f64, above: f64, most: f64 },
    #[error("{key} is {value}; it must be 1 to 1000")]
    Ratio { key: &'static str, value: f64 },
    #[error("buckets must have first > 0, growth above 1 and at most 2, and a count of 2 to {MOST_BUCKETS}")]
    Buckets,
    #[error("latency is judged by a histogram: its buckets are missing")]
    NoBuckets,
    #[error("at most {MOST_METRICS} quantiles, counts and scalars together")]
    Metrics,
}

const MOST_METRICS: usize = 64;
const MOST_BUCKETS: usize = 4096;

impl Default for Policy {
    /// Errors only, at most one in a hundred healthy releases rolled back.
    fn default() -> Policy {
        Policy {
            false_rollback: 0.01,
            errors: Errors { max_ratio: 1.5, max: 0.01 },
            quantiles: Vec::new(),
            counts: Vec::new(),
            scalars: Vec::new(),
            min_requests: 20,
            warm_up: Duration::ZERO,
            check_split: true,
            candidates: 1,
            names: Names { candidate: "canary".to_owned(), baseline: "stable".to_owned() },
        }
    }
}

impl Policy {
    /// The first thing that is wrong with it.
    pub fn check(&self) -> Result<(), PolicyError> {
        let range = |key, value: f64, above: f64, most: f64| match value > above && value <= most {
            true => Ok(()),
            false => Err(PolicyError::Range { key, value, above, most }),
        };
        let ratio = |key, value: f64| match (1.0..=1000.0).contains(&value) {
            true => Ok(()),
            false => Err(PolicyError::Ratio { key, value }),
        };
        range("false_rollback", self.false_rollback, 0.0, 0.5)?;
        ratio("error_ratio", self.errors.max_ratio)?;
        range("error_limit", self.errors.max, 0.0, 1.0)?;
        range("candidates", f64::from(self.candidates), 0.0, 64.0)?;
        for quantile in &self.quantiles {
            range("latency_quantile", quantile.quantile, 0.0, 0.9999)?;
            ratio("latency_ratio", quantile.max_ratio)?;
            range("latency_limit_ms", quantile.max_ms.unwrap_or(1.0), 0.0, 1e9)?;
        }
        for count in &self.counts {
            ratio("ratio of a count", count.max_ratio)?;
        }
        for scalar in &self.scalars {
            match scalar.bound {
                Bound::MaxRatio(most) => ratio("custom_max_ratio", most)?,
                Bound::MinRatio(least) => range("custom_min_ratio", least, 0.0, 1.0)?,
                Bound::Max(limit) | Bound::Min(limit) => range("limit of a scalar", limit, f64::MIN, f64::MAX)?,
            }
        }
        if self.quantiles.len() + self.counts.len() + self.scalars.len() > MOST_METRICS {
            return Err(PolicyError::Metrics);
        }
        Ok(())
    }

    /// E-processes that can roll back; those of absolute limits share one place, see [`Policy::limits`].
    fn processes(&self) -> usize {
        2 + self.quantiles.len() + self.counts.len() + self.scalars.len()
    }

    /// Absolute limits that decide alone at 100 %.
    fn limits(&self) -> usize {
        1 + self.quantiles.iter().filter(|quantile| quantile.max_ms.is_some()).count()
    }

    pub(super) fn bars(&self) -> Bars {
        let processes = self.processes().max(4) as f64 * f64::from(self.candidates);
        let proven = (processes / self.false_rollback).ln();
        Bars { proven, proven_alone: proven + (self.limits() as f64).ln() }
    }
}

/// Where evidence, in logarithms, begins to decide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bars {
    /// Harm, with a share of the false rollbacks for each process: by Ville's inequality over all looks together.
    pub proven: f64,
    pub proven_alone: f64,
}

impl Bars {
    /// Evidence of harm at which nothing is let through any more: 10.
    pub const SUSPICION: f64 = std::f64::consts::LN_10;
    /// Evidence of harmlessness at which a gate opens: 20, five in a hundred bad candidates at most.
    pub const HARMLESS: f64 = 2.995_732_273_553_991;
    /// Bad requests of a candidate below which nothing is proven.
    pub const LEAST_BAD: u64 = 3;
}

/// A histogram's buckets: 0 is up to `first_ms`, i is `(first * growth^(i-1), first * growth^i]`, the last is open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Buckets {
    first_ms: f64,
    growth: f64,
    count: usize,
}

impl Buckets {
    /// The judge's thresholds are as fine as the buckets: growth should be 1.04 at most.
    pub fn new(first_ms: f64, growth: f64, count: usize) -> Result<Buckets, PolicyError> {
        let valid = first_ms > 0.0 && first_ms.is_finite() && growth > 1.0 && growth <= 2.0;
        match valid && (2..=MOST_BUCKETS).contains(&count) {
            true => Ok(Buckets { first_ms, growth, count }),
            false => Err(PolicyError::Buckets),
        }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// The upper bound of a bucket, in milliseconds; that of the last is where it would end if it were not open.
    pub fn upper_ms(&self, bucket: usize) -> f64 {
        self.first_ms * self.growth.powf(bucket as f64)
    }

    /// The first bucket whose every request took at least `ms`, without those of the open end; None beyond.
    pub(super) fn first_over(&self, ms: f64) -> Option<usize> {
        let index = ((ms / self.first_ms).ln() / self.growth.ln() - 1e-9).ceil().max(0.0) as usize;
        Some(index + 1).filter(|bucket| *bucket < self.count)
    }

    /// How many buckets further a value is that is `ratio` times as large.
    pub(super) fn shift(&self, ratio: f64) -> usize {
        (ratio.ln() / self.growth.ln() - 1e-9).ceil().max(0.0) as usize
    }
}
