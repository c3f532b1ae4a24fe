//! Ground state to what the data plane sees. Derived whole each time and never edited; parts that did not change are
//! shared with the table before, so that a worker can tell by the pointer that a pool is the one it knows.

use super::ground::{Addresses, Ground};
use super::outcomes::{Registry, target_name};
use super::tls::Tls;
use crate::boundary::table::{Pool, Published, Settings, Target};
use crate::config::{Config, PoolConfig, PoolTls, TargetAddr};
use crate::routing::table::{Route, RoutingTable, Variant};
use crate::tls::client;
use rustls::pki_types::ServerName;
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
        close_moved_within: route.close_moved_within,
    });
    Published {
        serial,
        routing: RoutingTable::new(routes.collect()),
        pools: ground.pools.to_vec(),
        outcomes: ground.routes.iter().map(|live| live.outcomes.clone()).collect(),
        generations: ground.routes.iter().map(|live| live.generation).collect(),
        tls: ground.tls.listeners(),
        settings: Settings {
            trusted_proxies: config.server.trusted_proxies.clone(),
            limits: config.limits,
            identity_headers: ground.tls.identity_headers(),
        },
    }
}

/// The configuration's pools. One that is configured and resolved as it was before is the same `Arc`.
pub fn pools(
    config: &Config,
    addresses: &Addresses,
    tls: &Tls,
    outcomes: &Registry,
    previous: &[(&PoolConfig, Arc<Pool>)],
) -> Arc<[Arc<Pool>]> {
    let known: std::collections::HashMap<&str, &(&PoolConfig, Arc<Pool>)> =
        previous.iter().map(|entry| (entry.0.name.as_str(), entry)).collect();
    let pool = |pool: &PoolConfig| {
        let same = known.get(pool.name.as_str()).filter(|(config, built)| {
            *config == pool
                && built.tls.as_ref().map(Arc::as_ptr) == tls.client(&pool.name).as_ref().map(Arc::as_ptr)
                && pool
                    .targets
                    .iter()
                    .zip(&built.targets)
                    .all(|(target, built)| built.addrs == addrs(target, addresses))
        });
        match same {
            Some((_, built)) => Arc::clone(built),
            None => Arc::new(build_pool(pool, addresses, tls, outcomes)),
        }
    };
    config.pools.iter().map(pool).collect()
}

fn build_pool(pool: &PoolConfig, addresses: &Addresses, tls: &Tls, outcomes: &Registry) -> Pool {
    let target = |target: &TargetAddr| {
        let name = target_name(target);
        let outcomes = outcomes.target(&pool.name, &name);
        let server_name = pool.tls.as_ref().and_then(|tls| server_name(tls, target));
        Target { name, addrs: addrs(target, addresses), server_name, outcomes }
    };
    Pool {
        name: pool.name.clone(),
        version: pool.version.clone(),
        targets: pool.targets.iter().map(target).collect(),
        connect_timeout: pool.connect_timeout,
        http2: pool.http2,
        max_connections: pool.max_connections,
        queue_timeout: pool.queue_timeout,
        tls: tls.client(&pool.name),
    }
}

/// What the target must prove to be: by the configuration, else the host of its address.
fn server_name(tls: &PoolTls, target: &TargetAddr) -> Option<ServerName<'static>> {
    match (&tls.server_name, target) {
        (Some(name), _) => client::server_name(name),
        (None, TargetAddr::Name { host, .. }) => client::server_name(host),
        (None, TargetAddr::Ip(addr)) => Some(ServerName::from(addr.ip())),
    }
}

fn addrs(target: &TargetAddr, addresses: &Addresses) -> Vec<SocketAddr> {
    match target {
        TargetAddr::Ip(addr) => vec![*addr],
        TargetAddr::Name { host, port } => addresses.get(&(host.clone(), *port)).cloned().unwrap_or_default(),
    }
}
