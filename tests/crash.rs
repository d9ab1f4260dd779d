//! Servers killed, stopped and cut off in the middle: what was acknowledged is there, whole and under its digest;
//! what was not leaves nothing behind. And the command line against a server that dies on the way.
//!
//! More rounds of kills than the default three:
//!
//! ```console
//! $ RELEASE_SERVER_TEST_ROUNDS=5 cargo test --test crash -- --nocapture
//! ```

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers as well")]

mod evidence;
#[allow(dead_code, reason = "each test binary uses its part")]
mod process;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Output},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use evidence::Evidence;
use futures_util::{StreamExt, stream};
use process::{
    Client, KIB, MIB, Server, Signal, TOKEN, body, command, control, eventually, repr_digest, scale, sha256,
};
use reqwest::StatusCode;
use tokio::sync::Notify;

const KEEP_ALL: (&str, &str) = ("MAX_PACKAGES", "0");

/// What was sent under one name, and what was answered.
#[derive(Debug, Default)]
struct Sent {
    /// In the order in which they were sent, one after the other.
    bodies: Vec<Bytes>,
    /// The last one that was acknowledged.
    acknowledged: Option<usize>,
}

type AllSent = Mutex<BTreeMap<String, Sent>>;

/// How many of them go up before, and while, a server is killed.
const UPLOADS: usize = 100;

/// Uploads packages, a quarter of them over those of the round before, and kills the server on the way.
async fn kill_during_uploads(server: &Server, client: &Client, sent: &AllSent, round: usize) {
    let enough = rand::random_range(1..UPLOADS - 20);
    let moment = Duration::from_micros(rand::random_range(0..30_000));
    let acknowledged = AtomicUsize::new(0);
    let now = Notify::new();

    let uploads = stream::iter(0..UPLOADS).for_each_concurrent(12, async |number| {
        let overwrite = number % 4 == 0;
        let name = if overwrite { format!("again-{number}.bin") } else { format!("{round}-{number}.bin") };
        // As many of each magnitude, from 1 KiB to 4 MiB.
        let size = KIB << rand::random_range(0..12);
        let bytes = body(rand::random(), size + rand::random_range(0..size));
        let index = {
            let mut sent = sent.lock().unwrap();
            let sent = sent.entry(name.clone()).or_default();
            sent.bodies.push(bytes.clone());
            sent.bodies.len() - 1
        };
        // A connection that broke is no answer: nobody knows.
        if let Ok((status, package)) = client.put(server, &name, bytes.clone(), overwrite).await {
            assert_eq!(status, StatusCode::OK, "{package}");
            assert_eq!(package["sha256"], sha256(&bytes));
            sent.lock().unwrap().get_mut(&name).unwrap().acknowledged = Some(index);
            if acknowledged.fetch_add(1, Relaxed) + 1 == enough {
                now.notify_one();
            }
        }
    });
    let kill = async {
        now.notified().await;
        tokio::time::sleep(moment).await;
        server.signal(Signal::KILL);
    };
    tokio::join!(uploads, kill);
    println!("round {round}: killed after {} of {UPLOADS} acknowledgements", acknowledged.into_inner());
}

