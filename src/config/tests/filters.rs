//! Header edits, rewrites, redirects and fixed responses: what is refused and how it is said, and what good ones become.

use super::*;
use crate::routing::edits::Facts;
use crate::routing::filters::{Filters, OwnAnswer};
use http::header::{HeaderMap, HeaderValue};

/// A route of one variant with these lines.
fn with(lines: &str) -> String {
    format!(
        "[[route]]\nname = \"r\"\nvariants = {{ v = \"a\" }}\n{lines}\n[[route]]\nname = \"other\"\nmatch = {{ host = \"o\" }}\nvariants = {{ v = \"b\" }}\n"
    )
}

/// A route that answers by itself, with these lines.
fn answering(lines: &str) -> String {
    format!(
        "[[route]]\nname = \"r\"\n{lines}\n[[route]]\nname = \"other\"\nmatch = {{ host = \"o\" }}\nvariants = {{ v = \"b\", w = \"a\" }}\nactive = \"v\"\n"
    )
}

/// The one finding, its message, its help.
type Wrong = (&'static str, &'static str, &'static str, &'static str);

const HEADERS: &[Wrong] = &[
    (
        "request_headers = { set = { Host = \"a\" } }",
        "bad-header 4:29 Host",
        "`host` cannot be changed: it says which site is meant",
        "write rewrite = { host = \"…\" }",
    ),
    (
        "request_headers = { remove = [\"expect\"] }",
        "bad-header 4:31 \"expect\"",
        "`expect` cannot be changed: it decides how the body is sent",
        "Weir passes the client's on",
    ),
    (
        "response_headers = { add = { content-length = \"1\" } }",
        "bad-header 4:30 content-length",
        "`content-length` cannot be changed: it belongs to the message or its connection",
        "whoever writes the message writes it",
    ),
    (
        "response_headers = { remove = [\"Connection\"] }",
        "bad-header 4:32 \"Connection\"",
        "`connection` cannot be changed: it belongs to the message or its connection",
        "whoever writes the message writes it",
    ),
    (
        "request_headers = { set = { \"a b\" = \"1\" } }",
        "bad-name 4:29 \"a b\"",
        "\"a b\" cannot be the name of a header",
        "",
    ),
    (
        "request_headers = { set = { x-a = \"1\", X-A = \"2\" } }",
        "bad-header 4:40 X-A",
        "\"X-A\" stands twice in `route.r.request_headers.set`",
        "",
    ),
    (
        "request_headers = { remove = [\"x-a\", \"X-a\"] }",
        "bad-header 4:38 \"X-a\"",
        "\"X-a\" stands twice in `route.r.request_headers.remove`",
        "",
    ),
    (
        "request_headers = { set = { x = \"a\\r\\nb: c\" } }",
        "bad-header 4:33 \"a\\r\\nb: c\"",
        "the value of `x` has a control character",
        "",
    ),
    (
        "response_headers = { set = { x = \"${vairant}\" } }",
        "interpolation 4:35 ${vairant}",
        "the environment variable vairant is not set",
        "set vairant, or give a default: ${vairant:-default}; filled in for each request are `${variant}`, `${route}`, `${client_ip}` and `${request_id}`",
    ),
    (
        "response_headers = { add = { x = [\"1\", \"${route:-a}\"] } }",
        "interpolation 4:41 ${route:-a}",
        "`route` is filled in for each request and takes no default",
        "filled in for each request are `${variant}`, `${route}`, `${client_ip}` and `${request_id}`",
    ),
    (
        "response_headers = { set = { x = [\"1\"] } }",
        "wrong-type 4:34 [\"1\"]",
        "`route.r.response_headers.set.x` is an array, expected a string",
        "",
    ),
    (
        "response_headers = { add = { x = 1 } }",
        "wrong-type 4:34 1",
        "`route.r.response_headers.add.x` is an integer, expected a string or a list of strings",
        "",
    ),
    (
        "request_headers = { sets = {} }",
        "unknown-key 4:21 sets",
        "unknown key `sets` in route.r.request_headers",
        "did you mean `set`?",
    ),
    (
        "rewrite = { host = \"${variant}\" }",
        "interpolation 4:21 ${variant}",
        "the environment variable variant is not set",
        "set variant, or give a default: ${variant:-default}",
    ),
];

