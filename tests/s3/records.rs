//! What every store promises about records and bytes below `repos/`.

use bytes::Bytes;
use futures_util::{TryStreamExt as _, future::join_all};
use release_server::{
    error::{Error, Result},
    releases::{
        id::ReleaseId,
        name::{Repository, TagName},
    },
    storage::repos::{Entry, Key, Read},
};

use crate::{
    MIB,
    contract::{assert_exists, assert_missing, bytes, over_each_store},
};

fn repository() -> Repository {
    Repository::parse("Acme/App").unwrap()
}

fn record(number: u64) -> Key {
    Key::record(&repository(), ReleaseId::from_number(number).unwrap())
}

#[track_caller]
fn assert_changed<T>(result: Result<T>) {
    assert!(matches!(result.err(), Some(Error::Changed(_))));
}

#[tokio::test]
async fn a_record_is_created_once_and_swapped_only_from_what_was_read() {
    over_each_store(async |storage| {
        let key = record(7);
        assert_missing(storage.read(&key, None).await);
        assert_changed(storage.replace(&key, bytes(1, 10), "\"none\"").await);
        let first = storage.create(&key, bytes(1, 10)).await.unwrap();
        assert_exists(storage.create(&key, bytes(2, 10)).await);
        assert_eq!(storage.read(&key, None).await.unwrap(), Read::Fresh(bytes(1, 10), first.clone()));
        assert_eq!(storage.read(&key, Some(&first)).await.unwrap(), Read::Unchanged);

        let second = storage.replace(&key, bytes(2, 10), &first).await.unwrap();
        assert_changed(storage.replace(&key, bytes(3, 10), &first).await);
        assert_eq!(
            storage.read(&key, Some(&first)).await.unwrap(),
            Read::Fresh(bytes(2, 10), second.clone())
        );
        storage.replace(&key, bytes(3, 10), &second).await.unwrap();

        storage.erase(&key).await.unwrap();
        storage.erase(&key).await.unwrap();
        assert_missing(storage.read(&key, Some(&second)).await);
        storage.create(&key, bytes(4, 10)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn of_racing_swaps_one_succeeds() {
    over_each_store(async |storage| {
        for round in 1..10 {
            let key = record(round);
            let created = join_all((0..16).map(|seed| storage.create(&key, bytes(seed, 100)))).await;
            let etags: Vec<String> = created.into_iter().flatten().collect();
            assert_eq!(etags.len(), 1);
            let swapped =
                join_all((16..32).map(|seed| storage.replace(&key, bytes(seed, 100), &etags[0]))).await;
            let winner: Vec<usize> = (0..16).filter(|&racer| swapped[racer].is_ok()).collect();
            assert_eq!(winner.len(), 1);
            let Read::Fresh(found, _) = storage.read(&key, None).await.unwrap() else { panic!() };
            assert_eq!(found, bytes(16 + winner[0], 100));
        }
    })
    .await;
}

#[tokio::test]
async fn a_counter_that_many_add_to_loses_nothing() {
    over_each_store(async |storage| {
        let key = record(1);
        storage.create(&key, Bytes::from("0")).await.unwrap();
        let add = async || loop {
            let Read::Fresh(text, etag) = storage.read(&key, None).await.unwrap() else { panic!() };
            // Of its own each time: equal bytes have an equal ETag in a bucket.
            let text = std::str::from_utf8(&text).unwrap().split(' ').next().unwrap().to_owned();
            let next = format!("{} {}", text.parse::<u32>().unwrap() + 1, uuid::Uuid::new_v4());
            match storage.replace(&key, next.into(), &etag).await {
                Err(Error::Changed(_)) => {}
                replaced => return replaced.map(drop).unwrap(),
            }
        };
        join_all((0..8).map(|_| async { join_all((0..4).map(|_| add())).await })).await;
        let Read::Fresh(text, _) = storage.read(&key, None).await.unwrap() else { panic!() };
        assert!(text.starts_with(b"32 "));
    })
    .await;
}

#[tokio::test]
async fn folders_show_what_is_in_them_by_key_and_etag() {
    over_each_store(async |storage| {
        let folder = Key::records(&repository());
        assert!(storage.entries(&folder).await.unwrap().is_empty());
        let etag = storage.create(&record(7), bytes(1, 10)).await.unwrap();
        storage.create(&record(8), bytes(1, 10)).await.unwrap();
        let odd = TagName::parse("release/ü%2F+1").unwrap();
        storage.create(&Key::pointer(&repository(), &odd), bytes(2, 10)).await.unwrap();
        let other = Repository::parse("acme/other").unwrap();
        storage.create(&Key::record(&other, ReleaseId::from_number(7).unwrap()), bytes(1, 1)).await.unwrap();

        let mut entries = storage.entries(&folder).await.unwrap();
        entries.sort_by_key(|entry| entry.name().to_owned());
        let names: Vec<&str> = entries.iter().map(Entry::name).collect();
        assert_eq!(names, ["7.json", "8.json"]);
        assert_eq!((&entries[0].key, &entries[0].etag), (&record(7), &etag));
        let mut repositories = storage.repositories().await.unwrap();
        repositories.sort_by_key(|repository| repository.key().to_owned());
        assert_eq!(repositories, [repository(), other]);
        assert!(storage.list().await.unwrap().objects.is_empty());
    })
    .await;
}

#[tokio::test]
async fn bytes_of_assets_are_read_by_range_and_erased() {
    over_each_store(async |storage| {
        let id = ReleaseId::from_number(7).unwrap();
        for (token, size) in [("a", 0), ("b", 10), ("c", 9 * MIB)] {
            let key = Key::bytes(&repository(), id, token, "app.zip");
            let mut upload = storage.upload_to(&key, Some(size as u64));
            upload.write(bytes(1, size)).await.unwrap();
            upload.digest().await.unwrap();
            upload.commit().await.unwrap();
            let content = storage.bytes_at(&key, size as u64, 0..size as u64).await.unwrap();
            let blocks: Vec<Bytes> = content.into_stream().try_collect().await.unwrap();
            assert!(blocks.concat() == bytes(1, size));
            assert!(storage.bytes_at(&key, size as u64 + 1, 0..1).await.is_err(), "it has another size");
            assert_eq!(Key::parse_bytes(&repository(), key.as_str()), Some(key));
        }
        let below = storage.entries_below(&Key::files_of(&repository(), id)).await.unwrap();
        assert_eq!(below.len(), 3);
        for file in below {
            storage.erase(&file.key).await.unwrap();
        }
        assert!(storage.entries_below(&Key::files(&repository())).await.unwrap().is_empty());
        assert!(storage.repositories().await.unwrap().is_empty(), "empty folders are left");
    })
    .await;
}

#[test]
fn a_key_of_bytes_stays_in_its_repository() {
    for text in [
        "",
        "repos/acme/app/releases/7.json",
        "repos/acme/other/files/7/a/x",
        "repos/acme/app/files/../x",
        "/x",
    ] {
        assert_eq!(Key::parse_bytes(&repository(), text), None, "{text}");
    }
}
