//! POST `/api/v1/explain` and `/api/v1/routes/{route}/explain`: where a request would go, and why. Changes nothing.
//!
//! The request that the caller describes is made into what the proxy would have read, brought into origin form by the
//! same function, and decided on the table that the workers have. What is refused there is refused here, by its field.

mod body;

use super::Api;
use super::body::read_json;
use super::documents::percent;
use super::handlers::{document, no_route};
use super::problem::Problem;
use crate::boundary::table::Published;
use crate::routing::explain::{Asked, Considered, Trace, explain};
use crate::routing::request::{Unfit, forwarded_for, to_origin_form};
use crate::routing::split::Weight;
use crate::routing::sticky::Fallback;
use crate::routing::table::{Decision, RequestView, Route};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, request};
use axum::response::{IntoResponse, Response};
use body::Described;
use rand::SeedableRng;
use rand::rngs::{SmallRng, SysRng};
use serde_json::{Map, Value, json};
use std::net::{IpAddr, Ipv4Addr};

/// How a target is chosen where a pool has several.
const BALANCE: &str = "least in flight of two random ones";

pub async fn of_any(State(api): State<Api>, request: Request) -> Response {
    answer(api, None, request).await.unwrap_or_else(Problem::into_response)
}

pub async fn of_route(
    State(api): State<Api>,
    route: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let name = route.map(|Path(name)| name).unwrap_or_default();
    answer(api, Some(name), request).await.unwrap_or_else(Problem::into_response)
}

/// `asked` is the route that the caller asks about.
async fn answer(api: Api, asked: Option<String>, request: Request) -> Result<Response, Problem> {
    let table = api.control.table();
    let asked = match asked {
        None => None,
        Some(name) => {
            let index = table.routing.routes().iter().position(|route| route.name == name);
            Some(index.ok_or_else(|| no_route(&name))?)
        }
    };
    let (parts, sent) = request.into_parts();
    let bytes = read_json(&parts.headers, sent).await?;
    let described = body::described(&bytes, table.settings.limits.max_headers)?;
    let internal = |error: &dyn std::fmt::Display| Problem::new(500, "internal", error.to_string());
    let mut rng = SmallRng::try_from_rng(&mut SysRng).map_err(|error| internal(&error))?;
    // Off the thread that changes and other calls wait for: 10,000 routes are asked.
    let explained = tokio::task::spawn_blocking(move || explained(&table, described, asked, &mut rng)).await;
    Ok(document(StatusCode::OK, &explained.map_err(|error| internal(&error))??))
}

/// Whose request it is taken for.
struct Client {
    ip: IpAddr,
    /// `given`, `assumed` or `x-forwarded-for`.
    source: &'static str,
}

fn explained(
    table: &Published,
    described: Described,
    asked: Option<usize>,
    rng: &mut SmallRng,
) -> Result<Value, Problem> {
    let Described { mut parts, client_ip } = described;
    to_origin_form(&mut parts).map_err(unfit)?;
    let client = client(table, &parts, client_ip);
    let request = RequestView::of(&parts, client.ip);
    let trace = explain(&table.routing, &request, asked, rng);
    Ok(shown(table, &trace, asked, &client))
}

/// The address that connects, or whom it says it has the request from, where it is a trusted proxy.
fn client(table: &Published, parts: &request::Parts, given: Option<IpAddr>) -> Client {
    let peer = given.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)).to_canonical();
    let is_trusted = |ip: IpAddr| table.settings.trusted_proxies.iter().any(|net| net.contains(&ip));
    let forwarded = if is_trusted(peer) { forwarded_for(&parts.headers, is_trusted) } else { None };
    match forwarded {
        Some(ip) => Client { ip, source: "x-forwarded-for" },
        None => Client { ip: peer, source: if given.is_some() { "given" } else { "assumed" } },
    }
}

fn unfit(unfit: Unfit) -> Problem {
    let (field, detail) = match unfit {
        Unfit::Connect => ("method", "CONNECT is for forward proxies; Weir answers it with 405"),
        Unfit::Target => ("path", "no target that a server answers; Weir answers it with 400"),
        Unfit::Host => ("host", "a request has exactly one valid host; Weir answers others with 400"),
    };
    body::invalid(field, detail)
}

