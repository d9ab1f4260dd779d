//! What the kernel sends, over real sockets.

use std::{
    fs,
    future::poll_fn,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    routing::get,
};
use rustix::fs::{Advice, fadvise};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::{
    config,
    http::serve::{Draining, serve},
};

const LEAST: u64 = SIZES.start;
const LARGE: u64 = MOST as u64;

/// A server of ranges of one file, which counts those that the kernel was to send.
struct Server {
    address: SocketAddr,
    file: Arc<File>,
    bytes: Vec<u8>,
    sent_by_kernel: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..3 * LARGE).map(|index| (index % 251) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let file = Arc::new(File::options().read(true).write(true).open(&path).unwrap());
        let sent_by_kernel = Arc::new(AtomicUsize::new(0));

        let part = async |State((file, sent)): State<(Arc<File>, Arc<AtomicUsize>)>,
                          Path((start, end)): Path<(u64, u64)>| {
            let Some(body) = body(&file, &(start..end)) else { return Body::from("by somebody else") };
            sent.fetch_add(1, Relaxed);
            Body::from_stream(body)
        };
        let shorter = async |State((file, _)): State<(Arc<File>, Arc<AtomicUsize>)>| {
            let body = body(&file, &(0..LARGE)).unwrap();
            file.set_len(LARGE / 2).unwrap();
            ([("content-length", LARGE.to_string())], Body::from_stream(body))
        };
        let app = Router::new()
            .route("/hello", get(async || "hello"))
            .route("/part/{start}/{end}", get(part))
            .route("/shorter", get(shorter))
            .with_state((Arc::clone(&file), Arc::clone(&sent_by_kernel)));
        let limits = config::Server {
            header_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(10),
            shutdown_grace: Duration::ZERO,
            max_connections: 100,
            max_requests: 100,
            trusted_proxies: Vec::new(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            serve(listener, app, &limits, Draining::default(), std::future::pending()).await;
        });
        Self { address, file, bytes, sent_by_kernel, _folder: folder }
    }

    fn url(&self, range: &Range<u64>) -> String {
        format!("http://{}/part/{}/{}", self.address, range.start, range.end)
    }

    fn expected(&self, range: &Range<u64>) -> &[u8] {
        &self.bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
    }
}

#[tokio::test]
async fn files_arrive_byte_for_byte_and_in_their_order_among_other_answers() {
    let server = Server::start().await;
    let client = reqwest::Client::builder().pool_max_idle_per_host(1).build().unwrap();
    let ranges = [0..LEAST, 7..LEAST + 8, LARGE..2 * LARGE, 5..LARGE + 5, LARGE + 1..LARGE + LEAST + 1];
    for range in ranges.iter().chain(&ranges) {
        let bytes = client.get(server.url(range)).send().await.unwrap().bytes().await.unwrap();
        assert!(bytes == server.expected(range), "{range:?}");
        let hello = client.get(format!("http://{}/hello", server.address)).send().await.unwrap();
        assert_eq!(hello.text().await.unwrap(), "hello");
    }
    assert_eq!(server.sent_by_kernel.load(Relaxed), 2 * ranges.len());
}

#[tokio::test]
async fn who_asks_for_several_at_once_and_reads_slowly_gets_them_all() {
    let server = Server::start().await;
    let ranges: Vec<_> = (0..20).map(|index| index..LARGE + index).collect();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for range in &ranges {
        let ask = format!("GET /part/{}/{} HTTP/1.1\r\nHost: x\r\n\r\n", range.start, range.end);
        stream.write_all(ask.as_bytes()).await.unwrap();
    }
    for range in &ranges {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        // Without a length, the body is in chunks: stand-ins and their frames are written in turns.
        assert!(String::from_utf8_lossy(&head).contains("transfer-encoding: chunked"));
        let mut size = Vec::new();
        while !size.ends_with(b"\r\n") {
            size.push(stream.read_u8().await.unwrap());
        }
        assert_eq!(size, format!("{LARGE:X}\r\n").as_bytes());
        let mut bytes = vec![0; MOST];
        for piece in bytes.chunks_mut(300_000) {
            stream.read_exact(piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(bytes == server.expected(range), "{range:?}");
        let mut end = [0; 7];
        stream.read_exact(&mut end).await.unwrap();
        assert_eq!(&end, b"\r\n0\r\n\r\n");
    }
    assert_eq!(server.sent_by_kernel.load(Relaxed), ranges.len());
}

#[tokio::test]
async fn others_are_read_small_large_over_http2_and_what_is_not_in_memory() {
    let server = Server::start().await;
    let by = async |client: &reqwest::Client, range: Range<u64>| {
        client.get(server.url(&range)).send().await.unwrap().text().await
    };
    let plain = reqwest::Client::new();
    for range in [0..LEAST - 1, 0..LARGE + 1] {
        assert_eq!(by(&plain, range).await.unwrap(), "by somebody else");
    }
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    assert_eq!(by(&http2, 0..LARGE).await.unwrap(), "by somebody else");

    server.file.sync_all().unwrap();
    fadvise(&server.file, 0, None, Advice::DontNeed).unwrap();
    assert_eq!(by(&plain, 0..LARGE).await.unwrap(), "by somebody else");
    assert_eq!(server.sent_by_kernel.load(Relaxed), 0);
}

#[tokio::test]
async fn a_file_that_becomes_shorter_breaks_the_connection_and_nothing_else_is_sent_for_it() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /shorter HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    let head = all.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    assert!(all[head..] == *server.expected(&(0..LARGE / 2)), "{} bytes", all.len() - head);
}

#[tokio::test]
async fn a_stand_in_without_its_file_is_never_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (file, _folder) = {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), vec![1; MOST]).unwrap();
        (Arc::new(File::open(folder.path().join("file")).unwrap()), folder)
    };
    around(stream, async |mut wire| {
        let stand_in = IoSlice::new(&STAND_IN[..100_000]);
        let write = async |wire: &mut Wire| {
            poll_fn(|cx| Pin::new(&mut *wire).poll_write_vectored(cx, &[stand_in])).await
        };
        assert!(write(&mut wire).await.is_err(), "there is no file");
        wire.files.held().push_back(Part { file, range: 0..100_001 });
        assert!(write(&mut wire).await.is_err(), "it is longer");
    })
    .await;
}
