//! Targets that are names: looked up at start, at a reload, and again when what was answered is too old.
//!
//! A name that can't be looked up keeps the addresses that it had, and so does one that is said to be gone: a resolver
//! that is down, or that was just set up anew, must not take a working target away. A name that never resolved has no
//! address, and its target gets no request until it does.

mod lookup;

use super::command::Command;
use super::ground::{Addresses, Ground};
use crate::config::{Config, TargetAddr};
use crate::limits::{LOOKUPS_AT_ONCE, RESOLVE_GRAIN, RESOLVE_LOOK, RESOLVE_RETRY};
use arc_swap::ArcSwap;
use lookup::Resolver;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// One address of a name. `weight` is its record's, where that has one; at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Found {
    pub addr: SocketAddr,
    pub weight: u32,
}

/// A name's addresses in a fixed order (resolvers rotate theirs, which is no change), and how long they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub found: Vec<Found>,
    pub ttl: Duration,
}

/// What became of looking names up, for metrics and status.
#[derive(Debug, Default)]
pub struct Names {
    answered: AtomicU64,
    failed: AtomicU64,
    failing: Mutex<HashMap<TargetAddr, Arc<str>>>,
}

impl Names {
    /// Look-ups that brought addresses, and that did not.
    pub fn lookups(&self) -> [u64; 2] {
        [self.answered.load(Relaxed), self.failed.load(Relaxed)]
    }

    /// Why the name's last look-up failed, if it did.
    pub fn failing(&self, target: &TargetAddr) -> Option<Arc<str>> {
        self.entries().get(target).map(Arc::clone)
    }

    /// Says whether the name failed for another reason before, or not at all.
    fn failed(&self, target: &TargetAddr, why: &str) -> bool {
        self.failed.fetch_add(1, Relaxed);
        let before = self.entries().insert(target.clone(), Arc::from(why));
        before.is_none_or(|before| *before != *why)
    }

    /// Says whether the name failed before.
    fn answered(&self, target: &TargetAddr) -> bool {
        self.answered.fetch_add(1, Relaxed);
        self.entries().remove(target).is_some()
    }

