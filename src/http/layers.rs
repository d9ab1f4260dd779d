//! What happens to every request, whatever its route.
//!
//! Promises, outermost first:
//! - An id: the client's `X-Request-Id` if it is a sane one, else a new one. It goes back with the answer and is the
//!   field `request.id` of the span that everything else happens in. What the answer is called is what it is:
//!   `nosniff`.
//! - One log line, when the last byte of the answer's body has been handed over or the client has left: only then
//!   are size and success known. `latency_ms` is the time to the head, `total_ms` to the end. Info; 5xx error;
//!   health probes debug. Neither the query, nor the path of an unknown route, nor any header is in it.
//! - A limit on requests in flight, `max_requests`, counted to the end of the answer's body, for it is the bodies
//!   that hold memory and files. Over it: 503. Health probes pass.
//! - A request body may be slow but not stand still: after `stall_timeout` without a byte it fails, and unless the
//!   handler succeeds all the same the answer is 408.
//! - A panic is a 500, and every error answer without a body of its own becomes a [`Problem`]: what the framework
//!   refuses (extractors, 404, 405 with its `Allow`) looks like what handlers refuse.

use std::{
    any::Any,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, HttpBody, to_bytes},
    extract::{MatchedPath, Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_http::{
    catch_panic::CatchPanicLayer,
    timeout::{TimeoutBody, TimeoutError},
};
use tracing::{Instrument as _, Span, field::Empty};

use crate::{
    config,
    http::{
        base_url::{Front, peer},
        error::Problem,
    },
    metrics::Metrics,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Asked for every few seconds by machines: not worth a line, and not to be refused by a busy server.
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/health"];

/// A framework's refusal is a line of text; more than this many bytes of it are not shown.
const REFUSAL_BYTES: usize = 4096;

/// Puts the layers around `app`, whose routes are complete.
pub fn around(app: Router, limits: &config::Server, front: Arc<Front>, metrics: Metrics) -> Router {
    let gate = Arc::new(Gate {
        front,
        metrics,
        stall_limit: limits.stall_timeout,
        places: Arc::new(Semaphore::new(limits.max_requests.min(Semaphore::MAX_PERMITS))),
    });
    app.layer((from_fn_with_state(gate, observe), CatchPanicLayer::custom(panicked)))
}

struct Gate {
    front: Arc<Front>,
    metrics: Metrics,
    stall_limit: Duration,
    places: Arc<Semaphore>,
}

async fn observe(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let span = tracing::info_span!(
        "request",
        request.id = id.to_str().unwrap_or_default(),
        // Of a download, by who knows.
        package.name = Empty,
        repository = Empty,
        release.tag = Empty,
        asset.name = Empty,
    );
    let mut line = Line::begin(&request, &gate, span.clone());
    let request = request.map(|body| gate.metrics.counted(&line.method, line.route(), body));

    let mut response = gate.admit(request, next, &mut line.place).instrument(span).await;

    response.headers_mut().insert(REQUEST_ID, id);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    line.head(&response);
    response.map(|body| Body::new(Logged { body, line }))
}

impl Gate {
    async fn admit(
        &self,
        request: Request,
        next: Next,
        place: &mut Option<OwnedSemaphorePermit>,
    ) -> Response {
        if !is_probe(&request) {
            let Ok(free) = Arc::clone(&self.places).try_acquire_owned() else {
                return Problem::of(StatusCode::SERVICE_UNAVAILABLE).into_response();
            };
            *place = Some(free);
        }
        let (request, stalled) = self.impatiently(request);
        let response = next.run(request).await;
        if stalled.is_some_and(|stalled| stalled.load(Relaxed)) && !response.status().is_success() {
            return Problem::of(StatusCode::REQUEST_TIMEOUT).into_response();
        }
        in_our_words(response).await
    }

    /// The request with a body that fails when it stands still, and whether it did.
    fn impatiently(&self, request: Request) -> (Request, Option<Arc<AtomicBool>>) {
        if request.body().is_end_stream() {
            return (request, None);
        }
        let stalled = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&stalled);
        let limit = self.stall_limit;
        let request = request.map(|body| {
            Body::new(TimeoutBody::new(limit, body).map_err(move |error| {
                noted.fetch_or(error.is::<TimeoutError>(), Relaxed);
                error
            }))
        });
        (request, Some(stalled))
    }
}

/// Handlers answer errors in JSON; one without a type, or in plain text, is the framework's.
async fn in_our_words(response: Response) -> Response {
    let status = response.status();
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let ours = content_type.is_some_and(|value| !value.as_bytes().starts_with(b"text/plain"));
    if ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = to_bytes(body, REFUSAL_BYTES).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let problem = if status.is_server_error() {
        if !text.is_empty() {
            tracing::error!(event = "error", status = status.as_u16(), error = %text, "the framework failed");
        }
        Problem::of(status)
    } else if text.is_empty() {
        Problem::of(status)
    } else {
        Problem::new(status, text.into_owned())
    };
    let (head, body) = problem.into_response().into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::CONTENT_DISPOSITION);
    parts.headers.extend(head.headers);
    Response::from_parts(parts, body)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that the layer asks for")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
    tracing::error!(event = "panic", error = text, "a handler panicked");
    Problem::of(StatusCode::INTERNAL_SERVER_ERROR).into_response()
}

