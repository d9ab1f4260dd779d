//! The package API: the Python server's URLs, and GitHub's shape for `/latest`.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use axum::{
    body::Body,
    extract::{FromRequest, Multipart, Request, State, multipart::MultipartError},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use headers::{ETag, HeaderMapExt, IfNoneMatch};
use headers_accept::Accept;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::{
    App,
    base_url::BaseUrl,
    extract::{
        Asked, Deleter, Name, NewName, Reader, Writer, broken_off, check_length, content_length,
        declared_digest, switch,
    },
    pages,
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    name::PackageName,
    packages::{Listing, Package, Receiving},
    rendered::{Answer, Kind},
};

/// What a form may add to the file it carries, in bytes: boundaries, part headers, other fields.
const FORM_BYTES: u64 = 1024 * 1024;

/// Fields of a form beside the file; more are refused.
const MOST_FIELDS: usize = 16;

/// RFC 3986 `unreserved`: everything else in a name is percent-encoded in a link.
pub(super) const UNRESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A package.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Package")]
pub(super) struct PackageJson<'a> {
    /// The name it is downloaded under.
    #[schemars(example = "app-1.0.0.tar.gz")]
    name: &'a str,
    /// In bytes.
    #[schemars(example = 86_532)]
    size: u64,
    /// When it was published (RFC 3339, UTC).
    #[schemars(with = "DateTime<Utc>", example = "2026-09-12T14:03:11.123Z")]
    created_at: String,
    /// SHA-256 of the bytes, 64 hex digits; null while the server has not read a file copied in by hand.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    #[schemars(example = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7")]
    sha256: Option<String>,
    /// Where it is downloaded.
    #[schemars(url, example = "https://releases.example.com/assets/app-1.0.0.tar.gz")]
    url: String,
}

impl<'a> PackageJson<'a> {
    fn new(package: &'a Package, base: &BaseUrl) -> Self {
        Self {
            name: package.name.as_str(),
            size: package.size,
            created_at: time(package.created_at),
            sha256: package.sha256.map(|digest| digest.to_string()),
            url: link(package, base),
        }
    }
}

/// The newest packages as one release, in GitHub's shape as far as it is true.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Release")]
pub(super) struct ReleaseJson<'a> {
    /// Always 1: there is one release of the flat packages.
    #[schemars(extend("const" = 1))]
    id: u64,
    /// Where this document is.
    #[schemars(url, example = "https://releases.example.com/releases/latest")]
    url: String,
    /// The page for people.
    #[schemars(url, example = "https://releases.example.com/packages?format=html")]
    html_url: String,
    /// Always `latest`.
    #[schemars(extend("const" = "latest"))]
    tag_name: &'static str,
    /// A title.
    #[schemars(example = "Latest packages")]
    name: &'static str,
    /// Always false.
    #[schemars(extend("const" = false))]
    draft: bool,
    /// Always false.
    #[schemars(extend("const" = false))]
    prerelease: bool,
    /// When the newest package was published; null in an empty store.
    #[schemars(with = "Option<DateTime<Utc>>", example = "2026-09-12T14:03:11.123Z")]
    created_at: Option<String>,
    /// The same.
    #[schemars(with = "Option<DateTime<Utc>>", example = "2026-09-12T14:03:11.123Z")]
    published_at: Option<String>,
    /// The packages, newest first.
    #[serde(serialize_with = "assets")]
    #[schemars(with = "Vec<AssetJson<'a>>")]
    assets: (&'a Listing, &'a BaseUrl),
}

/// A package as GitHub shows an asset.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Asset")]
struct AssetJson<'a> {
    /// Stable for a name.
    #[schemars(example = 869_685_263_553_492_u64)]
    id: u64,
    /// Where it is downloaded.
    #[schemars(url, example = "https://releases.example.com/assets/app-1.0.0.tar.gz")]
    url: String,
    /// The name it is downloaded under.
    #[schemars(example = "app-1.0.0.tar.gz")]
    name: &'a str,
    /// Always null.
    #[schemars(with = "()")]
    label: Option<&'static str>,
    /// By the name's extension.
    #[schemars(example = "application/gzip")]
    content_type: String,
    /// Always `uploaded`.
    #[schemars(extend("const" = "uploaded"))]
    state: &'static str,
    /// In bytes.
    #[schemars(example = 86_532)]
    size: u64,
    /// `sha256:` and 64 hex digits; null while unknown.
    #[schemars(regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    #[schemars(example = "sha256:3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7")]
    digest: Option<String>,
    /// When it was published.
    #[schemars(with = "DateTime<Utc>", example = "2026-09-12T14:03:11.123Z")]
    created_at: String,
    /// The same.
    #[schemars(with = "DateTime<Utc>", example = "2026-09-12T14:03:11.123Z")]
    updated_at: String,
    /// Where it is downloaded.
    #[schemars(url, example = "https://releases.example.com/assets/app-1.0.0.tar.gz")]
    browser_download_url: String,
}

