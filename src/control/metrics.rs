//! The Prometheus families: one collector that sums the workers' counters when asked.
//!
//! Nothing is counted here and no label comes from a client. Every child of a family is there at 0 from the start, so
//! that a rate over a first failure is right. Counters of routes that a reload removed stay: a counter that goes away
//! is a hole in every sum over it.

use super::Control;
use super::admin::is_healthy;
use super::ground::Ground;
use crate::boundary::outcomes::{Code, DurationsTotal, ListenerShard, Reason, VariantTotal};
use crate::limits::DURATION_BOUNDS_US;
use crate::routing::split::Weight;
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, Registry, TextEncoder};
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

/// Why a target may be ejected.
const EJECTION_REASONS: [&str; 1] = ["consecutive_5xx"];

/// The families' text.
pub struct Exposition {
    registry: Registry,
}

impl Exposition {
    pub fn new(control: Control) -> Exposition {
        let registry = Registry::new();
        let registered = [
            registry.register(Box::new(Outcomes::new(control))),
            registry.register(Box::new(ProcessCollector::for_self())),
        ];
        for error in registered.into_iter().filter_map(Result::err) {
            tracing::error!(%error, "metrics will be missing");
        }
        Exposition { registry }
    }

    /// All families in the text format 0.0.4.
    pub fn text(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// A family's name, help, type and labels.
struct Shape(&'static str, &'static str, MetricType, &'static [&'static str]);

const VARIANT: &[&str] = &["route", "variant"];
const REQUESTS: Shape = Shape(
    "weir_requests_total",
    "Requests that a route's variant answered, by status class (none: no response head was sent) and whether a rule forced the variant.",
    MetricType::COUNTER,
    &["route", "variant", "code", "forced"],
);
const DURATION: Shape = Shape(
    "weir_request_duration_seconds",
    "Time from a request's head being read to the last byte of its answer being handed on.",
    MetricType::HISTOGRAM,
    VARIANT,
);
const UPSTREAM: Shape = Shape(
    "weir_upstream_duration_seconds",
    "Time from a request being handed to its target to the target's response head.",
    MetricType::HISTOGRAM,
    VARIANT,
);
const OVERHEAD: Shape = Shape(
    "weir_overhead_seconds",
    "Weir's own time: from a request's head being read to the request being handed to the upstream side.",
    MetricType::HISTOGRAM,
    &[],
);
const ERRORS: Shape = Shape(
    "weir_request_errors_total",
    "Requests that failed, by reason, charged to the variant that failed.",
    MetricType::COUNTER,
    &["route", "variant", "reason"],
);
const RETRIES: Shape =
    Shape("weir_retries_total", "Requests that were sent to a target once more.", MetricType::COUNTER, VARIANT);
const IN_FLIGHT: Shape =
    Shape("weir_requests_in_flight", "Requests that are being answered now.", MetricType::GAUGE, VARIANT);
const UNROUTED: Shape =
    Shape("weir_unrouted_requests_total", "Requests that no route matched.", MetricType::COUNTER, &[]);
const CONNECTIONS: Shape =
    Shape("weir_connections", "Client connections that are open now.", MetricType::GAUGE, &["listener"]);
const ACCEPTED: Shape =
    Shape("weir_connections_accepted_total", "Client connections accepted.", MetricType::COUNTER, &["listener"]);
const PAUSED: Shape = Shape(
    "weir_accept_paused_total",
    "Times that accepting paused because limits.max_connections was reached.",
    MetricType::COUNTER,
    &["listener"],
);
const REJECTED: Shape = Shape(
    "weir_connections_rejected_total",
    "Client connections closed for a request that could not be read or a TLS handshake that failed.",
    MetricType::COUNTER,
    &["listener"],
);
const WEIGHT: Shape = Shape(
    "weir_variant_weight",
    "A variant's weight in percent: live, configured (the file's) and effective (what requests really get).",
    MetricType::GAUGE,
    &["route", "variant", "kind"],
);
const GENERATION: Shape = Shape(
    "weir_route_generation",
    "A route's generation: +1 with every change of its live state.",
    MetricType::GAUGE,
    &["route"],
);
const TARGET_UP: Shape = Shape(
    "weir_target_up",
    "1 when the target has an address and no worker's last connect to it failed, else 0.",
    MetricType::GAUGE,
    &["pool", "target"],
);
const EJECTIONS: Shape = Shape(
    "weir_target_ejections_total",
    "Targets taken out of a pool for their answers, by reason.",
    MetricType::COUNTER,
    &["pool", "reason"],
);
const BUILD: Shape = Shape("weir_build_info", "Always 1; the version is the label's.", MetricType::GAUGE, &["version"]);
const RELOAD: Shape = Shape(
    "weir_config_last_reload_success",
    "1 when the last reload of the configuration succeeded or there was none, else 0.",
    MetricType::GAUGE,
    &[],
);

const SHAPES: [&Shape; 18] = [
    &REQUESTS,
    &DURATION,
    &UPSTREAM,
    &OVERHEAD,
    &ERRORS,
    &RETRIES,
    &IN_FLIGHT,
    &UNROUTED,
    &CONNECTIONS,
    &ACCEPTED,
    &PAUSED,
    &REJECTED,
    &WEIGHT,
    &GENERATION,
    &TARGET_UP,
    &EJECTIONS,
    &BUILD,
    &RELOAD,
];

struct Outcomes {
    control: Control,
    descs: Vec<Desc>,
}

impl Outcomes {
    fn new(control: Control) -> Outcomes {
        let desc = |shape: &&Shape| {
            let labels = shape.3.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(shape.0.to_owned(), shape.1.to_owned(), labels, HashMap::new())
                .expect("the names of families and labels are constants that prometheus takes")
        };
        Outcomes { control, descs: SHAPES.iter().map(desc).collect() }
    }
}

impl Collector for Outcomes {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let ground = self.control.ground();
        let reload_ok = self.control.shared.reload_ok.load(Relaxed);
        let mut families = variants(&ground);
        families.extend(listeners(&ground));
        families.extend(routes(&ground));
        families.extend(targets(&ground));
        families.push(family(&BUILD, vec![gauge(&BUILD, &[env!("CARGO_PKG_VERSION")], 1.0)]));
        families.push(family(&RELOAD, vec![gauge(&RELOAD, &[], f64::from(u8::from(reload_ok)))]));
        families
    }
}

