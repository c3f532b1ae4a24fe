//! A rollout as a tree: shares, steps, and what each candidate is judged by.

use super::rollout::clock;
use super::status::aligned;
use serde_json::Value;

/// `seen`: each variant's share of the requests of late, by name.
pub fn tree(rollout: &Value, seen: &[(String, f64)]) -> String {
    let mut lines = vec![head(rollout)];
    lines.push("├─ shares".to_owned());
    lines.extend(shares(rollout, seen).into_iter().map(|line| format!("│  {line}")));
    let candidates = rollout["candidates"].as_array().map_or(&[][..], Vec::as_slice);
    lines.push(format!("{}─ steps", if candidates.is_empty() { '└' } else { '├' }));
    let bar = if candidates.is_empty() { ' ' } else { '│' };
    lines.extend(steps(rollout).into_iter().map(|line| format!("{bar}  {line}")));
    for (nth, one) in candidates.iter().enumerate() {
        let last = nth + 1 == candidates.len();
        lines.push(format!("{}─ {}", if last { '└' } else { '├' }, verdict(one)));
        let bar = if last { ' ' } else { '│' };
        lines.extend(metrics(one).into_iter().map(|line| format!("{bar}  {line}")));
    }
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn head(rollout: &Value) -> String {
    let mut head = super::rollout::said(rollout);
    let started_by = rollout["started_by"].as_str().map(|by| format!("  (started by {by})"));
    head.push_str(&started_by.unwrap_or_default());
    head
}

fn shares(rollout: &Value, seen: &[(String, f64)]) -> Vec<String> {
    let mut rows = vec![["", "wanted", "live", "seen"].map(str::to_owned)];
    for (name, live) in rollout["live"].as_object().into_iter().flatten() {
        let wanted = match &rollout["weights"][name] {
            Value::Null => live,
            wanted => wanted,
        };
        let seen = seen.iter().find(|(known, _)| known == name);
        let seen = seen.map_or("-".to_owned(), |(_, share)| format!("{share:.2} %"));
        rows.push([name.clone(), format!("{wanted} %"), format!("{live} %"), seen]);
    }
    aligned(&rows, [false, true, true, true]).lines().map(str::to_owned).collect()
}

fn steps(rollout: &Value) -> Vec<String> {
    let now = rollout["step"].as_u64().unwrap_or(0);
    let over = matches!(rollout["phase"].as_str(), Some("promoted" | "rolled_back"));
    let row = |(nth, step): (u64, &Value)| {
        let mark = match () {
            () if nth < now || over && nth <= now => "✓",
            () if nth == now => "▸",
            () => " ",
        };
        let weights = step["weights"].as_object();
        let weights: Vec<String> =
            weights.into_iter().flatten().map(|(name, weight)| format!("{name} {weight} %")).collect();
        let weights = if weights.is_empty() { "the winner 100 %".to_owned() } else { weights.join(", ") };
        let stay = match (step["pause"].as_bool(), step["for_s"].as_f64(), step["keep_old_s"].as_f64()) {
            (Some(true), ..) => "until promoted".to_owned(),
            (_, Some(seconds), _) => clock(seconds),
            (.., Some(seconds)) if seconds > 0.0 => format!("the old one kept for {}", clock(seconds)),
            _ => String::new(),
        };
        let left = rollout["remaining_s"].as_f64().filter(|_| nth == now);
        let left = left.map_or(String::new(), |left| format!("{} left", clock(left)));
        [mark.to_owned(), nth.to_string(), weights, stay, left]
    };
    let steps = rollout["plan"].as_array().into_iter().flatten();
    let rows: Vec<[String; 5]> = (1..).zip(steps).map(row).collect();
    aligned(&rows, [false, true, false, false, false]).lines().map(str::to_owned).collect()
}

fn verdict(candidate: &Value) -> String {
    let word = |member: &str| candidate[member].as_str().unwrap_or("");
    let name = word("variant");
    let out = if candidate["out"] == true { " (taken out)" } else { "" };
    let said = match word("verdict") {
        "" => "not judged yet".to_owned(),
        verdict => format!("{verdict}: {}", word("reason")),
    };
    let alarm = candidate["alarm"].as_str().map(|alarm| format!("; look: {alarm}")).unwrap_or_default();
    format!("{name}{out}  {said}{alarm}")
}

fn metrics(candidate: &Value) -> Vec<String> {
    let metrics = candidate["metrics"].as_array().map_or(&[][..], Vec::as_slice);
    let row = |metric: &Value| {
        let word = |member: &str| metric[member].as_str().unwrap_or("").to_owned();
        let unit = word("unit");
        let against =
            format!("baseline {}, limit {}", value(&metric["baseline"], &unit), value(&metric["limit"], &unit));
        let needs = metric["needs"].as_u64().map(|needs| format!(", about {needs} more")).unwrap_or_default();
        [
            word("name"),
            word("verdict"),
            value(&metric["value"], &unit),
            against,
            format!("{} samples{needs}", metric["samples"]),
        ]
    };
    let rows: Vec<[String; 5]> = metrics.iter().map(row).collect();
    aligned(&rows, [false, false, true, false, false]).lines().map(str::to_owned).collect()
}

fn value(value: &Value, unit: &str) -> String {
    match (value.as_f64(), unit) {
        (None, _) => "-".to_owned(),
        (Some(share), "share") => format!("{:.3} %", share * 100.0),
        (Some(ms), "milliseconds") => format!("{ms:.1} ms"),
        (Some(plain), _) => format!("{plain}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rollout_stands_as_a_tree() {
        let rollout = json!({"route": "shop", "phase": "step", "state": "step", "step": 2, "steps": 3, "pause": null,
            "started_by": "ann", "weights": {"stable": 95, "canary": 5}, "live": {"stable": 95, "canary": 5},
            "remaining_s": 270.4, "reason": "", "plan": [
                {"weights": {"canary": 1}, "for_s": 300.0}, {"weights": {"canary": 5}, "for_s": 600.0},
                {"weights": {"canary": 100}, "keep_old_s": 3600.0}],
            "candidates": [{"variant": "canary", "out": false, "verdict": "hold", "reason": "needs more", "alarm": null,
                "metrics": [{"name": "error-rate", "verdict": "hold", "unit": "share", "value": 0.00133,
                    "baseline": 0.001, "limit": 0.0055, "samples": 500, "needs": 898}]}]});
        let expected = "\
shop: step 2 of 3, stable 95 %, canary 5 %, 4m31s left  (started by ann)
├─ shares
│          wanted  live     seen
│  stable    95 %  95 %  94.90 %
│  canary     5 %   5 %        -
├─ steps
│  ✓  1  canary 1 %    5m
│  ▸  2  canary 5 %    10m                      4m31s left
│     3  canary 100 %  the old one kept for 1h
└─ canary  hold: needs more
   error-rate  hold  0.133 %  baseline 0.100 %, limit 0.550 %  500 samples, about 898 more
";
        assert_eq!(tree(&rollout, &[("stable".to_owned(), 94.9)]), expected);
    }
}
