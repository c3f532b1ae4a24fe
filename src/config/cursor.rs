//! Takes typed values out of a TOML table by key. What has another type is reported where it stands; so is, when
//! the cursor is finished, every key that nobody took.

pub mod templates;

use super::findings::Findings;
use super::interpolate::interpolate;
use super::provenance::{FILLED_BYTES, Filled};
use super::source::{At, Place, Source, floor_boundary, listed};
use super::units;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The most unknown keys reported of one table.
const UNKNOWN_KEYS: usize = 50;

/// What reading one file needs beside its tree.
pub struct Context<'a> {
    pub file: usize,
    pub source: &'a Source,
    pub folder: &'a Path,
    pub env: &'a dyn Fn(&str) -> Option<String>,
    pub findings: &'a mut Findings,
    pub filled: &'a mut Filled,
}

impl Context<'_> {
    pub fn place(&self, span: Range<usize>) -> Place {
        Place { file: self.file, start: span.start, end: span.end }
    }
    fn wrong_type(&mut self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let place = self.place(value.span());
        let found = with_article(value.get_ref().type_str());
        self.findings.error("wrong-type", place, format!("`{key}` is {found}, expected {expected}"));
    }
    pub fn not_built(&mut self, place: Place, key: impl std::fmt::Display) {
        self.findings.error("not-built", place, format!("not built yet: {key}"));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Bytes(u64),
    Unlimited,
}

/// A key that the operator chose, and its value; None: of a wrong type, reported already.
pub type Named<T> = (At<String>, Option<At<T>>);

pub struct Cursor<'t> {
    entries: &'t DeTable<'t>,
    pub place: Place,
    /// As the operator would write it: `pool.shop-v1`; empty at the top.
    pub path: String,
    known: Vec<&'static str>,
}

