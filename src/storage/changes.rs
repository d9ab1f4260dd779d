//! Whether the packages of a bucket are still as they were listed: asked of one small object instead of all.
//!
//! `.release-server/changes` says who is writing just now. Every write of a package or a marker, by whichever server, is
//! announced there before and taken back after it, both by compare-and-swap:
//!
//! | a write | a listing |
//! |---|---|
//! | 1 swap: add a token of its own | 1 look at the record |
//! | 2 PUT, DELETE: the write itself | 2 the same as before the last LIST, and nobody was writing: that still holds |
//! | 3 swap: take the token out, if no request of the write can arrive any more | 3 else LIST |
//!
//! So a record that did not change between two looks, with no token in it, proves that no server wrote in between: what
//! was listed between them is what is there at the second. Nothing that was acknowledged or shown goes missing from a
//! later listing, on any replica. `tests/model/changes.py` tries every order of these steps, and shows what goes wrong
//! without any one of the rules:
//!
//! - No version of the record has the ETag of an earlier one, and a token is never used again.
//! - Whoever does not know what became of a write stays in the record until it can be under way no longer
//!   ([`IN_DOUBT`]). Who is gone without a word is taken out by whoever has seen the token for [`ABANDONED`].
//! - The record is made by the first server that has use for it. Others may be writing that have not found it, so it is
//!   made with a token of nobody: it proves nothing until that is taken to be abandoned. Where there is no record, writes
//!   are not announced; a look for one is repeated after [`ABSENT`].
//!
//! What is copied into the bucket or removed there by hand announces nothing, and neither does a server older than this
//! record: so a LIST is due now and then all the same, and where that shows that such a server writes, another token of
//! nobody is added ([`Changes::distrust`]). The assumptions on time are those of [`removal`](super::removal).

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use object_store::{
    Error as StoreError, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion,
    path::Path,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;

use super::{Token, at, key};
use crate::error::{Error, Result};

/// How long after a write ended in doubt a request of it may still arrive.
const IN_DOUBT: Duration = Duration::from_mins(5);

/// A token seen for this long is of a server that is gone, and so are its requests. Longer than writes may join one
/// token ([`JOINED`]), take ([`TOO_SLOW`]), and be in doubt, all together.
const ABANDONED: Duration = Duration::from_mins(20);

/// How long further writes of this process may join the token of the first.
const JOINED: Duration = Duration::from_secs(30);

/// A write that took this long since its token was written is not acknowledged.
const TOO_SLOW: Duration = Duration::from_mins(10);

/// How long it is taken for granted that there is still no record.
const ABSENT: Duration = Duration::from_mins(1);

/// How long a swap is tried that meets other servers', or a store that does not answer.
const PATIENCE: Duration = Duration::from_secs(8);

/// What errors call it.
const RECORD: &str = "the record of changes";

/// What the record says.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Record {
    /// Who is writing.
    #[serde(default)]
    open: Vec<String>,
    /// Random, so that no two versions have one ETag.
    #[serde(default)]
    edit: String,
    /// Fields of later versions.
    #[serde(flatten)]
    unknown: serde_json::Map<String, serde_json::Value>,
}

impl Record {
    fn add(&mut self, token: &str) {
        if !self.open.iter().any(|open| open == token) {
            self.open.push(token.to_owned());
        }
    }
}

/// A version of the record under which nobody was writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quiet(String);

/// What a look at the record found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// What a listing begun after this look may be proved by.
    pub quiet: Option<Quiet>,
    /// There is no record.
    pub absent: bool,
}

/// The record of a bucket. Clones share what is known of it.
#[derive(Debug, Clone)]
pub struct Changes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    objects: Arc<dyn ObjectStore>,
    location: Path,
    state: Mutex<State>,
    /// Held by who swaps: the writes of one process need not race each other.
    turn: tokio::sync::Mutex<()>,
    /// Whether the store has no compare-and-swap.
    refused: AtomicBool,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct State {
    /// The record as it was last read or written here, with its ETag.
    known: Option<(String, Record)>,
    /// When there was none.
    absent: Option<Instant>,
    /// When each token was first seen.
    seen: HashMap<String, Instant>,
    /// What further writes may join.
    batch: Weak<Batch>,
    /// Own tokens to be taken out.
    done: Vec<String>,
}

/// Writes of this process under one token, which goes with the last of them.
#[derive(Debug)]
struct Batch {
    changes: Changes,
    token: String,
    opened: Instant,
    in_doubt: AtomicBool,
}

/// A write that is announced. Dropped before it is certain, it may still be under way.
#[derive(Debug)]
pub struct Announced {
    /// `None` where nobody asks.
    batch: Option<Arc<Batch>>,
    certain: AtomicBool,
}

