//! A directory as an object store.
//!
//! `object_store`'s own `LocalFileSystem` cannot replace conditionally, syncs no deletes, reads 8 KiB at a time,
//! hangs on a file truncated under a reader, and has an ETag that a `cp -p` can repeat. What is promised here:
//!
//! - An object appears whole or not at all: it is written under `.release-server/stage`, synced, then linked
//!   (create, fails if the name is taken) or renamed (replace) to its name.
//! - What is acknowledged is on the disk: the file, its name, and the names of the folders above it are synced before the
//!   answer, whoever made them and died on the way.
//! - The ETag is inode, size, modification and change time in nanoseconds. Any write, `touch`, `chmod`, link or
//!   restore makes another.
//! - Replacing and removing compare and act under one lock that all processes on the directory share.
//! - Only regular files are objects. Symbolic links are not followed: a link could lead out of the directory.
//! - Names that cannot be keys, and entries that cannot be read, are left out of listings and counted.
//!
//! System calls run on the blocking pool, so a hung network file system stalls no other request; but for those that wait for
//! nothing (`resident.rs`).

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, DirEntry, File, Metadata, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    panic::resume_unwind,
    path::{Path as FilePath, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, Extensions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart, path::Path,
};
use quick_cache::sync::Cache;
use rustix::fs::OFlags;
use tokio::task::yield_now;

use super::{
    CONTROL,
    blocks::{Block, Blocks},
    direct::{AlignedBlocks, Direct},
    errands::Errands,
    resident,
    watch::{Generation, Watch},
};
use crate::marker::LAST;

const STORE: &str = "Directory";

/// From this offset on, in bytes, an upload goes straight to the disk. What is smaller is likely to be asked for at once,
/// and is then in the page cache.
const DIRECT_FROM: u64 = 16 * 1024 * 1024;

/// The end of the year 9999: years have four digits in HTTP (RFC 9110, section 5.6.7) too.
const LAST_SECOND: i64 = LAST.timestamp();

/// Of how many folders it is remembered that their names are durable.
const ANCHORED: usize = 4096;

/// How many entries of a folder are worth a thread, and how many threads look at a folder at most.
const A_SHARE: usize = 2048;
const LOOKERS: usize = 8;

/// How often a folder is made that others remove.
const FOLDER_TRIES: usize = 16;

/// A directory as an object store; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Directory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    stage: PathBuf,
    lock: PathBuf,
    /// Whether nothing is written; then what the server makes for itself may be missing.
    to_read: bool,
    /// Holds back this process's own threads, so that at most one of them waits for the file lock.
    turn: Mutex<()>,
    errands: Errands,
    blocks: Blocks,
    aligned: AlignedBlocks,
    watch: Watch,
    /// Folders whose own names this process has synced. The others may have been made by one that died before it did,
    /// or by a thread that is about to.
    anchored: Cache<PathBuf, ()>,
}

/// What a look at the directory found.
pub(super) struct Survey {
    /// The state that this shows, or an earlier one.
    pub(super) generation: Option<Generation>,
    /// The names in a folder, without a look at each file.
    pub(super) names: Vec<String>,
    /// The entries of the root.
    pub(super) root: Entries,
}

/// The visible entries of a folder: regular files, and folders.
pub(super) struct Entries {
    pub(super) found: ListResult,
    /// How many were left out: links, pipes, devices, names that cannot be keys.
    pub(super) skipped: u64,
    /// How many the disk would not let us look at.
    pub(super) unreadable: u64,
}

impl Entries {
    /// Looks at each of many, on several threads: each look may wait for the disk, and takes a processor some microseconds.
    fn of(prefix: &Path, entries: &[DirEntry]) -> Self {
        let threads = entries.len().div_ceil(A_SHARE).clamp(1, LOOKERS);
        let mut shares = entries.chunks(entries.len().div_ceil(threads).max(1));
        let first = shares.next().unwrap_or_default();
        thread::scope(|scope| {
            let looks: Vec<_> = shares.map(|share| scope.spawn(|| Self::look(prefix, share))).collect();
            let mut all = Self::look(prefix, first);
            for look in looks {
                let Self { found, skipped, unreadable } =
                    look.join().unwrap_or_else(|panic| resume_unwind(panic));
                all.found.objects.extend(found.objects);
                all.found.common_prefixes.extend(found.common_prefixes);
                all.skipped += skipped;
                all.unreadable += unreadable;
            }
            all
        })
    }

