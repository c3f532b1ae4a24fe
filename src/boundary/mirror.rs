//! A route's mirror as the workers see it, and what became of the copies.

use super::labelled::labelled;
use super::outcomes::Count;
use crate::routing::mirror::Mirror;
use std::sync::Arc;

/// Where copies of a route's requests go, and where they are counted.
#[derive(Clone, Debug)]
pub struct Mirroring {
    pub mirror: Mirror,
    /// The pool is a variant's, too: copies leave half of its connections to requests that a client waits for.
    pub shares_pool: bool,
    pub outcomes: Arc<MirrorOutcomes>,
}

labelled! {
    /// What became of a copy.
    Copied {
        /// It was sent, and a valid answer came; what the answer says is nobody's business here.
        Answered = "answered",
        /// No connection, no valid answer, or not in time.
        Failed = "failed",
        /// The body is longer than the mirror takes.
        TooLarge = "too_large",
        /// Too many copies or too many bytes are under way already.
        Overload = "overload",
        /// The request did not go out whole itself: its client left, or no target took it.
        Incomplete = "incomplete",
    }
}

/// One worker's counts of a route's copies, by [`Copied`].
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct MirrorShard {
    pub copies: [Count; Copied::ALL.len()],
}

/// A route's copies, counted by every worker. Kept across tables: counters never go back.
#[derive(Debug)]
pub struct MirrorOutcomes {
    pub shards: Box<[MirrorShard]>,
}

impl MirrorOutcomes {
    pub fn new(workers: usize) -> MirrorOutcomes {
        MirrorOutcomes { shards: (0..workers).map(|_| MirrorShard::default()).collect() }
    }
    /// By [`Copied`], summed over workers.
    pub fn total(&self) -> [u64; Copied::ALL.len()] {
        Copied::ALL.map(|copied| self.shards.iter().map(|shard| shard.copies[copied as usize].load()).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_a_place_and_a_name_of_its_own() {
        let outcomes = MirrorOutcomes::new(2);
        for (at, copied) in Copied::ALL.into_iter().enumerate() {
            outcomes.shards[at % 2].copies[copied as usize].add(at as u64 + 1);
        }
        assert_eq!(outcomes.total(), [1, 2, 3, 4, 5]);
        let names: std::collections::HashSet<_> = Copied::ALL.map(Copied::label).into();
        assert_eq!(names.len(), 5);
    }
}
