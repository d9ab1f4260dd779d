//! Threads that serve connections: each keeps its own, from the first byte to the last.
//!
//! A runtime whose threads share their tasks wakes one for what another has read, and moves tasks between processors. That
//! costs a fifth of the throughput where a request takes some microseconds. What may take long, a disk or a digest, is
//! on other threads anyway.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// How long a stop waits for blocking work, of which a disk that does not answer has no end. What has not been
/// acknowledged by then may be lost.
pub const LAST_WORK: Duration = Duration::from_secs(10);

/// The threads. Clones share them; with the last clone they end, once their blocking work is done or [`LAST_WORK`] over.
#[derive(Clone)]
pub struct Workers(Arc<[Worker]>);

struct Worker {
    runtime: Handle,
    /// Those it serves now.
    connections: Arc<AtomicUsize>,
    thread: Option<Thread>,
}

struct Thread {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Workers {
    /// Starts so many threads.
    pub fn start(count: usize) -> io::Result<Self> {
        (0..count.max(1)).map(Worker::start).collect::<io::Result<_>>().map(Self)
    }

    /// None of their own: what they are given is done by the runtime that this is called in.
    pub fn here() -> Self {
        Self([Worker { runtime: Handle::current(), connections: Arc::default(), thread: None }].into())
    }

    /// A place with the one that serves the fewest.
    pub(super) fn place(&self) -> Place {
        let Some(Worker { runtime, connections, .. }) =
            self.0.iter().min_by_key(|worker| worker.connections.load(Relaxed))
        else {
            unreachable!("there is at least one");
        };
        connections.fetch_add(1, Relaxed);
        Place { runtime: runtime.clone(), connections: Arc::clone(connections) }
    }
}

impl Worker {
    fn start(index: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name(format!("connections-{index}")).spawn(move || {
            // Told, or forgotten: there is nothing left to serve.
            runtime.block_on(stopped).unwrap_or_default();
            runtime.shutdown_timeout(LAST_WORK);
        })?;
        Ok(Self { runtime: handle, connections: Arc::default(), thread: Some(Thread { stop, thread }) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let Some(Thread { stop, thread }) = self.thread.take() else { return };
        drop(stop);
        // It can end by a panic of the runtime alone, of which the log has heard.
        let _ = thread.join();
    }
}

/// Where a connection is served, and that it is.
pub(super) struct Place {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Place {
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// The name of the thread that a place is with.
    async fn thread_of(place: &Place) -> Option<String> {
        place.runtime().spawn(async { thread::current().name().map(str::to_owned) }).await.unwrap()
    }

    #[tokio::test]
    async fn a_connection_goes_to_the_thread_that_serves_the_fewest() {
        let workers = Workers::start(2).unwrap();
        let (first, second, third) = (workers.place(), workers.place(), workers.place());
        let [one, other] = ["connections-0", "connections-1"].map(|name| Some(name.to_owned()));
        assert_eq!(thread_of(&first).await, one);
        assert_eq!(thread_of(&second).await, other);
        assert_eq!(thread_of(&third).await, one);
        drop((first, third));
        assert_eq!(thread_of(&workers.place()).await, one);
    }

    #[tokio::test]
    async fn one_that_is_held_up_holds_up_no_other() {
        let workers = Workers::start(2).unwrap();
        let (held, free) = (workers.place(), workers.place());
        let (release, until) = mpsc::channel::<()>();
        held.runtime().spawn(async move { until.recv() });
        assert!(thread_of(&free).await.is_some());
        drop(release);
        assert!(thread_of(&held).await.is_some());
    }

    #[tokio::test]
    async fn they_end_when_their_blocking_work_has() {
        let workers = Workers::start(1).unwrap();
        let (begin, begun) = oneshot::channel();
        let (done, is_done) = mpsc::channel();
        workers.place().runtime().spawn_blocking(move || {
            begin.send(()).unwrap();
            thread::sleep(Duration::from_millis(50));
            done.send(()).unwrap();
        });
        begun.await.unwrap();
        drop(workers);
        assert_eq!(is_done.try_recv(), Ok(()));
    }
}
