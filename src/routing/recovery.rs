//! What becomes of a request that its target failed: a retry within the variant, a rescue by the baseline.
//!
//! Both have a budget that is a share of the route's traffic. A count a request says nothing of the whole: when every
//! request fails, three attempts each are three times the load on servers that are failing under the load that they
//! have. Out of a budget at most its share is added to the traffic, whatever fails. The small floor is for routes with
//! little traffic, of which a share would be nothing.

use http::{HeaderMap, Method};
use rand::{Rng, RngExt};
use std::time::Duration;

/// A budget looks back over this many seconds.
pub const WINDOW_SECONDS: usize = 10;
/// What a budget allows whatever the traffic, a second, in the whole process.
pub const FLOOR_PER_SECOND: usize = 10;
/// The first retry to a target that has just failed waits up to this long, the next up to twice that, and so on.
const BACKOFF: Duration = Duration::from_millis(25);
const LONGEST_BACKOFF: Duration = Duration::from_millis(250);

/// A route's ways out of a failure; at least one is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    pub retry: Option<Retry>,
    pub rescue: Option<Rescue>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often a request is sent again, at most.
    pub attempts: u32,
    pub on: Failures,
    pub methods: Vec<Method>,
    pub budget: Share,
    /// To the response head, for each attempt; None: all of them share the route's.
    pub timeout: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rescue {
    pub on: Failures,
    pub budget: Share,
    /// Requests that a rule sent to the variant are rescued, too.
    pub forced: bool,
    /// Set on the answer to a rescued request, to the name of the variant that failed.
    pub header: Option<http::HeaderName>,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// No connection; nothing was sent.
    Connect,
    /// No connection in time; nothing was sent.
    ConnectTimeout,
    /// There was no target to connect to.
    NoTarget,
    /// The pool has all the requests that it takes at once.
    Full,
    Reset,
    Timeout,
    /// What came was not HTTP.
    BadResponse,
    /// The target's own answer, or none of the others.
    Answer,
}

impl Failed {
    /// None of the pool's targets would do better.
    pub fn is_the_pool_s(self) -> bool {
        matches!(self, Failed::NoTarget | Failed::Full)
    }
}

/// The failures that a key names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    pub connect: bool,
    pub reset: bool,
    pub timeout: bool,
    pub bad_response: bool,
    /// One bit for each status from 500 to 599.
    statuses: u128,
}

