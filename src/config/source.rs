//! The files of one configuration, as text, and places in them.
//!
//! Every value that is read keeps its [`Place`], so that a check made much later can still point at the text.
//! What a broken or hostile file could make expensive is bounded here: its size, and how deep a dotted key goes
//! (the TOML parser bounds brackets by itself, but builds and frees one nested table per part of a key).

use super::findings::Findings;
use std::collections::HashMap;
use std::fmt::Display;
use std::io::Read;
use std::path::{Path, PathBuf};
use toml::de::DeTable;
use toml_parser::lexer::TokenKind;

/// The largest configuration file, in bytes. Of pure garbage the parser makes some 300 times as much.
pub const FILE_BYTES: usize = 4 * 1024 * 1024;
/// The most parts of a dotted key.
const KEY_PARTS: usize = 16;
/// The most syntax errors reported of one file.
const SYNTAX_ERRORS: usize = 100;

/// A range of bytes in one of the [`Sources`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: usize,
    pub start: usize,
    pub end: usize,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct At<T> {
    pub value: T,
    pub place: Place,
    /// The text with its `${…}`, of a value that was filled in.
    written: Option<Box<str>>,
}

impl<T> At<T> {
    pub fn new(value: T, place: Place) -> At<T> {
        At { value, place, written: None }
    }

    /// A value that `${…}` made of the text `written`.
    pub fn filled(value: T, place: Place, written: &str) -> At<T> {
        At { value, place, written: Some(written.into()) }
    }

    /// Another value that was made of this one.
    pub fn with<U>(&self, value: U) -> At<U> {
        At { value, place: self.place, written: self.written.clone() }
    }

    /// Whether a variable or a file has a part in the value. What such a value holds may be a secret and is not said.
    pub fn is_filled(&self) -> bool {
        self.written.is_some()
    }

    /// The text with its `${…}`, of such a value.
    pub fn filled_as(&self) -> Option<&str> {
        self.written.as_deref()
    }
}

impl At<String> {
    /// The value as messages may name it: with its `${…}` as they are written, and not what they stand for.
    pub fn written(&self) -> &str {
        self.written.as_deref().unwrap_or(&self.value)
    }

    /// The same, quoted.
    pub fn shown(&self) -> String {
        shown(self.written())
    }
}

#[derive(Debug)]
pub struct Source {
    /// As the operator wrote it.
    pub given: PathBuf,
    /// The same, to print.
    pub name: String,
    /// Absolute.
    pub path: PathBuf,
    pub text: String,
    /// The text is all that the file holds.
    pub complete: bool,
    line_starts: Vec<usize>,
}

/// Texts that are read in place of what the files on disk hold, by absolute path.
pub type Overlay = HashMap<PathBuf, Vec<u8>>;

/// All files read so far; a place's `file` is an index into them.
#[derive(Debug, Default)]
pub struct Sources {
    files: Vec<Source>,
    overlay: Overlay,
}

