//! `weir reload`: has the running Weir read its file again.

use super::client::{Admin, Call};
use serde_json::Value;
use std::process::ExitCode;

#[derive(Clone, Debug, clap::Args)]
pub struct ReloadArgs {}

pub fn run(_args: &ReloadArgs, admin: &Admin) -> ExitCode {
    let call = Call { method: http::Method::POST, path: "/api/v1/reload".to_owned(), if_generation: None, body: None };
    match admin.call(&call) {
        Ok(summary) => {
            crate::cli::say(format_args!("{}", said(&summary)));
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report("reload"),
    }
}

fn said(summary: &Value) -> String {
    let mut said = format!("reloaded: {} route(s), {} pool(s)\n", summary["routes"], summary["pools"]);
    for (member, meaning) in [
        ("added", "new"),
        ("removed", "gone, with their live weights"),
        ("file_won", "at the file's weights now: the file changed"),
        ("live_kept", "still at live weights that differ from the file's"),
        ("needs_restart", "keys that take effect with the next start"),
    ] {
        let names: Vec<&str> = summary[member].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if !names.is_empty() {
            said.push_str(&format!("  {meaning}: {}\n", names.join(", ")));
        }
    }
    for warning in summary["warnings"].as_array().into_iter().flatten() {
        let word = |member: &str| warning[member].as_str().unwrap_or("").to_owned();
        let place = format!("{}:{}:{}", word("file"), warning["line"], warning["column"]);
        said.push_str(&format!("warning: {place}: {}\n", word("message")));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_happened_is_said() {
        let quiet = json!({"routes": 2, "pools": 3, "added": [], "removed": [], "file_won": [], "live_kept": [],
            "needs_restart": [], "warnings": []});
        assert_eq!(said(&quiet), "reloaded: 2 route(s), 3 pool(s)\n");
        let mut busy = quiet;
        busy["file_won"] = json!(["shop"]);
        busy["needs_restart"] = json!(["listener"]);
        busy["warnings"] = json!([{"file": "weir.toml", "line": 1, "column": 2, "message": "odd"}]);
        let expected = "reloaded: 2 route(s), 3 pool(s)\n  \
            at the file's weights now: the file changed: shop\n  \
            keys that take effect with the next start: listener\nwarning: weir.toml:1:2: odd\n";
        assert_eq!(said(&busy), expected);
    }
}
