//! Whether a pool's targets can be reached now: asked before everything is switched to them.

use super::command::{BadTarget, ChangeError, Edit, WeightChange};
use super::ground::{Ground, place_of};
use super::health;
use crate::boundary::table::{Pool, Standing, Target};
use crate::config::PoolConfig;
use crate::limits::{PROBE_TIMEOUT, PROBES};
use crate::net::address::Address;
use crate::net::proxy_protocol::{Version, encode_own};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
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
    let Some(pool) = route.variants[place].pool.map(|pool| Arc::clone(&view.pools[pool])) else { return Ok(()) };
    let config = &view.config.pools[route.variants[place].pool.unwrap_or_default()];
    let targets = bad_targets(&pool, |at| unwell(ground, config, &pool, at)).await;
    if !targets.is_empty() && !switch.force {
        return Err(ChangeError::Unhealthy { variant: switch.to.clone(), targets });
    }
    switch.overrode = targets.iter().map(ToString::to_string).collect();
    switch.probed = Some(pool);
    Ok(())
}

/// Every target of the pool that is not healthy, in the file's order. Every address must accept a connection.
/// `unwell` says what is known against one already, by its place.
async fn bad_targets(pool: &Pool, unwell: impl Fn(usize) -> Option<String>) -> Vec<BadTarget> {
    let patience = pool.connect_timeout.min(PROBE_TIMEOUT);
    let places = Arc::new(Semaphore::new(PROBES));
    let mut probes = JoinSet::new();
    let mut bad: Vec<(usize, String)> = Vec::new();
    for (at, target) in pool.targets.iter().enumerate() {
        if let Some(why) = unwell(at) {
            bad.push((at, why));
            continue;
        }
        if target.addrs.is_empty() {
            bad.push((at, "its name has no address".to_owned()));
        }
        for addr in target.addrs.iter().cloned() {
            let (places, times, send_proxy) = (Arc::clone(&places), connects(target), pool.send_proxy);
            probes.spawn(async move {
                let _place = places.acquire().await;
                let result = probe(&addr, times, send_proxy, patience).await;
                (at, addr, result)
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

/// By what its health check said, or an operator.
fn unwell(ground: &Ground, config: &PoolConfig, pool: &Pool, at: usize) -> Option<String> {
    let target = &pool.targets[at];
    match target.standing {
        Standing::Up => None,
        Standing::Unknown if target.addrs.is_empty() => None,
        Standing::Unknown => Some("its health was not checked yet".to_owned()),
        Standing::Draining => Some("it is drained: `weir enable` brings it back".to_owned()),
        Standing::Down => {
            let why = health::why(&ground.health, config, &config.targets[at], &target.addrs);
            Some(format!("its health check failed: {why}"))
        }
    }
}

fn connects(target: &Target) -> u32 {
    if target.is_reached() { 1 } else { DOUBTFUL_CONNECTS }
}

async fn probe(addr: &Address, times: u32, send_proxy: Option<Version>, patience: Duration) -> Result<(), String> {
    for _ in 0..times {
        match tokio::time::timeout(patience, connect(addr, send_proxy)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error.kind().to_string()),
            Err(_) => return Err(format!("no answer in {patience:?}")),
        }
    }
    Ok(())
}

/// With what a target expects first, so that it has nothing to complain of.
async fn connect(addr: &Address, send_proxy: Option<Version>) -> io::Result<()> {
    match addr {
        Address::Tcp(addr) => {
            let mut tcp = TcpStream::connect(addr).await?;
            if let Some(version) = send_proxy {
                tcp.write_all(&encode_own(version, Some((tcp.local_addr()?, *addr)))).await?;
            }
        }
        Address::Unix(path) => {
            let mut unix = UnixStream::connect(path).await?;
            if let Some(version) = send_proxy {
                unix.write_all(&encode_own(version, None)).await?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boundary::outcomes::{AddressOutcomes, TargetOutcomes};
    use crate::boundary::pools::PoolOutcomes;
    use crate::boundary::table::Endpoint;
    use crate::routing::balance::Balance;
    use std::net::SocketAddr;
    use tokio::net::TcpListener;

    fn target(name: &str, addrs: &[SocketAddr]) -> Target {
        let outcomes = Arc::new(TargetOutcomes::new(2));
        let endpoint = || Endpoint { weight: 1, standing: Standing::Up, outcomes: Arc::new(AddressOutcomes::new(2)) };
        Target {
            name: name.to_owned(),
            is_service: false,
            endpoints: addrs.iter().map(|_| endpoint()).collect(),
            addrs: addrs.iter().copied().map(Address::Tcp).collect(),
            server_name: None,
            outcomes,
            standing: Standing::Up,
        }
    }

    fn pool(targets: Vec<Target>) -> Pool {
        let second = Duration::from_secs(1);
        Pool {
            name: "p".to_owned(),
            version: None,
            targets,
            checked: false,
            connect_timeout: second,
            http2: false,
            send_proxy: None,
            outlier: None,
            balance: Balance::P2c,
            slow_start: Duration::ZERO,
            tls: None,
            max_connections: 1,
            max_requests: None,
            max_pending: 1,
            outcomes: Arc::new(PoolOutcomes::new(1)),
            queue_timeout: second,
        }
    }

    async fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        (listener, addr)
    }

    #[tokio::test]
    async fn every_address_of_every_target_must_accept() {
        let (_one, good) = listening().await;
        let (gone, bad) = listening().await;
        drop(gone);
        let found = bad_targets(
            &pool(vec![
                target("db:80", &[good, bad]),
                target(&good.to_string(), &[good]),
                target("nowhere:80", &[]),
                target(&bad.to_string(), &[bad]),
            ]),
            |_| None,
        )
        .await;
        let said: Vec<String> = found.iter().map(ToString::to_string).collect();
        let expected = [
            format!("target db:80: {bad}: connection refused"),
            "target nowhere:80: its name has no address".to_owned(),
            format!("target {bad}: connection refused"),
        ];
        assert_eq!(said, expected);
        assert!(bad_targets(&pool(vec![target("a:1", &[good, good])]), |_| None).await.is_empty());
    }

    #[tokio::test]
    async fn a_target_that_wants_to_know_whose_a_connection_is_is_told() {
        let (listener, addr) = listening().await;
        let told = async {
            let mut preface = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut listener.accept().await.unwrap().0, &mut preface).await.unwrap();
            preface
        };
        let pool = Pool { send_proxy: Some(Version::V2), ..pool(vec![target("a:1", &[addr])]) };
        let (found, told) = tokio::join!(bad_targets(&pool, |_| None), told);
        assert_eq!((found.len(), told), (0, encode_own(Version::V2, None)));
    }

    #[tokio::test]
    async fn one_that_workers_could_not_reach_must_accept_several_times() {
        let (listener, addr) = listening().await;
        let doubtful = target("a:1", &[addr]);
        doubtful.endpoints[0].outcomes.shards[1].failing.add(1);
        assert!(!doubtful.is_reached());
        let accepted = async {
            let mut count = 0;
            while tokio::time::timeout(Duration::from_millis(500), listener.accept()).await.is_ok() {
                count += 1;
            }
            count
        };
        let pool = pool(vec![doubtful]);
        let (found, accepted) = tokio::join!(bad_targets(&pool, |_| None), accepted);
        assert_eq!((found.len(), accepted), (0, DOUBTFUL_CONNECTS));
    }
}
