//! A pool as one worker has it: its targets, and its share of the pool's connections.

use super::super::balance::{self, Chooser};
use super::super::clock::{Clock, Tick, Watch};
use super::super::connection::Client;
use super::super::descriptors::Descriptors;
use super::super::failure::Failure;
use super::super::io::TargetStream;
use super::http2;
use super::outlier;
use super::{Busy, ConnectError, Connection, Lease, LocalTarget, Manner, Owned, Owner, within};
use crate::boundary::pools::{PoolShard, QueueRefusal};
use crate::boundary::table::Pool;
use crate::routing::balance::{Balance, HashKey};
use crate::routing::outlier::Seen;
use crate::tls::client::with_own_sessions;
use rand::rngs::SmallRng;
use rustls::ClientConfig;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

pub(in crate::proxy) struct LocalPool {
    pub(in crate::proxy) shared: Arc<Pool>,
    targets: Vec<Rc<LocalTarget>>,
    /// Those that may get a request: the ones that are up, else those that nobody has asked yet.
    eligible: Vec<Rc<LocalTarget>>,
    /// How one of them is chosen.
    chooser: Chooser,
    /// The pool's, with this worker's own sessions.
    tls: Option<Arc<ClientConfig>>,
    capacity: Rc<Capacity>,
    clock: Rc<Clock>,
    worker: usize,
    /// How many workers have a part in what is counted of targets, and when these were compared.
    workers: usize,
    compared: Cell<Tick>,
}

/// For [`LocalPool::lease`]: when the worker has all the connections that it may, wait for one.
pub(in crate::proxy) const QUEUE: bool = true;
/// For [`LocalPool::lease`]: fail then.
pub(in crate::proxy) const GIVE_UP: bool = false;

impl LocalPool {
    /// `before` is the pool of the same name in the last table: targets that stay keep their connections.
    pub(in crate::proxy) fn new(
        shared: &Arc<Pool>,
        before: Option<&LocalPool>,
        (worker, workers): (usize, usize),
        (clock, descriptors): (&Rc<Clock>, &Rc<Descriptors>),
    ) -> LocalPool {
        let same = |pool: &&LocalPool| {
            same_config(pool.shared.tls.as_ref(), shared.tls.as_ref()) && pool.shared.http2 == shared.http2
        };
        let tls = match before.filter(same) {
            Some(pool) => pool.tls.clone(),
            None => shared.tls.as_deref().map(|tls| with_own_sessions(tls, shared.http2)),
        };
        let manner = Manner { tls: tls.as_ref(), http2: shared.http2, send_proxy: shared.send_proxy };
        let is = |local: &&Rc<LocalTarget>, place| local.is(place, manner);
        let places = || shared.targets.iter().flat_map(|one| (0..one.addrs.len()).map(move |place| (one, place)));
        // Most often all are where they were: only a standing is another.
        let kept = |at: usize, place| {
            let known = &before?.targets;
            let in_place = known.get(at).filter(|local| is(local, place));
            in_place.or_else(|| known.iter().find(|local| is(local, place))).map(Rc::clone)
        };
        let new = |place| {
            let target = LocalTarget::new(place, manner, worker, clock);
            // With a pool that is new, nobody has had requests before.
            before.inspect(|_| target.rises());
            Rc::new(target)
        };
        let targets: Vec<_> =
            places().enumerate().map(|(at, place)| kept(at, place).unwrap_or_else(|| new(place))).collect();
        let stays = |at: usize, old: &Rc<LocalTarget>| {
            let is_old = |target: &Rc<LocalTarget>| Rc::ptr_eq(target, old);
            targets.get(at).is_some_and(is_old) || targets.iter().any(is_old)
        };
        let known = before.iter().flat_map(|pool| &pool.targets).enumerate();
        known.filter(|(at, old)| !stays(*at, old)).for_each(|(_, old)| old.retire());
        let capacity = match before {
            Some(pool) => Rc::clone(&pool.capacity),
            None => Rc::new(Capacity::new(descriptors)),
        };
        capacity.limit.set(shared.max_connections.div_ceil(workers).max(1));
        capacity.max_requests.set(shared.max_requests.map_or(usize::MAX, |most| most.div_ceil(workers).max(1)));
        capacity.max_pending.set(shared.max_pending.div_ceil(workers));
        for (local, (target, place)) in targets.iter().zip(places()) {
            local.stands(&target.endpoints[place]);
        }
        let best = shared.best();
        let eligible: Vec<_> =
            targets.iter().filter(|target| Some(target.standing.get()) == best).map(Rc::clone).collect();
        let chooser = Chooser::new(shared, &eligible, worker);
        if shared.outlier.is_none() {
            targets.iter().for_each(|target| target.address.ejection.lift());
        }
        let compared = Cell::new(before.map_or(clock.now(), |pool| pool.compared.get()));
        let (shared, clock) = (Arc::clone(shared), Rc::clone(clock));
        LocalPool { shared, targets, eligible, chooser, tls, capacity, clock, worker, workers, compared }
    }

