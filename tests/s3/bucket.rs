//! What the server's storage makes of a bucket on a bad day.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use release_server::{
    digest::Digest,
    error::Error,
    marker::{Marker, Source},
    storage::Storage,
};
use tokio::time::{sleep, timeout};

use crate::{
    MIB,
    contract::{assert_exists, assert_missing, bucket, bytes, name, publish, read, write},
    fake::{BUCKET, Engine, Fake, Fault, Operation, Options},
    quick,
};

const WRITES: [Operation; 2] = [Operation::Put, Operation::Complete];
/// Where the packages are.
const PACKAGES: &str = "a/prefix/app";

#[tokio::test]
async fn a_write_whose_reply_is_lost_is_known_to_be_ours() {
    let fake = Fake::start().await;
    let storage = bucket(&fake).await.unwrap();
    for size in [10, 8 * MIB + 1] {
        for fault in [Fault::LoseReply, Fault::FailAfterwards(500, "InternalError")] {
            let name = name(&format!("app-{size}-{}.zip", uuid::Uuid::new_v4()));
            fake.when(WRITES).under(PACKAGES).then(fault);
            let written = write(&storage, &name, bytes(1, size), false).await.unwrap();
            assert_eq!(storage.find(&name).await.unwrap().e_tag, Some(written.etag));
            storage.confirm(&publish(&storage, &name, bytes(2, size), true).await.unwrap().0).await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_upload_that_was_deleted_before_its_end_was_known_is_not_called_missing() {
    let fake = Fake::start().await;
    let storage = bucket(&fake).await.unwrap();
    fake.when([Operation::Complete]).then(Fault::LoseReply);
    let again = fake.when([Operation::Complete]).after(1).hold();
    let deleted = async {
        again.arrived().await;
        assert!(fake.remove("a/prefix/app.zip").is_some());
        again.release();
    };
    let name = name("app.zip");
    let (written, ()) = tokio::join!(write(&storage, &name, bytes(1, 8 * MIB + 1), false), deleted);
    assert!(matches!(written, Err(Error::Unavailable(_))), "{written:?}");
}

#[tokio::test]
async fn a_write_that_was_lost_on_the_way_is_sent_again() {
    let fake = Fake::start().await;
    let storage = bucket(&fake).await.unwrap();
    for (index, fault) in [Fault::Drop, Fault::SLOW_DOWN, Fault::CONFLICT].into_iter().enumerate() {
        let name = name(&format!("app-{index}.zip"));
        fake.when(WRITES).under(PACKAGES).times(2).then(fault);
        write(&storage, &name, bytes(1, 10), false).await.unwrap();
        assert_eq!(read(&storage, &name).await.unwrap(), bytes(1, 10));
    }
}

#[tokio::test]
async fn a_taken_name_is_refused_at_once_whatever_it_contains() {
    let fake = Fake::start().await;
    let storage = bucket(&fake).await.unwrap();
    let name = name("app-503-SlowDown.zip");
    write(&storage, &name, bytes(1, 10), false).await.unwrap();
    let begun = Instant::now();
    assert_exists(write(&storage, &name, bytes(2, 10), false).await);
    assert!(begun.elapsed() < Duration::from_secs(2));
}

/// A store may refuse a write because of an object that is gone a moment later.
#[tokio::test]
async fn what_is_refused_though_the_name_is_free_is_written_after_all() {
    let fake = Fake::start().await;
    let storage = bucket(&fake).await.unwrap();
    fake.when(WRITES).under("a/prefix/").times(2).then(Fault::PRECONDITION);
    publish(&storage, &name("app.zip"), bytes(1, 10), false).await.unwrap();
    assert_eq!(storage.list().await.unwrap().markers.len(), 1);
    fake.when(WRITES).under("a/prefix/.release-server/packages/").then(Fault::PRECONDITION);
    publish(&storage, &name("other.zip"), bytes(1, 10), false).await.unwrap();
    assert_eq!(storage.list().await.unwrap().markers.len(), 2);
    fake.when([Operation::Complete]).times(2).then(Fault::PRECONDITION);
    publish(&storage, &name("large.zip"), bytes(1, 8 * MIB + 1), false).await.unwrap();
    assert_eq!(storage.list().await.unwrap().markers.len(), 3);
}

/// An object without a marker, or nothing at all, must not pass for a publish, nor for what another one has published.
#[tokio::test]
async fn what_is_refused_for_ever_though_the_name_is_free_is_not_said_to_be_there() {
    let fake = Fake::start().await;
    let storage = bucket(&fake).await.unwrap();
    fake.when(WRITES).under("a/prefix/").always().then(Fault::PRECONDITION);
    let marker = async {
        let (digest, now) = (Digest::of(&bytes(1, 10)), chrono::Utc::now());
        storage.put_marker(&Marker::new("app.zip", "\"e\"", 10, digest, Source::Published, now)).await
    };
    let (small, large) = (name("app.zip"), name("large.zip"));
    let (small, large, marker) = tokio::join!(
        write(&storage, &small, bytes(1, 10), false),
        write(&storage, &large, bytes(1, 8 * MIB + 1), false),
        marker
    );
    for refused in [small.map(drop), large.map(drop), marker] {
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_failed_upload_leaves_no_parts() {
    let fake = Fake::start().await;
    let storage = bucket(&fake).await.unwrap();
    let name = name("app.zip");
    fake.when([Operation::PutPart]).always().then(Fault::DENIED);
    write(&storage, &name, bytes(1, 8 * MIB + 1), false).await.unwrap_err();
    fake.behave();
    fake.when([Operation::Complete]).always().then(Fault::DENIED);
    write(&storage, &name, bytes(1, 8 * MIB + 1), false).await.unwrap_err();
    fake.behave();
    fake.put("a/prefix/app.zip", "somebody else's");
    assert_exists(write(&storage, &name, bytes(1, 8 * MIB + 1), false).await);
    storage.finish().await;
    assert!(fake.unfinished_uploads().is_empty());
    assert_eq!(read(&storage, &name).await.unwrap(), "somebody else's");
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_and_never_mixes() {
    let fake = Fake::start().await;
    let storage = bucket(&fake).await.unwrap();
    let name = name("app.zip");
    write(&storage, &name, bytes(1, MIB), false).await.unwrap();
    fake.when([Operation::Get]).times(3).then(Fault::CutBody(200_000));
    assert!(read(&storage, &name).await.unwrap() == bytes(1, MIB));

    fake.when([Operation::Get]).then(Fault::CutBody(200_000));
    let gate = fake.when([Operation::Get]).after(1).hold();
    let reading = {
        let (storage, name) = (storage.clone(), name.clone());
        tokio::spawn(async move { read(&storage, &name).await })
    };
    gate.arrived().await;
    write(&storage, &name, bytes(2, MIB), true).await.unwrap();
    gate.release();
    reading.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_restart_of_the_store_is_ridden_out() {
    let mut fake = Fake::start().await;
    let storage = bucket(&fake).await.unwrap();
    let name = name("app.zip");
    write(&storage, &name, bytes(1, 10), false).await.unwrap();
    fake.stop().await;
    let (written, found, listed, ()) = tokio::join!(
        write(&storage, &name, bytes(2, 10), true),
        storage.find(&name),
        storage.list(),
        async {
            sleep(Duration::from_secs(2)).await;
            fake.start_again().await;
        }
    );
    written.unwrap();
    found.unwrap();
    assert_eq!(listed.unwrap().objects.len(), 1);
}

#[tokio::test]
async fn an_upload_waits_for_a_removal_that_judged_before_it() {
    let fake = Fake::start().await;
    let storage = bucket(&fake).await.unwrap();
    let name = name("app.zip");
    let (old, marker) = publish(&storage, &name, bytes(1, 10), false).await.unwrap();
    let gate = fake.when([Operation::Delete]).under(PACKAGES).hold();
    let removal = {
        let (storage, name) = (storage.clone(), name.clone());
        tokio::spawn(async move { storage.remove(&name, &old.etag, Some(&marker)).await })
    };
    gate.arrived().await;
    let upload = publish(&storage, &name, bytes(2, 10), true);
    let mut upload = Box::pin(upload);
    timeout(Duration::from_millis(500), &mut upload).await.unwrap_err();
    gate.release();
    removal.await.unwrap().unwrap();
    // Its bytes are gone with the old ones: it must not be acknowledged.
    assert!(matches!(upload.await, Err(Error::Unavailable(_))));
    assert_missing(read(&storage, &name).await);
    publish(&storage, &name, bytes(3, 10), false).await.unwrap();
}

#[test]
fn a_replacement_that_lands_late_replaces_nothing() {
    quick::run(async {
        let fake = Fake::start().await;
        let storage = bucket(&fake).await.unwrap();
        let name = name("app.zip");
        publish(&storage, &name, bytes(1, 10), false).await.unwrap();
        let gate = fake.when([Operation::Put]).under(PACKAGES).hold();
        // Its sender gives up on it after minutes, and another one is faster.
        publish(&storage, &name, bytes(2, 20), true).await.unwrap_err();
        gate.arrived().await;
        publish(&storage, &name, bytes(3, 30), true).await.unwrap();
        drop(gate);
        while fake.under_way() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(read(&storage, &name).await.unwrap(), bytes(3, 30));
    });
}

#[tokio::test]
async fn a_removal_in_doubt_blocks_the_name_until_it_is_stale() {
    let fake = Fake::start().await;
    let storage = bucket(&fake).await.unwrap();
    let name = name("app.zip");
    let (old, marker) = publish(&storage, &name, bytes(1, 10), false).await.unwrap();
    fake.when([Operation::Delete]).under(PACKAGES).then(Fault::LoseReply);
    storage.remove(&name, &old.etag, Some(&marker)).await.unwrap_err();
    let deletes = fake
        .requests()
        .into_iter()
        .filter(|request| *request == (Operation::Delete, "a/prefix/app.zip".into()));
    assert_eq!(deletes.count(), 1);
    let intents = fake.keys("a/prefix/.release-server/removing/");
    assert_eq!(intents.len(), 1);
    let again = publish(&storage, &name, bytes(2, 10), true);
    let mut again = Box::pin(again);
    timeout(Duration::from_millis(500), &mut again).await.unwrap_err();
    fake.age(&intents[0], TimeDelta::minutes(6));
    again.await.unwrap();
    storage.clear_unfinished().await.unwrap();
    assert!(fake.keys("a/prefix/.release-server/removing/").is_empty());
}

#[tokio::test]
async fn strange_keys_take_no_listing_down() {
    let fake = Fake::with(Options { engine: Engine::Aws, page: 3, ..Options::default() }).await;
    let storage = bucket(&fake).await.unwrap();
    publish(&storage, &name("app.zip"), bytes(1, 10), false).await.unwrap();
    for key in ["tab\there", "\u{1}", "", "/", "a//b", "../x", "folder/", ".", "del\u{7f}"] {
        fake.put(&format!("a/prefix/{key}"), "x");
        fake.put(&format!("a/prefix/.release-server/packages/{key}"), "x");
    }
    let found = storage.list().await.unwrap();
    assert!(found.objects.iter().any(|object| object.location.as_ref() == "app.zip"), "{found:?}");
    assert!(
        found.markers.iter().any(|marker| marker.ends_with("-published") || marker.contains("published-"))
    );
}

#[tokio::test]
async fn a_store_that_cannot_be_used_is_refused_with_one_sentence() {
    let fake = Fake::start().await;
    fake.when(Operation::ALL).always().then(Fault::IgnoreConditions);
    let refused = format!("{:#}", bucket(&fake).await.unwrap_err());
    assert!(refused.contains("ignores conditions"), "{refused}");
    fake.behave();
    fake.when([Operation::List]).always().then(Fault::DENIED);
    let refused = format!("{:#}", bucket(&fake).await.unwrap_err());
    assert!(refused.contains("it needs s3:ListBucket") && !refused.contains("Generic"), "{refused}");
    fake.behave();
    assert!(bucket(&fake).await.is_ok());
    assert!(fake.keys("a/prefix/.release-server/probe").is_empty());
}

#[tokio::test]
async fn a_bucket_that_is_only_read_is_asked_for_nothing_else() {
    let fake = Fake::start().await;
    fake.put("a/prefix/app.zip", "abc");
    let variables = fake.variables().map(|(name, value)| (name.to_owned(), value));
    let storage = Storage::bucket_to_read(BUCKET, "a/prefix", variables, None).await.unwrap();
    storage.check().await.unwrap();
    assert_eq!(storage.list().await.unwrap().objects.len(), 1);
    assert_eq!(read(&storage, &name("app.zip")).await.unwrap(), "abc");
    storage.finish().await;
    for (operation, key) in fake.requests() {
        assert!(
            matches!(operation, Operation::List | Operation::Get | Operation::Head),
            "{operation:?} {key}"
        );
    }
    fake.put("a/prefix/.release-server/layout-2", "");
    let variables = fake.variables().map(|(name, value)| (name.to_owned(), value));
    let refused = Storage::bucket_to_read(BUCKET, "a/prefix", variables, None).await.unwrap_err();
    assert!(refused.to_string().contains("has layout 2"), "{refused}");
}