/// Line and column, from 1; the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Sources {
    pub fn new(overlay: Overlay) -> Sources {
        Sources { files: Vec::new(), overlay }
    }

    /// Reads a file; what keeps it from being read is an error at `from`, which names it, or at the file's own start.
    pub fn read(&mut self, path: &Path, from: Option<&At<String>>, findings: &mut Findings) -> usize {
        let (text, failure) = match self.read_text(path) {
            Ok(text) => (text, None),
            Err(failure) => (failure.text, Some((failure.at, failure.message))),
        };
        let file = self.add(path, text, failure.is_none());
        if let Some((at, message)) = failure {
            let place = from.map_or(Place { file, start: at, end: at }, |from| from.place);
            let message = match from {
                Some(from) if from.is_filled() => format!("{}: {message}", from.written()),
                Some(_) => format!("{}: {message}", path.display()),
                None => message,
            };
            findings.error("unreadable-file", place, message);
        }
        file
    }

    fn add(&mut self, path: &Path, text: String, complete: bool) -> usize {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let name = path.display().to_string();
        self.files.push(Source { given: path.to_path_buf(), name, path: absolute, text, complete, line_starts });
        self.files.len() - 1
    }

    pub fn file(&self, file: usize) -> &Source {
        &self.files[file]
    }

    pub fn files(&self) -> &[Source] {
        &self.files
    }

    /// The folder that relative paths in this file start from.
    pub fn folder(&self, file: usize) -> &Path {
        self.files[file].path.parent().unwrap_or(Path::new("/"))
    }

    /// A path written in this file, absolute.
    pub fn resolve(&self, file: usize, path: &str) -> PathBuf {
        self.folder(file).join(path)
    }

    fn read_text(&self, path: &Path) -> Result<String, Unreadable> {
        let plain = |message: String| Unreadable { text: String::new(), at: 0, message };
        let bytes = match std::path::absolute(path).ok().and_then(|path| self.overlay.get(&path)) {
            Some(bytes) if bytes.len() > FILE_BYTES => return Err(plain(too_large(FILE_BYTES))),
            Some(bytes) => bytes.clone(),
            None => read_bytes(path, FILE_BYTES as u64).map_err(plain)?,
        };
        String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let mut bytes = error.into_bytes();
            let byte = bytes[at];
            bytes.truncate(at);
            let text = String::from_utf8(bytes).unwrap_or_default();
            Unreadable { text, at, message: format!("not UTF-8: byte 0x{byte:02x}; TOML files are UTF-8 text") }
        })
    }
}

impl Source {
    /// Where a byte stands; an offset past the end is the place after the last character.
    pub fn position(&self, offset: usize) -> Position {
        // The empty line after the last line break is no line to show: the end of the file is the last line's end.
        let end = self.text.strip_suffix('\n').map_or(self.text.len(), str::len);
        let offset = floor_boundary(&self.text, offset.min(end));
        let line = self.line_starts.partition_point(|start| *start <= offset) - 1;
        let start = self.line_starts[line];
        let column = self.text[start..offset].trim_end_matches(['\n', '\r']).chars().count() + 1;
        Position { line: line + 1, column }
    }

    /// A line (from 1) without its line break.
    pub fn line(&self, line: usize) -> &str {
        let start = self.line_starts[line - 1];
        let end = self.line_starts.get(line).copied().unwrap_or(self.text.len());
        self.text[start..end].trim_end_matches(['\n', '\r'])
    }
}

/// The nearest character border at or before `offset`.
pub fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// A value as it is shown in a message: quoted, control characters escaped, not longer than a line.
pub fn shown(value: &str) -> String {
    const MOST: usize = 80;
    match value.char_indices().nth(MOST) {
        Some((cut, _)) => format!("\"{}…\"", value[..cut].escape_debug()),
        None => format!("\"{}\"", value.escape_debug()),
    }
}

/// `a`, `b` and `c`.
pub fn listed<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("`{item}`")).collect();
    match items.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

struct Unreadable {
    /// What could be read.
    text: String,
    at: usize,
    message: String,
}

/// A whole file of at most `most` bytes; otherwise what to tell the operator.
pub fn read_bytes(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("cannot read: {error}");
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(too_large(most));
    }
    Ok(bytes)
}

fn too_large(most: impl Display) -> String {
    format!("larger than {most} bytes")
}

pub struct Parsed<'s> {
    pub tree: DeTable<'s>,
    /// Lines with syntax errors: what else is said of them would only be an echo.
    pub broken_lines: Vec<usize>,
    /// No table header is broken, so every key stands in the table that it was written in.
    pub usable: bool,
}

