//! The worker's own connections to targets: found, opened, lent to one request at a time, and given back.
//!
//! A lent connection is driven by the request that has it, not by a task of its own: the two sockets of a request
//! share one wake-up. Idle ones are polled once in a while, so that one the target closed is dropped.

mod http2;
mod outlier;
pub(super) mod pool;

use super::body::{Broken, RequestBody};
use super::clock::{Clock, Tick, Watch};
use super::failure::Failure;
use super::io::{Driving, TargetIo, TargetStream};
use super::preface::{self, Owned, Owner};
use super::socket::Socket;
use crate::boundary::outcomes::{AddressOutcomes, TargetOutcomes, TargetShard};
use crate::boundary::table::{Endpoint, Standing, Target};
use crate::limits::{SWEEP_INTERVAL, UPSTREAM_IDLE};
use crate::net::address::Address;
use crate::net::descriptors::is_exhausted;
use crate::net::proxy_protocol::Version;
use crate::routing::balance;
use crate::routing::outlier::{Streak, Tally};
use crate::tls::client::explain;
use bytes::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pool::Admitted;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

/// A target left alone after a refused connection, while others are there.
const FAILING_FOR: Duration = Duration::from_secs(1);

/// A worker's view of one target, or of one of its addresses: its idle connections and how busy it is.
pub(super) struct LocalTarget {
    pub(super) name: String,
    addr: Address,
    /// The address is another than the name.
    is_named: bool,
    /// What stands in for a host that a request does not name.
    host: String,
    tls: Option<TargetTls>,
    http2: bool,
    send_proxy: Option<Version>,
    idle: RefCell<Vec<IdleConnection>>,
    shared: http2::Connections,
    in_flight: Cell<usize>,
    failing_until: Cell<Tick>,
    /// For pools that look for outliers.
    streak: Cell<Streak>,
    tally: Cell<Tally>,
    retired: Cell<bool>,
    standing: Cell<Standing>,
    weight: Cell<u32>,
    /// Since when it gets requests, where others had them before.
    risen: Cell<Option<Tick>>,
    /// It was ejected a second ago.
    was_out: Cell<bool>,
    /// By what it draws numbers, for pools that choose by key, and what it has for its turn where turns are taken.
    seed: u64,
    credit: Cell<i64>,
    outcomes: Arc<TargetOutcomes>,
    address: Arc<AddressOutcomes>,
    worker: usize,
    clock: Rc<Clock>,
}

/// What a target is spoken TLS with.
#[derive(Clone)]
struct TargetTls {
    connector: TlsConnector,
    /// Whom it must prove to be.
    name: ServerName<'static>,
}

/// How a pool's targets are spoken with.
#[derive(Clone, Copy, Default)]
pub(super) struct Manner<'p> {
    tls: Option<&'p Arc<ClientConfig>>,
    http2: bool,
    send_proxy: Option<Version>,
}

