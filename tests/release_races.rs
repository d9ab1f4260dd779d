//! Two server processes over one store, killed without warning while clients publish: no tag has two releases, none is
//! half, no acknowledged change is lost, the latest release never goes back, and nothing is stuck afterwards.
//!
//! On a directory, and on a real store: which one, see `process/store.rs`. The numbers are small by default:
//!
//! ```console
//! $ RELEASE_SERVER_TEST_ROUNDS=20 cargo test --test release_races -- --nocapture
//! ```

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers as well")]

mod evidence;
#[allow(dead_code, reason = "each test binary uses its part")]
mod process;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "process/store.rs"]
mod store;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use evidence::Evidence;
use futures_util::future::join_all;
use process::{Server, Signal, TOKEN, body, scale, sha256};
use rand::seq::IndexedRandom as _;
use reqwest::Method;
use serde_json::{Value, json};
use store::Store;
use tokio::{task::block_in_place, time::sleep};

const RELEASES: &str = "/api/v3/repos/acme/app/releases";

/// How many race for one tag.
const PUBLISHERS: usize = 16;

/// Where the servers keep what they have.
enum Place {
    Directory(tempfile::TempDir),
    Bucket(Box<Store>),
}

impl Place {
    fn directory() -> Self {
        Self::Directory(tempfile::tempdir().unwrap())
    }

    async fn bucket(test: &str) -> Option<Self> {
        Store::start(test).await.map(|store| Self::Bucket(Box::new(store)))
    }

    /// What it is, for a reader.
    fn on(&self) -> &'static str {
        match self {
            Self::Directory(_) => "directory",
            Self::Bucket(store) => store.on(),
        }
    }

    fn server(&self) -> Server {
        let settings = [
            ("RETENTION__INTERVAL", "200ms"),
            ("LOG__LEVEL", "warn,release_server::server=info"),
            // So that both give the same answers.
            ("PUBLIC_URL", "http://releases.example"),
        ];
        block_in_place(|| match self {
            Self::Directory(directory) => Server::start(directory.path() as &Path, &settings),
            Self::Bucket(store) => store.server(None, &settings),
        })
    }
}

/// Two replicas of which one may be down, and a client of both.
struct Replicas {
    place: Place,
    servers: [Mutex<Server>; 2],
    client: reqwest::Client,
    seeds: AtomicU64,
}

impl Replicas {
    fn start(place: Place) -> Arc<Self> {
        let servers = [(); 2].map(|()| Mutex::new(place.server()));
        let client = reqwest::Client::builder().no_proxy().retry(reqwest::retry::never());
        let client = client.timeout(Duration::from_mins(1)).build().unwrap();
        Arc::new(Self { place, servers, client, seeds: AtomicU64::new(1) })
    }

