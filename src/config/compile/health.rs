//! How a pool's targets are asked whether they are well.

use super::Checker;
use crate::config::model::{CheckKind, HealthCheck, HttpCheck};
use crate::config::raw::health::Health;
use crate::config::shown_duration;
use crate::config::source::At;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method};
use std::ops::RangeInclusive;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(1);
const UNHEALTHY_AFTER: u32 = 3;
const HEALTHY_AFTER: u32 = 2;
/// What a target answers with when it is well, unless `expect` says another.
const WELL: RangeInclusive<u16> = 200..=399;

impl Checker<'_> {
    pub fn health(&mut self, raw: &Health) -> Option<HealthCheck> {
        let kind = raw.kind.as_ref().map_or("http", |kind| kind.value.as_str());
        let used: &[&str] = match kind {
            "tcp" => &[],
            "grpc" => &["host", "service"],
            _ => &["path", "host", "method", "expect", "body"],
        };
        let sound = self.only_used(raw, kind, used);
        let host = match &raw.host {
            Some(host) => self.checked_host(raw, host).map(Some),
            None => Some(None),
        };
        let what = match kind {
            "tcp" => Some(CheckKind::Tcp),
            "grpc" => {
                let service = raw.service.as_ref().map(|service| service.value.clone());
                host.map(|host| CheckKind::Grpc { service: service.unwrap_or_default(), host })
            }
            _ => self.http_check(raw, host),
        };
        let after = |value: &Option<At<Duration>>, default| value.as_ref().map_or(default, |time| time.value);
        let times = |value: &Option<At<u64>>, default| {
            value.as_ref().and_then(|times| u32::try_from(times.value).ok()).unwrap_or(default)
        };
        let interval = after(&raw.interval, INTERVAL);
        if let Some(timeout) = raw.timeout.as_ref().filter(|timeout| timeout.value > interval) {
            let (written, most) = (shown_duration(timeout.value), shown_duration(interval));
            let message = format!("`{}.timeout` is {written}, more than the interval of {most}", raw.table);
            let help = "a check must be over when the next one is due: lower `timeout` or raise `interval`";
            self.findings.error("bad-health", timeout.place, message).help(help);
        }
        let check = HealthCheck {
            kind: what?,
            interval,
            timeout: after(&raw.timeout, TIMEOUT.min(interval)),
            unhealthy_after: times(&raw.unhealthy_after, UNHEALTHY_AFTER),
            healthy_after: times(&raw.healthy_after, HEALTHY_AFTER),
        };
        sound.then_some(check)
    }

    /// Keys that say something to another kind of check.
    fn only_used(&mut self, raw: &Health, kind: &str, used: &[&str]) -> bool {
        let written = [
            ("path", raw.path.as_ref().map(|value| value.place)),
            ("host", raw.host.as_ref().map(|value| value.place)),
            ("method", raw.method.as_ref().map(|value| value.place)),
            ("expect", raw.expect.as_ref().map(|value| value.place)),
            ("body", raw.body.as_ref().map(|value| value.place)),
            ("service", raw.service.as_ref().map(|value| value.place)),
        ];
        let mut sound = true;
        for (key, place) in written {
            if let Some(place) = place
                && !used.contains(&key)
            {
                let message = format!("`{}.{key}` says nothing to a check of kind \"{kind}\"", raw.table);
                self.findings.error("bad-health", place, message).help("leave it out, or change `kind`");
                sound = false;
            }
        }
        sound
    }

    fn http_check(&mut self, raw: &Health, host: Option<Option<String>>) -> Option<CheckKind> {
        let path = raw.path.as_ref().and_then(|path| self.checked_path(raw, path));
        let method = match &raw.method {
            Some(method) => self.checked_method(raw, method),
            None => Some(Method::GET),
        };
        let expect = match &raw.expect {
            Some(expect) => self.statuses(raw, expect),
            None => Some(vec![WELL]),
        };
        let mut body = raw.body.as_ref();
        if let Some(empty) = body.filter(|body| body.value.is_empty()) {
            let message = format!("`{}.body` is empty", raw.table);
            let help = "write a text that the answer has when the target is well, or leave it out";
            self.findings.error("bad-health", empty.place, message).help(help);
            body = None;
        }
        if let (Some(body), Some(head)) = (body, method.as_ref().filter(|method| *method == Method::HEAD)) {
            let message = format!("`{}.body` waits for a text, and the answer to {head} has none", raw.table);
            self.findings.error("bad-health", body.place, message).help("use method = \"GET\"");
        }
        let body = body.map(|body| body.value.clone());
        Some(CheckKind::Http(HttpCheck { path: path?, host: host?, method: method?, expect: expect?, body }))
    }

    fn checked_path(&mut self, raw: &Health, path: &At<String>) -> Option<String> {
        let sound = path.value.starts_with('/') && path.value.parse::<PathAndQuery>().is_ok();
        if sound && !path.value.contains('#') {
            return Some(path.value.clone());
        }
        let message = format!("`{}.path` is {}, which is no path", raw.table, path.shown());
        let help = "a path begins with a slash and may have a query: path = \"/healthz?deep=1\"";
        self.findings.error("bad-health", path.place, message).help(help);
        None
    }

    fn checked_host(&mut self, raw: &Health, host: &At<String>) -> Option<String> {
        let sound = host.value.parse::<Authority>().is_ok_and(|host| !host.as_str().contains('@'));
        if sound && HeaderValue::from_str(&host.value).is_ok() {
            return Some(host.value.clone());
        }
        let message = format!("`{}.host` is {}, which is no host", raw.table, host.shown());
        self.findings.error("bad-health", host.place, message).help("for example host = \"shop.internal\"");
        None
    }

    fn checked_method(&mut self, raw: &Health, method: &At<String>) -> Option<Method> {
        // CONNECT asks for a tunnel.
        let parsed = method.value.parse::<Method>().ok().filter(|method| *method != Method::CONNECT);
        if parsed.is_none() {
            let message = format!("`{}.method` is {}, which no check can use", raw.table, method.shown());
            self.findings.error("bad-health", method.place, message).help("for example method = \"HEAD\"");
        }
        parsed
    }

    fn statuses(&mut self, raw: &Health, expect: &At<Vec<At<String>>>) -> Option<Vec<RangeInclusive<u16>>> {
        let mut found = Vec::new();
        if expect.value.is_empty() {
            let message = format!("`{}.expect` is empty: no answer would do", raw.table);
            self.findings.error("bad-health", expect.place, message).help("for example expect = \"2xx\"");
            return None;
        }
        for written in &expect.value {
            match statuses(&written.value) {
                Some(range) => found.push(range),
                None => {
                    let message = format!("`{}.expect` has {}, which is no status", raw.table, written.shown());
                    let help = "write 200, \"2xx\", \"200-299\", or several: [\"200\", \"3xx\"]";
                    self.findings.error("bad-health", written.place, message).help(help);
                }
            }
        }
        (found.len() == expect.value.len()).then_some(found)
    }
}

/// `200`, `2xx` or `200-399`.
fn statuses(text: &str) -> Option<RangeInclusive<u16>> {
    let status = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|status| digits && (100..=599).contains(status))
    };
    if let Some(class) = text.strip_suffix("xx") {
        let class = class.parse::<u16>().ok().filter(|class| (1..=5).contains(class) && text.len() == 3)?;
        return Some(class * 100..=class * 100 + 99);
    }
    match text.split_once('-') {
        Some((from, to)) => {
            let (from, to) = (status(from)?, status(to)?);
            (from <= to).then_some(from..=to)
        }
        None => status(text).map(|status| status..=status),
    }
}
