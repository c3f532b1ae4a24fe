//! What holds whatever happens, in whatever order.

use super::*;
use proptest::prelude::Strategy;
use proptest::prelude::*;

/// A command, an input, or time.
#[derive(Clone, Debug)]
enum Move {
    Wait(u64),
    Verdict(usize, Verdict, bool),
    Answer(u8),
    Counts(u64, u64),
    Command(Command, bool),
    Told,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let verdict = prop_oneof![1 => Just(Verdict::Fail), 3 => Just(Verdict::Hold), 12 => Just(Verdict::Pass)];
    let to = proptest::option::of(0_usize..4);
    let command = prop_oneof![
        Just(Command::Pause),
        Just(Command::Resume),
        Just(Command::Resume),
        (any::<bool>(), to).prop_map(|(full, to)| Command::Promote { full, to }),
        Just(Command::Abort),
        Just(Command::Retry),
        Just(Command::Undo),
        Just(Command::Shifted),
    ];
    let one = prop_oneof![
        6 => (0_u64..9_000).prop_map(Move::Wait),
        6 => (0_usize..4, verdict, any::<bool>()).prop_map(|(at, verdict, old)| Move::Verdict(at, verdict, old)),
        3 => (0_u8..12).prop_map(Move::Answer),
        1 => (0_u64..20, 0_u64..3).prop_map(|(bad, more)| Move::Counts(bad, bad + more)),
        2 => (command, any::<bool>()).prop_map(|(command, force)| Move::Command(command, force)),
        1 => Just(Move::Told),
    ];
    proptest::collection::vec(one, 0..120)
}

fn plans() -> impl Strategy<Value = Plan> {
    let stay = prop_oneof![3 => (0_u64..20_000).prop_map(|ms| Stay::For { ms }), 1 => Just(Stay::UntilPromoted)];
    let step = (0_u32..12_000, 0_u32..12_000, stay);
    let on =
        prop_oneof![Just(Moment::BeforeStart), Just(Moment::BeforeStep), Just(Moment::AfterStep), Just(Moment::Gate)];
    let hook = (on, 0_u32..3).prop_map(|(on, failures)| Hook { name: "hook".to_owned(), on, failures });
    let steps = proptest::collection::vec(step, 0..4);
    let hooks = proptest::collection::vec(hook, 0..3);
    let reaction = prop_oneof![Just(Reaction::Rollback), Just(Reaction::Pause)];
    let limit = proptest::option::of((1_u64..40_000, reaction.clone()));
    let options = (proptest::option::of(1_u64..15_000), proptest::option::of(1_usize..3), reaction, limit);
    (steps, hooks, options, 0_u64..9_000).prop_map(
        |(steps, hooks, (interval, winner, on_failure, limit), keep_old_ms)| {
            let (mut b, mut c) = (0, 0);
            let step = |(more_b, more_c, stay)| {
                (b, c) = (b + more_b, c + more_c);
                let weight = |thousandths| crate::routing::split::Weight::from_thousandths(thousandths).unwrap();
                Step { weights: Shares::of_candidates(&[weight(b), weight(c)]).unwrap(), stay }
            };
            Plan {
                variants: ["a", "b", "c"].map(str::to_owned).to_vec(),
                winner,
                keep_old_ms,
                analysis: interval.map(|interval_ms| Analysis { interval_ms }),
                hooks,
                on_failure,
                max_hold: limit.map(|(after_ms, then)| MaxHold { after_ms, then }),
                max_time_ms: Some(90_000),
                max_failures: Some(10),
                ..Plan::canary("a", "b", steps.into_iter().map(step).collect())
            }
        },
    )
}

/// Makes a move; what is to be done after it.
fn make(machine: &mut Machine, now: &mut Now, calls: &mut Vec<CallId>, one: &Move) -> Vec<Effect> {
    match one {
        Move::Wait(ms) => {
            *now = Now { mono_ms: now.mono_ms + ms, wall_ms: now.wall_ms + ms };
            machine.handle_tick(*now);
        }
        Move::Verdict(variant, verdict, old) => {
            let stamp = machine.stamp();
            let stamp = if *old { Stamp { entry: stamp.entry.wrapping_sub(1), ..stamp } } else { stamp };
            machine.handle_verdict(stamp, *variant, &judgement(*verdict), *now);
        }
        Move::Answer(kind) => {
            let Some(call) = calls.pop() else { return Vec::new() };
            let answer = match kind {
                0 => Answer::Fail("no".to_owned()),
                1..4 => Answer::Hold("not yet".to_owned()),
                _ => Answer::Pass,
            };
            machine.handle_answer(call, answer, *now);
        }
        Move::Counts(bad, total) => {
            let (run, tally) = (machine.stamp().run, |total, bad| Tally { total, bad });
            machine.handle_counts(run, 1, tally(*total, *bad), tally(100, 0), *now);
        }
        Move::Command(command, force) => {
            let order = Order { by: "ann".to_owned(), reason: None, force: *force };
            let _ = machine.handle_command(*command, &order, *now);
        }
        Move::Told => machine.handle_told(machine.record().next_event - 1),
    }
    let effects: Vec<_> = std::iter::from_fn(|| machine.poll_effect()).collect();
    calls.extend(effects.iter().filter_map(|effect| match effect {
        Effect::Call(call) => Some(*call),
        _ => None,
    }));
    effects
}

