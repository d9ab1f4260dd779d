//! Three replicas at work on two releases and two tags, one request at a time, in random orders.
//!
//! Each reaches the store through a proxy that holds every request until the schedule lets it go; some replies are lost,
//! and some requests land long after their sender has given up on them. What must hold after each request: a release
//! that is published at a tag holds the lock on it, and so a tag has at most one. What must hold in the end: what was
//! acknowledged and what is there can be explained by some order of the operations, nothing that was acknowledged is
//! lost, and nothing is stuck.
//!
//! ```console
//! $ RELEASE_SERVER_TEST_ROUNDS=10 cargo test --test s3 release_interleavings -- --nocapture
//! ```

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, future::join_all};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use release_server::{
    error::Error,
    releases::{
        Releases,
        change::{Edit, NewRelease},
        id::ReleaseId,
        name::{Repository, TagName},
        record::{Pointer, Record},
    },
    storage::{
        Storage,
        repos::{Key, Read},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    contract::{UPLOAD_MEMORY, bytes},
    evidence::Evidence,
    fake::{BUCKET, Fake, Operation as Asking},
    proxy::{Asked, Proxy, Verdict},
    releases::{me, replica, tag, upload},
};

const INTERLEAVINGS: usize = 150;
const LANES: usize = 8;
const TAGS: [&str; 2] = ["t0", "t1"];
const FOREVER: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Publish(usize, usize),
    Retag(usize, usize),
    Unpublish(usize),
    Delete(usize),
    /// The notes say which worker it was.
    Notes(usize),
    /// So does the name.
    Asset(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Done,
    Missing,
    Taken,
    Unknown,
}

/// A release as far as tags are concerned: its tag, whether it is published, whether it is gone.
type Model = [(usize, bool, bool); 2];

impl Operation {
    fn random(rng: &mut StdRng) -> Self {
        let (release, tag) = (rng.random_range(0..2), rng.random_range(0..2));
        match rng.random_range(0..12) {
            0..4 => Self::Publish(release, tag),
            4..7 => Self::Retag(release, tag),
            7 => Self::Unpublish(release),
            8 => Self::Delete(release),
            9 => Self::Notes(release),
            _ => Self::Asset(release),
        }
    }

    /// What it would do, were it alone.
    fn apply(self, model: &mut Model) -> Answer {
        let (Self::Publish(release, _)
        | Self::Retag(release, _)
        | Self::Unpublish(release)
        | Self::Delete(release)
        | Self::Notes(release)
        | Self::Asset(release)) = self;
        if model[release].2 {
            return Answer::Missing;
        }
        let other = model[1 - release];
        let taken = |tag| other == (tag, true, false);
        match self {
            Self::Publish(_, tag) if taken(tag) => return Answer::Taken,
            Self::Retag(_, tag) if model[release].1 && taken(tag) => return Answer::Taken,
            Self::Publish(_, tag) => model[release] = (tag, true, false),
            Self::Retag(_, tag) => model[release].0 = tag,
            Self::Unpublish(_) => model[release].1 = false,
            Self::Delete(_) => model[release].2 = true,
            Self::Notes(_) | Self::Asset(_) => {}
        }
        Answer::Done
    }

    async fn run(self, releases: Releases, ids: [ReleaseId; 2], worker: usize) -> Answer {
        let repository = repository();
        let done = match self {
            Self::Publish(release, number) => releases
                .edit(
                    &repository,
                    ids[release],
                    Edit { tag: Some(tag(TAGS[number])), ..Edit::publish() },
                    &me(),
                )
                .await
                .map(drop),
            Self::Retag(release, number) => releases
                .edit(
                    &repository,
                    ids[release],
                    Edit { tag: Some(tag(TAGS[number])), ..Edit::default() },
                    &me(),
                )
                .await
                .map(drop),
            Self::Unpublish(release) => releases
                .edit(&repository, ids[release], Edit { draft: Some(true), ..Edit::default() }, &me())
                .await
                .map(drop),
            Self::Notes(release) => {
                let body = Some(Some(worker.to_string()));
                releases
                    .edit(&repository, ids[release], Edit { body, ..Edit::default() }, &me())
                    .await
                    .map(drop)
            }
            Self::Delete(release) => releases.delete(&repository, ids[release], &me()).await.map(drop),
            Self::Asset(release) => match releases.find(&repository, ids[release]).await {
                Ok(record) => {
                    let (name, bytes) = (format!("{worker}.zip"), bytes(worker, 10));
                    upload(&releases, &record, &name, bytes, false).await.map(drop)
                }
                Err(error) => Err(error),
            },
        };
        match done {
            Ok(()) => Answer::Done,
            Err(Error::NotFound(_)) => Answer::Missing,
            Err(Error::Breach(breach)) if breach.code == "already_exists" => Answer::Taken,
            Err(Error::Unavailable(_)) => Answer::Unknown,
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn repository() -> Repository {
    crate::releases::repository()
}

/// Whether some order of the operations explains what was answered and what is there.
fn explained(before: Model, operations: &[(Operation, Answer)], after: Model) -> bool {
    let known: Vec<_> = operations.iter().filter(|(_, answer)| *answer != Answer::Unknown).collect();
    let maybe: Vec<_> = operations.iter().filter(|(_, answer)| *answer == Answer::Unknown).collect();
    (0..1 << maybe.len()).any(|chosen: usize| {
        let happened = maybe.iter().enumerate().filter(|(index, _)| chosen & 1 << index != 0);
        let all: Vec<_> = known.iter().chain(happened.map(|(_, operation)| operation)).copied().collect();
        orders(&all, before, after)
    })
}

fn orders(left: &[&(Operation, Answer)], model: Model, after: Model) -> bool {
    if left.is_empty() {
        // Of what is gone nothing else is told.
        let told = |model: Model| {
            model.map(|(tag, published, gone)| if gone { (0, false, true) } else { (tag, published, gone) })
        };
        return told(model) == told(after);
    }
    (0..left.len()).any(|first| {
        let (operation, answer) = *left[first];
        let mut next = model;
        let expected = operation.apply(&mut next);
        // A refusal of what is being deleted at the same time may name either reason.
        let fits = answer == Answer::Unknown
            || answer == expected
            || (expected, answer) == (Answer::Missing, Answer::Taken);
        let rest: Vec<_> =
            left.iter().enumerate().filter(|(index, _)| *index != first).map(|(_, op)| *op).collect();
        fits && orders(&rest, next, after)
    })
}

/// A replica at work, whose requests wait for the test.
struct Work {
    task: JoinHandle<Answer>,
    done: Option<Answer>,
    arrivals: mpsc::UnboundedReceiver<(Asked, oneshot::Sender<Verdict>)>,
    waiting: Option<(Asked, oneshot::Sender<Verdict>)>,
}

impl Work {
    async fn settle(&mut self) {
        if self.waiting.is_some() || self.done.is_some() {
            return;
        }
        tokio::select! {
            biased;
            done = &mut self.task => self.done = Some(done.unwrap()),
            Some(arrival) = self.arrivals.recv() => self.waiting = Some(arrival),
            () = sleep(Duration::from_millis(20)) => {}
        }
    }
}

struct Lane {
    fake: Fake,
    bystander: Storage,
    proxies: [Proxy; 3],
    storages: [Storage; 3],
}

#[derive(Debug, Default)]
struct Figures {
    done: AtomicUsize,
    taken: AtomicUsize,
    missing: AtomicUsize,
    unknown: AtomicUsize,
    lost: AtomicUsize,
    late: AtomicUsize,
}

async fn storage(fake: &Fake, url: &str) -> Storage {
    let mut variables = fake.variables().map(|(name, value)| (name.to_owned(), value));
    url.clone_into(&mut variables[0].1);
    let no_certificates = ("AWS_DISABLE_SYSTEM_CERTIFICATES".to_owned(), "true".to_owned());
    let variables = variables.into_iter().chain([no_certificates]);
    Storage::bucket(BUCKET, "a/prefix", variables, None, UPLOAD_MEMORY, false).await.unwrap()
}

impl Lane {
    async fn start() -> Self {
        let fake = Fake::start().await;
        let bystander = storage(&fake, &fake.url).await;
        let (mut proxies, mut storages) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let proxy = Proxy::start(&fake.url).await;
            storages.push(storage(&fake, &proxy.url).await);
            proxies.push(proxy);
        }
        let (Ok(proxies), Ok(storages)) = (proxies.try_into(), storages.try_into()) else { panic!() };
        Self { fake, bystander, proxies, storages }
    }

    async fn record(&self, id: ReleaseId) -> Record {
        let Read::Fresh(text, _) = self.bystander.read(&Key::record(&repository(), id), None).await.unwrap()
        else {
            panic!()
        };
        serde_json::from_slice(&text).unwrap()
    }

    async fn pointer(&self, tag: &TagName) -> Option<ReleaseId> {
        match self.bystander.read(&Key::pointer(&repository(), tag), None).await {
            Ok(Read::Fresh(text, _)) => Some(serde_json::from_slice::<Pointer>(&text).unwrap().id),
            _ => None,
        }
    }

    /// Who is published at a tag holds the lock on it.
    async fn check(&self, ids: [ReleaseId; 2], context: &impl std::fmt::Debug) -> Model {
        let mut model = Model::default();
        for (release, id) in ids.into_iter().enumerate() {
            let record = self.record(id).await;
            if record.is_published() {
                assert_eq!(self.pointer(&record.tag_name).await, Some(id), "{context:?}");
            }
            let number = TAGS.iter().position(|tag| *tag == record.tag_name.as_str()).unwrap();
            model[release] = (number, record.published, record.deleted);
        }
        model
    }

    async fn play(&self, seed: u64, figures: &Figures) {
        let mut rng = StdRng::seed_from_u64(seed);
        let alone = replica(&self.bystander);
        let mut ids = Vec::new();
        for text in TAGS {
            let draft = NewRelease { draft: true, ..NewRelease::new(tag(text)) };
            let record = alone.create(&repository(), draft, &me()).await.unwrap();
            if rng.random_bool(0.6) {
                alone.edit(&repository(), record.id, Edit::publish(), &me()).await.unwrap();
            }
            ids.push(record.id);
        }
        let ids = [ids[0], ids[1]];
        let before = self.check(ids, &seed).await;
        let operations = [(); 3].map(|()| Operation::random(&mut rng));
        let (land, landing) = oneshot::channel::<()>();
        let landing = landing.map(drop).shared();

        let mut works = Vec::new();
        for (worker, operation) in operations.into_iter().enumerate() {
            let (arrived, arrivals) = mpsc::unbounded_channel();
            self.proxies[worker].judge(move |asked| {
                let (decide, decision) = oneshot::channel();
                let _ = arrived.send((asked, decide));
                // Nobody decides any more: what comes after the end passes.
                async { decision.await.unwrap_or(Verdict::Pass) }
            });
            let releases = replica(&self.storages[worker]);
            let task = tokio::spawn(operation.run(releases, ids, worker));
            works.push(Work { task, done: None, arrivals, waiting: None });
        }
        let mut schedule = Vec::new();
        let mut troubles = rng.random_range(0..3);
        let playing = async {
            loop {
                for work in &mut works {
                    work.settle().await;
                }
                if works.iter().all(|work| work.done.is_some()) {
                    return;
                }
                let ready: Vec<usize> = (0..3).filter(|&worker| works[worker].waiting.is_some()).collect();
                let Some(&worker) = ready.choose(&mut rng) else { continue };
                let (asked, decide) = works[worker].waiting.take().unwrap();
                let trouble = troubles > 0 && asked.writes() && rng.random_bool(0.2);
                troubles -= usize::from(trouble);
                let verdict = match (trouble, rng.random_bool(0.5)) {
                    (false, _) => Verdict::Pass,
                    (true, true) => {
                        figures.lost.fetch_add(1, Relaxed);
                        Verdict::LoseReply
                    }
                    (true, false) => {
                        figures.late.fetch_add(1, Relaxed);
                        Verdict::Late(landing.clone().boxed())
                    }
                };
                schedule.push((worker, asked.method, asked.path, trouble));
                let _ = decide.send(verdict);
                works[worker].settle().await;
                self.check(ids, &(seed, operations, &schedule)).await;
            }
        };
        timeout(FOREVER, playing).await.unwrap_or_else(|_| panic!("it does not end: {seed} {operations:?}"));
        let _ = land.send(());
        for proxy in &self.proxies {
            proxy.settled().await;
        }
        let answers: Vec<Answer> = works.into_iter().map(|work| work.done.unwrap()).collect();
        let seen: Vec<_> = operations.into_iter().zip(answers).collect();
        let after = self.check(ids, &seen).await;
        let context = format!("seed {seed}: {before:?} {seen:?} {after:?} by {schedule:?}");
        assert!(explained(before, &seen, after), "{context}");
        for (worker, (operation, answer)) in seen.iter().enumerate() {
            let figure = match answer {
                Answer::Done => &figures.done,
                Answer::Missing => &figures.missing,
                Answer::Taken => &figures.taken,
                Answer::Unknown => &figures.unknown,
            };
            figure.fetch_add(1, Relaxed);
            let (Operation::Asset(release), Answer::Done) = (*operation, answer) else { continue };
            let record = self.record(ids[release]).await;
            let name = format!("{worker}.zip");
            let asset = record.asset(&name);
            assert!(record.deleted || asset.is_some(), "an acknowledged asset is lost: {context}");
        }
        for release in 0..2 {
            let notes: Vec<String> = (0..3)
                .filter(|&worker| seen[worker] == (Operation::Notes(release), Answer::Done))
                .map(|worker| worker.to_string())
                .collect();
            let maybe = seen.contains(&(Operation::Notes(release), Answer::Unknown));
            let body = self.record(ids[release]).await.body;
            let kept = notes.is_empty() || maybe || body.is_some_and(|body| notes.contains(&body));
            assert!(kept || after[release].2, "acknowledged notes are lost: {context}");
        }
        self.nothing_is_stuck(ids, after, &context).await;
        self.tidy().await;
    }

    /// Everything that is not published can be.
    async fn nothing_is_stuck(&self, ids: [ReleaseId; 2], after: Model, context: &str) {
        let alone = replica(&self.bystander);
        let mut model = after;
        for release in 0..2 {
            for (number, text) in TAGS.into_iter().enumerate() {
                if model[release].1 || model[release].2 {
                    continue;
                }
                let edit = Edit { tag: Some(tag(text)), ..Edit::publish() };
                let end = alone.edit(&repository(), ids[release], edit, &me()).await;
                let expected = Operation::Publish(release, number).apply(&mut model);
                assert_eq!(end.is_ok(), expected == Answer::Done, "stuck: {end:?} {context}");
                self.check(ids, &context).await;
            }
        }
    }

    async fn tidy(&self) {
        for proxy in &self.proxies {
            proxy.behave();
            proxy.settled().await;
        }
        for key in self.fake.keys("a/prefix/repos/") {
            self.fake.remove(&key);
        }
        self.fake.forget_requests();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_has_one_release_whoever_goes_first() {
    let rounds: usize =
        std::env::var("RELEASE_SERVER_TEST_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let count = INTERLEAVINGS * rounds;
    let left = Arc::new(Mutex::new(0..u64::try_from(count).unwrap()));
    let figures = Arc::new(Figures::default());
    let lanes = (0..LANES).map(|_| {
        let (left, figures) = (Arc::clone(&left), Arc::clone(&figures));
        tokio::spawn(async move {
            let lane = Lane::start().await;
            loop {
                let next = left.lock().unwrap().next();
                let Some(seed) = next else { return };
                lane.play(seed, &figures).await;
            }
        })
    });
    for lane in join_all(lanes).await {
        lane.unwrap();
    }
    println!("{count} interleavings: {figures:?}");
    Evidence {
        attack: "three replicas after two releases and two tags, one request at a time",
        on: "S3, simulated",
        cases: count,
        of: "interleavings",
        ..Evidence::default()
    }
    .record();
    for figure in [&figures.done, &figures.taken, &figures.missing, &figures.lost, &figures.late] {
        assert!(figure.load(Relaxed) > 0, "{figures:?}");
    }
}

/// The one order in which it matters that who holds the lock on a tag takes it once more: another one has seen that it is
/// free, and is about to take it.
#[tokio::test]
async fn a_publish_takes_its_own_lock_from_who_is_about_to_take_it() {
    let fake = Fake::start().await;
    let storage = storage(&fake, &fake.url).await;
    let (one, other) = (replica(&storage), replica(&storage));
    let draft = || NewRelease { draft: true, ..NewRelease::new(tag(TAGS[0])) };
    let first = one.create(&repository(), draft(), &me()).await.unwrap().id;
    let second = one.create(&repository(), draft(), &me()).await.unwrap().id;
    one.edit(&repository(), first, Edit::publish(), &me()).await.unwrap();
    one.edit(&repository(), first, Edit { draft: Some(true), ..Edit::default() }, &me()).await.unwrap();

    let locks = Key::pointer(&repository(), &tag(TAGS[0]));
    let gate = fake.when([Asking::Put]).under(&format!("a/prefix/{locks}")).hold();
    let taking = async { other.edit(&repository(), second, Edit::publish(), &me()).await };
    let meanwhile = async {
        gate.arrived().await;
        one.edit(&repository(), first, Edit::publish(), &me()).await.unwrap();
        gate.release();
    };
    let (refused, ()) = tokio::join!(taking, meanwhile);
    assert!(matches!(refused, Err(Error::Breach(breach)) if breach.code == "already_exists"));
    let owner = one.by_tag(&repository(), &tag(TAGS[0])).await.unwrap();
    assert!(owner.id == first && !one.find(&repository(), second).await.unwrap().is_published());
}
