//! The command line as a client: upload, list, download, delete, healthcheck.
//!
//! Promises:
//! - An upload is known to be whole: its SHA-256 travels with it (`Repr-Digest`, RFC 9530), so the server refuses
//!   damaged bytes. It may be repeated: creating never replaces, and a name that is taken by the same bytes is a success.
//! - A download appears under its name only when it is whole; what was cut short stays in `NAME.part` and is continued.
//! - Names and messages from the server are not trusted: no name leaves the current directory, and no control character
//!   reaches a terminal.
//! - The token is sent to the server of `--url` alone. A redirect to another origin loses it, one from https to http is
//!   refused. Over plain http it is sent, with one warning: a server inside a closed network has often no certificate.
//!
//! Results go to standard output, one line each; progress, notices and errors go to standard error.
//! What may be called how on the command line is left to `main.rs`, what a name may be to the server.

pub mod releases;

use std::{
    collections::HashSet,
    fmt, fs,
    io::{self, BufWriter, Read, Write},
    mem,
    path::{Component, Path, PathBuf},
    pin::pin,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytesize::ByteSize;
use chrono::{DateTime, Utc};
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use headers::{ContentLength, ContentRange, HeaderMapExt};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, ETAG, IF_RANGE, LOCATION, RANGE, RETRY_AFTER},
};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Body, RequestBuilder, Response, redirect::Policy};
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;
use url::{Host, Url};

use crate::{
    config::Secret,
    digest::{Digest, Hasher},
};

/// The variable the token is read from. There is no option for the token itself: every user of a machine can read the
/// command lines of all processes.
pub const TOKEN_VARIABLE: &str = "RELEASE_SERVER_TOKEN";

/// Files are read and written in blocks of this many bytes.
const BLOCK: usize = 512 * 1024;
/// How often a request is made before its failure is final.
const TRIES: u32 = 4;
/// The pause before the second try; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause a server may ask for with `Retry-After`.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// A transfer in which nothing moves for this long has failed.
const STALL: Duration = Duration::from_mins(2);
/// How long a server gets for accepting a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server has for refusing a large upload before the first byte of it is sent.
const GRACE: Duration = Duration::from_millis(250);
/// Bodies up to this many bytes are sent without waiting: the buffers on the way take them whole.
const FITS_BUFFERS: u64 = 128 * 1024;
/// How long a healthcheck waits for its answer.
const HEALTHCHECK: Duration = Duration::from_secs(3);
/// No more of an error's body is read, in bytes.
const LONGEST_ERROR: usize = 64 * 1024;
/// All but the unreserved characters of RFC 3986, section 2.3.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A package as `GET /packages` describes it.
#[derive(Debug, Clone, Deserialize)]
struct Package {
    name: String,
    size: u64,
    created_at: DateTime<Utc>,
    /// 64 hex digits; `None` while the server does not know it.
    sha256: Option<String>,
    url: Option<String>,
}

impl Package {
    fn digest(&self) -> Option<Digest> {
        self.sha256.as_ref()?.parse().ok()
    }
}

/// The body of an error.
#[derive(Deserialize)]
struct Message {
    message: String,
}

/// Where a download goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Into the current directory, under the package's name.
    Here,
    /// To this file.
    File(PathBuf),
    /// To standard output.
    Stdout,
}

/// Why one try failed.
enum Setback {
    /// Another try would fail as well.
    Final(anyhow::Error),
    /// It may pass; `wait` is what the server asked for.
    Passing { error: anyhow::Error, wait: Option<Duration> },
}

impl From<anyhow::Error> for Setback {
    fn from(error: anyhow::Error) -> Self {
        Self::Final(error)
    }
}

impl From<reqwest::Error> for Setback {
    fn from(error: reqwest::Error) -> Self {
        let lasting = error.is_builder() || error.is_redirect();
        let error = anyhow::Error::new(error.without_url());
        if lasting { Self::Final(error) } else { Self::Passing { error, wait: None } }
    }
}

/// A server, and how to talk to it.
pub struct Client {
    /// Without a slash at its end.
    base: String,
    has_token: bool,
    /// Follows redirects, as a store may answer a download with one.
    reads: reqwest::Client,
    /// Does not: a streamed body cannot be sent twice.
    writes: reqwest::Client,
}