    pub(in crate::proxy) fn sweep(&self, now: Tick) {
        self.targets.iter().for_each(|target| target.sweep(now));
        let Some(outlier) = &self.shared.outlier else { return };
        outlier::settle(&self.targets);
        if self.compared.get().after(outlier.interval) <= now {
            self.compared.set(now);
            outlier::compare(outlier, &self.shared, &self.eligible, self.workers);
        }
    }

    /// Takes down what a target did with a request, where the pool looks for outliers.
    #[inline(always)]
    pub(in crate::proxy) fn saw(&self, target: &LocalTarget, seen: Seen) {
        if let Some(outlier) = &self.shared.outlier {
            outlier::saw(outlier, &self.shared, &self.eligible, target, seen);
        }
    }

    /// These, unless there is no other.
    #[cold]
    fn to_avoid(&self, avoided: &[*const LocalTarget]) -> Vec<*const LocalTarget> {
        if self.has_other(avoided) { avoided.to_vec() } else { Vec::new() }
    }

    /// Requests are known by this key here.
    pub(in crate::proxy) fn hash_key(&self) -> Option<&HashKey> {
        match &self.shared.balance {
            Balance::Hash(key) => Some(key),
            _ => None,
        }
    }

    /// There is a target besides these that may do better.
    pub(in crate::proxy) fn has_other(&self, tried: &[*const LocalTarget]) -> bool {
        let is_other = |target: &Rc<LocalTarget>| !target.is_failing() && !tried.contains(&Rc::as_ptr(target));
        self.eligible.iter().any(is_other)
    }

    /// Gives the descriptors of idle connections back.
    pub(in crate::proxy) fn close_idle(&self) {
        for target in &self.targets {
            drop(target.idle.take());
            target.shared.close_idle();
        }
    }

    /// No target can be connected to, or none could a moment ago.
    pub(in crate::proxy) fn is_down(&self) -> bool {
        self.eligible.iter().all(|target| target.is_failing())
    }

    /// A mirror's copy may have a connection. Where the pool serves a variant, too, copies get half of them.
    pub(in crate::proxy) fn copy_place(&self, shares_pool: bool) -> Option<CopyPlace> {
        let limit = self.capacity.limit.get() / if shares_pool { 2 } else { 1 };
        let copies = &self.capacity.copies;
        (copies.get() < limit).then(|| {
            copies.set(copies.get() + 1);
            CopyPlace(Rc::clone(&self.capacity))
        })
    }

