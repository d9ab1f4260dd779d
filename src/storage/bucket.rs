//! A bucket of S3, MinIO or another such store as an object store that keeps the promises of this one.
//!
//! What `object_store`'s client leaves open is closed here:
//!
//! - An upload in parts appears only if the name is free (or still has the object that is to be replaced): its
//!   *completion* carries the condition, through a second client whose default header it is.
//! - A conditional write whose reply is lost is reported by the store as somebody else's object. Each write carries
//!   a random token in the object's metadata; in doubt a HEAD tells whose it is. A write is sent again only if it
//!   never left, or if the object is not there and its connection broke, or it was refused because of another that is
//!   gone.
//! - A download goes on after a broken connection: the rest is asked for under the same ETag, so it is the same
//!   bytes or an error, never a mix. A reader may be as slow as it likes; a silent store is given up on.
//! - One strange key takes no listing down (see [`tolerant`](super::tolerant)).
//!
//! An upload that ends in any way but success aborts its parts; what a crash leaves, a lifecycle rule of the bucket
//! must clear, because unfinished uploads cannot be listed reliably.

use std::{fmt, sync::Arc, time::Duration};

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream, stream::BoxStream};
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientOptions, CopyOptions, Error, GetOptions, GetResult,
    GetResultPayload, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, RetryConfig, UpdateVersion,
    UploadPart,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    client::{HttpError, HttpErrorKind},
    list::{PaginatedListOptions, PaginatedListStore},
    multipart::{MultipartStore, PartId},
    path::Path,
    signer::{SignedUrlOptions, Signer},
};
use tokio::{sync::Mutex, time::timeout};
use tokio_util::task::TaskTracker;

use super::{Token, tolerant::Tolerant};

/// The metadata that says which write made an object.
const TOKEN: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("release-server-token"));

/// How long a store that restarts, or is briefly unreachable, is waited for.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long a small request may take. A HEAD waits for a conditional write of the same key to end, on MinIO.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a write of at most one part may take, and a store may think about a completion.
const WRITE_TIMEOUT: Duration = Duration::from_mins(2);

/// How long a store may be silent in the middle of a download.
const SILENCE: Duration = Duration::from_secs(20);

/// How often a download is taken up again without a byte in between.
const RESUMES: u32 = 5;

/// How often a replacement that finds another object than it looked at looks again.
const REPLACE_ATTEMPTS: usize = 5;

/// A bucket; clones share its connections.
#[derive(Debug, Clone)]
pub(super) struct Bucket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    /// Small, repeatable requests.
    control: AmazonS3,
    /// Requests that are sent once: conditional writes, the DELETE of a package.
    once: AmazonS3,
    /// Downloads, which may take for ever.
    reader: AmazonS3,
    /// Parts of uploads.
    parts: AmazonS3,
    /// Completes uploads whose name must be free.
    creator: AmazonS3,
    /// Signs links for clients.
    signer: AmazonS3,
    /// Makes the client that completes an upload whose name must still have a certain object.
    blueprint: Blueprint,
    /// Aborts of uploads that were dropped.
    aborts: TaskTracker,
}

/// What all clients of a bucket have in common.
#[derive(Debug, Clone)]
struct Blueprint {
    builder: AmazonS3Builder,
    options: ClientOptions,
}

impl Blueprint {
    fn client(
        &self,
        retry: RetryConfig,
        options: impl FnOnce(ClientOptions) -> ClientOptions,
    ) -> Result<AmazonS3> {
        let options = options(self.options.clone().with_connect_timeout(Duration::from_secs(2)));
        self.builder.clone().with_retry(retry).with_client_options(options).build()
    }

    /// A client for nothing but completions, each of which has this condition.
    fn completer(&self, header: http::HeaderName, value: http::HeaderValue) -> Result<AmazonS3> {
        let condition = http::HeaderMap::from_iter([(header, value)]);
        self.client(patient(), |options| options.with_timeout(WRITE_TIMEOUT).with_default_headers(condition))
    }
}

