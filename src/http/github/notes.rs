//! Release notes made by the server: it knows no commits, so they say what was released before.

use schemars::JsonSchema;
use serde::Serialize;

use super::links::Links;
use crate::releases::{listing::Listing, name::TagName};

/// Notes that were made.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GitHubReleaseNotes")]
pub(super) struct NotesJson {
    /// A title.
    pub(super) name: String,
    /// Markdown.
    pub(super) body: String,
}

/// Notes for a tag, after `previous` or the newest other release.
pub(super) fn generate(
    listing: &Listing,
    tag: &TagName,
    previous: Option<&TagName>,
    links: &Links,
) -> String {
    let mut published = listing.visible(false);
    let before = match previous {
        Some(previous) => published.find(|record| record.tag_name == *previous),
        None => published.find(|record| record.tag_name != *tag),
    };
    match before {
        Some(before) => {
            format!("## {tag}\n\n**Previous release**: [{}]({})", before.tag_name, links.page(before))
        }
        None => format!("## {tag}\n\nThe first release."),
    }
}
