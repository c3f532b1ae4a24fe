//! What people are told, and what decides it.

use super::*;

fn run(court: &mut Court, checks: usize, check: &Check) -> Judgement {
    (0..checks).map(|_| court.check(check, 10.0)).last().expect("at least one check")
}

#[test]
fn a_healthy_candidate_hears_what_it_still_needs() {
    let mut court = Court::of_errors();
    let judgement = run(&mut court, 3, &check(0.1, 0.25, (100, 0), (900, 1)));
    assert_eq!(judgement.verdict, Verdict::Hold);
    assert_eq!(
        judgement.reason,
        "error rate above 1.5× stable ruled out up to +1.2 points, wanted +0.4 points; needs about 660 more requests"
    );
    let judgement = run(&mut court, 7, &check(0.1, 0.25, (100, 0), (900, 1)));
    assert_eq!(judgement.verdict, Verdict::Pass);
    assert_eq!(
        judgement.reason,
        "error rate above 1.5× stable + 0.4 points ruled out: 0 % (0 of 1,000 requests) against 0.111 % of stable"
    );
}

#[test]
fn a_bad_candidate_hears_why_and_the_verdict_stays() {
    let mut court = Court::of_errors();
    let judgement = court.check(&check(0.05, 0.1, (112, 8), (2000, 10)), 10.0);
    assert_eq!(judgement.verdict, Verdict::Fail);
    assert_eq!(
        judgement.reason,
        "error rate 7.1 % (8 of 112 requests) against 0.5 % of stable: above 1.2× stable + 0.01 points beyond doubt"
    );
    assert_eq!(run(&mut court, 50, &check(0.05, 0.1, (1000, 0), (9000, 0))), judgement);
    assert_eq!(judgement.decisive().cause, Cause::Proven);
}

#[test]
fn one_failure_or_two_prove_nothing() {
    for failures in [1, 2] {
        let mut court = Court::of_errors();
        let judgement = court.check(&check(0.05, 0.1, (failures, failures), (10_000, 0)), 10.0);
        assert_eq!(judgement.verdict, Verdict::Hold, "{}", judgement.reason);
    }
}

#[test]
fn trouble_that_both_share_is_held_and_called_so() {
    let mut court = Court::of_errors();
    run(&mut court, 30, &check(0.1, 0.25, (100, 0), (900, 0)));
    let judgement = run(&mut court, 3, &check(0.1, 0.25, (100, 90), (900, 810)));
    assert_eq!((judgement.verdict, judgement.decisive().cause), (Verdict::Hold, Cause::SharedBreach));
    assert!(judgement.reason.starts_with("error rate above 1 % in both versions (canary "), "{}", judgement.reason);
    assert!(judgement.reason.ends_with("a cause that they share, so no rollback"), "{}", judgement.reason);
}

#[test]
fn without_traffic_nothing_is_ever_promoted() {
    let mut court = Court::of_errors();
    let judgement = run(&mut court, 1000, &check(0.1, 0.25, (0, 0), (900, 0)));
    assert_eq!((judgement.verdict, judgement.reason.as_str()), (Verdict::Hold, "error rate: no canary requests yet"));
    assert_eq!(judgement.alarm.as_deref(), Some("the split is off: 0 % of this step's requests instead of 10 %"));
    // Also not when it had passed, and then lost its traffic.
    let mut court = Court::of_errors();
    assert_eq!(run(&mut court, 30, &check(0.1, 0.25, (100, 0), (900, 0))).verdict, Verdict::Pass);
    let judgement = run(&mut court, 60, &check(0.1, 0.25, (0, 0), (0, 0)));
    assert_eq!(
        (judgement.verdict, judgement.reason.as_str()),
        (Verdict::Hold, "error rate: no canary requests for 10 min")
    );
}

#[test]
fn a_new_step_needs_requests_of_its_own() {
    let mut court = Court::of_errors();
    assert_eq!(run(&mut court, 60, &check(0.1, 1.0, (1000, 0), (9000, 0))).verdict, Verdict::Pass);
    let judgement = court.check(&check(0.5, 1.0, (5, 0), (5, 0)), 10.0);
    let expected = "error rate above 1.5× stable + 0.1 points ruled out; needs 15 more requests in this step";
    assert_eq!((judgement.verdict, judgement.reason.as_str()), (Verdict::Hold, expected));
}

