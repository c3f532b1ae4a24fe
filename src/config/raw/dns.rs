//! `dns`: how targets' names are looked up.

use crate::config::cursor::{Context, Cursor};
use crate::config::source::{At, Place};
use std::ops::RangeInclusive;
use std::time::Duration;

/// A TTL's bounds.
const TTL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30);

#[derive(Debug)]
pub struct Dns {
    pub place: Place,
    pub servers: Option<At<Vec<At<String>>>>,
    pub min_ttl: Option<At<Duration>>,
    pub max_ttl: Option<At<Duration>>,
    pub timeout: Option<At<Duration>>,
}

pub fn dns(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Dns {
    let dns = Dns {
        place: table.place,
        servers: table.strings(cx, "servers"),
        min_ttl: table.duration(cx, "min_ttl", TTL),
        max_ttl: table.duration(cx, "max_ttl", TTL),
        timeout: table.duration(cx, "timeout", TIMEOUT),
    };
    table.finish(cx);
    dns
}
