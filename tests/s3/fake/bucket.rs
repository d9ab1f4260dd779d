//! What the operations do to the objects and unfinished uploads of one bucket. Nothing here waits.

use std::{collections::BTreeMap, ops::Bound, time::SystemTime};

use axum::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE,
        CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE,
    },
    request::Parts,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use headers::{
    ETag, HeaderMapExt as _, IfMatch, IfModifiedSince, IfNoneMatch, IfUnmodifiedSince, LastModified,
};
use http_range::{HttpRange, HttpRangeParseError};
use md5::{Digest as _, Md5};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, de::DeserializeOwned};

use super::{Engine, Operation, Options};

/// What metadata may take, in bytes.
const METADATA_BYTES: usize = 2048;

const STORED: [HeaderName; 5] =
    [CONTENT_TYPE, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CACHE_CONTROL];

type Answer = Result<Response<Bytes>, Refusal>;

/// A status and S3's code for the error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) &'static str);

impl Refusal {
    const NO_SUCH_KEY: Self = Self(StatusCode::NOT_FOUND, "NoSuchKey");
    const NO_SUCH_UPLOAD: Self = Self(StatusCode::NOT_FOUND, "NoSuchUpload");
    const PRECONDITION: Self = Self(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
    const NOT_MODIFIED: Self = Self(StatusCode::NOT_MODIFIED, "NotModified");
    const MALFORMED: Self = Self(StatusCode::BAD_REQUEST, "MalformedXML");

    /// The answer to `call`; those that have no body do not get one.
    pub(super) fn answer(self, call: &Call) -> Response<Bytes> {
        let mut response = if call.method == Method::HEAD || self.0 == StatusCode::NOT_MODIFIED {
            Response::new(Bytes::new())
        } else {
            xml("Error", &format!("{}{}", element("Code", self.1), element("Resource", &call.path)))
        };
        *response.status_mut() = self.0;
        response
    }
}

/// A request, whole.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    pub(crate) method: Method,
    /// As sent.
    pub(crate) path: String,
    pub(crate) bucket: String,
    /// Empty for the bucket's own operations.
    pub(crate) key: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    /// `None` for what this store does not know.
    pub(super) fn new(head: Parts) -> Option<Self> {
        let path = head.uri.path().to_owned();
        let decoded = percent_decode_str(&path).decode_utf8().ok()?;
        let (bucket, key) = decoded.strip_prefix('/')?.split_once('/').unwrap_or((&decoded[1..], ""));
        let query = url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes());
        let query: BTreeMap<_, _> = query.into_owned().collect();
        let has = |name: &str| query.contains_key(name);
        let operation = match (head.method.as_str(), key.is_empty()) {
            ("GET", true) if has("uploads") => Operation::ListUploads,
            ("GET", true) if has("list-type") => Operation::List,
            ("HEAD", true) => Operation::HeadBucket,
            ("POST", true) if has("delete") => Operation::DeleteMany,
            ("GET", false) if has("uploadId") => Operation::ListParts,
            ("GET", false) => Operation::Get,
            ("HEAD", false) => Operation::Head,
            (_, false) if head.headers.contains_key("x-amz-copy-source") => return None,
            ("PUT", false) if has("uploadId") => Operation::PutPart,
            ("PUT", false) => Operation::Put,
            ("POST", false) if has("uploads") => Operation::CreateUpload,
            ("POST", false) if has("uploadId") => Operation::Complete,
            ("DELETE", false) if has("uploadId") => Operation::Abort,
            ("DELETE", false) => Operation::Delete,
            _ => return None,
        };
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        let (method, headers) = (head.method, head.headers);
        Some(Self { operation, method, path, bucket, key, query, headers, body: Bytes::new() })
    }

    /// What the request is about: its key or keys, or the prefix of what it lists.
    pub(super) fn keys(&self) -> Vec<String> {
        match self.operation {
            Operation::DeleteMany => self
                .parse::<DeleteMany>()
                .map(|request| request.objects.into_iter().map(|object| object.key).collect())
                .unwrap_or_default(),
            Operation::List | Operation::ListUploads => vec![self.parameter("prefix").to_owned()],
            _ => vec![self.key.clone()],
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        quick_xml::de::from_reader(&*self.body).map_err(|_| Refusal::MALFORMED)
    }

    /// What an object keeps of the request that made it.
    fn attributes(&self) -> Result<HeaderMap, Refusal> {
        let kept = |name: &HeaderName| STORED.contains(name) || name.as_str().starts_with("x-amz-meta-");
        let mut attributes: HeaderMap = self
            .headers
            .iter()
            .filter(|(name, _)| kept(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let metadata = attributes.iter().filter(|(name, _)| name.as_str().starts_with("x-amz-meta-"));
        if metadata.map(|(name, value)| name.as_str().len() - 11 + value.len()).sum::<usize>()
            > METADATA_BYTES
        {
            return Err(Refusal(StatusCode::BAD_REQUEST, "MetadataTooLarge"));
        }
        attributes.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("binary/octet-stream"));
        Ok(attributes)
    }
}

/// What is stored under a key.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) body: Bytes,
    /// With its quotes.
    pub(crate) etag: String,
    /// To the millisecond in listings, to the second elsewhere.
    pub(crate) modified: DateTime<Utc>,
    /// Content type and the like, and metadata as `x-amz-meta-…`.
    pub(crate) attributes: HeaderMap,
}

