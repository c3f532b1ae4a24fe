//! What may be asked of the controller, and what it answers.

use super::audit::Refused;
use super::ground::{Addresses, LiveRoute};
use super::handover::HandOver;
use super::health::{Key, Verdict};
use super::history::Entry;
use super::persist::StateError;
use super::rollout::RolloutChange;
use super::save::{Env, SaveError, SaveRequest, Saving};
use super::tls::Tls;
use crate::boundary::table::Pool;
use crate::config::list::ListFile;
use crate::config::{Config, Report};
use crate::routing::split::Weight;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Everything that changes the ground state.
#[derive(Debug)]
pub enum Command {
    Change {
        change: WeightChange,
        reply: oneshot::Sender<Result<Changed, ChangeError>>,
    },
    /// What a rollout made of its route: its record, and perhaps weights.
    Roll {
        change: Box<RolloutChange>,
        reply: oneshot::Sender<Result<(), StateError>>,
    },
    /// Swap in a configuration that was checked, with what its targets' names resolved to.
    Install {
        config: Box<Config>,
        addresses: Addresses,
        tls: Arc<Tls>,
        origin: Origin,
        reply: oneshot::Sender<Result<Installed, StateError>>,
    },
    /// Take a target out, or back in.
    Drain {
        order: DrainOrder,
        /// Whether that changed anything.
        reply: oneshot::Sender<Result<bool, DrainError>>,
    },
    /// Write live weights into the files that define the routes.
    Save {
        request: SaveRequest,
        env: Env,
        reply: oneshot::Sender<Result<Saving, SaveError>>,
    },
    /// The state goes to another process, or comes back.
    HandOver(HandOver),
    /// Something was refused, here or before it came here: for the audit log. Nobody waits.
    Refused(Refused),
    /// Names resolved again. Not part of what is saved.
    Resolved(Addresses),
    /// Certificates read again, if those in force are still the ones that they were compared with. Not saved either.
    Certified {
        tls: Arc<Tls>,
        instead_of: Arc<Tls>,
    },
    /// What health checks came to. Not part of what is saved.
    Checked(Vec<(Arc<Key>, Verdict)>),
    /// Files of `in_file` read again. Not part of what is saved.
    Relisted(Relisted),
}

/// The new content of lists, by their index in the configuration that was in force when they were read. With another
/// one in force they are void: its own lists were read later.
#[derive(Clone, Debug)]
pub struct Relisted {
    pub config: Arc<Config>,
    pub lists: Vec<(usize, ListFile)>,
}

/// Which target is to get no new requests any more, or to get them again.
#[derive(Clone, Debug)]
pub struct DrainOrder {
    pub pool: String,
    /// As the configuration has it.
    pub target: String,
    pub drain: bool,
    pub origin: Origin,
}

impl DrainOrder {
    pub fn action(&self) -> &'static str {
        if self.drain { "drain" } else { "enable" }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum DrainError {
    #[error("there is no pool {0:?}")]
    NoPool(String),
    #[error("pool {pool:?} has no target {target:?}")]
    NoTarget { pool: String, target: String },
    #[error(transparent)]
    NotSaved(StateError),
    #[error("weir is stopping")]
    Stopped,
}

#[derive(Clone, Debug)]
pub struct WeightChange {
    pub route: String,
    pub edit: Edit,
    pub if_match: Option<IfMatch>,
    /// Also while a rollout is under way, which has been paused for it.
    pub overrides: bool,
    pub origin: Origin,
}

/// The live state asked for, by the variants' names.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Variants not named keep theirs and the baseline takes the difference.
    Patch(Vec<(String, Weight)>),
    /// Every variant is named.
    Replace(Vec<(String, Weight)>),
    /// Everything to one variant.
    Switch(Switch),
    /// An earlier revision's assignment.
    Undo {
        /// Its generation; None: the revision before the present one.
        to: Option<u64>,
    },
}

#[derive(Clone, Debug)]
pub struct Switch {
    pub to: String,
    /// Go on though targets are not healthy.
    pub force: bool,
    /// The pool whose targets were asked just now; None: not yet.
    pub probed: Option<Arc<Pool>>,
    /// What was found wrong with them.
    pub overrode: Vec<String>,
}

/// The generations that the caller would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfMatch {
    Any,
    OneOf(Vec<u64>),
}

impl IfMatch {
    pub fn allows(&self, generation: u64) -> bool {
        match self {
            IfMatch::Any => true,
            IfMatch::OneOf(generations) => generations.contains(&generation),
        }
    }
}

