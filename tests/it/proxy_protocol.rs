//! The PROXY protocol: whom Weir believes in front of it, and what it tells targets behind it.

use crate::support::http2::{Http2Upstream, block_on};
use crate::support::tls::target_config;
use crate::support::weir::SHORT;
use crate::support::*;
use http_body_util::BodyExt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

const TRUSTING: &str = "workers = 2\ntrusted_proxies = [\"127.0.0.1\"]";
const V1: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("a short block").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, block].concat()
}

/// As [`V1`].
fn v2_client() -> Vec<u8> {
    v2(0x21, 0x11, &[192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb])
}

fn v2_long() -> Vec<u8> {
    let tlv = [&[0xee, 0x20, 0][..], &[7; 0x2000]].concat();
    v2(0x21, 0x11, &[&[192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb][..], &tlv].concat())
}

/// Says in the body whom it was told the client is.
fn telling() -> Upstream {
    Upstream::answering(|request| Reply::text(request.head.field("x-forwarded-for").unwrap_or("nobody")))
}

fn behind(upstream: &Upstream, accepts: &str) -> Site {
    Site::new().server(TRUSTING).bind("127.0.0.1:0", &format!("proxy_protocol = \"{accepts}\"")).to(
        upstream.addr,
        "",
        "",
    )
}

fn refused(weir: &Weir, reason: &str) -> f64 {
    weir.metric("weir_proxy_protocol_refused_total", &[("listener", "http"), ("reason", reason)])
}

#[test]
fn the_client_is_whom_a_trusted_proxy_says() {
    let upstream = telling();
    for (accepts, prefaces) in [
        ("v1", vec![V1.as_bytes().to_vec()]),
        ("v2", vec![v2_client(), v2_long()]),
        ("any", vec![V1.as_bytes().to_vec(), v2_client()]),
    ] {
        let rules = "[[route.rule]]\nname = \"theirs\"\nwhen = { ip = [\"192.0.2.7\"] }\nvariant = \"stable\"";
        let weir = behind(&upstream, accepts).toml(rules).start();
        for preface in prefaces {
            let mut at_once = weir.client();
            assert_eq!(at_once.send([&preface[..], GET.as_bytes()].concat()).answer().text(), "192.0.2.7");
            assert_eq!(at_once.get("/", "X-Forwarded-For: 1.2.3.4\r\n").text(), "192.0.2.7", "every request's");
            let mut in_pieces = weir.client();
            let step = preface.len().div_ceil(60);
            for piece in preface.chunks(step) {
                in_pieces.send(piece);
            }
            assert_eq!(in_pieces.get("/", "").text(), "192.0.2.7");
            let forced = weir.metric("weir_requests_total", &[("forced", "true"), ("code", "2xx")]);
            assert!(forced >= 3.0, "the rule sees the client's address");
        }
        for reason in ["untrusted", "malformed", "timeout"] {
            assert_eq!(refused(&weir, reason), 0.0);
        }
    }
}

#[test]
fn tls_and_http2_come_after_it() {
    let ca = Ca::new();
    let upstream = telling();
    let site = https_site(&[("site", &ca.leaf(&["localhost"]))], "", upstream.addr).server(TRUSTING);
    let mut site = site;
    site.rest = site.rest.replace("[listener.tls]", "proxy_protocol = \"any\"\n[listener.tls]");
    let weir = site.bind("127.0.0.1:0", "proxy_protocol = \"v1\"").start();
    let mut tcp = std::net::TcpStream::connect(weir.addr("https")).expect("a connection");
    std::io::Write::write_all(&mut tcp, &v2_client()).expect("the preface is taken");
    let (mut secure, _) = TlsClient::new(&ca).handshake(tcp).expect("a handshake");
    assert_eq!(secure.get("/", "").text(), "192.0.2.7");
    block_on(async {
        let mut tcp = tokio::net::TcpStream::connect(weir.addr("http")).await.expect("a connection");
        tokio::io::AsyncWriteExt::write_all(&mut tcp, V1.as_bytes()).await.expect("the preface is taken");
        let io = hyper_util::rt::TokioIo::new(tcp);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, driver) = hyper::client::conn::http2::handshake(executor, io).await.expect("HTTP/2");
        tokio::spawn(driver);
        let request = http::Request::get("http://test/").body(http_body_util::Empty::<bytes::Bytes>::new());
        let answer = sender.send_request(request.expect("a request")).await.expect("an answer");
        assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "192.0.2.7");
    });
}

#[test]
fn nobody_else_is_believed_or_answered() {
    let upstream = telling();
    let site = behind(&upstream, "any").server("workers = 2\ntrusted_proxies = [\"10.0.0.0/8\", \"192.0.2.7\"]");
    let weir = site.start();
    for first in [V1.as_bytes().to_vec(), v2_client(), GET.as_bytes().to_vec()] {
        let mut client = weir.client();
        let _ = client.try_send([&first[..], GET.as_bytes()].concat());
        assert!(client.rest().is_empty(), "not a byte is answered");
    }
    assert!(weir.client().is_closed(), "a silent one is not waited for");
    eventually("they are counted", || refused(&weir, "untrusted") == 4.0);
    assert_eq!((refused(&weir, "malformed"), upstream.count()), (0.0, 0));
    assert!(weir.log().contains("no trusted proxy"));
}

