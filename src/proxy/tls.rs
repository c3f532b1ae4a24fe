//! TLS with clients: handshakes, how many may be under way, and what a client's certificate says of it.
//!
//! A handshake that makes no progress costs memory and nothing else, so that silent clients must not keep others out:
//! past the limit the one that has waited longest goes, not the one that comes.

use super::clock::{Clock, Watch};
use super::connection::linger;
use super::io::Stream;
use super::socket::Socket;
use super::upstream::within;
use super::worker::Worker;
use crate::boundary::outcomes::{Handshake, ListenerOutcomes};
use crate::boundary::table::ListenerTls;
use crate::tls::server::client_trouble;
use crate::tls::time;
use crate::tls::x509::{self, Leaf};
use http::{HeaderName, HeaderValue};
use rustls::HandshakeKind;
use rustls::pki_types::CertificateDer;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// For clients that speak HTTP where TLS is spoken.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\n\
    content-length: 40\r\n\r\nthis port speaks TLS: ask with https://\n";

/// What the targets are told of a client's certificate: headers that it can't set itself.
pub(super) type Identity = Box<[(HeaderName, HeaderValue)]>;

/// A client whose handshake is done.
pub(super) struct Secured {
    pub(super) stream: Box<TlsStream<Socket>>,
    pub(super) h2: bool,
    pub(super) identity: Option<Identity>,
}

/// Speaks TLS with a client that was just accepted; None when that came to nothing, which is counted.
pub(super) async fn handshake(
    worker: &Rc<Worker>,
    tls: Arc<ListenerTls>,
    socket: Socket,
    peer: SocketAddr,
    listener: &ListenerOutcomes,
) -> Option<Secured> {
    let limits = worker.limits();
    let waiting = worker.handshakes.begin(&worker.clock, worker.share(limits.max_handshakes), limits.handshake_timeout);
    let accept = async {
        if speaks_http(&socket).await {
            return Err((io::ErrorKind::Unsupported.into(), socket));
        }
        TlsAcceptor::from(Arc::clone(&tls.config)).accept(socket).into_fallible().await
    };
    let accepted = within(&waiting.deadline, accept).await;
    let shed = waiting.shed.get();
    drop(waiting);
    let (outcome, secured) = match accepted {
        None => (if shed { Handshake::Shed } else { Handshake::Timeout }, None),
        Some(Ok(stream)) => match secured(&tls, stream) {
            Ok(secured) => secured,
            Err(why) => {
                log_refusal(listener, peer, why);
                (Handshake::Failed, None)
            }
        },
        Some(Err((error, socket))) if error.kind() == io::ErrorKind::Unsupported => {
            log_refusal(listener, peer, "it speaks HTTP without TLS");
            linger(Stream::Plain(socket), NOT_TLS).await;
            (Handshake::Failed, None)
        }
        Some(Err((error, socket))) => {
            match client_trouble(&error) {
                Some(why) => log_refusal(listener, peer, &why),
                None => tracing::debug!(%peer, "TLS handshake failed: {error}"),
            }
            // What the client sent meanwhile is read, or the alert that says why would be lost with a reset.
            if error.kind() == io::ErrorKind::InvalidData {
                linger(Stream::Plain(socket), b"").await;
            }
            (Handshake::Failed, None)
        }
    };
    listener.shards[worker.id].handshakes[outcome as usize].add(1);
    secured
}

/// Whether the client begins with a method's name, as no TLS handshake does.
async fn speaks_http(socket: &Socket) -> bool {
    let mut first = [0];
    matches!(socket.peek(&mut first).await, Ok(1)) && first[0].is_ascii_uppercase()
}

/// Who asks for certificates wants to know, and who mixed up ports; nobody is told of every scan.
pub(super) fn log_refusal(listener: &ListenerOutcomes, peer: impl Display, why: &str) {
    if let Some(more) = listener.may_log_refusal() {
        tracing::info!(%peer, more, "a client is refused: {why}");
    }
}

