//! Sockets that are no IPv4 port: unix sockets on both sides, IPv6, and those that systemd hands over.

use crate::support::weir::{BINARY, refused, refused_start};
use crate::support::*;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn telling() -> Upstream {
    Upstream::answering(|request| Reply::text(request.head.field("x-forwarded-for").unwrap_or("nobody")))
}

/// A site whose listener `http` is `web.sock` in its folder.
fn unix_site(upstream: &Upstream, lines: &str) -> (Site, PathBuf) {
    let site = Site::new().bind("unix:web.sock", lines).to(upstream.addr, "", "");
    let path = site.folder.path().join("web.sock");
    (site, path)
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("the socket is there").permissions().mode() & 0o777
}

#[test]
fn clients_come_in_by_a_unix_socket_whose_file_goes_at_the_end() {
    let upstream = telling();
    for (lines, expected) in [("", 0o660), ("mode = \"0606\"", 0o606)] {
        let (site, path) = unix_site(&upstream, lines);
        let mut weir = site.start();
        assert_eq!(mode(&path), expected);
        assert!(weir.log().contains(&format!("http=unix:{}", path.display())), "{}", weir.log());
        let mut clients: Vec<Wire> = (0..8).map(|_| Wire::connect_unix(&path)).collect();
        for client in &mut clients {
            assert_eq!(client.get("/", "X-Forwarded-For: 1.2.3.4\r\n").text(), "127.0.0.1");
            assert_eq!(client.get("/", "").text(), "127.0.0.1");
        }
        assert_eq!(weir.metric("weir_connections", &[("listener", "http")]), 8.0);
        drop(clients);
        weir.signal("TERM");
        assert!(weir.exit().success());
        assert!(!path.exists(), "the file stays after the end");
    }
}

#[test]
fn a_unix_client_is_trusted_as_one_of_this_machine() {
    let upstream = telling();
    let (site, path) = unix_site(&upstream, "proxy_protocol = \"any\"");
    let _weir = site.server("trusted_proxies = [\"127.0.0.0/8\"]").start();
    let mut client = Wire::connect_unix(&path);
    client.send("PROXY TCP6 2001:db8::7 2001:db8::1 5 80\r\n");
    assert_eq!(client.get("/", "X-Forwarded-For: 1.2.3.4\r\n").text(), "2001:db8::7");
    let mut broken = Wire::connect_unix(&path);
    let _ = broken.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(broken.rest().is_empty());
}

#[test]
fn a_dead_socket_is_replaced_a_live_one_and_another_file_are_not() {
    let upstream = telling();
    let (site, path) = unix_site(&upstream, "");
    let weir = site.start().restart("KILL");
    assert_eq!(Wire::connect_unix(&path).get("/", "").text(), "127.0.0.1");
    let second = Site::new().bind(&format!("unix:{}", path.display()), "").to(upstream.addr, "", "");
    let (status, log) = refused_start(&second);
    assert!(!status.success() && log.contains("address in use"), "{log}");
    assert_eq!(Wire::connect_unix(&path).get("/", "").text(), "127.0.0.1", "the first goes on");
    drop(weir.stop("TERM"));
    let (site, path) = unix_site(&upstream, "");
    std::fs::write(&path, "precious").expect("the folder is writable");
    let (status, log) = refused_start(&site);
    assert!(!status.success() && log.contains("a file that is no socket has this name"), "{log}");
    assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "precious");
}

#[test]
fn a_target_may_be_a_unix_socket() {
    let site = Site::new();
    let path = site.folder.path().join("app.sock");
    let listener = UnixListener::bind(&path).expect("the folder is writable");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut wire = Wire::unix(stream);
                while let Ok(Some(head)) = wire.head() {
                    let host = head.field("host").unwrap_or("none").to_owned();
                    let Ok((body, _)) = wire.body(&head, false) else { return };
                    let said = format!("{host} {}", body.len());
                    let answer = format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n{said}", said.len());
                    if wire.try_send(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let weir = site
        .toml("[pool.only]\ntargets = [\"unix:app.sock\"]\n[[route]]\nname = \"all\"\nvariants = { stable = \"only\" }")
        .start();
    let mut client = weir.client();
    assert_eq!(client.get("/", "").text(), "test 0");
    let body = "x".repeat(3_000_000);
    client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    assert_eq!(client.answer().text(), "test 3000000");
    assert_eq!(weir.client().send("GET / HTTP/1.0\r\n\r\n").answer().text(), "localhost 0");
    let name = format!("unix:{}", path.display());
    assert_eq!(weir.metric("weir_target_up", &[("pool", "only"), ("target", &name)]), 1.0);
    let gone = weir.stop("TERM");
    std::fs::remove_file(&path).expect("it is there");
    let weir = gone.start();
    weir.get("/", "").assert_problem(502);
}

#[test]
fn one_socket_takes_both_families_and_ipv4_clients_are_ipv4() {
    if TcpListener::bind("[::1]:0").is_err() {
        return println!("this machine has no IPv6");
    }
    let upstream = telling();
    let rule = "[[route.rule]]\nname = \"four\"\nwhen = { ip = [\"127.0.0.0/8\"] }\nvariant = \"stable\"";
    let site = Site::new().server("trusted_proxies = [\"127.0.0.0/8\"]").bind("[::]:0", "");
    let weir = site.to(upstream.addr, "", "").toml(rule).start();
    let port = weir.addr("http").port();
    let at = |host: &str| Wire::connect(format!("{host}:{port}").parse::<SocketAddr>().expect("an address"));
    assert_eq!(at("[::1]").get("/", "X-Forwarded-For: 192.0.2.7\r\n").text(), "::1");
    assert_eq!(weir.metric("weir_requests_total", &[("forced", "true")]), 0.0);
    assert_eq!(at("127.0.0.1").get("/", "").text(), "127.0.0.1");
    assert_eq!(weir.metric("weir_requests_total", &[("forced", "true")]), 1.0, "the rule sees IPv4");
    let trusted = at("127.0.0.1").get("/", "X-Forwarded-For: 192.0.2.7\r\n");
    assert_eq!(trusted.text(), "192.0.2.7, 127.0.0.1");
    let told = at("127.0.0.1").get("/", "X-Forwarded-For: ::ffff:127.0.0.9\r\n");
    assert_eq!(told.status, 200);
    assert_eq!(weir.metric("weir_requests_total", &[("forced", "true")]), 2.0, "a mapped address is IPv4, too");
}

#[test]
fn a_target_may_be_at_an_ipv6_address() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else { return println!("this machine has no IPv6") };
    let addr = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut wire = Wire::new(stream);
            while let Ok(Some(_)) = wire.head() {
                let _ = wire.try_send("HTTP/1.1 200 X\r\nContent-Length: 3\r\n\r\nsix");
            }
        }
    });
    let weir = Site::new().server("workers = 1").to(addr, "", "").start();
    assert_eq!(weir.get("/", "").text(), "six");
}

