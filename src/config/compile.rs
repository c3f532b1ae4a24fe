//! From what is written to what is meant: checks every value against its neighbours, resolves names, fills in
//! defaults. Goes on after an error, so that one check shows them all.

mod analysis;
mod balance;
mod compress;
mod dns;
mod filters;
mod health;
mod listen;
mod lists;
mod loops;
mod matches;
mod mirror;
mod outlier;
mod pools;
mod preview;
mod rate;
mod recovery;
mod rollout;
mod routes;
mod rules;
mod sockets;
mod sticky;
mod tls;

use super::cursor::{Size, word};
use super::findings::Findings;
use super::model::{Config, Log, Server};
use super::provenance::Filled;
use super::raw;
use super::source::{At, Place, Sources, listed};
use crate::limits::Limits;
use crate::routing::networks::{self, canonical};
use lists::Lists;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HEADER_BYTES: RangeInclusive<u64> = 8 * 1024..=1024 * 1024;
/// The start of the main file, for what is missing in all files.
const TOP: Place = Place { file: 0, start: 0, end: 0 };

pub struct Checker<'a> {
    pub sources: &'a Sources,
    pub findings: &'a mut Findings,
    pub filled: &'a mut Filled,
    /// Whether the system has certificates of authorities; looked up once, if a pool needs them.
    system_roots: OnceCell<Result<(), String>>,
    /// The files of `in_file` that were read so far.
    lists: Lists,
    /// What regular expressions take so far, in bytes.
    regex_bytes: usize,
}

/// The whole configuration; None when anything in `findings` is an error.
pub fn compile(file: raw::File, sources: &Sources, findings: &mut Findings, filled: &mut Filled) -> Option<Config> {
    let mut check = Checker::new(sources, findings, filled);
    let server = check.server(file.server);
    let limits = check.limits(file.limits);
    let log = check.log(file.log);
    let dns = check.dns(file.dns.as_ref());
    let listeners = check.listeners(&file.listeners, !server.trusted_proxies.is_empty());
    let admin = check.admin(file.admin.as_ref());
    check.ports(&file.listeners, file.admin.as_ref());
    let pools = check.pools(&file.pools);
    let routes = check.routes(&file.routes, &file.pools);
    if let (Some(routes), Some(listeners)) = (&routes, &listeners) {
        check.redirect_loops(&file.routes, routes, listeners);
        if server.trusted_proxies.is_empty() {
            check.unserved_schemes(&file.routes, routes, listeners);
        }
    }
    if file.listeners.is_empty() {
        let help = "[[listener]] with name = \"http\" and bind = \"127.0.0.1:8080\"";
        check.findings.error("no-listener", TOP, "there is no listener, so nothing can be served").help(help);
    }
    if file.routes.is_empty() {
        let help = "[[route]] with name = \"site\" and variants = { stable = \"POOL\" }";
        check.findings.error("no-route", TOP, "there is no route, so nothing can be served").help(help);
    }
    let lists = check.lists.into_files();
    if findings.has_errors() {
        return None;
    }
    Some(Config {
        path: sources.file(0).path.clone(),
        server,
        limits,
        admin: admin?,
        log,
        dns,
        listeners: listeners?,
        pools: pools?,
        routes: routes?,
        provenance: Default::default(),
        lists,
    })
}

impl<'a> Checker<'a> {
    fn new(sources: &'a Sources, findings: &'a mut Findings, filled: &'a mut Filled) -> Checker<'a> {
        let (system_roots, lists) = (OnceCell::new(), Lists::default());
        Checker { sources, findings, filled, system_roots, lists, regex_bytes: 0 }
    }
}

impl Checker<'_> {
    fn server(&mut self, raw: Option<raw::Server>) -> Server {
        let mut server =
            Server { workers: None, drain_timeout: DRAIN_TIMEOUT, trusted_proxies: Vec::new(), state_dir: None };
        let mut place = TOP;
        if let Some(raw) = raw {
            place = raw.place;
            server.workers = raw.workers.flatten();
            server.drain_timeout = raw.drain_timeout.map_or(DRAIN_TIMEOUT, |timeout| timeout.value);
            let proxies = raw.trusted_proxies.map(|list| list.value).unwrap_or_default();
            server.trusted_proxies = proxies.iter().filter_map(|proxy| self.network(proxy)).map(canonical).collect();
            if let Some(folder) = raw.state_dir {
                if folder.value.is_empty() {
                    self.findings.error("bad-value", folder.place, "`server.state_dir` is empty");
                }
                server.state_dir = Some(self.sources.resolve(0, &folder.value));
                return server;
            }
        }
        let message = "no state_dir: changes of live weights are lost on restart";
        self.findings.warning("no-state-dir", place, message).help("[server] state_dir = \"state\"");
        server
    }

