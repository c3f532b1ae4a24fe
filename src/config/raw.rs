//! The file as it is written: every key that Weir knows, each value with its place, nothing checked against another.
//!
//! This is the one list of keys: what is taken here is known, what is in a `not_built` list is known but waits for
//! its feature, everything else is reported as unknown. Hand-written instead of derived, since derived readers stop
//! at the first error and lose the places of what they flatten.

pub mod dns;
pub mod filters;
pub mod health;
mod matches;
pub mod outlier;
pub mod recovery;
pub mod rollout;

use super::cursor::{Context, Cursor, Named, Size, StringOrTable, word};
use super::source::{At, Place, listed};
use std::ops::RangeInclusive;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MILLISECOND: Duration = Duration::from_millis(1);
/// What must pass at some time, and within a day.
const POSITIVE: RangeInclusive<Duration> = MILLISECOND..=DAY;
/// As [`POSITIVE`], where "at once" makes sense too.
const FROM_ZERO: RangeInclusive<Duration> = Duration::ZERO..=DAY;
/// Of a target, beside the others of its pool.
const WEIGHTS: RangeInclusive<u64> = 1..=65_535;
/// Browsers keep a cookie no longer than 400 days.
const COOKIE_LIFE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(400 * 24 * 60 * 60);

#[derive(Debug, Default)]
pub struct File {
    pub include: Vec<At<String>>,
    pub server: Option<Server>,
    pub limits: Option<Limits>,
    pub admin: Option<Admin>,
    pub log: Option<Log>,
    pub dns: Option<dns::Dns>,
    pub listeners: Vec<Listener>,
    pub pools: Vec<Pool>,
    pub routes: Vec<Route>,
}

#[derive(Debug)]
pub struct Server {
    pub place: Place,
    /// None inside: "auto".
    pub workers: Option<Option<usize>>,
    pub drain_timeout: Option<At<Duration>>,
    pub trusted_proxies: Option<At<Vec<At<String>>>>,
    pub state_dir: Option<At<String>>,
}

#[derive(Debug)]
pub struct Limits {
    pub place: Place,
    pub max_connections: Option<At<u64>>,
    pub max_header_bytes: Option<At<Size>>,
    pub max_headers: Option<At<u64>>,
    pub max_body: Option<At<Size>>,
    pub header_timeout: Option<At<Duration>>,
    pub idle_timeout: Option<At<Duration>>,
    pub body_idle_timeout: Option<At<Duration>>,
    pub tunnel_idle_timeout: Option<At<Duration>>,
    pub max_streams: Option<At<u64>>,
    pub handshake_timeout: Option<At<Duration>>,
    pub max_handshakes: Option<At<u64>>,
}

#[derive(Debug)]
pub struct Admin {
    pub place: Place,
    pub listen: Option<At<Vec<At<String>>>>,
    pub metrics: Option<At<String>>,
    pub tokens: Vec<Token>,
}

#[derive(Debug)]
pub struct Token {
    pub name: Option<At<String>>,
    pub role: Option<At<String>>,
    pub hash: Option<At<String>>,
}

#[derive(Debug)]
pub struct Log {
    pub place: Place,
    pub level: Option<At<String>>,
    pub format: Option<At<String>>,
}

#[derive(Debug)]
pub struct Listener {
    pub name: Option<At<String>>,
    pub bind: Option<At<String>>,
    pub mode: Option<At<String>>,
    pub proxy_protocol: Option<At<String>>,
    pub max_connections: Option<At<u64>>,
    pub max_connections_per_client: Option<At<u64>>,
    pub tls: Option<ListenerTls>,
}

#[derive(Debug)]
pub struct ListenerTls {
    /// None: the key is missing or not a list, which is reported already.
    pub certs: Option<At<Vec<CertFiles>>>,
    pub min_version: Option<At<String>>,
    pub alpn: Option<At<Vec<At<String>>>>,
    pub client_ca: Option<At<String>>,
    pub client_auth: Option<At<String>>,
    pub client_subject_header: Option<At<String>>,
    pub client_cert_header: Option<At<String>>,
}

#[derive(Debug)]
pub struct CertFiles {
    pub cert: Option<At<String>>,
    pub key: Option<At<String>>,
    pub ocsp: Option<At<String>>,
}

