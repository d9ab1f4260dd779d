//! Two server processes over one bucket of a real store: one winner among racing creators, nothing acknowledged is
//! lost, whatever happens to replies, to a replica or to the store.
//!
//! Which store: see `process/store.rs`. The numbers are small by default; 200 rounds of racing creators are
//!
//! ```console
//! $ RELEASE_SERVER_TEST_ROUNDS=200 cargo test --test bucket_races creators -- --nocapture
//! ```

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers as well")]

mod evidence;
#[path = "process/history.rs"]
mod history;
#[allow(dead_code, reason = "each test binary uses its part")]
mod process;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "process/proxy.rs"]
mod proxy;
#[path = "process/store.rs"]
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use evidence::Evidence;
use futures_util::{StreamExt, future::join_all, stream};
use history::{Answer, History, Operation, Other, Version};
use process::{Client, KIB, Listed, MIB, Server, Signal, TOKEN, body, repr_digest, scale, sha256};
use proxy::{Asked, Proxy, Verdict};
use reqwest::{Body, StatusCode, header::RETRY_AFTER};
use store::Store;
use tokio::{
    sync::Notify,
    task::block_in_place,
    time::{sleep, timeout},
};

/// How many race for one name.
const CREATORS: usize = 16;

/// What no request may take.
const DEADLINE: Duration = Duration::from_mins(1);

const KEEP_ALL: (&str, &str) = ("MAX_PACKAGES", "0");

/// Loses so many of the replies to writes.
fn lose_replies(proxy: &Proxy, chance: f64) {
    proxy.judge(move |asked| async move {
        if asked.writes() && rand::random_bool(chance) { Verdict::LoseReply } else { Verdict::Pass }
    });
}

async fn one_creator_wins(servers: &[&Server], name: &str, size: usize) {
    let client = Client::new();
    let bodies: Vec<Bytes> = (0..CREATORS as u64).map(|seed| body(seed, size)).collect();
    let creators = bodies
        .iter()
        .zip(servers.iter().cycle())
        .map(|(bytes, server)| client.put(server, name, bytes.clone(), false));
    let answers = join_all(creators).await;

    let mut winners = Vec::new();
    for (bytes, answer) in bodies.iter().zip(answers) {
        match answer.unwrap() {
            (StatusCode::OK, package) => winners.push((bytes, package)),
            // Not known in time, where replies are lost.
            (StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE, _) => {}
            (status, answer) => panic!("{status}: {answer}"),
        }
    }
    let [(bytes, package)] = &winners[..] else { panic!("{} creators of `{name}` won", winners.len()) };
    assert_eq!(package["sha256"], sha256(bytes));
    for server in servers {
        let (status, digest, found) = client.get(server, name).await.unwrap();
        assert_eq!((status, digest), (StatusCode::OK, Some(repr_digest(bytes))));
        assert!(found == **bytes, "the stored bytes are not the winner's");
        assert_eq!(client.delete(server, "no-such-package").await.unwrap(), StatusCode::NOT_FOUND);
        let listed = client.list(server).await.unwrap();
        let listed = listed.iter().find(|package| package.name == name).unwrap();
        assert_eq!(*listed, Listed { name: name.into(), size: bytes.len(), sha256: Some(sha256(bytes)) });
    }
    let gone = client.delete(servers[0], name).await.unwrap();
    // A delete whose reply was lost says that it does not know.
    assert!([StatusCode::NO_CONTENT, StatusCode::SERVICE_UNAVAILABLE].contains(&gone), "{gone}");
}

