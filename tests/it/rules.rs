//! Rules through real sockets: a truth table of conditions and requests, first match, and input that means harm.

use crate::support::*;
use std::time::{Duration, Instant};

/// What a request has: a letter, the target, further header lines.
type Sent = (char, &'static str, &'static [u8]);

/// The columns of the table. `t` to `w` come through a proxy that is trusted.
const REQUESTS: &[Sent] = &[
    ('a', "GET /", b""),
    ('b', "GET /", b"X-Canary: always\r\n"),
    ('c', "GET /", b"X-Canary: never\r\nX-Canary: always\r\n"),
    ('d', "GET /", b"X-Canary: always, never\r\n"),
    ('e', "GET /", b"X-Canary:\r\n"),
    ('f', "GET /", b"X-CANARY: ALWAYS\r\n"),
    ('g', "GET /", b"X-Canary: \xe9always\r\n"),
    ('h', "GET /", b"Cookie: ab_test=version_a\r\n"),
    ('i', "GET /", b"Cookie: xab_test=version_a; ab_testx=version_a; n=ab_test=version_a\r\n"),
    ('j', "GET /", b"Cookie: a=1;ab_test=\"version_a\" ; b=2\r\n"),
    ('k', "GET /", b"Cookie: ab_test=version_b; ab_test=version_a\r\n"),
    ('l', "GET /", b"Cookie: x=1\r\nCookie: ab_test=version_a\r\n"),
    ('m', "GET /", b"Cookie: ab_test=\xff\xfe\r\n"),
    ('n', "GET /?uid=10010", b""),
    ('o', "GET /?uid=10011&uid=10010", b""),
    ('p', "GET /?UID=10010&uid", b""),
    ('q', "GET /?uid=100%310", b""),
    ('r', "GET /?xuid=10010&uid2=1", b""),
    ('s', "POST /", b"Content-Length: 0\r\n"),
    ('t', "GET /", b"X-Forwarded-For: 10.1.2.3\r\n"),
    ('u', "GET /", b"X-Forwarded-For: 2001:db8::7\r\n"),
    ('v', "GET /", b"X-Forwarded-For: ::ffff:10.1.2.3\r\n"),
    ('w', "GET /?uid=10010", b"X-Canary: always\r\nCookie: ab_test=version_a\r\nX-Forwarded-For: 10.1.2.3\r\n"),
    ('x', "GET /", b"X-Canary: always-not\r\n"),
];

const LIST: &[u8] = b"# ids and others\r\nalways\r\n\xe9always\nversion_a\n\xff\xfe\n\n  10010\t\n";

