//! Every upper bound that is not the operator's to choose, in one place, with the relations they must keep.

use std::time::Duration;

/// Buckets that a route's clients fall into: 0.001 % each.
pub const BUCKETS: u32 = 100_000;
/// Variants a route may have; the table keeps a variant as one byte.
pub const VARIANTS_PER_ROUTE: usize = 64;
/// The longest sticky key that is hashed, in bytes; a longer value counts as absent.
pub const STICKY_KEY_BYTES: usize = 4096;
/// The longest admin request body, in bytes.
pub const ADMIN_BODY_BYTES: usize = 1024 * 1024;
/// Admin connections served at once, a listening address.
pub const ADMIN_CONNECTIONS: usize = 256;
/// The longest that an admin client may take to send a request's head, and then its body.
pub const ADMIN_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// An admin connection is closed after this long, so that slow readers don't hold the places for ever.
pub const ADMIN_CONNECTION_AGE: Duration = Duration::from_secs(120);
/// The longest reason for a change, in bytes.
pub const REASON_BYTES: usize = 1024;
/// Idempotency keys remembered, and for how long.
pub const IDEMPOTENCY_KEYS: usize = 1024;
pub const IDEMPOTENCY_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Routes that an explanation tells of beside the one that took the request, and rules of that route.
pub const EXPLAIN_ROUTES: usize = 20;
pub const EXPLAIN_RULES: usize = 50;
/// How often targets' names are looked up, and the longest that one lookup may take.
pub const RESOLVE_INTERVAL: Duration = Duration::from_secs(5);
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a worker looks at its connections' deadlines; the grain of every time-out there.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(50);
/// An idle client connection gives its buffers back after this long.
pub const PARK_AFTER: Duration = Duration::from_millis(100);
/// An idle upstream connection is closed after this long, below the 60–75 s at which servers close theirs.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(50);
/// How often the files of certificates are looked at.
pub const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(1);
/// How long before a certificate expires it is warned of.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(21 * 24 * 60 * 60);
/// Requests at once on one HTTP/2 connection to a target; further ones open another.
pub const UPSTREAM_STREAMS: usize = 100;
/// Upper bounds of the duration histograms, in microseconds; the last bucket is +Inf.
pub const DURATION_BOUNDS_US: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

const _: () = assert!(VARIANTS_PER_ROUTE <= u8::MAX as usize);
const _: () = assert!(SWEEP_INTERVAL.as_millis() <= PARK_AFTER.as_millis());
const _: () = assert!(REASON_BYTES < ADMIN_BODY_BYTES);
const _: () = assert!(RESOLVE_TIMEOUT.as_millis() < RESOLVE_INTERVAL.as_millis());
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
