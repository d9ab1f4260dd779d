//! What every store promises, whichever it is: memory, a directory, a bucket of the tests' own S3, and the bucket
//! that `TEST_STORAGE_URL` (`s3://bucket/prefix`) names, reached as the `AWS_*` variables say.

use std::{collections::BTreeSet, env};

use bytes::Bytes;
use chrono::{SubsecRound as _, Utc};
use futures_util::future::join_all;
use object_store::GetOptions;
use release_server::{
    digest::Digest,
    error::{Error, Result},
    marker::{Marker, Source},
    metrics::Metrics,
    name::PackageName,
    storage::{Storage, Written},
};
use tempfile::TempDir;

use crate::{
    MIB,
    fake::{BUCKET, Fake},
};

/// What uploads may hold in memory, all together.
pub(crate) const UPLOAD_MEMORY: u64 = 64 << 20;

/// One that goes in one piece, and one that needs several.
const SIZES: [usize; 2] = [10, 8 * MIB + 1];

/// Runs the test over every store there is.
pub(crate) async fn over_each_store(test: impl AsyncFn(&Storage)) {
    println!("memory");
    test(&Storage::memory(UPLOAD_MEMORY)).await;

    println!("a directory");
    let folder = TempDir::new().unwrap();
    test(&Storage::directory(folder.path(), UPLOAD_MEMORY).unwrap()).await;

    println!("a bucket, measured");
    let fake = Fake::start().await;
    let storage = bucket(&fake).await.unwrap().measured(Metrics::on());
    test(&storage).await;
    storage.finish().await;
    assert!(fake.unfinished_uploads().is_empty());
    assert!(fake.keys("a/prefix/.release-server/removing").is_empty());

    if let Ok(url) = env::var("TEST_STORAGE_URL") {
        println!("`{url}`");
        let (name, prefix) = url.strip_prefix("s3://").unwrap().split_once('/').unwrap();
        let prefix = format!("{prefix}/{}", uuid::Uuid::new_v4());
        let storage = Storage::bucket(name, &prefix, env::vars(), None, UPLOAD_MEMORY, false).await;
        test(&storage.unwrap()).await;
    } else {
        println!("NO REAL BUCKET: `TEST_STORAGE_URL` IS NOT SET");
    }
}

/// The server's view of the bucket.
pub(crate) async fn bucket(fake: &Fake) -> anyhow::Result<Storage> {
    let variables = fake.variables().map(|(name, value)| (name.to_owned(), value));
    Storage::bucket(BUCKET, "a/prefix", variables, None, UPLOAD_MEMORY, false).await
}

pub(crate) fn name(name: &str) -> PackageName {
    PackageName::for_upload(name).unwrap()
}

/// Bytes that no other seed begins with; no two parts of them are alike, for their period is a prime number.
pub(crate) fn bytes(seed: usize, size: usize) -> Bytes {
    let period: Vec<u8> = (0..=250).map(|byte: u8| byte.wrapping_add(u8::try_from(seed).unwrap())).collect();
    let mut bytes = period.repeat(size / period.len() + 1);
    bytes.truncate(size);
    bytes.into()
}

/// Uploads without a marker.
pub(crate) async fn write(
    storage: &Storage,
    name: &PackageName,
    bytes: Bytes,
    overwrite: bool,
) -> Result<Written> {
    let mut upload = storage.upload(name, overwrite, Some(bytes.len() as u64));
    upload.write(bytes.clone()).await?;
    assert_eq!(upload.size(), bytes.len() as u64);
    assert_eq!(upload.digest().await?, Digest::of(&bytes));
    upload.commit().await
}

pub(crate) fn marker(written: &Written, bytes: &Bytes) -> Marker {
    let (name, size, time) = (written.name.as_str(), bytes.len() as u64, Utc::now().trunc_subsecs(3));
    Marker::new(name, &written.etag, size, Digest::of(bytes), Source::Published, time)
}

