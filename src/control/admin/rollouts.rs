//! Rollouts: what they are at, and what is asked of them.

use super::access::{Actor, Peer};
use super::changes::once;
use super::handlers::{document, etag, find, not_saved, stopping, with_etag};
use super::problem::Problem;
use super::{Api, body, documents};
use crate::control::command::{Origin, RouteView};
use crate::control::history::{PROMOTE, percent, rfc3339, shares};
use crate::control::rollout::view::View;
use crate::control::rollout::{Act, ActError, Acted, Asked};
use crate::judge::{Judgement, MetricVerdict};
use crate::rollout::{CandidateStatus, Phase, Plan, Stay, Strategy};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub async fn all(State(api): State<Api>) -> Response {
    let ground = api.control.ground();
    let views = api.control.rollouts();
    let shown = ground.views().filter_map(|route| shown(&route, views.get(route.name())));
    document(StatusCode::OK, &json!({"rollouts": shown.collect::<Vec<_>>()}))
}

pub async fn one(State(api): State<Api>, route: Result<Path<String>, PathRejection>) -> Response {
    let route = match find(&api, route) {
        Ok(route) => route,
        Err(problem) => return problem.into_response(),
    };
    match shown(&route, api.control.rollouts().get(route.name())) {
        Some(rollout) => with_etag(document(StatusCode::OK, &rollout), route.live.generation),
        None => refusal(ActError::NoPlan(route.name().to_owned())).into_response(),
    }
}

pub async fn act(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Response {
    let asked = |path: Result<Path<(String, String)>, PathRejection>| {
        let Ok(Path((route, verb))) = path else { return find(&api, Ok(Path(String::new()))).map(|view| (view, "")) };
        let known = ["start", "pause", "resume", "promote", "abort", "retry", "undo"];
        let verb = known.into_iter().find(|known| *known == verb).ok_or_else(|| {
            Problem::new(404, "not-found", format!("nothing is called {verb:?} here; there are {}", known.join(", ")))
        })?;
        Ok((find(&api, Ok(Path(route)))?, verb))
    };
    match asked(path) {
        Ok((view, verb)) => perform(api, view, verb, request).await.unwrap_or_else(Problem::into_response),
        Err(problem) => problem.into_response(),
    }
}

async fn perform(api: Api, view: RouteView, verb: &str, request: Request) -> Result<Response, Problem> {
    let dry_run = body::dry_run(request.uri().query())?;
    let if_match = body::if_match(request.headers());
    let (parts, sent) = request.into_parts();
    let bytes = body::read_json_or_nothing(&parts.headers, sent).await?;
    let body::ActBody { full, to, force, reason } = body::act(&bytes, verb == "promote")?;
    let act = match verb {
        "start" => Act::Start,
        "pause" => Act::Pause,
        "resume" => Act::Resume,
        "promote" => Act::Promote { full, to },
        "abort" => Act::Abort,
        "retry" => Act::Retry,
        _ => Act::Undo,
    };
    let origin = origin(&parts, reason);
    let asked = Asked { route: view.name().to_owned(), act, force, if_match, dry_run, origin };
    if dry_run {
        let acted = api.control.roll(asked.clone()).await.map_err(refusal)?;
        return Ok(document(StatusCode::OK, &would(&view, &acted)));
    }
    let work = {
        let api = api.clone();
        async move { answer(&api, asked).await }
    };
    once(api, &parts, &bytes, work).await
}

async fn answer(api: &Api, asked: Asked) -> Response {
    let name = asked.route.clone();
    match api.control.roll(asked).await {
        Ok(_) => {
            let Some(route) = api.control.ground().route(&name) else { return stopping().into_response() };
            let shown = shown(&route, api.control.rollouts().get(&name)).unwrap_or_default();
            with_etag(document(StatusCode::OK, &shown), route.live.generation)
        }
        Err(error) => refusal(error).into_response(),
    }
}

pub fn origin(parts: &Parts, reason: Option<String>) -> Origin {
    let actor = parts.extensions.get::<Actor>().map_or("unknown", |actor| actor.0.as_str()).to_owned();
    let source = parts.extensions.get::<Peer>().map_or("unknown", |peer| &peer.source).to_owned();
    Origin { actor, source, reason }
}

/// An undo of the route means its rollout: that one promoted last, and nothing came after.
pub fn is_undone_by(api: &Api, view: &RouteView) -> bool {
    let views = api.control.rollouts();
    let Some(rollout) = views.get(view.name()) else { return false };
    let newest = view.live.history.newest().map(|entry| entry.revision().action);
    match rollout.status.phase {
        Phase::Watching => rollout.status.pause.is_none(),
        Phase::Promoted => newest.is_some_and(|action| action == PROMOTE),
        _ => false,
    }
}

pub fn refusal(error: ActError) -> Problem {
    let detail = error.to_string();
    match error {
        ActError::NoRoute(name) => super::handlers::no_route(&name),
        ActError::NoPlan(_) | ActError::NotStarted(_) => Problem::new(404, "no-rollout", detail),
        ActError::Stale(view) => documents::stale(&view).header(header::ETAG, etag(view.live.generation)),
        ActError::Refused(_) | ActError::Plan(_) | ActError::Weights(_) => Problem::new(409, "rollout-refused", detail),
        ActError::Variant(_) => Problem::new(400, "invalid-body", detail).field("to"),
        ActError::NotSaved(error) => not_saved(&error),
        ActError::Stopped => stopping(),
    }
}

pub fn would(view: &RouteView, acted: &Acted) -> Value {
    json!({
        "route": view.name(),
        "dry_run": true,
        "generation": view.live.generation,
        "before": shares(&acted.before),
        "after": shares(&acted.after),
        "changed": acted.before != acted.after,
        "phase": acted.phase,
    })
}

/// In the route's document.
pub fn brief(view: &View) -> Value {
    let status = &view.status;
    json!({
        "state": state(view),
        "phase": status.phase,
        "step": status.step,
        "steps": status.steps,
        "remaining_s": view.remaining_ms().map(seconds),
        "reason": status.reason,
    })
}

/// None for a route that has no rollout, and none in its configuration.
fn shown(route: &RouteView, view: Option<&Arc<View>>) -> Option<Value> {
    let config = &route.config.routes[route.index];
    let Some(view) = view else {
        let rollout = config.rollout.as_ref()?;
        let variants: Vec<String> = config.variants.iter().map(|variant| variant.name.clone()).collect();
        let plan = rollout.plan(&variants, 0);
        return Some(json!({
            "route": config.name, "generation": route.live.generation, "state": "idle", "phase": null,
            "strategy": strategy(plan.strategy), "step": 0, "steps": plan.steps.len() + 1, "plan": steps(&plan),
            "live": documents::weights(config, &route.live.weights),
        }));
    };
    let status = &view.status;
    let wanted = view.plan.variants.iter().cloned().zip(status.weights.weights().iter().copied());
    let frozen = status.frozen_until_ms.and_then(|ms| Timestamp::from_millisecond(ms.cast_signed()).ok());
    let candidates = status.candidates.iter().enumerate().map(|(at, one)| candidate(view, at + 1, one));
    Some(json!({
        "route": config.name,
        "generation": route.live.generation,
        "state": state(view),
        "phase": status.phase,
        "strategy": strategy(view.plan.strategy),
        "step": status.step,
        "steps": status.steps,
        "plan": steps(&view.plan),
        "remaining_s": view.remaining_ms().map(seconds),
        "held_s": seconds(status.held_ms),
        "pause": status.pause,
        "frozen_until": frozen.map(rfc3339),
        "reason": status.reason,
        "started_by": view.started_by,
        "weights": shares(&wanted.collect::<Vec<_>>()),
        "live": documents::weights(config, &route.live.weights),
        "candidates": candidates.collect::<Vec<_>>(),
    }))
}

fn state(view: &View) -> Value {
    match (&view.status.pause, view.status.phase) {
        (Some(_), phase) if !phase.is_over() => json!("paused"),
        (_, phase) => json!(phase),
    }
}

fn strategy(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Canary => "canary",
        Strategy::BlueGreen => "blue-green",
    }
}

