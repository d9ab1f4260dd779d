//! Many clients, several server processes, one directory: exactly one creator wins, nothing acknowledged is lost,
//! every digest is right, and the sweep eats nothing that is not its own.
//!
//! A thousand operations on one name, and as much more of everything else:
//!
//! ```console
//! $ RELEASE_SERVER_TEST_ROUNDS=5 cargo test --test races -- --nocapture
//! ```

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers as well")]

mod evidence;
#[path = "process/history.rs"]
mod history;
#[allow(dead_code, reason = "each test binary uses its part")]
mod process;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use evidence::Evidence;
use futures_util::{StreamExt, future::join_all, stream};
use history::{Answer, History, Operation, Other, Version};
use process::{Client, KIB, Listed, MIB, Server, body, command, eventually, repr_digest, scale, sha256};
use rand::seq::IndexedRandom;
use reqwest::{Body, StatusCode};
use tokio::sync::Barrier;

/// How many race for one name.
const CREATORS: usize = 64;

/// A body whose end is held back until those of all others are as far: by then every one has found the name free.
fn held_back(bytes: &Bytes, barrier: &Arc<Barrier>) -> Body {
    let (most, last) = (bytes.slice(..bytes.len() - 1), bytes.slice(bytes.len() - 1..));
    let barrier = Arc::clone(barrier);
    let last = stream::once(async move {
        barrier.wait().await;
        last
    });
    Body::wrap_stream(stream::iter([most]).chain(last).map(Ok::<_, std::convert::Infallible>))
}

