//! Wiring only: control, workers and signals, put together and taken apart.

mod activation;
mod binding;
pub mod handover;
mod notify;
pub mod upgrade;

use crate::boundary::drain::{Drain, DrainWatch, Phase};
use crate::boundary::table::Publisher;
use crate::config::{AdminAddr, Bind, Config, Listener};
use crate::control::command::Origin;
use crate::control::handover::{Successor, Upgrade, UpgradeError, UpgradeRequest};
use crate::control::{self, Control, Work};
use crate::limits::UPGRADE_TIMEOUT;
use crate::net::address::Address;
use crate::net::inherited::{Handle, Sockets};
use crate::net::socket_file::SocketFile;
use crate::proxy::worker::{self, Door, Ended, Listening, WorkerPlan};
use binding::{Binding, Bound};
use handover::{Message, Predecessor};
use notify::Notify;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use upgrade::{Done, Launch, Replaced, Upgrading};

/// How long a process that was replaced and has drained waits for the admin API's last answers to be read.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
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
    #[error("can't take over from the running process: {0}")]
    Predecessor(std::io::Error),
    #[error("can't start a worker: {0}")]
    Worker(std::io::Error),
    #[error("worker {0} ended by itself")]
    WorkerEnded(String),
    #[error("can't listen to signals: {0}")]
    Signals(std::io::Error),
}

/// How this process is one of several in turn.
#[derive(Debug, Default)]
pub struct Turn {
    /// How the next one is started; None: there is none after this.
    pub launch: Option<Launch>,
    /// The one whose place this takes.
    pub predecessor: Option<Predecessor>,
}

/// Everything started and accepting; [`App::run`] keeps it going.
pub struct App {
    control: Control,
    drain: Arc<Drain>,
    drain_timeout: Duration,
    workers: JoinSet<Result<Ended, AppError>>,
    signals: Signals,
    notify: Notify,
    turn: Turn,
    /// For the next process.
    sockets: Arc<Vec<Handle>>,
    wanted: mpsc::Receiver<Upgrade>,
    upgrading: JoinSet<Upgraded>,
    /// Dropped, it ends the process that is to take over.
    aborting: Option<oneshot::Sender<()>>,
    /// How the process that took over ended, if it did without having been asked to.
    broken: Option<oneshot::Receiver<String>>,
    reloading: JoinSet<()>,
    /// Of unix sockets, by the sockets' names; removed when this is dropped.
    files: Vec<(String, SocketFile)>,
    pub addresses: Addresses,
}

type Answer = Result<Successor, UpgradeError>;

/// Who asked for an upgrade, and what came of it.
struct Upgraded {
    request: UpgradeRequest,
    reply: Option<oneshot::Sender<Answer>>,
    result: Result<Done, UpgradeError>,
}

/// Binds, reads the state, starts the workers. When this returns, clients are served.
///
/// In another process' place: takes its sockets, and the state once it is ready for all else.
pub async fn start(config: Config, turn: Turn) -> Result<App, AppError> {
    raise_descriptor_limit();
    let signals = Signals::new().map_err(AppError::Signals)?;
    let workers = config.server.workers.unwrap_or_else(available_workers);
    let (listeners, drain_timeout) = (config.listeners.clone(), config.server.drain_timeout);
    let admin_sockets = config.admin.listen.iter().filter(|addr| matches!(addr, AdminAddr::Tcp(_))).count();
    let drain = Arc::new(Drain::new());
    let (inherited, told) = match &turn.predecessor {
        Some(before) => before.sockets().await.map_err(AppError::Predecessor)?,
        None => (Sockets::default(), Vec::new()),
    };
    let mut binding = Binding::new(workers, inherited);
    for (place, listener) in listeners.iter().enumerate() {
        let bound = binding.bind(place, listener);
        bound.map_err(|error| AppError::Bind { name: listener.name.clone(), addr: listener.bind.clone(), error })?;
    }
    let start = control::Start { config, workers, drain: Arc::clone(&drain), env: |name| std::env::var(name).ok() };
    let prepared = control::prepare(start, &mut binding.inherited, told).await?;
    let (bound, taken) = binding.done();
    let copy = match &turn.predecessor {
        Some(before) => before.state().await.map_err(AppError::Predecessor)?,
        None => None,
    };
    let (control, publisher) = prepared.start(copy).await?;
    #[cfg(debug_assertions)]
    handover::hang_if_asked().await;
    let Bound { sockets, addresses, mut handles, mut files } = bound;
    for (_, place, socket) in &sockets {
        let Listener { name, bind, .. } = &listeners[*place];
        socket.listen().map_err(|error| AppError::Bind { name: name.clone(), addr: bind.clone(), error })?;
    }
    let workers = spawn_workers(workers, (&listeners, sockets), (&control, &publisher), &drain)?;
    files.iter_mut().for_each(|(_, file)| file.own());
    if let Some(before) = &turn.predecessor {
        before.serving(taken).await;
    }
    handles.extend(control.take_handles());
    let (wishes, wanted) = mpsc::channel(1);
    control.on_upgrade(wishes);
    let mut admin = control.admin_addrs();
    let metrics = admin.split_off(admin.len().min(admin_sockets)).pop();
    Ok(App {
        addresses: Addresses { listeners: addresses, admin, metrics },
        notify: Notify::new(|name| std::env::var(name).ok(), std::process::id()),
        sockets: Arc::new(handles),
        upgrading: JoinSet::new(),
        aborting: None,
        broken: None,
        reloading: JoinSet::new(),
        control,
        drain,
        drain_timeout,
        workers,
        signals,
        turn,
        wanted,
        files,
    })
}

