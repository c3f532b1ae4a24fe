//! What a lying target says reaches a client as it is, as an error, or as an answer that breaks off; never as something
//! else, and never somebody else's client (RFC 9112 §6.3, §8, §11.1).

use crate::support::*;

const OK: &str = "HTTP/1.1 200 OK\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// What a client may be shown.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shown {
    /// 200 with `hello`.
    Hello,
    /// 502, or an answer that breaks off.
    Broken,
    /// This status without a body.
    Bare(u16),
}
use Shown::*;

/// The target's bytes; it closes after them when the last field says so.
type Case = (&'static str, String, Shown, bool);

fn case(method: &'static str, head: &str, body: &str, shown: Shown) -> Case {
    (method, format!("{head}\r\n{body}"), shown, false)
}
fn last(head: &str, body: &str, shown: Shown) -> Case {
    ("GET", format!("{head}\r\n{body}"), shown, true)
}

/// Runs each case with a client of HTTP/1.1 and one of HTTP/1.0, and another client after it.
#[track_caller]
fn check(cases: Vec<Case>) {
    let replies: Vec<(String, bool)> = cases.iter().map(|(_, bytes, _, close)| (bytes.clone(), *close)).collect();
    let bench = Bench::answering("", move |request| {
        match request.path[1..].split('/').next().and_then(|n| n.parse::<usize>().ok()).map(|n| &replies[n]) {
            Some((bytes, true)) => Reply::last(bytes),
            Some((bytes, false)) => Reply::raw(bytes),
            None => Reply::text(&request.path),
        }
    });
    for (n, (method, bytes, shown, _)) in cases.iter().enumerate() {
        for version in ["1.1", "1.0"] {
            let what = &format!("HTTP/{version} and {:?}", &bytes[..bytes.len().min(300)]);
            let mut client = bench.weir.client();
            client.send(format!("{method} /{n}/ HTTP/{version}\r\nHost: test\r\n\r\n"));
            let answer = client.try_answer(*method == "HEAD");
            match (shown, &answer) {
                (Hello, Ok(answer)) => {
                    assert_eq!((answer.status, answer.text()), (200, "hello"), "{what}");
                    assert!(answer.head.values("content-length").len() <= 1, "{what}: {answer:?}");
                    assert!(matches!(answer.head.field("content-length"), None | Some("5")), "{what}: {answer:?}");
                }
                (Bare(status), Ok(answer)) => {
                    assert_eq!((answer.status, &*answer.body), (*status, &b""[..]), "{what}");
                    assert_eq!(answer.head.field("transfer-encoding"), None, "{what}");
                }
                (Broken, Ok(answer)) => assert_eq!(answer.status, 502, "{what}: {answer:?}"),
                (Broken, Err(_)) => {}
                (_, Err(error)) => panic!("{what}: {error}"),
            }
            if version == "1.1" && answer.is_ok() && !client.is_silent_and_closed() {
                let next = client.get("/same", "");
                assert_eq!((next.status, next.text()), (200, "/same"), "after {what}");
            }
            bench.serves_the_next();
        }
    }
}

#[test]
fn lengths() {
    let length = |lines: &str| format!("{OK}{lines}");
    check(vec![
        case("GET", &length("Content-Length: 5\r\n"), "hello", Hello),
        case("GET", &length("Content-Length: 5\r\nContent-Length: 5\r\n"), "hello", Hello),
        case("GET", &length("Content-Length: 5, 5\r\n"), "hello", Hello),
        case("GET", &length("Content-Length: 0005\r\n"), "hello", Hello),
        last(&length("Content-Length: 5, 50\r\n"), "hello", Broken),
        last(&length("Content-Length: 5\r\nContent-Length: 50\r\n"), "hello", Broken),
        last(&length("Content-Length: -5\r\n"), "hello", Broken),
        last(&length("Content-Length: +5\r\n"), "hello", Broken),
        last(&length("Content-Length: abc\r\n"), "hello", Broken),
        last(&length("Content-Length:\r\n"), "hello", Broken),
        last(&length("Content-Length : 5\r\n"), "hello", Broken),
        last(&length("Content-Length: 18446744073709551621\r\n"), "hello", Broken),
        last(&length("Content-Length: 50\r\n"), "hello", Broken),
        case("HEAD", &length("Content-Length: +5\r\n"), "", Broken),
        case("HEAD", &length("Content-Length: 11\r\n"), "", Bare(200)),
    ]);
}

#[test]
fn codings() {
    let coded = |coding: &str| format!("{OK}Transfer-Encoding: {coding}\r\n");
    let hello = "5\r\nhello\r\n0\r\n\r\n";
    check(vec![
        case("GET", &coded("CHUNKED"), hello, Hello),
        case("GET", &coded("chunked"), "2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 1\r\n\r\n", Hello),
        last(&coded("gzip, chunked"), hello, Broken),
        last(&coded("chunked, wat"), hello, Broken),
        last(&coded("chunked, chunked"), hello, Broken),
        last(&coded("chunked\r\nTransfer-Encoding: chunked"), hello, Broken),
        last(&coded("identity"), "hello", Broken),
        last(&coded(""), "hello", Broken),
        last(&coded("chunked\r\nContent-Length: 4"), hello, Broken),
        last(&coded("identity\r\nContent-Length: 5"), "hello", Broken),
        last("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n", hello, Broken),
        case("HEAD", &coded("chunked"), "", Bare(200)),
        case("HEAD", &coded("chunked\r\nContent-Length: 5"), "", Broken),
    ]);
}

#[test]
fn chunks() {
    let chunked = |body: &str| last(&format!("{OK}{CHUNKED}"), body, Broken);
    check(
        [
            "5\r\nhello\r\n",
            "50\r\nhello",
            "5\r\nhello\r\n0\r\n",
            "5\r\nhello\r\nzz\r\nworld\r\n0\r\n\r\n",
            "10000000000000005\r\nhello\r\n0\r\n\r\n",
            "5\r\nhelloXX5\r\nworld\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "5\nhello\n0\n\n",
            "5\r\nhello\r\n0\r\nbad\r\n\r\n",
            "-5\r\nhello\r\n0\r\n\r\n",
        ]
        .map(chunked)
        .into(),
    );
}

#[test]
fn status_lines_and_fields() {
    let mut cases: Vec<Case> = [
        "HTTP/1.1 abc OK",
        "HTTP/1.1 99 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 000 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 600 X",
        "HTTP/1.1 999 X",
        "HTTP/1.1 20",
        "HTTP/1.1 -20 OK",
        "HTTP/1.1",
        "ICY 200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/1.2 200 OK",
        "http/1.1 200 OK",
        " HTTP/1.1 200 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200 O\rK",
        "\u{16}\u{3}\u{1}garbage",
        "hello",
    ]
    .map(|line| last(&format!("{line}\r\nContent-Length: 5\r\n"), "hello", Broken))
    .into();
    cases.extend(
        [
            "X : y",
            " X: y",
            "X: y\r\n z",
            "no colon",
            ": y",
            "X: a\0b",
            "X: a\rSet-Cookie: evil=1",
            "X: a\u{1b}b",
            "X Y: z",
            "X(y): z",
        ]
        .map(|line| last(&format!("{OK}{line}\r\nContent-Length: 5\r\n"), "hello", Broken)),
    );
    cases.push(last(&format!("{OK}X: {}\r\n", "y".repeat(1 << 20)), "hello", Broken));
    cases.push(last(&format!("{OK}{}", "X: y\r\n".repeat(2000)), "hello", Broken));
    cases.push(last("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n", "tunnel", Broken));
    for line in ["HTTP/1.1 200 ", "HTTP/1.1 200", "HTTP/1.1 200 Caf\u{e9} (:)"] {
        cases.push(case("GET", &format!("{line}\r\nContent-Length: 5\r\n"), "hello", Hello));
    }
    check(cases);
}

#[test]
fn answers_without_a_body_and_bytes_beyond_a_body() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Poison: 1\r\n\r\npoison";
    check(vec![
        case("GET", "HTTP/1.1 204 No Content\r\n", "leaked", Bare(204)),
        case("GET", "HTTP/1.1 204 No Content\r\n", poison, Bare(204)),
        case("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n", "leaked", Bare(204)),
        case("GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", Bare(204)),
        case("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n", "leaked", Bare(304)),
        case("GET", "HTTP/1.1 304 Not Modified\r\n", poison, Bare(304)),
        case("HEAD", &format!("{OK}Content-Length: 6\r\n"), "leaked", Bare(200)),
        case("GET", &format!("{OK}Content-Length: 5\r\n"), &format!("hello{poison}"), Hello),
        case("GET", &format!("{OK}Content-Length: 5\r\n"), "helloEXTRA", Hello),
        case("GET", &format!("{OK}{CHUNKED}"), &format!("5\r\nhello\r\n0\r\n\r\n{poison}"), Hello),
        last("HTTP/1.0 200 OK\r\n", "hello", Hello),
        last(OK, "hello", Hello),
    ]);
}

