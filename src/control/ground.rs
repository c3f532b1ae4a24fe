//! The ground state: the configuration, each route's live weights, and what names resolved to. Everything that the
//! data plane gets is derived from it. Pure: files, clocks and sockets are the controller's.
//!
//! The rule between the file and the live weights is one function, [`reconcile`], used at start (against what was
//! saved) and at reload (against what is live): the file's weights are *starting* weights, and the live ones go on for
//! as long as the file says what it said when they were set. A file that says something new wins.

mod edit;

pub use edit::place_of;

use super::command::{
    ChangeError, Changed, DrainError, DrainOrder, Installed, Origin, Relisted, RouteView, WeightChange,
};
use super::derive;
use super::health::{self, Health, Key};
use super::history::{self, Entry, History, Revision, Totals};
use super::outcomes::{Registry, target_name};
use super::persist::{self, Saved};
use super::resolve::Found;
use super::rollout::{LiveRollout, RolloutChange};
use super::tls::Tls;
use crate::boundary::outcomes::VariantOutcomes;
use crate::boundary::table::Pool;
use crate::config::{Bind, Config, RouteConfig, TargetAddr};
use crate::net::proxy_protocol::Accepts;
use crate::routing::split::{Assignment, Weight};
use jiff::Timestamp;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What targets' names resolved to; a name that never did is absent.
pub type Addresses = HashMap<TargetAddr, Vec<Found>>;

/// Cheap to clone: what did not change is shared.
#[derive(Clone, Debug)]
pub struct Ground {
    pub config: Arc<Config>,
    /// In the order of the configuration's routes.
    pub routes: Vec<Arc<LiveRoute>>,
    pub addresses: Arc<Addresses>,
    /// In the order of the configuration's pools.
    pub pools: Arc<[Arc<Pool>]>,
    pub outcomes: Arc<Registry>,
    pub health: Arc<Health>,
    /// Certificates and what they are served with.
    pub tls: Arc<Tls>,
    /// Of all routes' histories.
    pub totals: Totals,
    index: Arc<HashMap<String, usize>>,
}

/// A route's live state.
#[derive(Debug)]
pub struct LiveRoute {
    /// +1 with every change.
    pub generation: u64,
    pub assignment: Assignment,
    /// What the assignment gives each variant.
    pub weights: Vec<Weight>,
    pub outcomes: Vec<Arc<VariantOutcomes>>,
    /// As it stands in the state file, so that a change of one route in 10,000 serialises one.
    pub record: String,
    pub history: History,
    /// The last rollout, under way or over.
    pub rollout: Option<Arc<LiveRollout>>,
}

/// What is known of routes from before, by name. A route may have a history and no saved state: when that was lost.
#[derive(Debug, Default)]
pub struct Past {
    pub saved: HashMap<String, Saved>,
    pub histories: HashMap<String, History>,
    /// Pools and targets that were taken out.
    pub drained: BTreeSet<(String, String)>,
}

/// Who brings a configuration, and when.
#[derive(Clone, Debug)]
pub struct Cause {
    pub origin: Origin,
    pub now: Timestamp,
}

impl Past {
    /// Gives every route of the configuration whose history does not know its saved state a revision of that, and
    /// gives these.
    fn completed(&mut self, config: &Config, cause: &Cause) -> Vec<Arc<Entry>> {
        let mut added = Vec::new();
        for route in &config.routes {
            let Some(saved) = self.saved.get(&route.name) else { continue };
            let history = self.histories.entry(route.name.clone()).or_default();
            if history.newest().is_some_and(|newest| newest.generation == saved.generation) {
                continue;
            }
            let reason = Some("how it came to this is not known".to_owned());
            let revision = Revision {
                variants: saved.variants.clone(),
                origin: Origin { reason, ..cause.origin.clone() },
                ..revision(route, saved.generation, &saved.assignment, cause.origin.clone(), cause.now)
            };
            let entry = Arc::new(Entry::of(&revision));
            *history = history.with(Arc::clone(&entry));
            added.push(entry);
        }
        added
    }
}

impl Ground {
    /// The first ground state. Every saved route that the file still has goes on or gives way by [`reconcile`].
    pub fn start(
        config: Config,
        mut past: Past,
        addresses: Addresses,
        workers: usize,
        cause: &Cause,
    ) -> (Ground, Installed) {
        let outcomes = Registry::new(workers).extended(&config);
        let mut revisions = past.completed(&config, cause);
        let health = Health { drained: std::mem::take(&mut past.drained), ..Health::default() };
        let before = (&Tls::default(), &[][..], &health);
        let (ground, mut installed) = Ground::build(config, &past, addresses, outcomes, before, cause);
        revisions.append(&mut installed.revisions);
        (ground, Installed { revisions, ..installed })
    }

