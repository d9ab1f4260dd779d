//! Conditions and ranges: what is answered is what RFC 9110 says, in a second and plainer reading of it. The input:
//! `GET` or `HEAD`, and lines of header fields, with `$E` for the `ETag` and `$M` for `Last-Modified`.

#![no_main]

use std::time::SystemTime;

use axum::body::Body;
use http::{HeaderMap, HeaderName, Method, Request, header};
use libfuzzer_sys::{Corpus, fuzz_target};
use release_server_fuzz::{Answer, PACKAGE, fields, filled, head, package_bytes, server};

fuzz_target!(|data: &[u8]| -> Corpus {
    let known = server().known();
    let data = filled(data, &known);
    let (lines, _) = head(&data);
    let Some((first, lines)) = lines.split_first() else { return Corpus::Reject };
    let method = match *first {
        b"GET" => Method::GET,
        b"HEAD" => Method::HEAD,
        _ => return Corpus::Reject,
    };
    let Some(headers) = fields(lines) else { return Corpus::Reject };
    let mut request = Request::builder()
        .method(&method)
        .uri(format!("/assets/{PACKAGE}"))
        .body(Body::empty())
        .expect("a request");
    *request.headers_mut() = headers.clone();
    let answer = server().ask(request);
    holds_together(&method, &answer);

    let file =
        File { etag: &known.etag, modified: httpdate::parse_http_date(&known.modified).expect("a date") };
    let expected = file.expected(&method, &headers);
    let said = match answer.status.as_u16() {
        200 => Expected::Whole,
        206 => Expected::Part,
        304 => Expected::NotModified,
        412 => Expected::Failed,
        416 => Expected::Unsatisfiable,
        status => panic!("{status} is no answer to {headers:?}"),
    };
    assert!(expected.is_empty() || expected.contains(&said), "{headers:?}: {said:?} instead of {expected:?}");
    if said == Expected::Part
        && let Some((start, end)) = file.only_part(&headers)
    {
        assert_eq!(answer.header("content-range"), format!("bytes {start}-{end}/1000"), "{headers:?}");
    }
    Corpus::Keep
});

/// The answer is about the bytes that are in it.
fn holds_together(method: &Method, answer: &Answer) {
    let bytes = package_bytes();
    let whole = match answer.status.as_u16() {
        200 => {
            assert!(answer.header("content-range").is_empty());
            &bytes[..]
        }
        206 => {
            let range = answer
                .header("content-range")
                .strip_prefix("bytes ")
                .and_then(|rest| rest.strip_suffix("/1000"));
            let (start, end) = range.and_then(|range| range.split_once('-')).expect("a range");
            let (start, end): (usize, usize) =
                (start.parse().expect("a number"), end.parse().expect("a number"));
            &bytes[start..=end]
        }
        416 => {
            assert_eq!(answer.header("content-range"), "bytes */1000");
            return;
        }
        _ => return,
    };
    assert_eq!(answer.header("content-length"), whole.len().to_string());
    if method == Method::GET {
        assert_eq!(answer.body, whole);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Whole,
    Part,
    NotModified,
    Failed,
    Unsatisfiable,
}

struct File<'a> {
    etag: &'a str,
    modified: SystemTime,
}

