//! Many at once: what replicas of one store answer must be explained by some order of what they did.
//!
//! The checker of [`history`](crate::history) is itself checked first, against one that tries every order: on histories
//! that a register could have given, on such with an answer changed, and on random ones.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{TryStreamExt as _, future::join_all};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use release_server::{
    audit::Actor,
    config::{self, Config},
    digest::Digest,
    error::Error,
    packages::Packages,
    releases::{
        Releases,
        change::{Edit, NewRelease},
        id::ReleaseId,
    },
    storage::Storage,
    sweep,
};
use tempfile::TempDir;

use crate::{
    contract::{UPLOAD_MEMORY, bucket, bytes, name},
    evidence::Evidence,
    fake::{Fake, Fault, Operation as Asked},
    history::{Answer, History, Operation, Other, Version},
    releases::{assert_taken, me, repository, tag},
};

use Answer::{Created, Deleted, Listed, MaybeDeleted, MaybeStored, Missing, Overwritten, Read, Taken};

const REPLICAS: usize = 3;
const WORKERS: usize = 5;

/// How many histories of one name there are by default, on each store.
const HISTORIES: usize = 25;

/// How many operations each worker does.
const OPERATIONS: usize = 6;

fn scale() -> usize {
    std::env::var("RELEASE_SERVER_TEST_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap())
}

/// Whether some order of the operations that respects their times gives these answers; tries them all.
fn has_an_order(history: &History) -> bool {
    let all: Vec<usize> = (0..history.operations.len()).collect();
    orders(history, &all, None, None)
}

/// `deleting`: the version that was there went just now, and these deletes did it together.
fn orders(history: &History, left: &[usize], state: Option<Version>, deleting: Option<&[usize]>) -> bool {
    let answers = || history.operations.iter().map(|operation| operation.answer);
    let unsure = |index: &usize| matches!(history.operations[*index].answer, MaybeStored(..) | MaybeDeleted);
    if left.iter().all(unsure) {
        return true;
    }
    // What nobody was promised may go at any time, and does not show before.
    let may_go = state.is_some_and(|version| {
        answers().any(|answer| matches!(answer, MaybeStored(stored, _) if stored == version))
    });
    if may_go && orders(history, left, None, Some(&[])) {
        return true;
    }
    left.iter().enumerate().any(|(place, &index)| {
        let operation = &history.operations[index];
        // Nothing that ended before this began is still to come, unless it never happens.
        let mut rest = left.to_vec();
        rest.remove(place);
        let is_over = |other: &usize| history.operations[*other].end < operation.start;
        if rest.iter().any(|other| is_over(other) && !unsure(other)) {
            return false;
        }
        rest.retain(|other| !is_over(other));
        let meets = |other: &usize| {
            let other = &history.operations[*other];
            other.start <= operation.end && operation.start <= other.end
        };
        let joined = deleting.filter(|others| history.shared_deletes && others.iter().all(meets));
        let (next, deleting) = match operation.answer {
            Created(version) | MaybeStored(version, false) if state.is_none() => (Some(version), None),
            Overwritten(version) | MaybeStored(version, true) => (Some(version), None),
            Deleted | MaybeDeleted if state.is_some() => (None, Some(vec![index])),
            Deleted if joined.is_some() => (None, joined.map(|others| [others, &[index]].concat())),
            Taken if state.is_some() => (state, None),
            Missing if state.is_none() => (state, None),
            Read(found) if found == state => (state, None),
            Listed(found) if found == state || found.is_none() && may_go => (state, None),
            _ => return false,
        };
        orders(history, &rest, next, deleting.as_deref())
    })
}

/// What a register answers whose operations happen at random moments of theirs.
fn simulated(rng: &mut StdRng, zero: Instant) -> Vec<Operation> {
    let mut operations: Vec<(u64, u64, u64)> = (0..rng.random_range(1..7))
        .map(|_| {
            let start = rng.random_range(0..12);
            let end = start + rng.random_range(0..8);
            (rng.random_range(start..=end), start, end)
        })
        .collect();
    operations.sort_unstable();
    let (mut state, mut version) = (None, 0);
    let mut answer = |rng: &mut StdRng| {
        version += 1;
        match rng.random_range(0..7) {
            0 if state.is_none() => {
                state = Some(version);
                Created(version)
            }
            0 => Taken,
            1 => {
                state = Some(version);
                Overwritten(version)
            }
            2 | 3 if state.take().is_some() => Deleted,
            2 | 3 => Missing,
            4 => {
                let happened = rng.random_bool(0.5);
                state = if happened { Some(version) } else { state };
                MaybeStored(version, true)
            }
            5 => {
                state = state.filter(|_| rng.random_bool(0.5));
                MaybeDeleted
            }
            _ => Read(state),
        }
    };
    let at = |ms| zero + Duration::from_millis(ms);
    let told = operations.iter().map(|&(_, start, end)| Operation {
        start: at(start),
        end: at(end),
        answer: answer(rng),
    });
    told.collect()
}

fn any_answer(rng: &mut StdRng) -> Answer {
    let version = rng.random_range(1..4);
    let some = Some(version).filter(|_| rng.random_bool(0.7));
    *[
        Created(version),
        Taken,
        Overwritten(version),
        Deleted,
        Deleted,
        Missing,
        MaybeStored(version, true),
        MaybeStored(version, false),
        MaybeDeleted,
        Read(some),
        Listed(some),
    ]
    .choose(rng)
    .unwrap()
}

#[test]
fn the_checker_agrees_with_one_that_tries_every_order() {
    let zero = Instant::now();
    let (mut explained, mut not) = (0, 0);
    for seed in 0..8000 * scale() as u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut operations = simulated(&mut rng, zero);
        let as_it_was = seed % 4 == 0;
        let shared_deletes = !as_it_was && rng.random_bool(0.5);
        // Some of them with another answer, some with all others.
        for operation in &mut operations {
            if !as_it_was && rng.random_bool(if seed % 4 == 1 { 1.0 } else { 0.2 }) {
                operation.answer = any_answer(&mut rng);
            }
        }
        // In the order in which they were answered, as a test records them.
        operations.sort_by_key(|operation| operation.end);
        let history = History { operations, shared_deletes, ..History::default() };
        let found = history.check();
        assert!(!as_it_was || found.is_ok(), "{seed}: {found:?} {history:?}");
        assert_eq!(found.is_ok(), has_an_order(&history), "{seed}: {found:?} {history:#?}");
        *(if found.is_ok() { &mut explained } else { &mut not }) += 1;
    }
    println!("{explained} histories that can be, {not} that cannot");
    assert!(explained > 1000 && not > 1000);
}

