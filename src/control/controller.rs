//! The one task that owns the ground state.
//!
//! Order of a change: validate, save (history, audit log and live state, each with fsync), publish, acknowledge. Saving may wait for a disk, so whatever queued up
//! meanwhile is taken as one batch: saved once, published once, then answered. A batch that can't be saved changes
//! nothing. Readers look at the last published snapshot and never wait for this task.

use super::audit::{Refusals, Refused};
use super::command::{
    ChangeError, Changed, Command, DrainError, DrainOrder, Installed, Origin, Relisted, WeightChange,
};
use super::ground::{Addresses, Cause, Ground, LiveRoute, listed};
use super::handover::{self, Handed};
use super::health::{self, Key, Verdict};
use super::history::{Entry, FILE, Trimming};
use super::persist::{Commit, StateDir, StateError};
use super::rollout::RolloutChange;
use super::save::{self, Env, SaveError, SaveRequest, Saving};
use super::tls::Tls;
use super::{audit, derive};
use crate::boundary::table::Publisher;
use crate::config::Config;
use arc_swap::ArcSwap;
use jiff::Timestamp;
use std::sync::Arc;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};

/// How many queued commands are taken at once.
const BATCH: usize = 256;

pub struct Controller {
    pub ground: Ground,
    /// None: memory only.
    pub state: Option<Arc<StateDir>>,
    /// Another process has the state: nothing is changed any more.
    pub handed: Option<Handed>,
    pub publisher: Publisher,
    pub snapshot: Arc<ArcSwap<Ground>>,
    /// Told of every published state.
    pub changed: Arc<Notify>,
    pub trimming: Trimming,
    pub refusals: Refusals,
    pub commands: mpsc::Receiver<Command>,
    /// Traffic that rollouts take back: published whatever else is under way.
    pub urgent: mpsc::UnboundedReceiver<RolloutChange>,
    /// Revisions that were published before they were saved, with their routes.
    pub unsaved: Vec<Arc<Entry>>,
}

