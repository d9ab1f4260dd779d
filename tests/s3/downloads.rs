//! What downloads cost a bucket.

use futures_util::future::join_all;
use release_server::{audit::Actor, error::Error};

use crate::{
    contract::{bytes, name},
    fake::{Fake, Operation},
    interleavings::{packages_with, publish},
};

#[tokio::test]
async fn many_who_ask_for_one_package_share_a_look_at_it() {
    let fake = Fake::start().await;
    let packages = packages_with(&fake, &fake.url, &[]).await;
    let hot = name("app.zip");
    publish(&packages, &hot, bytes(1, 20), false).await.unwrap();
    packages.list().await.unwrap();

    fake.forget_requests();
    // Until one look is under way nobody can wait for the next.
    let gate = fake.when([Operation::Head]).hold();
    let first = packages.open(&hot);
    let others = async {
        gate.arrived().await;
        let others = join_all((0..50).map(|_| packages.open(&hot)));
        tokio::join!(others, async {
            tokio::task::yield_now().await;
            gate.release();
        })
        .0
    };
    let (first, others) = tokio::join!(first, others);
    assert!(first.is_ok() && others.iter().all(Result::is_ok));
    assert_eq!(fake.count(Operation::Head), 2);

    packages.delete(hot.clone(), Actor::default()).await.unwrap();
    assert!(matches!(packages.open(&hot).await.err(), Some(Error::NotFound(_))));
}
