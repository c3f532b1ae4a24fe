//! Sockets that systemd opened and hands over (`sd_listen_fds(3)`): clients may connect while Weir is not running.

use crate::proxy::worker::Listening;
use listenfd::ListenFd;
use std::io;

/// More than any unit has; a number out of bounds is somebody's mistake.
const SOCKETS: usize = 1024;
/// What systemd calls a socket that has no name.
const NAMELESS: &str = "unknown";

/// The sockets of this process's environment, until they are taken.
pub(super) struct Passed {
    sockets: ListenFd,
    /// In the sockets' order; None: taken.
    names: Vec<Option<String>>,
}

impl Passed {
    /// None that are not for this very process.
    pub(super) fn from_env() -> Passed {
        let var = |name: &str| std::env::var(name).ok();
        let names = names(
            var("LISTEN_PID").as_deref(),
            var("LISTEN_FDS").as_deref(),
            var("LISTEN_FDNAMES").as_deref(),
            std::process::id(),
        );
        let sockets = if names.is_empty() { ListenFd::empty() } else { ListenFd::from_env() };
        Passed { sockets, names: names.into_iter().map(Some).collect() }
    }

    /// Every socket of this name. `NotFound` when there is none, `InvalidInput` when one does not listen for streams.
    pub(super) fn take(&mut self, name: &str) -> io::Result<Vec<Listening>> {
        let mut taken = Vec::new();
        for at in 0..self.names.len() {
            if self.names[at].take_if(|own| own == name).is_some() {
                taken.push(self.take_at(at)?);
            }
        }
        if taken.is_empty() {
            let message = "systemd hands over no socket of this name";
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        Ok(taken)
    }

    /// The sockets that nobody took, with their names. What does not listen is left where it is.
    pub(super) fn rest(&mut self) -> Vec<(String, Listening)> {
        let names = std::mem::take(&mut self.names);
        let left = names.into_iter().enumerate().filter_map(|(at, name)| Some((at, name?)));
        left.filter_map(|(at, name)| Some((name, self.take_at(at).ok()?))).collect()
    }

    fn take_at(&mut self, at: usize) -> io::Result<Listening> {
        let listening = match self.sockets.take_tcp_listener(at) {
            Ok(tcp) => tcp.map(Listening::Tcp),
            Err(_) => self.sockets.take_unix_listener(at)?.map(Listening::Unix),
        };
        listening.ok_or_else(|| io::ErrorKind::NotFound.into()).and_then(Listening::prepared)
    }
}

/// The sockets' names, one each; none where they are not for process `own`.
fn names(pid: Option<&str>, count: Option<&str>, names: Option<&str>, own: u32) -> Vec<String> {
    let is_ours = pid.and_then(|pid| pid.parse().ok()) == Some(own);
    let count: usize = count.filter(|_| is_ours).and_then(|count| count.parse().ok()).unwrap_or(0);
    if count > SOCKETS {
        tracing::warn!(count, "LISTEN_FDS is no number of sockets; none is taken");
        return Vec::new();
    }
    let mut given = names.filter(|names| !names.is_empty()).into_iter().flat_map(|names| names.split(':'));
    (0..count).map(|_| given.next().filter(|name| !name.is_empty()).unwrap_or(NAMELESS).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_named_in_order_and_only_ours() {
        assert_eq!(names(Some("7"), Some("2"), Some("http:https"), 7), ["http", "https"]);
        assert_eq!(names(Some("7"), Some("3"), Some("http"), 7), ["http", "unknown", "unknown"]);
        assert_eq!(names(Some("7"), Some("1"), None, 7), ["unknown"]);
        assert_eq!(names(Some("7"), Some("2"), Some(":b"), 7), ["unknown", "b"]);
        for (pid, count) in [
            (Some("8"), Some("1")),
            (None, Some("1")),
            (Some("x"), Some("1")),
            (Some("7"), None),
            (Some("7"), Some("-1")),
            (Some("7"), Some("99999999999")),
        ] {
            assert!(names(pid, count, Some("http"), 7).is_empty(), "{pid:?} {count:?}");
        }
    }
}
