//! Starting the process that takes this one's place. It serves before this one stops accepting, or this one goes on.

use super::handover::{Channel, Message, SOCKETS_AT_ONCE, STDIN, VARIABLE, unexpected};
use crate::control::Control;
use crate::control::handover::{Successor, UpgradeError, UpgradeRequest};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

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
    pub(super) successor: Successor,
    /// Unix sockets that it took.
    pub(super) taken: Vec<String>,
    pub(super) channel: Channel,
}

/// What an upgrade needs of the running process.
pub(super) struct Upgrading {
    pub(super) control: Control,
    pub(super) launch: Launch,
    /// By the names that they are inherited by.
    pub(super) sockets: Arc<Vec<(String, OwnedFd)>>,
}

impl Upgrading {
    pub(super) async fn run(self, request: &UpgradeRequest) -> Result<Replaced, UpgradeError> {
        if std::process::id() == 1 {
            let why =
                "weir is process 1 here, and its end would end all others of this container: replace the container";
            return Err(UpgradeError::Refused(why.to_owned()));
        }
        let program = match &request.binary {
            Some(binary) => trusted(binary).map_err(UpgradeError::Refused)?,
            None => self.launch.program.clone(),
        };
        let _no_reload = self.control.hold_reloads().await;
        let shown = program.display().to_string();
        let failed = |what: &str| UpgradeError::Failed(format!("{shown} {what}; this process goes on"));
        let (channel, theirs) = Channel::pair().map_err(|error| failed(&format!("can't be started: {error}")))?;
        let started = self.launched(&program, theirs);
        let mut child = Started(Some(started.map_err(|error| failed(&format!("can't be started: {error}")))?));
        tracing::info!(program = shown, pid = child.pid(), "a process is to take this one's place");
        let mut released = false;
        let talk = self.talk(&channel, &mut released, (request, &shown));
        let why = match tokio::time::timeout(request.timeout, talk).await {
            Ok(Ok((version, taken))) => {
                let successor = Successor { pid: child.pid(), version };
                child.live();
                return Ok(Replaced { successor, taken, channel });
            }
            Ok(Err(Unserved::Said(why))) => format!("did not come up: {why}"),
            Ok(Err(Unserved::Broke(error))) => match (channel.last_words(), child.end()) {
                (Some(why), _) => format!("did not come up: {why}"),
                (None, Some(status)) => format!("ended ({status}) before it served; what it said is in the log"),
                (None, None) => format!("did not come up: {error}"),
            },
            Err(_) => format!("did not serve within {:?} and was ended", request.timeout),
        };
        // Its lock on the state ends with it.
        child.end();
        if released && let Err(error) = self.control.resume_state().await {
            let error = format!("{why}; changes are refused until the next start: {error}");
            return Err(failed(&error));
        }
        Err(failed(&why))
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
        let mut parts = self.sockets.chunks(SOCKETS_AT_ONCE).peekable();
        if parts.peek().is_none() {
            channel.send(&Message::Sockets { names: Vec::new(), more: false }, &[]).await?;
        }
        while let Some(part) = parts.next() {
            let names = part.iter().map(|(name, _)| name.clone()).collect();
            let handles: Vec<_> = part.iter().map(|(_, socket)| socket.as_fd()).collect();
            channel.send(&Message::Sockets { names, more: parts.peek().is_some() }, &handles).await?;
        }
        match channel.receive().await?.0 {
            Message::Prepared => {}
            other => return Err(Unserved::of(other)),
        }
        *released = true;
        let copy = self.control.release_state(request.origin.clone(), program.to_owned()).await;
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
}

impl Unserved {
    fn of(message: Message) -> Unserved {
        match message {
            Message::Failed { why } => Unserved::Said(why),
            other => Unserved::Broke(unexpected(&other)),
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

    /// It goes on without this process. Should it end before this one has drained, somebody waits for it.
    fn live(mut self) {
        let Some(mut child) = self.0.take() else { return };
        let waiting = std::thread::Builder::new().name("weir-successor".to_owned());
        let _ = waiting.spawn(move || child.wait());
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

/// Who may call the API may not by that run whatever file as this user.
fn trusted(binary: &Path) -> Result<PathBuf, String> {
    let shown = binary.display();
    let found = binary.metadata().map_err(|error| format!("{shown}: {error}"))?;
    if !found.is_file() || found.mode() & 0o111 == 0 {
        return Err(format!("{shown} is no program"));
    }
    let user = rustix::process::geteuid().as_raw();
    if (found.uid() != 0 && found.uid() != user) || found.mode() & 0o022 != 0 {
        return Err(format!("{shown} must belong to root or to weir's user, and nobody else may be able to write it"));
    }
    Ok(binary.to_owned())
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
                (Ok(found), None) => assert_eq!(found, file),
                (Err(why), Some(what)) => assert!(why.contains(what), "{why}"),
                (result, _) => panic!("{mode:o}: {result:?}"),
            }
        }
        assert!(trusted(dir.path()).is_err());
    }

    #[test]
    fn this_process_can_be_started_again() {
        let launch = Launch::of_this_process().unwrap();
        assert!(launch.program.is_absolute() && launch.program.is_file(), "{launch:?}");
    }
}
