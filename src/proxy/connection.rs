//! One client connection from accept to close.
//!
//! HTTP/1.1 alternates between two states. *Parked*, it is a socket and a watch: hyper's connection with its buffers
//! is gone, and comes back when bytes do. *Driven*, hyper reads requests and writes answers while the driver keeps
//! the time: how long a head may take, how long nothing may move, how long to stay idle.

use super::clock::{Tick, Watch};
use super::frames::Breach;
use super::guard::TooLong;
use super::headers::Hop;
use super::io::{ClientIo, Pulse, Stream};
use super::listener::Entered;
use super::preface::{self, Owner, Peer};
use super::socket::Socket;
use super::streams::Streams;
use super::tls::{self, Identity, Secured};
use super::tunnel::{self, Tunnel};
use super::worker::Worker;
use super::{request, respond};
use crate::boundary::outcomes::{ListenerOutcomes, Timeout};
use crate::boundary::table::ListenerTls;
use crate::limits::PARK_AFTER;
use crate::net::proxy_protocol::Accepts;
use crate::routing::request::forwarded_for;
use crate::routing::scheme::Scheme;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::cell::{Cell, OnceCell};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long and how much is read from a client that was refused, so that it can read why.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 * 1024;

/// How much longer an HTTP/2 connection is given than the requests on it, so that they are answered, or their streams
/// end, before it goes.
const AFTER_REQUESTS: Duration = Duration::from_millis(200);

/// How long after a drain's begin a client may still ask, to be answered with `Connection: close`: closing a connection
/// at once would cross with the request of a busy client.
pub(super) const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// Room for a head beyond the longest that is allowed, and for bodies.
const BUFFER_BYTES: usize = 64 * 1024;

const TARGET_TOO_LONG: &[u8] = b"HTTP/1.1 414 URI Too Long\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const HEAD_TOO_LONG: &[u8] =
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const REQUEST_TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// What the requests of a connection know of it.
pub(super) struct Client {
    pub(super) worker: Rc<Worker>,
    pub(super) ip: IpAddr,
    peer: Peer,
    /// Made when a target is told of the client.
    owner: OnceCell<Owner>,
    pub(super) tls: bool,
    pub(super) hop: Hop,
    /// By the client's certificate.
    pub(super) identity: Option<Identity>,
    pub(super) pulse: Rc<Pulse>,
    h2: Cell<bool>,
    listener: Arc<ListenerOutcomes>,
    /// Of the request that was read last.
    pub(super) version: Cell<Version>,
    /// Requests whose exchange is under way.
    pub(super) in_flight: Cell<usize>,
    /// Those of them whose answer has begun.
    pub(super) answering: Cell<usize>,
    /// Request bodies that are not all read.
    pub(super) uploads: Cell<usize>,
    /// A body was left unread: what follows on the stream is not a request.
    pub(super) unread_body: Cell<bool>,
    /// An interim answer of the present request has gone out.
    pub(super) told: Cell<bool>,
    idle_since: Cell<Tick>,
    /// Requests that have come to their end. After the first the connection is parked at once: most clients ask once
    /// and stay; one that comes back is kept warm for a while.
    served: Cell<usize>,
    /// The protocol was switched: what the connection carries once the 101 is out.
    tunnel: Cell<Option<Box<Tunnel>>>,
    /// The connection is given up because the target's answer stands still, or because the client does.
    late: Cell<Option<Timeout>>,
    /// An answer broke off whose end only the connection's end shows (RFC 9112 §8).
    cut: Cell<bool>,
    /// A stream was ended because its client has moved: the connection goes, too, when the others are done.
    leaves: Cell<bool>,
}

impl Client {
    fn new(
        worker: &Rc<Worker>,
        listener: &Arc<ListenerOutcomes>,
        peer: Peer,
        (tls, h2, identity): (bool, bool, Option<Identity>),
    ) -> Rc<Client> {
        let ip = peer.ip();
        let trusted = peer.speaks_for_itself() && worker.trusts(ip);
        Rc::new(Client {
            worker: Rc::clone(worker),
            ip,
            peer,
            owner: OnceCell::new(),
            tls,
            hop: Hop::new(ip, tls, trusted),
            identity,
            pulse: Rc::new(Pulse::new(&worker.clock)),
            h2: Cell::new(h2),
            listener: Arc::clone(listener),
            version: Cell::new(Version::HTTP_11),
            in_flight: Cell::new(0),
            answering: Cell::new(0),
            uploads: Cell::new(0),
            unread_body: Cell::new(false),
            told: Cell::new(false),
            idle_since: Cell::new(worker.clock.now()),
            served: Cell::new(0),
            tunnel: Cell::new(None),
            late: Cell::new(None),
            cut: Cell::new(false),
            leaves: Cell::new(false),
        })
    }

