//! The packages: list, find, upload, open, delete.
//!
//! - A listing is at least as new as the request for it, and costs the store one look at a time.
//! - What retention will remove is out of the listing at once.
//! - An upload is visible whole or not at all, and its marker is durable before it is acknowledged.
//! - A removal spares what changed since it was judged.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, SubsecRound, Utc};
use futures_util::{StreamExt, future, stream};
use object_store::{GetOptions, ObjectMeta};
use quick_cache::sync::Cache;
use tokio::{sync::Notify, task::AbortHandle, time::Instant};

use crate::{
    audit::{self, Action, Actor},
    coalesce::Coalesced,
    config::Config,
    detached::to_its_end,
    digest::Digest,
    error::{Error, Result},
    marker::{Marker, Source, name_hash},
    metrics::{self, Amount, Metrics, Sample},
    name::PackageName,
    rendered::Rendered,
    retention::{Candidate, Decision, Origin, Policy, decide},
    storage::{Content, Found, Quiet, Storage, Upload},
};

/// How long a listing is taken to hold because the store says that nothing changed. Not for ever: what a store cannot see
/// (see `storage/watch.rs`) shows after this, or after [`PROVED_TIMES`] as long as a listing takes.
const PROVED: Duration = Duration::from_secs(1);
const PROVED_TIMES: u32 = 20;

/// From how many packages on a listing of a bucket is to be proved to hold rather than repeated.
const MANY: usize = 500;

/// How long a digest that the last listing did not know is taken to be unknown still.
const UNKNOWN_DIGEST: Duration = Duration::from_secs(1);

/// How long after its last write a package without a marker may be an upload that is about to get one, so that the
/// last listing is no answer. (AWS S3 dates an object by the begin of its upload: after one that took longer,
/// [`UNKNOWN_DIGEST`] is how long it may be served without its digest.)
const MARKER_DUE: chrono::Duration = chrono::Duration::minutes(1);

/// The file that the Python server wrote beside each upload: 64 hex digits, no newline.
const SIDECAR_SUFFIX: &str = ".sha256";
const SIDECAR_BYTES: u64 = 64;

/// A package, as a listing or an upload found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Under which it is downloaded.
    pub name: PackageName,
    /// In bytes.
    pub size: u64,
    /// Strong, with its quotes.
    pub etag: String,
    /// When its bytes were last written.
    pub modified: DateTime<Utc>,
    /// When it was published; for what was copied in by hand, when it was last modified.
    pub created_at: DateTime<Utc>,
    /// `None` until the background hasher has seen it.
    pub sha256: Option<Digest>,
    /// `None` while there is no marker, and no sidecar either.
    pub source: Option<Source>,
    /// Whether it has a marker.
    pub marked: bool,
}

impl Package {
    /// The marker it was listed with; none for a package of the Python server, whose sidecar took its place.
    fn marker(&self) -> Option<Marker> {
        if !self.marked {
            return None;
        }
        let (name, sha256, source) = (self.name.as_str(), self.sha256?, self.source?);
        Some(Marker::new(name, &self.etag, self.size, sha256, source, self.created_at))
    }
}

impl From<&Package> for Candidate {
    fn from(package: &Package) -> Self {
        Self {
            name: package.name.to_string(),
            size: package.size,
            time: package.created_at,
            origin: match package.source {
                Some(Source::Published) => Origin::Published,
                Some(Source::Found) => Origin::Found,
                None => Origin::Unmarked,
            },
        }
    }
}

/// All packages at one moment.
#[derive(Debug)]
pub struct Listing {
    /// Newest first, then by name; those beyond what retention keeps too.
    all: Vec<Package>,
    /// For each of `all`: whether retention lets it be seen.
    listed: Vec<bool>,
    by_name: HashMap<PackageName, usize>,
    /// The Python server's digest file of a package.
    sidecars: HashMap<PackageName, ObjectMeta>,
    /// The markers' names.
    markers: Vec<String>,
    /// Whether a package that is there may be missing.
    whole: bool,
    /// The latest time in any marker.
    newest: Option<DateTime<Utc>>,
    /// From when on retention may judge otherwise, though nothing in the store changed.
    expires: Option<DateTime<Utc>>,
    /// Answers made from this listing.
    pub(crate) rendered: Rendered,
}

