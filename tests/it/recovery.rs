//! Requests that a target fails: sent again to another, or served by the baseline; each counted once, none sent twice
//! that may not be.

use crate::support::*;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const POST: &str = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi";
const KEYED: &str = "POST / HTTP/1.1\r\nHost: test\r\nIdempotency-Key: a1\r\nContent-Length: 2\r\n\r\nhi";

/// One route over a pool of these targets.
fn site(targets: &[SocketAddr], retry: &str) -> Site {
    Site::new().server("workers = 1").pool("only", targets, "").toml(&format!(
        "[[route]]\nname = \"shop\"\nmatch = {{ path = \"/\" }}\nvariants = {{ stable = \"only\" }}\nretry = {retry}"
    ))
}

/// A stable variant and a canary that gets everything.
fn canary_site(stable: &Upstream, canary: SocketAddr, rescue: &str) -> Site {
    Site::new().server("workers = 1").pool("one", &[stable.addr], "").pool("two", &[canary], "").toml(&format!(
        "[[route]]\nname = \"shop\"\nmatch = {{ path = \"/\" }}\nvariants = {{ stable = \"one\", canary = \"two\" }}\n\
         weights = {{ stable = 0, canary = 100 }}\ntimeout = \"300ms\"\nrescue = {rescue}"
    ))
}

fn failing(status: u16) -> Upstream {
    Upstream::answering(move |_| Reply::status(status, "", "failed"))
}

/// The most that budgets give whatever the traffic: 100 in each ten seconds, of which a slow machine needs several.
fn floor_since(began: Instant) -> usize {
    let windows = 1 + usize::try_from(began.elapsed().as_secs() / 10).expect("a test is short");
    100 * (windows + 1)
}

fn retries(weir: &Weir) -> f64 {
    weir.metric("weir_retries_total", &[("route", "shop")])
}

fn counted(weir: &Weir, variant: &str, code: &str) -> f64 {
    weir.metric("weir_requests_total", &[("route", "shop"), ("variant", variant), ("code", code)])
}

fn errors(weir: &Weir, variant: &str, reason: &str) -> f64 {
    weir.metric("weir_request_errors_total", &[("route", "shop"), ("variant", variant), ("reason", reason)])
}

fn rescued(weir: &Weir) -> f64 {
    weir.metric("weir_rescued_total", &[("route", "shop")])
}

#[test]
fn a_get_that_one_target_fails_is_served_by_another() {
    let ids = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ids);
    let bad = Upstream::answering(move |request| {
        let id = request.head.field("x-request-id").unwrap_or_default().to_owned();
        seen.lock().expect("no test thread panicked").push(id);
        Reply::status(503, "", "failed")
    });
    let good = Upstream::named("good");
    let weir = site(&[bad.addr, good.addr], "{ budget = \"100%\" }").start();
    let mut client = weir.client();
    for turn in 0..40 {
        assert_eq!(client.get(&format!("/{turn}"), "").text(), "good");
    }
    assert!(bad.count() > 5, "the failing target had {}", bad.count());
    eventually("each retry is counted", || retries(&weir) == bad.count() as f64);
    assert_eq!((counted(&weir, "stable", "2xx"), counted(&weir, "stable", "5xx")), (40.0, 0.0));
    let known: Vec<_> =
        good.requests().iter().map(|one| one.head.field("x-request-id").unwrap_or_default().to_owned()).collect();
    assert!(ids.lock().expect("no test thread panicked").iter().all(|id| known.contains(id)), "a retry keeps its id");
}

#[test]
fn resets_are_repeated_for_get_and_not_for_post() {
    let bad = Upstream::answering(|_| Reply::Reset(Vec::new()));
    let good = Upstream::named("good");
    let weir =
        site(&[bad.addr, good.addr], "{ on = [\"reset\"], methods = [\"GET\", \"POST\"], budget = \"100%\" }").start();
    for _ in 0..20 {
        assert_eq!(weir.get("/", "").text(), "good");
    }
    let (mut failed, before) = (0, bad.count());
    for _ in 0..20 {
        let answer = weir.client().send(POST).answer();
        failed += usize::from(answer.status == 502);
    }
    let posts = |upstream: &Upstream| upstream.requests().iter().filter(|request| request.method == "POST").count();
    assert_eq!(bad.count() - before, failed, "what one target had is not sent to the other");
    assert_eq!(posts(&bad) + posts(&good), 20, "each POST was sent once");
    for _ in 0..10 {
        let answer = weir.client().send(KEYED).answer();
        assert_eq!((answer.status, answer.text()), (200, "good"), "a POST with a key is repeated");
    }
    assert!(good.requests().iter().filter(|request| request.method == "POST").all(|request| request.body == b"hi"));
}

#[test]
fn nothing_is_repeated_once_the_client_has_the_head() {
    let cut = Upstream::answering(|_| Reply::last("HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nhello"));
    let weir = site(&[cut.addr], "{ attempts = 5, budget = \"100%\" }").start();
    let mut client = weir.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(client.try_answer(false).is_err());
    eventually("it is counted", || errors(&weir, "stable", "reset") == 1.0);
    assert_eq!((cut.count(), retries(&weir)), (1, 0.0));
}

