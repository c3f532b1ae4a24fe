//! What routes match, and warnings about those that no request can reach.

use super::Checker;
use crate::config::cursor::word;
use crate::config::model::{Listener, RouteConfig};
use crate::config::raw;
use crate::config::source::{At, listed};
use crate::routing::cover::{self, Unreachable, Why};
use crate::routing::matcher::{HostMatch, PathMatch, RequestMatch};
use crate::routing::rule::{Condition, Subject, Test};
use crate::routing::scheme::Scheme;

impl Checker<'_> {
    pub fn request_match(&mut self, raw: &raw::Match) -> Option<RequestMatch> {
        let scheme = match &raw.scheme {
            Some(scheme) => self.scheme(&format!("{}.scheme", raw.path_of), scheme).map(Some),
            None => Some(None),
        };
        let host = self.host_match(raw);
        let path = self.path_match(raw);
        let methods = match &raw.methods {
            None => Some(Vec::new()),
            Some(methods) => self.method_list(methods),
        };
        let conditions: Vec<_> = raw.conditions.iter().map(|condition| self.field(condition)).collect();
        let conditions = conditions.into_iter().collect::<Option<_>>();
        let (host, path, methods) = (host?, path?, methods?);
        Some(RequestMatch { scheme: scheme?, host, path, methods, conditions: conditions? }.normalised())
    }

    /// `http` or `https`.
    pub fn scheme(&mut self, path: &str, written: &At<String>) -> Option<Scheme> {
        word(self.findings, written, path, &["http", "https"])?;
        Scheme::parse(&written.value)
    }

    fn host_match(&mut self, raw: &raw::Match) -> Option<HostMatch> {
        self.at_most_one(&[("host", &raw.host), ("host_regex", &raw.host_regex)])?;
        match (&raw.host, &raw.host_regex) {
            (Some(host), _) => {
                let parsed = self.matched("host", host, HostMatch::parse(&host.value))?;
                if parsed != HostMatch::Any {
                    self.filled.held_as(host, &parsed.to_string());
                }
                Some(parsed)
            }
            (None, Some(regex)) => self.pattern(regex, true).map(HostMatch::Regex),
            (None, None) => Some(HostMatch::Any),
        }
    }

    fn path_match(&mut self, raw: &raw::Match) -> Option<PathMatch> {
        let raw::Match { path, path_exact, path_regex, .. } = raw;
        self.at_most_one(&[("path", path), ("path_exact", path_exact), ("path_regex", path_regex)])?;
        match (path, path_exact, path_regex) {
            (Some(prefix), _, _) => {
                let parsed = self.matched("path", prefix, PathMatch::prefix(&prefix.value))?;
                if let PathMatch::Prefix(held) = &parsed {
                    self.filled.held_as(prefix, held);
                }
                Some(parsed)
            }
            (_, Some(exact), _) => self.matched("path_exact", exact, PathMatch::exact(&exact.value)),
            (_, _, Some(regex)) => self.pattern(regex, false).map(PathMatch::Regex),
            (None, None, None) => Some(PathMatch::default()),
        }
    }

    /// None, and an error at every key but the first, when several of them are there.
    fn at_most_one(&mut self, keys: &[(&str, &Option<At<String>>)]) -> Option<()> {
        let mut here = keys.iter().filter_map(|(key, value)| Some((key, value.as_ref()?.place)));
        let Some((first, first_place)) = here.next() else { return Some(()) };
        let mut alone = Some(());
        for (key, place) in here {
            let message = format!("a route matches by `{first}` or by `{key}`, not by both");
            self.findings.error("bad-match", place, message).other(first_place);
            alone = None;
        }
        alone
    }

    fn matched<M, E: std::error::Error>(&mut self, key: &str, at: &At<String>, parsed: Result<M, E>) -> Option<M> {
        let failed = |error: E| {
            // The error names what it is about.
            let filled = || format!("{} cannot be the `{key}` of a route", at.shown());
            self.findings.error("bad-match", at.place, if at.is_filled() { filled() } else { error.to_string() });
        };
        parsed.map_err(failed).ok()
    }

    /// A condition on a header or query parameter.
    fn field(&mut self, raw: &raw::When) -> Option<(Subject, Test)> {
        if raw.tests.len() > 1 {
            let message = format!("{} has {} in one condition", raw.path, listed(&raw.tests));
            let help = "name it once for each, in a list: [{ name = \"x\", prefix = \"a\" }, { name = \"x\", suffix = \"b\" }]";
            self.findings.error("bad-condition", raw.place, message).help(help);
            return None;
        }
        match self.condition(raw)? {
            Condition::Is(subject, test) => Some((subject, test)),
            // What is read of a match has one subject.
            Condition::Ip(_) | Condition::Not(_) | Condition::All(_) | Condition::Any(_) => None,
        }
    }

    /// Warns of every route for a scheme that no request can have: no listener speaks it, and there is no trusted proxy
    /// to say it.
    pub fn unserved_schemes(&mut self, raw: &[raw::Route], routes: &[RouteConfig], listeners: &[Listener]) {
        for (raw, route) in raw.iter().zip(routes) {
            let Some((scheme, written)) = route.matches.scheme.zip(raw.matches.scheme.as_ref()) else { continue };
            if listeners.iter().any(|listener| Scheme::of(listener.tls.is_some()) == scheme) {
                continue;
            }
            let with = if scheme == Scheme::Https { "has TLS" } else { "is without TLS" };
            let message = format!("{} never gets a request: no listener {with}", raw.path);
            let finding = self.findings.warning("unreachable-route", written.place, message);
            finding
                .help("behind a proxy that ends TLS name it in server.trusted_proxies: its X-Forwarded-Proto counts");
        }
    }

    /// Warns of every route that another one leaves no request.
    pub fn unreachable(&mut self, raw: &[raw::Route], routes: &[RouteConfig]) {
        let matches: Vec<&RequestMatch> = routes.iter().map(|route| &route.matches).collect();
        for Unreachable { route, by, why } in cover::unreachable(&matches) {
            let (code, how) = match why {
                Why::Same => ("shadowed-route", "matches the same and comes first"),
                Why::First => ("unreachable-route", "matches all that it could and comes first"),
                Why::Precedence => ("unreachable-route", "matches all that it could and is more specific"),
            };
            let message = format!("{} never gets a request: {} {how}", raw[route].path, raw[by].path);
            let finding = self.findings.warning(code, raw[route].matches.place, message).other(raw[by].matches.place);
            if why == Why::Precedence {
                finding.help(reason(matches[by], matches[route]));
            }
        }
    }
}

/// Why a match that takes more is more specific.
fn reason(by: &RequestMatch, route: &RequestMatch) -> &'static str {
    match (&by.host, &route.host, &by.path, &route.path) {
        (HostMatch::Wildcard(_), HostMatch::Regex(_), _, _) => "a `host` with a wildcard comes before a `host_regex`",
        (_, _, PathMatch::Regex(_), PathMatch::Prefix(_)) => "a `path_regex` comes before a `path`",
        _ => "a route with more conditions comes first",
    }
}
