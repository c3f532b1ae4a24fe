//! What the verbs that change a route's live state have in common: their options, and what they say.

use serde_json::Value;

#[derive(Clone, Debug, Default, clap::Args)]
pub struct WriteArgs {
    /// Say what would change and how many clients would move, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Why, for the log and the history
    #[arg(long)]
    pub reason: Option<String>,
    /// Only if the route is still at this generation (`weir status` shows it)
    #[arg(long, value_name = "N")]
    pub if_generation: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct OverrideArgs {
    /// Also while a rollout is under way, which pauses for it
    #[arg(long = "override")]
    pub overrides: bool,
}

impl WriteArgs {
    /// Of the call's path.
    pub fn query(&self) -> &'static str {
        if self.dry_run { "?dry_run=true" } else { "" }
    }

    /// What became of it, from the call's answer.
    pub fn said(&self, answer: &Value) -> String {
        let mut said = if self.dry_run { would(answer) } else { did(answer) };
        for what in answer["overrode"].as_array().into_iter().flatten() {
            said.push_str(&format!("\noverrode: {}", what.as_str().unwrap_or("?")));
        }
        said
    }
}

/// The order is the route's: the API's object has it by name only.
fn did(route: &Value) -> String {
    let variants = route["variants"].as_array().into_iter().flatten();
    let shares: Vec<String> = variants
        .map(|variant| format!("{} {} %", variant["name"].as_str().unwrap_or("?"), variant["weight"]))
        .collect();
    let name = route["name"].as_str().unwrap_or("?");
    let (generation, shares) = (&route["generation"], shares.join(", "));
    let like = match &route["to"] {
        Value::Number(to) => format!(", as revision {to}"),
        _ => String::new(),
    };
    if route["changed"] == false {
        return format!("{name} is at generation {generation} as before: {shares}{like}; nothing was changed");
    }
    format!("{name} is at generation {generation}: {shares}{like}")
}

fn would(plan: &Value) -> String {
    let name = plan["route"].as_str().unwrap_or("?");
    let (before, after) = (&plan["before"], &plan["after"]);
    let like = match &plan["to"] {
        Value::Number(to) => format!(" to what revision {to} has"),
        _ => String::new(),
    };
    let mut said =
        format!("{name} at generation {}: nothing was changed (--dry-run); would change{like}\n", plan["generation"]);
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
    use serde_json::json;

    fn said(dry_run: bool, answer: &Value) -> String {
        WriteArgs { dry_run, ..WriteArgs::default() }.said(answer)
    }

    #[test]
    fn what_was_done_is_said() {
        let mut route = json!({"name": "shop", "generation": 3, "changed": true, "variants": [
            {"name": "stable", "weight": 95}, {"name": "canary", "weight": 5}]});
        assert_eq!(said(false, &route), "shop is at generation 3: stable 95 %, canary 5 %");
        route["to"] = json!(1);
        assert_eq!(said(false, &route), "shop is at generation 3: stable 95 %, canary 5 %, as revision 1");
        route["changed"] = json!(false);
        let same = "shop is at generation 3 as before: stable 95 %, canary 5 %, as revision 1; nothing was changed";
        assert_eq!(said(false, &route), same);
        route["overrode"] = json!(["target a:1: connection refused", "target b:1: connection refused"]);
        assert_eq!(
            said(false, &route).lines().skip(1).collect::<Vec<_>>(),
            ["overrode: target a:1: connection refused", "overrode: target b:1: connection refused"]
        );
    }

    #[test]
    fn what_would_be_is_said() {
        let plan = json!({"route": "shop", "generation": 2, "before": {"canary": 0, "stable": 100},
            "after": {"canary": 5, "stable": 95}, "clients_moved_percent": 5});
        let said = said(true, &plan);
        assert!(said.contains("canary  0 % -> 5 %") && said.contains("stable  100 % -> 95 %"), "{said}");
        assert!(said.ends_with("5 % of the clients would move to another variant"), "{said}");
    }
}
