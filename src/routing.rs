//! Which variant answers a request. Pure: no I/O, no clock, no global randomness.

mod index;
pub mod list;
pub mod matcher;
pub mod networks;
pub mod rule;
pub mod split;
pub mod sticky;
pub mod table;
