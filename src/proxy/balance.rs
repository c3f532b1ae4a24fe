//! Which of a pool's targets gets a request: the less busy of two drawn at random (p2c).
//!
//! Two choices keep the load within a constant of the best without looking at all (Mitzenmacher, "The Power of Two
//! Choices in Randomized Load Balancing", 2001). A target that refused a connection a moment ago is left alone while
//! another is there.

use super::upstream::LocalTarget;
use rand::{Rng, RngExt};
use std::rc::Rc;

/// None when no target has an address. `tried` holds targets that failed for this request.
#[inline(always)]
pub(super) fn pick<'t>(
    targets: &'t [Rc<LocalTarget>],
    tried: &[*const LocalTarget],
    rng: &mut impl Rng,
) -> Option<&'t Rc<LocalTarget>> {
    if let [only] = targets {
        return (usable(only) && tried.is_empty()).then_some(only);
    }
    let fresh = |target: &&Rc<LocalTarget>| usable(target) && !tried.contains(&Rc::as_ptr(target));
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

fn usable(target: &Rc<LocalTarget>) -> bool {
    target.has_address()
}

#[cfg(test)]
mod tests {
    use super::super::clock::Clock;
    use super::super::upstream::Manner;
    use super::*;
    use crate::boundary::outcomes::TargetOutcomes;
    use crate::boundary::table::{Standing, Target};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;
    use std::sync::Arc;

    fn targets(in_flight: &[usize]) -> Vec<Rc<LocalTarget>> {
        let clock = Rc::new(Clock::default());
        let target = |(at, in_flight): (usize, &usize)| {
            let addrs = vec![std::net::SocketAddr::from(([127, 0, 0, 1], 9000 + at as u16)).into()];
            let outcomes = Arc::new(TargetOutcomes::new(1));
            let (name, standing) = (at.to_string(), Standing::Up);
            let target = Target { name, addrs, server_name: None, outcomes, standing };
            let local = LocalTarget::new(&target, Manner::default(), 0, &clock);
            local.set_in_flight(*in_flight);
            Rc::new(local)
        };
        in_flight.iter().enumerate().map(target).collect()
    }

    fn shares(targets: &[Rc<LocalTarget>], tried: &[*const LocalTarget]) -> Vec<usize> {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut shares = vec![0; targets.len()];
        for _ in 0..3000 {
            let picked = pick(targets, tried, &mut rng).expect("a target is there");
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
        assert!(pick(&targets, &all, &mut SmallRng::seed_from_u64(1)).is_none());
    }
}
