//! Targets that are names: followed as their addresses change, kept when nobody answers.

use crate::support::dns::Dns;
use crate::support::*;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A route for every request over the pool `only` of this target, and `/other` over one that is an address.
fn site(dns: &Dns, target: &str, lines: &str, other: &Upstream) -> Site {
    let routes = "[[route]]\nname = \"shop\"\nvariants = { stable = \"only\" }\n\
                  [[route]]\nname = \"other\"\nmatch = { path = \"/other\" }\nvariants = { stable = \"other\" }\n";
    let pools = format!("[pool.only]\ntargets = [\"{target}\"]\n{lines}\n");
    Site::new().toml(&dns.config()).toml(&pools).pool("other", &[other.addr], "").toml(routes)
}

/// Two targets on one port, the first behind a gate.
fn pair(gate: &Gate) -> (Upstream, Upstream) {
    let held = gate.clone();
    let first = Upstream::answering(move |request| {
        if request.path == "/held" {
            held.pass();
        }
        Reply::text("first")
    });
    let second = Upstream::named_at(SocketAddr::from((SECOND, first.addr.port())), "second");
    (first, second)
}

fn addresses(weir: &Weir, target: &str) -> f64 {
    weir.metric("weir_target_addresses", &[("pool", "only"), ("target", target)])
}

fn failing(weir: &Weir) -> f64 {
    weir.metric("weir_dns_failing", &[("pool", "only")])
}

#[test]
fn a_change_is_followed_without_an_error() {
    let (gate, dns) = (Gate::default(), Dns::new());
    let (first, second) = pair(&gate);
    dns.host("shop.test", &[FIRST], &[]);
    let target = format!("shop.test:{}", first.addr.port());
    let weir = site(&dns, &target, "", &first).start();
    assert_eq!(addresses(&weir, &target), 1.0);
    let mut held = weir.client();
    held.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _done = RaisedAtLast(&done);
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = weir.client();
                while !done.load(SeqCst) {
                    let answer = client.get("/", "");
                    assert_eq!(answer.status, 200, "{answer:?}");
                }
            });
        }
        eventually("the first has requests", || first.count() > 20);
        dns.host("shop.test", &[FIRST, SECOND], &[]);
        eventually("both have requests", || second.count() > 20);
        let before = first.count();
        eventually("the first still has some", || first.count() > before + 20);
        dns.host("shop.test", &[SECOND], &[]);
        eventually("its name has one address", || weir.log().matches("addresses changed").count() >= 2);
        // Its last request is the one that it had.
        settled("requests of the first", || first.count() as u64);
        let before = second.count();
        eventually("the second has all", || second.count() > before + 20);
    });
    gate.open();
    assert_eq!(held.answer().text(), "first", "what was under way is finished");
    eventually("no connection to it is kept", || first.open() == 0);
    assert_eq!((addresses(&weir, &target), failing(&weir)), (1.0, 0.0));
}

#[test]
fn addresses_are_kept_when_the_name_is_gone_or_nobody_answers() {
    let dns = Dns::new();
    let (first, second) = pair(&Gate::default());
    dns.host("shop.test", &[FIRST], &[]);
    let weir = site(&dns, &format!("shop.test:{}", first.addr.port()), "", &first).start();
    assert_eq!(weir.get("/", "").text(), "first");
    dns.forget("shop.test");
    eventually("it is said to be gone", || failing(&weir) == 1.0);
    assert!(weir.log().contains("the name does not exist"), "{}", weir.log());
    assert_eq!(weir.get("/", "").text(), "first");
    dns.host("shop.test", &[FIRST], &[]);
    eventually("it is back", || failing(&weir) == 0.0);
    dns.silent(true);
    eventually("nobody answers", || failing(&weir) == 1.0);
    let asked = dns.asked();
    eventually("it is tried again", || dns.asked() > asked);
    assert_eq!(weir.get("/", "").text(), "first");
    dns.host("shop.test", &[SECOND], &[]);
    dns.silent(false);
    eventually("the new address has requests", || weir.get("/", "").text() == "second");
    assert!(second.count() > 0 && failing(&weir) == 0.0);
    assert!(weir.metric("weir_dns_lookups_total", &[("result", "failed")]) >= 2.0);
}

