//! The routing table: everything that a request needs to be routed, immutable, swapped whole.

use super::{matcher::RequestMatch, rule::Rule, split::Assignment, split::Bucket, sticky::Sticky};
use std::net::IpAddr;
use std::time::Duration;

/// One route as the table's builder takes it; variants are in the file's order, the baseline first.
#[derive(Clone, Debug)]
pub struct Route {
    pub name: String,
    pub matches: RequestMatch,
    pub variants: Vec<Variant>,
    pub assignment: Assignment,
    pub rules: Vec<Rule>,
    pub sticky: Option<Sticky>,
    /// To the response head.
    pub timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct Variant {
    pub name: String,
    /// Index into the table's pools.
    pub pool: usize,
}

/// The routes in the file's order, and the index that finds one.
#[derive(Debug, Default)]
pub struct RoutingTable {
    routes: Vec<Route>,
}

/// What the decision looks at. `path` is without the query.
pub struct RequestView<'r> {
    /// As sent: with port, any case. None when the request names no host.
    pub host: Option<&'r str>,
    pub path: &'r str,
    pub query: Option<&'r str>,
    pub method: &'r http::Method,
    pub headers: &'r http::HeaderMap,
    pub client_ip: IpAddr,
}

/// Which variant answers, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Index into [`RoutingTable::routes`].
    pub route: usize,
    /// Index into the route's variants.
    pub variant: usize,
    /// Index of the rule that matched.
    pub rule: Option<usize>,
    /// The rule named a variant: left out of analysis.
    pub forced: bool,
    /// None when the variant was forced.
    pub bucket: Option<Bucket>,
    /// The client has no anonymous id yet: this one is to be set as a cookie.
    pub new_client_id: Option<ClientId>,
}

/// An anonymous client's id: 128 random bits, 32 lower-case hexadecimal digits in the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientId(pub u128);

impl RoutingTable {
    pub fn new(routes: Vec<Route>) -> RoutingTable {
        RoutingTable { routes }
    }
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }
    /// The most specific route, its first matching rule or its weights; None when no route matches.
    pub fn route(&self, request: &RequestView<'_>, rng: &mut impl rand::Rng) -> Option<Decision> {
        let _ = (request, rng);
        unimplemented!("skeleton")
    }
}
