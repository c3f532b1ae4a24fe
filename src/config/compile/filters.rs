//! A route's filters: header edits and rewrites. Its own answers are in `answers`.

mod answers;

pub use answers::only_variant;

use super::Checker;
use crate::config::cursor::templates::NamedTemplates;
use crate::config::interpolate::Part;
use crate::config::model::WrittenEdits;
use crate::config::raw;
use crate::config::raw::filters as written;
use crate::config::source::{At, Place, listed};
use crate::limits::{HEADER_EDITS, HEADER_VALUE_BYTES};
use crate::routing::edits::{EditsTemplate, HeaderEdits, Piece, Placeholder};
use crate::routing::filters::Filters;
use crate::routing::matcher::{HostMatch, PathMatch, RequestMatch};
use crate::routing::rewrite::{PathChange, Rewrite, TargetError};
use http::header::{HeaderName, HeaderValue};
use std::collections::HashMap;
use std::sync::Arc;

/// What belongs to one connection or to the framing of one message; whoever writes a message writes these.
const OF_THE_MESSAGE: [&str; 8] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// The edits as they are written; None without any.
pub fn written_edits(raw: &written::HeaderEdits) -> Option<Box<WrittenEdits>> {
    let value = |value: &At<Vec<Part>>| match value.filled_as() {
        Some(written) => written.to_owned(),
        None => value.value.iter().map(text).collect(),
    };
    let values = |(name, values): &NamedTemplates| (name.value.clone(), values.iter().map(value).collect::<Vec<_>>());
    let remove: Vec<String> = raw.remove.iter().map(|name| name.written().to_owned()).collect();
    let set: Vec<_> = raw.set.iter().map(values).map(|(name, values)| (name, values.concat())).collect();
    let add: Vec<_> = raw.add.iter().map(values).collect();
    let any = !(remove.is_empty() && set.is_empty() && add.is_empty());
    any.then(|| Box::new(WrittenEdits { remove, set, add }))
}

/// What is known of it before there is a request.
fn text(part: &Part) -> &str {
    match part {
        Part::Text(text) => text,
        Part::Placeholder(_) => "",
    }
}

