//! `weir status`: what is live, as a table to read at 3 a.m. or as JSON.

use super::client::{Admin, Failure, segment};
use super::tree::tree;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

/// From picture to picture of a rollout that is watched.
const PICTURE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// Only this route
    pub route: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// Show the route's rollout each second, until it is over
    #[arg(short, long, requires = "route")]
    pub watch: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    Table,
    Json,
}

pub fn run(args: &StatusArgs, admin: &Admin) -> ExitCode {
    if let (true, Some(route)) = (args.watch, &args.route) {
        return match watch(route, args.output, admin) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report("status"),
        };
    }
    match show(args, admin) {
        Ok(text) => {
            crate::cli::say(format_args!("{text}"));
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report("status"),
    }
}

fn show(args: &StatusArgs, admin: &Admin) -> Result<String, Failure> {
    let document = match &args.route {
        Some(route) => admin.get(&format!("/api/v1/routes/{}", segment(route)))?,
        None => admin.get("/api/v1/routes")?,
    };
    if args.output == Output::Json {
        return Ok(format!("{document:#}\n"));
    }
    let stats = admin.get("/api/v1/stats")?;
    let routes = if args.route.is_some() { json!([document]) } else { document["routes"].clone() };
    let mut text = table(routes.as_array().map_or(&[][..], Vec::as_slice), &stats);
    if let Some(route) = args.route.as_ref().filter(|_| !routes[0]["rollout"].is_null()) {
        let rollout = admin.get(&format!("/api/v1/rollouts/{}", segment(route)))?;
        text.push_str(&format!("\n{}", tree(&rollout, &seen(&counts(&rollout["route"], &stats), &[]))));
    }
    Ok(text)
}

/// A picture a second. On a terminal each takes the place of the one before.
fn watch(route: &str, output: Output, admin: &Admin) -> Result<(), Failure> {
    let terminal = std::io::stdout().is_terminal();
    let mut before = Vec::new();
    loop {
        let rollout = admin.get(&format!("/api/v1/rollouts/{}", segment(route)))?;
        if output == Output::Json {
            crate::cli::say(format_args!("{rollout}\n"));
        } else {
            let now = counts(&rollout["route"], &admin.get("/api/v1/stats")?);
            let clear = if terminal { "\x1b[H\x1b[2J" } else { "" };
            crate::cli::say(format_args!("{clear}{}\n", tree(&rollout, &seen(&now, &before))));
            before = now;
        }
        if matches!(rollout["phase"].as_str(), None | Some("promoted" | "rolled_back")) {
            return Ok(());
        }
        crate::cli::pause(PICTURE);
    }
}

/// Each variant's share of the requests since `before`; of all where there were none since.
fn seen(now: &[(String, u64)], before: &[(String, u64)]) -> Vec<(String, f64)> {
    let since = |(name, count): &(String, u64)| {
        let earlier = before.iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count);
        count.saturating_sub(earlier)
    };
    let all: u64 = now.iter().map(since).sum();
    match all {
        0 if before.is_empty() => Vec::new(),
        0 => seen(now, &[]),
        _ => now.iter().map(|one| (one.0.clone(), since(one) as f64 * 100.0 / all as f64)).collect(),
    }
}

const COLUMNS: [&str; 9] = ["ROUTE", "GENERATION", "VARIANT", "POOL", "VERSION", "WEIGHT", "FILE", "SERVED", "TARGETS"];
/// Numbers stand right-aligned.
const RIGHT: [bool; 9] = [false, true, false, false, false, true, true, true, true];

fn table(routes: &[Value], stats: &Value) -> String {
    if routes.is_empty() {
        return "no routes\n".to_owned();
    }
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    for route in routes {
        let served = served(&route["name"], stats);
        for (nth, variant) in route["variants"].as_array().into_iter().flatten().enumerate() {
            let first = |cell: String| if nth == 0 { cell } else { String::new() };
            rows.push([
                first(text(&route["name"])),
                first(text(&route["generation"])),
                text(&variant["name"]),
                text(&variant["pool"]),
                text(&variant["version"]),
                percent(&variant["weight"]),
                percent(&variant["configured_weight"]),
                served.get(nth).cloned().unwrap_or_else(|| "-".to_owned()),
                targets(variant),
            ]);
        }
    }
    let mut out = aligned(&rows, RIGHT);
    let state = &stats["state"];
    if let (Some("set aside"), Some(detail)) = (state["status"].as_str(), state["detail"].as_str()) {
        out.push_str(&format!("\nwarning: {detail}; it is kept as {}\n", text(&state["file"])));
    }
    out
}

