//! TLS with clients: which certificate, which version, who the client is, and certificates that change under way.

use crate::support::weir::{SHORT, refused_start};
use crate::support::*;
use rcgen::{DnType, PKCS_RSA_SHA256};
use rustls::version::{TLS12, TLS13};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

fn handshakes(weir: &Weir, outcome: &str) -> f64 {
    weir.metric("weir_tls_handshakes_total", &[("listener", "https"), ("outcome", outcome)])
}

#[test]
fn both_versions_both_protocols() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let weir = https_site(&[("site", &ca.leaf(&["localhost"]))], "", upstream.addr).start();
    let addr = weir.addr("https");
    for (client, version) in [
        (TlsClient::new(&ca), "TLSv1_3"),
        (TlsClient::new(&ca).only(&TLS12), "TLSv1_2"),
        (TlsClient::new(&ca).only(&TLS13), "TLSv1_3"),
    ] {
        let (mut wire, shown) = client.alpn(&["http/1.1"]).connect(addr);
        assert_eq!((shown.version.as_str(), shown.alpn.as_deref()), (version, Some("http/1.1")));
        for _ in 0..3 {
            assert_eq!(wire.get("/", "").text(), "hello");
        }
    }
    let choice = |protocols: &[&str]| TlsClient::new(&ca).alpn(protocols).connect(addr).1.alpn;
    assert_eq!(choice(&["http/1.1", "h2"]).as_deref(), Some("h2"));
    assert_eq!(choice(&[]), None);
    assert!(TlsClient::new(&ca).alpn(&["spdy/3"]).try_connect(addr).is_err());
    let request = upstream.requests().remove(0);
    assert_eq!(request.head.field("x-forwarded-proto"), Some("https"));
    assert_eq!((handshakes(&weir, "full"), handshakes(&weir, "failed")), (5.0, 1.0));
}

#[test]
fn idle_clients_ask_again_and_are_told_when_it_is_over() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let site = https_site(&[("site", &ca.leaf(&["localhost"]))], "", upstream.addr);
    let weir = site.limits(&format!("idle_timeout = \"{SHORT}\"")).start();
    for version in [&TLS12, &TLS13] {
        let (mut wire, _) = TlsClient::new(&ca).only(version).connect(weir.addr("https"));
        assert_eq!(wire.get("/", "").text(), "hello");
        // Two requests in one record: the second is in the session when the socket has nothing to read.
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((wire.answer().text(), wire.answer().text()), ("hello", "hello"));
        // A head in three records.
        for part in ["GET / HTTP/1.1\r\n", "Host: a\r\n", "\r\n"] {
            wire.send(part);
        }
        assert_eq!(wire.answer().text(), "hello");
        assert!(wire.is_closed(), "with TLS' own word, without which it would be an error");
    }
}

#[test]
fn an_answer_that_is_cut_does_not_look_whole() {
    let (ca, gate) = (Ca::new(), Gate::default());
    let held = gate.clone();
    let upstream = Upstream::raw(move |mut wire| {
        let _ = wire.head();
        let _ = wire.try_send("HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        held.pass();
    });
    let weir = https_site(&[("site", &ca.leaf(&["localhost"]))], "", upstream.addr).start();
    let (mut wire, _) = TlsClient::new(&ca).connect(weir.addr("https"));
    let answer = wire.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").try_answer_head().expect("a head");
    assert_eq!((answer.status, answer.head.field("content-length")), (200, None));
    assert_eq!(wire.exactly(5).expect("what there was"), b"hello");
    gate.open();
    assert!(wire.is_reset(), "an orderly end would say that HTTP/1.0's answer is whole");
}

#[test]
fn http2_over_tls() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let weir = https_site(&[("site", &ca.leaf(&["localhost"]))], "", upstream.addr).start();
    let config = TlsClient::new(&ca).alpn(&["h2"]).config();
    let bodies = block_on(async {
        let tcp = tokio::net::TcpStream::connect(weir.addr("https")).await.expect("it listens");
        let connector = tokio_rustls::TlsConnector::from(config);
        let tls = connector.connect("localhost".try_into().expect("a name"), tcp).await.expect("a handshake");
        let io = hyper_util::rt::TokioIo::new(tls);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.expect("HTTP/2");
        tokio::spawn(connection);
        let mut bodies = Vec::new();
        for _ in 0..3 {
            let request = http::Request::get("https://localhost/").body(String::new()).expect("a good request");
            let answer = sender.send_request(request).await.expect("an answer");
            assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
            let body = http_body_util::BodyExt::collect(answer.into_body()).await.expect("a whole body").to_bytes();
            bodies.push(body);
        }
        bodies
    });
    assert!(bodies.iter().all(|body| body == "hello"));
    assert_eq!(upstream.count(), 3);
}

