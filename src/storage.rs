//! Keys and bytes: the one place that knows where things lie.
//!
//! ```text
//! <root>/                                        STORAGE_PATH, or the prefix in s3://bucket/prefix
//!   NAME                                         a package, exactly as uploaded or copied in by hand
//!   repos/OWNER/REPO/releases/RID.json           a release's record, see `releases`; changed by compare-and-swap
//!   repos/OWNER/REPO/tags/TAG                    a lock on the tag, never removed; changed by compare-and-swap
//!   repos/OWNER/REPO/files/RID/TOKEN/NAME        the bytes of an asset, written once and never replaced
//!   .release-server/layout-1                     the layout's version; a higher one is refused
//!   .release-server/packages/MARKER              empty, see `marker`
//!   .release-server/swept                        empty; a sweep has looked at this store before
//!   .release-server/removing/HASH.TOKEN          in a bucket: a removal in progress, see `removal`
//!   .release-server/changes                      in a large bucket: who is writing, see `changes`; changed by compare-and-swap
//!   .release-server/probe/                       in a bucket: what a starting server tries
//!   .release-server/stage/                       in a directory: uploads under way, never listed
//!   .release-server/lock                         in a directory: held while something is replaced or removed
//! ```
//!
//! - OWNER and REPO are in lower case, TAG is percent-encoded whole.
//! - Readable keys: a plain listing of the store shows the packages, and a file put there by hand is served.
//! - Names that begin with a dot, and `repos`, are ours. No key of ours is ever the parent of another.
//! - An object appears whole, and only once its upload was [committed](Upload::commit); what is acknowledged is
//!   durable.
//! - Callers see packages, markers and bytes; which store is behind them shows in no signature but the constructor.

mod blocks;
mod bucket;
mod changes;
mod direct;
mod directory;
mod errands;
mod hot;
#[cfg(target_os = "linux")]
mod local;
mod measured;
mod memory;
pub mod probe;
mod removal;
pub mod repos;
mod resident;
mod tolerant;
mod watch;

use std::{fmt, future::Future, ops::Range, path::Path as FilePath, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use futures_util::{
    StreamExt, TryStreamExt, future,
    stream::{BoxStream, FuturesUnordered},
};
use object_store::{
    GetOptions, GetResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, path::Path, prefix::PrefixStore,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};

use crate::{
    config,
    digest::{Digest, Hasher},
    error::{Error, Result},
    marker::Marker,
    metrics::{Metrics, Operation},
    name::PackageName,
};
use bucket::Bucket;
pub use changes::{Announced, Changes, Look, Quiet};
use directory::{Directory, Survey};
pub use hot::Content;
use hot::HotFiles;
use measured::Measured;
use memory::Memory;
use removal::Removals;
pub(crate) use resident::is_in_memory;
pub use watch::Generation;

/// The folder of the server's own objects.
const CONTROL: &str = ".release-server";

/// The folder of the repositories.
const REPOS: &str = "repos";

/// The version of the layout above.
const LAYOUT: u32 = 1;

/// How much of an upload to a bucket is sent at once. All parts have this size: some stores demand it.
const PART_BYTES: usize = 8 * 1024 * 1024;

/// How many parts of one upload are on their way to a bucket at a time.
const PARTS_IN_FLIGHT: usize = 4;

/// How many writes of one upload a disk has at a time: with a second one it does not wait for us.
const WRITES_IN_FLIGHT: usize = 2;

/// Blocks of an upload under this size, in bytes, are copied together: the handle of a block, and the buffer that it
/// was read into, can take more memory than a few bytes in it, and on a disk each block is a write of its own.
const SMALL_BYTES: usize = 4 * 1024;

/// How much is copied together at most, in bytes: more makes no fewer writes worth counting.
const TAIL_BYTES: usize = 64 * 1024;

/// How long a link to the store is valid. A download that began in time goes on.
pub const LINK_LIFETIME: Duration = Duration::from_mins(5);

/// Where packages are kept.
#[derive(Clone)]
pub struct Storage {
    objects: Arc<dyn ObjectStore>,
    engine: Engine,
    /// In a bucket: who is writing.
    changes: Option<Changes>,
    /// What uploads may hold in memory, all together, in bytes.
    upload_memory: Arc<Semaphore>,
    hot: Arc<HotFiles>,
    metrics: Metrics,
}

/// What a kind of store does better than, or differently from, what `ObjectStore` offers.
#[derive(Clone)]
enum Engine {
    Directory(Directory),
    Bucket(Removals),
    Memory(Memory),
}

/// Marks the write that made an object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token(String);

impl Token {
    fn new() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }
}

