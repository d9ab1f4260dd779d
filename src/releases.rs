//! The releases of repositories: list, find, create, edit, delete; their assets are in [`assets`].
//!
//! - A release appears whole or not at all, and a tag never has two.
//! - Every change is one compare-and-swap of the release's record, so none is lost; it is durable when it is answered.
//! - Any process may end at any instruction: what it had begun is invisible, and the sweep clears it up.
//! - A listing is at least as new as the request for it, and costs the store one LIST and what changed since.
//!
//! Publishing R at T, and giving a published R another tag:
//!
//! 1. Read R. Gone: 404. Published at T already: done, nothing moves.
//! 2. Read the pointer of T. If it names another release Q that is published at T: 422. If Q is there but not
//!    published at T, swap Q with nothing changed but its revision: whatever its owner is about to write fails.
//! 3. Write R into the pointer, **even if it names R**: whatever another is about to write there fails.
//! 4. Swap R's record. This is the moment at which it is published.
//!
//! Whoever loses a swap begins again. Everything else is one read and one swap. The pointer is only a lock: it is never
//! removed, and what it names may be anything. These steps were model-checked; without the fence of 2 or the write of
//! 3 a tag gets two releases.

pub mod assets;
pub mod change;
pub mod id;
pub mod listing;
pub mod name;
pub mod record;
pub mod retention;
pub mod sweep;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use quick_cache::{Weighter, sync::Cache};
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, sleep},
};
use tracing::Instrument as _;

use crate::{
    audit::{self, Action, Actor},
    coalesce::Coalesced,
    config::Config,
    detached::to_its_end,
    error::{Breach, Error, Result},
    marker::{time_after, writable},
    storage::{
        Storage,
        repos::{Entry, Key, Read},
    },
};
use change::{Edit, Latest, NewRelease, Planned, is_older, plan};
use id::ReleaseId;
use listing::Listing;
use name::{Repository, TagName};
use record::{Pointer, Record, now, parse, render};

/// How long a change that keeps losing its swaps tries again.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many ids a release tries to claim.
const CLAIMS: usize = 8;

/// How often a listing in which a tag has two releases is made again.
const LOOKS: usize = 5;

/// How many records are read at a time.
const READS: usize = 32;

/// What records that are remembered may take, in bytes of their text.
const CACHE_BYTES: u64 = 64 << 20;

/// Of how many repositories the last listing is remembered.
const REPOSITORIES: usize = 512;

/// Locks of this process, so that its own requests do not make each other try again.
const STRIPES: usize = 64;

/// The releases of one store.
#[derive(Clone)]
pub struct Releases(Arc<Inner>);

struct Inner {
    storage: Storage,
    read_only: bool,
    freeze: bool,
    policy: retention::Policy,
    max_upload_bytes: u64,
    listing_max_age: Duration,
    records: Cache<Key, Version, ByText>,
    listings: Cache<Repository, Arc<Known>>,
    writing: Vec<Arc<tokio::sync::Mutex<()>>>,
    claiming: Vec<Arc<tokio::sync::Mutex<()>>>,
}

/// A record as the store has it.
#[derive(Clone)]
struct Version {
    record: Arc<Record>,
    etag: String,
    text_bytes: u64,
}

#[derive(Clone)]
struct ByText;

impl Weighter<Key, Version> for ByText {
    fn weight(&self, _: &Key, version: &Version) -> u64 {
        version.text_bytes.max(1)
    }
}

/// What is known of a repository.
struct Known {
    flights: Arc<Coalesced<Listing>>,
    last: Mutex<Option<Last>>,
}

struct Last {
    begun: Instant,
    /// The ETags of the records, by key.
    found: HashMap<Key, String>,
    listing: Arc<Listing>,
}

impl Releases {
    /// The releases in `storage`, changed as `config` says.
    pub fn new(storage: Storage, config: &Config) -> Self {
        let stripes = || (0..STRIPES).map(|_| Arc::default()).collect();
        Self(Arc::new(Inner {
            storage,
            read_only: config.read_only,
            freeze: config.releases.immutable,
            policy: retention::Policy::from(config),
            max_upload_bytes: config.max_upload_bytes,
            listing_max_age: config.listing_max_age,
            records: Cache::with_weighter(4096, CACHE_BYTES, ByText),
            listings: Cache::new(REPOSITORIES),
            writing: stripes(),
            claiming: stripes(),
        }))
    }

