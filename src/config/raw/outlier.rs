//! A pool's `outlier`.

use super::POSITIVE;
use crate::config::cursor::{Context, Cursor};
use crate::config::source::{At, Place};
use std::time::Duration;

#[derive(Debug)]
pub struct Outlier {
    pub place: Place,
    /// None inside: "off".
    pub consecutive_5xx: Option<At<Option<u64>>>,
    pub consecutive_failures: Option<At<Option<u64>>>,
    pub success_rate_gap: Option<At<String>>,
    pub interval: Option<At<Duration>>,
    pub min_requests: Option<At<u64>>,
    pub eject_for: Option<At<Duration>>,
    pub max_eject_for: Option<At<Duration>>,
    pub max_ejected: Option<At<String>>,
}

pub fn outlier(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Outlier {
    let outlier = Outlier {
        place: table.place,
        consecutive_5xx: table.integer_or(cx, "consecutive_5xx", "off", 1..=1000),
        consecutive_failures: table.integer_or(cx, "consecutive_failures", "off", 1..=1000),
        success_rate_gap: table.string(cx, "success_rate_gap"),
        interval: table.duration(cx, "interval", Duration::from_secs(1)..=*POSITIVE.end()),
        min_requests: table.integer(cx, "min_requests", 10..=1_000_000),
        eject_for: table.duration(cx, "eject_for", POSITIVE),
        max_eject_for: table.duration(cx, "max_eject_for", POSITIVE),
        max_ejected: table.string(cx, "max_ejected"),
    };
    table.finish(cx);
    outlier
}
