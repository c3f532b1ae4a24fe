//! Targets that fail: a short problem document for the client, one count under the right reason, and the next request
//! served.

use crate::support::weir::SHORT;
use crate::support::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const CLOSED_WORD: &str = "HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nhello";

fn errors(weir: &Weir, reason: &str) -> f64 {
    weir.metric("weir_request_errors_total", &[("route", "all"), ("variant", "stable"), ("reason", reason)])
}

#[test]
fn a_target_that_refuses_is_a_502() {
    let weir = Site::new().to(refused_port(), "", "").start();
    let mut client = weir.client();
    for _ in 0..3 {
        client.get("/", "").assert_problem(502);
    }
    eventually("three failures are counted", || errors(&weir, "connect") == 3.0);
    assert_eq!(weir.metric("weir_requests_total", &[("route", "all"), ("code", "5xx")]), 3.0);
    assert_eq!(weir.metric("weir_target_up", &[("pool", "only")]), 0.0);
}

#[test]
fn refusals_are_logged_at_most_once_a_second() {
    let target = refused_port();
    let weir = Site::new().server("workers = 1").to(target, "", "").start();
    let mut client = weir.client();
    let started = std::time::Instant::now();
    (0..200).for_each(|_| drop(client.get("/", "")));
    eventually("the failure is logged", || weir.log().contains(&target.to_string()));
    let lines = weir.log().lines().filter(|line| line.contains(&target.to_string())).count() as u64;
    assert!(lines <= 2 + started.elapsed().as_secs(), "{lines} lines:\n{}", weir.log());
}

#[test]
fn a_target_that_resets_is_a_502() {
    let upstream = Upstream::answering(|_| Reply::Reset(Vec::new()));
    let weir = Site::new().to(upstream.addr, "", "").start();
    let post = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi";
    weir.client().send(post).answer().assert_problem(502);
    assert_eq!(upstream.count(), 1, "a POST is sent once");
    eventually("the reset is counted", || errors(&weir, "reset") == 1.0);
}

#[test]
fn a_target_that_says_nothing_is_a_504() {
    let upstream = Upstream::raw(|mut wire| while matches!(wire.head(), Ok(Some(_))) {});
    let weir = Site::new().to(upstream.addr, "", &format!("timeout = \"{SHORT}\"")).start();
    let mut client = weir.client();
    client.get("/", "").assert_problem(504);
    client.get("/", "").assert_problem(504);
    eventually("the time-outs are counted", || errors(&weir, "timeout") == 2.0);
    eventually("the abandoned connections are closed", || upstream.open() == 0);
}

#[test]
fn a_target_that_does_not_accept_times_out() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).expect("loopback has a free port");
    socket.listen(0).expect("a bound socket listens");
    let addr = socket.local_addr().ok().and_then(|addr| addr.as_socket()).expect("a bound socket has an address");
    // The queue of a listener that never accepts takes two or so; what comes then hears nothing.
    let wait = std::time::Duration::from_millis(200);
    let full: Vec<_> = (0..8).filter_map(|_| std::net::TcpStream::connect_timeout(&addr, wait).ok()).collect();
    assert!(full.len() < 8, "the listener's queue does not fill");
    let weir = Site::new().to(addr, &format!("connect_timeout = \"{SHORT}\""), "").start();
    let answer = weir.get("/", "");
    answer.assert_problem(504);
    eventually("it is counted", || errors(&weir, "connect") + errors(&weir, "timeout") == 1.0);
}

#[test]
fn an_answer_with_two_lengths_is_a_502() {
    let both = "HTTP/1.1 200 X\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let upstream = Upstream::answering(move |_| Reply::raw(both));
    let weir = Site::new().to(upstream.addr, "", "").start();
    weir.get("/", "").assert_problem(502);
    eventually("it is counted", || errors(&weir, "bad_response") == 1.0);
}

#[test]
fn garbage_is_a_502_and_does_not_reach_the_client() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/1.1 200 X\r\nContent-Length: 1, 2\r\n\r\nab",
        "HTTP/1.1 200 X\r\nNo colon here\r\n\r\n",
    ] {
        let upstream = Upstream::answering(move |_| Reply::last(garbage));
        let weir = Site::new().to(upstream.addr, "", "").start();
        weir.get("/", "").assert_problem(502);
        eventually("it is counted", || errors(&weir, "bad_response") == 1.0);
    }
}

#[test]
fn a_cut_answer_is_cut_for_the_client_too() {
    let chunked = "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for cut in [CLOSED_WORD, chunked] {
        let upstream = Upstream::answering(move |_| Reply::last(cut));
        let weir = Site::new().to(upstream.addr, "", "").start();
        for nth in 1..=20 {
            let mut client = weir.client();
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
            // What is counted as a 2xx reached the client as one, also where the end came together with the head.
            let head = client.head().expect("a head").expect("a head");
            assert!(head.start.starts_with("HTTP/1.1 200"), "{head:?}");
            let body = client.body(&head, false);
            assert!(body.is_err(), "a cut body was made whole: {body:?}");
            eventually("it is counted", || errors(&weir, "reset") == f64::from(nth));
            assert_eq!(weir.metric("weir_requests_total", &[("route", "all"), ("code", "2xx")]), f64::from(nth));
        }
    }
}