/// What a listing of the store found; packages without a marker are not described by any.
#[derive(Debug, Clone)]
pub struct Found {
    /// The packages, in no order.
    pub objects: Vec<ObjectMeta>,
    /// The markers' names, in no order.
    pub markers: Arc<Vec<String>>,
    /// Entries left out: links, unreadable ones, names that cannot be keys.
    pub skipped: u64,
    /// Whether everything could be looked at: else a package may be there that is not among them.
    pub whole: bool,
    /// The state of the store that this shows, or an earlier one, where [`Storage::generation`] can tell it from others.
    pub generation: Option<Generation>,
}

impl Found {
    /// Whether both found the same, be it at different times.
    pub fn shows_the_same(&self, other: &Self) -> bool {
        let Self { objects, markers, skipped, whole, generation: _ } = other;
        (&self.objects, &self.markers, &self.skipped, &self.whole) == (objects, markers, skipped, whole)
    }
}

impl Storage {
    /// Opens a directory, makes what is missing in it, and checks that it can do what uploads need.
    pub fn directory(root: &FilePath, upload_memory_bytes: u64) -> anyhow::Result<Self> {
        check_layout(root)?;
        let directory = Directory::open(root).map_err(|error| {
            let advice = explain_start(root, error.kind());
            anyhow::Error::new(error).context(advice)
        })?;
        let version = root.join(layout().as_ref());
        if !version.is_file() {
            // It has no bytes; only its name is to be durable.
            std::fs::File::create(&version)?;
            std::fs::File::open(root.join(CONTROL))?.sync_all()?;
        }
        Ok(Self::new(Arc::new(directory.clone()), Engine::Directory(directory), upload_memory_bytes))
    }

    /// Opens a directory that is only read, which may be on a read-only disk: nothing is made, tried or cleared.
    pub fn directory_to_read(root: &FilePath) -> anyhow::Result<Self> {
        let directory = Directory::open_to_read(root)
            .with_context(|| format!("the storage directory `{}` cannot be read", root.display()))?;
        check_layout(root)?;
        Ok(Self::new(Arc::new(directory.clone()), Engine::Directory(directory), 0))
    }

    /// A store that is gone with the process.
    pub fn memory(upload_memory_bytes: u64) -> Self {
        let memory = Memory::default();
        Self::new(Arc::new(memory.clone()), Engine::Memory(memory), upload_memory_bytes)
    }

    /// Opens a bucket, reached as the `AWS_*` variables of `environment` say, and checks that it keeps conditions.
    ///
    /// A store that ignores them would let two uploads of one name both succeed: it is refused, unless
    /// `allow_last_writer_wins`.
    pub async fn bucket(
        name: &str,
        prefix: &str,
        environment: impl IntoIterator<Item = (String, String)>,
        public_endpoint: Option<&url::Url>,
        upload_memory_bytes: u64,
        allow_last_writer_wins: bool,
    ) -> anyhow::Result<Self> {
        let storage = Self::of_bucket(name, prefix, environment, public_endpoint, upload_memory_bytes)?;
        storage.probe_bucket(name, allow_last_writer_wins).await?;
        Ok(storage)
    }

    /// Opens a bucket that is only read: the key needs to be allowed no more.
    pub async fn bucket_to_read(
        name: &str,
        prefix: &str,
        environment: impl IntoIterator<Item = (String, String)>,
        public_endpoint: Option<&url::Url>,
    ) -> anyhow::Result<Self> {
        let storage = Self::of_bucket(name, prefix, environment, public_endpoint, 0)?;
        storage.look_at_bucket(name).await?;
        Ok(storage)
    }