/// With the last one, everything to the winner.
fn steps(plan: &Plan) -> Vec<Value> {
    let weights = |weights: &[crate::routing::split::Weight]| -> Map<String, Value> {
        plan.variants.iter().zip(weights).skip(1).map(|(name, weight)| (name.clone(), percent(*weight))).collect()
    };
    let mut steps: Vec<Value> = plan
        .steps
        .iter()
        .map(|step| match step.stay {
            Stay::For { ms } => json!({"weights": weights(step.weights.weights()), "for_s": seconds(ms)}),
            Stay::UntilPromoted => json!({"weights": weights(step.weights.weights()), "pause": true}),
        })
        .collect();
    let winner = plan.winner.map(|winner| json!({plan.name_of(winner): 100}));
    steps.push(json!({"weights": winner, "keep_old_s": seconds(plan.keep_old_ms)}));
    steps
}

fn candidate(view: &View, at: usize, status: &CandidateStatus) -> Value {
    let judgement = view.judgements.get(at).and_then(Option::as_ref);
    let exposure = view.exposure.get(at).cloned().unwrap_or_default();
    json!({
        "variant": status.variant,
        "out": status.is_out,
        "verdict": judgement.map(|judgement| judgement.verdict),
        "reason": judgement.map(|judgement| &judgement.reason),
        "requests": exposure.requests,
        "failures": exposure.failures,
        "excess_failures": status.excess_failures,
        "max_failures": view.plan.max_failures,
        "metrics": judgement.map(metrics),
        "alarm": judgement.and_then(|judgement| judgement.alarm.as_ref()),
    })
}

fn metrics(judgement: &Judgement) -> Vec<Value> {
    let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
    let metric = |metric: &MetricVerdict| {
        json!({
            "name": metric.name, "verdict": metric.verdict, "cause": metric.cause, "unit": metric.unit,
            "value": finite(metric.candidate), "baseline": finite(metric.baseline), "limit": finite(metric.limit),
            "samples": metric.samples, "needs": metric.needs, "reason": metric.reason,
        })
    };
    judgement.metrics.iter().map(metric).collect()
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