/// Who asks, from where and why, for the log and the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The token's name, `local`, `signal` or `file`.
    pub actor: String,
    /// The caller's address, the signal's name or the file's path.
    pub source: String,
    pub reason: Option<String>,
}

impl Origin {
    pub fn signal(name: &str) -> Origin {
        Origin { actor: "signal".to_owned(), source: name.to_owned(), reason: None }
    }

    pub fn file(path: &Path) -> Origin {
        Origin { actor: "file".to_owned(), source: path.display().to_string(), reason: None }
    }
}

/// A route as a change left it.
#[derive(Clone, Debug)]
pub struct Changed {
    pub before: Arc<LiveRoute>,
    pub route: RouteView,
    /// Of an undo: the generation whose assignment it has.
    pub to: Option<u64>,
    /// Of a switch: what it was told to pass over.
    pub overrode: Vec<String>,
}

/// One route with what its document is made of.
#[derive(Clone, Debug)]
pub struct RouteView {
    pub config: Arc<Config>,
    pub pools: Arc<[Arc<Pool>]>,
    /// Index into the configuration's routes.
    pub index: usize,
    pub live: Arc<LiveRoute>,
}

#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("there is no route {0:?}")]
    NoRoute(String),
    #[error("route {:?} is at generation {}", .0.name(), .0.live.generation)]
    Stale(Box<RouteView>),
    #[error("a rollout of {0:?} is under way; abort it, or override it, which pauses it")]
    Rollout(String),
    /// `field` is the path in the request's body.
    #[error("{detail}")]
    Weights { field: String, detail: String },
    #[error(transparent)]
    Undo(UndoError),
    #[error("{}", unhealthy(.variant, .targets))]
    Unhealthy { variant: String, targets: Vec<BadTarget> },
    /// The variant's pool is another than the one that was probed.
    #[error("the targets of {0:?} changed while they were looked at; try again")]
    Unprobed(String),
    #[error(transparent)]
    NotSaved(StateError),
    #[error("weir is stopping")]
    Stopped,
}

/// Why an earlier revision can't come back, with the generations of those that are kept, newest first.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct UndoError {
    pub why: UndoRefused,
    pub detail: String,
    pub revisions: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndoRefused {
    /// Never was, or is not kept any more.
    Unknown,
    /// There is none before the present one.
    Nothing,
    /// The route has other variants now.
    VariantsChanged,
}

/// A target that a switch does not go to, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadTarget {
    pub target: String,
    pub why: String,
}

/// What a configuration that was swapped in changed. All lists hold routes' names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    pub routes: usize,
    pub pools: usize,
    pub added: Vec<String>,
    pub removed: Vec<String>,
    /// The file's weights (or set of variants) differ from those that the live ones overrode: the file's are live now.
    pub file_won: Vec<String>,
    /// Live weights differ from the file's and stay: the file's did not change.
    pub live_kept: Vec<String>,
    /// Keys whose new value takes effect with the next start.
    pub needs_restart: Vec<&'static str>,
    /// What each route's history got, in the file's order.
    pub revisions: Vec<Arc<Entry>>,
}

/// A reload that was done.
#[derive(Clone, Debug)]
pub struct ReloadSummary {
    pub installed: Installed,
    /// Warnings about the file.
    pub report: Report,
}

#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("{} has errors; the running configuration stays", .0.path)]
    File(Box<BadFile>),
    #[error("{0}; the running configuration stays")]
    Tls(String),
    #[error(transparent)]
    NotSaved(StateError),
    #[error("weir is stopping")]
    Stopped,
}

/// A file that was refused, with everything that is wrong with it.
#[derive(Debug)]
pub struct BadFile {
    pub path: String,
    pub report: Report,
}

impl Changed {
    /// The generation rose.
    pub fn changed(&self) -> bool {
        self.before.generation != self.route.live.generation
    }
}

impl std::fmt::Display for BadTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "target {}: {}", self.target, self.why)
    }
}

/// How many targets an error's text names; the document has them all.
const NAMED_TARGETS: usize = 8;

fn unhealthy(variant: &str, targets: &[BadTarget]) -> String {
    let named: Vec<String> = targets.iter().take(NAMED_TARGETS).map(ToString::to_string).collect();
    let more = match targets.len().saturating_sub(NAMED_TARGETS) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("not every target of {variant:?} is healthy: {}{more}", named.join("; "))
}

impl RouteView {
    pub fn name(&self) -> &str {
        &self.config.routes[self.index].name
    }
}
