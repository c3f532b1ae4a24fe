//! Answers of a route with `compress`: what is compressed, what is left, and that streams stay streams.

use crate::support::http2;
use crate::support::*;
use http_body_util::{BodyExt, Either, Empty};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

const ALL: &str = "compress = [\"gzip\", \"br\", \"zstd\"]";
const CODINGS: [&str; 3] = ["gzip", "br", "zstd"];

/// The whole of what a complete stream decodes to.
#[track_caller]
fn decoded(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let (plain, whole) = begun(coding, bytes);
    assert!(whole, "{coding}: the stream has no end");
    plain
}

/// What the beginning of a stream decodes to, and whether its end is there.
fn begun(coding: &str, bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut plain = Vec::new();
    let whole = match coding {
        "gzip" => flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).is_ok(),
        "br" => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut plain).is_ok(),
        _ => {
            let mut context = zstd_safe::DCtx::create();
            let mut from = zstd_safe::InBuffer::around(bytes);
            loop {
                let mut part = [0; 4096];
                let mut to = zstd_safe::OutBuffer::around(&mut part[..]);
                let left = context.decompress_stream(&mut to, &mut from).expect("valid zstd");
                plain.extend_from_slice(to.as_slice());
                if left == 0 || (from.pos() == bytes.len() && to.as_slice().len() < 4096) {
                    break left == 0;
                }
            }
        }
    };
    (plain, whole)
}

fn page(length: usize) -> String {
    (0..).flat_map(|n| format!("<li>{n}</li>\n").into_bytes()).take(length).map(char::from).collect()
}

fn html(fields: &str, body: &str) -> Reply {
    Reply::status(200, &format!("Content-Type: text/html\r\n{fields}"), body)
}

fn accept(coding: &str) -> String {
    format!("Accept-Encoding: {coding}\r\n")
}

#[test]
fn each_coding_gives_the_same_bytes_back() {
    let body = page(300_000);
    let sent = body.clone();
    let upstream =
        Upstream::answering(move |_| html("ETag: \"v1\"\r\nAccept-Ranges: bytes\r\nVary: Origin\r\n", &sent));
    let weir = Site::new().to(upstream.addr, "", ALL).start();
    for coding in CODINGS {
        let mut client = weir.client();
        // Twice, for the connections on both sides.
        for _ in 0..2 {
            let answer = client.get("/", &accept(coding));
            let field = |name| answer.head.field(name);
            assert_eq!((answer.status, field("content-encoding")), (200, Some(coding)));
            assert_eq!((field("content-length"), field("accept-ranges")), (None, None));
            assert_eq!((field("etag"), field("vary")), (Some("W/\"v1\""), Some("Origin, Accept-Encoding")));
            assert!(answer.body.len() < body.len() / 3, "{coding}: {} bytes", answer.body.len());
            assert!(decoded(coding, &answer.body) == body.as_bytes(), "{coding}");
        }
        assert_eq!(weir.metric("weir_compressed_total", &[("route", "all"), ("encoding", coding)]), 2.0);
    }
    assert_eq!(
        upstream.requests()[2].head.field("accept-encoding"),
        Some("br"),
        "the target sees what the client says"
    );
    assert_eq!(weir.metric("weir_compress_bytes_total", &[("direction", "in")]), 6.0 * 300_000.0);
    let out = weir.metric("weir_compress_bytes_total", &[("direction", "out")]);
    assert!(out > 1000.0 && out < 600_000.0, "{out}");
    assert_eq!(weir.metric("weir_compress_skipped_total", &[]), 0.0);
    assert!(upstream.connections() < 6, "connections to the target are used again");
    let stats = weir.admin("GET", "/api/v1/stats", "", "").json();
    assert_eq!(stats["routes"][0]["compressed"]["answers"]["zstd"], 2, "{stats}");
}

