//! Sockets in, answers out: the accept loop, what a connection may cost, and the way to stop.
//!
//! Promises:
//! - A client gets `header_timeout` to send a request's head, and as long to begin the next one; then it is let go.
//! - A client that stops reading its answer is dropped after `stall_timeout`: an HTTP/1 connection by the kernel
//!   (Linux), an HTTP/2 stream by `Streams`. One that reads slowly is not.
//! - A TLS handshake has `header_timeout` too, and takes a connection's place.
//! - At most `max_connections` are open; others wait in the kernel's queue. Nothing that `accept` answers ends the
//!   loop.
//! - On a stop, connections that wait to be accepted are still accepted. Requests in flight get `shutdown_grace`, and every
//!   connection gets a moment for a request that is on its way, whose answer says `Connection: close`. So no request is
//!   lost to a restart.
//!
//! Leaves to `http/layers.rs` what a single request may cost, the stalled request body among it.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use http::{HeaderMap, HeaderValue, Request, Version, header};
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{
    config,
    http::{linger, sendfile, tls::Tls, workers::Workers},
    metrics::Metrics,
    telemetry,
};

/// The most a request's head may take, in bytes; also what is read from a connection at once, and how much of an answer
/// waits for a slow client before more of it is read. HTTP/1 heads hold at most 100 fields, which is hyper's own limit
/// (saying so would cost an allocation a request).
const HEAD_BYTES: u16 = 32 * 1024;

/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 128;

/// How many stall time-outs an HTTP/2 client has to fetch what was buffered for it, once its connection is closing.
const LINGER: u32 = 10;

/// How long a stopping server waits for a request that may be on its way, on a connection that was just used.
const LAST_WORD: Duration = Duration::from_secs(1);

/// After a failed `accept`: until then a file descriptor may have come free.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// Set once the server is about to stop, so that `/readyz` can say so. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Draining(CancellationToken);

impl Draining {
    /// Whether the server is about to stop.
    pub fn is_draining(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// Where connections come in, and how.
pub struct Listener {
    tcp: TcpListener,
    tls: Option<Tls>,
    metrics: Metrics,
    workers: Option<Workers>,
}

impl From<TcpListener> for Listener {
    /// Plain HTTP.
    fn from(tcp: TcpListener) -> Self {
        Self { tcp, tls: None, metrics: Metrics::default(), workers: None }
    }
}

impl Listener {
    /// The same, encrypted if there is something to do it with.
    #[must_use]
    pub fn encrypted(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// The same, counting its connections.
    #[must_use]
    pub fn measured(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// The same, with its connections served by these threads; without, by those of the runtime it is used in.
    #[must_use]
    pub fn served_by(self, workers: &Workers) -> Self {
        Self { workers: Some(workers.clone()), ..self }
    }
}

/// Serves `app` until `shutdown`, then drains; returns when the last connection has ended, or was cut after
/// `shutdown_grace`. Handlers find the peer as `ConnectInfo<SocketAddr>`.
pub async fn serve(
    listener: impl Into<Listener>,
    app: Router,
    limits: &config::Server,
    draining: Draining,
    shutdown: impl Future<Output = ()>,
) {
    // Routes are prepared here once instead of at every request.
    let app = app.with_state(());
    let http = Arc::new(protocol(limits));
    let mut connections = JoinSet::new();
    let Listener { tcp, tls, metrics, workers } = listener.into();
    let workers = workers.unwrap_or_else(Workers::here);
    let mut door = Door::new(tcp, limits.max_connections);

    let welcome = |connections: &mut JoinSet<()>, Caller { stream, peer, place }| {
        let connection = Connection {
            app: app.clone(),
            peer,
            idle_limit: limits.header_timeout,
            stall_limit: limits.stall_timeout,
            linger: limits.stall_timeout * LINGER,
            draining: draining.clone(),
        };
        let (tls, http, stall_limit) = (tls.clone(), Arc::clone(&http), limits.stall_timeout);
        let (open, worker) = (metrics.connected(), workers.place());
        let runtime = worker.runtime().clone();
        let served = async move {
            match TcpStream::from_std(stream) {
                Ok(stream) => {
                    configure(&stream, stall_limit);
                    connection.welcome(stream, tls, http).await;
                }
                Err(error) => tracing::warn!(event = "connection", %error, "a connection cannot be served"),
            }
            drop((place, open, worker));
        };
        connections.spawn_on(served, &runtime);
    };
    let mut shutdown = pin!(shutdown);
    loop {
        let caller = tokio::select! {
            biased;
            () = &mut shutdown => break,
            // Those that have ended are forgotten.
            Some(_) = connections.join_next() => continue,
            caller = door.next() => caller,
        };
        welcome(&mut connections, caller);
    }

    // First: who comes in from here on is told to go after the first request.
    draining.0.cancel();
    for caller in door.close() {
        welcome(&mut connections, caller);
    }
    while connections.try_join_next().is_some() {}
    tracing::info!(event = "shutdown", connections = connections.len(), "stopping: no new connections");
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(limits.shutdown_grace, ended).await.is_err() {
        tracing::warn!(
            event = "shutdown",
            connections = connections.len(),
            "cutting what is still in flight"
        );
        connections.shutdown().await;
    }
}

/// Resolves at the first SIGTERM or SIGINT; the second ends the process at once.
pub async fn shutdown_signal() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
        }
    };
    next().await;
    tokio::spawn(async move {
        let signal = next().await;
        telemetry::flush();
        // A shell's convention for a process that a signal ended.
        std::process::exit(128 + signal.as_raw_value());
    });
    Ok(())
}

fn protocol(limits: &config::Server) -> auto::Builder<Streams> {
    let mut http = auto::Builder::new(Streams { stall_limit: limits.stall_timeout });
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(HEAD_BYTES.into());
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES.into())
        .keep_alive_interval(limits.stall_timeout)
        .keep_alive_timeout(limits.stall_timeout);
    http
}

