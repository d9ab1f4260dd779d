//! Clients that mean harm, on raw sockets, against the server as a process of its own.
//!
//! Of every attack holds: the server stays up, the attacker is answered or let go, somebody else is served meanwhile,
//! the memory stays bounded, and in the store nothing changed. What a single request may be refused for is tested where
//! the refusal is made (`tests/it`), who is dropped when in `tests/serving.rs`; here it is the number and the malice.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers as well")]
#![expect(clippy::too_many_lines, reason = "tables of attacks are long")]

mod evidence;
#[allow(dead_code, reason = "each test binary uses its part")]
mod process;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use evidence::Evidence;
use futures_util::{StreamExt as _, future::join_all, stream};
use process::{MIB, Server, TOKEN, body, command};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};

/// How long anything may take before the test gives up on it.
const DEADLINE: Duration = Duration::from_mins(1);

/// What somebody else waits for an answer at most while an attack is under way. The machine may be busy with other
/// tests, and the server is not optimized; who hangs is what is looked for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The package that is there, and that nobody may harm.
const KEPT: &str = "kept.bin";
/// More than the kernel takes off the server's hands for a client that does not read.
const KEPT_BYTES: usize = 16 * MIB;

/// A server with something in its store, and somebody who uses it while it is attacked.
struct Site {
    server: Server,
    directory: TempDir,
    before: BTreeMap<PathBuf, Vec<u8>>,
    user: User,
}

impl Site {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let directory = TempDir::new().unwrap();
        let patience =
            [("SERVER__HEADER_TIMEOUT", "4s"), ("SERVER__STALL_TIMEOUT", "4s"), ("MAX_PACKAGES", "0")];
        let settings: Vec<_> = patience.iter().chain(settings).copied().collect();
        let server = Server::spawn(command(directory.path(), &settings, &["serve"]));
        let client = process::Client::new();
        client.put(&server, KEPT, body(1, KEPT_BYTES), false).await.unwrap();
        let before = files(directory.path());
        let user = User::start(server.url("/latest"));
        Self { server, directory, before, user }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.server.address).await.unwrap()
    }

    /// What comes back for these bytes until the server closes; `None` if it does not.
    async fn answer(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let (mut read, mut write) = self.connect().await.into_split();
        let sending = async {
            // It may be refused in the middle.
            let _ = write.write_all(bytes).await;
            std::future::pending::<()>().await;
        };
        let mut answer = Vec::new();
        let reading = async {
            let _ = read.read_to_end(&mut answer).await;
        };
        let closed = timeout(DEADLINE, async {
            tokio::select! {
                () = reading => {}
                () = sending => {}
            }
        });
        let closed = closed.await.is_ok();
        closed.then_some(answer)
    }

    /// The status of the first answer to these bytes; what follows it is not waited for.
    async fn answer_to(&self, bytes: &[u8]) -> Option<u16> {
        let (mut read, mut write) = self.connect().await.into_split();
        let sending = async {
            let _ = write.write_all(bytes).await;
            std::future::pending::<()>().await;
        };
        let mut said = [0; 12];
        let read = timeout(DEADLINE, async {
            tokio::select! {
                read = read.read_exact(&mut said) => read.is_ok(),
                () = sending => false,
            }
        });
        let read = read.await.unwrap_or_default();
        statuses(&said).first().copied().filter(|_| read)
    }

    /// Bytes of memory that are the process's own.
    fn memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    }

    /// Open descriptors of the process.
    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.server.pid())).unwrap().count()
    }

    /// Waits until the connections of an attack are gone.
    async fn let_go(&self, descriptors: usize) -> bool {
        let deadline = Instant::now() + DEADLINE;
        while self.descriptors() > descriptors + 8 {
            if Instant::now() > deadline {
                return false;
            }
            sleep(Duration::from_millis(50)).await;
        }
        true
    }

    /// Ends the attack: what it did is written down, and then judged.
    #[track_caller]
    fn end(
        self,
        attack: &'static str,
        of: &'static str,
        cases: usize,
        most_memory: usize,
        trouble: &[String],
    ) {
        let Site { server, directory, before, user } = self;
        let served = user.end();
        let after = files(directory.path());
        let harmed = after != before;
        let hung = usize::from(!served.failures.is_empty())
            + trouble.iter().filter(|what| what.contains("hangs")).count();
        let wrong = trouble.len() + usize::from(harmed);
        Evidence { attack, on: "the network", cases, of, lost: usize::from(harmed), wrong, hung }.record();
        println!(
            "{attack}: {cases} {of}; {} answers to somebody else, the slowest in {:?}; at most {} KiB",
            served.answers,
            served.slowest,
            most_memory / 1024
        );
        assert_eq!(trouble, [""; 0]);
        assert!(!harmed, "of {:?} became {:?}", before.keys(), after.keys());
        assert_eq!(served.failures, [""; 0], "somebody else was not served");
        assert!(served.answers > 0 && served.slowest < PATIENCE, "{served:?}");
        drop(server);
    }
}

/// Everything below a folder, but what the server knows of packages beside: that goes with a sweep.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if let Ok(bytes) = fs::read(&path)
            && !path.to_string_lossy().contains(".release-server/packages/")
        {
            found.insert(path, bytes);
        }
    }
    found
}

/// Somebody who asks every few milliseconds, each time on a connection of its own.
struct User {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<Served>,
}

#[derive(Debug, Default)]
struct Served {
    answers: usize,
    slowest: Duration,
    failures: Vec<String>,
}

