//! Work that goes on when its caller leaves: a dropped connection must not cut a change in two.

use tracing::Instrument as _;

use crate::error::{Error, Result};

/// Runs `work` to its end in a task of its own. Its log lines stay the request's: they carry its `request.id`.
pub(crate) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work.in_current_span()).await.map_err(|error| Error::Internal(error.into()))?
}
