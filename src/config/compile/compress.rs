//! A route's `compress`: which codings, the first preferred.

use super::Checker;
use crate::config::cursor::word;
use crate::config::raw;
use crate::routing::compress::{Coding, Codings};

const EXAMPLE: &str = "write compress = [\"zstd\", \"br\", \"gzip\"], or leave it out";

impl Checker<'_> {
    /// The inner None: the route does not compress.
    pub(super) fn compress(&mut self, raw: &raw::Route) -> Option<Option<Codings>> {
        let Some(written) = &raw.filters.compress else { return Some(None) };
        let path = format!("{}.compress", raw.path);
        if written.value.is_empty() {
            self.findings.error("bad-compress", written.place, format!("`{path}` is empty")).help(EXAMPLE);
            return None;
        }
        if let Some(redirect) = raw.filters.answers.iter().find(|answer| answer.value == "redirect") {
            let message = format!("`{path}`: a redirect has nothing to compress");
            self.findings.error("bad-compress", written.place, message).other(redirect.place);
        }
        let before = self.findings.len();
        let mut codings = Vec::new();
        for (at, name) in written.value.iter().enumerate() {
            let Some(coding) = word(self.findings, name, &path, &Coding::NAMES) else { continue };
            if let Some(first) = written.value[..at].iter().find(|first| first.value == name.value) {
                let message = format!("\"{}\" stands twice in `{path}`", name.value);
                self.findings.error("bad-compress", name.place, message).other(first.place);
            }
            codings.push(Coding::ALL[coding]);
        }
        if self.findings.len() > before {
            return None;
        }
        Codings::new(&codings).map(Some)
    }
}
