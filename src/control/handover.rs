//! Another process takes this one's place: who asks for it, and how the state goes there without two writers.
//!
//! The state directory is let go of before the other process opens it, and from then on no change is taken here. Should
//! the other not come up, this one takes the directory again, and what it has in memory is what holds.

use super::Control;
use super::admin::Taken;
use super::audit::{self, Refused};
use super::command::{ChangeError, Command, DrainError, Origin};
use super::controller::Controller;
pub use super::persist::StateError;
use super::persist::{Commit, Found, StateDir};
pub use super::resolve::Found as KnownAddress;
use super::save::SaveError;
use crate::net::inherited::Handle;
use jiff::Timestamp;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{SemaphorePermit, mpsc, oneshot, watch};

/// A wish to be replaced.
#[derive(Debug)]
pub struct Upgrade {
    pub request: UpgradeRequest,
    pub reply: oneshot::Sender<Result<Successor, UpgradeError>>,
}

#[derive(Clone, Debug)]
pub struct UpgradeRequest {
    /// None: the one that this process was started as.
    pub binary: Option<PathBuf>,
    /// Only whether that binary could serve.
    pub dry_run: bool,
    /// The other process serves within this time, or not at all.
    pub timeout: Duration,
    pub origin: Origin,
}

/// The process that serves from now on.
#[derive(Clone, Debug)]
pub struct Successor {
    /// None: it was not started, this was a dry run.
    pub pid: Option<u32>,
    pub version: String,
}

/// Why this process goes on; for the operator.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// Nothing was tried.
    #[error("{0}")]
    Refused(String),
    /// The other process did not come up.
    #[error("{0}")]
    Failed(String),
    /// Nor did it say why, in its time.
    #[error("{0}")]
    TimedOut(String),
    #[error("weir is stopping")]
    Stopped,
}

/// What the control plane knows of upgrades.
#[derive(Debug)]
pub(super) struct Upgrades {
    /// Where wishes go.
    wanted: OnceLock<mpsc::Sender<Upgrade>>,
    /// Sockets that another process has taken over.
    taken: watch::Sender<Option<Vec<String>>>,
}

impl Default for Upgrades {
    fn default() -> Upgrades {
        Upgrades { wanted: OnceLock::new(), taken: watch::Sender::new(None) }
    }
}

impl Upgrades {
    pub(super) fn taken(&self) -> Taken {
        self.taken.subscribe()
    }
}

/// What the controller is asked.
#[derive(Debug)]
pub enum HandOver {
    /// Let go of the state.
    Release { origin: Origin, binary: String, reply: oneshot::Sender<Released> },
    /// Have it again.
    Resume { reply: oneshot::Sender<Result<(), StateError>> },
}

/// Where a copy of the state is, if it was in memory only.
type Released = Result<Option<PathBuf>, StateError>;

/// The state as it was let go of.
#[derive(Clone, Debug, Default)]
pub struct Handed {
    /// The state directory that was locked until then.
    dir: Option<PathBuf>,
    /// Without one: where the live weights and their history were left.
    copy: Option<PathBuf>,
    /// The other process has gone, and the directory could not be had again yet.
    is_back: bool,
}

impl Control {
    /// Says where wishes to be replaced go. Without it they are refused.
    pub fn on_upgrade(&self, wanted: mpsc::Sender<Upgrade>) {
        // There is one who can do it, and it says so once.
        let _ = self.shared.upgrades.wanted.set(wanted);
    }

    pub(super) async fn upgrade(&self, request: UpgradeRequest) -> Result<Successor, UpgradeError> {
        let refused = || UpgradeError::Refused("this process can't be replaced".to_owned());
        let wanted = self.shared.upgrades.wanted.get().ok_or_else(refused)?;
        let (reply, answer) = oneshot::channel();
        wanted.send(Upgrade { request, reply }).await.map_err(|_| UpgradeError::Stopped)?;
        answer.await.unwrap_or(Err(UpgradeError::Stopped))
    }

    /// For the audit log.
    pub async fn not_upgraded(&self, origin: &Origin, error: &UpgradeError) {
        self.refused(Refused::upgrade(origin, error, Timestamp::now())).await;
    }