#[test]
fn a_client_that_leaves_is_counted_and_its_target_released() {
    let upstream = Upstream::raw(|mut wire| {
        let _ = wire.head();
        let _ = wire.try_send("HTTP/1.1 200 X\r\nContent-Length: 100000000\r\n\r\n");
        while wire.try_send([b'x'; 4096]).is_ok() {}
    });
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    client.exactly(10_000).expect("the body starts");
    drop(client);
    eventually("the abort is counted", || errors(&weir, "client_abort") == 1.0);
    eventually("the target is let go", || upstream.open() == 0);
    assert_eq!(weir.metric("weir_requests_in_flight", &[("route", "all")]), 0.0);
}

#[test]
fn a_client_that_leaves_before_the_head_is_counted_as_none() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::answering(move |_| {
        held.pass();
        Reply::text("late")
    });
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the request is at the target", || upstream.count() == 1);
    drop(client);
    eventually("it is counted", || weir.metric("weir_requests_total", &[("route", "all"), ("code", "none")]) == 1.0);
    assert_eq!(errors(&weir, "client_abort"), 1.0);
    gate.open();
}

#[test]
fn a_kept_connection_that_died_is_replaced_for_a_get() {
    let upstream = Upstream::answering(|request| match request.turn {
        0 => Reply::text("first"),
        _ => Reply::Last(Vec::new()),
    });
    let weir = Site::new().server("workers = 1").to(upstream.addr, "", "").start();
    let mut client = weir.client();
    assert_eq!(client.get("/", "").text(), "first");
    // A request is kept for a second try when its connection has lain idle, not when it goes from hand to hand.
    let idle_since = std::time::Instant::now();
    eventually("the connection has lain idle", || idle_since.elapsed().as_millis() > 200);
    assert_eq!(client.get("/again", "").text(), "first");
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn a_kept_connection_that_died_under_a_post_is_a_502() {
    let upstream = Upstream::answering(|request| match request.turn {
        0 => Reply::text("first"),
        _ => Reply::Last(Vec::new()),
    });
    let weir = Site::new().server("workers = 1").to(upstream.addr, "", "").start();
    let mut client = weir.client();
    assert_eq!(client.get("/", "").text(), "first");
    let post = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi";
    client.send(post).answer().assert_problem(502);
    assert_eq!(upstream.requests().iter().filter(|request| request.method == "POST").count(), 1);
}

#[test]
fn a_connection_that_the_target_closed_while_idle_is_not_used() {
    let upstream = Upstream::answering(|_| Reply::last("HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nok"));
    let weir = Site::new().server("workers = 1").to(upstream.addr, "", "").start();
    let mut client = weir.client();
    for turn in 1..=10 {
        let post = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(client.send(post).answer().status, 200, "request {turn}");
        eventually("the target has closed", || upstream.open() == 0);
        // One turn through the worker, so that the close has reached it.
        assert_eq!(weir.get("/", "").status, 200);
        eventually("the target has closed", || upstream.open() == 0);
    }
}

#[test]
fn a_full_pool_queues_and_then_says_503() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::answering(move |_| {
        held.pass();
        Reply::text("done")
    });
    let pool = format!("max_connections = 1\nqueue_timeout = \"{SHORT}\"");
    let weir = Site::new().server("workers = 1").to(upstream.addr, &pool, "").start();
    let (mut first, mut second) = (weir.client(), weir.client());
    first.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the first is at the target", || upstream.count() == 1);
    second.get("/", "").assert_problem(503);
    eventually("it is counted", || errors(&weir, "queue") == 1.0);
    second.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    gate.open();
    assert_eq!((first.answer().text(), second.answer().text()), ("done", "done"));
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_reused_connection_carries_nothing_over() {
    let upstream = Upstream::answering(|_| {
        Reply::raw("HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\nevil")
    });
    let weir = Site::new().server("workers = 1").to(upstream.addr, "", "").start();
    let mut client = weir.client();
    for _ in 0..5 {
        let answer = client.get("/", "");
        assert_ne!(answer.text(), "evil", "bytes beyond an answer became another's answer");
    }
}

#[test]
fn a_get_that_its_target_dies_of_does_not_take_all_connections_along() {
    let (died, warm) = (Arc::new(AtomicUsize::new(0)), Gate::default());
    let (count, gate) = (Arc::clone(&died), warm.clone());
    let upstream = Upstream::raw(move |mut wire| {
        while let Ok(Some(head)) = wire.head() {
            if head.start.contains("/poison") {
                count.fetch_add(1, SeqCst);
                return;
            }
            gate.pass();
            let _ = wire.try_send("HTTP/1.1 200 X\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let weir = Site::new().server("workers = 1").to(upstream.addr, "", "").start();
    std::thread::scope(|scope| {
        (0..30).for_each(|_| drop(scope.spawn(|| assert_eq!(weir.get("/", "").status, 200))));
        eventually("thirty connections are open", || upstream.connections() == 30);
        warm.open();
    });
    settled("the connections are idle", || upstream.connections() as u64);
    assert_eq!(weir.get("/poison", "").status, 502);
    assert!((2..=10).contains(&died.load(SeqCst)), "{} connections died", died.load(SeqCst));
}

/// The target closes with the body unread, and its kernel resets the connection: Weir's next write fails.
#[test]
fn an_early_answer_is_heard_before_the_reset_that_follows_it() {
    let upstream = Upstream::raw(|mut wire| {
        if let Ok(Some(_)) = wire.head() {
            let _ = wire.try_send("HTTP/1.1 413 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let weir = Site::new().to(upstream.addr, "", "").start();
    let body = "x".repeat(300_000);
    for at in 0..100 {
        let mut client = weir.client();
        // The answer may come while this is being sent.
        let _ =
            client.try_send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        assert_eq!(client.answer().status, 413, "upload {at}");
    }
    assert_eq!(errors(&weir, "reset"), 0.0);
}
