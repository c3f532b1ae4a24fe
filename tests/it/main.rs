//! The integration tests: the real binary between raw sockets, one topic a file, one vocabulary in `support`.
//!
//! One binary, because every one of them links the whole crate. Each test has a Weir of its own on ports that the
//! kernel chose, so that they run side by side.

mod admin;
mod basics;
mod cli;
mod config;
mod drain;
mod explain;
mod failures;
mod headers;
mod http2;
mod limits;
mod live;
mod reload;
mod routing;
mod state;
mod streaming;
mod strict_http2;
mod strict_requests;
mod strict_responses;
mod support;
mod tunnels;
