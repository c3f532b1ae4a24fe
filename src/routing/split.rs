//! Shares of a route's clients: weights, buckets, and which bucket belongs to which variant.
//!
//! A client's bucket never changes; a change of weights changes the owners of buckets. So what a client
//! sees depends on the order in which weights were changed, not on the weights alone: an [`Assignment`] is
//! state that is kept, not a function of weights, and only that makes the smallest movement possible for
//! more than two variants.

use crate::limits::{BUCKETS, VARIANTS_PER_ROUTE};
use std::fmt;

/// A share in thousandths of a percent, 0..=100,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

impl Weight {
    pub const ZERO: Weight = Weight(0);
    pub const FULL: Weight = Weight(BUCKETS);

    /// From percent; NaN, negative, above 100 or finer than 0.001 is an error.
    ///
    /// What arithmetic on doubles adds (`0.1 + 0.2`, `100 - 99.999`) is not taken for a finer grain.
    pub fn from_percent(percent: f64) -> Result<Weight, WeightError> {
        if !(0.0..=100.0).contains(&percent) {
            return Err(WeightError::OutOfRange(percent));
        }
        let thousandths = percent * 1000.0;
        if (thousandths - thousandths.round()).abs() > NOISE_THOUSANDTHS {
            return Err(WeightError::TooFine(percent));
        }
        Ok(Weight(thousandths.round() as u32))
    }

    pub fn from_thousandths(thousandths: u32) -> Result<Weight, WeightError> {
        if thousandths > BUCKETS {
            return Err(WeightError::OutOfRange(f64::from(thousandths) / 1000.0));
        }
        Ok(Weight(thousandths))
    }

    pub fn thousandths(self) -> u32 {
        self.0
    }

    /// The percent that was given; prints without noise (`5`, `0.125`).
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

/// A few dozen units in the last place of 100,000; four orders of magnitude below what a person writes.
const NOISE_THOUSANDTHS: f64 = 1e-9;

/// The percent without its sign: `5`, `0.125`. The quotient is correctly rounded, so the shortest form is exact.
impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.percent().fmt(f)
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
///
/// Runs are ascending, complete, never empty, and neighbours belong to different variants: equal
/// assignments have equal runs.
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
    #[error("given for {given} variants, but the route has {variants}")]
    Count { given: usize, variants: usize },
    #[error("runs of buckets are not ascending, complete and within the route's variants")]
    Runs,
}

impl Assignment {
    /// The canonical assignment for starting weights: everything at the first variant, then [`Assignment::moved_to`].
    pub fn starting(weights: &[Weight]) -> Result<Assignment, SplitError> {
        let variants = variant_count(weights.len())?;
        let runs = Box::new([Run { end: BUCKETS, variant: 0 }]);
        Assignment { variants, runs }.moved_to(weights)
    }

    /// The assignment with these weights, one per variant, that moves the fewest buckets: Σ|Δ|/2.
    ///
    /// The baseline gives up its lowest buckets and every other variant its highest; they go, lowest first,
    /// to the growing variants in the route's order. With two variants the second always has `[0, weight)`.
    pub fn moved_to(&self, weights: &[Weight]) -> Result<Assignment, SplitError> {
        let variants = usize::from(self.variants);
        if weights.len() != variants {
            return Err(SplitError::Count { given: weights.len(), variants });
        }
        let sum: u32 = weights.iter().map(|weight| weight.0).sum();
        if sum != BUCKETS {
            return Err(SplitError::Sum(f64::from(sum) / 1000.0));
        }
        let have = self.weights();
        let mut growing = Growing::new(&have, weights);
        let mut runs = Runs::default();
        let mut passed = vec![0; variants];
        let mut start = 0;
        for run in &self.runs {
            let owner = usize::from(run.variant);
            let (have, want) = (have[owner].0, weights[owner].0);
            let keeps = if owner == 0 { have.saturating_sub(want)..have } else { 0..want.min(have) };
            let length = run.end - start;
            let place = |of_owner: u32| start + of_owner.clamp(passed[owner], passed[owner] + length) - passed[owner];
            let kept = place(keeps.start)..place(keeps.end);
            growing.take_until(kept.start, &mut runs);
            runs.push(kept.end, run.variant);
            growing.take_until(run.end, &mut runs);
            passed[owner] += length;
            start = run.end;
        }
        Ok(Assignment { variants: self.variants, runs: runs.list.into_boxed_slice() })
    }

