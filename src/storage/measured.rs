//! A store whose every operation is counted and timed, as the server asks for it: what a client does within to keep a
//! promise (retries, a HEAD to settle who won) is part of the operation.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures_util::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, path::Path,
};
use tokio::time::Instant;

use crate::metrics::{Metrics, Operation, OperationOutcome};

#[derive(Debug)]
pub(super) struct Measured {
    objects: Arc<dyn ObjectStore>,
    metrics: Metrics,
}

impl Measured {
    pub(super) fn new(objects: Arc<dyn ObjectStore>, metrics: Metrics) -> Self {
        Self { objects, metrics }
    }
}

#[async_trait]
impl ObjectStore for Measured {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.metrics.operation(Operation::Put, self.objects.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let begun = self.objects.put_multipart_opts(location, opts);
        let upload = self.metrics.operation(Operation::Begin, begun).await?;
        Ok(Box::new(MeasuredUpload { upload, metrics: self.metrics }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = if options.head { Operation::Head } else { Operation::Get };
        self.metrics.operation(operation, self.objects.get_opts(location, options)).await
    }

    /// A deletion counts as taking the time since the one before it.
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (metrics, mut began) = (self.metrics, Instant::now());
        let deleted = self.objects.delete_stream(locations).inspect(move |result| {
            metrics.operated(Operation::Delete, result.into(), began.elapsed());
            began = Instant::now();
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let mut listing =
            Listing { metrics: self.metrics, began: Instant::now(), outcome: OperationOutcome::Ok };
        self.objects.list(prefix).inspect(move |entry| listing.note(entry)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.metrics.operation(Operation::List, self.objects.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.objects.fmt(f)
    }
}

/// A listing that is being read; counted when its stream is dropped.
struct Listing {
    metrics: Metrics,
    began: Instant,
    outcome: OperationOutcome,
}

impl Listing {
    fn note(&mut self, entry: &Result<ObjectMeta>) {
        if entry.is_err() {
            self.outcome = entry.into();
        }
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.metrics.operated(Operation::List, self.outcome, self.began.elapsed());
    }
}

#[derive(Debug)]
struct MeasuredUpload {
    upload: Box<dyn MultipartUpload>,
    metrics: Metrics,
}

#[async_trait]
impl MultipartUpload for MeasuredUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        Box::pin(self.metrics.operation(Operation::Part, self.upload.put_part(data)))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.metrics.operation(Operation::Complete, self.upload.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.metrics.operation(Operation::Abort, self.upload.abort()).await
    }
}
