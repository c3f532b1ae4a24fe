//! Random games: every move is made by the machine and by the model, and both must be in the same place after it.

use crate::model::{At, Model, Plain, Why};
use crate::world::{WEDNESDAY_MS, World, judgement};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weir::judge::Verdict;
use weir::rollout::{
    Analysis, Command, MaxHold, Order, PauseKind, Phase, Plan, Reaction, Shares, Stamp, Stay, Step, Strategy,
};
use weir::routing::split::Weight;

/// Those that found a mistake once.
const KEPT: [u64; 2] = [1, 20_261_121];

const HOUR_MS: u64 = 3_600_000;

#[test]
fn the_machine_agrees_with_the_model() {
    let asked = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds: Vec<u64> = match asked("SIM_SEED") {
        Some(seed) => vec![seed],
        None => KEPT.into_iter().chain(1000..1000 + asked("SIM_RUNS").unwrap_or(400)).collect(),
    };
    let mut ends = [0_usize; 3];
    for seed in &seeds {
        let mut game = Game::new(*seed);
        let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| game.play()));
        let Ok(end) = end else {
            panic!("seed {seed}:\n{:#?}\n{}", game.model.plan, game.moves.join("\n"));
        };
        ends[end] += 1;
    }
    println!("seeds {:?}…: promoted, rolled back, under way: {ends:?}", &seeds[..seeds.len().min(5)]);
    assert!(seeds.len() < 100 || ends.iter().all(|count| *count > 0), "the games are of one kind: {ends:?}");
}

struct Game {
    rng: SmallRng,
    world: World,
    model: Model,
    /// What the model was when the disk was last written.
    durable: Model,
    moves: Vec<String>,
    stamp_before: Stamp,
}

impl Game {
    fn new(seed: u64) -> Game {
        let mut rng = SmallRng::seed_from_u64(seed);
        let plain = plain_plan(&mut rng);
        let world = World::start(plan_of(&plain), WEDNESDAY_MS);
        let mut model = Model::new(plain);
        model.settle(world.now.wall_ms);
        let stamp_before = world.machine.stamp();
        Game { rng, world, durable: model.clone(), model, moves: Vec::new(), stamp_before }
    }

    /// 0 promoted, 1 rolled back, 2 neither.
    fn play(&mut self) -> usize {
        self.agree();
        for _ in 0..400 {
            self.one_move();
            self.agree();
        }
        match self.model.at {
            At::Promoted => 0,
            At::Back => 1,
            _ => 2,
        }
    }

    fn below(&mut self, most: u64) -> u64 {
        self.rng.next_u64() % most
    }

    fn one_move(&mut self) {
        match self.below(100) {
            0..45 => self.tick(),
            45..80 => self.verdict(),
            80..84 => {
                let ms = [100, 9_999, 20_000, HOUR_MS][self.below(4) as usize];
                self.wait(ms);
            }
            84..88 => self.clock_jump(),
            88..93 => self.command(),
            93..95 => self.ruin(),
            _ => self.crash(),
        }
    }

    fn say(&mut self, what: String) {
        self.moves.push(format!("{:>9} {what}", self.world.now.mono_ms));
    }

    /// Everything that was to be done is done; the model's state of now is on disk if the machine's is.
    fn done(&mut self) {
        let saves = self.world.saves;
        self.model.settle(self.world.now.wall_ms);
        self.world.drain(usize::MAX);
        if self.world.saves > saves {
            self.durable = self.model.clone();
        }
    }

    fn tick(&mut self) {
        let Some(at) = self.world.machine.poll_timeout() else { return };
        let late = if self.below(3) == 0 { self.below(50) } else { 0 };
        self.wait(at - self.world.now.mono_ms + late);
    }

    fn wait(&mut self, ms: u64) {
        self.say(format!("wait {ms} ms"));
        self.world.pass_ms(ms);
        self.model.time(ms, self.world.now.wall_ms);
        self.world.machine.handle_tick(self.world.now);
        self.done();
    }

