//! Whole files: what is found in bad ones, what good ones become, and that nothing crashes the check.

mod filters;
mod limits;
mod matches;
mod preview;
mod secrets;
mod sockets;
mod tls;

use super::*;
use crate::routing::matcher::{HostMatch, PathMatch};
use crate::routing::rule::{Condition, Outcome, Subject, Test};
use crate::routing::sticky::{Fallback, KeySource};
use proptest::prelude::*;
use std::path::PathBuf;
use std::time::Duration;

mod balance;
mod compress;
mod health;
mod mirror;
mod outlier;
mod recovery;
mod rollout;
mod rules;
mod timeouts;

/// What every test file needs beside what it tests.
const BASE: &str = "[server]\nstate_dir = \"s\"\n[[listener]]\nname = \"http\"\nbind = \"127.0.0.1:8080\"\n\
                    [pool.a]\ntargets = [\"127.0.0.1:1\"]\n[pool.b]\ntargets = [\"127.0.0.1:2\"]\n";
const BASE_LINES: usize = 9;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }
    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }
    fn check(&self, text: impl AsRef<[u8]>) -> Loaded {
        load(&self.write("weir.toml", text), &|_| None)
    }
}

fn check(text: impl AsRef<[u8]>) -> Loaded {
    Folder::new().check(text)
}

/// `code line:column underlined-text`, for every finding.
fn short(report: &Report) -> Vec<String> {
    report.diagnostics.iter().map(short_one).collect()
}

fn short_one(one: &Diagnostic) -> String {
    let skip = one.column - one.source_column;
    let text: String = one.source_line.chars().skip(skip).take(one.width).collect();
    format!("{} {}:{} {text}", one.code, one.line, one.column).trim_end().to_owned()
}

fn errors(loaded: &Loaded) -> Vec<String> {
    loaded.report.errors().map(short_one).collect()
}

/// One error, on the given line after [`BASE`], and its message and help.
fn one_error(lines: &str, expected: &str) -> (String, String) {
    let loaded = check(format!("{BASE}{lines}"));
    assert!(loaded.config.is_none());
    let found: Vec<_> = loaded.report.errors().collect();
    let shifted: Vec<_> = found
        .iter()
        .map(|one| {
            let mut one = (*one).clone();
            one.line = one.line.saturating_sub(BASE_LINES);
            short_one(&one)
        })
        .collect();
    assert_eq!(shifted, [expected], "{lines}\n{}", loaded.report.render(false));
    (found[0].message.clone(), found[0].help.clone().unwrap_or_default())
}

fn route(lines: &str) -> String {
    format!("[[route]]\nname = \"r\"\nvariants = {{ stable = \"a\", canary = \"b\" }}\n{lines}\n")
}

