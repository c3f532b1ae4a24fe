//! The ground state: the configuration, each route's live weights, and what names resolved to. Everything that the
//! data plane gets is derived from it. Pure: files, clocks and sockets are the controller's.
//!
//! The rule between the file and the live weights is one function, [`reconcile`], used at start (against what was
//! saved) and at reload (against what is live): the file's weights are *starting* weights, and the live ones go on for
//! as long as the file says what it said when they were set. A file that says something new wins.

use super::command::{ChangeError, Edit, Installed, RouteView, WeightChange};
use super::derive;
use super::outcomes::Registry;
use super::persist::{self, Saved};
use super::tls::Tls;
use crate::boundary::outcomes::VariantOutcomes;
use crate::boundary::table::Pool;
use crate::config::{Config, RouteConfig};
use crate::routing::split::{Assignment, Weight};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// What targets' names resolved to; a name that never did is absent.
pub type Addresses = HashMap<(String, u16), Vec<SocketAddr>>;

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
    /// Certificates and what they are served with.
    pub tls: Arc<Tls>,
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
}

impl Ground {
    /// The first ground state. Every saved route that the file still has goes on or gives way by [`reconcile`].
    pub fn start(
        config: Config,
        saved: &HashMap<String, Saved>,
        addresses: Addresses,
        workers: usize,
    ) -> (Ground, Installed) {
        let outcomes = Registry::new(workers).extended(&config);
        Ground::build(config, saved, addresses, outcomes, (&Tls::default(), &[]))
    }

    /// The ground state with another configuration.
    pub fn reloaded(&self, config: Config, addresses: Addresses) -> (Ground, Installed) {
        let live = self.config.routes.iter().zip(&self.routes);
        let saved = live.map(|(route, live)| (route.name.clone(), Saved::of(route, live))).collect();
        let outcomes = self.outcomes.extended(&config);
        let previous: Vec<_> = self.config.pools.iter().zip(self.pools.iter().cloned()).collect();
        let previous = (self.tls.as_ref(), previous.as_slice());
        let (mut ground, mut installed) = Ground::build(config, &saved, addresses, outcomes, previous);
        ground.tls = Arc::clone(&self.tls);
        installed.needs_restart = needs_restart(&self.config, &ground.config);
        (ground, installed)
    }

    /// The ground state with other addresses; None when they are the same.
    pub fn resolved(&self, addresses: Addresses) -> Option<Ground> {
        if addresses == *self.addresses {
            return None;
        }
        let previous: Vec<_> = self.config.pools.iter().zip(self.pools.iter().cloned()).collect();
        let pools = derive::pools(&self.config, &addresses, &self.tls, &self.outcomes, &previous);
        Some(Ground { addresses: Arc::new(addresses), pools, ..self.clone() })
    }

    /// The ground state with other certificates.
    pub fn certified(&self, tls: Arc<Tls>) -> Ground {
        let previous: Vec<_> = self.config.pools.iter().zip(self.pools.iter().cloned()).collect();
        let pools = derive::pools(&self.config, &self.addresses, &tls, &self.outcomes, &previous);
        Ground { pools, tls, ..self.clone() }
    }

    /// One route by name.
    pub fn route(&self, name: &str) -> Option<RouteView> {
        self.index.get(name).map(|index| self.view(*index))
    }

    /// Every route, in the file's order.
    pub fn views(&self) -> impl Iterator<Item = RouteView> {
        (0..self.routes.len()).map(|index| self.view(index))
    }

    /// What `change` would make of its route. Generation and assignment stay when the weights are what they were.
    pub fn changed(&self, change: &WeightChange) -> Result<RouteView, ChangeError> {
        let view = self.route(&change.route).ok_or_else(|| ChangeError::NoRoute(change.route.clone()))?;
        if change.if_match.as_ref().is_some_and(|wanted| !wanted.allows(view.live.generation)) {
            return Err(ChangeError::Stale(Box::new(view)));
        }
        let route = &view.config.routes[view.index];
        let weights = asked(route, &view.live.weights, &change.edit)?;
        if weights == view.live.weights {
            return Ok(view);
        }
        let assignment = view.live.assignment.moved_to(&weights).map_err(|error| weights_error("weights", &error))?;
        let live = LiveRoute::new(route, view.live.generation + 1, assignment, view.live.outcomes.clone());
        Ok(RouteView { live: Arc::new(live), ..view })
    }