impl Listing {
    /// The packages that are listed, newest first.
    pub fn packages(&self) -> impl Iterator<Item = &Package> {
        self.all.iter().zip(&self.listed).filter(|(_, listed)| **listed).map(|(package, _)| package)
    }

    /// Every package, newest first; those that retention hides until they are removed too.
    pub fn all(&self) -> &[Package] {
        &self.all
    }

    /// Every package, as retention judges it, in the same order.
    pub fn candidates(&self) -> Vec<Candidate> {
        self.all.iter().map(Candidate::from).collect()
    }

    /// The package of this name, listed or not.
    pub fn find(&self, name: &PackageName) -> Option<&Package> {
        self.by_name.get(name).map(|&index| &self.all[index])
    }

    /// Markers that describe nothing any more: no package has the name, or the package has a marker of its own.
    ///
    /// None of a listing that is not whole: it cannot tell what is gone from what it could not see.
    pub fn stale_markers(&self) -> Vec<&str> {
        if !self.whole {
            return Vec::new();
        }
        let live: HashMap<String, &Package> =
            self.all.iter().map(|package| (name_hash(package.name.as_str()), package)).collect();
        let stale = |name: &&String| match Marker::parse(name) {
            // Not ours to judge.
            None => false,
            Some(marker) => match live.get(&marker.name_hash) {
                None => true,
                // A package that waits for the hasher may get its publish time from an older marker.
                Some(package) => package.source.is_some() && !marker.describes(&package.etag, package.size),
            },
        };
        self.markers.iter().filter(stale).map(String::as_str).collect()
    }

    /// Whether retention judges at this time as it did, if nothing in the store changed.
    fn holds_at(&self, now: DateTime<Utc>) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    /// When a package with these bytes was last published under this name, by any marker.
    fn published(&self, name: &PackageName, size: u64, sha256: Digest) -> Option<DateTime<Utc>> {
        let hash = name_hash(name.as_str());
        self.markers
            .iter()
            .filter(|marker| marker.starts_with(&hash))
            .filter_map(|marker| Marker::parse(marker))
            .filter(|marker| {
                marker.source == Source::Published && marker.size == size && marker.sha256 == sha256
            })
            .map(|marker| marker.time)
            .max()
    }
}

/// The packages of one store.
#[derive(Clone)]
pub struct Packages(Arc<Inner>);

struct Inner {
    storage: Storage,
    policy: Policy,
    read_only: bool,
    max_upload_bytes: u64,
    listing_max_age: Duration,
    by_hand_max_age: Duration,
    listings: Arc<Coalesced<Listing>>,
    last: Mutex<Option<Last>>,
    renewal: Mutex<Option<AbortHandle>>,
    proofs: AtomicU64,
    sidecars: Cache<(PackageName, String), Option<Digest>>,
    /// Looks at packages of a bucket; a name that is not among them gets new ones.
    looks: Cache<PackageName, Arc<Coalesced<Option<ObjectMeta>>>>,
    changed: Notify,
    unhashed: Notify,
    metrics: Metrics,
}

/// What the last flight found, and what was made of it.
struct Last {
    /// When a look at the store was begun that found it like this.
    begun: Instant,
    /// How long the listing took.
    took: Duration,
    /// When a listing was.
    listed: Instant,
    /// By what such a look can be less than a listing.
    quiet: Option<Quiet>,
    found: Found,
    listing: Arc<Listing>,
}

impl Packages {
    /// The packages in `storage`, kept as `config` says.
    pub fn new(storage: Storage, config: &Config) -> Self {
        Self(Arc::new_cyclic(|inner: &std::sync::Weak<Inner>| {
            let inner = inner.clone();
            let listings = Coalesced::new(move || {
                let inner = inner.clone();
                Box::pin(async move {
                    match inner.upgrade() {
                        Some(inner) => inner.fly().await.map_err(Arc::new),
                        None => Err(Arc::new(Error::Internal(anyhow::anyhow!("the server is going down")))),
                    }
                })
            });
            Inner {
                metrics: storage.metrics(),
                storage: storage.keeping(&config.cache),
                policy: Policy::from(config),
                read_only: config.read_only,
                max_upload_bytes: config.max_upload_bytes,
                listing_max_age: config.listing_max_age,
                by_hand_max_age: config.listing_by_hand_max_age,
                listings,
                last: Mutex::new(None),
                renewal: Mutex::new(None),
                proofs: AtomicU64::new(0),
                sidecars: Cache::new(16_384),
                looks: Cache::new(1024),
                changed: Notify::new(),
                unhashed: Notify::new(),
            }
        }))
    }