/// Lines after a route's variants, the one finding, its message, its help.
const WRONG_ROUTES: &[(&str, &str, &str, &str)] = &[
    (
        "weights = { stable = 90, canary = 5 }",
        "weights-sum 4:11 { stable = 90, canary = 5 }",
        "the weights of route.r sum to 95 instead of 100",
        "for example weights = { stable = 95, canary = 5 }",
    ),
    (
        "weights = { stable = 90 }",
        "weights-sum 4:11 { stable = 90 }",
        "the weights of route.r sum to 90 instead of 100; `canary` has none",
        "for example weights = { stable = 90, canary = 10 }",
    ),
    (
        "weights = { stable = 100 }",
        "weights-missing 4:11 { stable = 100 }",
        "the weights of route.r leave out `canary`",
        "for example weights = { stable = 100, canary = 0 }",
    ),
    (
        "weights = { stable = 100, canary = 33.333 }",
        "weights-sum 4:11 { stable = 100, canary = 33.333 }",
        "the weights of route.r sum to 133.333 instead of 100",
        "for example weights = { stable = 66.667, canary = 33.333 }",
    ),
    (
        "weights = { stable = 99.9995, canary = 0 }",
        "bad-weight 4:22 99.9995",
        "99.9995 is finer than 0.001 percent",
        "a weight is a percentage from 0 to 100 with up to three decimals",
    ),
    (
        "weights = { stable = 100, canari = 0 }",
        "unknown-variant 4:27 canari",
        "there is no variant in route.r: \"canari\"",
        "did you mean `canary`?",
    ),
    (
        "",
        "weights-missing 1:1 [[route]]",
        "route.r has 2 variants but no `weights`",
        "for example weights = { stable = 100, canary = 0 }",
    ),
    (
        "active = \"x\"",
        "unknown-variant 4:10 \"x\"",
        "there is no variant in route.r: \"x\"",
        "there are `stable` and `canary`",
    ),
    (
        "WEIGHTS\nmatch = { host = \"a:80\" }",
        "bad-match 5:18 \"a:80\"",
        "host \"a:80\" has a port; a route's host is a name without one",
        "",
    ),
    ("WEIGHTS\nmatch = { path = \"v1\" }", "bad-match 5:18 \"v1\"", "path \"v1\" does not start with \"/\"", ""),
    (
        "WEIGHTS\nmatch = { path = \"/\", path_exact = \"/\" }",
        "bad-match 5:36 \"/\"",
        "a route matches by `path` or by `path_exact`, not by both",
        "",
    ),
    (
        "WEIGHTS\ntimeout = \"0s\"",
        "out-of-range 5:11 \"0s\"",
        "`route.r.timeout` is not from 1ms to 24h",
        "zero does not mean \"unlimited\"",
    ),
    (
        "WEIGHTS\ntimeuot = \"1s\"",
        "unknown-key 5:1 timeuot",
        "unknown key `timeuot` in route.r",
        "did you mean `timeout`?",
    ),
    (
        "WEIGHTS\nsticky = { key = [\"heador:x\"] }",
        "bad-sticky 5:19 \"heador:x\"",
        "\"heador:x\" is not a key",
        "write \"header:NAME\", \"cookie:NAME\", \"query:NAME\", \"jwt:CLAIM\" or \"ip\"",
    ),
    (
        "WEIGHTS\nsticky = { key = [\"cookie:u\"], cookie = \"x\" }",
        "bad-sticky 5:41 \"x\"",
        "`cookie` has no effect without fallback = \"cookie\"",
        "write fallback = \"cookie\" for an anonymous id in a cookie",
    ),
    (
        "WEIGHTS\nsticky = {}",
        "bad-sticky 5:10 {}",
        "`sticky` names nothing to know a client by",
        "write key = [\"header:x-user-id\"], or fallback = \"cookie\" or \"ip\"",
    ),
    (
        "WEIGHTS\nsticky = { fallback = \"coockie\" }",
        "bad-value 5:23 \"coockie\"",
        "`sticky.fallback` is \"coockie\", expected \"cookie\", \"ip\" or \"random\"",
        "did you mean \"cookie\"?",
    ),
];

#[test]
fn routes_that_are_wrong() {
    for (lines, expected, message, help) in WRONG_ROUTES {
        let lines = lines.replace("WEIGHTS", "weights = { stable = 100, canary = 0 }");
        let found = one_error(&route(&lines), expected);
        assert_eq!((found.0.as_str(), found.1.as_str()), (*message, *help), "{lines}");
    }
}

