//! Requests that two parsers could read differently never reach a target (RFC 9112 §11.2), class by class.

use crate::support::*;

const HOST: &str = "Host: test\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
const HELLO: &str = "5\r\nhello\r\n0\r\n\r\n";
/// Would be served if somebody took the bytes before it for a whole request.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: test\r\n\r\n";

fn get(line: &str) -> String {
    format!("{line}\r\n{HOST}\r\n{HIDDEN}")
}

fn get_with(fields: &str) -> String {
    format!("GET /a HTTP/1.1\r\n{HOST}{fields}\r\n{HIDDEN}")
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /a HTTP/1.1\r\n{HOST}{fields}\r\n{body}")
}

#[test]
fn request_lines() {
    let bench = Bench::new("");
    for line in [
        " GET /a HTTP/1.1",
        "GET  /a HTTP/1.1",
        "GET\t/a HTTP/1.1",
        "GET /a  HTTP/1.1",
        "GET /a HTTP/1.1 ",
        "GET /a\tHTTP/1.1",
        "GET /a",
        "GET  HTTP/1.1",
        "/a HTTP/1.1",
        "GET /a HTTP/1",
        "GET /a HTTP/1.10",
        "GET /a HTTP/01.1",
        "GET /a HTTP/0.9",
        "GET /a http/1.1",
        "GET /a HTPP/1.1",
        "GET /a HTTP /1.1",
        "GET /a HTTP/1.1x",
        "G(T /a HTTP/1.1",
        "G\0T /a HTTP/1.1",
        "G\u{e9}T /a HTTP/1.1",
        "\u{feff}GET /a HTTP/1.1",
        "GET /a\u{b}HTTP/1.1",
        "GET\r/a HTTP/1.1",
        "GET /a HTTP/1.1\r",
        "GET /a /b HTTP/1.1",
    ] {
        bench.refuses(get(line), 400);
    }
    bench.cuts(get("GET /a HTTP/2.0"));
    bench.refuses(format!("GET /a HTTP/1.1\n{HOST}\n"), 400);
    assert_eq!(bench.passes(format!("\r\n\r\nget /a HTTP/1.1\r\n{HOST}\r\n")).method, "get");
    assert_eq!(bench.passes(format!("FROB /a HTTP/1.1\r\n{HOST}\r\n")).method, "FROB");
}

#[test]
fn targets() {
    let bench = Bench::new("");
    for target in [
        "*",
        "a",
        "test",
        "test:80",
        "?a",
        "#a",
        "/a#b",
        "\\a",
        "/a\u{e9}",
        "/a\u{7f}",
        "/a\u{1}",
        "http:",
        "http:/a",
        "http:///a",
        "http://",
        "http://user@test/a",
        "http://user:pass@test/a",
        "http://test:x/a",
        "http://test:99999/a",
        "http://[::1/a",
        "http://te,st/a",
        "http://other/a",
        "http://test:81/a",
        "ftp://test/a",
        "javascript:alert(1)",
        "file:///etc/passwd",
    ] {
        bench.refuses(get(&format!("GET {target} HTTP/1.1")), 400);
    }
    for (target, path) in [
        ("http://test/a?b=c", "/a?b=c"),
        ("HTTP://TEST:80//a", "//a"),
        ("http://test", "/"),
        ("http://test?b", "/?b"),
        ("//other/a", "//other/a"),
        ("/a/../b/%2e%2e/%00|^", "/a/../b/%2e%2e/%00|^"),
    ] {
        let request = bench.passes(format!("GET {target} HTTP/1.1\r\n{HOST}\r\n"));
        assert_eq!(request.path, path);
        assert!(request.head.field("host").expect("a host").eq_ignore_ascii_case("test") || path == "//a");
    }
    assert_eq!(bench.passes(format!("OPTIONS * HTTP/1.1\r\n{HOST}\r\n")).path, "*");
    bench.refuses(format!("GET /{} HTTP/1.1\r\n{HOST}\r\n", "a".repeat(66_000)), 414);
}

