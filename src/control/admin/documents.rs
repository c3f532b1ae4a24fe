//! What the API shows: ground state and counters as JSON.

use super::problem::Problem;
use super::rollouts::brief;
use crate::boundary::mirror::Copied;
use crate::boundary::outcomes::{
    Code, DurationsTotal, Handshake, ListenerShard, Reason, RefusedPreface, Timeout, VariantTotal, WorkerShard,
};
use crate::boundary::pools::QueueRefusal;
use crate::boundary::table::{Pool, Standing, Target};
use crate::config::RouteConfig;
use crate::control::StateStatus;
use crate::control::command::{Changed, ReloadSummary, RouteView};
use crate::control::derive::effective_weights;
use crate::control::ground::Ground;
use crate::control::history::{Revision, percent, rfc3339, shares};
use crate::control::metrics::workers::requests_of;
use crate::control::outcomes::compresses;
use crate::control::rollout::view::View;
use crate::limits::DURATION_BOUNDS_US;
use crate::routing::compress::Coding;
use crate::routing::split::Weight;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// One route. Weights are percent.
#[derive(Debug, Serialize)]
pub struct RouteDocument {
    name: String,
    pub generation: u64,
    baseline: String,
    variants: Vec<VariantDocument>,
    /// Under way, or the last one.
    rollout: Option<Value>,
}

#[derive(Debug, Serialize)]
struct VariantDocument {
    name: String,
    /// None: the route answers by itself.
    pool: Option<String>,
    version: Option<String>,
    weight: Value,
    configured_weight: Value,
    effective_weight: Value,
    targets: usize,
    healthy_targets: usize,
}

pub fn route_with(view: &RouteView, rollout: Option<&Arc<View>>) -> RouteDocument {
    RouteDocument { rollout: rollout.map(|rollout| brief(rollout)), ..route(view) }
}

/// Without its rollout.
pub fn route(view: &RouteView) -> RouteDocument {
    let config = &view.config.routes[view.index];
    let effective = effective_weights(config, &view.live, &view.pools);
    let variants = config.variants.iter().enumerate().map(|(place, variant)| {
        let pool = variant.pool.map(|pool| &view.pools[pool]);
        VariantDocument {
            name: variant.name.clone(),
            pool: pool.map(|pool| pool.name.clone()),
            version: variant.pool.and_then(|pool| view.config.pools[pool].version.clone()),
            weight: percent(view.live.weights[place]),
            configured_weight: percent(config.weights[place]),
            effective_weight: percent(effective[place]),
            targets: pool.map_or(0, |pool| pool.targets.len()),
            healthy_targets: pool.map_or(0, |pool| pool.targets.iter().filter(|one| is_healthy(pool, one)).count()),
        }
    });
    RouteDocument {
        name: config.name.clone(),
        generation: view.live.generation,
        baseline: config.variants[0].name.clone(),
        variants: variants.collect(),
        rollout: None,
    }
}

/// It is up, has an address and is not ejected. Where nobody asks it, no worker's last connect failed, either.
pub fn is_healthy(pool: &Pool, target: &Target) -> bool {
    let up = target.standing == Standing::Up && !target.addrs.is_empty();
    up && !target.is_ejected() && (pool.checked || target.is_reached())
}

/// What a change would do, and the share of clients that it would move to another variant.
pub fn dry_run(change: &Changed) -> Value {
    let (before, after) = (&change.before, &change.route.live);
    let config = &change.route.config.routes[change.route.index];
    let moved = before.assignment.buckets_moved(&after.assignment);
    let mut document = json!({
        "route": config.name,
        "dry_run": true,
        "generation": before.generation,
        "before": weights(config, &before.weights),
        "after": weights(config, &after.weights),
        "changed": change.changed(),
        "clients_moved_percent": Weight::from_thousandths(moved).map_or(Value::Null, percent),
    });
    add_outcome(&mut document, change);
    document
}

pub fn reload(summary: &ReloadSummary) -> Value {
    let installed = &summary.installed;
    json!({
        "routes": installed.routes,
        "pools": installed.pools,
        "added": installed.added,
        "removed": installed.removed,
        "file_won": installed.file_won,
        "live_kept": installed.live_kept,
        "needs_restart": installed.needs_restart,
        "warnings": summary.report.to_json()["warnings"],
    })
}

/// Where live state is kept, and what was set aside at start.
pub fn state(state: &StateStatus) -> Value {
    let Some(dir) = &state.dir else { return json!({"status": "memory only"}) };
    let (aside, detail) = match (&state.set_aside, &state.history_set_aside) {
        (Some(aside), _) => (aside, "the state file found at start was not used"),
        (None, Some(aside)) => (aside, "of the history found at start only a part could be read"),
        (None, None) => return json!({"status": "saved", "dir": dir}),
    };
    json!({"status": "set aside", "dir": dir, "file": aside.path, "detail": format!("{detail}: {}", aside.why)})
}

