//! The machine alone: what each command and each kind of news does. Whole rollouts, crashes and clocks that jump are in
//! `tests/sim/`.

mod invariants;

use super::*;
use crate::judge::{Cause, Judgement, MetricVerdict, Tally, Unit, Verdict};

const MINUTE: u64 = 60_000;

fn judgement(verdict: Verdict) -> Judgement {
    let cause = match verdict {
        Verdict::Pass => Cause::Harmless,
        Verdict::Hold => Cause::TooFew,
        Verdict::Fail => Cause::Proven,
    };
    let metric = MetricVerdict {
        name: "error-rate".to_owned(),
        verdict,
        cause,
        unit: Unit::Share,
        candidate: Some(0.5),
        baseline: Some(0.25),
        limit: Some(f64::NAN),
        samples: 40,
        needs: None,
        reason: "too many errors".to_owned(),
    };
    Judgement { verdict, reason: metric.reason.clone(), metrics: vec![metric], alarm: None }
}

fn plan() -> Plan {
    let steps = [5.0, 50.0].map(|percent| Step::of(percent, MINUTE).unwrap()).to_vec();
    Plan { analysis: Some(Analysis { interval_ms: 10_000 }), ..Plan::canary("stable", "canary", steps) }
}

struct Bench {
    machine: Machine,
    now: Now,
    done: Vec<Effect>,
}

impl Bench {
    fn of(plan: Plan) -> Bench {
        let now = Now { mono_ms: 0, wall_ms: 0 };
        let machine = Machine::start(plan, &Order::by("ann"), now).unwrap();
        Bench { machine, now, done: Vec::new() }.drained()
    }

    fn drained(mut self) -> Bench {
        self.drain();
        self
    }

    fn drain(&mut self) {
        self.done.extend(std::iter::from_fn(|| self.machine.poll_effect()));
    }

    fn wait(&mut self, ms: u64) {
        for _ in 0..ms / 1000 {
            self.now = Now { mono_ms: self.now.mono_ms + 1000, wall_ms: self.now.wall_ms + 1000 };
            self.machine.handle_tick(self.now);
            self.drain();
        }
    }

    fn verdict(&mut self, verdict: Verdict) {
        self.machine.handle_verdict(self.machine.stamp(), 1, &judgement(verdict), self.now);
        self.drain();
    }

    fn command(&mut self, command: Command) -> Result<(), Refused> {
        let done = self.machine.handle_command(command, &Order::by("ann"), self.now);
        self.drain();
        done
    }

    fn answer(&mut self, answer: Answer) {
        let call = self.done.iter().rev().find_map(|effect| match effect {
            Effect::Call(call) => Some(*call),
            _ => None,
        });
        self.machine.handle_answer(call.expect("somebody was asked"), answer, self.now);
        self.drain();
    }

    fn percent(&self) -> f64 {
        self.machine.record().weights.of(1).percent()
    }

    fn phase(&self) -> Phase {
        self.machine.record().phase
    }

    fn told(&self) -> Vec<EventKind> {
        let told = |effect: &Effect| match effect {
            Effect::Tell(event) => Some(event.kind),
            _ => None,
        };
        self.done.iter().filter_map(told).collect()
    }

    fn last_event(&self) -> Event {
        let told = |effect: &Effect| match effect {
            Effect::Tell(event) => Some((**event).clone()),
            _ => None,
        };
        self.done.iter().rev().find_map(told).expect("something was told")
    }
}