    /// Where they count what happens: where their store does.
    pub fn metrics(&self) -> Metrics {
        self.0.metrics
    }

    /// Brings the metrics up to date that are not counted as things happen. Costs the store nothing: packages are
    /// counted as the last listing saw them.
    pub fn report(&self) {
        let mut sample = Sample {
            listing_requests: self.0.listings.asked(),
            listing_flights: self.0.listings.flights(),
            listing_proofs: self.proofs(),
            cache_bytes: self.0.storage.kept_bytes(),
            ..Sample::default()
        };
        if let Some(listing) = self.0.recent(Duration::MAX) {
            for (package, listed) in listing.all.iter().zip(&listing.listed) {
                let Amount { packages, bytes } =
                    if *listed { &mut sample.listed } else { &mut sample.hidden };
                *packages += 1;
                *bytes += package.size;
                sample.without_digest += usize::from(package.sha256.is_none());
            }
        }
        self.0.metrics.sampled(&sample);
    }

    /// The store behind.
    pub fn storage(&self) -> &Storage {
        &self.0.storage
    }

    /// What retention keeps.
    pub fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// The largest upload taken, in bytes.
    pub fn max_upload_bytes(&self) -> u64 {
        self.0.max_upload_bytes
    }

    /// All packages, as they are now or later (but see `listing_max_age`).
    pub async fn list(&self) -> Result<Arc<Listing>> {
        if let Some(listing) = self.0.recent(self.0.listing_max_age) {
            return Ok(listing);
        }
        self.fresh().await
    }

    /// How many times the store was listed for callers.
    pub fn listings(&self) -> u64 {
        self.0.listings.flights()
    }

    /// How many of these looks were no listing: nobody had written since the last one.
    pub fn proofs(&self) -> u64 {
        self.0.proofs.load(Ordering::Relaxed)
    }

