//! Starting the process that takes this one's place. It serves before this one stops accepting, or this one goes on.

mod dry_run;

use super::handover::{ADDRESSES_AT_ONCE, Channel, Message, SOCKETS_AT_ONCE, STDIN, VARIABLE, unexpected};
use crate::control::Control;
use crate::control::handover::{StateError, Successor, UpgradeError, UpgradeRequest};
use crate::net::inherited::Handle;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long a process that may have clients has to end.
const END_GRACE: Duration = Duration::from_secs(3);

/// How this process was started, so that another can be in the same way.
#[derive(Clone, Debug)]
pub struct Launch {
    pub program: PathBuf,
    pub args: Vec<OsString>,
}

impl Launch {
    /// Of this process. The program is found again by the name that it was called by: what is there later is the new one,
    /// where the running file itself was moved away or a link to it changed.
    pub fn of_this_process() -> Option<Launch> {
        let mut args = std::env::args_os();
        let called = PathBuf::from(args.next()?);
        let program = if called.components().count() > 1 {
            std::path::absolute(called).ok()
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).map(|folder| folder.join(&called)).find(|file| file.is_file())
        };
        let program = program.filter(|file| file.is_file()).or_else(|| std::env::current_exe().ok())?;
        Some(Launch { program, args: args.collect() })
    }
}

/// A process that serves in this one's place, not yet known to the service manager.
#[derive(Debug)]
pub(super) struct Replaced {
    pub(super) pid: u32,
    pub(super) version: String,
    /// Unix sockets that it took.
    pub(super) taken: Vec<String>,
    pub(super) channel: Channel,
    /// How it ended, if it did without having been asked to.
    pub(super) broken: oneshot::Receiver<String>,
}

/// What came of a wish.
#[derive(Debug)]
pub(super) enum Done {
    Replaced(Replaced),
    /// A dry run: this would serve.
    Would(Successor),
}

/// What an upgrade needs of the running process.
pub(super) struct Upgrading {
    pub(super) control: Control,
    pub(super) launch: Launch,
    /// By the names that they are inherited by.
    pub(super) sockets: Arc<Vec<Handle>>,
}

impl Upgrading {
    /// Ends the process that was started when the other end of `aborted` goes.
    pub(super) async fn run(
        self,
        request: &UpgradeRequest,
        aborted: oneshot::Receiver<()>,
    ) -> Result<Done, UpgradeError> {
        if std::process::id() == 1 {
            let why =
                "weir is process 1 here, and its end would end all others of this container: replace the container";
            return Err(UpgradeError::Refused(why.to_owned()));
        }
        let _no_reload = self.control.hold_reloads().await;
        // What is looked at here is what is started: nothing on its path can be changed by others.
        let program = match &request.binary {
            Some(binary) => trusted(binary).map_err(UpgradeError::Refused)?,
            None => self.launch.program.clone(),
        };
        if request.dry_run {
            let file = self.control.config().path.clone();
            return dry_run::tried(&program, &file, request.timeout, aborted).await.map(Done::Would);
        }
        let shown = program.display().to_string();
        let failed = |what: &str| format!("{shown} {what}; this process goes on");
        let unstarted = |error: io::Error| UpgradeError::Failed(failed(&format!("can't be started: {error}")));
        let (channel, theirs) = Channel::pair().map_err(unstarted)?;
        let mut child = Started(Some(self.launched(&program, theirs).map_err(unstarted)?));
        tracing::info!(program = shown, pid = child.pid(), "a process is to take this one's place");
        let mut released = false;
        let talk = tokio::time::timeout(request.timeout, self.talk(&channel, &mut released, (request, &shown)));
        let talked = tokio::select! {
            biased;
            talked = talk => talked.unwrap_or(Err(Unserved::TimedOut)),
            _ = aborted => Err(Unserved::Aborted),
        };
        let unserved = match talked {
            Ok((version, taken)) => {
                let pid = child.pid();
                return Ok(Done::Replaced(Replaced { pid, version, taken, channel, broken: child.live() }));
            }
            Err(unserved) => unserved,
        };
        let last_words = channel.last_words();
        // It waits for no word of this one any more.
        drop(channel);
        let timed_out = matches!(unserved, Unserved::TimedOut);
        // Its lock on the state ends with it. If it had that, it may have clients, too.
        let status = if released { child.end_in_order().await } else { child.end() };
        let mut why = unserved.in_words(last_words, status, request);
        if released && let Err(error) = self.control.resume_state().await {
            why = format!("{why}; changes are refused until the state can be had again: {error}");
        }
        let why = failed(&why);
        Err(if timed_out { UpgradeError::TimedOut(why) } else { UpgradeError::Failed(why) })
    }

