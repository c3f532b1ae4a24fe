//! What Weir changes in a head, and that it changes nothing else.

use crate::support::*;

const TRUSTING: &str = "workers = 2\ntrusted_proxies = [\"127.0.0.0/8\"]";

/// The fields that reached a target for a GET with these header lines.
fn received(server: &str, fields: &str) -> wire::Head {
    let upstream = Upstream::named("ok");
    let weir = Site::new().server(server).to(upstream.addr, "", "").start();
    assert_eq!(weir.get("/", fields).status, 200);
    upstream.request().head
}

#[test]
fn hop_by_hop_fields_stop_at_weir() {
    let head = received(
        "workers = 1",
        "Connection: keep-alive, X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
         Upgrade: foo/1\r\nTE: gzip\r\nX-Kept: 2\r\n",
    );
    for gone in ["x-hop", "keep-alive", "proxy-connection", "upgrade", "te"] {
        assert_eq!(head.field(gone), None, "{head:?}");
    }
    assert!(!head.values("connection").iter().any(|value| value.contains("close")), "{head:?}");
    assert_eq!(head.field("x-kept"), Some("2"));
}

#[test]
fn hop_by_hop_fields_of_an_answer_stop_at_weir() {
    let upstream = Upstream::answering(|_| {
        Reply::status(200, "Connection: X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=3\r\nX-Kept: 2\r\n", "ok")
    });
    let weir = Site::new().to(upstream.addr, "", "").start();
    let head = weir.get("/", "").head;
    assert_eq!((head.field("x-secret"), head.field("keep-alive"), head.field("connection")), (None, None, None));
    assert_eq!(head.field("x-kept"), Some("2"));
}

#[test]
fn connection_cannot_name_away_what_weir_adds() {
    let head = received("workers = 1", "Connection: Host, X-Forwarded-For, X-Request-Id, Via\r\n");
    assert_eq!(head.field("host"), Some("test"));
    assert_eq!(head.field("x-forwarded-for"), Some("127.0.0.1"));
    assert!(head.field("x-request-id").is_some() && head.field("via").is_some(), "{head:?}");
}

#[test]
fn host_is_kept() {
    let upstream = Upstream::named("ok");
    let weir = Site::new().to(upstream.addr, "", "").start();
    weir.client().send("GET /a?b=%20c HTTP/1.1\r\nHost: Shop.Example:8080\r\n\r\n").answer();
    let request = upstream.request();
    assert_eq!((request.head.field("host"), &*request.path), (Some("Shop.Example:8080"), "/a?b=%20c"));
}

#[test]
fn a_strangers_forwarding_fields_are_replaced() {
    let head = received(
        "workers = 1",
        "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nForwarded: for=1.2.3.4\r\n",
    );
    assert_eq!(head.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.field("x-forwarded-proto"), Some("http"));
    assert_eq!(head.field("x-forwarded-host"), Some("test"));
    assert!(!head.values("forwarded").iter().any(|value| value.contains("1.2.3.4")), "{head:?}");
}

#[test]
fn a_trusted_proxys_forwarding_fields_are_believed() {
    let head = received(
        TRUSTING,
        "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n",
    );
    assert_eq!(head.values("x-forwarded-for").join(", "), "1.2.3.4, 127.0.0.1");
    assert_eq!(head.field("x-forwarded-proto"), Some("https"));
    assert_eq!(head.field("x-forwarded-host"), Some("shop.example"));
}

#[test]
fn a_request_id_is_made_and_only_a_trusted_proxys_is_kept() {
    let made = received("workers = 1", "");
    assert!(made.field("x-request-id").is_some_and(|id| id.len() >= 16), "{made:?}");
    let replaced = received("workers = 1", "X-Request-Id: mine\r\n");
    assert_ne!(replaced.field("x-request-id"), Some("mine"));
    assert_eq!(received(TRUSTING, "X-Request-Id: mine\r\n").field("x-request-id"), Some("mine"));
}

#[test]
fn request_ids_differ() {
    let upstream = Upstream::named("ok");
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    (0..100).for_each(|_| drop(client.get("/", "")));
    let ids = upstream.requests().iter().map(|r| r.head.field("x-request-id").map(str::to_owned)).collect();
    let ids: std::collections::HashSet<Option<String>> = ids;
    assert_eq!(ids.len(), 100);
}

#[test]
fn via_grows_by_weir() {
    let head = received("workers = 1", "Via: 1.0 first\r\n");
    let via = head.values("via").join(", ");
    assert!(via.starts_with("1.0 first, 1.1 "), "{via}");
}

#[test]
fn an_answers_via_is_kept() {
    let upstream = Upstream::answering(|_| Reply::status(200, "Via: 1.1 origin\r\n", "ok"));
    let weir = Site::new().to(upstream.addr, "", "").start();
    let via = weir.get("/", "").head.values("via").join(", ");
    assert!(via.starts_with("1.1 origin"), "{via}");
}

#[test]
fn repeated_fields_keep_their_number_and_order() {
    let upstream =
        Upstream::answering(|_| Reply::status(200, "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-N: 1\r\nX-N: 2\r\n", ""));
    let weir = Site::new().to(upstream.addr, "", "").start();
    let head = weir.get("/", "X-M: 1\r\nX-M: 2\r\nCookie: c=3\r\n").head;
    assert_eq!(head.values("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(head.values("x-n"), ["1", "2"]);
    let request = upstream.request().head;
    assert_eq!((request.values("x-m"), request.field("cookie")), (vec!["1", "2"], Some("c=3")));
}
