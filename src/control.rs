//! The control plane: one task owns the ground state; every change enters it as a command.
//!
//! [`start`] reads the saved live state, derives the first table and opens the admin addresses; [`Control::run`]
//! serves them. Reads (status, statistics, metrics) look at the last published snapshot and at the workers' counters;
//! only changes go through the controller.

mod admin;
mod audit;
pub mod command;
mod controller;
mod derive;
mod descriptors;
#[cfg(test)]
mod fixtures;
mod ground;
pub mod handover;
mod health;
mod history;
mod lists;
mod metrics;
mod outcomes;
mod persist;
mod probe;
mod replace;
mod resolve;
mod rollout;
mod save;
mod tls;

pub use outcomes::Work;

use crate::boundary::drain::{Drain, Phase};
use crate::boundary::outcomes::{ListenerOutcomes, WorkerOutcomes};
use crate::boundary::table::{Published, Publisher};
use crate::config::{self, AdminAddr, Config};
use crate::net::inherited::{Handle, Sockets};
use arc_swap::ArcSwap;
use audit::{Refusals, Refused};
use command::{
    BadFile, ChangeError, Changed, Command, DrainError, DrainOrder, Installed, Origin, ReloadError, ReloadSummary,
    WeightChange,
};
use controller::{Controller, file_lines, log_change, log_installed};
use ground::{Addresses, Cause, Ground};
use handover::Upgrades;
use health::Board;
use history::Trimming;
use jiff::Timestamp;
use persist::{Commit, Found, SetAside, StateDir, StateError};
use rollout::Rollouts;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use tls::Tls;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

/// How many commands may wait; a sender past that waits too.
const COMMAND_QUEUE: usize = 1024;
/// How often a switch looks at targets that change under its eyes.
const SWITCH_ATTEMPTS: u32 = 5;

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
    #[error("{0}")]
    Tls(String),
}

struct Shared {
    ground: Arc<ArcSwap<Ground>>,
    /// What health checks heard last.
    board: Arc<Board>,
    publisher: Publisher,
    commands: mpsc::Sender<Command>,
    rollouts: Rollouts,
    sockets: Mutex<Vec<admin::Socket>>,
    admin_addrs: Vec<SocketAddr>,
    /// Of the admin addresses, for the process that takes this one's place.
    handles: Mutex<Vec<Handle>>,
    upgrades: Upgrades,
    /// One reload at a time.
    reloading: Semaphore,
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
    history_set_aside: Option<SetAside>,
}

/// A control plane that has all it needs but the state directory.
pub struct Prepared {
    start: Start,
    tls: Arc<Tls>,
    sockets: Vec<admin::Socket>,
    handles: Vec<Handle>,
    addresses: Addresses,
}

/// [`prepare`] and [`Prepared::start`] in one.
pub async fn start(start: Start) -> Result<(Control, Publisher), StartError> {
    prepare(start, &mut Sockets::default(), Vec::new()).await?.start(None).await
}

/// Reads certificates, takes the admin addresses and looks names up: all that another process need not stop for.
///
/// `told`: the addresses of names that the process before this one knew; they hold where a look-up fails.
///
/// Errors are for the operator: an admin address that is taken, a certificate that can't be used.
pub async fn prepare(
    start: Start,
    inherited: &mut Sockets,
    told: Vec<(String, resolve::Found)>,
) -> Result<Prepared, StartError> {
    let config = &start.config;
    let tls = load_tls(config.clone(), Arc::default()).await.map_err(StartError::Tls)?;
    let sockets = admin_sockets(config, inherited).await?;
    // What can't be handed over is bound anew; descriptors are short then anyway.
    let handles = sockets.iter().filter_map(|socket| socket.handle().ok()).collect();
    let addresses = resolve::addresses(config, &resolve::told(config, told)).await;
    Ok(Prepared { start, tls, sockets, handles, addresses })
}

