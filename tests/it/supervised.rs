//! Under a service manager: what it is told (`sd_notify`), the watchdog, and a worker's panic.

use crate::support::weir::weir_command;
use crate::support::*;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

/// The manager's end of `$NOTIFY_SOCKET`.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).expect("the folder is writable");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Manager(socket)
    }
    /// The next message, those of the watchdog left out.
    #[track_caller]
    fn hears(&self) -> String {
        loop {
            let message = self.hears_anything();
            if message != "WATCHDOG=1" {
                return message;
            }
        }
    }
    #[track_caller]
    fn hears_anything(&self) -> String {
        let mut room = [0; 1024];
        let length = self.0.recv(&mut room).expect("a message");
        String::from_utf8_lossy(&room[..length]).into_owned()
    }
    /// Whether something comes within a second.
    fn hears_soon(&self) -> bool {
        self.0.set_read_timeout(Some(std::time::Duration::from_secs(1))).expect("a time-out");
        self.0.recv(&mut [0; 1024]).is_ok()
    }
}

fn serve(site: &Site) -> Command {
    let file = site.file();
    weir_command(&["serve", "--config", file.to_str().expect("a temporary path is UTF-8")])
}

fn supervised(site: Site) -> (Manager, Weir) {
    let path = site.folder.path().join("notify");
    let manager = Manager::at(&path);
    let mut command = serve(&site);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "900000");
    command.env("WEIR_TRIAL_FAULT", site.folder.path().join("fault"));
    (manager, Weir::start_by(site, command))
}

#[test]
fn the_manager_is_told_of_start_reload_and_stop() {
    let upstream = Upstream::named("up");
    let (manager, mut weir) = supervised(Site::new().to(upstream.addr, "", ""));
    assert!(manager.hears().starts_with("READY=1\nSTATUS=version "));
    weir.signal("HUP");
    assert!(manager.hears().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert!(manager.hears().starts_with("READY=1\n"));
    assert_eq!(manager.hears_anything(), "WATCHDOG=1");
    weir.signal("TERM");
    let stopping = manager.hears();
    assert!(stopping.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000\n"), "{stopping}");
    assert_eq!(weir.exit().code(), Some(0));
}

#[test]
fn the_watchdog_is_fed_while_it_drains() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::answering(move |_| {
        held.pass();
        Reply::text("whole")
    });
    let (manager, mut weir) = supervised(Site::new().to(upstream.addr, "", "timeout = \"60s\""));
    let mut client = weir.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the request is at the target", || upstream.count() == 1);
    weir.signal("TERM");
    while !manager.hears().starts_with("STOPPING=1") {}
    for _ in 0..3 {
        assert_eq!(manager.hears_anything(), "WATCHDOG=1");
    }
    gate.open();
    assert_eq!(client.answer().status, 200);
    assert_eq!(weir.exit().code(), Some(0));
}

/// The hook that hangs is in debug builds only, which these tests run.
#[test]
fn the_watchdog_is_not_fed_while_a_worker_hangs() {
    let upstream = Upstream::named("up");
    let (manager, weir) = supervised(Site::new().to(upstream.addr, "", ""));
    assert_eq!(manager.hears_anything().lines().next(), Some("READY=1"));
    assert_eq!(manager.hears_anything(), "WATCHDOG=1");
    std::fs::write(weir.site.folder.path().join("fault"), "hang 1").expect("the folder is writable");
    eventually("it is in the log", || weir.log().contains("workers stand still: the watchdog is not fed workers=[1]"));
    // What was sent before that may still be there.
    while manager.hears_soon() {}
    assert_eq!(weir.admin("GET", "/healthz", "", "").status, 200, "the control plane goes on");
}

/// The hook that panics is in debug builds only, which these tests run.
#[test]
fn a_panic_in_a_worker_ends_the_process_with_a_message() {
    let upstream = Upstream::named("up");
    let (_manager, mut weir) = supervised(Site::new().to(upstream.addr, "", ""));
    assert_eq!(weir.get("/", "").status, 200);
    std::fs::write(weir.site.folder.path().join("fault"), "panic 1").expect("the folder is writable");
    let status = weir.exit();
    assert!(!status.success(), "{status:?}");
    eventually("it says why", || {
        let log = weir.log();
        log.contains("weir-worker-1") && log.contains("a panic that was asked for") && log.contains("this is a bug")
    });
}