/// An option that fails leaves a connection that works less well, so it is not more than noted.
fn configure(stream: &TcpStream, stall_limit: Duration) {
    // Without it a small answer may wait 40 ms for the acknowledgement of the one before.
    let result = stream.set_nodelay(true).and_then(|()| drop_when_stalled(stream, stall_limit));
    if let Err(error) = result {
        tracing::debug!(event = "connection", %error, "a socket option cannot be set");
    }
}

/// The kernel sees bytes leave for the client; a time-out on writes would only see its buffer, which a slow reader
/// may take minutes to make room in.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn drop_when_stalled(stream: &TcpStream, limit: Duration) -> io::Result<()> {
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(limit))
}

/// Other systems are for development, and have nothing like it.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn drop_when_stalled(_: &TcpStream, _: Duration) -> io::Result<()> {
    Ok(())
}

/// Who has been let in.
struct Caller {
    /// Not blocking, and known to no runtime yet.
    stream: std::net::TcpStream,
    peer: SocketAddr,
    /// Held as long as the connection lasts.
    place: OwnedSemaphorePermit,
}

impl Caller {
    fn new(stream: std::net::TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, peer, place })
    }
}

/// Where connections come in, and how many.
struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
    full: Seldom,
    broken: Seldom,
}

impl Door {
    fn new(listener: TcpListener, places: usize) -> Self {
        let places = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        Self { listener, places, full: Seldom::default(), broken: Seldom::default() }
    }

