//! Latency quantiles, judged as shares of slow requests.
//!
//! The candidate's p99 is at most 1.2 times the baseline's exactly if at most one in a hundred of its requests is
//! slower than 1.2 times the baseline's p99. So the thresholds come from the baseline's earlier traffic, and what is
//! compared are counts: slow ones of the baseline over its own p99, slow ones of the candidate over 1.2 times that.
//! A drift that both share moves both counts and is evidence of nothing.

use super::Moment;
use super::alone::{Beyond, Limit, is_alone};
use super::comparison::{Comparison, Gate, Sizes};
use super::counts::Counts;
use super::evidence::{Fading, Null, Pair, Tally};
use super::policy::{Buckets, Quantile as QuantilePolicy};
use super::verdict::{Cause, MetricVerdict, Unit};
use super::words::{about, grouped, percent, points, short};

/// Baseline requests, faded, before its quantiles are known well enough.
const LEAST_KNOWN: f64 = 100.0;

/// A candidate is never slow by less than this, whatever the ratio.
const LEAST_SLOWER_MS: f64 = 5.0;

/// A gate is passed when the candidate's share of slow requests is less than this multiple of the baseline's, and a
/// margin of twice the quantile's tail.
const GATE_RATIO: f64 = 1.5;

#[derive(Clone, Debug)]
pub(super) struct Latency {
    buckets: Buckets,
    baseline: Faded,
    candidate: Faded,
    quantiles: Vec<Quantile>,
}

/// Above which durations requests are slow at present.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    pub quantile: f64,
    pub baseline_ms: f64,
    pub candidate_ms: f64,
}

impl Latency {
    pub fn new(buckets: Buckets, policies: &[QuantilePolicy]) -> Latency {
        let quantiles = policies.iter().map(|policy| Quantile::new(*policy, &buckets)).collect();
        let empty = Faded { weights: vec![0.0; buckets.count()], total: 0.0 };
        Latency { buckets, baseline: empty.clone(), candidate: empty, quantiles }
    }

    pub fn flush(&mut self) {
        self.quantiles.iter_mut().for_each(|quantile| quantile.comparison.flush());
    }

    /// For each quantile; None until enough of the baseline was seen, and where they would lie beyond the buckets.
    pub fn thresholds(&self) -> Vec<Option<Thresholds>> {
        let thresholds = |quantile: &Quantile| {
            let (baseline, candidate) = quantile.slow_above(&self.baseline, &self.buckets)?;
            Some(Thresholds {
                quantile: quantile.policy.quantile,
                baseline_ms: self.buckets.upper_ms(baseline),
                candidate_ms: self.buckets.upper_ms(candidate),
            })
        };
        self.quantiles.iter().map(thresholds).collect()
    }

    pub fn check(&mut self, candidate: &Counts, baseline: &Counts, moment: &Moment) -> Vec<MetricVerdict> {
        for (nth, quantile) in self.quantiles.iter_mut().enumerate() {
            let above = quantile.slow_above(&self.baseline, &self.buckets);
            quantile.above = above;
            if moment.warm {
                continue;
            }
            let given = candidate.slow.get(nth).zip(baseline.slow.get(nth));
            let pair = match given {
                Some((candidate, baseline)) => Some(Pair { candidate: *candidate, baseline: *baseline }),
                None => above.map(|(of_baseline, of_candidate)| Pair {
                    candidate: slower_than(&candidate.histogram, of_candidate),
                    baseline: slower_than(&baseline.histogram, of_baseline),
                }),
            };
            quantile.add(pair, candidate, baseline, moment);
        }
        self.baseline.learn(&baseline.histogram, moment.seconds);
        if !moment.warm {
            self.candidate.learn(&candidate.histogram, moment.seconds);
        }
        self.quantiles.iter().map(|quantile| quantile.verdict(self, moment)).collect()
    }
}

fn slower_than(histogram: &[u64], bucket: usize) -> Tally {
    let sum = |counts: &[u64]| counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
    Tally { total: sum(histogram), bad: sum(histogram.get(bucket + 1..).unwrap_or_default()) }
}

/// A histogram that forgets as the baseline's rate does.
#[derive(Clone, Debug)]
struct Faded {
    weights: Vec<f64>,
    total: f64,
}