const REWRITES: &[Wrong] = &[
    (
        "rewrite = {}",
        "bad-rewrite 4:11 {}",
        "`route.r.rewrite` changes nothing",
        "write prefix = \"/api\", strip_prefix = true, path = \"/full\" or host = \"internal.example\"",
    ),
    (
        "match = { path = \"/v1\" }\nrewrite = { prefix = \"/a\", path = \"/b\" }",
        "bad-rewrite 5:35 \"/b\"",
        "`route.r.rewrite` has `prefix` and `path`: a path is changed in one way",
        "",
    ),
    (
        "match = { path_exact = \"/v1\" }\nrewrite = { prefix = \"/a\" }",
        "bad-rewrite 5:22 \"/a\"",
        "`route.r.rewrite` changes the prefix of `match.path`, which this route does not have",
        "write match = { path = \"/old\" }; or path = \"/full\" for a whole path",
    ),
    (
        "rewrite = { strip_prefix = true }",
        "bad-rewrite 4:28 true",
        "`route.r.rewrite` has nothing to take away: the route's `match.path` is \"/\"",
        "",
    ),
    (
        "match = { path = \"/v1\" }\nrewrite = { prefix = \"/v1/\" }",
        "bad-rewrite 5:22 \"/v1/\"",
        "`route.r.rewrite` changes nothing: the route's `match.path` is \"/v1\" already",
        "",
    ),
    ("rewrite = { path = \"a\" }", "bad-rewrite 4:20 \"a\"", "path \"a\" does not start with \"/\"", ""),
    (
        "rewrite = { path = \"//a\" }",
        "bad-rewrite 4:20 \"//a\"",
        "path \"//a\" has \"//\", which some servers read as the start of a host",
        "",
    ),
    (
        "rewrite = { path = \"/a?b\" }",
        "bad-rewrite 4:20 \"/a?b\"",
        "path \"/a?b\" has the character '?'; what no path may have is written as % and two digits",
        "",
    ),
    (
        "rewrite = { host = \"*.example\" }",
        "bad-host 4:20 \"*.example\"",
        "\"*.example\" is not one host",
        "write host = \"www.example.com\"",
    ),
    (
        "rewrite = { host = \"a:0\" }",
        "bad-host 4:20 \"a:0\"",
        "the port of \"a:0\" is not a number from 1 to 65535",
        "",
    ),
    (
        "rewrite = { host = \"a b\" }",
        "bad-host 4:20 \"a b\"",
        "host \"a b\" has the character ' '; a name in another script is written in its xn-- form",
        "write host = \"www.example.com\"",
    ),
];

