//! A removal on one replica against uploads of the same name on another, one request at a time, in generated orders.
//!
//! Each replica reaches the store through a proxy that holds every request until the schedule lets it go: the removal
//! goes so far, then the upload so far, and so on. So a sweep is paused before its DELETE, a DELETE lands long after
//! its sender has given up on it, and each meets each step of an upload. What must hold: an acknowledged upload is
//! removed by nobody who had not seen it, and nobody waits for ever.
//!
//! A thousand of them, and as many more as `RELEASE_SERVER_TEST_ROUNDS` says:
//!
//! ```console
//! $ RELEASE_SERVER_TEST_ROUNDS=10 cargo test --test s3 interleavings -- --nocapture
//! ```

use std::{
    ffi::OsString,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::http::Method;
use bytes::Bytes;
use chrono::TimeDelta;
use futures_util::{FutureExt as _, future::join_all};
use release_server::{
    audit::Actor,
    config,
    error::{Error, Result},
    marker::name_hash,
    name::PackageName,
    packages::{Package, Packages},
    storage::Storage,
    sweep,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    contract::{UPLOAD_MEMORY, bytes, name, read},
    evidence::Evidence,
    fake::{BUCKET, Fake, Operation},
    proxy::{Asked, Proxy, Verdict},
};

/// How many there are by default.
const INTERLEAVINGS: usize = 300;

/// How many are on their way at a time, each in a store of its own.
const LANES: usize = 8;

/// What nothing may take.
const FOREVER: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    Delete,
    Sweep,
}

#[derive(Debug, Clone, Copy)]
enum Upload {
    /// Over what is there.
    Overwrite,
    /// After a delete of what is there.
    Create,
}

/// What becomes of the removal's DELETEs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    /// That of the package is done, and its reply lost.
    ReplyLost,
    /// That of the package lands later than its sender waits.
    Late,
    /// That of the intent is sent again, later.
    IntentTwice,
}

#[derive(Debug, Clone, Copy)]
struct Scenario {
    removal: Removal,
    upload: Upload,
    /// Whether the upload brings the bytes that are there, and so the same `ETag`.
    same: bool,
    trouble: Trouble,
    /// How many requests of the removal go first, then of the upload, then of the removal again, …
    turns: [usize; 4],
}

impl Scenario {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for removal in [Removal::Delete, Removal::Sweep] {
            for (upload, same) in
                [Upload::Overwrite, Upload::Create].into_iter().flat_map(|u| [(u, false), (u, true)])
            {
                for trouble in [Trouble::None, Trouble::ReplyLost, Trouble::Late, Trouble::IntentTwice] {
                    for first in 0..9 {
                        for second in 0..16 {
                            for third in [1, 2, 4] {
                                let turns = [first, second, third, (first + second + third) % 5];
                                all.push(Self { removal, upload, same, trouble, turns });
                            }
                        }
                    }
                }
            }
        }
        all
    }

    /// So many of all, evenly spread.
    fn some(count: usize) -> Vec<Self> {
        let all = Self::all();
        // Prime to their number, so that neighbours have little in common and none comes twice.
        (0..count.min(all.len())).map(|index| all[index * 4639 % all.len()]).collect()
    }
}

/// A replica whose requests wait for the test.
pub(crate) struct Replica {
    pub(crate) proxy: Proxy,
    pub(crate) packages: Packages,
}

/// A replica at work, or done.
pub(crate) struct Work<T> {
    task: JoinHandle<T>,
    pub(crate) done: Option<T>,
    arrivals: mpsc::UnboundedReceiver<(Asked, oneshot::Sender<Verdict>)>,
    waiting: Option<(Asked, oneshot::Sender<Verdict>)>,
}

impl Replica {
    async fn start(fake: &Fake, max_packages: &str) -> Self {
        Self::start_with(fake, &[("MAX_PACKAGES", max_packages)]).await
    }

    pub(crate) async fn start_with(fake: &Fake, settings: &[(&str, &str)]) -> Self {
        let proxy = Proxy::start(&fake.url).await;
        let packages = packages_with(fake, &proxy.url, settings).await;
        Self { proxy, packages }
    }

    pub(crate) fn begin<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Work<T> {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        self.proxy.judge(move |asked| {
            let (decide, decision) = oneshot::channel();
            let _ = arrived.send((asked, decide));
            // Nobody decides any more: what comes after the end passes.
            async { decision.await.unwrap_or(Verdict::Pass) }
        });
        Work { task: tokio::spawn(work), done: None, arrivals, waiting: None }
    }
}