#[test]
fn a_step_ends_when_its_time_is_over_and_the_gate_passes() {
    let mut bench = Bench::of(plan());
    assert_eq!(bench.percent(), 5.0);
    bench.verdict(Verdict::Pass);
    bench.wait(59_000);
    assert_eq!(bench.percent(), 5.0, "its time is not over");
    bench.wait(2_000);
    assert_eq!(bench.percent(), 5.0, "the verdict is stale");
    bench.verdict(Verdict::Hold);
    bench.wait(MINUTE);
    assert_eq!(bench.percent(), 5.0, "hold keeps it");
    bench.verdict(Verdict::Pass);
    assert_eq!(bench.percent(), 50.0);
    bench.wait(2 * MINUTE);
    assert_eq!(bench.percent(), 50.0, "what passed in the step before opens no gate");
    bench.verdict(Verdict::Pass);
    assert_eq!((bench.percent(), bench.phase()), (100.0, Phase::Promoted));
    use EventKind::*;
    assert_eq!(bench.told(), [Started, Step, Holding, Step, Holding, Promoted, Finished]);
}

#[test]
fn effects_come_in_an_order_that_survives_crashes() {
    let mut bench = Bench::of(plan());
    let kinds = |done: &[Effect]| -> String {
        let letter = |effect: &Effect| match effect {
            Effect::Save => 's',
            Effect::SetWeights(_) => 'w',
            Effect::Check { .. } => 'c',
            Effect::Call(_) => 'a',
            Effect::Tell(_) => 't',
        };
        done.iter().map(letter).collect()
    };
    assert_eq!(kinds(&bench.done), "swtwt", "saved first, then the baseline's weights and the first step's");
    bench.done.clear();
    bench.verdict(Verdict::Fail);
    assert_eq!(kinds(&bench.done), "wst", "traffic is taken back before anything else");
    assert_eq!(bench.done[0], Effect::SetWeights(Shares::all_to(0, 2)));
}

#[test]
fn a_failure_takes_everything_back_with_the_numbers_that_decided() {
    let mut bench = Bench::of(plan());
    bench.verdict(Verdict::Fail);
    assert_eq!((bench.percent(), bench.phase()), (0.0, Phase::RolledBack));
    let event = bench.last_event();
    let deciding = event.deciding.unwrap();
    assert_eq!((event.kind, event.reason.as_str()), (EventKind::RolledBack, "canary: too many errors"));
    assert_eq!((deciding.value, deciding.baseline, deciding.limit), (Some(0.5), Some(0.25), None));
    assert_eq!((deciding.metric.as_str(), deciding.unit.as_str(), deciding.samples), ("error-rate", "share", 40));
    assert_eq!(bench.machine.poll_timeout(), None);
    let done = bench.done.len();
    bench.verdict(Verdict::Fail);
    bench.wait(MINUTE);
    assert_eq!(bench.done.len(), done, "what is over asks for nothing more");
}

#[test]
fn a_failure_of_an_earlier_step_counts_and_of_an_earlier_run_does_not() {
    let mut bench = Bench::of(plan());
    let stamp = bench.machine.stamp();
    bench.command(Command::PROMOTE).unwrap();
    bench.machine.handle_verdict(stamp, 1, &judgement(Verdict::Fail), bench.now);
    assert_eq!(bench.phase(), Phase::RolledBack);
    bench.command(Command::Retry).unwrap();
    assert_eq!((bench.percent(), bench.phase()), (5.0, Phase::Step));
    bench.machine.handle_verdict(stamp, 1, &judgement(Verdict::Fail), bench.now);
    assert_eq!(bench.phase(), Phase::Step);
}

#[test]
fn a_pause_keeps_the_remaining_time_and_is_still_judged() {
    let mut bench = Bench::of(plan());
    bench.wait(20_000);
    bench.command(Command::Pause).unwrap();
    assert_eq!(bench.command(Command::Pause), Err(Refused::Paused));
    bench.wait(10 * MINUTE);
    assert_eq!(bench.machine.status(bench.now).remaining_ms, Some(40_000));
    bench.verdict(Verdict::Pass);
    bench.command(Command::Resume).unwrap();
    bench.wait(39_000);
    bench.verdict(Verdict::Pass);
    assert_eq!(bench.percent(), 5.0);
    bench.wait(1_000);
    assert_eq!(bench.percent(), 50.0);
    bench.command(Command::Pause).unwrap();
    bench.verdict(Verdict::Fail);
    assert_eq!(bench.phase(), Phase::RolledBack);
}

