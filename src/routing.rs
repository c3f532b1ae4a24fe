//! Which variant answers a request. Pure: no I/O, no clock, no global randomness.

pub mod explain;
mod index;
pub mod matcher;
pub mod request;
pub mod rule;
pub mod split;
pub mod sticky;
pub mod table;
