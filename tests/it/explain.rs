//! Explain says what the proxy does: random requests are sent through it and described to it, and both must agree on
//! route, variant, rule and whether it was forced.

use crate::support::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

const SEED: u64 = 0x0005_EED0_FEC5;
const REQUESTS: usize = 10_000;
const CLIENTS: usize = 4;

/// A route of the test: what it matches, how it knows clients, and the weights of `w1`, `w2` and `w3`.
struct Route {
    name: &'static str,
    matches: &'static str,
    sticky: &'static str,
    weights: [&'static str; 3],
}

/// Every answer tells its rule: each rule has variants of its own, which have no share without it.
const VARIANTS: [&str; 8] = ["w1", "w2", "w3", "forced", "tester", "half1", "half2", "both"];

const RULES: &str = r#"
[[route.rule]]
name = "by cookie"
when = { cookie = "force", equals = "yes" }
variant = "forced"
[[route.rule]]
name = "testers"
when = { any = [{ header = "x-tester", regex = "[02468]$" }, { query = "tester", present = true }] }
variant = "tester"
[[route.rule]]
name = "halves"
when = { all = [{ header = "x-region", in = ["beijing", "shanghai"] }, { not = { method = "POST" } }] }
weights = { w1 = 0, w2 = 0, w3 = 0, forced = 0, tester = 0, half1 = 33.333, half2 = 66.667, both = 0 }
[[route.rule]]
name = "all of it"
when = { header = "x-region", prefix = "eu-" }
weights = { w1 = 0, w2 = 0, w3 = 0, forced = 0, tester = 0, half1 = 0, half2 = 0, both = 100 }
"#;

const ROUTES: [Route; 7] = [
    Route {
        name: "header",
        matches: "host = \"shop.test\"",
        sticky: "key = [\"header:x-user-id\", \"cookie:uid\"], fallback = \"ip\"",
        weights: ["94.999", "5.001", "0"],
    },
    Route {
        name: "query",
        matches: "host = \"shop.test\", path = \"/api\"",
        sticky: "key = [\"query:uid\", \"header:x-user-id\"], fallback = \"ip\"",
        weights: ["33.333", "33.333", "33.334"],
    },
    Route {
        name: "cookie",
        matches: "host = \"*.test\"",
        sticky: "key = [\"cookie:uid\"], fallback = \"ip\"",
        weights: ["50", "0.001", "49.999"],
    },
    Route {
        name: "address",
        matches: "host = \"*.test\", path = \"/ip\"",
        sticky: "fallback = \"ip\"",
        weights: ["10", "20", "70"],
    },
    Route {
        name: "exact",
        matches: "host = \"[::1]\", path_exact = \"/api/ping\"",
        sticky: "key = [\"header:x-user-id\"], fallback = \"ip\"",
        weights: ["99.999", "0", "0.001"],
    },
    Route {
        name: "scheme",
        matches: "scheme = \"https\", host = \"*.test\"",
        sticky: "fallback = \"ip\"",
        weights: ["50", "50", "0"],
    },
    Route {
        name: "any",
        matches: "path = \"/api\"",
        sticky: "key = [\"query:uid\"], fallback = \"ip\"",
        weights: ["0", "60", "40"],
    },
];

/// A Weir with the routes, and a target for each variant that answers `route/variant`.
fn start() -> (Weir, Vec<Upstream>) {
    let mut site = Site::new().server("workers = 2\ntrusted_proxies = [\"127.0.0.1\"]\nstate_dir = \"state\"");
    let mut upstreams = Vec::new();
    for Route { name, matches, sticky, weights } in &ROUTES {
        for variant in VARIANTS {
            let told = format!("{name}/{variant}");
            let upstream = Upstream::answering(move |_| Reply::text(&told));
            site = site.pool(&format!("{name}-{variant}"), &[upstream.addr], "");
            upstreams.push(upstream);
        }
        let pools = VARIANTS.map(|variant| format!("{variant} = \"{name}-{variant}\"")).join(", ");
        let shares =
            weights.iter().chain(&["0"; 5]).zip(VARIANTS).map(|(weight, variant)| format!("{variant} = {weight}"));
        let shares = shares.collect::<Vec<_>>().join(", ");
        site = site.toml(&format!(
            "[[route]]\nname = \"{name}\"\nmatch = {{ {matches} }}\nvariants = {{ {pools} }}\nweights = {{ {shares} }}\nsticky = {{ {sticky} }}\n{RULES}"
        ));
    }
    (site.start(), upstreams)
}

/// A request as it is sent and as it is described.
struct Random {
    method: &'static str,
    /// As in the request line: a path, a whole URL or `*`.
    target: String,
    host: String,
    fields: Vec<(&'static str, String)>,
}

fn one_of<'a>(rng: &mut StdRng, choices: &[&'a str]) -> &'a str {
    choices[rng.random_range(0..choices.len())]
}