impl Client {
    /// A client of the server at `url`, which may have a path in front of the server's own.
    pub fn new(url: &str, token: Option<&Secret>) -> Result<Self> {
        let url = server_url(url)?;
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            // The error of `http` does not show the value; nor may we.
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.reveal()))
                .context("the token has characters that no HTTP header may carry")?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
            if url.scheme() == "http" && !is_loopback(&url) {
                note(format_args!(
                    "warning: the token goes to `{}` over plain http, readable on the way; use https if the server has it",
                    url.host_str().unwrap_or_default(),
                ));
            }
        }
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("release-server/", env!("CARGO_PKG_VERSION")))
                .default_headers(headers.clone())
                .referer(false)
                .connect_timeout(CONNECT)
        };
        let plain = url.scheme() == "http";
        Ok(Self {
            base: url.as_str().trim_end_matches('/').to_owned(),
            has_token: token.is_some(),
            reads: build(plain, || builder().redirect(downloads_redirect()).read_timeout(STALL))?,
            writes: build(plain, || builder().redirect(Policy::none()))?,
        })
    }

    /// Uploads `files`, `jobs` at a time, and prints the digest and the URL of each. All of them are tried.
    pub async fn upload(&self, files: &[PathBuf], overwrite: bool, jobs: usize) -> Result<()> {
        check_names(files)?;
        self.upload_all(files, jobs, async |file, bar| self.upload_one(file, overwrite, bar).await).await
    }

    /// Has each of `files` uploaded, `jobs` at a time, and prints what came of it. All of them are tried.
    async fn upload_all(
        &self,
        files: &[PathBuf],
        jobs: usize,
        upload: impl AsyncFn(&Path, &ProgressBar) -> Result<(Digest, String)>,
    ) -> Result<()> {
        let bars = MultiProgress::new();
        let mut failed = 0;
        let mut uploads = stream::iter(files)
            .map(|file| async {
                let bar = bars.add(progress_bar());
                let done = upload(file, &bar).await;
                bar.finish_and_clear();
                done.with_context(|| format!("cannot upload `{}`", printable(&file.to_string_lossy())))
            })
            .buffered(jobs.max(1));
        while let Some(upload) = uploads.next().await {
            bars.suspend(|| match upload {
                Ok((digest, url)) => line(format_args!("{digest}  {}", printable(&url))),
                Err(error) => {
                    failed += 1;
                    note(format_args!("error: {}", Chain(&error)));
                    Ok(())
                }
            })?;
        }
        ensure!(failed == 0, "{failed} of {} files could not be uploaded", files.len());
        Ok(())
    }

    /// Answers the digest and the URL.
    async fn upload_one(&self, file: &Path, overwrite: bool, bar: &ProgressBar) -> Result<(Digest, String)> {
        let name = package_name(file)?;
        let url = self.asset_url(name)?;
        let (digest, size) = hashed(file, name, bar).await?;
        ensure!(size > 0, "the file is empty");
        // 409 is judged below: it may be our own upload, whose answer was lost.
        let response = self
            .send(file, (digest, size), bar, StatusCode::CONFLICT, || {
                self.writes.put(url.clone()).query(&[("overwrite", overwrite)])
            })
            .await?;

        if response.status() == StatusCode::CONFLICT {
            ensure!(!overwrite && self.holds(name, digest).await, self.refusal(response).await);
            notice(bar, format_args!("`{}` is already there, with the same bytes", printable(name)));
            return Ok((digest, url.into()));
        }
        let stored: Package = response.json().await.context(NOT_OURS)?;
        ensure!(
            stored.digest().is_none_or(|theirs| theirs == digest),
            "the server stored other bytes than were sent; delete `{}` and upload it again",
            printable(&stored.name),
        );
        Ok((digest, stored.url.unwrap_or_else(|| url.into())))
    }

    /// Sends a file until that succeeds, or is answered with `judged`.
    async fn send(
        &self,
        file: &Path,
        (digest, size): (Digest, u64),
        bar: &ProgressBar,
        judged: StatusCode,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response> {
        patiently(bar, async || {
            bar.reset();
            let response = send_once(request(), file, (digest, size), bar).await?;
            if response.status().is_success() || response.status() == judged {
                return Ok(response);
            }
            Err(self.setback(response).await)
        })
        .await
    }

    /// Whether the server has these bytes under this name. Not knowing is no.
    async fn holds(&self, name: &str, digest: Digest) -> bool {
        let Ok(url) = self.asset_url(name) else {
            return false;
        };
        if let Ok(response) = self.reads.head(url).send().await
            && response.status().is_success()
            && let Some(theirs) = declared_digest(response.headers())
        {
            return theirs == digest;
        }
        let packages = self.packages().await.unwrap_or_default();
        packages.iter().any(|package| package.name == name && package.digest() == Some(digest))
    }

    /// Prints the packages, newest first: a table, or the server's own JSON.
    pub async fn list(&self, json: bool) -> Result<()> {
        if json {
            let packages: serde_json::Value = self.packages_json().await?.json().await.context(NOT_OURS)?;
            return line(format_args!("{packages:#}"));
        }
        let packages = self.packages().await?;
        if packages.is_empty() {
            note(format_args!("there are no packages yet"));
            return Ok(());
        }
        line(format_args!("{}", table(&packages)))
    }

    /// Newest first.
    async fn packages(&self) -> Result<Vec<Package>> {
        self.packages_json().await?.json().await.context(NOT_OURS)
    }

    async fn packages_json(&self) -> Result<Response> {
        let url = self.url("/packages?format=json")?;
        patiently(&ProgressBar::hidden(), async || {
            let response = self.reads.get(url.clone()).header(ACCEPT, "application/json").send().await?;
            if response.status().is_success() { Ok(response) } else { Err(self.setback(response).await) }
        })
        .await
        .with_context(|| format!("cannot list the packages of `{}`", self.base))
    }

    /// The name of the newest package, of those whose name contains `text`.
    pub async fn latest(&self, text: &str) -> Result<String> {
        let packages = self.packages().await?;
        let newest = packages.into_iter().map(|package| package.name).find(|name| name.contains(text));
        newest.with_context(|| format!("no package has `{}` in its name; see `list`", printable(text)))
    }

    /// Downloads the package `name`. A file that exists is replaced only if `force` says so.
    pub async fn download(&self, name: &str, to: &Destination, force: bool) -> Result<()> {
        self.download_from(self.asset_url(name)?, name, to, force).await
    }

    async fn download_from(&self, url: Url, name: &str, to: &Destination, force: bool) -> Result<()> {
        let bar = progress_bar();
        let done = self.download_one(url, name, to, force, &bar).await;
        bar.finish_and_clear();
        done.with_context(|| format!("cannot download `{}`", printable(name)))
    }

    async fn download_one(
        &self,
        url: Url,
        name: &str,
        to: &Destination,
        force: bool,
        bar: &ProgressBar,
    ) -> Result<()> {
        bar.set_message(printable(name));
        let target = match to {
            Destination::Here => local_name(name)?,
            Destination::File(file) => file,
            Destination::Stdout => {
                let sink = Sink::Stdout(BufWriter::with_capacity(BLOCK, io::stdout()));
                return Download::new(self, url, bar, sink).run().await;
            }
        };
        let shown = target.display();
        let there = fs::symlink_metadata(target).ok();
        if let Some(there) = &there {
            ensure!(there.is_file(), "`{shown}` is there, and is not a file");
            ensure!(force, "`{shown}` is already there; `--force` replaces it");
        }

        let part = part_of(target);
        let (file, found) = open_part(&part).with_context(|| format!("cannot write `{}`", part.display()))?;
        let sink = Sink::File(BufWriter::with_capacity(BLOCK, file));
        let mut download = Download::new(self, url, bar, sink);
        if found > 0 {
            download.take_up(&part, found).await?;
        }
        if let Err(error) = download.run().await {
            if fs::metadata(&part)?.len() == 0 {
                fs::remove_file(&part).ok();
                return Err(error);
            }
            return Err(error.context(format!("`{}` is kept: the same command continues it", part.display())));
        }
        if there.is_none() {
            // Claims the name, so that the rename cannot replace what came there meanwhile.
            fs::File::create_new(target).with_context(|| format!("cannot create `{shown}`"))?;
        }
        fs::rename(&part, target).with_context(|| format!("cannot rename `{}`", part.display()))?;
        line(format_args!("{}", printable(&target.to_string_lossy())))
    }

    /// Deletes `names`, and says of each what became of it. All of them are tried.
    pub async fn delete(&self, names: &[String]) -> Result<()> {
        let mut failed = 0;
        for name in names {
            let done = self.delete_one(name).await;
            match done.with_context(|| format!("cannot delete `{}`", printable(name))) {
                Ok(()) => line(format_args!("deleted `{}`", printable(name)))?,
                Err(error) => {
                    failed += 1;
                    note(format_args!("error: {}", Chain(&error)));
                }
            }
        }
        ensure!(failed == 0, "{failed} of {} packages could not be deleted", names.len());
        Ok(())
    }

    async fn delete_one(&self, name: &str) -> Result<()> {
        let url = self.asset_url(name)?;
        let mut lost = false;
        patiently(&ProgressBar::hidden(), async || {
            let response = match self.writes.delete(url.clone()).timeout(STALL).send().await {
                Ok(response) => response,
                Err(error) => {
                    lost |= !error.is_connect();
                    return Err(error.into());
                }
            };
            match response.status() {
                status if status.is_success() => Ok(()),
                // The try before this one was heard, only its answer was not.
                StatusCode::NOT_FOUND if lost => Ok(()),
                _ => Err(self.setback(response).await),
            }
        })
        .await
    }

    fn url(&self, path: &str) -> Result<Url> {
        Ok(Url::parse(&format!("{}{path}", self.base))?)
    }

    fn asset_url(&self, name: &str) -> Result<Url> {
        // A URL cannot name these: every client resolves them, percent-encoded or not.
        ensure!(!matches!(name, "" | "." | ".."), "`{name}` is not the name of a package");
        self.url(&format!("/assets/{}", utf8_percent_encode(name, SEGMENT)))
    }

    async fn setback(&self, response: Response) -> Setback {
        let passing = is_passing(response.status());
        let wait = retry_after(response.headers(), Utc::now());
        let error = self.refusal(response).await;
        if passing { Setback::Passing { error, wait } } else { Setback::Final(error) }
    }

    /// What the server said, and what can be done about it.
    async fn refusal(&self, mut response: Response) -> anyhow::Error {
        let status = response.status();
        let hint = match status {
            StatusCode::UNAUTHORIZED if self.has_token => format!("; check the token in `{TOKEN_VARIABLE}`"),
            StatusCode::UNAUTHORIZED => format!("; set `{TOKEN_VARIABLE}`, or give `--token-file`"),
            StatusCode::FORBIDDEN => format!("; `{TOKEN_VARIABLE}` needs a token that may do this"),
            _ if status.is_redirection() => match response.headers().get(LOCATION) {
                Some(to) => {
                    format!(
                        "; it points to `{}`, use that in `--url`",
                        printable(&String::from_utf8_lossy(to.as_bytes()))
                    )
                }
                None => String::new(),
            },
            _ => String::new(),
        };
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await
            && body.len() + chunk.len() <= LONGEST_ERROR
        {
            body.extend_from_slice(&chunk);
        }
        match serde_json::from_slice::<Message>(&body) {
            Ok(Message { message }) => anyhow!("{} ({status}){hint}", printable(&message)),
            Err(_) => anyhow!("the server answered {status}{hint}"),
        }
    }
}

