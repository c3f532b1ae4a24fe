//! More than there is room for: descriptors that run out, queues that are full, limits of routes and clients.

use crate::support::http2::{Body, block_on, connect, post};
use crate::support::weir::weir_command;
use crate::support::*;
use http::StatusCode;
use hyper::client::conn::http2::SendRequest;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// `weir serve` with the site's file and so many descriptors.
fn with_descriptors(site: &Site, most: usize) -> Command {
    let mut command = Command::new("sh");
    let file = site.file();
    let serve = weir_command(&[]);
    let binary = serve.get_program();
    command.args(["-c", &format!("ulimit -n {most}; exec \"$0\" serve --config \"$1\""), &binary.to_string_lossy()]);
    command.arg(file);
    command
}

fn flood(to: SocketAddr, connections: usize) -> Vec<TcpStream> {
    (0..connections).map(|_| TcpStream::connect(to).expect("the kernel's queue has room")).collect()
}

/// The CPU time that a process has used, in seconds.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let after_name = stat.rsplit(')').next().expect("a name in brackets");
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

fn answers(weir: &Weir) -> bool {
    let mut client = weir.client();
    client.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").is_ok()
        && client.try_answer(false).is_ok_and(|answer| answer.status == 200)
}

/// While a thousand clients hold all that there is, and after.
fn withstands_a_thousand(weir: &mut Weir, family: &str) {
    let mut known = weir.client();
    assert_eq!(known.get("/", "").status, 200);
    let clients = flood(weir.addr("http"), 1000);
    eventually("accepting pauses", || weir.metric(family, &[]) >= 1.0);
    let (before, since) = (cpu(weir.pid()), Instant::now());
    eventually("a second has passed", || {
        assert_eq!(weir.admin("GET", "/healthz", "", "").status, 200, "the admin API answers");
        since.elapsed() > Duration::from_secs(1)
    });
    assert!(cpu(weir.pid()) - before < 0.5 * since.elapsed().as_secs_f64(), "it does not spin");
    assert_eq!(known.get("/", "").status, 200, "who was there before is served");
    drop(clients);
    eventually("new clients are served", || answers(weir));
    for _ in 0..20 {
        assert_eq!(weir.get("/", "").status, 200);
    }
}

#[test]
fn with_256_descriptors_a_thousand_clients_wait_and_nothing_else_does() {
    let upstream = Upstream::named("ok");
    let site = Site::new().to(upstream.addr, "", "");
    let command = with_descriptors(&site, 256);
    let mut weir = Weir::start_by(site, command);
    eventually("what to do is said", || weir.log().contains("LimitNOFILE="));
    withstands_a_thousand(&mut weir, "weir_accept_paused_total");
    assert_eq!(weir.metric("weir_accept_failures_total", &[]), 0.0, "the budget was kept");
    assert_eq!(weir.metric("weir_request_errors_total", &[("reason", "connect")]), 0.0);
}

#[test]
fn a_limit_lowered_while_it_runs_is_withstood_too() {
    let upstream = Upstream::named("ok");
    let mut weir = Site::new().to(upstream.addr, "", "").start();
    let pid = Pid::from_raw(i32::try_from(weir.pid()).expect("a process id"));
    let lowered = Rlimit { current: Some(256), maximum: Some(256) };
    prlimit(pid, Resource::Nofile, lowered).expect("the child is ours");
    withstands_a_thousand(&mut weir, "weir_accept_failures_total");
}