impl User {
    fn start(url: String) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let asking = tokio::spawn(async move {
            let mut served = Served::default();
            let client = reqwest::Client::builder().no_proxy().timeout(DEADLINE).pool_max_idle_per_host(0);
            let client = client.build().unwrap();
            while !stopped.load(Relaxed) {
                let since = Instant::now();
                match client.get(&url).send().await {
                    Ok(answer) if answer.status() == 200 => match answer.text().await {
                        Ok(text) if text.contains(KEPT) => served.answers += 1,
                        other => served.failures.push(format!("{other:?}")),
                    },
                    other => served.failures.push(format!("{other:?}")),
                }
                served.slowest = served.slowest.max(since.elapsed());
                sleep(Duration::from_millis(20)).await;
            }
            served
        });
        Self { stop, asking }
    }

    fn end(self) -> Served {
        self.stop.store(true, Relaxed);
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.asking)).unwrap()
    }
}

/// The statuses of the answers in what a connection said.
fn statuses(said: &[u8]) -> Vec<u16> {
    let said = String::from_utf8_lossy(said);
    let heads = said.split("HTTP/1.1 ").skip(1);
    heads.filter_map(|head| head.get(..3)?.parse().ok()).collect()
}

const DELETE: &str =
    "DELETE /assets/kept.bin HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer correct-horse\r\n\r\n";

/// What two servers in a row could read as different requests. In each a request to delete hides where nobody may find
/// one: one answer at most, the connection ends with it, and nothing is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_hides_in_another() {
    let site = Site::start(&[]).await;
    let post =
        |fields: &str, rest: &str| format!("POST /graphql HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n{rest}");
    let chunked = "Transfer-Encoding: chunked";
    let length = DELETE.len();
    let shapes: Vec<(&str, String)> = vec![
        (
            "a length beside chunks",
            post(&format!("Content-Length: 5\r\n{chunked}"), &format!("0\r\n\r\n{DELETE}")),
        ),
        (
            "chunks beside a length",
            post(&format!("{chunked}\r\nContent-Length: {length}"), &format!("0\r\n\r\n{DELETE}")),
        ),
        ("two lengths", post(&format!("Content-Length: 0\r\nContent-Length: {length}"), DELETE)),
        ("two lengths in one", post(&format!("Content-Length: 0, {length}"), DELETE)),
        ("a positive length", post("Content-Length: +0", DELETE)),
        ("a negative length", post("Content-Length: -1", DELETE)),
        ("an empty length", post("Content-Length:", DELETE)),
        ("a length in hex", post("Content-Length: 0x0", DELETE)),
        ("a length beyond 64 bits", post("Content-Length: 18446744073709551616", DELETE)),
        ("a length with a space", post("Content-Length: 0 0", DELETE)),
        ("a space before the colon of a length", post(&format!("Content-Length : {length}"), DELETE)),
        (
            "a tab before the colon of chunks",
            post("Transfer-Encoding\t: chunked", &format!("0\r\n\r\n{DELETE}")),
        ),
        ("chunks of another kind", post("Transfer-Encoding: xchunked", DELETE)),
        ("chunks that are not last", post("Transfer-Encoding: chunked, identity", DELETE)),
        (
            "chunks, then another coding",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip", DELETE),
        ),
        ("no coding", post("Transfer-Encoding: identity", DELETE)),
        ("an empty coding", post("Transfer-Encoding:", DELETE)),
        ("chunks with a vertical tab", post("Transfer-Encoding: \x0bchunked", DELETE)),
        ("quoted chunks", post("Transfer-Encoding: \"chunked\"", DELETE)),
        ("a folded coding", post("Transfer-Encoding:\r\n chunked", &format!("0\r\n\r\n{DELETE}"))),
        ("a folded field", post("X: a\r\n Content-Length: 0", DELETE)),
        ("a field that begins with a space", format!("GET /latest HTTP/1.1\r\n Host: x\r\n\r\n{DELETE}")),
        ("a field without a colon", post("Content-Length", DELETE)),
        ("a field without a name", post(": x", DELETE)),
        ("a carriage return in a field", post("X: a\rContent-Length: 0", DELETE)),
        ("a null in a field", post("X: a\0b", DELETE)),
        (
            "chunks in HTTP/1.0",
            format!("POST /graphql HTTP/1.0\r\nHost: x\r\n{chunked}\r\n\r\n0\r\n\r\n{DELETE}"),
        ),
        ("a size beyond 64 bits", post(chunked, &format!("10000000000000000\r\n{DELETE}"))),
        ("a signed size", post(chunked, &format!("+0\r\n\r\n{DELETE}"))),
        ("a negative size", post(chunked, &format!("-1\r\n\r\n{DELETE}"))),
        ("a size in hex", post(chunked, &format!("0x0\r\n\r\n{DELETE}"))),
        ("no size", post(chunked, &format!("\r\n\r\n{DELETE}"))),
        ("a size of spaces", post(chunked, &format!("  \r\n\r\n{DELETE}"))),
        ("a chunk longer than its size", post(chunked, &format!("1\r\nab\r\n0\r\n\r\n{DELETE}"))),
        ("a chunk that ends with a line feed", post(chunked, &format!("1\r\na\n0\r\n\r\n{DELETE}"))),
        (
            "an extension without an end",
            post(chunked, &format!("1;{}\r\na\r\n0\r\n\r\n{DELETE}", "x".repeat(64 * 1024))),
        ),
        (
            "extensions without an end",
            post(
                chunked,
                &format!("{}0\r\n\r\n{DELETE}", format!("1;{}\r\na\r\n", "x".repeat(1000)).repeat(100)),
            ),
        ),
        ("a line feed in an extension", post(chunked, &format!("1;\n\r\na\r\n0\r\n\r\n{DELETE}"))),
        (
            "trailers without an end",
            post(chunked, &format!("0\r\n{}\r\n{DELETE}", "X: y\r\n".repeat(20_000))),
        ),
        ("a size ended by a line feed", post(chunked, &format!("0\n\n{DELETE}"))),
        ("no version", format!("GET /latest\r\n\r\n{DELETE}")),
        ("a version of the future", format!("GET /latest HTTP/1.9\r\nHost: x\r\n\r\n{DELETE}")),
        ("a version in lower case", format!("GET /latest http/1.1\r\nHost: x\r\n\r\n{DELETE}")),
        ("a space in the target", format!("GET /latest x HTTP/1.1\r\nHost: x\r\n\r\n{DELETE}")),
        ("a null in the target", format!("GET /lat\0est HTTP/1.1\r\nHost: x\r\n\r\n{DELETE}")),
        ("a tab for a space", format!("GET\t/latest\tHTTP/1.1\r\nHost: x\r\n\r\n{DELETE}")),
        ("a method that is none", format!("G@T /latest HTTP/1.1\r\nHost: x\r\n\r\n{DELETE}")),
        ("another protocol", format!("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n{DELETE}")),
        ("the preface of HTTP/2, broken", format!("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n{DELETE}")),
    ];
    let mut trouble = Vec::new();
    let mut most_memory = 0;
    for (what, bytes) in &shapes {
        match site.answer(bytes.as_bytes()).await {
            None => trouble.push(format!("{what}: hangs")),
            Some(said) => {
                let statuses = statuses(&said);
                println!("{what}: {statuses:?}");
                if statuses.len() > 1 || statuses.iter().any(|status| !(400..500).contains(status)) {
                    trouble.push(format!("{what}: {statuses:?}"));
                }
            }
        }
        most_memory = most_memory.max(site.memory());
    }
    // In the open it is a request: what is looked for above would be seen.
    let client = process::Client::new();
    client.put(&site.server, "other.bin", "x", false).await.unwrap();
    let open = post(
        "Content-Length: 0",
        &DELETE.replace("kept", "other").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"),
    );
    let said = site.answer(open.as_bytes()).await.unwrap();
    assert_eq!(statuses(&said), [400, 204]);

    let cases = shapes.len();
    site.end("requests hidden in others", "shapes", cases, most_memory, &trouble);
}