/// The rows: a condition, and the requests for which it is true; after `!` those for which it is not.
const TABLE: &[(&str, &str)] = &[
    // A header: any of its lines may pass, each as a whole.
    ("{ header = \"x-canary\", equals = \"always\" }", "bcw"),
    ("{ not = { header = \"x-canary\", equals = \"always\" } }", "!bcw"),
    ("{ not = { not = { header = \"x-canary\", equals = \"always\" } } }", "bcw"),
    ("{ header = \"X-Canary\", equals = \"never\" }", "c"),
    ("{ header = \"x-canary\", equals = \"always, never\" }", "d"),
    ("{ header = \"x-canary\", equals = \"\" }", "e"),
    ("{ header = \"x-canary\", present = true }", "bcdefgwx"),
    ("{ header = \"x-canary\", present = false }", "!bcdefgwx"),
    ("{ not = { header = \"x-canary\", present = true } }", "!bcdefgwx"),
    ("{ header = \"x-absent\", present = false }", "!"),
    ("{ header = \"x-canary\", in = [\"never\", \"ALWAYS\"] }", "cf"),
    ("{ not = { header = \"x-canary\", in = [\"never\", \"ALWAYS\"] } }", "!cf"),
    ("{ header = \"x-canary\", prefix = \"al\" }", "bcdwx"),
    ("{ header = \"x-canary\", suffix = \"ways\" }", "bcgw"),
    ("{ not = { header = \"x-canary\", suffix = \"ways\" } }", "!bcgw"),
    ("{ header = \"x-canary\", regex = '^al' }", "bcdwx"),
    ("{ header = \"x-canary\", regex = 'always' }", "bcdgwx"),
    ("{ header = \"x-canary\", regex = '(?i)^always$' }", "bcfw"),
    ("{ header = \"x-canary\", regex = '(?-u)^\\xe9' }", "g"),
    ("{ header = \"x-canary\", regex = '^$' }", "e"),
    ("{ header = \"x-canary\", regex = '^(a+)+$' }", ""),
    ("{ header = \"x-canary\", in_file = \"list.txt\" }", "bcgw"),
    ("{ not = { header = \"x-canary\", in_file = \"list.txt\" } }", "!bcgw"),
    // A cookie: the first of exactly that name.
    ("{ cookie = \"ab_test\", equals = \"version_a\" }", "hjlw"),
    ("{ not = { cookie = \"ab_test\", equals = \"version_a\" } }", "!hjlw"),
    ("{ cookie = \"AB_TEST\", equals = \"version_a\" }", ""),
    ("{ cookie = \"xab_test\", equals = \"version_a\" }", "i"),
    ("{ cookie = \"n\", equals = \"ab_test=version_a\" }", "i"),
    ("{ cookie = \"x\", present = true }", "l"),
    ("{ cookie = \"b\", equals = \"2\" }", "j"),
    ("{ cookie = \"ab_test\", present = true }", "hjklmw"),
    ("{ cookie = \"ab_test\", present = false }", "!hjklmw"),
    ("{ cookie = \"ab_test\", in = [\"version_b\", \"version_c\"] }", "k"),
    ("{ cookie = \"ab_test\", prefix = \"version\" }", "hjklw"),
    ("{ cookie = \"ab_test\", suffix = \"_a\" }", "hjlw"),
    ("{ not = { cookie = \"ab_test\", prefix = \"version\" } }", "!hjklw"),
    ("{ cookie = \"ab_test\", regex = '^version_[ab]$' }", "hjklw"),
    ("{ cookie = \"ab_test\", regex = '(?-u)^[\\x80-\\xff]+$' }", "m"),
    ("{ cookie = \"ab_test\", in_file = \"list.txt\" }", "hjlmw"),
    ("{ not = { cookie = \"ab_test\", in_file = \"list.txt\" } }", "!hjlmw"),
    // A query parameter: the first of exactly that name, not decoded.
    ("{ query = \"uid\", equals = \"10010\" }", "nw"),
    ("{ not = { query = \"uid\", equals = \"10010\" } }", "!nw"),
    ("{ query = \"UID\", equals = \"10010\" }", "p"),
    ("{ query = \"uid\", equals = \"100%310\" }", "q"),
    ("{ query = \"uid\", equals = \"\" }", "p"),
    ("{ query = \"uid\", present = true }", "nopqw"),
    ("{ query = \"uid\", present = false }", "!nopqw"),
    ("{ query = \"uid\", in = [\"10010\", \"10011\"] }", "now"),
    ("{ query = \"uid\", prefix = \"100\" }", "noqw"),
    ("{ query = \"uid\", suffix = \"0\" }", "nqw"),
    ("{ query = \"uid\", regex = '[02468]$' }", "nqw"),
    ("{ query = \"uid\", regex = '^$' }", "p"),
    ("{ query = \"uid\", in_file = \"list.txt\" }", "nw"),
    ("{ not = { query = \"uid\", in_file = \"list.txt\" } }", "!nw"),
    // The method.
    ("{ method = \"POST\" }", "s"),
    ("{ method = [\"GET\", \"HEAD\"] }", "!s"),
    ("{ not = { method = \"GET\" } }", "s"),
    // The client's address.
    ("{ ip = \"10.0.0.0/8\" }", "tvw"),
    ("{ not = { ip = \"10.0.0.0/8\" } }", "!tvw"),
    ("{ ip = \"10.1.2.3\" }", "tvw"),
    ("{ ip = \"10.1.2.2/31\" }", "tvw"),
    ("{ ip = \"10.1.2.4/30\" }", ""),
    ("{ ip = \"::ffff:10.0.0.0/104\" }", "tvw"),
    ("{ ip = [\"2001:db8::/32\"] }", "u"),
    ("{ ip = [\"10.0.0.0/8\", \"2001:db8::7\", \"10.1.0.0/16\"] }", "tuvw"),
    ("{ ip = \"127.0.0.1\" }", "!tuvw"),
    ("{ ip = \"0.0.0.0/0\" }", "!u"),
    ("{ ip = \"::/0\" }", "u"),
    // Together.
    (
        "{ all = [{ header = \"x-canary\", equals = \"always\" }, { cookie = \"ab_test\", equals = \"version_a\" }] }",
        "w",
    ),
    (
        "{ any = [{ header = \"x-canary\", equals = \"always\" }, { cookie = \"ab_test\", equals = \"version_a\" }] }",
        "bchjlw",
    ),
    (
        "{ all = [{ header = \"x-canary\", present = true }, { not = { header = \"x-canary\", equals = \"always\" } }] }",
        "defgx",
    ),
    (
        "{ not = { any = [{ header = \"x-canary\", present = true }, { cookie = \"ab_test\", present = true }, { query = \"uid\", present = true }] } }",
        "airstuv",
    ),
    (
        "{ any = [{ all = [{ header = \"x-canary\", equals = \"always\" }, { ip = \"10.0.0.0/8\" }] }, { all = [{ method = \"POST\" }, { cookie = \"x\", present = false }] }] }",
        "ws",
    ),
    (
        "{ all = [{ query = \"uid\", present = false }, { any = [{ header = \"x-canary\", regex = '^al' }, { cookie = \"ab_test\", in_file = \"list.txt\" }] }] }",
        "bcdxhjlm",
    ),
    ("{ any = [{ method = \"POST\" }, { ip = \"2001:db8::/32\" }, { query = \"uid\", equals = \"\" }] }", "sup"),
    ("{ all = [{ any = [{ method = \"GET\" }] }, { not = { all = [{ ip = \"127.0.0.0/8\" }] } }] }", "tuvw"),
];

