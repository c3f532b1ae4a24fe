//! Targets that fail what they get: left alone by all workers for a while, but never the last one.

use crate::support::*;
use std::net::SocketAddr;

/// One route over a pool of these targets.
fn site(targets: &[SocketAddr], workers: usize, outlier: &str) -> Site {
    let route =
        "[[route]]\nname = \"shop\"\nmatch = { path = \"/\" }\nvariants = { stable = \"only\" }\ntimeout = \"200ms\"";
    let pool_line = format!("outlier = {outlier}");
    Site::new().server(&format!("workers = {workers}")).pool("only", targets, &pool_line).toml(route)
}

fn failing() -> Upstream {
    Upstream::answering(|_| Reply::status(500, "", "failed"))
}

fn ejections(weir: &Weir, reason: &str) -> f64 {
    weir.metric("weir_target_ejections_total", &[("pool", "only"), ("reason", reason)])
}

fn up(weir: &Weir, target: SocketAddr) -> f64 {
    weir.metric("weir_target_up", &[("pool", "only"), ("target", &target.to_string())])
}

#[test]
fn a_failing_target_is_left_alone_by_every_worker() {
    let (bad, good) = (failing(), Upstream::named("good"));
    let weir = site(&[bad.addr, good.addr], 2, "{ consecutive_5xx = 3, eject_for = \"1h\" }").start();
    eventually("it is ejected", || {
        weir.get("/", "");
        ejections(&weir, "consecutive_5xx") == 1.0
    });
    let before = bad.count();
    assert!(before >= 3, "after {before} failures");
    assert_eq!((up(&weir, bad.addr), up(&weir, good.addr)), (0.0, 1.0));
    // Each on a connection of its own: both workers have some.
    for _ in 0..40 {
        assert_eq!(weir.get("/", "").text(), "good");
    }
    assert_eq!(bad.count(), before);
    assert!(weir.log().contains("target ejected"), "{}", weir.log());
}

#[test]
fn it_comes_back_and_is_counted_anew() {
    let (bad, good) = (failing(), Upstream::named("good"));
    let weir = site(&[bad.addr, good.addr], 2, "{ consecutive_5xx = 3, eject_for = \"1s\" }").start();
    for time in [1, 2] {
        let before = bad.count();
        eventually("it is ejected", || {
            weir.get("/", "");
            ejections(&weir, "consecutive_5xx") == f64::from(time)
        });
        assert!(bad.count() > before, "it had requests");
    }
}

#[test]
fn the_last_target_stays_whatever_it_answers() {
    let (first, second) = (failing(), failing());
    let outlier = "{ consecutive_5xx = 2, eject_for = \"1h\", max_ejected = \"100%\" }";
    let weir = site(&[first.addr, second.addr], 1, outlier).start();
    for _ in 0..30 {
        assert_eq!(weir.get("/", "").text(), "failed");
    }
    assert_eq!(ejections(&weir, "consecutive_5xx"), 1.0);
    assert_eq!(up(&weir, first.addr) + up(&weir, second.addr), 1.0);
    assert_eq!(first.count() + second.count(), 30);

    let alone = site(&[first.addr], 1, "{ consecutive_5xx = 2 }").start();
    for _ in 0..10 {
        assert_eq!(alone.get("/", "").text(), "failed");
    }
    assert_eq!(ejections(&alone, "consecutive_5xx"), 0.0);
}

#[test]
fn refused_connections_resets_and_time_outs_eject() {
    let good = Upstream::named("good");
    let reset = Upstream::answering(|_| Reply::Reset(Vec::new()));
    let silent = Upstream::raw(|mut wire| while matches!(wire.head(), Ok(Some(_))) {});
    for (target, reason) in [(refused_port(), "connect"), (reset.addr, "reset"), (silent.addr, "timeout")] {
        let outlier = "{ consecutive_5xx = \"off\", consecutive_failures = 2, eject_for = \"1h\" }";
        let weir = site(&[target, good.addr], 1, outlier).start();
        eventually("it is ejected", || {
            weir.get("/", "");
            ejections(&weir, reason) == 1.0
        });
        for _ in 0..20 {
            assert_eq!(weir.get("/", "").text(), "good", "{reason}");
        }
    }
}

#[test]
fn one_that_fails_more_than_the_others_is_an_outlier_and_4xx_is_no_failure() {
    let flaky = Upstream::answering(|request| match request.turn % 2 {
        0 => Reply::status(500, "", "failed"),
        _ => Reply::text("good"),
    });
    let (good, strict) = (Upstream::named("good"), Upstream::answering(|_| Reply::status(404, "", "none")));
    let outlier = "{ consecutive_5xx = 1000, consecutive_failures = \"off\", interval = \"1s\", min_requests = 10 }";
    let weir = site(&[flaky.addr, good.addr, strict.addr], 1, outlier).start();
    let mut client = weir.client();
    eventually("it is ejected", || {
        (0..30).for_each(|_| drop(client.get("/", "")));
        ejections(&weir, "success_rate") == 1.0
    });
    assert_eq!((up(&weir, flaky.addr), up(&weir, good.addr), up(&weir, strict.addr)), (0.0, 1.0, 1.0));
}

#[test]
fn a_reload_without_outlier_brings_the_target_back() {
    let (bad, good) = (failing(), Upstream::named("good"));
    let site = site(&[bad.addr, good.addr], 1, "{ consecutive_5xx = 2, eject_for = \"1h\" }");
    let file = site.file();
    let weir = site.start();
    eventually("it is ejected", || {
        weir.get("/", "");
        ejections(&weir, "consecutive_5xx") == 1.0
    });
    let text = std::fs::read_to_string(&file).expect("the file is there");
    let plain: Vec<_> = text.lines().filter(|line| !line.starts_with("outlier")).collect();
    std::fs::write(&file, plain.join("\n")).expect("the file can be written");
    assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 200);
    let before = bad.count();
    eventually("it has requests again", || {
        weir.get("/", "");
        bad.count() > before
    });
    assert_eq!(up(&weir, bad.addr), 1.0);
}
