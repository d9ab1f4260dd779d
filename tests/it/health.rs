//! What probes, people and programs ask first.

use std::fs;

use super::server::Server;

#[tokio::test]
async fn the_probes_answer() {
    let server = Server::start();
    for path in ["/healthz", "/readyz"] {
        let answer = server.get(path).await.ok();
        assert_eq!(answer.text(), "OK");
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    }
    let health = server.get("/health").await.ok();
    assert_eq!(health.text(), r#"{"status":"ok"}"#);
    assert_eq!(health.header("content-type"), "application/json");
}

#[tokio::test]
async fn a_probe_needs_no_token_even_where_reads_are_private() {
    let server = Server::start().with(|config| config.auth.private_reads = true);
    for path in ["/healthz", "/readyz", "/health", "/openapi.json", "/docs"] {
        server.get(path).await.ok();
    }
}

#[tokio::test]
async fn without_its_storage_the_server_lives_but_is_not_ready() {
    let server = Server::start();
    fs::remove_dir_all(server.path("")).unwrap();
    let answer = server.get("/readyz").await;
    answer.refused(503, "storage");
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(server.get("/healthz").await.ok().text(), "OK");
    server.get("/health").await.ok();
}

#[tokio::test]
async fn a_server_that_stops_is_no_longer_ready() {
    let server = Server::start();
    server.get("/readyz").await.ok();
    server.stop().await;
    server.get("/readyz").await.refused(503, "stopping");
    server.get("/healthz").await.ok();
}

#[tokio::test]
async fn readiness_does_not_list_the_store() {
    let server = Server::start();
    let before = server.packages.listings();
    for _ in 0..5 {
        server.get("/readyz").await.ok();
    }
    assert_eq!(server.packages.listings(), before);
}

#[tokio::test]
async fn the_root_leads_to_the_page() {
    let server = Server::start();
    let answer = server.get("/").await;
    assert_eq!((answer.status, answer.header("location")), (303, "packages?format=html"));
    let page = server.get("/packages?format=html").await.ok();
    assert!(page.text().starts_with("<!doctype html>"), "{}", page.text());
}

#[tokio::test]
async fn the_documentation_asks_no_other_host() {
    let server = Server::start();
    let page = server.get("/docs").await.ok();
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("http"), "{policy}");
    for attribute in ["src=\"", "href=\""] {
        for link in page.text().split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap()) {
            if !link.starts_with("data:") {
                assert!(!link.contains("//"), "{link}");
                let answer = server.get(&format!("/{}", link.trim_start_matches('/'))).await;
                assert!([200, 303].contains(&answer.status), "{link}: {}", answer.status);
            }
        }
    }
}
