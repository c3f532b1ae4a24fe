//! Calls about the configuration: what is in force, how it differs from the files, whether another one would do, and
//! live weights saved into the files. They read files, so each runs on a thread of its own, one at a time.

use super::access::{Actor, Peer};
use super::documents::weights;
use super::effective::{effective as effective_document, place};
use super::handlers::{document, etag, handed_over, no_route, stopping};
use super::problem::Problem;
use super::{Api, body, documents};
use crate::config::provenance::{ChangedFile, FileChange};
use crate::config::{self, Overlay};
use crate::control::command::{Origin, RouteView};
use crate::control::ground::Ground;
use crate::control::save::{SaveError, SaveRequest, SavedFile, SavedRoute, Saving};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

pub async fn effective(State(api): State<Api>) -> Response {
    let ground = api.control.ground();
    answer(&api, move || effective_document(&ground)).await.unwrap_or_else(Problem::into_response)
}

pub async fn diff(State(api): State<Api>) -> Response {
    let ground = api.control.ground();
    answer(&api, move || drift(&ground)).await.unwrap_or_else(Problem::into_response)
}

pub async fn validate(State(api): State<Api>, request: Request) -> Response {
    validated(api, request).await.unwrap_or_else(Problem::into_response)
}

async fn validated(api: Api, request: Request) -> Result<Response, Problem> {
    let (parts, sent) = request.into_parts();
    body::no_query(parts.uri.query())?;
    let text = body::read_toml(&parts.headers, sent).await?;
    let (path, env) = (api.control.config().path.clone(), api.control.shared.env);
    answer(&api, move || {
        let overlay = Overlay::from([(path.clone(), text.to_vec())]);
        config::load_over(&path, &env, overlay).report.to_json()
    })
    .await
}

pub async fn save(State(api): State<Api>, request: Request) -> Response {
    saved(api, request).await.unwrap_or_else(Problem::into_response)
}

async fn saved(api: Api, request: Request) -> Result<Response, Problem> {
    let dry_run = body::dry_run(request.uri().query())?;
    let if_match = body::if_match(request.headers());
    let (parts, sent) = request.into_parts();
    let asked = body::save(&body::read_json_or_nothing(&parts.headers, sent).await?)?;
    if if_match.is_some() && asked.routes.as_ref().is_none_or(|routes| routes.len() != 1) {
        let detail = "If-Match is the generation of one route: name that one in `routes`";
        return Err(Problem::new(400, "invalid-body", detail).field("header:if-match"));
    }
    let actor = parts.extensions.get::<Actor>().map_or("unknown", |actor| actor.0.as_str()).to_owned();
    let source = parts.extensions.get::<Peer>().map_or("unknown", |peer| &peer.source).to_owned();
    let origin = Origin { actor, source, reason: asked.reason };
    let request = SaveRequest { routes: asked.routes, if_match, origin };
    // To its end, also when the client goes away meanwhile.
    let saving = tokio::spawn(async move {
        if dry_run { api.control.would_save(request).await } else { api.control.save(request).await }
    });
    match saving.await.unwrap_or(Err(SaveError::Stopped)) {
        Ok(saving) => Ok(document(StatusCode::OK, &saving_document(&saving, dry_run))),
        Err(error) => Err(refusal(error)),
    }
}

/// Makes a document on a thread of its own. The place is held until that ends, also when the client goes away.
async fn answer(api: &Api, make: impl FnOnce() -> Value + Send + 'static) -> Result<Response, Problem> {
    let place = Arc::clone(&api.reading).acquire_owned().await.map_err(|_| stopping())?;
    let made = tokio::task::spawn_blocking(move || {
        let _place = place;
        make()
    });
    let made = made.await.map_err(|error| Problem::new(500, "internal", error.to_string()))?;
    Ok(document(StatusCode::OK, &made))
}

