//! What may be asked of the controller, and what it answers.

use super::ground::{Addresses, LiveRoute};
use super::persist::StateError;
use super::tls::Tls;
use crate::boundary::table::Pool;
use crate::config::{Config, Report};
use crate::routing::split::Weight;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Everything that changes the ground state.
#[derive(Debug)]
pub enum Command {
    ChangeWeights {
        change: WeightChange,
        reply: oneshot::Sender<Result<Changed, ChangeError>>,
    },
    /// Swap in a configuration that was checked, with what its targets' names resolved to.
    Install {
        config: Box<Config>,
        addresses: Addresses,
        tls: Arc<Tls>,
        reply: oneshot::Sender<Result<Installed, StateError>>,
    },
    /// Names resolved again. Not part of what is saved.
    Resolved(Addresses),
    /// Certificates read again, if those in force are still the ones that they were compared with. Not saved either.
    Certified {
        tls: Arc<Tls>,
        instead_of: Arc<Tls>,
    },
}

#[derive(Clone, Debug)]
pub struct WeightChange {
    pub route: String,
    pub edit: Edit,
    pub if_match: Option<IfMatch>,
    pub origin: Origin,
}

/// The weights asked for, by the variants' names.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Variants not named keep theirs and the baseline takes the difference.
    Patch(Vec<(String, Weight)>),
    /// Every variant is named.
    Replace(Vec<(String, Weight)>),
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

/// Who asks, from where and why, for the log.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The token's name, or `local`.
    pub actor: String,
    pub source: String,
    pub reason: Option<String>,
}

/// A route as a change left it. With `before` equal to its weights nothing changed, and the generation neither.
#[derive(Clone, Debug)]
pub struct Changed {
    pub route: RouteView,
    pub before: Vec<Weight>,
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
    /// `field` is the path in the request's body.
    #[error("{detail}")]
    Weights { field: String, detail: String },
    #[error(transparent)]
    NotSaved(StateError),
    #[error("weir is stopping")]
    Stopped,
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

impl RouteView {
    pub fn name(&self) -> &str {
        &self.config.routes[self.index].name
    }
}