/// Everything that is listed or can be downloaded is whole and was sent; nothing acknowledged is missing.
async fn check_what_is_left(server: &Server, client: &Client, sent: &mut AllSent) {
    let listed = client.list(server).await.unwrap();
    let listed: BTreeMap<_, _> = listed.iter().map(|package| (package.name.as_str(), package)).collect();
    let sent = sent.get_mut().unwrap();
    for name in listed.keys() {
        assert!(sent.contains_key(*name), "`{name}` is listed, but was never sent");
    }
    for (name, Sent { bodies, acknowledged }) in &*sent {
        let (status, digest, found) = client.get(server, name).await.unwrap();
        let Some(package) = listed.get(name.as_str()) else {
            assert_eq!(*acknowledged, None, "`{name}` was acknowledged and is not listed");
            assert_eq!(status, StatusCode::NOT_FOUND, "`{name}` is not listed, but can be downloaded");
            continue;
        };
        assert_eq!(status, StatusCode::OK, "`{name}`");
        let version = bodies.iter().position(|body| *body == found);
        let Some(version) = version else { panic!("`{name}` has {} bytes that nobody sent", found.len()) };
        assert!(
            Some(version) >= *acknowledged,
            "`{name}` went back to version {version} from {acknowledged:?}"
        );
        assert_eq!(package.size, found.len(), "`{name}`");
        if Some(version) == *acknowledged || package.sha256.is_some() {
            assert_eq!(package.sha256, Some(sha256(&found)), "`{name}`");
        }
        if let Some(digest) = digest {
            assert_eq!(digest, repr_digest(&found), "`{name}`");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_nothing_acknowledged_and_leaves_nothing_half() {
    let directory = tempfile::tempdir().unwrap();
    let client = Client::new();
    let mut sent = AllSent::default();
    // Uploads that another process on the directory has in hand all the while, however long that is.
    let other = Server::start(directory.path(), &[KEEP_ALL, ("SERVER__STALL_TIMEOUT", "1h")]);
    let slow: Vec<_> = (0..4)
        .map(|number| {
            let (name, bytes) = (format!("slow-{number}.bin"), body(number, 2 * MIB));
            let stream = begin_upload(&other, &name, &bytes, 3 * MIB / 2);
            (name, bytes, stream)
        })
        .collect();
    let staged = || control(directory.path(), "stage").into_iter().collect::<BTreeSet<_>>();
    eventually("the other process has begun", || staged().len() == slow.len());
    let held = staged();

    let mut left = 0;
    let mut server = Server::start(directory.path(), &[KEEP_ALL]);
    for round in 0..3 * scale() {
        kill_during_uploads(&server, &client, &sent, round).await;
        server.ended(Duration::from_secs(10));
        let unfinished = &staged() - &held;
        left += unfinished.len();
        server = Server::start(directory.path(), &[KEEP_ALL]);
        // What comes anew is of the running servers.
        let kept = staged();
        assert!(kept.is_disjoint(&unfinished), "unfinished uploads are left: {kept:?}");
        assert!(kept.is_superset(&held), "uploads of another process were taken away: {kept:?}");
        check_what_is_left(&server, &client, &mut sent).await;
    }
    println!("{left} unfinished uploads were cleared");
    Evidence {
        attack: "a server killed while packages go up",
        on: "directory",
        cases: 3 * scale() * UPLOADS,
        of: "uploads",
        ..Evidence::default()
    }
    .record();

    for (name, bytes, mut stream) in slow {
        stream.write_all(&bytes[3 * MIB / 2..]).unwrap();
        assert_eq!(status_line(&stream), "HTTP/1.1 200 OK");
        sent.lock().unwrap().insert(name, Sent { bodies: vec![bytes], acknowledged: Some(0) });
    }
    for server in [&server, &other] {
        check_what_is_left(server, &client, &mut sent).await;
    }

    // What was stored and not acknowledged gets its digest in time.
    let deadline = Instant::now() + Duration::from_secs(30);
    while client.list(&server).await.unwrap().iter().any(|package| package.sha256.is_none()) {
        assert!(Instant::now() < deadline, "packages without a digest are left");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    check_what_is_left(&server, &client, &mut sent).await;
    eventually("no staged file is left", || staged().is_empty());
}

/// A request head with the token, ended by an empty line.
fn head(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n{fields}\r\n\r\n")
}

/// An upload of `bytes` of which only so many are sent, once the server has asked for them.
fn begin_upload(server: &Server, name: &str, bytes: &[u8], send: usize) -> TcpStream {
    const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let fields = format!("Content-Length: {}\r\nExpect: 100-continue", bytes.len());
    stream.write_all(head("PUT", &format!("/assets/{name}"), &fields).as_bytes()).unwrap();
    let mut asked = [0; CONTINUE.len()];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(asked, CONTINUE);
    stream.write_all(&bytes[..send]).unwrap();
    stream
}

/// The status line of an answer.
fn status_line(stream: &TcpStream) -> String {
    BufReader::new(stream).lines().next().unwrap_or_else(|| Ok(String::new())).unwrap()
}

/// Nothing but the server's own folder, which holds no upload and knows of none.
fn is_untouched(directory: &Path) -> bool {
    let entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    entries == [".release-server"]
        && control(directory, "stage").is_empty()
        && control(directory, "packages").is_empty()
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let bytes = body(1, 4 * MIB);
    let sent = &bytes[..5 * MIB / 2];
    let chunk = [format!("{:x}\r\n", sent.len()).as_bytes(), sent, b"\r\n"].concat();
    let form =
        [b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\n\r\n", sent].concat();
    // The file is whole, but not the form around it.
    let open_form = [&form[..], b"\r\n--b\r\nContent-Disposition: form-data; name=\"more\"\r\n\r\n"].concat();
    let form_fields = format!("Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {}", 4 * MIB);
    for (head, sent) in [
        (head("PUT", "/assets/a.bin", &format!("Content-Length: {}", bytes.len())), sent),
        (head("PUT", "/assets/a.bin?overwrite=true", "Transfer-Encoding: chunked"), &chunk),
        (head("POST", "/upload", &form_fields), &form),
        (head("POST", "/upload", &form_fields), &open_form),
    ] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(sent).unwrap();
        eventually("the upload is under way", || control(directory.path(), "stage").len() == 1);
        assert_eq!(Client::new().list(&server).await.unwrap(), []);
        drop(stream);
        eventually("nothing is left", || is_untouched(directory.path()));
    }
    assert_eq!(Client::new().list(&server).await.unwrap(), []);
    assert_eq!(Client::new().get(&server, "a.bin").await.unwrap().0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_slow_upload_is_fine_and_a_stalled_one_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[("SERVER__STALL_TIMEOUT", "1s")]);
    let bytes = body(1, 2 * MIB);
    let stalled = begin_upload(&server, "stalled.bin", &bytes, 3 * MIB / 2);
    let since = Instant::now();
    let watch = thread::spawn(move || {
        // Refused in words or cut off: in either case the server does not wait any longer.
        let _ = (&stalled).read(&mut [0; 1024]).map_err(|error| assert!(is_cut(&error), "{error}"));
        since.elapsed()
    });

    let mut slow = begin_upload(&server, "slow.bin", &bytes, 0);
    for piece in bytes.chunks(bytes.len() / 12 + 1) {
        thread::sleep(Duration::from_millis(250));
        slow.write_all(piece).unwrap();
    }
    assert_eq!(status_line(&slow), "HTTP/1.1 200 OK");
    let waited = watch.join().unwrap();
    assert!((900..10_000).contains(&waited.as_millis()), "dropped after {waited:?}");
    eventually("nothing of it is left", || control(directory.path(), "stage").is_empty());
    let listed = Client::new().list(&server).await.unwrap();
    assert_eq!(listed.iter().map(|package| &*package.name).collect::<Vec<_>>(), ["slow.bin"]);
    assert!(Client::new().get(&server, "slow.bin").await.unwrap().2 == bytes);
}

fn is_cut(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
}

#[tokio::test]
async fn sigterm_finishes_what_is_in_flight() {
    let directory = tempfile::tempdir().unwrap();
    let large = body(7, 48 * MIB);
    fs::write(directory.path().join("large.bin"), &large).unwrap();
    let mut server = Server::start(directory.path(), &[KEEP_ALL]);

    let mut download = TcpStream::connect(server.address).unwrap();
    download.write_all(head("GET", "/assets/large.bin", "Accept: */*").as_bytes()).unwrap();
    let mut start = [0; 64];
    download.read_exact(&mut start).unwrap();
    let bytes = body(1, 3 * MIB);
    let mut upload = begin_upload(&server, "a.bin", &bytes, 2 * MIB);
    let small = body(2, 2000);
    let mut small_upload = begin_upload(&server, "small.bin", &small, 1000);
    let idle = TcpStream::connect(server.address).unwrap();
    eventually("the upload is under way", || control(directory.path(), "stage").len() == 1);

    server.signal(Signal::TERM);
    eventually("no new connection is taken", || TcpStream::connect(server.address).is_err());
    thread::sleep(Duration::from_millis(200));
    upload.write_all(&bytes[2 * MIB..]).unwrap();
    small_upload.write_all(&small[1000..]).unwrap();
    assert_eq!(status_line(&upload), "HTTP/1.1 200 OK");
    assert_eq!(status_line(&small_upload), "HTTP/1.1 200 OK");
    let mut answer = start.to_vec();
    download.read_to_end(&mut answer).unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 200 OK") && answer.ends_with(&large),
        "{} bytes came",
        answer.len()
    );
    assert_eq!(server.ended(Duration::from_secs(10)).code(), Some(0));
    drop(idle);

    let server = Server::start(directory.path(), &[KEEP_ALL]);
    for (name, bytes) in [("a.bin", bytes), ("small.bin", small)] {
        let (status, digest, found) = Client::new().get(&server, name).await.unwrap();
        assert_eq!((status, digest), (StatusCode::OK, Some(repr_digest(&bytes))));
        assert!(found == bytes);
    }
}

#[test]
fn a_second_sigterm_ends_the_server_at_once() {
    use std::os::unix::process::ExitStatusExt;
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path(), &[]);
    let bytes = body(1, 3 * MIB);
    let _upload = begin_upload(&server, "a.bin", &bytes, 2 * MIB);
    eventually("the upload is under way", || control(directory.path(), "stage").len() == 1);
    server.signal(Signal::TERM);
    eventually("it is stopping", || !server.logged("shutdown").is_empty());
    server.signal(Signal::TERM);
    let status = server.ended(Duration::from_secs(2));
    assert_eq!((status.code(), status.signal()), (Some(128 + 15), None));

    drop(Server::start(directory.path(), &[]));
    assert!(is_untouched(directory.path()));
}

/// A client command against a server.
fn client(folder: &Path, server: &str, arguments: &[&str]) -> Command {
    let variables = [("RELEASE_SERVER_URL", server), ("RELEASE_SERVER_TOKEN", TOKEN)];
    let mut client = command(folder, &variables, arguments);
    client.current_dir(folder);
    client
}

/// The exit code, and what was printed and said.
fn outcome(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_command_line_publishes_lists_fetches_and_deletes() {
    let [directory, folder, elsewhere] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let mut server = Server::start(directory.path(), &[KEEP_ALL]);
    let run = |folder: &Path, arguments: &[&str]| {
        outcome(&client(folder, &server.url(""), arguments).output().unwrap())
    };
    let bodies = [("a.bin", body(1, 100)), ("b 2.bin", body(2, 2 * MIB)), ("c.bin", body(3, 5000))];
    for (name, bytes) in &bodies {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let (code, printed, said) = run(folder.path(), &["upload", "--jobs", "2", "a.bin", "b 2.bin", "c.bin"]);
    assert_eq!(code, Some(0), "{said}");
    for (name, bytes) in &bodies {
        assert!(printed.contains(&sha256(bytes)), "{printed}");
        assert!(fs::read(directory.path().join(name)).unwrap() == *bytes, "{name}");
    }

    // The same bytes again are a success, others are not.
    assert_eq!(run(folder.path(), &["upload", "a.bin"]).0, Some(0));
    fs::write(elsewhere.path().join("a.bin"), "other").unwrap();
    let (code, _, said) = run(elsewhere.path(), &["upload", "a.bin"]);
    assert!(code == Some(1) && said.contains("already exists"), "{said}");
    fs::remove_file(elsewhere.path().join("a.bin")).unwrap();

    let (code, printed, _) = run(folder.path(), &["list"]);
    assert!(code == Some(0) && bodies.iter().all(|(name, _)| printed.contains(name)), "{printed}");
    for (name, bytes) in &bodies {
        let (code, _, said) = run(elsewhere.path(), &["download", name]);
        assert_eq!(code, Some(0), "{said}");
        assert!(fs::read(elsewhere.path().join(name)).unwrap() == *bytes, "{name}");
    }
    let (code, _, said) = run(folder.path(), &["delete", "a.bin", "b 2.bin"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(run(folder.path(), &["delete", "a.bin"]).0, Some(1));
    assert_eq!(run(elsewhere.path(), &["download", "a.bin", "--force"]).0, Some(1));

    let url = server.url("");
    let healthcheck = || {
        let output = command(folder.path(), &[], &["healthcheck", "--url", &url]).output().unwrap();
        outcome(&output).0
    };
    assert_eq!(healthcheck(), Some(0));
    server.signal(Signal::KILL);
    server.ended(Duration::from_secs(10));
    assert_eq!(healthcheck(), Some(1));
}

#[test]
fn a_download_outlives_the_server_it_began_with() {
    let [directory, folder] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let bytes = body(1, 64 * MIB);
    fs::write(directory.path().join("large.bin"), &bytes).unwrap();
    let mut server = Server::start(directory.path(), &[KEEP_ALL]);
    let mut fetching = client(folder.path(), &server.url(""), &["download", "large.bin"]);
    let fetching = fetching.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let part = folder.path().join("large.bin.part");
    eventually("some of it is here", || fs::metadata(&part).is_ok_and(|part| part.len() > 0));
    server.signal(Signal::KILL);
    server.ended(Duration::from_secs(10));
    assert!(!folder.path().join("large.bin").exists(), "it was too fast to be interrupted");

    let port = server.address.port().to_string();
    let server = Server::start(directory.path(), &[KEEP_ALL, ("PORT", &port)]);
    let (code, _, said) = outcome(&fetching.wait_with_output().unwrap());
    assert!(code == Some(0) && said.contains("trying again"), "{said}");
    assert!(fs::read(folder.path().join("large.bin")).unwrap() == bytes);
    assert!(!part.exists());
    let asked = server.logged("request");
    assert!(asked.iter().any(|line| line["status"] == 206), "it did not continue: {asked:?}");
}

#[test]
fn a_wrong_configuration_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    for (variable, value) in [("PORT", "http"), ("RETENTION__INTERVAL", "soon"), ("MAX_PACKAGES", "-1")] {
        for subcommand in ["config", "serve", "sweep"] {
            let output = command(directory.path(), &[(variable, value)], &[subcommand]).output().unwrap();
            let (code, printed, said) = outcome(&output);
            assert_eq!((code, &*printed), (Some(1), ""), "{subcommand}: {said}");
            assert!(said.contains(variable) && said.contains(value), "{subcommand}: {said}");
        }
    }
    let (code, printed, _) = outcome(&command(directory.path(), &[], &["config"]).output().unwrap());
    assert!(code == Some(0) && printed.contains("auth_token") && !printed.contains(TOKEN), "{printed}");
    let (code, _, _) = outcome(&command(directory.path(), &[], &["swep"]).output().unwrap());
    assert_eq!(code, Some(2));
}

#[tokio::test]
async fn a_preview_of_the_sweep_is_a_table_and_removes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[KEEP_ALL, ("RETENTION__INTERVAL", "off")]);
    for number in 1..=3 {
        let name = format!("app-{number}.bin");
        Client::new().put(&server, &name, body(number, 1000), false).await.unwrap();
    }
    let settings = [("MAX_PACKAGES", "1")];
    let output = command(directory.path(), &settings, &["sweep", "--dry-run"]).output().unwrap();
    let (code, table, said) = outcome(&output);
    assert_eq!(code, Some(0), "{said}");
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let begun: Vec<_> = words.iter().map(|words| words[..2].join(" ")).collect();
    assert_eq!(
        begun[..4],
        ["action package", "keep app-3.bin", "remove app-2.bin", "remove app-1.bin"],
        "{table}"
    );
    assert!(table.contains("the 3rd newest; `max_packages` keeps 1"), "{table}");

    let sweep = || outcome(&command(directory.path(), &settings, &["sweep"]).output().unwrap());
    assert_eq!(Client::new().list(&server).await.unwrap().len(), 3);
    sweep();
    assert_eq!(Client::new().list(&server).await.unwrap().len(), 3, "the first pass removes nothing");
    let (code, logged, _) = sweep();
    assert!(code == Some(0) && logged.contains("\"removed\":2"), "{logged}");
    assert_eq!(Client::new().list(&server).await.unwrap().len(), 1);
}

/// The system calls of the server while `act` runs, in their order; `None` where they cannot be watched.
async fn system_calls(act: impl AsyncFnOnce(&Server)) -> Option<Vec<String>> {
    let works = Command::new("strace").args(["-y", "-o", "/dev/null", "true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "SKIPPED: the order of fsync, link and answer was not checked, for `strace` does not run here"
        );
        return None;
    }
    let [directory, trace] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let file = trace.path().join("trace");
    let calls =
        "trace=fsync,fdatasync,link,linkat,rename,renameat,renameat2,unlink,unlinkat,write,writev,sendto";
    let server = command(directory.path(), &[KEEP_ALL, ("RETENTION__INTERVAL", "off")], &["serve"]);
    let mut strace = Command::new("strace");
    // `-D`: the server itself is our child, to be killed by its id.
    strace.args(["-D", "-f", "-y", "-qq", "-s", "16", "-e", calls, "-o"]).arg(&file);
    strace.arg(server.get_program()).args(server.get_args());
    strace.envs(server.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let mut server = Server::spawn(strace);
    act(&server).await;
    server.signal(Signal::KILL);
    server.ended(Duration::from_secs(10));
    eventually("the trace is whole", || {
        fs::read_to_string(&file).is_ok_and(|trace| trace.contains("killed by"))
    });
    let root = directory.path().to_str().unwrap();
    Some(fs::read_to_string(&file).unwrap().lines().map(|line| line.replace(root, "ROOT")).collect())
}

/// Finds each in turn, after the one before: a call in which all of these words are.
#[track_caller]
fn assert_in_order<'a>(calls: &[String], expected: impl IntoIterator<Item = &'a str>) {
    let mut rest = calls.iter();
    for words in expected {
        assert!(
            rest.any(|call| words.split(' ').all(|word| call.contains(word))),
            "no call with `{words}` at its place in\n{}",
            calls.join("\n")
        );
    }
}

#[tokio::test]
async fn file_and_folder_are_on_the_disk_before_the_answer() {
    const STAGED: &str = "sync( <ROOT/.release-server/stage/";
    const ROOT: &str = "fsync( <ROOT>";
    let calls = system_calls(async |server| {
        let client = Client::new();
        client.put(server, "small.bin", body(1, 1000), false).await.unwrap();
        client.put(server, "large.bin", body(2, 3 * MIB), false).await.unwrap();
        client.put(server, "small.bin", body(3, 1000), true).await.unwrap();
        client.delete(server, "large.bin").await.unwrap();
    });
    let Some(calls) = calls.await else { return };
    let marked = [STAGED, "link \"ROOT/.release-server/packages/", "fsync( <ROOT/.release-server/packages>"];
    let stored = |named| [&[STAGED, named, ROOT][..], &marked, &["HTTP/1.1 200"]].concat();
    let expected = [
        stored("link \"ROOT/small.bin\""),
        stored("link \"ROOT/large.bin\""),
        stored("rename \"ROOT/small.bin\""),
        vec!["unlink \"ROOT/large.bin\"", ROOT, "HTTP/1.1 204"],
    ];
    assert_in_order(&calls, expected.concat());
}