async fn one_creator_wins(servers: &[&Server], name: &str, size: usize) {
    let client = Client::new();
    let barrier = Arc::new(Barrier::new(CREATORS));
    let bodies: Vec<Bytes> = (0..CREATORS as u64).map(|seed| body(seed, size)).collect();
    let creators = bodies.iter().zip(servers.iter().cycle()).map(|(bytes, server)| {
        let body = held_back(bytes, &barrier);
        client.put(server, name, body, false)
    });
    let answers = join_all(creators).await;

    let mut winners = Vec::new();
    for (bytes, answer) in bodies.iter().zip(answers) {
        match answer.unwrap() {
            (StatusCode::OK, package) => winners.push((bytes, package)),
            (StatusCode::CONFLICT, problem) => {
                assert!(problem["message"].as_str().unwrap().contains("already exists"), "{problem}");
            }
            (status, answer) => panic!("{status}: {answer}"),
        }
    }
    let [(bytes, package)] = &winners[..] else { panic!("{} creators won", winners.len()) };
    assert_eq!(package["sha256"], sha256(bytes));
    for server in servers {
        let (status, digest, found) = client.get(server, name).await.unwrap();
        assert_eq!((status, digest), (StatusCode::OK, Some(repr_digest(bytes))));
        assert!(found == **bytes, "the stored bytes are not the winner's");
        let listed = client.list(server).await.unwrap();
        let listed = listed.iter().find(|package| package.name == name).unwrap();
        assert_eq!(*listed, Listed { name: name.into(), size: bytes.len(), sha256: Some(sha256(bytes)) });
    }
    let attack = "creators of one name, as many as 64 at once";
    Evidence { attack, on: "directory", cases: CREATORS, of: "creators", ..Evidence::default() }.record();
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_of_64_creators_wins() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[("MAX_PACKAGES", "0")]);
    for round in 0..2 * scale() {
        one_creator_wins(&[&server], &format!("small-{round}"), 1000).await;
    }
    one_creator_wins(&[&server], "large", 3 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_of_64_creators_wins_over_two_processes() {
    let directory = tempfile::tempdir().unwrap();
    let [one, two] = [(); 2].map(|()| Server::start(directory.path(), &[("MAX_PACKAGES", "0")]));
    for round in 0..2 * scale() {
        one_creator_wins(&[&one, &two], &format!("small-{round}"), 1000).await;
    }
    one_creator_wins(&[&one, &two], "large", 3 * MIB).await;
    eventually("no staged file is left", || process::control(directory.path(), "stage").is_empty());
}

/// The name that everybody is after.
const HOT: &str = "hot.bin";

/// Sizes tell the versions apart, also where a listing has no digest yet.
fn version(version: Version) -> Bytes {
    body(version as u64, KIB + version)
}

fn version_of(size: usize) -> Version {
    size - KIB
}

/// What all clients share.
struct Race {
    servers: Vec<Server>,
    client: Client,
    history: Mutex<History>,
    versions: AtomicUsize,
    /// When each version was acknowledged.
    acknowledged: Mutex<BTreeMap<Version, Instant>>,
    /// Downloads without a digest of versions that have one; right only if the version went meanwhile.
    bare: Mutex<Vec<(Instant, Instant, Version)>>,
    /// Answers "it changed meanwhile": nothing was done.
    undecided: AtomicUsize,
}

impl Race {
    fn start(directory: &Path, max_packages: usize) -> Self {
        let limit = max_packages.to_string();
        let settings = [("MAX_PACKAGES", &*limit), ("RETENTION__INTERVAL", "50ms")];
        Self {
            servers: (0..2).map(|_| Server::start(directory, &settings)).collect(),
            client: Client::new(),
            history: Mutex::new(History { max_packages, ..History::default() }),
            versions: AtomicUsize::new(0),
            acknowledged: Mutex::default(),
            bare: Mutex::default(),
            undecided: AtomicUsize::new(0),
        }
    }

    /// Fails if the answers cannot all be true.
    fn finish(self, attack: &'static str) {
        let history = self.history.into_inner().unwrap();
        let count = |what: fn(&Answer) -> bool| history.operations.iter().filter(|o| what(&o.answer)).count();
        println!(
            "{} created, {} taken, {} overwritten, {} deleted, {} missing, {} reads, {} listings, {} undecided, {} others",
            count(|answer| matches!(answer, Answer::Created(_))),
            count(|answer| matches!(answer, Answer::Taken)),
            count(|answer| matches!(answer, Answer::Overwritten(_))),
            count(|answer| matches!(answer, Answer::Deleted)),
            count(|answer| matches!(answer, Answer::Missing)),
            count(|answer| matches!(answer, Answer::Read(_))),
            count(|answer| matches!(answer, Answer::Listed(_))),
            self.undecided.into_inner(),
            history.others.len(),
        );
        let mut bare = self.bare.into_inner().unwrap();
        bare.retain(|&(start, end, _)| {
            let removed = |operation: &Operation| {
                matches!(operation.answer, Answer::Overwritten(_) | Answer::Deleted)
                    && operation.end > start
                    && operation.start < end
            };
            history.max_packages == 0 && !history.operations.iter().any(removed)
        });
        let checked = history.check();
        Evidence {
            attack,
            on: "directory",
            cases: history.operations.len() + history.others.len(),
            of: "operations",
            lost: usize::from(checked.is_err()),
            wrong: bare.len(),
            ..Evidence::default()
        }
        .record();
        assert!(bare.is_empty(), "versions were downloaded without their digests: {bare:?}");
        if let Err(fault) = checked {
            panic!("an acknowledged change was lost: {fault}");
        }
    }

    fn record(&self, start: Instant, answer: Answer) {
        let end = Instant::now();
        if let Answer::Created(version) | Answer::Overwritten(version) = answer {
            self.acknowledged.lock().unwrap().insert(version, end);
        }
        self.history.lock().unwrap().operations.push(Operation { start, end, answer });
    }

    async fn store(&self, server: &Server, overwrite: bool) {
        let number = self.versions.fetch_add(1, Relaxed);
        let bytes = version(number);
        let start = Instant::now();
        let (status, package) = self.client.put(server, HOT, bytes.clone(), overwrite).await.unwrap();
        match (status, overwrite) {
            (StatusCode::OK, _) => {
                assert_eq!(package["sha256"], sha256(&bytes));
                let stored = if overwrite { Answer::Overwritten } else { Answer::Created };
                self.record(start, stored(number));
            }
            (StatusCode::CONFLICT, false) => self.record(start, Answer::Taken),
            _ => panic!("{status}: {package}"),
        }
    }

    async fn delete(&self, server: &Server) {
        let start = Instant::now();
        match self.client.delete(server, HOT).await.unwrap() {
            StatusCode::NO_CONTENT => self.record(start, Answer::Deleted),
            StatusCode::NOT_FOUND => self.record(start, Answer::Missing),
            StatusCode::CONFLICT => _ = self.undecided.fetch_add(1, Relaxed),
            status => panic!("{status}"),
        }
    }

    async fn read(&self, server: &Server) {
        let start = Instant::now();
        let (status, digest, found) = self.client.get(server, HOT).await.unwrap();
        match status {
            StatusCode::OK => {
                let read = version_of(found.len());
                assert!(found == version(read), "the bytes are not those of version {read}");
                match digest {
                    Some(digest) => assert_eq!(digest, repr_digest(&found), "the digest of version {read}"),
                    None if self.was_acknowledged(read, start) => {
                        self.bare.lock().unwrap().push((start, Instant::now(), read));
                    }
                    None => {}
                }
                self.record(start, Answer::Read(Some(read)));
            }
            StatusCode::NOT_FOUND => self.record(start, Answer::Read(None)),
            StatusCode::CONFLICT => _ = self.undecided.fetch_add(1, Relaxed),
            status => panic!("{status}"),
        }
    }

    async fn list(&self, server: &Server) {
        let start = Instant::now();
        let listed = self.client.list(server).await.unwrap();
        let hot = listed.into_iter().find(|package| package.name == HOT);
        let found = hot.map(|package| {
            let found = version_of(package.size);
            match package.sha256 {
                Some(digest) => assert_eq!(digest, sha256(&version(found)), "the digest of version {found}"),
                None => assert!(!self.was_acknowledged(found, start), "version {found} has lost its digest"),
            }
            found
        });
        self.record(start, Answer::Listed(found));
    }

    /// Whether the version was acknowledged before `asked`: then its digest is known to every process.
    fn was_acknowledged(&self, version: Version, asked: Instant) -> bool {
        self.acknowledged.lock().unwrap().get(&version).is_some_and(|&acknowledged| acknowledged < asked)
    }

    /// Publishes something else, which may push the hot name out.
    async fn push(&self, server: &Server) {
        let number = self.versions.fetch_add(1, Relaxed);
        let start = Instant::now();
        let name = format!("other-{number}.bin");
        let (status, package) = self.client.put(server, &name, version(number), false).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{package}");
        self.history.lock().unwrap().others.push(Other { start, end: Instant::now() });
    }

    async fn run(&self, operations: &AtomicUsize) {
        loop {
            let server = self.servers.choose(&mut rand::rng()).unwrap();
            let what = rand::random_range(0..100);
            if what < 60 {
                // Only what may change the hot name counts.
                let left = operations.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
                if left.is_err() {
                    return;
                }
            }
            match what {
                0..28 => self.store(server, false).await,
                28..36 => self.store(server, true).await,
                36..60 => self.delete(server).await,
                60..75 => self.read(server).await,
                75..90 => self.list(server).await,
                _ => self.push(server).await,
            }
        }
    }
}

/// A process that does nothing but sweep, over and over: after an upload a server waits a little before it does.
struct Sweeper {
    stop: Arc<AtomicBool>,
    passes: std::thread::JoinHandle<usize>,
}

impl Sweeper {
    fn start(directory: &Path, max_packages: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut sweep = command(directory, &[("MAX_PACKAGES", &max_packages.to_string())], &["sweep"]);
        let stopped = Arc::clone(&stop);
        let passes = std::thread::spawn(move || {
            let mut passes = 0;
            while !stopped.load(Relaxed) {
                let swept = sweep.output().unwrap();
                assert!(swept.status.success(), "{swept:?}");
                passes += 1;
            }
            passes
        });
        Self { stop, passes }
    }

    /// Answers how many passes there were.
    fn stop(self) -> usize {
        self.stop.store(true, Relaxed);
        self.passes.join().unwrap()
    }
}

/// Races `operations` that may change one name, and checks that the answers agree with each other.
async fn race_one_name(operations: usize, max_packages: usize) {
    let directory = tempfile::tempdir().unwrap();
    let race = Race::start(directory.path(), max_packages);
    let sweeper = Sweeper::start(directory.path(), max_packages);
    let left = AtomicUsize::new(operations);
    join_all((0..6).map(|_| race.run(&left))).await;
    let passes = sweeper.stop();
    for server in &race.servers {
        race.read(server).await;
        race.list(server).await;
        let listed = race.client.list(server).await.unwrap();
        assert!(max_packages == 0 || listed.len() <= max_packages, "{listed:?}");
        for package in listed {
            let bytes = version(version_of(package.size));
            assert_eq!(package.sha256, Some(sha256(&bytes)), "{}", package.name);
            let (status, _, found) = race.client.get(server, &package.name).await.unwrap();
            assert!(status == StatusCode::OK && found == bytes, "{}", package.name);
        }
    }
    println!("{operations} operations, {max_packages} packages kept, {passes} sweeps");
    race.finish("two processes and a sweeper after one name");
    eventually("no staged file is left", || process::control(directory.path(), "stage").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_two_processes_race_for_one_name() {
    race_one_name(200 * scale(), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_sweeps_race_for_the_name_too() {
    race_one_name(200 * scale(), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_spares_what_was_uploaded_after_it_looked() {
    let directory = tempfile::tempdir().unwrap();
    let race = Race::start(directory.path(), 2);
    let sweepers = [(); 2].map(|()| Sweeper::start(directory.path(), 2));
    let [one, two] = &race.servers[..] else { unreachable!() };
    for _ in 0..25 * scale() {
        // A sweep that looks now has several others to remove before it comes to the hot name …
        join_all((0..6).map(|_| race.push(one))).await;
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..100))).await;
        // … which is the newest again by then.
        race.store(two, true).await;
        race.read(one).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
        race.read(two).await;
        race.list(two).await;
    }
    let passes = sweepers.map(Sweeper::stop);
    println!("{passes:?} sweeps");
    race.finish("what was uploaded while a sweep is at it");
}

/// Writes files that no server has seen, as if they had lain there for a day.
fn foreign_files(directory: &Path, count: u64) {
    let yesterday = SystemTime::now() - Duration::from_hours(24);
    for number in 0..count {
        let path = directory.join(format!("foreign-{number:02}.tar.gz"));
        fs::write(&path, body(number, 5000)).unwrap();
        File::options().write(true).open(path).unwrap().set_modified(yesterday).unwrap();
    }
}

/// How many files lie in a directory, each of them as [`foreign_files`] wrote it.
fn foreign_left(directory: &Path) -> usize {
    let whole = |number: &u64| match fs::read(directory.join(format!("foreign-{number:02}.tar.gz"))) {
        Ok(bytes) => {
            assert!(bytes == body(*number, 5000), "file {number} has changed");
            true
        }
        Err(_) => false,
    };
    (0..50).filter(whole).count()
}

fn run(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn wait_for_digests(server: &Server) {
    let client = Client::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while client.list(server).await.unwrap().iter().any(|package| package.sha256.is_none()) {
        assert!(Instant::now() < deadline, "files without a digest are left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_from_elsewhere_survive_any_number_of_sweeps() {
    let directory = tempfile::tempdir().unwrap();
    foreign_files(directory.path(), 50);
    let server = Server::start(directory.path(), &[("RETENTION__INTERVAL", "20ms")]);
    wait_for_digests(&server).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..24 {
        run(command(directory.path(), &[], &["sweep"]));
    }
    Evidence {
        attack: "sweeps over files that are not the server's",
        on: "directory",
        cases: 24,
        of: "sweeps",
        lost: 50 - foreign_left(directory.path()),
        ..Evidence::default()
    }
    .record();
    assert_eq!(foreign_left(directory.path()), 50);
    assert_eq!(Client::new().list(&server).await.unwrap().len(), 50);
    assert_eq!(server.logged("sweep"), Vec::<serde_json::Value>::new());

    // What is uploaded is kept to the default, and has no effect on the others.
    for number in 0..12 {
        let name = format!("upload-{number:02}.bin");
        Client::new().put(&server, &name, version(number), false).await.unwrap();
    }
    run(command(directory.path(), &[], &["sweep"]));
    assert_eq!(Client::new().list(&server).await.unwrap().len(), 60);
    assert_eq!(foreign_left(directory.path()), 50);
    assert!(!directory.path().join("upload-01.bin").exists());
    assert!(directory.path().join("upload-02.bin").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_pass_names_what_a_limit_will_cost_and_removes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    foreign_files(directory.path(), 50);
    let settings = [("MAX_PACKAGES", "5"), ("LOG__FORMAT", "json")];
    let said = run(command(directory.path(), &settings, &["sweep"]));
    assert_eq!(foreign_left(directory.path()), 50);
    assert_eq!(said.matches("a later sweep removes `foreign-").count(), 45, "{said}");

    // A server that reads them all, and does not sweep again.
    let server = Server::start(directory.path(), &[("MAX_PACKAGES", "0"), ("RETENTION__INTERVAL", "off")]);
    wait_for_digests(&server).await;
    assert_eq!(foreign_left(directory.path()), 50);
    run(command(directory.path(), &settings, &["sweep"]));
    assert_eq!(foreign_left(directory.path()), 5);
}