impl LocalTarget {
    pub(super) fn new(
        (target, place): (&Target, usize),
        Manner { tls, http2, send_proxy }: Manner<'_>,
        worker: usize,
        clock: &Rc<Clock>,
    ) -> LocalTarget {
        let (addr, endpoint) = (&target.addrs[place], &target.endpoints[place]);
        let host = match addr {
            Address::Unix(_) => "localhost".to_owned(),
            Address::Tcp(addr) if target.is_service => addr.to_string(),
            Address::Tcp(_) => target.name.clone(),
        };
        let named = |(config, name): (&Arc<ClientConfig>, &ServerName<'static>)| TargetTls {
            connector: TlsConnector::from(Arc::clone(config)),
            name: name.clone(),
        };
        LocalTarget {
            name: target.name.clone(),
            addr: addr.clone(),
            is_named: target.name != addr.to_string(),
            host,
            tls: tls.zip(target.server_name.as_ref()).map(named),
            http2,
            send_proxy,
            idle: RefCell::default(),
            shared: http2::Connections::default(),
            in_flight: Cell::new(0),
            failing_until: Cell::default(),
            streak: Cell::default(),
            tally: Cell::default(),
            retired: Cell::new(false),
            standing: Cell::new(endpoint.standing),
            weight: Cell::new(endpoint.weight),
            risen: Cell::new(None),
            was_out: Cell::new(false),
            seed: balance::seed(&addr.to_string()),
            credit: Cell::new(0),
            outcomes: Arc::clone(&target.outcomes),
            address: Arc::clone(&endpoint.outcomes),
            worker,
            clock: Rc::clone(clock),
        }
    }
    /// The same server, spoken with in the same way: connections to it can be kept.
    fn is(&self, (target, place): (&Target, usize), Manner { tls, http2, send_proxy }: Manner<'_>) -> bool {
        let same_tls = match (&self.tls, tls) {
            (None, None) => true,
            (Some(own), Some(tls)) => {
                Arc::ptr_eq(own.connector.config(), tls) && target.server_name.as_ref() == Some(&own.name)
            }
            _ => false,
        };
        let same_kind = self.http2 == http2 && self.send_proxy == send_proxy;
        let same_place = self.name == target.name && self.addr == target.addrs[place];
        same_place && Arc::ptr_eq(&self.address, &target.endpoints[place].outcomes) && same_kind && same_tls
    }
    /// What stands in for a host that a request does not name.
    pub(super) fn host(&self) -> &str {
        &self.host
    }
    /// It refused a connection a moment ago, or is ejected.
    pub(super) fn is_failing(&self) -> bool {
        self.failing_until.get() > self.clock.now() || self.address.ejection.is_out()
    }
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }
    /// In thousandths of one; while the target starts slowly, a part of it.
    pub(super) fn weight(&self, slow_start: Duration) -> u64 {
        let whole = u64::from(self.weight.get());
        let sweeps = |time: Duration| time.as_millis() as u64 / SWEEP_INTERVAL.as_millis() as u64;
        match self.risen.get() {
            Some(since) if !slow_start.is_zero() => {
                let done = u64::from(self.clock.now().sweeps_since(since));
                balance::risen(whole, done, sweeps(slow_start))
            }
            _ => whole * balance::WHOLE,
        }
    }
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }
    pub(super) fn credit(&self) -> &Cell<i64> {
        &self.credit
    }
    #[cfg(test)]
    pub(super) fn set_in_flight(&self, requests: usize) {
        self.in_flight.set(requests);
    }
    #[cfg(test)]
    pub(super) fn refused(&self) {
        self.count_connect(false);
    }
    fn shard(&self) -> &TargetShard {
        &self.outcomes.shards[self.worker]
    }

    /// Logs a failure, at most one a second.
    pub(super) fn log_failure(&self, pool: &str, what: &str, error: &dyn std::fmt::Display) {
        if let Some(more) = self.outcomes.may_log_failure() {
            tracing::warn!(pool, target = self.name, address = self.named_address(), more, "{what}: {error}");
        }
    }

    /// Where it is, unless its name says so.
    fn named_address(&self) -> Option<tracing::field::DisplayValue<&Address>> {
        self.is_named.then(|| tracing::field::display(&self.addr))
    }

    /// The target is no longer in the table: requests that have it finish, connections are not kept.
    fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().clear();
        self.shared.retire();
    }

    /// What the table says of it now. One that gets no requests keeps only the connections that have one.
    fn stands(&self, now: &Endpoint) {
        let before = self.standing.replace(now.standing);
        if now.standing == Standing::Up && before != Standing::Up {
            self.rises();
        }
        self.weight.set(now.weight);
        if !now.standing.is_usable() {
            self.idle.borrow_mut().clear();
            while self.shared.close_idle() {}
        }
    }

    /// It gets requests from now on.
    fn rises(&self) {
        self.risen.set(Some(self.clock.now()));
    }

    fn keeps_idle(&self) -> bool {
        !self.retired.get() && self.standing.get().is_usable()
    }

    /// An idle connection that may serve `owner`.
    fn idle_for(&self, owner: Option<&Owner>) -> Option<IdleConnection> {
        let mut idle = self.idle.borrow_mut();
        if self.send_proxy.is_none() {
            return idle.pop();
        }
        let at = idle.iter().rposition(|connection| connection.owned.is_for(owner))?;
        Some(idle.swap_remove(at))
    }

    /// Drops idle connections that the target has closed, as far as that is seen: one of them just was.
    #[cold]
    pub(super) fn sweep_idle(&self) {
        self.sweep(self.clock.now());
    }

    /// Drops idle connections that the target closed or that are too old.
    fn sweep(&self, now: Tick) {
        self.idle.borrow_mut().retain_mut(|connection| {
            connection.drive(&quiet());
            connection.is_idle() && !connection.owned.is_orphaned() && connection.idle_since.after(UPSTREAM_IDLE) > now
        });
        self.shared.sweep(now);
        if !self.keeps_idle() {
            // Those that had a request when the target went out.
            while self.shared.close_idle() {}
        }
    }

    /// Opens a connection to the target before `end`.
    /// `end`, and whether that is all the time that it may take: less says nothing of the target.
    async fn connect(
        &self,
        (end, is_whole): (Tick, bool),
        owner: Option<&Owner>,
    ) -> Result<TargetStream, ConnectError> {
        let deadline = Watch::new(&self.clock);
        deadline.due_at(end);
        let shaking = Cell::new(false);
        let opened = match within(&deadline, self.connect_to(owner, &shaking)).await {
            None if shaking.get() => Err(ConnectError::TlsTimedOut),
            None => Err(ConnectError::TimedOut),
            // No fault of the target's.
            Some(Err(ConnectError::Refused(error))) if is_exhausted(&error) => {
                return Err(ConnectError::NoDescriptor(error));
            }
            Some(opened) => opened,
        };
        let timed_out = matches!(opened, Err(ConnectError::TimedOut | ConnectError::TlsTimedOut));
        if is_whole || !timed_out {
            self.count_connect(opened.is_ok());
        }
        opened
    }

    /// `shaking` is set once the TLS handshake has begun.
    async fn connect_to(&self, owner: Option<&Owner>, shaking: &Cell<bool>) -> Result<TargetStream, ConnectError> {
        let mut socket = Socket::connect(&self.addr).await.map_err(ConnectError::Refused)?;
        if let Some(version) = self.send_proxy {
            let preface = preface::preface(version, &socket, owner);
            socket.write_all(&preface).await.map_err(ConnectError::Refused)?;
        }
        let Some(tls) = &self.tls else { return Ok(TargetStream::Plain(socket)) };
        shaking.set(true);
        // Boxed: a plain connection's future should not carry it.
        let stream = Box::pin(tls.connector.connect(tls.name.clone(), socket)).await.map_err(ConnectError::Tls)?;
        let agreed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if self.http2 && !agreed {
            return Err(ConnectError::NoHttp2);
        }
        Ok(TargetStream::Tls(Box::new(stream)))
    }

    fn count_connect(&self, worked: bool) {
        let (shard, address) = (self.shard(), &self.address.shards[self.worker]);
        shard.connects.add(1);
        if worked {
            address.failing.set(0);
            self.failing_until.set(Tick::default());
        } else {
            shard.connect_failures.add(1);
            address.failing.add(1);
            self.failing_until.set(self.clock.now().after(FAILING_FOR));
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("no connection in time")]
    TimedOut,
    #[error("no TLS handshake in time")]
    TlsTimedOut,
    #[error("{0}")]
    Refused(std::io::Error),
    #[error("{0}")]
    NoDescriptor(std::io::Error),
    #[error("{}", explain(.0))]
    Tls(std::io::Error),
    #[error("the target's TLS does not agree to h2 (ALPN), and the pool's protocol is h2")]
    NoHttp2,
}