    /// Begins an upload of `length` bytes, if that is known. Refused at once if the name is taken and replacing was not asked for.
    pub async fn upload(&self, name: PackageName, overwrite: bool, length: Option<u64>) -> Result<Receiving> {
        self.changeable()?;
        let mut receipt = self.0.metrics.receiving();
        if !overwrite {
            let free = match self.0.storage.find(&name).await {
                // Who sends it again may take this for a success.
                Ok(_) => self.0.storage.settle(&name).await.and(Err(Error::AlreadyExists(name.to_string()))),
                Err(Error::NotFound(_)) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = free {
                receipt.end((&error).into(), 0);
                return Err(error);
            }
        }
        let upload = self.0.storage.upload(&name, overwrite, length);
        let incoming = Incoming { packages: self.clone(), name, overwrite, upload };
        Ok(Receiving { incoming, receipt })
    }

    /// A package, ready to be read; `Error::Changed` if it was replaced while its digest was looked for.
    pub async fn open(&self, name: &PackageName) -> Result<Opened> {
        if let Some(package) = self.0.proved().as_ref().and_then(|listing| listing.find(name)) {
            return Ok(Opened {
                inner: Arc::clone(&self.0),
                name: name.clone(),
                size: package.size,
                etag: package.etag.clone(),
                modified: package.modified,
                sha256: package.sha256,
            });
        }
        self.prove();
        let ObjectMeta { size, e_tag, last_modified, .. } = self.0.find(name).await?;
        let etag = e_tag.unwrap_or_default();
        let sha256 = self.digest(name, &etag).await;
        // Gone from the listing, not unhashed: its bytes may still be in the cache, but no longer its digest.
        if sha256.is_none() && self.0.storage.find(name).await?.e_tag.as_ref() != Some(&etag) {
            return Err(Error::Changed(name.to_string()));
        }
        Ok(Opened {
            inner: Arc::clone(&self.0),
            name: name.clone(),
            size,
            etag,
            modified: last_modified,
            sha256,
        })
    }

    /// Deletes a package; `Error::Changed` if it was replaced meanwhile.
    ///
    /// Runs to its end even if the caller goes away.
    pub async fn delete(&self, name: PackageName, actor: Actor) -> Result<()> {
        self.changeable()?;
        let packages = self.clone();
        to_its_end(async move {
            // Never a listing from before the request: it could lack what the caller has just uploaded.
            let listing = packages.fresh().await?;
            let Some(package) = listing.find(&name) else {
                let storage = &packages.0.storage;
                if !listing.whole {
                    storage.find(&name).await?;
                    let error =
                        anyhow::anyhow!("the storage would not show all of its packages, nor `{name}`");
                    return Err(Error::Unavailable(error));
                }
                storage.settle(&name).await?;
                return Err(Error::NotFound(name.to_string()));
            };
            let removed = packages.remove(&listing, package).await;
            match &removed {
                Ok(()) => audit::done(&actor, Action::Delete, package, None, None),
                Err(error) => audit::failed(&actor, Action::Delete, name.as_str(), error),
            }
            removed?;
            packages.0.changed.notify_one();
            Ok(())
        })
        .await
    }

    /// Refuses what would change the store while the operator does not want that.
    pub(crate) fn changeable(&self) -> Result<()> {
        if self.0.read_only { Err(Error::ReadOnly) } else { Ok(()) }
    }

    /// Removes a package that a listing judged, if it is still the same.
    pub(crate) async fn remove(&self, listing: &Listing, package: &Package) -> Result<()> {
        self.remove_sidecar(listing, &package.name).await?;
        self.0.storage.remove(&package.name, &package.etag, package.marker().as_ref()).await
    }

    /// Waits until something was uploaded or deleted through this process.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Waits until a listing has found packages without a digest.
    pub(crate) async fn unhashed(&self) {
        self.0.unhashed.notified().await;
    }

    /// A listing that shows the store as it is after this call began, whatever `listing_max_age` says.
    pub(crate) async fn fresh(&self) -> Result<Arc<Listing>> {
        match self.0.proved() {
            Some(listing) => {
                self.0.listings.spared();
                Ok(listing)
            }
            None => self.0.listings.answer().await,
        }
    }

    /// Remembers the digest of a package that had no marker.
    ///
    /// If an older marker says that these very bytes were published under this name, they still are: a `chown`, a
    /// restored backup or a move to another disk changes the ETag, not the package.
    pub(crate) async fn put_digest(
        &self,
        listing: &Listing,
        package: &Package,
        sha256: Digest,
    ) -> Result<()> {
        let published = listing.published(&package.name, package.size, sha256);
        let source = if published.is_some() { Source::Published } else { Source::Found };
        let time = published.unwrap_or(package.modified).trunc_subsecs(3);
        let marker = Marker::new(package.name.as_str(), &package.etag, package.size, sha256, source, time);
        self.0.storage.put_marker(&marker).await
    }

    /// The digest of a package at an ETag, from the last listing where that knows it.
    async fn digest(&self, name: &PackageName, etag: &str) -> Option<Digest> {
        let same = |listing: &Listing| listing.find(name).filter(|package| package.etag == etag).cloned();
        if let Some(package) = self.0.recent(Duration::MAX).and_then(|listing| same(&listing))
            && package.sha256.is_some()
        {
            return package.sha256;
        }
        let settled = |package: &Package| Utc::now() - package.modified > MARKER_DUE;
        if self.0.recent(UNKNOWN_DIGEST).and_then(|listing| same(&listing)).as_ref().is_some_and(settled) {
            return None;
        }
        // A download goes on without it.
        same(&*self.fresh().await.ok()?)?.sha256
    }

    /// Lists the store, if that lets downloads do without looking at it for a while, and has not been done for a while.
    fn prove(&self) {
        let last = self.0.last();
        let is_old = last.as_ref().is_some_and(|last| !last.is_young());
        if is_old && self.0.storage.generation().is_some() {
            let listings = Arc::clone(&self.0.listings);
            tokio::spawn(async move { listings.answer().await.map(drop) });
        }
    }

    async fn remove_sidecar(&self, listing: &Listing, name: &PackageName) -> Result<()> {
        let Some(sidecar) = listing.sidecars.get(name) else {
            return Ok(());
        };
        let Some(file) = PackageName::existing(sidecar.location.as_ref()) else {
            return Ok(());
        };
        match self.0.storage.remove(&file, sidecar.e_tag.as_deref().unwrap_or_default(), None).await {
            Err(Error::NotFound(_) | Error::Changed(_)) => Ok(()),
            removed => removed,
        }
    }
}

impl Last {
    /// Whether so little time has passed that only a change that the store sees can have made it wrong.
    fn is_young(&self) -> bool {
        self.begun.elapsed() <= PROVED.max(self.took * PROVED_TIMES)
    }

