//! The data plane: one worker thread per CPU; nothing on it is shared, locked or `Send`.
//!
//! `worker` owns a thread, `listener` accepts, `connection` drives one client, `request` is the spine that every
//! request walks, `upstream` holds the connections to targets. `clock` gives all of them time-outs without timers.

mod balance;
mod body;
mod clock;
mod compress;
mod connection;
mod descriptors;
mod exchange;
mod failure;
mod filter;
mod forward;
mod frames;
#[doc(hidden)]
pub mod fuzzing;
mod grpc;
mod guard;
mod handover;
pub mod headers;
mod io;
mod judged;
mod listener;
mod mirror;
mod patience;
mod preface;
mod recover;
mod request;
mod respond;
mod socket;
mod stay;
mod streams;
mod tls;
#[cfg(debug_assertions)]
mod trial;
mod tunnel;
mod upstream;
mod vet;
pub mod worker;
