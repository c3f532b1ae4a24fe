//! What requests a route takes, and which route wins when several do.

/// Host names are lower case, without port and trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostMatch {
    Any,
    Exact(String),
    /// `*.example.com` as `example.com`: any name that ends in `.example.com`.
    Wildcard(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// On segment borders, without the trailing slash: `/v1` matches `/v1` and `/v1/x`, not `/v10`; `""` matches all.
    Prefix(String),
    Exact(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestMatch {
    pub host: HostMatch,
    pub path: PathMatch,
}
