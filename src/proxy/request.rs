//! The spine: what happens to a request, from its head to its answer's head, in one place.

use super::body::{RequestBody, ResponseBody, Upload};
use super::connection::Client;
use super::exchange::{Exchange, micros};
use super::failure::Failure;
use super::{forward, headers, respond};
use crate::routing::request::to_origin_form;
use crate::routing::table::{Decision, RequestView};
use http::header::{self, HeaderValue};
use http::{Request, Response, Version, request};
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
    if let Err(unfit) = to_origin_form(&mut parts) {
        client.rejected();
        return Ok(respond::refuse(&client, unfit.into(), has_body));
    }
    let Some(decision) = decide(&client, &local.published.routing, &parts) else {
        client.worker.shard().unrouted.add(1);
        return Ok(respond::refuse(&client, respond::Refusal::NO_ROUTE, has_body));
    };
    let place = (decision.route, decision.variant, decision.forced);
    let exchange = Exchange::begin(Rc::clone(&client), local, place, started);

    let id = headers::for_target(&mut parts.headers, &client.hop, &mut *client.worker.rng.borrow_mut());
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
    let view = RequestView::of(parts, client.ip_of(&parts.headers));
    table.route(&view, &mut *client.worker.rng.borrow_mut())
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
