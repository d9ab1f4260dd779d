//! Releases over every store: one replica after another, and many at once.

use std::{ffi::OsString, path::Path, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::{TryStreamExt as _, future::join_all};
use release_server::{
    audit::Actor,
    config::{self, Config},
    digest::Digest,
    error::{Error, Result},
    releases::{
        Releases,
        assets::{AssetEdit, NewAsset, Uploaded},
        change::{Edit, NewRelease},
        name::{Repository, TagName},
        record::{Asset, MakeLatest, Record},
    },
    storage::{Storage, repos::Key},
};

use crate::contract::{assert_missing, bytes, over_each_store};

fn config(variables: &[(&str, &str)]) -> Config {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(*value)));
    config::load_from(variables, Path::new("/nonexistent/config.yaml")).unwrap().config
}

/// A replica that remembers nothing of the others.
pub(crate) fn replica(storage: &Storage) -> Releases {
    Releases::new(storage.clone(), &config(&[]))
}

/// Who does everything here.
pub(crate) fn me() -> Actor {
    Actor { caller: Some("me".to_owned()), client: None }
}

pub(crate) fn repository() -> Repository {
    Repository::parse("Acme/App").unwrap()
}

pub(crate) fn tag(text: &str) -> TagName {
    TagName::parse(text).unwrap()
}

fn draft(text: &str) -> NewRelease {
    NewRelease { draft: true, ..NewRelease::new(tag(text)) }
}

pub(crate) async fn publish(releases: &Releases, text: &str) -> Result<Arc<Record>> {
    releases.create(&repository(), NewRelease::new(tag(text)), &me()).await
}

pub(crate) async fn upload(
    releases: &Releases,
    record: &Record,
    name: &str,
    bytes: Bytes,
    overwrite: bool,
) -> Result<Uploaded> {
    let asset = NewAsset::new(name, None, Some("application/zip"), overwrite)?;
    let length = Some(bytes.len() as u64);
    let mut receiving = releases.upload(&repository(), record.id, asset, length, me()).await?;
    receiving.write(bytes).await?;
    receiving.commit(None).await
}

async fn read(releases: &Releases, asset: &Asset) -> Bytes {
    let content = releases.read(&repository(), asset, 0..asset.size).await.unwrap();
    content
        .into_stream()
        .try_fold(BytesMut::new(), async |mut all, block| {
            all.extend_from_slice(&block);
            Ok(all)
        })
        .await
        .unwrap()
        .freeze()
}

async fn latest(releases: &Releases) -> Option<String> {
    let listing = releases.list(&repository()).await.unwrap();
    listing.latest().map(|latest| latest.tag_name.to_string())
}