    /// A connection for one request: an idle one of the chosen target, or a new one, within the worker's share. No
    /// later than `end`. It is `client`'s own where the pool's say whose they are;
    /// None stands for Weir. `key` is the request's, for pools that choose by it. The choice is a constant so that requests have a copy of this to themselves, all of it inlined:
    /// shared with a mirror's copies, it would cost every request a percent.
    pub(in crate::proxy) async fn lease<const AT_CAP: bool>(
        &self,
        end: Tick,
        rng: &RefCell<SmallRng>,
        client: Option<&Client>,
        avoided: &[*const LocalTarget],
        key: u64,
    ) -> Result<Lease, Failure> {
        if self.eligible.is_empty() {
            return Err(Failure::NoTarget);
        }
        let owner = self.shared.send_proxy.and(client).map(Client::owner);
        let mut tried = if avoided.is_empty() { Vec::new() } else { self.to_avoid(avoided) };
        let mut failure = Failure::Connect;
        let mut queued = None;
        loop {
            let Some(admitted) = self.capacity.admit() else {
                Box::pin(self.queue::<AT_CAP>(&mut queued, end)).await?;
                continue;
            };
            let Some(target) = self.picked(&tried, key, rng) else { return Err(failure) };
            let busy = Busy::new(&target);
            let idle = target.idle_for(owner);
            if let Some(connection) = idle {
                return Ok(Lease::new(connection, busy, admitted));
            }
            if self.shared.http2 {
                if let Some(stream) = target.shared.stream(&self.clock, owner) {
                    return Ok(Lease::on_stream(stream, busy, admitted));
                }
                // What another request opens is no use to this one where connections have owners.
                if target.shared.is_opening() && self.shared.send_proxy.is_none() {
                    if let Err(error) = self.wait_for_opening(&target, end).await {
                        failure = error;
                        tried.push(Rc::as_ptr(&target));
                    }
                    continue;
                }
            }
            let Some(place) = self.place() else {
                drop(busy);
                admitted.withdraw();
                Box::pin(self.queue::<AT_CAP>(&mut queued, end)).await?;
                continue;
            };
            let opened = match self.shared.http2 {
                true => {
                    let stream = Box::pin(self.open_shared(&target, place, end, owner)).await;
                    stream.map(|stream| Lease::on_stream(stream, busy, admitted))
                }
                false => {
                    // Boxed: every request's future would carry it.
                    let connection = Box::pin(self.open(&target, place, end, owner)).await;
                    connection.map(|connection| Lease::new(connection, busy, admitted))
                }
            };
            match opened {
                Ok(lease) => return Ok(lease),
                Err(error) => failure = error,
            }
            if self.clock.now() >= end {
                return Err(failure);
            }
            tried.push(Rc::as_ptr(&target));
        }
    }

    /// The target for a request that these have failed.
    #[inline(always)]
    fn picked(&self, tried: &[*const LocalTarget], key: u64, rng: &RefCell<SmallRng>) -> Option<Rc<LocalTarget>> {
        balance::pick(&self.chooser, &self.eligible, tried, key, &mut *rng.borrow_mut()).map(Rc::clone)
    }

    async fn open(
        &self,
        target: &LocalTarget,
        place: Place,
        end: Tick,
        owner: Option<&Owner>,
    ) -> Result<Box<Connection>, Failure> {
        let stream = self.connect(target, end, owner).await?;
        let owned = Owned::of(self.shared.send_proxy, owner);
        Connection::open(stream, owned, place, &self.clock).await.map_err(|_| Failure::Connect)
    }

    /// A connection that others may share, and the first stream on it.
    async fn open_shared(
        &self,
        target: &LocalTarget,
        place: Place,
        end: Tick,
        owner: Option<&Owner>,
    ) -> Result<http2::Stream, Failure> {
        let opening = target.shared.begin();
        let whole = self.clock.now().after(self.shared.connect_timeout);
        let owned = Owned::of(self.shared.send_proxy, owner);
        let stream = match self.connect(target, end, owner).await {
            Ok(stream) => opening.open(target, stream, owned, place).await.map_err(|_| Failure::Connect),
            Err(failure) => Err(failure),
        };
        // One that had less than its time says nothing to those who have more: the next of them opens one.
        let hurried = |failure: &Failure| end < whole && failure.timeout().is_some();
        if let Some(failure) = stream.as_ref().err().filter(|failure| !hurried(failure)) {
            opening.failed(*failure);
        }
        drop(opening);
        // Requests that wait for a place have one now: a stream.
        self.capacity.wake_next();
        stream
    }

    async fn wait_for_opening(&self, target: &LocalTarget, end: Tick) -> Result<(), Failure> {
        let deadline = Watch::new(&self.clock);
        deadline.due_at(end);
        within(&deadline, target.shared.wait_for_opening()).await.unwrap_or(Err(Failure::ConnectTimeout))
    }

