//! Ground state to what the data plane sees. Derived whole each time and never edited; parts that did not change are
//! shared with the table before, so that a worker can tell by the pointer that a pool is the one it knows.

use super::ground::{Addresses, Ground};
use super::outcomes::{Registry, target_name};
use crate::boundary::mirror::Mirroring;
use crate::boundary::table::{Pool, Published, Settings, Target};
use crate::config::{Config, PoolConfig, RouteConfig, TargetAddr};
use crate::routing::table::{Route, RoutingTable, Variant};
use std::net::SocketAddr;
use std::sync::Arc;

/// The table of this ground state.
pub fn table(ground: &Ground, serial: u64) -> Published {
    let config = &ground.config;
    let routes = config.routes.iter().zip(&ground.routes).map(|(route, live)| Route {
        name: route.name.clone(),
        matches: route.matches.clone(),
        variants: route.variants.iter().map(|v| Variant { name: v.name.clone(), pool: v.pool }).collect(),
        assignment: live.assignment.clone(),
        rules: route.rules.clone(),
        sticky: route.sticky.clone(),
        timeout: route.timeout,
    });
    Published {
        serial,
        routing: RoutingTable::new(routes.collect()),
        pools: ground.pools.to_vec(),
        outcomes: ground.routes.iter().map(|live| live.outcomes.clone()).collect(),
        mirrors: mirrors(config, &ground.outcomes),
        settings: Settings { trusted_proxies: config.server.trusted_proxies.clone(), limits: config.limits },
    }
}

/// Each route's mirror.
fn mirrors(config: &Config, outcomes: &Registry) -> Vec<Option<Box<Mirroring>>> {
    let mut serving = vec![false; config.pools.len()];
    config.routes.iter().flat_map(|route| &route.variants).for_each(|variant| serving[variant.pool] = true);
    let mirroring = |route: &RouteConfig| {
        let mirror = route.mirror.clone()?;
        let shares_pool = serving[mirror.pool];
        Some(Box::new(Mirroring { mirror, shares_pool, outcomes: outcomes.mirror(&route.name) }))
    };
    config.routes.iter().map(mirroring).collect()
}

/// The configuration's pools. One that is configured and resolved as it was before is the same `Arc`.
pub fn pools(
    config: &Config,
    addresses: &Addresses,
    outcomes: &Registry,
    previous: &[(&PoolConfig, Arc<Pool>)],
) -> Arc<[Arc<Pool>]> {
    let known: std::collections::HashMap<&str, &(&PoolConfig, Arc<Pool>)> =
        previous.iter().map(|entry| (entry.0.name.as_str(), entry)).collect();
    let pool = |pool: &PoolConfig| {
        let same = known.get(pool.name.as_str()).filter(|(config, built)| {
            *config == pool
                && pool
                    .targets
                    .iter()
                    .zip(&built.targets)
                    .all(|(target, built)| built.addrs == addrs(target, addresses))
        });
        match same {
            Some((_, built)) => Arc::clone(built),
            None => Arc::new(build_pool(pool, addresses, outcomes)),
        }
    };
    config.pools.iter().map(pool).collect()
}

fn build_pool(pool: &PoolConfig, addresses: &Addresses, outcomes: &Registry) -> Pool {
    let target = |target: &TargetAddr| {
        let name = target_name(target);
        let outcomes = outcomes.target(&pool.name, &name);
        Target { name, addrs: addrs(target, addresses), outcomes }
    };
    Pool {
        name: pool.name.clone(),
        targets: pool.targets.iter().map(target).collect(),
        connect_timeout: pool.connect_timeout,
        max_connections: pool.max_connections,
        queue_timeout: pool.queue_timeout,
    }
}

fn addrs(target: &TargetAddr, addresses: &Addresses) -> Vec<SocketAddr> {
    match target {
        TargetAddr::Ip(addr) => vec![*addr],
        TargetAddr::Name { host, port } => addresses.get(&(host.clone(), *port)).cloned().unwrap_or_default(),
    }
}