/// One thread each, with its sockets and counters.
fn spawn_workers(
    workers: usize,
    (listeners, sockets): (&[Listener], Vec<(usize, usize, Listening)>),
    (control, publisher): (&Control, &Publisher),
    drain: &Drain,
) -> Result<JoinSet<Result<Ended, AppError>>, AppError> {
    let door = |listener: &Listener| {
        let Listener { name, proxy_protocol, .. } = listener;
        Door { name: name.clone(), accepts: *proxy_protocol, outcomes: control.listener_outcomes(name) }
    };
    let doors: Vec<_> = listeners.iter().map(door).collect();
    let mut by_worker: Vec<Vec<(usize, Listening)>> = (0..workers).map(|_| Vec::new()).collect();
    for (worker, place, socket) in sockets {
        by_worker[worker].push((place, socket));
    }
    let mut set = JoinSet::new();
    for ((id, sockets), handovers) in by_worker.into_iter().enumerate().zip(worker::handovers(workers)) {
        let (table, outcomes, drain) = (publisher.reader(), control.worker_outcomes(), drain.watch());
        let plan = WorkerPlan { id, workers, doors: doors.clone(), sockets, table, outcomes, drain, handovers };
        let thread = worker::spawn(plan).map_err(AppError::Worker)?;
        set.spawn_blocking(move || match thread.join() {
            Ok(ended) => ended.map_err(AppError::Worker),
            Err(_) => Err(AppError::WorkerEnded(id.to_string())),
        });
    }
    Ok(set)
}

impl App {
    /// Serves until a signal or `stop`, or until another process serves in this one's place, then drains. A worker that
    /// ends by itself is an error.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<Stopped, AppError> {
        let admin = tokio::spawn(self.control.clone().run(std::future::ready(())));
        let ends = match self.turn.predecessor.take() {
            Some(before) => before.main().await,
            None => false,
        };
        let mut stop = std::pin::pin!(stop);
        let mut beat = tokio::time::interval(self.notify.interval());
        self.notify.ready(&self.status());
        let mut replaced = loop {
            if ends {
                break false;
            }
            tokio::select! {
                () = &mut stop => break false,
                _ = self.signals.terminate.recv() => break false,
                _ = self.signals.interrupt.recv() => break false,
                _ = self.signals.quit.recv() => break false,
                _ = self.signals.hangup.recv() => self.reload(),
                Some(_) = self.reloading.join_next() => self.notify.ready(&self.status()),
                _ = self.signals.upgrade.recv() => self.upgrade(by_signal(), None).await,
                Some(Upgrade { request, reply }) = self.wanted.recv() => self.upgrade(request, Some(reply)).await,
                Some(Ok(done)) = self.upgrading.join_next() => if self.upgraded(done, Message::Main).await { break true },
                _ = beat.tick() => self.feed(),
                Some(ended) = self.workers.join_next() => return Err(ended_by_itself(ended)),
            }
        };
        // One that was to take over is ended with this; nobody else may go on listening when the workers stop. Where it
        // serves already, unheard for the signal, that is passed on.
        self.aborting = None;
        while let Some(done) = self.upgrading.join_next().await {
            if let Ok(done) = done {
                replaced |= self.upgraded(done, Message::End).await;
            }
        }
        self.sockets = Arc::default();
        let stopped = self.stop(&mut beat, replaced || ends).await;
        if replaced {
            // What the admin API was asked before is still answered.
            let _ = tokio::time::timeout(LAST_ANSWERS, admin).await;
        } else {
            admin.abort();
        }
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
    fn reload(&mut self) {
        self.notify.reloading();
        let control = self.control.clone();
        self.reloading.spawn(async move {
            let _ = control.reload(Origin::signal("SIGHUP")).await;
        });
    }

