//! A route's `match` as it is written. Headers and query parameters have several forms; each of them becomes
//! conditions with one subject and the tests that stand beside it.

use super::{Match, When, tests};
use crate::config::cursor::{Context, Cursor, Entry};
use crate::config::source::At;

/// The keys that say what a value is to be.
const TESTS: [&str; 7] = ["equals", "in", "prefix", "suffix", "regex", "present", "in_file"];

/// Where the forms differ between headers and query parameters.
#[derive(Clone, Copy)]
enum Kind {
    Header,
    Query,
}

pub fn route_match(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Match {
    let [header, query] = [Kind::Header, Kind::Query].map(|kind| conditions(cx, &mut table, kind));
    let beside = When { place: table.place, path: table.path.clone(), ..tests(cx, &mut table, &TESTS) };
    let mut matches = Match {
        place: table.place,
        path_of: table.path.clone(),
        scheme: table.string(cx, "scheme"),
        host: table.string(cx, "host"),
        host_regex: table.string(cx, "host_regex"),
        path: table.string(cx, "path"),
        path_exact: table.string(cx, "path_exact"),
        path_regex: table.string(cx, "path_regex"),
        methods: table.one_or_more(cx, "method"),
        conditions: Vec::new(),
    };
    table.finish(cx);
    matches.conditions = with_tests_beside(cx, beside, [header, query]);
    matches
}

/// What stands for headers or query parameters.
enum Written {
    /// A name alone; its test may stand beside it in the `match`.
    Name(At<String>, Kind),
    /// With their tests.
    Whole(Vec<When>),
}

fn conditions(cx: &mut Context<'_>, table: &mut Cursor<'_>, kind: Kind) -> Written {
    let key = kind.key();
    if table.is_list(key) {
        let items = table.tables(cx, key).map(|items| items.value).unwrap_or_default();
        if table.is_empty_list(key) {
            kind.empty(cx, table);
        }
        return Written::Whole(items.into_iter().filter_map(|item| named(cx, item, kind)).collect());
    }
    if !table.is_table(key) {
        return match table.string(cx, key) {
            Some(name) => Written::Name(name, kind),
            // Absent, or of a wrong type and reported already.
            None => Written::Whole(Vec::new()),
        };
    }
    let Some(inner) = table.table(cx, key) else { return Written::Whole(Vec::new()) };
    if inner.is_string("name") && TESTS.iter().any(|test| inner.has(test)) {
        return Written::Whole(named(cx, inner, kind).into_iter().collect());
    }
    if inner.is_empty() {
        kind.empty(cx, table);
    }
    if matches!(kind, Kind::Header) && inner.is_string("name") {
        let message = format!("{} looks at the header called `name`", table.path);
        let help = "for another header say what it is to be: { name = \"x-canary\", present = true }";
        cx.findings.warning("odd-match", inner.place, message).help(help);
    }
    Written::Whole(by_name(cx, inner, kind))
}

/// `{ name = "x-canary", equals = "true" }`.
fn named(cx: &mut Context<'_>, mut table: Cursor<'_>, kind: Kind) -> Option<When> {
    table.require(cx, "name", "\"x-canary\"");
    let name = table.string(cx, "name");
    let when = When { place: table.place, path: table.path.clone(), ..tests(cx, &mut table, &TESTS) };
    table.finish(cx);
    Some(kind.of(name?, when))
}

/// `{ x-canary = "true", x-region = { regex = "^eu-" } }`.
fn by_name(cx: &mut Context<'_>, table: Cursor<'_>, kind: Kind) -> Vec<When> {
    let path = table.path.clone();
    let mut conditions = Vec::new();
    for (name, value) in table.into_entries(cx) {
        let path = format!("{path}.{}", name.value);
        let when = match value {
            Entry::String(text) => {
                When { place: text.place, path, equals: Some(text), tests: vec!["equals"], ..When::default() }
            }
            Entry::Table(mut table) => {
                let when = When { place: table.place, path, ..tests(cx, &mut table, &TESTS) };
                table.finish(cx);
                when
            }
        };
        conditions.push(kind.of(name, when));
    }
    conditions
}

/// Gives the tests of the `match` to the one name that stands beside them. A name alone is to be present.
fn with_tests_beside(cx: &mut Context<'_>, beside: When, written: [Written; 2]) -> Vec<When> {
    let names = written.iter().filter(|written| matches!(written, Written::Name(..))).count();
    let belongs = names == 1 && !beside.tests.is_empty();
    if !beside.tests.is_empty() && !belongs {
        let tests = super::listed(&beside.tests);
        let (message, help) = match names {
            0 => (
                format!("{tests} stands in {} without a header or query parameter to look at", beside.path),
                "write header = \"x-canary\" beside it, or header = { x-canary = \"true\" }",
            ),
            _ => (
                format!("{tests} stands beside both `header` and `query` in {}", beside.path),
                "give each its own: header = { x-canary = \"true\" }, query = { beta = { present = true } }",
            ),
        };
        cx.findings.error("bad-condition", beside.place, message).help(help);
    }
    let mut conditions = Vec::new();
    for written in written {
        match written {
            Written::Whole(whole) => conditions.extend(whole),
            Written::Name(name, kind) if belongs => conditions.push(kind.of(name, beside.clone())),
            Written::Name(name, kind) => {
                let (place, path, present) = (name.place, beside.path.clone(), Some(At::new(true, name.place)));
                let present = When { place, path, present, tests: vec!["present"], ..When::default() };
                conditions.push(kind.of(name, present));
            }
        }
    }
    conditions
}

impl Kind {
    fn key(self) -> &'static str {
        match self {
            Kind::Header => "header",
            Kind::Query => "query",
        }
    }

    fn of(self, name: At<String>, when: When) -> When {
        let subjects = vec![self.key()];
        match self {
            Kind::Header => When { header: Some(name), subjects, ..when },
            Kind::Query => When { query: Some(name), subjects, ..when },
        }
    }

    fn empty(self, cx: &mut Context<'_>, table: &Cursor<'_>) {
        let Some(place) = table.key_place(cx, self.key()) else { return };
        let message = format!("`{}` names nothing to look at", table.path_of(self.key()));
        cx.findings.error("bad-condition", place, message);
    }
}
