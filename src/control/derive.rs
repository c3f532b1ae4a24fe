//! Ground state to what the data plane sees. Derived whole each time and never edited; parts that did not change are
//! shared with the table before, so that a worker can tell by the pointer that a pool is the one it knows.

use super::ground::{Addresses, Ground, LiveRoute};
use super::health::Health;
use super::outcomes::{Registry, target_name};
use super::tls::Tls;
use crate::boundary::judged::JudgedRoute;
use crate::boundary::mirror::Mirroring;
use crate::boundary::table::{Endpoint, ListenerLimits, Pool, Published, Settings, Target};
use crate::config::{Config, OnEmpty, PREVIEW_RULE, PoolConfig, PoolTls, RouteConfig, TargetAddr, VariantConfig};
use crate::net::address::Address;
use crate::routing::rule::{Outcome, Rule};
use crate::routing::split::Weight;
use crate::routing::table::{Route, RoutingTable, Variant};
use crate::tls::client;
use rustls::pki_types::ServerName;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The table of this ground state.
pub fn table(ground: &Ground, serial: u64) -> Published {
    let config = &ground.config;
    let routes = config.routes.iter().zip(&ground.routes).map(|(route, live)| Route {
        name: route.name.clone(),
        matches: route.matches.clone(),
        variants: variants(route, &ground.pools),
        assignment: live.assignment.clone(),
        rules: preview(route, live).into_iter().chain(route.rules.iter().cloned()).collect(),
        sticky: route.sticky.clone(),
        salt: route.salt.clone(),
        timeout: route.timeout,
        request_timeout: route.request_timeout,
        close_moved_within: route.close_moved_within,
        filters: route.filters.clone(),
        recovery: route.recovery.clone(),
    });
    Published {
        serial,
        routing: RoutingTable::new(routes.collect()),
        pools: ground.pools.to_vec(),
        outcomes: ground.routes.iter().map(|live| live.outcomes.clone()).collect(),
        mirrors: mirrors(config, &ground.outcomes),
        compressed: config.routes.iter().map(|route| ground.outcomes.compressed(&route.name)).collect(),
        rates: config.routes.iter().map(|route| ground.outcomes.rate(route)).collect(),
        listener_limits: listener_limits(config),
        generations: ground.routes.iter().map(|live| live.generation).collect(),
        redact: config.provenance.clone(),
        tls: ground.tls.listeners(),
        judged: config.routes.iter().zip(&ground.routes).map(|(route, live)| judged(route, live)).collect(),
        settings: Settings {
            trusted_proxies: config.server.trusted_proxies.clone(),
            limits: config.limits,
            identity_headers: ground.tls.identity_headers(),
        },
    }
}

fn variants(route: &RouteConfig, pools: &[Arc<Pool>]) -> Vec<Variant> {
    let variant = |(variant, instead): (&VariantConfig, Option<usize>)| Variant {
        name: variant.name.clone(),
        pool: variant.pool,
        instead,
    };
    route.variants.iter().zip(instead(route, pools)).map(variant).collect()
}

/// For each variant the one that answers its requests at present, where it has no target for them and `on_empty` says
/// so. None too where the baseline has none either: then the failure is that of the variant that was to answer.
fn instead(route: &RouteConfig, pools: &[Arc<Pool>]) -> impl Iterator<Item = Option<usize>> {
    let is_empty = |variant: &VariantConfig| variant.pool.is_some_and(|pool| pools[pool].best().is_none());
    let baseline = route.on_empty == OnEmpty::Baseline && !route.variants.first().is_some_and(is_empty);
    route.variants.iter().map(move |variant| (baseline && is_empty(variant)).then_some(0))
}

/// What each variant gets of the requests that no rule concerns: its live weight, and that of those that it stands in for.
pub fn effective_weights(route: &RouteConfig, live: &LiveRoute, pools: &[Arc<Pool>]) -> Vec<Weight> {
    let mut weights = live.weights.clone();
    for (place, instead) in instead(route, pools).enumerate() {
        let Some(instead) = instead else { continue };
        let moved = std::mem::replace(&mut weights[place], Weight::ZERO);
        let sum = weights[instead].thousandths() + moved.thousandths();
        weights[instead] = Weight::from_thousandths(sum).expect("shares of one whole");
    }
    weights
}

