//! What lies below `repos/`: records and pointers, swapped if they are still what was read, and bytes of assets,
//! written once under a key of their own.
//!
//! - [`Storage::create`] and [`Storage::replace`] are the only ways to write a [`Key`]: of any number of writers that
//!   read the same version, over all replicas, one succeeds.
//! - After [`Error::Unavailable`] it is not known whether the write happened: read again.
//! - No key here is ever the parent of another.

use std::{fmt, ops::Range};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use object_store::{
    Error as StoreError, GetOptions, ObjectStoreExt, PutMode, PutPayload, UpdateVersion, path::Path,
};

use super::{Content, Engine, LINK_LIFETIME, REPOS, Storage, Upload, at, content_of, key_of};
use crate::{
    error::{Error, Result},
    releases::{
        id::ReleaseId,
        name::{Repository, TagName},
    },
};

/// Where something of a repository lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(Path);

impl Key {
    /// A release's record: `repos/OWNER/REPO/releases/RID.json`.
    pub fn record(repository: &Repository, id: ReleaseId) -> Self {
        Self(key_of(&format!("{}/{id}.json", Self::records(repository))))
    }

    /// The folder of a repository's records.
    pub fn records(repository: &Repository) -> Self {
        Self(key_of(&format!("{REPOS}/{}/releases", repository.key())))
    }

    /// The pointer that is the lock on a tag: `repos/OWNER/REPO/tags/TAG`, the tag percent-encoded whole.
    pub fn pointer(repository: &Repository, tag: &TagName) -> Self {
        Self(key_of(&format!("{REPOS}/{}/tags/{}", repository.key(), tag.encoded())))
    }

    /// The bytes of an asset: `repos/OWNER/REPO/files/RID/TOKEN/NAME`.
    pub fn bytes(repository: &Repository, id: ReleaseId, token: &str, name: &str) -> Self {
        Self(key_of(&format!("{}/{id}/{token}/{name}", Self::files(repository))))
    }

    /// The folder of all bytes of a repository.
    pub fn files(repository: &Repository) -> Self {
        Self(key_of(&format!("{REPOS}/{}/files", repository.key())))
    }

    /// The folder of all bytes of a release.
    pub fn files_of(repository: &Repository, id: ReleaseId) -> Self {
        Self(key_of(&format!("{}/{id}", Self::files(repository))))
    }

    /// A key as a record names it; `None` if it is no file of `repository`.
    pub fn parse_bytes(repository: &Repository, text: &str) -> Option<Self> {
        let parsed = Path::parse(text).ok()?;
        let within = parsed.prefix_matches(&Self::files(repository).0);
        (within && parsed.as_ref() == text).then_some(Self(parsed))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        self.0.as_ref()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a read of a small object came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// Its bytes, and the ETag that [`Storage::replace`] takes.
    Fresh(Bytes, String),
    /// It still has the ETag that was named.
    Unchanged,
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it lies.
    pub key: Key,
    /// What [`Storage::replace`] takes.
    pub etag: String,
    /// When it was last written; on some engines, when that began.
    pub modified: DateTime<Utc>,
}

impl Entry {
    /// The last part of its key.
    pub fn name(&self) -> &str {
        self.key.0.filename().unwrap_or_default()
    }
}

impl Storage {
    /// Reads a small object, unless it still has the ETag `known`.
    pub async fn read(&self, key: &Key, known: Option<&str>) -> Result<Read> {
        let options = GetOptions::new().with_if_none_match(known.map(str::to_owned));
        let found = match self.objects.get_opts(&key.0, options).await {
            Err(StoreError::NotModified { .. }) => return Ok(Read::Unchanged),
            found => found.map_err(at(key.as_str()))?,
        };
        let etag = found.meta.e_tag.clone().ok_or_else(|| no_etag(key))?;
        let bytes = found.bytes().await.map_err(at(key.as_str()))?;
        Ok(Read::Fresh(bytes, etag))
    }

    /// Writes what must not be there yet; gives its ETag. `Error::AlreadyExists` if it is.
    pub async fn create(&self, key: &Key, bytes: Bytes) -> Result<String> {
        self.put(key, bytes, PutMode::Create).await
    }

    /// Writes over the version whose ETag is `expected`; gives the new ETag.
    ///
    /// `Error::Changed` if it is another version, or gone: nothing was written then.
    pub async fn replace(&self, key: &Key, bytes: Bytes, expected: &str) -> Result<String> {
        let version = UpdateVersion { e_tag: Some(expected.to_owned()), version: None };
        match self.put(key, bytes, PutMode::Update(version)).await {
            Err(Error::NotFound(what) | Error::AlreadyExists(what)) => Err(Error::Changed(what)),
            written => written,
        }
    }