/// Sends one byte of a text after another, until the other side is gone.
async fn drip(mut stream: TcpStream, text: String, pause: Duration) {
    for byte in text.bytes() {
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
        sleep(pause).await;
    }
}

/// Heads and bodies byte by byte, downloads that nobody reads, and clients that say what they want and then no more:
/// 1,000 at once.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_holds_up_nobody() {
    let site = Site::start(&[]).await;
    let calm = site.descriptors();
    let pause = Duration::from_millis(100);
    let head = format!("GET /latest HTTP/1.1\r\nHost: x\r\nCookie: {}", "x".repeat(1000));
    let body =
        format!("POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{}", " ".repeat(1000));
    let mut dripping = Vec::new();
    for text in [head, body] {
        for _ in 0..200 {
            dripping.push(tokio::spawn(drip(site.connect().await, text.clone(), pause)));
        }
    }
    let mut deaf = Vec::new();
    for _ in 0..500 {
        let mut stream = site.connect().await;
        stream.write_all(format!("GET /assets/{KEPT} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        deaf.push(stream);
    }
    // Half-closed after the request: some are answered, and nobody is kept.
    let half = stream::iter(0..100).map(async |_| {
        let mut stream = site.connect().await;
        stream.write_all(b"GET /latest HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = Vec::new();
        let ended = timeout(DEADLINE, stream.read_to_end(&mut said)).await.is_ok();
        ended && (said.is_empty() || statuses(&said) == [200])
    });
    let parted = half.buffer_unordered(20).filter(|parted| std::future::ready(*parted)).count().await;
    let most_memory = site.memory();
    let under_attack = site.descriptors();
    let gone = join_all(dripping.into_iter().map(|dripping| timeout(DEADLINE, dripping))).await;
    let gone = gone.iter().filter(|gone| gone.is_ok()).count();
    let let_go = site.let_go(calm).await;

    let mut trouble = Vec::new();
    let mut expect = |holds: bool, what: String| {
        if !holds {
            trouble.push(what);
        }
    };
    expect(under_attack > calm + 700, format!("only {} connections were open at once", under_attack - calm));
    expect(parted == 100, format!("of 100 half-closed clients {parted} were let go"));
    expect(gone == 400, format!("of 400 who drip {gone} were let go"));
    expect(let_go, format!("{} of {calm} descriptors are still open: something hangs", site.descriptors()));
    expect(most_memory < 400 * MIB, format!("{} MiB of memory", most_memory / MIB));
    drop(deaf);
    site.end("slow, deaf and half-closed clients", "connections", 1000, most_memory, &trouble);
}

/// A page of [`put_releases`]: 10 MB, more than the kernel takes off the server's hands.
const PAGE: &str = "/repos/acme/app/releases?per_page=100";

/// Releases with many assets, as a server would have put them there one by one.
fn put_releases(root: &Path) {
    let time = "2026-09-12T14:03:11.123Z";
    let folder = root.join("repos/acme/app/releases");
    fs::create_dir_all(&folder).unwrap();
    for id in 1..=20_u64 {
        let asset = |slot: u64| {
            json!({
                "id": (id << 11) + slot,
                "name": format!("{slot}-{}.zip", "x".repeat(180)),
                "label": "x".repeat(1000),
                "content_type": "application/zip",
                "size": 1,
                "sha256": "0".repeat(64),
                "key": format!("repos/acme/app/files/{id}/token/{slot}.zip"),
                "uploader": "me",
                "created_at": time,
                "updated_at": time,
            })
        };
        let assets: Vec<Value> = (0..200).map(asset).collect();
        let record = json!({
            "id": id,
            "repository": "acme/app",
            "tag_name": format!("v{id}"),
            "published": true,
            "created_at": time,
            "updated_at": time,
            "author": "me",
            "revision": 1,
            "edit": "a",
            "assets": assets,
        });
        fs::write(folder.join(format!("{id}.json")), record.to_string()).unwrap();
    }
}

/// The page and its ETag.
async fn page(site: &Site) -> (String, Vec<u8>) {
    let client = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().unwrap();
    let answer = client.get(site.server.url(PAGE)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let etag = answer.headers()["etag"].to_str().unwrap().to_owned();
    (etag, answer.bytes().await.unwrap().to_vec())
}

/// Somebody who asks for the page under another name of the server, and reads of it no more than that it comes.
async fn asks_and_reads_nothing(site: &Site, index: usize) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(site.server.address).await.unwrap();
    let request = format!("GET {PAGE} HTTP/1.1\r\nHost: deaf-{index}.example\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = [0; 12];
    let read = timeout(DEADLINE, stream.read_exact(&mut said)).await;
    (matches!(read, Ok(Ok(_))) && statuses(&said) == [200]).then_some(stream)
}

/// Long pages of releases that nobody reads, each with other links in it: they share what memory there is for that, and
/// somebody else gets the same page as before.
#[tokio::test(flavor = "multi_thread")]
async fn long_pages_that_nobody_reads_cost_little() {
    const READERS: usize = 32;
    let mut site = Site::start(&[("SERVER__STALL_TIMEOUT", "60s")]).await;
    put_releases(site.directory.path());
    site.before = files(site.directory.path());
    let first = page(&site).await;
    let (calm, before, peak) = (site.descriptors(), site.memory(), AtomicUsize::new(0));
    let deaf = tokio::select! {
        deaf = join_all((0..READERS).map(|index| asks_and_reads_nothing(&site, index))) => deaf,
        () = async {
            loop {
                peak.fetch_max(site.memory(), Relaxed);
                sleep(Duration::from_millis(50)).await;
            }
        } => unreachable!(),
    };
    peak.fetch_max(site.memory(), Relaxed);
    let meanwhile = page(&site).await;
    let most_memory = peak.load(Relaxed);

    let mut trouble = Vec::new();
    let answered = deaf.iter().flatten().count();
    if answered != READERS {
        trouble.push(format!("of {READERS} only {answered} were answered: something hangs"));
    }
    if meanwhile != first {
        trouble.push("somebody else got another page".to_owned());
    }
    // A page for each of them would be 320 MB.
    if most_memory > before + 160 * MIB {
        trouble.push(format!("{} MiB more memory", (most_memory - before) / MIB));
    }
    drop(deaf);
    if !site.let_go(calm).await {
        trouble.push(format!("{} of {calm} descriptors are still open: something hangs", site.descriptors()));
    }
    site.end("long pages that nobody reads", "pages", READERS, most_memory, &trouble);
}

/// Ten thousand who connect and say nothing.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_connections_cost_little() {
    const WANTED: usize = 10_000;
    let mut limits = getrlimit(Resource::Nofile);
    limits.current = limits.maximum;
    // The servers that are started from here on inherit it.
    setrlimit(Resource::Nofile, limits).unwrap();
    let room = limits.current.map_or(WANTED, |files| usize::try_from(files).unwrap().saturating_sub(500));
    let crowd = WANTED.min(room);
    if crowd < WANTED {
        eprintln!(
            "ONLY {crowd} CONNECTIONS INSTEAD OF {WANTED}: the limit of open files (`ulimit -Hn`) allows no more"
        );
    }
    let most = (crowd + 100).to_string();
    let site = Site::start(&[("SERVER__MAX_CONNECTIONS", &most), ("SERVER__HEADER_TIMEOUT", "20s")]).await;
    let (calm, before) = (site.descriptors(), site.memory());
    let mut idle = Vec::new();
    for _ in 0..crowd {
        idle.push(site.connect().await);
    }
    let deadline = Instant::now() + DEADLINE;
    while site.descriptors() < calm + crowd && Instant::now() < deadline {
        sleep(Duration::from_millis(20)).await;
    }
    let open = site.descriptors().saturating_sub(calm);
    sleep(Duration::from_secs(1)).await;
    let most_memory = site.memory();
    let each = most_memory.saturating_sub(before) / crowd;
    drop(idle);
    let let_go = site.let_go(calm).await;

    let mut trouble = Vec::new();
    if open + 8 < crowd {
        trouble.push(format!("only {open} connections were let in"));
    }
    if !let_go {
        trouble.push("connections that were closed are still held: something hangs".to_owned());
    }
    if each > 64 * 1024 {
        trouble.push(format!("{each} bytes of memory a connection"));
    }
    println!("{each} bytes a connection");
    site.end("idle connections at once", "connections", crowd, most_memory, &trouble);
}

/// Heads, targets and bodies that are larger than anybody needs.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused() {
    let site = Site::start(&[]).await;
    let get = |fields: &str| format!("GET /latest HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    let token = format!("Authorization: Bearer {TOKEN}");
    let post = |path: &str, fields: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\n{token}\r\n{fields}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let form = "Content-Type: multipart/form-data; boundary=limit\r\n";
    let part = |name: &str, text: &str| {
        format!("--limit\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
    };
    let file = "--limit\r\nContent-Disposition: form-data; name=\"file\"; filename=\"new.bin\"\r\n\r\nx\r\n";
    let query = |query: &str| {
        post("/graphql", "", &format!("{{\"query\":{}}}", serde_json::to_string(query).unwrap()))
    };
    let aliases = each(5_500, |index| format!("a{index}:x "));
    let fragments = each(60, |index| format!("fragment f{index} on Query {{ ...f{0} ...f{0} }} ", index + 1));
    let nested =
        |open: &str, close: &str, times: usize| format!("{}1{}", open.repeat(times), close.repeat(times));
    let jwt = |header: &str| format!("Bearer {}.e30.x", base64(header.as_bytes()));
    // What is sent, and the statuses that are a right answer to it.
    let cases: Vec<(&str, String, &[u16])> = vec![
        ("a field without an end", format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(8 * MIB)), &[431]),
        ("a name of a field without an end", format!("GET / HTTP/1.1\r\n{}", "x".repeat(8 * MIB)), &[431]),
        ("fields without an end", format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(MIB)), &[431]),
        ("101 fields", get(&"X: y\r\n".repeat(101)), &[431]),
        ("a target without an end", format!("GET /{}", "x".repeat(8 * MIB)), &[414, 431]),
        (
            "a target that is too long",
            format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(65_535)),
            &[414, 431],
        ),
        ("a method without an end", "X".repeat(8 * MIB), &[400, 431]),
        (
            "a query of many parts",
            format!("GET /packages?{} HTTP/1.1\r\nHost: x\r\n\r\n", "format=json&".repeat(2500)),
            &[400, 422],
        ),
        (
            "10,000 ranges",
            format!(
                "GET /assets/{KEPT} HTTP/1.1\r\nHost: x\r\nRange: bytes={}0-0\r\nConnection: close\r\n\r\n",
                "0-,".repeat(10_000)
            ),
            &[200],
        ),
        (
            "2,500 tags in a condition",
            get(&format!("If-None-Match: {}\"x\"\r\nConnection: close\r\n", "\"abcdefg\", ".repeat(2500))),
            &[200],
        ),
        (
            "1,700 wishes for a type",
            get(&format!("Accept: {}*/*\r\nConnection: close\r\n", "text/html;q=0.1, ".repeat(1700))),
            &[200],
        ),
        (
            "2,800 hops",
            get(&format!(
                "Forwarded: {}\r\nX-Forwarded-For: {}\r\nConnection: close\r\n",
                "for=1.1.1.1, ".repeat(1400),
                "1.1.1.1, ".repeat(1400)
            )),
            &[200],
        ),
        (
            "100,000 parts of a form",
            post("/upload", form, &format!("{}--limit--\r\n", part("x", "").repeat(100_000))),
            &[400],
        ),
        (
            "a part that is too large",
            post("/upload", form, &format!("{}{file}--limit--\r\n", part("x", &"x".repeat(3 * MIB)))),
            &[400],
        ),
        (
            "a part with a head of 3 MiB",
            post(
                "/upload",
                form,
                &format!("--limit\r\nX: {}\r\n\r\nx\r\n--limit--\r\n", "x".repeat(3 * MIB)),
            ),
            &[400],
        ),
        (
            "a part with 200,000 fields",
            post(
                "/upload",
                form,
                &format!("--limit\r\n{}\r\nx\r\n--limit--\r\n", "X: y\r\n".repeat(200_000)),
            ),
            &[400],
        ),
        ("no last boundary", post("/upload", form, file), &[400]),
        ("a boundary that never comes", post("/upload", form, &"--limi\r\n".repeat(500_000)), &[400]),
        (
            "a boundary of 30,000 bytes",
            post(
                "/upload",
                &format!("Content-Type: multipart/form-data; boundary={}\r\n", "x".repeat(30_000)),
                file,
            ),
            &[400, 422],
        ),
        (
            "a compressed file",
            post(
                "/upload",
                &format!("{form}Content-Encoding: gzip\r\n"),
                &format!("{}--limit--\r\n", file.replace("\r\nx\r\n", "\r\n\x1f\u{8b}\r\n")),
            ),
            &[400],
        ),
        ("a compressed query", post("/graphql", "Content-Encoding: gzip\r\n", "\x1f\u{8b}\x08"), &[400]),
        ("a query with 5,500 aliases", query(&format!("{{ {aliases} }}")), &[200]),
        ("a query of 20,000 levels", query(&nested("{a", "}", 20_000)), &[200]),
        (
            "fragments that double 60 times",
            query(&format!("{{ ...f0 }} {fragments} fragment f60 on Query {{ __typename }}")),
            &[200],
        ),
        (
            "fragments in a circle",
            query("{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }"),
            &[200],
        ),
        (
            "a list of 30,000 levels in a query",
            query(&format!("{{ a(b: {}) }}", nested("[", "]", 30_000))),
            &[200],
        ),
        (
            "a string of 60 KB in a query",
            query(&format!("{{ repository(owner: \"{}\", name: \"x\") {{ id }} }}", "x".repeat(60_000))),
            &[200],
        ),
        (
            "variables of 100,000 levels",
            post(
                "/graphql",
                "",
                &format!(
                    "{{\"query\":\"{{__typename}}\",\"variables\":{}}}",
                    nested("{\"a\":", "}", 100_000)
                ),
            ),
            &[400],
        ),
        (
            "5,000 variables",
            post(
                "/graphql",
                "",
                &format!(
                    "{{\"query\":\"{{__typename}}\",\"variables\":{{{}\"b\":1}}}}",
                    each(5_000, |index| format!("\"a{index}\":[],"))
                ),
            ),
            &[200],
        ),
        ("a query of more than 64 KiB", query(&format!("{{{}}}", "a ".repeat(33_000))), &[400]),
        ("JSON of more than 1 MiB", post("/repos/a/b/releases", "", &" ".repeat(2 * MIB)), &[400]),
        ("a release of 100,000 levels", post("/repos/a/b/releases", "", &nested("[", "]", 100_000)), &[400]),
        (
            "a number of 1 MB",
            post("/repos/a/b/releases", "", &format!("{{\"tag_name\":{}}}", "9".repeat(1_000_000))),
            &[400, 422],
        ),
        (
            "a token of 30,000 bytes",
            get(&format!("{token}{}\r\nConnection: close\r\n", "x".repeat(30_000)))
                .replace("GET /latest", "DELETE /assets/kept.bin"),
            &[401],
        ),
        (
            "a JSON Web Token of 30,000 dots",
            get(&format!("Authorization: Bearer {}\r\nConnection: close\r\n", ".".repeat(30_000)))
                .replace("GET /latest", "DELETE /assets/kept.bin"),
            &[401],
        ),
        (
            "a JSON Web Token of 1,000 levels",
            get(&format!("Authorization: {}\r\nConnection: close\r\n", jwt(&nested("[", "]", 4000))))
                .replace("GET /latest", "DELETE /assets/kept.bin"),
            &[401],
        ),
        (
            "a password of 30,000 bytes",
            get(&format!("Authorization: Basic {}\r\nConnection: close\r\n", base64(&vec![b':'; 22_000])))
                .replace("GET /latest", "DELETE /assets/kept.bin"),
            &[401],
        ),
    ];
    let mut trouble = Vec::new();
    let mut most_memory = 0;
    for (what, bytes, right) in &cases {
        let since = Instant::now();
        match site.answer_to(bytes.as_bytes()).await {
            None => trouble.push(format!("{what}: hangs")),
            Some(status) if !right.contains(&status) => trouble.push(format!("{what}: {status}")),
            Some(_) if since.elapsed() > PATIENCE => {
                trouble.push(format!("{what}: hangs for {:?}", since.elapsed()));
            }
            Some(_) => {}
        }
        most_memory = most_memory.max(site.memory());
    }
    if most_memory > 200 * MIB {
        trouble.push(format!("{} MiB of memory", most_memory / MIB));
    }
    site.end(
        "heads, forms, ranges, tokens and queries beyond all measure",
        "requests",
        cases.len(),
        most_memory,
        &trouble,
    );
}