impl Failures {
    /// The words of the configuration beside statuses.
    pub const WORDS: [&'static str; 5] = ["connect", "reset", "timeout", "bad_response", "5xx"];

    /// False for a word that names no failure.
    pub fn add(&mut self, word: &str) -> bool {
        match word {
            "connect" => self.connect = true,
            "reset" => self.reset = true,
            "timeout" => self.timeout = true,
            "bad_response" => self.bad_response = true,
            "5xx" => self.statuses = (1 << 100) - 1,
            _ => match word.parse::<u16>() {
                Ok(status @ 500..=599) => self.statuses |= 1 << (status - 500),
                _ => return false,
            },
        }
        true
    }

    /// In the configuration's words.
    pub fn words(&self) -> Vec<String> {
        let named =
            [(self.connect, 0), (self.reset, 1), (self.timeout, 2), (self.bad_response, 3), (self.has_all(), 4)];
        let words = named.into_iter().filter(|(named, _)| *named).map(|(_, at)| Self::WORDS[at].to_owned());
        let one_by_one = (500..600).filter(|status| !self.has_all() && self.has(*status));
        words.chain(one_by_one.map(|status| status.to_string())).collect()
    }

    /// Whether this is one of them. `status` is what the client would get, from the target or, for want of an answer,
    /// from Weir: `"504"` names time-outs, `"5xx"` every failure.
    pub fn name(&self, failed: Failed, status: u16) -> bool {
        let by_word = match failed {
            Failed::Connect | Failed::NoTarget => self.connect,
            Failed::ConnectTimeout => self.connect || self.timeout,
            Failed::Reset => self.reset,
            Failed::Timeout => self.timeout,
            Failed::BadResponse => self.bad_response,
            Failed::Full | Failed::Answer => false,
        };
        by_word || self.has(status)
    }

    fn has(&self, status: u16) -> bool {
        (500..600).contains(&status) && self.statuses & (1 << (status - 500)) != 0
    }

    fn has_all(&self) -> bool {
        self.statuses == (1 << 100) - 1
    }
}

impl Retry {
    /// A request of which a target may have seen something can be sent again.
    pub fn takes(&self, method: &Method, headers: &HeaderMap) -> bool {
        self.methods.contains(method) && is_replayable(method, headers)
    }
}

/// Twice is as good as once (RFC 9110 §9.2.2): by the method, or by the client's word that the service tells a repeated
/// request by its key.
pub fn is_replayable(method: &Method, headers: &HeaderMap) -> bool {
    method.is_idempotent() && *method != Method::TRACE || headers.contains_key("idempotency-key")
}

/// How long to wait before the `again`th attempt, from 0, at a target that has just failed: up to twice as long each
/// time, drawn, so that what failed together does not come back together.
pub fn backoff(again: u32, rng: &mut (impl Rng + ?Sized)) -> Duration {
    let longest = BACKOFF.saturating_mul(1 << again.min(16)).min(LONGEST_BACKOFF);
    longest.mul_f64(rng.random_range(0.0..1.0))
}

/// A share of traffic or of targets, in thousandths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// From `"10%"` or `"0.5%"`: more than 0, up to 100, at most three decimals.
    pub fn parse(text: &str) -> Option<Share> {
        let number = text.strip_suffix('%')?.trim_end();
        let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || whole.len() > 3 || decimals.len() > 3 || number.contains('.') && !digits(decimals) {
            return None;
        }
        let thousandths = format!("{whole}{decimals:0<3}").parse().ok()?;
        (1..=100_000).contains(&thousandths).then_some(Share(thousandths))
    }

    pub fn of(self, count: u64) -> u64 {
        count.saturating_mul(u64::from(self.0)) / 100_000
    }