    async fn put(&self, key: &Key, bytes: Bytes, mode: PutMode) -> Result<String> {
        let put = self.objects.put_opts(&key.0, PutPayload::from_bytes(bytes), mode.into()).await;
        put.map_err(at(key.as_str()))?.e_tag.ok_or_else(|| no_etag(key))
    }

    /// As [`Storage::settle`], for what lies at a key.
    pub async fn settle_key(&self, key: &Key) -> Result<()> {
        self.settle_at(&key.0).await
    }

    /// What lies in a folder, in no order; nothing if there is no such folder.
    pub async fn entries(&self, folder: &Key) -> Result<Vec<Entry>> {
        let found = self.objects.list_with_delimiter(Some(&folder.0)).await.map_err(at(folder.as_str()))?;
        Ok(found.objects.into_iter().map(entry).collect())
    }

    /// What lies below a folder, at any depth.
    pub async fn entries_below(&self, folder: &Key) -> Result<Vec<Entry>> {
        let found = self.objects.list(Some(&folder.0)).map_ok(entry);
        found.try_collect().await.map_err(at(folder.as_str()))
    }

    /// Every repository that anything lies of, in the spelling of its key.
    pub async fn repositories(&self) -> Result<Vec<Repository>> {
        // It would hide all of them from listings, on some stores.
        if self.objects.head(&key_of(REPOS)).await.is_ok() {
            tracing::error!(
                event = "listing",
                key = REPOS,
                "an object named `{REPOS}` hides the repositories: remove it"
            );
        }
        let mut repositories = Vec::new();
        for owner in self.folders(&key_of(REPOS)).await? {
            for repository in self.folders(&owner).await? {
                let name = |path: &Path| path.filename().map(str::to_owned);
                let parsed = name(&owner).zip(name(&repository));
                repositories.extend(parsed.and_then(|(owner, name)| Repository::new(&owner, &name)));
            }
        }
        Ok(repositories)
    }

    async fn folders(&self, folder: &Path) -> Result<Vec<Path>> {
        let found = self.objects.list_with_delimiter(Some(folder)).await.map_err(at(folder.as_ref()))?;
        for object in &found.objects {
            tracing::error!(
                event = "listing",
                key = %object.location,
                "an object lies where a folder of repositories should be, and may hide what is below its name: remove it"
            );
        }
        Ok(found.common_prefixes)
    }

    /// Removes an object whose key is never used again; a missing one is no error.
    pub async fn erase(&self, key: &Key) -> Result<()> {
        match self.objects.delete(&key.0).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(at(key.as_str())(error)),
        }
        if let Engine::Directory(directory) = &self.engine {
            directory.prune(&key.0, &key_of(REPOS)).await;
        }
        Ok(())
    }

    /// Begins an upload of `length` bytes, if that is known, to a key that nothing lies at.
    pub fn upload_to(&self, key: &Key, length: Option<u64>) -> Upload {
        self.upload_at(key.0.clone(), PutMode::Create, length)
    }

    /// The bytes of `range` of what was uploaded to a key, `size` bytes in all. They never change.
    pub async fn bytes_at(&self, key: &Key, size: u64, range: Range<u64>) -> Result<Content> {
        let read = async |range: Range<u64>| {
            let options = GetOptions::new().with_range((range != (0..size)).then_some(range));
            let found = self.objects.get_opts(&key.0, options).await.map_err(at(key.as_str()))?;
            if found.meta.size != size {
                let error = anyhow::anyhow!("`{key}` has {} bytes instead of {size}", found.meta.size);
                return Err(Error::Internal(error));
            }
            Ok(content_of(found, key.to_string()))
        };
        self.hot.read((key.as_str(), ""), size, range, self.metrics, read).await
    }

    /// As [`Storage::link`], for the bytes of an asset.
    pub async fn link_to(
        &self,
        key: &Key,
        disposition: &str,
        content_type: &str,
    ) -> Result<Option<url::Url>> {
        let Engine::Bucket(removals) = &self.engine else { return Ok(None) };
        let location = removals.full(&key.0);
        let link = removals.bucket().link(&location, LINK_LIFETIME, disposition, content_type).await;
        link.map(Some).map_err(at(key.as_str()))
    }
}

fn entry(meta: object_store::ObjectMeta) -> Entry {
    Entry { key: Key(meta.location), etag: meta.e_tag.unwrap_or_default(), modified: meta.last_modified }
}

fn no_etag(key: &Key) -> Error {
    Error::Internal(anyhow::anyhow!("the store gave no ETag for `{key}`"))
}