/// The texts of so many numbers, one after the other.
fn each(count: usize, text: impl Fn(usize) -> String) -> String {
    (0..count).map(text).collect::<Vec<_>>().concat()
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Methods, targets and fields that mean something elsewhere and must mean nothing here.
#[tokio::test(flavor = "multi_thread")]
async fn what_means_something_elsewhere_means_nothing_here() {
    let site = Site::start(&[]).await;
    let token = format!("Authorization: Bearer {TOKEN}");
    let line = |line: &str, fields: &str| format!("{line}\r\nHost: x\r\n{fields}\r\n");
    let kept = format!("/assets/{KEPT}");
    let mut cases: Vec<(String, &[u16])> = vec![
        (line("CONNECT 127.0.0.1:22 HTTP/1.1", ""), &[400, 404, 405]),
        (line("CONNECT x HTTP/1.1", &token_line(&token)), &[400, 404, 405]),
        (
            line("TRACE /latest HTTP/1.1", &format!("Cookie: cookie-of-a-user\r\n{}", token_line(&token))),
            &[405],
        ),
        (line(&format!("TRACK {kept} HTTP/1.1"), ""), &[405]),
        (line("OPTIONS * HTTP/1.1", ""), &[400, 404, 405]),
        (line("GET http://169.254.169.254/latest/meta-data HTTP/1.1", ""), &[404]),
        (line("GET file:///etc/passwd HTTP/1.1", ""), &[400, 404]),
        (line(&format!("PROPFIND {kept} HTTP/1.1"), &token_line(&token)), &[405]),
        (
            line(
                &format!("MOVE {kept} HTTP/1.1"),
                &format!("Destination: /assets/y\r\n{}", token_line(&token)),
            ),
            &[405],
        ),
        (line(&format!("PATCH {kept} HTTP/1.1"), &token_line(&token)), &[405]),
        (
            line(
                "GET /latest HTTP/1.1",
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
            ),
            &[200],
        ),
        (
            line(
                "GET /latest HTTP/1.1",
                "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
            ),
            &[200],
        ),
        (line("GET /latest HTTP/1.1", "Expect: 200-maybe\r\n"), &[200, 417]),
        (
            line(
                "GET /latest HTTP/1.1",
                "Max-Forwards: 0\r\nVia: 1.1 x\r\nTE: trailers\r\nTrailer: Host\r\n",
            ),
            &[200],
        ),
    ];
    for field in ["X-HTTP-Method-Override: DELETE", "X-HTTP-Method: DELETE", "X-Method-Override: DELETE"] {
        cases.push((
            line(&format!("GET {kept} HTTP/1.1"), &format!("{field}\r\n{}", token_line(&token))),
            &[200],
        ));
        cases.push((
            line(
                &format!("POST {kept} HTTP/1.1"),
                &format!("{field}\r\nContent-Length: 0\r\n{}", token_line(&token)),
            ),
            &[405],
        ));
    }
    cases.push((
        line(
            &format!("POST {kept}?_method=DELETE HTTP/1.1"),
            &format!("Content-Length: 0\r\n{}", token_line(&token)),
        ),
        &[405],
    ));
    for field in ["X-Original-URL: /assets/kept.bin", "X-Rewrite-URL: /assets/kept.bin"] {
        cases.push((line("DELETE /latest HTTP/1.1", &format!("{field}\r\n{}", token_line(&token))), &[405]));
    }
    // As they stand in the bytes, which no library of a client lets through.
    let paths = [
        "/assets/../../etc/passwd",
        "/../../../etc/passwd",
        "/assets/..\\..\\etc\\passwd",
        "/assets/\\\\host\\share",
        "/assets/%c0%ae%c0%ae/x",
        "/assets/%00",
        "/assets/kept.bin%00",
        "/assets/kept.bin%2f..",
        "/assets/./kept.bin/..",
        "//assets//kept.bin",
        "/assets;/kept.bin",
        "/assets/kept.bin/",
        "/ASSETS/kept.bin",
        "/assets/\u{2025}/x",
        "/static/../../Cargo.toml",
        "/a/b/releases/download/../../x",
        "/repos/../../x/releases",
        "/repos/a/b/releases/tags/../../../x",
        "/.release-server/layout-1",
        "/assets/.release-server",
    ];
    for path in paths {
        cases.push((line(&format!("GET {path} HTTP/1.1"), ""), &[400, 404, 405]));
        cases.push((line(&format!("DELETE {path} HTTP/1.1"), &token_line(&token)), &[400, 404, 405]));
        cases.push((
            line(&format!("PUT {path} HTTP/1.1"), &format!("Content-Length: 1\r\n{}", token_line(&token)))
                + "x",
            &[400, 404, 405],
        ));
    }
    // As a name that is no name elsewhere, and missing.
    for path in ["/assets/%", "/assets/%zz", "/assets/%252e%252e%252fx"] {
        cases.push((line(&format!("GET {path} HTTP/1.1"), ""), &[404]));
    }
    let mut trouble = Vec::new();
    for (bytes, right) in &cases {
        match site.answer_to(bytes.as_bytes()).await {
            None => trouble.push(format!("{bytes:?}: hangs")),
            Some(status) if !right.contains(&status) => trouble.push(format!("{bytes:?}: {status}")),
            Some(_) => {}
        }
    }
    let memory = site.memory();
    site.end(
        "methods, targets and fields that mean something elsewhere",
        "requests",
        cases.len(),
        memory,
        &trouble,
    );
}

fn token_line(token: &str) -> String {
    format!("{token}\r\n")
}

/// Many forge where they came in, while one asks plainly: no answer has a link that another made, and what is kept for
/// so many addresses is bounded.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_what_another_forged() {
    const FORGERS: usize = 8;
    const EACH: usize = 50;
    let site = Site::start(&[]).await;
    let client = process::Client::new();
    for index in 0..10 {
        client.put(&site.server, &format!("package-{index}.bin"), "x", false).await.unwrap();
    }
    let before = site.memory();
    let strange = Arc::<AtomicUsize>::default();
    let forging = (0..FORGERS).map(|forger| {
        let (url, strange) = (site.server.url("/latest"), Arc::clone(&strange));
        tokio::spawn(async move {
            let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
            for index in 0..EACH {
                let host = format!("forged-{forger}-{index}.example");
                let forged = client
                    .get(&url)
                    .header("host", &host)
                    .header("x-forwarded-host", "evil.example")
                    .header("x-forwarded-proto", "javascript")
                    .header("forwarded", "host=evil.example;proto=https")
                    .header("x-forwarded-prefix", "/evil");
                let text = forged.send().await.unwrap().text().await.unwrap();
                let own = text.matches(&format!("\"http://{host}/")).count();
                if own == 0 || own != text.matches("\"http").count() || text.contains("evil") {
                    strange.fetch_add(1, Relaxed);
                }
            }
        })
    });
    let forging: Vec<_> = forging.collect();
    let plain = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
    let address = site.server.url("/");
    let mut asked = 0;
    while !forging.iter().all(JoinHandle::is_finished) {
        let text = plain.get(site.server.url("/latest")).send().await.unwrap().text().await.unwrap();
        asked += 1;
        if text.matches(&format!("\"{address}")).count() != text.matches("\"http").count() {
            strange.fetch_add(1, Relaxed);
        }
    }
    for forging in forging {
        forging.await.unwrap();
    }
    for index in 0..10 {
        client.delete(&site.server, &format!("package-{index}.bin")).await.unwrap();
    }
    let most_memory = site.memory();
    let mut trouble = Vec::new();
    let strange = strange.load(Relaxed);
    if strange > 0 {
        trouble.push(format!("{strange} answers had links of somebody else"));
    }
    if most_memory > before + 100 * MIB {
        trouble.push(format!("{} MiB more memory", (most_memory - before) / MIB));
    }
    site.end(
        "forged hosts, beside plain requests",
        "requests",
        FORGERS * EACH + asked,
        most_memory,
        &trouble,
    );
}

