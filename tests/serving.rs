//! The server on real sockets: who is served, who is dropped, and how it stops.

#![expect(clippy::unwrap_used, reason = "a test may fail so")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::ConnectInfo,
    routing::{get, post},
};
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use release_server::{
    config,
    http::{
        base_url::Front,
        layers,
        serve::{Draining, serve},
    },
    metrics::Metrics,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

const HEADER: Duration = Duration::from_millis(400);
const STALL: Duration = Duration::from_millis(600);
const PIECE: usize = 256 * 1024;
const GET_HELLO: &str = "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n";

fn limits() -> config::Server {
    config::Server {
        header_timeout: HEADER,
        stall_timeout: STALL,
        shutdown_grace: Duration::from_secs(5),
        max_connections: 100,
        max_requests: 100,
        trusted_proxies: Vec::new(),
    }
}

struct Server {
    address: SocketAddr,
    draining: Draining,
    stop: oneshot::Sender<()>,
    stopped: JoinHandle<()>,
    /// Dropped together with the body of `/big`.
    big: Arc<Mutex<Option<oneshot::Sender<()>>>>,
}

/// Five pieces, 100 ms apart.
fn trickle() -> Body {
    Body::from_stream(stream::iter(["1", "2", "3", "4", "5"]).then(async |piece| {
        sleep(Duration::from_millis(100)).await;
        Ok::<_, std::convert::Infallible>(piece)
    }))
}

/// 64 MiB that hold `alive` as long as they are being sent.
fn big(alive: Option<oneshot::Sender<()>>) -> Body {
    let pieces = stream::repeat(Bytes::from(vec![0; PIECE])).take(256);
    Body::from_stream(pieces.map(move |piece| {
        let _ = &alive;
        Ok::<_, std::convert::Infallible>(piece)
    }))
}

async fn start(limits: config::Server) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let alive = Arc::new(Mutex::new(None));
    let held = Arc::clone(&alive);
    let routes = Router::new()
        .route("/hello", get(async || "hello"))
        .route("/peer", get(async |ConnectInfo::<SocketAddr>(peer)| peer.to_string()))
        .route("/trickle", get(async || trickle()))
        .route("/big", get(async move || big(held.lock().unwrap().take())))
        .route("/count", post(async |body: Bytes| body.len().to_string()))
        .route("/refuse", post(async || StatusCode::UNAUTHORIZED))
        .route("/panic", get(async || -> String { panic!("a secret") }));
    let app = layers::around(routes, &limits, Arc::new(Front::new(None, &[], address)), Metrics::default());
    let draining = Draining::default();
    let (stop, stopping) = oneshot::channel::<()>();
    let flag = draining.clone();
    let stopped = tokio::spawn(async move {
        serve(listener, app, &limits, flag, async {
            stopping.await.unwrap_or_default();
        })
        .await;
    });
    Server { address, draining, stop, stopped, big: alive }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The answer to a request that ends its connection.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        rest(&mut stream).await
    }

    /// Resolves when the body of `/big` that is asked for next has been dropped.
    fn watch_big(&self) -> oneshot::Receiver<()> {
        let (alive, dropped) = oneshot::channel();
        *self.big.lock().unwrap() = Some(alive);
        dropped
    }
}

/// What arrives until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes))
        .await
        .expect("the connection stays open");
    String::from_utf8(bytes).unwrap()
}

/// What arrives up to `end`.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        bytes.push(timeout(Duration::from_secs(5), stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

#[track_caller]
fn assert_took(since: Instant, expected: Duration) {
    let took = since.elapsed();
    let slack = Duration::from_millis(500);
    assert!(
        took + Duration::from_millis(20) >= expected && took < expected + slack,
        "{took:?} for {expected:?}"
    );
}

