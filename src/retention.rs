//! What the sweep removes, and why.
//!
//! [`decide`] looks at one listing and says of each package whether it stays, in words. It is pure: no store, no
//! clock, no chance. So two sweepers that see the same listing remove the same packages and need no lease, and
//! the listing can hide at once what the next sweep will remove.
//!
//! Three rules, each of them judged over the whole listing:
//!
//! - at most `max_packages` packages;
//! - at most `versions_per_family` versions of each family (see [`family_and_version`]);
//! - none older than `max_age`, except the newest package and the newest version of a family.
//!
//! And two promises, whatever the settings:
//!
//! - a package without a marker is never removed: an upload may be about to write it;
//! - while `max_packages` is not set, only what was uploaded through the server counts and goes. A directory
//!   full of files from elsewhere loses none of them because somebody pointed a server at it.
//!
//! How a package is removed without hitting a newer one of the same name is not decided here.

use std::{collections::HashMap, fmt, ops::Range, sync::LazyLock, time::Duration};

use bytesize::ByteSize;
use chrono::{DateTime, Utc};
use indexmap::IndexSet;
use regex::Regex;

use crate::config::Config;

/// The packages kept while `max_packages` is not set.
pub const DEFAULT_MAX_PACKAGES: usize = 10;

/// How a package came to be here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Uploaded through this server or the old one.
    Published,
    /// Copied into the store by other means, and seen by the hasher.
    Found,
    /// No marker yet: an upload in progress, or a file the hasher has still to read.
    Unmarked,
}

/// A package, as far as retention cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was published; what the listing is sorted by, newest first, ties by name.
    pub time: DateTime<Utc>,
    /// How it came to be here.
    pub origin: Origin,
}

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Newest packages kept. 0 = unlimited; `None` = [`DEFAULT_MAX_PACKAGES`], and no rule sees anything but uploads.
    pub max_packages: Option<usize>,
    /// Newest versions kept of each family; 0 = unlimited.
    pub versions_per_family: usize,
    /// Age up to which a package is kept; `None` = forever.
    pub max_age: Option<Duration>,
}

impl From<&Config> for Policy {
    fn from(config: &Config) -> Self {
        Self {
            max_packages: config.max_packages,
            versions_per_family: config.retention.versions_per_family,
            max_age: config.retention.max_age,
        }
    }
}

impl Policy {
    /// Whether the rules see packages of this origin.
    fn counts(&self, origin: Origin) -> bool {
        self.max_packages.is_some() || origin == Origin::Published
    }

    fn too_many(&self, rank: usize) -> Option<Reason> {
        let limit = self.max_packages.unwrap_or(DEFAULT_MAX_PACKAGES);
        let default = self.max_packages.is_none();
        (limit != 0 && rank > limit).then_some(Reason::Count { rank, limit, default })
    }

    fn too_many_versions(&self, place: Option<&Place>) -> Option<Reason> {
        let limit = self.versions_per_family;
        let Place { family, version, rank } = place.filter(|place| limit != 0 && place.rank > limit)?;
        Some(Reason::Version { version: version.clone(), rank: *rank, family: family.clone(), limit })
    }

    fn too_old(&self, age: Duration) -> Option<Reason> {
        let limit = self.max_age.filter(|&limit| age > limit)?;
        Some(Reason::Age { age, limit })
    }

    /// The names are parsed only where a rule asks for it: listings are judged on every change.
    fn needs_families(&self) -> bool {
        self.versions_per_family != 0 || self.max_age.is_some()
    }
}

/// What is to be done with a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// It is left out of listings and stays in the store, because it has no marker yet. What is listed thus does
    /// not depend on how far the hasher has come.
    Hide,
    /// It is left out of listings at once, and the next sweep removes it.
    Remove,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Keep => "keep",
            Self::Hide => "hide",
            Self::Remove => "remove",
        })
    }
}

