//! The PROXY protocol on both sides: for whom a client's connection is, as a trusted proxy says before all else, and what
//! targets are told of that.
//!
//! A target takes what a connection's first bytes say for all that comes on it, so a connection that says whose it is
//! serves that client's connection only.

use super::clock::{Tick, Watch};
use super::connection::DRAIN_GRACE;
use super::socket::Socket;
use super::worker::Worker;
use crate::boundary::outcomes::{ListenerOutcomes, RefusedPreface};
use crate::limits::PREFACE_BYTES;
use crate::net::address::canonical;
use crate::net::proxy_protocol::{self, Accepts, Malformed, Origin, Parsed, Version};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::{Rc, Weak};
use std::task::Poll;
use tokio::io::AsyncReadExt;

/// Room for all prefaces but those with long TLVs.
const FIRST_BYTES: usize = 256;

/// Who is at the other end of a client connection.
pub(super) struct Peer {
    pub(super) from: SocketAddr,
    /// Where it connected to, if somebody may want to know. Boxed: most clients' is not asked for.
    to: Option<Box<SocketAddr>>,
    /// `from` is not the client's, only what it counts as.
    nameless: bool,
    /// A proxy has passed the connection on without saying for whom: what comes on it is not the proxy's word.
    hidden: bool,
}

impl Peer {
    /// By the socket itself; `from` is None for a unix socket.
    pub(super) fn new(socket: &Socket, from: Option<SocketAddr>, wants_to: bool) -> Peer {
        let to = if wants_to { socket.local_addr().map(Box::new) } else { None };
        let nameless = from.is_none();
        Peer { from: from.map_or(super::socket::LOCAL_CLIENT, canonical), to, nameless, hidden: false }
    }

    pub(super) fn ip(&self) -> IpAddr {
        self.from.ip()
    }

    /// The address is the client's own, as far as is known.
    pub(super) fn is_named(&self) -> bool {
        !self.nameless
    }

    /// What it says of earlier hops may be its own word, if it is trusted.
    pub(super) fn speaks_for_itself(&self) -> bool {
        !self.hidden
    }

    /// As a trusted proxy says. Its own connection is as it looks.
    fn said(self, origin: Origin) -> Peer {
        match origin {
            Origin::Own => self,
            Origin::Unknown => Peer { nameless: true, hidden: true, ..self },
            Origin::Client { from, to } => {
                Peer { from: canonical(from), to: Some(Box::new(canonical(to))), nameless: false, hidden: false }
            }
        }
    }

    /// For targets.
    pub(super) fn origin(&self) -> Origin {
        if self.nameless {
            return Origin::Unknown;
        }
        // Nobody asked where it connected to when it did.
        let any = || match self.from.ip() {
            IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        Origin::Client { from: self.from, to: self.to.as_deref().copied().unwrap_or_else(any) }
    }
}

/// Reads the preface of a connection just accepted. None when there is no valid one, which is counted: the connection is
/// closed without an answer then.
pub(super) async fn read(
    worker: &Worker,
    socket: &mut Socket,
    peer: Peer,
    accepts: Accepts,
    listener: &ListenerOutcomes,
) -> Option<Peer> {
    let refuse = |reason: RefusedPreface, why: &str| {
        let shard = &listener.shards[worker.id];
        shard.prefaces[reason as usize].add(1);
        shard.rejected.add(1);
        if let Some(more) = listener.may_log_refusal() {
            tracing::info!(peer = %peer.from, more, "a connection is closed: {why}");
        }
    };
    if !worker.trusts(peer.ip()) {
        refuse(RefusedPreface::Untrusted, "its sender is no trusted proxy, and the listener takes the PROXY protocol");
        return None;
    }
    match in_time(worker, take(socket, accepts)).await {
        Some(Ok(origin)) => return Some(peer.said(origin)),
        Some(Err(Failed::Malformed(malformed))) => refuse(RefusedPreface::Malformed, &malformed.to_string()),
        Some(Err(Failed::Cut)) => refuse(RefusedPreface::Malformed, "it ended within the PROXY protocol header"),
        // Balancers look whether a port is open.
        Some(Err(Failed::Gone)) => {}
        None if worker.draining.get() => {}
        None => refuse(RefusedPreface::Timeout, "no whole PROXY protocol header came in time"),
    }
    None
}

/// None when the time for a head is over; on a drain there is less.
async fn in_time<T>(worker: &Worker, reading: impl Future<Output = T>) -> Option<T> {
    let end: Tick = worker.clock.now().after(worker.limits().header_timeout);
    let deadline = Watch::new(&worker.clock);
    deadline.due_at(end);
    let mut reading = std::pin::pin!(reading);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = reading.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if worker.draining.get() {
            deadline.due_at(end.min(worker.drain_began.get().after(DRAIN_GRACE)));
        }
        deadline.poll(cx).map(|()| None)
    })
    .await
}

