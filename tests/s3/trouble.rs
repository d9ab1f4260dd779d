//! What a store does on a bad day, and what its client makes of it.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, future::join_all};
use object_store::{
    Error, ObjectStore as _, ObjectStoreExt as _, multipart::MultipartStore as _, path::Path,
};
use tokio::time::{sleep, timeout};

use crate::{
    MIB, assert_exists, assert_not_found, assert_precondition, begin, blunt_client, client, create,
    explained,
    fake::{Fake, Fault, Operation},
    read, twin,
};

#[tokio::test]
async fn a_write_whose_reply_is_lost_meets_itself() {
    let fake = Fake::start().await;
    let store = client(&fake);
    fake.when([Operation::Put]).under("a").then(Fault::LoseReply);
    create(&store, "b", "not meant").await.unwrap();
    assert_exists(create(&store, "a", "mine").await);
    assert_eq!(fake.count(Operation::Put), 3);
    assert_eq!(read(&store, "a").await.unwrap(), "mine");
    create(&store, "a2", "the rule was for one").await.unwrap();
}

#[tokio::test]
async fn a_completion_whose_reply_is_lost_meets_itself() {
    let fake = Fake::start().await;
    let (store, key) = (client(&fake), Path::from("a"));
    let (id, parts) = begin(&store, &key, 7, &[1]).await.unwrap();
    fake.when([Operation::Complete]).then(Fault::LoseReply);
    assert_precondition(twin(&fake).complete_multipart(&key, &id, parts).await);
    assert_eq!(fake.count(Operation::Complete), 2);
    assert_eq!(fake.object("a").unwrap().body, [7].as_slice());
}

#[tokio::test]
async fn a_write_that_is_dropped_is_sent_again() {
    let fake = Fake::start().await;
    fake.when([Operation::Put]).then(Fault::Drop);
    create(&client(&fake), "a", "x").await.unwrap();
    assert_eq!(fake.count(Operation::Put), 2);
    fake.when([Operation::Put]).then(Fault::Drop);
    create(&blunt_client(&fake), "b", "x").await.unwrap_err();
    assert!(fake.object("b").is_none());
}

#[tokio::test]
async fn a_withheld_reply_leaves_the_end_open() {
    let fake = Fake::start().await;
    let store = blunt_client(&fake);
    fake.when([Operation::Put]).then(Fault::WithholdReply);
    assert!(matches!(create(&store, "done", "x").await, Err(Error::Generic { .. })));
    assert!(fake.object("done").is_some());
    fake.when([Operation::Put]).then(Fault::Stall);
    assert!(matches!(create(&store, "not-done", "x").await, Err(Error::Generic { .. })));
    assert!(fake.object("not-done").is_none());
}

#[tokio::test]
async fn a_refusal_changes_nothing() {
    let fake = Fake::start().await;
    let store = blunt_client(&fake);
    let refused = async |fault: Fault| {
        fake.when([Operation::Put]).then(fault);
        let end = create(&store, "a", "x").await;
        assert!(fake.object("a").is_none());
        end
    };
    assert_exists(refused(Fault::CONFLICT).await);
    assert_exists(refused(Fault::PRECONDITION).await);
    assert!(matches!(refused(Fault::DENIED).await, Err(Error::PermissionDenied { .. })));
    assert!(explained(refused(Fault::SLOW_DOWN).await).contains("SlowDown"));
    fake.when([Operation::Put]).then(Fault::FailAfterwards(502, "BadGateway"));
    create(&store, "a", "x").await.unwrap_err();
    assert!(fake.object("a").is_some());
}

#[tokio::test]
async fn a_storm_is_over_after_so_many_requests_or_so_much_time() {
    let fake = Fake::start().await;
    let store = client(&fake);
    fake.when(Operation::ALL).after(1).times(3).then(Fault::SLOW_DOWN);
    create(&store, "a", "x").await.unwrap();
    assert_eq!(fake.count(Operation::Put), 1);
    create(&store, "b", "x").await.unwrap();
    assert_eq!(fake.count(Operation::Put), 5);

    let blunt = blunt_client(&fake);
    fake.when([Operation::Get]).during(Duration::from_millis(500)).then(Fault::SLOW_DOWN);
    read(&blunt, "a").await.unwrap_err();
    sleep(Duration::from_millis(500)).await;
    read(&blunt, "a").await.unwrap();

    fake.when([Operation::Get]).always().then(Fault::SLOW_DOWN);
    read(&store, "a").await.unwrap_err();
    fake.behave();
    read(&store, "a").await.unwrap();
}

