//! The command line: arguments to verbs, one file a verb group. Verbs that change a running Weir talk to its admin
//! API only; `serve`, `check` and `demo` need none.

pub mod check;
pub mod client;
pub mod demo;
pub mod diff;
pub mod drain;
pub mod explain;
pub mod history;
pub mod judge;
pub mod reload;
pub mod rollout;
pub mod save;
pub mod serve;
pub mod shift;
pub mod status;
pub mod switch;
pub mod token;
pub mod tree;
pub mod undo;
pub mod upgrade;
pub mod write;

use clap::{Parser, Subcommand};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// A traffic-splitting reverse proxy that releases software.
#[derive(Debug, Parser)]
#[command(name = "weir", version, max_term_width = 100)]
struct Arguments {
    /// The admin API of a running Weir: HOST:PORT or unix:PATH
    #[arg(long, global = true, env = "WEIR_ADMIN", default_value = "127.0.0.1:9901", value_name = "ADDR")]
    admin: String,
    /// The admin API's token; better given in $WEIR_TOKEN than here
    #[arg(long, global = true, env = "WEIR_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve the configuration
    Serve {
        /// The configuration file
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration: every error, with line and column
    Check {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Print the findings as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a split at work: upstreams, load and proxy in one process
    Demo(demo::DemoArgs),
    /// Show routes, variants and weights
    Status(status::StatusArgs),
    /// Say where a request would go, and why
    Explain(explain::ExplainArgs),
    /// Change a route's weights
    Shift(shift::ShiftArgs),
    /// Give everything to one variant, if its targets are healthy
    Switch(switch::SwitchArgs),
    /// Begin the route's rollout
    Start(rollout::RolloutArgs),
    /// Keep a rollout where it is; what fails is taken back all the same
    Pause(rollout::RolloutArgs),
    /// Let a paused rollout go on
    Resume(rollout::RolloutArgs),
    /// To the next step, whatever the gate says
    Promote(rollout::PromoteArgs),
    /// Give everything back to the baseline
    Abort(rollout::RolloutArgs),
    /// Begin a rollout again that was rolled back
    Retry(rollout::RolloutArgs),
    /// Take a target out: it gets no new requests, and ends those that it has
    Drain(drain::DrainArgs),
    /// Bring a drained target back
    Enable(drain::DrainArgs),
    /// Bring an earlier revision back, client for client
    Undo(undo::UndoArgs),
    /// Show who changed a route, when, why and to what
    History(history::HistoryArgs),
    /// Judge a recorded release: a line a check in, a verdict a line out
    Judge(judge::JudgeArgs),
    /// Read the configuration file again
    Reload(reload::ReloadArgs),
    /// Have a new binary take the running one's place, without closing a connection
    Upgrade(upgrade::UpgradeArgs),
    /// Show where live weights are not the file's, and which files are not what is running
    Diff(diff::DiffArgs),
    /// Write live weights into the files that define the routes
    Save(save::SaveArgs),
    /// Make a token for the admin API
    Token(token::TokenArgs),
}

/// Prints to standard output. A reader that has gone (`weir status | head -1`) ends the command quietly.
fn say(text: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = write!(out, "{text}").and_then(|()| out.flush()) {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        eprintln!("weir: can't write to standard output: {error}");
        std::process::exit(1);
    }
}

/// Between two looks at what a running Weir is at.
#[expect(clippy::disallowed_methods, reason = "the command line's own thread, which has nothing else to do")]
fn pause(time: std::time::Duration) {
    std::thread::sleep(time);
}

/// Runs the verb. Exit codes: 0 done, 1 refused or failed, 2 usage, 3 timed out.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let admin = client::Admin::new(arguments.admin, arguments.token);
    match arguments.verb {
        Verb::Serve { config } => serve::run(&config),
        Verb::Check { file, json } => check::run(&file, json),
        Verb::Demo(args) => demo::run(&args),
        Verb::Status(args) => status::run(&args, &admin),
        Verb::Explain(args) => explain::run(&args, &admin),
        Verb::Shift(args) => shift::run(&args, &admin),
        Verb::Switch(args) => switch::run(&args, &admin),
        Verb::Start(args) => rollout::run("start", &args, &admin),
        Verb::Pause(args) => rollout::run("pause", &args, &admin),
        Verb::Resume(args) => rollout::run("resume", &args, &admin),
        Verb::Promote(args) => rollout::promote(&args, &admin),
        Verb::Abort(args) => rollout::run("abort", &args, &admin),
        Verb::Retry(args) => rollout::run("retry", &args, &admin),
        Verb::Drain(args) => drain::drain(&args, &admin),
        Verb::Enable(args) => drain::enable(&args, &admin),
        Verb::Undo(args) => undo::run(&args, &admin),
        Verb::History(args) => history::run(&args, &admin),
        Verb::Judge(args) => judge::run(&args),
        Verb::Reload(args) => reload::run(&args, &admin),
        Verb::Upgrade(args) => upgrade::run(&args, &admin),
        Verb::Diff(args) => diff::run(&args, &admin),
        Verb::Save(args) => save::run(&args, &admin),
        Verb::Token(args) => token::run(&args),
    }
}
