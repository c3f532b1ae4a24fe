//! HTTP/2 with hand-made frames: what RFC 9113 calls malformed reaches no target as a well-formed HTTP/1.1 request, and
//! floods end the connection that sends them, not the service.

use crate::support::frames::*;
use crate::support::*;

fn with<'a>(head: &[(&'a str, &'a str)], changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let changed = |name: &str| changes.iter().find(|(other, _)| *other == name).copied();
    let mut fields: Vec<_> = head.iter().map(|field| changed(field.0).unwrap_or(*field)).collect();
    fields.extend(changes.iter().filter(|(name, _)| !head.iter().any(|(other, _)| other == name)));
    fields
}

/// The stream is refused (400, RST_STREAM or the connection's end) and nothing of it reaches the target.
#[track_caller]
fn refused(bench: &Bench, head: &[(&str, &str)], body: Option<&[u8]>) {
    let before = bench.upstream.count();
    let mut client = Client::connect(bench.weir.addr("http"));
    client.request(1, head, body);
    let stream = client.wait(1);
    let refused = stream.reset.is_some() || client.closed || matches!(stream.status, Some(0 | 400));
    assert!(refused, "{head:?} was answered with {stream:?}");
    let reached = bench.upstream.requests().split_off(before);
    assert!(reached.is_empty(), "{head:?} reached the target as {reached:?}");
    bench.serves_the_next();
}

#[track_caller]
fn passed(bench: &Bench, head: &[(&str, &str)], body: Option<&[u8]>) -> Request {
    let before = bench.upstream.count();
    let mut client = Client::connect(bench.weir.addr("http"));
    client.request(1, head, body);
    let stream = client.wait(1);
    assert_eq!((stream.status, stream.ended, stream.reset), (Some(200), true, None), "{head:?}");
    let mut reached = bench.upstream.requests().split_off(before);
    assert_eq!(reached.len(), 1, "{head:?} reached the target as {reached:?}");
    reached.remove(0)
}