/// Why. Ranks count from 1, the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No rule applies to it, since `max_packages` is not set and it was not uploaded through the server.
    NotCounted,
    /// The newest package, which no rule removes.
    Newest,
    /// The newest version of its family, which age does not remove.
    NewestVersion(String),
    /// Within every limit.
    Within(usize),
    /// One package too many.
    Count {
        /// Its place among the packages that count.
        rank: usize,
        /// The limit.
        limit: usize,
        /// Whether the limit is the default, which counts uploads alone.
        default: bool,
    },
    /// One version too many.
    Version {
        /// Its version.
        version: String,
        /// The place of that version in its family.
        rank: usize,
        /// Its family.
        family: String,
        /// The limit.
        limit: usize,
    },
    /// Too old.
    Age {
        /// Its age.
        age: Duration,
        /// The limit.
        limit: Duration,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCounted => {
                f.write_str("not uploaded through this server, and `max_packages` is not set")
            }
            Self::Newest => f.write_str("the newest package"),
            Self::NewestVersion(family) => write!(f, "the newest version of `{family}`"),
            Self::Within(rank) => write!(f, "the {} newest", ordinal(*rank)),
            Self::Count { rank, limit, default: false } => {
                write!(f, "the {} newest; `max_packages` keeps {limit}", ordinal(*rank))
            }
            Self::Count { rank, limit, default: true } => {
                write!(f, "the {} newest upload; `max_packages` keeps {limit} unless set", ordinal(*rank))
            }
            Self::Version { version, rank, family, limit } => write!(
                f,
                "version {version} is the {} newest of `{family}`; `retention.versions_per_family` keeps {limit}",
                ordinal(*rank)
            ),
            Self::Age { age, limit } => {
                write!(f, "{} old; `retention.max_age` is {}", coarse(*age), coarse(*limit))
            }
        }
    }
}

/// A verdict on one package. Displays as its reason in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The package.
    pub candidate: &'a Candidate,
    /// Time since it was published; zero if that lies in the future.
    pub age: Duration,
    /// What is to be done.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
}

impl Decision<'_> {
    /// Whether listings show the package. Overflow is hidden at once, whether or not a sweep has run.
    pub fn listed(&self) -> bool {
        self.verdict == Verdict::Keep
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)?;
        if self.verdict == Verdict::Hide {
            f.write_str("; not removed, since it has no marker yet")?;
        }
        Ok(())
    }
}

/// Judges every package of a listing; the decisions come in the order of the listing, whatever that is.
///
/// - The newest package the rules see is always kept.
/// - What a first pass leaves, a second one leaves too.
/// - Raising a limit never removes more.
/// - A time in the future makes a package the newest and its age zero, and has no other effect.
pub fn decide<'a>(listing: &'a [Candidate], policy: &Policy, now: DateTime<Utc>) -> Vec<Decision<'a>> {
    let mut decisions: Vec<_> = listing
        .iter()
        .map(|candidate| Decision {
            candidate,
            age: (now - candidate.time).to_std().unwrap_or_default(),
            verdict: Verdict::Keep,
            reason: Reason::NotCounted,
        })
        .collect();

    let mut counted: Vec<_> = decisions.iter_mut().filter(|d| policy.counts(d.candidate.origin)).collect();
    counted.sort_by(|a, b| {
        b.candidate.time.cmp(&a.candidate.time).then_with(|| a.candidate.name.cmp(&b.candidate.name))
    });

    let mut families = Families::default();
    for (rank, decision) in (1..).zip(counted) {
        let place = policy.needs_families().then(|| families.place(&decision.candidate.name)).flatten();
        let overflow = policy
            .too_many(rank)
            .or_else(|| policy.too_many_versions(place.as_ref()))
            .or_else(|| policy.too_old(decision.age));
        (decision.verdict, decision.reason) = match (overflow, place) {
            (None | Some(Reason::Age { .. }), _) if rank == 1 => (Verdict::Keep, Reason::Newest),
            (Some(Reason::Age { .. }), Some(Place { rank: 1, family, .. })) => {
                (Verdict::Keep, Reason::NewestVersion(family))
            }
            (Some(reason), _) if decision.candidate.origin == Origin::Unmarked => (Verdict::Hide, reason),
            (Some(reason), _) => (Verdict::Remove, reason),
            (None, _) => (Verdict::Keep, Reason::Within(rank)),
        };
    }
    decisions
}

/// The versions of each family, in the order in which they were met: the newest file of a version places it.
#[derive(Default)]
struct Families(HashMap<String, IndexSet<String>>);

/// A package's version and the place of that version in its family, counted from 1.
struct Place {
    family: String,
    version: String,
    rank: usize,
}

impl Families {
    fn place(&mut self, name: &str) -> Option<Place> {
        let (family, version) = family_and_version(name);
        let version = version?;
        let versions = self.0.entry(family.clone()).or_default();
        let (index, _) = versions.insert_full(version.clone());
        Some(Place { family, version, rank: index + 1 })
    }
}

