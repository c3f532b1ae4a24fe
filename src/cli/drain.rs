//! `weir drain` and `weir enable`: take a target out, and back in.

use super::client::{Admin, Call, Failure, segment};
use serde_json::{Value, json};
use std::process::ExitCode;

#[derive(Clone, Debug, clap::Args)]
pub struct DrainArgs {
    /// The pool
    pub pool: String,
    /// The target, as the configuration has it: 127.0.0.1:9101
    pub target: String,
    /// Say what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Why, for the log
    #[arg(long)]
    pub reason: Option<String>,
}

pub fn drain(args: &DrainArgs, admin: &Admin) -> ExitCode {
    run(args, "drain", admin)
}

pub fn enable(args: &DrainArgs, admin: &Admin) -> ExitCode {
    run(args, "enable", admin)
}

fn run(args: &DrainArgs, action: &str, admin: &Admin) -> ExitCode {
    match order(args, action, admin) {
        Ok(answer) => {
            crate::cli::say(format_args!("{}\n", said(&answer)));
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report(&format!("{action} {} {}", args.pool, args.target)),
    }
}

fn order(args: &DrainArgs, action: &str, admin: &Admin) -> Result<Value, Failure> {
    let query = if args.dry_run { "?dry_run=true" } else { "" };
    let (pool, target) = (segment(&args.pool), segment(&args.target));
    admin.call(&Call {
        method: http::Method::POST,
        path: format!("/api/v1/pools/{pool}/targets/{target}/{action}{query}"),
        if_generation: None,
        body: Some(&json!({"reason": args.reason})),
    })
}

fn said(answer: &Value) -> String {
    let word = |member: &str| answer[member].as_str().unwrap_or("?").to_owned();
    let (pool, target, standing) = (word("pool"), word("name"), word("standing"));
    let changed = match (answer["dry_run"] == true, answer["changed"] == true) {
        (true, true) => "; nothing was changed (--dry-run)",
        (_, false) => " as before; nothing was changed",
        (false, true) => "",
    };
    let would = if answer["dry_run"] == true && answer["changed"] == true { "would be" } else { "is" };
    let mut said = format!("{pool} {target} {would} {standing}{changed}: {} request(s) under way", answer["in_flight"]);
    if answer["usable_targets"] == 0 {
        said.push_str(&format!("\nno target of {pool} is left for new requests"));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_it_is_said() {
        let mut answer = json!({"pool": "p", "name": "a:1", "standing": "draining", "in_flight": 3, "changed": true,
            "usable_targets": 1});
        assert_eq!(said(&answer), "p a:1 is draining: 3 request(s) under way");
        answer["usable_targets"] = json!(0);
        answer["dry_run"] = json!(true);
        let dry = "p a:1 would be draining; nothing was changed (--dry-run): 3 request(s) under way\n\
                   no target of p is left for new requests";
        assert_eq!(said(&answer), dry);
        answer["changed"] = json!(false);
        assert!(said(&answer).starts_with("p a:1 is draining as before; nothing was changed: "), "{}", said(&answer));
    }
}
