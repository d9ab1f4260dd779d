//! What was found in the store, put together to a listing. Pure: no store, no clock.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use object_store::ObjectMeta;

use crate::{
    digest::Digest,
    marker::{Marker, Source, name_hash},
    name::PackageName,
    rendered::Rendered,
    retention::{Candidate, Decision, Origin, Policy, decide},
    storage::Found,
};

/// The file that the Python server wrote beside each upload: 64 hex digits, no newline.
pub(super) const SIDECAR_SUFFIX: &str = ".sha256";
pub(super) const SIDECAR_BYTES: u64 = 64;

/// A package, as a listing or an upload found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Under which it is downloaded.
    pub name: PackageName,
    /// In bytes.
    pub size: u64,
    /// Strong, with its quotes.
    pub etag: String,
    /// When its bytes were last written.
    pub modified: DateTime<Utc>,
    /// When it was published; for what was copied in by hand, when it was last modified.
    pub created_at: DateTime<Utc>,
    /// `None` until the background hasher has seen it.
    pub sha256: Option<Digest>,
    /// `None` while there is no marker, and no sidecar either.
    pub source: Option<Source>,
    /// Whether it has a marker.
    pub marked: bool,
}

impl Package {
    /// The marker it was listed with; none for a package of the Python server, whose sidecar took its place.
    pub(super) fn marker(&self) -> Option<Marker> {
        if !self.marked {
            return None;
        }
        let (name, sha256, source) = (self.name.as_str(), self.sha256?, self.source?);
        Some(Marker::new(name, &self.etag, self.size, sha256, source, self.created_at))
    }
}

impl From<&Package> for Candidate {
    fn from(package: &Package) -> Self {
        Self {
            name: package.name.to_string(),
            size: package.size,
            time: package.created_at,
            origin: match package.source {
                Some(Source::Published) => Origin::Published,
                Some(Source::Found) => Origin::Found,
                None => Origin::Unmarked,
            },
        }
    }
}

/// All packages at one moment.
#[derive(Debug)]
pub struct Listing {
    /// Newest first, then by name; those beyond what retention keeps too.
    pub(super) all: Vec<Package>,
    /// For each of `all`: whether retention lets it be seen.
    pub(super) listed: Vec<bool>,
    by_name: HashMap<PackageName, usize>,
    /// The Python server's digest file of a package.
    pub(super) sidecars: HashMap<PackageName, ObjectMeta>,
    /// The markers' names.
    markers: Arc<Vec<String>>,
    /// Whether a package that is there may be missing.
    pub(super) whole: bool,
    /// The latest time in any marker.
    pub(super) newest: Option<DateTime<Utc>>,
    /// From when on retention may judge otherwise, though nothing in the store changed.
    expires: Option<DateTime<Utc>>,
    /// Answers made from this listing.
    pub(crate) rendered: Rendered,
}

impl Listing {
    /// The packages that are listed, newest first.
    pub fn packages(&self) -> impl Iterator<Item = &Package> {
        self.all.iter().zip(&self.listed).filter(|(_, listed)| **listed).map(|(package, _)| package)
    }

    /// Every package, newest first; those that retention hides until they are removed too.
    pub fn all(&self) -> &[Package] {
        &self.all
    }

    /// Every package, as retention judges it, in the same order.
    pub fn candidates(&self) -> Vec<Candidate> {
        self.all.iter().map(Candidate::from).collect()
    }

    /// The package of this name, listed or not.
    pub fn find(&self, name: &PackageName) -> Option<&Package> {
        self.by_name.get(name).map(|&index| &self.all[index])
    }

    /// Markers that describe nothing any more: no package has the name, or the package has a marker of its own.
    ///
    /// None of a listing that is not whole: it cannot tell what is gone from what it could not see.
    pub fn stale_markers(&self) -> Vec<&str> {
        if !self.whole {
            return Vec::new();
        }
        let live: HashMap<String, &Package> =
            self.all.iter().map(|package| (name_hash(package.name.as_str()), package)).collect();
        let stale = |name: &&String| match Marker::parse(name) {
            // Not ours to judge.
            None => false,
            Some(marker) => match live.get(&marker.name_hash) {
                None => true,
                // A package that waits for the hasher may get its publish time from an older marker.
                Some(package) => package.source.is_some() && !marker.describes(&package.etag, package.size),
            },
        };
        self.markers.iter().filter(stale).map(String::as_str).collect()
    }

    /// Whether retention judges at this time as it did, if nothing in the store changed.
    pub(super) fn holds_at(&self, now: DateTime<Utc>) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    /// When a package with these bytes was last published under this name, by any marker.
    pub(super) fn published(&self, name: &PackageName, size: u64, sha256: Digest) -> Option<DateTime<Utc>> {
        let hash = name_hash(name.as_str());
        self.markers
            .iter()
            .filter(|marker| marker.starts_with(&hash))
            .filter_map(|marker| Marker::parse(marker))
            .filter(|marker| {
                marker.source == Source::Published && marker.size == size && marker.sha256 == sha256
            })
            .map(|marker| marker.time)
            .max()
    }
}

/// Whether something was published in between that is still there.
pub(super) fn publishes(before: &Found, after: &Found) -> bool {
    let known: HashSet<&str> = before.markers.iter().map(String::as_str).collect();
    let new = after.markers.iter().filter(|marker| !known.contains(marker.as_str()));
    let published =
        |marker: &String| Marker::parse(marker).is_some_and(|marker| marker.source == Source::Published);
    new.into_iter().any(published)
}

