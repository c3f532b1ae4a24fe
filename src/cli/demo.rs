//! `weir demo`: two versions of a service, a bounded load and the proxy between them, in one process and offline.

mod load;
mod upstream;

use crate::app::{self, Addresses, AppError, Turn};
use crate::config;
use clap::Args;
use load::{Load, Second};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

/// Where Weir usually is; another port where one of these is taken.
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// End by itself after this many seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Requests per second of the demo's own load
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
}

/// Runs until Ctrl-C or for the given seconds. Exit code 1 when a request of the load failed.
pub fn run(args: &DemoArgs) -> ExitCode {
    match start(args) {
        Ok(totals) => {
            crate::cli::say(format_args!("{}\n", totals.summary()));
            if totals.errors() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("weir demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &DemoArgs) -> Result<Second, Box<dyn std::error::Error>> {
    let stable = upstream::start("stable")?;
    let canary = upstream::start("canary")?;
    let folder = Folder::new()?;
    let file = folder.0.join("weir.toml");
    let at = |listen, admin| {
        std::fs::write(&file, configuration(listen, admin, stable, canary))?;
        let loaded = config::load(&file, &|_| None);
        loaded.config.ok_or_else(|| Box::<dyn std::error::Error>::from(loaded.report.render(false)))
    };
    crate::cli::serve::start_logging(&config::Log { level: "error".to_owned(), json: false });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = match app::start(at(free_or_any(LISTEN), free_or_any(ADMIN))?, Turn::default()).await {
            // Somebody took one of them just now.
            Err(AppError::Control(_) | AppError::Bind { .. }) => {
                app::start(at(any(LISTEN), any(ADMIN))?, Turn::default()).await?
            }
            started => started?,
        };
        introduce(&app.addresses, &file.display().to_string());
        let load = Load { proxy: proxy_addr(&app.addresses), rate: args.rate, seconds: args.seconds };
        let running = load::start(load, app.drain_watch())?;
        app.run(async {
            running.ended.notified().await;
        })
        .await?;
        running.thread.join().map_err(|_| "the load ended in a panic")?.map_err(Into::into)
    })
}

fn configuration(listen: SocketAddr, admin: SocketAddr, stable: SocketAddr, canary: SocketAddr) -> String {
    format!(
        r#"# What `weir demo` runs with.
[server]
drain_timeout = "5s"
[admin]
listen = ["{admin}"]
[[listener]]
name = "http"
bind = "{listen}"
[pool.demo-stable]
targets = ["{stable}"]
version = "1.0.0"
[pool.demo-canary]
targets = ["{canary}"]
version = "1.1.0"
[[route]]
name = "demo"
match = {{ path = "/" }}
variants = {{ stable = "demo-stable", canary = "demo-canary" }}
weights = {{ stable = 95, canary = 5 }}
[[route.rule]]
name = "testers"
when = {{ header = "x-canary", equals = "always" }}
variant = "canary"
"#
    )
}

fn proxy_addr(addresses: &Addresses) -> SocketAddr {
    addresses.listeners[0].1.tcp().expect("the demo listens on a TCP port")
}

/// The address when it is free, otherwise the same with any port.
fn free_or_any(addr: SocketAddr) -> SocketAddr {
    if TcpListener::bind(addr).is_ok() { addr } else { any(addr) }
}

fn any(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip(), 0)
}

fn introduce(addresses: &Addresses, file: &str) {
    let proxy = proxy_addr(addresses);
    let admin = match addresses.admin.first() {
        Some(addr) if *addr != ADMIN => format!(" --admin {addr}"),
        _ => String::new(),
    };
    let api = addresses.admin.first().map(SocketAddr::to_string).unwrap_or_default();
    for (wanted, got) in [(LISTEN, Some(&proxy)), (ADMIN, addresses.admin.first())] {
        if let Some(got) = got.filter(|got| **got != wanted) {
            crate::cli::say(format_args!("weir demo: {wanted} is taken; this demo is at {got} instead\n"));
        }
    }
    crate::cli::say(format_args!(
        "weir demo: http://{proxy} splits between stable (95 %) and canary (5 %); configuration: {file}\n"
    ));
    crate::cli::say(format_args!("Try in another terminal:\n"));
    let weir = std::env::current_exe().map_or_else(|_| "weir".to_owned(), |path| path.display().to_string());
    crate::cli::say(format_args!("  {weir}{admin} status\n"));
    crate::cli::say(format_args!("  {weir}{admin} shift demo canary=50 --reason \"try it\"\n"));
    crate::cli::say(format_args!("  curl http://{proxy}/\n"));
    crate::cli::say(format_args!("  curl -H 'x-canary: always' http://{proxy}/\n"));
    crate::cli::say(format_args!("  curl http://{api}/metrics\n"));
    crate::cli::say(format_args!("Ctrl-C ends it.\n\n"));
}

/// A folder for the demo's configuration, removed at the end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> std::io::Result<Folder> {
        let path = std::env::temp_dir().join(format!("weir-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays behind is a small file in the system's temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How long one line of figures covers.
const LINE: Duration = Duration::from_secs(1);
