//! HTTP/2 without TLS, by prior knowledge, and WebSockets on its streams.

use crate::support::http2::{block_on, connect, post};
use crate::support::*;
use http::{Request, StatusCode};
use http_body_util::{Either, Empty};
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn http2_by_prior_knowledge_is_served_beside_http1() {
    let upstream = Upstream::answering(|request| {
        Reply::text(&format!(
            "{} {} {}",
            request.path,
            request.body.len(),
            request.head.field("host").unwrap_or("none")
        ))
    });
    let weir = Site::new().to(upstream.addr, "", "").start();
    block_on(async {
        let mut sender = connect(weir.addr("http")).await;
        for length in [0, 1, 100_000] {
            let (status, body) = post(&mut sender, "/up", vec![b'x'; length]).await;
            assert_eq!((status, body), (StatusCode::OK, format!("/up {length} test").into()));
        }
    });
    assert_eq!(weir.get("/one", "").text(), "/one 0 test");
}

#[test]
fn too_many_fields_are_431_over_http2_too() {
    let upstream = Upstream::named("hello");
    let weir = Site::new().limits("max_headers = 30").to(upstream.addr, "", "").start();
    let asked = |fields: usize| {
        block_on(async {
            let mut sender = connect(weir.addr("http")).await;
            let request =
                (0..fields).fold(Request::get("http://test/"), |request, at| request.header(format!("x-{at}"), ""));
            let request = request.body(Either::Right(Empty::new())).expect("a request");
            sender.send_request(request).await.expect("an answer").status().as_u16()
        })
    };
    assert_eq!((asked(20), asked(40)), (200, 431));
    assert_eq!(upstream.count(), 1);
}

#[test]
fn the_preface_may_come_byte_by_byte_and_looks_like_nothing_else() {
    let upstream = Upstream::named("hello");
    let weir = Site::new().to(upstream.addr, "", "").start();
    let mut client = weir.client();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
        client.send([*byte]);
    }
    let settings = client.exactly(9).unwrap();
    assert_eq!((settings[0], settings[3], &settings[5..]), (0, 4, &[0; 4][..]), "its own SETTINGS");
    let mut client = weir.client();
    for byte in b"PRI * HTTP/1.1\r\nHost: test\r\n\r\n" {
        client.send([*byte]);
    }
    assert_eq!(client.answer().status, 400, "not HTTP/2, and a target that no such method has");
    let mut client = weir.client();
    for byte in b"PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx" {
        client.send([*byte]);
    }
    assert_eq!(client.answer().text(), "hello");
    let client = weir.client();
    client.end();
    assert!({ client }.is_closed());
}

#[test]
fn a_websocket_on_a_stream_reaches_an_http1_target() {
    let upstream = Upstream::raw(|mut wire| {
        while let Ok(Some(head)) = wire.head() {
            if head.field("upgrade") != Some("websocket") {
                let sent = wire.try_send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain");
                sent.expect("Weir reads");
                continue;
            }
            assert_eq!(head.start, "GET /chat?room=1 HTTP/1.1");
            assert_eq!(head.field("sec-websocket-key").map(str::len), Some(24));
            assert_eq!(head.field("sec-websocket-version"), Some("13"));
            let agree = "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
            wire.try_send(agree).expect("Weir reads");
            while let Ok(byte) = wire.exactly(1) {
                if wire.try_send(byte).is_err() {
                    return;
                }
            }
            return drop(wire.try_send("bye"));
        }
    });
    let weir = Site::new().limits("idle_timeout = \"200ms\"").to(upstream.addr, "", "").start();
    block_on(async {
        let mut sender = connect(weir.addr("http")).await;
        assert_eq!(post(&mut sender, "/", Vec::new()).await.1, "plain");
        let request = Request::connect("http://test/chat?room=1")
            .header("sec-websocket-version", "13")
            .extension(Protocol::from_static("websocket"))
            .body(http_body_util::Either::Right(Empty::new()))
            .expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers().get("sec-websocket-protocol").map(|value| value.as_bytes()), Some(&b"chat"[..]));
        assert!(!answer.headers().contains_key("sec-websocket-accept") && !answer.headers().contains_key("upgrade"));
        let mut socket = TokioIo::new(hyper::upgrade::on(answer).await.expect("a tunnel"));
        let since = std::time::Instant::now();
        while since.elapsed() < std::time::Duration::from_millis(700) {
            socket.write_all(b"ping").await.expect("it goes up");
            let mut back = [0; 4];
            socket.read_exact(&mut back).await.expect("it comes down");
            assert_eq!(&back, b"ping");
        }
        assert_eq!(post(&mut sender, "/", Vec::new()).await.1, "plain", "other streams go on");
        socket.shutdown().await.expect("an end");
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.expect("the target's last words");
        assert_eq!(rest, b"bye");
    });
    eventually("the tunnel is over", || weir.metric("weir_tunnels_open", &[]) == 0.0);
}