fn weights_in(effects: &[Effect]) -> impl Iterator<Item = &Shares> {
    effects.iter().filter_map(|effect| match effect {
        Effect::SetWeights(shares) => Some(shares),
        _ => None,
    })
}

fn started(plan: Plan) -> (Machine, Now) {
    let now = Now { mono_ms: 5, wall_ms: 7 };
    (Machine::start(plan, &Order::by("ann"), now).expect("the plan is good"), now)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn weights_are_the_plans_in_order_or_everything_is_back(plan in plans(), moves in moves()) {
        let (mut machine, mut now) = started(plan.clone());
        let (mut calls, mut step_before, mut live) = (Vec::new(), 0, plan.baseline_shares());
        for effect in std::iter::from_fn(|| machine.poll_effect()) {
            match effect {
                Effect::SetWeights(shares) => live = shares,
                Effect::Call(call) => calls.push(call),
                _ => {}
            }
        }
        for one in &moves {
            let was_over = machine.record().phase.is_over();
            let effects = make(&mut machine, &mut now, &mut calls, one);
            let is_command = matches!(one, Move::Command(..));
            prop_assert!(!was_over || is_command || effects.is_empty(), "{one:?} after the end: {effects:?}");
            for shares in weights_in(&effects) {
                let sum: u32 = shares.weights().iter().map(|weight| weight.thousandths()).sum();
                prop_assert_eq!(sum, 100_000);
                live = shares.clone();
            }
            let record = machine.record();
            prop_assert_eq!(&live, &record.weights, "the last published weights are those of the record");
            let begins_anew = matches!(one, Move::Command(Command::Retry, _));
            prop_assert!(begins_anew || record.step >= step_before, "a step comes again");
            step_before = record.step;
            let expected = match record.phase {
                Phase::RolledBack => plan.baseline_shares(),
                Phase::Promoted | Phase::Watching => Shares::all_to(record.winner().expect("somebody won"), 3),
                _ if live == plan.baseline_shares() => live.clone(),
                _ => plan.steps[record.step].weights.without(&record.out),
            };
            prop_assert_eq!(&live, &expected);
            prop_assert_eq!(machine.poll_timeout().is_none(), record.phase.is_over());
            prop_assert!(machine.poll_timeout().is_none_or(|at| at > now.mono_ms));
        }
        let open = !machine.record().phase.is_over();
        let aborted = make(&mut machine, &mut now, &mut calls, &Move::Command(Command::Abort, false));
        if open {
            prop_assert_eq!(aborted.first(), Some(&Effect::SetWeights(plan.baseline_shares())), "abort comes first");
            prop_assert_eq!(&machine.record().weights, &plan.baseline_shares());
        }
    }

    #[test]
    fn whoever_reads_the_record_has_the_same_future(plan in plans(), moves in moves(), at in 0_usize..120) {
        let (mut machine, mut now) = started(plan);
        let mut calls = Vec::new();
        make(&mut machine, &mut now, &mut calls, &Move::Wait(0));
        let mut moves = moves.iter();
        for one in moves.by_ref().take(at) {
            make(&mut machine, &mut now, &mut calls, one);
        }
        let text = serde_json::to_string(machine.record()).unwrap();
        let mut other = machine.clone();
        other.record = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&other, &machine);
        let (mut other_now, mut other_calls) = (now, calls.clone());
        for one in moves {
            let effects = make(&mut machine, &mut now, &mut calls, one);
            prop_assert_eq!(make(&mut other, &mut other_now, &mut other_calls, one), effects);
        }
    }

    #[test]
    fn nothing_is_promoted_without_a_verdict_or_a_person(plan in plans(), waits in proptest::collection::vec(0_u64..9_000, 0..200)) {
        let plan = Plan { analysis: Some(Analysis { interval_ms: 1_000 }), hooks: Vec::new(), ..plan };
        let (mut machine, mut now) = started(plan.clone());
        let first = plan.steps.iter().map(|step| &step.weights).find(|weights| **weights != plan.baseline_shares());
        let mut calls = Vec::new();
        for ms in waits {
            let effects = make(&mut machine, &mut now, &mut calls, &Move::Wait(ms));
            for shares in weights_in(&effects) {
                let allowed = *shares == plan.baseline_shares() || first.is_none_or(|first| first == shares);
                prop_assert!(allowed, "{shares}");
            }
        }
    }
}
