//! What clients ask about a repository and themselves before they publish: of git there is no more than the tags.

use std::{iter, sync::Arc};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    access::{Asked, At, Deleting, Reading},
    answer,
    error::{Refusal, Result},
    json::{DEFAULT_BRANCH, UserJson, node_id, number},
    links::{Links, encoded},
    page, pieces,
    releases::PageQuery,
};
use crate::{
    error::Error,
    http::{App, packages::json},
    releases::{name::TagName, record::Record},
    rendered::Answer,
};

/// A repository.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GitHubRepository")]
#[expect(clippy::struct_excessive_bools, reason = "the fields are GitHub's")]
pub(super) struct RepositoryJson {
    /// Made of the name.
    id: u64,
    /// The same as an opaque text.
    node_id: String,
    /// Without its owner.
    name: String,
    /// With its owner.
    full_name: String,
    /// Who owns it.
    owner: UserJson,
    /// Whether strangers are told that it is not there.
    private: bool,
    /// `public` or `private`.
    visibility: &'static str,
    /// Always null.
    #[schemars(with = "()")]
    description: Option<&'static str>,
    /// Always false.
    fork: bool,
    /// Always false.
    archived: bool,
    /// Always false.
    disabled: bool,
    /// Of the API.
    url: String,
    /// The page.
    html_url: String,
    /// A template (RFC 6570).
    releases_url: String,
    /// The tags.
    tags_url: String,
    /// Leads nowhere: there is no git here.
    clone_url: String,
    /// The branch that is named where no other is.
    default_branch: &'static str,
    /// What the caller may do.
    permissions: Permissions,
}

/// What a caller may do.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GitHubPermissions")]
#[expect(clippy::struct_excessive_bools, reason = "the fields are GitHub's")]
struct Permissions {
    /// Always false.
    admin: bool,
    /// As `push`.
    maintain: bool,
    /// Whether it may publish.
    push: bool,
    /// As `push`.
    triage: bool,
    /// Always true.
    pull: bool,
}

/// `GET /repos/{owner}/{repo}`
pub(super) async fn find(
    reading: Reading,
    State(app): State<App>,
    links: Links,
    headers: HeaderMap,
) -> Result<Response> {
    let Reading { repository, visitor } = &reading;
    if app.package_repository.as_ref() != Some(repository) {
        reading.check_any(&*app.releases.list(repository).await?)?;
    }
    let (url, page) = (links.repository(repository.as_str()), links.repository_page(repository));
    let id = number(repository.key());
    let found = RepositoryJson {
        id,
        node_id: node_id("Repository", id),
        name: repository.name().to_owned(),
        full_name: repository.to_string(),
        owner: UserJson::new(repository.owner(), &links),
        private: visitor.private,
        visibility: if visitor.private { "private" } else { "public" },
        description: None,
        fork: false,
        archived: false,
        disabled: false,
        releases_url: format!("{url}/releases{{/id}}"),
        tags_url: format!("{url}/tags"),
        url,
        clone_url: format!("{page}.git"),
        html_url: page,
        default_branch: DEFAULT_BRANCH,
        permissions: Permissions {
            admin: false,
            maintain: visitor.writes,
            push: visitor.writes,
            triage: visitor.writes,
            pull: true,
        },
    };
    Ok(answer(Answer::new(json(&found)?), &headers))
}

