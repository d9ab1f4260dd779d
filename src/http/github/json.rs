//! Releases and assets in GitHub's shape.
//!
//! What clients stumble over: ids are integers below 2^53, `upload_url` ends in `{?name,label}`, `name`, `created_at`
//! and `size` are never null, `published_at` is null for drafts alone, and there is no `released_at` beside it.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::{DateTime, SecondsFormat, Utc};
use schemars::JsonSchema;
use serde::Serialize;

use super::links::Links;
use crate::{
    digest::Digest,
    releases::record::{Asset, Record},
};

/// The branch that is named where no other is.
pub(super) const DEFAULT_BRANCH: &str = "main";

/// A release.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GitHubRelease")]
#[expect(clippy::struct_excessive_bools, reason = "the fields are GitHub's")]
pub(super) struct ReleaseJson {
    /// Of the API.
    url: String,
    /// The page.
    html_url: String,
    /// The assets alone.
    assets_url: String,
    /// A template (RFC 6570).
    upload_url: String,
    /// Always null: there is no source here.
    #[schemars(with = "()")]
    tarball_url: Option<String>,
    /// Always null.
    #[schemars(with = "()")]
    zipball_url: Option<String>,
    /// Its number.
    id: u64,
    /// The same as an opaque text.
    node_id: String,
    /// Its tag.
    tag_name: String,
    /// The branch or commit that was named for the tag.
    target_commitish: String,
    /// Its title; its tag if it has none.
    name: String,
    /// Its notes, in Markdown.
    body: Option<String>,
    /// Not published yet.
    draft: bool,
    /// Never the latest.
    prerelease: bool,
    /// Whether its tag and its assets are frozen.
    immutable: bool,
    /// Whether retention spares it.
    pinned: bool,
    /// When it was created.
    #[schemars(with = "DateTime<Utc>")]
    created_at: String,
    /// When it was last changed.
    #[schemars(with = "DateTime<Utc>")]
    updated_at: String,
    /// When it was published; null for drafts alone.
    #[schemars(with = "Option<DateTime<Utc>>")]
    published_at: Option<String>,
    /// Who created it.
    author: UserJson,
    /// All of them, in the order they came.
    // The last field, see `pieces.rs`.
    assets: Vec<AssetJson>,
}

/// A file of a release.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GitHubAsset")]
pub(super) struct AssetJson {
    /// Of the API; the bytes for `Accept: application/octet-stream`.
    url: String,
    /// The bytes.
    browser_download_url: String,
    /// Its number.
    id: u64,
    /// The same as an opaque text.
    node_id: String,
    /// Under which it is downloaded.
    name: String,
    /// What people are shown instead.
    label: Option<String>,
    /// Always `uploaded`.
    state: &'static str,
    /// As its publisher said.
    content_type: String,
    /// In bytes.
    size: u64,
    /// `sha256:` and 64 hex digits.
    digest: String,
    /// Not counted.
    download_count: u64,
    /// When it was uploaded.
    #[schemars(with = "DateTime<Utc>")]
    created_at: String,
    /// When it was last changed.
    #[schemars(with = "DateTime<Utc>")]
    updated_at: String,
    /// Who uploaded it.
    uploader: UserJson,
}

/// Who did something: the name of a token.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GitHubUser")]
pub(super) struct UserJson {
    /// The name of the token.
    login: String,
    /// Made of the name.
    id: u64,
    /// The same as an opaque text.
    node_id: String,
    /// Always empty.
    avatar_url: &'static str,
    /// Leads nowhere.
    url: String,
    /// Leads nowhere.
    html_url: String,
    /// Always `User`.
    r#type: &'static str,
    /// Always false.
    site_admin: bool,
}

impl ReleaseJson {
    pub(super) fn new(record: &Record, links: &Links) -> Self {
        let assets = record.assets.iter().map(|asset| AssetJson::new(record, asset, links)).collect();
        Self { assets, ..Self::without_assets(record, links) }
    }

    /// The same as if it had none.
    pub(super) fn without_assets(record: &Record, links: &Links) -> Self {
        let url = links.release(record);
        Self {
            html_url: links.page(record),
            assets_url: format!("{url}/assets"),
            upload_url: links.upload(record),
            url,
            tarball_url: None,
            zipball_url: None,
            id: record.id.get(),
            node_id: node_id("Release", record.id.get()),
            tag_name: record.tag_name.to_string(),
            target_commitish: record.target_commitish.clone().unwrap_or_else(|| DEFAULT_BRANCH.to_owned()),
            name: record.title().to_owned(),
            body: record.body.clone(),
            draft: !record.published,
            prerelease: record.prerelease,
            immutable: record.immutable,
            pinned: record.pinned,
            created_at: time(record.created_at),
            updated_at: time(record.updated_at),
            published_at: record.published_at.filter(|_| record.published).map(time),
            author: UserJson::new(&record.author, links),
            assets: Vec::new(),
        }
    }
}

impl AssetJson {
    pub(super) fn new(record: &Record, asset: &Asset, links: &Links) -> Self {
        Self {
            url: links.asset(record, asset),
            browser_download_url: links.download(record, &asset.name),
            id: asset.id.get(),
            node_id: node_id("ReleaseAsset", asset.id.get()),
            name: asset.name.clone(),
            label: asset.label.clone(),
            state: "uploaded",
            content_type: asset.content_type.clone(),
            size: asset.size,
            digest: format!("sha256:{}", asset.sha256),
            download_count: 0,
            created_at: time(asset.created_at),
            updated_at: time(asset.updated_at),
            uploader: UserJson::new(&asset.uploader, links),
        }
    }
}

impl UserJson {
    pub(super) fn new(login: &str, links: &Links) -> Self {
        let id = number(login);
        Self {
            login: login.to_owned(),
            id,
            node_id: node_id("User", id),
            avatar_url: "",
            url: format!("{}/users/{}", links.api(), super::links::encoded(login)),
            html_url: links.web().to_string(),
            r#type: "User",
            site_admin: false,
        }
    }
}

/// A number below 2^31 that a name always has.
pub(super) fn number(name: &str) -> u64 {
    Digest::of(name.as_bytes()).leading_bits() >> 33
}

/// GitHub's global ids are opaque; these are the base64 of kind and number, as its older ones were.
pub(super) fn node_id(kind: &str, id: u64) -> String {
    BASE64_STANDARD.encode(format!("{:03}:{kind}{id}", kind.len()))
}

/// RFC 3339 in whole seconds, as GitHub writes it.
pub(super) fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
