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
        Self { live, hidden, latest, greatest, rendered: Rendered::default() }
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
