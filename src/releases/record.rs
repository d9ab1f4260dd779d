//! What is stored of a release: its record, which is the truth and the manifest of its assets, and the pointer of a
//! tag, which is only a lock.
//!
//! - A release is published at T if and only if its record says so: published, not deleted, `tag_name` = T.
//! - Fields that a newer server wrote are kept through every change.
//! - Each version of a record has an `edit` of its own, by which its writer knows it again.

use bytes::Bytes;
use chrono::{DateTime, SubsecRound as _, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    id::{AssetId, ReleaseId, SLOTS},
    name::{Repository, TagName},
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    storage::repos::Key,
};

/// Whether publishing a release makes it the latest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MakeLatest {
    /// It does.
    True,
    /// It does not.
    False,
    /// It does if its version is not lower than the latest one's.
    Legacy,
}

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Record {
    /// Its number.
    pub id: ReleaseId,
    /// `owner/name` as it was spelled when it was created.
    pub repository: String,
    /// Its tag; drafts may share one.
    pub tag_name: TagName,
    /// The branch or commit that was named for the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_commitish: Option<String>,
    /// Its title.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its notes, in Markdown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Not a draft.
    pub published: bool,
    /// A tombstone: it is gone, and stays for a while to tell those who still knew it.
    #[serde(default)]
    pub deleted: bool,
    /// Being created and published at one go: nobody sees it yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// Never the latest.
    #[serde(default)]
    pub prerelease: bool,
    /// Retention spares it.
    #[serde(default)]
    pub pinned: bool,
    /// Published while releases were frozen by publishing: its tag and its assets stay what they are.
    #[serde(default)]
    pub immutable: bool,
    /// Of a draft: what was wished for its publishing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub make_latest: Option<MakeLatest>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
    /// When it was first published.
    #[serde(default)]
    pub published_at: Option<DateTime<Utc>>,
    /// The latest release is the one with the greatest.
    #[serde(default)]
    pub latest_at: Option<DateTime<Utc>>,
    /// Who created it.
    pub author: String,
    /// Counts the changes.
    pub revision: u64,
    /// Random, of each change its own.
    pub edit: String,
    /// Where the search for a free slot begins.
    #[serde(default)]
    pub next_slot: u16,
    /// Its files, in the order they came.
    #[serde(default)]
    pub assets: Vec<Asset>,
    /// What it named until lately, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<Dropped>,
    /// What this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A file of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asset {
    /// Its number.
    pub id: AssetId,
    /// Under which it is downloaded.
    pub name: String,
    /// What people are shown instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// As its publisher said.
    pub content_type: String,
    /// In bytes.
    pub size: u64,
    /// Of its bytes.
    pub sha256: Digest,
    /// Where its bytes lie.
    pub key: String,
    /// Who uploaded it.
    pub uploader: String,
    /// When it was uploaded.
    pub created_at: DateTime<Utc>,
    /// When it was last renamed or labelled.
    pub updated_at: DateTime<Utc>,
    /// What this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// Bytes that a record named once: they stay for a while, for who is reading them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Where they lie.
    pub key: String,
    /// Until when they were named.
    pub at: DateTime<Utc>,
    /// What this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// Who holds a tag, or held it last: a lock, and no more than that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// The release.
    pub id: ReleaseId,
    /// Counts the changes.
    pub revision: u64,
    /// Random, of each change its own.
    pub edit: String,
    /// What this version does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Record {
    /// Whether anybody may see it: it is neither gone nor still being made.
    pub fn is_live(&self) -> bool {
        !self.deleted && !self.pending
    }

    /// Whether it is public.
    pub fn is_published(&self) -> bool {
        self.published && self.is_live()
    }

    /// Whether it is what the tag stands for.
    pub fn is_published_at(&self, tag: &TagName) -> bool {
        self.is_published() && self.tag_name == *tag
    }

    /// The asset of this name.
    pub fn asset(&self, name: &str) -> Option<&Asset> {
        self.assets.iter().find(|asset| asset.name == name)
    }

    /// The asset of this id.
    pub fn asset_by_id(&self, id: AssetId) -> Option<&Asset> {
        self.assets.iter().find(|asset| asset.id == id)
    }

    /// The repository in the spelling of the record; `None` if somebody broke it.
    pub fn repository(&self) -> Option<Repository> {
        Repository::parse(&self.repository)
    }

    /// Its title; its tag if it has none.
    pub fn title(&self) -> &str {
        self.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(self.tag_name.as_str())
    }

    /// Takes a free slot, as late as possible one that was used before; `None` if all are in use.
    pub fn take_slot(&mut self) -> Option<u16> {
        let taken = |slot: u16| self.assets.iter().any(|asset| asset.id.slot() == slot);
        let slot = (0..SLOTS).map(|step| (self.next_slot + step) % SLOTS).find(|&slot| !taken(slot))?;
        self.next_slot = (slot + 1) % SLOTS;
        Some(slot)
    }

    /// The next version of this record.
    #[must_use]
    pub fn touched(mut self, now: DateTime<Utc>) -> Self {
        self.fence();
        self.updated_at = now;
        self
    }

    /// Makes every other change that was made of this version fail.
    pub fn fence(&mut self) {
        self.revision += 1;
        self.edit = token();
    }
}

impl Pointer {
    /// The first version.
    pub fn new(id: ReleaseId) -> Self {
        Self { id, revision: 1, edit: token(), unknown: Map::new() }
    }

    /// The next version, which names `id`.
    #[must_use]
    pub fn moved(mut self, id: ReleaseId) -> Self {
        self.id = id;
        self.revision += 1;
        self.edit = token();
        self
    }
}

/// A random text that is used once.
pub fn token() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// The clock, in the precision that records have.
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(3)
}

/// Reads what lies at a key.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(key: &Key, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Internal(anyhow::Error::new(error).context(format!("`{key}` is broken"))))
}

/// Writes what is to lie at a key; indented, for people who look into the store.
pub(super) fn render(value: &impl Serialize) -> Result<Bytes> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| Error::Internal(error.into()))?;
    Ok(text.into())
}
