//! `preview`: what it takes, and what it is refused for.

use super::*;

fn two(lines: &str) -> String {
    format!("[[route]]\nname = \"r\"\nvariants = {{ blue = \"a\", green = \"b\" }}\nactive = \"blue\"\n{lines}")
}

#[test]
fn a_preview_takes_what_a_rule_s_when_takes() {
    for when in [
        "{ header = \"x-preview\", equals = \"green\" }",
        "{ any = [{ cookie = \"preview\", present = true }, { query = \"preview\", in = [\"1\", \"on\"] }] }",
    ] {
        let loaded = check(format!("{BASE}{}", two(&format!("preview = {when}"))));
        assert!(errors(&loaded).is_empty(), "{when}: {:?}", errors(&loaded));
        let route = &loaded.config.unwrap().routes[0];
        assert!(route.preview.is_some() && route.rules.is_empty());
    }
    let without = check(format!("{BASE}{}", two("")));
    assert!(without.config.unwrap().routes[0].preview.is_none());
}

#[test]
fn a_preview_that_is_wrong() {
    let rule = "[[route.rule]]\nname = \"preview\"\nwhen = { header = \"x\", present = true }\nvariant = \"green\"";
    for (lines, expected, message) in [
        (
            "preview = { equals = \"green\" }",
            "bad-condition 5:11 { equals = \"green\" }",
            "route.r.preview does not say where to look",
        ),
        ("preview = \"green\"", "wrong-type 5:11 \"green\"", "`route.r.preview` is a string, expected a table"),
        (
            "preview = { header = \"x\", equals = \"1\", equal = \"1\" }",
            "unknown-key 5:41 equal",
            "unknown key `equal` in route.r.preview",
        ),
    ] {
        assert_eq!(one_error(&two(lines), expected).0, message, "{lines}");
    }
    let (message, help) = one_error(
        &two(&format!("preview = {{ header = \"x\", present = true }}\n{rule}")),
        "duplicate-name 7:8 \"preview\"",
    );
    assert_eq!(message, "a rule of route.r is called \"preview\", as the one that `preview` makes");
    assert_eq!(help, "give the rule another name, or leave one of the two out");
}

#[test]
fn a_preview_needs_two_variants() {
    for (variants, has) in [("{ blue = \"a\" }", "`blue`"), ("{ a = \"a\", b = \"b\", c = \"b\" }", "`a`, `b` and `c`")]
    {
        let active = if has == "`blue`" { "blue" } else { "a" };
        let lines = format!(
            "[[route]]\nname = \"r\"\nvariants = {variants}\nactive = \"{active}\"\npreview = {{ header = \"x\", present = true }}"
        );
        let (message, help) = one_error(&lines, "bad-preview 5:11 { header = \"x\", present = true }");
        assert_eq!(message, format!("`preview` in route.r needs two variants, and there is {has}"));
        assert!(help.contains("[[route.rule]]"), "{help}");
    }
}
