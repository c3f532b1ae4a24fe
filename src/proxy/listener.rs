//! Accepting clients: every worker has a socket of its own on every address (SO_REUSEPORT).

use super::clock::Watch;
use super::connection;
use super::handover::Handed;
use super::preface::Peer;
use super::socket::Socket;
use super::worker::Worker;
use crate::boundary::clients::Entry;
use crate::boundary::outcomes::{ListenerOutcomes, ListenerShard};
use crate::net::address::Address;
use crate::net::descriptors::is_exhausted;
use crate::net::proxy_protocol::Accepts;
use socket2::{Domain, Protocol, SockRef, Socket as Socket2, Type};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc::UnboundedReceiver;

/// Waits this long after an accept that failed for want of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
pub const BACKLOG: i32 = 4096;

/// What a listener's connections begin with, on every worker.
#[derive(Clone)]
pub struct Door {
    pub name: String,
    /// Every connection begins with a PROXY protocol header.
    pub accepts: Option<Accepts>,
    pub outcomes: Arc<ListenerOutcomes>,
}

/// A socket that listens. Workers have TCP sockets of their own on one address; of what exists once, a unix socket or
/// one that somebody else has opened, each has a handle, and the first of them that asks gets the client.
#[derive(Debug)]
pub enum Listening {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Listening {
    /// Ready to be accepted on. `InvalidInput` for a socket that does not listen.
    pub fn prepared(self) -> io::Result<Listening> {
        let socket = match &self {
            Listening::Tcp(tcp) => SockRef::from(tcp),
            Listening::Unix(unix) => SockRef::from(unix),
        };
        if !socket.is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen"));
        }
        socket.set_nonblocking(true)?;
        if matches!(self, Listening::Tcp(_)) {
            socket.set_tcp_nodelay(true)?;
        }
        Ok(self)
    }

    /// From now on the kernel gives it clients.
    pub fn listen(&self) -> io::Result<()> {
        let socket = match self {
            Listening::Tcp(tcp) => SockRef::from(tcp),
            Listening::Unix(unix) => SockRef::from(unix),
        };
        if socket.is_listener()? { Ok(()) } else { socket.listen(BACKLOG) }
    }

    pub fn try_clone(&self) -> io::Result<Listening> {
        Ok(match self {
            Listening::Tcp(tcp) => Listening::Tcp(tcp.try_clone()?),
            Listening::Unix(unix) => Listening::Unix(unix.try_clone()?),
        })
    }

    pub fn local_addr(&self) -> io::Result<Address> {
        Ok(match self {
            Listening::Tcp(tcp) => Address::Tcp(tcp.local_addr()?),
            Listening::Unix(unix) => {
                Address::Unix(unix.local_addr()?.as_pathname().map(Into::into).unwrap_or_default())
            }
        })
    }
}

/// Whether nobody listens there. SO_REUSEPORT alone would let a second Weir take half of the clients in silence.
pub fn check_free(addr: SocketAddr) -> io::Result<()> {
    let socket = tcp_socket(addr)?;
    socket.bind(&addr.into())
}

/// Binds one worker's socket, which does not listen yet; port 0 is resolved by the first.
pub fn bind(addr: SocketAddr) -> io::Result<Listening> {
    let socket = tcp_socket(addr)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    // What is accepted inherits it: small pieces of a streamed answer leave at once.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    Ok(Listening::Tcp(socket.into()))
}

