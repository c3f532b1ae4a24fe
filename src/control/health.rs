//! Active health checks: every target is asked whether it is well, by one task however many pools and routes use it.
//!
//! What changes a target's standing becomes ground state by a [`Command::Checked`] and is published with the table.
//! What does not (when the last check was and what it heard) stays on the [`Board`], for people.

mod ask;
pub mod decide;

use super::command::Command;
use super::ground::Ground;
use super::outcomes::target_name;
use crate::boundary::table::{Pool, Standing};
use crate::config::{CheckKind, Config, HealthCheck, PoolConfig, PoolTls, TargetAddr};
use crate::limits::{CHECKS_APART, CHECKS_AT_ONCE, FIRST_CHECKS_WAIT};
use crate::net::address::Address;
use crate::net::proxy_protocol::Version;
use crate::tls::client::with_own_sessions;
use arc_swap::ArcSwap;
use decide::Course;
use jiff::Timestamp;
use rand::rngs::{SmallRng, SysRng};
use rand::{SeedableRng, TryRng};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// How often it is said of a pool that its checks are late.
const LATE_SAID_EVERY: Duration = Duration::from_secs(60);

/// What is checked, and how: two pools that agree in all of this share a check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    addr: Address,
    tls: Option<PoolTls>,
    server_name: Option<ServerName<'static>>,
    http2: bool,
    send_proxy: Option<Version>,
    /// What stands in for a host where the check names none.
    host: String,
    check: HealthCheck,
}

/// A standing that a check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub standing: Standing,
    pub since: Timestamp,
    /// What the target said.
    pub why: Arc<str>,
}

/// What is known of all targets: part of the ground state.
#[derive(Clone, Debug, Default)]
pub struct Health {
    pub verdicts: HashMap<Arc<Key>, Verdict>,
    /// Pool and target, by name: taken out by an operator.
    pub drained: BTreeSet<(String, String)>,
}

impl Health {
    /// Of a target that has these addresses now. Of several that are up one is enough.
    pub fn standing(&self, pool: &PoolConfig, target: &TargetAddr, addrs: &[Address]) -> Standing {
        if !self.drained.is_empty() && self.drained.contains(&(pool.name.clone(), target_name(target))) {
            return Standing::Draining;
        }
        if pool.health.is_none() {
            return Standing::Up;
        }
        let standings = addrs.iter().map(|addr| self.verdict(pool, target, addr).map(|verdict| verdict.standing));
        let standings: Vec<_> = standings.map(|standing| standing.unwrap_or(Standing::Unknown)).collect();
        let has = |standing| standings.contains(&standing);
        match (has(Standing::Up), has(Standing::Unknown), standings.is_empty()) {
            (true, _, _) => Standing::Up,
            (_, true, _) | (_, _, true) => Standing::Unknown,
            _ => Standing::Down,
        }
    }

    pub fn verdict(&self, pool: &PoolConfig, target: &TargetAddr, addr: &Address) -> Option<&Verdict> {
        self.verdicts.get(&key(pool, target, addr, pool.health.as_ref()?))
    }

    /// With these added, and without those that nobody asks for any more.
    pub fn with(&self, verdicts: &[(Arc<Key>, Verdict)], config: &Config, pools: &[Arc<Pool>]) -> Health {
        let mut next = self.clone();
        next.verdicts.extend(verdicts.iter().cloned());
        let wanted: HashSet<Key> = keys(config, pools).map(|(_, key)| key).collect();
        next.verdicts.retain(|key, _| wanted.contains(&**key));
        next
    }