#[test]
fn a_name_that_is_not_there_at_the_start_leaves_the_others_alone() {
    let (dns, first) = (Dns::new(), Upstream::named("first"));
    dns.silent(true);
    let target = format!("shop.test:{}", first.addr.port());
    let weir = site(&dns, &target, "", &first).start();
    assert_eq!((weir.get("/", "").status, weir.get("/other", "").text()), (503, "first"));
    assert_eq!(addresses(&weir, &target), 0.0);
    dns.host("shop.test", &[FIRST], &[]);
    dns.silent(false);
    eventually("it is there", || weir.get("/", "").text() == "first");
    assert_eq!(addresses(&weir, &target), 1.0);
}

#[test]
fn a_services_records_have_ports_and_weights() {
    let dns = Dns::new();
    let (heavy, light, spare) = (Upstream::named("heavy"), Upstream::named("light"), Upstream::named("spare"));
    let port = |of: &Upstream| of.addr.port();
    dns.host("node1.test", &[FIRST], &[]);
    let records =
        [(1, 30, port(&heavy), "node1.test"), (1, 10, port(&light), "node1.test"), (2, 50, port(&spare), "node1.test")];
    dns.service("_http._tcp.shop.test", &records);
    let site = site(&dns, "srv:_http._tcp.shop.test", "balance = \"round_robin\"", &heavy).server("workers = 1");
    let weir = site.start();
    let mut client = weir.client();
    for _ in 0..40 {
        assert_eq!(client.get("/", "").status, 200);
    }
    assert_eq!((heavy.count(), light.count(), spare.count()), (30, 10, 0));
    // Without a host of its own, HTTP/1.0's requests have the address as theirs.
    let mut old = weir.client();
    old.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(old.answer().status, 200);
    dns.service("_http._tcp.shop.test", &[(1, 0, port(&heavy), "gone.test"), (2, 0, port(&spare), "node1.test")]);
    eventually("the next priority takes over", || weir.get("/", "").text() == "spare");
    let pools = weir.admin("GET", "/api/v1/pools", "", "").json();
    let target = &pools["pools"][0]["targets"][0];
    assert_eq!(target["name"], "srv:_http._tcp.shop.test");
    assert_eq!(target["endpoints"][0]["address"], spare.addr.to_string());
}

#[test]
fn names_of_the_hosts_file_need_no_server() {
    let (dns, first) = (Dns::new(), Upstream::named("first"));
    dns.silent(true);
    let weir = site(&dns, &format!("localhost:{}", first.addr.port()), "", &first).start();
    assert_eq!(weir.get("/", "").text(), "first");
    assert_eq!(failing(&weir), 0.0);
    assert_eq!(dns.asked(), 0);
}

#[test]
fn one_bad_address_of_a_name_is_ejected_alone() {
    let dns = Dns::new();
    let first = Upstream::named("first");
    let port = first.addr.port();
    let bad = Upstream::raw_at(SocketAddr::from((SECOND, port)), |mut wire| drop(wire.head()));
    dns.host("shop.test", &[FIRST, SECOND], &[]);
    let lines = "outlier = { consecutive_failures = 2, eject_for = \"1h\" }";
    let weir = site(&dns, &format!("shop.test:{port}"), lines, &first).server("workers = 1").start();
    let ejections = || weir.metric("weir_target_ejections_total", &[("pool", "only"), ("reason", "reset")]);
    eventually("it is ejected", || {
        weir.get("/", "");
        ejections() == 1.0
    });
    for _ in 0..20 {
        assert_eq!(weir.get("/", "").text(), "first");
    }
    assert_eq!(weir.metric("weir_target_up", &[("pool", "only")]), 1.0, "the name is up");
    drop(bad);
}

#[test]
fn of_a_name_s_addresses_only_those_that_are_up_get_requests() {
    let (dns, first) = (Dns::new(), Upstream::named("first"));
    let port = first.addr.port();
    // Takes connections and never answers: nobody knows whether it is well.
    let _silent = std::net::TcpListener::bind((SECOND, port)).expect("the address is free");
    dns.host("shop.test", &[FIRST], &[]);
    let target = format!("shop.test:{port}");
    let health = "health = { path = \"/\", interval = \"60s\", timeout = \"60s\" }";
    let weir = site(&dns, &target, health, &first).start();
    dns.host("shop.test", &[FIRST, SECOND], &[]);
    eventually("both are known", || addresses(&weir, &target) == 2.0);
    let mut client = weir.client();
    for _ in 0..40 {
        assert_eq!(client.get("/", "").text(), "first");
    }
    let pools = weir.admin("GET", "/api/v1/pools", "", "").json();
    let standing = &pools["pools"][0]["targets"][0]["standing"];
    assert_eq!(standing, "up", "{pools}");
}
