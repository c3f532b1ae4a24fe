//! A file, or a few that belong together, and what was last made of them.
//!
//! A replacement is taken when all of it reads well: a certificate whose key has not come yet is looked at again, and
//! what was read before goes on. Whether a file changed is told by its inode's status time, which no copy of an older
//! file and no change of permissions leaves as it was; links are followed, so that a link that is turned counts as well.

use crate::config::read_tls_file;
use sha2::{Digest, Sha256};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// A file that changed less than this many seconds ago may be under a writer's hands, and a second change may carry the
/// same time as the first: it is looked at again.
const FRESH_SECONDS: i64 = 2;

/// What tells one state of a file from another; None when it can't be looked at.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
}

/// What is in use, and how the files stand now.
#[derive(Debug)]
pub struct Kept<T> {
    pub value: Arc<T>,
    /// Of the files that `value` was made of.
    digest: [u8; 32],
    stamps: Vec<Stamp>,
    /// Nothing more can come of looking until a stamp changes.
    settled: bool,
    pub trouble: Option<Trouble>,
}

/// Why what stands in the files is not in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub why: String,
    /// It is no moment of somebody's replacing them: it is said in the log.
    pub lasting: bool,
}

// Derived, it would ask that the value be Clone.
impl<T> Clone for Kept<T> {
    fn clone(&self) -> Kept<T> {
        Kept {
            value: Arc::clone(&self.value),
            digest: self.digest,
            stamps: self.stamps.clone(),
            settled: self.settled,
            trouble: self.trouble.clone(),
        }
    }
}

impl<T> Kept<T> {
    /// Something that no file is behind.
    pub fn fixed(value: T) -> Kept<T> {
        Kept { value: Arc::new(value), digest: [0; 32], stamps: Vec::new(), settled: true, trouble: None }
    }