/// Frames of HTTP/2 (RFC 9113), written by hand.
struct Frames(Vec<u8>);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

impl Frames {
    /// The preface, and these settings.
    fn new(settings: &[(u16, u32)]) -> Self {
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        Self(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()).frame(SETTINGS, 0, 0, &payload)
    }

    fn frame(mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        self.0.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
        self.0.extend_from_slice(&[kind, flags]);
        self.0.extend_from_slice(&stream.to_be_bytes());
        self.0.extend_from_slice(payload);
        self
    }

    fn get(self, stream: u32, path: &str) -> Self {
        self.frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", path))
    }

    fn repeat(self, times: u32, more: impl Fn(Self, u32) -> Self) -> Self {
        (0..times).fold(self, more)
    }
}

/// A field in HPACK (RFC 7541), spelled out; with `indexed` it enters the table.
fn field(indexed: bool, name: &str, value: &str) -> Vec<u8> {
    let length = |length: usize| {
        if length < 127 {
            return vec![u8::try_from(length).unwrap()];
        }
        let (mut bytes, mut rest) = (vec![127], length - 127);
        while rest >= 128 {
            bytes.push(u8::try_from(rest % 128).unwrap() | 128);
            rest /= 128;
        }
        bytes.push(u8::try_from(rest).unwrap());
        bytes
    };
    let kind = if indexed { 0x40 } else { 0 };
    [&[kind][..], &length(name.len()), name.as_bytes(), &length(value.len()), value.as_bytes()].concat()
}

