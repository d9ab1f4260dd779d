//! What people and scripts see of releases: pages, the feed, files of digests.

use std::{sync::mpsc, time::Duration};

use axum::http::Method;
use serde_json::{Value, json};
use tokio::{runtime::Builder, task::spawn_blocking, time::timeout};

use super::server::{Server, TOKEN, sha256};

impl Server {
    /// Publishes a release with files.
    async fn released(&self, fields: Value, files: &[(&str, &'static str)]) -> Value {
        let call = self.call(Method::POST, "/api/v3/repos/Acme/App/releases").bearer(TOKEN);
        let answer = call.body(fields.to_string()).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let release = answer.json();
        for (name, text) in files {
            let path = format!("/api/uploads/repos/acme/app/releases/{}/assets?name={name}", release["id"]);
            let answer = self.call(Method::POST, &path).bearer(TOKEN).body(*text).await;
            assert_eq!(answer.status, 201, "{answer:?}");
        }
        release
    }
}

#[tokio::test]
async fn digests_are_files() {
    let server = Server::start();
    server.released(json!({ "tag_name": "v1" }), &[("b.zip", "b"), ("a.zip", "a")]).await;
    let download = "/acme/app/releases/download/v1";
    let sums = server.get(&format!("{download}/SHA256SUMS")).await.ok();
    assert_eq!(sums.text(), format!("{}  b.zip\n{}  a.zip\n", sha256(b"b"), sha256(b"a")));
    assert_eq!(sums.header("content-type"), "text/plain; charset=utf-8");
    let one = server.get(&format!("{download}/a.zip.sha256")).await.ok();
    assert_eq!(one.text(), format!("{}  a.zip\n", sha256(b"a")));
    let part = server.get(&format!("{download}/a.zip.sha256")).header("range", "bytes=0-3").await;
    assert_eq!((part.status, part.text()), (206, &sha256(b"a")[..4]));
    let head = server.head(&format!("{download}/SHA256SUMS")).await.ok();
    assert_eq!((head.header("content-length"), head.text()), (&*sums.text().len().to_string(), ""));
    let latest = server.get("/acme/app/releases/latest/download/SHA256SUMS").await;
    assert_eq!(latest.header("location"), "http://127.0.0.1:8000/Acme/App/releases/download/v1/SHA256SUMS");
    for name in ["c.zip.sha256", ".sha256", "SHA256SUMS.sha256", "sha256sums"] {
        assert_eq!(server.get(&format!("{download}/{name}")).await.status, 404, "{name}");
    }

    server
        .released(
            json!({ "tag_name": "v2" }),
            &[("SHA256SUMS", "own"), ("a.zip.sha256", "own"), ("a.zip", "a")],
        )
        .await;
    for name in ["SHA256SUMS", "a.zip.sha256"] {
        assert_eq!(server.get(&format!("/acme/app/releases/download/v2/{name}")).await.ok().text(), "own");
    }
}

#[tokio::test]
async fn the_feed_has_what_updaters_read() {
    let server = Server::start();
    server
        .released(json!({ "tag_name": "v1/a", "name": "<One> \u{1}", "body": "a & **b** <script>" }), &[])
        .await;
    server.released(json!({ "tag_name": "v2", "prerelease": true }), &[]).await;
    server.released(json!({ "tag_name": "v3", "draft": true }), &[]).await;
    let answer = server.get("/acme/app/releases.atom").bearer(TOKEN).await.ok();
    assert_eq!(answer.header("content-type"), "application/atom+xml; charset=utf-8");
    let filters = vec![
        (r"releases/\d+", "releases/ID"),
        (r"2026:\d+", "2026:REPOSITORY"),
        (r">\d{4}-\d\d-\d\dT[^<]+<", ">TIME<"),
    ];
    let shown = answer.text().replace("><", ">\n<");
    insta::with_settings!({ filters => filters }, { insta::assert_snapshot!(shown) });
    let again = server.get("/acme/app/releases.atom").header("if-none-match", answer.header("etag")).await;
    assert_eq!(again.status, 304);
    assert_eq!(server.get("/acme/nothing/releases.atom").await.status, 404);
}

#[tokio::test]
async fn a_release_has_a_page() {
    let server = Server::start();
    let notes =
        "# Fixes\n<script>alert(1)</script>\n[x](javascript:alert(1))\n![p](https://evil.example/p.png)";
    let fields = json!({ "tag_name": "v1/a", "name": "<b>One</b>\u{202e}", "body": notes });
    server.released(fields, &[("app.zip", "bytes")]).await;
    for path in ["v1/a", "v1%2Fa"] {
        let page =
            server.get(&format!("/acme/app/releases/tag/{path}")).header("accept", "text/html").await.ok();
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        let policy = page.header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let html = page.text();
        for expected in [
            "&#60;b&#62;One&#60;/b&#62;\u{fffd}",
            "<h3>Fixes</h3>",
            "<a href=\"https://evil.example/p.png\">p</a>",
            &sha256(b"bytes"),
            "curl -fLO &#39;http://127.0.0.1:8000/Acme/App/releases/download/v1%2Fa/app.zip&#39;",
            "/Acme/App/releases/download/v1%2Fa/SHA256SUMS",
            "latest</strong>",
        ] {
            assert!(html.contains(expected), "{expected} is missing in {html}");
        }
        for forbidden in ["alert(1)</script>", "\"javascript:", "<img src=\"http"] {
            assert!(!html.contains(forbidden), "{forbidden} is in {html}");
        }
        let root = "../".repeat(path.matches('/').count() + 4);
        assert!(html.contains(&format!("href=\"{root}static/page.css")), "{path}: {html}");
    }
    let brief = server.get("/acme/app/releases/tag/v1/a").header("accept", "application/json").await.ok();
    assert!(brief.text().contains("\"tag_name\":\"v1/a\""), "{}", brief.text());
    assert_eq!(server.get("/acme/app/releases/tag/v2").await.status, 404);
}

#[tokio::test]
async fn releases_have_pages() {
    let server = Server::start();
    for number in 1..=21 {
        server.released(json!({ "tag_name": format!("v{number}.0") }), &[]).await;
    }
    server.released(json!({ "tag_name": "v99", "draft": true }), &[]).await;
    let page = async |number: &str| {
        let call = server.get(&format!("/acme/app/releases?page={number}")).bearer(TOKEN);
        call.await.ok().text().to_owned()
    };
    let (first, last) = (page("1").await, page("3").await);
    assert!(first.contains("21 releases") && !first.contains("v99") && !first.contains("Newer"), "{first}");
    assert!(first.contains("<bdi>v21.0</bdi>") && !first.contains("<bdi>v11.0</bdi>"), "{first}");
    assert!(first.contains("href=\"?page=2\"") && first.contains("href=\"../../static/page.css"), "{first}");
    assert!(first.contains("<h1>Acme/App</h1>") && first.matches("<details open>").count() == 1, "{first}");
    assert!(last.contains("<bdi>v1.0</bdi>") && !last.contains("Older"), "{last}");
    assert!(page("9").await.contains("No releases on this page"));
    assert!(page("x").await.contains("<bdi>v21.0</bdi>"));
    assert_eq!(server.get("/acme/nothing/releases").await.status, 404);
}

#[test]
fn notes_are_rendered_on_no_thread_that_serves_connections() {
    // This one and another.
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let server = Server::start().with(|config| config.listing_max_age = Duration::from_hours(1));
        server.released(json!({ "tag_name": "v1", "body": "**Notes**" }), &[]).await;
        let query = "{ repository(owner: \"acme\", name: \"app\") { latestRelease { descriptionHTML } } }";
        let calls = || {
            [
                server.get("/acme/app/releases"),
                server.get("/acme/app/releases/tag/v1"),
                server.call(Method::POST, "/graphql").body(json!({ "query": query }).to_string()),
            ]
        };
        // From here on the store is not looked at for a listing.
        for call in calls() {
            assert!(call.await.ok().text().contains("Notes"));
        }
        let (occupying, occupied) = mpsc::channel::<()>();
        let other = spawn_blocking(move || occupied.recv());
        for call in calls() {
            let rendered = timeout(Duration::from_millis(200), call.into_future()).await;
            assert!(rendered.is_err(), "{rendered:?}");
        }
        drop(occupying);
        other.await.unwrap().unwrap_err();
        for call in calls() {
            assert!(call.await.ok().text().contains("Notes"));
        }
    });
}
