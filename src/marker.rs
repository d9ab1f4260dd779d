//! What is known of a package beyond its bytes, written in the name of an empty object.
//!
//! `HASH.ETAG.SIZE.SHA256.published-MS` or `….found-MS`: HASH is the first 32 hex digits of the SHA-256 of the
//! package's name, MS the milliseconds since 1970 at which it was published (or, for what was found in the store,
//! last modified), up to the end of the year 9999. A marker is bound to one ETag, so it can never describe other
//! bytes: it needs no lock and no update, and one flat listing without reads gives all of them.

use std::fmt;

use chrono::{DateTime, Utc};

use crate::digest::Digest;

/// The last millisecond of the year 9999: years have four digits in RFC 3339.
pub(crate) const LAST: DateTime<Utc> =
    DateTime::from_timestamp_millis(253_402_300_799_999).expect("the calendar goes further");

/// How a package came to be here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Copied in by hand, or left between two writes by a crash.
    Found,
    /// Uploaded through the server.
    Published,
}

/// What is known of the bytes that one name had at one ETag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// [`name_hash`] of the package's name.
    pub name_hash: String,
    /// The ETag without its quotes.
    pub etag: String,
    /// In bytes.
    pub size: u64,
    /// Of the bytes.
    pub sha256: Digest,
    /// Who wrote the marker: an upload, or the background hasher.
    pub source: Source,
    /// When it was published; for what was found, when it was last modified. Whole milliseconds.
    pub time: DateTime<Utc>,
}

impl Marker {
    /// The marker of the bytes that the package `name` has under an ETag (quotes and all). Its time is the nearest
    /// that a marker can have.
    pub fn new(
        name: &str,
        etag: &str,
        size: u64,
        sha256: Digest,
        source: Source,
        time: DateTime<Utc>,
    ) -> Self {
        let (name_hash, etag, time) = (name_hash(name), unquoted(etag).to_owned(), writable(time));
        Self { name_hash, etag, size, sha256, source, time }
    }

    /// Of several markers of the same bytes, the greatest counts: the newest `published`, else the newest `found`.
    pub fn rank(&self) -> (Source, DateTime<Utc>) {
        (self.source, self.time)
    }

    /// Reads a marker's name; `None` if it is none of ours.
    pub fn parse(name: &str) -> Option<Self> {
        let mut fields = name.split('.');
        let mut next = || fields.next();
        let (name_hash, etag, size, sha256, origin) = (next()?, next()?, next()?, next()?, next()?);
        let (source, ms) = match origin.split_once('-')? {
            ("published", ms) => (Source::Published, ms),
            ("found", ms) => (Source::Found, ms),
            _ => return None,
        };
        // Only what is written the same again is ours: no second spelling, nothing behind the last field.
        let lower = !sha256.bytes().any(|byte| byte.is_ascii_uppercase());
        if next().is_some() || !(lower && is_plain(size) && is_plain(ms)) {
            return None;
        }
        Some(Self {
            name_hash: name_hash.to_owned(),
            etag: etag.to_owned(),
            size: size.parse().ok()?,
            sha256: sha256.parse().ok()?,
            source,
            time: DateTime::from_timestamp_millis(ms.parse().ok()?).filter(|time| *time <= LAST)?,
        })
    }

    /// Whether it describes the bytes under this ETag (quotes and all).
    pub fn describes(&self, etag: &str, size: u64) -> bool {
        self.size == size && self.etag == unquoted(etag)
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = match self.source {
            Source::Published => "published",
            Source::Found => "found",
        };
        let Self { name_hash, etag, size, sha256, time, .. } = self;
        write!(f, "{name_hash}.{etag}.{size}.{sha256}.{origin}-{}", time.timestamp_millis())
    }
}

/// The time of what is published `now`: later than the `newest` so far, also of a server whose clock was ahead. Only the
/// last time of all has none after it, and is given again.
pub(crate) fn time_after(newest: Option<DateTime<Utc>>, now: DateTime<Utc>) -> DateTime<Utc> {
    let after = newest.map(|newest| newest.min(LAST) + chrono::Duration::milliseconds(1));
    writable(after.map_or(now, |after| after.max(now)))
}

/// The nearest time from 1970 to the end of the year 9999: what a marker can have, and every reader of RFC 3339 reads.
pub(crate) fn writable(time: DateTime<Utc>) -> DateTime<Utc> {
    time.clamp(DateTime::<Utc>::UNIX_EPOCH, LAST)
}

/// The part of a marker's name that stands for the package: 32 hex digits, whatever the name contains.
pub fn name_hash(name: &str) -> String {
    let mut hash = Digest::of(name.as_bytes()).to_string();
    hash.truncate(32);
    hash
}