    /// The status and the answer; `None` if the connection broke, so that it is not known what happened.
    async fn ask(&self, replica: usize, method: Method, path: &str, body: Bytes) -> Option<(u16, Value)> {
        let url = self.servers[replica % 2].lock().unwrap().url(path);
        let answer = self.client.request(method, url).bearer_auth(TOKEN).body(body).send().await.ok()?;
        let status = answer.status().as_u16();
        let text = answer.text().await.ok()?;
        assert_ne!(status, 500, "{text}");
        Some((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    async fn send(&self, replica: usize, method: Method, path: &str, fields: Value) -> Option<(u16, Value)> {
        self.ask(replica, method, path, fields.to_string().into()).await
    }

    async fn get(&self, replica: usize, path: &str) -> Option<(u16, Value)> {
        self.ask(replica, Method::GET, path, Bytes::new()).await
    }

    /// As [`Replicas::get`], from servers that are up, in full.
    async fn read(&self, replica: usize, path: &str) -> (u16, Value) {
        self.get(replica, path).await.expect("both replicas are up")
    }

    /// Every release, drafts too.
    async fn list(&self, replica: usize) -> Option<Vec<Value>> {
        let mut all = Vec::new();
        for page in 1.. {
            let (status, list) = self.get(replica, &format!("{RELEASES}?per_page=100&page={page}")).await?;
            let list = list.as_array().filter(|_| status == 200)?;
            if list.is_empty() {
                break;
            }
            all.extend(list.iter().cloned());
        }
        Some(all)
    }

    async fn upload(&self, replica: usize, id: u64, name: &str, bytes: &Bytes) -> Option<(u16, Value)> {
        let path = format!("/api/uploads/repos/acme/app/releases/{id}/assets?name={name}");
        self.ask(replica, Method::POST, &path, bytes.clone()).await
    }

    async fn download(&self, replica: usize, tag: &str, name: &str) -> Option<(u16, Bytes)> {
        let path = format!("/acme/app/releases/download/{tag}/{name}");
        let url = self.servers[replica % 2].lock().unwrap().url(&path);
        let answer = self.client.get(url).send().await.ok()?;
        Some((answer.status().as_u16(), answer.bytes().await.ok()?))
    }

    fn seed(&self) -> u64 {
        self.seeds.fetch_add(1, Relaxed)
    }

    /// Kills one replica and starts another in its place, again and again.
    async fn kill(&self, done: &AtomicBool) {
        let mut replica = 0;
        while !done.load(Relaxed) {
            sleep(Duration::from_millis(rand::random_range(100..600))).await;
            self.servers[replica].lock().unwrap().signal(Signal::KILL);
            let another = self.place.server();
            *self.servers[replica].lock().unwrap() = another;
            replica = 1 - replica;
        }
    }
}

fn id(release: &Value) -> u64 {
    release["id"].as_u64().unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Each with a draft of its own, whole, and all published at once; or created and published at one go.
async fn publishers_race(replicas: &Replicas, tag: &str, drafts: bool) {
    let contenders = join_all((0..PUBLISHERS).map(async |number| {
        if !drafts {
            return None;
        }
        let fields = json!({ "tag_name": tag, "draft": true });
        let (_, draft) = replicas.send(number, Method::POST, RELEASES, fields).await.unwrap();
        let (status, _) =
            replicas.upload(number + 1, id(&draft), "owner", &format!("{number}").into()).await.unwrap();
        assert_eq!(status, 201);
        Some(id(&draft))
    }))
    .await;
    let ends = join_all(contenders.iter().enumerate().map(async |(number, draft)| match draft {
        Some(draft) => {
            let path = format!("{RELEASES}/{draft}");
            replicas.send(number, Method::PATCH, &path, json!({ "draft": false })).await.unwrap()
        }
        None => replicas.send(number, Method::POST, RELEASES, json!({ "tag_name": tag })).await.unwrap(),
    }))
    .await;
    let mut winners = Vec::new();
    for (number, (status, answer)) in ends.into_iter().enumerate() {
        match status {
            200 | 201 => winners.push((number, answer)),
            422 => {
                let first = &answer["errors"][0];
                assert_eq!((&first["field"], &first["code"]), (&"tag_name".into(), &"already_exists".into()));
            }
            other => panic!("{other}: {answer}"),
        }
    }
    let [(number, winner)] = &winners[..] else { panic!("{} publishers of `{tag}` won", winners.len()) };
    for replica in 0..2 {
        let (status, found) = replicas.read(replica, &format!("{RELEASES}/tags/{tag}")).await;
        assert_eq!((status, id(&found)), (200, id(winner)));
        let list = replicas.list(replica).await.unwrap();
        let of_tag = list.iter().filter(|release| release["tag_name"] == tag);
        let (published, left): (Vec<_>, Vec<_>) = of_tag.partition(|release| release["draft"] == false);
        assert_eq!((published.len(), left.len()), (1, if drafts { PUBLISHERS - 1 } else { 0 }));
        if drafts {
            let (status, bytes) = replicas.download(replica, tag, "owner").await.unwrap();
            assert_eq!((status, bytes), (200, format!("{number}").into()));
        }
    }
}

async fn race(place: Place) {
    let replicas = Replicas::start(place);
    for round in 0..3 * scale() {
        publishers_race(&replicas, &format!("v{round}"), round % 3 == 0).await;
    }
    Evidence {
        attack: "publishers of one tag, as many as 16 at once over two replicas",
        on: replicas.place.on(),
        cases: 3 * scale() * PUBLISHERS,
        of: "publishers",
        ..Evidence::default()
    }
    .record();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_16_publishers_of_a_tag_wins_on_a_directory() {
    race(Place::directory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_16_publishers_of_a_tag_wins_on_a_bucket() {
    if let Some(place) = Place::bucket("racing publishers").await {
        race(place).await;
    }
}

/// What publishers and readers of the latest release know.
#[derive(Default)]
struct Seen {
    /// When each release was asked to be published, and acknowledged.
    published: BTreeMap<String, (Instant, Option<Instant>)>,
    /// What each reader saw: from when to when, and what.
    read: Vec<(Instant, Instant, String)>,
}

impl Seen {
    /// A release that was seen, or acknowledged, before another one was begun to be published never comes back: what
    /// did all the same.
    fn gone_back(&self) -> Vec<String> {
        // Since when each is known to have been the latest, or to have been published before another was.
        let mut superseded: BTreeMap<&str, Instant> = BTreeMap::new();
        for (tag, (_, acknowledged)) in &self.published {
            let Some(acknowledged) = acknowledged else { continue };
            // Whoever began after this one was acknowledged is newer, once it is seen or acknowledged itself.
            let newer = self.published.iter().filter(|(_, (begun, _))| begun > acknowledged);
            let known = newer.filter_map(|(newer, (_, acknowledged))| {
                let seen = self.read.iter().filter(|(_, _, seen)| seen == newer).map(|(_, end, _)| *end);
                seen.chain(*acknowledged).min()
            });
            if let Some(since) = known.min() {
                superseded.insert(tag, since);
            }
        }
        let mut back = Vec::new();
        for (begun, _, tag) in &self.read {
            if superseded.get(tag.as_str()).is_some_and(|since| begun > since) {
                back.push(format!("the latest release went back to `{tag}`"));
            }
        }
        // And what one reader saw before what it saw next is not seen again.
        let mut left: HashSet<&str> = HashSet::new();
        let mut now = "";
        let mut reads: Vec<_> = self.read.iter().collect();
        reads.sort_by_key(|(begun, _, _)| *begun);
        for (_, _, tag) in reads {
            if tag != now {
                if left.contains(tag.as_str()) {
                    back.push(format!("the latest release went back to `{tag}` from `{now}`"));
                }
                left.insert(now);
                now = tag;
            }
        }
        back
    }
}

async fn latest_never_goes_back(place: Place) {
    let replicas = Replicas::start(place);
    let (done, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
    let publishers = (0..4).map(|publisher| {
        let (replicas, done, seen) = (Arc::clone(&replicas), Arc::clone(&done), Arc::clone(&seen));
        tokio::spawn(async move {
            for number in 0.. {
                if done.load(Relaxed) {
                    return;
                }
                let tag = format!("v{publisher}.{number}");
                let begun = Instant::now();
                seen.lock().unwrap().published.insert(tag.clone(), (begun, None));
                let fields = json!({ "tag_name": tag });
                let end = replicas.send(publisher + number, Method::POST, RELEASES, fields).await;
                if matches!(end, Some((201, _))) {
                    seen.lock().unwrap().published.insert(tag, (begun, Some(Instant::now())));
                }
                sleep(Duration::from_millis(rand::random_range(0..40))).await;
            }
        })
    });
    let publishers: Vec<_> = publishers.collect();
    let reader = {
        let (replicas, done, seen) = (Arc::clone(&replicas), Arc::clone(&done), Arc::clone(&seen));
        tokio::spawn(async move {
            let mut replica = 0;
            while !done.load(Relaxed) {
                replica += 1;
                let begun = Instant::now();
                if let Some((200, latest)) = replicas.get(replica, &format!("{RELEASES}/latest")).await {
                    let tag = text(&latest["tag_name"]);
                    seen.lock().unwrap().read.push((begun, Instant::now(), tag));
                }
            }
        })
    };
    let killer = {
        let (replicas, done) = (Arc::clone(&replicas), Arc::clone(&done));
        tokio::spawn(async move { replicas.kill(&done).await })
    };
    sleep(Duration::from_secs(4) * u32::try_from(scale()).unwrap()).await;
    done.store(true, Relaxed);
    for task in publishers.into_iter().chain([reader, killer]) {
        task.await.unwrap();
    }
    let seen = seen.lock().unwrap();
    println!("{} publishers' releases, {} looks at the latest", seen.published.len(), seen.read.len());
    let back = seen.gone_back();
    Evidence {
        attack: "the latest release, while others are published and replicas killed",
        on: replicas.place.on(),
        cases: seen.read.len(),
        of: "looks at it",
        wrong: back.len(),
        ..Evidence::default()
    }
    .record();
    assert!(seen.published.values().filter(|(_, acknowledged)| acknowledged.is_some()).count() > 20);
    assert!(back.is_empty(), "{back:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_never_goes_back_on_a_directory() {
    latest_never_goes_back(Place::directory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_never_goes_back_on_a_bucket() {
    if let Some(place) = Place::bucket("the latest release").await {
        latest_never_goes_back(place).await;
    }
}

/// The tags that everybody is after.
const TAGS: [&str; 4] = ["t0", "t1", "t2", "t3"];

const WORKERS: usize = 6;

/// What was acknowledged.
#[derive(Default)]
struct Known {
    releases: Vec<u64>,
    /// Deleted, or perhaps.
    doubtful: HashSet<u64>,
    /// The assets of each release, by name: their bytes' digest. `None`: deleted or replaced, or perhaps.
    assets: BTreeMap<(u64, String), Option<String>>,
    /// The last title of each release that was acknowledged, and the last that was sent.
    titles: BTreeMap<u64, (u64, u64)>,
}

/// One random operation of one worker.
async fn operate(replicas: &Replicas, known: &Mutex<Known>, worker: usize) {
    let replica = rand::random_range(0..2);
    let release = known.lock().unwrap().releases.choose(&mut rand::rng()).copied();
    let tag = *TAGS.choose(&mut rand::rng()).unwrap();
    let Some(release) = release.filter(|_| rand::random_bool(0.93)) else {
        let fields = json!({ "tag_name": tag, "draft": rand::random_bool(0.7) });
        if let Some((201, created)) = replicas.send(replica, Method::POST, RELEASES, fields).await {
            known.lock().unwrap().releases.push(id(&created));
        }
        return;
    };
    let path = format!("{RELEASES}/{release}");
    match rand::random_range(0..100) {
        0..25 => {
            let edit = json!({ "draft": false, "tag_name": tag });
            replicas.send(replica, Method::PATCH, &path, edit).await;
        }
        25..40 => {
            replicas.send(replica, Method::PATCH, &path, json!({ "tag_name": tag })).await;
        }
        40..47 => {
            replicas.send(replica, Method::PATCH, &path, json!({ "draft": true })).await;
        }
        47..52 => {
            known.lock().unwrap().doubtful.insert(release);
            replicas.ask(replica, Method::DELETE, &path, Bytes::new()).await;
        }
        // A title is one worker's alone, so that the last one is known.
        52..67 => {
            let mine = usize::try_from(release % WORKERS as u64).unwrap() == worker;
            if mine {
                let number = replicas.seed();
                known.lock().unwrap().titles.entry(release).or_default().1 = number;
                let edit = json!({ "name": number.to_string() });
                if let Some((200, _)) = replicas.send(replica, Method::PATCH, &path, edit).await {
                    known.lock().unwrap().titles.entry(release).or_default().0 = number;
                }
            }
        }
        67..90 => {
            let seed = replicas.seed();
            let (name, bytes) = (format!("{seed}.bin"), body(seed, rand::random_range(1..20_000)));
            if let Some((201, asset)) = replicas.upload(replica, release, &name, &bytes).await {
                let digest = sha256(&bytes);
                assert_eq!(asset["digest"], format!("sha256:{digest}"));
                known.lock().unwrap().assets.insert((release, name), Some(digest));
            }
        }
        replace => {
            let named = known.lock().unwrap().assets.keys().cloned().collect::<Vec<_>>();
            let Some((release, name)) = named.choose(&mut rand::rng()).cloned() else { return };
            known.lock().unwrap().assets.insert((release, name.clone()), None);
            if replace < 95 {
                let query = format!("{name}&overwrite=true");
                let bytes = body(replicas.seed(), 1000);
                replicas.upload(replica, release, &query, &bytes).await;
            } else if let Some((200, release)) = replicas.get(replica, &format!("{RELEASES}/{release}")).await
            {
                let assets = release["assets"].as_array().unwrap();
                if let Some(asset) = assets.iter().find(|asset| asset["name"] == name) {
                    let path = format!("{RELEASES}/assets/{}", asset["id"]);
                    replicas.ask(replica, Method::DELETE, &path, Bytes::new()).await;
                }
            }
        }
    }
}

/// No tag has two releases in any list, and a tag leads to a release that is published there.
async fn look(replicas: &Replicas, replica: usize) {
    // One page: several are of several moments.
    if let Some((200, list)) = replicas.get(replica, &format!("{RELEASES}?per_page=100")).await {
        let list = list.as_array().unwrap();
        let published = list.iter().filter(|release| release["draft"] == false);
        let tags: Vec<String> = published.map(|release| text(&release["tag_name"])).collect();
        let unique: BTreeSet<&String> = tags.iter().collect();
        assert_eq!(unique.len(), tags.len(), "a tag has two releases: {tags:?}");
    }
    let tag = *TAGS.choose(&mut rand::rng()).unwrap();
    if let Some((200, release)) = replicas.get(replica, &format!("{RELEASES}/tags/{tag}")).await {
        assert_eq!((&release["tag_name"], &release["draft"]), (&tag.into(), &false.into()));
    }
}

async fn chaos(place: Place) {
    let replicas = Replicas::start(place);
    let (done, known) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Known::default())));
    let workers = (0..WORKERS).map(|worker| {
        let (replicas, done, known) = (Arc::clone(&replicas), Arc::clone(&done), Arc::clone(&known));
        tokio::spawn(async move {
            let mut operations = 0_u32;
            while !done.load(Relaxed) {
                operate(&replicas, &known, worker).await;
                operations += 1;
                // A server that is down refuses at once.
                sleep(Duration::from_millis(5)).await;
            }
            operations
        })
    });
    let workers: Vec<_> = workers.collect();
    let reader = {
        let (replicas, done) = (Arc::clone(&replicas), Arc::clone(&done));
        tokio::spawn(async move {
            for replica in 0.. {
                if done.load(Relaxed) {
                    return;
                }
                look(&replicas, replica).await;
            }
        })
    };
    let killer = {
        let (replicas, done) = (Arc::clone(&replicas), Arc::clone(&done));
        tokio::spawn(async move { replicas.kill(&done).await })
    };
    sleep(Duration::from_secs(6) * u32::try_from(scale()).unwrap()).await;
    done.store(true, Relaxed);
    killer.await.unwrap();
    reader.await.unwrap();
    let operations: u32 = join_all(workers).await.into_iter().map(Result::unwrap).sum();
    let known = known.lock().unwrap();
    println!("{operations} operations on {} releases, {} assets", known.releases.len(), known.assets.len());
    assert!(operations > 100, "{operations}");
    block_in_place(|| tokio::runtime::Handle::current().block_on(check(&replicas, &known)));
    Evidence {
        attack: "releases created, edited and deleted while replicas are killed",
        on: replicas.place.on(),
        cases: operations as usize,
        of: "operations",
        ..Evidence::default()
    }
    .record();
}

/// What holds when everything is quiet.
async fn check(replicas: &Replicas, known: &Known) {
    look(replicas, 0).await;
    let list = replicas.list(0).await.unwrap();
    assert!(list == replicas.list(1).await.unwrap(), "the replicas differ");
    for release in &list {
        let tag = text(&release["tag_name"]);
        if release["draft"] == false {
            let (status, found) = replicas.read(0, &format!("{RELEASES}/tags/{tag}")).await;
            assert_eq!((status, &found), (200, release), "`{tag}` leads elsewhere");
        }
        for asset in release["assets"].as_array().unwrap() {
            let path = format!("{RELEASES}/assets/{}", asset["id"]);
            let url = replicas.servers[0].lock().unwrap().url(&path);
            let request = replicas.client.get(url).bearer_auth(TOKEN);
            let answer = request.header("accept", "application/octet-stream").send().await.unwrap();
            assert_eq!(answer.status(), 200, "{asset}");
            assert_eq!(asset["digest"], format!("sha256:{}", sha256(&answer.bytes().await.unwrap())));
        }
    }
    let found = |release: u64| list.iter().find(|found| id(found) == release);
    for release in known.releases.iter().filter(|release| !known.doubtful.contains(release)) {
        assert!(found(*release).is_some(), "release {release} is lost");
    }
    for ((release, name), digest) in &known.assets {
        let (Some(release), Some(digest)) = (found(*release), digest) else { continue };
        let assets = release["assets"].as_array().unwrap();
        let asset = assets.iter().find(|asset| asset["name"] == *name);
        let asset = asset.unwrap_or_else(|| panic!("asset `{name}` is lost"));
        assert_eq!(asset["digest"], format!("sha256:{digest}"));
    }
    for (release, (acknowledged, sent)) in &known.titles {
        let Some(release) = found(*release) else { continue };
        let title = text(&release["name"]).parse::<u64>().unwrap_or(0);
        assert!((*acknowledged..=*sent).contains(&title), "title {title}, of {acknowledged} to {sent}");
    }
    // Nothing is stuck: every tag can be had, and every draft published.
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for release in list.iter().filter(|release| release["draft"] == false) {
        taken.insert(text(&release["tag_name"]));
    }
    for tag in TAGS.iter().filter(|tag| !taken.contains(**tag)) {
        let (status, answer) =
            replicas.send(0, Method::POST, RELEASES, json!({ "tag_name": tag })).await.unwrap();
        assert_eq!(status, 201, "`{tag}` is stuck: {answer}");
    }
    for draft in list.iter().filter(|release| release["draft"] == true) {
        let fields = json!({ "draft": false, "tag_name": format!("own-{}", draft["id"]) });
        let path = format!("{RELEASES}/{}", draft["id"]);
        let (status, answer) = replicas.send(1, Method::PATCH, &path, fields).await.unwrap();
        assert_eq!(status, 200, "a draft is stuck: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_torn_whoever_dies_on_a_directory() {
    chaos(Place::directory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_torn_whoever_dies_on_a_bucket() {
    if let Some(place) = Place::bucket("chaos").await {
        chaos(place).await;
    }
}
