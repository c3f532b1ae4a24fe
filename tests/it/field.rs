//! The examples of `config/field/`: each is served as it stands, but for its addresses, and does what the original does.

use crate::support::*;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/field")
}

/// The example with these targets in place of 127.0.0.1:9101, :9102 and so on.
#[track_caller]
fn start(example: &str, upstreams: &[Upstream]) -> Weir {
    let mut text = fs::read_to_string(folder().join(format!("{example}.toml"))).expect("the example is there");
    let mut put = |from: &str, to: &str| {
        assert!(text.contains(from), "{example}: no {from}");
        text = text.replace(from, to);
    };
    put("bind = \"127.0.0.1:8080\"", "bind = \"127.0.0.1:0\"");
    for (n, upstream) in upstreams.iter().enumerate() {
        put(&format!("\"127.0.0.1:{}\"", 9101 + n), &format!("\"{}\"", upstream.addr));
    }
    put("[server]", "[admin]\nlisten = [\"127.0.0.1:0\"]\n[server]");
    let site = Site::new();
    fs::write(site.file(), text).expect("the temporary folder is writable");
    fs::copy(folder().join("whitelist.txt"), site.folder.path().join("whitelist.txt")).expect("the list is there");
    Weir::start(site)
}

fn named(names: &[&'static str]) -> Vec<Upstream> {
    names.iter().map(|name| Upstream::named(name)).collect()
}

/// Header lines, and the variant that a request with them gets.
#[track_caller]
fn expect(weir: &Weir, host: &str, cases: &[(&str, &str)]) {
    let mut client = weir.client();
    for (fields, variant) in cases {
        let answer = client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).answer();
        assert_eq!(answer.text(), *variant, "{fields:?}");
    }
}

/// How many of `count` requests without anything got each variant.
fn shares(weir: &Weir, host: &str, count: usize) -> HashMap<String, usize> {
    let mut client = weir.client();
    let mut shares = HashMap::new();
    for _ in 0..count {
        let answer = client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).answer();
        *shares.entry(answer.text().to_owned()).or_insert(0) += 1;
    }
    shares
}

/// Five standard deviations of a binomial.
#[track_caller]
fn assert_share(shares: &HashMap<String, usize>, variant: &str, percent: f64) {
    let count: usize = shares.values().sum();
    let expected = count as f64 * percent / 100.0;
    let most = 5.0 * f64::sqrt(expected * (1.0 - percent / 100.0));
    let got = shares.get(variant).copied().unwrap_or(0) as f64;
    assert!((got - expected).abs() <= most, "{got} of {count} got {variant} at {percent} %");
}

#[test]
fn istio_s_header_comes_before_the_split() {
    let upstreams = named(&["v1", "v2"]);
    let weir = start("istio-header", &upstreams);
    let host = "reviews.localhost";
    expect(&weir, host, &[("X-Canary: true\r\n", "v2"); 50]);
    assert_share(&shares(&weir, host, 2_000), "v2", 10.0);
    let mut client = weir.client();
    let not_exact = (0..300).filter(|n| {
        let value = ["True", "true ,", "1"][n % 3];
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-Canary: {value}\r\n\r\n")).answer().text() == "v2"
    });
    assert!(not_exact.count() < 100, "another value is no reason for v2");
}

#[test]
fn ordered_headers_decide_by_the_first() {
    let upstreams = named(&["stable", "canary"]);
    let weir = start("header-order", &upstreams);
    let cases = [
        ("", "stable"),
        ("X-User-Type: internal\r\n", "canary"),
        ("X-User-Type: external\r\n", "stable"),
        ("X-User-Tier: vip\r\n", "stable"),
        ("X-Region: beijing\r\n", "canary"),
        ("X-Region: Beijing\r\n", "stable"),
        ("X-Region: beijing\r\nX-User-Tier: vip\r\n", "stable"),
        ("X-Region: beijing\r\nX-User-Tier: vip\r\nX-User-Type: internal\r\n", "canary"),
    ];
    expect(&weir, "app.localhost", &cases);
}

#[test]
fn user_ids_are_chosen_by_their_last_digit() {
    let upstreams = named(&["stable", "beta", "rc"]);
    let weir = start("user-id-regex", &upstreams);
    let digits = ["rc", "stable", "beta", "stable", "beta", "stable", "beta", "stable", "beta", "stable"];
    for (digit, variant) in digits.iter().enumerate() {
        expect(&weir, "app.localhost", &[(format!("User-Id: 4711{digit}\r\n").as_str(), variant)]);
    }
    expect(&weir, "app.localhost", &[("", "stable"), ("User-Id: 0x\r\n", "stable"), ("User-Id: 0\r\n", "rc")]);
}

#[test]
fn a_whitelist_has_its_ids_and_no_others() {
    let upstreams = named(&["stable", "canary"]);
    let weir = start("whitelist", &upstreams);
    let cases = [
        ("User-Id: 10001\r\n", "canary"),
        ("User-Id: alice@example.com\r\n", "canary"),
        ("User-Id: Alice@example.com\r\n", "stable"),
        ("User-Id: 1000\r\n", "stable"),
        ("User-Id: 100011\r\n", "stable"),
        ("User-Id: # One user id a line; empty lines and lines that begin with # are skipped.\r\n", "stable"),
        ("User-Id:\r\n", "stable"),
        ("", "stable"),
    ];
    expect(&weir, "app.localhost", &cases);
    let list = weir.site.folder.path().join("whitelist.txt");
    fs::write(&list, "10002\n").expect("the temporary folder is writable");
    let mut client = weir.client();
    eventually("the list is read again", || {
        client.send("GET / HTTP/1.1\r\nHost: app.localhost\r\nUser-Id: 10002\r\n\r\n").answer().text() == "canary"
    });
    expect(&weir, "app.localhost", &[("User-Id: 10001\r\n", "stable")]);
}

