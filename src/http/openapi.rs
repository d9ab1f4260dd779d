//! The OpenAPI document: what the types do not say themselves.
//!
//! Promises: every status and header that an operation may answer with, every header it reads, and which of them
//! need a token. What holds everywhere (405, 404 for unknown paths, `HEAD`) is said once, at the top of the document.

use aide::{
    axum::ApiRouter,
    generate::in_context,
    openapi::{
        self, Header, HeaderStyle, MediaType, OpenApi, Operation, Parameter, ParameterData,
        ParameterSchemaOrContent, ReferenceOr, RequestBody, Response, SchemaObject, SecurityScheme, Tag,
    },
    transform::TransformOperation,
};
use axum::{Json, Router};
use http::StatusCode;
use indexmap::IndexMap;
use schemars::{Schema, generate::SchemaSettings, json_schema};
use serde_json::Value;

use super::{
    App,
    error::Problem,
    extract::BEARER,
    packages::{PackageJson, ReleaseJson},
};
use crate::{auth::Denied, error::Error};

pub(super) type Op<'t> = TransformOperation<'t>;

/// The document about the routes, as pretty-printed JSON.
pub(super) fn document(routes: impl FnOnce() -> ApiRouter<App>) -> String {
    // Schemas of answers: what serde may leave out is optional, everything else is there, if only as null.
    in_context(|context| {
        context.schema = SchemaSettings::draft2020_12()
            .for_serialize()
            .with(|settings| settings.definitions_path = "#/components/schemas/".into())
            .into_generator();
    });
    let mut api = OpenApi::default();
    let _: Router<App> = routes().finish_api_with(&mut api, |api| {
        api.title("Release Server")
            .version(env!("CARGO_PKG_VERSION"))
            .description(
                "Publishes and serves release packages. Reads are public unless the operator says otherwise; writes \
                 need a token.\n\nEvery error is JSON with a `message` that says what to do, 404 for unknown paths \
                 and 405 (with `Allow`) for other methods included. `HEAD` works wherever `GET` does. Every answer \
                 carries an `X-Request-Id`, the one that was sent if it is a sane one, and the log has it too.",
            )
            .tag(tag("packages", "The files, newest first."))
            .tag(tag("releases", "Releases of repositories, as GitHub has them. What is below `/api/v3` is at the root too."))
            .tag(tag("health", "For load balancers and orchestrators; never refused by a busy server."))
            .security_scheme(
                BEARER,
                SecurityScheme::Http {
                    scheme: "bearer".into(),
                    bearer_format: None,
                    description: Some("`AUTH_TOKEN`, a named token or a JWT, as the operator configured.".into()),
                    extensions: IndexMap::default(),
                },
            )
    });
    // The router's way of saying that a parameter may have slashes is not the document's.
    if let Some(paths) = &mut api.paths {
        let plain = std::mem::take(&mut paths.paths).into_iter();
        paths.paths = plain.map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    }
    // A document of plain data always serializes.
    serde_json::to_string_pretty(&api).unwrap_or_default()
}

