//! Each time that can be over, provoked by a peer that really is too slow: its own answer, in time, its own counter, and
//! nothing left behind. And clients can shorten what is theirs.

use crate::support::frames::{Client, DATA, GET, HEADERS, POST, block, frame};
use crate::support::*;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Of the time-out in question; the others are as long as they are by default.
const LIMIT: &str = "300ms";
const SHORTEST: Duration = Duration::from_millis(300);
/// Weir promises a tenth of a second more. A machine that runs all tests at once may take longer, no default does.
const LONGEST: Duration = Duration::from_secs(2);

fn timeouts(weir: &Weir, timeout: &str) -> f64 {
    weir.metric("weir_request_timeouts_total", &[("timeout", timeout)])
}

fn errors(weir: &Weir, reason: &str) -> f64 {
    weir.metric("weir_request_errors_total", &[("reason", reason)])
}

fn detail(answer: &Answer, status: u16) -> String {
    answer.assert_problem(status)["detail"].as_str().expect("a problem has a detail").to_owned()
}

/// Does `ask`, which takes as long as the limit and no longer, for which this one time-out is counted with this reason,
/// and after which nothing is under way.
#[track_caller]
fn late(weir: &Weir, (timeout, reason): (&str, &str), ask: impl FnOnce()) {
    let began = Instant::now();
    ask();
    let took = began.elapsed();
    assert!((SHORTEST..LONGEST).contains(&took), "{timeout}: {took:?}");
    eventually(timeout, || timeouts(weir, timeout) == 1.0);
    assert_eq!(weir.metric("weir_request_timeouts_total", &[]), 1.0, "{timeout} and nothing else");
    assert_eq!((errors(weir, reason), weir.metric("weir_request_errors_total", &[])), (1.0, 1.0), "{timeout}");
    eventually("nothing is under way", || weir.metric("weir_requests_in_flight", &[]) == 0.0);
}

/// [`late`], and the target is to blame.
#[track_caller]
fn late_at(weir: &Weir, timeout: &str, ask: impl FnOnce()) {
    late(weir, (timeout, "timeout"), ask);
}

/// Reads what comes and says nothing.
fn silent() -> Upstream {
    Upstream::raw(|mut wire| while matches!(wire.head(), Ok(Some(_))) {})
}

/// Answers with these bytes, and a byte more every 20 ms until nobody takes it.
fn dribbling(begin: &'static str) -> Upstream {
    Upstream::raw(move |mut wire| {
        if let Ok(Some(_)) = wire.head() {
            wire.send(begin);
            while wire.try_send("x").is_ok() {
                pause(Duration::from_millis(20));
            }
        }
    })
}

/// Accepts, and then does nothing until the gate opens.
fn frozen(gate: &Gate) -> Upstream {
    let held = gate.clone();
    Upstream::raw(move |wire| {
        held.pass();
        drop(wire);
    })
}

/// A port whose queue is full: the kernel drops every further SYN. What holds it is to be kept.
fn full() -> (socket2::Socket, Vec<TcpStream>, SocketAddr) {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback has a free port");
    listener.listen(0).expect("it listens");
    let addr = listener.local_addr().ok().and_then(|addr| addr.as_socket()).expect("an address");
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(300)) {
        held.push(stream);
        assert!(held.len() < 100, "the queue of one is never full");
    }
    (listener, held, addr)
}

/// Sends until nothing has been taken for a while, and gives the connection.
fn send_all_that_is_taken(weir: &Weir, head: &str) -> Wire {
    let mut stream = TcpStream::connect(weir.addr("http")).expect("Weir accepts");
    stream.set_write_timeout(Some(Duration::from_millis(50))).expect("a socket takes a time-out");
    std::io::Write::write_all(&mut stream, head.as_bytes()).expect("a head is taken");
    while std::io::Write::write(&mut stream, &[b'x'; 1 << 16]).is_ok() {}
    Wire::new(stream)
}

