//! Removing from a bucket without hitting what was uploaded meanwhile.
//!
//! A store's DELETE cannot carry a condition (MinIO ignores it), so between the last look and the DELETE another
//! upload of the name may appear. Remover and uploader therefore look out for each other:
//!
//! | removal | upload |
//! |---|---|
//! | 1 judge: markers, then the object | 1 PUT the object, its metadata holding a token |
//! | 2 PUT an intent, `removing/HASH.TOKEN` | 2 PUT the marker |
//! | 3 look again; anything differs: stop | 3 LIST the intents of the name, wait until those seen are gone |
//! | 4 more than a minute since 2: stop | 4 HEAD: is it still the own token? then 200, else 503 |
//! | 5 one DELETE, never sent twice | |
//! | 6 DELETE the intent | |
//!
//! What ends in doubt leaves its intent, which blocks uploads of that name until it is [`STALE`]. Every step is
//! needed: without the last HEAD, the second look at the markers (the same bytes have the same ETag), or the order,
//! an acknowledged upload can be lost. Two assumptions about time remain: no request is under way for longer than
//! [`STALE`] after its intent, and no remover sleeps that long between 4 and 5.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use object_store::{
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
    list::{PaginatedListOptions, PaginatedListStore},
    path::Path,
};
use tokio::time::{Instant, sleep};

use super::{
    Token, Written, at,
    bucket::{Bucket, never_left},
    key, key_of, package,
};
use crate::{
    coalesce::Coalesced,
    error::{Error, Result},
    marker::{Marker, name_hash},
    metrics::{Metrics, Operation},
    name::PackageName,
};

/// An intent this old is of a remover that is gone, and so is its DELETE.
const STALE: Duration = Duration::from_mins(5);

/// A remover that took this long since its intent stops.
const TOO_SLOW: Duration = Duration::from_mins(1);

/// How long an upload waits for removals of its name.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// Removals from a bucket, and uploads that look out for them. Clones share the clock.
#[derive(Clone)]
pub(super) struct Removals {
    bucket: Bucket,
    /// The same, with keys as ours are.
    objects: Arc<dyn ObjectStore>,
    /// Where our part of the bucket begins: its own client knows nothing of it.
    prefix: Path,
    /// Shared by all uploads that look for intents at a time.
    intents: Arc<Coalesced<Vec<ObjectMeta>>>,
    /// The store's clock less ours, in milliseconds: ages are told by the store's.
    clock: Arc<AtomicI64>,
    metrics: Metrics,
}

impl Removals {
    pub(super) fn new(bucket: Bucket, objects: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        let listed = Arc::clone(&objects);
        let intents = Coalesced::new(move || {
            let intents = listed.list(Some(&key(&["removing"]))).try_collect();
            Box::pin(async {
                intents.await.map(Arc::new).map_err(at("removals in progress")).map_err(Arc::new)
            })
        });
        Self { bucket, objects, prefix, intents, clock: Arc::default(), metrics: Metrics::default() }
    }

    /// The same through `objects`, which count what is asked of them; the rest is counted here.
    pub(super) fn measured(self, objects: Arc<dyn ObjectStore>, metrics: Metrics) -> Self {
        Self { clock: self.clock, metrics, ..Self::new(self.bucket, objects, self.prefix) }
    }

    pub(super) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Learns the store's clock from something just written.
    pub(super) fn set_clock(&self, store_says: DateTime<Utc>) {
        self.clock.store((store_says - Utc::now()).num_milliseconds(), Ordering::Relaxed);
    }

    /// How far the store's clock is ahead of ours, in milliseconds.
    pub(super) fn clock_ms(&self) -> i64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// The bucket's own key for one of ours.
    pub(super) fn full(&self, location: &Path) -> Path {
        self.prefix.parts().chain(location.parts()).collect()
    }

