//! `weir upgrade`: another process takes the running one's place.

use super::client::{Admin, Call};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The answer comes within the time that the other process has, and a little.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, clap::Args)]
pub struct UpgradeArgs {
    /// The new binary; without it, what is now where the running one was started from
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// How many seconds the new process has until it serves; otherwise the old one goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=100))]
    timeout: u64,
    /// Asks the new binary for its version and whether it can serve the file, and changes nothing
    #[arg(long)]
    dry_run: bool,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub fn run(args: &UpgradeArgs, admin: &Admin) -> ExitCode {
    let binary = match args.binary.as_ref().map(std::path::absolute).transpose() {
        Ok(binary) => binary,
        Err(error) => {
            eprintln!("weir upgrade: --binary: {error}");
            return ExitCode::FAILURE;
        }
    };
    let body = json!({"binary": binary, "timeout_seconds": args.timeout, "reason": args.reason});
    let path = format!("/api/v1/upgrade{}", if args.dry_run { "?dry_run=true" } else { "" });
    let call = Call { method: http::Method::POST, path, if_generation: None, body: Some(&body) };
    match admin.call_within(&call, Duration::from_secs(args.timeout) + GRACE) {
        Ok(answer) => {
            crate::cli::say(said(&answer));
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report("upgrade"),
    }
}

fn said(answer: &Value) -> String {
    let version = answer["version"].as_str().unwrap_or("?");
    if answer["dry_run"] == true {
        return format!("version {version} can serve the file; nothing was changed (--dry-run)\n");
    }
    format!("upgraded: version {version} serves as process {}, process {} drains\n", answer["pid"], answer["draining"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_processes_are_named() {
        let answer = json!({"pid": 12, "version": "0.1.0", "draining": 7});
        assert_eq!(said(&answer), "upgraded: version 0.1.0 serves as process 12, process 7 drains\n");
        let dry = json!({"dry_run": true, "version": "0.1.0"});
        assert_eq!(said(&dry), "version 0.1.0 can serve the file; nothing was changed (--dry-run)\n");
    }
}
