//! A dry run: what a new binary says of itself and of the configuration. Nothing is handed over.

use crate::control::handover::{Successor, UpgradeError};
use rustix::process::{Pid, Signal};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tokio::sync::oneshot;

/// What of the findings is told.
const SAID_BYTES: usize = 4096;

/// Asks the binary for its version, and whether it can serve `file`.
pub(super) async fn tried(
    program: &Path,
    file: &Path,
    within: Duration,
    aborted: oneshot::Receiver<()>,
) -> Result<Successor, UpgradeError> {
    let shown = program.display();
    let asked = async {
        let version = output(program, &["--version".as_ref()]).await?;
        let version = version_of(&version).ok_or_else(|| format!("{shown} is no weir: it has no --version"))?;
        let checked = output(program, &["check".as_ref(), file.as_os_str()]).await?;
        if !checked.status.success() {
            let said = String::from_utf8_lossy(&checked.stderr).into_owned();
            let said = said[..said.floor_char_boundary(SAID_BYTES)].trim();
            return Err(format!("{shown} {version} can't serve {}: {said}", file.display()));
        }
        Ok(Successor { pid: None, version })
    };
    tokio::select! {
        asked = tokio::time::timeout(within, asked) => match asked {
            Ok(asked) => asked.map_err(UpgradeError::Failed),
            Err(_) => Err(UpgradeError::TimedOut(format!("{shown} said nothing within {within:?}"))),
        },
        _ = aborted => Err(UpgradeError::Stopped),
    }
}

/// Ended when the future is dropped.
async fn output(program: &Path, args: &[&std::ffi::OsStr]) -> Result<Output, String> {
    let shown = program.display().to_string();
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| format!("{shown} can't be started: {error}"))?;
    let mut running = Running(i32::try_from(child.id()).ok().and_then(Pid::from_raw));
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await;
    running.0 = None;
    output.map_err(|error| error.to_string())?.map_err(|error| format!("{shown}: {error}"))
}

/// A process that somebody waits for.
struct Running(Option<Pid>);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended a moment ago.
        let _ = self.0.map(|pid| rustix::process::kill_process(pid, Signal::KILL));
    }
}

/// `weir 0.1.1`, and nothing else.
fn version_of(output: &Output) -> Option<String> {
    let said = std::str::from_utf8(&output.stdout).ok().filter(|_| output.status.success())?;
    let version = said.trim().strip_prefix("weir ")?;
    (!version.is_empty() && version.len() < 100 && !version.contains(char::is_control)).then(|| version.to_owned())
}
