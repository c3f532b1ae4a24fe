//! The task that has all rollouts: it wakes when a machine wants it, when a candidate fails a request, when somebody asks
//! for something, and when a save has ended.

use super::ask::Question;
use super::evidence::Evidence;
use super::tell::{Teller, Told};
use super::view::{View, Views};
use super::writes::{After, AtOnce, Writes};
use super::{RolloutChange, ask};
use crate::boundary::judged::Poke;
use crate::config::RouteConfig;
use crate::config::rollout::RolloutConfig;
use crate::control::audit;
use crate::control::command::{Command, IfMatch, Origin, RouteView};
use crate::control::ground::Ground;
use crate::control::persist::StateError;
use crate::limits::{JUDGE_INTERVAL, POKE_INTERVAL};
use crate::rollout::{
    self, Answer, CallId, Effect, Event, Machine, Now, Order, PlanError, Record, Refused, StartError, Strategy,
};
use crate::routing::split::Weight;
use arc_swap::ArcSwap;
use jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// A save that failed is tried again after this long.
const SAVE_AGAIN: Duration = Duration::from_secs(1);
/// The longest that the driver sleeps.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub enum Message {
    Act {
        asked: Asked,
        reply: oneshot::Sender<Result<Acted, ActError>>,
    },
    /// Another configuration is in force; the routes whose file's weights won over the live ones.
    Reloaded {
        file_won: Vec<String>,
    },
}

/// What a person asks of a route's rollout.
#[derive(Clone, Debug)]
pub struct Asked {
    pub route: String,
    pub act: Act,
    /// Past freeze windows and whoever has not agreed.
    pub force: bool,
    pub if_match: Option<IfMatch>,
    pub dry_run: bool,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Start,
    Pause,
    Resume,
    Promote {
        full: bool,
        /// A variant's name.
        to: Option<String>,
    },
    Abort,
    Retry,
    Undo,
    /// Somebody is about to shift the weights by hand.
    Shifted,
}

impl Act {
    /// In the audit log.
    pub fn word(&self) -> &'static str {
        match self {
            Act::Start => "start",
            Act::Pause => "pause",
            Act::Resume => "resume",
            Act::Promote { .. } => "promote",
            Act::Abort => "abort",
            Act::Retry => "retry",
            Act::Undo => "undo",
            Act::Shifted => "override",
        }
    }
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Acted {
    /// By the variants' names.
    pub before: Vec<(String, Weight)>,
    pub after: Vec<(String, Weight)>,
    pub phase: rollout::Phase,
}

#[derive(Debug, thiserror::Error)]
pub enum ActError {
    #[error("there is no route {0:?}")]
    NoRoute(String),
    #[error("route {0:?} has no rollout in its configuration: [route.rollout] with steps says what to do")]
    NoPlan(String),
    #[error("route {0:?} has no rollout: nothing was started")]
    NotStarted(String),
    #[error("route {:?} is at generation {}", .0.name(), .0.live.generation)]
    Stale(Box<RouteView>),
    #[error("{0}")]
    Refused(#[from] Refused),
    #[error("{0}")]
    Plan(#[from] PlanError),
    /// It can't begin from these weights.
    #[error("{0}")]
    Weights(String),
    #[error("{0}")]
    Variant(String),
    #[error(transparent)]
    NotSaved(StateError),
    #[error("weir is stopping")]
    Stopped,
}

impl From<StartError> for ActError {
    fn from(error: StartError) -> ActError {
        match error {
            StartError::Plan(error) => ActError::Plan(error),
            StartError::Refused(refused) => ActError::Refused(refused),
        }
    }
}

pub struct Driver {
    pub ground: Arc<ArcSwap<Ground>>,
    /// Ends with whoever else can ask the controller.
    pub commands: mpsc::WeakSender<Command>,
    pub urgent: mpsc::UnboundedSender<RolloutChange>,
    pub inbox: mpsc::Receiver<Message>,
    pub views: Arc<Views>,
    teller: Teller,
    rollouts: BTreeMap<String, Driven>,
    saves: JoinSet<(String, Result<(), StateError>)>,
    answers: JoinSet<(String, CallId, Answer)>,
    poke: Arc<Poke>,
    /// Somebody has, and it was not looked at yet.
    poked: bool,
    poke_from: Instant,
    began: Instant,
}

struct Driven {
    machine: Machine,
    evidence: Option<Evidence>,
    /// As it was when it was started.
    config: Option<Arc<RolloutConfig>>,
    writes: Writes,
    /// When to judge next, by the steady clock.
    look_at_ms: u64,
    /// Failures of candidates at the last look.
    failures: u64,
    /// Its first save has not ended: without it there is no rollout.
    is_new: bool,
}

impl Driver {
    pub fn new(
        ground: Arc<ArcSwap<Ground>>,
        commands: mpsc::WeakSender<Command>,
        urgent: mpsc::UnboundedSender<RolloutChange>,
        inbox: mpsc::Receiver<Message>,
        teller: Teller,
    ) -> Driver {
        let now = Instant::now();
        Driver {
            ground,
            commands,
            urgent,
            inbox,
            views: Arc::default(),
            teller,
            rollouts: BTreeMap::new(),
            saves: JoinSet::new(),
            answers: JoinSet::new(),
            poke: Arc::default(),
            poked: false,
            poke_from: now,
            began: now,
        }
    }

    /// Until nobody can ask for anything any more. `file_won`: routes whose file's weights have won at this start.
    pub async fn run(mut self, file_won: Vec<String>) {
        self.restore(&file_won);
        loop {
            let wake = tokio::time::Instant::from_std(self.wake());
            let poke = Arc::clone(&self.poke);
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.handle(message),
                    None => return,
                },
                Some(Ok((route, result))) = self.saves.join_next() => self.saved(&route, result),
                Some(Ok((route, call, answer))) = self.answers.join_next() => self.answered(&route, call, answer),
                () = poke.poked(), if !self.poked => self.poked = true,
                () = tokio::time::sleep_until(wake) => {}
            }
            self.turn();
        }
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Now { mono_ms: ms(self.began.elapsed()), wall_ms: ms(wall) }
    }