impl<'t> Cursor<'t> {
    pub fn new(entries: &'t DeTable<'t>, place: Place, path: String) -> Cursor<'t> {
        Cursor { entries, place, path, known: Vec::new() }
    }

    /// The path of a key in this table.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Where the key stands, if it does.
    pub fn key_place(&self, cx: &Context<'_>, key: &str) -> Option<Place> {
        self.entries.get_key_value(key).map(|(key, _)| cx.place(key.span()))
    }

    fn take(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known.push(key);
        self.entries.get(key)
    }

    /// A key that the table must have: its absence is an error at the table.
    pub fn require(&self, cx: &mut Context<'_>, key: &'static str, example: &str) {
        if !self.has(key) {
            let owner = if self.path.is_empty() { "the file" } else { &self.path };
            let message = format!("{owner} has no `{key}`");
            cx.findings.error("missing-key", self.place, message).help(format!("write {key} = {example}"));
        }
    }

    /// Known keys whose feature is not there.
    pub fn not_built(&mut self, cx: &mut Context<'_>, keys: &[&'static str]) {
        for key in keys {
            if self.take(key).is_some()
                && let Some(place) = self.key_place(cx, key)
            {
                cx.not_built(place, self.path_of(key));
            }
        }
    }

    pub fn string(&mut self, cx: &mut Context<'_>, key: &'static str) -> Option<At<String>> {
        let value = self.take(key)?;
        text(cx, value, &self.path_of(key), "a string")
    }

    pub fn strings(&mut self, cx: &mut Context<'_>, key: &'static str) -> Option<At<Vec<At<String>>>> {
        let value = self.take(key)?;
        let path = self.path_of(key);
        let Some(items) = value.get_ref().as_array() else {
            let expected = "a list of strings, e.g. [\"…\", \"…\"]";
            cx.wrong_type(&path, value, expected);
            return None;
        };
        let strings = items.iter().filter_map(|item| text(cx, item, &path, "a list of strings")).collect();
        Some(At::new(strings, cx.place(value.span())))
    }

    /// A string, or a list of strings.
    pub fn one_or_more(&mut self, cx: &mut Context<'_>, key: &'static str) -> Option<At<Vec<At<String>>>> {
        if self.is_list(key) {
            return self.strings(cx, key);
        }
        self.string(cx, key).map(|one| At::new(vec![one.clone()], one.place))
    }

    pub fn boolean(&mut self, cx: &mut Context<'_>, key: &'static str) -> Option<At<bool>> {
        let value = self.take(key)?;
        let place = cx.place(value.span());
        match value.get_ref().as_bool() {
            Some(flag) => Some(At::new(flag, place)),
            None => {
                cx.wrong_type(&self.path_of(key), value, "true or false");
                None
            }
        }
    }

    /// A whole number within `range`; also as a string, so that it can come from a variable.
    pub fn integer(&mut self, cx: &mut Context<'_>, key: &'static str, range: RangeInclusive<u64>) -> Option<At<u64>> {
        let value = self.take(key)?;
        let path = self.path_of(key);
        let number = whole_number(cx, value, &path, None, range)?;
        number.value.map(|value| At::new(value, number.place))
    }

    /// As [`Cursor::integer`], or one word, which gives None inside.
    pub fn integer_or(
        &mut self,
        cx: &mut Context<'_>,
        key: &'static str,
        word: &str,
        range: RangeInclusive<u64>,
    ) -> Option<At<Option<u64>>> {
        let value = self.take(key)?;
        let path = self.path_of(key);
        whole_number(cx, value, &path, Some(word), range)
    }

    /// An integer or a fraction.
    pub fn number(&mut self, cx: &mut Context<'_>, key: &'static str) -> Option<At<f64>> {
        let value = self.take(key)?;
        number(cx, value, &self.path_of(key))
    }

    /// A duration within `range`.
    pub fn duration(
        &mut self,
        cx: &mut Context<'_>,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<At<Duration>> {
        let value = self.take(key)?;
        let path = self.path_of(key);
        let written = text(cx, value, &path, "a duration such as \"30s\"")?;
        match units::duration(&written.value) {
            Ok(duration) if range.contains(&duration) => Some(At::new(duration, written.place)),
            Ok(_) => {
                let (least, most) = (units::shown_duration(*range.start()), units::shown_duration(*range.end()));
                let message = format!("`{path}` is not from {least} to {most}");
                let finding = cx.findings.error("out-of-range", written.place, message);
                if written.value.starts_with('0') {
                    finding.help("zero does not mean \"unlimited\"");
                }
                None
            }
            Err(help) => {
                let message = format!("{} is not a duration", written.shown());
                cx.findings.error("bad-duration", written.place, message).help(help);
                None
            }
        }
    }

    pub fn size(&mut self, cx: &mut Context<'_>, key: &'static str) -> Option<At<Size>> {
        let value = self.take(key)?;
        let path = self.path_of(key);
        let place = cx.place(value.span());
        if let DeValue::Integer(number) = value.get_ref() {
            if let Ok(bytes) = u64::from_str_radix(number.as_str(), number.radix()) {
                return Some(At::new(Size::Bytes(bytes), place));
            }
            cx.findings.error("bad-size", place, format!("`{path}` is not a number of bytes"));
            return None;
        }
        let written = text(cx, value, &path, "a size such as \"64KiB\"")?;
        if written.value == "unlimited" {
            return Some(At::new(Size::Unlimited, place));
        }
        match units::size(&written.value) {
            Ok(bytes) => Some(At::new(Size::Bytes(bytes), place)),
            Err(help) => {
                cx.findings.error("bad-size", place, format!("{} is not a size", written.shown())).help(help);
                None
            }
        }
    }

    pub fn table(&mut self, cx: &mut Context<'_>, key: &'static str) -> Option<Cursor<'t>> {
        let value = self.take(key)?;
        let path = self.path_of(key);
        sub_table(cx, value, path)
    }

    /// `[[key]]`, or a list of inline tables.
    pub fn tables(&mut self, cx: &mut Context<'_>, key: &'static str) -> Option<At<Vec<Cursor<'t>>>> {
        let value = self.take(key)?;
        let path = self.path_of(key);
        let Some(items) = value.get_ref().as_array() else {
            cx.wrong_type(&path, value, &format!("a list of tables: [[{path}]]"));
            return None;
        };
        let tables = items.iter().filter_map(|item| sub_table(cx, item, path.clone())).collect();
        Some(At::new(tables, cx.place(value.span())))
    }

    /// A list whose items are strings or tables, e.g. pool targets.
    pub fn mixed(&mut self, cx: &mut Context<'_>, key: &'static str) -> Option<At<Vec<StringOrTable<'t>>>> {
        let value = self.take(key)?;
        let path = self.path_of(key);
        let Some(items) = value.get_ref().as_array() else {
            cx.wrong_type(&path, value, "a list of strings, e.g. [\"…\", \"…\"]");
            return None;
        };
        let mut found = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(_) => found.extend(sub_table(cx, item, path.clone()).map(StringOrTable::Table)),
                _ => found.extend(text(cx, item, &path, "a list of strings").map(StringOrTable::String)),
            }
        }
        Some(At::new(found, cx.place(value.span())))
    }

    /// Whether the value is a list; tells apart the two ways to write some keys.
    pub fn is_list(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|value| value.get_ref().is_array())
    }

    pub fn is_table(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|value| value.get_ref().is_table())
    }

    pub fn is_string(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|value| value.get_ref().is_str())
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn is_empty_list(&self, key: &str) -> bool {
        let list = self.entries.get(key).and_then(|value| value.get_ref().as_array());
        list.is_some_and(|items| items.is_empty())
    }

    /// Every entry as (name, string), in the file's order.
    pub fn into_strings(self, cx: &mut Context<'_>) -> Vec<Named<String>> {
        let mut entries = Vec::new();
        for (name, value) in self.in_order(cx) {
            let path = self.path_of(&name.value);
            entries.push((name, text(cx, value, &path, "a string")));
        }
        entries
    }

    /// Every entry as (name, number), in the file's order.
    pub fn into_numbers(self, cx: &mut Context<'_>) -> Vec<Named<f64>> {
        let mut entries = Vec::new();
        for (name, value) in self.in_order(cx) {
            let path = self.path_of(&name.value);
            entries.push((name, number(cx, value, &path)));
        }
        entries
    }

    /// Every entry as (name, table), in the file's order.
    pub fn into_tables(self, cx: &mut Context<'_>) -> Vec<(At<String>, Cursor<'t>)> {
        let mut entries = Vec::new();
        for (name, value) in self.in_order(cx) {
            let path = self.path_of(&name.value);
            entries.extend(sub_table(cx, value, path).map(|cursor| (name, cursor)));
        }
        entries
    }

    /// Every entry as (name, string or table), in the file's order.
    pub fn into_entries(self, cx: &mut Context<'_>) -> Vec<(At<String>, Entry<'t>)> {
        let mut entries = Vec::new();
        for (name, value) in self.in_order(cx) {
            let path = self.path_of(&name.value);
            let entry = match value.get_ref() {
                DeValue::Table(table) => Some(Entry::Table(Cursor::new(table, cx.place(value.span()), path))),
                _ => text(cx, value, &path, "a string or a table").map(Entry::String),
            };
            entries.extend(entry.map(|entry| (name, entry)));
        }
        entries
    }

    /// The tree is sorted by name; the file's order is that of the keys' places.
    fn in_order(&self, cx: &Context<'_>) -> Vec<(At<String>, &'t Spanned<DeValue<'t>>)> {
        let mut entries: Vec<_> = self
            .entries
            .iter()
            .map(|(key, value)| (At::new(key.get_ref().to_string(), cx.place(key.span())), value))
            .collect();
        entries.sort_by_key(|(key, _)| key.place);
        entries
    }

    /// Reports every key that was not taken.
    pub fn finish(self, cx: &mut Context<'_>) {
        let mut unknown = self.in_order(cx);
        unknown.retain(|(key, _)| !self.known.contains(&key.value.as_str()));
        let more = unknown.split_off(unknown.len().min(UNKNOWN_KEYS));
        if let Some((key, _)) = more.first() {
            let message = format!("{} more unknown keys are not shown", more.len());
            cx.findings.error("unknown-key", key.place, message);
        }
        for (key, _) in unknown {
            let message = match self.path.as_str() {
                "" => format!("unknown key `{}`", key.value),
                path => format!("unknown key `{}` in {path}", key.value),
            };
            let help = match nearest(&key.value, self.known.iter().copied()) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("known here: {}", listed(&self.known)),
            };
            cx.findings.error("unknown-key", key.place, message).help(help);
        }
    }
}

