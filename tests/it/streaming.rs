//! Bodies flow as they come, both ways, no faster than the slower side takes them.

use crate::support::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

const BIG: u64 = 200 * 1024 * 1024;
/// More than the sockets between a stalled reader and a writer hold, far less than the body.
const BUFFERED: u64 = 48 * 1024 * 1024;

/// Answers after the head; `then` says what becomes of the body.
fn early(fields: &'static str, then: impl Fn(&mut Wire) + Send + Sync + 'static) -> Upstream {
    Upstream::raw(move |mut wire| {
        while matches!(wire.head(), Ok(Some(_))) {
            if wire.try_send(format!("HTTP/1.1 200 X\r\nContent-Length: 5\r\n{fields}\r\nearly")).is_err() {
                return;
            }
            then(&mut wire);
        }
    })
}

#[test]
fn a_client_goes_on_after_an_answer_that_came_before_its_body() {
    let upstream = early("", |wire| drop(wire.exactly(100_000)));
    let weir = Site::new().server("workers = 1").to(upstream.addr, "", "").start();
    let mut client = weir.client();
    for _ in 0..20 {
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n");
        let answer = client.answer();
        assert_eq!((answer.status, answer.text()), (200, "early"));
        client.send(vec![b'x'; 100_000]);
    }
    // One may still take the end of a body when the next request comes.
    let connections = upstream.connections();
    assert!(connections <= 3, "the target's connections are used again, too: {connections} for 20 requests");
}

/// The target takes the body only when the client has sent all of it: what the sockets don't hold is Weir's to pass on.
#[test]
fn the_end_of_a_body_behind_an_early_answer_reaches_a_slow_target() {
    const LENGTH: usize = 8 << 20;
    let (sent, taken) = (Gate::default(), Arc::new(AtomicU64::new(0)));
    let (begin, count) = (sent.clone(), Arc::clone(&taken));
    let upstream = early("", move |wire| {
        begin.pass();
        while count.load(SeqCst) < LENGTH as u64 && wire.exactly(4096).is_ok() {
            count.fetch_add(4096, SeqCst);
        }
    });
    let weir = Site::new().server("workers = 1").to(upstream.addr, "", "").start();
    let mut client = weir.client();
    client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {LENGTH}\r\n\r\n"));
    assert_eq!(client.answer().text(), "early");
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..LENGTH / 4096 {
                client.send([b'x'; 4096]);
                written.fetch_add(4096, SeqCst);
            }
        });
        // What is left when all sockets and buffers are full goes when the target begins to read.
        settled("the client stops writing", || written.load(SeqCst));
        sent.open();
    });
    eventually("all of it came", || taken.load(SeqCst) == LENGTH as u64);
}

#[test]
fn a_target_that_answers_early_and_closes_is_announced() {
    let upstream = early("Connection: close\r\n", |wire| drop(wire.exactly(10)));
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n0123456789");
    let answer = client.answer();
    assert_eq!((answer.status, answer.text()), (200, "early"));
    assert_eq!(answer.head.field("connection"), Some("close"));
}

#[test]
fn a_get_with_a_chunked_body_keeps_it() {
    let upstream = Upstream::answering(|request| Reply::text(&String::from_utf8_lossy(&request.body)));
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    client.send("GET /search HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nquery\r\n0\r\n\r\n");
    assert_eq!(client.answer().text(), "query");
    assert_eq!(client.get("/after", "").status, 200);
}

#[test]
fn a_chunked_upload_reaches_the_target_whole() {
    let upstream = Upstream::answering(|request| Reply::text(&request.body.len().to_string()));
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..64 {
        client.send(format!("{:x}\r\n{}\r\n", 8192, "x".repeat(8192)));
    }
    assert_eq!(client.send("0\r\n\r\n").answer().text(), "524288");
    assert_eq!(client.get("/", "").text(), "0");
    assert_eq!(upstream.requests()[0].head.field("transfer-encoding"), Some("chunked"));
}

