//! Uploads: whole or not at all, create-only unless asked otherwise, and never more than the limit.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    body::{Body, Bytes},
    http::Method,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::{StreamExt as _, future, stream};
use sha2::{Digest as _, Sha256};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::server::{Answer, DEADLINE, Form, Server, TOKEN, eventually, sha256};

const MIB: usize = 1024 * 1024;

/// `size` bytes in pieces, with no length declared.
fn chunked(size: usize) -> Body {
    const PIECE: usize = 4096;
    let pieces = (0..size).step_by(PIECE).map(move |start| Bytes::from(vec![b'x'; PIECE.min(size - start)]));
    Body::from_stream(stream::iter(pieces.map(Ok::<_, std::io::Error>)))
}

/// What a package's upload is answered with, however it was sent.
#[track_caller]
fn assert_published(answer: Answer, name: &str, bytes: &[u8]) {
    let answer = answer.ok();
    assert_eq!(answer.header("content-type"), "application/json");
    let package = answer.json();
    assert_eq!(package["name"], name);
    assert_eq!(package["size"], bytes.len());
    assert_eq!(package["sha256"], sha256(bytes));
    assert!(package["url"].as_str().unwrap().starts_with("http://127.0.0.1:8000/assets/"), "{package}");
    let created = package["created_at"].as_str().unwrap();
    let age = chrono::Utc::now() - created.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    assert!(created.ends_with('Z') && age.num_seconds().abs() < 60, "{created}");
}

#[tokio::test]
async fn a_form_and_a_raw_body_publish_alike() {
    let server = Server::start();
    assert_published(server.post("/upload", &Form::file("form.zip", b"abc")).await, "form.zip", b"abc");
    assert_published(server.put("raw.zip", "abc").await, "raw.zip", b"abc");
    assert_eq!(server.names().await, ["raw.zip", "form.zip"]);
    for name in ["form.zip", "raw.zip"] {
        let bytes = server.get(&format!("/assets/{name}")).await.ok();
        assert_eq!(bytes.text(), "abc");
        assert_eq!(std::fs::read(server.path(name)).unwrap(), b"abc");
    }
    assert_eq!(server.staged(), 0);
}

#[tokio::test]
async fn the_answer_is_what_the_list_says_and_its_etag_the_downloads() {
    let server = Server::start();
    let answer = server.put("app.zip", "abc").await.ok();
    assert_eq!(server.listed("app.zip").await, answer.json());
    assert_eq!(server.get("/assets/app.zip").await.ok().header("etag"), answer.header("etag"));
    assert_eq!(server.another().listed("app.zip").await, answer.json());
}

#[tokio::test]
async fn large_files_arrive_whole_either_way() {
    let server = Server::start();
    let bytes: Vec<u8> = (0..u8::MAX).cycle().take(5 * MIB + 7).collect();
    assert_published(server.post("/upload", &Form::file("form.zip", &bytes)).await, "form.zip", &bytes);
    assert_published(server.put("raw.zip", bytes.clone()).await, "raw.zip", &bytes);
    for name in ["form.zip", "raw.zip"] {
        assert!(server.get(&format!("/assets/{name}")).await.ok().body == bytes, "{name} has other bytes");
    }
    assert_eq!(server.staged(), 0);
}

#[tokio::test]
async fn a_form_may_carry_more_than_the_file() {
    let server = Server::start();
    let form = Form::default()
        .part("name=\"comment\"", b"before")
        .part("name=\"file\"; filename=\"app.zip\"", b"abc")
        .part("name=\"comment\"", b"after");
    assert_published(server.post("/upload", &form).await, "app.zip", b"abc");
}

#[tokio::test]
async fn a_package_cannot_be_replaced() {
    let server = Server::start();
    server.put("app.zip", "first").await.ok();
    for path in ["", "?overwrite=false"] {
        server.put(&format!("app.zip{path}"), "second").await.refused(409, "`app.zip` already exists");
        let form = server.post(&format!("/upload{path}"), &Form::file("app.zip", b"second")).await;
        form.refused(409, "`?overwrite=true`");
    }
    server.copy_in("by-hand.zip", "first");
    server.put("by-hand.zip", "second").await.refused(409, "`by-hand.zip` already exists");
    for name in ["app.zip", "by-hand.zip"] {
        assert_eq!(server.get(&format!("/assets/{name}")).await.ok().text(), "first");
    }
    assert_eq!(server.staged(), 0);
}