    fn of_bucket(
        name: &str,
        prefix: &str,
        environment: impl IntoIterator<Item = (String, String)>,
        public_endpoint: Option<&url::Url>,
        upload_memory_bytes: u64,
    ) -> anyhow::Result<Self> {
        let bucket = Bucket::new(name, environment, public_endpoint)?;
        let prefix = Path::parse(prefix).with_context(|| format!("the prefix `{prefix}` is not usable"))?;
        let objects: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(bucket.clone(), prefix.clone()));
        let engine = Engine::Bucket(Removals::new(bucket, Arc::clone(&objects), prefix));
        Ok(Self::new(objects, engine, upload_memory_bytes))
    }

    fn new(objects: Arc<dyn ObjectStore>, engine: Engine, upload_memory_bytes: u64) -> Self {
        let permits = usize::try_from(upload_memory_bytes).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        // One part must always fit.
        let upload_memory = Arc::new(Semaphore::new(permits.max(PART_BYTES)));
        let hot = Arc::new(HotFiles::new(&config::Cache { total_bytes: 0, max_package_bytes: 0 }));
        let changes = matches!(engine, Engine::Bucket(_)).then(|| Changes::new(Arc::clone(&objects)));
        Self { objects, engine, changes, upload_memory, hot, metrics: Metrics::default() }
    }

    /// The same store, keeping small files in memory within these limits.
    #[must_use]
    pub fn keeping(self, limits: &config::Cache) -> Self {
        Self { hot: Arc::new(HotFiles::new(limits)), ..self }
    }

    /// The same store behind another one, which a test has go wrong.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn behind(self, other: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        Self { objects: other(self.objects), ..self }
    }

    /// What small files take in memory, in bytes.
    pub fn kept_bytes(&self) -> u64 {
        self.hot.bytes()
    }

    /// The same store, each operation of which is counted from here on; and so is all that is built upon it.
    #[must_use]
    pub fn measured(self, metrics: Metrics) -> Self {
        if !metrics.is_on() {
            return self;
        }
        let objects: Arc<dyn ObjectStore> = Arc::new(Measured::new(self.objects, metrics));
        let engine = match self.engine {
            Engine::Bucket(removals) => Engine::Bucket(removals.measured(Arc::clone(&objects), metrics)),
            engine => engine,
        };
        let changes = self.changes.map(|changes| changes.measured(Arc::clone(&objects)));
        Self { objects, engine, changes, metrics, ..self }
    }

    /// Where its operations are counted.
    pub fn metrics(&self) -> Metrics {
        self.metrics
    }

    /// Everything there is: two listings, no reads.
    ///
    /// Markers first: an object whose marker is not among them may still get one, but a marker whose object is
    /// not among them has none.
    pub async fn list(&self) -> Result<Found> {
        let folder = key(&["packages"]);
        if let Engine::Directory(directory) = &self.engine {
            let survey = self.metrics.operation(Operation::List, directory.survey(&folder)).await;
            let Survey { generation, names: markers, root } = survey.map_err(at("the packages"))?;
            let (skipped, whole) = (root.skipped + root.unreadable, root.is_whole());
            let (objects, markers) = (root.found.objects, Arc::new(markers));
            return Ok(Found { objects, markers, skipped, whole, generation });
        }
        let names = |meta: ObjectMeta| meta.location.filename().map(str::to_owned);
        let markers = self.objects.list(Some(&folder)).map_ok(names).try_filter_map(future::ok).try_collect();
        let markers = Arc::new(markers.await.map_err(at("the markers"))?);
        let found = self.objects.list_with_delimiter(None).await.map_err(at("the packages"))?;
        Ok(Found { objects: found.objects, markers, skipped: 0, whole: true, generation: None })
    }

    /// Whether this is a bucket, so that each look at it is a request.
    pub(crate) fn is_bucket(&self) -> bool {
        matches!(self.engine, Engine::Bucket(_))
    }

    /// The state that the packages of the store are in now, where that can be known without asking it.
    pub fn generation(&self) -> Option<Generation> {
        match &self.engine {
            Engine::Directory(directory) => directory.generation(),
            Engine::Bucket(_) | Engine::Memory(_) => None,
        }
    }

    /// In a bucket: who is writing, which tells whether a listing still holds.
    pub fn changes(&self) -> Option<&Changes> {
        self.changes.as_ref()
    }

    /// Says that several packages or markers are about to be written. Each write does so by itself, but while this is
    /// held they share what that costs.
    pub async fn announce(&self) -> Result<Announced> {
        let announced = announce(self.changes.as_ref()).await?;
        // It writes nothing itself.
        announced.certain();
        Ok(announced)
    }

    async fn announced<T>(&self, write: impl Future<Output = Result<T>>) -> Result<T> {
        let announced = announce(self.changes.as_ref()).await?;
        let result = write.await;
        announced.ended(&result);
        result
    }

    /// Size, ETag and time of a package.
    pub async fn find(&self, name: &PackageName) -> Result<ObjectMeta> {
        self.objects.head(&package(name)).await.map_err(at(name.as_str()))
    }

    /// A package's size, ETag and time, and the bytes that `options` ask for.
    pub async fn open(&self, name: &PackageName, options: GetOptions) -> Result<GetResult> {
        self.objects.get_opts(&package(name), options).await.map_err(at(name.as_str()))
    }

    /// The bytes of `range` of a package of `size` bytes at this ETag; `Error::Changed` if it has another by now.
    pub async fn bytes_of(
        &self,
        name: &PackageName,
        etag: &str,
        size: u64,
        range: Range<u64>,
    ) -> Result<Content> {
        let read = async |range: Range<u64>| {
            let options = GetOptions::new()
                .with_if_match(Some(etag.to_owned()))
                .with_range((range != (0..size)).then_some(range));
            Ok(content_of(self.open(name, options).await?, name.to_string()))
        };
        self.hot.read((name.as_str(), etag), size, range, self.metrics, read).await
    }

    /// A link by which anybody can fetch the package from the store itself for [`LINK_LIFETIME`], answered with these
    /// headers; `None` where a store has no such links.
    pub async fn link(
        &self,
        name: &PackageName,
        disposition: &str,
        content_type: &str,
    ) -> Result<Option<url::Url>> {
        let Engine::Bucket(removals) = &self.engine else { return Ok(None) };
        let location = removals.full(&package(name));
        let link = removals.bucket().link(&location, LINK_LIFETIME, disposition, content_type).await;
        link.map(Some).map_err(at(name.as_str()))
    }

    /// Begins an upload of `length` bytes, if that is known; nothing is visible before it is committed.
    pub fn upload(&self, name: &PackageName, overwrite: bool, length: Option<u64>) -> Upload {
        let mode = if overwrite { PutMode::Overwrite } else { PutMode::Create };
        let changes = self.changes.clone();
        Upload { changes, ..self.upload_at(package(name), mode, length) }
    }

    fn upload_at(&self, location: Path, mode: PutMode, length: Option<u64>) -> Upload {
        let (part_bytes, in_flight) = match &self.engine {
            Engine::Directory(_) => (direct::MOST_BYTES, WRITES_IN_FLIGHT),
            Engine::Bucket(_) | Engine::Memory(_) => (PART_BYTES, PARTS_IN_FLIGHT),
        };
        let length = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX);
        Upload {
            objects: Arc::clone(&self.objects),
            changes: None,
            location,
            mode,
            multipart: None,
            part: Part::default(),
            part_bytes,
            in_flight,
            reserve: u32::try_from(part_bytes.min(length).max(1)).unwrap_or(u32::MAX),
            memory: Arc::clone(&self.upload_memory),
            writing: FuturesUnordered::new(),
            hashing: None,
            size: 0,
        }
    }

    /// Makes sure that what was written, and has its marker, is still there: a removal that judged an older object
    /// of the name may have hit it. To be called before an upload is acknowledged.
    pub async fn confirm(&self, written: &Written) -> Result<()> {
        written.announced.in_time(&written.name)?;
        match &self.engine {
            Engine::Bucket(removals) => removals.confirm(written).await,
            // A removal there compares and acts under one lock.
            Engine::Directory(_) | Engine::Memory(_) => Ok(()),
        }
    }

    /// Makes it durable that there is such a package, or none. To be called before a caller is told so who may be repeating
    /// a request: what a process that died has left is visible, but need not be durable yet.
    pub async fn settle(&self, name: &PackageName) -> Result<()> {
        self.settle_at(&package(name)).await
    }

    async fn settle_at(&self, location: &Path) -> Result<()> {
        match &self.engine {
            Engine::Directory(directory) => directory.settle(location).await.map_err(at(location.as_ref())),
            // What such a store shows is durable.
            Engine::Bucket(_) | Engine::Memory(_) => Ok(()),
        }
    }

    /// Removes a package if it is still as it was judged: its ETag, and the newest marker of that.
    ///
    /// `Error::Changed` if it is not, `Error::NotFound` if there is none; nothing was removed then.
    pub async fn remove(&self, name: &PackageName, etag: &str, marker: Option<&Marker>) -> Result<()> {
        let location = package(name);
        let same = match &self.engine {
            Engine::Directory(directory) => {
                self.metrics.operation(Operation::Delete, directory.remove_if(&location, etag)).await
            }
            Engine::Memory(memory) => {
                self.metrics.operation(Operation::Delete, memory.remove_if(&location, etag)).await
            }
            Engine::Bucket(removals) => return self.announced(removals.remove(name, etag, marker)).await,
        };
        if same.map_err(at(name.as_str()))? { Ok(()) } else { Err(Error::Changed(name.to_string())) }
    }

    /// Writes a marker; the same one again is no error.
    pub async fn put_marker(&self, marker: &Marker) -> Result<()> {
        self.announced(self.create_empty(&key(&["packages", &marker.to_string()]))).await
    }

    /// Removes a marker; a missing one is no error.
    pub async fn remove_marker(&self, name: &str) -> Result<()> {
        let location = key(&["packages", name]);
        let remove = async {
            match self.objects.delete(&location).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                removed => removed.map_err(at("a marker")),
            }
        };
        self.announced(remove).await
    }

    /// Whether a sweep has looked at this store before.
    pub async fn was_swept(&self) -> Result<bool> {
        match self.objects.head(&key(&["swept"])).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(at("the record of sweeps")(error)),
        }
    }

    /// Remembers that a sweep has looked at this store.
    pub async fn set_swept(&self) -> Result<()> {
        self.create_empty(&key(&["swept"])).await
    }

    /// Removes what uploads and removals that ended without a word have left, where nobody holds it.
    pub async fn clear_unfinished(&self) -> Result<()> {
        match &self.engine {
            Engine::Directory(directory) => directory.clear_stage().await.map_err(at("unfinished uploads")),
            Engine::Bucket(removals) => removals.clear().await,
            Engine::Memory(_) => Ok(()),
        }
    }

    /// Waits for what uploads that were cut off still have to clear away, for a while.
    pub async fn finish(&self) {
        if let Engine::Bucket(removals) = &self.engine {
            removals.bucket().finish().await;
        }
        if let Some(changes) = &self.changes {
            changes.finish().await;
        }
    }

    /// Whether the store answers; costs one small request.
    pub async fn check(&self) -> Result<()> {
        match &self.engine {
            Engine::Directory(directory) => {
                self.metrics.operation(Operation::Head, directory.check(&layout())).await
            }
            Engine::Bucket(removals) => match self.objects.head(&layout()).await {
                // A bucket that is gone has no objects either; that takes a listing, which costs twelve times as much.
                Err(object_store::Error::NotFound { .. }) => {
                    self.metrics.operation(Operation::List, removals.bucket().check()).await
                }
                found => found.map(drop),
            },
            Engine::Memory(_) => Ok(()),
        }
        .map_err(at("the storage"))
    }

    /// Removes everything: a target of `fuzz/` begins each time with the same store.
    #[cfg(fuzzing)]
    pub async fn clear(&self) {
        let all = self.objects.list(None).map_ok(|meta| meta.location);
        self.objects.delete_stream(all.boxed()).for_each(|_| future::ready(())).await;
    }

    async fn create_empty(&self, location: &Path) -> Result<()> {
        let created = self.objects.put_opts(location, PutPayload::default(), PutMode::Create.into()).await;
        match created {
            Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            created => created.map(drop).map_err(at(location.as_ref())),
        }
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.engine {
            Engine::Bucket(removals) => removals.fmt(f),
            Engine::Directory(_) | Engine::Memory(_) => self.objects.fmt(f),
        }
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Storage({self})")
    }
}