/// The rule that comes before the others: previews go to the idle variant. Which one that is follows the live weights,
/// and is settled here, once a table: the one with less; of two with the same, the second.
fn preview(route: &RouteConfig, live: &LiveRoute) -> Option<Rule> {
    let when = route.preview.clone()?;
    let idle = if live.weights.first() < live.weights.get(1) { 0 } else { 1 };
    Some(Rule { name: PREVIEW_RULE.to_owned(), when, then: Outcome::Variant(idle) })
}

/// Where the variants' requests are counted for the judge of a rollout.
fn judged(route: &RouteConfig, live: &LiveRoute) -> JudgedRoute {
    let judged = live.rollout.as_ref()?.judged.as_ref()?;
    Some(route.variants.iter().map(|variant| judged.of(&variant.name).cloned()).collect())
}

fn listener_limits(config: &Config) -> BTreeMap<String, ListenerLimits> {
    let limits = config.listeners.iter().map(|listener| {
        let (connections, per_client) = (listener.max_connections, listener.max_connections_per_client);
        (listener.name.clone(), ListenerLimits { connections, per_client })
    });
    limits.filter(|(_, limits)| *limits != ListenerLimits::default()).collect()
}

/// Each route's mirror.
fn mirrors(config: &Config, outcomes: &Registry) -> Vec<Option<Box<Mirroring>>> {
    let mut serving = vec![false; config.pools.len()];
    let pools = config.routes.iter().flat_map(|route| &route.variants).filter_map(|variant| variant.pool);
    pools.for_each(|pool| serving[pool] = true);
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
    tls: &Tls,
    (outcomes, health): (&Registry, &Health),
    previous: &[(&PoolConfig, Arc<Pool>)],
) -> Arc<[Arc<Pool>]> {
    let known: std::collections::HashMap<&str, &(&PoolConfig, Arc<Pool>)> =
        previous.iter().map(|entry| (entry.0.name.as_str(), entry)).collect();
    let pool = |pool: &PoolConfig| {
        let same = known.get(pool.name.as_str()).filter(|(config, built)| {
            *config == pool
                && built.tls.as_ref().map(Arc::as_ptr) == tls.client(&pool.name).as_ref().map(Arc::as_ptr)
                && pool.targets.iter().enumerate().zip(&built.targets).all(|((at, target), built)| {
                    let (addrs, endpoints) = places(pool, at, addresses, (outcomes, health));
                    let standing = health.standing(pool, target, &addrs);
                    built.addrs == addrs && built.endpoints == endpoints && built.standing == standing
                })
        });
        match same {
            Some((_, built)) => Arc::clone(built),
            None => Arc::new(build_pool(pool, addresses, tls, (outcomes, health))),
        }
    };
    config.pools.iter().map(pool).collect()
}

fn build_pool(pool: &PoolConfig, addresses: &Addresses, tls: &Tls, (outcomes, health): (&Registry, &Health)) -> Pool {
    let target = |(at, target): (usize, &TargetAddr)| {
        let name = target_name(target);
        let server_name = pool.tls.as_ref().and_then(|tls| server_name(tls, target));
        let (addrs, endpoints) = places(pool, at, addresses, (outcomes, health));
        Target {
            is_service: matches!(target, TargetAddr::Srv(_)),
            server_name,
            outcomes: outcomes.target(&pool.name, &name),
            standing: health.standing(pool, target, &addrs),
            name,
            addrs,
            endpoints,
        }
    };
    Pool {
        name: pool.name.clone(),
        version: pool.version.clone(),
        targets: pool.targets.iter().enumerate().map(target).collect(),
        checked: pool.health.is_some(),
        connect_timeout: pool.connect_timeout,
        http2: pool.http2,
        max_connections: pool.max_connections,
        max_requests: pool.max_requests,
        max_pending: pool.max_pending,
        queue_timeout: pool.queue_timeout,
        outcomes: outcomes.pool(&pool.name),
        tls: tls.client(&pool.name),
        send_proxy: pool.send_proxy,
        outlier: pool.outlier.clone(),
        balance: pool.balance.clone(),
        slow_start: pool.slow_start,
    }
}

/// What the target must prove to be: by the configuration, else the host of its address.
pub fn server_name(tls: &PoolTls, target: &TargetAddr) -> Option<ServerName<'static>> {
    match (&tls.server_name, target) {
        (Some(name), _) => client::server_name(name),
        (None, TargetAddr::Name { host, .. }) => client::server_name(host),
        (None, TargetAddr::Ip(addr)) => Some(ServerName::from(addr.ip())),
        // The check asks for a name.
        (None, TargetAddr::Unix(_) | TargetAddr::Srv(_)) => None,
    }
}

