//! The bytes of a package or an asset: conditions (RFC 9110, section 13), one range (section 14), and headers that keep them
//! harmless in a browser.

use std::{ops::Range, time::SystemTime};

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use headers::{
    ETag, HeaderMapExt, IfMatch, IfModifiedSince, IfNoneMatch, IfRange, IfUnmodifiedSince, LastModified,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_range::{HttpRange, HttpRangeParseError};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    App,
    error::Problem,
    extract::{Asked, Name, Reader, choice},
    sendfile,
};
use crate::{
    config::Downloads,
    digest::Digest,
    error::{Error, Result},
    name::PackageName,
    storage::Content,
};

/// A package replaced while a request ran is opened again this often.
const ATTEMPTS: usize = 3;

/// What RFC 8187 leaves as it is in `filename*`: its `attr-char`.
const ATTR_CHAR: AsciiSet = NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// How a download is asked for.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct DownloadQuery {
    /// Whether the store itself shall send the bytes, where the operator allows to choose.
    #[serde(default, deserialize_with = "choice")]
    #[schemars(with = "bool", skip_serializing_if = "Option::is_none")]
    redirect: Option<bool>,
}

impl DownloadQuery {
    /// Whether the store itself shall send the bytes.
    pub(super) fn redirects(&self, downloads: Downloads) -> bool {
        match downloads {
            Downloads::Stream => false,
            Downloads::OnRequest => self.redirect == Some(true),
            Downloads::Redirect => self.redirect != Some(false),
        }
    }
}

/// `GET /assets/{name}`, and `HEAD`.
pub(super) async fn download(
    _: Reader,
    State(app): State<App>,
    Name(name): Name,
    Asked(query): Asked<DownloadQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response> {
    let redirect = query.redirects(app.downloads);
    let mut attempt = 1;
    loop {
        match send(&app, &name, &method, &headers, redirect).await {
            Err(Error::Changed(_)) if attempt < ATTEMPTS => attempt += 1,
            answer => return answer,
        }
    }
}

/// One attempt; `Error::Changed` if the package was replaced in the middle of it.
async fn send(
    app: &App,
    name: &PackageName,
    method: &Method,
    headers: &HeaderMap,
    redirect: bool,
) -> Result<Response> {
    let package = app.packages.open(name).await?;
    let content_type = mime_guess::from_path(name.as_str()).first_or_octet_stream();
    let file = File {
        name: name.as_str(),
        content_type: content_type.as_ref(),
        size: package.size,
        etag: &package.etag,
        modified: package.modified,
        sha256: package.sha256,
    };
    if redirect
        && sends_bytes(&file, method, headers)
        && let Some(link) =
            app.packages.storage().link(name, &attachment(file.name), file.content_type).await?
    {
        return sent_by_store(link);
    }
    let answer = answer(&file, method, headers, |range| package.read(range)).await?;
    if method == Method::GET && answer.status().is_success() {
        tracing::Span::current().record("package.name", name.as_str());
    }
    Ok(answer)
}

/// A redirect to the store itself.
pub(super) fn sent_by_store(link: url::Url) -> Result<Response> {
    let mut response = StatusCode::FOUND.into_response();
    insert(&mut response, header::LOCATION, link.into())?;
    // The link expires, and whoever has it may fetch the package.
    insert(&mut response, header::CACHE_CONTROL, "no-store".into())?;
    insert(&mut response, header::REFERRER_POLICY, "no-referrer".into())?;
    Ok(response)
}

/// What is to be known of a file before its bytes are read.
pub(super) struct File<'a> {
    /// The name it is saved under.
    pub(super) name: &'a str,
    pub(super) content_type: &'a str,
    pub(super) size: u64,
    /// Strong, with its quotes.
    pub(super) etag: &'a str,
    pub(super) modified: DateTime<Utc>,
    pub(super) sha256: Option<Digest>,
}

/// The answer to a request for a file, whose bytes `read` begins to send.
pub(super) async fn answer<R: Future<Output = Result<Content>>>(
    package: &File<'_>,
    method: &Method,
    headers: &HeaderMap,
    read: impl FnOnce(Range<u64>) -> R,
) -> Result<Response> {
    let mut response = match judge(package, method, headers) {
        Judgement::NotModified => StatusCode::NOT_MODIFIED.into_response(),
        Judgement::Failed => Problem::of(StatusCode::PRECONDITION_FAILED).into_response(),
        Judgement::Unsatisfiable => {
            let mut response = Problem::of(StatusCode::RANGE_NOT_SATISFIABLE).into_response();
            insert(&mut response, header::CONTENT_RANGE, format!("bytes */{}", package.size))?;
            return Ok(response);
        }
        Judgement::Whole => with_bytes(package, method, StatusCode::OK, 0..package.size, read).await?,
        Judgement::Part(range) => {
            let content_range = format!("bytes {}-{}/{}", range.start, range.end - 1, package.size);
            let mut response = with_bytes(package, method, StatusCode::PARTIAL_CONTENT, range, read).await?;
            insert(&mut response, header::CONTENT_RANGE, content_range)?;
            response
        }
    };
    describe(package, &mut response)?;
    Ok(response)
}

/// What the conditions and the range of a request come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    Whole,
    Part(Range<u64>),
    NotModified,
    Failed,
    Unsatisfiable,
}

/// Whether the answer is the bytes, or some of them: then the store itself may be asked for it.
///
/// A link is signed for GET alone. Conditions are ours to judge; a range is sent again by the client.
pub(super) fn sends_bytes(file: &File<'_>, method: &Method, headers: &HeaderMap) -> bool {
    method == Method::GET && matches!(judge(file, method, headers), Judgement::Whole | Judgement::Part(_))
}