/// What an upload has written.
#[derive(Debug)]
pub struct Written {
    /// Under which key: a package's is its name.
    pub name: String,
    /// Strong, with its quotes.
    pub etag: String,
    /// In a bucket: marks this write.
    token: Option<Token>,
    /// Until the marker is written as well.
    announced: Announced,
}

/// Bytes on their way to a package or an asset: counted and hashed as they pass, invisible until committed.
///
/// Dropped before that, it leaves nothing.
pub struct Upload {
    objects: Arc<dyn ObjectStore>,
    /// Where it is announced, if it is to be.
    changes: Option<Changes>,
    location: Path,
    mode: PutMode,
    /// Begun once the bytes are more than one part.
    multipart: Option<Box<dyn MultipartUpload>>,
    part: Part,
    part_bytes: usize,
    in_flight: usize,
    /// What a part takes of `memory` when it is begun, in bytes.
    reserve: u32,
    memory: Arc<Semaphore>,
    /// Parts on their way to the store.
    writing: FuturesUnordered<JoinHandle<Result<()>>>,
    /// The parts before, being hashed one after the other.
    hashing: Option<JoinHandle<Hasher>>,
    size: u64,
}

impl Upload {
    /// Takes the next bytes; waits while the store is slower than the client.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.part.room.is_none() {
                let room = Arc::clone(&self.memory).acquire_many_owned(self.reserve).await;
                self.part.room = Some(room.map_err(|error| Error::Internal(error.into()))?);
            }
            let fits = (self.part_bytes - self.part.size).min(bytes.len());
            self.part.push(bytes.split_to(fits));
            if self.part.size == self.part_bytes {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// The number of bytes taken.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digest of all bytes taken; none may follow.
    pub async fn digest(&mut self) -> Result<Digest> {
        if self.multipart.is_some() && self.part.size > 0 {
            self.flush().await?;
        }
        while let Some(written) = self.writing.next().await {
            written.map_err(|error| Error::Internal(error.into()))??;
        }
        let payload = self.part.payload();
        self.hash(payload).await?;
        let hasher = self.hashing.take().unwrap_or_else(|| tokio::task::spawn_blocking(Hasher::default));
        Ok(hasher.await.map_err(|error| Error::Internal(error.into()))?.finish())
    }

    /// Makes the bytes the object, whole and durable.
    ///
    /// `Error::AlreadyExists` if another has the name and replacing was not asked for.
    pub async fn commit(mut self) -> Result<Written> {
        let name = self.location.to_string();
        let announced = announce(self.changes.as_ref()).await?;
        let put = if let Some(multipart) = &mut self.multipart {
            multipart.complete().await
        } else {
            let options = PutOptions::from(self.mode.clone());
            self.objects.put_opts(&self.location, self.part.payload(), options).await
        };
        let put = put.map_err(at(&name));
        announced.ended(&put);
        let put = put?;
        let etag = put
            .e_tag
            .ok_or_else(|| Error::Internal(anyhow::anyhow!("the store gave no ETag for `{name}`")))?;
        Ok(Written { name, etag, token: put.extensions.get().cloned(), announced })
    }

    /// Hands the part at hand to the store, and to the hasher.
    async fn flush(&mut self) -> Result<()> {
        while self.writing.len() >= self.in_flight {
            if let Some(written) = self.writing.next().await {
                written.map_err(|error| Error::Internal(error.into()))??;
            }
        }
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            begun => {
                let mut options = PutMultipartOptions::default();
                options.extensions.insert(self.mode.clone());
                let multipart = self.objects.put_multipart_opts(&self.location, options).await;
                begun.insert(multipart.map_err(at(self.location.as_ref()))?)
            }
        };
        let mut part = std::mem::take(&mut self.part);
        let payload = part.payload();
        let written = multipart.put_part(payload.clone());
        let name = self.location.to_string();
        self.hash(payload).await?;
        self.writing.push(tokio::spawn(async move {
            let written = written.await.map_err(at(&name));
            // Not before: these bytes are in memory until now.
            drop(part);
            written
        }));
        Ok(())
    }

    /// Hashes a part after those before it, off the threads that serve requests.
    ///
    /// Waits for the part before: a hasher that falls behind would keep ever more parts in memory.
    async fn hash(&mut self, payload: PutPayload) -> Result<()> {
        let mut hasher = match self.hashing.take() {
            Some(before) => before.await.map_err(|error| Error::Internal(error.into()))?,
            None => Hasher::default(),
        };
        self.hashing = Some(tokio::task::spawn_blocking(move || {
            payload.iter().for_each(|block| hasher.update(block));
            hasher
        }));
        Ok(())
    }
}

