//! Releases as clients of GitHub ask for them.

use std::fs;

use axum::http::Method;
use serde_json::{Value, json};

use super::server::{Answer, Call, Server, TOKEN, sha256, text};

const RELEASES: &str = "/api/v3/repos/Acme/App/releases";

impl Server {
    /// Sends JSON, with [`TOKEN`].
    fn send(&self, method: Method, path: &str, body: &Value) -> Call<'_> {
        self.call(method, path)
            .bearer(TOKEN)
            .header("content-type", "application/json")
            .body(body.to_string())
    }

    async fn release(&self, fields: &Value) -> Value {
        let answer = self.send(Method::POST, RELEASES, fields).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()
    }

    async fn edit(&self, release: &Value, fields: &Value) -> Answer {
        self.send(Method::PATCH, &format!("{RELEASES}/{}", release["id"]), fields).await
    }

    /// Uploads an asset, with [`TOKEN`].
    fn asset(&self, release: &Value, name: &str, bytes: &'static [u8]) -> Call<'_> {
        let path = format!("/api/uploads/repos/acme/app/releases/{}/assets?name={name}", release["id"]);
        self.call(Method::POST, &path).bearer(TOKEN).header("content-type", "application/zip").body(bytes)
    }
}

impl Answer {
    #[track_caller]
    fn github(&self, status: u16, message: &str) -> &Self {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/json; charset=utf-8", "{self:?}");
        assert_eq!(self.json()["message"], message, "{self:?}");
        self
    }

    #[track_caller]
    fn breach(&self, field: &str, code: &str) {
        self.github(422, "Validation Failed");
        let first = &self.json()["errors"][0];
        assert_eq!((&first["field"], &first["code"]), (&field.into(), &code.into()), "{self:?}");
    }
}

/// The path of a link.
fn path(url: &Value) -> String {
    let url = text(url);
    url.strip_prefix("http://127.0.0.1:8000").unwrap_or_else(|| panic!("{url}")).to_owned()
}

#[tokio::test]
async fn a_draft_with_files_is_published() {
    let server = Server::start();
    let draft = server.release(&json!({ "tag_name": "v1.0.0", "draft": true, "name": null })).await;
    assert_eq!(
        (&draft["draft"], &draft["published_at"], &draft["name"]),
        (&true.into(), &Value::Null, &"v1.0.0".into())
    );
    for path in [
        format!("{RELEASES}/latest"),
        format!("{RELEASES}/tags/v1.0.0"),
        format!("{RELEASES}/{}", draft["id"]),
    ] {
        server.get(&path).await.github(404, "Not Found");
    }
    let answer = server.asset(&draft, "app.zip", b"bytes").await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let asset = answer.json();
    assert_eq!(asset["digest"], format!("sha256:{}", sha256(b"bytes")));
    assert_eq!(
        (&asset["size"], &asset["content_type"], &asset["state"]),
        (&5.into(), &"application/zip".into(), &"uploaded".into())
    );
    server.get(&format!("{RELEASES}/assets/{}", asset["id"])).await.github(404, "Not Found");
    server.get("/acme/app/releases/download/v1.0.0/app.zip").await.github(404, "Not Found");

    let published = server.edit(&draft, &json!({ "draft": false })).await.ok().json();
    assert_eq!(published["assets"], json!([asset]));
    assert!(published["published_at"].is_string());
    for path in ["latest", "tags/v1.0.0", &draft["id"].to_string()] {
        for base in [RELEASES, "/repos/acme/app/releases"] {
            assert_eq!(server.get(&format!("{base}/{path}")).await.ok().json(), published, "{base}/{path}");
        }
    }
    assert_eq!(server.get(RELEASES).await.ok().json(), json!([published]));
    let download = server.get("/acme/app/releases/download/v1.0.0/app.zip").await.ok();
    assert_eq!(download.body, "bytes");
    assert_eq!(download.header("content-disposition"), "attachment; filename=\"app.zip\"");
    assert_eq!(download.header("etag"), format!("\"{}\"", sha256(b"bytes")));
    assert_eq!(download.header("content-length"), "5");
}

