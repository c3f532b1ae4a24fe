//! `weir start`, `pause`, `resume`, `promote`, `abort`, `retry`: what people do to a rollout, and waiting for its end.

use super::client::{Admin, Call, Failure, segment};
use super::write::WriteArgs;
use serde_json::{Map, Value, json};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// From look to look while waiting.
const LOOK: Duration = Duration::from_millis(500);
/// The rollout took everything back.
const ROLLED_BACK: u8 = 1;
const TIMED_OUT: u8 = 3;

#[derive(Clone, Debug, clap::Args)]
pub struct RolloutArgs {
    /// The route
    pub route: String,
    /// Past freeze windows, and past whoever has not agreed
    #[arg(long)]
    pub force: bool,
    /// Until everything is promoted (exit code 0) or rolled back (1)
    #[arg(long)]
    pub wait: bool,
    /// Wait no longer than this, such as 30m (exit code 3)
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = crate::config::duration)]
    pub timeout: Option<Duration>,
    #[command(flatten)]
    pub write: WriteArgs,
}

#[derive(Clone, Debug, clap::Args)]
pub struct PromoteArgs {
    #[command(flatten)]
    pub rollout: RolloutArgs,
    /// To the last step, past all others; while the old version is kept: end that
    #[arg(long)]
    pub full: bool,
    /// Which variant wins, where there are several
    #[arg(long, value_name = "VARIANT")]
    pub to: Option<String>,
}

/// `verb` is the API's.
pub fn run(verb: &str, args: &RolloutArgs, admin: &Admin) -> ExitCode {
    ended(verb, args, act(verb, args, Map::new(), admin), admin)
}

pub fn promote(args: &PromoteArgs, admin: &Admin) -> ExitCode {
    let mut more = Map::new();
    if args.full {
        more.insert("full".to_owned(), json!(true));
    }
    if let Some(to) = &args.to {
        more.insert("to".to_owned(), json!(to));
    }
    ended("promote", &args.rollout, act("promote", &args.rollout, more, admin), admin)
}

fn act(verb: &str, args: &RolloutArgs, mut body: Map<String, Value>, admin: &Admin) -> Result<Value, Failure> {
    body.insert("reason".to_owned(), json!(args.write.reason));
    body.insert("force".to_owned(), json!(args.force));
    admin.call(&Call {
        method: http::Method::POST,
        path: format!("/api/v1/rollouts/{}/{verb}{}", segment(&args.route), args.write.query()),
        if_generation: args.write.if_generation,
        body: Some(&Value::Object(body)),
    })
}

fn ended(verb: &str, args: &RolloutArgs, acted: Result<Value, Failure>, admin: &Admin) -> ExitCode {
    let failed = |failure: Failure| failure.report(&format!("{verb} {}", args.route));
    let document = match acted {
        Ok(document) => document,
        Err(failure) => return failed(failure),
    };
    if args.write.dry_run {
        crate::cli::say(format_args!("{}\n", would(&document)));
        return ExitCode::SUCCESS;
    }
    crate::cli::say(format_args!("{}\n", said(&document)));
    if !args.wait {
        return ExitCode::SUCCESS;
    }
    match wait(args, admin) {
        Ok(code) => code,
        Err(failure) => failed(failure),
    }
}

/// Until it is over, or promoted and only watched.
fn wait(args: &RolloutArgs, admin: &Admin) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let mut last = String::new();
    loop {
        let document = admin.get(&format!("/api/v1/rollouts/{}", segment(&args.route)))?;
        let line = said(&document);
        // What counts up or down is not said each time.
        let holds = document["held_s"].as_f64() > Some(0.0);
        let key = format!("{}{}{}{holds}", document["state"], document["step"], document["pause"]);
        if key != last {
            crate::cli::say(format_args!("{line}\n"));
            last = key;
        }
        match document["phase"].as_str() {
            Some("promoted" | "watching") => return Ok(ExitCode::SUCCESS),
            Some("rolled_back") => return Ok(ExitCode::from(ROLLED_BACK)),
            _ => {}
        }
        if args.timeout.is_some_and(|most| began.elapsed() >= most) {
            eprintln!("weir: {} is neither promoted nor rolled back after {:?}", args.route, began.elapsed());
            return Ok(ExitCode::from(TIMED_OUT));
        }
        super::pause(LOOK);
    }
}

/// `shop: step 2 of 6, stable 95 %, canary 5 %, 4m31s left`.
pub fn said(document: &Value) -> String {
    let word = |member: &str| document[member].as_str().unwrap_or("");
    let place = match document["phase"].as_str() {
        None => return format!("{}: no rollout", word("route")),
        Some("starting") => "starting".to_owned(),
        Some("choosing") => "waits for a choice".to_owned(),
        Some("watching") => "promoted, watching".to_owned(),
        Some("promoted") => "promoted".to_owned(),
        Some("rolled_back") => "rolled back".to_owned(),
        Some(_) => format!("step {} of {}", document["step"], document["steps"]),
    };
    let mut parts = vec![place];
    parts.extend(document["live"].as_object().map(shares));
    if let Some(pause) = document["pause"].as_object() {
        parts.push(format!("paused: {}", pause["reason"].as_str().unwrap_or("")));
    } else if let Some(left) = document["remaining_s"].as_f64() {
        parts.push(format!("{} left", clock(left)));
    } else if !word("reason").is_empty() {
        parts.push(word("reason").to_owned());
    }
    format!("{}: {}", word("route"), parts.join(", "))
}

fn would(document: &Value) -> String {
    let shares = |member: &str| document[member].as_object().map(shares).unwrap_or_default();
    let name = document["route"].as_str().unwrap_or("?");
    let (before, after) = (shares("before"), shares("after"));
    format!("{name}: nothing was changed (--dry-run); now {before}; would be {after}")
}

fn shares(weights: &Map<String, Value>) -> String {
    weights.iter().map(|(name, weight)| format!("{name} {weight} %")).collect::<Vec<_>>().join(", ")
}

/// `4m31s`, `1h2m`, `12s`.
pub fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0).ceil() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, 0) => format!("{minutes}m"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, 0, _) => format!("{hours}h"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_is_at_is_said_in_a_line() {
        let mut document = json!({"route": "shop", "phase": "step", "step": 2, "steps": 6, "pause": null,
            "live": {"stable": 95, "canary": 5}, "remaining_s": 270.4, "reason": ""});
        assert_eq!(said(&document), "shop: step 2 of 6, stable 95 %, canary 5 %, 4m31s left");
        document["pause"] = json!({"kind": "asked", "reason": "lunch"});
        assert_eq!(said(&document), "shop: step 2 of 6, stable 95 %, canary 5 %, paused: lunch");
        let document = json!({"route": "shop", "phase": "rolled_back", "live": {"stable": 100}, "reason": "p99"});
        assert_eq!(said(&document), "shop: rolled back, stable 100 %, p99");
        assert_eq!(said(&json!({"route": "shop", "phase": null})), "shop: no rollout");
    }

    #[test]
    fn times_are_short() {
        let shown = [0.2, 59.0, 60.0, 61.0, 3600.0, 3725.0].map(clock);
        assert_eq!(shown, ["1s", "59s", "1m", "1m01s", "1h", "1h02m"]);
    }
}