    fn network(&mut self, written: &At<String>) -> Option<ipnet::IpNet> {
        let parsed = written.value.parse::<ipnet::IpNet>().ok();
        let network = parsed.or_else(|| written.value.parse::<std::net::IpAddr>().ok().map(ipnet::IpNet::from));
        if let Some(network) = &network {
            self.filled.held_as(written, &networks::shown(network));
        } else {
            let message = format!("{} is neither an IP address nor a network", written.shown());
            let help = "write \"10.0.0.0/8\", \"fd00::/8\" or \"192.0.2.7\"";
            self.findings.error("bad-address", written.place, message).help(help);
        }
        network
    }

    fn limits(&mut self, raw: Option<raw::Limits>) -> Limits {
        let mut limits = Limits::default();
        let Some(raw) = raw else { return limits };
        let narrow = |value: Option<At<u64>>, default: usize| {
            value.and_then(|value| usize::try_from(value.value).ok()).unwrap_or(default)
        };
        limits.max_connections = narrow(raw.max_connections, limits.max_connections);
        limits.max_headers = narrow(raw.max_headers, limits.max_headers);
        let streams = raw.max_streams.and_then(|value| u32::try_from(value.value).ok());
        limits.max_streams = streams.unwrap_or(limits.max_streams);
        limits.max_handshakes = narrow(raw.max_handshakes, limits.max_handshakes);
        if let Some(bytes) = raw.max_header_bytes {
            limits.max_header_bytes = self.header_bytes(&bytes).unwrap_or(limits.max_header_bytes);
        }
        limits.max_body = raw.max_body.and_then(|size| self.max_body(&size));
        let after = |value: Option<At<Duration>>, default| value.map_or(default, |timeout| timeout.value);
        limits.header_timeout = after(raw.header_timeout, limits.header_timeout);
        limits.idle_timeout = after(raw.idle_timeout, limits.idle_timeout);
        limits.body_idle_timeout = after(raw.body_idle_timeout, limits.body_idle_timeout);
        limits.tunnel_idle_timeout = after(raw.tunnel_idle_timeout, limits.tunnel_idle_timeout);
        limits.handshake_timeout = after(raw.handshake_timeout, limits.handshake_timeout);
        limits
    }

    fn header_bytes(&mut self, size: &At<Size>) -> Option<usize> {
        match size.value {
            Size::Bytes(bytes) if MAX_HEADER_BYTES.contains(&bytes) => usize::try_from(bytes).ok(),
            _ => {
                let message = "`limits.max_header_bytes` is not from 8KiB to 1MiB";
                self.findings.error("out-of-range", size.place, message);
                None
            }
        }
    }

    fn max_body(&mut self, size: &At<Size>) -> Option<u64> {
        match size.value {
            Size::Unlimited => None,
            Size::Bytes(0) => {
                let finding = self.findings.error("out-of-range", size.place, "`limits.max_body` is 0");
                finding.help("zero does not mean \"unlimited\": write max_body = \"unlimited\", or a size");
                None
            }
            Size::Bytes(bytes) => Some(bytes),
        }
    }

    fn log(&mut self, raw: Option<raw::Log>) -> Log {
        let mut log = Log { level: "info".to_owned(), json: false };
        let Some(raw) = raw else { return log };
        if let Some(level) = raw.level
            && word(self.findings, &level, "log.level", &["error", "warn", "info", "debug", "trace"]).is_some()
        {
            log.level = level.value;
        }
        if let Some(format) = raw.format {
            log.json = word(self.findings, &format, "log.format", &["text", "json"]) == Some(1);
        }
        log
    }

    /// Reports a name that has other characters than letters, digits, `_`, `.`, `-`, or more than 64.
    fn name(&mut self, what: &str, name: &At<String>) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if name.value.is_empty() || name.value.len() > 64 || !name.value.chars().all(allowed) {
            let message = format!("{} is not a name for a {what}", name.shown());
            let help = "names have 1 to 64 letters, digits, `_`, `.` and `-`";
            self.findings.error("bad-name", name.place, message).help(help);
        }
    }

    /// Reports every name that an earlier one has too.
    fn unique<'n>(&mut self, what: &str, names: impl IntoIterator<Item = &'n At<String>>) {
        let mut first: HashMap<&str, Place> = HashMap::new();
        for name in names {
            if let Some(place) = first.get(name.value.as_str()) {
                let message = format!("there is another {what} {}", name.shown());
                self.findings.error("duplicate-name", name.place, message).other(*place);
            } else {
                first.insert(&name.value, name.place);
            }
        }
    }

    /// Reports a name that refers to nothing.
    fn unknown(&mut self, code: &'static str, what: &str, name: &At<String>, known: &[&str]) {
        let message = format!("there is no {what} {}", name.shown());
        let help = match super::cursor::nearest(&name.value, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => format!("no {what} is defined"),
            None => format!("there are {}", listed(known.iter().take(20))),
        };
        self.findings.error(code, name.place, message).help(help);
    }
}
