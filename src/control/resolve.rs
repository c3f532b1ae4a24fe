//! Targets that are names: looked up at start, at a reload, and again every few seconds.
//!
//! A name that can't be looked up keeps the addresses that it had: a resolver that is down must not take a working
//! target away. A name that never resolved has no address, and its target gets no request until it does.

use super::command::Command;
use super::ground::{Addresses, Ground};
use crate::config::{Config, TargetAddr};
use crate::limits::{RESOLVE_INTERVAL, RESOLVE_TIMEOUT};
use arc_swap::ArcSwap;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The addresses of every name in `config`. A name that doesn't resolve within [`RESOLVE_TIMEOUT`] is warned of and
/// keeps what `known` has for it.
pub async fn addresses(config: &Config, known: &Addresses) -> Addresses {
    let (found, failures) = look_up(names(config), known).await;
    for ((host, port), why) in failures {
        tracing::warn!(target = format!("{host}:{port}"), why, "the target's name does not resolve");
    }
    found
}

/// Looks all names up again, for as long as there is a controller, and tells it of changes.
pub async fn keep_resolving(ground: Arc<ArcSwap<Ground>>, commands: mpsc::WeakSender<Command>) {
    let mut failing = BTreeSet::new();
    loop {
        tokio::time::sleep(RESOLVE_INTERVAL).await;
        if commands.strong_count() == 0 {
            return;
        }
        let current = Arc::clone(&ground.load());
        let names = names(&current.config);
        if names.is_empty() {
            continue;
        }
        let (found, failures) = look_up(names, &current.addresses).await;
        let failed: BTreeSet<Name> = failures.iter().map(|(name, _)| name.clone()).collect();
        for ((host, port), why) in failures.iter().filter(|(name, _)| !failing.contains(name)) {
            let target = format!("{host}:{port}");
            tracing::warn!(target, why, "the target's name does not resolve; addresses known before are kept");
        }
        failing = failed;
        // A reload may have come between: then what was found is of names that are gone.
        let Some(commands) = commands.upgrade() else { return };
        let still = Arc::ptr_eq(&current.config, &ground.load().config);
        if still && found != *current.addresses && commands.send(Command::Resolved(found)).await.is_err() {
            return;
        }
    }
}

type Name = (String, u16);

fn names(config: &Config) -> BTreeSet<Name> {
    let targets = config.pools.iter().flat_map(|pool| &pool.targets);
    let name = |target: &TargetAddr| match target {
        TargetAddr::Name { host, port } => Some((host.clone(), *port)),
        TargetAddr::Ip(_) | TargetAddr::Unix(_) => None,
    };
    targets.filter_map(name).collect()
}

async fn look_up(names: BTreeSet<Name>, known: &Addresses) -> (Addresses, Vec<(Name, String)>) {
    let mut lookups = JoinSet::new();
    let mut found = Addresses::new();
    let mut failures = Vec::new();
    let mut waiting = names.clone();
    for name in names {
        lookups.spawn(async move {
            let result = look_up_one(&name).await;
            (name, result)
        });
    }
    while let Some(done) = lookups.join_next().await {
        let Ok((name, result)) = done else { continue };
        waiting.remove(&name);
        match result {
            Ok(addrs) => drop(found.insert(name, addrs)),
            Err(why) => failures.push((name, why)),
        }
    }
    failures.extend(waiting.into_iter().map(|name| (name, "the lookup ended early".to_owned())));
    for (name, _) in &failures {
        if let Some(addrs) = known.get(name) {
            found.insert(name.clone(), addrs.clone());
        }
    }
    (found, failures)
}

/// In a fixed order: resolvers rotate theirs, which is no change.
async fn look_up_one((host, port): &Name) -> Result<Vec<SocketAddr>, String> {
    let answer = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host.as_str(), *port))).await;
    let found = answer.map_err(|_| format!("no answer in {} s", RESOLVE_TIMEOUT.as_secs()))?;
    let addrs: BTreeSet<SocketAddr> = found.map_err(|error| error.to_string())?.collect();
    if addrs.is_empty() {
        return Err("the name has no address".to_owned());
    }
    Ok(addrs.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_fails_keeps_its_addresses_and_an_unknown_one_has_none() {
        let good = ("localhost".to_owned(), 80);
        let bad = ("no-such-name.invalid".to_owned(), 80);
        let known_addr: SocketAddr = "192.0.2.7:80".parse().unwrap();
        let names: BTreeSet<Name> = [good.clone(), bad.clone()].into();
        let (found, failures) = look_up(names.clone(), &Addresses::new()).await;
        assert!(found[&good].iter().all(|addr| addr.ip().is_loopback()));
        assert!(!found.contains_key(&bad));
        assert_eq!(failures.len(), 1);
        let known = Addresses::from([(bad.clone(), vec![known_addr])]);
        let (found, _) = look_up(names, &known).await;
        assert_eq!(found[&bad], [known_addr]);
    }
}
