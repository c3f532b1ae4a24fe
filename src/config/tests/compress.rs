//! `compress` of a route: its order, and what is said about bad ones.

use super::*;
use crate::routing::compress::Coding;

fn with(compress: &str) -> String {
    route(&format!("active = \"stable\"\ncompress = {compress}"))
}

fn codings(compress: &str) -> Vec<Coding> {
    let loaded = check(format!("{BASE}{}", with(compress)));
    assert_eq!(short(&loaded.report), Vec::<String>::new());
    let filters = loaded.config.unwrap().routes[0].filters.clone().expect("a route that compresses has filters");
    filters.compress.expect("it compresses").as_slice().to_vec()
}

#[test]
fn codings_in_the_order_of_the_file() {
    assert_eq!(codings("[\"gzip\", \"br\", \"zstd\"]"), [Coding::Gzip, Coding::Brotli, Coding::Zstd]);
    assert_eq!(codings("[\"zstd\", \"gzip\"]"), [Coding::Zstd, Coding::Gzip]);
    assert_eq!(codings("[\"br\"]"), [Coding::Brotli]);
}

#[test]
fn a_route_has_none_unless_it_says_so() {
    let loaded = check(format!("{BASE}{}", route("active = \"stable\"")));
    assert!(loaded.config.unwrap().routes[0].filters.is_none());
}

#[test]
fn a_fixed_answer_can_be_compressed() {
    let lines = "[[route]]\nname = \"r\"\nmatch = { path = \"/\" }\nrespond = { status = 200, body = \"hello\" }\n\
                 compress = [\"gzip\"]\n[[route]]\nname = \"s\"\nmatch = { path = \"/s\" }\n\
                 variants = { a = \"a\", b = \"b\" }\nactive = \"a\"\n";
    let loaded = check(format!("{BASE}{lines}"));
    assert_eq!(short(&loaded.report), Vec::<String>::new());
    let filters = loaded.config.unwrap().routes[0].filters.clone().unwrap();
    assert!(filters.compress.is_some() && filters.answer.is_some());
}

/// The list, the one finding, its message, its help.
const WRONG: &[(&str, &str, &str, &str)] = &[
    (
        "\"gzip\"",
        "wrong-type 5:12 \"gzip\"",
        "`route.r.compress` is a string, expected a list of strings, e.g. [\"…\", \"…\"]",
        "",
    ),
    ("[]", "bad-compress 5:12 []", "`route.r.compress` is empty", EXAMPLE),
    ("[\"gzip\", \"gzip\"]", "bad-compress 5:21 \"gzip\"", "\"gzip\" stands twice in `route.r.compress`", ""),
    (
        "[\"brotli\"]",
        "bad-value 5:13 \"brotli\"",
        "`route.r.compress` is \"brotli\", expected \"gzip\", \"br\" or \"zstd\"",
        "",
    ),
    (
        "[\"GZIP\"]",
        "bad-value 5:13 \"GZIP\"",
        "`route.r.compress` is \"GZIP\", expected \"gzip\", \"br\" or \"zstd\"",
        "did you mean \"gzip\"?",
    ),
    ("[\"gzip\", 3]", "wrong-type 5:21 3", "`route.r.compress` is an integer, expected a list of strings", ""),
];
const EXAMPLE: &str = "write compress = [\"zstd\", \"br\", \"gzip\"], or leave it out";

#[test]
fn bad_lists_are_errors_with_their_place() {
    for (list, place, message, help) in WRONG {
        assert_eq!(one_error(&with(list), place), (message.to_string(), help.to_string()), "{list}");
    }
}

#[test]
fn a_redirect_has_nothing_to_compress() {
    let lines =
        "[[route]]\nname = \"r\"\nmatch = { path = \"/\" }\nredirect = { host = \"other\" }\ncompress = [\"gzip\"]\n";
    let found = one_error(lines, "bad-compress 5:12 [\"gzip\"]");
    assert_eq!(found.0, "`route.r.compress`: a redirect has nothing to compress");
}