    /// The ground state with another configuration.
    pub fn reloaded(&self, config: Config, mut addresses: Addresses, cause: &Cause) -> (Ground, Installed) {
        // What came while the reload looked names up is newer than what that found.
        for (name, found) in self.addresses.iter() {
            if let Some(looked_up) = addresses.get_mut(name) {
                looked_up.clone_from(found);
            }
        }
        let live = || self.config.routes.iter().zip(&self.routes);
        let past = Past {
            saved: live().map(|(route, live)| (route.name.clone(), Saved::of(route, live))).collect(),
            histories: live().map(|(route, live)| (route.name.clone(), live.history.clone())).collect(),
            ..Past::default()
        };
        let outcomes = self.outcomes.extended(&config);
        let previous: Vec<_> = self.config.pools.iter().zip(self.pools.iter().cloned()).collect();
        let previous = (self.tls.as_ref(), previous.as_slice(), self.health.as_ref());
        let (mut ground, mut installed) = Ground::build(config, &past, addresses, outcomes, previous, cause);
        ground.tls = Arc::clone(&self.tls);
        installed.needs_restart = needs_restart(&self.config, &ground.config);
        (ground, installed)
    }

    /// The ground state after live weights went into the file: `config` differs from the running one in the file's
    /// weights only, and what is live goes on as it is.
    pub fn with_file(&self, config: Config) -> Ground {
        let live = |(new, (old, live)): (&RouteConfig, (&RouteConfig, &Arc<LiveRoute>))| {
            if new.weights == old.weights {
                return Arc::clone(live);
            }
            let state = State::of(live);
            Arc::new(LiveRoute::new(new, state, live.outcomes.clone(), live.history.clone()))
        };
        let routes = config.routes.iter().zip(self.config.routes.iter().zip(&self.routes)).map(live).collect();
        Ground { config: Arc::new(config), routes, ..self.clone() }
    }

    /// The ground state with other addresses of some names; None when nothing changes by that.
    pub fn resolved(&self, changes: &Addresses) -> Option<Ground> {
        let mut addresses = Addresses::clone(&self.addresses);
        let named = |target: &TargetAddr| self.config.pools.iter().any(|pool| pool.targets.contains(target));
        // A reload may have come between: then some are of names that are gone.
        addresses
            .extend(changes.iter().filter(|(target, _)| named(target)).map(|(to, found)| (to.clone(), found.clone())));
        if addresses == *self.addresses {
            return None;
        }
        let previous: Vec<_> = self.config.pools.iter().zip(self.pools.iter().cloned()).collect();
        let pools = derive::pools(&self.config, &addresses, &self.tls, (&self.outcomes, &self.health), &previous);
        Some(Ground { addresses: Arc::new(addresses), pools, ..self.clone() })
    }

    /// The ground state with other certificates.
    pub fn certified(&self, tls: Arc<Tls>) -> Ground {
        let previous: Vec<_> = self.config.pools.iter().zip(self.pools.iter().cloned()).collect();
        let pools = derive::pools(&self.config, &self.addresses, &tls, (&self.outcomes, &self.health), &previous);
        Ground { pools, tls, ..self.clone() }
    }

    /// The ground state with what health checks came to.
    pub fn checked(&self, verdicts: &[(Arc<Key>, health::Verdict)]) -> Ground {
        self.with_health(self.health.with(verdicts, &self.config, &self.pools))
    }

    /// The ground state with a target taken out or back in; None when it is so already.
    pub fn drained(&self, order: &DrainOrder) -> Result<Option<Ground>, DrainError> {
        let pool = self.config.pools.iter().find(|pool| pool.name == order.pool);
        let pool = pool.ok_or_else(|| DrainError::NoPool(order.pool.clone()))?;
        if !pool.targets.iter().any(|target| target_name(target) == order.target) {
            return Err(DrainError::NoTarget { pool: order.pool.clone(), target: order.target.clone() });
        }
        let (mut health, place) = (Health::clone(&self.health), (order.pool.clone(), order.target.clone()));
        let changed = if order.drain { health.drained.insert(place) } else { health.drained.remove(&place) };
        Ok(changed.then(|| self.with_health(health)))
    }

    fn with_health(&self, health: Health) -> Ground {
        let previous: Vec<_> = self.config.pools.iter().zip(self.pools.iter().cloned()).collect();
        let pools = derive::pools(&self.config, &self.addresses, &self.tls, (&self.outcomes, &health), &previous);
        Ground { pools, health: Arc::new(health), ..self.clone() }
    }