impl Prepared {
    /// Reads the state directory and derives the first table. Without a `state_dir`, `copy` is where the process
    /// before this one left its live weights and history.
    ///
    /// Errors are for the operator: a state directory that can't be written or that another process has.
    pub async fn start(self, copy: Option<PathBuf>) -> Result<(Control, Publisher), StartError> {
        let dir = self.start.config.server.state_dir.clone();
        let (state, found) = open_state(dir, copy).await.map_err(state_error)?;
        begin(self, state, found).await
    }
}

async fn begin(
    prepared: Prepared,
    state: Option<Arc<StateDir>>,
    mut found: Found,
) -> Result<(Control, Publisher), StartError> {
    let Prepared { start: Start { config, workers, drain, env }, tls, sockets, handles, addresses } = prepared;
    let admin_addrs = sockets.iter().filter_map(admin::Socket::addr).collect();
    let dir = config.server.state_dir.clone();
    let cause = Cause { origin: Origin::file(&config.path), now: Timestamp::now() };
    let (ground, mut installed) = Ground::start(config, std::mem::take(&mut found.past), addresses, workers, &cause);
    let mut ground = ground.certified(tls);
    ground.trim_history(cause.now);
    installed.added.clear();
    log_installed(&installed);
    descriptors::check(&ground.config, workers);
    save_first(&ground, &installed, state.clone(), &found).await.map_err(state_error)?;
    let publisher = Publisher::new(derive::table(&ground, 1));
    let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
    let snapshot = Arc::new(ArcSwap::from_pointee(ground.clone()));
    let (changed, board) = (Arc::new(Notify::new()), Arc::new(Board::default()));
    tokio::spawn(health::keep_checking(health::Links {
        ground: Arc::clone(&snapshot),
        changed: Arc::clone(&changed),
        commands: commands.downgrade(),
        board: Arc::clone(&board),
    }));
    tokio::spawn(resolve::keep_resolving(Arc::clone(&snapshot), commands.downgrade()));
    tokio::spawn(lists::keep_reading(Arc::clone(&snapshot), commands.downgrade()));
    tokio::spawn(tls::watch::keep_watching(Arc::clone(&snapshot), commands.downgrade()));
    let (rollouts, driver, urgent) = rollout::prepare(&snapshot, &commands);
    let shared = Arc::new(Shared {
        ground: Arc::clone(&snapshot),
        board,
        publisher: publisher.clone(),
        commands,
        rollouts,
        sockets: Mutex::new(sockets),
        admin_addrs,
        handles: Mutex::new(handles),
        upgrades: Upgrades::default(),
        reloading: Semaphore::new(1),
        reload_ok: AtomicBool::new(true),
        ready: AtomicBool::new(false),
        drain,
        state: StateStatus { dir, set_aside: found.set_aside, history_set_aside: found.history_set_aside },
        env,
    });
    let trimming = Trimming::done(ground.totals, cause.now);
    let refusals = Refusals::default();
    let controller = Controller {
        ground,
        state,
        handed: None,
        publisher: publisher.clone(),
        snapshot,
        changed,
        trimming,
        refusals,
        commands: queue,
        urgent,
        unsaved: Vec::new(),
    };
    tokio::spawn(controller.run());
    health::first_round(&shared.ground).await;
    tokio::spawn(driver.run(installed.file_won));
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

    /// What is under way and what was done, on all workers.
    pub fn work(&self) -> Work {
        self.ground().outcomes.work()
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
            serving.spawn(admin::serve(socket, api.clone(), self.shared.upgrades.taken()));
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
            // Another process has the addresses, and the last answer is out.
            () = all_ended(&mut serving) => {}
        }
    }

    /// Reads the file again, checks it whole and swaps it in. A bad file changes nothing.
    pub async fn reload(&self, origin: Origin) -> Result<ReloadSummary, ReloadError> {
        let _one_at_a_time = self.shared.reloading.acquire().await;
        let actor = origin.actor.clone();
        let result = self.try_reload(origin.clone()).await;
        self.shared.reload_ok.store(result.is_ok(), Relaxed);
        match &result {
            Ok(summary) => tracing::info!(
                actor = ?actor, routes = summary.installed.routes, pools = summary.installed.pools,
                "configuration reloaded"
            ),
            Err(error @ ReloadError::File(bad)) => {
                for finding in bad.report.errors() {
                    let place = format!("{}:{}:{}", finding.file, finding.line, finding.column);
                    tracing::error!(place, code = finding.code, "{}", finding.message);
                }
                tracing::error!(actor = ?actor, %error, "configuration not reloaded");
                self.refused(Refused::reload(&origin, error, Timestamp::now())).await;
            }
            Err(error) => tracing::error!(actor = ?actor, %error, "configuration not reloaded"),
        }
        result
    }

    async fn try_reload(&self, origin: Origin) -> Result<ReloadSummary, ReloadError> {
        let ground = self.ground();
        let (path, env) = (ground.config.path.clone(), self.shared.env);
        let shown = path.display().to_string();
        let loaded = tokio::task::spawn_blocking(move || config::load(&path, &env)).await;
        let loaded = loaded.map_err(|_| ReloadError::Stopped)?;
        let Some(config) = loaded.config else {
            return Err(ReloadError::File(Box::new(BadFile { path: shown, report: loaded.report })));
        };
        let tls = load_tls(config.clone(), Arc::clone(&ground.tls)).await.map_err(ReloadError::Tls)?;
        let addresses = resolve::addresses(&config, &ground.addresses).await;
        let (reply, answer) = oneshot::channel();
        let install = Command::Install { config: Box::new(config), addresses, tls, origin, reply };
        let installed = self.ask(install, answer).await;
        let installed: Result<Installed, StateError> = installed.ok_or(ReloadError::Stopped)?;
        let installed = installed.map_err(ReloadError::NotSaved)?;
        self.rollouts_reloaded(&installed).await;
        let ground = self.ground();
        descriptors::check(&ground.config, ground.outcomes.workers());
        Ok(ReloadSummary { installed, report: loaded.report })
    }

    /// Changes a route's live state. When this returns, the change is saved and every request that starts sees it.
    async fn change(&self, change: &WeightChange) -> Result<Changed, ChangeError> {
        let result = self.try_change(change).await;
        match &result {
            // What the disk or the end of the process prevented was not refused.
            Ok(_) | Err(ChangeError::NotSaved(_) | ChangeError::Stopped) => {}
            Err(error) => self.refused(Refused::change(change, error, Timestamp::now())).await,
        }
        result
    }

    /// Takes a target out or back in, and says whether that changed anything. When this returns it is saved, and no
    /// request that starts later goes to one that was taken out.
    async fn drain(&self, order: &DrainOrder) -> Result<bool, DrainError> {
        let (reply, answer) = oneshot::channel();
        let drained = self.ask(Command::Drain { order: order.clone(), reply }, answer).await;
        let result = drained.unwrap_or(Err(DrainError::Stopped));
        if let Err(error @ (DrainError::NoPool(_) | DrainError::NoTarget { .. })) = &result {
            self.refused(Refused::drain(order, error, Timestamp::now())).await;
        }
        result
    }

    /// For the audit log.
    async fn refused(&self, refused: Refused) {
        // Without a controller there is no log any more.
        let _ = self.shared.commands.send(Command::Refused(refused)).await;
    }

    async fn try_change(&self, change: &WeightChange) -> Result<Changed, ChangeError> {
        let mut attempts = 1;
        loop {
            let mut change = change.clone();
            if let Err(error) = probe::before(&self.ground(), &mut change).await {
                let refused = Err(error);
                log_change(&change, &refused);
                return refused;
            }
            let (reply, answer) = oneshot::channel();
            let changed = self.ask(Command::Change { change, reply }, answer).await;
            match changed.ok_or(ChangeError::Stopped)? {
                Err(ChangeError::Unprobed(_)) if attempts < SWITCH_ATTEMPTS => attempts += 1,
                result => return result,
            }
        }
    }

    /// What a change would do now. Nothing is changed.
    async fn would_change(&self, change: &WeightChange) -> Result<Changed, ChangeError> {
        let (ground, mut change) = (self.ground(), change.clone());
        probe::before(&ground, &mut change).await?;
        ground.changed(&change, Timestamp::now())
    }

    async fn ask<A>(&self, command: Command, answer: oneshot::Receiver<A>) -> Option<A> {
        self.shared.commands.send(command).await.ok()?;
        answer.await.ok()
    }

    /// The table that workers have or are about to take.
    fn table(&self) -> Arc<Published> {
        self.shared.publisher.current()
    }

    /// What was last published.
    fn ground(&self) -> Arc<Ground> {
        Arc::clone(&self.shared.ground.load())
    }
}

