//! `audit.jsonl`: one JSON object a line for every change, for whoever must know later who did what.
//!
//! Weir only adds to it. It is opened for each batch, so that it may be moved away under a running process. When it
//! would grow past its bound it becomes `audit.jsonl.1`, in place of an older one.

use super::{StateError, failed, flush_dir};
use crate::limits::AUDIT_BYTES;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const FILE: &str = "audit.jsonl";
const OLDER: &str = "audit.jsonl.1";

/// What was added, so that it can be taken back.
#[derive(Debug)]
pub struct Audited(Option<(File, u64)>);

impl Audited {
    /// After the change has failed. Where that can't be done the line stands for a change that was refused.
    pub fn take_back(self) {
        let Some((file, before)) = self.0 else { return };
        if let Err(error) = file.set_len(before) {
            tracing::error!(%error, "the audit log has a change that was refused");
        }
    }
}

/// Adds lines and flushes them.
pub fn append(dir: &Path, lines: &[String]) -> Result<Audited, StateError> {
    if lines.is_empty() {
        return Ok(Audited(None));
    }
    let path = dir.join(FILE);
    let mut text = String::new();
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    rotate(dir, text.len() as u64)?;
    let opened = open(&path).map_err(failed("open", &path))?;
    let (mut file, before) = opened;
    let added = unfinished(&file, before).and_then(|unfinished| {
        // What a crash left of a line stands on a line of its own.
        if unfinished {
            text.insert(0, '\n');
        }
        file.write_all(text.as_bytes())?;
        file.sync_data()
    });
    let audited = Audited(Some((file, before)));
    let flushed = added.map_err(failed("write", &path)).and_then(|()| match before {
        0 => flush_dir(dir),
        _ => Ok(()),
    });
    match flushed {
        Ok(()) => Ok(audited),
        Err(error) => {
            audited.take_back();
            Err(error)
        }
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

fn unfinished(file: &File, length: u64) -> io::Result<bool> {
    let mut last = [b'\n'];
    if let Some(at) = length.checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    Ok(last != [b'\n'])
}

fn rotate(dir: &Path, more: u64) -> Result<(), StateError> {
    let path = dir.join(FILE);
    let length = path.metadata().map_or(0, |metadata| metadata.len());
    if length == 0 || length + more <= AUDIT_BYTES {
        return Ok(());
    }
    fs::rename(&path, dir.join(OLDER)).map_err(failed("put aside", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn content(dir: &tempfile::TempDir, name: &str) -> String {
        fs::read_to_string(dir.path().join(name)).unwrap_or_default()
    }

    #[test]
    fn lines_are_added_and_can_be_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        append(dir.path(), &lines(&["{\"a\":1}", "{\"a\":2}"])).unwrap();
        append(dir.path(), &lines(&["{\"a\":3}"])).unwrap().take_back();
        append(dir.path(), &[]).unwrap().take_back();
        append(dir.path(), &lines(&["{\"a\":4}"])).unwrap();
        assert_eq!(content(&dir, FILE), "{\"a\":1}\n{\"a\":2}\n{\"a\":4}\n");
    }

    #[test]
    fn what_a_crash_left_keeps_a_line_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{\"a\":1}\n{\"a\"").unwrap();
        append(dir.path(), &lines(&["{\"a\":2}"])).unwrap();
        assert_eq!(content(&dir, FILE), "{\"a\":1}\n{\"a\"\n{\"a\":2}\n");
    }

    #[test]
    fn past_its_bound_it_is_put_aside_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        for round in ["first", "second"] {
            append(dir.path(), &lines(&[round])).unwrap();
            // A file with a hole takes no room.
            OpenOptions::new().write(true).open(&path).unwrap().set_len(AUDIT_BYTES - 4).unwrap();
            append(dir.path(), &lines(&["more"])).unwrap();
            assert_eq!(content(&dir, FILE), "more\n");
            assert!(content(&dir, OLDER).starts_with(if round == "first" { "first\n" } else { "more\nsecond\n" }));
            assert_eq!(fs::metadata(dir.path().join(OLDER)).unwrap().len(), AUDIT_BYTES - 4);
        }
    }

    #[test]
    fn it_may_be_moved_away_and_must_be_writable() {
        let dir = tempfile::tempdir().unwrap();
        append(dir.path(), &lines(&["1"])).unwrap();
        fs::rename(dir.path().join(FILE), dir.path().join("mine")).unwrap();
        append(dir.path(), &lines(&["2"])).unwrap();
        assert_eq!((content(&dir, "mine").as_str(), content(&dir, FILE).as_str()), ("1\n", "2\n"));
        fs::remove_file(dir.path().join(FILE)).unwrap();
        fs::create_dir(dir.path().join(FILE)).unwrap();
        let error = append(dir.path(), &lines(&["3"])).unwrap_err().to_string();
        assert!(error.contains(FILE), "{error}");
    }
}
