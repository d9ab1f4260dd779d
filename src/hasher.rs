//! Finds out the digest of packages that have no marker: copied in by hand, or left by a crash between two writes.
//!
//! One package at a time, in the background. Only what is at rest is hashed: the file must not have been written
//! for `AT_REST`, and its ETag must be the same before and after. Several processes may hash the same package;
//! they write the same marker.

use std::{collections::HashSet, time::Duration};

use chrono::Utc;
use futures_util::TryStreamExt;
use object_store::GetOptions;

use crate::{
    digest::{Digest, Hasher},
    error::{Error, Result},
    packages::{Package, Packages},
};

/// How long a file must not have been written before it is hashed: a copy under way is written all the time.
const AT_REST: Duration = Duration::from_secs(2);

/// How long to wait after a round that left something unhashed.
const PAUSE: Duration = Duration::from_secs(5);

/// Hashes whatever listings find without a digest, for ever.
pub async fn run(packages: Packages) {
    let mut given_up = HashSet::new();
    loop {
        let again = match round(&packages, &mut given_up).await {
            Ok(again) => again,
            Err(error) => {
                tracing::warn!(event = "hash", error = error.with_causes(), "cannot list");
                true
            }
        };
        if again {
            tokio::time::sleep(PAUSE).await;
        } else {
            packages.unhashed().await;
        }
    }
}

/// Hashes what a fresh listing finds; whether something is left that may succeed later.
async fn round(packages: &Packages, given_up: &mut HashSet<(String, String)>) -> Result<bool> {
    let listing = packages.fresh().await?;
    let mut again = false;
    for package in listing.all().iter().filter(|package| package.sha256.is_none()) {
        let this = (package.name.to_string(), package.etag.clone());
        if given_up.contains(&this) {
            continue;
        }
        // One of the future was dated by hand, or by a clock that is ahead: who writes it now would date it now.
        if (Utc::now() - package.modified).to_std().is_ok_and(|still| still < AT_REST) {
            again = true;
            continue;
        }
        match hash(packages, package).await {
            Ok(sha256) => {
                packages.put_digest(&listing, package, sha256).await?;
                tracing::info!(
                    event = "hash",
                    "package.name" = %package.name,
                    size_bytes = package.size,
                    sha256 = %sha256,
                    "found the digest of `{}`",
                    package.name
                );
            }
            // Replaced or removed meanwhile: the next listing tells.
            Err(Error::Changed(_) | Error::NotFound(_)) => again = true,
            Err(error) => {
                let error = error.with_causes();
                tracing::warn!(event = "hash", "package.name" = %package.name, error, "cannot read `{}`", package.name);
                given_up.insert(this);
            }
        }
    }
    Ok(again)
}

async fn hash(packages: &Packages, package: &Package) -> Result<Digest> {
    let storage = packages.storage();
    let options = GetOptions::new().with_if_match(Some(package.etag.clone()));
    let mut blocks = storage.open(&package.name, options).await?.into_stream();
    let mut hasher = Hasher::default();
    let broken = |error| Error::Unavailable(anyhow::Error::new(error));
    while let Some(block) = blocks.try_next().await.map_err(broken)? {
        let hashed = tokio::task::spawn_blocking(move || {
            hasher.update(&block);
            hasher
        });
        hasher = hashed.await.map_err(|error| Error::Internal(error.into()))?;
    }
    let after = storage.find(&package.name).await?.e_tag;
    if after.as_ref() == Some(&package.etag) {
        Ok(hasher.finish())
    } else {
        Err(Error::Changed(package.name.to_string()))
    }
}
