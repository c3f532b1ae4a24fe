//! What the formulas promise, for any stream.

use super::*;
use crate::judge::evidence::{Null, StartMix, Tally, log_e_alone};
use proptest::prelude::*;

/// A check as numbers: weight, requests and failures of both, seconds.
fn any_check() -> impl Strategy<Value = (f64, (u64, u64), (u64, u64), f64)> {
    let tally = |most: u64| (0..=most).prop_flat_map(|total| (Just(total), 0..=total.min(total / 8 + 3).min(total)));
    (prop::sample::select(vec![0.05, 0.05, 0.05, 0.5, 1.0]), tally(60), tally(600), 0.0..20.0)
}

fn binomial(n: u64, x: u64, p: f64) -> f64 {
    let choose: f64 = (0..x).map(|at| (n - at) as f64 / (at + 1) as f64).product();
    choose * p.powi(x as i32) * (1.0 - p).powi((n - x) as i32)
}

/// The expectation of e over all outcomes of a check with these rates.
fn expectation(null: Null, excess: f64, (nc, pc): (u64, f64), (ns, ps): (u64, f64)) -> f64 {
    let mut sum = 0.0;
    for xc in 0..=nc {
        for xs in 0..=ns {
            let pair = Pair { candidate: Tally { total: nc, bad: xc }, baseline: Tally { total: ns, bad: xs } };
            sum += binomial(nc, xc, pc) * binomial(ns, xs, ps) * null.log_e(&pair, excess).exp();
        }
    }
    sum
}

