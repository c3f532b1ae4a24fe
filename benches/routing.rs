//! What routing costs a request: the look-up by number of routes, the bucket, the hash, the rules.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use weir::limits::BUCKETS;
use weir::routing::list::ValueList;
use weir::routing::matcher::{HostMatch, PathMatch, RequestMatch};
use weir::routing::networks::Networks;
use weir::routing::pattern::Pattern;
use weir::routing::rule::{Condition, Outcome, Rule, Subject, Test};
use weir::routing::scheme::Scheme;
use weir::routing::split::{Assignment, Bucket, Run, Weight};
use weir::routing::sticky::{Fallback, KeySource, Sticky, bucket_of};
use weir::routing::table::{RequestView, Route, RoutingTable, Variant};

const USER_ID: &str = "550e8400-e29b-41d4-a716-446655440000";

criterion_group!(benches, look_up, look_up_of_all, conditions, pick, sticky_hash, rules, cookies, lists, token);
criterion_main!(benches);

/// A whole decision, sticky by a header, among routes that differ by host or by path.
fn look_up(c: &mut Criterion) {
    let headers = HeaderMap::from_iter([(HeaderName::from_static("x-user-id"), HeaderValue::from_static(USER_ID))]);
    let mut rng = StdRng::seed_from_u64(1);
    for count in [1, 100, 10_000] {
        let last = count - 1;
        let hosts = (0..count).map(|n| route(&format!("shop{n:05}.example.com"), "/"));
        let paths = (0..count).map(|n| route("shop.example.com", &format!("/service{n:05}")));
        let host = format!("shop{last:05}.example.com");
        let path = format!("/service{last:05}/users/42");
        for (by, routes, host, path) in [
            ("hosts", hosts.collect::<Vec<_>>(), host.as_str(), "/service00000/users/42"),
            ("paths", paths.collect(), "shop.example.com", path.as_str()),
        ] {
            let table = RoutingTable::new(routes);
            let request = view(host, path, &headers);
            assert_eq!(table.route(&request, &mut rng).map(|decision| decision.route), Some(last));
            let id = format!("route by {by}/{count}");
            c.bench_function(&id, |b| b.iter(|| table.route(black_box(&request), &mut rng)));
        }
    }
}

/// Every request for another route, in an order that no cache foresees: what many routes cost in memory accesses.
fn look_up_of_all(c: &mut Criterion) {
    let headers = HeaderMap::from_iter([(HeaderName::from_static("x-user-id"), HeaderValue::from_static(USER_ID))]);
    let mut rng = StdRng::seed_from_u64(1);
    for count in [1, 100, 10_000] {
        let table = RoutingTable::new((0..count).map(|n| route(&format!("shop{n:05}.example.com"), "/")).collect());
        let hosts: Vec<String> = (0..10_007).map(|n| format!("shop{:05}.example.com", n * 7919 % count)).collect();
        let mut hosts = hosts.iter().cycle();
        c.bench_function(&format!("route by hosts, each in turn/{count}"), |b| {
            b.iter(|| hosts.next().and_then(|host| table.route(&view(host, "/", &headers), &mut rng)))
        });
    }
}

/// Routes of one host that differ by a header's value or by a regular expression for the path.
fn conditions(c: &mut Criterion) {
    let mut rng = StdRng::seed_from_u64(1);
    for count in [1, 100, 10_000] {
        let last = count - 1;
        let tenant = |n: usize| (Subject::Header(HeaderName::from_static("x-tenant")), Test::Equals(n.to_string()));
        let by_header = (0..count).map(|n| RequestMatch { conditions: vec![tenant(n)], ..RequestMatch::default() });
        let pattern = |n: usize| Pattern::new(&format!("^/service{n}/users/[0-9]+$")).expect("it is an expression");
        let by_path =
            (0..count).map(|n| RequestMatch { path: PathMatch::Regex(pattern(n)), ..RequestMatch::default() });
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-tenant"), HeaderValue::from(last))]);
        let path = format!("/service{last}/users/42");
        for (by, matches) in [("header", by_header.collect::<Vec<_>>()), ("path_regex", by_path.collect())] {
            let routes = matches.into_iter().map(|matches| Route { matches, ..route("shop.example.com", "/") });
            let table = RoutingTable::new(routes.collect());
            let request = view("shop.example.com", &path, &headers);
            assert_eq!(table.route(&request, &mut rng).map(|decision| decision.route), Some(last));
            c.bench_function(&format!("route by {by}/{count}"), |b| {
                b.iter(|| table.route(black_box(&request), &mut rng))
            });
        }
    }
}

