//! `health` of a pool, as it is written.

use super::{POSITIVE, one_of};
use crate::config::cursor::{Context, Cursor};
use crate::config::source::{At, Place};
use std::ops::RangeInclusive;
use std::time::Duration;

/// How often targets may be asked: no oftener than ten times a second each.
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60 * 60);
const TIMES: RangeInclusive<u64> = 1..=1000;

#[derive(Debug)]
pub struct Health {
    pub place: Place,
    /// `pool.shop-v1.health`.
    pub table: String,
    pub kind: Option<At<String>>,
    pub path: Option<At<String>>,
    pub host: Option<At<String>>,
    pub method: Option<At<String>>,
    pub expect: Option<At<Vec<At<String>>>>,
    pub body: Option<At<String>>,
    pub service: Option<At<String>>,
    pub interval: Option<At<Duration>>,
    pub timeout: Option<At<Duration>>,
    pub unhealthy_after: Option<At<u64>>,
    pub healthy_after: Option<At<u64>>,
}

pub fn health(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Health {
    let kind = table.string(cx, "kind");
    one_of(cx, kind.as_ref(), &table.path_of("kind"), &["http", "tcp", "grpc"]);
    if kind.as_ref().is_none_or(|kind| kind.value == "http") {
        table.require(cx, "path", "\"/healthz\"");
    }
    let health = Health {
        place: table.place,
        table: table.path.clone(),
        kind,
        path: table.string(cx, "path"),
        host: table.string(cx, "host"),
        method: table.string(cx, "method"),
        expect: expect(cx, &mut table),
        body: table.string(cx, "body"),
        service: table.string(cx, "service"),
        interval: table.duration(cx, "interval", INTERVAL),
        timeout: table.duration(cx, "timeout", POSITIVE),
        unhealthy_after: table.integer(cx, "unhealthy_after", TIMES),
        healthy_after: table.integer(cx, "healthy_after", TIMES),
    };
    table.finish(cx);
    health
}

/// A status as a number, or one or more in words.
fn expect(cx: &mut Context<'_>, table: &mut Cursor<'_>) -> Option<At<Vec<At<String>>>> {
    if !table.has("expect") || table.is_list("expect") || table.is_string("expect") {
        return table.one_or_more(cx, "expect");
    }
    let status = table.integer(cx, "expect", 100..=599)?;
    Some(At::new(vec![At::new(status.value.to_string(), status.place)], status.place))
}