#[test]
fn fields() {
    let bench = Bench::new("");
    for (name, value) in [
        ("x", "a\r\nx-evil: 1"),
        ("x", "a\nb"),
        ("x", "a\rb"),
        ("x", "a\0b"),
        ("x: 1\r\nx-evil", "1"),
        ("X-Upper", "1"),
        ("x a", "1"),
        ("", "1"),
        ("x\0", "1"),
        ("x:a", "1"),
        ("x\u{7f}", "1"),
        (":evil", "1"),
        ("transfer-encoding", "chunked"),
        ("connection", "x"),
        ("proxy-connection", "x"),
        ("keep-alive", "x"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("host", "other"),
        ("host", ""),
        ("host", "a b"),
        ("content-length", "5"),
        ("content-length", ""),
        ("content-length", "+0"),
        ("max-forwards", "x"),
    ] {
        let head = if name == "max-forwards" { with(&GET, &[(":method", "OPTIONS")]) } else { GET.to_vec() };
        refused(&bench, &with(&head, &[(name, value)]), None);
    }
    let fields = [("te", "trailers"), ("cookie", "a=1"), ("host", "TEST:80"), ("x", "\u{e9}")];
    let mut head = with(&GET, &fields);
    head.push(("cookie", "b=2"));
    let request = passed(&bench, &head, None);
    assert_eq!(request.head.field("te"), Some("trailers"));
    assert_eq!(request.head.field("cookie"), Some("a=1; b=2"), "crumbs are joined (RFC 9113 §8.2.3)");
    assert_eq!(request.head.field("host"), Some("test"));
}

#[test]
fn pseudo_header_fields() {
    let bench = Bench::new("");
    for (name, value) in [
        (":path", ""),
        (":path", "a"),
        (":path", "*"),
        (":path", "?a"),
        (":path", "/a b"),
        (":path", "/a\r\nx: y"),
        (":path", "/\0"),
        (":path", "/\u{e9}"),
        (":path", "http://other/a"),
        (":method", ""),
        (":method", "G T"),
        (":method", "GET /b HTTP/1.1\r\n"),
        (":method", "TRACE"),
        (":authority", "a@b"),
        (":authority", "a b"),
        (":authority", "a\r\nx: y"),
        (":authority", "a:b"),
        (":authority", "a:99999"),
        (":authority", "a,b"),
        (":authority", "[::1"),
        (":scheme", "ftp"),
        (":scheme", ""),
        (":scheme", "http://other/?"),
        (":scheme", "http\r\nx: y"),
    ] {
        refused(&bench, &with(&GET, &[(name, value)]), None);
    }
    for missing in [":method", ":scheme", ":path", ":authority"] {
        let head: Vec<_> = GET.into_iter().filter(|(name, _)| *name != missing).collect();
        refused(&bench, &head, None);
    }
    for (name, value) in GET {
        refused(&bench, &[&GET[..], &[(name, value)]].concat(), None);
    }
    refused(&bench, &with(&GET, &[(":protocol", "websocket")]), None);
    refused(&bench, &with(&GET, &[(":method", "CONNECT"), (":protocol", "h2c")]), None);
    refused(&bench, &[("x", "y"), GET[0], GET[1], GET[2], GET[3]], None);
    let head = [GET[0], GET[1], GET[3], ("host", "other")];
    assert_eq!(passed(&bench, &head, None).head.field("host"), Some("other"), "Host stands for a missing :authority");
    assert_eq!(passed(&bench, &with(&GET, &[(":method", "OPTIONS"), (":path", "*")]), None).path, "*");
    assert_eq!(passed(&bench, &with(&GET, &[(":path", "//other/a")]), None).path, "//other/a");
}

#[test]
fn bodies() {
    let bench = Bench::new("");
    for length in ["4", "6", "+5", "5, 6", "x"] {
        refused(&bench, &with(&POST, &[("content-length", length)]), Some(b"hello"));
    }
    refused(&bench, &with(&POST, &[("transfer-encoding", "chunked")]), Some(b"0\r\n\r\nGET /hidden HTTP/1.1\r\n\r\n"));
    let request = passed(&bench, &with(&POST, &[("content-length", "005")]), Some(b"hello"));
    assert_eq!((request.head.field("content-length"), &*request.body), (Some("5"), &b"hello"[..]));
    let request = passed(&bench, &POST, Some(b"hello"));
    assert_eq!((request.head.field("transfer-encoding"), &*request.body), (Some("chunked"), &b"hello"[..]));
}

#[test]
fn trailers() {
    let bench = Bench::new("");
    let send = |fields: &[(&str, &str)]| {
        let mut client = Client::connect(bench.weir.addr("http"));
        let head =
            with(&POST, &[("trailer", "x-sum, host, content-length, authorization, x-forwarded-for, te, connection")]);
        let mut bytes = frame(HEADERS, END_HEADERS, 1, &block(&head));
        bytes.extend(frame(DATA, 0, 1, b"hello"));
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields)));
        client.send(&bytes);
        (client.wait(1), client.goaway)
    };
    for fields in [[(":path", "/b")], [("X-Upper", "1")], [("x", "a\r\nb")], [("x a", "1")], [("connection", "x")]] {
        let before = bench.upstream.count();
        let (stream, goaway) = send(&fields);
        assert!(stream.status != Some(200) || stream.reset.is_some() || goaway.is_some(), "{fields:?}: {stream:?}");
        bench.serves_the_next();
        assert_eq!(bench.upstream.count(), before + 1, "only the one after it: {fields:?}");
    }
    let before = bench.upstream.count();
    let evil = [
        ("host", "evil"),
        ("content-length", "50"),
        ("authorization", "evil"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-sum", "1"),
    ];
    assert_eq!(send(&evil).0.status, Some(200));
    let request = bench.upstream.requests().remove(before);
    assert_eq!(request.trailers, [("x-sum".to_owned(), "1".to_owned())]);
    assert_eq!((request.head.field("host"), &*request.body), (Some("test"), &b"hello"[..]));
}

