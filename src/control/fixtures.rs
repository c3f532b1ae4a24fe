//! Configurations for tests, and a process that serves one.

use super::command::Origin;
use super::ground::{Cause, Ground, Past};
use super::history::Entry;
use super::persist::Commit;
use super::{Control, Start, start};
use crate::boundary::drain::Drain;
use crate::boundary::table::Publisher;
use crate::config::{
    Admin, AdminAddr, Config, Dns, Log, OnEmpty, PoolConfig, Role, RouteConfig, Server, TargetAddr, Token,
    VariantConfig,
};
use crate::limits::Limits;
use crate::routing::balance::Balance;
use crate::routing::matcher::{HostMatch, RequestMatch};
use crate::routing::split::Weight;
use axum::response::IntoResponse;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub fn weights(percents: &[f64]) -> Vec<Weight> {
    percents.iter().map(|percent| Weight::from_percent(*percent).unwrap()).collect()
}

/// A configuration of routes with these variants at these percents, one pool for all.
pub fn config(routes: &[(&str, &[(&str, f64)])]) -> Config {
    let route = |(name, variants): &(&str, &[(&str, f64)])| RouteConfig {
        name: (*name).to_owned(),
        matches: RequestMatch { host: HostMatch::Exact(format!("{name}.localhost")), ..RequestMatch::default() },
        variants: variants.iter().map(|(name, _)| VariantConfig { name: (*name).to_owned(), pool: Some(0) }).collect(),
        weights: weights(&variants.iter().map(|(_, percent)| *percent).collect::<Vec<_>>()),
        rules: Vec::new(),
        preview: None,
        sticky: None,
        salt: (*name).to_owned(),
        timeout: Duration::from_secs(15),
        request_timeout: None,
        close_moved_within: None,
        on_empty: OnEmpty::Fail,
        filters: None,
        request_headers: None,
        response_headers: None,
        mirror: None,
        recovery: None,
        rollout: None,
    };
    Config {
        path: "/nowhere/weir.toml".into(),
        server: Server {
            workers: None,
            drain_timeout: Duration::from_secs(30),
            trusted_proxies: Vec::new(),
            state_dir: None,
        },
        limits: Limits::default(),
        admin: Admin {
            listen: vec![AdminAddr::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))],
            metrics: None,
            tokens: Vec::new(),
        },
        log: Log { level: "info".to_owned(), json: false },
        dns: Dns::default(),
        listeners: Vec::new(),
        pools: vec![PoolConfig {
            name: "pool".to_owned(),
            targets: vec![TargetAddr::Ip(SocketAddr::from(([127, 0, 0, 1], 9)))],
            weights: vec![1],
            balance: Balance::P2c,
            slow_start: Duration::ZERO,
            version: Some("1.0".to_owned()),
            connect_timeout: Duration::from_secs(2),
            http2: false,
            send_proxy: None,
            outlier: None,
            max_connections: 1024,
            max_requests: None,
            max_pending: 1024,
            queue_timeout: Duration::from_secs(1),
            tls: None,
            health: None,
        }],
        routes: routes.iter().map(route).collect(),
        provenance: Arc::default(),
        lists: Vec::new(),
    }
}

pub fn shop() -> Config {
    config(&[("shop", &[("stable", 100.0), ("canary", 0.0)])])
}

pub fn shop_in(state_dir: &Path) -> Config {
    let mut config = shop();
    config.server.state_dir = Some(state_dir.to_owned());
    config
}

/// One whose token is `secret-NAME`.
pub fn token(name: &str, role: Role) -> Token {
    Token { name: name.to_owned(), role, sha256: Sha256::digest(format!("secret-{name}")).into() }
}

/// The status of a problem, its `field` and its `detail`.
pub async fn refusal(problem: impl IntoResponse) -> (u16, String, String) {
    let response = problem.into_response();
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), 65536).await.unwrap();
    let document: Value = serde_json::from_slice(&bytes).unwrap();
    let text = |member: &str| document[member].as_str().unwrap().to_owned();
    (status, text("field"), text("detail"))
}

pub fn with_tokens(mut config: Config, tokens: Vec<Token>) -> Config {
    config.admin.tokens = tokens;
    config
}

pub fn ground(config: Config) -> Ground {
    Ground::start(config, Past::default(), HashMap::new(), 2, &cause()).0
}

/// One that saves this ground state, with these revisions added to the history.
pub fn commit(ground: &Ground, revisions: Vec<Arc<Entry>>) -> Commit {
    let routes = ground.routes.clone();
    Commit { body: ground.to_saved(), revisions, routes, totals: ground.totals, audit: Vec::new() }
}

pub fn cause() -> Cause {
    let now = jiff::Timestamp::from_second(1_800_000_000).unwrap();
    Cause { origin: Origin::file(Path::new("/nowhere/weir.toml")), now }
}

/// A started control plane without data plane.
pub struct Process {
    pub control: Control,
    pub publisher: Publisher,
    pub drain: Arc<Drain>,
    pub addr: SocketAddr,
}

/// What a call was answered.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Lower-case names.
    pub head: String,
    pub body: Vec<u8>,
}

impl Process {
    /// Serving, on the current runtime; it ends with the runtime.
    pub async fn start(config: Config) -> Process {
        let drain = Arc::new(Drain::new());
        let start_with = Start { config, workers: 2, drain: Arc::clone(&drain), env: |_| None };
        let (control, publisher) = start(start_with).await.unwrap();
        let addr = control.admin_addrs()[0];
        tokio::spawn(control.clone().run(std::future::ready(())));
        Process { control, publisher, drain, addr }
    }

    /// One call over a connection of its own. `headers` are whole lines without their ends.
    pub async fn call(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Reply {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.addr);
        head.push_str(&format!("content-length: {}\r\n", body.len()));
        for line in headers {
            head.push_str(&format!("{line}\r\n"));
        }
        head.push_str("\r\n");
        self.send(&[head.as_bytes(), body].concat()).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &[], b"").await
    }

    pub async fn patch(&self, route: &str, headers: &[&str], body: &str) -> Reply {
        let headers = [&["content-type: application/json"], headers].concat();
        self.call("PATCH", &format!("/api/v1/routes/{route}/weights"), &headers, body.as_bytes()).await
    }

    pub async fn put(&self, route: &str, headers: &[&str], body: &str) -> Reply {
        let headers = [&["content-type: application/json"], headers].concat();
        self.call("PUT", &format!("/api/v1/routes/{route}/weights"), &headers, body.as_bytes()).await
    }

    /// Exactly these bytes, and what comes back until the end.
    pub async fn send(&self, bytes: &[u8]) -> Reply {
        let (mut reading, mut writing) = TcpStream::connect(self.addr).await.unwrap().into_split();
        let mut answer = Vec::new();
        // A refusal may come and the connection close before everything is sent.
        let (_, read) = tokio::join!(writing.write_all(bytes), reading.read_to_end(&mut answer));
        read.unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head, body: answer[end + 4..].to_vec() }
    }

    /// The live weights, as thousandths, with the generation.
    pub fn live(&self, route: &str) -> (u64, Vec<u32>) {
        let view = self.control.ground().route(route).unwrap();
        (view.live.generation, view.live.weights.iter().map(|weight| weight.thousandths()).collect())
    }
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
    /// The problem's slug.
    pub fn problem(&self) -> String {
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        let document = self.json();
        assert_eq!(document["status"], self.status);
        document["type"].as_str().unwrap().trim_start_matches("urn:weir:problem:").to_owned()
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}
