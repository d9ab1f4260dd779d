//! The audit log: one line for each change and each refusal, in one shape.

use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{program::Program, server::TOKEN};

/// SHA-256 of `abc` and of `abcd`.
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const ABCD: &str = "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589";

/// The fields that are the audit log's own.
fn said(line: &Value) -> Value {
    let own = [
        "action",
        "outcome",
        "package.name",
        "repository",
        "release.tag",
        "asset.name",
        "size_bytes",
        "sha256",
        "previous_sha256",
        "caller",
        "client",
        "request.id",
    ];
    own.iter()
        .filter(|key| !line[**key].is_null())
        .map(|key| ((*key).to_owned(), line[*key].clone()))
        .collect()
}

async fn send(request: RequestBuilder, id: &str) -> StatusCode {
    request.header("x-request-id", id).send().await.unwrap().status()
}

#[tokio::test]
async fn every_change_has_its_line() {
    let folder = TempDir::new().unwrap();
    let program = Program::start(folder.path());
    let client = Client::new();
    let asset = format!("{}/assets/app.zip", program.url);
    let put =
        |body: &'static str, query: &str| client.put(format!("{asset}{query}")).bearer_auth(TOKEN).body(body);

    assert_eq!(send(put("abc", ""), "r1").await, 200);
    assert_eq!(
        said(&program.logged("audit")),
        json!({
            "action": "publish", "outcome": "done", "package.name": "app.zip", "size_bytes": 3, "sha256": ABC,
            "caller": "auth_token", "client": "127.0.0.1", "request.id": "r1"
        })
    );

    assert_eq!(send(put("abcd", "?overwrite=true"), "r2").await, 200);
    assert_eq!(
        said(&program.logged("audit")),
        json!({
            "action": "replace", "outcome": "done", "package.name": "app.zip", "size_bytes": 4, "sha256": ABCD,
            "previous_sha256": ABC, "caller": "auth_token", "client": "127.0.0.1", "request.id": "r2"
        })
    );

    // The caller's own mistake changes nothing, and is no matter for this log.
    assert_eq!(send(put("abcd", ""), "r3").await, 409);
    assert_eq!(send(client.delete(&asset).bearer_auth(TOKEN), "r4").await, 204);
    assert_eq!(
        said(&program.logged("audit")),
        json!({
            "action": "delete", "outcome": "done", "package.name": "app.zip", "size_bytes": 4, "sha256": ABCD,
            "caller": "auth_token", "client": "127.0.0.1", "request.id": "r4"
        })
    );
}

#[tokio::test]
async fn so_has_every_change_of_a_release() {
    let folder = TempDir::new().unwrap();
    let program = Program::start(folder.path());
    let client = Client::new();
    let releases = format!("{}/api/v3/repos/acme/app/releases", program.url);
    let expected = |action: &str, id: &str, asset: Option<Value>| {
        let mut line = json!({
            "action": action, "outcome": "done", "repository": "acme/app", "release.tag": "v1",
            "caller": "auth_token", "client": "127.0.0.1", "request.id": id
        });
        for (field, value) in asset.iter().filter_map(Value::as_object).flatten() {
            line[field] = value.clone();
        }
        line
    };
    let abc = || Some(json!({"asset.name": "app.zip", "size_bytes": 3, "sha256": ABC}));

    let draft = json!({"tag_name": "v1", "draft": true});
    let create = client.post(&releases).json(&draft).bearer_auth(TOKEN).header("x-request-id", "r1");
    let release: Value = create.send().await.unwrap().json().await.unwrap();
    assert_eq!(said(&program.logged("audit")), expected("create", "r1", None));

    let release = format!("{releases}/{}", release["id"]);
    let upload = client.post(format!("{release}/assets?name=app.zip")).bearer_auth(TOKEN).body("abc");
    let asset: Value = upload.header("x-request-id", "r2").send().await.unwrap().json().await.unwrap();
    assert_eq!(said(&program.logged("audit")), expected("publish", "r2", abc()));

    let asset = format!("{releases}/assets/{}", asset["id"]);
    let changes = [
        (client.patch(&asset).json(&json!({"label": "The app"})), 200, "change", abc()),
        (client.patch(&release).json(&json!({"draft": false})), 200, "publish", None),
        (client.delete(&asset), 204, "delete", abc()),
        (client.delete(&release), 204, "delete", None),
    ];
    for (request, status, action, asset) in changes {
        assert_eq!(send(request.bearer_auth(TOKEN), "r3").await, status);
        assert_eq!(said(&program.logged("audit")), expected(action, "r3", asset));
    }
}

#[tokio::test]
async fn who_was_refused_has_a_line_too() {
    let folder = TempDir::new().unwrap();
    let program = Program::start(folder.path());
    let client = Client::new();
    let asset = format!("{}/assets/app.zip", program.url);
    let requests = [
        (client.put(&asset).body("abc"), 401, "publish", json!("app.zip")),
        (client.delete(&asset).bearer_auth("wrong"), 401, "delete", json!("app.zip")),
        (
            client.put(&asset).bearer_auth(TOKEN).header("sec-fetch-site", "cross-site"),
            403,
            "publish",
            json!("app.zip"),
        ),
        (client.post(format!("{}/upload", program.url)), 401, "publish", Value::Null),
    ];
    for (request, status, action, name) in requests {
        assert_eq!(send(request, "r").await, status);
        let line = program.logged("audit");
        assert_eq!(
            (&line["action"], &line["outcome"], &line["level"]),
            (&json!(action), &json!("denied"), &json!("warn"))
        );
        assert_eq!(
            (&line["package.name"], &line["client"], &line["request.id"]),
            (&name, &json!("127.0.0.1"), &json!("r"))
        );
        assert!(line["reason"].is_string(), "{line}");
    }

    let endless = format!("{}/assets/{}", program.url, "a".repeat(10_000));
    assert_eq!(send(client.put(endless).body("abc"), "r").await, 401);
    assert_eq!(program.logged("audit")["package.name"].as_str().unwrap().len(), 255);
}

#[tokio::test]
async fn what_the_sweep_removes_has_a_line_with_the_reason() {
    let folder = TempDir::new().unwrap();
    let program = Program::configured(folder.path(), &[("MAX_PACKAGES", "1")]);
    let client = Client::new();
    for name in ["a.zip", "b.zip"] {
        let put = client.put(format!("{}/assets/{name}", program.url)).bearer_auth(TOKEN).body("abc");
        assert_eq!(send(put, "r").await, 200);
    }
    let swept = loop {
        let line = program.logged("audit");
        if line["action"] == "sweep" {
            break line;
        }
    };
    assert_eq!(
        said(&swept),
        json!({
            "action": "sweep", "outcome": "done", "package.name": "a.zip", "size_bytes": 3, "sha256": ABC,
            "caller": "sweep"
        })
    );
    assert_eq!(swept["reason"], "the 2nd newest; `max_packages` keeps 1");
}