#[test]
fn hosts() {
    let bench = Bench::new("");
    for host in [
        "",
        "Host: a b\r\n",
        "Host: a, b\r\n",
        "Host: a,b\r\n",
        "Host: a/b\r\n",
        "Host: u@a\r\n",
        "Host: a:b\r\n",
        "Host: a:80:80\r\n",
        "Host: a:65536\r\n",
        "Host: :80\r\n",
        "Host: [::1\r\n",
        "Host: ::1\r\n",
        "Host: [::1]a\r\n",
        "Host: [a]\r\n",
        "Host: a#b\r\n",
        "Host: a?b\r\n",
        "Host: a\\b\r\n",
        "Host: a\0b\r\n",
        "Host: a\tb\r\n",
        "Host: caf\u{e9}\r\n",
        "Host: http://a\r\n",
        "Host: a%\r\n",
        "Host: a%00\r\n",
        "Host: <a>\r\n",
        "Host : a\r\n",
        "Host\0: a\r\n",
        "Host:\r\n a\r\n",
        " Host: a\r\n",
        "Host: test\r\nHost: test\r\n",
        "Host: test\r\nhOST: other\r\n",
    ] {
        bench.refuses(format!("GET /a HTTP/1.1\r\n{host}\r\n"), 400);
        bench.refuses(format!("GET http://a/ HTTP/1.1\r\n{host}\r\n"), 400);
    }
    for host in ["a", "A.example.", "a:", "a:80", "a_b", "[::1]", "[2001:db8::1]:80", "127.0.0.1", "%74est", ""] {
        let request = bench.passes(format!("GET /a HTTP/1.1\r\nHost:{host}\r\n\r\n"));
        assert_eq!(request.head.field("host"), Some(host));
    }
    let request = bench.passes("GET /a HTTP/1.0\r\n\r\n");
    assert_eq!(request.head.field("host"), Some(&*bench.upstream.addr.to_string()));
}

#[test]
fn field_lines() {
    let bench = Bench::new("");
    for line in [
        "X : y",
        "X\t: y",
        " X: y",
        "\tX: y",
        "X: y\r\n z",
        "X: y\r\n\tz",
        "X",
        ": y",
        "X Y: z",
        "X\0: y",
        "X\u{1}: y",
        "X(y): z",
        "X;: y",
        "X\u{e9}: y",
        "\"X\": y",
        "X/Y: z",
        "X: a\0b",
        "X: a\u{b}b",
        "X: a\u{7f}b",
        "X: a\u{1b}b",
        "X: a\rY: b",
        "X: a\nY: b",
        "X: a\r",
        "\r",
        "\u{feff}X: y",
        "GET /b HTTP/1.1",
    ] {
        bench.refuses(get_with(&format!("{line}\r\n")), 400);
        bench.refuses(format!("GET /a HTTP/1.1\r\n{line}\r\n{HOST}\r\n{HIDDEN}"), 400);
    }
    let fields = "X:\t y \r\nX:\r\nX: a\u{e9}\r\nx_y.z: ~\r\n";
    let request = bench.passes(format!("GET /a HTTP/1.1\r\n{HOST}{fields}\r\n"));
    assert_eq!(request.head.values("x"), ["y", "", "a\u{e9}"]);
    assert_eq!(request.head.field("x_y.z"), Some("~"));
}

