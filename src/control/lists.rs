//! The files of `in_file`, looked at every second and read again when they change, without a reload.
//!
//! A look asks only for what the file system says of the file. Somebody may be writing it at that moment, so a change
//! counts when two looks in a row find the same; a file that never rests is taken as it is after some looks. A file
//! that is gone, can't be read or is too large leaves the list as it was: a rule must not lose its ids to a slip.
//! Looking and reading wait for disks and so happen on another thread; what was read reaches the ground state as a
//! command.

use super::command::{Command, Relisted};
use super::ground::Ground;
use crate::config::Config;
use crate::config::list::{ListFile, Stamp};
use crate::limits::{LIST_INTERVAL, LIST_LOOKS};
use crate::routing::list::ValueList;
use crate::routing::redact::Redact;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Looks at the lists of the configuration in force, for as long as there is a controller, and tells it of changes.
pub async fn keep_reading(ground: Arc<ArcSwap<Ground>>, commands: mpsc::WeakSender<Command>) {
    let mut watch = Watch::default();
    // Lists that were replaced, until no worker's table has them: freeing a large one takes milliseconds.
    let mut retired: Vec<Arc<ValueList>> = Vec::new();
    loop {
        tokio::time::sleep(LIST_INTERVAL).await;
        if commands.strong_count() == 0 {
            return;
        }
        retired.retain(|values| Arc::strong_count(values) > 1);
        let config = Arc::clone(&ground.load().config);
        if config.lists.is_empty() {
            continue;
        }
        let looked_at = Arc::clone(&config);
        let looked = tokio::task::spawn_blocking(move || {
            let changed = watch.look(&looked_at);
            (watch, changed)
        });
        let Ok((after, lists)) = looked.await else { return };
        watch = after;
        if lists.is_empty() {
            continue;
        }
        retired.extend(lists.iter().map(|(list, _)| Arc::clone(&config.lists[*list].values)));
        let Some(commands) = commands.upgrade() else { return };
        if commands.send(Command::Relisted(Relisted { config, lists })).await.is_err() {
            return;
        }
    }
}

/// What earlier looks found.
#[derive(Default)]
struct Watch {
    /// The configuration that `files` are about.
    config: Option<Arc<Config>>,
    files: HashMap<PathBuf, Seen>,
}

/// What the file system says of a file, or why it says nothing.
type Look = Result<Stamp, String>;

#[derive(Default)]
struct Seen {
    last: Option<Look>,
    /// How many looks in a row found something else than what was read.
    changing: u32,
    /// Nothing to do while the file looks like this: it was read, or could not be.
    settled: Option<Look>,
    /// Why it can't be read, as was said in the log.
    failing: Option<String>,
}

impl Watch {
    /// The lists that changed, by their index.
    fn look(&mut self, config: &Arc<Config>) -> Vec<(usize, ListFile)> {
        if !self.config.as_ref().is_some_and(|known| Arc::ptr_eq(known, config)) {
            self.files.retain(|path, _| config.lists.iter().any(|list| list.path == *path));
            for list in &config.lists {
                self.files.entry(list.path.clone()).or_default().settled = list.stamp.map(Ok);
            }
            self.config = Some(Arc::clone(config));
        }
        let lists = config.lists.iter().enumerate();
        let changed = lists.filter_map(|(index, list)| {
            let seen = self.files.entry(list.path.clone()).or_default();
            let path = list.path.display().to_string();
            let shown = config.provenance.shown(&path);
            let read = seen.look(&list.path, shown).filter(|read| read.values != list.values)?;
            tracing::info!(list = shown, values = read.values.len(), "the list changed");
            Some((index, read))
        });
        changed.collect()
    }
}

