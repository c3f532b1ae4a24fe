//! New connections that go to another worker than the one the kernel chose.
//!
//! The kernel spreads connections by a hash, so that a few long-lived ones, each with many requests, may all meet on one
//! worker. A worker that has clearly more to do than another hands what it accepts over, a bounded number a second: where
//! connections come and go quickly, their number spreads them well enough and each stays where it was accepted.

use super::socket::Socket;
use crate::boundary::outcomes::{WorkerOutcomes, WorkerShard};
use crate::limits::HANDOVERS_PER_SECOND;
use crate::routing::skew::{Load, less_loaded};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// An accepted connection on its way to another worker.
pub struct Handed {
    socket: Bare,
    pub(super) from: Option<SocketAddr>,
    /// The listener's place among all.
    pub(super) listener: usize,
}

/// A socket of no runtime.
enum Bare {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// One worker's ends of the ways between workers.
pub struct Handovers {
    to: Vec<UnboundedSender<Handed>>,
    from: UnboundedReceiver<Handed>,
}

/// One for each worker.
pub fn handovers(workers: usize) -> Vec<Handovers> {
    let (to, from): (Vec<_>, Vec<_>) = (0..workers).map(|_| unbounded_channel()).unzip();
    from.into_iter().map(|from| Handovers { to: to.clone(), from }).collect()
}

impl Handed {
    pub(super) fn socket(self) -> io::Result<Socket> {
        Ok(match self.socket {
            Bare::Tcp(tcp) => Socket::Tcp(TcpStream::from_std(tcp)?),
            Bare::Unix(unix) => Socket::Unix(UnixStream::from_std(unix)?),
        })
    }
}

impl Handovers {
    pub(super) fn split(self) -> (Sending, UnboundedReceiver<Handed>) {
        (Sending { to: self.to, left: Cell::new(HANDOVERS_PER_SECOND) }, self.from)
    }
}

/// A worker's ways to the others.
pub(super) struct Sending {
    to: Vec<UnboundedSender<Handed>>,
    /// How many more it may hand over within this second.
    left: Cell<usize>,
}

impl Sending {
    pub(super) fn next_second(&self) {
        self.left.set(HANDOVERS_PER_SECOND);
    }

    /// The worker that should have a new connection of `own`; None when it stays.
    pub(super) fn receiver(&self, own: usize, room: usize, outcomes: &WorkerOutcomes) -> Option<usize> {
        if self.to.len() < 2 || self.left.get() == 0 {
            return None;
        }
        let load = |shard: &WorkerShard| Load { busy: shard.busy.load(), open: shard.open.load(Relaxed) };
        let loads: Vec<_> = outcomes.shards.iter().map(load).collect();
        less_loaded(own, &loads).filter(|to| loads[*to].open < room as u64)
    }

    /// Gives the socket back where it can't be handed over: the other worker stops.
    pub(super) fn send(
        &self,
        to: usize,
        socket: Socket,
        from: Option<SocketAddr>,
        listener: usize,
    ) -> io::Result<Option<Socket>> {
        let socket = match socket {
            Socket::Tcp(tcp) => Bare::Tcp(tcp.into_std()?),
            Socket::Unix(unix) => Bare::Unix(unix.into_std()?),
        };
        match self.to[to].send(Handed { socket, from, listener }) {
            Ok(()) => {
                self.left.set(self.left.get() - 1);
                Ok(None)
            }
            Err(returned) => returned.0.socket().map(Some),
        }
    }
}

/// How busy a worker's thread is, as its runtime counts.
pub(super) struct Busy {
    runtime: tokio::runtime::RuntimeMetrics,
    last: Cell<(Instant, Duration)>,
    thousandths: Cell<u64>,
}

impl Busy {
    /// Of the runtime that this is called on.
    pub(super) fn new() -> Busy {
        let runtime = tokio::runtime::Handle::current().metrics();
        Busy { runtime, last: Cell::new((Instant::now(), Duration::ZERO)), thousandths: Cell::new(0) }
    }

    /// Thousandths of the time, over about a second; asked once a sweep.
    pub(super) fn measure(&self) -> u64 {
        let (now, busy) = (Instant::now(), self.runtime.worker_total_busy_duration(0));
        let (then, before) = self.last.replace((now, busy));
        let passed = (now - then).as_micros().max(1);
        let share = (busy.saturating_sub(before).as_micros() * 1000 / passed).min(1000);
        let share = u64::try_from(share).unwrap_or(1000);
        self.thousandths.set((self.thousandths.get() * 15 + share) / 16);
        self.thousandths.get()
    }
}