fn is_probe(request: &Request) -> bool {
    PROBES.contains(&request.uri().path())
}

/// The client's own id if it is 1 to 64 letters, digits, `.`, `_` or `-`, which no log or terminal misreads.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let plain = |id: &&HeaderValue| {
        let id = id.as_bytes();
        (1..=64).contains(&id.len())
            && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
    };
    headers.get(REQUEST_ID).filter(plain).cloned().unwrap_or_else(|| {
        let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
        let mut text = uuid::Uuid::encode_buffer();
        HeaderValue::from_str(id.hyphenated().encode_lower(&mut text))
            .unwrap_or(HeaderValue::from_static("unknown"))
    })
}

/// The log line of a request, written when it is dropped: so it is written whatever happens.
struct Line {
    metrics: Metrics,
    span: Span,
    method: Method,
    route: Option<MatchedPath>,
    probe: bool,
    client: IpAddr,
    started: Instant,
    head: Option<Head>,
    sent: u64,
    /// Held as long as the answer is on its way.
    place: Option<OwnedSemaphorePermit>,
}

struct Head {
    status: StatusCode,
    latency: Duration,
    /// How many bytes the body has, if that is known and they are to be sent.
    length: Option<u64>,
    whole: bool,
}

impl Line {
    fn begin(request: &Request, gate: &Gate, span: Span) -> Self {
        gate.metrics.begin();
        Self {
            metrics: gate.metrics,
            span,
            method: request.method().clone(),
            route: request.extensions().get().cloned(),
            probe: is_probe(request),
            client: gate.front.client_addr(request.headers(), peer(request.extensions())),
            started: Instant::now(),
            head: None,
            sent: 0,
            place: None,
        }
    }

    /// The template; `None` if none fits.
    fn route(&self) -> Option<&str> {
        self.route.as_ref().map(MatchedPath::as_str)
    }

    fn head(&mut self, response: &Response) {
        let declared = || response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
        self.head = Some(Head {
            status: response.status(),
            latency: self.started.elapsed(),
            length: response.body().size_hint().exact().or_else(declared),
            whole: self.method == Method::HEAD || response.body().is_end_stream(),
        });
    }

    fn note(&mut self, frame: &Poll<Option<Result<Frame<Bytes>, axum::Error>>>) {
        let Some(head) = &mut self.head else { return };
        match frame {
            Poll::Ready(None) => head.whole = true,
            Poll::Ready(Some(Ok(frame))) => {
                self.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                // A server that has sent the declared length does not ask for more.
                head.whole = head.length == Some(self.sent);
            }
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _entered = self.span.enter();
        let method = self.method.as_str();
        let (status, latency) = self.head.as_ref().map(|head| (head.status, head.latency)).unzip();
        let latency = latency.unwrap_or_else(|| self.started.elapsed());
        self.metrics.end(&self.method, self.route(), status, latency, self.sent);
        let route = self.route().unwrap_or("unmatched");
        let status = self.head.as_ref().map(|head| head.status.as_u16());
        let latency_ms = self.head.as_ref().map(|head| millis(head.latency));
        let whole = self.head.as_ref().is_some_and(|head| head.whole);
        let ending = match (status, whole) {
            (None, _) => "left before it was answered",
            (_, false) => "broke off",
            _ => "answered",
        };
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    event = "request",
                    method,
                    route,
                    status,
                    latency_ms,
                    total_ms = millis(self.started.elapsed()),
                    sent_bytes = self.sent,
                    client = %self.client,
                    "{method} {route} {ending}"
                )
            };
        }
        match status {
            Some(500..) => line!(error),
            _ if self.probe => line!(debug),
            _ => line!(info),
        }
    }
}

/// Milliseconds to three places.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The body of an answer, which takes its log line along.
struct Logged {
    body: Body,
    line: Line,
}

