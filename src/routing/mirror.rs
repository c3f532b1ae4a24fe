//! Which of a route's requests are copied to another pool.
//!
//! The draw is its own, independent of the bucket: a client that keeps its variant is copied now and then like any
//! other. Requests whose copy could not be the same request (`Expect`, `Upgrade`) are never copied, and neither are
//! copies, or two Weirs that mirror to each other would do so for ever.

use super::split::Weight;
use crate::limits::BUCKETS;
use http::header::{self, HeaderMap, HeaderName};
use rand::{Rng, RngExt};
use std::time::Duration;

/// What a copy carries, with the route's name: its receiver can tell that nobody waits for the answer.
pub const X_WEIR_MIRROR: HeaderName = HeaderName::from_static("x-weir-mirror");

/// A route's mirror as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Index into the table's pools.
    pub pool: usize,
    /// Share of the route's requests that is copied.
    pub percent: Weight,
    /// Bytes; a request with a longer body is not copied.
    pub max_body: usize,
    /// For a copy from its start to the end of its answer.
    pub timeout: Duration,
}

impl Mirror {
    /// Whether this request, with the headers that the client sent, is copied.
    pub fn takes(&self, headers: &HeaderMap, rng: &mut (impl Rng + ?Sized)) -> bool {
        let drawn = self.percent == Weight::FULL || rng.random_range(0..BUCKETS) < self.percent.thousandths();
        drawn && ![header::EXPECT, header::UPGRADE, X_WEIR_MIRROR].iter().any(|name| headers.contains_key(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn mirror(percent: f64) -> Mirror {
        let percent = Weight::from_percent(percent).unwrap();
        Mirror { pool: 0, percent, max_body: 1, timeout: Duration::from_secs(1) }
    }

    fn taken(percent: f64, requests: u32) -> u32 {
        let (mirror, mut rng) = (mirror(percent), StdRng::seed_from_u64(11));
        (0..requests).map(|_| u32::from(mirror.takes(&HeaderMap::new(), &mut rng))).sum()
    }

    #[test]
    fn the_share_is_the_percentage() {
        assert_eq!((taken(0.0, 10_000), taken(100.0, 10_000)), (0, 10_000));
        for percent in [0.1, 10.0, 33.333, 99.0] {
            let (n, share) = (1_000_000.0, percent / 100.0);
            let deviation = (f64::from(taken(percent, 1_000_000)) - n * share) / (n * share * (1.0 - share)).sqrt();
            assert!(deviation.abs() < 3.3, "{percent}: {deviation} standard deviations");
        }
    }

    #[test]
    fn the_grain_is_a_thousandth() {
        let taken = taken(0.001, 4_000_000);
        assert!((15..75).contains(&taken), "{taken} of 40 expected");
    }

    #[test]
    fn what_cannot_be_copied_is_not() {
        let mut rng = StdRng::seed_from_u64(1);
        for name in [header::EXPECT, header::UPGRADE, X_WEIR_MIRROR] {
            let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static("x"))]);
            assert!(!mirror(100.0).takes(&headers, &mut rng), "{name}");
        }
    }
}
