//! File descriptors: how many this process may have open, and how many of them are left for connections.
//!
//! What runs out of them answers nobody. So connections get what is left after everything that must always work: the
//! sockets that listen, the runtimes, the admin API, files that are written.

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::io;

/// Open whatever is configured: standard streams, signals, logs, locks, the control plane's runtime.
const FIXED: usize = 32;
/// A worker's runtime.
const PER_WORKER: usize = 8;

/// The descriptors that this process may have open at once, as the system says now.
pub fn limit() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// What is not for connections: an eighth for admin clients and files, and what `workers` with `listeners` sockets each
/// take; of every socket there is a handle for the process that may take this one's place.
pub fn reserved(limit: usize, workers: usize, listeners: usize) -> usize {
    (limit / 8).clamp(16, 512) + FIXED + workers.saturating_mul(PER_WORKER + 2 * listeners)
}

/// Of `limit`, those for connections with clients and targets; at least some for each worker, however little that leaves.
pub fn for_connections(limit: usize, workers: usize, listeners: usize) -> usize {
    limit.saturating_sub(reserved(limit, workers, listeners)).max(workers.saturating_mul(8))
}

/// Whether an operation failed because this process, or the system, has no descriptor left.
pub fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_what_nothing_else_needs() {
        // 32 for admin clients and files, 32 fixed, 20 for two workers with one socket each.
        assert_eq!(for_connections(256, 2, 1), 256 - 32 - 32 - 20);
        assert_eq!(for_connections(1_048_576, 2, 1), 1_048_576 - 512 - 32 - 20);
        assert_eq!(for_connections(64, 2, 1), 16, "some, though it is too little");
        assert!(for_connections(usize::MAX, 64, 100) > 1 << 40);
    }

    #[test]
    fn only_a_want_of_descriptors_is_one() {
        for (errno, exhausted) in [(Errno::MFILE, true), (Errno::NFILE, true), (Errno::CONNREFUSED, false)] {
            assert_eq!(is_exhausted(&errno.into()), exhausted, "{errno}");
        }
        assert!(!is_exhausted(&io::ErrorKind::TimedOut.into()));
        assert!(limit() > 0);
    }
}
