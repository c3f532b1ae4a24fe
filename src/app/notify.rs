//! What a service manager is told: `sd_notify(3)`, a datagram of lines to the socket that `$NOTIFY_SOCKET` names.
//!
//! The watchdog is fed only while every worker's clock moves: a process that answers its admin API while a worker hangs
//! loses the clients that the kernel gives to that worker. Without the variables all of this does nothing.

use crate::boundary::outcomes::WorkerOutcomes;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// A manager that does not read must not hold the control plane up for longer.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// Without a watchdog nobody waits for what is looked at.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);
/// Several sweeps of a worker's clock fit in, also on a busy machine.
const SHORTEST: Duration = Duration::from_millis(250);

/// The manager's socket, if there is one, and how often it wants to hear.
pub(super) struct Notify {
    manager: Option<(UnixDatagram, SocketAddr)>,
    /// The watchdog's time-out.
    watchdog: Option<Duration>,
    /// Each worker's beats at the last look.
    beats: Vec<u64>,
}

impl Notify {
    /// `var` looks up the environment, `pid` is this process.
    pub(super) fn new(var: impl Fn(&str) -> Option<String>, pid: u32) -> Notify {
        let manager = var("NOTIFY_SOCKET").filter(|name| !name.is_empty()).and_then(|name| match connect(&name) {
            Ok(manager) => Some(manager),
            Err(error) => {
                tracing::warn!(socket = name, %error, "the service manager's $NOTIFY_SOCKET can't be used");
                None
            }
        });
        let watchdog = manager
            .as_ref()
            .and_then(|_| watchdog(var("WATCHDOG_USEC").as_deref(), var("WATCHDOG_PID").as_deref(), pid));
        Notify { manager, watchdog, beats: Vec::new() }
    }

    /// Another process is the main one from now on: this one says nothing any more.
    pub(super) fn pass_on(&mut self, pid: u32) {
        self.say(&format!("MAINPID={pid}\nSTATUS=process {pid} takes over"));
        (self.manager, self.watchdog) = (None, None);
    }

    /// Says it; a manager that does not hear is worth a line in the log and no more.
    pub(super) fn say(&self, lines: &str) {
        let Some((socket, manager)) = &self.manager else { return };
        if let Err(error) = socket.send_to_addr(lines.as_bytes(), manager) {
            tracing::warn!(%error, "the service manager was not told: {}", lines.lines().next().unwrap_or_default());
        }
    }

    /// Ready, with what `systemctl status` shows.
    pub(super) fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
    }

    /// A reload begins; [`Notify::ready`] ends it.
    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reading the configuration again"));
    }

    /// A drain of at most `within` begins.
    pub(super) fn stopping(&self, within: Duration) {
        let micros = (within + Duration::from_secs(5)).as_micros();
        self.say(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}\nSTATUS=draining for at most {within:?}"));
    }

    /// How often [`Notify::feed`] is to be called.
    pub(super) fn interval(&self) -> Duration {
        self.watchdog.map_or(NEVER, |timeout| (timeout / 3).max(SHORTEST))
    }

    /// Feeds the watchdog if at least `alive` workers have moved since the last call.
    pub(super) fn feed(&mut self, workers: &WorkerOutcomes, alive: usize) {
        if self.watchdog.is_none() {
            return;
        }
        let beats: Vec<u64> = workers.shards.iter().map(|shard| shard.beats.load()).collect();
        let first = self.beats.is_empty();
        let still: Vec<usize> = (0..beats.len()).filter(|at| self.beats.get(*at) == Some(&beats[*at])).collect();
        if first || beats.len() - still.len() >= alive {
            self.say("WATCHDOG=1");
        } else {
            tracing::error!(workers = ?still, "workers stand still: the watchdog is not fed");
        }
        self.beats = beats;
    }
}

/// The manager's address: a path, or `@` and a name of the abstract namespace.
fn connect(name: &str) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let addr = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok((socket, addr))
}

/// None where there is none, or it is another process's.
fn watchdog(micros: Option<&str>, of: Option<&str>, pid: u32) -> Option<Duration> {
    let ours = of.is_none_or(|of| of.parse() == Ok(pid));
    let micros = micros.filter(|_| ours)?.parse().ok().filter(|micros| *micros > 0)?;
    Some(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(manager: &UnixDatagram) -> Option<String> {
        let mut room = [0; 512];
        manager.recv(&mut room).ok().map(|length| String::from_utf8_lossy(&room[..length]).into_owned())
    }

    fn manager() -> (UnixDatagram, String) {
        let name = format!("weir-test-{}-{:?}", std::process::id(), std::thread::current().id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        manager.set_nonblocking(true).unwrap();
        (manager, format!("@{name}"))
    }

    #[test]
    fn the_watchdog_is_fed_while_every_worker_moves() {
        let (manager, name) = manager();
        let env = |variable: &str| match variable {
            "NOTIFY_SOCKET" => Some(name.clone()),
            "WATCHDOG_USEC" => Some("3000000".to_owned()),
            _ => None,
        };
        let mut notify = Notify::new(env, 7);
        assert_eq!(notify.interval(), Duration::from_secs(1));
        let workers = WorkerOutcomes::new(2);
        notify.feed(&workers, 2);
        assert_eq!(heard(&manager).unwrap(), "WATCHDOG=1");
        workers.shards.iter().for_each(|shard| shard.beats.add(20));
        notify.feed(&workers, 2);
        assert_eq!(heard(&manager).unwrap(), "WATCHDOG=1");
        workers.shards[0].beats.add(20);
        notify.feed(&workers, 2);
        assert_eq!(heard(&manager), None, "one of two stands still");
        workers.shards[0].beats.add(20);
        notify.feed(&workers, 1);
        assert_eq!(heard(&manager).unwrap(), "WATCHDOG=1", "the other has ended with the drain");
    }

    #[test]
    fn what_is_said_is_in_the_manager_s_form() {
        let (manager, name) = manager();
        let notify = Notify::new(|variable| (variable == "NOTIFY_SOCKET").then(|| name.clone()), 7);
        notify.ready("serving");
        assert_eq!(heard(&manager).unwrap(), "READY=1\nSTATUS=serving");
        notify.reloading();
        assert!(heard(&manager).unwrap().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        notify.stopping(Duration::from_secs(30));
        let said = heard(&manager).unwrap();
        assert!(said.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000\n"), "{said}");
    }

    #[test]
    fn nobody_to_tell_is_no_error_and_another_s_watchdog_is_not_fed() {
        let mut notify = Notify::new(|_| None, 7);
        notify.ready("serving");
        notify.feed(&WorkerOutcomes::new(1), 1);
        assert_eq!(notify.interval(), NEVER);
        assert_eq!(watchdog(Some("5"), Some("8"), 7), None);
        assert_eq!(watchdog(Some("5"), Some("7"), 7), Some(Duration::from_micros(5)));
        assert_eq!(watchdog(Some("5"), None, 7), Some(Duration::from_micros(5)));
        assert_eq!(watchdog(Some("0"), None, 7), None);
    }
}
