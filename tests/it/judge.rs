//! `weir judge`: recorded releases through the real binary.

use crate::support::weir::weir_command;
use std::io::Write;
use std::process::{Output, Stdio};

const RESET: &str = r#"{"reset":true,"policy":{"error_ratio":1.5},"interval_s":10,"has_latency":false}"#;
const HEALTHY: &str = r#"{"w":0.1,"next_w":0.25,"c":[1000,1],"s":[9000,9]}"#;
const BAD: &str = r#"{"w":0.1,"next_w":0.25,"c":[1000,500],"s":[9000,9]}"#;

fn judge(args: &[&str], lines: &str) -> Output {
    let mut command = weir_command(&["judge"]);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("weir starts");
    // A judge that has refused a line reads no more.
    let _ = child.stdin.take().expect("it is piped").write_all(lines.as_bytes());
    child.wait_with_output().expect("weir ends")
}

fn verdicts(output: &Output) -> Vec<String> {
    let answers = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let verdict = |line: &[u8]| {
        let answer: serde_json::Value = serde_json::from_slice(line).expect("a line of JSON");
        assert!(answer["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{answer}");
        answer["verdict"].as_str().expect("a verdict").to_owned()
    };
    answers.map(verdict).collect()
}

fn refused(args: &[&str], lines: &str) -> String {
    let output = judge(args, lines);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

#[test]
fn a_stream_is_judged_line_by_line() {
    let output = judge(&[], &format!("{RESET}\n{HEALTHY}\n{HEALTHY}\n\n{RESET}\r\n{BAD}\n{HEALTHY}"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(verdicts(&output), ["hold", "promote", "rollback", "rollback"]);
    assert!(judge(&[], "").status.success());
}

#[test]
fn a_bad_line_ends_it_with_its_number_after_the_answers_before_it() {
    let output = judge(&[], &format!("{RESET}\n{HEALTHY}\n\n{{\"w\":0.1,\"c\":[3,4],\"s\":[0,0]}}\n{HEALTHY}\n"));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(verdicts(&output), ["hold"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "weir judge: line 4: c: 4 failed of 3 requests\n");
    assert!(refused(&[], "{").starts_with("weir judge: line 1: not JSON: "));
    assert!(refused(&[], &"x".repeat(2_000_000)).starts_with("weir judge: line 1: longer than "));
}

#[test]
fn a_policy_file_is_toml_or_json_and_checked_whole() {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let file = folder.path().join("policy");
    let path = file.to_str().expect("UTF-8");
    let write = |text: &str| std::fs::write(&file, text).expect("the temporary folder is writable");
    let lines = format!("{HEALTHY}\n{HEALTHY}\n");
    for text in ["min_requests = 5000\n", r#"{"min_requests": 5000}"#] {
        write(text);
        assert_eq!(verdicts(&judge(&["--policy", path], &lines)), ["hold", "hold"], "{text}");
    }
    assert_eq!(verdicts(&judge(&[], &lines)), ["hold", "promote"]);
    write("error_ration = 2\n");
    assert!(refused(&["--policy", path], &lines).contains("error_ration: not a key of a policy"));
    write("error_ratio = 0.5\n");
    assert!(refused(&["--policy", path], &lines).contains("error_ratio is 0.5; it must be 1 to 1000"));
    assert!(refused(&["--policy", "/nonexistent"], &lines).contains("/nonexistent: No such file"));
}
