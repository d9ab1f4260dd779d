//! Every route, and the layers around them.

pub mod base_url;
mod documented;
mod download;
pub mod error;
mod extract;
#[cfg(fuzzing)]
pub mod fuzzing;
mod github;
mod health;
pub mod layers;
mod linger;
pub mod metrics;
mod openapi;
mod packages;
mod pages;
mod sendfile;
pub mod serve;
pub mod tls;
pub mod workers;

use std::{
    net::SocketAddr,
    ops::Deref,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, FromRef},
    response::IntoResponse,
    routing::get,
};
use http::{HeaderValue, header};

use crate::{
    auth::Authenticator,
    config::{Config, Downloads},
    packages::Packages,
    releases::{Releases, name::Repository},
};
use base_url::Front;
use documented::{Routes, delete_with, get_with, post_with};
use serve::Draining;

/// The OpenAPI document, once somebody has asked for it.
static DOCUMENT: OnceLock<Box<str>> = OnceLock::new();

/// What handlers work with. Cloned several times a request, so a clone is a count and no more.
#[derive(Clone)]
struct App(Arc<Parts>);

struct Parts {
    packages: Packages,
    releases: Releases,
    package_repository: Option<Repository>,
    auth: Arc<Authenticator>,
    front: Arc<Front>,
    draining: Draining,
    downloads: Downloads,
    stall_limit: Duration,
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl FromRef<App> for Arc<Front> {
    fn from_ref(app: &App) -> Self {
        Arc::clone(&app.front)
    }
}

/// The whole server as a function from requests to answers. `local` is the address it listens at.
pub fn app(
    packages: Packages,
    releases: Releases,
    auth: Arc<Authenticator>,
    config: &Config,
    local: SocketAddr,
    draining: Draining,
) -> Router {
    let metrics = packages.metrics();
    let front = Arc::new(Front::of(config, local));
    let front_of_app = Arc::clone(&front);
    let app = App(Arc::new(Parts {
        packages,
        releases,
        package_repository: config.package_repository.as_deref().and_then(Repository::parse),
        auth,
        front: front_of_app,
        draining,
        downloads: config.downloads,
        stall_limit: config.server.stall_timeout,
    }));
    // The framework's 2 MB for forms is not ours: uploads are counted against `max_upload_bytes` as they come.
    let routes = routes().router().layer(DefaultBodyLimit::disable());
    let router =
        routes.merge(github::aliases()).with_state(app).route("/openapi.json", get(document)).merge(people());
    layers::around(router, &config.server, front, metrics)
}

/// `GET /openapi.json`.
async fn document() -> impl IntoResponse {
    // Kept: it changes with the program, not with the request.
    let document: &'static str = DOCUMENT.get_or_init(|| openapi().into());
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], document)
}

/// The OpenAPI document as JSON text.
pub fn openapi() -> String {
    openapi::document(|| routes().documented())
}

/// The API.
fn routes() -> Routes {
    Routes::default()
        .route("/latest", get_with(packages::latest, openapi::latest))
        .route("/releases/latest", get_with(packages::latest, openapi::releases_latest))
        .route("/packages", get_with(packages::list, openapi::list))
        .route("/packages/{name}", delete_with(packages::delete, openapi::delete_package))
        .route(
            "/assets/{name}",
            get_with(download::download, openapi::download)
                .put_with(packages::put, openapi::put)
                .delete_with(packages::delete, openapi::delete_asset),
        )
        .route("/upload", post_with(packages::upload, openapi::upload))
        .route("/healthz", get_with(health::healthz, openapi::healthz))
        .route("/readyz", get_with(health::readyz, openapi::readyz))
        .route("/health", get_with(health::health, openapi::health))
        .merge(github::routes())
}

/// What is for people's eyes: what the pages consist of.
fn people() -> Router {
    Router::new()
        .route("/docs", get(pages::docs))
        .route("/static/page.css", get(pages::page_css))
        .route("/static/page.js", get(pages::page_js))
        .route("/static/docs.css", get(pages::docs_css))
        .route("/static/docs.js", get(pages::docs_js))
}
