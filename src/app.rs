//! Wiring only: control, workers and signals, put together and taken apart.

mod activation;
mod notify;

use crate::boundary::drain::{Drain, DrainWatch, Phase};
use crate::config::{AdminAddr, Bind, Config, Listener};
use crate::control::command::Origin;
use crate::control::{self, Control, Work};
use crate::net::address::Address;
use crate::net::socket_file::{self, SocketFile};
use crate::proxy::worker::{self, BACKLOG, Ended, ListenerPlan, Listening, WorkerPlan};
use activation::Passed;
use notify::Notify;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

/// How long before a drain's deadline WebSockets are told of it, so that both ends can answer.
const PARTING: Duration = Duration::from_secs(2);

/// Where a running Weir can be reached; ports are those that were bound.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    pub listeners: Vec<(String, Address)>,
    pub admin: Vec<SocketAddr>,
    pub metrics: Option<SocketAddr>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stopped {
    /// Requests that ended during the drain, whole.
    pub finished: u64,
    /// Client connections cut at the drain's deadline.
    pub cut: usize,
    /// Requests that were under way then, and tunnels such as WebSockets that were open.
    pub cut_requests: u64,
    pub cut_tunnels: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("{0}")]
    Control(#[from] control::StartError),
    #[error("listener {name}: can't listen on {addr}: {error}")]
    Bind { name: String, addr: Bind, error: std::io::Error },
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
    notify: Notify,
    /// Removed when this is dropped.
    _files: Vec<SocketFile>,
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

    let mut binding = Binding::new(workers);
    for listener in &listeners {
        let bound = binding.bind(listener, &control);
        bound.map_err(|error| AppError::Bind { name: listener.name.clone(), addr: listener.bind.clone(), error })?;
    }
    let Binding { plans, bound, passed, files } = binding;
    passed.iter().flat_map(Passed::left).for_each(|name| {
        tracing::warn!(name, "systemd hands over a socket that no listener has: write bind = \"fd:{name}\"");
    });
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
    let notify = Notify::new(|name| std::env::var(name).ok(), std::process::id());
    Ok(App { control, drain, drain_timeout, workers: set, signals, notify, _files: files, addresses })
}