#[test]
fn attempts_bound_one_request_and_the_budget_all_of_them() {
    let bad = failing(503);
    let weir = site(&[bad.addr], "{ attempts = 2, budget = \"100%\" }").start();
    assert_eq!(weir.get("/", "").status, 503);
    assert_eq!((bad.count(), retries(&weir)), (3, 2.0), "one and two again");

    let bad = failing(503);
    let weir = site(&[bad.addr], "{ attempts = 1, budget = \"0.001%\" }").start();
    let (mut client, began) = (weir.client(), Instant::now());
    for _ in 0..300 {
        assert_eq!(client.get("/", "").text(), "failed", "the target's own answer, once there is no retry");
    }
    let again = bad.count() - 300;
    assert!((100..=floor_since(began)).contains(&again), "the floor is 100 in ten seconds, not {again}");
    assert_eq!(retries(&weir), again as f64);
}

#[test]
fn a_get_on_a_kept_connection_that_dies_is_repeated_at_once() {
    let upstream = Upstream::answering(|request| match request.turn {
        0 => Reply::text("first"),
        _ => Reply::Last(Vec::new()),
    });
    // The budget is not asked, nor what `on` names: HTTP itself allows it.
    let weir = site(&[upstream.addr], "{ on = [\"503\"] }").start();
    let mut client = weir.client();
    for _ in 0..20 {
        assert_eq!(client.get("/", "").text(), "first");
    }
}

#[test]
fn a_canary_that_fails_is_charged_and_the_client_has_the_baseline_s_answer() {
    type Fault = Box<dyn Fn() -> Upstream>;
    let faults: [(Fault, &str, Option<&str>); 4] = [
        (Box::new(|| failing(500)), "5xx", None),
        (Box::new(|| Upstream::answering(|_| Reply::Reset(Vec::new()))), "5xx", Some("reset")),
        (Box::new(|| Upstream::raw(|mut wire| while matches!(wire.head(), Ok(Some(_))) {})), "5xx", Some("timeout")),
        (Box::new(|| Upstream::raw(drop)), "5xx", Some("reset")),
    ];
    for (fault, code, reason) in faults {
        let (stable, canary) = (Upstream::named("baseline"), fault());
        let weir = canary_site(&stable, canary.addr, "{ budget = \"100%\", header = \"x-weir-rescued\" }").start();
        let mut client = weir.client();
        for _ in 0..5 {
            let answer = client.get("/", "");
            assert_eq!((answer.status, answer.text()), (200, "baseline"));
            assert_eq!(answer.head.field("x-weir-rescued"), Some("canary"));
        }
        eventually("all are counted", || counted(&weir, "canary", code) == 5.0);
        assert_eq!((rescued(&weir), stable.count()), (5.0, 5));
        assert_eq!(weir.metric("weir_requests_total", &[("route", "shop")]), 5.0, "each is counted once");
        if let Some(reason) = reason {
            assert_eq!(errors(&weir, "canary", reason), 5.0);
        }
        assert_eq!(weir.metric("weir_request_errors_total", &[("route", "shop"), ("variant", "stable")]), 0.0);
        assert_eq!(weir.metric("weir_requests_in_flight", &[("route", "shop")]), 0.0);
    }
}

#[test]
fn a_post_is_never_replayed_without_a_key() {
    let (stable, had) = (Upstream::named("baseline"), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&had);
    let canary = Upstream::answering(move |_| match count.fetch_add(1, SeqCst) % 2 {
        0 => Reply::Reset(Vec::new()),
        _ => Reply::status(500, "", "failed"),
    });
    let weir = canary_site(&stable, canary.addr, "{ budget = \"100%\" }").start();
    for status in [502, 500, 502, 500] {
        assert_eq!(weir.client().send(POST).answer().status, status);
    }
    assert_eq!((stable.count(), canary.count(), rescued(&weir)), (0, 4, 0.0));
    for _ in 0..2 {
        assert_eq!(weir.client().send(KEYED).answer().text(), "baseline");
    }
    assert!(stable.requests().iter().all(|request| request.body == b"hi"));
    assert_eq!((stable.count(), canary.count()), (2, 6));
}

#[test]
fn what_no_target_had_goes_to_the_baseline_whatever_it_is() {
    let stable = Upstream::named("baseline");
    let weir = canary_site(&stable, refused_port(), "{ on = [\"connect\"], budget = \"100%\" }").start();
    assert_eq!(weir.client().send(POST).answer().text(), "baseline");
    assert_eq!(stable.request().body, b"hi");
    eventually("it is charged", || errors(&weir, "canary", "connect") == 1.0);
}

#[test]
fn the_rescue_s_budget_and_what_it_does_not_name() {
    let (stable, canary) = (Upstream::named("baseline"), failing(500));
    let weir = canary_site(&stable, canary.addr, "{ budget = \"0.001%\" }").start();
    let (mut client, began) = (weir.client(), Instant::now());
    let failed = (0..300).filter(|_| client.get("/", "").status == 500).count();
    assert!((100..=floor_since(began)).contains(&(300 - failed)), "{failed} of 300 beyond the budget");
    assert_eq!(rescued(&weir), (300 - failed) as f64);

    let weir = canary_site(&stable, canary.addr, "{ on = [\"reset\"] }").start();
    assert_eq!(weir.get("/", "").text(), "failed");

    let rule =
        "[[route.rule]]\nname = \"testers\"\nwhen = { header = \"x-canary\", present = true }\nvariant = \"canary\"";
    let lines = format!("{{ budget = \"100%\", forced = false }}\n{rule}");
    let weir = canary_site(&stable, canary.addr, &lines).start();
    assert_eq!(weir.get("/", "").text(), "baseline");
    assert_eq!(weir.get("/", "x-canary: 1\r\n").text(), "failed", "a tester sees the canary as it is");
}
