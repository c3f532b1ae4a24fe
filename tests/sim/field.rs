//! The plans that the field's documents show, run to their end by passing verdicts: exactly their weights, in order, each
//! for exactly its time.

use crate::world::{WEDNESDAY_MS, World, judgement};
use weir::judge::Verdict;
use weir::rollout::{
    Analysis, Answer, Command, EventKind, Hook, Machine, MaxHold, Moment, Order, Phase, Plan, Reaction, Shares, Stay,
    Step,
};
use weir::routing::split::Weight;

const MINUTE_MS: u64 = 60_000;

fn canary(steps: &[(f64, u64)], keep_old_ms: u64, interval_ms: Option<u64>) -> Plan {
    let steps = steps.iter().map(|(percent, ms)| Step::of(*percent, *ms).expect("a step")).collect();
    Plan {
        keep_old_ms,
        analysis: interval_ms.map(|interval_ms| Analysis { interval_ms }),
        ..Plan::canary("stable", "canary", steps)
    }
}

/// Percent of the candidate and the minutes at it, up to the end of the rollout.
pub fn stays(mut world: World) -> Vec<(f64, f64)> {
    let mut stays = vec![(world.live.of(1).percent(), world.now.mono_ms)];
    loop {
        for stamp in std::mem::take(&mut world.checks) {
            world.machine.handle_verdict(stamp, 1, &judgement(Verdict::Pass), world.now);
        }
        for call in std::mem::take(&mut world.calls) {
            world.machine.handle_answer(call, Answer::Pass, world.now);
        }
        world.drain(usize::MAX);
        let percent = world.live.of(1).percent();
        if stays.last().expect("there is one").0 != percent {
            stays.push((percent, world.now.mono_ms));
        }
        if world.checks.is_empty() && world.calls.is_empty() && !world.tick() {
            break;
        }
    }
    assert_eq!(world.machine.record().phase, Phase::Promoted);
    let ends: Vec<u64> = stays.iter().skip(1).map(|(_, at)| *at).chain([world.now.mono_ms]).collect();
    let minutes = |from: u64, to: u64| (to - from) as f64 / MINUTE_MS as f64;
    let stays = stays.iter().zip(ends).map(|((percent, from), to)| (*percent, minutes(*from, to)));
    stays.filter(|(percent, _)| *percent > 0.0).collect()
}

fn run(plan: Plan) -> Vec<(f64, f64)> {
    stays(World::start(plan, WEDNESDAY_MS))
}

#[test]
fn a_day_in_five_steps_with_a_check_a_minute() {
    let steps = [(5.0, 30 * MINUTE_MS), (20.0, 60 * MINUTE_MS), (50.0, 120 * MINUTE_MS), (80.0, 60 * MINUTE_MS)];
    let plan = canary(&steps, 24 * 60 * MINUTE_MS, Some(MINUTE_MS));
    assert_eq!(run(plan), [(5.0, 30.0), (20.0, 60.0), (50.0, 120.0), (80.0, 60.0), (100.0, 1440.0)]);
}

#[test]
fn five_minutes_a_step() {
    let steps = [5.0, 10.0, 25.0, 50.0, 75.0].map(|percent| (percent, 5 * MINUTE_MS));
    let stays = run(canary(&steps, 0, Some(10_000)));
    assert_eq!(stays, [(5.0, 5.0), (10.0, 5.0), (25.0, 5.0), (50.0, 5.0), (75.0, 5.0), (100.0, 0.0)]);
}

#[test]
fn argos_example() {
    let steps = [(10.0, 5 * MINUTE_MS), (30.0, MINUTE_MS), (60.0, 30_000)];
    assert_eq!(run(canary(&steps, 0, None)), [(10.0, 5.0), (30.0, 1.0), (60.0, 0.5), (100.0, 0.0)]);
}

fn flagger() -> Plan {
    let steps: Vec<_> = (1..=5).map(|nth| (f64::from(nth) * 10.0, MINUTE_MS)).collect();
    let hook = Hook { name: "load-test".to_owned(), on: Moment::Gate, failures: 5 };
    Plan { hooks: vec![hook], ..canary(&steps, 0, Some(MINUTE_MS)) }
}

#[test]
fn flaggers_example() {
    let stays = run(flagger());
    assert_eq!(stays, [(10.0, 1.0), (20.0, 1.0), (30.0, 1.0), (40.0, 1.0), (50.0, 1.0), (100.0, 0.0)]);
}

#[test]
fn flaggers_threshold_of_five() {
    let mut world = World::start(flagger(), WEDNESDAY_MS);
    for nth in 1..=5 {
        while world.calls.is_empty() {
            assert!(world.tick());
        }
        assert_eq!(world.live.of(1).percent(), 10.0, "before the answer {nth}");
        let call = world.calls.pop_front().expect("it was just asked");
        world.machine.handle_answer(call, Answer::Fail("500".to_owned()), world.now);
        world.drain(usize::MAX);
    }
    assert_eq!(world.live, Shares::all_to(0, 2));
    let last = world.told.last().expect("it was told");
    assert_eq!((last.kind, last.reason.as_str()), (EventKind::RolledBack, "load-test failed: 500"));
}

