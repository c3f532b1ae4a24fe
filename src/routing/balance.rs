//! Which of a pool's targets gets a request, where the targets are not all alike or the pool says how to choose.
//!
//! Every way of choosing looks at weights. A target of weight 0 gets nothing: it failed this request, or a moment ago, and
//! others are there.
//!
//! By load (`p2c`, `least_conn`) one target is drawn by weight, and gives way to another only where that would, with
//! the request, still have no more than its part. So shares are the weights' when little is under way, requests in
//! flight are in proportion to them when much is, and among equal targets it is the plain rule: the less busy one.
//!
//! By key each target draws a number from the key and its own address, and the best one wins (rendezvous hashing:
//! Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998; with weights: Schindelhauer and
//! Schomaker, "Weighted distributed hash tables", 2005). Nothing is kept, a target that goes leaves the keys of the others
//! where they are, and a changed weight moves its own part only. The price is a look at every target.

use super::sticky::{IpText, KeySource};
use super::table::RequestView;
use rand::{Rng, RngExt};
use std::cell::Cell;
use xxhash_rust::xxh3::xxh3_64;

/// A target's weight is so many of these: while it starts slowly, a part of them.
pub const WHOLE: u64 = 1000;
/// What a target that starts slowly begins with, of [`WHOLE`].
const LEAST: u64 = 10;

/// A pool's way of choosing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// The less busy one of two drawn at random.
    #[default]
    P2c,
    /// One after the other.
    RoundRobin,
    /// The least busy one.
    LeastConn,
    /// Always the same one for a key.
    Hash(HashKey),
}

impl Balance {
    pub fn word(&self) -> &'static str {
        match self {
            Balance::P2c => "p2c",
            Balance::RoundRobin => "round_robin",
            Balance::LeastConn => "least_conn",
            Balance::Hash(_) => "hash",
        }
    }
}

/// What a request is known by: the first of these that it has, else its client's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HashKey(pub Vec<KeySource>);

impl HashKey {
    /// XXH3-64, with seed 0, of the key's bytes.
    pub fn of(&self, request: &RequestView<'_>) -> u64 {
        match self.0.iter().find_map(|source| source.key(request)) {
            Some(key) => xxh3_64(&key),
            None => xxh3_64(&IpText::of(request.client_ip)),
        }
    }
}

/// By what a target draws its numbers: its address as text, so that every proxy agrees.
pub fn seed(address: &str) -> u64 {
    xxh3_64(address.as_bytes())
}

/// A weight in the midst of a slow start: linear, of `of` steps so many `done`.
pub fn risen(weight: u64, done: u64, of: u64) -> u64 {
    let part = if done >= of { WHOLE } else { (done * WHOLE / of).max(LEAST) };
    weight * part
}

/// The less busy one, for their weights, of two drawn by weight.
pub fn p2c(weights: &[u64], in_flight: impl Fn(usize) -> u64, rng: &mut impl Rng) -> Option<usize> {
    let total: u64 = weights.iter().sum();
    let first = draw(weights, total, None, rng)?;
    let Some(second) = draw(weights, total - weights[first], Some(first), rng) else { return Some(first) };
    Some(if gives_way(weights, &in_flight, first, second) { second } else { first })
}

/// The least busy one, for their weights; of several, one drawn by weight.
pub fn least_conn(weights: &[u64], in_flight: impl Fn(usize) -> u64, rng: &mut impl Rng) -> Option<usize> {
    let first = draw(weights, weights.iter().sum(), None, rng)?;
    let (mut best, mut alike) = (None, 0u64);
    for at in (0..weights.len()).filter(|at| *at != first && weights[*at] > 0) {
        let Some(known) = best else {
            (best, alike) = (Some(at), 1);
            continue;
        };
        let (own, other) = ((in_flight(at) + 1) * weights[known], (in_flight(known) + 1) * weights[at]);
        if own < other {
            (best, alike) = (Some(at), 1);
        } else if own == other {
            alike += 1;
            best = if rng.random_range(0..alike) == 0 { Some(at) } else { best };
        }
    }
    Some(best.filter(|best| gives_way(weights, &in_flight, first, *best)).unwrap_or(first))
}

