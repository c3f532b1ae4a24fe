//! Live state on disk: one file that is replaced whole, and beside it the history and the audit log, which grow.
//!
//! `live.json` is a header line, `weir-live 1 <XXH3-64 of the body, 16 hexadecimal digits> <body's bytes>`, and a JSON
//! body. It is written beside itself, flushed, renamed over the old one, and the directory flushed, so that at every
//! moment either the old or the new file is there whole. A file that can't be trusted (damaged, or of a newer Weir)
//! is renamed aside, never deleted nor overwritten. A lock file keeps two processes from writing one directory.
//!
//! A change goes to the [history](log) first, then to the [audit log](audit), then into `live.json`, each flushed before
//! the next. So `live.json` decides: whatever the history has beyond a route's generation there was never
//! acknowledged. What fails on the way is taken back from the files before it.

mod audit;
mod log;

use super::ground::{LiveRoute, Past};
use super::history::{Entry, History, Totals};
use super::rollout::LiveRollout;
use crate::config::RouteConfig;
use crate::routing::split::{Assignment, Run, Weight};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

const FILE: &str = "live.json";
const LOCK: &str = "live.lock";
const MAGIC: &str = "weir-live";
const VERSION: u32 = 1;

/// A directory that this process alone writes, until it is dropped.
#[derive(Debug)]
pub struct StateDir {
    dir: PathBuf,
    log: Mutex<log::Log>,
    _lock: File,
}

/// What one batch of changes leaves behind.
#[derive(Debug)]
pub struct Commit {
    /// Of `live.json`.
    pub body: Vec<u8>,
    /// What the history gets.
    pub revisions: Vec<Arc<Entry>>,
    /// Every route with its history, these revisions among it.
    pub routes: Vec<Arc<LiveRoute>>,
    pub totals: Totals,
    /// Lines of the audit log, without their ends.
    pub audit: Vec<String>,
}

/// A route as it was saved.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    pub generation: u64,
    pub variants: Vec<String>,
    /// The file's weights that the live ones overrode, one per variant.
    pub file: Vec<Weight>,
    pub assignment: Assignment,
    pub rollout: Option<Arc<LiveRollout>>,
}

/// What was found at start.
#[derive(Debug, Default)]
pub struct Found {
    pub past: Past,
    /// The body as it stands on disk; empty without a file.
    pub body: Vec<u8>,
    /// Revisions that never came into force: the process ended between writing them and the live state.
    pub unacknowledged: Vec<Arc<Entry>>,
    pub set_aside: Option<SetAside>,
    pub history_set_aside: Option<SetAside>,
}

/// A file that was not used, and where it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    pub path: PathBuf,
    pub why: String,
}

/// Saving or reading failed; for the operator.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StateError {
    #[error("can't {doing} {}: {source}{}", .path.display(), hint(.source))]
    Io { doing: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error("{} is in use by another weir{holder}; give each process a server.state_dir of its own", .path.display())]
    Locked { path: PathBuf, holder: String },
    #[error("another process takes over and has the state now; try again")]
    HandedOver,
    #[error("saving the live state failed: {0}")]
    Writer(String),
}

impl StateError {
    /// The thread that writes ended early.
    pub fn writer(error: &impl std::fmt::Display) -> StateError {
        StateError::Writer(error.to_string())
    }
}

impl Saved {
    pub fn of(route: &RouteConfig, live: &LiveRoute) -> Saved {
        Saved {
            generation: live.generation,
            variants: route.variants.iter().map(|variant| variant.name.clone()).collect(),
            file: route.weights.clone(),
            assignment: live.assignment.clone(),
            rollout: live.rollout.clone(),
        }
    }

    /// The live weights by variant's name.
    pub fn shares(&self) -> Vec<(String, Weight)> {
        self.variants.iter().cloned().zip(self.assignment.weights()).collect()
    }
}

