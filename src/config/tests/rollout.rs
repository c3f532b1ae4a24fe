//! A route's `rollout`: what it becomes, its defaults, and what is said about bad ones.

use super::*;
use crate::config::rollout::RolloutConfig;
use crate::judge::{Errors, Quantile};
use crate::rollout::{Reaction, Stay, Strategy};

fn rollout_of(lines: &str) -> RolloutConfig {
    let loaded = check(format!("{BASE}{}{lines}\n", route("active = \"stable\"")));
    assert_eq!(errors(&loaded), Vec::<String>::new(), "{}", loaded.report.render(false));
    RolloutConfig::clone(loaded.config.unwrap().routes[0].rollout.as_ref().unwrap())
}

fn percents(rollout: &RolloutConfig) -> Vec<f64> {
    rollout.steps.iter().map(|step| step.weights.of(1).percent()).collect()
}

#[test]
fn steps_pauses_and_what_is_kept() {
    let rollout = rollout_of(
        "[route.rollout]\nsteps = [{ weight = 1, for = \"5m\" }, { pause = \"10m\" }, { weight = 0.5e1, pause = true }, \
         { weight = 25 }, { pause = true }, { weights = { canary = 50 }, for = \"1h\" }, { weight = 100, for = \"24h\" }]\n\
         on_failure = \"pause\"\nmax_failures = 50\nmax_time = \"6h\"\nmax_hold = { after = \"1h\", then = \"rollback\" }\n\
         freeze = [\"fri 16:00 - mon 08:00 +08:00\"]",
    );
    assert_eq!(percents(&rollout), [1.0, 1.0, 5.0, 25.0, 25.0, 50.0]);
    let stays: Vec<Stay> = rollout.steps.iter().map(|step| step.stay).collect();
    let timed = |minutes: u64| Stay::For { ms: minutes * 60_000 };
    let promoted = Stay::UntilPromoted;
    assert_eq!(stays, [timed(5), timed(10), promoted, timed(0), promoted, timed(60)]);
    assert_eq!((rollout.keep_old.as_secs(), rollout.winner), (86_400, Some(1)));
    assert_eq!((rollout.on_failure, rollout.max_failures), (Reaction::Pause, Some(50)));
    assert_eq!(rollout.max_hold.unwrap().then, Reaction::Rollback);
    let plan = rollout.plan(&["stable".to_owned(), "canary".to_owned()], 0);
    assert_eq!(plan.check(), Ok(()));
    assert_eq!(
        (plan.variants.join(" "), plan.keep_old_ms, plan.freeze.len()),
        ("stable canary".to_owned(), 86_400_000, 1)
    );
    assert!(rollout.analysis.is_none() && plan.analysis.is_none());
}

#[test]
fn blue_green_goes_from_whichever_is_active() {
    let rollout = rollout_of("[route.rollout]\nstrategy = \"blue-green\"\nauto_promote = false\nkeep_old = \"30m\"");
    assert_eq!(rollout.strategy, Strategy::BlueGreen);
    let variants = ["blue".to_owned(), "green".to_owned()];
    for (active, order) in [(0, "blue green"), (1, "green blue")] {
        let plan = rollout.plan(&variants, active);
        assert_eq!((plan.variants.join(" ").as_str(), plan.check()), (order, Ok(())));
        assert_eq!(plan.steps[0].stay, Stay::UntilPromoted);
    }
}

#[test]
fn what_is_judged_and_by_which_limits() {
    let start = "[route.rollout]\nsteps = [{ weight = 5, for = \"5m\" }]\n[route.rollout.analysis]\n";
    let analysis = rollout_of(start).analysis.unwrap();
    assert_eq!((analysis.interval.as_secs(), analysis.min_requests, analysis.false_rollback), (10, 20, 0.01));
    assert_eq!(analysis.errors, Errors { max_ratio: 1.5, max: 0.01 });
    let quantiles: Vec<f64> = analysis.quantiles.iter().map(|one| one.quantile).collect();
    assert_eq!(quantiles, [0.99, 0.9]);
    let rollout = rollout_of(&format!(
        "{start}interval = \"1s\"\nmin_requests = 50\nwarm_up = \"30s\"\nfalse_rollback = \"0.5%\"\n\
         metric = [{{ name = \"success-rate\", min = \"99.5%\", max_ratio_to_stable = 2 }}, {{ name = \"p99\", max = \"500ms\" }}]"
    ));
    let policy = rollout.policy("stable", "canary", 1).unwrap();
    assert_eq!(policy.check(), Ok(()));
    assert!((policy.errors.max - 0.005).abs() < 1e-12 && policy.errors.max_ratio == 2.0);
    assert_eq!(policy.quantiles, [Quantile { quantile: 0.99, max_ratio: 1.2, max_ms: Some(500.0) }]);
    assert_eq!((policy.false_rollback, policy.min_requests, policy.warm_up.as_secs()), (0.005, 50, 30));
    assert_eq!(rollout.metrics(), ["error-rate", "p99"]);
}

