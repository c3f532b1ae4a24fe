//! The one task that owns the ground state.
//!
//! Order of a change: validate, save (fsync), publish, acknowledge. Saving may wait for a disk, so whatever queued up
//! meanwhile is taken as one batch: saved once, published once, then answered. A batch that can't be saved changes
//! nothing. Readers look at the last published snapshot and never wait for this task.

use super::command::{ChangeError, Changed, Command, Installed, WeightChange};
use super::derive;
use super::ground::{Addresses, Ground, listed};
use super::persist::{StateDir, StateError};
use super::tls::Tls;
use crate::boundary::table::Publisher;
use crate::config::Config;
use arc_swap::ArcSwap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// How many queued commands are taken at once.
const BATCH: usize = 256;

pub struct Controller {
    pub ground: Ground,
    /// None: memory only.
    pub state: Option<Arc<StateDir>>,
    pub publisher: Publisher,
    pub snapshot: Arc<ArcSwap<Ground>>,
    pub commands: mpsc::Receiver<Command>,
}

impl Controller {
    /// Until nobody can send a command any more.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.commands.recv_many(&mut batch, BATCH).await > 0 {
            self.commit(std::mem::take(&mut batch)).await;
        }
    }

    async fn commit(&mut self, batch: Vec<Command>) {
        let mut draft = Draft { ground: self.ground.clone(), save: false, publish: false, replies: Vec::new() };
        for command in batch {
            match command {
                Command::ChangeWeights { change, reply } => draft.change_weights(change, reply),
                Command::Install { config, addresses, tls, reply } => draft.install(*config, addresses, tls, reply),
                Command::Resolved(addresses) => {
                    // Holds whether or not the rest of the batch can be saved.
                    if let Some(ground) = self.ground.resolved(addresses.clone()) {
                        self.publish(ground);
                    }
                    draft.resolve(addresses);
                }
                Command::Certified { tls, instead_of } => {
                    if Arc::ptr_eq(&self.ground.tls, &instead_of) {
                        self.publish(self.ground.certified(Arc::clone(&tls)));
                    }
                    draft.certify(tls, &instead_of);
                }
            }
        }
        let saved = if draft.save { self.save(&draft.ground).await } else { Ok(()) };
        if saved.is_ok() && draft.publish {
            self.publish(draft.ground);
        }
        for reply in draft.replies {
            reply.send(&saved);
        }
    }

    async fn save(&self, ground: &Ground) -> Result<(), StateError> {
        let Some(state) = self.state.clone() else { return Ok(()) };
        let body = ground.to_saved();
        let saved = tokio::task::spawn_blocking(move || state.write(&body)).await;
        saved.unwrap_or_else(|error| Err(StateError::writer(&error)))
    }

    fn publish(&mut self, ground: Ground) {
        let serial = self.publisher.current().serial + 1;
        self.publisher.publish(derive::table(&ground, serial));
        self.ground = ground.clone();
        self.snapshot.store(Arc::new(ground));
    }
}

/// The ground state as a batch would leave it.
struct Draft {
    ground: Ground,
    save: bool,
    publish: bool,
    replies: Vec<Reply>,
}

enum Reply {
    Weights {
        change: WeightChange,
        result: Result<Changed, ChangeError>,
        to: oneshot::Sender<Result<Changed, ChangeError>>,
    },
    Install {
        installed: Installed,
        to: oneshot::Sender<Result<Installed, StateError>>,
    },
}

impl Draft {
    fn change_weights(&mut self, change: WeightChange, to: oneshot::Sender<Result<Changed, ChangeError>>) {
        let result = self.ground.changed(&change).map(|route| {
            let before = self.ground.routes[route.index].weights.clone();
            if route.live.generation != self.ground.routes[route.index].generation {
                self.ground.apply(&route);
                self.save = true;
                self.publish = true;
            }
            Changed { route, before }
        });
        self.replies.push(Reply::Weights { change, result, to });
    }

    fn install(
        &mut self,
        config: Config,
        addresses: Addresses,
        tls: Arc<Tls>,
        to: oneshot::Sender<Result<Installed, StateError>>,
    ) {
        let (ground, installed) = self.ground.reloaded(config, addresses);
        self.ground = ground.certified(tls);
        self.save = true;
        self.publish = true;
        self.replies.push(Reply::Install { installed, to });
    }

    fn resolve(&mut self, addresses: Addresses) {
        if let Some(ground) = self.ground.resolved(addresses) {
            self.ground = ground;
        }
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
            Reply::Weights { change, result, to } => {
                let result = match (result, saved) {
                    // Whatever was decided upon a draft that was thrown away is void.
                    (Ok(_) | Err(ChangeError::Stale(_)), Err(error)) => Err(ChangeError::NotSaved(error.clone())),
                    (result, _) => result,
                };
                log_change(&change, &result);
                // The caller may have gone; the change stands.
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

fn log_change(change: &WeightChange, result: &Result<Changed, ChangeError>) {
    let origin = &change.origin;
    let reason = origin.reason.as_deref().unwrap_or("");
    match result {
        Ok(Changed { route, before }) if *before != route.live.weights => tracing::info!(
            route = change.route, generation = route.live.generation,
            before = listed(&route.config.routes[route.index], before),
            after = listed(&route.config.routes[route.index], &route.live.weights),
            actor = ?origin.actor, source = origin.source, reason = ?reason,
            "weights changed"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(
            route = ?change.route, actor = ?origin.actor, source = origin.source, reason = ?reason, %error,
            "weights not changed"
        ),
    }
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
