//! The admin API: JSON over HTTP/1.1 on loopback, a unix socket or, with tokens, any address.
//!
//! Reads never wait for the controller or a disk. Wire shapes live here and nowhere else: `docs/admin-api.md` has
//! them with examples.

mod access;
mod body;
mod changes;
mod configuration;
mod documents;
mod effective;
mod events;
mod explain;
mod handlers;
mod idempotency;
mod pools;
mod problem;
mod rollouts;
mod server;

pub use documents::is_healthy;
pub use server::{Scope, Socket, Taken, serve};

use super::Control;
use super::metrics::Exposition;
use access::Peer;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use idempotency::Remembered;
use problem::Problem;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What handlers share.
#[derive(Clone)]
pub struct Api {
    control: Control,
    exposition: Arc<Exposition>,
    remembered: Arc<Remembered>,
    /// One scrape at a time: with 10,000 routes an answer is large.
    scraping: Arc<Semaphore>,
    /// One at a time of those that read files: a hostile text takes hundreds of times its size to check.
    reading: Arc<Semaphore>,
}

impl Api {
    pub fn new(control: Control) -> Api {
        let exposition = Arc::new(Exposition::new(control.clone()));
        Api {
            control,
            exposition,
            remembered: Arc::default(),
            scraping: Arc::new(Semaphore::new(1)),
            reading: Arc::new(Semaphore::new(1)),
        }
    }
}

/// Everything that is served at an address of this scope.
fn router(scope: Scope, api: Api) -> Router {
    let health = Router::new()
        .route("/healthz", get(handlers::healthz))
        .route("/readyz", get(handlers::readyz))
        .route("/metrics", get(handlers::metrics));
    let routes = match scope {
        Scope::MetricsOnly => health,
        Scope::Everything => health
            .route("/api/v1/routes", get(handlers::routes))
            .route("/api/v1/routes/{route}", get(handlers::route))
            .route("/api/v1/routes/{route}/explain", post(explain::of_route))
            .route("/api/v1/explain", post(explain::of_any))
            .route("/api/v1/routes/{route}/weights", patch(changes::patch_weights).put(changes::put_weights))
            .route("/api/v1/routes/{route}/history", get(changes::history))
            .route("/api/v1/routes/{route}/undo", post(changes::undo))
            .route("/api/v1/routes/{route}/switch", post(changes::switch))
            .route("/api/v1/events", get(events::events))
            .route("/api/v1/rollouts", get(rollouts::all))
            .route("/api/v1/rollouts/{route}", get(rollouts::one))
            .route("/api/v1/rollouts/{route}/{verb}", post(rollouts::act))
            .route("/api/v1/pools", get(pools::pools))
            .route("/api/v1/pools/{pool}/targets/{target}/drain", post(pools::drain))
            .route("/api/v1/pools/{pool}/targets/{target}/enable", post(pools::enable))
            .route("/api/v1/stats", get(handlers::stats))
            .route("/api/v1/reload", post(handlers::reload))
            .route("/api/v1/upgrade", post(handlers::upgrade))
            .route("/api/v1/config/effective", get(configuration::effective))
            .route("/api/v1/config/diff", get(configuration::diff))
            .route("/api/v1/config/validate", post(configuration::validate))
            .route("/api/v1/config/save", post(configuration::save)),
    };
    routes
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(api.clone(), guard))
        .with_state(api)
}