/// A rule's lines, the one finding, its message.
const WRONG_RULES: &[(&str, &str, &str)] = &[
    (
        "when = { header = \"x\", equals = \"1\" }",
        "bad-rule 5:1 [[route.rule]]",
        "route.r.rule \"t\" leads nowhere: it has neither `variant` nor `weights`",
    ),
    ("variant = \"canary\"", "missing-key 5:1 [[route.rule]]", "route.r.rule \"t\" has no `when`"),
    (
        "variant = \"canarx\"\nwhen = { header = \"x\", equals = \"1\" }",
        "unknown-variant 7:11 \"canarx\"",
        "there is no variant in route.r: \"canarx\"",
    ),
    (
        "variant = \"canary\"\nwhen = { header = \"x\" }",
        "bad-condition 8:8 { header = \"x\" }",
        "route.r.rule \"t\".when does not say what `header` is to be",
    ),
    (
        "variant = \"canary\"\nwhen = { equals = \"x\" }",
        "bad-condition 8:8 { equals = \"x\" }",
        "route.r.rule \"t\".when does not say where to look",
    ),
    (
        "variant = \"canary\"\nwhen = { header = \"a\", cookie = \"b\", equals = \"c\" }",
        "bad-condition 8:8 { header = \"a\", cookie = \"b\", equals = \"c\" }",
        "route.r.rule \"t\".when has `header` and `cookie` in one condition",
    ),
    (
        "variant = \"canary\"\nwhen = { header = \"a\", prefix = \"b\", equals = \"c\" }",
        "bad-condition 8:8 { header = \"a\", prefix = \"b\", equals = \"c\" }",
        "route.r.rule \"t\".when has `equals` and `prefix` in one condition",
    ),
    (
        "variant = \"canary\"\nwhen = { header = \"a b\", equals = \"c\" }",
        "bad-name 8:19 \"a b\"",
        "\"a b\" cannot be the name of a header",
    ),
    (
        "variant = \"canary\"\nwhen = { header = \"a\", regex = \"(\" }",
        "bad-regex 8:32 \"(\"",
        "\"(\" is not a regular expression: unclosed group",
    ),
    (
        "variant = \"canary\"\nwhen = { method = \"get\" }",
        "bad-condition 8:19 \"get\"",
        "\"get\" is not an HTTP method",
    ),
    ("variant = \"canary\"\nwhen = { all = [] }", "bad-condition 8:16 []", "`all` lists no condition"),
    (
        "variant = \"canary\"\nwhen = { not = { header = \"a\", present = true }, equals = \"x\" }",
        "bad-condition 8:8 { not = { header = \"a\", present = true }, equals = \"x\" }",
        "`equals` stands beside `not`, which takes no further test",
    ),
    (
        "variant = \"canary\"\nweights = { stable = 50, canary = 50 }\nwhen = { header = \"a\", present = true }",
        "bad-rule 8:11 { stable = 50, canary = 50 }",
        "route.r.rule \"t\" has both `variant` and `weights`",
    ),
    (
        "weights = { stable = 50, canary = 40 }\nwhen = { header = \"a\", present = true }",
        "weights-sum 7:11 { stable = 50, canary = 40 }",
        "the weights of route.r sum to 90 instead of 100",
    ),
    (
        "variant = \"canary\"\nwhen = { header = 1, equals = \"c\" }",
        "wrong-type 8:19 1",
        "`route.r.rule \"t\".when.header` is an integer, expected a string",
    ),
];

#[test]
fn rules_that_are_wrong() {
    for (lines, expected, message) in WRONG_RULES {
        let rule = route(&format!("active = \"stable\"\n[[route.rule]]\nname = \"t\"\n{lines}"));
        assert_eq!(one_error(&rule, expected).0, *message, "{lines}");
    }
}

