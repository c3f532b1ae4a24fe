//! `health` of a pool: its defaults, and what is said about bad ones.

use super::*;
use crate::config::model::{CheckKind, HealthCheck, HttpCheck, OnEmpty};

fn with(health: &str) -> String {
    format!("{BASE}[pool.c]\ntargets = [\"127.0.0.1:3\"]\nhealth = {health}\n{}", route("active = \"stable\""))
}

#[track_caller]
fn health_of(health: &str) -> HealthCheck {
    let loaded = check(with(health));
    let findings: Vec<_> = short(&loaded.report).into_iter().filter(|one| !one.starts_with("unused-pool")).collect();
    assert_eq!(findings, Vec::<String>::new());
    loaded.config.unwrap().pools[2].health.clone().unwrap()
}

fn http(path: &str) -> HttpCheck {
    HttpCheck { path: path.to_owned(), host: None, method: http::Method::GET, expect: vec![200..=399], body: None }
}

#[test]
fn a_check_with_one_key_and_with_all() {
    let short = HealthCheck {
        kind: CheckKind::Http(http("/healthz")),
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        unhealthy_after: 3,
        healthy_after: 2,
    };
    assert_eq!(health_of("{ path = \"/healthz\" }"), short);
    let full = health_of(
        "{ kind = \"http\", path = \"/h?x=1\", host = \"shop.test:81\", method = \"POST\", \
         expect = [\"204\", \"3xx\", \"400-404\"], body = \"ok\", interval = \"100ms\", timeout = \"50ms\", \
         unhealthy_after = 1, healthy_after = 5 }",
    );
    let kind = HttpCheck {
        host: Some("shop.test:81".to_owned()),
        method: http::Method::POST,
        expect: vec![204..=204, 300..=399, 400..=404],
        body: Some("ok".to_owned()),
        ..http("/h?x=1")
    };
    let expected = HealthCheck {
        kind: CheckKind::Http(kind),
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(50),
        unhealthy_after: 1,
        healthy_after: 5,
    };
    assert_eq!(full, expected);
    assert_eq!(health_of("{ path = \"/\", interval = \"300ms\" }").timeout, Duration::from_millis(300));
    for expect in ["200", "\"200\"", "[\"200\"]"] {
        let CheckKind::Http(one) = health_of(&format!("{{ path = \"/\", expect = {expect} }}")).kind else { panic!() };
        assert_eq!(one.expect, [200..=200], "{expect}");
    }
}

#[test]
fn the_other_kinds() {
    assert_eq!(health_of("{ kind = \"tcp\" }").kind, CheckKind::Tcp);
    let grpc = CheckKind::Grpc { service: "shop.Cart".to_owned(), host: None };
    assert_eq!(health_of("{ kind = \"grpc\", service = \"shop.Cart\" }").kind, grpc);
    let loaded = check(format!("{BASE}{}", route("active = \"stable\"")));
    assert_eq!(loaded.config.unwrap().pools[0].health, None);
}

#[test]
fn what_is_wrong_is_said_where_it_stands() {
    for (health, code, part) in [
        ("\"/healthz\"", "wrong-type", "expected a table"),
        ("{}", "missing-key", "has no `path`"),
        ("{ path = \"healthz\" }", "bad-health", "is no path"),
        ("{ path = \"/a b\" }", "bad-health", "is no path"),
        ("{ kind = \"udp\" }", "bad-value", "`pool.c.health.kind` is \"udp\""),
        (
            "{ kind = \"tcp\", path = \"/\" }",
            "bad-health",
            "`pool.c.health.path` says nothing to a check of kind \"tcp\"",
        ),
        ("{ kind = \"grpc\", expect = 200 }", "bad-health", "says nothing to a check of kind \"grpc\""),
        ("{ path = \"/\", service = \"x\" }", "bad-health", "says nothing to a check of kind \"http\""),
        ("{ path = \"/\", expect = 600 }", "out-of-range", "expect"),
        ("{ path = \"/\", expect = \"6xx\" }", "bad-health", "is no status"),
        ("{ path = \"/\", expect = \"300-200\" }", "bad-health", "is no status"),
        ("{ path = \"/\", expect = \"+20\" }", "bad-health", "is no status"),
        ("{ path = \"/\", expect = [] }", "bad-health", "no answer would do"),
        ("{ path = \"/\", method = \"CONNECT\" }", "bad-health", "no check can use"),
        ("{ path = \"/\", host = \"a b\" }", "bad-health", "is no host"),
        ("{ path = \"/\", body = \"\" }", "bad-health", "is empty"),
        ("{ path = \"/\", method = \"HEAD\", body = \"x\" }", "bad-health", "has none"),
        ("{ path = \"/\", interval = \"10ms\" }", "out-of-range", "interval"),
        ("{ path = \"/\", timeout = \"3s\" }", "bad-health", "is 3s, more than the interval of 2s"),
        ("{ path = \"/\", timeout = \"0s\" }", "out-of-range", "timeout"),
        ("{ path = \"/\", unhealthy_after = 0 }", "out-of-range", "unhealthy_after"),
        ("{ path = \"/\", paht = \"/\" }", "unknown-key", "paht"),
    ] {
        let loaded = check(with(health));
        assert!(loaded.config.is_none(), "{health}");
        let errors: Vec<_> = loaded.report.errors().collect();
        assert_eq!(errors.len(), 1, "{health}: {errors:?}");
        assert_eq!(errors[0].code, code, "{health}");
        assert!(errors[0].message.contains(part), "{health}: {}", errors[0].message);
        assert_eq!(errors[0].line, 12, "{health}: {errors:?}");
    }
}

#[test]
fn a_variant_without_a_target_fails_or_is_stood_in_for() {
    let of = |variants: &str, line: &str| {
        let rest = format!("variants = {variants}\nactive = \"stable\"\n{line}\n");
        check(format!("{BASE}[[route]]\nname = \"r\"\nmatch = {{ path = \"/\" }}\n{rest}"))
    };
    let two = "{ stable = \"a\", canary = \"b\" }";
    for (line, expected) in
        [("", OnEmpty::Fail), ("on_empty = \"fail\"", OnEmpty::Fail), ("on_empty = \"stable\"", OnEmpty::Baseline)]
    {
        assert_eq!(of(two, line).config.expect(line).routes[0].on_empty, expected, "{line}");
    }
    let said = |loaded: Loaded| loaded.report.errors().map(|one| (one.code, one.line)).collect::<Vec<_>>();
    assert_eq!(said(of(two, "on_empty = \"canary\"")), [("bad-value", 15)]);
    assert_eq!(said(of("{ new = \"a\", stable = \"b\" }", "on_empty = \"stable\"")), [("bad-on-empty", 15)]);
}
