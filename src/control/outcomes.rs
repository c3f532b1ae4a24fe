//! Every counter that workers ever got, by name. A name keeps its counters for the life of the process, also across
//! reloads that remove and bring it back, so that no counter goes back.

use super::resolve::Names;
use crate::boundary::clients::Clients;
use crate::boundary::compress::CompressOutcomes;
use crate::boundary::mirror::MirrorOutcomes;
use crate::boundary::outcomes::{AddressOutcomes, ListenerOutcomes, TargetOutcomes, VariantOutcomes, WorkerOutcomes};
use crate::boundary::pools::PoolOutcomes;
use crate::boundary::rate::{Limiter, RateOutcomes};
use crate::config::{Config, RouteConfig, TargetAddr};
use crate::net::address::Address;
use crate::routing::rate::RateLimit;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, Weak};

#[derive(Clone, Debug)]
pub struct Registry {
    workers: usize,
    /// By route and variant.
    pub variants: BTreeMap<(String, String), Arc<VariantOutcomes>>,
    /// By pool and target.
    pub targets: BTreeMap<(String, String), Arc<TargetOutcomes>>,
    pub pools: BTreeMap<String, Arc<PoolOutcomes>>,
    pub listeners: BTreeMap<String, Arc<ListenerOutcomes>>,
    /// By route, of those that have a mirror.
    pub mirrors: BTreeMap<String, Arc<MirrorOutcomes>>,
    /// By route, of those that compress.
    pub compressed: BTreeMap<String, Arc<CompressOutcomes>>,
    /// By route, of those that have a rate limit.
    pub rates: BTreeMap<String, Arc<Limiter>>,
    pub worker: Arc<WorkerOutcomes>,
    /// What became of looking targets' names up.
    pub names: Arc<Names>,
    addresses: Arc<Mutex<KnownAddresses>>,
}

/// By pool, target and address. Unlike names, addresses come and go: one is known for as long as some table has it.
type KnownAddresses = HashMap<(String, String, Address), Weak<AddressOutcomes>>;

/// Requests and tunnels of the whole process at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Ended since the start.
    pub requests: u64,
    pub in_flight: u64,
    pub tunnels: u64,
}

impl Registry {
    pub fn work(&self) -> Work {
        let unrouted = self.worker.shards.iter().map(|shard| shard.unrouted.load()).sum();
        let mut work = Work { requests: unrouted, ..Work::default() };
        for total in self.variants.values().map(|outcomes| outcomes.total()) {
            work.requests += total.requests.iter().flatten().sum::<u64>();
            work.in_flight += total.in_flight;
            work.tunnels += total.tunnels;
        }
        work
    }

    pub fn new(workers: usize) -> Registry {
        Registry {
            workers,
            variants: BTreeMap::new(),
            targets: BTreeMap::new(),
            pools: BTreeMap::new(),
            listeners: BTreeMap::new(),
            mirrors: BTreeMap::new(),
            compressed: BTreeMap::new(),
            rates: BTreeMap::new(),
            worker: Arc::new(WorkerOutcomes::new(workers)),
            names: Arc::default(),
            addresses: Arc::default(),
        }
    }

    pub fn workers(&self) -> usize {
        self.workers
    }

    /// This registry with whatever `config` names besides.
    pub fn extended(&self, config: &Config) -> Registry {
        let mut next = self.clone();
        let workers = self.workers;
        for route in &config.routes {
            for variant in &route.variants {
                let key = (route.name.clone(), variant.name.clone());
                next.variants.entry(key).or_insert_with(|| Arc::new(VariantOutcomes::new(workers)));
            }
        }
        for route in config.routes.iter().filter(|route| route.mirror.is_some()) {
            next.mirrors.entry(route.name.clone()).or_insert_with(|| Arc::new(MirrorOutcomes::new(workers)));
        }
        for route in config.routes.iter().filter(|route| compresses(route)) {
            next.compressed.entry(route.name.clone()).or_insert_with(|| Arc::new(CompressOutcomes::new(workers)));
        }
        for pool in &config.pools {
            let name = pool.name.clone();
            next.pools.entry(name).or_insert_with(|| Arc::new(PoolOutcomes::new(workers)));
            for target in &pool.targets {
                let key = (pool.name.clone(), target_name(target));
                next.targets.entry(key).or_insert_with(|| Arc::new(TargetOutcomes::new(workers)));
            }
        }
        for listener in &config.listeners {
            let name = listener.name.clone();
            let outcomes = next.listeners.entry(name).or_insert_with(|| Arc::new(ListenerOutcomes::new(workers)));
            if listener.max_connections_per_client.is_some() {
                outcomes.clients.get_or_init(|| Clients::new(config.limits.max_connections));
            }
        }
        next.limit_rates(&config.routes);
        next
    }

