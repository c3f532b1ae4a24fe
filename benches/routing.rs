//! What routing costs a request: the look-up by number of routes, the bucket, the hash, the rules.

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use weir::limits::BUCKETS;
use weir::routing::matcher::{HostMatch, PathMatch, RequestMatch};
use weir::routing::rule::{Condition, Outcome, Rule, Subject, Test};
use weir::routing::split::{Assignment, Bucket, Run, Weight};
use weir::routing::sticky::{Fallback, KeySource, Sticky, bucket_of};
use weir::routing::table::{RequestView, Route, RoutingTable, Variant};

const USER_ID: &str = "550e8400-e29b-41d4-a716-446655440000";

criterion_group!(benches, look_up, look_up_of_all, pick, sticky_hash, rules);
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

/// Ten header rules of which none matches, on a request with a browser's headers.
fn rules(c: &mut Criterion) {
    let mut route = route("shop.example.com", "/");
    route.rules = (0..10).map(header_rule).collect();
    let table = RoutingTable::new(vec![route]);
    let mut headers = HeaderMap::new();
    for name in ["accept", "accept-encoding", "accept-language", "user-agent", "referer", "x-user-id", "x-test-9"] {
        headers.insert(name, HeaderValue::from_static(USER_ID));
    }
    let request = view("shop.example.com", "/", &headers);
    let mut rng = StdRng::seed_from_u64(1);
    c.bench_function("route with 10 header rules", |b| b.iter(|| table.route(black_box(&request), &mut rng)));
}

fn route(host: &str, path: &str) -> Route {
    let weights = [95.0, 5.0].map(|percent| Weight::from_percent(percent).expect("a whole percent"));
    let keys = vec![KeySource::Header(HeaderName::from_static("x-user-id"))];
    Route {
        name: "shop".to_owned(),
        matches: RequestMatch {
            host: HostMatch::parse(host).expect("the host is a name"),
            path: PathMatch::prefix(path).expect("the path starts with a slash"),
        },
        variants: ["stable", "canary"].map(|name| Variant { name: name.to_owned(), pool: 0 }).into(),
        assignment: Assignment::starting(&weights).expect("the weights sum to 100"),
        rules: Vec::new(),
        sticky: Some(Sticky { keys, fallback: Fallback::Random }),
        salt: "shop".to_owned(),
        timeout: Duration::from_secs(15),
    }
}

fn header_rule(n: usize) -> Rule {
    let name = HeaderName::from_bytes(format!("x-test-{n}").as_bytes()).expect("a header name");
    let when = Condition::Is(Subject::Header(name), Test::Equals("always".to_owned()));
    Rule { name: format!("test {n}"), when, then: Outcome::Variant(1) }
}

fn view<'r>(host: &'r str, path: &'r str, headers: &'r HeaderMap) -> RequestView<'r> {
    let client_ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    RequestView { host: Some(host), path, query: None, method: &Method::GET, headers, client_ip }
}