    /// Whether a listing of a bucket is slow.
    fn is_large(&self) -> bool {
        self.found.objects.len() > MANY
    }
}

impl Inner {
    fn last(&self) -> MutexGuard<'_, Option<Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last listing, if it was begun at most `age` ago and still holds.
    fn recent(&self, age: Duration) -> Option<Arc<Listing>> {
        if age.is_zero() {
            return None;
        }
        let last = self.last();
        last.as_ref().filter(|last| last.begun.elapsed() <= age).map(|last| Arc::clone(&last.listing))
    }

    /// The last listing, if the store is known to be still as it shows.
    fn proved(&self) -> Option<Arc<Listing>> {
        let now = self.storage.generation()?;
        let last = self.last();
        let holds = |last: &&Last| {
            last.found.generation == Some(now) && last.is_young() && last.listing.holds_at(Utc::now())
        };
        last.as_ref().filter(holds).map(|last| Arc::clone(&last.listing))
    }

    /// Size, ETag and time of a package, as they are now or later. Many who ask a bucket at once share an answer.
    async fn find(&self, name: &PackageName) -> Result<ObjectMeta> {
        if !self.storage.is_bucket() {
            return self.storage.find(name).await;
        }
        let look = || {
            let (storage, name) = (self.storage.clone(), name.clone());
            Coalesced::new(move || {
                let (storage, name) = (storage.clone(), name.clone());
                Box::pin(async move {
                    match storage.find(&name).await {
                        Ok(found) => Ok(Arc::new(Some(found))),
                        Err(Error::NotFound(_)) => Ok(Arc::default()),
                        Err(error) => Err(Arc::new(error)),
                    }
                })
            })
        };
        let looks = self.looks.get_or_insert_with(name, || Ok::<_, Error>(look()))?;
        let found = looks.answer().await?;
        Option::clone(&found).ok_or_else(|| Error::NotFound(name.to_string()))
    }

    /// Takes no listing made so far for proved: the store does not look as it says.
    fn doubt(&self) {
        if let Some(last) = self.last().as_mut() {
            last.found.generation = None;
        }
    }

    /// Finds out what is in the store, by a look at who is writing if that is enough.
    async fn fly(self: &Arc<Self>) -> Result<Arc<Listing>> {
        let begun = Instant::now();
        let mut quiet = None;
        if let Some(changes) = self.storage.changes().filter(|_| self.has_use_for_changes()) {
            let look = changes.look().await?;
            if let Some(listing) = look.quiet.as_ref().and_then(|quiet| self.still(quiet, begun)) {
                self.proofs.fetch_add(1, Ordering::Relaxed);
                return Ok(listing);
            }
            self.tend(look.absent);
            quiet = look.quiet;
        }
        // What it would find is found here, by somebody who waits for it.
        if let Some(renewal) = self.renewal.lock().unwrap_or_else(PoisonError::into_inner).take() {
            renewal.abort();
        }
        self.look(quiet).await
    }

    /// Whether a listing is slow, or may be.
    fn has_use_for_changes(&self) -> bool {
        !self.by_hand_max_age.is_zero() && self.last().as_ref().is_none_or(Last::is_large)
    }

    /// The last listing, if nobody has written since, and it is not too old to show what was done by hand. When half of
    /// that time is over it is renewed in the background: nobody is to wait for it.
    fn still(self: &Arc<Self>, quiet: &Quiet, begun: Instant) -> Option<Arc<Listing>> {
        let mut last = self.last();
        let last = last.as_mut().filter(|last| last.quiet.as_ref() == Some(quiet))?;
        let age = last.listed.elapsed();
        if age > self.by_hand_max_age || !last.listing.holds_at(Utc::now()) {
            return None;
        }
        last.begun = begun;
        if age > self.by_hand_max_age / 2 {
            let mut renewal = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
            if renewal.as_ref().is_none_or(AbortHandle::is_finished) {
                let (inner, quiet) = (Arc::clone(self), quiet.clone());
                let renewed = tokio::spawn(async move {
                    if let Err(error) = inner.look(Some(quiet)).await {
                        tracing::debug!(event = "listing", error = error.with_causes(), "not renewed");
                    }
                });
                *renewal = Some(renewed.abort_handle());
            }
        }
        Some(Arc::clone(&last.listing))
    }