/// The future's result, or None when the deadline passed first.
pub(super) async fn within<F: Future>(deadline: &Watch, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        deadline.poll(cx).map(|()| None)
    })
    .await
}

/// Boxed: it moves between requests, and is larger than a line or two of cache.
type IdleConnection = Box<Connection>;

/// One connection to a target. Dropping it gives its place in the pool's cap back.
pub(super) struct Connection {
    sender: http1::SendRequest<RequestBody>,
    /// None once it is finished: what it held of a request has been given back then.
    driver: Option<http1::Connection<TokioIo<TargetIo>, RequestBody>>,
    /// The request asks to switch protocols, and what is left of HTTP once that is done.
    switching: bool,
    switched: Option<(TargetStream, Bytes)>,
    idle_since: Tick,
    used: bool,
    owned: Owned,
    driving: Rc<Driving>,
    _place: pool::Place,
}

impl Connection {
    async fn open(
        stream: TargetStream,
        owned: Owned,
        place: pool::Place,
        clock: &Clock,
    ) -> Result<Box<Connection>, hyper::Error> {
        let driving = Rc::new(Driving::default());
        let io = TokioIo::new(TargetIo::new(stream, &driving));
        let (sender, driver) = http1::Builder::new().handshake(io).await?;
        let idle_since = clock.now();
        Ok(Box::new(Connection {
            sender,
            driver: Some(driver),
            switching: false,
            switched: None,
            idle_since,
            used: false,
            owned,
            driving,
            _place: place,
        }))
    }

