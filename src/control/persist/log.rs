//! `history.log`: every route's revisions, one a line, appended and flushed.
//!
//! The first line is `weir-history 1`; a record is the XXH3-64 of its JSON in 16 hexadecimal digits, a blank, the JSON,
//! a line feed. An unfinished last record is one that nobody was told of, and is cut. A damaged one in the middle is
//! left out; then the file is set aside and what is left is written anew. When most of the file is records that are not
//! kept any more it is written anew as well, beside itself and renamed.

use super::{Commit, Distrust, Saved, StateError, damaged, failed, flush_dir};
use crate::control::history::{Entry, History};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const FILE: &str = "history.log";
const MAGIC: &str = "weir-history";
const VERSION: u32 = 1;
const HEADER: &[u8] = b"weir-history 1\n";
/// Checksum, blank and line feed.
const FRAME_BYTES: usize = 18;
/// Below this a file is not worth writing anew.
const SMALL_BYTES: u64 = 1024 * 1024;

/// The open file.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    path: PathBuf,
    /// None: there is none, or it can't be added to; the next append writes the whole.
    file: Option<File>,
    /// Where the next record goes.
    end: u64,
    /// Not tried before the file is this long, after an attempt to write it anew has failed.
    not_below: u64,
}

/// Where the log stood before an append.
#[derive(Debug)]
pub enum Mark {
    At(u64),
    WrittenAnew,
}

/// What a file has.
#[derive(Debug)]
pub struct Scan {
    /// Every record that is whole, in the file's order, each with its route.
    pub records: Vec<(String, Arc<Entry>)>,
    /// How long the file is without an unfinished record at its end; or why it can't be added to.
    pub end: Result<u64, Distrust>,
}

impl Log {
    pub fn in_dir(dir: &Path) -> Log {
        Log { dir: dir.to_owned(), path: dir.join(FILE), file: None, end: 0, not_below: 0 }
    }

    /// Goes on with a file whose records end at `end`. One that can't be opened or cut is written anew later.
    pub fn open(&mut self, end: u64, length: u64) {
        let opened = OpenOptions::new().write(true).open(&self.path).and_then(|file| {
            if end < length {
                file.set_len(end)?;
                file.sync_all()?;
            }
            Ok(file)
        });
        match opened {
            // Less than a header is no file yet.
            Ok(file) => (self.file, self.end) = (Some(file).filter(|_| end > 0), end),
            Err(error) => tracing::warn!(file = %self.path.display(), %error, "the history can't be added to yet"),
        }
    }

    /// Has the next append write the whole file, whatever stands there.
    pub fn distrust(&mut self) {
        self.file = None;
    }

    /// Adds the commit's revisions. When this returns they survive a crash; when it fails, nothing was added.
    pub fn append(&mut self, commit: &Commit) -> Result<Mark, StateError> {
        if commit.revisions.is_empty() && self.file.is_some() {
            return Ok(Mark::At(self.end));
        }
        if self.file.is_none() {
            self.write_anew(commit)?;
            return Ok(Mark::WrittenAnew);
        }
        let live = (commit.totals.bytes + commit.totals.revisions * FRAME_BYTES) as u64;
        if self.end > 2 * live + SMALL_BYTES && self.end >= self.not_below {
            match self.write_anew(commit) {
                Ok(()) => return Ok(Mark::WrittenAnew),
                // There may be room for a few more lines all the same.
                Err(error) => {
                    self.not_below = self.end + self.end / 2;
                    tracing::warn!(%error, "the history was not written anew");
                }
            }
        }
        let mut lines = Vec::new();
        commit.revisions.iter().for_each(|entry| push_line(&mut lines, entry));
        let before = self.end;
        match self.add(&lines) {
            Ok(()) => {
                self.end += lines.len() as u64;
                Ok(Mark::At(before))
            }
            Err(error) => {
                self.take_back(Mark::At(before));
                Err(failed("write", &self.path)(error))
            }
        }
    }

    /// Undoes an append. Where that can't be done the next append writes the whole file from what is live.
    pub fn take_back(&mut self, mark: Mark) {
        let cut = match (&self.file, mark) {
            (Some(file), Mark::At(end)) if file.set_len(end).is_ok() => Some(end),
            _ => None,
        };
        match cut {
            Some(end) => self.end = end,
            None => self.file = None,
        }
    }

