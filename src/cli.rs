//! The command line: one file a verb group.

pub mod check;
pub mod client;
pub mod reload;
pub mod shift;
pub mod status;
pub mod token;
