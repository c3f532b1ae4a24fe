//! The lines of `weir judge`: what is answered, and what is refused, with which words.

use super::super::protocol::{BasePolicy, Replay};
use serde_json::{Value, json};

const RESET: &str = r#"{"reset":true,"id":"x","policy":{"custom_max_ratio":1.5},"interval_s":10,"has_latency":true,
    "latency_buckets_ms":{"first":2.0,"growth":1.04,"count":200}}"#;

fn replay() -> Replay {
    Replay::new(BasePolicy::default()).unwrap()
}

fn error(lines: &[&str]) -> String {
    let mut replay = replay();
    let (last, first) = lines.split_last().unwrap();
    first.iter().for_each(|line| assert!(replay.line(line).is_ok(), "{line}"));
    replay.line(last).unwrap_err().to_string()
}

fn answer(replay: &mut Replay, line: &str) -> Value {
    serde_json::from_str(&replay.line(line).unwrap().unwrap()).unwrap()
}

#[test]
fn a_bad_canary_is_rolled_back_and_a_reset_begins_anew() {
    let mut replay = replay();
    assert_eq!(replay.line(RESET).unwrap(), None);
    let bad = r#"{"w":0.05,"next_w":0.1,"c":[50,40],"s":[950,2],"cl":[90,50],"sl":[90,940,120,10],"warm":false,"cv":1,"sv":1}"#;
    assert_eq!(answer(&mut replay, bad)["verdict"], "rollback");
    let good = r#"{"w":0.05,"next_w":0.1,"c":[50,0],"s":[950,2],"cl":[90,50],"sl":[90,940,120,10],"cv":1,"sv":1}"#;
    assert_eq!(answer(&mut replay, good)["verdict"], "rollback", "a rollback is final");
    assert_eq!(replay.line(RESET).unwrap(), None);
    let verdicts: Vec<_> = (0..40).map(|_| answer(&mut replay, good)).collect();
    assert!(verdicts.iter().all(|answer| answer["verdict"] != "rollback"));
    let last = verdicts.last().unwrap();
    assert_eq!(last["verdict"], "promote", "{last:#}");
    let names: Vec<_> = last["metrics"].as_array().unwrap().iter().map(|metric| metric["name"].clone()).collect();
    assert_eq!(names, ["error-rate", "p99", "p90", "custom"]);
    assert_eq!(last["metrics"][0]["samples"], 2000);
}

