//! Which coding an answer gets, and what its head says of it. Pure: a request's header, an answer's status and header.
//!
//! An answer that one client gets coded and another does not is two representations of one thing: both must say so
//! (`Vary`), and the coded one may not claim to be equal, byte by byte, to the other (a weak `ETag`).

pub mod accept;
mod head;
mod kinds;

pub use head::{Asked, edit_head};

use http::header::HeaderValue;

/// A content coding (RFC 9110 §8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Gzip = 0,
    Brotli = 1,
    Zstd = 2,
}

impl Coding {
    pub const ALL: [Coding; 3] = [Coding::Gzip, Coding::Brotli, Coding::Zstd];
    /// Their names in `Content-Encoding`, in the configuration and in metrics.
    pub const NAMES: [&'static str; 3] = ["gzip", "br", "zstd"];

    pub fn name(self) -> &'static str {
        Coding::NAMES[self as usize]
    }

    fn value(self) -> HeaderValue {
        HeaderValue::from_static(self.name())
    }
}

/// A route's codings, the first preferred; none twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codings {
    order: [Coding; Coding::ALL.len()],
    count: usize,
}

impl Codings {
    /// None when `order` is empty or has one twice.
    pub fn new(order: &[Coding]) -> Option<Codings> {
        let twice = |at: usize| order[..at].contains(&order[at]);
        if order.is_empty() || (0..order.len()).any(twice) {
            return None;
        }
        let mut all = Coding::ALL;
        all[..order.len()].copy_from_slice(order);
        Some(Codings { order: all, count: order.len() })
    }

    pub fn as_slice(&self) -> &[Coding] {
        &self.order[..self.count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codings_keep_their_order_and_are_none_twice() {
        use Coding::{Brotli, Gzip, Zstd};
        assert_eq!(Codings::new(&[Zstd, Gzip]).unwrap().as_slice(), [Zstd, Gzip]);
        assert_eq!(Codings::new(&[Brotli, Zstd, Gzip]).unwrap().as_slice(), [Brotli, Zstd, Gzip]);
        for wrong in [&[][..], &[Gzip, Gzip], &[Zstd, Gzip, Zstd], &[Gzip, Brotli, Zstd, Gzip]] {
            assert_eq!(Codings::new(wrong), None, "{wrong:?}");
        }
        assert_eq!(Coding::ALL.map(Coding::name), Coding::NAMES);
    }
}
