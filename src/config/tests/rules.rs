//! Conditions of rules and sticky keys: what is refused, and what the good ones become.

use super::*;
use crate::routing::rule::Rule;
use std::sync::Arc;

/// A rule with this condition, on the line 8 after [`BASE`] with the condition's text from column 8.
fn with_condition(when: &str) -> String {
    route(&format!("active = \"stable\"\n[[route.rule]]\nname = \"t\"\nvariant = \"canary\"\nwhen = {when}"))
}

fn with_sticky(sticky: &str) -> String {
    route(&format!("active = \"stable\"\nsticky = {sticky}"))
}

/// A condition, the one finding, its message, its help.
const WRONG_CONDITIONS: &[(&str, &str, &str, &str)] = &[
    (
        "{ ip = \"10.0.0.0/33\" }",
        "bad-address 8:15 \"10.0.0.0/33\"",
        "\"10.0.0.0/33\" is neither an IP address nor a network",
        "write \"10.0.0.0/8\", \"fd00::/8\" or \"192.0.2.7\"",
    ),
    (
        "{ ip = [\"10.0.0.0/8\", \"10.1.2.3/8\"] }",
        "bad-address 8:30 \"10.1.2.3/8\"",
        "\"10.1.2.3/8\" is an address within a network, not a network",
        "write \"10.0.0.0/8\", or \"10.1.2.3\" for the address alone",
    ),
    (
        "{ ip = \"2001:db8::1/32\" }",
        "bad-address 8:15 \"2001:db8::1/32\"",
        "\"2001:db8::1/32\" is an address within a network, not a network",
        "write \"2001:db8::/32\", or \"2001:db8::1\" for the address alone",
    ),
    (
        "{ ip = \"localhost\" }",
        "bad-address 8:15 \"localhost\"",
        "\"localhost\" is neither an IP address nor a network",
        "write \"10.0.0.0/8\", \"fd00::/8\" or \"192.0.2.7\"",
    ),
    ("{ ip = [] }", "bad-condition 8:15 []", "`ip` lists no network", ""),
    (
        "{ ip = \"10.0.0.1\", equals = \"10.0.0.1\" }",
        "bad-condition 8:8 { ip = \"10.0.0.1\", equals = \"10.0.0.1\" }",
        "`equals` stands beside `ip`, which takes no further test",
        "",
    ),
    ("{ any = [{ cookie = \"a\", in_file = \"\" }] }", "bad-condition 8:43 \"\"", "`in_file` names no file", ""),
    (
        "{ header = \"a\", in_file = \"x\", in = [\"y\"] }",
        "bad-condition 8:8 { header = \"a\", in_file = \"x\", in = [\"y\"] }",
        "route.r.rule \"t\".when has `in` and `in_file` in one condition",
        "put each in a condition of its own: { all = [{ … }, { … }] }",
    ),
    (
        "{ method = \"GET\", in_file = \"x\" }",
        "bad-condition 8:8 { method = \"GET\", in_file = \"x\" }",
        "`in_file` stands beside `method`, which takes no further test",
        "",
    ),
    (
        "{ header = \"a\", regex = '\\w{1000}' }",
        "bad-regex 8:32 '\\w{1000}'",
        "\"\\\\w{1000}\" is larger than 10485760 bytes when compiled",
        "repeat less, or use ASCII classes such as [0-9] and (?-u:\\w), which are much smaller than \\d and \\w",
    ),
    (
        "{ header = \"a\", regex = '(?=x)' }",
        "bad-regex 8:32 '(?=x)'",
        "\"(?=x)\" is not a regular expression: look-around, including look-ahead and look-behind, is not supported",
        "",
    ),
];

#[test]
fn conditions_that_are_wrong() {
    for (when, expected, message, help) in WRONG_CONDITIONS {
        let found = one_error(&with_condition(when), expected);
        assert_eq!((found.0.as_str(), found.1.as_str()), (*message, *help), "{when}");
    }
}

