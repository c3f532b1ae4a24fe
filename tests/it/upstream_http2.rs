//! HTTP/2 to targets, and gRPC through it.

use crate::support::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, frame};
use crate::support::http2::{Body, Http2Upstream, block_on, connect, post};
use crate::support::*;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Either, Empty, Full};
use hyper::body::{Bytes, Frame, Incoming};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

type Answer = Response<BoxBody<Bytes, Infallible>>;

fn full(text: String) -> BoxBody<Bytes, Infallible> {
    Full::new(Bytes::from(text)).boxed()
}

/// Says what came: version, method, target, authority, body's length, host header.
async fn tell(request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let length = body.collect().await.map_or(0, |body| body.to_bytes().len());
    let host = parts.headers.contains_key("host");
    Response::new(full(format!("{:?} {} {} {length} {host}", parts.version, parts.method, parts.uri)))
}

const H2: &str = "protocol = \"h2\"";

#[test]
fn requests_of_either_version_go_over_http2() {
    let upstream = Http2Upstream::answering(100, tell);
    let weir = Site::new().to(upstream.addr, H2, "").start();
    let mut client = weir.client();
    assert_eq!(client.get("/a?b=c", "Connection: x-hop\r\n").text(), "HTTP/2.0 GET http://test/a?b=c 0 false");
    let chunked = "POST /up HTTP/1.1\r\nHost: test:81\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(client.send(chunked).answer().text(), "HTTP/2.0 POST http://test:81/up 5 false");
    let held = "POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(client.send(held).answer().text(), "HTTP/2.0 POST http://test/ 5 false");
    let told = client.send("GET / HTTP/1.0\r\n\r\n").answer();
    assert_eq!(told.text(), format!("HTTP/2.0 GET http://{}/ 0 false", upstream.addr));
    block_on(async {
        let mut sender = connect(weir.addr("http")).await;
        let (status, body) = post(&mut sender, "/up", vec![b'x'; 300_000]).await;
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"HTTP/2.0 POST http://test/up 300000 false"[..]));
    });
}

#[test]
fn many_requests_share_a_connection_and_more_than_its_streams_open_another() {
    let upstream = Http2Upstream::answering(1000, |request| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        tell(request).await
    });
    let weir = Site::new().server("workers = 1").to(upstream.addr, H2, "").start();
    let ask = |count: usize| {
        block_on(async {
            let sender = connect(weir.addr("http")).await;
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..count {
                let mut sender = sender.clone();
                all.spawn(async move { post(&mut sender, "/", Vec::new()).await.0 });
            }
            while let Some(status) = all.join_next().await {
                assert_eq!(status.expect("no panic"), StatusCode::OK);
            }
        });
    };
    ask(90);
    assert_eq!(upstream.connections(), 1, "one for all that came at once");
    std::thread::scope(|scope| {
        scope.spawn(|| ask(90));
        scope.spawn(|| ask(90));
    });
    assert_eq!(upstream.connections(), 2, "100 streams a connection");
}

#[test]
fn a_target_with_few_streams_is_not_overrun() {
    let upstream = Http2Upstream::answering(3, tell);
    let weir = Site::new().server("workers = 1").to(upstream.addr, H2, "").start();
    block_on(async {
        let sender = connect(weir.addr("http")).await;
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..60 {
            let mut sender = sender.clone();
            all.spawn(async move { post(&mut sender, "/", b"body".to_vec()).await.0 });
        }
        while let Some(status) = all.join_next().await {
            assert_eq!(status.expect("no panic"), StatusCode::OK);
        }
    });
}

/// What waits for a stream in vain stays in memory until its connection is closed.
#[test]
fn a_connection_without_any_stream_is_closed_when_many_have_waited() {
    let upstream = Http2Upstream::answering(0, tell);
    let weir = Site::new().server("workers = 1").to(upstream.addr, H2, "timeout = \"100ms\"").start();
    let in_vain = |requests: usize| {
        block_on(async {
            let sender = connect(weir.addr("http")).await;
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..requests {
                let mut sender = sender.clone();
                all.spawn(async move { post(&mut sender, "/", Vec::new()).await.0 });
            }
            while let Some(status) = all.join_next().await {
                assert_eq!(status.expect("no panic"), StatusCode::GATEWAY_TIMEOUT);
            }
        });
    };
    in_vain(80);
    assert_eq!(upstream.connections(), 1);
    in_vain(1);
    assert_eq!(upstream.connections(), 2);
    eventually("the first is closed", || upstream.open() == 1);
}