/// Retries until a restarted store is back.
fn patient() -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(200),
        max_backoff: Duration::from_secs(1),
        base: 2.0,
    };
    RetryConfig { backoff, max_retries: 30, retry_timeout: PATIENCE }
}

fn never() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

impl Bucket {
    /// The bucket of this name, reached as the `AWS_*` variables say. Nothing is sent yet.
    pub(super) fn new(
        name: &str,
        environment: impl IntoIterator<Item = (String, String)>,
        public_endpoint: Option<&url::Url>,
    ) -> anyhow::Result<Self> {
        let (mut builder, mut options) = (AmazonS3Builder::new(), ClientOptions::new());
        let mut unsigned = None;
        for (variable, value) in environment {
            let variable = variable.to_ascii_lowercase();
            if !variable.starts_with("aws_") || value.is_empty() {
                continue;
            }
            match variable.parse() {
                // `STORAGE_URL` names the bucket.
                Err(_) | Ok(AmazonS3ConfigKey::Bucket) => {}
                Ok(AmazonS3ConfigKey::Client(key)) => options = options.with_config(key, value),
                Ok(AmazonS3ConfigKey::UnsignedPayload) => unsigned = Some(value),
                Ok(key) => builder = builder.with_config(key, value),
            }
        }
        let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
        let endpoint = endpoint.iter().find_map(|key| builder.get_config_value(key));
        let unsigned =
            unsigned.unwrap_or_else(|| endpoint.is_none_or(|url| is_out_of_reach(&url)).to_string());
        builder = builder
            .with_bucket_name(name)
            .with_config(AmazonS3ConfigKey::UnsignedPayload, unsigned)
            .with_disable_bulk_delete(true)
            .with_http_connector(Tolerant::default());
        let blueprint = Blueprint { builder, options };
        let control = blueprint
            .client(patient(), |options| options.with_timeout(CONTROL_TIMEOUT))
            .with_context(|| format!("the settings of the bucket `{name}` are not usable"))?;
        // One provider for all: credentials that expire are fetched once.
        let shared = blueprint.builder.with_credentials(Arc::clone(control.credentials()));
        let blueprint = Blueprint { builder: shared, options: blueprint.options };
        let mut public = blueprint.clone();
        if let Some(endpoint) = public_endpoint {
            public.builder = public.builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
        }
        Ok(Self(Arc::new(Inner {
            name: name.to_owned(),
            signer: public.client(never(), |options| options)?,
            once: blueprint.client(never(), |options| options.with_timeout(WRITE_TIMEOUT))?,
            reader: blueprint.client(never(), ClientOptions::with_timeout_disabled)?,
            parts: blueprint.client(patient(), |options| options.with_timeout(WRITE_TIMEOUT))?,
            creator: blueprint.completer(http::header::IF_NONE_MATCH, http::HeaderValue::from_static("*"))?,
            control,
            blueprint,
            aborts: TaskTracker::new(),
        })))
    }

    /// The client for what needs no care: signing, say.
    pub(super) fn client(&self) -> &AmazonS3 {
        &self.0.control
    }

    /// A link by which anybody can fetch the object for a while, answered with these headers.
    pub(super) async fn link(
        &self,
        location: &Path,
        lifetime: Duration,
        disposition: &str,
        content_type: &str,
    ) -> Result<url::Url> {
        let query = [("response-content-disposition", disposition), ("response-content-type", content_type)];
        let options = SignedUrlOptions::default().with_query(query);
        self.0.signer.signed_url_opts(http::Method::GET, location, lifetime, &options).await
    }

    /// Whether the bucket answers: one key is listed. (A missing bucket answers a HEAD like a missing key.)
    pub(super) async fn check(&self) -> Result<()> {
        let options = PaginatedListOptions { max_keys: Some(1), ..PaginatedListOptions::default() };
        self.0.control.list_paginated(None, options).await.map(drop)
    }

