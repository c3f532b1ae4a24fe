//! Candidate against baseline, by bad and all requests: whether the candidate does harm, and whether harm beyond the
//! policy's limit is ruled out.
//!
//! Both questions are asked of the same counts with bets of opposite sign. Nothing is assumed of the baseline's rate,
//! which may change from check to check: what hits both variants is evidence of neither.

use super::evidence::{Decayed, Fading, Null, Pair, StartMix, Tally};
use super::policy::Bars;

/// Sizes of harm that are bet on, as multiples of the boundary, and the capital that each begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    multiples: [f64; 8],
    prior: [f64; 8],
}

impl Sizes {
    pub const OF_ERRORS: Sizes =
        Sizes { multiples: [1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, f64::INFINITY], prior: PRIOR };
    /// A share of slow requests starts at 1 to 10 % and has less room to grow.
    pub const OF_SLOWNESS: Sizes =
        Sizes { multiples: [1.3, 1.6, 2.0, 3.0, 5.0, 10.0, 30.0, f64::INFINITY], prior: PRIOR };
}

const PRIOR: [f64; 8] = [0.10, 0.15, 0.20, 0.20, 0.15, 0.10, 0.05, 0.05];

/// A size nearer than this to the boundary, by rates being at most 1, is not bet on.
const LEAST_STEP: f64 = 1.05;

/// Weight of the rate that is assumed before anything was seen, in requests.
const ASSUMED_REQUESTS: f64 = 200.0;

/// Checks are joined until the baseline has this many requests.
pub(super) const LEAST_BASELINE: u64 = 5;

#[derive(Clone, Debug)]
pub(super) struct Comparison {
    null: Null,
    sizes: Sizes,
    mix: StartMix<8>,
    /// The baseline's rate in earlier checks. It sizes bets: if it is wrong, detection takes longer, no more.
    baseline: Decayed,
    pending: Pair,
    pending_seconds: f64,
    seen: Pair,
    gates: Vec<Gate>,
}

impl Comparison {
    /// Tolerates what `null` allows; `rate` is assumed of the baseline until there is something to go by. Harm that a
    /// gate rules out is more than `ratio` times the baseline and a margin; `margins`: about those that will be asked for.
    pub fn new(null: Null, sizes: Sizes, rate: f64, ratio: f64, margins: &[f64]) -> Comparison {
        Comparison {
            null,
            sizes,
            mix: StartMix::new(sizes.prior),
            baseline: Decayed::new(rate, ASSUMED_REQUESTS, Fading::SLOW),
            pending: Pair::default(),
            pending_seconds: 0.0,
            seen: Pair::default(),
            gates: margins.iter().map(|margin| Gate::new(Null { ratio, extra: *margin })).collect(),
        }
    }

    /// Takes in a check of both variants.
    pub fn add(&mut self, pair: Pair, seconds: f64) {
        self.seen = joined(self.seen, pair);
        self.pending = joined(self.pending, pair);
        self.pending_seconds += seconds;
        if self.pending.baseline.total >= LEAST_BASELINE {
            self.weigh();
        }
    }

    /// Takes in requests of the candidate that have nothing to be compared with.
    pub fn add_alone(&mut self, candidate: Tally) {
        self.seen.candidate = self.seen.candidate.plus(candidate);
    }

    /// Ends a joined check: at a change of weights, since within one both variants must see the same mix.
    pub fn flush(&mut self) {
        if self.pending.baseline.total > 0 {
            self.weigh();
        } else {
            (self.pending, self.pending_seconds) = (Pair::default(), 0.0);
        }
    }

    fn weigh(&mut self) {
        let pair = std::mem::take(&mut self.pending);
        let seconds = std::mem::take(&mut self.pending_seconds);
        if pair.candidate.total > 0 {
            let per_baseline = pair.candidate.total as f64 / pair.baseline.total as f64;
            let rate = self.baseline.rate();
            let base = self.null.boundary(rate);
            let log_es = self.sizes.multiples.map(|multiple| {
                let alternative = (multiple * base).min(1.0);
                if alternative <= LEAST_STEP * base {
                    return 0.0;
                }
                self.null.log_e(&pair, self.null.excess(alternative, rate, per_baseline).max(0.0))
            });
            self.mix.update(log_es, seconds);
            for gate in &mut self.gates {
                gate.add(&pair, rate);
            }
        }
        self.baseline.add(pair.baseline, seconds);
    }

    /// The gate that lets this margin through.
    pub fn gate(&self, margin: f64) -> Gate {
        let distance = |gate: &Gate| (gate.null.extra / margin).ln().abs();
        let nearest = self.gates.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
        nearest.expect("a comparison has a gate").at(margin)
    }

    /// Everything that was taken in.
    pub fn seen(&self) -> Pair {
        self.seen
    }

    /// What the baseline's rate is taken for at present.
    pub fn baseline_rate(&self) -> f64 {
        self.baseline.rate()
    }

    pub fn tolerance(&self) -> Null {
        self.null
    }

    pub fn log_harm(&self) -> f64 {
        self.mix.log_e()
    }

    pub fn is_harmful(&self, bars: &Bars) -> bool {
        self.log_harm() >= bars.proven && self.seen.candidate.bad >= Bars::LEAST_BAD
    }

    pub fn is_suspicious(&self) -> bool {
        self.log_harm() >= Bars::SUSPICION
    }
}

fn joined(a: Pair, b: Pair) -> Pair {
    Pair { candidate: a.candidate.plus(b.candidate), baseline: a.baseline.plus(b.baseline) }
}

/// Evidence against a candidate beyond `null`, read with >=: the product over all checks since the rollout began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    null: Null,
    log_e: f64,
    /// Candidate requests times what was staked on each.
    staked: f64,
}

