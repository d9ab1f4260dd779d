//! What the OpenAPI document says of the GitHub API beyond what the types say themselves.

use aide::{
    OperationInput as _,
    generate::in_context,
    openapi::{MediaType, Response},
};
use axum::Json;
use schemars::json_schema;

use super::{
    error::Body,
    graphql,
    json::{AssetJson, ReleaseJson, UserJson},
    notes::NotesJson,
    repository::{MetaJson, RefJson, RepositoryJson, RootJson, TagJson},
};
use crate::http::{
    extract,
    openapi::{
        CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, Field, IF_MATCH, IF_MODIFIED_SINCE,
        IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, Op, PACKAGE, RANGE, REPR_DIGEST, RETRY_AFTER,
        WEAK_ETAG, WWW_AUTHENTICATE, X_CHECKSUM_SHA256, answers, asks, body, field, headers, media,
        not_modified,
    },
};

const LINK: Field = field(
    "Link",
    "Other pages (RFC 8288), `next` first.",
    "<https://releases.example.com/…?page=2>; rel=\"next\"",
);
const TO: Field =
    field("Location", "Where it is.", "https://releases.example.com/acme/app/releases/tag/v1.0.0");

const MISSING: (u16, &str) = (404, "There is no such thing, or it is private, or a draft.");

/// Describes an operation and its errors, beside those that any may have.
fn operation<'t>(op: Op<'t>, id: &str, summary: &str, refused: &[(u16, &str)]) -> Op<'t> {
    let mut op = op.id(id).tag("releases").summary(summary);
    let everywhere = [
        (500, "Something went wrong; the server's log has the cause."),
        (503, "The storage does not answer, or the server is busy."),
    ];
    for (status, text) in refused.iter().chain(&everywhere) {
        let schema = in_context(|context| context.schema.subschema_for::<Body>());
        let fields: &[Field] = match status {
            401 | 403 => &[WWW_AUTHENTICATE],
            503 => &[RETRY_AFTER],
            _ => &[],
        };
        let answer = Response {
            description: (*text).into(),
            headers: headers(fields),
            content: [("application/json".into(), media(schema))].into(),
            ..Response::default()
        };
        answers(op.inner_mut(), *status, answer);
    }
    op
}

fn read<'t>(op: Op<'t>, id: &str, summary: &str) -> Op<'t> {
    let refused = [
        (401, "Reads are private here, and the token is missing or not valid."),
        (403, "Reads are private here, and the token may not read."),
        MISSING,
        (422, "The query is not understood."),
    ];
    let op = asks(op, &[IF_NONE_MATCH]);
    not_modified(operation(op, id, summary, &refused), &[WEAK_ETAG])
}

fn write<'t>(op: Op<'t>, id: &str, summary: &str, unprocessable: &str) -> Op<'t> {
    let refused = [
        (400, "The body is no JSON, or broke off."),
        (401, "The token is missing or not valid."),
        (403, "The token may not do this."),
        MISSING,
        (422, unprocessable),
    ];
    operation(op, id, summary, &refused)
}

fn one<T: schemars::JsonSchema + serde::Serialize>(op: Op<'_>) -> Op<'_> {
    op.response_with::<200, Json<T>, _>(|answer| answer.description("It."))
}

fn many<T: schemars::JsonSchema + serde::Serialize>(op: Op<'_>) -> Op<'_> {
    op.response_with::<200, Json<Vec<T>>, _>(|mut answer| {
        answer.inner().headers = headers(&[LINK, WEAK_ETAG]);
        answer.description("A page of them, newest first.")
    })
}

fn leads<'t>(op: Op<'t>, id: &str, summary: &str) -> Op<'t> {
    let mut op = read(op, id, summary);
    let answer = Response { description: "There.".into(), headers: headers(&[TO]), ..Response::default() };
    answers(op.inner_mut(), 302, answer);
    op
}

