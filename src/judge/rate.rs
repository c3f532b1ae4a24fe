//! A metric that is a share of requests: failures, or bad counts of one's own.

use super::Moment;
use super::alone::{Beyond, Limit, is_alone};
use super::comparison::{Comparison, Sizes};
use super::evidence::{Null, Pair};
use super::verdict::{Cause, MetricVerdict, Unit};
use super::words::{about, grouped, percent, points, short, span};

/// What is tolerated at most: this much more than the baseline, whatever the policy's limit. The limit as the tolerance
/// would take twenty times the requests to find what is just beyond it.
const TOLERANCE: Null = Null { ratio: 1.2, extra: 1e-4 };

/// Assumed of a baseline that was not seen yet.
const ASSUMED_RATE: f64 = 0.002;

/// The margins of gates to 10, 25, 50 and 100 %; those of other weights lie between.
const MARGINS: [f64; 4] = [0.01, 0.004, 0.002, 0.001];

/// Without any request of the candidate for this long, it may be gone.
const QUIET_SECONDS: f64 = 60.0;

#[derive(Clone, Debug)]
pub(super) struct Rate {
    name: String,
    max_ratio: f64,
    comparison: Comparison,
    limit: Option<Limit>,
}

impl Rate {
    pub fn new(name: &str, max_ratio: f64, max: Option<f64>) -> Rate {
        let tolerance = Null { ratio: TOLERANCE.ratio.min(max_ratio), ..TOLERANCE };
        Rate {
            name: name.to_owned(),
            max_ratio,
            comparison: Comparison::new(tolerance, Sizes::OF_ERRORS, ASSUMED_RATE, max_ratio, &MARGINS),
            limit: max.map(Limit::new),
        }
    }

    pub fn flush(&mut self) {
        self.comparison.flush();
    }

    pub fn check(&mut self, pair: Pair, moment: &Moment) -> MetricVerdict {
        if is_alone(&pair, moment.full) {
            self.comparison.add_alone(pair.candidate);
        } else {
            self.comparison.add(pair, moment.seconds);
        }
        if let Some(limit) = &mut self.limit {
            limit.add(&pair, moment.full, moment.seconds);
        }
        self.verdict(moment)
    }

    fn verdict(&self, moment: &Moment) -> MetricVerdict {
        let (cause, reason) = self.cause(moment);
        let seen = self.comparison.seen();
        let limit = match &self.limit {
            Some(limit) if moment.full => limit.limit(),
            _ => Null { ratio: self.max_ratio, extra: moment.margin }.boundary(self.comparison.baseline_rate()),
        };
        MetricVerdict {
            name: self.name.clone(),
            verdict: cause.verdict(),
            cause,
            unit: Unit::Share,
            candidate: seen.candidate.share(),
            baseline: seen.baseline.share(),
            limit: Some(limit),
            samples: seen.candidate.total,
            needs: self.needs(moment).filter(|_| cause == Cause::TooFew),
            reason,
        }
    }

    fn cause(&self, moment: &Moment) -> (Cause, String) {
        let (comparison, name, names) = (&self.comparison, self.name_in_words(), moment.names);
        let seen = comparison.seen();
        if comparison.is_harmful(moment.bars) {
            let Null { ratio, extra } = comparison.tolerance();
            let tolerated = format!("{}× {} + {}", short(ratio), names.baseline, points(extra));
            return (Cause::Proven, format!("{name} {}: above {tolerated} beyond doubt", self.shown(moment)));
        }
        if let Some((cause, reason)) = self.limit.as_ref().and_then(|limit| self.beyond(limit, moment)) {
            return (cause, reason);
        }
        if comparison.is_suspicious() {
            let (now, needed) = (comparison.log_harm().exp(), moment.bars.proven.exp());
            let evidence = format!("evidence {} of the {} that roll back", short(now), short(needed));
            return (Cause::Suspicion, format!("{name} {}: looks worse, not proven ({evidence})", self.shown(moment)));
        }
        if seen.candidate.total == 0 {
            return (Cause::NoData, format!("{name}: no {} requests yet", names.candidate));
        }
        if moment.idle > QUIET_SECONDS {
            let quiet = format!("no {} requests for {}", names.candidate, span(moment.idle));
            return (Cause::NoData, format!("{name}: {quiet}"));
        }
        self.gate(moment)
    }

