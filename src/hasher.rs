//! Finds out the digest of packages that have no marker: copied in by hand, or left by a crash between two writes.
//!
//! One package at a time, in the background. Only what is at rest is hashed: the file must not have been written
//! for `AT_REST`, and its ETag must be the same before and after. Several processes may hash the same package;
//! they write the same marker. What fails is tried again, ever less often.

use std::{collections::HashMap, time::Duration};

use chrono::Utc;
use futures_util::TryStreamExt;
use object_store::GetOptions;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    digest::{Digest, Hasher},
    error::{Error, Result},
    name::PackageName,
    packages::{Package, Packages},
};

/// How long a file must not have been written before it is hashed: a copy under way is written all the time.
const AT_REST: Duration = Duration::from_secs(2);

/// How long to wait after a round that left something unhashed.
const PAUSE: Duration = Duration::from_secs(5);

/// How long a package that failed is left alone: twice as long each time, up to the longest. A store that is out of
/// order for a moment keeps no digest back for long, and a file that nobody may read costs one look an hour.
const FIRST_WAIT: Duration = Duration::from_mins(1);
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// Packages whose digest could not be found, as the last listing had them.
type Failures = HashMap<PackageName, Failure>;

struct Failure {
    /// Of the bytes that failed; others under the name are another package.
    etag: String,
    /// When it is tried again.
    due: Instant,
    /// How long that was put off.
    wait: Duration,
}

/// Hashes whatever listings find without a digest, for ever.
pub async fn run(packages: Packages) {
    let mut failures = Failures::new();
    loop {
        let again = match round(&packages, &mut failures).await {
            Ok(again) => again,
            Err(error) => {
                tracing::warn!(event = "hash", error = error.with_causes(), "cannot list");
                true
            }
        };
        match failures.values().map(|failure| failure.due).min() {
            _ if again => sleep(PAUSE).await,
            Some(due) => {
                tokio::select! {
                    () = sleep_until(due) => {}
                    () = packages.unhashed() => {}
                }
            }
            None => packages.unhashed().await,
        }
    }
}

/// Hashes what a fresh listing finds, but for what failed and is not due yet; whether something is left that may succeed
/// soon.
async fn round(packages: &Packages, failures: &mut Failures) -> Result<bool> {
    let listing = packages.fresh().await?;
    // What is gone, was changed, or has its digest by now is not to be remembered for ever.
    failures.retain(|name, failure| {
        let package = listing.find(name);
        package.is_some_and(|package| package.sha256.is_none() && package.etag == failure.etag)
    });
    let mut again = false;
    for package in listing.all().iter().filter(|package| package.sha256.is_none()) {
        if failures.get(&package.name).is_some_and(|failure| failure.due > Instant::now()) {
            continue;
        }
        // One of the future was dated by hand, or by a clock that is ahead: who writes it now would date it now.
        if (Utc::now() - package.modified).to_std().is_ok_and(|still| still < AT_REST) {
            again = true;
            continue;
        }
        let found = match hash(packages, package).await {
            Ok(sha256) => packages.put_digest(&listing, package, sha256).await.map(|()| sha256),
            Err(error) => Err(error),
        };
        match found {
            Ok(sha256) => {
                failures.remove(&package.name);
                tracing::info!(
                    event = "hash",
                    "package.name" = %package.name,
                    size_bytes = package.size,
                    sha256 = %sha256,
                    "found the digest of `{}`",
                    package.name
                );
            }
            // Replaced or removed meanwhile: the next listing tells.
            Err(Error::Changed(_) | Error::NotFound(_)) => {
                failures.remove(&package.name);
                again = true;
            }
            Err(error) => {
                let before = failures.get(&package.name).map(|failure| failure.wait);
                // Once: that it fails still is nothing new.
                if before.is_none() {
                    let error = error.with_causes();
                    tracing::warn!(
                        event = "hash",
                        "package.name" = %package.name,
                        error,
                        "cannot find the digest of `{}`; it is tried again",
                        package.name
                    );
                }
                let wait = before.map_or(FIRST_WAIT, |before| (before * 2).min(LONGEST_WAIT));
                let failure = Failure { etag: package.etag.clone(), due: Instant::now() + wait, wait };
                failures.insert(package.name.clone(), failure);
            }
        }
    }
    Ok(again)
}

