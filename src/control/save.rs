//! Live weights back into the files that define the routes.
//!
//! Before anything is written: the files on disk must be what is running, or saving would publish what somebody else
//! has edited; and the new texts, checked by the loader with everything around them, must mean what is running with the
//! live weights as the file's. Then each file is replaced in one step, and the running configuration says the same.
//! Nothing else is taken from the disk.
//!
//! The controller does the writing: no weight changes between the look at it and the file. So a crash at any moment
//! leaves a file that says what was live (nothing moves at the next start) or the one before (live weights go on).

use super::Control;
use super::command::{BadFile, Command, IfMatch, Origin, RouteView};
use super::ground::Ground;
use super::replace::{Failed, ReplaceError, Staged};
use crate::config::edit::{self, ChangedLine, Edit};
use crate::config::provenance::{ChangedFile, FileChange, Provenance, sha256};
use crate::config::{self, Config, Overlay};
use crate::routing::split::Weight;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::oneshot;

#[derive(Clone, Debug)]
pub struct SaveRequest {
    /// None: every route.
    pub routes: Option<Vec<String>>,
    /// Only with one route.
    pub if_match: Option<IfMatch>,
    pub origin: Origin,
}

/// What is saved, or would be. Without routes there is nothing to save.
#[derive(Clone, Debug, Default)]
pub struct Saving {
    pub routes: Vec<SavedRoute>,
    pub files: Vec<SavedFile>,
}

#[derive(Clone, Debug)]
pub struct SavedRoute {
    /// As it was when it was looked at: the file's weights before and the live ones.
    pub view: RouteView,
    pub file: PathBuf,
    pub line: usize,
}

#[derive(Clone, Debug)]
pub struct SavedFile {
    pub path: PathBuf,
    pub lines: Vec<ChangedLine>,
    /// As `diff -u` prints it.
    pub diff: String,
}

#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error("there is no route {0:?}")]
    NoRoute(String),
    #[error("route {:?} is at generation {}", .0.name(), .0.live.generation)]
    Stale(Box<RouteView>),
    #[error("{}: reload first (`weir reload`), then save", changed_files(.0))]
    FileChanged(Vec<ChangedFile>),
    #[error("what variables and files in values stand for has changed since the last load: reload first")]
    Refilled,
    #[error("{}:{line}: `active` of route {route:?} is filled in from a variable or a file: change it there", .file.display())]
    FilledIn { route: String, file: PathBuf, line: usize },
    /// The running configuration itself does not load any more, for example since a certificate's file is gone.
    #[error("{} does not load as it would be", .0.path)]
    Invalid(Box<BadFile>),
    /// Files in `replaced` are saved.
    #[error("{error}{}", already(.replaced))]
    NotWritten { error: ReplaceError, replaced: Vec<PathBuf> },
    #[error("weir is stopping")]
    Stopped,
}

/// Looks up `${VAR}`.
pub type Env = fn(&str) -> Option<String>;

impl Control {
    /// Writes live weights into the files. When this returns, they are on disk and the running configuration has them
    /// as its own.
    pub(super) async fn save(&self, request: SaveRequest) -> Result<Saving, SaveError> {
        let _one_at_a_time = self.shared.reloading.acquire().await;
        let (reply, answer) = oneshot::channel();
        let command = Command::Save { request: request.clone(), env: self.shared.env, reply };
        let result = self.ask(command, answer).await.unwrap_or(Err(SaveError::Stopped));
        log(&request.origin, &result);
        result
    }

    /// What [`Control::save`] would write, checked as far as it can be without writing.
    pub(super) async fn would_save(&self, request: SaveRequest) -> Result<Saving, SaveError> {
        let (ground, env) = (self.ground(), self.shared.env);
        let planned = tokio::task::spawn_blocking(move || plan(&ground, &request, env)).await;
        planned.map_err(|_| SaveError::Stopped)?.map(|plan| plan.saving)
    }
}