#[test]
fn a_target_that_accepts_and_never_answers() {
    let upstream = silent();
    let weir = Site::new().to(upstream.addr, "", &format!("timeout = \"{LIMIT}\"")).start();
    late_at(&weir, "response_head", || {
        assert_eq!(detail(&weir.get("/", ""), 504), "the service did not answer in time");
    });
    eventually("the target's connection is closed", || upstream.open() == 0);
}

#[test]
fn a_target_that_begins_a_head_and_never_ends_it() {
    let upstream = dribbling("HTTP/1.1 200 OK\r\nX-A: ");
    let weir = Site::new().to(upstream.addr, "", &format!("timeout = \"{LIMIT}\"")).start();
    late_at(&weir, "response_head", || {
        assert_eq!(detail(&weir.get("/", ""), 504), "the service did not answer in time");
    });
    eventually("the target's connection is closed", || upstream.open() == 0);
}

#[test]
fn a_target_whose_syns_are_dropped() {
    let (_listener, _held, addr) = full();
    let weir = Site::new().to(addr, &format!("connect_timeout = \"{LIMIT}\""), "").start();
    late_at(&weir, "connect", || {
        assert_eq!(detail(&weir.get("/", ""), 504), "the service did not accept a connection in time");
    });
}

#[test]
fn a_target_that_never_finishes_its_tls_handshake() {
    let gate = Gate::default();
    let upstream = frozen(&gate);
    let lines = format!("connect_timeout = \"{LIMIT}\"\ntls = {{ ca = \"ca.pem\" }}");
    let site = Site::new().to(upstream.addr, &lines, "");
    std::fs::write(site.folder.path().join("ca.pem"), Ca::new().pem()).expect("the temporary folder is writable");
    let weir = site.start();
    late_at(&weir, "tls", || {
        assert_eq!(detail(&weir.get("/", ""), 504), "the service did not finish the TLS handshake in time");
    });
    gate.open();
}

#[test]
fn a_target_that_never_reads_an_upload() {
    let gate = Gate::default();
    let upstream = frozen(&gate);
    let weir = Site::new().limits(&format!("body_idle_timeout = \"{LIMIT}\"")).to(upstream.addr, "", "").start();
    late_at(&weir, "send", || {
        let head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 500000000\r\n\r\n";
        let answer = send_all_that_is_taken(&weir, head).answer();
        assert_eq!(detail(&answer, 504), "the service did not take the request in time");
        assert_eq!(answer.head.field("connection"), Some("close"), "the body is not read to its end");
    });
    gate.open();
}

#[test]
fn a_target_that_does_not_even_take_a_head() {
    // With segments this small, the kernel has less room for what is not taken than a long head needs.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    listener.set_recv_buffer_size(1024).expect("a small buffer");
    listener.set_tcp_mss(200).expect("small segments");
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback has a free port");
    listener.listen(16).expect("it listens");
    let addr = listener.local_addr().ok().and_then(|addr| addr.as_socket()).expect("an address");
    let weir = Site::new().limits("max_header_bytes = \"1MiB\"");
    let weir = weir.to(addr, "", &format!("timeout = \"{LIMIT}\"")).start();
    late_at(&weir, "send", || {
        let answer = weir.get("/", &format!("X-Long: {}\r\n", "x".repeat(900_000)));
        assert_eq!(detail(&answer, 504), "the service did not take the request in time");
    });
}

#[test]
fn a_target_that_sends_a_head_and_part_of_a_body_and_stops() {
    let upstream = Upstream::raw(|mut wire| {
        while let Ok(Some(_)) = wire.head() {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        }
    });
    let weir = Site::new().limits(&format!("body_idle_timeout = \"{LIMIT}\"")).to(upstream.addr, "", "").start();
    late_at(&weir, "response_body", || {
        let mut client = weir.client();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(client.try_answer_head().expect("a head").status, 200);
        assert_eq!(client.rest(), b"half");
    });
    eventually("the target's connection is closed", || upstream.open() == 0);
}