/// Waits for ever where there is none.
async fn all_ended(serving: &mut JoinSet<()>) {
    if serving.is_empty() {
        std::future::pending::<()>().await;
    }
    while serving.join_next().await.is_some() {}
}

/// Reads the certificates of a configuration. What `before` has is kept where its files hold the same.
async fn load_tls(config: Config, before: Arc<Tls>) -> Result<Arc<Tls>, String> {
    let now = crate::tls::time::unix(SystemTime::now());
    let loaded = tokio::task::spawn_blocking(move || Tls::load(&config, &before, now)).await;
    loaded.unwrap_or_else(|error| Err(error.to_string())).map(Arc::new)
}

async fn admin_sockets(config: &Config, inherited: &mut Sockets) -> Result<Vec<admin::Socket>, StartError> {
    let mut sockets = Vec::new();
    for addr in &config.admin.listen {
        let shown = match addr {
            AdminAddr::Tcp(addr) => addr.to_string(),
            AdminAddr::Unix(path) => format!("unix:{}", path.display()),
        };
        let bound = admin::Socket::open(addr, admin::Scope::Everything, inherited).await;
        sockets.push(bound.map_err(|source| StartError::Listen { key: "admin.listen", addr: shown, source })?);
    }
    if let Some(addr) = config.admin.metrics {
        let bound = admin::Socket::open(&AdminAddr::Tcp(addr), admin::Scope::MetricsOnly, inherited).await;
        let failed = |source| StartError::Listen { key: "admin.metrics", addr: addr.to_string(), source };
        sockets.push(bound.map_err(failed)?);
    }
    Ok(sockets)
}