#[tokio::test]
async fn unless_it_is_asked_for() {
    let server = Server::start();
    let first = server.put("app.zip?overwrite=true", "first").await.ok();
    server.put("app.zip?overwrite=true", "second").await.ok();
    server.post("/upload?overwrite=true", &Form::file("app.zip", b"third")).await.ok();
    let now = server.get("/assets/app.zip").await.ok();
    assert_eq!(now.text(), "third");
    assert_ne!(now.header("etag"), first.header("etag"));
    assert_ne!(now.header("repr-digest"), "");
    let package = server.listed("app.zip").await;
    assert_eq!(package["sha256"], sha256(b"third"));
    assert!(package["created_at"].as_str() > first.json()["created_at"].as_str());
    assert_eq!(server.names().await, ["app.zip"]);
}

#[tokio::test]
async fn one_of_many_who_create_a_name_at_once_wins() {
    let server = Server::start();
    let racers = (0..32).map(|racer| {
        let call = server.put("app.zip", format!("racer {racer}"));
        async move { (racer, call.await) }
    });
    let answers = future::join_all(racers).await;
    assert_eq!(answers.iter().filter(|(_, answer)| answer.status == 200).count(), 1);
    for (racer, answer) in answers {
        if answer.status == 200 {
            let bytes = server.get("/assets/app.zip").await.ok();
            assert_eq!(bytes.text(), format!("racer {racer}"));
            assert_eq!(server.listed("app.zip").await["sha256"], sha256(&bytes.body));
        } else {
            answer.refused(409, "already exists");
        }
    }
    assert_eq!(server.markers().len(), 1);
    assert_eq!(server.staged(), 0);
}

#[tokio::test]
async fn what_is_no_upload_is_refused_and_leaves_nothing() {
    let server = Server::start();
    let file = "name=\"file\"; filename=\"app.zip\"";
    let form = Form::default;
    for (form, status, words) in [
        (Form::file("app.zip", b""), 400, "empty"),
        (Form::file("", b"abc"), 400, "empty"),
        (form(), 422, "no part `file`"),
        (form().part("name=\"other\"; filename=\"app.zip\"", b"abc"), 422, "no part `file`"),
        (form().part("name=\"File\"; filename=\"app.zip\"", b"abc"), 422, "no part `file`"),
        (form().part("name=\"file\"", b"abc"), 400, "no file name"),
        (form().part(file, b"abc").part(file, b"def"), 400, "several parts `file`"),
        (form().part(file, b"abc").part("name=\"file\"; filename=\"b.zip\"", b"def"), 400, "several parts"),
        ((0..20).fold(form(), |form, _| form.part("name=\"x\"", b"y")).part(file, b"abc"), 400, "too many"),
        (form().part("name=\"x\"", &vec![b'y'; 2 * MIB]).part(file, b"abc"), 400, "too large"),
    ] {
        server.post("/upload", &form).await.refused(status, words);
        server.assert_stored_nothing();
    }
    server.put("app.zip", "").await.refused(400, "empty");
    server.put("app.zip", chunked(0)).await.refused(400, "empty");
    server.assert_stored_nothing();
}

#[tokio::test]
async fn a_form_that_breaks_off_leaves_nothing() {
    let server = Server::start();
    let whole = Form::file("app.zip", &vec![b'x'; 3 * MIB]).broken_off();
    // In the head of the part, in its bytes in memory, in its bytes on the disk, after the file, in the last line.
    for end in [20, 50, 1000, 2 * MIB, whole.len() - 1, whole.len()] {
        let call = server.call(Method::POST, "/upload").bearer(TOKEN).header("content-type", Form::TYPE);
        call.body(whole[..end].to_vec()).await.refused(400, "broke off");
        server.assert_stored_nothing_soon().await;
    }
    let mut unclosed = whole;
    unclosed.extend_from_slice(b"--limit");
    let call = server.call(Method::POST, "/upload").bearer(TOKEN).header("content-type", Form::TYPE);
    call.body(unclosed).await.refused(400, "broke off");
    server.assert_stored_nothing_soon().await;
}

#[tokio::test]
async fn a_body_that_fails_leaves_nothing() {
    let server = Server::start();
    let start = vec![Ok(Bytes::from(vec![b'x'; 3 * MIB])), Err(std::io::Error::other("cut"))];
    let answer = server.put("app.zip", Body::from_stream(stream::iter(start))).await;
    answer.refused(400, "broke off");
    server.assert_stored_nothing_soon().await;
}

/// However fast it is sent.
#[tokio::test]
async fn a_form_is_read_no_faster_than_it_is_stored() {
    let server = Server::start();
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let head = stream::once(future::ready(Bytes::from(Form::file(".hidden", b"abc").broken_off())));
    let pieces =
        head.chain(stream::repeat(Bytes::from(vec![b'x'; 64 * 1024])).take(1000)).map(move |piece| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(piece)
        });
    let call = server.call(Method::POST, "/upload").bearer(TOKEN).header("content-type", Form::TYPE);
    call.body(Body::from_stream(pieces)).await.refused(400, "begins with a dot");
    let taken = taken.load(Ordering::Relaxed);
    assert!(taken < 10, "{taken} pieces of 64 KiB were in memory before the first was looked at");
}