    /// Interim responses are for HTTP/1.1: 1.0 has none (RFC 9110 §15.2), and hyper's HTTP/2 no way to send them.
    pub(super) fn takes_interim(&self) -> bool {
        self.version.get() == Version::HTTP_11
    }

    /// A request that Weir can't read or won't route: no route and no variant to count it for.
    pub(super) fn rejected(&self) {
        self.listener.shards[self.worker.id].rejected.add(1);
    }

    /// The scheme that the client used, of a request as it came.
    pub(super) fn scheme_of(&self, headers: &HeaderMap) -> Scheme {
        let own = Scheme::of(self.tls);
        if !self.hop.is_trusted() {
            return own;
        }
        Scheme::forwarded(headers).unwrap_or(own)
    }

    /// What came was no request that can be read.
    #[cold]
    fn refused_head(&self) {
        self.rejected();
        if self.pulse.is_tls() {
            tls::log_refusal(&self.listener, self.ip, "it speaks TLS, and the listener does not");
        }
    }

    /// A head that did not come whole in time.
    fn head_was_late(&self) {
        self.rejected();
        self.listener.shards[self.worker.id].late_heads.add(1);
    }

    /// How an HTTP/2 connection ended that was not closed in order.
    fn count_http2_error(&self, error: Option<&hyper::Error>) {
        let error = error.and_then(std::error::Error::source).and_then(|source| source.downcast_ref::<h2::Error>());
        let ours = error.filter(|error| error.is_go_away() && error.is_library());
        let calmed = ours.and_then(h2::Error::reason) == Some(h2::Reason::ENHANCE_YOUR_CALM);
        if calmed || self.pulse.breach() == Some(Breach::Flood) {
            self.listener.shards[self.worker.id].floods.add(1);
        }
        if ours.is_some() || self.pulse.breach().is_some() {
            self.rejected();
        }
    }

    /// Whose request it is: the peer's, or whom trusted proxies say they have it from, nearest untrusted first.
    pub(super) fn ip_of(&self, headers: &HeaderMap) -> IpAddr {
        if !self.hop.is_trusted() {
            return self.ip;
        }
        let local = self.worker.local();
        let trusted = &local.published.settings.trusted_proxies;
        forwarded_for(headers, |ip| trusted.iter().any(|net| net.contains(&ip))).unwrap_or(self.ip)
    }

    /// Who has those connections to targets that say for whom they are.
    pub(super) fn owner(&self) -> &Owner {
        self.owner.get_or_init(|| Rc::new(self.peer.origin()))
    }

    /// A request is over, or answered by Weir at once: idling begins.
    pub(super) fn request_ended(&self) {
        self.idle_since.set(self.worker.clock.now());
        self.served.set(self.served.get() + 1);
        self.pulse.head_done();
    }

    /// The rest of a body was read whose request had ended: what came of it was no request's head.
    pub(super) fn late_body_ended(&self) {
        self.idle_since.set(self.worker.clock.now());
        self.pulse.head_done();
    }

    pub(super) fn is_http2(&self) -> bool {
        self.h2.get()
    }

    /// From here on, what comes is for the tunnel.
    pub(super) fn switch_to(&self, tunnel: Tunnel) {
        self.pulse.switch();
        self.tunnel.set(Some(Box::new(tunnel)));
    }

    /// The target's answer broke off. To HTTP/1.0, which knows no chunks, the connection's orderly end would say that it
    /// is whole.
    pub(super) fn answer_broke(&self) {
        self.cut.set(self.version.get() == Version::HTTP_10);
    }

    /// Over HTTP/2: no more requests on this connection (GOAWAY); those under way go on.
    pub(super) fn leave(&self) {
        self.leaves.set(true);
    }

    /// Which time was over of an exchange that did not come to its end; None where the client went away.
    pub(super) fn late(&self) -> Option<Timeout> {
        self.late.get()
    }

    /// Nothing has moved for too long. The target is to blame when the client has taken all that there was.
    fn give_up(&self) {
        let by_target = self.answering.get() > 0 && self.uploads.get() == 0 && self.pulse.flushed();
        let late = if by_target { Timeout::Body } else { Timeout::Client };
        self.late.set(Some(late).filter(|_| self.in_flight.get() > 0));
        if self.answering.get() > 0 || !self.pulse.flushed() {
            self.answer_broke();
        }
    }