enum Failed {
    Malformed(Malformed),
    /// Closed in the midst.
    Cut,
    /// Closed, or broken, with nothing sent.
    Gone,
}

/// Takes the preface and not a byte more: what follows may be a TLS handshake.
async fn take(socket: &mut Socket, accepts: Accepts) -> Result<Origin, Failed> {
    let mut bytes = vec![0; FIRST_BYTES];
    let mut held = 0;
    loop {
        let failed = |_: io::Error| if held == 0 { Failed::Gone } else { Failed::Cut };
        let seen = held + socket.peek(&mut bytes[held..]).await.map_err(failed)?;
        if seen == held {
            return Err(if held == 0 { Failed::Gone } else { Failed::Cut });
        }
        let parsed = proxy_protocol::parse(&bytes[..seen], accepts).map_err(Failed::Malformed)?;
        let end = match parsed {
            Parsed::More => seen,
            Parsed::Whole { length, .. } => length,
        };
        socket.read_exact(&mut bytes[held..end]).await.map_err(failed)?;
        held = end;
        if let Parsed::Whole { origin, .. } = parsed {
            return Ok(origin);
        }
        if held == bytes.len() {
            bytes.resize((4 * held).min(PREFACE_BYTES), 0);
        }
    }
}

/// The client connection that a request came on: whose connections to targets it may use.
pub(super) type Owner = Rc<Origin>;

/// Whose a connection to a target is.
pub(super) enum Owned {
    /// It has no preface: anybody's.
    Shared,
    /// Weir's own, by its preface.
    Own,
    By(Weak<Origin>),
}

impl Owned {
    /// The owner that a new connection gets.
    pub(super) fn of(send_proxy: Option<Version>, owner: Option<&Owner>) -> Owned {
        match (send_proxy, owner) {
            (None, _) => Owned::Shared,
            (Some(_), None) => Owned::Own,
            (Some(_), Some(owner)) => Owned::By(Rc::downgrade(owner)),
        }
    }

    pub(super) fn is_for(&self, owner: Option<&Owner>) -> bool {
        match (self, owner) {
            (Owned::Shared, _) | (Owned::Own, None) => true,
            (Owned::By(own), Some(owner)) => std::ptr::eq(own.as_ptr(), Rc::as_ptr(owner)),
            _ => false,
        }
    }

    /// The owner's connection is closed: nobody can use this one again.
    pub(super) fn is_orphaned(&self) -> bool {
        matches!(self, Owned::By(owner) if owner.strong_count() == 0)
    }
}

/// The first bytes of a connection to a target.
pub(super) fn preface(version: Version, socket: &Socket, owner: Option<&Owner>) -> Vec<u8> {
    match owner {
        Some(origin) => proxy_protocol::encode(version, **origin),
        None => proxy_protocol::encode_own(version, socket.ends()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        let to = Some(Box::new("10.0.0.2:443".parse().unwrap()));
        Peer { from: "10.0.0.1:5".parse().unwrap(), to, nameless: false, hidden: false }
    }

    #[test]
    fn a_peer_is_whom_the_proxy_says() {
        let (from, to): (SocketAddr, SocketAddr) =
            ("[::ffff:192.0.2.7]:9".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap());
        let said = peer().said(Origin::Client { from, to });
        assert_eq!(said.origin(), Origin::Client { from: "192.0.2.7:9".parse().unwrap(), to });
        assert!(said.speaks_for_itself());
        let own = peer().said(Origin::Own);
        let between = Origin::Client { from: "10.0.0.1:5".parse().unwrap(), to: "10.0.0.2:443".parse().unwrap() };
        assert_eq!((own.origin(), own.speaks_for_itself()), (between, true));
    }

    #[test]
    fn a_hidden_client_is_nobody_to_targets_and_not_the_proxy() {
        let hidden = peer().said(Origin::Unknown);
        assert_eq!((hidden.origin(), hidden.speaks_for_itself()), (Origin::Unknown, false));
        assert_eq!(hidden.ip(), IpAddr::from([10, 0, 0, 1]));
    }

    #[test]
    fn a_connection_is_its_owners_while_there_is_one() {
        let (one, other) = (Rc::new(Origin::Own), Rc::new(Origin::Own));
        let owned = Owned::of(Some(Version::V2), Some(&one));
        assert!(owned.is_for(Some(&one)) && !owned.is_for(Some(&other)) && !owned.is_for(None));
        assert!(!owned.is_orphaned());
        drop(one);
        assert!(owned.is_orphaned());
        let own = Owned::of(Some(Version::V1), None);
        assert!(own.is_for(None) && !own.is_for(Some(&other)) && !own.is_orphaned());
        let shared = Owned::of(None, Some(&other));
        assert!(shared.is_for(None) && shared.is_for(Some(&other)) && !shared.is_orphaned());
    }
}