impl Announced {
    /// Where nothing needs to be announced.
    pub(super) fn nowhere() -> Self {
        Self { batch: None, certain: AtomicBool::new(true) }
    }

    fn of(batch: Arc<Batch>) -> Self {
        Self { batch: Some(batch), certain: AtomicBool::new(false) }
    }

    /// No request of this write can arrive any more.
    pub(super) fn certain(&self) {
        self.certain.store(true, Ordering::Relaxed);
    }

    /// As the result of the write says: what was done or refused is certain.
    pub(super) fn ended<T>(&self, result: &Result<T>) {
        if matches!(result, Ok(_) | Err(Error::NotFound(_) | Error::Changed(_) | Error::AlreadyExists(_))) {
            self.certain();
        }
    }

    /// Refuses to acknowledge a write whose token others may have taken to be abandoned.
    pub(super) fn in_time(&self, what: &str) -> Result<()> {
        match &self.batch {
            Some(batch) if batch.opened.elapsed() > TOO_SLOW => {
                Err(Error::Unavailable(anyhow::anyhow!("writing `{what}` took too long")))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        if let Some(batch) = &self.batch
            && !self.certain.load(Ordering::Relaxed)
        {
            batch.in_doubt.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (changes, token) = (self.changes.clone(), mem::take(&mut self.token));
        if self.in_doubt.load(Ordering::Relaxed) {
            runtime.spawn(async move {
                sleep(IN_DOUBT).await;
                changes.take_back(token).await;
            });
        } else {
            self.changes.0.tasks.spawn_on(async move { changes.take_back(token).await }, &runtime);
        }
    }
}

impl Changes {
    pub(super) fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self(Arc::new(Inner {
            objects,
            location: key(&["changes"]),
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            refused: AtomicBool::new(false),
            tasks: TaskTracker::new(),
        }))
    }

    /// Nothing is announced or proved: the store has no compare-and-swap.
    pub(super) fn refuse(&self) {
        self.0.refused.store(true, Ordering::Relaxed);
    }

    /// The same through `objects`, which count what is asked of them.
    pub(super) fn measured(&self, objects: Arc<dyn ObjectStore>) -> Self {
        let changes = Self::new(objects);
        changes.0.refused.store(self.0.refused.load(Ordering::Relaxed), Ordering::Relaxed);
        changes
    }

    /// Says that something is about to be written. Nothing may be sent before this is done.
    pub(crate) async fn announce(&self) -> Result<Announced> {
        if self.0.refused.load(Ordering::Relaxed) {
            return Ok(Announced::nowhere());
        }
        let _turn = self.0.turn.lock().await;
        {
            let state = self.state();
            let joined = |batch: &Arc<Batch>| {
                batch.opened.elapsed() < JOINED && !batch.in_doubt.load(Ordering::Relaxed)
            };
            if let Some(batch) = state.batch.upgrade().filter(joined) {
                return Ok(Announced::of(batch));
            }
            if state.absent.is_some_and(|looked| looked.elapsed() < ABSENT) {
                return Ok(Announced::nowhere());
            }
        }
        let (opened, token) = (Instant::now(), Token::new().0);
        let added = self.swap(|record| record.add(&token)).await;
        if added.is_err() {
            // It may be in the record, or get there: the next swap sees to both.
            self.state().done.push(token.clone());
        }
        if !added? {
            return Ok(Announced::nowhere());
        }
        let batch =
            Arc::new(Batch { changes: self.clone(), token, opened, in_doubt: AtomicBool::new(false) });
        self.state().batch = Arc::downgrade(&batch);
        Ok(Announced::of(batch))
    }

    /// Looks at the record; to be done before a listing is begun that it is to prove.
    pub(crate) async fn look(&self) -> Result<Look> {
        if self.0.refused.load(Ordering::Relaxed) {
            return Ok(Look::default());
        }
        let head = match self.0.objects.head(&self.0.location).await {
            Err(StoreError::NotFound { .. }) => return Ok(self.none()),
            head => head.map_err(at(RECORD))?,
        };
        let known = self.state().known.clone().filter(|(etag, _)| head.e_tag.as_ref() == Some(etag));
        let (etag, record) = match known {
            Some(known) => known,
            None => match self.read().await? {
                Some(read) => read,
                None => return Ok(self.none()),
            },
        };
        Ok(Look { quiet: record.open.is_empty().then_some(Quiet(etag)), absent: false })
    }

    /// Makes the record where there is none.
    pub(crate) async fn keep(&self) -> Result<()> {
        let record = Record { open: vec![Token::new().0], edit: Token::new().0, ..Record::default() };
        let made = self.0.objects.put_opts(&self.0.location, payload(&record)?, PutMode::Create.into()).await;
        match made {
            Ok(_) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(at(RECORD)(error)),
        }
    }

    /// Takes out who is gone, once that is sure. Costs nothing before.
    pub(crate) async fn tidy(&self) -> Result<()> {
        let gone: Vec<String> = {
            let mut state = self.state();
            let State { known, seen, .. } = &mut *state;
            let Some((_, record)) = known else { return Ok(()) };
            seen.retain(|token, _| record.open.contains(token));
            for token in &record.open {
                seen.entry(token.clone()).or_insert_with(Instant::now);
            }
            let gone = seen.iter().filter(|(_, since)| since.elapsed() > ABANDONED);
            gone.map(|(token, _)| token.clone()).collect()
        };
        let turn = self.0.turn.try_lock();
        if gone.is_empty() || turn.is_err() {
            return Ok(());
        }
        tracing::info!(event = "cleanup", count = gone.len(), "who was said to be writing is gone");
        self.swap(|record| record.open.retain(|token| !gone.contains(token))).await.map(drop)
    }

    /// Something was written by a server that had not announced it: the record proves nothing for a while.
    pub(crate) async fn distrust(&self) -> Result<()> {
        let nobody = Token::new().0;
        let _turn = self.0.turn.lock().await;
        self.swap(|record| record.add(&nobody)).await.map(drop)
    }

    /// Waits for the tokens of what has ended, for a while.
    pub(super) async fn finish(&self) {
        self.0.tasks.close();
        if timeout(PATIENCE, self.0.tasks.wait()).await.is_err() {
            tracing::warn!(
                event = "cleanup",
                "the store is slow; it is told later that nothing is being written"
            );
        }
    }

    /// A token goes; the one of a server that cannot reach the store, with its next.
    async fn take_back(&self, token: String) {
        self.state().done.push(token);
        let _turn = self.0.turn.lock().await;
        if self.state().done.is_empty() {
            return;
        }
        if let Err(error) = self.swap(|_| {}).await {
            let error = error.with_causes();
            tracing::warn!(
                event = "cleanup",
                error,
                "listings take longer until the end of a write is known"
            );
        }
    }

    /// Changes the record, and takes out what is done; whether there is one. To be called by who has the turn.
    ///
    /// After an error it is not known whether it was changed. `change` may be made twice.
    async fn swap(&self, change: impl Fn(&mut Record)) -> Result<bool> {
        let began = Instant::now();
        loop {
            let known = self.state().known.clone();
            let Some((etag, mut record)) = (match known {
                Some(known) => Some(known),
                None => self.read().await?,
            }) else {
                self.none();
                return Ok(false);
            };
            let done = self.state().done.clone();
            record.open.retain(|token| !done.contains(token));
            change(&mut record);
            record.edit = Token::new().0;
            let version = UpdateVersion { e_tag: Some(etag), version: None };
            let options = PutMode::Update(version).into();
            // Known no longer, whatever comes of it.
            self.state().known = None;
            let error = match self.0.objects.put_opts(&self.0.location, payload(&record)?, options).await {
                Ok(put) => {
                    let mut state = self.state();
                    state.done.retain(|token| !done.contains(token));
                    state.known = put.e_tag.map(|etag| (etag, record));
                    return Ok(true);
                }
                Err(error) => at(RECORD)(error),
            };
            // Another server was faster, or it is not known: a swap that is still under way cannot arrive after the next.
            if began.elapsed() > PATIENCE {
                return Err(Error::Unavailable(error.into()));
            }
            sleep(Duration::from_millis(rand::random_range(2..50))).await;
        }
    }

    async fn read(&self) -> Result<Option<(String, Record)>> {
        let found = match self.0.objects.get_opts(&self.0.location, GetOptions::new()).await {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            found => found.map_err(at(RECORD))?,
        };
        let etag = found.meta.e_tag.clone().unwrap_or_default();
        let bytes = found.bytes().await.map_err(at(RECORD))?;
        let record = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(event = "listing", %error, "the record of changes cannot be read; it is begun anew");
            Record { open: vec![Token::new().0], ..Record::default() }
        });
        let mut state = self.state();
        state.absent = None;
        state.known = Some((etag.clone(), record.clone()));
        Ok(Some((etag, record)))
    }

    fn none(&self) -> Look {
        let mut state = self.state();
        (state.known, state.absent) = (None, Some(Instant::now()));
        Look { quiet: None, absent: true }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn payload(record: &Record) -> Result<PutPayload> {
    let bytes = serde_json::to_vec(record).map_err(|error| Error::Internal(error.into()))?;
    Ok(PutPayload::from(bytes))
}