/// A route's sticky, the one finding, its message.
const WRONG_STICKY: &[(&str, &str, &str)] = &[
    ("{ key = [\"jwt:\"] }", "bad-name 5:19 \"jwt:\"", "\"jwt:\" cannot be the name of a claim"),
    ("{ key = [\"jwt\"] }", "bad-name 5:19 \"jwt\"", "\"jwt\" cannot be the name of a claim"),
    ("{ key = [\"ip:1\"] }", "bad-sticky 5:19 \"ip:1\"", "\"ip:1\" is not a key"),
    (
        "{ key = [\"ip\", \"header:x\"] }",
        "bad-sticky 5:25 \"header:x\"",
        "\"header:x\" is never asked: every request has an `ip`",
    ),
    (
        "{ key = [\"header:x\", \"ip\"], fallback = \"cookie\" }",
        "bad-sticky 5:49 \"cookie\"",
        "the fallback is never asked: every request has an `ip`",
    ),
    ("{ key = [\"header:x\"], group = \"a b\" }", "bad-name 5:40 \"a b\"", "\"a b\" is not a name for a group"),
    ("{ group = \"g\" }", "bad-sticky 5:10 { group = \"g\" }", "`sticky` names nothing to know a client by"),
];

#[test]
fn sticky_keys_that_are_wrong() {
    for (sticky, expected, message) in WRONG_STICKY {
        assert_eq!(one_error(&with_sticky(sticky), expected).0, *message, "{sticky}");
    }
}

fn config(folder: &Folder, text: &str) -> Config {
    let loaded = folder.check(format!("{BASE}{text}"));
    loaded.config.unwrap_or_else(|| panic!("{}", loaded.report.render(false)))
}

fn rules(folder: &Folder, conditions: &[&str]) -> Vec<Rule> {
    let rule = |(n, when): (usize, &&str)| {
        format!("[[route.rule]]\nname = \"rule {n}\"\nvariant = \"canary\"\nwhen = {when}\n")
    };
    let written: String = conditions.iter().enumerate().map(rule).collect();
    config(folder, &route(&format!("active = \"stable\"\n{written}"))).routes.remove(0).rules
}