    fn verdict(&mut self) {
        let verdict = match self.below(60) {
            0 => Verdict::Fail,
            1..15 => Verdict::Hold,
            _ => Verdict::Pass,
        };
        let current = self.world.machine.stamp();
        let stamp = if self.below(10) == 0 { self.stamp_before } else { current };
        self.say(format!("{verdict:?}, {stamp:?} of {current:?}"));
        if stamp.run == current.run {
            self.model.verdict(verdict, stamp == current);
        }
        self.world.machine.handle_verdict(stamp, 1, &judgement(verdict), self.world.now);
        self.done();
        self.stamp_before = current;
    }

    fn clock_jump(&mut self) {
        let wall_ms = self.world.now.wall_ms;
        self.world.now.wall_ms = if self.below(2) == 0 { wall_ms + HOUR_MS } else { wall_ms - HOUR_MS };
        self.say(format!("the wall clock jumps from {wall_ms} to {}", self.world.now.wall_ms));
    }

    fn command(&mut self) {
        let wall_ms = self.world.now.wall_ms;
        let force = self.below(4) == 0;
        let full = self.below(8) == 0;
        let model = &mut self.model;
        let (command, allowed) = match self.rng.next_u64() % 12 {
            0..3 => (Command::Pause, pause(model)),
            3..7 => (Command::Resume, model.resume()),
            7..10 => (Command::Promote { full, to: None }, model.promote(full, force, wall_ms)),
            10 => (Command::Undo, matches!(model.at, At::Watch | At::Promoted) && back(model)),
            _ => (Command::Retry, retry(model, force, wall_ms)),
        };
        self.give(command, force, allowed);
    }

    /// What ends most games.
    fn ruin(&mut self) {
        if self.below(4) == 0 {
            let allowed = !self.model.is_over() && back(&mut self.model);
            self.give(Command::Abort, false, allowed);
            if allowed {
                assert_eq!(self.world.live, Shares::all_to(0, 2), "abort gives everything back");
            }
        }
    }

    fn give(&mut self, command: Command, force: bool, allowed: bool) {
        let order = Order { by: "player".to_owned(), reason: None, force };
        let done = self.world.machine.handle_command(command, &order, self.world.now);
        self.say(format!("{command:?} {force}: {done:?}, the model allows it: {allowed}"));
        assert_eq!(done.is_ok(), allowed);
        self.done();
    }

    /// Amid what is to be done after a tick, or between moves.
    fn crash(&mut self) {
        let down_ms = [0, 3_000, HOUR_MS][self.rng.next_u64() as usize % 3];
        if let Some(at) = self.world.machine.poll_timeout().filter(|_| self.below(2) == 0) {
            let ms = at - self.world.now.mono_ms;
            self.world.pass_ms(ms);
            self.model.time(ms, self.world.now.wall_ms);
            self.model.settle(self.world.now.wall_ms);
            self.world.machine.handle_tick(self.world.now);
            let (done, saves) = (self.below(3) as usize, self.world.saves);
            self.world.drain(done);
            if self.world.saves > saves {
                self.durable = self.model.clone();
            }
        }
        self.say(format!("crash, down for {down_ms} ms"));
        self.model = self.durable.clone();
        self.model.passed_ms_ago = None;
        let saves = self.world.saves;
        self.world.crash(down_ms);
        self.model.settle(self.world.now.wall_ms);
        if self.world.saves > saves {
            self.durable = self.model.clone();
        }
        // What a restart goes on to is saved with its first step.
        self.stamp_before = self.world.machine.stamp();
    }

