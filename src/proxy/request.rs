//! The spine: what happens to a request, from its head to its answer's head, in one place.

use super::body::{RequestBody, ResponseBody, Upload};
use super::connection::Client;
use super::exchange::{Exchange, micros};
use super::failure::Failure;
use super::{forward, headers, respond};
use crate::routing::table::{Decision, RequestView};
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, Uri, Version, request};
use http_body::Body;
use hyper::body::Incoming;
use std::convert::Infallible;
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
    client.version.set(parts.version);
    let has_body = !incoming.is_end_stream();
    if let Err(refusal) = to_origin_form(&mut parts) {
        client.rejected();
        return Ok(respond::refuse(&client, refusal, has_body));
    }
    let identity_headers = &local.published.settings.identity_headers;
    if !identity_headers.is_empty() {
        headers::identify(&mut parts.headers, identity_headers, client.identity.as_deref());
    }
    let Some(decision) = decide(&client, &local.published.routing, &parts) else {
        client.worker.shard().unrouted.add(1);
        return Ok(respond::refuse(&client, respond::Refusal::NO_ROUTE, has_body));
    };
    let place = (decision.route, decision.variant, decision.forced);
    let exchange = Exchange::begin(Rc::clone(&client), local, place, started);

    let id = headers::for_target(&mut parts.headers, &client.hop, &mut *client.worker.rng.borrow_mut());
    if let Some(identity) = &client.identity {
        // `Connection` may have named one of them.
        headers::identify(&mut parts.headers, &[], Some(identity));
    }
    let (body, upload) = match upload(&client, &mut parts, incoming) {
        Ok(body) => body,
        Err(failure) => return Ok(respond::failed(exchange, failure, &id, &decision)),
    };
    parts.version = Version::HTTP_11;
    let handed_over = Instant::now();
    client.worker.shard().overhead.observe_us(micros(handed_over - started));
    Ok(match forward::send(&exchange, Request::from_parts(parts, body), upload, handed_over).await {
        Ok(answer) => respond::relay(exchange, answer, &decision),
        Err(failure) => respond::failed(exchange, failure, &id, &decision),
    })
}

fn decide(client: &Client, table: &crate::routing::table::RoutingTable, parts: &request::Parts) -> Option<Decision> {
    let view = RequestView {
        host: parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()),
        path: parts.uri.path(),
        query: parts.uri.query(),
        method: &parts.method,
        headers: &parts.headers,
        client_ip: client.ip_of(&parts.headers),
    };
    table.route(&view, &mut *client.worker.rng.borrow_mut())
}

/// The request as it goes to an origin: a path, and one `Host` that says for whom (RFC 9112 §3.2, §3.2.2).
fn to_origin_form(parts: &mut request::Parts) -> Result<(), respond::Refusal> {
    if parts.method == Method::CONNECT {
        return Err(respond::Refusal::CONNECT);
    }
    if let Some(authority) = parts.uri.authority() {
        if authority.as_str().contains('@') {
            return Err(respond::Refusal::BAD_TARGET);
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| respond::Refusal::BAD_TARGET)?;
        parts.headers.insert(header::HOST, host);
        let path = parts.uri.path_and_query().cloned();
        parts.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    if parts.version == Version::HTTP_2 {
        headers::join_cookies(&mut parts.headers);
    }
    if parts.uri.path() == "*" && parts.method != Method::OPTIONS {
        return Err(respond::Refusal::BAD_TARGET);
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        (None, _) if parts.version == Version::HTTP_10 => Ok(()),
        _ => Err(respond::Refusal::BAD_HOST),
    }
}

/// Characters of a host and port (RFC 3986 §3.2.2, without userinfo); may be empty.
fn is_host(host: &[u8]) -> bool {
    host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte))
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
    let held = parts.headers.get(header::EXPECT).is_some_and(|e| e.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let upload = Upload::new(client, held, max);
    if max.is_some_and(|max| incoming.size_hint().lower() > max) {
        return Err(Failure::BodyTooLarge);
    }
    if incoming.size_hint().exact().is_none() {
        // Said outright: hyper takes a GET without a length for one without a body.
        parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    Ok((RequestBody::Client { incoming, upload: Rc::clone(&upload) }, Some(upload)))
}
