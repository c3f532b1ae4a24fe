//! Files replaced whole or not at all, and left as their owner made them: permissions, owner and a symbolic link to them
//! stay.
//!
//! The new content is written beside the file, flushed, and renamed over it; then the directory is flushed. Until the
//! renaming nothing has happened, so that several files can all be made ready before the first one is replaced.

use crate::config::provenance::sha256;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// A new content that waits beside its file; dropped, it is gone.
#[derive(Debug)]
pub struct Staged {
    /// The file itself, not a link to it.
    file: PathBuf,
    new: PathBuf,
    /// Of the content that is replaced.
    sha256: [u8; 32],
}

/// For the operator.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    #[error("can't {doing} {}: {source}{}", .path.display(), hint(.source))]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is no regular file", .0.display())]
    NotAFile(PathBuf),
    #[error("{} was edited at this moment", .0.display())]
    Edited(PathBuf),
}

/// A replacement that failed; `replaced`: only the flushing did.
#[derive(Debug)]
pub struct Failed {
    pub replaced: bool,
    pub error: ReplaceError,
}

impl Staged {
    /// Writes the new content beside the file, which must still have this hash when it is replaced.
    pub fn new(path: &Path, sha256: [u8; 32], content: &[u8]) -> Result<Staged, ReplaceError> {
        let file = fs::canonicalize(path).map_err(failed("find", path))?;
        let found = fs::metadata(&file).map_err(failed("look at", &file))?;
        if !found.is_file() {
            return Err(ReplaceError::NotAFile(file));
        }
        // Who may not write the file must not replace it either, though the directory would let them.
        OpenOptions::new().write(true).open(&file).map_err(failed("write", &file))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        // Hidden, so that no usual pattern of `include` names it; of one process, so that two don't share it.
        let new = file.with_file_name(format!(".{name}.weir-{}", std::process::id()));
        let staged = Staged { file, new, sha256 };
        write_flushed(&staged.new, content, &found).map_err(failed("write", &staged.new))?;
        Ok(staged)
    }

    /// Puts the new content in the file's place, if that is still what it was.
    pub fn commit(self) -> Result<(), Failed> {
        let failed_before = |error| Failed { replaced: false, error };
        let now = fs::read(&self.file).map_err(failed("read", &self.file)).map_err(failed_before)?;
        if sha256(&now) != self.sha256 {
            return Err(failed_before(ReplaceError::Edited(self.file.clone())));
        }
        fs::rename(&self.new, &self.file).map_err(failed("replace", &self.file)).map_err(failed_before)?;
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        let flushed = File::open(folder).and_then(|folder| folder.sync_all());
        flushed.map_err(failed("flush", folder)).map_err(|error| Failed { replaced: true, error })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a commit there is nothing of this name.
        let _ = fs::remove_file(&self.new);
    }
}

fn write_flushed(path: &Path, content: &[u8], like: &Metadata) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // Left over from a process of the same id that was killed, or nothing.
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = (|| {
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (like.uid(), like.gid()) {
            fchown(&file, Some(like.uid()), Some(like.gid()))
                .map_err(|error| io::Error::new(error.kind(), format!("its owner can't be kept: {error}")))?;
        }
        file.set_permissions(Permissions::from_mode(like.mode() & 0o7777))?;
        file.write_all(content)?;
        file.sync_all()
    })();
    if written.is_err() {
        // Gives a full disk its room back.
        let _ = fs::remove_file(path);
    }
    written
}

fn failed<'p>(doing: &'static str, path: &'p Path) -> impl Fn(io::Error) -> ReplaceError + use<'p> {
    move |source| ReplaceError::Io { doing, path: path.to_owned(), source }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; the file and its folder must be writable for weir",
        io::ErrorKind::ResourceBusy => "; mount its folder instead of the file alone",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn mode_and_link_stay_and_nothing_is_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("real.toml"), dir.path().join("weir.toml"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("real.toml", &link).unwrap();
        let staged = Staged::new(&link, sha256(b"old"), b"new").unwrap();
        assert_eq!(fs::read_to_string(&link).unwrap(), "old");
        staged.commit().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("real.toml"));
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(names(dir.path()), ["real.toml", "weir.toml"]);
    }

    #[test]
    fn what_was_edited_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("weir.toml");
        fs::write(&file, "old").unwrap();
        let staged = Staged::new(&file, sha256(b"old"), b"new").unwrap();
        fs::write(&file, "edited").unwrap();
        let failed = staged.commit().unwrap_err();
        assert!(!failed.replaced && matches!(failed.error, ReplaceError::Edited(_)), "{failed:?}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "edited");
        drop(Staged::new(&file, sha256(b"edited"), b"new").unwrap());
        assert_eq!(names(dir.path()), ["weir.toml"]);
    }

    #[test]
    fn what_can_t_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("weir.toml");
        fs::write(&file, "old").unwrap();
        let blocker = dir.path().join(format!(".weir.toml.weir-{}", std::process::id()));
        fs::write(&blocker, "left over from one that was killed").unwrap();
        drop(Staged::new(&file, sha256(b"old"), b"new").unwrap());
        fs::create_dir(&blocker).unwrap();
        let error = Staged::new(&file, sha256(b"old"), b"new").unwrap_err().to_string();
        assert!(error.contains(".weir.toml.weir-"), "{error}");
        let error = Staged::new(dir.path(), sha256(b""), b"new").unwrap_err().to_string();
        assert!(error.contains("is no regular file"), "{error}");
        assert!(Staged::new(&dir.path().join("none"), sha256(b""), b"").is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
    }
}
