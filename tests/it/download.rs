//! Downloads: conditions, ranges, what is said of the bytes, and how they end.

use std::{fs::File, io};

use axum::http::Method;
use release_server::config::Downloads;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::server::{Answer, DEADLINE, Server, sha256};

const BYTES: &str = "0123456789";
const MIB: usize = 1024 * 1024;

/// When the package was last modified, a day before, a second after, and a day after.
const T: &str = "Wed, 21 Oct 2015 07:28:00 GMT";
const BEFORE: &str = "Tue, 20 Oct 2015 07:28:00 GMT";
const JUST_AFTER: &str = "Wed, 21 Oct 2015 07:28:01 GMT";
const AFTER: &str = "Thu, 22 Oct 2015 07:28:00 GMT";

type Conditions = &'static [(&'static str, &'static str)];

/// `ETAG` in a condition stands for the package's own. What is answered: a status, and the part of [`BYTES`].
const CASES: &[(Conditions, u16, &str)] = &[
    (&[], 200, BYTES),
    // RFC 9110, section 13.1.2: weak comparison.
    (&[("if-none-match", "ETAG")], 304, ""),
    (&[("if-none-match", "W/ETAG")], 304, ""),
    (&[("if-none-match", "\"other\"")], 200, BYTES),
    (&[("if-none-match", "\"other\", ETAG")], 304, ""),
    (&[("if-none-match", "*")], 304, ""),
    // Section 13.1.3: a date, and only if there is no ETag.
    (&[("if-modified-since", T)], 304, ""),
    (&[("if-modified-since", AFTER)], 304, ""),
    (&[("if-modified-since", BEFORE)], 200, BYTES),
    (&[("if-modified-since", "yesterday")], 200, BYTES),
    (&[("if-none-match", "\"other\""), ("if-modified-since", T)], 200, BYTES),
    (&[("if-none-match", "ETAG"), ("if-modified-since", BEFORE)], 304, ""),
    // Section 13.1.1: strong comparison.
    (&[("if-match", "ETAG")], 200, BYTES),
    (&[("if-match", "*")], 200, BYTES),
    (&[("if-match", "\"other\", ETAG")], 200, BYTES),
    (&[("if-match", "\"other\"")], 412, ""),
    (&[("if-match", "W/ETAG")], 412, ""),
    // Section 13.1.4.
    (&[("if-unmodified-since", T)], 200, BYTES),
    (&[("if-unmodified-since", AFTER)], 200, BYTES),
    (&[("if-unmodified-since", BEFORE)], 412, ""),
    (&[("if-match", "ETAG"), ("if-unmodified-since", BEFORE)], 200, BYTES),
    // Section 13.2.2: the order.
    (&[("if-match", "\"other\""), ("if-none-match", "ETAG")], 412, ""),
    (&[("if-match", "ETAG"), ("if-none-match", "ETAG")], 304, ""),
    // Section 14.1.2.
    (&[("range", "bytes=0-3")], 206, "0123"),
    (&[("range", "bytes=0-0")], 206, "0"),
    (&[("range", "bytes=9-9")], 206, "9"),
    (&[("range", "bytes=4-")], 206, "456789"),
    (&[("range", "bytes=-3")], 206, "789"),
    (&[("range", "bytes=0-99")], 206, BYTES),
    (&[("range", "bytes=-99")], 206, BYTES),
    (&[("range", "BYTES=0-3")], 206, "0123"),
    (&[("range", "bytes=10-")], 416, ""),
    (&[("range", "bytes=10-20")], 416, ""),
    (&[("range", "bytes=-0")], 416, ""),
    (&[("range", "bytes=99999999999999999999-")], 200, BYTES),
    (&[("range", "bytes=5-2")], 200, BYTES),
    (&[("range", "bytes=x-y")], 200, BYTES),
    (&[("range", "bytes=")], 200, BYTES),
    (&[("range", "items=0-3")], 200, BYTES),
    (&[("range", "bytes=0-1,4-5")], 200, BYTES),
    (&[("range", "bytes=0-1, 4-5, -1")], 200, BYTES),
    // Section 13.1.5: strong, which no date is.
    (&[("range", "bytes=0-3"), ("if-range", "ETAG")], 206, "0123"),
    (&[("range", "bytes=0-3"), ("if-range", "\"other\"")], 200, BYTES),
    (&[("range", "bytes=0-3"), ("if-range", "W/ETAG")], 200, BYTES),
    (&[("range", "bytes=0-3"), ("if-range", T)], 200, BYTES),
    (&[("range", "bytes=0-3"), ("if-range", BEFORE)], 200, BYTES),
    (&[("range", "bytes=0-3"), ("if-range", AFTER)], 200, BYTES),
    (&[("range", "bytes=0-3"), ("if-range", JUST_AFTER)], 200, BYTES),
    (&[("range", "bytes=0-3"), ("if-range", "yesterday")], 200, BYTES),
    (&[("range", "bytes=10-"), ("if-range", "\"other\"")], 200, BYTES),
    (&[("range", "bytes=10-"), ("if-range", "ETAG")], 416, ""),
    (&[("if-range", "ETAG")], 200, BYTES),
    // Conditions come before ranges.
    (&[("range", "bytes=0-3"), ("if-none-match", "ETAG")], 304, ""),
    (&[("range", "bytes=10-"), ("if-none-match", "ETAG")], 304, ""),
    (&[("range", "bytes=0-3"), ("if-match", "\"other\"")], 412, ""),
    (&[("range", "bytes=0-3"), ("if-match", "ETAG")], 206, "0123"),
    (&[("range", "bytes=0-3"), ("if-modified-since", T)], 304, ""),
];

