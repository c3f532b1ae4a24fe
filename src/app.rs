//! Wiring only: control, workers and signals, put together and taken apart.

use crate::boundary::drain::{Drain, DrainWatch, Phase};
use crate::config::{AdminAddr, Config, Listener};
use crate::control::command::Origin;
use crate::control::{self, Control};
use crate::proxy::worker::{self, Ended, ListenerPlan, WorkerPlan};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

/// Where a running Weir can be reached; ports are those that were bound.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    pub listeners: Vec<(String, SocketAddr)>,
    pub admin: Vec<SocketAddr>,
    pub metrics: Option<SocketAddr>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stopped {
    /// Client connections cut at the drain's deadline.
    pub cut: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("{0}")]
    Control(#[from] control::StartError),
    #[error("listener {name}: can't listen on {addr}: {error}")]
    Bind { name: String, addr: SocketAddr, error: std::io::Error },
    #[error("can't start a worker: {0}")]
    Worker(std::io::Error),
    #[error("worker {0} ended by itself")]
    WorkerEnded(String),
    #[error("can't listen to signals: {0}")]
    Signals(std::io::Error),
}

/// Everything started and accepting; [`App::run`] keeps it going.
pub struct App {
    control: Control,
    drain: Arc<Drain>,
    drain_timeout: Duration,
    workers: JoinSet<Result<Ended, AppError>>,
    signals: Signals,
    pub addresses: Addresses,
}

/// Binds, reads the state, starts the workers. When this returns, clients are served.
pub async fn start(config: Config) -> Result<App, AppError> {
    raise_descriptor_limit();
    let signals = Signals::new().map_err(AppError::Signals)?;
    let workers = config.server.workers.unwrap_or_else(available_workers);
    let (listeners, drain_timeout) = (config.listeners.clone(), config.server.drain_timeout);
    let admin_sockets = config.admin.listen.iter().filter(|addr| matches!(addr, AdminAddr::Tcp(_))).count();
    let drain = Arc::new(Drain::new());
    let start = control::Start { config, workers, drain: Arc::clone(&drain), env: |name| std::env::var(name).ok() };
    let (control, publisher) = control::start(start).await?;

    let mut plans: Vec<Vec<ListenerPlan>> = (0..workers).map(|_| Vec::new()).collect();
    let mut bound = Vec::new();
    for listener in &listeners {
        let addr = bind_for_all(listener, &control, &mut plans)?;
        bound.push((listener.name.clone(), addr));
    }
    let mut set = JoinSet::new();
    for (id, listeners) in plans.into_iter().enumerate() {
        let (table, outcomes, drain) = (publisher.reader(), control.worker_outcomes(), drain.watch());
        let plan = WorkerPlan { id, workers, listeners, table, outcomes, drain };
        let thread = worker::spawn(plan).map_err(AppError::Worker)?;
        set.spawn_blocking(move || match thread.join() {
            Ok(ended) => ended.map_err(AppError::Worker),
            Err(_) => Err(AppError::WorkerEnded(id.to_string())),
        });
    }
    let mut admin = control.admin_addrs();
    let metrics = admin.split_off(admin.len().min(admin_sockets)).pop();
    let addresses = Addresses { listeners: bound, admin, metrics };
    Ok(App { control, drain, drain_timeout, workers: set, signals, addresses })
}

impl App {
    /// Serves until a signal or `stop`, then drains. A worker that ends by itself is an error.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<Stopped, AppError> {
        let admin = tokio::spawn(self.control.clone().run(std::future::ready(())));
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                _ = self.signals.terminate.recv() => break,
                _ = self.signals.interrupt.recv() => break,
                _ = self.signals.quit.recv() => break,
                _ = self.signals.hangup.recv() => self.reload().await,
                Some(ended) = self.workers.join_next() => return Err(ended_by_itself(ended)),
            }
        }
        let stopped = self.stop().await;
        admin.abort();
        stopped
    }

    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// For whoever runs beside the proxy and must stop when it drains.
    pub fn drain_watch(&self) -> DrainWatch {
        self.drain.watch()
    }

    /// Control says in the log what became of it; the old configuration stays where the new one is bad.
    async fn reload(&self) {
        let _ = self.control.reload(Origin::signal("SIGHUP")).await;
    }

    /// Unready, no new clients, what is under way is finished; cut at the deadline or at a second signal.
    async fn stop(&mut self) -> Result<Stopped, AppError> {
        tracing::info!("draining for at most {:?}", self.drain_timeout);
        self.drain.advance(Phase::Draining);
        let mut stopped = Stopped::default();
        let deadline = tokio::time::sleep(self.drain_timeout);
        let mut deadline = std::pin::pin!(deadline);
        while !self.workers.is_empty() {
            let cut = self.drain.phase() == Phase::Cut;
            tokio::select! {
                () = &mut deadline, if !cut => self.drain.advance(Phase::Cut),
                _ = self.signals.terminate.recv(), if !cut => self.drain.advance(Phase::Cut),
                _ = self.signals.interrupt.recv(), if !cut => self.drain.advance(Phase::Cut),
                Some(ended) = self.workers.join_next() => match ended {
                    Ok(Ok(ended)) => stopped.cut += ended.cut,
                    other => return Err(ended_by_itself(other)),
                },
            }
        }
        tracing::info!(cut = stopped.cut, "stopped");
        Ok(stopped)
    }
}

fn ended_by_itself(ended: Result<Result<Ended, AppError>, tokio::task::JoinError>) -> AppError {
    match ended {
        Ok(Ok(_)) => AppError::WorkerEnded("without an error".to_owned()),
        Ok(Err(error)) => error,
        Err(error) => AppError::WorkerEnded(error.to_string()),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    /// Heard so that it does not end the process: a file at its limit is an error of the write.
    _file_limit: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            _file_limit: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }
}

/// CPUs that this process may use: affinity and cgroup quota counted.
fn available_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Every worker gets a socket of its own on the listener's address. Gives the address, with its real port.
fn bind_for_all(
    listener: &Listener,
    control: &Control,
    plans: &mut [Vec<ListenerPlan>],
) -> Result<SocketAddr, AppError> {
    let failed = |error| AppError::Bind { name: listener.name.clone(), addr: listener.bind, error };
    worker::check_free(listener.bind).map_err(failed)?;
    let mut addr = listener.bind;
    for plan in plans {
        let socket = worker::bind(addr).map_err(failed)?;
        addr = socket.local_addr().map_err(failed)?;
        let outcomes = control.listener_outcomes(&listener.name);
        plan.push(ListenerPlan { name: listener.name.clone(), socket, outcomes });
    }
    Ok(addr)
}

/// Takes as many descriptors as the system gives this process.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("can't raise the limit of open files: {error}");
    }
}
