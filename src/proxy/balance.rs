//! Which of a pool's targets gets a request: the less busy of two drawn at random (p2c).
//!
//! Two choices keep the load within a constant of the best without looking at all (Mitzenmacher, "The Power of Two
//! Choices in Randomized Load Balancing", 2001). A target that refused a connection a moment ago is left alone while
//! another is there.

use super::upstream::LocalTarget;
use rand::{Rng, RngExt};
use std::rc::Rc;

/// None when no target has an address. `tried` holds targets that failed for this request.
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