    async fn next(&mut self) -> Caller {
        loop {
            if self.places.available_permits() == 0 && self.full.due() {
                tracing::warn!(
                    event = "connection",
                    "all connections are taken, new ones wait; `server.max_connections` sets how many there are"
                );
            }
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                continue;
            };
            let accepted = self.listener.accept().await;
            match accepted.and_then(|(stream, peer)| Caller::new(stream.into_std()?, peer, place)) {
                Ok(caller) => return caller,
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    if self.broken.due() {
                        tracing::error!(event = "connection", %error, "cannot accept connections; trying on");
                    }
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    /// Accepts the connections that already wait, as far as there is room, and closes. To its client a connection is open
    /// once the kernel has it; to close without accepting it would cut off a request that was sent.
    fn close(self) -> Vec<Caller> {
        let Ok(listener) = self.listener.into_std() else { return Vec::new() };
        let mut last = Vec::new();
        while let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            match listener.accept().and_then(|(stream, peer)| Caller::new(stream, peer, place)) {
                Ok(caller) => last.push(caller),
                Err(error) if is_the_clients(&error) => {}
                Err(_) => break,
            }
        }
        last
    }
}

/// Whether it was the client that went away between its connect and our accept.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Lets a log line through once a minute.
#[derive(Default)]
struct Seldom(Option<Instant>);

impl Seldom {
    fn due(&mut self) -> bool {
        let due = self.0.is_none_or(|last| last.elapsed() >= Duration::from_mins(1));
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}

struct Connection {
    app: Router,
    peer: SocketAddr,
    idle_limit: Duration,
    stall_limit: Duration,
    linger: Duration,
    draining: Draining,
}

impl Connection {
    async fn welcome(self, stream: TcpStream, tls: Option<Tls>, http: Arc<auto::Builder<Streams>>) {
        let Some(tls) = tls else {
            return sendfile::around(stream, |wire| self.serve(wire, http)).await;
        };
        let draining = self.draining.0.clone();
        let stopping = async {
            draining.cancelled().await;
            sleep(LAST_WORD).await;
        };
        let stream = tokio::select! {
            stream = tls.handshake(stream, self.idle_limit) => stream,
            () = stopping => None,
        };
        if let Some(stream) = stream {
            self.serve(stream, http).await;
        }
    }

    async fn serve(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        http: Arc<auto::Builder<Streams>>,
    ) {
        let Self { app, peer, idle_limit, stall_limit, linger, draining } = self;
        let activity = Arc::new(Activity::new());
        let service = service_fn(|request: Request<Incoming>| {
            let busy = Busy::new(Arc::clone(&activity));
            let version = request.version();
            let mut request = linger::around(request, stall_limit);
            request.extensions_mut().insert(ConnectInfo(peer));
            let answer = app.clone().oneshot(request);
            async move {
                let mut response = answer.await?;
                busy.part(version, response.headers_mut());
                Ok::<_, Infallible>(response.map(|body| Tracked { body, _busy: busy }))
            }
        });
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
        // Polled when it is woken itself, not whenever the connection is: that is at every request.
        let mut let_go = FuturesUnordered::from_iter([async {
            tokio::select! {
                // hyper's own time-out for heads begins only once it knows the protocol, and never in HTTP/2.
                () = activity.idle_for(idle_limit) => {}
                () = async {
                    draining.0.cancelled().await;
                    activity.leave(idle_limit.min(LAST_WORD)).await;
                } => {}
            }
        }]);
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            _ = let_go.next() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = activity.idle_for(linger) => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(event = "connection", %peer, error, "a connection broke");
        }
    }
}

/// Resolves when `elapsed`, which is zero while it does not count, has reached `limit`. Looks at a clock now and
/// then instead of being told, so that a request costs two atomic writes and no wake-up.
async fn reaches(limit: Duration, elapsed: impl Fn() -> Duration) {
    while let Some(left) = limit.checked_sub(elapsed()).filter(|left| !left.is_zero()) {
        sleep(left).await;
    }
}

/// What a connection is doing.
struct Activity {
    since: Instant,
    in_flight: AtomicUsize,
    /// Microseconds from `since` to the end of the last request.
    last: AtomicU64,
    /// Whether the next request is the last one.
    leaving: AtomicBool,
    /// Told when that has come.
    begun: Notify,
}

impl Activity {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            in_flight: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            begun: Notify::new(),
        }
    }

    /// Resolves when the connection may be told to end: one more request has come, or none for `limit`. Not sooner,
    /// even if one is in flight: its client may have read already that the connection stays.
    async fn leave(&self, limit: Duration) {
        self.leaving.store(true, SeqCst);
        tokio::select! {
            () = self.begun.notified() => {}
            () = self.idle_for(limit) => {}
        }
    }

    /// Resolves when there has been no request in flight for `limit`.
    async fn idle_for(&self, limit: Duration) {
        reaches(limit, || match self.in_flight.load(Relaxed) {
            0 => self.since.elapsed().saturating_sub(Duration::from_micros(self.last.load(Relaxed))),
            _ => Duration::ZERO,
        })
        .await;
    }
}

