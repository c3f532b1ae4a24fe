//! Admin sockets and their connections. Bounded in number, head, body and age, so that slow clients can't hold every
//! place.

use super::access::Peer;
use super::{Api, router};
use crate::config::AdminAddr;
use crate::limits::{ADMIN_CONNECTION_AGE, ADMIN_CONNECTIONS, ADMIN_READ_TIMEOUT, RESERVED_DESCRIPTORS};
use crate::net::descriptors::is_exhausted;
use crate::net::socket_file::{self, SocketFile};
use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
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
}

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
        Ok(Socket { listener, scope })
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

/// Serves the socket until dropped.
pub async fn serve(socket: Socket, api: Api) {
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS));
    let router = router(socket.scope, api);
    let mut connections = JoinSet::new();
    let mut reserve = Reserve::default();
    reserve.fill();
    let mut given_up = false;
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = match &socket.listener {
            Listener::Tcp(listener, bound) => listener.accept().await.map(|(stream, from)| {
                let peer = Peer::tcp(from, *bound, socket.scope);
                let router = router.clone();
                connections.spawn(async move {
                    let _place = place;
                    connection(stream, peer, router).await;
                });
            }),
            Listener::Unix(listener, file) => listener.accept().await.map(|(stream, _)| {
                let peer = Peer::unix(file.path());
                let router = router.clone();
                connections.spawn(async move {
                    let _place = place;
                    connection(stream, peer, router).await;
                });
            }),
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            // What was given up for this client is for it to work with, and taken back when the next comes.
            Ok(()) if std::mem::take(&mut given_up) => {}
            Ok(()) => reserve.fill(),
            Err(error) if is_exhausted(&error) && reserve.release() => given_up = true,
            Err(error) => {
                tracing::warn!(%error, "an admin connection was not accepted");
                // Don't spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                reserve.fill();
            }
        }
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer, router: Router) {
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
        _ = &mut served => {}
        () = tokio::time::sleep(ADMIN_CONNECTION_AGE) => {
            served.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(ADMIN_READ_TIMEOUT, served).await;
        }
    }
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
