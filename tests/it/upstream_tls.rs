//! TLS to targets: whom Weir believes, what it shows, and what it says when there is no trust.

use crate::support::tls::target_config;
use crate::support::*;
use rcgen::PKCS_ECDSA_P256_SHA256;
use rustls::version::{TLS12, TLS13};
use std::net::SocketAddr;

const BOTH: &[&rustls::SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// A site with one pool at this target, whose `tls` has `ca.pem` and these further keys.
fn site(ca: &Ca, target: SocketAddr, tls: &str, pool_lines: &str) -> Site {
    let site = Site::new().to(target, &format!("{pool_lines}tls = {{ ca = \"ca.pem\"{tls} }}\n"), "");
    std::fs::write(site.folder.path().join("ca.pem"), ca.pem()).expect("the temporary folder is writable");
    site
}

fn secure(leaf: &Leaf) -> Upstream {
    Upstream::over_tls(target_config(leaf, BOTH, None), |_| Reply::text("secure"))
}

/// 502 for the client, a reason for the metrics and an explanation in the log.
#[track_caller]
fn assert_refused(weir: &Weir, why: &str) {
    let problem = weir.get("/", "").assert_problem(502);
    assert_eq!(problem["detail"], "the service did not accept a connection");
    eventually("the log says why", || weir.log().contains(why));
    eventually("it is counted", || {
        weir.metric("weir_request_errors_total", &[("route", "all"), ("reason", "connect")]) >= 1.0
    });
    assert_eq!(weir.metric("weir_target_up", &[]), 0.0);
}

#[test]
fn a_target_is_known_by_its_address_or_by_a_name() {
    let ca = Ca::new();
    let by_address = secure(&ca.leaf(&["127.0.0.1"]));
    let by_name = secure(&ca.leaf(&["api.internal"]));
    for (upstream, tls) in [(&by_address, ""), (&by_name, ", server_name = \"api.internal\"")] {
        let weir = site(&ca, upstream.addr, tls, "").start();
        let mut client = weir.client();
        for _ in 0..20 {
            assert_eq!(client.get("/", "").text(), "secure");
        }
        assert_eq!((upstream.count(), upstream.connections()), (20, 1));
        assert_eq!(weir.metric("weir_target_up", &[]), 1.0);
    }
    let request = by_name.requests().remove(0);
    assert_eq!((request.head.field("host"), request.head.field("x-forwarded-proto")), (Some("test"), Some("http")));
}

#[test]
fn a_target_that_is_a_name_is_known_by_it() {
    let ca = Ca::new();
    let upstream = secure(&ca.leaf(&["localhost"]));
    let site = Site::new();
    std::fs::write(site.folder.path().join("ca.pem"), ca.pem()).expect("the temporary folder is writable");
    let weir = site
        .toml(&format!(
            "[pool.only]\ntargets = [\"localhost:{}\"]\ntls = {{ ca = \"ca.pem\" }}\n[[route]]\nname = \"all\"\nvariants = {{ stable = \"only\" }}",
            upstream.addr.port()
        ))
        .start();
    assert_eq!(weir.get("/", "").text(), "secure");
}

#[test]
fn bodies_of_any_size_pass_both_ways() {
    let ca = Ca::new();
    let answer: &'static str = "x".repeat(3 * 1024 * 1024).leak();
    for version in [&TLS12, &TLS13] {
        let config = target_config(&ca.leaf(&["127.0.0.1"]), &[version], None);
        let upstream = Upstream::over_tls(config, move |request| {
            Reply::text(if request.method == "GET" { answer } else { "taken" })
        });
        let weir = site(&ca, upstream.addr, "", "").start();
        let mut client = weir.client();
        assert_eq!(client.get("/", "").text(), answer);
        let body = "y".repeat(2 * 1024 * 1024);
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        assert_eq!(client.answer().text(), "taken");
        assert_eq!(upstream.requests()[1].body.len(), body.len());
        assert_eq!(client.get("/", "").text(), answer);
        assert_eq!(upstream.connections(), 1);
    }
}

#[test]
fn sessions_are_resumed() {
    let ca = Ca::new();
    for version in [&TLS12, &TLS13] {
        let mut config = rustls::ServerConfig::clone(&target_config(&ca.leaf(&["127.0.0.1"]), &[version], None));
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().expect("there is randomness");
        let upstream = Upstream::over_tls(std::sync::Arc::new(config), |_| {
            Reply::last("HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        });
        let weir = site(&ca, upstream.addr, "", "").server("workers = 1").start();
        for _ in 0..5 {
            assert_eq!(weir.get("/", "").text(), "ok");
        }
        assert_eq!((upstream.connections(), upstream.resumed()), (5, 4), "{version:?}");
    }
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let ca = Ca::new();
    let upstream = secure(&ca.leaf(&["other.internal"]));
    assert_refused(&site(&ca, upstream.addr, "", "").start(), "is not for 127.0.0.1 but for other.internal");
    let weir = site(&ca, upstream.addr, ", server_name = \"api.internal\"", "").start();
    assert_refused(&weir, "is not for api.internal but");
    assert_eq!(upstream.count(), 0, "nothing of a request reaches it");
}

#[test]
fn an_unknown_authority_and_an_expired_certificate_are_refused() {
    let (ca, other) = (Ca::new(), Ca::new());
    let stranger = secure(&other.leaf(&["127.0.0.1"]));
    assert_refused(&site(&ca, stranger.addr, "", "").start(), "is from an authority that is not trusted");
    let expired = ca.leaf_with(&["127.0.0.1"], &PKCS_ECDSA_P256_SHA256, |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    assert_refused(&site(&ca, secure(&expired).addr, "", "").start(), "expired on 2020-01-01");
}

#[test]
fn a_self_signed_certificate_is_believed_where_it_is_listed() {
    let leaf = Leaf::self_signed(&["127.0.0.1"]);
    let upstream = secure(&leaf);
    let listed = site(&Ca::new(), upstream.addr, "", "");
    std::fs::write(listed.folder.path().join("ca.pem"), &leaf.cert).expect("writable");
    assert_eq!(listed.start().get("/", "").text(), "secure");
    let other = site(&Ca::new(), upstream.addr, "", "");
    std::fs::write(other.folder.path().join("ca.pem"), Leaf::self_signed(&["127.0.0.1"]).cert).expect("writable");
    assert_refused(&other.start(), "is an authority's, and is not listed itself");
}

#[test]
fn a_plain_target_and_one_that_hangs_up_are_refused() {
    let ca = Ca::new();
    let plain = Upstream::raw(|mut wire| drop(wire.try_send("HTTP/1.1 400 X\r\nContent-Length: 0\r\n\r\n")));
    assert_refused(&site(&ca, plain.addr, "", "").start(), "TLS: the target does not speak TLS there");
    let silent = Upstream::raw(|_| {});
    assert_refused(&site(&ca, silent.addr, "", "").start(), "can't connect: TLS: ");
}

#[test]
fn a_target_that_is_silent_is_504() {
    let ca = Ca::new();
    let gate = Gate::default();
    let held = gate.clone();
    let silent = Upstream::raw(move |_wire| held.pass());
    let weir = site(&ca, silent.addr, "", "connect_timeout = \"300ms\"\n").start();
    let problem = weir.get("/", "").assert_problem(504);
    assert_eq!(problem["detail"], "the service did not finish the TLS handshake in time");
    eventually("it is counted", || weir.metric("weir_request_errors_total", &[("reason", "timeout")]) == 1.0);
    gate.open();
}

#[test]
fn a_target_without_trust_leaves_its_requests_to_the_others() {
    let ca = Ca::new();
    let (good, bad) = (secure(&ca.leaf(&["127.0.0.1"])), secure(&Ca::new().leaf(&["127.0.0.1"])));
    let site = Site::new().pool("both", &[bad.addr, good.addr], "tls = { ca = \"ca.pem\" }");
    std::fs::write(site.folder.path().join("ca.pem"), ca.pem()).expect("the temporary folder is writable");
    let weir = site.toml("[[route]]\nname = \"all\"\nvariants = { stable = \"both\" }").start();
    for _ in 0..20 {
        assert_eq!(weir.get("/", "").text(), "secure");
    }
    assert_eq!(good.count(), 20);
}

#[test]
fn weir_shows_its_own_certificate_when_asked() {
    let (ca, clients) = (Ca::new(), Ca::new());
    let config = target_config(&ca.leaf(&["127.0.0.1"]), BOTH, Some(&clients));
    let upstream = Upstream::over_tls(config, |_| Reply::text("known"));
    let with_own = |own: &Leaf| {
        let site = site(&ca, upstream.addr, ", client_cert = \"own.crt\", client_key = \"own.key\"", "");
        own.write(&site, "own");
        site
    };
    let weir = with_own(&clients.leaf(&["weir"])).start();
    assert_eq!(weir.get("/", "").text(), "known");
    assert!(weir.metric("weir_tls_certificate_expiry_timestamp_seconds", &[("name", "weir")]) > 0.0);
    // Without one, or with one that the target does not believe, there is no answer.
    let without = site(&ca, upstream.addr, "", "").start();
    assert_eq!(without.get("/", "").status, 502);
    let stranger = with_own(&ca.leaf(&["weir"])).start();
    assert_eq!(stranger.get("/", "").status, 502);
    eventually("the log has the target's word", || without.log().contains("CertificateRequired"));
    assert_eq!(upstream.count(), 1);
}

#[test]
fn without_verification_everything_is_taken_and_check_warns() {
    let upstream = secure(&Ca::new().leaf(&["elsewhere.internal"]));
    let weir = Site::new().to(upstream.addr, "tls = { verify = false }\n", "").start();
    assert_eq!(weir.get("/", "").text(), "secure");
    eventually("the log says so", || weir.log().contains("tls-no-verify"));
}

#[test]
fn new_authorities_are_taken_over_and_old_connections_are_not_used_any_more() {
    let (old, new) = (Ca::new(), Ca::new());
    let upstream = secure(&old.leaf(&["127.0.0.1"]));
    let weir = site(&old, upstream.addr, "", "").server("workers = 1").start();
    let mut client = weir.client();
    assert_eq!(client.get("/", "").text(), "secure");
    std::fs::write(weir.site.folder.path().join("ca.pem"), new.pem()).expect("the temporary folder is writable");
    eventually("the old authority is not believed", || client.get("/", "").status == 502);
    std::fs::write(weir.site.folder.path().join("ca.pem"), old.pem() + &new.pem()).expect("writable");
    assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 200);
    eventually("both are", || client.get("/", "").status == 200);
    let connections = upstream.connections();
    assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 200);
    assert_eq!(client.get("/", "").status, 200);
    assert_eq!(upstream.connections(), connections, "a reload that changes nothing keeps connections");
}

#[test]
fn weir_behind_weir() {
    let ca = Ca::new();
    let upstream = Upstream::named("behind two");
    let inner = https_site(
        &[("site", &ca.leaf(&["inner.test"]))],
        "client_ca = \"edge.pem\"\nclient_subject_header = \"x-edge\"",
        upstream.addr,
    );
    std::fs::write(inner.folder.path().join("edge.pem"), ca.pem()).expect("writable");
    let inner = inner.start();
    let edge = site(
        &ca,
        inner.addr("https"),
        ", server_name = \"inner.test\", client_cert = \"own.crt\", client_key = \"own.key\"",
        "",
    );
    ca.leaf(&["edge"]).write(&edge, "own");
    let edge = edge.start();
    let mut client = edge.client();
    for _ in 0..10 {
        assert_eq!(client.get("/", "").text(), "behind two");
    }
    let head = upstream.requests().remove(0).head;
    assert_eq!(
        (head.field("via"), head.field("x-edge")),
        (Some("1.1 weir, 1.1 weir"), Some("CN=rcgen self signed cert"))
    );
    assert_eq!(inner.metric("weir_connections_accepted_total", &[("listener", "https")]), 1.0);
}
