//! Simulated releases: healthy ones that must go through, bad ones that must not.
//!
//! The ordinary run takes a few hundred of each. `JUDGE_RELEASES=10000 cargo test --lib judge::tests::releases -- --nocapture`
//! takes ten thousand, and prints what it found.

use super::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

fn releases() -> u64 {
    std::env::var("JUDGE_RELEASES").ok().and_then(|count| count.parse().ok()).unwrap_or(200)
}

fn uniform(rng: &mut SmallRng) -> f64 {
    ((rng.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// Successes in `n` tries: by the gaps between them, or the normal approximation where there are hundreds.
fn binomial(rng: &mut SmallRng, n: u64, p: f64) -> u64 {
    let variance = n as f64 * p * (1.0 - p);
    if variance > 200.0 {
        let normal = (-2.0 * uniform(rng).ln()).sqrt() * (std::f64::consts::TAU * uniform(rng)).cos();
        return (n as f64 * p + normal * variance.sqrt()).round().clamp(0.0, n as f64) as u64;
    }
    if p <= 0.0 || p >= 1.0 {
        return if p <= 0.0 { 0 } else { n };
    }
    let (mut at, mut successes) = (0.0, 0);
    loop {
        at += (uniform(rng).ln() / (1.0 - p).ln()).floor() + 1.0;
        if at > n as f64 {
            return successes;
        }
        successes += 1;
    }
}

/// How the rate of both variants moves over a release, 0..=1.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Steady,
    Burst,
    Ramp,
    Diurnal,
    AboveLimit,
}

impl Shape {
    const ALL: [Shape; 5] = [Shape::Steady, Shape::Burst, Shape::Ramp, Shape::Diurnal, Shape::AboveLimit];

    fn rate(self, base: f64, at: f64) -> f64 {
        match self {
            Shape::Steady => base,
            Shape::Burst => {
                if (0.4..0.45).contains(&at) {
                    0.3
                } else {
                    base
                }
            }
            Shape::Ramp => base * (1.0 + 9.0 * at),
            Shape::Diurnal => base * (1.0 + 0.9 * (12.0 * at).sin()),
            Shape::AboveLimit => 0.015 + base,
        }
    }
}

struct Traffic {
    rng: SmallRng,
    rps: f64,
}

impl Traffic {
    fn new(seed: u64, rps: f64) -> Traffic {
        Traffic { rng: SmallRng::seed_from_u64(seed), rps }
    }

    fn check(&mut self, weight: f64, next: f64, seconds: f64, candidate: f64, baseline: f64) -> Check {
        let requests = binomial(&mut self.rng, (self.rps * seconds * 4.0) as u64, 0.25);
        let nc = binomial(&mut self.rng, requests, weight);
        let ns = requests - nc;
        let failures = (binomial(&mut self.rng, nc, candidate), binomial(&mut self.rng, ns, baseline));
        check(weight, next, (nc, failures.0), (ns, failures.1))
    }
}

const PLAN: [(f64, f64); 4] = [(0.05, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 1.0)];

#[test]
fn healthy_releases_are_not_rolled_back() {
    let mut rolled_back = Vec::new();
    let releases = releases();
    for seed in 0..releases {
        let shape = Shape::ALL[(seed % 5) as usize];
        let base = [0.001, 0.01][(seed / 5 % 2) as usize];
        let rps = [1.0, 10.0, 100.0, 1000.0][(seed / 10 % 4) as usize];
        let mut traffic = Traffic::new(seed, rps);
        let mut court = Court::of_errors();
        let fails = (0..120).any(|at| {
            let (weight, next) = PLAN[at / 30];
            let rate = shape.rate(base, at as f64 / 120.0);
            court.check(&traffic.check(weight, next, 10.0, rate, rate), 10.0).verdict == Verdict::Fail
        });
        if fails {
            rolled_back.push(format!("seed {seed}: {shape:?}, {base}, {rps} rps"));
        }
    }
    println!("{} of {releases} healthy releases rolled back: {rolled_back:?}", rolled_back.len());
    assert!(rolled_back.len() as f64 <= 0.003 * releases as f64 + 1.0, "{rolled_back:?}");
}

/// Goes through the plan as verdicts allow, at least a minute a step; the seconds to the end, or None.
fn release(traffic: &mut Traffic, candidate: f64, baseline: f64, most_seconds: f64) -> Option<f64> {
    let mut court = Court::of_errors();
    let mut seconds = 0.0;
    for (weight, next) in PLAN {
        let mut in_step = 0;
        loop {
            let judgement = court.check(&traffic.check(weight, next, 10.0, candidate, baseline), 10.0);
            seconds += 10.0;
            in_step += 1;
            match judgement.verdict {
                Verdict::Fail => return None,
                Verdict::Pass if in_step >= 6 => break,
                _ if seconds >= most_seconds => return None,
                _ => {}
            }
        }
    }
    Some(seconds)
}

#[test]
fn five_times_worse_candidates_do_not_get_through() {
    let releases = releases();
    let through = |seed: &u64| {
        let baseline = [0.001, 0.01][(seed % 2) as usize];
        let rps = [10.0, 100.0, 1000.0][(seed / 2 % 3) as usize];
        release(&mut Traffic::new(*seed, rps), 5.0 * baseline, baseline, 6.0 * 3600.0).is_some()
    };
    let escaped: Vec<u64> = (0..releases).filter(through).collect();
    println!("{} of {releases} five times worse candidates passed the last gate", escaped.len());
    assert!(escaped.len() as f64 <= 0.01 * releases as f64, "seeds {escaped:?}");
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

#[test]
fn healthy_releases_are_not_held_up() {
    for (rps, most_minutes) in [(10.0, 50.0), (100.0, 6.0), (1000.0, 6.0)] {
        let times = (0..21).map(|seed| release(&mut Traffic::new(seed, rps), 0.001, 0.001, 1e5));
        let minutes = median(times.map(|time| time.expect("a healthy release gets through") / 60.0).collect());
        println!("{rps} rps: {minutes} min to 100 %");
        assert!(minutes <= most_minutes, "{rps} rps: {minutes} min");
    }
}

/// Failed candidate requests until a fail, at one weight.
fn failures_until_fail(seed: u64, rps: f64, seconds: f64, candidate: f64, baseline: f64) -> f64 {
    let mut traffic = Traffic::new(seed, rps);
    let mut court = Court::of_errors();
    let mut failures = 0;
    for _ in 0..10_000 {
        let check = traffic.check(0.05, 0.1, seconds, candidate, baseline);
        failures += check.candidate.failures;
        if court.check(&check, seconds).verdict == Verdict::Fail {
            return failures as f64;
        }
    }
    f64::INFINITY
}

#[test]
fn bad_candidates_are_caught_after_a_handful_of_failures() {
    for (candidate, baseline, rps, most) in
        [(0.5, 0.002, 100.0, 4.0), (0.1, 0.01, 100.0, 10.0), (0.05, 0.01, 100.0, 18.0)]
    {
        let mut failures: Vec<f64> =
            (0..101).map(|seed| failures_until_fail(seed, rps, 0.5, candidate, baseline)).collect();
        let median = median(failures.clone());
        failures.sort_by(f64::total_cmp);
        println!("{baseline} -> {candidate}: median {median}, 95 % {}", failures[95]);
        assert!(median <= most, "{baseline} -> {candidate}: {median}");
        assert!(failures[95] <= 3.0 * most, "{baseline} -> {candidate}: {failures:?}");
    }
}

/// Durations by a log-normal around 50 ms, as counts of buckets.
struct Durations {
    table: Vec<f64>,
}

impl Durations {
    fn new() -> Durations {
        let mut rng = SmallRng::seed_from_u64(1);
        let normal =
            |rng: &mut SmallRng| (-2.0 * uniform(rng).ln()).sqrt() * (std::f64::consts::TAU * uniform(rng)).cos();
        Durations { table: (0..65_536).map(|_| 50.0 * (0.6 * normal(&mut rng)).exp()).collect() }
    }

    fn histogram(&self, rng: &mut SmallRng, requests: u64, times: f64) -> Vec<u64> {
        let mut histogram = vec![0; 200];
        for _ in 0..requests {
            let ms = times * self.table[(rng.next_u64() % 65_536) as usize];
            histogram[((ms / 2.0).ln() / 1.04_f64.ln()).ceil().clamp(0.0, 199.0) as usize] += 1;
        }
        histogram
    }
}

#[test]
fn latency_that_doubles_is_caught_and_latency_that_drifts_is_not() {
    let durations = Durations::new();
    let runs = (releases() / 15).min(400);
    let mut needed = Vec::new();
    for seed in 0..runs {
        let mut traffic = Traffic::new(seed, 40.0);
        let (mut healthy, mut slow) = (Court::new(&with_latency(), Some(buckets())), None);
        for at in 0..60 {
            let times = if at < 30 {
                1.0 + f64::from(at) / 15.0
            } else if at < 36 {
                5.0
            } else {
                1.5
            };
            let mut check = traffic.check(0.1, 0.25, 5.0, 0.0, 0.0);
            check.candidate.histogram = durations.histogram(&mut traffic.rng, check.candidate.requests, times);
            check.baseline.histogram = durations.histogram(&mut traffic.rng, check.baseline.requests, times);
            assert_ne!(healthy.check(&check, 5.0).verdict, Verdict::Fail, "seed {seed}");
        }
        let mut requests = 0;
        let mut court = Court::new(&with_latency(), Some(buckets()));
        for _ in 0..300 {
            let mut check = traffic.check(0.1, 0.25, 2.0, 0.0, 0.0);
            check.candidate.histogram = durations.histogram(&mut traffic.rng, check.candidate.requests, 2.0);
            check.baseline.histogram = durations.histogram(&mut traffic.rng, check.baseline.requests, 1.0);
            requests += check.candidate.requests;
            let judgement = court.check(&check, 2.0);
            if judgement.verdict == Verdict::Fail {
                slow = Some(judgement.reason);
                break;
            }
        }
        assert!(slow.is_some_and(|reason| reason.starts_with('p')), "seed {seed}");
        needed.push(requests as f64);
    }
    let median = median(needed);
    println!("latency x2: caught after {median} candidate requests (median of {runs})");
    assert!(median <= 150.0, "{median}");
}
