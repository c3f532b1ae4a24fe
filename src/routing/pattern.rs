//! Regular expressions of matches and rules, and what is certain of one before any request comes.
//!
//! The engine's time is linear in the value's length, whatever the expression; a compiled one is bounded by
//! [`REGEX_BYTES`]. Matching is unanchored, on bytes. What is said of an expression without a request serves the
//! warnings about routes that get none, so it errs on the side of silence.

use crate::limits::{REGEX_BYTES, REGEX_SEARCH_BYTES};
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, ClassBytesRange, ClassUnicodeRange, Dot, Hir, HirKind, Look};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Equal when written the same. A clone shares the compiled expression, and what the engine remembers of it.
#[derive(Clone, Debug)]
pub struct Pattern(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    regex: Regex,
    caseless: bool,
    head: String,
}

/// Why a text is no regular expression, as a fragment of a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

impl Pattern {
    pub fn new(text: &str) -> Result<Pattern, PatternError> {
        Pattern::build(text, false)
    }

    /// Minds no case and knows only ASCII, as host names do.
    pub fn caseless(text: &str) -> Result<Pattern, PatternError> {
        Pattern::build(text, true)
    }

    fn build(text: &str, caseless: bool) -> Result<Pattern, PatternError> {
        Pattern::sized(text, caseless, REGEX_BYTES).map_err(|error| PatternError(reason(&error)))
    }

    /// No larger than `size` bytes when compiled.
    pub fn sized(text: &str, caseless: bool, size: usize) -> Result<Pattern, regex::Error> {
        let mut builder = RegexBuilder::new(text);
        builder.case_insensitive(caseless).unicode(!caseless).size_limit(size).dfa_size_limit(REGEX_SEARCH_BYTES);
        let regex = builder.build()?;
        let head = if text.starts_with('^') { head(text, caseless) } else { String::new() };
        Ok(Pattern(Arc::new(Compiled { regex, caseless, head })))
    }

    pub fn is_match(&self, value: &[u8]) -> bool {
        self.0.regex.is_match(value)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        self.0.regex.as_str()
    }

    /// What every text that it takes certainly begins with: `/users/` for `^/users/[0-9]+$`.
    pub fn head(&self) -> &str {
        &self.0.head
    }

    /// A pattern that takes the same texts, and with each also every text that goes on after it: `^/v1` for
    /// `^/v1.*$`, none for `^/v1$`. Texts are UTF-8 without line breaks.
    pub fn open_ended(&self) -> Option<Pattern> {
        let parts = parts(self.as_str(), self.0.caseless)?;
        let looks_back = |look| matches!(look, Look::Start | Look::StartLF);
        let ends_open = |parts: &[Hir]| parts.iter().all(|part| part.properties().look_set().iter().all(looks_back));
        if ends_open(&parts) {
            return Some(self.clone());
        }
        let [before @ .., rest, end] = parts.as_slice() else { return None };
        let least = least_of_anything(rest).filter(|_| is_end(end) && ends_open(before))?;
        let anything = (0..least).map(|_| Hir::dot(Dot::AnyChar));
        let open = Hir::concat(before.iter().cloned().chain(anything).collect());
        // The tree prints what the flags mean in full, so they are not given again.
        Pattern::new(&open.to_string()).ok()
    }

    /// What every text that it takes certainly ends in, in lower case; texts are ASCII in lower case.
    pub fn tail(&self) -> String {
        let parts = parts(self.as_str(), self.0.caseless).unwrap_or_default();
        if !parts.last().is_some_and(is_end) {
            return String::new();
        }
        let Tail { text, .. } = tail_of_all(&parts);
        String::from_utf8(text).unwrap_or_default()
    }
}

/// The expression's tree, taken apart where one thing follows another.
fn parts(text: &str, caseless: bool) -> Option<Vec<Hir>> {
    let tree =
        ParserBuilder::new().utf8(false).unicode(!caseless).case_insensitive(caseless).build().parse(text).ok()?;
    Some(match tree.kind() {
        HirKind::Concat(parts) => parts.clone(),
        _ => vec![tree],
    })
}

fn head(text: &str, caseless: bool) -> String {
    match parts(text, caseless).unwrap_or_default().as_slice() {
        [start, next, ..] if *start.kind() == HirKind::Look(Look::Start) => match next.kind() {
            HirKind::Literal(literal) => String::from_utf8(literal.0.to_vec()).unwrap_or_default(),
            _ => String::new(),
        },
        _ => String::new(),
    }
}

fn is_end(part: &Hir) -> bool {
    *part.kind() == HirKind::Look(Look::End)
}