    fn launched(&self, program: &Path, stdin: OwnedFd) -> io::Result<Child> {
        let mut command = Command::new(program);
        command.args(&self.launch.args).env(VARIABLE, STDIN).stdin(Stdio::from(stdin));
        // Of systemd's sockets it gets those that this process has; the watchdog is the main process', which it becomes.
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        command.spawn()
    }

    /// Version of the process that serves, and the unix sockets that it took.
    async fn talk(
        &self,
        channel: &Channel,
        released: &mut bool,
        (request, program): (&UpgradeRequest, &str),
    ) -> Result<(String, Vec<String>), Unserved> {
        for part in self.sockets.chunks(SOCKETS_AT_ONCE) {
            let names = part.iter().map(|one| one.name.clone()).collect();
            let files = part.iter().map(|one| one.file).collect();
            let handles: Vec<_> = part.iter().map(|one| one.socket.as_fd()).collect();
            channel.send(&Message::Sockets { names, files, known: Vec::new(), more: true }, &handles).await?;
        }
        for part in self.control.known_addresses().chunks(ADDRESSES_AT_ONCE) {
            channel
                .send(&Message::Sockets { names: Vec::new(), files: Vec::new(), known: part.to_vec(), more: true }, &[])
                .await?;
        }
        channel
            .send(&Message::Sockets { names: Vec::new(), files: Vec::new(), known: Vec::new(), more: false }, &[])
            .await?;
        match channel.receive().await?.0 {
            Message::Prepared => {}
            other => return Err(Unserved::of(other)),
        }
        *released = true;
        let copy = self.control.release_state(request.origin.clone(), program.to_owned()).await;
        let copy = copy.map_err(Unserved::Kept)?;
        channel.send(&Message::Yours { copy }, &[]).await?;
        match channel.receive().await?.0 {
            Message::Serving { version, taken } => Ok((version, taken)),
            other => Err(Unserved::of(other)),
        }
    }
}

/// Why the other process does not serve.
enum Unserved {
    Said(String),
    /// The connection ended, or made no sense.
    Broke(io::Error),
    /// The state did not go over.
    Kept(StateError),
    TimedOut,
    /// This process ends.
    Aborted,
}

impl Unserved {
    fn of(message: Message) -> Unserved {
        match message {
            Message::Failed { why } => Unserved::Said(why),
            other => Unserved::Broke(unexpected(&other)),
        }
    }

    fn in_words(self, last_words: Option<String>, status: Option<ExitStatus>, request: &UpgradeRequest) -> String {
        match (self, last_words, status) {
            (Unserved::Said(why), ..) | (Unserved::Broke(_), Some(why), _) => format!("did not come up: {why}"),
            (Unserved::Broke(_), None, Some(status)) => {
                format!("ended ({status}) before it served; what it said is in the log")
            }
            (Unserved::Broke(error), None, None) => format!("did not come up: {error}"),
            (Unserved::Kept(error), ..) => format!("can't be given the live weights: {error}"),
            (Unserved::TimedOut, ..) => format!("did not serve within {:?} and was ended", request.timeout),
            (Unserved::Aborted, ..) => "was ended, since weir is stopping".to_owned(),
        }
    }
}

impl From<io::Error> for Unserved {
    fn from(error: io::Error) -> Unserved {
        Unserved::Broke(error)
    }
}

/// A process that ends with this value, unless it lives on.
struct Started(Option<Child>);