#[track_caller]
pub(crate) fn assert_taken<T>(result: Result<T>) {
    match result {
        Err(Error::Breach(breach)) => assert_eq!(breach.code, "already_exists"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it succeeded"),
    }
}

#[tokio::test]
async fn a_draft_gets_its_files_and_appears_whole() {
    over_each_store(async |storage| {
        let (one, two) = (replica(storage), replica(storage));
        let draft = one.create(&repository(), draft("v1"), &me()).await.unwrap();
        let files =
            join_all(
                (0..5).map(|number| {
                    let on = if number % 2 == 0 { &one } else { &two };
                    let draft = &draft;
                    async move {
                        upload(on, draft, &format!("app {number}.zip"), bytes(number, 1000), false).await
                    }
                }),
            );
        assert!(files.await.into_iter().all(|uploaded| !uploaded.unwrap().repeated));
        assert_missing(two.by_tag(&repository(), &tag("v1")).await);
        assert!(two.list(&repository()).await.unwrap().visible(false).next().is_none());
        assert_eq!(two.list(&repository()).await.unwrap().draft(&tag("v1")).unwrap().id, draft.id);

        let published = two.edit(&repository(), draft.id, Edit::publish(), &me()).await.unwrap();
        let found = one.by_tag(&repository(), &tag("v1")).await.unwrap();
        assert_eq!((&found, found.assets.len()), (&published, 5));
        assert_eq!(latest(&one).await.as_deref(), Some("v1"));
        for asset in &found.assets {
            let number = asset.name[4..5].parse().unwrap();
            assert_eq!(asset.name, format!("app.{number}.zip"));
            assert_eq!(asset.sha256, Digest::of(&bytes(number, 1000)));
            assert!(read(&one, asset).await == bytes(number, 1000));
            assert_eq!(one.find_asset(&repository(), asset.id).await.unwrap().1, *asset);
        }
    })
    .await;
}

#[tokio::test]
async fn a_tag_has_one_release_and_many_drafts() {
    over_each_store(async |storage| {
        let releases = replica(storage);
        let first = publish(&releases, "v1").await.unwrap();
        assert_taken(publish(&releases, "v1").await);
        let drafts =
            join_all([(); 2].map(async |()| releases.create(&repository(), draft("v1"), &me()).await));
        let drafts: Vec<_> = drafts.await.into_iter().map(Result::unwrap).collect();
        for draft in &drafts {
            assert_taken(releases.edit(&repository(), draft.id, Edit::publish(), &me()).await);
        }
        assert_eq!(releases.list(&repository()).await.unwrap().all().len(), 3);
        // A tag is free again when its release is gone, has another tag, or is a draft again.
        releases.delete(&repository(), first.id, &me()).await.unwrap();
        releases.edit(&repository(), drafts[0].id, Edit::publish(), &me()).await.unwrap();
        let moved = Edit { tag: Some(tag("v2")), ..Edit::default() };
        releases.edit(&repository(), drafts[0].id, moved, &me()).await.unwrap();
        releases.edit(&repository(), drafts[1].id, Edit::publish(), &me()).await.unwrap();
        let back = Edit { draft: Some(true), ..Edit::default() };
        releases.edit(&repository(), drafts[1].id, back, &me()).await.unwrap();
        assert_missing(releases.by_tag(&repository(), &tag("v1")).await);
        publish(&releases, "v1").await.unwrap();
        assert_eq!(releases.by_tag(&repository(), &tag("v2")).await.unwrap().id, drafts[0].id);
    })
    .await;
}

#[tokio::test]
async fn sixteen_publishers_of_one_tag_are_one_release_and_fifteen_refusals() {
    over_each_store(async |storage| {
        let replicas: Vec<Releases> = (0..4).map(|_| replica(storage)).collect();
        for round in 0..4 {
            let text = format!("v{round}");
            let ends = join_all((0..16).map(|racer| publish(&replicas[racer % 4], &text))).await;
            let (won, lost): (Vec<_>, Vec<_>) = ends.into_iter().partition(Result::is_ok);
            assert_eq!(won.len(), 1);
            lost.into_iter().for_each(assert_taken);
            let owner = won.into_iter().next().unwrap().unwrap();
            assert_eq!(replicas[0].by_tag(&repository(), &tag(&text)).await.unwrap(), owner);
        }
        assert_eq!(replicas[0].list(&repository()).await.unwrap().all().len(), 4);
    })
    .await;
}

#[tokio::test]
async fn the_latest_is_what_was_published_last_and_what_is_said_to_be() {
    over_each_store(async |storage| {
        let releases = replica(storage);
        assert_eq!(latest(&releases).await, None);
        let first = publish(&releases, "v1").await.unwrap();
        let second = publish(&releases, "v2").await.unwrap();
        assert!(second.latest_at > first.latest_at);
        assert_eq!(latest(&releases).await.as_deref(), Some("v2"));

        let new = |make_latest| NewRelease { make_latest: Some(make_latest), ..NewRelease::new(tag("v1.5")) };
        let old = releases.create(&repository(), new(MakeLatest::False), &me()).await.unwrap();
        assert_eq!(latest(&releases).await.as_deref(), Some("v2"));
        let wish = |make_latest| Edit { make_latest: Some(make_latest), ..Edit::default() };
        releases.edit(&repository(), old.id, wish(MakeLatest::True), &me()).await.unwrap();
        assert_eq!(latest(&releases).await.as_deref(), Some("v1.5"));
        releases.edit(&repository(), old.id, wish(MakeLatest::False), &me()).await.unwrap();
        assert_eq!(latest(&releases).await.as_deref(), Some("v2"));

        let early = NewRelease { prerelease: true, ..NewRelease::new(tag("v3")) };
        let early = releases.create(&repository(), early, &me()).await.unwrap();
        assert_eq!(latest(&releases).await.as_deref(), Some("v2"));
        // A publish that is repeated, because its answer was lost, moves nothing; nor does an edit of the notes.
        let notes = Edit { body: Some(Some("better".into())), ..Edit::publish() };
        releases.edit(&repository(), first.id, notes, &me()).await.unwrap();
        assert_eq!(latest(&releases).await.as_deref(), Some("v2"));
        let full = Edit { prerelease: Some(false), ..Edit::default() };
        releases.edit(&repository(), early.id, full, &me()).await.unwrap();
        assert_eq!(latest(&releases).await.as_deref(), Some("v3"));
        releases.delete(&repository(), early.id, &me()).await.unwrap();
        assert_eq!(latest(&releases).await.as_deref(), Some("v2"));
    })
    .await;
}

#[tokio::test]
async fn an_upload_may_be_repeated_but_not_with_other_bytes() {
    over_each_store(async |storage| {
        let releases = replica(storage);
        let record = publish(&releases, "v1").await.unwrap();
        let first = upload(&releases, &record, "app.zip", bytes(1, 100), false).await.unwrap();
        let again = upload(&releases, &record, "app.zip", bytes(1, 100), false).await.unwrap();
        assert!(again.repeated && again.asset == first.asset);
        for (seed, size) in [(2, 100), (1, 99)] {
            assert_taken(upload(&releases, &record, "app.zip", bytes(seed, size), false).await);
        }
        let files = Key::files_of(&repository(), record.id);
        assert_eq!(storage.entries_below(&files).await.unwrap().len(), 1);
        // Sent twice at once, over two replicas.
        let other = replica(storage);
        let twice = [&releases, &other, &releases, &other];
        let twice = twice.map(|on| upload(on, &record, "b.zip", bytes(3, 100), false));
        let twice: Vec<Asset> = join_all(twice).await.into_iter().map(|end| end.unwrap().asset).collect();
        assert!(twice.iter().all(|asset| *asset == twice[0]));
        assert_eq!(other.find(&repository(), record.id).await.unwrap().assets.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn an_asset_is_replaced_renamed_labelled_and_deleted() {
    over_each_store(async |storage| {
        let releases = replica(storage);
        let record = publish(&releases, "v1").await.unwrap();
        let old = upload(&releases, &record, "app.zip", bytes(1, 100), false).await.unwrap().asset;
        let new = upload(&releases, &record, "app.zip", bytes(2, 50), true).await.unwrap().asset;
        assert_ne!(old.id, new.id);
        assert!(read(&releases, &new).await == bytes(2, 50));
        // Who is reading the old one goes on.
        assert!(read(&releases, &old).await == bytes(1, 100));
        assert_missing(releases.find_asset(&repository(), old.id).await);

        let other = upload(&releases, &record, "b.zip", bytes(3, 10), false).await.unwrap().asset;
        let rename = AssetEdit { name: Some("a b.zip".into()), label: Some(Some("An archive".into())) };
        let (_, renamed) = releases.edit_asset(&repository(), new.id, rename, &me()).await.unwrap();
        assert_eq!((renamed.name.as_str(), renamed.label.as_deref()), ("a.b.zip", Some("An archive")));
        assert!(read(&releases, &renamed).await == bytes(2, 50));
        let taken = AssetEdit { name: Some("b.zip".into()), label: None };
        assert_taken(releases.edit_asset(&repository(), new.id, taken, &me()).await);

        releases.delete_asset(&repository(), other.id, &me()).await.unwrap();
        assert_missing(releases.delete_asset(&repository(), other.id, &me()).await);
        assert_eq!(releases.find(&repository(), record.id).await.unwrap().assets, [renamed]);
    })
    .await;
}

#[tokio::test]
async fn what_is_deleted_is_gone_with_its_bytes() {
    over_each_store(async |storage| {
        let releases = replica(storage);
        let record = publish(&releases, "v1").await.unwrap();
        upload(&releases, &record, "app.zip", bytes(1, 100), false).await.unwrap();
        releases.delete(&repository(), record.id, &me()).await.unwrap();
        assert_missing(releases.find(&repository(), record.id).await);
        assert_missing(releases.by_tag(&repository(), &tag("v1")).await);
        assert_missing(releases.edit(&repository(), record.id, Edit::publish(), &me()).await);
        assert_missing(upload(&releases, &record, "app.zip", bytes(1, 100), false).await);
        assert_missing(releases.delete(&repository(), record.id, &me()).await);
        let files = Key::files_of(&repository(), record.id);
        for _ in 0..100 {
            if storage.entries_below(&files).await.unwrap().is_empty() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("the bytes are still there");
    })
    .await;
}

#[tokio::test]
async fn no_edit_of_many_at_once_is_lost() {
    over_each_store(async |storage| {
        let replicas: Vec<Releases> = (0..4).map(|_| replica(storage)).collect();
        let record = publish(&replicas[0], "v1").await.unwrap();
        let name = |number| format!("{number}.zip");
        let uploads = join_all((0..24).map(|number| {
            let (on, record, name) = (&replicas[number % 4], &record, name(number));
            async move { upload(on, record, &name, bytes(number, 10), false).await }
        }));
        let edits = join_all((0..8).map(|number| {
            let edit = match number % 4 {
                0 => Edit { name: Some(Some("title".into())), ..Edit::default() },
                1 => Edit { body: Some(Some("notes".into())), ..Edit::default() },
                2 => Edit { pinned: Some(true), ..Edit::default() },
                _ => Edit { target_commitish: Some("main".into()), ..Edit::default() },
            };
            let (on, id) = (&replicas[number % 4], record.id);
            async move { on.edit(&repository(), id, edit, &me()).await }
        }));
        let (uploads, edits) = tokio::join!(uploads, edits);
        assert!(uploads.iter().all(Result::is_ok));
        assert!(edits.iter().all(Result::is_ok));
        let record = replicas[0].find(&repository(), record.id).await.unwrap();
        assert_eq!(record.assets.len(), 24);
        assert!(record.pinned && record.name.is_some() && record.body.is_some());
        assert_eq!(record.target_commitish.as_deref(), Some("main"));
        let mut ids: Vec<u64> = record.assets.iter().map(|asset| asset.id.get()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 24);
    })
    .await;
}

#[tokio::test]
async fn a_published_release_is_frozen_where_that_is_configured() {
    let storage = Storage::memory(crate::contract::UPLOAD_MEMORY);
    let releases = Releases::new(storage, &config(&[("RELEASES__IMMUTABLE", "true")]));
    let draft = releases.create(&repository(), draft("v1"), &me()).await.unwrap();
    let asset = upload(&releases, &draft, "app.zip", bytes(1, 10), false).await.unwrap().asset;
    let published = releases.edit(&repository(), draft.id, Edit::publish(), &me()).await.unwrap();
    assert!(published.immutable);
    let refused = |error: Error| assert!(error.to_string().contains("immutable release"), "{error}");
    refused(upload(&releases, &draft, "b.zip", bytes(1, 10), false).await.err().unwrap());
    refused(upload(&releases, &draft, "app.zip", bytes(2, 10), true).await.err().unwrap());
    refused(releases.delete_asset(&repository(), asset.id, &me()).await.err().unwrap());
    refused(
        releases
            .edit(&repository(), draft.id, Edit { tag: Some(tag("v2")), ..Edit::default() }, &me())
            .await
            .err()
            .unwrap(),
    );
    // What is there already may be sent again, and the notes may be corrected.
    assert!(upload(&releases, &draft, "app.zip", bytes(1, 10), false).await.unwrap().repeated);
    let notes = Edit { body: Some(Some("corrected".into())), ..Edit::default() };
    releases.edit(&repository(), draft.id, notes, &me()).await.unwrap();
}

#[tokio::test]
async fn fields_of_a_newer_server_are_kept() {
    let storage = Storage::memory(crate::contract::UPLOAD_MEMORY);
    let releases = replica(&storage);
    let record = publish(&releases, "v1").await.unwrap();
    upload(&releases, &record, "app.zip", bytes(1, 10), false).await.unwrap();
    let key = Key::record(&repository(), record.id);
    let release_server::storage::repos::Read::Fresh(text, etag) = storage.read(&key, None).await.unwrap()
    else {
        panic!()
    };
    let mut value: serde_json::Value = serde_json::from_slice(&text).unwrap();
    value["signature"] = "abc".into();
    value["assets"][0]["attestation"] =
        serde_json::json!({ "kind": "slsa", "score": 18.446_704_407_509_177 });
    storage.replace(&key, serde_json::to_vec(&value).unwrap().into(), &etag).await.unwrap();
    let edit = Edit { body: Some(Some("notes".into())), ..Edit::default() };
    releases.edit(&repository(), record.id, edit, &me()).await.unwrap();
    let release_server::storage::repos::Read::Fresh(text, _) = storage.read(&key, None).await.unwrap() else {
        panic!()
    };
    // To the last digit, which not every reader of numbers keeps.
    assert!(std::str::from_utf8(&text).unwrap().contains("18.446704407509177"), "{text:?}");
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((&value["signature"], &value["body"]), (&"abc".into(), &"notes".into()));
    assert_eq!(value["assets"][0]["attestation"]["kind"], "slsa");
}
