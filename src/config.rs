//! The configuration file: read with spans, checked whole, turned into domain values. All errors at once.
//!
//! A file goes through four steps, and none stops at its first error: text (`source`) → tree (the `toml` crate's,
//! with places) → what is written (`raw`, through `cursor`) → what is meant (`compile`, into [`model`]).

mod compile;
mod cursor;
pub mod error;
mod findings;
mod include;
mod interpolate;
pub mod model;
mod raw;
mod source;
mod units;

pub use error::{Diagnostic, Report, Severity};
pub use model::*;

use cursor::{Context, Cursor};
use findings::Findings;
use source::{Place, Sources};
use std::path::Path;

/// Looks up an environment variable.
type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

/// Reads and checks the file and what it includes. `env` looks up `${VAR}`.
///
/// A config with errors gives none; warnings come beside the config.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Loaded {
    let mut sources = Sources::default();
    let mut findings = Findings::default();
    let main = sources.read(path, None, &mut findings);
    let mut whole = true;
    let mut file = read(main, &sources, env, &mut findings, &mut whole);
    for (path, pattern) in include::included(&file.include, &sources, &mut findings) {
        let other = sources.read(&path, Some(pattern), &mut findings);
        let other = read(other, &sources, env, &mut findings, &mut whole);
        include::merge(&mut file, other, &mut findings);
    }
    // What a broken file defines is not known, so nothing can be said to be missing.
    let config = if whole { compile::compile(file, &sources, &mut findings) } else { None };
    Loaded { config, report: findings.into_report(&sources) }
}

/// What [`load`] found: the config when there is no error, and everything to say about the file.
#[derive(Debug)]
pub struct Loaded {
    pub config: Option<Config>,
    pub report: Report,
}

/// What is written in one file. `whole` becomes false when some of it could not be read.
fn read(file: usize, sources: &Sources, env: Env<'_>, findings: &mut Findings, whole: &mut bool) -> raw::File {
    let source = sources.file(file);
    if !source.complete {
        *whole = false;
        return raw::File::default();
    }
    let parsed = source::parse(source, file, findings);
    let broken = !parsed.usable || !parsed.broken_lines.is_empty();
    *whole &= !broken;
    if !parsed.usable {
        return raw::File::default();
    }
    let first = findings.len();
    let mut cx = Context { file, source, folder: sources.folder(file), env, findings };
    let top = Cursor::new(&parsed.tree, Place { file, start: 0, end: 0 }, String::new());
    let written = raw::file(&mut cx, top);
    if broken {
        findings.retain_from(first, |code, place| {
            code != "missing-key" && !parsed.broken_lines.contains(&source.position(place.start).line)
        });
    }
    written
}