impl Checker<'_> {
    /// The inner None: the route has none.
    pub fn filters(
        &mut self,
        raw: &raw::Route,
        matches: Option<&RequestMatch>,
        variants: &[&str],
    ) -> Option<Option<Arc<Filters>>> {
        let written = &raw.filters;
        let route = raw.name.as_ref().map_or("", |name| name.value.as_str());
        let request = self.header_edits(written.request_headers.as_ref(), true, (route, variants));
        let response = self.header_edits(written.response_headers.as_ref(), false, (route, variants));
        let rewrite = match &written.rewrite {
            Some(rewrite) => self.rewrite(rewrite, matches).map(Some),
            None => Some(None),
        };
        let answer = self.own_answer(raw, matches);
        let compress = self.compress(raw);
        let rate = self.rate_limit(raw);
        let filters = Filters {
            request: request?,
            response: response?,
            rewrite: rewrite?,
            answer: answer?,
            compress: compress?,
            rate: rate?,
        };
        Some((filters != Filters::default()).then(|| Arc::new(filters)))
    }

    /// By variant; empty without edits.
    fn header_edits(
        &mut self,
        raw: Option<&written::HeaderEdits>,
        of_requests: bool,
        (route, variants): (&str, &[&str]),
    ) -> Option<Vec<HeaderEdits>> {
        let Some(raw) = raw else { return Some(Vec::new()) };
        let before = self.findings.len();
        let count = raw.remove.len() + raw.set.len() + raw.add.iter().map(|(_, values)| values.len()).sum::<usize>();
        if count > HEADER_EDITS {
            let message = format!("`{}` changes {count} fields, more than {HEADER_EDITS}", raw.path);
            self.findings.error("bad-header", raw.place, message);
        }
        let template = EditsTemplate {
            remove: raw.remove.iter().filter_map(|name| self.edited_name(name, of_requests)).collect(),
            set: self.edited_fields(&raw.set, of_requests),
            add: self.edited_fields(&raw.add, of_requests),
        };
        self.doubled(raw.remove.iter(), &raw.path, "remove");
        self.doubled(raw.set.iter().map(|(name, _)| name), &raw.path, "set");
        self.doubled(raw.add.iter().map(|(name, _)| name), &raw.path, "add");
        if self.findings.len() > before {
            return None;
        }
        if template == EditsTemplate::default() {
            return Some(Vec::new());
        }
        // Names of routes and variants that no header can have are reported as such.
        variants.iter().map(|variant| template.for_variant(route, variant).ok()).collect()
    }

    fn edited_fields(&mut self, raw: &[NamedTemplates], of_requests: bool) -> Vec<(HeaderName, Vec<Piece>)> {
        let mut fields = Vec::new();
        for (name, values) in raw {
            let parsed = self.edited_name(name, of_requests);
            for value in values {
                let pieces = self.edited_value(&name.value, value);
                fields.extend(parsed.clone().zip(pieces));
            }
        }
        fields
    }

    fn edited_name(&mut self, name: &At<String>, of_requests: bool) -> Option<HeaderName> {
        let parsed = self.header_name(name)?;
        let (why, help) = match parsed.as_str() {
            "host" if of_requests => ("it says which site is meant", "write rewrite = { host = \"…\" }"),
            "expect" if of_requests => ("it decides how the body is sent", "Weir passes the client's on"),
            name if OF_THE_MESSAGE.contains(&name) => {
                ("it belongs to the message or its connection", "whoever writes the message writes it")
            }
            _ => return Some(parsed),
        };
        let message = format!("`{parsed}` cannot be changed: {why}");
        self.findings.error("bad-header", name.place, message).help(help);
        None
    }

    fn edited_value(&mut self, name: &str, value: &At<Vec<Part>>) -> Option<Vec<Piece>> {
        let fixed: String = value.value.iter().map(text).collect();
        let trouble = if HeaderValue::from_bytes(fixed.as_bytes()).is_err() {
            "has a control character".to_owned()
        } else if fixed.len() > HEADER_VALUE_BYTES {
            format!("is longer than {HEADER_VALUE_BYTES} bytes")
        } else {
            let piece = |part: &Part| match part {
                Part::Text(text) => Some(Piece::Text(text.clone())),
                Part::Placeholder(name) => Placeholder::named(name).map(Piece::Named),
            };
            return value.value.iter().map(piece).collect();
        };
        self.findings.error("bad-header", value.place, format!("the value of `{}` {trouble}", name.escape_debug()));
        None
    }

    /// Reports a field that one list has twice; its case does not tell it apart.
    fn doubled<'n>(&mut self, names: impl Iterator<Item = &'n At<String>>, path: &str, list: &str) {
        let mut first: HashMap<String, Place> = HashMap::new();
        for name in names {
            if let Some(place) = first.insert(name.value.to_ascii_lowercase(), name.place) {
                let message = format!("{} stands twice in `{path}.{list}`", name.shown());
                self.findings.error("bad-header", name.place, message).other(place);
            }
        }
    }

    fn rewrite(&mut self, raw: &written::Rewrite, matches: Option<&RequestMatch>) -> Option<Rewrite> {
        if raw.is_empty {
            let message = format!("`{}` changes nothing", raw.path_of);
            let help = "write prefix = \"/api\", strip_prefix = true, path = \"/full\" or host = \"internal.example\"";
            self.findings.error("bad-rewrite", raw.place, message).help(help);
            return None;
        }
        let strip = raw.strip_prefix.as_ref().filter(|strip| strip.value);
        let places = [
            ("prefix", raw.prefix.as_ref().map(|prefix| prefix.place)),
            ("strip_prefix", strip.map(|strip| strip.place)),
            ("path", raw.path.as_ref().map(|path| path.place)),
        ];
        let host = match &raw.host {
            Some(host) => self.host_and_port(host).map(Some),
            None => Some(None),
        };
        let path = if self.one_way(&raw.path_of, &places) {
            match (&raw.prefix, strip, &raw.path) {
                (Some(prefix), _, _) => self.prefix_change(&raw.path_of, prefix, matches).map(Some),
                (_, Some(strip), _) => {
                    let with = At::new("/".to_owned(), strip.place);
                    self.prefix_change(&raw.path_of, &with, matches).map(Some)
                }
                (_, _, Some(path)) => self.path_target(path, PathChange::whole(&path.value)).map(Some),
                _ => Some(None),
            }
        } else {
            None
        };
        Some(Rewrite { path: path?, host: host? })
    }

    /// Reports two ways to change one path.
    fn one_way(&mut self, path: &str, ways: &[(&'static str, Option<Place>)]) -> bool {
        let mut given: Vec<_> = ways.iter().filter_map(|(key, place)| place.map(|place| (*key, place))).collect();
        given.sort_by_key(|(_, place)| *place);
        let [(_, first), .., (_, last)] = given.as_slice() else { return true };
        let keys = listed(given.iter().map(|(key, _)| key));
        let message = format!("`{path}` has {keys}: a path is changed in one way");
        self.findings.error("bad-rewrite", *last, message).other(*first);
        false
    }

    /// `with` instead of the route's prefix.
    fn prefix_change(&mut self, path: &str, with: &At<String>, matches: Option<&RequestMatch>) -> Option<PathChange> {
        let PathMatch::Prefix(matched) = &matches?.path else {
            let message = format!("`{path}` changes the prefix of `match.path`, which this route does not have");
            let finding = self.findings.error("bad-rewrite", with.place, message);
            finding.help("write match = { path = \"/old\" }; or path = \"/full\" for a whole path");
            return None;
        };
        let change = self.path_target(with, PathChange::prefix(matched, &with.value))?;
        if with.value.trim_end_matches('/') == matched {
            let message = match matched.as_str() {
                "" => format!("`{path}` has nothing to take away: the route's `match.path` is \"/\""),
                _ if with.is_filled() => format!("`{path}` changes nothing: the route's `match.path` is that already"),
                same => format!("`{path}` changes nothing: the route's `match.path` is \"{same}\" already"),
            };
            self.findings.error("bad-rewrite", with.place, message);
            return None;
        }
        Some(change)
    }

    fn path_target(&mut self, at: &At<String>, parsed: Result<PathChange, TargetError>) -> Option<PathChange> {
        let failed = |error: TargetError| {
            // The error names what it is about.
            let filled = || format!("{} is not a path", at.shown());
            self.findings.error("bad-rewrite", at.place, if at.is_filled() { filled() } else { error.to_string() });
        };
        parsed.map_err(failed).ok()
    }

    /// `internal.example`, `[::1]:8080`.
    fn host_and_port(&mut self, host: &At<String>) -> Option<HeaderValue> {
        let (name, port) = match host.value.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
            _ => (host.value.as_str(), None),
        };
        if port.is_some_and(|port| port.parse::<u16>().is_ok_and(|number| number == 0) || port.parse::<u16>().is_err())
        {
            let message = format!("the port of {} is not a number from 1 to 65535", host.shown());
            self.findings.error("bad-host", host.place, message);
            return None;
        }
        self.one_host(&host.with(name.to_owned()))?;
        HeaderValue::from_str(&host.value).ok()
    }

    /// One name or address, lower case.
    fn one_host(&mut self, host: &At<String>) -> Option<String> {
        let message = match HostMatch::parse(&host.value) {
            Ok(HostMatch::Exact(name)) => return Some(name),
            _ if host.is_filled() => format!("{} is not one host", host.shown()),
            Ok(_) => format!("{} is not one host", host.shown()),
            Err(error) => error.to_string(),
        };
        self.findings.error("bad-host", host.place, message).help("write host = \"www.example.com\"");
        None
    }
}
