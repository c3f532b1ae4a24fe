//! `weir switch`: gives everything to one variant, if its targets are healthy.

use super::client::{Admin, Call, Failure, segment};
use super::write::{OverrideArgs, WriteArgs};
use serde_json::json;
use std::process::ExitCode;

#[derive(Clone, Debug, clap::Args)]
pub struct SwitchArgs {
    /// The route
    pub route: String,
    /// The variant that is to have everything
    pub variant: String,
    /// Go on though targets of it are not healthy, and say which
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub write: WriteArgs,
    #[command(flatten)]
    pub overrides: OverrideArgs,
}

pub fn run(args: &SwitchArgs, admin: &Admin) -> ExitCode {
    match switch(args, admin) {
        Ok(said) => {
            crate::cli::say(format_args!("{said}\n"));
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report(&format!("switch {}", args.route)),
    }
}

fn switch(args: &SwitchArgs, admin: &Admin) -> Result<String, Failure> {
    let body = json!({"to": args.variant, "force": args.force, "reason": args.write.reason, "override": args.overrides.overrides});
    let answer = admin.call(&Call {
        method: http::Method::POST,
        path: format!("/api/v1/routes/{}/switch{}", segment(&args.route), args.write.query()),
        if_generation: args.write.if_generation,
        body: Some(&body),
    })?;
    Ok(args.write.said(&answer))
}