    /// Until it is dropped, reloads wait: the other process has read the files.
    pub async fn hold_reloads(&self) -> Option<SemaphorePermit<'_>> {
        self.shared.reloading.acquire().await.ok()
    }

    /// Handles on the admin sockets, by the names that they are inherited by. They are handed out once.
    pub fn take_handles(&self) -> Vec<Handle> {
        std::mem::take(&mut *self.shared.handles.lock().unwrap_or_else(|broken| broken.into_inner()))
    }

    /// The addresses of targets that are names, each name as it is written.
    pub fn known_addresses(&self) -> Vec<(String, KnownAddress)> {
        let addresses = Arc::clone(&self.ground().addresses);
        addresses.iter().flat_map(|(name, found)| found.iter().map(|one| (name.to_string(), *one))).collect()
    }

    /// Lets go of the state: when this returns, changes are refused and the directory's lock is free. Without a
    /// directory, where a copy of the live weights is. After an error nothing has changed.
    pub async fn release_state(&self, origin: Origin, binary: String) -> Released {
        let (reply, answer) = oneshot::channel();
        let released = self.ask(Command::HandOver(HandOver::Release { origin, binary, reply }), answer).await;
        released.unwrap_or(Err(StateError::HandedOver))
    }

    /// The other process did not come up, and is gone: changes are taken again.
    pub async fn resume_state(&self) -> Result<(), StateError> {
        let (reply, answer) = oneshot::channel();
        let resumed = self.ask(Command::HandOver(HandOver::Resume { reply }), answer).await;
        resumed.unwrap_or(Err(StateError::HandedOver))
    }

    /// The other process serves: the admin addresses are its own now; of files, only those of sockets that it took stay.
    pub fn handed_over(&self, taken: Vec<String>) {
        self.shared.upgrades.taken.send_replace(Some(taken));
    }
}

/// The live weights and the history that a process without a state directory left there; the copy is removed.
pub(super) fn read_copy(copy: &Path) -> Result<Found, StateError> {
    let found = StateDir::open(copy)?.read()?;
    remove(copy);
    Ok(found)
}

/// What of a batch is done, and what comes after it. What would change the state while it is handed over is refused;
/// what comes in one batch with the wish still goes before.
pub(super) fn parted(batch: Vec<Command>, handed: bool) -> (Vec<Command>, Vec<HandOver>) {
    let (mut stay, mut handing) = (Vec::with_capacity(batch.len()), Vec::new());
    for command in batch {
        match command {
            Command::HandOver(one) => handing.push(one),
            // The caller may have gone.
            Command::Change { reply, .. } if handed => {
                drop(reply.send(Err(ChangeError::NotSaved(StateError::HandedOver))));
            }
            Command::Install { reply, .. } if handed => drop(reply.send(Err(StateError::HandedOver))),
            Command::Drain { reply, .. } if handed => {
                drop(reply.send(Err(DrainError::NotSaved(StateError::HandedOver))))
            }
            Command::Roll { reply, .. } if handed => drop(reply.send(Err(StateError::HandedOver))),
            Command::Save { reply, .. } if handed => drop(reply.send(Err(SaveError::HandedOver))),
            other => stay.push(other),
        }
    }
    (stay, handing)
}

impl Controller {
    /// Lets go of the state or takes it again.
    pub(super) async fn hand_over(&mut self, handing: Vec<HandOver>) {
        for one in handing {
            match one {
                HandOver::Release { origin, binary, reply } => {
                    let released = self.release(&origin, &binary).await;
                    let _ = reply.send(released);
                }
                HandOver::Resume { reply } => {
                    let _ = reply.send(self.resume().await);
                }
            }
        }
    }

    async fn release(&mut self, origin: &Origin, binary: &str) -> Released {
        // What is in memory is what holds: nobody gets a directory that says something else.
        self.resume().await?;
        let Some(state) = self.state.take() else {
            let whole = self.whole();
            let left = tokio::task::spawn_blocking(move || leave_copy(&whole)).await;
            let copy = left.unwrap_or_else(|error| Err(StateError::writer(&error)))?;
            self.handed = Some(Handed { copy: Some(copy.clone()), ..Handed::default() });
            return Ok(Some(copy));
        };
        self.handed = Some(Handed { dir: Some(state.path().to_owned()), ..Handed::default() });
        let line = audit::handed_over(binary, origin, Timestamp::now());
        let noted = tokio::task::spawn_blocking(move || state.note(&[line])).await;
        if let Err(error) = noted.unwrap_or_else(|error| Err(StateError::writer(&error))) {
            tracing::warn!(%error, "the audit log does not have the upgrade");
        }
        Ok(None)
    }

