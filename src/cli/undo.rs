//! `weir undo`: brings an earlier revision's assignment of clients back.

use super::client::{Admin, Call, Failure, segment};
use super::write::{OverrideArgs, WriteArgs};
use serde_json::json;
use std::process::ExitCode;

#[derive(Clone, Debug, clap::Args)]
pub struct UndoArgs {
    /// The route
    pub route: String,
    /// To this revision (`weir history` lists them) instead of the one before
    #[arg(long, value_name = "N")]
    pub to: Option<u64>,
    #[command(flatten)]
    pub write: WriteArgs,
    #[command(flatten)]
    pub overrides: OverrideArgs,
}

pub fn run(args: &UndoArgs, admin: &Admin) -> ExitCode {
    match undo(args, admin) {
        Ok(said) => {
            crate::cli::say(format_args!("{said}\n"));
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report(&format!("undo {}", args.route)),
    }
}

fn undo(args: &UndoArgs, admin: &Admin) -> Result<String, Failure> {
    let body = json!({"to": args.to, "reason": args.write.reason, "override": args.overrides.overrides});
    let answer = admin.call(&Call {
        method: http::Method::POST,
        path: format!("/api/v1/routes/{}/undo{}", segment(&args.route), args.write.query()),
        if_generation: args.write.if_generation,
        body: Some(&body),
    })?;
    Ok(args.write.said(&answer))
}