    fn agree(&self) {
        let record = self.world.machine.record();
        let percent = Weight::from_percent(f64::from(self.model.percent())).expect("a percent");
        assert_eq!(record.weights.of(1), percent, "{:?}", self.model);
        assert_eq!(self.world.live, record.weights);
        let total: u32 = record.weights.weights().iter().map(|weight| weight.thousandths()).sum();
        assert_eq!(total, 100_000);
        let at = match record.phase {
            Phase::Starting | Phase::Entering if record.entry == 0 || record.weights.of(1) == Weight::ZERO => {
                At::Baseline
            }
            Phase::Step | Phase::Leaving | Phase::Entering | Phase::Starting => At::Step(record.step),
            Phase::Watching => At::Watch,
            Phase::Promoted => At::Promoted,
            Phase::RolledBack => At::Back,
            Phase::Choosing => panic!("there is only one candidate"),
        };
        assert_eq!(at, self.model.at);
        let why = record.pause.as_ref().map(|pause| match pause.kind {
            PauseKind::Asked => Why::Asked,
            PauseKind::MaxHold => Why::Held,
            PauseKind::Failure => Why::Failed,
            other => panic!("nobody did this: {other:?}"),
        });
        assert_eq!(why, self.model.paused);
        if let At::Step(step) = at
            && let Some(whole) = self.model.plan.steps[step].1
        {
            let left_ms = whole.checked_sub(self.model.spent_ms).filter(|left| *left > 0);
            assert_eq!(self.world.machine.status(self.world.now).remaining_ms, left_ms);
        }
        assert_eq!(self.world.machine.poll_timeout().is_none(), self.model.is_over());
    }
}

fn pause(model: &mut Model) -> bool {
    let allowed = !model.is_over() && model.paused.is_none();
    if allowed {
        model.paused = Some(Why::Asked);
    }
    allowed
}

fn back(model: &mut Model) -> bool {
    model.go(At::Back);
    true
}

fn retry(model: &mut Model, force: bool, wall_ms: u64) -> bool {
    let allowed = model.at == At::Back && (force || !model.is_frozen(wall_ms));
    if allowed {
        model.go(At::Baseline);
        model.by_hand = force;
    }
    allowed
}

fn plain_plan(rng: &mut SmallRng) -> Plain {
    let mut below = |most: u64| rng.next_u64() % most;
    let mut percent = 0;
    let steps = (0..1 + below(5))
        .map(|_| {
            percent += below(20) as u32;
            let time = [None, Some(1), Some(5_000), Some(30_000), Some(61_234), Some(600_000)];
            (percent, time[below(6) as usize])
        })
        .collect();
    let frozen_from = WEDNESDAY_MS + HOUR_MS;
    Plain {
        steps,
        keep_old_ms: [0, 60_000][below(2) as usize],
        interval_ms: [None, Some(1_000), Some(10_000)][below(3) as usize],
        pause_on_failure: below(3) == 0,
        max_hold: [None, Some((30_000, true)), Some((90_000, false))][below(3) as usize],
        frozen: if below(3) == 0 { vec![(frozen_from, frozen_from + HOUR_MS)] } else { Vec::new() },
    }
}

fn plan_of(plain: &Plain) -> Plan {
    let step = |(percent, time): &(u32, Option<u64>)| Step {
        weights: Shares::of_candidates(&[Weight::from_percent(f64::from(*percent)).expect("a percent")])
            .expect("not more than 100 %"),
        stay: time.map_or(Stay::UntilPromoted, |ms| Stay::For { ms }),
    };
    let max_hold = plain.max_hold.map(|(after_ms, pauses)| MaxHold {
        after_ms,
        then: if pauses { Reaction::Pause } else { Reaction::Rollback },
    });
    Plan {
        strategy: Strategy::Canary,
        keep_old_ms: plain.keep_old_ms,
        analysis: plain.interval_ms.map(|interval_ms| Analysis { interval_ms }),
        on_failure: if plain.pause_on_failure { Reaction::Pause } else { Reaction::Rollback },
        max_hold,
        freeze: plain.frozen.iter().map(|_| "wed 01:00 - wed 02:00".parse().expect("a window")).collect(),
        ..Plan::canary("stable", "canary", plain.steps.iter().map(step).collect())
    }
}