pub(super) fn latest(op: Op<'_>) -> Op<'_> {
    release(op.id("getLatest").summary("The newest packages as a release, in GitHub's shape"))
}

pub(super) fn releases_latest(op: Op<'_>) -> Op<'_> {
    release(op.id("getLatestRelease").summary("The same as `/latest`"))
}

fn release(op: Op<'_>) -> Op<'_> {
    let op = asks(op.tag("packages"), &[IF_NONE_MATCH]).response_with::<200, Json<ReleaseJson<'static>>, _>(
        |mut answer| {
            answer.inner().headers = headers(&[WEAK_ETAG, CACHE_CONTROL]);
            answer.description("Newest first; an empty store has no assets.")
        },
    );
    refusals(not_modified(op, &[WEAK_ETAG, CACHE_CONTROL]), &READ)
}

pub(super) fn list(op: Op<'_>) -> Op<'_> {
    let op = asks(op, &[IF_NONE_MATCH])
        .id("listPackages")
        .tag("packages")
        .summary("The packages, newest first")
        .description("JSON, or a page for people: by `format`, else by `Accept`.")
        .response_with::<200, Json<Vec<PackageJson<'static>>>, _>(|mut answer| {
            let Response { headers: fields, content, .. } = answer.inner();
            *fields = headers(&[WEAK_ETAG, CACHE_CONTROL, VARY]);
            content.insert("text/html".into(), media(json_schema!({ "type": "string" })));
            answer.description("Newest first.")
        });
    let op = not_modified(op, &[WEAK_ETAG, CACHE_CONTROL, VARY]);
    refusals(op, &[&READ[..], &[(422, "`format` is neither `json` nor `html`.")]].concat())
}

pub(super) fn download(op: Op<'_>) -> Op<'_> {
    let conditions = [RANGE, IF_RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE];
    let mut op = asks(op, &conditions)
        .id("downloadPackage")
        .tag("packages")
        .summary("The bytes of a package")
        .description("Never compressed on the way, and always with a length, so a client can show progress.");
    for (status, text, own) in [
        (200, "The package.", &[CONTENT_LENGTH, CONTENT_DISPOSITION][..]),
        (206, "The range that was asked for.", &[CONTENT_LENGTH, CONTENT_DISPOSITION, CONTENT_RANGE]),
    ] {
        // The type is the one of the name's extension, `application/octet-stream` for unknown ones.
        let bytes = [("*/*".into(), media(json_schema!({ "type": "string", "format": "binary" })))];
        let answer = Response {
            description: text.into(),
            headers: headers(&[own, &PACKAGE[..]].concat()),
            content: bytes.into(),
            ..Response::default()
        };
        answers(op.inner_mut(), status, answer);
    }
    let elsewhere = Response {
        description: "The store itself sends the package: where the operator has configured that.".into(),
        headers: headers(&[LOCATION]),
        ..Response::default()
    };
    answers(op.inner_mut(), 302, elsewhere);
    let own = [
        (400, "The name is not UTF-8."),
        (404, "There is no package of this name."),
        (409, "The package was replaced again and again while it was being opened."),
        (412, "A condition does not hold."),
        (416, "The range is outside of the package."),
        (422, "`redirect` is neither true nor false."),
    ];
    refusals(not_modified(op, &PACKAGE), &[&READ[..], &own].concat())
}

pub(super) fn put(op: Op<'_>) -> Op<'_> {
    let mut op = op
        .id("putPackage")
        .summary("Publish the body as a package")
        .description("As `curl -T FILE` sends it.");
    let bytes = media(json_schema!({ "type": "string", "format": "binary", "minLength": 1 }));
    body(op.inner_mut(), "application/octet-stream", bytes);
    stored(op, "The bytes have another digest than declared, or the query is wrong.")
}

pub(super) fn upload(op: Op<'_>) -> Op<'_> {
    let mut op = op
        .id("uploadPackage")
        .summary("Publish a file sent by a form")
        .description("As `curl -F file=@FILE` sends it.");
    let form = media(json_schema!({
        "type": "object",
        "required": ["file"],
        "additionalProperties": false,
        "properties": {
            "file": {
                "type": "string",
                "format": "binary",
                "minLength": 1,
                "description": "The file, with its name.",
            },
        },
    }));
    body(op.inner_mut(), "multipart/form-data", form);
    stored(
        op,
        "The bytes have another digest than declared, the form has no part `file`, or the query is wrong.",
    )
}

fn stored<'t>(op: Op<'t>, unprocessable: &str) -> Op<'t> {
    let op = asks(op.tag("packages"), &[X_CHECKSUM_SHA256, REPR_DIGEST])
        .response_with::<200, Json<PackageJson<'static>>, _>(|mut answer| {
            answer.inner().headers = headers(&[ETAG]);
            answer.description("The package is stored, durable and visible.")
        });
    refusals(
        op,
        &[
            (
                400,
                "The file is empty or broke off, or its name or a digest is unusable; the message says which rule.",
            ),
            (401, "The token is missing or not valid."),
            (403, "The token may not upload."),
            (408, "The bytes stopped coming."),
            (409, "A package of this name exists and `overwrite` is not true."),
            (413, "The file is larger than `max_upload_bytes`."),
            (422, unprocessable),
        ],
    )
}