pub enum Entry<'t> {
    String(At<String>),
    Table(Cursor<'t>),
}

pub enum StringOrTable<'t> {
    String(At<String>),
    Table(Cursor<'t>),
}

/// The known word that was probably meant.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let most = (word.chars().count() / 3).clamp(1, 3);
    let distance = |known: &'k str| (strsim::damerau_levenshtein(&word.to_lowercase(), &known.to_lowercase()), known);
    // A word of kilobytes is nobody's slip, and comparing it is quadratic.
    let near = known.into_iter().filter(|_| word.len() <= 100).map(distance);
    near.filter(|(distance, _)| *distance <= most).min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

/// Which of the `allowed` words the value is; another one is reported.
pub fn word(findings: &mut Findings, written: &At<String>, path: &str, allowed: &[&'static str]) -> Option<usize> {
    let found = allowed.iter().position(|word| *word == written.value);
    if found.is_none() {
        let message = format!("`{path}` is {}, expected {}", written.shown(), one_of(allowed));
        let finding = findings.error("bad-value", written.place, message);
        if let Some(near) = nearest(&written.value, allowed.iter().copied()) {
            finding.help(format!("did you mean \"{near}\"?"));
        }
    }
    found
}

fn one_of(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

fn sub_table<'t>(cx: &mut Context<'_>, value: &'t Spanned<DeValue<'t>>, path: String) -> Option<Cursor<'t>> {
    match value.get_ref().as_table() {
        Some(entries) => Some(Cursor::new(entries, cx.place(value.span()), path)),
        None => {
            cx.wrong_type(&path, value, "a table");
            None
        }
    }
}