#[test]
fn cookies_are_told_by_their_exact_names() {
    let upstreams = named(&["stable", "a", "beta"]);
    let weir = start("cookies", &upstreams);
    let cases = [
        ("Cookie: ab_test=version_a\r\n", "a"),
        ("Cookie: beta_tester=true\r\n", "beta"),
        ("Cookie: beta_tester=true; ab_test=version_a\r\n", "a"),
        ("Cookie: xab_test=version_a\r\n", "stable"),
        ("Cookie: ab_test=version_ab\r\n", "stable"),
        ("Cookie: note=ab_test=version_a\r\n", "stable"),
        ("Cookie: ab_test=version_b; ab_test=version_a\r\n", "stable"),
        ("Cookie: xbeta_tester=true; beta_tester=false\r\n", "stable"),
        ("", "stable"),
    ];
    expect(&weir, "site.localhost", &cases);
}

#[test]
fn nginx_s_map_of_a_cookie() {
    let upstreams = named(&["v1", "v2"]);
    let weir = start("nginx-cookie-map", &upstreams);
    let cases = [
        ("", "v1"),
        ("Cookie: version=v2\r\n", "v2"),
        ("Cookie: version=V2\r\n", "v2"),
        ("Cookie: version=v22\r\n", "v1"),
        ("Cookie: version=the-Canary-1\r\n", "v2"),
        ("Cookie: xversion=v2\r\n", "v1"),
    ];
    expect(&weir, "site.localhost", &cases);
}

/// Two thousand jars of cookies, each with several requests: a tenth get the canary, and keep it.
#[test]
fn nginx_s_ten_percent_for_a_day() {
    let upstreams = named(&["stable", "canary"]);
    let weir = start("nginx-ten-percent", &upstreams);
    let mut client = weir.client();
    let mut first = HashMap::new();
    let mut ask =
        |fields: &str| client.send(format!("GET / HTTP/1.1\r\nHost: site.localhost\r\n{fields}\r\n")).answer();
    for _ in 0..2_000 {
        let answer = ask("");
        let cookie = answer.head.field("set-cookie").expect("everybody gets one").to_owned();
        let (pair, attributes) = cookie.split_once("; ").expect("it has attributes");
        assert!(pair.starts_with("group=") && attributes.starts_with("Max-Age=86400; Path=/;"), "{cookie}");
        let jar = format!("Cookie: {pair}\r\n");
        for _ in 0..2 {
            let again = ask(&jar);
            assert_eq!((again.text(), again.head.field("set-cookie")), (answer.text(), None));
        }
        first.insert(jar, answer.text().to_owned());
    }
    let mut shares = HashMap::new();
    first.values().for_each(|variant| *shares.entry(variant.clone()).or_insert(0) += 1);
    assert_share(&shares, "canary", 10.0);
    weir.shift("site", "\"canary\":20");
    for (jar, variant) in first.iter().filter(|(_, variant)| *variant == "canary") {
        assert_eq!(ask(jar).text(), variant, "who had the canary keeps it");
    }
}

#[test]
fn nginx_s_weights_of_19_and_1() {
    let upstreams = named(&["old", "new"]);
    let weir = start("nginx-weights", &upstreams);
    assert_share(&shares(&weir, "app.localhost", 4_000), "new", 5.0);
}

#[test]
fn traefik_s_weighted_services() {
    let upstreams = named(&["v1", "v2"]);
    let weir = start("traefik-weighted", &upstreams);
    assert_share(&shares(&weir, "app.localhost", 2_000), "v2", 25.0);
    let first = weir.client().send("GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n").answer();
    let cookie = first.head.field("set-cookie").expect("everybody gets one").to_owned();
    let pair = cookie.split(';').next().expect("a cookie has a pair");
    assert!(pair.starts_with("lb="), "{cookie}");
    expect(&weir, "app.localhost", &[(format!("Cookie: {pair}\r\n").as_str(), first.text()); 20]);
}

#[test]
fn kubernetes_selector_is_switched_at_once() {
    let upstreams = named(&["blue", "green"]);
    let weir = start("kubernetes-selector", &upstreams);
    let host = "app.localhost";
    expect(&weir, host, &[("", "blue"); 50]);
    weir.shift("app", "\"blue\":0,\"green\":100");
    expect(&weir, host, &[("", "green"); 50]);
    weir.shift("app", "\"blue\":100,\"green\":0");
    expect(&weir, host, &[("", "blue"); 50]);
    let text = fs::read_to_string(weir.site.file()).expect("it is there");
    fs::write(weir.site.file(), text.replace("active   = \"blue\"", "active   = \"green\"")).expect("it is writable");
    assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 200);
    expect(&weir, host, &[("", "green"); 50]);
}

/// No example is without its test here, and none has anything to say.
#[test]
fn every_example_is_tested_and_clean() {
    let this = include_str!("field.rs");
    let entries = fs::read_dir(folder()).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("it is readable").path());
    let mut examples = 0;
    for path in paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml")) {
        let name = path.file_stem().expect("it has a name").to_string_lossy().into_owned();
        assert!(this.contains(&format!("start(\"{name}\"")), "no test of {name}");
        let loaded = ::weir::config::load(&path, &|_| None);
        assert!(loaded.config.is_some() && loaded.report.diagnostics.is_empty(), "{}", loaded.report.render(false));
        examples += 1;
    }
    assert_eq!(examples, 10);
}
