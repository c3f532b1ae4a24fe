//! Pools and their targets: who gets requests, who does not, and why.

use super::Api;
use super::documents::is_healthy;
use super::handlers::document;
use crate::boundary::table::{Pool, Target};
use crate::config::{PoolConfig, TargetAddr};
use crate::control::ground::Ground;
use crate::control::health::{self, Board};
use crate::control::history::rfc3339;
use crate::net::address::Address;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

pub async fn pools(State(api): State<Api>) -> Response {
    let ground = api.control.ground();
    document(StatusCode::OK, &shown(&ground, &api.control.shared.board))
}

fn shown(ground: &Ground, board: &Board) -> Value {
    let pools = ground.config.pools.iter().zip(&*ground.pools).map(|(config, pool)| {
        let targets = config.targets.iter().zip(&pool.targets);
        json!({
            "name": pool.name,
            "version": pool.version,
            "checked": pool.checked,
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
    json!({
        "name": built.name,
        "addresses": built.addrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "standing": built.standing.word(),
        "healthy": is_healthy(pool, built),
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