/// The tree of a file, as far as its syntax lets; every syntax error is recorded.
pub fn parse<'s>(source: &'s Source, file: usize, findings: &mut Findings) -> Parsed<'s> {
    if let Some((start, end)) = deep_key(&source.text) {
        let message = format!("this key has more than {KEY_PARTS} parts");
        findings.error("syntax", Place { file, start, end }, message);
        return Parsed { tree: DeTable::new(), broken_lines: Vec::new(), usable: false };
    }
    let (tree, errors) = DeTable::parse_recoverable(&source.text);
    let mut parsed = Parsed { tree: tree.into_inner(), broken_lines: Vec::new(), usable: true };
    let mut errors: Vec<_> = errors.iter().collect();
    if let Some(first) = errors.iter().position(|error| too_deep(error)) {
        // After the first bracket that is too deep, each further one is as well.
        let kept: Vec<_> = errors.drain(first + 1..).filter(|error| !too_deep(error)).collect();
        errors.extend(kept);
    }
    for error in errors.iter().take(SYNTAX_ERRORS) {
        syntax_error(source, file, error, &mut parsed, findings);
    }
    if errors.len() > SYNTAX_ERRORS {
        parsed.usable = false;
        let end = source.text.len();
        let message = format!("{} more syntax errors are not shown", errors.len() - SYNTAX_ERRORS);
        findings.error("syntax", Place { file, start: end, end }, message);
    }
    parsed
}

fn syntax_error(
    source: &Source,
    file: usize,
    error: &toml::de::Error,
    parsed: &mut Parsed<'_>,
    findings: &mut Findings,
) {
    let span = error.span().unwrap_or(source.text.len()..source.text.len());
    let place = Place { file, start: span.start, end: span.end };
    let line = source.position(span.start).line;
    parsed.broken_lines.push(line);
    if error.message() == "duplicate key" {
        let name = source.text.get(span.clone()).unwrap_or_default();
        let finding = findings.error("duplicate-key", place, format!("`{name}` is defined twice"));
        if let Some(first) = first_definition(source, &parsed.tree, line, &span) {
            finding.other(Place { file, ..first });
        }
        return;
    }
    parsed.usable &= !source.line(line).trim_start().starts_with('[');
    // What the parser says of a missing value is about the string that it guesses.
    let missing = span.is_empty() && error.message().starts_with("string values must be quoted");
    findings.error("syntax", place, if missing { "there is no value" } else { error.message() });
}

fn too_deep(error: &toml::de::Error) -> bool {
    error.message().starts_with("cannot recurse further")
}

/// The first dotted key that is too deep.
fn deep_key(text: &str) -> Option<(usize, usize)> {
    let mut dots = 0;
    for token in toml_parser::Source::new(text).lex() {
        match token.kind() {
            TokenKind::Dot => {
                dots += 1;
                if dots >= KEY_PARTS {
                    return Some((token.span().start(), token.span().end()));
                }
            }
            TokenKind::Atom | TokenKind::Whitespace | TokenKind::BasicString | TokenKind::LiteralString => {}
            _ => dots = 0,
        }
    }
    None
}

/// Where a key or header that is defined twice was defined first: the parser knows, but doesn't say.
fn first_definition(source: &Source, tree: &DeTable<'_>, line: usize, key: &std::ops::Range<usize>) -> Option<Place> {
    let text = source.line(line).trim();
    if text.starts_with('[') {
        let earlier = (1..line).find(|earlier| source.line(*earlier).trim() == text)?;
        let start = source.line_starts[earlier - 1];
        return Some(Place { file: 0, start, end: start + text.len() });
    }
    let name = source.text.get(key.clone())?;
    let mut nearest = None;
    let mut tables = vec![tree];
    while let Some(table) = tables.pop() {
        for (other, value) in table {
            if other.span().end <= key.start && source.text.get(other.span()) == Some(name) {
                nearest = nearest.max(Some((other.span().start, other.span().end)));
            }
            tables.extend(value.get_ref().as_table());
            for item in value.get_ref().as_array().into_iter().flat_map(|array| array.iter()) {
                tables.extend(item.get_ref().as_table());
            }
        }
    }
    nearest.map(|(start, end)| Place { file: 0, start, end })
}