async fn ask(server: &Server, method: Method, conditions: &[(&str, &str)], etag: &str) -> Answer {
    let mut call = server.call(method, "/assets/app.bin");
    for (name, value) in conditions {
        call = call.header(name, &value.replace("ETAG", etag));
    }
    call.await
}

/// A package with a digest, from the cache or straight from the disk.
fn store(cached: bool) -> Server {
    let server = Server::start();
    server.copy_in("app.bin", BYTES);
    server.copy_in("app.bin.sha256", sha256(BYTES.as_bytes()));
    if cached { server } else { server.with(|config| config.cache.total_bytes = 0) }
}

#[tokio::test]
async fn every_condition_and_range_is_answered_as_the_standard_says() {
    for cached in [true, false] {
        let server = store(cached);
        let etag = server.get("/assets/app.bin").await.ok().header("etag").to_owned();
        for (conditions, status, part) in CASES {
            let answer = ask(&server, Method::GET, conditions, &etag).await;
            assert_eq!(answer.status, *status, "{conditions:?}");
            match status {
                200 | 206 => {
                    assert_eq!(answer.text(), *part, "{conditions:?}");
                    assert_eq!(answer.header("content-length"), part.len().to_string(), "{conditions:?}");
                }
                304 => assert_eq!(answer.body.len(), 0, "{conditions:?}"),
                412 => answer.refused(412, "condition"),
                _ => answer.refused(416, "`Range`"),
            }
            let content_range = match status {
                206 => {
                    let start = BYTES.find(part).unwrap();
                    format!("bytes {start}-{}/10", start + part.len() - 1)
                }
                416 => "bytes */10".to_owned(),
                _ => String::new(),
            };
            assert_eq!(answer.header("content-range"), content_range, "{conditions:?}");
            if *status != 416 {
                assert_eq!(answer.header("etag"), etag, "{conditions:?}");
                assert_eq!(answer.header("last-modified"), T, "{conditions:?}");
                assert_eq!(answer.header("accept-ranges"), "bytes", "{conditions:?}");
            }
        }
    }
}