    /// What the absolute limit has to say, if anything.
    fn beyond(&self, limit: &Limit, moment: &Moment) -> Option<(Cause, String)> {
        let (name, names) = (self.name_in_words(), moment.names);
        let (alone, bad) = (limit.alone(), self.comparison.seen().candidate.bad);
        let [candidate, baseline] = limit.recent().map(percent);
        if moment.full && (limit.is_broken(moment.bars, bad) || limit.is_suspicious()) {
            let broken = limit.is_broken(moment.bars, bad);
            let rate = percent(alone.share().unwrap_or(0.0));
            let counts = format!("{} of {} requests at 100 %", grouped(alone.bad), grouped(alone.total));
            let (cause, how) = match broken {
                true => (Cause::Proven, "above the limit of"),
                false => (Cause::Suspicion, "looks to be above, not proven, the limit of"),
            };
            let limit = percent(limit.limit());
            return Some((
                cause,
                format!("{name} {rate} ({counts}): {how} {limit}, and no {} traffic", names.baseline),
            ));
        }
        let max = percent(limit.max());
        match limit.beyond() {
            Beyond::Both => Some((
                Cause::SharedBreach,
                format!(
                    "{name} above {max} in both versions ({} {candidate}, {} {baseline} in the last minute): a cause that \
                     they share, so no rollback",
                    names.candidate, names.baseline
                ),
            )),
            Beyond::Candidate => {
                let rates = format!("{} {candidate}, {} {baseline}", names.candidate, names.baseline);
                Some((Cause::OverLimit, format!("{name} above the limit of {max} in the last minute ({rates})")))
            }
            Beyond::Neither => None,
        }
    }

    fn gate(&self, moment: &Moment) -> (Cause, String) {
        let names = moment.names;
        let harm = format!("{} above {}× {}", self.name_in_words(), short(self.max_ratio), names.baseline);
        let wanted = points(moment.margin);
        let gate = self.comparison.gate(moment.margin);
        let missing = moment.min_requests.saturating_sub(moment.in_step);
        if gate.is_passed() && missing == 0 {
            return (Cause::Harmless, format!("{harm} + {wanted} ruled out: {}", self.shown(moment)));
        }
        if gate.is_passed() {
            let more = format!("needs {} more requests in this step", grouped(missing));
            return (Cause::TooFew, format!("{harm} + {wanted} ruled out; {more}"));
        }
        let so_far = match gate.excluded_margin() {
            Some(margin) => format!("ruled out up to +{}, wanted +{wanted}", points(margin)),
            None => format!("+ {wanted} not ruled out yet"),
        };
        match self.needs(moment) {
            Some(needs) => (Cause::TooFew, format!("{harm} {so_far}; needs about {} more requests", about(needs))),
            None => (Cause::NoData, format!("{harm} {so_far}; there is no {} traffic to compare with", names.baseline)),
        }
    }

    /// Candidate requests still to come before the gate and the step's minimum are met; None without a baseline.
    fn needs(&self, moment: &Moment) -> Option<u64> {
        if moment.full {
            return None;
        }
        let needs = self.comparison.gate(moment.margin).needs(self.comparison.baseline_rate(), moment.per_baseline)?;
        Some(needs.max(moment.min_requests.saturating_sub(moment.in_step)))
    }

    /// `7.1 % (8 of 112 requests) against 0.52 % of stable`
    fn shown(&self, moment: &Moment) -> String {
        let seen = self.comparison.seen();
        let rate = percent(seen.candidate.share().unwrap_or(0.0));
        let counts = format!("{} of {} requests", grouped(seen.candidate.bad), grouped(seen.candidate.total));
        let baseline = percent(seen.baseline.share().unwrap_or(0.0));
        format!("{rate} ({counts}) against {baseline} of {}", moment.names.baseline)
    }

    fn name_in_words(&self) -> &str {
        if self.name == super::ERROR_RATE { "error rate" } else { &self.name }
    }
}