/// Thirty-five connections to targets, and all but five are idle ones of the first pool when thirty requests want one of
/// the second.
#[test]
fn a_pool_gets_what_another_s_idle_connections_hold() {
    let (first, gate) = (Upstream::named("first"), Gate::default());
    let inner = gate.clone();
    let second = Upstream::answering(move |_| {
        inner.pass();
        Reply::text("second")
    });
    let route = "[[route]]\nname = \"b\"\nmatch = { path = \"/b\" }\nvariants = { stable = \"b\" }\n";
    let site = Site::new().server("workers = 1").to(first.addr, "", "");
    let site = site.pool("b", &[second.addr], "queue_timeout = \"25s\"").toml(route);
    let command = with_descriptors(&site, 128);
    let weir = Weir::start_by(site, command);
    let mut clients: Vec<Wire> = (0..30).map(|_| weir.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    clients.iter_mut().for_each(|client| assert_eq!(client.answer().text(), "first"));
    for client in &mut clients {
        client.send("GET /b HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    eventually("all are at the second pool's target", || second.count() == 30);
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.answer().text(), "second"));
    assert_eq!(weir.metric("weir_request_errors_total", &[]), 0.0);
}

/// A target that holds its answers back.
fn held(pool: &str) -> (Gate, Upstream, Weir) {
    let gate = Gate::default();
    let inner = gate.clone();
    let upstream = Upstream::answering(move |_| {
        inner.pass();
        Reply::text("done")
    });
    let weir = Site::new().server("workers = 1").to(upstream.addr, pool, "").start();
    (gate, upstream, weir)
}

#[test]
fn a_full_queue_refuses_at_once() {
    let (gate, upstream, weir) = held("max_connections = 1\nmax_pending = 1\nqueue_timeout = \"60s\"");
    let (mut first, mut second) = (weir.client(), weir.client());
    first.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the first is at the target", || upstream.count() == 1);
    second.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let pending = || weir.metric("weir_pool_requests_pending", &[("pool", "only")]);
    eventually("the second waits", || pending() == 1.0);
    weir.get("/", "").assert_problem(503);
    eventually("it is counted", || weir.metric("weir_request_errors_total", &[("reason", "queue")]) == 1.0);
    assert_eq!(weir.metric("weir_pool_queue_refused_total", &[("pool", "only"), ("reason", "full")]), 1.0);
    assert_eq!(weir.metric("weir_pool_queue_refused_total", &[("pool", "only"), ("reason", "timeout")]), 0.0);
    gate.open();
    assert_eq!((first.answer().text(), second.answer().text()), ("done", "done"));
    eventually("nobody waits", || pending() == 0.0);
}

#[test]
fn a_pool_has_no_more_requests_at_once_than_it_may() {
    let (gate, upstream, weir) = held("max_requests = 2\nqueue_timeout = \"60s\"");
    let mut clients: Vec<Wire> = (0..4).map(|_| weir.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    eventually("two are at the target", || upstream.count() == 2);
    eventually("two wait", || weir.metric("weir_pool_requests_pending", &[("pool", "only")]) == 2.0);
    assert_eq!((upstream.count(), upstream.connections()), (2, 2));
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.answer().text(), "done"));
    assert_eq!((upstream.count(), upstream.connections()), (4, 2));
}

#[test]
fn a_client_has_no_more_connections_than_it_may() {
    let upstream = Upstream::named("ok");
    let site = Site::new().bind("127.0.0.1:0", "max_connections_per_client = 2").to(upstream.addr, "", "");
    let weir = site.start();
    let (mut first, mut second) = (weir.client(), weir.client());
    assert_eq!((first.get("/", "").status, second.get("/", "").status), (200, 200));
    let refused = || weir.metric("weir_connections_refused_total", &[("listener", "http")]);
    for more in 1..=5 {
        assert!(!answers(&weir), "closed without an answer");
        eventually("it is counted", || refused() == f64::from(more));
    }
    drop(first);
    eventually("there is room for another", || answers(&weir));
    assert_eq!(second.get("/", "").status, 200);
}

#[test]
fn trusted_proxies_are_many_clients() {
    let upstream = Upstream::named("ok");
    let site = Site::new().server("workers = 2\ntrusted_proxies = [\"127.0.0.0/8\"]");
    let weir = site.bind("127.0.0.1:0", "max_connections_per_client = 1").to(upstream.addr, "", "").start();
    let mut clients: Vec<Wire> = (0..5).map(|_| weir.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.get("/", "").status, 200));
}

#[test]
fn a_listener_has_no_more_connections_than_it_may() {
    let upstream = Upstream::named("ok");
    let site = Site::new().server("workers = 1").bind("127.0.0.1:0", "max_connections = 2").to(upstream.addr, "", "");
    let weir = site.start();
    let (mut first, mut second) = (weir.client(), weir.client());
    assert_eq!((first.get("/", "").status, second.get("/", "").status), (200, 200));
    let mut third = weir.client();
    third.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("accepting pauses", || weir.metric("weir_accept_paused_total", &[("listener", "http")]) >= 1.0);
    assert_eq!((second.get("/", "").status, upstream.count()), (200, 3));
    drop(first);
    assert_eq!(third.answer().status, 200);
}

#[test]
fn a_client_that_asks_too_often_is_told_when_to_come_back() {
    let upstream = Upstream::named("ok");
    let limit = "rate_limit = { rate = \"1/h\", burst = 3, key = [\"header:x-user\", \"ip\"] }";
    let weir = Site::new().to(upstream.addr, "", limit).start();
    let statuses =
        |user: &str| -> Vec<u16> { (0..10).map(|_| weir.get("/", &format!("X-User: {user}\r\n")).status).collect() };
    let expected = [200, 200, 200, 429, 429, 429, 429, 429, 429, 429];
    assert_eq!(statuses("a"), expected, "whichever worker has the connection");
    assert_eq!(statuses("b"), expected);
    let mut client = weir.client();
    (0..3).for_each(|_| assert_eq!(client.get("/", "").status, 200));
    let refused = client.get("/", "");
    refused.assert_problem(429);
    let wait: u64 = refused.head.field("retry-after").and_then(|wait| wait.parse().ok()).expect("seconds");
    assert!((3000..=3600).contains(&wait), "{wait}");
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.answer().status, 429);
    assert_eq!(client.get("/", "X-User: c\r\n").status, 200, "the connection goes on");
    assert_eq!(upstream.count(), 10);
    let requests = |code| weir.metric("weir_requests_total", &[("route", "all"), ("code", code)]);
    eventually("all are counted", || requests("2xx") + requests("4xx") == 26.0);
    assert_eq!((requests("4xx"), weir.metric("weir_rate_limited_total", &[("route", "all")])), (16.0, 16.0));
}

