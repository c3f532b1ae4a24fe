//! `weir shift`: moves weight between a route's variants.

use super::client::{Admin, Call, Failure, segment};
use serde_json::{Map, Value, json};
use std::process::ExitCode;

#[derive(Clone, Debug, clap::Args)]
pub struct ShiftArgs {
    /// The route
    pub route: String,
    /// New weights in percent, such as canary=5; the baseline takes the difference
    #[arg(required = true, value_name = "VARIANT=PERCENT", value_parser = parse_weight)]
    pub weights: Vec<(String, f64)>,
    /// Say what would change and how many clients would move, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Why, for the log
    #[arg(long)]
    pub reason: Option<String>,
    /// Only if the route is still at this generation (`weir status` shows it)
    #[arg(long, value_name = "N")]
    pub if_generation: Option<u64>,
}

pub fn run(args: &ShiftArgs, admin: &Admin) -> ExitCode {
    match shift(args, admin) {
        Ok(said) => {
            crate::cli::say(format_args!("{said}\n"));
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report(&format!("shift {}", args.route)),
    }
}

fn parse_weight(text: &str) -> Result<(String, f64), String> {
    let (name, percent) = text.split_once('=').ok_or("write VARIANT=PERCENT, such as canary=5")?;
    let percent = percent.strip_suffix('%').unwrap_or(percent);
    let number = percent.parse::<f64>().ok().filter(|number| number.is_finite());
    let number = number.ok_or_else(|| format!("{percent:?} is not a number of percent"))?;
    if name.is_empty() { Err("the variant's name is missing".to_owned()) } else { Ok((name.to_owned(), number)) }
}

fn shift(args: &ShiftArgs, admin: &Admin) -> Result<String, Failure> {
    let mut weights = Map::new();
    for (name, percent) in &args.weights {
        if weights.insert(name.clone(), json!(percent)).is_some() {
            return Err(Failure::Usage(format!("variant {name:?} is named twice")));
        }
    }
    let body = json!({"weights": weights, "reason": args.reason});
    let query = if args.dry_run { "?dry_run=true" } else { "" };
    let answer = admin.call(&Call {
        method: http::Method::PATCH,
        path: format!("/api/v1/routes/{}/weights{query}", segment(&args.route)),
        if_generation: args.if_generation,
        body: Some(&body),
    })?;
    Ok(if args.dry_run { would(&answer) } else { did(&answer) })
}

/// The order is the route's: the API's object has it by name only.
fn did(route: &Value) -> String {
    let variants = route["variants"].as_array().into_iter().flatten();
    let shares: Vec<String> = variants
        .map(|variant| format!("{} {} %", variant["name"].as_str().unwrap_or("?"), variant["weight"]))
        .collect();
    let name = route["name"].as_str().unwrap_or("?");
    format!("{name} is at generation {}: {}", route["generation"], shares.join(", "))
}

fn would(plan: &Value) -> String {
    let name = plan["route"].as_str().unwrap_or("?");
    let (before, after) = (&plan["before"], &plan["after"]);
    let mut said =
        format!("{name} at generation {}: nothing was changed (--dry-run); would change\n", plan["generation"]);
    for (variant, weight) in before.as_object().into_iter().flatten() {
        let arrow = if after[variant] == *weight {
            format!("{weight} %")
        } else {
            format!("{weight} % -> {} %", after[variant])
        };
        said.push_str(&format!("  {variant}  {arrow}\n"));
    }
    said.push_str(&format!("{} % of the clients would move to another variant", plan["clients_moved_percent"]));
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_name_and_percent() {
        assert_eq!(parse_weight("canary=5"), Ok(("canary".to_owned(), 5.0)));
        assert_eq!(parse_weight("canary=0.125%"), Ok(("canary".to_owned(), 0.125)));
        for bad in ["canary", "canary=", "=5", "canary=x", "canary=NaN", "canary=inf", "5"] {
            assert!(parse_weight(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_given_twice_is_a_usage_error() {
        let twice = vec![("a".to_owned(), 1.0), ("a".to_owned(), 2.0)];
        let args =
            ShiftArgs { route: "r".to_owned(), weights: twice, dry_run: false, reason: None, if_generation: None };
        assert!(matches!(shift(&args, &Admin::new("unix:/nowhere", None)), Err(Failure::Usage(_))));
    }

    #[test]
    fn what_was_done_and_what_would_be_is_said() {
        let route = json!({"name": "shop", "generation": 3, "variants": [
            {"name": "stable", "weight": 95}, {"name": "canary", "weight": 5}]});
        assert_eq!(did(&route), "shop is at generation 3: stable 95 %, canary 5 %");
        let plan = json!({"route": "shop", "generation": 2, "before": {"canary": 0, "stable": 100},
            "after": {"canary": 5, "stable": 95}, "clients_moved_percent": 5});
        let said = would(&plan);
        assert!(said.contains("canary  0 % -> 5 %") && said.contains("stable  100 % -> 95 %"), "{said}");
        assert!(said.ends_with("5 % of the clients would move to another variant"), "{said}");
    }
}
