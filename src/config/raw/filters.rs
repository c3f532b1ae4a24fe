//! What is written of a route's filters: header edits, rewrites, and answers of its own.

use super::super::cursor::templates::NamedTemplates;
use super::super::cursor::{Context, Cursor};
use super::super::source::{At, Place};
use crate::routing::edits::Placeholder;
use std::ops::RangeInclusive;
use std::time::Duration;

/// When clients are told to come back.
const RETRY_AFTER: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 60 * 60);

/// Keys of a route that say something about its variants, or about requests that go to one.
const OF_VARIANTS: [&str; 14] = [
    "variants",
    "weights",
    "active",
    "sticky",
    "rule",
    "timeout",
    "retry",
    "rescue",
    "on_empty",
    "rollout",
    "preview",
    "mirror",
    "request_headers",
    "rewrite",
];

#[derive(Debug, Default)]
pub struct Filters {
    pub request_headers: Option<HeaderEdits>,
    pub response_headers: Option<HeaderEdits>,
    pub rewrite: Option<Rewrite>,
    pub redirect: Option<Redirect>,
    pub respond: Option<Respond>,
    /// Names of codings.
    pub compress: Option<At<Vec<At<String>>>>,
    pub rate_limit: Option<RateLimit>,
    /// `redirect`, `respond` or both, though perhaps of a wrong type.
    pub answers: Vec<At<&'static str>>,
    /// Those of [`OF_VARIANTS`] that stand in the route, in the file's order.
    pub of_variants: Vec<At<&'static str>>,
}

#[derive(Debug)]
pub struct RateLimit {
    pub rate: Option<At<String>>,
    pub burst: Option<At<u64>>,
    pub keys: Option<At<Vec<At<String>>>>,
    pub max_keys: Option<At<u64>>,
}

#[derive(Debug)]
pub struct HeaderEdits {
    pub place: Place,
    pub path: String,
    pub remove: Vec<At<String>>,
    pub set: Vec<NamedTemplates>,
    pub add: Vec<NamedTemplates>,
}

#[derive(Debug)]
pub struct Rewrite {
    pub place: Place,
    pub path_of: String,
    pub prefix: Option<At<String>>,
    pub strip_prefix: Option<At<bool>>,
    pub path: Option<At<String>>,
    pub host: Option<At<String>>,
    pub is_empty: bool,
}

#[derive(Debug)]
pub struct Redirect {
    pub place: Place,
    pub path_of: String,
    pub code: Option<At<u64>>,
    pub scheme: Option<At<String>>,
    pub host: Option<At<String>>,
    pub port: Option<At<u64>>,
    pub path: Option<At<String>>,
    pub prefix: Option<At<String>>,
    pub is_empty: bool,
}

#[derive(Debug)]
pub struct Respond {
    pub path_of: String,
    pub status: Option<At<u64>>,
    pub body: Option<At<String>>,
    pub file: Option<At<String>>,
    pub content_type: Option<At<String>>,
    pub retry_after: Option<At<Duration>>,
}

/// Takes the keys of a route that are filters.
pub fn filters(cx: &mut Context<'_>, route: &mut Cursor<'_>) -> Filters {
    let here = |cx: &Context<'_>, key: &'static str| route.key_place(cx, key).map(|place| At::new(key, place));
    let in_order = |keys: &[&'static str]| {
        let mut found: Vec<_> = keys.iter().filter_map(|key| here(cx, key)).collect();
        found.sort_by_key(|key| key.place);
        found
    };
    let (answers, of_variants) = (in_order(&["redirect", "respond"]), in_order(&OF_VARIANTS));
    Filters {
        request_headers: route.table(cx, "request_headers").map(|table| header_edits(cx, table)),
        response_headers: route.table(cx, "response_headers").map(|table| header_edits(cx, table)),
        rewrite: route.table(cx, "rewrite").map(|table| rewrite(cx, table)),
        redirect: route.table(cx, "redirect").map(|table| redirect(cx, table)),
        respond: route.table(cx, "respond").map(|table| respond(cx, table)),
        compress: route.strings(cx, "compress"),
        rate_limit: route.table(cx, "rate_limit").map(|table| rate_limit(cx, table)),
        answers,
        of_variants,
    }
}

fn rate_limit(cx: &mut Context<'_>, mut table: Cursor<'_>) -> RateLimit {
    table.require(cx, "rate", "\"100/s\"");
    let limit = RateLimit {
        rate: table.string(cx, "rate"),
        burst: table.integer(cx, "burst", 1..=1_000_000),
        keys: table.one_or_more(cx, "key"),
        max_keys: table.integer(cx, "max_keys", 1..=10_000_000),
    };
    table.finish(cx);
    limit
}

fn header_edits(cx: &mut Context<'_>, mut table: Cursor<'_>) -> HeaderEdits {
    let mut values = |cx: &mut Context<'_>, key, lists| {
        let fields = table.table(cx, key);
        fields.map(|fields| fields.into_templates(cx, &Placeholder::NAMES, lists)).unwrap_or_default()
    };
    let (set, add) = (values(cx, "set", false), values(cx, "add", true));
    let remove = table.strings(cx, "remove").map(|names| names.value).unwrap_or_default();
    let edits = HeaderEdits { place: table.place, path: table.path.clone(), remove, set, add };
    table.finish(cx);
    edits
}

fn rewrite(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Rewrite {
    let rewrite = Rewrite {
        place: table.place,
        path_of: table.path.clone(),
        is_empty: !["prefix", "strip_prefix", "path", "host"].iter().any(|key| table.has(key)),
        prefix: table.string(cx, "prefix"),
        strip_prefix: table.boolean(cx, "strip_prefix"),
        path: table.string(cx, "path"),
        host: table.string(cx, "host"),
    };
    table.finish(cx);
    rewrite
}

fn redirect(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Redirect {
    let redirect = Redirect {
        place: table.place,
        path_of: table.path.clone(),
        is_empty: !["scheme", "host", "port", "path", "prefix"].iter().any(|key| table.has(key)),
        code: table.integer(cx, "code", 300..=399),
        scheme: table.string(cx, "scheme"),
        host: table.string(cx, "host"),
        port: table.integer(cx, "port", 1..=65535),
        path: table.string(cx, "path"),
        prefix: table.string(cx, "prefix"),
    };
    table.finish(cx);
    redirect
}

fn respond(cx: &mut Context<'_>, mut table: Cursor<'_>) -> Respond {
    table.require(cx, "status", "503");
    let respond = Respond {
        path_of: table.path.clone(),
        status: table.integer(cx, "status", 200..=599),
        body: table.string(cx, "body"),
        file: table.string(cx, "file"),
        content_type: table.string(cx, "content_type"),
        retry_after: table.duration(cx, "retry_after", RETRY_AFTER),
    };
    table.finish(cx);
    respond
}
