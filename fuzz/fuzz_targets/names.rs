//! Names of packages, repositories, tags and assets: what is accepted stays in one place of the store, and comes back as
//! it was.

#![no_main]

use std::path::{Component, Path};

use http::Method;
use libfuzzer_sys::{Corpus, fuzz_target};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use release_server::{
    name::PackageName,
    releases::{
        id::ReleaseId,
        name::{Repository, TagName, asset_name},
    },
    storage::repos::Key,
};
use release_server_fuzz::server;
use unicode_normalization::is_nfc;

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(data) else { return Corpus::Reject };
    package(text);
    repository(text);
    tag(text);
    asset(text);
    Corpus::Keep
});

/// Whether `name` is exactly one thing in a folder.
fn is_one_entry(name: &str) -> bool {
    let components: Vec<_> = Path::new(name).components().collect();
    matches!(components[..], [Component::Normal(only)] if only == name)
}

fn package(text: &str) {
    let existing = PackageName::existing(text);
    if let Some(name) = &existing {
        assert_eq!(name.as_str(), text);
        assert!(is_one_entry(text) && !text.starts_with('.') && text.len() <= 255 && text != "repos");
        assert!(!text.chars().any(char::is_control) && !text.contains('\\'));
    }
    let target = format!("/assets/{}", utf8_percent_encode(text, NON_ALPHANUMERIC));
    let Ok(name) = PackageName::for_upload(text) else {
        let refused = server().send(Method::PUT, &target, "x");
        assert!(refused.status.is_client_error(), "{text:?}: {refused:?}");
        return;
    };
    assert_eq!(existing.as_ref(), Some(&name), "what may be made may be found");
    assert!(is_nfc(text) && text.len() <= 200);

    // Through the store and back.
    let made = server().send(Method::PUT, &format!("{target}?overwrite=true"), text.to_owned()).ok().json();
    assert_eq!(made["name"], text);
    let link = made["url"].as_str().expect("a link");
    let path = link.strip_prefix("http://127.0.0.1:8000").expect("of this server");
    assert_eq!(server().send(Method::GET, path, "").ok().body, text.as_bytes());
    let list = server().send(Method::GET, "/packages", "").ok().json();
    assert!(list.as_array().expect("a list").iter().any(|package| package["name"] == text), "{list}");
    let deleted = server().send(Method::DELETE, path, "");
    assert_eq!(deleted.status, 204, "{deleted:?}");
    server().restore();
}

fn repository(text: &str) {
    let Some(repository) = Repository::parse(text) else { return };
    assert_eq!(repository.as_str(), text);
    assert_eq!(repository.key(), text.to_ascii_lowercase());
    assert_eq!(format!("{}/{}", repository.owner(), repository.name()), text);
    assert_eq!(Repository::parse(repository.key()).as_ref(), Some(&repository));
    let folder = Key::records(&repository);
    let segments: Vec<&str> = folder.as_str().split('/').collect();
    assert!(
        matches!(segments[..], ["repos", owner, name, "releases"] if is_one_entry(owner) && is_one_entry(name))
    );
}

fn tag(text: &str) {
    let Ok(tag) = TagName::parse(text) else { return };
    assert_eq!(tag.as_str(), text);
    let encoded = tag.encoded();
    assert!(encoded.len() <= 200 && is_one_entry(&encoded), "{encoded}");
    assert_eq!(percent_decode_str(&encoded).decode_utf8().expect("UTF-8"), text);
    let repository = Repository::new("acme", "app").expect("a repository");
    assert_eq!(Key::pointer(&repository, &tag).as_str(), format!("repos/acme/app/tags/{encoded}"));
}

fn asset(text: &str) {
    let Some(name) = asset_name(text) else { return };
    assert!(is_one_entry(&name) && !name.starts_with('.') && name.len() <= 200, "{name}");
    assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_+@.".contains(&byte)), "{name}");
    assert_eq!(asset_name(&name).as_deref(), Some(name.as_str()), "a name of an asset stays what it is");
    let repository = Repository::new("acme", "app").expect("a repository");
    let id = ReleaseId::from_number(1 << 40).expect("an id");
    let key = Key::bytes(&repository, id, "token", &name);
    assert_eq!(key.as_str(), format!("repos/acme/app/files/{id}/token/{name}"));
    assert_eq!(Key::parse_bytes(&repository, key.as_str()), Some(key));
}
