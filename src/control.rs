//! The control plane: one task owns the ground state; every change enters it as a command.
//!
//! [`start`] reads the saved live state, derives the first table and opens the admin addresses; [`Control::run`]
//! serves them. Reads (status, statistics, metrics) look at the last published snapshot and at the workers' counters;
//! only changes go through the controller.

mod admin;
pub mod command;
mod controller;
mod derive;
mod ground;
mod metrics;
mod outcomes;
mod persist;
mod resolve;

use crate::boundary::drain::{Drain, Phase};
use crate::boundary::outcomes::{ListenerOutcomes, WorkerOutcomes};
use crate::boundary::table::Publisher;
use crate::config::{self, AdminAddr, Config};
use arc_swap::ArcSwap;
use command::{BadFile, ChangeError, Changed, Command, Installed, ReloadError, ReloadSummary, WeightChange};
use controller::{Controller, log_installed};
use ground::{Addresses, Ground};
use persist::{Found, SetAside, StateDir, StateError};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// How many commands may wait; a sender past that waits too.
const COMMAND_QUEUE: usize = 1024;

/// The control plane's handle. All clones are the same one.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

/// What [`start`] needs.
pub struct Start {
    pub config: Config,
    /// How many shards the counters have: one a worker.
    pub workers: usize,
    pub drain: Arc<Drain>,
    /// Looks up `${VAR}` at reloads.
    pub env: fn(&str) -> Option<String>,
}

/// Why Weir can't start; for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{key}: can't listen on {addr}: {source}{}", listen_hint(.source))]
    Listen { key: &'static str, addr: String, source: io::Error },
    #[error("server.state_dir: {0}")]
    State(String),
}

struct Shared {
    ground: Arc<ArcSwap<Ground>>,
    commands: mpsc::Sender<Command>,
    sockets: Mutex<Vec<admin::Socket>>,
    admin_addrs: Vec<SocketAddr>,
    reloading: tokio::sync::Mutex<()>,
    reload_ok: AtomicBool,
    ready: AtomicBool,
    drain: Arc<Drain>,
    state: StateStatus,
    env: fn(&str) -> Option<String>,
}

/// Where live state is kept, and what was wrong with it at start.
#[derive(Clone, Debug, Default)]
struct StateStatus {
    dir: Option<PathBuf>,
    set_aside: Option<SetAside>,
}

/// Binds the admin addresses, reads the state directory and derives the first table.
///
/// Errors are for the operator: an admin address that is taken, a state directory that can't be written or that
/// another process has.
pub async fn start(start: Start) -> Result<(Control, Publisher), StartError> {
    let Start { config, workers, drain, env } = start;
    let sockets = admin_sockets(&config).await?;
    let admin_addrs = sockets.iter().filter_map(admin::Socket::addr).collect();
    let (state, found) = open_state(config.server.state_dir.clone()).await.map_err(state_error)?;
    let dir = config.server.state_dir.clone();
    let addresses = resolve::addresses(&config, &Addresses::new()).await;
    let (ground, mut installed) = Ground::start(config, &found.routes, addresses, workers);
    installed.added.clear();
    log_installed(&installed);
    save_first(&ground, state.clone(), &found).await.map_err(state_error)?;
    let publisher = Publisher::new(derive::table(&ground, 1));
    let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
    let snapshot = Arc::new(ArcSwap::from_pointee(ground.clone()));
    tokio::spawn(resolve::keep_resolving(Arc::clone(&snapshot), commands.downgrade()));
    let shared = Arc::new(Shared {
        ground: Arc::clone(&snapshot),
        commands,
        sockets: Mutex::new(sockets),
        admin_addrs,
        reloading: tokio::sync::Mutex::new(()),
        reload_ok: AtomicBool::new(true),
        ready: AtomicBool::new(false),
        drain,
        state: StateStatus { dir, set_aside: found.set_aside },
        env,
    });
    let controller = Controller { ground, state, publisher: publisher.clone(), snapshot, commands: queue };
    tokio::spawn(controller.run());
    Ok((Control { shared }, publisher))
}

impl Control {
    /// The counters of a listener of the configuration.
    pub fn listener_outcomes(&self, name: &str) -> Arc<ListenerOutcomes> {
        self.ground().outcomes.listener(name)
    }

