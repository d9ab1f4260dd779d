//! Hours in milliseconds: the clock of a test jumps ahead as soon as nothing happens any more.
//!
//! A paused clock of tokio's own jumps whenever the runtime would wait, also for an answer that is on its way through a
//! socket. This one waits until the runtime has been idle for a moment, twice in a row; then it moves on, by little at
//! first and faster the longer nothing happens. So a timeout of minutes costs milliseconds, and one fires only where
//! really nothing comes. Both ends of every connection must be in the one runtime.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, Handle},
    task::spawn_blocking,
    time::advance,
};

/// How long nothing must happen, in real time; twice.
const QUIET: Duration = Duration::from_micros(300);

/// The first jump after something happened, and the widest.
const JUMPS: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(4)];

/// Runs a test to its end on a clock that jumps.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        // As long as work is under way on another thread, tokio leaves the clock alone.
        let (end, ended) = mpsc::channel::<()>();
        let still = spawn_blocking(move || ended.recv());
        let result = tokio::select! {
            biased;
            result = test => result,
            never = jump() => match never {},
        };
        drop(end);
        let _ = still.await;
        result
    })
}

async fn jump() -> std::convert::Infallible {
    let mut step = JUMPS[0];
    loop {
        if is_quiet().await && is_quiet().await {
            advance(step).await;
            step = (step * 2).min(JUMPS[1]);
        } else {
            step = JUMPS[0];
        }
    }
}

/// Whether the runtime slept through a moment, woken by nothing but its end.
async fn is_quiet() -> bool {
    let metrics = Handle::current().metrics();
    let seen = || (metrics.worker_park_count(0), metrics.worker_total_busy_duration(0));
    let (parks, busy) = seen();
    let _ = spawn_blocking(|| thread::sleep(QUIET)).await;
    let (parks_now, busy_now) = seen();
    // One park may have been cut short by an answer, too: then there was something to do.
    parks_now == parks + 1 && busy_now.saturating_sub(busy) < QUIET / 4
}

#[test]
fn minutes_pass_while_nothing_happens_and_hardly_any_time_while_something_does() {
    let began = Instant::now();
    run(async {
        let clock = tokio::time::Instant::now();
        tokio::time::sleep(Duration::from_mins(30)).await;
        assert!(clock.elapsed() >= Duration::from_mins(30));

        let fake = crate::fake::Fake::start().await;
        let store = crate::client(&fake);
        let clock = tokio::time::Instant::now();
        for index in 0..200 {
            crate::create(&store, &format!("{index}"), "x").await.unwrap();
        }
        assert!(clock.elapsed() < Duration::from_secs(1), "{:?}", clock.elapsed());
    });
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