#[test]
fn lengths_and_codings() {
    let bench = Bench::new("");
    for length in [
        "5, 5",
        "5,6",
        "5,",
        ",5",
        "-5",
        "+5",
        "0x5",
        "5;",
        "5 5",
        "",
        "5e0",
        "5.0",
        "\u{b}5",
        "5\u{c}",
        "\u{665}",
        "5_0",
        "\"5\"",
        "five",
        "18446744073709551621",
        "9223372036854775808",
        "00000000000000000005",
        "99999999999999999999999999",
    ] {
        bench.refuses(post(&format!("Content-Length: {length}\r\n"), HIDDEN), 400);
    }
    for coding in [
        "gzip",
        "identity",
        "gzip, chunked",
        "chunked, chunked",
        "chunked, identity",
        "xchunked",
        "chunked,",
        ",chunked",
        "\"chunked\"",
        "chunked;q=1",
        "chun ked",
        "\u{b}chunked",
        "chunked\u{c}",
        "chunked\u{85}",
        "",
    ] {
        bench.refuses(post(&format!("Transfer-Encoding: {coding}\r\n"), HELLO), 400);
        bench.refuses(post(&format!("Transfer-Encoding: {coding}\r\nContent-Length: 15\r\n"), HELLO), 400);
    }
    for fields in [
        "Content-Length: 15\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 15\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nX: y\r\ncontent-length: 6\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "X: y\rTransfer-Encoding: chunked\r\nContent-Length: 15\r\n",
        "X: y\nTransfer-Encoding: chunked\r\nContent-Length: 15\r\n",
        "Transfer-Encoding : chunked\r\nContent-Length: 15\r\n",
        "Transfer-Encoding\0: chunked\r\nContent-Length: 15\r\n",
    ] {
        bench.refuses(post(fields, HELLO), 400);
    }
}

#[test]
fn well_formed_lengths_and_codings() {
    let bench = Bench::new("");
    bench.cuts(format!("POST /a HTTP/1.0\r\n{HOST}{CHUNKED}\r\n{HELLO}{HIDDEN}"));
    for fields in ["Content-Length: \t 5 \t\r\n", "content-length:0005\r\n"] {
        let request = bench.passes(post(fields, "hello"));
        assert_eq!((request.head.field("content-length"), &*request.body), (Some("5"), &b"hello"[..]));
    }
    let request = bench.passes(post("TRANSFER-ENCODING:\tCHUNKED \r\n", HELLO));
    assert_eq!((request.head.field("transfer-encoding"), &*request.body), (Some("chunked"), &b"hello"[..]));
    for method in ["GET", "HEAD", "OPTIONS", "DELETE"] {
        let length = HIDDEN.len();
        let request = bench.passes(format!("{method} /a HTTP/1.1\r\n{HOST}Content-Length: {length}\r\n\r\n{HIDDEN}"));
        assert_eq!((request.method.as_str(), request.body), (method, HIDDEN.as_bytes().to_vec()));
    }
}

#[test]
fn chunks() {
    let bench = Bench::new("");
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(2000));
    let many = format!("{}0\r\n\r\n", format!("1;{}\r\nx\r\n", "x".repeat(1000)).repeat(40));
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "7\r\nhello\r\n0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n0\r\n\r\n",
        "5.\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "8000000000000000\r\nhello\r\n0\r\n\r\n",
        "g\r\n",
        "5;\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\r\nhello\r\n0\r\n\r\n",
        "5;a\0\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        &long,
        &many,
    ] {
        bench.cuts(post(CHUNKED, &format!("{body}{HIDDEN}")));
    }
    bench.cuts(post(CHUNKED, &format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(1 << 20))));
    for (body, expected) in [
        (HELLO, "hello"),
        ("2;a\r\nhe\r\n3;b=c;d=\"e;\\\"f\"\r\nllo\r\n0 ; g\r\n\r\n", "hello"),
        ("0000000000000005\r\nhello\r\n00\r\n\r\n", "hello"),
        ("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789"),
    ] {
        assert_eq!(bench.passes(post(CHUNKED, body)).body, expected.as_bytes());
    }
}

#[test]
fn a_body_that_breaks_off_is_never_whole_at_the_target() {
    let bench = Bench::new("");
    for (fields, body) in [(CHUNKED, "50\r\nhello"), (CHUNKED, "5\r\nhello\r\n"), ("Content-Length: 9\r\n", "hello")] {
        let before = bench.upstream.count();
        let mut client = bench.weir.client();
        client.send(post(fields, body)).end();
        client.rest();
        bench.serves_the_next();
        assert_eq!(bench.upstream.count(), before + 1, "only the one after it: {body:?}");
    }
}