impl Random {
    fn new(rng: &mut StdRng) -> Random {
        let hosts = ["shop.test", "SHOP.Test.:81", "a.test", "b.a.test:80", "[::1]:8080", "[0:0::1]", "else", "test"];
        let paths = ["/", "/api", "/api/", "/api/ping", "/apix", "/ip", "/ip/%7e/..//x", "/a.b;c=1"];
        let mut fields = Vec::new();
        let mut maybe = |rng: &mut StdRng, chance: f64, name, value: String| {
            if rng.random_bool(chance) {
                fields.push((name, value));
            }
        };
        let id: u32 = rng.random_range(0..1_000_000);
        let region = one_of(rng, &["beijing", "shanghai", "eu-west", "EU-west", "mars"]).to_owned();
        maybe(rng, 0.1, "X-User-Id", String::new());
        maybe(rng, 0.6, "X-User-Id", format!(" user-{id}\t"));
        maybe(rng, 0.02, "x-user-id", "k".repeat(4_097));
        maybe(rng, 0.1, "X-Other", "läden 用户".to_owned());
        maybe(rng, 0.3, "Cookie", format!("xuid=no; uid={id}; uid=second"));
        maybe(rng, 0.2, "cookie", format!("a=b;uid=\"q{id}\""));
        maybe(rng, 0.05, "Cookie", "force=yes".to_owned());
        maybe(rng, 0.05, "Cookie", "xforce=yes; forcex=yes; force=no".to_owned());
        maybe(rng, 0.2, "X-Tester", format!("{}", id % 100));
        maybe(rng, 0.3, "X-Region", region);
        maybe(rng, 0.1, "X-Region", "shanghai".to_owned());
        maybe(rng, 0.8, "X-Forwarded-For", format!("6.6.6.6, 10.{}.{}.{}", id % 200, id % 251, id % 13));
        maybe(rng, 0.1, "X-Forwarded-For", "::ffff:192.0.2.7, 127.0.0.1".to_owned());
        maybe(rng, 0.05, "X-Forwarded-For", "unknown".to_owned());
        let proto = one_of(rng, &["https", "HTTPS", "http", "wss"]).to_owned();
        maybe(rng, 0.2, "X-Forwarded-Proto", proto);
        let path = one_of(rng, &paths);
        let query = match rng.random_range(0..6) {
            0 => format!("?uid={id}"),
            1 => format!("?auid=1&uid=q%20{id}&uid=3"),
            2 => "?uid".to_owned(),
            3 => "?tester".to_owned(),
            _ => String::new(),
        };
        let host = one_of(rng, &hosts).to_owned();
        let (method, target) = match rng.random_range(0..40) {
            0 => ("OPTIONS", "*".to_owned()),
            1 => ("GET", format!("http://{host}{path}{query}")),
            2..8 => ("POST", format!("{path}{query}")),
            8 => ("PURGE", format!("{path}{query}")),
            _ => ("GET", format!("{path}{query}")),
        };
        Random { method, target, host, fields }
    }

    fn sent(&self) -> String {
        let Random { method, target, host, .. } = self;
        let fields: String = self.fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = if *method == "POST" { "Content-Length: 0\r\n" } else { "" };
        format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}{length}\r\n")
    }

    fn described(&self) -> String {
        let mut headers: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (name, value) in &self.fields {
            headers.entry(name.to_ascii_lowercase()).or_default().push(value);
        }
        json!({"method": self.method, "path": self.target, "host": self.host, "headers": headers}).to_string()
    }
}

