//! Releases: list, find, create, edit, delete.

use std::{iter, sync::Arc};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::{
    access::{Asked, At, Deleting, Reading, Sent, Writing, lenient},
    error::{Refusal, Result},
    json::{AssetJson, ReleaseJson},
    links::Links,
    notes, page, pieces,
};
use crate::{
    auth::Scope,
    error::Error,
    http::{
        App,
        base_url::BaseUrl,
        packages::{self, json},
    },
    releases::{
        change::{Edit, NewRelease},
        id::ReleaseId,
        name::TagName,
        record::{MakeLatest, Record},
    },
    rendered::Kind,
};

/// The longest title and notes, in characters.
const MAX_TEXT: usize = 125_000;

/// The longest name of a branch or a commit, in characters.
const MAX_TARGET: usize = 1000;

/// A page of a list.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
pub(super) struct PageQuery {
    /// How many there are on a page: 30 unless it is a number, at most 100.
    #[serde(default, deserialize_with = "lenient")]
    #[schemars(with = "String", skip_serializing_if = "Option::is_none")]
    pub(super) per_page: Option<usize>,
    /// Which page: 1 is the first, and what it is unless it is a number.
    #[serde(default, deserialize_with = "lenient")]
    #[schemars(with = "String", skip_serializing_if = "Option::is_none")]
    pub(super) page: Option<usize>,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct ReleasePath {
    /// The number of the release.
    #[schemars(example = 434_829_107_200_u64)]
    pub(super) id: u64,
}

impl ReleasePath {
    pub(super) fn id(&self) -> Result<ReleaseId> {
        ReleaseId::from_number(self.id).ok_or_else(Refusal::not_found)
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct TagPath {
    /// A tag; its slashes may be percent-encoded.
    #[schemars(example = "v1.0.0")]
    pub(super) tag: String,
}

impl TagPath {
    pub(super) fn tag(&self) -> Result<TagName> {
        TagName::parse(&self.tag).map_err(|_| Refusal::not_found())
    }
}

/// `GET …/releases`
pub(super) async fn list(
    reading: Reading,
    State(app): State<App>,
    links: Links,
    Asked(query): Asked<PageQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let listing = app.releases.list(&reading.repository).await?;
    reading.check_any(&listing)?;
    let visible: Vec<_> = listing.visible(reading.visitor.writes).collect();
    let url = format!("{}/releases", links.repository(reading.repository.as_str()));
    let things = |record: &Arc<Record>| pieces::things(record);
    let row = move |record| pieces::release(record, links.clone());
    page::respond(visible.into_iter().cloned(), query, &url, &headers, things, row).await
}

/// `GET …/releases/latest`
pub(super) async fn latest(
    reading: Reading,
    State(app): State<App>,
    links: Links,
    base: BaseUrl,
    headers: HeaderMap,
) -> Result<Response> {
    let listing = app.releases.list(&reading.repository).await?;
    let Some(latest) = listing.latest() else {
        if app.package_repository.as_ref() == Some(&reading.repository) {
            // The packages are in no repository: reading them is a matter of its own.
            app.auth.authorize(headers.get(header::AUTHORIZATION), Scope::Read).await?;
            return Ok(packages::newest(&app, &base, &headers).await?);
        }
        return Err(Refusal::not_found());
    };
    let prepare = || {
        let (latest, links) = (Arc::clone(latest), links.clone());
        move || json(&ReleaseJson::new(&latest, &links))
    };
    let rendered = listing.rendered.get(Kind::Latest, links.api(), latest.assets.len(), prepare).await?;
    let latest = Arc::clone(latest);
    Ok(pieces::respond_with(rendered, move || pieces::release(latest, links), &headers))
}

/// `GET …/releases/tags/{tag}`
pub(super) async fn by_tag(
    reading: Reading,
    State(app): State<App>,
    links: Links,
    At(path): At<TagPath>,
    headers: HeaderMap,
) -> Result<Response> {
    let record = app.releases.by_tag(&reading.repository, &path.tag()?).await?;
    respond(record, links, &headers).await
}

/// `GET …/releases/{id}`
pub(super) async fn find(
    reading: Reading,
    State(app): State<App>,
    links: Links,
    At(path): At<ReleasePath>,
    headers: HeaderMap,
) -> Result<Response> {
    let record = app.releases.find(&reading.repository, path.id()?).await?;
    reading.check(&record)?;
    respond(record, links, &headers).await
}

/// `GET …/releases/{id}/assets`
pub(super) async fn assets(
    reading: Reading,
    State(app): State<App>,
    links: Links,
    At(path): At<ReleasePath>,
    Asked(query): Asked<PageQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let record = app.releases.find(&reading.repository, path.id()?).await?;
    reading.check(&record)?;
    let url = format!("{}/assets", links.release(&record));
    let all = 0..record.assets.len();
    let row =
        move |index: usize| iter::once(pieces::json(&AssetJson::new(&record, &record.assets[index], &links)));
    page::respond(all, query, &url, &headers, |_| 1, row).await
}

/// A release to be created, or what of one is to be changed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "GitHubReleaseFields")]
pub(super) struct Fields {
    /// Its tag.
    #[serde(default)]
    tag_name: Option<String>,
    /// The branch or commit for the tag.
    #[serde(default)]
    target_commitish: Option<String>,
    /// Its title.
    #[serde(default)]
    name: Option<String>,
    /// Its notes, in Markdown.
    #[serde(default)]
    body: Option<String>,
    /// Whether it is not published yet.
    #[serde(default)]
    draft: Option<bool>,
    /// Whether it can never be the latest.
    #[serde(default)]
    prerelease: Option<bool>,
    /// Whether retention spares it; not of GitHub.
    #[serde(default)]
    pinned: Option<bool>,
    /// `true`, `false` or `legacy`: whether publishing makes it the latest.
    #[serde(default, deserialize_with = "make_latest")]
    #[schemars(with = "Option<String>")]
    make_latest: Option<MakeLatest>,
    /// Whether notes are made from the tags.
    #[serde(default)]
    generate_release_notes: Option<bool>,
}

/// A text; a boolean will do.
fn make_latest<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<MakeLatest>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Said {
        Switch(bool),
        Text(MakeLatest),
    }
    Ok(Option::<Said>::deserialize(deserializer)?.map(|said| match said {
        Said::Switch(true) => MakeLatest::True,
        Said::Switch(false) => MakeLatest::False,
        Said::Text(make_latest) => make_latest,
    }))
}

impl Fields {
    fn check(&self) -> Result<()> {
        for (field, text, most) in [
            ("body", &self.body, MAX_TEXT),
            ("name", &self.name, MAX_TEXT),
            ("target_commitish", &self.target_commitish, MAX_TARGET),
        ] {
            if text.as_ref().is_some_and(|text| text.chars().count() > most) {
                let message = format!("{field} is too long (maximum is {most} characters)");
                return Err(Refusal::field(field, "custom", message));
            }
        }
        Ok(())
    }
}

pub(super) fn tag(text: &str) -> Result<TagName> {
    let invalid =
        |rule| Refusal::field("tag_name", "invalid", format!("tag_name is not a valid tag: {rule}"));
    TagName::parse(text).map_err(invalid)
}

/// `POST …/releases`
pub(super) async fn create(
    writing: Writing,
    State(app): State<App>,
    links: Links,
    Sent(fields): Sent<Fields>,
) -> Result<Response> {
    let Writing { repository, actor } = writing;
    fields.check()?;
    let tag_name = fields.tag_name.as_deref().filter(|tag| !tag.is_empty()).ok_or_else(|| {
        Refusal::field("tag_name", "missing_field", "tag_name is missing; name the tag of the release")
    })?;
    let tag = tag(tag_name)?;
    let mut body = fields.body;
    if fields.generate_release_notes == Some(true) {
        let notes = notes::generate(&*app.releases.list(&repository).await?, &tag, None, &links);
        body = Some(
            body.filter(|body| !body.is_empty()).map_or(notes.clone(), |body| format!("{body}\n\n{notes}")),
        );
    }
    let new = NewRelease {
        tag,
        target_commitish: fields.target_commitish.filter(|target| !target.is_empty()),
        name: fields.name,
        body,
        draft: fields.draft.unwrap_or(false),
        prerelease: fields.prerelease.unwrap_or(false),
        pinned: fields.pinned.unwrap_or(false),
        make_latest: fields.make_latest,
    };
    let record = app.releases.create(&repository, new, &actor).await?;
    let location =
        HeaderValue::try_from(links.release(&record)).map_err(|error| Error::Internal(error.into()))?;
    let fields = [(header::LOCATION, location), (header::CONTENT_TYPE, super::JSON)];
    Ok((StatusCode::CREATED, fields, json(&ReleaseJson::new(&record, &links))?).into_response())
}

/// `PATCH …/releases/{id}`
pub(super) async fn edit(
    writing: Writing,
    State(app): State<App>,
    links: Links,
    At(path): At<ReleasePath>,
    Sent(fields): Sent<Fields>,
) -> Result<Response> {
    let Writing { repository, actor } = writing;
    fields.check()?;
    let edit = Edit {
        tag: fields.tag_name.as_deref().filter(|tag| !tag.is_empty()).map(tag).transpose()?,
        target_commitish: fields.target_commitish.filter(|target| !target.is_empty()),
        name: fields.name.map(Some),
        body: fields.body.map(Some),
        draft: fields.draft,
        prerelease: fields.prerelease,
        pinned: fields.pinned,
        make_latest: fields.make_latest,
    };
    let record = app.releases.edit(&repository, path.id()?, edit, &actor).await?;
    let fields = [(header::CONTENT_TYPE, super::JSON)];
    Ok((fields, json(&ReleaseJson::new(&record, &links))?).into_response())
}

/// `DELETE …/releases/{id}`
pub(super) async fn delete(
    deleting: Deleting,
    State(app): State<App>,
    At(path): At<ReleasePath>,
) -> Result<StatusCode> {
    let Deleting { repository, actor } = deleting;
    app.releases.delete(&repository, path.id()?, &actor).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What notes are to be made for.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct NotesFields {
    /// The tag.
    #[serde(default)]
    tag_name: Option<String>,
    /// The tag before it; the latest release's where it is absent.
    #[serde(default)]
    previous_tag_name: Option<String>,
}

/// `POST …/releases/generate-notes`
pub(super) async fn generate_notes(
    writing: Writing,
    State(app): State<App>,
    links: Links,
    Sent(fields): Sent<NotesFields>,
) -> Result<Response> {
    let tag_name = fields.tag_name.as_deref().filter(|tag| !tag.is_empty());
    let tag_name = tag_name
        .ok_or_else(|| Refusal::field("tag_name", "missing_field", "tag_name is missing; name the tag"))?;
    let (tag_name, previous) = (tag(tag_name)?, fields.previous_tag_name.filter(|tag| !tag.is_empty()));
    let previous = previous.as_deref().map(tag).transpose()?;
    let listing = app.releases.list(&writing.repository).await?;
    let body = notes::generate(&listing, &tag_name, previous.as_ref(), &links);
    let notes = notes::NotesJson { name: tag_name.to_string(), body };
    Ok(([(header::CONTENT_TYPE, super::JSON)], json(&notes)?).into_response())
}

async fn respond(record: Arc<Record>, links: Links, headers: &HeaderMap) -> Result<Response> {
    let things = pieces::things(&record);
    let text = move || pieces::release(Arc::clone(&record), links.clone());
    pieces::respond(things, text, headers).await
}
