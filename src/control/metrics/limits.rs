//! What limits refused or kept waiting.

use super::*;
use crate::boundary::pools::{PoolOutcomes, QueueRefusal};
use crate::boundary::rate::Limiter;

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

const GREEDY: Shape = Shape(
    "weir_connections_refused_total",
    "Connections closed because their client had max_connections_per_client.",
    MetricType::COUNTER,
    &["listener"],
);
const RATE_LIMITED: Shape = Shape(
    "weir_rate_limited_total",
    "Requests answered with 429 because their client asked more often than rate_limit allows.",
    MetricType::COUNTER,
    &["route"],
);

pub(super) fn greedy(scrape: &Scrape) -> MetricFamily {
    per_listener(scrape, &GREEDY, |shard| shard.greedy.load())
}

pub(super) fn rate_limited(scrape: &Scrape) -> MetricFamily {
    let rates = scrape.ground.outcomes.rates.iter();
    let child = |(route, of): (&String, &Arc<Limiter>)| counter(&RATE_LIMITED, &[route], of.outcomes.limited());
    family(&RATE_LIMITED, rates.map(child).collect())
}

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