    fn look(prefix: &Path, entries: &[DirEntry]) -> Self {
        let found = ListResult {
            common_prefixes: Vec::new(),
            objects: Vec::with_capacity(entries.len()),
            extensions: Default::default(),
        };
        let mut looked_at = Self { found, skipped: 0, unreadable: 0 };
        for entry in entries {
            let Some(location) = key(prefix, &entry.file_name()) else {
                looked_at.skipped += 1;
                continue;
            };
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => looked_at.found.objects.push(meta(location, &metadata)),
                Ok(metadata) if metadata.is_dir() => looked_at.found.common_prefixes.push(location),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {} // gone since
                Err(_) => looked_at.unreadable += 1,
                Ok(_) => looked_at.skipped += 1, // a link, a pipe, a device
            }
        }
        looked_at
    }

    /// Whether all of them could be looked at.
    pub(super) fn is_whole(&self) -> bool {
        self.unreadable == 0
    }
}

impl Directory {
    /// Opens the directory, making it and the server's own folders in it where missing.
    pub(super) fn open(root: &FilePath) -> io::Result<Self> {
        let control = root.join(CONTROL);
        for folder in ["stage", "packages"] {
            create_dir_synced(&control.join(folder), &|_| ())?;
        }
        let directory = Self::new(root, false);
        sync_above(root)?;
        directory.0.probe()?;
        directory.0.clear_stage();
        Ok(directory)
    }

    /// Opens a directory that is there, and leaves it as it is.
    pub(super) fn open_to_read(root: &FilePath) -> io::Result<Self> {
        fs::read_dir(root)?;
        Ok(Self::new(root, true))
    }

    fn new(root: &FilePath, to_read: bool) -> Self {
        let control = root.join(CONTROL);
        Self(Arc::new(Inner {
            root: root.to_owned(),
            stage: control.join("stage"),
            lock: control.join("lock"),
            to_read,
            turn: Mutex::new(()),
            errands: Errands::default(),
            aligned: AlignedBlocks::default(),
            blocks: Blocks::default(),
            watch: Watch::new(),
            anchored: Cache::new(ANCHORED),
        }))
    }

    /// Whether the disk answers, and what was opened is still there: `layout` is, unless it is only read.
    pub(super) async fn check(&self, layout: &Path) -> Result<()> {
        self.run(layout, |inner, layout| {
            if inner.to_read {
                fs::read_dir(&inner.root).map(drop)
            } else {
                fs::symlink_metadata(layout).map(drop)
            }
        })
        .await
    }

    /// Removes the object if its ETag is still `etag`; `false` if it is another.
    pub(super) async fn remove_if(&self, location: &Path, etag: &str) -> Result<bool> {
        let etag = etag.to_owned();
        self.run(location, move |inner, file| {
            let _lock = inner.lock()?;
            if etag_of(&regular(fs::symlink_metadata(&file)?)?) != etag {
                return Ok(false);
            }
            fs::remove_file(&file)?;
            sync_parent(&file)?;
            Ok(true)
        })
        .await
    }

    /// Removes the folders above a removed object that have become empty, up to `within`. What fails is left: a
    /// folder in use is not empty, and an upload makes the one it needs again.
    pub(super) async fn prune(&self, location: &Path, within: &Path) {
        let last = self.0.file(within);
        let pruned = self.run(location, move |inner, file| {
            let parents =
                file.ancestors().skip(1).take_while(|folder| folder.starts_with(&last) && *folder != last);
            for folder in parents {
                // Before: whoever makes it again shall sync it.
                inner.anchored.remove(folder);
                fs::remove_dir(folder)?;
            }
            Ok(())
        });
        // The first that is not empty ends it.
        let _ = pruned.await;
    }