#[derive(Default)]
struct Part {
    blocks: Vec<Bytes>,
    /// Small blocks that come after those, copied together.
    tail: BytesMut,
    size: usize,
    /// Its share of the memory that uploads may hold.
    room: Option<OwnedSemaphorePermit>,
}

impl Part {
    /// Takes the next block: a large one as it is, of a small one a copy.
    fn push(&mut self, mut block: Bytes) {
        if block.len() >= SMALL_BYTES {
            self.end_tail();
            self.size += block.len();
            self.blocks.push(block);
            return;
        }
        while !block.is_empty() {
            if self.tail.len() == self.tail.capacity() {
                self.end_tail();
                // As much again as there is: little for what stays small, and soon enough for what does not.
                self.tail = BytesMut::with_capacity(self.size.clamp(SMALL_BYTES, TAIL_BYTES));
            }
            let fits = (self.tail.capacity() - self.tail.len()).min(block.len());
            self.tail.extend_from_slice(&block.split_to(fits));
            self.size += fits;
        }
    }

    /// Makes the tail a block. The room that is left behind it is for the next one.
    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.blocks.push(self.tail.split().freeze());
        }
    }

    /// The bytes, shared rather than copied.
    fn payload(&mut self) -> PutPayload {
        self.end_tail();
        self.blocks.iter().cloned().collect()
    }
}

