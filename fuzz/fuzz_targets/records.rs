//! Records of releases: every change keeps the fields that a newer server wrote, the unknown ones of assets too.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use release_server::releases::record::{Pointer, Record, now};
use serde_json::Value;

const KNOWN: [&str; 20] = [
    "id",
    "repository",
    "tag_name",
    "target_commitish",
    "name",
    "body",
    "published",
    "deleted",
    "pending",
    "prerelease",
    "pinned",
    "immutable",
    "make_latest",
    "created_at",
    "updated_at",
    "published_at",
    "latest_at",
    "author",
    "revision",
    "edit",
];
const COUNTED: [&str; 3] = ["next_slot", "assets", "dropped"];
const OF_ASSETS: [&str; 10] =
    ["id", "name", "label", "content_type", "size", "sha256", "key", "uploader", "created_at", "updated_at"];
const OF_POINTERS: [&str; 3] = ["id", "revision", "edit"];

fuzz_target!(|data: &[u8]| -> Corpus {
    pointer(data);
    let Ok(record) = serde_json::from_slice::<Record>(data) else { return Corpus::Keep };
    let before: Value = serde_json::from_slice(data).expect("it was read already");
    if record.revision == u64::MAX {
        // Nobody edits as often.
        return Corpus::Keep;
    }
    let written = serde_json::to_vec(&record).expect("a record is written");
    assert_eq!(serde_json::from_slice::<Record>(&written).expect("what is written is read"), record);

    let (revision, edit, assets) = (record.revision, record.edit.clone(), record.assets.len());
    let mut record = record.touched(now());
    let slot = record.take_slot();
    assert!(slot.is_some() || assets >= 1000, "a release of {assets} assets is not full");
    assert!(slot.is_none_or(|slot| record.assets.iter().all(|asset| asset.id.slot() != slot)));
    assert_eq!(record.revision, revision + 1);
    assert_ne!(record.edit, edit);
    let _ = (record.title(), record.repository(), record.is_published());

    let after = serde_json::to_value(&record).expect("a record is written");
    kept(&before, &after, &[&KNOWN[..], &COUNTED].concat());
    let (before, after) = (before["assets"].as_array(), after["assets"].as_array());
    for (before, after) in before.into_iter().flatten().zip(after.into_iter().flatten()) {
        kept(before, after, &OF_ASSETS);
    }
    Corpus::Keep
});

fn pointer(data: &[u8]) {
    let Ok(pointer) = serde_json::from_slice::<Pointer>(data) else { return };
    if pointer.revision == u64::MAX {
        return;
    }
    let before: Value = serde_json::from_slice(data).expect("it was read already");
    let id = pointer.id;
    let after = serde_json::to_value(pointer.moved(id)).expect("a pointer is written");
    kept(&before, &after, &OF_POINTERS);
}

fn kept(before: &Value, after: &Value, known: &[&str]) {
    for (name, value) in before.as_object().expect("an object") {
        if !known.contains(&name.as_str()) {
            assert_eq!(after.get(name), Some(value), "`{name}` is lost");
        }
    }
}