/// The answer's document; members that nothing decided are null.
fn shown(table: &Published, trace: &Trace, asked: Option<usize>, client: &Client) -> Value {
    let routes = table.routing.routes();
    let decision = trace.decision.as_ref();
    let route = decision.map(|decision| &routes[decision.route]);
    let variant = route.zip(decision).map(|(route, decision)| &route.variants[decision.variant]);
    let pool = variant.map(|variant| &table.pools[variant.pool]);
    let targets: Vec<&str> = pool.iter().flat_map(|pool| &pool.targets).map(|target| target.name.as_str()).collect();
    let weights = route.zip(trace.weights.as_deref());
    let share = decision.zip(trace.weights.as_ref()).map(|(decision, weights)| percent(weights[decision.variant]));
    let mut document = asked.map_or_else(Map::new, |asked| about(routes, trace, asked));
    let members = json!({
        "route": route.map(|route| &route.name),
        "generation": decision.map(|decision| table.generations[decision.route]),
        "rule": route.zip(decision).and_then(|(route, decision)| Some(&route.rules[decision.rule?].name)),
        "forced": decision.is_some_and(|decision| decision.forced),
        "key": trace.key.as_ref().map(|key| json!({"source": key.source, "value": key.value, "new": key.new})),
        "bucket": decision.and_then(|decision| decision.bucket).map(|bucket| bucket.index()),
        "variant": variant.map(|variant| &variant.name),
        "pool": pool.map(|pool| &pool.name),
        "version": pool.and_then(|pool| pool.version.as_ref()),
        "targets": targets,
        "target": if let [only] = targets.as_slice() { Some(only) } else { None },
        "balance": (targets.len() > 1).then_some(BALANCE),
        "weights": weights.map(|(route, weights)| split(route, weights)),
        "share": share,
        "sets_cookie": decision.and_then(|decision| new_cookie(&routes[decision.route], decision)),
        "client_ip": {"ip": client.ip, "source": client.source},
        "considered": trace.considered.iter().map(|route| considered(routes, route)).collect::<Vec<_>>(),
        "other_routes": trace.others,
        "rules": trace.rules.iter().map(rule).collect::<Vec<_>>(),
        "rules_left_out": trace.rules_left_out,
        "rules_not_asked": trace.rules_not_asked,
        "why": trace.why,
    });
    if let Value::Object(members) = members {
        document.extend(members);
    }
    Value::Object(document)
}

/// The route that the caller asked about, whether it is the one, and if not why not.
fn about(routes: &[Route], trace: &Trace, asked: usize) -> Map<String, Value> {
    let chosen = trace.decision.as_ref().is_some_and(|decision| decision.route == asked);
    let why = trace.considered.iter().find(|considered| considered.route == asked).map(|considered| &considered.why);
    let members =
        [("asked", json!(routes[asked].name)), ("chosen", json!(chosen)), ("why_not", json!(why.filter(|_| !chosen)))];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn considered(routes: &[Route], considered: &Considered) -> Value {
    json!({"route": routes[considered.route].name, "taken": considered.taken, "why": considered.why})
}

fn rule(rule: &Asked) -> Value {
    json!({"name": rule.name, "matched": rule.matched, "why": rule.why})
}

/// In percent, in the route's order.
fn split(route: &Route, weights: &[Weight]) -> Value {
    let shares = route.variants.iter().zip(weights);
    Value::Object(shares.map(|(variant, weight)| (variant.name.clone(), percent(*weight))).collect())
}

/// The cookie that a new client would get.
fn new_cookie<'t>(route: &'t Route, decision: &Decision) -> Option<&'t str> {
    decision.new_client_id?;
    match &route.sticky.as_ref()?.fallback {
        Fallback::Cookie { name, .. } => Some(name),
        Fallback::Ip | Fallback::Random => None,
    }
}

#[cfg(test)]
mod tests {}
