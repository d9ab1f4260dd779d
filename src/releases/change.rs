//! What a change makes of a release: pure decisions.
//!
//! - Publishing sets `published_at` once.
//! - A release becomes the latest by being published as a full release (unless `make_latest` says no), by ceasing to
//!   be a prerelease, or by `make_latest: true`. A publish that is repeated moves nothing, nor does an edit of the notes.
//! - What was published while releases were frozen by publishing keeps its tag and its assets.

use chrono::{DateTime, Utc};
use serde_json::Map;

use super::{
    id::ReleaseId,
    name::{Repository, TagName},
    record::{MakeLatest, Record, token},
};
use crate::error::{Error, Result};

/// A release to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRelease {
    /// Its tag.
    pub tag: TagName,
    /// The branch or commit named for the tag.
    pub target_commitish: Option<String>,
    /// Its title.
    pub name: Option<String>,
    /// Its notes, in Markdown.
    pub body: Option<String>,
    /// Not to be published yet.
    pub draft: bool,
    /// Never the latest.
    pub prerelease: bool,
    /// Spared by retention.
    pub pinned: bool,
    /// Whether publishing makes it the latest; `None`: it does.
    pub make_latest: Option<MakeLatest>,
}

impl NewRelease {
    /// A full release of this tag, to be published at once.
    pub fn new(tag: TagName) -> Self {
        Self {
            tag,
            target_commitish: None,
            name: None,
            body: None,
            draft: false,
            prerelease: false,
            pinned: false,
            make_latest: None,
        }
    }

    /// Its first record: a draft, or, if it is to be published, one that nobody sees yet.
    pub(super) fn record(
        self,
        repository: &Repository,
        id: ReleaseId,
        author: &str,
        now: DateTime<Utc>,
    ) -> Record {
        Record {
            id,
            repository: repository.as_str().to_owned(),
            tag_name: self.tag,
            target_commitish: self.target_commitish,
            name: self.name,
            body: self.body,
            published: false,
            deleted: false,
            pending: !self.draft,
            prerelease: self.prerelease,
            pinned: self.pinned,
            immutable: false,
            make_latest: self.make_latest,
            created_at: now,
            updated_at: now,
            published_at: None,
            latest_at: None,
            author: author.to_owned(),
            revision: 1,
            edit: token(),
            next_slot: 0,
            assets: Vec::new(),
            dropped: Vec::new(),
            unknown: Map::new(),
        }
    }
}

/// A change of a release; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// Another tag.
    pub tag: Option<TagName>,
    /// Another branch or commit for the tag.
    pub target_commitish: Option<String>,
    /// Another title; `Some(None)`: none.
    pub name: Option<Option<String>>,
    /// Other notes; `Some(None)`: none.
    pub body: Option<Option<String>>,
    /// `false` publishes.
    pub draft: Option<bool>,
    /// Whether it can be the latest.
    pub prerelease: Option<bool>,
    /// Whether retention spares it.
    pub pinned: Option<bool>,
    /// Whether it becomes the latest.
    pub make_latest: Option<MakeLatest>,
}

impl Edit {
    /// Publishes, and changes nothing else.
    pub fn publish() -> Self {
        Self { draft: Some(false), ..Self::default() }
    }
}

/// What is to be done about `latest_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Latest {
    /// It stays.
    Keep,
    /// It becomes the greatest.
    Set,
    /// It becomes the greatest unless the latest release has a higher version.
    SetUnlessOlder,
}

/// What an edit comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    /// The next version; `None`: nothing is to be done.
    pub(super) next: Option<Record>,
    /// Whether its tag must be claimed first.
    pub(super) claim: bool,
    pub(super) latest: Latest,
}

/// What `edit` makes of `record`. `freeze`: what is published now is frozen by it.
pub(super) fn plan(record: &Record, edit: &Edit, freeze: bool, now: DateTime<Utc>) -> Result<Planned> {
    let mut next = record.clone();
    if let Some(tag) = &edit.tag {
        next.tag_name = tag.clone();
    }
    if let Some(target) = &edit.target_commitish {
        next.target_commitish = Some(target.clone());
    }
    if let Some(name) = &edit.name {
        next.name.clone_from(name);
    }
    if let Some(body) = &edit.body {
        next.body.clone_from(body);
    }
    next.prerelease = edit.prerelease.unwrap_or(record.prerelease);
    next.pinned = edit.pinned.unwrap_or(record.pinned);
    next.published = edit.draft.map_or(record.published, |draft| !draft);
    next.pending = record.pending && !next.published;
    if record.immutable && (next.tag_name != record.tag_name || !next.published) {
        return Err(Error::Unprocessable("Cannot change the tag of an immutable release.".into()));
    }

    let published_now = next.published && !record.published;
    let full = |record: &Record| record.published && !record.prerelease;
    let full_now = full(&next) && !full(record);
    // Of a publish that is repeated, because its answer was lost, the wish was granted the first time.
    let repeated = edit.draft == Some(false) && record.published;
    let wish = edit.make_latest.or(record.make_latest.filter(|_| full_now)).unwrap_or(MakeLatest::True);
    let asked = edit.make_latest.is_some() && full(&next) && !repeated;
    let latest = match wish {
        MakeLatest::True if full_now || asked => Latest::Set,
        MakeLatest::Legacy if full_now || asked => Latest::SetUnlessOlder,
        MakeLatest::False if full_now || asked => {
            next.latest_at = None;
            Latest::Keep
        }
        _ => Latest::Keep,
    };
    if next.published {
        next.make_latest = None;
        next.published_at = record.published_at.or(Some(now));
        next.immutable = record.immutable || (published_now && freeze);
    } else {
        next.make_latest = edit.make_latest.or(record.make_latest);
    }
    let claim = next.published && !(record.published && record.tag_name == next.tag_name);
    let unchanged = next == *record && latest == Latest::Keep;
    Ok(Planned { next: (!unchanged).then(|| next.touched(now)), claim, latest })
}