#[test]
fn a_chunked_body_and_its_trailers_arrive() {
    let upstream = Upstream::raw(|mut wire| {
        while matches!(wire.head(), Ok(Some(_))) {
            let _ = wire.try_send("HTTP/1.1 200 X\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
            for n in 0..500 {
                let piece = format!("{{\"number\": {n}}}\n");
                let _ = wire.try_send(format!("{:x}\r\n{piece}\r\n", piece.len()));
            }
            let _ = wire.try_send("0\r\nX-Sum: 7\r\n\r\n");
        }
    });
    let weir = Site::new().to(upstream.addr, "", ALL).start();
    let expected: String = (0..500).map(|n| format!("{{\"number\": {n}}}\n")).collect();
    let mut client = weir.client();
    for coding in CODINGS {
        let answer = client.get("/", &format!("TE: trailers\r\nConnection: TE\r\n{}", accept(coding)));
        assert_eq!(decoded(coding, &answer.body), expected.as_bytes());
        assert_eq!(answer.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    }
    assert_eq!(weir.metric("weir_request_errors_total", &[]), 0.0);
}

#[test]
fn clients_choose() {
    let upstream = Upstream::answering(|_| html("ETag: \"v1\"\r\n", &page(2000)));
    let weir = Site::new().to(upstream.addr, "", "compress = [\"zstd\", \"gzip\"]").start();
    let mut client = weir.client();
    for (fields, coding) in [
        ("Accept-Encoding: gzip, deflate, br, zstd\r\n", Some("zstd")),
        ("Accept-Encoding: gzip, deflate, br\r\n", Some("gzip")),
        ("Accept-Encoding: gzip;q=0.5\r\nAccept-Encoding: zstd;q=0.4\r\n", Some("gzip")),
        ("Accept-Encoding: *\r\n", Some("zstd")),
        ("Accept-Encoding: identity;q=0, *;q=0.1\r\n", Some("zstd")),
        ("Accept-Encoding: gzip;q=0.5, identity\r\n", None),
        ("Accept-Encoding: gzip;q=0, zstd;q=0\r\n", None),
        ("Accept-Encoding: br\r\n", None),
        ("Accept-Encoding: gzip\r\nCache-Control: no-transform\r\n", None),
        ("", None),
    ] {
        let answer = client.get("/", fields);
        assert_eq!(answer.head.field("content-encoding"), coding, "{fields}");
        assert_eq!(answer.head.field("vary"), Some("Accept-Encoding"), "{fields}");
        if coding.is_none() {
            assert_eq!((answer.head.field("content-length"), answer.text()), (Some("2000"), &*page(2000)));
            assert_eq!(answer.head.field("etag"), Some("\"v1\""));
        }
    }
}

#[test]
fn what_must_not_be_compressed_is_not() {
    let long = page(5000);
    let cases: Vec<(u16, String, String)> = [
        (200, "Content-Type: text/html\r\nContent-Encoding: br", &*long),
        (200, "Content-Type: text/html\r\nCache-Control: max-age=5, no-transform", &long),
        (200, "Content-Type: image/png", &long),
        (200, "X-No: type", &long),
        (200, "Content-Type: text/html", "short"),
        (200, "Content-Type: text/html\r\nContent-Digest: sha-256=:x:", &long),
        (206, "Content-Type: text/html\r\nContent-Range: bytes 0-4999/9000", &long),
        (404, "Content-Type: text/html", &long),
        (503, "Content-Type: text/html", &long),
    ]
    .map(|(status, fields, body)| (status, format!("{fields}\r\nETag: \"v1\"\r\n"), body.to_owned()))
    .into();
    let replies = cases.clone();
    let upstream = Upstream::answering(move |request| {
        let (status, fields, body) = &replies[request.path[1..].parse::<usize>().expect("a number")];
        Reply::status(*status, fields, body)
    });
    let weir = Site::new().to(upstream.addr, "", ALL).start();
    for (at, (status, fields, body)) in cases.iter().enumerate() {
        let answer = weir.get(&format!("/{at}"), &accept("gzip"));
        assert_eq!((answer.status, answer.text()), (*status, &**body), "{fields}");
        assert_eq!(answer.head.field("etag"), Some("\"v1\""), "{fields}");
        assert_eq!(answer.head.field("vary"), None, "{fields}");
        let encoding = answer.head.field("content-encoding");
        assert_eq!(encoding, fields.contains("Content-Encoding").then_some("br"), "{fields}");
    }
    assert_eq!(weir.metric("weir_compressed_total", &[]), 0.0);
}

#[test]
fn without_the_key_nothing_changes() {
    let upstream = Upstream::answering(|_| html("", &page(5000)));
    let weir = Site::new().to(upstream.addr, "", "").start();
    let answer = weir.get("/", &accept("gzip, br, zstd"));
    assert_eq!((answer.text(), answer.head.field("vary")), (&*page(5000), None));
    assert!(!weir.metrics().contains("weir_compress"));
    assert!(weir.admin("GET", "/api/v1/stats", "", "").json()["routes"][0]["compressed"].is_null());
}

#[test]
fn http_1_0_gets_what_the_target_sent() {
    let upstream = Upstream::answering(|_| html("", &page(5000)));
    let weir = Site::new().to(upstream.addr, "", ALL).start();
    let answer = weir.client().send("GET / HTTP/1.0\r\nHost: test\r\nAccept-Encoding: gzip\r\n\r\n").answer();
    assert_eq!((answer.text(), answer.head.field("content-encoding")), (&*page(5000), None));
    assert_eq!(answer.head.field("vary"), Some("Accept-Encoding"));
}

#[test]
fn the_answer_to_a_head_is_that_to_a_get() {
    let upstream = Upstream::answering(|request| {
        let body = page(5000);
        let head =
            format!("HTTP/1.1 200 X\r\nContent-Type: text/html\r\nETag: \"v1\"\r\nContent-Length: {}\r\n", body.len());
        Reply::Bytes(if request.method == "HEAD" { format!("{head}\r\n") } else { format!("{head}\r\n{body}") }.into())
    });
    let weir = Site::new().to(upstream.addr, "", ALL).start();
    let mut client = weir.client();
    let fields = |answer: &Answer| {
        let mut fields = answer.head.fields.clone();
        // How a body that is not there is framed.
        fields
            .retain(|(name, _)| !matches!(&*name.to_ascii_lowercase(), "date" | "transfer-encoding" | "x-request-id"));
        fields.sort();
        fields
    };
    for coding in ["gzip", "identity"] {
        let get = client.get("/", &accept(coding));
        client.send(format!("HEAD / HTTP/1.1\r\nHost: test\r\n{}\r\n", accept(coding)));
        let head = client.answer_to_head();
        assert_eq!(fields(&head), fields(&get), "{coding}");
    }
    assert_eq!(client.get("/", "").text(), page(5000), "the connection is in step");
}

#[test]
fn conditional_requests_reach_the_target_as_they_are() {
    let upstream = Upstream::answering(|request| match request.head.field("if-none-match") {
        Some(_) => Reply::raw("HTTP/1.1 304 X\r\nETag: \"v1\"\r\n\r\n"),
        None => html("ETag: \"v1\"\r\n", &page(5000)),
    });
    let weir = Site::new().to(upstream.addr, "", ALL).start();
    let mut client = weir.client();
    for (coding, tag) in [("gzip", "W/\"v1\""), ("identity", "\"v1\"")] {
        let first = client.get("/", &accept(coding));
        assert_eq!(first.head.field("etag"), Some(tag));
        let again = client.get("/", &format!("If-None-Match: {tag}\r\n{}", accept(coding)));
        assert_eq!((again.status, again.head.field("etag")), (304, Some(tag)));
        assert_eq!(again.head.field("vary"), Some("Accept-Encoding"));
        assert_eq!(again.head.field("content-encoding"), None);
    }
    let asked: Vec<_> =
        upstream.requests().iter().filter_map(|one| one.head.field("if-none-match").map(str::to_owned)).collect();
    assert_eq!(asked, ["W/\"v1\"", "\"v1\""]);
}

/// Reads chunks until their payload decodes to `expected`.
#[track_caller]
fn read_until(client: &mut Wire, coding: &str, payload: &mut Vec<u8>, expected: &str) {
    while begun(coding, payload).0 != expected.as_bytes() {
        payload.extend(client.chunk().expect("a further chunk comes by itself"));
    }
}

#[test]
fn events_arrive_one_by_one() {
    for coding in CODINGS {
        let (gate, held) = {
            let gate = Gate::default();
            (gate.clone(), gate)
        };
        let upstream = Upstream::raw(move |mut wire| {
            let _ = wire.head();
            let _ = wire.try_send("HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n");
            held.pass();
            let _ = wire.try_send("9\r\ndata: 2\n\n\r\n0\r\n\r\n");
        });
        let weir = Site::new().to(upstream.addr, "", ALL).start();
        let mut client = weir.client();
        client.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n", accept(coding)));
        let head = client.try_answer_head().expect("the head comes at once");
        assert_eq!(head.head.field("content-encoding"), Some(coding));
        let mut payload = Vec::new();
        read_until(&mut client, coding, &mut payload, "data: 1\n\n");
        gate.open();
        read_until(&mut client, coding, &mut payload, "data: 1\n\ndata: 2\n\n");
        loop {
            let chunk = client.chunk().expect("the end comes");
            if chunk.is_empty() {
                break;
            }
            payload.extend(chunk);
        }
        assert_eq!(decoded(coding, &payload), b"data: 1\n\ndata: 2\n\n");
    }
}

#[test]
fn a_body_that_breaks_off_at_the_target_breaks_off_at_the_client() {
    let short = format!("HTTP/1.1 200 X\r\nContent-Type: text/html\r\nContent-Length: 90000\r\n\r\n{}", page(50_000));
    let chunks = format!(
        "HTTP/1.1 200 X\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n",
        50_000,
        page(50_000)
    );
    for reply in [Reply::Last(short.clone().into()), Reply::Reset(short.into()), Reply::Last(chunks.into())] {
        let upstream = Upstream::answering(move |_| reply.clone());
        let weir = Site::new().to(upstream.addr, "", ALL).start();
        for (n, coding) in CODINGS.into_iter().enumerate() {
            let mut client = weir.client();
            client.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n", accept(coding)));
            assert!(client.try_answer_head().is_ok_and(|answer| answer.head.field("content-encoding") == Some(coding)));
            let mut payload = Vec::new();
            let broken = loop {
                match client.chunk() {
                    Ok(chunk) if chunk.is_empty() => break false,
                    Ok(chunk) => payload.extend(chunk),
                    Err(_) => break true,
                }
            };
            assert!(broken, "{coding}: the chunked body has no last chunk");
            assert!(!begun(coding, &payload).1, "{coding}: nor does the stream have an end");
            let counted = || weir.metric("weir_request_errors_total", &[("reason", "reset")]) == n as f64 + 1.0;
            eventually("the failure is counted", counted);
        }
        assert_eq!(weir.metric("weir_requests_in_flight", &[]), 0.0);
    }
}

/// A target that sends what does not get shorter for as long as it is taken, and counts it. It says the same again only
/// after more than any window.
fn endless() -> (Upstream, Arc<AtomicU64>) {
    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    let upstream = Upstream::raw(move |mut wire| {
        let _ = wire.head();
        let _ = wire.try_send("HTTP/1.1 200 X\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n");
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        let chunk = [&b"100000\r\n"[..], &(0..0x10_0000).map(|_| next()).collect::<Vec<_>>(), b"\r\n"].concat();
        while wire.try_send(&chunk).is_ok() {
            counted.fetch_add(0x10_0000, SeqCst);
        }
    });
    (upstream, sent)
}

#[test]
fn a_client_that_does_not_read_stops_the_target() {
    let (upstream, sent) = endless();
    let weir = Site::new().to(upstream.addr, "", ALL).start();
    for coding in CODINGS {
        let before = sent.load(SeqCst);
        let mut client = weir.client();
        client.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n", accept(coding)));
        client.try_answer_head().expect("the head comes");
        let held = settled("the target is stopped", || sent.load(SeqCst)) - before;
        assert!(held > 0 && held < 48 * 1024 * 1024, "{coding}: {held} bytes were taken");
        // The client goes: everything is given back.
        drop(client);
        eventually("the target's connection is closed", || upstream.open() == 0);
        eventually("nothing is in flight", || weir.metric("weir_requests_in_flight", &[]) == 0.0);
    }
    assert_eq!(weir.metric("weir_request_errors_total", &[("reason", "client_abort")]), 3.0);
    assert_eq!(weir.metric("weir_requests_total", &[("code", "2xx")]), 3.0);
}

#[test]
fn over_http2() {
    let upstream = Upstream::answering(|_| html("ETag: \"v1\"\r\n", &page(200_000)));
    let weir = Site::new().to(upstream.addr, "", ALL).start();
    http2::block_on(async {
        let mut sender = http2::connect(weir.addr("http")).await;
        for coding in CODINGS {
            for method in ["GET", "HEAD"] {
                let request = http::Request::builder().method(method).uri("http://test/");
                let request = request.header("accept-encoding", coding).body(Either::Right(Empty::new()));
                let answer = sender.send_request(request.expect("a request")).await.expect("an answer");
                let (parts, body) = answer.into_parts();
                assert_eq!(parts.headers["content-encoding"], coding, "{method}");
                assert_eq!(
                    (&parts.headers["etag"], &parts.headers["vary"]),
                    (&"W/\"v1\"".parse().unwrap(), &"Accept-Encoding".parse().unwrap())
                );
                assert!(!parts.headers.contains_key("content-length"), "{method} {:?}", parts.headers);
                let bytes = body.collect().await.expect("a whole body").to_bytes();
                if method == "GET" {
                    assert!(decoded(coding, &bytes) == page(200_000).as_bytes());
                } else {
                    assert!(bytes.is_empty());
                }
            }
        }
    });
}

#[test]
fn a_cut_body_resets_the_stream_of_http2() {
    let short = format!("HTTP/1.1 200 X\r\nContent-Type: text/html\r\nContent-Length: 90000\r\n\r\n{}", page(50_000));
    let upstream = Upstream::answering(move |_| Reply::Last(short.clone().into()));
    let weir = Site::new().to(upstream.addr, "", ALL).start();
    http2::block_on(async {
        let mut sender = http2::connect(weir.addr("http")).await;
        let request = http::Request::get("http://test/").header("accept-encoding", "br");
        let answer = sender.send_request(request.body(Either::Right(Empty::new())).expect("a request")).await;
        let body = answer.expect("a head").into_body().collect().await;
        assert!(body.is_err(), "the stream is reset");
    });
}

#[test]
fn a_route_s_own_answer_is_compressed_too() {
    let site = Site::new().toml(&format!(
        "[[route]]\nname = \"own\"\nmatch = {{ path = \"/\" }}\nrespond = {{ status = 200, file = \"page.html\" }}\n{ALL}"
    ));
    std::fs::write(site.folder.path().join("page.html"), page(100_000)).expect("the folder is writable");
    let weir = site.start();
    let mut client = weir.client();
    for coding in CODINGS {
        let answer = client.get("/", &accept(coding));
        assert_eq!(answer.head.field("content-encoding"), Some(coding));
        assert!(decoded(coding, &answer.body) == page(100_000).as_bytes());
    }
    client.send("HEAD / HTTP/1.1\r\nHost: test\r\nAccept-Encoding: gzip\r\n\r\n");
    let head = client.answer_to_head();
    assert_eq!((head.head.field("content-encoding"), head.head.field("content-length")), (Some("gzip"), None));
    assert_eq!(client.get("/", "").text(), page(100_000));
    assert_eq!(weir.metric("weir_requests_total", &[("code", "2xx")]), 5.0);
}

#[test]
fn a_reload_turns_it_on_and_off() {
    let upstream = Upstream::answering(|_| html("", &page(5000)));
    let mut weir = Site::new().to(upstream.addr, "", "").start();
    let plain = weir.site.rest.clone();
    for (lines, coding) in [(ALL, Some("gzip")), ("compress = [\"br\"]", Some("br")), ("", None)] {
        weir.site.rest = format!("{plain}{lines}\n");
        weir.site.write();
        assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 200);
        let answer = weir.get("/", &accept("gzip, br;q=0.5"));
        assert_eq!(answer.head.field("content-encoding"), coding, "{lines}");
    }
}

#[test]
fn from_targets_that_speak_http2() {
    let upstream = http2::Http2Upstream::answering(10, |_| async {
        let body = http_body_util::Full::new(page(200_000).into()).boxed();
        http::Response::builder().header("content-type", "text/css").body(body).expect("a head")
    });
    let weir = Site::new().to(upstream.addr, "protocol = \"h2\"", ALL).start();
    let mut client = weir.client();
    for coding in CODINGS {
        let answer = client.get("/", &accept(coding));
        assert_eq!(answer.head.field("content-encoding"), Some(coding));
        assert!(decoded(coding, &answer.body) == page(200_000).as_bytes());
    }
    assert_eq!(weir.metric("weir_request_errors_total", &[]), 0.0);
}
