//! `in_file`: lists that change while Weir runs.

use crate::support::*;
use std::fs;
use std::path::PathBuf;

/// A route whose canary is for the users that `ids.txt` lists.
fn listed_site(upstreams: &[Upstream; 2], ids: &str) -> Site {
    let rule = "[[route.rule]]\nname = \"listed\"\nwhen = { header = \"x-user-id\", in_file = \"ids.txt\" }\nvariant = \"canary\"";
    let site = split_site(&[("stable", &upstreams[0], "100"), ("canary", &upstreams[1], "0")], rule);
    fs::write(site.folder.path().join("ids.txt"), ids).expect("the temporary folder is writable");
    site
}

fn upstreams() -> [Upstream; 2] {
    [Upstream::named("stable"), Upstream::named("canary")]
}

fn ids(weir: &Weir) -> PathBuf {
    weir.site.folder.path().join("ids.txt")
}

fn variant(client: &mut Wire, user: &str) -> String {
    client.get("/", &format!("X-User-Id: {user}\r\n")).text().to_owned()
}

#[test]
fn a_list_is_read_again_when_its_file_changes() {
    let upstreams = upstreams();
    let weir = listed_site(&upstreams, "alice\n").start();
    let mut client = weir.client();
    assert_eq!((variant(&mut client, "alice"), variant(&mut client, "bob")), ("canary".into(), "stable".into()));
    let generation = weir.route("shop")["generation"].clone();
    fs::write(ids(&weir), "bob\r\n").expect("the temporary folder is writable");
    eventually("bob is listed", || variant(&mut client, "bob") == "canary");
    assert_eq!(variant(&mut client, "alice"), "stable");
    // As editors and deployments do: another file in its place.
    let new = weir.site.folder.path().join("ids.new");
    fs::write(&new, "eve\n").expect("the temporary folder is writable");
    fs::rename(&new, ids(&weir)).expect("one folder");
    eventually("eve is listed", || variant(&mut client, "eve") == "canary");
    assert_eq!(variant(&mut client, "bob"), "stable");
    assert_eq!(weir.route("shop")["generation"], generation, "a list is no live state");
}

#[test]
fn a_list_that_is_gone_stays_as_it_was_and_that_is_said_once() {
    let upstreams = upstreams();
    let weir = listed_site(&upstreams, "alice\n").start();
    let mut client = weir.client();
    fs::remove_file(ids(&weir)).expect("it is there");
    eventually("the log says so", || weir.log().contains("the list can't be read"));
    assert_eq!(variant(&mut client, "alice"), "canary");
    fs::write(ids(&weir), "alice\nbob\n").expect("the temporary folder is writable");
    eventually("bob is listed", || variant(&mut client, "bob") == "canary");
    eventually("the log says that too", || weir.log().contains("the list can be read again"));
    let log = weir.log();
    assert_eq!(log.matches("the list can't be read").count(), 1, "{log}");
    assert_eq!(log.matches("the list can be read again").count(), 1, "{log}");
}

#[test]
fn lists_and_live_weights_go_on_side_by_side() {
    let upstreams = upstreams();
    let weir = listed_site(&upstreams, "alice\n").start();
    let mut client = weir.client();
    weir.shift("shop", "\"canary\":100");
    fs::write(ids(&weir), "bob\n").expect("the temporary folder is writable");
    eventually("the list changed", || weir.log().contains("the list changed"));
    assert_eq!(weir.weight("shop", "canary"), 100.0);
    weir.shift("shop", "\"canary\":0");
    eventually("the new list is in force", || variant(&mut client, "alice") == "stable");
    assert_eq!(variant(&mut client, "bob"), "canary", "a change of weights keeps the list");
    assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 200);
    assert_eq!(variant(&mut client, "bob"), "canary");
}

#[test]
fn a_missing_list_refuses_the_file() {
    let upstreams = upstreams();
    let weir = listed_site(&upstreams, "alice\n").start();
    let text = weir.site.text().replace("ids.txt", "none.txt");
    fs::write(weir.site.file(), text).expect("the temporary folder is writable");
    let answer = weir.admin("POST", "/api/v1/reload", "", "");
    assert!((400..500).contains(&answer.status) && answer.text().contains("none.txt"), "{answer:?}");
    assert_eq!(variant(&mut weir.client(), "alice"), "canary");
}

#[test]
fn a_million_lines_are_a_list() {
    let upstreams = upstreams();
    let text: String = (0..1_000_000).map(|n| format!("user-{n:07}\n")).collect();
    let weir = listed_site(&upstreams, &text).start();
    let mut client = weir.client();
    for n in (0..1_000_000).step_by(9_973) {
        assert_eq!(variant(&mut client, &format!("user-{n:07}")), "canary", "{n}");
        assert_eq!(variant(&mut client, &format!("user-{n:08}")), "stable", "{n}");
    }
    // The text is 13 MB, its table 17; the two are there twice while one replaces the other.
    let status = fs::read_to_string(format!("/proc/{}/status", weir.pid())).expect("the process runs");
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says it");
    let kib: u64 = rss.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kib < 100 * 1024, "{kib} KiB");
}

#[test]
fn a_route_s_match_may_have_a_list_too() {
    let [stable, canary] = upstreams();
    let listed = "[[route]]\nname = \"listed\"\nmatch = { header = { x-user-id = { in_file = \"ids.txt\" } }, query = { name = \"q\", in_file = \"ids.txt\" } }\n\
                  variants = { only = \"pool-canary\" }";
    let site = split_site(&[("stable", &stable, "100"), ("canary", &canary, "0")], listed);
    fs::write(site.folder.path().join("ids.txt"), "alice\n").expect("the temporary folder is writable");
    let weir = site.start();
    let asked = |query: &str, user: &str| {
        let answer = weir.get(&format!("/?q={query}"), &format!("X-User-Id: {user}\r\n"));
        answer.text().to_owned()
    };
    assert_eq!((asked("alice", "alice"), asked("alice", "bob")), ("canary".into(), "stable".into()));
    fs::write(ids(&weir), "bob\n").expect("the temporary folder is writable");
    eventually("bob is listed", || asked("bob", "bob") == "canary");
    assert_eq!((asked("alice", "alice"), asked("alice", "bob")), ("stable".into(), "stable".into()));
    let output = weir.cli(&["explain", "-H", "x-user-id: eve", "http://a/"]);
    let told = String::from_utf8(output.stdout).expect("text");
    assert!(told.contains("header x-user-id does not pass in_file = \"ids.txt\""), "{told}");
}
