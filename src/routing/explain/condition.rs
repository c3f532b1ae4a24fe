//! Why a rule's condition matches a request or does not, in a few words.

use crate::routing::rule::{Condition, Subject, Test};
use crate::routing::sticky::{cookie_value, query_value};
use crate::routing::table::RequestView;

/// Parts of a combined condition that are told.
const PARTS: usize = 3;
/// Characters of a value that are told.
const VALUE_CHARS: usize = 60;

/// States what is so, such as `header x-canary is absent`; whether that matches is not its matter.
pub fn why(condition: &Condition, request: &RequestView<'_>) -> String {
    match condition {
        Condition::Is(subject, test) => {
            let (subject, values) = (named(subject), values(subject, request));
            let passing = values.iter().find(|value| test.passes(value));
            match (values.as_slice(), test, passing) {
                ([], ..) => format!("{subject} is absent"),
                (_, Test::Present(_), _) => format!("{subject} is present"),
                (.., Some(value)) => format!("{subject} is {}", shown(value)),
                ([value], ..) => format!("{subject} is {}, not {}", shown(value), wanted(test)),
                ([..], ..) => format!("none of {subject}'s {} values is {}", values.len(), wanted(test)),
            }
        }
        Condition::Not(condition) => why(condition, request),
        Condition::All(parts) => match parts.iter().find(|part| !part.matches(request)) {
            Some(failing) => why(failing, request),
            None => joined(parts, request),
        },
        Condition::Any(parts) => match parts.iter().find(|part| part.matches(request)) {
            Some(passing) => why(passing, request),
            None => joined(parts, request),
        },
    }
}

fn joined(parts: &[Condition], request: &RequestView<'_>) -> String {
    let told = parts.iter().take(PARTS).map(|part| why(part, request)).collect::<Vec<_>>().join(" and ");
    match parts.len().saturating_sub(PARTS) {
        _ if parts.is_empty() => "there is nothing to meet".to_owned(),
        0 => told,
        more => format!("{told} and {more} more"),
    }
}

fn named(subject: &Subject) -> String {
    match subject {
        Subject::Header(name) => format!("header {name}"),
        Subject::Cookie(name) => format!("cookie {name}"),
        Subject::Query(name) => format!("query {name}"),
        Subject::Method => "the method".to_owned(),
    }
}

fn wanted(test: &Test) -> String {
    match test {
        Test::Present(_) => "what is asked".to_owned(),
        Test::Equals(text) => shown(text.as_bytes()),
        Test::In(texts) => format!("one of {} values", texts.len()),
        Test::Prefix(text) => format!("starting with {}", shown(text.as_bytes())),
        Test::Suffix(text) => format!("ending with {}", shown(text.as_bytes())),
        Test::Regex(regex) => format!("matching {}", shown(regex.as_str().as_bytes())),
    }
}

fn values<'r>(subject: &Subject, request: &RequestView<'r>) -> Vec<&'r [u8]> {
    match subject {
        Subject::Header(name) => request.headers.get_all(name).iter().map(|value| value.as_bytes()).collect(),
        Subject::Cookie(name) => cookie_value(request.headers, name).into_iter().collect(),
        Subject::Query(name) => query_value(request.query, name).into_iter().collect(),
        Subject::Method => vec![request.method.as_str().as_bytes()],
    }
}

/// In quotes, and not longer than a line.
fn shown(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    match text.char_indices().nth(VALUE_CHARS) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