    /// From stored runs; refuses anything that is not a whole assignment.
    pub fn from_runs(variants: usize, runs: Vec<Run>) -> Result<Assignment, SplitError> {
        let count = variant_count(variants)?;
        let ordered = runs.windows(2).all(|pair| pair[0].end < pair[1].end && pair[0].variant != pair[1].variant);
        let whole = runs.first().is_some_and(|run| run.end > 0) && runs.last().is_some_and(|run| run.end == BUCKETS);
        if !ordered || !whole || runs.iter().any(|run| run.variant >= count) {
            return Err(SplitError::Runs);
        }
        Ok(Assignment { variants: count, runs: runs.into_boxed_slice() })
    }

    /// The same buckets at the same variants, with room for variants that were added at the end, at weight 0.
    pub fn extended(&self, variants: usize) -> Result<Assignment, SplitError> {
        let count = variant_count(variants)?;
        if count < self.variants {
            return Err(SplitError::Count { given: variants, variants: usize::from(self.variants) });
        }
        Ok(Assignment { variants: count, runs: self.runs.clone() })
    }

    /// The same buckets after variants were reordered, added or removed: `map` has each old variant's new
    /// index, below `variants`; None: it was removed and its buckets go to the baseline, index 0.
    pub fn remapped(&self, map: &[Option<usize>], variants: usize) -> Result<Assignment, SplitError> {
        let count = variant_count(variants)?;
        if map.len() != usize::from(self.variants) {
            return Err(SplitError::Count { given: map.len(), variants: usize::from(self.variants) });
        }
        let mut runs = Runs::default();
        for run in &self.runs {
            let variant = map[usize::from(run.variant)].unwrap_or(0);
            let variant = u8::try_from(variant).ok().filter(|&variant| variant < count).ok_or(SplitError::Runs)?;
            runs.push(run.end, variant);
        }
        Ok(Assignment { variants: count, runs: runs.list.into_boxed_slice() })
    }

    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// How many variants there are, those at weight 0 included.
    pub fn variants(&self) -> usize {
        usize::from(self.variants)
    }

    /// Index of the variant that has this bucket.
    pub fn pick(&self, bucket: Bucket) -> usize {
        let run = if self.runs.len() <= LINEAR_RUNS {
            self.runs.iter().take_while(|run| run.end <= bucket.0).count()
        } else {
            self.runs.partition_point(|run| run.end <= bucket.0)
        };
        usize::from(self.runs[run].variant)
    }

    /// One weight per variant, in the route's order.
    pub fn weights(&self) -> Vec<Weight> {
        let mut weights = vec![Weight::ZERO; self.variants()];
        let mut start = 0;
        for run in &self.runs {
            weights[usize::from(run.variant)].0 += run.end - start;
            start = run.end;
        }
        weights
    }

    /// How many buckets belong to another variant in `other`.
    pub fn buckets_moved(&self, other: &Assignment) -> u32 {
        let (mut mine, mut theirs) = (self.runs.iter().peekable(), other.runs.iter().peekable());
        let (mut start, mut moved) = (0, 0);
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            let end = a.end.min(b.end);
            if a.variant != b.variant {
                moved += end - start;
            }
            start = end;
            mine.next_if(|run| run.end == end);
            theirs.next_if(|run| run.end == end);
        }
        moved
    }
}

/// Up to here a walk is faster than a binary search: nearly every route has two or three runs.
const LINEAR_RUNS: usize = 4;