impl Controller {
    /// Until nobody can send a command any more.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                Some(change) = self.urgent.recv() => drop(self.take_back(change, None)),
                taken = self.commands.recv_many(&mut batch, BATCH) => match taken {
                    0 => return,
                    _ => {
                        self.resume_if_back(&batch).await;
                        let (batch, handing) = handover::parted(std::mem::take(&mut batch), self.handed.is_some());
                        self.commit(batch).await;
                        self.hand_over(handing).await;
                    }
                }
            }
        }
    }

    /// Publishes before anything is saved. `draft`: what is being saved meanwhile; a route that it changes gets a
    /// generation beyond.
    fn take_back(&mut self, change: RolloutChange, draft: Option<&Ground>) -> TakenBack {
        let before = self.ground.route(&change.route).map_or(0, |view| view.live.generation);
        let least = draft.and_then(|draft| draft.route(&change.route)).map_or(0, |view| view.live.generation + 1);
        if let Some(view) = self.ground.rolled(&change, least, Timestamp::now()) {
            let generation = view.live.generation;
            if generation != before {
                self.unsaved.extend(view.live.history.newest().cloned());
                log_rolled(&change, generation);
            }
            let mut ground = self.ground.clone();
            ground.apply(&view);
            self.publish(ground);
            return TakenBack { change, generation };
        }
        TakenBack { change, generation: before }
    }

    /// Waits for a thread that writes, and takes traffic back meanwhile.
    async fn meanwhile<T>(&mut self, mut work: JoinHandle<T>, draft: Option<&Ground>) -> Waited<T> {
        let mut taken_back = Vec::new();
        loop {
            tokio::select! {
                biased;
                Some(change) = self.urgent.recv() => taken_back.push(self.take_back(change, draft)),
                done = &mut work => return Waited { done, taken_back },
            }
        }
    }

    /// What was taken back while `ground` was saved is taken back in it, too.
    fn take_back_in(&mut self, ground: &mut Ground, taken_back: Vec<TakenBack>) {
        for TakenBack { change, generation } in taken_back {
            let Some(view) = ground.rolled(&change, generation, Timestamp::now()) else { continue };
            self.unsaved.retain(|entry| entry.generation != generation || entry.revision().route != change.route);
            if view.live.generation == generation {
                self.unsaved.extend(view.live.history.newest().cloned());
            }
            ground.apply(&view);
        }
    }

    async fn commit(&mut self, batch: Vec<Command>) {
        let mut draft = Draft::of(&self.ground, Timestamp::now());
        let (mut saves, mut refused, mut checked) = (Vec::new(), Vec::new(), Vec::new());
        for command in batch {
            match command {
                Command::Change { change, reply } => draft.change(change, reply),
                Command::Install { config, addresses, tls, origin, reply } => {
                    draft.install(*config, (addresses, tls), origin, reply);
                }
                Command::Roll { change, reply } => draft.roll(*change, reply),
                Command::Drain { order, reply } => draft.drain(order, reply),
                Command::Save { request, env, reply } => saves.push((request, env, reply)),
                Command::Refused(one) => refused.push(one),
                // Parted from the batch: it comes after.
                Command::HandOver(_) => {}
                Command::Resolved(addresses) => {
                    // Holds whether or not the rest of the batch can be saved.
                    if let Some(ground) = self.ground.resolved(&addresses) {
                        self.publish(ground);
                    }
                    draft.resolve(&addresses);
                }
                Command::Certified { tls, instead_of } => {
                    if Arc::ptr_eq(&self.ground.tls, &instead_of) {
                        self.publish(self.ground.certified(Arc::clone(&tls)));
                    }
                    draft.certify(tls, &instead_of);
                }
                Command::Checked(mut verdicts) => checked.append(&mut verdicts),
                Command::Relisted(relisted) => {
                    // As with addresses.
                    if let Some(ground) = self.ground.relisted(&relisted) {
                        draft.relist(&relisted, &ground);
                        self.publish(ground);
                    }
                }
            }
        }
        if !checked.is_empty() {
            let ground = self.ground.checked(&checked);
            health::log_changes(&self.ground, &ground);
            self.publish(ground);
            draft.check(&checked);
        }
        let trim = draft.save && self.trimming.is_due(draft.ground.totals, draft.now);
        if trim {
            draft.ground.trim_history(draft.now);
        }
        let (saved, taken_back) = if draft.save { self.save(&mut draft).await } else { (Ok(()), Vec::new()) };
        if saved.is_ok() && trim {
            self.trimming = Trimming::done(draft.ground.totals, draft.now);
        }
        if saved.is_ok() && draft.save {
            self.take_back_in(&mut draft.ground, taken_back);
            match draft.publish {
                true => self.publish(draft.ground),
                false => self.adopt(draft.ground),
            }
        }
        for reply in draft.replies {
            reply.send(&saved);
        }
        self.note_refused(refused).await;
        for (request, env, reply) in saves {
            // The caller may have gone; what is in the files stands.
            let _ = reply.send(self.write_back(request, env).await);
        }
    }

    /// Lines of what was refused. After the batch, so that none of its changes waits or fails for them.
    async fn note_refused(&mut self, refused: Vec<Refused>) {
        let Some(state) = self.state.clone().filter(|_| !refused.is_empty()) else { return };
        let lines = self.refusals.admit(refused, Timestamp::now());
        let noting = tokio::task::spawn_blocking(move || state.note(&lines));
        let noted = self.meanwhile(noting, None).await.done;
        if let Err(error) = noted.unwrap_or_else(|error| Err(StateError::writer(&error))) {
            tracing::warn!(%error, "the audit log does not have what was refused");
        }
    }

    /// Live weights into the files. After the batch, so that only what is on disk gets there.
    async fn write_back(&mut self, request: SaveRequest, env: Env) -> Result<Saving, SaveError> {
        let (ground, origin) = (self.ground.clone(), request.origin.clone());
        let writing = tokio::task::spawn_blocking(move || save::write(&ground, &request, env));
        let (config, result) = self.meanwhile(writing, None).await.done.map_err(|_| SaveError::Stopped)?;
        if let Some(config) = config {
            self.publish(self.ground.with_file(config));
            let mut draft = Draft::of(&self.ground, Timestamp::now());
            draft.audit.extend(result.iter().map(|saving| audit::saved(saving, &origin, draft.now)));
            // Without this the file wins at the next start, with the weights that are live.
            if let (Err(error), _) = self.save(&mut draft).await {
                tracing::warn!(%error, "the state directory does not know yet that the files have the live weights");
            }
        }
        result
    }

    /// With what was published before it was saved; and what was taken back meanwhile.
    async fn save(&mut self, draft: &mut Draft) -> (Result<(), StateError>, Vec<TakenBack>) {
        let unsaved = self.unsaved.clone();
        let Some(state) = self.state.clone() else {
            self.unsaved.clear();
            return (Ok(()), Vec::new());
        };
        let lines: Vec<String> = unsaved.iter().map(|entry| audit::changed(entry)).collect();
        let commit = Commit {
            body: draft.ground.to_saved(),
            revisions: unsaved.iter().cloned().chain(std::mem::take(&mut draft.revisions)).collect(),
            routes: draft.ground.routes.clone(),
            totals: draft.ground.totals,
            audit: lines.into_iter().chain(std::mem::take(&mut draft.audit)).collect(),
        };
        let saving = tokio::task::spawn_blocking(move || state.commit(&commit));
        let Waited { done, taken_back } = self.meanwhile(saving, Some(&draft.ground)).await;
        let saved = done.unwrap_or_else(|error| Err(StateError::writer(&error)));
        if saved.is_ok() {
            self.unsaved.retain(|entry| !unsaved.iter().any(|saved| Arc::ptr_eq(saved, entry)));
        }
        (saved, taken_back)
    }

    fn publish(&mut self, ground: Ground) {
        let serial = self.publisher.current().serial + 1;
        self.publisher.publish(derive::table(&ground, serial));
        self.adopt(ground);
    }

    /// Nothing changed that requests see.
    fn adopt(&mut self, ground: Ground) {
        self.ground = ground.clone();
        self.snapshot.store(Arc::new(ground));
        self.changed.notify_one();
    }
}