#[tokio::test]
async fn a_release_has_the_shape_that_clients_read() {
    let server = Server::start();
    let release =
        server.release(&json!({ "tag_name": "release/1 0".replace(' ', "-"), "body": "Notes" })).await;
    server.asset(&release, "a%20b.zip&label=An%20archive", b"x").await;
    let answer = server.get(&format!("{RELEASES}/latest")).header("host", "h.example:8443").await.ok();
    let mut shown = answer.json();
    // One key a line, with a space after the colon: install scripts `grep`.
    assert!(answer.text().contains("\n  \"tag_name\": \"release/1-0\",\n"), "{}", answer.text());
    for field in ["created_at", "updated_at", "published_at"] {
        let time = text(&shown[field]);
        assert!(time.ends_with('Z') && time.len() == 20, "{time}");
        shown[field] = "TIME".into();
        if field != "published_at" {
            shown["assets"][0][field] = "TIME".into();
        }
    }
    let ids = [shown["id"].to_string(), shown["assets"][0]["id"].to_string()];
    let mut shown = serde_json::to_string_pretty(&shown).unwrap();
    for (id, name) in ids.iter().rev().zip(["ASSET", "RELEASE"]) {
        shown = shown.replace(id, name);
    }
    insta::with_settings!({ filters => vec![(r#""node_id": "[^"]+""#, r#""node_id": "NODE""#)] }, {
        insta::assert_snapshot!(shown);
    });
}

#[tokio::test]
async fn errors_are_githubs() {
    let server = Server::start();
    let release = server.release(&json!({ "tag_name": "v1" })).await;
    let post = |body: &'static str| server.call(Method::POST, RELEASES).bearer(TOKEN).body(body);
    post("{").await.github(400, "Problems parsing JSON");
    post("{}").await.breach("tag_name", "missing_field");
    post(r#"{"tag_name":"a b"}"#).await.breach("tag_name", "invalid");
    post(r#"{"tag_name":"v1"}"#).await.breach("tag_name", "already_exists");
    assert_eq!(post(r#"{"tag_name":1}"#).await.status, 422);
    server.asset(&release, "app.zip", b"one").await;
    server.asset(&release, "app.zip", b"two").await.breach("name", "already_exists");
    server.asset(&release, "", b"x").await.breach("name", "missing_field");
    let nobody = server.call(Method::POST, RELEASES).body("{}").await;
    nobody.github(401, "Requires authentication");
    assert!(nobody.header("www-authenticate").starts_with("Bearer"));
    server.call(Method::POST, RELEASES).bearer("ghp_x").body("{}").await.github(401, "Bad credentials");
    server.delete(&format!("{RELEASES}/77")).await.github(404, "Not Found");
    server.get("/api/v3/nothing").await.github(404, "Not Found");
    server.get("/api/v3/rate_limit").await.github(404, "Not Found");
    server.get("/rate_limit").await.github(404, "Not Found");
    server.get("/api/v3/repos/no/one/releases").await.github(404, "Not Found");
    server.get("/api/v3/repos/packages/one/releases").await.github(404, "Not Found");
}

#[tokio::test]
async fn an_upload_that_is_too_large_is_a_422() {
    let server = Server::configured(&[("AUTH_TOKEN", TOKEN), ("MAX_UPLOAD_BYTES", "4")]);
    let release = server.release(&json!({ "tag_name": "v1" })).await;
    server.asset(&release, "a", b"12345").await.breach("size", "custom");
    assert_eq!(server.asset(&release, "a", b"1234").await.status, 201);
    assert_eq!(server.asset(&release, "empty", b"").await.status, 201);
}

#[tokio::test]
async fn an_asset_is_bytes_or_json_by_what_is_accepted() {
    let server = Server::start();
    let release = server.release(&json!({ "tag_name": "v1" })).await;
    let asset = server.asset(&release, "app.json", b"{}").await.json();
    let url = path(&asset["url"]);
    for accept in ["application/octet-stream", "application/octet-stream, application/json"] {
        let bytes = server.get(&url).header("accept", accept).await.ok();
        assert_eq!((&bytes.body[..], bytes.header("content-type")), (&b"{}"[..], "application/zip"));
    }
    for accept in ["*/*", "application/vnd.github+json", "application/json"] {
        assert_eq!(server.get(&url).header("accept", accept).await.ok().json(), asset);
    }
    assert_eq!(server.get(&url).await.ok().json(), asset);
    let part =
        server.get(&url).header("accept", "application/octet-stream").header("range", "bytes=1-1").await;
    assert_eq!((part.status, part.text()), (206, "}"));
    let head = server.head(&path(&asset["browser_download_url"])).await.ok();
    assert_eq!((head.header("content-length"), head.body.len()), ("2", 0));
}

#[tokio::test]
async fn an_asset_is_renamed_labelled_and_deleted() {
    let server = Server::start();
    let release = server.release(&json!({ "tag_name": "v1" })).await;
    let asset = server.asset(&release, "a%20b.zip", b"x").await.json();
    assert_eq!(asset["name"], "a.b.zip");
    let url = path(&asset["url"]);
    let edited = server.send(Method::PATCH, &url, &json!({ "label": "a b.zip" })).await.ok().json();
    assert_eq!((&edited["name"], &edited["label"]), (&"a.b.zip".into(), &"a b.zip".into()));
    let edited = server.send(Method::PATCH, &url, &json!({ "name": "c.zip" })).await.ok().json();
    assert_eq!((&edited["name"], &edited["label"]), (&"c.zip".into(), &"a b.zip".into()));
    let endless = "a".repeat(1001);
    server.send(Method::PATCH, &url, &json!({ "label": endless })).await.breach("label", "custom");
    server.asset(&release, &format!("d.zip&label={endless}"), b"x").await.breach("label", "custom");
    assert_eq!(server.get("/Acme/App/releases/download/v1/c.zip").await.ok().body, "x");
    let deleted = server.delete(&url).await;
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    server.get(&url).await.github(404, "Not Found");
    server.get("/acme/app/releases/download/v1/c.zip").await.github(404, "Not Found");
    assert_eq!(server.asset(&release, "c.zip", b"y").await.status, 201);
}

#[tokio::test]
async fn an_upload_that_is_repeated_gives_the_asset_that_is_there() {
    let server = Server::start();
    let release = server.release(&json!({ "tag_name": "v1" })).await;
    let first = server.asset(&release, "app.zip", b"bytes").await;
    let again = server.asset(&release, "app.zip", b"bytes").await;
    assert_eq!((first.status, again.status, first.json()), (201, 201, again.json()));
    let replaced = server.asset(&release, "app.zip&overwrite=true", b"other").await.json();
    assert_ne!(replaced["id"], first.json()["id"]);
    let wrong = server.asset(&release, "b.zip", b"x").header("x-checksum-sha256", &sha256(b"y")).await;
    assert_eq!(wrong.status, 422);
    assert_eq!(server.get("/acme/app/releases/download/v1/app.zip").await.ok().body, "other");
}

#[tokio::test]
async fn uploads_go_wherever_clients_send_them() {
    let server = Server::start();
    let release = server.release(&json!({ "tag_name": "v1" })).await;
    let id = &release["id"];
    for (number, base) in ["/api/uploads", "/api/v3", "/api/v3/api/uploads", ""].into_iter().enumerate() {
        let path = format!("{base}/repos/acme/app/releases/{id}/assets?name={number}");
        let answer = server
            .call(Method::POST, &path)
            .header("authorization", &format!("token {TOKEN}"))
            .body("x")
            .await;
        assert_eq!(answer.status, 201, "{base}: {answer:?}");
        assert_eq!(answer.json()["content_type"], "application/octet-stream");
    }
}

#[tokio::test]
async fn links_are_those_of_the_address_that_was_asked() {
    let server = Server::start();
    let release = server.release(&json!({ "tag_name": "v1" })).await;
    let id = &release["id"];
    let shown = async |host: &str, path: &str| server.get(path).header("host", host).await.ok().json();
    for path in ["/api/v3/repos/acme/app/releases/latest", "/repos/acme/app/releases/latest"] {
        let release = shown("h.example:8443", path).await;
        assert_eq!(release["url"], format!("http://h.example:8443/api/v3/repos/Acme/App/releases/{id}"));
        let upload =
            format!("http://h.example:8443/api/uploads/repos/Acme/App/releases/{id}/assets{{?name,label}}");
        assert_eq!(release["upload_url"], upload);
        assert_eq!(release["html_url"], "http://h.example:8443/Acme/App/releases/tag/v1");
    }
    let release = shown("api.h.example:81", "/repos/acme/app/releases/latest").await;
    assert_eq!(release["url"], format!("http://api.h.example:81/repos/Acme/App/releases/{id}"));
    let upload = format!("http://api.h.example:81/repos/Acme/App/releases/{id}/assets{{?name,label}}");
    assert_eq!(release["upload_url"], upload);
    assert_eq!(release["html_url"], "http://h.example:81/Acme/App/releases/tag/v1");
    // A server that is called so itself.
    let release = shown("api.h.example", "/api/v3/repos/acme/app/releases/latest").await;
    assert_eq!(release["html_url"], "http://api.h.example/Acme/App/releases/tag/v1");
    let root = shown("api.h.example", "/").await;
    assert_eq!(root["current_user_url"], "http://api.h.example/user");

    let public = server.with(|config| config.public_url = Some("https://r.example/".parse().unwrap()));
    let path = "/repos/acme/app/releases/latest";
    let release = public.get(path).header("host", "api.r.example").await.ok().json();
    assert_eq!(release["url"], format!("https://api.r.example/repos/Acme/App/releases/{id}"));
    let release = public.get(path).header("host", "api.evil.example").await.ok().json();
    assert_eq!(release["url"], format!("https://r.example/api/v3/repos/Acme/App/releases/{id}"));
}

#[tokio::test]
async fn the_site_leads_to_the_latest_release() {
    let server = Server::start();
    let base = "http://localhost/Acme/App/releases";
    let to = async |path: &str| {
        let answer = server.get(path).header("host", "localhost").await;
        assert_eq!(answer.status, 302, "{answer:?}");
        answer.header("location").to_owned()
    };
    assert_eq!(server.get("/Acme/App/releases/latest").await.status, 404, "there is no such repository");
    server.release(&json!({ "tag_name": "v0", "prerelease": true })).await;
    assert_eq!(to("/Acme/App/releases/latest").await, base);
    let release = server.release(&json!({ "tag_name": "rel/1" })).await;
    server.asset(&release, "app.zip", b"x").await;
    assert_eq!(to("/acme/app/releases/latest").await, format!("{base}/tag/rel%2F1"));
    assert_eq!(
        to("/acme/app/releases/latest/download/app.zip").await,
        format!("{base}/download/rel%2F1/app.zip")
    );
    assert_eq!(to("/acme/app/releases/rel%2F1").await, format!("{base}/tag/rel%2F1"));
    server.get("/acme/app/releases/latest/download/other.zip").await.github(404, "Not Found");
    for path in ["/acme/app/releases/tag/rel%2F1", "/acme/app/releases/tag/rel/1"] {
        let page = server.get(path).await.ok();
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        let brief = server.get(path).header("accept", "application/json").await.ok();
        assert!(brief.text().contains(r#""tag_name":"rel/1""#), "{}", brief.text());
    }
    for path in ["rel/1/app.zip", "rel%2F1/app.zip"] {
        assert_eq!(server.get(&format!("/acme/app/releases/download/{path}")).await.ok().body, "x");
    }
    server.get("/acme/app/releases").await.ok();
}

#[tokio::test]
async fn lists_come_by_the_page() {
    let server = Server::start();
    for number in 1..=5 {
        server.release(&json!({ "tag_name": format!("v{number}"), "draft": number == 5 })).await;
    }
    let tags = |answer: &Answer| -> Vec<String> {
        answer.json().as_array().unwrap().iter().map(|release| text(&release["tag_name"])).collect()
    };
    let all = server.get(RELEASES).await.ok();
    assert_eq!((all.header("link"), tags(&all)), ("", ["v4", "v3", "v2", "v1"].map(String::from).to_vec()));
    assert_eq!(tags(&server.get(RELEASES).bearer(TOKEN).await)[0], "v5");
    let page = server.get(&format!("{RELEASES}?per_page=3&page=1")).header("host", "h").await.ok();
    assert_eq!(tags(&page).len(), 3);
    assert_eq!(
        page.header("link"),
        format!(
            "<http://h{RELEASES}?per_page=3&page=2>; rel=\"next\", <http://h{RELEASES}?per_page=3&page=2>; rel=\"last\""
        )
    );
    let page = server.get(&format!("{RELEASES}?per_page=3&page=2")).await.ok();
    assert_eq!(tags(&page), ["v1"]);
    assert!(!page.header("link").contains("next"));
    assert!(tags(&server.get(&format!("{RELEASES}?page=9")).await.ok()).is_empty());
    assert_eq!(tags(&server.get(&format!("{RELEASES}?page=x&per_page=")).await.ok()).len(), 4);
    let names = server.get("/api/v3/repos/acme/app/tags").await.ok().json();
    assert_eq!(names[0]["name"], "v4");
}

#[tokio::test]
async fn as_many_assets_as_there_may_be_are_shown_like_one() {
    let server = Server::start();
    let release = server.release(&json!({ "tag_name": "v1", "body": "Two\nlines: []" })).await;
    server.asset(&release, "app.zip", b"x").await;
    // To upload them would take a while.
    let path = server.path(&format!("repos/acme/app/releases/{}.json", release["id"]));
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let first = record["assets"][0].clone();
    let asset = |number: u64| {
        let mut asset = first.clone();
        asset["id"] = (first["id"].as_u64().unwrap() + number).into();
        asset["name"] = format!("app-{number}.zip").into();
        asset
    };
    record["assets"] = (0..1000).map(asset).collect();
    fs::write(&path, record.to_string()).unwrap();

    let id = &release["id"];
    let paths = ["", "/latest", "/tags/v1", &format!("/{id}"), &format!("/{id}/assets?per_page=100")]
        .map(|path| format!("{RELEASES}{path}"));
    for path in paths {
        let answer = server.get(&path).await.ok();
        let shown = answer.json();
        assert_eq!(answer.text(), serde_json::to_string_pretty(&shown).unwrap() + "\n", "{path}");
        let assets = if path.contains("assets") { &shown } else { &shown.get(0).unwrap_or(&shown)["assets"] };
        let assets = assets.as_array().unwrap();
        assert_eq!(assets.len(), if path.contains("assets") { 100 } else { 1000 }, "{path}");
        assert!((0..).zip(assets).all(|(number, asset)| asset["name"] == format!("app-{number}.zip")));
        let length = answer.body.len().to_string();
        assert_eq!(server.head(&path).await.ok().header("content-length"), length, "{path}");
        let again = server.get(&path).header("if-none-match", answer.header("etag")).await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
    }
}

#[tokio::test]
async fn what_clients_ask_before_they_publish() {
    let server = Server::start();
    let ask = |path: &str| server.get(path).bearer(TOKEN);
    let repository = ask("/api/v3/repos/Acme/App").await.ok().json();
    assert_eq!(
        (&repository["full_name"], &repository["permissions"]["push"]),
        (&"Acme/App".into(), &true.into())
    );
    assert_eq!(ask("/api/v3/user").await.ok().json()["login"], "auth_token");
    server.get("/api/v3/user").await.github(401, "Requires authentication");
    assert_eq!(ask("/api/v3/repos/acme/app/collaborators/me").await.status, 204);
    server.get("/api/v3/repos/acme/app/collaborators/me").await.github(404, "Not Found");
    ask("/api/v3").await.ok();
    ask("/api/v3/").await.ok();
    ask("/api/v3/meta").await.ok();
    ask("/api/v3/repos/acme/app/git/ref/tags%2Fv1").await.github(404, "Not Found");
    let sha = "0123456789abcdef0123456789abcdef01234567";
    let release = server.release(&json!({ "tag_name": "v1", "target_commitish": sha })).await;
    for path in ["tags%2Fv1", "tags/v1"] {
        let found = ask(&format!("/api/v3/repos/acme/app/git/ref/{path}")).await.ok().json();
        assert_eq!((&found["ref"], &found["object"]["sha"]), (&"refs/tags/v1".into(), &sha.into()));
    }
    let tags = ["tags%2Fv1", "tags/v1"].map(|tag| format!("/api/v3/repos/acme/app/git/refs/{tag}"));
    for tag in &tags {
        assert_eq!(server.delete(tag).await.status, 422);
    }
    assert_eq!(server.delete(&path_of(&release)).await.status, 204);
    for tag in &tags {
        assert_eq!(server.delete(tag).await.status, 204);
    }
    let notes = json!({ "tag_name": "v2" });
    let notes = server.send(Method::POST, &format!("{RELEASES}/generate-notes"), &notes).await.ok().json();
    assert_eq!(notes["name"], "v2");
}

fn path_of(release: &Value) -> String {
    format!("{RELEASES}/{}", release["id"])
}

#[tokio::test]
async fn the_latest_is_moved_by_publishing_and_by_wish() {
    let server = Server::start();
    let latest = async || text(&server.get(&format!("{RELEASES}/latest")).await.ok().json()["tag_name"]);
    let first = server.release(&json!({ "tag_name": "v1" })).await;
    server.release(&json!({ "tag_name": "v2" })).await;
    assert_eq!(latest().await, "v2");
    server.release(&json!({ "tag_name": "v1.1", "make_latest": "false" })).await;
    server.release(&json!({ "tag_name": "v3-rc", "prerelease": true })).await;
    server.release(&json!({ "tag_name": "v1.2", "make_latest": "legacy" })).await;
    assert_eq!(latest().await, "v1.2");
    server.edit(&first, &json!({ "body": "Notes", "draft": false })).await.ok();
    assert_eq!(latest().await, "v1.2");
    server.edit(&first, &json!({ "make_latest": "true" })).await.ok();
    assert_eq!(latest().await, "v1");
}

#[tokio::test]
async fn the_packages_are_the_latest_release_of_one_repository() {
    let server = Server::start();
    server.put("spec-kit-template-claude-sh-v1.zip", "bytes").await.ok();
    for base in ["/repos", "/api/v3/repos"] {
        let latest = server.get(&format!("{base}/github/spec-kit/releases/latest")).await.ok().json();
        assert_eq!(latest["assets"][0]["name"], "spec-kit-template-claude-sh-v1.zip");
        server.get(&format!("{base}/github/other/releases/latest")).await.github(404, "Not Found");
    }
    server.get("/api/v3/repos/github/spec-kit").await.ok();
    let own = "/api/v3/repos/github/spec-kit/releases";
    server.send(Method::POST, own, &json!({ "tag_name": "v9" })).await;
    assert_eq!(server.get(&format!("{own}/latest")).await.ok().json()["tag_name"], "v9");
}

/// A server with tokens named after what they may do.
fn guarded(private: &str) -> Server {
    let token = |name: &str, scopes: &[&str], repositories: &[&str]| json!({ "name": name, "sha256": sha256(name.as_bytes()), "scopes": scopes, "repositories": repositories });
    let tokens = json!([
        token("app", &["read", "write", "delete"], &["acme/app"]),
        token("reader", &["read"], &["acme/*"]),
        token("other", &["read", "write", "delete"], &["acme/other"]),
    ]);
    let tokens = tokens.to_string();
    let variables =
        [("AUTH_TOKEN", TOKEN), ("AUTH__TOKENS", &tokens), ("AUTH__PRIVATE_REPOSITORIES", private)];
    Server::configured(&variables)
}

#[tokio::test]
async fn a_token_reaches_its_own_repositories() {
    let server = guarded("");
    let post = async |token: &str| {
        let body = json!({ "tag_name": "v1", "draft": true }).to_string();
        server.call(Method::POST, RELEASES).bearer(token).body(body).await
    };
    assert_eq!(post("app").await.status, 201);
    assert_eq!(post("other").await.status, 403);
    assert_eq!(post("reader").await.status, 403);
    // Drafts are for who may write here; a token from elsewhere is as good as none.
    for (token, count) in [(TOKEN, 1), ("app", 1)] {
        assert_eq!(server.get(RELEASES).bearer(token).await.ok().json().as_array().unwrap().len(), count);
    }
    server.release(&json!({ "tag_name": "v2" })).await;
    for token in ["other", "reader", "ghp_foreign", ""] {
        let list = server.get(RELEASES).bearer(token).await.ok().json();
        assert_eq!(list.as_array().unwrap().len(), 1, "{token}");
    }
}

#[tokio::test]
async fn a_private_repository_is_not_there_for_strangers() {
    let server = guarded("Acme/App");
    let release = server.release(&json!({ "tag_name": "v1" })).await;
    server.asset(&release, "app.zip", b"x").await;
    for path in [
        RELEASES,
        "/api/v3/repos/acme/app",
        "/repos/ACME/APP/releases/latest",
        "/acme/app/releases",
        "/acme/app/releases/latest",
        "/acme/app/releases/download/v1/app.zip",
    ] {
        server.get(path).await.github(404, "Not Found");
        for token in ["other", "ghp_foreign"] {
            server.get(path).bearer(token).await.github(404, "Not Found");
        }
        for token in ["app", "reader", TOKEN] {
            assert!(server.get(path).bearer(token).await.status < 400, "{path} {token}");
        }
    }
    let edit = async |token: &str| {
        server.call(Method::PATCH, &path_of(&release)).bearer(token).body("{}").await.status
    };
    assert_eq!(
        (edit("app").await, edit("reader").await, edit("other").await, edit("ghp").await),
        (200, 403, 404, 401)
    );
    assert_eq!(server.get(&format!("{RELEASES}/latest")).bearer("app").await.ok().json()["tag_name"], "v1");
    let private = server.get("/api/v3/repos/acme/app").bearer("app").await.ok().json();
    assert_eq!((&private["private"], &private["permissions"]["push"]), (&true.into(), &true.into()));
}

#[tokio::test]
async fn private_reads_hold_for_repositories_too() {
    let server = Server::configured(&[("AUTH_TOKEN", TOKEN), ("AUTH__PRIVATE_READS", "true")]);
    server.release(&json!({ "tag_name": "v1" })).await;
    server.get(RELEASES).await.github(401, "Requires authentication");
    server.get(RELEASES).bearer("ghp_foreign").await.github(401, "Bad credentials");
    server.get(RELEASES).bearer(TOKEN).await.ok();
}