fn block_on<O>(future: impl Future<Output = O>) -> O {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

#[test]
fn the_certificate_is_chosen_by_name_and_by_what_the_client_can_verify() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let first = ca.leaf(&["localhost", "first.test"]);
    let rsa = ca.leaf_with(&["localhost"], &PKCS_RSA_SHA256, |_| {});
    let shop = ca.leaf(&["shop.test", "*.shop.test"]);
    let weir = https_site(&[("first", &first), ("rsa", &rsa), ("shop", &shop)], "", upstream.addr).start();
    let shown = |client: TlsClient, name: &str| client.name(name).cert(weir.addr("https"));
    for (name, expected) in
        [("first.test", &first), ("shop.test", &shop), ("a.shop.test", &shop), ("localhost", &first)]
    {
        assert_eq!(shown(TlsClient::new(&ca), name), expected.der, "{name}");
    }
    // Without a name that any is for, the first: the client refuses it, since it is for another name.
    let unknown = TlsClient::new(&ca).name("elsewhere.test").try_connect(weir.addr("https")).err();
    assert!(unknown.as_ref().is_some_and(|why| why.contains("first.test")), "{unknown:?}");
    for version in [&TLS12, &TLS13] {
        assert_eq!(shown(TlsClient::new(&ca).only(version).rsa_only(), "localhost"), rsa.der);
    }
    let alone = TlsClient::new(&ca).rsa_only().name("shop.test").try_connect(weir.addr("https")).err();
    assert!(alone.as_ref().is_some_and(|why| why.contains("HandshakeFailure")), "{alone:?}");
}

#[test]
fn another_program_s_tls_agrees() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let rsa = ca.leaf_with(&["localhost"], &PKCS_RSA_SHA256, |_| {});
    let weir = https_site(&[("site", &ca.leaf(&["localhost"])), ("rsa", &rsa)], "", upstream.addr).start();
    std::fs::write(weir.site.folder.path().join("ca.pem"), ca.pem()).expect("writable");
    let addr = weir.addr("https").to_string();
    let said = |args: &[&str]| {
        openssl(
            weir.site.folder.path(),
            &[&["s_client", "-connect", &addr, "-CAfile", "ca.pem", "-verify_return_error"], args].concat(),
        )
    };
    for (args, expected) in [
        (&["-tls1_2"][..], "New, TLSv1.2, Cipher is ECDHE-ECDSA-AES256-GCM-SHA384"),
        (&["-tls1_3"], "New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384"),
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "New, TLSv1.2, Cipher is ECDHE-RSA-AES128-GCM-SHA256"),
        (&["-tls1_2", "-reconnect"], "Reused, TLSv1.2"),
        (&["-alpn", "h2,http/1.1"], "ALPN protocol: h2"),
    ] {
        let said = said(args);
        assert!(said.contains(expected) && said.contains("Verify return code: 0"), "{args:?}:\n{said}");
    }
    for args in [&["-tls1_1"][..], &["-tls1_2", "-cipher", "AES128-SHA"]] {
        let said = said(args);
        assert!(said.contains("Cipher is (NONE)") || said.contains("no cipher match"), "{args:?}:\n{said}");
    }
}

