//! What repositories, tags and assets may be called.
//!
//! - [`Repository`]: GitHub's characters, regardless of case; names that are routes cannot be owners.
//! - [`TagName`]: what git takes as the name of a ref (`git check-ref-format`), with its case.
//! - [`asset_name`]: any text, put into the characters that GitHub keeps.

use std::{fmt, hash, sync::Arc};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

/// The longest owner, repository or asset name, in bytes.
const MAX_BYTES: usize = 100;

/// The longest tag, percent-encoded, and the longest asset name, in bytes: file systems allow 255.
const MAX_KEY_BYTES: usize = 200;

/// Owners that would hide a route, or could come to hide one.
const RESERVED: [&str; 30] = [
    ".release-server",
    "about",
    "admin",
    "api",
    "apis",
    "assets",
    "docs",
    "explore",
    "favicon.ico",
    "graphql",
    "health",
    "healthz",
    "latest",
    "login",
    "logout",
    "meta",
    "metrics",
    "openapi.json",
    "packages",
    "rate_limit",
    "readyz",
    "releases",
    "repos",
    "robots.txt",
    "search",
    "settings",
    "static",
    "upload",
    "uploads",
    "user",
];

/// What stays as it is in a tag's key. Not `.` alone: no key segment is `.` or `..`, because no tag is.
const KEPT: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// A repository. Two that differ in case are one.
#[derive(Debug, Clone)]
pub struct Repository {
    spelled: Arc<str>,
    key: Arc<str>,
}

impl Repository {
    /// `None` for what no repository can be called.
    pub fn new(owner: &str, name: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let plain = |text: &str| {
            (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(allowed) && !matches!(text, "." | "..")
        };
        let lower = owner.to_ascii_lowercase();
        if !plain(owner) || !plain(name) || owner.starts_with('.') || RESERVED.contains(&lower.as_str()) {
            return None;
        }
        let spelled = format!("{owner}/{name}");
        Some(Self { key: spelled.to_ascii_lowercase().into(), spelled: spelled.into() })
    }

    /// Parses `owner/name`.
    pub fn parse(text: &str) -> Option<Self> {
        let (owner, name) = text.split_once('/')?;
        Self::new(owner, name)
    }

    /// `owner/name` as it was spelled.
    pub fn as_str(&self) -> &str {
        &self.spelled
    }

    /// `owner/name` in lower case.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The owner as it was spelled.
    pub fn owner(&self) -> &str {
        self.spelled.split_once('/').map_or("", |(owner, _)| owner)
    }

    /// The name as it was spelled.
    pub fn name(&self) -> &str {
        self.spelled.split_once('/').map_or("", |(_, name)| name)
    }
}

impl PartialEq for Repository {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Repository {}

impl hash::Hash for Repository {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spelled)
    }
}

/// A tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TagName(Arc<str>);

impl TagName {
    /// The rule that `text` breaks, if it is no tag.
    ///
    /// The rules of [git check-ref-format](https://git-scm.com/docs/git-check-ref-format), and a limit on length.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let odd = |char: char| char.is_control() || " ~^:?*[\\".contains(char);
        let broken = if text.is_empty() {
            Some("it is empty")
        } else if text.chars().any(odd) {
            Some("it has a space, a control character or one of `~^:?*[\\`")
        } else if text.contains("..") || text.contains("@{") || text == "@" {
            Some("it has `..` or `@{`, or is `@`")
        } else if text.starts_with('-') {
            Some("it begins with `-`")
        } else if text.ends_with('.') {
            Some("it ends in `.`")
        } else if text.split('/').any(|part| {
            part.is_empty()
                || part.starts_with('.')
                || part.rsplit_once('.').is_some_and(|(_, end)| end == "lock")
        }) {
            Some("a part of it, between slashes, is empty, begins with `.` or ends in `.lock`")
        } else {
            None
        };
        if let Some(rule) = broken {
            return Err(rule);
        }
        let tag = Self(text.into());
        if tag.encoded().len() > MAX_KEY_BYTES {
            Err("it is longer than 200 bytes, percent-encoded")
        } else {
            Ok(tag)
        }
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Percent-encoded whole, slashes too.
    pub fn encoded(&self) -> String {
        utf8_percent_encode(&self.0, &KEPT).to_string()
    }
}

