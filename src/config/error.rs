//! What is wrong with a file: where, which text, why, and what to do.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// One finding. Lines and columns count from 1; columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// A stable word, e.g. `unknown-key`, `not-built`, `weights-sum`.
    pub code: &'static str,
    pub file: String,
    pub line: usize,
    pub column: usize,
    /// How many characters to underline, at least 1.
    pub width: usize,
    /// The line as it stands in the file.
    pub source_line: String,
    pub message: String,
    pub help: Option<String>,
    /// A second place, e.g. of the first definition: file, line, column.
    pub other: Option<(String, usize, usize)>,
}

/// All findings of one check, in the order of the files and lines.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub diagnostics: Vec<Diagnostic>,
}
