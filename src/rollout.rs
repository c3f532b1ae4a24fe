//! The rollout: moves traffic from the baseline to a candidate, step by step, and back at once.
//!
//! Pure: no I/O, no clock, nothing asynchronous. Who drives a [`Machine`] tells it what happened (`handle_…`, with the
//! time last), does what [`Machine::poll_effect`] says in that order, and comes back at [`Machine::poll_timeout`].
//! `docs/design/rollout.md` says how it is to be driven.
//!
//! **Time.** [`Now`] is a pair. How long something lasts is measured by the monotonic clock alone, as milliseconds
//! gathered while the machine runs; the wall clock stamps events and opens and closes freeze windows, nothing else. So a
//! wall clock that jumps neither skips nor stretches a step. The [`Record`] holds the milliseconds gathered, not dates:
//! after a crash a step goes on with what remained of it when it was last saved, at most [`SAVE_MS`] ago, and however
//! long Weir was down counts for nothing, since nobody watched the candidate in it. A process that stood still is credited
//! with [`SAVE_MS`] at most, for the same reason; so no stall or leap of any clock ends a step by itself.
//!
//! **What never happens.** Nothing is promoted by silence: where there is analysis, a step ends only by a verdict that
//! passed in that step and is not stale. A step with no time left and no such verdict holds. A verdict that fails
//! takes effect in whatever state the rollout is, also paused and also frozen. Whatever ends a rollout otherwise than by
//! promotion gives all traffic to the baseline.

mod budget;
mod calls;
mod command;
mod event;
mod freeze;
mod machine;
mod plan;
mod progress;
mod record;
mod shares;
mod status;
#[cfg(test)]
mod tests;
mod trouble;

pub use budget::Exposure;
pub use command::{Command, Order, Refused, StartError};
pub use event::{Deciding, Event, EventKind};
pub use freeze::{Freeze, FreezeError};
pub use machine::{Answer, Asked, CallId, Effect, Machine, Now, Stamp};
pub use plan::{Analysis, Hook, MaxHold, Moment, Plan, PlanError, Reaction, Stay, Step, Strategy};
pub use record::{Pause, PauseKind, Phase, Record};
pub use shares::Shares;
pub use status::{CandidateStatus, Status};

/// A record on disk is never older than this in time that was gathered, and no single wait is credited with more.
pub const SAVE_MS: u64 = 5_000;
/// The machine wants to be woken at least this often while it is under way; well below [`SAVE_MS`], so that a wake-up
/// that is late by the usual milliseconds loses nothing.
pub const WAKE_MS: u64 = 2_500;
/// Events kept for those who have not been told; the oldest go first.
pub const OUTBOX: usize = 64;
