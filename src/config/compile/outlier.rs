//! A pool's `outlier`: what is looked for, and how many targets may be left out.

use super::Checker;
use crate::config::raw::outlier as raw;
use crate::config::source::At;
use crate::config::units::shown_duration;
use crate::routing::outlier::Outlier;
use crate::routing::recovery::Share;
use std::time::Duration;

const CONSECUTIVE: u32 = 5;
const SUCCESS_RATE_GAP: &str = "20%";
const INTERVAL: Duration = Duration::from_secs(10);
const MIN_REQUESTS: u32 = 100;
const EJECT_FOR: Duration = Duration::from_secs(30);
const MAX_EJECT_FOR: Duration = Duration::from_secs(300);
const MAX_EJECTED: &str = "50%";

impl Checker<'_> {
    pub(super) fn outlier(&mut self, pool: &str, raw: &raw::Outlier) -> Option<Outlier> {
        let path = format!("pool.{pool}.outlier");
        let count = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let in_a_row = |written: &Option<At<Option<u64>>>| match written {
            None => Some(CONSECUTIVE),
            Some(written) => written.value.map(count),
        };
        let after = |written: &Option<At<Duration>>, default| written.as_ref().map_or(default, |one| one.value);
        let (consecutive_5xx, consecutive_failures) =
            (in_a_row(&raw.consecutive_5xx), in_a_row(&raw.consecutive_failures));
        let gap = match &raw.success_rate_gap {
            Some(written) if written.value == "off" => Some(None),
            written => self.outlier_share(written.as_ref(), SUCCESS_RATE_GAP, &path, "success_rate_gap").map(Some),
        };
        let max_ejected = self.outlier_share(raw.max_ejected.as_ref(), MAX_EJECTED, &path, "max_ejected");
        let eject_for = after(&raw.eject_for, EJECT_FOR);
        let max_eject_for = after(&raw.max_eject_for, MAX_EJECT_FOR.max(eject_for));
        if let Some(most) = raw.max_eject_for.as_ref().filter(|most| most.value < eject_for) {
            let message = format!("`{path}.max_eject_for` is shorter than the first ejection");
            let help = format!("`eject_for` is {}", shown_duration(eject_for));
            self.findings.error("contradiction", most.place, message).help(help);
        }
        if consecutive_5xx.is_none() && consecutive_failures.is_none() && gap == Some(None) {
            let message = format!("`{path}` looks for nothing: all its signs are \"off\"");
            self.findings.error("contradiction", raw.place, message).help("leave it out");
        }
        Some(Outlier {
            consecutive_5xx,
            consecutive_failures,
            success_rate_gap: gap?,
            interval: after(&raw.interval, INTERVAL),
            min_requests: raw.min_requests.as_ref().map_or(MIN_REQUESTS, |least| count(least.value)),
            eject_for,
            max_eject_for,
            max_ejected: max_ejected?,
        })
    }

    fn outlier_share(&mut self, written: Option<&At<String>>, default: &str, path: &str, key: &str) -> Option<Share> {
        let Some(written) = written else { return Share::parse(default) };
        let share = Share::parse(&written.value);
        if share.is_none() {
            let message = format!("`{path}.{key}` is {}, not a percentage", written.shown());
            let help = "write a percentage above 0 and up to 100 with at most three decimals, e.g. \"50%\"";
            self.findings.error("bad-value", written.place, message).help(help);
        }
        share
    }
}
