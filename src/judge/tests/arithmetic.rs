//! Every formula against references of 60 digits, for counts up to 10⁹: `sixty_digits.csv`, made by `sixty_digits.py`.

use crate::judge::evidence::{Null, Pair, StartMix, Tally, log_add_exp, log_e_alone};

/// Largest error in units of the sum of what was added up.
const TOLERANCE: f64 = 2e-14;

#[test]
fn formulas_agree_with_sixty_digits() {
    let mut worst = (0.0_f64, "");
    let mut kinds = std::collections::BTreeMap::new();
    for row in include_str!("sixty_digits.csv").lines() {
        let mut cells = row.split(',');
        let kind = cells.next().unwrap();
        let numbers: Vec<f64> = cells.map(|cell| cell.parse().unwrap()).collect();
        let [expected, size, args @ ..] = numbers.as_slice() else { panic!("{row}") };
        let found = computed(kind, args);
        // The smallest normal double stands in for a size of 0.
        let error = (found - expected).abs() / size.max(f64::MIN_POSITIVE);
        assert!(error <= TOLERANCE, "{row}: {found:e} is off by {error:e} of its size");
        if error > worst.0 {
            worst = (error, row);
        }
        *kinds.entry(kind).or_insert(0) += 1;
    }
    println!("largest error {:e}: {}", worst.0, worst.1);
    assert_eq!(kinds.keys().copied().collect::<Vec<_>>(), ["alone", "excess", "log_add_exp", "log_e", "mix"]);
    assert!(kinds.values().all(|count| *count >= 30), "{kinds:?}");
}

fn computed(kind: &str, args: &[f64]) -> f64 {
    let tally = |total: f64, bad: f64| Tally { total: total as u64, bad: bad as u64 };
    match (kind, args) {
        ("excess", &[ratio, extra, alternative, baseline, per_baseline]) => {
            Null { ratio, extra }.excess(alternative, baseline, per_baseline)
        }
        ("log_e", &[ratio, extra, nc, xc, ns, xs, excess]) => {
            Null { ratio, extra }.log_e(&Pair { candidate: tally(nc, xc), baseline: tally(ns, xs) }, excess)
        }
        ("alone", &[n, x, limit, rate]) => log_e_alone(tally(n, x), limit, rate),
        ("log_add_exp", &[a, b]) => log_add_exp(a, b),
        ("mix", &[checks, seconds, one, two]) => {
            let mut mix = StartMix::new([0.3, 0.7]);
            (0..checks as u32).fold(0.0, |_, _| mix.update([one, two], seconds))
        }
        _ => panic!("{kind} of {args:?}"),
    }
}

#[test]
fn the_ends_of_the_numbers_are_no_trouble() {
    assert_eq!(log_add_exp(f64::NEG_INFINITY, f64::NEG_INFINITY), f64::NEG_INFINITY);
    assert_eq!(log_add_exp(f64::NEG_INFINITY, 3.0), 3.0);
    let null = Null { ratio: 1.2, extra: 1e-4 };
    let pair =
        |nc, xc, ns, xs| Pair { candidate: Tally { total: nc, bad: xc }, baseline: Tally { total: ns, bad: xs } };
    let bet = null.excess(1.0, 1e-6, 1e-6);
    assert!(null.log_e(&pair(1, 0, 1_000_000, 0), bet).is_finite());
    assert!(null.log_e(&pair(u64::MAX, u64::MAX, u64::MAX, 0), 0.5).is_finite());
    // A stake of everything or more: one failure of the baseline costs much, none costs nothing.
    assert!(null.log_e(&pair(10, 0, 5, 1), 10.0) < -700.0);
    assert!(null.log_e(&pair(10, 0, 5, 1), 10.0).is_finite());
    assert_eq!(log_e_alone(Tally::default(), 0.01, 0.02), 0.0);
}
