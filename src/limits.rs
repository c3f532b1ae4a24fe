//! Every upper bound that is not the operator's to choose, in one place, with the relations they must keep.

use std::time::Duration;

/// Buckets that a route's clients fall into: 0.001 % each.
pub const BUCKETS: u32 = 100_000;
/// Variants a route may have; the table keeps a variant as one byte.
pub const VARIANTS_PER_ROUTE: usize = 64;
/// Fields that a route's `request_headers` or `response_headers` may change, and the longest value there, in bytes.
pub const HEADER_EDITS: usize = 100;
pub const HEADER_VALUE_BYTES: usize = 8 * 1024;
/// The longest file that a route answers with, in bytes; each worker has a copy.
pub const RESPOND_FILE_BYTES: u64 = 1024 * 1024;
/// The longest request body that is read and dropped where a route answers by itself, in bytes.
pub const DROPPED_BODY_BYTES: u64 = 64 * 1024;
/// How much of a request's body is kept until its answer begins, in bytes, so that a target of HTTP/2 that says that it
/// did nothing with the request can be sent it again, or a route's retry or rescue another; and how often it may say so.
pub const REPEATED_BODY_BYTES: usize = 64 * 1024;
pub const REFUSALS: usize = 8;
/// The longest sticky key that is hashed, in bytes; a longer value counts as absent.
pub const STICKY_KEY_BYTES: usize = 4096;
/// The longest bearer token that a sticky key is looked for in, in bytes.
pub const TOKEN_BYTES: usize = 8 * 1024;
/// The largest file of a rule's `in_file`, in bytes, and the most lines that it may have.
pub const LIST_BYTES: u64 = 256 * 1024 * 1024;
pub const LIST_LINES: usize = 10_000_000;
/// How often the files of `in_file` are looked at. A changed one is read when two looks in a row find the same, or
/// after this many that found it changing.
pub const LIST_INTERVAL: Duration = Duration::from_secs(1);
pub const LIST_LOOKS: u32 = 10;
/// The largest regular expression when compiled, in bytes, and all of a configuration together.
pub const REGEX_BYTES: usize = 10 * 1024 * 1024;
pub const ALL_REGEX_BYTES: usize = 256 * 1024 * 1024;
/// The memory that a regular expression may take for its search, in bytes, a worker.
pub const REGEX_SEARCH_BYTES: usize = 256 * 1024;
/// The longest admin request body, in bytes.
pub const ADMIN_BODY_BYTES: usize = 1024 * 1024;
/// Admin connections served at once, a listening address.
pub const ADMIN_CONNECTIONS: usize = 256;
/// The longest that an admin client may take to send a request's head, and then its body.
pub const ADMIN_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// New connections that a worker hands over to others within a second.
pub const HANDOVERS_PER_SECOND: usize = 64;
/// Descriptors held for admin clients, a listening address.
pub const RESERVED_DESCRIPTORS: usize = 8;
/// An admin connection is closed after this long, so that slow readers don't hold the places for ever.
pub const ADMIN_CONNECTION_AGE: Duration = Duration::from_secs(120);
/// The longest reason for a change, in bytes.
pub const REASON_BYTES: usize = 1024;
/// Revisions kept of a route.
pub const HISTORY_PER_ROUTE: usize = 200;
/// Of all routes together: revisions, and the bytes of their records.
pub const HISTORY_REVISIONS: usize = 50_000;
pub const HISTORY_BYTES: usize = 32 * 1024 * 1024;
/// How old a revision may get.
pub const HISTORY_AGE: Duration = Duration::from_secs(400 * 24 * 60 * 60);
/// A route's newest revisions, the present one and the one before, stay whatever the total and their age.
pub const HISTORY_KEPT: usize = 2;
/// The audit log is put aside when it would grow past this, in bytes; one older one is kept.
pub const AUDIT_BYTES: u64 = 32 * 1024 * 1024;
/// How many refused changes of one actor get a line in the audit log within [`REFUSAL_WINDOW`].
pub const REFUSALS_PER_ACTOR: u32 = 10;
pub const REFUSAL_WINDOW: Duration = Duration::from_secs(60);
/// The longest that a target may take to accept the connection that a switch asks it for.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that a switch opens at once.
pub const PROBES: usize = 256;
/// Health checks of a pool under way at once.
pub const CHECKS_AT_ONCE: usize = 256;
/// Standings that checks change are published this far apart, so that targets that come and go do not keep every worker busy.
pub const CHECKS_APART: Duration = Duration::from_millis(50);
/// What is read of a health check's answer, in bytes.
pub const HEALTH_BODY_BYTES: usize = 64 * 1024;
/// The longest that a start waits for the first checks.
pub const FIRST_CHECKS_WAIT: Duration = Duration::from_secs(3);
/// The longest that a process may take to take this one's place, if nothing else is said; and the most that may be said.
/// Less than an admin connection's age.
pub const UPGRADE_TIMEOUT: Duration = Duration::from_secs(30);
pub const UPGRADE_TIMEOUT_MOST: Duration = Duration::from_secs(100);
/// Addresses that are used of one name: each is a target.
pub const ADDRESSES_PER_NAME: usize = 256;
/// Idempotency keys remembered, and for how long.
pub const IDEMPOTENCY_KEYS: usize = 1024;
pub const IDEMPOTENCY_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Routes that an explanation tells of beside the one that took the request, and rules of that route.
pub const EXPLAIN_ROUTES: usize = 20;
pub const EXPLAIN_RULES: usize = 50;
/// How soon a name that could not be looked up is tried again, and one that the hosts file has; within `dns.min_ttl` and
/// `dns.max_ttl`.
pub const RESOLVE_RETRY: Duration = Duration::from_secs(5);
pub const RESOLVE_HOSTS: Duration = Duration::from_secs(5);
/// The longest until a new configuration's names are looked at.
pub const RESOLVE_LOOK: Duration = Duration::from_secs(1);
/// How often at most it is looked which names are due.
pub const RESOLVE_GRAIN: Duration = Duration::from_millis(20);
/// Look-ups of names under way at once.
pub const LOOKUPS_AT_ONCE: usize = 64;
/// How often a worker looks at its connections' deadlines; the grain of every time-out there.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(50);
/// An idle client connection gives its buffers back after this long.
pub const PARK_AFTER: Duration = Duration::from_millis(100);
/// An idle upstream connection is closed after this long, below the 60–75 s at which servers close theirs.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(50);
/// Copies of requests for mirrors that a worker has under way at once, and the bytes that it holds for them; further
/// ones are dropped.
pub const MIRRORS_PER_WORKER: usize = 256;
pub const MIRROR_BYTES_PER_WORKER: usize = 8 * 1024 * 1024;
/// The longest body that a mirror can be told to take.
pub const MIRROR_BODY_BYTES: usize = 4 * 1024 * 1024;
/// What is read of the answer to a copy; past it the connection is closed instead.
pub const MIRROR_ANSWER_BYTES: usize = 256 * 1024;
/// The shortest body that is compressed, in bytes: less fits a packet either way.
pub const COMPRESS_FROM_BYTES: u64 = 1024;
/// What one answer's compressor takes in before other tasks of the worker have their turn, in bytes, and what it hands on
/// at once.
pub const COMPRESS_TURN_BYTES: usize = 32 * 1024;
pub const COMPRESS_OUTPUT_BYTES: usize = 16 * 1024;
/// Answers that a worker compresses at once; further ones go as they are.
pub const COMPRESSORS_PER_WORKER: usize = 256;
/// How often the files of certificates are looked at.
pub const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(1);
/// How long before a certificate expires it is warned of.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(21 * 24 * 60 * 60);
/// Requests at once on one HTTP/2 connection to a target; further ones open another.
pub const UPSTREAM_STREAMS: usize = 100;
/// The longest PROXY protocol header that is read, in bytes. Version 2 could announce 64 KiB; what is sent has addresses,
/// names and at most a certificate.
pub const PREFACE_BYTES: usize = 16 * 1024;
/// Upper bounds of the duration histograms, in microseconds; the last bucket is +Inf.
pub const DURATION_BOUNDS_US: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

