//! Answers made from one listing, kept for as long as that listing holds.
//!
//! An answer is kept per base URL, because its links depend on it: what one caller's forged `Host` made is never
//! handed to another. Nor does forging many of them cost memory: there are at most [`MOST`] answers of a kind, and at
//! most [`MOST_BYTES`] of them unless a single one is larger. Where there are hundreds of listings, all of them share
//! [`TOGETHER_BYTES`], and what is asked for most stays.

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};

use crate::{apart::apart, digest::Digest, error::Error};

/// The most answers of one kind kept of one listing.
const MOST: usize = 32;

/// What these may take together, in bytes: an answer about 10,000 packages takes megabytes.
const MOST_BYTES: usize = 32 << 20;

/// What the answers of listings that share their room may take, in bytes.
const TOGETHER_BYTES: u64 = 64 << 20;

/// The answers of listings that share their room. Those of one that is gone are pushed out by others in time.
static TOGETHER: LazyLock<Cache<Place, Answer, ByBytes>> =
    LazyLock::new(|| Cache::with_weighter(256, TOGETHER_BYTES, ByBytes));

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
        Self { etag: etag(Digest::of(&body)), body }
    }
}

/// A weak ETag of bytes that have this digest.
pub(crate) fn etag(digest: Digest) -> http::HeaderValue {
    let mut text = digest.to_string();
    text.truncate(32);
    http::HeaderValue::try_from(format!("W/\"{text}\"")).unwrap_or(NO_ETAG)
}

type Answers = HashMap<Kind, HashMap<Arc<str>, Answer>>;

/// Whose answer it is among those of all listings that share their room: the number of the listing, and the base URL.
type Place = (u64, Kind, Arc<str>);

#[derive(Clone)]
struct ByBytes;

impl Weighter<Place, Answer> for ByBytes {
    fn weight(&self, (_, _, base_url): &Place, answer: &Answer) -> u64 {
        (base_url.len() + answer.body.len()) as u64
    }
}

/// The answers made so far.
#[derive(Debug, Default)]
pub(crate) struct Rendered {
    answers: Mutex<Answers>,
    /// The number of a listing whose answers are in [`TOGETHER`] instead.
    number: Option<u64>,
    /// Held by whoever makes one; so many who need the same make it once.
    turn: tokio::sync::Mutex<()>,
}

impl Rendered {
    /// For a listing of which there are many.
    pub(crate) fn together() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { number: Some(NEXT.fetch_add(1, Relaxed)), ..Self::default() }
    }

    /// The answer for a base URL. The first time it is made, of so many things, by what `prepare` returns.
    pub(crate) async fn get<R, E>(
        &self,
        kind: Kind,
        base_url: &str,
        things: usize,
        prepare: impl FnOnce() -> R,
    ) -> Result<Answer, E>
    where
        R: FnOnce() -> Result<Bytes, E> + Send + 'static,
        E: From<Error> + Send + 'static,
    {
        if let Some(answer) = self.kept(kind, base_url) {
            return Ok(answer);
        }
        let _turn = self.turn.lock().await;
        if let Some(answer) = self.kept(kind, base_url) {
            return Ok(answer);
        }
        let render = prepare();
        let answer = apart(things, || render().map(Answer::new)).await??;
        self.keep(kind, base_url, &answer);
        Ok(answer)
    }

    fn kept(&self, kind: Kind, base_url: &str) -> Option<Answer> {
        if let Some(place) = self.place(kind, base_url) {
            return TOGETHER.get(&place);
        }
        self.lock().get(&kind)?.get(base_url).cloned()
    }

    fn keep(&self, kind: Kind, base_url: &str, answer: &Answer) {
        if let Some(place) = self.place(kind, base_url) {
            TOGETHER.insert(place, answer.clone());
            return;
        }
        let mut answers = self.lock();
        let answers = answers.entry(kind).or_default();
        let bytes: usize = answers.values().map(|answer| answer.body.len()).sum();
        if answers.len() >= MOST || bytes + answer.body.len() > MOST_BYTES {
            answers.clear();
        }
        answers.insert(base_url.into(), answer.clone());
    }

    fn place(&self, kind: Kind, base_url: &str) -> Option<Place> {
        self.number.map(|number| (number, kind, base_url.into()))
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use futures_util::future::join_all;

    use super::*;

    async fn get(rendered: &Rendered, base_url: &str, body: &'static str) -> Answer {
        let render = || Ok::<_, Error>(Bytes::from_static(body.as_bytes()));
        rendered.get(Kind::Release, base_url, 1, || render).await.unwrap()
    }

    #[tokio::test]
    async fn many_who_need_a_large_answer_make_it_once() {
        let (rendered, made) = (Rendered::default(), Arc::new(AtomicUsize::new(0)));
        let answers = join_all((0..50).map(|_| {
            rendered.get(Kind::List, "http://a", 10_000, || {
                let made = Arc::clone(&made);
                move || Ok::<_, Error>(Bytes::from(made.fetch_add(1, Relaxed).to_string()))
            })
        }));
        assert!(answers.await.into_iter().all(|answer| answer.unwrap().body == "0"));
        assert_eq!(made.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn an_answer_is_made_once_for_each_base_url() {
        let rendered = Rendered::default();
        let first = get(&rendered, "http://a", "for a").await;
        assert_eq!(get(&rendered, "http://a", "not made").await, first);
        assert_eq!(get(&rendered, "http://b", "for b").await.body, "for b");
        assert_ne!(get(&rendered, "http://b", "").await.etag, first.etag);
    }

    #[tokio::test]
    async fn forged_hosts_cost_no_memory() {
        let rendered = Rendered::default();
        for index in 0..1000 {
            get(&rendered, &format!("http://host-{index}"), "x").await;
        }
        assert!(rendered.lock()[&Kind::Release].len() <= MOST);

        let large = Bytes::from(vec![0; MOST_BYTES / 4]);
        for index in 0..10 {
            let large = large.clone();
            let render = || move || Ok::<_, Error>(large);
            rendered.get(Kind::List, &format!("http://host-{index}"), 1, render).await.unwrap();
        }
        let kept: usize = rendered.lock()[&Kind::List].values().map(|answer| answer.body.len()).sum();
        assert!((1..=MOST_BYTES).contains(&kept), "{kept}");
    }
}
