//! Revisions: all acknowledged ones are there after any stop, none that was refused is, and an undo brings every client
//! back.

use crate::support::*;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

const BY_USER: &str = "sticky = { key = [\"header:x-user-id\"], fallback = \"random\" }";

struct Shop {
    upstreams: [Upstream; 3],
}

impl Shop {
    fn new() -> Shop {
        Shop { upstreams: [Upstream::named("a"), Upstream::named("b"), Upstream::named("c")] }
    }
    fn start(&self) -> Weir {
        let [a, b, c] = &self.upstreams;
        split_site(&[("a", a, "60"), ("b", b, "30"), ("c", c, "10")], BY_USER).start()
    }
}

fn placed(weir: &Weir) -> Vec<String> {
    let mut client = weir.client();
    (0..300).map(|user| client.get("/", &format!("X-User-Id: {user}\r\n")).text().to_owned()).collect()
}

/// Newest first.
#[track_caller]
fn revisions(weir: &Weir) -> Vec<Value> {
    let answer = weir.admin("GET", "/api/v1/routes/shop/history", "", "");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["revisions"].as_array().expect("a list").clone()
}

#[track_caller]
fn done(output: &std::process::Output) -> String {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    said
}

#[test]
fn an_undo_brings_every_client_back_also_after_a_restart() {
    let shop = Shop::new();
    let mut weir = shop.start();
    let mut lived = vec![placed(&weir)];
    // Up and down, so that the buckets are not those that the weights alone would give.
    for weights in ["\"b\":5,\"c\":60", "\"b\":45,\"c\":1", "\"a\":20,\"b\":20,\"c\":60"] {
        weir.shift("shop", weights);
        lived.push(placed(&weir));
    }
    weir = weir.restart("KILL");
    for (generation, clients) in (1..).zip(&lived) {
        let said = done(&weir.cli(&["undo", "shop", "--to", &generation.to_string(), "--reason", "look back"]));
        assert!(said.contains(&format!("as revision {generation}")), "{said}");
        assert_eq!(placed(&weir), *clients, "revision {generation}");
    }
    done(&weir.cli(&["undo", "shop"]));
    assert_eq!(placed(&weir), lived[2]);
    let table = done(&weir.cli(&["history", "shop"]));
    assert!(table.contains("look back") && table.contains("(as revision 3)"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    let json: Value = serde_json::from_str(&done(&weir.cli(&["history", "shop", "--limit", "1", "-o", "json"])))
        .expect("JSON on standard output");
    assert_eq!(json["revisions"][0]["generation"], 9);
}

#[test]
fn undo_says_what_it_can_t_and_what_it_would() {
    let shop = Shop::new();
    let weir = shop.start();
    let refused = |args: &[&str], word: &str| {
        let output = weir.cli(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(word), "{args:?}: {said}");
    };
    refused(&["undo", "shop"], "no revision before 1");
    weir.shift("shop", "\"b\":50");
    refused(&["undo", "shop", "--to", "7"], "has the revisions 1, 2");
    refused(&["undo", "shop", "--if-generation", "1"], "generation 2");
    refused(&["undo", "nowhere"], "no route");
    refused(&["history", "nowhere"], "no route");
    let said = done(&weir.cli(&["undo", "shop", "--dry-run"]));
    assert!(said.contains("b  50 % -> 30 %") && said.contains("20 % of the clients"), "{said}");
    assert_eq!(weir.route("shop")["generation"], 2);
    let said = done(&weir.cli(&["undo", "shop", "--to", "2"]));
    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(weir.cli(&["undo", "shop", "--to", "x"]).status.code(), Some(2));
}

#[test]
fn kill_9_loses_no_acknowledged_revision() {
    let shop = Shop::new();
    let mut weir = shop.start();
    let acknowledged = Mutex::new(Vec::<(u64, f64)>::new());
    for round in 1..=4 {
        let killed = AtomicBool::new(false);
        let (weights, addr) = ("/api/v1/routes/shop/weights", weir.addr("admin"));
        std::thread::scope(|scope| {
            for writer in 0..3 {
                let (acknowledged, killed) = (&acknowledged, &killed);
                scope.spawn(move || {
                    for turn in 0.. {
                        let percent = f64::from(writer * 1000 + turn % 1000 + 1) / 1000.0;
                        let body = format!("{{\"weights\":{{\"c\":{percent}}}}}");
                        let Ok(stream) = std::net::TcpStream::connect(addr) else { return };
                        let mut wire = Wire::new(stream);
                        let head = format!(
                            "PATCH {weights} HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                            body.len()
                        );
                        let Ok(answer) = wire.try_send(head + &body).and_then(|()| wire.try_answer(false)) else {
                            assert!(killed.load(SeqCst), "it answers for as long as it lives");
                            return;
                        };
                        assert_eq!(answer.status, 200, "{answer:?}");
                        let generation = answer.json()["generation"].as_u64().expect("a number");
                        acknowledged.lock().expect("no writer panicked").push((generation, percent));
                    }
                });
            }
            let count = || acknowledged.lock().expect("no writer panicked").len();
            let enough = count() + 8 * round;
            eventually("changes are acknowledged", || count() >= enough);
            killed.store(true, SeqCst);
            weir.signal("KILL");
        });
        weir = weir.restart("KILL");
        let known = revisions(&weir);
        assert_eq!(known[0]["generation"], weir.route("shop")["generation"], "round {round}");
        for (generation, percent) in acknowledged.lock().expect("no writer panicked").iter() {
            let revision = known.iter().find(|revision| revision["generation"] == *generation);
            let revision = revision.unwrap_or_else(|| panic!("round {round}: revision {generation} is gone"));
            assert_eq!(revision["after"]["c"].as_f64(), Some(*percent), "round {round}: {revision}");
        }
    }
    let audit = std::fs::read_to_string(weir.site.folder.path().join("state/audit.jsonl")).expect("there is one");
    let lines: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).expect("whole lines")).collect();
    // What was under way at a kill has a line that takes it back, if it came as far as to have one at all.
    let told = |generation: u64, result: &str| {
        lines.iter().filter(|line| line["generation"] == generation && line["result"] == result).count()
    };
    for (generation, percent) in acknowledged.lock().expect("no writer panicked").iter() {
        assert!((1..=1 + told(*generation, "not done")).contains(&told(*generation, "done")), "revision {generation}");
        let last = lines.iter().rfind(|line| line["generation"] == *generation).expect("it has a line");
        assert_eq!((&last["result"], last["after"]["c"].as_f64()), (&"done".into(), Some(*percent)));
    }
}

