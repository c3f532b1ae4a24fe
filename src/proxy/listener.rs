//! Accepting clients: every worker has a socket of its own on every address (SO_REUSEPORT).

use super::connection;
use super::worker::Worker;
use crate::boundary::outcomes::{ListenerOutcomes, ListenerShard};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Waits this long after an accept that failed for want of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
const BACKLOG: i32 = 4096;

/// One worker's socket of one listener.
pub struct ListenerPlan {
    pub name: String,
    pub socket: std::net::TcpListener,
    pub outcomes: Arc<ListenerOutcomes>,
}

/// Whether nobody listens there. SO_REUSEPORT alone would let a second Weir take half of the clients in silence.
pub fn check_free(addr: SocketAddr) -> std::io::Result<()> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())
}

/// Binds one worker's socket; port 0 is resolved by the first.
pub fn bind(addr: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    // What is accepted inherits it: small pieces of a streamed answer leave at once.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the worker drains, then once more all that is queued, so that closing resets nobody.
pub(super) async fn run(worker: Rc<Worker>, plan: ListenerPlan) -> std::io::Result<()> {
    let listener = TcpListener::from_std(plan.socket)?;
    loop {
        let shard = &plan.outcomes.shards[worker.id];
        worker.wait_for_room(shard).await;
        match accept(&worker, &listener).await {
            Accepted::Client(stream, peer) => start(&worker, stream, peer, &plan.name, &plan.outcomes),
            Accepted::Failed(error) => {
                tracing::warn!(listener = plan.name, "can't accept a connection: {error}; trying again");
                shard.paused.add(1);
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
            Accepted::Draining => break,
        }
    }
    accept_queued(&worker, listener.into_std()?, &plan.name, &plan.outcomes)
}

/// Takes what the kernel has queued. Asked of the kernel itself: the runtime may not have heard of it yet.
fn accept_queued(
    worker: &Rc<Worker>,
    listener: std::net::TcpListener,
    name: &str,
    outcomes: &Arc<ListenerOutcomes>,
) -> std::io::Result<()> {
    // Any error ends it: no more to take, or no more to be had.
    while let Ok((stream, peer)) = listener.accept() {
        stream.set_nonblocking(true)?;
        start(worker, TcpStream::from_std(stream)?, peer, name, outcomes);
    }
    Ok(())
}

enum Accepted {
    Client(TcpStream, SocketAddr),
    Failed(std::io::Error),
    /// Draining.
    Draining,
}

async fn accept(worker: &Worker, listener: &TcpListener) -> Accepted {
    std::future::poll_fn(|cx| {
        if worker.draining.get() {
            return Poll::Ready(Accepted::Draining);
        }
        worker.wake_on_drain(cx);
        listener.poll_accept(cx).map(|accepted| match accepted {
            Ok((stream, peer)) => Accepted::Client(stream, peer),
            Err(error) => Accepted::Failed(error),
        })
    })
    .await
}

fn start(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, name: &str, outcomes: &Arc<ListenerOutcomes>) {
    let open = Open::new(worker, Arc::clone(outcomes));
    // A new certificate is every worker's from the moment that its table is published.
    let tls = worker.local().published.tls.get(name).cloned();
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        connection::serve(worker, stream, peer, tls, &open.outcomes).await;
    });
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