    fn wake(&self) -> Instant {
        let latest = Instant::now() + LONGEST_SLEEP;
        let poked = self.poked.then_some(self.poke_from);
        let of = |driven: &Driven| {
            let look = driven.is_judged().then_some(driven.look_at_ms);
            let at = |ms: u64| self.began + Duration::from_millis(ms);
            let times = [driven.machine.poll_timeout().map(at), look.map(at), driven.writes.due()];
            times.into_iter().flatten().min()
        };
        self.rollouts.values().filter_map(of).chain(poked).min().map_or(latest, |wake| wake.min(latest))
    }

    /// All that is due.
    fn turn(&mut self) {
        let now = self.now();
        let poked = self.poked && Instant::now() >= self.poke_from;
        if poked {
            self.poke.lower();
            (self.poked, self.poke_from) = (false, Instant::now() + POKE_INTERVAL);
        }
        let routes: Vec<String> = self.rollouts.keys().cloned().collect();
        for route in routes {
            let Some(driven) = self.rollouts.get_mut(&route) else { continue };
            driven.look(poked, now);
            if driven.machine.poll_timeout().is_some_and(|at| at <= now.mono_ms) {
                driven.machine.handle_tick(now);
            }
            self.settle(&route, None);
        }
        self.publish();
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Act { asked, reply } => self.act(asked, reply),
            Message::Reloaded { file_won } => self.reloaded(&file_won),
        }
    }

    fn act(&mut self, asked: Asked, reply: oneshot::Sender<Result<Acted, ActError>>) {
        let result = self.try_act(&asked);
        let (acted, before) = match result {
            Ok(done) => done,
            Err(error) => {
                // The caller may have gone.
                let _ = reply.send(Err(error));
                return;
            }
        };
        if asked.dry_run {
            let _ = reply.send(Ok(acted));
            return;
        }
        let line = audit::rollout(&asked.route, asked.act.word(), &asked.origin, Timestamp::now());
        self.settle_asked(&asked, |writes| {
            writes.answer(line, After::Answer { to: reply, acted: Box::new(acted), before: before.map(Box::new) });
        });
    }

    /// What became of it, and the machine as it was before, where going back to it would undo it.
    fn try_act(&mut self, asked: &Asked) -> Result<(Acted, Option<Machine>), ActError> {
        let now = self.now();
        let ground = Arc::clone(&self.ground.load());
        let view = ground.route(&asked.route).ok_or_else(|| ActError::NoRoute(asked.route.clone()))?;
        if asked.if_match.as_ref().is_some_and(|wanted| !wanted.allows(view.live.generation)) {
            return Err(ActError::Stale(Box::new(view)));
        }
        let order = Order { by: asked.origin.actor.clone(), reason: asked.origin.reason.clone(), force: asked.force };
        let config = &view.config.routes[view.index];
        let before = named(config, &view.live.weights);
        if asked.act == Act::Start {
            let machine = self.begin(&view, &order, now)?;
            let acted = acted(&machine, before);
            let known = self.rollouts.get(&asked.route).map(|driven| driven.machine.clone());
            if !asked.dry_run {
                self.drive(&view, machine, known.is_none());
            }
            return Ok((acted, known));
        }
        let driven = self.rollouts.get_mut(&asked.route).ok_or_else(|| ActError::NotStarted(asked.route.clone()))?;
        let mut machine = driven.machine.clone();
        let command = command(&machine, &asked.act)?;
        machine.handle_command(command, &order, now)?;
        let acted = acted(&machine, before);
        // What gives the baseline everything is not undone for a disk.
        let back = machine.record().phase == rollout::Phase::RolledBack;
        if asked.dry_run {
            return Ok((acted, None));
        }
        let known = std::mem::replace(&mut driven.machine, machine);
        Ok((acted, (!back).then_some(known)))
    }

    /// A rollout by the configuration of now, from the weights of now.
    fn begin(&self, view: &RouteView, order: &Order, now: Now) -> Result<Machine, ActError> {
        let route = &view.config.routes[view.index];
        let config = route.rollout.as_ref().ok_or_else(|| ActError::NoPlan(route.name.clone()))?;
        if let Some(driven) = self.rollouts.get(&route.name)
            && !driven.machine.record().phase.is_over()
        {
            return Err(Refused::UnderWay(driven.machine.record().phase).into());
        }
        let weights = &view.live.weights;
        let variants: Vec<String> = route.variants.iter().map(|variant| variant.name.clone()).collect();
        let baseline = match config.strategy {
            Strategy::Canary if weights[0] == Weight::ZERO && !order.force => {
                let first = &variants[0];
                let why = format!(
                    "{first} has no traffic, and a rollout begins with everything at {first}: shift it there first, or force"
                );
                return Err(ActError::Weights(why));
            }
            Strategy::Canary => 0,
            Strategy::BlueGreen => weights.iter().position(|weight| *weight == Weight::FULL).ok_or_else(|| {
                let why =
                    format!("neither {} has everything: switch to the one that is to be left", variants.join(" nor "));
                ActError::Weights(why)
            })?,
        };
        Ok(Machine::start(config.plan(&variants, baseline), order, now)?)
    }

    fn drive(&mut self, view: &RouteView, machine: Machine, is_new: bool) {
        let (evidence, config) = self.evidence(view, &machine);
        let name = view.name().to_owned();
        // Saves that are under way for what was there before still end with it.
        let writes = self.rollouts.remove(&name).map(|before| before.writes).unwrap_or_default();
        let driven = Driven { machine, evidence, config, writes, look_at_ms: 0, failures: 0, is_new };
        self.rollouts.insert(name, driven);
    }

    fn evidence(&self, view: &RouteView, machine: &Machine) -> (Option<Evidence>, Option<Arc<RolloutConfig>>) {
        let route = &view.config.routes[view.index];
        let workers = self.ground.load().outcomes.workers();
        let config = route.rollout.clone();
        let plan = &machine.record().plan;
        let evidence = config.as_ref().and_then(|config| Evidence::of(plan, config, route, workers, &self.poke));
        (evidence, config)
    }

    /// Rollouts that were there when the process before ended.
    fn restore(&mut self, file_won: &[String]) {
        let ground = Arc::clone(&self.ground.load());
        for view in ground.views() {
            let Some(live) = &view.live.rollout else { continue };
            let route = &view.config.routes[view.index];
            let mut record = live.record.clone();
            let pause = match (&route.rollout, file_won.contains(&route.name)) {
                _ if !live.under_way => None,
                (_, true) => Some(json!({"kind": "shifted", "reason": "the file's weights changed"})),
                (None, _) => {
                    Some(json!({"kind": "asked", "reason": "the file has no rollout for this route any more"}))
                }
                _ => None,
            };
            if let Some(pause) = pause {
                record["pause"] = pause;
            }
            let restored = serde_json::from_value::<Record>(record).map_err(|error| error.to_string());
            let now = self.now();
            match restored.and_then(|record| Machine::restore(record, now).map_err(|error| error.to_string())) {
                Ok(machine) => {
                    self.drive(&view, machine, false);
                    if let Some(driven) = self.rollouts.get_mut(&route.name).filter(|_| live.under_way) {
                        driven.writes.want_save();
                        let phase = driven.machine.record().phase.to_string();
                        tracing::info!(route = route.name, phase, "a rollout goes on");
                    }
                }
                Err(why) => {
                    tracing::error!(route = route.name, why, "the saved rollout is not used: weights stay as they are");
                    self.forget(&route.name);
                }
            }
        }
        self.turn();
    }

    /// As if there had been no rollout.
    fn forget(&mut self, route: &str) {
        let change = RolloutChange {
            route: route.to_owned(),
            rollout: None,
            weights: None,
            audit: Vec::new(),
            epoch: Default::default(),
        };
        self.save(change);
    }

    fn reloaded(&mut self, file_won: &[String]) {
        let (ground, now) = (Arc::clone(&self.ground.load()), self.now());
        let gone = |route: &String, driven: &Driven| {
            let live = ground.route(route).and_then(|view| view.live.rollout.clone());
            live.is_none() && !driven.is_new
        };
        let lost: Vec<String> = self
            .rollouts
            .iter()
            .filter(|(route, driven)| gone(route, driven))
            .map(|(route, _)| route.clone())
            .collect();
        for route in lost {
            self.rollouts.remove(&route);
            tracing::warn!(route, "the route or its variants are not those of its rollout any more: it has ended");
        }
        for (route, driven) in &mut self.rollouts {
            if file_won.contains(route) && !driven.machine.record().phase.is_over() {
                let order = Order {
                    by: "file".to_owned(),
                    reason: Some("the file's weights changed".to_owned()),
                    force: false,
                };
                if let Err(error) = driven.machine.handle_command(rollout::Command::Shifted, &order, now) {
                    tracing::warn!(route, %error, "the rollout does not pause for the file's weights");
                }
            }
        }
    }

    fn settle(&mut self, route: &str, asker: Option<&Origin>) {
        let Some(driven) = self.rollouts.get_mut(route) else { return };
        let judged = driven.evidence.as_ref().map(|evidence| &evidence.judged);
        let at_once = driven.writes.take(&mut driven.machine, asker, (route, judged));
        for one in at_once {
            match one {
                // Without a controller there are no requests either.
                AtOnce::TakeBack(change) => drop(self.urgent.send(change)),
                AtOnce::Tell(event) => driven.tell(&self.teller, route, *event),
            }
        }
        let ready = driven.writes.ready();
        let judged = driven.evidence.as_ref().map(|evidence| &evidence.judged);
        let change = driven.writes.begin(&driven.machine, judged, route);
        self.after(route, ready);
        if let Some(change) = change {
            self.save(change);
        }
    }

    fn settle_asked(&mut self, asked: &Asked, answer: impl FnOnce(&mut Writes)) {
        let Some(driven) = self.rollouts.get_mut(&asked.route) else { return };
        let judged = driven.evidence.as_ref().map(|evidence| &evidence.judged);
        let at_once = driven.writes.take(&mut driven.machine, Some(&asked.origin), (&asked.route, judged));
        answer(&mut driven.writes);
        for one in at_once {
            match one {
                AtOnce::TakeBack(change) => drop(self.urgent.send(change)),
                AtOnce::Tell(event) => driven.tell(&self.teller, &asked.route, *event),
            }
        }
    }

    fn save(&mut self, change: RolloutChange) {
        let Some(commands) = self.commands.upgrade() else { return };
        let route = change.route.clone();
        self.saves.spawn(async move {
            let (reply, answer) = oneshot::channel();
            let roll = Command::Roll { change: Box::new(change), reply };
            let gone = || StateError::writer(&"weir is stopping");
            let result = match commands.send(roll).await {
                Ok(()) => answer.await.unwrap_or_else(|_| Err(gone())),
                Err(_) => Err(gone()),
            };
            (route, result)
        });
    }

    fn saved(&mut self, route: &str, result: Result<(), StateError>) {
        let failed = result.is_err();
        let Some(driven) = self.rollouts.get_mut(route) else { return };
        let after = driven.writes.ended(&mut driven.machine, result, Instant::now() + SAVE_AGAIN);
        if failed && driven.is_new {
            self.rollouts.remove(route);
            return;
        }
        driven.is_new = false;
        self.publish();
        self.after(route, after);
    }

    fn after(&mut self, route: &str, after: Vec<After>) {
        for one in after {
            match one {
                After::Tell(event) => {
                    if let Some(driven) = self.rollouts.get_mut(route) {
                        driven.tell(&self.teller, route, *event);
                    }
                }
                After::Call(call) => self.call(route, call),
                // The caller may have gone.
                After::Answer { to, acted, .. } => drop(to.send(Ok(*acted))),
            }
        }
    }

    /// Asks a hook, off this path; its answer is a message as any other.
    fn call(&mut self, route: &str, call: CallId) {
        let Some(driven) = self.rollouts.get(route) else { return };
        let question = Question::of(&driven.machine, call, route, Arc::clone(&self.ground.load()));
        let config = driven.config.clone();
        self.answers.spawn(async move {
            let answer = ask::hook(config.as_deref(), &question).await;
            (question.route, call, answer)
        });
    }

    fn answered(&mut self, route: &str, call: CallId, answer: Answer) {
        let now = self.now();
        if let Some(driven) = self.rollouts.get_mut(route) {
            driven.machine.handle_answer(call, answer, now);
        }
    }

    /// What readers see.
    fn publish(&self) {
        let now = self.now();
        let view = |(route, driven): (&String, &Driven)| (route.clone(), Arc::new(driven.view(now)));
        let shown: BTreeMap<String, Arc<View>> = self.rollouts.iter().map(view).collect();
        self.views.store(Arc::new(shown));
    }
}