impl Started {
    fn pid(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    /// It goes on without this process. Should it fail before this one has drained, that is said.
    ///
    /// What is left of it then stays as it is, for whom it falls to when this process ends: a service manager learns only
    /// so that its main process is gone, and how.
    fn live(mut self) -> oneshot::Receiver<String> {
        let (broken, hears) = oneshot::channel();
        let child = self.0.take();
        let pid = child.and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        let watching = move || {
            let Some(pid) = pid else { return };
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let ended = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::Pid(pid), options));
            let Ok(Some(status)) = ended else { return };
            let how = match (status.exit_status(), status.terminating_signal()) {
                // It was asked to end, or to be replaced.
                (Some(0), _) => return,
                (Some(code), _) => format!("exit status {code}"),
                (None, signal) => format!("signal {}", signal.unwrap_or_default()),
            };
            // This process may be ending, too.
            let _ = broken.send(how);
        };
        // Without it the end is heard of when this one has drained.
        let _ = std::thread::Builder::new().name("weir-successor".to_owned()).spawn(watching);
        hears
    }

    /// Asks it to end, and ends it if it does not within [`END_GRACE`].
    async fn end_in_order(&mut self) -> Option<ExitStatus> {
        let end = Instant::now() + END_GRACE;
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let asked = pid.is_some_and(|pid| rustix::process::kill_process(pid, Signal::TERM).is_ok());
        while asked && Instant::now() < end && self.0.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.end()
    }

    /// Ends it; how it ended if it did so by itself.
    fn end(&mut self) -> Option<ExitStatus> {
        let mut child = self.0.take()?;
        // Killing one that has ended already changes nothing of its status.
        let _ = child.kill();
        let status = child.wait().ok()?;
        status.signal().is_none().then_some(status)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.end();
    }
}

/// Who may call the API may not by that run whatever file as this user. The file itself, whatever links lead there;
/// nobody else can put another in its place.
fn trusted(binary: &Path) -> Result<PathBuf, String> {
    let shown = binary.display();
    let said = |error: io::Error| format!("{shown}: {error}");
    let file = binary.canonicalize().map_err(said)?;
    let found = file.metadata().map_err(said)?;
    if !found.is_file() || found.mode() & 0o111 == 0 {
        return Err(format!("{shown} is no program"));
    }
    let user = rustix::process::geteuid().as_raw();
    for part in file.ancestors() {
        let found = part.symlink_metadata().map_err(said)?;
        // In a sticky folder nobody can move or remove what is not theirs.
        let shut = found.mode() & 0o022 == 0 || (found.is_dir() && found.mode() & 0o1000 != 0);
        if (found.uid() != 0 && found.uid() != user) || !shut {
            let part = part.display();
            let what = "must belong to root or to weir's user, and nobody else may be able to write it";
            return Err(if part.to_string() == shown.to_string() {
                format!("{shown} {what}")
            } else {
                format!("{shown}: {part} {what}")
            });
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_a_program_that_nobody_else_can_write_is_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("weir");
        assert!(trusted(&file).unwrap_err().contains("No such file"));
        std::fs::write(&file, "").unwrap();
        for (mode, what) in
            [(0o644, Some("is no program")), (0o775, Some("nobody else")), (0o757, Some("nobody else")), (0o755, None)]
        {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            match (trusted(&file), what) {
                (Ok(found), None) => assert_eq!(found, file.canonicalize().unwrap()),
                (Err(why), Some(what)) => assert!(why.contains(what), "{why}"),
                (result, _) => panic!("{mode:o}: {result:?}"),
            }
        }
        assert!(trusted(dir.path()).is_err());
    }

    #[test]
    fn nor_is_one_that_others_can_put_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, link) = (dir.path().join("bin"), dir.path().join("link"));
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("weir");
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for (mode, shut) in [(0o755, true), (0o777, false), (0o775, false), (0o1777, true)] {
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode)).unwrap();
            for path in [&file, &link] {
                match trusted(path) {
                    Ok(found) => assert!(shut && found == file.canonicalize().unwrap(), "{mode:o}: {found:?}"),
                    Err(why) => assert!(!shut && why.contains("/bin must belong"), "{mode:o}: {why}"),
                }
            }
        }
    }

    #[test]
    fn this_process_can_be_started_again() {
        let launch = Launch::of_this_process().unwrap();
        assert!(launch.program.is_absolute() && launch.program.is_file(), "{launch:?}");
    }
}