    /// Looks at a folder of ours, and after that at the root.
    ///
    /// At one go: waking a thread costs as much as listing a few packages.
    pub(super) async fn survey(&self, folder: &Path) -> Result<Survey> {
        self.run(folder, |inner, folder| {
            // First: what changes after this makes another generation.
            let generation = inner.watch.begin(&[&inner.root, &folder]);
            let (names, root) = (names_in(&folder)?, inner.list(&Path::default())?);
            // What could not be looked at may be seen the next time, though nothing changes.
            Ok(Survey { generation: generation.filter(|_| root.is_whole()), names, root })
        })
        .await
    }

    /// The state that what was surveyed last is in now, where the kernel can tell.
    pub(super) fn generation(&self) -> Option<Generation> {
        self.0.watch.generation()
    }

    /// Makes durable what is known of a key: that something lies there, or nothing. It may be the work of a process that
    /// died, or is about to sync it.
    pub(super) async fn settle(&self, location: &Path) -> Result<()> {
        self.run(location, |inner, file| match inner.sync_name(&file) {
            // Of a folder that is not there, no name is.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            settled => settled,
        })
        .await
    }

    /// Removes staged files that no living process holds.
    pub(super) async fn clear_stage(&self) -> Result<()> {
        self.run(&Path::default(), |inner, _| {
            inner.clear_stage();
            Ok(())
        })
        .await
    }

    /// Opens the file behind a key, on a thread that may wait for the disk.
    async fn open_file(&self, location: &Path) -> Result<(File, Metadata)> {
        let path = self.0.file(location);
        let opening = self.0.errands.run(move || {
            // Not following links, and not waiting for the other end of a pipe.
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(flags.bits().cast_signed())
                .open(&path)
                .map_err(|error| hide_folder(&path, hide_link(error)))?;
            let metadata = regular(file.metadata()?)?;
            Ok((file, metadata))
        });
        let opened =
            opening.await.map_err(|error| Error::Generic { store: STORE, source: Box::new(error) })?;
        opened.map_err(|error| named(location, error))
    }

    /// Runs blocking work on the file behind a key.
    async fn run<T: Send + 'static>(
        &self,
        location: &Path,
        work: impl FnOnce(&Inner, PathBuf) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        let file = inner.file(location);
        let result = tokio::task::spawn_blocking(move || work(&inner, file)).await;
        result.map_err(|source| Error::JoinError { source })?.map_err(|error| named(location, error))
    }
}

impl Inner {
    /// A key never has `.` or `..` or empty parts: `object_store` promises that of every `Path`.
    fn file(&self, location: &Path) -> PathBuf {
        self.root.join(location.as_ref())
    }