    /// Without what another configuration no longer has. Targets that it asks in another way keep their standing until they
    /// have answered that.
    pub fn of(&self, config: &Config, previous: &[(&PoolConfig, Arc<Pool>)]) -> Health {
        let has = |(pool, name): &(String, String)| {
            let pool = config.pools.iter().find(|of| of.name == *pool);
            pool.is_some_and(|pool| pool.targets.iter().any(|target| target_name(target) == *name))
        };
        let drained = self.drained.iter().filter(|one| has(one)).cloned().collect();
        let mut verdicts = self.verdicts.clone();
        let known: HashMap<&str, _> = previous.iter().map(|pool| (pool.0.name.as_str(), pool)).collect();
        for pool in &config.pools {
            let (Some(check), Some((before, built))) = (&pool.health, known.get(pool.name.as_str())) else { continue };
            if pool == *before {
                continue;
            }
            for (target, was) in before.targets.iter().zip(&built.targets).filter(|one| pool.targets.contains(one.0)) {
                for addr in &was.addrs {
                    if let Some(verdict) = self.verdict(before, target, addr) {
                        let key = Arc::new(key(pool, target, addr, check));
                        verdicts.entry(key).or_insert_with(|| verdict.clone());
                    }
                }
            }
        }
        Health { verdicts, drained }
    }
}

pub fn key(pool: &PoolConfig, target: &TargetAddr, addr: &Address, check: &HealthCheck) -> Key {
    let host = match addr {
        Address::Unix(_) => "localhost".to_owned(),
        Address::Tcp(addr) if matches!(target, TargetAddr::Srv(_)) => addr.to_string(),
        Address::Tcp(_) => target_name(target),
    };
    Key {
        addr: addr.clone(),
        tls: pool.tls.clone(),
        server_name: pool.tls.as_ref().and_then(|tls| super::derive::server_name(tls, target)),
        http2: pool.http2 || matches!(check.kind, CheckKind::Grpc { .. }),
        send_proxy: pool.send_proxy,
        host,
        check: check.clone(),
    }
}

/// Everything that is to be checked, with the place of its pool.
fn keys<'g>(config: &'g Config, pools: &'g [Arc<Pool>]) -> impl Iterator<Item = (usize, Key)> + 'g {
    config.pools.iter().zip(pools).enumerate().flat_map(|(at, (pool, built))| {
        let targets = pool.targets.iter().zip(&built.targets);
        pool.health.iter().flat_map(move |check| {
            let of_target = move |(target, built): (&'g TargetAddr, &'g crate::boundary::table::Target)| {
                built.addrs.iter().map(move |addr| (at, key(pool, target, addr, check)))
            };
            targets.clone().flat_map(of_target)
        })
    })
}

/// What every check heard last.
#[derive(Debug, Default)]
pub struct Board(Mutex<HashMap<Arc<Key>, Heard>>);

#[derive(Clone, Debug)]
pub struct Heard {
    pub at: Timestamp,
    pub answer: Result<Arc<str>, Arc<str>>,
    course: Course,
}