fn expected(row: &str, letter: char) -> bool {
    match row.strip_prefix('!') {
        Some(not) => !not.contains(letter),
        None => row.contains(letter),
    }
}

/// A route for this host whose rules are these conditions, each forcing `canary`; the rest gets `stable`.
fn route(host: &str, conditions: &[&str]) -> String {
    let rule = |(n, when): (usize, &&str)| {
        format!("[[route.rule]]\nname = \"rule {n}\"\nwhen = {when}\nvariant = \"canary\"\n")
    };
    let rules: String = conditions.iter().enumerate().map(rule).collect();
    format!(
        "[[route]]\nname = \"{host}\"\nmatch = {{ host = \"{host}\" }}\nvariants = {{ stable = \"stable\", canary = \"canary\" }}\n\
         active = \"stable\"\n{rules}"
    )
}

const TRUSTING: &str = "workers = 2\ntrusted_proxies = [\"127.0.0.0/8\"]";

fn site(upstreams: &[Upstream; 2]) -> Site {
    let site = Site::new().pool("stable", &[upstreams[0].addr], "").pool("canary", &[upstreams[1].addr], "");
    std::fs::write(site.folder.path().join("list.txt"), LIST).expect("the temporary folder is writable");
    site
}

fn upstreams() -> [Upstream; 2] {
    [Upstream::named("stable"), Upstream::named("canary")]
}

fn ask(client: &mut Wire, host: &str, (_, target, fields): &Sent) -> Answer {
    let head = format!("{target} HTTP/1.1\r\nHost: {host}\r\n");
    client.send([head.as_bytes(), fields, b"\r\n"].concat()).answer()
}