const ANSWERS: &[Wrong] = &[
    (
        "redirect = {}",
        "bad-redirect 3:12 {}",
        "`route.r.redirect` leads nowhere",
        "write at least one of scheme, host, port, path and prefix",
    ),
    (
        "redirect = { code = 303, host = \"a\" }",
        "bad-redirect 3:21 303",
        "`route.r.redirect.code` is 303, expected 301, 302, 307 or 308",
        "308 and 301 are for good, 307 and 302 for now; 308 and 307 keep the method",
    ),
    (
        "redirect = { scheme = \"ftp\" }",
        "bad-value 3:23 \"ftp\"",
        "`route.r.redirect.scheme` is \"ftp\", expected \"http\" or \"https\"",
        "",
    ),
    (
        "redirect = { host = \"a:80\" }",
        "bad-host 3:21 \"a:80\"",
        "host \"a:80\" has a port; a route's host is a name without one",
        "write host = \"www.example.com\"",
    ),
    (
        "redirect = { port = 0 }",
        "out-of-range 3:21 0",
        "`route.r.redirect.port` is not a whole number from 1 to 65535",
        "",
    ),
    (
        "redirect = { host = \"b\", path = \"/a\", prefix = \"/b\" }",
        "bad-rewrite 3:48 \"/b\"",
        "`route.r.redirect` has `path` and `prefix`: a path is changed in one way",
        "",
    ),
    (
        "redirect = { path = \"//a\" }",
        "bad-rewrite 3:21 \"//a\"",
        "path \"//a\" has \"//\", which some servers read as the start of a host",
        "",
    ),
    (
        "redirect = { host = \"b\" }\nvariants = { v = \"a\" }\ntimeout = \"1s\"",
        "bad-answer 4:1 variants",
        "route.r has `redirect`, which leaves nothing to do for `variants` and `timeout`",
        "a route that answers by itself sends nothing to a target: make two routes of it",
    ),
    (
        "redirect = { host = \"b\" }\nrespond = { status = 200 }",
        "bad-answer 4:1 respond",
        "route.r has both `redirect` and `respond`",
        "",
    ),
    ("respond = {}", "missing-key 3:11 {}", "route.r.respond has no `status`", "write status = 503"),
    ("respond = 503", "wrong-type 3:11 503", "`route.r.respond` is an integer, expected a table", ""),
    (
        "respond = { status = 101 }",
        "out-of-range 3:22 101",
        "`route.r.respond.status` is not a whole number from 200 to 599",
        "",
    ),
    (
        "respond = { status = 301 }",
        "bad-answer 3:22 301",
        "`route.r.respond.status` is 301, which leads elsewhere",
        "write redirect = { code = 308, host = \"…\" } instead of respond",
    ),
    (
        "respond = { status = 204, body = \"x\" }",
        "bad-answer 3:34 \"x\"",
        "`route.r.respond` has content, and an answer 204 has none",
        "",
    ),
    (
        "respond = { status = 503, body = \"x\", file = \"weir.toml\" }",
        "bad-answer 3:46 \"weir.toml\"",
        "`route.r.respond` has both `body` and `file`",
        "",
    ),
    (
        "respond = { status = 503, body = \"x\", content_type = \"text\" }",
        "bad-answer 3:54 \"text\"",
        "\"text\" is not a content type",
        "write content_type = \"text/html; charset=utf-8\"",
    ),
    (
        "respond = { status = 503, retry_after = \"0s\" }",
        "out-of-range 3:41 \"0s\"",
        "`route.r.respond.retry_after` is not from 1s to 720h",
        "zero does not mean \"unlimited\"",
    ),
];

#[test]
fn filters_that_are_wrong() {
    let cases = HEADERS.iter().chain(REWRITES).map(|case| (with(case.0), case));
    for (text, (lines, expected, message, help)) in cases.chain(ANSWERS.iter().map(|case| (answering(case.0), case))) {
        let found = one_error(&text, expected);
        assert_eq!((found.0.as_str(), found.1.as_str()), (*message, *help), "{lines}");
    }
}

#[test]
fn more_than_can_be_meant_is_refused() {
    let many: Vec<String> = (0..101).map(|n| format!("\"x-{n}\"")).collect();
    let list = many.join(", ");
    let long = "x".repeat(8 * 1024 + 1);
    for (edits, message) in [
        (format!("remove = [{list}]"), "`route.r.request_headers` changes 101 fields, more than 100"),
        (format!("set = {{ x = \"{long}\" }}"), "the value of `x` is longer than 8192 bytes"),
    ] {
        let loaded = check(format!("{BASE}{}", with(&format!("request_headers = {{ {edits} }}"))));
        let messages: Vec<_> = loaded.report.errors().map(|one| one.message.as_str()).collect();
        assert_eq!(messages, [message]);
    }
}