/// Says that something is about to be written, where anybody wants to know.
async fn announce(changes: Option<&Changes>) -> Result<Announced> {
    match changes {
        Some(changes) => changes.announce().await,
        None => Ok(Announced::nowhere()),
    }
}

/// The key that names the layout.
fn layout() -> Path {
    key(&[&format!("layout-{LAYOUT}")])
}

/// The version that a file of ours names; `None` for other files.
fn layout_version(file: &str) -> Option<u32> {
    file.strip_prefix("layout-")?.parse().ok()
}

/// The key of a package.
fn package(name: &PackageName) -> Path {
    key_of(name.as_str())
}

/// A key of the server's own.
fn key(parts: &[&str]) -> Path {
    key_of(&format!("{CONTROL}/{}", parts.join("/")))
}

/// The key that reads back as exactly `text`. Never `Path::from`: it would escape what users wrote.
///
/// Both callers give only what parses: a [`PackageName`] is one clean segment, our own keys are plain ASCII.
fn key_of(text: &str) -> Path {
    Path::parse(text).unwrap_or_default()
}

/// The bytes that were found, in the domain's words.
fn content_of(mut found: GetResult, what: String) -> Content {
    let file = found.extensions.remove::<resident::Opened>();
    let range = found.range.clone();
    let bytes = stream_of(found, what);
    match file {
        Some(resident::Opened(file)) => Content::File { file, range, bytes },
        None => Content::Stream(bytes),
    }
}

