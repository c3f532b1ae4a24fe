//! A route's `rollout`: plan, analysis, who is asked.

use super::{FROM_ZERO, POSITIVE, Weights, shares};
use crate::config::cursor::{Context, Cursor, word};
use crate::config::source::{At, Place};
use std::ops::RangeInclusive;
use std::time::Duration;

/// A rollout, and any part of it, may take as long as somebody stays with a release.
const LONG: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(100 * 24 * 60 * 60);
const LONG_POSITIVE: RangeInclusive<Duration> = Duration::from_millis(1)..=*LONG.end();

#[derive(Debug)]
pub struct Rollout {
    pub place: Place,
    pub path: String,
    pub strategy: Option<At<String>>,
    pub steps: Option<At<Vec<Step>>>,
    pub keep_old: Option<At<Duration>>,
    pub on_failure: Option<At<String>>,
    pub max_failures: Option<At<u64>>,
    pub max_time: Option<At<Duration>>,
    pub max_hold: Option<MaxHold>,
    pub freeze: Option<At<Vec<At<String>>>>,
    pub winner: Option<At<String>>,
    pub auto_promote: Option<At<bool>>,
    pub smoke: Option<At<Vec<Smoke>>>,
    pub analysis: Option<Analysis>,
    pub webhooks: Vec<Webhook>,
}

#[derive(Debug)]
pub struct Step {
    pub place: Place,
    pub path: String,
    pub weight: Option<At<f64>>,
    pub weights: Option<Weights>,
    pub stay: Option<At<Duration>>,
    pub pause: Option<At<Pause>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// `true`, or `false`, which is none.
    Flag(bool),
    For(Duration),
}

#[derive(Debug)]
pub struct MaxHold {
    pub after: Option<At<Duration>>,
    pub then: Option<At<String>>,
}

#[derive(Debug)]
pub struct Smoke {
    pub path: String,
    pub get: Option<At<String>>,
    pub expect: Option<At<u64>>,
    pub times: Option<At<u64>>,
    pub timeout: Option<At<Duration>>,
}

#[derive(Debug)]
pub struct Analysis {
    pub path: String,
    pub interval: Option<At<Duration>>,
    pub min_requests: Option<At<u64>>,
    pub warm_up: Option<At<Duration>>,
    pub false_rollback: Option<At<String>>,
    pub metrics: Vec<Metric>,
}

#[derive(Debug)]
pub struct Metric {
    pub place: Place,
    pub path: String,
    pub name: Option<At<String>>,
    pub max: Option<Limit>,
    pub min: Option<Limit>,
    pub max_ratio: Option<At<f64>>,
    pub min_ratio: Option<At<f64>>,
    pub no_data: Option<At<String>>,
    pub from: Option<Prometheus>,
}

/// `"1%"`, `"500ms"`, or a number of a metric of one's own.
#[derive(Debug)]
pub enum Limit {
    Text(At<String>),
    Number(At<f64>),
}

#[derive(Debug)]
pub struct Prometheus {
    pub place: Place,
    pub url: Option<At<String>>,
    pub query: Option<At<String>>,
    pub timeout: Option<At<Duration>>,
}

#[derive(Debug)]
pub struct Webhook {
    pub place: Place,
    pub path: String,
    pub name: Option<At<String>>,
    pub on: Option<At<String>>,
    pub url: Option<At<String>>,
    pub timeout: Option<At<Duration>>,
    pub failures: Option<At<u64>>,
    pub secret: Option<At<String>>,
}