proptest! {
    /// The one on which everything rests: under the hypothesis, e is 1 on average or less, whatever the rates.
    #[test]
    fn evidence_of_harm_has_expectation_one_at_most(
        nc in 1_u64..12, ns in 5_u64..12, ps in 0.0_f64..0.8, assumed in 1e-6_f64..0.5,
        multiple in 1.06_f64..100.0, (ratio, extra) in prop::sample::select(vec![(1.2, 1e-4), (1.0, 0.005), (1.0, 0.001)]),
    ) {
        let null = Null { ratio, extra };
        let bet = null.excess((multiple * null.boundary(assumed)).min(1.0), assumed, nc as f64 / ns as f64).max(0.0);
        let e = expectation(null, bet, (nc, null.boundary(ps).min(1.0)), (ns, ps));
        prop_assert!(e <= 1.0 + 1e-9, "{e}");
        let healthy = expectation(null, bet, (nc, ps), (ns, ps));
        prop_assert!(healthy <= 1.0 + 1e-9, "{healthy}");
    }

    #[test]
    fn evidence_of_harmlessness_has_expectation_one_at_most(
        nc in 1_u64..12, ns in 5_u64..12, ps in 0.0_f64..0.5, assumed in 1e-6_f64..0.5,
        margin in prop::sample::select(vec![0.001, 0.004, 0.01, 0.2]),
    ) {
        let null = Null { ratio: 1.5, extra: margin };
        let alternative = assumed.max(0.02 * null.boundary(assumed));
        let bet = null.excess(alternative, assumed, nc as f64 / ns as f64).clamp(-0.98, 0.0);
        let e = expectation(null, bet, (nc, null.boundary(ps).min(1.0)), (ns, ps));
        prop_assert!(e <= 1.0 + 1e-9, "{e}");
    }

    #[test]
    fn evidence_against_a_limit_has_expectation_one_at_most(n in 1_u64..40, limit in 1e-4_f64..0.5, times in 1.01_f64..20.0) {
        let rate = (limit * times).min(0.5 + 0.5 * limit);
        let e: f64 = (0..=n)
            .map(|x| binomial(n, x, limit) * log_e_alone(Tally { total: n, bad: x }, limit, rate).exp())
            .sum();
        prop_assert!(e <= 1.0 + 1e-9, "{e}");
    }

    /// Capital moves between early and late starts; without evidence none is made or lost.
    #[test]
    fn time_alone_is_no_evidence(checks in prop::collection::vec(0.0_f64..1e5, 1..200)) {
        let mut mix = StartMix::new([0.2, 0.3, 0.5]);
        for seconds in checks {
            let log_e = mix.update([0.0; 3], seconds);
            prop_assert!(log_e.abs() < 1e-12, "{log_e}");
        }
    }

    /// Without tolerance and at equal traffic, to change the variants' places is to bet the other way round.
    #[test]
    fn variants_of_equal_traffic_mirror_each_other(n in 1_u64..1_000_000, bad in (0.0_f64..1.0, 0.0_f64..1.0), bet in -0.9_f64..0.9) {
        let null = Null { ratio: 1.0, extra: 0.0 };
        let of = |bad: f64| Tally { total: n, bad: (bad * n as f64) as u64 };
        let there = Pair { candidate: of(bad.0), baseline: of(bad.1) };
        let back = Pair { candidate: of(bad.1), baseline: of(bad.0) };
        let (one, two) = (null.log_e(&there, bet), null.log_e(&back, -bet));
        prop_assert!((one - two).abs() <= 1e-12 * (1.0 + one.abs()), "{one} {two}");
    }

    /// Under one bet, checks of the same mix add up: how requests are cut into checks makes no difference.
    #[test]
    fn evidence_of_one_bet_does_not_depend_on_the_cuts(
        nc in 1_u64..50, ns in 5_u64..500, parts in prop::collection::vec((0.0_f64..1.0, 0.0_f64..0.1), 1..20), bet in -0.9_f64..2.0,
    ) {
        let null = Null { ratio: 1.2, extra: 1e-4 };
        prop_assume!(1.2 * nc as f64 / ns as f64 * bet < 0.95);
        let (mut sum, mut whole) = (0.0, Pair::default());
        for (xc, xs) in parts {
            let candidate = Tally { total: nc, bad: (xc * nc as f64) as u64 };
            let pair = Pair { candidate, baseline: Tally { total: ns, bad: (xs * ns as f64) as u64 } };
            sum += null.log_e(&pair, bet);
            whole = Pair { candidate: whole.candidate.plus(candidate), baseline: whole.baseline.plus(pair.baseline) };
        }
        let at_once = null.log_e(&whole, bet);
        prop_assert!((sum - at_once).abs() <= 1e-10 * (1.0 + sum.abs()), "{sum} {at_once}");
    }

    /// Fail, hold, pass are in this order: more failures never move a check up.
    #[test]
    fn more_failures_never_make_a_verdict_better(
        checks in prop::collection::vec((any_check(), 0.0_f64..1.0, prop::bool::weighted(0.3)), 1..60),
        most_failures in 0_u64..2,
    ) {
        let (mut as_it_was, mut worse) = (Court::of_errors(), Court::of_errors());
        for ((weight, (nc, xc), (ns, xs), seconds), more, is_worse) in checks {
            let xc = xc * most_failures;
            let more = if is_worse { ((nc - xc) as f64 * more * more) as u64 } else { 0 };
            let one = as_it_was.check(&check(weight, 1.0, (nc, xc), (ns, xs / 8)), seconds);
            let two = worse.check(&check(weight, 1.0, (nc, xc + more), (ns, xs / 8)), seconds);
            prop_assert!(two.verdict <= one.verdict, "{} became {}", one.reason, two.reason);
        }
    }

    /// Looks at which nothing has happened change nothing, and totals say what their differences say.
    #[test]
    fn empty_looks_and_totals_change_nothing(checks in prop::collection::vec((any_check(), 0_u8..3), 1..60)) {
        let (mut plain, mut looked_at) = (Court::of_errors(), Court::of_errors());
        let mut totals = Totals::default();
        let mut sums = [counts(1000, 3), counts(5, 5)];
        totals.advance(sums[0].clone(), sums[1].clone());
        for ((weight, candidate, baseline, seconds), looks) in checks {
            let expected = plain.check(&check(weight, 0.5, candidate, baseline), seconds);
            sums[0] = counts(sums[0].requests + candidate.0, sums[0].failures + candidate.1);
            sums[1] = counts(sums[1].requests + baseline.0, sums[1].failures + baseline.1);
            let [candidate, baseline] = totals.advance(sums[0].clone(), sums[1].clone());
            let whole = Check { candidate, baseline, ..check(weight, 0.5, (0, 0), (0, 0)) };
            let mut found = looked_at.check(&whole, seconds);
            for _ in 0..looks {
                found = looked_at.check(&check(weight, 0.5, (0, 0), (0, 0)), 0.0);
            }
            prop_assert_eq!(found.verdict, expected.verdict);
            prop_assert_eq!(found.metrics, expected.metrics);
        }
    }

    /// Whatever comes in, what comes out is a verdict with numbers.
    #[test]
    fn any_counts_are_judged(
        checks in prop::collection::vec((0.0_f64..=1.0, any::<[u64; 4]>(), 0_u32..70, any::<u32>(), any::<bool>()), 1..20),
    ) {
        let mut court = Court::new(&with_latency(), Some(buckets()));
        for (weight, numbers, shift, seconds, warm) in checks {
            let [nc, xc, ns, xs] = numbers.map(|number| number.checked_shr(shift).unwrap_or(0));
            let mut check = check(weight, weight, (nc, xc), (ns, xs));
            check.warm = warm;
            check.candidate.histogram = vec![nc / 7; 150];
            check.baseline.histogram = vec![ns / 3; 300];
            let judgement = court.check(&check, f64::from(seconds));
            prop_assert!(!judgement.reason.is_empty() && !judgement.reason.contains("NaN"), "{}", judgement.reason);
            for metric in judgement.metrics {
                let numbers = [metric.candidate, metric.baseline, metric.limit];
                prop_assert!(numbers.into_iter().flatten().all(f64::is_finite), "{metric:?}");
            }
        }
    }

    /// Where all durations are the same number of buckets longer, nothing else changes.
    #[test]
    fn latency_is_judged_by_ratios(seed in prop::collection::vec((0_usize..40, 0_usize..60), 20..60), shift in 0_usize..40) {
        let run = |shift: usize| {
            let mut court = Court::new(&with_latency(), Some(buckets()));
            let judge = |(nth, (of_candidate, of_baseline)): (usize, &(usize, usize))| {
                let mut check = check(0.05, 0.1, (20, 0), (380, 0));
                let histogram = |bucket: usize, most: u64| {
                    let mut histogram = vec![0; 200];
                    histogram[bucket] += most / 10;
                    histogram[85 + shift + nth % 3] += most - most / 10;
                    histogram
                };
                check.candidate.histogram = histogram(85 + shift + of_candidate, 20);
                check.baseline.histogram = histogram(85 + shift + of_baseline / 3, 380);
                court.check(&check, 10.0).metrics.iter().map(|metric| metric.verdict).collect::<Vec<_>>()
            };
            seed.iter().enumerate().map(judge).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(0), run(shift));
    }
}