    /// Waits until the parts of uploads that were dropped are gone.
    pub(super) async fn finish(&self) {
        self.0.aborts.close();
        if timeout(PATIENCE, self.0.aborts.wait()).await.is_err() {
            tracing::warn!(
                event = "cleanup",
                "the store is slow; parts of unfinished uploads are left to its own rules"
            );
        }
    }

    /// Sends one DELETE, never twice. On an error it is not known whether the object is gone.
    pub(super) async fn delete_once(&self, location: &Path) -> Result<()> {
        self.0.once.delete(location).await
    }

    /// The token of the write that made the object now there; `None` for what was not written by us.
    pub(super) async fn token(&self, location: &Path) -> Result<(ObjectMeta, Option<Token>)> {
        let found = self.0.control.get_opts(location, GetOptions::new().with_head(true)).await?;
        let token = found.attributes.get(&TOKEN).map(|token| Token(token.to_string()));
        Ok((found.meta, token))
    }

    /// One conditional write, with the certainty whether it happened.
    async fn put_settled(
        &self,
        location: &Path,
        payload: &PutPayload,
        mode: &PutMode,
        attributes: &Attributes,
        token: &Token,
    ) -> Result<PutResult> {
        let began = tokio::time::Instant::now();
        loop {
            let options =
                PutOptions { mode: mode.clone(), attributes: attributes.clone(), ..PutOptions::default() };
            let error = match self.0.once.put_opts(location, payload.clone(), options).await {
                Ok(put) => return Ok(put),
                Err(error) => error,
            };
            let late = began.elapsed() > PATIENCE;
            if never_left(&error) || is_busy(&error) {
                if late {
                    return Err(error);
                }
                pause().await;
                continue;
            }
            match self.settle(location, token, error).await {
                Settled::Ours(put) => return Ok(put),
                // The connection broke, and the object is not there: the write is taken to be lost, as it is when the
                // store was restarted. Were it only late, and the package deleted before it lands, it would come
                // back. To give up instead would fail every upload that meets a restart.
                Settled::Absent(error) if broke_off(&error) && !late => {}
                // Refused because of an object that is gone by now: nobody may be told that it is there.
                Settled::Absent(error) if refused(&error) && matches!(mode, PutMode::Create) => {
                    if late {
                        return Err(unknown(location, &error));
                    }
                    pause().await;
                }
                Settled::Absent(error) | Settled::Theirs(error) => return Err(error),
            }
        }
    }

    /// Finds out what came of a write that was refused or not answered.
    async fn settle(&self, location: &Path, token: &Token, error: Error) -> Settled {
        match self.token(location).await {
            Ok((meta, found)) if found.as_ref() == Some(token) => Settled::Ours(PutResult {
                e_tag: meta.e_tag,
                version: meta.version,
                extensions: Default::default(),
            }),
            // A busy store may say 409 or 412 of a name that is free a moment later.
            Err(Error::NotFound { .. }) => Settled::Absent(error),
            Ok(_) if refused(&error) => Settled::Theirs(error),
            // Somebody else's object is there, but ours may still be on its way: unknown.
            Ok(_) | Err(_) => Settled::Theirs(unknown(location, &error)),
        }
    }

    /// Writes in a mode. To overwrite is to replace what is there now, whatever that is: if it was replaced by another
    /// writer meanwhile, the write looks again.
    async fn write_as<W: Future<Output = Result<PutResult>>>(
        &self,
        mode: &PutMode,
        location: &Path,
        write: impl Fn(PutMode) -> W,
    ) -> Result<PutResult> {
        if !matches!(mode, PutMode::Overwrite) {
            return write(mode.clone()).await;
        }
        let mut attempt = 1;
        loop {
            match write(self.replacing(location).await?).await {
                Err(error) if refused(&error) && attempt < REPLACE_ATTEMPTS => attempt += 1,
                written => return written,
            }
        }
    }