/// In the order of RFC 9110, section 13.2.2.
pub(super) fn judge(package: &File<'_>, method: &Method, headers: &HeaderMap) -> Judgement {
    let modified = SystemTime::from(package.modified);
    // Ours is always well-formed; should it not be, no condition on it holds.
    let etag = package.etag.parse::<ETag>().ok();
    let is = |condition: &dyn Fn(&ETag) -> bool| etag.as_ref().is_some_and(condition);

    if let Some(if_match) = headers.typed_get::<IfMatch>() {
        if !is(&|etag| if_match.precondition_passes(etag)) {
            return Judgement::Failed;
        }
    } else if let Some(since) = headers.typed_get::<IfUnmodifiedSince>()
        && !since.precondition_passes(modified)
    {
        return Judgement::Failed;
    }
    if let Some(if_none_match) = headers.typed_get::<IfNoneMatch>() {
        if !is(&|etag| if_none_match.precondition_passes(etag)) {
            return Judgement::NotModified;
        }
    } else if let Some(since) = headers.typed_get::<IfModifiedSince>()
        && !since.is_modified(modified)
    {
        return Judgement::NotModified;
    }
    // A range is for GET alone (section 14.2).
    let Some(range) = headers.get(header::RANGE).filter(|_| method == Method::GET) else {
        return Judgement::Whole;
    };
    // Only the very ETag that came with the other part will do. A date never does (section 13.1.5): nobody knows that a
    // package did not change twice in that second (section 8.8.2.2).
    if headers.contains_key(header::IF_RANGE) {
        let if_range = headers.typed_get::<IfRange>();
        if !if_range.is_some_and(|if_range| is(&|etag| if_range == IfRange::etag(etag.clone()))) {
            return Judgement::Whole;
        }
    }
    match HttpRange::parse_bytes(range.as_bytes(), package.size) {
        Ok(ranges) => match ranges[..] {
            [HttpRange { start, length }] if length > 0 => Judgement::Part(start..start + length),
            // Several: the whole, as RFC 9110 allows; many small ones would cost more than they save.
            _ => Judgement::Whole,
        },
        Err(HttpRangeParseError::NoOverlap) => Judgement::Unsatisfiable,
        // Malformed, or a unit we do not know: as if there were none.
        Err(HttpRangeParseError::InvalidRange) => Judgement::Whole,
    }
}

async fn with_bytes<R: Future<Output = Result<Content>>>(
    package: &File<'_>,
    method: &Method,
    status: StatusCode,
    range: Range<u64>,
    read: impl FnOnce(Range<u64>) -> R,
) -> Result<Response> {
    let length = range.end - range.start;
    let body = match method {
        &Method::HEAD => Body::empty(),
        _ => match read(range).await? {
            Content::Bytes(bytes) => bytes.into(),
            Content::Stream(bytes) => Body::from_stream(bytes),
            Content::File { file, range, bytes } => match sendfile::body(&file, &range) {
                Some(file) => Body::from_stream(file),
                None => Body::from_stream(bytes),
            },
        },
    };
    let mut response = (status, body).into_response();
    insert(&mut response, header::CONTENT_LENGTH, length.to_string())?;
    insert(&mut response, header::CONTENT_TYPE, package.content_type.to_owned())?;
    insert(&mut response, header::CONTENT_DISPOSITION, attachment(package.name))?;
    Ok(response)
}

/// The headers that a 200, a 206, a 304 and a 412 share.
fn describe(package: &File<'_>, response: &mut Response) -> Result<()> {
    insert(response, header::ETAG, package.etag.to_owned())?;
    response.headers_mut().typed_insert(LastModified::from(SystemTime::from(package.modified)));
    // Of what is in the answer: the problem that a 412 carries has another.
    if let Some(sha256) = package.sha256
        && !response.status().is_client_error()
    {
        insert(response, HeaderName::from_static("repr-digest"), sha256.to_repr_digest())?;
    }
    let fixed = [
        (header::ACCEPT_RANGES, "bytes"),
        // A name may get other bytes: ask each time, and be told 304.
        (header::CACHE_CONTROL, "no-cache"),
        // Uploaded HTML or SVG never runs as ours.
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(())
}

fn insert(response: &mut Response, name: HeaderName, value: String) -> Result<()> {
    let value = HeaderValue::try_from(value).map_err(|error| Error::Internal(error.into()))?;
    response.headers_mut().insert(name, value);
    Ok(())
}

/// `Content-Disposition` (RFC 6266): the name in ASCII for old clients, and as it is (RFC 8187) where that differs.
pub(super) fn attachment(name: &str) -> String {
    let plain = |char: char| {
        if char.is_ascii() && !char.is_ascii_control() { char } else { '_' }
    };
    // `%` too: some clients decode it inside the quotes.
    let ascii: String = name
        .chars()
        .map(plain)
        .map(|char| if matches!(char, '"' | '\\' | '%') { '_' } else { char })
        .collect();
    if ascii == name {
        format!("attachment; filename=\"{ascii}\"")
    } else {
        format!(
            "attachment; filename=\"{ascii}\"; filename*=UTF-8''{}",
            utf8_percent_encode(name, &ATTR_CHAR)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_survive_in_every_client() {
        for (name, value) in [
            ("a b.zip", r#"attachment; filename="a b.zip""#),
            ("größe.zip", r#"attachment; filename="gr__e.zip"; filename*=UTF-8''gr%C3%B6%C3%9Fe.zip"#),
            ("a\"b;c.zip", r#"attachment; filename="a_b;c.zip"; filename*=UTF-8''a%22b%3Bc.zip"#),
            ("100%.zip", r#"attachment; filename="100_.zip"; filename*=UTF-8''100%25.zip"#),
        ] {
            assert_eq!(attachment(name), value);
        }
    }
}