fn pick(c: &mut Criterion) {
    let buckets: Vec<Bucket> = (0..1024u64).map(|n| Bucket::of(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    for count in [2, 1_000] {
        let run = |n: u32| Run { end: BUCKETS / count * n, variant: (n % 2) as u8 };
        let assignment = Assignment::from_runs(2, (1..=count).map(run).collect()).expect("the runs are whole");
        let mut next = buckets.iter().cycle();
        let id = format!("pick by runs/{count}");
        c.bench_function(&id, |b| b.iter(|| next.next().map(|&bucket| assignment.pick(bucket))));
    }
}

fn sticky_hash(c: &mut Criterion) {
    c.bench_function("bucket of a 36-byte user id", |b| {
        b.iter(|| bucket_of(black_box("shop"), black_box(USER_ID.as_bytes())));
    });
}

/// Header rules of which none matches, on a request with a browser's headers; the ten thousand are of every kind.
fn rules(c: &mut Criterion) {
    let headers = browser();
    let request = view("shop.example.com", "/", &headers);
    let mut rng = StdRng::seed_from_u64(1);
    let user = |n: usize| header_is("x-user-id", Test::Equals(format!("user-{n}")));
    let regex = |n: usize| {
        let pattern = Pattern::new(&format!("^user-{n}[0-9]+$")).expect("a regular expression");
        header_is("x-user-id", Test::Regex(pattern))
    };
    let not = |n: usize| Condition::Not(Box::new(user(n)));
    for (what, conditions) in [
        ("no rule", Vec::new()),
        ("10 header rules", (0..10).map(other_header).collect::<Vec<_>>()),
        ("15 header rules", (0..15).map(other_header).collect()),
        ("16 header rules", (0..16).map(other_header).collect()),
        ("10,000 rules, a header each", (0..10_000).map(other_header).collect()),
        ("10,000 rules, a value of one header each", (0..10_000).map(user).collect()),
        ("10,000 rules, a regex of one header each", (0..10_000).map(regex).collect()),
        ("10,000 rules, nothing told beforehand", (0..10_000).map(|n| Condition::Not(Box::new(not(n)))).collect()),
    ] {
        let table = RoutingTable::new(vec![with_rules(conditions)]);
        let id = format!("route with {what}");
        assert_eq!(table.route(&request, &mut rng).map(|decision| decision.rule), Some(None), "{what}");
        c.bench_function(&id, |b| b.iter(|| table.route(black_box(&request), &mut rng)));
    }
}

/// A hundred cookies of 8 KB: one rule, and ten thousand that look at one or at many names.
fn cookies(c: &mut Criterion) {
    let pairs: Vec<String> = (0..100).map(|n| format!("c{n}={}", "v".repeat(74))).collect();
    let mut headers = browser();
    headers.insert("cookie", HeaderValue::from_str(&pairs.join("; ")).expect("a header's value"));
    let request = view("shop.example.com", "/", &headers);
    let mut rng = StdRng::seed_from_u64(1);
    let cookie = |name: String, value: String| Condition::Is(Subject::Cookie(name), Test::Suffix(value));
    for (what, conditions) in [
        ("a cookie rule", vec![cookie("ab_test".to_owned(), "a".to_owned())]),
        ("10,000 rules on one cookie", (0..10_000).map(|n| cookie("c99".to_owned(), n.to_string())).collect()),
        ("10,000 rules on as many cookies", (0..10_000).map(|n| cookie(format!("c{n}"), "a".to_owned())).collect()),
    ] {
        let table = RoutingTable::new(vec![with_rules(conditions)]);
        let id = format!("8 KB of cookies, {what}");
        c.bench_function(&id, |b| b.iter(|| table.route(black_box(&request), &mut rng)));
    }
}

/// A million ids: reading the file's text, a look-up of one that is there and of one that is not; and many networks.
fn lists(c: &mut Criterion) {
    let text: String = (0..1_000_000).map(|n| format!("user-{n:07}\n")).collect();
    let mut slow = c.benchmark_group("a list of a million");
    slow.sample_size(10);
    slow.bench_function("read", |b| {
        b.iter_batched(|| text.clone().into_bytes(), ValueList::new, BatchSize::PerIteration);
    });
    slow.finish();
    let list = ValueList::new(text.into_bytes()).expect("a million lines are allowed");
    println!("a list of a million takes {} bytes", list.memory());
    let ids: Vec<String> = (0..10_007).map(|n| format!("user-{:07}", n * 7919 * 13 % 2_000_000)).collect();
    let (there, not): (Vec<&String>, Vec<&String>) = ids.iter().partition(|id| list.contains(id.as_bytes()));
    for (what, ids) in [("hit", there), ("miss", not)] {
        let mut ids = ids.iter().cycle();
        c.bench_function(&format!("a list of a million/{what}"), |b| {
            b.iter(|| ids.next().map(|id| list.contains(id.as_bytes())))
        });
    }
    for count in [1_u32, 10_000] {
        let networks = (0..count).map(|n| ipnet::Ipv4Net::new((n << 12).into(), 24).expect("24 bits").into());
        let networks = Networks::new(networks.collect());
        let ip = IpAddr::V4(Ipv4Addr::new(1, 2, 3, 4));
        c.bench_function(&format!("an address in networks/{count}"), |b| b.iter(|| networks.contains(black_box(ip))));
    }
}

/// A key out of a token of the usual size.
fn token(c: &mut Criterion) {
    let token = "Bearer eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJodHRwczovL2lkLmV4YW1wbGUuY29tIiwiYXVkIjoic2hvcCIsInN1Y\
                 iI6IjU1MGU4NDAwLWUyOWItNDFkNC1hNzE2LTQ0NjY1NTQ0MDAwMCIsImV4cCI6MTcwMDAwMDAwMCwiaWF0IjoxNzAwMDAwMDAwLCJzY29wZ\
                 SI6Im9wZW5pZCBwcm9maWxlIn0.c2lnbmF0dXJl";
    let mut headers = browser();
    headers.insert("authorization", HeaderValue::from_static(token));
    let source = KeySource::Jwt("sub".to_owned());
    let request = view("shop.example.com", "/", &headers);
    assert_eq!(source.key(&request).as_deref(), Some(USER_ID.as_bytes()));
    c.bench_function("key of a token's claim", |b| b.iter(|| source.key(black_box(&request))));
}

fn browser() -> HeaderMap {
    let names = [
        "host",
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "referer",
        "sec-ch-ua",
        "sec-ch-ua-mobile",
        "sec-ch-ua-platform",
        "sec-fetch-dest",
        "sec-fetch-mode",
        "sec-fetch-site",
        "user-agent",
        "x-user-id",
        "x-test-9",
    ];
    names.into_iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static(USER_ID))).collect()
}