    /// Waits for the lock that all processes on this directory share.
    fn lock(&self) -> io::Result<Lock<'_>> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // Opened each time: were the file replaced under us, a kept handle would lock the wrong one for ever.
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.lock)?;
        file.lock()?;
        Ok(Lock { _turn: turn, _file: file })
    }

    /// Tries what uploads will need, so that a file system that lacks it is refused at start.
    fn probe(&self) -> io::Result<()> {
        drop(self.lock()?);
        let stage = Stage::create(&self.stage)?;
        stage.file.sync_all()?;
        let link = self.stage.join(format!("{}.link", uuid::Uuid::new_v4()));
        let linked = fs::hard_link(&stage.path, &link);
        // A missing link is the very thing probed for.
        let _ = fs::remove_file(&link);
        linked.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("this file system makes no hard links, which uploads need: {error}"),
            )
        })
    }

    /// Removes staged files that no living process holds: its lock goes with the process.
    fn clear_stage(&self) {
        for entry in fs::read_dir(&self.stage).into_iter().flatten().flatten() {
            // What cannot be opened is not known to be free. The lock is kept until the file is gone, for an upload
            // that has just made it waits for the lock and then looks whether it is still there.
            let Ok(file) = File::open(entry.path()) else { continue };
            if file.try_lock().is_ok() && fs::remove_file(entry.path()).is_ok() {
                tracing::info!(event = "cleanup", file = %entry.file_name().display(), "removed an unfinished upload");
            }
        }
    }

    /// Gives a staged, synced file its name.
    fn publish(&self, stage: &Stage, target: &FilePath, mode: &PutMode) -> io::Result<PutResult> {
        match mode {
            PutMode::Create => {
                self.in_its_folder(target, || fs::hard_link(&stage.path, target))?;
                fs::remove_file(&stage.path)?;
            }
            PutMode::Overwrite => {
                let _lock = self.lock()?;
                // A rename onto a symbolic link replaces the link; onto a folder it fails.
                self.in_its_folder(target, || fs::rename(&stage.path, target))?;
            }
            PutMode::Update(expected) => {
                let _lock = self.lock()?;
                let found = fs::symlink_metadata(target).and_then(regular).map(|metadata| etag_of(&metadata));
                if found.ok() != expected.e_tag {
                    return Err(io::Error::other(Changed));
                }
                fs::rename(&stage.path, target)?;
            }
        }
        // After the stage name is gone: its removal moves the change time.
        let etag = etag_of(&stage.file.metadata()?);
        self.sync_name(target)?;
        Ok(PutResult { e_tag: Some(etag), version: None, extensions: Default::default() })
    }

    /// Makes the name of a file durable, and those of the folders above it.
    fn sync_name(&self, file: &FilePath) -> io::Result<()> {
        sync_parent(file)?;
        for folder in file.ancestors().skip(1).take_while(|folder| *folder != self.root) {
            if self.anchored.get(folder).is_none() {
                sync_parent(folder)?;
                self.anchored.insert(folder.to_owned(), ());
            }
        }
        Ok(())
    }

    /// Gives a file its name, in a folder that is made if it is missing.
    ///
    /// More than once: somebody may [prune](Directory::prune) it just then.
    fn in_its_folder(&self, file: &FilePath, give: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let Some(folder) = file.parent() else { return give() };
        let mut given = give();
        for _ in 0..FOLDER_TRIES {
            if !matches!(&given, Err(error) if error.kind() == io::ErrorKind::NotFound) {
                break;
            }
            let made = create_dir_synced(folder, &|made| self.anchored.insert(made.to_owned(), ()));
            given = made.and_then(|()| give());
        }
        given
    }

    fn put(&self, target: &FilePath, payload: &PutPayload, mode: &PutMode) -> io::Result<PutResult> {
        let stage = Stage::create(&self.stage)?;
        stage.write_all_at(payload, 0, &self.aligned)?;
        stage.seal()?;
        self.publish(&stage, target, mode)
    }

    /// What lies in a folder.
    fn list(&self, prefix: &Path) -> io::Result<Entries> {
        let entries: Vec<DirEntry> = match fs::read_dir(self.file(prefix)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            // An error in the middle is one: what follows is unknown, so the listing would not be whole.
            entries => entries?.collect::<io::Result<_>>()?,
        };
        Ok(Entries::of(prefix, &entries))
    }

    fn list_below(&self, prefix: &Path) -> io::Result<Vec<ObjectMeta>> {
        let mut objects = Vec::new();
        let mut folders = vec![prefix.clone()];
        while let Some(folder) = folders.pop() {
            let found = self.list(&folder)?.found;
            objects.extend(found.objects);
            folders.extend(found.common_prefixes);
        }
        Ok(objects)
    }
}