impl Faded {
    fn learn(&mut self, histogram: &[u64], seconds: f64) {
        let factor = Fading::SLOW.over(seconds);
        let counts = histogram.iter().copied().chain(std::iter::repeat(0));
        self.total = 0.0;
        for (weight, count) in self.weights.iter_mut().zip(counts) {
            let kept = *weight * factor;
            // What is next to nothing is nothing: arithmetic with the smallest numbers is slow.
            *weight = if kept < 1e-9 { 0.0 } else { kept } + count as f64;
            self.total += *weight;
        }
    }

    /// The first bucket up to which at least this share of the requests lies.
    fn quantile(&self, quantile: f64) -> Option<usize> {
        let (mut sum, wanted) = (0.0, quantile * self.total);
        let within = |weight: &f64| {
            sum += weight;
            sum >= wanted
        };
        (self.total > 0.0).then(|| self.weights.iter().position(within).unwrap_or(self.weights.len() - 1))
    }
}

#[derive(Clone, Debug)]
struct Quantile {
    policy: QuantilePolicy,
    name: String,
    shift: usize,
    comparison: Comparison,
    /// The absolute limit, and the first bucket that is wholly beyond it.
    limit: Option<(Limit, usize)>,
    /// The buckets above which requests were slow in the last check: baseline's, candidate's.
    above: Option<(usize, usize)>,
}

/// The share of more slow requests that is tolerated: 0.005 at the p90, 0.001 at the p99, in between along a power.
fn tolerance(tail: f64) -> f64 {
    0.005 * (tail / 0.1).powf(5.0_f64.log10())
}

impl Quantile {
    fn new(policy: QuantilePolicy, buckets: &Buckets) -> Quantile {
        let tail = 1.0 - policy.quantile;
        let null = Null { ratio: 1.0, extra: tolerance(tail) };
        let comparison = Comparison::new(null, Sizes::OF_SLOWNESS, tail, GATE_RATIO, &[2.0 * tail]);
        let over = policy.max_ms.and_then(|ms| buckets.first_over(ms));
        Quantile {
            policy,
            name: format!("p{}", short(policy.quantile * 100.0)),
            shift: buckets.shift(policy.max_ratio),
            comparison,
            limit: over.map(|bucket| (Limit::new(tail), bucket)),
            above: None,
        }
    }

    /// The last buckets that are not slow: of the baseline, of the candidate.
    fn slow_above(&self, baseline: &Faded, buckets: &Buckets) -> Option<(usize, usize)> {
        if baseline.total < LEAST_KNOWN {
            return None;
        }
        let own = baseline.quantile(self.policy.quantile)?;
        let least_ms = buckets.upper_ms(own) + LEAST_SLOWER_MS;
        // The last bucket is open: nothing would be slow beyond it, and that would pass for evidence.
        let of_candidate = (own + self.shift..buckets.count() - 1).find(|at| buckets.upper_ms(*at) >= least_ms)?;
        Some((own, of_candidate))
    }

    fn add(&mut self, pair: Option<Pair>, candidate: &Counts, baseline: &Counts, moment: &Moment) {
        match pair {
            Some(pair) if !is_alone(&pair, moment.full) => self.comparison.add(pair, moment.seconds),
            _ => {}
        }
        if let Some((limit, bucket)) = &mut self.limit {
            let over = |counts: &Counts| slower_than(&counts.histogram, *bucket - 1);
            let over = Pair { candidate: over(candidate), baseline: over(baseline) };
            limit.add(&over, moment.full, moment.seconds);
        }
    }

    fn verdict(&self, all: &Latency, moment: &Moment) -> MetricVerdict {
        let (cause, reason) = self.cause(moment, &all.buckets);
        let value = |faded: &Faded| faded.quantile(self.policy.quantile).map(|at| all.buckets.upper_ms(at));
        let relative = self.above.map(|(_, at)| all.buckets.upper_ms(at));
        MetricVerdict {
            name: self.name.clone(),
            verdict: cause.verdict(),
            cause,
            unit: Unit::Milliseconds,
            candidate: value(&all.candidate),
            baseline: value(&all.baseline),
            limit: if moment.full { self.policy.max_ms.or(relative) } else { relative },
            samples: self.comparison.seen().candidate.total,
            needs: self.needs(moment).filter(|_| cause == Cause::TooFew),
            reason,
        }
    }

