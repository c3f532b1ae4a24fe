//! Shares of a route's clients: weights, buckets, and which bucket belongs to which variant.

use crate::limits::BUCKETS;

/// A share in thousandths of a percent, 0..=100,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

impl Weight {
    pub const ZERO: Weight = Weight(0);
    pub const FULL: Weight = Weight(BUCKETS);

    /// From percent; NaN, negative, above 100 or finer than 0.001 is an error.
    pub fn from_percent(percent: f64) -> Result<Weight, WeightError> {
        let _ = percent;
        unimplemented!("skeleton")
    }
    pub fn from_thousandths(thousandths: u32) -> Result<Weight, WeightError> {
        let _ = thousandths;
        unimplemented!("skeleton")
    }
    pub fn thousandths(self) -> u32 {
        self.0
    }
    /// The percent that was given; prints without noise (`5`, `0.125`).
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum WeightError {
    #[error("{0} is not between 0 and 100 percent")]
    OutOfRange(f64),
    #[error("{0} is finer than 0.001 percent")]
    TooFine(f64),
}

/// A client's place in a route, 0..=99,999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket(u32);

impl Bucket {
    /// The bucket of a 64-bit hash or random number.
    pub fn of(hash: u64) -> Bucket {
        Bucket((hash % u64::from(BUCKETS)) as u32)
    }
    pub fn index(self) -> u32 {
        self.0
    }
}

/// The buckets from the previous run's end (or 0) up to `end`, exclusive, belong to the variant at index `variant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub end: u32,
    pub variant: u8,
}

/// Which variant every bucket belongs to: part of a route's live state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    variants: u8,
    runs: Box<[Run]>,
}

#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SplitError {
    #[error("weights sum to {0} percent instead of 100")]
    Sum(f64),
    #[error("{0} variants, but a route has at least 1 and at most 64")]
    Variants(usize),
    #[error("runs of buckets are not ascending, complete and within the route's variants")]
    Runs,
}

impl Assignment {
    /// The canonical assignment for starting weights: everything at the first variant, then [`Assignment::moved_to`].
    pub fn starting(weights: &[Weight]) -> Result<Assignment, SplitError> {
        let _ = weights;
        unimplemented!("skeleton")
    }
    /// The assignment with these weights that moves the fewest buckets: Σ|Δ|/2.
    pub fn moved_to(&self, weights: &[Weight]) -> Result<Assignment, SplitError> {
        let _ = weights;
        unimplemented!("skeleton")
    }
    /// From stored runs; refuses anything that is not a whole assignment.
    pub fn from_runs(variants: usize, runs: Vec<Run>) -> Result<Assignment, SplitError> {
        let _ = (variants, runs);
        unimplemented!("skeleton")
    }
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }
    /// Index of the variant that has this bucket.
    pub fn pick(&self, bucket: Bucket) -> usize {
        let _ = (bucket, self.variants);
        unimplemented!("skeleton")
    }
    /// One weight per variant, in the route's order.
    pub fn weights(&self) -> Vec<Weight> {
        unimplemented!("skeleton")
    }
    /// How many buckets belong to another variant in `other`.
    pub fn buckets_moved(&self, other: &Assignment) -> u32 {
        let _ = other;
        unimplemented!("skeleton")
    }
}
