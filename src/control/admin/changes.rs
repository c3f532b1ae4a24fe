//! Changes of a route's live state, all by one path: read strictly, under a condition, at most once for a key, or dry.

use super::access::Actor;
use super::handlers::{document, etag, find, no_route, not_saved, stopping, with_etag};
use super::idempotency::{Answer, Key};
use super::problem::Problem;
use super::{Api, body, documents, rollouts};
use crate::control::command::{
    ChangeError, Changed, Edit, IfMatch, Origin, RouteView, Switch, UndoRefused, WeightChange,
};
use crate::control::rollout::{Act, ActError, Asked};
use crate::limits::ADMIN_BODY_BYTES;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::time::Instant;

type Route = Result<Path<String>, PathRejection>;

pub async fn history(State(api): State<Api>, route: Route, request: Request) -> Response {
    let shown = find(&api, route).and_then(|view| Ok((body::limit(request.uri().query())?, view)));
    match shown {
        Ok((limit, view)) => {
            with_etag(document(StatusCode::OK, &documents::history(&view, limit)), view.live.generation)
        }
        Err(problem) => problem.into_response(),
    }
}

pub async fn patch_weights(State(api): State<Api>, route: Route, request: Request) -> Response {
    let asked =
        |bytes: &[u8]| body::weights(bytes).map(|body| (Edit::Patch(body.weights), body.reason, body.overrides));
    change(api, route, request, asked).await.unwrap_or_else(Problem::into_response)
}

pub async fn put_weights(State(api): State<Api>, route: Route, request: Request) -> Response {
    let asked =
        |bytes: &[u8]| body::weights(bytes).map(|body| (Edit::Replace(body.weights), body.reason, body.overrides));
    change(api, route, request, asked).await.unwrap_or_else(Problem::into_response)
}

pub async fn undo(State(api): State<Api>, route: Route, request: Request) -> Response {
    let asked = |bytes: &[u8]| body::undo(bytes).map(|body| (Edit::Undo { to: body.to }, body.reason, body.overrides));
    change(api, route, request, asked).await.unwrap_or_else(Problem::into_response)
}

pub async fn switch(State(api): State<Api>, route: Route, request: Request) -> Response {
    let asked = |bytes: &[u8]| {
        let body = body::switch(bytes)?;
        let switch = Switch { to: body.to, force: body.force, probed: None, overrode: Vec::new() };
        Ok((Edit::Switch(switch), body.reason, body.overrides))
    };
    change(api, route, request, asked).await.unwrap_or_else(Problem::into_response)
}

/// `asked` reads the body: the edit, its reason, and whether a rollout is overridden.
async fn change(
    api: Api,
    route: Route,
    request: Request,
    asked: impl FnOnce(&[u8]) -> Result<(Edit, Option<String>, bool), Problem>,
) -> Result<Response, Problem> {
    let view = find(&api, route)?;
    let dry_run = body::dry_run(request.uri().query())?;
    let if_match = body::if_match(request.headers());
    if if_match.is_none() && request.method() == Method::PUT {
        let detail = "PUT needs If-Match with the generation that it is to replace: the ETag of GET";
        return Err(Problem::new(428, "generation-needed", detail).field("header:if-match"));
    }
    let (parts, sent) = request.into_parts();
    let bytes = match parts.method {
        Method::POST => body::read_json_or_nothing(&parts.headers, sent).await?,
        _ => body::read_json(&parts.headers, sent).await?,
    };
    let (edit, reason, overrides) = asked(&bytes)?;
    let origin = rollouts::origin(&parts, reason);
    if matches!(edit, Edit::Undo { to: None }) && rollouts::is_undone_by(&api, &view) {
        return undo_rollout(api, &view, &parts, &bytes, (if_match, dry_run, origin)).await;
    }
    let change = WeightChange { route: view.name().to_owned(), edit, if_match, overrides, origin };
    if dry_run {
        let would = api.control.would_change(&change).await.map_err(refusal)?;
        return Ok(document(StatusCode::OK, &documents::dry_run(&would)));
    }
    let work = {
        let api = api.clone();
        async move { carried_out(&api, &change).await }
    };
    once(api, &parts, &bytes, work).await
}

/// A rollout that is under way is paused first, where the change would be possible without it.
async fn carried_out(api: &Api, change: &WeightChange) -> Response {
    let is_under_way = api
        .control
        .ground()
        .route(&change.route)
        .is_some_and(|view| view.live.rollout.as_ref().is_some_and(|rollout| rollout.under_way));
    if change.overrides && is_under_way {
        if let Err(error) = api.control.would_change(change).await {
            return refusal(error).into_response();
        }
        let (route, origin) = (change.route.clone(), change.origin.clone());
        let asked = Asked { route, act: Act::Shifted, force: false, if_match: None, dry_run: false, origin };
        match api.control.roll(asked).await {
            // Over by itself meanwhile: then there is nothing to pause.
            Ok(_) | Err(ActError::Refused(_)) => {}
            Err(error) => return rollouts::refusal(error).into_response(),
        }
    }
    match api.control.change(change).await {
        Ok(changed) => done(&changed),
        Err(error) => refusal(error).into_response(),
    }
}

