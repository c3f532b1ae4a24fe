//! `retry` and `rescue` of a route.

use super::POSITIVE;
use crate::config::cursor::{Context, Cursor};
use crate::config::source::At;
use std::time::Duration;

#[derive(Debug)]
pub struct Retry {
    pub attempts: Option<At<u64>>,
    pub on: Option<At<Vec<At<String>>>>,
    pub methods: Option<At<Vec<At<String>>>>,
    pub budget: Option<At<String>>,
    pub timeout: Option<At<Duration>>,
}

#[derive(Debug)]
pub struct Rescue {
    pub on: Option<At<Vec<At<String>>>>,
    pub budget: Option<At<String>>,
    pub forced: Option<At<bool>>,
    pub header: Option<At<String>>,
}

pub fn retry(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Retry {
    let retry = Retry {
        attempts: table.integer(cx, "attempts", 1..=10),
        on: table.strings(cx, "on"),
        methods: table.strings(cx, "methods"),
        budget: table.string(cx, "budget"),
        timeout: table.duration(cx, "timeout", POSITIVE),
    };
    table.finish(cx);
    retry
}

pub fn rescue(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Rescue {
    let rescue = Rescue {
        on: table.strings(cx, "on"),
        budget: table.string(cx, "budget"),
        forced: table.boolean(cx, "forced"),
        header: table.string(cx, "header"),
    };
    table.finish(cx);
    rescue
}
