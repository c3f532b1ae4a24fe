//! The plans of `config/plans/`, read as `weir serve` reads them and run to their end by passing verdicts: exactly their
//! weights, in order, each for exactly its time.

use crate::field::stays;
use crate::world::{WEDNESDAY_MS, World};
use std::collections::BTreeMap;
use std::path::Path;
use weir::config::RouteConfig;
use weir::config::rollout::RolloutConfig;
use weir::rollout::{Command, Order};

/// Percent of the candidate, and minutes.
type Stays = &'static [(f64, f64)];

const PLANS: &[(&str, Stays)] = &[
    ("one-day", &[(5.0, 30.0), (20.0, 60.0), (50.0, 120.0), (80.0, 60.0), (100.0, 1440.0)]),
    ("six-steps", &[(5.0, 5.0), (10.0, 5.0), (25.0, 5.0), (50.0, 5.0), (75.0, 5.0), (100.0, 0.0)]),
    ("argo", &[(10.0, 5.0), (30.0, 1.0), (60.0, 0.5), (100.0, 0.0)]),
    ("flagger", &[(10.0, 1.0), (20.0, 1.0), (30.0, 1.0), (40.0, 1.0), (50.0, 1.0), (100.0, 0.0)]),
    ("codedeploy-canary", &[(10.0, 5.0), (100.0, 0.0)]),
    ("codedeploy-linear", &[(20.0, 10.0), (40.0, 10.0), (60.0, 10.0), (80.0, 10.0), (100.0, 0.0)]),
    ("blue-green", &[(100.0, 30.0)]),
    ("absolute", &[(5.0, 10.0), (25.0, 10.0), (50.0, 10.0), (100.0, 0.0)]),
    ("relative", &[(5.0, 10.0), (25.0, 10.0), (50.0, 10.0), (100.0, 0.0)]),
];

/// By the file's name.
fn plans() -> BTreeMap<String, RouteConfig> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/plans");
    let paths = std::fs::read_dir(folder).expect("the plans are there").map(|entry| entry.expect("readable").path());
    let plan = |path: std::path::PathBuf| {
        let loaded = weir::config::load(&path, &|_| None);
        let config = loaded.config.unwrap_or_else(|| panic!("{}", loaded.report.render(false)));
        assert_eq!(loaded.report.warnings().count(), 0, "{}", loaded.report.render(false));
        let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        (name, config.routes.into_iter().next().expect("a plan has a route"))
    };
    paths.map(plan).collect()
}

fn rollout(route: &RouteConfig) -> &RolloutConfig {
    route.rollout.as_ref().expect("a plan has a rollout")
}

fn world(route: &RouteConfig) -> World {
    let variants: Vec<String> = route.variants.iter().map(|variant| variant.name.clone()).collect();
    World::start(rollout(route).plan(&variants, 0), WEDNESDAY_MS)
}

#[test]
fn every_plan_visits_exactly_its_weights_for_exactly_their_time() {
    let plans = plans();
    assert_eq!(plans.len(), PLANS.len(), "{:?}", plans.keys());
    for (name, expected) in PLANS {
        let mut world = world(&plans[*name]);
        if *name == "blue-green" {
            // It waits for a person.
            for _ in 0..1000 {
                assert!(world.tick());
            }
            assert_eq!(world.visited.len(), 1, "{name}");
            world.machine.handle_command(Command::PROMOTE, &Order::by("ann"), world.now).expect("it waits for that");
            world.drain(usize::MAX);
        }
        assert_eq!(stays(world), *expected, "{name}");
    }
}

#[test]
fn what_the_plans_are_judged_by_is_what_they_say() {
    let plans = plans();
    let policy = |name: &str| rollout(&plans[name]).policy("stable", "canary", 1).expect("it is judged");
    for name in plans.keys().filter(|name| *name != "argo") {
        assert_eq!(policy(name).check(), Ok(()), "{name}");
    }
    assert!(rollout(&plans["argo"]).analysis.is_none());
    let near = |one: f64, other: f64| (one - other).abs() < 1e-9;
    for name in ["flagger", "absolute", "one-day"] {
        let policy = policy(name);
        assert!(near(policy.errors.max, 0.01), "{name}: {policy:?}");
        assert_eq!((policy.quantiles[0].quantile, policy.quantiles[0].max_ms), (0.99, Some(500.0)), "{name}");
    }
    let relative = policy("relative");
    assert_eq!((relative.errors.max_ratio, relative.quantiles[0].max_ratio), (1.5, 1.2));
    assert_eq!(rollout(&plans["one-day"]).analysis.as_ref().map(|one| one.interval.as_secs()), Some(60));
}
