//! The API of GitHub for releases, as GitHub Enterprise Server has it, and the paths of its site.
//!
//! The API is at `/api/v3`; at the root too, for clients that are given a bare address, or the host `api.` of it. Uploads
//! go to `/api/uploads`, and to every other place that clients make of the address of the API. What is known beyond that:
//!
//! - JSON is indented, because install scripts `grep` it by the line, and of the type `application/json`.
//! - No answer of the API is a redirect, nor a 202, nor empty with a 200.
//! - For callers who may not write, drafts do not exist.

mod access;
mod assets;
mod error;
mod feed;
mod graphql;
mod json;
mod links;
mod notes;
mod openapi;
mod page;
mod pieces;
mod releases;
mod repository;
mod sums;
mod web;

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Redirect, Response},
    routing::{any, get, post},
};
use http::{HeaderMap, HeaderValue, header};

use super::{
    App,
    documented::{Methods, Routes, delete_with, get_with, post_with},
    packages::respond,
};
use crate::rendered::Answer;
use error::{Refusal, Result};
use links::Links;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// A finished answer, or a 304 if the client has it already.
fn answer(answer: Answer, headers: &HeaderMap) -> Response {
    let mut response = respond(answer, JSON, headers);
    response.headers_mut().append(header::VARY, HeaderValue::from_static("authorization"));
    response
}

/// What the document describes.
pub(super) fn routes() -> Routes {
    let routes = rest()
        .into_iter()
        .fold(Routes::default(), |routes, (path, methods)| routes.route(&format!("/api/v3{path}"), methods));
    routes
        .route("/api/v3", get_with(repository::root, openapi::root))
        .route("/api/graphql", post_with(graphql::graphql, openapi::graphql))
        .route("/api/uploads/repos/{owner}/{repo}/releases/{id}/assets", upload())
        .route("/{owner}/{repo}/releases", get_with(web::releases, openapi::releases_page))
        .route("/{owner}/{repo}/releases.atom", get_with(web::feed, openapi::feed))
        .route("/{owner}/{repo}/releases/latest", get_with(web::latest, openapi::latest_page))
        .route(
            "/{owner}/{repo}/releases/latest/download/{name}",
            get_with(web::latest_download, openapi::latest_download),
        )
        .route("/{owner}/{repo}/releases/{tag}", get_with(web::page_of, openapi::page_of))
        .route("/{owner}/{repo}/releases/tag/{*tag}", get_with(web::page, openapi::page))
        .route("/{owner}/{repo}/releases/download/{*path}", get_with(web::download, openapi::download))
}

/// The same where clients look for it as well, and what is nowhere.
pub(super) fn aliases() -> Router<App> {
    let router = Router::new();
    let router =
        rest().into_iter().fold(router, |router, (path, methods)| router.route(path, methods.into()));
    router
        .route("/api/v3/api/uploads/repos/{owner}/{repo}/releases/{id}/assets", upload().into())
        .route("/api/v3/", get(repository::root))
        .route("/graphql", post(graphql::graphql))
        // Else a client that reads its limits would wait for them.
        .route("/rate_limit", any(nothing))
        .route("/api/{*rest}", any(nothing))
        .route("/", get(home))
}

/// The API, relative to where it begins.
fn rest() -> Vec<(&'static str, Methods)> {
    vec![
        ("/user", get_with(repository::user, openapi::user)),
        ("/meta", get_with(repository::meta, openapi::meta)),
        ("/repos/{owner}/{repo}", get_with(repository::find, openapi::repository)),
        (
            "/repos/{owner}/{repo}/releases",
            get_with(releases::list, openapi::list).post_with(releases::create, openapi::create),
        ),
        ("/repos/{owner}/{repo}/releases/latest", get_with(releases::latest, openapi::latest)),
        (
            "/repos/{owner}/{repo}/releases/generate-notes",
            post_with(releases::generate_notes, openapi::generate_notes),
        ),
        ("/repos/{owner}/{repo}/releases/tags/{*tag}", get_with(releases::by_tag, openapi::by_tag)),
        (
            "/repos/{owner}/{repo}/releases/assets/{id}",
            get_with(assets::find, openapi::find_asset)
                .patch_with(assets::edit, openapi::edit_asset)
                .delete_with(assets::delete, openapi::delete_asset),
        ),
        (
            "/repos/{owner}/{repo}/releases/{id}",
            get_with(releases::find, openapi::find)
                .patch_with(releases::edit, openapi::edit)
                .delete_with(releases::delete, openapi::delete),
        ),
        (
            "/repos/{owner}/{repo}/releases/{id}/assets",
            get_with(releases::assets, openapi::list_assets).post_with(assets::upload, openapi::upload),
        ),
        ("/repos/{owner}/{repo}/tags", get_with(repository::tags, openapi::list_tags)),
        ("/repos/{owner}/{repo}/git/ref/{*reference}", get_with(repository::reference, openapi::reference)),
        (
            "/repos/{owner}/{repo}/git/refs/{*reference}",
            delete_with(repository::delete_tag, openapi::delete_tag),
        ),
        (
            "/repos/{owner}/{repo}/collaborators/{user}",
            get_with(repository::collaborator, openapi::collaborator),
        ),
    ]
}

fn upload() -> Methods {
    post_with(assets::upload, openapi::upload_here)
}

async fn nothing() -> Refusal {
    Refusal::not_found()
}

/// The API's own root on a host of its own, else the way to the page.
async fn home(State(_): State<App>, links: Links) -> Result<Response> {
    if links.is_service() {
        return repository::root(links).await;
    }
    // Relative, so that it also holds behind a path prefix.
    Ok(Redirect::to("packages?format=html").into_response())
}
