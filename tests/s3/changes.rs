//! Listings that are proved to hold instead of repeated, against writes of another replica: in generated orders, one
//! request at a time.
//!
//! One replica writes, another lists, both through a proxy that holds every request until the schedule lets it go; a third
//! lists in between. What must hold: what was acknowledged, or was in any answer, is in every answer to a later request.
//!
//! ```console
//! $ RELEASE_SERVER_TEST_ROUNDS=10 cargo test --test s3 changes -- --nocapture
//! ```

use std::{
    fmt::Write as _,
    iter,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::http::Method;
use futures_util::{FutureExt as _, future::join_all};
use release_server::{
    audit::Actor,
    error::{Error, Result},
    name::PackageName,
    packages::{Listing, Packages},
};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::{
    contract::{bytes, name},
    evidence::Evidence,
    fake::{BUCKET, Fake, Operation},
    interleavings::{Replica, Work, packages_with, publish},
    proxy::{Asked, Verdict},
};

/// How many interleavings there are by default.
const INTERLEAVINGS: usize = 60;

/// How many are on their way at a time, each in a store of its own.
const LANES: usize = 4;

/// As many as make a listing slow, and more.
const MANY: usize = 501;

const RECORD: &str = "a/prefix/.release-server/changes";

/// Nothing but the record says that a listing holds no longer.
const SETTINGS: [(&str, &str); 2] = [("MAX_PACKAGES", "0"), ("LISTING_BY_HAND_MAX_AGE", "1h")];

/// A store of many packages, with a record that every server has found.
async fn store() -> Fake {
    let fake = Fake::start().await;
    for number in 0..MANY {
        fake.put(&format!("a/prefix/filler-{number}.zip"), "x");
    }
    forget(&fake, 0);
    fake
}

/// Nobody is writing, as no version of the record said before.
fn forget(fake: &Fake, number: usize) {
    fake.put(RECORD, format!(r#"{{"edit": "{number}", "open": []}}"#));
}

async fn replica(fake: &Fake) -> Packages {
    packages_with(fake, &fake.url, &SETTINGS).await
}

/// Waits until the replica has taken back what it announced.
async fn at_rest(packages: &Packages) {
    // The last of a write is dropped a moment after it is acknowledged.
    tokio::task::yield_now().await;
    packages.storage().finish().await;
}

/// The requests that a listing takes.
async fn requests(fake: &Fake, packages: &Packages) -> Vec<Operation> {
    fake.forget_requests();
    packages.list().await.unwrap();
    fake.requests().into_iter().map(|(operation, _)| operation).collect()
}

const PROOF: [Operation; 1] = [Operation::Head];

#[tokio::test]
async fn a_listing_is_repeated_only_when_somebody_wrote() {
    let fake = store().await;
    let (one, two) = (replica(&fake).await, replica(&fake).await);
    let hot = name("app.zip");
    for _ in 0..3 {
        one.list().await.unwrap();
        two.list().await.unwrap();
        assert_eq!(requests(&fake, &two).await, PROOF);

        publish(&one, &hot, bytes(1, 20), false).await.unwrap();
        assert!(two.list().await.unwrap().find(&hot).unwrap().sha256.is_some());
        at_rest(&one).await;
        two.list().await.unwrap();
        assert_eq!(requests(&fake, &two).await, PROOF);

        one.delete(hot.clone(), Actor::default()).await.unwrap();
        assert!(two.list().await.unwrap().find(&hot).is_none());
        at_rest(&one).await;
    }
}

#[tokio::test]
async fn a_small_store_is_listed_each_time_and_has_no_record() {
    let fake = Fake::start().await;
    let packages = replica(&fake).await;
    publish(&packages, &name("app.zip"), bytes(1, 20), false).await.unwrap();
    for _ in 0..2 {
        assert_eq!(requests(&fake, &packages).await, [Operation::List; 2]);
    }
    assert!(fake.object(RECORD).is_none());
}

#[tokio::test]
async fn a_new_record_proves_nothing_until_every_server_has_found_it() {
    let fake = store().await;
    fake.remove(RECORD);
    let packages = replica(&fake).await;
    for _ in 0..3 {
        assert!(requests(&fake, &packages).await.contains(&Operation::List));
        sleep(Duration::from_millis(50)).await;
    }
    let record = String::from_utf8(fake.object(RECORD).unwrap().body.to_vec()).unwrap();
    assert!(!record.contains(r#""open":[]"#), "{record}");
}

#[tokio::test]
async fn what_was_done_by_hand_shows_in_time() {
    let fake = store().await;
    let settings = [("MAX_PACKAGES", "0"), ("LISTING_BY_HAND_MAX_AGE", "5s")];
    let packages = packages_with(&fake, &fake.url, &settings).await;
    packages.list().await.unwrap();
    let by_hand = name("by-hand.zip");
    fake.put("a/prefix/by-hand.zip", "x");
    assert_eq!(requests(&fake, &packages).await, PROOF);
    // At the half of the time one who asks has it looked for, and does not wait for it.
    sleep(Duration::from_millis(2600)).await;
    assert!(packages.list().await.unwrap().find(&by_hand).is_none());
    let found = async {
        while packages.list().await.unwrap().find(&by_hand).is_none() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_millis(2200), found).await.expect("a listing in the background");
    fake.remove("a/prefix/by-hand.zip");
    sleep(Duration::from_millis(5100)).await;
    assert!(packages.list().await.unwrap().find(&by_hand).is_none());
}

#[tokio::test]
async fn a_server_that_announces_nothing_is_noticed() {
    let fake = store().await;
    let settings = [("MAX_PACKAGES", "0"), ("LISTING_BY_HAND_MAX_AGE", "2s")];
    let packages = packages_with(&fake, &fake.url, &settings).await;
    packages.list().await.unwrap();
    assert_eq!(requests(&fake, &packages).await, PROOF);
    // As an older version does it.
    let older = Fake::start().await;
    publish(&replica(&older).await, &name("app.zip"), bytes(1, 20), false).await.unwrap();
    for key in
        older.keys("a/prefix/").iter().filter(|key| key.contains("app.zip") || key.contains("packages/"))
    {
        fake.put(key, older.object(key).unwrap().body);
    }
    sleep(Duration::from_millis(2100)).await;
    assert!(packages.list().await.unwrap().find(&name("app.zip")).is_some());
    sleep(Duration::from_millis(100)).await;
    for _ in 0..2 {
        assert!(requests(&fake, &packages).await.contains(&Operation::List));
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_begun_anew() {
    let fake = store().await;
    fake.put(RECORD, "by hand");
    let packages = replica(&fake).await;
    packages.list().await.unwrap();
    assert!(requests(&fake, &packages).await.contains(&Operation::List));
    publish(&packages, &name("app.zip"), bytes(1, 20), false).await.unwrap();
    at_rest(&packages).await;
    let record = fake.object(RECORD).unwrap().body;
    assert!(record.starts_with(b"{"), "{record:?}");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Create,
    Overwrite,
    Delete,
}

/// What becomes of the request that writes, or removes, the package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    ReplyLost,
    /// It arrives later than its sender waits.
    Late,
}

#[derive(Debug, Clone, Copy)]
struct Scenario {
    write: Write,
    trouble: Trouble,
    /// How many requests of the writer go first, then of the reader, then of the writer again, …
    turns: [usize; 6],
}

impl Scenario {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for write in [Write::Create, Write::Overwrite, Write::Delete] {
            for trouble in [Trouble::None, Trouble::ReplyLost, Trouble::Late] {
                for first in 0..14 {
                    for second in 0..5 {
                        for third in 1..5 {
                            let turns = [first, second, third, (first + third) % 5, (second * 3) % 4, 2];
                            all.push(Self { write, trouble, turns });
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
        (0..count.min(all.len())).map(|index| all[index * 1009 % all.len()]).collect()
    }
}

/// What scenarios came to.
#[derive(Debug, Default)]
struct Figures {
    answers: AtomicUsize,
    stale: AtomicUsize,
    hung: AtomicUsize,
    acknowledged: AtomicUsize,
    refused: AtomicUsize,
}

/// How far a write has come, as answers showed it.
struct Progress<'a> {
    write: Write,
    hot: PackageName,
    old: String,
    /// What every answer to a later request must show.
    floor: usize,
    figures: &'a Figures,
    seen: String,
}

impl Progress<'_> {
    fn level(&self, listing: &Listing) -> usize {
        match (self.write, listing.find(&self.hot)) {
            (Write::Delete, found) => usize::from(found.is_none()),
            (_, None) => 0,
            (_, Some(package)) if package.etag == self.old => 0,
            (_, Some(package)) => 1 + usize::from(package.sha256.is_some()),
        }
    }

    /// An answer to a request that was made when `due` was the floor.
    fn answered(&mut self, who: &str, listing: &Listing, due: usize) {
        let level = self.level(listing);
        let _ = write!(self.seen, "{who} {level} (due {due}); ");
        self.figures.answers.fetch_add(1, Relaxed);
        if level < due {
            self.figures.stale.fetch_add(1, Relaxed);
            println!("stale: {}", self.seen);
        }
        self.floor = self.floor.max(level);
    }

    fn acknowledged(&mut self) {
        self.seen += "acknowledged; ";
        self.floor = if self.write == Write::Delete { 1 } else { 2 };
    }
}

/// A store, a replica that writes, one that lists, and a bystander that lists at once.
struct Lane {
    fake: Fake,
    writer: Replica,
    reader: Replica,
    bystander: Packages,
}

impl Lane {
    async fn start() -> Self {
        let fake = store().await;
        let writer = Replica::start_with(&fake, &SETTINGS).await;
        let reader = Replica::start_with(&fake, &SETTINGS).await;
        let bystander = replica(&fake).await;
        Self { fake, writer, reader, bystander }
    }

    fn write(&self, write: Write, hot: PackageName) -> Work<Result<()>> {
        let packages = self.writer.packages.clone();
        self.writer.begin(async move {
            match write {
                Write::Create => publish(&packages, &hot, bytes(2, 21), false).await.map(drop),
                Write::Overwrite => publish(&packages, &hot, bytes(2, 21), true).await.map(drop),
                Write::Delete => packages.delete(hot, Actor::default()).await,
            }
        })
    }

    fn read(&self) -> Work<Result<Arc<Listing>>> {
        let packages = self.reader.packages.clone();
        self.reader.begin(async move { packages.list().await })
    }

    async fn play(&self, scenario: Scenario, number: usize, figures: &Figures) {
        let hot = name(&format!("app-{number}.zip"));
        let mut old = String::new();
        if scenario.write != Write::Create {
            old = publish(&self.bystander, &hot, bytes(1, 20), false).await.unwrap().etag;
            at_rest(&self.bystander).await;
        }
        for packages in [&self.reader.packages, &self.bystander, &self.writer.packages] {
            packages.list().await.unwrap();
        }
        let mut progress = Progress {
            write: scenario.write,
            hot: hot.clone(),
            old,
            floor: 0,
            figures,
            seen: format!("{scenario:?}: "),
        };

        let package_key = format!("/{BUCKET}/a/prefix/{hot}");
        let method = if scenario.write == Write::Delete { Method::DELETE } else { Method::PUT };
        let (land, landing) = oneshot::channel::<()>();
        let landing = landing.map(drop).shared();
        let mut troubled = false;
        let mut verdict_of = |asked: &Asked| {
            if troubled || asked.method != method || asked.path != package_key {
                return Verdict::Pass;
            }
            troubled = true;
            match scenario.trouble {
                Trouble::None => Verdict::Pass,
                Trouble::ReplyLost => Verdict::LoseReply,
                Trouble::Late => Verdict::Late(landing.clone().boxed()),
            }
        };

        let mut writing = self.write(scenario.write, hot.clone());
        let mut acknowledged = false;
        let mut reading: Option<(Work<_>, usize)> = None;
        let both = async {
            for (index, turns) in scenario.turns.into_iter().chain(iter::repeat(usize::MAX)).enumerate() {
                if turns == usize::MAX && writing.done.is_some() && reading.is_none() {
                    break;
                }
                for _ in 0..turns {
                    if index % 2 == 0 {
                        let Some((asked, decide)) = writing.next_or_stray().await else { break };
                        let _ = decide.send(verdict_of(&asked));
                        writing.settle().await;
                        if writing.done.as_ref().is_some_and(Result::is_ok) && !acknowledged {
                            acknowledged = true;
                            progress.acknowledged();
                        }
                    } else {
                        if turns == usize::MAX && reading.is_none() {
                            break;
                        }
                        let (work, due) = reading.get_or_insert_with(|| (self.read(), progress.floor));
                        let next = work.next().await;
                        if let Some((_, decide)) = next {
                            let _ = decide.send(Verdict::Pass);
                            work.settle().await;
                        }
                        let (listing, due) = (work.done.take(), *due);
                        if let Some(listing) = listing {
                            progress.answered("reader", &listing.unwrap(), due);
                            reading = None;
                            break;
                        }
                    }
                }
                let due = progress.floor;
                progress.answered("bystander", &self.bystander.list().await.unwrap(), due);
            }
        };
        if timeout(Duration::from_mins(1), both).await.is_err() {
            figures.hung.fetch_add(1, Relaxed);
        }
        // What is late arrives now.
        let _ = land.send(());
        self.writer.proxy.settled().await;
        match writing.done.take() {
            Some(Ok(())) => figures.acknowledged.fetch_add(1, Relaxed),
            Some(Err(Error::Unavailable(_) | Error::AlreadyExists(_))) => {
                figures.refused.fetch_add(1, Relaxed)
            }
            end => panic!("{}: {end:?}", progress.seen),
        };
        drop((writing, reading));
        for (who, packages) in [("bystander", &self.bystander), ("reader", &self.reader.packages)] {
            let due = progress.floor;
            progress.answered(who, &packages.list().await.unwrap(), due);
        }
        // What there is, by one who never looked before.
        let fresh = packages_with(&self.fake, &self.fake.url, &SETTINGS).await.list().await.unwrap();
        let due = progress.level(&fresh);
        for (who, packages) in [("bystander", &self.bystander), ("reader", &self.reader.packages)] {
            progress.answered(who, &packages.list().await.unwrap(), due);
        }
        self.tidy(&hot, number).await;
    }

    async fn tidy(&self, hot: &PackageName, number: usize) {
        self.writer.proxy.behave();
        self.reader.proxy.behave();
        at_rest(&self.writer.packages).await;
        self.fake.remove(&format!("a/prefix/{hot}"));
        for folder in ["packages", "removing"] {
            for key in self.fake.keys(&format!("a/prefix/.release-server/{folder}/")) {
                self.fake.remove(&key);
            }
        }
        forget(&self.fake, number + 1);
        self.fake.forget_requests();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_any_replica_has_shown_every_replica_shows() {
    let rounds: usize =
        std::env::var("RELEASE_SERVER_TEST_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let scenarios = Scenario::some(INTERLEAVINGS * rounds);
    let count = scenarios.len();
    let left = Arc::new(Mutex::new(scenarios.into_iter().enumerate()));
    let (figures, proofs) = (Arc::new(Figures::default()), Arc::new(AtomicUsize::default()));
    let lanes = (0..LANES).map(|_| {
        let (left, figures, proofs) = (Arc::clone(&left), Arc::clone(&figures), Arc::clone(&proofs));
        tokio::spawn(async move {
            let lane = Lane::start().await;
            loop {
                let next = left.lock().unwrap().next();
                let Some((number, scenario)) = next else { break };
                lane.play(scenario, number, &figures).await;
            }
            let proved = lane.bystander.proofs() + lane.reader.packages.proofs();
            proofs.fetch_add(usize::try_from(proved).unwrap(), Relaxed);
        })
    });
    for lane in join_all(lanes).await {
        lane.unwrap();
    }
    println!("{count} interleavings: {figures:?}, {proofs:?} answers without a listing");
    Evidence {
        attack: "a listing proved by one replica while another writes, in every order",
        on: "S3, simulated",
        cases: count,
        of: "interleavings",
        lost: 0,
        wrong: figures.stale.load(Relaxed),
        hung: figures.hung.load(Relaxed),
    }
    .record();
    assert_eq!((figures.stale.load(Relaxed), figures.hung.load(Relaxed)), (0, 0));
    // All of it has come about.
    for figure in [&figures.answers, &figures.acknowledged, &figures.refused, &proofs] {
        assert!(figure.load(Relaxed) > 0, "{figures:?}");
    }
}