#[test]
fn what_is_no_preface_gets_no_answer() {
    let upstream = telling();
    let weir = behind(&upstream, "v2").start();
    let broken: [&[u8]; 6] = [
        GET.as_bytes(),
        V1.as_bytes(),
        b"\x16\x03\x01",
        &v2(0x31, 0x11, &[0; 12]),
        &v2(0x21, 0x11, &[0; 11]),
        &v2(0x21, 0x13, &[0; 12]),
    ];
    for first in broken {
        let mut client = weir.client();
        let _ = client.try_send([first, GET.as_bytes()].concat());
        assert!(client.rest().is_empty(), "{first:?} is answered");
    }
    let mut cut = weir.client();
    cut.send(&v2_client()[..20]).end();
    assert!(cut.is_closed());
    eventually("they are counted", || refused(&weir, "malformed") == 7.0);
    assert_eq!(weir.metric("weir_connections_rejected_total", &[("listener", "http")]), 7.0);
    let empty = weir.client();
    empty.end();
    drop(empty);
    let mut whole = weir.client();
    assert_eq!(whole.send([&v2_client()[..], GET.as_bytes()].concat()).answer().text(), "192.0.2.7");
    assert_eq!((refused(&weir, "malformed"), upstream.count()), (7.0, 1), "an empty connection is a port check");
}

#[test]
fn a_preface_comes_in_time() {
    let upstream = telling();
    let site = behind(&upstream, "v1").limits(&format!("header_timeout = \"{SHORT}\""));
    let weir = site.start();
    let mut slow = weir.client();
    slow.send("PROXY TCP4 192.0.2.7");
    assert!(slow.is_closed());
    assert!(weir.client().is_closed());
    eventually("they are counted", || refused(&weir, "timeout") == 2.0);
}

#[test]
fn a_drain_does_not_wait_for_prefaces() {
    let upstream = telling();
    let mut weir = behind(&upstream, "v1").limits("header_timeout = \"60s\"").start();
    let silent = weir.client();
    eventually("it is accepted", || weir.metric("weir_connections", &[("listener", "http")]) == 1.0);
    weir.signal("TERM");
    assert!(weir.exit().success());
    drop(silent);
}

#[test]
fn a_proxys_own_connection_is_its_own_and_an_unknown_clients_is_nobodys() {
    let upstream = telling();
    let weir = behind(&upstream, "any").start();
    let field = "X-Forwarded-For: 203.0.113.9\r\n";
    let mut own = weir.client();
    own.send(v2(0x20, 0x00, b""));
    assert_eq!(own.get("/", field).text(), "203.0.113.9, 127.0.0.1");
    for unknown in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0x21, 0x00, b""), v2(0x21, 0x31, &[1; 216])] {
        let mut hidden = weir.client();
        hidden.send(unknown);
        assert_eq!(hidden.get("/", field).text(), "127.0.0.1", "the client's own word is not the proxy's");
    }
    let mut through = weir.client();
    through.send("PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n");
    assert_eq!(through.get("/", field).text(), "203.0.113.9, 127.0.0.1", "a trusted proxy behind the balancer");
}

/// A target that notes each connection's preface and answers each request with the connection's number.
fn noting(version: &'static str) -> (Upstream, Arc<Mutex<Vec<String>>>) {
    let noted = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&noted);
    let upstream = Upstream::raw(move |mut wire| {
        let Ok(said) = preface(&mut wire, version) else { return };
        let number = {
            let mut notes = notes.lock().expect("no test thread panicked");
            notes.push(said);
            notes.len()
        };
        while let Ok(Some(head)) = wire.head() {
            let Ok(_) = wire.body(&head, false) else { return };
            let body = number.to_string();
            let answer = format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if wire.try_send(answer).is_err() {
                return;
            }
        }
    });
    (upstream, noted)
}

/// A v1 line as it is; of v2 `FROM > TO`, or the command and family.
fn preface(wire: &mut Wire, version: &str) -> std::io::Result<String> {
    if version == "v1" {
        return wire.line();
    }
    let head = wire.exactly(16)?;
    assert_eq!(&head[..12], b"\r\n\r\n\0\r\nQUIT\n");
    let block = wire.exactly(usize::from(u16::from_be_bytes([head[14], head[15]])))?;
    if (head[12], head[13]) != (0x21, 0x11) {
        return Ok(format!("{:02x} {:02x}", head[12], head[13]));
    }
    let addr = |ip: usize, port: usize| {
        let ip: [u8; 4] = block[ip..ip + 4].try_into().expect("four bytes");
        SocketAddr::from((ip, u16::from_be_bytes([block[port], block[port + 1]])))
    };
    Ok(format!("{} > {}", addr(0, 8), addr(4, 10)))
}