/// What the answer of the proxy tells: the route, the variant, and by that the rule and whether it was forced.
fn done(answer: &Answer) -> Value {
    if answer.status == 404 {
        return json!({"route": null, "variant": null, "rule": null, "forced": false});
    }
    assert_eq!(answer.status, 200, "{answer:?}");
    let (route, variant) = answer.text().split_once('/').expect("targets tell their route and variant");
    let rule = match variant {
        "forced" => json!("by cookie"),
        "tester" => json!("testers"),
        "half1" | "half2" => json!("halves"),
        "both" => json!("all of it"),
        _ => Value::Null,
    };
    json!({"route": route, "variant": variant, "rule": rule, "forced": matches!(variant, "forced" | "tester")})
}

/// Sends and describes `count` requests on one connection each; how often each route, variant and rule was seen.
fn compare(weir: &Weir, seed: u64, count: usize) -> HashMap<String, u64> {
    let rng = &mut StdRng::seed_from_u64(seed);
    let (mut client, mut admin) = (weir.client(), Wire::connect(weir.addr("admin")));
    let mut seen = HashMap::new();
    for nth in 0..count {
        if nth % 250 == 0 {
            // Before it is as old as an admin connection may become, also on a busy machine.
            admin = Wire::connect(weir.addr("admin"));
        }
        let request = Random::new(rng);
        let did = done(&client.send(request.sent()).answer());
        let body = request.described();
        let head = format!(
            "POST /api/v1/explain HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            weir.addr("admin"),
            body.len()
        );
        let answer = admin.send(head + &body).answer();
        assert_eq!(answer.status, 200, "seed {seed}, request {nth}: {}{answer:?}", request.sent());
        let said = answer.json();
        for member in ["route", "variant", "rule", "forced"] {
            assert_eq!(said[member], did[member], "{member}: seed {seed}, request {nth}: {}{said:#}", request.sent());
        }
        assert_ne!(said["key"]["source"], "random", "every request has a key: {said:#}");
        *seen.entry(format!("{} {} {}", did["route"], did["variant"], did["forced"])).or_insert(0) += 1;
        *seen.entry(format!("key {}", said["key"]["source"])).or_insert(0) += 1;
        *seen.entry(format!("rule {}", said["rule"])).or_insert(0) += 1;
    }
    seen
}

#[test]
fn explain_agrees_with_what_the_proxy_did_for_10_000_random_requests() {
    let (weir, _upstreams) = start();
    let seen = std::thread::scope(|scope| {
        let weir = &weir;
        let clients: Vec<_> =
            (0..CLIENTS as u64).map(|nth| scope.spawn(move || compare(weir, SEED + nth, REQUESTS / CLIENTS))).collect();
        let mut seen: HashMap<String, u64> = HashMap::new();
        for client in clients {
            for (what, count) in client.join().expect("the client's thread did not panic") {
                *seen.entry(what).or_default() += count;
            }
        }
        seen
    });
    // The requests reach what they are to compare.
    for what in [
        r#"null null false"#,
        r#""header" "w1" false"#,
        r#""header" "w2" false"#,
        r#""query" "w3" false"#,
        r#""cookie" "w3" false"#,
        r#""address" "w2" false"#,
        r#""exact" "w1" false"#,
        r#""any" "w2" false"#,
        r#""scheme" "w2" false"#,
        r#"key "header:x-user-id""#,
        r#"key "cookie:uid""#,
        r#"key "query:uid""#,
        r#"key "ip""#,
        r#"rule "by cookie""#,
        r#"rule "testers""#,
        r#"rule "halves""#,
        r#"rule "all of it""#,
    ] {
        assert!(seen.get(what).is_some_and(|count| *count >= 20), "{what} in {seen:#?}");
    }
    let forced: u64 = seen.iter().filter(|(what, _)| what.ends_with(" true")).map(|(_, count)| count).sum();
    eventually("all are counted, forced ones apart", || {
        weir.metric("weir_requests_total", &[("forced", "true")]) == forced as f64
            && weir.metric("weir_requests_total", &[]) + seen["null null false"] as f64 == REQUESTS as f64
    });
}

