//! The command line against a small server that answers as the package API does, and fails on demand.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers as well")]

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs,
    net::{SocketAddr, TcpListener},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path as UrlPath, Query, Request, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const TOKEN: &str = "correct-horse";
const MIB: usize = 1024 * 1024;

/// What goes wrong with one request.
enum Fault {
    /// This is answered before the body is read.
    Answer(StatusCode, &'static [(&'static str, &'static str)]),
    /// The request does its work, then the connection breaks.
    LoseTheAnswer,
    /// The body breaks after so many bytes.
    CutAt(usize),
    /// One byte of the body is another.
    Damage,
    /// A newer version comes first.
    Change(Vec<u8>),
}

#[derive(Default)]
struct Store {
    packages: BTreeMap<String, Vec<u8>>,
    faults: HashMap<Method, VecDeque<Fault>>,
    requests: Vec<(Method, String, HeaderMap)>,
    /// The listing, if it is not to be that of the packages.
    listing: Option<serde_json::Value>,
    without_digests: bool,
}

type Shared = Arc<Mutex<Store>>;

struct Server {
    address: SocketAddr,
    store: Shared,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start() -> Self {
        let store = Shared::default();
        let app = Router::new()
            .route("/assets/{name}", get(download).put(upload).delete(delete))
            .route("/packages", get(list))
            .route("/readyz", get(ready))
            .with_state(store.clone());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { address, store, _runtime: runtime }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    fn holds(&self, name: &str, bytes: &[u8]) {
        self.store().packages.insert(name.to_owned(), bytes.to_owned());
    }

    fn fails(&self, method: Method, fault: Fault) {
        self.store().faults.entry(method).or_default().push_back(fault);
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn requests(&self, method: &Method) -> Vec<(String, HeaderMap)> {
        let store = self.store();
        let of_method = store.requests.iter().filter(|(of, ..)| of == method);
        of_method.map(|(_, path, headers)| (path.clone(), headers.clone())).collect()
    }

    fn command(&self, folder: &TempDir, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command.current_dir(folder);
        command.env("RELEASE_SERVER_URL", self.url()).env("RELEASE_SERVER_TOKEN", TOKEN);
        command
    }

    fn run(&self, folder: &TempDir, arguments: &[&str]) -> Ended {
        self.command(folder, arguments).output().unwrap().into()
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_release-server"));
    command.env_clear().args(arguments);
    command
}

#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ended {
    #[track_caller]
    fn well(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    #[track_caller]
    fn badly(self, because: &str) -> Self {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert!(self.stderr.contains(because), "{}", self.stderr);
        self
    }
}

fn message(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({"message": text, "documentation_url": "http://localhost/docs"}))).into_response()
}

fn repr_digest(bytes: &[u8]) -> String {
    format!("sha-256=:{}:", BASE64_STANDARD.encode(Sha256::digest(bytes)))
}

fn hex_digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn package(name: &str, bytes: &[u8]) -> serde_json::Value {
    json!({
        "name": name, "size": bytes.len(), "created_at": "2026-01-02T03:04:05Z",
        "sha256": hex_digest(bytes), "url": format!("http://public.example/assets/{name}"),
    })
}

/// Notes the request; answers with the fault it is to meet.
fn meet(store: &Shared, request: &Request) -> Option<Fault> {
    let mut store = store.lock().unwrap();
    let method = request.method().clone();
    store.requests.push((method.clone(), request.uri().to_string(), request.headers().clone()));
    store.faults.get_mut(&method)?.pop_front()
}

/// Ends the connection without an answer, and without a word from the panic hook.
fn break_connection() -> ! {
    std::panic::resume_unwind(Box::new(()))
}

fn is_allowed(headers: &HeaderMap) -> bool {
    headers.get("authorization").is_some_and(|value| value == &format!("Bearer {TOKEN}"))
}

async fn upload(
    State(store): State<Shared>,
    UrlPath(name): UrlPath<String>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Response {
    let fault = meet(&store, &request);
    if let Some(Fault::Answer(status, headers)) = fault {
        return (status, axum::response::AppendHeaders(headers.iter().copied())).into_response();
    }
    let headers = request.headers().clone();
    if !is_allowed(&headers) {
        return message(StatusCode::UNAUTHORIZED, "this needs a token");
    }
    let bytes = request.into_body().collect().await.unwrap().to_bytes().to_vec();
    if headers["repr-digest"] != repr_digest(&bytes) {
        return message(StatusCode::UNPROCESSABLE_ENTITY, "the digest is another; nothing was stored");
    }
    let overwrite = query.get("overwrite").is_some_and(|value| value == "true");
    let answer = package(&name, &bytes);
    {
        let mut store = store.lock().unwrap();
        if store.packages.contains_key(&name) && !overwrite {
            return message(StatusCode::CONFLICT, &format!("package `{name}` already exists"));
        }
        store.packages.insert(name, bytes);
    }
    if let Some(Fault::LoseTheAnswer) = fault {
        break_connection()
    }
    Json(answer).into_response()
}

async fn download(State(store): State<Shared>, UrlPath(name): UrlPath<String>, request: Request) -> Response {
    let fault = meet(&store, &request);
    if let Some(Fault::Answer(status, headers)) = fault {
        return (status, axum::response::AppendHeaders(headers.iter().copied())).into_response();
    }
    let mut store = store.lock().unwrap();
    if let Some(Fault::Change(newer)) = &fault {
        store.packages.insert(name.clone(), newer.clone());
    }
    let Some(bytes) = store.packages.get(&name).cloned() else {
        return message(StatusCode::NOT_FOUND, &format!("package `{name}` does not exist"));
    };
    let etag = format!("\"{}\"", &hex_digest(&bytes)[..16]);
    let mut answer = Response::builder().header("etag", &etag).header("accept-ranges", "bytes");
    if !store.without_digests {
        answer = answer.header("repr-digest", repr_digest(&bytes));
    }
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap());
    let start = match (header("range"), header("if-range")) {
        (Some(range), None) => panic!("`{range}` without If-Range"),
        (Some(range), Some(version)) if version == etag => {
            let start: usize =
                range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
            let content_range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            answer = answer.status(StatusCode::PARTIAL_CONTENT).header("content-range", content_range);
            start
        }
        _ => 0,
    };
    let mut bytes = bytes[start..].to_vec();
    answer = answer.header("content-length", bytes.len());
    let broken = match fault {
        Some(Fault::CutAt(length)) => {
            bytes.truncate(length);
            true
        }
        Some(Fault::Damage) => {
            bytes[0] ^= 1;
            false
        }
        _ => false,
    };
    let blocks = async_blocks(Bytes::from(bytes), broken);
    answer.body(Body::from_stream(blocks)).unwrap()
}

/// The bytes, and then the end or a break in the connection.
fn async_blocks(bytes: Bytes, broken: bool) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> {
    futures_util::stream::unfold(Some(bytes), move |left| async move {
        match left {
            Some(bytes) if !bytes.is_empty() => Some((Ok(bytes), broken.then(Bytes::new))),
            Some(_) => {
                // What was sent is to arrive first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Some((Err(std::io::Error::other("broken on demand")), None))
            }
            None => None,
        }
    })
}

async fn delete(State(store): State<Shared>, UrlPath(name): UrlPath<String>, request: Request) -> Response {
    let fault = meet(&store, &request);
    let removed = store.lock().unwrap().packages.remove(&name);
    if let Some(Fault::LoseTheAnswer) = fault {
        break_connection()
    }
    match removed {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => message(StatusCode::NOT_FOUND, &format!("package `{name}` does not exist")),
    }
}

async fn list(State(store): State<Shared>, request: Request) -> Response {
    if let Some(Fault::Answer(status, _)) = meet(&store, &request) {
        return status.into_response();
    }
    let store = store.lock().unwrap();
    let packages = || store.packages.iter().map(|(name, bytes)| package(name, bytes)).collect();
    Json(store.listing.clone().unwrap_or_else(packages)).into_response()
}

async fn ready(State(store): State<Shared>, request: Request) -> Response {
    match meet(&store, &request) {
        Some(Fault::Answer(status, _)) => status.into_response(),
        _ => "OK".into_response(),
    }
}

fn folder() -> TempDir {
    TempDir::new().unwrap()
}

fn folder_with(files: &[(&str, &[u8])]) -> TempDir {
    let folder = folder();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn files_in(folder: &TempDir) -> Vec<String> {
    let entries =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.collect();
    names.sort();
    names
}

fn read(folder: &TempDir, name: &str) -> Vec<u8> {
    fs::read(folder.path().join(name)).unwrap()
}

/// Bytes of which no two blocks are the same.
fn noise(length: usize) -> Vec<u8> {
    (0u64..).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()).take(length).collect()
}

#[test]
fn an_upload_arrives_with_its_digest_and_prints_where_it_is() {
    let (server, bytes) = (Server::start(), noise(3 * MIB + 7));
    let folder = folder_with(&[("app.zip", &bytes)]);
    let ended = server.run(&folder, &["upload", "app.zip"]).well();
    assert_eq!(ended.stdout, format!("{}  http://public.example/assets/app.zip\n", hex_digest(&bytes)));
    assert_eq!(ended.stderr, "uploading `app.zip`, 3.0 MiB\n");
    assert_eq!(server.store().packages["app.zip"], bytes);
    let (path, headers) = server.requests(&Method::PUT).remove(0);
    assert_eq!(path, "/assets/app.zip?overwrite=false");
    assert_eq!(headers["content-length"], bytes.len().to_string());
    assert!(!headers.contains_key("transfer-encoding"));
}

#[test]
fn a_name_may_have_any_character() {
    let (server, name) = (Server::start(), "größe & 50%25 #1?+.zip");
    let folder = folder_with(&[(name, b"bytes")]);
    server.run(&folder, &["upload", name]).well();
    assert_eq!(server.store().packages[name], b"bytes");
    server.run(&folder, &["download", name, "--force"]).well();
    server.run(&folder, &["delete", name]).well();
    assert!(server.store().packages.is_empty());
}

#[test]
fn one_bad_file_does_not_keep_the_others_back() {
    for jobs in ["1", "3"] {
        let server = Server::start();
        server.holds("b", b"others");
        let folder = folder_with(&[("a", b"1"), ("b", b"2"), ("c", b"3"), ("empty", b"")]);
        let ended = server.run(&folder, &["upload", "--jobs", jobs, "a", "b", "missing", "empty", "c"]);
        let ended = ended.badly("3 of 5 files could not be uploaded");
        assert!(
            ended
                .stderr
                .contains("cannot upload `b`\n  caused by: package `b` already exists (409 Conflict)")
        );
        assert!(ended.stderr.contains("cannot upload `missing`\n  caused by: cannot open the file"));
        assert!(ended.stderr.contains("cannot upload `empty`\n  caused by: the file is empty"));
        let lines: Vec<_> = ended.stdout.lines().map(|line| line.rsplit('/').next().unwrap()).collect();
        assert_eq!(lines, ["a", "c"]);
        assert_eq!(server.store().packages["b"], b"others");
    }
}

#[test]
fn two_files_of_one_name_are_refused_before_anything_is_sent() {
    let (server, folder) = (Server::start(), folder_with(&[("a", b"1")]));
    server.run(&folder, &["upload", "a", "./a"]).badly("two of the files are called `a`");
    assert!(server.store().requests.is_empty());
}

#[test]
fn a_name_taken_by_the_same_bytes_is_a_success() {
    let (server, folder) = (Server::start(), folder_with(&[("a", b"same")]));
    server.holds("a", b"same");
    let ended = server.run(&folder, &["upload", "a"]).well();
    assert!(ended.stderr.contains("`a` is already there, with the same bytes"));
    assert!(ended.stdout.starts_with(&hex_digest(b"same")));
}

#[test]
fn a_server_that_declares_no_digest_is_asked_for_its_listing() {
    let (server, folder) = (Server::start(), folder_with(&[("a", b"same")]));
    server.holds("a", b"same");
    server.store().without_digests = true;
    server.run(&folder, &["upload", "a"]).well();
}

#[test]
fn overwrite_replaces() {
    let (server, folder) = (Server::start(), folder_with(&[("a", b"new")]));
    server.holds("a", b"old");
    server.run(&folder, &["upload", "--overwrite", "a"]).well();
    assert_eq!(server.store().packages["a"], b"new");
}

#[test]
fn a_busy_server_is_asked_again_when_it_wants_to_be() {
    let (server, folder) = (Server::start(), folder_with(&[("a", &noise(2 * MIB))]));
    server.fails(Method::PUT, Fault::Answer(StatusCode::SERVICE_UNAVAILABLE, &[("retry-after", "1")]));
    server.fails(Method::PUT, Fault::Answer(StatusCode::TOO_MANY_REQUESTS, &[("retry-after", "0")]));
    let started = Instant::now();
    let ended = server.run(&folder, &["upload", "a"]).well();
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert!(
        ended.stderr.contains("the server answered 503 Service Unavailable; trying again in 1."),
        "{}",
        ended.stderr
    );
    assert_eq!(server.store().packages["a"], noise(2 * MIB));
    assert_eq!(server.requests(&Method::PUT).len(), 3);
}

#[test]
fn a_server_that_stays_busy_is_given_up() {
    let (server, folder) = (Server::start(), folder_with(&[("a", b"1")]));
    for _ in 0..4 {
        server.fails(Method::PUT, Fault::Answer(StatusCode::SERVICE_UNAVAILABLE, &[("retry-after", "0")]));
    }
    server.run(&folder, &["upload", "a"]).badly("caused by: the server answered 503 Service Unavailable");
    assert_eq!(server.requests(&Method::PUT).len(), 4);
}

#[test]
fn an_upload_whose_answer_is_lost_is_found_to_be_there() {
    let (server, bytes) = (Server::start(), noise(2 * MIB));
    let folder = folder_with(&[("a", &bytes)]);
    server.fails(Method::PUT, Fault::LoseTheAnswer);
    let ended = server.run(&folder, &["upload", "a"]).well();
    assert!(ended.stderr.contains("trying again"), "{}", ended.stderr);
    assert!(ended.stdout.starts_with(&hex_digest(&bytes)));
    assert_eq!(server.requests(&Method::PUT).len(), 2);
}

#[test]
fn a_refusal_before_the_body_is_read_is_shown_and_final() {
    let (server, folder) = (Server::start(), folder_with(&[("a", &noise(64 * MIB))]));
    let ended =
        server.command(&folder, &["upload", "a"]).env_remove("RELEASE_SERVER_TOKEN").output().unwrap();
    let because = "this needs a token (401 Unauthorized); set `RELEASE_SERVER_TOKEN`, or give `--token-file`";
    Ended::from(ended).badly(because);
    assert_eq!(server.requests(&Method::PUT).len(), 1);
}

#[test]
fn the_token_is_read_from_a_file_and_never_shown() {
    let (server, folder) =
        (Server::start(), folder_with(&[("a", b"1"), ("good", b"correct-horse\n"), ("bad", b"hunter2")]));
    let run = |file| {
        let mut command = server.command(&folder, &["upload", "a", "--token-file", file]);
        Ended::from(command.env("RELEASE_SERVER_TOKEN", "ignored").output().unwrap())
    };
    let refused = run("bad").badly("check the token in `RELEASE_SERVER_TOKEN`");
    assert!(!format!("{refused:?}").contains("hunter2"));
    run("good").well();
    run("missing").badly("cannot read the token from `missing`");
}

#[test]
fn an_upload_follows_no_redirect_but_tells_where_it_points() {
    let (server, folder) = (Server::start(), folder_with(&[("a", b"1")]));
    server.fails(
        Method::PUT,
        Fault::Answer(StatusCode::PERMANENT_REDIRECT, &[("location", "https://other.example/a")]),
    );
    server
        .run(&folder, &["upload", "a"])
        .badly("308 Permanent Redirect; it points to `https://other.example/a`");
}

#[test]
fn a_download_is_whole_and_replaces_nothing_unasked() {
    let (server, folder, bytes) = (Server::start(), folder(), noise(3 * MIB + 7));
    server.holds("app.zip", &bytes);
    assert_eq!(server.run(&folder, &["download", "app.zip"]).well().stdout, "app.zip\n");
    assert_eq!(read(&folder, "app.zip"), bytes);
    assert_eq!(files_in(&folder), ["app.zip"]);

    fs::write(folder.path().join("app.zip"), "mine").unwrap();
    server.run(&folder, &["download", "app.zip"]).badly("`app.zip` is already there; `--force` replaces it");
    assert_eq!(read(&folder, "app.zip"), b"mine");
    server.run(&folder, &["download", "--force", "app.zip"]).well();
    assert_eq!(read(&folder, "app.zip"), bytes);
    server.run(&folder, &["download", "app.zip", "-o", "other"]).well();
    assert_eq!(files_in(&folder), ["app.zip", "other"]);
}

#[test]
fn a_package_that_is_missing_leaves_nothing_behind() {
    let (server, folder) = (Server::start(), folder());
    server.run(&folder, &["download", "a"]).badly("caused by: package `a` does not exist (404 Not Found)");
    assert!(files_in(&folder).is_empty());
}

#[test]
fn a_download_cut_short_goes_on_where_it_stopped() {
    let (server, folder, bytes) = (Server::start(), folder(), noise(3 * MIB));
    server.holds("a", &bytes);
    server.fails(Method::GET, Fault::CutAt(MIB));
    server.fails(Method::GET, Fault::CutAt(MIB));
    server.run(&folder, &["download", "a"]).well();
    assert_eq!(read(&folder, "a"), bytes);
    let ranges: Vec<_> =
        server.requests(&Method::GET).iter().map(|(_, headers)| headers.get("range").cloned()).collect();
    assert_eq!(
        ranges,
        [None, Some("bytes=1048576-".parse().unwrap()), Some("bytes=2097152-".parse().unwrap())]
    );
}

#[test]
fn a_package_replaced_in_the_middle_is_fetched_anew() {
    let (server, folder) = (Server::start(), folder());
    server.holds("a", &noise(2 * MIB));
    server.fails(Method::GET, Fault::CutAt(MIB));
    server.fails(Method::GET, Fault::Change(vec![7; 5]));
    server.run(&folder, &["download", "a"]).well();
    assert_eq!(read(&folder, "a"), [7; 5]);

    server.holds("a", &noise(2 * MIB));
    server.fails(Method::GET, Fault::CutAt(MIB));
    server.fails(Method::GET, Fault::Change(vec![7; 5]));
    server.run(&folder, &["download", "a", "-o", "-"]).badly("does not fit what was already written");
}

#[test]
fn a_part_of_an_earlier_run_is_continued() {
    let (server, bytes) = (Server::start(), noise(3 * MIB));
    server.holds("a", &bytes);
    let folder = folder_with(&[("a.part", &bytes[..MIB])]);
    server.run(&folder, &["download", "a"]).well();
    assert_eq!(read(&folder, "a"), bytes);
    assert_eq!(files_in(&folder), ["a"]);
    assert_eq!(server.requests(&Method::GET)[0].1["range"], "bytes=1048576-");
}

#[test]
fn a_whole_part_needs_no_more_bytes() {
    let (server, bytes) = (Server::start(), noise(MIB));
    server.holds("a", &bytes);
    let folder = folder_with(&[("a.part", &bytes)]);
    server.run(&folder, &["download", "a"]).well();
    assert_eq!(read(&folder, "a"), bytes);
    assert!(server.requests(&Method::GET).is_empty());
}

#[test]
fn a_part_of_other_bytes_is_thrown_away() {
    for (part, without_digests) in [(noise(MIB + 1), false), (vec![7; 10], false), (vec![7; 10], true)] {
        let (server, bytes) = (Server::start(), noise(MIB));
        server.holds("a", &bytes);
        server.store().without_digests = without_digests;
        let folder = folder_with(&[("a.part", &part)]);
        server.run(&folder, &["download", "a"]).well();
        assert_eq!(read(&folder, "a"), bytes);
        assert_eq!(files_in(&folder), ["a"]);
    }
}

#[test]
fn a_part_survives_a_server_that_is_away() {
    let server = Server::start();
    let folder = folder_with(&[("a.part", b"precious")]);
    for _ in 0..4 {
        let busy = Fault::Answer(StatusCode::SERVICE_UNAVAILABLE, &[("retry-after", "0")]);
        server.fails(Method::HEAD, busy);
    }
    server.run(&folder, &["download", "a"]).badly("503 Service Unavailable");
    assert_eq!(read(&folder, "a.part"), b"precious");
}

#[test]
fn a_part_is_kept_when_all_tries_are_cut_short() {
    let (server, folder, bytes) = (Server::start(), folder(), noise(10 * MIB));
    server.holds("a", &bytes);
    for _ in 0..4 {
        server.fails(Method::GET, Fault::CutAt(MIB));
    }
    server.run(&folder, &["download", "a"]).badly("`a.part` is kept: the same command continues it");
    assert_eq!(read(&folder, "a.part"), bytes[..4 * MIB]);
    server.run(&folder, &["download", "a"]).well();
    assert_eq!(read(&folder, "a"), bytes);
}

#[test]
fn damaged_bytes_are_not_kept() {
    let (server, folder) = (Server::start(), folder());
    server.holds("a", &noise(MIB));
    server.fails(Method::GET, Fault::Damage);
    server.run(&folder, &["download", "a"]).badly("do not have the SHA-256 that the server declares");
    assert!(files_in(&folder).is_empty());
}

#[test]
fn standard_output_gets_the_bytes_and_nothing_else() {
    let (server, folder, bytes) = (Server::start(), folder(), noise(3 * MIB));
    server.holds("a", &bytes);
    server.fails(Method::GET, Fault::CutAt(MIB));
    let output = server.command(&folder, &["download", "a", "-o", "-"]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, bytes);
    assert!(files_in(&folder).is_empty());
}

#[test]
fn a_redirect_to_another_origin_does_not_get_the_token() {
    let (server, other, folder) = (Server::start(), Server::start(), folder());
    server.holds("a", b"here");
    other.holds("a", b"there");
    let location: &'static str = format!("{}/assets/a", other.url()).leak();
    let headers: &'static [(&str, &str)] = vec![("location", location)].leak();
    server.fails(Method::GET, Fault::Answer(StatusCode::FOUND, headers));
    server.run(&folder, &["download", "a"]).well();
    assert_eq!(read(&folder, "a"), b"there");
    assert!(is_allowed(&server.requests(&Method::GET)[0].1));
    assert!(!other.requests(&Method::GET)[0].1.contains_key("authorization"));
}

#[test]
fn the_latest_is_the_first_of_the_listing_that_matches() {
    let (server, folder) = (Server::start(), folder());
    server.holds("app-linux-1.zip", b"1");
    server.holds("app-linux-2.zip", b"2");
    let newest_first = [("app-mac-2.zip", b"x"), ("app-linux-2.zip", b"2"), ("app-linux-1.zip", b"1")];
    server.store().listing = Some(newest_first.iter().map(|(name, bytes)| package(name, *bytes)).collect());
    assert_eq!(
        server.run(&folder, &["download", "--latest", "--match", "linux"]).well().stdout,
        "app-linux-2.zip\n"
    );
    server
        .run(&folder, &["download", "--latest", "--match", "windows"])
        .badly("no package has `windows` in its name");
}

#[test]
fn a_hostile_name_does_not_leave_the_folder_or_reach_the_terminal() {
    let folder = folder();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    for name in ["../evil", "/tmp/evil", ".bashrc", "..", "a\\..\\b", "a\u{1b}[2Jb", "a\u{202e}b"] {
        let server = Server::start();
        server.holds(name, b"evil");
        server.store().listing = Some(json!([package(name, b"evil")]));
        let download =
            server.command(&folder, &["download", "--latest"]).current_dir(&inner).output().unwrap();
        let ended = Ended::from(download).badly("name");
        assert!(!ended.stderr.contains(['\u{1b}', '\u{202e}']), "{}", ended.stderr);
        assert_eq!(files_in(&folder), ["inner"]);
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 0, "{name}");

        let table = server.run(&folder, &["list"]).well().stdout;
        assert!(!table.contains(['\u{1b}', '\u{202e}']), "{table}");
        assert_eq!(table.lines().count(), 2);
    }
}

#[test]
fn the_list_is_a_table_or_json() {
    let (server, folder) = (Server::start(), folder());
    let ended = server.run(&folder, &["list"]).well();
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", "there are no packages yet\n"));

    server.holds("app.zip", b"abc");
    assert_eq!(
        server.run(&folder, &["list"]).well().stdout,
        "      SIZE  CREATED (UTC)     SHA-256       NAME\n       3 B  2026-01-02 03:04  ba7816bf8f01  app.zip\n"
    );
    let json = server.run(&folder, &["list", "--json"]).well().stdout;
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&json).unwrap(),
        json!([package("app.zip", b"abc")])
    );
}

