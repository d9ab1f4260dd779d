//! Small files that are asked for often, in memory: packages and assets, under one limit.
//!
//! - What is kept is the bytes at one ETag, or of a key that is written only once: never stale, whoever asks.
//! - Many who ask at once for what is not kept yet make one read.
//! - What is being read for it counts too: it never outgrows its limit.

use std::{future::Future, ops::Range};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use quick_cache::{Equivalent, Weighter, sync::Cache};
use tokio::sync::Semaphore;

use crate::{
    config,
    error::Result,
    metrics::{CacheLookup, Metrics},
};

/// The bytes of a file, or of a range of it.
pub enum Content {
    /// All at once: they are in memory.
    Bytes(Bytes),
    /// One after the other.
    Stream(BoxStream<'static, Result<Bytes>>),
}

impl Content {
    /// A range of bytes that are in memory.
    pub fn part_of(bytes: &Bytes, range: Range<u64>) -> Self {
        let bound = |bound| usize::try_from(bound).unwrap_or(usize::MAX).min(bytes.len());
        Self::Bytes(bytes.slice(bound(range.start)..bound(range.end)))
    }

    /// One after the other, even if it is one.
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        match self {
            Self::Bytes(bytes) => stream::iter([Ok(bytes)]).boxed(),
            Self::Stream(stream) => stream,
        }
    }
}

/// The files that are kept.
pub(super) struct HotFiles {
    files: Cache<Key, Bytes, ByBytes>,
    /// For what is being read, in bytes.
    room: Semaphore,
    /// The largest file that is kept, in bytes.
    largest: u64,
}

#[derive(Clone, Hash, PartialEq, Eq)]
struct Key {
    object: String,
    etag: String,
}

#[derive(Hash)]
struct Asked<'a> {
    object: &'a str,
    etag: &'a str,
}

impl Equivalent<Key> for Asked<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        (self.object, self.etag) == (&key.object, &key.etag)
    }
}

impl From<&Asked<'_>> for Key {
    fn from(asked: &Asked<'_>) -> Self {
        Self { object: asked.object.to_owned(), etag: asked.etag.to_owned() }
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Bytes> for ByBytes {
    fn weight(&self, _: &Key, bytes: &Bytes) -> u64 {
        bytes.len() as u64
    }
}

impl HotFiles {
    /// As the operator wants it; nothing is kept with a limit of 0.
    pub(super) fn new(limits: &config::Cache) -> Self {
        let total = limits.total_bytes;
        let room = usize::try_from(total).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            files: Cache::with_weighter(1024, total, ByBytes),
            room: Semaphore::new(room),
            largest: if total == 0 { 0 } else { limits.max_package_bytes },
        }
    }

    /// What is kept, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.files.weight()
    }

    /// The bytes of `range` of a file of `size` bytes, of which `read` reads a range.
    pub(super) async fn read<R: Future<Output = Result<BoxStream<'static, Result<Bytes>>>>>(
        &self,
        (object, etag): (&str, &str),
        size: u64,
        range: Range<u64>,
        metrics: Metrics,
        read: impl Fn(Range<u64>) -> R,
    ) -> Result<Content> {
        if size == 0 || size > self.largest {
            return read(range).await.map(Content::Stream);
        }
        let asked = Asked { object, etag };
        if let Some(bytes) = self.files.get(&asked) {
            metrics.cache(CacheLookup::Hit);
            return Ok(Content::part_of(&bytes, range));
        }
        metrics.cache(CacheLookup::Miss);
        let Ok(_room) = self.room.try_acquire_many(u32::try_from(size).unwrap_or(u32::MAX)) else {
            return read(range).await.map(Content::Stream);
        };
        let whole = async {
            let blocks: Vec<Bytes> = read(0..size).await?.try_collect().await?;
            Ok(match <[Bytes; 1]>::try_from(blocks) {
                Ok([only]) => only,
                Err(blocks) => blocks.concat().into(),
            })
        };
        let bytes: Result<Bytes> = self.files.get_or_insert_async(&Key::from(&asked), whole).await;
        let bytes = bytes?;
        Ok(Content::part_of(&bytes, range))
    }
}
