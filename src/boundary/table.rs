//! The table as the workers see it: routes, the pools behind their variants, and where outcomes are counted.
//!
//! Control builds a [`Published`] whole and swaps it in; a worker keeps its own copy of the pointer and checks with
//! one load a request whether it changed, so that a request sees exactly one table and no counter is shared.

use super::compress::CompressOutcomes;
use super::judged::JudgedRoute;
use super::mirror::Mirroring;
use super::outcomes::{AddressOutcomes, TargetOutcomes, VariantOutcomes};
use super::pools::PoolOutcomes;
use super::rate::Limiter;
use crate::limits::Limits;
use crate::net::address::Address;
use crate::net::proxy_protocol::Version;
use crate::routing::balance::Balance;
use crate::routing::outlier::Outlier;
use crate::routing::redact::Redact;
use crate::routing::table::RoutingTable;
use arc_swap::ArcSwap;
use http::HeaderName;
use rustls::pki_types::ServerName;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub struct Published {
    /// +1 with every swap in this process.
    pub serial: u64,
    pub routing: RoutingTable,
    /// Indexed by `routing::table::Variant::pool`.
    pub pools: Vec<Arc<Pool>>,
    /// Indexed by route, then variant.
    pub outcomes: Vec<Vec<Arc<VariantOutcomes>>>,
    /// By listener; the others are plain.
    pub tls: BTreeMap<String, Arc<ListenerTls>>,
    /// Indexed by route.
    pub mirrors: Vec<Option<Box<Mirroring>>>,
    /// Indexed by route; of those that compress.
    pub compressed: Vec<Option<Arc<CompressOutcomes>>>,
    /// Indexed by route.
    pub judged: Vec<JudgedRoute>,
    /// Indexed by route; of those that have a rate limit.
    pub rates: Vec<Option<Arc<Limiter>>>,
    /// By listener, of those that have some.
    pub listener_limits: BTreeMap<String, ListenerLimits>,
    pub settings: Settings,
    /// Each route's generation, for explanations.
    pub generations: Vec<u64>,
    /// What may be said of the routes' values, for explanations.
    pub redact: Arc<dyn Redact>,
}

/// What a listener's handshakes are done with, and where targets find who the client is.
#[derive(Debug)]
pub struct ListenerTls {
    pub config: Arc<rustls::ServerConfig>,
    /// For the subject of the client's certificate (RFC 4514).
    pub subject_header: Option<HeaderName>,
    /// For the certificate itself (RFC 9440).
    pub cert_header: Option<HeaderName>,
}

/// How many connections a listener takes, of the whole process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerLimits {
    pub connections: Option<usize>,
    pub per_client: Option<u32>,
}

/// What requests obey beyond their route. A reload swaps these in with the table.
#[derive(Clone, Debug)]
pub struct Settings {
    pub trusted_proxies: Vec<ipnet::IpNet>,
    pub limits: Limits,
    /// What only Weir may say of a client: taken off every request, whichever listener it came by.
    pub identity_headers: Vec<HeaderName>,
}

/// A pool as the data plane sees it.
#[derive(Debug)]
pub struct Pool {
    pub name: String,
    /// What the configuration calls the version, for explanations.
    pub version: Option<String>,
    pub targets: Vec<Target>,
    /// Targets are asked whether they are well: their standing is what they say.
    pub checked: bool,
    pub connect_timeout: Duration,
    /// Whole process; a worker takes its share.
    pub max_connections: usize,
    /// Requests that the pool has at once, whole process; None: as many as connections carry.
    pub max_requests: Option<usize>,
    /// Requests that wait, whole process.
    pub max_pending: usize,
    pub queue_timeout: Duration,
    pub outcomes: Arc<PoolOutcomes>,
    /// None: plain. Its sessions are each worker's own.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Targets are spoken HTTP/2 with: agreed by ALPN with TLS, without it by prior knowledge.
    pub http2: bool,
    /// Connections begin with a PROXY protocol header of this version, and are one client's each.
    pub send_proxy: Option<Version>,
    /// None: no target is ejected for what it answers.
    pub outlier: Option<Outlier>,
    pub balance: Balance,
    /// A target that is new or came back has its whole weight only after this time.
    pub slow_start: Duration,
}