#[test]
fn a_target_that_sends_a_head_and_dies_is_no_time_out() {
    let upstream = Upstream::answering(|_| Reply::Reset(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec()));
    let weir = Site::new().to(upstream.addr, "", "request_timeout = \"20s\"").start();
    let began = Instant::now();
    assert!(weir.client().send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").try_answer(false).is_err());
    assert!(began.elapsed() < LONGEST * 5, "{:?}", began.elapsed());
    eventually("it is counted", || errors(&weir, "reset") == 1.0);
    assert_eq!(weir.metric("weir_request_timeouts_total", &[]), 0.0);
}

#[test]
fn a_whole_request_that_takes_too_long_before_its_answer() {
    let gate = Gate::default();
    let (silent, frozen) = (silent(), frozen(&gate));
    let whole = format!("request_timeout = \"{LIMIT}\"");
    let over = "the request took longer than it may here";
    let weir = Site::new().to(silent.addr, "", &whole).start();
    late_at(&weir, "request", || assert_eq!(detail(&weir.get("/", ""), 504), over));
    eventually("the target's connection is closed", || silent.open() == 0);

    let (_listener, _held, full) = full();
    let weir = Site::new().to(full, "connect_timeout = \"20s\"", &whole).start();
    late_at(&weir, "request", || assert_eq!(detail(&weir.get("/", ""), 504), over));

    let weir = Site::new().to(frozen.addr, "", &whole).start();
    late_at(&weir, "request", || {
        let head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 500000000\r\n\r\n";
        assert_eq!(detail(&send_all_that_is_taken(&weir, head).answer(), 504), over);
    });
    gate.open();
}

#[test]
fn the_time_to_the_answer_may_be_over_in_the_queue() {
    let upstream = silent();
    let pool = "max_connections = 1\nqueue_timeout = \"20s\"";
    let patient = "[[route]]\nname = \"patient\"\nmatch = { path = \"/patient\" }\nvariants = { stable = \"only\" }\nweights = { stable = 100 }\n";
    let route = format!("timeout = \"{LIMIT}\"");
    let weir = Site::new().server("workers = 1").to(upstream.addr, pool, &route).toml(patient).start();
    let mut first = weir.client();
    first.send("GET /patient HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the first has the connection", || weir.metric("weir_requests_in_flight", &[]) == 1.0);
    let began = Instant::now();
    weir.get("/", "").assert_problem(504);
    assert!((SHORTEST..LONGEST).contains(&began.elapsed()), "{:?}", began.elapsed());
    eventually("it is counted", || timeouts(&weir, "response_head") == 1.0);
    assert_eq!(errors(&weir, "queue"), 0.0);
    drop(first);
    eventually("nothing is under way", || weir.metric("weir_requests_in_flight", &[]) == 0.0);
}

#[test]
fn a_queue_is_its_own_reason_unless_the_whole_request_took_too_long() {
    let upstream = silent();
    let pool = |queue: &str| format!("max_connections = 1\nqueue_timeout = \"{queue}\"");
    let site = |queue: &str, route: &str| Site::new().server("workers = 1").to(upstream.addr, &pool(queue), route);
    for (weir, timeout, status) in [
        (site(LIMIT, "").start(), None, 503),
        (site("20s", &format!("request_timeout = \"{LIMIT}\"")).start(), Some("request"), 504),
    ] {
        let mut first = weir.client();
        first.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        eventually("the first has the connection", || weir.metric("weir_requests_in_flight", &[]) == 1.0);
        let began = Instant::now();
        weir.get("/", "").assert_problem(status);
        assert!((SHORTEST..LONGEST).contains(&began.elapsed()), "{status}: {:?}", began.elapsed());
        match timeout {
            None => assert_eq!((errors(&weir, "queue"), weir.metric("weir_request_timeouts_total", &[])), (1.0, 0.0)),
            // The first has taken too long, too.
            Some(timeout) => eventually("both are counted", || timeouts(&weir, timeout) == 2.0),
        }
        drop(first);
        eventually("nothing is under way", || weir.metric("weir_requests_in_flight", &[]) == 0.0);
    }
}

#[test]
fn an_answer_that_dribbles_is_cut_when_its_request_takes_too_long() {
    for begin in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n",
    ] {
        let upstream = dribbling(begin);
        let lines = format!("request_timeout = \"{LIMIT}\"\ncompress = [\"gzip\"]");
        let weir = Site::new().to(upstream.addr, "", &lines).start();
        late_at(&weir, "request", || {
            let mut client = weir.client();
            client.send("GET / HTTP/1.1\r\nHost: test\r\nAccept-Encoding: gzip\r\n\r\n");
            assert_eq!(client.try_answer_head().expect("a head").status, 200);
            let rest = client.rest();
            assert!(!rest.ends_with(b"0\r\n\r\n"), "it does not look whole");
        });
        assert_eq!(weir.metric("weir_requests_total", &[("code", "2xx")]), 1.0);
        eventually("the target's connection is closed", || upstream.open() == 0);
    }
}