    async fn connect(&self, target: &LocalTarget, end: Tick, owner: Option<&Owner>) -> Result<TargetStream, Failure> {
        let whole = self.clock.now().after(self.shared.connect_timeout);
        let end = whole.min(end);
        match target.connect((end, end == whole), owner).await {
            Ok(stream) => Ok(stream),
            Err(error) => {
                target.log_failure(&self.shared.name, "can't connect", &error);
                // One that had less than its time says nothing of the target, nor does what Weir has not.
                let is_its_fault = match error {
                    ConnectError::TimedOut | ConnectError::TlsTimedOut => end == whole,
                    ConnectError::NoDescriptor(_) => false,
                    _ => true,
                };
                if is_its_fault {
                    self.saw(target, Seen::Connect);
                }
                if matches!(error, ConnectError::NoDescriptor(_)) {
                    self.capacity.descriptors.refused();
                }
                Err(match error {
                    ConnectError::TimedOut => Failure::ConnectTimeout,
                    ConnectError::NoDescriptor(_) => Failure::Queue,
                    ConnectError::TlsTimedOut => Failure::TlsTimeout,
                    ConnectError::Refused(_) | ConnectError::Tls(_) | ConnectError::NoHttp2 => Failure::Connect,
                })
            }
        }
    }

    /// A place for a new connection; an idle connection to another target makes room when there is none.
    fn place(&self) -> Option<Place> {
        if let Some(place) = self.capacity.take() {
            return Some(place);
        }
        if let Some(idle) = self.targets.iter().find_map(|target| target.idle.borrow_mut().pop()) {
            drop(idle);
        } else {
            self.targets.iter().find(|target| target.shared.close_idle())?;
        }
        self.capacity.take()
    }

    /// Waits for a place, if the queue has one; `queued` is its end once the request is there.
    async fn queue<const AT_CAP: bool>(&self, queued: &mut Option<Watch>, end: Tick) -> Result<(), Failure> {
        if AT_CAP == GIVE_UP {
            return Err(Failure::Queue);
        }
        let shard = &self.shared.outcomes.shards[self.worker];
        // Who has waited already and found its place taken goes on waiting.
        if queued.is_none() && self.capacity.pending.get() >= self.capacity.max_pending.get() {
            shard.refused[QueueRefusal::Full as usize].add(1);
            return Err(Failure::Queue);
        }
        let deadline = queued.get_or_insert_with(|| {
            let deadline = Watch::new(&self.clock);
            deadline.due_at(self.clock.now().after(self.shared.queue_timeout).min(end));
            deadline
        });
        let pending = Pending::new(&self.capacity, shard);
        let came = self.wait_for_place(deadline).await;
        drop(pending);
        if came.is_err() && self.clock.now() < end {
            shard.refused[QueueRefusal::Timeout as usize].add(1);
        }
        came
    }

    async fn wait_for_place(&self, deadline: &Watch) -> Result<(), Failure> {
        let waiting = Waiting::new(&self.capacity);
        let turn = &waiting.turn;
        let came = std::future::poll_fn(|cx| {
            if turn.came.get() {
                return Poll::Ready(());
            }
            *turn.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        });
        let in_time = within(deadline, came).await;
        waiting.turn.came.set(false);
        in_time.ok_or(Failure::Queue)
    }
}

fn same_config(a: Option<&Arc<ClientConfig>>, b: Option<&Arc<ClientConfig>>) -> bool {
    a.map(Arc::as_ptr) == b.map(Arc::as_ptr)
}

/// How many connections the worker has to a pool, how many it may, and who waits for one.
pub(in crate::proxy) struct Capacity {
    open: Cell<usize>,
    limit: Cell<usize>,
    /// Requests that have a connection, a stream on one, or are getting it, and how many may. Counted only where there
    /// is a limit.
    requests: Cell<usize>,
    max_requests: Cell<usize>,
    /// Requests that wait, and how many may.
    pending: Cell<usize>,
    max_pending: Cell<usize>,
    descriptors: Rc<Descriptors>,
    /// Mirrors' copies that have a connection or are getting one.
    copies: Cell<usize>,
    queue: RefCell<VecDeque<Rc<Turn>>>,
}

