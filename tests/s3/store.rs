//! What a store does on a good day.

use std::{collections::HashSet, time::Duration};

use axum::http::{HeaderValue, Method, StatusCode, header::IF_MATCH};
use chrono::{SubsecRound as _, TimeDelta, Utc};
use futures_util::{TryStreamExt as _, future::join_all};
use object_store::{
    Attribute, Attributes, Error, GetOptions, GetRange, ObjectMeta, ObjectStore as _, ObjectStoreExt as _,
    PutMode, PutOptions, UpdateVersion,
    multipart::MultipartStore as _,
    path::Path,
    signer::{SignedUrlOptions, Signer as _},
};

use crate::{
    assert_exists, assert_not_found, assert_precondition, begin, client, create, explained,
    fake::{Engine, Fake, Operation, Options},
    read, twin,
};

async fn list(store: &impl object_store::ObjectStore, prefix: &str) -> Vec<ObjectMeta> {
    store.list(Some(&prefix.into())).try_collect().await.unwrap()
}

fn keys(objects: &[ObjectMeta]) -> Vec<&str> {
    objects.iter().map(|object| object.location.as_ref()).collect()
}

#[tokio::test]
async fn an_object_comes_back_as_it_was_put() {
    let fake = Fake::start().await;
    let (store, key) = (client(&fake), Path::parse("some/ü%20 +#b.zip").unwrap());
    let attributes = Attributes::from_iter([
        (Attribute::ContentType, "application/zip"),
        (Attribute::ContentDisposition, "attachment"),
        (Attribute::Metadata("token".into()), "t-1"),
    ]);
    let options = PutOptions { attributes: attributes.clone(), ..PutMode::Create.into() };
    let before = Utc::now().trunc_subsecs(0);
    let put = store.put_opts(&key, "hello".into(), options).await.unwrap();
    assert_eq!(put.e_tag.as_deref(), Some("\"5d41402abc4b2a76b9719d911017c592\""));

    let got = store.get(&key).await.unwrap();
    assert_eq!((got.attributes.clone(), got.meta.e_tag.clone()), (attributes, put.e_tag.clone()));
    assert!(got.meta.last_modified >= before && got.meta.last_modified <= Utc::now());
    assert_eq!(got.bytes().await.unwrap(), "hello");
    let listed = list(&store, "some").await;
    assert_eq!((&listed[0].location, &listed[0].e_tag, listed[0].size), (&key, &put.e_tag, 5));
    assert_eq!(listed[0].last_modified.trunc_subsecs(0), store.head(&key).await.unwrap().last_modified);

    store.delete(&key).await.unwrap();
    assert_not_found(store.get(&key).await);
    store.delete(&key).await.unwrap();
}

#[tokio::test]
async fn a_second_creation_is_refused() {
    let fake = Fake::start().await;
    let store = client(&fake);
    create(&store, "a", "first").await.unwrap();
    assert_exists(create(&store, "a", "second").await);
    assert_eq!(read(&store, "a").await.unwrap(), "first");
}

#[tokio::test]
async fn of_racing_creators_exactly_one_wins() {
    let fake = Fake::start().await;
    let store = client(&fake);
    for round in 0..20 {
        let key = format!("a-{round}");
        let race = (0..16).map(|racer| create(&store, &key, format!("{racer}")));
        let ends = join_all(race).await;
        let winners: Vec<usize> = (0..16).filter(|&racer| ends[racer].is_ok()).collect();
        assert_eq!(winners.len(), 1);
        ends.into_iter().filter(Result::is_err).for_each(assert_exists);
        assert_eq!(read(&store, &key).await.unwrap(), winners[0].to_string());
    }
}

#[tokio::test]
async fn an_update_needs_the_etag_of_what_it_replaces() {
    let fake = Fake::start().await;
    let store = client(&fake);
    let update = async |key: &str, e_tag: &Option<String>| {
        let version = UpdateVersion { e_tag: e_tag.clone(), version: None };
        store.put_opts(&key.into(), "new".into(), PutMode::Update(version).into()).await
    };
    let first = create(&store, "a", "old").await.unwrap().e_tag;
    assert_precondition(update("b", &first).await);
    let second = update("a", &first).await.unwrap().e_tag;
    assert_precondition(update("a", &first).await);
    update("a", &second).await.unwrap();
}

