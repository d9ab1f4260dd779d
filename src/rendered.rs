//! Answers made from one listing, kept for as long as that listing holds.
//!
//! An answer is kept per base URL, because its links depend on it: what one caller's forged `Host` made is never
//! handed to another. Nor does forging many of them cost memory: there are at most [`MOST`] answers of a kind, and at
//! most [`MOST_BYTES`] of them unless a single one is larger.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use crate::digest::Digest;

/// The most answers of one kind kept of one listing.
const MOST: usize = 32;

/// What these may take together, in bytes: an answer about 10,000 packages takes megabytes.
const MOST_BYTES: usize = 32 << 20;

/// For what cannot be: hex digits always are a header's value.
const NO_ETAG: http::HeaderValue = http::HeaderValue::from_static("W/\"\"");

/// What the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Release,
    List,
    Page,
    /// The latest release of a repository.
    Latest,
    /// The newest releases of a repository.
    Feed,
}

/// A finished body, and a weak ETag made of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) body: Bytes,
    pub(crate) etag: http::HeaderValue,
}

impl Answer {
    /// Finishes a body.
    pub(crate) fn new(body: Bytes) -> Self {
        let mut etag = Digest::of(&body).to_string();
        etag.truncate(32);
        let etag = http::HeaderValue::try_from(format!("W/\"{etag}\"")).unwrap_or(NO_ETAG);
        Self { body, etag }
    }
}

/// The answers made so far.
#[derive(Debug, Default)]
pub(crate) struct Rendered(Mutex<HashMap<Kind, HashMap<Arc<str>, Answer>>>);

impl Rendered {
    /// The answer for a base URL; made by `render` the first time.
    pub(crate) fn get<E>(
        &self,
        kind: Kind,
        base_url: &str,
        render: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Answer, E> {
        if let Some(answer) = self.lock().get(&kind).and_then(|answers| answers.get(base_url)) {
            return Ok(answer.clone());
        }
        let answer = Answer::new(render()?);
        let mut answers = self.lock();
        let answers = answers.entry(kind).or_default();
        let bytes: usize = answers.values().map(|answer| answer.body.len()).sum();
        if answers.len() >= MOST || bytes + answer.body.len() > MOST_BYTES {
            answers.clear();
        }
        answers.insert(base_url.into(), answer.clone());
        Ok(answer)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Kind, HashMap<Arc<str>, Answer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn get(rendered: &Rendered, base_url: &str, body: &'static str) -> Answer {
        rendered
            .get(Kind::Release, base_url, || Ok::<_, Infallible>(Bytes::from_static(body.as_bytes())))
            .unwrap()
    }

    #[test]
    fn an_answer_is_made_once_for_each_base_url() {
        let rendered = Rendered::default();
        let first = get(&rendered, "http://a", "for a");
        assert_eq!(get(&rendered, "http://a", "not made"), first);
        assert_eq!(get(&rendered, "http://b", "for b").body, "for b");
        assert_ne!(get(&rendered, "http://b", "").etag, first.etag);
    }

    #[test]
    fn forged_hosts_cost_no_memory() {
        let rendered = Rendered::default();
        for index in 0..1000 {
            get(&rendered, &format!("http://host-{index}"), "x");
        }
        assert!(rendered.lock()[&Kind::Release].len() <= MOST);

        let large = Bytes::from(vec![0; MOST_BYTES / 4]);
        for index in 0..10 {
            let render = || Ok::<_, Infallible>(large.clone());
            rendered.get(Kind::List, &format!("http://host-{index}"), render).unwrap();
        }
        let kept: usize = rendered.lock()[&Kind::List].values().map(|answer| answer.body.len()).sum();
        assert!((1..=MOST_BYTES).contains(&kept), "{kept}");
    }
}
