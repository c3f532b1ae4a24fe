//! A door for `fuzz/` and `tests/corpus.rs`: what looks at a client's bytes, without a connection around it.

pub use super::frames::{Breach, Frames};
pub use super::guard::{Guard, TooLong};