/// RFC 9110, section 14.2: a range is for GET alone; a server ignores it otherwise.
#[tokio::test]
async fn head_has_the_headers_of_get_and_no_range() {
    let server = store(true);
    let etag = server.get("/assets/app.bin").await.ok().header("etag").to_owned();
    for (conditions, ..) in CASES {
        let head = ask(&server, Method::HEAD, conditions, &etag).await;
        let rangeless: Vec<_> =
            conditions.iter().filter(|(name, _)| !name.contains("range")).copied().collect();
        let get = ask(&server, Method::GET, &rangeless, &etag).await;
        assert_eq!(head.status, get.status, "{conditions:?}");
        assert_eq!(head.body.len(), 0, "{conditions:?}");
        let without_id = |answer: &Answer| {
            let mut headers = answer.headers.clone();
            headers.remove("x-request-id");
            headers
        };
        assert_eq!(without_id(&head), without_id(&get), "{conditions:?}");
    }
}

#[tokio::test]
async fn an_answer_says_everything_about_the_bytes() {
    let answer = store(true).get("/assets/app.bin").header("accept-encoding", "gzip, br, zstd, *").await.ok();
    let mut lines: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| !["x-request-id", "etag"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    accept-ranges: bytes
    cache-control: no-cache
    content-disposition: attachment; filename="app.bin"
    content-length: 10
    content-security-policy: default-src 'none'; sandbox
    content-type: application/octet-stream
    last-modified: Wed, 21 Oct 2015 07:28:00 GMT
    repr-digest: sha-256=:hNiYd/DUBB77a/kaFvAkjy/Vc+avBcGflr7bn4gveII=:
    x-content-type-options: nosniff
    "#);
    let etag = answer.header("etag");
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
}

#[tokio::test]
async fn what_would_shrink_is_never_compressed() {
    let server = Server::start();
    let bytes = "a very long line\n".repeat(100_000);
    for name in ["app.txt", "app.json", "app.zip"] {
        server.put(name, bytes.clone()).await.ok();
        let call =
            server.get(&format!("/assets/{name}")).header("accept-encoding", "gzip, br, zstd, deflate");
        let answer = call.await.ok();
        assert_eq!(answer.header("content-encoding"), "");
        assert_eq!(answer.header("content-length"), bytes.len().to_string());
        assert!(answer.body == bytes, "{name}");
    }
}

#[tokio::test]
async fn the_type_is_that_of_the_file() {
    let server = Server::start();
    for (name, media_type) in [
        ("app.zip", "application/zip"),
        ("app", "application/octet-stream"),
        ("app.unheard-of", "application/octet-stream"),
        ("notes.txt", "text/plain"),
        ("app.json", "application/json"),
    ] {
        server.put(name, "abc").await.ok();
        let answer = server.get(&format!("/assets/{name}")).await.ok();
        assert_eq!(answer.header("content-type"), media_type);
        assert_eq!(answer.header("content-disposition"), format!("attachment; filename=\"{name}\""));
    }
}

#[tokio::test]
async fn an_uploaded_page_never_runs_as_ours() {
    let server = Server::start();
    for name in ["evil.html", "evil.svg", "evil.xhtml", "evil.js", "evil.pdf", "evil.xml"] {
        server.put(name, "<script>alert(1)</script>").await.ok();
        let whole = server.get(&format!("/assets/{name}")).await.ok();
        let part = server.get(&format!("/assets/{name}")).header("range", "bytes=0-").await;
        for answer in [whole, part] {
            assert!(answer.header("content-disposition").starts_with("attachment;"), "{name}");
            assert_eq!(answer.header("x-content-type-options"), "nosniff");
            assert_eq!(answer.header("content-security-policy"), "default-src 'none'; sandbox");
        }
    }
}

/// There is nowhere to redirect to.
#[tokio::test]
async fn a_directory_sends_the_bytes_itself_whatever_is_asked() {
    for downloads in [Downloads::Stream, Downloads::OnRequest, Downloads::Redirect] {
        let server = store(true).with(|config| config.downloads = downloads);
        for query in ["", "?redirect=true", "?redirect=false"] {
            assert_eq!(server.get(&format!("/assets/app.bin{query}")).await.ok().text(), BYTES);
        }
        server.get("/assets/app.bin?redirect=maybe").await.refused(422, "redirect");
    }
}

#[tokio::test]
async fn a_file_name_survives() {
    let server = Server::start();
    for (path, disposition) in [
        ("a%20b.zip", r#"attachment; filename="a b.zip""#),
        ("gr%C3%B6%C3%9Fe.zip", r#"attachment; filename="gr__e.zip"; filename*=UTF-8''gr%C3%B6%C3%9Fe.zip"#),
        ("a%22b.zip", r#"attachment; filename="a_b.zip"; filename*=UTF-8''a%22b.zip"#),
    ] {
        server.put(path, "abc").await.ok();
        let answer = server.get(&format!("/assets/{path}")).await.ok();
        assert_eq!(answer.header("content-disposition"), disposition);
    }
}

#[tokio::test]
async fn an_empty_file_copied_in_by_hand_is_an_empty_answer() {
    let server = Server::start();
    server.copy_in("empty.zip", "");
    for range in [None, Some("bytes=0-"), Some("bytes=-1"), Some("bytes=0-0,1-1")] {
        let mut call = server.get("/assets/empty.zip");
        if let Some(range) = range {
            call = call.header("range", range);
        }
        let answer = call.await;
        if answer.status == 416 && range.is_some() {
            assert_eq!(answer.header("content-range"), "bytes */0");
        } else {
            assert_eq!(answer.ok().header("content-length"), "0", "{range:?}");
        }
    }
}

#[tokio::test]
async fn a_replaced_package_is_never_mixed_with_the_old_one() {
    let server = Server::start();
    let old = server.put("app.bin", "x".repeat(6 * MIB)).await.ok();
    let old_etag = old.header("etag").to_owned();
    server.put("app.bin?overwrite=true", "y".repeat(6 * MIB)).await.ok();
    let resumed = server.get("/assets/app.bin").header("range", "bytes=100-").header("if-range", &old_etag);
    let resumed = resumed.await.ok();
    assert!(resumed.body.iter().all(|byte| *byte == b'y') && resumed.body.len() == 6 * MIB);
    assert_eq!(server.get("/assets/app.bin").header("if-match", &old_etag).await.status, 412);
    assert_eq!(server.get("/assets/app.bin").header("if-none-match", &old_etag).await.status, 200);
}

#[tokio::test]
async fn a_download_under_way_gets_the_bytes_it_began_with() {
    let server = Server::start();
    server.put("app.bin", "x".repeat(64 * MIB)).await.ok();
    let port = server.listen().await;
    let mut answer = reqwest::get(port.url("/assets/app.bin")).await.unwrap();
    assert!(answer.chunk().await.unwrap().is_some());
    server.put("app.bin?overwrite=true", "y").await.ok();
    let rest = timeout(DEADLINE, answer.bytes()).await.expect("the download hangs").unwrap();
    assert!(rest.iter().all(|byte| *byte == b'x'));
    assert_eq!(reqwest::get(port.url("/assets/app.bin")).await.unwrap().text().await.unwrap(), "y");
}

#[tokio::test]
async fn a_file_truncated_under_a_download_ends_the_connection() {
    let server = Server::start();
    server.copy_in("app.bin", "");
    let file = File::options().write(true).open(server.path("app.bin")).unwrap();
    file.set_len(256 * MIB as u64).unwrap();
    let port = server.listen().await;
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    stream.write_all(b"GET /assets/app.bin HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut head = vec![0; 512 * 1024];
    stream.read_exact(&mut head).await.unwrap();
    assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"));

    file.set_len(MIB as u64).unwrap();
    let end = timeout(DEADLINE, tokio::io::copy(&mut stream, &mut tokio::io::sink())).await;
    match end.expect("the connection hangs") {
        Ok(rest) => assert!(rest < 255 * MIB as u64, "{rest}"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}
