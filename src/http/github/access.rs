//! Who is calling about which repository, and the parsed input. An extractor is named after what it grants.

use std::time::Duration;

use aide::{OperationInput, generate::GenContext, openapi::Operation, operation::ParamLocation};
use axum::{
    body::{Body, to_bytes},
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
};
use bytes::Bytes;
use http::{header, request::Parts};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use tokio::time::timeout;

use super::error::{Refusal, Result};
use crate::{
    audit::{self, Action, Actor},
    auth::{Denied, Scope, Visitor},
    error::Error,
    http::{
        App,
        extract::{self, admit, document},
    },
    releases::{listing::Listing, name::Repository, record::Record},
};

/// The longest body of JSON where nothing else is said, in bytes; GitHub takes notes of 125,000 characters.
const MAX_JSON: usize = 1024 * 1024;

/// A caller who may read a repository.
pub(super) struct Reading {
    pub(super) repository: Repository,
    pub(super) visitor: Visitor,
}

/// A caller who may write to a repository.
pub(super) struct Writing {
    pub(super) repository: Repository,
    pub(super) actor: Actor,
}

/// A caller who may delete in a repository.
pub(super) struct Deleting {
    pub(super) repository: Repository,
    pub(super) actor: Actor,
}

impl Reading {
    /// Refuses a release that this caller must not know of: a draft.
    pub(super) fn check(&self, record: &Record) -> Result<()> {
        if record.published || self.visitor.writes { Ok(()) } else { Err(Refusal::not_found()) }
    }

    /// Refuses a repository that has nothing for this caller: it may as well not exist.
    pub(super) fn check_any(&self, listing: &Listing) -> Result<()> {
        let any = self.visitor.writes || listing.visible(false).next().is_some();
        if any { Ok(()) } else { Err(Refusal::not_found()) }
    }
}

#[derive(Deserialize, JsonSchema)]
struct RepositoryPath {
    /// The owner of the repository.
    #[schemars(example = &"acme")]
    owner: String,
    /// The name of the repository.
    #[schemars(example = &"app")]
    repo: String,
}

async fn repository(parts: &mut Parts, app: &App) -> Result<Repository> {
    let Path(RepositoryPath { owner, repo }) =
        Path::from_request_parts(parts, app).await.map_err(|_| Refusal::not_found())?;
    Repository::new(&owner, &repo).ok_or_else(Refusal::not_found)
}

impl FromRequestParts<App> for Reading {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let repository = repository(parts, app).await?;
        let visitor = app.auth.visit(parts.headers.get(header::AUTHORIZATION), repository.key()).await;
        if matches!(visitor, Err(Denied::Hidden)) {
            look_for_nothing(app).await?;
        }
        Ok(Self { repository, visitor: visitor? })
    }
}

/// Looks for a repository that is not there, before one that is hidden is said not to be: else the time would tell them
/// apart, or a store that fails. Not for the hidden one itself, which takes the longer the more releases it has.
pub(super) async fn look_for_nothing(app: &App) -> Result<(), Error> {
    if let Some(nothing) = Repository::new("-", "-") {
        app.releases.list(&nothing).await?;
    }
    Ok(())
}

/// Who wants to change something in a repository, if that is allowed; who was refused is in the audit log.
async fn change(parts: &mut Parts, app: &App, scope: Scope, action: Action) -> Result<(Repository, Actor)> {
    let repository = repository(parts, app).await?;
    let authorization = parts.headers.get(header::AUTHORIZATION);
    let authorized = app.auth.authorize_in(authorization, scope, repository.key());
    let (actor, allowed) = admit(parts, app, authorized).await;
    if let Err(error) = &allowed {
        audit::denied_in(&actor, action, repository.as_str(), error);
    }
    allowed?;
    Ok((repository, actor))
}

impl FromRequestParts<App> for Writing {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let (repository, actor) = change(parts, app, Scope::Write, Action::Change).await?;
        Ok(Self { repository, actor })
    }
}

impl FromRequestParts<App> for Deleting {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let (repository, actor) = change(parts, app, Scope::Delete, Action::Delete).await?;
        Ok(Self { repository, actor })
    }
}

impl OperationInput for Reading {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        extract::Reader::operation_input(ctx, operation);
        document::<RepositoryPath>(ctx, operation, ParamLocation::Path);
    }
}

impl OperationInput for Writing {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        extract::Writer::operation_input(ctx, operation);
        document::<RepositoryPath>(ctx, operation, ParamLocation::Path);
    }
}

impl OperationInput for Deleting {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        Writing::operation_input(ctx, operation);
    }
}

/// What else the path names; what does not parse is not there.
pub(super) struct At<T>(pub(in crate::http) T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for At<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let path = Path::from_request_parts(parts, app).await;
        path.map(|Path(path)| Self(path)).map_err(|_| Refusal::not_found())
    }
}

impl<T: JsonSchema> OperationInput for At<T> {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        document::<T>(ctx, operation, ParamLocation::Path);
    }
}

/// A query whose refusal is a 422.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<App> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        match Query::from_request_parts(parts, app).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(refusal) => Err(Error::Unprocessable(refusal.body_text()).into()),
        }
    }
}

impl<T: JsonSchema> OperationInput for Asked<T> {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        document::<T>(ctx, operation, ParamLocation::Query);
    }
}

/// A body of JSON of at most so many bytes, whatever its type is said to be: `curl -d` says that it is a form.
///
/// It must be there within `stall_timeout`, as a whole. It is small, and a query of GraphQL is read for everybody: by the
/// byte it could hold the place of a request for days.
pub(super) struct Sent<T, const MOST: usize = MAX_JSON>(pub(super) T);

impl<T: DeserializeOwned, const MOST: usize> FromRequest<App> for Sent<T, MOST> {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let bytes = read(request.into_body(), MOST, app.stall_limit).await?;
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|_| Refusal::Syntax)?;
        let sent = serde_json::from_value(value)
            .map_err(|error| Error::Unprocessable(format!("Invalid request: {error}")))?;
        Ok(Self(sent))
    }
}

async fn read(body: Body, most: usize, within: Duration) -> Result<Bytes> {
    let refused = |why: String| Refusal::from(Error::Invalid(why));
    match timeout(within, to_bytes(body, most)).await {
        Ok(bytes) => {
            bytes.map_err(|_| refused(format!("the body broke off, or is longer than {} KiB", most / 1024)))
        }
        Err(_) => Err(refused("the body took too long to arrive; send it again".into())),
    }
}

impl<T: JsonSchema, const MOST: usize> OperationInput for Sent<T, MOST> {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        axum::Json::<T>::operation_input(ctx, operation);
    }
}

/// Reads a number as GitHub does: what is none counts as absent.
pub(super) fn lenient<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<usize>, D::Error> {
    Ok(String::deserialize(deserializer)?.parse().ok())
}