#[derive(Debug)]
pub struct Pool {
    pub name: At<String>,
    pub targets: Option<At<Vec<Target>>>,
    pub balance: Option<At<String>>,
    pub hash_key: Option<At<Vec<At<String>>>>,
    pub slow_start: Option<At<Duration>>,
    pub version: Option<At<String>>,
    pub connect_timeout: Option<At<Duration>>,
    pub max_connections: Option<At<u64>>,
    pub max_requests: Option<At<u64>>,
    pub max_pending: Option<At<u64>>,
    pub queue_timeout: Option<At<Duration>>,
    pub tls: Option<PoolTls>,
    pub http2: bool,
    pub send_proxy: Option<At<String>>,
    pub health: Option<health::Health>,
    pub outlier: Option<outlier::Outlier>,
}

#[derive(Debug)]
pub struct Target {
    pub addr: At<String>,
    pub weight: Option<At<u64>>,
}

#[derive(Debug)]
pub struct PoolTls {
    pub place: Place,
    pub ca: Option<At<String>>,
    pub server_name: Option<At<String>>,
    pub client_cert: Option<At<String>>,
    pub client_key: Option<At<String>>,
    pub verify: Option<At<bool>>,
}

#[derive(Debug)]
pub struct Route {
    pub place: Place,
    pub name: Option<At<String>>,
    /// How messages name it: `route.shop`.
    pub path: String,
    pub matches: Match,
    /// In the file's order: (variant, pool). None: reported already.
    pub variants: Option<Vec<Named<String>>>,
    pub weights: Option<Weights>,
    pub active: Option<At<String>>,
    pub active_key: Option<Place>,
    /// `weights` or `active` stands there, though perhaps of a wrong type.
    pub has_shares: bool,
    pub sticky: Option<Sticky>,
    pub timeout: Option<At<Duration>>,
    pub request_timeout: Option<At<Duration>>,
    pub on_move: Option<OnMove>,
    pub on_empty: Option<At<String>>,
    pub rules: Vec<Rule>,
    pub preview: Option<When>,
    pub filters: filters::Filters,
    pub mirror: Option<Mirror>,
    pub retry: Option<recovery::Retry>,
    pub rescue: Option<recovery::Rescue>,
    pub rollout: Option<rollout::Rollout>,
}

/// What becomes of open tunnels whose clients have moved to another variant.
#[derive(Debug)]
pub struct OnMove {
    pub close_within: Option<At<Duration>>,
}

#[derive(Debug, Default)]
pub struct Match {
    pub place: Place,
    pub path_of: String,
    pub scheme: Option<At<String>>,
    pub host: Option<At<String>>,
    pub host_regex: Option<At<String>>,
    pub path: Option<At<String>>,
    pub path_exact: Option<At<String>>,
    pub path_regex: Option<At<String>>,
    pub methods: Option<At<Vec<At<String>>>>,
    /// On headers and query parameters, each with one subject.
    pub conditions: Vec<When>,
}

#[derive(Debug)]
pub struct Weights {
    pub place: Place,
    /// None inside: not a number, reported already.
    pub shares: Vec<Named<f64>>,
}

#[derive(Debug)]
pub struct Sticky {
    pub place: Place,
    pub keys: Option<At<Vec<At<String>>>>,
    pub fallback: Option<At<String>>,
    pub group: Option<At<String>>,
    pub cookie: Option<At<String>>,
    pub ttl: Option<At<Duration>>,
}

#[derive(Debug)]
pub struct Mirror {
    pub pool: Option<At<String>>,
    pub percent: Option<At<f64>>,
    pub max_body: Option<At<Size>>,
    pub timeout: Option<At<Duration>>,
}

#[derive(Debug)]
pub struct Rule {
    pub place: Place,
    pub name: Option<At<String>>,
    pub path: String,
    pub when: Option<When>,
    pub variant: Option<At<String>>,
    pub weights: Option<Weights>,
    /// `variant` or `weights` stands there, though perhaps of a wrong type.
    pub has_outcome: bool,
}

