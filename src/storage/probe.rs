//! Trying out a bucket: at start what uploads depend on, for the operator everything.
//!
//! A store's name says little: versions differ, and some accept a condition and ignore it. So each promise is put to
//! the test, and what fails is said in one sentence with the next step.

use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use chrono::Utc;
use futures_util::future::join_all;
use http::Method;
use object_store::{
    Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutPayload,
    UpdateVersion, client::HttpErrorKind, path::Path, signer::Signer,
};

use super::{Engine, LAYOUT, Removals, Storage, bucket::transport_error, key, layout};

/// Racing creators of one probe.
const RACERS: usize = 8;

/// Beyond this the store refuses signatures (S3 allows 15 minutes), and ages are told wrong.
const SKEW_LIMIT_MS: i64 = 60_000;

/// One thing tried.
#[derive(Debug)]
pub struct Probe {
    /// What.
    pub what: &'static str,
    /// What was seen; or what is wrong, and the next step.
    pub outcome: Result<String, String>,
    /// How long it took.
    pub took: Duration,
}

impl Storage {
    /// Checks that the bucket is there, is ours to use, and keeps conditions.
    pub(super) async fn probe_bucket(&self, name: &str, allow_last_writer_wins: bool) -> anyhow::Result<()> {
        let Engine::Bucket(removals) = &self.engine else { return Ok(()) };
        if !self.look_at_bucket(name).await? {
            match self.objects.put_opts(&layout(), PutPayload::default(), PutMode::Create.into()).await {
                Ok(_) | Err(Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(explain(name, &error)),
            }
        }
        let probe = key(&["probe", &uuid::Uuid::new_v4().simple().to_string()]);
        let kept = self.try_conditions(removals, &probe).await;
        self.clear_probe(&probe).await;
        match kept.map_err(|error| explain(name, &error))? {
            Ok(()) => Ok(()),
            Err(broken) if allow_last_writer_wins => {
                if let Some(changes) = &self.changes {
                    changes.refuse();
                }
                tracing::warn!(
                    event = "startup",
                    "{broken}; of two uploads of one name the last wins, as configured"
                );
                Ok(())
            }
            Err(broken) => bail!(
                "the store of the bucket `{name}` ignores conditions: {broken}. Two uploads of one name could both \
                 succeed. Use a store that keeps them (MinIO, AWS S3, …), or accept it with \
                 `ALLOW_LAST_WRITER_WINS=true`"
            ),
        }
    }

    /// Tries everything that the server does with a store, and the time it takes.
    pub async fn diagnose(&self) -> Vec<Probe> {
        let folder = uuid::Uuid::new_v4().simple().to_string();
        let probe = key(&["probe", &folder]);
        let mut probes = Vec::new();
        let small = PutPayload::from_static(b"release-server");
        let object = part_of(&probe, "object");

        let put = self.objects.put(&object, small);
        push(&mut probes, "write", async { Ok(format!("ETag {}", put.await?.e_tag.unwrap_or_default())) })
            .await;
        push(&mut probes, "read", async {
            let bytes = self.objects.get(&object).await?.bytes().await?;
            verdict(bytes == "release-server", "what was written came back", "other bytes came back")
        })
        .await;
        push(&mut probes, "read a range", async {
            let bytes = self.objects.get_range(&object, 8..14).await?;
            verdict(bytes == "server", "6 bytes", "the range is not honoured")
        })
        .await;
        push(&mut probes, "list", async {
            let found = self.objects.list_with_delimiter(Some(&probe)).await?.objects;
            verdict(
                found.iter().any(|found| found.location == object),
                "it is listed",
                "what was written is not listed",
            )
        })
        .await;
        if let Engine::Bucket(removals) = &self.engine {
            push(&mut probes, "create only once", self.try_create_twice(&part_of(&probe, "twice"))).await;
            push(&mut probes, "one winner among racing creators", self.try_race(&part_of(&probe, "race")))
                .await;
            push(&mut probes, "complete only once", self.try_completion(&object)).await;
            push(&mut probes, "replace only what was read", self.try_replace(&object)).await;
            push(&mut probes, "signed links", try_presign(removals, &object)).await;
            push(&mut probes, "clock", self.try_clock(removals, &probe)).await;
        }
        push(&mut probes, "delete", async {
            self.objects.delete(&object).await?;
            match self.objects.head(&object).await {
                Err(Error::NotFound { .. }) => Ok("it is gone".into()),
                Err(error) => Err(error),
                Ok(_) => Err(broken("it is still there")),
            }
        })
        .await;
        self.clear_probe(&probe).await;
        probes
    }

    /// `Ok(Err(…))`: a condition is not kept.
    async fn try_conditions(&self, removals: &Removals, probe: &Path) -> Result<Result<(), String>, Error> {
        let object = part_of(probe, "twice");
        let kept = async {
            self.try_create_twice(&object).await?;
            self.try_race(&part_of(probe, "race")).await?;
            self.try_completion(&object).await?;
            self.try_replace(&object).await?;
            self.try_clock(removals, probe).await
        };
        match kept.await {
            Ok(_) => Ok(Ok(())),
            Err(Error::NotSupported { source }) => Ok(Err(source.to_string())),
            Err(error) => Err(error),
        }
    }

    async fn try_create_twice(&self, object: &Path) -> Result<String, Error> {
        let create =
            || self.objects.put_opts(object, PutPayload::from_static(b"probe"), PutMode::Create.into());
        create().await?;
        match create().await {
            Err(Error::AlreadyExists { .. }) => Ok("the second creation was refused".into()),
            Ok(_) => Err(broken("an object was created twice")),
            Err(error) => Err(error),
        }
    }

    /// A check that looks first and writes then passes the test above, and fails this one.
    async fn try_race(&self, object: &Path) -> Result<String, Error> {
        let racers = (0..RACERS).map(|racer| {
            let payload = PutPayload::from(format!("racer {racer}"));
            self.objects.put_opts(object, payload, PutMode::Create.into())
        });
        let results = join_all(racers).await;
        let winners = results.iter().filter(|result| result.is_ok()).count();
        verdict(
            winners == 1,
            "one of eight won",
            &format!("{winners} of {RACERS} creators of one object won"),
        )
    }

    /// Expects that `object` exists.
    async fn try_completion(&self, object: &Path) -> Result<String, Error> {
        let mut options = PutMultipartOptions::default();
        options.extensions.insert(PutMode::Create);
        let mut upload = self.objects.put_multipart_opts(object, options).await?;
        upload.put_part(PutPayload::from_static(b"probe")).await?;
        let completed = upload.complete().await;
        match completed {
            Err(Error::AlreadyExists { .. }) => {
                upload.abort().await?;
                Ok("the completion over an object was refused".into())
            }
            Ok(_) => Err(broken("an upload in parts replaced an object that it must not replace")),
            Err(error) => Err(error),
        }
    }

    /// Expects that `object` exists.
    async fn try_replace(&self, object: &Path) -> Result<String, Error> {
        let replace = |etag: Option<String>| {
            let mode = PutMode::Update(UpdateVersion { e_tag: etag, version: None });
            self.objects.put_opts(object, PutPayload::from_static(b"replaced"), mode.into())
        };
        let etag = self.objects.head(object).await?.e_tag;
        match replace(Some("\"00000000000000000000000000000000\"".into())).await {
            Err(Error::Precondition { .. }) => {}
            Ok(_) => return Err(broken("an object was replaced that was not the expected one")),
            Err(error) => return Err(error),
        }
        replace(etag).await.map(|_| "only with the right ETag".into())
    }

    async fn try_clock(&self, removals: &Removals, probe: &Path) -> Result<String, Error> {
        let object = part_of(probe, "clock");
        self.objects.put(&object, PutPayload::from_static(b"clock")).await?;
        let written = self.objects.list_with_delimiter(Some(probe)).await?.objects;
        let written = written.iter().find(|found| found.location == object);
        removals.set_clock(written.map_or_else(Utc::now, |found| found.last_modified));
        let ahead = removals.clock_ms();
        verdict(
            ahead.abs() < SKEW_LIMIT_MS,
            &format!("the store's is {ahead} ms ahead"),
            &format!("the store's is {ahead} ms ahead of this machine's: set both by NTP"),
        )
    }

    async fn clear_probe(&self, probe: &Path) {
        for name in ["object", "twice", "race", "clock"] {
            // What stays is a few bytes in a folder that nothing reads.
            let _ = self.objects.delete(&part_of(probe, name)).await;
        }
    }

    /// Checks that the bucket is there, and refuses one that a newer server has laid out otherwise, or where a file
    /// hides what is below it. Writes nothing; whether the layout has its name there.
    pub(super) async fn look_at_bucket(&self, bucket: &str) -> anyhow::Result<bool> {
        if let Engine::Bucket(removals) = &self.engine {
            removals.bucket().check().await.map_err(|error| explain(bucket, &error))?;
        }
        for ours in [super::REPOS, super::CONTROL] {
            match self.objects.head(&super::key_of(ours)).await {
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(explain(bucket, &error)),
                Ok(_) => bail!(
                    "the bucket `{bucket}` has an object named `{ours}`, which hides everything below that name from \
                     listings: rename or remove it"
                ),
            }
        }
        let found = self.objects.list_with_delimiter(Some(&super::key_of(super::CONTROL))).await;
        let found = found.map_err(|error| explain(bucket, &error))?.objects;
        let versions = found.iter().filter_map(|found| super::layout_version(found.location.filename()?));
        match versions.max() {
            Some(newer) if newer > LAYOUT => {
                bail!(
                    "the bucket `{bucket}` has layout {newer}, this server knows {LAYOUT}: run a newer one on it"
                )
            }
            found => Ok(found.is_some()),
        }
    }
}

async fn push(
    probes: &mut Vec<Probe>,
    what: &'static str,
    trial: impl Future<Output = Result<String, Error>>,
) {
    let began = Instant::now();
    let outcome = trial.await.map_err(|error| match error {
        Error::NotSupported { source } => source.to_string(),
        error => explain("the bucket", &error).to_string(),
    });
    probes.push(Probe { what, outcome, took: began.elapsed() });
}

/// Fetches an object by a signed link, without credentials.
async fn try_presign(removals: &Removals, object: &Path) -> Result<String, Error> {
    let full = removals.full(object);
    let link = removals.bucket().client().signed_url(Method::GET, &full, Duration::from_mins(1)).await?;
    let fetched = async { reqwest::get(link).await?.error_for_status()?.bytes().await }.await;
    match fetched {
        Ok(bytes) => verdict(!bytes.is_empty(), "reachable from here", "an empty answer"),
        Err(error) => Err(broken(&format!("a signed link cannot be fetched: {}", error.without_url()))),
    }
}

fn part_of(probe: &Path, name: &str) -> Path {
    probe.parts().chain(Path::from(name).parts()).collect()
}

fn verdict(good: bool, seen: &str, wrong: &str) -> Result<String, Error> {
    if good { Ok(seen.to_owned()) } else { Err(broken(wrong)) }
}

/// A promise that the store does not keep.
fn broken(what: &str) -> Error {
    Error::NotSupported { source: what.into() }
}

/// What a store's refusal means, and what to do: one sentence.
pub(super) fn explain(bucket: &str, error: &Error) -> anyhow::Error {
    let text = error.to_string();
    let has = |code: &str| text.contains(code);
    let advice = match transport_error(error) {
        Some(HttpErrorKind::Connect) => {
            "the store cannot be reached: check `AWS_ENDPOINT_URL` (host, port, http or https) and that it runs"
        }
        Some(HttpErrorKind::Timeout) => {
            "the store does not answer in time: check that it runs, and the network between"
        }
        _ if has("NoSuchBucket") => "there is no such bucket: make it, or correct `STORAGE_URL`",
        _ if has("InvalidAccessKeyId") => "the store does not know this `AWS_ACCESS_KEY_ID`",
        _ if has("SignatureDoesNotMatch") => "the `AWS_SECRET_ACCESS_KEY` is not the one of this key id",
        _ if has("RequestTimeTooSkewed") => {
            "the clocks of this machine and the store differ too much: set both by NTP"
        }
        _ if has("AuthorizationHeaderMalformed") || has("the region") => {
            "the region is another: set `AWS_REGION` as the store says below"
        }
        _ if has("AccessDenied") || matches!(error, Error::PermissionDenied { .. }) => {
            "this key may not do that: it needs s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject, \
             s3:DeleteObject and s3:AbortMultipartUpload on its objects"
        }
        _ if has("S3 API Requests must be made to API port") => {
            "this is the console's port: use that of the S3 API"
        }
        _ if has("builder error") || has("URL scheme is not allowed") => {
            "the endpoint is plain http: set `AWS_ALLOW_HTTP=true` if that is meant"
        }
        _ if has("169.254.169.254") || has("InstanceCredentials") || has("metadata") => {
            "no credentials were found: set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or give this machine a role"
        }
        _ => "the store refused",
    };
    // The store's own words, without those of the client around them.
    let answer = text.find("Server returned").map_or(text.as_str(), |start| &text[start..]);
    anyhow!(answer.to_owned()).context(format!("the bucket `{bucket}` cannot be used: {advice}"))
}
