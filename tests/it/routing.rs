//! Which route, which variant: hosts, paths, rules, weights and clients that stay where they are.

use crate::support::*;
use std::collections::HashMap;

fn route(name: &str, matches: &str) -> String {
    format!(
        "[[route]]\nname = \"{name}\"\nmatch = {{ {matches} }}\nvariants = {{ v = \"{name}\" }}\nweights = {{ v = 100 }}\n"
    )
}

fn get_of(weir: &Weir, host: &str, path: &str) -> Answer {
    weir.client().send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).answer()
}

#[test]
fn the_most_specific_route_wins() {
    let routes = [
        ("any", "path = \"/\""),
        ("wild", "host = \"*.example.com\", path = \"/\""),
        ("exact", "host = \"shop.example.com\", path = \"/\""),
        ("v1", "host = \"shop.example.com\", path = \"/v1\""),
        ("v1deep", "host = \"shop.example.com\", path = \"/v1/deep\""),
        ("ping", "host = \"shop.example.com\", path_exact = \"/v1/ping\""),
    ];
    let upstreams: Vec<Upstream> = routes.iter().map(|(name, _)| Upstream::named(name)).collect();
    let mut site = Site::new();
    for ((name, matches), upstream) in routes.iter().zip(&upstreams) {
        site = site.pool(name, &[upstream.addr], "").toml(&route(name, matches));
    }
    let weir = site.start();
    for (host, path, expected) in [
        ("elsewhere", "/", "any"),
        ("example.com", "/", "any"),
        ("a.example.com", "/", "wild"),
        ("a.b.example.com", "/v1", "wild"),
        ("shop.example.com", "/", "exact"),
        ("SHOP.Example.com:8080", "/x", "exact"),
        ("shop.example.com.", "/x", "exact"),
        ("shop.example.com", "/v1", "v1"),
        ("shop.example.com", "/v1/", "v1"),
        ("shop.example.com", "/v1?q=/v1/deep", "v1"),
        ("shop.example.com", "/v10", "exact"),
        ("shop.example.com", "/v1/deep/er", "v1deep"),
        ("shop.example.com", "/v1/deeper", "v1"),
        ("shop.example.com", "/v1/ping", "ping"),
        ("shop.example.com", "/v1/ping/", "v1"),
    ] {
        assert_eq!(get_of(&weir, host, path).text(), expected, "{host}{path}");
    }
}

#[test]
fn no_route_is_a_404() {
    let upstream = Upstream::named("ok");
    let weir =
        Site::new().pool("v1", &[upstream.addr], "").toml(&route("v1", "host = \"a.test\", path = \"/\"")).start();
    get_of(&weir, "b.test", "/").assert_problem(404);
    assert_eq!(upstream.count(), 0);
    assert_eq!(get_of(&weir, "a.test", "/").text(), "ok");
}

const RULES: &str = r#"
[[route.rule]]
name = "testers"
when = { header = "x-canary", equals = "always" }
variant = "canary"
[[route.rule]]
name = "opt-out"
when = { cookie = "canary", equals = "never" }
variant = "stable"
"#;

#[test]
fn rules_force_a_variant_and_the_first_wins() {
    let (stable, canary) = (Upstream::named("stable"), Upstream::named("canary"));
    let weir = split_site(&[("stable", &stable, "0"), ("canary", &canary, "100")], RULES).start();
    weir.shift("shop", r#""stable":100,"canary":0"#);
    let mut client = weir.client();
    assert_eq!(client.get("/", "").text(), "stable");
    assert_eq!(client.get("/", "X-Canary: always\r\n").text(), "canary");
    assert_eq!(client.get("/", "X-Canary: always, not\r\n").text(), "stable");
    assert_eq!(client.get("/", "X-Canary: always\r\nCookie: canary=never\r\n").text(), "canary");
    weir.shift("shop", r#""stable":0,"canary":100"#);
    assert_eq!(client.get("/", "").text(), "canary");
    assert_eq!(client.get("/", "Cookie: a=b; canary=never\r\n").text(), "stable");
    assert_eq!(client.get("/", "Cookie: xcanary=never\r\n").text(), "canary");
    eventually("forced requests are counted apart", || {
        weir.metric("weir_requests_total", &[("route", "shop"), ("forced", "true")]) == 3.0
            && weir.metric("weir_requests_total", &[("route", "shop"), ("forced", "false")]) == 4.0
    });
}

#[test]
fn a_variant_at_zero_gets_nothing() {
    let (stable, canary) = (Upstream::named("stable"), Upstream::named("canary"));
    let weir = split_site(&[("stable", &stable, "100"), ("canary", &canary, "0")], RULES).start();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = weir.client();
                (0..5_000).for_each(|_| assert_eq!(client.get("/", "").text(), "stable"));
            });
        }
    });
    assert_eq!((stable.count(), canary.count()), (20_000, 0));
}

