//! The files of releases: upload, find, edit, delete, read.
//!
//! - The bytes go to a key of their own first, and appear when the manifest names them: whole or not at all.
//! - A name that has the same bytes already is a success, so an upload may be repeated; other bytes are refused, or
//!   take the place of the old ones at once where replacing was asked for.
//! - What no manifest names is removed by the sweep after a day, counted from when one named it last; an upload that takes
//!   half of that is refused.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::Map;

use super::{
    Inner, Releases,
    id::{AssetId, ReleaseId},
    name::{Repository, asset_name},
    record::{Asset, Dropped, Record, now, token},
    sweep::ORPHANED,
};
use crate::{
    audit::{self, Action, Actor},
    detached::to_its_end,
    digest::Digest,
    error::{Breach, Error, Result},
    storage::{Content, Upload, repos::Key},
};

/// The most assets of a release, as on GitHub.
const MOST: usize = 1000;

/// The longest label, in characters: those of all assets are in one record, which is read with every change.
const MAX_LABEL: usize = 1000;

/// An upload that takes longer is refused: its bytes might be taken for abandoned before they are named.
const LONGEST_UPLOAD: chrono::Duration = chrono::Duration::hours(12);

/// A file to be uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAsset {
    /// In characters that assets may have.
    name: String,
    /// What people are shown instead.
    label: Option<String>,
    content_type: String,
    overwrite: bool,
}

impl NewAsset {
    /// A file by the name that GitHub would make of `name`; `overwrite` replaces one of that name.
    pub fn new(
        name: &str,
        label: Option<String>,
        content_type: Option<&str>,
        overwrite: bool,
    ) -> Result<Self> {
        let named = named(name)?;
        let content_type = content_type.filter(|text| !text.trim().is_empty() && text.len() <= 200);
        Ok(Self {
            name: named,
            label: labelled(label)?,
            content_type: content_type.unwrap_or("application/octet-stream").to_owned(),
            overwrite,
        })
    }

    /// The name it gets.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A change of an asset; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AssetEdit {
    /// Another name.
    pub name: Option<String>,
    /// Another label; `Some(None)`: none.
    pub label: Option<Option<String>>,
}

impl Releases {
    /// Begins an upload of `length` bytes, if that is known.
    ///
    /// Refused at once if it is hopeless: no such release, a frozen one, or a name that has bytes of another length.
    pub async fn upload(
        &self,
        repository: &Repository,
        id: ReleaseId,
        asset: NewAsset,
        length: Option<u64>,
        actor: Actor,
    ) -> Result<Receiving> {
        self.changeable()?;
        if length.is_some_and(|length| length > self.0.max_upload_bytes) {
            return Err(Error::TooLarge(self.0.max_upload_bytes));
        }
        let record = self.find(repository, id).await?;
        admit(&record, &asset, |existing| length.is_none_or(|length| length == existing.size))?;
        let key = Key::bytes(repository, id, &token(), &asset.name);
        let upload = self.0.storage.upload_to(&key, length);
        Ok(Receiving {
            releases: self.clone(),
            repository: repository.clone(),
            id,
            asset,
            key,
            upload,
            begun: Utc::now(),
            actor,
        })
    }

    /// The asset of this id, and its release, drafts included.
    pub async fn find_asset(&self, repository: &Repository, id: AssetId) -> Result<(Arc<Record>, Asset)> {
        let record = self.find(repository, id.release()).await?;
        let asset = record.asset_by_id(id).cloned().ok_or_else(|| missing(repository, id))?;
        Ok((record, asset))
    }

    /// Renames or labels an asset. Runs to its end even if the caller goes away.
    pub async fn edit_asset(
        &self,
        repository: &Repository,
        id: AssetId,
        edit: AssetEdit,
        actor: &Actor,
    ) -> Result<(Arc<Record>, Asset)> {
        self.changeable()?;
        let name = edit.name.as_deref().map(named).transpose()?;
        let label = edit.label.map(labelled).transpose()?;
        let (this, repository, actor) = (self.clone(), repository.clone(), actor.clone());
        to_its_end(async move {
            let changed = this.0.change(&repository, id.release(), |record| {
                let mut next = visible(record, &repository)?.clone();
                thawed(record)?;
                if let Some(name) = &name
                    && record.asset(name).is_some_and(|other| other.id != id)
                {
                    return Err(name_is_taken(name));
                }
                let asset = next.assets.iter_mut().find(|asset| asset.id == id);
                let asset = asset.ok_or_else(|| missing(&repository, id))?;
                let before = asset.clone();
                asset.name = name.clone().unwrap_or(before.name.clone());
                asset.label = label.clone().unwrap_or(before.label.clone());
                if *asset == before {
                    return Ok(None);
                }
                asset.updated_at = now();
                Ok(Some(next))
            });
            let changed = changed.await;
            let failed = |error: &Error| audit::failed_in(&actor, Action::Change, repository.as_str(), error);
            let record = changed.inspect_err(failed)?.record;
            let asset = record.asset_by_id(id).cloned().ok_or_else(|| missing(&repository, id))?;
            audit::done_in(&actor, Action::Change, &record, Some(&asset), None, None);
            Ok((record, asset))
        })
        .await
    }