#[test]
fn a_full_disk_in_the_middle_of_a_record_refuses_it_and_no_other() {
    let shop = Shop::new();
    let weir = shop.start();
    weir.shift("shop", "\"c\":11");
    let log = weir.site.folder.path().join("state/history.log");
    let length = || std::fs::metadata(&log).expect("there is one").len();
    let pid = Pid::from_raw(weir.pid().cast_signed()).expect("a process has a number");
    let allow = |bytes| {
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(pid), Resource::Fsize, limit).expect("the child's limit can be set");
    };
    let before = length();
    // Room for a part of a record.
    allow(Some(before + 60));
    for _ in 0..3 {
        weir.patch("shop", "\"c\":12").assert_problem(507);
        assert_eq!((weir.weight("shop", "c"), length()), (11.0, before));
    }
    assert_eq!(weir.get("/", "").status, 200);
    allow(None);
    weir.shift("shop", "\"c\":13");
    let weir = weir.restart("KILL");
    let known: Vec<Value> = revisions(&weir).iter().map(|revision| revision["after"]["c"].clone()).collect();
    assert_eq!(known, [13, 11, 10]);
    assert!(!weir.log().contains("damaged"), "{}", weir.log());
}

#[test]
fn a_history_that_is_broken_on_disk_does_not_stop_a_start() {
    let shop = Shop::new();
    let weir = shop.start();
    for percent in 11..16 {
        weir.shift("shop", &format!("\"c\":{percent}"));
    }
    let mut stopped = weir.stop("TERM");
    let log = stopped.folder.path().join("state/history.log");
    let whole = std::fs::read(&log).expect("there is one");
    let mut middle = whole.clone();
    middle[whole.len() / 2] ^= 0xff;
    for broken in [&b""[..], b"\xff\x00", b"weir-history 9\n", &whole[..whole.len() - 9], &middle] {
        std::fs::write(&log, broken).expect("the folder is writable");
        let weir = stopped.start();
        assert_eq!(weir.weight("shop", "c"), 15.0);
        assert_eq!(revisions(&weir)[0]["generation"], 6);
        stopped = weir.stop("TERM");
    }
}

#[test]
fn a_reload_s_weights_are_in_the_history_and_can_be_undone() {
    let shop = Shop::new();
    let weir = shop.start();
    let clients = placed(&weir);
    let text = weir.site.text().replace("a = 60, b = 30, c = 10", "a = 10, b = 10, c = 80");
    std::fs::write(weir.site.file(), text).expect("the temporary folder is writable");
    weir.signal("HUP");
    eventually("the file's weights are live", || weir.weight("shop", "c") == 80.0);
    let newest = &revisions(&weir)[0];
    assert_eq!((&newest["action"], &newest["actor"]), (&"file".into(), &"signal".into()), "{newest}");
    done(&weir.cli(&["undo", "shop"]));
    assert_eq!(placed(&weir), clients);
    // The file says the same as at the reload: what was undone stays undone.
    let weir = weir.restart("TERM");
    assert_eq!(placed(&weir), clients);
}
