//! `retry` and `rescue` of a route: their defaults, and what is said about bad ones.

use super::*;
use crate::routing::recovery::Recovery;
use http::Method;

fn with(lines: &str) -> String {
    route(&format!("active = \"stable\"\n{lines}"))
}

fn recovery_of(lines: &str) -> Option<Recovery> {
    let loaded = check(format!("{BASE}{}", with(lines)));
    assert_eq!(short(&loaded.report), Vec::<String>::new());
    loaded.config.unwrap().routes[0].recovery.as_deref().cloned()
}

#[test]
fn a_retry_with_all_its_keys_and_with_none() {
    let all = "retry = { attempts = 3, on = [\"timeout\", \"503\"], methods = [\"GET\", \"PUT\"], budget = \"0.5%\", timeout = \"2s\" }";
    let retry = recovery_of(all).unwrap().retry.unwrap();
    assert_eq!((retry.attempts, retry.on.words()), (3, vec!["timeout".to_owned(), "503".to_owned()]));
    assert_eq!(
        (retry.methods.as_slice(), retry.budget.to_string().as_str()),
        ([Method::GET, Method::PUT].as_slice(), "0.5%")
    );
    assert_eq!(retry.timeout, Some(Duration::from_secs(2)));
    let retry = recovery_of("retry = {}").unwrap().retry.unwrap();
    assert_eq!((retry.attempts, retry.budget.to_string().as_str(), retry.timeout), (1, "10%", None));
    assert_eq!(retry.on.words(), ["connect", "reset", "502", "503", "504"]);
    assert_eq!(retry.methods, [Method::GET, Method::HEAD, Method::OPTIONS]);
}

#[test]
fn a_rescue_with_all_its_keys_and_with_none() {
    let all = "rescue = { on = [\"reset\"], budget = \"100%\", forced = false, header = \"x-weir-rescued\" }";
    let recovery = recovery_of(all).unwrap();
    let rescue = recovery.rescue.unwrap();
    assert!(recovery.retry.is_none() && !rescue.forced);
    assert_eq!((rescue.on.words(), rescue.budget.to_string().as_str()), (vec!["reset".to_owned()], "100%"));
    assert_eq!(rescue.header.unwrap(), "x-weir-rescued");
    let rescue = recovery_of("rescue = {}").unwrap().rescue.unwrap();
    assert!(rescue.forced && rescue.header.is_none());
    assert_eq!(
        (rescue.on.words().join(" ").as_str(), rescue.budget.to_string().as_str()),
        ("connect reset 5xx", "20%")
    );
    assert_eq!(recovery_of(""), None);
}

/// A line, the one finding, its message.
const WRONG: &[(&str, &str, &str)] = &[
    ("retry = 3", "wrong-type 5:9 3", "`route.r.retry` is an integer, expected a table"),
    ("retry = { attempts = 0 }", "out-of-range 5:22 0", "`route.r.retry.attempts` is not a whole number from 1 to 10"),
    ("retry = { on = [] }", "bad-value 5:16 []", "`route.r.retry.on` names no failure"),
    ("retry = { on = [\"404\"] }", "bad-value 5:17 \"404\"", "\"404\" is no failure that `route.r.retry.on` can name"),
    ("retry = { methods = [] }", "bad-value 5:21 []", "`route.r.retry.methods` is empty"),
    (
        "retry = { budget = \"0%\" }",
        "bad-value 5:20 \"0%\"",
        "`route.r.retry.budget` is \"0%\", not a share of traffic",
    ),
    (
        "rescue = { budget = \"20\" }",
        "bad-value 5:21 \"20\"",
        "`route.r.rescue.budget` is \"20\", not a share of traffic",
    ),
    (
        "rescue = { header = \"set-cookie\" }",
        "bad-value 5:21 \"set-cookie\"",
        "`route.r.rescue.header` is \"set-cookie\", not a name that begins with \"x-\"",
    ),
    ("rescue = { attempts = 2 }", "unknown-key 5:12 attempts", "unknown key `attempts` in route.r.rescue"),
];

#[test]
fn bad_ones_are_errors_with_their_place() {
    for (line, place, message) in WRONG {
        assert_eq!(one_error(&with(line), place).0, *message, "{line}");
    }
}