    /// The store behind.
    pub fn storage(&self) -> &Storage {
        &self.0.storage
    }

    /// The largest asset taken, in bytes.
    pub fn max_upload_bytes(&self) -> u64 {
        self.0.max_upload_bytes
    }

    /// All releases of a repository, as they are now or later (but see `listing_max_age`).
    ///
    /// A repository that has none is no error: nobody can tell it from one that does not exist.
    pub async fn list(&self, repository: &Repository) -> Result<Arc<Listing>> {
        let known = self.known(repository);
        if let Some(listing) = known.recent(self.0.listing_max_age) {
            return Ok(listing);
        }
        known.flights.answer().await
    }

    /// All releases of a repository, by a look at the store that begins after this call.
    pub async fn fresh(&self, repository: &Repository) -> Result<Arc<Listing>> {
        self.known(repository).flights.answer().await
    }

    /// The release of this id, drafts included.
    pub async fn find(&self, repository: &Repository, id: ReleaseId) -> Result<Arc<Record>> {
        Ok(self.0.live(repository, id).await?.record)
    }

    /// The release that is published at a tag.
    pub async fn by_tag(&self, repository: &Repository, tag: &TagName) -> Result<Arc<Record>> {
        let missing = || Error::NotFound(format!("{repository} {tag}"));
        let (pointer, _) = self.0.pointer(repository, tag).await?.ok_or_else(missing)?;
        let record = self.find(repository, pointer.id).await?;
        if record.is_published_at(tag) { Ok(record) } else { Err(missing()) }
    }

    /// Creates a release; published at once unless it is a draft. Runs to its end even if the caller goes away.
    pub async fn create(
        &self,
        repository: &Repository,
        new: NewRelease,
        actor: &Actor,
    ) -> Result<Arc<Record>> {
        self.changeable()?;
        let (this, repository, actor) = (self.clone(), repository.clone(), actor.clone());
        to_its_end(async move {
            let action = if new.draft { Action::Create } else { Action::Publish };
            let created = this.0.create(&repository, new, actor.name()).await;
            match &created {
                Ok(record) => audit::done_in(&actor, action, record, None, None, None),
                Err(error) => audit::failed_in(&actor, action, repository.as_str(), error),
            }
            created
        })
        .await
    }

    /// Changes a release, publishes it or takes it back. Runs to its end even if the caller goes away.
    pub async fn edit(
        &self,
        repository: &Repository,
        id: ReleaseId,
        edit: Edit,
        actor: &Actor,
    ) -> Result<Arc<Record>> {
        self.changeable()?;
        let (this, repository, actor) = (self.clone(), repository.clone(), actor.clone());
        to_its_end(async move {
            let action = if edit.draft == Some(false) { Action::Publish } else { Action::Change };
            let edited = this.0.edit(&repository, id, &edit).await;
            match &edited {
                Ok(record) => audit::done_in(&actor, action, record, None, None, None),
                Err(error) => audit::failed_in(&actor, action, repository.as_str(), error),
            }
            edited
        })
        .await
    }

    /// Deletes a release; its bytes follow. Runs to its end even if the caller goes away.
    pub async fn delete(&self, repository: &Repository, id: ReleaseId, actor: &Actor) -> Result<Arc<Record>> {
        self.changeable()?;
        let (this, repository, actor) = (self.clone(), repository.clone(), actor.clone());
        to_its_end(async move {
            let deleted = this.0.delete(&repository, id).await;
            match &deleted {
                Ok(record) => audit::done_in(&actor, Action::Delete, record, None, None, None),
                Err(error) => audit::failed_in(&actor, Action::Delete, repository.as_str(), error),
            }
            let deleted = deleted?;
            let (inner, repository) = (Arc::clone(&this.0), repository.clone());
            // What this leaves behind the sweep finishes.
            let erasing = async move {
                if let Err(error) = inner.erase_files(&repository, id).await {
                    let error = error.with_causes();
                    tracing::warn!(
                        event = "cleanup",
                        error,
                        "bytes of a deleted release are left to the sweep"
                    );
                }
            };
            tokio::spawn(erasing.in_current_span());
            Ok(deleted)
        })
        .await
    }