    pub fn worker_outcomes(&self) -> Arc<WorkerOutcomes> {
        Arc::clone(&self.ground().outcomes.worker)
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.ground().config)
    }

    /// The TCP addresses that the admin API and the metrics really have: port 0 resolved.
    pub fn admin_addrs(&self) -> Vec<SocketAddr> {
        self.shared.admin_addrs.clone()
    }

    /// Serves the admin and metrics addresses until the drain's deadline ([`Phase::Cut`]) or until dropped.
    /// `/readyz` fails until `ready` completes. Serves once: a second call only waits.
    pub async fn run(self, ready: impl Future<Output = ()>) {
        let sockets = std::mem::take(&mut *self.shared.sockets.lock().unwrap_or_else(|broken| broken.into_inner()));
        let api = admin::Api::new(self.clone());
        let mut serving = JoinSet::new();
        for socket in sockets {
            serving.spawn(admin::serve(socket, api.clone()));
        }
        let mut phase = self.shared.drain.watch();
        let report_ready = async {
            ready.await;
            self.shared.ready.store(true, Relaxed);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = phase.wait_for(|phase| *phase == Phase::Cut) => {}
            () = report_ready => {}
        }
    }

    /// Reads the file again, checks it whole and swaps it in. A bad file changes nothing.
    pub async fn reload(&self, actor: &str) -> Result<ReloadSummary, ReloadError> {
        let _one_at_a_time = self.shared.reloading.lock().await;
        let result = self.try_reload().await;
        self.shared.reload_ok.store(result.is_ok(), Relaxed);
        match &result {
            Ok(summary) => tracing::info!(
                actor = ?actor, routes = summary.installed.routes, pools = summary.installed.pools,
                "configuration reloaded"
            ),
            Err(error @ ReloadError::File(bad)) => {
                for finding in &bad.report.diagnostics {
                    let place = format!("{}:{}:{}", finding.file, finding.line, finding.column);
                    tracing::error!(place, code = finding.code, "{}", finding.message);
                }
                tracing::error!(actor = ?actor, %error, "configuration not reloaded");
            }
            Err(error) => tracing::error!(actor = ?actor, %error, "configuration not reloaded"),
        }
        result
    }

    async fn try_reload(&self) -> Result<ReloadSummary, ReloadError> {
        let ground = self.ground();
        let (path, env) = (ground.config.path.clone(), self.shared.env);
        let shown = path.display().to_string();
        let loaded = tokio::task::spawn_blocking(move || config::load(&path, &env)).await;
        let loaded = loaded.map_err(|_| ReloadError::Stopped)?;
        let Some(config) = loaded.config else {
            return Err(ReloadError::File(Box::new(BadFile { path: shown, report: loaded.report })));
        };
        let addresses = resolve::addresses(&config, &ground.addresses).await;
        let (reply, answer) = oneshot::channel();
        let installed = self.ask(Command::Install { config: Box::new(config), addresses, reply }, answer).await;
        let installed: Result<Installed, StateError> = installed.ok_or(ReloadError::Stopped)?;
        let installed = installed.map_err(ReloadError::NotSaved)?;
        Ok(ReloadSummary { installed, report: loaded.report })
    }

    /// Changes a route's weights. When this returns, the change is saved and every request that starts sees it.
    async fn change_weights(&self, change: WeightChange) -> Result<Changed, ChangeError> {
        let (reply, answer) = oneshot::channel();
        let changed = self.ask(Command::ChangeWeights { change, reply }, answer).await;
        changed.ok_or(ChangeError::Stopped)?
    }

    async fn ask<A>(&self, command: Command, answer: oneshot::Receiver<A>) -> Option<A> {
        self.shared.commands.send(command).await.ok()?;
        answer.await.ok()
    }

    /// What was last published.
    fn ground(&self) -> Arc<Ground> {
        Arc::clone(&self.shared.ground.load())
    }
}

async fn admin_sockets(config: &Config) -> Result<Vec<admin::Socket>, StartError> {
    let mut sockets = Vec::new();
    for addr in &config.admin.listen {
        let shown = match addr {
            AdminAddr::Tcp(addr) => addr.to_string(),
            AdminAddr::Unix(path) => format!("unix:{}", path.display()),
        };
        let bound = admin::Socket::bind(addr, admin::Scope::Everything).await;
        sockets.push(bound.map_err(|source| StartError::Listen { key: "admin.listen", addr: shown, source })?);
    }
    if let Some(addr) = config.admin.metrics {
        let bound = admin::Socket::bind(&AdminAddr::Tcp(addr), admin::Scope::MetricsOnly).await;
        let failed = |source| StartError::Listen { key: "admin.metrics", addr: addr.to_string(), source };
        sockets.push(bound.map_err(failed)?);
    }
    Ok(sockets)
}

async fn open_state(dir: Option<PathBuf>) -> Result<(Option<Arc<StateDir>>, Found), StateError> {
    let Some(dir) = dir else {
        tracing::warn!("server.state_dir is not set: live weights are kept in memory only and end with this process");
        return Ok((None, Found::default()));
    };
    let opened = tokio::task::spawn_blocking(move || {
        let state = StateDir::open(&dir)?;
        let found = state.read()?;
        Ok((state, found))
    });
    let (state, found) = opened.await.unwrap_or_else(|error| Err(StateError::writer(&error)))?;
    if let Some(aside) = &found.set_aside {
        let kept = aside.path.display().to_string();
        tracing::error!(kept, why = aside.why, "the saved live state is not used: the file's weights start");
    }
    Ok((Some(Arc::new(state)), found))
}

/// What the file and the saved state made together is on disk before the first request sees it. A restart that
/// changes nothing writes nothing, so that a full disk does not stop it.
async fn save_first(ground: &Ground, state: Option<Arc<StateDir>>, found: &Found) -> Result<(), StateError> {
    let body = ground.to_saved();
    let Some(state) = state.filter(|_| body != found.body) else { return Ok(()) };
    let written = tokio::task::spawn_blocking(move || state.write(&body)).await;
    written.unwrap_or_else(|error| Err(StateError::writer(&error)))
}

fn state_error(error: StateError) -> StartError {
    StartError::State(error.to_string())
}

fn listen_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process has it: stop that one or choose another address",
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        io::ErrorKind::PermissionDenied => "; weir may not use it",
        _ => "",
    }
}
