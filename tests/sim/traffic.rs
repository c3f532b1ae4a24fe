//! Machine and judge together, with requests that are thrown by dice.

use crate::world::{WEDNESDAY_MS, World};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;
use weir::judge::{Check, Counts, Judge, Policy, Tally};
use weir::rollout::{Analysis, EventKind, MaxHold, Phase, Plan, Reaction, Step};

struct Release {
    world: World,
    judge: Judge,
    run: u32,
    rng: SmallRng,
    failed: u64,
}

/// Percent that fail, of candidate and baseline, at so many seconds after the start.
type Rates<'r> = &'r dyn Fn(u64) -> (u64, u64);

impl Release {
    fn new(plan: Plan, seed: u64) -> Release {
        let judge = Judge::new(&Policy::default(), None, Duration::ZERO).expect("the default is good");
        let world = World::start(plan, WEDNESDAY_MS);
        Release { world, judge, run: 1, rng: SmallRng::seed_from_u64(seed), failed: 0 }
    }

    fn chance(&mut self, percent: f64) -> bool {
        (self.rng.next_u64() % 1_000_000) as f64 / 10_000.0 < percent
    }

    fn requests(&mut self, rps: u64, seconds: f64, rates: (u64, u64)) -> (Tally, Tally) {
        let weight = self.world.live.of(1).percent();
        let (mut candidate, mut baseline) = (Tally::default(), Tally::default());
        for _ in 0..(rps as f64 * seconds).round() as u64 {
            let (tally, rate) = if self.chance(weight) { (&mut candidate, rates.0) } else { (&mut baseline, rates.1) };
            let failed = (self.rng.next_u64() % 100) < rate;
            tally.total += 1;
            tally.bad += u64::from(failed);
        }
        self.failed += candidate.bad;
        (candidate, baseline)
    }

    /// Until it is over, or `most_s` seconds are; a check at each that the machine asks for.
    fn run(&mut self, rps: u64, rates: Rates<'_>, most_s: u64) -> Phase {
        let started_ms = self.world.now.mono_ms;
        let mut last_ms = started_ms;
        while self.world.now.mono_ms - started_ms < most_s * 1000 && self.world.tick() {
            while let Some(stamp) = self.world.checks.pop_front() {
                if stamp.run != self.run {
                    self.run = stamp.run;
                }
                let now_ms = self.world.now.mono_ms;
                let seconds = (now_ms - last_ms) as f64 / 1000.0;
                last_ms = now_ms;
                let (candidate, baseline) = self.requests(rps, seconds, rates((now_ms - started_ms) / 1000));
                let Some(asked) = self.world.machine.asked().first().copied() else { continue };
                let counts = |tally: Tally| Counts { requests: tally.total, failures: tally.bad, ..Counts::default() };
                let check = Check {
                    weight: asked.weight,
                    next: asked.next,
                    candidate: counts(candidate),
                    baseline: counts(baseline),
                    warm: false,
                    scalars: Vec::new(),
                };
                let judgement = self.judge.check(&check, Duration::from_millis(now_ms));
                let now = self.world.now;
                self.world.machine.handle_verdict(stamp, asked.variant, &judgement, now);
                self.world.machine.handle_counts(stamp.run, asked.variant, candidate, baseline, now);
                self.world.drain(usize::MAX);
            }
        }
        self.world.machine.record().phase
    }

    fn visited(&self) -> Vec<f64> {
        self.world.visited.iter().map(|shares| shares.of(1).percent()).collect()
    }
}

fn plan() -> Plan {
    let steps = [(5.0, 60_000), (10.0, 60_000), (25.0, 60_000), (50.0, 60_000)];
    Plan {
        analysis: Some(Analysis { interval_ms: 1_000 }),
        max_failures: Some(50),
        keep_old_ms: 60_000,
        ..Plan::canary("stable", "canary", steps.iter().map(|(at, ms)| Step::of(*at, *ms).expect("a step")).collect())
    }
}

#[test]
fn a_healthy_release_goes_through_every_step() {
    for seed in 0..4 {
        let mut release = Release::new(plan(), seed);
        assert_eq!(release.run(100, &|_| (0, 0), 6 * 3600), Phase::Promoted, "seed {seed}");
        assert_eq!(release.visited(), [0.0, 5.0, 10.0, 25.0, 50.0, 100.0]);
    }
}

#[test]
fn a_failing_release_is_taken_back_after_a_handful() {
    let mut failed: Vec<u64> = (0..20)
        .map(|seed| {
            let mut release = Release::new(plan(), seed);
            assert_eq!(release.run(100, &|_| (50, 0), 600), Phase::RolledBack, "seed {seed}");
            assert_eq!(release.visited(), [0.0, 5.0, 0.0]);
            release.failed
        })
        .collect();
    failed.sort_unstable();
    assert!(failed[10] <= 8, "{failed:?}");
}

#[test]
fn a_trouble_of_both_is_held_and_says_why() {
    let mut release = Release::new(plan(), 3);
    let outage = |second: u64| if second > 30 { (100, 100) } else { (0, 0) };
    assert_eq!(release.run(200, &outage, 1200), Phase::Step);
    assert_eq!(release.visited(), [0.0, 5.0]);
    let held = release.world.told.iter().find(|event| event.kind == EventKind::Holding).expect("somebody is told");
    assert!(held.reason.contains("stable"), "{held:?}");
    assert!(held.deciding.is_some());
}

#[test]
fn without_traffic_nothing_is_promoted() {
    let mut release = Release::new(plan(), 4);
    assert_eq!(release.run(0, &|_| (0, 0), 24 * 3600), Phase::Step);
    assert_eq!(release.visited(), [0.0, 5.0]);

    let max_hold = Some(MaxHold { after_ms: 600_000, then: Reaction::Rollback });
    let mut release = Release::new(Plan { max_hold, ..plan() }, 4);
    assert_eq!(release.run(0, &|_| (0, 0), 3600), Phase::RolledBack);
    assert_eq!(release.world.now.mono_ms - 1_000_000, 660_000, "a minute of the step, ten of holding");
}

#[test]
fn a_release_that_turns_bad_after_its_promotion_is_taken_back() {
    let mut release = Release::new(Plan { keep_old_ms: 3_600_000, ..plan() }, 5);
    let late = |second: u64| if second > 900 { (50, 0) } else { (0, 0) };
    assert_eq!(release.run(200, &late, 3600), Phase::RolledBack);
    assert_eq!(release.visited(), [0.0, 5.0, 10.0, 25.0, 50.0, 100.0, 0.0]);
}