#[test]
fn an_answer_within_its_request_s_time_is_not_touched() {
    let upstream = Upstream::answering(|_| Reply::text(&"x".repeat(300_000)));
    let weir = Site::new().to(upstream.addr, "", "request_timeout = \"20s\"").start();
    let mut client = weir.client();
    for _ in 0..3 {
        assert_eq!(client.get("/", "").body.len(), 300_000);
    }
    assert_eq!(upstream.connections(), 1);
    assert_eq!(weir.metric("weir_request_timeouts_total", &[]), 0.0);
}

#[test]
fn clients_that_are_too_slow() {
    let big = Upstream::answering(|request| match &*request.path {
        "/big" => Reply::text(&"x".repeat(50_000_000)),
        _ => Reply::text("ok"),
    });
    let limits = format!("body_idle_timeout = \"{LIMIT}\"\nheader_timeout = \"{LIMIT}\"");
    let start = || Site::new().limits(&limits).to(big.addr, "", "").start();

    let weir = start();
    late(&weir, ("client", "client_abort"), || {
        let mut client = weir.client();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhalf");
        assert_eq!(detail(&client.answer(), 408), "the request's body did not arrive in time");
    });

    let weir = start();
    late(&weir, ("client", "client_abort"), || {
        let mut client = weir.client();
        client.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n");
        eventually("it is given up", || timeouts(&weir, "client") == 1.0);
    });

    let weir = start();
    let began = Instant::now();
    let mut client = weir.client();
    client.send("GET / HTTP/1.1\r\nHost: te");
    assert_eq!(client.answer().status, 408);
    assert!((SHORTEST..LONGEST).contains(&began.elapsed()), "{:?}", began.elapsed());
    eventually("it is counted", || weir.metric("weir_header_timeouts_total", &[]) == 1.0);

    // One that goes away is no time-out.
    let weir = start();
    let mut client = weir.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhalf");
    eventually("it is under way", || weir.metric("weir_requests_in_flight", &[]) == 1.0);
    drop(client);
    eventually("it is counted", || errors(&weir, "client_abort") == 1.0);
    assert_eq!(weir.metric("weir_request_timeouts_total", &[]), 0.0);
}

