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
#[must_use]
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