impl<T> Work<T> {
    /// Waits until its next request is there, or it is done. Only a look for removals is repeated after a pause;
    /// that is not waited for.
    pub(crate) async fn settle(&mut self) {
        if self.waiting.is_some() || self.done.is_some() {
            return;
        }
        tokio::select! {
            biased;
            done = &mut self.task => self.done = Some(done.unwrap()),
            Some(arrival) = self.arrivals.recv() => self.waiting = Some(arrival),
            () = sleep(Duration::from_millis(30)) => {}
        }
    }

    /// Its next request, or one that it has begun and does not wait for.
    pub(crate) async fn next_or_stray(&mut self) -> Option<(Asked, oneshot::Sender<Verdict>)> {
        if self.done.is_none() || self.waiting.is_some() {
            return self.next().await;
        }
        timeout(Duration::from_millis(30), self.arrivals.recv()).await.ok().flatten()
    }

    /// Its next request, if it has one.
    pub(crate) async fn next(&mut self) -> Option<(Asked, oneshot::Sender<Verdict>)> {
        self.settle().await;
        self.waiting.take()
    }
}

async fn packages(fake: &Fake, url: &str, max_packages: &str) -> Packages {
    packages_with(fake, url, &[("MAX_PACKAGES", max_packages)]).await
}

pub(crate) async fn packages_with(fake: &Fake, url: &str, settings: &[(&str, &str)]) -> Packages {
    let mut variables = fake.variables().map(|(name, value)| (name.to_owned(), value));
    url.clone_into(&mut variables[0].1);
    // Loading them takes a while, and there is no TLS.
    let no_certificates = ("AWS_DISABLE_SYSTEM_CERTIFICATES".to_owned(), "true".to_owned());
    let variables = variables.into_iter().chain([no_certificates]);
    let storage = Storage::bucket(BUCKET, "a/prefix", variables, None, UPLOAD_MEMORY, false).await.unwrap();
    let settings = settings.iter().map(|&(name, value)| (name.to_owned(), OsString::from(value)));
    let config = config::load_from(settings, Path::new("/nonexistent")).unwrap().config;
    Packages::new(storage, &config)
}

pub(crate) async fn publish(
    packages: &Packages,
    name: &PackageName,
    bytes: Bytes,
    overwrite: bool,
) -> Result<Package> {
    let mut upload = packages.upload(name.clone(), overwrite, Some(bytes.len() as u64)).await?;
    upload.write(bytes).await?;
    upload.commit(None, Actor::default()).await
}

/// A store, and two replicas and a bystander on it.
struct Lane {
    fake: Fake,
    bystander: Packages,
    remover: Replica,
    uploader: Replica,
}

/// What a scenario came to.
#[derive(Debug, Default)]
struct Figures {
    acknowledged: AtomicUsize,
    refused: AtomicUsize,
    removed: AtomicUsize,
    spared: AtomicUsize,
    late: AtomicUsize,
}

impl Lane {
    async fn start() -> Self {
        let fake = Fake::start().await;
        let bystander = packages(&fake, &fake.url, "0").await;
        bystander.storage().set_swept().await.unwrap();
        let remover = Replica::start(&fake, "1").await;
        let uploader = Replica::start(&fake, "0").await;
        Self { fake, bystander, remover, uploader }
    }

