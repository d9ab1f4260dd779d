//! When the last listing still holds, and when the store is listed again.
//!
//! - One look at the store is under way at a time; who asks meanwhile shares the next one ([`Coalesced`]).
//! - Where the store can tell that nothing changed, it is not listed: a directory tells by its
//!   [generation](crate::storage::Storage::generation), a large bucket by its record of
//!   [changes](crate::storage::Storage::changes).
//! - If a new listing shows what the last one did, the last one is kept, and every answer made from it.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use chrono::Utc;
use futures_util::{StreamExt, TryStreamExt, future, stream};
use object_store::{GetOptions, ObjectMeta};
use tokio::{task::AbortHandle, time::Instant};

use super::{
    Inner, Listing,
    listing::{SIDECAR_BYTES, SIDECAR_SUFFIX, assemble, publishes},
};
use crate::{
    apart::apart,
    coalesce::Coalesced,
    digest::Digest,
    error::{Error, Result},
    name::PackageName,
    storage::{Found, Generation, Quiet},
};

/// How long a listing is taken to hold because the store says that nothing changed. Not for ever: what a store cannot see
/// (see `storage/watch.rs`) shows after this, or after [`PROVED_TIMES`] as long as a listing takes.
const PROVED: Duration = Duration::from_secs(1);
const PROVED_TIMES: u32 = 20;

/// How many quarters of that time pass before a listing is made anew in the background: nobody who asks all the time is to
/// wait for one.
const RENEWED_AT: u32 = 3;

/// From how many packages on a listing of a bucket is to be proved to hold rather than repeated.
const MANY: usize = 500;

/// What the last look at the store found, and what was made of it.
pub(super) struct Last {
    /// When the last look at the store began that found it like this.
    begun: Instant,
    /// How long the listing took.
    took: Duration,
    /// When the last listing began that did.
    listed: Instant,
    /// The state of the record of changes in which a look at that is enough.
    quiet: Option<Quiet>,
    /// The state of a directory that this is known to be.
    generation: Option<Generation>,
    /// Whether it is being made anew.
    renewed: bool,
    found: Arc<Found>,
    listing: Arc<Listing>,
}

impl Last {
    /// Whether so little time has passed that only a change that the store sees can have made it wrong.
    pub(super) fn is_young(&self) -> bool {
        self.begun.elapsed() <= self.youth()
    }

    fn youth(&self) -> Duration {
        PROVED.max(self.took * PROVED_TIMES)
    }

    /// Whether it is time to make it anew, and nobody does.
    fn is_to_be_renewed(&mut self) -> bool {
        let due = !self.renewed && self.begun.elapsed() >= self.youth() / 4 * RENEWED_AT;
        self.renewed |= due;
        due
    }

    /// Whether a listing of a bucket is slow.
    fn is_large(&self) -> bool {
        self.found.objects.len() > MANY
    }
}

impl Inner {
    pub(super) fn last(&self) -> MutexGuard<'_, Option<Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last listing, if it was begun at most `age` ago.
    pub(super) fn recent(&self, age: Duration) -> Option<Arc<Listing>> {
        if age.is_zero() {
            return None;
        }
        let last = self.last();
        last.as_ref().filter(|last| last.begun.elapsed() <= age).map(|last| Arc::clone(&last.listing))
    }

    /// The last listing, if the store is known to be still as it shows.
    pub(super) fn proved(self: &Arc<Self>) -> Option<Arc<Listing>> {
        let now = self.storage.generation()?;
        let mut last = self.last();
        let last = last.as_mut().filter(|last| {
            last.generation == Some(now) && last.is_young() && last.listing.holds_at(Utc::now())
        })?;
        if last.is_to_be_renewed() {
            self.renew(None);
        }
        Some(Arc::clone(&last.listing))
    }

    /// Lists the store in the background.
    fn renew(self: &Arc<Self>, quiet: Option<Quiet>) -> AbortHandle {
        let inner = Arc::clone(self);
        let renewed = tokio::spawn(async move {
            if let Err(error) = inner.look(quiet).await {
                tracing::debug!(event = "listing", error = error.with_causes(), "not renewed");
            }
        });
        renewed.abort_handle()
    }