impl Object {
    pub(super) fn new(body: Bytes, attributes: HeaderMap, modified: DateTime<Utc>) -> Self {
        let etag = format!("\"{}\"", hex::encode(Md5::digest(&body)));
        Self { body, etag, modified, attributes }
    }

    fn matches(&self, condition: &IfMatch) -> bool {
        condition.precondition_passes(&self.tag())
    }

    fn tag(&self) -> ETag {
        self.etag.parse().unwrap()
    }
}

struct Upload {
    key: String,
    attributes: HeaderMap,
    begun: DateTime<Utc>,
    /// In which run of the server it began.
    run: u64,
    parts: BTreeMap<u32, Object>,
}

/// The moment, and what kind of store this is.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) options: &'a Options,
    pub(super) now: DateTime<Utc>,
    pub(super) run: u64,
}

/// The objects and unfinished uploads of one bucket.
#[derive(Default)]
pub(crate) struct Bucket {
    pub(super) objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    uploads_begun: u64,
}

impl Bucket {
    /// The keys of the uploads that were neither completed nor aborted.
    pub(super) fn unfinished(&self) -> Vec<String> {
        self.uploads.values().map(|upload| upload.key.clone()).collect()
    }

    /// Has these objects and no unfinished uploads.
    pub(super) fn restore(&mut self, objects: BTreeMap<String, Object>) {
        self.objects = objects;
        // Ids of uploads are not given out twice.
        self.uploads.clear();
    }

    pub(super) fn apply(&mut self, call: &Call, context: Context<'_>) -> Answer {
        if context.options.engine == Engine::MinIO && !call.key.is_empty() && !minio_takes(&call.key) {
            return Err(Refusal(StatusCode::BAD_REQUEST, "XMinioInvalidObjectName"));
        }
        match call.operation {
            Operation::HeadBucket => Ok(Response::default()),
            Operation::List => Ok(self.list(call, context.options)),
            Operation::Get | Operation::Head => self.read(call),
            Operation::Put => self.put(call, context),
            Operation::Delete => self.delete(call, context.options),
            Operation::DeleteMany => self.delete_many(call),
            Operation::CreateUpload => self.create_upload(call, context),
            Operation::PutPart => self.put_part(call, context),
            Operation::ListParts => self.list_parts(call),
            Operation::Complete => self.complete(call, context),
            Operation::Abort => self.abort(call, context.options),
            Operation::ListUploads => Ok(self.list_uploads(call, context)),
        }
    }

    fn read(&self, call: &Call) -> Answer {
        let object = self.objects.get(&call.key).ok_or(Refusal::NO_SUCH_KEY)?;
        unchanged_since(object, &call.headers)?;
        let mut response = Response::new(object.body.clone());
        if let Some(range) = call.header(RANGE.as_str()) {
            take_range(&mut response, range)?;
        }
        let length = response.body().len();
        let headers = response.headers_mut();
        headers.extend(object.attributes.clone());
        headers.typed_insert(object.tag());
        headers.typed_insert(LastModified::from(SystemTime::from(object.modified)));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(CONTENT_LENGTH, length.into());
        for name in STORED {
            if let Some(value) = call.query.get(&format!("response-{name}")) {
                headers.insert(name, value.parse().map_err(|_| Refusal::MALFORMED)?);
            }
        }
        if call.method == Method::HEAD {
            *response.body_mut() = Bytes::new();
        }
        Ok(response)
    }