fn whole_number(
    cx: &mut Context<'_>,
    value: &Spanned<DeValue<'_>>,
    path: &str,
    word: Option<&str>,
    range: RangeInclusive<u64>,
) -> Option<At<Option<u64>>> {
    let place = cx.place(value.span());
    let written = match value.get_ref() {
        DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
        DeValue::String(_) => {
            let text = text(cx, value, path, "a whole number")?;
            if word == Some(text.value.as_str()) {
                return Some(At::new(None, place));
            }
            text.value.parse().ok()
        }
        _ => {
            cx.wrong_type(path, value, "a whole number");
            return None;
        }
    };
    if let Some(number) = written.filter(|number| range.contains(number)) {
        return Some(At::new(Some(number), place));
    }
    let or = word.map(|word| format!(", or \"{word}\"")).unwrap_or_default();
    let message = format!("`{path}` is not a whole number from {} to {}{or}", range.start(), range.end());
    cx.findings.error("out-of-range", place, message);
    None
}

fn number(cx: &mut Context<'_>, value: &Spanned<DeValue<'_>>, path: &str) -> Option<At<f64>> {
    let place = cx.place(value.span());
    let number = match value.get_ref() {
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n as f64),
        DeValue::Float(number) => number.as_str().parse().ok(),
        _ => {
            cx.wrong_type(path, value, "a number");
            return None;
        }
    };
    if number.is_none() {
        cx.findings.error("out-of-range", place, format!("`{path}` is larger than any number it could be"));
    }
    number.map(|number| At::new(number, place))
}

/// A string with its variables filled in.
fn text(cx: &mut Context<'_>, value: &Spanned<DeValue<'_>>, path: &str, expected: &str) -> Option<At<String>> {
    let place = cx.place(value.span());
    let Some(written) = value.get_ref().as_str() else {
        cx.wrong_type(path, value, expected);
        return None;
    };
    if !written.contains("${") {
        return Some(At::new(written.to_owned(), place));
    }
    match interpolate(written, cx.folder, cx.env) {
        Ok(text) if cx.filled.note(&text, written) => Some(At::filled(text, place, written)),
        Ok(_) => {
            let message = format!("what variables and files stand for is longer than {FILLED_BYTES} bytes in all");
            cx.findings.error("interpolation", place, message);
            None
        }
        Err(unfilled) => {
            for one in unfilled {
                let place = within(cx.source, place, &one.text);
                let finding = cx.findings.error("interpolation", place, one.message);
                if let Some(help) = one.help {
                    finding.help(help);
                }
            }
            None
        }
    }
}

/// Where `text` stands inside a place; the whole place if escapes hide it.
fn within(source: &Source, place: Place, text: &str) -> Place {
    let start = floor_boundary(&source.text, place.start);
    let inside = &source.text[start..floor_boundary(&source.text, place.end)];
    match inside.find(text) {
        Some(at) => Place { start: start + at, end: start + at + text.len(), ..place },
        None => place,
    }
}

fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {kind}")
}
