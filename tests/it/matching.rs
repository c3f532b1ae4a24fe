//! Which route a request gets, by all that a match can look at, and what `check` says of routes that get none.

use crate::support::weir::weir_command;
use crate::support::*;

/// A site with a route and a pool for each of these; the target answers with the route's name.
fn site(routes: &[(&'static str, &str)]) -> (Site, Vec<Upstream>) {
    let upstreams: Vec<Upstream> = routes.iter().map(|(name, _)| Upstream::named(name)).collect();
    let mut site = Site::new();
    for ((name, matches), upstream) in routes.iter().zip(&upstreams) {
        site = site
            .pool(name, &[upstream.addr], "")
            .toml(&format!("[[route]]\nname = \"{name}\"\nmatch = {{ {matches} }}\nvariants = {{ v = \"{name}\" }}\n"));
    }
    (site, upstreams)
}

/// Each request's start line without the version, its header lines, and the route that answers, "404" for none.
#[track_caller]
fn assert_routed(routes: &[(&'static str, &str)], requests: &[(&str, &str, &str)]) {
    let (site, _upstreams) = site(routes);
    let weir = site.start();
    let mut client = weir.client();
    for (start, fields, expected) in requests {
        let host = if fields.contains("Host:") { "" } else { "Host: test\r\n" };
        let head = start.starts_with("HEAD ");
        client.send(format!("{start} HTTP/1.1\r\n{host}{fields}\r\n"));
        let answer = if head { client.answer_to_head() } else { client.answer() };
        let found = match answer.status {
            404 => "404",
            // Who answered a HEAD can't be seen.
            200 if head => "some",
            _ => answer.text(),
        };
        assert_eq!(found, *expected, "{start} {fields}");
    }
}

#[test]
fn a_header_goes_before_the_split_of_everybody_else() {
    let routes = [("all", "path = \"/\""), ("canary", "path = \"/\", header = { x-canary = \"true\" }")];
    let requests = [
        ("GET /", "", "all"),
        ("GET /", "X-Canary: true\r\n", "canary"),
        ("GET /", "x-CANARY:  true \r\n", "canary"),
        ("GET /", "X-Canary: True\r\n", "all"),
        ("GET /", "X-Canary: true, x\r\n", "all"),
        ("GET /", "X-Canary: no\r\nX-Canary: true\r\n", "canary"),
        ("GET /", "X-Canary-2: true\r\n", "all"),
    ];
    assert_routed(&routes, &requests);
}

#[test]
fn every_kind_of_path_and_host_has_its_place() {
    let routes = [
        ("any", "path = \"/\""),
        ("any-regex", r#"path_regex = '\.php$'"#),
        ("host-regex", r#"host_regex = '^(eu|us)\.shop\.test$'"#),
        ("host-regex-exact", r#"host_regex = 'shop\.test$', path_exact = "/ping""#),
        ("wild", "host = \"*.api.test\", path = \"/\""),
        ("wild-regex", "host = \"*.api.test\", path_regex = \"^/v[0-9]+/\""),
        ("prefix", "host = \"a.api.test\", path = \"/v1/users\""),
        ("regex", "host = \"a.api.test\", path_regex = \"^/v1/users/[0-9]+$\""),
        ("exact", "host = \"a.api.test\", path_exact = \"/v1/users/7\""),
    ];
    let mut requests = Vec::new();
    for (host, path, expected) in [
        ("other.test", "/", "any"),
        ("other.test", "/x.php?a=b", "any-regex"),
        ("other.test", "/x?a=b.php", "any"),
        ("EU.shop.test.:80", "/x", "host-regex"),
        ("eu.shop.test", "/x.php", "host-regex"),
        ("eu.shop.test", "/ping", "host-regex-exact"),
        ("asia.shop.test", "/ping", "host-regex-exact"),
        ("asia.shop.test", "/", "any"),
        ("eu.shop.test.evil", "/", "any"),
        ("b.api.test", "/", "wild"),
        ("b.api.test", "/v1/x", "wild-regex"),
        ("a.api.test", "/", "wild"),
        ("a.api.test", "/v1/users/x", "prefix"),
        ("a.api.test", "/v1/users/8", "regex"),
        ("a.api.test", "/v1/users/8?x=/", "regex"),
        ("a.api.test", "/v1/users/7", "exact"),
        ("a.api.test", "/v1/usersx", "wild-regex"),
    ] {
        requests.push((format!("GET {path}"), format!("Host: {host}\r\n"), expected));
    }
    let requests: Vec<_> = requests.iter().map(|(start, fields, route)| (&**start, &**fields, *route)).collect();
    assert_routed(&routes, &requests);
}

#[test]
fn method_before_headers_before_query_parameters() {
    let routes = [
        ("plain", "path = \"/\""),
        ("query", "path = \"/\", query = \"beta\""),
        ("queries", "path = \"/\", query = { beta = { present = true }, v = \"2\" }"),
        ("header", "path = \"/\", header = \"x-a\", prefix = \"1\""),
        ("headers", "path = \"/\", header = [{ name = \"x-a\", prefix = \"1\" }, { name = \"x-a\", suffix = \"9\" }]"),
        ("method", "path = \"/\", method = [\"PUT\", \"DELETE\"]"),
        ("method-header", "path = \"/\", method = [\"PUT\", \"DELETE\"], header = { x-a = { regex = \"^1\" } }"),
    ];
    let requests = [
        ("GET /", "", "plain"),
        ("GET /?beta", "", "query"),
        ("GET /?x=1&beta=", "", "query"),
        ("GET /?betas=1", "", "plain"),
        ("GET /?beta&v=2", "", "queries"),
        ("GET /?beta&v=3&v=2", "", "query"),
        ("GET /?beta&v=2", "X-A: 1\r\n", "header"),
        ("GET /", "X-A: 129\r\n", "headers"),
        ("GET /", "X-A: 12\r\nX-A: 39\r\n", "headers"),
        ("GET /", "X-A: 2\r\n", "plain"),
        ("PUT /?beta&v=2", "X-A: 2\r\n", "method"),
        ("DELETE /", "X-A: 129\r\n", "method-header"),
        ("POST /", "X-A: 129\r\n", "headers"),
    ];
    assert_routed(&routes, &requests);
}

#[test]
fn what_conditions_refuse_goes_on_or_is_a_404() {
    let routes = [
        ("api", "host = \"a.test\", path = \"/v1\", method = \"POST\""),
        ("exact", "host = \"a.test\", path_exact = \"/v1/x\", header = { x-a = { present = false } }"),
        ("wild", "host = \"*.test\", path = \"/v1\", query = { q = { in = [\"1\", \"2\"] } }"),
        ("head", "path = \"/head\", method = \"HEAD\""),
    ];
    let requests = [
        ("POST /v1/x", "Host: a.test\r\nX-A: 1\r\n", "api"),
        ("GET /v1/x", "Host: a.test\r\n", "exact"),
        ("GET /v1/x?q=2", "Host: a.test\r\nX-A: 1\r\n", "wild"),
        ("GET /v1/x?q=3", "Host: a.test\r\nX-A: 1\r\n", "404"),
        ("GET /v1/x", "Host: a.test\r\nX-A: 1\r\n", "404"),
        ("HEAD /head", "", "some"),
        ("HEAD /other", "", "404"),
        ("GET /head", "", "404"),
    ];
    assert_routed(&routes, &requests);
}

#[test]
fn bytes_above_127_and_long_values_are_matched_as_they_are() {
    let routes = [
        ("plain", "path = \"/\""),
        ("raw", r#"path = "/", header = { x-raw = { regex = '(?-u)\xff$' } }"#),
        ("bomb", r#"path = "/", header = { x-long = { regex = '^(a+)+$' } }"#),
    ];
    let (site, _upstreams) = site(&routes);
    let weir = site.start();
    let mut client = weir.client();
    let mut answer = |field: &[u8]| {
        let request = [b"GET / HTTP/1.1\r\nHost: t\r\n", field, b"\r\n\r\n"].concat();
        client.send(request).answer().text().to_owned()
    };
    assert_eq!(answer(b"X-Raw: a\xfe\xff"), "raw");
    assert_eq!(answer(b"X-Raw: \xc3\xbf"), "plain");
    let long = format!("X-Long: {}", "a".repeat(30_000));
    assert_eq!(answer(long.as_bytes()), "bomb");
    assert_eq!(answer(format!("{long}b").as_bytes()), "plain");
}

#[test]
fn a_reload_changes_what_a_route_matches() {
    let (site, _upstreams) = site(&[("all", "path = \"/\""), ("canary", "header = \"x-canary\"")]);
    let mut weir = site.start();
    assert_eq!(weir.get("/", "X-Canary: 1\r\n").text(), "canary");
    weir.site.rest = weir.site.rest.replace("header = \"x-canary\"", "query = \"canary\"");
    weir.site.write();
    assert!(weir.cli(&["reload"]).status.success());
    assert_eq!(weir.get("/", "X-Canary: 1\r\n").text(), "all");
    assert_eq!(weir.get("/?canary", "").text(), "canary");
}

#[test]
fn check_shows_routes_that_get_no_request_at_both_places() {
    let (site, _upstreams) = site(&[
        ("first", "path = \"/\", header = \"x\""),
        ("same", "header = { X = { present = true } }"),
        ("v1", "path = \"/v1\""),
        ("all", "path_regex = \".*\""),
    ]);
    let file = site.write();
    let output = weir_command(&["check", file.to_str().expect("UTF-8")]).output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = site.text();
    let line = |text_of: &str| text.lines().position(|line| line.contains(text_of)).expect("it is in the file") + 1;
    let places = [
        ("warning[shadowed-route]: route.same never gets a request: route.first matches the same", "X = {", "\"x\""),
        ("warning[unreachable-route]: route.v1 never gets a request: route.all matches all that", "/v1", ".*"),
    ];
    for (message, here, other) in places {
        let at = said.find(message).unwrap_or_else(|| panic!("{message} in\n{said}"));
        let block = said[at..].split("\n\n").next().expect("a finding ends with an empty line");
        for line in [line(here), line(other)] {
            assert!(block.contains(&format!("weir.toml:{line}:")), "line {line} in\n{block}");
        }
    }
}
