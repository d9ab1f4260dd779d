//! Random operations on several replicas of one store, one after the other, against a plain model of what they do.
//!
//! Each answer, and all that is shown, must be exactly the model's, whichever replica is asked. A sequence that fails
//! is shrunk to the shortest one that still does, and kept in `model.regressions` to be tried first from then on.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use proptest::{
    prelude::*,
    test_runner::{Config as Settings, FileFailurePersistence, TestCaseError, TestError, TestRunner},
};
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
        record::MakeLatest,
    },
    storage::Storage,
    sweep,
};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::{
    contract::{UPLOAD_MEMORY, bucket, bytes, name},
    evidence::Evidence,
    fake::Fake,
    releases::{me, repository, tag, upload},
    view::View,
};

/// How many packages are kept.
const MAX_PACKAGES: usize = 3;

const REPLICAS: usize = 3;

/// What may be asked. Packages, tags, releases and bytes are told by small numbers, so that they meet.
#[derive(Debug, Clone, Copy)]
enum Op {
    Upload { name: usize, bytes: usize, overwrite: bool },
    Delete { name: usize },
    Download { name: usize },
    Sweep,
    Show,
    Create { tag: usize, draft: bool, prerelease: bool },
    Publish { release: usize },
    Unpublish { release: usize },
    Retag { release: usize, tag: usize },
    Notes { release: usize, text: usize },
    MakeLatest { release: usize },
    DeleteRelease { release: usize },
    Asset { release: usize, name: usize, bytes: usize, overwrite: bool },
    DeleteAsset { release: usize, name: usize },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Done,
    Missing,
    /// The name or the tag is another's.
    Taken,
    Bytes(usize),
}

fn operation() -> impl Strategy<Value = Op> {
    let (package, release, small) = (0..5_usize, 0..4_usize, 0..3_usize);
    prop_oneof![
        6 => (package.clone(), small.clone(), any::<bool>())
            .prop_map(|(name, bytes, overwrite)| Op::Upload { name, bytes, overwrite }),
        2 => package.clone().prop_map(|name| Op::Delete { name }),
        2 => package.prop_map(|name| Op::Download { name }),
        1 => Just(Op::Sweep),
        2 => Just(Op::Show),
        3 => (small.clone(), any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(tag, draft, prerelease)| Op::Create { tag, draft, prerelease }),
        3 => release.clone().prop_map(|release| Op::Publish { release }),
        1 => release.clone().prop_map(|release| Op::Unpublish { release }),
        2 => (release.clone(), small.clone()).prop_map(|(release, tag)| Op::Retag { release, tag }),
        1 => (release.clone(), small.clone()).prop_map(|(release, text)| Op::Notes { release, text }),
        1 => release.clone().prop_map(|release| Op::MakeLatest { release }),
        1 => release.clone().prop_map(|release| Op::DeleteRelease { release }),
        2 => (release.clone(), 0..2_usize, small, any::<bool>())
            .prop_map(|(release, name, bytes, overwrite)| Op::Asset { release, name, bytes, overwrite }),
        1 => (release, 0..2_usize).prop_map(|(release, name)| Op::DeleteAsset { release, name }),
    ]
}

/// What a store is taken to be.
#[derive(Debug, Default)]
struct Model {
    /// The bytes, and how late it was published.
    packages: BTreeMap<usize, (usize, usize)>,
    releases: Vec<Release>,
    now: usize,
}

#[derive(Debug, Clone, Default)]
struct Release {
    tag: usize,
    published: bool,
    prerelease: bool,
    deleted: bool,
    /// How late it became the latest.
    latest: usize,
    notes: Option<usize>,
    /// Name and bytes, in the order in which they came.
    assets: Vec<(usize, usize)>,
}

