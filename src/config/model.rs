//! The configuration as the rest of Weir takes it: valid by construction, names resolved, defaults filled in.

use super::list::ListFile;
use super::provenance::Provenance;
use super::rollout::RolloutConfig;
use crate::limits::Limits;
use crate::net::proxy_protocol::{Accepts, Version};
use crate::routing::balance::Balance;
use crate::routing::filters::Filters;
use crate::routing::mirror::Mirror;
use crate::routing::outlier::Outlier;
use crate::routing::recovery::Recovery;
use crate::routing::{matcher::RequestMatch, rule::Condition, rule::Rule, split::Weight, sticky::Sticky};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from, absolute.
    pub path: PathBuf,
    pub server: Server,
    pub limits: Limits,
    pub admin: Admin,
    pub log: Log,
    pub dns: Dns,
    pub listeners: Vec<Listener>,
    pub pools: Vec<PoolConfig>,
    pub routes: Vec<RouteConfig>,
    /// Where all this is written.
    pub provenance: Arc<Provenance>,
    /// The files of `in_file`, each once. Rules and matches have their content.
    pub lists: Vec<ListFile>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// None: one per CPU this process may use.
    pub workers: Option<usize>,
    pub drain_timeout: Duration,
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Absolute; None: memory only.
    pub state_dir: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    pub listen: Vec<AdminAddr>,
    pub metrics: Option<SocketAddr>,
    pub tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddr {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// `Debug` shows the hash; the token itself is never known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub name: String,
    pub role: Role,
    pub sha256: [u8; 32],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Viewer,
    Operator,
    Admin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// error, warn, info, debug or trace.
    pub level: String,
    pub json: bool,
}

/// How targets' names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Empty: those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    /// What an answer says of how long it holds is taken within these.
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    /// For one look-up, whatever is asked on the way.
    pub timeout: Duration,
}

impl Default for Dns {
    fn default() -> Dns {
        Dns {
            servers: Vec::new(),
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(300),
            timeout: Duration::from_secs(3),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: String,
    pub bind: Bind,
    /// Every connection begins with a PROXY protocol header of these versions.
    pub proxy_protocol: Option<Accepts>,
    /// Of the whole process.
    pub max_connections: Option<usize>,
    pub max_connections_per_client: Option<u32>,
    pub tls: Option<ListenerTls>,
}

/// Where a listener's clients come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    Tcp(SocketAddr),
    Unix {
        path: PathBuf,
        mode: u32,
    },
    /// The sockets that systemd hands over by this name.
    Passed(String),
}

impl std::fmt::Display for Bind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bind::Tcp(addr) => addr.fmt(f),
            Bind::Unix { path, .. } => write!(f, "unix:{}", path.display()),
            Bind::Passed(name) => write!(f, "fd:{name}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// At least one; the first answers names that no other is for.
    pub certs: Vec<CertFiles>,
    pub tls12: bool,
    pub h2: bool,
    pub http1: bool,
    pub clients: Option<ClientCerts>,
}

/// Absolute paths of files that were good when checked: a chain and its key in PEM, an OCSP response in DER.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ocsp: Option<PathBuf>,
}

/// Certificates that clients of a listener show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCerts {
    pub ca: PathBuf,
    /// A client without one is refused.
    pub required: bool,
    /// Where the target finds the subject (RFC 4514), and the certificate itself (RFC 9440).
    pub subject_header: Option<http::HeaderName>,
    pub cert_header: Option<http::HeaderName>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    pub name: String,
    pub targets: Vec<TargetAddr>,
    /// Of `targets`, one by one; at least 1.
    pub weights: Vec<u32>,
    pub balance: Balance,
    /// A target that is new or came back has its whole weight only after this time.
    pub slow_start: Duration,
    pub version: Option<String>,
    pub connect_timeout: Duration,
    pub http2: bool,
    pub max_connections: usize,
    /// None: as many as connections carry.
    pub max_requests: Option<usize>,
    pub max_pending: usize,
    pub queue_timeout: Duration,
    pub tls: Option<PoolTls>,
    /// Connections to targets begin with a PROXY protocol header of this version.
    pub send_proxy: Option<Version>,
    /// None: nobody asks targets whether they are well.
    pub health: Option<HealthCheck>,
    pub outlier: Option<Outlier>,
}

