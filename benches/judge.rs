//! What a check costs: of errors alone, and of everything with full histograms.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use weir::judge::{Bound, Buckets, Check, Counts, Judge, NoData, Policy, Quantile, Sample, Scalar, Share, Verdict};

criterion_group!(benches, check);
criterion_main!(benches);

const BUCKETS: usize = 200;

fn counts(requests: u64, failures: u64) -> Counts {
    let histogram = (0..BUCKETS as u64).map(|bucket| if bucket == 90 { requests } else { requests / 300 }).collect();
    Counts { requests, failures, histogram, ..Counts::default() }
}

fn check(c: &mut Criterion) {
    let all = Policy {
        quantiles: [0.99, 0.9].map(|quantile| Quantile { quantile, max_ratio: 1.2, max_ms: Some(500.0) }).to_vec(),
        scalars: vec![Scalar { name: "orders".to_owned(), bound: Bound::MinRatio(0.9), no_data: NoData::Hold }],
        ..Policy::default()
    };
    let check = Check {
        weight: Share::new(0.05).expect("a share"),
        next: Share::new(0.1).expect("a share"),
        candidate: counts(500, 1),
        baseline: counts(9500, 19),
        warm: false,
        scalars: vec![Some(Sample { candidate: Some(10.0), baseline: Some(10.0) })],
    };
    for (name, policy) in [("a check of errors", Policy::default()), ("a check of everything", all)] {
        let buckets = Buckets::new(2.0, 1.04, BUCKETS).expect("buckets");
        let mut judge = Judge::new(&policy, Some(buckets), Duration::ZERO).expect("a policy");
        let mut now = Duration::ZERO;
        c.bench_function(name, |b| {
            b.iter(|| {
                now += Duration::from_secs(1);
                assert_ne!(judge.check(black_box(&check), now).verdict, Verdict::Fail);
            });
        });
    }
}