    /// What the object must still be for a replacement: looked up now.
    async fn replacing(&self, location: &Path) -> Result<PutMode> {
        match self.0.control.head(location).await {
            Ok(meta) => Ok(PutMode::Update(UpdateVersion { e_tag: meta.e_tag, version: None })),
            Err(Error::NotFound { .. }) => Ok(PutMode::Create),
            Err(error) => Err(error),
        }
    }
}

enum Settled {
    Ours(PutResult),
    Absent(Error),
    Theirs(Error),
}

#[async_trait]
impl ObjectStore for Bucket {
    /// The result's extensions hold the [`Token`] of the write.
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let token = Token::new();
        let mut attributes = opts.attributes;
        attributes.insert(TOKEN, token.0.clone().into());
        let write = |mode| {
            let (payload, attributes, token) = (&payload, &attributes, &token);
            async move { self.put_settled(location, payload, &mode, attributes, token).await }
        };
        let mut put = self.write_as(&opts.mode, location, write).await?;
        put.extensions.insert(token);
        Ok(put)
    }

    /// The mode of the completion is a [`PutMode`] in `opts.extensions`; [`PutMode::Overwrite`] without one.
    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let token = Token::new();
        let mode = opts.extensions.get::<PutMode>().cloned().unwrap_or_default();
        let mut opts = PutMultipartOptions { extensions: Default::default(), ..opts };
        opts.attributes.insert(TOKEN, token.0.clone().into());
        let id = self.0.parts.create_multipart_opts(location, opts).await?;
        Ok(Box::new(BucketUpload {
            bucket: self.clone(),
            location: location.clone(),
            mode,
            token,
            id: Some(id),
            count: 0,
            done: Arc::default(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.head {
            return self.0.control.get_opts(location, options).await;
        }
        let mut found = self.begin(location, options).await?;
        let (range, etag) = (found.range.clone(), found.meta.e_tag.clone());
        let payload =
            std::mem::replace(&mut found.payload, GetResultPayload::Stream(stream::empty().boxed()));
        let GetResultPayload::Stream(bytes) = payload else { return Ok(GetResult { payload, ..found }) };
        let download = Download {
            bucket: self.clone(),
            location: location.clone(),
            etag,
            next: range.start,
            end: range.end,
            bytes: Some(bytes),
            resumes: 0,
        };
        let payload = GetResultPayload::Stream(stream::try_unfold(download, Download::step).boxed());
        Ok(GetResult { payload, ..found })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.control.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.control.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.control.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: "Bucket".into() })
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.0.name)
    }
}

impl Bucket {
    /// The head of a download, from a store that may be restarting.
    async fn begin(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let began = tokio::time::Instant::now();
        loop {
            let answer = timeout(SILENCE, self.0.reader.get_opts(location, options.clone())).await;
            match answer {
                Ok(Err(error)) if !is_final(&error) && began.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(rand::random_range(100..500))).await;
                }
                Ok(answer) => return answer,
                Err(_) => return Err(silent(location)),
            }
        }
    }
}

/// A download under way.
struct Download {
    bucket: Bucket,
    location: Path,
    etag: Option<String>,
    next: u64,
    end: u64,
    bytes: Option<BoxStream<'static, Result<Bytes>>>,
    resumes: u32,
}

impl Download {
    /// The next bytes, from a new connection if the last one broke.
    async fn step(mut self) -> Result<Option<(Bytes, Self)>> {
        while self.next < self.end {
            let error = match self.bytes.as_mut() {
                None => match self.resume().await {
                    Ok(()) => continue,
                    Err(error) if is_final(&error) => return Err(error),
                    Err(error) => error,
                },
                // Only while we wait: a client that takes its time between two reads is not the store's fault.
                Some(bytes) => match timeout(SILENCE, bytes.next()).await {
                    Ok(Some(Ok(bytes))) if !bytes.is_empty() => {
                        self.next += bytes.len() as u64;
                        self.resumes = 0;
                        return Ok(Some((bytes, self)));
                    }
                    Ok(Some(Ok(_))) => continue,
                    Ok(Some(Err(error))) => error,
                    Ok(None) | Err(_) => silent(&self.location),
                },
            };
            self.bytes = None;
            self.resumes += 1;
            if self.resumes > RESUMES {
                return Err(error);
            }
        }
        Ok(None)
    }

