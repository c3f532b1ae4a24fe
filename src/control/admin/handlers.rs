//! One function a call.

use super::access::{Actor, Peer};
use super::problem::Problem;
use super::{Api, body, documents};
use crate::boundary::drain::Phase;
use crate::control::command::{Origin, ReloadError, RouteView};
use crate::control::handover::{Successor, UpgradeError, UpgradeRequest};
use crate::control::persist::StateError;
use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use std::sync::atomic::Ordering::Relaxed;

/// The process lives.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// It takes new requests.
pub async fn readyz(State(api): State<Api>) -> Response {
    let shared = &api.control.shared;
    let not_ready = |detail: &str| Problem::new(503, "not-ready", detail).into_response();
    if shared.drain.phase() != Phase::Running {
        return not_ready("draining: in-flight requests finish, new ones belong elsewhere");
    }
    if !shared.ready.load(Relaxed) {
        return not_ready("starting: the listeners are not open yet");
    }
    document(StatusCode::OK, &json!({"status": "ready", "state": documents::state(&shared.state)}))
}

pub async fn metrics(State(api): State<Api>) -> Response {
    let _one_at_a_time = api.scraping.acquire().await;
    let exposition = api.exposition.clone();
    match tokio::task::spawn_blocking(move || exposition.text()).await {
        Ok(Ok(text)) => {
            let format = [(header::CONTENT_TYPE, HeaderValue::from_static(prometheus::TEXT_FORMAT))];
            (format, text).into_response()
        }
        Ok(Err(error)) => Problem::new(500, "metrics", error.to_string()).into_response(),
        Err(error) => Problem::new(500, "metrics", error.to_string()).into_response(),
    }
}

pub async fn routes(State(api): State<Api>) -> Response {
    let ground = api.control.ground();
    let rollouts = api.control.rollouts();
    let routes: Vec<_> = ground.views().map(|view| documents::route_with(&view, rollouts.get(view.name()))).collect();
    document(StatusCode::OK, &json!({"routes": routes}))
}

pub async fn route(State(api): State<Api>, route: Result<Path<String>, PathRejection>) -> Response {
    match find(&api, route) {
        Ok(view) => route_document(&documents::route_with(&view, api.control.rollouts().get(view.name()))),
        Err(problem) => problem.into_response(),
    }
}

pub async fn stats(State(api): State<Api>) -> Response {
    let _one_at_a_time = api.scraping.acquire().await;
    let (ground, state) = (api.control.ground(), api.control.shared.state.clone());
    match tokio::task::spawn_blocking(move || documents::stats(&ground, &state)).await {
        Ok(stats) => document(StatusCode::OK, &stats),
        Err(error) => Problem::new(500, "stats", error.to_string()).into_response(),
    }
}

pub async fn reload(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Extension(peer): Extension<Peer>,
) -> Response {
    let origin = Origin { actor: actor.0, source: peer.source.to_string(), reason: None };
    // To its end, also when the client goes away meanwhile.
    let reloading = tokio::spawn(async move { api.control.reload(origin).await });
    match reloading.await.unwrap_or(Err(ReloadError::Stopped)) {
        Ok(summary) => document(StatusCode::OK, &documents::reload(&summary)),
        Err(ReloadError::File(bad)) => {
            let errors = bad.report.errors().count();
            let detail = format!("{} has {errors} error(s); nothing was changed", bad.path);
            let mut findings = bad.report.to_json();
            let problem = Problem::new(400, "invalid-configuration", detail);
            problem
                .with("errors", findings["errors"].take())
                .with("warnings", findings["warnings"].take())
                .into_response()
        }
        Err(error @ ReloadError::Tls(_)) => Problem::new(400, "tls-files", error.to_string()).into_response(),
        Err(ReloadError::NotSaved(error)) => not_saved(&error).into_response(),
        Err(ReloadError::Stopped) => stopping().into_response(),
    }
}

/// Has another process take this one's place.
pub async fn upgrade(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, sent) = request.into_parts();
    let dry_run = body::dry_run(parts.uri.query())?;
    let asked = body::upgrade(&body::read_json_or_nothing(&parts.headers, sent).await?)?;
    let origin = Origin { actor: actor.0, source: peer.source.to_string(), reason: asked.reason };
    let request = UpgradeRequest { binary: asked.binary, dry_run, timeout: asked.timeout, origin };
    // To its end, also when the client goes away meanwhile.
    let upgrading = tokio::spawn(async move { api.control.upgrade(request).await });
    match upgrading.await.unwrap_or(Err(UpgradeError::Stopped)) {
        Ok(Successor { pid: None, version }) => {
            Ok(document(StatusCode::OK, &json!({"dry_run": true, "version": version})))
        }
        Ok(successor) => {
            let shown = json!({"pid": successor.pid, "version": successor.version, "draining": std::process::id()});
            Ok(document(StatusCode::OK, &shown))
        }
        Err(UpgradeError::Refused(why)) => Err(Problem::new(409, "not-upgraded", why)),
        Err(UpgradeError::Failed(why)) => Err(Problem::new(500, "upgrade-failed", why)),
        Err(UpgradeError::TimedOut(why)) => Err(Problem::new(504, "upgrade-timed-out", why)),
        Err(UpgradeError::Stopped) => Err(stopping()),
    }
}

pub fn find(api: &Api, route: Result<Path<String>, PathRejection>) -> Result<RouteView, Problem> {
    let Ok(Path(name)) = route else { return Err(no_route("")) };
    api.control.ground().route(&name).ok_or_else(|| no_route(&name))
}

pub fn no_route(name: &str) -> Problem {
    Problem::new(404, "no-such-route", format!("there is no route {name:?}; GET /api/v1/routes lists them"))
}

pub fn not_saved(error: &StateError) -> Problem {
    match error {
        StateError::HandedOver => handed_over(),
        error => Problem::new(507, "state-not-saved", format!("nothing was changed: {error}")),
    }
}

/// An upgrade: the next request may reach the process that takes over.
pub fn handed_over() -> Problem {
    let detail = "another process takes over; nothing was changed: try again";
    Problem::new(503, "handed-over", detail).header(header::RETRY_AFTER, HeaderValue::from_static("1"))
}

pub fn stopping() -> Problem {
    Problem::new(503, "stopping", "weir is stopping; nothing was changed")
}

fn route_document(route: &documents::RouteDocument) -> Response {
    with_etag(document(StatusCode::OK, route), route.generation)
}

pub fn with_etag(mut response: Response, generation: u64) -> Response {
    response.headers_mut().insert(header::ETAG, etag(generation));
    response
}

pub fn etag(generation: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{generation}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

pub fn document(status: StatusCode, document: &impl Serialize) -> Response {
    let mut body = match serde_json::to_vec(document) {
        Ok(body) => body,
        Err(error) => return Problem::new(500, "internal", error.to_string()).into_response(),
    };
    body.push(b'\n');
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, body).into_response()
}
