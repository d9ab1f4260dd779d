//! Computing that takes long, on a thread of its own: those that serve connections have others to answer meanwhile.

use tokio::task::spawn_blocking;

use crate::error::{Error, Result};

/// How many things that take some microseconds each are no reason to wake another thread.
const FEW: usize = 200;

/// Does `work`, which goes through so many things.
pub(crate) async fn apart<T: Send + 'static>(
    things: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    if things <= FEW {
        return Ok(work());
    }
    spawn_blocking(work).await.map_err(|error| Error::Internal(error.into()))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn much_is_done_elsewhere_and_a_panic_is_an_error() {
        let here = thread::current().id();
        assert_eq!(apart(1, || thread::current().id()).await.unwrap(), here);
        assert_ne!(apart(FEW + 1, || thread::current().id()).await.unwrap(), here);
        apart(FEW + 1, || assert!(std::hint::black_box(false), "scripted")).await.unwrap_err();
    }
}