impl App {
    /// Serves until a signal or `stop`, then drains. A worker that ends by itself is an error.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<Stopped, AppError> {
        let admin = tokio::spawn(self.control.clone().run(std::future::ready(())));
        let mut stop = std::pin::pin!(stop);
        let mut beat = tokio::time::interval(self.notify.interval());
        self.notify.ready(&self.status());
        loop {
            tokio::select! {
                () = &mut stop => break,
                _ = self.signals.terminate.recv() => break,
                _ = self.signals.interrupt.recv() => break,
                _ = self.signals.quit.recv() => break,
                _ = self.signals.hangup.recv() => self.reload().await,
                _ = beat.tick() => self.feed(),
                Some(ended) = self.workers.join_next() => return Err(ended_by_itself(ended)),
            }
        }
        let stopped = self.stop(&mut beat).await;
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
        self.notify.reloading();
        let _ = self.control.reload(Origin::signal("SIGHUP")).await;
        self.notify.ready(&self.status());
    }

    fn status(&self) -> String {
        format!("version {}, {} workers", env!("CARGO_PKG_VERSION"), self.workers.len())
    }

    fn feed(&mut self) {
        self.notify.feed(&self.control.worker_outcomes(), self.workers.len());
    }

    /// Unready, no new clients, what is under way is finished; cut at the deadline or at a second signal.
    async fn stop(&mut self, beat: &mut tokio::time::Interval) -> Result<Stopped, AppError> {
        tracing::info!("draining for at most {:?}", self.drain_timeout);
        self.notify.stopping(self.drain_timeout);
        let before = self.control.work();
        self.drain.advance(Phase::Draining);
        let mut stopped = Stopped::default();
        let parting = tokio::time::sleep(self.drain_timeout - PARTING.min(self.drain_timeout / 4));
        let deadline = tokio::time::sleep(self.drain_timeout);
        let (mut parting, mut deadline) = (std::pin::pin!(parting), std::pin::pin!(deadline));
        while !self.workers.is_empty() {
            let phase = self.drain.phase();
            let uncut = phase < Phase::Cut;
            tokio::select! {
                () = &mut parting, if phase < Phase::Closing => self.drain.advance(Phase::Closing),
                () = &mut deadline, if uncut => self.cut(&mut stopped),
                _ = self.signals.terminate.recv(), if uncut => self.cut(&mut stopped),
                _ = self.signals.interrupt.recv(), if uncut => self.cut(&mut stopped),
                _ = beat.tick() => self.feed(),
                Some(ended) = self.workers.join_next() => match ended {
                    Ok(Ok(ended)) => stopped.cut += ended.cut,
                    other => return Err(ended_by_itself(other)),
                },
            }
        }
        // Those that were cut are counted as ended, too.
        stopped.finished = (self.control.work().requests - before.requests).saturating_sub(stopped.cut_requests);
        let Stopped { finished, cut, cut_requests, cut_tunnels } = stopped;
        tracing::info!(finished, cut, cut_requests, cut_tunnels, "stopped");
        Ok(stopped)
    }

    /// Ends what is left, having counted it.
    fn cut(&self, stopped: &mut Stopped) {
        let Work { in_flight, tunnels, .. } = self.control.work();
        (stopped.cut_requests, stopped.cut_tunnels) = (in_flight, tunnels);
        self.drain.advance(Phase::Cut);
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

/// What is bound so far.
struct Binding {
    /// By worker.
    plans: Vec<Vec<ListenerPlan>>,
    bound: Vec<(String, Address)>,
    /// systemd's, once a listener asks for them: reading them takes them out of the environment.
    passed: Option<Passed>,
    files: Vec<SocketFile>,
}

impl Binding {
    fn new(workers: usize) -> Binding {
        let plans = (0..workers).map(|_| Vec::new()).collect();
        Binding { plans, bound: Vec::new(), passed: None, files: Vec::new() }
    }

    /// Gives every worker the listener's sockets.
    fn bind(&mut self, listener: &Listener, control: &Control) -> std::io::Result<()> {
        match &listener.bind {
            Bind::Tcp(addr) => {
                worker::check_free(*addr)?;
                let mut addr = *addr;
                // The first has resolved port 0 for the others.
                let sockets = self.plans.iter().map(|_| {
                    let socket = worker::bind(addr)?;
                    addr = socket.local_addr()?.tcp().unwrap_or(addr);
                    Ok(socket)
                });
                let sockets = sockets.collect::<std::io::Result<Vec<_>>>()?;
                self.add(listener, control, sockets)
            }
            Bind::Unix { path, mode } => {
                let (socket, file) = socket_file::bind(path, *mode, BACKLOG)?;
                self.files.push(file);
                self.share(listener, control, Listening::Unix(socket))
            }
            Bind::Passed(name) => {
                let sockets = self.passed.get_or_insert_with(Passed::from_env).take(name)?;
                sockets.into_iter().try_for_each(|socket| self.share(listener, control, socket))
            }
        }
    }

    /// All workers accept on one socket.
    fn share(&mut self, listener: &Listener, control: &Control, socket: Listening) -> std::io::Result<()> {
        let sockets = self.plans.iter().map(|_| socket.try_clone()).collect::<std::io::Result<Vec<_>>>()?;
        self.add(listener, control, sockets)
    }

    /// One socket a worker.
    fn add(&mut self, listener: &Listener, control: &Control, sockets: Vec<Listening>) -> std::io::Result<()> {
        if let Some(first) = sockets.first() {
            self.bound.push((listener.name.clone(), first.local_addr()?));
        }
        for (plan, socket) in self.plans.iter_mut().zip(sockets) {
            let outcomes = control.listener_outcomes(&listener.name);
            let (name, accepts) = (listener.name.clone(), listener.proxy_protocol);
            plan.push(ListenerPlan { name, socket, accepts, outcomes });
        }
        Ok(())
    }
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
