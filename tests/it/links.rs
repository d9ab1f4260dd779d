//! Links in answers: from the public address if there is one, else from whom may be believed.

use super::server::{Call, Server, text};

async fn link(call: Call<'_>) -> String {
    text(&call.await.ok().json()["assets"][0]["browser_download_url"])
}

async fn with_a_package() -> Server {
    let server = Server::start();
    server.put("a%20b%2B%C3%B6.zip", "abc").await.ok();
    server
}

#[tokio::test]
async fn a_link_is_escaped_and_leads_to_the_bytes() {
    let server = with_a_package().await;
    let link = link(server.get("/latest")).await;
    assert_eq!(link, "http://127.0.0.1:8000/assets/a%20b%2B%C3%B6.zip");
    let path = link.strip_prefix("http://127.0.0.1:8000").unwrap();
    assert_eq!(server.get(path).await.ok().text(), "abc");
}

#[tokio::test]
async fn the_public_url_wins_and_keeps_its_prefix() {
    let public = "https://releases.example.com/specs/".parse().unwrap();
    let server = with_a_package().await.with(|config| config.public_url = Some(public));
    let call =
        server.get("/latest").header("host", "evil.example").header("x-forwarded-host", "evil.example");
    let release = call.await.ok().json();
    assert_eq!(release["url"], "https://releases.example.com/specs/releases/latest");
    assert_eq!(
        release["assets"][0]["browser_download_url"],
        "https://releases.example.com/specs/assets/a%20b%2B%C3%B6.zip"
    );
    let uploaded = server.put("new.zip", "abc").await.ok().json();
    assert_eq!(uploaded["url"], "https://releases.example.com/specs/assets/new.zip");
}

#[tokio::test]
async fn a_trusted_proxy_says_where_the_client_came_in() {
    let server = with_a_package()
        .await
        .with(|config| config.server.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()]);
    let forwarded = |peer| {
        let call = server.get("/latest").from(peer).header("host", "inner:8000");
        call.header("x-forwarded-host", "pub.example").header("x-forwarded-proto", "https")
    };
    let prefixed = forwarded("10.1.2.3").header("x-forwarded-prefix", "/specs");
    assert_eq!(link(prefixed).await, "https://pub.example/specs/assets/a%20b%2B%C3%B6.zip");
    assert_eq!(link(forwarded("10.1.2.3")).await, "https://pub.example/assets/a%20b%2B%C3%B6.zip");
    assert_eq!(link(forwarded("192.0.2.1")).await, "http://inner:8000/assets/a%20b%2B%C3%B6.zip");

    let standard = "for=192.0.2.1;host=pub.example;proto=https";
    let call = |peer| server.get("/latest").from(peer).header("host", "inner").header("forwarded", standard);
    assert_eq!(link(call("10.1.2.3")).await, "https://pub.example/assets/a%20b%2B%C3%B6.zip");
    assert_eq!(link(call("192.0.2.1")).await, "http://inner/assets/a%20b%2B%C3%B6.zip");
}

#[tokio::test]
async fn a_forged_host_reaches_nobody_else() {
    let server = with_a_package().await;
    for path in ["/latest", "/packages", "/packages?format=html"] {
        let honest = server.get(path).header("host", "releases.test").await.ok();
        let forged = server.get(path).header("host", "evil.example").await.ok();
        assert!(forged.text().contains("http://evil.example/assets/"), "{path}");
        let again = server.get(path).header("host", "releases.test").await.ok();
        assert_eq!(again.text(), honest.text(), "{path}");
        assert!(!again.text().contains("evil"), "{path}");
        assert_eq!(again.header("etag"), honest.header("etag"), "{path}");
    }
}

#[tokio::test]
async fn a_host_that_is_none_is_not_repeated() {
    let server = with_a_package().await;
    for host in ["a b", "<script>", "x\"y", "x/y", "user@x", "x#y", "x?y"] {
        let release = server.get("/latest").header("host", host).await.ok();
        assert!(release.text().contains("http://127.0.0.1:8000/assets/"), "{host}: {}", release.text());
    }
}
