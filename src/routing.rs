//! Which variant answers a request. Pure: no I/O, no clock, no global randomness.

mod index;
pub mod matcher;
pub mod mirror;
pub mod rule;
pub mod split;
pub mod sticky;
pub mod table;
