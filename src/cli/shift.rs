//! `weir shift`: moves weight between a route's variants.

use super::client::{Admin, Call, Failure, segment};
use super::write::{OverrideArgs, WriteArgs};
use serde_json::{Map, json};
use std::process::ExitCode;

#[derive(Clone, Debug, clap::Args)]
pub struct ShiftArgs {
    /// The route
    pub route: String,
    /// New weights in percent, such as canary=5; the baseline takes the difference
    #[arg(required = true, value_name = "VARIANT=PERCENT", value_parser = parse_weight)]
    pub weights: Vec<(String, f64)>,
    #[command(flatten)]
    pub write: WriteArgs,
    #[command(flatten)]
    pub overrides: OverrideArgs,
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
    let body = json!({"weights": weights, "reason": args.write.reason, "override": args.overrides.overrides});
    let answer = admin.call(&Call {
        method: http::Method::PATCH,
        path: format!("/api/v1/routes/{}/weights{}", segment(&args.route), args.write.query()),
        if_generation: args.write.if_generation,
        body: Some(&body),
    })?;
    Ok(args.write.said(&answer))
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
        let args = ShiftArgs {
            route: "r".to_owned(),
            weights: twice,
            write: WriteArgs::default(),
            overrides: OverrideArgs::default(),
        };
        assert!(matches!(shift(&args, &Admin::new("unix:/nowhere", None)), Err(Failure::Usage(_))));
    }
}