    fn add(&mut self, lines: &[u8]) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        file.write_all_at(lines, self.end)?;
        file.sync_data().inspect_err(|_| {
            // What of it is on disk is not known: don't build on it.
            self.file = None;
        })
    }

    fn write_anew(&mut self, commit: &Commit) -> Result<(), StateError> {
        let new = self.dir.join(format!("{FILE}.tmp"));
        let written = write_whole(&new, commit).map_err(failed("write", &new));
        let renamed = written.and_then(|written| {
            fs::rename(&new, &self.path).map_err(failed("replace", &self.path))?;
            Ok(written)
        });
        if renamed.is_err() {
            // Gives a full disk its room back.
            let _ = fs::remove_file(&new);
        }
        let (file, length) = renamed?;
        (self.file, self.end, self.not_below) = (Some(file), length, 0);
        flush_dir(&self.dir).inspect_err(|_| self.file = None)
    }
}

fn write_whole(path: &Path, commit: &Commit) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut out = BufWriter::with_capacity(256 * 1024, file);
    out.write_all(HEADER)?;
    let mut length = HEADER.len();
    let mut line = Vec::new();
    for entry in commit.routes.iter().flat_map(|route| route.history.entries()) {
        line.clear();
        push_line(&mut line, entry);
        out.write_all(&line)?;
        length += line.len();
    }
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok((file, length as u64))
}

fn push_line(lines: &mut Vec<u8>, entry: &Entry) {
    let record = entry.record().as_bytes();
    lines.extend_from_slice(format!("{:016x} ", xxhash_rust::xxh3::xxh3_64(record)).as_bytes());
    lines.extend_from_slice(record);
    lines.push(b'\n');
}

/// Reads a whole file, whatever it has.
pub fn scan(bytes: &[u8]) -> Scan {
    let start = match header(bytes) {
        Ok(start) => start,
        Err(distrust) => return Scan { records: Vec::new(), end: Err(distrust) },
    };
    let (mut records, mut at, mut damaged_at) = (Vec::new(), start, None);
    for line in bytes[start..].split_inclusive(|byte| *byte == b'\n') {
        let here = at;
        at += line.len();
        match line.strip_suffix(b"\n").and_then(record) {
            Some(found) => records.push(found),
            None if at == bytes.len() && damaged_at.is_none() => return Scan { records, end: Ok(here as u64) },
            None => damaged_at = damaged_at.or(Some(here)),
        }
    }
    let end = match damaged_at {
        None => Ok(at as u64),
        Some(at) => Err(damaged(format!("the record at byte {at} is damaged"))),
    };
    Scan { records, end }
}

/// Where the records start; 0 for a file that was only begun.
fn header(bytes: &[u8]) -> Result<usize, Distrust> {
    if bytes.starts_with(HEADER) {
        return Ok(HEADER.len());
    }
    if HEADER.starts_with(bytes) {
        return Ok(0);
    }
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let version = std::str::from_utf8(line).ok().and_then(|line| line.strip_prefix(MAGIC)?.strip_prefix(' '));
    match version.and_then(|version| version.parse::<u32>().ok()) {
        Some(version) if version > VERSION => Err(Distrust::Newer(version)),
        _ => Err(damaged(format!("its first line is not \"{MAGIC} {VERSION}\""))),
    }
}

fn record(line: &[u8]) -> Option<(String, Arc<Entry>)> {
    let (sum, record) = (line.get(..16)?, line.get(17..)?);
    let expected = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(record));
    if sum != expected.as_bytes() || line[16] != b' ' {
        return None;
    }
    let (entry, revision) = Entry::read(std::str::from_utf8(record).ok()?).ok()?;
    Some((revision.route, Arc::new(entry)))
}

impl Scan {
    pub fn histories(self) -> HashMap<String, History> {
        let mut by_route: HashMap<String, Vec<Arc<Entry>>> = HashMap::new();
        for (route, entry) in self.records {
            by_route.entry(route).or_default().push(entry);
        }
        by_route.into_iter().map(|(route, entries)| (route, History::replay(entries))).collect()
    }
}

/// Leaves of the histories what `saved` bears out, and gives what never came into force. A route that is not saved is
/// gone from the file, and its history with it.
pub fn confine(histories: &mut HashMap<String, History>, saved: &HashMap<String, Saved>) -> Vec<Arc<Entry>> {
    let mut unacknowledged = Vec::new();
    histories.retain(|route, history| {
        let Some(saved) = saved.get(route) else {
            return false;
        };
        let (known, beyond) = history.parted_after(saved.generation);
        unacknowledged.extend(beyond.iter().cloned());
        *history = match known.newest() {
            // Of another life: a state file that was put back, perhaps.
            Some(newest) if newest.generation == saved.generation && !is_of(newest, saved) => {
                known.parted_after(saved.generation - 1).0
            }
            _ => known,
        };
        true
    });
    unacknowledged
}

fn is_of(entry: &Entry, saved: &Saved) -> bool {
    let revision = entry.revision();
    revision.variants == saved.variants && revision.assignment == saved.assignment
}