fn with_rules(conditions: Vec<Condition>) -> Route {
    let rule = |(n, when)| Rule { name: format!("rule {n}"), when, then: Outcome::Variant(1) };
    let rules = conditions.into_iter().enumerate().map(rule).collect();
    Route { rules, ..route("shop.example.com", "/") }
}

fn other_header(n: usize) -> Condition {
    let name = HeaderName::from_bytes(format!("x-test-{n}").as_bytes()).expect("a header name");
    Condition::Is(Subject::Header(name), Test::Equals("always".to_owned()))
}

fn header_is(name: &'static str, test: Test) -> Condition {
    Condition::Is(Subject::Header(HeaderName::from_static(name)), test)
}

fn route(host: &str, path: &str) -> Route {
    let weights = [95.0, 5.0].map(|percent| Weight::from_percent(percent).expect("a whole percent"));
    let keys = vec![KeySource::Header(HeaderName::from_static("x-user-id"))];
    Route {
        name: "shop".to_owned(),
        matches: RequestMatch {
            host: HostMatch::parse(host).expect("the host is a name"),
            path: PathMatch::prefix(path).expect("the path starts with a slash"),
            ..RequestMatch::default()
        },
        variants: ["stable", "canary"]
            .map(|name| Variant { name: name.to_owned(), pool: Some(0), instead: None })
            .into(),
        assignment: Assignment::starting(&weights).expect("the weights sum to 100"),
        rules: Vec::new(),
        sticky: Some(Sticky { keys, fallback: Fallback::Random }),
        salt: "shop".to_owned(),
        timeout: Duration::from_secs(15),
        request_timeout: None,
        close_moved_within: None,
        filters: None,
        recovery: None,
    }
}

fn view<'r>(host: &'r str, path: &'r str, headers: &'r HeaderMap) -> RequestView<'r> {
    let client_ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    RequestView { scheme: Scheme::Http, host: Some(host), path, query: None, method: &Method::GET, headers, client_ip }
}
