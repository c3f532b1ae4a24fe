//! What variables and files stand for is used and never said.

use super::*;
use toml::de::{DeTable, DeValue};

/// What a file might hold that is none of the reader's business, in shapes that different checks take apart.
const SECRETS: [&str; 10] = [
    "s3cret",
    "s3cret value",
    "localhost:s3cret",
    "https://s3cret/x",
    "header: s3cret ?",
    "*.s3cret.*",
    "/s3cret?",
    "(s3cret",
    "s3cret\nunix:s3cret",
    "sha256:s3cret",
];

const AT_ONCE: usize = 6;

/// What routes may have beside what the contract shows.
const FILTERS: &str = r#"
[[route]]
name = "rewritten"
match = { host_regex = "^a$", path = "/old", method = ["GET"], query = { q = "1" } }
variants = { stable = "shop-v1" }
rewrite = { prefix = "/new", host = "internal.example:81" }
request_headers = { set = { x-a = "1" }, remove = ["x-b"] }
mirror = { pool = "shop-v2", percent = 1, max_body = "1KiB", timeout = "1s" }
[[route]]
name = "whole"
match = { path_regex = "^/whole$", header = [{ name = "x-a", suffix = "b" }] }
variants = { stable = "shop-v1" }
rewrite = { path = "/x" }
[[route]]
name = "moved"
match = { host = "old.example", path_exact = "/" }
redirect = { scheme = "https", host = "new.example", path = "/y" }
[[route]]
name = "closed"
match = { host = "closed.example" }
respond = { status = 503, body = "closed", content_type = "text/plain", retry_after = "30m" }
[[route]]
name = "closed too"
match = { host = "closed.test" }
respond = { status = 503, file = "closed.html" }
"#;

/// The places of all string values, with their quotes.
fn strings(value: &toml::Spanned<DeValue<'_>>, places: &mut Vec<std::ops::Range<usize>>) {
    match value.get_ref() {
        DeValue::String(_) => places.push(value.span()),
        DeValue::Array(items) => items.iter().for_each(|item| strings(item, places)),
        DeValue::Table(table) => table.values().for_each(|value| strings(value, places)),
        _ => {}
    }
}

#[test]
fn no_finding_says_what_was_filled_in() {
    let contract = &format!("{}{FILTERS}", include_str!("../../../tests/data/contract.toml"));
    let mut places = Vec::new();
    for value in DeTable::parse(contract).unwrap().into_inner().values() {
        strings(value, &mut places);
    }
    assert!(places.len() > 100, "{}", places.len());
    let folder = Folder::new();
    places.sort_by_key(|place| std::cmp::Reverse(place.start));
    for secret in SECRETS {
        folder.write("secret", secret);
        // Few at a time and far apart, so that no finding hides another; one by one takes too long.
        for first in 0..places.len() / AT_ONCE {
            let mut text = contract.clone();
            for place in places.iter().skip(first).step_by(places.len() / AT_ONCE) {
                text.replace_range(place.clone(), "\"${file:secret}\"");
            }
            let loaded = folder.check(&text);
            let said = format!("{}{}", loaded.report.to_json(), loaded.report.render(false)).to_lowercase();
            assert!(!said.contains("s3cret"), "{secret:?} in\n{text}\n{said}");
        }
    }
}

#[test]
fn findings_name_the_text_as_it_is_written() {
    let folder = Folder::new();
    folder.write("secret", "s3cret");
    let said = |lines: &str| {
        let loaded = folder.check(format!("{BASE}{lines}"));
        let found: Vec<_> = loaded.report.errors().map(|one| one.message.clone()).collect();
        found.join("\n")
    };
    let route = |name: &str| format!("[[route]]\nname = \"{name}\"\nvariants = {{ a = \"a\", b = \"b\" }}\n");
    let sum = format!("{}weights = {{ a = 1, b = 1 }}\n", route("${file:secret}"));
    assert_eq!(said(&sum), "the weights of route.${file:secret} sum to 2 instead of 100");
    let unknown = format!("{}active = \"${{file:secret}}\"\n", route("r"));
    assert_eq!(said(&unknown), "there is no variant in route.r: \"${file:secret}\"");
    let path = format!("{}active = \"a\"\nmatch = {{ path = \"${{file:secret}}\" }}\n", route("r"));
    assert_eq!(said(&path), "\"${file:secret}\" cannot be the `path` of a route");
}

#[test]
fn what_is_filled_in_is_bounded_in_all() {
    let folder = Folder::new();
    folder.write("big", "x".repeat(1024 * 1024));
    let targets = vec!["\"${file:big}\""; 20].join(", ");
    let loaded = folder.check(format!("[pool.a]\ntargets = [{targets}]\n"));
    let bounded = loaded.report.errors().filter(|one| one.message.contains("16777216 bytes in all"));
    assert_eq!(bounded.count(), 4);
}