    /// The other process is gone. After an error it is tried again with the next change.
    async fn resume(&mut self) -> Result<(), StateError> {
        let Some(handed) = &mut self.handed else { return Ok(()) };
        handed.is_back = true;
        if let Some(copy) = handed.copy.take() {
            remove(&copy);
        }
        if let Some(dir) = handed.dir.clone() {
            let whole = self.whole();
            let opened = tokio::task::spawn_blocking(move || reopen(&dir, &whole)).await;
            let state = opened.unwrap_or_else(|error| Err(StateError::writer(&error)))?;
            self.state = Some(Arc::new(state));
        }
        self.handed = None;
        Ok(())
    }

    /// Before a batch of changes: the directory may be there again.
    pub(super) async fn resume_if_back(&mut self, batch: &[Command]) {
        let changes = |command: &Command| {
            use Command::{Change, Drain, Install, Roll, Save};
            matches!(command, Change { .. } | Install { .. } | Drain { .. } | Roll { .. } | Save { .. })
        };
        if self.handed.as_ref().is_some_and(|handed| handed.is_back)
            && batch.iter().any(changes)
            && let Err(error) = self.resume().await
        {
            tracing::error!(%error, "changes are refused: the state directory can't be had");
        }
    }

    /// All that is to be on disk, as if nothing was.
    fn whole(&self) -> Commit {
        Commit {
            body: self.ground.to_saved(),
            revisions: Vec::new(),
            routes: self.ground.routes.clone(),
            totals: self.ground.totals,
            audit: Vec::new(),
        }
    }
}

/// Whatever the other process has written meanwhile never came into force.
fn reopen(dir: &Path, whole: &Commit) -> Result<StateDir, StateError> {
    let state = StateDir::open(dir)?;
    let found = state.read()?;
    state.distrust_history();
    if found.body != whole.body {
        tracing::warn!("the process that did not come up had changed the saved state; it is as it was again");
        state.commit(whole)?;
    }
    Ok(state)
}

/// A directory for this user alone.
fn leave_copy(whole: &Commit) -> Result<PathBuf, StateError> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let copy = std::env::temp_dir().join(format!("weir-handover-{}-{now}", std::process::id()));
    let made = DirBuilder::new().mode(0o700).create(&copy);
    made.map_err(|source| StateError::Io { doing: "make", path: copy.clone(), source: Arc::new(source) })?;
    match StateDir::open(&copy).and_then(|state| state.commit(whole)) {
        Ok(()) => Ok(copy),
        Err(error) => {
            remove(&copy);
            Err(error)
        }
    }
}