pub(super) fn list(op: Op<'_>) -> Op<'_> {
    many::<ReleaseJson>(read(op, "listReleases", "The releases; drafts too for who may write"))
}

pub(super) fn latest(op: Op<'_>) -> Op<'_> {
    one::<ReleaseJson>(read(op, "getLatestReleaseOf", "The latest release")).description(
        "That of `package_repository`, while it has none, is the packages in the shape of `/latest`.",
    )
}

pub(super) fn by_tag(op: Op<'_>) -> Op<'_> {
    one::<ReleaseJson>(read(op, "getReleaseByTag", "The release that is published at a tag"))
}

pub(super) fn find(op: Op<'_>) -> Op<'_> {
    one::<ReleaseJson>(read(op, "getRelease", "A release"))
}

pub(super) fn list_assets(op: Op<'_>) -> Op<'_> {
    many::<AssetJson>(read(op, "listReleaseAssets", "The assets of a release"))
}

pub(super) fn create(op: Op<'_>) -> Op<'_> {
    let refused = "A field is missing or wrong, or the tag has a release already.";
    write(op, "createRelease", "Create a release", refused).response_with::<201, Json<ReleaseJson>, _>(
        |mut answer| {
            answer.inner().headers = headers(&[TO]);
            answer.description("It is created; published too, unless it is a draft.")
        },
    )
}

pub(super) fn edit(op: Op<'_>) -> Op<'_> {
    let refused = "A field is wrong, the tag has a release already, or the release is immutable.";
    one::<ReleaseJson>(write(op, "updateRelease", "Change a release, or publish it", refused))
        .description("Fields that are absent or null stay as they are; `draft: false` publishes.")
}

pub(super) fn delete(op: Op<'_>) -> Op<'_> {
    gone(write(op, "deleteRelease", "Delete a release and its assets", "Never."))
}

pub(super) fn generate_notes(op: Op<'_>) -> Op<'_> {
    one::<NotesJson>(write(op, "generateReleaseNotes", "Notes for a release", "The tag is missing or wrong."))
}

pub(super) fn upload(op: Op<'_>) -> Op<'_> {
    uploaded(op, "uploadReleaseAsset", "Upload an asset; the same as below `/api/uploads`")
}

pub(super) fn upload_here(op: Op<'_>) -> Op<'_> {
    uploaded(
        op,
        "uploadReleaseAssetHere",
        "Upload an asset: the body is its bytes, and `Content-Type` its type",
    )
}

fn uploaded<'t>(op: Op<'t>, id: &str, summary: &str) -> Op<'t> {
    let refused = "An asset of this name has other bytes, or the digest is not the declared one, or the asset is too \
                   large, one too many, or of an immutable release.";
    let mut op = asks(write(op, id, summary, refused), &[X_CHECKSUM_SHA256, REPR_DIGEST]);
    body(op.inner_mut(), "*/*", binary());
    op.response_with::<201, Json<AssetJson>, _>(|answer| {
        answer.description("It is in the release: now, or since an upload of the same bytes before.")
    })
}

pub(super) fn find_asset(op: Op<'_>) -> Op<'_> {
    let op = read(op, "getReleaseAsset", "An asset, or for `Accept: application/octet-stream` its bytes");
    let op = asks(op, &[RANGE, IF_RANGE, IF_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE]);
    bytes(op.response_with::<200, Json<AssetJson>, _>(|mut answer| {
        answer.inner().content.insert("application/octet-stream".into(), binary());
        answer.description("It.")
    }))
}

pub(super) fn edit_asset(op: Op<'_>) -> Op<'_> {
    let refused = "The name is wrong or taken, or the release is immutable.";
    one::<AssetJson>(write(op, "updateReleaseAsset", "Rename or label an asset", refused))
}

pub(super) fn delete_asset(op: Op<'_>) -> Op<'_> {
    gone(write(op, "deleteReleaseAsset", "Delete an asset", "The release is immutable."))
}

pub(super) fn repository(op: Op<'_>) -> Op<'_> {
    one::<RepositoryJson>(read(op, "getRepository", "A repository, and what the caller may do there"))
}

pub(super) fn list_tags(op: Op<'_>) -> Op<'_> {
    many::<TagJson>(read(op, "listTags", "The tags that have a release"))
}

pub(super) fn reference(op: Op<'_>) -> Op<'_> {
    one::<RefJson>(read(op, "getReference", "The commit that a tag's release was said to be of"))
}

pub(super) fn delete_tag(op: Op<'_>) -> Op<'_> {
    gone(write(op, "deleteTag", "Delete a tag: it is gone with its release", "The tag has a release."))
}

pub(super) fn collaborator(op: Op<'_>) -> Op<'_> {
    gone(read(op, "checkCollaborator", "Whether the caller may publish"))
}

pub(super) fn user(op: Op<'_>) -> Op<'_> {
    let refused = [(401, "The token is missing or not valid.")];
    one::<UserJson>(operation(op, "getUser", "Who is calling", &refused))
}

pub(super) fn meta(op: Op<'_>) -> Op<'_> {
    one::<MetaJson>(operation(op, "getMeta", "Which GitHub this is like", &[]))
}

pub(super) fn root(op: Op<'_>) -> Op<'_> {
    one::<RootJson>(operation(op, "getRoot", "Where everything is", &[]))
}

pub(super) fn graphql(op: Op<'_>) -> Op<'_> {
    let refused = [
        (400, "The body is no JSON, or broke off."),
        (401, "A token is needed for what was asked, and it is missing or not valid."),
        (403, "Reads are private here, and the token may not read."),
        (422, "The body is no query."),
    ];
    let mut op = operation(op, "graphql", "What `gh` asks about releases in GitHub's GraphQL", &refused);
    in_context(|context| extract::Reader::operation_input(context, op.inner_mut()));
    op.response_with::<200, Json<graphql::Answer>, _>(|answer| {
        answer.description("What was asked for, or why not.")
    })
}

pub(super) fn feed(op: Op<'_>) -> Op<'_> {
    let mut op = read(op, "releasesFeed", "The newest releases as an Atom feed (RFC 4287)");
    let answer = Response {
        description: "The feed.".into(),
        headers: headers(&[WEAK_ETAG]),
        content: [("application/atom+xml".into(), media(json_schema!({ "type": "string" })))].into(),
        ..Response::default()
    };
    answers(op.inner_mut(), 200, answer);
    op
}

pub(super) fn releases_page(op: Op<'_>) -> Op<'_> {
    html(read(op, "releasesPage", "The releases, for people"))
}

pub(super) fn page(op: Op<'_>) -> Op<'_> {
    html(read(op, "releasePage", "A release, for people; for `Accept: application/json` its tag in one line"))
}

pub(super) fn page_of(op: Op<'_>) -> Op<'_> {
    leads(op, "releasePageOf", "Leads to the page of a tag's release")
}

pub(super) fn latest_page(op: Op<'_>) -> Op<'_> {
    leads(op, "latestPage", "Leads to the page of the latest release")
}

pub(super) fn latest_download(op: Op<'_>) -> Op<'_> {
    leads(op, "latestDownload", "Leads to an asset of the latest release")
}

pub(super) fn download(op: Op<'_>) -> Op<'_> {
    let op = read(op, "downloadReleaseAsset", "The bytes of an asset of a published release");
    let mut op = asks(op, &[RANGE, IF_RANGE, IF_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE]);
    let answer = Response {
        description: "The asset.".into(),
        headers: headers(&[&[CONTENT_LENGTH, CONTENT_DISPOSITION], &PACKAGE[..]].concat()),
        content: [("*/*".into(), binary())].into(),
        ..Response::default()
    };
    answers(op.inner_mut(), 200, answer);
    bytes(op)
}

/// What a request for bytes may come to beside all of them.
fn bytes(mut op: Op<'_>) -> Op<'_> {
    let part = Response {
        description: "The range that was asked for.".into(),
        headers: headers(&[&[CONTENT_LENGTH, CONTENT_DISPOSITION, CONTENT_RANGE], &PACKAGE[..]].concat()),
        content: [("*/*".into(), binary())].into(),
        ..Response::default()
    };
    answers(op.inner_mut(), 206, part);
    let elsewhere = "The store itself sends the asset: where the operator has configured that.";
    for (status, text, fields) in [
        (302, elsewhere, &[TO][..]),
        (412, "A condition does not hold.", &[]),
        (416, "The range is outside of the asset.", &[CONTENT_RANGE]),
    ] {
        let answer = Response { description: text.into(), headers: headers(fields), ..Response::default() };
        answers(op.inner_mut(), status, answer);
    }
    op
}

fn gone(op: Op<'_>) -> Op<'_> {
    op.response_with::<204, (), _>(|answer| answer.description("Done."))
}

fn html(mut op: Op<'_>) -> Op<'_> {
    let answer = Response {
        description: "A page.".into(),
        content: [("text/html".into(), media(json_schema!({ "type": "string" })))].into(),
        ..Response::default()
    };
    answers(op.inner_mut(), 200, answer);
    op
}

fn binary() -> MediaType {
    media(json_schema!({ "type": "string", "format": "binary" }))
}
