//! A directory is not listed again while the kernel says that nothing changed; and what changes shows at once, whoever
//! changed it.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::FileExt as _,
    time::{Duration, SystemTime},
};

use release_server::packages::Packages;
use tokio::time::Instant;

use super::server::{Server, eventually};

#[tokio::test]
async fn a_directory_is_listed_once_while_nothing_changes() {
    let server = Server::start();
    server.put("a.zip", "abc").await.ok();
    assert_eq!(server.names().await, ["a.zip"]);
    let (start, flights) = (Instant::now(), server.packages.listings());
    for _ in 0..100 {
        assert_eq!(server.names().await, ["a.zip"]);
        assert_eq!(server.get("/assets/a.zip").await.ok().text(), "abc");
    }
    // Each second it makes sure.
    assert!(server.packages.listings() - flights <= 1 + start.elapsed().as_secs());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_during_a_listing_needs_no_other_if_nothing_changes() {
    let server = Server::start();
    for number in 0..2000 {
        server.copy_in(&format!("{number}.zip"), "abc");
    }
    let looks = |packages: &Packages| packages.listings() - packages.proofs();
    let (start, before) = (Instant::now(), looks(&server.packages));
    let first = tokio::spawn({
        let packages = server.packages.clone();
        async move { packages.list().await.unwrap() }
    });
    while server.packages.listings() == 0 {
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    let second = server.packages.list().await.unwrap();
    assert_eq!(second.all(), first.await.unwrap().all());
    assert_eq!(second.all().len(), 2000);
    assert!(looks(&server.packages) - before <= 1 + start.elapsed().as_secs());
}

/// Its name, what it does, and the packages with their bytes thereafter.
type Change<'a> = (&'a str, &'a dyn Fn(), &'a [(&'a str, &'a str)]);

#[tokio::test]
async fn what_is_changed_by_hand_shows_at_once() {
    let server = Server::start();
    server.copy_in("a.zip", "abc");
    server.hashed().await;
    let path = |name: &str| server.path(name);
    let write = |name: &str| OpenOptions::new().write(true).open(path(name)).unwrap();
    let changes: [Change<'_>; 8] = [
        ("as it was", &|| (), &[("a.zip", "abc")]),
        ("copied in", &|| fs::write(path("b.zip"), "old").unwrap(), &[("b.zip", "old"), ("a.zip", "abc")]),
        (
            "written over",
            &|| write("b.zip").write_all_at(b"new", 0).unwrap(),
            &[("b.zip", "new"), ("a.zip", "abc")],
        ),
        (
            "grown",
            &|| OpenOptions::new().append(true).open(path("b.zip")).unwrap().write_all(b"er").unwrap(),
            &[("b.zip", "newer"), ("a.zip", "abc")],
        ),
        (
            "touched",
            &|| write("a.zip").set_modified(SystemTime::now()).unwrap(),
            &[("a.zip", "abc"), ("b.zip", "newer")],
        ),
        (
            "renamed",
            &|| fs::rename(path("a.zip"), path("c.zip")).unwrap(),
            &[("c.zip", "abc"), ("b.zip", "newer")],
        ),
        ("moved over", &|| fs::rename(path("b.zip"), path("c.zip")).unwrap(), &[("c.zip", "newer")]),
        ("removed", &|| fs::remove_file(path("c.zip")).unwrap(), &[]),
    ];
    for (change, make, expected) in changes {
        make();
        let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
        assert_eq!(server.names().await, names, "{change}");
        for (name, bytes) in expected {
            assert_eq!(server.get(&format!("/assets/{name}")).await.ok().text(), *bytes, "{change}: {name}");
        }
    }
    server.get("/assets/c.zip").await.refused(404, "");
}

#[tokio::test]
async fn what_another_server_publishes_shows_at_once() {
    let server = Server::start();
    let other = server.another();
    for round in 0..20 {
        let name = format!("{round}.zip");
        assert!(!server.names().await.contains(&name));
        other.put(&name, "abc").await.ok();
        assert_eq!(server.names().await.first(), Some(&name));
        server.get(&format!("/assets/{name}")).await.ok();
        other.put(&format!("{name}?overwrite=true"), "newer").await.ok();
        assert_eq!(server.get(&format!("/assets/{name}")).await.ok().text(), "newer");
        assert_eq!(other.delete(&format!("/assets/{name}")).await.status, 204);
        server.get(&format!("/assets/{name}")).await.refused(404, "");
    }
}

/// The one way round the kernel's notes that needs no privileges.
#[tokio::test]
async fn what_is_written_by_a_link_from_elsewhere_shows_soon_and_is_never_mixed() {
    let server = Server::start();
    let elsewhere = server.outside().join("elsewhere");
    File::create(&elsewhere).unwrap().write_all(b"old").unwrap();
    fs::hard_link(&elsewhere, server.path("a.zip")).unwrap();
    assert_eq!(server.get("/assets/a.zip").await.ok().text(), "old");
    server.names().await;
    OpenOptions::new().append(true).open(&elsewhere).unwrap().write_all(b"er").unwrap();
    eventually("the new bytes show", async || {
        let answer = server.get("/assets/a.zip").await.ok();
        let text = answer.text();
        assert!(["old", "older"].contains(&text), "{text}");
        text == "older"
    })
    .await;
}
