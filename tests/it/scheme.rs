//! Routes by scheme: what comes by http is sent to https, on Weir's own listeners and behind a proxy that ends TLS.

use crate::support::weir::weir_command;
use crate::support::*;
use serde_json::json;

/// One redirect beside routes that are more specific in everything else.
const ROUTES: &str = r#"
[[route]]
name     = "to-https"
match    = { scheme = "http" }
redirect = { code = 308, scheme = "https" }
[[route]]
name     = "acme"
match    = { scheme = "http", path = "/.well-known/acme-challenge/" }
respond  = { status = 200, body = "token" }
[[route]]
name     = "cart"
match    = { host = "shop.test", path_exact = "/cart", method = "GET", header = { x-canary = "true" } }
respond  = { status = 200, body = "cart" }
[[route]]
name     = "only-https"
match    = { scheme = "https", path = "/secure" }
respond  = { status = 200, body = "secure" }
"#;

fn ask(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n")
}

#[test]
fn one_route_sends_all_of_http_to_https_on_weirs_own_listeners() {
    let (ca, upstream) = (Ca::new(), Upstream::named("site"));
    let site = https_site(&[("site", &ca.leaf(&["localhost"]))], "", upstream.addr).toml(ROUTES);
    let site = h2::with_tls(site);
    let file = site.write().display().to_string();
    let checked = weir_command(&["check", "--json", &file]).output().expect("the binary runs");
    let said = String::from_utf8(checked.stdout).expect("text");
    assert!(!said.contains("redirect-loop") && !said.contains("unreachable-route"), "{said}");
    let weir = site.start();
    let (mut plain, (mut tls, _)) =
        (weir.client(), TlsClient::new(&ca).alpn(&["http/1.1"]).connect(weir.addr("https")));
    for (path, fields, by_https) in [
        ("/", "", "site"),
        ("/a%20b?c=1", "", "site"),
        ("/cart", "X-Canary: true\r\n", "cart"),
        ("/secure/x", "", "secure"),
        // Nobody is trusted here.
        ("/", "X-Forwarded-Proto: https\r\n", "site"),
        ("/", "X-Forwarded-Proto: http\r\n", "site"),
    ] {
        let redirected = plain.send(ask(path, fields)).answer();
        let location = format!("https://shop.test{path}");
        assert_eq!((redirected.status, redirected.head.field("location")), (308, Some(location.as_str())), "{path}");
        assert_eq!(tls.send(ask(path, fields)).answer().text(), by_https, "{path}");
        for (scheme, route) in [("http", "to-https"), ("https", "")] {
            let name_and_value = fields.trim_end();
            let url = format!("{scheme}://shop.test{path}");
            let mut args = vec!["explain", "-o", "json", &url];
            args.extend((!name_and_value.is_empty()).then_some(["-H", name_and_value]).into_iter().flatten());
            let document: serde_json::Value = serde_json::from_slice(&weir.cli(&args).stdout).expect("JSON");
            assert_eq!(document["scheme"], json!({"name": scheme, "source": "given"}));
            assert!(route.is_empty() == (document["route"] != "to-https"), "{url}: {document:#}");
        }
    }
    assert_eq!(plain.send(ask("/.well-known/acme-challenge/x", "")).answer().text(), "token");
    assert_eq!(tls.send(ask("/.well-known/acme-challenge/x", "")).answer().text(), "site");
    let (status, body) = H2::connect(&weir).ask(http::Request::get("https://localhost/secure"), &[], None);
    assert_eq!((status, body.as_slice()), (200, &b"secure"[..]));
}

#[test]
fn a_trusted_proxy_says_by_what_scheme_a_request_came() {
    let upstream = Upstream::named("site");
    let site =
        Site::new().server("workers = 2\ntrusted_proxies = [\"127.0.0.1\"]").to(upstream.addr, "", "").toml(ROUTES);
    let weir = site.start();
    let mut client = weir.client();
    for (fields, status, text) in [
        ("", 308, ""),
        ("X-Forwarded-Proto: http\r\n", 308, ""),
        ("X-Forwarded-Proto: https\r\n", 200, "secure"),
        ("X-Forwarded-Proto: HTTPS\r\n", 200, "secure"),
        ("X-Forwarded-Proto: ftp\r\n", 308, ""),
    ] {
        let answer = client.send(ask("/secure", fields)).answer();
        assert_eq!((answer.status, answer.text()), (status, text), "{fields}");
    }
}