#[tokio::test]
async fn of_racing_completions_exactly_one_wins_and_the_losers_parts_stay() {
    let fake = Fake::with(Options { smallest_part: 10, ..Options::default() }).await;
    let (store, twin, key) = (client(&fake), twin(&fake), Path::from("a"));
    let uploads = join_all((0..8).map(|byte| begin(&store, &key, byte, &[10, 1]))).await;
    let uploads: Vec<_> = uploads.into_iter().map(Result::unwrap).collect();
    let race = uploads.iter().map(|(id, parts)| twin.complete_multipart(&key, id, parts.clone()));
    let ends = join_all(race).await;
    let winner = ends.iter().position(Result::is_ok).unwrap();
    let etag = ends[winner].as_ref().unwrap().e_tag.clone().unwrap();
    assert!(etag.ends_with("-2\""));
    assert_eq!(
        ends.into_iter().filter_map(Result::err).map(|error| assert_precondition::<()>(Err(error))).count(),
        7
    );
    assert_eq!(fake.object("a").unwrap().etag, etag);
    assert_eq!(read(&store, "a").await.unwrap(), vec![u8::try_from(winner).unwrap(); 11]);

    assert_eq!(fake.unfinished_uploads().len(), 7);
    for (id, _) in &uploads {
        store.abort_multipart(&key, id).await.unwrap();
    }
    assert!(fake.unfinished_uploads().is_empty());
    assert!(fake.object("a").is_some());
}

#[tokio::test]
async fn a_completion_names_the_parts_that_are_there() {
    let fake = Fake::with(Options { smallest_part: 10, ..Options::default() }).await;
    let (store, key) = (client(&fake), Path::from("a"));
    let (id, parts) = begin(&store, &key, 1, &[10, 5, 10]).await.unwrap();
    let complete = async |numbers: &[usize]| {
        // The client numbers the parts by their position.
        let named = numbers.iter().map(|&number| parts[number].clone()).collect();
        explained(store.complete_multipart(&key, &id, named).await)
    };
    assert!(complete(&[0, 1, 2]).await.contains("EntityTooSmall"));
    let other = vec![object_store::multipart::PartId { content_id: "\"other\"".into() }];
    assert!(explained(store.complete_multipart(&key, &id, other).await).contains("InvalidPart"));
    store.complete_multipart(&key, &id, parts[..2].to_vec()).await.unwrap();
    assert_eq!(fake.object("a").unwrap().body.len(), 15);
    assert_not_found(store.complete_multipart(&key, &id, parts[..2].to_vec()).await);
    assert_not_found(store.put_part(&key, &id, 0, "x".into()).await);
}

