//! `weir history`: who changed a route, when, why and to what, to read on a terminal of 80 columns or as JSON.

use super::client::{Admin, Failure, segment};
use super::status::Output;
use serde_json::Value;
use std::process::ExitCode;
use unicode_width::UnicodeWidthStr;

#[derive(Clone, Debug, clap::Args)]
pub struct HistoryArgs {
    /// The route
    pub route: String,
    /// Only the newest N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

pub fn run(args: &HistoryArgs, admin: &Admin) -> ExitCode {
    match show(args, admin) {
        Ok(text) => {
            crate::cli::say(format_args!("{text}"));
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report(&format!("history {}", args.route)),
    }
}

fn show(args: &HistoryArgs, admin: &Admin) -> Result<String, Failure> {
    let query = args.limit.map(|limit| format!("?limit={limit}")).unwrap_or_default();
    let document = admin.get(&format!("/api/v1/routes/{}/history{query}", segment(&args.route)))?;
    Ok(match args.output {
        Output::Json => format!("{document:#}\n"),
        Output::Table => table(&document),
    })
}

const COLUMNS: usize = 80;
const HEADS: [&str; 4] = ["GEN", "TIME (UTC)", "ACTOR", "ACTION"];
/// The last column, which takes what is left of the line and goes on below.
const REST: &str = "WEIGHTS, REASON";
const REST_LEAST: usize = 24;

fn table(document: &Value) -> String {
    let revisions = document["revisions"].as_array().map_or(&[][..], Vec::as_slice);
    let rows: Vec<([String; 4], Vec<String>)> = revisions.iter().map(|one| (cells(one), rest(one))).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|(cells, _)| cells[column].width());
        cells.chain([HEADS[column].width()]).max().unwrap_or(0)
    };
    let widths: [usize; 4] = std::array::from_fn(width);
    let indent = widths.iter().sum::<usize>() + 2 * widths.len();
    let room = COLUMNS.saturating_sub(indent).max(REST_LEAST);
    let mut out = line(&HEADS.map(str::to_owned), widths, REST);
    for (cells, rest) in &rows {
        let mut pieces = rest.iter().flat_map(|text| wrapped(text, room));
        out.push_str(&line(cells, widths, &pieces.next().unwrap_or_default()));
        for piece in pieces {
            out.push_str(&format!("{:indent$}{piece}\n", ""));
        }
    }
    out
}

fn line(cells: &[String; 4], widths: [usize; 4], rest: &str) -> String {
    let mut line = format!("{:>width$}  ", cells[0], width = widths[0]);
    for (cell, width) in cells.iter().zip(widths).skip(1) {
        let fill = width.saturating_sub(cell.width());
        line.push_str(&format!("{cell}{:fill$}  ", ""));
    }
    line.push_str(rest);
    format!("{}\n", line.trim_end())
}

fn cells(revision: &Value) -> [String; 4] {
    let time = text(&revision["time"]);
    // To the second: `2026-11-21 06:11:21`.
    let time = time.get(..19).map(|time| time.replace('T', " ")).unwrap_or(time);
    [text(&revision["generation"]), time, text(&revision["actor"]), text(&revision["action"])]
}

/// The weights that came of it, what is to be known of it, and the reason.
fn rest(revision: &Value) -> Vec<String> {
    let after = revision["after"].as_object().into_iter().flatten();
    let mut shares: String = after.map(|(name, weight)| format!("{name} {weight} %")).collect::<Vec<_>>().join(", ");
    if let Value::Number(to) = &revision["to"] {
        shares.push_str(&format!(" (as revision {to})"));
    }
    let mut rest = vec![shares];
    let overrode = revision["overrode"].as_array().into_iter().flatten();
    rest.extend(overrode.map(|what| format!("overrode {}", text(what))));
    if let Value::String(reason) = &revision["reason"] {
        rest.push(format!("\"{}\"", plain(reason)));
    }
    rest
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        other => other.to_string(),
    }
}

/// Somebody else's words must not steer this terminal.
fn plain(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Lines of at most `room` columns, broken between words where that can be.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("there is always one");
        if last.is_empty() {
            last.push_str(word);
        } else if last.width() + 1 + word.width() <= room {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn revision(generation: u64, action: &str, canary: f64, reason: Option<&str>) -> Value {
        json!({"generation": generation, "time": format!("2026-11-21T06:11:2{generation}.042Z"), "actor": "ci",
            "source": "127.0.0.1:5000", "action": action, "reason": reason, "before": {},
            "after": {"stable": 100.0 - canary, "canary": canary}})
    }

    #[test]
    fn the_table_fits_80_columns() {
        let mut undo = revision(3, "undo", 0.125, None);
        undo["to"] = json!(1);
        undo["actor"] = json!("release-bot");
        let long = "errors rose at once after the second step, see the dashboard of the shop";
        let mut start = revision(1, "start", 0.125, None);
        start["actor"] = json!("file");
        let document = json!({"route": "shop", "generation": 3, "revisions": [undo, revision(2, "shift", 5.5, Some(long)), start]});
        let expected = "\
GEN  TIME (UTC)           ACTOR        ACTION  WEIGHTS, REASON
  3  2026-11-21 06:11:23  release-bot  undo    stable 99.875 %, canary 0.125 %
                                               (as revision 1)
  2  2026-11-21 06:11:22  ci           shift   stable 94.5 %, canary 5.5 %
                                               \"errors rose at once after the
                                               second step, see the dashboard of
                                               the shop\"
  1  2026-11-21 06:11:21  file         start   stable 99.875 %, canary 0.125 %
";
        assert_eq!(table(&document), expected);
        assert!(expected.lines().all(|line| line.width() <= COLUMNS));
    }

    #[test]
    fn what_was_overridden_is_shown_and_control_characters_are_not_sent_to_the_terminal() {
        let mut forced = revision(2, "switch", 100.0, Some("now\u{1b}[2J\u{9b}é"));
        forced["overrode"] = json!(["target 127.0.0.1:9112: connection refused"]);
        let shown = table(&json!({"revisions": [forced]}));
        assert!(shown.contains("\"now\\u{1b}[2J\\u{9b}é\""), "{shown}");
        assert!(shown.contains("overrode target"), "{shown}");
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'));
    }
}