/// Uploads as the server does, until it may be acknowledged.
pub(crate) async fn publish(
    storage: &Storage,
    name: &PackageName,
    bytes: Bytes,
    overwrite: bool,
) -> Result<(Written, Marker)> {
    let written = write(storage, name, bytes.clone(), overwrite).await?;
    let marker = marker(&written, &bytes);
    storage.put_marker(&marker).await?;
    storage.confirm(&written).await?;
    Ok((written, marker))
}

pub(crate) async fn read(storage: &Storage, name: &PackageName) -> Result<Bytes> {
    let opened = storage.open(name, GetOptions::default()).await?;
    opened.bytes().await.map_err(|error| Error::Unavailable(error.into()))
}

async fn names(storage: &Storage) -> BTreeSet<String> {
    let objects = storage.list().await.unwrap().objects;
    objects.into_iter().map(|object| object.location.to_string()).collect()
}

#[track_caller]
pub(crate) fn assert_exists<T>(result: Result<T>) {
    assert!(matches!(result.err(), Some(Error::AlreadyExists(_))));
}

#[track_caller]
pub(crate) fn assert_missing<T>(result: Result<T>) {
    assert!(matches!(result.err(), Some(Error::NotFound(_))));
}

#[tokio::test]
async fn what_was_uploaded_comes_back_and_is_listed_as_it_is() {
    over_each_store(async |storage| {
        for size in [0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 17 * MIB] {
            let (name, bytes) = (name(&format!("app-{size}.zip")), bytes(1, size));
            let written = write(storage, &name, bytes.clone(), false).await.unwrap();
            assert!(written.etag.starts_with('"'));
            assert!(read(storage, &name).await.unwrap() == bytes);
            let listed = storage.list().await.unwrap().objects;
            let listed = listed.iter().find(|object| object.location.as_ref() == name.as_str()).unwrap();
            for meta in [listed, &storage.find(&name).await.unwrap()] {
                assert_eq!((meta.size, meta.e_tag.as_deref()), (size as u64, Some(written.etag.as_str())));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_range_is_those_bytes() {
    over_each_store(async |storage| {
        let (name, bytes) = (name("app.zip"), bytes(1, 3 * MIB));
        write(storage, &name, bytes.clone(), false).await.unwrap();
        for range in [0..1, 10..2 * MIB as u64, 3 * MIB as u64 - 1..3 * MIB as u64] {
            let options = GetOptions::new().with_range(Some(range.clone()));
            let opened = storage.open(&name, options).await.unwrap();
            assert_eq!((opened.range.clone(), opened.meta.size), (range.clone(), 3 * MIB as u64));
            let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
            assert!(opened.bytes().await.unwrap() == bytes[start..end]);
        }
    })
    .await;
}

#[tokio::test]
async fn a_name_is_taken_once() {
    over_each_store(async |storage| {
        for size in SIZES {
            let name = name(&format!("app-{size}.zip"));
            write(storage, &name, bytes(1, size), false).await.unwrap();
            for other in SIZES {
                assert_exists(write(storage, &name, bytes(2, other), false).await);
            }
            assert!(read(storage, &name).await.unwrap() == bytes(1, size));
        }
    })
    .await;
}

#[tokio::test]
async fn of_racing_uploads_one_gets_the_name() {
    over_each_store(async |storage| {
        for (size, racers) in [(SIZES[0], 16), (SIZES[1], 4)] {
            let name = name(&format!("app-{size}.zip"));
            let ends =
                join_all((0..racers).map(|seed| write(storage, &name, bytes(seed, size), false))).await;
            let winners: Vec<usize> = (0..racers).filter(|&racer| ends[racer].is_ok()).collect();
            assert_eq!(winners.len(), 1);
            ends.into_iter().filter(Result::is_err).for_each(assert_exists);
            assert!(read(storage, &name).await.unwrap() == bytes(winners[0], size));
        }
    })
    .await;
}

#[tokio::test]
async fn replacing_is_whole_and_the_last_word() {
    over_each_store(async |storage| {
        let name = name("app.zip");
        for (seed, size) in [SIZES[0], SIZES[1], SIZES[1], SIZES[0]].into_iter().enumerate() {
            let written = write(storage, &name, bytes(seed, size), true).await.unwrap();
            assert_eq!(storage.find(&name).await.unwrap().e_tag, Some(written.etag));
            assert!(read(storage, &name).await.unwrap() == bytes(seed, size));
        }
    })
    .await;
}

#[tokio::test]
async fn nothing_is_visible_before_the_commit_and_nothing_is_left_without_one() {
    over_each_store(async |storage| {
        for size in SIZES {
            let name = name("app.zip");
            let mut upload = storage.upload(&name, false, None);
            upload.write(bytes(1, size)).await.unwrap();
            upload.digest().await.unwrap();
            assert_missing(storage.find(&name).await);
            assert!(names(storage).await.is_empty());
            drop(upload);
            assert_missing(storage.find(&name).await);
        }
    })
    .await;
}

#[tokio::test]
async fn a_removal_takes_only_what_was_judged() {
    over_each_store(async |storage| {
        let name = name("app.zip");
        assert_missing(storage.find(&name).await);
        let (old, old_marker) = publish(storage, &name, bytes(1, 10), false).await.unwrap();
        let (new, new_marker) = publish(storage, &name, bytes(2, 10), true).await.unwrap();
        let refused = storage.remove(&name, &old.etag, Some(&old_marker)).await;
        assert!(matches!(refused, Err(Error::Changed(_))));
        assert_eq!(read(storage, &name).await.unwrap(), bytes(2, 10));
        storage.remove(&name, &new.etag, Some(&new_marker)).await.unwrap();
        assert_missing(read(storage, &name).await);
        assert_missing(storage.remove(&name, &new.etag, Some(&new_marker)).await);
        publish(storage, &name, bytes(3, 10), false).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_download_that_began_before_a_replacement_never_mixes() {
    over_each_store(async |storage| {
        let name = name("app.zip");
        write(storage, &name, bytes(1, 3 * MIB), false).await.unwrap();
        let opened = storage.open(&name, GetOptions::default()).await.unwrap();
        write(storage, &name, bytes(2, 3 * MIB), true).await.unwrap();
        if let Ok(read) = opened.bytes().await {
            assert!(read == bytes(1, 3 * MIB));
        }
    })
    .await;
}

#[tokio::test]
async fn packages_are_listed_by_their_names_and_nothing_else_is() {
    over_each_store(async |storage| {
        let odd = ["a b.zip", "ü.zip", "a%20b.zip", "a+b&c.zip", "~[a]{b}.zip", "x.zip.sha256"];
        for odd in odd {
            publish(storage, &name(odd), bytes(1, 1), false).await.unwrap();
            assert_eq!(read(storage, &name(odd)).await.unwrap(), bytes(1, 1));
        }
        storage.set_swept().await.unwrap();
        assert_eq!(names(storage).await, odd.map(str::to_owned).into());
        assert_eq!(storage.list().await.unwrap().markers.len(), odd.len());
    })
    .await;
}

#[tokio::test]
async fn markers_and_the_record_of_sweeps_are_kept_and_may_be_written_twice() {
    over_each_store(async |storage| {
        let written = write(storage, &name("app.zip"), bytes(1, 1), false).await.unwrap();
        let marker = marker(&written, &bytes(1, 1));
        storage.put_marker(&marker).await.unwrap();
        storage.put_marker(&marker).await.unwrap();
        assert_eq!(*storage.list().await.unwrap().markers, [marker.to_string()]);
        storage.remove_marker(&marker.to_string()).await.unwrap();
        storage.remove_marker(&marker.to_string()).await.unwrap();
        assert!(storage.list().await.unwrap().markers.is_empty());

        assert!(!storage.was_swept().await.unwrap());
        storage.set_swept().await.unwrap();
        storage.set_swept().await.unwrap();
        assert!(storage.was_swept().await.unwrap());
        storage.check().await.unwrap();
        storage.clear_unfinished().await.unwrap();
    })
    .await;
}