/// Where a pool's target is, and what its addresses are to each other.
fn places(
    pool: &PoolConfig,
    at: usize,
    addresses: &Addresses,
    (outcomes, health): (&Registry, &Health),
) -> (Vec<Address>, Vec<Endpoint>) {
    let (target, weight) = (&pool.targets[at], pool.weights[at]);
    let endpoint = |(addr, of_record): (Address, u32)| {
        let endpoint = Endpoint {
            weight: weight.saturating_mul(of_record),
            standing: health.standing(pool, target, std::slice::from_ref(&addr)),
            outcomes: outcomes.address(&pool.name, &target_name(target), &addr),
        };
        (addr, endpoint)
    };
    match target {
        TargetAddr::Ip(addr) => [(Address::Tcp(*addr), 1)].map(endpoint).into_iter().unzip(),
        TargetAddr::Unix(path) => [(Address::Unix(path.clone()), 1)].map(endpoint).into_iter().unzip(),
        TargetAddr::Name { .. } | TargetAddr::Srv(_) => {
            let found = addresses.get(target).into_iter().flatten();
            found.map(|found| endpoint((Address::Tcp(found.addr), found.weight))).unzip()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boundary::table::Standing;
    use crate::control::command::Edit;
    use crate::control::fixtures::{cause, config, ground};
    use crate::control::ground::tests::{change, named};
    use crate::routing::rule::{Condition, Subject, Test};

    #[test]
    fn a_preview_goes_to_whichever_has_less_of_the_live_traffic() {
        let mut file = config(&[("r", &[("blue", 100.0), ("green", 0.0)])]);
        let header = Subject::Header(http::HeaderName::from_static("x-preview"));
        let given = |then| Rule {
            name: "given".to_owned(),
            when: Condition::Is(Subject::Method, Test::Equals("GET".to_owned())),
            then,
        };
        file.routes[0].preview = Some(Condition::Is(header, Test::Present(true)));
        file.routes[0].rules = vec![given(Outcome::Variant(0))];
        let mut ground = ground(file);
        for (green, idle) in [(0.0, 1), (49.999, 1), (50.0, 1), (50.001, 0), (100.0, 0), (10.0, 1)] {
            let changed = ground.changed(&change(Edit::Patch(named(&[("green", green)]))), cause().now).unwrap();
            ground.apply(&changed.route);
            let published = table(&ground, 1);
            let rules = &published.routing.routes()[0].rules;
            assert_eq!(rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>(), ["preview", "given"]);
            assert!(matches!(rules[0].then, Outcome::Variant(to) if to == idle), "{green}: {:?}", rules[0].then);
        }
    }

    #[test]
    fn a_variant_without_a_target_gives_its_share_to_the_baseline_if_that_has_one() {
        let mut file = config(&[("r", &[("stable", 60.0), ("canary", 30.0), ("third", 10.0)])]);
        for name in ["two", "three"] {
            file.pools.push(PoolConfig { name: name.to_owned(), ..file.pools[0].clone() });
        }
        for (place, variant) in file.routes[0].variants.iter_mut().enumerate() {
            variant.pool = Some(place);
        }
        let effective = |on_empty, down: &[usize]| -> Vec<f64> {
            let mut file = file.clone();
            file.routes[0].on_empty = on_empty;
            let ground = ground(file);
            let mut pools = ground.pools.to_vec();
            for pool in down {
                let mut built = build_pool(
                    &ground.config.pools[*pool],
                    &Addresses::new(),
                    &ground.tls,
                    (&ground.outcomes, &ground.health),
                );
                built.targets[0].standing = Standing::Down;
                built.targets[0].endpoints[0].standing = Standing::Down;
                pools[*pool] = Arc::new(built);
            }
            let weights = effective_weights(&ground.config.routes[0], &ground.routes[0], &pools);
            weights.into_iter().map(Weight::percent).collect()
        };
        assert_eq!(effective(OnEmpty::Baseline, &[1]), [90.0, 0.0, 10.0]);
        assert_eq!(effective(OnEmpty::Baseline, &[1, 2]), [100.0, 0.0, 0.0]);
        assert_eq!(effective(OnEmpty::Baseline, &[0, 1]), [60.0, 30.0, 10.0]);
        assert_eq!(effective(OnEmpty::Fail, &[1]), [60.0, 30.0, 10.0]);
    }
}