    #[expect(clippy::too_many_lines, reason = "one schedule, from its begin to its verdict")]
    async fn play(&self, scenario: Scenario, number: usize, figures: &Figures) {
        let hot = name(&format!("app-{number}.zip"));
        let old = bytes(number % 100, 20);
        let new = if scenario.same { old.clone() } else { bytes(number % 100 + 100, 21) };
        publish(&self.bystander, &hot, old.clone(), false).await.unwrap();
        // Pushes the first one out, as the remover has it.
        publish(&self.bystander, &name(&format!("other-{number}.zip")), bytes(1, 10), false).await.unwrap();

        let mut removing = {
            let (packages, hot) = (self.remover.packages.clone(), hot.clone());
            self.remover.begin(async move {
                match scenario.removal {
                    Removal::Delete => packages.delete(hot, Actor::default()).await,
                    Removal::Sweep => sweep::pass(&packages).await.map(drop),
                }
            })
        };
        let mut uploading = {
            let (packages, hot, new) = (self.uploader.packages.clone(), hot.clone(), new.clone());
            self.uploader.begin(async move {
                match scenario.upload {
                    Upload::Overwrite => publish(&packages, &hot, new, true).await,
                    Upload::Create => {
                        let _ = packages.delete(hot.clone(), Actor::default()).await;
                        publish(&packages, &hot, new, false).await
                    }
                }
            })
        };

        let package_key = format!("/{BUCKET}/a/prefix/{hot}");
        let intent_keys = format!("/{BUCKET}/a/prefix/.release-server/removing/{}", name_hash(hot.as_str()));
        // The order in which requests were let go: when the removal last looked before its intent, when its DELETE
        // left, and when the upload's bytes arrived.
        let (mut moment, mut judged, mut intended, mut stored) = (0, 0, false, 0);
        let (land, landing) = oneshot::channel::<()>();
        let landing = landing.map(drop).shared();
        let mut in_doubt = false;
        let mut verdict_of = |asked: &Asked, moment: usize| {
            if asked.method == Method::PUT && asked.path.starts_with(&intent_keys) {
                intended = true;
            } else if asked.method == Method::GET && !intended {
                judged = moment;
            }
            if asked.method != Method::DELETE {
                return Verdict::Pass;
            }
            match scenario.trouble {
                Trouble::ReplyLost if asked.path == package_key => Verdict::LoseReply,
                Trouble::Late if asked.path == package_key => {
                    in_doubt = true;
                    Verdict::Late(landing.clone().boxed())
                }
                Trouble::IntentTwice if asked.path.starts_with(&intent_keys) => {
                    Verdict::Twice(landing.clone().boxed())
                }
                _ => Verdict::Pass,
            }
        };

        for (index, turns) in scenario.turns.into_iter().chain([usize::MAX; 2]).enumerate() {
            for _ in 0..turns {
                moment += 1;
                if index % 2 == 0 {
                    let Some((asked, decide)) = removing.next().await else { break };
                    // On a busy machine the replica may have given up on it.
                    let _ = decide.send(verdict_of(&asked, moment));
                    removing.settle().await;
                } else {
                    let Some((asked, decide)) = uploading.next().await else { break };
                    if asked.method == Method::PUT && asked.path == package_key {
                        stored = moment;
                    }
                    let _ = decide.send(Verdict::Pass);
                    uploading.settle().await;
                }
            }
        }
        // Both are done, or the upload waits for a removal that ended in doubt. Only once that has landed, as a request
        // does within minutes, is its intent too old to be waited for.
        let _ = land.send(());
        self.remover.proxy.settled().await;
        for intent in self.fake.keys("a/prefix/.release-server/removing/") {
            self.fake.age(&intent, TimeDelta::minutes(6));
        }
        let both = async {
            while removing.done.is_none() || uploading.done.is_none() {
                if let Some((asked, decide)) = removing.next().await {
                    moment += 1;
                    let _ = decide.send(verdict_of(&asked, moment));
                }
                if let Some((asked, decide)) = uploading.next().await {
                    moment += 1;
                    if asked.method == Method::PUT && asked.path == package_key {
                        stored = moment;
                    }
                    let _ = decide.send(Verdict::Pass);
                }
            }
        };
        timeout(FOREVER, both).await.unwrap_or_else(|_| panic!("it does not end: {scenario:?}"));
        self.remover.proxy.settled().await;

        let (removed, uploaded) = (removing.done.unwrap(), uploading.done.unwrap());
        let found = read(self.bystander.storage(), &hot).await;
        let seen = format!("{scenario:?}: {removed:?}, {uploaded:?}, found {found:?}");
        figures.late.fetch_add(usize::from(in_doubt), Relaxed);
        match &uploaded {
            Ok(package) => {
                figures.acknowledged.fetch_add(1, Relaxed);
                // Who has seen it may remove it.
                let may_go = scenario.removal == Removal::Delete && judged > stored;
                match &found {
                    Ok(found) => {
                        assert!(*found == new, "other bytes than those acknowledged: {seen}");
                        let listing = self.bystander.list().await.unwrap();
                        assert_eq!(listing.find(&hot).unwrap().sha256, package.sha256, "{seen}");
                        figures.spared.fetch_add(1, Relaxed);
                    }
                    Err(Error::NotFound(_)) => {
                        assert!(may_go, "an acknowledged upload is lost: {seen}");
                        figures.removed.fetch_add(1, Relaxed);
                    }
                    Err(error) => panic!("{error}: {seen}"),
                }
            }
            Err(Error::Unavailable(_) | Error::AlreadyExists(_) | Error::Changed(_)) => {
                figures.refused.fetch_add(1, Relaxed);
                let known = found.as_ref().map_or_else(
                    |error| matches!(error, Error::NotFound(_)),
                    |found| *found == old || *found == new,
                );
                assert!(known, "{seen}");
            }
            Err(error) => panic!("{error}: {seen}"),
        }
        if scenario.removal == Removal::Delete && removed.is_ok() && !scenario.same {
            assert!(found.is_err() || found.is_ok_and(|found| found == new), "it was not deleted: {seen}");
        }
        self.tidy();
    }

