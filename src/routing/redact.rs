//! What may be said of the configuration's values: some are secrets that a variable or a file filled in.
//!
//! Who tells of a decision asks here for every text that the configuration gave it. Texts that a request brought are
//! the asker's own and are told as they came.

use std::fmt;

pub trait Redact: fmt::Debug + Send + Sync {
    /// The value, or what stands for it: `${TOKEN}`. It is asked for in the form that routing holds it in: a header's
    /// name in lower case, a prefix without its last slash.
    fn shown<'v>(&'v self, value: &'v str) -> &'v str;
}

/// Nothing is secret.
#[derive(Debug)]
pub struct Open;

impl Redact for Open {
    fn shown<'v>(&'v self, value: &'v str) -> &'v str {
        value
    }
}
