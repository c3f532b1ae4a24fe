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
use super::audit::Refused;
use super::command::{BadFile, Command, IfMatch, Origin, RouteView};
use super::ground::Ground;
use super::replace::{Failed, ReplaceError, Staged};
use crate::config::edit::{self, ChangedLine, Edit};
use crate::config::provenance::{ChangedFile, FileChange, Provenance, sha256};
use crate::config::{self, Config, Overlay};
use crate::routing::split::Weight;
use jiff::Timestamp;
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
    #[error("another process takes over and has the state now; try again")]
    HandedOver,
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
        match &result {
            // What the disk or the end of the process prevented was not refused.
            Ok(_) | Err(SaveError::NotWritten { .. } | SaveError::HandedOver | SaveError::Stopped) => {}
            Err(error) => self.refused(Refused::save(&request, error, Timestamp::now())).await,
        }
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

#[cfg(test)]
mod tests {
    use super::super::fixtures::Process;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::fs;
    use std::path::Path;

    const BASE: &str = "include = [\"conf.d/*.toml\"]\n[server]\nstate_dir = \"state\"\n[admin]\nlisten = [\"127.0.0.1:0\"]\n\
                        [[listener]]\nname = \"http\"\nbind = \"127.0.0.1:8080\"\n[pool.p]\ntargets = [\"127.0.0.1:9\"]\n";
    const SHOP: &str = "[[route]] # the shop\nname = \"shop\"\nvariants = { stable = \"p\", canary = \"p\", third = \"p\" }\n\
                        weights = { stable = 100, canary = 0, third = 0 } # start\n";
    const API: &str = "[[route]]\nname = \"api\"\nmatch = { path = \"/api\" }\nvariants = { blue = \"p\", green = \"p\" }\nactive = \"blue\"\n";

