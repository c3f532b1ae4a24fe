//! A route's `match`: every way to write one, what is wrong with some, and routes that get no request.

use super::*;
use crate::routing::matcher::RequestMatch;
use crate::routing::pattern::Pattern;
use crate::routing::redact::Open;
use crate::routing::rule::{Subject, Test};
use crate::routing::scheme::Scheme;
use http::Method;

/// The match of a route with this `match`.
fn matched(matches: &str) -> RequestMatch {
    let loaded = check(format!("{BASE}{}", route(&format!("active = \"stable\"\nmatch = {matches}"))));
    let mut config = loaded.config.unwrap_or_else(|| panic!("{matches}\n{}", loaded.report.render(false)));
    assert_eq!(short(&loaded.report), [""; 0], "{matches}");
    config.routes.remove(0).matches
}

fn conditions(matches: &str) -> Vec<String> {
    let told = |(subject, test): &(_, Test)| format!("{} {}", Subject::told(subject, &Open), test.told(&Open));
    matched(matches).conditions.iter().map(told).collect()
}

#[test]
fn hosts_paths_and_methods() {
    assert_eq!(matched("{}"), RequestMatch::default());
    let all =
        matched(r#"{ host_regex = '^(eu|us)\.Shop$', path_regex = "^/v[0-9]+$", method = ["PUT", "GET", "PUT"] }"#);
    assert_eq!(all.host, HostMatch::Regex(Pattern::caseless(r"^(eu|us)\.Shop$").unwrap()));
    assert_eq!(all.path, PathMatch::Regex(Pattern::new("^/v[0-9]+$").unwrap()));
    assert_eq!(all.methods, [Method::GET, Method::PUT]);
    assert_eq!(matched(r#"{ method = "PURGE" }"#).methods, [Method::from_bytes(b"PURGE").unwrap()]);
}

#[test]
fn headers_and_query_parameters_in_every_form() {
    for (written, expected) in [
        (r#"header = "X-Canary""#, &["header x-canary present = true"][..]),
        (r#"header = "x-canary", equals = "true""#, &["header x-canary equals = \"true\""]),
        (r#"header = { x-canary = "true" }"#, &["header x-canary equals = \"true\""]),
        (r#"header = { name = "x-canary", equals = "true" }"#, &["header x-canary equals = \"true\""]),
        (r#"header = [{ name = "x-canary", equals = "true" }]"#, &["header x-canary equals = \"true\""]),
        (
            r#"header = { x-b = { regex = "^eu-" }, x-a = "1", x-c = { present = false } }"#,
            &["header x-a equals = \"1\"", "header x-b regex = \"^eu-\"", "header x-c present = false"],
        ),
        (
            r#"header = [{ name = "x", prefix = "a" }, { name = "x", suffix = "b" }, { name = "x", prefix = "a" }]"#,
            &["header x prefix = \"a\"", "header x suffix = \"b\""],
        ),
        (r#"query = "beta""#, &["query parameter beta present = true"]),
        (r#"query = "beta", in = ["1", "2"]"#, &["query parameter beta in = [\"1\", \"2\"]"]),
        (r#"query = { name = "bob" }"#, &["query parameter name equals = \"bob\""]),
        (
            r#"query = { beta = "1" }, header = "x", suffix = "0""#,
            &["header x suffix = \"0\"", "query parameter beta equals = \"1\""],
        ),
        (r#"header = "x", query = "q""#, &["header x present = true", "query parameter q present = true"]),
        (r#"header = { x = "${VALUE:-a b}" }"#, &["header x equals = \"a b\""]),
    ] {
        assert_eq!(conditions(&format!("{{ path = \"/\", {written} }}")), expected, "{written}");
    }
}

#[test]
fn a_table_of_its_own_says_the_same() {
    let loaded = check(format!(
        "{BASE}{}[route.match]\nhost = \"a\"\n[route.match.header]\nx-canary = \"true\"\n[[route.match.query]]\nname = \"q\"\npresent = true\n",
        route("active = \"stable\"")
    ));
    let inline = matched(r#"{ host = "a", header = { x-canary = "true" }, query = "q" }"#);
    assert_eq!(loaded.config.unwrap().routes[0].matches, inline);
}

/// A `match`, the one finding, its message, its help.
const WRONG_MATCHES: &[(&str, &str, &str, &str)] = &[
    (
        "{ host = \"a\", host_regex = \"b\" }",
        "bad-match 5:36 \"b\"",
        "a route matches by `host` or by `host_regex`, not by both",
        "",
    ),
    (
        "{ path_exact = \"/a\", path_regex = \"b\" }",
        "bad-match 5:43 \"b\"",
        "a route matches by `path_exact` or by `path_regex`, not by both",
        "",
    ),
    ("{ host_regex = \"(\" }", "bad-regex 5:24 \"(\"", "\"(\" is not a regular expression: unclosed group", ""),
    (
        "{ path_regex = \"(?=a)\" }",
        "bad-regex 5:24 \"(?=a)\"",
        "\"(?=a)\" is not a regular expression: look-around, including look-ahead and look-behind, is not supported",
        "",
    ),
    (
        "{ path_regex = \"((a{100}){100}){100}\" }",
        "bad-regex 5:24 \"((a{100}){100}){100}\"",
        "\"((a{100}){100}){100}\" is larger than 10485760 bytes when compiled",
        "repeat less, or use ASCII classes such as [0-9] and (?-u:\\w), which are much smaller than \\d and \\w",
    ),
    (
        "{ method = [\"GET\", \"put\"] }",
        "bad-condition 5:28 \"put\"",
        "\"put\" is not an HTTP method",
        "methods are in upper case: \"PUT\"",
    ),
    ("{ method = [] }", "bad-condition 5:20 []", "`method` lists no method", ""),
    ("{ method = 1 }", "wrong-type 5:20 1", "`route.r.match.method` is an integer, expected a string", ""),
    ("{ header = {} }", "bad-condition 5:11 header", "`route.r.match.header` names nothing to look at", ""),
    ("{ query = [] }", "bad-condition 5:11 query", "`route.r.match.query` names nothing to look at", ""),
    ("{ header = 1 }", "wrong-type 5:20 1", "`route.r.match.header` is an integer, expected a string", ""),
    ("{ header = [\"x\"] }", "wrong-type 5:21 \"x\"", "`route.r.match.header` is a string, expected a table", ""),
    (
        "{ header = { x = 1 } }",
        "wrong-type 5:26 1",
        "`route.r.match.header.x` is an integer, expected a string or a table",
        "",
    ),
    (
        "{ header = { x = {} } }",
        "bad-condition 5:26 {}",
        "route.r.match.header.x does not say what `header` is to be",
        "write one of equals, in, in_file, prefix, suffix, regex, present = true",
    ),
    (
        "{ header = { x = { equal = \"1\", present = true } } }",
        "unknown-key 5:28 equal",
        "unknown key `equal` in route.r.match.header.x",
        "did you mean `equals`?",
    ),
    (
        "{ query = { x = { prefix = \"a\", suffix = \"b\" } } }",
        "bad-condition 5:25 { prefix = \"a\", suffix = \"b\" }",
        "route.r.match.query.x has `prefix` and `suffix` in one condition",
        "name it once for each, in a list: [{ name = \"x\", prefix = \"a\" }, { name = \"x\", suffix = \"b\" }]",
    ),
    (
        "{ header = [{ equals = \"1\" }] }",
        "missing-key 5:21 { equals = \"1\" }",
        "route.r.match.header has no `name`",
        "write name = \"x-canary\"",
    ),
    ("{ header = { \"a b\" = \"1\" } }", "bad-name 5:22 \"a b\"", "\"a b\" cannot be the name of a header", ""),
    ("{ query = { \"a&b\" = \"1\" } }", "bad-name 5:21 \"a&b\"", "\"a&b\" cannot be the name of a query parameter", ""),
    (
        "{ header = \"x\", query = \"q\", equals = \"1\" }",
        "bad-condition 5:9 { header = \"x\", query = \"q\", equals = \"1\" }",
        "`equals` stands beside both `header` and `query` in route.r.match",
        "give each its own: header = { x-canary = \"true\" }, query = { beta = { present = true } }",
    ),
    (
        "{ path = \"/\", header = { x = \"1\" }, equals = \"1\" }",
        "bad-condition 5:9 { path = \"/\", header = { x = \"1\" }, equals = \"1\" }",
        "`equals` stands in route.r.match without a header or query parameter to look at",
        "write header = \"x-canary\" beside it, or header = { x-canary = \"true\" }",
    ),
    ("{ header = \"x\", in = [] }", "bad-condition 5:30 []", "`in` lists no value", ""),
    (
        "{ cookie = \"x\" }",
        "unknown-key 5:11 cookie",
        "unknown key `cookie` in route.r.match",
        "known here: `header`, `query`, `equals`, `in`, `prefix`, `suffix`, `regex`, `present`, `in_file`, `scheme`, `host`, `host_regex`, `path`, `path_exact`, `path_regex` and `method`",
    ),
];

#[test]
fn matches_that_are_wrong() {
    for (matches, expected, message, help) in WRONG_MATCHES {
        let found = one_error(&route(&format!("active = \"stable\"\nmatch = {matches}")), expected);
        assert_eq!((found.0.as_str(), found.1.as_str()), (*message, *help), "{matches}");
    }
}

#[test]
fn a_header_called_name_is_pointed_out() {
    let file = format!("{BASE}{}", route("active = \"stable\"\nmatch = { header = { name = \"x-canary\" } }"));
    let loaded = check(file);
    assert!(loaded.config.is_some());
    assert_eq!(short(&loaded.report), ["odd-match 14:20 { name = \"x-canary\" }"]);
}

/// The warnings about routes `r0`, `r1` … with these matches: `code line other-line`, and the message.
fn warnings(matches: &[&str]) -> Vec<(String, String)> {
    let mut text = BASE.to_owned();
    for (n, matches) in matches.iter().enumerate() {
        text += &format!(
            "[[route]]\nname = \"r{n}\"\nvariants = {{ a = \"a\", b = \"b\" }}\nactive = \"a\"\nmatch = {matches}\n"
        );
    }
    let loaded = check(text);
    assert!(loaded.config.is_some(), "{}", loaded.report.render(false));
    let line = |line: usize| line - BASE_LINES;
    let one = |one: &Diagnostic| {
        let other = one.other.as_ref().map_or(0, |(_, other, _)| line(*other));
        let help = one.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        (format!("{} {} {other}", one.code, line(one.line)), format!("{}{help}", one.message))
    };
    loaded.report.warnings().map(one).collect()
}

#[test]
fn routes_without_a_request_are_shown_at_both_places() {
    for (matches, place, message) in [
        (
            [
                r#"{ host = "a", header = "x", query = "q" }"#,
                r#"{ query = { q = { present = true } }, header = { X = { present = true } }, host = "A." }"#,
            ],
            "shadowed-route 10 5",
            "route.r1 never gets a request: route.r0 matches the same and comes first",
        ),
        (
            [r#"{ method = ["GET", "PUT"] }"#, r#"{ method = "PUT" }"#],
            "unreachable-route 10 5",
            "route.r1 never gets a request: route.r0 matches all that it could and comes first",
        ),
        (
            [r#"{ path = "/v1" }"#, r#"{ path_regex = "^/.*" }"#],
            "unreachable-route 5 10",
            "route.r0 never gets a request: route.r1 matches all that it could and is more specific \
             (a `path_regex` comes before a `path`)",
        ),
        (
            [r#"{ host_regex = '^(eu|us)\.shop\.test$' }"#, r#"{ host = "*.shop.test" }"#],
            "unreachable-route 5 10",
            "route.r0 never gets a request: route.r1 matches all that it could and is more specific \
             (a `host` with a wildcard comes before a `host_regex`)",
        ),
        (
            [
                r#"{ header = { x = "ab" } }"#,
                r#"{ header = [{ name = "x", prefix = "a" }, { name = "x", suffix = "b" }] }"#,
            ],
            "unreachable-route 5 10",
            "route.r0 never gets a request: route.r1 matches all that it could and is more specific \
             (a route with more conditions comes first)",
        ),
    ] {
        assert_eq!(warnings(&matches), [(place.to_owned(), message.to_owned())]);
    }
    let silent = [r#"{ path = "/v1" }"#, r#"{ path = "/v1", method = "GET" }"#, r#"{ path_regex = "^/v1$" }"#, "{}"];
    assert_eq!(warnings(&silent), []);
}

#[test]
fn ten_thousand_routes_are_checked_in_little_time() {
    let mut text = BASE.to_owned();
    for n in 0..10_000 {
        let matches = match n % 4 {
            0 => format!("{{ host = \"h{n}.test\", path = \"/\" }}"),
            1 => format!("{{ path = \"/\", header = {{ x-tenant = \"{n}\" }} }}"),
            2 => format!("{{ path = \"/s{n}\", method = [\"GET\", \"HEAD\"] }}"),
            _ => format!("{{ path = \"/w\", header = {{ x-tenant = {{ prefix = \"{n}-\" }} }} }}"),
        };
        text += &format!("[[route]]\nname = \"r{n}\"\nvariants = {{ a = \"a\" }}\nmatch = {matches}\n");
    }
    let started = std::time::Instant::now();
    let loaded = check(
        text + "[[route]]\nname = \"b\"\nvariants = { b = \"b\" }\nmatch = { path = \"/s2\", method = \"GET\" }\n",
    );
    let took = started.elapsed();
    assert_eq!(short(&loaded.report), ["unreachable-route 40013:9 { path = \"/s2\", method = \"GET\" }"]);
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn a_scheme_is_one_of_two() {
    assert_eq!(matched(r#"{ scheme = "http" }"#).scheme, Some(Scheme::Http));
    assert_eq!(matched(r#"{ path = "/" }"#).scheme, None);
    let loaded = check(format!("{BASE}{}", route("active = \"stable\"\nmatch = { scheme = \"HTTP\" }")));
    let messages: Vec<_> = loaded.report.errors().map(|one| one.message.as_str()).collect();
    assert_eq!(messages, ["`route.r.match.scheme` is \"HTTP\", expected \"http\" or \"https\""]);
}

#[test]
fn a_scheme_that_no_listener_speaks_is_said_unless_a_proxy_may_say_it() {
    let text = format!("{BASE}{}", route("active = \"stable\"\nmatch = { scheme = \"https\" }"));
    let loaded = check(&text);
    let found: Vec<_> = loaded.report.diagnostics.iter().map(|one| (one.code, one.message.as_str())).collect();
    assert_eq!(found, [("unreachable-route", "route.r never gets a request: no listener has TLS")]);
    let trusting = text.replacen("[server]\n", "[server]\ntrusted_proxies = [\"10.0.0.0/8\"]\n", 1);
    assert_ne!(trusting, text);
    assert_eq!(short(&check(trusting).report), [""; 0]);
}