    /// Takes an asset out of its release; gives what it was. Runs to its end even if the caller goes away.
    pub async fn delete_asset(&self, repository: &Repository, id: AssetId, actor: &Actor) -> Result<Asset> {
        self.changeable()?;
        let (this, repository, actor) = (self.clone(), repository.clone(), actor.clone());
        to_its_end(async move {
            let found = this.find_asset(&repository, id).await;
            if let Err(Error::NotFound(_)) = &found {
                this.0.storage.settle_key(&Key::record(&repository, id.release())).await?;
            }
            let (_, asset) = found?;
            let changed = this
                .0
                .change(&repository, id.release(), |record| {
                    let mut next = visible(record, &repository)?.clone();
                    thawed(record)?;
                    drop_assets(&mut next, |asset| asset.id == id);
                    if next.assets.len() == record.assets.len() {
                        return Err(missing(&repository, id));
                    }
                    Ok(Some(next))
                })
                .await;
            let failed = |error: &Error| audit::failed_in(&actor, Action::Delete, repository.as_str(), error);
            let record = changed.inspect_err(failed)?.record;
            audit::done_in(&actor, Action::Delete, &record, Some(&asset), None, None);
            Ok(asset)
        })
        .await
    }

    /// The bytes of `range` of an asset; they never change.
    pub async fn read(&self, repository: &Repository, asset: &Asset, range: Range<u64>) -> Result<Content> {
        self.0.storage.bytes_at(&key_of(repository, asset)?, asset.size, range).await
    }

    /// A link by which anybody can fetch the asset from the store itself for a while; `None` where there are none.
    pub async fn link(
        &self,
        repository: &Repository,
        asset: &Asset,
        disposition: &str,
    ) -> Result<Option<url::Url>> {
        let key = key_of(repository, asset)?;
        self.0.storage.link_to(&key, disposition, &asset.content_type).await
    }
}

/// An asset being received.
pub struct Receiving {
    releases: Releases,
    repository: Repository,
    id: ReleaseId,
    asset: NewAsset,
    key: Key,
    upload: Upload,
    begun: DateTime<Utc>,
    actor: Actor,
}

/// What became of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// The release that it is in.
    pub record: Arc<Record>,
    /// The asset.
    pub asset: Asset,
    /// Whether it was there before, with the same bytes.
    pub repeated: bool,
}

impl Receiving {
    /// Takes the next bytes; refuses those past the limit.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let limit = self.releases.max_upload_bytes();
        if self.upload.size() + bytes.len() as u64 > limit {
            return Err(Error::TooLarge(limit));
        }
        self.upload.write(bytes).await
    }

    /// Puts what was received into the release, if its digest is the `declared` one.
    ///
    /// Runs to its end even if the caller goes away.
    pub async fn commit(self, declared: Option<Digest>) -> Result<Uploaded> {
        to_its_end(async move {
            let (actor, repository) = (self.actor.clone(), self.repository.clone());
            let published = self.publish(declared).await;
            match &published {
                Ok((uploaded, _)) if uploaded.repeated => {}
                Ok((Uploaded { record, asset, .. }, previous)) => {
                    let action = if previous.is_some() { Action::Replace } else { Action::Publish };
                    audit::done_in(&actor, action, record, Some(asset), previous.as_ref(), None);
                }
                Err(error) => audit::failed_in(&actor, Action::Publish, repository.as_str(), error),
            }
            published.map(|(uploaded, _)| uploaded)
        })
        .await
    }

    /// What it came to, and what it replaced.
    async fn publish(mut self, declared: Option<Digest>) -> Result<(Uploaded, Option<Asset>)> {
        let (id, repository, size) = (self.id, self.repository, self.upload.size());
        let sha256 = self.upload.digest().await?;
        if let Some(declared) = declared.filter(|&declared| declared != sha256) {
            let (declared, actual) = (declared.to_string(), sha256.to_string());
            return Err(Error::DigestMismatch { declared, actual });
        }
        let inner = &self.releases.0;
        let same = |existing: &Asset| existing.sha256 == sha256;
        // A repeated upload is found out before its bytes are stored a second time.
        let before = inner.live(&repository, id).await?.record;
        if let Some(existing) = admit(&before, &self.asset, same)? {
            let asset = existing.clone();
            inner.storage.settle_key(&Key::record(&repository, id)).await?;
            return Ok((Uploaded { record: before, asset, repeated: true }, None));
        }
        self.upload.commit().await?;

        let time = now();
        let (new, uploader) = (self.asset, self.actor.name().to_owned());
        let previous = before.asset(&new.name).cloned();
        let key = self.key.clone();
        let begun = self.begun;
        let changed = inner.change(&repository, id, |record| {
            if Utc::now() - begun > LONGEST_UPLOAD {
                return Err(Error::Unprocessable(
                    "the upload took longer than 12 hours; send it again".into(),
                ));
            }
            let mut next = visible(record, &repository)?.clone();
            if admit(record, &new, same)?.is_some() {
                return Ok(None);
            }
            drop_assets(&mut next, |asset| asset.name == new.name);
            let slot = next.take_slot().ok_or_else(too_many)?;
            next.assets.push(Asset {
                id: id.asset(slot),
                name: new.name.clone(),
                label: new.label.clone(),
                content_type: new.content_type.clone(),
                size,
                sha256,
                key: key.as_str().to_owned(),
                uploader: uploader.clone(),
                created_at: time,
                updated_at: time,
                unknown: Map::new(),
            });
            Ok(Some(next))
        });
        let changed = changed.await;
        let named = |record: &Record| record.assets.iter().any(|asset| asset.key == key.as_str());
        match &changed {
            // It is certain that nothing names these bytes, nor ever will; else the sweep finds out.
            Err(Error::Breach(_) | Error::Unprocessable(_) | Error::NotFound(_)) => erase(inner, &key).await,
            Ok(version) if !named(&version.record) => erase(inner, &key).await,
            _ => {}
        }
        let record = changed?.record;
        let asset = record.asset(&new.name).cloned().ok_or_else(|| {
            Error::Internal(anyhow::anyhow!("`{}` is not in the record just written", new.name))
        })?;
        let repeated = asset.key != key.as_str();
        Ok((Uploaded { record, asset, repeated }, previous))
    }
}