#[test]
fn a_lying_target_is_no_better_over_http2() {
    let bench = Bench::answering("", |request| match &*request.path {
        "/cut" => Reply::last("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        "/short" => Reply::last("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"),
        "/long" => Reply::last("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloEXTRA"),
        "/both" => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        "/hops" => Reply::status(200, "Connection: x-a\r\nX-A: 1\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\n", "hello"),
        path => Reply::text(path),
    });
    for (path, expected) in
        [("/cut", None), ("/short", None), ("/both", None), ("/long", Some(b"hello")), ("/hops", Some(b"hello"))]
    {
        let mut client = Client::connect(bench.weir.addr("http"));
        client.request(1, &with(&GET, &[(":path", path)]), None);
        let stream = client.wait(1);
        match expected {
            Some(body) => {
                assert_eq!((stream.status, stream.ended, &*stream.data), (Some(200), true, &body[..]), "{path}")
            }
            None => assert!(stream.reset.is_some() || stream.status == Some(0), "{path}: {stream:?}"),
        }
        bench.serves_the_next();
    }
}

/// Sends pieces until the connection is cut off, at most `most` of them.
#[track_caller]
fn flood(bench: &Bench, most: usize, first: &[u8], mut piece: impl FnMut(u32) -> Vec<u8>) -> (usize, Client) {
    let mut client = Client::connect(bench.weir.addr("http"));
    client.send(first);
    let mut sent = 0;
    while sent < most && client.send(&(0..100).flat_map(|n| piece(2 * (sent as u32 + n) + 3)).collect::<Vec<u8>>()) {
        sent += 100;
    }
    assert!(sent < most, "still open after {sent}");
    client.rest();
    bench.serves_the_next();
    (sent, client)
}

#[test]
fn floods_end_the_connection_and_are_counted() {
    let bench = Bench::new("");
    let open = frame(HEADERS, END_HEADERS, 1, &block(&POST));
    let half = frame(HEADERS, 0, 1, &block(&POST));
    let get = |stream: u32| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&GET));
    let mut floods = 0;
    let floods_counted = || bench.weir.metric("weir_http2_floods_total", &[("listener", "http")]) as usize;
    let reset = |stream: u32| [get(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
    let post = |stream: u32| frame(HEADERS, END_HEADERS, stream, &block(&POST));
    let overflow = |stream: u32| [post(stream), frame(WINDOW_UPDATE, 0, stream, &[0x7f, 255, 255, 255])].concat();
    let mut check = |name: &str, first: &[u8], piece: &mut dyn FnMut(u32) -> Vec<u8>| {
        flood(&bench, 100_000, first, piece);
        floods += 1;
        eventually(&format!("{name} is counted"), || floods_counted() == floods);
    };
    check("rapid reset (CVE-2023-44487)", b"", &mut |stream| reset(stream));
    check("made you reset (CVE-2025-8671)", b"", &mut |stream| overflow(stream));
    check("PING", b"", &mut |_| frame(PING, 0, 0, &[0; 8]));
    check("SETTINGS", b"", &mut |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]));
    check("PRIORITY", b"", &mut |stream| frame(PRIORITY, 0, stream, &[0; 5]));
    check("empty DATA", &open, &mut |_| frame(DATA, 0, 1, &[]));
    check("CONTINUATION", &half, &mut |_| frame(CONTINUATION, 0, 1, &[]));
    check("frames unknown to it", b"", &mut |_| frame(0xbe, 0, 0, &[]));
    let reached = bench.upstream.count();
    assert!(reached < 1500, "{reached} requests reached the target");
}

#[test]
fn heads_without_end_and_tables_that_swell_are_cut_off() {
    let bench = Bench::new("");
    let head = frame(HEADERS, END_STREAM, 1, &block(&GET));
    let (sent, _) = flood(&bench, 5_000, &head, |_| frame(CONTINUATION, 0, 1, &block(&[("x", &"y".repeat(1000))])));
    assert!(sent < 1_000, "a megabyte of fields");
    // One entry of the table, named again and again: 60 MB from 16 KB.
    let entry = [&[0x40, 1, b'x', 127, 0xc1, 0x1e][..], &[b'y'; 4032]].concat();
    let bomb = [block(&GET), entry, vec![0xbe; 12_000]].concat();
    let mut client = Client::connect(bench.weir.addr("http"));
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb));
    assert_ne!(client.wait(1).status, Some(200));
    bench.serves_the_next();
    assert!(bench.upstream.requests().iter().all(|request| request.path == "/next"));
}

#[test]
fn more_streams_than_allowed_are_refused_and_the_others_answered() {
    let gate = Gate::default();
    let closed = gate.clone();
    let bench = Bench::answering("max_streams = 10", move |request| {
        if request.path == "/a" {
            closed.pass();
        }
        Reply::text(&request.path)
    });
    let mut client = Client::connect(bench.weir.addr("http"));
    for n in 0..30 {
        client.request(2 * n + 1, &GET, None);
    }
    assert_eq!(client.wait(59).reset, Some(7), "REFUSED_STREAM: it may be sent again");
    bench.serves_the_next();
    gate.open();
    let answered = (0..30).filter(|n| client.wait(2 * n + 1).data == b"/a").count();
    assert_eq!(answered, 10);
}
