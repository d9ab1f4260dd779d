//! What retention keeps of a repository's releases: a pure decision over one listing.
//!
//! | | goes | never |
//! |---|---|---|
//! | full releases | beyond the newest `retention.releases`; older than `retention.release_max_age` | the latest, and what is pinned |
//! | prereleases | beyond the newest `retention.prereleases`; older than `retention.prerelease_max_age` | what is pinned |
//! | drafts | not touched for `retention.draft_max_age` | what is pinned |
//!
//! The newest are those published last. Two sweepers that see the same thing decide the same.

use std::{fmt, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use super::{listing::Listing, record::Record};
use crate::config::Config;

/// What is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// Full releases.
    pub releases: Limits,
    /// Prereleases.
    pub prereleases: Limits,
    /// How long a draft may go untouched.
    pub draft_max_age: Option<Duration>,
}

/// How many, and how old.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// The newest that are kept; 0 = all.
    pub newest: usize,
    /// Since they were published.
    pub max_age: Option<Duration>,
}

impl From<&Config> for Policy {
    fn from(config: &Config) -> Self {
        let retention = &config.retention;
        Self {
            releases: Limits { newest: retention.releases, max_age: retention.release_max_age },
            prereleases: Limits { newest: retention.prereleases, max_age: retention.prerelease_max_age },
            draft_max_age: retention.draft_max_age,
        }
    }
}

/// Why a release goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// So many were published after it, while `limit` are kept.
    Rank {
        /// Its place, counted from 1.
        rank: usize,
        /// How many are kept.
        limit: usize,
    },
    /// It was published longer ago than this.
    Age(Duration),
    /// A draft that was not touched for longer than this.
    Abandoned(Duration),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let duration = |duration: &Duration| humantime::format_duration(*duration);
        match self {
            Self::Rank { rank, limit } => write!(f, "number {rank} by age, of which {limit} are kept"),
            Self::Age(limit) => write!(f, "published more than {} ago", duration(limit)),
            Self::Abandoned(limit) => write!(f, "a draft that was not touched for {}", duration(limit)),
        }
    }
}

/// The releases that go, each with the reason.
pub fn decide(listing: &Listing, policy: &Policy, now: DateTime<Utc>) -> Vec<(Arc<Record>, Reason)> {
    let older = |time: DateTime<Utc>, limit: Option<Duration>| {
        limit.filter(|&limit| (now - time).to_std().is_ok_and(|age| age > limit))
    };
    let mut published: Vec<&Arc<Record>> = listing.visible(false).collect();
    let time = |record: &Record| record.published_at.unwrap_or(record.created_at);
    // Of those published in one millisecond the latest is the one that came to be it last.
    published.sort_by_key(|record| std::cmp::Reverse((time(record), record.latest_at, record.id)));
    let mut gone = Vec::new();
    let mut judge = |record: &Arc<Record>, reason: Option<Reason>| {
        if let Some(reason) = reason
            && !record.pinned
            && !listing.is_latest(record.id)
        {
            gone.push((Arc::clone(record), reason));
        }
    };
    let (early, full): (Vec<_>, Vec<_>) = published.into_iter().partition(|record| record.prerelease);
    for (records, limits) in [(full, policy.releases), (early, policy.prereleases)] {
        for (rank, record) in (1..).zip(records) {
            let too_many = limits.newest != 0 && rank > limits.newest;
            let rank = too_many.then_some(Reason::Rank { rank, limit: limits.newest });
            judge(record, rank.or_else(|| older(time(record), limits.max_age).map(Reason::Age)));
        }
    }
    for draft in listing.all().iter().filter(|record| !record.published) {
        judge(draft, older(draft.updated_at, policy.draft_max_age).map(Reason::Abandoned));
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::releases::{
        change::NewRelease,
        id::ReleaseId,
        name::{Repository, TagName},
    };

    const DAY: Duration = Duration::from_hours(24);

    fn now() -> DateTime<Utc> {
        "2026-09-12T14:03:11Z".parse().unwrap()
    }

    /// Published so many days ago.
    fn release(tag: &str, days: i64) -> Record {
        let time = now() - chrono::Duration::days(days);
        let new = NewRelease { draft: true, ..NewRelease::new(TagName::parse(tag).unwrap()) };
        let record = new.record(&Repository::parse("a/b").unwrap(), ReleaseId::new(time, 0), "me", time);
        Record { published: true, published_at: Some(time), latest_at: Some(time), ..record }
    }

    fn gone(records: Vec<Record>, policy: &Policy) -> Vec<(String, String)> {
        let listing = Listing::new(records.into_iter().map(Arc::new).collect());
        let gone = decide(&listing, policy, now());
        gone.into_iter().map(|(record, reason)| (record.tag_name.to_string(), reason.to_string())).collect()
    }

    fn tags(records: Vec<Record>, policy: &Policy) -> Vec<String> {
        gone(records, policy).into_iter().map(|(tag, _)| tag).collect()
    }

    #[test]
    fn by_default_nothing_goes() {
        let records = (1..50).map(|days| release(&format!("v{days}"), days * 100)).collect();
        assert!(gone(records, &Policy::default()).is_empty());
    }

    #[test]
    fn the_newest_stay_prereleases_apart() {
        let mut records: Vec<Record> = (1..=4).map(|days| release(&format!("v{days}"), days)).collect();
        records
            .extend((1..=4).map(|days| Record { prerelease: true, ..release(&format!("rc{days}"), days) }));
        let limits = |newest| Limits { newest, max_age: None };
        let policy = Policy { releases: limits(2), prereleases: limits(3), draft_max_age: None };
        let expected = [
            ("v3", "number 3 by age, of which 2 are kept"),
            ("v4", "number 4 by age, of which 2 are kept"),
            ("rc4", "number 4 by age, of which 3 are kept"),
        ];
        assert_eq!(gone(records, &policy), expected.map(|(tag, why)| (tag.to_owned(), why.to_owned())));
    }

    #[test]
    fn the_latest_and_what_is_pinned_stay() {
        let old = |tag: &str, days| release(tag, days);
        let records = vec![
            Record { latest_at: None, ..old("v3", 10) },
            Record { latest_at: Some(now()), ..old("v1", 30) },
            Record { pinned: true, ..old("v2", 20) },
            Record { latest_at: None, ..old("v0", 40) },
        ];
        let limits = Limits { newest: 1, max_age: Some(15 * DAY) };
        assert_eq!(tags(records, &Policy { releases: limits, ..Policy::default() }), ["v0"]);
    }

    #[test]
    fn age_counts_from_the_publishing_and_of_drafts_from_the_last_touch() {
        let draft = |tag: &str, touched: i64| Record {
            published: false,
            published_at: None,
            updated_at: now() - chrono::Duration::days(touched),
            ..release(tag, 99)
        };
        let records = vec![
            release("v3", 5),
            release("v2", 10),
            release("v1", 11),
            draft("d1", 29),
            draft("d2", 31),
            Record { pinned: true, ..draft("d3", 31) },
        ];
        let policy = Policy {
            releases: Limits { newest: 0, max_age: Some(10 * DAY) },
            draft_max_age: Some(30 * DAY),
            ..Policy::default()
        };
        assert_eq!(tags(records, &policy), ["v1", "d2"]);
    }
}
