//! The engine: how much a check's counts say against a hypothesis, and what many checks say together.
//!
//! Everything is an *e-process*: a number that is 1 at the start and, while the hypothesis holds, has an expectation of
//! at most 1 whenever one looks. So it exceeds 1/α with probability α at most, over all looks together, and looking
//! often costs nothing. All of it is in logarithms: a regression that lasts makes numbers beyond f64.
//!
//! A bet `a` is held as its excess over 1, `a - 1`: with a candidate that has nearly all the traffic the excess is
//! 1e-9, and the difference from 1 is what counts.

/// Seconds of evidence after which half of the late starts' share has been given out; see [`StartMix`].
const START_HORIZON_SECONDS: f64 = 1500.0;

/// Bad requests and all requests of both variants in the same span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pair {
    pub candidate: Tally,
    pub baseline: Tally,
}

/// How many of `total` were bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub total: u64,
    pub bad: u64,
}

impl Tally {
    pub fn share(self) -> Option<f64> {
        (self.total > 0).then(|| self.bad as f64 / self.total as f64)
    }

    /// The sum; far beyond any real count it stays where it is.
    #[must_use]
    pub fn plus(self, other: Tally) -> Tally {
        Tally { total: self.total.saturating_add(other.total), bad: self.bad.saturating_add(other.bad) }
    }
}

/// The hypothesis `candidate's rate <= ratio * baseline's rate + extra`, in every check anew. Read with >= it is that of
/// a bad candidate, and the bets lie below 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Null {
    pub ratio: f64,
    pub extra: f64,
}

impl Null {
    /// The largest rate of a candidate that the hypothesis allows beside a baseline's.
    pub fn boundary(self, baseline: f64) -> f64 {
        self.ratio * baseline + self.extra
    }

    /// The excess of the bet that grows fastest if the candidate's rate is `alternative` and the baseline's `baseline`,
    /// with `per_baseline` candidate requests for each one of the baseline. Positive above the boundary.
    ///
    /// The smaller root of `q x² - b x + c = 0`. The discriminant is a sum of squares and products, so nothing cancels.
    pub fn excess(self, alternative: f64, baseline: f64, per_baseline: f64) -> f64 {
        let scale = self.ratio * per_baseline;
        let (expected, spread) = (self.ratio * baseline, self.extra * (1.0 + scale));
        let bold = alternative * scale;
        let root = ((bold - spread).powi(2) + expected * (2.0 * (bold + spread) + expected)).sqrt();
        let b = scale * (alternative - self.extra) + expected + self.extra;
        let c = alternative - expected - self.extra;
        if b >= 0.0 { 2.0 * c / (b + root) } else { (b - root) / (2.0 * self.extra * scale) }
    }

    /// Logarithm of a check's e-value under a bet that was fixed before the check. Both variants must have requests.
    pub fn log_e(self, pair: &Pair, excess: f64) -> f64 {
        let (candidate, baseline) = (pair.candidate, pair.baseline);
        let requests = candidate.total as f64;
        let stake = self.ratio * (requests / baseline.total as f64) * excess;
        times(candidate.bad, excess.ln_1p()) + times(baseline.bad, ln_of_rest(stake)) - requests * self.extra * excess
    }
}

/// `ln(1 - stake)`; a stake that rounding made whole costs very much, not everything for ever.
fn ln_of_rest(stake: f64) -> f64 {
    if stake < 1.0 { (-stake).ln_1p() } else { f64::MIN_POSITIVE.ln() }
}

fn times(count: u64, log: f64) -> f64 {
    if count == 0 { 0.0 } else { count as f64 * log }
}

/// Logarithm of the e-value of `tally` against "the rate is at most `limit`", with the bet that it is `rate`.
pub(super) fn log_e_alone(tally: Tally, limit: f64, rate: f64) -> f64 {
    times(tally.bad, (rate / limit).ln()) + times(tally.total - tally.bad, ((limit - rate) / (1.0 - limit)).ln_1p())
}

/// `ln(e^a + e^b)`, without leaving logarithms.
pub(super) fn log_add_exp(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// Evidence over many checks, for J sizes of an effect that may begin at any of them.
///
/// Half of the capital is at work from the first check. The other half is handed out over time, T/(T + t) of it being
/// left after t seconds, so that a regression that begins late is not drowned by a healthy past. What has been handed
/// out depends on the time before a check only, so a check that ends early because of what it saw cannot choose its
/// own share.
#[derive(Clone, Debug)]
pub(super) struct StartMix<const J: usize> {
    log_prior: [f64; J],
    log_capital: [f64; J],
    /// Seconds of all checks with evidence, and of the last of them.
    elapsed: f64,
    last: f64,
    log_e: f64,
}

impl<const J: usize> StartMix<J> {
    pub fn new(prior: [f64; J]) -> StartMix<J> {
        let sum: f64 = prior.iter().sum();
        let log_prior = prior.map(|share| (share / sum).ln());
        StartMix { log_prior, log_capital: [0.5_f64.ln(); J], elapsed: 0.0, last: 0.0, log_e: 0.0 }
    }

    /// Takes in a check of this length, by its e-value under each effect size, and returns the new total.
    pub fn update(&mut self, log_es: [f64; J], seconds: f64) -> f64 {
        let before = START_HORIZON_SECONDS + self.elapsed - self.last;
        let now = START_HORIZON_SECONDS + self.elapsed;
        let held = 0.5 * START_HORIZON_SECONDS / now;
        let log_released = (held * self.last / before).ln();
        let mut total = held.ln();
        for ((capital, log_prior), log_e) in self.log_capital.iter_mut().zip(self.log_prior).zip(log_es) {
            *capital = log_add_exp(*capital, log_released) + log_e;
            total = log_add_exp(total, log_prior + *capital);
        }
        self.elapsed += seconds;
        self.last = seconds;
        self.log_e = total;
        total
    }

    pub fn log_e(&self) -> f64 {
        self.log_e
    }
}

/// A rate that forgets: bad and all requests, fading by [`Fading`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Decayed {
    bad: f64,
    total: f64,
    fading: Fading,
}

/// How fast the past is forgotten: the factor for ten seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fading(pub f64);

impl Fading {
    /// What the baseline's rate is kept with: about eight minutes.
    pub const SLOW: Fading = Fading(0.98);

    pub fn over(self, seconds: f64) -> f64 {
        self.0.powf(seconds / 10.0)
    }
}

/// A rate that cannot be told from 0; smaller ones would stake everything on the baseline never failing.
const LEAST_RATE: f64 = 1e-6;

impl Decayed {
    /// As if `total` requests had shown this rate already.
    pub fn new(rate: f64, total: f64, fading: Fading) -> Decayed {
        Decayed { bad: rate * total, total, fading }
    }

    pub fn rate(&self) -> f64 {
        (self.bad / self.total).clamp(LEAST_RATE, 1.0)
    }

    pub fn bad(&self) -> f64 {
        self.bad
    }

    /// Fades by the time that passed and adds. At least one request's weight stays, so that no rate is ever lost.
    pub fn add(&mut self, tally: Tally, seconds: f64) {
        let factor = self.fading.over(seconds).max((1.0 / self.total).min(1.0));
        self.bad = self.bad * factor + tally.bad as f64;
        self.total = self.total * factor + tally.total as f64;
    }
}