/// A condition with all its keys; which of them may stand together is checked later.
#[derive(Clone, Debug, Default)]
pub struct When {
    pub place: Place,
    pub path: String,
    pub header: Option<At<String>>,
    pub cookie: Option<At<String>>,
    pub query: Option<At<String>>,
    pub methods: Option<At<Vec<At<String>>>>,
    pub networks: Option<At<Vec<At<String>>>>,
    pub equals: Option<At<String>>,
    pub is_in: Option<At<Vec<At<String>>>>,
    pub in_file: Option<At<String>>,
    pub prefix: Option<At<String>>,
    pub suffix: Option<At<String>>,
    pub regex: Option<At<String>>,
    pub present: Option<At<bool>>,
    pub all: Option<At<Vec<When>>>,
    pub any: Option<At<Vec<When>>>,
    pub not: Option<Box<When>>,
    /// The keys that stand here and say where to look.
    pub subjects: Vec<&'static str>,
    /// The keys that stand here and say what to find there.
    pub tests: Vec<&'static str>,
}

/// Reads a whole file's tree.
pub fn file(cx: &mut Context<'_>, mut top: Cursor<'_>) -> File {
    let include = top.strings(cx, "include").map(|list| list.value).unwrap_or_default();
    let server = top.table(cx, "server").map(|table| server(cx, table));
    let limits = top.table(cx, "limits").map(|table| limits(cx, table));
    let admin = top.table(cx, "admin").map(|table| admin(cx, table));
    let log = top.table(cx, "log").map(|table| log(cx, table));
    let dns = top.table(cx, "dns").map(|table| dns::dns(cx, table));
    let listeners = top.tables(cx, "listener").map(|tables| tables.value).unwrap_or_default();
    let pools = top.table(cx, "pool").map(|table| table.into_tables(cx)).unwrap_or_default();
    let routes = top.tables(cx, "route").map(|tables| tables.value).unwrap_or_default();
    top.not_built(cx, &["notify", "fleet"]);
    let file = File {
        include,
        server,
        limits,
        admin,
        log,
        dns,
        listeners: listeners.into_iter().map(|table| listener(cx, table)).collect(),
        pools: pools.into_iter().map(|(name, table)| pool(cx, name, table)).collect(),
        routes: routes.into_iter().map(|table| route(cx, table)).collect(),
    };
    top.finish(cx);
    file
}

