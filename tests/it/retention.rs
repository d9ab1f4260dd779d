//! What is kept, seen from outside: overflow is out of sight at once, and gone with a later sweep; nothing foreign
//! goes.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use super::server::{LONG_AGO, Server, TOKEN, eventually, modified, sha256};

/// Long enough to look at a store before.
const SOON: Duration = Duration::from_secs(2);

const DAY: Duration = Duration::from_hours(24);

async fn publish(server: &Server, names: &[&str]) {
    for name in names {
        server.put(name, (*name).to_owned()).await.ok();
    }
}

/// Uploaded to the old server so long ago.
fn published_ago(server: &Server, name: &str, ago: Duration) {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    for (name, bytes) in [(name.to_owned(), "abc".to_owned()), (format!("{name}.sha256"), sha256(b"abc"))] {
        server.copy_in(&name, bytes);
        modified(&server.path(&name), since_1970.checked_sub(ago).unwrap());
    }
}

#[tokio::test]
async fn overflow_is_out_of_sight_at_once_and_gone_with_the_second_sweep() {
    let server = Server::start().with(|config| config.max_packages = Some(3));
    publish(&server, &["a.zip", "b.zip", "c.zip", "d.zip", "e.zip"]).await;
    assert_eq!(server.names().await, ["e.zip", "d.zip", "c.zip"]);
    let release = server.get("/latest").await.ok();
    assert_eq!(release.json()["assets"].as_array().unwrap().len(), 3);
    let page = server.get("/packages?format=html").await.ok();
    assert!(page.text().contains("c.zip") && !page.text().contains("b.zip"), "{}", page.text());
    assert_eq!(server.files().len(), 5);

    let first = server.sweep().await;
    assert!(first.first);
    assert_eq!((first.kept, first.removed, first.failed), (3, 2, 0));
    assert_eq!(server.files().len(), 5, "a first look at a store removes nothing");

    let second = server.another().sweep().await;
    assert!(!second.first);
    assert_eq!((second.kept, second.removed, second.failed), (3, 2, 0));
    assert_eq!(server.files(), ["c.zip", "d.zip", "e.zip"]);
    server.get("/assets/a.zip").await.refused(404, "does not exist");
    assert_eq!(server.markers().len(), 3);
    assert_eq!(server.sweep().await.removed, 0);
}

#[tokio::test]
async fn a_package_published_again_is_the_newest() {
    let server = Server::start().with(|config| config.max_packages = Some(2));
    publish(&server, &["a.zip", "b.zip", "a.zip?overwrite=true", "c.zip"]).await;
    assert_eq!(server.names().await, ["c.zip", "a.zip"]);
    for _ in 0..2 {
        server.sweep().await;
    }
    assert_eq!(server.files(), ["a.zip", "c.zip"]);
}

#[tokio::test]
async fn zero_is_unlimited() {
    let server = Server::start().with(|config| config.max_packages = Some(0));
    for number in 0..15 {
        server.put(&format!("app-{number}.zip"), "abc").await.ok();
    }
    for _ in 0..2 {
        assert_eq!(server.sweep().await.removed, 0);
    }
    assert_eq!((server.names().await.len(), server.files().len()), (15, 15));
}

#[tokio::test]
async fn fifty_foreign_files_stay_fifty_files_while_nothing_is_set() {
    let server = Server::configured(&[]);
    for number in 0..50 {
        server.copy_in(&format!("file-{number:02}.zip"), format!("{number}"));
    }
    assert_eq!(server.names().await.len(), 50);
    for _ in 0..24 {
        let swept = server.sweep().await;
        assert_eq!((swept.kept, swept.removed, swept.failed), (50, 0, 0));
        server.hashed().await;
    }
    assert_eq!((server.names().await.len(), server.files().len()), (50, 50));
    assert_eq!(server.another().sweep().await.removed, 0);
    assert_eq!(server.files().len(), 50);
}

#[tokio::test]
async fn while_nothing_is_set_ten_uploads_are_kept_beside_everything_foreign() {
    let server = Server::start();
    for number in 0..15 {
        server.copy_in(&format!("foreign-{number:02}.zip"), "abc");
    }
    for number in 0..12 {
        server.put(&format!("upload-{number:02}.zip"), "abc").await.ok();
    }
    server.hashed().await;
    let listed = server.names().await;
    assert_eq!(listed.len(), 25);
    assert!(!listed.contains(&"upload-00.zip".into()) && !listed.contains(&"upload-01.zip".into()));
    for _ in 0..3 {
        server.sweep().await;
    }
    let files = server.files();
    assert_eq!(files.len(), 25);
    assert_eq!(files.iter().filter(|name| name.starts_with("foreign")).count(), 15);
    assert_eq!(server.names().await, listed);
}