/// Exact counts, as integers; durations in microseconds.
pub fn stats(ground: &Ground, state_status: &StateStatus) -> Value {
    let routes = ground.views().map(|view| {
        let config = &view.config.routes[view.index];
        let variants = config.variants.iter().zip(&view.live.outcomes).map(|(variant, outcomes)| {
            let mut document = variant_stats(&outcomes.total());
            document.insert("name".to_owned(), json!(variant.name));
            Value::Object(document)
        });
        json!({
            "name": config.name, "generation": view.live.generation,
            "weights": weights(config, &view.live.weights), "variants": variants.collect::<Vec<_>>(),
            "mirrored": mirrored(ground, config),
            "compressed": compressed(ground, config),
            "rate_limited": ground.outcomes.rate(config).map(|limiter| limiter.outcomes.limited()),
        })
    });
    let worker = &ground.outcomes.worker;
    let mut overhead = DurationsTotal::default();
    worker.shards.iter().for_each(|shard| shard.overhead.sum_into(&mut overhead));
    let listeners = ground.config.listeners.iter().map(|listener| {
        let shards = &ground.outcomes.listener(&listener.name).shards;
        json!({
            "name": listener.name,
            "open": shards.iter().fold(0u64, |sum, shard| sum.wrapping_add(shard.open.load())),
            "accepted": shards.iter().map(|shard| shard.accepted.load()).sum::<u64>(),
            "paused": shards.iter().map(|shard| shard.paused.load()).sum::<u64>(),
            "refused": shards.iter().map(|shard| shard.greedy.load()).sum::<u64>(),
            "accept_failures": shards.iter().map(|shard| shard.accept_failures.load()).sum::<u64>(),
            "rejected": shards.iter().map(|shard| shard.rejected.load()).sum::<u64>(),
            "header_timeouts": shards.iter().map(|shard| shard.late_heads.load()).sum::<u64>(),
            "http2_floods": shards.iter().map(|shard| shard.floods.load()).sum::<u64>(),
            "handshakes": handshakes(shards),
            "proxy_protocol_refused": prefaces(shards),
        })
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "workers": ground.outcomes.workers(),
        "per_worker": workers(ground),
        "bucket_bounds_us": DURATION_BOUNDS_US,
        "state": state(state_status),
        "unrouted": worker.shards.iter().map(|shard| shard.unrouted.load()).sum::<u64>(),
        "overhead": durations(&overhead),
        "listeners": listeners.collect::<Vec<_>>(),
        "pools": ground.pools.iter().map(|pool| pool_stats(pool)).collect::<Vec<_>>(),
        "routes": routes.collect::<Vec<_>>(),
    })
}

/// What each worker does; `busy` in thousandths of its time.
fn workers(ground: &Ground) -> Vec<Value> {
    let shards = requests_of(&ground.outcomes).into_iter().zip(&ground.outcomes.worker.shards);
    let worker = |(requests, shard): (u64, &WorkerShard)| {
        json!({
            "requests": requests,
            "connections": shard.open.load(Relaxed),
            "busy": shard.busy.load(),
            "handed_over": shard.handed_over.load(),
        })
    };
    shards.map(worker).collect()
}

/// TLS handshakes of a listener, by how they ended.
fn handshakes(shards: &[ListenerShard]) -> Value {
    let count = |of: Handshake| shards.iter().map(|shard| shard.handshakes[of as usize].load()).sum::<u64>();
    Handshake::ALL.iter().map(|of| (of.label().to_owned(), json!(count(*of)))).collect::<Map<_, _>>().into()
}

/// Connections without a valid PROXY protocol header, by why.
fn prefaces(shards: &[ListenerShard]) -> Value {
    let count = |of: RefusedPreface| shards.iter().map(|shard| shard.prefaces[of as usize].load()).sum::<u64>();
    RefusedPreface::ALL.iter().map(|of| (of.label().to_owned(), json!(count(*of)))).collect::<Map<_, _>>().into()
}

/// The answer to a change of weights that was refused, with the route as it is where the generation was old.
pub fn stale(view: &RouteView) -> Problem {
    let document = route(view);
    let detail = format!(
        "route {:?} is at generation {} by now: somebody else changed it; look at it again and repeat",
        document.name, document.generation
    );
    Problem::new(412, "generation-changed", detail).field("header:if-match").with("current", json!(document))
}

/// The route as a change left it, and what became of the change.
pub fn changed(change: &Changed) -> Value {
    let mut document = json!(route(&change.route));
    document["changed"] = json!(change.changed());
    add_outcome(&mut document, change);
    document
}