/// Route lines, a second route's match, whether and how the redirect comes back.
const LOOPS: &[(&str, &str, Option<Severity>)] = &[
    ("redirect = { path = \"/new\" }", "host = \"o\"", Some(Severity::Error)),
    ("redirect = { path = \"/new\" }", "path_exact = \"/new\"", None),
    ("redirect = { prefix = \"/new\" }", "path = \"/new\"", None),
    ("redirect = { prefix = \"/new\" }", "path_exact = \"/new\"", Some(Severity::Error)),
    ("match = { path = \"/a\" }\nredirect = { prefix = \"/a/b\" }", "host = \"o\"", Some(Severity::Error)),
    ("match = { path = \"/a\" }\nredirect = { prefix = \"/b\" }", "host = \"o\"", None),
    ("match = { host = \"h\" }\nredirect = { port = 8080 }", "host = \"o\"", Some(Severity::Error)),
    ("match = { host = \"h\" }\nredirect = { port = 8081 }", "host = \"o\"", None),
    ("match = { host = \"h\" }\nredirect = { host = \"h\", port = 8080 }", "host = \"o\"", Some(Severity::Error)),
    ("match = { host = \"*.h\" }\nredirect = { host = \"www.h\", port = 8080 }", "host = \"www.h\"", None),
    ("redirect = { host = \"elsewhere\" }", "host = \"o\"", None),
    ("match = { host = \"h\" }\nredirect = { scheme = \"https\" }", "host = \"o\"", None),
    ("match = { host = \"h\" }\nredirect = { scheme = \"http\" }", "host = \"o\"", Some(Severity::Warning)),
    ("match = { scheme = \"http\" }\nredirect = { scheme = \"https\", port = 8080 }", "host = \"o\"", None),
    ("match = { scheme = \"http\" }\nredirect = { scheme = \"http\" }", "host = \"o\"", Some(Severity::Warning)),
    ("match = { scheme = \"http\" }\nredirect = { path = \"/new\" }", "host = \"o\"", Some(Severity::Error)),
    ("match = { scheme = \"http\" }\nredirect = { port = 8080 }", "path = \"/\"", Some(Severity::Error)),
    ("match = { path = \"/a\" }\nredirect = { prefix = \"/a/b\" }", "scheme = \"http\"", Some(Severity::Error)),
];

#[test]
fn redirects_to_themselves_are_found() {
    for (lines, other, expected) in LOOPS {
        let text = format!(
            "{BASE}[[route]]\nname = \"r\"\n{lines}\n[[route]]\nname = \"o\"\nmatch = {{ {other} }}\nvariants = {{ v = \"b\", w = \"a\" }}\nactive = \"v\"\n"
        );
        let loaded = check(&text);
        let found: Vec<_> = loaded.report.diagnostics.iter().map(|one| (one.code, one.severity)).collect();
        let expected: Vec<_> = expected.iter().map(|severity| ("redirect-loop", *severity)).collect();
        assert_eq!(found, expected, "{text}");
        assert_eq!(loaded.config.is_some(), !loaded.report.has_errors());
    }
}

/// The filters of a file's first route.
fn loaded(folder: &Folder, lines: &str) -> (Config, Filters) {
    let env = |name: &str| (name == "TEAM").then(|| "blue ${variant}".to_owned());
    let loaded = load(&folder.write("weir.toml", format!("{BASE}{lines}")), &env);
    let config = loaded.config.unwrap_or_else(|| panic!("{}", loaded.report.render(false)));
    let filters = config.routes[0].filters.as_deref().expect("the route has filters").clone();
    (config, filters)
}

#[test]
fn edits_are_finished_for_each_variant() {
    let lines = "request_headers = { set = { x-route = \"${route}/${variant}\", x-team = \"${TEAM} $${variant}\" }, \
                 add = { Via = \"2 x\", x-n = [\"1\", \"${client_ip}\"] }, remove = [\"cookie\", \"x-forwarded-for\"] }\n\
                 response_headers = {}\n";
    let route = route(&format!("active = \"stable\"\n{lines}"));
    let (_, filters) = loaded(&Folder::new(), &route);
    assert!(filters.response.is_empty() && filters.rewrite.is_none() && filters.answer.is_none());
    assert!(filters.name_client_ip());
    let facts = Facts { client_ip: HeaderValue::from_static("192.0.2.7"), request_id: HeaderValue::from_static("id") };
    for (index, variant) in ["stable", "canary"].into_iter().enumerate() {
        let mut headers = HeaderMap::new();
        headers.insert("cookie", HeaderValue::from_static("a=b"));
        headers.insert("via", HeaderValue::from_static("1.1 weir"));
        filters.edit_request(index, &mut headers, &facts);
        assert_eq!(headers.len(), 6, "{headers:?}");
        assert_eq!(headers["x-route"], format!("r/{variant}"));
        assert_eq!(headers["x-team"], "blue ${variant} ${variant}");
        assert_eq!(headers.get_all("via").iter().collect::<Vec<_>>(), ["1.1 weir", "2 x"]);
        assert_eq!(headers.get_all("x-n").iter().collect::<Vec<_>>(), ["1", "192.0.2.7"]);
    }
}