/// Lines after [`BASE`], the one finding, its message.
const WRONG_TABLES: &[(&str, &str, &str)] = &[
    ("[limits]\nmax_headers = 0", "out-of-range 2:15 0", "`limits.max_headers` is not a whole number from 1 to 1000"),
    (
        "[limits]\nmax_header_bytes = \"2MiB\"",
        "out-of-range 2:20 \"2MiB\"",
        "`limits.max_header_bytes` is not from 8KiB to 1MiB",
    ),
    (
        "[limits]\nmax_header_bytes = \"unlimited\"",
        "out-of-range 2:20 \"unlimited\"",
        "`limits.max_header_bytes` is not from 8KiB to 1MiB",
    ),
    ("[limits]\nmax_body = 0", "out-of-range 2:12 0", "`limits.max_body` is 0"),
    ("[limits]\nmax_body = \"10M\"", "bad-size 2:12 \"10M\"", "\"10M\" is not a size"),
    (
        "[limits]\nidle_timeout = 75",
        "wrong-type 2:16 75",
        "`limits.idle_timeout` is an integer, expected a duration such as \"30s\"",
    ),
    ("[limits]\nidle_timeout = \"75\"", "bad-duration 2:16 \"75\"", "\"75\" is not a duration"),
    (
        "[admin]\nlisten = [\"0.0.0.0:9901\"]",
        "open-admin 2:11 \"0.0.0.0:9901\"",
        "everyone who reaches 0.0.0.0:9901 could change the traffic: there is no token",
    ),
    (
        "[admin]\nlisten = [\"127.0.0.1:8080\"]",
        "port-taken 2:11 \"127.0.0.1:8080\"",
        "127.0.0.1:8080 is taken already: a listener has 127.0.0.1:8080",
    ),
    (
        "[admin]\nmetrics = \"127.0.0.1:9901\"",
        "port-taken 2:11 \"127.0.0.1:9901\"",
        "127.0.0.1:9901 is taken already: admin.listen (by default) has 127.0.0.1:9901",
    ),
    (
        "[[admin.token]]\nname = \"a\"\nrole = \"root\"\nhash = \"sha256:0000000000000000000000000000000000000000000000000000000000000000\"",
        "bad-value 3:8 \"root\"",
        "`admin.token.role` is \"root\", expected \"viewer\", \"operator\" or \"admin\"",
    ),
    (
        "[[admin.token]]\nname = \"a\"\nrole = \"viewer\"\nhash = \"secret\"",
        "bad-token 4:8 \"secret\"",
        "the token's hash is not \"sha256:\" and 64 hexadecimal digits",
    ),
    (
        "[log]\nlevel = \"warning\"",
        "bad-value 2:9 \"warning\"",
        "`log.level` is \"warning\", expected \"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
    ),
    (
        "[log]\naccess = { output = \"stdout\" }",
        "not-built 2:21 \"stdout\"",
        "not built yet: log.access.output = \"stdout\"",
    ),
    (
        "[[listener]]\nname = \"x\"\nbind = \"localhost:80\"",
        "bad-address 3:8 \"localhost:80\"",
        "\"localhost:80\" is not an IP address and a port",
    ),
    (
        "[[listener]]\nname = \"x\"\nbind = \"0.0.0.0:8080\"",
        "port-taken 3:8 \"0.0.0.0:8080\"",
        "0.0.0.0:8080 is taken already: a listener has 127.0.0.1:8080",
    ),
    (
        "[[listener]]\nname = \"http\"\nbind = \"0.0.0.0:81\"",
        "duplicate-name 2:8 \"http\"",
        "there is another listener \"http\"",
    ),
    ("[pool.c]", "missing-key 1:1 [pool.c]", "pool.c has no `targets`"),
    ("[pool.c]\ntargets = []", "no-target 2:11 []", "pool.c has no target"),
    ("[pool.c]\ntargets = [\"http://x\"]", "bad-target 2:12 \"http://x\"", "\"http://x\" is not a target"),
    (
        "[pool.c]\ntargets = [\"x:1\"]\nbalance = \"p2p\"",
        "bad-value 3:11 \"p2p\"",
        "`pool.c.balance` is \"p2p\", expected \"p2c\", \"round_robin\", \"least_conn\" or \"hash\"",
    ),
    ("[pool.c]\ntargets = [\"x:1\"]\ntls = { sni = 1 }", "unknown-key 3:9 sni", "unknown key `sni` in pool.c.tls"),
    ("[pool.\"a b\"]\ntargets = [\"x:1\"]", "bad-name 1:7 \"a b\"", "\"a b\" is not a name for a pool"),
    ("[fleet]\nx = 1", "not-built 1:2 fleet", "not built yet: fleet"),
    ("[[route]]\nname = \"r\"\nvariants = { x = \"a\" }", "duplicate-name 5:8 \"r\"", "there is another route \"r\""),
    ("[[route]]\nname = \"q\"\nvariants = { x = \"aa\" }", "unknown-pool 3:18 \"aa\"", "there is no pool \"aa\""),
    ("[[route]]\nname = \"q\"\nvariants = {}", "bad-variants 1:1 [[route]]", "route.q has 0 variants"),
    ("[pool.a]\nversion = \"2\"", "duplicate-key 1:7 a", "`a` is defined twice"),
    ("[pool.c]\ntargets = [\"${HOST}:1\"]", "interpolation 2:13 ${HOST}", "the environment variable HOST is not set"),
];