fn notes(noted: &Mutex<Vec<String>>) -> Vec<String> {
    noted.lock().expect("no test thread panicked").clone()
}

fn sending(upstream: &Upstream, version: &str, more: &str) -> Site {
    let lines = format!("send_proxy = \"{version}\"\n{more}");
    Site::new().server("workers = 1").to(upstream.addr, &lines, "")
}

#[test]
fn a_target_is_told_of_each_client_on_a_connection_of_its_own() {
    for version in ["v1", "v2"] {
        let (upstream, noted) = noting(version);
        let weir = sending(&upstream, version, "").start();
        let (mut one, mut other) = (weir.client(), weir.client());
        for _ in 0..3 {
            assert_eq!(one.get("/", "").text(), "1");
            assert_eq!(other.get("/", "").text(), "2");
        }
        let to = weir.addr("http");
        let expected = [&one, &other].map(|client| {
            let from = client.local_addr();
            match version {
                "v1" => format!("PROXY TCP4 {} {} {} {}", from.ip(), to.ip(), from.port(), to.port()),
                _ => format!("{from} > {to}"),
            }
        });
        assert_eq!(notes(&noted), expected);
        drop(one);
        eventually("a client's connection to the target goes with it", || upstream.open() == 1);
        assert_eq!(other.get("/", "").text(), "2");
    }
}

#[test]
fn what_came_in_goes_out() {
    let (upstream, noted) = noting("v1");
    let site = sending(&upstream, "v1", "").server(TRUSTING).bind("127.0.0.1:0", "proxy_protocol = \"any\"");
    let weir = site.start();
    for preface in [v2_client(), v2(0x21, 0x00, b"")] {
        let mut client = weir.client();
        client.send(preface);
        assert_eq!(client.get("/", "").status, 200);
    }
    assert_eq!(notes(&noted), [V1.trim_end(), "PROXY UNKNOWN"]);
}

#[test]
fn another_clients_idle_connection_makes_room() {
    let (upstream, noted) = noting("v2");
    let weir = sending(&upstream, "v2", "max_connections = 1\nqueue_timeout = \"5s\"").start();
    let mut clients = [weir.client(), weir.client()];
    for turn in 1..=3 {
        for (at, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.get("/", "").text(), (2 * turn - 1 + at).to_string());
        }
    }
    assert_eq!(notes(&noted).len(), 6);
}

#[test]
fn a_mirrors_copy_is_nobodys_but_weirs() {
    let (upstream, noted) = noting("v2");
    let main = Upstream::named("main");
    let site = Site::new().server("workers = 1").pool("copies", &[upstream.addr], "send_proxy = \"v2\"");
    let weir = site.to(main.addr, "", "mirror = { pool = \"copies\" }").start();
    for _ in 0..3 {
        let mut client = weir.client();
        assert_eq!(client.get("/", "").text(), "main");
        eventually("the copy is answered", || {
            weir.metric("weir_mirrored_total", &[("outcome", "answered")]) == main.count() as f64
        });
    }
    assert_eq!(notes(&noted), ["20 00"], "copies of all clients share a connection");
}

#[test]
fn it_comes_before_tls_to_a_target() {
    let ca = Ca::new();
    let config = target_config(&ca.leaf(&["127.0.0.1"]), &[&rustls::version::TLS13], None);
    let upstream = Upstream::over_tls_after(16 + 12, config, |_| Reply::text("secure"));
    let site = sending(&upstream, "v2", "tls = { ca = \"ca.pem\" }");
    std::fs::write(site.folder.path().join("ca.pem"), ca.pem()).expect("the temporary folder is writable");
    let weir = site.start();
    let mut client = weir.client();
    for _ in 0..3 {
        assert_eq!(client.get("/", "").text(), "secure");
    }
    assert_eq!(weir.get("/", "").text(), "secure");
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn http2_connections_have_owners_too() {
    let upstream = Http2Upstream::after(100, 16 + 12, |_| async {
        http::Response::new(http_body_util::Full::new(bytes::Bytes::from("h2")).boxed())
    });
    let lines = "send_proxy = \"v2\"\nprotocol = \"h2\"\nmax_connections = 2\nqueue_timeout = \"5s\"";
    let weir = Site::new().server("workers = 1").to(upstream.addr, lines, "").start();
    let mut clients: Vec<Wire> = (0..4).map(|_| weir.client()).collect();
    for client in clients.iter_mut().take(2) {
        assert_eq!((client.get("/", "").text(), client.get("/", "").text()), ("h2", "h2"));
    }
    assert_eq!(upstream.connections(), 2);
    for client in clients.iter_mut().skip(2) {
        assert_eq!(client.get("/", "").text(), "h2", "an idle connection of another's makes room");
    }
    assert_eq!(upstream.connections(), 4);
}