impl<'a> ReleaseJson<'a> {
    fn new(listing: &'a Listing, base: &'a BaseUrl) -> Self {
        let newest = listing.packages().next().map(|package| time(package.created_at));
        Self {
            id: 1,
            url: base.join("/releases/latest"),
            html_url: base.join("/packages?format=html"),
            tag_name: "latest",
            name: "Latest packages",
            draft: false,
            prerelease: false,
            created_at: newest.clone(),
            published_at: newest,
            assets: (listing, base),
        }
    }

    /// How many bytes of JSON it will be, or a few more.
    fn about(listing: &Listing, base: &BaseUrl) -> usize {
        /// An asset's keys, and all of its values but the name and the links.
        const ASSET: usize = 432;
        let asset = |package: &Package| ASSET + 3 * package.name.as_str().len() + 2 * base.as_str().len();
        1024 + listing.packages().map(asset).sum::<usize>()
    }
}

/// One after the other: of ten thousand packages, all that is written of each would be megabytes.
fn assets<S: Serializer>((listing, base): &(&Listing, &BaseUrl), serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(listing.packages().map(|package| AssetJson::new(package, base)))
}

/// All packages, newest first.
struct PackagesJson<'a>(&'a Listing, &'a BaseUrl);

impl Serialize for PackagesJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(listing, base) = self;
        serializer.collect_seq(listing.packages().map(|package| PackageJson::new(package, base)))
    }
}

impl<'a> AssetJson<'a> {
    fn new(package: &'a Package, base: &BaseUrl) -> Self {
        let name = package.name.as_str();
        let (url, created_at) = (link(package, base), time(package.created_at));
        Self {
            // 53 bits, the integers that every JSON reader keeps.
            id: Digest::of(name.as_bytes()).leading_bits() >> 11,
            url: url.clone(),
            name,
            label: None,
            content_type: mime_guess::from_path(name).first_or_octet_stream().to_string(),
            state: "uploaded",
            size: package.size,
            digest: package.sha256.map(|digest| format!("sha256:{digest}")),
            created_at: created_at.clone(),
            updated_at: created_at,
            browser_download_url: url,
        }
    }
}

/// `GET /latest` and `GET /releases/latest`.
pub(super) async fn latest(
    _: Reader,
    State(app): State<App>,
    base: BaseUrl,
    headers: HeaderMap,
) -> Result<Response> {
    newest(&app, &base, &headers).await
}

/// The packages as a release, for callers who may read them.
pub(super) async fn newest(app: &App, base: &BaseUrl, headers: &HeaderMap) -> Result<Response> {
    let listing = app.packages.list().await?;
    let answer = rendered(&listing, base, Kind::Release, |listing, base| {
        sized_json(&ReleaseJson::new(listing, base), ReleaseJson::about(listing, base))
    });
    Ok(respond(answer.await?, JSON, headers))
}

/// An answer about all packages, made by `render` if nobody had it yet.
async fn rendered(
    listing: &Arc<Listing>,
    base: &BaseUrl,
    kind: Kind,
    render: fn(&Listing, &BaseUrl) -> Result<Bytes>,
) -> Result<Answer> {
    let prepare = || {
        let (listing, base) = (Arc::clone(listing), base.clone());
        move || render(&listing, &base)
    };
    listing.rendered.get(kind, base.as_str(), listing.all().len(), prepare).await
}

/// How a listing is asked for.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct ListQuery {
    /// `json` or `html`; wins over `Accept`.
    #[serde(default)]
    #[schemars(with = "Format", skip_serializing_if = "Option::is_none")]
    format: Option<Format>,
}

/// How a listing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    Json,
    Html,
}

