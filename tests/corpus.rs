//! Inputs that fuzzing found worth keeping, run through the same checks as there.

#[path = "../fuzz/checks.rs"]
mod checks;

use std::path::Path;

#[track_caller]
fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).expect("the corpus is in the tree");
    let mut inputs: Vec<_> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    for input in inputs {
        println!("{}", input.display());
        check(&std::fs::read(&input).expect("it can be read"));
    }
}

#[test]
fn requests() {
    replay("requests", checks::requests);
}

#[test]
fn chunks() {
    replay("chunks", checks::chunks);
}

#[test]
fn frames() {
    replay("frames", checks::frames);
}

#[test]
fn proxy_protocol() {
    replay("proxy_protocol", checks::proxy_protocol);
}

#[test]
fn keys() {
    replay("keys", checks::keys);
}

#[test]
fn config() {
    replay("config", checks::config);
}