/// Writes the live weights. The configuration that is in force from now on comes beside the outcome, also where some
/// files could be replaced and others could not.
pub fn write(ground: &Ground, request: &SaveRequest, env: Env) -> (Option<Config>, Result<Saving, SaveError>) {
    let Plan { saving, texts, provenance } = match plan(ground, request, env) {
        Ok(plan) => plan,
        Err(error) => return (None, Err(error)),
    };
    let files = &ground.config.provenance.files;
    let mut staged = Vec::with_capacity(texts.len());
    for (file, text) in &texts {
        match Staged::new(&files[*file].path, files[*file].sha256, text.as_bytes()) {
            Ok(ready) => staged.push((*file, ready)),
            Err(error) => return (None, Err(SaveError::NotWritten { error, replaced: Vec::new() })),
        }
    }
    let mut replaced = Vec::with_capacity(staged.len());
    for (file, ready) in staged {
        let outcome = ready.commit();
        if matches!(outcome, Ok(()) | Err(Failed { replaced: true, .. })) {
            replaced.push(file);
        }
        if let Err(Failed { error, .. }) = outcome {
            let paths = replaced.iter().map(|file| files[*file].path.clone()).collect();
            let config = in_force(ground, &saving, provenance, &replaced);
            return (config, Err(SaveError::NotWritten { error, replaced: paths }));
        }
    }
    (in_force(ground, &saving, provenance, &replaced), Ok(saving))
}

/// What is to be written, checked.
struct Plan {
    saving: Saving,
    /// New texts, by index into the running configuration's files.
    texts: BTreeMap<usize, String>,
    /// Of the configuration with all of them.
    provenance: Provenance,
}

fn plan(ground: &Ground, request: &SaveRequest, env: Env) -> Result<Plan, SaveError> {
    let drifting = drifting(ground, request)?;
    let config = &ground.config;
    if drifting.is_empty() {
        return Ok(Plan {
            saving: Saving::default(),
            texts: BTreeMap::new(),
            provenance: (*config.provenance).clone(),
        });
    }
    let changed = config.provenance.changed_on_disk();
    if !changed.is_empty() {
        return Err(SaveError::FileChanged(changed));
    }
    let mut by_file: BTreeMap<usize, Vec<&RouteView>> = BTreeMap::new();
    for view in &drifting {
        by_file.entry(config.provenance.routes[view.index].file).or_default().push(view);
    }
    let mut plan = Plan { saving: Saving::default(), texts: BTreeMap::new(), provenance: Provenance::default() };
    let mut overlay = Overlay::new();
    for (file, views) in by_file {
        let read = &config.provenance.files[file];
        let edited = |how| SaveError::FileChanged(vec![ChangedFile { path: read.path.clone(), how }]);
        let bytes = std::fs::read(&read.path).map_err(|error| edited(FileChange::Unreadable(error.to_string())))?;
        let text = String::from_utf8(bytes).map_err(|_| edited(FileChange::Edited))?;
        if sha256(text.as_bytes()) != read.sha256 {
            return Err(edited(FileChange::Edited));
        }
        let edits = views.iter().map(|view| edits(view, &text)).collect::<Result<Vec<_>, _>>()?.concat();
        let new = edit::applied(&text, &edits);
        overlay.insert(read.path.clone(), new.clone().into_bytes());
        plan.texts.insert(file, new);
        plan.saving.files.push(SavedFile {
            path: read.path.clone(),
            lines: edit::changed_lines(&text, &edits),
            diff: edit::unified(&read.path.display().to_string(), &text, &edits),
        });
    }
    plan.saving.routes = drifting.into_iter().map(saved_route).collect();
    plan.provenance = checked(config, &plan.saving, overlay, env)?;
    Ok(plan)
}

/// The routes asked for whose live weights are not the file's.
fn drifting(ground: &Ground, request: &SaveRequest) -> Result<Vec<RouteView>, SaveError> {
    let mut views: Vec<RouteView> = match &request.routes {
        None => ground.views().collect(),
        Some(names) => {
            let find = |name: &String| ground.route(name).ok_or_else(|| SaveError::NoRoute(name.clone()));
            names.iter().map(find).collect::<Result<_, _>>()?
        }
    };
    let stale = |view: &&RouteView| request.if_match.as_ref().is_some_and(|tag| !tag.allows(view.live.generation));
    if let Some(view) = views.iter().find(stale) {
        return Err(SaveError::Stale(Box::new(view.clone())));
    }
    views.retain(|view| view.live.weights != view.config.routes[view.index].weights);
    views.sort_by_key(|view| view.index);
    views.dedup_by_key(|view| view.index);
    Ok(views)
}