/// Traffic that a rollout took back, and the generation that its route got by that.
struct TakenBack {
    change: RolloutChange,
    generation: u64,
}

struct Waited<T> {
    done: Result<T, JoinError>,
    taken_back: Vec<TakenBack>,
}

/// The ground state as a batch would leave it.
struct Draft {
    ground: Ground,
    now: Timestamp,
    save: bool,
    publish: bool,
    revisions: Vec<Arc<Entry>>,
    audit: Vec<String>,
    replies: Vec<Reply>,
}

enum Reply {
    Change {
        change: WeightChange,
        result: Result<Changed, ChangeError>,
        to: oneshot::Sender<Result<Changed, ChangeError>>,
    },
    Roll {
        moved: Option<(Box<RolloutChange>, u64)>,
        to: oneshot::Sender<Result<(), StateError>>,
    },
    Drain {
        order: DrainOrder,
        result: Result<bool, DrainError>,
        to: oneshot::Sender<Result<bool, DrainError>>,
    },
    Install {
        installed: Installed,
        to: oneshot::Sender<Result<Installed, StateError>>,
    },
}

impl Draft {
    fn of(ground: &Ground, now: Timestamp) -> Draft {
        Draft {
            ground: ground.clone(),
            now,
            save: false,
            publish: false,
            revisions: Vec::new(),
            audit: Vec::new(),
            replies: Vec::new(),
        }
    }

