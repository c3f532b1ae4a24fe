//! `weir judge`: the judge on lines from standard input, for replaying releases of the past.

use crate::judge::protocol::{BasePolicy, Replay};
use serde_json::Value;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Clone, Debug, clap::Args)]
pub struct JudgeArgs {
    /// What to judge by where the lines don't say: TOML or JSON, keys as in docs/judge.md
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
}

/// The longest line, in bytes: two full histograms are some 100 KiB.
const LINE_BYTES: u64 = 1024 * 1024;

/// Exit code 0 at the end of input, 1 at the first line that cannot be judged, with its number on stderr. Everything
/// before it was answered.
pub fn run(args: &JudgeArgs) -> ExitCode {
    let judged = base_policy(args.policy.as_deref()).and_then(|base| {
        let replay = Replay::new(base).map_err(|error| error.to_string())?;
        replay_lines(replay, std::io::stdin().lock())
    });
    match judged {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir judge: {error}");
            ExitCode::FAILURE
        }
    }
}

fn base_policy(file: Option<&Path>) -> Result<BasePolicy, String> {
    let Some(file) = file else { return Ok(BasePolicy::default()) };
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| failed(&error))?;
    let tree: Value = match text.trim_start().starts_with('{') {
        true => serde_json::from_str(&text).map_err(|error| failed(&error))?,
        false => toml::from_str(&text).map_err(|error| failed(&error))?,
    };
    BasePolicy::new(tree).map_err(|error| failed(&error))
}

fn replay_lines(mut replay: Replay, mut input: impl BufRead) -> Result<(), String> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = input.by_ref().take(LINE_BYTES + 1).read_until(b'\n', &mut line);
        if read.map_err(|error| format!("line {number}: {error}"))? == 0 {
            break;
        }
        if line.len() as u64 > LINE_BYTES {
            return Err(format!("line {number}: longer than {LINE_BYTES} bytes"));
        }
        let text = std::str::from_utf8(&line).map_err(|error| format!("line {number}: not UTF-8: {error}"))?;
        let answer = replay.line(text).map_err(|error| format!("line {number}: {error}"))?;
        for warning in replay.take_warnings() {
            eprintln!("weir judge: line {number}: {warning}");
        }
        if let Some(answer) = answer {
            super::say(format_args!("{answer}\n"));
        }
    }
    Ok(())
}