/// Whether a number is written as numbers are: digits alone, the first one no 0.
fn is_plain(number: &str) -> bool {
    number == "0" || (!number.starts_with('0') && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// An ETag without its quotes, as markers carry it.
fn unquoted(etag: &str) -> &str {
    etag.trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Marker {
        Marker {
            name_hash: name_hash("app.zip"),
            etag: "1f-2-3".into(),
            size: 2,
            sha256: Digest::of(b"ab"),
            source: Source::Published,
            time: DateTime::from_timestamp_millis(1_790_000_000_123).unwrap(),
        }
    }

    #[test]
    fn a_marker_says_everything_in_its_name() {
        let name = marker().to_string();
        assert_eq!(
            name,
            "8cbdffc785836db6a6c3d4ba8438ef74.1f-2-3.2.\
             fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603.published-1790000000123"
        );
        assert_eq!(Marker::parse(&name), Some(marker()));
        assert!(name.len() < 255);
    }

    #[test]
    fn a_marker_of_another_time_than_from_1970_to_9999_is_none() {
        for (ms, is_one) in [
            ("0", true),
            ("253402300799999", true),
            ("-1", false),
            ("-62000000000000", false),
            ("253402300800000", false),
            // The last that chrono knows, and the first that it does not.
            ("8210266876799999", false),
            ("8210266876800000", false),
            ("99999999999999999999", false),
        ] {
            for origin in ["published", "found"] {
                let name = marker().to_string().replace("published-1790000000123", &format!("{origin}-{ms}"));
                let read = Marker::parse(&name).map(|marker| marker.to_string());
                assert_eq!(read, is_one.then_some(name), "{origin} {ms}");
            }
        }
    }

    #[test]
    fn every_time_makes_a_marker_that_is_read_again() {
        let last = DateTime::from_timestamp_millis(253_402_300_799_999).unwrap();
        for (time, has) in [
            (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::UNIX_EPOCH),
            (DateTime::<Utc>::UNIX_EPOCH - chrono::Duration::milliseconds(1), DateTime::<Utc>::UNIX_EPOCH),
            (marker().time, marker().time),
            (last, last),
            (last + chrono::Duration::milliseconds(1), last),
            (DateTime::<Utc>::MAX_UTC, last),
        ] {
            let made = Marker::new("app.zip", "\"1f-2-3\"", 2, Digest::of(b"ab"), Source::Found, time);
            assert_eq!(made.time, has, "{time}");
            assert_eq!(Marker::parse(&made.to_string()), Some(made), "{time}");
        }
    }

    #[test]
    fn what_is_published_is_later_than_what_was_as_long_as_there_are_times() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let now = at("2026-09-12T14:03:11.123Z");
        let last = at("9999-12-31T23:59:59.999Z");
        let beyond = last + chrono::Duration::milliseconds(1);
        for (newest, now, expected) in [
            (None, now, now),
            (Some(at("2026-09-12T14:03:11.121Z")), now, now),
            (Some(at("2026-09-12T14:03:11.122Z")), now, now),
            (Some(now), now, at("2026-09-12T14:03:11.124Z")),
            (Some(at("2027-01-01T00:00:00Z")), now, at("2027-01-01T00:00:00.001Z")),
            (Some(at("9999-12-31T23:59:59.998Z")), now, last),
            (Some(last), now, last),
            (Some(beyond), now, last),
            (Some(DateTime::<Utc>::MAX_UTC), now, last),
            (Some(DateTime::<Utc>::MIN_UTC), now, now),
            // A clock may be that wrong, too.
            (None, beyond, last),
            (Some(last), DateTime::<Utc>::MAX_UTC, last),
            (None, DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::UNIX_EPOCH),
        ] {
            assert_eq!(time_after(newest, now), expected, "{newest:?} {now}");
        }
    }

    #[test]
    fn what_is_not_exactly_a_marker_is_none() {
        let name = marker().to_string();
        for wrong in [
            "",
            "x",
            &name[1..].replace('.', "-"),
            &format!("{name}.x"),
            &format!("{name}."),
            &name.replace("-1790", "-01790"),
            &name.replace("-1790", "-+1790"),
            &name.replace("-1790000000123", "-"),
            &name.replace("-1790000000123", "--0"),
            &name.replace("-1790000000123", "--"),
            &name.replace(".2.", ".02."),
            &name.replace(".2.", ".+2."),
            &name.replace(".2.", ".."),
            &name.replace("fb8e", "FB8E"),
        ] {
            assert_eq!(Marker::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_marker_describes_one_etag_only() {
        assert!(marker().describes("\"1f-2-3\"", 2));
        assert!(!marker().describes("\"1f-2-4\"", 2));
        assert!(!marker().describes("\"1f-2-3\"", 3));
    }
}
