//! What the checks find, by place, before places become lines and columns.

use super::error::{Diagnostic, Report, Severity};
use super::source::{Place, Source, Sources};

/// Characters of a source line that a diagnostic keeps before and after its place.
const LINE_CONTEXT: usize = 200;

#[derive(Debug)]
pub struct Finding {
    severity: Severity,
    code: &'static str,
    place: Place,
    message: String,
    help: Option<String>,
    other: Option<Place>,
}

impl Finding {
    pub fn help(&mut self, help: impl Into<String>) -> &mut Finding {
        self.help = Some(help.into());
        self
    }
    pub fn other(&mut self, place: Place) -> &mut Finding {
        self.other = Some(place);
        self
    }
}

#[derive(Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    pub fn error(&mut self, code: &'static str, place: Place, message: impl Into<String>) -> &mut Finding {
        self.add(Severity::Error, code, place, message.into())
    }
    pub fn warning(&mut self, code: &'static str, place: Place, message: impl Into<String>) -> &mut Finding {
        self.add(Severity::Warning, code, place, message.into())
    }
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|finding| finding.severity == Severity::Error)
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Keeps of the findings from index `first` on those that `keep` says.
    pub fn retain_from(&mut self, first: usize, keep: impl Fn(&'static str, Place) -> bool) {
        let tail = self.0.split_off(first);
        self.0.extend(tail.into_iter().filter(|finding| keep(finding.code, finding.place)));
    }

    fn add(&mut self, severity: Severity, code: &'static str, place: Place, message: String) -> &mut Finding {
        self.0.push(Finding { severity, code, place, message, help: None, other: None });
        self.0.last_mut().expect("one was just pushed")
    }

    /// In the order of the files and of the places in them.
    pub fn into_report(mut self, sources: &Sources) -> Report {
        self.0.sort_by_key(|finding| finding.place);
        Report { diagnostics: self.0.into_iter().map(|finding| diagnostic(finding, sources)).collect() }
    }
}

fn diagnostic(finding: Finding, sources: &Sources) -> Diagnostic {
    let source = sources.file(finding.place.file);
    let position = source.position(finding.place.start);
    let other = finding.other.map(|place| {
        let file = sources.file(place.file);
        let position = file.position(place.start);
        (file.name.clone(), position.line, position.column)
    });
    // What is missing in the whole file has no text to show.
    let whole_file = finding.place.end == 0;
    let line = if whole_file { "" } else { source.line(position.line) };
    let (source_line, source_column) = line_around(line, position.column);
    Diagnostic {
        severity: finding.severity,
        code: finding.code,
        file: source.name.clone(),
        line: position.line,
        column: position.column,
        width: width(source, finding.place),
        source_line,
        source_column,
        message: finding.message,
        help: finding.help,
        other,
    }
}

/// The line, or of a very long one what stands around the column; and the column that it starts at.
fn line_around(line: &str, column: usize) -> (String, usize) {
    let first = column.saturating_sub(LINE_CONTEXT).max(1);
    (line.chars().skip(first - 1).take(2 * LINE_CONTEXT).collect(), first)
}

/// Characters from the place's start to its end, or to the end of its first line as it is shown: at least one.
fn width(source: &Source, place: Place) -> usize {
    let text = source.text.get(place.start..place.end).unwrap_or_default();
    let text = text.split('\n').next().unwrap_or_default();
    text.trim_end_matches('\r').chars().count().max(1)
}