#[test]
fn a_failure_may_only_pause_and_going_on_needs_new_evidence() {
    let mut bench = Bench::of(Plan { on_failure: Reaction::Pause, ..plan() });
    bench.verdict(Verdict::Fail);
    bench.verdict(Verdict::Fail);
    assert_eq!((bench.percent(), bench.machine.stamp().run), (5.0, 1));
    assert_eq!(bench.told().iter().filter(|kind| **kind == EventKind::Paused).count(), 1, "told once");
    bench.command(Command::Resume).unwrap();
    assert_eq!(bench.machine.stamp().run, 2);
    bench.command(Command::Abort).unwrap();
    assert_eq!(bench.percent(), 0.0);
}

#[test]
fn the_budget_takes_out_whatever_a_failure_does() {
    let plan = Plan { on_failure: Reaction::Pause, max_failures: Some(3), analysis: None, ..plan() };
    let mut bench = Bench::of(plan);
    let tally = |total, bad| Tally { total, bad };
    bench.machine.handle_counts(1, 1, tally(10, 3), tally(190, 0), bench.now);
    assert_eq!(bench.percent(), 5.0);
    bench.machine.handle_counts(1, 1, tally(1, 1), tally(19, 0), bench.now);
    bench.drain();
    assert_eq!(bench.phase(), Phase::RolledBack);
    let event = bench.last_event();
    assert_eq!(event.deciding.as_ref().and_then(|deciding| deciding.value), Some(4.0));
    assert!(event.reason.contains("4 failed requests more than the baseline explains, 3 are allowed"), "{event:?}");
}

#[test]
fn holding_too_long_pauses_or_rolls_back() {
    let limit = |then| Some(MaxHold { after_ms: 2 * MINUTE, then });
    let mut bench = Bench::of(Plan { max_hold: limit(Reaction::Pause), ..plan() });
    bench.wait(3 * MINUTE - 1000);
    assert_eq!(bench.machine.record().pause, None);
    bench.wait(1000);
    let pause = bench.machine.record().pause.clone().unwrap();
    assert_eq!((pause.kind, pause.reason.as_str()), (PauseKind::MaxHold, "held for 2 min: canary: no verdict yet"));
    bench.command(Command::Resume).unwrap();
    bench.wait(MINUTE);
    assert_eq!(bench.machine.record().pause, None, "it begins anew");

    let mut bench = Bench::of(Plan { max_hold: limit(Reaction::Rollback), ..plan() });
    bench.wait(3 * MINUTE);
    assert_eq!((bench.percent(), bench.phase()), (0.0, Phase::RolledBack));
}

#[test]
fn taking_too_long_in_all_rolls_back_but_waiting_for_people_does_not_count() {
    let mut bench = Bench::of(Plan { max_time_ms: Some(5 * MINUTE), ..plan() });
    bench.wait(MINUTE);
    bench.command(Command::Pause).unwrap();
    bench.wait(60 * MINUTE);
    bench.command(Command::Resume).unwrap();
    bench.wait(4 * MINUTE - 1000);
    assert_eq!(bench.phase(), Phase::Step);
    bench.wait(1000);
    assert_eq!(bench.phase(), Phase::RolledBack);
    assert_eq!(bench.last_event().reason, "not promoted after 5 min");
}