fn openssl(folder: &Path, args: &[&str]) -> String {
    let mut command = Command::new("openssl");
    let output = command.args(args).current_dir(folder).stdin(std::process::Stdio::null()).output();
    let output = output.expect("openssl is installed: tests/tools.sh");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn sessions_are_resumed_also_on_another_worker() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let weir = https_site(&[("site", &ca.leaf(&["localhost"]))], "", upstream.addr).start();
    for (version, expected) in [(&TLS12, 9.0), (&TLS13, 18.0)] {
        let client = TlsClient::new(&ca).only(version);
        for turn in 0..10 {
            let (mut wire, shown) = client.connect(weir.addr("https"));
            assert_eq!(wire.get("/", "").text(), "hello");
            assert_eq!(shown.resumed, turn > 0, "{version:?} turn {turn}");
        }
        assert_eq!(handshakes(&weir, "resumed"), expected);
    }
}

#[test]
fn what_is_no_handshake_is_counted_and_the_next_client_is_served() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let site = https_site(&[("site", &ca.leaf(&["localhost"]))], "", upstream.addr);
    let weir = site.limits(&format!("handshake_timeout = \"{SHORT}\"")).start();
    let addr = weir.addr("https");
    let answer = Wire::connect(addr).send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").rest();
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{answer:?}");
    eventually("the plain request is counted", || handshakes(&weir, "failed") == 1.0);
    drop(TcpStream::connect(addr).expect("it listens"));
    eventually("the client that left is counted", || handshakes(&weir, "failed") == 2.0);
    assert!(Wire::connect(addr).is_closed(), "a silent client is closed");
    eventually("which is counted", || handshakes(&weir, "timeout") == 1.0);
    assert_eq!(weir.metric("weir_connections_rejected_total", &[("listener", "https")]), 3.0);
    assert_eq!(TlsClient::new(&ca).connect(addr).0.get("/", "").text(), "hello");
}

#[test]
fn silent_clients_keep_nobody_out() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let site = https_site(&[("site", &ca.leaf(&["localhost"]))], "", upstream.addr);
    let weir = site.server("workers = 1").limits("max_handshakes = 10\nmax_connections = 1000").start();
    let addr = weir.addr("https");
    let mut silent: Vec<Wire> = (0..50).map(|_| Wire::connect(addr)).collect();
    assert_eq!(TlsClient::new(&ca).connect(addr).0.get("/", "").text(), "hello");
    eventually("the oldest are closed", || handshakes(&weir, "shed") == 41.0);
    assert!(silent[0].is_closed());
    assert_eq!(TlsClient::new(&ca).connect(addr).0.get("/", "").text(), "hello");
    assert_eq!((handshakes(&weir, "full"), handshakes(&weir, "timeout")), (2.0, 0.0));
}

#[test]
fn a_new_certificate_is_served_without_closing_anything() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let weir = https_site(&[("site", &ca.leaf(&["localhost"]))], "", upstream.addr).start();
    let client = TlsClient::new(&ca);
    let (mut kept, before) = client.connect(weir.addr("https"));
    for _ in 0..3 {
        let next = ca.leaf(&["localhost"]);
        next.write(&weir.site, "site");
        eventually("the new certificate is served", || client.cert(weir.addr("https")) == next.der);
        assert_ne!(before.cert, next.der);
        assert_eq!(kept.get("/", "").text(), "hello");
        // A session of before goes on.
        assert!(client.connect(weir.addr("https")).1.resumed || before.version == "TLSv1_3");
    }
    eventually("the log says so", || weir.log().contains("a new certificate is served"));
    // SIGHUP does not wait for the next look.
    let next = ca.leaf(&["localhost"]);
    next.write(&weir.site, "site");
    assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 200);
    assert_eq!(client.cert(weir.addr("https")), next.der);
    assert_eq!(kept.get("/", "").text(), "hello");
}