#[test]
fn a_route_without_filters_has_none() {
    for lines in ["", "request_headers = {}", "response_headers = { set = {}, remove = [] }"] {
        let loaded = check(format!("{BASE}{}", route(&format!("active = \"stable\"\n{lines}"))));
        let config = loaded.config.unwrap_or_else(|| panic!("{}", loaded.report.render(false)));
        assert_eq!(config.routes[0].filters, None, "{lines}");
    }
}

#[test]
fn routes_that_answer_have_one_variant_without_a_pool() {
    let folder = Folder::new();
    folder.write("pages/closed.HTML", "<h1>closed</h1>");
    let lines = "respond = { status = 503, file = \"pages/closed.HTML\", retry_after = \"1m500ms\" }";
    let (config, filters) = loaded(&folder, &answering(lines));
    let route = &config.routes[0];
    assert_eq!(route.variants, [VariantConfig { name: "respond".to_owned(), pool: None }]);
    assert_eq!(route.weights.iter().map(|weight| weight.thousandths()).collect::<Vec<_>>(), [100_000]);
    let Some(OwnAnswer::Fixed(fixed)) = filters.answer else { panic!("{filters:?}") };
    assert_eq!((fixed.status.as_u16(), &fixed.body[..]), (503, &b"<h1>closed</h1>"[..]));
    assert_eq!(fixed.content_type.unwrap(), "text/html; charset=utf-8");
    assert_eq!(fixed.retry_after.unwrap(), "61");

    let (config, filters) = loaded(&folder, &answering("redirect = { host = \"New.Example\", port = 8443 }"));
    assert_eq!(config.routes[0].variants, [VariantConfig { name: "redirect".to_owned(), pool: None }]);
    let Some(OwnAnswer::Redirect(redirect)) = filters.answer else { panic!("{filters:?}") };
    assert_eq!((redirect.status.as_u16(), redirect.port), (302, Some(8443)));
    assert_eq!(redirect.host.as_deref(), Some("new.example"));
}

#[test]
fn files_to_answer_with_are_bounded_and_typed() {
    let folder = Folder::new();
    folder.write("page.bin", "x");
    folder.write("big.html", vec![b'x'; 1024 * 1024 + 1]);
    let content_type = |lines: &str| {
        let (_, filters) = loaded(&folder, &answering(lines));
        let Some(OwnAnswer::Fixed(fixed)) = filters.answer else { panic!("{filters:?}") };
        fixed.content_type.map(|value| value.to_str().unwrap().to_owned())
    };
    let typed = |lines: &str| content_type(lines).unwrap_or_default();
    assert_eq!(typed("respond = { status = 200, file = \"page.bin\" }"), "application/octet-stream");
    assert_eq!(typed("respond = { status = 200, file = \"page.bin\", content_type = \"a/b; c=d\" }"), "a/b; c=d");
    assert_eq!(typed("respond = { status = 200, body = \"x\" }"), "text/plain; charset=utf-8");
    assert_eq!(content_type("respond = { status = 204 }"), None);
    for (file, trouble) in [
        ("big.html", "big.html: larger than 1048576 bytes"),
        ("none.html", "none.html: cannot read: No such file or directory (os error 2)"),
    ] {
        let lines = answering(&format!("respond = {{ status = 503, file = \"{file}\" }}"));
        let found = folder.check(format!("{BASE}{lines}"));
        let messages: Vec<_> = found.report.errors().map(|one| (one.code, one.message.as_str())).collect();
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert!(messages[0].0 == "respond-file" && messages[0].1.ends_with(trouble), "{messages:?}");
    }
}