/// `weir serve` as systemd starts it: `socket` twice, as descriptors 3 and 4 of these names.
fn activated(site: &Site, socket: OwnedFd, names: &str, pid: &str) -> Command {
    let script = format!(
        "exec 3<&0 4<&0 </dev/null; export LISTEN_PID={pid} LISTEN_FDS=2 LISTEN_FDNAMES={names}; exec \"$0\" serve -c \"$1\""
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script, BINARY]).arg(site.file()).env_remove("WEIR_TOKEN").env_remove("RUST_LOG");
    command.stdin(Stdio::from(socket));
    command
}

fn activated_site(upstream: &Upstream) -> Site {
    Site::new().bind("fd:web", "").to(upstream.addr, "", "")
}

#[test]
fn systemd_hands_over_a_port() {
    let upstream = telling();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("it is bound");
    // Came before Weir was there.
    let mut early = Wire::connect(addr);
    early.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let site = activated_site(&upstream);
    let keeper = listener.try_clone().expect("a handle");
    let command = activated(&site, listener.into(), "web:spare", "$$");
    let mut weir = Weir::start_by(site, command);
    assert_eq!(early.answer().text(), "127.0.0.1");
    assert_eq!(weir.addr("http"), addr);
    let mut clients: Vec<Wire> = (0..16).map(|_| weir.client()).collect();
    assert!(clients.iter_mut().all(|client| client.get("/", "").text() == "127.0.0.1"));
    assert!(weir.log().contains("systemd hands over a socket that no listener has"), "{}", weir.log());
    drop(clients);
    weir.signal("TERM");
    assert!(weir.exit().success());
    assert!(std::net::TcpStream::connect(addr).is_ok(), "the socket is systemd's, and clients may wait there");
    drop(keeper);
}

#[test]
fn systemd_hands_over_a_unix_socket() {
    let upstream = telling();
    let site = activated_site(&upstream);
    let path = site.folder.path().join("theirs.sock");
    let listener = UnixListener::bind(&path).expect("the folder is writable");
    let command = activated(&site, listener.into(), "web:web", "$$");
    let mut weir = Weir::start_by(site, command);
    assert_eq!(Wire::connect_unix(&path).get("/", "").text(), "127.0.0.1");
    weir.signal("TERM");
    assert!(weir.exit().success());
    assert!(path.metadata().is_ok_and(|found| found.file_type().is_socket()), "the file is systemd's to remove");
}

#[test]
fn a_socket_that_is_not_handed_over_is_missed() {
    let upstream = telling();
    let listener = || TcpListener::bind("127.0.0.1:0").expect("a port");
    let connected = || {
        let listener = listener();
        std::net::TcpStream::connect(listener.local_addr().expect("it is bound")).expect("a connection")
    };
    for (socket, names, pid, why) in [
        (OwnedFd::from(listener()), "other:another", "$$", "systemd hands over no socket of this name"),
        (listener().into(), "web", "1", "systemd hands over no socket of this name"),
        (connected().into(), "web", "$$", "the socket does not listen"),
        (std::fs::File::open("/dev/null").expect("it is there").into(), "web", "$$", "is not a socket"),
    ] {
        let site = activated_site(&upstream);
        let command = activated(&site, socket, names, pid);
        let (status, log) = refused(&site, command);
        assert!(!status.success() && log.contains("listener http: can't listen on fd:web: "), "{log}");
        assert!(log.contains(why), "{log}");
    }
}
