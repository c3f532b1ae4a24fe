//! The configuration file: read with spans, checked whole, turned into domain values. All errors at once.

pub mod error;
pub mod model;

pub use error::{Diagnostic, Report, Severity};
pub use model::*;

use std::path::Path;

/// Reads and checks the file and what it includes. `env` looks up `${VAR}`.
///
/// A config with errors gives none; warnings come beside the config.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Loaded {
    let _ = (path, env);
    unimplemented!("skeleton")
}

/// What [`load`] found: the config when there is no error, and everything to say about the file.
#[derive(Debug)]
pub struct Loaded {
    pub config: Option<Config>,
    pub report: Report,
}
