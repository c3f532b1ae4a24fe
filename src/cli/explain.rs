//! `weir explain`: where a request would go, and why, without sending it.

use super::client::{Admin, Call, Failure};
use super::status::Output;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::process::ExitCode;
use unicode_width::UnicodeWidthStr;

#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// The URL that a client would ask for, such as http://shop.example.com/cart?uid=7
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
    let (authority, path) = split_url(&args.url)?;
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
    if let Some(ip) = args.ip {
        body["client_ip"] = json!(ip);
    }
    Ok(body)
}

/// The authority, and the path with its query; a URL may lack `http://`, or be a path only.
fn split_url(url: &str) -> Result<(Option<&str>, String), Failure> {
    let sent = url.split('#').next().unwrap_or("");
    if sent.starts_with('/') {
        return Ok((None, sent.to_owned()));
    }
    let rest = match sent.split_once("://") {
        Some((scheme, rest)) if ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) => rest,
        Some((scheme, _)) if !scheme.contains(['/', '?']) => {
            return Err(Failure::Usage(format!("{url:?}: a URL starts with http:// or https://")));
        }
        _ => sent,
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() || authority.contains('@') {
        return Err(Failure::Usage(format!("{url:?}: write http://HOST/PATH, without user and password")));
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok((Some(authority), format!("{slash}{path}")))
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
    for (member, what) in [("rules_left_out", "more that do not match"), ("rules_not_asked", "after it were not asked")]
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