/// Splits a package's name into its family and its version.
///
/// The family is the name without the version and without known endings such as `.tar.gz`. What follows the
/// version stays, with a `*` in its place: `app-1.2.3-linux.zip` is version `1.2.3` of `app-*-linux`, so that
/// builds for several platforms never compete. A version is `1.2` or longer, `v2`, or a date, with any
/// pre-release or build that follows, and stands between separators. Three numbers, or a `v` and a dot, say
/// more than `1.2`, which says more than `v2` or a date: `app-ubuntu-22.04-1.2.3.deb` is `1.2.3`.
///
/// Where two are equally likely the name has no version, and is the only member of its family: to remove a
/// package on a guess is worse than to keep one too many.
pub fn family_and_version(name: &str) -> (String, Option<String>) {
    let stem = stem(name);
    let Some(found) = version_in(stem) else {
        return (name.to_owned(), None);
    };
    let (before, after) = (&stem[..found.start], &stem[found.end..]);
    let family = match before.trim_end_matches(SEPARATORS) {
        family if after.is_empty() && !family.is_empty() => family.to_owned(),
        _ => format!("{before}*{after}"),
    };
    let version = stem[found].to_ascii_lowercase();
    let number = version.strip_prefix('v').map(str::to_owned);
    (family, Some(number.unwrap_or(version)))
}

const SEPARATORS: [char; 5] = ['-', '_', '.', ' ', '@'];

/// Endings that say how a package is wrapped or vouched for, not what it is. An unknown one stays in the family.
const ENDINGS: &[&str] = &[
    "7z", "apk", "appimage", "asc", "bin", "bz2", "cdx", "crate", "crx", "deb", "dmg", "exe", "flatpak",
    "gem", "gpg", "gz", "img", "intoto", "iso", "jar", "json", "jsonl", "log", "lz4", "md", "md5", "minisig",
    "msi", "msix", "nupkg", "pem", "pkg", "ps1", "py", "rar", "rpm", "run", "sbom", "sh", "sha1", "sha256",
    "sha512", "sig", "sigstore", "snap", "spdx", "tar", "tbz2", "tgz", "txt", "txz", "tzst", "vsix", "war",
    "wasm", "whl", "xml", "xz", "yaml", "yml", "zip", "zst",
];

fn stem(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((rest, ending)) if !rest.is_empty() && ENDINGS.contains(&&*ending.to_ascii_lowercase()) => {
            stem(rest)
        }
        _ => name,
    }
}

/// A version between separators, with what surely belongs to it: a pre-release (`-rc.1`, `b2`, `~beta1`, `.dev3`),
/// commits since the tag as `git describe` counts them, a build date, semantic versioning's `+build`.
static VERSION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?ix-u)
        (?: ^ | [-_.\x20@] )
        (?<version>
            (?: (?<date> 20[0-9]{2}-[0-9]{2}-[0-9]{2} ) | (?<number> v?[0-9]+ (?: \.[0-9]+ )* ) )
            (?: [ab][0-9]+ )?
            (?: [-_.~]? (?: alpha|beta|canary|dev|nightly|post|pre|preview|rc|snapshot ) (?: [-.]?[0-9]+ )* )*
            (?: -[0-9]+-g[0-9a-f]{7,40} )?
            (?: [-.] 20[0-9]{6} )?
            (?: \+[0-9a-z.]+ )?
        )
        (?: [-_.\x20@] | $ )",
    )
    .expect("a fixed pattern, which the tests compile")
});

/// Where the version is; `None` as well if that is open to doubt.
fn version_in(stem: &str) -> Option<Range<usize>> {
    let mut best: Option<(u8, Range<usize>)> = None;
    let mut rivals = false;
    let mut from = 0;
    while let Some(captures) = VERSION.captures_at(stem, from) {
        let range = captures.name("version")?.range();
        from = range.end;
        let number = captures.name("number").map(|number| number.as_str());
        let weight = weigh(&stem[..range.start], number, &stem[range.end..]);
        match &best {
            _ if weight == 0 => {}
            Some((heaviest, _)) if weight < *heaviest => {}
            Some((heaviest, _)) if weight == *heaviest => rivals = true,
            _ => (best, rivals) = (Some((weight, range)), false),
        }
    }
    best.filter(|_| !rivals).map(|(_, range)| range)
}