/// A request in flight: from its head to the end of its answer.
struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: Arc<Activity>) -> Self {
        activity.in_flight.fetch_add(1, SeqCst);
        if activity.leaving.load(SeqCst) {
            activity.begun.notify_one();
        }
        Self(activity)
    }

    /// Says in an answer's head that it is the last one. HTTP/2 has frames of its own for that.
    fn part(&self, version: Version, headers: &mut HeaderMap) {
        if version < Version::HTTP_2 && self.0.leaving.load(Relaxed) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.last.store(micros(self.0.since), Relaxed);
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// The body of an answer, which knows when it is done and when the client makes it wait.
struct Tracked {
    body: Body,
    _busy: Busy,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let _ = PACE.try_with(|pace| pace.asked());
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(_))) = &frame {
            let _ = PACE.try_with(|pace| pace.given());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs HTTP/2 streams, and resets those whose client grants them no window for `stall_limit`. The kernel cannot
/// see that, for the connection as a whole may be lively; and the connection is not to blame, for a proxy may carry
/// many clients on it.
#[derive(Debug, Clone)]
struct Streams {
    stall_limit: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let limit = self.stall_limit;
        tokio::spawn(async move {
            let pace = Arc::new(Pace::new());
            tokio::select! {
                () = PACE.scope(Arc::clone(&pace), stream) => {}
                () = reaches(limit, || pace.waited()) => {
                    tracing::debug!(event = "connection", "a stream was reset: its client stopped reading");
                }
            }
        });
    }
}

tokio::task_local! {
    /// That of the HTTP/2 stream which the current task runs.
    static PACE: Arc<Pace>;
}

/// How long the client has been making a stream wait.
struct Pace {
    since: Instant,
    /// Microseconds from `since` to the last piece given away; 0 while no piece is.
    given: AtomicU64,
}

impl Pace {
    fn new() -> Self {
        Self { since: Instant::now(), given: AtomicU64::new(0) }
    }

    fn asked(&self) {
        self.given.store(0, Relaxed);
    }

    fn given(&self) {
        self.given.store(micros(self.since).max(1), Relaxed);
    }

    fn waited(&self) -> Duration {
        match self.given.load(Relaxed) {
            0 => Duration::ZERO,
            given => self.since.elapsed().saturating_sub(Duration::from_micros(given)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_log_line_comes_once_a_minute() {
        let mut seldom = Seldom::default();
        assert!(seldom.due());
        assert!(!seldom.due());
        seldom.0 = Instant::now().checked_sub(Duration::from_secs(61));
        assert!(seldom.due());
    }

    #[test]
    fn only_errors_of_the_client_are_passed_over() {
        assert!(is_the_clients(&io::ErrorKind::ConnectionAborted.into()));
        // EMFILE: no file descriptors are left.
        assert!(!is_the_clients(&io::Error::from_raw_os_error(24)));
    }

    #[tokio::test(start_paused = true)]
    async fn idleness_is_counted_from_the_end_of_the_last_request() {
        let activity = Arc::new(Activity::new());
        let start = Instant::now();
        let busy = Busy::new(Arc::clone(&activity));
        tokio::spawn(async move {
            sleep(Duration::from_millis(100)).await;
            drop(busy);
        });
        activity.idle_for(Duration::from_millis(60)).await;
        let elapsed = start.elapsed().as_millis();
        assert!((160..165).contains(&elapsed), "{elapsed} ms");
    }
}
