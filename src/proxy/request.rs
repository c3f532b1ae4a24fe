//! The spine: what happens to a request, from its head to its answer's head, in one place.

use super::body::{self, RequestBody, ResponseBody, Upload};
use super::connection::Client;
use super::exchange::{Exchange, Keys, micros};
use super::failure::Failure;
use super::forward::{ONCE, Outgoing};
use super::grpc;
use super::headers::Hops;
use super::mirror::{self, RequestCopy};
use super::respond::Refusal;
use super::tunnel::{self, Tunnel};
use super::worker::Local;
use super::{filter, forward, headers, recover, respond, vet};
use crate::routing::request::to_origin_form;
use crate::routing::table::{Decision, RequestView};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version, request};
use http_body::Body;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use std::convert::Infallible;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

/// Answers one request. Never fails: what can't be forwarded is answered by Weir.
pub(super) async fn serve(
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let started = Instant::now();
    client.pulse.head_done();
    let local = client.worker.local();
    let (mut parts, incoming) = request.into_parts();
    let socket = socket_over_http2(&mut parts);
    client.version.set(parts.version);
    let has_body = !incoming.is_end_stream();
    let hops = match vetted(&client, &mut parts, has_body) {
        Ok(hops) => hops,
        Err(refusal) => {
            client.rejected();
            return Ok(respond::refuse(&client, refusal, has_body));
        }
    };
    let reserved = &local.published.settings.identity_headers;
    headers::identify(&mut parts.headers, reserved, client.identity.as_deref());
    let Some((decision, client_ip, keys)) = decide(&client, &local, &parts) else {
        client.worker.shard().unrouted.add(1);
        return Ok(respond::refuse(&client, Refusal::NO_ROUTE, has_body));
    };
    let mut exchange = Exchange::begin(Rc::clone(&client), local, &decision, keys, started);
    exchange.set_grpc(client.is_http2() && grpc::is_call(&parts.headers));
    if hops == Hops::Spent {
        return Ok(at_once(exchange, respond::options(), incoming, &parts));
    }

    // A WebSocket over HTTP/2 says so by its method.
    let mirrored = socket.is_none() && mirror::takes(&exchange, &parts.headers);
    let identity = client.identity.as_deref();
    let headers::Passed { request_id: id, upgrade } =
        headers::for_target(&mut parts.headers, &client.hop, identity, &mut *client.worker.rng.borrow_mut());
    let offered = upgrade.filter(|_| !has_body && client.version.get() == Version::HTTP_11);
    let upgrade = match switch_to(&exchange, &mut parts, socket.is_some(), offered) {
        Ok(upgrade) => upgrade,
        Err(failure) => return Ok(respond::failed(exchange, failure, &id, &decision)),
    };
    match filtered(&mut exchange, (client_ip, &id), &mut parts, socket.is_some()) {
        Ok(None) => {}
        Ok(Some(answer)) => return Ok(at_once(exchange, answer, incoming, &parts)),
        Err(failure) => {
            if has_body && socket.is_none() {
                client.unread_body.set(true);
            }
            return Ok(respond::failed(exchange, failure, &id, &decision));
        }
    }
    let (body, upload) = match upload(&client, &mut parts, incoming) {
        Ok(body) => body,
        Err(failure) => return Ok(respond::failed(exchange, failure, &id, &decision)),
    };
    parts.version = Version::HTTP_11;
    let copy = if mirrored { mirror_copy(&exchange, &parts, &body, upload.as_ref()) } else { None };
    let handed_over = handed_over(&client, started);
    let request = Request::from_parts(parts, body);
    let outgoing = Outgoing { request, upload, upgrade: upgrade.as_ref(), copy, handed_over };
    let sent = match exchange.local.recoveries.of(exchange.route).cloned() {
        None => forward::send::<ONCE>(&exchange, outgoing, None).await,
        Some(recovery) => Box::pin(recover::send(&mut exchange, recovery, outgoing)).await,
    };
    Ok(match sent {
        Ok(answer) if upgrade.is_some() => switch(exchange, answer, upgrade, socket, (&id, &decision)).await,
        Ok(answer) => respond::relay(exchange, answer, &decision),
        Err(failure) => respond::failed(exchange, failure, &id, &decision),
    })
}

