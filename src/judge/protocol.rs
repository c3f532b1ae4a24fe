//! The judge as a filter of lines: one JSON document a check in, one answer out. For replaying releases of the past,
//! and for tests of the judge from outside. Reads text and makes text; who moves it is not known here.
//!
//! Read by hand from the JSON tree, so that an error says what was meant. Python writes `NaN` where JSON has nothing;
//! it counts as `null`.

use super::{
    Bound, Buckets, Check, Counts, Judge, Judgement, NoData, Policy, PolicyError, Quantile, Sample, Scalar, Share,
    Verdict,
};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::time::Duration;

/// What a policy may say here; what is left out is as in the defaults.
const POLICY_KEYS: [&str; 10] = [
    "false_rollback",
    "error_ratio",
    "error_limit",
    "latency_quantile",
    "latency_ratio",
    "latency_limit_ms",
    "custom_max_ratio",
    "custom_min_ratio",
    "min_requests",
    "warm_up_s",
];

/// Beyond this, JSON numbers are not exact.
const MOST: f64 = 9_007_199_254_740_992.0;

const DEFAULT_INTERVAL_S: f64 = 10.0;
const DEFAULT_QUANTILE: f64 = 0.99;
const DEFAULT_LATENCY_RATIO: f64 = 1.2;
/// Judged beside the policy's own: a p99 needs many requests, and most slowness shows earlier.
const SECOND_QUANTILE: f64 = 0.9;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProtocolError {
    #[error("not JSON: {0}")]
    Syntax(String),
    #[error("{place}: {problem}")]
    Value { place: String, problem: String },
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

type Result<T, E = ProtocolError> = std::result::Result<T, E>;

fn bad<T>(place: &str, problem: impl Into<String>) -> Result<T> {
    Err(ProtocolError::Value { place: place.to_owned(), problem: problem.into() })
}

/// What a reset line's policy is laid over: the keys of a file, or nothing.
#[derive(Clone, Debug, Default)]
pub struct BasePolicy(Map<String, Value>);

impl BasePolicy {
    /// From an object with the keys of a reset line's policy; a key that is none of them is an error.
    pub fn new(policy: Value) -> Result<BasePolicy> {
        let Value::Object(keys) = policy else { return bad("policy", "not an object") };
        if let Some(key) = keys.keys().find(|key| !POLICY_KEYS.contains(&key.as_str())) {
            return bad(key, format!("not a key of a policy; those are {}", POLICY_KEYS.join(", ")));
        }
        policy_of(&keys, true)?.check()?;
        Ok(BasePolicy(keys))
    }
}

/// Judges one stream of lines. The first lines need no reset: they are judged by the base policy, without latency.
#[derive(Debug)]
pub struct Replay {
    base: BasePolicy,
    judge: Judge,
    buckets: Option<Buckets>,
    interval: Duration,
    now: Duration,
    has_scalar: bool,
    warnings: Vec<String>,
}

impl Replay {
    pub fn new(base: BasePolicy) -> Result<Replay> {
        let policy = policy_of(&base.0, false)?;
        Ok(Replay {
            judge: Judge::new(&policy, None, Duration::ZERO)?,
            base,
            buckets: None,
            interval: Duration::from_secs_f64(DEFAULT_INTERVAL_S),
            now: Duration::ZERO,
            has_scalar: !policy.scalars.is_empty(),
            warnings: Vec::new(),
        })
    }

    /// The answer to a check, as a line without its end; None for a reset and an empty line.
    pub fn line(&mut self, line: &str) -> Result<Option<String>> {
        if line.trim().is_empty() {
            return Ok(None);
        }
        let tree: Value = serde_json::from_str(&without_nan(line)).map_err(|e| ProtocolError::Syntax(e.to_string()))?;
        let Value::Object(tree) = tree else { return bad("line", "not an object") };
        match tree.get("reset") {
            Some(Value::Bool(true)) => self.reset(&tree).map(|()| None),
            Some(_) => bad("reset", "must be true"),
            None => self.check(&tree).map(|judgement| Some(answer(&judgement))),
        }
    }

    /// What was strange in the last line, and went on.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn reset(&mut self, tree: &Map<String, Value>) -> Result<()> {
        let mut keys = self.base.0.clone();
        match tree.get("policy") {
            None | Some(Value::Null) => {}
            Some(Value::Object(policy)) => {
                for (key, value) in policy {
                    if !POLICY_KEYS.contains(&key.as_str()) {
                        self.warnings.push(format!("policy.{key}: not a key of a policy, ignored"));
                    }
                    keys.insert(key.clone(), value.clone());
                }
            }
            Some(_) => return bad("policy", "not an object"),
        }
        let has_latency = match tree.get("has_latency") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(has)) => *has,
            Some(_) => return bad("has_latency", "not true or false"),
        };
        let interval_s = match tree.get("interval_s") {
            None => DEFAULT_INTERVAL_S,
            Some(value) => number(value, "interval_s")?,
        };
        if !(interval_s > 0.0 && interval_s <= 86_400.0) {
            return bad("interval_s", "must be above 0 and at most 86,400");
        }
        let buckets = has_latency.then(|| buckets_of(tree.get("latency_buckets_ms"))).transpose()?;
        let policy = policy_of(&keys, has_latency)?;
        self.judge = Judge::new(&policy, buckets, Duration::ZERO)?;
        (self.buckets, self.now) = (buckets, Duration::ZERO);
        self.interval = Duration::from_secs_f64(interval_s);
        self.has_scalar = !policy.scalars.is_empty();
        Ok(())
    }

    fn check(&mut self, tree: &Map<String, Value>) -> Result<Judgement> {
        let weight = share(tree.get("w"), "w")?;
        let next = match tree.get("next_w") {
            None | Some(Value::Null) => Share::FULL,
            value => share(value, "next_w")?,
        };
        let warm = match tree.get("warm") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(warm)) => *warm,
            Some(_) => return bad("warm", "not true or false"),
        };
        let candidate = self.counts(tree, "c", "cl")?;
        let baseline = self.counts(tree, "s", "sl")?;
        let scalars = if self.has_scalar { vec![sample(tree)?] } else { Vec::new() };
        self.now = self.now.saturating_add(self.interval);
        let check = Check { weight, next, candidate, baseline, warm, scalars };
        Ok(self.judge.check(&check, self.now))
    }

    fn counts(&self, tree: &Map<String, Value>, counts: &str, histogram: &str) -> Result<Counts> {
        let [requests, failures] = match tree.get(counts) {
            None => return bad(counts, "missing; [requests, failed]"),
            Some(Value::Array(list)) => match list.as_slice() {
                [requests, failed] => [count(requests, counts)?, count(failed, counts)?],
                _ => return bad(counts, "must be [requests, failed]"),
            },
            Some(_) => return bad(counts, "must be [requests, failed]"),
        };
        if failures > requests {
            return bad(counts, format!("{failures} failed of {requests} requests"));
        }
        let histogram = match (&self.buckets, tree.get(histogram)) {
            (Some(buckets), Some(Value::Array(flat))) => dense(flat, buckets.count(), histogram)?,
            (Some(_), Some(other)) if !other.is_null() => return bad(histogram, "must be [bucket, count, ..]"),
            _ => Vec::new(),
        };
        Ok(Counts { requests, failures, histogram, ..Counts::default() })
    }
}