/// Few connections, with all their load: on whichever worker the kernel's hash puts them. It would spread as well as this
/// in every second round.
#[test]
fn sixteen_connections_are_spread_over_the_workers_with_their_load() {
    let upstream = Upstream::named("ok");
    let weir = Site::new().server("workers = 2").to(upstream.addr, "", "").start();
    let by_worker = |family| ["0", "1"].map(|worker| weir.metric(family, &[("worker", worker)]));
    for round in 1..=3 {
        block_on(async {
            let mut senders = senders(&weir, 16).await;
            for _ in 0..20 {
                for sender in &mut senders {
                    assert_eq!(post(sender, "/", Vec::new()).await.0, StatusCode::OK);
                }
            }
            let open = by_worker("weir_worker_connections");
            // Eight each, and one for two that were accepted in the same moment.
            assert!(open.iter().all(|open| (7.0..=9.0).contains(open)), "{open:?}");
            let requests = by_worker("weir_worker_requests_total");
            assert_eq!(requests.iter().sum::<f64>(), 320.0 * f64::from(round));
            assert!(requests.iter().all(|requests| *requests >= 140.0 * f64::from(round)), "{requests:?}");
        });
        eventually("none is open", || by_worker("weir_worker_connections") == [0.0, 0.0]);
    }
}

async fn senders(weir: &Weir, count: usize) -> Vec<SendRequest<Body>> {
    let mut senders = Vec::new();
    for _ in 0..count {
        senders.push(connect(weir.addr("http")).await);
    }
    senders
}

/// Sixteen connections on four workers. Those on the first two get all the load until `over` is raised; `told` hears when
/// it begins.
async fn load_two_of_four(weir: &Weir, over: &AtomicBool, told: Sender<()>) {
    let requests = || EACH.map(|worker| weir.metric("weir_worker_requests_total", &[("worker", worker)]));
    let (mut loaded, mut idle) = (Vec::new(), Vec::new());
    for mut sender in senders(weir, 16).await {
        let before = requests();
        post(&mut sender, "/", Vec::new()).await;
        let after = requests();
        let worker = (0..4).find(|at| after[*at] > before[*at]).expect("one of them answered");
        if worker < 2 { loaded.push(sender) } else { idle.push(sender) }
    }
    assert!((6..=10).contains(&loaded.len()), "{} of 16 on two of four", loaded.len());
    told.send(()).expect("it is waited for");
    while !over.load(Relaxed) {
        // All streams of a round at once.
        let mut round = JoinSet::new();
        for mut sender in loaded.iter().cycle().take(64).cloned() {
            round.spawn(async move { post(&mut sender, "/", Vec::new()).await.0 });
        }
        assert!(round.join_all().await.iter().all(|status| *status == StatusCode::OK));
    }
    drop(idle);
}

const EACH: [&str; 4] = ["0", "1", "2", "3"];

#[test]
fn new_connections_go_to_the_workers_without_load() {
    let upstream = Upstream::named("ok");
    let weir = Site::new().server("workers = 4").to(upstream.addr, "", "").start();
    let by_worker = |family| EACH.map(|worker| weir.metric(family, &[("worker", worker)]));
    let over = AtomicBool::new(false);
    let (told, begun) = channel();
    std::thread::scope(|scope| {
        let _over = RaisedAtLast(&over);
        scope.spawn(|| block_on(load_two_of_four(&weir, &over, told)));
        begun.recv().expect("the load begins");
        let mut busy = [0.0; 4];
        eventually("two are busy, two are not", || {
            busy = by_worker("weir_worker_busy_ratio");
            busy[0].min(busy[1]) > busy[2].max(busy[3]) + 0.3
        });
        let before = by_worker("weir_worker_connections");
        let more: Vec<Wire> = (0..8).map(|_| weir.client()).collect();
        let mut after = before;
        eventually("all are accepted", || {
            after = by_worker("weir_worker_connections");
            after.iter().sum::<f64>() == 24.0
        });
        assert_eq!(before[..2], after[..2], "{busy:?}: none more where the load is");
        assert!(after[2..].iter().all(|open| (7.0..=9.0).contains(open)), "{before:?} then {after:?}");
        drop(more);
    });
}
