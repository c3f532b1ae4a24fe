//! One function a call.

use super::access::{Actor, Peer};
use super::idempotency::{Answer, Key};
use super::problem::Problem;
use super::{Api, body, documents};
use crate::boundary::drain::Phase;
use crate::control::command::{ChangeError, Edit, Origin, ReloadError, RouteView, WeightChange};
use crate::limits::ADMIN_BODY_BYTES;
use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

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
    let routes: Vec<_> = ground.views().map(|view| documents::route(&view)).collect();
    document(StatusCode::OK, &json!({"routes": routes}))
}

pub async fn route(State(api): State<Api>, route: Result<Path<String>, PathRejection>) -> Response {
    match find(&api, route) {
        Ok(view) => route_document(&documents::route(&view)),
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

pub async fn reload(State(api): State<Api>, Extension(actor): Extension<Actor>) -> Response {
    // To its end, also when the client goes away meanwhile.
    let reloading = tokio::spawn(async move { api.control.reload(&actor.0).await });
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
        Err(ReloadError::NotSaved(error)) => not_saved(&error.to_string()).into_response(),
        Err(ReloadError::Stopped) => stopping().into_response(),
    }
}

pub async fn patch_weights(
    State(api): State<Api>,
    route: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    change_weights(api, route, request, Edit::Patch).await.unwrap_or_else(Problem::into_response)
}

pub async fn put_weights(
    State(api): State<Api>,
    route: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    change_weights(api, route, request, Edit::Replace).await.unwrap_or_else(Problem::into_response)
}

type Weights = Vec<(String, crate::routing::split::Weight)>;

async fn change_weights(
    api: Api,
    route: Result<Path<String>, PathRejection>,
    request: Request,
    edit: fn(Weights) -> Edit,
) -> Result<Response, Problem> {
    let view = find(&api, route)?;
    let dry_run = body::dry_run(request.uri().query())?;
    let if_match = body::if_match(request.headers());
    if if_match.is_none() && request.method() == Method::PUT {
        let detail = "PUT needs If-Match with the generation that it is to replace: the ETag of GET";
        return Err(Problem::new(428, "generation-needed", detail).field("header:if-match"));
    }
    let (parts, sent) = request.into_parts();
    let bytes = body::read_json(&parts.headers, sent).await?;
    let asked = body::weights(&bytes)?;
    let actor = parts.extensions.get::<Actor>().map_or("unknown", |actor| actor.0.as_str()).to_owned();
    let source = parts.extensions.get::<Peer>().map_or("unknown", |peer| &peer.source).to_owned();
    let change = WeightChange {
        route: view.name().to_owned(),
        edit: edit(asked.weights),
        if_match,
        origin: Origin { actor: actor.clone(), source, reason: asked.reason },
    };
    if dry_run {
        return would_change(&api, &change);
    }
    let key = parts
        .headers
        .get("idempotency-key")
        .map(|key| Key { actor, key: String::from_utf8_lossy(key.as_bytes()).into_owned() });
    let request = [parts.method.as_str().as_bytes(), parts.uri.path().as_bytes(), &bytes].join(&0);
    let request = xxhash_rust::xxh3::xxh3_64(&request);
    if let Some(key) = &key
        && let Some(answer) = api.remembered.begin(key, request, Instant::now())?
    {
        return Ok((answer.status, answer.headers, answer.body).into_response());
    }
    // To its end, also when the client goes away meanwhile.
    let changing = tokio::spawn(async move {
        let response = match api.control.change_weights(change).await {
            Ok(changed) => route_document(&documents::changed(&changed)),
            Err(error) => refusal(error).into_response(),
        };
        match key {
            Some(key) => remember(&api, &key, response).await,
            None => response,
        }
    });
    changing.await.map_err(|_| stopping())
}

fn would_change(api: &Api, change: &WeightChange) -> Result<Response, Problem> {
    let ground = api.control.ground();
    let after = ground.changed(change).map_err(refusal)?;
    let before = ground.route(&change.route).ok_or_else(|| no_route(&change.route))?;
    Ok(document(StatusCode::OK, &documents::dry_run(&before, &after)))
}

async fn remember(api: &Api, key: &Key, response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, ADMIN_BODY_BYTES).await.unwrap_or_default();
    let answer = Answer { status: parts.status, headers: parts.headers.clone(), body: body.clone() };
    api.remembered.finish(key, answer);
    Response::from_parts(parts, body.into())
}

fn find(api: &Api, route: Result<Path<String>, PathRejection>) -> Result<RouteView, Problem> {
    let Ok(Path(name)) = route else { return Err(no_route("")) };
    api.control.ground().route(&name).ok_or_else(|| no_route(&name))
}

fn refusal(error: ChangeError) -> Problem {
    match error {
        ChangeError::NoRoute(name) => no_route(&name),
        ChangeError::Stale(view) => documents::stale(&view).header(header::ETAG, etag(view.live.generation)),
        ChangeError::Weights { field, detail } => Problem::new(400, "invalid-weights", detail).field(field),
        ChangeError::NotSaved(error) => not_saved(&error.to_string()),
        ChangeError::Stopped => stopping(),
    }
}

pub(super) fn no_route(name: &str) -> Problem {
    Problem::new(404, "no-such-route", format!("there is no route {name:?}; GET /api/v1/routes lists them"))
}

fn not_saved(why: &str) -> Problem {
    Problem::new(507, "state-not-saved", format!("nothing was changed: {why}"))
}

fn stopping() -> Problem {
    Problem::new(503, "stopping", "weir is stopping; nothing was changed")
}

fn route_document(route: &documents::RouteDocument) -> Response {
    let mut response = document(StatusCode::OK, route);
    response.headers_mut().insert(header::ETAG, etag(route.generation));
    response
}

fn etag(generation: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{generation}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

pub(super) fn document(status: StatusCode, document: &impl Serialize) -> Response {
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
