//! The paths that people and install scripts use: `/{owner}/{repo}/releases/…`.

use std::{ops::Range, sync::Arc};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    access::{Asked, At, Reading, lenient},
    assets::send,
    error::{Refusal, Result},
    feed,
    links::Links,
    releases::TagPath,
    sums,
};
use crate::{
    digest::Digest,
    error::Error,
    http::{
        App,
        download::{self, DownloadQuery, File},
        packages::respond,
        pages,
    },
    releases::{
        listing::Listing,
        name::TagName,
        record::{Asset, Record},
    },
    rendered::{Answer, Kind},
    storage::Content,
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
    match record.asset(name) {
        Some(asset) => send(&app, &reading.repository, &record, asset, &query, &method, &headers).await,
        None => digests(&record, name, &method, &headers).await,
    }
}

/// A file of digests that is no asset.
async fn digests(record: &Record, name: &str, method: &Method, headers: &HeaderMap) -> Result<Response> {
    let text = Bytes::from(sums::of(record, name).ok_or_else(Refusal::not_found)?);
    let sha256 = Digest::of(&text);
    let file = File {
        name,
        content_type: "text/plain; charset=utf-8",
        size: text.len() as u64,
        etag: &format!("\"{sha256}\""),
        modified: record.updated_at,
        sha256: Some(sha256),
    };
    let read = |range: Range<u64>| async move { Ok(Content::part_of(&text, range)) };
    Ok(download::answer(&file, method, headers, read).await?)
}

/// `GET …/releases/latest`: leads to the latest release's page.
pub(super) async fn latest(reading: Reading, State(app): State<App>, links: Links) -> Result<Response> {
    let listing = app.releases.list(&reading.repository).await?;
    reading.check_any(&listing)?;
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
    if latest.asset(&path.name).is_none() && sums::of(latest, &path.name).is_none() {
        return Err(Refusal::not_found());
    }
    found(links.download(latest, &path.name))
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
    links: Links,
    At(path): At<TagPath>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response> {
    let record = app.releases.by_tag(&reading.repository, &path.tag()?).await?;
    if accepts_json(&headers) {
        let brief = Brief { id: record.id.get(), tag_name: record.tag_name.as_str() };
        let body = serde_json::to_string(&brief).map_err(|error| Error::Internal(error.into()))?;
        return Ok(([(header::CONTENT_TYPE, super::JSON), VARY], body).into_response());
    }
    let listing = app.releases.list(&reading.repository).await?;
    let root = root(&uri);
    let render = move || pages::release_page(&record.repository, &root, &shown(&record, &listing, &links));
    html(render, &headers).await
}

/// How many releases there are on a page for people.
const PER_PAGE: usize = 10;

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct PagesQuery {
    /// Which page: 1 is the first, and meant by what is no number.
    #[serde(default, deserialize_with = "lenient")]
    #[schemars(with = "String", skip_serializing_if = "Option::is_none")]
    page: Option<usize>,
}

/// `GET …/releases`: a page.
pub(super) async fn releases(
    reading: Reading,
    State(app): State<App>,
    links: Links,
    Asked(query): Asked<PagesQuery>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response> {
    let listing = app.releases.list(&reading.repository).await?;
    reading.check_any(&listing)?;
    let root = root(&uri);
    let render = move || {
        let number = query.page.unwrap_or(1).max(1);
        let count = listing.visible(false).count();
        let shown: Vec<_> = listing
            .visible(false)
            .skip((number - 1).saturating_mul(PER_PAGE))
            .take(PER_PAGE)
            .map(|record| shown(record, &listing, &links))
            .collect();
        // As its publishers spell it.
        let spelled = listing.visible(false).next().map(|record| record.repository.as_str());
        let repository = spelled.unwrap_or(reading.repository.as_str());
        let pages = count.div_ceil(PER_PAGE).max(1);
        pages::releases_page(repository, &root, count, &shown, number, pages)
    };
    html(render, &headers).await
}

/// `GET …/releases.atom`
pub(super) async fn feed(
    reading: Reading,
    State(app): State<App>,
    links: Links,
    headers: HeaderMap,
) -> Result<Response> {
    let listing = app.releases.list(&reading.repository).await?;
    reading.check_any(&listing)?;
    let prepare = || {
        let (listing, links) = (Arc::clone(&listing), links.clone());
        let repository = reading.repository.clone();
        move || Ok::<_, Refusal>(feed::feed(&listing, &repository, &links).into())
    };
    // Notes are turned into HTML, which takes its time.
    let answer = listing.rendered.get(Kind::Feed, links.web().as_str(), usize::MAX, prepare).await?;
    Ok(respond(answer, ATOM, &headers))
}

const ATOM: HeaderValue = HeaderValue::from_static("application/atom+xml; charset=utf-8");

/// A release for a page.
fn shown<'a>(record: &'a Record, listing: &Listing, links: &Links) -> pages::Release<'a> {
    let asset = |asset: &'a Asset| pages::AssetRow {
        name: &asset.name,
        label: asset.label.as_deref(),
        size: asset.size,
        created_at: asset.created_at,
        sha256: asset.sha256.to_string(),
        url: links.download(record, &asset.name),
    };
    pages::Release {
        title: record.title(),
        tag: record.tag_name.as_str(),
        url: links.page(record),
        latest: listing.is_latest(record.id),
        prerelease: record.prerelease,
        published_at: record.published_at.unwrap_or(record.created_at),
        author: &record.author,
        notes: record.body.as_deref(),
        assets: record.assets.iter().map(asset).collect(),
        sums: links.download(record, sums::ALL),
    }
}

/// Leads from the page of a request to the server's own root, so that it also holds behind a path prefix.
fn root(uri: &Uri) -> String {
    "../".repeat(uri.path().matches('/').count().saturating_sub(1))
}

/// The page that `render` makes, with notes in it.
async fn html(
    render: impl FnOnce() -> std::result::Result<String, askama::Error> + Send + 'static,
    headers: &HeaderMap,
) -> Result<Response> {
    let page = pages::in_turn(|| render().map(|page| Answer::new(page.into()))).await?;
    let page = page.map_err(|error| Error::Internal(error.into()))?;
    let mut response = pages::harmless(respond(page, pages::HTML, headers));
    response.headers_mut().append(VARY.0, VARY.1);
    Ok(response)
}

const VARY: (header::HeaderName, HeaderValue) = (header::VARY, HeaderValue::from_static("accept"));

fn accepts_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.contains("application/json")
}

/// A redirect with the one status that every client follows.
fn found(url: String) -> Result<Response> {
    let location = HeaderValue::try_from(url).map_err(|error| Error::Internal(error.into()))?;
    let fields =
        [(header::LOCATION, location), (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    Ok((StatusCode::FOUND, fields).into_response())
}
