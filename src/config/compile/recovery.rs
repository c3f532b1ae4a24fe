//! A route's `retry` and `rescue`: what they are for, and how much of the traffic they may add.

use super::Checker;
use crate::config::cursor::word;
use crate::config::raw;
use crate::config::source::At;
use crate::routing::recovery::{Failures, Recovery, Rescue, Retry, Share};
use http::{HeaderName, Method};

const RETRY_ON: [&str; 5] = ["connect", "reset", "502", "503", "504"];
const RETRY_BUDGET: &str = "10%";
const RESCUE_ON: [&str; 3] = ["connect", "reset", "5xx"];
const RESCUE_BUDGET: &str = "20%";
const METHODS: [&str; 7] = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"];

impl Checker<'_> {
    /// The inner None: the route has neither.
    pub(super) fn recovery(&mut self, raw: &raw::Route) -> Option<Option<Recovery>> {
        let retry = raw.retry.as_ref().map(|retry| self.retry(retry, &format!("{}.retry", raw.path)));
        let rescue = raw.rescue.as_ref().map(|rescue| self.rescue(rescue, &format!("{}.rescue", raw.path)));
        let (retry, rescue) =
            (retry.map_or(Some(None), |one| one.map(Some)), rescue.map_or(Some(None), |one| one.map(Some)));
        let recovery = Recovery { retry: retry?, rescue: rescue? };
        Some((recovery.retry.is_some() || recovery.rescue.is_some()).then_some(recovery))
    }

    fn retry(&mut self, raw: &raw::recovery::Retry, path: &str) -> Option<Retry> {
        let on = self.failures(raw.on.as_ref(), &RETRY_ON, path);
        let methods = self.retry_methods(raw.methods.as_ref(), path);
        let budget = self.budget(raw.budget.as_ref(), RETRY_BUDGET, path);
        let attempts = raw.attempts.as_ref().map_or(1, |attempts| u32::try_from(attempts.value).unwrap_or(u32::MAX));
        let timeout = raw.timeout.as_ref().map(|timeout| timeout.value);
        Some(Retry { attempts, on: on?, methods: methods?, budget: budget?, timeout })
    }

    fn rescue(&mut self, raw: &raw::recovery::Rescue, path: &str) -> Option<Rescue> {
        let on = self.failures(raw.on.as_ref(), &RESCUE_ON, path);
        let budget = self.budget(raw.budget.as_ref(), RESCUE_BUDGET, path);
        let header = match &raw.header {
            None => Some(None),
            Some(written) => self.rescue_header(written, path).map(Some),
        };
        let forced = raw.forced.as_ref().is_none_or(|forced| forced.value);
        Some(Rescue { on: on?, budget: budget?, forced, header: header? })
    }

    fn failures(&mut self, on: Option<&At<Vec<At<String>>>>, default: &[&str], path: &str) -> Option<Failures> {
        let mut failures = Failures::default();
        let Some(on) = on else {
            let known = default.iter().all(|word| failures.add(word));
            debug_assert!(known, "a default names a failure");
            return Some(failures);
        };
        let before = self.findings.len();
        if on.value.is_empty() {
            let help = format!("write on = {default:?}");
            self.findings.error("bad-value", on.place, format!("`{path}.on` names no failure")).help(help);
        }
        for written in &on.value {
            if !failures.add(&written.value) {
                let message = format!("{} is no failure that `{path}.on` can name", written.shown());
                let help = format!("write \"{}\" or a status from \"500\" to \"599\"", Failures::WORDS.join("\", \""));
                self.findings.error("bad-value", written.place, message).help(help);
            }
        }
        (self.findings.len() == before).then_some(failures)
    }

    fn retry_methods(&mut self, methods: Option<&At<Vec<At<String>>>>, path: &str) -> Option<Vec<Method>> {
        let Some(methods) = methods else { return Some(vec![Method::GET, Method::HEAD, Method::OPTIONS]) };
        let before = self.findings.len();
        if methods.value.is_empty() {
            let message = format!("`{path}.methods` is empty");
            self.findings.error("bad-value", methods.place, message).help("leave out `retry` to repeat nothing");
        }
        let path = format!("{path}.methods");
        let known: Vec<_> =
            methods.value.iter().filter_map(|written| word(self.findings, written, &path, &METHODS)).collect();
        let methods = known.into_iter().filter_map(|at| Method::from_bytes(METHODS[at].as_bytes()).ok()).collect();
        (self.findings.len() == before).then_some(methods)
    }

    fn budget(&mut self, budget: Option<&At<String>>, default: &str, path: &str) -> Option<Share> {
        let Some(written) = budget else { return Share::parse(default) };
        let share = Share::parse(&written.value);
        if share.is_none() {
            let message = format!("`{path}.budget` is {}, not a share of traffic", written.shown());
            let help = "write a percentage above 0 and up to 100 with at most three decimals, e.g. \"10%\"";
            self.findings.error("bad-value", written.place, message).help(help);
        }
        share
    }

    fn rescue_header(&mut self, written: &At<String>, path: &str) -> Option<HeaderName> {
        match HeaderName::from_bytes(written.value.as_bytes()) {
            Ok(name) if name.as_str().starts_with("x-") => Some(name),
            _ => {
                let message = format!("`{path}.header` is {}, not a name that begins with \"x-\"", written.shown());
                self.findings.error("bad-value", written.place, message).help("write header = \"x-weir-rescued\"");
                None
            }
        }
    }
}