/// Whether the version that `tag` names is lower than that of `other`; what is no version is not.
pub(super) fn is_older(tag: &TagName, other: &TagName) -> bool {
    let version = |tag: &TagName| {
        let text = tag.as_str();
        semver::Version::parse(text.strip_prefix('v').unwrap_or(text)).ok()
    };
    version(tag).zip(version(other)).is_some_and(|(ours, theirs)| ours.cmp_precedence(&theirs).is_lt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-09-12T14:03:11.123Z".parse().unwrap()
    }

    fn tag(text: &str) -> TagName {
        TagName::parse(text).unwrap()
    }

    fn draft() -> Record {
        let new = NewRelease { draft: true, ..NewRelease::new(tag("v1")) };
        let repository = Repository::parse("acme/app").unwrap();
        new.record(&repository, ReleaseId::new(now(), 1), "me", now())
    }

    fn published() -> Record {
        let planned = plan(&draft(), &Edit::publish(), false, now()).unwrap();
        Record { latest_at: Some(now()), ..planned.next.unwrap() }
    }

    #[track_caller]
    fn check(record: &Record, edit: &Edit, claim: bool, latest: Latest) -> Record {
        let planned = plan(record, edit, false, now()).unwrap();
        assert_eq!((planned.claim, planned.latest), (claim, latest));
        planned.next.unwrap()
    }

    #[test]
    fn publishing_claims_the_tag_and_becomes_the_latest() {
        let next = check(&draft(), &Edit::publish(), true, Latest::Set);
        assert!(next.is_published() && next.published_at == Some(now()) && next.revision == 2);
    }

    #[test]
    fn a_repeated_publish_moves_nothing() {
        for make_latest in [None, Some(MakeLatest::True)] {
            let edit = Edit { make_latest, tag: Some(tag("v1")), ..Edit::publish() };
            let planned = plan(&published(), &edit, false, now()).unwrap();
            assert_eq!((planned.next, planned.claim, planned.latest), (None, false, Latest::Keep));
        }
    }

    #[test]
    fn an_edit_of_the_notes_leaves_the_latest_alone() {
        let edit = Edit { body: Some(Some("new".into())), ..Edit::default() };
        let next = check(&published(), &edit, false, Latest::Keep);
        assert_eq!(next.latest_at, Some(now()));
    }

    #[test]
    fn make_latest_is_heeded() {
        let wish = |make_latest| Edit { make_latest: Some(make_latest), ..Edit::default() };
        check(&published(), &wish(MakeLatest::True), false, Latest::Set);
        check(&published(), &wish(MakeLatest::Legacy), false, Latest::SetUnlessOlder);
        assert_eq!(check(&published(), &wish(MakeLatest::False), false, Latest::Keep).latest_at, None);
        let publish = Edit { make_latest: Some(MakeLatest::False), ..Edit::publish() };
        assert_eq!(check(&draft(), &publish, true, Latest::Keep).latest_at, None);
        // A draft remembers the wish until it is published.
        let wishful = check(&draft(), &wish(MakeLatest::False), false, Latest::Keep);
        assert_eq!(check(&wishful, &Edit::publish(), true, Latest::Keep).make_latest, None);
    }

    #[test]
    fn a_prerelease_becomes_the_latest_when_it_is_none_any_more() {
        let early = Edit { prerelease: Some(true), make_latest: Some(MakeLatest::True), ..Edit::publish() };
        let next = check(&draft(), &early, true, Latest::Keep);
        let full = Edit { prerelease: Some(false), ..Edit::default() };
        check(&next, &full, false, Latest::Set);
    }

    #[test]
    fn a_published_release_claims_another_tag_and_a_draft_does_not() {
        let edit = Edit { tag: Some(tag("v2")), ..Edit::default() };
        check(&published(), &edit, true, Latest::Keep);
        check(&draft(), &edit, false, Latest::Keep);
    }

    #[test]
    fn what_was_published_frozen_keeps_its_tag() {
        let frozen = plan(&draft(), &Edit::publish(), true, now()).unwrap().next.unwrap();
        for edit in
            [Edit { tag: Some(tag("v2")), ..Edit::default() }, Edit { draft: Some(true), ..Edit::default() }]
        {
            plan(&frozen, &edit, false, now()).unwrap_err();
        }
        check(&frozen, &Edit { pinned: Some(true), ..Edit::default() }, false, Latest::Keep);
    }

    #[test]
    fn versions_are_compared_if_both_are_some() {
        for (tag_name, other, older) in [
            ("v1.2.3", "v1.10.0", true),
            ("1.10.0", "v1.2.3", false),
            ("v1.0.0-rc.1", "v1.0.0", true),
            ("nightly", "v1.0.0", false),
            ("v1.0.0", "nightly", false),
            ("v1.0.0", "v1.0.0+build", false),
        ] {
            assert_eq!(is_older(&tag(tag_name), &tag(other)), older, "{tag_name} {other}");
        }
    }
}