    /// Refuses changes while there are to be none.
    pub(crate) fn changeable(&self) -> Result<()> {
        if self.0.read_only { Err(Error::ReadOnly) } else { Ok(()) }
    }

    fn known(&self, repository: &Repository) -> Arc<Known> {
        let make = || Ok::<_, std::convert::Infallible>(Arc::new(Known::new(&self.0, repository)));
        match self.0.listings.get_or_insert_with(repository, make) {
            Ok(known) => known,
        }
    }
}

impl Known {
    fn new(inner: &Arc<Inner>, repository: &Repository) -> Self {
        let (inner, repository) = (Arc::downgrade(inner), repository.clone());
        let flights = Coalesced::new(move || {
            let (inner, repository) = (inner.clone(), repository.clone());
            Box::pin(async move { fly(inner, repository).await.map_err(Arc::new) })
        });
        Self { flights, last: Mutex::default() }
    }

    /// The last listing, if it was begun at most `age` ago.
    fn recent(&self, age: Duration) -> Option<Arc<Listing>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let last = last.as_ref().filter(|last| !age.is_zero() && last.begun.elapsed() <= age);
        last.map(|last| Arc::clone(&last.listing))
    }
}

/// Lists a repository.
///
/// Records are read one by one: while releases change tags, two of them may seem to have the same. Such a listing is
/// none, and is made again.
async fn fly(inner: Weak<Inner>, repository: Repository) -> Result<Arc<Listing>> {
    let gone = || Error::Internal(anyhow::anyhow!("the server is going down"));
    let inner = inner.upgrade().ok_or_else(gone)?;
    for _ in 1..LOOKS {
        let listing = look(&inner, &repository).await?;
        if !listing.has_twins() {
            return Ok(listing);
        }
    }
    look(&inner, &repository).await
}

/// Looks at a repository; if nothing changed, the last listing and every answer made from it are kept.
async fn look(inner: &Arc<Inner>, repository: &Repository) -> Result<Arc<Listing>> {
    let begun = Instant::now();
    let entries = inner.storage.entries(&Key::records(repository)).await?;
    let found: HashMap<Key, String> =
        entries.iter().map(|entry| (entry.key.clone(), entry.etag.clone())).collect();
    let known = inner.listings.get(repository);
    if let Some(known) = &known {
        let mut last = known.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_mut()
            && last.found == found
        {
            last.begun = begun;
            return Ok(Arc::clone(&last.listing));
        }
    }
    let records = inner.read_entries(entries).await?;
    // What was read may be newer than what was listed.
    let is_as_found = |version: &Version| {
        let key = Key::record(repository, version.record.id);
        found.get(&key).is_some_and(|etag| *etag == version.etag)
    };
    let settled = records.len() == found.len() && records.iter().all(is_as_found);
    let listing = Arc::new(Listing::new(records.into_iter().map(|version| version.record).collect()));
    if let Some(known) = known {
        let mut last = known.last.lock().unwrap_or_else(PoisonError::into_inner);
        // A listing of what is in motion holds for those who wait for it, and no longer.
        *last = settled.then(|| Last { begun, found, listing: Arc::clone(&listing) });
    }
    Ok(listing)
}

impl Inner {
    /// The records that a listing found, in no order.
    async fn read_entries(&self, entries: Vec<Entry>) -> Result<Vec<Version>> {
        let reads = entries.into_iter().map(|entry| self.read_entry(entry));
        let records: Vec<Option<Version>> = stream::iter(reads).buffer_unordered(READS).try_collect().await?;
        Ok(records.into_iter().flatten().collect())
    }

