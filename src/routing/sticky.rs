//! What a client is known by, and the bucket it falls into.

use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    Header(http::HeaderName),
    Cookie(String),
    Query(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// An anonymous client id in this cookie, given to everybody who has none.
    Cookie {
        name: String,
        ttl: Duration,
    },
    Ip,
    Random,
}

/// How a route tells clients apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    pub keys: Vec<KeySource>,
    pub fallback: Fallback,
}
