//! Why a condition holds for a request or does not, in words.

use super::{Condition, Subject, Test, Values};
use crate::routing::networks;
use crate::routing::redact::Redact;
use crate::routing::table::RequestView;

/// The longest part of a value that is shown, in bytes.
const SHOWN_BYTES: usize = 80;
/// The most networks, listed values or conditions that are shown one by one.
const SHOWN_ITEMS: usize = 8;

impl Condition {
    /// One line without a full stop: `header x-canary is "never", not "always"`. Of several conditions it says what
    /// decided. Values are shown escaped and cut short, and those of the condition as `redact` has them.
    pub fn why(&self, request: &RequestView<'_>, redact: &dyn Redact) -> String {
        self.reason(&Values { request, pairs: None }, redact)
    }

    fn reason(&self, values: &Values<'_>, redact: &dyn Redact) -> String {
        match self {
            Condition::Is(subject, test) => compared(subject, test, values, redact),
            Condition::Ip(networks) => {
                let ip = values.request.client_ip.to_canonical();
                let inside = networks.contains(ip);
                let written: Vec<String> = networks.written().iter().map(|one| networks::told(one, redact)).collect();
                let which = match (written.as_slice(), inside) {
                    ([network], true) => format!("in {network}"),
                    ([network], false) => format!("not in {network}"),
                    (networks, inside) => format!("in {}", one_of(inside, networks, "networks")),
                };
                format!("the client's address {ip} is {which}")
            }
            Condition::Not(condition) => condition.reason(values, redact),
            Condition::All(all) => match all.iter().find(|condition| !condition.holds(values)) {
                Some(failed) => failed.reason(values, redact),
                None => joined(all, " and ", values, redact),
            },
            Condition::Any(any) => match any.iter().find(|condition| condition.holds(values)) {
                Some(held) => held.reason(values, redact),
                None => joined(any, ", and ", values, redact),
            },
        }
    }
}

fn joined(conditions: &[Condition], with: &str, values: &Values<'_>, redact: &dyn Redact) -> String {
    if conditions.is_empty() {
        return "there is no condition".to_owned();
    }
    let mut reasons: Vec<String> =
        conditions.iter().take(SHOWN_ITEMS).map(|condition| condition.reason(values, redact)).collect();
    if conditions.len() > SHOWN_ITEMS {
        reasons.push(format!("{} more", conditions.len() - SHOWN_ITEMS));
    }
    reasons.join(with)
}

fn compared(subject: &Subject, test: &Test, values: &Values<'_>, redact: &dyn Redact) -> String {
    let name = named(subject, redact);
    let sent = sent(subject, values);
    // Of a header's lines the one that passes, otherwise the first.
    let value = sent.iter().find(|value| test.passes(value)).or(sent.first());
    let Some(value) = value else { return format!("{name} is absent") };
    if let Test::Present(_) = test {
        return format!("{name} is present");
    }
    let holds = test.passes(value);
    let more = match sent.len() {
        lines if lines > 1 && !holds => format!(" (the first of {lines} lines)"),
        _ => String::new(),
    };
    format!("{name} is {}{more}{}", shown(value), verdict(test, holds, redact))
}

/// What follows the value: `, not "always"`.
fn verdict(test: &Test, holds: bool, redact: &dyn Redact) -> String {
    let wanted = |text: &str| shown(redact.shown(text).as_bytes());
    let not = |yes: &str, no: &str| if holds { yes.to_owned() } else { no.to_owned() };
    match test {
        Test::Present(_) => String::new(),
        Test::Equals(_) if holds => String::new(),
        Test::Equals(text) => format!(", not {}", wanted(text)),
        Test::In(texts) => {
            let texts: Vec<String> = texts.iter().map(|text| wanted(text)).collect();
            format!(", {}", one_of(holds, &texts, "values"))
        }
        Test::InList(list) => format!(", {} of {} values", not("one", "none"), list.len()),
        Test::InFile(file) => format!(", which {} {}", file.name, not("lists", "does not list")),
        Test::Prefix(text) => {
            format!(", which {} with {}", not("starts", "does not start"), wanted(text))
        }
        Test::Suffix(text) => format!(", which {} with {}", not("ends", "does not end"), wanted(text)),
        Test::Regex(regex) => {
            format!(", which {} {}", not("matches", "does not match"), wanted(regex.as_str()))
        }
    }
}

/// `one of a, b`, or `none of 200 networks`.
fn one_of(holds: bool, items: &[String], what: &str) -> String {
    let one = if holds { "one" } else { "none" };
    match items.len() {
        0..=SHOWN_ITEMS => format!("{one} of {}", items.join(", ")),
        many => format!("{one} of {many} {what}"),
    }
}

fn named(subject: &Subject, redact: &dyn Redact) -> String {
    match subject {
        Subject::Method => "the method".to_owned(),
        named => named.told(redact),
    }
}

/// All values that a test may pass by.
fn sent<'r>(subject: &Subject, values: &Values<'r>) -> Vec<&'r [u8]> {
    match subject {
        Subject::Header(name) => values.request.headers.get_all(name).iter().map(|value| value.as_bytes()).collect(),
        Subject::Cookie(name) => values.cookie(name).into_iter().collect(),
        Subject::Query(name) => values.query(name).into_iter().collect(),
        Subject::Method => vec![values.request.method.as_str().as_bytes()],
    }
}