impl File<'_> {
    /// The answers that are right; none where a field is malformed, of which the RFC says nothing.
    fn expected(&self, method: &Method, headers: &HeaderMap) -> Vec<Expected> {
        // Section 13.2.2, step by step.
        if headers.contains_key(header::IF_MATCH) {
            match self.matches(headers, &header::IF_MATCH, true) {
                None => return Vec::new(),
                Some(false) => return vec![Expected::Failed],
                Some(true) => {}
            }
        } else if let Some(since) = date(headers, &header::IF_UNMODIFIED_SINCE) {
            match since {
                None => return Vec::new(),
                Some(since) if self.modified > since => return vec![Expected::Failed],
                Some(_) => {}
            }
        }
        if headers.contains_key(header::IF_NONE_MATCH) {
            match self.matches(headers, &header::IF_NONE_MATCH, false) {
                None => return Vec::new(),
                Some(true) => return vec![Expected::NotModified],
                Some(false) => {}
            }
        } else if let Some(since) = date(headers, &header::IF_MODIFIED_SINCE) {
            match since {
                None => return Vec::new(),
                Some(since) if self.modified <= since => return vec![Expected::NotModified],
                Some(_) => {}
            }
        }
        if method != Method::GET || !headers.contains_key(header::RANGE) {
            return vec![Expected::Whole];
        }
        let Some(range) = only(headers, &header::RANGE) else { return Vec::new() };
        if headers.contains_key(header::IF_RANGE) {
            match self.if_range(headers) {
                None => return Vec::new(),
                Some(false) => return vec![Expected::Whole],
                Some(true) => {}
            }
        }
        // A server may leave a range aside, and ours does with numbers that no file is as long as.
        if range.split(|char: char| !char.is_ascii_digit()).any(|number| number.len() > 18) {
            return Vec::new();
        }
        if !range.split('=').next().is_some_and(|unit| unit.eq_ignore_ascii_case("bytes")) {
            return vec![Expected::Whole];
        }
        match parts(range) {
            // "MAY ignore or reject", or as ours does, heed what is sound of it: the answer says which bytes it has.
            None => Vec::new(),
            Some((specs, satisfiable)) => match satisfiable[..] {
                [] => vec![Expected::Unsatisfiable],
                [_] if specs == 1 => vec![Expected::Part],
                [_] => vec![Expected::Part, Expected::Whole],
                // Several in one answer: not promised.
                _ => vec![Expected::Whole],
            },
        }
    }

    fn only_part(&self, headers: &HeaderMap) -> Option<(u64, u64)> {
        let (_, satisfiable) = parts(only(headers, &header::RANGE)?)?;
        match satisfiable[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Whether a list of entity tags has ours (sections 13.1.1 and 13.1.2); `None` if it is malformed.
    fn matches(&self, headers: &HeaderMap, name: &HeaderName, strong: bool) -> Option<bool> {
        let values: Option<Vec<&str>> =
            headers.get_all(name).iter().map(|value| value.to_str().ok()).collect();
        let text = values?.join(",");
        if text.trim_matches([' ', '\t']) == "*" {
            return Some(true);
        }
        let mut found = false;
        let mut any = false;
        let mut rest = text.as_str();
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                return any.then_some(found);
            }
            let weak = rest.starts_with("W/");
            let tag = rest.strip_prefix("W/").unwrap_or(rest);
            let end = tag.strip_prefix('"')?.find('"')? + 2;
            let (tag, after) = tag.split_at(end);
            if !tag[1..end - 1].bytes().all(|byte| byte == 0x21 || (0x23..0x7f).contains(&byte)) {
                return None;
            }
            any = true;
            found |= tag == self.etag && !(strong && weak);
            rest = after.trim_start_matches([' ', '\t']);
            if !rest.is_empty() && !rest.starts_with(',') {
                return None;
            }
        }
    }

    /// Section 13.1.5; `None` if it is malformed.
    fn if_range(&self, headers: &HeaderMap) -> Option<bool> {
        let text = only(headers, &header::IF_RANGE)?;
        // A date is no strong validator where a file may change twice in a second (section 8.8.2.2).
        Some(text == self.etag)
    }
}

/// A field that is there once, as text.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// A date: `None` if it is not there, `Some(None)` if it is malformed.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<Option<SystemTime>> {
    headers.contains_key(name).then(|| httpdate::parse_http_date(only(headers, name)?).ok())
}

/// How many ranges of 1,000 bytes are asked for, and first and last byte of those that can be had (section 14.1.2);
/// `None` if it is malformed.
fn parts(text: &str) -> Option<(usize, Vec<(u64, u64)>)> {
    let (unit, set) = text.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut specs = 0;
    let mut satisfiable = Vec::new();
    for spec in set.split(',').map(|spec| spec.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty()) {
        specs += 1;
        let (first, last) = spec.split_once('-')?;
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u64>().ok())?
        };
        if first.is_empty() {
            match number(last)? {
                0 => {}
                length => satisfiable.push((1000_u64.saturating_sub(length), 999)),
            }
            continue;
        }
        let first = number(first)?;
        let last = if last.is_empty() { u64::MAX } else { number(last)? };
        if last < first {
            return None;
        }
        if first < 1000 {
            satisfiable.push((first, last.min(999)));
        }
    }
    (specs > 0).then_some((specs, satisfiable))
}