#[test]
fn links_that_are_turned_are_followed() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let (old, new) = (ca.leaf(&["localhost"]), ca.leaf(&["localhost"]));
    let site = https_site(&[("1", &old), ("2", &new)], "", upstream.addr);
    let folder = site.folder.path().to_owned();
    // As Kubernetes mounts a secret: the files are links through a link to a folder, which is turned.
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, folder.join(at)).expect("writable");
    for (number, folder_name) in [("1", "v1"), ("2", "v2")] {
        std::fs::create_dir(folder.join(folder_name)).expect("writable");
        for end in ["crt", "key"] {
            std::fs::rename(folder.join(format!("{number}.{end}")), folder.join(format!("{folder_name}/tls.{end}")))
                .expect("writable");
        }
    }
    link("v1", "data");
    link("data/tls.crt", "tls.crt");
    link("data/tls.key", "tls.key");
    let mut site = site;
    let certs = site.rest.find("certs = ").expect("it has certificates");
    let end = site.rest[certs..].find('\n').expect("a line") + certs;
    site.rest.replace_range(certs..end, "certs = [{ cert = \"tls.crt\", key = \"tls.key\" }]");
    let weir = site.start();
    let client = TlsClient::new(&ca);
    assert_eq!(client.cert(weir.addr("https")), old.der);
    link("v2", "data.new");
    std::fs::rename(folder.join("data.new"), folder.join("data")).expect("writable");
    eventually("the other folder's certificate is served", || client.cert(weir.addr("https")) == new.der);
}

#[test]
fn a_broken_file_keeps_the_old_certificate_and_is_said_once() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let old = ca.leaf(&["localhost"]);
    let weir = https_site(&[("site", &old)], "", upstream.addr).start();
    let (client, next) = (TlsClient::new(&ca), ca.leaf(&["localhost"]));
    let current = || weir.metric("weir_tls_last_reload_success", &[]);
    assert_eq!(current(), 1.0);
    let path = |name: &str| weir.site.folder.path().join(name);
    let said = |what: &str| weir.log().matches(what).count();
    // The new certificate without its key.
    std::fs::write(path("site.crt"), &next.cert).expect("writable");
    eventually("the mismatch is said", || said("it is not the key of the certificate") == 1);
    eventually("and measured", || current() == 0.0);
    assert_eq!(client.cert(weir.addr("https")), old.der);
    // Half a file, then none.
    std::fs::write(path("site.crt"), &next.cert[..next.cert.len() / 2]).expect("writable");
    eventually("the half file is said", || said("not valid PEM") == 1);
    std::fs::remove_file(path("site.crt")).expect("writable");
    eventually("the missing file is said", || said("site.crt: cannot read") == 1);
    assert_eq!(client.cert(weir.addr("https")), old.der);
    let refused = weir.admin("POST", "/api/v1/reload", "", "");
    assert!(refused.status == 400 && refused.text().contains("site.crt"), "{refused:?}");
    assert_eq!(client.cert(weir.addr("https")), old.der);
    next.write(&weir.site, "site");
    eventually("the new certificate is served", || client.cert(weir.addr("https")) == next.der);
    eventually("all is well again", || current() == 1.0);
    eventually("and said", || said("the files are in order again") == 1);
    assert_eq!((said("it is not the key"), said("not valid PEM")), (1, 1), "{}", weir.log());
}