    fn put(&mut self, call: &Call, context: Context<'_>) -> Answer {
        self.may_write(call)?;
        let object = Object::new(call.body.clone(), call.attributes()?, context.now);
        let response = with_etag(&object);
        self.objects.insert(call.key.clone(), object);
        Ok(response)
    }

    /// Whether the request's conditions let it write.
    fn may_write(&self, call: &Call) -> Result<(), Refusal> {
        let object = self.objects.get(&call.key);
        if let Some(condition) = call.headers.typed_get::<IfMatch>() {
            let object = object.ok_or(Refusal::NO_SUCH_KEY)?;
            if !object.matches(&condition) {
                return Err(Refusal::PRECONDITION);
            }
        }
        let unwanted = call.headers.typed_get::<IfNoneMatch>();
        match object.zip(unwanted) {
            Some((object, condition)) if !condition.precondition_passes(&object.tag()) => {
                Err(Refusal::PRECONDITION)
            }
            _ => Ok(()),
        }
    }

    fn delete(&mut self, call: &Call, options: &Options) -> Answer {
        let condition = call.headers.typed_get::<IfMatch>().filter(|_| options.engine == Engine::Aws);
        if let (Some(object), Some(condition)) = (self.objects.get(&call.key), condition)
            && !object.matches(&condition)
        {
            return Err(Refusal::PRECONDITION);
        }
        self.objects.remove(&call.key);
        Ok(no_content())
    }

    fn delete_many(&mut self, call: &Call) -> Answer {
        let request: DeleteMany = call.parse()?;
        let mut deleted = String::new();
        for object in request.objects {
            self.objects.remove(&object.key);
            deleted += &wrap("Deleted", &element("Key", &object.key));
        }
        Ok(xml("DeleteResult", &deleted))
    }

    fn list(&self, call: &Call, options: &Options) -> Response<Bytes> {
        let (prefix, delimiter) = (call.parameter("prefix"), call.parameter("delimiter"));
        let (token, start) = (call.parameter("continuation-token"), call.parameter("start-after"));
        let last = BASE64_URL_SAFE.decode(token).ok().and_then(|token| String::from_utf8(token).ok());
        let last = last.unwrap_or_default();
        let page = call.parameter("max-keys").parse().unwrap_or(options.page).min(options.page);
        let encode = |text: &str| match call.parameter("encoding-type") {
            "url" => {
                url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace("%2F", "/")
            }
            _ => text.to_owned(),
        };

        let from = match start.max(&last) {
            "" => Bound::Unbounded,
            key => Bound::Excluded(key),
        };
        let mut found: Vec<(&str, Option<&Object>)> = Vec::new();
        for (key, object) in self.objects.range::<str, _>((from, Bound::Unbounded)) {
            if !key.starts_with(prefix) || (options.engine == Engine::MinIO && self.is_hidden(key)) {
                continue;
            }
            let folder = key[prefix.len()..].find(delimiter).filter(|_| !delimiter.is_empty());
            let (name, object) = match folder {
                Some(end) => (&key[..prefix.len() + end + delimiter.len()], None),
                None => (key.as_str(), Some(object)),
            };
            // A folder counts once, on the page where it comes first.
            if name == last || found.last().is_some_and(|(before, _)| *before == name) {
                continue;
            }
            found.push((name, object));
            if found.len() > page {
                break;
            }
        }
        let more = found.len() > page;
        found.truncate(page);

        let mut result = element("Name", &call.bucket) + &element("Prefix", &encode(prefix));
        result += &element("KeyCount", &found.len().to_string());
        result += &element("MaxKeys", &page.to_string());
        result += &element("IsTruncated", &more.to_string());
        if let Some((last, _)) = found.last().filter(|_| more) {
            result += &element("NextContinuationToken", &BASE64_URL_SAFE.encode(last));
        }
        for (key, object) in found {
            let key = encode(key);
            result += &match object {
                Some(object) => entry("Contents", &element("Key", &key), object),
                None => wrap("CommonPrefixes", &element("Prefix", &key)),
            };
        }
        xml("ListBucketResult", &result)
    }