#[derive(Debug)]
pub struct Target {
    /// As written in the file: the name in status and metrics.
    pub name: String,
    /// The name is a service's, and no host's.
    pub is_service: bool,
    /// Where it is now: one address, or those that its name resolved to; empty when the name does not resolve.
    pub addrs: Vec<Address>,
    /// Of `addrs`, one by one: what requests are shared among.
    pub endpoints: Vec<Endpoint>,
    /// With TLS: the name that it must prove to have.
    pub server_name: Option<ServerName<'static>>,
    pub outcomes: Arc<TargetOutcomes>,
    pub standing: Standing,
}

/// One address of a target.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Beside the pool's others; at least 1.
    pub weight: u32,
    pub standing: Standing,
    pub outcomes: Arc<AddressOutcomes>,
}

impl PartialEq for Endpoint {
    fn eq(&self, other: &Endpoint) -> bool {
        let same = self.weight == other.weight && self.standing == other.standing;
        same && Arc::ptr_eq(&self.outcomes, &other.outcomes)
    }
}

/// What control knows of a target, and so which requests it gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It is well, or nobody asks.
    #[default]
    Up,
    /// Not asked yet: requests go there only where no other target of the pool is up.
    Unknown,
    Down,
    /// An operator took it out.
    Draining,
}

impl Standing {
    pub fn word(self) -> &'static str {
        match self {
            Standing::Up => "up",
            Standing::Unknown => "unknown",
            Standing::Down => "down",
            Standing::Draining => "draining",
        }
    }

    /// It may get a request, if no better one is there.
    pub fn is_usable(self) -> bool {
        matches!(self, Standing::Up | Standing::Unknown)
    }
}

impl Target {
    /// It may get a request, if no better one is there.
    pub fn is_usable(&self) -> bool {
        self.standing.is_usable() && !self.addrs.is_empty()
    }

    /// Each of its addresses is left alone for what it answered.
    pub fn is_ejected(&self) -> bool {
        !self.endpoints.is_empty() && self.endpoints.iter().all(|one| one.outcomes.ejection.is_out())
    }

    /// Some address is not ejected, and no worker's last connect there failed.
    pub fn is_reached(&self) -> bool {
        self.endpoints.iter().any(|one| one.outcomes.is_up())
    }
}

impl Pool {
    /// The standing of the targets that requests go to: they are up, else not known. None: there is no such target.
    pub fn best(&self) -> Option<Standing> {
        let endpoints = || self.targets.iter().flat_map(|target| &target.endpoints);
        let here = |of| endpoints().any(|one| one.standing == of);
        [Standing::Up, Standing::Unknown].into_iter().find(|of| here(*of))
    }
}

impl Pool {
    /// The targets that requests go to.
    pub fn eligible(&self) -> impl Iterator<Item = &Target> {
        let best = self.best();
        self.targets.iter().filter(move |target| Some(target.standing) == best && !target.addrs.is_empty())
    }
}

/// Where control publishes and workers look.
#[derive(Clone, Debug)]
pub struct Publisher {
    current: Arc<ArcSwap<Published>>,
}

/// A worker's view: one load a request when nothing changed.
pub type TableReader = arc_swap::Cache<Arc<ArcSwap<Published>>, Arc<Published>>;

impl Publisher {
    pub fn new(first: Published) -> Publisher {
        Publisher { current: Arc::new(ArcSwap::from_pointee(first)) }
    }
    /// Every request that starts after this returns sees `next` or a later table.
    pub fn publish(&self, next: Published) {
        self.current.store(Arc::new(next));
    }
    pub fn current(&self) -> Arc<Published> {
        self.current.load_full()
    }
    pub fn reader(&self) -> TableReader {
        arc_swap::Cache::new(Arc::clone(&self.current))
    }
}
