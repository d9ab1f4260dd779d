//! The data directory of the Python server, served in its place with its own variables.

use std::time::Duration;

use release_server::hasher;

use super::server::{LONG_AGO, Server, TOKEN, eventually, modified, sha256, snapshot};

fn old_server(max_packages: &str) -> Server {
    let path = std::env::temp_dir();
    Server::configured(&[
        ("AUTH_TOKEN", TOKEN),
        ("MAX_PACKAGES", max_packages),
        ("STORAGE_PATH", path.to_str().unwrap()),
        ("PORT", "8000"),
    ])
}

/// Seconds after the others.
fn uploaded(server: &Server, name: &str, bytes: &str, seconds: u64) {
    let sidecar = format!("{name}.sha256");
    server.copy_in(name, bytes);
    server.copy_in(&sidecar, sha256(bytes.as_bytes()));
    for name in [name, &sidecar] {
        modified(&server.path(name), LONG_AGO + Duration::from_secs(seconds));
    }
}

#[tokio::test]
async fn its_directory_is_served_as_it_is_and_nothing_is_rewritten() {
    let server = old_server("10");
    for (seconds, name) in (0..).zip(["a-1.0.zip", "b 1.0.zip", "größe.zip", "d.tar.gz", "e"]) {
        uploaded(&server, name, &format!("bytes of {name}"), seconds * 10);
    }
    server.copy_in("by-hand.zip", "copied");
    let before = snapshot(server.outside());

    let names = ["e", "d.tar.gz", "größe.zip", "b 1.0.zip", "a-1.0.zip", "by-hand.zip"];
    assert_eq!(server.names().await, names);
    for name in &names[..5] {
        let package = server.listed(name).await;
        assert_eq!(package["sha256"], sha256(format!("bytes of {name}").as_bytes()));
    }
    assert!(server.listed("by-hand.zip").await["sha256"].is_null());

    for _ in 0..3 {
        server.hashed().await;
        server.sweep().await;
    }
    assert_eq!(server.names().await, names);
    assert!(server.listed("by-hand.zip").await["sha256"].is_string());
    assert_eq!(snapshot(server.outside()), before);
    assert_eq!(server.another().names().await, names);
}

#[tokio::test]
async fn a_sidecar_is_not_a_package() {
    let server = old_server("10");
    uploaded(&server, "app.zip", "abc", 0);
    assert_eq!(server.names().await, ["app.zip"]);
    let release = server.get("/latest").await.ok();
    assert!(!release.text().contains(".sha256\""), "{}", release.text());
}

#[tokio::test]
async fn a_sidecar_older_than_its_package_is_not_believed() {
    let server = old_server("10");
    uploaded(&server, "app.zip", "abc", 0);
    server.copy_in("app.zip", "replaced by hand");
    modified(&server.path("app.zip"), LONG_AGO + Duration::from_secs(1));
    assert!(server.listed("app.zip").await["sha256"].is_null());
    assert_eq!(server.names().await, ["app.zip"]);

    server.hashed().await;
    assert_eq!(server.listed("app.zip").await["sha256"], sha256(b"replaced by hand"));
}

#[tokio::test]
async fn a_real_file_that_is_called_sha256_is_a_package() {
    let server = old_server("0");
    let hex = sha256(b"abc");
    server.copy_in("app.zip", "abc");
    for (name, bytes) in [
        ("app.zip.sha256", format!("{hex}\n")),
        ("line.zip.sha256", format!("{hex}  line.zip\n")),
        ("alone.zip.sha256", hex.clone()),
        ("short.zip.sha256", "abc".to_owned()),
        ("text.zip.sha256", "x".repeat(64)),
    ] {
        if name.starts_with("text") || name.starts_with("short") {
            server.copy_in(name.strip_suffix(".sha256").unwrap(), "abc");
        }
        server.copy_in(name, bytes);
    }
    let names = server.names().await;
    for name in
        ["app.zip.sha256", "line.zip.sha256", "alone.zip.sha256", "short.zip.sha256", "text.zip.sha256"]
    {
        assert!(names.contains(&name.to_owned()), "{name} is not among {names:?}");
    }
    assert!(server.listed("app.zip").await["sha256"].is_null(), "a line of `sha256sum` is no sidecar");
}

#[tokio::test]
async fn an_uploaded_file_that_looks_like_a_sidecar_is_a_package() {
    let server = old_server("10");
    server.put("app.zip", "abc").await.ok();
    // Not even the right digest.
    server.put("app.zip.sha256", sha256(b"other")).await.ok();
    assert_eq!(server.names().await, ["app.zip.sha256", "app.zip"]);
    assert_eq!(server.listed("app.zip").await["sha256"], sha256(b"abc"));
    assert_eq!(server.delete("/assets/app.zip").await.status, 204);
    assert_eq!(server.names().await, ["app.zip.sha256"]);
    server.put("app.zip?overwrite=true", "abc").await.ok();
    assert_eq!(server.names().await, ["app.zip", "app.zip.sha256"]);
}

#[tokio::test]
async fn replacing_a_package_removes_its_old_digest() {
    let server = old_server("10");
    uploaded(&server, "app.zip", "abc", 0);
    server.put("app.zip", "new").await.refused(409, "already exists");
    assert_eq!(server.files(), ["app.zip", "app.zip.sha256"]);
    server.put("app.zip?overwrite=true", "new").await.ok();
    assert_eq!(server.files(), ["app.zip"]);
    assert_eq!(server.listed("app.zip").await["sha256"], sha256(b"new"));
}

#[tokio::test]
async fn what_it_published_beyond_the_limit_is_hidden_like_our_own() {
    let server = old_server("2");
    for (seconds, name) in (0..).zip(["a.zip", "b.zip", "c.zip"]) {
        uploaded(&server, name, name, seconds);
    }
    assert_eq!(server.names().await, ["c.zip", "b.zip"]);
    let hasher = tokio::spawn(hasher::run(server.packages.clone()));
    eventually("the sweep has removed it", async || {
        server.sweep().await;
        server.files() == ["b.zip", "b.zip.sha256", "c.zip", "c.zip.sha256"]
    })
    .await;
    hasher.abort();
}