#[test]
fn what_a_goaway_leaves_out_is_sent_again() {
    // Takes the first stream of each connection, then says GOAWAY for all after it.
    let upstream = Upstream::raw(|mut wire| {
        let Ok(preface) = wire.exactly(24) else { return };
        assert!(preface.starts_with(b"PRI"));
        wire.send([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        loop {
            let Ok(head) = wire.exactly(9) else { return };
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            if wire.exactly(length).is_err() {
                return;
            }
            match (head[3], &head[5..]) {
                (4, _) if head[4] & 1 == 0 => drop(wire.try_send([0, 0, 0, 4, 1, 0, 0, 0, 0])),
                // HEADERS: `:status: 200` from the static table, and the end.
                (1, [0, 0, 0, 1]) => drop(wire.try_send([0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88])),
                (1, _) => drop(wire.try_send([0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0])),
                _ => {}
            }
        }
    });
    let weir = Site::new().server("workers = 1").to(upstream.addr, H2, "").start();
    let mut client = weir.client();
    for nth in 0..6 {
        let answer = client.get("/", "");
        assert_eq!(answer.status, 200, "request {nth}: {answer:?}");
    }
    assert!(weir.metric("weir_retries_total", &[]) >= 1.0);
    assert_eq!(weir.metric("weir_request_errors_total", &[]), 0.0);
}

/// The first stream is refused when half of the body has come; the client sends the other half after that.
#[test]
fn a_body_that_was_refused_halfway_is_sent_again_from_its_beginning() {
    let refused = Gate::default();
    let said = refused.clone();
    let upstream = Upstream::raw(move |mut wire| {
        let Ok(_) = wire.exactly(24) else { return };
        wire.send(frame(SETTINGS, 0, 0, &[]));
        let mut body = Vec::new();
        loop {
            let Ok(head) = wire.exactly(9) else { return };
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            let Ok(payload) = wire.exactly(length) else { return };
            match (head[3], head[4], head[8]) {
                (SETTINGS, 0, _) => drop(wire.try_send(frame(SETTINGS, 1, 0, &[]))),
                (DATA, _, 1) if payload.starts_with(b"hello") => {
                    wire.send(frame(RST_STREAM, 0, 1, &7_u32.to_be_bytes()));
                    said.open();
                }
                (DATA, flags, stream @ 3..) => {
                    body.extend(payload);
                    if flags & END_STREAM != 0 {
                        // `:status: 200` from the static table.
                        wire.send(frame(HEADERS, END_HEADERS, stream.into(), &[0x88]));
                        wire.send(frame(DATA, END_STREAM, stream.into(), &body));
                    }
                }
                _ => {}
            }
        }
    });
    let weir = Site::new().server("workers = 1").to(upstream.addr, H2, "").start();
    let mut client = weir.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n\r\nhello ");
    refused.pass();
    // Sent again already, or about to be.
    client.send("world");
    let answer = client.answer();
    assert_eq!((answer.status, answer.text()), (200, "hello world"));
    assert_eq!(weir.metric("weir_retries_total", &[]), 1.0);
}

#[test]
fn a_target_that_speaks_http1_only_is_a_bad_gateway() {
    let upstream = Upstream::named("hello");
    let weir = Site::new().to(upstream.addr, H2, "").start();
    let answer = weir.get("/", "");
    assert_eq!(answer.status, 502, "{answer:?}");
}

#[test]
fn an_upgrade_is_not_offered_over_http2() {
    let upstream = Http2Upstream::answering(10, tell);
    let weir = Site::new().to(upstream.addr, H2, "").start();
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    assert_eq!(weir.client().get("/", fields).status, 200);
    block_on(async {
        let mut sender = connect(weir.addr("http")).await;
        post(&mut sender, "/", Vec::new()).await;
        let request = Request::connect("http://test/chat")
            .extension(hyper::ext::Protocol::from_static("websocket"))
            .body(Either::Right(Empty::new()))
            .expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    });
}

/// A gRPC service that sends each message back as it comes; the path says how it ends.
async fn service(request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    if path == "/silent" {
        tokio::time::sleep(PATIENCE).await;
    }
    let trailers = match path.as_str() {
        "/cut" | "/head" => None,
        "/ok" => Some(grpc_status("0")),
        _ => Some(grpc_status("14")),
    };
    let mut answer = match path.as_str() {
        "/head" => Response::new(full(String::new())),
        _ => Response::new(BodyExt::boxed(Echo { incoming: request.into_body(), trailers })),
    };
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    if path == "/head" {
        answer.headers_mut().extend(grpc_status("13"));
    }
    answer
}

fn grpc_status(status: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static(status))])
}