fn server(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Server {
    let server = Server {
        place: table.place,
        workers: workers(cx, &mut table),
        drain_timeout: table.duration(cx, "drain_timeout", FROM_ZERO),
        trusted_proxies: table.strings(cx, "trusted_proxies"),
        state_dir: table.string(cx, "state_dir"),
    };
    table.finish(cx);
    server
}

fn workers(cx: &mut Context<'_>, table: &mut Cursor<'_>) -> Option<Option<usize>> {
    let workers = table.integer_or(cx, "workers", "auto", 1..=1024)?;
    Some(workers.value.and_then(|workers| usize::try_from(workers).ok()))
}

fn limits(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Limits {
    let limits = Limits {
        place: table.place,
        max_connections: table.integer(cx, "max_connections", 1..=10_000_000),
        max_header_bytes: table.size(cx, "max_header_bytes"),
        max_headers: table.integer(cx, "max_headers", 1..=1000),
        max_body: table.size(cx, "max_body"),
        header_timeout: table.duration(cx, "header_timeout", POSITIVE),
        idle_timeout: table.duration(cx, "idle_timeout", POSITIVE),
        body_idle_timeout: table.duration(cx, "body_idle_timeout", POSITIVE),
        tunnel_idle_timeout: table.duration(cx, "tunnel_idle_timeout", POSITIVE),
        max_streams: table.integer(cx, "max_streams", 1..=100_000),
        handshake_timeout: table.duration(cx, "handshake_timeout", POSITIVE),
        max_handshakes: table.integer(cx, "max_handshakes", 1..=1_000_000),
    };
    table.finish(cx);
    limits
}

fn admin(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Admin {
    let tokens = table.tables(cx, "token").map(|tables| tables.value).unwrap_or_default();
    let admin = Admin {
        place: table.place,
        listen: table.strings(cx, "listen"),
        metrics: table.string(cx, "metrics"),
        tokens: tokens.into_iter().map(|table| token(cx, table)).collect(),
    };
    table.finish(cx);
    admin
}

fn token(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Token {
    table.require(cx, "name", "\"ci\"");
    table.require(cx, "role", "\"viewer\", \"operator\" or \"admin\"");
    table.require(cx, "hash", "\"sha256:…\"; `weir token` makes one");
    let token =
        Token { name: table.string(cx, "name"), role: table.string(cx, "role"), hash: table.string(cx, "hash") };
    table.finish(cx);
    token
}

fn log(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Log {
    let log = Log { place: table.place, level: table.string(cx, "level"), format: table.string(cx, "format") };
    if let Some(access) = table.table(cx, "access") {
        access_log(cx, access);
    }
    table.finish(cx);
    log
}

/// Access logging is not there yet; what says that it is off is true already.
fn access_log(cx: &mut Context<'_>, mut table: Cursor<'_>) {
    table.require(cx, "output", "\"off\"");
    if let Some(output) = table.string(cx, "output")
        && output.value != "off"
    {
        cx.not_built(output.place, format_args!("{} = {}", table.path_of("output"), output.shown()));
    }
    let format = table.string(cx, "format");
    one_of(cx, format.as_ref(), &table.path_of("format"), &["json", "combined"]);
    if let Some(sample) = table.number(cx, "sample")
        && !(0.0..=1.0).contains(&sample.value)
    {
        let message = format!("`{}` is not from 0 to 1", table.path_of("sample"));
        cx.findings.error("out-of-range", sample.place, message);
    }
    table.strings(cx, "always");
    table.finish(cx);
}

fn listener(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Listener {
    table.require(cx, "name", "\"http\"");
    let name = table.string(cx, "name");
    if let Some(name) = &name {
        table.path = format!("listener.{}", name.written());
    }
    table.require(cx, "bind", "\"127.0.0.1:8080\"");
    let listener = Listener {
        name,
        bind: table.string(cx, "bind"),
        mode: table.string(cx, "mode"),
        proxy_protocol: table.string(cx, "proxy_protocol"),
        max_connections: table.integer(cx, "max_connections", 1..=10_000_000),
        max_connections_per_client: table.integer(cx, "max_connections_per_client", 1..=1_000_000),
        tls: table.table(cx, "tls").map(|table| listener_tls(cx, table)),
    };
    table.finish(cx);
    listener
}

fn listener_tls(cx: &mut Context<'_>, mut table: Cursor<'_>) -> ListenerTls {
    table.require(cx, "certs", "[{ cert = \"tls/site.crt\", key = \"tls/site.key\" }]");
    let certs = table.tables(cx, "certs").map(|tables| {
        let certs = tables.value.into_iter().map(|mut pair| {
            pair.require(cx, "cert", "\"tls/site.crt\"");
            pair.require(cx, "key", "\"tls/site.key\"");
            let cert = pair.string(cx, "cert");
            let files = CertFiles { cert, key: pair.string(cx, "key"), ocsp: pair.string(cx, "ocsp") };
            pair.finish(cx);
            files
        });
        At::new(certs.collect(), tables.place)
    });
    let tls = ListenerTls {
        certs,
        min_version: table.string(cx, "min_version"),
        alpn: table.strings(cx, "alpn"),
        client_ca: table.string(cx, "client_ca"),
        client_auth: table.string(cx, "client_auth"),
        client_subject_header: table.string(cx, "client_subject_header"),
        client_cert_header: table.string(cx, "client_cert_header"),
    };
    table.finish(cx);
    tls
}

fn pool(cx: &mut Context<'_>, name: At<String>, mut table: Cursor<'_>) -> Pool {
    table.require(cx, "targets", "[\"127.0.0.1:9000\"]");
    let targets = targets(cx, &mut table);
    let protocol = table.string(cx, "protocol");
    one_of(cx, protocol.as_ref(), &table.path_of("protocol"), &["http/1.1", "h2"]);
    let health = table.table(cx, "health").map(|table| health::health(cx, table));
    let outlier = table.table(cx, "outlier").map(|table| outlier::outlier(cx, table));
    let tls = table.table(cx, "tls").map(|table| pool_tls(cx, table));
    let pool = Pool {
        name,
        targets,
        balance: table.string(cx, "balance"),
        hash_key: table.one_or_more(cx, "hash_key"),
        slow_start: table.duration(cx, "slow_start", FROM_ZERO),
        version: table.string(cx, "version"),
        connect_timeout: table.duration(cx, "connect_timeout", POSITIVE),
        max_connections: table.integer(cx, "max_connections", 1..=1_000_000),
        max_requests: table.integer(cx, "max_requests", 1..=1_000_000),
        max_pending: table.integer(cx, "max_pending", 0..=1_000_000),
        queue_timeout: table.duration(cx, "queue_timeout", FROM_ZERO),
        http2: protocol.is_some_and(|protocol| protocol.value == "h2"),
        send_proxy: table.string(cx, "send_proxy"),
        health,
        outlier,
        tls,
    };
    table.finish(cx);
    pool
}

fn pool_tls(cx: &mut Context<'_>, mut table: Cursor<'_>) -> PoolTls {
    let tls = PoolTls {
        place: table.place,
        ca: table.string(cx, "ca"),
        server_name: table.string(cx, "server_name"),
        client_cert: table.string(cx, "client_cert"),
        client_key: table.string(cx, "client_key"),
        verify: table.boolean(cx, "verify"),
    };
    table.finish(cx);
    tls
}

fn targets(cx: &mut Context<'_>, table: &mut Cursor<'_>) -> Option<At<Vec<Target>>> {
    let written = table.mixed(cx, "targets")?;
    let mut targets = Vec::new();
    for target in written.value {
        match target {
            StringOrTable::String(addr) => targets.push(Target { addr, weight: None }),
            StringOrTable::Table(mut table) => {
                table.require(cx, "addr", "\"127.0.0.1:9000\"");
                let addr = table.string(cx, "addr");
                let weight = table.integer(cx, "weight", WEIGHTS);
                table.finish(cx);
                targets.extend(addr.map(|addr| Target { addr, weight }));
            }
        }
    }
    // A pool whose targets are all reported must not be called empty as well.
    Some(At::new(targets, written.place)).filter(|targets| !targets.value.is_empty() || table.is_empty_list("targets"))
}

fn route(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Route {
    table.require(cx, "name", "\"shop\"");
    let name = table.string(cx, "name");
    if let Some(name) = &name {
        table.path = format!("route.{}", name.written());
    }
    if !table.has("redirect") && !table.has("respond") {
        table.require(cx, "variants", "{ stable = \"POOL\" }");
    }
    let place = table.place;
    let matches = match table.table(cx, "match") {
        Some(matches) => matches::route_match(cx, matches),
        None => Match { place, ..Match::default() },
    };
    let variants = table.table(cx, "variants").map(|variants| variants.into_strings(cx));
    let weights = table.table(cx, "weights").map(|weights| shares(cx, weights));
    let sticky = table.table(cx, "sticky").map(|table| sticky(cx, table));
    let rules = table.tables(cx, "rule").map(|rules| rules.value).unwrap_or_default();
    let preview = table.table(cx, "preview").map(|table| when(cx, table));
    let filters = filters::filters(cx, &mut table);
    let route = Route {
        place,
        name,
        path: table.path.clone(),
        matches,
        variants,
        weights,
        has_shares: table.has("weights") || table.has("active"),
        active: table.string(cx, "active"),
        active_key: table.key_place(cx, "active"),
        sticky,
        timeout: table.duration(cx, "timeout", POSITIVE),
        request_timeout: table.duration(cx, "request_timeout", POSITIVE),
        on_move: table.table(cx, "on_move").map(|table| on_move(cx, table)),
        on_empty: on_empty(cx, &mut table),
        rules: rules.into_iter().map(|table| rule(cx, table)).collect(),
        preview,
        filters,
        mirror: table.table(cx, "mirror").map(|table| mirror(cx, table)),
        retry: table.table(cx, "retry").map(|table| recovery::retry(cx, table)),
        rescue: table.table(cx, "rescue").map(|table| recovery::rescue(cx, table)),
        rollout: table.table(cx, "rollout").map(|table| rollout::rollout(cx, table)),
    };
    table.finish(cx);
    route
}

fn on_empty(cx: &mut Context<'_>, table: &mut Cursor<'_>) -> Option<At<String>> {
    let written = table.string(cx, "on_empty");
    one_of(cx, written.as_ref(), &table.path_of("on_empty"), &["stable", "fail"]);
    written
}

fn on_move(cx: &mut Context<'_>, mut table: Cursor<'_>) -> OnMove {
    table.require(cx, "close_within", "\"30s\"");
    let on_move = OnMove { close_within: table.duration(cx, "close_within", FROM_ZERO) };
    table.finish(cx);
    on_move
}

fn shares(cx: &mut Context<'_>, table: Cursor<'_>) -> Weights {
    Weights { place: table.place, shares: table.into_numbers(cx) }
}

fn sticky(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Sticky {
    let sticky = Sticky {
        place: table.place,
        keys: table.strings(cx, "key"),
        fallback: table.string(cx, "fallback"),
        group: table.string(cx, "group"),
        cookie: table.string(cx, "cookie"),
        ttl: table.duration(cx, "ttl", COOKIE_LIFE),
    };
    table.finish(cx);
    sticky
}

fn mirror(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Mirror {
    table.require(cx, "pool", "\"shop-v3\"");
    let mirror = Mirror {
        pool: table.string(cx, "pool"),
        percent: table.number(cx, "percent"),
        max_body: table.size(cx, "max_body"),
        timeout: table.duration(cx, "timeout", POSITIVE),
    };
    table.finish(cx);
    mirror
}

fn rule(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Rule {
    table.require(cx, "name", "\"testers\"");
    let name = table.string(cx, "name");
    if let Some(name) = &name {
        table.path = format!("{} {:?}", table.path, name.written());
    }
    table.require(cx, "when", "{ header = \"x-canary\", equals = \"always\" }");
    let rule = Rule {
        place: table.place,
        name,
        path: table.path.clone(),
        when: table.table(cx, "when").map(|table| when(cx, table)),
        variant: table.string(cx, "variant"),
        weights: table.table(cx, "weights").map(|weights| shares(cx, weights)),
        has_outcome: table.has("variant") || table.has("weights"),
    };
    table.finish(cx);
    rule
}

fn when(cx: &mut Context<'_>, mut table: Cursor<'_>) -> When {
    let here = |keys: &[&'static str]| keys.iter().copied().filter(|key| table.has(key)).collect();
    let subjects = here(&["header", "cookie", "query", "method", "ip", "all", "any", "not"]);
    let tests = tests(cx, &mut table, &["equals", "in", "prefix", "suffix", "regex", "present", "in_file"]);
    let mut nested = |table: &mut Cursor<'_>, key| {
        let tables = table.tables(cx, key)?;
        let conditions = tables.value.into_iter().map(|table| when(cx, table)).collect();
        Some(At::new(conditions, tables.place))
    };
    let (all, any) = (nested(&mut table, "all"), nested(&mut table, "any"));
    let when = When {
        place: table.place,
        path: table.path.clone(),
        header: table.string(cx, "header"),
        cookie: table.string(cx, "cookie"),
        query: table.string(cx, "query"),
        methods: table.one_or_more(cx, "method"),
        networks: table.one_or_more(cx, "ip"),
        all,
        any,
        not: table.table(cx, "not").map(|table| Box::new(when(cx, table))),
        subjects,
        ..tests
    };
    table.finish(cx);
    when
}

/// The tests in a table, and which of the `known` ones stand there; nothing else of a condition.
fn tests(cx: &mut Context<'_>, table: &mut Cursor<'_>, known: &[&'static str]) -> When {
    When {
        tests: known.iter().copied().filter(|key| table.has(key)).collect(),
        equals: table.string(cx, "equals"),
        is_in: table.strings(cx, "in"),
        prefix: table.string(cx, "prefix"),
        suffix: table.string(cx, "suffix"),
        regex: table.string(cx, "regex"),
        present: table.boolean(cx, "present"),
        in_file: table.string(cx, "in_file"),
        ..When::default()
    }
}

/// Whether the value is one of the words; if not, that is reported.
fn one_of(cx: &mut Context<'_>, written: Option<&At<String>>, path: &str, allowed: &[&'static str]) {
    if let Some(written) = written {
        word(cx.findings, written, path, allowed);
    }
}