#[test]
fn certificates_versions_and_protocols_come_and_go_with_the_file() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let (first, shop) = (ca.leaf(&["localhost"]), ca.leaf(&["shop.test"]));
    let weir = https_site(&[("first", &first)], "", upstream.addr).start();
    shop.write(&weir.site, "shop");
    let (mut kept, _) = TlsClient::new(&ca).connect(weir.addr("https"));
    let pair = "{ cert = \"first.crt\", key = \"first.key\" }";
    let more =
        format!("{pair}, {{ cert = \"shop.crt\", key = \"shop.key\" }}]\nmin_version = \"1.3\"\nalpn = [\"http/1.1\"");
    let text = weir.site.text();
    std::fs::write(weir.site.file(), text.replace(pair, &more)).expect("writable");
    let reloaded = weir.admin("POST", "/api/v1/reload", "", "");
    assert_eq!((reloaded.status, reloaded.json()["needs_restart"].to_string()), (200, "[]".to_owned()));
    let addr = weir.addr("https");
    assert_eq!(TlsClient::new(&ca).name("shop.test").cert(addr), shop.der);
    assert!(TlsClient::new(&ca).only(&TLS12).try_connect(addr).is_err());
    assert_eq!(TlsClient::new(&ca).alpn(&["h2", "http/1.1"]).connect(addr).1.alpn.as_deref(), Some("http/1.1"));
    assert_eq!(kept.get("/", "").text(), "hello");
    std::fs::write(weir.site.file(), &text).expect("writable");
    assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 200);
    assert!(TlsClient::new(&ca).only(&TLS12).try_connect(addr).is_ok());
    // A listener that the file has no more is open until the next start, and not in plain text.
    let listener =
        &text[text.find("[[listener]]\nname = \"https\"").expect("there")..text.find("[pool.only]").expect("there")];
    std::fs::write(weir.site.file(), text.replace(listener, "")).expect("writable");
    let reloaded = weir.admin("POST", "/api/v1/reload", "", "");
    assert_eq!(reloaded.json()["needs_restart"].to_string(), "[\"listener\"]", "{reloaded:?}");
    let next = ca.leaf(&["localhost"]);
    next.write(&weir.site, "first");
    eventually("and has the new certificate", || TlsClient::new(&ca).cert(addr) == next.der);
}

#[test]
fn expiry_is_measured_and_warned_of() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let day = std::time::Duration::from_secs(24 * 60 * 60);
    let until = |days: u32| rcgen::date_time_ymd(1970, 1, 1) + now + day * days + day / 4;
    let leaf = |names: &[&str], days| {
        ca.leaf_with(names, &rcgen::PKCS_ECDSA_P256_SHA256, |params| params.not_after = until(days))
    };
    let (soon, late) = (leaf(&["localhost", "both.test"], 10), leaf(&["late.test", "both.test"], 90));
    let weir = https_site(&[("soon", &soon), ("late", &late)], "", upstream.addr).start();
    let days_left = |name: &str| {
        let expiry = weir.metric("weir_tls_certificate_expiry_timestamp_seconds", &[("name", name)]);
        ((expiry - now.as_secs_f64()) / day.as_secs_f64()).round()
    };
    assert_eq!(["localhost", "both.test", "late.test"].map(days_left), [10.0, 10.0, 90.0]);
    eventually("it is warned of", || weir.log().contains("soon.crt expires in 10 days"));
    assert!(!weir.log().contains("late.crt expires"), "{}", weir.log());
    let expired = ca.leaf_with(&["localhost"], &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    expired.write(&weir.site, "soon");
    eventually("an expired one is taken", || days_left("localhost") < 0.0);
    let refusal = TlsClient::new(&ca).try_connect(weir.addr("https")).err();
    assert!(refusal.as_ref().is_some_and(|why| why.contains("expired")), "{refusal:?}");
}