    /// Reads and writes what can be; the socket wakes the task of `cx`.
    fn drive(&mut self, cx: &Context<'_>) {
        let Some(driver) = &mut self.driver else { return };
        self.driving.by(cx);
        if Pin::new(driver).poll(&mut quiet()).is_ready() {
            let driver = self.driver.take();
            if self.switching {
                let parts = driver.map(http1::Connection::into_parts);
                self.switched = parts.map(|parts| (parts.io.into_inner().into_stream(), parts.read_buf));
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }
}

/// A request that a target has, from the moment it was chosen: connecting counts as busy.
pub(super) struct Busy(Rc<LocalTarget>);

impl Busy {
    fn new(target: &Rc<LocalTarget>) -> Busy {
        target.in_flight.set(target.in_flight.get() + 1);
        target.shard().in_flight.add(1);
        Busy(Rc::clone(target))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.shard().in_flight.sub(1);
    }
}

/// A connection lent to one request; given back when dropped, if it can serve another.
pub(super) struct Lease {
    connection: Option<Box<Connection>>,
    /// Of an HTTP/2 connection, instead.
    stream: Option<http2::Stream>,
    busy: Busy,
    capacity: Admitted,
    /// The response head has come; until then the connection can't go back.
    answered: bool,
}

/// What became of a request that was sent.
pub(super) enum Sent {
    Answered(http::Response<hyper::body::Incoming>),
    /// Nothing of it reached the target: it can be sent again.
    Unsent(Box<http::Request<RequestBody>>),
    Failed {
        error: hyper::Error,
        /// The target says that it did not look at the request.
        untouched: bool,
    },
}

impl Lease {
    fn new(connection: Box<Connection>, busy: Busy, capacity: Admitted) -> Lease {
        Lease { connection: Some(connection), stream: None, busy, capacity, answered: false }
    }

    fn on_stream(stream: http2::Stream, busy: Busy, capacity: Admitted) -> Lease {
        Lease { connection: None, stream: Some(stream), busy, capacity, answered: false }
    }

    /// The connection is shared and driven by a task of its own.
    pub(super) fn is_stream(&self) -> bool {
        self.stream.is_some()
    }

    pub(super) fn target(&self) -> &LocalTarget {
        &self.busy.0
    }

    /// For [`pool::LocalPool::lease`], to have another one the next time.
    pub(super) fn target_ptr(&self) -> *const LocalTarget {
        Rc::as_ptr(&self.busy.0)
    }

    /// The connection is closed: nothing more comes or goes.
    pub(super) fn is_over(&self) -> bool {
        match &self.stream {
            Some(stream) => stream.is_over(),
            None => self.connection.as_ref().is_none_or(|connection| connection.driver.is_none()),
        }
    }

    /// Nothing of its request is under way: the connection can serve another, or is closed.
    pub(super) fn is_settled(&mut self) -> bool {
        self.connection.as_mut().is_none_or(|connection| {
            if !connection.is_idle() {
                connection.drive(&quiet());
            }
            connection.is_idle() || connection.driver.is_none()
        })
    }

    /// No request was sent on the connection before.
    pub(super) fn is_fresh(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| !connection.used)
    }

    /// The connection has served a request before, and not just now: the target may be closing it. (Under load a
    /// connection goes from request to request within a sweep, and keeping each for a second try would cost.)
    pub(super) fn may_be_stale(&self) -> bool {
        let now = self.target().clock.now();
        self.connection.as_ref().is_some_and(|connection| connection.used && connection.idle_since < now)
    }

    /// The connection is not used again: nobody else gets what the target may have sent on it.
    pub(super) fn close(mut self) {
        self.answered = false;
    }

    pub(super) fn drive(&mut self, cx: &Context<'_>) {
        if let Some(connection) = &mut self.connection {
            connection.drive(cx);
        }
    }

    /// The target takes no more of what it is sent. Known of a connection of one's own, which is over with this.
    #[cold]
    pub(super) fn is_stuck(&mut self) -> bool {
        let driver = self.connection.as_mut().and_then(|connection| connection.driver.take());
        driver.is_some_and(|driver| driver.into_parts().io.into_inner().is_stuck())
    }

    /// The request asks to switch protocols: the connection serves no other.
    pub(super) fn will_switch(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.switching = true;
        }
    }

