//! An upload: received, checked, stored, and given its marker, in this order.

use bytes::Bytes;
use chrono::{SubsecRound, Utc};

use super::{Package, Packages};
use crate::{
    audit::{self, Action, Actor},
    detached::to_its_end,
    digest::Digest,
    error::{Error, Result},
    marker::{Marker, Source, time_after},
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
        let now = Utc::now().trunc_subsecs(3);
        let time = time_after(listing.newest, now);
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use chrono::DateTime;

    use super::*;
    use crate::{config, marker::name_hash, storage::Storage};

    #[tokio::test]
    async fn a_marker_of_the_end_of_all_times_stops_no_upload() {
        let last: DateTime<Utc> = "9999-12-31T23:59:59.999Z".parse().unwrap();
        // Put there by hand: what is beyond the last is none, so that the clock counts.
        for (time, expected) in [
            (last - chrono::Duration::milliseconds(1), Some(last)),
            (last, Some(last)),
            (last + chrono::Duration::milliseconds(1), None),
            (DateTime::<Utc>::MAX_UTC, None),
        ] {
            let config = config::load_from(std::iter::empty(), Path::new("/nonexistent")).unwrap().config;
            let storage = Storage::memory(64 << 20);
            let (name_hash, etag, sha256) = (name_hash("gone.zip"), "1".to_owned(), Digest::of(b"x"));
            let marker = Marker { name_hash, etag, size: 1, sha256, source: Source::Published, time };
            storage.put_marker(&marker).await.unwrap();

            let packages = Packages::new(storage, &config);
            let begun = Utc::now().trunc_subsecs(3);
            for name in ["a.zip", "b.zip"] {
                let name = PackageName::for_upload(name).unwrap();
                let mut receiving = packages.upload(name.clone(), false, None).await.unwrap();
                receiving.write("bytes".into()).await.unwrap();
                let package = receiving.commit(None, Actor::sweep()).await.unwrap();
                let of_the_clock = begun..=Utc::now() + chrono::Duration::milliseconds(1);
                match expected {
                    Some(expected) => assert_eq!(package.created_at, expected, "{time}"),
                    None => assert!(of_the_clock.contains(&package.created_at), "{time}"),
                }
                let listing = packages.fresh().await.unwrap();
                let listed = listing.find(&name).unwrap();
                assert_eq!((listed.created_at, listed.marked), (package.created_at, true), "{time}");
            }
        }
    }
}