#[tokio::test]
async fn a_store_that_goes_away_with_a_request_stays_away() {
    let fake = Fake::start().await;
    let blunt = blunt_client(&fake);
    fake.when([Operation::Put]).matching(|key| key.ends_with("last")).onwards().then(Fault::Drop);
    create(&blunt, "first", "x").await.unwrap();
    assert!(fake.has_pending_faults());
    create(&blunt, "the-last", "x").await.unwrap_err();
    assert!(!fake.has_pending_faults());
    create(&blunt, "another", "x").await.unwrap_err();
    read(&blunt, "first").await.unwrap_err();
    fake.behave();
    read(&blunt, "first").await.unwrap();
    assert_eq!(fake.keys(""), ["first"]);
}

#[tokio::test]
async fn a_request_that_breaks_off_does_nothing() {
    let fake = Fake::start().await;
    let store = blunt_client(&fake);
    fake.when([Operation::Put]).times(2).then(Fault::CutUpload(1000));
    create(&store, "a", vec![7; 30_000]).await.unwrap_err();
    create(&store, "a", "short").await.unwrap_err();
    assert!(fake.object("a").is_none());
    create(&store, "a", vec![7; 30_000]).await.unwrap();
    let before = fake.contents();
    store.put(&"a".into(), "other".into()).await.unwrap();
    begin(&store, &Path::from("b"), 7, &[1]).await.unwrap();
    fake.restore(&before);
    assert_eq!(fake.object("a").unwrap().body.len(), 30_000);
    assert!(fake.unfinished_uploads().is_empty());
}

#[tokio::test]
async fn a_share_of_the_requests_fails_the_same_ones_each_time() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let fake = Fake::start().await;
        fake.when([Operation::Put]).with_chance(0.3, 7).then(Fault::SLOW_DOWN);
        let store = blunt_client(&fake);
        let mut failed = Vec::new();
        for index in 0..50 {
            failed.push(create(&store, &format!("{index}"), "x").await.is_err());
        }
        runs.push(failed);
    }
    assert_eq!(runs[0], runs[1]);
    let failed = runs[0].iter().filter(|failed| **failed).count();
    assert!((5..25).contains(&failed), "{failed}");
}

#[tokio::test]
async fn an_error_inside_a_200_is_an_error() {
    let fake = Fake::start().await;
    let (store, key) = (client(&fake), Path::from("a"));
    let (id, parts) = begin(&store, &key, 7, &[1]).await.unwrap();
    fake.when([Operation::Complete]).times(9).then(Fault::ErrorInside200("InternalError"));
    let failed = store.complete_multipart(&key, &id, parts.clone()).await;
    assert!(explained(failed).contains("InternalError"));
    assert!(fake.object("a").is_none());
    fake.behave();
    fake.when([Operation::Complete]).then(Fault::ErrorInside200("InternalError"));
    store.complete_multipart(&key, &id, parts).await.unwrap();
}

#[tokio::test]
async fn a_store_that_ignores_conditions_lets_everybody_win() {
    let fake = Fake::start().await;
    let (store, key) = (client(&fake), Path::from("a"));
    fake.when(Operation::ALL).always().then(Fault::IgnoreConditions);
    for end in join_all((0..4).map(|racer| create(&store, "a", format!("{racer}")))).await {
        end.unwrap();
    }
    let (id, parts) = begin(&store, &key, 7, &[1]).await.unwrap();
    twin(&fake).complete_multipart(&key, &id, parts).await.unwrap();
}

#[tokio::test]
async fn a_body_that_breaks_off_is_resumed_where_it_broke() {
    let fake = Fake::start().await;
    let body: Vec<u8> = (0..MIB).map(|index| u8::try_from(index % 251).unwrap()).collect();
    fake.put("a", body.clone());
    fake.when([Operation::Get]).times(2).then(Fault::CutBody(300_000));
    assert!(read(&client(&fake), "a").await.unwrap() == body);
    assert_eq!(fake.count(Operation::Get), 3);

    fake.when([Operation::Get]).then(Fault::CutBody(300_000));
    let got = blunt_client(&fake).get(&"a".into()).await.unwrap();
    let (mut received, mut broken) = (0, false);
    let mut pieces = got.into_stream();
    while let Some(piece) = pieces.next().await {
        piece.map_or_else(|_| broken = true, |piece| received += piece.len());
    }
    assert!(broken);
    assert_eq!(received, 300_000);
}

