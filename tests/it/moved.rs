//! Answers without a foreseeable end, on a route that lets go of clients that have moved (`on_move`).

use crate::support::http2::{Body, Http2Upstream, block_on, connect};
use crate::support::*;
use http::{HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Either, Empty};
use hyper::body::{Bytes, Frame, Incoming};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc::UnboundedReceiver;

/// One message, and then nothing until it is dropped.
struct Endless {
    first: Option<Bytes>,
    _request: Incoming,
    _open: tokio::sync::OwnedSemaphorePermit,
}

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.first.take().map_or(Poll::Pending, |first| Poll::Ready(Some(Ok(Frame::data(first)))))
    }
}

/// What a caller says, message by message.
struct Messages(UnboundedReceiver<Bytes>);

impl hyper::body::Body for Messages {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|message| message.map(|message| Ok(Frame::data(message))))
    }
}

/// How many answers may be open at once at a target; what is left is who has gone.
const PLACES: usize = 10;

fn target(name: &'static str) -> (Http2Upstream, std::sync::Arc<tokio::sync::Semaphore>) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(PLACES));
    let free = std::sync::Arc::clone(&places);
    let upstream = Http2Upstream::answering(100, move |request: Request<Incoming>| {
        let free = std::sync::Arc::clone(&free);
        async move {
            let open = free.try_acquire_owned().expect("few answers are open");
            let kind = request.headers().get("content-type").cloned();
            let kind = kind.unwrap_or(HeaderValue::from_static("text/event-stream"));
            let first = Some(Bytes::from(name));
            let body = Endless { first, _request: request.into_body(), _open: open };
            let mut answer: Response<BoxBody<Bytes, Infallible>> = Response::new(BodyExt::boxed(body));
            answer.headers_mut().insert("content-type", kind);
            answer
        }
    });
    (upstream, places)
}

fn site(stable: &Http2Upstream, canary: &Http2Upstream, route: &str) -> Site {
    let route = format!(
        "[[route]]\nname = \"shop\"\nvariants = {{ stable = \"one\", canary = \"two\" }}\n\
         weights = {{ stable = 0, canary = 100 }}\n{route}"
    );
    let h2 = "protocol = \"h2\"";
    Site::new().pool("one", &[stable.addr], h2).pool("two", &[canary.addr], h2).toml(&route)
}

const ON_MOVE: &str = "on_move = { close_within = \"200ms\" }";

fn call() -> Request<Body> {
    let call = Request::post("http://test/watch").header("content-type", "application/grpc").header("te", "trailers");
    call.body(Either::Right(Empty::new())).expect("a request")
}

/// The first message of a call.
async fn first(answer: &mut Incoming) -> Bytes {
    let frame = answer.frame().await.expect("a message").expect("a whole one");
    frame.into_data().expect("data")
}

#[test]
fn a_call_of_who_has_moved_ends_as_unavailable_and_the_connection_goes() {
    let ((stable, _), (canary, places)) = (target("s"), target("c"));
    let weir = site(&stable, &canary, ON_MOVE).start();
    block_on(async {
        let stream = tokio::net::TcpStream::connect(weir.addr("http")).await.expect("a connection");
        let io = hyper_util::rt::TokioIo::new(stream);
        let exec = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(exec, io).await.expect("HTTP/2");
        tokio::spawn(connection);
        // The caller may say more: it does not keep the call open.
        let (_say, said) = tokio::sync::mpsc::unbounded_channel();
        let call = call().map(|_| Messages(said));
        let mut answer = sender.send_request(call).await.expect("an answer").into_body();
        assert_eq!(first(&mut answer).await, "c");
        tokio::task::spawn_blocking({
            let admin = weir.addr("admin");
            move || shift(admin)
        })
        .await
        .expect("no panic");
        let end = answer.frame().await.expect("an end").expect("in order").into_trailers().expect("trailers");
        assert_eq!(end["grpc-status"], "14");
        assert_eq!(end["grpc-message"], "moved to another version");
        while !sender.is_closed() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let mut next = connect(weir.addr("http")).await;
        let mut answer = next.send_request(self::call()).await.expect("an answer").into_body();
        assert_eq!(first(&mut answer).await, "s");
    });
    eventually("the canary is empty", || places.available_permits() == PLACES);
    let canary =
        |labels: &[(&str, &str)]| weir.metric("weir_requests_total", &[&[("variant", "canary")], labels].concat());
    assert_eq!((canary(&[]), canary(&[("code", "4xx")])), (1.0, 1.0), "as if the caller had cancelled");
    assert_eq!(weir.metric("weir_request_errors_total", &[("variant", "canary")]), 0.0);
}

fn shift(admin: std::net::SocketAddr) {
    let body = "{\"weights\":{\"stable\":100,\"canary\":0}}";
    let mut wire = Wire::connect(admin);
    let length = body.len();
    let head = format!(
        "PATCH /api/v1/routes/shop/weights HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    assert_eq!(wire.send(head + body).answer().status, 200);
}

#[test]
fn events_of_who_has_moved_end_in_order() {
    let ((stable, _), (canary, places)) = (target("s"), target("c"));
    let weir = site(&stable, &canary, ON_MOVE).start();
    let mut client = weir.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the events have begun", || places.available_permits() < PLACES);
    weir.shift("shop", "\"stable\":100,\"canary\":0");
    let answer = client.answer();
    assert_eq!((answer.status, answer.text()), (200, "c"), "whole, and the connection is kept");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the canary is empty", || places.available_permits() == PLACES);
    assert_eq!(weir.metric("weir_requests_total", &[("variant", "canary"), ("code", "2xx")]), 1.0);
    assert_eq!(weir.metric("weir_request_errors_total", &[]), 0.0);
}

#[test]
fn they_stay_where_the_route_does_not_say_so() {
    let ((stable, _), (canary, places)) = (target("s"), target("c"));
    let weir = site(&stable, &canary, "").start();
    let mut client = weir.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the events have begun", || places.available_permits() < PLACES);
    weir.shift("shop", "\"stable\":100,\"canary\":0");
    let since = std::time::Instant::now();
    eventually("some time has passed", || since.elapsed() > std::time::Duration::from_secs(2));
    assert_eq!(places.available_permits(), PLACES - 1);
}