/// Hashes a file that is about to be sent.
async fn hashed(file: &Path, name: &str, bar: &ProgressBar) -> Result<(Digest, u64)> {
    bar.set_message(format!("hashing {}", printable(name)));
    let (digest, size) = {
        let (file, bar) = (file.to_owned(), bar.clone());
        tokio::task::spawn_blocking(move || hash_file(&file, &bar)).await??
    };
    bar.set_message(printable(name));
    if bar.is_hidden() {
        note(format_args!("uploading `{}`, {}", printable(name), ByteSize(size)));
    }
    Ok((digest, size))
}

/// One try. The bar counts the bytes, and so shows a stall.
async fn send_once(
    request: RequestBuilder,
    file: &Path,
    (digest, size): (Digest, u64),
    bar: &ProgressBar,
) -> Result<Response, Setback> {
    let file = tokio::fs::File::open(file).await.context("cannot open the file")?;
    let counter = bar.clone();
    // A refusal that comes while bytes are on their way can be lost: the server closes, the system discards what was
    // not read yet. `Expect: 100-continue` is made for that, but reqwest does not wait for it; so a large body waits.
    let grace = if size > FITS_BUFFERS { GRACE } else { Duration::ZERO };
    // A file that grows is cut at what was hashed; the digest tells whether that is still the same.
    let blocks = ReaderStream::with_capacity(file.take(size), BLOCK);
    let body = stream::once(tokio::time::sleep(grace).map(|()| io::Result::Ok(blocks)))
        .try_flatten()
        .inspect_ok(move |block| counter.inc(block.len() as u64));
    let mut sending = pin!(
        request
            .header(CONTENT_LENGTH, size)
            .header("repr-digest", digest.to_repr_digest())
            .body(Body::wrap_stream(body))
            .send()
    );
    // A limit on the whole would punish large files, and reqwest's read timeout runs while we send.
    loop {
        let sent = bar.position();
        if let Ok(answer) = tokio::time::timeout(STALL, &mut sending).await {
            return Ok(answer?);
        }
        if bar.position() == sent {
            let error = anyhow!("nothing moved for {} seconds", STALL.as_secs());
            return Err(Setback::Passing { error, wait: None });
        }
    }
}

