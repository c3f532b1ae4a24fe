//! Peers that do what they should not: targets that speak HTTP/2 badly, clients at the wrong port, logs that they could
//! fill.

use crate::support::frames::{END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, frame};
use crate::support::*;

const H2: &str = "protocol = \"h2\"";
const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];

/// What a client's HTTP/2 connection brings, frame by frame.
struct Peer {
    wire: Wire,
}

impl Peer {
    /// The client's preface is read, and nothing is said yet.
    fn accept(mut wire: Wire) -> Option<Peer> {
        wire.exactly(24).ok().filter(|preface| preface.starts_with(b"PRI")).map(|_| Peer { wire })
    }
    /// Type, flags and stream of the next frame.
    fn next(&mut self) -> Option<(u8, u8, u32)> {
        let head = self.wire.exactly(9).ok()?;
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        self.wire.exactly(length).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], head[4], stream))
    }
    fn say(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Option<()> {
        self.wire.try_send(frame(kind, flags, stream, payload)).ok()
    }
    /// An answer 200 without content.
    fn answer(&mut self, stream: u32) -> Option<()> {
        self.say(HEADERS, END_HEADERS | END_STREAM, stream, b"\x88")
    }
}

#[test]
fn a_target_that_refuses_every_stream_is_asked_a_few_times_and_no_more() {
    let upstream = Upstream::raw(|wire| {
        let serve = || {
            let mut peer = Peer::accept(wire)?;
            peer.say(SETTINGS, 0, 0, b"")?;
            loop {
                if let (HEADERS, _, stream) = peer.next()? {
                    peer.say(RST_STREAM, 0, stream, &REFUSED_STREAM)?;
                }
            }
        };
        let _: Option<()> = serve();
    });
    let weir = Site::new().to(upstream.addr, H2, "").start();
    for (request, times) in
        [("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1.0), ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", 2.0)]
    {
        weir.client().send(request).answer().assert_problem(502);
        assert_eq!(weir.metric("weir_retries_total", &[]), 8.0 * times);
        assert_eq!(weir.metric("weir_request_errors_total", &[("reason", "reset")]), times);
        assert_eq!(weir.metric("weir_requests_total", &[("code", "5xx")]), times);
    }
}

#[test]
fn a_body_that_a_goaway_leaves_out_is_sent_again() {
    // Answers the first stream of each connection, then says GOAWAY for all after it.
    let upstream = Upstream::raw(|wire| {
        let serve = || {
            let mut peer = Peer::accept(wire)?;
            peer.say(SETTINGS, 0, 0, b"")?;
            loop {
                match peer.next()? {
                    (_, flags, 1) if flags & END_STREAM != 0 => peer.answer(1)?,
                    (_, flags, 3..) if flags & END_STREAM != 0 => peer.say(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])?,
                    _ => {}
                }
            }
        };
        let _: Option<()> = serve();
    });
    let weir = Site::new().server("workers = 1").to(upstream.addr, H2, "").start();
    let mut client = weir.client();
    for nth in 0..6 {
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n2\r\nab\r\n0\r\nx-sum: 1\r\n\r\n";
        let answer = client.send(chunked).answer();
        assert_eq!(answer.status, 200, "request {nth}: {answer:?}");
    }
    assert!(weir.metric("weir_retries_total", &[]) >= 1.0);
    assert_eq!(weir.metric("weir_request_errors_total", &[]), 0.0);
}

#[test]
fn a_target_is_asked_nothing_before_it_has_said_how_much_it_takes() {
    let gate = Gate::default();
    let early = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (opened, seen) = (gate.clone(), std::sync::Arc::clone(&early));
    let upstream = Upstream::raw(move |wire| {
        let serve = || {
            let mut peer = Peer::accept(wire)?;
            opened.pass();
            peer.say(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1])?;
            let (mut agreed, mut open) = (false, 0);
            loop {
                match peer.next()? {
                    (SETTINGS, 1, _) => agreed = true,
                    (HEADERS, _, stream) => {
                        open += 1;
                        if !agreed || open > 1 {
                            seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        }
                        peer.answer(stream)?;
                        open -= 1;
                    }
                    _ => {}
                }
            }
        };
        let _: Option<()> = serve();
    });
    let weir = Site::new().server("workers = 1").to(upstream.addr, H2, "").start();
    let mut clients: Vec<Wire> = (0..10).map(|_| weir.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("all wait", || weir.metric("weir_requests_in_flight", &[]) == 10.0);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    assert_eq!(early.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn who_speaks_http_to_a_tls_port_is_told_so() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let weir = https_site(&[("site", &ca.leaf(&["localhost"]))], "", upstream.addr).start();
    let mut client = Wire::connect(weir.addr("https"));
    let answer = client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer();
    assert_eq!((answer.status, answer.text()), (400, "this port speaks TLS: ask with https://\n"));
    assert!(client.is_closed());
    eventually("the log says why", || weir.log().contains("it speaks HTTP without TLS"));
    eventually("it is counted", || weir.metric("weir_tls_handshakes_total", &[("outcome", "failed")]) == 1.0);
    assert_eq!(TlsClient::new(&ca).connect(weir.addr("https")).0.get("/", "").text(), "hello");
}

#[test]
fn who_speaks_tls_to_a_plain_port_is_refused_and_the_log_says_so() {
    let upstream = Upstream::named("hello");
    let weir = Site::new().to(upstream.addr, "", "").start();
    let refusal = TlsClient::new(&Ca::new()).try_connect(weir.addr("http")).map(drop).expect_err("no TLS there");
    assert!(!refusal.is_empty());
    eventually("the log says why", || weir.log().contains("it speaks TLS, and the listener does not"));
    assert_eq!((upstream.count(), weir.get("/", "").status), (0, 200));
}

#[test]
fn a_client_cannot_fill_the_log() {
    let upstream = Upstream::named("hello");
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    client.send(frame(SETTINGS, 0, 0, b""));
    let before = weir.log().lines().count();
    for _ in 0..500 {
        // An answer to a PING that nobody sent.
        client.send(frame(PING, 1, 0, b"whatever"));
    }
    client.send(frame(PING, 0, 0, b"are you "));
    eventually("all is read", || client.exactly(1).is_ok());
    assert_eq!(weir.get("/", "").status, 200);
    assert!(weir.log().lines().count() < before + 5, "{}", weir.log());
}

#[test]
fn a_client_that_offers_http_1_0_alone_is_served() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let weir = https_site(&[("site", &ca.leaf(&["localhost"]))], "", upstream.addr).start();
    let (mut wire, shown) = TlsClient::new(&ca).alpn(&["http/1.0"]).connect(weir.addr("https"));
    assert_eq!(shown.alpn.as_deref(), Some("http/1.0"));
    assert_eq!(wire.send("GET / HTTP/1.0\r\n\r\n").answer().text(), "hello");
    assert!(TlsClient::new(&ca).alpn(&["spdy/3"]).try_connect(weir.addr("https")).is_err());
}
