//! The answer's head: a target's, passed on, or Weir's own as a short problem document (RFC 9457).

use super::body::{Ending, ResponseBody, Upload};
use super::compress;
use super::connection::Client;
use super::exchange::Exchange;
use super::failure::Failure;
use super::forward::Answer;
use super::grpc;
use super::headers;
use crate::routing::compress::Asked;
use crate::routing::request::Unfit;
use crate::routing::sticky::Fallback;
use crate::routing::table::{ClientId, Decision};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode, Version};
use http_body::Body;
use std::rc::Rc;
use std::time::Duration;

const PASSED_ON: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// Why Weir answers a request that it can't or won't route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    detail: &'static str,
    close: bool,
}

impl Refusal {
    pub(super) const NO_ROUTE: Refusal = Refusal::new(StatusCode::NOT_FOUND, "no route matches this request", false);
    const CONNECT: Refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is for forward proxies", true);
    const TRACE: Refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "TRACE is not passed on", true);
    const BAD_TARGET: Refusal = Refusal::new(StatusCode::BAD_REQUEST, "the request's target is not valid", true);
    const BAD_HOST: Refusal = Refusal::new(
        StatusCode::BAD_REQUEST,
        "a request must have exactly one valid Host, the one that its target names",
        true,
    );

    pub(super) const BAD_NUMBER: Refusal =
        Refusal::new(StatusCode::BAD_REQUEST, "Content-Length and Max-Forwards must be one number each", true);

    /// Names over HTTP/2, which sends a cookie in pieces. Of HTTP/1.1 hyper counts the lines.
    pub(super) const TOO_MANY_FIELDS: Refusal =
        Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "more header fields than limits.max_headers", true);

    const fn new(status: StatusCode, detail: &'static str, close: bool) -> Refusal {
        Refusal { status, detail, close }
    }
}

impl From<Unfit> for Refusal {
    fn from(unfit: Unfit) -> Refusal {
        match unfit {
            Unfit::Connect => Refusal::CONNECT,
            Unfit::Trace => Refusal::TRACE,
            Unfit::Target => Refusal::BAD_TARGET,
            Unfit::Host => Refusal::BAD_HOST,
        }
    }
}

/// The target's answer as the client gets it.
pub(super) fn relay(mut exchange: Exchange, answer: Answer, decision: &Decision) -> Response<ResponseBody> {
    let Answer { response, lease, upload } = answer;
    let (mut parts, incoming) = response.into_parts();
    // A target that answers early and closes does not read the rest of the body, so nobody will; nor does one that
    // answers in place of the 100 (Continue) that the client waits for.
    let unread = |upload: &Rc<Upload>| upload.is_held() || headers::says_close(&parts.headers);
    let close = upload.as_ref().is_some_and(|upload| !upload.is_done() && unread(upload));
    headers::for_client(&mut parts.headers);
    parts.version = Version::HTTP_11;
    exchange.edit_answer(&mut parts.headers);
    exchange.mark_rescued(&mut parts.headers);
    give_cookie(&mut parts.headers, &exchange, decision);
    exchange.answered(parts.status);
    exchange.grpc_status(&parts.headers);
    exchange.client.finish_head(&mut parts.headers, close);
    let compressor = match compress_asked(&exchange) {
        None => None,
        Some(asked) => {
            let length = incoming.size_hint().exact().filter(|_| !asked.is_head);
            compress::begin(&exchange, asked, parts.status, &mut parts.headers, length).flatten()
        }
    };
    let ending = Ending::of(&exchange, decision, &parts.headers);
    let body = ResponseBody::of_target(incoming, lease, upload, exchange, compressor);
    Response::from_parts(parts, body.ending(ending))
}

/// The target's 101 (Switching Protocols) as the client gets it: over HTTP/2 it is a 200 (RFC 8441 §5). The request ends
/// here; what follows is the tunnel's.
pub(super) fn switched(
    mut exchange: Exchange,
    answer: Response<hyper::body::Incoming>,
    protocol: HeaderValue,
    decision: &Decision,
) -> Response<ResponseBody> {
    let (mut parts, _) = answer.into_parts();
    headers::for_client(&mut parts.headers);
    exchange.edit_answer(&mut parts.headers);
    if exchange.client.is_http2() {
        parts.status = StatusCode::OK;
        parts.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    } else {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(header::UPGRADE, protocol);
    }
    parts.version = Version::HTTP_11;
    give_cookie(&mut parts.headers, &exchange, decision);
    exchange.answered(StatusCode::SWITCHING_PROTOCOLS);
    exchange.finished();
    drop(exchange);
    Response::from_parts(parts, ResponseBody::own(Bytes::new(), None))
}

/// Weir's answer where the target gave none.
pub(super) fn failed(
    mut exchange: Exchange,
    failure: Failure,
    request_id: &HeaderValue,
    decision: &Decision,
) -> Response<ResponseBody> {
    exchange.failed(failure.reason());
    exchange.timed_out(failure.timeout());
    exchange.answered(failure.status());
    let mut response = match exchange.is_grpc() {
        true => call_failed(failure),
        false => problem(failure.status(), failure.detail(), Some(request_id)),
    };
    exchange.edit_answer(response.headers_mut());
    give_cookie(response.headers_mut(), &exchange, decision);
    let close = failure.leaves_body_unread() || exchange.client.unread_body.get();
    exchange.client.finish_head(response.headers_mut(), close);
    response.map(|text| ResponseBody::own(text, Some(exchange)))
}

/// The answer to an OPTIONS that was to go no further than here (RFC 9110 §7.6.2, §9.3.7).
pub(super) fn options() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    response.headers_mut().insert(header::ALLOW, PASSED_ON);
    response
}

