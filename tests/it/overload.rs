//! More than there is room for: descriptors that run out, queues that are full, limits of routes and clients.

use crate::support::weir::weir_command;
use crate::support::*;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

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
    assert!(weir.log().contains("LimitNOFILE="), "{}", weir.log());
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
