//! What a route changes in messages, and what it answers by itself, under the file's keys.

use crate::config::{WrittenEdits, shown_duration};
use crate::routing::compress::Codings;
use crate::routing::filters::{Filters, Fixed, OwnAnswer};
use crate::routing::rate::RateLimit;
use crate::routing::redact::Redact;
use crate::routing::redirect::Redirect;
use crate::routing::rewrite::{PathChange, Rewrite};
use http::header::HeaderValue;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// `rewrite`, `redirect` or `respond`, `compress` and `rate_limit`; those that the route has.
pub fn filters(filters: &Filters, redact: &dyn Redact) -> Vec<(&'static str, Value)> {
    // Finished for each variant, header edits are no more what is written.
    let Filters { rewrite, request: _, response: _, answer, compress, rate } = filters;
    let rewrite = rewrite.as_ref().map(|one| ("rewrite", self::rewrite(one, redact)));
    let answer = answer.as_ref().map(|answer| match answer {
        OwnAnswer::Redirect(one) => (answer.name(), redirect(one, redact)),
        OwnAnswer::Fixed(one) => (answer.name(), respond(one, redact)),
    });
    let compress = compress.as_ref().map(|one| ("compress", json!(codings(one))));
    let rate = rate.as_ref().map(|one| ("rate_limit", rate_limit(one, redact)));
    rewrite.into_iter().chain(answer).chain(compress).chain(rate).collect()
}

/// `{"set":{"x-variant":"${variant}"},"add":{"vary":["cookie"]},"remove":["server"]}`
pub fn header_edits(edits: &WrittenEdits) -> Value {
    let WrittenEdits { remove, set, add } = edits;
    let set: Map<_, _> = set.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let add: Map<_, _> = add.iter().map(|(name, values)| (name.clone(), json!(values))).collect();
    json!({"set": set, "add": add, "remove": remove})
}

/// In the order that the route prefers.
fn codings(codings: &Codings) -> Vec<&'static str> {
    codings.as_slice().iter().map(|coding| coding.name()).collect()
}

fn rate_limit(limit: &RateLimit, redact: &dyn Redact) -> Value {
    let RateLimit { keys, rate, burst, max_keys } = limit;
    let keys = keys.iter().map(|key| redact.shown(&key.to_string()).to_owned());
    json!({"rate": rate.to_string(), "burst": burst, "key": keys.collect::<Vec<_>>(), "max_keys": max_keys})
}

fn rewrite(rewrite: &Rewrite, redact: &dyn Redact) -> Value {
    let Rewrite { path, host } = rewrite;
    let mut document = Map::new();
    document.extend(path.as_ref().map(|path| path_change(path, redact)));
    document.extend(host.as_ref().map(|host| ("host".to_owned(), text(host, redact))));
    Value::Object(document)
}

fn redirect(redirect: &Redirect, redact: &dyn Redact) -> Value {
    let Redirect { status, scheme, host, port, path } = redirect;
    let mut document = Map::from_iter([("code".to_owned(), json!(status.as_u16()))]);
    document.extend(scheme.map(|scheme| ("scheme".to_owned(), json!(scheme.name()))));
    document.extend(host.as_ref().map(|host| ("host".to_owned(), json!(redact.shown(host)))));
    document.extend(port.map(|port| ("port".to_owned(), json!(port))));
    document.extend(path.as_ref().map(|path| path_change(path, redact)));
    Value::Object(document)
}

fn path_change(change: &PathChange, redact: &dyn Redact) -> (String, Value) {
    match change {
        PathChange::Prefix { matched: _, with } => ("prefix".to_owned(), json!(redact.shown(with))),
        PathChange::Whole(path) => ("path".to_owned(), json!(redact.shown(path))),
    }
}

