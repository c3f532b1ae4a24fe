//! What limits refused or kept waiting.

use super::*;
use crate::boundary::pools::{PoolOutcomes, QueueRefusal};

const ACCEPT_FAILURES: Shape = Shape(
    "weir_accept_failures_total",
    "Times that the system had no file descriptor or memory for a client; accepting paused.",
    MetricType::COUNTER,
    &["listener"],
);
const PENDING: Shape = Shape(
    "weir_pool_requests_pending",
    "Requests that wait for a connection to the pool now.",
    MetricType::GAUGE,
    &["pool"],
);
const QUEUE_REFUSED: Shape = Shape(
    "weir_pool_queue_refused_total",
    "Requests that got no connection to the pool: the queue was full, or none came in time.",
    MetricType::COUNTER,
    &["pool", "reason"],
);

pub(super) fn accept_failures(scrape: &Scrape) -> MetricFamily {
    per_listener(scrape, &ACCEPT_FAILURES, |shard| shard.accept_failures.load())
}

pub(super) fn pending(scrape: &Scrape) -> MetricFamily {
    per_pool(scrape, &PENDING, |pool, of| vec![gauge(&PENDING, &[pool], signed(of.pending()))])
}

pub(super) fn queue_refused(scrape: &Scrape) -> MetricFamily {
    per_pool(scrape, &QUEUE_REFUSED, |pool, of| {
        QueueRefusal::ALL.map(|why| counter(&QUEUE_REFUSED, &[pool, why.label()], of.refused(why))).to_vec()
    })
}

fn per_pool(scrape: &Scrape, shape: &Shape, children: impl Fn(&str, &PoolOutcomes) -> Vec<Metric>) -> MetricFamily {
    let pools = scrape.ground.outcomes.pools.iter();
    family(shape, pools.flat_map(|(name, outcomes)| children(name, outcomes)).collect())
}