#[test]
fn clients_must_show_a_certificate_where_it_is_required() {
    let (ca, clients, upstream) = (Ca::new(), Ca::new(), Upstream::named("hello"));
    let site = https_site(
        &[("site", &ca.leaf(&["localhost"]))],
        "client_ca = \"clients.pem\"\nclient_subject_header = \"x-client-subject\"\nclient_cert_header = \"client-cert\"",
        upstream.addr,
    );
    std::fs::write(site.folder.path().join("clients.pem"), clients.pem()).expect("writable");
    let weir = site.start();
    let addr = weir.addr("https");
    let eve = "CN=eve,O=Admin";
    let own = clients.leaf_with(&[], &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::CommonName, eve);
    });
    let client = TlsClient::new(&ca).with(&own);
    let forged = "x-client-subject: CN=admin\r\nX_Client_Subject: CN=admin\r\nClient-Cert: :AAAA:\r\nConnection: x-client-subject\r\n";
    for resumed in [false, true] {
        let (mut wire, shown) = client.connect(addr);
        assert_eq!((wire.get("/", forged).status, shown.resumed), (200, resumed));
        let head = upstream.requests().pop().expect("a request").head;
        assert_eq!(head.field("x-client-subject"), Some(r"CN=CN\=eve\,O\=Admin,O=Example"));
        assert_eq!(head.field("x_client_subject"), None);
        let value = head.field("client-cert").expect("it is passed on");
        assert!(value.len() > own.der.len() && value.starts_with(":MII") && value.ends_with(':'), "{value}");
    }
    // On any other listener nobody can claim to be somebody.
    assert_eq!(weir.get("/", forged).status, 200);
    let head = upstream.requests().pop().expect("a request").head;
    assert_eq!(
        (head.field("x-client-subject"), head.field("x_client_subject"), head.field("client-cert")),
        (None, None, None)
    );
    let trailers = "5\r\nhello\r\n0\r\nX-Client-Subject: CN=admin\r\nX_Client_Subject: CN=admin\r\nX-Sum: 1\r\n\r\n";
    let mut wire = weir.client();
    let declared = "Transfer-Encoding: chunked\r\nTrailer: x-sum, x-client-subject, x_client_subject";
    wire.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{declared}\r\n\r\n{trailers}")).answer();
    assert_eq!(upstream.requests().pop().expect("a request").trailers, [("x-sum".to_owned(), "1".to_owned())]);
    // No certificate, and one of somebody else's: told so by an alert.
    for (client, alert) in
        [(TlsClient::new(&ca), "CertificateRequired"), (TlsClient::new(&ca).with(&ca.leaf(&["stranger"])), "UnknownCA")]
    {
        for version in [&TLS13, &TLS12] {
            let client = if alert == "UnknownCA" { client.clone() } else { client.clone().only(version) };
            let refusal = match client.try_connect(addr) {
                Err(why) => why,
                Ok((mut wire, _)) => {
                    let _ = wire.try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                    wire.try_answer(false).expect_err("no answer").to_string()
                }
            };
            let expected = [alert, "HandshakeFailure", "BadCertificate"].iter().any(|alert| refusal.contains(alert));
            assert!(expected, "{refusal}");
        }
    }
    assert_eq!((handshakes(&weir, "resumed"), handshakes(&weir, "failed")), (1.0, 4.0));
    eventually("the log says so", || weir.log().contains("a client is refused: it showed no certificate"));
}

#[test]
fn clients_may_show_a_certificate_where_it_is_requested() {
    let (ca, clients, upstream) = (Ca::new(), Ca::new(), Upstream::named("hello"));
    let lines = "client_ca = \"clients.pem\"\nclient_auth = \"request\"\nclient_subject_header = \"x-client-subject\"";
    let site = https_site(&[("site", &ca.leaf(&["localhost"]))], lines, upstream.addr);
    std::fs::write(site.folder.path().join("clients.pem"), clients.pem()).expect("writable");
    let weir = site.toml("[[route.rule]]\nname = \"a\"\nwhen = { header = \"x-client-subject\", equals = \"CN=admin\" }\nvariant = \"stable\"").start();
    let addr = weir.addr("https");
    let forged = "x-client-subject: CN=admin\r\n";
    assert_eq!(TlsClient::new(&ca).connect(addr).0.get("/", forged).status, 200);
    assert_eq!(upstream.request().head.field("x-client-subject"), None);
    let forced = || weir.metric("weir_requests_total", &[("route", "all"), ("forced", "true")]);
    assert_eq!(forced(), 0.0, "a forged header decides no rule");
    let admin = clients.leaf_with(&[], &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "admin");
    });
    let client = TlsClient::new(&ca).with(&admin);
    assert_eq!(client.connect(addr).0.get("/", "").status, 200);
    assert_eq!(upstream.requests()[1].head.field("x-client-subject"), Some("CN=admin"));
    eventually("the certificate decides the rule", || forced() == 1.0);
    // Once other authorities are in force, neither the certificate nor a session of it is good any more.
    std::fs::write(weir.site.folder.path().join("clients.pem"), Ca::new().pem()).expect("writable");
    eventually("the authority is gone", || match client.try_connect(addr) {
        Ok((mut wire, _)) => {
            wire.try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_err() || wire.try_answer(false).is_err()
        }
        Err(_) => true,
    });
}