    /// Steps 2 to 6 of a removal; the caller has judged.
    pub(super) async fn remove(&self, name: &PackageName, etag: &str, marker: Option<&Marker>) -> Result<()> {
        let location = package(name);
        let began = Instant::now();
        let intent = key(&["removing", &format!("{}.{}", name_hash(name.as_str()), Token::new().0)]);
        self.objects
            .put_opts(&intent, PutPayload::default(), PutMode::Create.into())
            .await
            .map_err(at(name.as_str()))?;

        let looked = async {
            let now = self.objects.head(&location).await.map_err(at(name.as_str()))?;
            let newest = self.newest_marker(name, &now).await?;
            let same = now.e_tag.as_deref() == Some(etag) && newest.as_ref() == marker;
            if same { Ok(()) } else { Err(Error::Changed(name.to_string())) }
        };
        if let Err(error) = looked.await {
            // Nothing was sent, so the intent has done its service; a failed DELETE of it leaves it to the sweep.
            drop_intent(&self.objects, &intent).await;
            return Err(error);
        }
        if began.elapsed() > TOO_SLOW {
            return Err(Error::Unavailable(anyhow::anyhow!(
                "removing `{name}` took too long; it was not removed"
            )));
        }
        let full = self.full(&location);
        match self.metrics.operation(Operation::Delete, self.bucket.delete_once(&full)).await {
            Ok(()) => drop_intent(&self.objects, &intent).await,
            // Not sent: the intent is of no use, and would keep uploads of the name away until it is stale. The caller
            // does not wait for a store that cannot be reached just now.
            Err(error) if never_left(&error) => {
                let objects = Arc::clone(&self.objects);
                tokio::spawn(async move { drop_intent(&objects, &intent).await });
                return Err(at(name.as_str())(error));
            }
            // It may still land: the intent stays, and uploads of the name wait for it to be stale.
            Err(error) => return Err(at(name.as_str())(error)),
        }
        Ok(())
    }

    /// Steps 3 and 4 of an upload.
    pub(super) async fn confirm(&self, written: &Written) -> Result<()> {
        let name = written.name.as_str();
        let began = Instant::now();
        let mut waiting_for = self.live_intents(name).await?;
        while !waiting_for.is_empty() {
            if began.elapsed() > LONGEST_WAIT {
                let error =
                    anyhow::anyhow!("`{name}` is being removed; whether this upload stays is not known");
                return Err(Error::Unavailable(error));
            }
            sleep(Duration::from_millis(100)).await;
            let now = self.live_intents(name).await?;
            // Later ones do not matter: they look after our marker was written.
            waiting_for.retain(|seen| now.contains(seen));
        }
        let full = self.full(&key_of(name));
        match self.metrics.operation(Operation::Head, self.bucket.token(&full)).await {
            Ok((_, token)) if token.is_some() && token == written.token => Ok(()),
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Err(Error::Unavailable(anyhow::anyhow!(
                "`{name}` was removed or replaced before its upload could be acknowledged"
            ))),
            Err(error) => Err(at(name)(error)),
        }
    }

    /// Drops intents of removers that are gone.
    pub(super) async fn clear(&self) -> Result<()> {
        for intent in self.intents.answer().await?.iter() {
            if self.is_stale(intent) {
                drop_intent(&self.objects, &intent.location).await;
            }
        }
        Ok(())
    }

    async fn live_intents(&self, name: &str) -> Result<Vec<Path>> {
        let of_name = format!("{}.", name_hash(name));
        let live = |intent: &&ObjectMeta| {
            intent.location.filename().is_some_and(|file| file.starts_with(&of_name))
                && !self.is_stale(intent)
        };
        let intents = self.intents.answer().await?;
        Ok(intents.iter().filter(live).map(|intent| intent.location.clone()).collect())
    }

    fn is_stale(&self, intent: &ObjectMeta) -> bool {
        let store_now = Utc::now() + chrono::Duration::milliseconds(self.clock_ms());
        (store_now - intent.last_modified).to_std().is_ok_and(|age| age > STALE)
    }

    /// The newest marker of what is there, by a LIST of this name's markers alone.
    async fn newest_marker(&self, name: &PackageName, meta: &ObjectMeta) -> Result<Option<Marker>> {
        let folder = self.full(&key(&["packages"]));
        let prefix = format!("{folder}/{}.", name_hash(name.as_str()));
        let mut options = PaginatedListOptions::default();
        let mut newest: Option<Marker> = None;
        loop {
            let page = self.bucket.client().list_paginated(Some(&prefix), options);
            let page = self.metrics.operation(Operation::List, page).await;
            let page = page.map_err(at(name.as_str()))?;
            let etag = meta.e_tag.as_deref().unwrap_or_default();
            let found =
                page.result.objects.iter().filter_map(|object| Marker::parse(object.location.filename()?));
            let found = found.filter(|marker| marker.describes(etag, meta.size));
            newest = newest.into_iter().chain(found).max_by_key(Marker::rank);
            match page.page_token {
                Some(token) => {
                    options =
                        PaginatedListOptions { page_token: Some(token), ..PaginatedListOptions::default() };
                }
                None => return Ok(newest),
            }
        }
    }
}

/// As in `storage_url`.
impl fmt::Display for Removals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket, self.prefix)
    }
}

async fn drop_intent(objects: &Arc<dyn ObjectStore>, intent: &Path) {
    if let Err(error) = objects.delete(intent).await {
        tracing::warn!(event = "cleanup", key = %intent, error = %error, "an intent to remove is left to the sweep");
    }
}
