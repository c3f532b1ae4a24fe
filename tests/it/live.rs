//! Weights that change under traffic: seen by the next request, with nothing dropped.

use crate::support::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

#[test]
fn the_next_request_sees_an_acknowledged_change() {
    let (stable, canary) = (Upstream::named("stable"), Upstream::named("canary"));
    let weir = split_site(&[("stable", &stable, "100"), ("canary", &canary, "0")], "").start();
    let mut clients: Vec<Wire> = (0..8).map(|_| weir.client()).collect();
    for turn in 0..25 {
        let (percent, expected) = if turn % 2 == 0 { (100, "canary") } else { (0, "stable") };
        weir.shift("shop", &format!("\"canary\":{percent}"));
        for client in &mut clients {
            assert_eq!(client.get("/", "").text(), expected, "turn {turn}");
        }
    }
}

#[test]
fn changes_under_load_drop_nothing() {
    let (stable, canary) = (Upstream::named("stable"), Upstream::named("canary"));
    let weir = split_site(&[("stable", &stable, "100"), ("canary", &canary, "0")], "").start();
    let (done, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = weir.client();
                while !done.load(SeqCst) {
                    assert_eq!(client.get("/", "").status, 200);
                    sent.fetch_add(1, SeqCst);
                }
            });
        }
        let _raised = RaisedAtLast(&done);
        for percent in (1..=100).cycle().take(200) {
            weir.shift("shop", &format!("\"canary\":{percent}"));
        }
    });
    assert_eq!(stable.count() + canary.count(), sent.load(SeqCst) as usize);
    assert_eq!(weir.route("shop")["generation"], 201);
    assert_eq!(weir.metric("weir_request_errors_total", &[("route", "shop")]), 0.0);
}

#[test]
fn weights_and_generation_are_in_the_metrics() {
    let (stable, canary) = (Upstream::named("stable"), Upstream::named("canary"));
    let weir = split_site(&[("stable", &stable, "95"), ("canary", &canary, "5")], "").start();
    let weight =
        |variant, kind| weir.metric("weir_variant_weight", &[("route", "shop"), ("variant", variant), ("kind", kind)]);
    let generation = || weir.metric("weir_route_generation", &[("route", "shop")]);
    assert_eq!((weight("canary", "live"), weight("canary", "configured"), weight("stable", "live")), (5.0, 5.0, 95.0));
    let before = generation();
    weir.shift("shop", "\"canary\":12.125");
    assert_eq!(
        (weight("canary", "live"), weight("canary", "configured"), weight("stable", "live")),
        (12.125, 5.0, 87.875)
    );
    assert_eq!(generation(), before + 1.0);
}