impl Board {
    pub fn last(&self, key: &Key) -> Option<Heard> {
        self.entries().get(key).cloned()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Arc<Key>, Heard>> {
        self.0.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    /// The verdict after one more answer, and whether that changed it.
    fn heard(&self, key: &Arc<Key>, answer: Result<String, String>, now: Timestamp) -> (Verdict, bool) {
        let answer = answer.map(Arc::from).map_err(Arc::from);
        let mut entries = self.entries();
        let before = entries.get(key).map_or(Course::begun(now), |heard| heard.course);
        let (course, changed) = before.heard(answer.is_ok(), &key.check, now);
        let (Ok(why) | Err(why)) = &answer;
        let verdict = Verdict { standing: course.standing, since: course.since, why: Arc::clone(why) };
        entries.insert(Arc::clone(key), Heard { at: now, answer, course });
        (verdict, changed)
    }
}

/// How the checks and the control plane know each other.
#[derive(Clone)]
pub struct Links {
    pub ground: Arc<ArcSwap<Ground>>,
    /// The ground state is another.
    pub changed: Arc<Notify>,
    pub commands: mpsc::WeakSender<Command>,
    pub board: Arc<Board>,
}

/// Checks all targets of the configuration in force, for as long as there is a controller.
pub async fn keep_checking(links: Links) {
    let (verdicts, mut heard) = mpsc::channel(CHECKS_AT_ONCE);
    let mut checks = Checks {
        running: HashMap::new(),
        tasks: JoinSet::new(),
        places: HashMap::new(),
        board: Arc::clone(&links.board),
        ground: Arc::clone(&links.ground),
        verdicts,
    };
    let mut seen: Option<Arc<[Arc<Pool>]>> = None;
    let (mut batch, mut free) = (Vec::new(), Instant::now());
    loop {
        let ground = Arc::clone(&links.ground.load());
        if !seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &ground.pools)) {
            checks.follow(&ground);
            seen = Some(Arc::clone(&ground.pools));
        }
        drop(ground);
        tokio::select! {
            () = links.changed.notified() => {}
            _ = heard.recv_many(&mut batch, CHECKS_AT_ONCE) => {
                tokio::time::sleep_until(free).await;
                while let Ok(one) = heard.try_recv() {
                    batch.push(one);
                }
                free = Instant::now() + CHECKS_APART;
                let Some(commands) = links.commands.upgrade() else { return };
                if commands.send(Command::Checked(std::mem::take(&mut batch))).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The checks that run now.
struct Checks {
    running: HashMap<Arc<Key>, (Option<Arc<ClientConfig>>, AbortHandle)>,
    tasks: JoinSet<()>,
    /// By pool: one whose targets all hang holds nobody else's checks up.
    places: HashMap<String, Arc<Places>>,
    board: Arc<Board>,
    ground: Arc<ArcSwap<Ground>>,
    verdicts: mpsc::Sender<(Arc<Key>, Verdict)>,
}

impl Checks {
    /// Starts what is new, and ends what is not asked for any more.
    fn follow(&mut self, ground: &Ground) {
        let same = |a: &Option<Arc<ClientConfig>>, b: &Option<Arc<ClientConfig>>| {
            a.as_ref().map(Arc::as_ptr) == b.as_ref().map(Arc::as_ptr)
        };
        let mut wanted: HashMap<Key, (usize, Option<Arc<ClientConfig>>)> = HashMap::new();
        for (pool, key) in keys(&ground.config, &ground.pools) {
            wanted.entry(key).or_insert_with(|| (pool, ground.pools[pool].tls.clone()));
        }
        self.running.retain(|key, (tls, task)| {
            let stays = wanted.get(&**key).is_some_and(|(_, now)| same(now, tls));
            if !stays {
                task.abort();
            }
            stays
        });
        let board = Arc::clone(&self.board);
        board.entries().retain(|key, _| wanted.contains_key(&**key));
        while self.tasks.try_join_next().is_some() {}
        let pools: HashSet<&str> = ground.config.pools.iter().map(|pool| pool.name.as_str()).collect();
        self.places.retain(|name, _| pools.contains(name.as_str()));
        for (key, (pool, tls)) in wanted {
            if !self.running.contains_key(&key) {
                let key = Arc::new(key);
                let pool = &ground.config.pools[pool].name;
                let places = self.places.entry(pool.clone()).or_insert_with(|| Arc::new(Places::of(pool)));
                let own = tls.as_deref().map(|tls| with_own_sessions(tls, key.http2));
                let asking = Asking {
                    key: Arc::clone(&key),
                    tls: own,
                    board: Arc::clone(&self.board),
                    places: Arc::clone(places),
                    ground: Arc::clone(&self.ground),
                    verdicts: self.verdicts.clone(),
                };
                let task = self.tasks.spawn(asking.run());
                self.running.insert(key, (tls, task));
            }
        }
    }
}

/// A pool's checks that may be under way at once.
struct Places {
    pool: String,
    free: Semaphore,
    /// When it was last said that there are too few.
    said: Mutex<Option<Instant>>,
}

impl Places {
    fn of(pool: &str) -> Places {
        Places { pool: pool.to_owned(), free: Semaphore::new(CHECKS_AT_ONCE), said: Mutex::default() }
    }

    /// A check begins a whole interval after it was due.
    fn is_late(&self, by: Duration) {
        let mut said = self.said.lock().unwrap_or_else(|broken| broken.into_inner());
        if said.is_none_or(|said| said.elapsed() > LATE_SAID_EVERY) {
            *said = Some(Instant::now());
            tracing::warn!(
                pool = self.pool,
                "a health check began {by:?} late, which is more than its interval: more than {CHECKS_AT_ONCE} targets of the pool do not answer"
            );
        }
    }
}

/// One check, again and again.
struct Asking {
    key: Arc<Key>,
    tls: Option<Arc<ClientConfig>>,
    board: Arc<Board>,
    places: Arc<Places>,
    ground: Arc<ArcSwap<Ground>>,
    verdicts: mpsc::Sender<(Arc<Key>, Verdict)>,
}

impl Asking {
    /// The first time at once, then once an interval.
    async fn run(self) {
        let mut rng = SmallRng::seed_from_u64(SysRng.try_next_u64().unwrap_or(0));
        loop {
            let due = Instant::now();
            let next = due + decide::pause(self.key.check.interval, &mut rng);
            let place = self.places.free.acquire().await;
            if due.elapsed() > self.key.check.interval {
                self.places.is_late(due.elapsed());
            }
            let answer = ask::ask(&self.key, self.tls.as_ref()).await;
            drop(place);
            let Some(answer) = answer else {
                tokio::time::sleep_until(next).await;
                continue;
            };
            let (verdict, changed) = self.board.heard(&self.key, answer, Timestamp::now());
            if (changed || !self.is_known(&verdict))
                && self.verdicts.send((Arc::clone(&self.key), verdict)).await.is_err()
            {
                return;
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// Two reloads in a row may have taken the target away and brought it back while its check went on.
    fn is_known(&self, verdict: &Verdict) -> bool {
        let ground = self.ground.load();
        ground.health.verdicts.get(&self.key).is_some_and(|known| known.standing == verdict.standing)
    }
}

/// Waits for the first verdicts on all targets, but not long: who starts should know where not to send anybody.
pub async fn first_round(ground: &ArcSwap<Ground>) {
    let end = Instant::now() + FIRST_CHECKS_WAIT;
    let open = || {
        let ground = ground.load();
        let unknown = |pool: &Arc<Pool>| {
            pool.targets.iter().any(|one| one.standing == Standing::Unknown && !one.addrs.is_empty())
        };
        ground.pools.iter().any(unknown)
    };
    while open() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One line for each target whose standing is another.
pub fn log_changes(before: &Ground, after: &Ground) {
    for ((config, old), new) in after.config.pools.iter().zip(&*before.pools).zip(&*after.pools) {
        if Arc::ptr_eq(old, new) {
            continue;
        }
        for ((written, was), is) in config.targets.iter().zip(&old.targets).zip(&new.targets) {
            if was.standing == is.standing {
                continue;
            }
            let why = why(&after.health, config, written, &is.addrs);
            let (pool, target, from, to) = (&new.name, &is.name, was.standing.word(), is.standing.word());
            match is.standing {
                Standing::Down => tracing::warn!(pool, target, from, to, why, "a target is down"),
                _ => tracing::info!(pool, target, from, to, why, "a target's standing changed"),
            }
        }
    }
}

/// What a target's checks said when they came to its standing; with several addresses, of each.
pub fn why(health: &Health, pool: &PoolConfig, target: &TargetAddr, addrs: &[Address]) -> String {
    let said = addrs.iter().filter_map(|addr| {
        let verdict = health.verdict(pool, target, addr)?;
        Some(if addrs.len() > 1 { format!("{addr}: {}", verdict.why) } else { verdict.why.to_string() })
    });
    said.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures::{Process, shop};

    #[tokio::test]
    async fn standings_that_come_together_are_one_table() {
        let (config, second) = (shop(), Duration::from_secs(1));
        let kind = CheckKind::Tcp;
        let check = HealthCheck { kind, interval: second, timeout: second, unhealthy_after: 1, healthy_after: 1 };
        let (pool, addr) = (&config.pools[0], Address::Tcp(([127, 0, 0, 1], 9).into()));
        let key = Arc::new(key(pool, &pool.targets[0], &addr, &check));
        let verdict = Verdict { standing: Standing::Down, since: Timestamp::now(), why: "it hangs".into() };
        let process = Process::start(config.clone()).await;
        let before = process.publisher.current().serial;
        for _ in 0..20 {
            let verdicts = vec![(Arc::clone(&key), verdict.clone())];
            process.control.shared.commands.send(Command::Checked(verdicts)).await.unwrap();
        }
        assert_eq!(process.patch("shop", &[], r#"{"weights":{"canary":5}}"#).await.status, 200);
        assert_eq!(process.publisher.current().serial, before + 2, "theirs, and the shift's");
    }
}