impl Driven {
    fn is_judged(&self) -> bool {
        self.evidence.is_some() && !self.machine.record().phase.is_over()
    }

    /// Judges if that is due, or if somebody has failed since the last time.
    fn look(&mut self, poked: bool, now: Now) {
        let due = self.is_judged() && now.mono_ms >= self.look_at_ms;
        let Some(evidence) = &mut self.evidence else { return };
        if self.machine.record().phase.is_over() {
            return;
        }
        let candidates = evidence.judged.variants.iter().skip(1);
        let failures = candidates.map(|(_, variant)| variant.failures()).sum();
        let has_failed = poked && failures != self.failures;
        if !due && !has_failed {
            return;
        }
        self.failures = failures;
        evidence.look(&mut self.machine, now);
        let interval = self.machine.record().plan.analysis.map_or(u64::MAX, |analysis| analysis.interval_ms);
        self.look_at_ms = now.mono_ms + interval.min(u64::try_from(JUDGE_INTERVAL.as_millis()).unwrap_or(1000));
    }

    fn tell(&mut self, teller: &Teller, route: &str, event: Event) {
        let number = event.number;
        let variants = self.machine.record().plan.variants.clone();
        teller.tell(Told { route: route.to_owned(), variants, event });
        self.machine.handle_told(number);
    }