    /// Keeps the record of changes fit to prove something: nobody waits for it.
    fn tend(self: &Arc<Self>, absent: bool) {
        let many = self.last().as_ref().is_some_and(Last::is_large);
        let Some(changes) = self.storage.changes().filter(|_| many && !self.read_only).cloned() else {
            return;
        };
        tokio::spawn(async move {
            let tended = if absent { changes.keep().await } else { changes.tidy().await };
            if let Err(error) = tended {
                tracing::debug!(event = "listing", error = error.with_causes(), "listings are not proved");
            }
        });
    }

    /// Lists the store; if nothing changed, the last listing and every answer made from it are kept. `quiet` is what the
    /// look before this said.
    async fn look(&self, quiet: Option<Quiet>) -> Result<Arc<Listing>> {
        let (begun, now) = (Instant::now(), Utc::now());
        let found = self.storage.list().await?;
        let took = begun.elapsed();
        let unannounced = {
            let mut last = self.last();
            match last.as_mut() {
                // Another one was faster.
                Some(last) if last.listed > begun => return Ok(Arc::clone(&last.listing)),
                Some(last) if last.found.shows_the_same(&found) && last.listing.holds_at(now) => {
                    (last.begun, last.listed, last.took) = (begun, begun, took);
                    (last.quiet, last.found.generation) = (quiet, found.generation);
                    return Ok(Arc::clone(&last.listing));
                }
                Some(last) => quiet.is_some() && last.quiet == quiet && publishes(&last.found, &found),
                None => false,
            }
        };
        let quiet = quiet.filter(|_| !unannounced);
        if unannounced {
            self.distrust();
        }
        let sidecars = self.read_sidecars(&found).await;
        let listing = Arc::new(assemble(&found, &sidecars, &self.policy, now));
        if listing.all.iter().any(|package| package.sha256.is_none()) {
            self.unhashed.notify_one();
        }
        let mut last = self.last();
        let skipped = found.skipped;
        if skipped > 0 && last.as_ref().is_none_or(|last| last.found.skipped != skipped) {
            tracing::warn!(
                event = "listing",
                skipped,
                "entries of the storage that cannot be packages are left out: links, pipes, unreadable ones, or \
                 names with control characters"
            );
        }
        if last.as_ref().is_none_or(|last| last.listed <= begun) {
            *last = Some(Last { begun, listed: begun, took, quiet, found, listing: Arc::clone(&listing) });
        }
        Ok(listing)
    }

    /// A server writes that announces nothing, or whose clock stood still.
    fn distrust(&self) {
        tracing::warn!(
            event = "listing",
            "a package was published by a server that does not announce it, such as one of an older version; until \
             there is none, what it publishes may be listed late"
        );
        if let Some(changes) = self.storage.changes().filter(|_| !self.read_only).cloned() {
            tokio::spawn(async move {
                if let Err(error) = changes.distrust().await {
                    tracing::warn!(
                        event = "listing",
                        error = error.with_causes(),
                        "it is believed all the same"
                    );
                }
            });
        }
    }

    /// What the files that may be sidecars say.
    async fn read_sidecars(&self, found: &Found) -> HashMap<PackageName, Digest> {
        let candidates: Vec<ObjectMeta> = found
            .objects
            .iter()
            .filter(|object| {
                object.size == SIDECAR_BYTES && object.location.as_ref().ends_with(SIDECAR_SUFFIX)
            })
            .cloned()
            .collect();
        let read = stream::iter(candidates).map(|object| self.read_sidecar(object)).buffer_unordered(16);
        read.filter_map(future::ready).collect().await
    }

    /// The digest in a file, if it is one and nothing else; read once for as long as the file does not change.
    async fn read_sidecar(&self, object: ObjectMeta) -> Option<(PackageName, Digest)> {
        let name = PackageName::existing(object.location.as_ref())?;
        let key = (name.clone(), object.e_tag.unwrap_or_default());
        let digest = if let Some(known) = self.sidecars.get(&key) {
            known
        } else {
            let options = GetOptions::new().with_if_match(Some(key.1.clone()));
            // Unreadable or just replaced: no sidecar this time, and nothing remembered.
            let bytes = self.storage.open(&name, options).await.ok()?.bytes().await.ok()?;
            let digest = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok());
            self.sidecars.insert(key, digest);
            digest
        };
        digest.map(|digest| (name, digest))
    }
}