/// Back to the baseline, by the rollout that promoted the other one.
async fn undo_rollout(
    api: Api,
    view: &RouteView,
    parts: &Parts,
    bytes: &[u8],
    (if_match, dry_run, origin): (Option<IfMatch>, bool, Origin),
) -> Result<Response, Problem> {
    let route = view.name().to_owned();
    let asked = Asked { route: route.clone(), act: Act::Undo, force: false, if_match, dry_run, origin };
    if dry_run {
        let acted = api.control.roll(asked).await.map_err(rollouts::refusal)?;
        return Ok(document(StatusCode::OK, &rollouts::would(view, &acted)));
    }
    let work = {
        let api = api.clone();
        async move {
            match api.control.roll(asked).await {
                Ok(_) => match api.control.ground().route(&route) {
                    Some(view) => {
                        let mut shown = json!(documents::route_with(&view, api.control.rollouts().get(&route)));
                        shown["changed"] = json!(true);
                        with_etag(document(StatusCode::OK, &shown), view.live.generation)
                    }
                    None => stopping().into_response(),
                },
                Err(error) => rollouts::refusal(error).into_response(),
            }
        }
    };
    once(api, parts, bytes, work).await
}

/// Carries something out to its end, also when the client goes away meanwhile, and at most once for a key.
pub async fn once(
    api: Api,
    parts: &Parts,
    bytes: &[u8],
    work: impl Future<Output = Response> + Send + 'static,
) -> Result<Response, Problem> {
    let actor = parts.extensions.get::<Actor>().map_or("unknown", |actor| actor.0.as_str()).to_owned();
    let key = idempotency_key(&parts.headers, actor);
    let request = [parts.method.as_str().as_bytes(), parts.uri.path().as_bytes(), bytes].join(&0);
    let request = xxhash_rust::xxh3::xxh3_64(&request);
    if let Some(key) = &key
        && let Some(answer) = api.remembered.begin(key, request, Instant::now())?
    {
        return Ok((answer.status, answer.headers, answer.body).into_response());
    }
    let changing = tokio::spawn(async move {
        let response = work.await;
        match key {
            Some(key) => remember(&api, &key, response).await,
            None => response,
        }
    });
    changing.await.map_err(|_| stopping())
}

fn done(changed: &Changed) -> Response {
    with_etag(document(StatusCode::OK, &documents::changed(changed)), changed.route.live.generation)
}

pub(super) fn idempotency_key(headers: &HeaderMap, actor: String) -> Option<Key> {
    let key = headers.get("idempotency-key")?;
    Some(Key { actor, key: String::from_utf8_lossy(key.as_bytes()).into_owned() })
}

pub(super) async fn remember(api: &Api, key: &Key, response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, ADMIN_BODY_BYTES).await.unwrap_or_default();
    let answer = Answer { status: parts.status, headers: parts.headers.clone(), body: body.clone() };
    api.remembered.finish(key, answer);
    Response::from_parts(parts, body.into())
}

fn refusal(error: ChangeError) -> Problem {
    let detail = error.to_string();
    match error {
        ChangeError::NoRoute(name) => no_route(&name),
        ChangeError::Stale(view) => documents::stale(&view).header(header::ETAG, etag(view.live.generation)),
        ChangeError::Rollout(_) => Problem::new(409, "rollout-under-way", detail),
        ChangeError::Weights { field, detail } => Problem::new(400, "invalid-weights", detail).field(field),
        ChangeError::Undo(refused) => {
            let (status, slug) = match refused.why {
                UndoRefused::Unknown => (404, "no-such-revision"),
                UndoRefused::Nothing => (409, "nothing-to-undo"),
                UndoRefused::VariantsChanged => (409, "variants-changed"),
            };
            Problem::new(status, slug, detail).with("revisions", json!(refused.revisions))
        }
        ChangeError::Unhealthy { targets, .. } => {
            let targets = targets.iter().map(|bad| json!({"target": bad.target, "why": bad.why}));
            Problem::new(409, "targets-not-healthy", detail).with("targets", targets.collect())
        }
        ChangeError::Unprobed(_) => Problem::new(409, "targets-changed", detail),
        ChangeError::NotSaved(error) => not_saved(&error),
        ChangeError::Stopped => stopping(),
    }
}