fn head(method: &str, path: &str) -> Vec<u8> {
    [(":method", method), (":scheme", "http"), (":path", path), (":authority", "x")]
        .iter()
        .flat_map(|(name, value)| field(false, name, value))
        .collect()
}

/// The kinds of frames in what a server said, how many of each, and the errors it gave as a reason to end.
fn said(mut bytes: &[u8]) -> BTreeMap<String, usize> {
    let mut said = BTreeMap::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        let what = match (*kind, payload) {
            (7, [_, _, _, _, _, _, _, code, ..]) => format!("GOAWAY {code}"),
            (RST_STREAM, [_, _, _, code]) => format!("RST_STREAM {code}"),
            _ => format!("frame {kind}"),
        };
        *said.entry(what).or_default() += 1;
        bytes = rest;
    }
    said
}

/// What HTTP/2 allows a client to say again and again, or to leave unsaid.
#[tokio::test(flavor = "multi_thread")]
async fn floods_of_http2_drown_nobody() {
    let site = Site::start(&[]).await;
    let calm = site.descriptors();
    let package = format!("/assets/{KEPT}");
    let odd = |index: u32| index * 2 + 1;
    let bomb = [field(true, "x-bomb", &"x".repeat(3000)), vec![0xbe; 15_000]].concat();
    let floods: Vec<(&str, Frames)> = vec![
        (
            "requests taken back",
            Frames::new(&[]).repeat(10_000, |frames, index| {
                frames.get(odd(index), &package).frame(RST_STREAM, 0, odd(index), &8_u32.to_be_bytes())
            }),
        ),
        (
            "requests that break the rules",
            Frames::new(&[]).repeat(10_000, |frames, index| {
                frames.get(odd(index), &package).frame(WINDOW_UPDATE, 0, odd(index), &0_u32.to_be_bytes())
            }),
        ),
        (
            "a head that goes on and on",
            Frames::new(&[])
                .frame(HEADERS, 0, 1, &head("GET", "/latest"))
                .repeat(10_000, |frames, _| frames.frame(CONTINUATION, 0, 1, &field(false, "x", "y"))),
        ),
        (
            "a head of empty pieces",
            Frames::new(&[])
                .frame(HEADERS, 0, 1, &head("GET", "/latest"))
                .repeat(50_000, |frames, _| frames.frame(CONTINUATION, 0, 1, &[])),
        ),
        ("settings", Frames::new(&[]).repeat(50_000, |frames, _| frames.frame(SETTINGS, 0, 0, &[]))),
        ("pings", Frames::new(&[]).repeat(50_000, |frames, _| frames.frame(PING, 0, 0, &[0; 8]))),
        (
            "priorities",
            Frames::new(&[]).repeat(50_000, |frames, index| {
                frames.frame(PRIORITY, 0, odd(index % 1000), &[0, 0, 0, 0, 1])
            }),
        ),
        (
            "windows",
            Frames::new(&[])
                .repeat(50_000, |frames, _| frames.frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ),
        (
            "a window beyond its size",
            Frames::new(&[]).frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()),
        ),
        (
            "empty pieces of a body",
            Frames::new(&[])
                .frame(HEADERS, END_HEADERS, 1, &head("POST", "/graphql"))
                .repeat(50_000, |frames, _| frames.frame(DATA, 0, 1, &[])),
        ),
        (
            "a table of fields used over and over",
            Frames::new(&[]).repeat(100, |frames, index| {
                frames.frame(
                    HEADERS,
                    END_HEADERS | END_STREAM,
                    odd(index),
                    &[head("GET", "/latest"), bomb.clone()].concat(),
                )
            }),
        ),
        (
            "heads as large as may be",
            Frames::new(&[]).repeat(128, |frames, index| {
                let large: Vec<u8> = (0..4).flat_map(|_| field(false, "x", &"x".repeat(4000))).collect();
                frames.frame(
                    HEADERS,
                    END_HEADERS,
                    odd(index),
                    &[head("POST", "/graphql"), large[..12_000].to_vec()].concat(),
                )
            }),
        ),
        (
            "downloads without a window",
            Frames::new(&[(4, 0)]).repeat(128, |frames, index| frames.get(odd(index), &package)),
        ),
        (
            "downloads by the byte",
            Frames::new(&[(4, 1)]).repeat(128, |frames, index| frames.get(odd(index), &package)),
        ),
        ("frames beyond their size", Frames::new(&[]).frame(DATA, 0, 1, &vec![0; 60_000])),
        ("streams out of order", Frames::new(&[]).get(101, "/latest").get(1, "/latest")),
        (
            "frames of no kind",
            Frames::new(&[]).repeat(50_000, |frames, _| frames.frame(200, 255, 3, b"xxxx")),
        ),
    ];
    // All at once, each by one who reads what it is told, and by one who does not.
    let flooding =
        floods.iter().flat_map(|flood| [(flood, true), (flood, false)]).map(async |(flood, reads)| {
            let (what, Frames(bytes)) = flood;
            let mut stream = site.connect().await;
            let mut told = Vec::new();
            let (mut read, mut write) = stream.split();
            let sending = async {
                let sent = write.write_all(bytes).await.is_ok();
                // Until it is swallowed; those who do not read stay for as long as they are let.
                sleep(if reads { Duration::from_secs(3) } else { DEADLINE }).await;
                sent
            };
            let reading = async {
                while reads && matches!(read.read_buf(&mut told).await, Ok(count) if count > 0) {}
                if !reads {
                    std::future::pending::<()>().await;
                }
            };
            let _ = timeout(Duration::from_secs(8), async {
                tokio::select! {
                    _ = sending => {}
                    () = reading => {}
                }
            })
            .await;
            if reads && told.is_empty() {
                // A machine that is busy with other tests has not come to this connection yet.
                let _ = timeout(DEADLINE, stream.read_buf(&mut told)).await;
            }
            (*what, reads, said(&told))
        });
    let peak = AtomicUsize::new(0);
    let told = tokio::select! {
        told = join_all(flooding) => told,
        () = async {
            loop {
                peak.fetch_max(site.memory(), Relaxed);
                sleep(Duration::from_millis(50)).await;
            }
        } => unreachable!(),
    };
    let most_memory = peak.load(Relaxed);
    let mut trouble = Vec::new();
    if most_memory > 500 * MIB {
        trouble.push(format!("{} MiB of memory", most_memory / MIB));
    }
    for (what, listening, said) in told {
        println!("{what}: {said:?}");
        if listening && said.is_empty() {
            trouble.push(format!("{what}: not a word came back"));
        }
    }
    if !site.let_go(calm).await {
        trouble.push(format!("{} of {calm} descriptors are still open: something hangs", site.descriptors()));
    }
    let cases = floods.len() * 2;
    site.end("floods of HTTP/2 frames", "floods", cases, most_memory, &trouble);
}
