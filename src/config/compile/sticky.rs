//! How a route tells clients apart, and routes that are to agree on it.

use super::Checker;
use crate::config::cursor::word;
use crate::config::model::RouteConfig;
use crate::config::raw;
use crate::config::source::{At, listed};
use crate::routing::sticky::{Fallback, KeySource, Sticky};
use std::collections::HashMap;
use std::time::Duration;

const COOKIE_TTL: Duration = Duration::from_secs(24 * 60 * 60);

impl Checker<'_> {
    pub fn sticky(&mut self, raw: &raw::Sticky, route: Option<&At<String>>) -> Option<Sticky> {
        let written = raw.keys.as_ref().map(|keys| keys.value.as_slice()).unwrap_or_default();
        let keys: Vec<_> = written.iter().filter_map(|key| self.key(key, "bad-sticky")).collect();
        if keys.len() == written.len() {
            written.iter().zip(&keys).for_each(|(written, key)| self.filled.held_as(written, &key.to_string()));
        }
        let fallback = match &raw.fallback {
            None => Some(2),
            Some(word_written) => word(self.findings, word_written, "sticky.fallback", &["cookie", "ip", "random"]),
        };
        let to_cookie = fallback == Some(0);
        if let Some(cookie) = &raw.cookie {
            self.cookie_name(cookie);
        }
        if let Some(group) = &raw.group {
            self.name("group", group);
        }
        for (place, key) in
            [(raw.cookie.as_ref().map(|cookie| cookie.place), "cookie"), (raw.ttl.as_ref().map(|ttl| ttl.place), "ttl")]
        {
            if let Some(place) = place.filter(|_| !to_cookie && fallback.is_some()) {
                let message = format!("`{key}` has no effect without fallback = \"cookie\"");
                let finding = self.findings.error("bad-sticky", place, message);
                finding.help("write fallback = \"cookie\" for an anonymous id in a cookie");
            }
        }
        if raw.keys.as_ref().is_none_or(|keys| keys.value.is_empty()) && fallback == Some(2) {
            let message = "`sticky` names nothing to know a client by";
            let help = "write key = [\"header:x-user-id\"], or fallback = \"cookie\" or \"ip\"";
            self.findings.error("bad-sticky", raw.place, message).help(help);
        }
        self.after_ip(written, raw.fallback.as_ref().filter(|_| to_cookie), "bad-sticky");
        let fallback = match fallback? {
            0 => {
                let name = raw.cookie.as_ref().map(|cookie| cookie.value.clone());
                let name = name.or_else(|| raw.group.as_ref().or(route).map(|name| format!("weir_{}", name.value)))?;
                Fallback::Cookie { name, ttl: raw.ttl.as_ref().map_or(COOKIE_TTL, |ttl| ttl.value) }
            }
            1 => Fallback::Ip,
            _ => Fallback::Random,
        };
        (keys.len() == written.len()).then_some(Sticky { keys, fallback })
    }

    /// What a client is known by; `code` is what a bad one is reported as.
    pub(super) fn key(&mut self, written: &At<String>, code: &'static str) -> Option<KeySource> {
        let (kind, name) = written.value.split_once(':').unwrap_or((&written.value, ""));
        let name = written.with(name.trim().to_owned());
        match kind {
            "header" => self.header_name(&name).map(KeySource::Header),
            "cookie" => self.cookie_name(&name).map(KeySource::Cookie),
            "query" => self.query_name(&name).map(KeySource::Query),
            "ip" if written.value == "ip" => Some(KeySource::Ip),
            "jwt" if name.value.is_empty() || name.value.chars().any(char::is_control) => {
                let message = format!("{} cannot be the name of a claim", written.shown());
                self.findings.error("bad-name", written.place, message).help("write \"jwt:sub\"");
                None
            }
            "jwt" => Some(KeySource::Jwt(name.value)),
            _ => {
                let message = format!("{} is not a key", written.shown());
                let help = "write \"header:NAME\", \"cookie:NAME\", \"query:NAME\", \"jwt:CLAIM\" or \"ip\"";
                self.findings.error(code, written.place, message).help(help);
                None
            }
        }
    }

    /// Every request has an address, so nothing comes after it.
    pub(super) fn after_ip(&mut self, keys: &[At<String>], cookie_fallback: Option<&At<String>>, code: &'static str) {
        let Some(ip) = keys.iter().position(|key| key.value == "ip") else { return };
        let never = "is never asked: every request has an `ip`";
        if let Some(next) = keys.get(ip + 1) {
            let finding = self.findings.error(code, next.place, format!("{} {never}", next.shown()));
            finding.other(keys[ip].place).help("put \"ip\" last");
        }
        if let Some(fallback) = cookie_fallback {
            let finding = self.findings.error(code, fallback.place, format!("the fallback {never}"));
            finding.other(keys[ip].place).help("leave out one of them");
        }
    }

    /// Routes of one sticky group agree on a client's variant only if they are alike in what decides it.
    pub fn groups(&mut self, raw: &[raw::Route], routes: &[RouteConfig]) {
        let named: HashMap<&str, usize> =
            routes.iter().enumerate().map(|(index, route)| (route.name.as_str(), index)).collect();
        let mut first: HashMap<&str, usize> = HashMap::new();
        for (index, route) in routes.iter().enumerate() {
            let Some(group) = group_of(&raw[index]) else { continue };
            if let Some(earlier) = first.get(group.value.as_str()) {
                self.same_in_group(&raw[index], route, &raw[*earlier], &routes[*earlier]);
                continue;
            }
            first.insert(&group.value, index);
            let outsider = named.get(group.value.as_str()).filter(|route| group_of(&raw[**route]).is_none());
            if let Some(outsider) = outsider.filter(|route| routes[**route].sticky.is_some()) {
                let message = format!(
                    "{} has the name of the sticky group {} and so the same buckets, though it is not in it",
                    raw[*outsider].path,
                    group.shown()
                );
                let place = raw[*outsider].name.as_ref().map_or(raw[*outsider].place, |name| name.place);
                self.findings.warning("group-named-as-route", place, message).other(group.place);
            }
        }
    }

    fn same_in_group(&mut self, raw: &raw::Route, route: &RouteConfig, first_raw: &raw::Route, first: &RouteConfig) {
        let (Some(group), Some(first_group)) = (group_of(raw), group_of(first_raw)) else { return };
        let names = |route: &RouteConfig| route.variants.iter().map(|v| v.name.clone()).collect::<Vec<_>>();
        let mut different = Vec::new();
        if names(route) != names(first) {
            different.push("variants");
        }
        if route.weights != first.weights {
            different.push("weights");
        }
        if let (Some(sticky), Some(first)) = (&route.sticky, &first.sticky) {
            if sticky.keys != first.keys {
                different.push("key");
            }
            if !same_fallback(&sticky.fallback, &first.fallback) {
                different.push("fallback");
            }
        }
        if different.is_empty() {
            return;
        }
        let message = format!(
            "{} and {} share the sticky group {} and differ in {}: a client may get different variants",
            first_raw.path,
            raw.path,
            group.shown(),
            listed(&different)
        );
        self.findings.warning("group-differs", group.place, message).other(first_group.place);
    }
}

fn group_of(raw: &raw::Route) -> Option<&At<String>> {
    raw.sticky.as_ref().and_then(|sticky| sticky.group.as_ref())
}

/// How long a cookie lives decides no bucket.
fn same_fallback(a: &Fallback, b: &Fallback) -> bool {
    match (a, b) {
        (Fallback::Cookie { name: a, .. }, Fallback::Cookie { name: b, .. }) => a == b,
        (a, b) => a == b,
    }
}
