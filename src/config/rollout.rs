//! A route's releases: what a rollout that starts now does, what it is judged by, who is asked.

use crate::judge::{Bound, Errors, Names, NoData, Policy, Quantile, Scalar};
use crate::rollout::{Analysis, Freeze, Hook, MaxHold, Moment, Plan, Reaction, Step, Strategy};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct RolloutConfig {
    pub strategy: Strategy,
    /// Those before the last; none of blue/green.
    pub steps: Vec<Step>,
    pub keep_old: Duration,
    pub on_failure: Reaction,
    pub max_failures: Option<u64>,
    pub max_time: Option<Duration>,
    pub max_hold: Option<MaxHold>,
    /// As written, and what that is.
    pub freeze: Vec<(String, Freeze)>,
    /// Which variant gets everything after the steps; None: a person says so.
    pub winner: Option<usize>,
    pub auto_promote: bool,
    pub smoke: Vec<Smoke>,
    pub analysis: Option<AnalysisConfig>,
    pub webhooks: Vec<Webhook>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AnalysisConfig {
    pub interval: Duration,
    pub min_requests: u64,
    pub warm_up: Duration,
    pub false_rollback: f64,
    pub errors: Errors,
    pub quantiles: Vec<Quantile>,
    pub scalars: Vec<ScalarConfig>,
}

/// A metric of one's own.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalarConfig {
    pub name: String,
    pub bound: Bound,
    pub no_data: NoData,
    pub source: Prometheus,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prometheus {
    pub url: String,
    pub query: String,
    pub timeout: Duration,
}

/// A request to each of the candidate's targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smoke {
    /// Path and query.
    pub get: String,
    pub expect: u16,
    pub times: u32,
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    pub name: String,
    pub on: WebhookOn,
    pub url: String,
    pub timeout: Duration,
    /// So many failing answers in a row are a failure.
    pub failures: u32,
    /// Signs the body.
    pub secret: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookOn {
    /// It is asked, and the rollout goes by the answer.
    Asked(Moment),
    /// It is told.
    RolledBack,
    Promoted,
}

/// Whom a plan's hook stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'r> {
    Smoke(&'r [Smoke]),
    Webhook(&'r Webhook),
}

impl WebhookOn {
    pub const WORDS: [(&'static str, WebhookOn); 6] = [
        ("before_start", WebhookOn::Asked(Moment::BeforeStart)),
        ("before_step", WebhookOn::Asked(Moment::BeforeStep)),
        ("after_step", WebhookOn::Asked(Moment::AfterStep)),
        ("gate", WebhookOn::Asked(Moment::Gate)),
        ("rolled_back", WebhookOn::RolledBack),
        ("promoted", WebhookOn::Promoted),
    ];

    pub fn word(self) -> &'static str {
        WebhookOn::WORDS.iter().find(|(_, on)| *on == self).map_or("", |(word, _)| word)
    }
}

impl RolloutConfig {
    /// The plan of a rollout that starts now. `variants` are the route's; `baseline` is which of them has the traffic,
    /// of blue and green, and the first otherwise.
    pub fn plan(&self, variants: &[String], baseline: usize) -> Plan {
        let (first, others) = match (self.strategy, variants.get(baseline)) {
            (Strategy::BlueGreen, Some(active)) => {
                let idle = variants.iter().enumerate().find(|(at, _)| *at != baseline);
                (active.clone(), idle.map(|(_, name)| name.clone()).into_iter().collect())
            }
            _ => (variants[0].clone(), variants[1..].to_vec()),
        };
        let variants: Vec<String> = std::iter::once(first).chain(others).collect();
        let keep_old_ms = ms(self.keep_old);
        let of_strategy = match self.strategy {
            Strategy::Canary => Plan { steps: self.steps.clone(), winner: self.winner, keep_old_ms, ..bare() },
            Strategy::BlueGreen => Plan::blue_green("", "", self.auto_promote, keep_old_ms),
        };
        Plan {
            variants,
            analysis: self.analysis.as_ref().map(|analysis| Analysis { interval_ms: ms(analysis.interval) }),
            hooks: self.asked().map(|(hook, _)| hook).collect(),
            on_failure: self.on_failure,
            max_hold: self.max_hold,
            max_time_ms: self.max_time.map(ms),
            max_failures: self.max_failures,
            freeze: self.freeze.iter().map(|(_, freeze)| *freeze).collect(),
            ..of_strategy
        }
    }

    /// What a candidate is judged by; None where nothing is.
    pub fn policy(&self, baseline: &str, candidate: &str, candidates: u32) -> Option<Policy> {
        let analysis = self.analysis.as_ref()?;
        let scalar = |one: &ScalarConfig| Scalar { name: one.name.clone(), bound: one.bound, no_data: one.no_data };
        Some(Policy {
            false_rollback: analysis.false_rollback,
            errors: analysis.errors,
            quantiles: analysis.quantiles.clone(),
            counts: Vec::new(),
            scalars: analysis.scalars.iter().map(scalar).collect(),
            min_requests: analysis.min_requests,
            warm_up: analysis.warm_up,
            check_split: true,
            candidates,
            names: Names { candidate: candidate.to_owned(), baseline: baseline.to_owned() },
        })
    }

    /// The plan's hook with this index.
    pub fn hook(&self, index: usize) -> Option<Asked<'_>> {
        self.asked().nth(index).map(|(_, asked)| asked)
    }

    /// Those that the plan asks, in its order. Smoke comes before any user: before the start of a canary, and before the
    /// switch of blue/green.
    fn asked(&self) -> impl Iterator<Item = (Hook, Asked<'_>)> {
        let on = match self.strategy {
            Strategy::Canary => Moment::BeforeStart,
            Strategy::BlueGreen => Moment::BeforeStep,
        };
        let smoke = Hook { name: "smoke".to_owned(), on, failures: 1 };
        let smoke = (!self.smoke.is_empty()).then_some((smoke, Asked::Smoke(&self.smoke)));
        let webhooks = self.webhooks.iter().filter_map(|webhook| {
            let WebhookOn::Asked(on) = webhook.on else { return None };
            let hook = Hook { name: webhook.name.clone(), on, failures: webhook.failures };
            Some((hook, Asked::Webhook(webhook)))
        });
        smoke.into_iter().chain(webhooks)
    }

    /// The metrics' names, as the judge has them: errors, quantiles, scalars.
    pub fn metrics(&self) -> Vec<String> {
        let Some(analysis) = &self.analysis else { return Vec::new() };
        let quantiles = analysis.quantiles.iter().map(|one| format!("p{}", (one.quantile * 1000.0).round() / 10.0));
        let scalars = analysis.scalars.iter().map(|one| one.name.clone());
        std::iter::once(crate::judge::ERROR_RATE.to_owned()).chain(quantiles).chain(scalars).collect()
    }
}

fn bare() -> Plan {
    Plan::canary("", "", Vec::new())
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
