//! A route's rate limit: how often a client may ask, decided from one number a key.
//!
//! A token bucket kept as the time at which it is full again (the generic cell rate algorithm): a request moves that time
//! on by what one token takes to come, and is refused if it would be further away than a whole bucket takes.

use super::sticky::KeySource;
use std::fmt;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// In this order; a request counts by the first that it has, and not at all without any.
    pub keys: Vec<KeySource>,
    pub rate: Rate,
    /// Tokens of a full bucket: requests that may come at once. At least one.
    pub burst: u32,
    /// How many keys are remembered.
    pub max_keys: usize,
}

/// Requests within a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least one.
    pub requests: u32,
    pub per: Period,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    Second,
    Minute,
    Hour,
}

impl Period {
    const ALL: [(Period, &str, u64); 3] =
        [(Period::Second, "s", 1), (Period::Minute, "m", 60), (Period::Hour, "h", 3600)];

    fn seconds(self) -> u64 {
        Period::ALL[self as usize].2
    }
}

impl Rate {
    /// `"100/s"`, `"30/m"` or `"5/h"`, up to a million; None for anything else.
    pub fn parse(text: &str) -> Option<Rate> {
        let (number, unit) = text.split_once('/')?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let requests = number.parse().ok().filter(|requests| digits && (1..=1_000_000).contains(requests))?;
        let (per, ..) = *Period::ALL.iter().find(|(_, name, _)| *name == unit)?;
        Some(Rate { requests, per })
    }

    /// Requests of a second, at least one.
    pub fn of_a_second(self) -> u32 {
        self.requests.div_ceil(u32::try_from(self.per.seconds()).unwrap_or(u32::MAX))
    }

    /// How long one token takes to come, in nanoseconds.
    fn token_ns(self) -> u64 {
        self.per.seconds() * 1_000_000_000 / u64::from(self.requests)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.requests, Period::ALL[self.per as usize].1)
    }
}

impl RateLimit {
    /// A request at `now` of a key whose bucket is full at `full_at`, both in nanoseconds: when it is full after that, or
    /// how long there is no token.
    pub fn take(&self, full_at: u64, now: u64) -> Result<u64, Duration> {
        let token = self.rate.token_ns();
        let next = full_at.max(now) + token;
        let most = now + token * u64::from(self.burst);
        if next <= most { Ok(next) } else { Err(Duration::from_nanos(next - most)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(rate: &str, burst: u32) -> RateLimit {
        RateLimit { keys: vec![KeySource::Ip], rate: Rate::parse(rate).unwrap(), burst, max_keys: 1 }
    }

    #[test]
    fn rates_as_written() {
        for text in ["100/s", "30/m", "1/h", "1000000/s"] {
            assert_eq!(Rate::parse(text).map(|rate| rate.to_string()).as_deref(), Some(text));
        }
        for text in ["", "100", "0/s", "-1/s", "+1/s", "1/d", "1/", "/s", "1.5/s", "1000001/s", "99999999999/s", "1/s "]
        {
            assert_eq!(Rate::parse(text), None, "{text}");
        }
        assert_eq!(["100/s", "30/m", "7201/h"].map(|text| Rate::parse(text).unwrap().of_a_second()), [100, 1, 3]);
    }

    #[test]
    fn a_full_bucket_may_be_emptied_at_once() {
        let limit = limit("10/s", 3);
        let second = 1_000_000_000;
        let mut full_at = 0;
        for _ in 0..3 {
            full_at = limit.take(full_at, second).unwrap();
        }
        assert_eq!(limit.take(full_at, second), Err(Duration::from_millis(100)));
        assert_eq!(limit.take(full_at, second + 40_000_000), Err(Duration::from_millis(60)));
        full_at = limit.take(full_at, second + 100_000_000).unwrap();
        assert!(limit.take(full_at, second + 100_000_000).is_err(), "one token came, not more");
    }

    proptest::proptest! {
        #[test]
        fn no_stretch_of_time_has_more_than_the_rate_and_a_burst(
            requests in 1_u32..1000, burst in 1_u32..50, steps in proptest::collection::vec(0_u64..50_000_000, 1..400),
        ) {
            let limit = limit(&format!("{requests}/s"), burst);
            let (mut now, mut full_at) = (1, 0);
            let mut taken = Vec::new();
            for step in steps {
                now += step;
                match limit.take(full_at, now) {
                    Ok(next) => { full_at = next; taken.push(now); }
                    Err(wait) => {
                        let later = now + u64::try_from(wait.as_nanos()).unwrap();
                        proptest::prop_assert!(limit.take(full_at, later).is_ok(), "after the wait there is a token");
                        proptest::prop_assert!(limit.take(full_at, later - 1).is_err(), "and not before");
                    }
                }
            }
            for (at, from) in taken.iter().enumerate() {
                let within = taken[at..].iter().enumerate();
                for (count, until) in within {
                    let allowed = (until - from) / limit.rate.token_ns() + u64::from(burst);
                    proptest::prop_assert!(count as u64 <= allowed, "{count} in {} ns", until - from);
                }
            }
        }
    }
}
