//! `rate_limit` of a route, and limits of listeners and pools: what they become, and what is said about bad ones.

use super::*;
use crate::routing::rate::{Rate, RateLimit};

fn with(rate_limit: &str) -> String {
    format!("{BASE}{}", route(&format!("active = \"stable\"\nrate_limit = {rate_limit}")))
}

fn limit(rate_limit: &str) -> RateLimit {
    let loaded = check(with(rate_limit));
    assert_eq!(short(&loaded.report), Vec::<String>::new());
    let filters = loaded.config.unwrap().routes[0].filters.clone().expect("a limit is a filter");
    filters.rate.clone().expect("it limits")
}

#[test]
fn a_rate_is_enough() {
    let expected =
        RateLimit { keys: vec![KeySource::Ip], rate: Rate::parse("100/s").unwrap(), burst: 100, max_keys: 65_536 };
    assert_eq!(limit("{ rate = \"100/s\" }"), expected);
    assert_eq!(limit("{ rate = \"30/m\" }").burst, 1);
    let api_key = KeySource::Header(http::HeaderName::from_static("x-api-key"));
    let given = limit("{ rate = \"5/h\", burst = 7, key = [\"header:X-Api-Key\", \"ip\"], max_keys = 9 }");
    assert_eq!((given.keys, given.burst, given.max_keys), (vec![api_key, KeySource::Ip], 7, 9));
    assert_eq!(limit("{ rate = \"5/h\", key = \"cookie:uid\" }").keys, [KeySource::Cookie("uid".to_owned())]);
}

#[test]
fn bad_limits_are_said_with_their_place() {
    for (rate_limit, finding) in [
        ("{}", "missing-key 5:14 {}"),
        ("{ rate = \"fast\" }", "bad-rate 5:23 \"fast\""),
        ("{ rate = \"0/s\" }", "bad-rate 5:23 \"0/s\""),
        ("{ rate = \"1/s\", burst = 0 }", "out-of-range 5:38 0"),
        ("{ rate = \"1/s\", key = [] }", "bad-rate 5:36 []"),
        ("{ rate = \"1/s\", key = \"user\" }", "bad-sticky 5:36 \"user\""),
        ("{ rate = \"1/s\", key = [\"ip\", \"cookie:a\"] }", "bad-rate 5:43 \"cookie:a\""),
        ("{ rate = \"1/s\", max_keys = 0 }", "out-of-range 5:41 0"),
        ("{ rate = \"1/s\", bursts = 1 }", "unknown-key 5:29 bursts"),
    ] {
        let loaded = check(with(rate_limit));
        let found = errors(&loaded);
        assert_eq!(found.len(), 1, "{rate_limit}: {found:?}");
        let (code, text) = (finding.split(' ').next().unwrap(), finding.splitn(3, ' ').nth(2).unwrap());
        assert!(found[0].starts_with(code) && found[0].ends_with(text), "{rate_limit}: {found:?}");
    }
}

#[test]
fn pools_and_listeners_have_limits() {
    let lines =
        BASE.replace("targets = [\"127.0.0.1:1\"]", "targets = [\"127.0.0.1:1\"]\nmax_requests = 5\nmax_pending = 0");
    let lines = lines.replace(
        "bind = \"127.0.0.1:8080\"",
        "bind = \"127.0.0.1:8080\"\nmax_connections = 7\nmax_connections_per_client = 3",
    );
    let loaded = check(format!("{lines}{}", route("active = \"stable\"")));
    assert_eq!(short(&loaded.report), Vec::<String>::new());
    let config = loaded.config.unwrap();
    assert_eq!((config.pools[0].max_requests, config.pools[0].max_pending), (Some(5), 0));
    assert_eq!((config.pools[1].max_requests, config.pools[1].max_pending), (None, 1024));
    let listener = &config.listeners[0];
    assert_eq!((listener.max_connections, listener.max_connections_per_client), (Some(7), Some(3)));
    for key in ["max_connections", "max_connections_per_client"] {
        let zero = lines.replace(&format!("{key} = "), &format!("{key} = 0 #"));
        let found = errors(&check(format!("{zero}{}", route("active = \"stable\""))));
        assert!(found.len() == 1 && found[0].starts_with("out-of-range"), "{key}: {found:?}");
    }
}
