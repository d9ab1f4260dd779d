//! Many callers, one answer: work that is shared without ever being stale.
//!
//! - At most one flight is under way at a time.
//! - A caller joins the *next* flight, never the one that has begun: every answer was begun after its request.
//! - A flight that fails, fails for those who wait for the next one as well: it fails only after it has tried for
//!   seconds, and they have waited as long.
//! - A flight runs in a task of its own, so a caller who leaves takes nobody along.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{sync::oneshot, task::yield_now};

use crate::error::{Error, Result};

type Outcome<T> = Result<Arc<T>, Arc<Error>>;
type Flight<T> = Pin<Box<dyn Future<Output = Outcome<T>> + Send>>;
type Passengers<T> = Vec<oneshot::Sender<Outcome<T>>>;

/// Shares the results of a repeatable piece of work among callers.
pub(crate) struct Coalesced<T> {
    work: Box<dyn Fn() -> Flight<T> + Send + Sync>,
    state: Mutex<State<T>>,
    asked: AtomicU64,
    flights: AtomicU64,
}

struct State<T> {
    flying: bool,
    waiting: Passengers<T>,
}

impl<T: Send + Sync + 'static> Coalesced<T> {
    pub(crate) fn new(work: impl Fn() -> Flight<T> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            work: Box::new(work),
            state: Mutex::new(State { flying: false, waiting: Vec::new() }),
            asked: AtomicU64::new(0),
            flights: AtomicU64::new(0),
        })
    }

    /// The result of a flight that begins after this call, or the error of one that ends after it.
    pub(crate) async fn answer(self: &Arc<Self>) -> Result<Arc<T>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (ticket, landed) = oneshot::channel();
        let first = {
            let mut state = self.state();
            state.waiting.push(ticket);
            !mem::replace(&mut state.flying, true)
        };
        if first {
            tokio::spawn(Arc::clone(self).fly());
        }
        match landed.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Error::Unavailable(anyhow::Error::new(error))),
            Err(_) => Err(Error::Internal(anyhow::anyhow!("a look at the store panicked"))),
        }
    }

    /// Counts a caller who needed no flight.
    pub(crate) fn spared(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// How many callers there have been.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// How many flights have begun.
    pub(crate) fn flights(&self) -> u64 {
        self.flights.load(Ordering::Relaxed)
    }

    async fn fly(self: Arc<Self>) {
        // A panic in the work must not leave `flying` set for ever.
        let _landing = Landing(&self);
        loop {
            // Requests that lie ready to be read join this flight instead of waiting for the next.
            yield_now().await;
            let Some(mut passengers) = self.board() else { return };
            self.flights.fetch_add(1, Ordering::Relaxed);
            let outcome = (self.work)().await;
            if outcome.is_err() {
                passengers.append(&mut self.state().waiting);
            }
            for passenger in passengers {
                // One who has left needs no answer.
                let _ = passenger.send(outcome.clone());
            }
        }
    }

    /// Closes the next flight to joiners; none waiting, flying ends.
    fn board(&self) -> Option<Passengers<T>> {
        let mut state = self.state();
        state.flying = !state.waiting.is_empty();
        state.flying.then(|| mem::take(&mut state.waiting))
    }
}

impl<T> Coalesced<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Landing<'a, T>(&'a Coalesced<T>);

impl<T> Drop for Landing<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut state = self.0.state();
            // Those who wait see their sender go.
            state.waiting.clear();
            state.flying = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering::SeqCst},
        time::Duration,
    };

    use futures_util::future::join_all;

    use super::*;

    /// Answers with the number of the flight, after a while.
    fn counting() -> Arc<Coalesced<u64>> {
        let count = Arc::new(AtomicU64::new(0));
        Coalesced::new(move || {
            let number = count.fetch_add(1, SeqCst);
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(Arc::new(number))
            })
        })
    }

    #[tokio::test(start_paused = true)]
    async fn callers_share_the_next_flight_and_never_the_one_under_way() {
        let shared = counting();
        let first = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move { shared.answer().await }
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
        let late = join_all((0..50).map(|_| shared.answer())).await;
        assert_eq!(*first.await.unwrap().unwrap(), 0);
        assert!(late.into_iter().all(|flight| *flight.unwrap() == 1));
        assert_eq!((shared.asked(), shared.flights()), (51, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_leaves_takes_nobody_along() {
        let shared = counting();
        let leaving = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move { shared.answer().await }
        });
        tokio::task::yield_now().await;
        leaving.abort();
        assert!(shared.answer().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_to_all_who_wait_and_to_nobody_after_them() {
        let broken = Arc::new(AtomicBool::new(true));
        let shared = Coalesced::new(move || {
            let broken = broken.swap(false, SeqCst);
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                if broken { Err(Arc::new(Error::NotFound("scripted".into()))) } else { Ok(Arc::new(())) }
            })
        });
        let first = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move { shared.answer().await }
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
        let late = join_all((0..50).map(|_| shared.answer())).await;
        assert!(first.await.unwrap().is_err());
        assert!(late.into_iter().all(|outcome| outcome.is_err()));
        assert_eq!(shared.flights(), 1);
        assert!(shared.answer().await.is_ok());
    }

    #[tokio::test]
    async fn a_panic_costs_one_flight_only() {
        let broken = Arc::new(AtomicBool::new(true));
        let shared = Coalesced::new(move || {
            let broken = Arc::clone(&broken);
            Box::pin(async move {
                assert!(!broken.swap(false, SeqCst), "scripted");
                Ok(Arc::new(()))
            })
        });
        assert!(shared.answer().await.is_err());
        assert!(shared.answer().await.is_ok());
    }
}