#[test]
fn a_connection_on_which_a_target_speaks_unasked_serves_nobody_else() {
    let upstream = Upstream::raw(|mut wire| {
        while let Ok(Some(head)) = wire.head() {
            let path = head.start.split(' ').nth(1).unwrap_or_default().to_owned();
            let length = path.len();
            if wire.try_send(format!("{OK}Content-Length: {length}\r\n\r\n{path}")).is_err() {
                return;
            }
            if path == "/evil" {
                let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
                if wire.try_send(poison).is_err() {
                    return;
                }
            }
        }
    });
    let weir = Site::new().server("workers = 1").to(upstream.addr, "", "").start();
    for _ in 0..20 {
        assert_eq!(weir.get("/evil", "").text(), "/evil");
        eventually("the connection is dropped", || upstream.open() == 0);
        assert_eq!(weir.get("/next", "").text(), "/next");
    }
}

#[test]
fn a_broken_answer_without_framing_ends_in_a_reset() {
    let gate = Gate::default();
    let passed = gate.clone();
    let upstream = Upstream::raw(move |mut wire| {
        while let Ok(Some(head)) = wire.head() {
            let sent = wire.try_send(format!("{OK}{CHUNKED}\r\n5\r\nhello\r\n"));
            if head.start.contains("/break") {
                return passed.pass();
            }
            sent.expect("Weir reads");
        }
    });
    let limits = format!("body_idle_timeout = \"{}\"", weir::SHORT);
    let weir = Site::new().limits(&limits).to(upstream.addr, "", "").start();
    for path in ["/stall", "/break"] {
        let mut client = weir.client();
        client.send(format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n"));
        let answer = client.try_answer_head().expect("a head");
        assert_eq!((answer.status, answer.head.field("transfer-encoding")), (200, None));
        assert_eq!(client.exactly(5).expect("what came"), b"hello");
        if path == "/break" {
            gate.open();
        }
        // An orderly end would say that this was all.
        assert!(client.is_reset(), "{path}");
    }
}

#[test]
fn interim_answers_pass_without_framing_and_in_bounds() {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\nConnection: x-a\r\nX-A: 1\r\n\r\n";
    let whole = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let bench = Bench::answering("", move |request| match &*request.path {
        "/hints" => Reply::raw(&format!("{interim}HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 P\r\n\r\n{whole}")),
        "/flood" => Reply::raw(&format!("{}{whole}", interim.repeat(20_000))),
        path => Reply::text(path),
    });
    let answer = bench.weir.get("/hints", "");
    let statuses: Vec<&str> = answer.interim.iter().filter_map(|head| head.start.split(' ').nth(1)).collect();
    assert_eq!((statuses, answer.text()), (vec!["103", "100", "102"], "hello"));
    for gone in ["content-length", "transfer-encoding", "connection", "x-a"] {
        assert_eq!(answer.interim[0].field(gone), None, "{gone}");
    }
    assert_eq!(answer.interim[0].field("link"), Some("</a>"));
    let answer = bench.weir.get("/flood", "");
    assert_eq!(answer.text(), "hello");
    assert!(answer.interim.len() < 20_000, "what is not taken at once is not kept without end");
    let mut client = bench.weir.client();
    client.send("GET /hints HTTP/1.0\r\nHost: test\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.interim.len(), answer.text()), (0, "hello"));
    bench.serves_the_next();
}

#[test]
fn trailers_and_hop_by_hop_fields_of_a_target() {
    let bench = Bench::answering("", |request| match &*request.path {
        "/trailers" => Reply::raw(&format!(
            "{OK}{CHUNKED}Trailer: X-Sum, Set-Cookie, Content-Length\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\nSet-Cookie: evil=1\r\nContent-Length: 50\r\n\r\n"
        )),
        "/hops" => Reply::status(
            200,
            "Connection: X-Internal, keep-alive\r\nX-Internal: 1\r\nKeep-Alive: timeout=7\r\nProxy-Connection: close\r\nUpgrade: h2c\r\n",
            "hello",
        ),
        path => Reply::text(path),
    });
    let answer = bench.weir.get("/trailers", "TE: trailers\r\n");
    assert_eq!(answer.text(), "hello");
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "1".to_owned())]);
    let answer = bench.weir.get("/hops", "");
    for gone in ["connection", "x-internal", "keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(answer.head.field(gone), None, "{gone}");
    }
    bench.serves_the_next();
}
