//! What was acknowledged is there after any stop; what is broken on disk is kept aside and said.

use crate::support::weir::refused_start;
use crate::support::*;
use std::path::PathBuf;

const BY_USER: &str = "sticky = { key = [\"header:x-user-id\"], fallback = \"random\" }";

fn upstreams() -> [Upstream; 2] {
    [Upstream::named("stable"), Upstream::named("canary")]
}

fn site(upstreams: &[Upstream; 2]) -> Site {
    split_site(&[("stable", &upstreams[0], "95"), ("canary", &upstreams[1], "5")], BY_USER)
}

fn placed(weir: &Weir) -> Vec<String> {
    let mut client = weir.client();
    (0..500).map(|user| client.get("/", &format!("X-User-Id: {user}\r\n")).text().to_owned()).collect()
}

fn state_files(site: &Site) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(site.folder.path().join("state")).expect("the state folder is there");
    entries.map(|entry| entry.expect("readable").path()).filter(|path| path.is_file()).collect()
}

#[test]
fn weights_and_clients_stay_over_a_restart() {
    let upstreams = upstreams();
    let weir = site(&upstreams).start();
    // Up and down again: the buckets that the canary has are not those of a fresh start at 20 %.
    weir.shift("shop", "\"canary\":60");
    weir.shift("shop", "\"canary\":20");
    let (before, generation) = (placed(&weir), weir.route("shop")["generation"].clone());
    let weir = weir.restart("TERM");
    assert_eq!((weir.weight("shop", "canary"), &weir.route("shop")["generation"]), (20.0, &generation));
    assert_eq!(placed(&weir), before);
    let weir = weir.restart("KILL");
    assert_eq!(weir.weight("shop", "canary"), 20.0);
    assert_eq!(placed(&weir), before);
}

#[test]
fn a_kill_loses_nothing_acknowledged() {
    let upstreams = upstreams();
    let mut weir = site(&upstreams).start();
    for round in 0..8 {
        let mut acknowledged = 0.0;
        for percent in 0..=(round * 3) {
            acknowledged = f64::from(percent) + 0.125;
            weir.shift("shop", &format!("\"canary\":{acknowledged}"));
        }
        weir = weir.restart("KILL");
        assert_eq!(weir.weight("shop", "canary"), acknowledged, "round {round}");
    }
}

#[test]
fn a_changed_file_wins_over_live_weights_at_start() {
    let upstreams = upstreams();
    let weir = site(&upstreams).start();
    weir.shift("shop", "\"canary\":40");
    let mut stopped = weir.stop("TERM");
    stopped.rest = stopped.rest.replace("stable = 95, canary = 5", "stable = 90, canary = 10");
    let weir = stopped.start();
    assert_eq!(weir.weight("shop", "canary"), 10.0);
    eventually("the log says that the file won", || weir.log().contains("shop"));
}

#[test]
fn a_broken_state_file_is_kept_aside() {
    let upstreams = upstreams();
    let garbage: [&[u8]; 3] = [b"", b"\x00\xff garbage \x00", b"{\"version\":999999}"];
    for bytes in garbage {
        let weir = site(&upstreams).start();
        weir.shift("shop", "\"canary\":40");
        let stopped = weir.stop("TERM");
        let files = state_files(&stopped);
        assert!(!files.is_empty());
        for file in &files {
            std::fs::write(file, bytes).expect("the state file is writable");
        }
        let weir = stopped.start();
        assert_eq!(weir.weight("shop", "canary"), 5.0, "the file's weights start");
        eventually("the log says so", || weir.log().contains("the saved live state is not used"));
        weir.shift("shop", "\"canary\":30");
        let kept = state_files(&weir.site).iter().any(|file| std::fs::read(file).is_ok_and(|found| found == bytes));
        assert!(kept, "the broken file is gone: {:?}", state_files(&weir.site));
    }
}

#[test]
fn a_truncated_state_file_is_not_half_believed() {
    let upstreams = upstreams();
    let weir = site(&upstreams).start();
    weir.shift("shop", "\"canary\":40");
    let stopped = weir.stop("TERM");
    for file in state_files(&stopped) {
        let bytes = std::fs::read(&file).expect("the state file is readable");
        std::fs::write(&file, &bytes[..bytes.len() - bytes.len() / 3]).expect("the state file is writable");
    }
    let weir = stopped.start();
    assert_eq!(weir.weight("shop", "canary"), 5.0);
}

#[test]
fn a_change_that_cannot_be_kept_is_refused() {
    let upstreams = upstreams();
    let weir = site(&upstreams).start();
    weir.shift("shop", "\"canary\":40");
    let state = weir.site.folder.path().join("state");
    std::fs::rename(&state, weir.site.folder.path().join("away")).expect("the folder can be renamed");
    std::fs::write(&state, "in the way").expect("the temporary folder is writable");
    let answer = weir.patch("shop", "\"canary\":60");
    assert!(answer.status >= 500, "{answer:?}");
    assert_eq!(weir.weight("shop", "canary"), 40.0, "what was not kept is not live");
    assert_eq!(weir.get("/", "").status, 200);
    std::fs::remove_file(&state).expect("the file can be removed");
    std::fs::rename(weir.site.folder.path().join("away"), &state).expect("the folder can be renamed back");
    weir.shift("shop", "\"canary\":60");
}

#[test]
fn a_state_folder_that_cannot_be_is_said_at_start() {
    let upstreams = upstreams();
    let site = site(&upstreams);
    std::fs::write(site.folder.path().join("state"), "in the way").expect("the temporary folder is writable");
    let (status, log) = refused_start(&site);
    assert!(!status.success());
    assert!(log.contains("state"), "{log}");
}

#[test]
fn without_a_state_folder_it_says_so_and_forgets() {
    let upstream = Upstream::named("ok");
    let weir = Site::new().to(upstream.addr, "", "").start();
    eventually("the log says so", || weir.log().contains("state_dir"));
}