pub(super) fn delete_asset(op: Op<'_>) -> Op<'_> {
    delete(op.id("deleteAsset").summary("Delete a package"))
}

pub(super) fn delete_package(op: Op<'_>) -> Op<'_> {
    delete(op.id("deletePackage").summary("Delete a package; the same as `/assets/{name}`"))
}

fn delete(op: Op<'_>) -> Op<'_> {
    let op = op.tag("packages").response_with::<204, (), _>(|answer| answer.description("It is gone."));
    refusals(
        op,
        &[
            (400, "The name is not UTF-8."),
            (401, "The token is missing or not valid."),
            (403, "The token may not delete."),
            (404, "There is no package of this name."),
            (409, "It was replaced while this request ran."),
        ],
    )
}

pub(super) fn healthz(op: Op<'_>) -> Op<'_> {
    op.id("healthz")
        .tag("health")
        .summary("Whether the process answers")
        .response_with::<200, String, _>(|answer| answer.description("It does.").example("OK"))
}

pub(super) fn readyz(op: Op<'_>) -> Op<'_> {
    let mut op = op
        .id("readyz")
        .tag("health")
        .summary("Whether the server should get requests")
        .response_with::<200, String, _>(|answer| answer.description("The storage answers.").example("OK"));
    refuses(op.inner_mut(), 503, "The storage does not answer, or the server is stopping.");
    op
}

pub(super) fn health(op: Op<'_>) -> Op<'_> {
    op.id("health").tag("health").summary("Whether the process answers, in JSON")
}

/// A header, of a request or of an answer.
#[derive(Clone, Copy)]
pub(super) struct Field {
    name: &'static str,
    text: &'static str,
    example: &'static str,
    /// What its value must look like; `None` where anything else is as good as none.
    pattern: Option<&'static str>,
}

pub(super) const fn field(name: &'static str, text: &'static str, example: &'static str) -> Field {
    Field { name, text, example, pattern: None }
}

impl Field {
    const fn like(self, pattern: &'static str) -> Self {
        Self { pattern: Some(pattern), ..self }
    }

    fn schema(self) -> ParameterSchemaOrContent {
        let mut schema = json_schema!({ "type": "string", "examples": [self.example] });
        if let Some(pattern) = self.pattern {
            schema.insert("pattern".into(), pattern.into());
        }
        ParameterSchemaOrContent::Schema(object(schema))
    }
}

const AN_ETAG: &str = "\"a3c73b-6-18ea779ff2ed667e-18ea779ff3570f57\"";
const A_DATE: &str = "Sat, 12 Sep 2026 14:03:11 GMT";
const A_DIGEST: &str = "sha-256=:Om6weQ85rIfJTzhWst0sXREOaBFgImGpqSPTuyOtyLc=:";

pub(super) const RANGE: Field =
    field("Range", "One range of bytes; for several, the whole is sent.", "bytes=0-1023");
pub(super) const IF_RANGE: Field =
    field("If-Range", "`Range` counts only if the package is still this one.", AN_ETAG);
pub(super) const IF_MATCH: Field = field("If-Match", "412 if the package is none of these.", AN_ETAG);
pub(super) const IF_NONE_MATCH: Field =
    field("If-None-Match", "304 if what there is has one of these ETags.", AN_ETAG);
pub(super) const IF_MODIFIED_SINCE: Field =
    field("If-Modified-Since", "304 if the package is not newer.", A_DATE);
pub(super) const IF_UNMODIFIED_SINCE: Field =
    field("If-Unmodified-Since", "412 if the package is newer.", A_DATE);
pub(super) const X_CHECKSUM_SHA256: Field = field(
    "X-Checksum-Sha256",
    "The SHA-256 that the bytes must have. Several ways of declaring it may be used if they agree.",
    "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7",
)
.like("^[0-9A-Fa-f]{64}$");
pub(super) const REPR_DIGEST: Field =
    field("Repr-Digest", "The same after RFC 9530; algorithms other than `sha-256` are ignored.", A_DIGEST)
        .like("^(sha-256=:[0-9A-Za-z+/]{42}[AEIMQUYcgkosw048]=:)?$");

pub(super) const ETAG: Field = field("ETag", "Changes with the bytes; strong.", AN_ETAG).like("^\".*\"$");
pub(super) const WEAK_ETAG: Field = field(
    "ETag",
    "Changes when anything in the answer does; weak.",
    "W/\"57752644ee491a2bc8fa7c192105d61b\"",
)
.like("^W/\".*\"$");
const LAST_MODIFIED: Field = field("Last-Modified", "When the bytes were stored.", A_DATE);
pub(super) const CACHE_CONTROL: Field =
    field("Cache-Control", "To be asked for again each time.", "no-cache");
pub(super) const VARY: Field = field("Vary", "JSON and page share a URL.", "accept");
pub(super) const CONTENT_LENGTH: Field = field("Content-Length", "In bytes.", "86532").like("^[0-9]+$");
pub(super) const CONTENT_DISPOSITION: Field =
    field("Content-Disposition", "The file's name (RFC 6266).", "attachment; filename=\"app-1.0.0.tar.gz\"")
        .like("^attachment; filename=\".*\"");
pub(super) const CONTENT_RANGE: Field = field(
    "Content-Range",
    "The range sent and the whole length; of a 416, the length alone.",
    "bytes 0-1023/86532",
)
.like("^bytes ([0-9]+-[0-9]+|\\*)/[0-9]+$");
pub(super) const LOCATION: Field = field(
    "Location",
    "Signed, for a short time.",
    "https://s3.example.com/releases/app-1.0.0.tar.gz?X-Amz-…",
);
pub(super) const WWW_AUTHENTICATE: Field =
    field("WWW-Authenticate", "How to authenticate (RFC 6750).", "Bearer realm=\"release-server\"")
        .like("^Bearer ");
pub(super) const RETRY_AFTER: Field = field("Retry-After", "In seconds.", "1").like("^[0-9]+$");

/// What every answer about a package's bytes carries; `Repr-Digest` only once it is known.
pub(super) const PACKAGE: [Field; 5] = [
    ETAG,
    LAST_MODIFIED,
    field("Repr-Digest", "The SHA-256 of the whole package (RFC 9530), once it is known.", A_DIGEST),
    field("Accept-Ranges", "`Range` works here.", "bytes"),
    CACHE_CONTROL,
];

/// Why a read is refused.
const READ: [(u16, &str); 2] = [
    (401, "Reads are private here, and the token is missing or not valid."),
    (403, "Reads are private here, and the token may not read."),
];

/// Documents headers that an operation reads.
pub(super) fn asks<'t>(mut op: Op<'t>, fields: &[Field]) -> Op<'t> {
    let parameters = fields.iter().map(|field| Parameter::Header {
        parameter_data: ParameterData {
            name: field.name.into(),
            description: Some(field.text.into()),
            required: false,
            deprecated: None,
            format: field.schema(),
            example: None,
            examples: IndexMap::default(),
            explode: None,
            extensions: IndexMap::default(),
        },
        style: HeaderStyle::Simple,
    });
    op.inner_mut().parameters.extend(parameters.map(ReferenceOr::Item));
    op
}

/// Documents headers of an answer.
pub(super) fn headers(fields: &[Field]) -> IndexMap<String, ReferenceOr<Header>> {
    let header = |field: &Field| Header {
        description: Some(field.text.into()),
        style: HeaderStyle::Simple,
        required: false,
        deprecated: None,
        format: field.schema(),
        example: None,
        examples: IndexMap::default(),
        extensions: IndexMap::default(),
    };
    fields.iter().map(|field| (field.name.into(), ReferenceOr::Item(header(field)))).collect()
}

/// Documents the errors of an operation that touches the store.
fn refusals<'t>(mut op: Op<'t>, statuses: &[(u16, &str)]) -> Op<'t> {
    let everywhere = [
        (500, "Something went wrong; the server's log has the cause."),
        (503, "The storage does not answer, or the server is busy."),
    ];
    for (status, text) in statuses.iter().chain(&everywhere) {
        refuses(op.inner_mut(), *status, text);
    }
    op
}

/// Documents one error; all have the same body.
fn refuses(operation: &mut Operation, status: u16, text: &str) {
    let schema = in_context(|context| context.schema.subschema_for::<Problem>());
    let fields: &[Field] = match status {
        401 | 403 => &[WWW_AUTHENTICATE],
        412 => &[ETAG, LAST_MODIFIED],
        416 => &[CONTENT_RANGE],
        503 => &[RETRY_AFTER],
        _ => &[],
    };
    let answer = Response {
        description: text.into(),
        headers: headers(fields),
        content: [("application/json".into(), MediaType { example: example(status), ..media(schema) })]
            .into(),
        ..Response::default()
    };
    answers(operation, status, answer);
}

fn example(status: u16) -> Option<Value> {
    let problem = match status {
        401 => Problem::new(StatusCode::UNAUTHORIZED, Denied::Missing.to_string()),
        404 => Problem::new(StatusCode::NOT_FOUND, Error::NotFound("app-1.0.0.tar.gz".into()).to_string()),
        _ => Problem::of(StatusCode::from_u16(status).ok()?),
    };
    serde_json::to_value(problem).ok()
}

pub(super) fn not_modified<'t>(mut op: Op<'t>, fields: &[Field]) -> Op<'t> {
    let answer = Response {
        description: "What the client has is current.".into(),
        headers: headers(fields),
        ..Response::default()
    };
    answers(op.inner_mut(), 304, answer);
    op
}

pub(super) fn answers(operation: &mut Operation, status: u16, answer: Response) {
    let responses = operation.responses.get_or_insert_default();
    // Inferred from the handlers' error type; what follows is precise.
    responses.default = None;
    responses.responses.insert(openapi::StatusCode::Code(status), ReferenceOr::Item(answer));
}

pub(super) fn body(operation: &mut Operation, content_type: &str, content: MediaType) {
    operation.request_body = Some(ReferenceOr::Item(RequestBody {
        content: [(content_type.to_owned(), content)].into(),
        required: true,
        ..RequestBody::default()
    }));
}

pub(super) fn media(schema: Schema) -> MediaType {
    MediaType { schema: Some(object(schema)), ..MediaType::default() }
}

fn object(json_schema: Schema) -> SchemaObject {
    SchemaObject { json_schema, external_docs: None, example: None }
}

pub(super) fn tag(name: &str, text: &str) -> Tag {
    Tag { name: name.into(), description: Some(text.into()), ..Tag::default() }
}
