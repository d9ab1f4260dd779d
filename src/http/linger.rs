//! What is left of a request's body when it has been answered already: a refused upload.
//!
//! Closing a connection while bytes are on their way to it makes the kernel answer them with a reset, which can destroy
//! the answer before the client has read it (RFC 9112, section 9.6); behind a reverse proxy, which then has nothing to
//! pass on, the refusal becomes a 502. So the rest is read and thrown away, within limits.
//!
//! Leaves alone HTTP/2, which ends one stream without the others, and a body that has not begun because its client
//! waits for `100 Continue`.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout, timeout_at},
};

/// How long the rest of a body is read for, and how long it may stand still: those of nginx, `lingering_time` and
/// `lingering_timeout`.
const LONGEST: Duration = Duration::from_secs(30);
const STILL: Duration = Duration::from_secs(5);

/// The request, with a body whose rest is read when it is dropped. One that stands still for `stall_limit` is not
/// waited for.
pub(super) fn around(request: Request<Incoming>, stall_limit: Duration) -> Request<Body> {
    if request.body().is_end_stream() {
        return request.map(|_| Body::empty());
    }
    let waits = request.headers().contains_key(header::EXPECT);
    if request.version() >= Version::HTTP_2 {
        return request.map(Body::new);
    }
    request.map(|body| {
        let still = STILL.min(stall_limit);
        Body::new(Lingering { body: Some(body), coming: !waits, moved: Instant::now(), still })
    })
}

struct Lingering {
    /// `None`: it has ended.
    body: Option<Incoming>,
    /// Whether the client has begun to send it.
    coming: bool,
    /// When it moved last.
    moved: Instant,
    still: Duration,
}

impl http_body::Body for Lingering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(_))) => {
                self.coming = true;
                self.moved = Instant::now();
            }
            Poll::Ready(_) => self.body = None,
            // Asking is what makes hyper send `100 Continue`.
            Poll::Pending => self.coming = true,
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let wanted = |body: &Incoming| self.coming && !http_body::Body::is_end_stream(body);
        // There is no runtime where the process ends.
        let (Some(mut body), Ok(runtime)) = (self.body.take().filter(wanted), Handle::try_current()) else {
            return;
        };
        let (mut moved, still) = (self.moved, self.still);
        runtime.spawn(timeout(LONGEST, async move {
            while let Ok(Some(Ok(_))) = timeout_at(moved + still, body.frame()).await {
                moved = Instant::now();
            }
        }));
    }
}