    /// The ground state with other lists in its rules and matches; None when they belong to another configuration.
    pub fn relisted(&self, relisted: &Relisted) -> Option<Ground> {
        if !Arc::ptr_eq(&self.config, &relisted.config) {
            return None;
        }
        let mut config = Config::clone(&self.config);
        for (list, file) in &relisted.lists {
            let rules = config.routes.iter_mut().flat_map(|route| &mut route.rules);
            rules.for_each(|rule| rule.when.relist(*list, &file.values));
            let previews = config.routes.iter_mut().filter_map(|route| route.preview.as_mut());
            previews.for_each(|preview| preview.relist(*list, &file.values));
            let matches = config.routes.iter_mut().flat_map(|route| &mut route.matches.conditions);
            matches.for_each(|(_, test)| test.relist(*list, &file.values));
            config.lists[*list] = file.clone();
        }
        Some(Ground { config: Arc::new(config), ..self.clone() })
    }

    /// One route by name.
    pub fn route(&self, name: &str) -> Option<RouteView> {
        self.index.get(name).map(|index| self.view(*index))
    }

    /// Every route, in the file's order.
    pub fn views(&self) -> impl Iterator<Item = RouteView> {
        (0..self.routes.len()).map(|index| self.view(index))
    }

    /// What `change` would make of its route. Nothing changes, and the generation stays, when every bucket is where it
    /// was.
    pub fn changed(&self, change: &WeightChange, now: Timestamp) -> Result<Changed, ChangeError> {
        let view = self.route(&change.route).ok_or_else(|| ChangeError::NoRoute(change.route.clone()))?;
        if change.if_match.as_ref().is_some_and(|wanted| !wanted.allows(view.live.generation)) {
            return Err(ChangeError::Stale(Box::new(view)));
        }
        if !change.overrides && view.live.rollout.as_ref().is_some_and(|rollout| rollout.under_way) {
            return Err(ChangeError::Rollout(change.route.clone()));
        }
        let asked = edit::asked(&view, &change.edit)?;
        let before = Arc::clone(&view.live);
        let (to, overrode) = (asked.to, asked.overrode);
        if asked.assignment == before.assignment {
            return Ok(Changed { before, route: view, to, overrode });
        }
        let route = &view.config.routes[view.index];
        let revision = Revision {
            action: asked.action.into(),
            before: shares(route, &before.weights),
            to,
            overrode: overrode.clone(),
            ..revision(route, before.generation + 1, &asked.assignment, change.origin.clone(), now)
        };
        let live = before.at(route, &revision);
        Ok(Changed { before, route: RouteView { live: Arc::new(live), ..view }, to, overrode })
    }

    /// What a rollout makes of its route, at a generation of at least `least` if its weights change. None: there is no such
    /// route or variant any more.
    pub fn rolled(&self, change: &RolloutChange, least: u64, now: Timestamp) -> Option<RouteView> {
        let view = self.route(&change.route)?;
        let route = &view.config.routes[view.index];
        if change.rollout.as_ref().is_some_and(|rollout| !rollout.fits(route)) {
            return None;
        }
        let rolled = LiveRoute { rollout: change.rollout.clone(), ..view.live.copy() };
        let assignment = match &change.weights {
            None => None,
            Some(weights) => {
                let share = |name: &String| weights.shares.iter().find(|(known, _)| known == name);
                let asked = route.variants.iter().map(|one| share(&one.name).map_or(Weight::ZERO, |(_, share)| *share));
                Some(view.live.assignment.moved_to(&asked.collect::<Vec<_>>()).ok()?)
            }
        };
        let live = match (assignment, &change.weights) {
            (Some(assignment), Some(weights)) if assignment != view.live.assignment => {
                let generation = (view.live.generation + 1).max(least);
                let revision = Revision {
                    action: weights.action.into(),
                    before: shares(route, &view.live.weights),
                    ..revision(route, generation, &assignment, weights.origin.clone(), now)
                };
                rolled.at(route, &revision)
            }
            _ => LiveRoute::new(route, State::of(&rolled), rolled.outcomes.clone(), rolled.history.clone()),
        };
        Some(RouteView { live: Arc::new(live), ..view })
    }

    /// Puts a changed route in.
    pub fn apply(&mut self, view: &RouteView) {
        let was = self.routes[view.index].history.totals();
        self.totals = self.totals.minus(was).plus(view.live.history.totals());
        self.routes[view.index] = Arc::clone(&view.live);
    }

