//! Notes of a release as HTML: nothing in them runs, loads or hides, as a browser's own tokenizer reads it.

#![no_main]

use html5gum::{Token, Tokenizer};
use libfuzzer_sys::{Corpus, fuzz_target};
use url::Url;

/// What the renderer makes, and the attributes that it gives each.
const ALLOWED: [(&str, &[&str]); 27] = [
    ("a", &["href", "title"]),
    ("blockquote", &[]),
    ("br", &[]),
    ("code", &["class"]),
    ("del", &[]),
    ("em", &[]),
    ("h1", &[]),
    ("h2", &[]),
    ("h3", &[]),
    ("h4", &[]),
    ("h5", &[]),
    ("h6", &[]),
    ("hr", &[]),
    ("input", &["type", "checked", "disabled"]),
    ("li", &[]),
    ("ol", &["start"]),
    ("p", &[]),
    ("pre", &[]),
    ("strong", &[]),
    ("table", &[]),
    ("tbody", &[]),
    ("td", &["align"]),
    ("th", &["align"]),
    ("thead", &[]),
    ("tr", &[]),
    ("ul", &[]),
    ("s", &[]),
];

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(notes) = std::str::from_utf8(data) else { return Corpus::Reject };
    let html = release_server::http::fuzzing::markdown(notes);
    let page = Url::parse("https://releases.example/acme/app/releases").expect("a URL");
    for Ok(token) in Tokenizer::new(&html) {
        let tag = match token {
            Token::StartTag(tag) => tag,
            // What was left out of the notes.
            Token::Comment(comment) => {
                assert_eq!(&comment[..], b" raw HTML omitted ", "{html}");
                continue;
            }
            Token::Doctype(_) => panic!("{html}"),
            _ => continue,
        };
        let name = std::str::from_utf8(&tag.name).expect("ASCII");
        let Some((_, attributes)) = ALLOWED.iter().find(|(allowed, _)| *allowed == name) else {
            panic!("<{name}> in {html}");
        };
        for (attribute, value) in &tag.attributes {
            let attribute = std::str::from_utf8(attribute).expect("ASCII");
            assert!(attributes.contains(&attribute), "<{name} {attribute}> in {html}");
            let value = String::from_utf8_lossy(value);
            if attribute == "href"
                && let Ok(target) = page.join(&value)
            {
                assert!(
                    matches!(target.scheme(), "http" | "https" | "mailto" | "ftp" | "xmpp" | "irc" | "ircs")
                        || harmless(target.scheme()),
                    "{value} in {html}"
                );
            }
        }
    }
    Corpus::Keep
});

/// Schemes that some program of the reader's may open, but that no browser runs in our origin.
fn harmless(scheme: &str) -> bool {
    !matches!(
        scheme,
        "javascript" | "vbscript" | "data" | "blob" | "file" | "filesystem" | "about" | "view-source"
    )
}