#[test]
fn other_tables_that_are_wrong() {
    let good = route("active = \"stable\"");
    for (lines, expected, message) in WRONG_TABLES {
        assert_eq!(one_error(&format!("{lines}\n{good}"), expected).0, *message, "{lines}");
    }
}

#[test]
fn all_errors_at_once_even_beside_broken_lines() {
    let text = "[server]\nworkerz = 3\ndrain_timeout = \n[limits]\nmax_headers = \"x\nidle_timeout = \"5\"\n\
                [pool.a]\nslow_start = \"25h\"\n[pool.a]\ntargets = [\"b:1\"]\n";
    let expected = [
        "unknown-key 2:1 workerz",
        "syntax 3:17",
        "syntax 5:17",
        "bad-duration 6:16 \"5\"",
        "out-of-range 8:14 \"25h\"",
        "duplicate-key 9:7 a",
    ];
    let loaded = check(text);
    assert_eq!(errors(&loaded), expected, "{}", loaded.report.render(false));
    let twice = loaded.report.errors().last().unwrap();
    assert_eq!(twice.other.as_ref().map(|(_, line, column)| (*line, *column)), Some((7, 1)));
}

#[test]
fn a_missing_file_hides_only_what_it_may_define() {
    let more = "[[route]]\nname = \"q\"\nvariants = { x = \"elsewhere\" }\ntimeout = \"0s\"\n";
    let loaded =
        check(format!("include = [\"none.toml\"]\n{BASE}{}{more}", route("weights = { stable = 1, canary = 2 }")));
    let expected = [
        "unreadable-file 1:12 \"none.toml\"",
        "weights-sum 14:11 { stable = 1, canary = 2 }",
        "out-of-range 18:11 \"0s\"",
    ];
    assert_eq!(short(&loaded.report), expected);
}

#[test]
fn an_empty_file_serves_nothing() {
    let loaded = check("");
    assert_eq!(short(&loaded.report), ["no-state-dir 1:1", "no-listener 1:1", "no-route 1:1"]);
}

#[test]
fn files_that_cannot_be_read() {
    let folder = Folder::new();
    let message = |path: PathBuf| {
        let loaded = load(&path, &|_| None);
        assert_eq!(loaded.report.diagnostics.len(), 1);
        loaded.report.diagnostics[0].message.clone()
    };
    assert!(message(folder.0.path().join("none")).starts_with("cannot read: No such file"));
    assert!(message(folder.0.path().to_path_buf()).starts_with("cannot read: Is a directory"));
    assert_eq!(message(folder.write("big", vec![b'x'; 50_000_000])), "larger than 4194304 bytes");
    let not_utf8 = folder.check(b"[server]\nworkers = \"\xff\"\n");
    assert_eq!(errors(&not_utf8), ["unreadable-file 2:12"]);
}

#[test]
fn deep_nesting_is_refused() {
    for text in [
        "[".repeat(100_000),
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}", "{a=".repeat(100_000)),
        format!("a{} = 1", ".a".repeat(100_000)),
        format!("[a{}]", ".a".repeat(100_000)),
        format!("[[a{}]]", ".\"a\"".repeat(100_000)),
        format!("k = {}1{}", "{a.b.c.d.e.f.g.h.i.j.k.l.m.n.o=".repeat(79), "}".repeat(79)),
    ] {
        let loaded = check(text);
        assert!(loaded.report.has_errors());
        assert!(loaded.report.diagnostics.len() < 200);
    }
}