impl Gate {
    fn new(null: Null) -> Gate {
        Gate { null, log_e: 0.0, staked: 0.0 }
    }

    fn add(&mut self, pair: &Pair, rate: f64) {
        let excess = self.excess(rate, pair.candidate.total as f64 / pair.baseline.total as f64);
        self.log_e += self.null.log_e(pair, excess);
        self.staked -= pair.candidate.total as f64 * excess;
    }

    /// The same bets against another margin: in (1) only the last term changes, and any bets are valid.
    fn at(&self, margin: f64) -> Gate {
        let log_e = self.log_e + (margin - self.null.extra) * self.staked;
        Gate { null: Null { extra: margin, ..self.null }, log_e, ..*self }
    }

    fn excess(&self, rate: f64, per_baseline: f64) -> f64 {
        let alternative = rate.max(0.02 * self.null.boundary(rate));
        self.null.excess(alternative, rate, per_baseline).clamp(-0.98, 0.0)
    }

    pub fn is_passed(&self) -> bool {
        self.log_e >= Bars::HARMLESS
    }

    pub fn null(&self) -> Null {
        self.null
    }

    /// The margin, as a share, beyond which harm is ruled out by now; None while that says nothing.
    pub fn excluded_margin(&self) -> Option<f64> {
        let margin = self.null.extra + (Bars::HARMLESS - self.log_e) / self.staked;
        (self.staked > 0.0 && margin < 1.0).then_some(margin.max(0.0))
    }

    /// Candidate requests until the gate is passed, if the candidate is as good as a baseline with this rate.
    pub fn needs(&self, rate: f64, per_baseline: f64) -> Option<u64> {
        let excess = self.excess(rate, per_baseline);
        let stake = self.null.ratio * per_baseline * excess;
        let growth = rate * excess.ln_1p() + rate / per_baseline * (-stake).ln_1p() - self.null.extra * excess;
        let needs = ((Bars::HARMLESS - self.log_e) / growth).ceil();
        (growth > 0.0 && needs < 1e15).then_some(needs.max(0.0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(nc: u64, xc: u64, ns: u64, xs: u64) -> Pair {
        Pair { candidate: Tally { total: nc, bad: xc }, baseline: Tally { total: ns, bad: xs } }
    }

    fn errors() -> Comparison {
        let margins = [0.01, 0.004, 0.002, 0.001];
        Comparison::new(Null { ratio: 1.2, extra: 1e-4 }, Sizes::OF_ERRORS, 0.002, 1.5, &margins)
    }

    #[test]
    fn a_clean_candidate_passes_the_gates_after_as_many_requests_as_promised() {
        for (margin, requests) in [(0.01, 300), (0.004, 750), (0.002, 1500), (0.001, 3000)] {
            let mut comparison = errors();
            let first = comparison.gate(margin).needs(1e-6, 1.0 / 19.0).unwrap();
            let mut seen = 0;
            while !comparison.gate(margin).is_passed() {
                comparison.add(pair(1, 0, 19, 0), 0.1);
                seen += 1;
            }
            assert!((seen as f64 / f64::from(requests) - 1.0).abs() < 0.1, "{margin}: {seen}");
            assert!((first as f64 / seen as f64 - 1.0).abs() < 0.1, "{first} said, {seen} taken");
        }
    }

    #[test]
    fn the_margin_that_is_excluded_shrinks_to_the_gates_own() {
        let mut comparison = errors();
        assert_eq!(comparison.gate(0.004).excluded_margin(), None);
        let mut last = 1.0;
        for _ in 0..800 {
            comparison.add(pair(1, 0, 19, 0), 0.1);
            let margin = comparison.gate(0.004).excluded_margin().unwrap_or(1.0);
            assert!(margin <= last);
            last = margin;
        }
        assert!(comparison.gate(0.004).is_passed() && last <= 0.004, "{last}");
    }

    #[test]
    fn small_checks_are_joined_and_joined_checks_end_with_the_weight() {
        let mut comparison = errors();
        comparison.add(pair(3, 3, 4, 0), 1.0);
        assert_eq!(comparison.log_harm(), 0.0);
        comparison.flush();
        assert!(comparison.log_harm() > 0.0);
        let mut one_by_one = errors();
        for _ in 0..4 {
            one_by_one.add(pair(1, 1, 1, 0), 1.0);
        }
        assert_eq!(one_by_one.log_harm(), 0.0);
        one_by_one.add(pair(1, 1, 1, 0), 1.0);
        let mut at_once = errors();
        at_once.add(pair(5, 5, 5, 0), 5.0);
        assert_eq!(one_by_one.log_harm(), at_once.log_harm());
        // Without any baseline there is nothing to compare with.
        let mut alone = errors();
        alone.add(pair(100, 100, 0, 0), 1.0);
        alone.flush();
        alone.add(pair(0, 0, 100, 0), 1.0);
        assert_eq!(alone.log_harm(), 0.0);
        assert_eq!(alone.seen().candidate, Tally { total: 100, bad: 100 });
    }

    #[test]
    fn a_margin_between_gates_is_as_good_as_one_of_its_own() {
        let mut comparison = errors();
        let mut own = Comparison::new(Null { ratio: 1.2, extra: 1e-4 }, Sizes::OF_ERRORS, 0.002, 1.5, &[0.0033]);
        for at in 0..200 {
            let pair = pair(50, at % 20 / 19, 950, 3);
            comparison.add(pair, 10.0);
            own.add(pair, 10.0);
            let (near, exact) = (comparison.gate(0.0033), own.gate(0.0033));
            assert!((near.log_e - exact.log_e).abs() <= 0.1 + 0.1 * exact.log_e.abs(), "{near:?} {exact:?}");
        }
        assert!(own.gate(0.0033).is_passed());
    }
}
