//! Each time that can be over has an answer and a counter of its own, and clients can shorten what is theirs.

use crate::support::*;
use std::time::{Duration, Instant};

fn timeouts(weir: &Weir, timeout: &str) -> f64 {
    weir.metric("weir_request_timeouts_total", &[("timeout", timeout)])
}

fn detail(answer: &Answer, status: u16) -> String {
    answer.assert_problem(status)["detail"].as_str().expect("a problem has a detail").to_owned()
}

/// Reads heads and says nothing.
fn silent() -> Upstream {
    Upstream::raw(|mut wire| while matches!(wire.head(), Ok(Some(_))) {})
}

#[test]
fn a_head_that_does_not_come_and_a_whole_request_that_takes_too_long() {
    let upstream = silent();
    let weir = Site::new().to(upstream.addr, "", "timeout = \"200ms\"").start();
    assert_eq!(detail(&weir.get("/", ""), 504), "the service did not answer in time");
    eventually("it is counted", || timeouts(&weir, "response_head") == 1.0);
    assert_eq!(weir.metric("weir_request_timeouts_total", &[]), 1.0, "and nothing else");

    let weir = Site::new().to(upstream.addr, "", "request_timeout = \"200ms\"").start();
    assert_eq!(detail(&weir.get("/", ""), 504), "the request took longer than it may here");
    eventually("it is counted", || timeouts(&weir, "request") == 1.0);
    assert_eq!(weir.metric("weir_request_errors_total", &[("reason", "timeout")]), 1.0);
}

#[test]
fn an_answer_that_dribbles_is_cut_when_its_request_takes_too_long() {
    let upstream = Upstream::raw(|mut wire| {
        if let Ok(Some(_)) = wire.head() {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
            while wire.try_send("x").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    });
    let weir = Site::new().to(upstream.addr, "", "request_timeout = \"300ms\"").start();
    let began = Instant::now();
    assert!(weir.client().send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").try_answer(false).is_err());
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
    eventually("it is counted", || timeouts(&weir, "request") == 1.0);
    assert_eq!(weir.metric("weir_requests_total", &[("code", "2xx")]), 1.0);
    assert_eq!(weir.metric("weir_request_errors_total", &[("reason", "timeout")]), 1.0);
    eventually("the target's connection is closed", || upstream.open() == 0);
}

#[test]
fn a_request_s_body_is_late_by_its_client_and_an_answer_s_by_its_target() {
    let upstream = Upstream::raw(|mut wire| {
        while let Ok(Some(head)) = wire.head() {
            if head.start.starts_with("GET") {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            }
        }
    });
    let weir = Site::new().limits("body_idle_timeout = \"300ms\"").to(upstream.addr, "", "").start();
    let mut client = weir.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhalf");
    eventually("it is counted", || timeouts(&weir, "client") == 1.0);
    assert!(weir.client().send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").try_answer(false).is_err());
    eventually("it is counted", || timeouts(&weir, "response_body") == 1.0);
    assert_eq!(weir.metric("weir_request_timeouts_total", &[]), 2.0);
}

#[test]
fn a_target_that_takes_no_more_of_a_request() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::raw(move |mut wire| {
        let _ = wire.head();
        held.pass();
    });
    let weir = Site::new().limits("body_idle_timeout = \"300ms\"").to(upstream.addr, "", "").start();
    let mut client = weir.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 50000000\r\n\r\n");
    let piece = vec![b'x'; 1 << 16];
    while client.try_send(&piece).is_ok() && timeouts(&weir, "send") == 0.0 {}
    eventually("it is counted", || timeouts(&weir, "send") == 1.0);
    assert_eq!(weir.metric("weir_request_errors_total", &[("reason", "timeout")]), 1.0);
    gate.open();
}

#[test]
fn what_a_trusted_proxy_says_shortens_the_time_and_nobody_else_s_word() {
    let slow = Upstream::answering(|_| {
        std::thread::sleep(Duration::from_millis(400));
        Reply::text("slow")
    });
    let trusting = |proxies: &str| {
        Site::new().server(&format!("trusted_proxies = [{proxies}]")).to(slow.addr, "", "timeout = \"5s\"").start()
    };
    let weir = trusting("\"127.0.0.0/8\"");
    assert_eq!(detail(&weir.get("/", "X-Request-Timeout: 100ms\r\n"), 504), "the service did not answer in time");
    assert_eq!(weir.get("/", "X-Request-Timeout: 60\r\n").text(), "slow", "it may be longer, and changes nothing");
    assert_eq!(trusting("").get("/", "X-Request-Timeout: 100ms\r\n").text(), "slow");
    let short =
        Site::new().server("trusted_proxies = [\"127.0.0.0/8\"]").to(slow.addr, "", "timeout = \"100ms\"").start();
    short.get("/", "X-Request-Timeout: 30s\r\n").assert_problem(504);
}