#[test]
fn the_contract_is_known_whole() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/contract.toml");
    let loaded = load(&path, &|_| None);
    let found: Vec<_> = loaded.report.diagnostics.iter().map(|one| (one.line, one.message.as_str())).collect();
    let folder = path.parent().unwrap().join("tls");
    let missing = |what: &str, file: &str| {
        format!("{what} file {}: cannot read: No such file or directory (os error 2)", folder.join(file).display())
    };
    let (cert, key) = (missing("certificate", "localhost.crt"), missing("private key", "localhost.key"));
    let expected = [
        (43, cert.as_str()),
        (43, key.as_str()),
        (145, "not built yet: route.shop.rollout.analysis.metric.prometheus"),
        (148, "not built yet: route.shop.rollout.webhook"),
        (162, "not built yet: route.api.rollout.smoke"),
        (167, "not built yet: notify"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn every_example_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut names = Vec::new();
    let site = tls::files_of_the_example();
    let paths = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    for path in paths.chain([folder.join("include/weir.toml")]) {
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        names.push(path.file_stem().unwrap().to_string_lossy().into_owned());
        // The one with TLS stands beside the files that it names, which are the operator's to make.
        let loaded = match path.ends_with("tls.toml") {
            true => site.check(std::fs::read(&path).unwrap()),
            false => load(&path, &|_| None),
        };
        assert!(loaded.config.is_some(), "{}", loaded.report.render(false));
        let warnings = short(&loaded.report);
        assert!(warnings.iter().all(|warning| warning.starts_with("no-state-dir")), "{warnings:?}");
    }
    for name in [
        "minimal",
        "canary",
        "blue-green",
        "three-versions",
        "sticky",
        "rules",
        "rewrite",
        "maintenance",
        "matches",
        "tls",
    ] {
        assert!(names.iter().any(|found| found == name), "{name}");
    }
}

#[test]
fn a_good_file_becomes_what_it_says() {
    let folder = Folder::new();
    let text = format!(
        "{BASE}drop_this = 1\n{}",
        route(
            "weights = { canary = 0.001, stable = 99.999 }\nmatch = { host = \"*.Example.com\", path_exact = \"/x/\" }\n\
             sticky = { key = [\"header:X-User\", \"query:u\"], fallback = \"cookie\" }\ntimeout = \"1m30s\"\n\
             [[route.rule]]\nname = \"a b\"\nwhen = { not = { any = [{ cookie = \"c\", prefix = \"p\" }, { method = \"PUT\" }] } }\n\
             weights = { stable = 0, canary = 100 }\n\
             [[route.rule]]\nname = \"c\"\nwhen = { header = \"H\", in = [\"x\"] }\nvariant = \"canary\""
        )
    )
    .replace("drop_this = 1\n", "version = \"7\"\nmax_connections = \"${MOST:-9}\"\nqueue_timeout = \"0s\"\n");
    let loaded = folder.check(text);
    let config = loaded.config.unwrap_or_else(|| panic!("{}", loaded.report.render(false)));
    assert_eq!(config.server.state_dir, Some(folder.0.path().join("s")));
    assert_eq!(config.limits, crate::limits::Limits::default());
    assert_eq!(config.admin.listen, [AdminAddr::Tcp("127.0.0.1:9901".parse().unwrap())]);
    let b = &config.pools[1];
    assert_eq!((b.version.as_deref(), b.max_connections, b.queue_timeout), (Some("7"), 9, Duration::ZERO));
    let route = &config.routes[0];
    assert_eq!(route.matches.host, HostMatch::Wildcard("example.com".to_owned()));
    assert_eq!(route.matches.path, PathMatch::Exact("/x/".to_owned()));
    // The file's order of variants, not the alphabet's nor that of the weights.
    let variants: Vec<_> = route.variants.iter().map(|one| (one.name.as_str(), one.pool)).collect();
    assert_eq!(variants, [("stable", Some(0)), ("canary", Some(1))]);
    assert_eq!(route.weights.iter().map(|one| one.thousandths()).collect::<Vec<_>>(), [99_999, 1]);
    assert_eq!(route.timeout, Duration::from_secs(90));
    let sticky = route.sticky.as_ref().unwrap();
    assert_eq!(sticky.keys[0], KeySource::Header("x-user".parse().unwrap()));
    assert_eq!(sticky.keys[1], KeySource::Query("u".to_owned()));
    assert_eq!(sticky.fallback, Fallback::Cookie { name: "weir_r".to_owned(), ttl: Duration::from_secs(86_400) });
    let Condition::Not(inner) = &route.rules[0].when else { panic!("{:?}", route.rules[0].when) };
    let Condition::Any(any) = inner.as_ref() else { panic!("{inner:?}") };
    assert!(matches!(&any[0], Condition::Is(Subject::Cookie(c), Test::Prefix(p)) if c == "c" && p == "p"));
    assert!(matches!(&any[1], Condition::Is(Subject::Method, Test::Equals(m)) if m == "PUT"));
    assert!(matches!(&route.rules[0].then, Outcome::Split(split) if split.weights()[1].thousandths() == 100_000));
    assert!(matches!(route.rules[1].then, Outcome::Variant(1)));
}

#[test]
fn included_files_join() {
    let folder = Folder::new();
    folder.write("conf.d/b.toml", route("active = \"${WHO:-stable}\"").replace("\"r\"", "\"second\""));
    folder.write(
        "conf.d/a.toml",
        route("active = \"canary\"").replace("\"r\"", "\"first\"") + "match = { path = \"/f\" }\n",
    );
    folder.write("conf.d/c.txt", "not TOML");
    let main = |patterns: &str| format!("include = {patterns}\n{BASE}");
    let config = folder.check(main("[\"conf.d/*.toml\", \"conf.d/a.toml\"]")).config.unwrap();
    assert_eq!(config.routes.iter().map(|route| route.name.as_str()).collect::<Vec<_>>(), ["first", "second"]);
    let nothing = folder.check(main("[\"none.d/*.toml\"]") + &route("active = \"stable\""));
    assert!(nothing.config.is_some());
    for (patterns, message) in [
        ("[\"none.toml\"]", "none.toml: cannot read: No such file or directory (os error 2)"),
        ("[\"*/x.toml\"]", "\"*/x.toml\": `*` and `?` stand in the last part of a path only"),
        ("[\"w*.toml\"]", "\"w*.toml\" includes the file that it stands in"),
        ("[\"conf.d/\"]", "\"conf.d/\" names no file"),
    ] {
        let loaded = folder.check(main(patterns) + &route("active = \"stable\""));
        let found: Vec<_> = loaded.report.errors().collect();
        assert_eq!(found.len(), 1, "{}", loaded.report.render(false));
        assert!(found[0].message.ends_with(message), "{}", found[0].message);
        assert_eq!((found[0].line, found[0].column), (1, 12));
    }
}

#[test]
fn what_two_files_define_is_shown_at_both_places() {
    let folder = Folder::new();
    folder.write("x.toml", "include = [\"y.toml\"]\n[server]\n[[listener]]\nname = \"http\"\nbind = \"[::1]:1\"\n[pool.a]\ntargets = [\"x:1\"]\nzz = 1\n");
    let loaded = folder.check(format!("include = [\"x.toml\"]\n{BASE}{}", route("active = \"stable\"")));
    let found: Vec<_> = loaded
        .report
        .errors()
        .map(|one| (one.code, one.file.ends_with("x.toml"), one.line, one.other.as_ref().map(|(_, line, _)| *line)))
        .collect();
    let expected = [
        ("include", true, 1, None),
        ("duplicate-table", true, 2, Some(2)),
        ("duplicate-name", true, 4, Some(5)),
        ("duplicate-name", true, 6, Some(7)),
        ("unknown-key", true, 8, None),
    ];
    assert_eq!(found, expected, "{}", loaded.report.render(false));
    assert!(loaded.report.errors().nth(1).unwrap().other.as_ref().unwrap().0.ends_with("weir.toml"));
}

#[test]
fn warnings_leave_the_file_good() {
    let more = "[[route]]\nname = \"r2\"\nvariants = { x = \"a\" }\n[pool.c]\ntargets = [\"c:1\", \"c:1\"]\n\
                [admin]\nmetrics = \"0.0.0.0:9902\"\n";
    let loaded = check(format!("{BASE}{}{more}", route("active = \"stable\"")));
    assert!(loaded.config.is_some());
    let expected = [
        "shadowed-route 14:1 [[route]]",
        "unused-pool 17:7 c",
        "duplicate-target 18:19 \"c:1\"",
        "open-metrics 20:11 \"0.0.0.0:9902\"",
    ];
    assert_eq!(short(&loaded.report), expected);
}

/// Whatever the file holds: no panic, and every finding points inside it.
fn survives(text: &[u8]) -> Result<(), TestCaseError> {
    let loaded = check(text);
    let lines = text.split(|byte| *byte == b'\n').count();
    prop_assert_eq!(loaded.config.is_none(), loaded.report.has_errors());
    for one in &loaded.report.diagnostics {
        prop_assert!((1..=lines).contains(&one.line), "{one:?}");
        let line = String::from_utf8_lossy(text.split(|byte| *byte == b'\n').nth(one.line - 1).unwrap()).into_owned();
        prop_assert!((1..=line.chars().count() + 1).contains(&one.column), "{one:?}");
        prop_assert!(one.width >= 1);
    }
    prop_assert!(loaded.report.render(true).len() >= loaded.report.diagnostics.len());
    loaded.report.to_json();
    Ok(())
}

const EXAMPLES: [&str; 7] = [
    include_str!("../../config/sockets.toml"),
    include_str!("../../config/rewrite.toml"),
    include_str!("../../config/matches.toml"),
    include_str!("../../config/rules.toml"),
    include_str!("../../config/sticky.toml"),
    include_str!("../../config/canary.toml"),
    include_str!("../../tests/data/contract.toml"),
];

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        survives(&bytes)?;
    }

    #[test]
    fn random_toml_never_panics(pieces in proptest::collection::vec(proptest::sample::select(vec![
        "[", "]", "[[", "]]", "{", "}", "=", ".", ",", "\n", " ", "\"", "'", "\"\"\"", "#", "\\", "\r\n", "é", "\t", "route", "pool", "rule", "when",
        "match", "variants", "weights", "name", "a", "b", "= \"a\"\n", "= 1\n", "= {", "[[route]]\n", "[pool.a]\n", "0x", "1e9", "-", "${", "}",
        "include = [\"*\"]\n", "1979-05-27", "true", "nan", "99999999999999999999",
    ]), 0..60)) {
        survives(pieces.concat().as_bytes())?;
    }

    #[test]
    fn mutated_examples_never_panic(
        which in 0..EXAMPLES.len(), cut in any::<prop::sample::Index>(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 0..8), truncate in any::<bool>(),
    ) {
        let mut text = EXAMPLES[which].as_bytes().to_vec();
        if truncate {
            text.truncate(cut.index(text.len()));
        }
        for (at, byte, kind) in edits {
            if text.is_empty() { break }
            let at = at.index(text.len());
            match kind {
                0 => text[at] = byte & 0x7f,
                1 => text.insert(at, byte & 0x7f),
                _ => { text.remove(at); }
            }
        }
        survives(&text)?;
    }
}
