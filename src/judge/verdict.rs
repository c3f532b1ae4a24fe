//! What a check comes to, for machines and for people.

use serde::Serialize;

/// Hold is "not enough evidence", and never promotes nor rolls back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Fail,
    Hold,
    Pass,
}

/// Why a metric is judged as it is; the first of several metrics' causes, in this order, decides a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The candidate is worse than the policy allows, beyond doubt. The only one that fails.
    Proven,
    /// Candidate and baseline both break an absolute limit: not the candidate's doing.
    SharedBreach,
    /// The candidate looks worse, not beyond doubt.
    Suspicion,
    /// The candidate breaks an absolute limit, and the baseline does not.
    OverLimit,
    /// Nothing to judge by: no requests, no sample, no baseline.
    NoData,
    /// Judged for too short, or by too few requests, to rule harm out.
    TooFew,
    /// Harm beyond the policy's limit is ruled out.
    Harmless,
}

impl Cause {
    pub fn verdict(self) -> Verdict {
        match self {
            Cause::Proven => Verdict::Fail,
            Cause::Harmless => Verdict::Pass,
            _ => Verdict::Hold,
        }
    }
}

/// What values and limits of a metric are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A share of requests, 0..=1.
    Share,
    Milliseconds,
    /// Whatever the metric's source measures.
    Plain,
}

/// One metric's part in a [`Judgement`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricVerdict {
    /// `error-rate`, `p99`, or the name that the policy gives.
    pub name: String,
    pub verdict: Verdict,
    pub cause: Cause,
    pub unit: Unit,
    /// Of the whole rollout for shares, of the last minutes for latency, the last sample for scalars.
    pub candidate: Option<f64>,
    pub baseline: Option<f64>,
    /// What the candidate's value is held against at present.
    pub limit: Option<f64>,
    /// Candidate requests, or samples, judged so far.
    pub samples: u64,
    /// About how many more candidate requests the gate needs if the candidate does as well as the baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<u64>,
    /// A sentence for people.
    pub reason: String,
}

/// What a check comes to: the worst of its metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    pub verdict: Verdict,
    /// The sentence of the metric that decided.
    pub reason: String,
    /// In the policy's order: errors, quantiles, counts, scalars.
    pub metrics: Vec<MetricVerdict>,
    /// Something to look at that says nothing about the candidate: its share of the requests is not its weight.
    pub alarm: Option<String>,
}

impl Judgement {
    /// `metrics` has at least one.
    pub(super) fn of(metrics: Vec<MetricVerdict>, alarm: Option<String>) -> Judgement {
        let decisive = metrics.iter().min_by_key(|metric| metric.cause).expect("errors are always judged");
        Judgement { verdict: decisive.cause.verdict(), reason: decisive.reason.clone(), metrics, alarm }
    }

    /// The metric that decided.
    pub fn decisive(&self) -> &MetricVerdict {
        self.metrics.iter().min_by_key(|metric| metric.cause).expect("errors are always judged")
    }
}