impl Model {
    fn apply(&mut self, op: Op) -> Answer {
        self.now += 1;
        let now = self.now;
        match op {
            Op::Upload { name, overwrite: false, .. } if self.packages.contains_key(&name) => Answer::Taken,
            Op::Upload { name, bytes, .. } => {
                self.packages.insert(name, (bytes, now));
                Answer::Done
            }
            Op::Delete { name } => self.packages.remove(&name).map_or(Answer::Missing, |_| Answer::Done),
            Op::Download { name } => {
                self.packages.get(&name).map_or(Answer::Missing, |(bytes, _)| Answer::Bytes(*bytes))
            }
            Op::Sweep => {
                let kept = self.newest();
                self.packages.retain(|name, _| kept.contains(name));
                Answer::Done
            }
            Op::Show => Answer::Done,
            Op::Create { tag, draft: false, .. } if self.is_taken(tag, usize::MAX) => Answer::Taken,
            Op::Create { tag, draft, prerelease } => {
                let latest = if draft || prerelease { 0 } else { now };
                let published = !draft;
                self.releases.push(Release { tag, published, prerelease, latest, ..Release::default() });
                Answer::Done
            }
            Op::Publish { release }
            | Op::Unpublish { release }
            | Op::Retag { release, .. }
            | Op::Notes { release, .. }
            | Op::MakeLatest { release }
            | Op::DeleteRelease { release }
            | Op::Asset { release, .. }
            | Op::DeleteAsset { release, .. } => {
                let Some(found) = self.releases.get(release).filter(|found| !found.deleted) else {
                    return Answer::Missing;
                };
                let mut next = found.clone();
                let answer = self.change(op, release, &mut next);
                self.releases[release] = next;
                answer
            }
        }
    }

    fn change(&self, op: Op, number: usize, release: &mut Release) -> Answer {
        match op {
            Op::Publish { .. } if release.published => {}
            Op::Publish { .. } if self.is_taken(release.tag, number) => return Answer::Taken,
            Op::Publish { .. } => {
                release.published = true;
                release.latest = if release.prerelease { release.latest } else { self.now };
            }
            Op::Unpublish { .. } => release.published = false,
            Op::Retag { tag, .. } if release.published && self.is_taken(tag, number) => return Answer::Taken,
            Op::Retag { tag, .. } => release.tag = tag,
            Op::Notes { text, .. } => release.notes = Some(text),
            Op::MakeLatest { .. } if release.published && !release.prerelease => release.latest = self.now,
            Op::DeleteRelease { .. } => release.deleted = true,
            Op::Asset { name, bytes, overwrite, .. } => {
                match release.assets.iter().find(|(other, _)| *other == name) {
                    Some((_, same)) if *same == bytes => return Answer::Done,
                    Some(_) if !overwrite => return Answer::Taken,
                    _ => {}
                }
                release.assets.retain(|(other, _)| *other != name);
                release.assets.push((name, bytes));
            }
            Op::DeleteAsset { name, .. } => {
                let before = release.assets.len();
                release.assets.retain(|(other, _)| *other != name);
                if release.assets.len() == before {
                    return Answer::Missing;
                }
            }
            _ => {}
        }
        Answer::Done
    }

    fn is_taken(&self, tag: usize, by_other_than: usize) -> bool {
        let others = self.releases.iter().enumerate().filter(|(number, _)| *number != by_other_than);
        others.into_iter().any(|(_, release)| release.published && !release.deleted && release.tag == tag)
    }

    /// What is kept, newest first.
    fn newest(&self) -> Vec<usize> {
        let mut names: Vec<_> = self.packages.iter().map(|(name, (_, time))| (*time, *name)).collect();
        names.sort_unstable_by(|one, other| other.cmp(one));
        names.into_iter().take(MAX_PACKAGES).map(|(_, name)| name).collect()
    }

    /// As a replica must show it.
    fn view(&self) -> (Vec<String>, Vec<String>) {
        let packages = self.newest().into_iter().map(|name| {
            let bytes = package_bytes(self.packages[&name].0);
            format!("{} {} {}", package_name(name), bytes.len(), Digest::of(&bytes))
        });
        let live = || self.releases.iter().filter(|release| !release.deleted);
        let latest = live().filter(|release| release.published && !release.prerelease && release.latest > 0);
        let latest = latest.max_by_key(|release| release.latest);
        let mut releases: Vec<String> = live()
            .map(|release| {
                let state = match (release.published, release.prerelease) {
                    (false, _) => "draft",
                    (true, true) => "prerelease",
                    (true, false) => "release",
                };
                let notes = release.notes.map(|text| text.to_string());
                let mut block = format!("{state} t{}: {:?} {notes:?}", release.tag, None::<String>);
                for (name, bytes) in &release.assets {
                    let bytes = package_bytes(*bytes);
                    let digest = Digest::of(&bytes);
                    let size = bytes.len();
                    let _ = write!(block, "\n    {name}.zip None application/zip {size} {digest}");
                }
                block
            })
            .collect();
        releases.sort_unstable();
        releases.extend(latest.map(|release| format!("latest is t{}", release.tag)));
        (packages.collect(), releases)
    }
}