    async fn resume(&mut self) -> Result<()> {
        let options =
            GetOptions::new().with_range(Some(self.next..self.end)).with_if_match(self.etag.clone());
        let found = self.bucket.begin(&self.location, options).await?;
        let rest = found.range.clone();
        if rest != (self.next..self.end) {
            return Err(silent(&self.location));
        }
        self.bytes = Some(found.into_stream());
        Ok(())
    }
}

/// An upload in parts. Dropped before it is complete, it takes its parts away.
#[derive(Debug)]
struct BucketUpload {
    bucket: Bucket,
    location: Path,
    mode: PutMode,
    token: Token,
    id: Option<MultipartId>,
    count: usize,
    done: Arc<Mutex<Vec<(usize, PartId)>>>,
}

#[async_trait]
impl MultipartUpload for BucketUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (bucket, location, done) = (self.bucket.clone(), self.location.clone(), Arc::clone(&self.done));
        let (index, id) = (self.count, self.id.clone());
        self.count += 1;
        Box::pin(async move {
            let id = id.ok_or_else(|| ended(&location))?;
            let part = bucket.0.parts.put_part(&location, &id, index, data).await?;
            done.lock().await.push((index, part));
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let id = self.id.clone().ok_or_else(|| ended(&self.location))?;
        let mut parts = std::mem::take(&mut *self.done.lock().await);
        parts.sort_unstable_by_key(|(index, _)| *index);
        // An empty completion would make an empty object.
        if parts.is_empty() || parts.len() != self.count {
            return Err(ended(&self.location));
        }
        let parts: Vec<PartId> = parts.into_iter().map(|(_, part)| part).collect();
        let (upload, id, parts) = (&*self, &id, &parts);
        let complete = |mode| async move { upload.complete_settled(id, parts, &mode).await };
        let mut put = upload.bucket.write_as(&upload.mode, &upload.location, complete).await?;
        // From here on there is nothing to abort.
        self.id = None;
        put.extensions.insert(self.token.clone());
        Ok(put)
    }

    async fn abort(&mut self) -> Result<()> {
        match self.id.take() {
            Some(id) => self.bucket.0.control.abort_multipart(&self.location, &id).await,
            None => Ok(()),
        }
    }
}

impl BucketUpload {
    /// One conditional completion, with the certainty whether it happened.
    async fn complete_settled(
        &self,
        id: &MultipartId,
        parts: &[PartId],
        mode: &PutMode,
    ) -> Result<PutResult> {
        let began = tokio::time::Instant::now();
        loop {
            let error = match self.complete_if(id, parts.to_vec(), mode).await {
                // A completion that is refused says `Precondition`; a name that is taken is what it means.
                Err(Error::Precondition { path, source }) => Error::AlreadyExists { path, source },
                Err(error) => error,
                Ok(put) => return Ok(put),
            };
            let late = began.elapsed() > PATIENCE;
            match self.bucket.settle(&self.location, &self.token, error).await {
                Settled::Ours(put) => return Ok(put),
                // No such upload: an earlier try may have completed it, and somebody deleted the object since.
                Settled::Absent(error @ Error::NotFound { .. }) => {
                    return Err(unknown(&self.location, &error));
                }
                // As in `put_settled`.
                Settled::Absent(error) if refused(&error) && matches!(mode, PutMode::Create) => {
                    if late {
                        return Err(unknown(&self.location, &error));
                    }
                    pause().await;
                }
                Settled::Absent(error) | Settled::Theirs(error) => return Err(error),
            }
        }
    }

