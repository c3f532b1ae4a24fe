//! Admin sockets and their connections. Bounded in number, head, body and age, so that slow clients can't hold every
//! place.

use super::access::Peer;
use super::{Api, router};
use crate::config::AdminAddr;
use crate::limits::{ADMIN_CONNECTION_AGE, ADMIN_CONNECTIONS, ADMIN_READ_TIMEOUT, RESERVED_DESCRIPTORS};
use crate::net::descriptors::is_exhausted;
use crate::net::inherited::{Handle, Sockets};
use crate::net::socket_file::{self, SocketFile};
use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tower_service::Service;

/// A socket's file is for the user that Weir runs as.
const MODE: u32 = 0o600;
const BACKLOG: i32 = 1024;

/// What an address serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Everything,
    /// `/metrics`, `/healthz` and `/readyz`, to everyone who can connect.
    MetricsOnly,
}

/// A bound admin address. A unix socket's file goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: Listener,
    scope: Scope,
    /// What it is called towards the process that takes this one's place.
    name: String,
}

/// The names of the sockets that another process has taken over, once one has.
pub type Taken = watch::Receiver<Option<Vec<String>>>;

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, SocketFile),
}

impl Socket {
    pub async fn bind(addr: &AdminAddr, scope: Scope) -> io::Result<Socket> {
        let listener = match addr {
            AdminAddr::Tcp(addr) => {
                let listener = TcpListener::bind(addr).await?;
                let bound = listener.local_addr()?;
                Listener::Tcp(listener, bound)
            }
            AdminAddr::Unix(path) => {
                let (listener, file) = socket_file::bind(path, MODE, BACKLOG)?;
                Listener::Unix(UnixListener::from_std(listener)?, file)
            }
        };
        Ok(Socket { listener, scope, name: name(addr, scope) })
    }

    /// The inherited socket of this address, or a new one.
    pub async fn open(addr: &AdminAddr, scope: Scope, inherited: &mut Sockets) -> io::Result<Socket> {
        let name = name(addr, scope);
        let listener = match addr {
            AdminAddr::Tcp(_) => {
                let Some(socket) = inherited.take_one(&name) else { return Socket::bind(addr, scope).await };
                let listener = TcpListener::from_std(socket.into())?;
                let bound = listener.local_addr()?;
                Listener::Tcp(listener, bound)
            }
            AdminAddr::Unix(path) => {
                let taken = inherited.take_file(&name, path, MODE);
                let Some((socket, file)) = taken else { return Socket::bind(addr, scope).await };
                Listener::Unix(UnixListener::from_std(socket.into())?, file)
            }
        };
        Ok(Socket { listener, scope, name })
    }

    /// Another handle on it, with its name.
    pub fn handle(&self) -> io::Result<Handle> {
        let (socket, file) = match &self.listener {
            Listener::Tcp(listener, _) => (listener.as_fd(), None),
            Listener::Unix(listener, file) => (listener.as_fd(), Some(file.id())),
        };
        Ok(Handle { name: self.name.clone(), socket: socket.try_clone_to_owned()?, file })
    }

    /// The TCP address that it really has.
    pub fn addr(&self) -> Option<SocketAddr> {
        match &self.listener {
            Listener::Tcp(_, bound) => Some(*bound),
            Listener::Unix(..) => None,
        }
    }
}

/// Descriptors held so that an admin client is answered when nothing else is left: they are closed for it, and opened
/// again when it has gone.
#[derive(Debug, Default)]
struct Reserve(Vec<File>);

impl Reserve {
    fn fill(&mut self) {
        while self.0.len() < RESERVED_DESCRIPTORS {
            let Ok(file) = File::open("/dev/null") else { return };
            self.0.push(file);
        }
    }
    /// False when there were none.
    fn release(&mut self) -> bool {
        let held = !self.0.is_empty();
        self.0.clear();
        held
    }
}

fn name(addr: &AdminAddr, scope: Scope) -> String {
    let addr = match addr {
        AdminAddr::Tcp(addr) => addr.to_string(),
        AdminAddr::Unix(path) => format!("unix:{}", path.display()),
    };
    match scope {
        Scope::Everything => format!("admin {addr}"),
        Scope::MetricsOnly => format!("metrics {addr}"),
    }
}

/// Serves the socket until dropped, or until another process has it; then what is under way is finished.
pub async fn serve(mut socket: Socket, api: Api, mut taken: Taken) {
    if let Listener::Unix(_, file) = &mut socket.listener {
        file.own();
    }
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS));
    let router = router(socket.scope, api);
    let mut connections = JoinSet::new();
    let mut reserve = Reserve::default();
    reserve.fill();
    let mut given_up = false;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = taken.wait_for(Option::is_some) => break,
            accepted = accept(&socket, &places) => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer, place)) => {
                let (router, taken) = (router.clone(), taken.clone());
                connections.spawn(async move {
                    let _place = place;
                    connection(stream, peer, router, taken).await;
                });
                // What was given up for this client is for it to work with, and taken back when the next comes.
                if !std::mem::take(&mut given_up) {
                    reserve.fill();
                }
            }
            Err(error) if is_exhausted(&error) && reserve.release() => given_up = true,
            Err(error) => {
                tracing::warn!(%error, "an admin connection was not accepted");
                // Don't spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                reserve.fill();
            }
        }
    }
    let goes_on = taken.borrow().as_ref().is_some_and(|names| names.contains(&socket.name));
    if let Listener::Unix(_, file) = &mut socket.listener
        && goes_on
    {
        file.leave();
    }
    drop(socket);
    while connections.join_next().await.is_some() {}
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// The next client, once there is a place for it.
async fn accept(socket: &Socket, places: &Arc<Semaphore>) -> io::Result<(Box<dyn Stream>, Peer, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    Ok(match &socket.listener {
        Listener::Tcp(listener, bound) => {
            let (stream, from) = listener.accept().await?;
            (Box::new(stream) as Box<dyn Stream>, Peer::tcp(from, *bound, socket.scope), place)
        }
        Listener::Unix(listener, file) => {
            let (stream, _) = listener.accept().await?;
            (Box::new(stream) as Box<dyn Stream>, Peer::unix(file.path()), place)
        }
    })
}

async fn connection(stream: Box<dyn Stream>, peer: Peer, router: Router, mut taken: Taken) {
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.clone().call(request.map(Body::new))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ADMIN_READ_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    tokio::select! {
        // What clients do to their connections is of no interest here.
        _ = &mut served => return,
        () = tokio::time::sleep(ADMIN_CONNECTION_AGE) => {}
        // Who asks again gets the other process.
        _ = taken.wait_for(Option::is_some) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(ADMIN_READ_TIMEOUT, served).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn a_unix_socket_is_private_and_replaces_only_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        let addr = AdminAddr::Unix(dir.path().join("admin.sock"));
        let AdminAddr::Unix(path) = &addr else { unreachable!() };
        drop(std::os::unix::net::UnixListener::bind(path).unwrap());
        assert!(path.exists(), "a dead process leaves its file");
        let first = Socket::bind(&addr, Scope::Everything).await.unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let second = Socket::bind(&addr, Scope::Everything).await.unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists());
        std::fs::write(path, "precious").unwrap();
        let refused = Socket::bind(&addr, Scope::Everything).await.unwrap_err();
        assert!(refused.to_string().contains("no socket"), "{refused}");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "precious");
    }
}
