//! Digests of what nobody uploaded, and times that outlive a `touch`.

use std::fs;

use release_server::hasher;

use super::server::{LONG_AGO, Server, eventually, modified, sha256};

#[tokio::test]
async fn a_file_copied_in_by_hand_is_a_package_at_once_and_gets_its_digest() {
    let server = Server::start();
    server.copy_in("app.zip", "abc");
    let package = server.listed("app.zip").await;
    assert_eq!(package["size"], 3);
    assert_eq!(package["sha256"], serde_json::Value::Null);
    assert_eq!(package["created_at"], "2015-10-21T07:28:00.000Z");
    let download = server.get("/assets/app.zip").await.ok();
    assert_eq!((download.text(), download.header("repr-digest")), ("abc", ""));

    server.hashed().await;
    let hashed = server.listed("app.zip").await;
    assert_eq!(hashed["sha256"], sha256(b"abc"));
    assert_eq!(hashed["created_at"], package["created_at"], "finding the digest is no publication");
    assert_eq!(server.files(), ["app.zip"], "nothing is written beside a package");
    let [marker] = server.markers().try_into().unwrap();
    assert!(marker.contains(&sha256(b"abc")) && marker.ends_with(".found-1445412480000"), "{marker}");
    let release = server.get("/latest").await.ok().json();
    assert_eq!(release["assets"][0]["digest"], format!("sha256:{}", sha256(b"abc")));
    assert!(server.get("/assets/app.zip").await.ok().header("repr-digest").starts_with("sha-256=:ungWv48"));
}

#[tokio::test]
async fn a_file_being_copied_in_is_not_hashed_before_it_is_at_rest() {
    let server = Server::start();
    server.copy_in("done.zip", "abc");
    fs::write(server.path("growing.zip"), "ab").unwrap();
    server.names().await;
    let hasher = tokio::spawn(hasher::run(server.packages.clone()));
    eventually("the other has its digest", async || server.listed("done.zip").await["sha256"].is_string())
        .await;
    assert!(server.listed("growing.zip").await["sha256"].is_null());
    hasher.abort();
    assert_eq!(server.markers().len(), 1);
}

#[tokio::test]
async fn other_bytes_under_the_name_have_another_digest() {
    let server = Server::start();
    server.put("app.zip", "abc").await.ok();
    server.copy_in("app.zip", "abcd");
    let package = server.listed("app.zip").await;
    assert!(package["sha256"].is_null(), "{package}");
    server.hashed().await;
    let package = server.listed("app.zip").await;
    assert_eq!(package["sha256"], sha256(b"abcd"));
    assert_eq!(package["created_at"], "2015-10-21T07:28:00.000Z");
}

/// Of one size and one time: only the file system's change time tells.
#[tokio::test]
async fn other_bytes_of_one_size_and_time_have_another_digest_and_etag() {
    let server = Server::start();
    server.copy_in("app.zip", "abc");
    server.hashed().await;
    let etag = server.get("/assets/app.zip").await.ok().header("etag").to_owned();
    server.copy_in("app.zip", "xyz");
    let changed = server.get("/assets/app.zip").await.ok();
    assert_eq!(changed.text(), "xyz");
    assert_ne!(changed.header("etag"), etag);
    server.hashed().await;
    assert_eq!(server.listed("app.zip").await["sha256"], sha256(b"xyz"));
}

#[tokio::test]
async fn a_package_keeps_its_time_and_rank_when_only_the_file_is_touched() {
    let server = Server::start();
    let published = server.put("old.zip", "abc").await.ok().json();
    server.put("new.zip", "def").await.ok();
    let path = server.path("old.zip");
    let touch = || modified(&path, LONG_AGO);
    let chmod = || {
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        permissions.set_readonly(!permissions.readonly());
        fs::set_permissions(&path, permissions).unwrap();
    };
    let restore = || {
        let saved = server.outside().join("saved");
        fs::copy(&path, &saved).unwrap();
        fs::remove_file(&path).unwrap();
        fs::copy(&saved, &path).unwrap();
        touch();
    };
    let acts: [(&str, &dyn Fn()); 3] = [("touch", &touch), ("chmod", &chmod), ("restore", &restore)];
    for (what, act) in acts {
        let etag = server.get("/assets/old.zip").await.ok().header("etag").to_owned();
        act();
        assert_ne!(server.get("/assets/old.zip").await.ok().header("etag"), etag, "{what}");
        // Housekeeping in between must not lose the time.
        server.sweep().await;
        server.hashed().await;
        server.sweep().await;
        assert_eq!(server.listed("old.zip").await, published, "{what}");
        assert_eq!(server.names().await, ["new.zip", "old.zip"], "{what}");
        assert_eq!(server.markers().len(), 2, "{what}");
    }
}

#[tokio::test]
async fn a_digest_is_found_once_for_all_processes() {
    let server = Server::start();
    server.copy_in("app.zip", "abc");
    let other = server.another();
    server.hashed().await;
    assert_eq!(other.listed("app.zip").await["sha256"], sha256(b"abc"));
    other.hashed().await;
    assert_eq!(server.markers().len(), 1);
}

#[tokio::test]
async fn what_is_known_of_a_deleted_package_goes_with_the_sweep() {
    let server = Server::start();
    server.put("app.zip", "abc").await.ok();
    server.copy_in("by-hand.zip", "abc");
    server.hashed().await;
    assert_eq!(server.markers().len(), 2);
    assert_eq!(server.delete("/assets/app.zip").await.status, 204);
    fs::remove_file(server.path("by-hand.zip")).unwrap();
    server.sweep().await;
    assert_eq!(server.markers(), [""; 0]);
}
