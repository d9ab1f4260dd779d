//! What handlers ask for: who is calling, and the parsed input. An extractor is named after what it grants.

use std::{error::Error as _, fmt, string::ToString};

use aide::{
    OperationInput,
    generate::GenContext,
    openapi::Operation,
    operation::{ParamLocation, add_parameters, parameters_from_schema},
};
use axum::extract::{FromRequestParts, Path, Query};
use http::{HeaderMap, header, request::Parts};
use indexmap::IndexMap;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};

use super::{App, base_url::peer};
use crate::{
    audit::{self, Action, Actor},
    auth::{Caller, Denied, Scope},
    digest::Digest,
    error::{Error, Result},
    metrics::AuthFailure,
    name::PackageName,
};

/// The security scheme of the OpenAPI document.
pub(super) const BEARER: &str = "token";

/// So many characters of a text that may be no name are enough to recognize it.
const RECOGNIZABLE: usize = 255;

/// A caller who may list and download.
pub(super) struct Reader;

/// A caller who may upload.
pub(super) struct Writer(pub(super) Actor);

/// A caller who may delete.
pub(super) struct Deleter(pub(super) Actor);

impl FromRequestParts<App> for Reader {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        app.auth.authorize(parts.headers.get(header::AUTHORIZATION), Scope::Read).await?;
        Ok(Self)
    }
}

impl FromRequestParts<App> for Writer {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        change(parts, app, Scope::Write, Action::Publish).await.map(Self)
    }
}

impl FromRequestParts<App> for Deleter {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        change(parts, app, Scope::Delete, Action::Delete).await.map(Self)
    }
}

/// Who wants to change a package, if that is allowed; who was refused is in the audit log.
async fn change(parts: &mut Parts, app: &App, scope: Scope, action: Action) -> Result<Actor> {
    let authorized = app.auth.authorize(parts.headers.get(header::AUTHORIZATION), scope);
    let (actor, allowed) = admit(parts, app, authorized).await;
    if let Err(error) = &allowed {
        let name =
            name_in(parts, app).await.ok().map(|name| name.chars().take(RECOGNIZABLE).collect::<String>());
        audit::denied(&actor, action, name.as_deref(), error);
    }
    allowed.map(|()| actor)
}

/// Who wants to change something, and whether it may: as `authorized` says, unless a page of another site asks.
pub(super) async fn admit(
    parts: &Parts,
    app: &App,
    authorized: impl Future<Output = Result<Caller, Denied>>,
) -> (Actor, Result<()>) {
    let client = app.front.client_addr(&parts.headers, peer(&parts.extensions));
    let mut actor = Actor { caller: None, client: Some(client) };
    if let Err(error) = same_site(&parts.headers) {
        app.packages.metrics().refused(AuthFailure::CrossSite);
        return (actor, Err(error));
    }
    match authorized.await {
        Ok(caller) => {
            actor.caller = Some(caller.name);
            (actor, Ok(()))
        }
        Err(denied) => (actor, Err(denied.into())),
    }
}

/// Refuses a write that a page of another site makes a browser send: the browser may add a password it remembers.
///
/// [Fetch Metadata](https://www.w3.org/TR/fetch-metadata/): every current browser says where a request comes from.
fn same_site(headers: &HeaderMap) -> Result<()> {
    match headers.get("sec-fetch-site").map(http::HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => {
            Err(Denied::Forbidden("a page of another site may not change anything here".into()).into())
        }
    }
}

impl OperationInput for Reader {
    fn operation_input(_: &mut GenContext, operation: &mut Operation) {
        // Without a token, or with one: the operator decides.
        operation.security = vec![IndexMap::new(), IndexMap::from([(BEARER.to_owned(), Vec::new())])];
    }
}

impl OperationInput for Writer {
    fn operation_input(_: &mut GenContext, operation: &mut Operation) {
        operation.security = vec![IndexMap::from([(BEARER.to_owned(), Vec::new())])];
    }
}

impl OperationInput for Deleter {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        Writer::operation_input(ctx, operation);
    }
}

/// The name of a package that may exist.
pub(super) struct Name(pub(super) PackageName);

/// The name of a package to be made.
pub(super) struct NewName(pub(super) PackageName);

/// The path of what may exist.
#[derive(Deserialize, JsonSchema)]
struct NamePath {
    /// The package's name, percent-encoded.
    #[schemars(example = "app-1.0.0.tar.gz")]
    name: String,
}

/// The path of what is to be made. The pattern is the part of [`PackageName::for_upload`] that a pattern can say.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "read as a `NamePath`; this one is for the document")]
struct NewNamePath {
    /// The package's name, percent-encoded: at most 200 bytes in Unicode's form NFC, with no path separator, control or
    /// invisible character, no leading dot, and no white space around it.
    #[schemars(example = "app-1.0.0.tar.gz", length(min = 1, max = 200), regex(pattern = NEW_NAME))]
    name: String,
}

/// ECMA 262, as JSON Schema has it.
const NEW_NAME: &str = r"^(?![.\s]|repos$|.*\s$)[^/\\\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff]+$";

async fn name_in(parts: &mut Parts, app: &App) -> Result<String> {
    let Path(NamePath { name }) = Path::from_request_parts(parts, app).await.map_err(|refusal| {
        Error::Invalid(format!("the name in the path is not UTF-8: {}", refusal.body_text()))
    })?;
    Ok(name)
}

