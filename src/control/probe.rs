//! Whether a pool's targets can be reached now: asked before everything is switched to them.

use super::command::{BadTarget, ChangeError, Edit, WeightChange};
use super::ground::{Ground, place_of};
use crate::boundary::table::{Pool, Target};
use crate::limits::{PROBE_TIMEOUT, PROBES};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How often a target must accept in a row where a worker's last connect to it failed: one success may be luck then.
const DOUBTFUL_CONNECTS: u32 = 3;

/// Before a switch: asks the targets that everything is to go to. Other changes, and a switch to where everything is
/// already, ask nobody.
pub async fn before(ground: &Ground, change: &mut WeightChange) -> Result<(), ChangeError> {
    let Edit::Switch(switch) = &mut change.edit else { return Ok(()) };
    let view = ground.route(&change.route).ok_or_else(|| ChangeError::NoRoute(change.route.clone()))?;
    if change.if_match.as_ref().is_some_and(|wanted| !wanted.allows(view.live.generation)) {
        return Err(ChangeError::Stale(Box::new(view)));
    }
    let route = &view.config.routes[view.index];
    let place = place_of(route, &switch.to)?;
    if view.live.assignment.runs().iter().all(|run| usize::from(run.variant) == place) {
        return Ok(());
    }
    let pool = Arc::clone(&view.pools[route.variants[place].pool]);
    let targets = bad_targets(&pool).await;
    if !targets.is_empty() && !switch.force {
        return Err(ChangeError::Unhealthy { variant: switch.to.clone(), targets });
    }
    switch.overrode = targets.iter().map(ToString::to_string).collect();
    switch.probed = Some(pool);
    Ok(())
}

/// Every target of the pool that is not healthy, in the file's order. Every address must accept a connection.
async fn bad_targets(pool: &Pool) -> Vec<BadTarget> {
    let patience = pool.connect_timeout.min(PROBE_TIMEOUT);
    let places = Arc::new(Semaphore::new(PROBES));
    let mut probes = JoinSet::new();
    let mut bad: Vec<(usize, String)> = Vec::new();
    for (at, target) in pool.targets.iter().enumerate() {
        if target.addrs.is_empty() {
            bad.push((at, "its name has no address".to_owned()));
        }
        for addr in target.addrs.iter().copied() {
            let (places, times) = (Arc::clone(&places), connects(target));
            probes.spawn(async move {
                let _place = places.acquire().await;
                (at, addr, probe(addr, times, patience).await)
            });
        }
    }
    while let Some(done) = probes.join_next().await {
        let Ok((at, addr, result)) = done else { continue };
        let Err(why) = result else { continue };
        let several = pool.targets[at].addrs.len() > 1 || pool.targets[at].name != addr.to_string();
        bad.push((at, if several { format!("{addr}: {why}") } else { why }));
    }
    bad.sort_unstable();
    bad.into_iter().map(|(at, why)| BadTarget { target: pool.targets[at].name.clone(), why }).collect()
}

fn connects(target: &Target) -> u32 {
    if target.outcomes.is_up() { 1 } else { DOUBTFUL_CONNECTS }
}

async fn probe(addr: SocketAddr, times: u32, patience: Duration) -> Result<(), String> {
    for _ in 0..times {
        match tokio::time::timeout(patience, TcpStream::connect(addr)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error.kind().to_string()),
            Err(_) => return Err(format!("no answer in {patience:?}")),
        }
    }
    Ok(())
}