/// The answer to a client that asks more often than the route lets it; `wait` is until it may again.
pub(super) fn too_many(is_grpc: bool, wait: Duration, request_id: &HeaderValue) -> Response<Bytes> {
    let detail = "this client asks more often than it may here";
    let mut response = match is_grpc {
        true => call_ended(grpc::EXHAUSTED, detail),
        false => problem(StatusCode::TOO_MANY_REQUESTS, detail, Some(request_id)),
    };
    let seconds = wait.as_millis().div_ceil(1000).max(1);
    let seconds = HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX));
    response.headers_mut().insert(header::RETRY_AFTER, seconds);
    response
}

/// An answer that needs no target: a route's own, or that to an OPTIONS meant for Weir. `keep`: the connection can be
/// used again.
pub(super) fn by_weir(mut exchange: Exchange, mut response: Response<Bytes>, keep: bool) -> Response<ResponseBody> {
    exchange.answered(response.status());
    exchange.grpc_status(response.headers());
    exchange.edit_answer(response.headers_mut());
    exchange.client.finish_head(response.headers_mut(), !keep);
    let Some(asked) = compress_asked(&exchange) else {
        return response.map(|content| ResponseBody::own(content, Some(exchange)));
    };
    let (status, length) = (response.status(), response.body().len() as u64);
    let begun = compress::begin(&exchange, asked, status, response.headers_mut(), Some(length));
    response.map(|content| match begun {
        None => ResponseBody::own(content, Some(exchange)),
        Some(Some(compressor)) => ResponseBody::compressed(content, exchange, compressor),
        // How long it would be is not known without compressing it.
        Some(None) => ResponseBody::own(Bytes::new(), Some(exchange)),
    })
}

/// What the request said of compression, on a route that compresses.
fn compress_asked(exchange: &Exchange) -> Option<&Asked> {
    exchange.filtered.as_ref()?.compress.as_ref()
}

/// Weir's answer to a request that belongs to no route. A body is not read, and nothing after it.
pub(super) fn refuse(client: &Client, refusal: Refusal, has_body: bool) -> Response<ResponseBody> {
    let mut response = problem(refusal.status, refusal.detail, None);
    if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, PASSED_ON);
    }
    if has_body {
        client.unread_body.set(true);
    }
    client.finish_head(response.headers_mut(), refusal.close || has_body);
    client.request_ended();
    response.map(|text| ResponseBody::own(text, None))
}

/// Weir's own answer to a HEAD has the length of its body and no body. hyper does so for HTTP/1.1, not for HTTP/2.
pub(super) fn to_head(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    if let Some(length) = response.body_mut().leave_out() {
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(length));
    }
    response
}

fn problem(status: StatusCode, detail: &str, request_id: Option<&HeaderValue>) -> Response<Bytes> {
    let title = status.canonical_reason().unwrap_or("Error");
    let code = status.as_u16();
    let id = request_id.and_then(|id| serde_json::to_string(id.to_str().ok()?).ok());
    let id = id.map_or(String::new(), |id| format!(r#","request_id":{id}"#));
    let text = format!(r#"{{"type":"about:blank","title":"{title}","status":{code},"detail":"{detail}"{id}}}"#) + "\n";
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A gRPC answer without a message: the status is in the head.
fn call_failed(failure: Failure) -> Response<Bytes> {
    call_ended(grpc::status_of(failure), failure.detail())
}

fn call_ended(status: HeaderValue, detail: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, grpc::CONTENT);
    headers.insert(grpc::STATUS, status);
    headers.insert(grpc::MESSAGE, HeaderValue::from_static(detail));
    response
}

/// Gives an anonymous client the id by which it will be known. Not a variant: weights act on its next request.
fn give_cookie(headers: &mut HeaderMap, exchange: &Exchange, decision: &Decision) {
    let Some(id) = decision.new_client_id else { return };
    let route = &exchange.local.published.routing.routes()[exchange.route];
    let Some(Fallback::Cookie { name, ttl }) = route.sticky.as_ref().map(|sticky| &sticky.fallback) else { return };
    if let Ok(cookie) = HeaderValue::from_str(&id_cookie(name, id, *ttl, exchange.client.tls)) {
        headers.append(header::SET_COOKIE, cookie);
    }
}

fn id_cookie(name: &str, id: ClientId, ttl: Duration, tls: bool) -> String {
    let id = id.to_hex();
    let id = std::str::from_utf8(&id).expect("hexadecimal digits are text");
    let secure = if tls { "; Secure" } else { "" };
    format!("{name}={id}; Max-Age={}; Path=/; HttpOnly; SameSite=Lax{secure}", ttl.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Body;

    #[test]
    fn an_answer_to_head_has_a_length_and_no_body() {
        let own = |text: &'static str| Response::new(ResponseBody::own(Bytes::from_static(text.as_bytes()), None));
        let answer = to_head(own("hello"));
        assert_eq!(answer.headers()[header::CONTENT_LENGTH], "5");
        assert!(answer.body().is_end_stream());
        let empty = to_head(own(""));
        assert!(!empty.headers().contains_key(header::CONTENT_LENGTH) && empty.body().is_end_stream());
    }

    #[test]
    fn an_id_s_cookie_is_secure_over_tls_only() {
        let cookie = |tls| id_cookie("weir_shop", ClientId(0xab), Duration::from_secs(86_400), tls);
        let plain = "weir_shop=000000000000000000000000000000ab; Max-Age=86400; Path=/; HttpOnly; SameSite=Lax";
        assert_eq!(cookie(false), plain);
        assert_eq!(cookie(true), format!("{plain}; Secure"));
    }
}
