//! A transport that keeps one strange key from hiding all others.
//!
//! `object_store` fails a whole listing over one key that it cannot read back unchanged: `a//b`, a console's
//! "folder" `dir/`, a control character. Such entries are dropped from the answer here, before it is parsed, and
//! logged once each; paging, retries and signing stay as they are.

use std::{
    borrow::Cow,
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use object_store::{
    ClientOptions, Result,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
        HttpService, ReqwestConnector,
    },
    path::Path,
};

/// The most keys remembered as logged; further ones are not logged any more.
const MOST_LOGGED: usize = 1000;

/// Connects, and drops from listings what cannot be a key. Clones share what was logged.
#[derive(Debug, Clone, Default)]
pub(super) struct Tolerant {
    logged: Arc<Mutex<HashSet<String>>>,
}

impl Tolerant {
    fn log(&self, entry: &str) {
        let key = OBJECT.key_of(entry).or_else(|| PREFIX.key_of(entry)).unwrap_or(Cow::Borrowed("?"));
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < MOST_LOGGED && logged.insert(key.clone().into_owned()) {
            let key = key.escape_default().to_string();
            tracing::warn!(
                event = "listing",
                key,
                "left out of listings: `{key}` cannot be the name of anything here"
            );
        }
    }
}

impl HttpConnector for Tolerant {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(TolerantClient { inner, tolerant: self.clone() }))
    }
}

#[derive(Debug)]
struct TolerantClient {
    inner: HttpClient,
    tolerant: Tolerant,
}

#[async_trait]
impl HttpService for TolerantClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_list = request.uri().query().is_some_and(|query| query.contains("list-type=2"));
        let response = self.inner.execute(request).await?;
        if !is_list || !response.status().is_success() {
            return Ok(response);
        }
        let (mut head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        let text =
            std::str::from_utf8(&body).map_err(|error| HttpError::new(HttpErrorKind::Decode, error))?;
        let (kept, dropped) = without_strange_keys(text);
        let kept = kept.map(Bytes::from);
        if !dropped.is_empty() {
            head.headers.remove(http::header::CONTENT_LENGTH);
            for entry in dropped {
                self.tolerant.log(entry);
            }
        }
        let body = Full::new(kept.unwrap_or(body)).map_err(|never| match never {});
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
    }
}

/// A `ListBucketResult` without the entries whose key would not read back, if there are any, and those.
///
/// Goes through it once: the pages of a large bucket are megabytes.
fn without_strange_keys(xml: &str) -> (Option<String>, Vec<&str>) {
    let (mut kept, mut copied, mut dropped) = (String::new(), 0, Vec::new());
    let mut at = 0;
    while let Some((start, element)) = next_entry(xml, at) {
        let Some(length) = xml[start..].find(element.close) else { break };
        at = start + length + element.close.len();
        let entry = &xml[start..at];
        if !element.key_of(entry).is_some_and(|key| element.reads_back(&key)) {
            kept.push_str(&xml[copied..start]);
            copied = at;
            dropped.push(entry);
        }
    }
    if dropped.is_empty() {
        return (None, dropped);
    }
    kept.push_str(&xml[copied..]);
    (Some(kept), dropped)
}

/// The two kinds of entries of a listing.
struct Element {
    open: &'static str,
    close: &'static str,
    key: (&'static str, &'static str),
    is_prefix: bool,
}

const OBJECT: Element =
    Element { open: "<Contents>", close: "</Contents>", key: ("<Key>", "</Key>"), is_prefix: false };
const PREFIX: Element = Element {
    open: "<CommonPrefixes>",
    close: "</CommonPrefixes>",
    key: ("<Prefix>", "</Prefix>"),
    is_prefix: true,
};

/// Where the next entry begins, and of which kind it is.
fn next_entry(xml: &str, from: usize) -> Option<(usize, &'static Element)> {
    xml[from..].match_indices("<Co").find_map(|(start, _)| {
        let start = from + start;
        let element =
            [&OBJECT, &PREFIX].into_iter().find(|element| xml[start..].starts_with(element.open))?;
        Some((start, element))
    })
}

impl Element {
    /// The key as it was before XML escaped it; `None` if it cannot be told.
    fn key_of<'xml>(&self, entry: &'xml str) -> Option<Cow<'xml, str>> {
        let text = entry.split_once(self.key.0)?.1.split_once(self.key.1)?.0;
        quick_xml::escape::unescape(text).ok()
    }

    fn reads_back(&self, key: &str) -> bool {
        let key = if self.is_prefix { key.strip_suffix('/').unwrap_or(key) } else { key };
        Path::parse(key).is_ok_and(|path| path.as_ref() == key && !key.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(keys: &[&str], prefixes: &[&str]) -> String {
        let objects = keys.iter().map(|key| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>"));
        let prefixes =
            prefixes.iter().map(|key| format!("<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>"));
        let entries: String = objects.chain(prefixes).collect();
        format!(
            "<ListBucketResult><Prefix></Prefix>{entries}<IsTruncated>false</IsTruncated></ListBucketResult>"
        )
    }

    #[test]
    fn only_strange_keys_are_dropped() {
        let strange = ["dir/", "a//b", "/lead", "a&#x1;b", "a&#x7f;b", "a\nb", ".", "a/../b", "&#bad;"];
        let fine = ["app.zip", "größe.zip", "a&amp;b", "a&lt;b", "100%.zip", "a#1", "repos/o/r", ".hidden"];
        let all: Vec<&str> = strange.iter().chain(&fine).copied().collect();
        let xml = listing(&all, &["repos/", "a//"]);
        let (kept, dropped) = without_strange_keys(&xml);
        assert_eq!((kept, dropped.len()), (Some(listing(&fine, &["repos/"])), strange.len() + 1));
    }

    #[test]
    fn a_listing_of_good_keys_stays_as_it_is() {
        let listing = listing(&["a", "b"], &["c/"]);
        assert_eq!(without_strange_keys(&listing), (None, vec![]));
        assert_eq!(without_strange_keys(""), (None, vec![]));
    }
}