    fn tidy(&self) {
        self.remover.proxy.behave();
        self.uploader.proxy.behave();
        for key in self.fake.keys("a/prefix/") {
            if !key.ends_with("/layout-1") && !key.ends_with("/swept") {
                self.fake.remove(&key);
            }
        }
        self.fake.forget_requests();
    }
}

/// The marker of a large upload may come long after its bytes, and a listing in between has no digest for them.
#[tokio::test]
async fn an_acknowledged_upload_has_its_digest_on_every_replica_at_once() {
    let fake = Fake::start().await;
    let (one, two) = (packages(&fake, &fake.url, "0").await, packages(&fake, &fake.url, "0").await);
    let hot = name("app.zip");
    let gate = fake.when([Operation::Put]).under("a/prefix/.release-server/packages/").hold();
    let uploading = tokio::spawn({
        let hot = hot.clone();
        async move { publish(&one, &hot, bytes(1, 20), false).await }
    });
    gate.arrived().await;
    sleep(Duration::from_millis(2500)).await;
    assert_eq!(two.list().await.unwrap().find(&hot).unwrap().sha256, None);
    gate.release();
    let package = uploading.await.unwrap().unwrap();
    assert_eq!(two.open(&hot).await.unwrap().sha256, package.sha256);
}

/// While the digest of what was seen is looked for, it may go; its bytes may still be in the cache.
#[tokio::test]
async fn what_goes_while_its_digest_is_looked_for_is_not_opened_without_it() {
    let fake = Fake::start().await;
    let writer = packages(&fake, &fake.url, "0").await;
    let hot = name("app.zip");
    for replaced in [true, false] {
        let reader = packages(&fake, &fake.url, "0").await;
        publish(&writer, &hot, bytes(1, 20), true).await.unwrap();
        let gate = fake.when([Operation::List]).under("a/prefix/.release-server/packages/").hold();
        let opening = tokio::spawn({
            let hot = hot.clone();
            async move { reader.open(&hot).await.map(|opened| opened.sha256) }
        });
        gate.arrived().await;
        if replaced {
            publish(&writer, &hot, bytes(2, 30), true).await.unwrap();
        } else {
            writer.delete(hot.clone(), Actor::default()).await.unwrap();
        }
        gate.release();
        match opening.await.unwrap() {
            Err(Error::Changed(_)) => assert!(replaced),
            Err(Error::NotFound(_)) => assert!(!replaced),
            opened => panic!("{opened:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_upload_is_lost_to_a_removal_that_had_not_seen_it() {
    let rounds: usize =
        std::env::var("RELEASE_SERVER_TEST_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let scenarios = Scenario::some(INTERLEAVINGS * rounds);
    let count = scenarios.len();
    let left = Arc::new(Mutex::new(scenarios.into_iter().enumerate()));
    let figures = Arc::new(Figures::default());
    let lanes = (0..LANES).map(|_| {
        let (left, figures) = (Arc::clone(&left), Arc::clone(&figures));
        tokio::spawn(async move {
            let lane = Lane::start().await;
            loop {
                let next = left.lock().unwrap().next();
                let Some((number, scenario)) = next else { return };
                lane.play(scenario, number, &figures).await;
            }
        })
    });
    for lane in join_all(lanes).await {
        lane.unwrap();
    }
    println!("{count} interleavings: {figures:?}");
    Evidence {
        attack: "a removal against uploads of the same name, one request at a time",
        on: "S3, simulated",
        cases: count,
        of: "interleavings",
        ..Evidence::default()
    }
    .record();
    // All of it has come about.
    for figure in [&figures.acknowledged, &figures.refused, &figures.removed, &figures.spared, &figures.late]
    {
        assert!(figure.load(Relaxed) > 0, "{figures:?}");
    }
}
