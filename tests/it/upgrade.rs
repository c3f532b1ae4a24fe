//! `weir upgrade`: another process takes over sockets and state, and nobody notices but who asks for its number.

use crate::support::dns::Dns;
use crate::support::weir::{BINARY, weir_command};
use crate::support::*;
use crate::tunnels::{echo, switch};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The process that has taken over; ended with the test.
struct Successor(u32);

impl Successor {
    /// By what `weir upgrade` says.
    #[track_caller]
    fn of(output: &Output) -> Successor {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{output:?}");
        Successor::named(&said, " serves as process ")
    }
    #[track_caller]
    fn named(text: &str, before: &str) -> Successor {
        let number = text.split_once(before).unwrap_or_else(|| panic!("no {before:?} in {text}")).1;
        let number: String = number.chars().take_while(char::is_ascii_digit).collect();
        Successor(number.parse().expect("a process number"))
    }
    fn signal(&self, name: &str) {
        let sent = std::process::Command::new("kill").args(["-s", name, &self.0.to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -s {name}");
    }
    fn lives(&self) -> bool {
        // A zombie has no memory map.
        std::fs::read_to_string(format!("/proc/{}/maps", self.0)).is_ok_and(|maps| !maps.is_empty())
    }
    #[track_caller]
    fn end(&self) {
        self.signal("TERM");
        eventually("the successor ends", || !self.lives());
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if self.lives() {
            self.signal("KILL");
        }
    }
}

fn shop(route: &str) -> (Upstream, Upstream, Site) {
    let (stable, canary) = (Upstream::named("stable"), Upstream::named("canary"));
    let site = split_site(&[("stable", &stable, "100"), ("canary", &canary, "0")], route);
    (stable, canary, site)
}

#[test]
fn clients_of_before_and_after_are_served_and_weights_and_history_go_on() {
    let (_stable, _canary, site) = shop("");
    let mut weir = site.start();
    weir.shift("shop", "\"canary\":100");
    let mut kept = weir.client();
    assert_eq!(kept.get("/", "").text(), "canary");
    let (old, http, admin) = (weir.pid(), weir.addr("http"), weir.addr("admin"));
    let output = weir.cli(&["upgrade", "--reason", "0.1.1 is out"]);
    let successor = Successor::of(&output);
    assert!(String::from_utf8_lossy(&output.stdout).ends_with(&format!("process {old} drains\n")), "{output:?}");
    assert_ne!(successor.0, old);
    // On a connection of before, if this test was quick enough to ask within the second that it is kept.
    if let Ok(last) = kept.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").and_then(|()| kept.try_answer(false)) {
        assert_eq!((last.text(), last.head.field("connection")), ("canary", Some("close")));
    }
    assert_eq!(weir.exit().code(), Some(0));
    assert!(weir.log().contains("another process serves from now on"), "{}", weir.log());
    assert_eq!((weir.addr("http"), weir.addr("admin")), (http, admin));
    let mut client = weir.client();
    assert_eq!(client.get("/", "").text(), "canary");
    assert_eq!(weir.route("shop")["generation"], 2);
    weir.shift("shop", "\"canary\":0");
    assert_eq!(client.get("/", "").text(), "stable");
    let history = weir.admin("GET", "/api/v1/routes/shop/history", "", "").json();
    assert_eq!(history["revisions"].as_array().expect("revisions").len(), 3);
    let audit = std::fs::read_to_string(weir.site.folder.path().join("state/audit.jsonl")).expect("it is there");
    assert!(audit.contains(r#""action":"upgrade","reason":"0.1.1 is out""#), "{audit}");
    successor.end();
    assert!(std::net::TcpStream::connect(http).is_err(), "nobody else listens");
}

#[test]
fn names_keep_their_addresses_where_nobody_answers_the_new_process() {
    let (dns, named) = (Dns::new(), Upstream::named("named"));
    dns.host("shop.test", &[std::net::Ipv4Addr::LOCALHOST], &[]);
    let pool = format!("[pool.only]\ntargets = [\"shop.test:{}\"]\n", named.addr.port());
    let route = "[[route]]\nname = \"shop\"\nvariants = { stable = \"only\" }\n";
    let mut weir = Site::new().toml(&dns.config()).toml(&pool).toml(route).start();
    assert_eq!(weir.get("/", "").text(), "named");
    dns.silent(true);
    let successor = Successor::of(&weir.cli(&["upgrade"]));
    assert_eq!(weir.exit().code(), Some(0));
    assert!(weir.log().contains("the target's name does not resolve"), "{}", weir.log());
    assert_eq!(weir.get("/", "").text(), "named");
    successor.end();
}

#[test]
fn nobody_is_refused_or_cut_and_no_change_is_lost_over_three_upgrades() {
    let (_stable, _canary, site) = shop("");
    let mut weir = site.start();
    let (http, admin) = (weir.addr("http"), weir.addr("admin"));
    let over = AtomicBool::new(false);
    let mut successors = vec![Successor::of(&weir.cli(&["upgrade"]))];
    let (asked, changed) = std::thread::scope(|scope| {
        let knocking: Vec<_> = (0..4).map(|_| scope.spawn(|| knock(http, &over))).collect();
        let keeping: Vec<_> = (0..4).map(|_| scope.spawn(|| keep_asking(http, &over))).collect();
        let changing = scope.spawn(|| keep_changing(admin, &over));
        for _ in 0..2 {
            successors.push(Successor::of(&weir.cli(&["upgrade"])));
        }
        over.store(true, Relaxed);
        let asked: u64 =
            knocking.into_iter().chain(keeping).map(|thread| thread.join().expect("nobody was let down")).sum();
        (asked, changing.join().expect("no change was lost"))
    });
    assert!(asked > 20 && changed > 2, "{asked} requests, {changed} changes");
    assert_eq!(weir.route("shop")["generation"], 1 + changed, "each change that was acknowledged, and no other");
    assert_eq!(weir.exit().code(), Some(0));
    eventually("those between have drained", || successors[..2].iter().all(|one| !one.lives()));
    successors[2].end();
}

/// A connection for each request.
fn knock(http: SocketAddr, over: &AtomicBool) -> u64 {
    let mut served = 0;
    while !over.load(Relaxed) {
        let mut client = Wire::connect(http);
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(client.try_answer(false).expect("a connection that was taken is served").status, 200);
        served += 1;
    }
    served
}

/// A connection for as long as it is not said to end.
fn keep_asking(http: SocketAddr, over: &AtomicBool) -> u64 {
    let mut served = 0;
    while !over.load(Relaxed) {
        let mut client = Wire::connect(http);
        let mut last = Instant::now();
        loop {
            let answer =
                client.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").and_then(|()| client.try_answer(false));
            // Who has said nothing for a second while the old process drains is let go without a word.
            if answer.is_err() && last.elapsed() > Duration::from_millis(500) {
                break;
            }
            let answer = answer.expect("who is not told is served");
            last = Instant::now();
            assert_eq!(answer.status, 200);
            served += 1;
            if answer.head.field("connection") == Some("close") || over.load(Relaxed) {
                break;
            }
        }
    }
    served
}

/// How many changes of weights were acknowledged; what was not done says so.
fn keep_changing(admin: SocketAddr, over: &AtomicBool) -> u64 {
    let mut changed = 0;
    while !over.load(Relaxed) {
        let body = format!("{{\"weights\":{{\"canary\":{}}}}}", 1 + changed % 90);
        let mut wire = Wire::connect(admin);
        wire.send(format!(
            "PATCH /api/v1/routes/shop/weights HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let answer = wire.answer();
        match answer.status {
            200 => changed += 1,
            _ => {
                answer.assert_problem(503);
                assert_eq!(answer.head.field("retry-after"), Some("1"));
            }
        }
    }
    changed
}

#[track_caller]
fn goes_on(weir: &Weir, output: &Output, why: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    let code = if why.iter().any(|why| why.contains("did not serve within")) { 3 } else { 1 };
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(why.iter().all(|why| said.contains(why)) && said.contains("this process goes on"), "{said}");
    let mut client = weir.client();
    assert_eq!(client.get("/", "").text(), "stable");
    weir.shift("shop", "\"canary\":100");
    assert_eq!(client.get("/", "").text(), "canary");
    weir.shift("shop", "\"canary\":0");
    assert!(weir.log().contains("not upgraded"), "{}", weir.log());
}

/// A file that can be started, with this content.
fn script(weir: &Weir, content: &str) -> String {
    let file = weir.site.folder.path().join("other");
    std::fs::write(&file, content).expect("the folder is writable");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    file.to_str().expect("a temporary path is UTF-8").to_owned()
}

#[test]
fn a_new_process_that_does_not_come_up_leaves_the_old_one_serving() {
    let (_stable, _canary, site) = shop("");
    let mut weir = site.start();
    let good = weir.site.text();
    std::fs::write(weir.site.file(), format!("{good}\nweights = 3\nwieghts = 3\n")).expect("the folder is writable");
    goes_on(&weir, &weir.cli(&["upgrade"]), &["did not come up", "weir.toml:"]);
    std::fs::write(weir.site.file(), &good).expect("the folder is writable");
    let ends = script(&weir, "#!/bin/sh\nexit 7\n");
    goes_on(&weir, &weir.cli(&["upgrade", "--binary", &ends]), &["ended (exit status: 7) before it served"]);
    let hangs = script(&weir, "#!/bin/sh\nexec sleep 1000\n");
    goes_on(&weir, &weir.cli(&["upgrade", "--timeout", "1", "--binary", &hangs]), &["did not serve within 1s"]);
    let refused = weir.cli(&["upgrade", "--binary", "/no/such/weir"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("/no/such/weir: No such file"), "{refused:?}");
    let audit = std::fs::read_to_string(weir.site.folder.path().join("state/audit.jsonl")).expect("it is there");
    assert!(audit.contains(r#""action":"upgrade""#) && audit.contains("exit status: 7"), "{audit}");
    weir.signal("TERM");
    assert_eq!(weir.exit().code(), Some(0));
}

/// A Weir whose successor hangs once it has the state, while that file says so: in debug builds only, which these tests run.
fn with_fault(site: Site) -> (Weir, PathBuf) {
    let fault = site.folder.path().join("fault");
    let file = site.write();
    let mut command = weir_command(&["serve", "--config", file.to_str().expect("a temporary path is UTF-8")]);
    command.env("WEIR_TRIAL_FAULT", &fault);
    (Weir::start_by(site, command), fault)
}

#[test]
fn a_new_process_that_hangs_with_the_state_gives_it_back() {
    let (_stable, _canary, site) = shop("");
    let (weir, fault) = with_fault(site);
    weir.shift("shop", "\"canary\":50");
    weir.shift("shop", "\"canary\":0");
    std::fs::write(&fault, "hang start").expect("the folder is writable");
    goes_on(&weir, &weir.cli(&["upgrade", "--timeout", "2"]), &["did not serve within 2s"]);
    assert_eq!(weir.route("shop")["generation"], 5);
    std::fs::remove_file(&fault).expect("it is there");
    let successor = Successor::of(&weir.cli(&["upgrade"]));
    assert_eq!(weir.route("shop")["generation"], 5);
    drop(successor);
}

#[test]
fn a_new_process_with_more_workers_gets_no_client_before_it_serves() {
    let upstream = Upstream::named("up");
    let (weir, fault) = with_fault(Site::new().server("workers = 1").to(upstream.addr, "", ""));
    std::fs::write(&fault, "hang start").expect("the folder is writable");
    let text = weir.site.text().replace("workers = 1", "workers = 8");
    std::fs::write(weir.site.file(), text).expect("the folder is writable");
    let (http, over) = (weir.addr("http"), AtomicBool::new(false));
    let served = std::thread::scope(|scope| {
        let knocking = scope.spawn(|| knock(http, &over));
        let output = weir.cli(&["upgrade", "--timeout", "2"]);
        over.store(true, Relaxed);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        knocking.join().expect("nobody waited for the other process")
    });
    assert!(served > 10, "{served}");
    std::fs::remove_file(&fault).expect("it is there");
    let successor = Successor::of(&weir.cli(&["upgrade"]));
    for _ in 0..40 {
        assert_eq!(weir.get("/", "").text(), "up");
    }
    drop(successor);
}

#[test]
fn a_signal_while_the_other_has_the_state_ends_both() {
    let upstream = Upstream::named("up");
    let (mut weir, fault) = with_fault(Site::new().to(upstream.addr, "", ""));
    std::fs::write(&fault, "hang start").expect("the folder is writable");
    weir.signal("USR2");
    eventually("another is started", || weir.log().contains("a process is to take this one's place"));
    let log = weir.log();
    let started = log.lines().find(|line| line.contains("a process is to take")).expect("it is there");
    let other = Successor::named(started, "pid=");
    weir.signal("TERM");
    assert_eq!(weir.exit().code(), Some(0));
    eventually("the other is gone", || !other.lives());
}

#[test]
fn the_old_process_ends_soon_after_one_that_took_over_and_failed() {
    let upstream = echo("");
    let mut weir = Site::new().server("workers = 2\ndrain_timeout = \"10m\"").to(upstream.addr, "", "").start();
    let mut client = weir.client();
    switch(&mut client);
    let successor = Successor::of(&weir.cli(&["upgrade"]));
    client.send(b"\x81\x01x");
    assert_eq!(client.exactly(3).unwrap(), b"\x81\x01x");
    successor.signal("KILL");
    let is_zombie = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", successor.0)).unwrap_or_default();
        stat.contains(") Z ")
    };
    eventually("what is left of it stays for the service manager", is_zombie);
    assert_eq!(weir.exit().code(), Some(0));
    assert!(
        weir.log().contains("the process that took over has ended") && weir.log().contains("signal 9"),
        "{}",
        weir.log()
    );
}

#[test]
fn a_dry_run_asks_the_binary_and_changes_nothing() {
    let (_stable, _canary, site) = shop("");
    let weir = site.start();
    let said = weir.cli(&["upgrade", "--dry-run"]);
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!("version {version} can serve the file; nothing was changed (--dry-run)\n");
    assert_eq!((said.status.code(), String::from_utf8_lossy(&said.stdout).into_owned()), (Some(0), expected));
    let good = weir.site.text();
    std::fs::write(weir.site.file(), format!("{good}\nwieghts = 3\n")).expect("the folder is writable");
    let other = script(&weir, "#!/bin/sh\nexec sleep 1000\n");
    for (args, code, why) in [
        (&["upgrade", "--dry-run"][..], 1, "unknown key"),
        (&["upgrade", "--dry-run", "--binary", "/bin/true"], 1, "is no weir"),
        (&["upgrade", "--dry-run", "--timeout", "1", "--binary", &other], 3, "said nothing within 1s"),
    ] {
        let refused = weir.cli(args);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(code) && said.contains(why), "{refused:?}");
    }
    assert!(!weir.log().contains("take this one's place"), "{}", weir.log());
    assert_eq!(weir.get("/", "").text(), "stable");
}

#[test]
fn a_drained_target_stays_out_over_an_upgrade() {
    let (one, other) = (Upstream::named("one"), Upstream::named("other"));
    for state in ["", "state_dir = \"state\""] {
        let weir = Site::new()
            .server(&format!("workers = 2\n{state}"))
            .pool("only", &[one.addr, other.addr], "")
            .toml("[[route]]\nname = \"all\"\nmatch = { path = \"/\" }\nvariants = { stable = \"only\" }")
            .start();
        assert!(weir.cli(&["drain", "only", &other.addr.to_string()]).status.success());
        let successor = Successor::of(&weir.cli(&["upgrade"]));
        for _ in 0..40 {
            assert_eq!(weir.get("/", "").text(), "one", "{state}");
        }
        assert!(weir.cli(&["enable", "only", &other.addr.to_string()]).status.success());
        eventually("it is back", || weir.get("/", "").text() == "other");
        drop(successor);
    }
}

#[test]
fn another_binary_may_be_named_and_live_weights_in_memory_go_over() {
    let upstream = Upstream::named("up");
    let copy = tempfile::TempDir::new().expect("a folder");
    let binary: PathBuf = copy.path().join("weir-next");
    std::fs::copy(BINARY, &binary).expect("there is room");
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let weir = Site::new()
        .pool("one", &[upstream.addr], "")
        .toml("[[route]]\nname = \"shop\"\nvariants = { stable = \"one\", canary = \"one\" }\nweights = { stable = 100, canary = 0 }")
        .start();
    weir.shift("shop", "\"canary\":25");
    let successor = Successor::of(&weir.cli(&["upgrade", "--binary", binary.to_str().expect("UTF-8")]));
    let runs = std::fs::read_link(format!("/proc/{}/exe", successor.0)).expect("it lives");
    assert_eq!(runs, binary);
    assert_eq!((weir.weight("shop", "canary"), weir.route("shop")["generation"].as_u64()), (25.0, Some(2)));
}

#[test]
fn sigusr2_upgrades_and_the_service_manager_is_told() {
    let upstream = Upstream::named("up");
    let site = Site::new().to(upstream.addr, "", "");
    let path = site.folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).expect("the folder is writable");
    manager.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let hears = || {
        let mut room = [0; 1024];
        let length = manager.recv(&mut room).expect("a message");
        String::from_utf8_lossy(&room[..length]).into_owned()
    };
    let file = site.write();
    let mut command = weir_command(&["serve", "--config", file.to_str().expect("a temporary path is UTF-8")]);
    command.env("NOTIFY_SOCKET", &path);
    let mut weir = Weir::start_by(site, command);
    assert!(hears().starts_with("READY=1\n"));
    weir.signal("USR2");
    let main = hears();
    let successor = Successor::named(&main, "MAINPID=");
    assert!(hears().starts_with("READY=1\n"), "the successor says that it is ready after that");
    assert_eq!(weir.exit().code(), Some(0));
    assert_eq!(weir.get("/", "").text(), "up");
    successor.end();
    assert!(hears().starts_with("STOPPING=1\n"), "and the old one said nothing of its end");
}

#[test]
fn unix_sockets_go_over_with_their_files() {
    let upstream = Upstream::named("up");
    let site = Site::new().bind("unix:web.sock", "").to(upstream.addr, "", "");
    let (web, admin) = (site.folder.path().join("web.sock"), site.folder.path().join("admin.sock"));
    let mut site = site;
    site.admin = format!("listen = [\"127.0.0.1:0\", \"unix:{}\"]\n", admin.display());
    let mut weir = site.start();
    let successor = Successor::of(&weir.cli(&["upgrade"]));
    assert_eq!(weir.exit().code(), Some(0));
    assert!(web.exists() && admin.exists());
    assert_eq!(Wire::connect_unix(&web).get("/", "").text(), "up");
    let status = weir_command(&["status"]).env("WEIR_ADMIN", format!("unix:{}", admin.display())).output();
    assert!(status.expect("the binary runs").status.success());
    successor.end();
    assert!(!web.exists() && !admin.exists(), "the last one takes them away");
}

#[test]
fn a_unix_socket_has_the_new_mode_and_one_whose_file_is_gone_is_made_anew() {
    let upstream = Upstream::named("up");
    let site = Site::new().bind("unix:web.sock", "mode = \"0600\"").to(upstream.addr, "", "");
    let (web, admin) = (site.folder.path().join("web.sock"), site.folder.path().join("admin.sock"));
    let mut site = site;
    site.admin = format!("listen = [\"127.0.0.1:0\", \"unix:{}\"]\n", admin.display());
    let weir = site.start();
    std::fs::remove_file(&admin).expect("it is there");
    let text = weir.site.text().replace("0600", "0660");
    std::fs::write(weir.site.file(), text).expect("the folder is writable");
    let successor = Successor::of(&weir.cli(&["upgrade"]));
    let mode = web.metadata().expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert_eq!(Wire::connect_unix(&web).get("/", "").text(), "up");
    let status = weir_command(&["status"]).env("WEIR_ADMIN", format!("unix:{}", admin.display())).output();
    assert!(status.expect("the binary runs").status.success());
    successor.end();
    assert!(!web.exists() && !admin.exists());
}

#[test]
fn websockets_stay_with_the_old_process() {
    let upstream = echo("");
    let mut weir = Site::new().server("workers = 2\ndrain_timeout = \"60s\"").to(upstream.addr, "", "").start();
    let mut client = weir.client();
    switch(&mut client);
    let successor = Successor::of(&weir.cli(&["upgrade"]));
    client.send(b"\x81\x01x");
    assert_eq!(client.exactly(3).unwrap(), b"\x81\x01x");
    // Meant for the other one, as by systemd; this one drains already.
    weir.signal("TERM");
    client.send(b"\x81\x01y");
    assert_eq!(client.exactly(3).unwrap(), b"\x81\x01y");
    let mut next = weir.client();
    switch(&mut next);
    client.end();
    assert_eq!(client.rest(), b"bye");
    assert_eq!(weir.exit().code(), Some(0));
    next.send(b"\x81\x01z");
    assert_eq!(next.exactly(3).unwrap(), b"\x81\x01z");
    drop(successor);
}

#[test]
fn more_or_fewer_workers_take_over_all_sockets() {
    let upstream = Upstream::named("up");
    let mut weir = Site::new().server("workers = 4").to(upstream.addr, "", "").start();
    let text = weir.site.text();
    let mut successors = Vec::new();
    for workers in [1, 3] {
        std::fs::write(weir.site.file(), text.replace("workers = 4", &format!("workers = {workers}")))
            .expect("writable");
        let next = Successor::of(&weir.cli(&["upgrade"]));
        successors.push(next);
        for _ in 0..40 {
            assert_eq!(weir.get("/", "").text(), "up");
        }
    }
    assert_eq!(weir.exit().code(), Some(0));
}

/// Workers have unequal numbers of sockets then, and hand connections to one another.
#[test]
fn each_connection_is_its_own_listener_s_with_fewer_workers() {
    let upstream = Upstream::named("up");
    let other = "[[listener]]\nname = \"other\"\nbind = \"127.0.0.1:0\"\n";
    let mut weir = Site::new().server("workers = 3").to(upstream.addr, "", "").toml(other).start();
    let text = weir.site.text();
    std::fs::write(weir.site.file(), text.replace("workers = 3", "workers = 2")).expect("writable");
    let _next = Successor::of(&weir.cli(&["upgrade"]));
    assert_eq!(weir.exit().code(), Some(0));
    let listeners = [("http", 20_u8), ("other", 10)];
    let clients: Vec<Wire> = listeners
        .iter()
        .flat_map(|(name, count)| std::iter::repeat_n(weir.addr(name), usize::from(*count)))
        .map(|addr| {
            let mut client = Wire::connect(addr);
            assert_eq!(client.get("/", "").text(), "up");
            client
        })
        .collect();
    for (name, count) in listeners {
        assert_eq!(weir.metric("weir_connections", &[("listener", name)]), f64::from(count), "{name}");
    }
    assert!(weir.metric("weir_worker_handed_over_total", &[]) >= 1.0, "{} came by themselves", clients.len());
}