    fn change(&mut self, change: WeightChange, to: oneshot::Sender<Result<Changed, ChangeError>>) {
        let result = self.ground.changed(&change, self.now);
        if let Ok(changed) = &result
            && changed.changed()
        {
            self.ground.apply(&changed.route);
            let newest = changed.route.live.history.newest();
            self.revisions.extend(newest.cloned());
            self.audit.extend(newest.map(|entry| audit::changed(entry)));
            self.save = true;
            self.publish = true;
        }
        self.replies.push(Reply::Change { change, result, to });
    }

    /// What a rollout made before traffic was taken back is void.
    fn roll(&mut self, change: RolloutChange, to: oneshot::Sender<Result<(), StateError>>) {
        let mut moved = None;
        let before = self.ground.route(&change.route).map(|view| view.live);
        if !change.epoch.is_void()
            && let Some(before) = before
            && let Some(view) = self.ground.rolled(&change, 0, self.now)
        {
            self.audit.extend(change.audit.iter().cloned());
            if view.live.generation != before.generation {
                let newest = view.live.history.newest();
                self.revisions.extend(newest.cloned());
                self.audit.extend(newest.map(|entry| audit::changed(entry)));
                moved = Some((Box::new(change), view.live.generation));
            }
            let judged = |live: &LiveRoute| live.rollout.as_ref()?.judged.as_ref().map(Arc::as_ptr);
            self.publish |= moved.is_some() || judged(&view.live) != judged(&before);
            self.ground.apply(&view);
            self.save = true;
        }
        self.replies.push(Reply::Roll { moved, to });
    }

    fn drain(&mut self, order: DrainOrder, to: oneshot::Sender<Result<bool, DrainError>>) {
        let result = self.ground.drained(&order).map(|ground| match ground {
            Some(ground) => {
                self.ground = ground;
                self.audit.push(audit::drained(&order, self.now));
                self.save = true;
                self.publish = true;
                true
            }
            None => false,
        });
        self.replies.push(Reply::Drain { order, result, to });
    }

    fn install(
        &mut self,
        config: Config,
        (addresses, tls): (Addresses, Arc<Tls>),
        origin: Origin,
        to: oneshot::Sender<Result<Installed, StateError>>,
    ) {
        let cause = Cause { origin, now: self.now };
        let (ground, installed) = self.ground.reloaded(config, addresses, &cause);
        self.ground = ground.certified(tls);
        self.revisions.extend(installed.revisions.iter().cloned());
        self.audit.push(audit::reloaded(&installed, &cause.origin, self.now));
        self.audit.extend(file_lines(&installed));
        self.save = true;
        self.publish = true;
        self.replies.push(Reply::Install { installed, to });
    }

    /// `relisted` is of the state before this batch; a configuration that came with the batch has newer lists.
    fn relist(&mut self, relisted: &Relisted, ground: &Ground) {
        if Arc::ptr_eq(&self.ground.config, &relisted.config) {
            self.ground.config = Arc::clone(&ground.config);
        }
    }

    fn resolve(&mut self, addresses: &Addresses) {
        if let Some(ground) = self.ground.resolved(addresses) {
            self.ground = ground;
        }
    }

    fn check(&mut self, verdicts: &[(Arc<Key>, Verdict)]) {
        self.ground = self.ground.checked(verdicts);
    }

    fn certify(&mut self, tls: Arc<Tls>, instead_of: &Arc<Tls>) {
        if Arc::ptr_eq(&self.ground.tls, instead_of) {
            self.ground = self.ground.certified(tls);
        }
    }
}