pub fn rollout(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Rollout {
    table.not_built(cx, &["smoke", "webhook"]);
    let steps = table.tables(cx, "steps").map(|steps| {
        let place = steps.place;
        At::new(steps.value.into_iter().map(|table| step(cx, table)).collect(), place)
    });
    let smoke = table.tables(cx, "smoke").map(|list| {
        let place = list.place;
        At::new(list.value.into_iter().map(|table| smoke(cx, table)).collect(), place)
    });
    let webhooks = table.tables(cx, "webhook").map(|list| list.value).unwrap_or_default();
    let rollout = Rollout {
        place: table.place,
        path: table.path.clone(),
        strategy: table.string(cx, "strategy"),
        steps,
        keep_old: table.duration(cx, "keep_old", LONG),
        on_failure: table.string(cx, "on_failure"),
        max_failures: table.integer(cx, "max_failures", 1..=1_000_000_000),
        max_time: table.duration(cx, "max_time", LONG_POSITIVE),
        max_hold: table.table(cx, "max_hold").map(|table| max_hold(cx, table)),
        freeze: table.strings(cx, "freeze"),
        winner: table.string(cx, "winner"),
        auto_promote: table.boolean(cx, "auto_promote"),
        smoke,
        analysis: table.table(cx, "analysis").map(|table| analysis(cx, table)),
        webhooks: webhooks.into_iter().map(|table| webhook(cx, table)).collect(),
    };
    table.finish(cx);
    rollout
}

fn step(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Step {
    let pause = match table.is_string("pause") {
        true => table.duration(cx, "pause", LONG_POSITIVE).map(|pause| pause.with(Pause::For(pause.value))),
        false => table.boolean(cx, "pause").map(|pause| pause.with(Pause::Flag(pause.value))),
    };
    let step = Step {
        place: table.place,
        path: table.path.clone(),
        weight: table.number(cx, "weight"),
        weights: table.table(cx, "weights").map(|weights| shares(cx, weights)),
        stay: table.duration(cx, "for", LONG),
        pause,
    };
    table.finish(cx);
    step
}

fn max_hold(cx: &mut Context<'_>, mut table: Cursor<'_>) -> MaxHold {
    table.require(cx, "after", "\"1h\"");
    let hold = MaxHold { after: table.duration(cx, "after", LONG_POSITIVE), then: table.string(cx, "then") };
    table.finish(cx);
    hold
}

fn smoke(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Smoke {
    table.require(cx, "get", "\"/healthz\"");
    let smoke = Smoke {
        path: table.path.clone(),
        get: table.string(cx, "get"),
        expect: table.integer(cx, "expect", 100..=599),
        times: table.integer(cx, "times", 1..=100),
        timeout: table.duration(cx, "timeout", POSITIVE),
    };
    table.finish(cx);
    smoke
}

fn analysis(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Analysis {
    source(cx, &mut table);
    let metrics = table.tables(cx, "metric").map(|metrics| metrics.value).unwrap_or_default();
    let analysis = Analysis {
        path: table.path.clone(),
        interval: table.duration(cx, "interval", Duration::from_millis(100)..=*POSITIVE.end()),
        min_requests: table.integer(cx, "min_requests", 0..=1_000_000_000),
        warm_up: table.duration(cx, "warm_up", FROM_ZERO),
        false_rollback: table.string(cx, "false_rollback"),
        metrics: metrics.into_iter().map(|table| metric(cx, table)).collect(),
    };
    table.finish(cx);
    analysis
}

/// Whose counts are judged.
fn source(cx: &mut Context<'_>, table: &mut Cursor<'_>) {
    let Some(written) = table.string(cx, "source") else { return };
    let path = table.path_of("source");
    if word(cx.findings, &written, &path, &["builtin", "fleet", "prometheus"]).is_some_and(|source| source > 0) {
        cx.not_built(written.place, format_args!("{path} = {}", written.shown()));
    }
}

fn metric(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Metric {
    table.require(cx, "name", "\"error-rate\"");
    table.not_built(cx, &["prometheus"]);
    let metric = Metric {
        place: table.place,
        path: table.path.clone(),
        name: table.string(cx, "name"),
        max: limit(cx, &mut table, "max"),
        min: limit(cx, &mut table, "min"),
        max_ratio: table.number(cx, "max_ratio_to_stable"),
        min_ratio: table.number(cx, "min_ratio_to_stable"),
        no_data: table.string(cx, "no_data"),
        from: table.table(cx, "prometheus").map(|table| query(cx, table)),
    };
    table.finish(cx);
    metric
}

fn limit(cx: &mut Context<'_>, table: &mut Cursor<'_>, key: &'static str) -> Option<Limit> {
    match table.is_string(key) {
        true => table.string(cx, key).map(Limit::Text),
        false => table.number(cx, key).map(Limit::Number),
    }
}

fn query(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Prometheus {
    table.require(cx, "url", "\"http://127.0.0.1:9090\"");
    table.require(cx, "query", "'sum(rate(orders_total{variant=\"{{variant}}\"}[{{window}}]))'");
    let query = Prometheus {
        place: table.place,
        url: table.string(cx, "url"),
        query: table.string(cx, "query"),
        timeout: table.duration(cx, "timeout", POSITIVE),
    };
    table.finish(cx);
    query
}

fn webhook(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Webhook {
    table.require(cx, "on", "\"before_start\"");
    table.require(cx, "url", "\"http://127.0.0.1:9998/check\"");
    let webhook = Webhook {
        place: table.place,
        path: table.path.clone(),
        name: table.string(cx, "name"),
        on: table.string(cx, "on"),
        url: table.string(cx, "url"),
        timeout: table.duration(cx, "timeout", POSITIVE),
        failures: table.integer(cx, "failures", 1..=1000),
        secret: table.string(cx, "secret"),
    };
    table.finish(cx);
    webhook
}