#[test]
fn an_upload_with_a_length_keeps_it() {
    let upstream = Upstream::answering(|request| Reply::text(&String::from_utf8_lossy(&request.body[..5])));
    let weir = Site::new().to(upstream.addr, "", "").start();
    let body = "hello".repeat(100_000);
    let mut client = weir.client();
    let head = format!("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len());
    assert_eq!(client.send(head).send(&body).answer().text(), "hello");
    let request = upstream.request();
    assert_eq!((request.head.field("content-length"), request.body.len()), (Some("500000"), 500_000));
}

#[test]
fn the_first_chunk_arrives_before_the_last_is_written() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::raw(move |mut wire| {
        let _ = wire.head();
        let _ = wire.try_send("HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        held.pass();
        let _ = wire.try_send("4\r\nlast\r\n0\r\n\r\n");
    });
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    client.try_answer_head().expect("the head comes at once");
    assert_eq!(client.exactly(10).expect("the first chunk comes at once"), b"5\r\nfirst\r\n");
    gate.open();
    assert_eq!(client.exactly(14).expect("the rest"), b"4\r\nlast\r\n0\r\n\r\n");
}

#[test]
fn trailers_pass_both_ways() {
    let upstream = Upstream::answering(|_| {
        Reply::raw(
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: down\r\n\r\n",
        )
    });
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
    let answer = client.send("2\r\nhi\r\n0\r\nX-Sum: up\r\n\r\n").answer();
    assert_eq!((answer.text(), &*answer.trailers), ("ok", &[("x-sum".to_owned(), "down".to_owned())][..]));
    let request = upstream.request();
    assert_eq!((&*request.body, &*request.trailers), (&b"hi"[..], &[("x-sum".to_owned(), "up".to_owned())][..]));
    assert_eq!(client.get("/", "").text(), "ok");
    assert_eq!(weir.metric("weir_request_errors_total", &[]), 0.0, "trailers are an end, not a break");
}

#[test]
fn trailers_end_an_upload() {
    let upstream = Upstream::named("ok");
    let weir = Site::new().server("workers = 1").to(upstream.addr, "", "").start();
    let mut client = weir.client();
    for _ in 0..5 {
        client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: up\r\n\r\n");
        assert_eq!(client.answer().text(), "ok");
    }
    assert_eq!(upstream.connections(), 1, "the target's connection is used again");
}

#[test]
fn early_hints_reach_the_client() {
    let upstream = Upstream::answering(|_| {
        Reply::raw("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nok")
    });
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    for _ in 0..2 {
        let answer = client.get("/", "");
        assert_eq!((answer.status, answer.text(), answer.interim.len()), (200, "ok", 1));
        assert!(answer.interim[0].start.contains("103"), "{:?}", answer.interim);
        assert_eq!(answer.interim[0].field("link"), Some("</a.css>"));
    }
}

#[test]
fn early_hints_reach_nobody_else() {
    let upstream = Upstream::answering(|request| match request.path.as_str() {
        "/hinted" => Reply::raw(
            "HTTP/1.1 103 Early Hints\r\nLink: </private.css>\r\n\r\nHTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nok",
        ),
        _ => Reply::text("plain"),
    });
    let weir = Site::new().server("workers = 1").to(upstream.addr, "", "").start();
    let (mut first, mut second) = (weir.client(), weir.client());
    for _ in 0..20 {
        assert_eq!(first.get("/hinted", "").text(), "ok");
        let other = second.get("/", "");
        assert!(other.interim.is_empty(), "another client's hints: {:?}", other.interim);
    }
}

#[test]
fn a_final_answer_to_expect_comes_without_the_body() {
    let upstream = Upstream::raw(|mut wire| {
        let _ = wire.head();
        let _ = wire.try_send("HTTP/1.1 403 X\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
    });
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    let answer =
        client.send("POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").answer();
    assert_eq!((answer.status, answer.text()), (403, "no"));
    assert!(answer.interim.is_empty(), "nobody asked for the body: {:?}", answer.interim);
}

#[test]
fn a_final_answer_to_expect_holds_no_connection() {
    let upstream = Upstream::raw(|mut wire| {
        let _ = wire.head();
        let _ = wire.try_send("HTTP/1.1 403 X\r\nContent-Length: 2\r\n\r\nno");
        let _ = wire.head();
    });
    let weir = Site::new().to(upstream.addr, "max_connections = 1", "").server("workers = 1").start();
    let expects = "POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    for _ in 0..3 {
        let mut client = weir.client();
        let answer = client.send(expects).answer();
        assert_eq!((answer.status, answer.text()), (403, "no"));
        assert_eq!(answer.head.field("connection"), Some("close"), "where the body would begin is open");
        assert!(client.is_closed());
    }
    eventually("the target's connections are closed", || upstream.open() == 0);
}

#[test]
fn an_expected_continue_comes_and_then_the_body_goes() {
    let upstream = Upstream::raw(|mut wire| {
        let Ok(Some(head)) = wire.head() else { return };
        let _ = wire.try_send("HTTP/1.1 100 Continue\r\n\r\n");
        let body = wire.body(&head, false).map(|(body, _)| body).unwrap_or_default();
        let _ = wire.try_send(format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n", body.len()));
        let _ = wire.try_send(body);
        let _ = wire.head();
    });
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let interim = client.head().expect("an interim answer").expect("an interim answer");
    assert!(interim.start.contains("100"), "{interim:?}");
    let answer = client.send("hello").answer();
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    assert!(answer.interim.is_empty(), "one 100 is enough: {:?}", answer.interim);
}

#[test]
fn a_slow_reader_slows_the_target_down() {
    let written = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&written);
    let upstream = Upstream::raw(move |mut wire| {
        let _ = wire.head();
        let _ = wire.try_send(format!("HTTP/1.1 200 X\r\nContent-Length: {BIG}\r\n\r\n"));
        let part = vec![b'x'; 64 * 1024];
        while counter.load(SeqCst) < BIG && wire.try_send(&part).is_ok() {
            counter.fetch_add(part.len() as u64, SeqCst);
        }
    });
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    client.try_answer_head().expect("a head");
    let stalled_at = settled("the target stops writing", || written.load(SeqCst));
    assert!(stalled_at < BUFFERED, "{stalled_at} bytes were taken from the target for a client that reads nothing");
    for _ in 0..BIG / (1024 * 1024) {
        client.exactly(1024 * 1024).expect("the body goes on");
    }
    assert_eq!(written.load(SeqCst), BIG);
}

#[test]
fn a_slow_target_slows_the_client_down() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::raw(move |mut wire| {
        let _ = wire.head();
        held.pass();
        for _ in 0..BIG / (1024 * 1024) {
            if wire.exactly(1024 * 1024).is_err() {
                return;
            }
        }
        let _ = wire.try_send("HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nok");
        let _ = wire.head();
    });
    let weir = Site::new().to(upstream.addr, "", "timeout = \"60s\"").start();
    let mut client = weir.client();
    client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {BIG}\r\n\r\n"));
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let writer = std::thread::spawn(move || {
        let part = vec![b'x'; 64 * 1024];
        while counter.load(SeqCst) < BIG {
            client.send(&part);
            counter.fetch_add(part.len() as u64, SeqCst);
        }
        client
    });
    let stalled_at = settled("the client stops writing", || sent.load(SeqCst));
    assert!(stalled_at < BUFFERED, "{stalled_at} bytes were taken from the client for a target that reads nothing");
    gate.open();
    let mut client = writer.join().expect("the upload ends");
    assert_eq!(client.answer().text(), "ok");
}