#[tokio::test]
async fn what_says_it_is_too_large_is_refused_before_it_is_sent() {
    let server = Server::start().with(|config| config.max_upload_bytes = 10);
    let never = || Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    server.put("app.zip", never()).header("content-length", "11").await.refused(413, "10 bytes");
    // A form adds some of its own, so it is counted; far beyond that there is no doubt.
    let form = server.call(Method::POST, "/upload").bearer(TOKEN).header("content-type", Form::TYPE);
    form.header("content-length", "2000000").body(never()).await.refused(413, "10 bytes");
    server.assert_stored_nothing();
}

#[tokio::test]
async fn one_byte_too_many_is_one_too_many() {
    for limit in [10, 3 * MIB] {
        let server = Server::start().with(|config| config.max_upload_bytes = limit as u64);
        server.put("app.zip", chunked(limit + 1)).await.refused(413, "`max_upload_bytes`");
        server.assert_stored_nothing_soon().await;
        let form = Form::file("app.zip", &vec![b'x'; limit + 1]);
        server.post("/upload", &form).await.refused(413, &format!("{limit} bytes"));
        server.assert_stored_nothing_soon().await;

        assert_eq!(server.put("raw.zip", chunked(limit)).await.ok().json()["size"], limit);
        let form = Form::file("form.zip", &vec![b'x'; limit]);
        assert_eq!(server.post("/upload", &form).await.ok().json()["size"], limit);
    }
}

