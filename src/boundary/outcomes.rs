//! What became of requests: counters that one worker writes and control sums.
//!
//! Each worker has a shard of its own on cache lines of its own, and is its only writer: an addition is a load and a
//! store, without the locked instruction that a shared counter needs. Readers may see one counter a moment before
//! another, never a value that was not written.

use super::clients::Clients;
use super::ejection::{Ejection, EjectionCounts};
use super::labelled::labelled;
use crate::limits::DURATION_BOUNDS_US;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// A counter with a single writer.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    /// For gauges: what was added comes off again.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
    #[inline]
    pub fn load(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Durations in buckets of [`DURATION_BOUNDS_US`] and their sum.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [Count; DURATION_BOUNDS_US.len() + 1],
    sum_us: Count,
}

impl Durations {
    #[inline]
    pub fn observe_us(&self, us: u64) {
        let at = DURATION_BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(DURATION_BOUNDS_US.len());
        self.buckets[at].add(1);
        self.sum_us.add(us);
    }
    /// Adds this shard's buckets (not cumulative) and sum to `into`.
    pub fn sum_into(&self, into: &mut DurationsTotal) {
        for (total, bucket) in into.buckets.iter_mut().zip(&self.buckets) {
            *total += bucket.load();
        }
        into.sum_us += self.sum_us.load();
    }
}

/// Buckets summed over workers; not cumulative, the last is +Inf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DurationsTotal {
    pub buckets: [u64; DURATION_BOUNDS_US.len() + 1],
    pub sum_us: u64,
}

labelled! {
    /// Class of a response's status, or none when no head was sent.
    Code {
        None = "none",
        Informational = "1xx",
        Success = "2xx",
        Redirect = "3xx",
        ClientError = "4xx",
        ServerError = "5xx",
    }
}

impl Code {
    pub fn of_status(status: u16) -> Code {
        match status / 100 {
            1 => Code::Informational,
            2 => Code::Success,
            3 => Code::Redirect,
            4 => Code::ClientError,
            _ => Code::ServerError,
        }
    }
}

labelled! {
    /// Why a request failed, as the metrics' `reason`.
    Reason {
        Connect = "connect",
        Reset = "reset",
        Timeout = "timeout",
        BadResponse = "bad_response",
        NoTarget = "no_target",
        Queue = "queue",
        ClientAbort = "client_abort",
    }
}

labelled! {
    /// Which time was over, of requests with the reason `timeout`, and of those with `client_abort` whose client was
    /// too slow.
    Timeout {
        Connect = "connect",
        Tls = "tls",
        /// The target takes no more of the request.
        Send = "send",
        /// To the response head.
        Head = "response_head",
        /// Between two pieces of the answer.
        Body = "response_body",
        /// For the whole request.
        Request = "request",
        /// The client's body stands still.
        Client = "client",
    }
}

/// One worker's part of a variant's outcomes. The alignment keeps two workers off one pair of cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct VariantShard {
    /// By forced (0, 1), then [`Code`].
    pub requests: [[Count; Code::ALL.len()]; 2],
    pub errors: [Count; Reason::ALL.len()],
    pub timeouts: [Count; Timeout::ALL.len()],
    pub in_flight: Count,
    pub retries: Count,
    /// Requests that the variant failed and the baseline answered.
    pub rescued: Count,
    /// Tunnels that are open: WebSockets and other switched protocols.
    pub tunnels: Count,
    /// Request head read to last byte of the answer handed on.
    pub duration: Durations,
    /// Request handed to the upstream side (queue and connect included) to the response head.
    pub upstream: Durations,
}

/// A route's variant, counted by every worker. Kept across tables: counters never go back.
#[derive(Debug)]
pub struct VariantOutcomes {
    pub shards: Box<[VariantShard]>,
}

impl VariantOutcomes {
    pub fn new(workers: usize) -> VariantOutcomes {
        VariantOutcomes { shards: (0..workers).map(|_| VariantShard::default()).collect() }
    }
    pub fn total(&self) -> VariantTotal {
        let mut total = VariantTotal::default();
        for shard in &self.shards {
            for (sums, counts) in total.requests.iter_mut().zip(&shard.requests) {
                for (sum, count) in sums.iter_mut().zip(counts) {
                    *sum += count.load();
                }
            }
            for (sum, count) in total.errors.iter_mut().zip(&shard.errors) {
                *sum += count.load();
            }
            for (sum, count) in total.timeouts.iter_mut().zip(&shard.timeouts) {
                *sum += count.load();
            }
            total.in_flight = total.in_flight.wrapping_add(shard.in_flight.load());
            total.retries += shard.retries.load();
            total.rescued += shard.rescued.load();
            total.tunnels = total.tunnels.wrapping_add(shard.tunnels.load());
            shard.duration.sum_into(&mut total.duration);
            shard.upstream.sum_into(&mut total.upstream);
        }
        total
    }
}

/// A variant's counters summed over workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VariantTotal {
    pub requests: [[u64; 6]; 2],
    pub errors: [u64; 7],
    pub timeouts: [u64; Timeout::ALL.len()],
    pub in_flight: u64,
    pub retries: u64,
    pub rescued: u64,
    pub tunnels: u64,
    pub duration: DurationsTotal,
    pub upstream: DurationsTotal,
}

#[derive(Debug, Default)]
#[repr(align(128))]
pub struct TargetShard {
    pub connects: Count,
    pub connect_failures: Count,
    pub in_flight: Count,
}

/// A pool's target, counted by every worker.
#[derive(Debug)]
pub struct TargetOutcomes {
    pub shards: Box<[TargetShard]>,
    pub ejected: EjectionCounts,
    failures: LogGate,
}