/// Whether something was published in between that is still there.
fn publishes(before: &Found, after: &Found) -> bool {
    let known: HashSet<&str> = before.markers.iter().map(String::as_str).collect();
    let new = after.markers.iter().filter(|marker| !known.contains(marker.as_str()));
    let published =
        |marker: &String| Marker::parse(marker).is_some_and(|marker| marker.source == Source::Published);
    new.into_iter().any(published)
}

/// Makes a listing of what was found, newest first, as `policy` judges it at `now`. Pure.
///
/// `digests`: what the files that may be sidecars say, by the names of those files.
#[expect(clippy::implicit_hasher, reason = "there is one caller, with the usual one")]
pub fn assemble(
    found: &Found,
    digests: &HashMap<PackageName, Digest>,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Listing {
    let mut markers: HashMap<String, Vec<Marker>> = HashMap::new();
    let mut newest = None;
    for marker in found.markers.iter().filter_map(|name| Marker::parse(name)) {
        newest = newest.max(Some(marker.time));
        markers.entry(marker.name_hash.clone()).or_default().push(marker);
    }
    let marker_of = |name: &PackageName, object: &ObjectMeta| {
        let etag = object.e_tag.as_deref().unwrap_or_default();
        let of_name = markers.get(&name_hash(name.as_str()))?.iter();
        let matching = of_name.filter(|marker| marker.describes(etag, object.size));
        matching.max_by_key(|marker| marker.rank())
    };
    let objects: HashMap<PackageName, (&ObjectMeta, Option<&Marker>)> = found
        .objects
        .iter()
        .filter_map(|object| {
            let name = PackageName::existing(object.location.as_ref())?;
            let marker = marker_of(&name, object);
            Some((name, (object, marker)))
        })
        .collect();
    let published = |name: &PackageName| {
        objects
            .get(name)
            .and_then(|(_, marker)| *marker)
            .is_some_and(|marker| marker.source == Source::Published)
    };

    // A sidecar lies beside a package of the Python server; what was uploaded here is never one, and has none.
    let mut sidecars = HashMap::new();
    for file in digests.keys().filter(|file| !published(file)) {
        let sibling = file.as_str().strip_suffix(SIDECAR_SUFFIX).and_then(PackageName::existing);
        if let Some(sibling) = sibling.filter(|sibling| objects.contains_key(sibling) && !published(sibling))
        {
            sidecars.insert(sibling, objects[file].0.clone());
        }
    }
    let is_sidecar = |name: &PackageName| {
        name.as_str()
            .strip_suffix(SIDECAR_SUFFIX)
            .and_then(|sibling| sidecars.get(sibling))
            .is_some_and(|sidecar| sidecar.location.as_ref() == name.as_str())
    };

    let mut all: Vec<Package> = objects
        .iter()
        .filter(|(name, _)| !is_sidecar(name))
        .map(|(name, (object, marker))| {
            let sidecar = sidecars
                .get(name)
                .filter(|sidecar| marker.is_none() && sidecar.last_modified >= object.last_modified)
                .and_then(|sidecar| digests.get(sidecar.location.as_ref()));
            Package {
                name: name.clone(),
                size: object.size,
                etag: object.e_tag.clone().unwrap_or_default(),
                modified: object.last_modified,
                created_at: marker.map_or(object.last_modified, |marker| marker.time),
                sha256: marker.map(|marker| marker.sha256).or(sidecar.copied()),
                source: marker.map(|marker| marker.source).or(sidecar.map(|_| Source::Published)),
                marked: marker.is_some(),
            }
        })
        .collect();
    all.sort_unstable_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.name.cmp(&b.name)));

    let candidates: Vec<Candidate> = all.iter().map(Candidate::from).collect();
    let listed = decide(&candidates, policy, now).iter().map(Decision::listed).collect();
    let expires = policy
        .max_age
        .and_then(|age| chrono::Duration::from_std(age).ok())
        .and_then(|age| all.iter().map(|package| package.created_at + age).filter(|&end| end > now).min());
    Listing {
        by_name: all.iter().enumerate().map(|(index, package)| (package.name.clone(), index)).collect(),
        all,
        listed,
        sidecars,
        markers: found.markers.clone(),
        whole: found.whole,
        newest,
        expires,
        rendered: Default::default(),
    }
}

/// A package being received.
pub struct Receiving {
    incoming: Incoming,
    receipt: metrics::Receipt,
}

