//! The packages: list, find, upload, open, delete.
//!
//! - A listing is at least as new as the request for it, and costs the store one look at a time.
//! - What retention will remove is out of the listing at once.
//! - An upload is visible whole or not at all, and its marker is durable before it is acknowledged.
//! - A removal spares what changed since it was judged.

mod freshness;
mod listing;
mod upload;

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, SubsecRound, Utc};
use object_store::ObjectMeta;
use quick_cache::sync::Cache;
use tokio::{sync::Notify, task::AbortHandle};

use crate::{
    audit::{self, Action, Actor},
    coalesce::Coalesced,
    config::Config,
    detached::to_its_end,
    digest::Digest,
    error::{Error, Result},
    marker::{Marker, Source},
    metrics::{Amount, Metrics, Sample},
    name::PackageName,
    retention::Policy,
    storage::{Content, Storage},
};
use freshness::Last;
pub use listing::{Listing, Package, assemble};
pub use upload::Receiving;

/// How long a digest that the last listing did not know is taken to be unknown still.
const UNKNOWN_DIGEST: Duration = Duration::from_secs(1);

/// How long after its last write a package without a marker may be an upload that is about to get one, so that the
/// last listing is no answer. (AWS S3 dates an object by the begin of its upload: after one that took longer,
/// [`UNKNOWN_DIGEST`] is how long it may be served without its digest.)
const MARKER_DUE: chrono::Duration = chrono::Duration::minutes(1);

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

    /// Where what happens to them is counted.
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
        Ok(Receiving::new(self.clone(), name, overwrite, upload, receipt))
    }

    /// A package, ready to be read; `Error::Changed` if it was replaced while its digest was looked for.
    pub async fn open(&self, name: &PackageName) -> Result<Opened> {
        let proved = self.0.proved();
        let known = proved.as_ref().and_then(|listing| listing.find(name));
        let (size, etag, modified, sha256) = if let Some(package) = known {
            (package.size, package.etag.clone(), package.modified, package.sha256)
        } else {
            self.prove();
            let ObjectMeta { size, e_tag, last_modified, .. } = self.0.find(name).await?;
            let etag = e_tag.unwrap_or_default();
            let sha256 = self.digest(name, &etag).await;
            // Gone from the listing, not unhashed: its bytes may still be in the cache, but no longer its digest.
            if sha256.is_none() && self.0.storage.find(name).await?.e_tag.as_ref() != Some(&etag) {
                return Err(Error::Changed(name.to_string()));
            }
            (size, etag, last_modified, sha256)
        };
        Ok(Opened { inner: Arc::clone(&self.0), name: name.clone(), size, etag, modified, sha256 })
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

    /// Lists the store in the background, if it was not listed lately and a listing spares downloads a look for a while.
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
