//! Weir: a traffic-splitting reverse proxy that releases software.
//!
//! Two planes and one boundary. The *data plane* ([`proxy`]) is one OS thread per CPU, each with its
//! own runtime, sockets and counters; a request there takes no lock and touches nothing that another
//! thread writes. The *control plane* ([`control`]) is the main thread: one task owns the ground state
//! and every change enters it as a command. What both touch is the *boundary* ([`boundary`]): the
//! published table, the counters and the drain signal. Deciders ([`routing`], [`judge`], [`rollout`]) are pure: no I/O, no
//! clock, no global randomness. `ARCHITECTURE.md` says which room may use which.
#![forbid(unsafe_code)]

pub mod app;
pub mod boundary;
pub mod cli;
pub mod config;
pub mod control;
pub mod judge;
pub mod limits;
pub mod net;
pub mod proxy;
pub mod rollout;
pub mod routing;
pub mod tls;