    /// Whether an object's name is a folder of this key's: on `MinIO` that hides it from every listing.
    fn is_hidden(&self, key: &str) -> bool {
        key.match_indices('/').any(|(end, _)| self.objects.contains_key(&key[..end]))
    }

    fn create_upload(&mut self, call: &Call, context: Context<'_>) -> Answer {
        let attributes = call.attributes()?;
        self.uploads_begun += 1;
        let id = format!("upload-{}", self.uploads_begun);
        let result = element("Bucket", &call.bucket) + &element("Key", &call.key) + &element("UploadId", &id);
        let (key, begun, run) = (call.key.clone(), context.now, context.run);
        self.uploads.insert(id, Upload { key, attributes, begun, run, parts: BTreeMap::new() });
        Ok(xml("InitiateMultipartUploadResult", &result))
    }

    fn upload(&mut self, call: &Call) -> Result<&mut Upload, Refusal> {
        let upload = self.uploads.get_mut(call.parameter("uploadId"));
        upload.filter(|upload| upload.key == call.key).ok_or(Refusal::NO_SUCH_UPLOAD)
    }

    fn put_part(&mut self, call: &Call, context: Context<'_>) -> Answer {
        let number = call.parameter("partNumber").parse().ok().filter(|number| (1..=10_000).contains(number));
        let number = number.ok_or(Refusal(StatusCode::BAD_REQUEST, "InvalidArgument"))?;
        let part = Object::new(call.body.clone(), HeaderMap::new(), context.now);
        let response = with_etag(&part);
        self.upload(call)?.parts.insert(number, part);
        Ok(response)
    }

    fn list_parts(&mut self, call: &Call) -> Answer {
        let upload = self.upload(call)?;
        let parts = upload.parts.iter();
        let parts =
            parts.map(|(number, part)| entry("Part", &element("PartNumber", &number.to_string()), part));
        Ok(xml("ListPartsResult", &(element("IsTruncated", "false") + &parts.collect::<String>())))
    }

    fn complete(&mut self, call: &Call, context: Context<'_>) -> Answer {
        self.may_write(call)?;
        let upload = self.upload(call)?;
        let named = call.parse::<Complete>()?.parts;
        if named.is_empty() {
            return Err(Refusal::MALFORMED);
        }
        if !named.is_sorted_by(|one, next| one.number < next.number) {
            return Err(Refusal(StatusCode::BAD_REQUEST, "InvalidPartOrder"));
        }
        let (mut body, mut digests) = (Vec::new(), Md5::new());
        for (index, name) in named.iter().enumerate() {
            let part = upload.parts.get(&name.number);
            let part = part.filter(|part| part.etag.trim_matches('"') == name.etag.trim_matches('"'));
            let part = part.ok_or(Refusal(StatusCode::BAD_REQUEST, "InvalidPart"))?;
            if part.body.len() < context.options.smallest_part && index + 1 < named.len() {
                return Err(Refusal(StatusCode::BAD_REQUEST, "EntityTooSmall"));
            }
            body.extend_from_slice(&part.body);
            digests.update(Md5::digest(&part.body));
        }
        let modified = if context.options.engine == Engine::Aws { upload.begun } else { context.now };
        let etag = format!("\"{}-{}\"", hex::encode(digests.finalize()), named.len());
        let object = Object { body: body.into(), etag, modified, attributes: upload.attributes.clone() };
        let result = element("Key", &call.key) + &element("ETag", &object.etag);
        self.objects.insert(call.key.clone(), object);
        self.uploads.remove(call.parameter("uploadId"));
        Ok(xml("CompleteMultipartUploadResult", &result))
    }

    fn abort(&mut self, call: &Call, options: &Options) -> Answer {
        match self.uploads.remove(call.parameter("uploadId")) {
            None if options.engine == Engine::Aws => Err(Refusal::NO_SUCH_UPLOAD),
            _ => Ok(no_content()),
        }
    }

    /// `MinIO` lists all that began since it started, or those of exactly one key.
    fn list_uploads(&self, call: &Call, context: Context<'_>) -> Response<Bytes> {
        let prefix = call.parameter("prefix");
        let shown = |upload: &Upload| match context.options.engine {
            Engine::Aws => upload.key.starts_with(prefix),
            Engine::MinIO if prefix.is_empty() => upload.run == context.run,
            Engine::MinIO => upload.key == prefix,
        };
        let uploads = self.uploads.iter().filter(|(_, upload)| shown(upload)).map(|(id, upload)| {
            let name = element("Key", &upload.key) + &element("UploadId", id);
            wrap("Upload", &(name + &element("Initiated", &timestamp(upload.begun))))
        });
        let result = element("IsTruncated", "false") + &uploads.collect::<String>();
        xml("ListMultipartUploadsResult", &result)
    }
}