    /// 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 100_000.0
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
        write!(f, "{}%", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// How much of a route's traffic of the last seconds may still be sent again. One worker's.
#[derive(Clone, Debug)]
pub struct Budget {
    share: Share,
    floor: u64,
    seconds: [Second; WINDOW_SECONDS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    at: u64,
    requests: u64,
    taken: u64,
}

impl Budget {
    /// One of `workers` that each have a budget.
    pub fn new(share: Share, workers: usize) -> Budget {
        let floor = (FLOOR_PER_SECOND * WINDOW_SECONDS).div_ceil(workers.max(1)) as u64;
        Budget { share, floor, seconds: Default::default() }
    }

    pub fn share(&self) -> Share {
        self.share
    }

    /// A request came. `now` is in seconds and does not go back.
    #[inline]
    pub fn earn(&mut self, now: u64) {
        self.second(now).requests += 1;
    }

    /// Takes one from the budget, if there is one.
    pub fn take(&mut self, now: u64) -> bool {
        let recent = self.seconds.iter().filter(|second| second.at + WINDOW_SECONDS as u64 > now);
        let (requests, taken) = recent.fold((0, 0), |sum, one| (sum.0 + one.requests, sum.1 + one.taken));
        let may = taken < self.floor.max(self.share.of(requests));
        self.second(now).taken += u64::from(may);
        may
    }

    fn second(&mut self, now: u64) -> &mut Second {
        let second = &mut self.seconds[(now % WINDOW_SECONDS as u64) as usize];
        if second.at != now {
            *second = Second { at: now, ..Second::default() };
        }
        second
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn failures(words: &[&str]) -> Failures {
        let mut failures = Failures::default();
        assert!(words.iter().all(|word| failures.add(word)));
        failures
    }

    #[test]
    fn a_status_names_answers_and_what_weir_would_answer() {
        let on = failures(&["connect", "503"]);
        assert!(on.name(Failed::Connect, 502) && on.name(Failed::Answer, 503));
        assert!(!on.name(Failed::Reset, 502) && !on.name(Failed::Answer, 500) && !on.name(Failed::Timeout, 504));
        let all = failures(&["5xx"]);
        assert!(all.name(Failed::Timeout, 504) && all.name(Failed::Answer, 599) && all.name(Failed::Reset, 502));
        assert!(!all.name(Failed::Answer, 404) && !all.name(Failed::Answer, 200));
        assert_eq!((on.words(), all.words()), (vec!["connect".to_owned(), "503".to_owned()], vec!["5xx".to_owned()]));
        assert!(["4xx", "404", "600", "resets", ""].iter().all(|word| !Failures::default().add(word)));
    }

    #[test]
    fn a_post_is_replayable_by_its_key_only() {
        let (none, mut key) = (HeaderMap::new(), HeaderMap::new());
        key.insert("idempotency-key", http::HeaderValue::from_static("a"));
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE] {
            assert!(is_replayable(&method, &none), "{method}");
        }
        for method in [Method::POST, Method::PATCH] {
            assert!(!is_replayable(&method, &none) && is_replayable(&method, &key), "{method}");
        }
    }

    #[test]
    fn shares_as_written() {
        for (text, shown, of_100_000) in
            [("10%", "10%", 10_000), ("0.5%", "0.5%", 500), ("100%", "100%", 100_000), ("0.001%", "0.001%", 1)]
        {
            let share = Share::parse(text).unwrap();
            assert_eq!((share.to_string().as_str(), share.of(100_000)), (shown, of_100_000));
        }
        for text in ["", "10", "%", "0%", "101%", "100.001%", "1.2345%", "-1%", "1.%", ".5%", "1e1%", "+5%"] {
            assert_eq!(Share::parse(text), None, "{text}");
        }
    }

    #[test]
    fn waits_grow_and_are_drawn() {
        let rng = &mut StdRng::seed_from_u64(3);
        for (again, longest) in [(0, 25), (1, 50), (2, 100), (3, 200), (4, 250), (99, 250)] {
            let drawn: Vec<_> = (0..200).map(|_| backoff(again, rng)).collect();
            assert!(drawn.iter().all(|wait| *wait <= Duration::from_millis(longest)), "{again}");
            assert!(drawn.iter().any(|wait| *wait > Duration::from_millis(longest / 2)), "{again}");
        }
    }

    proptest! {
        /// Whatever comes when: in no window is more taken than the share of its requests and the floor, and what the
        /// budget refuses would have been more.
        #[test]
        fn a_budget_is_a_share_of_each_window(
            percent in 1u32..=100,
            workers in 1usize..8,
            steps in proptest::collection::vec((0u64..4, 0u64..60, 0u64..60), 1..60),
        ) {
            let share = Share::parse(&format!("{percent}%")).unwrap();
            let mut budget = Budget::new(share, workers);
            let floor = (FLOOR_PER_SECOND * WINDOW_SECONDS).div_ceil(workers) as u64;
            let (mut now, mut log) = (1_000, Vec::new());
            for (later, requests, wanted) in steps {
                now += later;
                (0..requests).for_each(|_| budget.earn(now));
                log.push((now, requests, 0));
                for _ in 0..wanted {
                    let window = log.iter().filter(|(at, ..)| at + WINDOW_SECONDS as u64 > now);
                    let (came, taken) = window.fold((0, 0), |sum, one| (sum.0 + one.1, sum.1 + one.2));
                    let allowed = floor.max(came * u64::from(percent) / 100);
                    let got = budget.take(now);
                    prop_assert_eq!(got, taken < allowed, "{} of {} taken, {} came", taken, allowed, came);
                    log.push((now, 0, u64::from(got)));
                }
            }
        }
    }
}
