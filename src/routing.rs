//! Which variant answers a request. Pure: no I/O, no clock, no global randomness.

pub mod balance;
pub mod compress;
pub mod cover;
pub mod edits;
pub mod explain;
pub mod filters;
mod index;
pub mod list;
pub mod matcher;
pub mod mirror;
pub mod networks;
pub mod outlier;
pub mod pattern;
pub mod rate;
pub mod recovery;
pub mod redact;
pub mod redirect;
pub mod request;
pub mod rewrite;
pub mod rule;
#[cfg(test)]
mod samples;
pub mod scheme;
pub mod skew;
pub mod split;
pub mod sticky;
pub mod table;