#[async_trait]
impl ObjectStore for Directory {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.run(location, move |inner, file| inner.put(&file, &payload, &opts.mode)).await
    }

    /// The mode of the completion is a [`PutMode`] in `opts.extensions`; [`PutMode::Overwrite`] without one.
    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let stage = self.run(location, |inner, _| Stage::create(&inner.stage)).await?;
        Ok(Box::new(StagedUpload {
            directory: self.clone(),
            location: location.clone(),
            mode: opts.extensions.get::<PutMode>().cloned().unwrap_or_default(),
            stage: Some(Arc::new(stage)),
            offset: 0,
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let resident = resident::open(&self.0.root, location.as_ref());
        let local = resident.is_some();
        let (file, metadata) = match resident {
            Some(opened) => opened,
            None => self.open_file(location).await?,
        };
        let file = Arc::new(file);
        let meta = meta(location.clone(), &metadata);
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            None => 0..meta.size,
            Some(range) => range
                .as_range(meta.size)
                .map_err(|error| Error::Generic { store: STORE, source: Box::new(error) })?,
        };
        let mut extensions = Extensions::new();
        let blocks = if options.head {
            stream::empty().boxed()
        } else {
            if local {
                extensions.insert(resident::Opened(Arc::clone(&file)));
            }
            blocks(file, range.clone(), location.clone(), self.0.blocks.clone())
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(blocks),
            meta,
            range,
            attributes: Default::default(),
            extensions,
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let directory = self.clone();
        locations
            .and_then(move |location| {
                let directory = directory.clone();
                async move {
                    directory
                        .run(&location, |_, file| {
                            fs::remove_file(&file)?;
                            sync_parent(&file)
                        })
                        .await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let directory = self.clone();
        let prefix = prefix.cloned().unwrap_or_default();
        stream::once(async move {
            let folder = prefix.clone();
            let objects = directory.run(&prefix, move |inner, _| inner.list_below(&folder)).await?;
            Ok::<_, Error>(stream::iter(objects.into_iter().map(Ok)))
        })
        .try_flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let folder = prefix.cloned().unwrap_or_default();
        self.run(&folder.clone(), move |inner, _| Ok(inner.list(&folder)?.found)).await
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: STORE.into() })
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.root.display())
    }
}

fn names_in(folder: &FilePath) -> io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        // An error in the middle is one: what follows is unknown.
        Ok(entries) => {
            let names = entries
                .filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose());
            names.collect()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Held until dropped: one of the threads of one of the processes on the directory.
struct Lock<'a> {
    _turn: std::sync::MutexGuard<'a, ()>,
    _file: File,
}

/// A file being written, under a name that no listing shows. Gone when dropped, unless it was published.
#[derive(Debug)]
struct Stage {
    path: PathBuf,
    file: File,
    /// Opened once it is needed; `None` inside where the file system has no such thing.
    direct: OnceLock<Option<Direct>>,
}

impl Stage {
    /// Makes a staged file and holds it by a lock, so that no starting process takes it for a leftover.
    fn create(folder: &FilePath) -> io::Result<Self> {
        loop {
            let path = folder.join(uuid::Uuid::new_v4().simple().to_string());
            let file = match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    create_dir_synced(folder, &|_| ())?;
                    continue;
                }
                file => file?,
            };
            file.lock()?;
            // Between the two lines above another process may have cleared it away.
            if file.metadata()?.nlink() > 0 {
                return Ok(Self { path, file, direct: OnceLock::new() });
            }
        }
    }

    fn write_all_at(&self, data: &PutPayload, mut offset: u64, memory: &AlignedBlocks) -> io::Result<()> {
        if offset >= DIRECT_FROM
            && let Some(direct) = self.direct.get_or_init(|| Direct::open(&self.path, memory))
            && direct.write_all_at(data, offset)?
        {
            return Ok(());
        }
        for block in data {
            self.file.write_all_at(block, offset)?;
            offset += block.len() as u64;
        }
        Ok(())
    }

    /// Makes the bytes durable, under a modification time of their own.
    ///
    /// The kernel's is that of its last tick, up to 10 ms ago on kernels before 6.13, and a removed file's inode is
    /// used again at once: without this, two files published in one tick could have the same ETag.
    fn seal(&self) -> io::Result<()> {
        self.file.set_modified(SystemTime::now())?;
        self.file.sync_all()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Already gone if it was published.
        let _ = fs::remove_file(&self.path);
    }
}

