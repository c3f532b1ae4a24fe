//! Which of a pool's targets gets a request: the less busy of two drawn at random (p2c), or what the pool says.
//!
//! Two choices keep the load within a constant of the best without looking at all (Mitzenmacher, "The Power of Two
//! Choices in Randomized Load Balancing", 2001). A target that refused a connection a moment ago is left alone while
//! another is there. What pools of equal targets do not need is apart, behind one branch: `routing::balance`.

use super::upstream::LocalTarget;
use crate::boundary::table::Pool;
use crate::routing::balance::{self, Balance};
use rand::{Rng, RngExt};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// A pool's way of choosing, as a worker goes about it.
pub(super) struct Chooser(Option<Box<Weighing>>);

/// For pools whose targets are not all alike, or whose way is another than p2c.
struct Weighing {
    pool: Arc<Pool>,
    /// Whose turn is the first: another's on each worker.
    start: usize,
    /// The targets' weights for one choice; kept so that none allocates.
    weights: RefCell<Vec<u64>>,
}

impl Chooser {
    pub(super) fn new(pool: &Arc<Pool>, targets: &[Rc<LocalTarget>], worker: usize) -> Chooser {
        let weights = || targets.iter().map(|target| target.weight(pool.slow_start));
        let equal = weights().zip(weights().skip(1)).all(|(one, next)| one == next);
        if pool.balance == Balance::P2c && equal && pool.slow_start.is_zero() {
            return Chooser(None);
        }
        Chooser(Some(Box::new(Weighing { pool: Arc::clone(pool), start: worker, weights: RefCell::default() })))
    }
}

/// None when no target is left. `tried` holds targets that failed for this request, `key` is what it is known by.
#[inline(always)]
pub(super) fn pick<'t>(
    chooser: &Chooser,
    targets: &'t [Rc<LocalTarget>],
    tried: &[*const LocalTarget],
    key: u64,
    rng: &mut impl Rng,
) -> Option<&'t Rc<LocalTarget>> {
    if let [only] = targets {
        return tried.is_empty().then_some(only);
    }
    if let Some(weighing) = &chooser.0 {
        return weighing.pick(targets, tried, key, rng);
    }
    let fresh = |target: &&Rc<LocalTarget>| !tried.contains(&Rc::as_ptr(target));
    let healthy = targets.iter().filter(fresh).filter(|target| !target.is_failing()).count();
    let eligible = |target: &&Rc<LocalTarget>| fresh(target) && (healthy == 0 || !target.is_failing());
    let count = if healthy > 0 { healthy } else { targets.iter().filter(fresh).count() };
    match count {
        0 => None,
        1 => targets.iter().find(eligible),
        _ => {
            let first = rng.random_range(0..count);
            let second = (first + 1 + rng.random_range(0..count - 1)) % count;
            let a = targets.iter().filter(eligible).nth(first)?;
            let b = targets.iter().filter(eligible).nth(second)?;
            Some(if b.in_flight() < a.in_flight() { b } else { a })
        }
    }
}

impl Weighing {
    #[inline(never)]
    fn pick<'t>(
        &self,
        targets: &'t [Rc<LocalTarget>],
        tried: &[*const LocalTarget],
        key: u64,
        rng: &mut impl Rng,
    ) -> Option<&'t Rc<LocalTarget>> {
        let fresh = |target: &Rc<LocalTarget>| !tried.contains(&Rc::as_ptr(target));
        let some_healthy = targets.iter().any(|target| fresh(target) && !target.is_failing());
        let takes_part = |target: &Rc<LocalTarget>| fresh(target) && !(some_healthy && target.is_failing());
        let weight = |target: &Rc<LocalTarget>| match takes_part(target) {
            true => target.weight(self.pool.slow_start),
            false => 0,
        };
        let mut weights = self.weights.borrow_mut();
        weights.clear();
        weights.extend(targets.iter().map(weight));
        let in_flight = |at: usize| targets[at].in_flight() as u64;
        let at = match self.pool.balance {
            Balance::P2c => balance::p2c(&weights, in_flight, rng),
            Balance::LeastConn => balance::least_conn(&weights, in_flight, rng),
            Balance::RoundRobin => balance::next_turn(&weights, |at| targets[at].credit(), self.start),
            Balance::Hash(_) => balance::by_key(&weights, |at| targets[at].seed(), key),
        };
        at.map(|at| &targets[at])
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::Clock;
    use super::super::upstream::Manner;
    use super::*;
    use crate::boundary::outcomes::{AddressOutcomes, TargetOutcomes};
    use crate::boundary::table::{Endpoint, Standing, Target};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;
    use std::sync::Arc;

    fn targets(in_flight: &[usize]) -> Vec<Rc<LocalTarget>> {
        let clock = Rc::new(Clock::default());
        let target = |(at, in_flight): (usize, &usize)| {
            let addrs = vec![std::net::SocketAddr::from(([127, 0, 0, 1], 9000 + at as u16)).into()];
            let outcomes = Arc::new(TargetOutcomes::new(1));
            let (name, standing) = (at.to_string(), Standing::Up);
            let address = Arc::new(AddressOutcomes::new(1));
            let endpoints = vec![Endpoint { weight: 1, standing, outcomes: address }];
            let target = Target { name, is_service: false, addrs, endpoints, server_name: None, outcomes, standing };
            let local = LocalTarget::new((&target, 0), Manner::default(), 0, &clock);
            local.set_in_flight(*in_flight);
            Rc::new(local)
        };
        in_flight.iter().enumerate().map(target).collect()
    }

    fn shares(targets: &[Rc<LocalTarget>], tried: &[*const LocalTarget]) -> Vec<usize> {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut shares = vec![0; targets.len()];
        for _ in 0..3000 {
            let picked = pick(&Chooser(None), targets, tried, 0, &mut rng).expect("a target is there");
            shares[targets.iter().position(|target| Rc::ptr_eq(target, picked)).expect("of the pool")] += 1;
        }
        shares
    }

    #[test]
    fn equal_targets_get_equal_shares() {
        for share in shares(&targets(&[0, 0, 0]), &[]) {
            assert!((900..1100).contains(&share), "{share} of 3000");
        }
    }

    #[test]
    fn the_busiest_gets_nothing_and_the_idle_most() {
        let shares = shares(&targets(&[9, 1, 0]), &[]);
        assert_eq!(shares[0], 0);
        assert!(shares[2] > shares[1], "{shares:?}");
    }

    #[test]
    fn a_target_that_failed_this_request_or_just_now_is_left_alone() {
        let targets = targets(&[0, 0, 0]);
        let after_first = shares(&targets, &[Rc::as_ptr(&targets[0])]);
        assert_eq!(after_first[0], 0);
        targets[1].refused();
        assert_eq!(shares(&targets, &[])[1], 0);
        targets[0].refused();
        targets[2].refused();
        assert!(shares(&targets, &[]).iter().all(|share| *share > 0), "all have failed: all are tried");
        let all: Vec<_> = targets.iter().map(Rc::as_ptr).collect();
        assert!(pick(&Chooser(None), &targets, &all, 0, &mut SmallRng::seed_from_u64(1)).is_none());
    }
}