/// Refuses two files of one name.
fn check_names(files: &[PathBuf]) -> Result<()> {
    let mut names = HashSet::new();
    for file in files {
        let name = package_name(file)?;
        ensure!(names.insert(name), "two of the files are called `{}`", printable(name));
    }
    Ok(())
}

/// Whether the server's certificate has to be a good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// As always.
    Yes,
    /// No: this machine asks itself, by an address that no certificate has, and sends nothing secret.
    No,
}

/// Asks the server at `url` whether it is ready, and prints the answer.
pub async fn healthcheck(url: &str, verify: Verify) -> Result<()> {
    let url = format!("{}/readyz", server_url(url)?.as_str().trim_end_matches('/'));
    // A proxy is for the world outside; a probe must see this server itself.
    let client = build(url.starts_with("http:"), || {
        let builder = reqwest::Client::builder().no_proxy().redirect(Policy::none()).timeout(HEALTHCHECK);
        builder.tls_danger_accept_invalid_certs(verify == Verify::No)
    })?;
    let answer = client.get(&url).send().await.map_err(reqwest::Error::without_url);
    let status = answer.with_context(|| format!("no answer from `{url}`"))?.status();
    ensure!(status.is_success(), "not ready: `{url}` answered {status}");
    line(format_args!("ready: `{url}` answered {status}"))
}