fn add_outcome(document: &mut Value, change: &Changed) {
    if let Some(to) = change.to {
        document["to"] = json!(to);
    }
    if !change.overrode.is_empty() {
        document["overrode"] = json!(change.overrode);
    }
}

/// A route's newest revisions, newest first.
pub fn history(view: &RouteView, limit: usize) -> Value {
    let entries = view.live.history.entries().iter().rev().take(limit);
    json!({
        "route": view.name(),
        "generation": view.live.generation,
        "revisions": entries.map(|entry| revision(&entry.revision())).collect::<Vec<_>>(),
    })
}

fn revision(revision: &Revision) -> Value {
    let mut document = json!({
        "generation": revision.generation,
        "time": rfc3339(revision.time),
        "actor": revision.origin.actor,
        "source": revision.origin.source,
        "action": revision.action,
        "reason": revision.origin.reason,
        "before": shares(&revision.before),
        "after": shares(&revision.after()),
    });
    if let Some(to) = revision.to {
        document["to"] = json!(to);
    }
    if !revision.overrode.is_empty() {
        document["overrode"] = json!(revision.overrode);
    }
    document
}

pub fn weights(config: &RouteConfig, weights: &[Weight]) -> Value {
    let shares = config.variants.iter().zip(weights);
    Value::Object(shares.map(|(variant, weight)| (variant.name.clone(), percent(*weight))).collect())
}

fn variant_stats(total: &VariantTotal) -> Map<String, Value> {
    let by_code = |counts: &[u64; 6]| -> Value {
        Value::Object(Code::ALL.iter().map(|code| (code.label().to_owned(), json!(counts[*code as usize]))).collect())
    };
    let errors = Reason::ALL.iter().map(|reason| (reason.label().to_owned(), json!(total.errors[*reason as usize])));
    let timeouts = Timeout::ALL.iter().map(|of| (of.label().to_owned(), json!(total.timeouts[*of as usize])));
    let members = [
        ("requests", json!(total.requests.iter().flatten().sum::<u64>())),
        ("unforced", by_code(&total.requests[0])),
        ("forced", by_code(&total.requests[1])),
        ("errors", Value::Object(errors.collect())),
        ("timeouts", Value::Object(timeouts.collect())),
        ("retries", json!(total.retries)),
        ("rescued", json!(total.rescued)),
        ("in_flight", json!(total.in_flight)),
        ("tunnels", json!(total.tunnels)),
        ("duration", durations(&total.duration)),
        ("upstream", durations(&total.upstream)),
    ];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Null for a route that has no mirror.
fn mirrored(ground: &Ground, route: &RouteConfig) -> Value {
    if route.mirror.is_none() {
        return Value::Null;
    }
    let total = ground.outcomes.mirror(&route.name).total();
    Value::Object(Copied::ALL.iter().map(|of| (of.label().to_owned(), json!(total[*of as usize]))).collect())
}

/// Null for a route that does not compress.
fn compressed(ground: &Ground, route: &RouteConfig) -> Value {
    let Some(outcomes) = ground.outcomes.compressed(&route.name).filter(|_| compresses(route)) else {
        return Value::Null;
    };
    let total = outcomes.total();
    let answers = Coding::ALL.map(|coding| (coding.name().to_owned(), json!(total.answers[coding as usize])));
    json!({
        "answers": Value::Object(answers.into_iter().collect()),
        "skipped": total.skipped,
        "bytes_in": total.bytes_in,
        "bytes_out": total.bytes_out,
    })
}

/// Buckets are not cumulative; their bounds are in the document once, and the last bucket has none.
fn durations(total: &DurationsTotal) -> Value {
    json!({"count": total.buckets.iter().sum::<u64>(), "sum_us": total.sum_us, "buckets": total.buckets})
}

fn pool_stats(pool: &Pool) -> Value {
    let targets = pool.targets.iter().map(|target| {
        let shards = &target.outcomes.shards;
        json!({
            "name": target.name,
            "addresses": target.addrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "healthy": is_healthy(pool, target),
            "standing": target.standing.word(),
            "ejected": target.is_ejected(),
            "connects": shards.iter().map(|shard| shard.connects.load()).sum::<u64>(),
            "connect_failures": shards.iter().map(|shard| shard.connect_failures.load()).sum::<u64>(),
            "in_flight": shards.iter().fold(0u64, |sum, shard| sum.wrapping_add(shard.in_flight.load())),
        })
    });
    let refused = QueueRefusal::ALL.map(|why| (why.label().to_owned(), json!(pool.outcomes.refused(why))));
    json!({
        "name": pool.name,
        "targets": targets.collect::<Vec<_>>(),
        "pending": pool.outcomes.pending(),
        "queue_refused": Value::Object(refused.into_iter().collect()),
    })
}
