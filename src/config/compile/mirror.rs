//! Where a route's requests are copied to, and how many.

use super::Checker;
use crate::config::cursor::Size;
use crate::config::raw;
use crate::config::source::At;
use crate::limits::MIRROR_BODY_BYTES;
use crate::routing::mirror::Mirror;
use crate::routing::split::Weight;
use std::collections::HashMap;
use std::time::Duration;

const MAX_BODY: usize = 64 * 1024;

impl Checker<'_> {
    /// `route` is its path in the file, and `timeout` its own, which is the mirror's unless it says another.
    pub fn mirror(
        &mut self,
        raw: &raw::Mirror,
        route: &str,
        by_name: &HashMap<&str, usize>,
        timeout: Duration,
    ) -> Option<Mirror> {
        let percent = raw.percent.as_ref().map_or(Some(Weight::FULL), |percent| self.mirrored_percent(percent, route));
        let max_body = raw.max_body.as_ref().map_or(Some(MAX_BODY), |size| self.mirrored_body(size, route));
        let pool = raw.pool.as_ref().and_then(|pool| {
            let index = by_name.get(pool.value.as_str()).copied();
            if index.is_none() {
                let mut known: Vec<(&str, usize)> = by_name.iter().map(|(name, index)| (*name, *index)).collect();
                known.sort_unstable_by_key(|(_, index)| *index);
                let known: Vec<&str> = known.into_iter().map(|(name, _)| name).collect();
                self.unknown("unknown-pool", "pool", pool, &known);
            }
            index
        });
        let timeout = raw.timeout.as_ref().map_or(timeout, |timeout| timeout.value);
        Some(Mirror { pool: pool?, percent: percent?, max_body: max_body?, timeout })
    }

    fn mirrored_percent(&mut self, percent: &At<f64>, route: &str) -> Option<Weight> {
        match Weight::from_percent(percent.value) {
            Ok(weight) => Some(weight),
            Err(error) => {
                let message = format!("`{route}.mirror.percent`: {error}");
                let help = "the share of requests to copy, from 0 to 100 with up to three decimals";
                self.findings.error("out-of-range", percent.place, message).help(help);
                None
            }
        }
    }

    fn mirrored_body(&mut self, size: &At<Size>, route: &str) -> Option<usize> {
        if let Size::Bytes(bytes) = size.value
            && let Ok(bytes) = usize::try_from(bytes)
            && (1..=MIRROR_BODY_BYTES).contains(&bytes)
        {
            return Some(bytes);
        }
        let most = MIRROR_BODY_BYTES / (1024 * 1024);
        let message = format!("`{route}.mirror.max_body` is not from 1 byte to {most}MiB");
        let help = "bodies are held in memory until the copy is sent; longer ones are not copied, and counted";
        self.findings.error("out-of-range", size.place, message).help(help);
        None
    }
}