#[test]
fn over_http2_only_the_stream_ends_that_stands_still() {
    let upstream = Upstream::raw(|mut wire| {
        while let Ok(Some(head)) = wire.head() {
            let content = if head.start.starts_with("GET /whole") { "full" } else { "ha" };
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").send(content);
        }
    });
    let weir = Site::new().limits(&format!("body_idle_timeout = \"{LIMIT}\"")).to(upstream.addr, "", "").start();
    let mut client = Client::connect(weir.addr("http"));
    late_at(&weir, "response_body", || {
        client.request(1, &GET, None);
        let whole = [GET[0], GET[1], GET[2], (":path", "/whole")];
        let mut next = 3;
        eventually("the stream is reset", || {
            client.request(next, &whole, None);
            let answer = client.wait(next);
            assert_eq!((answer.status, &answer.data[..], answer.ended), (Some(200), &b"full"[..], true));
            next += 2;
            pause(Duration::from_millis(20));
            client.streams.get(&1).is_some_and(|stream| stream.reset.is_some())
        });
    });
    assert_eq!(client.streams[&1].data, b"ha");
    assert!(client.goaway.is_none() && !client.closed);
}

#[test]
fn over_http2_an_upload_that_stands_still_is_its_client_s_fault() {
    let upstream = silent();
    let weir = Site::new().limits(&format!("body_idle_timeout = \"{LIMIT}\"")).to(upstream.addr, "", "").start();
    late(&weir, ("client", "client_abort"), || {
        let mut client = Client::connect(weir.addr("http"));
        client.send(&frame(HEADERS, frames::END_HEADERS, 1, &block(&POST)));
        client.send(&frame(DATA, 0, 1, b"half"));
        assert_eq!(client.wait(1).status, Some(0), "408 has no byte of its own");
    });
}

#[test]
fn what_a_trusted_proxy_says_shortens_the_time_and_nobody_else_s_word() {
    let slow = Upstream::answering(|_| {
        pause(Duration::from_millis(600));
        Reply::text("slow")
    });
    let trusting = |proxies: &str, timeout: &str| {
        let site = Site::new().server(&format!("trusted_proxies = [{proxies}]"));
        site.to(slow.addr, "", &format!("timeout = \"{timeout}\"")).start()
    };
    let weir = trusting("\"127.0.0.0/8\"", "20s");
    assert_eq!(weir.get("/", "X-Request-Timeout: 60\r\n").text(), "slow", "it may be longer, and changes nothing");
    late_at(&weir, "response_head", || {
        assert_eq!(detail(&weir.get("/", "X-Request-Timeout: 0.3s\r\n"), 504), "the service did not answer in time");
    });
    let stranger = trusting("", "20s");
    assert_eq!(stranger.get("/", "X-Request-Timeout: 100ms\r\n").text(), "slow");
    let short = trusting("\"127.0.0.0/8\"", LIMIT);
    late_at(&short, "response_head", || drop(short.get("/", "X-Request-Timeout: 30s\r\n").assert_problem(504)));
}

#[test]
fn what_a_client_waits_for_and_the_whole_request_s_time_are_not_begun_again_by_retries() {
    let (one, two) = (silent(), silent());
    let start = |lines: &str| {
        let site = Site::new().server("workers = 1\ntrusted_proxies = [\"127.0.0.0/8\"]");
        let route = format!(
            "[[route]]\nname = \"shop\"\nmatch = {{ path = \"/\" }}\nvariants = {{ stable = \"both\" }}\n{lines}\n\
             retry = {{ attempts = 5, on = [\"timeout\"], budget = \"100%\" }}"
        );
        site.pool("both", &[one.addr, two.addr], "").toml(&route).start()
    };
    let weir = start("timeout = \"20s\"");
    late_at(&weir, "response_head", || drop(weir.get("/", "X-Request-Timeout: 300ms\r\n").assert_problem(504)));
    assert_eq!(weir.metric("weir_retries_total", &[]), 0.0);
    let weir = start(&format!("timeout = \"20s\"\nrequest_timeout = \"{LIMIT}\""));
    late_at(&weir, "request", || drop(weir.get("/", "").assert_problem(504)));
    assert_eq!(weir.metric("weir_retries_total", &[]), 0.0);
}
