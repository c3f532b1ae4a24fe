//! SIGTERM: nothing in flight is lost, nothing new is taken, the process ends with 0.

use crate::support::weir::SHORT;
use crate::support::*;
use crate::tunnels::{echo, switch};

fn held_site(server: &str) -> (Gate, Upstream, Weir) {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::answering(move |request| {
        if request.path == "/held" {
            held.pass();
        }
        Reply::text("whole")
    });
    let weir = Site::new().server(server).to(upstream.addr, "", "timeout = \"60s\"").start();
    (gate, upstream, weir)
}

#[test]
fn a_request_in_flight_is_finished() {
    let (gate, upstream, mut weir) = held_site("workers = 2");
    let mut client = weir.client();
    client.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the request is at the target", || upstream.count() == 1);
    let http = weir.addr("http");
    weir.signal("TERM");
    eventually("new clients are not taken", || std::net::TcpStream::connect(http).is_err());
    gate.open();
    let answer = client.answer();
    assert_eq!((answer.status, answer.text()), (200, "whole"));
    assert!(client.is_closed());
    assert_eq!(weir.exit().code(), Some(0));
}

#[test]
fn readiness_fails_while_draining() {
    let (gate, upstream, mut weir) = held_site("workers = 2");
    assert_eq!(weir.admin("GET", "/readyz", "", "").status, 200);
    let mut client = weir.client();
    client.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the request is at the target", || upstream.count() == 1);
    weir.signal("TERM");
    eventually("readiness fails", || weir.admin("GET", "/readyz", "", "").status == 503);
    assert_eq!(weir.admin("GET", "/healthz", "", "").status, 200);
    gate.open();
    assert_eq!(client.answer().status, 200);
    assert_eq!(weir.exit().code(), Some(0));
}

#[test]
fn idle_connections_do_not_hold_it_up() {
    let (_gate, _upstream, mut weir) = held_site("workers = 2");
    let mut idle: Vec<Wire> = (0..10).map(|_| weir.client()).collect();
    idle.iter_mut().for_each(|client| assert_eq!(client.get("/", "").status, 200));
    weir.signal("TERM");
    assert_eq!(weir.exit().code(), Some(0));
    assert!(idle.iter_mut().all(Wire::is_closed));
}

#[test]
fn a_client_that_connected_and_says_nothing_does_not_hold_it_up() {
    let (_gate, _upstream, mut weir) = held_site("workers = 2\ndrain_timeout = \"60s\"");
    let mut silent: Vec<Wire> = (0..10).map(|_| weir.client()).collect();
    eventually("they are accepted", || weir.metric("weir_connections", &[("listener", "http")]) == 10.0);
    let asked = std::time::Instant::now();
    weir.signal("TERM");
    assert_eq!(weir.exit().code(), Some(0));
    assert!(asked.elapsed().as_secs() < 30, "it waited {:?}", asked.elapsed());
    assert!(silent.iter_mut().all(Wire::is_closed));
}