/// The three ways to say which digest the bytes must have.
fn ways(hex: &str, repr: &str) -> [(String, Option<(&'static str, String)>); 3] {
    [
        (format!("?sha256={hex}"), None),
        (String::new(), Some(("x-checksum-sha256", hex.to_owned()))),
        (String::new(), Some(("repr-digest", repr.to_owned()))),
    ]
}

fn repr_digest(bytes: &[u8]) -> String {
    format!("sha-256=:{}:", BASE64_STANDARD.encode(Sha256::digest(bytes)))
}

#[tokio::test]
async fn a_declared_digest_that_is_right_is_fine() {
    let server = Server::start();
    for (query, header) in ways(&sha256(b"abc"), &repr_digest(b"abc")) {
        let overwrite = if query.is_empty() { "?overwrite=true" } else { "&overwrite=true" };
        let raw = server.put(&format!("app.zip{query}{overwrite}"), "abc");
        let form = server.post(&format!("/upload{query}{overwrite}"), &Form::file("app.zip", b"abc"));
        for call in [raw, form] {
            let call = match &header {
                Some((name, value)) => call.header(name, value),
                None => call,
            };
            assert_published(call.await, "app.zip", b"abc");
        }
    }
    let upper = sha256(b"abc").to_uppercase();
    let all = server.put(&format!("all.zip?sha256={upper}"), "abc");
    all.header("x-checksum-sha256", &upper).header("repr-digest", &repr_digest(b"abc")).await.ok();
}

#[tokio::test]
async fn a_declared_digest_that_is_wrong_stores_nothing() {
    let server = Server::start();
    let large = "x".repeat(3 * MIB);
    for (query, header) in ways(&sha256(b"abd"), &repr_digest(b"abd")) {
        for bytes in ["abc", &large] {
            let raw = server.put(&format!("app.zip{query}"), bytes.to_owned());
            let form = server.post(&format!("/upload{query}"), &Form::file("app.zip", bytes.as_bytes()));
            for call in [raw, form] {
                let call = match &header {
                    Some((name, value)) => call.header(name, value),
                    None => call,
                };
                let answer = call.await;
                answer.refused(422, &sha256(b"abd"));
                answer.refused(422, &sha256(bytes.as_bytes()));
                server.assert_stored_nothing_soon().await;
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_digest_does_not_cost_the_package_that_is_there() {
    let server = Server::start();
    server.put("app.zip", "abc").await.ok();
    let wrong = server.put(&format!("app.zip?overwrite=true&sha256={}", sha256(b"x")), "abcd").await;
    wrong.refused(422, "nothing was stored");
    assert_eq!(server.get("/assets/app.zip").await.ok().text(), "abc");
    assert_eq!(server.listed("app.zip").await["sha256"], sha256(b"abc"));
}

#[tokio::test]
async fn a_declared_digest_that_is_none_is_refused() {
    let server = Server::start();
    for hex in ["", "abc", &"g".repeat(64), &"a".repeat(63), &"a".repeat(65)] {
        server.put(&format!("app.zip?sha256={hex}"), "abc").await.refused(400, "64 hex digits");
        let call = server.put("app.zip", "abc").header("x-checksum-sha256", hex);
        call.await.refused(400, "`x-checksum-sha256`");
    }
    for repr in ["sha-256=abc", "sha-256=:YWJj:", "sha-256", "="] {
        server.put("app.zip", "abc").header("repr-digest", repr).await.refused(400, "RFC 9530");
    }
    let call = server.put(&format!("app.zip?sha256={}", sha256(b"abc")), "abc");
    call.header("x-checksum-sha256", &sha256(b"abd")).await.refused(400, "differ");
    server.assert_stored_nothing();
}

#[tokio::test]
async fn a_part_of_a_file_is_no_file() {
    let server = Server::start();
    server
        .put("app.zip", "abc")
        .header("content-range", "bytes 0-2/10")
        .await
        .refused(400, "`Content-Range`");
    for encoding in ["gzip", "br", "identity, gzip"] {
        let call = server.put("app.zip", "abc").header("content-encoding", encoding);
        call.await.refused(400, "`Content-Encoding`");
        let form =
            server.post("/upload", &Form::file("app.zip", b"abc")).header("content-encoding", encoding);
        form.await.refused(400, "`Content-Encoding`");
    }
    server.assert_stored_nothing();
    server.put("app.zip", "abc").header("content-encoding", "identity").await.ok();
}

#[tokio::test]
async fn nothing_is_seen_of_an_upload_before_it_is_whole() {
    let server = Server::start();
    let (mut pipe, body) = tokio::io::duplex(64 * 1024);
    let upload = tokio::spawn({
        let server = server.another();
        let body = Body::from_stream(tokio_util::io::ReaderStream::new(body));
        async move { server.put("app.zip", body).await }
    });
    pipe.write_all(&vec![b'x'; 3 * MIB]).await.unwrap();
    eventually("the upload is under way", async || server.staged() == 1).await;
    assert_eq!(server.names().await, [""; 0]);
    server.get("/assets/app.zip").await.refused(404, "does not exist");
    assert_eq!(server.files(), [""; 0]);

    drop(pipe);
    upload.await.unwrap().ok();
    assert_eq!(server.get("/assets/app.zip").await.ok().body.len(), 3 * MIB);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_leaves_nothing() {
    let server = Server::start();
    let port = server.listen().await;
    let form = Form::file("app.zip", b"").body().len() + 10 * MIB;
    for head in [
        format!("PUT /assets/app.zip HTTP/1.1\r\nContent-Length: {}\r\n", 10 * MIB),
        "PUT /assets/app.zip HTTP/1.1\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        format!("POST /upload HTTP/1.1\r\nContent-Type: {}\r\nContent-Length: {form}\r\n", Form::TYPE),
    ] {
        let mut stream = TcpStream::connect(port.address).await.unwrap();
        let head = format!("{head}Host: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let bytes = vec![b'x'; 3 * MIB];
        if head.contains("chunked") {
            stream.write_all(format!("{:x}\r\n", bytes.len() + 1).as_bytes()).await.unwrap();
        } else if head.contains("POST") {
            let part =
                "--limit\r\nContent-Disposition: form-data; name=\"file\"; filename=\"app.zip\"\r\n\r\n";
            stream.write_all(part.as_bytes()).await.unwrap();
        }
        stream.write_all(&bytes).await.unwrap();
        eventually("the upload is under way", async || server.staged() == 1).await;
        drop(stream);
        server.assert_stored_nothing_soon().await;
        assert_eq!(server.names().await, [""; 0], "{head}");
    }
}

#[tokio::test]
async fn a_refused_upload_is_answered_though_it_is_still_being_sent() {
    let server = Server::start();
    let port = server.listen().await;
    let endless = stream::repeat(Bytes::from(vec![0; 64 * 1024])).map(Ok::<_, std::io::Error>);
    let request = reqwest::Client::new()
        .put(port.url("/assets/app.zip"))
        .header("expect", "100-continue")
        .body(reqwest::Body::wrap_stream(endless))
        .send();
    let answer = tokio::time::timeout(DEADLINE, request).await.expect("no answer in time");
    // An answer, or a connection that was closed on us: not an endless upload.
    if let Ok(answer) = answer {
        assert_eq!(answer.status(), 401);
    }
    server.assert_stored_nothing();
}

#[tokio::test]
async fn a_form_whose_fields_never_end_is_refused_before_it_fills_the_memory() {
    let server = Server::start();
    let endless = format!("--x\r\nContent-Disposition: form-data; name=\"file\"; {}", "y".repeat(8 << 20));
    let chunks =
        endless.into_bytes().chunks(64 * 1024).map(bytes::Bytes::copy_from_slice).collect::<Vec<_>>();
    let body = axum::body::Body::from_stream(futures_util::stream::iter(
        chunks.into_iter().map(Ok::<_, std::io::Error>),
    ));
    let call = server.call(Method::POST, "/upload").header("content-type", "multipart/form-data; boundary=x");
    call.bearer(TOKEN).body(body).await.refused(400, "the form is malformed");
}
