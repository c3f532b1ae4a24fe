//! A pool's `outlier`: its defaults, and what is said about bad ones.

use super::*;
use crate::routing::outlier::Outlier;

fn outlier_of(line: &str) -> Option<Outlier> {
    let text = format!("{BASE}{}[pool.c]\ntargets = [\"127.0.0.1:3\"]\n{line}\n", route("active = \"stable\""));
    let loaded = check(text);
    assert_eq!(errors(&loaded), Vec::<String>::new());
    loaded.config.unwrap().pools.into_iter().find(|pool| pool.name == "c").unwrap().outlier
}

#[test]
fn with_all_its_keys_and_with_none() {
    let all = "outlier = { consecutive_5xx = 7, consecutive_failures = \"off\", success_rate_gap = \"12.5%\", \
               interval = \"5s\", min_requests = 20, eject_for = \"1s\", max_eject_for = \"3s\", max_ejected = \"34%\" }";
    let outlier = outlier_of(all).unwrap();
    assert_eq!((outlier.consecutive_5xx, outlier.consecutive_failures), (Some(7), None));
    assert_eq!(outlier.success_rate_gap.unwrap().to_string(), "12.5%");
    assert_eq!((outlier.interval.as_secs(), outlier.min_requests), (5, 20));
    assert_eq!((outlier.eject_for.as_secs(), outlier.max_eject_for.as_secs()), (1, 3));
    assert_eq!(outlier.max_ejected.to_string(), "34%");
    let outlier = outlier_of("outlier = {}").unwrap();
    assert_eq!((outlier.consecutive_5xx, outlier.consecutive_failures), (Some(5), Some(5)));
    assert_eq!(outlier.success_rate_gap.unwrap().to_string(), "20%");
    assert_eq!((outlier.interval.as_secs(), outlier.min_requests), (10, 100));
    assert_eq!((outlier.eject_for.as_secs(), outlier.max_eject_for.as_secs()), (30, 300));
    assert_eq!(outlier.max_ejected.to_string(), "50%");
    assert_eq!(outlier_of(""), None);
    let long = outlier_of("outlier = { eject_for = \"1h\", success_rate_gap = \"off\" }").unwrap();
    assert_eq!((long.max_eject_for.as_secs(), long.success_rate_gap), (3600, None));
}

/// A line, the one finding, its message.
const WRONG: &[(&str, &str, &str)] = &[
    ("outlier = 3", "wrong-type 3:11 3", "`pool.c.outlier` is an integer, expected a table"),
    (
        "outlier = { consecutive_5xx = 0 }",
        "out-of-range 3:31 0",
        "`pool.c.outlier.consecutive_5xx` is not a whole number from 1 to 1000, or \"off\"",
    ),
    (
        "outlier = { max_ejected = \"0%\" }",
        "bad-value 3:27 \"0%\"",
        "`pool.c.outlier.max_ejected` is \"0%\", not a percentage",
    ),
    (
        "outlier = { success_rate_gap = \"half\" }",
        "bad-value 3:32 \"half\"",
        "`pool.c.outlier.success_rate_gap` is \"half\", not a percentage",
    ),
    (
        "outlier = { eject_for = \"1m\", max_eject_for = \"30s\" }",
        "contradiction 3:47 \"30s\"",
        "`pool.c.outlier.max_eject_for` is shorter than the first ejection",
    ),
    (
        "outlier = { consecutive_5xx = \"off\", consecutive_failures = \"off\", success_rate_gap = \"off\" }",
        "contradiction 3:11 { consecutive_5xx = \"off\", consecutive_failures = \"off\", success_rate_gap = \"off\" }",
        "`pool.c.outlier` looks for nothing: all its signs are \"off\"",
    ),
    ("outlier = { eject = 2 }", "unknown-key 3:13 eject", "unknown key `eject` in pool.c.outlier"),
];

#[test]
fn bad_ones_are_errors_with_their_place() {
    for (line, place, message) in WRONG {
        let lines = format!("[pool.c]\ntargets = [\"127.0.0.1:3\"]\n{line}\n{}", route("active = \"stable\""));
        assert_eq!(one_error(&lines, place).0, *message, "{line}");
    }
}