fn policy_of(keys: &Map<String, Value>, has_latency: bool) -> Result<Policy> {
    let given = |key: &str| match keys.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => number(value, &format!("policy.{key}")).map(Some),
    };
    let mut policy = Policy::default();
    policy.false_rollback = given("false_rollback")?.unwrap_or(policy.false_rollback);
    policy.errors.max_ratio = given("error_ratio")?.unwrap_or(policy.errors.max_ratio);
    policy.errors.max = given("error_limit")?.unwrap_or(policy.errors.max);
    if let Some(value) = keys.get("min_requests").filter(|value| !value.is_null()) {
        policy.min_requests = count(value, "policy.min_requests")?;
    }
    if let Some(seconds) = given("warm_up_s")? {
        policy.warm_up = match (0.0..=86_400.0).contains(&seconds) {
            true => Duration::from_secs_f64(seconds),
            false => return bad("policy.warm_up_s", "must be 0 to 86,400"),
        };
    }
    let quantile = given("latency_quantile")?.unwrap_or(DEFAULT_QUANTILE);
    let max_ratio = given("latency_ratio")?.unwrap_or(DEFAULT_LATENCY_RATIO);
    let max_ms = given("latency_limit_ms")?;
    if has_latency {
        policy.quantiles.push(Quantile { quantile, max_ratio, max_ms });
        if quantile != SECOND_QUANTILE {
            policy.quantiles.push(Quantile { quantile: SECOND_QUANTILE, max_ratio, max_ms: None });
        }
    }
    for (key, bound) in
        [("custom_max_ratio", Bound::MaxRatio as fn(f64) -> Bound), ("custom_min_ratio", Bound::MinRatio)]
    {
        if let Some(ratio) = given(key)? {
            policy.scalars.push(Scalar { name: "custom".to_owned(), bound: bound(ratio), no_data: NoData::Hold });
        }
    }
    if policy.scalars.len() > 1 {
        return bad("policy", "custom_max_ratio and custom_min_ratio exclude each other");
    }
    Ok(policy)
}