#[test]
fn random_requests_follow_the_weights() {
    let (stable, canary) = (Upstream::named("stable"), Upstream::named("canary"));
    let weir = split_site(&[("stable", &stable, "80"), ("canary", &canary, "20")], "").start();
    let mut client = weir.client();
    (0..4_000).for_each(|_| drop(client.get("/", "")));
    // Five standard deviations of a binomial with 4,000 tries at 20 %: 127.
    let got = canary.count() as i64;
    assert!((got - 800).abs() < 127, "{got} of 4,000 at 20 %");
}

const BY_USER: &str = "sticky = { key = [\"header:x-user-id\"], fallback = \"random\" }";

/// Which variant each of these users gets.
fn placed(weir: &Weir, users: std::ops::Range<u32>) -> HashMap<u32, String> {
    let mut client = weir.client();
    users.map(|user| (user, client.get("/", &format!("X-User-Id: {user}\r\n")).text().to_owned())).collect()
}

#[test]
fn raising_a_variant_keeps_its_clients() {
    let (stable, canary) = (Upstream::named("stable"), Upstream::named("canary"));
    let weir = split_site(&[("stable", &stable, "100"), ("canary", &canary, "0")], BY_USER).start();
    let mut before = placed(&weir, 0..1_000);
    assert!(before.values().all(|variant| variant == "stable"));
    for percent in [5, 20, 50, 100] {
        weir.shift("shop", &format!("\"canary\":{percent}"));
        let after = placed(&weir, 0..1_000);
        let kept = before.iter().filter(|(_, v)| *v == "canary").all(|(user, _)| after[user] == "canary");
        assert!(kept, "at {percent} % a client left the canary");
        let share = after.values().filter(|v| *v == "canary").count() as f64 / 10.0;
        assert!((share - f64::from(percent)).abs() < 8.0, "{share} % at {percent} %");
        assert_eq!(after, placed(&weir, 0..1_000), "the same client, another variant");
        before = after;
    }
}

#[test]
fn a_third_variant_takes_only_its_share() {
    let all = [Upstream::named("a"), Upstream::named("b"), Upstream::named("c")];
    let site = split_site(&[("a", &all[0], "50"), ("b", &all[1], "50"), ("c", &all[2], "0")], BY_USER);
    let weir = site.start();
    let before = placed(&weir, 0..1_000);
    let answer = weir.admin("PATCH", "/api/v1/routes/shop/weights", "", r#"{"weights":{"a":45,"b":45,"c":10}}"#);
    assert_eq!(answer.status, 200, "{answer:?}");
    for (user, variant) in placed(&weir, 0..1_000) {
        assert!(variant == before[&user] || variant == "c", "{user} went from {} to {variant}", before[&user]);
    }
}

const BY_COOKIE: &str = "sticky = { fallback = \"cookie\", cookie = \"weir_shop\", ttl = \"24h\" }";

#[test]
fn an_anonymous_client_gets_an_id_and_stays() {
    let (stable, canary) = (Upstream::named("stable"), Upstream::named("canary"));
    let weir = split_site(&[("stable", &stable, "50"), ("canary", &canary, "50")], BY_COOKIE).start();
    let mut seen = HashMap::new();
    for _ in 0..40 {
        let first = weir.get("/", "");
        let cookie = first.head.field("set-cookie").expect("everybody gets an id").to_owned();
        let pair = cookie.split(';').next().expect("a cookie has a pair").to_owned();
        let id = pair.strip_prefix("weir_shop=").expect("the configured name");
        assert!(id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit()), "{cookie}");
        assert!(cookie.contains("Max-Age=86400") && cookie.contains("HttpOnly"), "{cookie}");
        let mut client = weir.client();
        for _ in 0..5 {
            let again = client.get("/", &format!("Cookie: {pair}\r\n"));
            assert_eq!(again.text(), first.text());
            assert_eq!(again.head.field("set-cookie"), None);
        }
        *seen.entry(first.text().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 2, "40 clients at 50/50: {seen:?}");
}

#[test]
fn an_anonymous_client_follows_the_weights() {
    let (stable, canary) = (Upstream::named("stable"), Upstream::named("canary"));
    let weir = split_site(&[("stable", &stable, "100"), ("canary", &canary, "0")], BY_COOKIE).start();
    let cookie = weir.get("/", "").head.field("set-cookie").expect("everybody gets an id").to_owned();
    let pair = format!("Cookie: {}\r\n", cookie.split(';').next().expect("a cookie has a pair"));
    let mut client = weir.client();
    assert_eq!(client.get("/", &pair).text(), "stable");
    weir.shift("shop", "\"canary\":100");
    assert_eq!(client.get("/", &pair).text(), "canary");
    weir.shift("shop", "\"canary\":0");
    assert_eq!(client.get("/", &pair).text(), "stable");
}
