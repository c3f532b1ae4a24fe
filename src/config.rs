//! The configuration file: read with spans, checked whole, turned into domain values. All errors at once.
//!
//! A file goes through four steps, and none stops at its first error: text (`source`) → tree (the `toml` crate's,
//! with places) → what is written (`raw`, through `cursor`) → what is meant (`compile`, into [`model`]).

mod compile;
mod cursor;
pub mod edit;
pub mod error;
mod findings;
mod include;
mod interpolate;
pub mod list;
pub mod model;
pub mod provenance;
mod raw;
pub mod rollout;
mod source;
mod units;

pub use error::{Diagnostic, Report, Severity};
pub use model::*;
pub use source::{FILE_BYTES, Overlay};
pub use units::{duration, shown_duration};

#[cfg(test)]
mod tests;

use crate::limits::EXPIRY_WARNING;
use crate::tls::time;
use crate::tls::x509::Leaf;
use cursor::{Context, Cursor};
use findings::Findings;
use provenance::{Filled, Provenance};
use source::{Place, Sources};
use std::path::Path;
use std::sync::Arc;

/// Looks up an environment variable.
type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

/// What may be said for no other reason than that a file could not be read whole: it may define what is missed.
const ABSENT: [&str; 6] = ["unknown-pool", "no-listener", "no-route", "no-state-dir", "open-admin", "no-trusted-proxy"];
/// The same within a file that has broken lines: one of them may hold what is missed.
const INCOMPLETE: [&str; 12] = [
    "missing-key",
    "weights-missing",
    "weights-sum",
    "unknown-variant",
    "bad-variants",
    "no-target",
    "bad-rule",
    "bad-preview",
    "bad-condition",
    "bad-sticky",
    "unused-pool",
    "no-trusted-proxy",
];

/// Reads and checks the file and what it includes. `env` looks up `${VAR}`.
///
/// A config with errors gives none; warnings come beside the config.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Loaded {
    load_over(path, env, Overlay::new())
}

/// As [`load`], with texts in place of what some of the files hold.
pub fn load_over(path: &Path, env: &dyn Fn(&str) -> Option<String>, overlay: Overlay) -> Loaded {
    let mut sources = Sources::new(overlay);
    let mut findings = Findings::default();
    let mut gaps = Gaps::default();
    let mut filled = Filled::default();
    let main = sources.read(path, None, &mut findings);
    let mut file = read(main, &sources, env, &mut findings, &mut gaps, &mut filled);
    let patterns = file.include.clone();
    for (path, pattern) in include::included(&patterns, &sources, &mut findings) {
        let other = sources.read(&path, Some(pattern), &mut findings);
        let other = read(other, &sources, env, &mut findings, &mut gaps, &mut filled);
        include::merge(&mut file, other, &mut findings);
    }
    let first = findings.len();
    let provenance = Provenance::of(&file, &sources);
    let config = compile::compile(file, &sources, &mut findings, &mut filled);
    let config = config.map(|config| Config { provenance: Arc::new(provenance.with(filled)), ..config });
    findings.retain_from(first, |code, place| !gaps.explain(code, place, &sources));
    Loaded { config, report: findings.into_report(&sources) }
}

/// What [`load`] found: the config when there is no error, and everything to say about the file.
#[derive(Debug)]
pub struct Loaded {
    pub config: Option<Config>,
    pub report: Report,
}

/// What of the files could not be read; each gap is an error already.
#[derive(Default)]
struct Gaps {
    /// Some file is not known at all.
    unread: bool,
    /// (file, line) of each syntax error.
    lines: Vec<(usize, usize)>,
}

impl Gaps {
    /// Whether a finding may be nothing but the echo of a gap.
    fn explain(&self, code: &str, place: Place, sources: &Sources) -> bool {
        let broken = self.lines.iter().any(|(file, _)| *file == place.file);
        let line = (place.file, sources.file(place.file).position(place.start).line);
        // Where the parser put a value of its own, that has no place.
        let made_up = broken && place.end == 0;
        let absent = ABSENT.contains(&code) && (self.unread || !self.lines.is_empty());
        absent || made_up || (broken && INCOMPLETE.contains(&code)) || self.lines.contains(&line)
    }
}

/// What is written in one file.
fn read(
    file: usize,
    sources: &Sources,
    env: Env<'_>,
    findings: &mut Findings,
    gaps: &mut Gaps,
    filled: &mut Filled,
) -> raw::File {
    let source = sources.file(file);
    if !source.complete {
        gaps.unread = true;
        return raw::File::default();
    }
    let parsed = source::parse(source, file, findings);
    gaps.lines.extend(parsed.broken_lines.iter().map(|line| (file, *line)));
    if !parsed.usable {
        gaps.unread = true;
        return raw::File::default();
    }
    let first = findings.len();
    let mut cx = Context { file, source, folder: sources.folder(file), env, findings, filled };
    let top = Cursor::new(&parsed.tree, Place { file, start: 0, end: 0 }, String::new());
    let written = raw::file(&mut cx, top);
    findings.retain_from(first, |code, place| !gaps.explain(code, place, sources));
    written
}

/// The largest file of certificates, a key or a staple, in bytes.
const TLS_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// The bytes of a file that TLS is made of; otherwise what to tell the operator.
pub fn read_tls_file(path: &Path) -> Result<Vec<u8>, String> {
    source::read_bytes(path, TLS_FILE_BYTES)
}

/// What there is to say of a certificate's dates: `has expired on …`; None when all is well. `now` is in seconds since
/// 1970.
pub fn expiry(leaf: &Leaf, now: i64) -> Option<String> {
    let (from, until) = (time::date(leaf.not_before), time::date(leaf.not_after));
    let left = leaf.not_after - now;
    match left.div_euclid(time::DAY_SECONDS) {
        _ if leaf.not_before > now => Some(format!("is valid from {from} on only")),
        _ if left < 0 => Some(format!("has expired on {until}")),
        _ if left >= EXPIRY_WARNING.as_secs().cast_signed() => None,
        0 => Some(format!("expires within a day, on {until}")),
        1 => Some(format!("expires in 1 day, on {until}")),
        days => Some(format!("expires in {days} days, on {until}")),
    }
}