fn edits(view: &RouteView, text: &str) -> Result<Vec<Edit>, SaveError> {
    let route = &view.config.routes[view.index];
    let place = &view.config.provenance.routes[view.index];
    let names: Vec<&str> = route.variants.iter().map(|variant| variant.name.as_str()).collect();
    edit::weights(text, &place.shares, &names, &route.weights, &view.live.weights).map_err(|_| SaveError::FilledIn {
        route: route.name.clone(),
        file: view.config.provenance.files[place.file].path.clone(),
        line: place.line,
    })
}

fn saved_route(view: RouteView) -> SavedRoute {
    let place = &view.config.provenance.routes[view.index];
    SavedRoute { file: view.config.provenance.files[place.file].path.clone(), line: place.line, view }
}

/// Loads the configuration with the new texts: it must be the running one with other weights of the saved routes.
fn checked(config: &Config, saving: &Saving, overlay: Overlay, env: Env) -> Result<Provenance, SaveError> {
    let loaded = config::load_over(&config.path, &env, overlay);
    let Some(new) = loaded.config else {
        let path = config.path.display().to_string();
        return Err(SaveError::Invalid(Box::new(BadFile { path, report: loaded.report })));
    };
    let mut wanted: Vec<&[Weight]> = config.routes.iter().map(|route| route.weights.as_slice()).collect();
    for route in &saving.routes {
        wanted[route.view.index] = &route.view.live.weights;
    }
    let same = new.routes.len() == config.routes.len()
        && new.routes.iter().zip(&config.routes).zip(wanted).all(|((new, running), wanted)| {
            (&new.name, &new.variants, new.weights.as_slice()) == (&running.name, &running.variants, wanted)
        });
    if same { Ok((*new.provenance).clone()) } else { Err(SaveError::Refilled) }
}

/// The running configuration with what the replaced files say now.
fn in_force(ground: &Ground, saving: &Saving, new: Provenance, replaced: &[usize]) -> Option<Config> {
    if replaced.is_empty() {
        return None;
    }
    let mut config = (*ground.config).clone();
    let mut provenance = (*config.provenance).clone();
    for file in replaced {
        provenance.files[*file] = new.files[*file].clone();
    }
    for (place, new) in provenance.routes.iter_mut().zip(new.routes) {
        if replaced.contains(&place.file) {
            *place = new;
        }
    }
    for route in &saving.routes {
        if replaced.contains(&provenance.routes[route.view.index].file) {
            config.routes[route.view.index].weights.clone_from(&route.view.live.weights);
        }
    }
    config.provenance = Arc::new(provenance);
    Some(config)
}

fn changed_files(files: &[ChangedFile]) -> String {
    let one = |file: &ChangedFile| {
        let path = file.path.display();
        match &file.how {
            FileChange::Edited => format!("{path} was edited since it was loaded"),
            FileChange::Unreadable(why) => format!("{path}: {why}"),
            FileChange::New => format!("{path} is new and not loaded"),
        }
    };
    files.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn already(replaced: &[PathBuf]) -> String {
    let paths: Vec<String> = replaced.iter().map(|path| path.display().to_string()).collect();
    if paths.is_empty() { String::new() } else { format!("; saved before that: {}", paths.join(", ")) }
}

fn log(origin: &Origin, result: &Result<Saving, SaveError>) {
    let reason = origin.reason.as_deref().unwrap_or("");
    match result {
        Ok(saving) => {
            for route in &saving.routes {
                let config = &route.view.config.routes[route.view.index];
                tracing::info!(
                    route = config.name, file = %route.file.display(),
                    before = super::ground::listed(config, &config.weights),
                    after = super::ground::listed(config, &route.view.live.weights),
                    actor = ?origin.actor, source = origin.source, reason = ?reason,
                    "live weights saved into the file"
                );
            }
        }
        Err(error) => tracing::warn!(
            actor = ?origin.actor, source = origin.source, reason = ?reason, %error,
            "live weights not saved"
        ),
    }
}
