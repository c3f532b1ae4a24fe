//! History, undo and switch through the admin API, and what of it is on disk afterwards.

use super::*;
use crate::config::Role;
use crate::control::fixtures::{Reply, token, with_tokens};
use serde_json::{Value, json};

const JSON: &str = "content-type: application/json";

async fn history(process: &Process) -> Value {
    let reply = process.get("/api/v1/routes/shop/history").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

async fn post(process: &Process, call: &str, headers: &[&str], body: &str) -> Reply {
    let headers = [&[JSON], headers].concat();
    process.call("POST", &format!("/api/v1/routes/shop/{call}"), &headers, body.as_bytes()).await
}

async fn shift(process: &Process, canary: f64, reason: &str) {
    let body = json!({"weights": {"canary": canary}, "reason": reason}).to_string();
    assert_eq!(process.patch("shop", &[], &body).await.status, 200);
}

/// The members of every revision, newest first.
fn column(history: &Value, member: &str) -> Vec<Value> {
    history["revisions"].as_array().unwrap().iter().map(|revision| revision[member].clone()).collect()
}

#[tokio::test]
async fn every_change_is_a_revision() {
    let process = Process::start(shop()).await;
    shift(&process, 5.0, "a \"try\"\u{1}").await;
    shift(&process, 5.0, "nothing new").await;
    shift(&process, 0.125, "less").await;
    let document = history(&process).await;
    assert_eq!((&document["route"], &document["generation"]), (&json!("shop"), &json!(3)));
    assert_eq!(column(&document, "generation"), [3, 2, 1]);
    assert_eq!(column(&document, "action"), ["shift", "shift", "start"]);
    assert_eq!(column(&document, "reason"), [json!("less"), json!("a \"try\"\u{1}"), Value::Null]);
    assert_eq!(column(&document, "actor"), ["local", "local", "file"]);
    assert_eq!(document["revisions"][2]["source"], "/nowhere/weir.toml");
    assert_eq!(document["revisions"][2]["before"], json!({}));
    let first = &document["revisions"][1];
    assert_eq!(first["before"], json!({"stable": 100, "canary": 0}));
    assert_eq!(first["after"], json!({"stable": 95, "canary": 5}));
    assert!(first["source"].as_str().unwrap().starts_with("127.0.0.1:"));
    let time: Timestamp = first["time"].as_str().unwrap().parse().unwrap();
    assert!(Timestamp::now().duration_since(time).as_secs().abs() < 60, "{time}");
    let reply = process.get("/api/v1/routes/shop/history?limit=2").await;
    assert_eq!((reply.header("etag"), column(&reply.json(), "generation")), (Some("\"3\""), vec![json!(3), json!(2)]));
    for (query, field) in [("?limit=0", "query:limit"), ("?limit=x", "query:limit"), ("?last=1", "query:last")] {
        let reply = process.get(&format!("/api/v1/routes/shop/history{query}")).await;
        assert_eq!((reply.status, &reply.json()["field"]), (400, &json!(field)), "{query}");
    }
    assert_eq!(process.get("/api/v1/routes/nowhere/history").await.status, 404);
}

#[tokio::test]
async fn an_undo_goes_the_way_of_every_change() {
    let process = Process::start(shop()).await;
    let refused = post(&process, "undo", &[], "{}").await;
    assert_eq!((refused.status, refused.problem().as_str()), (409, "nothing-to-undo"));
    assert_eq!(refused.json()["revisions"], json!([1]));
    shift(&process, 5.0, "").await;
    shift(&process, 50.0, "").await;
    let dry = post(&process, "undo?dry_run=true", &[], r#"{"to":1}"#).await.json();
    let expected = json!({"route": "shop", "dry_run": true, "generation": 3, "changed": true, "to": 1,
        "before": {"stable": 50, "canary": 50}, "after": {"stable": 100, "canary": 0}, "clients_moved_percent": 50});
    assert_eq!(dry, expected);
    assert_eq!(process.live("shop"), (3, vec![50_000, 50_000]));
    let stale = post(&process, "undo", &["if-match: \"2\""], "{}").await;
    assert_eq!((stale.status, stale.problem().as_str()), (412, "generation-changed"));
    // Without a body, and without a word of its type.
    let key = ["idempotency-key: u1", "if-match: \"3\""];
    let done = process.call("POST", "/api/v1/routes/shop/undo", &key, b"").await;
    assert_eq!((done.status, done.header("etag")), (200, Some("\"4\"")));
    let document = done.json();
    assert_eq!(
        (&document["changed"], &document["to"], &document["variants"][1]["weight"]),
        (&json!(true), &json!(2), &json!(5))
    );
    let again = process.call("POST", "/api/v1/routes/shop/undo", &key, b"").await;
    assert_eq!((again.status, &again.body), (200, &done.body));
    assert_eq!(process.live("shop"), (4, vec![95_000, 5_000]));
    let present = post(&process, "undo", &[], r#"{"to":4,"reason":"again"}"#).await.json();
    assert_eq!((&present["changed"], &present["generation"]), (&json!(false), &json!(4)));
    let unknown = post(&process, "undo", &[], r#"{"to":9}"#).await;
    assert_eq!((unknown.status, unknown.problem().as_str()), (404, "no-such-revision"));
    assert_eq!(unknown.json()["revisions"], json!([4, 3, 2, 1]));
    for (body, field) in [(r#"{"to":"1"}"#, "to"), (r#"{"to":-1}"#, "to"), (r#"{"too":1}"#, "too"), ("[]", "body")] {
        let reply = post(&process, "undo", &[], body).await;
        assert_eq!((reply.status, &reply.json()["field"]), (400, &json!(field)), "{body}");
    }
    let last = &history(&process).await["revisions"][0];
    assert_eq!((&last["action"], &last["to"], &last["generation"]), (&json!("undo"), &json!(2), &json!(4)));
}

/// A shop whose pool has these targets.
fn shop_at(targets: &[SocketAddr]) -> Config {
    let mut config = shop();
    config.pools[0].targets = targets.iter().map(|addr| crate::config::TargetAddr::Ip(*addr)).collect();
    config.pools[0].weights = vec![1; targets.len()];
    config
}

async fn two_ports() -> (tokio::net::TcpListener, SocketAddr, SocketAddr) {
    let listening = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (good, bad) = (listening.local_addr().unwrap(), gone.local_addr().unwrap());
    (listening, good, bad)
}

#[tokio::test]
async fn a_switch_is_for_healthy_targets_or_forced() {
    let (_listening, good, bad) = two_ports().await;
    let process = Process::start(shop_at(&[good, bad])).await;
    let target = json!([{"target": bad.to_string(), "why": "connection refused"}]);
    for call in ["switch", "switch?dry_run=true"] {
        let refused = post(&process, call, &[], r#"{"to":"canary"}"#).await;
        assert_eq!((refused.status, refused.problem().as_str()), (409, "targets-not-healthy"), "{call}");
        assert_eq!(refused.json()["targets"], target);
        assert!(refused.json()["detail"].as_str().unwrap().contains(&bad.to_string()));
    }
    assert_eq!(process.live("shop").0, 1);
    let there = post(&process, "switch", &[], r#"{"to":"stable"}"#).await.json();
    assert_eq!((&there["changed"], &there["generation"], &there["overrode"]), (&json!(false), &json!(1), &Value::Null));
    let overrode = json!([format!("target {bad}: connection refused")]);
    let dry = post(&process, "switch?dry_run=true", &[], r#"{"to":"canary","force":true}"#).await.json();
    assert_eq!((&dry["overrode"], &dry["clients_moved_percent"]), (&overrode, &json!(100)));
    let forced = post(&process, "switch", &["if-match: \"1\""], r#"{"to":"canary","force":true,"reason":"now"}"#).await;
    assert_eq!((forced.status, forced.header("etag"), &forced.json()["overrode"]), (200, Some("\"2\""), &overrode));
    assert_eq!(process.live("shop"), (2, vec![0, 100_000]));
    let document = history(&process).await;
    let newest = &document["revisions"][0];
    assert_eq!(
        (&newest["action"], &newest["overrode"], &newest["reason"]),
        (&json!("switch"), &overrode, &json!("now"))
    );
    assert_eq!(post(&process, "undo", &[], "{}").await.status, 200);
    assert_eq!(process.live("shop"), (3, vec![100_000, 0]));
}

#[tokio::test]
async fn a_switch_to_healthy_targets_is_done_at_once() {
    let (_listening, good, _) = two_ports().await;
    let process = Process::start(shop_at(&[good])).await;
    let done = post(&process, "switch", &[], r#"{"to":"canary"}"#).await;
    assert_eq!((done.status, &done.json()["changed"], &done.json()["overrode"]), (200, &json!(true), &Value::Null));
    assert_eq!(process.publisher.current().serial, 2, "one swap");
    for (body, field) in [
        (r#"{"to":"canray"}"#, "to"),
        (r#"{"force":true}"#, "to"),
        (r#"{"to":1}"#, "to"),
        (r#"{"to":"canary","to":"stable"}"#, "to"),
        (r#"{"to":"canary","force":"yes"}"#, "force"),
        (r#"{"to":"canary","now":true}"#, "now"),
        ("", "to"),
    ] {
        let reply = post(&process, "switch", &[], body).await;
        assert_eq!((reply.status, &reply.json()["field"]), (400, &json!(field)), "{body}: {reply:?}");
    }
    let stale = post(&process, "switch", &["if-match: \"1\""], r#"{"to":"stable"}"#).await;
    assert_eq!(stale.status, 412);
}

#[tokio::test]
async fn viewers_read_the_history_and_operators_undo() {
    let tokens = vec![token("eye", Role::Viewer), token("ci", Role::Operator)];
    let process = Process::start(with_tokens(shop(), tokens)).await;
    let (eye, ci) = ("authorization: Bearer secret-eye", "authorization: Bearer secret-ci");
    process.patch("shop", &[ci], r#"{"weights":{"canary":5}}"#).await;
    let shown = process.call("GET", "/api/v1/routes/shop/history", &[eye], b"").await;
    assert_eq!(column(&shown.json(), "actor"), ["ci", "file"]);
    for call in ["undo", "switch"] {
        assert_eq!(post(&process, call, &[eye], r#"{"to":1}"#).await.problem(), "role-too-low", "{call}");
    }
    assert_eq!(post(&process, "undo", &[ci], "").await.status, 200);
    assert!(!String::from_utf8_lossy(&shown.body).contains("secret"));
}

fn audit_lines(dir: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("audit.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn history_goes_on_over_a_restart_and_the_audit_log_has_every_change() {
    let dir = tempfile::tempdir().unwrap();
    let before = life(async {
        let process = Process::start(shop_in(dir.path())).await;
        shift(&process, 5.0, "first\u{9b}").await;
        shift(&process, 9.0, "second").await;
        assert_eq!(post(&process, "undo", &[], r#"{"to":2,"reason":"back"}"#).await.status, 200);
        let refused = process.patch("shop", &[], r#"{"weights":{"canary":500}}"#).await;
        assert_eq!(refused.status, 400);
        history(&process).await
    });
    assert_eq!(column(&before, "generation"), [4, 3, 2, 1]);
    life(async {
        let process = Process::start(shop_in(dir.path())).await;
        assert_eq!(history(&process).await, before);
        assert_eq!(post(&process, "undo", &[], r#"{"to":3}"#).await.status, 200);
        assert_eq!(process.live("shop"), (5, vec![91_000, 9_000]));
    });
    let lines = audit_lines(dir.path());
    let member = |name: &str| lines.iter().map(|line| line[name].clone()).collect::<Vec<_>>();
    assert_eq!(member("action"), ["shift", "shift", "undo", "undo"]);
    assert_eq!(member("generation"), [2, 3, 4, 5]);
    assert_eq!(member("result"), ["done", "done", "done", "done"]);
    assert_eq!(member("to"), [Value::Null, Value::Null, json!(2), json!(3)]);
    assert_eq!(
        (&lines[0]["before"], &lines[0]["after"]),
        (&json!({"stable": 100, "canary": 0}), &json!({"stable": 95, "canary": 5}))
    );
    assert_eq!(
        (&lines[2]["actor"], &lines[2]["reason"], &lines[2]["route"]),
        (&json!("local"), &json!("back"), &json!("shop"))
    );
    let text = fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text}");
    assert_eq!(lines[0]["reason"], "first\u{9b}");
}

#[test]
fn a_state_without_history_gets_a_revision_of_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    life(async {
        let process = Process::start(shop_in(dir.path())).await;
        shift(&process, 5.0, "").await;
        shift(&process, 9.0, "").await;
    });
    fs::remove_file(dir.path().join("history.log")).unwrap();
    life(async {
        let process = Process::start(shop_in(dir.path())).await;
        let document = history(&process).await;
        assert_eq!(
            (column(&document, "generation"), column(&document, "action")),
            (vec![json!(3)], vec![json!("start")])
        );
        assert_eq!(document["revisions"][0]["after"], json!({"stable": 91, "canary": 9}));
        shift(&process, 1.0, "").await;
        assert_eq!(post(&process, "undo", &[], "").await.json()["to"], 3);
    });
    let known = life(async { history(&Process::start(shop_in(dir.path())).await).await });
    assert_eq!(column(&known, "generation"), [5, 4, 3]);
    // Also where the file has changed meanwhile, so that it can be undone.
    fs::remove_file(dir.path().join("history.log")).unwrap();
    life(async {
        let mut edited = config(&[("shop", &[("stable", 60.0), ("canary", 40.0)])]);
        edited.server.state_dir = Some(dir.path().to_owned());
        let process = Process::start(edited).await;
        let document = history(&process).await;
        assert_eq!(column(&document, "action"), ["file", "start"]);
        assert_eq!(document["revisions"][0]["before"], json!({"stable": 91, "canary": 9}));
        assert_eq!(audit_lines(dir.path()).last().unwrap()["action"], "file");
    });
}

#[test]
fn a_lost_live_state_can_be_brought_back_from_the_history() {
    let dir = tempfile::tempdir().unwrap();
    let assignment = life(async {
        let process = Process::start(shop_in(dir.path())).await;
        shift(&process, 60.0, "").await;
        shift(&process, 20.0, "").await;
        process.control.ground().routes[0].assignment.clone()
    });
    fs::write(dir.path().join("live.json"), "garbage").unwrap();
    life(async {
        let process = Process::start(shop_in(dir.path())).await;
        assert_eq!(process.live("shop"), (4, vec![100_000, 0]), "the file's weights, and no generation twice");
        assert_eq!(post(&process, "undo", &[], r#"{"to":3}"#).await.status, 200);
        assert_eq!(process.control.ground().routes[0].assignment, assignment);
    });
}

#[test]
fn a_change_that_was_under_way_at_the_end_did_not_happen_and_the_audit_log_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live.json");
    life(async { shift(&Process::start(shop_in(dir.path())).await, 5.0, "").await });
    let before = fs::read(&live).unwrap();
    life(async { shift(&Process::start(shop_in(dir.path())).await, 50.0, "last").await });
    fs::write(&live, before).unwrap();
    for _ in 0..2 {
        life(async {
            let process = Process::start(shop_in(dir.path())).await;
            assert_eq!(process.live("shop"), (2, vec![95_000, 5_000]));
            assert_eq!(column(&history(&process).await, "generation"), [2, 1]);
        });
        let lines = audit_lines(dir.path());
        assert_eq!(lines.len(), 3, "said once");
        assert_eq!(
            (&lines[2]["result"], &lines[2]["generation"], &lines[2]["reason"]),
            (&json!("not done"), &json!(3), &json!("last"))
        );
    }
}

#[test]
fn a_damaged_history_is_shown_and_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    life(async {
        let process = Process::start(shop_in(dir.path())).await;
        shift(&process, 5.0, "").await;
    });
    let log = dir.path().join("history.log");
    let mut bytes = fs::read(&log).unwrap();
    bytes[40] ^= 1;
    fs::write(&log, &bytes).unwrap();
    life(async {
        let process = Process::start(shop_in(dir.path())).await;
        assert_eq!(process.live("shop"), (2, vec![95_000, 5_000]));
        assert_eq!(column(&history(&process).await, "generation"), [2]);
        let state = &process.get("/api/v1/stats").await.json()["state"];
        assert_eq!(state["status"], "set aside");
        assert_eq!(fs::read(state["file"].as_str().unwrap()).unwrap(), bytes);
        shift(&process, 6.0, "").await;
    });
    life(async {
        let process = Process::start(shop_in(dir.path())).await;
        assert_eq!(column(&history(&process).await, "generation"), [3, 2]);
        assert_eq!(process.get("/api/v1/stats").await.json()["state"]["status"], "saved");
    });
}

#[test]
fn a_change_that_the_history_or_the_audit_log_can_t_take_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let audit = dir.path().join("audit.jsonl");
    life(async {
        let process = Process::start(shop_in(dir.path())).await;
        fs::create_dir(&audit).unwrap();
        let reply = process.patch("shop", &[], r#"{"weights":{"canary":6}}"#).await;
        assert_eq!((reply.status, reply.problem().as_str()), (507, "state-not-saved"));
        assert!(reply.json()["detail"].as_str().unwrap().contains("audit.jsonl"), "{reply:?}");
        assert_eq!(process.live("shop"), (1, vec![100_000, 0]));
        assert_eq!(column(&history(&process).await, "generation"), [1]);
        fs::remove_dir(&audit).unwrap();
        shift(&process, 7.0, "").await;
        assert_eq!(column(&history(&process).await, "generation"), [2, 1]);
    });
    let known = life(async { history(&Process::start(shop_in(dir.path())).await).await });
    assert_eq!(column(&known, "generation"), [2, 1]);
    assert_eq!(audit_lines(dir.path()).len(), 1);
}

#[tokio::test]
async fn a_reload_s_changes_are_revisions_of_whoever_asked_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weir.toml");
    let write = |canary: u32, more: &str| {
        let text = format!(
            "[server]\nstate_dir = \"state\"\n[admin]\nlisten = [\"127.0.0.1:0\"]\n\
             [[listener]]\nname = \"http\"\nbind = \"127.0.0.1:8080\"\n\
             [pool.v1]\ntargets = [\"127.0.0.1:9101\"]\n\
             [[route]]\nname = \"shop\"\nvariants = {{ stable = \"v1\", canary = \"v1\" }}\n\
             weights = {{ stable = {}, canary = {canary} }}\n{more}",
            100 - canary
        );
        fs::write(&path, text).unwrap();
    };
    write(0, "");
    let process = Process::start(loaded(&path)).await;
    write(20, "");
    process.control.reload(Origin::signal("SIGHUP")).await.unwrap();
    write(20, "timeout = \"3s\"\n");
    process.control.reload(Origin::signal("SIGHUP")).await.unwrap();
    write(30, "[[route]]\nname = \"new\"\nmatch = { path = \"/new\" }\nvariants = { v = \"v1\" }\n");
    assert_eq!(process.call("POST", "/api/v1/reload", &[], b"").await.status, 200);
    let document = history(&process).await;
    assert_eq!(column(&document, "generation"), [3, 2, 1]);
    assert_eq!(column(&document, "action"), ["file", "file", "start"]);
    assert_eq!(column(&document, "actor"), ["local", "signal", "file"]);
    assert_eq!(document["revisions"][1]["source"], "SIGHUP");
    let new = process.get("/api/v1/routes/new/history").await.json();
    assert_eq!((column(&new, "action"), column(&new, "actor")), (vec![json!("start")], vec![json!("local")]));
    assert_eq!(post(&process, "undo", &[], r#"{"to":1}"#).await.status, 200);
    let lines = audit_lines(&dir.path().join("state"));
    let actions: Vec<_> = lines.iter().map(|line| line["action"].clone()).collect();
    assert_eq!(actions, ["reload", "file", "reload", "reload", "file", "undo"]);
    assert_eq!((&lines[0]["actor"], &lines[0]["file_won"]), (&json!("signal"), &json!(["shop"])));
    assert_eq!((&lines[3]["actor"], &lines[3]["added"]), (&json!("local"), &json!(["new"])));
    // A route that is gone takes its history with it, and starts anew.
    write(30, "");
    process.call("POST", "/api/v1/reload", &[], b"").await;
    assert_eq!(process.get("/api/v1/routes/new/history").await.status, 404);
    write(30, "[[route]]\nname = \"new\"\nmatch = { path = \"/new\" }\nvariants = { v = \"v1\" }\n");
    process.call("POST", "/api/v1/reload", &[], b"").await;
    assert_eq!(column(&process.get("/api/v1/routes/new/history").await.json(), "generation"), [1]);
}

#[test]
fn what_is_refused_has_a_line_in_the_audit_log_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    life(async {
        let process = Process::start(with_tokens(shop_in(dir.path()), vec![token("ci", Role::Admin)])).await;
        let ci = "authorization: Bearer secret-ci";
        let shift = |header: &'static str, body: &'static str| {
            let process = &process;
            async move { process.patch("shop", &[ci, header], body).await.status }
        };
        let stale = r#"{"weights":{"canary":5},"reason":"release\u0085"}"#;
        assert_eq!(shift("if-match: \"7\"", stale).await, 412);
        assert_eq!(shift("x: y", r#"{"weights":{"canray":5}}"#).await, 400);
        assert_eq!(post(&process, "undo", &[ci], "").await.status, 409);
        assert_eq!(post(&process, "switch", &[ci], r#"{"to":"canary"}"#).await.problem(), "targets-not-healthy");
        // Not what could not be read, nor what was only asked.
        assert_eq!(shift("x: y", "{").await, 400);
        let dry = process.call("POST", "/api/v1/routes/shop/undo?dry_run=true", &[JSON, ci], b"").await;
        assert_eq!(dry.status, 409);
        assert_eq!(
            process.call("POST", "/api/v1/config/save", &[JSON, ci], b"{\"routes\":[\"nowhere\"]}").await.status,
            404
        );
        assert_eq!(process.call("POST", "/api/v1/reload", &[ci], b"").await.status, 400, "there is no file");
        for _ in 0..20 {
            assert_eq!(shift("if-match: \"7\"", r#"{"weights":{"canary":5}}"#).await, 412);
        }
        // Nothing waits for these lines; they are there when changes after them are done.
        assert_eq!(shift("x: y", r#"{"weights":{"canary":6}}"#).await, 200);
        assert_eq!(shift("x: y", r#"{"weights":{"canary":7}}"#).await, 200);
        assert_eq!(process.live("shop"), (3, vec![93_000, 7_000]));
    });
    let lines = audit_lines(dir.path());
    let (refused, done): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line["result"] == "refused");
    assert_eq!(done.iter().map(|line| &line["generation"]).collect::<Vec<_>>(), [2, 3]);
    let said = |member: &str| refused.iter().map(|line| line[member].clone()).collect::<Vec<_>>();
    assert_eq!(refused.len(), crate::limits::REFUSALS_PER_ACTOR as usize, "{refused:#?}");
    assert_eq!(said("action")[..7], ["shift", "shift", "undo", "switch", "save", "reload", "shift"]);
    assert!(
        refused.iter().all(|line| line["actor"] == "ci" && line["source"].as_str().unwrap().starts_with("127.0.0.1:"))
    );
    assert_eq!(
        (&refused[0]["asked"], &refused[0]["reason"]),
        (&json!({"weights": {"canary": 5}}), &json!("release\u{85}"))
    );
    assert_eq!(refused[0]["why"], "route \"shop\" is at generation 1");
    assert_eq!(
        (&refused[3]["asked"], &refused[3]["route"]),
        (&json!({"to": "canary", "force": false}), &json!("shop"))
    );
    assert_eq!((&refused[2]["asked"], &refused[4]["routes"]), (&json!({"to": null}), &json!(["nowhere"])));
}
