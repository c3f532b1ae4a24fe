//! The token buckets of a route's rate limit, shared by all workers without a lock: a fixed number of places, each two
//! atomic words.
//!
//! A key's bucket is in one of the few places that its hash points to. Where all of them are taken, the one that is full
//! first is given up: forgetting a full bucket forgets nothing, and otherwise a client gets back what it had used. So
//! memory is bounded, and what a flood of keys can do is be served.

use super::outcomes::Count;
use crate::routing::rate::RateLimit;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Places that a key may be in.
const WAYS: usize = 8;

/// One route's limit at work.
#[derive(Debug)]
pub struct Limiter {
    pub limit: RateLimit,
    pub outcomes: Arc<RateOutcomes>,
    places: Box<[Place]>,
    /// So that nobody can choose keys that share a place.
    seed: u64,
    began: Instant,
}

#[derive(Debug, Default)]
struct Place {
    /// The key's hash; 0: nobody's.
    key: AtomicU64,
    /// When the bucket is full, in nanoseconds since the limiter began.
    full_at: AtomicU64,
}

impl Limiter {
    pub fn new(limit: RateLimit, outcomes: Arc<RateOutcomes>) -> Limiter {
        let places = limit.max_keys.next_power_of_two().max(WAYS);
        let places = (0..places).map(|_| Place::default()).collect();
        Limiter { limit, outcomes, places, seed: RandomState::new().hash_one(0), began: Instant::now() }
    }

    /// A token for a request of this key now; otherwise how long there is none. `source` is the key's place among the
    /// limit's: a header's value is no address.
    pub fn take(&self, source: usize, key: &[u8]) -> Result<(), Duration> {
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX / 2);
        let hash = xxh3_64_with_seed(key, self.seed.wrapping_add(source as u64)).max(1);
        self.take_at(hash, now)
    }

    fn take_at(&self, hash: u64, now: u64) -> Result<(), Duration> {
        let bucket = self.bucket(hash);
        let mut full_at = bucket.load(Relaxed);
        loop {
            let next = self.limit.take(full_at, now)?;
            match bucket.compare_exchange_weak(full_at, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(newer) => full_at = newer,
            }
        }
    }

    /// The key's bucket; one that was given up for it is full.
    fn bucket(&self, hash: u64) -> &AtomicU64 {
        let first = hash as usize & (self.places.len() - 1) & !(WAYS - 1);
        let places = &self.places[first..first + WAYS];
        if let Some(place) = places.iter().find(|place| place.key.load(Relaxed) == hash) {
            return &place.full_at;
        }
        let fullest = places.iter().min_by_key(|place| match place.key.load(Relaxed) {
            0 => 0,
            _ => place.full_at.load(Relaxed).max(1),
        });
        let place = fullest.unwrap_or(&places[0]);
        // Another worker that does the same for another key leaves one of the two in the place: a token or two too many.
        place.full_at.store(0, Relaxed);
        place.key.store(hash, Relaxed);
        &place.full_at
    }
}

/// One worker's count of a route's refused requests.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct RateShard {
    pub limited: Count,
}

/// A route's refused requests, counted by every worker. Kept across tables: counters never go back.
#[derive(Debug)]
pub struct RateOutcomes {
    pub shards: Box<[RateShard]>,
}

impl RateOutcomes {
    pub fn new(workers: usize) -> RateOutcomes {
        RateOutcomes { shards: (0..workers).map(|_| RateShard::default()).collect() }
    }
    pub fn limited(&self) -> u64 {
        self.shards.iter().map(|shard| shard.limited.load()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::rate::Rate;
    use crate::routing::sticky::KeySource;

    fn limiter(rate: &str, burst: u32, max_keys: usize) -> Limiter {
        let limit = RateLimit { keys: vec![KeySource::Ip], rate: Rate::parse(rate).unwrap(), burst, max_keys };
        Limiter::new(limit, Arc::new(RateOutcomes::new(1)))
    }

    #[test]
    fn each_key_has_a_bucket_of_its_own() {
        let limiter = limiter("1/h", 2, 1024);
        for key in 0..50_u32 {
            let take = || limiter.take(0, &key.to_be_bytes());
            assert!(take().is_ok() && take().is_ok() && take().is_err(), "{key}");
        }
        assert!(limiter.take(1, &0_u32.to_be_bytes()).is_ok(), "the same text as another key");
    }

    #[test]
    fn workers_share_a_bucket() {
        let limiter = limiter("1/h", 1000, 16);
        let taken: usize = std::thread::scope(|scope| {
            let worker = || (0..1000).filter(|_| limiter.take(0, b"client").is_ok()).count();
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }

    #[test]
    fn with_more_keys_than_places_the_fullest_bucket_is_forgotten() {
        let limiter = limiter("1/h", 2, WAYS);
        for hash in 1..=WAYS as u64 {
            let tokens = if hash == 3 { 1 } else { 2 };
            (0..tokens).for_each(|_| limiter.take_at(hash, 1).unwrap());
        }
        assert!(limiter.take_at(99, 1).is_ok());
        assert!(limiter.take_at(1, 1).is_err(), "an empty bucket is remembered");
        assert!(limiter.places.iter().all(|place| place.key.load(Relaxed) != 3));
        assert_eq!(limiter.places.len(), WAYS);
    }
}
