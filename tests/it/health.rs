//! Targets that are asked whether they are well: one that says no gets nothing, and gets its share again when it says yes.

use crate::support::http2::Http2Upstream;
use crate::support::tls::target_config;
use crate::support::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

const CHECK: &str = "health = { path = \"/healthz\", interval = \"1s\", timeout = \"1s\", unhealthy_after = 2 }";

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
            if request.path == "/silent" {
                std::thread::park();
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

/// Half to each variant, of which the second is well or not.
fn half_and_half(stable: &Patient, canary: &Patient, line: &str) -> Weir {
    let variants = "variants = { stable = \"old\", canary = \"new\" }\nweights = { stable = 50, canary = 50 }";
    let rule =
        "[[route.rule]]\nname = \"testers\"\nwhen = { header = \"x-canary\", present = true }\nvariant = \"canary\"";
    Site::new()
        .pool("old", &[stable.upstream.addr], "")
        .pool("new", &[canary.upstream.addr], CHECK)
        .toml(&format!("[[route]]\nname = \"shop\"\nmatch = {{ path = \"/\" }}\n{variants}\n{line}\n{rule}\n"))
        .start()
}

fn effective(weir: &Weir) -> (f64, f64) {
    let of = |variant| weir.metric("weir_variant_weight", &[("variant", variant), ("kind", "effective")]);
    (of("stable"), of("canary"))
}

#[test]
fn the_baseline_stands_in_for_a_variant_without_a_target_and_only_so_long() {
    let (stable, canary) = (Patient::new("stable", true), Patient::new("canary", false));
    let weir = half_and_half(&stable, &canary, "on_empty = \"stable\"");
    let mut client = weir.client();
    for nth in 0..100 {
        let answer = client.get("/", if nth % 2 == 0 { "" } else { "x-canary: 1\r\n" });
        assert_eq!((answer.status, answer.text()), (200, "stable"));
    }
    assert_eq!((effective(&weir), canary.served()), ((100.0, 0.0), 0));
    assert_eq!(weir.route("shop")["variants"][0]["effective_weight"], 100);
    assert_eq!(weir.weight("shop", "canary"), 50.0, "what was asked for stays");
    let explained =
        weir.admin("POST", "/api/v1/explain", "", r#"{"path":"/","host":"a","headers":{"x-canary":"1"}}"#).json();
    assert_eq!((&explained["variant"], &explained["instead_of"]), (&"stable".into(), &"canary".into()));
    let counted = |variant| weir.metric("weir_requests_total", &[("variant", variant), ("code", "2xx")]);
    eventually("each is counted where it was answered", || (counted("stable"), counted("canary")) == (100.0, 0.0));
    canary.well.store(true, SeqCst);
    eventually("it is up", || effective(&weir) == (50.0, 50.0));
    assert_eq!(client.get("/", "x-canary: 1\r\n").text(), "canary");
}

#[test]
fn without_anybody_to_stand_in_a_variant_without_a_target_fails() {
    let (stable, canary) = (Patient::new("stable", true), Patient::new("canary", false));
    let weir = half_and_half(&stable, &canary, "");
    assert_eq!(weir.get("/", "x-canary: 1\r\n").status, 503);
    let labels = [("variant", "canary"), ("reason", "no_target")];
    eventually("it is the canary's failure", || weir.metric("weir_request_errors_total", &labels) == 1.0);
    assert_eq!(effective(&weir), (50.0, 50.0));
}

#[test]
fn checks_go_over_the_pool_s_tls_and_believe_only_its_authority() {
    let ca = Ca::new();
    let both: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12, &rustls::version::TLS13];
    let upstream = Upstream::over_tls(target_config(&ca.leaf(&["api.internal"]), both, None), |_| Reply::text("fine"));
    for (name, standing) in [("api.internal", "up"), ("other.internal", "down")] {
        let tls = format!("tls = {{ ca = \"ca.pem\", server_name = \"{name}\" }}");
        let check = "health = { path = \"/healthz\", host = \"shop.test\", body = \"fine\", interval = \"5s\", timeout = \"5s\" }";
        let site = Site::new().to(upstream.addr, &format!("{check}\n{tls}\n"), "");
        std::fs::write(site.folder.path().join("ca.pem"), ca.pem()).expect("the temporary folder is writable");
        let weir = site.start();
        let target = || weir.admin("GET", "/api/v1/pools", "", "").json()["pools"][0]["targets"][0].clone();
        eventually("it was asked", || target()["standing"] != "unknown");
        assert_eq!(target()["standing"], standing, "{}", target());
    }
    let asked = upstream.requests().remove(0);
    assert_eq!((asked.path.as_str(), asked.head.field("host")), ("/healthz", Some("shop.test")));
}

#[test]
fn a_connection_is_enough_for_tcp_and_the_answer_must_be_serving_for_grpc() {
    let serving = Arc::new(AtomicU64::new(1));
    let status = Arc::clone(&serving);
    let grpc = Http2Upstream::answering(100, move |request: http::Request<hyper::body::Incoming>| {
        let status = status.load(SeqCst) as u8;
        async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let asked = http_body_util::BodyExt::collect(request.into_body()).await.expect("a body").to_bytes();
            assert_eq!(asked[..], *b"\0\0\0\0\x06\x0a\x04cart");
            let trailers = http::HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                http::HeaderValue::from_static("0"),
            )]);
            let answer = bytes::Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
            let body = http_body_util::Full::new(answer);
            let body = http_body_util::BodyExt::with_trailers(body, async move { Some(Ok(trailers)) });
            http::Response::new(http_body_util::BodyExt::boxed(body))
        }
    });
    let open = Upstream::named("open");
    let closed = refused_port();
    let grpc_check =
        "protocol = \"h2\"\nhealth = { kind = \"grpc\", service = \"cart\", interval = \"1s\", timeout = \"1s\" }";
    let weir = Site::new()
        .pool("plain", &[open.addr, closed], "health = { kind = \"tcp\", interval = \"100ms\" }")
        .pool("calls", &[grpc.addr], grpc_check)
        .toml("[[route]]\nname = \"a\"\nmatch = { path = \"/a\" }\nvariants = { stable = \"plain\" }\n")
        .toml("[[route]]\nname = \"b\"\nmatch = { path = \"/b\" }\nvariants = { stable = \"calls\" }\n")
        .start();
    let up = |pool: &str, target: std::net::SocketAddr| {
        weir.metric("weir_target_up", &[("pool", pool), ("target", &target.to_string())])
    };
    eventually("all were asked", || (up("plain", open.addr), up("calls", grpc.addr)) == (1.0, 1.0));
    assert_eq!((up("plain", closed), weir.get("/a", "").text()), (0.0, "open"));
    serving.store(2, SeqCst);
    eventually("it says NOT_SERVING", || up("calls", grpc.addr) == 0.0);
    let pools = weir.admin("GET", "/api/v1/pools", "", "").json();
    assert_eq!(pools["pools"][1]["targets"][0]["why"], "NOT_SERVING", "{pools}");
}