#[test]
fn code_deploys_canary_and_linear() {
    assert_eq!(run(canary(&[(10.0, 5 * MINUTE_MS)], 0, None)), [(10.0, 5.0), (100.0, 0.0)]);
    let steps = [20.0, 40.0, 60.0, 80.0].map(|percent| (percent, 10 * MINUTE_MS));
    assert_eq!(run(canary(&steps, 0, None)), [(20.0, 10.0), (40.0, 10.0), (60.0, 10.0), (80.0, 10.0), (100.0, 0.0)]);
}

#[test]
fn blue_green_tests_at_nothing_switches_and_keeps_the_old() {
    let smoke = Hook { name: "smoke".to_owned(), on: Moment::BeforeStep, failures: 1 };
    let plan = Plan { hooks: vec![smoke], ..Plan::blue_green("blue", "green", false, 30 * MINUTE_MS) };
    let mut world = World::start(plan.clone(), WEDNESDAY_MS);
    let smoke = world.calls.pop_front().expect("before the test step");
    world.machine.handle_answer(smoke, Answer::Pass, world.now);
    for _ in 0..1000 {
        assert!(world.tick());
    }
    assert_eq!(world.visited, [Shares::all_to(0, 2)], "nobody promoted it");
    world.machine.handle_command(Command::PROMOTE, &Order::by("ann"), world.now).expect("it waits for that");
    world.drain(usize::MAX);
    assert_eq!(world.live, Shares::all_to(0, 2), "smoke comes before the switch, whoever promotes");
    assert_eq!(stays(world), [(100.0, 30.0)]);

    let auto = Plan { hooks: plan.hooks, ..Plan::blue_green("blue", "green", true, 30 * MINUTE_MS) };
    let mut world = World::start(auto, WEDNESDAY_MS);
    for answer in [Answer::Pass, Answer::Fail("GET /v1/ping: 500".to_owned())] {
        let smoke = world.calls.pop_front().expect("before each step");
        world.machine.handle_answer(smoke, answer, world.now);
        world.drain(usize::MAX);
    }
    assert_eq!(world.machine.record().phase, Phase::RolledBack);
    assert_eq!(world.visited, [Shares::all_to(0, 2)]);
}

#[test]
fn undo_is_instant_while_the_old_is_kept() {
    let mut world = World::start(Plan::blue_green("blue", "green", true, 30 * MINUTE_MS), WEDNESDAY_MS);
    assert_eq!(world.live, Shares::all_to(1, 2));
    world.pass_ms(10 * MINUTE_MS);
    world.machine.handle_command(Command::Undo, &Order::by("ann"), world.now).expect("it is watched");
    world.drain(usize::MAX);
    assert_eq!(world.live, Shares::all_to(0, 2));
    assert!(!world.tick());
}

#[test]
fn each_of_several_candidates_is_judged_and_one_may_go() {
    let weights = |b: f64, c: f64| {
        let weight = |percent| Weight::from_percent(percent).expect("a percent");
        Shares::of_candidates(&[weight(b), weight(c)]).expect("not more than 100 %")
    };
    let step = |b, c| Step { weights: weights(b, c), stay: Stay::For { ms: MINUTE_MS } };
    let plan = Plan {
        variants: ["a", "b", "c"].map(str::to_owned).to_vec(),
        winner: None,
        analysis: Some(Analysis { interval_ms: 10_000 }),
        max_hold: Some(MaxHold { after_ms: 10 * MINUTE_MS, then: Reaction::Pause }),
        ..Plan::canary("a", "b", vec![step(10.0, 10.0), step(30.0, 30.0)])
    };
    let mut world = World::start(plan, WEDNESDAY_MS);
    let judge = |world: &mut World, variant, verdict| {
        let stamp = world.machine.stamp();
        world.machine.handle_verdict(stamp, variant, &judgement(verdict), world.now);
        world.drain(usize::MAX);
    };
    world.pass_ms(1);
    while world.live == weights(10.0, 10.0) {
        assert!(world.tick());
        judge(&mut world, 1, Verdict::Pass);
        let other = if world.now.mono_ms < 1_090_000 { Verdict::Hold } else { Verdict::Pass };
        judge(&mut world, 2, other);
    }
    assert_eq!(world.live, weights(30.0, 30.0));
    assert!(world.now.mono_ms >= 1_090_000, "one of two held it");
    judge(&mut world, 2, Verdict::Fail);
    assert_eq!(world.live, weights(30.0, 0.0), "its share is the baseline's");
    for _ in 0..100 {
        assert!(world.tick());
        judge(&mut world, 1, Verdict::Pass);
    }
    assert_eq!((world.machine.record().phase, world.live.clone()), (Phase::Choosing, weights(30.0, 0.0)));
    let promote = |machine: &mut Machine, to, now| {
        machine.handle_command(Command::Promote { full: false, to }, &Order::by("ann"), now).is_ok()
    };
    assert!(!promote(&mut world.machine, None, world.now) && !promote(&mut world.machine, Some(2), world.now));
    assert!(promote(&mut world.machine, Some(1), world.now));
    world.drain(usize::MAX);
    assert_eq!(world.live, weights(100.0, 0.0));
}