impl Reply {
    fn send(self, saved: &Result<(), StateError>) {
        match self {
            Reply::Change { change, result, to } => {
                let result = match (result, saved) {
                    // Whatever was decided upon a draft that was thrown away is void.
                    (Ok(_) | Err(ChangeError::Stale(_) | ChangeError::Undo(_)), Err(error)) => {
                        Err(ChangeError::NotSaved(error.clone()))
                    }
                    (result, _) => result,
                };
                log_change(&change, &result);
                // The caller may have gone; the change stands.
                let _ = to.send(result);
            }
            Reply::Roll { moved, to } => {
                if let (Some((change, generation)), Ok(())) = (&moved, saved) {
                    log_rolled(change, *generation);
                }
                let _ = to.send(saved.clone());
            }
            Reply::Drain { order, result, to } => {
                let result = match (result, saved) {
                    (Ok(_), Err(error)) => Err(DrainError::NotSaved(error.clone())),
                    (result, _) => result,
                };
                log_drain(&order, &result);
                let _ = to.send(result);
            }
            Reply::Install { installed, to } => {
                let result = saved.as_ref().map(|()| installed).map_err(StateError::clone);
                if let Ok(installed) = &result {
                    log_installed(installed);
                }
                let _ = to.send(result);
            }
        }
    }
}

fn log_rolled(change: &RolloutChange, generation: u64) {
    let Some(weights) = &change.weights else { return };
    let after: Vec<String> = weights.shares.iter().map(|(name, weight)| format!("{name} {weight}")).collect();
    let Origin { actor, source, reason } = &weights.origin;
    tracing::info!(
        route = change.route, generation, action = weights.action, after = after.join(", "), actor = ?actor, source,
        reason = ?reason.as_deref().unwrap_or(""),
        "weights changed"
    );
}

pub fn log_change(change: &WeightChange, result: &Result<Changed, ChangeError>) {
    let origin = &change.origin;
    let reason = origin.reason.as_deref().unwrap_or("");
    match result {
        Ok(changed) if changed.changed() => {
            let Changed { route, before, overrode, .. } = changed;
            let config = &route.config.routes[route.index];
            tracing::info!(
                route = change.route, generation = route.live.generation,
                before = listed(config, &before.weights), after = listed(config, &route.live.weights),
                actor = ?origin.actor, source = origin.source, reason = ?reason,
                "weights changed"
            );
            for what in overrode {
                tracing::warn!(route = change.route, what, "a forced switch went on in spite of this");
            }
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(
            route = ?change.route, actor = ?origin.actor, source = origin.source, reason = ?reason, %error,
            "weights not changed"
        ),
    }
}

fn log_drain(order: &DrainOrder, result: &Result<bool, DrainError>) {
    let DrainOrder { pool, target, drain, origin } = order;
    let reason = origin.reason.as_deref().unwrap_or("");
    let (actor, source) = (&origin.actor, &origin.source);
    match (result, drain) {
        (Ok(true), true) => tracing::info!(?pool, ?target, ?actor, source, ?reason, "a target is drained"),
        (Ok(true), false) => tracing::info!(?pool, ?target, ?actor, source, ?reason, "a drained target is back"),
        (Ok(false), _) => {}
        (Err(error), _) => {
            tracing::warn!(?pool, ?target, ?actor, source, ?reason, %error, "drain or enable was not done");
        }
    }
}

/// The audit log's lines of where the file's weights came into force.
pub fn file_lines(installed: &Installed) -> impl Iterator<Item = String> {
    let won = installed.revisions.iter().filter(|entry| entry.revision().action == FILE);
    won.map(|entry| audit::changed(entry))
}

/// What the file made of live weights: the events that an operator must see.
pub fn log_installed(installed: &Installed) {
    for route in &installed.file_won {
        tracing::warn!(route, "the file's weights changed: they are live now instead of those set through the API");
    }
    for route in &installed.live_kept {
        tracing::info!(route, "live weights differ from the file's and go on: the file's did not change");
    }
    for route in &installed.removed {
        tracing::warn!(route, "the file has no such route any more: its live weights are forgotten");
    }
    for key in &installed.needs_restart {
        tracing::warn!(key, "the file's new value takes effect with the next start");
    }
}