#[test]
fn at_full_weight_the_limit_decides() {
    let mut court = Court::of_errors();
    run(&mut court, 60, &check(0.5, 1.0, (500, 0), (500, 0)));
    assert_eq!(run(&mut court, 5, &check(1.0, 1.0, (1000, 5), (0, 0))).verdict, Verdict::Pass);
    let judgement = run(&mut court, 2, &check(1.0, 1.0, (1000, 400), (0, 0)));
    assert_eq!(judgement.verdict, Verdict::Fail);
    assert!(judgement.reason.ends_with("above the limit of 1 %, and no stable traffic"), "{}", judgement.reason);
    // Never having been compared, there is nothing that a pass could rest on.
    let judgement = run(&mut Court::of_errors(), 50, &check(1.0, 1.0, (1000, 0), (0, 0)));
    assert_eq!((judgement.verdict, judgement.decisive().cause), (Verdict::Hold, Cause::NoData));
}

fn slow_check(candidate: usize, weight: f64) -> Check {
    let mut check = check(weight, 0.1, (100, 0), (1900, 0));
    let histogram = |bucket: usize, requests: u64| {
        let mut histogram = vec![0; 200];
        histogram[bucket] = requests * 95 / 100;
        histogram[bucket + 8] = requests - requests * 95 / 100;
        histogram
    };
    check.candidate.histogram = histogram(candidate, 100);
    check.baseline.histogram = histogram(85, 1900);
    check
}

#[test]
fn latency_is_judged_and_its_warm_up_is_not() {
    let policy = Policy { warm_up: Duration::from_secs(60), ..with_latency() };
    let mut court = Court::new(&policy, Some(buckets()));
    let judgement = run(&mut court, 6, &slow_check(120, 0.05));
    assert_eq!(judgement.verdict, Verdict::Hold, "{}", judgement.reason);
    assert!(
        judgement.metrics[1].reason.ends_with("(not judged during the warm-up)"),
        "{}",
        judgement.metrics[1].reason
    );
    court.judge.instance_added(court.now);
    assert_eq!(run(&mut court, 6, &slow_check(120, 0.05)).verdict, Verdict::Hold);
    let judgement = run(&mut court, 2, &slow_check(120, 0.05));
    assert_eq!((judgement.verdict, judgement.decisive().name.as_str()), (Verdict::Fail, "p99"));
    assert!(judgement.reason.starts_with("p99 above 1.2× stable's beyond doubt: "), "{}", judgement.reason);
    let healthy = run(&mut Court::new(&policy, Some(buckets())), 60, &slow_check(85, 0.05));
    assert_eq!(healthy.verdict, Verdict::Pass, "{}", healthy.reason);
}

#[test]
fn requests_that_hang_count_by_the_thresholds() {
    let mut court = Court::new(&with_latency(), Some(buckets()));
    assert_eq!(court.judge.thresholds(), [None, None]);
    run(&mut court, 10, &slow_check(85, 0.05));
    let thresholds: Vec<_> = court.judge.thresholds().into_iter().flatten().collect();
    assert_eq!(thresholds.len(), 2);
    for at in &thresholds {
        assert!(at.candidate_ms >= 1.2 * at.baseline_ms && at.candidate_ms < 1.26 * at.baseline_ms, "{at:?}");
    }
    // No request of the candidate ends; they pass the thresholds.
    let mut hanging = check(0.05, 0.1, (0, 0), (1900, 0));
    hanging.candidate.slow = vec![Tally { total: 100, bad: 100 }; 2];
    hanging.baseline.slow = vec![Tally { total: 1900, bad: 15 }, Tally { total: 1900, bad: 150 }];
    assert_eq!(court.check(&hanging, 1.0).verdict, Verdict::Fail);
}

#[test]
fn an_absolute_latency_limit_decides_at_full_weight() {
    let mut policy = with_latency();
    policy.quantiles[0].max_ms = Some(100.0);
    let mut court = Court::new(&policy, Some(buckets()));
    run(&mut court, 60, &slow_check(85, 0.5));
    let mut full = slow_check(120, 1.0);
    full.baseline = Counts::default();
    let judgement = run(&mut court, 3, &full);
    assert_eq!(judgement.verdict, Verdict::Fail, "{}", judgement.reason);
    assert!(judgement.reason.starts_with("p99 above the limit of 100 ms ("), "{}", judgement.reason);
}