fn stream_of(found: GetResult, what: String) -> BoxStream<'static, Result<Bytes>> {
    let broken =
        move |error| Error::Unavailable(anyhow::Error::new(error).context(format!("reading `{what}`")));
    found.into_stream().map_err(broken).boxed()
}

/// Puts a store's error into the domain's words, naming what it was about.
fn at(what: &str) -> impl FnOnce(object_store::Error) -> Error {
    move |error| match error {
        object_store::Error::NotFound { .. } => Error::NotFound(what.to_owned()),
        object_store::Error::AlreadyExists { .. } => Error::AlreadyExists(what.to_owned()),
        object_store::Error::Precondition { .. } => Error::Changed(what.to_owned()),
        error => Error::Unavailable(anyhow::Error::new(error).context(format!("storage: `{what}`"))),
    }
}

/// What to do when a directory cannot be used.
fn explain_start(root: &FilePath, kind: std::io::ErrorKind) -> String {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let root = root.display();
    let advice = match kind {
        std::io::ErrorKind::PermissionDenied => {
            format!("give it to that user (`chown -R {user}:{group} {root}`), or set")
        }
        std::io::ErrorKind::ReadOnlyFilesystem => {
            "mount it to be written, or set `READ_ONLY=true` to serve what is there, or set".to_owned()
        }
        _ => "set".to_owned(),
    };
    format!(
        "the storage directory `{root}` cannot be used by this process (uid {user}, gid {group}): {advice} \
         `STORAGE_PATH` to a directory that it may write"
    )
}