#[test]
fn trailers() {
    let bench = Bench::new("");
    let sent = |trailers: &str, announced: &str| {
        post(&format!("{CHUNKED}Trailer: {announced}\r\n"), &format!("5\r\nhello\r\n0\r\n{trailers}\r\n"))
    };
    for line in [
        "X : y\r\n",
        " X: y\r\n",
        "X: y\r\n z\r\n",
        "X\r\n",
        ": y\r\n",
        "X: a\0b\r\n",
        "X: y\n",
        "X: y\r z\r\n",
        "X Y: z\r\n",
    ] {
        bench.cuts(sent(line, "X"));
    }
    bench.cuts(sent(&format!("X: {}\r\n", "y".repeat(100_000)), "X"));
    bench.cuts(sent(&"X: y\r\n".repeat(1000), "X"));
    let names = [
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Authorization",
        "Cookie",
        "X-Forwarded-For",
        "X_Forwarded_For",
        "X-Real-IP",
        "Connection",
        "TE",
        "Trailer",
        "Max-Forwards",
        "If-Match",
        "X-Request-Id",
    ];
    let lines: String = names.iter().map(|name| format!("{name}: 5\r\n")).collect();
    let request = bench.passes(sent(&format!("{lines}X-Sum: 1\r\n"), &format!("{}, X-Sum", names.join(", "))));
    assert_eq!(request.trailers, [("x-sum".to_owned(), "1".to_owned())]);
    assert_eq!((request.head.field("host"), &*request.body), (Some("test"), &b"hello"[..]));
    assert!(!request.head.fields.iter().any(|(name, _)| name == "authorization" || name == "cookie"));
}

#[test]
fn methods_that_are_for_weir_itself() {
    let bench = Bench::new("");
    bench.refuses(format!("CONNECT test:80 HTTP/1.1\r\n{HOST}\r\n{HIDDEN}"), 405);
    bench.refuses(format!("TRACE /a HTTP/1.1\r\n{HOST}Max-Forwards: 5\r\n\r\n{HIDDEN}"), 405);
    for hops in ["-1", "x", "", "5\r\nMax-Forwards: 5"] {
        bench.refuses(format!("OPTIONS /a HTTP/1.1\r\n{HOST}Max-Forwards: {hops}\r\n\r\n"), 400);
    }
    let request = bench.passes(format!("OPTIONS /a HTTP/1.1\r\n{HOST}Max-Forwards: 5\r\n\r\n"));
    assert_eq!(request.head.field("max-forwards"), Some("4"));
    let request = bench.passes(format!("GET /a HTTP/1.1\r\n{HOST}Max-Forwards: 0\r\n\r\n"));
    assert_eq!(request.head.field("max-forwards"), Some("0"), "of other methods it means nothing");
    let (before, mut client) = (bench.upstream.count(), bench.weir.client());
    for _ in 0..2 {
        client.send(format!("OPTIONS /a HTTP/1.1\r\n{HOST}Max-Forwards: 0\r\n\r\n"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.head.field("content-length")), (200, Some("0")));
        assert!(answer.head.field("allow").is_some_and(|methods| methods.contains("GET")));
    }
    assert_eq!(bench.upstream.count(), before);
    let counted = || bench.weir.metric("weir_requests_total", &[("variant", "stable"), ("code", "2xx")]) as usize;
    eventually("they are counted for their variant", || counted() == bench.upstream.count() + 2);
}

#[test]
fn what_connection_names_stays_on_its_hop_and_framing_does_not_go_with_it() {
    let bench = Bench::new("");
    let fields = "Connection: X-Secret, Transfer-Encoding, Host\r\nConnection: x-OTHER,,close\r\nX-Secret: 1\r\nX-Other: 1\r\nKeep-Alive: 5\r\n";
    let request = bench.passes(post(&format!("{fields}{CHUNKED}"), HELLO));
    for gone in ["x-secret", "x-other", "keep-alive", "connection"] {
        assert_eq!(request.head.field(gone), None, "{gone}");
    }
    assert_eq!((request.head.field("host"), &*request.body), (Some("test"), &b"hello"[..]));
    let request = bench.passes(post("Connection: Content-Length\r\nContent-Length: 5\r\n", "hello"));
    assert_eq!(request.body, b"hello");
}