/// A tag that has a release.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GitHubTag")]
pub(super) struct TagJson {
    /// Its name.
    name: String,
    /// The same as an opaque text.
    node_id: String,
    /// The commit, as far as its publisher named one.
    commit: Commit,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GitHubCommit")]
struct Commit {
    /// Empty unless the publisher named a commit.
    sha: String,
    /// Leads nowhere.
    url: String,
}

/// The commit that a release was said to be of.
fn commit(record: &Record) -> Option<&str> {
    let sha = record.target_commitish.as_deref()?;
    (sha.len() == 40 && sha.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(sha)
}

/// `GET …/tags`
pub(super) async fn tags(
    reading: Reading,
    State(app): State<App>,
    links: Links,
    Asked(query): Asked<PageQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let listing = app.releases.list(&reading.repository).await?;
    reading.check_any(&listing)?;
    let published: Vec<_> = listing.visible(false).collect();
    let url = links.repository(reading.repository.as_str());
    let list = format!("{url}/tags");
    let row = move |record: Arc<Record>| {
        let sha = commit(&record).unwrap_or_default();
        iter::once(pieces::json(&TagJson {
            name: record.tag_name.to_string(),
            node_id: node_id("Ref", record.id.get()),
            commit: Commit { sha: sha.to_owned(), url: format!("{url}/commits/{sha}") },
        }))
    };
    page::respond(published.into_iter().cloned(), query, &list, &headers, |_| 1, row).await
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct RefPath {
    /// `tags/` and a tag; `gh` encodes the slash.
    #[schemars(example = "tags/v1.0.0")]
    reference: String,
}

impl RefPath {
    fn tag(&self) -> Result<TagName> {
        let tag = self.reference.strip_prefix("tags/").and_then(|tag| TagName::parse(tag).ok());
        tag.ok_or_else(Refusal::not_found)
    }
}

/// A git reference.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GitHubReference")]
pub(super) struct RefJson {
    /// `refs/tags/` and the tag.
    r#ref: String,
    /// An opaque text.
    node_id: String,
    /// Of the API.
    url: String,
    /// What it stands for.
    object: Object,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GitHubObject")]
struct Object {
    /// The commit that its publisher named.
    sha: String,
    /// Always `commit`.
    r#type: &'static str,
    /// Leads nowhere.
    url: String,
}

/// `GET …/git/ref/{reference}`: a tag whose publisher named a commit.
pub(super) async fn reference(
    reading: Reading,
    State(app): State<App>,
    links: Links,
    At(path): At<RefPath>,
    headers: HeaderMap,
) -> Result<Response> {
    let record = app.releases.by_tag(&reading.repository, &path.tag()?).await?;
    let sha = commit(&record).ok_or_else(Refusal::not_found)?;
    let url = links.repository(&record.repository);
    let found = RefJson {
        r#ref: format!("refs/tags/{}", record.tag_name),
        node_id: node_id("Ref", record.id.get()),
        url: format!("{url}/git/refs/tags/{}", encoded(record.tag_name.as_str())),
        object: Object { sha: sha.to_owned(), r#type: "commit", url: format!("{url}/git/commits/{sha}") },
    };
    Ok(answer(Answer::new(json(&found)?), &headers))
}

/// `DELETE …/git/refs/{reference}`: nothing is to be done, for a tag goes with its release.
pub(super) async fn delete_tag(
    deleting: Deleting,
    State(app): State<App>,
    At(path): At<RefPath>,
) -> Result<StatusCode> {
    match app.releases.by_tag(&deleting.repository, &path.tag()?).await {
        Err(Error::NotFound(_)) => Ok(StatusCode::NO_CONTENT),
        Err(error) => Err(error.into()),
        Ok(record) => Err(Error::Unprocessable(format!(
            "tag `{}` has a release; delete release {} first",
            record.tag_name, record.id
        ))
        .into()),
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct UserPath {
    /// A name.
    #[serde(rename = "user")]
    #[schemars(example = &"ci")]
    _user: String,
}

/// `GET …/collaborators/{user}`: 204 for who may publish.
pub(super) async fn collaborator(reading: Reading, _: At<UserPath>) -> Result<StatusCode> {
    if reading.visitor.writes { Ok(StatusCode::NO_CONTENT) } else { Err(Refusal::not_found()) }
}

/// `GET /user`: who is calling.
pub(super) async fn user(State(app): State<App>, links: Links, headers: HeaderMap) -> Result<Response> {
    let caller = app.auth.authenticate(headers.get(header::AUTHORIZATION)).await?;
    Ok(([(header::CONTENT_TYPE, super::JSON)], json(&UserJson::new(&caller.name, &links))?).into_response())
}

/// What there is, as templates (RFC 6570).
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GitHubRoot")]
#[expect(clippy::struct_field_names, reason = "the fields are GitHub's")]
pub(super) struct RootJson {
    /// Who is calling.
    current_user_url: String,
    /// A repository.
    repository_url: String,
    /// Its releases.
    releases_url: String,
}

/// `GET /api/v3`
pub(super) async fn root(links: Links) -> Result<Response> {
    let api = links.api();
    let root = RootJson {
        current_user_url: format!("{api}/user"),
        repository_url: format!("{api}/repos/{{owner}}/{{repo}}"),
        releases_url: format!("{api}/repos/{{owner}}/{{repo}}/releases{{/id}}"),
    };
    Ok(([(header::CONTENT_TYPE, super::JSON)], json(&root)?).into_response())
}

/// `GET /meta`: which GitHub this is like.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GitHubMeta")]
pub(super) struct MetaJson {
    /// Always false.
    verifiable_password_authentication: bool,
    /// Of GitHub Enterprise Server.
    installed_version: &'static str,
}

/// `GET /meta`
pub(super) async fn meta() -> Result<Response> {
    let meta = MetaJson { verifiable_password_authentication: false, installed_version: "3.17.0" };
    Ok(([(header::CONTENT_TYPE, super::JSON)], json(&meta)?).into_response())
}
