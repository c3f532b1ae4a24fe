//! Which variant answers a request. Pure: no I/O, no clock, no global randomness.

pub mod cover;
mod index;
pub mod matcher;
pub mod pattern;
pub mod rule;
#[cfg(test)]
mod samples;
pub mod split;
pub mod sticky;
pub mod table;