/// The least length of `.*`, `.+` or one of these in a group; None for all else.
fn least_of_anything(part: &Hir) -> Option<u32> {
    match part.kind() {
        HirKind::Capture(group) => least_of_anything(&group.sub),
        HirKind::Repetition(repeated) => {
            let endless = repeated.min <= 1 && repeated.max.is_none() && is_anything(&repeated.sub);
            endless.then_some(repeated.min)
        }
        _ => None,
    }
}

/// Any character, or any but a line break.
fn is_anything(part: &Hir) -> bool {
    let HirKind::Class(class) = part.kind() else { return false };
    let class = match class.clone() {
        Class::Unicode(mut class) => {
            class.push(ClassUnicodeRange::new('\n', '\n'));
            class.push(ClassUnicodeRange::new('\r', '\r'));
            Class::Unicode(class)
        }
        Class::Bytes(mut class) => {
            class.push(ClassBytesRange::new(b'\n', b'\n'));
            class.push(ClassBytesRange::new(b'\r', b'\r'));
            Class::Bytes(class)
        }
    };
    let class = Hir::class(class);
    class == Hir::dot(Dot::AnyChar) || class == Hir::dot(Dot::AnyByte)
}

/// What everything that a part takes ends in; `whole`: it takes nothing but that.
struct Tail {
    text: Vec<u8>,
    whole: bool,
}

fn tail_of_all(parts: &[Hir]) -> Tail {
    let mut all = Tail { text: Vec::new(), whole: true };
    for part in parts.iter().rev() {
        let Tail { mut text, whole } = tail(part);
        text.append(&mut all.text);
        all = Tail { text, whole };
        if !whole {
            break;
        }
    }
    all
}

fn tail(part: &Hir) -> Tail {
    let none = Tail { text: Vec::new(), whole: false };
    match part.kind() {
        HirKind::Empty | HirKind::Look(_) => Tail { whole: true, ..none },
        HirKind::Literal(literal) => Tail { text: literal.0.to_ascii_lowercase(), whole: true },
        HirKind::Class(class) => match only_character(class) {
            Some(byte) => Tail { text: vec![byte], whole: true },
            None => none,
        },
        HirKind::Capture(group) => tail(&group.sub),
        HirKind::Concat(parts) => tail_of_all(parts),
        HirKind::Alternation(branches) => common(branches.iter().map(tail)),
        HirKind::Repetition(repeated) if repeated.min > 0 => Tail { whole: false, ..tail(&repeated.sub) },
        HirKind::Repetition(_) => none,
    }
}

fn common(branches: impl Iterator<Item = Tail>) -> Tail {
    let both = |one: Tail, other: Tail| {
        let same = one.text.iter().rev().zip(other.text.iter().rev()).take_while(|(a, b)| a == b).count();
        let whole = one.whole && other.whole && one.text == other.text;
        Tail { text: one.text[one.text.len() - same..].to_vec(), whole }
    };
    branches.reduce(both).unwrap_or(Tail { text: Vec::new(), whole: false })
}

/// The one ASCII character of a class, in lower case: `e` of `[Ee]`.
fn only_character(class: &Class) -> Option<u8> {
    let mut ranges: Vec<(u32, u32)> = match class {
        Class::Unicode(class) => class.iter().map(|range| (range.start().into(), range.end().into())).collect(),
        Class::Bytes(class) => class.iter().map(|range| (range.start().into(), range.end().into())).collect(),
    };
    ranges.retain(|(first, _)| *first < 128);
    let byte = u8::try_from(ranges.first()?.0).ok()?.to_ascii_lowercase();
    let only = |(first, last): &(u32, u32)| {
        first == last && u8::try_from(*first).is_ok_and(|b| b.to_ascii_lowercase() == byte)
    };
    ranges.iter().all(only).then_some(byte)
}