/// Routes whose live weights are not the file's, and files that are not what is running.
fn drift(ground: &Ground) -> Value {
    let drifting = |view: &RouteView| view.live.weights != view.config.routes[view.index].weights;
    let route = |view: RouteView| {
        let config = &view.config.routes[view.index];
        json!({
            "route": config.name,
            "generation": view.live.generation,
            "file": place(&view),
            "configured": weights(config, &config.weights),
            "live": weights(config, &view.live.weights),
        })
    };
    let changed = ground.config.provenance.changed_on_disk();
    json!({
        "routes": ground.views().filter(drifting).map(route).collect::<Vec<_>>(),
        "changed_on_disk": !changed.is_empty(),
        "files": changed.iter().map(changed_file).collect::<Vec<_>>(),
    })
}

fn changed_file(file: &ChangedFile) -> Value {
    let path = file.path.display().to_string();
    match &file.how {
        FileChange::Edited => json!({"path": path, "change": "edited"}),
        FileChange::New => json!({"path": path, "change": "new"}),
        FileChange::Unreadable(why) => json!({"path": path, "change": "unreadable", "detail": why}),
    }
}

fn saving_document(saving: &Saving, dry_run: bool) -> Value {
    let route = |route: &SavedRoute| {
        let (view, config) = (&route.view, &route.view.config.routes[route.view.index]);
        json!({
            "route": config.name,
            "generation": view.live.generation,
            "file": {"path": route.file.display().to_string(), "line": route.line},
            "before": weights(config, &config.weights),
            "after": weights(config, &view.live.weights),
        })
    };
    let file = |file: &SavedFile| {
        let lines =
            file.lines.iter().map(|line| json!({"line": line.line, "before": line.before, "after": line.after}));
        json!({"path": file.path.display().to_string(), "lines": lines.collect::<Vec<_>>(), "diff": file.diff})
    };
    json!({
        "dry_run": dry_run,
        "changed": !saving.routes.is_empty(),
        "routes": saving.routes.iter().map(route).collect::<Vec<_>>(),
        "files": saving.files.iter().map(file).collect::<Vec<_>>(),
    })
}

