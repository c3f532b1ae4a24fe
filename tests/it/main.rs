//! The integration tests: the real binary between raw sockets, one topic a file, one vocabulary in `support`.
//!
//! One binary, because every one of them links the whole crate. Each test has a Weir of its own on ports that the
//! kernel chose, so that they run side by side.

mod admin;
mod bad_days;
mod balance;
mod basics;
mod blue_green;
mod cli;
mod compress;
mod config;
mod dns;
mod drain;
mod drained;
mod explain;
mod failures;
mod field;
mod headers;
mod health;
mod history;
mod http2;
mod judge;
mod limits;
mod lists;
mod live;
mod matching;
mod mirror;
mod moved;
mod outliers;
mod overload;
mod proxy_protocol;
mod recovery;
mod reload;
mod rewrite;
mod rollouts;
mod routing;
mod rules;
mod save;
mod scheme;
mod sockets;
mod state;
mod sticky;
mod streaming;
mod strict_http2;
mod strict_requests;
mod strict_responses;
mod supervised;
mod support;
mod timeouts;
mod tls;
mod tunnels;
mod upgrade;
mod upstream_http2;
mod upstream_tls;
