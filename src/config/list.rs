//! The files that rules name with `in_file`: how one is read, and how a change is told without reading it.

use super::source::read_bytes;
use crate::limits::LIST_BYTES;
use crate::routing::list::ValueList;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A list that rules have.
#[derive(Clone, Debug)]
pub struct ListFile {
    /// Absolute.
    pub path: PathBuf,
    pub values: Arc<ValueList>,
    /// What the file was when it was read; None: it was so new that a later change may look the same.
    pub stamp: Option<Stamp>,
}

/// What differs when a file was written, replaced by another, or given back an old time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: (i64, i64),
    changed_ns: (i64, i64),
}

/// A file changed less than this ago may change again without another time: clocks of file systems are coarse.
const SETTLED: Duration = Duration::from_secs(2);

impl ListFile {
    /// Errors are for the operator.
    pub fn read(path: &Path) -> Result<ListFile, String> {
        let before = Stamp::of(path)?;
        if before.size > LIST_BYTES {
            return Err(format!("larger than {LIST_BYTES} bytes"));
        }
        let bytes = read_bytes(path, LIST_BYTES)?;
        let values = ValueList::new(bytes).map_err(|error| error.to_string())?;
        let stamp = Some(before).filter(|before| before.is_settled() && Stamp::of(path).as_ref() == Ok(before));
        Ok(ListFile { path: path.to_owned(), values: Arc::new(values), stamp })
    }
}

impl Stamp {
    /// Of the file that a link leads to. Only plain files can be lists: opening a pipe may wait for ever.
    pub fn of(path: &Path) -> Result<Stamp, String> {
        let found = std::fs::metadata(path).map_err(|error| format!("cannot read: {error}"))?;
        if !found.is_file() {
            return Err("not a file".to_owned());
        }
        Ok(Stamp {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified_ns: (found.mtime(), found.mtime_nsec()),
            changed_ns: (found.ctime(), found.ctime_nsec()),
        })
    }

    fn is_settled(&self) -> bool {
        let changed = u64::try_from(self.changed_ns.0).unwrap_or(0);
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(changed));
        age.is_ok_and(|age| age > SETTLED)
    }
}
