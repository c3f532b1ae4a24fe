//! A route's `rollout`: steps that rise, limits that are numbers, names that exist.

use super::Checker;
use super::routes::Names;
use crate::config::cursor::word;
use crate::config::raw::{self, rollout as written};
use crate::config::rollout::{RolloutConfig, Smoke, Webhook, WebhookOn};
use crate::config::source::{At, Place};
use crate::limits::BUCKETS;
use crate::rollout::{Freeze, MaxHold, Reaction, Shares, Stay, Step, Strategy};
use crate::routing::split::Weight;
use std::time::Duration;

const SMOKE_TIMEOUT: Duration = Duration::from_secs(5);
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);
const REACTIONS: [&str; 2] = ["rollback", "pause"];
/// Far beyond what anybody writes.
const MOST: usize = 1000;

impl Checker<'_> {
    /// The inner None: the route has none.
    pub(super) fn rollout(&mut self, raw: &raw::Route, names: &[&str]) -> Option<Option<RolloutConfig>> {
        let Some(rollout) = &raw.rollout else { return Some(None) };
        if names.len() < 2 {
            if raw.variants.is_some() {
                let message = format!("{} has a rollout and one variant", raw.path);
                let help = "variants = { stable = \"POOL\", canary = \"OTHER-POOL\" }";
                self.findings.error("bad-rollout", rollout.place, message).help(help);
            }
            return None;
        }
        let names = Names { route: &raw.path, variants: names.to_vec() };
        self.whole_rollout(rollout, &names).map(Some)
    }

    fn whole_rollout(&mut self, raw: &written::Rollout, names: &Names<'_>) -> Option<RolloutConfig> {
        let path = raw.path.as_str();
        let before = self.findings.len();
        let strategy = match &raw.strategy {
            None => Strategy::Canary,
            Some(written) => {
                match word(self.findings, written, &format!("{path}.strategy"), &["canary", "blue-green"]) {
                    Some(1) => Strategy::BlueGreen,
                    _ => Strategy::Canary,
                }
            }
        };
        self.of_strategy(raw, strategy, names);
        let (steps, last) = self.steps(raw, names);
        let keep_old = self.keep_old(raw, last.as_ref());
        let winner = match (&raw.winner, names.variants.len()) {
            (Some(winner), _) => self.winner(winner, names),
            (None, 2) => Some(1),
            (None, _) => None,
        };
        let on_failure = self.reaction(raw.on_failure.as_ref(), &format!("{path}.on_failure"), Reaction::Rollback);
        let max_hold = raw.max_hold.as_ref().and_then(|hold| {
            let then = self.reaction(hold.then.as_ref(), &format!("{path}.max_hold.then"), Reaction::Pause);
            Some(MaxHold { after_ms: ms(hold.after.as_ref()?.value), then })
        });
        let rollout = RolloutConfig {
            strategy,
            steps,
            keep_old,
            on_failure,
            max_failures: raw.max_failures.as_ref().map(|most| most.value),
            max_time: raw.max_time.as_ref().map(|most| most.value),
            max_hold,
            freeze: self.freeze(raw.freeze.as_ref(), path),
            winner,
            auto_promote: raw.auto_promote.as_ref().is_some_and(|auto| auto.value),
            smoke: raw.smoke.iter().flat_map(|list| &list.value).filter_map(|smoke| self.smoke(smoke)).collect(),
            analysis: raw.analysis.as_ref().and_then(|analysis| self.metrics(analysis)),
            webhooks: self.webhooks(&raw.webhooks),
        };
        (self.findings.len() == before).then_some(rollout)
    }

    /// What belongs to the other strategy, or what this one must have.
    fn of_strategy(&mut self, raw: &written::Rollout, strategy: Strategy, names: &Names<'_>) {
        let path = &raw.path;
        match strategy {
            Strategy::Canary => {
                if let Some(auto) = &raw.auto_promote {
                    let message = format!("`{path}.auto_promote` is of blue-green");
                    let help = "a canary goes on by itself, but for steps with pause = true";
                    self.findings.error("contradiction", auto.place, message).help(help);
                }
                if raw.steps.as_ref().is_none_or(|steps| steps.value.is_empty()) {
                    let place = raw.steps.as_ref().map_or(raw.place, |steps| steps.place);
                    let help = "steps = [{ weight = 5, for = \"10m\" }, { weight = 50, for = \"10m\" }]";
                    self.findings.error("missing-key", place, format!("`{path}` has no steps")).help(help);
                }
            }
            Strategy::BlueGreen => {
                let given = [
                    ("steps", raw.steps.as_ref().map(|steps| steps.place)),
                    ("winner", raw.winner.as_ref().map(|winner| winner.place)),
                ];
                for (key, place) in given {
                    let Some(place) = place else { continue };
                    let message = format!("`{path}.{key}` is of a canary");
                    let help = "blue-green has everything in one switch; strategy = \"canary\" goes step by step";
                    self.findings.error("contradiction", place, message).help(help);
                }
                if names.variants.len() != 2 {
                    let message =
                        format!("{} has {} variants; blue-green is between two", names.route, names.variants.len());
                    self.findings.error("bad-rollout", raw.place, message);
                }
            }
        }
    }

    /// The steps before the last, and that one where it is written.
    fn steps(&mut self, raw: &written::Rollout, names: &Names<'_>) -> (Vec<Step>, Option<At<Duration>>) {
        let written = raw.steps.as_ref().map_or(&[][..], |steps| &steps.value);
        let mut steps = Vec::with_capacity(written.len());
        let mut before = vec![Weight::ZERO; names.variants.len() - 1];
        if written.len() > MOST {
            let message = format!("`{}.steps` has {} steps, more than {MOST}", raw.path, written.len());
            self.findings.error("out-of-range", written[MOST].place, message);
            return (steps, None);
        }
        for (at, step) in written.iter().enumerate() {
            let Some(weights) = self.step_weights(step, &before, names) else { continue };
            let is_full = weights.iter().map(|weight| weight.thousandths()).sum::<u32>() == BUCKETS;
            if is_full && at + 1 == written.len() && weights.contains(&Weight::FULL) {
                return (steps, self.last_step(step));
            }
            self.rises(step, &before, &weights, names);
            if is_full {
                let message = format!("step {} of `{}` leaves the baseline nothing", at + 1, raw.path);
                let help = "everything to one variant is the last step; it need not be written";
                self.findings.error("bad-rollout", step.place, message).help(help);
                continue;
            }
            if let (Some(stay), Some(shares)) = (self.stay(step), Shares::of_candidates(&weights)) {
                steps.push(Step { weights: shares, stay });
            }
            before = weights;
        }
        (steps, None)
    }

    /// How long the old version is kept, if `{ weight = 100, for = … }` says so.
    fn last_step(&mut self, step: &written::Step) -> Option<At<Duration>> {
        if let Some(pause) = step.pause.as_ref().filter(|pause| pause.value != written::Pause::Flag(false)) {
            let message = format!("the last step of `{}` can't pause: nothing comes after it", step.path);
            self.findings
                .error("bad-rollout", pause.place, message)
                .help("`for` says how long the old version is kept");
        }
        step.stay.clone()
    }

    fn keep_old(&mut self, raw: &written::Rollout, last: Option<&At<Duration>>) -> Duration {
        match (&raw.keep_old, last) {
            (Some(keep), Some(last)) if keep.value != last.value => {
                let message = format!("`{}.keep_old` and the `for` of the last step differ", raw.path);
                let finding = self.findings.error("contradiction", keep.place, message);
                finding.other(last.place).help("both say how long the old version is kept: leave one of them out");
                keep.value
            }
            (Some(keep), _) => keep.value,
            (None, last) => last.map_or(Duration::ZERO, |last| last.value),
        }
    }

    /// The candidates' weights. Those that are not named keep what they had in the step before.
    fn step_weights(&mut self, step: &written::Step, before: &[Weight], names: &Names<'_>) -> Option<Vec<Weight>> {
        match (&step.weight, &step.weights) {
            (Some(weight), Some(weights)) => {
                let message = format!("a step of `{}` has both `weight` and `weights`", step.path);
                self.findings.error("contradiction", weight.place, message).other(weights.place);
                None
            }
            (Some(weight), None) if names.variants.len() > 2 => {
                let message = format!("`weight` does not say which of {} it is of", names.variants[1..].join(", "));
                let help = format!("weights = {{ {} = {} }}", names.variants[1], weight.value);
                self.findings.error("bad-rollout", weight.place, message).help(help);
                None
            }
            (Some(weight), None) => self.weight(weight).map(|weight| vec![weight]),
            (None, Some(weights)) => self.candidate_weights(weights, before, names),
            (None, None) if step.pause.is_some() => Some(before.to_vec()),
            (None, None) => {
                let message = format!("a step of `{}` has no `weight`", step.path);
                self.findings.error("missing-key", step.place, message).help("{ weight = 5, for = \"10m\" }");
                None
            }
        }
    }

    fn candidate_weights(&mut self, raw: &raw::Weights, before: &[Weight], names: &Names<'_>) -> Option<Vec<Weight>> {
        let mut weights: Vec<Option<Weight>> = vec![None; names.variants.len()];
        for (name, share) in &raw.shares {
            let index = self.variant(name, names);
            let weight = share.as_ref().and_then(|share| self.weight(share));
            weights[index?] = Some(weight?);
        }
        let candidates: Vec<Weight> =
            weights[1..].iter().zip(before).map(|(weight, before)| weight.unwrap_or(*before)).collect();
        let sum: u64 = candidates.iter().map(|weight| u64::from(weight.thousandths())).sum();
        let rest = u64::from(BUCKETS).checked_sub(sum);
        let fits = match (rest, weights[0]) {
            (Some(rest), Some(baseline)) => rest == u64::from(baseline.thousandths()),
            (rest, None) => rest.is_some(),
            (None, Some(_)) => false,
        };
        if !fits {
            let message = format!("a step of {}: the weights sum to more or less than 100", names.route);
            let help = format!("leave {} out: it has what the others leave", names.variants[0]);
            self.findings.error("weights-sum", raw.place, message).help(help);
            return None;
        }
        Some(candidates)
    }

    fn rises(&mut self, step: &written::Step, before: &[Weight], weights: &[Weight], names: &Names<'_>) {
        let fallen = before.iter().zip(weights).position(|(before, weight)| weight < before);
        if let Some(at) = fallen {
            let message = format!("a step gives `{}` {} % after {} %", names.variants[at + 1], weights[at], before[at]);
            let finding = self.findings.error("bad-rollout", step.place, message);
            finding.help("a rollout only rises; what takes traffic back is a rollback");
        }
    }

    fn stay(&mut self, step: &written::Step) -> Option<Stay> {
        let pause = step.pause.as_ref().map(|pause| pause.value);
        match (pause, &step.stay) {
            (Some(written::Pause::Flag(true) | written::Pause::For(_)), Some(stay)) => {
                let message = format!("a step of `{}` has both `pause` and `for`", step.path);
                let help = "pause = true waits until somebody promotes; `for` goes on by itself";
                self.findings.error("contradiction", stay.place, message).help(help);
                None
            }
            (Some(written::Pause::Flag(true)), None) => Some(Stay::UntilPromoted),
            (Some(written::Pause::For(stay)), None) => Some(Stay::For { ms: ms(stay) }),
            (_, Some(stay)) => Some(Stay::For { ms: ms(stay.value) }),
            (_, None) => Some(Stay::For { ms: 0 }),
        }
    }

    fn winner(&mut self, winner: &At<String>, names: &Names<'_>) -> Option<usize> {
        let index = self.variant(winner, names)?;
        if index == 0 {
            let message = format!("{} is the baseline and can't win a rollout", winner.shown());
            self.findings.error("bad-rollout", winner.place, message);
            return None;
        }
        Some(index)
    }

    fn reaction(&mut self, written: Option<&At<String>>, path: &str, default: Reaction) -> Reaction {
        match written.and_then(|written| word(self.findings, written, path, &REACTIONS)) {
            Some(0) => Reaction::Rollback,
            Some(_) => Reaction::Pause,
            None => default,
        }
    }

    fn freeze(&mut self, written: Option<&At<Vec<At<String>>>>, path: &str) -> Vec<(String, Freeze)> {
        let mut windows = Vec::new();
        for window in written.into_iter().flat_map(|list| &list.value).take(MOST) {
            match window.value.parse() {
                Ok(freeze) => windows.push((window.value.clone(), freeze)),
                Err(_) => {
                    let message = format!("{} in `{path}.freeze` is not a part of a week", window.shown());
                    let help =
                        "write \"fri 16:00 - mon 08:00\", in UTC, or with an offset: \"fri 16:00 - mon 08:00 +08:00\"";
                    self.findings.error("bad-value", window.place, message).help(help);
                }
            }
        }
        windows
    }

    fn smoke(&mut self, raw: &written::Smoke) -> Option<Smoke> {
        let get = raw.get.as_ref()?;
        let plain = |c: char| c.is_ascii_graphic() && c != '#';
        if !get.value.starts_with('/') || !get.value.chars().all(plain) {
            let message = format!("{} is not a path", get.shown());
            self.findings.error("bad-value", get.place, message).help("get = \"/healthz\"");
            return None;
        }
        let expect = raw.expect.as_ref().map_or(200, |status| status.value);
        let times = raw.times.as_ref().map_or(1, |times| times.value);
        Some(Smoke {
            get: get.value.clone(),
            expect: u16::try_from(expect).unwrap_or(200),
            times: u32::try_from(times).unwrap_or(1),
            timeout: raw.timeout.as_ref().map_or(SMOKE_TIMEOUT, |timeout| timeout.value),
        })
    }

    fn webhooks(&mut self, raw: &[written::Webhook]) -> Vec<Webhook> {
        let words: Vec<&'static str> = WebhookOn::WORDS.iter().map(|(word, _)| *word).collect();
        let mut webhooks: Vec<Webhook> = Vec::new();
        for (at, one) in raw.iter().take(MOST).enumerate() {
            let on = one.on.as_ref().and_then(|on| word(self.findings, on, &format!("{}.on", one.path), &words));
            let url = one.url.as_ref().and_then(|url| self.http_url(url, &format!("{}.url", one.path)));
            if let (Some(on), Some(url)) = (on, url) {
                let name = one.name.as_ref().map(|name| name.value.clone());
                webhooks.push(Webhook {
                    name: name.unwrap_or_else(|| format!("webhook {}", at + 1)),
                    on: WebhookOn::WORDS[on].1,
                    url,
                    timeout: one.timeout.as_ref().map_or(WEBHOOK_TIMEOUT, |timeout| timeout.value),
                    failures: one.failures.as_ref().map_or(1, |most| u32::try_from(most.value).unwrap_or(u32::MAX)),
                    secret: one.secret.as_ref().map(|secret| secret.value.clone()),
                });
            }
        }
        webhooks
    }

    /// `http://` or `https://` and a host.
    pub(super) fn http_url(&mut self, url: &At<String>, path: &str) -> Option<String> {
        let parsed: Option<http::Uri> = url.value.parse().ok();
        let valid = parsed.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
        });
        if !valid {
            let message = format!("`{path}` is {}, not an address of HTTP", url.shown());
            self.findings.error("bad-value", url.place, message).help("write \"http://127.0.0.1:9998/check\"");
            return None;
        }
        Some(url.value.clone())
    }

    /// A key whose value is out of the range that the judge takes.
    pub(super) fn beyond(&mut self, place: Place, path: &str, range: &str) {
        self.findings.error("out-of-range", place, format!("`{path}` is not {range}"));
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