#[test]
fn until_promoted_means_until_promoted() {
    let mut plan = plan();
    plan.steps[0].stay = Stay::UntilPromoted;
    let mut bench = Bench::of(plan);
    for _ in 0..60 {
        bench.wait(10_000);
        bench.verdict(Verdict::Pass);
    }
    assert_eq!((bench.percent(), bench.last_event().kind), (5.0, EventKind::Paused));
    bench.command(Command::PROMOTE).unwrap();
    assert_eq!(bench.percent(), 50.0);
    bench.command(Command::Promote { full: true, to: None }).unwrap();
    assert_eq!((bench.percent(), bench.phase()), (100.0, Phase::Promoted));
    assert_eq!(bench.command(Command::Abort), Err(Refused::Over(Phase::Promoted)));
    bench.command(Command::Undo).unwrap();
    assert_eq!((bench.percent(), bench.phase()), (0.0, Phase::RolledBack));
}

fn hook(on: Moment) -> Hook {
    Hook { name: "check".to_owned(), on, failures: 1 }
}

#[test]
fn who_must_agree_before_the_start_is_asked_until_it_says_so() {
    let mut bench = Bench::of(Plan { hooks: vec![hook(Moment::BeforeStart)], ..plan() });
    bench.answer(Answer::Hold("timed out".to_owned()));
    bench.wait(9_000);
    assert_eq!((bench.percent(), bench.phase()), (0.0, Phase::Starting));
    assert_eq!(bench.machine.status(bench.now).reason, "check: timed out");
    assert!(matches!(bench.command(Command::PROMOTE), Err(Refused::Waiting(_))));
    bench.wait(2_000);
    bench.answer(Answer::Pass);
    assert_eq!(bench.percent(), 5.0);

    let mut bench = Bench::of(Plan { hooks: vec![hook(Moment::BeforeStart)], ..plan() });
    bench.answer(Answer::Fail("409".to_owned()));
    assert_eq!((bench.phase(), bench.last_event().reason.as_str()), (Phase::RolledBack, "check failed: 409"));
}

#[test]
fn after_a_step_somebody_may_keep_it_there_and_its_gate_is_asked_again_before_the_next() {
    let mut bench = Bench::of(Plan { hooks: vec![hook(Moment::AfterStep)], ..plan() });
    bench.wait(MINUTE);
    bench.verdict(Verdict::Pass);
    assert_eq!((bench.percent(), bench.phase()), (5.0, Phase::Leaving));
    bench.verdict(Verdict::Hold);
    bench.answer(Answer::Pass);
    assert_eq!((bench.percent(), bench.phase()), (5.0, Phase::Entering), "the gate does not pass any more");
    bench.verdict(Verdict::Pass);
    assert_eq!(bench.percent(), 50.0);
}

#[test]
fn a_gate_is_asked_again_and_again() {
    let mut bench = Bench::of(Plan { hooks: vec![hook(Moment::Gate)], ..plan() });
    for _ in 0..5 {
        bench.answer(Answer::Pass);
        bench.wait(10_000);
    }
    bench.answer(Answer::Hold("not yet".to_owned()));
    bench.wait(20_000);
    bench.verdict(Verdict::Pass);
    assert_eq!(bench.percent(), 5.0);
    bench.answer(Answer::Pass);
    assert_eq!(bench.percent(), 50.0);
}

#[test]
fn a_window_keeps_it_where_it_is_and_takes_no_rollback_back() {
    // The machine's clock begins on a Thursday, 00:00.
    let freeze = vec!["thu 00:01 - thu 01:00".parse().unwrap()];
    let mut bench = Bench::of(Plan { freeze: freeze.clone(), max_hold: None, ..plan() });
    for _ in 0..300 {
        bench.wait(10_000);
        bench.verdict(Verdict::Pass);
    }
    assert_eq!((bench.percent(), bench.told().contains(&EventKind::Holding)), (5.0, true));
    assert_eq!(bench.command(Command::PROMOTE), Err(Refused::Frozen { until_ms: 3_600_000 }));
    for _ in 0..60 {
        bench.wait(10_000);
        bench.verdict(Verdict::Pass);
    }
    assert_eq!(bench.percent(), 50.0, "the window is over");

    let now = Now { mono_ms: 0, wall_ms: 120_000 };
    let plan = Plan { freeze, ..plan() };
    let refused = Machine::start(plan.clone(), &Order::by("ann"), now);
    assert_eq!(refused, Err(StartError::Refused(Refused::Frozen { until_ms: 3_600_000 })));
    let machine = Machine::start(plan, &Order::by("ann").forced(), now).unwrap();
    let mut bench = Bench { machine, now, done: Vec::new() }.drained();
    assert_eq!(bench.percent(), 5.0);
    bench.verdict(Verdict::Fail);
    assert_eq!(bench.percent(), 0.0);
}