/// What workers know of one of a target's addresses, for as long as it is one.
#[derive(Debug)]
pub struct AddressOutcomes {
    pub shards: Box<[AddressShard]>,
    pub ejection: Ejection,
}

#[derive(Debug, Default)]
#[repr(align(128))]
pub struct AddressShard {
    /// Consecutive failed connects; 0 after one that succeeded.
    pub failing: Count,
}

impl AddressOutcomes {
    pub fn new(workers: usize) -> AddressOutcomes {
        let shards = (0..workers).map(|_| AddressShard::default()).collect();
        AddressOutcomes { shards, ejection: Ejection::default() }
    }

    /// Down when some worker's last connect failed and none succeeded since there, and while it is ejected.
    pub fn is_up(&self) -> bool {
        !self.ejection.is_out() && self.shards.iter().all(|shard| shard.failing.load() == 0)
    }
}

/// Lets one message a second through, whichever worker has it, and counts the others. For failures only: it is shared.
#[derive(Debug)]
struct LogGate {
    since: Instant,
    /// The second after `since` from which the next message may pass.
    open_at: AtomicU64,
    held_back: AtomicU64,
}

impl Default for LogGate {
    fn default() -> LogGate {
        LogGate { since: Instant::now(), open_at: AtomicU64::new(0), held_back: AtomicU64::new(0) }
    }
}

impl LogGate {
    fn pass(&self) -> Option<u64> {
        let now = self.since.elapsed().as_secs();
        let open = |at| (at <= now).then_some(now + 1);
        match self.open_at.fetch_update(Relaxed, Relaxed, open) {
            Ok(_) => Some(self.held_back.swap(0, Relaxed)),
            Err(_) => {
                self.held_back.fetch_add(1, Relaxed);
                None
            }
        }
    }
}

impl TargetOutcomes {
    pub fn new(workers: usize) -> TargetOutcomes {
        let shards = (0..workers).map(|_| TargetShard::default()).collect();
        TargetOutcomes { shards, ejected: EjectionCounts::default(), failures: LogGate::default() }
    }
    /// Whether a failure may be logged now, at most one a second; then how many were not since the last.
    pub fn may_log_failure(&self) -> Option<u64> {
        self.failures.pass()
    }
}

labelled! {
    /// How a client's TLS handshake ended, as the metrics' `outcome`.
    Handshake {
        Full = "full",
        /// With a session of before.
        Resumed = "resumed",
        Failed = "failed",
        Timeout = "timeout",
        /// Closed for newer ones, past the limit.
        Shed = "shed",
    }
}

labelled! {
    /// Why a connection's PROXY protocol header was not taken, as the metrics' `reason`.
    RefusedPreface {
        /// From somebody who is no trusted proxy.
        Untrusted = "untrusted",
        Malformed = "malformed",
        Timeout = "timeout",
    }
}

/// One worker's part of a listener's numbers.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ListenerShard {
    pub open: Count,
    pub accepted: Count,
    /// Accepting paused at the connection limit.
    pub paused: Count,
    /// The system had no descriptor or memory for a client.
    pub accept_failures: Count,
    /// Connections closed for a request that could not be read, a failed TLS handshake, or a refused PROXY
    /// protocol header.
    pub rejected: Count,
    /// Connections closed because their client had as many as it may.
    pub greedy: Count,
    /// Those of them whose request head did not come whole in time.
    pub late_heads: Count,
    /// Those of them cut off for a flood of HTTP/2 frames.
    pub floods: Count,
    /// By [`Handshake`].
    pub handshakes: [Count; Handshake::ALL.len()],
    /// By [`RefusedPreface`].
    pub prefaces: [Count; RefusedPreface::ALL.len()],
}

#[derive(Debug)]
pub struct ListenerOutcomes {
    pub shards: Box<[ListenerShard]>,
    /// Connections by client, of a listener that limits them.
    pub clients: OnceLock<Clients>,
    refusals: LogGate,
}

impl ListenerOutcomes {
    pub fn new(workers: usize) -> ListenerOutcomes {
        ListenerOutcomes {
            shards: (0..workers).map(|_| ListenerShard::default()).collect(),
            clients: OnceLock::new(),
            refusals: LogGate::default(),
        }
    }
    /// Open connections, of all workers.
    pub fn open(&self) -> u64 {
        self.shards.iter().fold(0, |sum, shard| sum.wrapping_add(shard.open.load()))
    }
    /// Whether a client's refusal may be logged now, at most one a second; then how many were not since the last.
    pub fn may_log_refusal(&self) -> Option<u64> {
        self.refusals.pass()
    }
}

/// What a worker counts that belongs to no route: requests that matched none, and Weir's own time.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerShard {
    /// Sweeps of the worker's clock: one that stands still is stuck.
    pub beats: Count,
    pub unrouted: Count,
    /// How busy the worker is, in thousandths of its time over about a second.
    pub busy: Count,
    /// Client connections that it has or is being given. Other workers that hand it one write here, too.
    pub open: AtomicU64,
    /// Connections that it has accepted and another worker got.
    pub handed_over: Count,
    /// Request head read to the request being handed to the upstream side: Weir's own time.
    pub overhead: Durations,
}

#[derive(Debug)]
pub struct WorkerOutcomes {
    pub shards: Box<[WorkerShard]>,
}

impl WorkerOutcomes {
    pub fn new(workers: usize) -> WorkerOutcomes {
        WorkerOutcomes { shards: (0..workers).map(|_| WorkerShard::default()).collect() }
    }
}
