//! An upload: received, checked, stored, and given its marker, in this order.

use bytes::Bytes;
use chrono::{SubsecRound, Utc};

use super::{Package, Packages};
use crate::{
    audit::{self, Action, Actor},
    detached::to_its_end,
    digest::Digest,
    error::{Error, Result},
    marker::{Marker, Source},
    metrics,
    name::PackageName,
    storage::Upload,
};

/// A package being received.
pub struct Receiving {
    incoming: Incoming,
    receipt: metrics::Receipt,
}

impl Receiving {
    pub(super) fn new(
        packages: Packages,
        name: PackageName,
        overwrite: bool,
        upload: Upload,
        receipt: metrics::Receipt,
    ) -> Self {
        Self { incoming: Incoming { packages, name, overwrite, upload }, receipt }
    }

    /// Takes the next bytes; refuses those past the limit.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let Incoming { packages, upload, .. } = &mut self.incoming;
        let limit = packages.0.max_upload_bytes;
        let written = if upload.size() + bytes.len() as u64 > limit {
            Err(Error::TooLarge(limit))
        } else {
            upload.write(bytes).await
        };
        if let Err(error) = &written {
            self.receipt.end(error.into(), 0);
        }
        written
    }

    /// Publishes what was received, durable and with its marker, if its digest is the `declared` one.
    ///
    /// Runs to its end even if the caller goes away.
    pub async fn commit(self, declared: Option<Digest>, actor: Actor) -> Result<Package> {
        to_its_end(async move {
            let Self { incoming, mut receipt } = self;
            let name = incoming.name.clone();
            let published = incoming.publish(declared).await;
            match &published {
                Ok((package, None)) => {
                    receipt.end(metrics::Upload::Created, package.size);
                    audit::done(&actor, Action::Publish, package, None, None);
                }
                Ok((package, Some(previous))) => {
                    receipt.end(metrics::Upload::Replaced, package.size);
                    audit::done(&actor, Action::Replace, package, previous.sha256, None);
                }
                Err(error) => {
                    receipt.end(error.into(), 0);
                    audit::failed(&actor, Action::Publish, name.as_str(), error);
                }
            }
            Ok(published?.0)
        })
        .await
    }
}

/// The bytes of a package, and what is to become of them.
struct Incoming {
    packages: Packages,
    name: PackageName,
    overwrite: bool,
    upload: Upload,
}

impl Incoming {
    /// The new package, and what had the name before.
    async fn publish(mut self, declared: Option<Digest>) -> Result<(Package, Option<Package>)> {
        let size = self.upload.size();
        if size == 0 {
            return Err(Error::Invalid("the file is empty; send its bytes".into()));
        }
        let sha256 = self.upload.digest().await?;
        if let Some(declared) = declared.filter(|&declared| declared != sha256) {
            let (declared, actual) = (declared.to_string(), sha256.to_string());
            return Err(Error::DigestMismatch { declared, actual });
        }
        let packages = &self.packages;
        let listing = packages.fresh().await?;
        if self.overwrite {
            // First, or a crash would leave the old digest beside the new bytes.
            packages.remove_sidecar(&listing, &self.name).await?;
        }
        let storage = &packages.0.storage;
        let written = match self.upload.commit().await {
            Err(Error::AlreadyExists(what)) => {
                return storage.settle(&self.name).await.and(Err(Error::AlreadyExists(what)));
            }
            written => written?,
        };
        // Later than everything published before, also by a server whose clock is ahead.
        let newest = listing.newest;
        let after_newest = newest.map(|newest| newest + chrono::Duration::milliseconds(1));
        let now = Utc::now().trunc_subsecs(3);
        let time = after_newest.map_or(now, |after| after.max(now));
        let name = self.name.as_str();
        let marker = Marker::new(name, &written.etag, size, sha256, Source::Published, time);
        storage.put_marker(&marker).await?;
        storage.confirm(&written).await?;
        packages.0.changed.notify_one();
        // Without `overwrite` it was gone by the time the name was taken.
        let previous = listing.find(&self.name).filter(|_| self.overwrite).cloned();
        let package = Package {
            name: self.name,
            size,
            etag: written.etag,
            modified: now,
            created_at: time,
            sha256: Some(sha256),
            source: Some(Source::Published),
            marked: true,
        };
        Ok((package, previous))
    }
}
