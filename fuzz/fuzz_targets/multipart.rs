//! The form of an upload: it is answered the same however its bytes arrive, and what is stored is what stands between
//! two boundaries. The input: the value of `Content-Type`, the sizes of the pieces as characters, and the body.

#![no_main]

use axum::body::{Body, Bytes};
use futures_util::stream;
use http::{HeaderValue, Method, Request, StatusCode, header};
use libfuzzer_sys::{Corpus, fuzz_target};
use release_server_fuzz::{TOKEN, server};

fuzz_target!(|data: &[u8]| -> Corpus {
    let lines: Vec<&[u8]> = data.splitn(3, |byte| *byte == b'\n').collect();
    let [content_type, sizes, body] = lines[..] else { return Corpus::Reject };
    let Ok(content_type) = HeaderValue::from_bytes(content_type) else { return Corpus::Reject };

    let whole = upload(&content_type, vec![body.to_vec()]);
    let mut pieces = Vec::new();
    let mut rest = body;
    for size in sizes.iter().cycle().take(4096) {
        let (piece, after) = rest.split_at(usize::from(*size).clamp(1, 64).min(rest.len()));
        pieces.push(piece.to_vec());
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    pieces.push(rest.to_vec());
    let pieces = upload(&content_type, pieces);
    assert_eq!(whole, pieces, "how the form arrives makes a difference");

    if let (StatusCode::OK, stored) = whole {
        let followed = [&stored[..], b"\r\n--"].concat();
        let preceded = [b"\r\n\r\n", &followed[..]].concat();
        assert!(
            body.windows(preceded.len()).any(|window| window == preceded),
            "{stored:?} is no part of the form"
        );
    }
    Corpus::Keep
});

/// The status, and the bytes that were stored.
fn upload(content_type: &HeaderValue, pieces: Vec<Vec<u8>>) -> (StatusCode, Vec<u8>) {
    let pieces = pieces.into_iter().map(|piece| Ok::<_, std::convert::Infallible>(Bytes::from(piece)));
    let request = Request::post("/upload")
        .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
        .header(header::CONTENT_TYPE, content_type)
        .body(Body::from_stream(stream::iter(pieces)))
        .expect("a request");
    let answer = server().ask(request);
    if !answer.status.is_success() {
        return (answer.status, Vec::new());
    }
    let package = answer.json();
    let link = package["url"]
        .as_str()
        .expect("a link")
        .strip_prefix("http://127.0.0.1:8000")
        .expect("of this server");
    let stored = server().send(Method::GET, link, "").ok().body;
    assert_eq!(package["size"], stored.len());
    server().restore();
    (answer.status, stored.to_vec())
}
