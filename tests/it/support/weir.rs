//! The binary under test, as a process with a log, ports, signals and an admin API.

use super::{Answer, PATIENCE, Site, Wire, eventually};
use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

pub const BINARY: &str = env!("CARGO_BIN_EXE_weir");

/// A running Weir; dropped, it is killed and its folder removed.
pub struct Weir {
    pub site: Site,
    process: Process,
}

struct Process {
    child: Child,
    addrs: HashMap<String, SocketAddr>,
    log: Arc<Mutex<String>>,
}

impl Weir {
    /// Starts the site's file and waits until it says that it is ready.
    #[track_caller]
    pub fn start(site: Site) -> Weir {
        let process = Process::start(&site);
        Weir { site, process }
    }
    /// Starts the site's file by this command instead of the plain one.
    #[track_caller]
    pub fn start_by(site: Site, command: Command) -> Weir {
        site.write();
        let process = Process::ready(Process::spawn(command), &site);
        Weir { site, process }
    }
    /// Where a listener (`http`), the admin API (`admin`) or the metrics are.
    #[track_caller]
    pub fn addr(&self, name: &str) -> SocketAddr {
        *self.process.addrs.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.process.addrs))
    }
    pub fn client(&self) -> Wire {
        Wire::connect(self.addr("http"))
    }
    /// One GET on a connection of its own.
    #[track_caller]
    pub fn get(&self, path: &str, fields: &str) -> Answer {
        self.client().get(path, fields)
    }
    /// What was written to standard output and error so far.
    pub fn log(&self) -> String {
        self.process.log.lock().expect("no test thread panicked").clone()
    }
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -s {name}");
    }
    /// Waits for the process to end by itself.
    #[track_caller]
    pub fn exit(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the process ends", || {
            status = self.process.child.try_wait().expect("the child is ours");
            status.is_some()
        });
        status.expect("it ended")
    }
    /// Ends it with a signal and starts the same folder again, on other ports.
    #[track_caller]
    pub fn restart(mut self, signal: &str) -> Weir {
        self.signal(signal);
        self.exit();
        self.process = Process::start(&self.site);
        self
    }
    /// Ends it with a signal and gives its folder back.
    pub fn stop(mut self, signal: &str) -> Site {
        self.signal(signal);
        self.exit();
        self.site
    }

    /// A request to the admin API; `fields` are further header lines, each with its CRLF.
    #[track_caller]
    pub fn admin(&self, method: &str, path: &str, fields: &str, body: &str) -> Answer {
        let mut wire = Wire::connect(self.addr("admin"));
        let length = body.len();
        let addr = self.addr("admin");
        let _ = wire.try_send(format!(
            "{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
        ));
        wire.answer()
    }
    #[track_caller]
    pub fn route(&self, name: &str) -> serde_json::Value {
        let answer = self.admin("GET", &format!("/api/v1/routes/{name}"), "", "");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }
    /// Live weight of a route's variant in percent.
    #[track_caller]
    pub fn weight(&self, route: &str, variant: &str) -> f64 {
        let document = self.route(route);
        let variants = document["variants"].as_array().expect("a route has variants");
        let found = variants.iter().find(|v| v["name"] == variant).expect("the variant is listed");
        found["weight"].as_f64().expect("a weight is a number")
    }
    /// PATCHes weights given as the JSON object's inside, `"canary":5`.
    pub fn patch(&self, route: &str, weights: &str) -> Answer {
        self.admin("PATCH", &format!("/api/v1/routes/{route}/weights"), "", &format!("{{\"weights\":{{{weights}}}}}"))
    }
    #[track_caller]
    pub fn shift(&self, route: &str, weights: &str) {
        let answer = self.patch(route, weights);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    #[track_caller]
    pub fn metrics(&self) -> String {
        let answer = self.admin("GET", "/metrics", "", "");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.text().to_owned()
    }
    /// The sum of a family's samples that carry all of these labels; panics when no sample does.
    #[track_caller]
    pub fn metric(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.metrics();
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let samples: Vec<f64> = text
            .lines()
            .filter(|line| line.strip_prefix(family).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        assert!(!samples.is_empty(), "no {family} with {labels:?} in:\n{text}");
        samples.iter().sum()
    }
    /// The command line's answer, asked of this Weir.
    pub fn cli(&self, args: &[&str]) -> Output {
        weir_command(args).env("WEIR_ADMIN", self.addr("admin").to_string()).output().expect("the binary runs")
    }
}

/// `weir ARGS…`, without a terminal and without the surrounding environment's settings.
pub fn weir_command(args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).env_remove("WEIR_TOKEN").env_remove("WEIR_ADMIN").env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// `weir serve` with a file that must not come up: its exit status and everything it wrote.
#[track_caller]
pub fn refused_start(site: &Site) -> (ExitStatus, String) {
    refused(site, serve(site))
}

/// As [`refused_start`], by this command.
#[track_caller]
pub fn refused(site: &Site, command: Command) -> (ExitStatus, String) {
    site.write();
    let mut process = Process::spawn(command);
    let mut status = None;
    eventually("the process ends", || {
        status = process.child.try_wait().expect("the child is ours");
        status.is_some()
    });
    eventually("its output is read", || Arc::strong_count(&process.log) == 1);
    let log = process.log.lock().expect("no test thread panicked").clone();
    (status.expect("it ended"), log)
}

/// `weir serve` with the site's file.
fn serve(site: &Site) -> Command {
    let file = site.file();
    weir_command(&["serve", "--config", file.to_str().expect("a temporary path is UTF-8")])
}

impl Process {
    #[track_caller]
    fn start(site: &Site) -> Process {
        Process::ready(Process::spawn(serve(site)), site)
    }
    #[track_caller]
    fn ready(mut process: Process, site: &Site) -> Process {
        eventually("`weir ready` on standard output", || {
            let log = process.log.lock().expect("no test thread panicked").clone();
            let ended = process.child.try_wait().expect("the child is ours");
            assert!(ended.is_none(), "ended with {ended:?} instead of being ready:\n{log}\n{}", site.text());
            match log.lines().find_map(|line| line.strip_prefix("weir ready ")) {
                Some(line) if log.contains('\n') => {
                    process.addrs = ready_addrs(line);
                    true
                }
                _ => false,
            }
        });
        process
    }
    fn spawn(mut command: Command) -> Process {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let log = Arc::new(Mutex::new(String::new()));
        let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let (lines, received) = mpsc::channel::<String>();
        for pipe in [Box::new(stdout) as Box<dyn std::io::Read + Send>, Box::new(stderr)] {
            let lines = lines.clone();
            std::thread::spawn(move || {
                BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
            });
        }
        drop(lines);
        let written = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in received {
                *written.lock().expect("no test thread panicked") += &format!("{line}\n");
            }
        });
        Process { child, addrs: HashMap::new(), log }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log.lock().map(|log| log.clone()).unwrap_or_default();
            eprintln!("--- the Weir under test wrote:\n{log}---");
        }
    }
}

/// `http=127.0.0.1:1 admin=127.0.0.1:2` by name; the first of several of one name.
fn ready_addrs(line: &str) -> HashMap<String, SocketAddr> {
    let mut addrs = HashMap::new();
    for (name, addr) in line.split_whitespace().filter_map(|pair| pair.split_once('=')) {
        if let Ok(addr) = addr.parse() {
            addrs.entry(name.to_owned()).or_insert(addr);
        }
    }
    addrs
}

/// A time-out in the form that the file takes, for tests that wait for it to pass.
pub const SHORT: &str = "300ms";
const _: () = assert!(PATIENCE.as_millis() > 3000);