impl TryFrom<String> for TagName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        Self::parse(&text)
    }
}

impl From<TagName> for String {
    fn from(tag: TagName) -> Self {
        tag.as_str().to_owned()
    }
}

impl fmt::Display for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name that an asset gets for `name`: what GitHub makes of it, and what `gh` expects it to.
///
/// Accents go, every run of characters but ASCII letters, digits, `-`, `_`, `+` and `@` becomes one dot, dots
/// around it go, and what has lost its stem gets `default.`. `None` if nothing is left or it is too long.
pub fn asset_name(name: &str) -> Option<String> {
    let plain: String = name.nfd().filter(|&char| !is_combining_mark(char)).nfc().collect();
    let stemmed = if plain.starts_with('.') { format!("default{plain}") } else { plain };
    let kept = |char: char| char.is_ascii_alphanumeric() || "-_+@".contains(char);
    let runs: Vec<&str> = stemmed.split(|char| !kept(char)).filter(|run| !run.is_empty()).collect();
    let mut value = runs.join(".");
    if value.is_empty() {
        return None;
    }
    if name != value && !value.contains('.') {
        value = format!("default.{value}");
    }
    (value.len() <= MAX_KEY_BYTES).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_known_whatever_its_case() {
        let repository = Repository::new("Acme", "App.rs").unwrap();
        assert_eq!(repository, Repository::parse("acme/app.RS").unwrap());
        assert_eq!((repository.owner(), repository.name()), ("Acme", "App.rs"));
        assert_eq!((repository.key(), repository.as_str()), ("acme/app.rs", "Acme/App.rs"));
        for (owner, name) in [
            ("repos", "x"),
            ("API", "x"),
            ("", "x"),
            ("x", ""),
            ("x", ".."),
            ("..", "x"),
            (".x", "x"),
            ("a b", "x"),
            ("x", "a/b"),
            ("x", "ü"),
            ("x", "a%2fb"),
            ("x", &"a".repeat(101)),
        ] {
            assert!(Repository::new(owner, name).is_none(), "{owner}/{name}");
        }
        assert!(Repository::parse("a/.github").is_some());
    }

    #[test]
    fn a_tag_is_what_git_takes() {
        for tag in ["v1", "1.0.0", "release/2026-01", "v1+build", "ünï", "a@b", "x%2Fy", "v1.lockx"] {
            assert_eq!(TagName::parse(tag).unwrap().as_str(), tag);
        }
        for tag in [
            "", " ", "a b", "..", "a..b", "/a", "a/", "a//b", ".a", "a/.b", "a.", "a.lock", "a.lock/b",
            "a~1", "a^", "a:b", "a?", "a*", "a[", "a\\b", "@", "a@{b", "-a", "a\n",
        ] {
            assert!(TagName::parse(tag).is_err(), "{tag:?}");
        }
        assert!(TagName::parse(&"ü".repeat(34)).is_err());
        assert_eq!(TagName::parse("release/ü%").unwrap().encoded(), "release%2F%C3%BC%25");
    }

    #[test]
    fn an_asset_is_called_as_github_would() {
        for (name, expected) in [
            ("app-1.0.0.tar.gz", "app-1.0.0.tar.gz"),
            ("a b (1).zip", "a.b.1.zip"),
            ("a~b:c.zip", "a.b.c.zip"),
            ("größe.zip", "gro.e.zip"),
            ("Ünïcode.txt", "Unicode.txt"),
            (".bashrc", "default.bashrc"),
            ("日本語.zip", "default.zip"),
            ("a..b", "a.b"),
            ("x+y@z_1", "x+y@z_1"),
            ("../../etc/passwd", "default.etc.passwd"),
            ("no-stem ", "default.no-stem"),
        ] {
            assert_eq!(asset_name(name).as_deref(), Some(expected), "{name}");
        }
        for name in ["", "日本", " ", "/", &"a".repeat(201)] {
            assert_eq!(asset_name(name), None, "{name:?}");
        }
    }
}
