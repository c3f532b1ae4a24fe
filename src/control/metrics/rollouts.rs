//! The families of rollouts, for routes that the configuration has one for. Before there is anything to say, values are 0.

use super::{Scrape, Shape, family, gauge};
use crate::config::RouteConfig;
use crate::config::rollout::RolloutConfig;
use crate::control::rollout::view::View;
use crate::judge::{MetricVerdict, Verdict};
use crate::rollout::Phase;
use prometheus::proto::{Metric, MetricFamily, MetricType};

const PHASE: Shape = Shape(
    "weir_rollout_phase",
    "1 for the phase that the route's rollout is in, 0 for the others; idle before the first.",
    MetricType::GAUGE,
    &["route", "phase"],
);
const STEP: Shape =
    Shape("weir_rollout_step", "The rollout's step, from 1; 0 before the first.", MetricType::GAUGE, &["route"]);
const VALUE: Shape = Shape(
    "weir_analysis_value",
    "What a metric of the analysis has for a variant: a share of requests, seconds, or the metric's own unit.",
    MetricType::GAUGE,
    &["route", "metric", "variant"],
);
const LIMIT: Shape = Shape(
    "weir_analysis_limit",
    "What candidates' values of the metric are held against at present.",
    MetricType::GAUGE,
    &["route", "metric"],
);
const VERDICT: Shape = Shape(
    "weir_analysis_verdict",
    "1 for the last verdict on the route's candidates, of several the worst; 0 for the others.",
    MetricType::GAUGE,
    &["route", "verdict"],
);

const PHASES: [(&str, Option<Phase>); 9] = [
    ("idle", None),
    ("starting", Some(Phase::Starting)),
    ("entering", Some(Phase::Entering)),
    ("step", Some(Phase::Step)),
    ("leaving", Some(Phase::Leaving)),
    ("choosing", Some(Phase::Choosing)),
    ("watching", Some(Phase::Watching)),
    ("promoted", Some(Phase::Promoted)),
    ("rolled_back", Some(Phase::RolledBack)),
];
const PAUSED: &str = "paused";
const VERDICTS: [(&str, Verdict); 3] = [("fail", Verdict::Fail), ("hold", Verdict::Hold), ("pass", Verdict::Pass)];

fn routes<'s>(
    scrape: &'s Scrape,
    children: impl Fn(&'s RouteConfig, &'s RolloutConfig, Option<&'s View>) -> Vec<Metric>,
) -> Vec<Metric> {
    let of = |route: &'s RouteConfig| {
        let rollout = route.rollout.as_deref()?;
        Some(children(route, rollout, scrape.rollouts.get(&route.name).map(|view| &**view)))
    };
    scrape.ground.config.routes.iter().filter_map(of).flatten().collect()
}

pub fn phases(scrape: &Scrape) -> MetricFamily {
    let children = routes(scrape, |route, _, view| {
        let now = view.map(|view| view.status.phase);
        let paused = view.is_some_and(|view| view.status.pause.is_some());
        let phases = PHASES.iter().map(|(name, phase)| (*name, *phase == now));
        let phases = phases.chain([(PAUSED, paused)]);
        phases.map(|(name, is)| gauge(&PHASE, &[&route.name, name], f64::from(u8::from(is)))).collect()
    });
    family(&PHASE, children)
}

pub fn steps(scrape: &Scrape) -> MetricFamily {
    let children = routes(scrape, |route, _, view| {
        vec![gauge(&STEP, &[&route.name], view.map_or(0.0, |view| view.status.step as f64))]
    });
    family(&STEP, children)
}

pub fn values(scrape: &Scrape) -> MetricFamily {
    let children = routes(scrape, |route, rollout, view| {
        let mut children = Vec::new();
        for metric in rollout.metrics() {
            for variant in &route.variants {
                let value = view.and_then(|view| value(view, &metric, &variant.name)).unwrap_or(0.0);
                children.push(gauge(&VALUE, &[&route.name, &metric, &variant.name], value));
            }
        }
        children
    });
    family(&VALUE, children)
}

pub fn limits(scrape: &Scrape) -> MetricFamily {
    let children = routes(scrape, |route, rollout, view| {
        let limit = |metric: &String| {
            let limit = view.and_then(|view| judged(view, metric).find_map(|(_, one)| plain(one, one.limit)));
            gauge(&LIMIT, &[&route.name, metric], limit.unwrap_or(0.0))
        };
        rollout.metrics().iter().map(limit).collect()
    });
    family(&LIMIT, children)
}

pub fn verdicts(scrape: &Scrape) -> MetricFamily {
    let children = routes(scrape, |route, _, view| {
        let judgements = view.into_iter().flat_map(|view| view.judgements.iter().flatten());
        let worst = judgements.map(|judgement| judgement.verdict).min();
        let child = |(name, verdict): &(&str, Verdict)| {
            gauge(&VERDICT, &[&route.name, name], f64::from(u8::from(worst == Some(*verdict))))
        };
        VERDICTS.iter().map(child).collect()
    });
    family(&VERDICT, children)
}

/// A metric of each candidate that was judged by it.
fn judged<'v>(view: &'v View, metric: &'v str) -> impl Iterator<Item = (&'v str, &'v MetricVerdict)> {
    let judgements = view.judgements.iter().enumerate();
    judgements.filter_map(move |(at, judgement)| {
        let metric = judgement.as_ref()?.metrics.iter().find(|one| one.name == metric)?;
        Some((view.plan.name_of(at), metric))
    })
}

fn value(view: &View, metric: &str, variant: &str) -> Option<f64> {
    if view.plan.variants.first().is_some_and(|baseline| baseline == variant) {
        return judged(view, metric).find_map(|(_, one)| plain(one, one.baseline));
    }
    judged(view, metric).find(|(name, _)| *name == variant).and_then(|(_, one)| plain(one, one.candidate))
}

/// Seconds instead of milliseconds.
fn plain(metric: &MetricVerdict, value: Option<f64>) -> Option<f64> {
    let value = value.filter(|value| value.is_finite())?;
    Some(if metric.unit == crate::judge::Unit::Milliseconds { value / 1000.0 } else { value })
}