fn package_name(number: usize) -> String {
    format!("app-{number}.zip")
}

fn package_bytes(seed: usize) -> bytes::Bytes {
    bytes(seed, 100 + seed)
}

fn settings() -> Config {
    let variables = [("MAX_PACKAGES".to_owned(), MAX_PACKAGES.to_string().into())];
    config::load_from(variables, Path::new("/nonexistent")).unwrap().config
}

/// Replicas of one store, and which release is which.
struct Replicas {
    replicas: Vec<(Packages, Releases)>,
    ids: Vec<ReleaseId>,
}

impl Replicas {
    fn new(storages: &[Storage]) -> Self {
        let config = settings();
        let replica = |storage: &Storage| {
            (Packages::new(storage.clone(), &config), Releases::new(storage.clone(), &config))
        };
        Self { replicas: storages.iter().map(replica).collect(), ids: Vec::new() }
    }

    async fn apply(&mut self, on: usize, op: Op) -> Result<Answer, Error> {
        let (packages, releases) = self.replicas[on % self.replicas.len()].clone();
        let repository = repository();
        let id_of = |release: usize| self.ids.get(release).copied();
        match op {
            Op::Upload { name: number, bytes, overwrite } => {
                let bytes = package_bytes(bytes);
                let upload = packages.upload(name(&package_name(number)), overwrite, None);
                let mut upload = upload.await?;
                upload.write(bytes).await?;
                upload.commit(None, Actor::default()).await?;
            }
            Op::Delete { name: number } => {
                packages.delete(name(&package_name(number)), Actor::default()).await?;
            }
            Op::Download { name: number } => {
                let opened = packages.open(&name(&package_name(number))).await?;
                let seed = usize::try_from(opened.size).unwrap() - 100;
                assert_eq!(opened.sha256, Some(Digest::of(&package_bytes(seed))));
                return Ok(Answer::Bytes(seed));
            }
            Op::Sweep => {
                let (swept, of_releases) = sweep::both(&packages, &releases).await?;
                assert_eq!((swept.failed, of_releases.failed), (0, 0));
            }
            Op::Show => {}
            Op::Create { tag: number, draft, prerelease } => {
                let new = NewRelease { draft, prerelease, ..NewRelease::new(tag(&format!("t{number}"))) };
                let created = releases.create(&repository, new, &me()).await?;
                self.ids.push(created.id);
            }
            Op::DeleteRelease { release } => {
                let Some(id) = id_of(release) else { return Ok(Answer::Missing) };
                releases.delete(&repository, id, &me()).await?;
            }
            Op::Asset { release, name, bytes, overwrite } => {
                let Some(id) = id_of(release) else { return Ok(Answer::Missing) };
                let record = releases.find(&repository, id).await?;
                upload(&releases, &record, &format!("{name}.zip"), package_bytes(bytes), overwrite).await?;
            }
            Op::DeleteAsset { release, name } => {
                let Some(id) = id_of(release) else { return Ok(Answer::Missing) };
                let record = releases.find(&repository, id).await?;
                let Some(asset) = record.asset(&format!("{name}.zip")) else { return Ok(Answer::Missing) };
                releases.delete_asset(&repository, asset.id, &me()).await?;
            }
            Op::Publish { release }
            | Op::Unpublish { release }
            | Op::Retag { release, .. }
            | Op::Notes { release, .. }
            | Op::MakeLatest { release } => {
                let Some(id) = id_of(release) else { return Ok(Answer::Missing) };
                let edit = match op {
                    Op::Publish { .. } => Edit::publish(),
                    Op::Unpublish { .. } => Edit { draft: Some(true), ..Edit::default() },
                    Op::Retag { tag: number, .. } => {
                        Edit { tag: Some(tag(&format!("t{number}"))), ..Edit::default() }
                    }
                    Op::Notes { text, .. } => Edit { body: Some(Some(text.to_string())), ..Edit::default() },
                    _ => Edit { make_latest: Some(MakeLatest::True), ..Edit::default() },
                };
                releases.edit(&repository, id, edit, &me()).await?;
            }
        }
        Ok(Answer::Done)
    }

