//! `weir serve`: the configuration checked, then served until a signal.

use crate::app::handover::Predecessor;
use crate::app::upgrade::Launch;
use crate::app::{self, Addresses, Turn};
use crate::config::{self, Log};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Serves the file. Exit code 0 after a drain, 1 when it can't start or a worker ends.
pub fn run(file: &Path) -> ExitCode {
    let predecessor = match Predecessor::from_env(|name| std::env::var(name).ok()) {
        Ok(predecessor) => predecessor,
        Err(error) => {
            eprintln!("weir: can't take over from another process: {error}");
            return ExitCode::FAILURE;
        }
    };
    let failed = |why: &str| predecessor.iter().for_each(|before| before.failed(why));
    let loaded = config::load(file, &|name| std::env::var(name).ok());
    let findings = loaded.report.render(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    if !findings.is_empty() {
        eprint!("{findings}");
    }
    let Some(config) = loaded.config else {
        failed(&loaded.report.render(false));
        eprintln!("weir: {} is not served: mend what is above, then `weir check` it", file.display());
        return ExitCode::FAILURE;
    };
    start_logging(&config.log);
    end_at_a_panic();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("weir: can't start: {error}");
            failed(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let served = runtime.block_on(async {
        let turn = Turn { launch: Launch::of_this_process(), predecessor: predecessor.clone() };
        let app = app::start(config, turn).await?;
        // Nobody may be reading; the log has it, too.
        let _ = writeln!(std::io::stdout(), "{}", ready_line(&app.addresses));
        tracing::info!(version = env!("CARGO_PKG_VERSION"), workers = app.workers(), "{}", ready_line(&app.addresses));
        app.run(std::future::pending()).await
    });
    match served {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir: {error}");
            failed(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// A panic on any thread ends the process: a worker that is gone would take the clients with it that the kernel goes on
/// sending to it. A release build cannot do otherwise; this is for the others, and says so.
fn end_at_a_panic() {
    let message = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        message(panic);
        eprintln!("weir: this is a bug, and the process ends; changes that were acknowledged are on disk");
        std::process::abort();
    }));
}

/// Logs to standard error as the configuration says. A second call changes nothing.
pub fn start_logging(log: &Log) {
    let level = log.level.parse().unwrap_or(tracing::Level::INFO);
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level).with_target(false);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // Libraries warn of what peers do, frame by frame: a client could fill the log.
    let of_others = if level >= tracing::Level::DEBUG { level } else { tracing::Level::ERROR };
    let wanted = Targets::new().with_target(env!("CARGO_CRATE_NAME"), level).with_default(of_others);
    // Only the first subscriber of a process can be set; later calls find it there.
    let _ = match log.json {
        true => builder.json().finish().with(wanted).try_init(),
        false => builder.with_ansi(ansi).finish().with(wanted).try_init(),
    };
}

/// `weir ready http=127.0.0.1:8080 admin=127.0.0.1:9901`: for scripts that start Weir on port 0.
fn ready_line(addresses: &Addresses) -> String {
    let listeners = addresses.listeners.iter().map(|(name, addr)| format!(" {name}={addr}"));
    let admin = addresses.admin.iter().map(|addr| format!(" admin={addr}"));
    let metrics = addresses.metrics.iter().map(|addr| format!(" metrics={addr}"));
    std::iter::once("weir ready".to_owned()).chain(listeners).chain(admin).chain(metrics).collect()
}
