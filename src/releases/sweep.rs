//! The sweep of releases: removes what [`retention`](super::retention) says, and finishes what crashes left.
//!
//! - A release goes by a swap of the very version that was judged, so a pin in between wins.
//! - Bytes of a release that is gone go; its tombstone stays for an hour more, for those who still know it.
//! - What was being created and published at one go, and is still not an hour later, goes too.
//! - Bytes that no manifest names go a day after they were uploaded, and a day after a manifest named them last: who is
//!   reading what was just replaced is not to be cut off. They are listed first and the record is read after that: the other
//!   way round, bytes that were named in between would be lost. An upload that takes half a day is refused.
//! - Any number of processes may sweep at once. What fails is logged and left to the next pass.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};

use super::{
    Inner, Releases,
    id::ReleaseId,
    name::Repository,
    record::{Record, now},
    retention::{Reason, decide},
};
use crate::{
    audit::{self, Action, Actor},
    error::{Error, Result},
    storage::repos::Key,
};

/// How long a tombstone stays, and a release may be unfinished.
const GRACE: chrono::Duration = chrono::Duration::hours(1);

/// How old bytes that nothing names must be, and for how long nothing may have named them.
pub(super) const ORPHANED: chrono::Duration = chrono::Duration::hours(24);

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Releases kept.
    pub kept: usize,
    /// Releases removed; on a first pass over a store, those that would be.
    pub removed: usize,
    /// What failed; the next pass tries again.
    pub failed: usize,
    /// Files that nothing named, and those of releases that are gone.
    pub erased: usize,
}

/// Judges every release of every repository; `first`: only says what would go.
pub async fn pass(releases: &Releases, first: bool) -> Result<Swept> {
    releases.changeable()?;
    let mut swept = Swept::default();
    for repository in releases.storage().repositories().await? {
        if let Err(error) = sweep(releases, &repository, first, &mut swept).await {
            swept.failed += 1;
            let error = error.with_causes();
            tracing::warn!(event = "sweep", %repository, error, "cannot sweep `{repository}`");
        }
    }
    Ok(swept)
}

/// What a pass would remove, a line each.
pub async fn preview(releases: &Releases) -> Result<String> {
    let mut lines = Vec::new();
    for repository in releases.storage().repositories().await? {
        let listing = releases.fresh(&repository).await?;
        for (record, reason) in decide(&listing, &releases.0.policy, Utc::now()) {
            lines.push(format!("remove  {}  {}  {reason}\n", record.repository, record.tag_name));
        }
    }
    Ok(lines.concat())
}

async fn sweep(releases: &Releases, repository: &Repository, first: bool, swept: &mut Swept) -> Result<()> {
    let inner = &releases.0;
    let listing = releases.fresh(repository).await?;
    let gone = decide(&listing, &inner.policy, Utc::now());
    swept.kept += listing.all().len() - gone.len();
    for (record, reason) in gone {
        if first {
            swept.removed += 1;
            let tag = &record.tag_name;
            tracing::warn!(
                event = "sweep",
                %repository,
                "release.tag" = %tag,
                %reason,
                "a later sweep removes release `{tag}` of `{repository}`: {reason}"
            );
            continue;
        }
        remove(inner, repository, &record, reason, swept).await;
    }
    if first {
        return Ok(());
    }
    finish(inner, repository, listing.hidden(), swept).await?;
    swept.erased += erase_orphans(inner, repository, Utc::now() - ORPHANED).await?;
    Ok(())
}