    /// Lets go of revisions that are too old, or too many in all.
    pub fn trim_history(&mut self, now: Timestamp) {
        let oldest = history::oldest_to_stay(self.routes.iter().map(|route| &route.history), now);
        for route in &mut self.routes {
            if let Some(history) = route.history.since(oldest) {
                *route = Arc::new(route.with_history(history));
            }
        }
        self.totals = totals(&self.routes);
    }

    /// The body of the state file.
    pub fn to_saved(&self) -> Vec<u8> {
        persist::body(self.routes.iter().map(|route| route.record.as_str()), &self.health.drained)
    }

    fn view(&self, index: usize) -> RouteView {
        RouteView {
            config: Arc::clone(&self.config),
            pools: Arc::clone(&self.pools),
            index,
            live: Arc::clone(&self.routes[index]),
        }
    }

    fn build(
        config: Config,
        past: &Past,
        addresses: Addresses,
        outcomes: Registry,
        (tls, previous, health): (&Tls, &[(&crate::config::PoolConfig, Arc<Pool>)], &Health),
        cause: &Cause,
    ) -> (Ground, Installed) {
        let mut installed =
            Installed { routes: config.routes.len(), pools: config.pools.len(), ..Installed::default() };
        let mut routes = Vec::with_capacity(config.routes.len());
        let mut index = HashMap::with_capacity(config.routes.len());
        for route in &config.routes {
            let saved = past.saved.get(&route.name);
            let history = past.histories.get(&route.name).cloned().unwrap_or_default();
            let (state, verdict) = reconcile(route, saved, &history);
            let live = LiveRoute::installed(route, saved, history, state, &outcomes, cause);
            installed.note(route, &live, verdict, past.histories.get(&route.name));
            index.insert(route.name.clone(), routes.len());
            routes.push(Arc::new(live));
        }
        installed.removed = past.saved.keys().filter(|name| !index.contains_key(*name)).cloned().collect();
        installed.removed.sort_unstable();
        let health = health.of(&config, previous);
        let pools = derive::pools(&config, &addresses, tls, (&outcomes, &health), previous);
        let health = health.with(&[], &config, &pools);
        let ground = Ground {
            config: Arc::new(config),
            totals: totals(&routes),
            routes,
            addresses: Arc::new(addresses),
            pools,
            outcomes: Arc::new(outcomes),
            health: Arc::new(health),
            tls: Arc::default(),
            index: Arc::new(index),
        };
        (ground, installed)
    }
}

impl LiveRoute {
    fn new(route: &RouteConfig, state: State, outcomes: Vec<Arc<VariantOutcomes>>, history: History) -> LiveRoute {
        let State { generation, assignment, rollout } = state;
        let weights = assignment.weights();
        let record = persist::record(route, generation, &assignment, rollout.as_deref());
        LiveRoute { generation, assignment, weights, outcomes, record, history, rollout }
    }

    /// As a configuration has it now. Its history gets a revision where it has none of this generation.
    fn installed(
        route: &RouteConfig,
        saved: Option<&Saved>,
        history: History,
        state: State,
        outcomes: &Registry,
        cause: &Cause,
    ) -> LiveRoute {
        let counters = route.variants.iter().map(|variant| outcomes.variant(&route.name, &variant.name)).collect();
        if history.newest().is_some_and(|newest| newest.generation == state.generation) {
            return LiveRoute::new(route, state, counters, history);
        }
        let action = if saved.is_some() { history::FILE } else { history::START };
        let revision = Revision {
            action: action.into(),
            before: saved.map(Saved::shares).unwrap_or_default(),
            ..revision(route, state.generation, &state.assignment, cause.origin.clone(), cause.now)
        };
        LiveRoute::new(route, state, counters, history.with(Arc::new(Entry::of(&revision))))
    }

    /// The state that a revision makes of this one.
    fn at(&self, route: &RouteConfig, revision: &Revision) -> LiveRoute {
        let (generation, assignment) = (revision.generation, revision.assignment.clone());
        let state = State { generation, assignment, rollout: self.rollout.clone() };
        LiveRoute::new(route, state, self.outcomes.clone(), self.history.with(Arc::new(Entry::of(revision))))
    }

    fn with_history(&self, history: History) -> LiveRoute {
        LiveRoute { history, ..self.copy() }
    }

    fn copy(&self) -> LiveRoute {
        LiveRoute {
            generation: self.generation,
            assignment: self.assignment.clone(),
            weights: self.weights.clone(),
            outcomes: self.outcomes.clone(),
            record: self.record.clone(),
            history: self.history.clone(),
            rollout: self.rollout.clone(),
        }
    }
}