/// How much a number (or, without one, a date) between `before` and `after` looks like a version; 0 = not at all.
fn weigh(before: &str, number: Option<&str>, after: &str) -> u8 {
    let Some(number) = number else { return 1 };
    let prefixed = number.starts_with(['v', 'V']);
    // The pattern gave up inside `1.2.3x`.
    let torn = after.strip_prefix('.').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    // `arm-v7` and `amd64_v3` are processors.
    let before = before.trim_end_matches(SEPARATORS).to_ascii_lowercase();
    let processor = before.ends_with("arm") || before.ends_with("64");
    match number.matches('.').count() {
        _ if torn => 0,
        2.. => 3,
        1 if prefixed => 3,
        1 => 2,
        _ if prefixed && !processor => 1,
        _ if number.len() == 8 && number.starts_with("20") => 1,
        // A lone number may be anything: a bit width, a part, a build.
        _ => 0,
    }
}

/// The decisions as lines for a terminal: a heading, a line a package, the totals.
pub fn table(decisions: &[Decision<'_>]) -> String {
    let rows: Vec<_> = decisions
        .iter()
        .map(|decision| {
            let Candidate { name, size, .. } = decision.candidate;
            let size = ByteSize(*size).to_string();
            [decision.verdict.to_string(), name.clone(), size, coarse(decision.age), decision.to_string()]
        })
        .collect();
    let heading = ["action", "package", "size", "age", "reason"].map(str::to_owned);
    let width = |column: usize| {
        rows.iter().chain([&heading]).map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths = [0, 1, 2, 3].map(width);

    let mut lines: Vec<_> = [&heading]
        .into_iter()
        .chain(&rows)
        .map(|[action, package, size, age, reason]| {
            let [a, p, s, t] = widths;
            format!("{action:<a$}  {package:<p$}  {size:>s$}  {age:>t$}  {reason}")
        })
        .collect();
    let totals = [Verdict::Keep, Verdict::Hide, Verdict::Remove].map(|verdict| {
        let sizes = decisions.iter().filter(|d| d.verdict == verdict).map(|d| d.candidate.size);
        let (count, bytes) = sizes.fold((0_usize, 0_u64), |(n, sum), size| (n + 1, sum.saturating_add(size)));
        format!("{verdict} {count} ({})", ByteSize(bytes))
    });
    lines.push(format!("total: {}", totals.join(", ")));
    lines.join("\n") + "\n"
}

/// `1st`, `2nd`, `11th`.
fn ordinal(rank: usize) -> String {
    let suffix = match (rank % 10, rank % 100) {
        (1, tens) if tens != 11 => "st",
        (2, tens) if tens != 12 => "nd",
        (3, tens) if tens != 13 => "rd",
        _ => "th",
    };
    format!("{rank}{suffix}")
}

/// A duration in its largest unit of which there are at least two, rounded down: `37 days`.
fn coarse(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (count, unit) = [(86_400, "day"), (3_600, "hour"), (60, "minute")]
        .into_iter()
        .map(|(length, unit)| (seconds / length, unit))
        .find(|(count, _)| *count >= 2)
        .unwrap_or((seconds, "second"));
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chrono::TimeDelta;
    use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn now() -> DateTime<Utc> {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    fn aged(name: &str, days: i64, origin: Origin) -> Candidate {
        Candidate { name: name.to_owned(), size: 1024, time: now() - TimeDelta::days(days), origin }
    }

    fn published(name: &str, days: i64) -> Candidate {
        aged(name, days, Origin::Published)
    }

    /// `a0` to `a{count - 1}`, one a day, newest first.
    fn daily(count: i64, origin: Origin) -> Vec<Candidate> {
        (0..count).map(|days| aged(&format!("a{days}"), days, origin)).collect()
    }

    fn names(decisions: &[Decision<'_>], verdict: Verdict) -> Vec<String> {
        decisions.iter().filter(|d| d.verdict == verdict).map(|d| d.candidate.name.clone()).collect()
    }

    fn removed(listing: &[Candidate], policy: &Policy) -> Vec<String> {
        names(&decide(listing, policy, now()), Verdict::Remove)
    }

    /// The reason for one package.
    fn reason(listing: &[Candidate], policy: &Policy, name: &str) -> String {
        decide(listing, policy, now()).iter().find(|d| d.candidate.name == name).unwrap().to_string()
    }

    #[test]
    fn the_family_is_the_name_without_version_and_ending() {
        for (name, family, version) in [
            ("spec-kit-template-claude-sh-v0.0.91.zip", "spec-kit-template-claude-sh", "0.0.91"),
            ("spec-kit-template-cursor-agent-ps-v0.0.91.zip", "spec-kit-template-cursor-agent-ps", "0.0.91"),
            ("app-1.2.3.tar.gz", "app", "1.2.3"),
            ("app-1.2.3.tar.gz.sha256", "app", "1.2.3"),
            ("app_1.2.3.ZIP", "app", "1.2.3"),
            ("app-V1.2.3.zip", "app", "1.2.3"),
            ("app@1.2.tgz", "app", "1.2"),
            ("app 1.2.zip", "app", "1.2"),
            ("app.1.2.3.nupkg", "app", "1.2.3"),
            ("v1.2.3.zip", "*", "1.2.3"),
            ("1.2.3-app.zip", "*-app", "1.2.3"),
            // Platforms stay apart.
            ("app_1.2.3_linux_amd64.deb", "app_*_linux_amd64", "1.2.3"),
            ("app-1.2.3-1.el9.x86_64.rpm", "app-*-1.el9.x86_64", "1.2.3"),
            ("app-1.2.3-x86_64-unknown-linux-musl.tar.xz", "app-*-x86_64-unknown-linux-musl", "1.2.3"),
            ("app-linux-arm64-1.2.3.zip", "app-linux-arm64", "1.2.3"),
            ("app-1.2.3.linux.zip", "app-*.linux", "1.2.3"),
            ("app-1.2.3-64.zip", "app-*-64", "1.2.3"),
            ("app-v2-linux.zip", "app-*-linux", "2"),
            ("app-v2-linux-arm-v7.zip", "app-*-linux-arm-v7", "2"),
            ("app_1.2.3_linux_amd64_v3.zip", "app_*_linux_amd64_v3", "1.2.3"),
            // The likelier of two.
            ("app-ubuntu-22.04-1.2.3.deb", "app-ubuntu-22.04", "1.2.3"),
            ("app-1.2.3-ubuntu-22.04.deb", "app-*-ubuntu-22.04", "1.2.3"),
            ("app-v1.2-python3.11.whl", "app-*-python3.11", "1.2"),
            // Pre-releases and builds.
            ("app-1.2.3-rc.1.zip", "app", "1.2.3-rc.1"),
            ("app-1.2.3rc1-linux.zip", "app-*-linux", "1.2.3rc1"),
            ("app-1.2.3b2.tar.gz", "app", "1.2.3b2"),
            ("app-1.2.3.dev4.zip", "app", "1.2.3.dev4"),
            ("app-1.2.3-SNAPSHOT.jar", "app", "1.2.3-snapshot"),
            ("app_1.2.3~beta1_amd64.deb", "app_*_amd64", "1.2.3~beta1"),
            ("app-1.2.3+build.5.zip", "app", "1.2.3+build.5"),
            ("app-1.2.3-14-g0a1b2c3-linux.zip", "app-*-linux", "1.2.3-14-g0a1b2c3"),
            ("app-1.2.3-20260301.zip", "app", "1.2.3-20260301"),
            // Words that only begin like one.
            ("app-1.2.3-postgres.zip", "app-*-postgres", "1.2.3"),
            ("app-1.2.3-prebuilt-linux.zip", "app-*-prebuilt-linux", "1.2.3"),
            // Dates.
            ("nightly-2026-03-01.zip", "nightly", "2026-03-01"),
            ("nightly-20260301.zip", "nightly", "20260301"),
            // Names of other alphabets.
            ("приложение-1.2.3.zip", "приложение", "1.2.3"),
            ("应用-v1.0-安卓.zip", "应用-*-安卓", "1.0"),
        ] {
            assert_eq!(family_and_version(name), (family.to_owned(), Some(version.to_owned())), "{name}");
        }
    }

    #[test]
    fn a_name_without_a_sure_version_is_its_own_family() {
        for name in [
            "app.zip",
            "notes.txt",
            "app2.zip",
            "app-7.zip",
            "app-win-32.zip",
            "mp3.7z",
            "linux-amd64.tar.gz",
            "app-linux-armv7.zip",
            "app-linux-arm-v7.zip",
            "app-linux-amd64-v3.zip",
            "app-1.2.3x.zip",
            "app-1.2.3linux.zip",
            "app-ubuntu-22.04-1.0.zip",
            "migrate-1.2.3-to-1.2.4.zip",
            "v.zip",
            "",
            "-",
            "...",
        ] {
            assert_eq!(family_and_version(name), (name.to_owned(), None), "{name}");
        }
    }

    #[test]
    fn by_default_the_newest_ten_uploads_stay() {
        let listing = daily(12, Origin::Published);
        assert_eq!(removed(&listing, &Policy::default()), ["a10", "a11"]);
        assert_eq!(
            reason(&listing, &Policy::default(), "a10"),
            "the 11th newest upload; `max_packages` keeps 10 unless set"
        );
    }

    #[test]
    fn by_default_files_found_are_neither_counted_nor_removed_by_any_rule() {
        let mut listing = daily(50, Origin::Found);
        listing.extend((0..5).map(|days| published(&format!("app-1.0.{days}.zip"), days)));
        listing.extend((0..5).map(|days| aged(&format!("app-2.0.{days}.zip"), days, Origin::Found)));
        let strict = Policy { max_packages: None, versions_per_family: 3, max_age: Some(DAY) };
        let decisions = decide(&listing, &strict, now());
        assert_eq!(
            names(&decisions, Verdict::Remove),
            ["app-1.0.2.zip", "app-1.0.3.zip", "app-1.0.4.zip"],
            "the ranks are those among the uploads"
        );
        assert!(
            decisions.iter().filter(|d| d.candidate.origin == Origin::Found).all(Decision::listed),
            "and what was found is listed"
        );
        assert_eq!(
            reason(&listing, &strict, "a49"),
            "not uploaded through this server, and `max_packages` is not set"
        );
    }

    #[test]
    fn a_limit_that_is_set_counts_and_removes_files_found() {
        let mut listing = daily(3, Origin::Found);
        listing.push(published("upload.zip", 1));
        let policy = Policy { max_packages: Some(2), ..Policy::default() };
        assert_eq!(removed(&listing, &policy), ["a2", "upload.zip"], "`a1` is as old, and first by name");
        assert_eq!(reason(&listing, &policy, "upload.zip"), "the 3rd newest; `max_packages` keeps 2");
        assert_eq!(reason(&listing, &policy, "a0"), "the newest package");
        assert_eq!(reason(&listing, &policy, "a1"), "the 2nd newest");
    }

    #[test]
    fn a_limit_of_zero_is_no_limit() {
        let listing = daily(100, Origin::Published);
        assert!(removed(&listing, &Policy { max_packages: Some(0), ..Policy::default() }).is_empty());
    }

    #[test]
    fn what_has_no_marker_is_hidden_beyond_the_limit_but_never_removed() {
        let listing = daily(12, Origin::Unmarked);
        let policy = Policy { max_packages: Some(11), versions_per_family: 1, max_age: Some(5 * DAY) };
        let decisions = decide(&listing, &policy, now());
        assert!(names(&decisions, Verdict::Remove).is_empty());
        assert_eq!(names(&decisions, Verdict::Hide), ["a6", "a7", "a8", "a9", "a10", "a11"]);
        assert_eq!(
            reason(&listing, &policy, "a11"),
            "the 12th newest; `max_packages` keeps 11; not removed, since it has no marker yet"
        );
        assert!(decide(&listing, &Policy::default(), now()).iter().all(Decision::listed));
    }

    #[test]
    fn only_the_newest_versions_of_each_family_stay() {
        let mut listing: Vec<_> = (85..=91)
            .rev()
            .flat_map(|patch| {
                ["claude-sh", "gemini-ps"].map(|agent| {
                    published(&format!("spec-kit-template-{agent}-v0.0.{patch}.zip"), 91 - patch)
                })
            })
            .collect();
        listing.push(published("handbook.pdf", 1000));
        let policy = Policy { max_packages: Some(0), versions_per_family: 3, max_age: None };
        let gone = removed(&listing, &policy);
        assert_eq!(gone.len(), 8, "{gone:?}");
        assert!(
            gone.iter().all(|name| {
                ["v0.0.85", "v0.0.86", "v0.0.87", "v0.0.88"].iter().any(|v| name.contains(v))
            })
        );
        assert_eq!(
            reason(&listing, &policy, "spec-kit-template-claude-sh-v0.0.88.zip"),
            "version 0.0.88 is the 4th newest of `spec-kit-template-claude-sh`; \
             `retention.versions_per_family` keeps 3"
        );
    }

    #[test]
    fn many_files_of_one_version_do_not_compete() {
        let endings =
            [".tar.gz", ".tar.gz.sha256", ".zip", "-linux.zip", "_linux_amd64.deb", "_linux_arm64.deb"];
        let listing: Vec<_> =
            endings.iter().map(|ending| published(&format!("app-1.2.3{ending}"), 1)).collect();
        let policy = Policy { max_packages: Some(0), versions_per_family: 1, max_age: None };
        assert!(removed(&listing, &policy).is_empty());
    }

    #[test]
    fn a_version_is_as_new_as_its_newest_file() {
        let listing = [
            published("app-1.0.0.zip", 1), // uploaded again
            published("app-2.0.0.zip", 2),
            published("app-1.0.0.tar.gz", 9),
        ];
        let policy = Policy { max_packages: Some(0), versions_per_family: 1, max_age: None };
        assert_eq!(removed(&listing, &policy), ["app-2.0.0.zip"]);
    }

    #[test]
    fn age_removes_neither_the_newest_package_nor_the_newest_version_of_a_family() {
        let listing = [
            published("notes.txt", 35),
            published("app-2.0.0.zip", 36),
            published("app-2.0.0.tar.gz", 40),
            published("app-1.0.0.zip", 37),
            published("old.txt", 400),
        ];
        let policy = Policy { max_packages: Some(0), versions_per_family: 0, max_age: Some(30 * DAY) };
        assert_eq!(removed(&listing, &policy), ["app-1.0.0.zip", "old.txt"]);
        assert_eq!(reason(&listing, &policy, "app-1.0.0.zip"), "37 days old; `retention.max_age` is 30 days");
        assert_eq!(reason(&listing, &policy, "notes.txt"), "the newest package");
        assert_eq!(reason(&listing, &policy, "app-2.0.0.tar.gz"), "the newest version of `app`");
    }

    #[test]
    fn a_clock_that_is_ahead_does_no_harm() {
        let listing = [published("tomorrow", -1), published("today", 0), published("yesterday", 1)];
        let policy = Policy { max_packages: Some(2), versions_per_family: 1, max_age: Some(DAY / 2) };
        let decisions = decide(&listing, &policy, now());
        assert_eq!(names(&decisions, Verdict::Keep), ["tomorrow", "today"]);
        assert_eq!(decisions[0].age, Duration::ZERO);
    }

    #[test]
    fn the_extremes_of_time_do_not_overflow() {
        let mut listing = [published("first", 0), published("last", 0)];
        listing[0].time = DateTime::<Utc>::MIN_UTC;
        listing[1].time = DateTime::<Utc>::MAX_UTC;
        let policy = Policy { max_age: Some(Duration::MAX), ..Policy::default() };
        for now in [now(), DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
            assert!(decide(&listing, &policy, now).iter().all(Decision::listed));
        }
    }

    #[test]
    fn an_empty_listing_has_no_decisions() {
        assert!(decide(&[], &Policy::default(), now()).is_empty());
    }

    #[test]
    fn the_table_is_aligned_and_ends_with_the_totals() {
        let listing = [
            Candidate { size: 5 << 20, ..published("app-2.0.zip", 0) },
            aged("größe.zip", 3, Origin::Unmarked),
            published("app-1.0.zip", 40),
        ];
        let policy = Policy { max_packages: Some(1), ..Policy::default() };
        insta::assert_snapshot!(table(&decide(&listing, &policy, now())), @r"
        action  package         size        age  reason
        keep    app-2.0.zip  5.0 MiB  0 seconds  the newest package
        hide    größe.zip    1.0 KiB     3 days  the 2nd newest; `max_packages` keeps 1; not removed, since it has no marker yet
        remove  app-1.0.zip  1.0 KiB    40 days  the 3rd newest; `max_packages` keeps 1
        total: keep 1 (5.0 MiB), hide 1 (1.0 KiB), remove 1 (1.0 KiB)
        ");
    }

    #[test]
    fn durations_and_ranks_read_as_one_says_them() {
        let texts = [0, 1, 119, 120, 7_199, 7_200, 172_799, 172_800].map(|s| coarse(Duration::from_secs(s)));
        assert_eq!(
            texts,
            [
                "0 seconds",
                "1 second",
                "119 seconds",
                "2 minutes",
                "119 minutes",
                "2 hours",
                "47 hours",
                "2 days"
            ]
        );
        let ranks = [1, 2, 3, 4, 11, 12, 13, 21, 22, 103, 111].map(ordinal);
        assert_eq!(
            ranks,
            ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "103rd", "111th"]
        );
    }

    /// A listing of few families, versions and days, so that ties and rivals are common.
    fn random_listing(random: &mut StdRng) -> Vec<Candidate> {
        let mut taken = BTreeSet::new();
        let mut listing = Vec::new();
        for _ in 0..random.random_range(0..25) {
            let name = match random.random_range(0..4) {
                0 => format!("file{}.txt", random.random_range(0..10)),
                1 => format!("app-1.0.{}.tar.gz", random.random_range(0..6)),
                2 => format!("app-1.0.{}.zip", random.random_range(0..6)),
                _ => format!("app_1.0.{}_linux.deb", random.random_range(0..6)),
            };
            let origin = [Origin::Published, Origin::Published, Origin::Found, Origin::Unmarked]
                [random.random_range(0..4)];
            if taken.insert(name.clone()) {
                listing.push(aged(&name, random.random_range(-2..20), origin));
            }
        }
        listing
    }

    fn random_policy(random: &mut StdRng) -> Policy {
        Policy {
            max_packages: [None, Some(random.random_range(0..12))][random.random_range(0..2)],
            versions_per_family: random.random_range(0..4),
            max_age: [None, Some(DAY * random.random_range(0..15))][random.random_range(0..2)],
        }
    }

    /// The same policy with one of its limits raised, or lifted.
    fn more_generous(policy: &Policy, random: &mut StdRng) -> Policy {
        let mut raised = policy.clone();
        let lift = random.random_bool(0.2);
        let by = random.random_range(1..5);
        match random.random_range(0..3) {
            0 => {
                let raise = |n| if lift || n == 0 { 0 } else { n + by };
                raised.max_packages = policy.max_packages.map(raise);
            }
            1 if lift || policy.versions_per_family == 0 => raised.versions_per_family = 0,
            1 => raised.versions_per_family += by,
            _ => raised.max_age = policy.max_age.filter(|_| !lift).map(|age| age + DAY),
        }
        raised
    }

    fn set(listing: &[Candidate], policy: &Policy, now: DateTime<Utc>) -> BTreeSet<String> {
        names(&decide(listing, policy, now), Verdict::Remove).into_iter().collect()
    }

    #[test]
    fn whatever_the_listing_the_promises_hold() {
        let mut random = StdRng::seed_from_u64(7);
        let mut removals = 0;
        for round in 0..3_000 {
            let listing = random_listing(&mut random);
            let policy = random_policy(&mut random);
            let context = (round, &policy, &listing);
            let decisions = decide(&listing, &policy, now());
            let removed = set(&listing, &policy, now());
            removals += removed.len();

            let in_order = decisions.iter().map(|d| &d.candidate.name).eq(listing.iter().map(|c| &c.name));
            assert!(in_order, "a decision for each package, in the listing's order: {context:?}");

            for Decision { candidate, verdict, .. } in &decisions {
                match candidate.origin {
                    Origin::Published => assert_ne!(*verdict, Verdict::Hide, "{context:?}"),
                    Origin::Unmarked => assert_ne!(*verdict, Verdict::Remove, "{context:?}"),
                    Origin::Found if policy.max_packages.is_none() => {
                        assert_eq!(*verdict, Verdict::Keep, "{context:?}");
                    }
                    Origin::Found => {}
                }
            }

            let counted: Vec<_> = decisions.iter().filter(|d| policy.counts(d.candidate.origin)).collect();
            let newest = counted.iter().max_by(|a, b| {
                (a.candidate.time, &b.candidate.name).cmp(&(b.candidate.time, &a.candidate.name))
            });
            assert!(newest.is_none_or(|d| d.listed()), "the newest stays: {context:?}");

            let shown = counted.iter().filter(|d| d.listed()).count();
            let limit = policy.max_packages.unwrap_or(DEFAULT_MAX_PACKAGES);
            assert!(limit == 0 || shown <= limit, "no more listed than allowed: {context:?}");

            let survivors: Vec<_> = listing.iter().filter(|c| !removed.contains(&c.name)).cloned().collect();
            assert!(
                set(&survivors, &policy, now()).is_empty(),
                "a second pass has nothing to do: {context:?}"
            );

            let mut shuffled = listing.clone();
            shuffled.shuffle(&mut random);
            assert_eq!(set(&shuffled, &policy, now()), removed, "whatever the order: {context:?}");

            let raised = more_generous(&policy, &mut random);
            assert!(
                set(&listing, &raised, now()).is_subset(&removed),
                "{raised:?} removes no more: {context:?}"
            );

            let later = set(&listing, &policy, now() + TimeDelta::days(3));
            assert!(removed.is_subset(&later), "time brings nothing back: {context:?}");

            for found in &removed {
                let fewer: Vec<_> = listing.iter().filter(|c| c.name != *found).cloned().collect();
                assert!(
                    set(&fewer, &policy, now()).is_subset(&removed),
                    "a sweep cut short does no harm: {context:?}"
                );
            }
        }
        assert!(removals > 5_000, "the listings exercise the rules: {removals}");
    }
}