pub(super) fn remove(copy: &Path) {
    // It may never have been there; what is left is in a folder for such.
    let _ = fs::remove_dir_all(copy);
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Process, shop, shop_in};
    use super::*;
    use crate::control::{Start, prepare};
    use crate::net::inherited::Sockets;

    async fn second(config: crate::config::Config, copy: Option<PathBuf>) -> (Control, (u64, Vec<u32>)) {
        let drain = Arc::new(crate::boundary::drain::Drain::new());
        let start = Start { config, workers: 2, drain, env: |_| None };
        let (control, _) =
            prepare(start, &mut Sockets::default(), Vec::new()).await.unwrap().start(copy).await.unwrap();
        let live = Arc::clone(&control.ground().routes[0]);
        (control, (live.generation, live.weights.iter().map(|weight| weight.thousandths()).collect()))
    }

    fn origin() -> Origin {
        Origin::signal("SIGUSR2")
    }

    const SHIFT: &str = r#"{"weights":{"canary":5}}"#;

    #[tokio::test]
    async fn the_state_goes_over_and_changes_are_refused_from_then_on() {
        let dir = tempfile::tempdir().unwrap();
        let first = Process::start(shop_in(dir.path())).await;
        assert_eq!(first.patch("shop", &[], SHIFT).await.status, 200);
        assert_eq!(first.control.release_state(origin(), "weir".to_owned()).await.unwrap(), None);
        let refused = first.patch("shop", &[], r#"{"weights":{"canary":6}}"#).await;
        assert_eq!((refused.status, refused.problem().as_str()), (503, "handed-over"));
        assert_eq!(refused.header("retry-after"), Some("1"));
        let undo = first.call("POST", "/api/v1/routes/shop/undo", &[], b"").await;
        assert_eq!(undo.status, 503);
        assert_eq!(first.get("/api/v1/routes/shop").await.status, 200, "reads go on");
        let (_second, live) = second(shop_in(dir.path()), None).await;
        assert_eq!(live, (2, vec![95_000, 5_000]));
        assert!(first.control.resume_state().await.is_err(), "the other one has it");
        assert_eq!(first.patch("shop", &[], SHIFT).await.status, 503);
        let audit = fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
        assert!(audit.contains(r#""action":"upgrade""#) && audit.contains(r#""result":"handed over""#), "{audit}");
    }

    #[test]
    fn what_a_process_that_did_not_come_up_has_written_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let own = runtime();
        let first = own.block_on(async {
            let first = Process::start(shop_in(dir.path())).await;
            assert_eq!(first.patch("shop", &[], SHIFT).await.status, 200);
            first.control.release_state(origin(), "weir".to_owned()).await.unwrap();
            first
        });
        let others = runtime();
        others.block_on(async {
            let other = Process::start(shop_in(dir.path())).await;
            assert_eq!(other.patch("shop", &[], r#"{"weights":{"canary":50}}"#).await.status, 200);
        });
        drop(others);
        own.block_on(async {
            first.control.resume_state().await.unwrap();
            assert_eq!(first.live("shop"), (2, vec![95_000, 5_000]));
            assert_eq!(first.patch("shop", &[], r#"{"weights":{"canary":7}}"#).await.status, 200);
        });
        drop((first, own));
        runtime().block_on(async {
            let last = Process::start(shop_in(dir.path())).await;
            assert_eq!(last.live("shop"), (3, vec![93_000, 7_000]));
            let history = last.get("/api/v1/routes/shop/history").await.json();
            let generations = history["revisions"].as_array().unwrap().iter();
            let generations: Vec<u64> = generations.map(|one| one["generation"].as_u64().unwrap()).collect();
            assert_eq!(generations, [3, 2, 1]);
        });
    }

    #[tokio::test]
    async fn live_weights_in_memory_go_over_with_their_history() {
        let first = Process::start(shop()).await;
        assert_eq!(first.patch("shop", &[], SHIFT).await.status, 200);
        let copy = first.control.release_state(origin(), "weir".to_owned()).await.unwrap().unwrap();
        let (control, live) = second(shop(), Some(copy.clone())).await;
        assert_eq!(live, (2, vec![95_000, 5_000]));
        assert_eq!(control.ground().routes[0].history.entries().len(), 2);
        assert!(!copy.exists());
        first.control.resume_state().await.unwrap();
        assert_eq!(first.patch("shop", &[], r#"{"weights":{"canary":6}}"#).await.status, 200);
    }

    #[tokio::test]
    async fn a_directory_that_could_not_be_had_again_is_tried_again_and_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let first = Process::start(shop_in(dir.path())).await;
        first.control.release_state(origin(), "weir".to_owned()).await.unwrap();
        let held = StateDir::open(dir.path()).unwrap();
        assert!(first.control.resume_state().await.is_err());
        assert!(first.control.release_state(origin(), "weir".to_owned()).await.is_err(), "a second upgrade");
        assert!(first.control.resume_state().await.is_err());
        assert_eq!(first.patch("shop", &[], SHIFT).await.status, 503, "what can't be saved is not acknowledged");
        drop(held);
        assert_eq!(first.patch("shop", &[], SHIFT).await.status, 200);
        let saved = fs::read_to_string(dir.path().join("live.json")).unwrap();
        assert!(saved.contains("5"), "{saved}");
        assert!(StateDir::open(dir.path()).is_err(), "it is locked again");
    }

    #[tokio::test]
    async fn a_copy_that_nobody_needs_is_removed() {
        let (first, dir) = (Process::start(shop()).await, tempfile::tempdir().unwrap());
        assert_eq!(first.patch("shop", &[], SHIFT).await.status, 200);
        let copy = first.control.release_state(origin(), "weir".to_owned()).await.unwrap().unwrap();
        let (_control, live) = second(shop_in(dir.path()), Some(copy.clone())).await;
        assert_eq!((live.0, copy.exists()), (1, false), "the directory's state is what holds");
    }

    #[tokio::test]
    async fn nobody_who_can_do_it_is_a_refusal() {
        let process = Process::start(shop()).await;
        let refused = process.call("POST", "/api/v1/upgrade", &[], b"").await;
        assert_eq!((refused.status, refused.problem().as_str()), (409, "not-upgraded"));
        let json = ["content-type: application/json"];
        for (body, field) in [
            (r#"{"binary":"weir"}"#, "binary"),
            (r#"{"timeout_seconds":0}"#, "timeout_seconds"),
            (r#"{"timeout_seconds":101}"#, "timeout_seconds"),
            (r#"{"path":"/weir"}"#, "path"),
        ] {
            let refused = process.call("POST", "/api/v1/upgrade", &json, body.as_bytes()).await;
            assert_eq!((refused.status, refused.json()["field"].as_str()), (400, Some(field)), "{body}");
        }
    }
}