fn variant_count(variants: usize) -> Result<u8, SplitError> {
    match u8::try_from(variants) {
        Ok(count) if (1..=VARIANTS_PER_ROUTE).contains(&variants) => Ok(count),
        _ => Err(SplitError::Variants(variants)),
    }
}

/// Ascending runs under construction: empty ones are dropped, neighbours of one variant merged.
#[derive(Default)]
struct Runs {
    list: Vec<Run>,
}

impl Runs {
    fn end(&self) -> u32 {
        self.list.last().map_or(0, |run| run.end)
    }

    fn push(&mut self, end: u32, variant: u8) {
        if end <= self.end() {
            return;
        }
        match self.list.last_mut() {
            Some(last) if last.variant == variant => last.end = end,
            _ => self.list.push(Run { end, variant }),
        }
    }
}

/// The variants that are to grow, each with the buckets it still lacks, the route's last variant first.
struct Growing {
    lacks: Vec<(u8, u32)>,
}

impl Growing {
    fn new(have: &[Weight], want: &[Weight]) -> Growing {
        let pairs = (0u8..).zip(have.iter().zip(want));
        let lacks = pairs.map(|(variant, (have, want))| (variant, want.0.saturating_sub(have.0)));
        let mut lacks: Vec<(u8, u32)> = lacks.filter(|&(_, buckets)| buckets > 0).collect();
        lacks.reverse();
        Growing { lacks }
    }

