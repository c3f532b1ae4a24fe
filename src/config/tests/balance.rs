//! A pool's way of choosing, what targets weigh, and how names are looked up.

use super::*;
use crate::routing::balance::{Balance, HashKey};

fn pool_of(lines: &str) -> PoolConfig {
    let text = format!("{BASE}{}[pool.c]\n{lines}\n", route("active = \"stable\""));
    let loaded = check(text);
    assert_eq!(errors(&loaded), Vec::<String>::new());
    loaded.config.unwrap().pools.into_iter().find(|pool| pool.name == "c").unwrap()
}

#[test]
fn targets_weigh_one_or_what_they_say() {
    let pool = pool_of("targets = [\"127.0.0.1:3\", { addr = \"x:1\", weight = 20 }, { addr = \"unix:/s\" }]");
    assert_eq!(pool.targets.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:3", "x:1", "unix:/s"]);
    assert_eq!(pool.weights, [1, 20, 1]);
    assert_eq!((pool.balance, pool.slow_start), (Balance::P2c, Duration::ZERO));
}

#[test]
fn every_way_of_choosing() {
    let balance = |lines: &str| pool_of(&format!("targets = [\"127.0.0.1:3\"]\n{lines}")).balance;
    assert_eq!(balance("balance = \"round_robin\"\nslow_start = \"30s\""), Balance::RoundRobin);
    assert_eq!(balance("balance = \"least_conn\""), Balance::LeastConn);
    assert_eq!(balance("balance = \"hash\""), Balance::Hash(HashKey::default()));
    let keys = vec![KeySource::Header("x-id".parse().unwrap()), KeySource::Cookie("uid".to_owned()), KeySource::Ip];
    let written = "balance = \"hash\"\nhash_key = [\"header:x-id\", \"cookie:uid\", \"ip\"]";
    assert_eq!(balance(written), Balance::Hash(HashKey(keys)));
    let one = balance("balance = \"hash\"\nhash_key = \"query:user\"");
    assert_eq!(one, Balance::Hash(HashKey(vec![KeySource::Query("user".to_owned())])));
}

#[test]
fn how_names_are_looked_up() {
    let dns = |lines: &str| {
        let loaded = check(format!("{BASE}{}{lines}\n", route("active = \"stable\"")));
        assert_eq!(errors(&loaded), Vec::<String>::new());
        loaded.config.unwrap().dns
    };
    assert_eq!(dns(""), Dns::default());
    let all = "[dns]\nservers = [\"10.0.0.2\", \"10.0.0.3:5353\", \"::1\", \"[::1]:54\"]\nmin_ttl = \"2s\"\nmax_ttl = \"1m\"\ntimeout = \"500ms\"";
    let all = dns(all);
    let servers: Vec<_> = all.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["10.0.0.2:53", "10.0.0.3:5353", "[::1]:53", "[::1]:54"]);
    assert_eq!((all.min_ttl.as_secs(), all.max_ttl.as_secs(), all.timeout.as_millis()), (2, 60, 500));
}

/// Lines, the one finding, its message.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "[pool.c]\ntargets = [{ addr = \"x:1\", weight = 0 }]",
        "out-of-range 2:37 0",
        "`pool.c.targets.weight` is not a whole number from 1 to 65535",
    ),
    ("[pool.c]\ntargets = [{ weight = 2 }]", "missing-key 2:12 { weight = 2 }", "pool.c.targets has no `addr`"),
    (
        "[pool.c]\ntargets = [{ addr = \"x:1\", wieght = 2 }]",
        "unknown-key 2:28 wieght",
        "unknown key `wieght` in pool.c.targets",
    ),
    (
        "[pool.c]\ntargets = [\"x:1\"]\nhash_key = \"ip\"",
        "contradiction 3:12 \"ip\"",
        "`pool.c.hash_key` has no effect without balance = \"hash\"",
    ),
    (
        "[pool.c]\ntargets = [\"x:1\"]\nbalance = \"hash\"\nhash_key = []",
        "bad-hash-key 4:12 []",
        "`pool.c.hash_key` is empty",
    ),
    (
        "[pool.c]\ntargets = [\"x:1\"]\nbalance = \"hash\"\nhash_key = \"path\"",
        "bad-hash-key 4:12 \"path\"",
        "\"path\" is not a key",
    ),
    (
        "[pool.c]\ntargets = [\"x:1\"]\nbalance = \"hash\"\nhash_key = [\"ip\", \"cookie:a\"]",
        "bad-hash-key 4:19 \"cookie:a\"",
        "\"cookie:a\" is never asked: every request has an `ip`",
    ),
    ("[pool.c]\ntargets = [\"srv:shop\"]", "bad-target 2:12 \"srv:shop\"", "\"srv:shop\" is not a target"),
    (
        "[pool.c]\ntargets = [\"srv:_a._tcp.b\"]\ntls = { verify = false }",
        "bad-value 3:7 { verify = false }",
        "no certificate can be for srv:_a._tcp.b, a target of pool.c",
    ),
    ("[dns]\nservers = []", "bad-value 2:11 []", "`dns.servers` is empty"),
    ("[dns]\nservers = [\"one.one\"]", "bad-address 2:12 \"one.one\"", "\"one.one\" is not a DNS server"),
    ("[dns]\nmin_ttl = \"10m\"", "contradiction 2:11 \"10m\"", "`dns.min_ttl` is longer than `dns.max_ttl`"),
    ("[dns]\ntimeout = \"0s\"", "out-of-range 2:11 \"0s\"", "`dns.timeout` is not from 100ms to 30s"),
];

#[test]
fn bad_ones_are_errors_with_their_place() {
    for (lines, place, message) in WRONG {
        let lines = format!("{lines}\n{}", route("active = \"stable\""));
        assert_eq!(one_error(&lines, place).0, *message, "{lines}");
    }
}