#[derive(Debug)]
struct StagedUpload {
    directory: Directory,
    location: Path,
    mode: PutMode,
    stage: Option<Arc<Stage>>,
    offset: u64,
}

impl StagedUpload {
    fn finished(&self) -> Error {
        Error::Generic { store: STORE, source: format!("the upload of {} has ended", self.location).into() }
    }
}

impl Drop for StagedUpload {
    /// Removing a large file takes a while; not on a thread that serves requests.
    fn drop(&mut self) {
        if let (Some(stage), Ok(runtime)) = (self.stage.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || drop(stage));
        }
    }
}

#[async_trait]
impl MultipartUpload for StagedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (directory, location) = (self.directory.clone(), self.location.clone());
        let Some(stage) = self.stage.clone() else {
            let error = self.finished();
            return Box::pin(async { Err(error) });
        };
        let offset = self.offset;
        self.offset += data.content_length() as u64;
        Box::pin(async move {
            directory.run(&location, move |inner, _| stage.write_all_at(&data, offset, &inner.aligned)).await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let stage = self.stage.take().ok_or_else(|| self.finished())?;
        let mode = self.mode.clone();
        self.directory
            .run(&self.location, move |inner, target| {
                stage.seal()?;
                inner.publish(&stage, &target, &mode)
            })
            .await
    }

    async fn abort(&mut self) -> Result<()> {
        let stage = self.stage.take();
        self.directory.run(&self.location, move |_, _| drop_stage(stage)).await
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of blocking work")]
fn drop_stage(stage: Option<Arc<Stage>>) -> io::Result<()> {
    drop(stage);
    Ok(())
}

/// The bytes of `range`, block by block. A file that ends before is an error: the length was promised.
fn blocks(
    file: Arc<File>,
    range: Range<u64>,
    location: Path,
    memory: Blocks,
) -> BoxStream<'static, Result<Bytes>> {
    let first = range.start;
    stream::try_unfold((file, range), move |(file, range)| {
        let (location, memory) = (location.clone(), memory.clone());
        async move {
            if range.is_empty() {
                return Ok(None);
            }
            if range.start > first {
                // What is in memory makes nobody wait: it is time for somebody else.
                yield_now().await;
            }
            let mut block = memory.take(range.end - range.start);
            let block = match resident::read_at(&file, block.room(), range.start) {
                Some(read) => block.filled(read),
                None => read_block(&file, range.start, block, &memory, &location).await?,
            };
            let start = range.start + block.len() as u64;
            Ok(Some((block, (file, start..range.end))))
        }
    })
    .boxed()
}

/// Fills a block with what begins at `start`, on a thread that may wait for the disk.
async fn read_block(
    file: &Arc<File>,
    start: u64,
    mut block: Block,
    memory: &Blocks,
    location: &Path,
) -> Result<Bytes> {
    let turn = memory.reader().await;
    let file = Arc::clone(file);
    let reading = tokio::task::spawn_blocking(move || {
        let read = file.read_exact_at(block.room(), start);
        drop(turn);
        let whole = block.room().len();
        match read {
            Ok(()) => Ok(block.filled(whole)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(io::Error::new(error.kind(), "the file became shorter while it was read"))
            }
            Err(error) => Err(error),
        }
    });
    let read = reading.await.map_err(|source| Error::JoinError { source })?;
    read.map_err(|error| named(location, error))
}

/// The key of an entry; `None` if no key reads back as exactly this name.
fn key(prefix: &Path, name: &OsStr) -> Option<Path> {
    let name = name.to_str()?;
    let location = if prefix.as_ref().is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
    let parsed = Path::parse(&location).ok()?;
    (parsed.as_ref() == location).then_some(parsed)
}

fn meta(location: Path, metadata: &Metadata) -> ObjectMeta {
    // What a header can say: whoever dates a file otherwise gets the nearest.
    let seconds = metadata.mtime().clamp(0, LAST_SECOND);
    let modified = DateTime::from_timestamp(seconds, u32::try_from(metadata.mtime_nsec()).unwrap_or(0));
    ObjectMeta {
        location,
        last_modified: modified.unwrap_or(DateTime::<Utc>::UNIX_EPOCH),
        size: metadata.len(),
        e_tag: Some(etag_of(metadata)),
        version: None,
    }
}

fn etag_of(metadata: &Metadata) -> String {
    let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    format!(
        "\"{:x}-{:x}-{:x}-{:x}\"",
        metadata.ino(),
        metadata.len(),
        nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
    )
}

/// Folders, links, pipes and devices are no objects.
fn regular(metadata: Metadata) -> io::Result<Metadata> {
    if metadata.is_file() { Ok(metadata) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// A folder that may not be read is no object, just as one that may.
fn hide_folder(path: &FilePath, error: io::Error) -> io::Error {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    if denied && path.is_dir() { io::ErrorKind::NotFound.into() } else { error }
}

/// Opening a symbolic link with `O_NOFOLLOW`, or a socket, fails with errors of their own: no object either.
fn hide_link(error: io::Error) -> io::Error {
    use rustix::io::Errno;
    match Errno::from_io_error(&error) {
        Some(Errno::LOOP | Errno::NXIO | Errno::NOTDIR | Errno::NAMETOOLONG) => {
            io::ErrorKind::NotFound.into()
        }
        _ => error,
    }
}

/// The object under this key is not the expected one.
#[derive(Debug, thiserror::Error)]
#[error("the object changed")]
struct Changed;

/// An I/O error in `object_store`'s words.
fn named(location: &Path, error: io::Error) -> Error {
    let (path, kind) = (location.to_string(), error.kind());
    if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Changed>) {
        return Error::Precondition { path, source: Box::new(error) };
    }
    match kind {
        io::ErrorKind::NotFound => Error::NotFound { path, source: Box::new(error) },
        io::ErrorKind::AlreadyExists | io::ErrorKind::IsADirectory => {
            Error::AlreadyExists { path, source: Box::new(error) }
        }
        io::ErrorKind::PermissionDenied => Error::PermissionDenied { path, source: Box::new(error) },
        _ => Error::Generic { store: STORE, source: format!("{location}: {error}").into() },
    }
}

/// Makes a folder and those above it, each durable before the next; `made` hears of each.
fn create_dir_synced(folder: &FilePath, made: &dyn Fn(&FilePath)) -> io::Result<()> {
    let created = match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            folder.parent().map_or(Ok(()), |above| create_dir_synced(above, made))?;
            // Tried once more, not for ever: below `/proc` the answer stays the same.
            fs::create_dir(folder)
        }
        created => created,
    };
    let Err(error) = created else {
        sync_parent(folder)?;
        made(folder);
        return Ok(());
    };
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => Ok(()),
        // That the folder is there already is not what is wrong, nor does it say so of a file in it.
        Err(unseen) if error.kind() == io::ErrorKind::AlreadyExists => Err(unseen),
        _ => Err(error),
    }
}

/// Makes the names of the folders durable in which the root lies: a process that made them may have died before it did.
///
/// Not beyond the file system that the root is on, whose own place has another to see to; nor in folders that we may
/// not read, which are none that we have made.
fn sync_above(root: &FilePath) -> io::Result<()> {
    let disk = fs::metadata(root)?.dev();
    for folder in root.ancestors().skip(1) {
        let Ok(folder) = open_folder(folder) else { return Ok(()) };
        if folder.metadata()?.dev() != disk {
            return Ok(());
        }
        folder.sync_all()?;
    }
    Ok(())
}

/// Makes the names in the folder of `file` durable.
fn sync_parent(file: &FilePath) -> io::Result<()> {
    file.parent().map_or(Ok(()), |folder| open_folder(folder)?.sync_all())
}

/// Opens a folder; an empty path is the one that the process is in.
fn open_folder(folder: &FilePath) -> io::Result<File> {
    File::open(if folder.as_os_str().is_empty() { FilePath::new(".") } else { folder })
}

#[cfg(test)]
mod tests;