#[test]
fn a_staple_is_served_and_replaced() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let leaf = ca.leaf(&["localhost"]);
    let site = https_site(&[("site", &leaf)], "", upstream.addr);
    let folder = site.folder.path().to_owned();
    std::fs::write(folder.join("ca.pem"), ca.pem()).expect("writable");
    std::fs::write(folder.join("ca.key"), ca.key()).expect("writable");
    staple(&folder, "1");
    let mut site = site;
    site.rest = site.rest.replace("key = \"site.key\"", "key = \"site.key\", ocsp = \"site.ocsp\"");
    let weir = site.start();
    let read = || std::fs::read(folder.join("site.ocsp")).expect("it is there");
    let client = TlsClient::new(&ca).forgetful();
    let first = read();
    assert_eq!(client.connect(weir.addr("https")).1.ocsp, first);
    staple(&folder, "2");
    assert_ne!(read(), first);
    eventually("the new staple is served", || client.connect(weir.addr("https")).1.ocsp == read());
    let said =
        openssl(&folder, &["s_client", "-connect", &weir.addr("https").to_string(), "-CAfile", "ca.pem", "-status"]);
    assert!(said.contains("OCSP Response Status: successful") && said.contains("Cert Status: good"), "{said}");
    // A certificate whose staple has not come yet goes out without.
    ca.leaf(&["localhost"]).write(&weir.site, "site");
    eventually("the old staple is not served with it", || client.connect(weir.addr("https")).1.ocsp.is_empty());
    eventually("which is said", || {
        weir.log().contains("the OCSP response is not served: it is for another certificate")
    });
}

/// An OCSP response of the authority for `site.crt`, good for so many days.
fn staple(folder: &Path, days: &str) {
    let serial = openssl(folder, &["x509", "-in", "site.crt", "-noout", "-serial"]);
    let serial = serial.trim().strip_prefix("serial=").expect("a serial number").to_owned();
    std::fs::write(folder.join("index"), format!("V\t400101000000Z\t\t{serial}\tunknown\t/CN=x\n")).expect("writable");
    openssl(folder, &["ocsp", "-issuer", "ca.pem", "-cert", "site.crt", "-reqout", "request"]);
    let args =
        ["ocsp", "-index", "index", "-rsigner", "ca.pem", "-rkey", "ca.key", "-CA", "ca.pem", "-reqin", "request"];
    let said = openssl(folder, &[&args[..], &["-respout", "site.ocsp", "-ndays", days]].concat());
    assert!(folder.join("site.ocsp").exists(), "{said}");
}

#[test]
fn an_old_certificate_is_refused_with_a_reason() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let site = https_site(&[("site", &ca.leaf(&["localhost"]))], "", upstream.addr);
    let folder = site.folder.path();
    std::fs::write(folder.join("ca.pem"), ca.pem()).expect("writable");
    std::fs::write(folder.join("ca.key"), ca.key()).expect("writable");
    openssl(
        folder,
        &["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", "site.key", "-out", "csr"],
    );
    openssl(
        folder,
        &["x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-set_serial", "1", "-out", "site.crt"],
    );
    let (status, log) = refused_start(&site);
    assert!(!status.success() && log.contains("of an older X.509 version than 3"), "{log}");
}

#[test]
fn a_pair_that_does_not_fit_is_refused_at_start() {
    let (ca, upstream) = (Ca::new(), Upstream::named("hello"));
    let site = https_site(&[("site", &ca.leaf(&["localhost"]))], "", upstream.addr);
    std::fs::write(site.folder.path().join("site.key"), ca.leaf(&["localhost"]).key).expect("writable");
    let (status, log) = refused_start(&site);
    assert!(!status.success() && log.contains("it is not the key of the certificate"), "{log}");
}
