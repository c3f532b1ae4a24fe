//! Bounds and malformed requests: an answer that says which, and the next client served.

use crate::support::weir::SHORT;
use crate::support::*;

/// The status that these bytes get; 0 for a connection closed without an answer.
fn status_of(weir: &Weir, bytes: &str) -> u16 {
    let mut client = weir.client();
    let _ = client.try_send(bytes);
    client.try_answer(bytes.starts_with("HEAD")).map_or(0, |answer| answer.status)
}

fn limited(lines: &str) -> (Upstream, Weir) {
    let upstream = Upstream::named("ok");
    let weir = Site::new().limits(lines).to(upstream.addr, "", "").start();
    (upstream, weir)
}

#[test]
fn a_head_that_is_too_large_is_431() {
    let (upstream, weir) = limited("max_header_bytes = \"8KiB\"\nmax_headers = 20");
    let long = format!("GET / HTTP/1.1\r\nHost: test\r\nX-Long: {}\r\n\r\n", "x".repeat(9 * 1024));
    let many = format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n", "X-N: 1\r\n".repeat(21));
    assert_eq!((status_of(&weir, &long), status_of(&weir, &many)), (431, 431));
    assert_eq!(upstream.count(), 0);
    let fits =
        format!("GET / HTTP/1.1\r\nHost: test\r\nX-Long: {}\r\n{}\r\n", "x".repeat(4096), "X-N: 1\r\n".repeat(15));
    assert_eq!(status_of(&weir, &fits), 200);
}

#[test]
fn a_body_that_is_too_large_is_413() {
    let (upstream, weir) = limited("max_body = \"1KiB\"");
    let known = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2000\r\n\r\n{}", "x".repeat(2000));
    assert_eq!(status_of(&weir, &known), 413);
    assert_eq!(upstream.count(), 0, "a length that is too large is refused before the target hears of it");
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n{}\r\n0\r\n\r\n",
        "x".repeat(2000)
    );
    assert_eq!(status_of(&weir, &chunked), 413);
    assert_eq!(upstream.count(), 0, "a cut upload is never whole at the target");
    let fits = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1024\r\n\r\n{}", "x".repeat(1024));
    assert_eq!(status_of(&weir, &fits), 200);
}

#[test]
fn a_slow_head_is_408() {
    let (_upstream, weir) = limited(&format!("header_timeout = \"{SHORT}\""));
    let mut slow = weir.client();
    let answer = slow.send("GET / HTTP/1.1\r\nHost: te").answer();
    assert_eq!(answer.status, 408);
    assert!(slow.is_closed());
    let mut silent = weir.client();
    let rest = silent.rest();
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
}

#[test]
fn an_idle_connection_is_closed() {
    let (_upstream, weir) = limited(&format!("idle_timeout = \"{SHORT}\""));
    let mut client = weir.client();
    assert_eq!(client.get("/", "").status, 200);
    assert_eq!(client.rest(), b"");
}

#[test]
fn a_client_whose_requests_match_no_route_idles_like_any_other() {
    let upstream = Upstream::named("ok");
    let site = Site::new().limits("idle_timeout = \"600ms\"\nheader_timeout = \"300ms\"");
    let route =
        "[[route]]\nname = \"there\"\nmatch = { path = \"/there\" }\nvariants = { a = \"p\" }\nweights = { a = 100 }";
    let weir = site.pool("p", &[upstream.addr], "").toml(route).start();
    let mut client = weir.client();
    for _ in 0..8 {
        let asked = std::time::Instant::now();
        assert_eq!(client.get("/elsewhere", "").status, 404);
        eventually("a moment passed", || asked.elapsed().as_millis() > 150);
    }
    assert_eq!(client.rest(), b"", "closed without a word");
}