fn variants(ground: &Ground) -> Vec<MetricFamily> {
    let [mut requests, mut duration, mut upstream, mut errors, mut retries, mut in_flight] = [const { Vec::new() }; 6];
    for ((route, variant), outcomes) in &ground.outcomes.variants {
        let total: VariantTotal = outcomes.total();
        let labels = [route.as_str(), variant.as_str()];
        for (forced, counts) in ["false", "true"].into_iter().zip(&total.requests) {
            for code in Code::ALL {
                let labels = [route, variant, code.label(), forced];
                requests.push(counter(&REQUESTS, &labels, counts[code as usize]));
            }
        }
        for reason in Reason::ALL {
            errors.push(counter(&ERRORS, &[route, variant, reason.label()], total.errors[reason as usize]));
        }
        duration.push(histogram(&DURATION, &labels, &total.duration));
        upstream.push(histogram(&UPSTREAM, &labels, &total.upstream));
        retries.push(counter(&RETRIES, &labels, total.retries));
        in_flight.push(gauge(&IN_FLIGHT, &labels, total.in_flight.cast_signed() as f64));
    }
    let worker = &ground.outcomes.worker;
    let mut overhead = DurationsTotal::default();
    worker.shards.iter().for_each(|shard| shard.overhead.sum_into(&mut overhead));
    let unrouted = worker.shards.iter().map(|shard| shard.unrouted.load()).sum();
    vec![
        family(&REQUESTS, requests),
        family(&DURATION, duration),
        family(&UPSTREAM, upstream),
        family(&ERRORS, errors),
        family(&RETRIES, retries),
        family(&IN_FLIGHT, in_flight),
        family(&OVERHEAD, vec![histogram(&OVERHEAD, &[], &overhead)]),
        family(&UNROUTED, vec![counter(&UNROUTED, &[], unrouted)]),
    ]
}