/// Every condition with every request, alone and behind enough other rules that they are not asked one by one.
#[test]
fn conditions_hold_as_the_table_says() {
    let upstreams = upstreams();
    let mut site = site(&upstreams).server(TRUSTING);
    let padding: Vec<String> =
        (0..40).map(|n| format!("{{ header = \"x-canary\", equals = \"no such {n}\" }}")).collect();
    for (row, (condition, _)) in TABLE.iter().enumerate() {
        let many: Vec<&str> = padding.iter().map(String::as_str).chain([*condition]).collect();
        site = site.toml(&route(&format!("few{row}.test"), &[condition]));
        site = site.toml(&route(&format!("many{row}.test"), &many));
    }
    let weir = site.start();
    let mut client = weir.client();
    let mut wrong = Vec::new();
    let mut asked = 0;
    for (row, (condition, letters)) in TABLE.iter().enumerate() {
        for request in REQUESTS {
            for host in [format!("few{row}.test"), format!("many{row}.test")] {
                let variant = ask(&mut client, &host, request).text().to_owned();
                let right = if expected(letters, request.0) { "canary" } else { "stable" };
                asked += 1;
                if variant != right {
                    wrong.push(format!("{condition} with {}: {variant} ({host})", request.0));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {asked} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(asked, TABLE.len() * REQUESTS.len() * 2);
    let counted = |forced| weir.metric("weir_requests_total", &[("forced", forced), ("code", "2xx")]);
    let forced = TABLE.iter().flat_map(|(_, letters)| REQUESTS.iter().filter(|r| expected(letters, r.0))).count() * 2;
    eventually("each request is counted once, the matched ones as forced", || {
        (counted("true"), counted("false")) == (forced as f64, (asked - forced) as f64)
    });
}

#[test]
fn the_first_rule_that_matches_decides() {
    let names = ["none", "one", "two", "three"];
    let upstreams = names.map(Upstream::named);
    let mut weir_site = Site::new();
    for (name, upstream) in names.iter().zip(&upstreams) {
        weir_site = weir_site.pool(name, &[upstream.addr], "");
    }
    let variants = names.map(|name| format!("{name} = \"{name}\"")).join(", ");
    let rule = |name: &str, when: &str, then: &str| {
        format!("[[route.rule]]\nname = \"{name}\"\nwhen = {when}\nvariant = \"{then}\"\n")
    };
    let rules = |padding: usize| {
        let padding: String =
            (0..padding).map(|n| rule(&format!("pad {n}"), "{ cookie = \"pad\", present = true }", "none")).collect();
        let first = rule("first", "{ header = \"x\", equals = \"1\" }", "one");
        let second = rule("second", "{ cookie = \"c\", present = true }", "two");
        let third = rule("third", "{ header = \"x\", present = true }", "three");
        let last = rule("last", "{ not = { header = \"y\", present = true } }", "one");
        format!("{first}{padding}{second}{third}{last}")
    };
    for (host, padding) in [("few.test", 0), ("many.test", 60)] {
        weir_site = weir_site.toml(&format!(
            "[[route]]\nname = \"{host}\"\nmatch = {{ host = \"{host}\" }}\nvariants = {{ {variants} }}\nactive = \"none\"\n{}",
            rules(padding)
        ));
    }
    let weir = weir_site.start();
    let mut client = weir.client();
    for (fields, variant) in [
        (&b"X: 1\r\nCookie: c=1\r\n"[..], "one"),
        (b"Cookie: c=1\r\nX: 2\r\n", "two"),
        (b"X: 2\r\n", "three"),
        (b"X: 2\r\nX: 1\r\n", "one"),
        (b"Y: 1\r\n", "none"),
        (b"", "one"),
    ] {
        for host in ["few.test", "many.test"] {
            let answer = ask(&mut client, host, &(' ', "GET /", fields));
            assert_eq!(answer.text(), variant, "{host} {}", fields.escape_ascii());
        }
    }
}

#[test]
fn a_strangers_forwarded_address_is_not_believed() {
    let upstreams = upstreams();
    let weir = site(&upstreams).toml(&route("ip.test", &["{ ip = \"10.0.0.0/8\" }"])).start();
    let forwarded = (' ', "GET /", &b"X-Forwarded-For: 10.1.2.3\r\nForwarded: for=10.1.2.3\r\n"[..]);
    assert_eq!(ask(&mut weir.client(), "ip.test", &forwarded).text(), "stable");
}

/// Ten thousand rules of every kind, and requests made to be expensive for them.
#[test]
fn hostile_values_take_bounded_time() {
    let upstreams = upstreams();
    let mut conditions: Vec<String> = Vec::new();
    for n in 0..2_000 {
        conditions.push(format!("{{ cookie = \"c{n}\", equals = \"x\" }}"));
        conditions.push(format!("{{ cookie = \"big\", suffix = \"x{n}\" }}"));
        conditions.push(format!("{{ query = \"q{n}\", in = [\"x\", \"y\"] }}"));
        conditions.push(format!("{{ header = \"x-bomb\", equals = \"{n}\" }}"));
        conditions.push(format!("{{ not = {{ header = \"x-{n}\", present = false }} }}"));
    }
    for bomb in ["^(a+)+$", "^(a|aa)+$", "^(.*a){12}$", "(x+x+)+y"] {
        conditions.push(format!("{{ header = \"x-bomb\", regex = '{bomb}' }}"));
        conditions.push(format!("{{ cookie = \"big\", regex = '{bomb}' }}"));
    }
    let conditions: Vec<&str> = conditions.iter().map(String::as_str).collect();
    let weir = site(&upstreams).toml(&route("bomb.test", &conditions)).start();
    let mut client = weir.client();
    let many: Vec<String> = (5_000..5_100).map(|n| format!("c{n}={}", "v".repeat(70))).collect();
    let many = format!("Cookie: {}\r\n", many.join("; "));
    let big = format!("Cookie: big={}!\r\n", "a".repeat(8_000));
    let empty = format!("Cookie: {}\r\n", "a=;".repeat(2_600));
    let bomb = format!("X-Bomb: {}!\r\n", "a".repeat(8_000));
    let xs = format!("X-Bomb: {}\r\n", "x".repeat(8_000));
    let raw = [b"X-Bomb: ".to_vec(), vec![0xff; 8_000], b"\r\n".to_vec()].concat();
    let query = format!("GET /?{}", "a=&".repeat(2_600));
    let began = Instant::now();
    let mut asked = 0;
    for _ in 0..5 {
        for fields in [many.as_bytes(), big.as_bytes(), empty.as_bytes(), bomb.as_bytes(), xs.as_bytes(), &raw] {
            let head = b"GET / HTTP/1.1\r\nHost: bomb.test\r\n".to_vec();
            assert_eq!(client.send([&head, fields, b"\r\n"].concat()).answer().text(), "stable");
            asked += 1;
        }
        let answer = client.send(format!("{query} HTTP/1.1\r\nHost: bomb.test\r\n\r\n")).answer();
        assert_eq!(answer.text(), "stable");
        asked += 1;
    }
    let each = began.elapsed() / asked;
    // Without an index, or with a regular expression that backtracks, this is seconds to years. A debug build on a busy
    // machine took 13 ms.
    assert!(each < Duration::from_millis(200), "{each:?} a request");
}