/// A `copy` is what a process without a directory has left.
async fn open_state(dir: Option<PathBuf>, copy: Option<PathBuf>) -> Result<(Option<Arc<StateDir>>, Found), StateError> {
    let Some(dir) = dir else {
        tracing::warn!("server.state_dir is not set: live weights are kept in memory only and end with this process");
        return Ok((None, copy.map(|copy| handover::read_copy(&copy)).transpose()?.unwrap_or_default()));
    };
    let opened = tokio::task::spawn_blocking(move || {
        // The directory's own state is what holds.
        copy.iter().for_each(|copy| handover::remove(copy));
        let state = StateDir::open(&dir)?;
        let found = state.read()?;
        Ok((state, found))
    });
    let (state, found) = opened.await.unwrap_or_else(|error| Err(StateError::writer(&error)))?;
    if let Some(aside) = &found.set_aside {
        let kept = aside.path.display().to_string();
        tracing::error!(kept, why = aside.why, "the saved live state is not used: the file's weights start");
    }
    if let Some(aside) = &found.history_set_aside {
        let kept = aside.path.display().to_string();
        tracing::error!(kept, why = aside.why, "the history is damaged: what could be read of it goes on");
    }
    for entry in &found.unacknowledged {
        let revision = entry.revision();
        let (route, generation) = (revision.route, revision.generation);
        tracing::warn!(route, generation, "a change was under way when weir ended, and was not done");
    }
    Ok((Some(Arc::new(state)), found))
}

