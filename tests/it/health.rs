//! Targets that are asked whether they are well: one that says no gets nothing, and gets its share again when it says yes.

use crate::support::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

const CHECK: &str = "health = { path = \"/healthz\", interval = \"100ms\", timeout = \"2s\", unhealthy_after = 2 }";

/// A target that answers its health check as told, and counts the checks and the requests.
struct Patient {
    upstream: Upstream,
    well: Arc<AtomicBool>,
    checks: Arc<AtomicU64>,
    served: Arc<AtomicU64>,
}

impl Patient {
    fn new(name: &'static str, well: bool) -> Patient {
        let well = Arc::new(AtomicBool::new(well));
        let (checks, served) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (is_well, checked, counted) = (Arc::clone(&well), Arc::clone(&checks), Arc::clone(&served));
        let upstream = Upstream::answering(move |request| {
            if request.path == "/healthz" {
                checked.fetch_add(1, SeqCst);
                return Reply::status(if is_well.load(SeqCst) { 204 } else { 503 }, "", "");
            }
            counted.fetch_add(1, SeqCst);
            Reply::text(name)
        });
        Patient { upstream, well, checks, served }
    }

    fn served(&self) -> u64 {
        self.served.load(SeqCst)
    }
}

fn two(first: &Patient, second: &Patient) -> Site {
    let targets = [first.upstream.addr, second.upstream.addr];
    Site::new().pool("only", &targets, CHECK).toml(
        "[[route]]\nname = \"all\"\nmatch = { path = \"/\" }\nvariants = { stable = \"only\" }\nweights = { stable = 100 }\n",
    )
}

fn up(weir: &Weir, patient: &Patient) -> f64 {
    weir.metric("weir_target_up", &[("target", &patient.upstream.addr.to_string())])
}

fn target(weir: &Weir, patient: &Patient) -> serde_json::Value {
    let pools = weir.admin("GET", "/api/v1/pools", "", "").json();
    let targets = pools["pools"][0]["targets"].as_array().expect("a pool has targets").clone();
    let name = patient.upstream.addr.to_string();
    targets.into_iter().find(|one| one["name"] == name.as_str()).expect("the target is listed")
}

#[test]
fn a_target_that_is_not_well_at_the_start_gets_no_request() {
    let (good, bad) = (Patient::new("good", true), Patient::new("bad", false));
    let weir = two(&good, &bad).start();
    let mut client = weir.client();
    for _ in 0..50 {
        assert_eq!(client.get("/", "").text(), "good");
    }
    assert_eq!((good.served(), bad.served()), (50, 0));
    assert_eq!((up(&weir, &good), up(&weir, &bad)), (1.0, 0.0));
    let (fine, down) = (target(&weir, &good), target(&weir, &bad));
    assert_eq!((&fine["standing"], &down["standing"]), (&"up".into(), &"down".into()));
    assert_eq!(down["why"], "it answered 503 Service Unavailable");
    assert_eq!((&down["checks"][0]["passed"], &down["healthy"]), (&false.into(), &false.into()));
    assert!(down["since"].is_string() && down["checks"][0]["time"].is_string(), "{down}");
    assert_eq!(weir.route("all")["variants"][0]["healthy_targets"], 1);
}

#[test]
fn a_target_goes_and_comes_back_and_keeps_its_connections() {
    let (one, two_) = (Patient::new("one", true), Patient::new("two", true));
    let weir = two(&one, &two_).start();
    let mut client = weir.client();
    two_.well.store(false, SeqCst);
    eventually("it is down", || up(&weir, &two_) == 0.0);
    assert!(weir.log().contains("a target is down"), "{}", weir.log());
    client.get("/", "");
    let (before, opened) = (two_.served(), one.upstream.connections());
    for _ in 0..50 {
        assert_eq!(client.get("/", "").text(), "one");
    }
    assert_eq!(two_.served(), before);
    let checked = one.checks.load(SeqCst);
    assert!(
        one.upstream.connections() - opened <= (checked + 2) as usize,
        "requests go on over the connection of before"
    );
    two_.well.store(true, SeqCst);
    eventually("it is up", || up(&weir, &two_) == 1.0);
    eventually("it gets requests", || {
        client.get("/", "");
        two_.served() > before
    });
}

#[test]
fn one_check_a_target_however_many_pools_and_routes() {
    let patient = Patient::new("one", true);
    let mut site = Site::new();
    for nth in 0..20 {
        let line = "health = { path = \"/healthz\", interval = \"1h\" }";
        site = site.pool(&format!("p{nth}"), &[patient.upstream.addr], line).toml(&format!(
            "[[route]]\nname = \"r{nth}\"\nmatch = {{ path = \"/{nth}/\" }}\nvariants = {{ stable = \"p{nth}\" }}\nweights = {{ stable = 100 }}\n",
        ));
    }
    let weir = site.start();
    eventually("all are up", || weir.metric("weir_target_up", &[]) == 20.0);
    assert_eq!(patient.checks.load(SeqCst), 1);
}

#[test]
fn a_pool_without_a_target_that_is_well_answers_503() {
    let bad = Patient::new("bad", false);
    let weir = Site::new().to(bad.upstream.addr, CHECK, "").start();
    weir.get("/", "").assert_problem(503);
    let labels = [("route", "all"), ("variant", "stable"), ("reason", "no_target")];
    eventually("it is counted", || weir.metric("weir_request_errors_total", &labels) == 1.0);
    assert_eq!(bad.served(), 0);
}

#[test]
fn a_switch_goes_to_no_target_that_is_down() {
    let (blue, green) = (Patient::new("blue", true), Patient::new("green", false));
    let weir = Site::new()
        .pool("blue", &[blue.upstream.addr], "")
        .pool("green", &[green.upstream.addr], CHECK)
        .toml(
            "[[route]]\nname = \"api\"\nmatch = { path = \"/\" }\nvariants = { blue = \"blue\", green = \"green\" }\nactive = \"blue\"\n",
        )
        .start();
    let refused = weir.cli(&["switch", "api", "green"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("its health check failed: it answered 503"), "{said}");
    green.well.store(true, SeqCst);
    eventually("the switch is done", || weir.cli(&["switch", "api", "green"]).status.success());
    assert_eq!(weir.get("/", "").text(), "green");
}
