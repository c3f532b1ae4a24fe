//! A worker: a thread with its own runtime, and all that its connections share without locks.

use super::clock::{Clock, Tick};
use super::compress;
use super::connection;
use super::descriptors::Descriptors;
use super::filter::LocalFilters;
use super::handover::{Busy, Handovers, Sending};
use super::judged::{Flights, LocalJudged};
use super::listener;
use super::mirror;
use super::recover::LocalRecoveries;
use super::tls::Handshakes;
use super::upstream::pool::LocalPool;
use crate::boundary::drain::{DrainWatch, Phase};
use crate::boundary::outcomes::{ListenerShard, WorkerOutcomes, WorkerShard};
use crate::boundary::table::{Published, TableReader};
use crate::limits::{Limits, SWEEP_INTERVAL};
use hyper::server::conn::http1;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;

pub use super::handover::handovers;
pub use super::listener::{BACKLOG, Door, Listening, bind, check_free};

/// What a worker is made of.
pub struct WorkerPlan {
    pub id: usize,
    /// How many there are: caps are divided by it.
    pub workers: usize,
    /// Of all listeners, in the same order for each worker.
    pub doors: Vec<Door>,
    /// This worker's sockets, each with its door's place: none, one or several of a listener.
    pub sockets: Vec<(usize, Listening)>,
    pub table: TableReader,
    pub outcomes: Arc<WorkerOutcomes>,
    pub drain: DrainWatch,
    /// The ways to the other workers.
    pub handovers: Handovers,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ended {
    /// Connections cut at the drain's deadline.
    pub cut: usize,
}

/// Starts the worker's thread.
pub fn spawn(plan: WorkerPlan) -> std::io::Result<JoinHandle<std::io::Result<Ended>>> {
    std::thread::Builder::new().name(format!("weir-worker-{}", plan.id)).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(61).build()?;
        tokio::task::LocalSet::new().block_on(&runtime, run(plan))
    })
}

async fn run(plan: WorkerPlan) -> std::io::Result<Ended> {
    let WorkerPlan { id, workers, doors, sockets, table, outcomes, mut drain, handovers } = plan;
    let (sending, receiving) = handovers.split();
    let worker = Rc::new(Worker::new((id, workers), doors.len(), (table, outcomes, sending))?);
    let doors: Rc<[Door]> = doors.into();
    let receiving = tokio::task::spawn_local(listener::receive(Rc::clone(&worker), Rc::clone(&doors), receiving));
    let run = |(at, socket)| listener::run(Rc::clone(&worker), Rc::clone(&doors), at, socket);
    let accepting: Vec<_> = sockets.into_iter().map(run).map(tokio::task::spawn_local).collect();
    let sweeper = tokio::task::spawn_local(sweep(Rc::clone(&worker)));
    // An error means that control is gone; the process is ending then.
    let _ = drain.wait_for(|phase| *phase >= Phase::Draining).await;
    worker.start_draining();
    let mut deadline_nears = drain.clone();
    let part = async {
        let _ = deadline_nears.wait_for(|phase| *phase >= Phase::Closing).await;
        worker.part();
        std::future::pending::<()>().await;
    };
    let finish = async {
        for listener in accepting {
            listener.await.map_err(std::io::Error::other)??;
        }
        receiving.await.map_err(std::io::Error::other)?;
        worker.wait_until_empty().await;
        Ok::<_, std::io::Error>(())
    };
    tokio::select! {
        finished = finish => finished?,
        () = part => {}
        _ = drain.wait_for(|phase| *phase >= Phase::Cut) => {}
    }
    sweeper.abort();
    Ok(Ended { cut: worker.open.get() })
}