/// The token for the client: from `file` if there is one, else from [`TOKEN_VARIABLE`].
pub fn token(file: Option<&Path>) -> Result<Option<Secret>> {
    let text = match file {
        Some(file) => {
            let text = fs::read_to_string(file)
                .with_context(|| format!("cannot read the token from `{}`", file.display()))?;
            ensure!(!text.trim().is_empty(), "`{}` is empty, but should hold the token", file.display());
            text
        }
        None => std::env::var(TOKEN_VARIABLE).unwrap_or_default(),
    };
    let text = text.trim();
    Ok((!text.is_empty()).then(|| Secret::new(text)))
}

/// An error and its causes, one a line.
pub struct Chain<'a>(pub &'a anyhow::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        for cause in self.0.chain().skip(1).map(ToString::to_string) {
            // Some crates repeat their source in their own message.
            if !said.ends_with(&cause) {
                write!(f, "\n  caused by: {cause}")?;
            }
            said = cause;
        }
        Ok(())
    }
}

/// A download under way: what there is of it, and of which version.
struct Download<'a> {
    client: &'a Client,
    url: Url,
    bar: &'a ProgressBar,
    sink: Sink,
    hasher: Hasher,
    /// Bytes written.
    have: u64,
    /// Bytes there will be, if the server says.
    total: Option<u64>,
    /// The strong `ETag` of the bytes written: nothing is continued without.
    version: Option<HeaderValue>,
    digest: Option<Digest>,
    /// Whether some bytes are of an earlier run, and so may be of another version.
    taken_up: bool,
}

/// Written without `await`: a download is the only task of its process.
enum Sink {
    File(BufWriter<fs::File>),
    Stdout(BufWriter<io::Stdout>),
}

impl Sink {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::File(file) => file,
            Self::Stdout(stdout) => stdout,
        }
    }
}

impl<'a> Download<'a> {
    fn new(client: &'a Client, url: Url, bar: &'a ProgressBar, sink: Sink) -> Self {
        Self {
            client,
            url,
            bar,
            sink,
            hasher: Hasher::default(),
            have: 0,
            total: None,
            version: None,
            digest: None,
            taken_up: false,
        }
    }

    /// Continues the `found` bytes of an earlier run, if the server can tell in the end whether they were right. If it
    /// cannot, they stay until a new beginning arrives.
    async fn take_up(&mut self, part: &Path, found: u64) -> Result<()> {
        let answer = patiently(self.bar, async || {
            let answer = self.client.reads.head(self.url.clone()).send().await?;
            if is_passing(answer.status()) { Err(self.client.setback(answer).await) } else { Ok(answer) }
        })
        .await?;
        if !answer.status().is_success() {
            return Ok(());
        }
        self.note_version(answer.headers());
        if self.version.is_none() || self.digest.is_none() || self.total < Some(found) {
            return Ok(());
        }
        self.have = hash_into(&mut self.hasher, fs::File::open(part)?, self.bar)?;
        self.taken_up = true;
        Ok(())
    }