#[tokio::test]
async fn a_number_that_is_set_counts_foreign_files_too_once_they_are_known() {
    let server = Server::configured(&[("MAX_PACKAGES", "10")]);
    for number in 0..12_u32 {
        let name = format!("file-{number:02}.zip");
        server.copy_in(&name, "abc");
        modified(&server.path(&name), LONG_AGO + DAY * number);
    }
    assert_eq!(server.names().await.len(), 10);
    assert_eq!(server.sweep().await.removed, 2, "the first pass names what will go");
    for _ in 0..2 {
        assert_eq!(server.sweep().await.removed, 0, "what has no marker is not removed");
    }
    assert_eq!(server.files().len(), 12);

    server.hashed().await;
    let hasher = tokio::spawn(release_server::hasher::run(server.packages.clone()));
    eventually("what is hidden has its digest too", async || server.markers().len() == 12).await;
    hasher.abort();
    server.sweep().await;
    assert_eq!(server.files().len(), 10);
    assert!(!server.path("file-00.zip").exists() && !server.path("file-01.zip").exists());
}

#[tokio::test]
async fn a_sidecar_goes_with_its_package() {
    let server = Server::configured(&[("AUTH_TOKEN", TOKEN), ("MAX_PACKAGES", "2")]);
    for (name, days) in [("a.zip", 4), ("b.zip", 3), ("c.zip", 2), ("d.zip", 1)] {
        published_ago(&server, name, DAY * days);
    }
    assert_eq!(server.names().await, ["d.zip", "c.zip"]);
    for _ in 0..2 {
        server.sweep().await;
    }
    assert_eq!(server.files(), ["c.zip", "c.zip.sha256", "d.zip", "d.zip.sha256"]);

    assert_eq!(server.delete("/assets/c.zip").await.status, 204);
    assert_eq!(server.files(), ["d.zip", "d.zip.sha256"]);
    server.put("d.zip?overwrite=true", "new").await.ok();
    assert_eq!(server.files(), ["d.zip"]);
    assert_eq!(server.listed("d.zip").await["sha256"], sha256(b"new"));
}

#[tokio::test]
async fn versions_of_a_family_are_counted_each_for_itself() {
    let server = Server::start().with(|config| {
        config.max_packages = Some(0);
        config.retention.versions_per_family = 2;
    });
    let names = ["app-1.0.zip", "lib-1.0.zip", "app-1.1.zip", "notes.txt", "app-1.2.zip", "app-1.2.tar.gz"];
    publish(&server, &names).await;
    assert_eq!(
        server.names().await,
        ["app-1.2.tar.gz", "app-1.2.zip", "notes.txt", "app-1.1.zip", "lib-1.0.zip"]
    );
    for _ in 0..2 {
        server.sweep().await;
    }
    assert!(!server.path("app-1.0.zip").exists());
    assert_eq!(server.files().len(), 5);
}

#[tokio::test]
async fn age_spares_the_newest_version_of_a_family() {
    let server = Server::start().with(|config| config.retention.max_age = Some(DAY * 30));
    for (name, days) in [("app-1.0.zip", 90), ("app-1.1.zip", 60), ("lib-1.0.zip", 50), ("app-1.2.zip", 1)] {
        published_ago(&server, name, DAY * days);
    }
    assert_eq!(server.names().await, ["app-1.2.zip", "lib-1.0.zip"]);
}

#[tokio::test]
async fn a_package_that_ages_leaves_the_list_though_nothing_else_happens() {
    let server = Server::start().with(|config| config.retention.max_age = Some(DAY));
    published_ago(&server, "new.zip", Duration::ZERO);
    published_ago(&server, "old.zip", DAY.checked_sub(SOON).unwrap());
    assert_eq!(server.names().await, ["new.zip", "old.zip"]);
    eventually("it is too old", async || server.names().await == ["new.zip"]).await;
    assert!(fs::exists(server.path("old.zip")).unwrap());
}