#[test]
fn a_reader_who_has_seen_enough_is_no_failure() {
    let (server, folder) = (Server::start(), folder());
    server.holds("a", b"1");
    let mut list = server.command(&folder, &["list"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(list.stdout.take());
    assert!(list.wait().unwrap().success());
}

#[test]
fn an_answer_that_is_not_ours_is_called_that() {
    let (server, folder) = (Server::start(), folder());
    server.store().listing = Some(json!({"hello": "world"}));
    server.run(&folder, &["list"]).badly("the answer is not one of a Release Server; is the address right?");
}

#[test]
fn each_deletion_is_told() {
    let (server, folder) = (Server::start(), folder());
    server.holds("a", b"1");
    server.holds("b", b"2");
    let ended =
        server.run(&folder, &["delete", "a", "missing", "b"]).badly("1 of 3 packages could not be deleted");
    assert_eq!(ended.stdout, "deleted `a`\ndeleted `b`\n");
    assert!(
        ended.stderr.contains(
            "cannot delete `missing`\n  caused by: package `missing` does not exist (404 Not Found)"
        )
    );
}

#[test]
fn a_deletion_whose_answer_is_lost_is_done() {
    let (server, folder) = (Server::start(), folder());
    server.holds("a", b"1");
    server.fails(Method::DELETE, Fault::LoseTheAnswer);
    assert_eq!(server.run(&folder, &["delete", "a"]).well().stdout, "deleted `a`\n");
}

#[test]
fn a_healthcheck_says_ready_or_why_not() {
    let server = Server::start();
    let check = |url: &str| Ended::from(command(&["healthcheck", "--url", url]).output().unwrap());
    assert_eq!(
        check(&server.url()).well().stdout,
        format!("ready: `{}/readyz` answered 200 OK\n", server.url())
    );

    server.fails(Method::GET, Fault::Answer(StatusCode::SERVICE_UNAVAILABLE, &[]));
    check(&server.url()).badly("answered 503 Service Unavailable");

    // Takes connections, but never answers.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let started = Instant::now();
    check(&format!("http://{}", deaf.local_addr().unwrap())).badly("no answer from");
    assert!((2..5).contains(&started.elapsed().as_secs()));
}

#[test]
fn a_healthcheck_finds_the_port_and_needs_no_certificates() {
    let server = Server::start();
    let mut check = command(&["healthcheck"]);
    check
        .env("PORT", server.address.port().to_string())
        .env("SSL_CERT_FILE", "/dev/null")
        .env("SSL_CERT_DIR", "/nowhere");
    check.env("HTTP_PROXY", "http://127.0.0.1:1").env("http_proxy", "http://127.0.0.1:1");
    Ended::from(check.output().unwrap()).well();
}

#[test]
fn the_exit_code_of_a_wrong_command_line_is_2() {
    for arguments in [
        &["upload"][..],
        &["download"],
        &["delete"],
        &["nonsense"],
        &["upload", "a", "--token", "x"],
        &["upload", "a", "--jobs", "0"],
    ] {
        let ended = Ended::from(command(arguments).output().unwrap());
        assert_eq!(ended.code, Some(2), "{arguments:?}");
    }
}

#[test]
fn the_help_has_examples() {
    for (arguments, example) in [
        (&["--help"][..], "release-server upload dist/*.zip"),
        (&["upload", "--help"], "--jobs 4"),
        (&["download", "--help"], "-o - | tar -xz"),
    ] {
        let ended = Ended::from(command(arguments).output().unwrap()).well();
        assert!(ended.stdout.contains(example), "{}", ended.stdout);
    }
}
