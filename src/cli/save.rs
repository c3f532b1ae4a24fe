//! `weir save`: writes live weights back into the files that define the routes.

use super::client::{Admin, Call, Failure};
use super::status::text;
use serde_json::{Map, Value, json};
use std::process::ExitCode;

#[derive(Clone, Debug, clap::Args)]
pub struct SaveArgs {
    /// Only these routes; all without
    #[arg(value_name = "ROUTE")]
    pub routes: Vec<String>,
    /// Print what would change in the files, as a diff, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Why, for the log
    #[arg(long)]
    pub reason: Option<String>,
    /// Only if the one route that is named is still at this generation
    #[arg(long, value_name = "N")]
    pub if_generation: Option<u64>,
}

pub fn run(args: &SaveArgs, admin: &Admin) -> ExitCode {
    match save(args, admin) {
        Ok(said) => {
            crate::cli::say(said);
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report("save"),
    }
}

fn save(args: &SaveArgs, admin: &Admin) -> Result<String, Failure> {
    if args.if_generation.is_some() && args.routes.len() != 1 {
        return Err(Failure::Usage("--if-generation is about one route: name that one".to_owned()));
    }
    let mut body = Map::new();
    if !args.routes.is_empty() {
        body.insert("routes".to_owned(), json!(args.routes));
    }
    body.insert("reason".to_owned(), json!(args.reason));
    let query = if args.dry_run { "?dry_run=true" } else { "" };
    let answer = admin.call(&Call {
        method: http::Method::POST,
        path: format!("/api/v1/config/save{query}"),
        if_generation: args.if_generation,
        body: Some(&Value::Object(body)),
    })?;
    Ok(if args.dry_run { would(&answer) } else { did(&answer) })
}

const NOTHING: &str = "nothing to save: the file has these weights already\n";

/// The diff alone, so that `patch` takes it.
fn would(answer: &Value) -> String {
    let files = answer["files"].as_array().into_iter().flatten();
    let diff: String = files.filter_map(|file| file["diff"].as_str()).collect();
    if diff.is_empty() { NOTHING.to_owned() } else { diff }
}

fn did(answer: &Value) -> String {
    let mut said = String::new();
    for file in answer["files"].as_array().into_iter().flatten() {
        said.push_str(&format!("saved into {}\n", text(&file["path"])));
        for line in file["lines"].as_array().into_iter().flatten() {
            said.push_str(&format!("  {}: {}\n", line["line"], text(&line["after"]).trim()));
        }
    }
    if said.is_empty() { NOTHING.to_owned() } else { said }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_lines_are_said_and_a_dry_run_is_a_diff() {
        let answer = json!({"files": [
            {"path": "/etc/a.toml", "diff": "--- /etc/a.toml\n+++ /etc/a.toml\n",
             "lines": [{"line": 7, "before": "  weights = { a = 1, b = 99 }", "after": "  weights = { a = 2, b = 98 }"}]},
            {"path": "/etc/b.toml", "diff": "--- /etc/b.toml\n+++ /etc/b.toml\n", "lines": []},
        ]});
        assert_eq!(did(&answer), "saved into /etc/a.toml\n  7: weights = { a = 2, b = 98 }\nsaved into /etc/b.toml\n");
        assert_eq!(would(&answer), "--- /etc/a.toml\n+++ /etc/a.toml\n--- /etc/b.toml\n+++ /etc/b.toml\n");
        assert_eq!(
            (did(&json!({"files": []})), would(&json!({"files": []}))),
            (NOTHING.to_owned(), NOTHING.to_owned())
        );
    }

    #[test]
    fn a_generation_is_one_route_s() {
        let args = SaveArgs { routes: Vec::new(), dry_run: false, reason: None, if_generation: Some(3) };
        assert!(matches!(save(&args, &Admin::new("unix:/nowhere", None)), Err(Failure::Usage(_))));
    }
}