/// Moves the worker's clock, and looks after idle connections to targets once a second.
async fn sweep(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let every = (1000 / SWEEP_INTERVAL.as_millis()).max(1);
    let mut count = 0_u128;
    let busy = Busy::new();
    loop {
        ticks.tick().await;
        worker.clock.advance();
        worker.shard().busy.set(busy.measure());
        if worker.descriptors.is_starved() {
            worker.local().pools.iter().for_each(|pool| pool.close_idle());
        }
        worker.shard().beats.add(1);
        worker.flights.sweep(worker.id);
        #[cfg(debug_assertions)]
        super::trial::fail_if_asked(worker.id);
        count += 1;
        if count.is_multiple_of(every) {
            let local = worker.local();
            local.pools.iter().for_each(|pool| pool.sweep(worker.clock.now()));
            worker.handovers.next_second();
            if worker.descriptors.recover() {
                worker.wake_waiting();
            }
        }
    }
}

/// All that a worker's connections share. One thread: cells, no locks.
pub(super) struct Worker {
    pub(super) id: usize,
    workers: usize,
    pub(super) clock: Rc<Clock>,
    pub(super) descriptors: Rc<Descriptors>,
    pub(super) rng: RefCell<SmallRng>,
    pub(super) draining: Cell<bool>,
    pub(super) drain_began: Cell<Tick>,
    /// The drain's deadline is near.
    pub(super) parting: Cell<bool>,
    pub(super) handshakes: Rc<Handshakes>,
    pub(super) mirrors: mirror::Budget,
    pub(super) compressors: compress::Places,
    pub(super) flights: Flights,
    table: RefCell<TableReader>,
    local: RefCell<Rc<Local>>,
    pub(super) outcomes: Arc<WorkerOutcomes>,
    pub(super) handovers: Sending,
    open: Cell<usize>,
    /// Tasks that wait for the drain, for room, or for the last connection's end.
    waiting: RefCell<Vec<Waker>>,
}

/// A published table with the worker's own pools. Requests hold it by `Rc`: no counter is shared between workers.
pub(super) struct Local {
    pub(super) published: Arc<Published>,
    pub(super) pools: Vec<Rc<LocalPool>>,
    pub(super) filters: LocalFilters,
    pub(super) recoveries: LocalRecoveries,
    pub(super) judged: LocalJudged,
    pub(super) http1: http1::Builder,
    /// Some target is told where clients connected to.
    pub(super) sends_proxy: bool,
    /// Some pool chooses by a request's key.
    pub(super) hashes: bool,
}

impl Worker {
    fn new(
        (id, workers): (usize, usize),
        listeners: usize,
        (mut table, outcomes, handovers): (TableReader, Arc<WorkerOutcomes>, Sending),
    ) -> std::io::Result<Worker> {
        let rng = SmallRng::try_from_rng(&mut rand::rngs::SysRng).map_err(std::io::Error::other)?;
        let clock = Rc::new(Clock::default());
        let descriptors = Rc::new(Descriptors::new(workers, listeners));
        let published = Arc::clone(table.load());
        let local = Local::new(published, None, (id, workers), (&clock, &descriptors));
        Ok(Worker {
            id,
            workers,
            clock,
            descriptors,
            rng: RefCell::new(rng),
            draining: Cell::new(false),
            drain_began: Cell::default(),
            parting: Cell::new(false),
            handshakes: Rc::default(),
            mirrors: mirror::Budget::default(),
            compressors: compress::Places::default(),
            flights: Flights::default(),
            table: RefCell::new(table),
            local: RefCell::new(Rc::new(local)),
            outcomes,
            handovers,
            open: Cell::new(0),
            waiting: RefCell::default(),
        })
    }

    /// The newest table, as this request will see it to its end.
    pub(super) fn local(&self) -> Rc<Local> {
        let mut table = self.table.borrow_mut();
        let published = table.load();
        let mut local = self.local.borrow_mut();
        if !Arc::ptr_eq(published, &local.published) {
            let own = (&self.clock, &self.descriptors);
            let next = Local::new(Arc::clone(published), Some(&local), (self.id, self.workers), own);
            *local = Rc::new(next);
            // There may be room for more clients now.
            self.wake_waiting();
        }
        Rc::clone(&local)
    }

    pub(super) fn limits(&self) -> Limits {
        self.local.borrow().published.settings.limits
    }

