//! What is wrong with a file: where, which text, why, and what to do.

use serde_json::{Value, json};
use std::fmt::Write;
use unicode_width::UnicodeWidthChar;

/// Terminal cells of a source line that are shown; of a longer line the part around the place.
const LINE_CELLS: usize = 160;

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
    /// The line as it stands in the file; of a very long one the part around the place.
    pub source_line: String,
    /// The column that `source_line` starts at.
    pub source_column: usize,
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

impl Report {
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter().filter(|one| one.severity == Severity::Error)
    }
    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter().filter(|one| one.severity == Severity::Warning)
    }
    pub fn has_errors(&self) -> bool {
        self.errors().next().is_some()
    }

    /// For a terminal: each finding with its source line underlined, an empty line after each.
    pub fn render(&self, color: bool) -> String {
        let paint = if color { &COLORS } else { &PLAIN };
        let mut text = String::new();
        for diagnostic in &self.diagnostics {
            // Writing into a String cannot fail.
            let _ = diagnostic.render(&mut text, paint);
        }
        text
    }

    /// `{"errors":[{"file","line","column","code","message","help"}],"warnings":[…]}`; `help` is null when there is none.
    pub fn to_json(&self) -> Value {
        json!({
            "errors": self.errors().map(Diagnostic::to_json).collect::<Vec<_>>(),
            "warnings": self.warnings().map(Diagnostic::to_json).collect::<Vec<_>>(),
        })
    }
}

struct Paint {
    error: &'static str,
    warning: &'static str,
    frame: &'static str,
    bold: &'static str,
    reset: &'static str,
}

const PLAIN: Paint = Paint { error: "", warning: "", frame: "", bold: "", reset: "" };
const COLORS: Paint =
    Paint { error: "\x1b[1;31m", warning: "\x1b[1;33m", frame: "\x1b[1;34m", bold: "\x1b[1m", reset: "\x1b[0m" };

impl Diagnostic {
    fn to_json(&self) -> Value {
        json!({
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "code": self.code,
            "message": self.message_with_other(),
            "help": self.help,
        })
    }

    /// JSON has no field for the second place, so the message carries it.
    fn message_with_other(&self) -> String {
        match &self.other {
            Some((file, line, column)) => format!("{} (the other is at {file}:{line}:{column})", self.message),
            None => self.message.clone(),
        }
    }

    fn render(&self, out: &mut String, paint: &Paint) -> std::fmt::Result {
        let Paint { frame, bold, reset, .. } = paint;
        let (word, tone) = match self.severity {
            Severity::Error => ("error", paint.error),
            Severity::Warning => ("warning", paint.warning),
        };
        let gutter = " ".repeat(self.line.to_string().len());
        writeln!(out, "{tone}{word}[{}]{reset}{bold}: {}{reset}", self.code, printable(&self.message))?;
        writeln!(out, "{gutter}{frame}-->{reset} {}:{}:{}", printable(&self.file), self.line, self.column)?;
        if !self.source_line.is_empty() {
            let Excerpt { text, indent, underline } = excerpt(self);
            writeln!(out, "{gutter} {frame}|{reset}")?;
            writeln!(out, "{frame}{} |{reset} {text}", self.line)?;
            let (indent, underline) = (" ".repeat(indent), "^".repeat(underline));
            writeln!(out, "{gutter} {frame}|{reset} {indent}{tone}{underline}{reset}")?;
        }
        if let Some((file, line, column)) = &self.other {
            writeln!(out, "{gutter} {frame}={reset} the other is at {}:{line}:{column}", printable(file))?;
        }
        if let Some(help) = &self.help {
            writeln!(out, "{gutter} {frame}={reset} help: {}", printable(help))?;
        }
        writeln!(out)
    }
}

struct Excerpt {
    text: String,
    /// Cells before the underline, and under the place.
    indent: usize,
    underline: usize,
}