#[derive(Default)]
struct Turn {
    came: Cell<bool>,
    gone: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Capacity {
    fn new(descriptors: &Rc<Descriptors>) -> Capacity {
        Capacity {
            open: Cell::new(0),
            limit: Cell::new(0),
            requests: Cell::new(0),
            max_requests: Cell::new(usize::MAX),
            pending: Cell::new(0),
            max_pending: Cell::new(0),
            descriptors: Rc::clone(descriptors),
            copies: Cell::new(0),
            queue: RefCell::default(),
        }
    }

    fn take(self: &Rc<Self>) -> Option<Place> {
        (self.open.get() < self.limit.get() && self.descriptors.take(self)).then(|| {
            self.open.set(self.open.get() + 1);
            Place(Rc::clone(self))
        })
    }

    /// A request more, unless the pool has as many as it may.
    fn admit(self: &Rc<Self>) -> Option<Admitted> {
        let most = self.max_requests.get();
        let is_counted = most != usize::MAX;
        if is_counted {
            if self.requests.get() >= most {
                return None;
            }
            self.requests.set(self.requests.get() + 1);
        }
        Some(Admitted { capacity: Rc::clone(self), is_counted })
    }

    /// A lowered limit is reached by not keeping what comes back.
    pub(super) fn keeps_idle(&self) -> bool {
        self.open.get() <= self.limit.get() && !self.descriptors.is_starved()
    }

    pub(in crate::proxy) fn has_waiting(&self) -> bool {
        !self.queue.borrow().is_empty()
    }

    /// A connection or a place is free: the request that has waited longest goes on.
    pub(in crate::proxy) fn wake_next(&self) {
        let mut queue = self.queue.borrow_mut();
        while let Some(turn) = queue.pop_front() {
            if turn.gone.get() {
                continue;
            }
            turn.came.set(true);
            let waker = turn.waker.borrow_mut().take();
            drop(queue);
            if let Some(waker) = waker {
                waker.wake();
            }
            return;
        }
    }
}

/// A request in the queue. One that goes away passes its turn on.
struct Waiting<'c> {
    turn: Rc<Turn>,
    capacity: &'c Rc<Capacity>,
}

impl<'c> Waiting<'c> {
    fn new(capacity: &'c Rc<Capacity>) -> Waiting<'c> {
        let turn = Rc::new(Turn::default());
        capacity.queue.borrow_mut().push_back(Rc::clone(&turn));
        Waiting { turn, capacity }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.turn.gone.set(true);
        if self.turn.came.get() {
            self.capacity.wake_next();
        }
    }
}

/// A request counted as waiting.
struct Pending<'p>(&'p Capacity, &'p PoolShard);

impl<'p> Pending<'p> {
    fn new(capacity: &'p Capacity, shard: &'p PoolShard) -> Pending<'p> {
        capacity.pending.set(capacity.pending.get() + 1);
        shard.pending.add(1);
        Pending(capacity, shard)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending.set(self.0.pending.get() - 1);
        self.1.pending.sub(1);
    }
}

/// A copy's place among those that the pool takes at once.
pub(in crate::proxy) struct CopyPlace(Rc<Capacity>);

impl Drop for CopyPlace {
    fn drop(&mut self) {
        self.0.copies.set(self.0.copies.get() - 1);
    }
}

/// A request's place among those that the pool has at once.
pub(in crate::proxy) struct Admitted {
    capacity: Rc<Capacity>,
    is_counted: bool,
}

impl Deref for Admitted {
    type Target = Capacity;

    fn deref(&self) -> &Capacity {
        &self.capacity
    }
}

impl Admitted {
    /// It was of no use: nobody was kept out by it, so that nobody is woken. Two that wait for a connection would wake each
    /// other for ever.
    fn withdraw(mut self) {
        if std::mem::take(&mut self.is_counted) {
            self.requests.set(self.requests.get() - 1);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if !self.is_counted {
            return;
        }
        let was_full = self.requests.get() >= self.max_requests.get();
        self.requests.set(self.requests.get() - 1);
        if was_full {
            self.wake_next();
        }
    }
}

/// One connection's place in the worker's share.
pub(in crate::proxy) struct Place(Rc<Capacity>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        // A pool without a descriptor has waited for longer than this one's next.
        self.0.descriptors.give_back();
        self.0.wake_next();
    }
}