impl Seen {
    /// The file's content, if it is time to read it. `shown` is what the log calls it.
    fn look(&mut self, path: &Path, shown: &str) -> Option<ListFile> {
        let now = Stamp::of(path);
        if self.settled.as_ref() == Some(&now) {
            self.changing = 0;
            return None;
        }
        self.changing += 1;
        let rests = self.last.as_ref() == Some(&now);
        self.last = Some(now.clone());
        let patience = self.changing < LIST_LOOKS;
        if !rests && patience {
            return None;
        }
        match now.clone().and_then(|_| ListFile::read(path)) {
            // It was written to meanwhile.
            Ok(_) if patience && Stamp::of(path) != now => None,
            Ok(read) => {
                self.changing = 0;
                self.settled = read.stamp.map(Ok);
                if self.failing.take().is_some() {
                    tracing::info!(list = shown, "the list can be read again");
                }
                Some(read)
            }
            Err(why) => {
                self.settled = Some(now);
                if self.failing.as_ref() != Some(&why) {
                    tracing::warn!(list = shown, why, "the list can't be read; the one read before stays");
                    self.failing = Some(why);
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::shop;
    use super::*;
    use std::fs;

    fn config(path: &Path) -> Arc<Config> {
        let mut config = shop();
        config.lists = vec![ListFile::read(path).unwrap()];
        Arc::new(config)
    }

    /// What the next look reads, as the number of values.
    fn next(watch: &mut Watch, config: &Arc<Config>) -> Option<usize> {
        watch.look(config).pop().map(|(index, read)| {
            assert_eq!(index, 0);
            read.values.len()
        })
    }

    #[test]
    fn a_change_counts_when_two_looks_agree() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        fs::write(&path, "a\n").unwrap();
        let config = config(&path);
        let watch = &mut Watch::default();
        assert_eq!((next(watch, &config), next(watch, &config), next(watch, &config)), (None, None, None));
        for text in ["a\nb", "a\nbb", "a\nbbb"] {
            fs::write(&path, text).unwrap();
            assert_eq!(next(watch, &config), None, "{text}");
        }
        assert_eq!(next(watch, &config), Some(2));
    }

    #[test]
    fn a_file_that_never_rests_is_read_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        fs::write(&path, "a\n").unwrap();
        let (config, watch) = (config(&path), &mut Watch::default());
        let mut text = "a\n".to_owned();
        let reads: Vec<Option<usize>> = (0..LIST_LOOKS)
            .map(|n| {
                text += &format!("user-{n}\n");
                fs::write(&path, &text).unwrap();
                next(watch, &config)
            })
            .collect();
        let looks = LIST_LOOKS as usize;
        assert_eq!(reads[..looks - 1], vec![None; looks - 1]);
        assert_eq!(reads[looks - 1], Some(looks + 1));
    }

    #[test]
    fn a_replaced_file_is_another_even_with_the_same_size() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("list"), folder.path().join("new"));
        fs::write(&path, "a\n").unwrap();
        let (config, watch) = (config(&path), &mut Watch::default());
        let old = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&other, "b\n").unwrap();
        fs::File::options().write(true).open(&other).unwrap().set_modified(old).unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(next(watch, &config), None);
        let read = watch.look(&config).pop().unwrap().1;
        assert!(read.values.contains(b"b") && !read.values.contains(b"a"));
    }

    #[test]
    fn a_file_that_can_t_be_read_changes_nothing_until_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        fs::write(&path, "a\n").unwrap();
        let (config, watch) = (config(&path), &mut Watch::default());
        fs::remove_file(&path).unwrap();
        let failing = |watch: &Watch| watch.files[&path].failing.clone().unwrap_or_default();
        for _ in 0..3 {
            assert_eq!(next(watch, &config), None);
        }
        assert!(failing(watch).starts_with("cannot read: No such file"));
        fs::create_dir(&path).unwrap();
        for _ in 0..3 {
            assert_eq!(next(watch, &config), None);
        }
        assert_eq!(failing(watch), "not a file");
        fs::remove_dir(&path).unwrap();
        let file = fs::File::create(&path).unwrap();
        file.set_len(crate::limits::LIST_BYTES + 1).unwrap();
        for _ in 0..3 {
            assert_eq!(next(watch, &config), None);
        }
        assert_eq!(failing(watch), "larger than 268435456 bytes");
        fs::write(&path, "b\nc\n").unwrap();
        assert_eq!((next(watch, &config), next(watch, &config)), (None, Some(2)));
        assert_eq!(failing(watch), "");
    }
}
