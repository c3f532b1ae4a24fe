//! The admin API: documents, conditions, refusals that change nothing, and who may do what.

use crate::support::*;
use sha2::{Digest, Sha256};

const WEIGHTS: &str = "/api/v1/routes/shop/weights";

struct Shop {
    weir: Weir,
    _upstreams: [Upstream; 2],
}

fn shop(change: impl FnOnce(Site) -> Site) -> Shop {
    let upstreams = [Upstream::named("stable"), Upstream::named("canary")];
    let site = split_site(&[("stable", &upstreams[0], "95"), ("canary", &upstreams[1], "5")], "");
    Shop { weir: change(site).start(), _upstreams: upstreams }
}

fn etag(weir: &Weir) -> String {
    let answer = weir.admin("GET", "/api/v1/routes/shop", "", "");
    answer.head.field("etag").expect("a route has an ETag").to_owned()
}

#[test]
fn a_route_is_shown_whole() {
    let Shop { weir, .. } = &shop(|site| site);
    let route = weir.route("shop");
    assert_eq!(
        (&route["name"], &route["baseline"], &route["generation"]),
        (&"shop".into(), &"stable".into(), &1.into())
    );
    let canary = &route["variants"][1];
    assert_eq!((&canary["name"], &canary["pool"]), (&"canary".into(), &"pool-canary".into()));
    for (field, value) in [
        ("weight", 5.0),
        ("configured_weight", 5.0),
        ("effective_weight", 5.0),
        ("targets", 1.0),
        ("healthy_targets", 1.0),
    ] {
        assert_eq!(canary[field].as_f64(), Some(value), "{field} in {canary}");
    }
    assert_eq!(route["rollout"], serde_json::Value::Null);
    let list = weir.admin("GET", "/api/v1/routes", "", "");
    assert_eq!(list.status, 200);
    assert!(list.text().contains("\"shop\""), "{}", list.text());
    weir.admin("GET", "/api/v1/routes/nowhere", "", "").assert_problem(404);
}

#[test]
fn of_two_writers_with_one_etag_one_wins() {
    let Shop { weir, .. } = &shop(|site| site);
    let condition = format!("If-Match: {}\r\n", etag(weir));
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let write = |percent: u32| {
            let (condition, body) = (&condition, format!("{{\"weights\":{{\"canary\":{percent}}}}}"));
            scope.spawn(move || weir.admin("PATCH", WEIGHTS, condition, &body))
        };
        let both = [write(10), write(20)];
        both.map(|writer| writer.join().expect("the writer ends")).into()
    });
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412]);
    let refused = answers.iter().find(|answer| answer.status == 412).expect("one was refused");
    assert!(
        refused.text().contains("\"generation\":2") || refused.text().contains("\"generation\": 2"),
        "{}",
        refused.text()
    );
    assert_eq!(weir.route("shop")["generation"], 2);
}

#[test]
fn put_needs_a_condition_and_all_variants() {
    let Shop { weir, .. } = &shop(|site| site);
    let both = r#"{"weights":{"stable":70,"canary":30}}"#;
    weir.admin("PUT", WEIGHTS, "", both).assert_problem(428);
    let condition = format!("If-Match: {}\r\n", etag(weir));
    weir.admin("PUT", WEIGHTS, &condition, r#"{"weights":{"canary":30}}"#).assert_problem(400);
    assert_eq!(weir.weight("shop", "canary"), 5.0);
    let answer = weir.admin("PUT", WEIGHTS, &condition, both);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.head.field("etag").map(str::to_owned), Some(etag(weir)));
    assert_eq!((weir.weight("shop", "stable"), weir.weight("shop", "canary")), (70.0, 30.0));
    weir.admin("PUT", WEIGHTS, &condition, both).assert_problem(412);
}