    fn view(&self, now: Now) -> View {
        let record = self.machine.record();
        let judgement = |variant| self.evidence.as_ref().and_then(|evidence| evidence.judgement(variant)).cloned();
        View {
            at: Instant::now(),
            status: self.machine.status(now),
            plan: record.plan.clone(),
            started_by: record.started_by.clone(),
            exposure: record.exposure.clone(),
            judgements: (0..record.plan.variants.len()).map(judgement).collect(),
        }
    }
}

/// The weights before, and those that the machine wants now.
fn acted(machine: &Machine, before: Vec<(String, Weight)>) -> Acted {
    let mut machine = machine.clone();
    let mut after = before.clone();
    while let Some(effect) = machine.poll_effect() {
        if let Effect::SetWeights(shares) = effect {
            let named = machine.record().plan.variants.iter().zip(shares.weights());
            let share = |name: &String| named.clone().find(|(known, _)| *known == name).map(|(_, weight)| *weight);
            after = before.iter().map(|(name, _)| (name.clone(), share(name).unwrap_or(Weight::ZERO))).collect();
        }
    }
    Acted { before, after, phase: machine.record().phase }
}

fn named(route: &RouteConfig, weights: &[Weight]) -> Vec<(String, Weight)> {
    route.variants.iter().map(|variant| variant.name.clone()).zip(weights.iter().copied()).collect()
}

fn command(machine: &Machine, act: &Act) -> Result<rollout::Command, ActError> {
    Ok(match act {
        Act::Pause => rollout::Command::Pause,
        Act::Resume => rollout::Command::Resume,
        Act::Abort => rollout::Command::Abort,
        Act::Retry => rollout::Command::Retry,
        Act::Undo => rollout::Command::Undo,
        Act::Shifted | Act::Start => rollout::Command::Shifted,
        Act::Promote { full, to } => {
            let variants = &machine.record().plan.variants;
            let place = |name: &String| variants.iter().position(|known| known == name);
            let to = match to {
                None => None,
                Some(name) => Some(place(name).ok_or_else(|| {
                    ActError::Variant(format!("the rollout has no variant {name:?}; it has {}", variants.join(", ")))
                })?),
            };
            rollout::Command::Promote { full: *full, to }
        }
    })
}