#[test]
fn expectations() {
    let bench = Bench::new("");
    let mut client = bench.weir.client();
    client.send(post("Expect: 100-continue\r\nContent-Length: 5\r\n", ""));
    let interim = client.head().unwrap().expect("an interim answer");
    assert!(interim.start.starts_with("HTTP/1.1 100"), "{interim:?}");
    let answer = client.send("hello").answer();
    assert_eq!((answer.status, answer.interim.len()), (200, 0), "one 100 and one answer");
    let request = bench.passes(post("Expect: wibble\r\nContent-Length: 5\r\n", "hello"));
    assert_eq!(request.head.field("expect"), Some("wibble"), "for the target to refuse");
    let before = bench.upstream.count();
    let mut client = bench.weir.client();
    client.send(format!("POST /a HTTP/1.0\r\n{HOST}Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"));
    let answer = client.answer();
    assert_eq!((answer.status, answer.interim.len()), (200, 0), "HTTP/1.0 has no interim answers");
    assert_eq!(bench.upstream.requests()[before].head.field("expect"), None);
}

#[test]
fn sizes() {
    let bench = Bench::new("max_header_bytes = \"16KiB\"\nmax_headers = 20\nmax_body = \"10KiB\"");
    bench.refuses(get_with(&format!("X: {}\r\n", "y".repeat(20_000))), 431);
    bench.refuses(get_with(&"X: y\r\n".repeat(21)), 431);
    // One that never ends is not read for ever.
    bench.refuses(format!("GET /a HTTP/1.1\r\n{HOST}X: {}", "y".repeat(300_000)), 431);
    bench.refuses(format!("{} /a HTTP/1.1\r\n{HOST}\r\n", "A".repeat(300_000)), 414);
    bench.refuses(post("Content-Length: 10241\r\n", ""), 413);
    bench.cuts(post(CHUNKED, &format!("{:x}\r\n{}\r\n0\r\n\r\n", 10_241, "x".repeat(10_241))));
    assert_eq!(bench.passes(post("Content-Length: 10240\r\n", &"x".repeat(10_240))).body.len(), 10_240);
    let bench = Bench::new("max_header_bytes = \"1MiB\"");
    let request = bench.passes(format!("GET /a HTTP/1.1\r\n{HOST}X: {}\r\n\r\n", "y".repeat(900_000)));
    assert_eq!(request.head.field("x").map(str::len), Some(900_000));
}

#[test]
fn after_an_error_nothing_more_is_served_but_what_came_before_is() {
    let bench = Bench::new("");
    let mut client = bench.weir.client();
    client.send(format!(
        "GET /1 HTTP/1.1\r\n{HOST}\r\nGET /2 HTTP/1.1\r\n{HOST}\r\nGET /3 HTTP/1.1\r\nHost: a b\r\n\r\n{HIDDEN}"
    ));
    assert_eq!([client.answer().status, client.answer().status, client.answer().status], [200, 200, 400]);
    assert!(client.is_closed());
    let reached: Vec<String> = bench.upstream.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(reached, ["/1", "/2"]);
    let mut client = bench.weir.client();
    client.send(format!("GET /4 HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n{HIDDEN}"));
    assert_eq!(client.answer().text(), "/4");
    assert!(client.is_closed());
    assert!(!bench.upstream.requests().iter().any(|request| request.path == "/hidden"));
}

#[test]
fn protocols_that_would_carry_hidden_requests_are_not_offered() {
    let bench = Bench::new("");
    for upgrade in ["h2c", "H2C", "HTTP/2.0", "TLS/1.0", "h2c, HTTP/1.1"] {
        let request = bench.passes(
            get_with(&format!(
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABk\r\n"
            ))
            .replace(HIDDEN, ""),
        );
        for gone in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(request.head.field(gone), None, "{upgrade}: {gone}");
        }
    }
    let request = bench.passes(get_with("Connection: upgrade\r\nUpgrade: websocket, h2c\r\n").replace(HIDDEN, ""));
    assert_eq!(request.head.field("upgrade"), Some("websocket"));
    let request = bench.passes("GET /a HTTP/1.0\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(request.head.field("upgrade"), None);
}
