//! Which of a pool's targets gets a request: shares, turns, keys, load, and targets that begin slowly.

use crate::support::*;
use std::collections::HashMap;

/// One route over a pool of these targets, written as in the file.
fn site(workers: usize, targets: &str, pool_lines: &str) -> Site {
    let route = "[[route]]\nname = \"shop\"\nmatch = { path = \"/\" }\nvariants = { stable = \"only\" }\n";
    let pool = format!("[pool.only]\ntargets = [{targets}]\n{pool_lines}\n{route}");
    Site::new().server(&format!("workers = {workers}")).toml(&pool)
}

fn plain(targets: &[&Upstream]) -> String {
    targets.iter().map(|target| format!("\"{}\"", target.addr)).collect::<Vec<_>>().join(", ")
}

fn weighted(targets: &[(&Upstream, u32)]) -> String {
    let one = |(target, weight): &(&Upstream, u32)| format!("{{ addr = \"{}\", weight = {weight} }}", target.addr);
    targets.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[test]
fn shares_are_the_weights_by_every_way_of_choosing() {
    for balance in ["p2c", "least_conn", "round_robin", "hash"] {
        let (heavy, light) = (Upstream::named("heavy"), Upstream::named("light"));
        let key = if balance == "hash" { "\nhash_key = \"header:x-id\"" } else { "" };
        let lines = format!("balance = \"{balance}\"{key}");
        let weir = site(2, &weighted(&[(&heavy, 3), (&light, 1)]), &lines).start();
        let mut client = weir.client();
        for id in 0..800 {
            assert_eq!(client.get("/", &format!("X-Id: {id}\r\n")).status, 200);
        }
        // Chance stays within 4.5 standard errors of 1.5 percent each.
        let share = heavy.count() as f64 / 800.0;
        assert!((0.68..0.82).contains(&share), "{balance}: {share}");
        assert_eq!(heavy.count() + light.count(), 800);
    }
}

#[test]
fn turns_are_taken_exactly() {
    let targets = [Upstream::named("a"), Upstream::named("b"), Upstream::named("c")];
    let [a, b, c] = &targets;
    let weir = site(1, &plain(&[a, b, c]), "balance = \"round_robin\"").start();
    let mut client = weir.client();
    let said: String = (0..9).map(|_| client.get("/", "").text().to_owned()).collect();
    assert_eq!(said, "abcabcabc");
    let weighted = site(1, &weighted(&[(a, 2), (b, 1)]), "balance = \"round_robin\"").start();
    let mut client = weighted.client();
    let said: String = (0..6).map(|_| client.get("/", "").text().to_owned()).collect();
    assert_eq!(said, "abaaba");
}

/// Which target answers each of these users; each asks several times, on connections of its own.
fn homes(weir: &Weir) -> HashMap<usize, String> {
    let home = |user: usize| {
        let mut said = (0..3).map(|_| weir.get("/", &format!("Cookie: uid={user}\r\n")).text().to_owned());
        let first = said.next().expect("three answers");
        assert!(said.all(|other| other == first), "user {user}");
        (user, first)
    };
    (0..60).map(home).collect()
}

#[test]
fn a_key_stays_with_its_target_and_only_those_of_one_that_dies_move() {
    let (a, b) = (Upstream::named("a"), Upstream::named("b"));
    // Keeps no connection that would outlive it.
    let c = Upstream::answering(|_| Reply::last("HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: 1\r\n\r\nc"));
    let lines = "balance = \"hash\"\nhash_key = [\"header:x-id\", \"cookie:uid\"]";
    let weir = site(2, &plain(&[&a, &b, &c]), lines).start();
    let before = homes(&weir);
    for name in ["a", "b", "c"] {
        let share = before.values().filter(|home| *home == name).count();
        assert!((8..35).contains(&share), "{name} has {share} of 60");
    }
    // A header comes before the cookie; without either it is the address.
    assert_eq!(weir.get("/", "X-Id: 7\r\nCookie: uid=1\r\n").text(), before[&7]);
    let by_address = weir.get("/", "").text().to_owned();
    assert!((0..10).all(|_| weir.get("/", "").text() == by_address));

    let gone = c.addr;
    drop(c);
    eventually("nobody listens there", || std::net::TcpStream::connect(gone).is_err());
    let after = homes(&weir);
    for (user, home) in &before {
        match home.as_str() {
            "c" => assert!(after[user] != "c"),
            _ => assert_eq!(&after[user], home, "user {user} was moved"),
        }
    }
    let heirs: Vec<_> = before.iter().filter(|(_, home)| *home == "c").map(|(user, _)| after[user].as_str()).collect();
    assert!(heirs.contains(&"a") && heirs.contains(&"b"), "{heirs:?}");
}

#[test]
fn the_least_busy_target_gets_what_a_slow_one_does_not() {
    let gate = Gate::default();
    let (held, fast) = (gate.clone(), Upstream::named("fast"));
    let slow = Upstream::answering(move |_| {
        held.pass();
        Reply::text("slow")
    });
    let weir = site(1, &plain(&[&slow, &fast]), "balance = \"least_conn\"").start();
    let mut waiting = Vec::new();
    // Of two that are idle either may get the first.
    eventually("the slow one has a request", || {
        let mut client = weir.client();
        let before = fast.count();
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        eventually("somebody has it", || slow.count() == 1 || fast.count() > before);
        waiting.push(client);
        slow.count() == 1
    });
    for _ in 0..30 {
        assert_eq!(weir.get("/", "").text(), "fast");
    }
    assert_eq!(slow.count(), 1);
    gate.open();
    let last = waiting.pop().expect("one waits").answer();
    assert_eq!(last.text(), "slow");
}

#[test]
fn a_new_target_begins_slowly() {
    for (slow_start, most) in [("1h", 3), ("0s", 100)] {
        let (old, new) = (Upstream::named("old"), Upstream::named("new"));
        let site = site(1, &plain(&[&old]), &format!("balance = \"round_robin\"\nslow_start = \"{slow_start}\""));
        let (file, text) = (site.file(), site.text());
        let weir = site.start();
        assert_eq!(weir.get("/", "").text(), "old");
        let both = text.replace(&plain(&[&old]), &plain(&[&old, &new]));
        std::fs::write(file, both).expect("the file can be written");
        assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 200);
        let mut client = weir.client();
        (0..200).for_each(|_| drop(client.get("/", "")));
        let least = most / 3;
        assert!((least..=most).contains(&new.count()), "{slow_start}: {} of 200", new.count());
    }
}

#[test]
fn a_rescued_request_goes_to_the_baselines_target_for_its_key() {
    let (a, b) = (Upstream::named("a"), Upstream::named("b"));
    let bad = Upstream::answering(|_| Reply::status(500, "", "bad"));
    let keyed = "balance = \"hash\"\nhash_key = \"query:user\"";
    let weir = Site::new()
        .pool("stable", &[a.addr, b.addr], keyed)
        .pool("canary", &[bad.addr], "")
        .toml("[[route]]\nname = \"shop\"\nvariants = { stable = \"stable\", canary = \"canary\" }\nrescue = {budget = \"100%\"}\nweights = { stable = 50, canary = 50 }\n")
        .start();
    for user in 0..20 {
        let mut client = weir.client();
        let said: Vec<String> = (0..10).map(|_| client.get(&format!("/?user={user}"), "").text().to_owned()).collect();
        assert!(said.iter().all(|one| *one == said[0] && one != "bad"), "{user}: {said:?}");
    }
    assert!(bad.count() > 50 && a.count() > 0 && b.count() > 0);
}