    fn only(&self, names: &BTreeSet<TargetAddr>) {
        self.entries().retain(|target, _| names.contains(target));
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<TargetAddr, Arc<str>>> {
        self.failing.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

/// The addresses of every name in `config`. A name that doesn't resolve in time is warned of and keeps what `known` has
/// for it.
pub async fn addresses(config: &Config, known: &Addresses) -> Addresses {
    let mut lookups = Lookups::default();
    let names = names(config);
    if names.is_empty() {
        return Addresses::new();
    }
    let resolver = Arc::new(Resolver::new(&config.dns));
    for name in &names {
        lookups.begin(&resolver, name, known);
    }
    let kept = |name: &TargetAddr| known.get(name).map(|found| (name.clone(), found.clone()));
    let mut found: Addresses = names.iter().filter_map(kept).collect();
    while let Some((name, result)) = lookups.next().await {
        match result {
            Ok(answer) => drop(found.insert(name, answer.found)),
            Err(why) => tracing::warn!(target = %name, why, "the target's name does not resolve"),
        }
    }
    found
}

/// What another process had found, name by name as it is written, of the names in `config`.
pub fn told(config: &Config, told: Vec<(String, Found)>) -> Addresses {
    let names: HashMap<String, TargetAddr> = names(config).into_iter().map(|name| (name.to_string(), name)).collect();
    let mut known = Addresses::new();
    for (name, found) in told {
        if let Some(name) = names.get(&name) {
            known.entry(name.clone()).or_default().push(found);
        }
    }
    known
}

/// Looks all names up again, each when its answer is too old, for as long as there is a controller, and tells it of
/// changes.
pub async fn keep_resolving(ground: Arc<ArcSwap<Ground>>, commands: mpsc::WeakSender<Command>) {
    let mut course = Course::default();
    loop {
        let now = Instant::now();
        if course.look_at <= now {
            course.begin_due(&ground.load(), now);
        }
        let done = tokio::select! {
            done = course.lookups.next(), if !course.lookups.is_empty() => done,
            () = tokio::time::sleep_until(course.look_at) => None,
        };
        let Some(commands) = commands.upgrade() else { return };
        let Some((name, result)) = done else { continue };
        let current = Arc::clone(&ground.load());
        course.is_due(&name, Instant::now() + noted(&current, &name, &result));
        if let Ok(answer) = result
            && current.addresses.get(&name) != Some(&answer.found)
            && commands.send(Command::Resolved([(name, answer.found)].into())).await.is_err()
        {
            return;
        }
    }
}

/// Which names are looked up when.
struct Course {
    /// Of this configuration.
    names: BTreeSet<TargetAddr>,
    config: Option<Arc<Config>>,
    /// A name that is not here is due.
    due: HashMap<TargetAddr, Instant>,
    lookups: Lookups,
    resolver: Option<Arc<Resolver>>,
    /// When the next one may be due, or the configuration another.
    look_at: Instant,
}

impl Default for Course {
    fn default() -> Course {
        Course {
            names: BTreeSet::new(),
            config: None,
            due: HashMap::new(),
            lookups: Lookups::default(),
            resolver: None,
            look_at: Instant::now(),
        }
    }
}

impl Course {
    fn begin_due(&mut self, ground: &Ground, now: Instant) {
        let config = &ground.config;
        if !self.config.as_ref().is_some_and(|known| Arc::ptr_eq(known, config)) {
            self.names = names(config);
            self.config = Some(Arc::clone(config));
            self.due.retain(|name, _| self.names.contains(name));
            ground.outcomes.names.only(&self.names);
        }
        let idle: Vec<&TargetAddr> = self.names.iter().filter(|name| !self.lookups.has(name)).collect();
        let is_due = |name: &&TargetAddr| self.due.get(*name).is_none_or(|at| *at <= now);
        let ready: Vec<TargetAddr> = idle.iter().copied().filter(is_due).cloned().collect();
        let next = idle.iter().filter_map(|name| self.due.get(*name)).filter(|at| **at > now).min();
        self.look_at = next.map_or(now + RESOLVE_LOOK, |next| (now + RESOLVE_LOOK).min(*next)).max(now + RESOLVE_GRAIN);
        if ready.is_empty() {
            return;
        }
        let still = self.resolver.take().filter(|resolver| resolver.is_current(&config.dns));
        let resolver = still.unwrap_or_else(|| Arc::new(Resolver::new(&config.dns)));
        ready.iter().for_each(|name| self.lookups.begin(&resolver, name, &ground.addresses));
        self.resolver = Some(resolver);
    }

    fn is_due(&mut self, name: &TargetAddr, at: Instant) {
        self.due.insert(name.clone(), at);
        self.look_at = self.look_at.min(at.max(Instant::now() + RESOLVE_GRAIN));
    }
}

/// Says what a look-up came to, and when the next one is due.
fn noted(ground: &Ground, name: &TargetAddr, result: &Result<Answer, String>) -> Duration {
    let (dns, known) = (&ground.config.dns, ground.addresses.get(name));
    let shown = |found: &[Found]| found.iter().map(|one| one.addr.to_string()).collect::<Vec<_>>().join(" ");
    match result {
        Ok(answer) => {
            let again = ground.outcomes.names.answered(name);
            if known != Some(&answer.found) {
                let (from, to) = (shown(known.map_or(&[], Vec::as_slice)), shown(&answer.found));
                tracing::info!(target = %name, from, to, "the target's addresses changed");
            } else if again {
                tracing::info!(target = %name, "the target's name resolves again");
            }
            answer.ttl.clamp(dns.min_ttl, dns.max_ttl)
        }
        Err(why) => {
            if ground.outcomes.names.failed(name, why) {
                let kept = shown(known.map_or(&[], Vec::as_slice));
                tracing::warn!(target = %name, why, kept, "the target's name does not resolve");
            }
            RESOLVE_RETRY.clamp(dns.min_ttl, dns.max_ttl)
        }
    }
}

fn names(config: &Config) -> BTreeSet<TargetAddr> {
    let targets = config.pools.iter().flat_map(|pool| &pool.targets);
    targets.filter(|target| matches!(target, TargetAddr::Name { .. } | TargetAddr::Srv(_))).cloned().collect()
}

/// Look-ups under way.
struct Lookups {
    tasks: JoinSet<(TargetAddr, Result<Answer, String>)>,
    under_way: BTreeSet<TargetAddr>,
    places: Arc<Semaphore>,
}

impl Default for Lookups {
    fn default() -> Lookups {
        let places = Arc::new(Semaphore::new(LOOKUPS_AT_ONCE));
        Lookups { tasks: JoinSet::new(), under_way: BTreeSet::new(), places }
    }
}

impl Lookups {
    fn begin(&mut self, resolver: &Arc<Resolver>, name: &TargetAddr, known: &Addresses) {
        let (resolver, places) = (Arc::clone(resolver), Arc::clone(&self.places));
        let known = known.get(name).cloned().unwrap_or_default();
        self.under_way.insert(name.clone());
        let name = name.clone();
        self.tasks.spawn(async move {
            let _place = places.acquire().await;
            let result = resolver.look_up(&name, &known).await;
            (name, result)
        });
    }

    fn has(&self, name: &TargetAddr) -> bool {
        self.under_way.contains(name)
    }

    fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// None: nothing is under way any more.
    async fn next(&mut self) -> Option<(TargetAddr, Result<Answer, String>)> {
        let Some(Ok((name, result))) = self.tasks.join_next().await else {
            // A look-up that broke off is begun again.
            if self.tasks.is_empty() {
                self.under_way.clear();
            }
            return None;
        };
        self.under_way.remove(&name);
        Some((name, result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures::shop;

    #[tokio::test]
    async fn a_name_that_fails_keeps_its_addresses_and_an_unknown_one_has_none() {
        let name = |host: &str| TargetAddr::Name { host: host.to_owned(), port: 80 };
        let (good, bad) = (name("localhost"), name("no-such-name.invalid"));
        let mut config = shop();
        config.pools[0].targets = vec![good.clone(), bad.clone()];
        config.pools[0].weights = vec![1, 1];
        let first = addresses(&config, &Addresses::new()).await;
        assert!(!first[&good].is_empty() && first[&good].iter().all(|one| one.addr.ip().is_loopback()));
        assert!(!first.contains_key(&bad));
        let known = vec![Found { addr: "192.0.2.7:80".parse().unwrap(), weight: 1 }];
        let second = addresses(&config, &Addresses::from([(bad.clone(), known.clone())])).await;
        assert_eq!(second[&bad], known);
    }

    #[test]
    fn what_another_process_knew_is_taken_for_names_that_are_still_there() {
        let name = TargetAddr::Name { host: "shop.internal".to_owned(), port: 80 };
        let service = TargetAddr::Srv("_shop._tcp.internal".to_owned());
        let mut config = shop();
        config.pools[0].targets = vec![name.clone(), service.clone()];
        let found = |addr: &str, weight| Found { addr: addr.parse().unwrap(), weight };
        let (one, two) = (found("192.0.2.7:80", 1), found("192.0.2.8:80", 3));
        let known: Addresses = [(name, vec![one]), (service, vec![two, one])].into();
        let mut over: Vec<(String, Found)> =
            known.iter().flat_map(|(name, found)| found.iter().map(|one| (name.to_string(), *one))).collect();
        over.push(("gone.internal:80".to_owned(), one));
        assert_eq!(told(&config, over), known);
    }

    #[test]
    fn what_fails_is_said_once() {
        let (names, target) = (Names::default(), TargetAddr::Srv("_a._tcp.b".to_owned()));
        assert!(names.failed(&target, "no answer"));
        assert!(!names.failed(&target, "no answer"));
        assert!(names.failed(&target, "the name does not exist"));
        assert_eq!(names.failing(&target).as_deref(), Some("the name does not exist"));
        assert!(names.answered(&target) && !names.answered(&target));
        assert_eq!((names.failing(&target), names.lookups()), (None, [2, 3]));
    }
}
