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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::command::Edit;
    use crate::control::fixtures::{cause, commit, ground};
    use crate::control::ground::Ground;
    use crate::control::ground::tests::{change, named, three};
    use crate::control::persist::StateDir;
    use crate::routing::split::Weight;
    use proptest::prelude::*;

    /// Shifts the route and gives the revision that came of it.
    fn shifted(ground: &mut Ground, percent: f64) -> Vec<Arc<Entry>> {
        let changed = ground.changed(&change(Edit::Patch(named(&[("b", percent)]))), cause().now).unwrap();
        ground.apply(&changed.route);
        changed.changed().then(|| Arc::clone(changed.route.live.history.newest().unwrap())).into_iter().collect()
    }

    fn save(state: &StateDir, ground: &Ground, revisions: Vec<Arc<Entry>>) {
        state.commit(&commit(ground, revisions)).unwrap();
    }

    /// A folder where a route was started and shifted to each of these.
    fn lived(percents: &[f64]) -> (tempfile::TempDir, Ground) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let mut ground = ground(three());
        save(&state, &ground, ground.routes[0].history.entries().to_vec());
        for percent in percents {
            let revisions = shifted(&mut ground, *percent);
            save(&state, &ground, revisions);
        }
        (dir, ground)
    }

    fn log_in(dir: &tempfile::TempDir) -> Vec<u8> {
        fs::read(dir.path().join(FILE)).unwrap()
    }

    fn generations(histories: &HashMap<String, History>) -> Vec<u64> {
        histories.get("r").map_or(Vec::new(), |history| history.entries().iter().map(|one| one.generation).collect())
    }

    #[test]
    fn what_was_appended_is_read_back() {
        let (dir, ground) = lived(&[30.0, 5.0, 45.0]);
        let state = StateDir::open(dir.path()).unwrap();
        let found = state.read().unwrap();
        assert_eq!(found.past.histories["r"].entries(), ground.routes[0].history.entries());
        assert_eq!(generations(&found.past.histories), [1, 2, 3, 4]);
        assert!(found.unacknowledged.is_empty() && found.history_set_aside.is_none());
        let text = String::from_utf8(log_in(&dir)).unwrap();
        assert_eq!((text.lines().next(), text.lines().count()), (Some("weir-history 1"), 5));
    }

    #[test]
    fn a_log_cut_anywhere_is_a_prefix_and_goes_on() {
        let (dir, _) = lived(&[30.0, 5.0]);
        let whole = log_in(&dir);
        let all = generations(&scan(&whole).histories());
        for length in 0..=whole.len() {
            let scan = scan(&whole[..length]);
            let end = *scan.end.as_ref().unwrap_or_else(|why| panic!("cut to {length} bytes: {why}")) as usize;
            assert!(end <= length);
            assert!(end == 0 || whole[end - 1] == b'\n');
            let lines = whole[..length].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(generations(&scan.histories()), all[..lines.saturating_sub(1)], "cut to {length} bytes");
        }
    }

    #[test]
    fn an_unfinished_record_is_cut_and_the_next_one_stands_in_its_place() {
        for torn in [&b"0123456789abcdef {\"route\":\"r\",\"gen"[..], b"\0\0\0\0\n", b"x"] {
            let (dir, mut ground) = lived(&[30.0]);
            let good = log_in(&dir);
            fs::write(dir.path().join(FILE), [&good[..], torn].concat()).unwrap();
            let state = StateDir::open(dir.path()).unwrap();
            let found = state.read().unwrap();
            assert_eq!(generations(&found.past.histories), [1, 2]);
            assert!(found.history_set_aside.is_none());
            assert_eq!(log_in(&dir), good);
            let revisions = shifted(&mut ground, 7.0);
            save(&state, &ground, revisions);
            assert_eq!(generations(&state.read().unwrap().past.histories), [1, 2, 3]);
            assert!(log_in(&dir).starts_with(&good));
        }
    }

    #[test]
    fn a_damaged_middle_is_set_aside_and_what_is_whole_goes_on() {
        let (dir, mut ground) = lived(&[30.0, 5.0, 45.0]);
        let whole = log_in(&dir);
        let third = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(2).unwrap().0 - 20;
        let mut damaged = whole.clone();
        damaged[third] ^= 0x11;
        fs::write(dir.path().join(FILE), &damaged).unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let found = state.read().unwrap();
        assert_eq!(generations(&found.past.histories), [1, 3, 4]);
        let aside = found.history_set_aside.unwrap();
        assert_eq!(fs::read(&aside.path).unwrap(), damaged);
        assert!(aside.path.to_str().unwrap().contains("history.log.corrupt-") && aside.why.contains("at byte"));
        let revisions = shifted(&mut ground, 7.0);
        save(&state, &ground, revisions);
        let again = state.read().unwrap();
        assert!(again.history_set_aside.is_none());
        assert_eq!(generations(&again.past.histories), [1, 2, 3, 4, 5], "written whole from what is live");
    }

    #[test]
    fn files_of_other_kinds_are_set_aside() {
        for (content, word) in [("garbage", "corrupt"), ("weir-history 2\nx", "newer"), ("weir-history x\n", "corrupt")]
        {
            let (dir, ground) = lived(&[30.0]);
            fs::write(dir.path().join(FILE), content).unwrap();
            let state = StateDir::open(dir.path()).unwrap();
            let found = state.read().unwrap();
            let aside = found.history_set_aside.unwrap();
            assert!(aside.path.to_str().unwrap().contains(&format!("history.log.{word}-")), "{aside:?}");
            assert_eq!(found.past.saved["r"].generation, ground.routes[0].generation);
            assert!(found.past.histories.is_empty());
        }
    }

    #[test]
    fn what_lies_beyond_the_live_state_never_happened() {
        let (dir, mut ground) = lived(&[30.0, 5.0]);
        let live = fs::read(dir.path().join("live.json")).unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        state.read().unwrap();
        let revisions = shifted(&mut ground, 77.0);
        save(&state, &ground, revisions);
        drop(state);
        // As if the process had ended between the two.
        fs::write(dir.path().join("live.json"), live).unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let found = state.read().unwrap();
        assert_eq!(generations(&found.past.histories), [1, 2, 3]);
        assert_eq!(found.unacknowledged.iter().map(|one| one.generation).collect::<Vec<_>>(), [4]);
        let known = Ground::start(three(), found.past, HashMap::new(), 1, &cause()).0;
        save(&state, &known, Vec::new());
        assert!(state.read().unwrap().unacknowledged.is_empty(), "it is not in the file any more");
    }

    #[test]
    fn what_never_happened_takes_no_place_of_what_did() {
        let most = crate::limits::HISTORY_PER_ROUTE;
        let (dir, mut ground) = lived(&[]);
        let state = StateDir::open(dir.path()).unwrap();
        state.read().unwrap();
        for turn in 2..=most {
            let revisions = shifted(&mut ground, turn as f64 / 10.0);
            state.log().append(&commit(&ground, revisions)).unwrap();
        }
        save(&state, &ground, Vec::new());
        let revisions = shifted(&mut ground, 77.0);
        state.log().append(&commit(&ground, revisions)).unwrap();
        let found = state.read().unwrap();
        assert_eq!(generations(&found.past.histories), (1..=most as u64).collect::<Vec<_>>());
        assert_eq!(found.unacknowledged.len(), 1);
    }

    #[test]
    fn a_history_of_another_life_gives_way_to_the_live_state() {
        let (dir, _) = lived(&[30.0, 5.0]);
        let (other, _) = lived(&[31.0, 6.0]);
        fs::copy(other.path().join("live.json"), dir.path().join("live.json")).unwrap();
        let found = StateDir::open(dir.path()).unwrap().read().unwrap();
        assert_eq!(generations(&found.past.histories), [1, 2]);
        let (ground, installed) = Ground::start(three(), found.past, HashMap::new(), 1, &cause());
        assert_eq!(installed.revisions.len(), 1);
        let newest = ground.routes[0].history.newest().unwrap().revision();
        assert_eq!((newest.generation, &newest.assignment), (3, &ground.routes[0].assignment));
    }

    #[test]
    fn what_failed_is_taken_back() {
        let (dir, mut ground) = lived(&[30.0]);
        let state = StateDir::open(dir.path()).unwrap();
        state.read().unwrap();
        let good = log_in(&dir);
        let before = ground.clone();
        let revisions = shifted(&mut ground, 50.0);
        for blocker in ["live.json.tmp", "audit.jsonl"] {
            fs::create_dir(dir.path().join(blocker)).unwrap();
            let mut refused = commit(&ground, revisions.clone());
            refused.audit = vec!["{}".to_owned()];
            let error = state.commit(&refused).unwrap_err().to_string();
            assert!(error.contains(blocker), "{error}");
            assert_eq!(log_in(&dir), good, "{blocker}");
            fs::remove_dir(dir.path().join(blocker)).unwrap();
            assert_eq!(fs::read(dir.path().join("audit.jsonl")).unwrap_or_default(), b"");
            let _ = fs::remove_file(dir.path().join("audit.jsonl"));
        }
        ground = before;
        let revisions = shifted(&mut ground, 60.0);
        save(&state, &ground, revisions);
        let newest = state.read().unwrap().past.histories["r"].newest().unwrap().revision();
        assert_eq!((newest.generation, newest.after()[1].1.percent()), (3, 60.0));
    }

    #[test]
    fn a_file_that_can_t_be_added_to_refuses_and_is_written_anew_once_it_can() {
        let (dir, mut ground) = lived(&[30.0]);
        let mut log = Log::in_dir(dir.path());
        let length = log_in(&dir).len() as u64;
        log.open(length, length);
        // Opened for reading only: every write fails, and so does cutting.
        log.file = Some(File::open(dir.path().join(FILE)).unwrap());
        let revisions = shifted(&mut ground, 50.0);
        let refused = commit(&ground, revisions);
        assert!(log.append(&refused).unwrap_err().to_string().contains(FILE));
        assert_eq!(log_in(&dir).len() as u64, length);
        assert!(matches!(log.append(&refused), Ok(Mark::WrittenAnew)));
        assert_eq!(generations(&scan(&log_in(&dir)).histories()), [1, 2, 3]);
    }

    #[test]
    fn a_file_of_mostly_old_records_is_written_anew() {
        let (dir, mut ground) = lived(&[]);
        let state = StateDir::open(dir.path()).unwrap();
        state.read().unwrap();
        let (mut longest, mut shrank) = (0, 0);
        let reason = "x".repeat(1000);
        for turn in 0..1400 {
            let mut asked = change(Edit::Patch(named(&[("b", f64::from(turn % 70) + 1.0)])));
            asked.origin.reason = Some(reason.clone());
            let changed = ground.changed(&asked, cause().now).unwrap();
            ground.apply(&changed.route);
            // Without flushing each: what is looked at is the length only.
            let newest = Arc::clone(changed.route.live.history.newest().unwrap());
            state.log().append(&commit(&ground, vec![newest])).unwrap();
            let length = fs::metadata(dir.path().join(FILE)).unwrap().len();
            shrank += u32::from(length < longest);
            longest = if length < longest { length } else { longest.max(length) };
        }
        let bound = 2 * (ground.totals.bytes + ground.totals.revisions * FRAME_BYTES) as u64 + SMALL_BYTES + 4096;
        assert!(shrank >= 1 && longest <= bound, "{shrank} times, {longest} of {bound} bytes");
        assert_eq!(generations(&scan(&log_in(&dir)).histories()).last(), Some(&ground.routes[0].generation));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_sequence_reads_back_and_any_cut_of_it_is_a_prefix(
            steps in prop::collection::vec((0u32..=50_000, 0u32..=50_000), 1..12),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut ground = ground(three());
            let mut bytes = HEADER.to_vec();
            let mut push = |entry: &Entry| push_line(&mut bytes, entry);
            push(ground.routes[0].history.newest().unwrap());
            for (b, c) in steps {
                let thousandths = |n| Weight::from_thousandths(n).unwrap();
                let edit = Edit::Patch(vec![("b".to_owned(), thousandths(b)), ("c".to_owned(), thousandths(c))]);
                let changed = ground.changed(&change(edit), cause().now).unwrap();
                ground.apply(&changed.route);
                if changed.changed() {
                    push(changed.route.live.history.newest().unwrap());
                }
            }
            let whole = scan(&bytes).histories();
            prop_assert_eq!(whole["r"].entries(), ground.routes[0].history.entries());
            let cut = scan(&bytes[..cut.index(bytes.len() + 1)]);
            prop_assert!(cut.end.is_ok());
            let cut = cut.histories();
            let some = cut.get("r").map(|history| history.entries().to_vec()).unwrap_or_default();
            prop_assert_eq!(&whole["r"].entries()[..some.len()], &some[..]);
        }

        #[test]
        fn no_damage_is_a_panic_nor_believed(
            at in any::<prop::sample::Index>(),
            flip in 1u8..=255,
        ) {
            let (dir, _) = lived(&[30.0, 5.0]);
            let mut bytes = log_in(&dir);
            let known = scan(&bytes).records;
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            for (_, entry) in scan(&bytes).records {
                prop_assert!(known.iter().any(|(_, known)| *known == entry));
            }
        }
    }
}
