//! Targets that an operator takes out and back in: nothing new goes there, nothing under way is lost.

use crate::support::http2::Http2Upstream;
use crate::support::*;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

fn two(targets: &[&Upstream; 2], route_lines: &str) -> Site {
    let targets = targets.map(|upstream| upstream.addr);
    Site::new().server("workers = 2\nstate_dir = \"state\"").pool("only", &targets, "").toml(&format!(
        "[[route]]\nname = \"all\"\nmatch = {{ path = \"/\" }}\nvariants = {{ stable = \"only\" }}\nweights = {{ stable = 100 }}\n{route_lines}\n",
    ))
}

fn said(output: &std::process::Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn order(weir: &Weir, verb: &str, upstream: &Upstream) -> String {
    said(&weir.cli(&[verb, "only", &upstream.addr.to_string(), "--reason", "a try"]))
}

#[test]
fn a_drained_target_gets_nothing_new_ends_what_it_has_and_stays_out_over_a_restart() {
    let (release, held) = mpsc::channel::<()>();
    let (held, waiting) = (std::sync::Mutex::new(held), Arc::new(AtomicBool::new(false)));
    let is_waiting = Arc::clone(&waiting);
    let slow = Upstream::answering(move |request| {
        if request.path == "/held" {
            is_waiting.store(true, SeqCst);
            let held = held.lock().expect("nobody panics here");
            held.recv_timeout(Duration::from_secs(60)).expect("it is let go");
        }
        Reply::text("one")
    });
    let other = Upstream::answering(|_| Reply::text("two"));
    let weir = two(&[&slow, &other], "").start();
    order(&weir, "drain", &other);
    let mut holding = weir.client();
    holding.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("a request is under way", || waiting.load(SeqCst));
    order(&weir, "enable", &other);
    let out = order(&weir, "drain", &slow);
    assert_eq!(out, format!("only {} is draining: 1 request(s) under way\n", slow.addr));
    let (mut client, before) = (weir.client(), slow.count());
    for _ in 0..100 {
        assert_eq!(client.get("/", "").text(), "two");
    }
    assert_eq!(slow.count(), before);
    release.send(()).expect("the target waits");
    assert_eq!(holding.answer().text(), "one", "what was under way has its answer");
    eventually("its connections are closed", || slow.open() == 0);
    assert_eq!(weir.metric("weir_target_up", &[("target", &slow.addr.to_string())]), 0.0);
    assert_eq!(weir.route("all")["variants"][0]["healthy_targets"], 1);

    let weir = weir.restart("KILL");
    let mut client = weir.client();
    for _ in 0..50 {
        assert_eq!(client.get("/", "").text(), "two");
    }
    assert!(order(&weir, "drain", &slow).contains("as before; nothing was changed"));
    assert_eq!(order(&weir, "enable", &slow), format!("only {} is up: 0 request(s) under way\n", slow.addr));
    let before = slow.count();
    eventually("it gets requests again", || {
        client.get("/", "");
        slow.count() > before
    });
    let audit = std::fs::read_to_string(weir.site.folder.path().join("state/audit.jsonl")).expect("there is one");
    let lines = audit.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("whole lines"));
    let drains: Vec<_> = lines.filter(|line| line["pool"] == "only").collect();
    let actions: Vec<_> = drains.iter().map(|line| line["action"].as_str().unwrap_or("?")).collect();
    assert_eq!(actions, ["drain", "enable", "drain", "enable"]);
    assert!(drains.iter().all(|line| line["reason"] == "a try" && line["result"] == "done"), "{drains:?}");
}

#[test]
fn an_http2_connection_to_a_drained_target_ends_with_its_last_request() {
    let (entered, has_entered) = mpsc::channel();
    let release = Arc::new(tokio::sync::Notify::new());
    let held = Arc::clone(&release);
    let slow = Http2Upstream::answering(100, move |_request: http::Request<hyper::body::Incoming>| {
        let (entered, held) = (entered.clone(), Arc::clone(&held));
        async move {
            entered.send(()).expect("the test waits for it");
            held.notified().await;
            http::Response::new(http_body_util::BodyExt::boxed(http_body_util::Full::new(bytes::Bytes::from("one"))))
        }
    });
    let weir = Site::new().to(slow.addr, "protocol = \"h2\"", "").start();
    let mut client = weir.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    has_entered.recv_timeout(Duration::from_secs(60)).expect("the request arrives");
    let pool = weir.admin("GET", "/api/v1/pools", "", "").json()["pools"][0]["name"].clone();
    let pool = pool.as_str().expect("it has a name").to_owned();
    said(&weir.cli(&["drain", &pool, &slow.addr.to_string()]));
    release.notify_one();
    assert_eq!(client.answer().text(), "one");
    let since = Instant::now();
    eventually("the connection is closed", || slow.open() == 0);
    assert!(since.elapsed() < Duration::from_secs(20), "it was closed as one that is idle for long");
}

#[test]
fn the_last_target_can_be_drained_and_the_answer_says_so() {
    let (one, other) = (Upstream::named("one"), Upstream::named("two"));
    let weir = two(&[&one, &other], "").start();
    order(&weir, "drain", &one);
    assert!(order(&weir, "drain", &other).contains("no target of only is left for new requests"));
    weir.get("/", "").assert_problem(503);
    let refused = weir.cli(&["drain", "only", "127.0.0.1:1"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && why.contains("has no target"), "{why}");
    order(&weir, "enable", &other);
    assert_eq!(weir.get("/", "").text(), "two");
}

#[test]
fn no_request_is_lost_while_targets_are_drained_and_enabled() {
    let (one, other) = (Upstream::named("one"), Upstream::named("two"));
    let weir = two(&[&one, &other], "").start();
    let done = AtomicBool::new(false);
    let served: u64 = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let (mut client, mut served) = (weir.client(), 0);
                    while !done.load(SeqCst) {
                        assert_eq!(client.get("/", "").status, 200);
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        for upstream in [&one, &other, &one, &other, &one, &other] {
            order(&weir, "drain", upstream);
            order(&weir, "enable", upstream);
        }
        done.store(true, SeqCst);
        clients.into_iter().map(|client| client.join().expect("every answer was 200")).sum()
    });
    assert_eq!((one.count() + other.count()) as u64, served);
}
