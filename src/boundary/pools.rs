//! A pool's queue as it is counted.

use super::labelled::labelled;
use super::outcomes::Count;

labelled! {
    /// Why a request that needed a place in the pool did not get one, as the metrics' `reason`.
    QueueRefusal {
        /// As many waited as may.
        Full = "full",
        /// None came in time.
        Timeout = "timeout",
    }
}

/// One worker's counts of a pool's queue.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct PoolShard {
    /// Requests that wait now.
    pub pending: Count,
    /// By [`QueueRefusal`].
    pub refused: [Count; QueueRefusal::ALL.len()],
}

/// A pool's queues, one a worker. Kept across tables: counters never go back.
#[derive(Debug)]
pub struct PoolOutcomes {
    pub shards: Box<[PoolShard]>,
}

impl PoolOutcomes {
    pub fn new(workers: usize) -> PoolOutcomes {
        PoolOutcomes { shards: (0..workers).map(|_| PoolShard::default()).collect() }
    }
    /// Requests that wait, of all workers.
    pub fn pending(&self) -> u64 {
        self.shards.iter().fold(0, |sum, shard| sum.wrapping_add(shard.pending.load()))
    }
    pub fn refused(&self, why: QueueRefusal) -> u64 {
        self.shards.iter().map(|shard| shard.refused[why as usize].load()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_summed() {
        let outcomes = PoolOutcomes::new(2);
        outcomes.shards[0].pending.add(3);
        outcomes.shards[1].pending.add(4);
        outcomes.shards[1].refused[QueueRefusal::Timeout as usize].add(5);
        let refused = QueueRefusal::ALL.map(|why| outcomes.refused(why));
        assert_eq!((outcomes.pending(), refused), (7, [0, 5]));
    }
}
