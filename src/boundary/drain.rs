//! The drain signal: told once, seen by every worker; workers say when they have nothing left.

use tokio::sync::watch;

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// Readiness fails, listeners stop, connections finish what they have.
    Draining,
    /// The deadline is near: what can be ended politely is, such as WebSockets with a Close frame.
    Closing,
    /// The deadline passed: what is left is cut.
    Cut,
}

/// Control's end.
#[derive(Debug)]
pub struct Drain(watch::Sender<Phase>);

/// A worker's end.
pub type DrainWatch = watch::Receiver<Phase>;

impl Drain {
    pub fn new() -> Drain {
        Drain(watch::Sender::new(Phase::Running))
    }
    pub fn watch(&self) -> DrainWatch {
        self.0.subscribe()
    }
    /// Phases only move forward.
    pub fn advance(&self, to: Phase) {
        self.0.send_if_modified(|phase| {
            let forward = to > *phase;
            if forward {
                *phase = to;
            }
            forward
        });
    }
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }
}

impl Default for Drain {
    fn default() -> Self {
        Drain::new()
    }
}
