//! The command line against a running Weir.

use crate::support::weir::weir_command;
use crate::support::*;
use std::process::Output;

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn shop() -> (Weir, [Upstream; 2]) {
    let upstreams = [Upstream::named("stable"), Upstream::named("canary")];
    (split_site(&[("stable", &upstreams[0], "95"), ("canary", &upstreams[1], "5")], "").start(), upstreams)
}

#[test]
fn shift_changes_the_weights_and_status_shows_them() {
    let (weir, _upstreams) = shop();
    let output = weir.cli(&["shift", "shop", "canary=12.5", "--reason", "more"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!((weir.weight("shop", "canary"), weir.weight("shop", "stable")), (12.5, 87.5));
    let output = weir.cli(&["status"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(said(&output).contains("shop") && said(&output).contains("12.5"), "{}", said(&output));
    let output = weir.cli(&["status", "shop", "-o", "json"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON on standard output");
    assert!(document.to_string().contains("12.5"), "{document}");
}

#[test]
fn a_dry_run_and_an_old_generation_change_nothing() {
    let (weir, _upstreams) = shop();
    let output = weir.cli(&["shift", "shop", "canary=50", "--dry-run"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let output = weir.cli(&["shift", "shop", "canary=50", "--if-generation", "99"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(weir.weight("shop", "canary"), 5.0);
    let output = weir.cli(&["shift", "shop", "canary=50", "--if-generation", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(weir.weight("shop", "canary"), 50.0);
}

#[test]
fn refusals_are_said_and_exit_1_and_bad_usage_2() {
    let (weir, _upstreams) = shop();
    for args in [&["shift", "shop", "canray=5"][..], &["shift", "nowhere", "canary=5"], &["status", "nowhere"]] {
        let output = weir.cli(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", said(&output));
        assert!(!output.stderr.is_empty());
    }
    for args in [&["shift", "shop"][..], &["shift", "shop", "canary"], &["shfit"]] {
        let output = weir.cli(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
    }
    assert_eq!(weir.weight("shop", "canary"), 5.0);
}

#[test]
fn reload_says_what_is_wrong() {
    let (weir, _upstreams) = shop();
    assert_eq!(weir.cli(&["reload"]).status.code(), Some(0));
    std::fs::write(weir.site.file(), "[limits]\nmax_heders = 5").expect("the temporary folder is writable");
    let output = weir.cli(&["reload"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("max_heders"), "{}", said(&output));
}

#[test]
fn nobody_at_the_admin_address_is_said() {
    let addr = refused_port().to_string();
    let output = weir_command(&["status", "--admin", &addr]).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains(&addr), "{}", said(&output));
}

#[test]
fn a_token_comes_with_the_line_for_the_file() {
    let output = weir_command(&["token"]).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let said = said(&output);
    let at = said.find("sha256:").expect("the hash is shown");
    let hash: String = said[at + 7..].chars().take_while(char::is_ascii_hexdigit).collect();
    assert_eq!(hash.len(), 64, "{said}");
}

/// Whatever ports are taken on this machine, the demo finds some.
fn demo() -> String {
    let output = weir_command(&["demo", "--seconds", "2"]).output().expect("the binary runs");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("canary") && said.contains(" shift demo canary=50"), "{said}");
    said
}

#[test]
fn the_demo_ends_by_itself() {
    demo();
}

#[test]
fn the_demo_takes_other_ports_than_those_that_are_taken_and_says_so() {
    // Where it can't be had somebody else has it, which is as good.
    let _held = std::net::TcpListener::bind("127.0.0.1:9901");
    let said = demo();
    let line = said.lines().find(|line| line.contains("127.0.0.1:9901 is taken; this demo is at 127.0.0.1:"));
    let instead = line.and_then(|line| line.split_whitespace().rfind(|word| word.starts_with("127.0.0.1:")));
    let instead = instead.unwrap_or_else(|| panic!("{said}"));
    assert!(said.contains(&format!(" --admin {instead} shift demo")), "{said}");
}