/// How a pool's targets are asked whether they are well, and how many answers in a row settle it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    pub kind: CheckKind,
    /// From the start of one check to the start of the next.
    pub interval: Duration,
    pub timeout: Duration,
    pub unhealthy_after: u32,
    pub healthy_after: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CheckKind {
    Http(HttpCheck),
    /// A connection is accepted; with TLS, the handshake is done.
    Tcp,
    /// `grpc.health.v1.Health/Check`; an empty service is the server as a whole. `host` None: the target's own.
    Grpc {
        service: String,
        host: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpCheck {
    pub path: String,
    /// None: the target's own.
    pub host: Option<String>,
    pub method: http::Method,
    pub expect: Vec<RangeInclusive<u16>>,
    /// What the answer's body must have somewhere.
    pub body: Option<String>,
}

/// How a pool's targets are connected to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolTls {
    /// None: the system's authorities.
    pub ca: Option<PathBuf>,
    /// The name that targets must prove to have; None: each the host of its own address.
    pub server_name: Option<String>,
    /// What Weir shows to targets that ask; without OCSP response.
    pub client: Option<CertFiles>,
    pub verify: bool,
}

/// What a target begins with that is a service's name.
pub const SRV: &str = "srv:";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetAddr {
    Ip(SocketAddr),
    Name {
        host: String,
        port: u16,
    },
    /// A service's name (RFC 2782), whose records name hosts, ports and weights.
    Srv(String),
    Unix(PathBuf),
}

impl std::fmt::Display for TargetAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TargetAddr::Ip(addr) => addr.fmt(f),
            TargetAddr::Name { host, port } => write!(f, "{host}:{port}"),
            TargetAddr::Srv(name) => write!(f, "{SRV}{name}"),
            TargetAddr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What the rule is called that a route's `preview` makes.
pub const PREVIEW_RULE: &str = "preview";

#[derive(Clone, Debug)]
pub struct RouteConfig {
    pub name: String,
    pub matches: RequestMatch,
    /// The first is the baseline.
    pub variants: Vec<VariantConfig>,
    /// Starting weights, one per variant; they sum to 100.
    pub weights: Vec<Weight>,
    pub rules: Vec<Rule>,
    /// Which requests get the idle one of two variants, whatever the rules say.
    pub preview: Option<Condition>,
    pub sticky: Option<Sticky>,
    /// What is hashed with a client's key: the sticky group's name, otherwise the route's.
    pub salt: String,
    pub timeout: Duration,
    /// For all of a request; None: as long as it takes.
    pub request_timeout: Option<Duration>,
    /// Open tunnels of clients that have moved to another variant are closed within this time; None: they are kept.
    pub close_moved_within: Option<Duration>,
    pub on_empty: OnEmpty,
    pub filters: Option<Arc<Filters>>,
    /// What `filters` has of header edits, finished for each variant there, as it is written.
    pub request_headers: Option<Box<WrittenEdits>>,
    pub response_headers: Option<Box<WrittenEdits>>,
    pub mirror: Option<Mirror>,
    pub recovery: Option<Arc<Recovery>>,
    pub rollout: Option<Arc<RolloutConfig>>,
}

/// What becomes of requests for a variant that has no target for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnEmpty {
    /// They are answered 503.
    #[default]
    Fail,
    /// The baseline answers them, if it has one.
    Baseline,
}

/// Header edits to be shown: values have their `${…}` as they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenEdits {
    pub remove: Vec<String>,
    pub set: Vec<(String, String)>,
    pub add: Vec<(String, Vec<String>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariantConfig {
    pub name: String,
    /// Index into [`Config::pools`]; None where the route answers by itself.
    pub pool: Option<usize>,
}

impl RouteConfig {
    /// Why there are no shares to change, where the route has no targets.
    pub fn answers_by_itself(&self) -> Option<String> {
        let [VariantConfig { name, pool: None }] = self.variants.as_slice() else { return None };
        let route = &self.name;
        Some(format!("route {route:?} has `{name}` and answers by itself: there are no versions to shift between"))
    }
}
