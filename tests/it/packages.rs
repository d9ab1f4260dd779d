//! `/packages`: JSON for scripts, a page for people, and the two ways to delete.

use super::server::{Server, sha256};

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";

#[tokio::test]
async fn the_list_says_what_there_is_to_know() {
    let server = Server::start();
    server.copy_in("app.zip", "abc");
    server.copy_in("app.zip.sha256", sha256(b"abc"));
    server.copy_in("new.zip", "abcd");
    let answer = server.get("/packages").await.ok();
    assert_eq!(answer.header("content-type"), "application/json");
    insta::assert_snapshot!(answer.text(), @r#"
    [
      {
        "name": "app.zip",
        "size": 3,
        "created_at": "2015-10-21T07:28:00.000Z",
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "url": "http://127.0.0.1:8000/assets/app.zip"
      },
      {
        "name": "new.zip",
        "size": 4,
        "created_at": "2015-10-21T07:28:00.000Z",
        "sha256": null,
        "url": "http://127.0.0.1:8000/assets/new.zip"
      }
    ]
    "#);
}

#[tokio::test]
async fn an_empty_store_is_an_empty_list() {
    assert_eq!(Server::start().get("/packages").await.ok().text(), "[]\n");
}

#[tokio::test]
async fn html_is_for_who_prefers_it() {
    let server = Server::start();
    for (query, accept, expected) in [
        ("", None, JSON),
        ("", Some("*/*"), JSON),
        ("", Some("text/html"), HTML),
        ("", Some("TEXT/HTML"), HTML),
        ("", Some(BROWSER), HTML),
        ("", Some("application/json"), JSON),
        ("", Some("application/json, text/html"), JSON),
        ("", Some("application/json;q=0.5, text/html"), HTML),
        ("", Some("text/html;q=0.5, application/json"), JSON),
        ("", Some("text/html;q=0.1, */*;q=0.2"), JSON),
        ("", Some("text/*"), HTML),
        ("", Some("text/html;q=0"), JSON),
        ("", Some("image/png"), JSON),
        ("", Some("not an accept header"), JSON),
        ("?format=json", Some("text/html"), JSON),
        ("?format=html", Some("application/json"), HTML),
        ("?format=html", None, HTML),
    ] {
        let mut call = server.get(&format!("/packages{query}"));
        if let Some(accept) = accept {
            call = call.header("accept", accept);
        }
        let answer = call.await.ok();
        assert_eq!(answer.header("content-type"), expected, "{query} {accept:?}");
        assert_eq!(answer.header("vary"), "accept", "{query} {accept:?}");
    }
}

#[tokio::test]
async fn another_format_is_refused() {
    let server = Server::start();
    for query in ["format=xml", "format=", "format=JSON", "format=json&format=html"] {
        server.get(&format!("/packages?{query}")).await.refused(422, "query");
    }
}

#[tokio::test]
async fn names_are_harmless_on_the_page() {
    let server = Server::start();
    server.copy_in("<script>alert(1)<&script>.zip", "abc");
    server.copy_in("\"><img src=x onerror=alert(1)>'.zip", "abc");
    let page = server.get("/packages?format=html").await.ok();
    assert!(!page.text().contains("<script>alert"), "{}", page.text());
    assert!(!page.text().contains("<img src=x"), "{}", page.text());
    assert!(page.text().contains("alert(1)"), "{}", page.text());
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
}

#[tokio::test]
async fn both_ways_to_delete_delete() {
    let server = Server::start();
    for way in ["/assets/app.zip", "/packages/app.zip"] {
        server.put("app.zip", "abc").await.ok();
        let answer = server.delete(way).await;
        assert_eq!((answer.status, &answer.body[..]), (204, &b""[..]), "{way}");
        assert_eq!(server.files(), [""; 0], "{way}");
        server.get("/assets/app.zip").await.refused(404, "`app.zip` does not exist");
        server.delete(way).await.refused(404, "`app.zip` does not exist");
    }
}

#[tokio::test]
async fn a_deleted_name_can_be_published_again() {
    let server = Server::start();
    let first = server.put("app.zip", "abc").await.ok();
    assert_eq!(server.delete("/packages/app.zip").await.status, 204);
    let second = server.put("app.zip", "abc").await.ok();
    assert_ne!(first.header("etag"), second.header("etag"));
    assert!(second.json()["created_at"].as_str() > first.json()["created_at"].as_str());
}

#[tokio::test]
async fn a_file_copied_in_by_hand_is_deleted_like_any_other() {
    let server = Server::start();
    server.copy_in("u\u{308} 1.zip", "abc");
    assert_eq!(server.delete("/assets/u%CC%88%201.zip").await.status, 204);
    assert_eq!(server.files(), [""; 0]);
}