impl http_body::Body for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Self { body, line } = &mut *self;
        let frame = line.span.in_scope(|| Pin::new(body).poll_frame(cx));
        line.note(&frame);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Mutex};

    use axum::{extract::Query, routing::get};
    use futures_util::stream;
    use serde::Deserialize;
    use tower::ServiceExt as _;

    use super::*;

    #[derive(Deserialize)]
    struct Wish {
        n: u32,
    }

    fn app(max_requests: usize) -> Router {
        let limits = config::Server {
            header_timeout: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(1),
            shutdown_grace: Duration::from_secs(1),
            max_connections: 1,
            max_requests,
            trusted_proxies: Vec::new(),
        };
        let local = "127.0.0.1:8000".parse().unwrap();
        let broken = || stream::iter([Ok("half"), Err(io::Error::other("truncated"))]);
        let routes = Router::new()
            .route("/hello/{name}", get(async || "hello"))
            .route("/wish", get(async |Query(wish): Query<Wish>| wish.n.to_string()))
            .route("/healthz", get(async || "OK"))
            .route("/unready", get(async || (StatusCode::SERVICE_UNAVAILABLE, "secret of the framework")))
            .route("/broken", get(async move || Body::from_stream(broken())));
        around(routes, &limits, Arc::new(Front::new(None, &[], local)), Metrics::default())
    }

    fn get_of(uri: &str) -> Request {
        Request::get(uri).body(Body::empty()).unwrap()
    }

    async fn text(response: Response) -> String {
        String::from_utf8(to_bytes(response.into_body(), 4096).await.unwrap().to_vec()).unwrap()
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The log lines that a request to the end of its answer leaves.
    async fn lines(request: Request) -> Vec<serde_json::Value> {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || writer.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        let response = app(1).oneshot(request).await.unwrap();
        let _ = to_bytes(response.into_body(), 4096).await;
        drop(guard);
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[tokio::test]
    async fn a_request_leaves_one_line_without_its_query_or_its_token() {
        let request = Request::get("/hello/world?key=hunter2")
            .header("authorization", "Bearer hunter2")
            .header("x-request-id", "job-7")
            .body(Body::empty())
            .unwrap();
        let lines = lines(request).await;
        assert_eq!(lines.len(), 1, "{lines:?}");
        let line = &lines[0];
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["span"]["request.id"], "job-7");
        let fields = &line["fields"];
        assert_eq!(fields["event"], "request");
        assert_eq!(fields["method"], "GET");
        assert_eq!(fields["route"], "/hello/{name}");
        assert_eq!(fields["status"], 200);
        assert_eq!(fields["sent_bytes"], 5);
        assert_eq!(fields["message"], "GET /hello/{name} answered");
        assert!(fields["latency_ms"].as_f64().unwrap() <= fields["total_ms"].as_f64().unwrap());
        assert!(!line.to_string().contains("hunter2"), "{line}");
    }

    #[tokio::test]
    async fn the_level_of_a_line_says_who_should_look() {
        let table = [("/healthz", "DEBUG"), ("/nowhere/hunter2", "INFO"), ("/unready", "ERROR")];
        for (uri, level) in table {
            let lines = lines(get_of(uri)).await;
            let line = lines.iter().find(|line| line["fields"]["event"] == "request").unwrap();
            assert_eq!(line["level"], level, "{uri}");
            assert!(!line.to_string().contains("hunter2"), "{line}");
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_said_to() {
        let lines = lines(get_of("/broken")).await;
        assert_eq!(lines[0]["fields"]["message"], "GET /broken broke off");
        assert_eq!(lines[0]["fields"]["sent_bytes"], 4);
    }

    #[tokio::test]
    async fn an_odd_request_id_is_replaced() {
        for odd in ["", "a b", "a\"b", "é", "<x>", &"a".repeat(65)] {
            let mut request = get_of("/healthz");
            request.headers_mut().insert("x-request-id", HeaderValue::from_bytes(odd.as_bytes()).unwrap());
            let response = app(1).oneshot(request).await.unwrap();
            let id = response.headers()["x-request-id"].to_str().unwrap();
            assert_eq!(uuid::Uuid::parse_str(id).unwrap().get_version_num(), 4, "{odd}");
        }
    }

    #[tokio::test]
    async fn a_request_too_many_is_told_to_come_back() {
        let app = app(1);
        let first = app.clone().oneshot(get_of("/hello/a")).await.unwrap();
        // The first one's body is not sent yet, so it still counts.
        let second = app.clone().oneshot(get_of("/hello/b")).await.unwrap();
        assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(second.headers()[header::RETRY_AFTER], "1");
        assert_eq!(second.headers()[header::CONTENT_TYPE], "application/json");
        assert_eq!(app.clone().oneshot(get_of("/healthz")).await.unwrap().status(), StatusCode::OK);
        drop(first);
        assert_eq!(app.oneshot(get_of("/hello/b")).await.unwrap().status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn what_the_framework_refuses_looks_like_ours() {
        let response = app(1).oneshot(get_of("/wish?n=many")).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        insta::assert_snapshot!(text(response).await, @r#"
        {
          "message": "Failed to deserialize query string: n: invalid digit found in string",
          "documentation_url": "/docs"
        }
        "#);
        let response = app(1).oneshot(get_of("/nowhere")).await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        insta::assert_snapshot!(text(response).await, @r#"
        {
          "message": "there is nothing here",
          "documentation_url": "/docs"
        }
        "#);
    }

    #[tokio::test]
    async fn what_the_framework_says_of_a_failure_is_not_shown() {
        let response = app(1).oneshot(get_of("/unready")).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!text(response).await.contains("secret"));
    }

    #[tokio::test]
    async fn an_error_without_a_body_keeps_its_headers() {
        let response =
            (StatusCode::RANGE_NOT_SATISFIABLE, [(header::CONTENT_RANGE, "bytes */7")]).into_response();
        let response = in_our_words(response).await;
        assert_eq!(response.headers()[header::CONTENT_RANGE], "bytes */7");
        assert!(text(response).await.contains("`Range`"));
    }
}
