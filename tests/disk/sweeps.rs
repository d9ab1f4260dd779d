//! A sweep that is killed at any call, its start among them, or of which any call fails: it removes what it judged or
//! leaves it, touches nothing else, and the next one finishes.

use std::{fs, path::Path, process::Stdio, time::SystemTime};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use serde_json::Value;

use super::{
    evidence::Evidence,
    kill::{QUIET, folder, set},
    local::Local,
    process::{KIB, Server, command, scale},
    trace::{Act, Errno, Plan, Tracer, can_trace, go, held_back},
    world::{Asker, Step, World, client},
};

const SCENE: &[Step] = &[
    Step::Put { name: "p1.bin", seed: 1, size: KIB, overwrite: false },
    Step::Put { name: "p2.bin", seed: 2, size: KIB, overwrite: false },
    Step::Put { name: "p3.bin", seed: 3, size: KIB, overwrite: false },
    Step::Release("v1"),
    Step::Attach { tag: "v1", name: "app.zip", seed: 4, size: KIB, replace: false },
    Step::Release("v2"),
    Step::Attach { tag: "v2", name: "app.zip", seed: 5, size: KIB, replace: false },
    // Bytes that nothing names.
    Step::Attach { tag: "v2", name: "other.zip", seed: 6, size: KIB, replace: false },
    Step::Detach { tag: "v2", name: "other.zip" },
    // A tombstone.
    Step::Draft("v0"),
    Step::Withdraw("v0"),
    Step::Release("v3"),
    Step::Attach { tag: "v3", name: "app.zip", seed: 7, size: KIB, replace: false },
];

/// What stays.
const KEPT: [(&str, &str); 3] =
    [("MAX_PACKAGES", "1"), ("RETENTION__RELEASES", "1"), ("LOG__LEVEL", "error")];

/// Makes everything in a repository as if it had been there for two days.
fn age(root: &Path) {
    let ago = chrono::Duration::days(2);
    let mut folders = vec![root.join("repos")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_some_and(|extension| extension == "json") {
                let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                let updated: DateTime<Utc> = record["updated_at"].as_str().unwrap().parse().unwrap();
                record["updated_at"] = (updated - ago).to_rfc3339().into();
                fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
            }
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - ago.to_std().unwrap()).unwrap();
        }
    }
}

/// How many files there are below a folder.
fn files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

/// Whether some of what was to go is gone, and nothing else.
fn between(found: &World, before: &World, after: &World) -> bool {
    let kept = |found: &[(String, String)], all: &[(String, String)]| {
        let still: Vec<_> = all.iter().filter(|package| found.contains(package)).cloned().collect();
        still == found
    };
    kept(&found.packages, &before.packages)
        && after.packages.iter().all(|package| found.packages.contains(package))
        && found.releases.iter().all(|release| before.releases.contains(release))
        && after.releases.iter().all(|release| found.releases.contains(release))
        && found.latest == after.latest
}

async fn case(at: usize, act: Act, client: &reqwest::Client) -> (Option<String>, Result<(), String>) {
    let folder = folder();
    let root = folder.path();
    let server = Server::start(root, &QUIET);
    let before = set(SCENE, &Asker::new(client, server.address)).await;
    drop(server);
    age(root);
    let gone = [Step::Delete("p1.bin"), Step::Delete("p2.bin"), Step::Withdraw("v1"), Step::Withdraw("v2")];
    let after = gone.iter().fold(before.clone(), |world, step| world.after(step));

    // The first look at a store removes nothing.
    let sweep = || command(root, &KEPT, &["sweep"]);
    assert!(sweep().output().unwrap().status.success());
    let mut child = held_back(&sweep()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let looks = act != Act::Kill;
    let plan = Plan { at, of: "", looks, act };
    let tracer = Tracer::attach(child.id(), root, false, Some(plan));
    go(&mut child);
    let hit = tokio::task::block_in_place(|| tracer.ended());

    let wrong = async {
        let server = Local::start(root, client).await;
        let (found, unhashed) = server.asker.look().await?;
        drop(server);
        if !between(&found, &before, &after) || !unhashed.is_empty() {
            return Err(format!("there is {found:#?}\nof {before:#?}, without a digest: {unhashed:?}"));
        }
        let swept = sweep().output().unwrap();
        if !swept.status.success() {
            return Err(format!("the next sweep fails: {}", String::from_utf8_lossy(&swept.stderr)));
        }
        let server = Local::start(root, client).await;
        server.swept(root, &after).await?;
        server.doctor().await?;
        let repository = root.join("repos/acme/app");
        let left = (files(&repository.join("files")), files(&root.join(".release-server/packages")));
        if left == (1, 1) { Ok(()) } else { Err(format!("of files and markers are left: {left:?}")) }
    };
    (hit, wrong.await)
}

async fn at_every_call(acts: &[Act], every: usize) -> (usize, Vec<String>) {
    let client = &client();
    let acts = &acts[..acts.len().min(scale())];
    let tried = (1..).step_by(every.max(1)).flat_map(|at| acts.iter().map(move |act| (at, *act)));
    let mut tried = stream::iter(tried)
        .map(|(at, act)| async move { (at, act, case(at, act, client).await) })
        .buffered(3);
    let (mut cases, mut faults) = (0, Vec::new());
    while let Some((at, act, (hit, wrong))) = tried.next().await {
        faults.extend(wrong.err().map(|wrong| format!("call {at}, {hit:?} {act:?}: {wrong}")));
        if hit.is_none() {
            break;
        }
        cases += 1;
    }
    println!("stepped in at {cases} calls of a sweep");
    (cases, faults)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_killed_at_any_call_is_finished_by_the_next() {
    if !can_trace("sweeps killed at every system call") {
        return;
    }
    let (cases, faults) = at_every_call(&[Act::Kill], 6 / scale().min(6)).await;
    Evidence {
        attack: "a sweep, its start included, killed at every system call",
        on: "directory",
        cases,
        of: "system calls",
        wrong: faults.len(),
        ..Evidence::default()
    }
    .record();
    assert!(faults.is_empty() && cases > 0, "{} faults of {cases}:\n{}", faults.len(), faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_of_which_any_call_fails_removes_nothing_it_did_not_judge() {
    if !can_trace("sweeps on a failing disk") {
        return;
    }
    let acts = [Act::Fail(Errno::EIO), Act::Lie(Errno::EIO), Act::Fail(Errno::ENOSPC)];
    let (cases, faults) = at_every_call(&acts, 20 / scale().min(20)).await;
    Evidence {
        attack: "a sweep of which every call on the disk fails",
        on: "directory",
        cases,
        of: "failed calls",
        wrong: faults.len(),
        ..Evidence::default()
    }
    .record();
    assert!(faults.is_empty() && cases > 0, "{} faults of {cases}:\n{}", faults.len(), faults.join("\n"));
}