/// Each variant's share of the unforced requests that were answered since weir started.
fn served(route: &Value, stats: &Value) -> Vec<String> {
    let counts = counts(route, stats);
    let all: u64 = counts.iter().map(|(_, count)| count).sum();
    let share = |(_, count): &(String, u64)| match all {
        0 => "-".to_owned(),
        _ => format!("{:.2} %", *count as f64 * 100.0 / all as f64),
    };
    counts.iter().map(share).collect()
}

/// Each variant's unforced requests, by name.
fn counts(route: &Value, stats: &Value) -> Vec<(String, u64)> {
    let routes = stats["routes"].as_array().into_iter().flatten();
    let Some(found) = routes.into_iter().find(|known| known["name"] == *route) else { return Vec::new() };
    let count = |variant: &Value| {
        let codes = variant["unforced"].as_object();
        let count = codes.map_or(0, |codes| codes.values().filter_map(Value::as_u64).sum());
        (variant["name"].as_str().unwrap_or_default().to_owned(), count)
    };
    found["variants"].as_array().into_iter().flatten().map(count).collect()
}

/// Rows under each other; the columns where `right` says so stand right-aligned.
pub fn aligned<const N: usize>(rows: &[[String; N]], right: [bool; N]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for row in rows {
        let cells =
            row.iter().zip(widths).zip(right).map(|((cell, width), right)| {
                if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// A string as it is, a number as written, nothing as `-`.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// How many of them are healthy; a variant without a pool has none.
fn targets(variant: &Value) -> String {
    match variant["pool"] {
        Value::Null => "-".to_owned(),
        _ => format!("{}/{}", variant["healthy_targets"], variant["targets"]),
    }
}

pub fn percent(value: &Value) -> String {
    format!("{} %", text(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_shows_what_was_served() {
        let variant = |name: &str, pool: &str, weight: f64, file: u32| {
            json!({"name": name, "pool": pool, "version": if name == "canary" { json!("1.42.0") } else { Value::Null },
                   "weight": if weight.fract() == 0.0 { json!(weight as u64) } else { json!(weight) },
                   "configured_weight": file, "targets": 2, "healthy_targets": 1})
        };
        let routes = [
            json!({"name": "shop", "generation": 12, "variants": [
                variant("stable", "shop-v1", 99.875, 100), variant("canary", "shop-v2", 0.125, 0)]}),
            json!({"name": "api", "generation": 1, "variants": [variant("blue", "api-blue", 100.0, 100)]}),
            json!({"name": "old", "generation": 1, "variants": [{"name": "redirect", "pool": null, "version": null,
                "weight": 100, "configured_weight": 100, "targets": 0, "healthy_targets": 0}]}),
        ];
        let stats = json!({"routes": [{"name": "shop", "variants": [
            {"unforced": {"2xx": 700, "5xx": 50}, "forced": {"2xx": 9}}, {"unforced": {"2xx": 250}}]}]});
        let expected = "\
ROUTE  GENERATION  VARIANT   POOL      VERSION    WEIGHT   FILE   SERVED  TARGETS
shop           12  stable    shop-v1   -        99.875 %  100 %  75.00 %      1/2
                   canary    shop-v2   1.42.0    0.125 %    0 %  25.00 %      1/2
api             1  blue      api-blue  -           100 %  100 %        -      1/2
old             1  redirect  -         -           100 %  100 %        -        -
";
        assert_eq!(table(&routes, &stats), expected);
    }

    #[test]
    fn a_state_file_that_was_set_aside_is_said() {
        let stats =
            json!({"state": {"status": "set aside", "detail": "it is damaged", "file": "/s/live.json.corrupt-1"}});
        let routes = [json!({"name": "a", "generation": 1, "variants": []})];
        assert!(table(&routes, &stats).ends_with("warning: it is damaged; it is kept as /s/live.json.corrupt-1\n"));
    }
}