impl FromRequestParts<App> for Name {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let name = name_in(parts, app).await?;
        PackageName::existing(&name)
            .map(Self)
            .ok_or_else(|| Error::NotFound(name.escape_debug().take(RECOGNIZABLE).collect()))
    }
}

impl FromRequestParts<App> for NewName {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        PackageName::for_upload(&name_in(parts, app).await?).map(Self)
    }
}

impl OperationInput for Name {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        document::<NamePath>(ctx, operation, ParamLocation::Path);
    }
}

impl OperationInput for NewName {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        document::<NewNamePath>(ctx, operation, ParamLocation::Path);
    }
}

/// Documents the fields of `T` as parameters.
pub(super) fn document<T: JsonSchema>(
    ctx: &mut GenContext,
    operation: &mut Operation,
    location: ParamLocation,
) {
    // Not `ctx.schema`, which describes what is sent and not what is read.
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let parameters = parameters_from_schema(ctx, schema, location);
    add_parameters(ctx, operation, parameters);
}

/// A query whose refusal is a 422 that says what is wrong.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(refusal) => {
                // The refusal itself is a sentence about serde; its source names the parameter.
                let cause = refusal.source().map_or_else(|| refusal.body_text(), ToString::to_string);
                Err(Error::Unprocessable(format!("the query is not understood: {cause}")))
            }
        }
    }
}

impl<T: JsonSchema> OperationInput for Asked<T> {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        document::<T>(ctx, operation, ParamLocation::Query);
    }
}

/// Reads a [`switch`] that need not be there.
pub(super) fn choice<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<bool>, D::Error> {
    switch(deserializer).map(Some)
}

/// Reads a switch in every spelling that the Python server accepted, which is
/// [pydantic's](https://docs.pydantic.dev/latest/api/standard_library_types/#booleans).
pub(super) fn switch<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<bool, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
        _ => Err(D::Error::custom(format!("`{}` is neither `true` nor `false`", text.escape_debug()))),
    }
}

/// The digest that the client says its file has: `?sha256=`, `X-Checksum-Sha256` or `Repr-Digest` (RFC 9530).
///
/// Several are fine if they agree.
pub(super) fn declared_digest(query: Option<&str>, headers: &HeaderMap) -> Result<Option<Digest>> {
    // Several lines of one name are one list (RFC 9110, section 5.3), so that none goes unread.
    let text = |name: &str| {
        let lines = headers.get_all(name).iter().map(http::HeaderValue::to_str);
        let lines = lines.collect::<std::result::Result<Vec<_>, _>>();
        let lines = lines.map_err(|_| Error::Invalid(format!("`{name}` is not plain ASCII")))?;
        Ok::<_, Error>((!lines.is_empty()).then(|| lines.join(", ")))
    };
    let hex = |what: &str, text: Option<&str>| {
        let wrong = |_| Error::Invalid(format!("`{what}` is not a SHA-256: send 64 hex digits"));
        text.map(|text| text.trim().parse::<Digest>().map_err(wrong)).transpose()
    };
    let repr = text("repr-digest")?.as_deref().map(Digest::from_repr_digest).transpose().map_err(|_| {
        Error::Invalid("`Repr-Digest` is malformed: send `sha-256=:BASE64:` (RFC 9530)".into())
    })?;
    let declared = [
        hex("sha256", query)?,
        hex("x-checksum-sha256", text("x-checksum-sha256")?.as_deref())?,
        repr.flatten(),
    ];
    let mut declared = declared.into_iter().flatten();
    let first = declared.next();
    match declared.find(|other| Some(*other) != first) {
        Some(_) => Err(Error::Invalid("the declared digests differ from each other; send one".into())),
        None => Ok(first),
    }
}

/// Refuses early what is longer than `limit` by its own `Content-Length`.
pub(super) fn check_length(headers: &HeaderMap, limit: u64, form: u64) -> Result<()> {
    match content_length(headers) {
        Some(length) if length > limit.saturating_add(form) => Err(Error::TooLarge(limit)),
        _ => Ok(()),
    }
}

/// What a client is told whose body ended before its end.
pub(super) fn broken_off(error: impl fmt::Display) -> Error {
    Error::Invalid(format!("the upload broke off: {error}; send it again"))
}

/// What the client says its body has, in bytes.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde::de::{IntoDeserializer, value};

    use super::*;

    fn read(text: &str) -> Option<bool> {
        let deserializer: value::StrDeserializer<'_, value::Error> = text.into_deserializer();
        switch(deserializer).ok()
    }

    #[test]
    fn a_switch_is_spelled_as_the_python_server_took_it() {
        for text in ["true", "True", "TRUE", "t", "yes", "Y", "on", "1"] {
            assert_eq!(read(text), Some(true), "{text}");
        }
        for text in ["false", "F", "no", "n", "Off", "0"] {
            assert_eq!(read(text), Some(false), "{text}");
        }
        for text in ["", " true", "2", "ja", "truee", "null"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn no_line_of_a_declared_digest_goes_unread() {
        let digest = Digest::of(b"abc");
        let declared = |values: &[(&'static str, String)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in values {
                headers.append(*name, HeaderValue::try_from(value).unwrap());
            }
            declared_digest(None, &headers)
        };
        let repr = || ("repr-digest", digest.to_repr_digest());
        let other = || ("repr-digest", "sha-512=:YWJj:".to_owned());
        assert_eq!(declared(&[other(), repr()]).unwrap(), Some(digest));
        let hex = |digest: Digest| ("x-checksum-sha256", digest.to_string());
        declared(&[hex(digest), hex(Digest::of(b"abd"))]).unwrap_err();
    }
}