fn secured(tls: &ListenerTls, stream: TlsStream<Socket>) -> Result<(Handshake, Option<Secured>), &'static str> {
    let session = stream.get_ref().1;
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    let h2 = session.alpn_protocol() == Some(b"h2");
    let identity = match session.peer_certificates().and_then(<[_]>::first) {
        None => None,
        Some(cert) => Some(identity(tls, cert)?),
    };
    let outcome = if resumed { Handshake::Resumed } else { Handshake::Full };
    Ok((outcome, Some(Secured { stream: Box::new(stream), h2, identity })))
}

/// A resumed session shows the certificate of the first handshake, which may have expired since.
fn identity(tls: &ListenerTls, cert: &CertificateDer<'_>) -> Result<Identity, &'static str> {
    let leaf = Leaf::read(cert).ok_or("its certificate is malformed")?;
    if leaf.not_after < time::unix(SystemTime::now()) {
        return Err("its certificate has expired");
    }
    let mut headers = Vec::new();
    // Nobody's name is no name.
    if let Some(header) = tls.subject_header.as_ref().filter(|_| !leaf.subject.is_empty()) {
        let subject = HeaderValue::from_str(&leaf.subject).map_err(|_| "its subject is no header value")?;
        headers.push((header.clone(), subject));
    }
    if let Some(header) = &tls.cert_header {
        let cert = HeaderValue::from_str(&x509::client_cert(cert)).map_err(|_| "its certificate is no header value")?;
        headers.push((header.clone(), cert));
    }
    Ok(headers.into())
}

/// A worker's handshakes under way, the one that has waited longest first.
#[derive(Default)]
pub(super) struct Handshakes {
    queue: RefCell<VecDeque<Weak<Waiting>>>,
    under_way: Cell<usize>,
}

pub(super) struct Waiting {
    deadline: Watch,
    shed: Cell<bool>,
    all: Rc<Handshakes>,
}

impl Handshakes {
    /// Another one, with its time; past `limit` the oldest one's time is over.
    fn begin(self: &Rc<Self>, clock: &Rc<Clock>, limit: usize, timeout: Duration) -> Rc<Waiting> {
        let deadline = Watch::new(clock);
        deadline.due_after(timeout);
        let waiting = Rc::new(Waiting { deadline, shed: Cell::new(false), all: Rc::clone(self) });
        self.under_way.set(self.under_way.get() + 1);
        let mut queue = self.queue.borrow_mut();
        while self.under_way.get() > limit.max(1)
            && let Some(oldest) = queue.pop_front()
        {
            if let Some(oldest) = oldest.upgrade() {
                oldest.shed.set(true);
                oldest.deadline.due_at(clock.now());
                self.under_way.set(self.under_way.get() - 1);
            }
        }
        queue.push_back(Rc::downgrade(&waiting));
        // Those that ended stay in the queue until it is mostly of them.
        if queue.len() > 2 * self.under_way.get() + 64 {
            queue.retain(|waiting| waiting.strong_count() > 0);
        }
        waiting
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.shed.get() {
            self.all.under_way.set(self.all.under_way.get() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Context;

    fn is_over(waiting: &Waiting) -> bool {
        waiting.deadline.poll(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn past_the_limit_the_oldest_goes() {
        let (clock, handshakes) = (Rc::new(Clock::default()), Rc::new(Handshakes::default()));
        let begin = || handshakes.begin(&clock, 3, Duration::from_secs(10));
        let mut all: Vec<_> = (0..3).map(|_| begin()).collect();
        // One that is done makes room.
        drop(all.remove(1));
        all.push(begin());
        assert!(all.iter().all(|waiting| !is_over(waiting)));
        all.push(begin());
        let shed: Vec<bool> = all.iter().map(|waiting| waiting.shed.get() && is_over(waiting)).collect();
        assert_eq!(shed, [true, false, false, false]);
        drop(all);
        assert_eq!(handshakes.under_way.get(), 0);
    }

    #[test]
    fn what_has_ended_does_not_pile_up_behind_one_that_waits() {
        let (clock, handshakes) = (Rc::new(Clock::default()), Rc::new(Handshakes::default()));
        let begin = || handshakes.begin(&clock, 100, Duration::from_secs(10));
        let slow = begin();
        for _ in 0..10_000 {
            begin();
        }
        assert!(handshakes.queue.borrow().len() < 100);
        assert_eq!((handshakes.under_way.get(), is_over(&slow)), (1, false));
    }
}
