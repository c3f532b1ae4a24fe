//! A new file under traffic: checked whole, swapped in, or refused with a reason while the old one goes on.

use crate::support::*;

fn canary_site(percent: &str, upstreams: &[Upstream; 2]) -> Site {
    let stable = (100.0 - percent.parse::<f64>().expect("a number")).to_string();
    split_site(&[("stable", &upstreams[0], &stable), ("canary", &upstreams[1], percent)], "")
}

fn upstreams() -> [Upstream; 2] {
    [Upstream::named("stable"), Upstream::named("canary")]
}

/// Puts another site's text into the folder of a running Weir.
fn rewrite(weir: &Weir, text: &str) {
    std::fs::write(weir.site.file(), text).expect("the temporary folder is writable");
}

#[test]
fn sighup_swaps_the_file_in_and_closes_nothing() {
    let upstreams = upstreams();
    let weir = canary_site("0", &upstreams).start();
    let mut client = weir.client();
    assert_eq!(client.get("/", "").text(), "stable");
    rewrite(&weir, &canary_site("100", &upstreams).text());
    weir.signal("HUP");
    eventually("the file's weights are live", || weir.weight("shop", "canary") == 100.0);
    assert_eq!(client.get("/", "").text(), "canary");
}

#[test]
fn post_reload_answers_when_the_file_is_live() {
    let upstreams = upstreams();
    let weir = canary_site("0", &upstreams).start();
    let mut client = weir.client();
    for turn in 0..10 {
        let (percent, expected) = if turn % 2 == 0 { ("100", "canary") } else { ("0", "stable") };
        rewrite(&weir, &canary_site(percent, &upstreams).text());
        let answer = weir.admin("POST", "/api/v1/reload", "", "");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(client.get("/", "").text(), expected);
    }
}

#[test]
fn a_bad_file_is_refused_and_the_old_one_goes_on() {
    let upstreams = upstreams();
    let weir = canary_site("0", &upstreams).start();
    let mut client = weir.client();
    let good = weir.site.text();
    for (bad, named) in [
        (good[..good.len() / 2].to_owned(), "weir.toml"),
        (good.replace("[limits]", "[limits]\nmax_heders = 5"), "max_heders"),
        (good.replace("stable = 100", "stable = 90"), "90"),
        (good.replace("canary = \"pool-canary\"", "canary = \"pool-canray\""), "pool-canray"),
        (String::new(), ""),
    ] {
        rewrite(&weir, &bad);
        let answer = weir.admin("POST", "/api/v1/reload", "", "");
        assert!((400..500).contains(&answer.status), "{answer:?}");
        assert!(answer.text().contains(named), "{named} in {}", answer.text());
        assert_eq!(client.get("/", "").text(), "stable");
        assert_eq!(weir.metric("weir_config_last_reload_success", &[]), 0.0);
    }
    rewrite(&weir, &good);
    assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 200);
    assert_eq!(weir.metric("weir_config_last_reload_success", &[]), 1.0);
}

#[test]
fn a_bad_file_at_sighup_is_said_in_the_log() {
    let upstreams = upstreams();
    let weir = canary_site("0", &upstreams).start();
    rewrite(&weir, &weir.site.text().replace("[limits]", "[limits]\nmax_heders = 5"));
    weir.signal("HUP");
    eventually("the log names the key", || weir.log().contains("max_heders"));
    assert_eq!(weir.get("/", "").text(), "stable");
}

#[test]
fn a_reload_keeps_live_weights_until_the_file_changes_them() {
    let upstreams = upstreams();
    let weir = canary_site("5", &upstreams).start();
    weir.shift("shop", "\"canary\":40");
    rewrite(&weir, &format!("# a comment\n{}", weir.site.text()));
    assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 200);
    assert_eq!(weir.weight("shop", "canary"), 40.0);
    rewrite(&weir, &canary_site("10", &upstreams).text());
    assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 200);
    assert_eq!(weir.weight("shop", "canary"), 10.0);
}

#[test]
fn routes_and_pools_come_and_go() {
    let upstreams = upstreams();
    let weir = canary_site("0", &upstreams).start();
    let mut client = weir.client();
    assert_eq!(client.get("/", "").text(), "stable");
    let new = Upstream::named("new");
    let more = canary_site("0", &upstreams).pool("new", &[new.addr], "").toml(
        "[[route]]\nname = \"new\"\nmatch = { path = \"/new\" }\nvariants = { v = \"new\" }\nweights = { v = 100 }",
    );
    let counted = weir.metric("weir_requests_total", &[("route", "shop")]);
    rewrite(&weir, &more.text());
    assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 200);
    assert_eq!((client.get("/new", "").text(), client.get("/", "").text()), ("new", "stable"));
    assert!(weir.metric("weir_requests_total", &[("route", "shop")]) >= counted, "counters do not go back");
    rewrite(&weir, &weir.site.text());
    assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 200);
    assert_eq!(client.get("/new", "").text(), "stable");
}