/// A start of a revision: nothing known before it, nothing brought back or overridden.
fn revision(route: &RouteConfig, generation: u64, assignment: &Assignment, origin: Origin, now: Timestamp) -> Revision {
    Revision {
        route: route.name.clone(),
        generation,
        // The record has no more.
        time: Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now),
        action: history::START.into(),
        origin,
        before: Vec::new(),
        variants: route.variants.iter().map(|variant| variant.name.clone()).collect(),
        assignment: assignment.clone(),
        to: None,
        overrode: Vec::new(),
    }
}

fn shares(route: &RouteConfig, weights: &[Weight]) -> Vec<(String, Weight)> {
    route.variants.iter().map(|variant| variant.name.clone()).zip(weights.iter().copied()).collect()
}

fn totals(routes: &[Arc<LiveRoute>]) -> Totals {
    routes.iter().fold(Totals::default(), |totals, route| totals.plus(route.history.totals()))
}

impl Installed {
    fn note(&mut self, route: &RouteConfig, live: &LiveRoute, verdict: Verdict, before: Option<&History>) {
        match verdict {
            Verdict::New => self.added.push(route.name.clone()),
            Verdict::FileWins => self.file_won.push(route.name.clone()),
            Verdict::LiveContinues if live.weights != route.weights => self.live_kept.push(route.name.clone()),
            Verdict::LiveContinues => {}
        }
        let newest = live.history.newest();
        if newest != before.and_then(History::newest) {
            self.revisions.extend(newest.cloned());
        }
    }
}

/// What became of a route's live state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    New,
    LiveContinues,
    FileWins,
}

/// What is saved of a route, but for what the file said.
struct State {
    generation: u64,
    assignment: Assignment,
    rollout: Option<Arc<LiveRollout>>,
}

impl State {
    fn of(live: &LiveRoute) -> State {
        let (generation, assignment) = (live.generation, live.assignment.clone());
        State { generation, assignment, rollout: live.rollout.clone() }
    }
}

/// The live state of a route as the file now has it.
///
/// The live one goes on, bucket for bucket, when the file gives the same variants the same weights as when it was
/// saved. Otherwise the file's weights come into force, moving as few clients as they can, at the next generation.
/// A route that is not saved starts with the file's weights, after the last generation that its history knows.
fn reconcile(route: &RouteConfig, saved: Option<&Saved>, history: &History) -> (State, Verdict) {
    let Some(saved) = saved else {
        let generation = history.newest().map_or(1, |newest| newest.generation + 1);
        return (State { generation, assignment: starting(route), rollout: None }, Verdict::New);
    };
    // One between variants that are not there any more has come to nothing.
    let rollout = saved.rollout.clone().filter(|rollout| rollout.fits(route));
    let map = variant_map(&saved.variants, route);
    let in_place = map.iter().enumerate().all(|(old, new)| *new == Some(old)) && map.len() == route.variants.len();
    let carried = carried(saved, &map, route);
    let same_names = saved.variants.len() == route.variants.len()
        && route.variants.iter().all(|variant| saved.variants.contains(&variant.name));
    let same_file = same_names && map.iter().zip(&saved.file).all(|(new, weight)| at(route, *new) == Some(*weight));
    if same_file {
        // Another order is another baseline: whoever holds the old generation must look again.
        let generation = if in_place { saved.generation } else { saved.generation + 1 };
        return (State { generation, assignment: carried, rollout }, Verdict::LiveContinues);
    }
    let assignment = carried.moved_to(&route.weights).unwrap_or_else(|_| starting(route));
    let unchanged = in_place && same_names && assignment == saved.assignment;
    let generation = if unchanged { saved.generation } else { saved.generation + 1 };
    (State { generation, assignment, rollout }, Verdict::FileWins)
}

/// The saved assignment with the variants' places of now; buckets of variants that are gone go where `remapped` puts
/// them.
fn carried(saved: &Saved, map: &[Option<usize>], route: &RouteConfig) -> Assignment {
    saved.assignment.remapped(map, route.variants.len()).unwrap_or_else(|_| starting(route))
}

fn starting(route: &RouteConfig) -> Assignment {
    Assignment::starting(&route.weights).expect("a checked configuration's weights sum to 100")
}

/// For each saved variant its place of now. One that is gone while a new name stands in its place was renamed.
fn variant_map(saved: &[String], route: &RouteConfig) -> Vec<Option<usize>> {
    let now: Vec<&str> = route.variants.iter().map(|variant| variant.name.as_str()).collect();
    let renamed = |place: usize| now.get(place).filter(|name| !saved.iter().any(|old| old == *name)).map(|_| place);
    saved
        .iter()
        .enumerate()
        .map(|(place, old)| now.iter().position(|name| name == old).or_else(|| renamed(place)))
        .collect()
}

fn at(route: &RouteConfig, variant: Option<usize>) -> Option<Weight> {
    variant.map(|variant| route.weights[variant])
}