    /// A record that a listing found; `None` if it is gone since, or is none.
    async fn read_entry(&self, entry: Entry) -> Result<Option<Version>> {
        if entry.name().strip_suffix(".json").and_then(|name| name.parse::<ReleaseId>().ok()).is_none() {
            return Ok(None);
        }
        if let Some(version) = self.records.get(&entry.key).filter(|version| version.etag == entry.etag) {
            return Ok(Some(version));
        }
        match self.record(&entry.key).await {
            Ok(version) => Ok(Some(version)),
            Err(Error::NotFound(_)) => Ok(None),
            // Somebody broke it by hand: the others are still to be had.
            Err(Error::Internal(cause)) => {
                tracing::error!(
                    event = "listing",
                    key = %entry.key,
                    error = format!("{cause:#}"),
                    "a release's record cannot be read; it is left out"
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A record as it is now; its text is fetched only if it changed.
    async fn record(&self, key: &Key) -> Result<Version> {
        let known = self.records.get(key);
        match (self.storage.read(key, known.as_ref().map(|known| known.etag.as_str())).await, known) {
            (Ok(Read::Unchanged), Some(known)) => Ok(known),
            (Ok(Read::Unchanged), None) => {
                Err(Error::Internal(anyhow::anyhow!("the store says `{key}` is unchanged, unasked")))
            }
            (Ok(Read::Fresh(text, etag)), _) => {
                let mut record: Record = parse(key, &text)?;
                // Written by hand, it may be a time that nothing can come after.
                record.latest_at = record.latest_at.map(writable);
                Ok(self.remember(key.clone(), record, etag, text.len()))
            }
            (Err(error), _) => {
                self.records.remove(key);
                Err(error)
            }
        }
    }

    /// A release that is not deleted; it may be pending. `Error::NotFound` if it is gone.
    async fn there(&self, repository: &Repository, id: ReleaseId) -> Result<Version> {
        let version = self.record(&Key::record(repository, id)).await?;
        if version.record.deleted { Err(Error::NotFound(format!("{repository} {id}"))) } else { Ok(version) }
    }

    /// A release that callers may see.
    async fn live(&self, repository: &Repository, id: ReleaseId) -> Result<Version> {
        let version = self.there(repository, id).await?;
        if version.record.pending { Err(Error::NotFound(format!("{repository} {id}"))) } else { Ok(version) }
    }

    async fn pointer(&self, repository: &Repository, tag: &TagName) -> Result<Option<(Pointer, String)>> {
        let key = Key::pointer(repository, tag);
        match self.storage.read(&key, None).await {
            Ok(Read::Fresh(text, etag)) => Ok(Some((parse(&key, &text)?, etag))),
            Ok(Read::Unchanged) | Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the next version of a record; `Error::Changed` if the one it was made from is not there any more.
    async fn swap(&self, repository: &Repository, from: &Version, next: Record) -> Result<Version> {
        let key = Key::record(repository, next.id);
        let text = render(&next)?;
        let text_bytes = text.len();
        let etag = match self.storage.replace(&key, text, &from.etag).await {
            Ok(etag) => etag,
            // It may have happened all the same: then what is there knows its writer.
            Err(unknown @ Error::Unavailable(_)) => match self.record(&key).await {
                Ok(now) if now.record.edit == next.edit => {
                    // On a directory its name may be what could not be synced.
                    self.storage.settle_key(&key).await?;
                    now.etag
                }
                _ => return Err(unknown),
            },
            Err(error) => {
                self.records.remove(&key);
                return Err(error);
            }
        };
        Ok(self.remember(key, next, etag, text_bytes))
    }

    /// Keeps what the store is known to have.
    fn remember(&self, key: Key, record: Record, etag: String, text_bytes: usize) -> Version {
        let version = Version { record: Arc::new(record), etag, text_bytes: text_bytes as u64 };
        self.records.insert(key, version.clone());
        version
    }

    async fn create(&self, repository: &Repository, new: NewRelease, author: &str) -> Result<Arc<Record>> {
        let (draft, tag) = (new.draft, new.tag.clone());
        // A tag that is taken is the common mistake; it shall leave nothing behind.
        if !draft
            && let Some((pointer, _)) = self.pointer(repository, &tag).await?
            && let Ok(owner) = self.record(&Key::record(repository, pointer.id)).await
            && owner.record.is_published_at(&tag)
        {
            // Who asks again may take this for a success.
            self.storage.settle_key(&Key::record(repository, pointer.id)).await?;
            return Err(tag_is_taken(&tag));
        }
        let mut record = new.record(repository, ReleaseId::new(now(), rand::random()), author, now());
        let mut attempt = 1;
        let created = loop {
            let key = Key::record(repository, record.id);
            let text = render(&record)?;
            let text_bytes = text.len();
            match self.storage.create(&key, text).await {
                Ok(etag) => break self.remember(key, record, etag, text_bytes),
                Err(Error::AlreadyExists(_)) if attempt < CLAIMS => {
                    attempt += 1;
                    record.id = ReleaseId::new(now(), rand::random());
                }
                Err(error) => return Err(error),
            }
        };
        if draft {
            return Ok(created.record);
        }
        let id = created.record.id;
        let published = self.edit(repository, id, &Edit::publish()).await;
        if let Err(Error::Breach(_) | Error::Unprocessable(_)) = &published {
            // Nobody has seen it; what fails here the sweep finishes.
            if let Err(error) = self.delete(repository, id).await {
                let error = error.with_causes();
                tracing::warn!(
                    event = "cleanup",
                    error,
                    "a release that was not published is left to the sweep"
                );
            }
        }
        published
    }

    async fn edit(&self, repository: &Repository, id: ReleaseId, edit: &Edit) -> Result<Arc<Record>> {
        let _writing = self.writing(repository, id).await;
        let mut tries = Tries::new();
        loop {
            match self.try_edit(repository, id, edit).await {
                Err(Error::Changed(what)) => tries.again(what).await?,
                edited => break edited,
            }
        }
    }

    /// One attempt; `Error::Changed` if somebody else was faster.
    async fn try_edit(&self, repository: &Repository, id: ReleaseId, edit: &Edit) -> Result<Arc<Record>> {
        let from = self.there(repository, id).await?;
        let Planned { next, claim, latest } = plan(&from.record, edit, self.freeze, now())?;
        let Some(mut next) = next else {
            self.storage.settle_key(&Key::record(repository, id)).await?;
            return Ok(from.record);
        };
        if claim {
            self.claim(repository, id, &next.tag_name).await?;
        }
        if latest != Latest::Keep {
            // Of a look at the store that began after the claim.
            let listing = self.list_now(repository).await?;
            let older = listing.latest().is_some_and(|latest| is_older(&next.tag_name, &latest.tag_name));
            if latest == Latest::Set || !older {
                next.latest_at = Some(time_after(listing.greatest(), now()));
            }
        }
        let written = self.swap(repository, &from, next).await?;
        Ok(written.record)
    }

    /// Steps 2 and 3 of publishing.
    async fn claim(&self, repository: &Repository, id: ReleaseId, tag: &TagName) -> Result<()> {
        let stripe = stripe(&(repository, tag));
        let _claiming = Arc::clone(&self.claiming[stripe]).lock_owned().await;
        let key = Key::pointer(repository, tag);
        let Some((pointer, etag)) = self.pointer(repository, tag).await? else {
            return match self.storage.create(&key, render(&Pointer::new(id))?).await {
                Err(Error::AlreadyExists(what)) => Err(Error::Changed(what)),
                created => created.map(drop),
            };
        };
        if pointer.id != id {
            match self.record(&Key::record(repository, pointer.id)).await {
                Ok(other) if other.record.is_published_at(tag) => return Err(tag_is_taken(tag)),
                Ok(other) if !other.record.deleted => {
                    let mut fenced = Record::clone(&other.record);
                    fenced.fence();
                    self.swap(repository, &other, fenced).await?;
                }
                // Gone: nobody writes it any more.
                Ok(_) | Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.storage.replace(&key, render(&pointer.moved(id))?, &etag).await.map(drop)
    }

    async fn delete(&self, repository: &Repository, id: ReleaseId) -> Result<Arc<Record>> {
        let deleted = self
            .change(repository, id, |record| {
                let mut next = record.clone();
                next.deleted = true;
                Ok(Some(next))
            })
            .await?;
        Ok(deleted.record)
    }

    /// One read and one swap, again and again until the swap succeeds. `None`: nothing is to be done.
    async fn change(
        &self,
        repository: &Repository,
        id: ReleaseId,
        change: impl Fn(&Record) -> Result<Option<Record>>,
    ) -> Result<Version> {
        let _writing = self.writing(repository, id).await;
        let mut tries = Tries::new();
        loop {
            let from = self.there(repository, id).await;
            let next = from.as_ref().map_or(Ok(None), |from| change(&from.record));
            // Nothing to be done, which may be because it has been: that must be durable before it is said.
            let Ok(Some(next)) = next else {
                self.storage.settle_key(&Key::record(repository, id)).await?;
                return next.and(from);
            };
            let from = from?;
            match self.swap(repository, &from, next.touched(now())).await {
                Err(Error::Changed(what)) => tries.again(what).await?,
                swapped => return swapped,
            }
        }
    }

    /// Removes all bytes of a release that is gone.
    async fn erase_files(&self, repository: &Repository, id: ReleaseId) -> Result<()> {
        let files = self.storage.entries_below(&Key::files_of(repository, id)).await?;
        let erased = files.into_iter().map(|file| async move { self.storage.erase(&file.key).await });
        stream::iter(erased).buffer_unordered(READS).try_collect().await
    }

    /// A listing for a change under way, from which no answers are made.
    async fn list_now(&self, repository: &Repository) -> Result<Listing> {
        let entries = self.storage.entries(&Key::records(repository)).await?;
        let records = self.read_entries(entries).await?;
        Ok(Listing::new(records.into_iter().map(|version| version.record).collect()))
    }

    async fn writing(&self, repository: &Repository, id: ReleaseId) -> OwnedMutexGuard<()> {
        Arc::clone(&self.writing[stripe(&(repository, id))]).lock_owned().await
    }
}

fn stripe(of: &impl std::hash::Hash) -> usize {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    usize::try_from(hasher.finish() % STRIPES as u64).unwrap_or_default()
}

/// How often a swap that was lost is tried again, and when.
struct Tries {
    begun: Instant,
    wait: Duration,
}

impl Tries {
    fn new() -> Self {
        Self { begun: Instant::now(), wait: Duration::from_millis(2) }
    }

    /// Waits a while, different for everybody; an error if this has gone on for too long.
    async fn again(&mut self, what: String) -> Result<()> {
        if self.begun.elapsed() > PATIENCE {
            let error = anyhow::anyhow!("`{what}` is changed by others all the time");
            return Err(Error::Unavailable(error));
        }
        sleep(self.wait.mul_f64(rand::random_range(0.5..1.5))).await;
        self.wait = (self.wait * 2).min(Duration::from_millis(200));
        Ok(())
    }
}

/// GitHub's refusal of a tag that has a release.
fn tag_is_taken(tag: &TagName) -> Error {
    Error::Breach(Breach {
        resource: "Release",
        field: "tag_name",
        code: "already_exists",
        message: format!("tag `{tag}` has a release already"),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use chrono::{DateTime, Utc};

    use super::*;
    use crate::config;

    #[tokio::test]
    async fn a_record_of_the_end_of_all_times_stops_no_publishing() {
        let last: DateTime<Utc> = "9999-12-31T23:59:59.999Z".parse().unwrap();
        let millisecond = chrono::Duration::milliseconds(1);
        let repository = Repository::parse("acme/app").unwrap();
        for time in [last - millisecond, last, last + millisecond, DateTime::<Utc>::MAX_UTC] {
            let config = config::load_from(std::iter::empty(), Path::new("/nonexistent")).unwrap().config;
            let releases = Releases::new(Storage::memory(64 << 20), &config);
            let new = |tag| NewRelease::new(TagName::parse(tag).unwrap());
            let first = releases.create(&repository, new("v1"), &Actor::sweep()).await.unwrap();
            let key = Key::record(&repository, first.id);
            let Read::Fresh(text, etag) = releases.storage().read(&key, None).await.unwrap() else {
                panic!()
            };
            let mut by_hand: Record = parse(&key, &text).unwrap();
            by_hand.latest_at = Some(time);
            releases.storage().replace(&key, render(&by_hand).unwrap(), &etag).await.unwrap();

            let second = releases.create(&repository, new("v2"), &Actor::sweep()).await.unwrap();
            assert_eq!(second.latest_at, Some(last), "{time}");
            let first = releases.find(&repository, first.id).await.unwrap();
            assert_eq!(first.latest_at, Some(time.min(last)), "{time}");
            let listing = releases.list(&repository).await.unwrap();
            // Of two at the last time the id decides, which is random within a second.
            assert!(listing.is_latest(second.id) || time >= last, "{time}");
        }
    }
}