/// `GET /packages`.
pub(super) async fn list(
    _: Reader,
    State(app): State<App>,
    base: BaseUrl,
    Asked(query): Asked<ListQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let listing = app.packages.list().await?;
    let mut response = match query.format.unwrap_or_else(|| accepted(&headers)) {
        Format::Json => {
            let packages = |listing: &Listing, base: &BaseUrl| json(&PackagesJson(listing, base));
            respond(rendered(&listing, &base, Kind::List, packages).await?, JSON, &headers)
        }
        Format::Html => {
            let answer = rendered(&listing, &base, Kind::Page, page).await?;
            pages::harmless(respond(answer, pages::HTML, &headers))
        }
    };
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// HTML only for clients that ask for it by name, as browsers do; scripts send `*/*`.
fn accepted(headers: &HeaderMap) -> Format {
    use mediatype::{MediaType, names};
    const HTML: MediaType<'_> = MediaType::new(names::TEXT, names::HTML);
    const JSON: MediaType<'_> = MediaType::new(names::APPLICATION, names::JSON);
    match headers.typed_get::<Accept>() {
        Some(accept) if accept.negotiate(&[JSON, HTML]) == Some(&HTML) => Format::Html,
        _ => Format::Json,
    }
}

fn page(listing: &Listing, base: &BaseUrl) -> Result<Bytes> {
    let rows: Vec<(&Package, Option<String>, String)> = listing
        .packages()
        .map(|package| (package, package.sha256.map(|digest| digest.to_string()), link(package, base)))
        .collect();
    let rows: Vec<pages::Row<'_>> = rows
        .iter()
        .map(|(package, sha256, url)| pages::Row {
            name: package.name.as_str(),
            size: package.size,
            created_at: package.created_at,
            sha256: sha256.as_deref(),
            url,
        })
        .collect();
    let page = pages::packages_page(&rows, base.as_str()).map_err(|error| Error::Internal(error.into()))?;
    Ok(page.into())
}

/// How an upload is asked for.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct UploadQuery {
    /// Whether a package of the same name is replaced.
    #[serde(default, deserialize_with = "switch")]
    overwrite: bool,
    /// The SHA-256 that the bytes must have, 64 hex digits.
    #[serde(default)]
    #[schemars(
        with = "String",
        skip_serializing_if = "Option::is_none",
        regex(pattern = "^[0-9A-Fa-f]{64}$")
    )]
    sha256: Option<String>,
}

/// `PUT /assets/{name}`: the raw bytes.
pub(super) async fn put(
    Writer(actor): Writer,
    State(app): State<App>,
    base: BaseUrl,
    NewName(name): NewName,
    Asked(query): Asked<UploadQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    check_length(&headers, app.packages.max_upload_bytes(), 0)?;
    whole_and_plain(&headers)?;
    let declared = declared_digest(query.sha256.as_deref(), &headers)?;
    let mut receiving = app.packages.upload(name, query.overwrite, content_length(&headers)).await?;
    receive(&mut receiving, body.into_data_stream()).await?;
    let package = receiving.commit(declared, actor).await?;
    uploaded(&package, &base)
}

/// `POST /upload`: a form with the file in its part `file`.
pub(super) async fn upload(
    Writer(actor): Writer,
    State(app): State<App>,
    base: BaseUrl,
    Asked(query): Asked<UploadQuery>,
    request: Request,
) -> Result<Response> {
    let headers = request.headers();
    check_length(headers, app.packages.max_upload_bytes(), FORM_BYTES)?;
    whole_and_plain(headers)?;
    let declared = declared_digest(query.sha256.as_deref(), headers)?;
    // Of the form, and so at least of the file.
    let length = content_length(headers);
    let held = Arc::new(AtomicU64::new(0));
    let request = request.map(|body| piece_by_piece(body, Arc::clone(&held)));
    let mut form = Multipart::from_request(request, &app).await.map_err(|_| {
        Error::Unprocessable(
            "send a form: `curl -F file=@NAME …`, or the bytes alone with `PUT /assets/NAME`".into(),
        )
    })?;
    let mut received = None;
    let mut fields = 0;
    // To its end: a form that breaks off after the file is no whole upload.
    while let Some(mut field) = form.next_field().await.map_err(|error| malformed(&error))? {
        fields += 1;
        if fields > MOST_FIELDS {
            return Err(Error::Invalid("the form has too many parts; send the part `file` alone".into()));
        }
        if field.name() == Some("file") {
            if received.is_some() {
                return Err(Error::Invalid(
                    "the form has several parts `file`; send one file a request".into(),
                ));
            }
            let name = field.file_name().ok_or_else(|| {
                Error::Invalid("the part `file` has no file name; send one (`curl -F file=@NAME`)".into())
            })?;
            let mut receiving =
                app.packages.upload(PackageName::for_upload(name)?, query.overwrite, length).await?;
            let passed_on = field.inspect_ok(|chunk| {
                held.fetch_sub(chunk.len() as u64, Relaxed);
            });
            receive(&mut receiving, passed_on).await?;
            received = Some(receiving);
        } else {
            let mut rest = FORM_BYTES;
            while let Some(chunk) = field.chunk().await.map_err(|error| malformed(&error))? {
                rest = rest.checked_sub(chunk.len() as u64).ok_or_else(|| {
                    Error::Invalid("a part of the form other than `file` is too large".into())
                })?;
            }
        }
    }
    let receiving = received.ok_or_else(|| Error::Unprocessable("the form has no part `file`".into()))?;
    let package = receiving.commit(declared, actor).await?;
    uploaded(&package, &base)
}