fn buckets_of(value: Option<&Value>) -> Result<Buckets> {
    let place = "latency_buckets_ms";
    let Some(Value::Object(tree)) = value else { return bad(place, r#"missing; {"first", "growth", "count"}"#) };
    let part = |key: &str| match tree.get(key) {
        Some(value) => number(value, &format!("{place}.{key}")),
        None => bad(place, format!("{key} is missing")),
    };
    let (first, growth) = (part("first")?, part("growth")?);
    let number = tree.get("count").map_or_else(|| bad(place, "count is missing"), |value| count(value, place))?;
    Ok(Buckets::new(first, growth, usize::try_from(number).unwrap_or(usize::MAX))?)
}

fn number(value: &Value, place: &str) -> Result<f64> {
    match value.as_f64() {
        Some(number) if number.is_finite() => Ok(number),
        _ => bad(place, format!("{value} is not a number")),
    }
}

fn share(value: Option<&Value>, place: &str) -> Result<Share> {
    let Some(value) = value else { return bad(place, "missing") };
    match Share::new(number(value, place)?) {
        Some(share) => Ok(share),
        None => bad(place, format!("{value} is not a share from 0 to 1")),
    }
}

/// A whole number, 0 to 2^53; `5.0` and `1e9` are whole too.
fn count(value: &Value, place: &str) -> Result<u64> {
    let number = number(value, place)?;
    match (0.0..=MOST).contains(&number) && number.fract() == 0.0 {
        true => Ok(number as u64),
        false => bad(place, format!("{value} is not a count from 0 to 2^53")),
    }
}

/// A missing key: no sample was due. `null`: there was one to be had, and it was not.
fn sample(tree: &Map<String, Value>) -> Result<Option<Sample>> {
    let value = |key: &str| match tree.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => number(value, key).map(Some),
    };
    let sample = Sample { candidate: value("cv")?, baseline: value("sv")? };
    Ok((tree.contains_key("cv") || tree.contains_key("sv")).then_some(sample))
}

fn dense(flat: &[Value], buckets: usize, place: &str) -> Result<Vec<u64>> {
    if flat.len() % 2 == 1 {
        return bad(place, "a bucket without its count");
    }
    let mut histogram = vec![0_u64; buckets];
    for entry in flat.chunks_exact(2) {
        let (bucket, requests) = (count(&entry[0], place)?, count(&entry[1], place)?);
        let Some(place) = usize::try_from(bucket).ok().and_then(|bucket| histogram.get_mut(bucket)) else {
            return bad(place, format!("bucket {bucket} of {buckets}"));
        };
        *place = place.saturating_add(requests);
    }
    Ok(histogram)
}

fn answer(judgement: &Judgement) -> String {
    let verdict = match judgement.verdict {
        Verdict::Pass => "promote",
        Verdict::Hold => "hold",
        Verdict::Fail => "rollback",
    };
    let mut answer = json!({ "verdict": verdict, "reason": judgement.reason, "metrics": judgement.metrics });
    if let Some(alarm) = &judgement.alarm {
        answer["alarm"] = json!(alarm);
    }
    answer.to_string()
}

/// The line with `NaN`, `Infinity` and `-Infinity` that stand outside strings as `null`.
fn without_nan(line: &str) -> Cow<'_, str> {
    if !line.contains("NaN") && !line.contains("Infinity") {
        return Cow::Borrowed(line);
    }
    let mut clean = String::with_capacity(line.len());
    let (mut rest, mut quoted) = (line, false);
    while let Some(c) = rest.chars().next() {
        let word = ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| !quoted && rest.starts_with(word));
        let length = match (word, c) {
            (Some(word), _) => word.len(),
            (None, '\\') if quoted => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            (None, c) => c.len_utf8(),
        };
        clean.push_str(if word.is_some() { "null" } else { &rest[..length] });
        quoted ^= c == '"';
        rest = &rest[length..];
    }
    Cow::Owned(clean)
}
