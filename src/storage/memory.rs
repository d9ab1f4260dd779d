//! A store in memory, to play with and for tests: everything is gone with the process.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures_util::{FutureExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
    memory::InMemory, path::Path,
};
use tokio::sync::Mutex;

/// A store in memory; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    objects: Arc<InMemory>,
    /// Held while something is written or removed, so that a removal can compare first.
    writing: Arc<Mutex<()>>,
}

impl Memory {
    /// Removes the object if its ETag is still `etag`; `false` if it is another.
    pub(super) async fn remove_if(&self, location: &Path, etag: &str) -> Result<bool> {
        let _writing = self.writing.lock().await;
        if self.objects.head(location).await?.e_tag.as_deref() != Some(etag) {
            return Ok(false);
        }
        self.objects.delete(location).await?;
        Ok(true)
    }
}

#[async_trait]
impl ObjectStore for Memory {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let _writing = self.writing.lock().await;
        self.objects.put_opts(location, payload, opts).await
    }

    /// The mode of the completion is a [`PutMode`] in `opts.extensions`; [`PutMode::Overwrite`] without one.
    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let mode = opts.extensions.get::<PutMode>().cloned().unwrap_or_default();
        Ok(Box::new(MemoryUpload {
            store: self.clone(),
            location: location.clone(),
            mode,
            parts: Vec::new(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.objects.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

/// Parts on their way to an object; `InMemory`'s own uploads cannot be told not to replace.
#[derive(Debug)]
struct MemoryUpload {
    store: Memory,
    location: Path,
    mode: PutMode,
    parts: Vec<PutPayload>,
}

#[async_trait]
impl MultipartUpload for MemoryUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts.push(data);
        futures_util::future::ready(Ok(())).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let payload: PutPayload = std::mem::take(&mut self.parts).into_iter().flatten().collect();
        self.store.put_opts(&self.location, payload, self.mode.clone().into()).await
    }

    async fn abort(&mut self) -> Result<(), Error> {
        self.parts.clear();
        Ok(())
    }
}
