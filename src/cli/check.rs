//! `weir check FILE`: says everything that is wrong with a configuration, and changes nothing.

use crate::config::{self, Config, Report};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

/// Exit code 0 when the file can be served, 1 when not.
///
/// For people: findings on stderr, the summary last (on stdout when the file is good). With `json`: one document
/// on stdout, `{"errors":[…],"warnings":[…]}`.
pub fn run(file: &Path, json: bool) -> ExitCode {
    let loaded = config::load(file, &|name| std::env::var(name).ok());
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    let color = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A reader that went away is no reason to panic: the exit code still tells.
    let _ = if json {
        writeln!(stdout.lock(), "{:#}", loaded.report.to_json())
    } else {
        let findings = loaded.report.render(color);
        let summary = format!("{}: {}", file.display(), summary(&loaded.report, loaded.config.as_ref()));
        let written = stderr.lock().write_all(findings.as_bytes());
        written.and_then(|()| match loaded.report.has_errors() {
            true => writeln!(stderr.lock(), "{summary}"),
            false => writeln!(stdout.lock(), "{summary}"),
        })
    };
    if loaded.config.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `3 errors, 1 warning`, or `ok (2 routes, 4 pools, 1 listener)`.
fn summary(report: &Report, config: Option<&Config>) -> String {
    let (errors, warnings) = (report.errors().count(), report.warnings().count());
    let warned = if warnings > 0 { format!(", {}", counted(warnings, "warning")) } else { String::new() };
    let Some(config) = config else {
        return format!("{}{warned}", counted(errors, "error"));
    };
    let parts = [
        counted(config.routes.len(), "route"),
        counted(config.pools.len(), "pool"),
        counted(config.listeners.len(), "listener"),
    ];
    format!("ok ({}){warned}", parts.join(", "))
}

fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weir.toml");
        let summary_of = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let loaded = config::load(&file, &|_| None);
            summary(&loaded.report, loaded.config.as_ref())
        };
        let good = "[[listener]]\nname = \"http\"\nbind = \"127.0.0.1:0\"\n[pool.a]\ntargets = [\"127.0.0.1:9\"]\n\
                    [[route]]\nname = \"r\"\nvariants = { a = \"a\" }\n";
        assert_eq!(summary_of(good), "ok (1 route, 1 pool, 1 listener), 1 warning");
        assert_eq!(summary_of(&format!("[server]\nstate_dir = \"s\"\n{good}")), "ok (1 route, 1 pool, 1 listener)");
        assert_eq!(summary_of(""), "2 errors, 1 warning");
    }

    #[test]
    fn exit_codes() {
        assert_eq!(run(Path::new("/nonexistent/weir.toml"), true), ExitCode::FAILURE);
    }
}
