//! The admin API: JSON over HTTP/1.1 on loopback, a unix socket or, with tokens, any address.
//!
//! Reads never wait for the controller or a disk. Wire shapes live here and nowhere else: `docs/admin-api.md` has
//! them with examples.

mod access;
mod body;
mod documents;
mod handlers;
mod idempotency;
mod problem;
mod server;

pub use documents::is_healthy;
pub use server::{Scope, Socket, serve};

use super::Control;
use super::metrics::Exposition;
use access::Peer;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use idempotency::Remembered;
use problem::Problem;
use std::sync::Arc;

/// What handlers share.
#[derive(Clone)]
pub struct Api {
    control: Control,
    exposition: Arc<Exposition>,
    remembered: Arc<Remembered>,
    /// One scrape at a time: with 10,000 routes an answer is large.
    scraping: Arc<tokio::sync::Mutex<()>>,
}

impl Api {
    pub fn new(control: Control) -> Api {
        let exposition = Arc::new(Exposition::new(control.clone()));
        Api { control, exposition, remembered: Arc::default(), scraping: Arc::default() }
    }
}

/// Everything that is served at an address of this scope.
fn router(scope: Scope, api: Api) -> Router {
    let health = Router::new()
        .route("/healthz", get(handlers::healthz))
        .route("/readyz", get(handlers::readyz))
        .route("/metrics", get(handlers::metrics));
    let routes = match scope {
        Scope::MetricsOnly => health,
        Scope::Everything => health
            .route("/api/v1/routes", get(handlers::routes))
            .route("/api/v1/routes/{route}", get(handlers::route))
            .route("/api/v1/routes/{route}/weights", patch(handlers::patch_weights).put(handlers::put_weights))
            .route("/api/v1/stats", get(handlers::stats))
            .route("/api/v1/reload", post(handlers::reload)),
    };
    routes
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(api.clone(), guard))
        .with_state(api)
}

/// Who may do this; before anything else is looked at, also before 404 and 405.
async fn guard(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let ground = api.control.ground();
    let Some(peer) = request.extensions().get::<Peer>().cloned() else {
        return Problem::new(500, "internal", "the request's connection is unknown").into_response();
    };
    match access::check(&ground.config.admin.tokens, &peer, &request) {
        Ok(actor) => {
            request.extensions_mut().insert(actor);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn not_found(request: Request) -> Problem {
    let path = request.uri().path();
    Problem::new(404, "not-found", format!("there is nothing at {path}; docs/admin-api.md lists what there is"))
}

async fn wrong_method(method: Method, request: Request) -> Problem {
    let path = request.uri().path();
    Problem::new(
        405,
        "method-not-allowed",
        format!("{path} does not answer {method}; the Allow header says what it does"),
    )
}
