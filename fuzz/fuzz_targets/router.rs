//! Up to four requests, divided by a line `===`; each a line `METHOD TARGET`, lines of header fields, an empty one, the
//! body. Whatever is asked: no panic, no 5xx, and an answer that is one (`check`).

#![no_main]

use axum::body::Body;
use http::{Method, Request, Uri, header};
use libfuzzer_sys::{Corpus, fuzz_target};
use release_server_fuzz::{fields, filled, head, server};

fuzz_target!(|data: &[u8]| -> Corpus {
    let server = server();
    let data = filled(data, &server.known());
    let mut requests = Vec::new();
    for text in split(&data) {
        let Some(request) = request(text) else { return Corpus::Reject };
        requests.push(request);
    }
    let mut changed = false;
    for request in requests {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        changed |= server.ask(request).status.is_success() && !reads;
    }
    if changed {
        server.restore();
    }
    Corpus::Keep
});

fn split(data: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = data;
    while parts.len() < 3
        && let Some(at) = rest.windows(5).position(|window| window == b"\n===\n")
    {
        parts.push(&rest[..at]);
        rest = &rest[at + 5..];
    }
    parts.push(rest);
    parts
}

fn request(text: &[u8]) -> Option<Request<Body>> {
    let (lines, body) = head(text);
    let (first, lines) = lines.split_first()?;
    let space = first.iter().position(|byte| *byte == b' ')?;
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::from_bytes(&first[..space]).ok()?;
    *request.uri_mut() = Uri::try_from(&first[space + 1..]).ok()?;
    // What a client can ask of a server: no connection comes with the others.
    if !request.uri().path().starts_with('/') || request.method() == Method::CONNECT {
        return None;
    }
    *request.headers_mut() = fields(lines)?;
    // The connection makes sure that it is the length of the body.
    if let Some(length) = request.headers_mut().get_mut(header::CONTENT_LENGTH) {
        *length = body.len().into();
    }
    *request.body_mut() = Body::from(body.to_vec());
    Some(request)
}
