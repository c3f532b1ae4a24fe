//! How the traffic is divided at one moment of a rollout.

use crate::routing::split::Weight;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A weight for each variant of the plan, the baseline first; together exactly 100 %.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u32>", into = "Vec<u32>")]
pub struct Shares(Vec<Weight>);

impl Shares {
    /// None unless there are two or more weights and they sum to 100 %.
    pub fn new(weights: Vec<Weight>) -> Option<Shares> {
        let sum: u64 = weights.iter().map(|weight| u64::from(weight.thousandths())).sum();
        (weights.len() >= 2 && sum == u64::from(Weight::FULL.thousandths())).then_some(Shares(weights))
    }

    /// From the candidates' weights; the baseline has the rest. None if they are more than 100 %, or none.
    pub fn of_candidates(candidates: &[Weight]) -> Option<Shares> {
        let sum: u64 = candidates.iter().map(|weight| u64::from(weight.thousandths())).sum();
        let rest = u64::from(Weight::FULL.thousandths()).checked_sub(sum)?;
        let baseline = Weight::from_thousandths(u32::try_from(rest).ok()?).ok()?;
        Shares::new([&[baseline], candidates].concat())
    }

    /// Everything to the variant at this index of `count`, which is two or more.
    pub fn all_to(variant: usize, count: usize) -> Shares {
        assert!(variant < count && count >= 2, "a rollout has a baseline, a candidate, and gives all to one of them");
        let weight = |at: usize| if at == variant { Weight::FULL } else { Weight::ZERO };
        Shares((0..count).map(weight).collect())
    }

    /// With what the `out` variants had given to the baseline.
    pub fn without(&self, out: &[bool]) -> Shares {
        let kept = |(at, weight): (usize, &Weight)| match out.get(at) {
            Some(true) => Weight::ZERO,
            _ => *weight,
        };
        let candidates: Vec<Weight> = self.0.iter().enumerate().skip(1).map(kept).collect();
        Shares::of_candidates(&candidates).expect("some of what sums to 100 % is no more than that")
    }

    pub fn weights(&self) -> &[Weight] {
        &self.0
    }

    pub fn of(&self, variant: usize) -> Weight {
        self.0.get(variant).copied().unwrap_or(Weight::ZERO)
    }

    pub fn baseline(&self) -> Weight {
        self.of(0)
    }
}

impl TryFrom<Vec<u32>> for Shares {
    type Error = &'static str;

    fn try_from(thousandths: Vec<u32>) -> Result<Shares, Self::Error> {
        let weights: Result<Vec<Weight>, _> = thousandths.into_iter().map(Weight::from_thousandths).collect();
        weights.ok().and_then(Shares::new).ok_or("weights in thousandths of a percent that do not sum to 100,000")
    }
}

impl From<Shares> for Vec<u32> {
    fn from(shares: Shares) -> Vec<u32> {
        shares.0.into_iter().map(Weight::thousandths).collect()
    }
}

/// `95/5`.
impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, weight) in self.0.iter().enumerate() {
            write!(f, "{}{weight}", if at == 0 { "" } else { "/" })?;
        }
        Ok(())
    }
}