    async fn complete_if(&self, id: &MultipartId, parts: Vec<PartId>, mode: &PutMode) -> Result<PutResult> {
        let inner = &self.bucket.0;
        match mode {
            PutMode::Update(UpdateVersion { e_tag: Some(etag), .. }) => {
                let etag =
                    http::HeaderValue::try_from(etag).map_err(|error| generic(&self.location, error))?;
                let completer = inner.blueprint.completer(http::header::IF_MATCH, etag)?;
                completer.complete_multipart(&self.location, id, parts).await
            }
            _ => inner.creator.complete_multipart(&self.location, id, parts).await,
        }
    }
}

impl Drop for BucketUpload {
    fn drop(&mut self) {
        let (Some(id), Ok(runtime)) = (self.id.take(), tokio::runtime::Handle::try_current()) else { return };
        let (bucket, location) = (self.bucket.clone(), self.location.clone());
        let aborts = self.bucket.0.aborts.clone();
        aborts.spawn_on(
            async move {
            if let Err(error) = bucket.0.control.abort_multipart(&location, &id).await {
                tracing::warn!(event = "cleanup", key = %location, error = %error, "parts of an upload are left");
            }
        }, &runtime);
    }
}

/// Whether nobody can change what is on its way there: TLS sees to that, or it does not leave this machine. Hashing
/// the payload for its signature as well would take as long as the digest of the package.
fn is_out_of_reach(endpoint: &str) -> bool {
    let Ok(endpoint) = url::Url::parse(endpoint) else { return false };
    let here = match endpoint.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    endpoint.scheme() == "https" || here
}

/// A while, different for everybody.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(rand::random_range(200..600))).await;
}

/// The store said no, by a condition.
fn refused(error: &Error) -> bool {
    matches!(error, Error::AlreadyExists { .. } | Error::Precondition { .. })
}

/// Trying again would give the same answer.
fn is_final(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound { .. }
            | Error::Precondition { .. }
            | Error::NotModified { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::AlreadyExists { .. }
            | Error::InvalidPath { .. }
    )
}

/// How the connection failed, if that is what failed.
pub(super) fn transport_error(error: &Error) -> Option<HttpErrorKind> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            return Some(error.kind());
        }
        source = error.source();
    }
    None
}

/// No connection: the store cannot have seen the request.
pub(super) fn never_left(error: &Error) -> bool {
    transport_error(error) == Some(HttpErrorKind::Connect)
}

/// The store said that it is busy, and did nothing. Only the text of the answer tells; a package's name, and a
/// port, may contain a code as well.
fn is_busy(error: &Error) -> bool {
    let answer = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    ["SlowDown", "ServiceUnavailable", "ConditionalRequestConflict"]
        .iter()
        .any(|code| answer.contains(&format!("<Code>{code}</Code>")))
        || answer.contains("status code: 503")
}

fn broke_off(error: &Error) -> bool {
    matches!(transport_error(error), Some(HttpErrorKind::Request | HttpErrorKind::Interrupted))
}

fn silent(location: &Path) -> Error {
    generic(location, "the store fell silent")
}

fn ended(location: &Path) -> Error {
    generic(location, "the upload has ended, or a part of it is missing")
}

fn unknown(location: &Path, error: &Error) -> Error {
    generic(location, format_args!("it is not known whether it was written: {error}"))
}

fn generic(location: &Path, error: impl fmt::Display) -> Error {
    Error::Generic { store: "Bucket", source: format!("`{location}`: {error}").into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_over_plain_http_to_another_host_a_payload_is_signed() {
        for endpoint in
            ["https://minio:9000", "http://localhost:9000", "http://127.0.0.1", "http://[::1]:9000"]
        {
            assert!(is_out_of_reach(endpoint), "{endpoint}");
        }
        for endpoint in ["http://minio:9000", "http://10.0.0.1", "http://localhost.example.com", "minio", ""]
        {
            assert!(!is_out_of_reach(endpoint), "{endpoint}");
        }
    }
}
