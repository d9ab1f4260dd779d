//! The pages of a repository's releases, and of one.

use askama::Template;
use chrono::{DateTime, SecondsFormat, Utc};

use super::{Frame, Row, Size, counted, markdown::markdown, misleading, quoted};

/// A release as the pages show it.
#[derive(Debug, Clone)]
pub(in crate::http) struct Release<'a> {
    pub(in crate::http) title: &'a str,
    pub(in crate::http) tag: &'a str,
    /// Its own page, absolute.
    pub(in crate::http) url: String,
    pub(in crate::http) latest: bool,
    pub(in crate::http) prerelease: bool,
    pub(in crate::http) published_at: DateTime<Utc>,
    /// Who published it: the name of a token.
    pub(in crate::http) author: &'a str,
    /// Markdown.
    pub(in crate::http) notes: Option<&'a str>,
    pub(in crate::http) assets: Vec<Asset<'a>>,
    /// The digests of all of them, absolute.
    pub(in crate::http) sums: String,
}

/// A file of a release as the pages show it.
#[derive(Debug, Clone)]
pub(in crate::http) struct Asset<'a> {
    pub(in crate::http) name: &'a str,
    /// What people are to read instead of the name.
    pub(in crate::http) label: Option<&'a str>,
    /// Bytes.
    pub(in crate::http) size: u64,
    pub(in crate::http) created_at: DateTime<Utc>,
    /// 64 hex digits.
    pub(in crate::http) sha256: String,
    /// Where it is downloaded: absolute and percent-encoded.
    pub(in crate::http) url: String,
}

impl Release<'_> {
    fn shown_title(&self) -> String {
        shown(self.title)
    }

    /// Where the title does not say it.
    fn shown_tag(&self) -> Option<String> {
        (self.title != self.tag).then(|| shown(self.tag))
    }

    fn instant(&self) -> String {
        self.published_at.to_rfc3339_opts(SecondsFormat::Secs, true)
    }

    fn day(&self) -> impl std::fmt::Display {
        self.published_at.format("%Y-%m-%d")
    }

    fn html(&self) -> Option<String> {
        self.notes.filter(|notes| !notes.trim().is_empty()).map(markdown)
    }

    fn count(&self) -> String {
        counted(self.assets.len() as u64, "asset")
    }

    fn total(&self) -> Size {
        Size(self.assets.iter().fold(0, |sum, asset| sum.saturating_add(asset.size)))
    }

    /// Checks what of the release is in the current directory.
    fn verify(&self) -> String {
        format!("curl -fL {} | sha256sum --check --ignore-missing", quoted(&self.sums))
    }
}

impl Asset<'_> {
    /// The same as a file of any list.
    fn file(&self) -> Row<'_> {
        Row {
            name: self.name,
            size: self.size,
            created_at: self.created_at,
            sha256: Some(&self.sha256),
            url: &self.url,
        }
    }

    fn shown_label(&self) -> Option<String> {
        self.label.filter(|label| !label.is_empty() && *label != self.name).map(shown)
    }
}

/// A text for the eye alone.
fn shown(text: &str) -> String {
    text.replace(misleading, "\u{fffd}")
}

#[derive(Template)]
#[template(path = "releases.html", config = "src/http/pages/askama.toml")]
struct ReleasesPage<'a> {
    frame: Frame<'a>,
    repository: &'a str,
    count: String,
    releases: &'a [Release<'a>],
    newer: Option<String>,
    older: Option<String>,
}

#[derive(Template)]
#[template(path = "release.html", config = "src/http/pages/askama.toml")]
struct ReleasePage<'a> {
    frame: Frame<'a>,
    repository: &'a str,
    /// The page of all of them.
    releases: String,
    release: &'a Release<'a>,
}

/// A page of a repository's releases, newest first. `root` leads to the server's own root, relative, and ends in a slash.
pub(in crate::http) fn releases_page(
    repository: &str,
    root: &str,
    count: usize,
    releases: &[Release<'_>],
    page: usize,
    pages: usize,
) -> Result<String, askama::Error> {
    ReleasesPage {
        frame: Frame::page(root),
        repository,
        count: counted(count as u64, "release"),
        releases,
        newer: (page > 1).then(|| format!("?page={}", (page - 1).min(pages))),
        older: (page < pages).then(|| format!("?page={}", page + 1)),
    }
    .render()
}

/// The page of a release. `root` as above.
pub(in crate::http) fn release_page(
    repository: &str,
    root: &str,
    release: &Release<'_>,
) -> Result<String, askama::Error> {
    ReleasePage {
        frame: Frame::page(root),
        repository,
        releases: format!("{root}{repository}/releases"),
        release,
    }
    .render()
}