    /// A limit that did not change keeps its buckets.
    fn limit_rates(&mut self, routes: &[RouteConfig]) {
        for route in routes {
            let Some(limit) = rate_of(route) else { continue };
            let known = self.rates.get(&route.name);
            if known.is_some_and(|known| known.limit == *limit) {
                continue;
            }
            let counts = known.map(|known| Arc::clone(&known.outcomes));
            let counts = counts.unwrap_or_else(|| Arc::new(RateOutcomes::new(self.workers)));
            self.rates.insert(route.name.clone(), Arc::new(Limiter::new(limit.clone(), counts)));
        }
    }

    /// None for a route without a rate limit.
    pub fn rate(&self, route: &RouteConfig) -> Option<Arc<Limiter>> {
        rate_of(route).and_then(|_| self.rates.get(&route.name)).cloned()
    }

    /// The counters of a route's variant; new ones, counted nowhere, for a name that was never configured.
    pub fn variant(&self, route: &str, variant: &str) -> Arc<VariantOutcomes> {
        let known = self.variants.get(&(route.to_owned(), variant.to_owned()));
        known.cloned().unwrap_or_else(|| Arc::new(VariantOutcomes::new(self.workers)))
    }

    pub fn target(&self, pool: &str, target: &str) -> Arc<TargetOutcomes> {
        let known = self.targets.get(&(pool.to_owned(), target.to_owned()));
        known.cloned().unwrap_or_else(|| Arc::new(TargetOutcomes::new(self.workers)))
    }

    /// What workers know of an address; the same for every table that has it.
    pub fn address(&self, pool: &str, target: &str, addr: &Address) -> Arc<AddressOutcomes> {
        let key = (pool.to_owned(), target.to_owned(), addr.clone());
        let mut addresses = self.addresses.lock().unwrap_or_else(|broken| broken.into_inner());
        if let Some(known) = addresses.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        addresses.retain(|_, known| known.strong_count() > 0);
        let new = Arc::new(AddressOutcomes::new(self.workers));
        addresses.insert(key, Arc::downgrade(&new));
        new
    }

    pub fn pool(&self, name: &str) -> Arc<PoolOutcomes> {
        let known = self.pools.get(name);
        known.cloned().unwrap_or_else(|| Arc::new(PoolOutcomes::new(self.workers)))
    }

    pub fn mirror(&self, route: &str) -> Arc<MirrorOutcomes> {
        let known = self.mirrors.get(route);
        known.cloned().unwrap_or_else(|| Arc::new(MirrorOutcomes::new(self.workers)))
    }

    /// None for a route that never compressed.
    pub fn compressed(&self, route: &str) -> Option<Arc<CompressOutcomes>> {
        self.compressed.get(route).cloned()
    }

    pub fn listener(&self, name: &str) -> Arc<ListenerOutcomes> {
        let known = self.listeners.get(name);
        known.cloned().unwrap_or_else(|| Arc::new(ListenerOutcomes::new(self.workers)))
    }
}

fn rate_of(route: &RouteConfig) -> Option<&RateLimit> {
    route.filters.as_ref()?.rate.as_ref()
}

pub fn compresses(route: &RouteConfig) -> bool {
    route.filters.as_ref().is_some_and(|filters| filters.compress.is_some())
}

/// A target's name in status and metrics: as the file writes it.
pub fn target_name(target: &TargetAddr) -> String {
    target.to_string()
}