fn settings(max_packages: usize) -> Config {
    let variables = [("MAX_PACKAGES".to_owned(), max_packages.to_string().into())];
    config::load_from(variables, std::path::Path::new("/nonexistent")).unwrap().config
}

/// One name, and who is after it.
struct Race<'a> {
    replicas: &'a [Packages],
    hot: String,
    versions: AtomicUsize,
    history: Mutex<History>,
    /// Bytes or digests that no upload had.
    wrong: AtomicUsize,
}

/// Sizes tell the versions apart.
fn size(version: Version) -> usize {
    100 + version
}

impl Race<'_> {
    fn record(&self, start: Instant, answer: Answer) {
        let operation = Operation { start, end: Instant::now(), answer };
        self.history.lock().unwrap().operations.push(operation);
    }

    fn version_of(&self, found: u64, digest: Option<Digest>, bytes_found: Option<&[u8]>) -> Version {
        let version = usize::try_from(found).unwrap() - size(0);
        let right = bytes(version % 200, size(version));
        let fits = digest.is_none_or(|digest| digest == Digest::of(&right))
            && bytes_found.is_none_or(|found| *found == right);
        self.wrong.fetch_add(usize::from(!fits), Relaxed);
        version
    }

    async fn publish(
        &self,
        replica: &Packages,
        text: &str,
        version: Version,
        over: bool,
    ) -> Result<(), Error> {
        let bytes = bytes(version % 200, size(version));
        let mut upload = replica.upload(name(text), over, Some(bytes.len() as u64)).await?;
        upload.write(bytes).await?;
        upload.commit(None, Actor::default()).await.map(drop)
    }

    async fn store(&self, replica: &Packages, overwrite: bool) {
        let version = self.versions.fetch_add(1, Relaxed);
        let start = Instant::now();
        match self.publish(replica, &self.hot, version, overwrite).await {
            Ok(()) if overwrite => self.record(start, Overwritten(version)),
            Ok(()) => self.record(start, Created(version)),
            Err(Error::AlreadyExists(_)) if !overwrite => self.record(start, Taken),
            Err(Error::Unavailable(_) | Error::Changed(_) | Error::AlreadyExists(_)) => {
                self.record(start, MaybeStored(version, overwrite));
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn delete(&self, replica: &Packages) {
        let start = Instant::now();
        match replica.delete(name(&self.hot), Actor::default()).await {
            Ok(()) => self.record(start, Deleted),
            Err(Error::NotFound(_)) => self.record(start, Missing),
            // Nothing was done.
            Err(Error::Changed(_)) => {}
            Err(Error::Unavailable(_)) => self.record(start, MaybeDeleted),
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn read(&self, replica: &Packages) {
        let start = Instant::now();
        let read = async {
            let opened = replica.open(&name(&self.hot)).await?;
            let blocks: Vec<Bytes> = opened.read(0..opened.size).await?.into_stream().try_collect().await?;
            Ok((opened.size, opened.sha256, blocks.concat()))
        };
        match read.await {
            Ok((size, digest, found)) => {
                self.record(start, Read(Some(self.version_of(size, digest, Some(&found)))));
            }
            Err(Error::NotFound(_)) => self.record(start, Read(None)),
            // It was replaced, or the store was away: no answer.
            Err(Error::Changed(_) | Error::Unavailable(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn list(&self, replica: &Packages) {
        let start = Instant::now();
        let listing = replica.list().await.unwrap();
        let listed = listing.packages().find(|package| package.name.as_str() == self.hot);
        let found = listed.map(|package| self.version_of(package.size, package.sha256, None));
        self.record(start, Listed(found));
    }

    /// Publishes something else, which may push the name out.
    async fn push(&self, replica: &Packages) {
        let version = self.versions.fetch_add(1, Relaxed);
        let start = Instant::now();
        if self.publish(replica, &format!("{}-{version}", self.hot), version, false).await.is_ok() {
            self.history.lock().unwrap().others.push(Other { start, end: Instant::now() });
        }
    }

    async fn work(&self, seed: u64, sweeps: bool) {
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..OPERATIONS {
            let replica = self.replicas.choose(&mut rng).unwrap();
            match rng.random_range(0..100) {
                0..25 => self.store(replica, false).await,
                25..35 => self.store(replica, true).await,
                35..60 => self.delete(replica).await,
                60..75 => self.read(replica).await,
                75..90 => self.list(replica).await,
                90..95 if sweeps => {
                    let _ = sweep::pass(replica).await;
                }
                _ if sweeps => self.push(replica).await,
                _ => self.read(replica).await,
            }
        }
    }
}

/// What histories of one store came to.
#[derive(Debug, Default)]
struct Figures {
    histories: usize,
    answers: usize,
    faults: Vec<String>,
    wrong: usize,
}

/// Lets the workers race for one name after the other.
async fn race(storages: &[Storage], shared_deletes: bool, first: u64) -> Figures {
    let mut figures = Figures::default();
    storages[0].set_swept().await.unwrap();
    for round in 0..(HISTORIES * scale()) as u64 {
        let max_packages = if round % 2 == 0 { 0 } else { 2 };
        let config = settings(max_packages);
        let replicas: Vec<_> =
            storages.iter().map(|storage| Packages::new(storage.clone(), &config)).collect();
        let race = Race {
            replicas: &replicas,
            hot: format!("hot-{round}.bin"),
            versions: AtomicUsize::new(0),
            history: Mutex::new(History { max_packages, shared_deletes, ..History::default() }),
            wrong: AtomicUsize::new(0),
        };
        let seeds = (0..WORKERS as u64).map(|worker| first + round * 100 + worker);
        join_all(seeds.map(|seed| race.work(seed, max_packages > 0))).await;
        for replica in &replicas {
            race.read(replica).await;
            race.list(replica).await;
        }
        let history = race.history.into_inner().unwrap();
        figures.histories += 1;
        figures.answers += history.operations.len();
        figures.wrong += race.wrong.into_inner();
        if let Err(fault) = history.check() {
            figures.faults.push(format!("round {round}: {fault}"));
        }
        // What is left of it would push out the next ones.
        let config = settings(0);
        let tidy = Packages::new(storages[0].clone(), &config);
        let listing = tidy.list().await.unwrap();
        join_all(listing.all().iter().map(|package| tidy.delete(package.name.clone(), Actor::default())))
            .await;
    }
    figures
}

fn judge(figures: &Figures, on: &'static str) {
    println!("{on}: {} histories, {} answers", figures.histories, figures.answers);
    let evidence = Evidence {
        attack: "replicas that race for a name, every answer explained by an order",
        on,
        cases: figures.histories,
        of: "histories",
        lost: figures.faults.len(),
        wrong: figures.wrong,
        hung: 0,
    };
    evidence.record();
    assert!(figures.faults.is_empty() && figures.wrong == 0, "{figures:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_a_bucket_answer_in_some_order() {
    let fake = Fake::start().await;
    let storages: Vec<_> = join_all((0..REPLICAS).map(|_| bucket(&fake))).await;
    let storages: Vec<Storage> = storages.into_iter().map(Result::unwrap).collect();
    // Some are held up on their way, some fail; a lost DELETE would keep its name for minutes, and is tried elsewhere.
    fake.when(Asked::ALL).with_chance(0.2, 1).then(Fault::Delay(Duration::from_millis(4)));
    fake.when([Asked::Put, Asked::List, Asked::Head, Asked::Get]).with_chance(0.02, 2).then(Fault::LoseReply);
    judge(&race(&storages, true, 0).await, "S3, simulated");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_a_directory_answer_in_some_order() {
    let folder = TempDir::new().unwrap();
    let open = |_| Storage::directory(folder.path(), UPLOAD_MEMORY).unwrap();
    let storages: Vec<Storage> = (0..REPLICAS).map(open).collect();
    judge(&race(&storages, false, 1 << 32).await, "directory");
}

/// A look at the latest release.
#[derive(Debug, Clone, Copy)]
struct Look {
    start: Instant,
    end: Instant,
    found: Option<ReleaseId>,
}

/// Whoever publishes is the latest until another one publishes: a look sees none that is older than what was
/// acknowledged before it, or than what a look before it saw. `order` says when each became the latest.
fn goes_back(
    looks: &[Look],
    published: &[(ReleaseId, Instant)],
    order: impl Fn(ReleaseId) -> Option<DateTime<Utc>>,
) -> Option<Look> {
    let rank = |found: Option<ReleaseId>| found.and_then(&order);
    let floor = |look: &Look| {
        let acknowledged = published.iter().filter(|(_, end)| *end < look.start).map(|(id, _)| order(*id));
        let seen = looks.iter().filter(|before| before.end < look.start).map(|before| rank(before.found));
        acknowledged.chain(seen).max().flatten()
    };
    looks.iter().copied().find(|look| rank(look.found) < floor(look))
}

#[test]
fn a_latest_that_goes_back_is_found() {
    let zero = Instant::now();
    let at = |ms| zero + Duration::from_millis(ms);
    let id = |number| ReleaseId::from_number(number).unwrap();
    // The seventh became the latest in the first second, the eighth in the second one.
    let second = |second| DateTime::from_timestamp(second, 0);
    let order = |found| if found == id(7) { second(1) } else { second(2) };
    let look = |start, end, found: Option<u64>| Look { start: at(start), end: at(end), found: found.map(id) };
    let published = [(id(7), at(10)), (id(8), at(30))];
    for fine in [
        &[look(0, 5, None), look(6, 7, Some(7)), look(11, 12, Some(7)), look(13, 29, Some(8))][..],
        &[look(0, 5, Some(8)), look(4, 6, Some(7)), look(31, 32, Some(8))],
    ] {
        assert!(goes_back(fine, &published, order).is_none(), "{fine:?}");
    }
    for back in
        [&[look(11, 12, None)][..], &[look(31, 32, Some(7))], &[look(0, 1, Some(8)), look(2, 3, Some(7))]]
    {
        assert!(goes_back(back, &published, order).is_some(), "{back:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_release_never_goes_back_and_a_tag_has_one_owner() {
    let fake = Fake::start().await;
    let storages: Vec<_> = join_all((0..REPLICAS).map(|_| bucket(&fake))).await;
    let config = settings(0);
    let replicas: Vec<Releases> =
        storages.into_iter().map(|storage| Releases::new(storage.unwrap(), &config)).collect();
    fake.when(Asked::ALL).with_chance(0.2, 1).then(Fault::Delay(Duration::from_millis(3)));
    let (looks, published) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let tags = 12 * scale();
    let mut lost = 0;
    for number in 0..tags {
        let text = format!("v{number}");
        let racing = replicas.iter().map(|replica| async {
            let new = NewRelease { draft: true, ..NewRelease::new(tag(&text)) };
            let draft = replica.create(&repository(), new, &me()).await.unwrap();
            let end = replica.edit(&repository(), draft.id, Edit::publish(), &me()).await;
            if end.is_ok() {
                published.lock().unwrap().push((draft.id, Instant::now()));
            }
            end
        });
        let looking = replicas.iter().map(|replica| async {
            for _ in 0..4 {
                let start = Instant::now();
                let listing = replica.list(&repository()).await.unwrap();
                let found = listing.latest().map(|latest| latest.id);
                looks.lock().unwrap().push(Look { start, end: Instant::now(), found });
            }
        });
        let (ends, _) = tokio::join!(join_all(racing), join_all(looking));
        let winners = ends.iter().filter(|end| end.is_ok()).count();
        lost += usize::from(winners != 1);
        ends.into_iter().filter(Result::is_err).for_each(assert_taken);
    }
    let listing = replicas[0].list(&repository()).await.unwrap();
    let order = |id| listing.find(id).and_then(|record| record.latest_at);
    let looks = looks.lock().unwrap();
    let back = goes_back(&looks, &published.lock().unwrap(), order);
    let evidence = Evidence {
        attack: "replicas that race to publish at a tag, the latest release looked at meanwhile",
        on: "S3, simulated",
        cases: looks.len() + tags,
        of: "looks and tags",
        lost,
        wrong: usize::from(back.is_some()),
        hung: 0,
    };
    evidence.record();
    assert_eq!(lost, 0, "tags with another number of owners than one");
    assert!(back.is_none(), "{back:?}");
}
