//! The OpenAPI document: a changed face of the API is seen in review.

use serde_json::json;

use super::server::Server;

#[tokio::test]
async fn the_document_is_pinned() {
    let answer = Server::start().get("/openapi.json").await.ok();
    assert_eq!(answer.header("content-type"), "application/json");
    let mut document = answer.json();
    // It moves with each version of the program.
    document["info"]["version"] = json!("VERSION");
    insta::assert_snapshot!(serde_json::to_string_pretty(&document).unwrap());
}

#[tokio::test]
async fn every_documented_operation_exists() {
    let server = Server::start();
    let document = server.get("/openapi.json").await.ok().json();
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let method = method.to_uppercase().parse().unwrap();
            let status = server.call(method, &path.replace("{name}", "app.zip")).await.status;
            assert_ne!(status, 405, "{path}");
            operations += 1;
        }
    }
    assert!(operations >= 11, "{operations}");
}

#[tokio::test]
async fn the_command_line_prints_the_same_document() {
    let served = Server::start().get("/openapi.json").await.ok();
    assert_eq!(served.text(), release_server::http::openapi());
}