/// A copy for the route's mirror; a body takes it along.
#[cold]
fn mirror_copy(
    exchange: &Exchange,
    parts: &request::Parts,
    body: &RequestBody,
    upload: Option<&Rc<Upload>>,
) -> Option<Box<RequestCopy>> {
    let copy = RequestCopy::begin(exchange, parts, body);
    match upload {
        None => copy,
        Some(upload) => {
            upload.take_along(copy);
            None
        }
    }
}

/// Weir's own time ends here.
#[inline(always)]
fn handed_over(client: &Client, started: Instant) -> Instant {
    let now = Instant::now();
    client.worker.shard().overhead.observe_us(micros(now - started));
    now
}

/// What the target is asked to switch to: what the client offers, or WebSocket where it opened one over HTTP/2. Targets
/// that speak HTTP/2 are asked for nothing, and a WebSocket does not get there.
#[inline(always)]
fn switch_to(
    exchange: &Exchange,
    parts: &mut request::Parts,
    is_socket: bool,
    offered: Option<HeaderValue>,
) -> Result<Option<HeaderValue>, Failure> {
    if !is_socket && offered.is_none() {
        return Ok(None);
    }
    if exchange.targets_speak_http2() {
        return if is_socket { Err(Failure::BadResponse) } else { Ok(None) };
    }
    let offered = match offered {
        Some(offered) if !is_socket => offered,
        _ => tunnel::websocket(parts, &mut *exchange.client.worker.rng.borrow_mut()),
    };
    tunnel::ask(&mut parts.headers, &offered);
    Ok(Some(offered))
}

/// The route's filters on the request: an answer that the route gives itself, if it does.
#[inline(always)]
fn filtered(
    exchange: &mut Exchange,
    from: (IpAddr, &HeaderValue),
    parts: &mut request::Parts,
    is_socket: bool,
) -> Result<Option<Response<Bytes>>, Failure> {
    if exchange.local.filters.of(exchange.route).is_none() {
        return Ok(None);
    }
    match filter::apply(exchange, from, parts)? {
        // To a CONNECT, any success would say that the tunnel stands.
        Some(answer) if is_socket && answer.status() != StatusCode::TOO_MANY_REQUESTS => Err(Failure::BadResponse),
        answer => Ok(answer),
    }
}

/// The stream of a WebSocket over HTTP/2 (RFC 8441), whose request is from now on the GET that it is over HTTP/1.1.
fn socket_over_http2(parts: &mut request::Parts) -> Option<OnUpgrade> {
    if parts.method != Method::CONNECT || parts.extensions.get::<Protocol>()?.as_str() != "websocket" {
        return None;
    }
    let socket = parts.extensions.remove::<OnUpgrade>()?;
    parts.method = Method::GET;
    Some(socket)
}

/// An answer that needs no target.
fn at_once(
    exchange: Exchange,
    answer: Response<Bytes>,
    incoming: Incoming,
    parts: &request::Parts,
) -> Response<ResponseBody> {
    let keep = body::discard(&exchange.client, incoming, waits_for_continue(parts));
    respond::by_weir(exchange, answer, keep)
}

