//! A route's `rate_limit`: how often, and what clients are told apart by.

use super::Checker;
use crate::config::raw;
use crate::routing::rate::{Rate, RateLimit};
use crate::routing::sticky::KeySource;

const MAX_KEYS: usize = 65_536;

impl Checker<'_> {
    /// The inner None: the route has no limit.
    pub(super) fn rate_limit(&mut self, raw: &raw::Route) -> Option<Option<RateLimit>> {
        let Some(written) = &raw.filters.rate_limit else { return Some(None) };
        let path = format!("{}.rate_limit", raw.path);
        let rate = written.rate.as_ref().and_then(|rate| {
            let parsed = Rate::parse(&rate.value);
            if parsed.is_none() {
                let message = format!("`{path}.rate`: {} is not a rate", rate.shown());
                let help = "write a whole number from 1 to 1,000,000 and a period, e.g. \"100/s\", \"30/m\" or \"5/h\"";
                self.findings.error("bad-rate", rate.place, message).help(help);
            }
            parsed
        });
        let keys = match &written.keys {
            None => vec![KeySource::Ip],
            Some(list) if list.value.is_empty() => {
                let message = format!("`{path}.key` names nothing to tell clients apart by");
                let help = "write key = \"ip\", or key = [\"header:x-api-key\", \"ip\"]";
                self.findings.error("bad-rate", list.place, message).help(help);
                return None;
            }
            Some(list) => {
                let keys: Vec<_> = list.value.iter().filter_map(|key| self.key(key, "bad-sticky")).collect();
                if keys.len() < list.value.len() {
                    return None;
                }
                list.value.iter().zip(&keys).for_each(|(written, key)| self.filled.held_as(written, &key.to_string()));
                if let Some(ip) = keys[..keys.len() - 1].iter().position(|key| *key == KeySource::Ip) {
                    let next = &list.value[ip + 1];
                    let message = format!("{} is never asked: every request has an `ip`", next.shown());
                    let finding = self.findings.error("bad-rate", next.place, message);
                    finding.other(list.value[ip].place).help("put \"ip\" last");
                    return None;
                }
                keys
            }
        };
        let rate = rate?;
        let burst = written.burst.as_ref().and_then(|burst| u32::try_from(burst.value).ok());
        let max_keys = written.max_keys.as_ref().and_then(|most| usize::try_from(most.value).ok());
        let burst = burst.unwrap_or_else(|| rate.of_a_second());
        Some(Some(RateLimit { keys, rate, burst, max_keys: max_keys.unwrap_or(MAX_KEYS) }))
    }
}