#[tokio::test]
async fn a_multipart_object_is_dated_by_its_end_on_minio_and_by_its_begin_on_aws() {
    for (engine, by_its_end) in [(Engine::MinIO, true), (Engine::Aws, false)] {
        let fake = Fake::with(Options { engine, ..Options::default() }).await;
        let (store, key) = (client(&fake), Path::from("a"));
        let (id, parts) = begin(&store, &key, 1, &[1]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let completing = Utc::now().trunc_subsecs(3);
        store.complete_multipart(&key, &id, parts).await.unwrap();
        assert_eq!(fake.object("a").unwrap().modified >= completing, by_its_end);
    }
}

#[tokio::test]
async fn minio_refuses_strange_keys_and_every_store_much_metadata() {
    for (engine, taken) in [(Engine::MinIO, false), (Engine::Aws, true)] {
        let fake = Fake::with(Options { engine, ..Options::default() }).await;
        let store = client(&fake);
        assert_eq!(store.put(&"n".repeat(256).into(), "x".into()).await.is_ok(), taken);
        let token = Attribute::Metadata("token".into());
        let attributes = Attributes::from_iter([(token, "t".repeat(2048))]);
        let options = PutOptions { attributes, ..PutOptions::default() };
        assert!(
            explained(store.put_opts(&"a".into(), "x".into(), options).await).contains("MetadataTooLarge")
        );
    }
}

#[tokio::test]
async fn a_listing_comes_in_pages() {
    let fake = Fake::with(Options { page: 10, ..Options::default() }).await;
    let store = client(&fake);
    let names: Vec<String> = (0..25).map(|index| format!("p/{index:02}")).collect();
    for name in &names {
        fake.put(name, "x");
    }
    for index in 0..25 {
        fake.put(&format!("p/sub-{index:02}/x"), "x");
        fake.put(&format!("p/sub-{index:02}/y"), "x");
    }
    fake.put("q", "x");

    assert_eq!(list(&store, "p").await.len(), 75);
    assert_eq!(fake.count(Operation::List), 8);
    assert_eq!(keys(&list(&store, "p").await)[..25], names);

    let offset = store.list_with_offset(Some(&"p".into()), &"p/sub-20/x".into());
    assert_eq!(offset.try_collect::<Vec<_>>().await.unwrap().len(), 9);

    fake.forget_requests();
    let found = store.list_with_delimiter(Some(&"p".into())).await.unwrap();
    assert_eq!(keys(&found.objects), names);
    let folders: HashSet<_> = found.common_prefixes.iter().map(Path::as_ref).collect();
    assert_eq!((found.common_prefixes.len(), folders.len()), (25, 25));
    assert!(folders.contains("p/sub-07"));
    assert_eq!(fake.requests(), vec![(Operation::List, "p/".to_owned()); 5]);
    assert_eq!(keys(&store.list_with_delimiter(None).await.unwrap().objects), ["q"]);
}

#[tokio::test]
async fn a_control_character_in_a_key_fails_the_clients_listing() {
    let fake = Fake::start().await;
    fake.put("p/ a & <b> ", "x");
    assert_eq!(keys(&list(&client(&fake), "p").await), ["p/ a & <b> "]);
    fake.put("p/tab\there", "x");
    let listed = client(&fake).list(Some(&"p".into())).try_collect::<Vec<_>>().await;
    assert!(explained(listed).contains("p/tab\\there"));
}

#[tokio::test]
async fn an_object_hides_what_lies_below_its_name_on_minio_alone() {
    for (engine, shown) in [(Engine::MinIO, 1), (Engine::Aws, 3)] {
        let fake = Fake::with(Options { engine, ..Options::default() }).await;
        let store = client(&fake);
        for key in ["tags/a", "tags/a/b", "tags/a/b/c"] {
            create(&store, key, "x").await.unwrap();
        }
        assert_eq!(list(&store, "tags").await.len(), shown);
        assert_eq!(read(&store, "tags/a/b").await.unwrap(), "x");
    }
}

#[tokio::test]
async fn a_range_is_a_part_of_the_object() {
    let fake = Fake::start().await;
    let (store, key) = (client(&fake), Path::from("a"));
    fake.put("a", "0123456789");
    let get = async |range: GetRange| {
        let got = store.get_opts(&key, GetOptions::new().with_range(Some(range))).await?;
        assert_eq!(got.meta.size, 10);
        got.bytes().await
    };
    assert_eq!(get((2..5).into()).await.unwrap(), "234");
    assert_eq!(get((8..50).into()).await.unwrap(), "89");
    assert_eq!(get(GetRange::Offset(7)).await.unwrap(), "789");
    assert_eq!(get(GetRange::Suffix(2)).await.unwrap(), "89");
    assert!(explained(get(GetRange::Offset(10)).await).contains("416"));
}

#[tokio::test]
async fn a_read_heeds_its_conditions() {
    let fake = Fake::start().await;
    let (store, key) = (client(&fake), Path::from("a"));
    fake.put("a", "x");
    let etag = fake.object("a").unwrap().etag;
    let modified = store.head(&key).await.unwrap().last_modified;
    let (get, other) = (GetOptions::new, Some("\"other\""));
    let second = TimeDelta::seconds(1);
    let fresh = [
        get().with_if_match(Some(&etag)),
        get().with_if_none_match(other),
        get().with_if_modified_since(Some(modified - second)),
        get().with_if_unmodified_since(Some(modified)),
        get().with_if_match(Some(&etag)).with_if_unmodified_since(Some(modified - second)),
    ];
    for head in [false, true] {
        for options in fresh.clone() {
            store.get_opts(&key, options.with_head(head)).await.unwrap();
        }
        for options in [get().with_if_match(other), get().with_if_unmodified_since(Some(modified - second))] {
            assert_precondition(store.get_opts(&key, options.with_head(head)).await);
        }
        for options in [get().with_if_none_match(Some(&etag)), get().with_if_modified_since(Some(modified))] {
            let end = store.get_opts(&key, options.with_head(head)).await;
            assert!(matches!(end, Err(Error::NotModified { .. })));
        }
    }
}

#[tokio::test]
async fn a_presigned_url_is_good_for_what_was_signed() {
    let fake = Fake::start().await;
    let (store, http) = (client(&fake), reqwest::Client::new());
    create(&store, "a b.zip", "0123456789").await.unwrap();
    let sign = async |expires| {
        let options = SignedUrlOptions::new()
            .with_query([("response-content-disposition", "attachment; filename=\"ü x.zip\"".to_owned())])
            .with_query([("response-content-type", "text/plain".to_owned())]);
        store.signed_url_opts(Method::GET, &"a b.zip".into(), expires, &options).await.unwrap()
    };
    let url = sign(Duration::from_mins(1)).await;
    let got = http.get(url.clone()).header("range", "bytes=2-4").send().await.unwrap();
    assert_eq!(got.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(got.headers()["content-type"], "text/plain");
    assert_eq!(
        got.headers()["content-disposition"].as_bytes(),
        "attachment; filename=\"ü x.zip\"".as_bytes()
    );
    assert_eq!(got.text().await.unwrap(), "234");

    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status();
    assert_eq!(status(http.head(url.clone())).await, StatusCode::FORBIDDEN);
    let mut other_host = url.clone();
    other_host.set_host(Some("localhost")).unwrap();
    assert_eq!(status(http.get(other_host)).await, StatusCode::FORBIDDEN);
    let (mut other_name, mut unsigned) = (url.clone(), url);
    other_name.query_pairs_mut().append_pair("response-content-language", "de");
    assert_eq!(status(http.get(other_name)).await, StatusCode::FORBIDDEN);
    unsigned.set_query(None);
    assert_eq!(status(http.get(unsigned)).await, StatusCode::FORBIDDEN);
    let too_long = sign(Duration::from_hours(8 * 24)).await;
    assert_eq!(status(http.get(too_long)).await, StatusCode::BAD_REQUEST);
    let expired = sign(Duration::ZERO).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(status(http.get(expired)).await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_wrong_key_and_a_missing_bucket_are_told_apart() {
    let fake = Fake::start().await;
    let list = async |store: object_store::aws::AmazonS3| explained(store.list_with_delimiter(None).await);
    let unknown = fake.client().with_access_key_id("somebody").build().unwrap();
    assert!(list(unknown).await.contains("InvalidAccessKeyId"));
    let wrong = fake.client().with_secret_access_key("wrong").build().unwrap();
    assert!(matches!(wrong.head(&"a".into()).await, Err(Error::PermissionDenied { .. })));
    assert!(list(wrong).await.contains("SignatureDoesNotMatch"));
    let elsewhere = fake.client().with_bucket_name("elsewhere").build().unwrap();
    assert_not_found(elsewhere.head(&"a".into()).await);
    assert!(list(elsewhere).await.contains("NoSuchBucket"));
}

#[tokio::test]
async fn a_clock_too_far_off_is_refused() {
    let fake = Fake::with(Options { clock_ahead: TimeDelta::minutes(16), ..Options::default() }).await;
    let refused = client(&fake).list_with_delimiter(None).await;
    assert!(explained(refused).contains("RequestTimeTooSkewed"));
}

#[tokio::test]
async fn only_aws_deletes_by_condition() {
    for (engine, status) in [(Engine::Aws, 412), (Engine::MinIO, 204)] {
        let fake = Fake::with(Options { engine, ..Options::default() }).await;
        fake.put("a", "x");
        let other = HeaderValue::from_static("\"other\"");
        let options = SignedUrlOptions::new().with_signed_header(IF_MATCH, other.clone());
        let expires = Duration::from_mins(1);
        let url =
            client(&fake).signed_url_opts(Method::DELETE, &"a".into(), expires, &options).await.unwrap();
        let deleted = reqwest::Client::new().delete(url).header(IF_MATCH, other).send().await.unwrap();
        assert_eq!(deleted.status(), status);
        assert_eq!(fake.object("a").is_some(), engine == Engine::Aws);
    }
}

#[tokio::test]
async fn many_objects_go_in_one_request() {
    let fake = Fake::start().await;
    (0..20).for_each(|index| fake.put(&format!("p/{index} & <x>"), "x"));
    let store = client(&fake);
    let listed = list(&store, "p").await.into_iter().map(|object| Ok(object.location));
    let deleted = store.delete_stream(Box::pin(futures_util::stream::iter(listed.collect::<Vec<_>>())));
    assert_eq!(deleted.try_collect::<Vec<_>>().await.unwrap().len(), 20);
    assert!(fake.keys("").is_empty());
    assert_eq!(fake.count(Operation::DeleteMany), 1);
}

#[tokio::test]
async fn unfinished_uploads_are_listed_as_the_engine_does() {
    for (engine, by_folder) in [(Engine::Aws, true), (Engine::MinIO, false)] {
        let mut fake = Fake::with(Options { engine, ..Options::default() }).await;
        let store = client(&fake);
        let id = store.create_multipart(&"u/a".into()).await.unwrap();
        let lists = async |prefix: &str| {
            let query = [("uploads", String::new()), ("prefix", prefix.to_owned())];
            let options = SignedUrlOptions::new().with_query(query);
            let expires = Duration::from_mins(1);
            let url = store.signed_url_opts(Method::GET, &Path::default(), expires, &options).await.unwrap();
            reqwest::get(url).await.unwrap().text().await.unwrap().contains(&id)
        };
        assert!(lists("").await && lists("u/a").await);
        assert_eq!(lists("u/").await, by_folder);
        fake.start_again().await;
        assert_eq!(lists("").await, by_folder);
        assert!(lists("u/a").await);
    }
}
