//! What a candidate is judged by: metrics that Weir counts itself, and numbers from elsewhere.

use super::Checker;
use crate::config::cursor::word;
use crate::config::raw::rollout::{self as written, Limit};
use crate::config::rollout::{AnalysisConfig, Prometheus, ScalarConfig};
use crate::config::source::At;
use crate::config::units;
use crate::judge::{Bound, ERROR_RATE, Errors, NoData, Quantile};
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(10);
const MIN_REQUESTS: u64 = 20;
const FALSE_ROLLBACK: f64 = 0.01;
const ERRORS: Errors = Errors { max_ratio: 1.5, max: 0.01 };
const LATENCY_RATIO: f64 = 1.2;
/// Where no metric is named.
const QUANTILES: [f64; 2] = [0.99, 0.9];
const PROMETHEUS_TIMEOUT: Duration = Duration::from_secs(5);
const SUCCESS_RATE: &str = "success-rate";
const MOST_METRICS: usize = 32;

impl Checker<'_> {
    pub(super) fn metrics(&mut self, raw: &written::Analysis) -> Option<AnalysisConfig> {
        let before = self.findings.len();
        let false_rollback = raw.false_rollback.as_ref().map(|share| self.false_rollback(share, &raw.path));
        let mut analysis = AnalysisConfig {
            interval: raw.interval.as_ref().map_or(INTERVAL, |interval| interval.value),
            min_requests: raw.min_requests.as_ref().map_or(MIN_REQUESTS, |least| least.value),
            warm_up: raw.warm_up.as_ref().map_or(Duration::ZERO, |warm| warm.value),
            false_rollback: false_rollback.unwrap_or(FALSE_ROLLBACK),
            errors: ERRORS,
            quantiles: Vec::new(),
            scalars: Vec::new(),
        };
        if raw.metrics.is_empty() {
            let quantile = |quantile| Quantile { quantile, max_ratio: LATENCY_RATIO, max_ms: None };
            analysis.quantiles = QUANTILES.map(quantile).to_vec();
        }
        if raw.metrics.len() > MOST_METRICS {
            let message = format!("`{}` has {} metrics, more than {MOST_METRICS}", raw.path, raw.metrics.len());
            self.findings.error("out-of-range", raw.metrics[MOST_METRICS].place, message);
            return None;
        }
        self.unique("metric", raw.metrics.iter().filter_map(|metric| metric.name.as_ref()));
        for metric in &raw.metrics {
            self.metric(metric, &mut analysis);
        }
        (self.findings.len() == before).then_some(analysis)
    }

    fn metric(&mut self, raw: &written::Metric, analysis: &mut AnalysisConfig) {
        let Some(name) = &raw.name else { return };
        let quantile = name.value.strip_prefix('p').and_then(|number| number.parse::<f64>().ok());
        match (name.value.as_str(), quantile) {
            (ERROR_RATE | SUCCESS_RATE, _) => self.error_rate(raw, name, &mut analysis.errors),
            (_, Some(percent)) => analysis.quantiles.extend(self.quantile(raw, name, percent)),
            _ => analysis.scalars.extend(self.scalar(raw, name)),
        }
    }

    /// `max` of the error rate, `min` of its counterpart: both are one metric of the judge.
    fn error_rate(&mut self, raw: &written::Metric, name: &At<String>, errors: &mut Errors) {
        self.only(raw, name, &["max", "min", "max_ratio_to_stable"]);
        let of_success = name.value == SUCCESS_RATE;
        let (limit, key) = if of_success { (&raw.min, "min") } else { (&raw.max, "max") };
        let wrong = if of_success { &raw.max } else { &raw.min };
        if let Some(limit) = wrong {
            let (key, other) = if of_success { ("max", "min") } else { ("min", "max") };
            let message = format!("`{}` has no `{key}` for {}", raw.path, name.shown());
            self.findings.error("contradiction", place(limit), message).help(format!("write {other}"));
        }
        if let Some(limit) = limit {
            let share = match limit {
                Limit::Text(text) => share(&text.value).map(|share| if of_success { 1.0 - share } else { share }),
                Limit::Number(_) => None,
            };
            match share.filter(|share| *share > 0.0 && *share <= 1.0) {
                Some(share) => errors.max = share,
                None => {
                    let message = format!("`{}.{key}` of {} is not a percentage", raw.path, name.shown());
                    let example = if of_success { "min = \"99%\"" } else { "max = \"1%\"" };
                    self.findings.error("bad-value", place(limit), message).help(format!("write {example}"));
                }
            }
        }
        errors.max_ratio = self.ratio(raw).unwrap_or(errors.max_ratio);
    }

    fn quantile(&mut self, raw: &written::Metric, name: &At<String>, percent: f64) -> Option<Quantile> {
        self.only(raw, name, &["max", "max_ratio_to_stable"]);
        if !(1.0..=99.9).contains(&percent) || (percent * 10.0 - (percent * 10.0).round()).abs() > 1e-6 {
            self.findings.error("bad-value", name.place, format!("{} is no quantile from p1 to p99.9", name.shown()));
            return None;
        }
        let max_ms = match &raw.max {
            None => None,
            Some(limit) => {
                let duration = match limit {
                    Limit::Text(text) => units::duration(&text.value).ok().filter(|limit| !limit.is_zero()),
                    Limit::Number(_) => None,
                };
                if duration.is_none() {
                    let message = format!("`{}.max` of {} is not a duration", raw.path, name.shown());
                    self.findings.error("bad-value", place(limit), message).help("write max = \"500ms\"");
                }
                duration.map(|limit| limit.as_secs_f64() * 1000.0)
            }
        };
        let max_ratio = self.ratio(raw).unwrap_or(LATENCY_RATIO);
        Some(Quantile { quantile: (percent * 10.0).round() / 1000.0, max_ratio, max_ms })
    }

    fn scalar(&mut self, raw: &written::Metric, name: &At<String>) -> Option<ScalarConfig> {
        self.name("metric", name);
        let Some(from) = &raw.from else {
            let message = format!("Weir does not measure {} itself", name.shown());
            let finding = self.findings.error("missing-key", name.place, message);
            finding
                .help("Weir has \"error-rate\", \"success-rate\" and \"p99\"; others say prometheus = { url, query }");
            return None;
        };
        let number = |limit: &Option<Limit>| match limit {
            Some(Limit::Number(number)) => Some(number.value),
            Some(Limit::Text(text)) => text.value.parse().ok(),
            None => None,
        };
        let bounds = [
            number(&raw.max).map(Bound::Max),
            number(&raw.min).map(Bound::Min),
            self.ratio(raw).map(Bound::MaxRatio),
            raw.min_ratio.as_ref().map(|ratio| Bound::MinRatio(ratio.value)),
        ];
        if let Some(ratio) = raw.min_ratio.as_ref().filter(|ratio| !(ratio.value > 0.0 && ratio.value <= 1.0)) {
            self.beyond(ratio.place, &format!("{}.min_ratio_to_stable", raw.path), "above 0 and at most 1");
        }
        let given: Vec<Bound> = bounds.into_iter().flatten().collect();
        let [bound] = given.as_slice() else {
            let message = format!(
                "{} must have one of `max`, `min`, `max_ratio_to_stable` and `min_ratio_to_stable`",
                name.shown()
            );
            self.findings.error("bad-rollout", raw.place, message).help("such as min_ratio_to_stable = 0.9");
            return None;
        };
        let no_data = raw.no_data.as_ref();
        let no_data = no_data
            .and_then(|no_data| word(self.findings, no_data, &format!("{}.no_data", raw.path), &["hold", "fail"]));
        let url = self.http_url(from.url.as_ref()?, &format!("{}.prometheus.url", raw.path))?;
        Some(ScalarConfig {
            name: name.value.clone(),
            bound: *bound,
            no_data: if no_data == Some(1) { NoData::Breach } else { NoData::Hold },
            source: Prometheus {
                url,
                query: from.query.as_ref()?.value.clone(),
                timeout: from.timeout.as_ref().map_or(PROMETHEUS_TIMEOUT, |timeout| timeout.value),
            },
        })
    }

    fn ratio(&mut self, raw: &written::Metric) -> Option<f64> {
        let ratio = raw.max_ratio.as_ref()?;
        if !(1.0..=1000.0).contains(&ratio.value) {
            self.beyond(ratio.place, &format!("{}.max_ratio_to_stable", raw.path), "from 1 to 1000");
            return None;
        }
        Some(ratio.value)
    }

    /// Keys that mean nothing for a metric of Weir's own.
    fn only(&mut self, raw: &written::Metric, name: &At<String>, known: &[&str]) {
        let given = [
            ("min", raw.min.as_ref().map(place)),
            ("min_ratio_to_stable", raw.min_ratio.as_ref().map(|one| one.place)),
            ("no_data", raw.no_data.as_ref().map(|one| one.place)),
            ("prometheus", raw.from.as_ref().map(|one| one.place)),
        ];
        for (key, place) in given {
            if let Some(place) = place.filter(|_| !known.contains(&key)) {
                let message = format!("`{}.{key}` means nothing for {}", raw.path, name.shown());
                self.findings.error("contradiction", place, message);
            }
        }
    }

    fn false_rollback(&mut self, written: &At<String>, path: &str) -> f64 {
        match share(&written.value).filter(|share| *share > 0.0 && *share <= 0.5) {
            Some(share) => share,
            None => {
                let message =
                    format!("`{path}.false_rollback` is {}, not a percentage above 0 and up to 50", written.shown());
                self.findings.error("bad-value", written.place, message).help("write false_rollback = \"1%\"");
                FALSE_ROLLBACK
            }
        }
    }
}

fn place(limit: &Limit) -> crate::config::source::Place {
    match limit {
        Limit::Text(text) => text.place,
        Limit::Number(number) => number.place,
    }
}

/// `"1%"`, `"0.1%"` as a share.
fn share(text: &str) -> Option<f64> {
    let percent: f64 = text.strip_suffix('%')?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}