/// A tenth of the rounds with large packages.
async fn creators_race(attack: &'static str, on: &'static str, servers: &[&Server]) {
    let mut cases = 0;
    for round in 0..scale() {
        one_creator_wins(servers, &format!("small-{round}"), 100 * KIB).await;
        cases += CREATORS;
        if round % 10 == 0 {
            one_creator_wins(servers, &format!("large-{round}"), 10 * MIB).await;
            cases += CREATORS;
        }
    }
    Evidence { attack, on, cases, of: "creators", ..Evidence::default() }.record();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_16_creators_wins_over_two_replicas() {
    let Some(store) = Store::start("racing creators").await else { return };
    let [one, two] = [(); 2].map(|()| store.server(None, &[KEEP_ALL]));
    creators_race("creators of one name over two replicas", store.on(), &[&one, &two]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_16_creators_wins_though_replies_are_lost() {
    let Some(store) = Store::start("racing creators with lost replies").await else { return };
    let proxies = [Proxy::start(&store.endpoint).await, Proxy::start(&store.endpoint).await];
    let [one, two] = proxies.each_ref().map(|proxy| {
        let server = block_in_place(|| store.server(Some(&proxy.url), &[KEEP_ALL]));
        lose_replies(proxy, 0.2);
        server
    });
    creators_race("creators of one name, a fifth of the store's replies lost", store.on(), &[&one, &two])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_acknowledges_the_other_shows_at_once() {
    let Some(store) = Store::start("read your writes").await else { return };
    let servers = [(); 2].map(|()| store.server(None, &[KEEP_ALL]));
    read_own_writes(&store, &servers, 20 * scale().min(10)).await;
}

/// There are so many packages that a listing is proved to hold rather than repeated.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_acknowledges_the_other_shows_at_once_among_many() {
    let Some(store) = Store::start("read your writes, among many").await else { return };
    let fill = stream::iter(0..501).for_each_concurrent(16, async |number| {
        let name = format!("filler-{number}.zip");
        // With a marker, or each would be hashed, and get one.
        let (hash, digest) = (sha256(name.as_bytes()), sha256(b"x"));
        let etag = "9dd4e461268c8034f5c8564e155c67a6";
        let marker = format!("{}.{etag}.1.{digest}.found-1790000000000", &hash[..32]);
        store.put_by_hand(&name, "x").await;
        store.put_by_hand(&format!(".release-server/packages/{marker}"), "").await;
    });
    fill.await;
    // As it is once all servers have found it.
    store.put_by_hand(".release-server/changes", r#"{"open": []}"#).await;
    let late = ("LISTING_BY_HAND_MAX_AGE", "1h");
    let servers = [(); 2].map(|()| store.server(None, &[KEEP_ALL, late]));
    let client = Client::new();
    // Each write has everything listed several times.
    read_own_writes(&store, &servers, 4 * scale().min(10)).await;
    // Both rest. What leaves no note is not seen, so that was no listing. (But the hasher sees it, some time.)
    for server in &servers {
        let rested = async {
            let mut number = 0;
            loop {
                client.list(server).await.unwrap();
                let name = format!("by-hand-{number}.zip");
                store.put_by_hand(&name, "x").await;
                if client.list(server).await.unwrap().iter().all(|package| package.name != name) {
                    return;
                }
                number += 1;
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(Duration::from_secs(20), rested).await.expect("a proof");
    }
}

async fn read_own_writes(store: &Store, servers: &[Server; 2], rounds: usize) {
    let client = Client::new();
    for round in 0..rounds {
        let (one, two) = (&servers[round % 2], &servers[(round + 1) % 2]);
        let name = format!("app-{round}.tar.gz");
        let bytes = body(round as u64, 20 * KIB + round);
        let (status, _) = client.put(one, &name, bytes.clone(), false).await.unwrap();
        assert_eq!(status, StatusCode::OK);
        let expected = Listed { name: name.clone(), size: bytes.len(), sha256: Some(sha256(&bytes)) };
        let listed = client.list(two).await.unwrap();
        assert_eq!(listed.first(), Some(&expected), "the newest of the other replica");
        let latest = reqwest::get(two.url("/latest")).await.unwrap().text().await.unwrap();
        assert!(latest.contains(&name), "{latest}");
        let (status, digest, found) = client.get(two, &name).await.unwrap();
        assert_eq!((status, digest), (StatusCode::OK, Some(repr_digest(&bytes))));
        assert!(found == bytes);

        let other = body(round as u64 + 1_000_000, 20 * KIB);
        assert_eq!(client.put(two, &name, other.clone(), true).await.unwrap().0, StatusCode::OK);
        assert!(client.get(one, &name).await.unwrap().2 == other);

        assert_eq!(client.delete(two, &name).await.unwrap(), StatusCode::NO_CONTENT);
        assert!(client.list(one).await.unwrap().iter().all(|package| package.name != name));
        assert_eq!(client.get(one, &name).await.unwrap().0, StatusCode::NOT_FOUND);
    }
    Evidence {
        attack: "what one replica has acknowledged, asked of the other",
        on: store.on(),
        cases: 3 * rounds,
        of: "changes",
        ..Evidence::default()
    }
    .record();
}

/// Sizes tell the versions apart, also where a listing has no digest yet.
fn version(version: Version) -> Bytes {
    body(version as u64, KIB + version)
}

fn version_of(size: usize) -> Version {
    size - KIB
}

/// A server that may be killed and replaced.
type Replaceable = Mutex<Arc<Server>>;

/// Everybody is after one name.
struct Race<'a> {
    servers: &'a [Replaceable; 2],
    name: String,
    client: Client,
    history: Mutex<History>,
    versions: &'a AtomicUsize,
    acknowledged: Mutex<BTreeMap<Version, Instant>>,
    stop: AtomicBool,
}

impl Race<'_> {
    fn record(&self, start: Instant, answer: Answer) {
        let mut end = Instant::now();
        match answer {
            Answer::Created(version) | Answer::Overwritten(version) => {
                self.acknowledged.lock().unwrap().insert(version, end);
            }
            // A killed server's last request may still be on its way to the store.
            Answer::MaybeStored(..) | Answer::MaybeDeleted => end += Duration::from_millis(500),
            _ => {}
        }
        self.history.lock().unwrap().operations.push(Operation { start, end, answer });
    }

    async fn store(&self, server: &Server, overwrite: bool) {
        let number = self.versions.fetch_add(1, Relaxed);
        let start = Instant::now();
        let answer = self.client.put(server, &self.name, version(number), overwrite).await;
        let answer = match answer {
            Ok((StatusCode::OK, _)) if overwrite => Answer::Overwritten(number),
            Ok((StatusCode::OK, _)) => Answer::Created(number),
            Ok((StatusCode::CONFLICT, _)) if !overwrite => Answer::Taken,
            // Among them: it was removed or replaced before it could be acknowledged.
            Ok((StatusCode::SERVICE_UNAVAILABLE | StatusCode::CONFLICT, _)) | Err(_) => {
                Answer::MaybeStored(number, overwrite)
            }
            Ok((status, answer)) => panic!("{status}: {answer}"),
        };
        self.record(start, answer);
    }

    async fn delete(&self, server: &Server) {
        let start = Instant::now();
        match self.client.delete(server, &self.name).await {
            Ok(StatusCode::NO_CONTENT) => self.record(start, Answer::Deleted),
            Ok(StatusCode::NOT_FOUND) => self.record(start, Answer::Missing),
            Ok(StatusCode::CONFLICT) => {}
            Ok(StatusCode::SERVICE_UNAVAILABLE) | Err(_) => self.record(start, Answer::MaybeDeleted),
            Ok(status) => panic!("{status}"),
        }
    }

    async fn read(&self, server: &Server) {
        let start = Instant::now();
        let Ok((status, digest, found)) = self.client.get(server, &self.name).await else { return };
        match status {
            StatusCode::OK => {
                let read = version_of(found.len());
                assert!(found == version(read), "the bytes are not those of version {read}");
                self.check_digest(start, read, digest, &repr_digest(&found));
                self.record(start, Answer::Read(Some(read)));
            }
            StatusCode::NOT_FOUND => self.record(start, Answer::Read(None)),
            StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE => {}
            status => panic!("{status}"),
        }
    }

    async fn list(&self, server: &Server) {
        let start = Instant::now();
        let Ok(listed) = self.client.list(server).await else { return };
        let found = listed.into_iter().find(|package| package.name == self.name).map(|package| {
            let found = version_of(package.size);
            self.check_digest(start, found, package.sha256, &sha256(&version(found)));
            found
        });
        self.record(start, Answer::Listed(found));
    }

    /// Never a wrong digest; none at all only while the upload is not acknowledged.
    fn check_digest(&self, asked: Instant, version: Version, digest: Option<String>, right: &str) {
        if let Some(digest) = digest {
            assert_eq!(digest, right, "the digest of version {version}");
        } else {
            let acknowledged = self.acknowledged.lock().unwrap().get(&version).copied();
            assert!(acknowledged.is_none_or(|moment| moment > asked), "version {version} lost its digest");
        }
    }

    /// Publishes something else, which may push the name out.
    async fn push(&self, server: &Server) {
        let number = self.versions.fetch_add(1, Relaxed);
        let start = Instant::now();
        // Acknowledged or not, it may be there.
        let _ = self.client.put(server, &format!("other-{number}.bin"), version(number), false).await;
        self.history.lock().unwrap().others.push(Other { start, end: Instant::now() });
    }

    async fn run(&self) {
        while !self.stop.load(Relaxed) {
            let server = Arc::clone(&self.servers[rand::random_range(0..2)].lock().unwrap());
            match rand::random_range(0..100) {
                0..24 => self.store(&server, false).await,
                24..36 => self.store(&server, true).await,
                36..56 => self.delete(&server).await,
                56..72 => self.read(&server).await,
                72..88 => self.list(&server).await,
                _ => self.push(&server).await,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_while_sweeps_and_kills_interfere() {
    const MAX_PACKAGES: usize = 2;
    let Some(store) = Store::start("overwrite against sweep and delete").await else { return };
    let settings = [("MAX_PACKAGES", "2"), ("RETENTION__INTERVAL", "50ms")];
    let start = || Arc::new(store.server(None, &settings));
    let servers = [Mutex::new(start()), Mutex::new(start())];
    let versions = AtomicUsize::new(0);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut faults = Vec::new();
    for round in 0..3 * scale().min(20) {
        let race = Race {
            servers: &servers,
            name: format!("hot-{round}.bin"),
            client: Client::new(),
            history: Mutex::new(History {
                max_packages: MAX_PACKAGES,
                shared_deletes: true,
                ..History::default()
            }),
            versions: &versions,
            acknowledged: Mutex::default(),
            stop: AtomicBool::new(false),
        };
        let kill = async {
            sleep(Duration::from_millis(rand::random_range(800..2500))).await;
            let dying = Arc::clone(&servers[round % 2].lock().unwrap());
            dying.signal(Signal::KILL);
            let fresh = block_in_place(start);
            *servers[round % 2].lock().unwrap() = fresh;
            sleep(Duration::from_millis(500)).await;
            race.stop.store(true, Relaxed);
        };
        tokio::join!(kill, join_all((0..6).map(|_| race.run())));
        // What the killed one had sent has landed by now.
        sleep(Duration::from_millis(600)).await;
        for server in &servers {
            let server = Arc::clone(&server.lock().unwrap());
            race.read(&server).await;
            race.list(&server).await;
        }
        let history = race.history.into_inner().unwrap();
        for operation in &history.operations {
            *counts.entry(kind(operation.answer)).or_default() += 1;
        }
        faults.extend(history.check().err());
    }
    println!("{counts:?}");
    Evidence {
        attack: "overwrites, deletes, sweeps and kills after one name",
        on: store.on(),
        cases: counts.values().sum(),
        of: "operations",
        lost: faults.len(),
        ..Evidence::default()
    }
    .record();
    assert!(faults.is_empty(), "acknowledged changes were lost: {faults:#?}");
}

fn kind(answer: Answer) -> &'static str {
    match answer {
        Answer::Created(_) => "created",
        Answer::Taken => "taken",
        Answer::Overwritten(_) => "overwritten",
        Answer::Deleted => "deleted",
        Answer::Missing => "missing",
        Answer::MaybeStored(..) | Answer::MaybeDeleted => "unsure",
        Answer::Read(_) => "read",
        Answer::Listed(_) => "listed",
    }
}

/// A tenth of all requests go wrong, in one of five ways.
async fn misfortune(asked: Asked) -> Verdict {
    if !rand::random_bool(0.1) {
        return Verdict::Pass;
    }
    match rand::random_range(0..5) {
        0 => Verdict::Busy,
        1 => Verdict::Cut,
        2 => Verdict::LoseReply,
        3 if !asked.writes() => Verdict::CutReply,
        _ => {
            sleep(Duration::from_millis(rand::random_range(0..500))).await;
            Verdict::Pass
        }
    }
}

/// What one name may hold, as its only user knows.
struct Slot {
    name: String,
    possible: BTreeSet<Option<Version>>,
    /// A delete ended in doubt: uploads of the name are refused for minutes.
    blocked: bool,
}

/// How mixed operations ended.
#[derive(Debug, Default)]
struct Tally {
    done: AtomicUsize,
    stored: AtomicUsize,
    deleted: AtomicUsize,
    unsure: AtomicUsize,
    slowest: Mutex<Duration>,
}

impl Slot {
    fn saw(&mut self, found: Option<Version>) {
        assert!(self.possible.contains(&found), "{}: {found:?}, not {:?}", self.name, self.possible);
        self.possible = [found].into();
    }

    async fn store(&mut self, client: &Client, server: &Server, number: Version, tally: &Tally) {
        let overwrite = rand::random();
        let answer = client.put(server, &self.name, mixed_version(number), overwrite).await;
        match answer.unwrap() {
            (StatusCode::OK, _) => {
                if !overwrite {
                    assert!(self.possible.contains(&None), "{}: created over {:?}", self.name, self.possible);
                }
                self.possible = [Some(number)].into();
                tally.stored.fetch_add(1, Relaxed);
            }
            (StatusCode::CONFLICT, _) if !overwrite => {
                self.possible.remove(&None);
                assert!(!self.possible.is_empty(), "{} is free, and said to be taken", self.name);
            }
            (StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE, _) => {
                self.possible.insert(Some(number));
                tally.unsure.fetch_add(1, Relaxed);
            }
            (status, answer) => panic!("{status}: {answer}"),
        }
    }

    async fn delete(&mut self, client: &Client, server: &Server, tally: &Tally) {
        match client.delete(server, &self.name).await.unwrap() {
            StatusCode::NO_CONTENT => {
                self.possible = [None].into();
                tally.deleted.fetch_add(1, Relaxed);
            }
            StatusCode::NOT_FOUND => self.saw(None),
            StatusCode::CONFLICT => {}
            StatusCode::SERVICE_UNAVAILABLE => {
                self.possible.insert(None);
                self.blocked = true;
                tally.unsure.fetch_add(1, Relaxed);
            }
            status => panic!("{status}"),
        }
    }

    /// Whether it could be read.
    async fn read(&mut self, client: &Client, server: &Server) -> bool {
        // A download that cannot go on breaks off.
        let Ok((status, digest, found)) = client.get(server, &self.name).await else { return false };
        match status {
            StatusCode::OK => {
                let number = mixed_version_of(found.len());
                assert!(found == mixed_version(number), "{}: wrong bytes", self.name);
                assert!(digest.is_none_or(|digest| digest == repr_digest(&found)), "{}", self.name);
                self.saw(Some(number));
            }
            StatusCode::NOT_FOUND => self.saw(None),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::CONFLICT => return false,
            status => panic!("{status}"),
        }
        true
    }

    async fn list(&mut self, client: &Client, server: &Server) {
        let Ok(listed) = client.list(server).await else { return };
        let found = listed.into_iter().find(|package| package.name == self.name);
        self.saw(found.map(|package| mixed_version_of(package.size)));
    }
}

/// One in fifty is sent in parts.
fn mixed_version(number: Version) -> Bytes {
    let large = if number.is_multiple_of(50) { 9 * MIB } else { 0 };
    body(number as u64, large + KIB + number)
}

fn mixed_version_of(size: usize) -> Version {
    let size = size - KIB;
    if size >= 9 * MIB { size - 9 * MIB } else { size }
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_operations_lose_nothing_though_a_tenth_of_all_requests_go_wrong() {
    let Some(store) = Store::start("mixed operations with faults").await else { return };
    let proxies = [Proxy::start(&store.endpoint).await, Proxy::start(&store.endpoint).await];
    let servers = proxies.each_ref().map(|proxy| {
        let server = block_in_place(|| store.server(Some(&proxy.url), &[KEEP_ALL]));
        proxy.judge(misfortune);
        server
    });
    let operations = 250 * scale().min(200);
    let (versions, left, tally) = (AtomicUsize::new(1), AtomicUsize::new(operations), Tally::default());
    let work = async |worker: usize| {
        let client = Client::new();
        let mut slots: Vec<Slot> = Vec::new();
        while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            if slots.iter().filter(|slot| !slot.blocked).count() < 4 {
                let name = format!("app-{worker}-{}.zip", slots.len());
                slots.push(Slot { name, possible: [None].into(), blocked: false });
            }
            let usable: Vec<&mut Slot> = slots.iter_mut().filter(|slot| !slot.blocked).collect();
            let count = usable.len();
            let slot = usable.into_iter().nth(rand::random_range(0..count)).unwrap();
            let server = &servers[rand::random_range(0..2)];
            let begun = Instant::now();
            match rand::random_range(0..10) {
                0..4 => slot.store(&client, server, versions.fetch_add(1, Relaxed), &tally).await,
                4..5 => slot.delete(&client, server, &tally).await,
                5..8 => _ = slot.read(&client, server).await,
                _ => slot.list(&client, server).await,
            }
            let took = begun.elapsed();
            assert!(took < DEADLINE, "{took:?} for {}", slot.name);
            tally.done.fetch_add(1, Relaxed);
            let mut slowest = tally.slowest.lock().unwrap();
            *slowest = took.max(*slowest);
        }
        slots
    };
    let slots = join_all((0..24).map(work)).await;
    for proxy in &proxies {
        proxy.behave();
        proxy.settled().await;
    }
    let client = Client::new();
    for mut slot in slots.into_iter().flatten() {
        for server in &servers {
            assert!(slot.read(&client, server).await, "{}", slot.name);
        }
    }
    println!("{tally:?}");
    Evidence {
        attack: "a tenth of all requests to the store lost, cut, refused or late",
        on: store.on(),
        cases: tally.done.into_inner(),
        of: "operations",
        ..Evidence::default()
    }
    .record();
    assert!(tally.stored.into_inner() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_gone_every_answer_is_a_503_within_seconds() {
    let test = "the store is gone for a while";
    let Some(mut store) = Store::start(test).await else { return };
    let servers = [(); 2].map(|()| store.server(None, &[KEEP_ALL]));
    let client = Client::new();
    client.put(&servers[0], "app.zip", body(1, 100 * KIB), false).await.unwrap();
    let Some(minio) = store.minio(test) else { return };
    let stopped = Instant::now();
    minio.stop();

    let asking = reqwest::Client::builder().no_proxy().retry(reqwest::retry::never()).build().unwrap();
    let large = body(2, 10 * MIB);
    let requests = servers.iter().flat_map(|server| {
        let package = server.url("/assets/app.zip");
        let fresh = server.url("/assets/fresh.zip");
        [
            ("list", asking.get(server.url("/packages"))),
            ("latest", asking.get(server.url("/latest"))),
            ("download", asking.get(&package)),
            ("delete", asking.delete(&package)),
            ("create", asking.put(&fresh).body(body(3, 100 * KIB))),
            ("create in parts", asking.put(&fresh).body(large.clone())),
            ("replace", asking.put(format!("{package}?overwrite=true")).body(body(3, 100 * KIB))),
            ("replace in parts", asking.put(format!("{package}?overwrite=true")).body(large.clone())),
        ]
    });
    let answers = requests.map(async |(what, request)| {
        let begun = Instant::now();
        let answer = request.bearer_auth(TOKEN).send().await;
        (what, answer, begun.elapsed())
    });
    let answers = join_all(answers).await;
    let refused = |answer: &reqwest::Response| {
        answer.status() == StatusCode::SERVICE_UNAVAILABLE && answer.headers().contains_key(RETRY_AFTER)
    };
    Evidence {
        attack: "the store is gone: every request is refused in time",
        on: "MinIO",
        cases: answers.len(),
        of: "requests",
        wrong: answers.iter().filter(|(_, answer, _)| !answer.as_ref().is_ok_and(refused)).count(),
        hung: answers.iter().filter(|(_, _, took)| *took >= Duration::from_secs(20)).count(),
        ..Evidence::default()
    }
    .record();
    for (what, answer, took) in answers {
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        println!("{what}: {} after {took:?}", answer.status());
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{what}");
        assert!(answer.headers().contains_key(RETRY_AFTER), "{what}");
        assert!(took < Duration::from_secs(20), "{what} took {took:?}");
    }
    let outage = Duration::from_secs(if scale() > 1 { 30 } else { 12 });
    sleep(outage.saturating_sub(stopped.elapsed())).await;
    block_in_place(|| minio.start_again());

    for (number, server) in servers.iter().enumerate() {
        let (status, _, found) = client.get(server, "app.zip").await.unwrap();
        assert!(status == StatusCode::OK && found == body(1, 100 * KIB), "{status}");
        let name = format!("after-{number}.zip");
        for size in [100 * KIB, 10 * MIB] {
            assert_eq!(client.put(server, &name, body(4, size), false).await.unwrap().0, StatusCode::OK);
            assert!(client.list(server).await.unwrap().iter().any(|package| package.name == name));
            assert_eq!(client.delete(server, &name).await.unwrap(), StatusCode::NO_CONTENT);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_store_fails_no_request() {
    let test = "the store restarts";
    let Some(mut store) = Store::start(test).await else { return };
    let servers = [(); 2].map(|()| store.server(None, &[KEEP_ALL]));
    let Some(minio) = store.minio(test) else { return };
    let client = Client::new();
    // Ten creations a second, and a listing after each.
    let creating = join_all((0..80_u64).map(async |number| {
        sleep(Duration::from_millis(100 * number)).await;
        let (one, two) =
            if number % 2 == 0 { (&servers[0], &servers[1]) } else { (&servers[1], &servers[0]) };
        let name = format!("app-{number}.zip");
        let size = if number % 20 == 0 { 9 * MIB } else { 100 * KIB };
        let (status, answer) = client.put(one, &name, body(number, size), false).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{name}: {answer}");
        assert!(client.list(two).await.unwrap().iter().any(|package| package.name == name));
        let (status, _, found) = client.get(two, &name).await.unwrap();
        assert!(status == StatusCode::OK && found == body(number, size), "{name}: {status}");
    }));
    let restarting = async {
        sleep(Duration::from_secs(2)).await;
        let stopped = Instant::now();
        minio.stop();
        sleep(Duration::from_secs(1)).await;
        block_in_place(|| minio.start_again());
        println!("the store was gone for {:?}", stopped.elapsed());
    };
    tokio::join!(creating, restarting);
    Evidence {
        attack: "the store restarts: no request fails",
        on: "MinIO",
        cases: 3 * 80,
        of: "requests",
        ..Evidence::default()
    }
    .record();
}

/// A body that comes in so many pieces, with a pause before each; the last one waits for `end`, if there is one.
fn trickle(bytes: &Bytes, pieces: usize, pause: Duration, end: Option<Arc<Notify>>) -> Body {
    let each = bytes.len().div_ceil(pieces);
    let pieces: Vec<Bytes> = bytes.chunks(each).map(Bytes::copy_from_slice).collect();
    let last = pieces.len() - 1;
    let pieces = stream::iter(pieces.into_iter().enumerate()).then(move |(index, piece)| {
        let end = end.clone().filter(|_| index == last);
        async move {
            sleep(pause).await;
            if let Some(end) = end {
                end.notified().await;
            }
            Ok::<_, std::convert::Infallible>(piece)
        }
    });
    Body::wrap_stream(pieces)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_is_fine_while_it_moves() {
    let Some(store) = Store::start("slow uploads").await else { return };
    let server = store.server(None, &[KEEP_ALL, ("SERVER__STALL_TIMEOUT", "2s")]);
    let client = Client::new();
    let slow = async |name: &'static str, size: usize| {
        let bytes = body(1, size);
        let body = trickle(&bytes, 30, Duration::from_millis(300), None);
        let (status, answer) = client.put(&server, name, body, false).await.unwrap();
        assert_eq!((status, &answer["sha256"]), (StatusCode::OK, &sha256(&bytes).into()), "{answer}");
        assert!(client.get(&server, name).await.unwrap().2 == bytes);
    };
    tokio::join!(slow("small.zip", 100 * KIB), slow("large.zip", 20 * MIB));
}

async fn wait_for_unfinished(store: &Store, name: &str, count: usize) {
    let begun = Instant::now();
    while store.unfinished(name).await != count {
        assert!(begun.elapsed() < Duration::from_secs(20), "there are not {count} unfinished uploads");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_cut_off_leaves_no_parts() {
    let Some(store) = Store::start("uploads cut off").await else { return };
    let settings = [KEEP_ALL, ("SERVER__STALL_TIMEOUT", "2s"), ("SERVER__SHUTDOWN_GRACE", "1s")];
    let mut server = store.server(None, &settings);
    let client = Client::new();
    let begin = |name: &'static str, server: &Server| {
        let url = server.url(&format!("/assets/{name}"));
        let body = trickle(&body(1, 20 * MIB), 20, Duration::ZERO, Some(Arc::new(Notify::new())));
        tokio::spawn(reqwest::Client::new().put(url).bearer_auth(TOKEN).body(body).send())
    };

    let dropped = begin("dropped.zip", &server);
    wait_for_unfinished(&store, "dropped.zip", 1).await;
    dropped.abort();
    wait_for_unfinished(&store, "dropped.zip", 0).await;

    let stalled = begin("stalled.zip", &server);
    wait_for_unfinished(&store, "stalled.zip", 1).await;
    assert_eq!(stalled.await.unwrap().unwrap().status(), StatusCode::REQUEST_TIMEOUT);
    wait_for_unfinished(&store, "stalled.zip", 0).await;
    assert!(client.list(&server).await.unwrap().is_empty());

    let interrupted = begin("interrupted.zip", &server);
    wait_for_unfinished(&store, "interrupted.zip", 1).await;
    server.signal(Signal::TERM);
    block_in_place(|| server.ended(Duration::from_secs(15)));
    let left = store.unfinished("interrupted.zip").await;
    Evidence {
        attack: "uploads in parts dropped, stalled and interrupted",
        on: store.on(),
        cases: 3,
        of: "uploads",
        wrong: left,
        ..Evidence::default()
    }
    .record();
    assert_eq!(left, 0);
    drop(interrupted);
}