    /// A drain ends what is under way with its answer; an idle client has a moment to ask once more, and is told then.
    fn must_leave(&self) -> bool {
        self.worker.draining.get()
            && (self.h2.get() || self.in_flight.get() > 0 || self.grace_end() <= self.worker.clock.now())
    }

    fn grace_end(&self) -> Tick {
        self.worker.drain_began.get().after(DRAIN_GRACE)
    }

    /// HTTP/1.1 says in the answer's head that the connection ends with it.
    pub(super) fn finish_head(&self, headers: &mut HeaderMap, close: bool) {
        if !self.h2.get() && (close || self.worker.draining.get()) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// Why a driven connection ends.
enum End {
    Done(Result<(), hyper::Error>),
    Park,
    /// The client speaks HTTP/2.
    Http2,
    /// A request head did not come whole in time.
    HeadTimeout,
    HeadTooLong(TooLong),
    /// Idle, stalled or drained: closed without a word.
    Close,
}

/// Serves an accepted connection until it ends. What only some connections come to is boxed: the future's size is
/// what an idle client costs.
pub(super) async fn serve(
    worker: Rc<Worker>,
    mut socket: Socket,
    mut peer: Peer,
    (accepts, per_client, tls): (Option<Accepts>, Option<u32>, Option<Arc<ListenerTls>>),
    listener: &Arc<ListenerOutcomes>,
) {
    if let Some(accepts) = accepts {
        match Box::pin(preface::read(&worker, &mut socket, peer, accepts, listener)).await {
            Some(said) => peer = said,
            None => return,
        }
    }
    let entered = per_client.map(|most| Entered::new(&worker, &peer, most, listener));
    if let Some(None) = entered {
        return;
    }
    let (stream, how) = match tls {
        None => (Stream::Plain(socket), (false, false, None)),
        Some(tls) => match Box::pin(tls::handshake(&worker, tls, socket, peer.from, listener)).await {
            Some(Secured { stream, h2, identity }) => (Stream::Tls(stream), (true, h2, identity)),
            None => return listener.shards[worker.id].rejected.add(1),
        },
    };
    let h2 = how.1;
    let client = Client::new(&worker, listener, peer, how);
    let pulse = Rc::clone(&client.pulse);
    if h2 {
        let io = ClientIo::http2(stream, pulse, worker.limits().max_streams);
        Box::pin(http2(&client, io)).await
    } else {
        let io = ClientIo::http1(stream, pulse, worker.limits().max_header_bytes);
        http1(&client, io).await
    }
}

async fn http1(client: &Rc<Client>, mut io: ClientIo) {
    let watch = Watch::new(&client.worker.clock);
    loop {
        match parked(client, &io, &watch).await {
            Parked::Readable => {}
            Parked::Gone => return Box::pin(close(client, io, false)).await,
            Parked::HeadTimeout => return Box::pin(time_out(client, io)).await,
        }
        let (end, back) = driven(client, io, &watch).await;
        io = back;
        if let Some(tunnel) = client.tunnel.take() {
            let (stream, early) = io.into_parts();
            return Box::pin(tunnel::run(stream, early, *tunnel)).await;
        }
        match end {
            End::Park => {}
            End::Http2 => {
                client.h2.set(true);
                let io = io.into_http2(client.worker.limits().max_streams);
                return Box::pin(http2(client, io)).await;
            }
            End::HeadTimeout => return Box::pin(time_out(client, io)).await,
            End::HeadTooLong(what) => return Box::pin(refuse_long(client, io, what)).await,
            End::Close | End::Done(_) if client.cut.get() => return io.into_stream().reset(),
            // An answer that is cut must not look whole: TLS then ends without its last word.
            End::Close if client.in_flight.get() > 0 || !client.pulse.flushed() => return,
            End::Close => return Box::pin(close(client, io, false)).await,
            End::Done(Err(error)) if !error.is_parse() => {
                if client.unread_body.get() {
                    Box::pin(close(client, io, true)).await;
                }
                return;
            }
            End::Done(result) => {
                if result.is_err() {
                    client.refused_head();
                }
                return Box::pin(close(client, io, result.is_err() || client.unread_body.get())).await;
            }
        }
    }
}

enum Parked {
    Readable,
    Gone,
    HeadTimeout,
}

/// Waits for bytes with nothing but the socket. A first request may take no longer than a head may.
async fn parked(client: &Client, io: &ClientIo, watch: &Watch) -> Parked {
    let limits = client.worker.limits();
    let (since, limit) = match client.pulse.head_since() {
        _ if client.served.get() > 0 => (client.idle_since.get(), limits.idle_timeout),
        since => (since.unwrap_or(client.idle_since.get()), limits.header_timeout),
    };
    watch.due_at(since.after(limit));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(readable) = io.poll_readable(cx) {
            return Poll::Ready(if readable.is_ok() { Parked::Readable } else { Parked::Gone });
        }
        if client.worker.draining.get() {
            if client.must_leave() {
                return Poll::Ready(Parked::Gone);
            }
            watch.due_at(client.grace_end());
        }
        let late = if client.served.get() > 0 { Parked::Gone } else { Parked::HeadTimeout };
        watch.poll(cx).map(|()| late)
    })
    .await
}