    fn cause(&self, moment: &Moment, buckets: &Buckets) -> (Cause, String) {
        let (comparison, names, name) = (&self.comparison, moment.names, &self.name);
        let slower = format!("{}× {}'s", short(self.policy.max_ratio), names.baseline);
        if comparison.is_harmful(moment.bars) {
            return (Cause::Proven, format!("{name} above {slower} beyond doubt: {}", self.shown(moment)));
        }
        if let Some((cause, reason)) = self.limit.as_ref().and_then(|(limit, _)| self.beyond(limit, moment)) {
            return (cause, reason);
        }
        if comparison.is_suspicious() {
            let why = self.shown(moment);
            return (Cause::Suspicion, format!("{name} looks to be above {slower}, not proven: {why}"));
        }
        let warm = if moment.warm { " (not judged during the warm-up)" } else { "" };
        let gate = self.gate();
        let at = match self.above {
            Some((_, at)) => format!("{} ms ({slower})", short(buckets.upper_ms(at))),
            None => slower,
        };
        let rate = comparison.baseline_rate();
        let excluded = gate.null().boundary(rate).min(1.0);
        let harm = format!("{name}: more than {} of requests above {at}", percent(excluded));
        if gate.is_passed() {
            return (Cause::Harmless, format!("{harm} ruled out"));
        }
        match (self.above, self.needs(moment)) {
            (None, _) if !moment.full => {
                (Cause::NoData, format!("{name}: too little of {}'s latency is known{warm}", names.baseline))
            }
            (_, Some(needs)) => {
                let so_far = match gate.excluded_margin() {
                    Some(margin) => format!("ruled out up to +{}", points((margin - gate.null().extra).max(0.0))),
                    None => "not ruled out yet".to_owned(),
                };
                (Cause::TooFew, format!("{harm} {so_far}; needs about {} more requests{warm}", about(needs)))
            }
            (_, None) => {
                let reason =
                    format!("{harm} not ruled out, and there is no {} traffic to compare with", names.baseline);
                (Cause::NoData, reason)
            }
        }
    }

    fn beyond(&self, limit: &Limit, moment: &Moment) -> Option<(Cause, String)> {
        let (name, names) = (&self.name, moment.names);
        let max = format!("{} ms", short(self.policy.max_ms?));
        let alone = limit.alone();
        let [candidate, baseline] = limit.recent().map(percent);
        if moment.full && (limit.is_broken(moment.bars, alone.bad) || limit.is_suspicious()) {
            let counts = format!("{} of {} requests at 100 %", grouped(alone.bad), grouped(alone.total));
            let (cause, how) = match limit.is_broken(moment.bars, alone.bad) {
                true => (Cause::Proven, "above"),
                false => (Cause::Suspicion, "looks to be above, not proven,"),
            };
            let reason = format!("{name} {how} the limit of {max} ({counts}), and no {} traffic", names.baseline);
            return Some((cause, reason));
        }
        let shares = format!("{} {candidate} of requests, {} {baseline}", names.candidate, names.baseline);
        match limit.beyond() {
            Beyond::Both => {
                let reason =
                    format!("{name} above {max} in both versions ({shares}): a cause that they share, so no rollback");
                Some((Cause::SharedBreach, reason))
            }
            Beyond::Candidate => {
                Some((Cause::OverLimit, format!("{name} above the limit of {max} in the last minute ({shares})")))
            }
            Beyond::Neither => None,
        }
    }

    fn needs(&self, moment: &Moment) -> Option<u64> {
        let needs = || self.gate().needs(self.comparison.baseline_rate(), moment.per_baseline);
        if moment.full { None } else { needs() }
    }

    fn gate(&self) -> Gate {
        self.comparison.gate(2.0 * (1.0 - self.policy.quantile))
    }

    /// `61 of 400 requests slow (15.3 %) against 1.1 % of stable`
    fn shown(&self, moment: &Moment) -> String {
        let seen = self.comparison.seen();
        let share = |tally: Tally| percent(tally.share().unwrap_or(0.0));
        let (slow, all) = (grouped(seen.candidate.bad), grouped(seen.candidate.total));
        let (candidate, baseline) = (share(seen.candidate), share(seen.baseline));
        format!("{slow} of {all} requests slow ({candidate}) against {baseline} of {}", moment.names.baseline)
    }
}
