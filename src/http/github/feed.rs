//! `releases.atom`: the newest releases as an Atom feed (RFC 4287), in the words of GitHub's.
//!
//! What readers rely on: an entry's link ends in `/tag/` and its tag, its content is the notes in HTML, and its id stays
//! the same whatever is edited and whatever the server is called.

use atom_syndication::{Content, Entry, Feed, FixedDateTime, Generator, Link, Person, Text};
use chrono::{DateTime, Utc};

use super::{json::number, links::Links};
use crate::{
    http::pages,
    releases::{listing::Listing, name::Repository, record::Record},
};

/// The most entries: an updater that follows a channel of prereleases looks for it among them.
const MOST: usize = 30;

/// The feed of a repository's published releases.
pub(super) fn feed(listing: &Listing, repository: &Repository, links: &Links) -> String {
    let (page, id) = (links.releases_page(repository.as_str()), number(repository.key()));
    let entries: Vec<Entry> =
        listing.visible(false).take(MOST).map(|record| entry(record, id, links)).collect();
    let updated = entries.iter().map(|entry| entry.updated).max().unwrap_or_default();
    Feed {
        title: Text::plain(format!("Release notes from {}", printable(repository.name()))),
        id: format!("tag:release-server,2026:{id}/releases"),
        updated,
        links: vec![
            link(page.clone(), "alternate", "text/html"),
            link(format!("{page}.atom"), "self", "application/atom+xml"),
        ],
        generator: Some(Generator { value: "Release Server".into(), ..Generator::default() }),
        lang: Some("en".into()),
        entries,
        ..Feed::default()
    }
    .to_string()
}

fn entry(record: &Record, repository: u64, links: &Links) -> Entry {
    Entry {
        title: Text::plain(printable(record.title())),
        id: format!("tag:release-server,2026:{repository}/releases/{}", record.id),
        updated: fixed(record.updated_at),
        published: record.published_at.map(fixed),
        links: vec![link(links.page(record), "alternate", "text/html")],
        authors: vec![Person { name: printable(&record.author), ..Person::default() }],
        content: Some(Content {
            content_type: Some("html".into()),
            value: Some(printable(&pages::markdown(record.body.as_deref().unwrap_or_default()))),
            ..Content::default()
        }),
        ..Entry::default()
    }
}

fn link(href: String, rel: &str, mime_type: &str) -> Link {
    Link { href, rel: rel.into(), mime_type: Some(mime_type.into()), ..Link::default() }
}

fn fixed(time: DateTime<Utc>) -> FixedDateTime {
    time.fixed_offset()
}

/// Without the characters that XML has no way to write.
fn printable(text: &str) -> String {
    let unwritable =
        |c: char| (c < ' ' && !matches!(c, '\t' | '\n' | '\r')) || matches!(c, '\u{fffe}' | '\u{ffff}');
    text.replace(unwritable, "\u{fffd}")
}