impl StateDir {
    /// Makes the directory if need be and locks it.
    pub fn open(dir: &Path) -> Result<StateDir, StateError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(failed("make the directory", dir))?;
        let path = dir.join(LOCK);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut lock = opened.map_err(failed("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StateError::Locked { path: dir.to_owned(), holder: holder(&mut lock) });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
        }
        // Only a hint for the message above: a full disk must not stop a start.
        let _ = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| write!(lock, "{}", std::process::id()));
        Ok(StateDir { dir: dir.to_owned(), log: Mutex::new(log::Log::in_dir(dir)), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// What is saved. Nothing is taken from a `live.json` that can't be trusted, and from a damaged history the records
    /// that are whole; either is set aside.
    pub fn read(&self) -> Result<Found, StateError> {
        let mut found = Found::default();
        let (mut saved, mut drained) = (None, BTreeSet::new());
        if let Some(bytes) = read_if_there(&self.dir.join(FILE))? {
            match parse(&bytes) {
                Ok((live, body)) => {
                    (saved, drained, found.body) = (Some(live.routes), live.drained, body.to_vec());
                }
                Err(distrust) => found.set_aside = Some(self.set_aside(FILE, &distrust)?),
            }
        }
        let mut histories = self.read_history(&mut found)?;
        if let Some(saved) = &saved {
            found.unacknowledged = log::confine(&mut histories, saved);
            if !found.unacknowledged.is_empty() {
                self.distrust_history();
            }
        }
        // Only now: what never happened must not take the place of what did.
        let histories = histories.into_iter().map(|(route, history)| (route, history.bounded())).collect();
        found.past = Past { saved: saved.unwrap_or_default(), histories, drained };
        Ok(found)
    }

    fn read_history(&self, found: &mut Found) -> Result<HashMap<String, History>, StateError> {
        let Some(bytes) = read_if_there(&self.dir.join(log::FILE))? else { return Ok(HashMap::new()) };
        let scan = log::scan(&bytes);
        match &scan.end {
            Ok(end) => self.log().open(*end, bytes.len() as u64),
            Err(distrust) => found.history_set_aside = Some(self.set_aside(log::FILE, distrust)?),
        }
        Ok(scan.histories())
    }

    /// Makes a batch of changes last. When this returns they survive a crash; when it fails everything is as before.
    pub fn commit(&self, commit: &Commit) -> Result<(), StateError> {
        let mut log = self.log();
        let before = log.append(commit)?;
        let audited = audit::append(&self.dir, &commit.audit);
        let written = audited.and_then(|audited| {
            let written = self.write(&commit.body);
            written.inspect_err(|_| audited.take_back())
        });
        written.inspect_err(|_| log.take_back(before))
    }

    /// Adds lines to the audit log that belong to no change.
    pub fn note(&self, lines: &[String]) -> Result<(), StateError> {
        let _one_at_a_time = self.log();
        audit::append(&self.dir, lines).map(drop)
    }

    /// Has the next commit write the history's file anew.
    pub fn distrust_history(&self) {
        self.log().distrust();
    }

    fn log(&self) -> MutexGuard<'_, log::Log> {
        self.log.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    /// Replaces the file. When this returns the new one survives a crash; when it fails the old one is still there.
    fn write(&self, body: &[u8]) -> Result<(), StateError> {
        let path = self.dir.join(FILE);
        let new = self.dir.join(format!("{FILE}.tmp"));
        let written = write_flushed(&new, body).map_err(failed("write", &new));
        let renamed = written.and_then(|()| fs::rename(&new, &path).map_err(failed("replace", &path)));
        if renamed.is_err() {
            // Gives a full disk its room back.
            let _ = fs::remove_file(&new);
        }
        renamed?;
        flush_dir(&self.dir)
    }

    fn set_aside(&self, name: &str, distrust: &Distrust) -> Result<SetAside, StateError> {
        let path = self.dir.join(name);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let word = distrust.word();
        let mut aside = self.dir.join(format!("{name}.{word}-{now}"));
        let mut nth = 1;
        // The lock is ours, so that nobody takes the name between the question and the renaming.
        while aside.symlink_metadata().is_ok() {
            aside = self.dir.join(format!("{name}.{word}-{now}-{nth}"));
            nth += 1;
        }
        fs::rename(&path, &aside).map_err(failed("set aside the damaged", &path))?;
        flush_dir(&self.dir)?;
        Ok(SetAside { path: aside, why: distrust.to_string() })
    }
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn flush_dir(dir: &Path) -> Result<(), StateError> {
    File::open(dir).and_then(|opened| opened.sync_all()).map_err(failed("flush", dir))
}

/// One route as JSON.
pub fn record(route: &RouteConfig, generation: u64, assignment: &Assignment, rollout: Option<&LiveRollout>) -> String {
    let record = Record {
        route: route.name.clone(),
        generation,
        variants: route.variants.iter().map(|variant| variant.name.clone()).collect(),
        file: route.weights.iter().map(|weight| weight.thousandths()).collect(),
        runs: assignment.runs().iter().map(|run| (run.end, run.variant)).collect(),
        rollout: rollout.map(|rollout| rollout.record.clone()),
    };
    serde_json::to_string(&record).expect("strings and numbers always serialise")
}

/// The file's body of these records, and of the pools and targets that are drained.
pub fn body<'r>(records: impl Iterator<Item = &'r str>, drained: &BTreeSet<(String, String)>) -> Vec<u8> {
    let mut body = b"{\"routes\":[\n".to_vec();
    for (at, record) in records.enumerate() {
        if at > 0 {
            body.extend_from_slice(b",\n");
        }
        body.extend_from_slice(record.as_bytes());
    }
    body.extend_from_slice(b"\n]");
    if !drained.is_empty() {
        body.extend_from_slice(b",\"drained\":");
        body.extend(serde_json::to_vec(drained).expect("strings always serialise"));
    }
    body.extend_from_slice(b"}\n");
    body
}

/// Weights in thousandths of a percent; a run is its end and its variant's place.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    route: String,
    generation: u64,
    variants: Vec<String>,
    file: Vec<u32>,
    runs: Vec<(u32, u8)>,
    /// As the rollout wrote it; taken apart by whoever drives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rollout: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    routes: Vec<Record>,
    #[serde(default)]
    drained: BTreeSet<(String, String)>,
}

/// What a file that can be trusted says.
struct Live {
    routes: HashMap<String, Saved>,
    drained: BTreeSet<(String, String)>,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
enum Distrust {
    #[error("it is of version {0}, and this weir reads version {VERSION}")]
    Newer(u32),
    #[error("{0}")]
    Damaged(String),
}

impl Distrust {
    fn word(&self) -> &'static str {
        match self {
            Distrust::Newer(_) => "newer",
            Distrust::Damaged(_) => "corrupt",
        }
    }
}

fn damaged(what: impl Into<String>) -> Distrust {
    Distrust::Damaged(what.into())
}

fn parse(bytes: &[u8]) -> Result<(Live, &[u8]), Distrust> {
    let line = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("it has no header line"))?;
    let (header, body) = (&bytes[..line], &bytes[line + 1..]);
    let header = std::str::from_utf8(header).map_err(|_| damaged("its header is not text"))?;
    let mut words = header.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(damaged(format!("its first line does not start with {MAGIC:?}")));
    }
    let version: u32 =
        words.next().and_then(|word| word.parse().ok()).ok_or_else(|| damaged("its header has no version"))?;
    if version > VERSION {
        return Err(Distrust::Newer(version));
    }
    if version != VERSION || header != header_line(body) {
        return Err(damaged("its checksum or length does not match its content"));
    }
    let parsed: Body = serde_json::from_slice(body).map_err(|error| damaged(format!("its content: {error}")))?;
    let mut routes = HashMap::with_capacity(parsed.routes.len());
    for record in parsed.routes {
        let name = record.route.clone();
        let saved = record.into_saved().map_err(|what| damaged(format!("route {name:?}: {what}")))?;
        if routes.insert(name.clone(), saved).is_some() {
            return Err(damaged(format!("route {name:?} is there twice")));
        }
    }
    Ok((Live { routes, drained: parsed.drained }, body))
}

