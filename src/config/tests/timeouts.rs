//! `timeout` and `request_timeout` of a route: what they become, and what is said about bad ones.

use super::*;

fn times_of(lines: &str) -> (Duration, Option<Duration>) {
    let loaded = check(format!("{BASE}{}", route(&format!("active = \"stable\"\n{lines}"))));
    assert_eq!(short(&loaded.report), Vec::<String>::new());
    let config = loaded.config.unwrap();
    (config.routes[0].timeout, config.routes[0].request_timeout)
}

#[test]
fn with_and_without() {
    let (seconds, ms) = (Duration::from_secs, Duration::from_millis);
    assert_eq!(times_of(""), (seconds(60), None));
    assert_eq!(times_of("timeout = \"15s\"\nrequest_timeout = \"2m\""), (seconds(15), Some(seconds(120))));
    assert_eq!(times_of("request_timeout = \"1500ms\""), (seconds(60), Some(ms(1500))), "it may be the shorter one");
}

#[test]
fn bad_ones_are_errors_with_their_place() {
    for (line, place, message) in [
        (
            "request_timeout = 5",
            "wrong-type 5:19 5",
            "`route.r.request_timeout` is an integer, expected a duration such as \"30s\"",
        ),
        ("request_timeout = \"0s\"", "out-of-range 5:19 \"0s\"", "`route.r.request_timeout` is not from 1ms to 24h"),
        ("request_timeout = \"25h\"", "out-of-range 5:19 \"25h\"", "`route.r.request_timeout` is not from 1ms to 24h"),
    ] {
        let lines = route(&format!("active = \"stable\"\n{line}"));
        assert_eq!(one_error(&lines, place).0, message, "{line}");
    }
}