    /// The main file with the shop, and the API's in another.
    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Files {
            let files = Files(tempfile::tempdir().unwrap());
            fs::create_dir(files.0.path().join("conf.d")).unwrap();
            fs::write(files.main(), format!("{BASE}{SHOP}")).unwrap();
            fs::write(files.api(), API).unwrap();
            files
        }
        fn main(&self) -> PathBuf {
            self.0.path().join("weir.toml")
        }
        fn api(&self) -> PathBuf {
            self.0.path().join("conf.d/api.toml")
        }
        fn config(&self) -> Config {
            let loaded = config::load(&self.main(), &|_| None);
            loaded.config.unwrap_or_else(|| panic!("{}", loaded.report.render(false)))
        }
        async fn start(&self) -> Process {
            Process::start(self.config()).await
        }
        fn texts(&self) -> (String, String) {
            (fs::read_to_string(self.main()).unwrap(), fs::read_to_string(self.api()).unwrap())
        }
    }

    async fn save(process: &Process, query: &str, body: &str) -> super::super::fixtures::Reply {
        let headers = ["content-type: application/json"];
        process.call("POST", &format!("/api/v1/config/save{query}"), &headers, body.as_bytes()).await
    }

    async fn shift(process: &Process, route: &str, weights: &str) {
        let reply = process.patch(route, &[], &format!("{{\"weights\":{{{weights}}}}}")).await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }

    #[tokio::test]
    async fn live_weights_go_into_the_files_that_define_the_routes() {
        let files = Files::new();
        let process = files.start().await;
        let nothing = save(&process, "", "").await.json();
        assert_eq!(nothing, json!({"dry_run": false, "changed": false, "routes": [], "files": []}));
        shift(&process, "shop", "\"canary\":5.125").await;
        shift(&process, "api", "\"green\":100").await;
        let before = files.texts();
        let would = save(&process, "?dry_run=true", "{}").await.json();
        assert_eq!((files.texts(), &would["dry_run"]), (before, &json!(true)));
        let done = save(&process, "", "{}").await;
        assert_eq!((done.status, &done.json()["files"]), (200, &would["files"]), "{done:?}");
        let line = "weights = { stable = 94.875, canary = 5.125, third = 0 } # start";
        let main = format!("{BASE}{SHOP}").replace("weights = { stable = 100, canary = 0, third = 0 } # start", line);
        assert_eq!(files.texts(), (main, API.replace("active = \"blue\"", "active = \"green\"")));
        let lines = &done.json()["files"][0]["lines"];
        assert_eq!(
            (&lines[0]["line"], &lines[0]["after"], lines.as_array().unwrap().len()),
            (&json!(14), &json!(line), 1)
        );
        let route = &done.json()["routes"][0];
        assert_eq!(
            (&route["route"], &route["generation"], &route["file"]["line"]),
            (&json!("shop"), &json!(2), &json!(14))
        );
        assert_eq!((&route["before"]["canary"], &route["after"]["canary"]), (&json!(0), &json!(5.125)));
        // The running process has it as its own: nothing differs, and a reload moves nothing.
        let diff = process.get("/api/v1/config/diff").await.json();
        assert_eq!(diff, json!({"routes": [], "changed_on_disk": false, "files": []}));
        let ground = process.control.ground();
        let summary = process.control.reload(Origin::signal("test")).await.unwrap();
        assert!(summary.installed.file_won.is_empty() && summary.installed.live_kept.is_empty(), "{summary:?}");
        for (was, is) in ground.routes.iter().zip(&process.control.ground().routes) {
            assert_eq!((was.generation, &was.assignment, &was.record), (is.generation, &is.assignment, &is.record));
        }
    }

    #[tokio::test]
    async fn only_the_routes_that_are_named_are_saved() {
        let files = Files::new();
        let process = files.start().await;
        shift(&process, "shop", "\"canary\":5").await;
        shift(&process, "api", "\"green\":40").await;
        let reply = save(&process, "", r#"{"routes":["api","api"],"reason":"half"}"#).await;
        assert_eq!((reply.status, reply.json()["routes"].as_array().unwrap().len()), (200, 1));
        assert_eq!(files.texts().1, API.replace("active = \"blue\"", "weights = { blue = 60, green = 40 }"));
        assert_eq!(files.texts().0, format!("{BASE}{SHOP}"));
        let diff = process.get("/api/v1/config/diff").await.json();
        assert_eq!((&diff["routes"][0]["route"], &diff["changed_on_disk"]), (&json!("shop"), &json!(false)));
        // Saved once more, from where the first saving put things.
        shift(&process, "api", "\"green\":100").await;
        assert_eq!(save(&process, "", "{}").await.status, 200);
        assert_eq!(files.texts().1, API.replace("active = \"blue\"", "weights = { blue = 0, green = 100 }"));
        let missing = save(&process, "", r#"{"routes":["shopp"]}"#).await;
        assert_eq!((missing.status, missing.problem().as_str()), (404, "no-such-route"));
    }

    #[tokio::test]
    async fn what_is_not_understood_is_refused_by_field() {
        let files = Files::new();
        let process = files.start().await;
        shift(&process, "shop", "\"canary\":5").await;
        let texts = files.texts();
        for (query, body, field) in [
            ("", r#"{"routes":"shop"}"#, "routes"),
            ("", r#"{"routes":["shop"],"routes":[]}"#, "routes"),
            ("", r#"{"route":["shop"]}"#, "route"),
            ("", r#"{"reason":5}"#, "reason"),
            ("", "[]", "body"),
            ("?dryrun=true", "{}", "query:dryrun"),
        ] {
            let reply = save(&process, query, body).await;
            assert_eq!((reply.status, reply.json()["field"].as_str()), (400, Some(field)), "{body}: {reply:?}");
        }
        let plain = process.call("POST", "/api/v1/config/save", &["content-type: text/plain"], b"{}").await;
        assert_eq!(plain.status, 415);
        let path = "/api/v1/config/save";
        let all = process.call("POST", path, &["content-type: application/json", "if-match: \"2\""], b"{}").await;
        assert_eq!((all.status, all.json()["field"].as_str()), (400, Some("header:if-match")));
        let one = |tag: &str| [String::from("content-type: application/json"), format!("if-match: \"{tag}\"")];
        let call = async |tag: &str| {
            let headers = one(tag);
            process.call("POST", path, &[&headers[0], &headers[1]], br#"{"routes":["shop"]}"#).await
        };
        let stale = call("1").await;
        assert_eq!(
            (stale.status, stale.problem().as_str(), stale.header("etag")),
            (412, "generation-changed", Some("\"2\""))
        );
        assert_eq!(files.texts(), texts);
        assert_eq!(call("2").await.status, 200);
        assert_ne!(files.texts(), texts);
    }

    #[tokio::test]
    async fn files_that_are_not_what_is_running_are_left_alone() {
        let files = Files::new();
        let process = files.start().await;
        shift(&process, "shop", "\"canary\":5").await;
        let refused = async |file: &Path, change: &str| {
            let texts = files.texts();
            let reply = save(&process, "", "{}").await;
            assert_eq!((reply.status, reply.problem().as_str()), (409, "file-changed"), "{reply:?}");
            let named = json!([{"path": file, "change": change}]);
            assert_eq!(reply.json()["files"], named);
            assert_eq!(files.texts(), texts);
            let diff = process.get("/api/v1/config/diff").await.json();
            assert_eq!((&diff["files"], &diff["changed_on_disk"]), (&named, &json!(true)));
        };
        // Whichever of the files it is, also one that nothing would be saved into.
        fs::write(files.api(), format!("{API}timeout = \"9s\"\n")).unwrap();
        refused(&files.api(), "edited").await;
        fs::write(files.api(), API).unwrap();
        let new = files.0.path().join("conf.d/new.toml");
        fs::write(&new, "").unwrap();
        refused(&new, "new").await;
        fs::remove_file(&new).unwrap();
        fs::write(files.main(), format!("{BASE}{SHOP}# mine\n")).unwrap();
        refused(&files.main(), "edited").await;
        assert!(process.control.reload(Origin::signal("test")).await.is_ok());
        assert_eq!(save(&process, "", "{}").await.status, 200);
        assert!(files.texts().0.ends_with("canary = 5, third = 0 } # start\n# mine\n"), "{}", files.texts().0);
    }

    #[tokio::test]
    async fn when_one_of_two_files_can_t_be_written_nothing_is() {
        let files = Files::new();
        let process = files.start().await;
        shift(&process, "shop", "\"canary\":5").await;
        shift(&process, "api", "\"green\":100").await;
        let texts = files.texts();
        let blocker = files.0.path().join(format!("conf.d/.api.toml.weir-{}", std::process::id()));
        fs::create_dir(&blocker).unwrap();
        let reply = save(&process, "", "{}").await;
        assert_eq!((reply.status, reply.problem().as_str()), (507, "file-not-written"));
        assert!(reply.json()["detail"].as_str().unwrap().contains(".api.toml.weir-"), "{reply:?}");
        assert_eq!(files.texts(), texts);
        assert_eq!(process.get("/api/v1/config/diff").await.json()["routes"].as_array().unwrap().len(), 2);
        fs::remove_dir(&blocker).unwrap();
        assert_eq!(save(&process, "", "{}").await.status, 200);
    }

    /// Files that were replaced count, whatever became of the others.
    #[tokio::test]
    async fn half_a_saving_is_in_force_for_its_half() {
        let files = Files::new();
        let process = files.start().await;
        shift(&process, "shop", "\"canary\":5").await;
        shift(&process, "api", "\"green\":100").await;
        let ground = process.control.ground();
        let origin = Origin { actor: "test".to_owned(), source: "here".to_owned(), reason: None };
        let request = SaveRequest { routes: None, if_match: None, origin };
        let Plan { saving, texts, provenance } = plan(&ground, &request, |_| None).unwrap();
        fs::write(files.main(), &texts[&0]).unwrap();
        let half = ground.with_file(in_force(&ground, &saving, provenance, &[0]).unwrap());
        assert_eq!(half.config.provenance.changed_on_disk(), []);
        let drifting: Vec<_> = drifting(&half, &request).unwrap().iter().map(|view| view.name().to_owned()).collect();
        assert_eq!(drifting, ["api"]);
        assert!(in_force(&ground, &saving, Provenance::default(), &[]).is_none());
    }

    #[tokio::test]
    async fn a_state_dir_that_can_t_be_written_does_not_undo_what_is_in_the_file() {
        let files = Files::new();
        let state = files.0.path().join("state/live.json.tmp");
        let process = files.start().await;
        shift(&process, "shop", "\"canary\":5").await;
        let live = process.control.ground().routes[0].assignment.clone();
        fs::create_dir(&state).unwrap();
        assert_eq!(save(&process, "", "{}").await.status, 200);
        assert!(process.control.ground().config.provenance.changed_on_disk().is_empty());
        // What a process that is killed now finds when it starts again.
        let saved = super::super::persist::StateDir::open(&files.0.path().join("copy")).unwrap();
        fs::copy(files.0.path().join("state/live.json"), files.0.path().join("copy/live.json")).unwrap();
        let past = saved.read().unwrap().past;
        let (again, _) = Ground::start(files.config(), past, Default::default(), 1, &super::super::fixtures::cause());
        assert_eq!((&again.routes[0].assignment, again.routes[0].generation), (&live, 2));
    }

    #[tokio::test]
    async fn what_a_variable_says_is_not_overwritten() {
        let files = Files::new();
        fs::write(files.0.path().join("colour"), "blue").unwrap();
        fs::write(files.api(), API.replace("\"blue\"", "\"${file:../colour}\"")).unwrap();
        let process = files.start().await;
        shift(&process, "api", "\"green\":100").await;
        let reply = save(&process, "", "{}").await;
        assert_eq!((reply.status, reply.problem().as_str()), (409, "weights-filled-in"));
        assert!(
            reply.json()["detail"].as_str().unwrap().contains("api.toml:5: `active` of route \"api\""),
            "{reply:?}"
        );
        // What a variable stands for may not change behind the back either.
        shift(&process, "shop", "\"canary\":5").await;
        fs::write(files.0.path().join("colour"), "green").unwrap();
        let reply = save(&process, "", r#"{"routes":["shop"]}"#).await;
        assert_eq!((reply.status, reply.problem().as_str()), (409, "file-changed"), "{reply:?}");
        fs::remove_file(files.0.path().join("colour")).unwrap();
        let reply = save(&process, "", r#"{"routes":["shop"]}"#).await;
        assert_eq!((reply.status, reply.problem().as_str()), (409, "invalid-configuration"), "{reply:?}");
        assert_eq!(reply.json()["errors"].as_array().unwrap().len(), 1);
    }

    /// Thousandths of three variants.
    fn split() -> impl Strategy<Value = [u32; 3]> {
        (0u32..=100_000, 0u32..=100_000).prop_map(|(one, other)| {
            let (low, high) = (one.min(other), one.max(other));
            [low, high - low, 100_000 - high]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_saved_file_brings_back_exactly_what_was_live(steps in prop::collection::vec((split(), any::<bool>()), 1..5)) {
            let files = Files::new();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let process = files.start().await;
                for (nth, (weights, saved)) in steps.iter().enumerate() {
                    let [stable, canary, third] = weights.map(|thousandths| f64::from(thousandths) / 1000.0);
                    let shares = format!("\"stable\":{stable},\"canary\":{canary},\"third\":{third}");
                    shift(&process, "shop", &shares).await;
                    if !saved {
                        continue;
                    }
                    let ground = process.control.ground();
                    assert_eq!(save(&process, "", "{}").await.status, 200, "step {nth}");
                    let from_file: Vec<u32> = files.config().routes[0].weights.iter().map(|w| w.thousandths()).collect();
                    assert_eq!(&from_file, weights);
                    process.control.reload(Origin::signal("test")).await.unwrap();
                    let now = process.control.ground();
                    assert_eq!(now.routes[0].assignment, ground.routes[0].assignment);
                    assert_eq!(now.routes[0].generation, ground.routes[0].generation);
                }
            });
        }
    }
}