/// Quoted; text as it is, what is no text or controls escaped.
fn shown(value: &[u8]) -> String {
    let more = if value.len() > SHOWN_BYTES { "…" } else { "" };
    match std::str::from_utf8(value) {
        Ok(text) => format!("\"{}{more}\"", text[..text.floor_char_boundary(SHOWN_BYTES)].escape_debug()),
        Err(_) => format!("\"{}{more}\"", value[..value.len().min(SHOWN_BYTES)].escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::list::ValueList;
    use crate::routing::networks::Networks;
    use crate::routing::redact::Open;
    use crate::routing::rule::FileList;
    use crate::routing::scheme::Scheme;
    use http::{HeaderMap, HeaderName, HeaderValue, Method};
    use std::sync::Arc;

    fn header(name: &'static str, test: Test) -> Condition {
        Condition::Is(Subject::Header(HeaderName::from_static(name)), test)
    }

    fn equals(name: &'static str, value: &str) -> Condition {
        header(name, Test::Equals(value.to_owned()))
    }

    fn ip(networks: &[&str]) -> Condition {
        Condition::Ip(Networks::new(networks.iter().map(|network| network.parse().unwrap()).collect()))
    }

    fn in_file(name: &str, text: &str) -> Test {
        let values = Arc::new(ValueList::new(text.into()).unwrap());
        Test::InFile(FileList { name: name.into(), list: 0, values })
    }

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-canary", &b"never"[..]),
            ("x-type", b"guest"),
            ("x-type", b"vip"),
            ("x-raw", b"\xff\t0"),
            ("cookie", b"ab_test=a"),
        ] {
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn one_condition_says_what_was_found_and_what_was_wanted() {
        let text = str::to_owned;
        let cookie = |test| Condition::Is(Subject::Cookie(text("ab_test")), test);
        let regex = |pattern| Test::Regex(crate::routing::pattern::Pattern::new(pattern).unwrap());
        let query = Condition::Is(Subject::Query(text("id")), Test::Prefix(text("u")));
        for (condition, why) in [
            (equals("x-canary", "always"), r#"header x-canary is "never", not "always""#),
            (equals("x-canary", "never"), r#"header x-canary is "never""#),
            (equals("x-none", "x"), "header x-none is absent"),
            (header("x-none", Test::Present(false)), "header x-none is absent"),
            (header("x-canary", Test::Present(false)), "header x-canary is present"),
            (equals("x-type", "vip"), r#"header x-type is "vip""#),
            (equals("x-type", "staff"), r#"header x-type is "guest" (the first of 2 lines), not "staff""#),
            (equals("x-raw", "x"), r#"header x-raw is "\xff\t0", not "x""#),
            (header("x-raw", regex("0$")), r#"header x-raw is "\xff\t0", which matches "0$""#),
            (header("x-canary", regex("0$")), r#"header x-canary is "never", which does not match "0$""#),
            (cookie(in_file("whitelist.txt", "b\n")), r#"cookie ab_test is "a", which whitelist.txt does not list"#),
            (cookie(in_file("whitelist.txt", "a\n")), r#"cookie ab_test is "a", which whitelist.txt lists"#),
            (cookie(Test::In(vec![text("b"), text("c")])), r#"cookie ab_test is "a", none of "b", "c""#),
            (cookie(Test::In(vec![text("x"); 9])), r#"cookie ab_test is "a", none of 9 values"#),
            (cookie(Test::Suffix(text("a"))), r#"cookie ab_test is "a", which ends with "a""#),
            (query, r#"query parameter id is "7", which does not start with "u""#),
            (Condition::Is(Subject::Method, Test::Equals(text("PUT"))), r#"the method is "GET", not "PUT""#),
            (ip(&["10.0.0.0/8"]), "the client's address 192.0.2.7 is not in 10.0.0.0/8"),
            (ip(&["10.0.0.0/8", "192.0.2.7/32"]), "the client's address 192.0.2.7 is in one of 10.0.0.0/8, 192.0.2.7"),
        ] {
            assert_eq!(condition.why(&request(&headers()), &Open), why);
        }
    }

    #[test]
    fn several_conditions_say_what_decided() {
        let no = |name| equals(name, "x");
        let yes = || equals("x-canary", "never");
        let not = |condition| Condition::Not(Box::new(condition));
        for (condition, why) in [
            (Condition::All(vec![yes(), no("x-a"), no("x-b")]), "header x-a is absent"),
            (Condition::All(vec![yes(), not(no("x-a"))]), r#"header x-canary is "never" and header x-a is absent"#),
            (Condition::Any(vec![no("x-a"), yes()]), r#"header x-canary is "never""#),
            (Condition::Any(vec![no("x-a"), no("x-b")]), "header x-a is absent, and header x-b is absent"),
            (not(Condition::Any(vec![no("x-a"), yes()])), r#"header x-canary is "never""#),
            (Condition::Any(vec![]), "there is no condition"),
        ] {
            assert_eq!(condition.why(&request(&headers()), &Open), why);
        }
        let many = Condition::Any(vec![no("x-a"); 100]).why(&request(&headers()), &Open);
        assert!(many.ends_with(", and 92 more") && many.len() < 400, "{many}");
    }

    #[test]
    fn long_values_are_cut() {
        let long = "ä".repeat(8_000);
        let mut headers = HeaderMap::new();
        headers.insert("x-canary", HeaderValue::from_bytes(long.as_bytes()).unwrap());
        let why = equals("x-canary", &long[2..]).why(&request(&headers), &Open);
        assert!(why.len() < 300 && why.contains('…'), "{why}");
    }

    fn request(headers: &HeaderMap) -> RequestView<'_> {
        let client_ip = [192, 0, 2, 7].into();
        RequestView {
            scheme: Scheme::Http,
            host: None,
            path: "/",
            query: Some("id=7"),
            method: &Method::GET,
            headers,
            client_ip,
        }
    }
}
