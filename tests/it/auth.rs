//! Who may do what, through HTTP.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::Method;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use jsonwebtoken::{EncodingKey, Header, encode};
use release_server::config::{self, Config};
use serde_json::json;

use super::server::{Call, Form, Server, TOKEN, sha256};

const SECRET: &str = "a secret that is long enough to sign with";

/// Every way to change something.
fn writes(server: &Server) -> [Call<'_>; 4] {
    [
        server.put("new.zip", "abc").without_token(),
        server.post("/upload", &Form::file("new.zip", b"abc")).without_token(),
        server.delete("/assets/app.zip").without_token(),
        server.delete("/packages/app.zip").without_token(),
    ]
}

async fn with_a_package() -> Server {
    let server = Server::start();
    server.put("app.zip", "abc").await.ok();
    server
}

/// A token with these scopes, limited to `repositories`, beside [`TOKEN`].
fn token(name: &str, scopes: &[&str], repositories: &[&str]) -> impl FnOnce(&mut Config) {
    let token = json!({
        "name": name, "sha256": sha256(name.as_bytes()), "scopes": scopes, "repositories": repositories,
    });
    let token: config::NamedToken = serde_json::from_value(token).unwrap();
    |config| config.auth.tokens.push(token)
}

#[tokio::test]
async fn a_write_without_a_token_is_told_to_bring_one() {
    let server = with_a_package().await;
    for call in writes(&server) {
        let answer = call.await;
        answer.refused(401, "`Authorization: Bearer <token>`");
        assert_eq!(answer.header("www-authenticate"), r#"Bearer realm="release-server""#);
    }
    assert_eq!(server.files(), ["app.zip"]);
}

#[tokio::test]
async fn a_write_with_a_wrong_token_is_refused() {
    let server = with_a_package().await;
    let basic = format!("Basic {}", BASE64_STANDARD.encode("user:wrong"));
    let almost = format!("Bearer {}", &TOKEN[1..]);
    for credentials in ["Bearer wrong", "token wrong", &basic, &almost, "Bearer \u{fc}"] {
        for call in writes(&server) {
            let answer = call.header("authorization", credentials).await;
            answer.refused(401, "");
            let challenge = answer.header("www-authenticate");
            assert_eq!(challenge, r#"Bearer realm="release-server", error="invalid_token""#, "{credentials}");
            assert!(!answer.text().contains("wrong"), "{}", answer.text());
        }
    }
    assert_eq!(server.files(), ["app.zip"]);
}

#[tokio::test]
async fn nothing_is_received_of_an_upload_that_may_not_be() {
    let server = Server::start();
    let never =
        axum::body::Body::from_stream(futures_util::stream::pending::<std::io::Result<axum::body::Bytes>>());
    server.put("app.zip", never).without_token().await.refused(401, "token");
    server.assert_stored_nothing();
}

#[tokio::test]
async fn a_token_is_taken_in_every_usual_form() {
    let server = Server::start();
    let basic = |user: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{TOKEN}")));
    for credentials in [
        format!("Bearer {TOKEN}"),
        format!("bearer {TOKEN}"),
        format!("token {TOKEN}"),
        basic("x"),
        basic(""),
    ] {
        let call = server.put("app.zip?overwrite=true", "abc").without_token();
        call.header("authorization", &credentials).await.ok();
    }
}

#[tokio::test]
async fn without_any_token_nobody_writes_and_everybody_reads() {
    let server = Server::configured(&[]);
    server.copy_in("app.zip", "abc");
    for call in writes(&server) {
        call.bearer("").await.refused(401, "");
    }
    for call in writes(&server) {
        call.bearer(TOKEN).await.refused(401, "`AUTH_TOKEN`");
    }
    assert_eq!(server.get("/assets/app.zip").await.ok().text(), "abc");
}

#[tokio::test]
async fn a_foreign_token_on_a_public_read_is_ignored() {
    let server = with_a_package().await;
    let plain = server.get("/latest").await.ok();
    let basic = format!("Basic {}", BASE64_STANDARD.encode("user:ghp_secret"));
    for credentials in ["Bearer ghp_secret", "token ghp_secret", &basic, "Nonsense", "Bearer \u{fc}"] {
        let answer = server.get("/latest").header("authorization", credentials).await.ok();
        assert_eq!(answer.text(), plain.text());
        for path in ["/releases/latest", "/packages", "/assets/app.zip", "/packages?format=html"] {
            server.get(path).header("authorization", credentials).await.ok();
        }
    }
}

#[tokio::test]
async fn private_reads_need_a_token() {
    let server = with_a_package().await.with(|config| config.auth.private_reads = true);
    for path in ["/latest", "/releases/latest", "/packages", "/packages?format=html", "/assets/app.zip"] {
        let answer = server.get(path).await;
        answer.refused(401, "token");
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{path}");
        assert!(!answer.text().contains("app.zip"), "{}", answer.text());
        assert_eq!(server.head(path).await.status, 401, "{path}");
        server.get(path).bearer("wrong").await.refused(401, "");
        server.get(path).bearer(TOKEN).await.ok();
    }
    // Whether it exists is nobody's business either.
    server.get("/assets/no.zip").await.refused(401, "token");
}

#[tokio::test]
async fn a_named_token_does_what_its_scopes_say() {
    let server = with_a_package().await.with(token("reader", &["read"], &[]));
    let server = server.with(token("writer", &["write"], &[])).with(token("deleter", &["delete"], &[]));
    let server = server.with(|config| config.auth.private_reads = true);
    let put = |name| server.put("new.zip?overwrite=true", "abc").bearer(name);
    let delete = |name| server.delete("/assets/new.zip").bearer(name);
    let get = |name| server.get("/latest").bearer(name);

    get("reader").await.ok();
    put("writer").await.ok();
    for (call, scope) in [
        (put("reader"), "write"),
        (delete("reader"), "delete"),
        (get("writer"), "read"),
        (delete("writer"), "delete"),
        (get("deleter"), "read"),
        (put("deleter"), "write"),
    ] {
        let answer = call.await;
        answer.refused(403, &format!("lacks the scope `{scope}`"));
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, r#"Bearer realm="release-server", error="insufficient_scope""#);
    }
    assert_eq!(server.files(), ["app.zip", "new.zip"]);
    assert_eq!(delete("deleter").await.status, 204);
    assert_eq!(server.files(), ["app.zip"]);
}

#[tokio::test]
async fn a_token_of_a_repository_does_not_reach_the_packages() {
    let server =
        with_a_package().await.with(token("widgets", &["read", "write", "delete"], &["acme/widgets"]));
    for call in writes(&server) {
        call.bearer("widgets").await.refused(403, "`acme/widgets`");
    }
    server.get("/latest").bearer("widgets").await.ok();
    let server = server.with(|config| config.auth.private_reads = true);
    server.get("/latest").bearer("widgets").await.refused(403, "`acme/widgets`");
}

/// A JWT for this audience that lives so many seconds from now.
fn jwt(audience: &str, seconds: i64, branch: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let claims = json!({
        "iss": "https://ci.example", "aud": audience, "sub": "build", "exp": now + seconds, "branch": branch,
    });
    encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

#[tokio::test]
async fn a_json_web_token_does_what_its_claims_are_granted() {
    let jwt_config = json!({
        "issuer": "https://ci.example", "audience": ["releases"], "algorithms": ["HS256"], "secret": SECRET,
        "rules": [{"claims": {"branch": "main"}, "scopes": ["write"]}],
    });
    let believed: config::Jwt = serde_json::from_value(jwt_config).unwrap();
    let server = with_a_package().await.with(|config| config.auth.jwt = Some(believed));
    server.put("new.zip", "abc").bearer(&jwt("releases", 60, "main")).await.ok();
    server.delete("/assets/app.zip").bearer(&jwt("releases", 60, "main")).await.refused(403, "`delete`");
    server.put("x.zip", "abc").bearer(&jwt("releases", 60, "evil")).await.refused(403, "");
    server.put("x.zip", "abc").bearer(&jwt("others", 60, "main")).await.refused(401, "");
    server.put("x.zip", "abc").bearer(&jwt("releases", -600, "main")).await.refused(401, "expired");
    let forged = format!("{}x", jwt("releases", 60, "main"));
    server.put("x.zip", "abc").bearer(&forged).await.refused(401, "");
    server.put("static.zip", "abc").await.ok();
    assert_eq!(server.files(), ["app.zip", "new.zip", "static.zip"]);
}

#[tokio::test]
async fn a_page_of_another_site_cannot_write() {
    let server = with_a_package().await;
    for site in ["cross-site", "same-site"] {
        for call in writes(&server) {
            call.bearer(TOKEN).header("sec-fetch-site", site).await.refused(403, "another site");
        }
        // Reading by a link from elsewhere is what links are for.
        server.get("/assets/app.zip").header("sec-fetch-site", site).await.ok();
    }
    for site in ["same-origin", "none"] {
        server.put("app.zip?overwrite=true", "abc").header("sec-fetch-site", site).await.ok();
    }
    assert_eq!(server.files(), ["app.zip"]);
}

#[tokio::test]
async fn no_page_of_another_origin_is_invited() {
    let server = with_a_package().await;
    let preflight = server.call(Method::OPTIONS, "/assets/app.zip").header("origin", "https://evil.example");
    let answer = preflight.header("access-control-request-method", "PUT").await;
    answer.refused(405, "`Allow`");
    assert_eq!(answer.header("access-control-allow-origin"), "");
}