    /// Hands out the freed buckets between the end of `runs` and `end`.
    fn take_until(&mut self, end: u32, runs: &mut Runs) {
        while runs.end() < end {
            let Some((variant, lacks)) = self.lacks.last_mut() else { return };
            let taken = (*lacks).min(end - runs.end());
            runs.push(runs.end() + taken, *variant);
            *lacks -= taken;
            if *lacks == 0 {
                self.lacks.pop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn weights(percents: &[f64]) -> Vec<Weight> {
        percents.iter().map(|&percent| Weight::from_percent(percent).unwrap()).collect()
    }

    fn runs(assignment: &Assignment) -> Vec<(u32, u8)> {
        assignment.runs().iter().map(|run| (run.end, run.variant)).collect()
    }

    #[test]
    fn every_thousandth_survives_percent_and_print() {
        for thousandths in 0..=BUCKETS {
            let weight = Weight::from_thousandths(thousandths).unwrap();
            assert_eq!(Weight::from_percent(weight.percent()), Ok(weight));
            assert_eq!(weight.to_string().parse::<f64>().map(Weight::from_percent), Ok(Ok(weight)));
        }
    }

    #[test]
    fn percent_is_read_and_printed_without_noise() {
        for (percent, printed) in
            [(5.0, "5"), (0.125, "0.125"), (0.001, "0.001"), (33.333, "33.333"), (99.9, "99.9"), (100.0, "100")]
        {
            assert_eq!(Weight::from_percent(percent).unwrap().to_string(), printed);
        }
        assert_eq!(Weight::from_percent(0.1 + 0.2).unwrap().thousandths(), 300);
        assert_eq!(Weight::from_percent(100.0 - 99.999).unwrap().thousandths(), 1);
        assert_eq!(Weight::from_percent(-0.0), Ok(Weight::ZERO));
        assert_eq!(format!("{:>6}|", Weight(2_500)), "   2.5|");
    }

    #[test]
    fn percent_out_of_range_or_too_fine_is_refused() {
        for percent in [0.0005, 0.001_000_1, 33.333_3, 99.999_9] {
            assert_eq!(Weight::from_percent(percent), Err(WeightError::TooFine(percent)));
        }
        for percent in [-1.0, -0.001, 100.5, 100.001, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(Weight::from_percent(percent), Err(WeightError::OutOfRange(percent)));
        }
        assert!(matches!(Weight::from_percent(f64::NAN), Err(WeightError::OutOfRange(_))));
        assert_eq!(Weight::from_thousandths(100_001), Err(WeightError::OutOfRange(100.001)));
        assert_eq!(WeightError::TooFine(0.0005).to_string(), "0.0005 is finer than 0.001 percent");
    }

    #[test]
    fn second_of_two_variants_has_the_lowest_buckets() {
        let start = Assignment::starting(&weights(&[95.0, 5.0])).unwrap();
        assert_eq!(runs(&start), [(5_000, 1), (100_000, 0)]);
        let more = start.moved_to(&weights(&[90.0, 10.0])).unwrap();
        assert_eq!(runs(&more), [(10_000, 1), (100_000, 0)]);
        assert_eq!(start.buckets_moved(&more), 5_000);
        let all = more.moved_to(&weights(&[0.0, 100.0])).unwrap();
        assert_eq!(runs(&all), [(100_000, 1)]);
        assert_eq!(all.moved_to(&weights(&[95.0, 5.0])), Ok(start));
    }

    #[test]
    fn third_variant_takes_only_its_own_share() {
        let two = Assignment::starting(&weights(&[90.0, 10.0])).unwrap();
        let three = two.extended(3).unwrap();
        assert_eq!(three.weights(), weights(&[90.0, 10.0, 0.0]));
        let grown = three.moved_to(&weights(&[85.0, 10.0, 5.0])).unwrap();
        assert_eq!(runs(&grown), [(10_000, 1), (15_000, 2), (100_000, 0)]);
        assert_eq!(three.buckets_moved(&grown), 5_000);
        let second = grown.moved_to(&weights(&[85.0, 5.0, 10.0])).unwrap();
        assert_eq!(runs(&second), [(5_000, 1), (15_000, 2), (100_000, 0)]);
    }

    #[test]
    fn reload_keeps_buckets_by_name() {
        let three = Assignment::starting(&weights(&[70.0, 20.0, 10.0])).unwrap();
        let reordered = three.remapped(&[Some(2), Some(0), Some(1)], 3).unwrap();
        assert_eq!(runs(&reordered), [(20_000, 0), (30_000, 1), (100_000, 2)]);
        let removed = three.remapped(&[Some(0), None, Some(1)], 2).unwrap();
        assert_eq!(runs(&removed), [(20_000, 0), (30_000, 1), (100_000, 0)]);
        assert_eq!(three.remapped(&[Some(0), Some(1)], 3), Err(SplitError::Count { given: 2, variants: 3 }));
        assert_eq!(three.remapped(&[Some(0), Some(1), Some(300)], 2), Err(SplitError::Runs));
        assert_eq!(three.extended(2), Err(SplitError::Count { given: 2, variants: 3 }));
        assert_eq!(three.extended(65), Err(SplitError::Variants(65)));
    }

    #[test]
    fn weights_that_are_not_a_whole_are_refused() {
        assert_eq!(Assignment::starting(&[]), Err(SplitError::Variants(0)));
        assert_eq!(Assignment::starting(&[Weight::ZERO; 65]), Err(SplitError::Variants(65)));
        assert_eq!(Assignment::starting(&weights(&[95.0, 6.0])), Err(SplitError::Sum(101.0)));
        let one = Assignment::starting(&weights(&[100.0])).unwrap();
        assert_eq!(one.moved_to(&weights(&[95.0, 5.0])), Err(SplitError::Count { given: 2, variants: 1 }));
    }

    #[test]
    fn damaged_runs_are_refused() {
        let whole = [(5_000, 1), (100_000, 0)];
        let from = |variants, runs: &[(u32, u8)]| {
            Assignment::from_runs(variants, runs.iter().map(|&(end, variant)| Run { end, variant }).collect())
        };
        assert!(from(2, &whole).is_ok());
        for damaged in [
            &[][..],
            &[(5_000, 1)],
            &[(5_000, 1), (99_999, 0)],
            &[(5_000, 1), (100_001, 0)],
            &[(5_000, 2), (100_000, 0)],
            &[(0, 1), (100_000, 0)],
            &[(5_000, 1), (5_000, 0), (100_000, 1)],
            &[(6_000, 1), (5_000, 0), (100_000, 1)],
            &[(5_000, 0), (100_000, 0)],
        ] {
            assert_eq!(from(2, damaged), Err(SplitError::Runs), "{damaged:?}");
        }
        assert_eq!(from(0, &whole), Err(SplitError::Variants(0)));
    }

    fn whole_weights(variants: usize) -> impl Strategy<Value = Vec<Weight>> {
        let cut = prop_oneof![2 => 0..=BUCKETS, 1 => Just(0), 1 => Just(BUCKETS)];
        prop::collection::vec(cut, variants - 1).prop_map(|mut cuts| {
            cuts.sort_unstable();
            cuts.insert(0, 0);
            cuts.push(BUCKETS);
            cuts.windows(2).map(|pair| Weight(pair[1] - pair[0])).collect()
        })
    }

    fn sequences() -> impl Strategy<Value = Vec<Vec<Weight>>> {
        (2..=8usize).prop_flat_map(|variants| prop::collection::vec(whole_weights(variants), 2..12))
    }

    /// One owner per bucket.
    fn spelled_out(assignment: &Assignment) -> Vec<u8> {
        let mut owners = Vec::new();
        for run in assignment.runs() {
            owners.resize(run.end as usize, run.variant);
        }
        owners
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn fewest_buckets_move(sequence in sequences()) {
            let mut before = Assignment::starting(&sequence[0]).unwrap();
            for weights in &sequence {
                let after = before.moved_to(weights).unwrap();
                let change: u32 = before.weights().iter().zip(weights).map(|(old, new)| old.0.abs_diff(new.0)).sum();
                let (old, new) = (spelled_out(&before), spelled_out(&after));
                let moved = old.iter().zip(&new).filter(|(old, new)| old != new).count();
                prop_assert_eq!(moved as u32, change / 2);
                prop_assert_eq!(before.buckets_moved(&after), change / 2);
                prop_assert_eq!(after.buckets_moved(&before), change / 2);
                prop_assert_eq!(&after.weights(), weights);
                before = after;
            }
        }

        #[test]
        fn whatever_was_moved_is_a_whole_assignment(sequence in sequences()) {
            let mut assignment = Assignment::starting(&sequence[0]).unwrap();
            for weights in &sequence {
                assignment = assignment.moved_to(weights).unwrap();
                prop_assert_eq!(assignment.weights().iter().map(|weight| weight.0).sum::<u32>(), BUCKETS);
                let stored = Assignment::from_runs(weights.len(), assignment.runs().to_vec());
                prop_assert_eq!(stored.as_ref(), Ok(&assignment));
                for run in assignment.runs() {
                    prop_assert!(weights[usize::from(run.variant)] > Weight::ZERO);
                }
            }
        }

        #[test]
        fn pick_finds_every_buckets_owner(sequence in sequences()) {
            let mut assignment = Assignment::starting(&sequence[0]).unwrap();
            for weights in &sequence {
                assignment = assignment.moved_to(weights).unwrap();
            }
            for (bucket, owner) in (0..).zip(spelled_out(&assignment)) {
                prop_assert_eq!(assignment.pick(Bucket(bucket)), usize::from(owner));
            }
        }

        #[test]
        fn two_variants_are_nested(shares in prop::collection::vec(0..=BUCKETS, 1..20)) {
            let mut assignment = Assignment::starting(&[Weight::FULL, Weight::ZERO]).unwrap();
            for share in shares {
                assignment = assignment.moved_to(&[Weight(BUCKETS - share), Weight(share)]).unwrap();
                let mut nested = Runs::default();
                nested.push(share, 1);
                nested.push(BUCKETS, 0);
                prop_assert_eq!(assignment.runs(), &nested.list[..]);
            }
        }
    }
}