#[tokio::test]
async fn a_handler_learns_the_address_of_its_peer() {
    let server = start(limits()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /peer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let address = stream.local_addr().unwrap().to_string();
    assert!(rest(&mut stream).await.ends_with(&address));
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let server = start(limits()).await;
    let since = Instant::now();
    assert_eq!(rest(&mut server.connect().await).await, "");
    assert_took(since, HEADER);
}

#[tokio::test]
async fn a_slow_head_is_not_waited_for() {
    let server = start(limits()).await;
    let since = Instant::now();
    let (mut read, mut write) = server.connect().await.into_split();
    let drip = tokio::spawn(async move {
        for byte in GET_HELLO.bytes().cycle() {
            if byte == b'\r' || write.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        write
    });
    let mut bytes = Vec::new();
    let _ = timeout(Duration::from_secs(5), read.read_to_end(&mut bytes))
        .await
        .expect("the connection stays open");
    assert_eq!(bytes, b"");
    assert_took(since, HEADER);
    drip.abort();
}

#[tokio::test]
async fn an_idle_keep_alive_connection_is_closed() {
    let server = start(limits()).await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream.write_all(GET_HELLO.as_bytes()).await.unwrap();
        until(&mut stream, "hello").await;
        sleep(HEADER / 2).await;
    }
    stream.write_all(GET_HELLO.as_bytes()).await.unwrap();
    until(&mut stream, "hello").await;
    let since = Instant::now();
    assert_eq!(rest(&mut stream).await, "");
    assert_took(since, HEADER);
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed() {
    let server = start(limits()).await;
    let mut stream = server.connect().await;
    let since = Instant::now();
    // The preface and an empty SETTINGS frame (RFC 9113, section 3.4).
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut bytes = Vec::new();
    let read = timeout(HEADER * 2, stream.read_to_end(&mut bytes)).await;
    // GOAWAY is frame type 7. The ping that follows it is not answered, so the connection goes with the time-out
    // for those.
    assert!(bytes.windows(4).any(|frame| frame == [8, 7, 0, 0]), "{bytes:?} {read:?}");
    stream.read_to_end(&mut bytes).await.unwrap();
    assert!(since.elapsed() < STALL * 4, "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_slow_body_is_fine_while_it_moves() {
    let server = start(limits()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n").await.unwrap();
    for _ in 0..10 {
        sleep(STALL / 4).await;
        stream.write_all(b"x").await.unwrap();
    }
    let answer = until(&mut stream, "\r\n\r\n10").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_stalled_body_is_dropped() {
    let server = start(limits()).await;
    let since = Instant::now();
    let answer = server.ask("POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("stopped arriving"), "{answer}");
    assert_took(since, STALL);
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_sends_its_whole_body_first() {
    let server = start(limits()).await;
    let mut stream = server.connect().await;
    let head = format!("POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 64 * PIECE);
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![0; PIECE];
    for _ in 0..64 {
        stream.write_all(&piece).await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    assert!(until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 401"));
}

#[tokio::test]
async fn the_rest_of_a_refused_body_is_not_waited_for_when_it_stands_still() {
    let server = start(limits()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1234").await.unwrap();
    let start = Instant::now();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 401"));
    assert_took(start, STALL);
}

#[tokio::test]
async fn a_client_that_waits_for_leave_to_send_is_refused_without_it() {
    let server = start(limits()).await;
    let head = "POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n";
    let start = Instant::now();
    assert!(server.ask(head).await.starts_with("HTTP/1.1 401"));
    assert_took(start, Duration::ZERO);
}

#[tokio::test]
async fn a_slow_reader_is_served_and_one_that_stalls_is_dropped() {
    let server = start(limits()).await;
    let dropped = server.watch_big();
    let mut stream = server.connect().await;
    stream.write_all(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut buffer = vec![0; PIECE];
    for _ in 0..20 {
        stream.read_exact(&mut buffer).await.unwrap();
        sleep(STALL / 5).await;
    }
    let since = Instant::now();
    timeout(STALL * 15, dropped).await.expect("the stalled answer is still held").unwrap_err();
    assert!(since.elapsed() + Duration::from_millis(200) >= STALL, "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_stalled_http2_stream_is_reset_and_its_connection_goes_on() {
    let server = start(limits()).await;
    let dropped = server.watch_big();
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let mut big = client.get(format!("http://{}/big", server.address)).send().await.unwrap();
    assert!(big.chunk().await.unwrap().is_some());
    let since = Instant::now();
    timeout(STALL * 3, dropped).await.expect("the stalled answer is still held").unwrap_err();
    assert_took(since, STALL);
    let hello = client.get(format!("http://{}/hello", server.address)).send().await.unwrap();
    assert_eq!(hello.text().await.unwrap(), "hello");
    let mut error = None;
    while error.is_none() {
        error = big.chunk().await.err();
    }
}

#[tokio::test]
async fn stopping_finishes_what_is_in_flight() {
    let server = start(limits()).await;
    let mut idle = server.connect().await;
    idle.write_all(GET_HELLO.as_bytes()).await.unwrap();
    until(&mut idle, "hello").await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /trickle HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    until(&mut busy, "\r\n\r\n").await;

    assert!(!server.draining.is_draining());
    server.stop.send(()).unwrap();
    let since = Instant::now();
    assert_eq!(rest(&mut idle).await, "");
    assert!(since.elapsed() < HEADER * 2, "an idle connection was kept for {:?}", since.elapsed());
    assert!(server.draining.is_draining());
    TcpStream::connect(server.address).await.unwrap_err();
    let answer = rest(&mut busy).await;
    assert!(answer.contains('5') && answer.ends_with("0\r\n\r\n"), "{answer}");
    timeout(HEADER * 2, server.stopped).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_was_on_its_way_when_the_server_stopped_is_answered() {
    let server = start(limits()).await;
    let mut used = server.connect().await;
    used.write_all(GET_HELLO.as_bytes()).await.unwrap();
    assert!(!until(&mut used, "hello").await.contains("close"));
    let mut fresh = server.connect().await;
    server.stop.send(()).unwrap();
    while !server.draining.is_draining() {
        sleep(Duration::from_millis(1)).await;
    }
    for stream in [&mut used, &mut fresh] {
        stream.write_all(GET_HELLO.as_bytes()).await.unwrap();
        let answer = rest(stream).await;
        assert!(answer.ends_with("hello") && answer.contains("connection: close"), "{answer}");
    }
    timeout(HEADER, server.stopped).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_knocked_before_the_server_stopped_is_let_in() {
    // Nobody is accepted before the stop: the server has not looked yet.
    let server = start(limits()).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let stream = std::net::TcpStream::connect(server.address).unwrap();
        stream.set_nonblocking(true).unwrap();
        waiting.push(TcpStream::from_std(stream).unwrap());
    }
    server.stop.send(()).unwrap();
    for stream in &mut waiting {
        stream.write_all(GET_HELLO.as_bytes()).await.unwrap();
        assert!(rest(stream).await.ends_with("hello"));
    }
    timeout(HEADER * 2, server.stopped).await.unwrap().unwrap();
}

#[tokio::test]
async fn stopping_does_not_wait_longer_than_its_grace() {
    let grace = Duration::from_millis(200);
    let server = start(config::Server { shutdown_grace: grace, ..limits() }).await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /trickle HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    until(&mut busy, "\r\n\r\n").await;
    let since = Instant::now();
    server.stop.send(()).unwrap();
    timeout(Duration::from_secs(1), server.stopped).await.unwrap().unwrap();
    assert!(since.elapsed() >= grace && since.elapsed() < grace * 2, "{:?}", since.elapsed());
    assert!(!rest(&mut busy).await.ends_with("0\r\n\r\n"));
}

#[tokio::test]
async fn a_connection_too_many_waits_for_its_turn() {
    let server = start(config::Server { max_connections: 1, ..limits() }).await;
    let mut first = server.connect().await;
    first.write_all(b"GET /trickle HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    until(&mut first, "\r\n\r\n").await;
    let mut second = server.connect().await;
    second.write_all(GET_HELLO.as_bytes()).await.unwrap();
    timeout(Duration::from_millis(200), second.read_u8()).await.unwrap_err();
    assert!(rest(&mut first).await.ends_with("0\r\n\r\n"));
    until(&mut second, "hello").await;
}

#[tokio::test]
async fn a_panic_is_a_500_and_the_server_goes_on() {
    let server = start(limits()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /panic HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let answer = until(&mut stream, "}").await;
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("application/json"), "{answer}");
    assert!(answer.contains("\r\nx-request-id: ") && !answer.contains("secret"), "{answer}");
    stream.write_all(GET_HELLO.as_bytes()).await.unwrap();
    until(&mut stream, "hello").await;
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let server = start(limits()).await;
    let answer = server.ask("DELETE /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nallow: GET,HEAD\r\n"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/json"), "{answer}");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
}

#[tokio::test]
async fn a_request_id_comes_back() {
    let server = start(limits()).await;
    let answer = server
        .ask("GET /hello HTTP/1.1\r\nHost: x\r\nX-Request-Id: job-7\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.contains("\r\nx-request-id: job-7\r\n"), "{answer}");
    assert!(answer.contains("\r\ncontent-length: 5\r\n"), "{answer}");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = start(limits()).await;
    let mut stream = server.connect().await;
    let request = format!("GET /hello HTTP/1.1\r\nHost: x\r\nCookie: {}\r\n\r\n", "x".repeat(128 * 1024));
    let _ = stream.write_all(request.as_bytes()).await;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 431");
    let many = "X: y\r\n".repeat(150);
    let answer = server.ask(&format!("GET /hello HTTP/1.1\r\nHost: x\r\n{many}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}