#[test]
fn scalars_fail_after_breaches_in_a_row_and_hold_without_data() {
    let scalar = |bound, no_data| Policy {
        scalars: vec![Scalar { name: "orders".to_owned(), bound, no_data }],
        ..Policy::default()
    };
    let sampled = |candidate: Option<f64>| Check {
        scalars: vec![Some(Sample { candidate, baseline: Some(100.0) })],
        ..check(0.1, 0.25, (1000, 0), (9000, 0))
    };
    let mut court = Court::new(&scalar(Bound::MinRatio(0.9), NoData::Hold), None);
    assert_eq!(run(&mut court, 6, &sampled(Some(91.0))).verdict, Verdict::Pass);
    let judgement = run(&mut court, 1, &sampled(Some(f64::NAN)));
    let expected = "orders: the last sample has no data";
    assert_eq!((judgement.verdict, judgement.reason.as_str()), (Verdict::Hold, expected));
    // A check for which no sample was due leaves it at that, and the next one with data goes on.
    assert_eq!(run(&mut court, 1, &check(0.1, 0.25, (1000, 0), (9000, 0))).verdict, Verdict::Hold);
    assert_eq!(run(&mut court, 1, &sampled(Some(89.0))).verdict, Verdict::Pass, "one breach is noise");
    let mut failing = Court::new(&scalar(Bound::MinRatio(0.9), NoData::Hold), None);
    let until = (1..20).find(|_| failing.check(&sampled(Some(50.0)), 10.0).verdict == Verdict::Fail);
    assert!(until.is_some_and(|checks| (5..=6).contains(&checks)), "{until:?}");
    let reason = failing.judge.failed.expect("it failed").reason;
    assert!(reason.contains("samples below 0.9× stable; last 50 against 100: not noise"), "{reason}");
    let mut strict = Court::new(&scalar(Bound::Max(120.0), NoData::Breach), None);
    assert_eq!(run(&mut strict, 6, &sampled(None)).verdict, Verdict::Fail);
    // A limit that the baseline breaks too says nothing.
    let mut shared = Court::new(&scalar(Bound::Max(90.0), NoData::Breach), None);
    assert_eq!(run(&mut shared, 50, &sampled(Some(200.0))).verdict, Verdict::Hold);
}

#[test]
fn counts_of_ones_own_are_judged_like_errors() {
    let policy = Policy { counts: vec![Count { name: "declined".to_owned(), max_ratio: 1.5 }], ..Policy::default() };
    let mut court = Court::new(&policy, None);
    let mut check = check(0.1, 0.25, (1000, 0), (9000, 0));
    check.baseline.counts = vec![Tally { total: 900, bad: 9 }];
    check.candidate.counts = vec![Tally { total: 100, bad: 30 }];
    let judgement = court.check(&check, 10.0);
    assert_eq!((judgement.verdict, judgement.decisive().name.as_str()), (Verdict::Fail, "declined"));
}

#[test]
fn impossible_counts_hold_and_are_left_out() {
    let mut court = Court::of_errors();
    let judgement = court.check(&check(0.1, 0.25, (5, 6), (900, 0)), 10.0);
    assert_eq!(judgement.reason, "the counts of canary have more failures than requests");
    assert_eq!(judgement.verdict, Verdict::Hold);
    assert_eq!(court.check(&check(0.1, 0.25, (100, 0), (900, 0)), 10.0).metrics[0].samples, 100);
}

#[test]
fn a_metrics_state_is_small() {
    let gates = 4 * size_of::<comparison::Gate>();
    assert!(size_of::<Rate>() + gates <= 1024, "{}", size_of::<Rate>() + gates);
    assert!(size_of::<scalar::Scalar>() <= 1024);
}

#[test]
fn policies_are_refused_whole() {
    let refused = |policy: Policy| Judge::new(&policy, Some(buckets()), Duration::ZERO).unwrap_err().to_string();
    let errors = Errors { max_ratio: f64::NAN, max: 0.01 };
    assert_eq!(refused(Policy { errors, ..Policy::default() }), "error_ratio is NaN; it must be 1 to 1000");
    assert!(refused(Policy { candidates: 0, ..Policy::default() }).starts_with("candidates is 0"));
    assert!(Judge::new(&with_latency(), None, Duration::ZERO).is_err());
    // More candidates and metrics share the false rollbacks.
    let bars = |candidates| Policy { candidates, ..Policy::default() }.bars().proven;
    assert!((bars(1) - 400_f64.ln()).abs() < 1e-12 && (bars(3) - 1200_f64.ln()).abs() < 1e-12);
}