    /// Starts the process that is to take this one's place. Everything goes on meanwhile.
    async fn upgrade(&mut self, request: UpgradeRequest, reply: Option<oneshot::Sender<Answer>>) {
        let why = match self.turn.launch.clone() {
            Some(launch) if self.upgrading.is_empty() => {
                let (control, sockets) = (self.control.clone(), Arc::clone(&self.sockets));
                let upgrading = Upgrading { control, launch, sockets };
                let (aborting, aborted) = oneshot::channel();
                self.aborting = Some(aborting);
                self.upgrading.spawn(async move {
                    let result = upgrading.run(&request, aborted).await;
                    Upgraded { request, reply, result }
                });
                return;
            }
            Some(_) => "an upgrade is under way already",
            None => "this process can't be replaced",
        };
        let result = Err(UpgradeError::Refused(why.to_owned()));
        self.upgraded(Upgraded { request, reply, result }, Message::Main).await;
    }

    /// Whether this process has done its work. A process that took over is told `last`.
    async fn upgraded(&mut self, Upgraded { request, reply, result }: Upgraded, last: Message) -> bool {
        let done = matches!(result, Ok(Done::Replaced(_)));
        let result = match result {
            Ok(Done::Replaced(replaced)) => Ok(self.hand_over(replaced, &last)),
            Ok(Done::Would(successor)) => Ok(successor),
            Err(error) if request.dry_run => Err(error),
            Err(error) => {
                tracing::error!(actor = request.origin.actor, %error, "not upgraded");
                self.control.not_upgraded(&request.origin, &error).await;
                Err(error)
            }
        };
        if let Some(reply) = reply {
            // Who asked may have gone.
            let _ = reply.send(result);
        }
        done
    }

    /// The other process is the main one.
    fn hand_over(&mut self, replaced: Replaced, last: &Message) -> Successor {
        let Replaced { pid, version, taken, channel, broken } = replaced;
        self.notify.pass_on(pid);
        self.broken = Some(broken);
        // If it is gone by now, the service manager starts another.
        let _ = channel.send_now(last, &[]);
        self.files.iter_mut().filter(|(name, _)| taken.contains(name)).for_each(|(_, file)| file.leave());
        self.control.handed_over(taken);
        tracing::info!(pid, version, "another process serves from now on");
        Successor { pid: Some(pid), version }
    }

    fn status(&self) -> String {
        format!("version {}, {} workers", env!("CARGO_PKG_VERSION"), self.workers.len())
    }

    fn feed(&mut self) {
        self.notify.feed(&self.control.worker_outcomes(), self.workers.len());
    }

    /// Unready, no new clients, what is under way is finished; cut at the deadline or at a second signal.
    ///
    /// A process that was replaced may hear the signal that is meant for the other, and one that was told to end by the one
    /// before the signal that this heard: a first one counts for nothing with them.
    async fn stop(&mut self, beat: &mut tokio::time::Interval, mut forgiven: bool) -> Result<Stopped, AppError> {
        tracing::info!("draining for at most {:?}", self.drain_timeout);
        self.notify.stopping(self.drain_timeout);
        let before = self.control.work();
        self.drain.advance(Phase::Draining);
        let (mut stopped, mut broken) = (Stopped::default(), self.broken.take());
        let parting = tokio::time::sleep(self.drain_timeout - PARTING.min(self.drain_timeout / 4));
        let deadline = tokio::time::sleep(self.drain_timeout);
        let (mut parting, mut deadline) = (std::pin::pin!(parting), std::pin::pin!(deadline));
        while !self.workers.is_empty() {
            let phase = self.drain.phase();
            let uncut = phase < Phase::Cut;
            tokio::select! {
                () = &mut parting, if phase < Phase::Closing => self.drain.advance(Phase::Closing),
                () = &mut deadline, if uncut => self.cut(&mut stopped),
                () = self.signals.end(), if uncut => if !std::mem::take(&mut forgiven) { self.cut(&mut stopped) },
                how = heard(&mut broken), if uncut => {
                    tracing::error!(how, "the process that took over has ended: this one ends, so that another is started");
                    self.drain.advance(Phase::Closing);
                    let sooner = deadline.deadline().min(Instant::now() + PARTING);
                    deadline.as_mut().reset(sooner);
                }
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

/// Never, where there is nobody to hear it from.
async fn heard(from: &mut Option<oneshot::Receiver<String>>) -> String {
    let heard = match from {
        Some(from) => from.await.ok(),
        None => None,
    };
    *from = None;
    match heard {
        Some(heard) => heard,
        None => std::future::pending().await,
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
    upgrade: Signal,
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
            upgrade: signal(SignalKind::user_defined2())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            _file_limit: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }
}

impl Signals {
    /// SIGTERM or SIGINT.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn by_signal() -> UpgradeRequest {
    UpgradeRequest { binary: None, dry_run: false, timeout: UPGRADE_TIMEOUT, origin: Origin::signal("SIGUSR2") }
}

/// CPUs that this process may use: affinity and cgroup quota counted.
fn available_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
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