    /// Puts a changed route in.
    pub fn apply(&mut self, view: &RouteView) {
        self.routes[view.index] = Arc::clone(&view.live);
    }

    /// The body of the state file.
    pub fn to_saved(&self) -> Vec<u8> {
        persist::body(self.routes.iter().map(|route| route.record.as_str()))
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
        saved: &HashMap<String, Saved>,
        addresses: Addresses,
        outcomes: Registry,
        (tls, previous): (&Tls, &[(&crate::config::PoolConfig, Arc<Pool>)]),
    ) -> (Ground, Installed) {
        let mut installed =
            Installed { routes: config.routes.len(), pools: config.pools.len(), ..Installed::default() };
        let mut routes = Vec::with_capacity(config.routes.len());
        let mut index = HashMap::with_capacity(config.routes.len());
        for route in &config.routes {
            let (live, verdict) = reconcile(route, saved.get(&route.name), &outcomes);
            installed.note(route, &live, verdict);
            index.insert(route.name.clone(), routes.len());
            routes.push(Arc::new(live));
        }
        installed.removed = saved.keys().filter(|name| !index.contains_key(*name)).cloned().collect();
        installed.removed.sort_unstable();
        let pools = derive::pools(&config, &addresses, tls, &outcomes, previous);
        let ground = Ground {
            config: Arc::new(config),
            routes,
            addresses: Arc::new(addresses),
            pools,
            outcomes: Arc::new(outcomes),
            tls: Arc::default(),
            index: Arc::new(index),
        };
        (ground, installed)
    }
}

impl LiveRoute {
    fn new(
        route: &RouteConfig,
        generation: u64,
        assignment: Assignment,
        outcomes: Vec<Arc<VariantOutcomes>>,
    ) -> LiveRoute {
        let weights = assignment.weights();
        let record = persist::record(route, generation, &assignment);
        LiveRoute { generation, assignment, weights, outcomes, record }
    }
}