fn listeners(ground: &Ground) -> Vec<MetricFamily> {
    let each = |shape: &Shape, read: fn(&ListenerShard) -> u64| {
        let children = ground.outcomes.listeners.iter().map(|(name, outcomes)| {
            let sum = outcomes.shards.iter().fold(0u64, |sum, shard| sum.wrapping_add(read(shard)));
            match shape.2 {
                MetricType::GAUGE => gauge(shape, &[name], sum.cast_signed() as f64),
                _ => counter(shape, &[name], sum),
            }
        });
        family(shape, children.collect())
    };
    vec![
        each(&CONNECTIONS, |shard| shard.open.load()),
        each(&ACCEPTED, |shard| shard.accepted.load()),
        each(&PAUSED, |shard| shard.paused.load()),
        each(&REJECTED, |shard| shard.rejected.load()),
    ]
}

fn routes(ground: &Ground) -> Vec<MetricFamily> {
    let (mut weights, mut generations) = (Vec::new(), Vec::new());
    for (route, live) in ground.config.routes.iter().zip(&ground.routes) {
        generations.push(gauge(&GENERATION, &[&route.name], live.generation as f64));
        for (place, variant) in route.variants.iter().enumerate() {
            let mut push = |kind: &str, weight: Weight| {
                weights.push(gauge(&WEIGHT, &[&route.name, &variant.name, kind], weight.percent()));
            };
            push("live", live.weights[place]);
            push("configured", route.weights[place]);
            push("effective", live.weights[place]);
        }
    }
    vec![family(&WEIGHT, weights), family(&GENERATION, generations)]
}

fn targets(ground: &Ground) -> Vec<MetricFamily> {
    let (mut up, mut ejections) = (Vec::new(), Vec::new());
    for pool in ground.pools.iter() {
        for target in &pool.targets {
            let healthy = f64::from(u8::from(is_healthy(target)));
            up.push(gauge(&TARGET_UP, &[&pool.name, &target.name], healthy));
        }
        ejections.extend(EJECTION_REASONS.iter().map(|reason| counter(&EJECTIONS, &[&pool.name, reason], 0)));
    }
    vec![family(&TARGET_UP, up), family(&EJECTIONS, ejections)]
}

fn family(shape: &Shape, children: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(shape.0.to_owned());
    family.set_help(shape.1.to_owned());
    family.set_field_type(shape.2);
    family.set_metric(children);
    family
}

fn child(shape: &Shape, values: &[&str]) -> Metric {
    let label = |(name, value): (&&str, &&str)| {
        let mut label = LabelPair::default();
        label.set_name((*name).to_owned());
        label.set_value((*value).to_owned());
        label
    };
    Metric::from_label(shape.3.iter().zip(values).map(label).collect())
}

fn counter(shape: &Shape, values: &[&str], count: u64) -> Metric {
    let mut value = Counter::default();
    value.set_value(count as f64);
    let mut child = child(shape, values);
    child.set_counter(value);
    child
}

fn gauge(shape: &Shape, values: &[&str], of: f64) -> Metric {
    let mut value = Gauge::default();
    value.set_value(of);
    let mut child = child(shape, values);
    child.set_gauge(value);
    child
}

/// The encoder adds the bucket `+Inf` from the count.
fn histogram(shape: &Shape, values: &[&str], total: &DurationsTotal) -> Metric {
    let mut cumulative = 0;
    let bucket = |(bound, count): (&u64, &u64)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / 1e6);
        bucket.set_cumulative_count(cumulative);
        bucket
    };
    let mut value = Histogram::default();
    value.set_bucket(DURATION_BOUNDS_US.iter().zip(&total.buckets).map(bucket).collect());
    value.set_sample_count(total.buckets.iter().sum());
    value.set_sample_sum(total.sum_us as f64 / 1e6);
    let mut child = child(shape, values);
    child.set_histogram(value);
    child
}