    /// Size, ETag and time of a package, as they are now or later. Many who ask a bucket at once share an answer.
    pub(super) async fn find(&self, name: &PackageName) -> Result<ObjectMeta> {
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

    /// Trusts no listing made so far to be proved: the store was found otherwise.
    pub(super) fn doubt(&self) {
        if let Some(last) = self.last().as_mut() {
            last.generation = None;
        }
    }

    /// Finds out what is in the store, by a look at who is writing if that is enough.
    pub(super) async fn fly(self: &Arc<Self>) -> Result<Arc<Listing>> {
        // Who came while the last flight was under way could not join it; that its listing still holds will do.
        if let Some(listing) = self.proved() {
            self.proofs.fetch_add(1, Ordering::Relaxed);
            return Ok(listing);
        }
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
                *renewal = Some(self.renew(Some(quiet.clone())));
            }
        }
        Some(Arc::clone(&last.listing))
    }

    /// Keeps the record of changes in order, in the background.
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
        let found = Arc::new(self.storage.list().await?);
        let took = begun.elapsed();
        let before = self.last().as_ref().map(|last| Arc::clone(&last.found));
        let same = match before.clone() {
            Some(before) => {
                let found = Arc::clone(&found);
                apart(found.objects.len(), move || before.shows_the_same(&found)).await?
            }
            None => false,
        };
        let is_the_same =
            |last: &Last| same && before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &last.found));
        let unannounced = {
            let mut last = self.last();
            match last.as_mut() {
                // Another one was faster.
                Some(last) if last.listed > begun => return Ok(Arc::clone(&last.listing)),
                Some(last) if is_the_same(last) && last.listing.holds_at(now) => {
                    (last.begun, last.listed, last.took) = (begun, begun, took);
                    (last.quiet, last.generation, last.renewed) = (quiet, found.generation, false);
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
        let sidecars = self.read_sidecars(&found).await?;
        let listing = {
            let (found, policy) = (Arc::clone(&found), self.policy.clone());
            apart(found.objects.len(), move || Arc::new(assemble(&found, &sidecars, &policy, now))).await?
        };
        if listing.all.iter().any(|package| package.sha256.is_none()) {
            self.unhashed.notify_one();
        }
        let skipped = found.skipped;
        if skipped > 0 && before.is_none_or(|before| before.skipped != skipped) {
            tracing::warn!(
                event = "listing",
                skipped,
                "entries of the storage that cannot be packages are left out: links, pipes, unreadable ones, or \
                 names with control characters"
            );
        }
        let generation = found.generation;
        self.replace(Last {
            begun,
            listed: begun,
            took,
            quiet,
            generation,
            renewed: false,
            found,
            listing: Arc::clone(&listing),
        });
        Ok(listing)
    }

    /// Remembers the last listing, unless another one was faster.
    fn replace(&self, new: Last) {
        let mut last = self.last();
        if last.as_ref().is_none_or(|last| last.listed <= new.begun) {
            let old = last.replace(new);
            // Nobody shall wait for the lock while thousands of names are freed.
            drop(last);
            drop(old);
        }
    }

    /// Something was published that was not announced: by an older server, or by one whose clock stood still.
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
    async fn read_sidecars(&self, found: &Found) -> Result<HashMap<PackageName, Digest>> {
        let candidates: Vec<ObjectMeta> = found
            .objects
            .iter()
            .filter(|object| {
                object.size == SIDECAR_BYTES && object.location.as_ref().ends_with(SIDECAR_SUFFIX)
            })
            .cloned()
            .collect();
        let read = stream::iter(candidates).map(|object| self.read_sidecar(object)).buffer_unordered(16);
        read.try_filter_map(future::ok).try_collect().await
    }

    /// The digest in a file, if it is one and nothing else; read once for as long as the file does not change.
    ///
    /// One that a bucket would not give now is an error: without it the file would be listed as a package, and what it
    /// speaks of as one that was never uploaded. In a directory it may belong to somebody else, for ever: a package, then.
    async fn read_sidecar(&self, object: ObjectMeta) -> Result<Option<(PackageName, Digest)>> {
        let Some(name) = PackageName::existing(object.location.as_ref()) else { return Ok(None) };
        let key = (name.clone(), object.e_tag.unwrap_or_default());
        let digest = if let Some(known) = self.sidecars.get(&key) {
            known
        } else {
            let options = GetOptions::new().with_if_match(Some(key.1.clone()));
            let read = async {
                let opened = self.storage.open(&name, options).await?;
                opened.bytes().await.map_err(|error| Error::Unavailable(error.into()))
            };
            let bytes = match read.await {
                Ok(bytes) => bytes,
                Err(Error::Unavailable(error)) if self.storage.is_bucket() => {
                    return Err(Error::Unavailable(error));
                }
                // Unreadable, or just removed or replaced: no sidecar this time, and nothing remembered.
                Err(_) => return Ok(None),
            };
            let digest = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok());
            self.sidecars.insert(key, digest);
            digest
        };
        Ok(digest.map(|digest| (name, digest)))
    }
}