fn refusal(error: SaveError) -> Problem {
    let detail = error.to_string();
    match error {
        SaveError::NoRoute(name) => no_route(&name).field("routes"),
        SaveError::Stale(view) => documents::stale(&view).header(header::ETAG, etag(view.live.generation)),
        SaveError::FileChanged(files) => {
            let files: Vec<Value> = files.iter().map(changed_file).collect();
            Problem::new(409, "file-changed", detail).with("files", json!(files))
        }
        SaveError::Refilled => Problem::new(409, "file-changed", detail),
        SaveError::FilledIn { .. } => Problem::new(409, "weights-filled-in", detail),
        SaveError::Invalid(bad) => {
            let mut findings = bad.report.to_json();
            let problem = Problem::new(409, "invalid-configuration", format!("{detail}; nothing was saved"));
            problem.with("errors", findings["errors"].take()).with("warnings", findings["warnings"].take())
        }
        SaveError::NotWritten { replaced, .. } => {
            let replaced: Vec<String> = replaced.iter().map(|path| path.display().to_string()).collect();
            let nothing = if replaced.is_empty() { "nothing was saved: " } else { "" };
            Problem::new(507, "file-not-written", format!("{nothing}{detail}")).with("replaced", json!(replaced))
        }
        SaveError::HandedOver => handed_over(),
        SaveError::Stopped => stopping(),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, FILE_BYTES, Role, load};
    use crate::control::fixtures::{Process, Reply, token, with_tokens};
    use serde_json::json;
    use std::fs;
    use std::path::Path;

    const FILE: &str = "[server]\nstate_dir = \"state\"\n[admin]\nlisten = [\"127.0.0.1:0\"]\n\
                        [[listener]]\nname = \"http\"\nbind = \"127.0.0.1:8080\"\n[pool.p]\ntargets = [\"127.0.0.1:9\"]\n\
                        [[route]]\nname = \"shop\"\nvariants = { stable = \"p\", canary = \"p\" }\nweights = { stable = 95, canary = 5 }\n";

    fn config(folder: &Path) -> Config {
        let path = folder.join("weir.toml");
        fs::write(&path, FILE).unwrap();
        load(&path, &|_| None).config.unwrap()
    }

    async fn validate(process: &Process, media: &str, text: &[u8]) -> Reply {
        let media = format!("content-type: {media}");
        process.call("POST", "/api/v1/config/validate", &[&media], text).await
    }

    #[tokio::test]
    async fn a_text_is_checked_as_the_file_would_be_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::start(config(folder.path())).await;
        let serial = process.publisher.current().serial;
        let good = validate(&process, "application/toml", FILE.as_bytes()).await;
        assert_eq!((good.status, good.json()), (200, json!({"errors": [], "warnings": []})));
        // Includes are the running file's neighbours.
        fs::create_dir(folder.path().join("conf.d")).unwrap();
        fs::write(folder.path().join("conf.d/a.toml"), "[pool.p]\ntargets = [\"127.0.0.1:9\"]\n").unwrap();
        let bad = format!("include = [\"conf.d/*.toml\"]\n{}", FILE.replace("canary = 5", "canary = 6"));
        let found = validate(&process, "text/plain; charset=utf-8", bad.as_bytes()).await.json();
        let errors = found["errors"].as_array().unwrap();
        let codes: Vec<_> =
            errors.iter().map(|one| (one["code"].as_str().unwrap(), one["line"].as_u64().unwrap())).collect();
        assert_eq!(codes, [("weights-sum", 14), ("duplicate-name", 1)]);
        assert_eq!(errors[0]["file"], json!(folder.path().join("weir.toml")));
        let latin = validate(&process, "application/toml", b"# \xff\n").await.json();
        assert!(latin["errors"][0]["message"].as_str().unwrap().starts_with("not UTF-8"), "{latin}");
        assert_eq!(process.publisher.current().serial, serial);
        assert_eq!(fs::read_to_string(folder.path().join("weir.toml")).unwrap(), FILE);
        assert_eq!(process.get("/api/v1/config/diff").await.json()["changed_on_disk"], false);
    }

    #[tokio::test]
    async fn a_text_may_be_as_large_as_a_file_and_no_larger() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::start(config(folder.path())).await;
        let mut text = format!("{FILE}#").into_bytes();
        text.resize(FILE_BYTES, b' ');
        assert_eq!(validate(&process, "text/plain", &text).await.json()["errors"], json!([]));
        text.push(b' ');
        let reply = validate(&process, "text/plain", &text).await;
        assert_eq!((reply.status, reply.problem().as_str()), (413, "body-too-large"));
        let reply = validate(&process, "application/x-www-form-urlencoded", FILE.as_bytes()).await;
        assert_eq!((reply.status, reply.problem().as_str()), (415, "not-toml"));
        let query =
            process.call("POST", "/api/v1/config/validate?dry_run=true", &["content-type: text/plain"], b"").await;
        assert_eq!((query.status, query.json()["field"].as_str()), (400, Some("query:dry_run")));
    }

    #[tokio::test]
    async fn a_file_that_a_value_names_is_not_read_out() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "s3cret").unwrap();
        let process = Process::start(config(folder.path())).await;
        let text = FILE.replace("\"127.0.0.1:9\"", "\"${file:secret}\"");
        let reply = validate(&process, "text/plain", text.as_bytes()).await;
        assert_eq!(reply.json()["errors"][0]["message"], "\"${file:secret}\" is not a target");
        assert!(!String::from_utf8_lossy(&reply.body).contains("s3cret"));
    }

    #[tokio::test]
    async fn viewers_look_and_only_admins_save_and_validate() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = vec![token("eye", Role::Viewer), token("hand", Role::Operator), token("head", Role::Admin)];
        let process = Process::start(with_tokens(config(folder.path()), tokens)).await;
        for (name, look, change) in [("eye", 200, 403), ("hand", 200, 403), ("head", 200, 200), ("nobody", 401, 401)] {
            let authorization = format!("authorization: Bearer secret-{name}");
            for path in ["/api/v1/config/effective", "/api/v1/config/diff"] {
                assert_eq!(process.call("GET", path, &[&authorization], b"").await.status, look, "{name} {path}");
            }
            for path in ["/api/v1/config/validate", "/api/v1/config/save"] {
                let media = if path.ends_with("save") { "application/json" } else { "text/plain" };
                let headers = [authorization.as_str(), &format!("content-type: {media}")];
                let body = if path.ends_with("save") { "{}" } else { FILE };
                assert_eq!(process.call("POST", path, &headers, body.as_bytes()).await.status, change, "{name} {path}");
            }
        }
    }
}