/// What the file and the saved state made together is on disk before the first request sees it. A restart that
/// changes nothing writes nothing, so that a full disk does not stop it; nor does it where only the history would
/// get something.
async fn save_first(
    ground: &Ground,
    installed: &Installed,
    state: Option<Arc<StateDir>>,
    found: &Found,
) -> Result<(), StateError> {
    let Some(state) = state else { return Ok(()) };
    let lost = found.unacknowledged.iter().map(|entry| audit::unacknowledged(entry));
    let commit = Commit {
        body: ground.to_saved(),
        revisions: installed.revisions.clone(),
        routes: ground.routes.clone(),
        totals: ground.totals,
        audit: lost.chain(file_lines(installed)).collect(),
    };
    let same = commit.body == found.body;
    if same && commit.revisions.is_empty() && commit.audit.is_empty() && found.history_set_aside.is_none() {
        return Ok(());
    }
    let writer = Arc::clone(&state);
    let written = tokio::task::spawn_blocking(move || writer.commit(&commit)).await;
    match written.unwrap_or_else(|error| Err(StateError::writer(&error))) {
        Err(error) if same => {
            tracing::warn!(%error, "the history could not be written; the next change will try again");
            state.distrust_history();
            Ok(())
        }
        written => written,
    }
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

#[cfg(test)]
mod tests {
    mod history;

    use super::fixtures::{Process, config, shop, shop_in};
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    /// A process' life: all its tasks, and so its lock, end when this returns.
    fn life<O>(body: impl Future<Output = O>) -> O {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body)
    }

    async fn start_error(config: Config) -> String {
        let start_with = Start { config, workers: 1, drain: Arc::new(Drain::new()), env: |_| None };
        start(start_with).await.err().expect("must not start").to_string()
    }

    #[tokio::test]
    async fn a_taken_port_and_a_state_dir_in_use_are_start_errors() {
        let dir = tempfile::tempdir().unwrap();
        let first = Process::start(shop_in(dir.path())).await;
        let mut second = shop_in(dir.path());
        let error = start_error(second.clone()).await;
        assert!(error.starts_with("server.state_dir: ") && error.contains("in use by another weir"), "{error}");
        second.admin.listen = vec![AdminAddr::Tcp(first.addr)];
        let error = start_error(second).await;
        assert!(error.contains("admin.listen") && error.contains(&first.addr.to_string()), "{error}");
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(start_error(shop_in(&file)).await.contains(file.to_str().unwrap()));
    }

    #[test]
    fn a_change_that_can_t_be_saved_changes_nothing_and_later_ones_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let blocker = dir.path().join("live.json.tmp");
        life(async {
            let process = Process::start(shop_in(dir.path())).await;
            assert_eq!(process.patch("shop", &[], r#"{"weights":{"canary":5}}"#).await.status, 200);
            fs::create_dir(&blocker).unwrap();
            let reply = process.patch("shop", &[], r#"{"weights":{"canary":6}}"#).await;
            assert_eq!((reply.status, reply.problem().as_str()), (507, "state-not-saved"));
            assert!(reply.json()["detail"].as_str().unwrap().contains("live.json.tmp"));
            assert_eq!(process.live("shop"), (2, vec![95_000, 5_000]));
            assert_eq!(process.publisher.current().serial, 2);
            fs::remove_dir(&blocker).unwrap();
            let reply = process.patch("shop", &["if-match: \"2\""], r#"{"weights":{"canary":7}}"#).await;
            assert_eq!(reply.status, 200);
        });
        life(async {
            let process = Process::start(shop_in(dir.path())).await;
            assert_eq!(process.live("shop"), (3, vec![93_000, 7_000]));
        });
    }

    #[test]
    fn a_damaged_state_file_is_kept_aside_and_shown() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("live.json"), "garbage").unwrap();
        life(async {
            let process = Process::start(shop_in(dir.path())).await;
            assert_eq!(process.live("shop"), (1, vec![100_000, 0]));
            let state = &process.get("/api/v1/stats").await.json()["state"];
            assert_eq!(state["status"], "set aside");
            assert_eq!(fs::read_to_string(state["file"].as_str().unwrap()).unwrap(), "garbage");
            let ready = process.get("/readyz").await;
            assert_eq!((ready.status, &ready.json()["state"]), (200, state));
        });
    }

    #[test]
    fn an_edited_file_wins_at_a_restart_and_an_unedited_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let with = |canary: f64| {
            let mut config = config(&[("shop", &[("stable", 100.0 - canary), ("canary", canary)])]);
            config.server.state_dir = Some(dir.path().to_owned());
            config
        };
        let assignment = life(async {
            let process = Process::start(with(1.0)).await;
            process.patch("shop", &[], r#"{"weights":{"canary":50}}"#).await;
            process.patch("shop", &[], r#"{"weights":{"canary":20}}"#).await;
            process.control.ground().routes[0].assignment.clone()
        });
        life(async {
            let process = Process::start(with(1.0)).await;
            assert_eq!(process.live("shop"), (3, vec![80_000, 20_000]));
            assert_eq!(process.control.ground().routes[0].assignment, assignment);
        });
        life(async {
            let process = Process::start(with(25.0)).await;
            assert_eq!(process.live("shop"), (4, vec![75_000, 25_000]));
            assert_eq!(process.control.ground().routes[0].assignment.buckets_moved(&assignment), 5_000);
        });
    }

    #[test]
    fn many_writers_at_once_are_all_answered_and_all_saved() {
        let dir = tempfile::tempdir().unwrap();
        let generation = life(async {
            let process = Process::start(shop_in(dir.path())).await;
            let change = |canary: usize| {
                let body = format!(r#"{{"weights":{{"canary":{}}}}}"#, canary as f64 / 8.0);
                let process = &process;
                async move { process.patch("shop", &[], &body).await.status }
            };
            let mut rounds = Vec::new();
            for round in 0..10 {
                let at = 1 + 8 * round;
                rounds.extend(<[u16; 8]>::from(tokio::join!(
                    change(at),
                    change(at + 1),
                    change(at + 2),
                    change(at + 3),
                    change(at + 4),
                    change(at + 5),
                    change(at + 6),
                    change(at + 7),
                )));
            }
            assert!(rounds.iter().all(|status| *status == 200), "{rounds:?}");
            process.live("shop").0
        });
        assert_eq!(generation, 81);
        life(async { assert_eq!(Process::start(shop_in(dir.path())).await.live("shop").0, 81) });
    }

    #[tokio::test]
    async fn a_reload_of_a_file_that_is_gone_changes_nothing() {
        let process = Process::start(shop()).await;
        let reply = process.call("POST", "/api/v1/reload", &[], b"").await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid-configuration"));
        assert!(!reply.json()["errors"].as_array().unwrap().is_empty());
        let text = String::from_utf8(process.get("/metrics").await.body).unwrap();
        assert!(text.contains("\nweir_config_last_reload_success 0\n"));
        assert_eq!(process.get("/api/v1/routes").await.status, 200);
    }

    fn loaded(path: &std::path::Path) -> Config {
        let loaded = config::load(path, &|_| None);
        loaded.config.unwrap_or_else(|| panic!("{}", loaded.report.render(false)))
    }

    #[tokio::test]
    async fn a_reload_takes_over_a_good_file_and_refuses_a_bad_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weir.toml");
        let write = |stable: u32, canary: u32, more: &str| {
            let text = format!(
                "[server]\nstate_dir = \"state\"\n[admin]\nlisten = [\"127.0.0.1:0\"]\n\
                 [[listener]]\nname = \"http\"\nbind = \"127.0.0.1:8080\"\n\
                 [pool.v1]\ntargets = [\"127.0.0.1:9101\"]\n[pool.v2]\ntargets = [\"127.0.0.1:9102\"]\n\
                 [[route]]\nname = \"shop\"\nmatch = {{ path = \"/\" }}\n\
                 variants = {{ stable = \"v1\", canary = \"v2\" }}\n\
                 weights = {{ stable = {stable}, canary = {canary} }}\n{more}"
            );
            fs::write(&path, text).unwrap();
        };
        write(100, 0, "");
        let process = Process::start(loaded(&path)).await;
        process.patch("shop", &[], r#"{"weights":{"canary":5}}"#).await;
        let reload = async || process.call("POST", "/api/v1/reload", &[], b"").await;
        write(100, 0, "timeout = \"3s\"\n");
        let reply = reload().await;
        assert_eq!((reply.status, &reply.json()["live_kept"]), (200, &serde_json::json!(["shop"])), "{reply:?}");
        assert_eq!(process.live("shop"), (2, vec![95_000, 5_000]));
        let timeout = process.publisher.current().routing.routes()[0].timeout;
        assert_eq!(timeout, std::time::Duration::from_secs(3));
        write(90, 20, "timout = 3\n");
        let reply = reload().await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid-configuration"));
        assert_eq!(reply.json()["errors"].as_array().unwrap().len(), 2, "{reply:?}");
        assert!(process.control.reload(Origin::signal("SIGHUP")).await.is_err());
        assert_eq!(process.live("shop"), (2, vec![95_000, 5_000]));
        write(80, 20, "");
        assert_eq!(process.control.reload(Origin::signal("SIGHUP")).await.unwrap().installed.file_won, ["shop"]);
        assert_eq!(process.live("shop"), (3, vec![80_000, 20_000]));
        let text = String::from_utf8(process.get("/metrics").await.body).unwrap();
        assert!(text.contains("\nweir_config_last_reload_success 1\n"));
        // What cannot be saved is not taken over either.
        fs::create_dir(dir.path().join("state/live.json.tmp")).unwrap();
        write(70, 30, "");
        let reply = reload().await;
        assert_eq!((reply.status, reply.problem().as_str()), (507, "state-not-saved"));
        assert_eq!(process.live("shop"), (3, vec![80_000, 20_000]));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Patch(u32),
        Put(u32),
        Bad,
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u32..=100_000).prop_map(Step::Patch),
            2 => (0u32..=100_000).prop_map(Step::Put),
            1 => Just(Step::Bad),
            1 => Just(Step::Restart),
        ]
    }

    async fn take(process: &Process, step: &Step) -> u16 {
        let percent = |thousandths: u32| f64::from(thousandths) / 1000.0;
        match step {
            Step::Patch(canary) => {
                let body = format!(r#"{{"weights":{{"canary":{}}}}}"#, percent(*canary));
                process.patch("shop", &[], &body).await.status
            }
            Step::Put(canary) => {
                let (stable, canary) = (percent(100_000 - canary), percent(*canary));
                let body = format!(r#"{{"weights":{{"canary":{canary},"stable":{stable}}}}}"#);
                let tag = format!("if-match: \"{}\"", process.live("shop").0);
                process.put("shop", &[&tag], &body).await.status
            }
            _ => process.put("shop", &["if-match: *"], r#"{"weights":{"canary":5}}"#).await.status,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn what_was_acknowledged_is_live_after_any_restart(steps in prop::collection::vec(step(), 1..24)) {
            let dir = tempfile::tempdir().unwrap();
            let mut acknowledged = (1, vec![100_000, 0]);
            for life_s_steps in steps.split_inclusive(|step| matches!(step, Step::Restart)) {
                life(async {
                    let process = Process::start(shop_in(dir.path())).await;
                    assert_eq!(process.live("shop"), acknowledged);
                    for step in life_s_steps.iter().filter(|step| !matches!(step, Step::Restart)) {
                        let status = take(&process, step).await;
                        match step {
                            Step::Patch(canary) | Step::Put(canary) => {
                                assert_eq!(status, 200);
                                let weights = vec![100_000 - canary, *canary];
                                let generation = acknowledged.0 + u64::from(weights != acknowledged.1);
                                acknowledged = (generation, weights);
                            }
                            _ => assert_eq!(status, 400),
                        }
                        assert_eq!(process.live("shop"), acknowledged);
                    }
                });
            }
        }
    }
}