    /// Fetches all that is missing, and returns only if the whole is right and on disk.
    async fn run(&mut self) -> Result<()> {
        loop {
            let bar = self.bar;
            patiently(bar, async || self.fetch().await).await?;
            let digest = mem::take(&mut self.hasher).finish();
            match self.digest {
                Some(declared) if declared != digest => {
                    let again = self.taken_up;
                    // What is damaged must not be continued.
                    self.start_over().context(WRONG_DIGEST)?;
                    ensure!(again, "{WRONG_DIGEST}");
                    notice(bar, format_args!("the part of it that was here does not fit; starting over"));
                }
                Some(_) => break,
                None => {
                    notice(
                        bar,
                        format_args!("the server did not tell the digest: only the length was checked"),
                    );
                    break;
                }
            }
        }
        if let Sink::File(file) = &mut self.sink {
            file.get_ref().sync_all().context("cannot write the file")?;
        }
        Ok(())
    }

    /// One try.
    async fn fetch(&mut self) -> Result<(), Setback> {
        if self.have > 0 && self.version.is_none() {
            self.start_over()?;
        }
        if self.have > 0 && self.total == Some(self.have) {
            return Ok(());
        }
        let mut request = self.client.reads.get(self.url.clone());
        if let (1.., Some(version)) = (self.have, &self.version) {
            request = request.header(RANGE, format!("bytes={}-", self.have)).header(IF_RANGE, version);
        }
        let mut response = request.send().await?;
        match response.status() {
            StatusCode::OK => {
                self.start_over()?;
                self.note_version(response.headers());
            }
            StatusCode::PARTIAL_CONTENT if self.is_continued_by(response.headers()) => {}
            _ => return Err(self.client.setback(response).await),
        }
        self.bar.set_position(self.have);
        self.bar.set_length(self.total.unwrap_or_default());

        let end = loop {
            match response.chunk().await {
                Ok(Some(chunk)) => self.write(&chunk).context("cannot write")?,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.sink.writer().flush().context("cannot write")?;
        end?;
        if let Some(total) = self.total
            && total != self.have
        {
            return Err(anyhow!("{total} bytes were announced, but {} came", self.have).into());
        }
        Ok(())
    }

    fn is_continued_by(&self, headers: &HeaderMap) -> bool {
        let range = headers.typed_get::<ContentRange>();
        let start = range.and_then(|range| range.bytes_range()).map(|(start, _)| start);
        self.have > 0 && start == Some(self.have) && headers.get(ETAG) == self.version.as_ref()
    }

    fn note_version(&mut self, headers: &HeaderMap) {
        self.total = headers.typed_get::<ContentLength>().map(|length| length.0);
        self.version = headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")).cloned();
        self.digest = declared_digest(headers);
    }

    fn start_over(&mut self) -> Result<()> {
        match &mut self.sink {
            Sink::File(file) => {
                file.flush()?;
                file.get_ref().set_len(0)?;
            }
            Sink::Stdout(_) => {
                ensure!(self.have == 0, "the rest of it does not fit what was already written");
            }
        }
        (self.hasher, self.have, self.taken_up) = (Hasher::default(), 0, false);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink.writer().write_all(bytes)?;
        self.hasher.update(bytes);
        self.have += bytes.len() as u64;
        self.bar.set_position(self.have);
        Ok(())
    }
}

const NOT_OURS: &str = "the answer is not one of a Release Server; is the address right?";
const WRONG_DIGEST: &str =
    "the bytes that came do not have the SHA-256 that the server declares; nothing was kept";

/// Tries, and tries again while that may help.
async fn patiently<T>(bar: &ProgressBar, mut attempt: impl AsyncFnMut() -> Result<T, Setback>) -> Result<T> {
    for tried in 1.. {
        let (error, wait) = match attempt().await {
            Ok(done) => return Ok(done),
            Err(Setback::Final(error)) => return Err(error),
            Err(Setback::Passing { error, wait }) => (error, wait),
        };
        if tried == TRIES {
            return Err(error);
        }
        let pause = FIRST_PAUSE * 2u32.pow(tried - 1);
        let jitter = pause.mul_f64(rand::random_range(0.0..0.2));
        let pause = wait.map_or(pause, |wait| wait.min(LONGEST_PAUSE)) + jitter;
        bar.suspend(|| {
            let seconds = pause.as_secs_f64();
            note(format_args!("{error:#}; trying again in {seconds:.1} s ({tried} of {})", TRIES - 1));
        });
        tokio::time::sleep(pause).await;
    }
    bail!("tried too often")
}

/// Whether the same request may succeed later.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502..=504)
}

/// A client of rustls wants certificates to be installed. A container for one binary has none, and plain http needs none.
fn build(plain: bool, builder: impl Fn() -> reqwest::ClientBuilder) -> Result<reqwest::Client> {
    match builder().build() {
        Err(_) if plain => builder().tls_certs_only([]).build(),
        built => built,
    }
    .context("cannot set up the HTTP client; are the `ca-certificates` installed?")
}

fn downloads_redirect() -> Policy {
    Policy::custom(|attempt| {
        let from_https = attempt.previous().last().is_some_and(|from| from.scheme() == "https");
        if from_https && attempt.url().scheme() != "https" {
            return attempt.error("a redirect from https to plain http is not followed");
        }
        Policy::limited(10).redirect(attempt)
    })
}

fn server_url(text: &str) -> Result<Url> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let url = url.with_context(|| {
        format!("`{text}` is no address of a server; one looks like `http://localhost:8000`")
    })?;
    // The text is not shown: it may hold a password.
    ensure!(
        url.username().is_empty() && url.password().is_none(),
        "the address has a user or password in it; put the token into `{TOKEN_VARIABLE}`",
    );
    ensure!(
        url.query().is_none() && url.fragment().is_none(),
        "`{text}` must end with its path, before `?` or `#`"
    );
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The name a file is uploaded under.
fn package_name(file: &Path) -> Result<&str> {
    let name = file.file_name().with_context(|| format!("`{}` is not a file", file.display()))?;
    name.to_str().with_context(|| format!("the name of `{}` is not UTF-8", file.display()))
}

/// The name as a file of the current directory.
fn local_name(name: &str) -> Result<&Path> {
    let mut components = Path::new(name).components();
    let plain = matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
        && !name.starts_with('.')
        && !name.contains(['/', '\\'])
        && printable(name) == name;
    ensure!(plain, "that is not a safe name for a file here; choose one with `-o FILE`");
    Ok(Path::new(name))
}

fn part_of(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Opens for appending; answers how many bytes are there. Two downloads never write to one file.
fn open_part(part: &Path) -> Result<(fs::File, u64)> {
    let file = fs::OpenOptions::new().create(true).append(true).open(part)?;
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => bail!("another download is writing it"),
        // A file system without locks is no reason not to download.
        Ok(()) | Err(fs::TryLockError::Error(_)) => {}
    }
    let found = file.metadata()?.len();
    Ok((file, found))
}

/// The digest and the size.
fn hash_file(path: &Path, bar: &ProgressBar) -> Result<(Digest, u64)> {
    let file = fs::File::open(path).context("cannot open the file")?;
    let metadata = file.metadata().context("cannot read the file")?;
    ensure!(metadata.is_file(), "this is not a regular file");
    bar.set_length(metadata.len());
    let mut hasher = Hasher::default();
    let size = hash_into(&mut hasher, file, bar).context("cannot read the file")?;
    bar.set_length(size);
    Ok((hasher.finish(), size))
}

fn hash_into(hasher: &mut Hasher, mut file: fs::File, bar: &ProgressBar) -> io::Result<u64> {
    let mut block = vec![0; BLOCK];
    let mut size = 0;
    loop {
        match file.read(&mut block)? {
            0 => return Ok(size),
            read => {
                hasher.update(&block[..read]);
                size += read as u64;
                bar.set_position(size);
            }
        }
    }
}

/// The SHA-256 in `Repr-Digest` (RFC 9530, section 3), which is that of the whole, in an answer with a range as well.
fn declared_digest(headers: &HeaderMap) -> Option<Digest> {
    Digest::from_repr_digest(headers.get("repr-digest")?.to_str().ok()?).ok()?
}

/// What `Retry-After` asks for: seconds or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::parse_from_rfc2822(text).ok()?;
    (date.to_utc() - now).to_std().ok()
}

