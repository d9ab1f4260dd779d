//! Small files that are asked for often, in memory: packages and assets, under one limit.
//!
//! - A file is kept from its second request on, so that somebody who fetches everything once drives nothing out.
//! - What is kept is the bytes at one ETag, or of a key that is written only once: never stale, whoever asks.
//! - Many who ask at once for what is not kept yet make one read.
//! - What is being read for it counts too: it never outgrows its limit.

use std::{fs::File, future::Future, ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use quick_cache::{Equivalent, OptionsBuilder, Weighter, sync::Cache};
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
    /// Those of a file on a local disk, which the kernel can send by itself.
    File {
        /// Opened to read.
        file: Arc<File>,
        /// Where they are in it.
        range: Range<u64>,
        /// For whoever wants to see them: one after the other.
        bytes: BoxStream<'static, Result<Bytes>>,
    },
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
            Self::Stream(bytes) | Self::File { bytes, .. } => bytes,
        }
    }
}

/// How many of the largest files a shard has room for at least, and how many shards there are at most.
const FILES_OF_A_SHARD: u64 = 2;
const MOST_SHARDS: usize = 16;

/// How many files are remembered as asked for once.
const REMEMBERED: usize = 1024;

/// The files that are kept.
pub(super) struct HotFiles {
    files: Cache<Key, Bytes, ByBytes>,
    /// What was asked for lately.
    once: Cache<Key, ()>,
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
    /// Keeps files within these limits; none with a limit of 0.
    pub(super) fn new(limits: &config::Cache) -> Self {
        let total = limits.total_bytes;
        let room = usize::try_from(total).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        // Each shard has a part of the room, and keeps nothing that is larger: on a machine of many processors, whose number
        // it goes by, the largest files would never be kept.
        let shards = total / limits.max_package_bytes.max(1) / FILES_OF_A_SHARD;
        let options = OptionsBuilder::new()
            .estimated_items_capacity(1024)
            .weight_capacity(total)
            .shards(usize::try_from(shards).unwrap_or(usize::MAX).clamp(1, MOST_SHARDS))
            .build()
            .expect("the capacities are set");
        Self {
            files: Cache::with_options(options, ByBytes, Default::default(), Default::default()),
            once: Cache::new(REMEMBERED),
            room: Semaphore::new(room),
            largest: if total == 0 { 0 } else { limits.max_package_bytes },
        }
    }

    /// What is kept, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.files.weight()
    }

    /// The bytes of `range` of a file of `size` bytes, of which `read` reads a range.
    pub(super) async fn read<R: Future<Output = Result<Content>>>(
        &self,
        (object, etag): (&str, &str),
        size: u64,
        range: Range<u64>,
        metrics: Metrics,
        read: impl Fn(Range<u64>) -> R,
    ) -> Result<Content> {
        if size == 0 || size > self.largest {
            return read(range).await;
        }
        let asked = Asked { object, etag };
        if let Some(bytes) = self.files.get(&asked) {
            metrics.cache(CacheLookup::Hit);
            return Ok(Content::part_of(&bytes, range));
        }
        metrics.cache(CacheLookup::Miss);
        if self.once.get(&asked).is_none() {
            self.once.insert(Key::from(&asked), ());
            return read(range).await;
        }
        let Ok(_room) = self.room.try_acquire_many(u32::try_from(size).unwrap_or(u32::MAX)) else {
            return read(range).await;
        };
        let whole = async {
            // Copied, for a block may be larger than what is in it.
            let blocks: Vec<Bytes> = read(0..size).await?.into_stream().try_collect().await?;
            Ok(Bytes::from(blocks.concat()))
        };
        let bytes: Result<Bytes> = self.files.get_or_insert_async(&Key::from(&asked), whole).await;
        let bytes = bytes?;
        Ok(Content::part_of(&bytes, range))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    const FILE: &[u8] = b"0123456789";

    /// Reads `range` of a file of its name; says how often the store was read by then.
    async fn read(hot: &HotFiles, reads: &AtomicUsize, name: &str, range: Range<u64>) -> (Bytes, usize) {
        let from_store = async |range: Range<u64>| {
            reads.fetch_add(1, Relaxed);
            Ok(Content::part_of(&Bytes::from_static(FILE), range))
        };
        let metrics = Metrics::default();
        let content = hot.read((name, "\"1\""), FILE.len() as u64, range, metrics, from_store).await.unwrap();
        let blocks: Vec<Bytes> = content.into_stream().try_collect().await.unwrap();
        (blocks.concat().into(), reads.load(Relaxed))
    }

    #[tokio::test]
    async fn what_is_asked_for_again_is_kept_and_what_is_fetched_once_drives_nothing_out() {
        let hot = HotFiles::new(&config::Cache { total_bytes: 100, max_package_bytes: 10 });
        let reads = AtomicUsize::new(0);
        assert_eq!(read(&hot, &reads, "a", 0..10).await, (FILE.into(), 1));
        assert_eq!(hot.bytes(), 0);
        assert_eq!(read(&hot, &reads, "a", 2..4).await, (Bytes::from("23"), 2));
        assert_eq!(hot.bytes(), 10);
        for number in 0..500 {
            read(&hot, &reads, &number.to_string(), 0..10).await;
        }
        assert_eq!(read(&hot, &reads, "a", 0..10).await, (FILE.into(), 502), "it is still kept");
        assert_eq!(hot.bytes(), 10);
    }

    #[tokio::test]
    async fn the_largest_files_are_kept_on_a_machine_of_any_size() {
        let hot = HotFiles::new(&config::Cache { total_bytes: 40, max_package_bytes: 10 });
        let reads = AtomicUsize::new(0);
        for name in ["a", "b", "c", "d"] {
            read(&hot, &reads, name, 0..10).await;
            read(&hot, &reads, name, 0..10).await;
            let (_, before) = read(&hot, &reads, name, 0..10).await;
            assert_eq!(read(&hot, &reads, name, 0..10).await.1, before, "{name}");
        }
    }

    #[tokio::test]
    async fn what_is_too_large_is_not_kept() {
        let hot = HotFiles::new(&config::Cache { total_bytes: 100, max_package_bytes: 9 });
        let reads = AtomicUsize::new(0);
        for number in 1..4 {
            assert_eq!(read(&hot, &reads, "a", 0..10).await, (FILE.into(), number));
        }
        assert_eq!(hot.bytes(), 0);
    }
}