    /// As the model has it: what is of no order is sorted.
    async fn view(&self, on: usize) -> (Vec<String>, Vec<String>) {
        let (packages, releases) = &self.replicas[on % self.replicas.len()];
        let View { packages, releases: lines } = View::of(packages, releases).await;
        let mut releases: Vec<String> = Vec::new();
        let mut latest = None;
        for line in lines {
            match releases.last_mut() {
                Some(block) if line.starts_with(' ') => block.extend(["\n", &line]),
                _ if line.starts_with("latest") => latest = Some(line),
                _ => releases.push(line),
            }
        }
        releases.sort_unstable();
        releases.extend(latest);
        (packages, releases)
    }
}

/// Plays the operations on the replicas and on the model.
async fn play(storages: &[Storage], operations: &[(usize, Op)]) -> Result<(), String> {
    storages[0].set_swept().await.unwrap();
    let (mut model, mut replicas) = (Model::default(), Replicas::new(storages));
    for (step, (on, op)) in operations.iter().enumerate() {
        let expected = model.apply(*op);
        let answer = match replicas.apply(*on, *op).await {
            Ok(answer) => answer,
            Err(Error::NotFound(_)) => Answer::Missing,
            Err(Error::AlreadyExists(_)) => Answer::Taken,
            Err(Error::Breach(breach)) if breach.code == "already_exists" => Answer::Taken,
            Err(error) => return Err(format!("step {step}, {op:?}: {error:?}")),
        };
        if answer != expected {
            return Err(format!("step {step}, {op:?}: {answer:?} instead of {expected:?}"));
        }
        if let Op::Show = op {
            compare(&model, &replicas, *on + 1, step).await?;
        }
    }
    for on in 0..storages.len() {
        compare(&model, &replicas, on, operations.len()).await?;
    }
    Ok(())
}

async fn compare(model: &Model, replicas: &Replicas, on: usize, step: usize) -> Result<(), String> {
    let (shown, expected) = (replicas.view(on).await, model.view());
    if shown == expected {
        Ok(())
    } else {
        Err(format!("after step {step}: {shown:#?} instead of {expected:#?}"))
    }
}

/// Tries random operations on a store that `empty` makes anew.
fn run(cases: u32, on: &'static str, runtime: &Runtime, empty: impl Fn(usize) -> Vec<Storage>) {
    let rounds: u32 = std::env::var("RELEASE_SERVER_TEST_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let persistence = FileFailurePersistence::Direct("tests/s3/model.regressions");
    let mut runner = TestRunner::new(Settings {
        cases: cases * rounds,
        failure_persistence: Some(Box::new(persistence)),
        max_shrink_iters: 2000,
        ..Settings::default()
    });
    let played = std::sync::atomic::AtomicUsize::new(0);
    let sequences = (1..=REPLICAS, prop::collection::vec((0..REPLICAS, operation()), 1..40));
    let end = runner.run(&sequences, |(replicas, operations)| {
        played.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let storages = empty(replicas);
        runtime.block_on(play(&storages, &operations)).map_err(TestCaseError::fail)
    });
    let evidence = Evidence {
        attack: "random operations on one to three replicas, compared with a plain model",
        on,
        cases: played.into_inner(),
        of: "sequences",
        lost: 0,
        wrong: usize::from(end.is_err()),
        hung: 0,
    };
    evidence.record();
    match end {
        Ok(()) => {}
        Err(TestError::Fail(why, (replicas, operations))) => {
            panic!("on {replicas} replicas {operations:#?}: {why}")
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn replicas_of_a_bucket_do_what_a_plain_model_does() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let fake = runtime.block_on(Fake::start());
    let storages: Vec<Storage> = (0..REPLICAS).map(|_| runtime.block_on(bucket(&fake)).unwrap()).collect();
    let nothing = fake.contents();
    run(20, "S3, simulated", &runtime, |replicas| {
        fake.restore(&nothing);
        storages[..replicas].to_vec()
    });
}

#[test]
fn replicas_of_a_directory_do_what_a_plain_model_does() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let folders = std::cell::RefCell::new(Vec::new());
    run(40, "directory", &runtime, |replicas| {
        let folder = TempDir::new().unwrap();
        let open = |_| Storage::directory(folder.path(), UPLOAD_MEMORY).unwrap();
        let storages = (0..replicas).map(open).collect();
        *folders.borrow_mut() = vec![folder];
        storages
    });
}
