//! Storage, whichever it is; and the tests' own S3, which must do what a real one does.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers as well")]

mod bucket;
mod changes;
mod contract;
mod downloads;
#[path = "../evidence/mod.rs"]
mod evidence;
mod fake;
#[path = "../process/history.rs"]
mod history;
mod interleavings;
mod linearizability;
#[path = "../logs/mod.rs"]
mod logs;
mod matrix;
mod model;
#[path = "../process/proxy.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod proxy;
mod quick;
mod records;
mod release_interleavings;
mod releases;
mod replica;
mod store;
mod trouble;
mod view;

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header::IF_NONE_MATCH};
use bytes::Bytes;
use object_store::{
    BackoffConfig, Error, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload, PutResult, Result,
    RetryConfig,
    aws::AmazonS3,
    multipart::{MultipartStore as _, PartId},
    path::Path,
};

use fake::{Fake, plain_http};

const MIB: usize = 1024 * 1024;

fn client(fake: &Fake) -> AmazonS3 {
    fake.client().with_retry(retries(3)).build().unwrap()
}

/// Asks once.
fn blunt_client(fake: &Fake) -> AmazonS3 {
    let options = plain_http().with_timeout(Duration::from_secs(1));
    fake.client().with_client_options(options).with_retry(retries(0)).build().unwrap()
}

/// Completes an upload only where nothing is.
fn twin(fake: &Fake) -> AmazonS3 {
    let condition = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static("*"))]);
    let options = plain_http().with_default_headers(condition);
    fake.client().with_client_options(options).with_retry(retries(3)).build().unwrap()
}

fn retries(max_retries: usize) -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(10),
        max_backoff: Duration::from_millis(50),
        base: 2.0,
    };
    RetryConfig { backoff, max_retries, retry_timeout: Duration::from_secs(5) }
}

async fn create(store: &AmazonS3, key: &str, body: impl Into<PutPayload>) -> Result<PutResult> {
    store.put_opts(&key.into(), body.into(), PutMode::Create.into()).await
}

async fn read(store: &AmazonS3, key: &str) -> Result<Bytes> {
    store.get(&key.into()).await?.bytes().await
}

/// Begins a multipart upload of one byte, repeated, in parts of these sizes.
async fn begin(store: &AmazonS3, key: &Path, byte: u8, sizes: &[usize]) -> Result<(String, Vec<PartId>)> {
    let id = store.create_multipart(key).await?;
    let mut parts = Vec::new();
    for (index, &size) in sizes.iter().enumerate() {
        parts.push(store.put_part(key, &id, index, vec![byte; size].into()).await?);
    }
    Ok((id, parts))
}

#[track_caller]
fn assert_exists<T>(result: Result<T>) {
    assert!(matches!(result.err(), Some(Error::AlreadyExists { .. })));
}

#[track_caller]
fn assert_precondition<T>(result: Result<T>) {
    assert!(matches!(result.err(), Some(Error::Precondition { .. })));
}

#[track_caller]
fn assert_not_found<T>(result: Result<T>) {
    assert!(matches!(result.err(), Some(Error::NotFound { .. })));
}

/// The text of an error and of what caused it.
#[track_caller]
fn explained<T>(result: Result<T>) -> String {
    format!("{:?}", result.err().unwrap())
}