/// `stable 95, canary 5`.
pub fn listed(route: &RouteConfig, weights: &[Weight]) -> String {
    let shares = route.variants.iter().zip(weights);
    shares.map(|(variant, weight)| format!("{} {}", variant.name, weight.percent())).collect::<Vec<_>>().join(", ")
}

/// Where listeners are; their TLS a reload can change.
fn addresses(config: &Config) -> Vec<(&str, &Bind, Option<Accepts>)> {
    let listeners = config.listeners.iter();
    let mut addresses: Vec<_> = listeners.map(|one| (one.name.as_str(), &one.bind, one.proxy_protocol)).collect();
    addresses.sort_unstable_by_key(|(name, ..)| *name);
    addresses
}

/// What a running process can't take over from a new file.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let differs = [
        ("server.workers", old.server.workers != new.server.workers),
        ("server.state_dir", old.server.state_dir != new.server.state_dir),
        ("admin.listen", old.admin.listen != new.admin.listen),
        ("admin.metrics", old.admin.metrics != new.admin.metrics),
        ("log", old.log != new.log),
        ("listener", addresses(old) != addresses(new)),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

#[cfg(test)]
pub mod tests {
    use super::super::command::{Edit, IfMatch};
    use super::super::fixtures::{cause, config, ground, shop, weights};
    use super::*;
    use crate::boundary::table::Standing;
    use proptest::prelude::*;

    pub fn change(edit: Edit) -> WeightChange {
        let origin = Origin { actor: "test".to_owned(), source: "here".to_owned(), reason: None };
        WeightChange { route: "r".to_owned(), edit, if_match: None, overrides: false, origin }
    }

    pub fn named(shares: &[(&str, f64)]) -> Vec<(String, Weight)> {
        shares.iter().map(|(name, percent)| ((*name).to_owned(), Weight::from_percent(*percent).unwrap())).collect()
    }

    pub fn three() -> Config {
        config(&[("r", &[("a", 70.0), ("b", 20.0), ("c", 10.0)])])
    }

    fn shift(ground: &mut Ground, shares: &[(&str, f64)]) {
        let changed = ground.changed(&change(Edit::Patch(named(shares))), cause().now).unwrap();
        ground.apply(&changed.route);
    }

    #[test]
    fn a_route_that_answers_by_itself_has_no_weights_to_change() {
        for name in ["redirect", "respond"] {
            let mut config = config(&[("r", &[(name, 100.0)])]);
            config.routes[0].variants[0].pool = None;
            let Err(ChangeError::Weights { field, detail }) =
                ground(config).changed(&change(Edit::Patch(named(&[(name, 100.0)]))), cause().now)
            else {
                panic!()
            };
            assert_eq!(field, "weights");
            assert!(detail.starts_with(&format!("route \"r\" has `{name}`")), "{detail}");
        }
    }

    #[test]
    fn the_same_weights_change_nothing_and_an_old_generation_is_refused() {
        let mut ground = ground(three());
        let same = ground.changed(&change(Edit::Patch(named(&[("b", 20.0)]))), cause().now).unwrap();
        assert_eq!((same.route.live.generation, same.changed()), (1, false));
        shift(&mut ground, &[("b", 30.0)]);
        let at = |generation| WeightChange {
            if_match: Some(IfMatch::OneOf(vec![generation])),
            ..change(Edit::Patch(named(&[("b", 40.0)])))
        };
        let Err(ChangeError::Stale(view)) = ground.changed(&at(1), cause().now) else { panic!() };
        assert_eq!(view.live.generation, 2);
        assert_eq!(ground.changed(&at(2), cause().now).unwrap().route.live.generation, 3);
    }

    #[test]
    fn live_weights_go_on_bucket_for_bucket_while_the_file_says_the_same() {
        let mut ground = ground(three());
        shift(&mut ground, &[("b", 45.0)]);
        shift(&mut ground, &[("c", 33.333), ("b", 1.0)]);
        let (again, installed) = ground.reloaded(three(), Addresses::new(), &cause());
        assert_eq!(again.routes[0].assignment, ground.routes[0].assignment);
        assert_eq!(again.routes[0].generation, 3);
        assert_eq!(installed.live_kept, ["r"]);
        assert!(installed.file_won.is_empty());
    }