#[test]
fn of_several_candidates_each_has_a_weight_of_its_own() {
    let text = format!(
        "{BASE}[[route]]\nname = \"r\"\nvariants = {{ a = \"a\", b = \"b\", c = \"b\" }}\nactive = \"a\"\n\
         [route.rollout]\nsteps = [{{ weights = {{ b = 10, c = 10 }}, for = \"1m\" }}, {{ weights = {{ a = 60, c = 30 }}, pause = true }}]\n"
    );
    let loaded = check(text);
    let config = loaded.config.unwrap_or_else(|| panic!("{}", loaded.report.render(false)));
    let rollout = config.routes[0].rollout.as_ref().unwrap();
    let shown: Vec<String> = rollout.steps.iter().map(|step| step.weights.to_string()).collect();
    assert_eq!((shown.join(" "), rollout.winner), ("80/10/10 60/10/30".to_owned(), None));
}

/// What stands after `[route.rollout]`, the one finding, its message.
const WRONG: &[(&str, &str, &str)] = &[
    ("", "missing-key 5:1 [route.rollout]", "`route.r.rollout` has no steps"),
    (
        "steps = [{ for = \"1m\" }]",
        "missing-key 6:10 { for = \"1m\" }",
        "a step of `route.r.rollout.steps` has no `weight`",
    ),
    (
        "steps = [{ weight = 5 }, { weight = 4 }]",
        "bad-rollout 6:26 { weight = 4 }",
        "a step gives `canary` 4 % after 5 %",
    ),
    (
        "steps = [{ weight = 100 }, { weight = 100 }]",
        "bad-rollout 6:10 { weight = 100 }",
        "step 1 of `route.r.rollout` leaves the baseline nothing",
    ),
    (
        "steps = [{ weight = 5, for = \"1m\", pause = true }]",
        "contradiction 6:30 \"1m\"",
        "a step of `route.r.rollout.steps` has both `pause` and `for`",
    ),
    (
        "steps = [{ weight = 5 }]\nauto_promote = true",
        "contradiction 7:16 true",
        "`route.r.rollout.auto_promote` is of blue-green",
    ),
    (
        "strategy = \"blue-green\"\nsteps = [{ weight = 5 }]",
        "contradiction 7:9 [{ weight = 5 }]",
        "`route.r.rollout.steps` is of a canary",
    ),
    (
        "strategy = \"linear\"\nsteps = [{ weight = 5 }]",
        "bad-value 6:12 \"linear\"",
        "`route.r.rollout.strategy` is \"linear\", expected \"canary\" or \"blue-green\"",
    ),
    (
        "steps = [{ weights = { canari = 5 } }]",
        "unknown-variant 6:24 canari",
        "there is no variant in route.r: \"canari\"",
    ),
    (
        "steps = [{ weight = 5 }]\nwinner = \"stable\"",
        "bad-rollout 7:10 \"stable\"",
        "\"stable\" is the baseline and can't win a rollout",
    ),
    (
        "steps = [{ weight = 5 }]\nfreeze = [\"weekends\"]",
        "bad-value 7:11 \"weekends\"",
        "\"weekends\" in `route.r.rollout.freeze` is not a part of a week",
    ),
    (
        "steps = [{ weight = 5 }, { weight = 100, for = \"1h\" }]\nkeep_old = \"2h\"",
        "contradiction 7:12 \"2h\"",
        "`route.r.rollout.keep_old` and the `for` of the last step differ",
    ),
    (
        "steps = [{ weight = 5 }]\nanalysis = { metric = [{ name = \"error-rate\", max = \"100\" }] }",
        "bad-value 7:53 \"100\"",
        "`route.r.rollout.analysis.metric.max` of \"error-rate\" is not a percentage",
    ),
    (
        "steps = [{ weight = 5 }]\nanalysis = { metric = [{ name = \"p99\", max = 500 }] }",
        "bad-value 7:46 500",
        "`route.r.rollout.analysis.metric.max` of \"p99\" is not a duration",
    ),
    (
        "steps = [{ weight = 5 }]\nanalysis = { metric = [{ name = \"p100\" }] }",
        "bad-value 7:33 \"p100\"",
        "\"p100\" is no quantile from p1 to p99.9",
    ),
    (
        "steps = [{ weight = 5 }]\nanalysis = { metric = [{ name = \"orders\", max = 5 }] }",
        "missing-key 7:33 \"orders\"",
        "Weir does not measure \"orders\" itself",
    ),
    (
        "steps = [{ weight = 5 }]\nanalysis = { metric = [{ name = \"p99\", max_ratio_to_stable = 0.5 }] }",
        "out-of-range 7:62 0.5",
        "`route.r.rollout.analysis.metric.max_ratio_to_stable` is not from 1 to 1000",
    ),
    (
        "steps = [{ weight = 5 }]\nmax_hold = { then = \"pause\" }",
        "missing-key 7:12 { then = \"pause\" }",
        "route.r.rollout.max_hold has no `after`",
    ),
    ("step = []\nsteps = [{ weight = 5 }]", "unknown-key 6:1 step", "unknown key `step` in route.r.rollout"),
];

#[test]
fn bad_ones_are_errors_with_their_place() {
    for (lines, place, message) in WRONG {
        let text = format!("{}[route.rollout]\n{lines}\n", route("active = \"stable\""));
        assert_eq!(one_error(&text, place).0, *message, "{lines}");
    }
}
