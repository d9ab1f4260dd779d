//! `/latest`: the newest packages as one release, for the Spec Kit CLI and scripts that `grep`.

use std::{
    future::IntoFuture as _,
    time::{Duration, Instant},
};

use super::server::{Server, sha256};

/// A package of the old server: its digest lies beside it, so everything about it is known from the start.
fn old_upload(server: &Server, name: &str, bytes: &[u8]) {
    server.copy_in(name, bytes);
    server.copy_in(&format!("{name}.sha256"), sha256(bytes));
}

#[tokio::test]
async fn an_empty_store_is_an_empty_release() {
    let answer = Server::start().get("/latest").await.ok();
    assert_eq!(answer.header("content-type"), "application/json");
    insta::assert_snapshot!(answer.text(), @r#"
    {
      "id": 1,
      "url": "http://127.0.0.1:8000/releases/latest",
      "html_url": "http://127.0.0.1:8000/packages?format=html",
      "tag_name": "latest",
      "name": "Latest packages",
      "draft": false,
      "prerelease": false,
      "created_at": null,
      "published_at": null,
      "assets": []
    }
    "#);
}

#[tokio::test]
async fn the_release_has_githubs_shape() {
    let server = Server::start();
    old_upload(&server, "größe 1.0.zip", b"abc");
    insta::assert_snapshot!(server.get("/latest").await.ok().text(), @r#"
    {
      "id": 1,
      "url": "http://127.0.0.1:8000/releases/latest",
      "html_url": "http://127.0.0.1:8000/packages?format=html",
      "tag_name": "latest",
      "name": "Latest packages",
      "draft": false,
      "prerelease": false,
      "created_at": "2015-10-21T07:28:00.000Z",
      "published_at": "2015-10-21T07:28:00.000Z",
      "assets": [
        {
          "id": 8209865771222638,
          "url": "http://127.0.0.1:8000/assets/gr%C3%B6%C3%9Fe%201.0.zip",
          "name": "größe 1.0.zip",
          "label": null,
          "content_type": "application/zip",
          "state": "uploaded",
          "size": 3,
          "digest": "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
          "created_at": "2015-10-21T07:28:00.000Z",
          "updated_at": "2015-10-21T07:28:00.000Z",
          "browser_download_url": "http://127.0.0.1:8000/assets/gr%C3%B6%C3%9Fe%201.0.zip"
        }
      ]
    }
    "#);
}

#[tokio::test]
async fn both_addresses_answer_the_same() {
    let server = Server::start();
    server.put("app.zip", "abc").await.ok();
    let (one, two) = (server.get("/latest").await.ok(), server.get("/releases/latest").await.ok());
    assert_eq!(one.text(), two.text());
    assert_eq!(one.header("etag"), two.header("etag"));
    assert!(one.text().contains("\n  \"tag_name\": \"latest\",\n"), "{}", one.text());
}

#[tokio::test]
async fn the_newest_package_comes_first_whatever_the_names() {
    let server = Server::start();
    for name in ["b.zip", "c.zip", "a.zip"] {
        server.put(name, "abc").await.ok();
    }
    let release = server.get("/latest").await.ok().json();
    let names: Vec<_> = release["assets"].as_array().unwrap().iter().map(|asset| &asset["name"]).collect();
    assert_eq!(names, ["a.zip", "c.zip", "b.zip"]);
    assert_eq!(release["published_at"], release["assets"][0]["created_at"]);

    server.put("b.zip?overwrite=true", "new").await.ok();
    assert_eq!(server.names().await, ["b.zip", "a.zip", "c.zip"]);
}

#[tokio::test]
async fn what_was_uploaded_or_deleted_shows_in_the_very_next_answer() {
    let server = Server::start();
    for round in 0..20 {
        server.put("app.zip", format!("{round}")).await.ok();
        assert_eq!(server.names().await, ["app.zip"]);
        assert_eq!(server.delete("/assets/app.zip").await.status, 204);
        assert_eq!(server.names().await, [""; 0]);
    }
}

#[tokio::test]
async fn another_process_on_the_directory_sees_it_at_once_too() {
    let server = Server::start();
    let other = server.another();
    assert_eq!(other.names().await, [""; 0]);
    server.put("app.zip", "abc").await.ok();
    assert_eq!(other.names().await, ["app.zip"]);
    assert_eq!(other.delete("/assets/app.zip").await.status, 204);
    assert_eq!(server.names().await, [""; 0]);
}

#[tokio::test]
async fn who_has_the_answer_is_told_so() {
    let server = Server::start();
    server.put("app.zip", "abc").await.ok();
    for path in ["/latest", "/releases/latest", "/packages", "/packages?format=html"] {
        let answer = server.get(path).await.ok();
        let etag = answer.header("etag").to_owned();
        assert!(etag.starts_with("W/\"") && etag.ends_with('"'), "{etag}");
        assert_eq!(answer.header("cache-control"), "no-cache");

        for condition in [&etag, etag.trim_start_matches("W/"), "*", &format!("\"other\", {etag}")] {
            let unchanged = server.get(path).header("if-none-match", condition).await;
            assert_eq!((unchanged.status, &unchanged.body[..]), (304, &b""[..]), "{path} {condition}");
            assert_eq!(unchanged.header("etag"), etag);
            assert_eq!(unchanged.header("cache-control"), "no-cache");
        }
        assert_eq!(server.get(path).header("if-none-match", "\"other\"").await.status, 200);

        server.put("app.zip?overwrite=true", path).await.ok();
        let changed = server.get(path).header("if-none-match", &etag).await.ok();
        assert_ne!(changed.header("etag"), etag);
    }
}

#[tokio::test]
async fn head_has_the_headers_of_get_and_no_body() {
    let server = Server::start();
    server.put("app.zip", "abc").await.ok();
    for path in
        ["/latest", "/releases/latest", "/packages", "/packages?format=html", "/openapi.json", "/docs"]
    {
        let (get, head) = (server.get(path).await.ok(), server.head(path).await.ok());
        assert_eq!(head.body.len(), 0, "{path}");
        assert_eq!(head.header("content-length"), get.body.len().to_string(), "{path}");
        for name in ["content-type", "etag", "cache-control", "vary", "content-security-policy"] {
            assert_eq!(head.header(name), get.header(name), "{path} {name}");
        }
    }
}

#[tokio::test]
async fn many_who_ask_at_once_share_a_look_at_the_store() {
    let server = Server::start();
    server.put("app.zip", "abc").await.ok();
    let before = server.packages.listings();
    let answers = futures_util::future::join_all((0..100).map(|_| server.get("/latest").into_future())).await;
    assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    let looks = server.packages.listings() - before;
    assert!((1..=20).contains(&looks), "{looks} looks for 100 requests");
}

/// The old server took 0.8 s.
#[tokio::test]
async fn a_thousand_packages_are_listed_in_no_time() {
    let server = Server::start();
    for number in 0..1000 {
        server.copy_in(&format!("app-{number}.zip"), "abc");
    }
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let since = Instant::now();
        let release = server.get("/latest").await.ok();
        fastest = fastest.min(since.elapsed());
        assert_eq!(release.json()["assets"].as_array().unwrap().len(), 1000);
    }
    assert!(fastest < Duration::from_millis(400), "{fastest:?}");
}