impl Record {
    fn into_saved(self) -> Result<Saved, String> {
        if self.variants.len() != self.file.len() || self.generation == 0 {
            return Err("its variants, weights or generation don't agree".to_owned());
        }
        let file: Result<Vec<Weight>, _> = self.file.iter().map(|weight| Weight::from_thousandths(*weight)).collect();
        let runs = self.runs.iter().map(|(end, variant)| Run { end: *end, variant: *variant }).collect();
        let assignment = Assignment::from_runs(self.variants.len(), runs).map_err(|error| error.to_string())?;
        let file = file.map_err(|error| error.to_string())?;
        let rollout = self.rollout.map(|record| Arc::new(LiveRollout::found(record)));
        Ok(Saved { generation: self.generation, variants: self.variants, file, assignment, rollout })
    }
}

fn header_line(body: &[u8]) -> String {
    format!("{MAGIC} {VERSION} {:016x} {}", xxhash_rust::xxh3::xxh3_64(body), body.len())
}

fn write_flushed(path: &Path, body: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut bytes = header_line(body).into_bytes();
    bytes.push(b'\n');
    bytes.extend_from_slice(body);
    file.write_all(&bytes)?;
    file.sync_all()
}

fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> StateError {
    move |source| StateError::Io { doing, path: path.to_owned(), source: Arc::new(source) }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; weir must be able to write server.state_dir"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room there and try again",
        _ => "",
    }
}