async fn hash(packages: &Packages, package: &Package) -> Result<Digest> {
    let storage = packages.storage();
    let options = GetOptions::new().with_if_match(Some(package.etag.clone()));
    let mut blocks = storage.open(&package.name, options).await?.into_stream();
    let mut hasher = Hasher::default();
    let broken = |error| Error::Unavailable(anyhow::Error::new(error));
    while let Some(block) = blocks.try_next().await.map_err(broken)? {
        let hashed = tokio::task::spawn_blocking(move || {
            hasher.update(&block);
            hasher
        });
        hasher = hashed.await.map_err(|error| Error::Internal(error.into()))?;
    }
    let after = storage.find(&package.name).await?.e_tag;
    if after.as_ref() == Some(&package.etag) {
        Ok(hasher.finish())
    } else {
        Err(Error::Changed(package.name.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fmt, io,
        path::Path as FilePath,
        sync::{
            Arc, Mutex,
            atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        },
    };

    use async_trait::async_trait;
    use chrono::DateTime;
    use futures_util::stream::BoxStream;
    use object_store::{
        CopyOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
        PutOptions, PutPayload, PutResult, path::Path,
    };

    use super::*;
    use crate::{config, storage::Storage};

    /// A store whose objects were written long ago, and which gives no bytes of them while it is broken.
    #[derive(Debug)]
    struct Flaky {
        objects: Arc<dyn ObjectStore>,
        faults: Faults,
    }

    #[derive(Debug, Clone, Default)]
    struct Faults {
        broken: Arc<AtomicBool>,
        /// How often bytes were asked for.
        reads: Arc<AtomicUsize>,
    }

    #[async_trait]
    impl ObjectStore for Flaky {
        async fn put_opts(
            &self,
            location: &Path,
            payload: PutPayload,
            opts: PutOptions,
        ) -> object_store::Result<PutResult> {
            self.objects.put_opts(location, payload, opts).await
        }

        async fn put_multipart_opts(
            &self,
            location: &Path,
            opts: PutMultipartOptions,
        ) -> object_store::Result<Box<dyn MultipartUpload>> {
            self.objects.put_multipart_opts(location, opts).await
        }

        async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
            if !options.head {
                self.faults.reads.fetch_add(1, SeqCst);
                if self.faults.broken.load(SeqCst) {
                    return Err(object_store::Error::Generic { store: "Flaky", source: "scripted".into() });
                }
            }
            self.objects.get_opts(location, options).await
        }

        fn delete_stream(
            &self,
            locations: BoxStream<'static, object_store::Result<Path>>,
        ) -> BoxStream<'static, object_store::Result<Path>> {
            self.objects.delete_stream(locations)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
            self.objects.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
            let mut found = self.objects.list_with_delimiter(prefix).await?;
            for object in &mut found.objects {
                object.last_modified = DateTime::<Utc>::UNIX_EPOCH;
            }
            Ok(found)
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
            self.objects.copy_opts(from, to, options).await
        }
    }

    impl fmt::Display for Flaky {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("flaky")
        }
    }

    /// What was logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn name() -> PackageName {
        PackageName::for_upload("app.zip").unwrap()
    }

    /// A package that was copied in by hand, in a store that is broken.
    async fn broken() -> (Packages, Faults) {
        let config = config::load_from(std::iter::empty(), FilePath::new("/nonexistent")).unwrap().config;
        let faults = Faults::default();
        let storage =
            Storage::memory(64 << 20).behind(|objects| Arc::new(Flaky { objects, faults: faults.clone() }));
        let packages = Packages::new(storage, &config);
        copy_in(&packages, "abc").await;
        faults.broken.store(true, SeqCst);
        (packages, faults)
    }

    async fn copy_in(packages: &Packages, bytes: &'static str) {
        let mut upload = packages.storage().upload(&name(), true, None);
        upload.write(bytes.into()).await.unwrap();
        upload.commit().await.unwrap();
    }

    async fn digest(packages: &Packages) -> Option<Digest> {
        packages.fresh().await.unwrap().find(&name()).unwrap().sha256
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_again_ever_less_often_and_said_once() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let (packages, faults) = broken().await;
        let begun = Instant::now();
        let hashing = tokio::spawn(run(packages.clone()));
        let tries = [(0, 1), (1, 2), (3, 3), (7, 4), (15, 5), (31, 6), (63, 7), (123, 8), (183, 9)];
        for (minute, reads) in tries {
            for (seconds, reads) in [(-10, reads - 1), (10, reads)] {
                let after = Duration::from_mins(minute).as_secs().saturating_add_signed(seconds);
                sleep_until(begun + Duration::from_secs(after)).await;
                if minute > 0 || seconds > 0 {
                    assert_eq!(faults.reads.load(SeqCst), reads, "{minute} minutes and {seconds} seconds");
                }
            }
        }
        assert_eq!(digest(&packages).await, None);

        faults.broken.store(false, SeqCst);
        sleep_until(begun + Duration::from_mins(244)).await;
        assert_eq!(digest(&packages).await, Some(Digest::of(b"abc")));
        assert_eq!(faults.reads.load(SeqCst), 10);
        hashing.abort();
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(log.matches("cannot find the digest of `app.zip`").count(), 1, "{log}");
        assert_eq!(log.matches("found the digest of `app.zip`").count(), 1, "{log}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_changed_after_it_failed_is_looked_at_at_once() {
        let (packages, faults) = broken().await;
        let hashing = tokio::spawn(run(packages.clone()));
        sleep(Duration::from_secs(1)).await;
        assert_eq!(faults.reads.load(SeqCst), 1);
        faults.broken.store(false, SeqCst);
        copy_in(&packages, "abcd").await;
        assert_eq!(digest(&packages).await, None);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(digest(&packages).await, Some(Digest::of(b"abcd")));
        hashing.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_is_forgotten_once_it_is_gone_or_changed() {
        let (packages, faults) = broken().await;
        let mut failures = Failures::new();
        for (bytes, reads) in [("abc", 1), ("abcd", 2), ("abcde", 3)] {
            copy_in(&packages, bytes).await;
            for _ in 0..3 {
                assert!(!round(&packages, &mut failures).await.unwrap());
                assert_eq!((faults.reads.load(SeqCst), failures.len()), (reads, 1), "{bytes}");
                assert_eq!(failures[&name()].wait, FIRST_WAIT, "{bytes}");
            }
        }
        let etag = failures[&name()].etag.clone();
        packages.storage().remove(&name(), &etag, None).await.unwrap();
        assert!(!round(&packages, &mut failures).await.unwrap());
        assert!(failures.is_empty());
    }
}
