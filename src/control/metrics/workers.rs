//! What each worker does: whether some are busy while others are not.

use super::*;

const REQUESTS: Shape =
    Shape("weir_worker_requests_total", "Requests that a worker has answered.", MetricType::COUNTER, &["worker"]);
const OPEN: Shape =
    Shape("weir_worker_connections", "Client connections that a worker has.", MetricType::GAUGE, &["worker"]);
const BUSY: Shape = Shape(
    "weir_worker_busy_ratio",
    "Share of its time, over about a second, that a worker has something to do.",
    MetricType::GAUGE,
    &["worker"],
);
const HANDED_OVER: Shape = Shape(
    "weir_worker_handed_over_total",
    "Connections that a worker has accepted and handed to one with less to do.",
    MetricType::COUNTER,
    &["worker"],
);

/// By worker.
pub fn requests_of(outcomes: &Registry) -> Vec<u64> {
    let own = |worker: usize| {
        let requests = outcomes.variants.values().flat_map(|of| of.shards[worker].requests.iter().flatten());
        requests.map(Count::load).sum::<u64>() + outcomes.worker.shards[worker].unrouted.load()
    };
    (0..outcomes.workers()).map(own).collect()
}

pub(super) fn requests(scrape: &Scrape) -> MetricFamily {
    let counts = requests_of(&scrape.ground.outcomes).into_iter().enumerate();
    family(&REQUESTS, counts.map(|(at, count)| counter(&REQUESTS, &[&at.to_string()], count)).collect())
}

pub(super) fn open(scrape: &Scrape) -> MetricFamily {
    per_worker(scrape, &OPEN, |at, shard| gauge(&OPEN, &[at], signed(shard.open.load(Relaxed))))
}

pub(super) fn busy(scrape: &Scrape) -> MetricFamily {
    per_worker(scrape, &BUSY, |at, shard| gauge(&BUSY, &[at], shard.busy.load() as f64 / 1000.0))
}

pub(super) fn handed_over(scrape: &Scrape) -> MetricFamily {
    per_worker(scrape, &HANDED_OVER, |at, shard| counter(&HANDED_OVER, &[at], shard.handed_over.load()))
}

fn per_worker(scrape: &Scrape, shape: &Shape, child: fn(&str, &WorkerShard) -> Metric) -> MetricFamily {
    let shards = scrape.ground.outcomes.worker.shards.iter().enumerate();
    family(shape, shards.map(|(at, shard)| child(&at.to_string(), shard)).collect())
}
