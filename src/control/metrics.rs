//! The Prometheus families: one collector that sums the workers' counters when asked.
//!
//! Nothing is counted here and no label comes from a client. Every child of a family is there at 0 from the start, so
//! that a rate over a first failure is right. Counters of routes that a reload removed stay: a counter that goes away
//! is a hole in every sum over it.

mod limits;
mod rollouts;
pub mod workers;

use super::Control;
use super::admin::is_healthy;
use super::derive::effective_weights;
use super::ground::Ground;
use super::outcomes::Registry;
use super::rollout::view::View;
use crate::boundary::compress::CompressTotal;
use crate::boundary::ejection::Ejected;
use crate::boundary::mirror::Copied;
use crate::boundary::outcomes::{
    Code, Count, DurationsTotal, Handshake, ListenerShard, Reason, RefusedPreface, Timeout, VariantTotal, WorkerShard,
};
use crate::boundary::table::{Pool, Target};
use crate::config::{Listener, TargetAddr};
use crate::limits::DURATION_BOUNDS_US;
use crate::routing::compress::Coding;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The families' text.
pub struct Exposition {
    control: Control,
    process: ProcessCollector,
}

impl Exposition {
    pub fn new(control: Control) -> Exposition {
        Exposition { control, process: ProcessCollector::for_self() }
    }

    /// All families in the text format 0.0.4. One at a time: with 10,000 routes all of them at once would take a
    /// gigabyte.
    pub fn text(&self) -> prometheus::Result<Vec<u8>> {
        let scrape = Scrape::now(&self.control);
        let encoder = TextEncoder::new();
        let mut text = Vec::new();
        for family in FAMILIES {
            let family = family(&scrape);
            // The encoder takes no family without children, such as those of listeners when there is none.
            if !family.get_metric().is_empty() {
                encoder.encode(&[family], &mut text)?;
            }
        }
        encoder.encode(&self.process.collect(), &mut text)?;
        Ok(text)
    }
}

/// What one answer is made of: every family of it shows the same counts.
struct Scrape {
    ground: Arc<Ground>,
    /// By route and variant.
    variants: Vec<(String, String, VariantTotal)>,
    reload_ok: bool,
    rollouts: Arc<BTreeMap<String, Arc<View>>>,
}

impl Scrape {
    fn now(control: &Control) -> Scrape {
        let ground = control.ground();
        let variants = ground.outcomes.variants.iter();
        let variants = variants.map(|((route, variant), of)| (route.clone(), variant.clone(), of.total())).collect();
        let reload_ok = control.shared.reload_ok.load(Relaxed);
        Scrape { ground, variants, reload_ok, rollouts: control.rollouts() }
    }
}

/// A family's name, help, type and labels.
struct Shape(&'static str, &'static str, MetricType, &'static [&'static str]);