async fn remove(
    inner: &Arc<Inner>,
    repository: &Repository,
    record: &Record,
    reason: Reason,
    swept: &mut Swept,
) {
    let tag = &record.tag_name;
    match inner.delete_if(repository, record).await {
        Ok(()) => {
            swept.removed += 1;
            audit::done_in(&Actor::sweep(), Action::Sweep, record, None, None, Some(&reason.to_string()));
            if let Err(error) = inner.erase_files(repository, record.id).await {
                let error = error.with_causes();
                tracing::warn!(
                    event = "cleanup",
                    error,
                    "bytes of a removed release are left to the next sweep"
                );
            }
        }
        // Somebody else was faster, or it is not what was judged any more.
        Err(Error::NotFound(_) | Error::Changed(_)) => {}
        Err(error) => {
            swept.failed += 1;
            audit::failed_in(&Actor::sweep(), Action::Sweep, repository.as_str(), &error);
            let error = error.with_causes();
            tracing::warn!(event = "sweep", %repository, "release.tag" = %tag, error, "cannot remove release `{tag}`");
        }
    }
}

/// Finishes what is gone, or was never finished.
async fn finish(
    inner: &Arc<Inner>,
    repository: &Repository,
    hidden: &[Arc<Record>],
    swept: &mut Swept,
) -> Result<()> {
    for record in hidden.iter().filter(|record| now() - record.updated_at > GRACE) {
        if record.deleted {
            inner.erase_files(repository, record.id).await?;
            inner.storage.erase(&Key::record(repository, record.id)).await?;
        } else {
            match inner.delete_if(repository, record).await {
                Ok(()) => swept.removed += 1,
                Err(Error::NotFound(_) | Error::Changed(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Removes bytes from before `limit` that no manifest has named since, and all of releases that are gone.
async fn erase_orphans(inner: &Arc<Inner>, repository: &Repository, limit: DateTime<Utc>) -> Result<usize> {
    let folder = Key::files(repository);
    let mut files: HashMap<ReleaseId, Vec<Key>> = HashMap::new();
    for entry in inner.storage.entries_below(&folder).await? {
        let below = entry.key.as_str().strip_prefix(folder.as_str());
        let release = below.and_then(|below| below.trim_start_matches('/').split('/').next()?.parse().ok());
        // What is not laid out as ours is not ours.
        if let Some(release) = release
            && entry.modified < limit
        {
            files.entry(release).or_default().push(entry.key);
        }
    }
    let mut erased = 0;
    for (release, keys) in files {
        // After the files were listed.
        let named: HashSet<String> = match inner.there(repository, release).await {
            Ok(version) => named_since(&version.record, limit),
            Err(Error::NotFound(_)) => HashSet::new(),
            Err(error) => return Err(error),
        };
        for key in keys.iter().filter(|key| !named.contains(key.as_str())) {
            inner.storage.erase(key).await?;
            erased += 1;
        }
    }
    Ok(erased)
}

/// Where the bytes lie that a manifest names, or has named since then.
///
/// That it was not touched since would be too much to ask: a release whose files are replaced every day would keep all that it
/// ever had.
fn named_since(record: &Record, then: DateTime<Utc>) -> HashSet<String> {
    // Nothing is dropped without a touch.
    let lately = record.dropped.iter().filter(|dropped| dropped.at.min(record.updated_at) >= then);
    let named = record.assets.iter().map(|asset| &asset.key);
    named.chain(lately.map(|dropped| &dropped.key)).cloned().collect()
}

impl Inner {
    /// Deletes a release if it is still the very version that was judged.
    async fn delete_if(&self, repository: &Repository, judged: &Record) -> Result<()> {
        let from = self.there(repository, judged.id).await?;
        if from.record.edit != judged.edit {
            return Err(Error::Changed(format!("{repository} {}", judged.id)));
        }
        let next = Record { deleted: true, ..judged.clone() };
        self.swap(repository, &from, next.touched(now())).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        releases::{
            assets::NewAsset,
            change::{Edit, NewRelease},
            name::TagName,
        },
        storage::{Storage, repos::Read},
    };

    fn repository() -> Repository {
        Repository::parse("acme/app").unwrap()
    }

    fn releases(variables: &[(&str, &str)]) -> Releases {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).into()));
        let config = config::load_from(variables, std::path::Path::new("/nonexistent")).unwrap().config;
        Releases::new(Storage::memory(64 << 20), &config)
    }

    async fn publish(releases: &Releases, tag: &str) -> Arc<Record> {
        let new = NewRelease { draft: true, ..NewRelease::new(TagName::parse(tag).unwrap()) };
        let draft = releases.create(&repository(), new, &Actor::sweep()).await.unwrap();
        let asset = NewAsset::new("app.zip", None, None, false).unwrap();
        let mut receiving =
            releases.upload(&repository(), draft.id, asset, None, Actor::sweep()).await.unwrap();
        receiving.write("bytes".into()).await.unwrap();
        receiving.commit(None).await.unwrap();
        releases.edit(&repository(), draft.id, Edit::publish(), &Actor::sweep()).await.unwrap()
    }

    async fn files(releases: &Releases) -> usize {
        releases.storage().entries_below(&Key::files(&repository())).await.unwrap().len()
    }

    /// As if it had been touched so many hours before.
    async fn age(releases: &Releases, id: ReleaseId, hours: i64) {
        let key = Key::record(&repository(), id);
        let Read::Fresh(text, etag) = releases.storage().read(&key, None).await.unwrap() else { panic!() };
        let mut record: Record = serde_json::from_slice(&text).unwrap();
        record.updated_at -= chrono::Duration::hours(hours);
        let text = serde_json::to_vec(&record).unwrap();
        releases.storage().replace(&key, text.into(), &etag).await.unwrap();
    }

    async fn tags(releases: &Releases) -> Vec<String> {
        let listing = releases.list(&repository()).await.unwrap();
        listing.all().iter().map(|record| record.tag_name.to_string()).collect()
    }

    #[tokio::test]
    async fn the_newest_stay_and_a_first_pass_only_says_so() {
        let releases = releases(&[("RETENTION__RELEASES", "2")]);
        for tag in ["v1", "v2", "v3", "v4"] {
            publish(&releases, tag).await;
        }
        let first = pass(&releases, true).await.unwrap();
        assert_eq!((first.kept, first.removed), (2, 2));
        assert_eq!((tags(&releases).await.len(), files(&releases).await), (4, 4));
        assert!(preview(&releases).await.unwrap().contains("acme/app  v1  number 4"));
        let second = pass(&releases, false).await.unwrap();
        assert_eq!((second.kept, second.removed, second.failed), (2, 2, 0));
        assert_eq!(files(&releases).await, 2);
        let mut left = tags(&releases).await;
        left.sort();
        assert_eq!(left, ["v3", "v4"]);
    }

    #[tokio::test]
    async fn what_was_touched_since_it_was_judged_stays() {
        let releases = releases(&[]);
        let judged = publish(&releases, "v1").await;
        let pin = Edit { pinned: Some(true), ..Edit::default() };
        releases.edit(&repository(), judged.id, pin, &Actor::sweep()).await.unwrap();
        let removed = releases.0.delete_if(&repository(), &judged).await;
        assert!(matches!(removed, Err(Error::Changed(_))));
    }

    #[tokio::test]
    async fn what_a_crash_left_is_finished() {
        let releases = releases(&[]);
        publish(&releases, "v1").await;
        let deleted = publish(&releases, "v2").await;
        // Only the swap: the process ended before the bytes went.
        releases.0.delete(&repository(), deleted.id).await.unwrap();
        let pending = NewRelease::new(TagName::parse("v3").unwrap());
        let pending = pending.record(&repository(), ReleaseId::new(now(), 7), "me", now());
        let key = Key::record(&repository(), pending.id);
        let text = serde_json::to_vec(&pending).unwrap();
        releases.storage().create(&key, text.into()).await.unwrap();
        assert_eq!((tags(&releases).await, files(&releases).await), (vec!["v1".to_owned()], 2));

        pass(&releases, false).await.unwrap();
        assert_eq!(files(&releases).await, 2, "an hour must have passed");
        age(&releases, deleted.id, 2).await;
        age(&releases, pending.id, 2).await;
        pass(&releases, false).await.unwrap();
        assert_eq!(files(&releases).await, 1);
        let records =
            || async { releases.storage().entries(&Key::records(&repository())).await.unwrap().len() };
        assert_eq!(records().await, 2);
        age(&releases, pending.id, 2).await;
        pass(&releases, false).await.unwrap();
        assert_eq!(records().await, 1);
        publish(&releases, "v3").await;
    }

    #[tokio::test]
    async fn bytes_that_nothing_names_go_after_a_day() {
        let releases = releases(&[]);
        let record = publish(&releases, "v1").await;
        let orphan = Key::bytes(&repository(), record.id, "token", "x");
        let unknown = Key::bytes(&repository(), ReleaseId::new(now(), 9), "token", "x");
        for key in [&orphan, &unknown] {
            releases.storage().create(key, "bytes".into()).await.unwrap();
        }
        pass(&releases, false).await.unwrap();
        assert_eq!(files(&releases).await, 3);
        let tomorrow = Utc::now() + chrono::Duration::minutes(1);
        assert_eq!(erase_orphans(&releases.0, &repository(), tomorrow).await.unwrap(), 2);
        assert_eq!(files(&releases).await, 1);
    }

    /// Other bytes in the place of those that [`publish`] uploads.
    async fn replace(releases: &Releases, id: ReleaseId, bytes: &'static str) {
        let asset = NewAsset::new("app.zip", None, None, true).unwrap();
        let mut receiving = releases.upload(&repository(), id, asset, None, Actor::sweep()).await.unwrap();
        receiving.write(bytes.into()).await.unwrap();
        receiving.commit(None).await.unwrap();
    }

    /// The time, with a few milliseconds around it in which nothing happens.
    async fn moment() -> DateTime<Utc> {
        let pause = std::time::Duration::from_millis(5);
        tokio::time::sleep(pause).await;
        let moment = now();
        tokio::time::sleep(pause).await;
        moment
    }

    #[tokio::test]
    async fn bytes_that_were_replaced_or_deleted_stay_for_a_day_from_then_on() {
        let releases = releases(&[]);
        let erase = async |limit| erase_orphans(&releases.0, &repository(), limit).await.unwrap();
        let id = publish(&releases, "v1").await.id;
        let uploaded = moment().await;
        replace(&releases, id, "other").await;
        let replaced = moment().await;
        assert_eq!((erase(uploaded).await, files(&releases).await), (0, 2));

        // They go though something else is replaced every day, and what that was stays.
        replace(&releases, id, "another").await;
        assert_eq!((erase(replaced).await, files(&releases).await), (1, 2));
        let replaced = moment().await;
        let asset = releases.find(&repository(), id).await.unwrap().assets[0].id;
        releases.delete_asset(&repository(), asset, &Actor::sweep()).await.unwrap();
        assert_eq!((erase(replaced).await, files(&releases).await), (1, 1));
        assert_eq!((erase(moment().await).await, files(&releases).await), (1, 0));
    }

    #[tokio::test]
    async fn a_record_says_of_the_last_day_alone_what_it_named() {
        let releases = releases(&[]);
        let id = publish(&releases, "v1").await.id;
        replace(&releases, id, "other").await;
        let key = Key::record(&repository(), id);
        let Read::Fresh(text, etag) = releases.storage().read(&key, None).await.unwrap() else { panic!() };
        let mut record: Record = serde_json::from_slice(&text).unwrap();
        record.dropped[0].at -= ORPHANED;
        let text = serde_json::to_vec(&record).unwrap();
        releases.storage().replace(&key, text.into(), &etag).await.unwrap();
        replace(&releases, id, "another").await;
        let found = releases.find(&repository(), id).await.unwrap();
        assert_eq!((found.dropped.len(), &found.dropped[0].key), (1, &record.assets[0].key));
    }
}