struct Echo {
    incoming: Incoming,
    trailers: Option<HeaderMap>,
}

impl hyper::body::Body for Echo {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(_) => Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// What a caller says, message by message.
struct Messages(tokio::sync::mpsc::UnboundedReceiver<Bytes>);

impl hyper::body::Body for Messages {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|message| message.map(|message| Ok(Frame::data(message))))
    }
}

fn call(path: &str, timeout: Option<&str>, body: Body) -> Request<Body> {
    let mut request = Request::post(format!("http://test{path}"))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .body(body)
        .expect("a request");
    if let Some(timeout) = timeout {
        request.headers_mut().insert("grpc-timeout", timeout.parse().expect("a header value"));
    }
    request
}

/// The status of a call, from its head or its trailers.
async fn outcome(weir: &Weir, request: Request<Body>) -> (StatusCode, Option<String>) {
    let mut sender = connect(weir.addr("http")).await;
    let answer = sender.send_request(request).await.expect("an answer");
    let (head, status) = (answer.headers().get("grpc-status").cloned(), answer.status());
    let body = answer.into_body().collect().await.expect("a whole body");
    let grpc = head.or_else(|| body.trailers().and_then(|trailers| trailers.get("grpc-status").cloned()));
    (status, grpc.map(|grpc| grpc.to_str().expect("text").to_owned()))
}

fn counted(weir: &Weir, code: &str) -> f64 {
    weir.metric("weir_requests_total", &[("code", code)])
}

#[test]
fn calls_are_counted_by_their_grpc_status() {
    let upstream = Http2Upstream::answering(100, service);
    let weir = Site::new().to(upstream.addr, H2, "").start();
    let body = || Either::Left(Full::new(Bytes::from_static(b"\0\0\0\0\x02hi")));
    for (path, status, class) in
        [("/ok", Some("0"), "2xx"), ("/failed", Some("14"), "5xx"), ("/head", Some("13"), "5xx"), ("/cut", None, "5xx")]
    {
        let before = counted(&weir, class);
        let got = block_on(outcome(&weir, call(path, None, body())));
        assert_eq!(got, (StatusCode::OK, status.map(str::to_owned)), "{path}");
        eventually("it is counted", || counted(&weir, class) == before + 1.0);
    }
}

#[test]
fn a_deadline_and_a_dead_target_are_told_in_grpc() {
    let upstream = Http2Upstream::answering(100, service);
    let weir = Site::new().to(upstream.addr, H2, "").start();
    let got = block_on(outcome(&weir, call("/silent", Some("200m"), Either::Right(Empty::new()))));
    assert_eq!(got, (StatusCode::OK, Some("4".to_owned())));
    eventually("a time-out", || weir.metric("weir_request_errors_total", &[("reason", "timeout")]) == 1.0);
    let weir = Site::new().to(refused_port(), H2, "").start();
    let got = block_on(outcome(&weir, call("/ok", None, Either::Right(Empty::new()))));
    assert_eq!(got, (StatusCode::OK, Some("14".to_owned())));
    assert_eq!(counted(&weir, "5xx"), 1.0);
}

#[test]
fn messages_pass_both_ways_as_they_come() {
    let upstream = Http2Upstream::answering(100, service);
    let weir = Site::new().to(upstream.addr, H2, "").start();
    block_on(async {
        let stream = tokio::net::TcpStream::connect(weir.addr("http")).await.expect("a connection");
        let io = hyper_util::rt::TokioIo::new(stream);
        let exec = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(exec, io).await.expect("HTTP/2");
        tokio::spawn(connection);
        let (say, said) = tokio::sync::mpsc::unbounded_channel();
        let request = call("/ok", None, Either::Right(Empty::new())).map(|_| Messages(said));
        let mut answer = sender.send_request(request).await.expect("an answer before the first message").into_body();
        for message in ["one", "two", "three"] {
            say.send(Bytes::from(message)).expect("the call is open");
            let frame = answer.frame().await.expect("a message").expect("a whole one");
            assert_eq!(frame.data_ref().map(|data| &data[..]), Some(message.as_bytes()));
        }
        drop(say);
        let end = answer.frame().await.expect("trailers").expect("whole ones");
        assert_eq!(
            end.trailers_ref().and_then(|trailers| trailers.get("grpc-status")).map(|s| s.as_bytes()),
            Some(&b"0"[..])
        );
    });
    eventually("it is counted", || counted(&weir, "2xx") == 1.0);
}