    /// Whether the address is a trusted proxy's.
    pub(super) fn trusts(&self, ip: IpAddr) -> bool {
        self.local().published.settings.trusted_proxies.iter().any(|net| net.contains(&ip))
    }

    pub(super) fn shard(&self) -> &WorkerShard {
        &self.outcomes.shards[self.id]
    }

    /// The system has no descriptor left.
    #[cold]
    pub(super) fn exhausted(&self) {
        self.descriptors.exhausted(self.open.get());
    }

    pub(super) fn opened(&self) {
        self.open.set(self.open.get() + 1);
    }

    pub(super) fn closed(&self) {
        self.open.set(self.open.get() - 1);
        self.shard().open.fetch_sub(1, Relaxed);
        if self.open.get() == 0 || self.open.get() + 1 >= self.room() {
            self.wake_waiting();
        }
    }

    /// This worker's share of `max_connections`, or what its descriptors are enough for.
    pub(super) fn room(&self) -> usize {
        self.descriptors.clients()
    }

    /// This worker's share of a number that is the whole process's.
    pub(super) fn share(&self, of: usize) -> usize {
        of.div_ceil(self.workers)
    }

    /// Waits while the worker has as many connections as it may; the kernel's queue holds the others.
    pub(super) async fn wait_for_room(&self, listener: &ListenerShard) {
        if self.open.get() < self.room() || self.draining.get() {
            return;
        }
        listener.paused.add(1);
        std::future::poll_fn(|cx| {
            if self.open.get() < self.room() || self.draining.get() {
                return Poll::Ready(());
            }
            self.wake_on_drain(cx);
            Poll::Pending
        })
        .await;
    }

    /// Wakes the task when the drain begins, room comes or the last connection ends.
    pub(super) fn wake_on_drain(&self, cx: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }

    fn start_draining(&self) {
        self.draining.set(true);
        self.drain_began.set(self.clock.now());
        self.wake_waiting();
        self.clock.wake_all();
    }

    /// What is open and can be told so is told to go.
    fn part(&self) {
        self.parting.set(true);
        self.clock.wake_all();
    }

    async fn wait_until_empty(&self) {
        std::future::poll_fn(|cx| {
            if self.open.get() == 0 {
                return Poll::Ready(());
            }
            self.wake_on_drain(cx);
            Poll::Pending
        })
        .await;
    }

    fn wake_waiting(&self) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Local {
    fn new(
        published: Arc<Published>,
        before: Option<&Local>,
        worker: (usize, usize),
        (clock, descriptors): (&Rc<Clock>, &Rc<Descriptors>),
    ) -> Local {
        let old = |at: usize, name: &str| {
            let same_place = before.and_then(|local| local.pools.get(at)).filter(|pool| pool.shared.name == name);
            same_place.or_else(|| before?.pools.iter().find(|pool| pool.shared.name == name))
        };
        let pools: Vec<_> = published
            .pools
            .iter()
            .enumerate()
            .map(|(at, shared)| match old(at, &shared.name) {
                Some(pool) if Arc::ptr_eq(&pool.shared, shared) => Rc::clone(pool),
                pool => Rc::new(LocalPool::new(shared, pool.map(Rc::as_ref), worker, (clock, descriptors))),
            })
            .collect();
        let targets: usize = published.pools.iter().map(|pool| pool.max_connections.div_ceil(worker.1).max(1)).sum();
        descriptors.divide(published.settings.limits.max_connections.div_ceil(worker.1), targets);
        let http1 = connection::http1_builder(&published.settings.limits);
        let filters = LocalFilters::new(published.routing.routes(), before.map(|local| &local.filters));
        let known = before.map(|local| (local.published.routing.routes(), &local.recoveries));
        let recoveries = LocalRecoveries::new(published.routing.routes(), known, worker.1);
        let judged = LocalJudged::new(&published);
        let sends_proxy = published.pools.iter().any(|pool| pool.send_proxy.is_some());
        let hashes = pools.iter().any(|pool| pool.hash_key().is_some());
        Local { published, pools, filters, recoveries, judged, http1, sends_proxy, hashes }
    }
}