impl Receiving {
    /// Takes the next bytes; refuses those past the limit.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let Incoming { packages, upload, .. } = &mut self.incoming;
        let limit = packages.0.max_upload_bytes;
        let written = if upload.size() + bytes.len() as u64 > limit {
            Err(Error::TooLarge(limit))
        } else {
            upload.write(bytes).await
        };
        if let Err(error) = &written {
            self.receipt.end(error.into(), 0);
        }
        written
    }

    /// Publishes what was received, durable and with its marker, if its digest is the `declared` one.
    ///
    /// Runs to its end even if the caller goes away.
    pub async fn commit(self, declared: Option<Digest>, actor: Actor) -> Result<Package> {
        to_its_end(async move {
            let Self { incoming, mut receipt } = self;
            let name = incoming.name.clone();
            let published = incoming.publish(declared).await;
            match &published {
                Ok((package, None)) => {
                    receipt.end(metrics::Upload::Created, package.size);
                    audit::done(&actor, Action::Publish, package, None, None);
                }
                Ok((package, Some(previous))) => {
                    receipt.end(metrics::Upload::Replaced, package.size);
                    audit::done(&actor, Action::Replace, package, previous.sha256, None);
                }
                Err(error) => {
                    receipt.end(error.into(), 0);
                    audit::failed(&actor, Action::Publish, name.as_str(), error);
                }
            }
            Ok(published?.0)
        })
        .await
    }
}

/// The bytes of a package, and what is to become of them.
struct Incoming {
    packages: Packages,
    name: PackageName,
    overwrite: bool,
    upload: Upload,
}

impl Incoming {
    /// The new package, and what had the name before.
    async fn publish(mut self, declared: Option<Digest>) -> Result<(Package, Option<Package>)> {
        let size = self.upload.size();
        if size == 0 {
            return Err(Error::Invalid("the file is empty; send its bytes".into()));
        }
        let sha256 = self.upload.digest().await?;
        if let Some(declared) = declared.filter(|&declared| declared != sha256) {
            let (declared, actual) = (declared.to_string(), sha256.to_string());
            return Err(Error::DigestMismatch { declared, actual });
        }
        let packages = &self.packages;
        let listing = packages.fresh().await?;
        if self.overwrite {
            // First, or a crash would leave the old digest beside the new bytes.
            packages.remove_sidecar(&listing, &self.name).await?;
        }
        let storage = &packages.0.storage;
        let written = match self.upload.commit().await {
            Err(Error::AlreadyExists(what)) => {
                return storage.settle(&self.name).await.and(Err(Error::AlreadyExists(what)));
            }
            written => written?,
        };
        // Later than everything published before, also by a server whose clock is ahead.
        let newest = listing.newest;
        let after_newest = newest.map(|newest| newest + chrono::Duration::milliseconds(1));
        let now = Utc::now().trunc_subsecs(3);
        let time = after_newest.map_or(now, |after| after.max(now));
        let name = self.name.as_str();
        let marker = Marker::new(name, &written.etag, size, sha256, Source::Published, time);
        storage.put_marker(&marker).await?;
        storage.confirm(&written).await?;
        packages.0.changed.notify_one();
        // Without `overwrite` it was gone by the time the name was taken.
        let previous = listing.find(&self.name).filter(|_| self.overwrite).cloned();
        let package = Package {
            name: self.name,
            size,
            etag: written.etag,
            modified: now,
            created_at: time,
            sha256: Some(sha256),
            source: Some(Source::Published),
            marked: true,
        };
        Ok((package, previous))
    }
}

/// A package at one ETag, whose bytes have not been read yet.
pub struct Opened {
    inner: Arc<Inner>,
    name: PackageName,
    /// In bytes.
    pub size: u64,
    /// Strong, with its quotes.
    pub etag: String,
    /// When its bytes were last written.
    pub modified: DateTime<Utc>,
    /// `None` until the background hasher has seen it.
    pub sha256: Option<Digest>,
}

impl Opened {
    /// The name it was opened under.
    pub fn name(&self) -> &PackageName {
        &self.name
    }

    /// The bytes of `range`; `Error::Changed` if the package was replaced since it was opened.
    pub async fn read(&self, range: Range<u64>) -> Result<Content> {
        let read = self.inner.storage.bytes_of(&self.name, &self.etag, self.size, range).await;
        if let Err(Error::Changed(_) | Error::NotFound(_)) = read {
            self.inner.doubt();
        }
        read
    }
}