#[test]
fn weights_shifted_by_hand_pause_it_and_it_sets_its_own_when_it_goes_on() {
    let mut bench = Bench::of(plan());
    bench.command(Command::Shifted).unwrap();
    bench.done.clear();
    bench.wait(10 * MINUTE);
    let restored = Machine::restore(bench.machine.record().clone(), bench.now).unwrap();
    let mut restored = Bench { machine: restored, now: bench.now, done: Vec::new() }.drained();
    let sets = |done: &[Effect]| done.iter().any(|effect| matches!(effect, Effect::SetWeights(_)));
    assert!(!sets(&bench.done) && !sets(&restored.done), "somebody else's weights are live");
    restored.command(Command::Resume).unwrap();
    assert!(sets(&restored.done));
}

#[test]
fn what_nobody_was_told_of_is_told_after_a_restart_with_the_same_number() {
    let mut bench = Bench::of(plan());
    bench.machine.handle_told(1);
    let mut machine = Machine::restore(bench.machine.record().clone(), bench.now).unwrap();
    let told: Vec<_> = std::iter::from_fn(|| machine.poll_effect()).collect();
    let [Effect::SetWeights(_), Effect::Tell(event)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(event.number, 2);
}

#[test]
fn a_record_that_does_not_hold_together_is_refused() {
    let record = Bench::of(plan()).machine.record().clone();
    let broken = |change: fn(&mut Record)| {
        let mut record = record.clone();
        change(&mut record);
        Machine::restore(record, Now { mono_ms: 0, wall_ms: 0 }).is_err()
    };
    assert!(!broken(|_| {}));
    assert!(broken(|record| record.step = 9));
    assert!(broken(|record| record.out.clear()));
    assert!(broken(|record| record.plan.variants.push("x".to_owned())));
    assert!(broken(|record| record.chosen = Some(0)));
    assert!(serde_json::from_str::<Shares>("[50000,50001]").is_err());
    assert!(serde_json::from_str::<Shares>("[100000]").is_err());
}

#[test]
fn plans_are_checked() {
    let step = |percent| Step::of(percent, 1).unwrap();
    let steps = |steps: &[f64]| Plan { steps: steps.iter().map(|at| step(*at)).collect(), ..plan() }.check();
    assert_eq!(steps(&[]), Ok(()));
    assert_eq!(steps(&[5.0, 5.0]), Ok(()));
    assert_eq!(steps(&[5.0, 100.0]), Err(PlanError::Full(2)));
    assert_eq!(steps(&[5.0, 4.0]), Err(PlanError::Falls { step: 2, variant: "canary".to_owned() }));
    assert_eq!(Plan { winner: Some(2), ..plan() }.check(), Err(PlanError::Winner(2)));
    assert_eq!(Plan { winner: Some(0), ..plan() }.check(), Err(PlanError::Winner(0)));
    assert_eq!(Plan { analysis: Some(Analysis { interval_ms: 0 }), ..plan() }.check(), Err(PlanError::Interval));
    assert_eq!(Plan { variants: vec!["a".to_owned()], ..plan() }.check(), Err(PlanError::Variants));
    let three = ["a", "b", "c"].map(str::to_owned).to_vec();
    assert_eq!(Plan { variants: three, ..plan() }.check(), Err(PlanError::Count(1)));
    assert!(Step::of(101.0, 1).is_none());
}
