//! A route's compression as it is counted.

use super::outcomes::Count;
use crate::routing::compress::Coding;

/// One worker's counts of a route's compressed answers.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CompressShard {
    /// Answers that were begun with this coding, by [`Coding`].
    pub answers: [Count; Coding::ALL.len()],
    /// Answers that went as they were, because the worker was compressing as many as it may.
    pub skipped: Count,
    /// Of bodies, taken from targets and handed on to clients.
    pub bytes_in: Count,
    pub bytes_out: Count,
}

/// A route's compressed answers, counted by every worker. Kept across tables: counters never go back.
#[derive(Debug)]
pub struct CompressOutcomes {
    pub shards: Box<[CompressShard]>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompressTotal {
    /// By [`Coding`].
    pub answers: [u64; Coding::ALL.len()],
    pub skipped: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl CompressOutcomes {
    pub fn new(workers: usize) -> CompressOutcomes {
        CompressOutcomes { shards: (0..workers).map(|_| CompressShard::default()).collect() }
    }

    /// Summed over workers.
    pub fn total(&self) -> CompressTotal {
        let sum = |count: fn(&CompressShard) -> &Count| self.shards.iter().map(|shard| count(shard).load()).sum();
        let answers = |coding: Coding| self.shards.iter().map(|shard| shard.answers[coding as usize].load()).sum();
        CompressTotal {
            answers: Coding::ALL.map(answers),
            skipped: sum(|shard| &shard.skipped),
            bytes_in: sum(|shard| &shard.bytes_in),
            bytes_out: sum(|shard| &shard.bytes_out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_summed() {
        let outcomes = CompressOutcomes::new(2);
        for (at, shard) in outcomes.shards.iter().enumerate() {
            let n = at as u64 + 1;
            Coding::ALL.iter().for_each(|coding| shard.answers[*coding as usize].add(n * (*coding as u64 + 1)));
            shard.skipped.add(n);
            shard.bytes_in.add(100 * n);
            shard.bytes_out.add(10 * n);
        }
        let expected = CompressTotal { answers: [3, 6, 9], skipped: 3, bytes_in: 300, bytes_out: 30 };
        assert_eq!(outcomes.total(), expected);
    }
}