#[tokio::test]
async fn a_body_that_stalls_or_crawls_takes_its_time() {
    let fake = Fake::start().await;
    let store = client(&fake);
    fake.put("a", vec![0; 30_000]);
    fake.when([Operation::Get]).then(Fault::StallBody(1000));
    timeout(Duration::from_millis(200), read(&store, "a")).await.unwrap_err();

    let took = async |operation, fault| {
        fake.when([operation]).then(fault);
        let begun = Instant::now();
        match operation {
            Operation::Get => drop(read(&store, "a").await.unwrap()),
            _ => drop(store.put(&"b".into(), vec![0; 30_000].into()).await.unwrap()),
        }
        begun.elapsed()
    };
    let at_least = Duration::from_millis(280);
    assert!(took(Operation::Get, Fault::SlowBody(100_000)).await > at_least);
    assert!(took(Operation::Put, Fault::SlowUpload(100_000)).await > at_least);
    assert!(took(Operation::Put, Fault::Delay(Duration::from_millis(300))).await > at_least);
}

#[tokio::test]
async fn a_held_delete_lands_on_what_was_put_meanwhile() {
    let fake = Fake::start().await;
    let store = client(&fake);
    create(&store, "a", "old").await.unwrap();
    let gate = fake.when([Operation::Delete, Operation::DeleteMany]).under("a").hold();
    let (key, deleter) = (Path::from("a"), client(&fake));
    let delete = tokio::spawn(async move { deleter.delete(&key).await });
    gate.arrived().await;
    store.put(&"a".into(), "new".into()).await.unwrap();
    assert_eq!(read(&store, "a").await.unwrap(), "new");
    gate.release();
    delete.await.unwrap().unwrap();
    assert_not_found(read(&store, "a").await);
}

#[tokio::test]
async fn a_request_lands_after_its_client_gave_up() {
    let fake = Fake::start().await;
    let store = blunt_client(&fake);
    let gate = fake.when([Operation::Put]).hold();
    create(&store, "a", "late").await.unwrap_err();
    gate.arrived().await;
    assert!(fake.object("a").is_none());
    drop(gate);
    timeout(Duration::from_secs(5), async {
        while fake.object("a").is_none() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_held_reply_is_of_work_that_is_done() {
    let fake = Fake::start().await;
    let store = client(&fake);
    let gate = fake.when([Operation::Put]).hold_reply();
    let (put, ()) = tokio::join!(create(&store, "a", "x"), async {
        gate.arrived().await;
        assert!(fake.object("a").is_some());
        gate.release();
    });
    put.unwrap();
}

#[tokio::test]
async fn requests_are_counted_one_by_one_and_at_once() {
    let fake = Fake::start().await;
    let store = client(&fake);
    let gate = fake.when([Operation::List]).always().hold();
    let lists = join_all((0..3).map(|_| store.list_with_delimiter(None)));
    let (ends, ()) = tokio::join!(lists, async {
        for _ in 0..3 {
            gate.arrived().await;
        }
        assert_eq!(fake.most_at_once(Operation::List), 3);
        drop(gate);
    });
    assert!(ends.iter().all(Result::is_ok));
    fake.forget_requests();
    store.list_with_delimiter(None).await.unwrap();
    assert_eq!((fake.count(Operation::List), fake.most_at_once(Operation::List)), (1, 1));
}

#[tokio::test]
async fn a_store_that_comes_back_has_everything_but_what_was_under_way() {
    let mut fake = Fake::start().await;
    let store = blunt_client(&fake);
    create(&store, "a", "x").await.unwrap();
    let gate = fake.when([Operation::Put]).hold();
    let (key, writer) = (Path::from("b"), client(&fake));
    let write = tokio::spawn(async move { writer.put(&key, "x".into()).await });
    gate.arrived().await;
    fake.stop().await;
    drop(gate);
    read(&store, "a").await.unwrap_err();
    assert!(write.await.unwrap().is_err());
    fake.start_again().await;
    assert_eq!(read(&store, "a").await.unwrap(), "x");
    assert!(fake.object("b").is_none());
}
