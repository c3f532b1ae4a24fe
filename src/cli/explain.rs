//! `weir explain`: where a request would go, and why, without sending it.

use super::client::{Admin, Call, Failure};
use super::status::Output;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::process::ExitCode;
use unicode_width::UnicodeWidthStr;

#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// The URL that a client would ask for, such as `http://shop.example.com/cart?uid=7`
    pub url: String,
    /// A header that it would send; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    pub headers: Vec<(String, String)>,
    /// The method
    #[arg(short = 'X', long, default_value = "GET")]
    pub method: String,
    /// The address that it would come from; 127.0.0.1 when not given
    #[arg(long, value_name = "ADDR")]
    pub ip: Option<IpAddr>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

pub fn run(args: &ExplainArgs, admin: &Admin) -> ExitCode {
    match explain(args, admin) {
        Ok(text) => {
            crate::cli::say(text);
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report("explain"),
    }
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME: VALUE, such as 'x-user-id: 7'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn explain(args: &ExplainArgs, admin: &Admin) -> Result<String, Failure> {
    let body = described(args)?;
    let call =
        Call { method: http::Method::POST, path: "/api/v1/explain".to_owned(), if_generation: None, body: Some(&body) };
    let document = admin.call(&call)?;
    Ok(if args.output == Output::Json { format!("{document:#}\n") } else { told(&document) })
}

/// The API's body. A `Host` header stands for the URL's host, as with curl.
fn described(args: &ExplainArgs) -> Result<Value, Failure> {
    let Url { scheme, authority, path } = split_url(&args.url)?;
    let mut host = authority;
    let mut headers = Map::new();
    for (name, value) in &args.headers {
        let name = name.to_ascii_lowercase();
        if name == "host" {
            host = Some(value);
            continue;
        }
        if let Value::Array(lines) = headers.entry(name).or_insert_with(|| json!([])) {
            lines.push(json!(value));
        }
    }
    let Some(host) = host else {
        return Err(Failure::Usage(format!("{:?} names no host: write http://HOST/PATH", args.url)));
    };
    let mut body = json!({"method": args.method, "path": path, "host": host, "headers": headers});
    if let Some(scheme) = scheme {
        body["scheme"] = json!(scheme);
    }
    if let Some(ip) = args.ip {
        body["client_ip"] = json!(ip);
    }
    Ok(body)
}

/// The parts of a URL; the path has its query.
#[derive(Debug, PartialEq, Eq)]
struct Url<'u> {
    scheme: Option<&'static str>,
    authority: Option<&'u str>,
    path: String,
}

/// A URL may lack `http://`, or be a path only.
fn split_url(url: &str) -> Result<Url<'_>, Failure> {
    let sent = url.split('#').next().unwrap_or("");
    if sent.starts_with('/') {
        return Ok(Url { scheme: None, authority: None, path: sent.to_owned() });
    }
    let (scheme, rest) = match sent.split_once("://") {
        Some((scheme, _)) if scheme.contains(['/', '?']) => (None, sent),
        None => (None, sent),
        Some((scheme, rest)) => match ["http", "https"].into_iter().find(|known| scheme.eq_ignore_ascii_case(known)) {
            Some(known) => (Some(known), rest),
            None => return Err(Failure::Usage(format!("{url:?}: a URL starts with http:// or https://"))),
        },
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() || authority.contains('@') {
        return Err(Failure::Usage(format!("{url:?}: write http://HOST/PATH, without user and password")));
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(Url { scheme, authority: Some(authority), path: format!("{slash}{path}") })
}

/// The widest line, where words allow.
const COLUMNS: usize = 80;
/// Targets of a pool that are named.
const TARGETS: usize = 8;

/// What the document says, one subject a block, and the sentence last.
fn told(document: &Value) -> String {
    let mut out = Lines::default();
    match document["route"].as_str() {
        Some(route) => out.line("route", format!("{route}, generation {}", document["generation"])),
        None => out.line("route", "none".to_owned()),
    }
    tell_rules(&mut out, document);
    tell_split(&mut out, document);
    tell_target(&mut out, document);
    let client = &document["client_ip"];
    let assumed = if client["source"] == "assumed" { " (assumed; --ip gives another)" } else { "" };
    let forwarded = if client["source"] == "x-forwarded-for" { " (by X-Forwarded-For)" } else { "" };
    out.line("client", format!("{}{assumed}{forwarded}", text(&client["ip"])));
    let scheme = &document["scheme"];
    let forwarded = if scheme["source"] == "x-forwarded-proto" { " (by X-Forwarded-Proto)" } else { "" };
    let assumed = if scheme["source"] == "assumed" { " (assumed; the URL gives another)" } else { "" };
    out.line("scheme", format!("{}{assumed}{forwarded}", text(&scheme["name"])));
    for (nth, route) in list(&document["considered"]).enumerate() {
        let label = if nth == 0 { "routes" } else { "" };
        let taken = if route["taken"] == true { "takes it: " } else { "" };
        out.line(label, format!("{}: {taken}{}", text(&route["route"]), text(&route["why"])));
    }
    match document["other_routes"].as_u64() {
        Some(0) | None => {}
        Some(others) => out.line("", format!("and {others} more that do not take it")),
    }
    out.sentence(&text(&document["why"]));
    out.0
}

fn tell_rules(out: &mut Lines, document: &Value) {
    if document["route"].is_null() {
        return;
    }
    match document["rule"].as_str() {
        Some(rule) if document["forced"] == true => out.line("rule", format!("{rule}, which forces the variant")),
        Some(rule) => out.line("rule", format!("{rule}, with weights of its own")),
        None => out.line("rule", "none".to_owned()),
    }
    for rule in list(&document["rules"]) {
        let sign = if rule["matched"] == true { '+' } else { '-' };
        out.line("", format!("{sign} {}: {}", text(&rule["name"]), text(&rule["why"])));
    }
    for (member, what) in
        [("rules_left_out", "more, none of which matches"), ("rules_not_asked", "more after it, not asked")]
    {
        if let Some(count) = document[member].as_u64().filter(|count| *count > 0) {
            out.line("", format!("  {count} {what}"));
        }
    }
}

fn tell_split(out: &mut Lines, document: &Value) {
    let key = &document["key"];
    let value = match (&key["value"], &key["new"]) {
        (Value::String(value), _) => format!(" = {value}"),
        (_, Value::Bool(true)) => ", a new id".to_owned(),
        _ => String::new(),
    };
    if let Some(source) = key["source"].as_str() {
        out.line("key", format!("{source}{value}"));
        out.line("bucket", format!("{} of 0 to 99999", document["bucket"]));
    }
    if let Some(weights) = document["weights"].as_object() {
        let shares: Vec<String> = weights.iter().map(|(name, weight)| format!("{name} {weight} %")).collect();
        out.line("split", shares.join(", "));
    }
    if let Some(cookie) = document["sets_cookie"].as_str() {
        out.line("cookie", format!("{cookie} would be set"));
    }
}

fn tell_target(out: &mut Lines, document: &Value) {
    let Some(variant) = document["variant"].as_str() else { return };
    out.line("variant", variant.to_owned());
    let version = document["version"].as_str().map_or(String::new(), |version| format!(", version {version}"));
    out.line("pool", format!("{}{version}", text(&document["pool"])));
    match document["target"].as_str() {
        Some(target) => out.line("target", target.to_owned()),
        None => {
            let mut targets: Vec<String> = list(&document["targets"]).take(TARGETS).map(text).collect();
            let more = list(&document["targets"]).count() - targets.len();
            targets.extend((more > 0).then(|| format!("{more} more")));
            out.line("target", format!("one of {} ({})", targets.join(", "), text(&document["balance"])));
        }
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Labelled lines, broken between words.
#[derive(Default)]
struct Lines(String);

const LABEL: usize = 9;

impl Lines {
    fn line(&mut self, label: &str, text: String) {
        let indent = if text.starts_with(['+', '-', ' ']) { LABEL + 2 } else { LABEL };
        self.0.push_str(&format!("{label:<LABEL$}"));
        self.words(&text, LABEL, indent);
    }

    fn sentence(&mut self, why: &str) {
        self.0.push('\n');
        self.words(why, 0, 0);
    }

    /// From column `at`; lines after the first begin at `indent`.
    fn words(&mut self, text: &str, mut at: usize, indent: usize) {
        for (nth, word) in text.split(' ').enumerate() {
            if nth > 0 && at + 1 + word.width() > COLUMNS {
                self.0.push_str(&format!("\n{:indent$}", ""));
                at = indent;
            } else if nth > 0 {
                self.0.push(' ');
                at += 1;
            }
            self.0.push_str(word);
            at += word.width();
        }
        self.0.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(url: &str, headers: &[&str]) -> ExplainArgs {
        ExplainArgs {
            url: url.to_owned(),
            headers: headers.iter().map(|header| parse_header(header).unwrap()).collect(),
            method: "GET".to_owned(),
            ip: None,
            output: Output::Table,
        }
    }

    #[test]
    fn a_url_and_headers_are_the_request_that_a_client_sends() {
        let sent = described(&args("https://Shop.test:8443/a?b=1#top", &["X-A: 1", "cookie: c=2", "x-a:3"])).unwrap();
        let expected = json!({"method": "GET", "scheme": "https", "path": "/a?b=1", "host": "Shop.test:8443",
            "headers": {"x-a": ["1", "3"], "cookie": ["c=2"]}});
        assert_eq!(sent, expected);
        let named = described(&args("/a", &["Host: shop.test"])).unwrap();
        assert_eq!((&named["host"], &named["headers"]), (&json!("shop.test"), &json!({})));
        assert_eq!(described(&args("http://10.0.0.1/", &["host: shop.test"])).unwrap()["host"], "shop.test");
        let ip = ExplainArgs { ip: Some([192, 0, 2, 7].into()), ..args("a", &[]) };
        assert_eq!(described(&ip).unwrap()["client_ip"], "192.0.2.7");
    }

    #[test]
    fn urls_are_taken_as_curl_takes_them() {
        for (url, scheme, host, path) in [
            ("shop.test", None, Some("shop.test"), "/"),
            ("shop.test?a=http://b/", None, Some("shop.test"), "/?a=http://b/"),
            ("HTTP://shop.test", Some("http"), Some("shop.test"), "/"),
            ("http://[::1]:80/a/../b?c#d?e", Some("http"), Some("[::1]:80"), "/a/../b?c"),
            ("Https://shop.test/a", Some("https"), Some("shop.test"), "/a"),
            ("/a?b", None, None, "/a?b"),
        ] {
            assert_eq!(split_url(url).unwrap(), Url { scheme, authority: host, path: path.to_owned() }, "{url}");
        }
        for url in ["", "ftp://a/", "http://", "http:///a", "http://user:pw@a/", "?a"] {
            assert!(split_url(url).is_err(), "{url}");
        }
        assert!(described(&args("/a", &[])).is_err(), "no host");
        assert!(parse_header("x-user-id").is_err());
    }

    #[test]
    fn what_is_told_fits_a_terminal_and_ends_with_the_sentence() {
        let document = json!({
            "route": "shop", "generation": 3, "rule": null, "forced": false,
            "key": {"source": "header:x-user-id", "value": "user-1", "new": false}, "bucket": 41716,
            "variant": "stable", "pool": "shop-v1", "version": "1.41.0",
            "targets": ["127.0.0.1:9101", "127.0.0.1:9103"], "target": null,
            "balance": "least in flight of two random ones",
            "weights": {"stable": 95, "canary": 5}, "share": 95, "sets_cookie": null,
            "client_ip": {"ip": "127.0.0.1", "source": "assumed"},
            "scheme": {"name": "https", "source": "given"},
            "considered": [
                {"route": "shop", "taken": true, "why": "host shop.test, any path"},
                {"route": "rest", "taken": false, "why": "takes it too, but shop is more specific"}],
            "other_routes": 7,
            "rules": [{"name": "beijing staff", "matched": false,
                "why": "header x-region is \"shanghai\", not \"beijing\", which is a long story"}],
            "rules_left_out": 0, "rules_not_asked": 0,
            "why": "Route shop is the most specific of 2 that take the request; its rule does not match; \
                    bucket 41716 of header:x-user-id belongs to stable, which has 95 %.",
        });
        let expected = "\
route    shop, generation 3
rule     none
         - beijing staff: header x-region is \"shanghai\", not \"beijing\", which is
           a long story
key      header:x-user-id = user-1
bucket   41716 of 0 to 99999
split    stable 95 %, canary 5 %
variant  stable
pool     shop-v1, version 1.41.0
target   one of 127.0.0.1:9101, 127.0.0.1:9103 (least in flight of two random
         ones)
client   127.0.0.1 (assumed; --ip gives another)
scheme   https
routes   shop: takes it: host shop.test, any path
         rest: takes it too, but shop is more specific
         and 7 more that do not take it

Route shop is the most specific of 2 that take the request; its rule does not
match; bucket 41716 of header:x-user-id belongs to stable, which has 95 %.
";
        assert_eq!(told(&document), expected);
        assert!(expected.lines().all(|line| line.chars().count() <= COLUMNS));
    }

    #[test]
    fn a_request_without_route_is_a_short_story() {
        let document = json!({"route": null, "client_ip": {"ip": "192.0.2.7", "source": "x-forwarded-for"},
            "scheme": {"name": "http", "source": "x-forwarded-proto"},
            "considered": [{"route": "shop", "taken": false, "why": "the host is not shop.test"}],
            "other_routes": 0, "rules": [], "why": "No route takes the request: Weir answers 404."});
        let expected = "\
route    none
client   192.0.2.7 (by X-Forwarded-For)
scheme   http (by X-Forwarded-Proto)
routes   shop: the host is not shop.test

No route takes the request: Weir answers 404.
";
        assert_eq!(told(&document), expected);
    }
}