#[test]
fn no_data_in_all_its_forms_holds() {
    for sample in
        [r#""cv":null,"sv":1.0"#, r#""cv":NaN,"sv":1.0"#, r#""cv":-Infinity,"sv":Infinity"#, r#""cv":1,"sv":0"#]
    {
        let mut replay = replay();
        replay.line(RESET).unwrap();
        let line = format!(r#"{{"w":0.05,"c":[500,0],"s":[9500,9],"cl":[90,500],"sl":[90,9490,120,10],{sample}}}"#);
        let answers: Vec<_> = (0..50).map(|_| answer(&mut replay, &line)).collect();
        assert!(answers.iter().all(|answer| answer["verdict"] == "hold"), "{sample}");
        assert_eq!(answers[49]["reason"], "custom: the last sample has no data", "{sample}");
    }
    let mut replay = replay();
    for line in ["", "  \r\n"] {
        assert_eq!(replay.line(line).unwrap(), None);
    }
    let nothing = answer(&mut replay, r#"{"w":0,"c":[0,0],"s":[0,0],"id":"a \"NaN\" in a string"}"#);
    assert_eq!(nothing["reason"], "error rate: no canary requests yet");
    let huge = answer(&mut replay, r#"{"w":1e-5,"next_w":1,"c":[1e9,0],"s":[9007199254740992,0]}"#);
    assert_eq!(huge["verdict"], "promote");
}

#[test]
fn bad_lines_are_refused_with_what_is_wrong() {
    let cases = [
        ("nonsense", "not JSON: expected ident at line 1 column 2"),
        ("[1]", "line: not an object"),
        ("{}", "w: missing"),
        (r#"{"w":"5%","c":[0,0],"s":[0,0]}"#, "w: \"5%\" is not a number"),
        (r#"{"w":1.5,"c":[0,0],"s":[0,0]}"#, "w: 1.5 is not a share from 0 to 1"),
        (r#"{"w":NaN,"c":[0,0],"s":[0,0]}"#, "w: null is not a number"),
        (r#"{"w":0.5,"s":[0,0]}"#, "c: missing; [requests, failed]"),
        (r#"{"w":0.5,"c":[1],"s":[0,0]}"#, "c: must be [requests, failed]"),
        (r#"{"w":0.5,"c":[1,2],"s":[0,0]}"#, "c: 2 failed of 1 requests"),
        (r#"{"w":0.5,"c":[1,-2],"s":[0,0]}"#, "c: -2 is not a count from 0 to 2^53"),
        (r#"{"w":0.5,"c":[0,0],"s":[1.5,0]}"#, "s: 1.5 is not a count from 0 to 2^53"),
        (r#"{"w":0.5,"c":[0,0],"s":[1e17,0]}"#, "s: 1e+17 is not a count from 0 to 2^53"),
        (r#"{"w":0.5,"c":[0,0],"s":[NaN,0]}"#, "s: null is not a number"),
        (r#"{"w":0.5,"c":[0,0],"s":[0,0],"warm":1}"#, "warm: not true or false"),
        (r#"{"w":0.5,"c":[0,0],"s":[0,0],"cl":[3]}"#, "cl: a bucket without its count"),
        (r#"{"w":0.5,"c":[0,0],"s":[0,0],"cl":[200,1]}"#, "cl: bucket 200 of 200"),
        (r#"{"w":0.5,"c":[0,0],"s":[0,0],"sl":{}}"#, "sl: must be [bucket, count, ..]"),
        (r#"{"w":0.5,"c":[0,0],"s":[0,0],"cv":"x"}"#, "cv: \"x\" is not a number"),
        (r#"{"reset":false}"#, "reset: must be true"),
        (r#"{"reset":true,"interval_s":0}"#, "interval_s: must be above 0 and at most 86,400"),
        (r#"{"reset":true,"has_latency":true}"#, "latency_buckets_ms: missing; {\"first\", \"growth\", \"count\"}"),
        (r#"{"reset":true,"policy":{"false_rollback":0}}"#, "false_rollback is 0; it must be above 0 and at most 0.5"),
        (r#"{"reset":true,"policy":{"error_ratio":0.9}}"#, "error_ratio is 0.9; it must be 1 to 1000"),
        (r#"{"reset":true,"policy":{"error_limit":"1%"}}"#, "policy.error_limit: \"1%\" is not a number"),
    ];
    for (line, expected) in cases {
        assert_eq!(error(&[RESET, line]), expected, "{line}");
    }
    let buckets = r#"{"reset":true,"has_latency":true,"latency_buckets_ms":{"first":0,"growth":1.04,"count":200}}"#;
    assert!(error(&[buckets]).starts_with("buckets must have first > 0"));
}

#[test]
fn a_reset_lies_over_the_base_policy() {
    let base = BasePolicy::new(json!({ "min_requests": 1000, "custom_max_ratio": 1.5 })).unwrap();
    let mut replay = Replay::new(base).unwrap();
    let line = r#"{"w":0.05,"c":[500,0],"s":[9500,0],"cv":1,"sv":1}"#;
    let metrics = |answer: &Value| answer["metrics"].as_array().unwrap().len();
    assert_eq!(metrics(&answer(&mut replay, line)), 2);
    replay.line(r#"{"reset":true,"policy":{"custom_max_ratio":null,"min_requests":10,"color":"red"}}"#).unwrap();
    assert_eq!(replay.take_warnings(), ["policy.color: not a key of a policy, ignored"]);
    assert_eq!(metrics(&answer(&mut replay, line)), 1);
    let unknown = BasePolicy::new(json!({ "error_ration": 2 })).unwrap_err().to_string();
    assert!(unknown.starts_with("error_ration: not a key of a policy; those are false_rollback, error_ratio"));
    assert!(BasePolicy::new(json!([])).is_err() && BasePolicy::new(json!({ "latency_ratio": 0.5 })).is_err());
    let both = BasePolicy::new(json!({ "custom_max_ratio": 1.5, "custom_min_ratio": 0.9 })).unwrap_err().to_string();
    assert_eq!(both, "policy: custom_max_ratio and custom_min_ratio exclude each other");
}