#[test]
fn a_target_that_has_not_answered_yet_gets_nothing_beside_one_that_is_up() {
    let good = Patient::new("good", true);
    // Takes connections, and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = silent.local_addr().expect("it is bound");
    let check = "health = { path = \"/healthz\", interval = \"60s\", timeout = \"60s\" }";
    let weir = Site::new()
        .pool("only", &[good.upstream.addr, addr], check)
        .toml("[[route]]\nname = \"all\"\nmatch = { path = \"/\" }\nvariants = { stable = \"only\" }\n")
        .start();
    let mut client = weir.client();
    for _ in 0..50 {
        assert_eq!(client.get("/", "").text(), "good");
    }
    let pools = weir.admin("GET", "/api/v1/pools", "", "").json();
    assert_eq!(pools["pools"][0]["targets"][1]["standing"], "unknown", "{pools}");
    let explained = weir.admin("POST", "/api/v1/explain", "", r#"{"path":"/","host":"a"}"#).json();
    assert_eq!(explained["targets"], serde_json::json!([good.upstream.addr.to_string()]));
}

#[test]
fn targets_that_hang_hold_only_their_own_pool_s_checks_up() {
    // Takes connections at all of this machine's addresses, and never says a word.
    let silent = std::net::TcpListener::bind(("0.0.0.0", 0)).expect("a free port");
    let port = silent.local_addr().expect("it is bound").port();
    let hanging: Vec<std::net::SocketAddr> =
        (0..1000_u16).map(|nth| ([127, 1, (nth / 250) as u8, (nth % 250 + 1) as u8], port).into()).collect();
    let good = Patient::new("good", true);
    let slow = "health = { path = \"/\", interval = \"60s\", timeout = \"60s\" }";
    let weir = Site::new()
        .pool("hangs", &hanging, slow)
        .pool("well", &[good.upstream.addr], CHECK)
        .toml("[[route]]\nname = \"a\"\nmatch = { path = \"/a\" }\nvariants = { stable = \"hangs\" }\n")
        .toml("[[route]]\nname = \"b\"\nmatch = { path = \"/b\" }\nvariants = { stable = \"well\" }\n")
        .start();
    eventually("it was asked", || weir.metric("weir_target_up", &[("pool", "well")]) == 1.0);
}

#[test]
fn a_target_that_is_down_stays_so_when_its_check_changes_until_it_has_answered_that() {
    let (good, bad) = (Patient::new("good", true), Patient::new("bad", false));
    let weir = two(&good, &bad).start();
    assert_eq!(target(&weir, &bad)["standing"], "down");
    // Nobody answers this one in time.
    let text = weir.site.text().replace("/healthz", "/silent").replace("\"1s\"", "\"60s\"");
    std::fs::write(weir.site.file(), text).expect("the folder is writable");
    assert!(weir.cli(&["reload"]).status.success());
    assert_eq!((&target(&weir, &bad)["standing"], &target(&weir, &good)["standing"]), (&"down".into(), &"up".into()));
    for _ in 0..20 {
        assert_eq!(weir.get("/", "").text(), "good");
    }
}

#[test]
fn explain_says_where_no_target_is_left() {
    let bad = Patient::new("bad", false);
    let weir = Site::new().to(bad.upstream.addr, CHECK, "").start();
    let explained = weir.admin("POST", "/api/v1/explain", "", r#"{"path":"/","host":"a"}"#).json();
    assert_eq!((&explained["targets"], &explained["target"]), (&serde_json::json!([]), &serde_json::Value::Null));
    assert!(explained["why"].as_str().is_some_and(|why| why.contains("has no target for it")), "{explained}");
}
