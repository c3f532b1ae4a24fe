//! What is refused before anything starts, and how it is said.

use crate::support::weir::{refused_start, weir_command};
use crate::support::*;

fn good() -> (Upstream, Site) {
    let upstream = Upstream::named("ok");
    let site = Site::new().to(upstream.addr, "", "");
    (upstream, site)
}

/// `weir check` on this text: exit code and what it wrote.
fn check(text: &str, args: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::TempDir::new().expect("the temporary folder is writable");
    let file = folder.path().join("weir.toml");
    std::fs::write(&file, text).expect("the temporary folder is writable");
    let mut command = weir_command(&["check", file.to_str().expect("UTF-8")]);
    let output = command.args(args).output().expect("the binary runs");
    (
        output.status.code(),
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
    )
}

#[test]
fn a_good_file_is_accepted() {
    let (code, said) = check(&good().1.text(), &[]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_bad_file_is_refused_with_line_and_text() {
    let text = good().1.text();
    for (bad, said_so) in [
        (text.replace("[limits]", "[limits]\nmax_heders = 5"), "max_headers"),
        (text.replace("stable = 100", "stable = 99"), "99"),
        (text.replace("\"only\" }", "\"onyl\" }"), "only"),
        (format!("{text}\n[pool.only]\ntargets = [\"127.0.0.1:1\"]"), "only"),
        (format!("{text}\n[pool.b]\ntargets = [\"127.0.0.1:99999\"]"), "99999"),
        (format!("{text}\n[pool.b"), "weir.toml"),
    ] {
        let (code, said) = check(&bad, &[]);
        assert_eq!(code, Some(1), "{bad}\n{said}");
        assert!(said.contains(said_so), "{said_so} in:\n{said}");
        assert!(said.contains("weir.toml:"), "a place in:\n{said}");
    }
}

#[test]
fn all_errors_come_at_once_and_as_json() {
    let text = good().1.text().replace("[limits]", "[limits]\nmax_heders = 5").replace("stable = 100", "stable = 99");
    let (code, said) = check(&text, &["--json"]);
    assert_eq!(code, Some(1), "{said}");
    let report: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
    let errors = report["errors"].as_array().expect("a list of errors");
    assert_eq!(errors.len(), 2, "{said}");
    for error in errors {
        assert!(error["line"].as_u64() > Some(0) && error["column"].as_u64() > Some(0), "{error}");
        assert!(error["message"].is_string() && error["code"].is_string() && error["file"].is_string(), "{error}");
    }
    assert!(report["warnings"].is_array());
}

#[test]
fn a_key_of_a_later_version_is_an_honest_error() {
    let (_upstream, site) = good();
    let (code, said) = check(&site.toml("[fleet]\nengine = \"etcd\"").text(), &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("not built yet") && said.contains("fleet"), "{said}");
}

#[test]
fn serve_refuses_what_check_refuses() {
    let (_upstream, site) = good();
    let (status, log) = refused_start(&site.limits("max_heders = 5"));
    assert!(!status.success());
    assert!(log.contains("max_heders"), "{log}");
}

#[test]
fn a_missing_file_is_said() {
    let output = weir_command(&["serve", "--config", "nowhere/weir.toml"]).output().expect("the binary runs");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("nowhere/weir.toml"), "{output:?}");
}

#[test]
fn a_port_that_is_taken_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let addr = taken.local_addr().expect("a bound socket has an address").to_string();
    let (_upstream, mut site) = good();
    site.rest = site.rest.replace("bind = \"127.0.0.1:0\"", &format!("bind = \"{addr}\""));
    let (status, log) = refused_start(&site);
    assert!(!status.success());
    assert!(log.contains(&addr), "{log}");
    let (_upstream, mut site) = good();
    site.admin = site.admin.replace("127.0.0.1:0", &addr);
    let (status, log) = refused_start(&site);
    assert!(!status.success());
    assert!(log.contains(&addr), "{log}");
}

#[test]
fn a_second_weir_does_not_share_the_port() {
    let (_upstream, site) = good();
    let first = site.start();
    let addr = first.addr("http").to_string();
    let (_other, mut site) = good();
    site.rest = site.rest.replace("bind = \"127.0.0.1:0\"", &format!("bind = \"{addr}\""));
    let (status, log) = refused_start(&site);
    assert!(!status.success());
    assert!(log.contains(&addr), "{log}");
}

/// The commands that an example's head gives for the files that it names: lines of its comment that are set in.
fn run_what_it_asks_for(example: &std::path::Path) {
    let text = std::fs::read_to_string(example).expect("readable");
    let commands: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-ec", &commands.join("\n")]).current_dir(example.parent().expect("a folder"));
    let output = shell.output().expect("there is a shell");
    assert!(output.status.success(), "{}: {output:?}", example.display());
}

#[test]
fn the_examples_are_accepted() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let copies = tempfile::TempDir::new().expect("the temporary folder is writable");
    let mut examples = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("config/ has the examples") {
        let file = entry.expect("readable").path();
        if !file.is_file() {
            continue;
        }
        let copy = copies.path().join(file.file_name().expect("a file"));
        std::fs::copy(&file, &copy).expect("the temporary folder is writable");
        if copy.extension().is_some_and(|extension| extension == "toml") {
            examples.push(copy);
        }
    }
    assert!(!examples.is_empty());
    for file in examples {
        run_what_it_asks_for(&file);
        let output = weir_command(&["check", file.to_str().expect("UTF-8")]).output().expect("the binary runs");
        assert!(output.status.success(), "{}: {output:?}", file.display());
    }
}