#[test]
fn clients_queued_in_the_kernel_are_answered() {
    let (_gate, _upstream, mut weir) = held_site("workers = 2");
    weir.signal("STOP");
    let mut queued: Vec<Wire> = (0..400).map(|_| weir.client()).collect();
    for client in &mut queued {
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    weir.signal("TERM");
    weir.signal("CONT");
    let answered = queued.iter_mut().filter_map(|client| client.try_answer(false).ok()).count();
    assert_eq!(answered, 400);
    assert_eq!(weir.exit().code(), Some(0));
}

#[test]
fn the_drain_ends_at_its_time_out() {
    let (_gate, upstream, mut weir) = held_site(&format!("workers = 2\ndrain_timeout = \"{SHORT}\""));
    let mut client = weir.client();
    client.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the request is at the target", || upstream.count() == 1);
    weir.signal("TERM");
    assert_eq!(weir.exit().code(), Some(0), "{}", weir.log());
    assert!(client.try_answer(false).is_err());
    eventually("it says what was cut", || weir.log().contains("stopped finished=0 cut=1 cut_requests=1 cut_tunnels=0"));
}

#[test]
fn clients_that_arrive_while_it_stops_are_refused_or_answered() {
    let (_gate, _upstream, mut weir) = held_site("workers = 2");
    let http = weir.addr("http");
    std::thread::scope(|scope| {
        let knocking = (0..4).map(|_| {
            scope.spawn(move || {
                let mut served = 0;
                while let Ok(stream) = std::net::TcpStream::connect(http) {
                    let mut client = Wire::new(stream);
                    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
                    assert_eq!(client.try_answer(false).expect("a connection that was taken is served").status, 200);
                    served += 1;
                }
                served
            })
        });
        let knocking: Vec<_> = knocking.collect();
        eventually("clients are served", || weir.metric("weir_requests_total", &[("code", "2xx")]) > 50.0);
        weir.signal("TERM");
        for thread in knocking {
            assert!(thread.join().expect("no connection was dropped") > 0);
        }
    });
    assert_eq!(weir.exit().code(), Some(0));
}

#[test]
fn what_was_finished_is_counted() {
    let (gate, upstream, mut weir) = held_site("workers = 2");
    let mut clients: Vec<Wire> = (0..5).map(|_| weir.client()).collect();
    assert_eq!(clients[0].get("/", "").status, 200, "before the drain");
    clients.iter_mut().for_each(|client| {
        client.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
    });
    eventually("the requests are at the target", || upstream.count() == 6);
    weir.signal("TERM");
    eventually("it drains", || weir.log().contains("draining for"));
    gate.open();
    assert!(clients.iter_mut().all(|client| client.answer().status == 200));
    assert_eq!(weir.exit().code(), Some(0));
    eventually("it says so", || weir.log().contains("stopped finished=5 cut=0 cut_requests=0 cut_tunnels=0"));
}

const CLOSE: [u8; 4] = [0x88, 2, 0x03, 0xe9];

#[test]
fn websockets_stay_until_shortly_before_the_deadline_and_end_with_a_close() {
    let upstream = echo("");
    let mut weir = Site::new().server("workers = 2\ndrain_timeout = \"6s\"").to(upstream.addr, "", "").start();
    let mut client = weir.client();
    switch(&mut client);
    weir.signal("TERM");
    let asked = std::time::Instant::now();
    eventually("it drains", || weir.log().contains("draining for"));
    client.send(b"\x81\x01x");
    assert_eq!(client.exactly(3).unwrap(), b"\x81\x01x", "it goes on meanwhile");
    assert_eq!(client.exactly(4).unwrap(), CLOSE, "going away");
    assert!(asked.elapsed().as_millis() >= 4400, "told after {:?}", asked.elapsed());
    client.send([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9]);
    assert_eq!(client.rest(), b"", "then the end");
    assert_eq!(weir.exit().code(), Some(0));
    eventually("nothing was cut", || weir.log().contains("cut=0 cut_requests=0 cut_tunnels=0"));
}

#[test]
fn a_websocket_that_does_not_answer_the_close_is_cut_at_the_deadline() {
    let upstream = echo("");
    let mut weir = Site::new().server("workers = 1\ndrain_timeout = \"1s\"").to(upstream.addr, "", "").start();
    let mut client = weir.client();
    switch(&mut client);
    // In the middle of a frame there is no place for a Close.
    client.send(b"\x81\x03ab");
    assert_eq!(client.exactly(4).unwrap(), b"\x81\x03ab");
    weir.signal("TERM");
    assert_eq!(weir.exit().code(), Some(0));
    assert_eq!(client.rest(), b"");
    eventually("it says so", || weir.log().contains("cut=1 cut_requests=0 cut_tunnels=1"));
}

#[test]
fn a_route_s_on_move_lets_its_websockets_go_early() {
    let upstream = echo("");
    let on_move = "on_move = { close_within = \"200ms\" }";
    let mut weir = Site::new().server("workers = 2\ndrain_timeout = \"60s\"").to(upstream.addr, "", on_move).start();
    let mut client = weir.client();
    switch(&mut client);
    weir.signal("TERM");
    assert_eq!(client.exactly(4).unwrap(), CLOSE);
    client.send([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9]);
    assert_eq!(client.rest(), b"");
    assert_eq!(weir.exit().code(), Some(0));
}
