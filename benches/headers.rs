//! What header work costs a request on its way to the target, and an answer on its way back.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::hint::black_box;
use std::net::IpAddr;
use weir::proxy::headers::{Hop, for_client, for_target};

fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(16);
    for (name, value) in lines {
        headers.append(*name, http::HeaderValue::from_static(value));
    }
    headers
}

fn header_work(c: &mut Criterion) {
    let hop = Hop::new(IpAddr::from([192, 0, 2, 7]), false, false);
    let mut rng = SmallRng::seed_from_u64(1);
    let plain = map(&[("host", "shop.example"), ("user-agent", "bench"), ("accept", "*/*")]);
    let browser = map(&[
        ("host", "shop.example"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("accept-language", "en-US,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("connection", "keep-alive"),
        ("cookie", "session=0123456789abcdef; theme=dark"),
        ("x-forwarded-for", "203.0.113.9"),
        ("priority", "u=0, i"),
    ]);
    let answer = map(&[("server", "nginx"), ("content-type", "text/html"), ("connection", "keep-alive")]);
    for (name, headers) in [("request of 3 fields", plain), ("request of a browser", browser)] {
        c.bench_function(name, |b| {
            b.iter_batched_ref(
                || headers.clone(),
                |headers| black_box(for_target(headers, &hop, None, &mut rng)),
                BatchSize::SmallInput,
            );
        });
    }
    c.bench_function("answer of 3 fields", |b| {
        b.iter_batched_ref(|| answer.clone(), |headers| for_client(black_box(headers)), BatchSize::SmallInput);
    });
}

criterion_group!(benches, header_work);
criterion_main!(benches);
