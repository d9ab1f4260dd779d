//! Many callers, one answer: work that is shared without ever being stale.
//!
//! - At most one flight is under way at a time.
//! - A caller joins the *next* flight, never the one that has begun: every answer was begun after its request.
//! - A flight runs in a task of its own, so a caller who leaves takes nobody along.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};
use std::{future::Future, pin::Pin, sync::Arc};

use tokio::sync::watch;

use crate::error::{Error, Result};

type Flight<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Shares the results of a repeatable piece of work among callers.
pub(crate) struct Coalesced<T> {
    work: Box<dyn Fn() -> Flight<T> + Send + Sync>,
    state: Mutex<State<T>>,
    flights: AtomicU64,
}

/// Work that can fail; the error is shared like the result.
pub(crate) type Shared<T> = Arc<Coalesced<Result<Arc<T>, Arc<Error>>>>;

impl<T: Send + Sync + 'static> Coalesced<Result<Arc<T>, Arc<Error>>> {
    /// The result of a flight that begins after this call.
    pub(crate) async fn answer(self: &Arc<Self>) -> Result<Arc<T>> {
        match self.get().await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(Error::Unavailable(anyhow::Error::new(error))),
            None => Err(Error::Internal(anyhow::anyhow!("a look at the store panicked"))),
        }
    }
}

struct State<T> {
    flying: bool,
    waiting: Option<watch::Sender<Option<T>>>,
}

impl<T: Clone + Send + Sync + 'static> Coalesced<T> {
    pub(crate) fn new(work: impl Fn() -> Flight<T> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            work: Box::new(work),
            state: Mutex::new(State { flying: false, waiting: None }),
            flights: AtomicU64::new(0),
        })
    }

    /// The result of a flight that begins after this call; `None` if that flight panicked.
    pub(crate) async fn get(self: &Arc<Self>) -> Option<T> {
        let mut landed = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let landed = state.waiting.get_or_insert_with(|| watch::Sender::new(None)).subscribe();
            if !state.flying {
                state.flying = true;
                tokio::spawn(Arc::clone(self).fly());
            }
            landed
        };
        landed.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// How many flights have begun.
    pub(crate) fn flights(&self) -> u64 {
        self.flights.load(Ordering::Relaxed)
    }

    async fn fly(self: Arc<Self>) {
        // A panic in the work must not leave `flying` set for ever.
        let _landing = Landing(&self);
        while let Some(passengers) = self.board() {
            self.flights.fetch_add(1, Ordering::Relaxed);
            let result = (self.work)().await;
            passengers.send_replace(Some(result));
        }
    }

    /// Closes the next flight to joiners; none waiting, flying ends.
    fn board(&self) -> Option<watch::Sender<Option<T>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let passengers = state.waiting.take();
        state.flying = passengers.is_some();
        passengers
    }
}

struct Landing<'a, T>(&'a Coalesced<T>);

impl<T> Drop for Landing<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            // Those who wait see their sender go, and get `None`.
            state.waiting = None;
            state.flying = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicBool, time::Duration};

    use super::*;

    fn counting() -> Arc<Coalesced<u64>> {
        let count = Arc::new(AtomicU64::new(0));
        Coalesced::new(move || {
            let count = Arc::clone(&count);
            Box::pin(async move {
                let begun = count.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
                begun
            })
        })
    }

    #[tokio::test(start_paused = true)]
    async fn callers_share_the_next_flight_and_never_the_one_under_way() {
        let shared = counting();
        let first = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move { shared.get().await }
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
        let late = futures_util::future::join_all((0..50).map(|_| shared.get())).await;
        assert_eq!(first.await.unwrap(), Some(0));
        assert!(late.iter().all(|&flight| flight == Some(1)));
        assert_eq!(shared.flights(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_leaves_takes_nobody_along() {
        let shared = counting();
        let leaving = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move { shared.get().await }
        });
        tokio::task::yield_now().await;
        leaving.abort();
        assert!(shared.get().await.is_some());
    }

    #[tokio::test]
    async fn a_panic_costs_one_flight_only() {
        let broken = Arc::new(AtomicBool::new(true));
        let shared = Coalesced::new(move || {
            let broken = Arc::clone(&broken);
            Box::pin(async move {
                assert!(!broken.swap(false, Ordering::SeqCst), "scripted");
            })
        });
        assert_eq!(shared.get().await, None);
        assert_eq!(shared.get().await, Some(()));
    }
}