#[derive(Deserialize)]
struct DeleteMany {
    #[serde(rename = "Object", default)]
    objects: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Named {
    key: String,
}

#[derive(Deserialize)]
struct Complete {
    #[serde(rename = "Part", default)]
    parts: Vec<PartName>,
}

#[derive(Deserialize)]
struct PartName {
    #[serde(rename = "PartNumber")]
    number: u32,
    #[serde(rename = "ETag")]
    etag: String,
}

/// What `MinIO` refuses as a key.
fn minio_takes(key: &str) -> bool {
    let mut segments = key.strip_suffix('/').unwrap_or(key).split('/');
    !key.contains('\0') && segments.all(|name| !matches!(name, "" | "." | "..") && name.len() <= 255)
}

/// RFC 9110, section 13.2.2: a tag counts before a date.
fn unchanged_since(object: &Object, headers: &HeaderMap) -> Result<(), Refusal> {
    let (tag, modified) = (object.tag(), SystemTime::from(object.modified));
    let wanted = match (headers.typed_get::<IfMatch>(), headers.typed_get::<IfUnmodifiedSince>()) {
        (Some(condition), _) => condition.precondition_passes(&tag),
        (None, Some(condition)) => condition.precondition_passes(whole_second(modified)),
        (None, None) => true,
    };
    if !wanted {
        return Err(Refusal::PRECONDITION);
    }
    let new = match (headers.typed_get::<IfNoneMatch>(), headers.typed_get::<IfModifiedSince>()) {
        (Some(condition), _) => condition.precondition_passes(&tag),
        (None, Some(condition)) => condition.is_modified(whole_second(modified)),
        (None, None) => true,
    };
    if new { Ok(()) } else { Err(Refusal::NOT_MODIFIED) }
}

fn whole_second(time: SystemTime) -> SystemTime {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)
}

/// One range; several, or what is none, mean the whole object.
fn take_range(response: &mut Response<Bytes>, range: &str) -> Result<(), Refusal> {
    let size = response.body().len();
    let ranges = match HttpRange::parse(range, size as u64) {
        Err(HttpRangeParseError::NoOverlap) => {
            return Err(Refusal(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange"));
        }
        ranges => ranges.unwrap_or_default(),
    };
    if let [HttpRange { start, length }] = ranges[..] {
        let (start, end) = (usize::try_from(start).unwrap(), usize::try_from(start + length).unwrap());
        *response.body_mut() = response.body().slice(start..end);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let content_range = format!("bytes {start}-{}/{size}", end - 1);
        response.headers_mut().insert(CONTENT_RANGE, content_range.parse().unwrap());
    }
    Ok(())
}

fn with_etag(object: &Object) -> Response<Bytes> {
    let mut response = Response::default();
    response.headers_mut().insert(ETAG, object.etag.parse().unwrap());
    response
}

fn no_content() -> Response<Bytes> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// One object or part in a list.
fn entry(name: &str, title: &str, object: &Object) -> String {
    let modified = element("LastModified", &timestamp(object.modified));
    let (etag, size) = (element("ETag", &object.etag), element("Size", &object.body.len().to_string()));
    wrap(name, &[title, &modified, &etag, &size].concat())
}

fn timestamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

pub(super) fn xml(root: &str, content: &str) -> Response<Bytes> {
    let declaration = r#"<?xml version="1.0" encoding="UTF-8"?>"#;
    let mut response = Response::new(format!("{declaration}\n{}", wrap(root, content)).into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}

pub(super) fn element(name: &str, text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|char| match char {
            '<' => "&lt;".to_owned(),
            '&' => "&amp;".to_owned(),
            // Character references keep white space and what XML 1.0 has no place for.
            '\0'..=' ' => format!("&#x{:X};", u32::from(char)),
            char => char.to_string(),
        })
        .collect();
    wrap(name, &escaped)
}

fn wrap(name: &str, content: &str) -> String {
    format!("<{name}>{content}</{name}>")
}
