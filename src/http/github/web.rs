//! The paths that people and install scripts use: `/{owner}/{repo}/releases/…`.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    access::{Asked, At, Reading},
    assets::send,
    error::{Refusal, Result},
    links::Links,
    releases::TagPath,
};
use crate::{
    error::Error,
    http::{App, download::DownloadQuery},
    releases::{name::TagName, record::Record},
};

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct FilePath {
    /// A tag and the name of an asset, with a slash between.
    #[schemars(example = "v1.0.0/app-1.0.0.tar.gz")]
    path: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct NamePath {
    /// The name of an asset.
    #[schemars(example = "app.tar.gz")]
    name: String,
}

/// `GET …/releases/download/{tag}/{name}`
pub(super) async fn download(
    reading: Reading,
    State(app): State<App>,
    At(path): At<FilePath>,
    Asked(query): Asked<DownloadQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response> {
    // A tag may have slashes, a name has none.
    let (tag, name) = path.path.rsplit_once('/').ok_or_else(Refusal::not_found)?;
    let tag = TagName::parse(tag).map_err(|_| Refusal::not_found())?;
    let record = app.releases.by_tag(&reading.repository, &tag).await?;
    let asset = record.asset(name).ok_or_else(Refusal::not_found)?;
    send(&app, &reading.repository, &record, asset, &query, &method, &headers).await
}

/// `GET …/releases/latest`: leads to the latest release's page.
pub(super) async fn latest(reading: Reading, State(app): State<App>, links: Links) -> Result<Response> {
    let listing = app.releases.list(&reading.repository).await?;
    match listing.latest() {
        Some(latest) => found(links.page(latest)),
        None => found(links.releases_page(reading.repository.as_str())),
    }
}

/// `GET …/releases/latest/download/{name}`: leads to the latest release's asset.
pub(super) async fn latest_download(
    reading: Reading,
    State(app): State<App>,
    links: Links,
    At(path): At<NamePath>,
) -> Result<Response> {
    let listing = app.releases.list(&reading.repository).await?;
    let latest = listing.latest().ok_or_else(Refusal::not_found)?;
    let asset = latest.asset(&path.name).ok_or_else(Refusal::not_found)?;
    found(links.download(latest, &asset.name))
}

/// `GET …/releases/{tag}`: leads to the page of a release.
pub(super) async fn page_of(
    reading: Reading,
    State(app): State<App>,
    links: Links,
    At(path): At<TagPath>,
) -> Result<Response> {
    let record = app.releases.by_tag(&reading.repository, &path.tag()?).await?;
    found(links.page(&record))
}

/// What install scripts look for, in one line: some take what follows `"tag_name":"`.
#[derive(Debug, Serialize, JsonSchema)]
struct Brief<'a> {
    id: u64,
    tag_name: &'a str,
}

/// `GET …/releases/tag/{tag}`: a page, or a line of JSON for who accepts that.
pub(super) async fn page(
    reading: Reading,
    State(app): State<App>,
    At(path): At<TagPath>,
    headers: HeaderMap,
) -> Result<Response> {
    let record = app.releases.by_tag(&reading.repository, &path.tag()?).await?;
    if accepts_json(&headers) {
        let brief = Brief { id: record.id.get(), tag_name: record.tag_name.as_str() };
        let body = serde_json::to_string(&brief).map_err(|error| Error::Internal(error.into()))?;
        return Ok(([(header::CONTENT_TYPE, super::JSON), VARY], body).into_response());
    }
    Ok(plain(record.title(), [&*record].into_iter()))
}

/// `GET …/releases`: a page.
pub(super) async fn releases(reading: Reading, State(app): State<App>) -> Result<Response> {
    let listing = app.releases.list(&reading.repository).await?;
    reading.check_any(&listing)?;
    let visible = listing.visible(false).map(|record| &**record);
    Ok(plain(reading.repository.as_str(), visible))
}

const VARY: (header::HeaderName, HeaderValue) = (header::VARY, HeaderValue::from_static("accept"));

fn accepts_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.contains("application/json")
}

/// The least page there can be.
fn plain<'a>(title: &str, records: impl Iterator<Item = &'a Record>) -> Response {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    let rows = records.map(|record| format!("<li>{}</li>", escaped(record.title())));
    let rows: Vec<String> = rows.collect();
    let rows = rows.join("\n");
    let body =
        format!("<!doctype html>\n<title>{0}</title>\n<h1>{0}</h1>\n<ul>\n{rows}\n</ul>\n", escaped(title));
    let fields = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        VARY,
    ];
    (fields, body).into_response()
}

/// A redirect with the one status that every client follows.
fn found(url: String) -> Result<Response> {
    let location = HeaderValue::try_from(url).map_err(|error| Error::Internal(error.into()))?;
    let fields =
        [(header::LOCATION, location), (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    Ok((StatusCode::FOUND, fields).into_response())
}
