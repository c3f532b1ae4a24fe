//! A route's `rollout` as its keys say it, with every default.

use crate::config::provenance::Provenance;
use crate::config::rollout::{AnalysisConfig, Prometheus, RolloutConfig, ScalarConfig, Smoke, Webhook};
use crate::config::{RouteConfig, shown_duration};
use crate::judge::{Bound, ERROR_RATE, NoData, Quantile};
use crate::rollout::{MaxHold, Reaction, Stay, Step, Strategy};
use crate::routing::redact::Redact;
use serde_json::{Map, Value, json};
use std::time::Duration;

pub fn rollout(rollout: &RolloutConfig, route: &RouteConfig, provenance: &Provenance) -> Value {
    let RolloutConfig {
        strategy,
        steps,
        keep_old,
        on_failure,
        max_failures,
        max_time,
        max_hold,
        freeze,
        winner,
        auto_promote,
        smoke: smokes,
        analysis: judged,
        webhooks,
    } = rollout;
    let canary = *strategy == Strategy::Canary;
    json!({
        "strategy": if canary { "canary" } else { "blue-green" },
        "steps": canary.then(|| steps.iter().map(|one| step(one, route)).collect::<Vec<_>>()),
        "keep_old": shown_duration(*keep_old),
        "on_failure": reaction(*on_failure),
        "max_failures": max_failures,
        "max_time": max_time.map(shown_duration),
        "max_hold": max_hold.map(|MaxHold { after_ms, then }| json!({"after": duration(after_ms), "then": reaction(then)})),
        "freeze": freeze.iter().map(|(window, _)| provenance.shown(window)).collect::<Vec<_>>(),
        "winner": winner.filter(|_| canary).map(|winner| &route.variants[winner].name),
        "auto_promote": (!canary).then_some(auto_promote),
        "smoke": smokes.iter().map(|one| smoke(one, provenance)).collect::<Vec<_>>(),
        "analysis": judged.as_ref().map(|judged| analysis(judged, provenance)),
        "webhook": webhooks.iter().map(|one| webhook(one, provenance)).collect::<Vec<_>>(),
    })
}

fn step(step: &Step, route: &RouteConfig) -> Value {
    let Step { weights, stay } = step;
    let candidates = route.variants.iter().zip(weights.weights()).skip(1);
    let weights = candidates.map(|(variant, weight)| (variant.name.clone(), crate::control::history::percent(*weight)));
    let weights: Map<_, _> = weights.collect();
    match stay {
        Stay::For { ms } => json!({"weights": weights, "for": duration(*ms)}),
        Stay::UntilPromoted => json!({"weights": weights, "pause": true}),
    }
}

fn analysis(analysis: &AnalysisConfig, provenance: &Provenance) -> Value {
    let AnalysisConfig { interval, min_requests, warm_up, false_rollback, errors, quantiles, scalars } = analysis;
    let errors = json!({"name": ERROR_RATE, "max": percent(errors.max), "max_ratio_to_stable": errors.max_ratio});
    let quantiles = quantiles.iter().map(quantile);
    let metrics = std::iter::once(errors).chain(quantiles).chain(scalars.iter().map(|one| scalar(one, provenance)));
    json!({
        "source": "builtin",
        "interval": shown_duration(*interval),
        "min_requests": min_requests,
        "warm_up": shown_duration(*warm_up),
        "false_rollback": percent(*false_rollback),
        "metric": metrics.collect::<Vec<_>>(),
    })
}

fn quantile(quantile: &Quantile) -> Value {
    let Quantile { quantile, max_ratio, max_ms } = quantile;
    let limit = max_ms.map(|ms| shown_duration(Duration::from_secs_f64(ms / 1000.0)));
    json!({"name": format!("p{}", rounded(quantile * 100.0)), "max": limit, "max_ratio_to_stable": max_ratio})
}

fn scalar(scalar: &ScalarConfig, provenance: &Provenance) -> Value {
    let ScalarConfig { name, bound, no_data, source: Prometheus { url, query, timeout } } = scalar;
    let (key, limit) = match bound {
        Bound::Max(limit) => ("max", limit),
        Bound::Min(limit) => ("min", limit),
        Bound::MaxRatio(ratio) => ("max_ratio_to_stable", ratio),
        Bound::MinRatio(ratio) => ("min_ratio_to_stable", ratio),
    };
    json!({
        "name": name,
        key: limit,
        "no_data": if *no_data == NoData::Breach { "fail" } else { "hold" },
        "prometheus": {
            "url": provenance.shown(url),
            "query": provenance.shown(query),
            "timeout": shown_duration(*timeout),
        },
    })
}

fn smoke(smoke: &Smoke, provenance: &Provenance) -> Value {
    let Smoke { get, expect, times, timeout } = smoke;
    json!({"get": provenance.shown(get), "expect": expect, "times": times, "timeout": shown_duration(*timeout)})
}

fn webhook(webhook: &Webhook, provenance: &Provenance) -> Value {
    let Webhook { name, on, url, timeout, failures, secret } = webhook;
    json!({
        "name": provenance.shown(name),
        "on": on.word(),
        "url": provenance.shown(url),
        "timeout": shown_duration(*timeout),
        "failures": failures,
        "secret": secret.as_ref().map(|_| super::MASKED),
    })
}

fn reaction(reaction: Reaction) -> &'static str {
    match reaction {
        Reaction::Rollback => "rollback",
        Reaction::Pause => "pause",
    }
}

fn duration(ms: u64) -> String {
    shown_duration(Duration::from_millis(ms))
}

fn percent(share: f64) -> String {
    format!("{}%", rounded(share * 100.0))
}

/// Without what arithmetic adds.
fn rounded(value: f64) -> f64 {
    (value * 1e9).round() / 1e9
}