/// The answer to a request that asked for another protocol: the switch, or an ordinary one.
async fn switch(
    exchange: Exchange,
    mut answer: forward::Answer,
    offered: Option<HeaderValue>,
    socket: Option<OnUpgrade>,
    (id, decision): (&HeaderValue, &Decision),
) -> Response<ResponseBody> {
    if answer.response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // To a CONNECT, any success would say that the tunnel stands.
        let misleading = socket.is_some() && answer.response.status().is_success();
        return match misleading {
            true => respond::failed(exchange, Failure::BadResponse, id, decision),
            false => respond::relay(exchange, answer, decision),
        };
    }
    let protocol = offered.and_then(|offered| tunnel::accepted(answer.response.headers(), &offered));
    let (Some(protocol), Some(target)) = (protocol, answer.lease.switched().await) else {
        return respond::failed(exchange, Failure::Reset, id, decision);
    };
    let tunnel = Tunnel::new(&exchange, decision, &protocol, answer.lease, target);
    let client = Rc::clone(&exchange.client);
    match socket {
        Some(socket) => drop(tokio::task::spawn_local(tunnel::over_http2(client, socket, tunnel))),
        None => client.switch_to(tunnel),
    }
    respond::switched(exchange, answer.response, protocol, decision)
}

/// Brings the head into the form that goes on: origin form, one hop less of an OPTIONS, a length as everybody writes it.
fn vetted(client: &Client, parts: &mut request::Parts, has_body: bool) -> Result<Hops, Refusal> {
    if client.is_http2() && parts.headers.keys_len() > client.worker.limits().max_headers {
        return Err(Refusal::TOO_MANY_FIELDS);
    }
    to_origin_form(parts)?;
    let hops = if parts.method == Method::OPTIONS { headers::count_hop(&mut parts.headers) } else { Hops::Left };
    let has_length = has_body || client.is_http2();
    if hops == Hops::Invalid || has_length && vet::request_length(&mut parts.headers).is_none() {
        return Err(Refusal::BAD_NUMBER);
    }
    Ok(hops)
}

/// The decision, whose request it is, and what pools know it by.
fn decide(client: &Client, local: &Local, parts: &request::Parts) -> Option<(Decision, IpAddr, Keys)> {
    let client_ip = client.ip_of(&parts.headers);
    let view = RequestView::of(parts, client.scheme_of(&parts.headers), client_ip);
    let decision = local.published.routing.route(&view, &mut *client.worker.rng.borrow_mut())?;
    let keys = if local.hashes { keys(local, &decision, &view) } else { Keys::default() };
    Some((decision, client_ip, keys))
}

/// As the client sent the request: what the route changes of it changes nobody's target.
#[cold]
fn keys(local: &Local, decision: &Decision, view: &RequestView<'_>) -> Keys {
    let of_pool = |pool: Option<usize>| {
        let key = pool.and_then(|pool| local.pools[pool].hash_key());
        key.map_or(0, |key| key.of(view))
    };
    let route = &local.published.routing.routes()[decision.route];
    let mirror = local.published.mirrors[decision.route].as_ref();
    Keys {
        own: of_pool(route.variants[decision.variant].pool),
        baseline: route.recovery.as_ref().map_or(0, |_| of_pool(route.variants[0].pool)),
        mirror: of_pool(mirror.map(|to| to.mirror.pool)),
    }
}

/// The request's body, held back when the client waits for 100 (Continue).
fn upload(
    client: &Rc<Client>,
    parts: &mut request::Parts,
    incoming: Incoming,
) -> Result<(RequestBody, Option<Rc<Upload>>), Failure> {
    if incoming.is_end_stream() {
        return Ok((RequestBody::Empty, None));
    }
    let max = client.worker.limits().max_body;
    let held = waits_for_continue(parts);
    if held && parts.version == Version::HTTP_10 {
        // HTTP/1.0 has no interim responses: the body comes anyway (RFC 9110 §10.1.1).
        parts.headers.remove(header::EXPECT);
    }
    let size = incoming.size_hint();
    let upload = Upload::new(client, incoming, held && parts.version != Version::HTTP_10, max);
    if max.is_some_and(|max| size.lower() > max) {
        return Err(Failure::BodyTooLarge);
    }
    if size.exact().is_none() {
        // Said outright: hyper takes a GET without a length for one without a body.
        parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    Ok((upload.body(), Some(upload)))
}

fn waits_for_continue(parts: &request::Parts) -> bool {
    parts.headers.get(header::EXPECT).is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
