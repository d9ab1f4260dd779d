//! Every error is JSON in one shape, the framework's own refusals included.

use axum::http::Method;

use super::server::{Server, TOKEN};

#[tokio::test]
async fn what_is_not_there_is_a_404_in_json() {
    let server = Server::start();
    for path in
        ["/nothing", "/latest/", "/assets", "/assets/", "/assets/a/b", "/packages/", "//latest", "/%ff"]
    {
        server.get(path).await.refused(404, "nothing here");
    }
    server.get("/assets/no.zip").await.refused(404, "package `no.zip` does not exist");
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let server = Server::start();
    for (method, path, allowed) in [
        (Method::POST, "/latest", "GET,HEAD"),
        (Method::PUT, "/releases/latest", "GET,HEAD"),
        (Method::DELETE, "/packages", "GET,HEAD"),
        (Method::GET, "/packages/app.zip", "DELETE"),
        (Method::POST, "/assets/app.zip", "GET,HEAD,PUT,DELETE"),
        (Method::GET, "/upload", "POST"),
        (Method::PATCH, "/healthz", "GET,HEAD"),
        (Method::POST, "/openapi.json", "GET,HEAD"),
        (Method::POST, "/", "GET,HEAD"),
    ] {
        let answer = server.call(method, path).bearer(TOKEN).await;
        answer.refused(405, "`Allow`");
        assert_eq!(answer.header("allow"), allowed, "{path}");
    }
}

#[tokio::test]
async fn what_the_framework_refuses_is_json_too() {
    let server = Server::start();
    server.put("app.zip?overwrite=perhaps", "abc").await.refused(422, "overwrite");
    server.put("app.zip?overwrite=true&overwrite=false", "abc").await.refused(422, "overwrite");
    server.put("%ff.zip", "abc").await.refused(400, "UTF-8");
    server.get("/assets/%ff.zip").await.refused(400, "UTF-8");
    let plain = server.call(Method::POST, "/upload").bearer(TOKEN).body("abc");
    plain.await.refused(422, "curl -F file=@NAME");
    let json = server.call(Method::POST, "/upload").bearer(TOKEN).header("content-type", "application/json");
    json.body("{}").await.refused(422, "curl -F file=@NAME");
    server.assert_stored_nothing();
}

#[tokio::test]
async fn a_storage_that_fails_is_a_503_that_says_no_more_than_that() {
    let server = Server::start();
    std::fs::remove_dir_all(server.path(".release-server/packages")).unwrap();
    std::fs::write(server.path(".release-server/packages"), "not a folder").unwrap();
    for answer in
        [server.get("/latest").await, server.get("/packages").await, server.put("a.zip", "abc").await]
    {
        answer.refused(503, "not available at the moment");
        assert!(!answer.text().contains(&*server.outside().to_string_lossy()), "{}", answer.text());
    }
}

#[tokio::test]
async fn every_answer_has_a_request_id() {
    let server = Server::start();
    let chosen = server.get("/latest").header("x-request-id", "job-7").await.ok();
    assert_eq!(chosen.header("x-request-id"), "job-7");
    let (one, two) = (server.get("/nothing").await, server.get("/nothing").await);
    assert_eq!(one.header("x-request-id").len(), 36);
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
    let forged = server.get("/latest").header("x-request-id", "a b\"c").await.ok();
    assert_ne!(forged.header("x-request-id"), "a b\"c");
}