/// Who may do this; before anything else is looked at, also before 404 and 405.
async fn guard(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let ground = api.control.ground();
    let Some(peer) = request.extensions().get::<Peer>().cloned() else {
        return Problem::new(500, "internal", "the request's connection is unknown").into_response();
    };
    match access::check(&ground.config.admin.tokens, &peer, &request) {
        Ok(actor) => {
            request.extensions_mut().insert(actor);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn not_found(request: Request) -> Problem {
    let path = request.uri().path();
    Problem::new(404, "not-found", format!("there is nothing at {path}; docs/admin-api.md lists what there is"))
}

async fn wrong_method(method: Method, request: Request) -> Problem {
    let path = request.uri().path();
    Problem::new(
        405,
        "method-not-allowed",
        format!("{path} does not answer {method}; the Allow header says what it does"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Process, config, shop, token, with_tokens};
    use crate::boundary::drain::Phase;
    use crate::boundary::outcomes::{Code, Reason};
    use crate::config::Role;
    use crate::limits::ADMIN_BODY_BYTES;
    use serde_json::json;

    const WEIGHTS: &str = "/api/v1/routes/shop/weights";

    #[tokio::test]
    async fn routes_are_shown_with_their_generation_as_etag() {
        let process = Process::start(shop()).await;
        let reply = process.get("/api/v1/routes/shop").await;
        assert_eq!((reply.status, reply.header("etag")), (200, Some("\"1\"")));
        let variant = |name: &str, weight: u32| {
            json!({"name": name, "pool": "pool", "version": "1.0", "weight": weight, "configured_weight": weight,
                "effective_weight": weight, "targets": 1, "healthy_targets": 1})
        };
        let expected = json!({"name": "shop", "generation": 1, "baseline": "stable", "rollout": null,
            "variants": [variant("stable", 100), variant("canary", 0)]});
        assert_eq!(reply.json(), expected);
        assert_eq!(process.get("/api/v1/routes").await.json(), json!({"routes": [expected]}));
        let missing = process.get("/api/v1/routes/shopp").await;
        assert_eq!((missing.status, missing.problem().as_str()), (404, "no-such-route"));
    }

    #[tokio::test]
    async fn a_patch_is_published_before_it_is_answered() {
        let process = Process::start(shop()).await;
        for (nth, percent) in [5.0, 0.125, 100.0, 0.0].into_iter().enumerate() {
            let body = json!({"weights": {"canary": percent}, "reason": "a \"test\""}).to_string();
            let reply = process.patch("shop", &[], &body).await;
            assert_eq!(reply.status, 200, "{reply:?}");
            let table = process.publisher.current();
            let live = table.routing.routes()[0].assignment.weights();
            assert_eq!(live[1].percent(), percent);
            assert_eq!(table.serial, 2 + nth as u64);
            let document = reply.json();
            assert_eq!(document["generation"], 2 + nth as u64);
            assert_eq!(document["variants"][1]["weight"].as_f64(), Some(percent));
            assert_eq!(document["variants"][1]["configured_weight"], 0);
            assert_eq!(reply.header("etag"), Some(format!("\"{}\"", 2 + nth).as_str()));
        }
    }

    #[tokio::test]
    async fn a_dry_run_says_what_would_change_and_changes_nothing() {
        let process = Process::start(shop()).await;
        let headers = ["content-type: application/json"];
        let body = br#"{"weights":{"canary":5}}"#;
        let reply = process.call("PATCH", &format!("{WEIGHTS}?dry_run=true"), &headers, body).await;
        let expected = json!({"route": "shop", "dry_run": true, "generation": 1, "changed": true,
            "before": {"stable": 100, "canary": 0}, "after": {"stable": 95, "canary": 5}, "clients_moved_percent": 5});
        assert_eq!((reply.status, reply.json()), (200, expected));
        assert_eq!(process.live("shop"), (1, vec![100_000, 0]));
        assert_eq!(process.publisher.current().serial, 1);
        let odd = process.call("PATCH", &format!("{WEIGHTS}?dryrun=true"), &headers, body).await;
        assert_eq!((odd.status, odd.json()["field"].as_str()), (400, Some("query:dryrun")));
        assert_eq!(process.live("shop").0, 1);
    }

    #[tokio::test]
    async fn a_put_needs_the_generation_that_it_replaces() {
        let process = Process::start(shop()).await;
        let body = r#"{"weights":{"stable":90,"canary":10}}"#;
        let reply = process.put("shop", &[], body).await;
        assert_eq!((reply.status, reply.problem().as_str()), (428, "generation-needed"));
        let reply = process.put("shop", &["if-match: \"1\""], body).await;
        assert_eq!((reply.status, reply.header("etag")), (200, Some("\"2\"")));
        let reply = process.put("shop", &["if-match: \"1\""], body).await;
        assert_eq!((reply.status, reply.problem().as_str()), (412, "generation-changed"));
        assert_eq!(reply.header("etag"), Some("\"2\""));
        assert_eq!(reply.json()["current"], process.get("/api/v1/routes/shop").await.json());
        assert_eq!(process.put("shop", &["if-match: *"], body).await.status, 200);
        let reply = process.patch("shop", &["if-match: \"1\""], r#"{"weights":{"canary":1}}"#).await;
        assert_eq!(reply.status, 412);
    }

    #[tokio::test]
    async fn of_two_writers_with_one_etag_one_wins() {
        let process = Process::start(shop()).await;
        for generation in 1..=20 {
            let tag = format!("if-match: \"{generation}\"");
            let body = |canary: u32| format!(r#"{{"weights":{{"canary":{canary}}}}}"#);
            let headers = [tag.as_str()];
            let (one, other) = (body(2 * generation), body(2 * generation + 1));
            let (one, other) =
                tokio::join!(process.patch("shop", &headers, &one), process.patch("shop", &headers, &other));
            let mut statuses = [one.status, other.status];
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 412]);
        }
    }

    #[tokio::test]
    async fn bad_bodies_are_refused_by_field_and_change_nothing() {
        let process = Process::start(shop()).await;
        for (body, field) in [
            (r#"{"weights":{"canary":NaN}}"#, "weights.canary"),
            (r#"{"weights":{"canary":-1}}"#, "weights.canary"),
            (r#"{"weights":{"canary":0.0005}}"#, "weights.canary"),
            (r#"{"weights":{"canary":5,"stable":5}}"#, "weights"),
            (r#"{"weights":{"kanary":5}}"#, "weights.kanary"),
            (r#"{"weights":{"canary":5}"#, "body"),
            (r#"{"weights":{"canary":5}}x"#, "body"),
            ("", "body"),
        ] {
            for reply in [process.patch("shop", &[], body).await, process.put("shop", &["if-match: \"1\""], body).await]
            {
                assert_eq!((reply.status, reply.json()["field"].as_str()), (400, Some(field)), "{body}: {reply:?}");
            }
        }
        let reply = process.call("PATCH", WEIGHTS, &[], br#"{"weights":{"canary":5}}"#).await;
        assert_eq!((reply.status, reply.problem().as_str()), (415, "not-json"));
        let form = ["content-type: text/plain"];
        assert_eq!(process.call("PATCH", WEIGHTS, &form, br#"{"weights":{"canary":5}}"#).await.status, 415);
        for size in [ADMIN_BODY_BYTES + 1, 10 * 1024 * 1024] {
            let reply = process.patch("shop", &[], &" ".repeat(size)).await;
            assert_eq!((reply.status, reply.problem().as_str()), (413, "body-too-large"));
        }
        let head = format!(
            "PATCH {WEIGHTS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: 10485760\r\nexpect: 100-continue\r\n\r\n"
        );
        assert_eq!(process.send(head.as_bytes()).await.status, 413, "without reading the body");
        assert_eq!(process.live("shop"), (1, vec![100_000, 0]));
        assert_eq!(process.publisher.current().serial, 1);
        assert_eq!(process.patch("shop", &[], r#"{"weights":{"canary":5}}"#).await.status, 200);
    }

    #[tokio::test]
    async fn unknown_paths_and_methods_are_problems() {
        let process = Process::start(shop()).await;
        for path in ["/", "/api/v1/config/nothing", "/api/v1/routes/shop/weights/x", "/api/v2/routes"] {
            let reply = process.get(path).await;
            assert_eq!((reply.status, reply.problem().as_str()), (404, "not-found"), "{path}");
        }
        for (method, path, allow) in [
            ("DELETE", "/api/v1/routes/shop", "get,head"),
            ("GET", WEIGHTS, "patch,put"),
            ("GET", "/api/v1/reload", "post"),
            ("POST", "/metrics", "get,head"),
        ] {
            let reply = process.call(method, path, &[], b"").await;
            assert_eq!((reply.status, reply.problem().as_str()), (405, "method-not-allowed"), "{method} {path}");
            assert_eq!(reply.header("allow"), Some(allow), "{method} {path}");
        }
        let rebound =
            process.send(b"GET /api/v1/routes HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n").await;
        assert_eq!((rebound.status, rebound.problem().as_str()), (403, "host-not-local"));
    }

    #[tokio::test]
    async fn tokens_open_what_their_role_may_do() {
        let tokens = vec![token("eye", Role::Viewer), token("ci", Role::Operator)];
        let process = Process::start(with_tokens(shop(), tokens)).await;
        let refused = process.get("/api/v1/routes").await;
        assert_eq!((refused.status, refused.problem().as_str()), (401, "unauthorized"));
        assert_eq!(refused.header("www-authenticate"), Some("bearer realm=\"weir\""));
        assert_eq!(process.get("/metrics").await.status, 401);
        assert_eq!(process.get("/readyz").await.status, 200);
        let body = r#"{"weights":{"canary":5}}"#;
        let refused = process.patch("shop", &["authorization: Bearer secret-eye"], body).await;
        assert_eq!((refused.status, refused.problem().as_str()), (403, "role-too-low"));
        assert!(refused.json()["detail"].as_str().unwrap().contains("operator"));
        assert_eq!(process.patch("shop", &["authorization: Bearer secret-ci"], body).await.status, 200);
        let reload = process.call("POST", "/api/v1/reload", &["authorization: Bearer secret-ci"], b"").await;
        assert_eq!(reload.status, 403);
    }

    #[tokio::test]
    async fn targets_are_drained_and_enabled_by_admins() {
        let tokens = vec![token("ci", Role::Operator), token("root", Role::Admin)];
        let process = Process::start(with_tokens(shop(), tokens)).await;
        let target = "/api/v1/pools/pool/targets/127.0.0.1%3A9";
        let call = async |actor: &str, call: &str, body: &[u8]| {
            let token = format!("authorization: Bearer secret-{actor}");
            process.call("POST", call, &[token.as_str(), "content-type: application/json"], body).await
        };
        assert_eq!(call("ci", &format!("{target}/drain"), b"").await.status, 403);
        let dry = call("root", &format!("{target}/drain?dry_run=true"), b"").await;
        assert_eq!(
            (dry.status, &dry.json()["standing"], &dry.json()["dry_run"]),
            (200, &json!("draining"), &json!(true))
        );
        assert_eq!(process.publisher.current().serial, 1);
        let drained = call("root", &format!("{target}/drain"), br#"{"reason":"try"}"#).await.json();
        let expected = json!({"pool": "pool", "name": "127.0.0.1:9", "addresses": ["127.0.0.1:9"], "standing": "draining",
            "dns_failing": null, "weight": 1,
            "endpoints": [{"address": "127.0.0.1:9", "weight": 1, "standing": "draining", "ejected": false}],
            "healthy": false, "ejected": false, "since": null, "why": null, "checks": [], "in_flight": 0, "changed": true, "usable_targets": 0});
        assert_eq!(drained, expected);
        assert_eq!(process.publisher.current().pools[0].best(), None);
        assert_eq!(call("root", &format!("{target}/drain"), b"").await.json()["changed"], false);
        let back = call("root", &format!("{target}/enable"), b"").await.json();
        assert_eq!(
            (&back["standing"], &back["changed"], &back["usable_targets"]),
            (&json!("up"), &json!(true), &json!(1))
        );
        for (call_, slug) in [
            ("/api/v1/pools/pol/targets/127.0.0.1:9/drain", "no-such-pool"),
            ("/api/v1/pools/pool/targets/127.0.0.1:8/enable", "no-such-target"),
        ] {
            let refused = call("root", call_, b"").await;
            assert_eq!((refused.status, refused.problem().as_str()), (404, slug));
        }
        let odd = call("root", &format!("{target}/drain"), br#"{"reasn":"x"}"#).await;
        assert_eq!((odd.status, odd.json()["field"].as_str()), (400, Some("reasn")));
    }

    #[tokio::test]
    async fn readiness_ends_with_the_drain_and_the_api_does_not() {
        let process = Process::start(shop()).await;
        assert_eq!(process.get("/readyz").await.json()["state"]["status"], "memory only");
        process.drain.advance(Phase::Draining);
        let reply = process.get("/readyz").await;
        assert_eq!((reply.status, reply.problem().as_str()), (503, "not-ready"));
        assert_eq!(process.get("/healthz").await.body, b"ok\n");
        assert_eq!(process.patch("shop", &[], r#"{"weights":{"canary":5}}"#).await.status, 200);
    }

    #[tokio::test]
    async fn stats_are_exact_integers() {
        let process = Process::start(shop()).await;
        let table = process.publisher.current();
        for shard in &table.outcomes[0][1].shards {
            shard.requests[0][Code::Success as usize].add((1 << 53) + 1);
            shard.requests[1][Code::ServerError as usize].add(2);
            shard.errors[Reason::Timeout as usize].add(3);
            shard.duration.observe_us(700);
        }
        // One worker's gauge may be below 0 when another ended what it began.
        table.outcomes[0][1].shards[0].in_flight.sub(1);
        table.outcomes[0][1].shards[1].in_flight.add(4);
        let stats = process.get("/api/v1/stats").await.json();
        let canary = &stats["routes"][0]["variants"][1];
        assert_eq!(canary["unforced"]["2xx"], (1u64 << 54) + 2);
        assert_eq!((&canary["forced"]["5xx"], &canary["errors"]["timeout"]), (&json!(4), &json!(6)));
        assert_eq!((&canary["requests"], &canary["in_flight"]), (&json!((1u64 << 54) + 6), &json!(3)));
        assert_eq!((&stats["bucket_bounds_us"][1], &canary["duration"]["buckets"][1]), (&json!(1000), &json!(2)));
        assert_eq!(canary["duration"]["buckets"].as_array().unwrap().len(), 17);
        assert_eq!((&canary["duration"]["sum_us"], &canary["duration"]["count"]), (&json!(1400), &json!(2)));
    }

    #[tokio::test]
    async fn every_child_of_a_family_is_there_at_0_from_the_start() {
        let mut two = config(&[("shop", &[("stable", 100.0), ("canary", 0.0)]), ("api", &[("blue", 100.0)])]);
        two.admin.metrics = Some(([127, 0, 0, 1], 0).into());
        let mut process = Process::start(two).await;
        let reply = process.get("/metrics").await;
        assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4"));
        let text = String::from_utf8(reply.body).unwrap();
        for line in [
            r#"weir_requests_total{route="shop",variant="canary",code="none",forced="true"} 0"#,
            r#"weir_requests_total{route="api",variant="blue",code="5xx",forced="false"} 0"#,
            r#"weir_request_errors_total{route="shop",variant="stable",reason="client_abort"} 0"#,
            r#"weir_request_duration_seconds_bucket{route="shop",variant="canary",le="0.0005"} 0"#,
            r#"weir_request_duration_seconds_bucket{route="shop",variant="canary",le="60"} 0"#,
            r#"weir_request_duration_seconds_bucket{route="shop",variant="canary",le="+Inf"} 0"#,
            r#"weir_upstream_duration_seconds_sum{route="shop",variant="canary"} 0"#,
            "weir_overhead_seconds_count 0",
            "weir_unrouted_requests_total 0",
            r#"weir_variant_weight{route="shop",variant="stable",kind="live"} 100"#,
            r#"weir_variant_weight{route="shop",variant="canary",kind="configured"} 0"#,
            r#"weir_route_generation{route="shop"} 1"#,
            r#"weir_target_up{pool="pool",target="127.0.0.1:9"} 1"#,
            r#"weir_target_ejections_total{pool="pool",reason="consecutive_5xx"} 0"#,
            "weir_config_last_reload_success 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.lines().filter(|line| line.starts_with("weir_requests_total{")).count(), 3 * 12);
        assert!(text.contains("process_resident_memory_bytes"));
        process.addr = process.control.admin_addrs()[1];
        assert_eq!(process.get("/metrics").await.status, 200);
        assert_eq!(process.get("/healthz").await.status, 200);
        assert_eq!(process.get("/api/v1/routes").await.status, 404);
        let any_host = process.send(b"GET /metrics HTTP/1.1\r\nhost: weir:9902\r\nconnection: close\r\n\r\n").await;
        assert_eq!(any_host.status, 200);
    }

    #[tokio::test]
    async fn a_change_sent_twice_with_one_key_is_done_once() {
        let process = Process::start(shop()).await;
        let key = ["idempotency-key: 7c1e"];
        let first = process.patch("shop", &key, r#"{"weights":{"canary":5}}"#).await;
        assert_eq!(process.patch("shop", &[], r#"{"weights":{"canary":50}}"#).await.status, 200);
        let again = process.patch("shop", &key, r#"{"weights":{"canary":5}}"#).await;
        assert_eq!((again.status, &again.body, again.header("etag")), (200, &first.body, Some("\"2\"")));
        assert_eq!(process.live("shop"), (3, vec![50_000, 50_000]));
        let other = process.patch("shop", &key, r#"{"weights":{"canary":6}}"#).await;
        assert_eq!((other.status, other.problem().as_str()), (422, "idempotency-key-reused"));
    }
}