/// The name comes last: it alone has no known width.
fn table(packages: &[Package]) -> String {
    let mut lines = vec![format!("{:>10}  {:<16}  {:<12}  NAME", "SIZE", "CREATED (UTC)", "SHA-256")];
    lines.extend(packages.iter().map(|package| {
        let digest = package.digest().map(|digest| digest.to_string()[..12].to_owned());
        format!(
            "{:>10}  {}  {:<12}  {}",
            ByteSize(package.size),
            package.created_at.format("%Y-%m-%d %H:%M"),
            digest.as_deref().unwrap_or("-"),
            printable(&package.name),
        )
    }));
    lines.join("\n")
}

/// The text with every character escaped that would move a terminal's cursor, or turn the direction of what follows.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Drawn on standard error, if that is a terminal.
fn progress_bar() -> ProgressBar {
    let template =
        "{wide_msg} {bar:24} {binary_bytes:>10}/{binary_total_bytes:<10} {binary_bytes_per_sec:>12} {eta:>4}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style)
}

/// A line of the result.
fn line(text: fmt::Arguments<'_>) -> Result<()> {
    match writeln!(io::stdout(), "{text}") {
        // `list | head -1` has seen what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// A line above the bar.
fn notice(bar: &ProgressBar, text: fmt::Arguments<'_>) {
    bar.suspend(|| note(text));
}

/// A line for the person who watches. It is no failure if nobody does.
fn note(text: fmt::Arguments<'_>) {
    writeln!(io::stderr(), "{text}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    #[test]
    fn what_moves_a_cursor_or_turns_the_text_is_escaped() {
        assert_eq!(printable("a\u{1b}[2J\r\n\u{9b}\u{202e}gpj.exe"), r"a\u{1b}[2J\r\n\u{9b}\u{202e}gpj.exe");
        assert_eq!(printable("größe-日本 'a\"b\\.zip"), "größe-日本 'a\"b\\.zip");
    }

    #[test]
    fn only_a_plain_name_becomes_a_file_here() {
        for name in ["app-1.0.tar.gz", "größe 日本.zip", "-rf", "a..b"] {
            assert_eq!(local_name(name).unwrap(), Path::new(name));
        }
        let hostile = ["", ".", "..", "../x", "/etc/x", "a/b", "a/", "./a", ".bashrc", "a\\b", "..\\x"];
        for name in hostile.into_iter().chain(["a\0b", "a\nb", "a\u{202e}b"]) {
            assert!(local_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn an_address_is_http_and_has_no_password() {
        for url in ["http://localhost:8000", "https://example.com/releases/"] {
            assert!(server_url(url).is_ok(), "{url}");
        }
        for url in ["localhost:8000", "ftp://example.com", "example.com", "", "http://a/?x", "http://a/#x"] {
            assert!(server_url(url).is_err(), "{url}");
        }
        let refused = server_url("http://me:hunter2@example.com").unwrap_err().to_string();
        assert!(!refused.contains("hunter2"), "{refused}");
    }

    #[test]
    fn a_name_is_one_segment_behind_the_prefix() {
        let client = Client::new("http://localhost:8000/prefix/", None).unwrap();
        let url = |name| client.asset_url(name).map(String::from);
        assert_eq!(url("a b.zip").unwrap(), "http://localhost:8000/prefix/assets/a%20b.zip");
        assert_eq!(
            url("../a?b#c%2f\t").unwrap(),
            "http://localhost:8000/prefix/assets/..%2Fa%3Fb%23c%252f%09"
        );
        assert!(url("..").is_err());
        assert!(url(".").is_err());
    }

    #[test]
    fn loopback_needs_no_warning() {
        for (url, expected) in [
            ("http://localhost:8000", true),
            ("http://127.0.0.9", true),
            ("http://[::1]:8000", true),
            ("http://localhost.example.com", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn a_server_asks_for_a_pause_in_seconds_or_by_a_date() {
        let now = DateTime::parse_from_rfc3339("1994-11-06T08:49:30Z").unwrap().to_utc();
        let pause = |value| retry_after(&headers("retry-after", value), now);
        assert_eq!(pause("120"), Some(Duration::from_mins(2)));
        assert_eq!(pause("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(pause("Sun, 06 Nov 1994 08:49:00 GMT"), None);
        assert_eq!(pause("soon"), None);
    }

    #[test]
    fn the_declared_digest_is_a_whole_sha_256() {
        let abc = "sha-512=:AAAA:, sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:";
        let digest = declared_digest(&headers("repr-digest", abc)).unwrap();
        assert_eq!(digest, Digest::of(b"abc"));
        for other in ["sha-256=:AAAA:", "sha-256=abc", "sha-256", "sha-512=:AAAA:", "{"] {
            assert_eq!(declared_digest(&headers("repr-digest", other)), None, "{other}");
        }
    }

    #[test]
    fn an_error_shows_each_cause_once() {
        let error = anyhow!("refused").context("no answer: refused").context("cannot list");
        assert_eq!(Chain(&error).to_string(), "cannot list\n  caused by: no answer: refused");
    }

    #[test]
    fn a_token_that_fits_no_header_is_refused_unseen() {
        let refused = Client::new("http://localhost", Some(&Secret::new("hunter2\nx"))).err().unwrap();
        assert!(!format!("{refused:?}").contains("hunter2"), "{refused:?}");
    }
}