#[test]
fn a_dry_run_answers_and_changes_nothing() {
    let Shop { weir, .. } = &shop(|site| site);
    let answer = weir.admin("PATCH", &format!("{WEIGHTS}?dry_run=true"), "", r#"{"weights":{"canary":25}}"#);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.text().contains("20"), "20 % of the clients would move: {}", answer.text());
    assert_eq!((weir.weight("shop", "canary"), &weir.route("shop")["generation"]), (5.0, &1.into()));
}

#[test]
fn a_bad_change_is_refused_with_the_field_and_changes_nothing() {
    let Shop { weir, .. } = &shop(|site| site);
    let before = weir.route("shop");
    for (body, named) in [
        (r#"{"weights":{"canary":-1}}"#, "canary"),
        (r#"{"weights":{"canary":100.5}}"#, "canary"),
        (r#"{"weights":{"canary":0.0001}}"#, "canary"),
        (r#"{"weights":{"canary":NaN}}"#, ""),
        (r#"{"weights":{"canary":1e400}}"#, ""),
        (r#"{"weights":{"canary":"5"}}"#, ""),
        (r#"{"weights":{"stable":50,"canary":40}}"#, "90"),
        (r#"{"weights":{"canray":5}}"#, "canray"),
        (r#"{"weights":{"canary":5},"resaon":"x"}"#, "resaon"),
        (r#"{"weights":{"canary":5}"#, ""),
        (r#"{"weights":[5]}"#, ""),
        ("", ""),
        ("null", ""),
    ] {
        let problem = weir.admin("PATCH", WEIGHTS, "", body).assert_problem(400);
        assert!(problem.to_string().contains(named), "{body} → {problem}");
    }
    assert_eq!(weir.route("shop"), before);
}

#[test]
fn a_huge_body_is_refused() {
    let Shop { weir, .. } = &shop(|site| site);
    let body = format!("{{\"weights\":{{\"canary\":5}},\"reason\":\"{}\"}}", "x".repeat(10 * 1024 * 1024));
    let mut wire = Wire::connect(weir.addr("admin"));
    let head = format!(
        "PATCH {WEIGHTS} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        weir.addr("admin"),
        body.len()
    );
    // The body may be refused before it is all taken.
    let _ = wire.send(head).try_send(&body);
    if let Ok(answer) = wire.try_answer(false) {
        assert!(matches!(answer.status, 400 | 413), "{answer:?}");
    }
    assert_eq!(weir.weight("shop", "canary"), 5.0);
}

#[test]
fn reads_change_nothing_and_wrong_methods_are_405() {
    let Shop { weir, .. } = &shop(|site| site);
    assert_eq!(weir.admin("GET", WEIGHTS, "", r#"{"weights":{"canary":50}}"#).status, 405);
    assert_eq!(weir.admin("GET", "/api/v1/reload", "", "").status, 405);
    assert_eq!(weir.admin("GET", "/api/v1/nothing", "", "").status, 404);
    assert_eq!(weir.weight("shop", "canary"), 5.0);
}

#[test]
fn other_sites_cannot_reach_in() {
    let Shop { weir, .. } = &shop(|site| site);
    let ask = |fields: String| {
        let body = r#"{"weights":{"canary":50}}"#;
        let head = format!(
            "PATCH {WEIGHTS} HTTP/1.1\r\n{fields}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Wire::connect(weir.addr("admin")).send(head).answer().status
    };
    let admin = weir.addr("admin");
    for fields in [
        "Host: evil.example\r\n".to_owned(),
        format!("Host: evil.example:{}\r\n", admin.port()),
        format!("Host: {admin}\r\nOrigin: http://evil.example\r\n"),
        format!("Host: {admin}\r\nOrigin: null\r\n"),
    ] {
        let status = ask(fields.clone());
        assert!((400..500).contains(&status), "{status} for {fields}");
    }
    assert_eq!(weir.weight("shop", "canary"), 5.0);
    assert_eq!(ask(format!("Host: localhost:{}\r\n", admin.port())), 200);
    assert_eq!(ask(format!("Host: {admin}\r\nOrigin: http://{admin}\r\n")), 200);
}

#[test]
fn tokens_have_roles() {
    let token = |name: &str, role: &str| {
        let hash: String = Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("[[admin.token]]\nname = \"{name}\"\nrole = \"{role}\"\nhash = \"sha256:{hash}\"\n")
    };
    let tokens = [token("eye", "viewer"), token("hand", "operator"), token("head", "admin")].concat();
    let Shop { weir, .. } = &shop(|site| site.admin(&tokens));
    let status = |method: &str, path: &str, token: &str| {
        let fields = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        weir.admin(method, path, &fields, if method == "PATCH" { r#"{"weights":{"canary":6}}"# } else { "" }).status
    };
    for (token, read, write, reload) in [
        ("", 401, 401, 401),
        ("wrong", 401, 401, 401),
        ("eye", 200, 403, 403),
        ("hand", 200, 200, 403),
        ("head", 200, 200, 200),
    ] {
        assert_eq!(status("GET", "/api/v1/routes/shop", token), read, "read with {token:?}");
        assert_eq!(status("PATCH", WEIGHTS, token), write, "write with {token:?}");
        assert_eq!(status("POST", "/api/v1/reload", token), reload, "reload with {token:?}");
    }
    assert_eq!(weir.admin("GET", "/healthz", "", "").status, 200, "probes carry no token");
}

#[test]
fn stats_count_in_integers() {
    let Shop { weir, .. } = &shop(|site| site);
    let mut client = weir.client();
    (0..100).for_each(|_| drop(client.get("/", "")));
    eventually("the last request is counted", || weir.metric("weir_requests_total", &[("code", "2xx")]) == 100.0);
    let stats = weir.admin("GET", "/api/v1/stats", "", "");
    assert_eq!(stats.status, 200);
    assert!(
        !stats.text().contains('.') || stats.text().contains("127.0.0.1"),
        "counters are integers: {}",
        stats.text()
    );
    assert!(stats.text().contains("\"shop\"") && stats.text().contains("\"canary\""), "{}", stats.text());
}

#[test]
fn health_and_metrics_have_a_port_of_their_own_when_asked() {
    let upstream = Upstream::named("ok");
    let weir = Site::new().admin("metrics = \"127.0.0.1:0\"\n").to(upstream.addr, "", "").start();
    let ask = |path: &str| {
        let addr = weir.addr("metrics");
        Wire::connect(addr).send(format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")).answer()
    };
    assert_eq!((ask("/healthz").status, ask("/readyz").status), (200, 200));
    let metrics = ask("/metrics");
    assert!(metrics.text().contains("weir_build_info"), "{}", metrics.text());
    assert_eq!(metrics.head.field("content-type").map(|t| t.starts_with("text/plain")), Some(true));
    assert_eq!(ask("/api/v1/routes").status, 404, "the metrics port is read-only");
}

#[test]
fn every_child_is_there_at_zero() {
    let Shop { weir, .. } = &shop(|site| site);
    for variant in ["stable", "canary"] {
        for code in ["2xx", "3xx", "4xx", "5xx", "none"] {
            let labels = [("route", "shop"), ("variant", variant), ("code", code)];
            assert_eq!(weir.metric("weir_requests_total", &labels), 0.0);
        }
        for reason in ["connect", "reset", "timeout", "bad_response", "no_target", "queue", "client_abort"] {
            let labels = [("route", "shop"), ("variant", variant), ("reason", reason)];
            assert_eq!(weir.metric("weir_request_errors_total", &labels), 0.0);
        }
        assert_eq!(weir.metric("weir_request_duration_seconds_count", &[("variant", variant)]), 0.0);
    }
    assert_eq!(weir.metric("weir_connections", &[("listener", "http")]), 0.0);
    assert_eq!(weir.metric("weir_config_last_reload_success", &[]), 1.0);
    let metrics = weir.metrics();
    assert!(metrics.contains("le=\"0.0005\"") && metrics.contains("le=\"60\""), "bounds from 0.5 ms to 60 s");
}

#[test]
fn no_client_can_make_a_label() {
    let Shop { weir, .. } = &shop(|site| site);
    let before = weir.metrics().lines().count();
    let mut client = weir.client();
    for n in 0..50 {
        client.get(&format!("/labelled-{n}"), &format!("X-Labelled: {n}\r\nCookie: labelled={n}\r\n"));
    }
    client.send("LABELLED / HTTP/1.1\r\nHost: labelled\r\n\r\n").answer();
    let after = weir.metrics();
    assert_eq!(after.lines().count(), before);
    assert!(!after.to_lowercase().contains("labelled"));
}