    #[test]
    fn a_file_with_other_weights_wins_and_moves_few() {
        let mut ground = ground(three());
        shift(&mut ground, &[("b", 45.0)]);
        let file = config(&[("r", &[("a", 50.0), ("b", 40.0), ("c", 10.0)])]);
        let (again, installed) = ground.reloaded(file, Addresses::new(), &cause());
        assert_eq!(installed.file_won, ["r"]);
        assert_eq!(again.routes[0].weights, weights(&[50.0, 40.0, 10.0]));
        assert_eq!(again.routes[0].generation, 3);
        assert_eq!(again.routes[0].assignment.buckets_moved(&ground.routes[0].assignment), 5_000);
        // What was saved into the file is no change.
        let file = config(&[("r", &[("a", 45.0), ("b", 45.0), ("c", 10.0)])]);
        let (again, _) = ground.reloaded(file, Addresses::new(), &cause());
        assert_eq!(again.routes[0].generation, 2);
        assert_eq!(again.routes[0].assignment, ground.routes[0].assignment);
    }

    #[test]
    fn reordered_variants_keep_their_clients() {
        let mut ground = ground(three());
        shift(&mut ground, &[("b", 45.0)]);
        let file = config(&[("r", &[("b", 20.0), ("c", 10.0), ("a", 70.0)])]);
        let (again, installed) = ground.reloaded(file, Addresses::new(), &cause());
        assert_eq!(again.routes[0].weights, weights(&[45.0, 10.0, 45.0]));
        assert_eq!(again.routes[0].generation, 3, "another baseline");
        assert_eq!(installed.live_kept, ["r"]);
        let back = again.routes[0].assignment.remapped(&[Some(1), Some(2), Some(0)], 3).unwrap();
        assert_eq!(back, ground.routes[0].assignment);
    }

    #[test]
    fn added_removed_and_renamed_variants_bring_the_file_s_weights() {
        let mut ground = ground(three());
        shift(&mut ground, &[("b", 45.0)]);
        let moved = |file: &[(&str, f64)], map: &[Option<usize>]| {
            let (again, installed) = ground.reloaded(config(&[("r", file)]), Addresses::new(), &cause());
            assert_eq!(installed.file_won, ["r"]);
            assert_eq!(again.routes[0].generation, 3);
            let expected: Vec<f64> = file.iter().map(|(_, percent)| *percent).collect();
            assert_eq!(again.routes[0].weights, weights(&expected));
            let carried = ground.routes[0].assignment.remapped(map, file.len()).unwrap();
            again.routes[0].assignment.buckets_moved(&carried)
        };
        // a 45, b 45, c 10 are live.
        let same = [Some(0), Some(1), Some(2)];
        assert_eq!(moved(&[("a", 70.0), ("b", 20.0), ("c", 5.0), ("d", 5.0)], &same), 30_000);
        assert_eq!(moved(&[("a", 55.0), ("b", 45.0)], &[Some(0), Some(1), None]), 0);
        // A new name in the old one's place has the old one's clients.
        assert_eq!(moved(&[("a", 45.0), ("b2", 45.0), ("c", 10.0)], &same), 0);
    }

    #[test]
    fn counters_stay_with_their_names_across_reloads() {
        let before = ground(shop());
        let counters = Arc::clone(&before.routes[0].outcomes[1]);
        counters.shards[0].retries.add(3);
        let (without, installed) = before.reloaded(config(&[("other", &[("a", 100.0)])]), Addresses::new(), &cause());
        assert_eq!(installed.removed, ["shop"]);
        assert_eq!(installed.added, ["other"]);
        let (back, _) = without.reloaded(shop(), Addresses::new(), &cause());
        assert!(Arc::ptr_eq(&back.routes[0].outcomes[1], &counters));
        assert_eq!(back.routes[0].outcomes[1].total().retries, 3);
    }

    #[test]
    fn a_pool_that_did_not_change_is_the_same() {
        let before = ground(shop());
        let (same, _) = before.reloaded(shop(), Addresses::new(), &cause());
        assert!(Arc::ptr_eq(&before.pools[0], &same.pools[0]));
        let mut other = shop();
        other.pools[0].max_connections = 7;
        let (changed, _) = before.reloaded(other, Addresses::new(), &cause());
        assert_eq!(changed.pools[0].max_connections, 7);
        assert!(Arc::ptr_eq(&before.pools[0].targets[0].outcomes, &changed.pools[0].targets[0].outcomes));
    }