/// ` (pid 123)` when the lock file says so.
fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    let read = lock.rewind().and_then(|()| lock.take(32).read_to_string(&mut text));
    match read.ok().and_then(|_| text.trim().parse::<u32>().ok()) {
        Some(pid) => format!(" (pid {pid})"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(thousandths: &[u32]) -> Assignment {
        let weights: Vec<Weight> =
            thousandths.iter().map(|weight| Weight::from_thousandths(*weight).unwrap()).collect();
        Assignment::starting(&weights).unwrap()
    }

    fn sample() -> Vec<u8> {
        let record = |name: &str, assignment: &Assignment| {
            serde_json::to_string(&Record {
                route: name.to_owned(),
                generation: 7,
                variants: vec!["stable".to_owned(), "canary".to_owned()],
                file: vec![100_000, 0],
                runs: assignment.runs().iter().map(|run| (run.end, run.variant)).collect(),
                rollout: (name == "shop").then(|| serde_json::json!({"phase": "step"})),
            })
            .unwrap()
        };
        let (shop, api) = (record("shop", &assignment(&[95_000, 5_000])), record("api", &assignment(&[0, 100_000])));
        body([shop.as_str(), api.as_str()].into_iter(), &BTreeSet::new())
    }

    fn file_of(body: &[u8]) -> Vec<u8> {
        let mut file = header_line(body).into_bytes();
        file.push(b'\n');
        file.extend_from_slice(body);
        file
    }

    #[test]
    fn drained_targets_are_read_back_and_a_file_without_them_is_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let drained = BTreeSet::from([("p\"".to_owned(), "127.0.0.1:1".to_owned()), ("q".to_owned(), "x".to_owned())]);
        state.write(&body(std::iter::empty(), &drained)).unwrap();
        let found = state.read().unwrap();
        assert_eq!((found.past.drained, found.set_aside), (drained, None));
        assert_eq!(body(std::iter::empty(), &BTreeSet::new()), b"{\"routes\":[\n\n]}\n");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("a/b")).unwrap();
        assert!(state.read().unwrap().past.saved.is_empty());
        state.write(&sample()).unwrap();
        let found = state.read().unwrap();
        assert_eq!(found.body, sample());
        assert_eq!(found.set_aside, None);
        let shop = &found.past.saved["shop"];
        assert_eq!((shop.generation, shop.variants.len()), (7, 2));
        assert!(shop.rollout.as_ref().is_some_and(|rollout| rollout.under_way));
        assert_eq!(shop.assignment, assignment(&[95_000, 5_000]));
        assert_eq!(found.past.saved["api"].assignment, assignment(&[0, 100_000]));
    }

    #[test]
    fn a_file_cut_at_any_byte_is_not_trusted() {
        let whole = file_of(&sample());
        assert!(parse(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(matches!(parse(&whole[..length]), Err(Distrust::Damaged(_))), "cut to {length} bytes");
        }
        let mut longer = whole;
        longer.push(b'\n');
        assert!(matches!(parse(&longer), Err(Distrust::Damaged(_))));
    }

    #[test]
    fn a_file_with_any_byte_changed_is_not_trusted() {
        let whole = file_of(&sample());
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x11;
            assert!(parse(&changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn content_that_makes_no_sense_is_not_trusted_though_its_checksum_is_right() {
        for body in [
            r#"{"routes":[{"route":"a","generation":1,"variants":["s"],"file":[100000],"runs":[[50000,0]]}]}"#,
            r#"{"routes":[{"route":"a","generation":1,"variants":["s"],"file":[100000],"runs":[[100000,3]]}]}"#,
            r#"{"routes":[{"route":"a","generation":0,"variants":["s"],"file":[100000],"runs":[[100000,0]]}]}"#,
            r#"{"routes":[{"route":"a","generation":1,"variants":["s","c"],"file":[100000],"runs":[[100000,0]]}]}"#,
            r#"{"routes":[{"route":"a","generation":1,"variants":["s"],"file":[100001],"runs":[[100000,0]]}]}"#,
            r#"{"routes":[],"extra":1}"#,
            "[]",
            "",
        ] {
            assert!(matches!(parse(&file_of(body.as_bytes())), Err(Distrust::Damaged(_))), "{body}");
        }
        let twice = r#"{"route":"a","generation":1,"variants":["s"],"file":[100000],"runs":[[100000,0]]}"#;
        assert!(parse(&file_of(&body([twice, twice].into_iter(), &BTreeSet::new()))).is_err());
    }

    #[test]
    fn damaged_and_newer_files_are_set_aside_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let mut kept = Vec::new();
        for (content, word) in
            [("garbage", "corrupt"), ("rubbish", "corrupt"), ("weir-live 2 x y\n{}", "newer"), ("", "corrupt")]
        {
            fs::write(dir.path().join(FILE), content).unwrap();
            let found = state.read().unwrap();
            let aside = found.set_aside.unwrap();
            assert!(found.past.saved.is_empty() && found.body.is_empty());
            let name = aside.path.file_name().unwrap().to_str().unwrap().to_owned();
            assert!(name.starts_with(&format!("live.json.{word}-")), "{name}");
            kept.push((aside.path, content));
        }
        assert!(!dir.path().join(FILE).exists());
        for (path, content) in kept {
            assert_eq!(fs::read_to_string(path).unwrap(), content);
        }
    }

    #[test]
    fn a_second_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap();
        let refused = StateDir::open(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("in use by another weir (pid {})", std::process::id())), "{refused}");
        drop(first);
        StateDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_place_that_is_no_directory_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let refused = StateDir::open(&file).unwrap_err().to_string();
        assert!(refused.contains(file.to_str().unwrap()), "{refused}");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        state.write(&sample()).unwrap();
        fs::create_dir(dir.path().join("live.json.tmp")).unwrap();
        let error = state.write(b"other").unwrap_err().to_string();
        assert!(error.contains("live.json.tmp"), "{error}");
        assert_eq!(state.read().unwrap().body, sample());
        fs::remove_dir(dir.path().join("live.json.tmp")).unwrap();
        state.write(&body(std::iter::empty(), &BTreeSet::new())).unwrap();
        assert!(state.read().unwrap().past.saved.is_empty());
    }
}