/// With one more request, `other` would have no more for its weight than `first` has.
fn gives_way(weights: &[u64], in_flight: &impl Fn(usize) -> u64, first: usize, other: usize) -> bool {
    in_flight(first).saturating_mul(weights[other]) >= (in_flight(other) + 1).saturating_mul(weights[first])
}

/// One by weight, of those but `without`; `total` is the sum of their weights.
fn draw(weights: &[u64], total: u64, without: Option<usize>, rng: &mut impl Rng) -> Option<usize> {
    if total == 0 {
        return None;
    }
    let mut left = rng.random_range(0..total);
    for (at, weight) in weights.iter().enumerate().filter(|(at, _)| Some(*at) != without) {
        match left.checked_sub(*weight) {
            Some(rest) => left = rest,
            None => return Some(at),
        }
    }
    None
}

/// The one whose turn it is: each has as many turns as it has weight, spread evenly. `credits` are the targets' own from
/// one choice to the next, 0 at first; the first turn is that of `start`, or one after it.
pub fn next_turn<'c>(weights: &[u64], credits: impl Fn(usize) -> &'c Cell<i64>, start: usize) -> Option<usize> {
    let mut total = 0;
    let mut best: Option<(usize, i64)> = None;
    let places = weights.len();
    for at in (0..places).map(|at| (start + at) % places).filter(|at| weights[*at] > 0) {
        let weight = i64::try_from(weights[at]).unwrap_or(i64::MAX);
        let credit = credits(at).get().saturating_add(weight);
        credits(at).set(credit);
        total += weight;
        if best.is_none_or(|(_, most)| credit > most) {
            best = Some((at, credit));
        }
    }
    let (at, credit) = best?;
    credits(at).set(credit - total);
    Some(at)
}

/// The one that has the key.
pub fn by_key(weights: &[u64], seeds: impl Fn(usize) -> u64, key: u64) -> Option<usize> {
    let here = || (0..weights.len()).filter(|at| weights[*at] > 0);
    let drawn = |at: usize| mixed(key ^ seeds(at));
    let first = weights[here().next()?];
    if here().all(|at| weights[at] == first) {
        return here().max_by_key(|at| drawn(*at));
    }
    // The first event of several, each as frequent as its weight: an exponential race.
    let when = |at: usize| -((((drawn(at) >> 11) + 1) as f64 * (0.5f64).powi(53)).ln()) / weights[at] as f64;
    here().min_by(|a, b| when(*a).total_cmp(&when(*b)))
}