#[test]
fn what_a_file_filled_in_is_in_no_answer_and_no_log() {
    let (stable, canary) = (Upstream::named("stable"), Upstream::named("canary"));
    let lines = "[[route.rule]]\nname = \"testers\"\nwhen = { header = \"x-canary\", equals = \"${file:key}\" }\nvariant = \"canary\"\n\
                 [[route.rule]]\nname = \"listed\"\nwhen = { header = \"x-canary\", in_file = \"${file:key}\" }\nvariant = \"canary\"\n\
                 [[route]]\nname = \"other\"\nmatch = { path = \"/${file:key}/\" }\nrespond = { status = 200 }";
    let site = split_site(&[("stable", &stable, "95"), ("canary", &canary, "5")], lines);
    for (file, content) in [("key", "s3cret"), ("s3cret", "1\n")] {
        std::fs::write(site.folder.path().join(file), content).expect("the temporary folder is writable");
    }
    let weir = site.start();
    assert_eq!(weir.get("/", "x-canary: s3cret\r\n").text(), "canary");
    weir.shift("shop", "\"canary\":20");
    let list = weir.site.folder.path().join("s3cret");
    std::fs::write(&list, "1\n2\n").expect("the temporary folder is writable");
    eventually("the list's new line counts", || weir.get("/", "x-canary: 2\r\n").text() == "canary");
    std::fs::remove_file(&list).expect("the list can be removed");
    eventually("the log says that the list is gone", || weir.log().contains("the list can't be read"));
    assert_eq!(weir.cli(&["reload"]).status.code(), Some(1), "a list is missing");
    let mut said = String::new();
    for args in [
        &["explain", "-H", "x-canary: no", "http://a/"][..],
        &["explain", "-o", "json", "-H", "x-canary: no", "http://a/"],
        &["diff"],
        &["diff", "-o", "json"],
        &["history", "shop"],
        &["status"],
    ] {
        let output = weir.cli(args);
        said += &format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    assert!(said.contains(r#"header x-canary is "no", not "${file:key}""#), "{said}");
    assert!(said.contains("${file:key} does not list") && said.contains("not under /${file:key}/"), "{said}");
    said += weir.admin("GET", "/api/v1/config/effective", "", "").text();
    said += &std::fs::read_to_string(weir.site.folder.path().join("state/audit.jsonl")).expect("it is there");
    said += &weir.log();
    assert!(!said.contains("s3cret"), "{said}");
}

#[test]
fn the_command_line_tells_the_story_and_changes_nothing() {
    let (stable, canary) = (Upstream::named("stable"), Upstream::named("canary"));
    let lines = "sticky = { key = [\"header:x-user-id\"], fallback = \"cookie\" }\n[[route.rule]]\nname = \"testers\"\nwhen = { header = \"x-canary\", equals = \"always\" }\nvariant = \"canary\"";
    let weir = split_site(&[("stable", &stable, "95"), ("canary", &canary, "5")], lines).start();
    let before = weir.route("shop");
    let told = |args: &[&str]| {
        let output = weir.cli(&[&["explain"], args].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let known = told(&["-H", "X-User-Id: user-1", "http://shop.test/cart?x=1#top"]);
    assert!(known.contains("41716") && known.contains("- testers: header x-canary is absent"), "{known}");
    assert!(known.ends_with("belongs to stable, which has 95 %.\n"), "{known}");
    assert!(known.lines().all(|line| line.chars().count() <= 80), "{known}");
    let forced = told(&["-H", "x-canary: always", "-X", "POST", "--ip", "192.0.2.7", "shop.test"]);
    assert!(forced.contains("+ testers") && forced.contains("forces canary"), "{forced}");
    assert!(forced.contains(&canary.addr.to_string()) && forced.contains("192.0.2.7"), "{forced}");
    let document: Value = serde_json::from_str(&told(&["-o", "json", "http://shop.test/"])).expect("JSON");
    assert_eq!((&document["route"], &document["sets_cookie"]), (&json!("shop"), &json!("weir_shop")));
    for (args, code) in [(&["http://a b/"][..], 1), (&["/"], 2), (&["ftp://a/"], 2), (&[], 2), (&["-H", "x", "a"], 2)] {
        let output = weir.cli(&[&["explain"], args].concat());
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
    assert_eq!((stable.count(), canary.count()), (0, 0), "nothing was sent");
    assert_eq!(weir.route("shop"), before);
}
