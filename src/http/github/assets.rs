//! Assets: upload, find, download, edit, delete.

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    access::{Asked, At, Deleting, Reading, Sent, Writing},
    answer,
    error::{Refusal, Result},
    json::AssetJson,
    links::Links,
    releases::ReleasePath,
};
use crate::{
    http::{
        App,
        download::{self, DownloadQuery, File},
        extract::{broken_off, content_length, declared_digest, switch},
        packages::{json, whole_and_plain},
    },
    releases::{
        assets::{AssetEdit, NewAsset},
        id::AssetId,
        name::Repository,
        record::{Asset, Record},
    },
    rendered::Answer,
};

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct AssetPath {
    /// The number of the asset.
    #[schemars(example = 890_530_011_545_600_u64)]
    id: u64,
}

impl AssetPath {
    fn id(&self) -> Result<AssetId> {
        AssetId::from_number(self.id).ok_or_else(Refusal::not_found)
    }
}

/// How an upload is asked for.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct UploadQuery {
    /// The name of the file; other characters than ASCII letters, digits, `-`, `_`, `+`, `@` and `.` become dots.
    #[serde(default)]
    #[schemars(example = "app-1.0.0.tar.gz")]
    name: String,
    /// What people are shown instead.
    #[serde(default)]
    #[schemars(with = "String", skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    /// Whether an asset of the same name is replaced; not of GitHub.
    #[serde(default, deserialize_with = "switch")]
    overwrite: bool,
    /// The SHA-256 that the bytes must have, 64 hex digits; not of GitHub.
    #[serde(default)]
    #[schemars(with = "String", skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

/// `POST …/releases/{id}/assets`: the raw bytes, whatever their type.
pub(super) async fn upload(
    writing: Writing,
    State(app): State<App>,
    links: Links,
    At(path): At<ReleasePath>,
    Asked(query): Asked<UploadQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    let Writing { repository, actor } = writing;
    whole_and_plain(&headers)?;
    let declared = declared_digest(query.sha256.as_deref(), &headers)?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let asset = NewAsset::new(&query.name, query.label, content_type, query.overwrite)?;
    let mut receiving =
        app.releases.upload(&repository, path.id()?, asset, content_length(&headers), actor).await?;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        receiving.write(piece.map_err(broken_off)?).await?;
    }
    let uploaded = receiving.commit(declared).await?;
    let (record, asset) = (&uploaded.record, &uploaded.asset);
    let fields = [(header::CONTENT_TYPE, super::JSON)];
    Ok((StatusCode::CREATED, fields, json(&AssetJson::new(record, asset, &links))?).into_response())
}

/// `GET …/releases/assets/{id}`: the bytes for who accepts `application/octet-stream`, else what is known of them.
pub(super) async fn find(
    reading: Reading,
    State(app): State<App>,
    links: Links,
    At(path): At<AssetPath>,
    Asked(query): Asked<DownloadQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response> {
    let (record, asset) = app.releases.find_asset(&reading.repository, path.id()?).await?;
    reading.check(&record)?;
    let mut response = if wants_bytes(&headers) {
        send(&app, &reading.repository, &record, &asset, &query, &method, &headers).await?
    } else {
        answer(Answer::new(json(&AssetJson::new(&record, &asset, &links))?), &headers)
    };
    response.headers_mut().append(header::VARY, http::HeaderValue::from_static("accept"));
    Ok(response)
}

/// Anywhere among the types that are accepted.
fn wants_bytes(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|value| {
        value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("application/octet-stream"))
    })
}

/// The bytes of an asset.
pub(super) async fn send(
    app: &App,
    repository: &Repository,
    record: &Record,
    asset: &Asset,
    query: &DownloadQuery,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response> {
    let etag = format!("\"{}\"", asset.sha256);
    let file = File {
        name: &asset.name,
        content_type: &asset.content_type,
        size: asset.size,
        etag: &etag,
        modified: asset.created_at,
        sha256: Some(asset.sha256),
    };
    if query.redirects(app.downloads)
        && download::sends_bytes(&file, method, headers)
        && let Some(link) = app.releases.link(repository, asset, &download::attachment(&asset.name)).await?
    {
        return Ok(download::sent_by_store(link)?);
    }
    let answer =
        download::answer(&file, method, headers, |range| app.releases.read(repository, asset, range)).await?;
    if method == Method::GET && answer.status().is_success() {
        tracing::Span::current()
            .record("repository", record.repository.as_str())
            .record("release.tag", tracing::field::display(&record.tag_name))
            .record("asset.name", asset.name.as_str());
    }
    Ok(answer)
}

/// What of an asset is to be changed.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "GitHubAssetFields")]
pub(super) struct Fields {
    /// Another name.
    #[serde(default)]
    name: Option<String>,
    /// Another label.
    #[serde(default)]
    label: Option<String>,
}

/// `PATCH …/releases/assets/{id}`
pub(super) async fn edit(
    writing: Writing,
    State(app): State<App>,
    links: Links,
    At(path): At<AssetPath>,
    Sent(fields): Sent<Fields>,
) -> Result<Response> {
    let edit = AssetEdit { name: fields.name, label: fields.label.map(Some) };
    let (record, asset) =
        app.releases.edit_asset(&writing.repository, path.id()?, edit, &writing.actor).await?;
    let fields = [(header::CONTENT_TYPE, super::JSON)];
    Ok((fields, json(&AssetJson::new(&record, &asset, &links))?).into_response())
}

/// `DELETE …/releases/assets/{id}`
pub(super) async fn delete(
    deleting: Deleting,
    State(app): State<App>,
    At(path): At<AssetPath>,
) -> Result<StatusCode> {
    app.releases.delete_asset(&deleting.repository, path.id()?, &deleting.actor).await?;
    Ok(StatusCode::NO_CONTENT)
}
