//! The vocabulary: a site to describe, a Weir to start, upstreams to record, raw clients to speak.

pub mod bench;
pub mod dns;
pub mod frames;
pub mod h2;
pub mod http2;
pub mod site;
pub mod tls;
pub mod upstream;
pub mod weir;
pub mod wire;

pub use bench::Bench;
pub use h2::H2;
pub use site::{Site, split_site};
pub use tls::{Ca, Leaf, TlsClient, https_site};
pub use upstream::{Gate, Reply, Request, Upstream, refused_port};
pub use weir::Weir;
pub use wire::{Answer, Wire};

use std::time::{Duration, Instant};

/// No wait in a test takes longer: what has not come by then does not come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds; panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        pause(Duration::from_millis(5));
    }
}

/// A flag that threads wait for: raised when this goes, also by a panic, which would wait for them for ever.
pub struct RaisedAtLast<'f>(pub &'f std::sync::atomic::AtomicBool);

impl Drop for RaisedAtLast<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

/// Waits until `number` has stood still for half a second, and returns it.
#[track_caller]
pub fn settled(what: &str, mut number: impl FnMut() -> u64) -> u64 {
    let (mut last, mut since) = (number(), Instant::now());
    eventually(what, || {
        let now = number();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(500)
    });
    last
}

/// Between two looks at a condition, or two bytes of a slow peer.
#[expect(clippy::disallowed_methods, reason = "the one place where tests wait")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