fn respond(fixed: &Fixed, redact: &dyn Redact) -> Value {
    let Fixed { status, content_type, retry_after, body, file } = fixed;
    let mut document = Map::from_iter([("status".to_owned(), json!(status.as_u16()))]);
    match file {
        Some(file) => document.insert("file".to_owned(), json!(&**file)),
        None if body.is_empty() => None,
        None => document.insert("body".to_owned(), json!(redact.shown(&String::from_utf8_lossy(body)))),
    };
    document.extend(content_type.as_ref().map(|value| ("content_type".to_owned(), text(value, redact))));
    let seconds = retry_after.as_ref().and_then(|value| value.to_str().ok()?.parse().ok());
    let after = seconds.map(|seconds| shown_duration(Duration::from_secs(seconds)));
    document.extend(after.map(|after| ("retry_after".to_owned(), json!(after))));
    Value::Object(document)
}

fn text(value: &HeaderValue, redact: &dyn Redact) -> Value {
    json!(redact.shown(&String::from_utf8_lossy(value.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::super::effective;
    use super::super::tests::ground;
    use serde_json::json;

    const TOP: &str = "[[listener]]\nname = \"http\"\nbind = \"127.0.0.1:8080\"\n[pool.p]\ntargets = [\"127.0.0.1:1\"]\n[[route]]\nname = \"r\"\n";

    /// The route with these lines, as it is shown.
    fn shown(lines: &str) -> serde_json::Value {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("closed.html"), "<h1>s3cret</h1>").unwrap();
        std::fs::write(folder.path().join("host"), "S3CRET.example").unwrap();
        std::fs::write(folder.path().join("path"), "/s3cret").unwrap();
        let document = effective(&ground(folder.path(), &format!("{TOP}{lines}\n")));
        assert!(!document.to_string().to_lowercase().contains("s3cret"), "{document}");
        document["route"][0].clone()
    }

    #[test]
    fn filters_are_shown_as_they_are_written_with_their_defaults() {
        let route = shown(
            r#"match = { path = "/v1" }
variants = { a = "p", b = "p" }
active = "a"
rewrite = { strip_prefix = true, host = "internal.example:81" }
request_headers = { set = { X-Key = "k ${file:key} ${variant} $${x}", x-plain = "1" }, remove = ["x-a"] }
response_headers = { add = { vary = ["cookie", "${route}"], x-one = "1" } }"#,
        );
        assert_eq!(route["rewrite"], json!({"prefix": "/", "host": "internal.example:81"}));
        let set = json!({"X-Key": "k ${file:key} ${variant} $${x}", "x-plain": "1"});
        assert_eq!(route["request_headers"], json!({"set": set, "add": {}, "remove": ["x-a"]}));
        let add = json!({"vary": ["cookie", "${route}"], "x-one": ["1"]});
        assert_eq!(route["response_headers"], json!({"set": {}, "add": add, "remove": []}));
        assert_eq!(route.get("filters"), None);
        let plain = shown("variants = { a = \"p\" }\nrequest_headers = { set = {} }");
        for key in ["request_headers", "response_headers", "rewrite", "redirect", "respond"] {
            assert_eq!(plain[key], json!(null), "{key}");
        }
    }

    #[test]
    fn what_a_file_filled_in_is_not_shown() {
        for (lines, key, value) in [
            ("redirect = { host = \"New.example\" }", "redirect", json!({"code": 302, "host": "new.example"})),
            (
                "redirect = { code = 308, scheme = \"https\", host = \"${file:host}\", port = 81, path = \"${file:path}\" }",
                "redirect",
                json!({"code": 308, "scheme": "https", "host": "${file:host}", "port": 81, "path": "${file:path}"}),
            ),
            (
                "respond = { status = 503, file = \"closed.html\", retry_after = \"1m500ms\" }",
                "respond",
                json!({"status": 503, "file": "closed.html", "content_type": "text/html; charset=utf-8", "retry_after": "61s"}),
            ),
            (
                "respond = { status = 200, body = \"${file:key}\", content_type = \"a/b\" }",
                "respond",
                json!({"status": 200, "body": "${file:key}", "content_type": "a/b"}),
            ),
            ("respond = { status = 204 }", "respond", json!({"status": 204})),
            (
                "variants = { a = \"p\" }\nrewrite = { path = \"${file:path}\", host = \"${file:host}\" }",
                "rewrite",
                json!({"path": "${file:path}", "host": "${file:host}"}),
            ),
        ] {
            assert_eq!(shown(lines)[key], value, "{lines}");
        }
    }
}