/// Each bit of the outcome depends on every bit (SplitMix64's last step: Steele, Lea and Flood, 2014).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    type Choice = fn(&[u64], &[u64], &mut SmallRng) -> Option<usize>;
    const P2C: Choice = |weights, in_flight, rng| p2c(weights, |at| in_flight[at], rng);
    const LEAST_CONN: Choice = |weights, in_flight, rng| least_conn(weights, |at| in_flight[at], rng);

    /// The shares of 40,000 requests, so many at a time, that all take equally long.
    fn shares(choose: Choice, weights: &[u64], at_once: usize) -> Vec<f64> {
        let mut rng = SmallRng::seed_from_u64(7);
        let (mut in_flight, mut counts) = (vec![0; weights.len()], vec![0; weights.len()]);
        let mut under_way = Vec::new();
        for _ in 0..40_000 {
            if under_way.len() == at_once {
                let done: usize = under_way.swap_remove(rng.random_range(0..at_once));
                in_flight[done] -= 1;
            }
            let at = choose(weights, &in_flight, &mut rng).unwrap();
            in_flight[at] += 1;
            counts[at] += 1;
            under_way.push(at);
        }
        counts.into_iter().map(|count| f64::from(count) / 40_000.0).collect()
    }

    #[test]
    fn shares_follow_weights_however_much_is_under_way() {
        for (name, choose) in [("p2c", P2C), ("least_conn", LEAST_CONN)] {
            for at_once in [1, 2, 4, 8, 32, 128] {
                for weights in [&[3, 1][..], &[1, 1, 1], &[5, 3, 1, 1]] {
                    let sum: u64 = weights.iter().sum();
                    for (share, weight) in shares(choose, weights, at_once).into_iter().zip(weights) {
                        let expected = *weight as f64 / sum as f64;
                        assert!((share - expected).abs() < 0.1, "{name} {at_once} {weights:?}: {share} of {expected}");
                    }
                }
            }
            let exact = shares(choose, &[3, 1], 32);
            assert!((exact[0] - 0.75).abs() < 0.02, "{name}: {exact:?}");
        }
    }

    #[test]
    fn the_least_busy_one_and_of_several_any() {
        let mut rng = SmallRng::seed_from_u64(3);
        let mut seen = [0; 4];
        for _ in 0..1000 {
            seen[LEAST_CONN(&[1, 1, 1, 1], &[2, 1, 9, 1], &mut rng).unwrap()] += 1;
        }
        assert_eq!((seen[0], seen[2]), (0, 0));
        assert!((400..600).contains(&seen[1]), "{seen:?}");
        for _ in 0..100 {
            assert_eq!(LEAST_CONN(&[4, 1], &[3, 1], &mut rng), Some(0), "three of four are less than one of one");
            assert_eq!(P2C(&[4, 1], &[8, 0], &mut rng), Some(1));
        }
    }

    fn turns(weights: &[u64], credits: &[Cell<i64>], times: usize, start: usize) -> Vec<usize> {
        (0..times).map(|_| next_turn(weights, |at| &credits[at], start).unwrap()).collect()
    }

    #[test]
    fn turns_are_spread_and_begin_anywhere() {
        let credits = [const { Cell::new(0) }; 3];
        assert_eq!(turns(&[1, 1, 1], &credits, 6, 0), [0, 1, 2, 0, 1, 2]);
        assert_eq!(turns(&[1, 1, 1], &credits, 3, 2), [2, 0, 1]);
        assert_eq!(turns(&[5, 1, 1], &credits, 7, 0), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(turns(&[1, 0, 1], &credits, 4, 0), [0, 2, 0, 2], "one is out");
        assert_eq!(next_turn(&[0, 0], |at| &credits[at], 0), None);
    }

    #[test]
    fn a_slow_start_rises_to_the_whole_weight() {
        let parts = |weight: u64| [0, 1, 5, 9, 10, 11].map(|done| risen(weight, done, 10));
        assert_eq!(parts(1), [10, 100, 500, 900, 1000, 1000]);
        assert_eq!(parts(3), [30, 300, 1500, 2700, 3000, 3000]);
        assert_eq!(risen(2, 0, 0), 2000, "none at all");
    }

    fn seeds(targets: usize) -> Vec<u64> {
        (0..targets).map(|at| seed(&format!("10.0.0.{at}:80"))).collect()
    }

    fn holder(weights: &[u64], seeds: &[u64], key: u64) -> usize {
        by_key(weights, |at| seeds[at], xxh3_64(&key.to_be_bytes())).unwrap()
    }

    #[test]
    fn keys_are_shared_by_weight() {
        for weights in [&[1u64, 1, 1, 1][..], &[3, 1], &[1, 2, 3, 4]] {
            let (seeds, sum) = (seeds(weights.len()), weights.iter().sum::<u64>());
            let mut seen = vec![0; weights.len()];
            (0..20_000).for_each(|key| seen[holder(weights, &seeds, key)] += 1);
            for (seen, weight) in seen.iter().zip(weights) {
                let expected = 20_000.0 * *weight as f64 / sum as f64;
                assert!((f64::from(*seen) - expected).abs() < 5.0 * expected.sqrt(), "{seen} of {expected}");
            }
        }
    }

    proptest! {
        /// A target that goes takes only its own keys with it, one that comes takes only what it gets.
        #[test]
        fn only_the_keys_of_the_one_that_goes_move(
            weights in proptest::collection::vec(1u64..20, 2..30),
            equal: bool,
            gone in 0usize..30,
            keys in proptest::collection::vec(any::<u64>(), 200),
        ) {
            let gone = gone % weights.len();
            let weights: Vec<u64> = weights.iter().map(|weight| if equal { 1 } else { *weight }).collect();
            let (seeds, mut after) = (seeds(weights.len()), weights.clone());
            after[gone] = 0;
            for key in keys {
                let (was, is) = (holder(&weights, &seeds, key), holder(&after, &seeds, key));
                prop_assert!(is != gone);
                prop_assert!(was == gone || was == is);
            }
        }

        /// A heavier target takes keys, and none moves between the others.
        #[test]
        fn a_changed_weight_moves_keys_to_or_from_that_target_only(
            weights in proptest::collection::vec(1u64..20, 2..12),
            heavier in 0usize..12,
            more in 1u64..20,
            keys in proptest::collection::vec(any::<u64>(), 200),
        ) {
            let heavier = heavier % weights.len();
            let (seeds, mut after) = (seeds(weights.len()), weights.clone());
            after[heavier] += more;
            for key in keys {
                let (was, is) = (holder(&weights, &seeds, key), holder(&after, &seeds, key));
                prop_assert!(was == is || is == heavier);
            }
        }

        /// A share of `1/n` moves, within chance, when one of `n` equal targets goes.
        #[test]
        fn one_of_n_moves_its_part(targets in 2usize..40, gone in 0usize..40) {
            let (seeds, mut weights) = (seeds(targets), vec![1; targets]);
            let before: Vec<usize> = (0..4000).map(|key| holder(&weights, &seeds, key)).collect();
            weights[gone % targets] = 0;
            let moved = (0..4000).filter(|key| holder(&weights, &seeds, *key) != before[*key as usize]).count();
            let expected = 4000.0 / targets as f64;
            prop_assert!((moved as f64 - expected).abs() < 6.0 * expected.sqrt(), "{} of {}", moved, expected);
        }

        /// Over as many turns as there is weight, each target has exactly its own; never one without weight.
        #[test]
        fn every_round_is_exact(
            weights in proptest::collection::vec(0u64..9, 1..12),
            start in 0usize..12,
            rounds in 1usize..4,
        ) {
            let total: u64 = weights.iter().sum();
            prop_assume!(total > 0);
            let credits: Vec<Cell<i64>> = weights.iter().map(|_| Cell::new(0)).collect();
            for _ in 0..rounds {
                let mut seen = vec![0; weights.len()];
                turns(&weights, &credits, total as usize, start % weights.len()).into_iter().for_each(|at| seen[at] += 1);
                prop_assert_eq!(&seen, &weights);
            }
        }

        /// Whoever is chosen has weight, and somebody is where anybody has.
        #[test]
        fn a_choice_is_among_those_with_weight(
            targets in proptest::collection::vec((0u64..5, 0u64..50), 0..20),
            key: u64,
        ) {
            let (weights, in_flight): (Vec<u64>, Vec<u64>) = targets.into_iter().unzip();
            let (seeds, mut rng) = (seeds(weights.len()), SmallRng::seed_from_u64(key));
            let any = weights.iter().any(|weight| *weight > 0);
            let chosen = [
                P2C(&weights, &in_flight, &mut rng),
                LEAST_CONN(&weights, &in_flight, &mut rng),
                by_key(&weights, |at| seeds[at], key),
            ];
            for chosen in chosen {
                prop_assert_eq!(chosen.is_some(), any);
                prop_assert!(chosen.is_none_or(|at| weights[at] > 0));
            }
        }
    }
}
