//! `mirror` of a route: its defaults, and what is said about bad ones.

use super::*;
use crate::routing::mirror::Mirror;
use crate::routing::split::Weight;

fn with(mirror: &str) -> String {
    route(&format!("active = \"stable\"\ntimeout = \"7s\"\nmirror = {mirror}"))
}

fn mirror_of(mirror: &str) -> Mirror {
    let loaded = check(format!("{BASE}[pool.shadow]\ntargets = [\"127.0.0.1:3\"]\n{}", with(mirror)));
    assert_eq!(short(&loaded.report), Vec::<String>::new(), "a pool that only a mirror uses is used");
    loaded.config.unwrap().routes[0].mirror.clone().unwrap()
}

#[test]
fn a_mirror_with_all_its_keys_and_with_one() {
    let percent = Weight::from_thousandths(12_345).unwrap();
    let timeout = Duration::from_secs(15);
    let full = mirror_of("{ pool = \"shadow\", percent = 12.345, max_body = \"1MiB\", timeout = \"15s\" }");
    assert_eq!(full, Mirror { pool: 2, percent, max_body: 1024 * 1024, timeout });
    let timeout = Duration::from_secs(7);
    let short = mirror_of("{ pool = \"shadow\" }");
    assert_eq!(short, Mirror { pool: 2, percent: Weight::FULL, max_body: 64 * 1024, timeout });
}

#[test]
fn a_route_has_none_unless_it_says_so() {
    let loaded = check(format!("{BASE}{}", route("active = \"stable\"")));
    assert_eq!(loaded.config.unwrap().routes[0].mirror, None);
}

/// A mirror, the one finding, its message, its help.
const WRONG: &[(&str, &str, &str, &str)] = &[
    ("\"a\"", "wrong-type 6:10 \"a\"", "`route.r.mirror` is a string, expected a table", ""),
    ("{ percent = 5 }", "missing-key 6:10 { percent = 5 }", "route.r.mirror has no `pool`", "write pool = \"shop-v3\""),
    ("{ pool = \"gone\" }", "unknown-pool 6:19 \"gone\"", "there is no pool \"gone\"", "there are `a` and `b`"),
    (
        "{ pool = \"a\", percent = 100.5 }",
        "out-of-range 6:34 100.5",
        "`route.r.mirror.percent`: 100.5 is not between 0 and 100 percent",
        "the share of requests to copy, from 0 to 100 with up to three decimals",
    ),
    (
        "{ pool = \"a\", percent = 0.0005 }",
        "out-of-range 6:34 0.0005",
        "`route.r.mirror.percent`: 0.0005 is finer than 0.001 percent",
        "the share of requests to copy, from 0 to 100 with up to three decimals",
    ),
    (
        "{ pool = \"a\", percent = \"10%\" }",
        "wrong-type 6:34 \"10%\"",
        "`route.r.mirror.percent` is a string, expected a number",
        "",
    ),
    ("{ pool = \"a\", max_body = 0 }", "out-of-range 6:35 0", TOO_MUCH, HELD),
    ("{ pool = \"a\", max_body = \"unlimited\" }", "out-of-range 6:35 \"unlimited\"", TOO_MUCH, HELD),
    ("{ pool = \"a\", max_body = 4194305 }", "out-of-range 6:35 4194305", TOO_MUCH, HELD),
    (
        "{ pool = \"a\", timeout = \"0s\" }",
        "out-of-range 6:34 \"0s\"",
        "`route.r.mirror.timeout` is not from 1ms to 24h",
        "zero does not mean \"unlimited\"",
    ),
    (
        "{ pool = \"a\", prcent = 5 }",
        "unknown-key 6:24 prcent",
        "unknown key `prcent` in route.r.mirror",
        "did you mean `percent`?",
    ),
];
const TOO_MUCH: &str = "`route.r.mirror.max_body` is not from 1 byte to 4MiB";
const HELD: &str = "bodies are held in memory until the copy is sent; longer ones are not copied, and counted";

#[test]
fn bad_mirrors_are_errors_with_their_place() {
    for (mirror, place, message, help) in WRONG {
        assert_eq!(one_error(&with(mirror), place), (message.to_string(), help.to_string()), "{mirror}");
    }
}

#[test]
fn a_mistyped_pool_is_suggested() {
    let loaded =
        check(format!("{BASE}[pool.shop-v3]\ntargets = [\"127.0.0.1:3\"]\n{}", with("{ pool = \"shop-v33\" }")));
    let help = loaded.report.errors().next().unwrap().help.clone();
    assert_eq!(help.as_deref(), Some("did you mean `shop-v3`?"));
    assert_eq!(errors(&loaded).len(), 1, "{}", loaded.report.render(false));
}