/// Runs hyper's connection until it ends or the client has been idle for a while; gives the stream back.
async fn driven(client: &Rc<Client>, io: ClientIo, watch: &Watch) -> (End, ClientIo) {
    let service = service_fn({
        let client = Rc::clone(client);
        move |request: http::Request<Incoming>| request::serve(Rc::clone(&client), request)
    });
    let mut connection = Box::new(client.worker.local().http1.serve_connection(TokioIo::new(io), service));
    let mut told = false;
    let end = std::future::poll_fn(|cx| {
        if !told && client.must_leave() {
            told = true;
            Pin::new(&mut *connection).graceful_shutdown();
        }
        if let Poll::Ready(result) = Pin::new(&mut *connection).poll(cx) {
            return Poll::Ready(End::Done(result));
        }
        poll_time(client, watch, cx)
    })
    .await;
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();
    io.put_back(parts.read_buf);
    (end, io)
}

/// What the connection's state and the clock say: go on, or an end.
fn poll_time(client: &Client, watch: &Watch, cx: &mut Context<'_>) -> Poll<End> {
    let limits = client.worker.limits();
    let pulse = &client.pulse;
    if pulse.is_http2() {
        return Poll::Ready(End::Http2);
    }
    if let (Some(what), 0, true) = (pulse.too_long(), client.in_flight.get(), pulse.flushed()) {
        return Poll::Ready(End::HeadTooLong(what));
    }
    loop {
        let (due, end) = if client.in_flight.get() > 0 || client.uploads.get() > 0 || !pulse.flushed() {
            // A request that is not answered yet keeps the time of its body itself, and answers when that is over.
            let is_late_body = client.in_flight.get() == 0 && client.uploads.get() > 0;
            let moving = is_late_body || client.answering.get() > 0 || !pulse.flushed();
            (if moving { pulse.moved().after(limits.body_idle_timeout) } else { Tick::NEVER }, End::Close)
        } else if let Some(since) = pulse.head_since() {
            (since.after(limits.header_timeout), End::HeadTimeout)
        } else if !client.unread_body.get() && client.served.get() == 1 {
            return Poll::Ready(End::Park);
        } else if client.must_leave() {
            return Poll::Ready(End::Close);
        } else if client.worker.draining.get() {
            (client.grace_end(), End::Close)
        } else if !client.unread_body.get() {
            (client.idle_since.get().after(PARK_AFTER), End::Park)
        } else if client.served.get() == 0 {
            (client.idle_since.get().after(limits.header_timeout), End::HeadTimeout)
        } else {
            (client.idle_since.get().after(limits.idle_timeout), End::Close)
        };
        watch.due_at(due);
        match watch.poll(cx) {
            Poll::Ready(()) if due <= client.worker.clock.now() => {
                client.give_up();
                return Poll::Ready(end);
            }
            Poll::Ready(()) => {}
            Poll::Pending => return Poll::Pending,
        }
    }
}

