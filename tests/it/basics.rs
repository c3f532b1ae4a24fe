//! One request after another: connections kept on both sides, answers without bodies, targets shared evenly.

use crate::support::*;

#[test]
fn both_sides_keep_their_connections() {
    let upstream = Upstream::named("hello");
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    for _ in 0..50 {
        assert_eq!(client.get("/a", "").text(), "hello");
    }
    assert_eq!((upstream.count(), upstream.connections()), (50, 1));
}

#[test]
fn a_client_that_closes_leaves_the_upstream_connection_open() {
    let upstream = Upstream::named("hello");
    let weir = Site::new().server("workers = 1").to(upstream.addr, "", "").start();
    for _ in 0..10 {
        let mut client = weir.client();
        let answer = client.get("/", "Connection: close\r\n");
        assert_eq!((answer.status, answer.head.field("connection")), (200, Some("close")));
        assert!(client.is_closed(), "the client asked to close");
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn an_upstream_that_closes_leaves_the_client_connection_open() {
    let upstream =
        Upstream::answering(|_| Reply::last("HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: 1\r\n\r\na"));
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    for _ in 0..10 {
        let answer = client.get("/", "");
        assert_eq!((answer.text(), answer.head.field("connection")), ("a", None));
    }
    assert_eq!(upstream.connections(), 10);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::answering(|request| Reply::text(&request.path));
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    let requests: String = (0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: test\r\n\r\n")).collect();
    client.send(requests);
    for n in 0..20 {
        assert_eq!(client.answer().text(), format!("/{n}"));
    }
}

#[test]
fn a_head_answer_has_its_length_and_no_body() {
    let upstream = Upstream::answering(|request| match request.method.as_str() {
        "HEAD" => Reply::raw("HTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\n"),
        _ => Reply::text("hello"),
    });
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    let head = client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n").answer_to_head();
    assert_eq!((head.status, head.head.field("content-length")), (200, Some("5")));
    assert_eq!(client.get("/", "").text(), "hello");
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn answers_204_and_304_have_no_body_and_keep_the_connection() {
    let upstream = Upstream::answering(|request| match request.path.as_str() {
        "/204" => Reply::raw("HTTP/1.1 204 X\r\n\r\n"),
        "/304" => Reply::raw("HTTP/1.1 304 X\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\n"),
        _ => Reply::text("hello"),
    });
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    let answer = client.get("/204", "");
    assert_eq!((answer.status, answer.head.field("transfer-encoding")), (204, None));
    let answer = client.get("/304", "");
    assert_eq!((answer.status, answer.head.field("etag")), (304, Some("\"a\"")));
    assert_eq!(client.get("/", "").text(), "hello");
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn an_http_1_0_client_gets_a_plain_body_and_a_close() {
    let chunked = "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let upstream = Upstream::answering(move |_| Reply::raw(chunked));
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    let answer = client.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n").answer();
    assert_eq!((answer.text(), answer.head.field("transfer-encoding")), ("hello", None));
    assert!(client.is_closed());
}

#[test]
fn an_http_1_0_upstream_is_read_to_its_close() {
    let upstream = Upstream::answering(|_| Reply::last("HTTP/1.0 200 X\r\n\r\nhello"));
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    for _ in 0..3 {
        assert_eq!(client.get("/", "").text(), "hello");
    }
}

#[test]
fn targets_of_a_pool_share_the_requests() {
    let (a, b) = (Upstream::named("a"), Upstream::named("b"));
    let weir = Site::new()
        .pool("both", &[a.addr, b.addr], "")
        .toml("[[route]]\nname = \"r\"\nmatch = { path = \"/\" }\nvariants = { v = \"both\" }\nweights = { v = 100 }")
        .start();
    let mut client = weir.client();
    for _ in 0..200 {
        assert_eq!(client.get("/", "").status, 200);
    }
    assert_eq!(a.count() + b.count(), 200);
    assert!(a.count() >= 50 && b.count() >= 50, "{} and {}", a.count(), b.count());
}

#[test]
fn a_busy_target_gets_fewer_requests() {
    let gate = Gate::default();
    let held = gate.clone();
    let slow = Upstream::answering(move |_| {
        held.pass();
        Reply::text("slow")
    });
    let fast = Upstream::named("fast");
    let weir = Site::new()
        .server("workers = 1")
        .pool("both", &[slow.addr, fast.addr], "")
        .toml("[[route]]\nname = \"r\"\nmatch = { path = \"/\" }\nvariants = { v = \"both\" }\nweights = { v = 100 }")
        .start();
    let mut clients = Vec::new();
    for sent in 1..=60 {
        let before = fast.count();
        let mut client = weir.client();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        eventually("the request reaches a target", || slow.count() + fast.count() == sent);
        if fast.count() > before {
            assert_eq!(client.answer().text(), "fast");
        } else {
            clients.push(client);
        }
    }
    assert!(
        slow.count() < 25,
        "least in flight of two must prefer the idle target: {} of 60 went to the busy one",
        slow.count()
    );
    gate.open();
    for mut client in clients {
        assert_eq!(client.answer().text(), "slow");
    }
}

#[test]
fn every_request_is_counted_once() {
    let upstream = Upstream::answering(|request| match request.path.as_str() {
        "/missing" => Reply::status(404, "", "no"),
        "/broken" => Reply::status(500, "", "no"),
        "/moved" => Reply::status(302, "", ""),
        _ => Reply::text("yes"),
    });
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    for (path, times) in [("/", 40), ("/missing", 30), ("/broken", 20), ("/moved", 10)] {
        (0..times).for_each(|_| drop(client.get(path, "")));
    }
    let code = |code| weir.metric("weir_requests_total", &[("route", "all"), ("variant", "stable"), ("code", code)]);
    eventually("the last request is counted", || code("3xx") == 10.0);
    assert_eq!((code("2xx"), code("4xx"), code("5xx"), code("none")), (40.0, 30.0, 20.0, 0.0));
    assert_eq!(weir.metric("weir_request_duration_seconds_count", &[("route", "all")]), 100.0);
    assert_eq!(weir.metric("weir_requests_in_flight", &[("route", "all")]), 0.0);
    assert_eq!(weir.metric("weir_request_errors_total", &[("route", "all")]), 0.0);
}