    #[test]
    fn a_drained_target_stays_so_over_reloads_and_starts_until_it_is_gone_or_enabled() {
        let before = ground(shop());
        let order = |target: &str, drain| DrainOrder {
            pool: "pool".to_owned(),
            target: target.to_owned(),
            drain,
            origin: cause().origin,
        };
        assert!(matches!(before.drained(&order("127.0.0.1:8", true)), Err(DrainError::NoTarget { .. })));
        let nowhere = DrainOrder { pool: "pol".to_owned(), ..order("127.0.0.1:9", true) };
        assert!(matches!(before.drained(&nowhere), Err(DrainError::NoPool(_))));
        assert!(before.drained(&order("127.0.0.1:9", false)).unwrap().is_none(), "it is in already");
        let out = before.drained(&order("127.0.0.1:9", true)).unwrap().unwrap();
        let standing = |ground: &Ground| ground.pools[0].targets[0].standing;
        assert_eq!((standing(&out), out.pools[0].best()), (Standing::Draining, None));
        assert!(out.drained(&order("127.0.0.1:9", true)).unwrap().is_none());
        let (reloaded, _) = out.reloaded(shop(), Addresses::new(), &cause());
        assert_eq!(standing(&reloaded), Standing::Draining);
        let past = Past { drained: out.health.drained.clone(), ..Past::default() };
        let (restarted, _) = Ground::start(shop(), past, Addresses::new(), 1, &cause());
        assert_eq!(standing(&restarted), Standing::Draining);
        let back = restarted.drained(&order("127.0.0.1:9", false)).unwrap().unwrap();
        assert_eq!((standing(&back), back.health.drained.len()), (Standing::Up, 0));
        let mut gone = shop();
        gone.pools[0].targets = vec![TargetAddr::Ip(([127, 0, 0, 1], 10).into())];
        assert!(out.reloaded(gone, Addresses::new(), &cause()).0.health.drained.is_empty());
    }

    #[test]
    fn new_addresses_make_a_new_pool() {
        let mut named = shop();
        let name = TargetAddr::Name { host: "db".to_owned(), port: 80 };
        named.pools[0].targets.push(name.clone());
        named.pools[0].weights.push(3);
        let before = ground(named);
        assert!(before.pools[0].targets[1].addrs.is_empty());
        let found = |addrs: &[&str]| -> Addresses {
            let found = |addr: &&str| Found { addr: addr.parse().unwrap(), weight: 2 };
            [(name.clone(), addrs.iter().map(found).collect())].into()
        };
        let after = before.resolved(&found(&["192.0.2.1:80", "192.0.2.2:80"])).unwrap();
        let addrs = |ground: &Ground| -> Vec<String> {
            ground.pools[0].targets[1].addrs.iter().map(ToString::to_string).collect()
        };
        assert_eq!(addrs(&after), ["192.0.2.1:80", "192.0.2.2:80"]);
        assert_eq!(after.pools[0].targets[1].endpoints[0].weight, 6, "the target's by the record's");
        assert!(after.resolved(&found(&["192.0.2.1:80", "192.0.2.2:80"])).is_none());
        let fewer = after.resolved(&found(&["192.0.2.2:80"])).unwrap();
        assert_eq!(addrs(&fewer), ["192.0.2.2:80"]);
        assert_eq!(fewer.pools[0].targets[1].endpoints[0], after.pools[0].targets[1].endpoints[1], "it is the same");
        let stranger = TargetAddr::Name { host: "other".to_owned(), port: 80 };
        assert!(after.resolved(&[(stranger, Vec::new())].into()).is_none());
    }

    proptest! {
        #[test]
        fn any_change_leaves_a_whole_saved_and_read_back(
            steps in prop::collection::vec((0u32..=50_000, 0u32..=50_000), 1..20)
        ) {
            let mut ground = ground(three());
            for (b, c) in steps {
                let thousandths = |n| Weight::from_thousandths(n).unwrap();
                let edit = Edit::Patch(vec![("b".to_owned(), thousandths(b)), ("c".to_owned(), thousandths(c))]);
                let before = Arc::clone(&ground.routes[0]);
                let changed = ground.changed(&change(edit), cause().now).unwrap();
                ground.apply(&changed.route);
                let now = &ground.routes[0];
                let given: Vec<u32> = now.weights.iter().map(|weight| weight.thousandths()).collect();
                prop_assert_eq!(&given, &[100_000 - b - c, b, c]);
                let pairs = before.weights.iter().zip(&now.weights);
                let moved: u32 = pairs.map(|(was, is)| was.thousandths().abs_diff(is.thousandths())).sum();
                prop_assert_eq!(before.assignment.buckets_moved(&now.assignment), moved / 2);
            }
            let saved = HashMap::from([("r".to_owned(), Saved::of(&ground.config.routes[0], &ground.routes[0]))]);
            let past = Past { saved, ..Past::default() };
            let (again, _) = Ground::start(three(), past, Addresses::new(), 1, &cause());
            prop_assert_eq!(&again.routes[0].assignment, &ground.routes[0].assignment);
            prop_assert_eq!(again.to_saved(), ground.to_saved());
        }
    }
}
