//! Rules: conditions, and what they lead to.

use super::Checker;
use super::routes::Names;
use crate::config::raw;
use crate::config::source::{At, listed};
use crate::limits::{ALL_REGEX_BYTES, REGEX_BYTES};
use crate::routing::list::ValueList;
use crate::routing::networks::Networks;
use crate::routing::pattern::{self, Pattern};
use crate::routing::rule::{Condition, Outcome, Rule, Subject, Test};
use crate::routing::split::Assignment;
use std::sync::Arc;

/// The longest rule name, in bytes. Unlike other names it is free text: it is only ever shown.
const RULE_NAME_BYTES: usize = 100;
/// An `in` with more values than these is looked up by hash.
const FEW_VALUES: usize = 16;
/// The size that a regular expression is tried with first, then twice that, up to [`REGEX_BYTES`]: what it fits in is
/// what it counts as.
const LEAST_REGEX_BYTES: usize = 4 * 1024;

impl Checker<'_> {
    pub fn rules(&mut self, raw: &[raw::Rule], names: &Names<'_>) -> Option<Vec<Rule>> {
        self.unique(&format!("rule in {}:", names.route), raw.iter().filter_map(|rule| rule.name.as_ref()));
        let rules: Vec<_> = raw.iter().map(|rule| self.rule(rule, names)).collect();
        rules.into_iter().collect()
    }

    fn rule(&mut self, raw: &raw::Rule, names: &Names<'_>) -> Option<Rule> {
        if let Some(name) = &raw.name {
            self.rule_name(name);
        }
        let when = raw.when.as_ref().and_then(|when| self.condition(when));
        let then = self.outcome(raw, names);
        Some(Rule { name: raw.name.as_ref()?.value.clone(), when: when?, then: then? })
    }

    fn rule_name(&mut self, name: &At<String>) {
        let text = &name.value;
        if text.trim().is_empty() || text.len() > RULE_NAME_BYTES || text.chars().any(char::is_control) {
            let message = format!("{} is not a name for a rule", name.shown());
            let finding = self.findings.error("bad-name", name.place, message);
            finding.help(format!("rule names have 1 to {RULE_NAME_BYTES} bytes and no control characters"));
        }
    }

    fn outcome(&mut self, raw: &raw::Rule, names: &Names<'_>) -> Option<Outcome> {
        match (&raw.variant, &raw.weights) {
            (Some(variant), Some(weights)) => {
                let message = format!("{} has both `variant` and `weights`", raw.path);
                let finding = self.findings.error("bad-rule", weights.place, message);
                finding.other(variant.place).help("a rule forces one variant, or splits by weights");
                None
            }
            (Some(variant), None) => self.variant(variant, names).map(Outcome::Variant),
            (None, Some(weights)) => {
                let place = weights.place;
                let weights = self.weights(weights, names)?;
                match Assignment::starting(&weights) {
                    Ok(assignment) => Some(Outcome::Split(assignment)),
                    Err(error) => {
                        self.findings.error("bad-weights", place, error.to_string());
                        None
                    }
                }
            }
            (None, None) => {
                if !raw.has_outcome {
                    let message = format!("{} leads nowhere: it has neither `variant` nor `weights`", raw.path);
                    let help = format!("write variant = \"{}\"", names.variants.last().unwrap_or(&"NAME"));
                    self.findings.error("bad-rule", raw.place, message).help(help);
                }
                None
            }
        }
    }

    pub fn condition(&mut self, raw: &raw::When) -> Option<Condition> {
        let subject = match raw.subjects.as_slice() {
            [subject] => *subject,
            [] => {
                let help =
                    "write { header = \"x-canary\", equals = \"always\" }; or cookie, query, ip, method, all, any, not";
                let message = format!("{} does not say where to look", raw.path);
                self.findings.error("bad-condition", raw.place, message).help(help);
                return None;
            }
            several => {
                let message = format!("{} has {} in one condition", raw.path, listed(several));
                let help = "put each in a condition of its own: { all = [{ … }, { … }] }";
                self.findings.error("bad-condition", raw.place, message).help(help);
                return None;
            }
        };
        if let "all" | "any" | "not" | "method" | "ip" = subject {
            if !raw.tests.is_empty() {
                let message = format!("{} stands beside `{subject}`, which takes no further test", listed(&raw.tests));
                self.findings.error("bad-condition", raw.place, message);
            }
            return self.compound(subject, raw);
        }
        let test = self.test(raw, subject);
        let subject = match subject {
            "header" => {
                let name = self.header_name(raw.header.as_ref()?)?;
                self.filled.held_as(raw.header.as_ref()?, name.as_str());
                Some(Subject::Header(name))
            }
            "cookie" => self.cookie_name(raw.cookie.as_ref()?).map(Subject::Cookie),
            _ => self.query_name(raw.query.as_ref()?).map(Subject::Query),
        };
        Some(Condition::Is(subject?, test?))
    }

    fn compound(&mut self, subject: &str, raw: &raw::When) -> Option<Condition> {
        match subject {
            "all" => self.conditions(raw.all.as_ref()?, "all").map(Condition::All),
            "any" => self.conditions(raw.any.as_ref()?, "any").map(Condition::Any),
            "not" => Some(Condition::Not(Box::new(self.condition(raw.not.as_ref()?)?))),
            "ip" => self.networks(raw.networks.as_ref()?),
            _ => self.methods(raw.methods.as_ref()?),
        }
    }

    fn conditions(&mut self, raw: &At<Vec<raw::When>>, key: &str) -> Option<Vec<Condition>> {
        if raw.value.is_empty() {
            self.findings.error("bad-condition", raw.place, format!("`{key}` lists no condition"));
            return None;
        }
        let conditions: Vec<_> = raw.value.iter().map(|one| self.condition(one)).collect();
        conditions.into_iter().collect()
    }

    fn methods(&mut self, raw: &At<Vec<At<String>>>) -> Option<Condition> {
        let mut names: Vec<String> = self.method_list(raw)?.iter().map(|method| method.as_str().to_owned()).collect();
        let test = if names.len() == 1 { Test::Equals(names.swap_remove(0)) } else { Test::In(names) };
        Some(Condition::Is(Subject::Method, test))
    }

    pub fn method_list(&mut self, raw: &At<Vec<At<String>>>) -> Option<Vec<http::Method>> {
        if raw.value.is_empty() {
            self.findings.error("bad-condition", raw.place, "`method` lists no method");
            return None;
        }
        raw.value.iter().map(|method| self.method(method)).collect()
    }

    fn method(&mut self, written: &At<String>) -> Option<http::Method> {
        let name = &written.value;
        let method = http::Method::from_bytes(name.as_bytes()).ok();
        if method.is_some() && !name.bytes().any(|b| b.is_ascii_lowercase()) {
            return method;
        }
        let message = format!("{} is not an HTTP method", written.shown());
        let finding = self.findings.error("bad-condition", written.place, message);
        if method.is_some() && !written.is_filled() {
            finding.help(format!("methods are in upper case: \"{}\"", name.to_ascii_uppercase()));
        }
        None
    }

    fn networks(&mut self, raw: &At<Vec<At<String>>>) -> Option<Condition> {
        if raw.value.is_empty() {
            self.findings.error("bad-condition", raw.place, "`ip` lists no network");
            return None;
        }
        let networks: Vec<_> = raw.value.iter().map(|written| self.whole_network(written)).collect();
        Some(Condition::Ip(Networks::new(networks.into_iter().collect::<Option<_>>()?)))
    }

    /// A network without host bits: who writes `10.0.0.1/8` means one address or all, and only they know which.
    fn whole_network(&mut self, written: &At<String>) -> Option<ipnet::IpNet> {
        let network = self.network(written)?;
        if network.addr() == network.network() {
            return Some(network);
        }
        let message = format!("{} is an address within a network, not a network", written.shown());
        let help = format!("write \"{}\", or \"{}\" for the address alone", network.trunc(), network.addr());
        self.findings.error("bad-address", written.place, message).help(help);
        None
    }

    fn test(&mut self, raw: &raw::When, subject: &str) -> Option<Test> {
        match raw.tests.as_slice() {
            ["equals"] => Some(Test::Equals(raw.equals.as_ref()?.value.clone())),
            ["in"] => {
                let list = raw.is_in.as_ref()?;
                if list.value.is_empty() {
                    self.findings.error("bad-condition", list.place, "`in` lists no value");
                }
                if list.value.len() > FEW_VALUES {
                    let values = ValueList::of(list.value.iter().map(|one| one.value.as_bytes()));
                    return Some(Test::InList(Arc::new(values)));
                }
                Some(Test::In(list.value.iter().map(|one| one.value.clone()).collect()))
            }
            ["in_file"] => self.list(raw.in_file.as_ref()?).map(Test::InFile),
            ["prefix"] => Some(Test::Prefix(raw.prefix.as_ref()?.value.clone())),
            ["suffix"] => Some(Test::Suffix(raw.suffix.as_ref()?.value.clone())),
            ["regex"] => self.regex(raw.regex.as_ref()?).map(Test::Regex),
            ["present"] => Some(Test::Present(raw.present.as_ref()?.value)),
            [] => {
                let message = format!("{} does not say what `{subject}` is to be", raw.path);
                let help = "write one of equals, in, in_file, prefix, suffix, regex, present = true";
                self.findings.error("bad-condition", raw.place, message).help(help);
                None
            }
            several => {
                let message = format!("{} has {} in one condition", raw.path, listed(several));
                let help = "put each in a condition of its own: { all = [{ … }, { … }] }";
                self.findings.error("bad-condition", raw.place, message).help(help);
                None
            }
        }
    }

    fn regex(&mut self, written: &At<String>) -> Option<Pattern> {
        self.pattern(written, false)
    }

    /// Counted against what all of a configuration may take, by the size that it fits in.
    pub fn pattern(&mut self, written: &At<String>, caseless: bool) -> Option<Pattern> {
        let mut size = LEAST_REGEX_BYTES;
        let mut tried = Pattern::sized(&written.value, caseless, size);
        while matches!(tried, Err(regex::Error::CompiledTooBig(_))) && size < REGEX_BYTES {
            size *= 2;
            tried = Pattern::sized(&written.value, caseless, size);
        }
        self.regex_bytes += size;
        let pattern = written.shown();
        let (message, help) = match tried {
            Ok(regex) if self.regex_bytes <= ALL_REGEX_BYTES => return Some(regex),
            // Said once.
            Ok(_) if self.regex_bytes - REGEX_BYTES > ALL_REGEX_BYTES => return None,
            Ok(_) => {
                self.regex_bytes += REGEX_BYTES;
                let all = "all regular expressions up to this one are larger than";
                (
                    format!("{all} {ALL_REGEX_BYTES} bytes when compiled"),
                    "use `equals`, `prefix`, `suffix` or `in_file` where they do",
                )
            }
            Err(regex::Error::CompiledTooBig(_)) => (
                format!("{pattern} is larger than {REGEX_BYTES} bytes when compiled"),
                "repeat less, or use ASCII classes such as [0-9] and (?-u:\\w), which are much smaller than \\d and \\w",
            ),
            Err(error) => {
                let mut message = format!("{pattern} is not a regular expression");
                // The reason may quote the pattern.
                if !written.is_filled() {
                    message.push_str(&format!(": {}", pattern::reason(&error)));
                }
                (message, "")
            }
        };
        let finding = self.findings.error("bad-regex", written.place, message);
        if !help.is_empty() {
            finding.help(help);
        }
        None
    }

    pub fn header_name(&mut self, name: &At<String>) -> Option<http::HeaderName> {
        let parsed = http::HeaderName::from_bytes(name.value.as_bytes()).ok();
        if parsed.is_none() {
            self.not_a_name("header", name);
        }
        parsed
    }

    pub fn cookie_name(&mut self, name: &At<String>) -> Option<String> {
        // RFC 6265: a cookie's name is a token, as is a header's.
        if http::HeaderName::from_bytes(name.value.as_bytes()).is_err() {
            self.not_a_name("cookie", name);
            return None;
        }
        Some(name.value.clone())
    }

    pub fn query_name(&mut self, name: &At<String>) -> Option<String> {
        let breaks = |c: char| matches!(c, '&' | '=' | '#' | ' ') || c.is_control();
        if name.value.is_empty() || name.value.contains(breaks) {
            self.not_a_name("query parameter", name);
            return None;
        }
        Some(name.value.clone())
    }

    fn not_a_name(&mut self, what: &str, name: &At<String>) {
        let message = format!("{} cannot be the name of a {what}", name.shown());
        self.findings.error("bad-name", name.place, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::findings::Findings;
    use crate::config::provenance::Filled;
    use crate::config::source::Place;
    use crate::config::source::Sources;

    #[test]
    fn all_regular_expressions_together_are_bounded() {
        let (sources, mut findings, mut filled) = (Sources::default(), Findings::default(), Filled::default());
        let regex_bytes = ALL_REGEX_BYTES - 2 * LEAST_REGEX_BYTES;
        let mut check = Checker { regex_bytes, ..Checker::new(&sources, &mut findings, &mut filled) };
        let mut compiles = |pattern: &str| {
            let written = At::new(pattern.to_owned(), Place { file: 0, start: 0, end: 0 });
            let compiled = check.regex(&written).is_some();
            (compiled, check.findings.len())
        };
        assert_eq!(compiles("0$"), (true, 0));
        assert_eq!(compiles("("), (false, 1), "its own error");
        assert_eq!(compiles("0$"), (false, 2));
        assert_eq!(compiles("1$"), (false, 2), "said once");
    }
}
