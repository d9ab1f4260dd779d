//! What a client declares of its file, in a header field or the query: an upload that is accepted has every SHA-256
//! that was declared of it. The input: the query, and lines of header fields.

#![no_main]

use axum::body::Body;
use http::{HeaderMap, Request, Uri, header};
use libfuzzer_sys::{Corpus, fuzz_target};
use release_server::digest::Digest;
use release_server_fuzz::{TOKEN, fields, head, server};

const BODY: &[u8] = b"abc";
const NAMES: [&str; 6] =
    ["repr-digest", "content-digest", "x-checksum-sha256", "digest", "want-repr-digest", "content-type"];

fuzz_target!(|data: &[u8]| -> Corpus {
    let (lines, _) = head(data);
    let Some((query, lines)) = lines.split_first() else { return Corpus::Reject };
    let Some(headers) = fields(lines) else { return Corpus::Reject };
    if headers.keys().any(|name| !NAMES.contains(&name.as_str())) {
        return Corpus::Reject;
    }
    let target = [b"/assets/new?", *query].concat();
    let Ok(target) = Uri::try_from(target) else { return Corpus::Reject };
    if target.path() != "/assets/new" {
        return Corpus::Reject;
    }
    let mut request = Request::put(&target).body(Body::from(BODY)).expect("a request");
    *request.headers_mut() = headers.clone();
    request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {TOKEN}").parse().expect("a token"));
    let answer = server().ask(request);
    if !answer.status.is_success() {
        return Corpus::Keep;
    }
    let digest = Digest::of(BODY);
    assert_eq!(answer.json()["sha256"], digest.to_string());
    for value in lines_of(&headers, "x-checksum-sha256") {
        assert!(value.trim().eq_ignore_ascii_case(&digest.to_string()), "{value}");
    }
    let declared = lines_of(&headers, "repr-digest").join(", ");
    // A comma in a quoted parameter would need a real parser, which is what is tried here.
    if !declared.contains('"')
        && let Some(last) =
            declared.split(',').filter_map(|member| member.trim().strip_prefix("sha-256=")).next_back()
    {
        let bytes = last.split(';').next().unwrap_or_default();
        let ours = digest.to_repr_digest();
        assert_eq!(decoded(bytes), decoded(&ours["sha-256=".len()..]), "{declared}");
    }
    for (name, value) in url::form_urlencoded::parse(target.query().unwrap_or_default().as_bytes()) {
        if name == "sha256" {
            assert!(value.trim().eq_ignore_ascii_case(&digest.to_string()), "{value}");
        }
    }
    server().restore();
    Corpus::Keep
});

fn lines_of<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().expect("it was accepted")).collect()
}

/// The bytes of `:BASE64:`, with or without its padding.
fn decoded(text: &str) -> Option<Vec<u8>> {
    use base64::{
        Engine,
        alphabet::STANDARD,
        engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    };
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let text = text.trim().strip_prefix(':')?.strip_suffix(':')?;
    GeneralPurpose::new(&STANDARD, config).decode(text).ok()
}