/// Refuses a store that a newer server has laid out otherwise, or where something else is in the place of a folder of
/// ours: a link could lead anywhere, also out of the file system, in which alone files can be given a name at once.
fn check_layout(root: &FilePath) -> anyhow::Result<()> {
    let ours = ["", "/stage", "/packages"].map(|folder| format!("{CONTROL}{folder}"));
    for folder in ours.iter().map(String::as_str).chain([REPOS]) {
        let path = root.join(folder);
        if std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
            anyhow::bail!(
                "`{}` is a symbolic link, which is not followed: put a folder in its place, or mount one there",
                path.display()
            );
        }
    }
    let control = root.join(CONTROL);
    let entries = match std::fs::read_dir(&control) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        entries => Some(entries.with_context(|| format!("cannot read `{}`", control.display()))?),
    };
    let files =
        entries.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    if let Some(newer) =
        files.filter_map(|file| layout_version(&file)).filter(|&version| version > LAYOUT).max()
    {
        anyhow::bail!(
            "`{}` has layout {newer}, this server knows {LAYOUT}: run a newer release-server on it",
            root.display()
        );
    }
    let repos = root.join(REPOS);
    if repos.exists() && !repos.is_dir() {
        anyhow::bail!(
            "`{}` is a file, but this name is the repositories' folder: rename it",
            repos.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Single bytes, among which blocks of each of these sizes come again and again.
    fn scattered(sizes: &[usize]) -> Vec<Bytes> {
        let byte = |number: usize| u8::try_from(number % 251).unwrap();
        let mut blocks = Vec::new();
        for number in 0..100_000 {
            blocks.push(Bytes::from(vec![byte(number)]));
            if number % 5_000 == 4_999 {
                let large = |size: &usize| Bytes::from(vec![byte(number + size); *size]);
                blocks.extend(sizes.iter().map(large));
            }
        }
        blocks
    }

    #[test]
    fn small_blocks_are_copied_together_and_large_ones_are_not_copied() {
        for (sizes, blocks) in [
            // Each as large as all before it, up to the limit: 4, 4, 8, 16, 32, and then 64 KiB.
            (vec![], 6..=6),
            (vec![SMALL_BYTES - 1, 1_000], 8..=8),
            // Twenty times each, and before each first one what is small.
            (vec![SMALL_BYTES, 100_000], 60..=70),
            (vec![1, SMALL_BYTES - 1, SMALL_BYTES], 40..=50),
        ] {
            let pushed = scattered(&sizes);
            let mut part = Part::default();
            for block in &pushed {
                part.push(block.clone());
            }
            let payload = part.payload();
            let count = payload.iter().count();
            assert!(blocks.contains(&count), "{sizes:?}: {count}");
            let bytes = pushed.concat();
            assert_eq!((part.size, payload.content_length()), (bytes.len(), bytes.len()), "{sizes:?}");
            assert!(payload.iter().flatten().eq(&bytes), "{sizes:?}: other bytes, or in another order");
            for block in pushed.iter().filter(|block| block.len() >= SMALL_BYTES) {
                let same = |sent: &Bytes| sent.as_ptr() == block.as_ptr() && sent.len() == block.len();
                assert!(payload.iter().any(same), "{sizes:?}: a large block is copied");
            }
            assert!(part.payload().iter().eq(&payload), "{sizes:?}: the second time it is another");
        }
    }

    #[tokio::test]
    async fn an_upload_of_tiny_blocks_is_stored_as_it_was_sent() {
        let storage = Storage::memory(64 << 20);
        let name = PackageName::for_upload("app.zip").unwrap();
        // More than a part, the end of which is somewhere in a block; and less.
        for sizes in [&[7, SMALL_BYTES, 500_000][..], &[]] {
            let blocks = scattered(sizes);
            let bytes = blocks.concat();
            assert_eq!(bytes.len() > PART_BYTES, !sizes.is_empty());
            let mut upload = storage.upload(&name, true, None);
            for block in blocks {
                upload.write(block).await.unwrap();
            }
            assert_eq!(upload.digest().await.unwrap(), Digest::of(&bytes));
            upload.commit().await.unwrap();
            let stored = storage.open(&name, GetOptions::new()).await.unwrap().bytes().await.unwrap();
            assert!(stored == bytes, "{sizes:?}");
        }
    }
}
