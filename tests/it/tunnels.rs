//! WebSockets and other protocol switches: bytes both ways once the target agreed, nothing of it before.

use crate::support::*;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Agrees to switch, sends `first` at once and echoes what comes; says `bye` when the client has ended.
pub fn echo(first: &'static str) -> Upstream {
    Upstream::raw(move |mut wire| {
        let Ok(Some(head)) = wire.head() else { return };
        if head.field("upgrade").is_none() {
            return drop(wire.try_send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain"));
        }
        assert_eq!(head.field("connection"), Some("Upgrade"), "{head:?}");
        if wire.try_send(format!("{AGREE}{first}")).is_err() {
            return;
        }
        while let Ok(byte) = wire.exactly(1) {
            if wire.try_send(byte).is_err() {
                return;
            }
        }
        // The client may be gone altogether.
        let _ = wire.try_send("bye");
    })
}

#[track_caller]
pub fn switch(client: &mut Wire) {
    client.send(ASK);
    let answer = client.try_answer_head().expect("an answer");
    assert_eq!(answer.status, 101, "{answer:?}");
    assert_eq!(answer.head.field("connection"), Some("Upgrade"));
    assert_eq!(answer.head.field("upgrade"), Some("websocket"));
    assert_eq!(answer.head.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.head.field("content-length"), None);
}

#[test]
fn bytes_pass_both_ways_untouched_and_each_side_may_end_first() {
    let upstream = echo("hello");
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    switch(&mut client);
    assert_eq!(client.exactly(5).unwrap(), b"hello");
    let bytes = b"\x81\x85\x01\x02\x03\x04iGoHn\x00\xff\r\n\r\nGET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
    client.send(bytes);
    assert_eq!(client.exactly(bytes.len()).unwrap(), bytes);
    eventually("the tunnel is counted while it is open", || weir.metric("weir_tunnels_open", &[]) == 1.0);
    client.end();
    assert_eq!(client.rest(), b"bye", "the target may still speak after the client has ended");
    eventually("and not after", || weir.metric("weir_tunnels_open", &[]) == 0.0);
    assert_eq!(weir.metric("weir_requests_total", &[("code", "1xx")]), 1.0);
}

#[test]
fn megabytes_pass_while_the_other_side_is_slow() {
    let upstream = echo("");
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    switch(&mut client);
    let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_be_bytes).collect();
    for piece in sent.chunks(40_000) {
        client.send(piece);
        assert_eq!(client.exactly(piece.len()).unwrap(), piece);
    }
}

#[test]
fn a_target_that_declines_answers_and_the_connection_goes_on() {
    let upstream = Upstream::answering(|request| {
        let asked = request.head.field("upgrade").unwrap_or("nothing").to_owned();
        Reply::status(426, "", &asked)
    });
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    let answer = client.send(ASK).answer();
    assert_eq!((answer.status, answer.text()), (426, "websocket"));
    assert_eq!(client.get("/", "").text(), "nothing");
}

#[test]
fn a_switch_that_was_not_offered_is_refused() {
    for agree in [
        AGREE.replace("websocket", "h2c"),
        AGREE.replace("Upgrade: websocket\r\n", ""),
        AGREE.replace("Connection: Upgrade\r\n", ""),
    ] {
        let upstream = Upstream::answering(move |_| Reply::raw(&agree));
        let weir = Site::new().to(upstream.addr, "", "").start();
        weir.client().send(ASK).answer().assert_problem(502);
        // Nor one that nobody asked for.
        weir.client().get("/", "").assert_problem(502);
    }
}

#[test]
fn protocols_that_would_hide_requests_are_not_offered() {
    let upstream = Upstream::answering(|request| {
        let fields =
            [request.head.field("upgrade"), request.head.field("connection"), request.head.field("http2-settings")];
        Reply::text(&format!("{fields:?}"))
    });
    let weir = Site::new().to(upstream.addr, "", "").start();
    for (fields, passed) in [
        (
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
            "[None, None, None]",
        ),
        ("Connection: Upgrade\r\nUpgrade: TLS/1.2, HTTP/2.0\r\n", "[None, None, None]"),
        ("Connection: Upgrade\r\nUpgrade: h2c, foo/2\r\n", "[Some(\"foo/2\"), Some(\"Upgrade\"), None]"),
        ("Upgrade: websocket\r\n", "[None, None, None]"),
        ("Connection: Upgrade\r\n", "[None, None, None]"),
    ] {
        assert_eq!(weir.client().get("/", fields).text(), passed, "{fields}");
    }
    let mut client = weir.client();
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nab");
    assert_eq!(client.answer().text(), "[None, None, None]", "a request with a body is an ordinary one");
    let mut client = weir.client();
    client.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.answer().text(), "[None, None, None]", "HTTP/1.0 has no upgrades");
}

#[test]
fn an_idle_tunnel_ends_and_a_busy_one_does_not() {
    let upstream = echo("");
    let weir = Site::new()
        .limits("tunnel_idle_timeout = \"400ms\"\nbody_idle_timeout = \"200ms\"")
        .to(upstream.addr, "", "")
        .start();
    let mut client = weir.client();
    switch(&mut client);
    let since = std::time::Instant::now();
    while since.elapsed() < std::time::Duration::from_millis(1200) {
        client.send("x");
        assert_eq!(client.exactly(1).unwrap(), b"x");
    }
    assert!(client.is_closed(), "after a while without a byte");
    eventually("the target's end, too", || upstream.open() == 0);
}

#[test]
fn open_tunnels_stay_when_weights_change() {
    let (stable, canary) = (echo("s"), echo("c"));
    let weir = split_site(&[("stable", &stable, "0"), ("canary", &canary, "100")], "").start();
    let mut client = weir.client();
    switch(&mut client);
    assert_eq!(client.exactly(1).unwrap(), b"c");
    weir.shift("shop", "\"stable\":100,\"canary\":0");
    let mut next = weir.client();
    switch(&mut next);
    assert_eq!(next.exactly(1).unwrap(), b"s");
    client.send("still here");
    assert_eq!(client.exactly(10).unwrap(), b"still here");
}

#[test]
fn a_rollback_closes_the_canary_s_websockets_where_the_route_says_so() {
    let (stable, canary) = (echo(""), echo(""));
    let route = "on_move = { close_within = \"200ms\" }";
    let weir = split_site(&[("stable", &stable, "0"), ("canary", &canary, "100")], route).start();
    let mut client = weir.client();
    switch(&mut client);
    // In the middle of a frame the Close waits for its end.
    client.send(b"\x81\x03ab");
    assert_eq!(client.exactly(4).unwrap(), b"\x81\x03ab");
    weir.shift("shop", "\"stable\":100,\"canary\":0");
    let mut next = weir.client();
    switch(&mut next);
    client.send("c");
    assert_eq!(client.exactly(1).unwrap(), b"c");
    assert_eq!(client.exactly(4).unwrap(), [0x88, 2, 0x03, 0xe9], "Close 1001");
    client.send([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9]);
    assert_eq!(client.rest(), b"", "then the end");
    next.send(b"\x81\x01x");
    assert_eq!(next.exactly(3).unwrap(), b"\x81\x01x", "those of the stable version go on");
    eventually("the canary is empty", || canary.open() == 0);
}