/// `[::]` takes IPv4 as well, whatever the system's default is.
fn tcp_socket(addr: SocketAddr) -> io::Result<Socket2> {
    let socket = Socket2::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// Accepts until the worker drains, then once more all that is queued, so that closing resets nobody.
pub(super) async fn run(worker: Rc<Worker>, doors: Rc<[Door]>, at: usize, socket: Listening) -> io::Result<()> {
    let Door { name, outcomes, .. } = &doors[at];
    let listener = Listener::new(socket)?;
    loop {
        let shard = &outcomes.shards[worker.id];
        worker.wait_for_room(shard).await;
        wait_for_place(&worker, &doors[at]).await;
        match accept(&worker, &listener).await {
            Accepted::Client(socket, peer) => start_somewhere(&worker, &doors, at, (socket, peer)),
            // The client has gone already.
            Accepted::Failed(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Accepted::Failed(error) => {
                if let Some(more) = outcomes.may_log_refusal() {
                    tracing::warn!(listener = name, more, "can't accept a connection: {error}; trying again");
                }
                shard.accept_failures.add(1);
                if is_exhausted(&error) {
                    worker.exhausted();
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
            Accepted::Draining => break,
        }
    }
    // Any error ends it: no more to take, or no more to be had.
    let listening = listener.into_std()?;
    while let Ok((socket, peer)) = accept_queued(&listening) {
        worker.shard().open.fetch_add(1, Relaxed);
        start(&worker, &doors[at], socket, peer);
    }
    Ok(())
}

/// Takes what other workers hand over, until the worker drains and nothing more is on its way.
pub(super) async fn receive(worker: Rc<Worker>, doors: Rc<[Door]>, mut handed: UnboundedReceiver<Handed>) {
    let begin = |handed: Handed| {
        let (from, listener) = (handed.from, handed.listener);
        match handed.socket() {
            Ok(socket) => start(&worker, &doors[listener], socket, from),
            Err(error) => {
                worker.shard().open.fetch_sub(1, Relaxed);
                tracing::warn!(listener = doors[listener].name, "can't take a connection over: {error}");
            }
        }
    };
    loop {
        let next = std::future::poll_fn(|cx| {
            if worker.draining.get() {
                return Poll::Ready(None);
            }
            worker.wake_on_drain(cx);
            handed.poll_recv(cx)
        });
        let Some(next) = next.await else { break };
        begin(next);
    }
    handed.close();
    // Also what another worker is about to send.
    while let Some(last) = handed.recv().await {
        begin(last);
    }
}

/// Waits while the listener has as many connections as it may, of all workers. What others close is seen with the next
/// sweep.
async fn wait_for_place(worker: &Worker, door: &Door) {
    let is_full = || {
        let local = worker.local();
        let most = local.published.listener_limits.get(&door.name).and_then(|limits| limits.connections);
        most.is_some_and(|most| door.outcomes.open() >= most as u64)
    };
    if !is_full() {
        return;
    }
    door.outcomes.shards[worker.id].paused.add(1);
    let watch = Watch::new(&worker.clock);
    std::future::poll_fn(|cx| {
        if worker.draining.get() || !is_full() {
            return Poll::Ready(());
        }
        worker.wake_on_drain(cx);
        watch.due_after(Duration::ZERO);
        watch.poll(cx)
    })
    .await
}

/// Takes one that the kernel has queued. Asked of the kernel itself: the runtime may not have heard of it yet.
fn accept_queued(listening: &Listening) -> io::Result<(Socket, Option<SocketAddr>)> {
    match listening {
        Listening::Tcp(tcp) => {
            let (stream, peer) = tcp.accept()?;
            stream.set_nonblocking(true)?;
            Ok((Socket::Tcp(TcpStream::from_std(stream)?), Some(peer)))
        }
        Listening::Unix(unix) => {
            let (stream, _) = unix.accept()?;
            stream.set_nonblocking(true)?;
            Ok((Socket::Unix(UnixStream::from_std(stream)?), None))
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn new(socket: Listening) -> io::Result<Listener> {
        Ok(match socket {
            Listening::Tcp(tcp) => Listener::Tcp(TcpListener::from_std(tcp)?),
            Listening::Unix(unix) => Listener::Unix(UnixListener::from_std(unix)?),
        })
    }
    fn into_std(self) -> io::Result<Listening> {
        Ok(match self {
            Listener::Tcp(tcp) => Listening::Tcp(tcp.into_std()?),
            Listener::Unix(unix) => Listening::Unix(unix.into_std()?),
        })
    }
    /// The client, with its address where it has one.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Socket, Option<SocketAddr>)>> {
        match self {
            Listener::Tcp(tcp) => tcp.poll_accept(cx).map_ok(|(stream, peer)| (Socket::Tcp(stream), Some(peer))),
            Listener::Unix(unix) => unix.poll_accept(cx).map_ok(|(stream, _)| (Socket::Unix(stream), None)),
        }
    }
}

enum Accepted {
    Client(Socket, Option<SocketAddr>),
    Failed(io::Error),
    /// Draining.
    Draining,
}

async fn accept(worker: &Worker, listener: &Listener) -> Accepted {
    std::future::poll_fn(|cx| {
        if worker.draining.get() {
            return Poll::Ready(Accepted::Draining);
        }
        worker.wake_on_drain(cx);
        listener.poll_accept(cx).map(|accepted| match accepted {
            Ok((socket, peer)) => Accepted::Client(socket, peer),
            Err(error) => Accepted::Failed(error),
        })
    })
    .await
}

/// Starts a connection here, or where there is less to do.
fn start_somewhere(worker: &Rc<Worker>, doors: &[Door], at: usize, (socket, from): (Socket, Option<SocketAddr>)) {
    let to = worker.handovers.receiver(worker.id, worker.room(), &worker.outcomes);
    let open = &worker.outcomes.shards[to.unwrap_or(worker.id)].open;
    open.fetch_add(1, Relaxed);
    let Some(to) = to else { return start(worker, &doors[at], socket, from) };
    match worker.handovers.send(to, socket, from, at) {
        Ok(None) => worker.shard().handed_over.add(1),
        Ok(Some(socket)) => {
            open.fetch_sub(1, Relaxed);
            worker.shard().open.fetch_add(1, Relaxed);
            start(worker, &doors[at], socket, from);
        }
        Err(error) => {
            open.fetch_sub(1, Relaxed);
            tracing::warn!(listener = doors[at].name, "can't hand a connection over: {error}");
        }
    }
}

fn start(worker: &Rc<Worker>, door: &Door, socket: Socket, from: Option<SocketAddr>) {
    let Door { name, accepts, outcomes } = door;
    let open = Open::new(worker, Arc::clone(outcomes));
    let local = worker.local();
    let peer = Peer::new(&socket, from, local.sends_proxy);
    let per_client = local.published.listener_limits.get(name).and_then(|limits| limits.per_client);
    // A new certificate is every worker's from the moment that its table is published.
    let how = (*accepts, per_client, local.published.tls.get(name).cloned());
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        connection::serve(worker, socket, peer, how, &open.outcomes).await;
    });
}

/// A connection counted as its client's while it lasts. Boxed: most listeners count none.
pub(super) struct Entered(Box<(Arc<ListenerOutcomes>, usize)>);

impl Entered {
    /// None: the client has as many as it may, which is counted. Inside, None: it is nobody's that is counted, as those of
    /// trusted proxies, which stand for many clients.
    pub(super) fn new(
        worker: &Worker,
        peer: &Peer,
        most: u32,
        outcomes: &Arc<ListenerOutcomes>,
    ) -> Option<Option<Entered>> {
        let Some(clients) = outcomes.clients.get().filter(|_| peer.is_named() && !worker.trusts(peer.ip())) else {
            return Some(None);
        };
        match clients.enter(peer.ip(), most) {
            Entry::Counted(at) => Some(Some(Entered(Box::new((Arc::clone(outcomes), at))))),
            Entry::Uncounted => Some(None),
            Entry::Refused => {
                outcomes.shards[worker.id].greedy.add(1);
                None
            }
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let (outcomes, at) = &*self.0;
        if let Some(clients) = outcomes.clients.get() {
            clients.leave(*at);
        }
    }
}

/// An open client connection, counted while it lasts.
struct Open {
    worker: Rc<Worker>,
    outcomes: Arc<ListenerOutcomes>,
}

impl Open {
    fn new(worker: &Rc<Worker>, outcomes: Arc<ListenerOutcomes>) -> Open {
        worker.opened();
        let open = Open { worker: Rc::clone(worker), outcomes };
        open.shard().accepted.add(1);
        open.shard().open.add(1);
        open
    }
    fn shard(&self) -> &ListenerShard {
        &self.outcomes.shards[self.worker.id]
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shard().open.sub(1);
        self.worker.closed();
    }
}