const VARIANT: &[&str] = &["route", "variant"];
const REQUESTS: Shape = Shape(
    "weir_requests_total",
    "Requests answered, by status class (none: no response head was sent) and whether a rule forced the variant.",
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
const TIMEOUTS: Shape = Shape(
    "weir_request_timeouts_total",
    "Requests whose time was over, by which time: connect, tls, send, response_head, response_body, request, client.",
    MetricType::COUNTER,
    &["route", "variant", "timeout"],
);
const RETRIES: Shape =
    Shape("weir_retries_total", "Requests that were sent to a target once more.", MetricType::COUNTER, VARIANT);
const RESCUED: Shape = Shape(
    "weir_rescued_total",
    "Requests that their variant failed and the baseline answered.",
    MetricType::COUNTER,
    &["route"],
);
const IN_FLIGHT: Shape =
    Shape("weir_requests_in_flight", "Requests that are being answered now.", MetricType::GAUGE, VARIANT);
const TUNNELS: Shape = Shape(
    "weir_tunnels_open",
    "WebSockets and other switched protocols that are open now.",
    MetricType::GAUGE,
    VARIANT,
);
const MIRRORED: Shape = Shape(
    "weir_mirrored_total",
    "Copies of requests that a route's mirror was to get, by what became of them.",
    MetricType::COUNTER,
    &["route", "outcome"],
);
const COMPRESSED: Shape = Shape(
    "weir_compressed_total",
    "Answers that were compressed, by the coding.",
    MetricType::COUNTER,
    &["route", "encoding"],
);
const COMPRESS_SKIPPED: Shape = Shape(
    "weir_compress_skipped_total",
    "Answers that went as they were because a worker was compressing as many as it may.",
    MetricType::COUNTER,
    &["route"],
);
const COMPRESS_BYTES: Shape = Shape(
    "weir_compress_bytes_total",
    "Bytes of answers that were compressed, in (from targets) and out (to clients).",
    MetricType::COUNTER,
    &["route", "direction"],
);
const UNROUTED: Shape =
    Shape("weir_unrouted_requests_total", "Requests that no route matched.", MetricType::COUNTER, &[]);
const CONNECTIONS: Shape =
    Shape("weir_connections", "Client connections that are open now.", MetricType::GAUGE, &["listener"]);
const ACCEPTED: Shape =
    Shape("weir_connections_accepted_total", "Client connections accepted.", MetricType::COUNTER, &["listener"]);
const PAUSED: Shape = Shape(
    "weir_accept_paused_total",
    "Times that accepting paused at limits.max_connections, or at what file descriptors are enough for.",
    MetricType::COUNTER,
    &["listener"],
);
const REJECTED: Shape = Shape(
    "weir_connections_rejected_total",
    "Client connections closed for a request that could not be read, a failed TLS handshake or a refused PROXY protocol header.",
    MetricType::COUNTER,
    &["listener"],
);
const LATE_HEADS: Shape = Shape(
    "weir_header_timeouts_total",
    "Client connections closed because a request head did not come whole in time.",
    MetricType::COUNTER,
    &["listener"],
);
const FLOODS: Shape = Shape(
    "weir_http2_floods_total",
    "HTTP/2 connections cut off for resets, errors or control frames without measure.",
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
const TARGET_ADDRESSES: Shape = Shape(
    "weir_target_addresses",
    "Addresses that a target has now: 1, or those that its name resolved to.",
    MetricType::GAUGE,
    &["pool", "target"],
);
const DNS_FAILING: Shape = Shape(
    "weir_dns_failing",
    "1 while the target's name can't be looked up; addresses known before are kept.",
    MetricType::GAUGE,
    &["pool", "target"],
);
const DNS_LOOKUPS: Shape = Shape(
    "weir_dns_lookups_total",
    "Look-ups of targets' names, by result: answered or failed.",
    MetricType::COUNTER,
    &["result"],
);
const TARGET_UP: Shape = Shape(
    "weir_target_up",
    "1 when the target is up by its health check, or without one no worker's last connect to it failed, and is not ejected; else 0.",
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

const HANDSHAKES: Shape = Shape(
    "weir_tls_handshakes_total",
    "TLS handshakes with clients, by how they ended.",
    MetricType::COUNTER,
    &["listener", "outcome"],
);
const PREFACES: Shape = Shape(
    "weir_proxy_protocol_refused_total",
    "Client connections closed for want of a valid PROXY protocol header from a trusted proxy.",
    MetricType::COUNTER,
    &["listener", "reason"],
);
const EXPIRY: Shape = Shape(
    "weir_tls_certificate_expiry_timestamp_seconds",
    "When the certificate in use for a name expires; of several the first.",
    MetricType::GAUGE,
    &["name"],
);
const TLS_RELOAD: Shape = Shape(
    "weir_tls_last_reload_success",
    "1 when every certificate, key and authority is in use as its file stands, 0 while an earlier one goes on.",
    MetricType::GAUGE,
    &[],
);

const FAMILIES: &[fn(&Scrape) -> MetricFamily] = &[
    requests,
    request_errors,
    request_timeouts,
    |scrape| per_variant(scrape, &DURATION, |shape, labels, total| histogram(shape, labels, &total.duration)),
    |scrape| per_variant(scrape, &UPSTREAM, |shape, labels, total| histogram(shape, labels, &total.upstream)),
    overhead,
    |scrape| per_variant(scrape, &RETRIES, |shape, labels, total| counter(shape, labels, total.retries)),
    rescued,
    |scrape| per_variant(scrape, &IN_FLIGHT, |shape, labels, total| gauge(shape, labels, signed(total.in_flight))),
    |scrape| per_variant(scrape, &TUNNELS, |shape, labels, total| gauge(shape, labels, signed(total.tunnels))),
    mirrored,
    compressed,
    |scrape| {
        per_compressing(scrape, &COMPRESS_SKIPPED, |route, of| vec![counter(&COMPRESS_SKIPPED, &[route], of.skipped)])
    },
    compress_bytes,
    unrouted,
    |scrape| per_listener(scrape, &CONNECTIONS, |shard| shard.open.load()),
    |scrape| per_listener(scrape, &ACCEPTED, |shard| shard.accepted.load()),
    |scrape| per_listener(scrape, &PAUSED, |shard| shard.paused.load()),
    |scrape| per_listener(scrape, &REJECTED, |shard| shard.rejected.load()),
    |scrape| per_listener(scrape, &LATE_HEADS, |shard| shard.late_heads.load()),
    |scrape| per_listener(scrape, &FLOODS, |shard| shard.floods.load()),
    limits::accept_failures,
    limits::pending,
    limits::queue_refused,
    limits::greedy,
    limits::rate_limited,
    workers::requests,
    workers::open,
    workers::busy,
    workers::handed_over,
    weights,
    generations,
    rollouts::phases,
    rollouts::steps,
    rollouts::values,
    rollouts::limits,
    rollouts::verdicts,
    targets_up,
    target_addresses,
    dns_failing,
    dns_lookups,
    ejections,
    |_| family(&BUILD, vec![gauge(&BUILD, &[env!("CARGO_PKG_VERSION")], 1.0)]),
    |scrape| family(&RELOAD, vec![gauge(&RELOAD, &[], f64::from(u8::from(scrape.reload_ok)))]),
    handshakes,
    prefaces,
    expiries,
    |scrape| family(&TLS_RELOAD, vec![gauge(&TLS_RELOAD, &[], f64::from(u8::from(scrape.ground.tls.is_current())))]),
];

fn requests(scrape: &Scrape) -> MetricFamily {
    let mut children = Vec::new();
    for (route, variant, total) in &scrape.variants {
        for (forced, counts) in ["false", "true"].into_iter().zip(&total.requests) {
            let child = |code: Code| counter(&REQUESTS, &[route, variant, code.label(), forced], counts[code as usize]);
            children.extend(Code::ALL.map(child));
        }
    }
    family(&REQUESTS, children)
}

fn request_errors(scrape: &Scrape) -> MetricFamily {
    let mut children = Vec::new();
    for (route, variant, total) in &scrape.variants {
        let child = |of: Reason| counter(&ERRORS, &[route, variant, of.label()], total.errors[of as usize]);
        children.extend(Reason::ALL.map(child));
    }
    family(&ERRORS, children)
}

fn request_timeouts(scrape: &Scrape) -> MetricFamily {
    let mut children = Vec::new();
    for (route, variant, total) in &scrape.variants {
        let child = |of: Timeout| counter(&TIMEOUTS, &[route, variant, of.label()], total.timeouts[of as usize]);
        children.extend(Timeout::ALL.map(child));
    }
    family(&TIMEOUTS, children)
}

fn per_variant(scrape: &Scrape, shape: &Shape, child: fn(&Shape, &[&str], &VariantTotal) -> Metric) -> MetricFamily {
    let children = scrape.variants.iter().map(|(route, variant, total)| child(shape, &[route, variant], total));
    family(shape, children.collect())
}

fn rescued(scrape: &Scrape) -> MetricFamily {
    let mut routes: BTreeMap<&str, u64> = BTreeMap::new();
    for (route, _, total) in &scrape.variants {
        *routes.entry(route).or_default() += total.rescued;
    }
    family(&RESCUED, routes.into_iter().map(|(route, count)| counter(&RESCUED, &[route], count)).collect())
}

fn overhead(scrape: &Scrape) -> MetricFamily {
    let mut total = DurationsTotal::default();
    scrape.ground.outcomes.worker.shards.iter().for_each(|shard| shard.overhead.sum_into(&mut total));
    family(&OVERHEAD, vec![histogram(&OVERHEAD, &[], &total)])
}

fn compressed(scrape: &Scrape) -> MetricFamily {
    per_compressing(scrape, &COMPRESSED, |route, of| {
        let child = |coding: Coding| counter(&COMPRESSED, &[route, coding.name()], of.answers[coding as usize]);
        Coding::ALL.map(child).to_vec()
    })
}

fn compress_bytes(scrape: &Scrape) -> MetricFamily {
    per_compressing(scrape, &COMPRESS_BYTES, |route, of| {
        let child = |direction, bytes| counter(&COMPRESS_BYTES, &[route, direction], bytes);
        vec![child("in", of.bytes_in), child("out", of.bytes_out)]
    })
}

fn per_compressing(
    scrape: &Scrape,
    shape: &Shape,
    children: impl Fn(&str, &CompressTotal) -> Vec<Metric>,
) -> MetricFamily {
    let routes = scrape.ground.outcomes.compressed.iter();
    family(shape, routes.flat_map(|(route, outcomes)| children(route, &outcomes.total())).collect())
}

fn mirrored(scrape: &Scrape) -> MetricFamily {
    let mut children = Vec::new();
    for (route, outcomes) in &scrape.ground.outcomes.mirrors {
        let total = outcomes.total();
        children.extend(Copied::ALL.map(|of| counter(&MIRRORED, &[route, of.label()], total[of as usize])));
    }
    family(&MIRRORED, children)
}

fn unrouted(scrape: &Scrape) -> MetricFamily {
    let count = scrape.ground.outcomes.worker.shards.iter().map(|shard| shard.unrouted.load()).sum();
    family(&UNROUTED, vec![counter(&UNROUTED, &[], count)])
}

fn per_listener(scrape: &Scrape, shape: &Shape, read: fn(&ListenerShard) -> u64) -> MetricFamily {
    let children = scrape.ground.outcomes.listeners.iter().map(|(name, outcomes)| {
        let sum = outcomes.shards.iter().fold(0u64, |sum, shard| sum.wrapping_add(read(shard)));
        match shape.2 {
            MetricType::GAUGE => gauge(shape, &[name], signed(sum)),
            _ => counter(shape, &[name], sum),
        }
    });
    family(shape, children.collect())
}

fn weights(scrape: &Scrape) -> MetricFamily {
    let mut children = Vec::new();
    for (route, live) in scrape.ground.config.routes.iter().zip(&scrape.ground.routes) {
        let effective = effective_weights(route, live, &scrape.ground.pools);
        for (place, variant) in route.variants.iter().enumerate() {
            let kinds = [("live", &live.weights), ("configured", &route.weights), ("effective", &effective)];
            for (kind, weights) in kinds {
                children.push(gauge(&WEIGHT, &[&route.name, &variant.name, kind], weights[place].percent()));
            }
        }
    }
    family(&WEIGHT, children)
}

fn generations(scrape: &Scrape) -> MetricFamily {
    let routes = scrape.ground.config.routes.iter().zip(&scrape.ground.routes);
    let children = routes.map(|(route, live)| gauge(&GENERATION, &[&route.name], live.generation as f64));
    family(&GENERATION, children.collect())
}

fn targets_up(scrape: &Scrape) -> MetricFamily {
    let targets = scrape.ground.pools.iter().flat_map(|pool| pool.targets.iter().map(move |target| (pool, target)));
    let child = |(pool, target): (&Arc<Pool>, &Target)| {
        gauge(&TARGET_UP, &[&pool.name, &target.name], f64::from(u8::from(is_healthy(pool, target))))
    };
    family(&TARGET_UP, targets.map(child).collect())
}

fn target_addresses(scrape: &Scrape) -> MetricFamily {
    let targets = scrape.ground.pools.iter().flat_map(|pool| pool.targets.iter().map(move |target| (pool, target)));
    let child = |(pool, target): (&Arc<Pool>, &Target)| {
        gauge(&TARGET_ADDRESSES, &[&pool.name, &target.name], target.addrs.len() as f64)
    };
    family(&TARGET_ADDRESSES, targets.map(child).collect())
}

/// Of targets that are names.
fn dns_failing(scrape: &Scrape) -> MetricFamily {
    let mut children = Vec::new();
    for pool in &scrape.ground.config.pools {
        for target in &pool.targets {
            if matches!(target, TargetAddr::Name { .. } | TargetAddr::Srv(_)) {
                let failing = scrape.ground.outcomes.names.failing(target).is_some();
                children.push(gauge(&DNS_FAILING, &[&pool.name, &target.to_string()], f64::from(u8::from(failing))));
            }
        }
    }
    family(&DNS_FAILING, children)
}

fn dns_lookups(scrape: &Scrape) -> MetricFamily {
    let [answered, failed] = scrape.ground.outcomes.names.lookups();
    let children = [("answered", answered), ("failed", failed)];
    family(&DNS_LOOKUPS, children.map(|(result, count)| counter(&DNS_LOOKUPS, &[result], count)).into())
}

fn ejections(scrape: &Scrape) -> MetricFamily {
    let mut pools: BTreeMap<&str, [u64; Ejected::ALL.len()]> = BTreeMap::new();
    for ((pool, _), outcomes) in &scrape.ground.outcomes.targets {
        let sums = pools.entry(pool).or_default();
        sums.iter_mut().zip(outcomes.ejected.load()).for_each(|(sum, count)| *sum += count);
    }
    let of_pool = |(pool, sums): (&str, [u64; Ejected::ALL.len()])| {
        Ejected::ALL.map(|why| counter(&EJECTIONS, &[pool, why.label()], sums[why as usize]))
    };
    family(&EJECTIONS, pools.into_iter().flat_map(of_pool).collect())
}

fn handshakes(scrape: &Scrape) -> MetricFamily {
    let listeners = scrape.ground.tls.listeners();
    let mut children = Vec::new();
    for (name, outcomes) in &scrape.ground.outcomes.listeners {
        let count = |of: Handshake| outcomes.shards.iter().map(|shard| shard.handshakes[of as usize].load()).sum();
        let counts: [u64; 5] = Handshake::ALL.map(count);
        // A listener without TLS has none, unless it had TLS before a reload.
        if listeners.contains_key(name) || counts != [0; 5] {
            let child = |of: Handshake| counter(&HANDSHAKES, &[name, of.label()], counts[of as usize]);
            children.extend(Handshake::ALL.map(child));
        }
    }
    family(&HANDSHAKES, children)
}

fn prefaces(scrape: &Scrape) -> MetricFamily {
    let config = &scrape.ground.config;
    let listeners = config.listeners.iter().filter(|listener| listener.proxy_protocol.is_some());
    let of_listener = |listener: &Listener| {
        let outcomes = scrape.ground.outcomes.listener(&listener.name);
        let count = |of: RefusedPreface| outcomes.shards.iter().map(|shard| shard.prefaces[of as usize].load()).sum();
        RefusedPreface::ALL.map(|of| counter(&PREFACES, &[&listener.name, of.label()], count(of)))
    };
    family(&PREFACES, listeners.flat_map(of_listener).collect())
}

fn expiries(scrape: &Scrape) -> MetricFamily {
    let expiries = scrape.ground.tls.expiries();
    family(&EXPIRY, expiries.iter().map(|(name, expiry)| gauge(&EXPIRY, &[name], *expiry as f64)).collect())
}

/// A gauge that was added to on one worker and taken from on another.
fn signed(sum: u64) -> f64 {
    sum.cast_signed() as f64
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
