//! The numbers that releases and assets go by: integers below 2^53, which every JSON reader keeps.
//!
//! - A release's is 42 bits: the seconds since 2020, and 11 bits of chance. It is claimed by creating its record, so
//!   no two releases of a repository have the same.
//! - An asset's is its release's and 11 bits for its slot, so one record tells all about it.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// 2020-01-01T00:00:00Z.
const EPOCH: i64 = 1_577_836_800;

const RELEASE_BITS: u32 = 42;
const CHANCE_BITS: u32 = 11;
const SLOT_BITS: u32 = 11;

/// How many slots a release has.
pub const SLOTS: u16 = 1 << SLOT_BITS;

/// A release of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseId(u64);

impl ReleaseId {
    /// An id for a release made now; `chance` keeps those of one second apart.
    pub fn new(now: DateTime<Utc>, chance: u16) -> Self {
        let seconds = u64::try_from(now.timestamp() - EPOCH).unwrap_or_default();
        let id = (seconds << CHANCE_BITS) | (u64::from(chance) % (1 << CHANCE_BITS));
        // Never 0: clients take it for none.
        Self((id % (1 << RELEASE_BITS)).max(1))
    }

    /// The id as a number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// `None` for what no release can have.
    pub fn from_number(id: u64) -> Option<Self> {
        (1..1 << RELEASE_BITS).contains(&id).then_some(Self(id))
    }

    /// The id of the asset in a slot.
    pub fn asset(self, slot: u16) -> AssetId {
        AssetId((self.0 << SLOT_BITS) | u64::from(slot % SLOTS))
    }
}

/// An asset of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AssetId(u64);

impl AssetId {
    /// The id as a number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// `None` for what no asset can have.
    pub fn from_number(id: u64) -> Option<Self> {
        ReleaseId::from_number(id >> SLOT_BITS).map(|_| Self(id))
    }

    /// The release it is of.
    pub fn release(self) -> ReleaseId {
        ReleaseId(self.0 >> SLOT_BITS)
    }

    /// Its place among that release's.
    pub fn slot(self) -> u16 {
        u16::try_from(self.0 % u64::from(SLOTS)).unwrap_or_default()
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for AssetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ReleaseId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse().ok().and_then(Self::from_number).ok_or(())
    }
}

impl FromStr for AssetId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse().ok().and_then(Self::from_number).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asset_tells_its_release() {
        let now = "2026-09-12T14:03:11Z".parse().unwrap();
        let release = ReleaseId::new(now, 2047);
        for slot in [0, 1, 2047] {
            let asset = release.asset(slot);
            assert_eq!((asset.release(), asset.slot()), (release, slot));
            assert!(asset.get() < 1 << 53);
            assert_eq!(asset.to_string().parse(), Ok(asset));
        }
        assert_eq!(release.to_string().parse(), Ok(release));
        assert_ne!(release, ReleaseId::new(now, 2046));
    }

    #[test]
    fn later_releases_have_greater_ids() {
        let at = |text: &str, chance| ReleaseId::new(text.parse().unwrap(), chance);
        assert!(at("2026-09-12T14:03:12Z", 0) > at("2026-09-12T14:03:11Z", 2047));
        assert!(at("2087-12-31T00:00:00Z", 2047).get() < 1 << 42);
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "0", "-1", "x", "18446744073709551615", "4398046511104", "1.5"] {
            assert!(text.parse::<ReleaseId>().is_err(), "{text}");
        }
        for text in ["0", "2047", "9007199254740992"] {
            assert!(text.parse::<AssetId>().is_err(), "{text}");
        }
    }
}
