//! All releases of a repository at one moment, and which of them is the latest.

use std::{collections::HashSet, sync::Arc};

use chrono::{DateTime, Utc};

use super::{id::ReleaseId, name::TagName, record::Record};
use crate::rendered::Rendered;

/// All releases of a repository at one moment.
#[derive(Debug, Default)]
pub struct Listing {
    /// Newest first; what is gone or not made yet is not among them.
    live: Vec<Arc<Record>>,
    /// The others, for the sweep.
    hidden: Vec<Arc<Record>>,
    latest: Option<usize>,
    greatest: Option<DateTime<Utc>>,
    /// Answers made from this listing.
    pub(crate) rendered: Rendered,
}

impl Listing {
    /// Sorts records that were read one by one.
    pub(super) fn new(records: Vec<Arc<Record>>) -> Self {
        let greatest = records.iter().filter_map(|record| record.latest_at).max();
        let (mut live, hidden): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record.is_live());
        live.sort_unstable_by_key(|record| std::cmp::Reverse((record.created_at, record.id)));
        let candidates =
            live.iter().enumerate().filter(|(_, record)| record.is_published() && !record.prerelease);
        // Those with equal times were published at once: the id decides, the same way for everybody.
        let latest = candidates
            .filter_map(|(index, record)| Some((record.latest_at?, record.id, index)))
            .max()
            .map(|(_, _, index)| index);
        Self { live, hidden, latest, greatest, rendered: Rendered::together() }
    }

    /// Every release, drafts too, newest first.
    pub fn all(&self) -> &[Arc<Record>] {
        &self.live
    }

    /// The releases that a caller sees, newest first: `drafts` are for those who may write.
    pub fn visible(&self, drafts: bool) -> impl Iterator<Item = &Arc<Record>> {
        self.live.iter().filter(move |record| drafts || record.published)
    }

    /// The latest full release, if there is one.
    pub fn latest(&self) -> Option<&Arc<Record>> {
        self.latest.map(|index| &self.live[index])
    }

    /// Whether this release is the latest.
    pub fn is_latest(&self, id: ReleaseId) -> bool {
        self.latest().is_some_and(|latest| latest.id == id)
    }

    /// The release of this id.
    pub fn find(&self, id: ReleaseId) -> Option<&Arc<Record>> {
        self.live.iter().find(|record| record.id == id)
    }

    /// The newest draft of a tag.
    pub fn draft(&self, tag: &TagName) -> Option<&Arc<Record>> {
        self.live.iter().find(|record| !record.published && record.tag_name == *tag)
    }

    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Whether two releases seem to be published at one tag: they were not read at one moment.
    pub(super) fn has_twins(&self) -> bool {
        let mut tags = HashSet::new();
        !self.visible(false).all(|record| tags.insert(&record.tag_name))
    }

    /// What is gone, or was never finished.
    pub fn hidden(&self) -> &[Arc<Record>] {
        &self.hidden
    }

    /// The greatest `latest_at` of any record, deleted ones included.
    pub(super) fn greatest(&self) -> Option<DateTime<Utc>> {
        self.greatest
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use bytes::Bytes;

    use super::*;
    use crate::{
        error::Error,
        rendered::{Answer, Kind},
    };

    async fn get(listing: &Listing, host: &str, body: &'static str) -> Answer {
        let render = || Ok::<_, Error>(Bytes::from_static(body.as_bytes()));
        listing.rendered.get(Kind::Latest, host, 1, || render).await.unwrap()
    }

    #[tokio::test]
    async fn what_all_listings_keep_of_answers_is_bounded() {
        /// A MiB of each is more than all may keep.
        const LISTINGS: usize = 70;
        let listings: Vec<Listing> = (0..LISTINGS).map(|_| Listing::new(Vec::new())).collect();
        assert_eq!(get(&listings[0], "http://a", "of the first").await.body, "of the first");
        assert_eq!(get(&listings[1], "http://a", "of the second").await.body, "of the second");
        assert_eq!(get(&listings[0], "http://b", "for another").await.body, "for another");
        assert_eq!(get(&listings[0], "http://a", "not made").await.body, "of the first");

        let (large, made) = (Bytes::from(vec![b'x'; 1 << 20]), AtomicUsize::new(0));
        for listing in listings.iter().chain(&listings) {
            let prepare = || {
                made.fetch_add(1, Relaxed);
                let large = large.clone();
                move || Ok::<_, Error>(large)
            };
            listing.rendered.get(Kind::Feed, "http://a", 1, prepare).await.unwrap();
        }
        assert!((LISTINGS + 1..=2 * LISTINGS).contains(&made.load(Relaxed)), "{made:?}");
    }
}