impl Installed {
    fn note(&mut self, route: &RouteConfig, live: &LiveRoute, verdict: Verdict) {
        match verdict {
            Verdict::New => self.added.push(route.name.clone()),
            Verdict::FileWins => self.file_won.push(route.name.clone()),
            Verdict::LiveContinues if live.weights != route.weights => self.live_kept.push(route.name.clone()),
            Verdict::LiveContinues => {}
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

/// The live state of a route as the file now has it.
///
/// The live one goes on, bucket for bucket, when the file gives the same variants the same weights as when it was
/// saved. Otherwise the file's weights come into force, moving as few clients as they can, at the next generation.
fn reconcile(route: &RouteConfig, saved: Option<&Saved>, outcomes: &Registry) -> (LiveRoute, Verdict) {
    let counters = route.variants.iter().map(|variant| outcomes.variant(&route.name, &variant.name)).collect();
    let Some(saved) = saved else {
        let assignment = starting(route);
        return (LiveRoute::new(route, 1, assignment, counters), Verdict::New);
    };
    let map = variant_map(&saved.variants, route);
    let in_place = map.iter().enumerate().all(|(old, new)| *new == Some(old)) && map.len() == route.variants.len();
    let carried = carried(saved, &map, route);
    let same_names = saved.variants.len() == route.variants.len()
        && route.variants.iter().all(|variant| saved.variants.contains(&variant.name));
    let same_file = same_names && map.iter().zip(&saved.file).all(|(new, weight)| at(route, *new) == Some(*weight));
    if same_file {
        // Another order is another baseline: whoever holds the old generation must look again.
        let generation = if in_place { saved.generation } else { saved.generation + 1 };
        return (LiveRoute::new(route, generation, carried, counters), Verdict::LiveContinues);
    }
    let assignment = carried.moved_to(&route.weights).unwrap_or_else(|_| starting(route));
    let unchanged = in_place && same_names && assignment == saved.assignment;
    let generation = if unchanged { saved.generation } else { saved.generation + 1 };
    (LiveRoute::new(route, generation, assignment, counters), Verdict::FileWins)
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

/// The weights that `edit` asks for, one per variant.
fn asked(route: &RouteConfig, live: &[Weight], edit: &Edit) -> Result<Vec<Weight>, ChangeError> {
    let (named, whole) = match edit {
        Edit::Patch(named) => (named, false),
        Edit::Replace(named) => (named, true),
    };
    let mut asked: Vec<Option<Weight>> = vec![None; route.variants.len()];
    for (name, weight) in named {
        let field = format!("weights.{name}");
        let Some(place) = route.variants.iter().position(|variant| variant.name == *name) else {
            let known: Vec<&str> = route.variants.iter().map(|variant| variant.name.as_str()).collect();
            let detail = format!("route {:?} has no variant {name:?}; it has {}", route.name, known.join(", "));
            return Err(ChangeError::Weights { field, detail });
        };
        if asked[place].replace(*weight).is_some() {
            return Err(ChangeError::Weights { field, detail: format!("variant {name:?} is named twice") });
        }
    }
    if named.is_empty() {
        let detail = "no variant is named; name at least one, such as {\"weights\":{\"canary\":5}}".to_owned();
        return Err(ChangeError::Weights { field: "weights".to_owned(), detail });
    }
    if whole && let Some(missing) = asked.iter().position(Option::is_none) {
        let name = &route.variants[missing].name;
        let detail = format!("variant {name:?} is missing; PUT names every variant, PATCH only those to change");
        return Err(ChangeError::Weights { field: format!("weights.{name}"), detail });
    }
    if asked[0].is_none() {
        asked[0] = Some(baseline_rest(route, live, &asked)?);
    }
    let weights: Vec<Weight> = asked.iter().zip(live).map(|(asked, live)| asked.unwrap_or(*live)).collect();
    let sum: u32 = weights.iter().map(|weight| weight.thousandths()).sum();
    if sum != Weight::FULL.thousandths() {
        let detail = format!("weights sum to {} percent instead of 100: {}", percent(sum), listed(route, &weights));
        return Err(ChangeError::Weights { field: "weights".to_owned(), detail });
    }
    Ok(weights)
}

/// What is left for the baseline.
fn baseline_rest(route: &RouteConfig, live: &[Weight], asked: &[Option<Weight>]) -> Result<Weight, ChangeError> {
    let others = asked.iter().zip(live).skip(1);
    let taken: u32 = others.map(|(asked, live)| asked.unwrap_or(*live).thousandths()).sum();
    let rest = Weight::FULL.thousandths().checked_sub(taken);
    rest.and_then(|rest| Weight::from_thousandths(rest).ok()).ok_or_else(|| ChangeError::Weights {
        field: "weights".to_owned(),
        detail: format!(
            "the variants besides the baseline {:?} would have {} percent, which leaves less than nothing for it",
            route.variants[0].name,
            percent(taken)
        ),
    })
}

fn weights_error(field: &str, error: &impl std::fmt::Display) -> ChangeError {
    ChangeError::Weights { field: field.to_owned(), detail: error.to_string() }
}

fn percent(thousandths: u32) -> f64 {
    f64::from(thousandths) / 1000.0
}

/// `stable 95, canary 5`.
pub fn listed(route: &RouteConfig, weights: &[Weight]) -> String {
    let shares = route.variants.iter().zip(weights);
    shares.map(|(variant, weight)| format!("{} {}", variant.name, weight.percent())).collect::<Vec<_>>().join(", ")
}

/// Where listeners are; their TLS a reload can change.
fn addresses(config: &Config) -> Vec<(&str, SocketAddr)> {
    let mut addresses: Vec<_> = config.listeners.iter().map(|one| (one.name.as_str(), one.bind)).collect();
    addresses.sort_unstable();
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
mod tests {
    use super::super::command::{IfMatch, Origin};
    use super::super::fixtures::{config, ground, shop, weights};
    use super::*;
    use proptest::prelude::*;

    fn change(edit: Edit) -> WeightChange {
        let origin = Origin { actor: "test".to_owned(), source: "here".to_owned(), reason: None };
        WeightChange { route: "r".to_owned(), edit, if_match: None, origin }
    }

    fn named(shares: &[(&str, f64)]) -> Vec<(String, Weight)> {
        shares.iter().map(|(name, percent)| ((*name).to_owned(), Weight::from_percent(*percent).unwrap())).collect()
    }

    fn three() -> Config {
        config(&[("r", &[("a", 70.0), ("b", 20.0), ("c", 10.0)])])
    }

    fn patched(shares: &[(&str, f64)]) -> Result<Vec<f64>, (String, String)> {
        match ground(three()).changed(&change(Edit::Patch(named(shares)))) {
            Ok(view) => Ok(view.live.weights.iter().map(|weight| weight.percent()).collect()),
            Err(ChangeError::Weights { field, detail }) => Err((field, detail)),
            Err(other) => panic!("{other}"),
        }
    }

    fn shift(ground: &mut Ground, shares: &[(&str, f64)]) {
        let view = ground.changed(&change(Edit::Patch(named(shares)))).unwrap();
        ground.apply(&view);
    }

    #[test]
    fn a_patch_gives_the_difference_to_the_baseline() {
        assert_eq!(patched(&[("b", 25.0)]).unwrap(), [65.0, 25.0, 10.0]);
        assert_eq!(patched(&[("b", 0.0), ("c", 0.0)]).unwrap(), [100.0, 0.0, 0.0]);
        assert_eq!(patched(&[("b", 90.0)]).unwrap(), [0.0, 90.0, 10.0]);
        assert_eq!(patched(&[("b", 0.001)]).unwrap(), [89.999, 0.001, 10.0]);
        assert_eq!(patched(&[("a", 60.0), ("b", 30.0)]).unwrap(), [60.0, 30.0, 10.0]);
    }

    #[test]
    fn a_patch_that_does_not_add_up_is_refused_with_the_field() {
        for (shares, field, said) in [
            (&[("b", 90.001)][..], "weights", "100.001 percent"),
            (&[("a", 60.0)], "weights", "sum to 90 percent"),
            (&[("a", 100.0)], "weights", "sum to 130 percent"),
            (&[("d", 5.0)], "weights.d", "it has a, b, c"),
            (&[("b", 5.0), ("b", 6.0)], "weights.b", "named twice"),
            (&[], "weights", "no variant is named"),
        ] {
            let (named, detail) = patched(shares).unwrap_err();
            assert_eq!(named, field, "{detail}");
            assert!(detail.contains(said), "{detail}");
        }
    }

    #[test]
    fn a_put_names_every_variant() {
        let put = |shares: &[(&str, f64)]| ground(three()).changed(&change(Edit::Replace(named(shares))));
        let view = put(&[("c", 1.0), ("a", 90.0), ("b", 9.0)]).unwrap();
        assert_eq!(view.live.weights, weights(&[90.0, 9.0, 1.0]));
        assert_eq!(view.live.generation, 2);
        let Err(ChangeError::Weights { field, .. }) = put(&[("a", 90.0), ("c", 10.0)]) else { panic!() };
        assert_eq!(field, "weights.b");
        let Err(ChangeError::Weights { field, .. }) = put(&[("a", 90.0), ("b", 1.0), ("c", 1.0)]) else { panic!() };
        assert_eq!(field, "weights");
    }

    #[test]
    fn the_same_weights_change_nothing_and_an_old_generation_is_refused() {
        let mut ground = ground(three());
        let same = ground.changed(&change(Edit::Patch(named(&[("b", 20.0)])))).unwrap();
        assert_eq!(same.live.generation, 1);
        shift(&mut ground, &[("b", 30.0)]);
        let at = |generation| WeightChange {
            if_match: Some(IfMatch::OneOf(vec![generation])),
            ..change(Edit::Patch(named(&[("b", 40.0)])))
        };
        let Err(ChangeError::Stale(view)) = ground.changed(&at(1)) else { panic!() };
        assert_eq!(view.live.generation, 2);
        assert_eq!(ground.changed(&at(2)).unwrap().live.generation, 3);
    }

    #[test]
    fn live_weights_go_on_bucket_for_bucket_while_the_file_says_the_same() {
        let mut ground = ground(three());
        shift(&mut ground, &[("b", 45.0)]);
        shift(&mut ground, &[("c", 33.333), ("b", 1.0)]);
        let (again, installed) = ground.reloaded(three(), Addresses::new());
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
        let (again, installed) = ground.reloaded(file, Addresses::new());
        assert_eq!(installed.file_won, ["r"]);
        assert_eq!(again.routes[0].weights, weights(&[50.0, 40.0, 10.0]));
        assert_eq!(again.routes[0].generation, 3);
        assert_eq!(again.routes[0].assignment.buckets_moved(&ground.routes[0].assignment), 5_000);
        // What was saved into the file is no change.
        let file = config(&[("r", &[("a", 45.0), ("b", 45.0), ("c", 10.0)])]);
        let (again, _) = ground.reloaded(file, Addresses::new());
        assert_eq!(again.routes[0].generation, 2);
        assert_eq!(again.routes[0].assignment, ground.routes[0].assignment);
    }

    #[test]
    fn reordered_variants_keep_their_clients() {
        let mut ground = ground(three());
        shift(&mut ground, &[("b", 45.0)]);
        let file = config(&[("r", &[("b", 20.0), ("c", 10.0), ("a", 70.0)])]);
        let (again, installed) = ground.reloaded(file, Addresses::new());
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
            let (again, installed) = ground.reloaded(config(&[("r", file)]), Addresses::new());
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
        let (without, installed) = before.reloaded(config(&[("other", &[("a", 100.0)])]), Addresses::new());
        assert_eq!(installed.removed, ["shop"]);
        assert_eq!(installed.added, ["other"]);
        let (back, _) = without.reloaded(shop(), Addresses::new());
        assert!(Arc::ptr_eq(&back.routes[0].outcomes[1], &counters));
        assert_eq!(back.routes[0].outcomes[1].total().retries, 3);
    }

    #[test]
    fn a_pool_that_did_not_change_is_the_same() {
        let before = ground(shop());
        let (same, _) = before.reloaded(shop(), Addresses::new());
        assert!(Arc::ptr_eq(&before.pools[0], &same.pools[0]));
        let mut other = shop();
        other.pools[0].max_connections = 7;
        let (changed, _) = before.reloaded(other, Addresses::new());
        assert_eq!(changed.pools[0].max_connections, 7);
        assert!(Arc::ptr_eq(&before.pools[0].targets[0].outcomes, &changed.pools[0].targets[0].outcomes));
    }

    #[test]
    fn new_addresses_make_a_new_pool() {
        let mut named = shop();
        named.pools[0].targets.push(crate::config::TargetAddr::Name { host: "db".to_owned(), port: 80 });
        let before = ground(named);
        assert!(before.pools[0].targets[1].addrs.is_empty());
        let addr: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let after = before.resolved(Addresses::from([(("db".to_owned(), 80), vec![addr])])).unwrap();
        assert_eq!(after.pools[0].targets[1].addrs, [addr]);
        assert!(after.resolved((*after.addresses).clone()).is_none());
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
                let view = ground.changed(&change(edit)).unwrap();
                ground.apply(&view);
                let now = &ground.routes[0];
                let given: Vec<u32> = now.weights.iter().map(|weight| weight.thousandths()).collect();
                prop_assert_eq!(&given, &[100_000 - b - c, b, c]);
                let pairs = before.weights.iter().zip(&now.weights);
                let moved: u32 = pairs.map(|(was, is)| was.thousandths().abs_diff(is.thousandths())).sum();
                prop_assert_eq!(before.assignment.buckets_moved(&now.assignment), moved / 2);
            }
            let saved = HashMap::from([("r".to_owned(), Saved::of(&ground.config.routes[0], &ground.routes[0]))]);
            let (again, _) = Ground::start(three(), &saved, Addresses::new(), 1);
            prop_assert_eq!(&again.routes[0].assignment, &ground.routes[0].assignment);
            prop_assert_eq!(again.to_saved(), ground.to_saved());
        }
    }
}