    /// The bare connection after a 101, and what came on it already; None when it broke.
    pub(super) async fn switched(&mut self) -> Option<(TargetStream, Bytes)> {
        let connection = self.connection.as_mut()?;
        std::future::poll_fn(|cx| {
            connection.drive(cx);
            if connection.driver.is_none() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        connection.switched.take()
    }

    /// Sends the request and waits for the response head, driving the connection. `each_poll` runs after each step.
    pub(super) async fn send(
        &mut self,
        request: http::Request<RequestBody>,
        mut each_poll: impl FnMut(&mut Context<'_>) -> Poll<Failure>,
    ) -> Result<Sent, Failure> {
        if let Some(stream) = &self.stream {
            return stream.send(request, self.busy.0.host(), each_poll).await;
        }
        let Some(connection) = &mut self.connection else {
            return Ok(Sent::Unsent(Box::new(request)));
        };
        connection.used = true;
        let mut answer = std::pin::pin!(connection.sender.try_send_request(request));
        let sent = std::future::poll_fn(|cx| {
            connection.drive(cx);
            let over = each_poll(cx);
            if let Poll::Ready(result) = answer.as_mut().poll(&mut quiet()) {
                return Poll::Ready(Ok(result));
            }
            if !tokio::task::coop::has_budget_remaining() {
                cx.waker().wake_by_ref();
            }
            over.map(Err)
        })
        .await?;
        self.answered = sent.is_ok();
        Ok(match sent {
            Ok(response) => Sent::Answered(response),
            Err(mut error) => match error.take_message() {
                Some(request) => Sent::Unsent(Box::new(request)),
                None => Sent::Failed { error: error.into_error(), untouched: false },
            },
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.stream.take().is_some() {
            return self.capacity.wake_next();
        }
        let Some(mut connection) = self.connection.take().filter(|_| self.answered) else { return };
        if !connection.is_idle() {
            // The answer's end may have been read together with its last piece: let the connection see it.
            connection.drive(&quiet());
        }
        let target = &self.busy.0;
        if connection.is_idle() && self.capacity.keeps_idle() && target.keeps_idle() {
            connection.idle_since = target.clock.now();
            target.idle.borrow_mut().push(connection);
            self.capacity.wake_next();
        }
    }
}

/// For polls of channels whose other end is polled by the same task, right after.
pub(super) fn quiet() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// hyper's error with what is behind it, for the log. In TLS 1.3 a target refuses Weir's certificate only now.
pub(super) fn in_words(error: &hyper::Error) -> String {
    match std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>()) {
        Some(io) if io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => explain(io),
        Some(io) => format!("{error}: {io}"),
        None => error.to_string(),
    }
}

/// hyper's errors as what they mean for the client.
pub(super) fn failure_of(error: &hyper::Error) -> Failure {
    if error.is_parse() || error.is_parse_status() {
        Failure::BadResponse
    } else if std::error::Error::source(error).is_some_and(|source| source.is::<Broken>()) {
        Failure::BadBody
    } else {
        Failure::Reset
    }
}
