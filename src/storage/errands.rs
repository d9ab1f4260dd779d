//! Short blocking work, several pieces of it for each thread that is woken.
//!
//! A look at a file takes two microseconds, waking a thread of the blocking pool for it ten, and a busy server would
//! keep dozens awake. Here work that comes in while a thread is at it is done by that thread too; another joins as
//! soon as more than [`WAITING`] pieces wait for each, up to [`THREADS`], so a slow file system still gets many looks at
//! a time.

use std::{
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::oneshot::{self, error::RecvError},
    task::spawn_blocking,
};

/// How many pieces may wait for each thread that is at work.
const WAITING: usize = 8;

/// How many threads are at work at most: each keeps memory of its own for a while.
const THREADS: usize = 32;

type Errand = Box<dyn FnOnce() + Send>;

/// What is to be done, and by how many. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Errands(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    waiting: VecDeque<Errand>,
    threads: usize,
}

impl Errands {
    /// Does `work` on a thread that may block, even if nobody waits for it any more; an error if it panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RecvError> {
        let (done, result) = oneshot::channel();
        let another = {
            let mut state = self.state();
            state.waiting.push_back(Box::new(move || {
                // A panic is its caller's alone: it gets no result. And the caller may have left.
                let _ = catch_unwind(AssertUnwindSafe(work)).map(|result| done.send(result));
            }));
            let another = state.threads < THREADS && state.waiting.len() > state.threads * WAITING;
            state.threads += usize::from(another);
            another
        };
        if another {
            let errands = self.clone();
            spawn_blocking(move || errands.work());
        }
        result.await
    }

    /// Works until nothing waits.
    fn work(&self) {
        loop {
            let mut state = self.state();
            let Some(errand) = state.waiting.pop_front() else {
                // Under the lock that saw nothing waiting, so that what comes next finds this thread gone.
                state.threads -= 1;
                return;
            };
            drop(state);
            errand();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Errands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Errands").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn each_caller_gets_the_result_of_its_own_work() {
        let errands = Errands::default();
        let results = join_all((0..1000).map(|number| errands.run(move || number))).await;
        assert!(results.into_iter().map(Result::unwrap).eq(0..1000));
        assert!(errands.state().waiting.is_empty());
    }

    #[tokio::test]
    async fn slow_work_does_not_hold_up_many() {
        let errands = Errands::default();
        let (release, held) = mpsc::channel::<()>();
        let (begin, begun) = oneshot::channel();
        let slow = errands.run(move || begin.send(()).is_ok() && held.recv().is_ok());
        let (slow, quick) = tokio::join!(slow, async {
            begun.await.unwrap();
            let quick = join_all((0..=WAITING).map(|number| errands.run(move || number))).await;
            release.send(()).unwrap();
            quick
        });
        assert!(slow.unwrap());
        assert_eq!(quick.len(), WAITING + 1);
    }

    #[tokio::test]
    async fn however_many_wait_the_threads_are_few() {
        let errands = Errands::default();
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let waiting = join_all((0..THREADS * WAITING * 2).map(|_| {
            let held = Arc::clone(&held);
            errands.run(move || held.lock().unwrap().recv().is_err())
        }));
        let (waited, ()) = tokio::join!(waiting, async {
            tokio::task::yield_now().await;
            assert_eq!(errands.state().threads, THREADS);
            drop(release);
        });
        assert!(waited.into_iter().all(Result::unwrap));
    }

    #[tokio::test]
    async fn a_panic_is_its_callers_alone() {
        let errands = Errands::default();
        let broken = errands.run(|| assert!(std::hint::black_box(false), "scripted"));
        let fine = join_all((0..100).map(|number| errands.run(move || number)));
        let (broken, fine) = tokio::join!(broken, fine);
        assert!(broken.is_err());
        assert!(fine.into_iter().all(|result| result.is_ok()));
        assert_eq!(errands.run(|| 1).await.unwrap(), 1);
    }
}