async fn http2(client: &Rc<Client>, io: ClientIo) {
    let watch = Watch::new(&client.worker.clock);
    let waker = std::future::poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let streams = Streams::new(waker);
    let service = service_fn({
        let client = Rc::clone(client);
        move |request: http::Request<Incoming>| {
            let is_head = *request.method() == Method::HEAD;
            // Boxed: it would be copied with what hyper puts around it.
            let answer = Box::pin(request::serve(Rc::clone(&client), request));
            async move { answer.await.map(|answer| if is_head { respond::to_head(answer) } else { answer }) }
        }
    });
    let mut builder = http2::Builder::new(streams.spawner());
    let limits = client.worker.limits();
    builder
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(64 * 1024)
        .max_local_error_reset_streams(Some(limits.max_streams as usize * 2))
        .enable_connect_protocol();
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut told = false;
    let result = std::future::poll_fn(|cx| {
        let idle = client.idle_since.get().after(h2_idle_limit(client));
        let is_idle = client.in_flight.get() == 0 && idle <= client.worker.clock.now();
        if !told && (client.must_leave() || client.leaves.get() || is_idle) {
            told = true;
            connection.as_mut().graceful_shutdown();
            if is_idle && client.served.get() == 0 {
                client.head_was_late();
            }
        }
        if let Poll::Ready(result) = streams.poll(cx, |cx| connection.as_mut().poll(cx)) {
            return Poll::Ready(result);
        }
        if client.leaves.get() && !told {
            cx.waker().wake_by_ref();
        }
        poll_stall(client, &watch, told, cx).map(Ok)
    })
    .await;
    client.count_http2_error(result.err().as_ref());
}

fn h2_idle_limit(client: &Client) -> Duration {
    let limits = client.worker.limits();
    match client.served.get() {
        _ if client.worker.draining.get() => DRAIN_GRACE,
        0 => limits.header_timeout,
        _ => limits.idle_timeout,
    }
}

/// Ready when nothing has moved for too long while it should.
fn poll_stall(client: &Client, watch: &Watch, closing: bool, cx: &mut Context<'_>) -> Poll<()> {
    let limits = client.worker.limits();
    loop {
        let moving = client.uploads.get() > 0 || client.answering.get() > 0;
        let due = match client.in_flight.get() {
            0 if closing => client.pulse.moved().after(limits.body_idle_timeout),
            0 => client.idle_since.get().after(h2_idle_limit(client)),
            _ if moving => client.pulse.moved().after(limits.body_idle_timeout + AFTER_REQUESTS),
            _ => Tick::NEVER,
        };
        watch.due_at(due);
        match watch.poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(()) if due > client.worker.clock.now() => {}
            Poll::Ready(()) if client.in_flight.get() == 0 && !closing => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(()) => {
                client.give_up();
                return Poll::Ready(());
            }
        }
    }
}

async fn time_out(client: &Client, io: ClientIo) {
    client.head_was_late();
    linger(io.into_stream(), REQUEST_TIMEOUT).await;
}

async fn refuse_long(client: &Client, io: ClientIo, what: TooLong) {
    client.rejected();
    let words = if what == TooLong::Target { TARGET_TOO_LONG } else { HEAD_TOO_LONG };
    linger(io.into_stream(), words).await;
}

async fn close(client: &Client, io: ClientIo, unread: bool) {
    let mut stream = io.into_stream();
    if client.cut.get() {
        return stream.reset();
    }
    if unread {
        return linger(stream, b"").await;
    }
    if let Stream::Tls(tls) = &mut stream {
        let deadline = Watch::new(&client.worker.clock);
        deadline.due_after(LINGER);
        // A peer that does not take the closing alert loses nothing.
        let _ = super::upstream::within(&deadline, tls.shutdown()).await;
    }
}

/// Closes so that the client can read what was written: closing with bytes unread would reset the connection.
pub(super) async fn linger(mut stream: Stream, last_words: &[u8]) {
    let close = async {
        let tcp = match &mut stream {
            Stream::Plain(socket) => {
                socket.write_all(last_words).await?;
                socket.shutdown().await?;
                socket
            }
            Stream::Tls(tls) => {
                tls.write_all(last_words).await?;
                tls.shutdown().await?;
                tls.get_mut().0
            }
        };
        let mut sink = [0_u8; 4096];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match tcp.read(&mut sink).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // The deadline is the point: how the client ends is its own affair.
    let _ = tokio::time::timeout(LINGER, close).await;
}

/// Runs HTTP/2 streams on the worker's thread.
#[derive(Clone, Copy)]
pub(super) struct LocalExec;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExec {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// hyper's HTTP/1 server with the operator's limits.
pub(super) fn http1_builder(limits: &crate::limits::Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_header_size(limits.max_header_bytes);
    // A head that is too long is noticed when it is whole or the buffer is full.
    builder.max_buf_size(limits.max_header_bytes.saturating_add(BUFFER_BYTES));
    if limits.max_headers != 100 {
        builder.max_headers(limits.max_headers);
    }
    builder.header_read_timeout(None);
    builder
}