    /// Looks at the files. What was made `before` stays as it is, the same `Arc`, when its files hold the same, or when
    /// nothing can be made of what they hold now; without it that is an error. `stale`: what is in use must be made
    /// anew of the same bytes. `now` is in seconds since 1970.
    pub fn look(
        before: Option<&Kept<T>>,
        files: &[&Path],
        stale: bool,
        now: i64,
        make: impl FnOnce(&[Vec<u8>]) -> Result<T, String>,
    ) -> Result<Kept<T>, String> {
        let stamps: Vec<Stamp> = files.iter().map(|file| stamp(file)).collect();
        if let Some(before) = before.filter(|before| before.settled && before.stamps == stamps && !stale) {
            return Ok(before.clone());
        }
        let old = |stamp: &Stamp| stamp.is_none_or(|(.., changed, _)| changed.saturating_add(FRESH_SECONDS) < now);
        let read: Result<Vec<Vec<u8>>, String> = files.iter().map(|file| read(file)).collect();
        let unmoved = files.iter().map(|file| stamp(file)).eq(stamps.iter().copied());
        let settled = unmoved && stamps.iter().all(old);
        let made = read.and_then(|contents| {
            let digest = digest(&contents);
            match before.filter(|before| before.digest == digest && !stale) {
                Some(before) => Ok((Arc::clone(&before.value), digest)),
                None => make(&contents).map(|value| (Arc::new(value), digest)),
            }
        });
        match (made, before) {
            (Ok((value, digest)), _) => Ok(Kept { value, digest, stamps, settled, trouble: None }),
            (Err(why), Some(before)) => {
                let again = before.trouble.as_ref().is_some_and(|trouble| trouble.why == why);
                let trouble = Some(Trouble { why, lasting: settled || again });
                Ok(Kept { stamps, settled, trouble, ..before.clone() })
            }
            (Err(why), None) => Err(why),
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    read_tls_file(file).map_err(|why| format!("{}: {why}", file.display()))
}

fn digest(contents: &[Vec<u8>]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for content in contents {
        hash.update((content.len() as u64).to_be_bytes());
        hash.update(content);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::time::unix;
    use std::fs;
    use std::time::SystemTime;

    /// Two files whose contents must agree.
    fn look(before: Option<&Kept<String>>, files: &[&Path], later: i64) -> Result<Kept<String>, String> {
        Kept::look(before, files, false, unix(SystemTime::now()) + later, |contents| {
            let text: Vec<_> = contents.iter().map(|content| String::from_utf8_lossy(content)).collect();
            if text[0] == text[1] { Ok(text[0].clone().into_owned()) } else { Err("they differ".to_owned()) }
        })
    }

    #[test]
    fn only_what_fits_together_is_taken_and_the_rest_is_looked_at_again() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let files = [a.as_path(), b.as_path()];
        assert!(look(None, &files, 0).unwrap_err().contains("cannot read"));
        fs::write(&a, "1").unwrap();
        fs::write(&b, "1").unwrap();
        let first = look(None, &files, 0).unwrap();
        assert_eq!((first.value.as_str(), first.settled), ("1", false), "a second change may have the same time");
        fs::write(&a, "2").unwrap();
        let half = look(Some(&first), &files, 0).unwrap();
        assert!(Arc::ptr_eq(&half.value, &first.value));
        assert_eq!(half.trouble, Some(Trouble { why: "they differ".to_owned(), lasting: false }));
        assert!(look(Some(&half), &files, 0).unwrap().trouble.unwrap().lasting);
        fs::write(&b, "2").unwrap();
        let whole = look(Some(&half), &files, 0).unwrap();
        assert_eq!((whole.value.as_str(), whole.trouble.is_none()), ("2", true));
    }

    #[test]
    fn the_same_content_stays_the_same_value_and_settles() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let files = [a.as_path(), b.as_path()];
        fs::write(&a, "1").unwrap();
        fs::write(&b, "1").unwrap();
        let first = look(None, &files, 10).unwrap();
        assert!(first.settled);
        let unread = Kept::look(Some(&first), &files, false, 0, |_| panic!("nothing to look at")).unwrap();
        assert!(Arc::ptr_eq(&unread.value, &first.value));
        fs::remove_file(&a).unwrap();
        let gone = look(Some(&first), &files, 10).unwrap();
        let trouble = gone.trouble.clone().unwrap();
        assert!(trouble.lasting && trouble.why.contains("/a: cannot read"), "{trouble:?}");
        fs::write(&a, "1").unwrap();
        let back = look(Some(&gone), &files, 10).unwrap();
        assert!(Arc::ptr_eq(&back.value, &first.value) && back.trouble.is_none() && back.settled);
        let anew = Kept::look(Some(&back), &files, true, 0, |_| Ok("3".to_owned())).unwrap();
        assert_eq!(anew.value.as_str(), "3");
    }

    #[test]
    fn a_turned_link_and_new_permissions_are_changes() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (old, new, link) = (folder.path().join("old"), folder.path().join("new"), folder.path().join("link"));
        fs::write(&old, "1").unwrap();
        fs::write(&new, "2").unwrap();
        symlink(&old, &link).unwrap();
        let before = stamp(&link);
        assert_eq!(before, stamp(&old));
        let spare = folder.path().join("spare");
        symlink(&new, &spare).unwrap();
        fs::rename(&spare, &link).unwrap();
        assert_eq!(stamp(&link), stamp(&new));
        let before = stamp(&new);
        wait_for_the_clock(&new, before);
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        assert_ne!(stamp(&new), before);
    }

    /// The kernel's clock for files has a grain of a few milliseconds: until a file made now has another time.
    fn wait_for_the_clock(beside: &Path, before: Stamp) {
        let probe = beside.with_extension("probe");
        let time = |stamp: Stamp| stamp.map(|(.., seconds, nanos)| (seconds, nanos));
        loop {
            fs::write(&probe, "").unwrap();
            if time(stamp(&probe)) != time(before) {
                return;
            }
            fs::remove_file(&probe).unwrap();
        }
    }
}