/// The source line as a terminal can show it: tabs as spaces, other control characters as `�`, cut around the place.
fn excerpt(diagnostic: &Diagnostic) -> Excerpt {
    let start = diagnostic.column.saturating_sub(diagnostic.source_column);
    let cells: Vec<(String, usize)> = diagnostic.source_line.chars().map(cell).collect();
    let before: usize = cells.iter().take(start).map(|(_, width)| width).sum();
    let total: usize = cells.iter().map(|(_, width)| width).sum();
    let cut_before = diagnostic.source_column > 1 || (total > LINE_CELLS && before > LINE_CELLS / 2);
    let mut first = 0;
    if cut_before {
        let mut left = before;
        while left > LINE_CELLS / 4 && first < start {
            left -= cells[first].1;
            first += 1;
        }
    }
    let mut excerpt = Excerpt { text: String::new(), indent: 0, underline: 0 };
    let mut used = 0;
    if cut_before {
        excerpt.text.push('…');
        excerpt.indent = 1;
        used = 1;
    }
    for (index, (text, width)) in cells.iter().enumerate().skip(first) {
        if used + width > LINE_CELLS {
            excerpt.text.push('…');
            break;
        }
        used += width;
        excerpt.text.push_str(text);
        if index < start {
            excerpt.indent += width;
        } else if index < start + diagnostic.width {
            excerpt.underline += width;
        }
    }
    excerpt.underline = excerpt.underline.max(1);
    excerpt
}

fn cell(character: char) -> (String, usize) {
    match character {
        '\t' => ("    ".to_owned(), 4),
        _ if character.is_control() => ("\u{fffd}".to_owned(), 1),
        _ => (character.to_string(), character.width().unwrap_or(0)),
    }
}

/// Without what could steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnostic(source_line: &str, column: usize, width: usize) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code: "unknown-key",
            file: "weir.toml".to_owned(),
            line: 12,
            column,
            width,
            source_line: source_line.to_owned(),
            source_column: 1,
            message: "unknown key".to_owned(),
            help: Some("did you mean `name`?".to_owned()),
            other: Some(("a.toml".to_owned(), 3, 1)),
        }
    }

    #[test]
    fn renders_like_a_compiler() {
        let report = Report { diagnostics: vec![diagnostic("\tnaem = \"x\"", 2, 4)] };
        let expected = "error[unknown-key]: unknown key\n  --> weir.toml:12:2\n   |\n12 |     naem = \"x\"\n   |     ^^^^\n   = the other is at a.toml:3:1\n   = help: did you mean `name`?\n\n";
        assert_eq!(report.render(false), expected);
        assert!(report.render(true).contains("\x1b[1;31merror[unknown-key]\x1b[0m"));
    }

    #[test]
    fn underlines_wide_characters_in_cells() {
        let excerpt = excerpt(&diagnostic("名 = \"北京\" # x", 5, 4));
        assert_eq!((excerpt.indent, excerpt.underline), (5, 6));
    }

    #[test]
    fn cuts_long_lines_around_the_place() {
        let line = format!("{}HERE{}", "x".repeat(150), "y".repeat(300));
        let excerpt = excerpt(&diagnostic(&line, 151, 4));
        let text: Vec<char> = excerpt.text.chars().collect();
        assert!(text.len() <= LINE_CELLS + 1);
        assert_eq!(text[excerpt.indent..excerpt.indent + excerpt.underline].iter().collect::<String>(), "HERE");
        assert_eq!((text[0], text[text.len() - 1]), ('…', '…'));
    }

    #[test]
    fn json_has_null_help() {
        let mut one = diagnostic("x", 1, 1);
        one.help = None;
        one.other = None;
        let json = Report { diagnostics: vec![one] }.to_json();
        let expected = json!({"errors": [{"file": "weir.toml", "line": 12, "column": 1, "code": "unknown-key",
            "message": "unknown key", "help": null}], "warnings": []});
        assert_eq!(json, expected);
    }
}