/// The last line of the engine's message, which says what is wrong; the others show where.
pub fn reason(error: &regex::Error) -> String {
    let message = match error {
        regex::Error::CompiledTooBig(_) => return "it is too large when compiled".to_owned(),
        error => error.to_string(),
    };
    message.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned()
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        (self.as_str(), self.0.caseless) == (other.as_str(), other.0.caseless)
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
        self.0.caseless.hash(state);
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open(text: &str) -> Option<String> {
        Pattern::new(text).unwrap().open_ended().map(|open| open.to_string())
    }

    #[test]
    fn a_match_at_the_end_is_seen() {
        for (text, matches_v1) in [
            ("", true),
            ("^", true),
            (".*", true),
            ("^.*$", true),
            ("^/.*", true),
            ("^/(.*)$", true),
            ("^/v1/?.*$", true),
            ("/v[0-9]", true),
            ("(?i)^/V1", true),
            ("^/.+$", true),
            ("^/v1.+$", false),
            ("^/v2", false),
        ] {
            let open = Pattern::new(text).unwrap().open_ended().unwrap_or_else(|| panic!("{text}"));
            assert_eq!(open.is_match(b"/v1"), matches_v1, "{text}");
        }
        for text in ["/v1$", r"/v1\z", r"/v1\b", r"^/a\.*$", r"^/a\.+$", "^/a$|^/b.*$", "^/a[^/]*$", "^/a.{2,}$"] {
            assert_eq!(open(text), None, "{text}");
        }
    }

    #[test]
    fn tails_are_what_every_name_ends_in() {
        for (text, tail) in [
            (r"^(eu|us)\.shop\.test$", ".shop.test"),
            (r"\.shop\.test$", ".shop.test"),
            (r"^(shop\.test|api\.Shop\.TEST)$", "shop.test"),
            (r"^(a.test|b.test)$", "test"),
            (r"^[a-z]+[0-9]?\.x$", ".x"),
            (r"^x(ab)+$", "ab"),
            (r"^a?$", ""),
            (r"\.shop\.test", ""),
            (r"a$|b", ""),
            (r"", ""),
        ] {
            assert_eq!(Pattern::caseless(text).unwrap().tail(), tail, "{text}");
        }
    }

    #[test]
    fn heads_are_what_every_path_begins_with() {
        for (text, head) in [
            ("^/users/[0-9]+$", "/users/"),
            (r"^/a\.b/", "/a.b/"),
            ("^/users/?$", "/users"),
            ("^/(a|b)/", "/"),
            ("^/a|/b", ""),
            ("^(?i)/a/", "/"),
            ("(?i)^/a/", ""),
            ("/users/", ""),
            ("^/a*", "/"),
            ("^", ""),
        ] {
            assert_eq!(Pattern::new(text).unwrap().head(), head, "{text}");
        }
        assert_eq!(Pattern::caseless("^/users/").unwrap().head(), "/");
    }

    #[test]
    fn equal_is_written_the_same() {
        let of = |text| Pattern::new(text).unwrap();
        assert!(of("a") == of("a") && of("a") != of("b") && of("a") != Pattern::caseless("a").unwrap());
        assert!(Pattern::caseless("^SHOP").unwrap().is_match(b"shop") && !of("^SHOP").is_match(b"shop"));
    }

    #[test]
    fn bombs_are_refused_or_harmless() {
        assert_eq!(Pattern::new("(").unwrap_err().to_string(), "unclosed group");
        assert_eq!(Pattern::new("((a{100}){100}){100}").unwrap_err().to_string(), "it is too large when compiled");
        let (mut value, bomb) = ("a".repeat(8192), Pattern::new("(a+)+$").unwrap());
        assert!(bomb.is_match(value.as_bytes()));
        value.push('b');
        assert!(!bomb.is_match(value.as_bytes()));
        assert!(Pattern::new(r"^[\w-]{1,64}$").unwrap().is_match("müller-7".as_bytes()));
    }

    fn expressions() -> impl Strategy<Value = String> {
        let atom = prop::sample::select(vec![
            "a", "b", ".", "\\.", "[ab]", "[^a]", "^", "$", "\\b", "a+", ".*", ".+", "b?", "(?i:A)",
        ]);
        let flat = prop::collection::vec(atom, 0..5).prop_map(|atoms| atoms.concat());
        flat.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..3).prop_map(|all| format!("({})", all.join("|"))),
                (inner.clone(), inner.clone(), prop::sample::select(vec!["", "*", "+", "$", ".*$", ".+$"]))
                    .prop_map(|(one, other, end)| format!("{one}(?:{other}){end}")),
                inner.prop_map(|inner| format!("^(?:{inner})$")),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn what_is_said_of_a_pattern_holds(text in expressions(), texts in prop::collection::vec("[ab.]{0,6}", 1..20)) {
            let pattern = Pattern::caseless(&text).unwrap();
            let (open, tail) = (pattern.open_ended(), pattern.tail());
            for text in &texts {
                if pattern.is_match(text.as_bytes()) {
                    prop_assert!(text.ends_with(&tail), "{text:?} does not end in {tail:?}");
                    prop_assert!(text.starts_with(pattern.head()), "{text:?} does not begin with {}", pattern.head());
                }
                let Some(open) = &open else { continue };
                prop_assert_eq!(open.is_match(text.as_bytes()), pattern.is_match(text.as_bytes()));
                for more in &texts {
                    let goes_on = format!("{text}{more}");
                    prop_assert!(!open.is_match(text.as_bytes()) || pattern.is_match(goes_on.as_bytes()), "{goes_on:?}");
                }
            }
        }
    }
}
