//! What a rollout is judged by: the workers' counts of its variants since the last look, and a judge for each candidate.

use crate::boundary::judged::{Judged, JudgedTotal, JudgedVariant, Poke};
use crate::config::RouteConfig;
use crate::config::rollout::RolloutConfig;
use crate::judge::{Buckets, Check, Counts, Judge, Judgement, Policy, Tally};
use crate::limits::{JUDGED_BUCKETS, JUDGED_FIRST_US, JUDGED_GROWTH, JUDGED_QUANTILES};
use crate::rollout::{Asked, Machine, Now, Plan};
use std::sync::Arc;
use std::time::Duration;

/// Of one rollout.
pub struct Evidence {
    pub judged: Arc<Judged>,
    /// By the plan's variants.
    candidates: Vec<Candidate>,
    run: u32,
}

struct Candidate {
    /// None: nothing is judged, failures are counted.
    policy: Option<Policy>,
    judge: Option<Judge>,
    /// At the last look: its own counts and the baseline's.
    last: Option<[JudgedTotal; 2]>,
    /// For which of the policy's quantiles slow requests were counted since.
    slow_known: [bool; JUDGED_QUANTILES],
    judgement: Option<Judgement>,
}

impl Evidence {
    /// None where neither is judged nor failures are counted.
    pub fn of(
        plan: &Plan,
        config: &RolloutConfig,
        route: &RouteConfig,
        workers: usize,
        poke: &Arc<Poke>,
    ) -> Option<Evidence> {
        if plan.analysis.is_none() && plan.max_failures.is_none() {
            return None;
        }
        let sticky = route.sticky.is_some();
        let variant = |(at, name): (usize, &String)| {
            let poke = (at > 0).then(|| Arc::clone(poke));
            (name.clone(), Arc::new(JudgedVariant::new(workers, sticky, poke)))
        };
        let variants = plan.variants.iter().enumerate().map(variant).collect();
        let others = u32::try_from(plan.variants.len() - 1).unwrap_or(u32::MAX);
        let candidate = |name: &String| {
            let policy = plan.analysis.and_then(|_| config.policy(&plan.variants[0], name, others));
            Candidate {
                policy: policy.map(|policy| Policy { check_split: !sticky, ..policy }),
                judge: None,
                last: None,
                slow_known: [false; JUDGED_QUANTILES],
                judgement: None,
            }
        };
        let candidates = plan.variants.iter().map(candidate).collect();
        Some(Evidence { judged: Arc::new(Judged { variants }), candidates, run: 0 })
    }

    /// The last judgement of a variant of the plan.
    pub fn judgement(&self, variant: usize) -> Option<&Judgement> {
        self.candidates.get(variant)?.judgement.as_ref()
    }

    /// Judges every candidate that has users by what came since the last look, and tells the machine.
    pub fn look(&mut self, machine: &mut Machine, now: Now) {
        if machine.stamp().run != self.run {
            self.run = machine.stamp().run;
            for candidate in &mut self.candidates {
                (candidate.judge, candidate.last, candidate.judgement) = (None, None, None);
            }
        }
        for asked in machine.asked() {
            let stamp = machine.stamp();
            if stamp.run != self.run {
                return;
            }
            let (own, baseline) = (&self.judged.variants[asked.variant].1, &self.judged.variants[0].1);
            let candidate = &mut self.candidates[asked.variant];
            let [counts, of_baseline] = candidate.since_last(own, baseline);
            let tallies = [&counts, &of_baseline].map(|counts| Tally { total: counts.requests, bad: counts.failures });
            // First, so that what led to a failing verdict is counted, too.
            machine.handle_counts(stamp.run, asked.variant, tallies[0], tallies[1], now);
            if let Some(judgement) = candidate.check(asked, counts, of_baseline, now) {
                machine.handle_verdict(stamp, asked.variant, &judgement, now);
                candidate.watch(own, baseline);
                candidate.judgement = Some(judgement);
            }
        }
    }
}

impl Candidate {
    fn since_last(&mut self, own: &JudgedVariant, baseline: &JudgedVariant) -> [Counts; 2] {
        let totals = [own.total(), baseline.total()];
        // Counting begins with the judge: what was served before says nothing of the run.
        let last = self.last.replace(totals.clone()).unwrap_or_else(|| totals.clone());
        let quantiles = self.policy.as_ref().map_or(0, |policy| policy.quantiles.len()).min(JUDGED_QUANTILES);
        let known = &self.slow_known[..quantiles];
        [counts(&totals[0], &last[0], known), counts(&totals[1], &last[1], known)]
    }

    fn check(&mut self, asked: Asked, candidate: Counts, baseline: Counts, now: Now) -> Option<Judgement> {
        let policy = self.policy.as_ref()?;
        let time = Duration::from_millis(now.mono_ms);
        if self.judge.is_none() {
            match Judge::new(policy, Some(buckets()), time) {
                Ok(judge) => self.judge = Some(judge),
                Err(error) => {
                    tracing::error!(%error, "a candidate can't be judged");
                    self.policy = None;
                    return None;
                }
            }
        }
        let check = Check {
            weight: asked.weight,
            next: asked.next,
            candidate,
            baseline,
            warm: false,
            scalars: vec![None; policy.scalars.len()],
        };
        self.judge.as_mut().map(|judge| judge.check(&check, time))
    }

    /// From now on requests are slow above what the judge knows by now.
    fn watch(&mut self, own: &JudgedVariant, baseline: &JudgedVariant) {
        let Some(judge) = &self.judge else { return };
        let thresholds = judge.thresholds();
        let us = |ms: f64| (ms * 1000.0) as u64;
        let above = |of: fn(&crate::judge::Thresholds) -> f64| {
            thresholds.iter().map(|one| one.as_ref().map(|one| us(of(one)))).collect::<Vec<_>>()
        };
        own.slow_above(&above(|one| one.candidate_ms));
        baseline.slow_above(&above(|one| one.baseline_ms));
        self.slow_known = std::array::from_fn(|at| thresholds.get(at).is_some_and(Option::is_some));
    }
}

/// As [`crate::boundary::judged::bucket`] has them.
fn buckets() -> Buckets {
    Buckets::new(JUDGED_FIRST_US as f64 / 1000.0, JUDGED_GROWTH, JUDGED_BUCKETS).expect("the limits are good buckets")
}

/// What came between two looks. Workers count while they are summed: a failure may be there a moment before its request,
/// and counts as one then.
fn counts(now: &JudgedTotal, last: &JudgedTotal, slow_known: &[bool]) -> Counts {
    let failures = now.failures.saturating_sub(last.failures);
    let slow = |(at, known): (usize, &bool)| {
        let ((slow, all), (slow_before, all_before)) = (now.slow[at], last.slow[at]);
        let bad = slow.saturating_sub(slow_before);
        // Without a threshold nothing was slow, which is no evidence.
        if *known { Tally { total: all.saturating_sub(all_before).max(bad), bad } } else { Tally::default() }
    };
    let histogram = now.durations.iter().zip(last.durations.iter());
    Counts {
        requests: now.requests.saturating_sub(last.requests).max(failures),
        failures,
        slow: slow_known.iter().enumerate().map(slow).collect(),
        histogram: histogram.map(|(now, last)| now.saturating_sub(*last)).collect(),
        counts: Vec::new(),
    }
}