#[test]
fn networks_become_what_they_say() {
    let conditions =
        ["{ ip = \"10.0.0.0/8\" }", "{ ip = [\"192.0.2.7\", \"2001:db8::/32\", \"::ffff:10.0.0.0/104\"] }"];
    let networks = |rule: &Rule| match &rule.when {
        Condition::Ip(networks) => networks.written().iter().map(ToString::to_string).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let rules = rules(&Folder::new(), &conditions);
    assert_eq!(networks(&rules[0]), ["10.0.0.0/8"]);
    assert_eq!(networks(&rules[1]), ["192.0.2.7/32", "2001:db8::/32", "::ffff:10.0.0.0/104"]);
}

#[test]
fn a_list_is_read_once_however_many_rules_name_it() {
    let folder = Folder::new();
    let list = folder.write("lists/ids.txt", b"one\r\n# two\n\xff\xfe\n");
    let conditions = [
        "{ header = \"a\", in_file = \"lists/ids.txt\" }",
        "{ not = { any = [{ cookie = \"a\", in_file = \"lists/./ids.txt\" }] } }",
    ];
    let rules = rules(&folder, &conditions);
    let Condition::Is(_, Test::InFile(first)) = &rules[0].when else { panic!("{:?}", rules[0].when) };
    let Condition::Not(not) = &rules[1].when else { panic!("{:?}", rules[1].when) };
    let Condition::Any(any) = not.as_ref() else { panic!("{not:?}") };
    let Condition::Is(_, Test::InFile(second)) = &any[0] else { panic!("{any:?}") };
    assert!(Arc::ptr_eq(&first.values, &second.values));
    assert_eq!((first.list, second.list, &*first.name), (0, 0, "lists/ids.txt"));
    assert!(first.values.len() == 2 && first.values.contains(b"one") && first.values.contains(b"\xff\xfe"));
    let lists = config(&folder, &with_condition(conditions[0])).lists;
    assert_eq!(lists.iter().map(|list| &list.path).collect::<Vec<_>>(), [&list]);
}

#[test]
fn a_list_is_beside_the_file_that_names_it() {
    let folder = Folder::new();
    folder.write("conf.d/ids.txt", "one");
    folder.write("conf.d/shop.toml", with_condition("{ header = \"a\", in_file = \"ids.txt\" }"));
    let loaded = folder.check(format!("include = [\"conf.d/*.toml\"]\n{BASE}"));
    assert!(loaded.config.is_some(), "{}", loaded.report.render(false));
}

#[test]
fn lists_that_cannot_be_read() {
    let folder = Folder::new();
    folder.write("dir/x", "");
    std::fs::File::create(folder.0.path().join("big")).unwrap().set_len(crate::limits::LIST_BYTES + 1).unwrap();
    for (name, reason) in [
        ("none", "cannot read: No such file or directory (os error 2)"),
        ("dir", "not a file"),
        ("/dev/null", "not a file"),
        ("big", "larger than 268435456 bytes"),
    ] {
        let condition = format!("{{ header = \"a\", in_file = \"{name}\" }}");
        // A second rule of the same list has the same error at its own place.
        let text =
            format!("{BASE}{}{}", with_condition(&condition), with_condition(&condition).replace("\"r\"", "\"q\""));
        let loaded = folder.check(text);
        let found: Vec<_> = loaded.report.errors().collect();
        assert_eq!(found.len(), 2, "{}", loaded.report.render(false));
        let path = folder.0.path().join(name);
        assert_eq!(found[0].message, format!("list {}: {reason}", path.display()));
        assert_eq!((found[0].code, found[0].line, found[1].line), ("unreadable-file", 17, 25));
    }
}

#[test]
fn a_long_in_is_a_list() {
    let values = |count: usize| (0..count).map(|n| format!("\"v{n}\"")).collect::<Vec<_>>().join(", ");
    let conditions = [16, 17].map(|count| format!("{{ header = \"a\", in = [{}] }}", values(count)));
    let rules = rules(&Folder::new(), &[&conditions[0], &conditions[1]]);
    assert!(matches!(&rules[0].when, Condition::Is(_, Test::In(values)) if values.len() == 16));
    assert!(
        matches!(&rules[1].when, Condition::Is(_, Test::InList(list)) if list.len() == 17 && list.contains(b"v16"))
    );
}

#[test]
fn sticky_keys_become_what_they_say() {
    let sticky = "{ key = [\"jwt:sub\", \"jwt:https://example.com/tenant\", \"ip\"], group = \"checkout\" }";
    let route = config(&Folder::new(), &with_sticky(sticky)).routes.remove(0);
    let keys = route.sticky.unwrap().keys;
    let claim = |name: &str| KeySource::Jwt(name.to_owned());
    assert_eq!(keys, [claim("sub"), claim("https://example.com/tenant"), KeySource::Ip]);
    assert_eq!(route.salt, "checkout");
}

#[test]
fn a_group_names_salt_and_cookie() {
    for (sticky, salt, cookie) in [
        ("{ fallback = \"cookie\" }", "r", "weir_r"),
        ("{ fallback = \"cookie\", group = \"checkout\" }", "checkout", "weir_checkout"),
        ("{ fallback = \"cookie\", group = \"checkout\", cookie = \"id\" }", "checkout", "id"),
    ] {
        let route = config(&Folder::new(), &with_sticky(sticky)).routes.remove(0);
        assert_eq!(route.salt, salt);
        let Fallback::Cookie { name, .. } = route.sticky.unwrap().fallback else { panic!("{sticky}") };
        assert_eq!(name, cookie);
    }
}

/// Two routes of the group g; what the second has else, and what of it is warned of.
const GROUPS: &[(&str, &str, Option<&str>)] = &[
    ("{ stable = \"a\", canary = \"b\" }", "weights = { stable = 90, canary = 10 }", None),
    ("{ stable = \"a\", canary = \"b\" }", "weights = { stable = 80, canary = 20 }", Some("`weights`")),
    ("{ stable = \"a\", next = \"b\" }", "weights = { stable = 90, next = 10 }", Some("`variants`")),
    ("{ stable = \"a\" }", "", Some("`variants` and `weights`")),
];

#[test]
fn routes_of_a_group_that_differ_are_warned_of() {
    let sticky = "sticky = { key = [\"header:u\"], fallback = \"cookie\", group = \"g\" }";
    let first = route(&format!("weights = {{ stable = 90, canary = 10 }}\n{sticky}"));
    let warned = |second: &str, different: Option<&str>| {
        let loaded = check(format!("{BASE}{first}{second}"));
        let found = &loaded.report.diagnostics;
        let Some(different) = different else { return assert!(found.is_empty(), "{}", loaded.report.render(false)) };
        assert_eq!(found.len(), 1, "{}", loaded.report.render(false));
        let message = format!(
            "route.r and route.q share the sticky group \"g\" and differ in {different}: a client may get different variants"
        );
        assert_eq!((found[0].code, &found[0].message), ("group-differs", &message));
        assert_eq!((found[0].line, found[0].other.as_ref().unwrap().1), (BASE_LINES + 11, BASE_LINES + 5));
    };
    let second = |variants: &str, weights: &str, sticky: &str| {
        let matches = "match = { path = \"/q\" }";
        format!("[[route]]\nname = \"q\"\nvariants = {variants}\n{matches}\n{weights}\n{sticky}\n")
    };
    for (variants, weights, different) in GROUPS {
        warned(&second(variants, weights, sticky), *different);
    }
    let (variants, weights) = (GROUPS[0].0, GROUPS[0].1);
    warned(&second(variants, weights, &sticky.replace("header:u", "query:u")), Some("`key`"));
    warned(&second(variants, weights, &sticky.replace("cookie", "ip")), Some("`fallback`"));
    warned(&second(variants, weights, &sticky.replace(" }", ", cookie = \"x\" }")), Some("`fallback`"));
    warned(&second(variants, weights, &sticky.replace(" }", ", ttl = \"1h\" }")), None);
}

#[test]
fn a_route_that_has_a_group_s_name_is_warned_of() {
    let route = |name: &str, sticky: &str| {
        let lines = format!("active = \"stable\"\nmatch = {{ path = \"/{name}\" }}\nsticky = {sticky}");
        super::route(&lines).replace("\"r\"", &format!("\"{name}\""))
    };
    let grouped = route("a", "{ fallback = \"ip\", group = \"g\" }");
    let loaded = check(format!("{BASE}{grouped}{}", route("g", "{ fallback = \"ip\" }")));
    let found = short(&loaded.report);
    assert_eq!(found, ["group-named-as-route 17:8 \"g\""], "{}", loaded.report.render(false));
    let inside = route("g", "{ fallback = \"ip\", group = \"g\" }");
    let loaded = check(format!("{BASE}{grouped}{inside}"));
    assert!(loaded.report.diagnostics.is_empty(), "{}", loaded.report.render(false));
}

#[test]
fn ten_thousand_rules_load() {
    let rule = |n: usize| {
        format!(
            "[[route.rule]]\nname = \"{n}\"\nwhen = {{ header = \"x-user-id\", equals = \"{n}\" }}\nvariant = \"canary\"\n"
        )
    };
    let written: String = (0..10_000).map(rule).collect();
    let route = config(&Folder::new(), &route(&format!("active = \"stable\"\n{written}"))).routes.remove(0);
    assert_eq!(route.rules.len(), 10_000);
}
