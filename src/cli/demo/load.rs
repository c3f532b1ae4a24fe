//! The demo's load: a fixed rate over a few keep-alive connections, counted by the version that answered.

use super::LINE;
use crate::boundary::drain::{DrainWatch, Phase};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

const CONNECTIONS: u32 = 16;
const VERSIONS: [&str; 2] = ["stable", "canary"];

pub(super) struct Load {
    pub(super) proxy: SocketAddr,
    /// Requests per second over all connections.
    pub(super) rate: u32,
    pub(super) seconds: Option<u64>,
}

pub(super) struct Running {
    pub(super) thread: JoinHandle<std::io::Result<Second>>,
    /// The seconds are over.
    pub(super) ended: Arc<Notify>,
}

/// Starts the load on a thread of its own; it prints a line a second and gives the totals.
pub(super) fn start(load: Load, drain: DrainWatch) -> std::io::Result<Running> {
    let ended = Arc::new(Notify::new());
    let notify = Arc::clone(&ended);
    let thread = std::thread::Builder::new().name("demo-load".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let totals = tokio::task::LocalSet::new().block_on(&runtime, run(&load, drain));
        notify.notify_one();
        Ok(totals)
    })?;
    Ok(Running { thread, ended })
}

async fn run(load: &Load, mut drain: DrainWatch) -> Second {
    let second = Rc::new(RefCell::new(Second::default()));
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| tokio::task::spawn_local(client(load.proxy, load.rate, Rc::clone(&second), drain.clone())))
        .collect();
    let mut totals = Second::default();
    let mut lines = tokio::time::interval(LINE);
    lines.tick().await;
    let mut count = 0;
    while load.seconds.is_none_or(|seconds| count < seconds) {
        tokio::select! {
            _ = drain.wait_for(|phase| *phase >= Phase::Draining) => break,
            _ = lines.tick() => {}
        }
        count += 1;
        let mut done = std::mem::take(&mut *second.borrow_mut());
        if count % 20 == 1 {
            crate::cli::say(format_args!("{}\n", Second::header()));
        }
        crate::cli::say(format_args!("{}\n", done.line(count)));
        totals.add(&done);
    }
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    totals.add(&second.borrow());
    totals
}

/// One connection's part of the load; a connection that ends is opened again.
async fn client(proxy: SocketAddr, rate: u32, second: Rc<RefCell<Second>>, drain: DrainWatch) {
    let mut pace = tokio::time::interval(Duration::from_secs(1) * CONNECTIONS / rate);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut sender = None;
    loop {
        pace.tick().await;
        let started = Instant::now();
        let answer = match ready(&mut sender, proxy).await {
            Ok(sender) => ask(sender, proxy).await,
            Err(error) => Err(error),
        };
        if *drain.borrow() >= Phase::Draining {
            return;
        }
        if answer.is_err() {
            sender = None;
        }
        second.borrow_mut().count(answer.ok(), started.elapsed());
    }
}

type Sender = SendRequest<Empty<Bytes>>;
type Failed = Box<dyn std::error::Error>;

async fn ready(sender: &mut Option<Sender>, proxy: SocketAddr) -> Result<&mut Sender, Failed> {
    if sender.as_ref().is_none_or(|sender| sender.is_closed()) {
        let (new, connection) = http1::handshake(TokioIo::new(TcpStream::connect(proxy).await?)).await?;
        tokio::task::spawn_local(connection);
        *sender = Some(new);
    }
    let sender = sender.as_mut().ok_or("no connection")?;
    sender.ready().await?;
    Ok(sender)
}

/// Index into [`VERSIONS`] of the version that answered with 200.
async fn ask(sender: &mut Sender, proxy: SocketAddr) -> Result<usize, Failed> {
    let request = Request::get("/").header("host", proxy.to_string()).body(Empty::new())?;
    let response = sender.send_request(request).await?;
    let (head, body) = response.into_parts();
    body.collect().await?;
    let version = head.headers.get("x-version").and_then(|version| version.to_str().ok());
    let version = VERSIONS.iter().position(|known| Some(*known) == version).ok_or("no version")?;
    if head.status.is_success() { Ok(version) } else { Err(head.status.to_string().into()) }
}

/// What the load saw: in a second, or in all.
#[derive(Default)]
pub(super) struct Second {
    latencies: [Vec<Duration>; 2],
    errors: usize,
}

impl Second {
    pub(super) fn errors(&self) -> usize {
        self.errors
    }

    fn count(&mut self, version: Option<usize>, took: Duration) {
        match version {
            Some(version) => self.latencies[version].push(took),
            None => self.errors += 1,
        }
    }

    fn add(&mut self, other: &Second) {
        for (mine, others) in self.latencies.iter_mut().zip(&other.latencies) {
            mine.extend_from_slice(others);
        }
        self.errors += other.errors;
    }

    fn answered(&self) -> usize {
        self.latencies.iter().map(Vec::len).sum()
    }

    fn header() -> String {
        let columns = VERSIONS.map(|version| format!("  {version:>8}    rps  p50 ms  p99 ms")).concat();
        format!("{:>6} {:>6} {:>6}{columns}", "time", "rps", "errors")
    }

    fn line(&mut self, at: u64) -> String {
        let answered = self.answered();
        let columns = self.latencies.each_mut().map(|latencies| {
            latencies.sort_unstable();
            let share = 100.0 * latencies.len() as f64 / answered.max(1) as f64;
            let (p50, p99) = (quantile(latencies, 0.5), quantile(latencies, 0.99));
            format!("  {share:>6.1} % {:>6} {p50:>7.2} {p99:>7.2}", latencies.len())
        });
        format!("{:>5}s {answered:>6} {:>6}{}", at, self.errors, columns.concat())
    }

    pub(super) fn summary(&self) -> String {
        let answered = self.answered();
        let shares: Vec<String> = VERSIONS
            .iter()
            .zip(&self.latencies)
            .map(|(version, latencies)| {
                format!(
                    "{version} {} ({:.2} %)",
                    latencies.len(),
                    100.0 * latencies.len() as f64 / answered.max(1) as f64
                )
            })
            .collect();
        format!("\n{answered} requests answered, {} errors: {}", self.errors, shares.join(", "))
    }
}

/// In milliseconds, of sorted latencies; 0 without any.
fn quantile(sorted: &[Duration], q: f64) -> f64 {
    let at = ((sorted.len() as f64 * q).ceil() as usize).saturating_sub(1);
    sorted.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
}