/// Buckets of the durations that a rollout is judged by: up to the first bound, in microseconds, and each so much wider.
pub const JUDGED_BUCKETS: usize = 340;
pub const JUDGED_FIRST_US: u64 = 100;
pub const JUDGED_GROWTH: f64 = 1.04;
/// Quantiles of which slow requests are counted when they become slow; of further ones, when they end.
pub const JUDGED_QUANTILES: usize = 4;
/// Cells that failing clients of a route with sticky clients are known by, a variant.
pub const JUDGED_KEYS: usize = 65_536;
/// After a candidate's failure was looked at, the next wakes the judge again after this long.
pub const POKE_INTERVAL: Duration = Duration::from_millis(20);
/// Events of rollouts that are kept for who follows them and was away for a while.
pub const EVENTS_KEPT: usize = 1024;
/// How often a rollout under way is judged without any failure.
pub const JUDGE_INTERVAL: Duration = Duration::from_secs(1);

const _: () = assert!(VARIANTS_PER_ROUTE <= u8::MAX as usize);
const _: () = assert!(SWEEP_INTERVAL.as_millis() <= PARK_AFTER.as_millis());
const _: () = assert!(REASON_BYTES < ADMIN_BODY_BYTES);
const _: () = assert!(HISTORY_KEPT >= 2 && HISTORY_KEPT < HISTORY_PER_ROUTE);
const _: () = assert!(HISTORY_PER_ROUTE < HISTORY_REVISIONS);
// A reason's bytes may be written as six each.
const _: () = assert!(HISTORY_PER_ROUTE * 6 * REASON_BYTES < HISTORY_BYTES && ADMIN_BODY_BYTES < AUDIT_BYTES as usize);
const _: () = assert!(PROBE_TIMEOUT.as_millis() < ADMIN_CONNECTION_AGE.as_millis());
const _: () = assert!(UPGRADE_TIMEOUT_MOST.as_millis() < ADMIN_CONNECTION_AGE.as_millis());
// A value's place in a list is 32 bits.
const _: () = assert!(LIST_BYTES < u32::MAX as u64);
const _: () = assert!(REGEX_BYTES <= ALL_REGEX_BYTES);
const _: () = assert!(2 * MIRROR_BODY_BYTES <= MIRROR_BYTES_PER_WORKER);
const _: () = assert!(MIRRORS_PER_WORKER > 0 && MIRROR_ANSWER_BYTES > 0);
const _: () = assert!(COMPRESS_OUTPUT_BYTES <= COMPRESS_TURN_BYTES && COMPRESSORS_PER_WORKER > 0);
// Room for the longest addresses, two paths of unix sockets.
const _: () = assert!(PREFACE_BYTES >= 16 + 2 * 108);
const _: () = assert!(POKE_INTERVAL.as_millis() * 2 < 100);
const _: () = assert!(DURATION_BOUNDS_US[0] == 500 && DURATION_BOUNDS_US[15] == 60_000_000);

/// The operator's `[limits]`, with its defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_connections: usize,
    pub max_header_bytes: usize,
    pub max_headers: usize,
    /// None: unlimited.
    pub max_body: Option<u64>,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub body_idle_timeout: Duration,
    /// No byte either way in a WebSocket or another tunnel.
    pub tunnel_idle_timeout: Duration,
    /// HTTP/2 concurrent streams a connection.
    pub max_streams: u32,
    /// From accept to the end of a TLS handshake.
    pub handshake_timeout: Duration,
    /// TLS handshakes under way, of the whole process.
    pub max_handshakes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: 10_000,
            max_header_bytes: 64 * 1024,
            max_headers: 100,
            max_body: None,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_idle_timeout: Duration::from_secs(30),
            tunnel_idle_timeout: Duration::from_secs(60 * 60),
            max_streams: 128,
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 1_000,
        }
    }
}