/// `DELETE /assets/{name}` and `DELETE /packages/{name}`.
pub(super) async fn delete(
    Deleter(actor): Deleter,
    State(app): State<App>,
    Name(name): Name,
) -> Result<StatusCode> {
    app.packages.delete(name, actor).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Hands the bytes of a body on as they come.
async fn receive<E>(
    receiving: &mut Receiving,
    mut bytes: impl Stream<Item = Result<Bytes, E>> + Unpin,
) -> Result<()>
where
    E: std::fmt::Display,
{
    while let Some(chunk) = bytes.next().await {
        receiving.write(chunk.map_err(broken_off)?).await?;
    }
    Ok(())
}

fn uploaded(package: &Package, base: &BaseUrl) -> Result<Response> {
    let body = json(&PackageJson::new(package, base))?;
    let etag = HeaderValue::try_from(&package.etag).map_err(|error| Error::Internal(error.into()))?;
    Ok(([(header::CONTENT_TYPE, JSON), (header::ETAG, etag)], body).into_response())
}

/// A body that has one piece ready at a time, and its end alone.
///
/// The parser of forms takes whatever is ready into memory, which is all that a fast client sends; and a form that
/// arrives whole between two of its looks counts as broken off.
///
/// What it takes but does not give away again (the fields before a part's bytes) it would keep without a limit: `held`
/// counts that, and the body fails beyond [`FORM_BYTES`].
fn piece_by_piece(body: Body, held: Arc<AtomicU64>) -> Body {
    Body::from_stream(stream::unfold(body.into_data_stream(), move |mut pieces| {
        let held = Arc::clone(&held);
        async move {
            let piece = pieces.next().await;
            tokio::task::yield_now().await;
            let piece = piece?;
            let length = piece.as_ref().map_or(0, Bytes::len) as u64;
            if held.fetch_add(length, Relaxed) > FORM_BYTES {
                let error = std::io::Error::other("the fields around the file are too long");
                return Some((Err(axum::Error::new(error)), pieces));
            }
            Some((piece, pieces))
        }
    }))
}

/// Refuses a body that is part of a file (RFC 9110, section 14.5) or one that would have to be decoded.
pub(super) fn whole_and_plain(headers: &HeaderMap) -> Result<()> {
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Error::Invalid(
            "a part of a file cannot be uploaded; send it whole, without `Content-Range`".into(),
        ));
    }
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(()),
        Some(_) => Err(Error::Invalid("send the file as it is, without `Content-Encoding`".into())),
    }
}

fn malformed(error: &MultipartError) -> Error {
    Error::Invalid(format!("the form is malformed or broke off: {}", error.body_text()))
}

/// Where a package is downloaded.
fn link(package: &Package, base: &BaseUrl) -> String {
    base.join(&format!("/assets/{}", utf8_percent_encode(package.name.as_str(), &UNRESERVED)))
}

pub(super) fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Two spaces, one key a line: install scripts `grep` for `"tag_name":`. A newline at the end, for terminals.
pub(super) fn json(value: &impl Serialize) -> Result<Bytes> {
    sized_json(value, 0)
}

/// The same, of about so many bytes: what grows to megabytes leaves as many behind in the allocator.
fn sized_json(value: &impl Serialize, about: usize) -> Result<Bytes> {
    let mut text = Vec::with_capacity(about);
    serde_json::to_writer_pretty(&mut text, value).map_err(|error| Error::Internal(error.into()))?;
    text.push(b'\n');
    // It is kept for as long as the listing holds.
    text.shrink_to_fit();
    Ok(text.into())
}

/// A finished answer, or a 304 if the client has it already.
pub(super) fn respond(answer: Answer, content_type: HeaderValue, headers: &HeaderMap) -> Response {
    let Answer { body, etag } = answer;
    let unchanged = headers.typed_get::<IfNoneMatch>().is_some_and(|condition| {
        let ours = etag.to_str().ok().and_then(|etag| etag.parse::<ETag>().ok());
        ours.is_some_and(|ours| !condition.precondition_passes(&ours))
    });
    let mut response =
        if unchanged { StatusCode::NOT_MODIFIED.into_response() } else { Body::from(body).into_response() };
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, content_type);
    fields.insert(header::ETAG, etag);
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