/// Takes assets out of a manifest. Their bytes stay for a day, for who is reading them: it says since when.
fn drop_assets(record: &mut Record, gone: impl Fn(&Asset) -> bool) {
    let at = now();
    record.dropped.retain(|dropped| at - dropped.at < ORPHANED);
    let taken = record.assets.extract_if(.., |asset| gone(asset));
    record.dropped.extend(taken.map(|asset| Dropped { key: asset.key, at, unknown: Map::new() }));
    // Who replaces more than that within a day does not make the record grow without end: the first of them may go sooner.
    let excess = record.dropped.len().saturating_sub(MOST);
    record.dropped.drain(..excess);
}

async fn erase(inner: &Inner, key: &Key) {
    if let Err(error) = inner.storage.erase(key).await {
        let error = error.with_causes();
        tracing::warn!(event = "cleanup", error, "bytes of an upload that was refused are left to the sweep");
    }
}

/// Whether a release takes an asset: the one that is there already with the `same` bytes, or none.
fn admit<'a>(record: &'a Record, new: &NewAsset, same: impl Fn(&Asset) -> bool) -> Result<Option<&'a Asset>> {
    let existing = record.asset(&new.name);
    if let Some(existing) = existing.filter(|existing| same(existing)) {
        return Ok(Some(existing));
    }
    thawed(record)?;
    match existing {
        Some(_) if !new.overwrite => Err(name_is_taken(&new.name)),
        None if record.assets.len() >= MOST => Err(too_many()),
        _ => Ok(None),
    }
}

fn visible<'a>(record: &'a Record, repository: &Repository) -> Result<&'a Record> {
    if record.is_live() { Ok(record) } else { Err(Error::NotFound(format!("{repository} {}", record.id))) }
}

fn thawed(record: &Record) -> Result<()> {
    if record.immutable && record.published {
        return Err(Error::Unprocessable("Cannot upload assets to an immutable release.".into()));
    }
    Ok(())
}

fn key_of(repository: &Repository, asset: &Asset) -> Result<Key> {
    Key::parse_bytes(repository, &asset.key).ok_or_else(|| {
        Error::Internal(anyhow::anyhow!("`{}` is no key of an asset of `{repository}`", asset.key))
    })
}

fn named(name: &str) -> Result<String> {
    let invalid = |code, message: String| {
        Error::Breach(Breach { resource: "ReleaseAsset", field: "name", code, message })
    };
    if name.is_empty() {
        return Err(invalid("missing_field", "the asset has no name; send `?name=`".into()));
    }
    asset_name(name).ok_or_else(|| {
        let shown: String = name.chars().take(80).flat_map(char::escape_default).collect();
        let rule = "use at least one ASCII letter or digit, and at most 200 bytes";
        invalid("invalid", format!("`{shown}` cannot be the name of an asset: {rule}"))
    })
}

/// The label that is meant: an empty one is none.
fn labelled(label: Option<String>) -> Result<Option<String>> {
    match label.filter(|label| !label.is_empty()) {
        Some(label) if label.chars().count() > MAX_LABEL => Err(Error::Breach(Breach {
            resource: "ReleaseAsset",
            field: "label",
            code: "custom",
            message: format!("label is too long (maximum is {MAX_LABEL} characters)"),
        })),
        label => Ok(label),
    }
}

fn name_is_taken(name: &str) -> Error {
    Error::Breach(Breach {
        resource: "ReleaseAsset",
        field: "name",
        code: "already_exists",
        message: format!("the release has an asset `{name}` with other bytes; delete it first"),
    })
}

fn too_many() -> Error {
    Error::Breach(Breach {
        resource: "ReleaseAsset",
        field: "file_count",
        code: "custom",
        message: format!("file_count limited to {MOST} assets per release"),
    })
}

fn missing(repository: &Repository, id: AssetId) -> Error {
    Error::NotFound(format!("{repository} {id}"))
}