#[test]
fn a_stalled_upload_is_given_up() {
    let (upstream, weir) = limited(&format!("body_idle_timeout = \"{SHORT}\""));
    let mut client = weir.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhalf");
    let rest = String::from_utf8_lossy(&client.rest()).into_owned();
    assert!(rest.starts_with("HTTP/1.1 408"), "{rest}");
    eventually("the target is let go", || upstream.open() == 0);
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_stalled_answer_is_given_up() {
    let upstream = Upstream::raw(|mut wire| {
        let _ = wire.head();
        let _ = wire.try_send("HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nhalf");
        let _ = wire.head();
    });
    let weir = Site::new().limits(&format!("body_idle_timeout = \"{SHORT}\"")).to(upstream.addr, "", "").start();
    let mut client = weir.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(client.try_answer(false).is_err());
    eventually("it is counted", || weir.metric("weir_request_errors_total", &[("reason", "timeout")]) == 1.0);
}

#[test]
fn what_follows_a_refused_request_with_a_body_is_not_read_as_a_request() {
    let upstream = Upstream::named("ok");
    let route =
        "[[route]]\nname = \"there\"\nmatch = { path = \"/there\" }\nvariants = { a = \"p\" }\nweights = { a = 100 }";
    let weir = Site::new().pool("p", &[upstream.addr], "").toml(route).start();
    for refused in ["POST /nowhere HTTP/1.1\r\nHost: test", "POST /there HTTP/1.1\r\nHost: a b"] {
        let mut client = weir.client();
        assert_eq!(client.get("/there", "").status, 200);
        let known = upstream.count();
        client.send(format!("{refused}\r\nContent-Length: 5000\r\n\r\n"));
        assert!(matches!(client.answer().status, 404 | 400));
        let _ = client.try_send("GET /there/smuggled HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(client.rest(), b"", "nothing answers what stood in the body");
        assert_eq!(upstream.count(), known);
    }
}

#[test]
fn a_client_that_says_nothing_is_told_so_in_time() {
    let (_upstream, weir) = limited(&format!("header_timeout = \"{SHORT}\""));
    let said = weir.client().rest();
    assert!(said.starts_with(b"HTTP/1.1 408 "), "{:?}", String::from_utf8_lossy(&said));
}

#[test]
fn malformed_requests_are_400_and_do_not_pass() {
    let (upstream, weir) = limited("");
    let (mut wrong, mut known) = (Vec::new(), 0);
    for bytes in [
        "nonsense\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nNo colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nSpace : 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\n folded: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: te st\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: +5\r\n\r\nhello",
        "POST / HTTP/1.0\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ] {
        let (status, passed) = (status_of(&weir, bytes), upstream.count());
        if !matches!(status, 400 | 501) || passed > known {
            wrong.push(format!("{status} for {bytes:?}, {} at the target", passed - known));
        }
        known = passed;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(weir.get("/", "").status, 200);
}

#[test]
fn a_broken_chunk_does_not_become_a_whole_upload() {
    let (upstream, weir) = limited("");
    for body in [
        "5;\nhello\r\n5\r\nworld\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nx: y\n\r\n",
        "zz\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "ffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    ] {
        let status =
            status_of(&weir, &format!("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
        assert!(matches!(status, 0 | 400..=499 | 502), "{status} for {body:?}");
        assert_eq!(upstream.count(), 0, "{body:?} was whole at the target");
    }
}

#[test]
fn connections_past_the_limit_wait() {
    let upstream = Upstream::named("ok");
    let weir = Site::new().server("workers = 1").limits("max_connections = 2").to(upstream.addr, "", "").start();
    let (mut first, mut second) = (weir.client(), weir.client());
    assert_eq!((first.get("/", "").status, second.get("/", "").status), (200, 200));
    let mut third = weir.client();
    third.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(second.get("/", "").status, 200);
    assert_eq!(upstream.count(), 3, "the third waits");
    assert_eq!(weir.metric("weir_connections", &[("listener", "http")]), 2.0);
    drop(first);
    assert_eq!(third.answer().status, 200);
}

#[test]
fn open_connections_are_counted() {
    let (_upstream, weir) = limited("");
    let clients: Vec<Wire> = (0..7).map(|_| weir.client()).collect();
    let open = || weir.metric("weir_connections", &[("listener", "http")]);
    eventually("seven are open", || open() == 7.0);
    drop(clients);
    eventually("none is open", || open() == 0.0);
}