/// Makes a listing of what was found, newest first, as `policy` judges it at `now`. Pure.
///
/// `digests`: what the files that may be sidecars say, by the names of those files.
#[expect(clippy::implicit_hasher, reason = "there is one caller, with the usual one")]
pub fn assemble(
    found: &Found,
    digests: &HashMap<PackageName, Digest>,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Listing {
    let markers = Markers::read(&found.markers);
    let seen: Seen<'_> = found
        .objects
        .iter()
        .filter_map(|object| {
            let name = PackageName::existing(object.location.as_ref())?;
            let marker = markers.of(&name, object);
            Some((name, (object, marker)))
        })
        .collect();
    let sidecars = sidecars(&seen, digests);
    let mut all = packages(&seen, &sidecars, digests);
    all.sort_unstable_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.name.cmp(&b.name)));

    let candidates: Vec<Candidate> = all.iter().map(Candidate::from).collect();
    let listed = decide(&candidates, policy, now).iter().map(Decision::listed).collect();
    let expires = policy.max_age.and_then(|age| chrono::Duration::from_std(age).ok()).and_then(|age| {
        // An age beyond the calendar's end is one that no package reaches.
        let ends = all.iter().filter_map(|package| package.created_at.checked_add_signed(age));
        ends.filter(|&end| end > now).min()
    });
    Listing {
        by_name: all.iter().enumerate().map(|(index, package)| (package.name.clone(), index)).collect(),
        all,
        listed,
        sidecars,
        markers: Arc::clone(&found.markers),
        whole: found.whole,
        newest: markers.newest(),
        expires,
        rendered: Default::default(),
    }
}

/// Objects that may be packages, each with the marker that describes it.
type Seen<'a> = HashMap<PackageName, (&'a ObjectMeta, Option<&'a Marker>)>;

/// Markers in the order of the names they are of.
struct Markers(Vec<Marker>);

impl Markers {
    fn read(names: &[String]) -> Self {
        let mut markers: Vec<Marker> = names.iter().filter_map(|name| Marker::parse(name)).collect();
        markers.sort_unstable_by(|a, b| a.name_hash.cmp(&b.name_hash));
        Self(markers)
    }

    /// The one that counts, of those that describe this object.
    fn of(&self, name: &PackageName, object: &ObjectMeta) -> Option<&Marker> {
        let hash = name_hash(name.as_str());
        let etag = object.e_tag.as_deref().unwrap_or_default();
        let first = self.0.partition_point(|marker| marker.name_hash < hash);
        let of_name = self.0[first..].iter().take_while(|marker| marker.name_hash == hash);
        of_name.filter(|marker| marker.describes(etag, object.size)).max_by_key(|marker| marker.rank())
    }

    fn newest(&self) -> Option<DateTime<Utc>> {
        self.0.iter().map(|marker| marker.time).max()
    }
}

/// The sidecars, by the names of their packages. One lies beside a package of the Python server; what was uploaded to this
/// one is no sidecar, and has none.
fn sidecars(seen: &Seen<'_>, digests: &HashMap<PackageName, Digest>) -> HashMap<PackageName, ObjectMeta> {
    let uploaded = |name: &PackageName| {
        let marker = seen.get(name).and_then(|(_, marker)| *marker);
        marker.is_some_and(|marker| marker.source == Source::Published)
    };
    let sidecar = |file: &PackageName| {
        let sibling = file.as_str().strip_suffix(SIDECAR_SUFFIX).and_then(PackageName::existing)?;
        if !seen.contains_key(&sibling) || uploaded(&sibling) || uploaded(file) {
            return None;
        }
        Some((sibling, seen.get(file)?.0.clone()))
    };
    digests.keys().filter_map(sidecar).collect()
}

/// What of it are packages: all but the sidecars, whose digests they have.
fn packages(
    seen: &Seen<'_>,
    sidecars: &HashMap<PackageName, ObjectMeta>,
    digests: &HashMap<PackageName, Digest>,
) -> Vec<Package> {
    let is_sidecar = |name: &PackageName| {
        let sibling = name.as_str().strip_suffix(SIDECAR_SUFFIX);
        let sidecar = sibling.and_then(|sibling| sidecars.get(sibling));
        sidecar.is_some_and(|sidecar| sidecar.location.as_ref() == name.as_str())
    };
    let package = |(name, (object, marker)): (&PackageName, &(&ObjectMeta, Option<&Marker>))| {
        // A digest from before the bytes is not theirs.
        let sidecar = sidecars
            .get(name)
            .filter(|sidecar| marker.is_none() && sidecar.last_modified >= object.last_modified)
            .and_then(|sidecar| digests.get(sidecar.location.as_ref()));
        Package {
            name: name.clone(),
            size: object.size,
            etag: object.e_tag.clone().unwrap_or_default(),
            modified: object.last_modified,
            created_at: marker.map_or(object.last_modified, |marker| marker.time),
            sha256: marker.map(|marker| marker.sha256).or(sidecar.copied()),
            source: marker.map(|marker| marker.source).or(sidecar.map(|_| Source::Published)),
            marked: marker.is_some(),
        }
    };
    seen.iter().filter(|(name, _)| !is_sidecar(name)).map(package).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn packages_may_be_kept_for_longer_than_the_calendar_goes() {
        let now: DateTime<Utc> = "2026-09-12T14:03:11Z".parse().unwrap();
        let object = ObjectMeta {
            location: "app.zip".into(),
            last_modified: now,
            size: 3,
            e_tag: Some("\"1\"".to_owned()),
            version: None,
        };
        let found = Found {
            objects: vec![object],
            markers: Default::default(),
            skipped: 0,
            whole: true,
            generation: None,
        };
        let ages = Duration::from_hours(24 * 366 * 1_000_000);
        let policy = Policy { max_age: Some(ages), ..Policy::default() };
        let listing = assemble(&found, &HashMap::new(), &policy, now);
        assert_eq!(listing.packages().count(), 1);
        assert!(listing.holds_at(now));
    }
}
