//! What a package may be called.
//!
//! Two rules, because a directory is also filled by hand:
//! - [`PackageName::for_upload`] is the policy for new packages. Each rule has a reason, and a refusal names it.
//! - [`PackageName::existing`] accepts whatever can lie in the store as one visible, flat entry, so that files
//!   copied in by hand are listed, downloaded and deleted under the names they have.
//!
//! A value of the type is always one path segment: it cannot leave the root, hide, or name our own keys.

use std::{borrow::Borrow, fmt, sync::Arc};

use unicode_normalization::is_nfc;

use crate::error::{Error, Result};

/// The longest name of an upload, in bytes: file systems allow 255, and temporary and sidecar names need room.
pub const MAX_UPLOAD_BYTES: usize = 200;

/// The longest name that can exist as a file, in bytes.
const MAX_BYTES: usize = 255;

/// The folder of the repositories' releases; never a package.
const RESERVED: &str = "repos";

/// The name of a package: one visible segment of a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackageName(Arc<str>);

impl PackageName {
    /// Parses the name of a new package; the error says which rule it breaks.
    pub fn for_upload(name: &str) -> Result<Self> {
        let refuse = |rule: &str| Err(Error::Invalid(format!("package name {}: {rule}", quoted(name))));
        if let Some(rule) = broken_rule(name) {
            return refuse(rule);
        }
        // HTTP clients, shells and file systems disagree on longer names.
        if name.len() > MAX_UPLOAD_BYTES {
            return refuse("longer than 200 bytes; shorten it");
        }
        // Two spellings of one visible name would be two packages.
        if !is_nfc(name) {
            return refuse("not in Unicode normalization form C; compose its accents (NFC)");
        }
        // Scripts lose such spaces, and people do not see them.
        if name.trim() != name {
            return refuse("begins or ends with white space; remove it");
        }
        // They reorder or hide the text around them: `gpj.exe` can be made to look like `exe.jpg`.
        if name.chars().any(is_invisible) {
            return refuse("contains an invisible or direction-changing character; remove it");
        }
        Ok(Self(name.into()))
    }

    /// Parses the name of what may already be in the store; `None` for what cannot be a package.
    pub fn existing(name: &str) -> Option<Self> {
        (broken_rule(name).is_none() && name.len() <= MAX_BYTES).then(|| Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The first rule that `name` breaks so badly that it can be no package at all.
fn broken_rule(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("empty; give the file a name"),
        _ if name.contains(['/', '\\']) => {
            Some("contains a path separator; packages lie flat, send the file name alone")
        }
        _ if name.starts_with('.') => {
            Some("begins with a dot; such names are hidden and kept for the server's own files")
        }
        _ if name.chars().any(char::is_control) => Some("contains a control character; remove it"),
        RESERVED => Some("is kept for the repositories' releases; choose another"),
        _ => None,
    }
}

/// Characters that show as nothing, or change the direction of what follows (Unicode bidirectional controls, UAX #9).
fn is_invisible(char: char) -> bool {
    matches!(char,
        '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{061C}' | '\u{FEFF}'
        | '\u{FFF9}'..='\u{FFFF}')
}

/// The name as an error may show it: quoted, escaped, and not longer than a line.
fn quoted(name: &str) -> String {
    let mut shown: String = name.chars().take(80).flat_map(char::escape_default).collect();
    if name.chars().nth(80).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

impl fmt::Display for PackageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PackageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Borrow<str> for PackageName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_and_unicode_names_are_welcome() {
        for name in [
            "app-1.0.0.tar.gz",
            "spec-kit-template-claude-sh-v0.0.91.zip",
            "größe-日本語-🚀.zip",
            "a b (1).zip",
            "a%20b.zip",
            "100%.zip",
            "what?.zip",
            "a#1",
            "~x",
            "-rf",
            "x..y",
        ] {
            assert_eq!(PackageName::for_upload(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn each_refusal_says_which_rule() {
        let long = "x".repeat(201);
        for (name, rule) in [
            ("", "empty"),
            ("../../etc/x", "path separator"),
            ("a/b", "path separator"),
            ("a\\b", "path separator"),
            ("..", "begins with a dot"),
            (".hidden", "begins with a dot"),
            ("a\0b", "control character"),
            ("a\nb", "control character"),
            ("a\u{7f}b", "control character"),
            ("a\u{85}b", "control character"),
            ("repos", "repositories"),
            (long.as_str(), "200 bytes"),
            ("u\u{308}.zip", "normalization"),
            (" x", "white space"),
            ("x\u{a0}", "white space"),
            ("photo\u{202e}gpj.exe", "invisible"),
            ("a\u{200b}b", "invisible"),
        ] {
            let error = PackageName::for_upload(name).unwrap_err().to_string();
            assert!(error.contains(rule), "{name:?}: {error}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn a_file_copied_in_by_hand_keeps_its_name_unless_it_is_ours() {
        assert!(PackageName::existing("u\u{308}.zip").is_some());
        assert!(PackageName::existing(&"x".repeat(255)).is_some());
        for name in ["", ".", "..", ".release-server", "repos", "a/b", "a\tb"] {
            assert!(PackageName::existing(name).is_none(), "{name:?}");
        }
    }
}
