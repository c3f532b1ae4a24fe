//! Pools and their targets: who gets requests, who does not, and why.

use super::access::{Actor, Peer};
use super::changes::{idempotency_key, remember};
use super::documents::is_healthy;
use super::handlers::{document, not_saved, stopping};
use super::problem::Problem;
use super::{Api, body};
use crate::boundary::table::{Pool, Target};
use crate::config::{PoolConfig, TargetAddr};
use crate::control::command::{DrainError, DrainOrder, Origin};
use crate::control::ground::Ground;
use crate::control::health::{self, Board};
use crate::control::history::rfc3339;
use crate::net::address::Address;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::time::Instant;

pub async fn pools(State(api): State<Api>) -> Response {
    let ground = api.control.ground();
    document(StatusCode::OK, &shown(&ground, &api.control.shared.board))
}

type Place = Result<Path<(String, String)>, PathRejection>;

pub async fn drain(State(api): State<Api>, place: Place, request: Request) -> Response {
    order(api, place, request, true).await.unwrap_or_else(Problem::into_response)
}

pub async fn enable(State(api): State<Api>, place: Place, request: Request) -> Response {
    order(api, place, request, false).await.unwrap_or_else(Problem::into_response)
}

async fn order(api: Api, place: Place, request: Request, drain: bool) -> Result<Response, Problem> {
    let Ok(Path((pool, target))) = place else { return Err(refusal(&DrainError::NoPool(String::new()))) };
    let dry_run = body::dry_run(request.uri().query())?;
    let (parts, sent) = request.into_parts();
    let bytes = body::read_json_or_nothing(&parts.headers, sent).await?;
    let reason = body::reason(&bytes)?;
    let actor = parts.extensions.get::<Actor>().map_or("unknown", |actor| actor.0.as_str()).to_owned();
    let source = parts.extensions.get::<Peer>().map_or("unknown", |peer| &peer.source).to_owned();
    let order = DrainOrder { pool, target, drain, origin: Origin { actor: actor.clone(), source, reason } };
    if dry_run {
        let now = api.control.ground();
        let would = now.drained(&order).map_err(|error| refusal(&error))?;
        let changed = would.is_some();
        let mut drained = drained(&would.unwrap_or_else(|| Ground::clone(&now)), &api, &order, changed);
        drained["dry_run"] = json!(true);
        return Ok(document(StatusCode::OK, &drained));
    }
    let key = idempotency_key(&parts.headers, actor);
    let request = [parts.method.as_str().as_bytes(), parts.uri.path().as_bytes(), &bytes].join(&0);
    let request = xxhash_rust::xxh3::xxh3_64(&request);
    if let Some(key) = &key
        && let Some(answer) = api.remembered.begin(key, request, Instant::now())?
    {
        return Ok((answer.status, answer.headers, answer.body).into_response());
    }
    // To its end, also when the client goes away meanwhile.
    let ordering = tokio::spawn(async move {
        let response = match api.control.drain(&order).await {
            Ok(changed) => document(StatusCode::OK, &drained(&api.control.ground(), &api, &order, changed)),
            Err(error) => refusal(&error).into_response(),
        };
        match key {
            Some(key) => remember(&api, &key, response).await,
            None => response,
        }
    });
    ordering.await.map_err(|_| stopping())
}

fn refusal(error: &DrainError) -> Problem {
    match error {
        DrainError::NoPool(_) => Problem::new(404, "no-such-pool", format!("{error}; GET /api/v1/pools lists them")),
        DrainError::NoTarget { .. } => {
            Problem::new(404, "no-such-target", format!("{error}; GET /api/v1/pools lists them"))
        }
        DrainError::NotSaved(error) => not_saved(error),
        DrainError::Stopped => stopping(),
    }
}

/// The target as it stands after the order, and how many of its pool may still get requests.
fn drained(ground: &Ground, api: &Api, order: &DrainOrder, changed: bool) -> Value {
    let mut document = json!({});
    let pools = ground.config.pools.iter().zip(&*ground.pools).find(|(config, _)| config.name == order.pool);
    if let Some((config, pool)) = pools {
        let named = config.targets.iter().zip(&pool.targets).find(|(_, built)| built.name == order.target);
        document = named.map_or(document, |named| target(ground, &api.control.shared.board, (config, pool), named));
        document["usable_targets"] = json!(pool.targets.iter().filter(|one| one.is_usable()).count());
    }
    document["pool"] = json!(order.pool);
    document["changed"] = json!(changed);
    document
}

fn shown(ground: &Ground, board: &Board) -> Value {
    let pools = ground.config.pools.iter().zip(&*ground.pools).map(|(config, pool)| {
        let targets = config.targets.iter().zip(&pool.targets);
        json!({
            "name": pool.name,
            "version": pool.version,
            "checked": pool.checked,
            "balance": pool.balance.word(),
            "targets": targets.map(|(written, built)| target(ground, board, (config, pool), (written, built))).collect::<Vec<_>>(),
        })
    });
    json!({"pools": pools.collect::<Vec<_>>()})
}

/// One target as it stands now.
pub fn target(
    ground: &Ground,
    board: &Board,
    (config, pool): (&PoolConfig, &Pool),
    (written, built): (&TargetAddr, &Target),
) -> Value {
    let checks = built.addrs.iter().filter_map(|addr| check(ground, board, config, written, addr));
    let verdicts = built.addrs.iter().filter_map(|addr| ground.health.verdict(config, written, addr));
    let since = verdicts.filter(|verdict| verdict.standing == built.standing).map(|verdict| verdict.since).max();
    let endpoints = built.addrs.iter().zip(&built.endpoints).map(|(addr, endpoint)| {
        json!({
            "address": addr.to_string(),
            "weight": endpoint.weight,
            "standing": endpoint.standing.word(),
            "ejected": endpoint.outcomes.ejection.is_out(),
        })
    });
    json!({
        "name": built.name,
        "dns_failing": ground.outcomes.names.failing(written).as_deref(),
        "addresses": built.addrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "weight": config.weights[config.targets.iter().position(|one| one == written).unwrap_or_default()],
        "endpoints": endpoints.collect::<Vec<_>>(),
        "standing": built.standing.word(),
        "healthy": is_healthy(pool, built),
        "ejected": built.is_ejected(),
        "since": since.map(rfc3339),
        "why": Some(health::why(&ground.health, config, written, &built.addrs)).filter(|why| !why.is_empty()),
        "checks": checks.collect::<Vec<_>>(),
        "in_flight": built.outcomes.shards.iter().fold(0u64, |sum, shard| sum.wrapping_add(shard.in_flight.load())),
    })
}

/// What an address was last asked, and what it said.
fn check(ground: &Ground, board: &Board, pool: &PoolConfig, target: &TargetAddr, addr: &Address) -> Option<Value> {
    let heard = board.last(&health::key(pool, target, addr, pool.health.as_ref()?))?;
    let (Ok(said) | Err(said)) = &heard.answer;
    let standing = ground.health.verdict(pool, target, addr).map_or("unknown", |verdict| verdict.standing.word());
    Some(json!({
        "address": addr.to_string(),
        "standing": standing,
        "time": rfc3339(heard.at),
        "passed": heard.answer.is_ok(),
        "said": &**said,
    }))
}
