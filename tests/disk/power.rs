//! The power goes: what was acknowledged was synced, and what was not synced is never served half. What another process
//! left, or a sync that failed, is made durable before anybody is told that it is there.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};

use super::{
    evidence::Evidence,
    kill::{FLOWS, Flow, QUIET, folder, set},
    local::Local,
    process::{KIB, MIB, Server, body, command, eventually, scale},
    trace::{Act, Call, Effect, Errno, Plan, Tracer, can_trace, go, held_back},
    tree::{Disk, Fate},
    world::{Asker, Step, World, client},
};

/// Every kind of change, one after the other, on one directory.
const LIFE: &[Step] = &[
    Step::Put { name: "a.bin", seed: 1, size: 5 * KIB, overwrite: false },
    Step::Put { name: "large.bin", seed: 2, size: 1200 * KIB, overwrite: false },
    Step::Put { name: "a.bin", seed: 3, size: 6 * KIB, overwrite: true },
    Step::Draft("v1"),
    Step::Attach { tag: "v1", name: "app.zip", seed: 4, size: 4 * KIB, replace: false },
    Step::Publish("v1"),
    Step::Notes { tag: "v1", text: "new" },
    Step::Release("v2"),
    Step::Attach { tag: "v2", name: "app.zip", seed: 5, size: 3 * KIB, replace: false },
    Step::Attach { tag: "v2", name: "app.zip", seed: 6, size: 3 * KIB, replace: true },
    Step::Retag { tag: "v2", to: "v3" },
    Step::Put { name: "large.bin", seed: 7, size: 1200 * KIB, overwrite: true },
    Step::Detach { tag: "v3", name: "app.zip" },
    Step::Withdraw("v1"),
    Step::Delete("a.bin"),
];

/// So much that most of it goes past the page cache.
const HUGE: Flow = Flow {
    name: "a file that goes past the page cache",
    scene: &[],
    step: Step::Put { name: "huge.bin", seed: 8, size: 18 * MIB, overwrite: false },
};

/// Where the server's directory is: its parents are to be made as well.
fn within(folder: &Path) -> PathBuf {
    folder.join("srv/data")
}

/// A server whose every call is kept, from its first on.
struct Recorded {
    server: Server,
    tracer: Tracer,
}

impl Recorded {
    fn start(folder: &Path) -> Self {
        let mut tracer = None;
        let command = held_back(&command(&within(folder), &QUIET, &["serve"]));
        let server = Server::spawn_watched(command, |child| {
            tracer = Some(Tracer::attach(child.id(), folder, true, None));
            go(child);
        });
        Self { server, tracer: tracer.unwrap() }
    }

    /// Kills it; everything it did.
    fn end(self) -> Vec<Call> {
        let calls = self.tracer.finish();
        drop(self.server);
        calls
    }
}

/// A moment at which the power goes, one way in which it may leave the disk, and the worlds that may be there then.
struct Cut {
    what: String,
    disk: Disk,
    fate: Fate,
    possible: Vec<World>,
}

impl Cut {
    async fn check(&self, client: &reqwest::Client) -> Result<(), String> {
        let folder = folder();
        self.disk.make(&self.fate, folder.path());
        let place = within(folder.path());
        let says_layout = place.join(".release-server/layout-1").exists();
        std::fs::create_dir_all(&place).unwrap();
        let found = Local::start(&place, client).await.settled().await;
        let found = found.map_err(|error| format!("{}, {}: {error}", self.what, self.fate.name))?;
        if !says_layout && !found.looks_like(&World::default()) {
            return Err(format!("{}, {}: its layout is not said", self.what, self.fate.name));
        }
        if self.possible.iter().any(|world| world.looks_like(&found)) {
            return Ok(());
        }
        let possible = &self.possible;
        Err(format!("{}, {}: there is {found:#?}\nwhich is none of {possible:#?}", self.what, self.fate.name))
    }
}

/// Checks the cuts that matter most, and of the others one in `every`; how many that were, and what is wrong.
async fn check(cuts: Vec<(bool, Cut)>, every: usize) -> (usize, Vec<String>) {
    let client = &client();
    let begun = Instant::now();
    let all = cuts.len();
    let (most, others): (Vec<_>, Vec<_>) = cuts.into_iter().partition(|(most, _)| *most);
    let chosen = most.into_iter().chain(others.into_iter().step_by(every.max(1)));
    let chosen: Vec<Cut> = chosen.map(|(_, cut)| cut).collect();
    // Files are hashed only once they have been at rest for two seconds.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let checked = stream::iter(&chosen).map(|cut| cut.check(client)).buffer_unordered(3);
    let outcomes: Vec<Result<(), String>> = checked.collect().await;
    println!("{} of {all} disks looked at in {:?}", outcomes.len(), begun.elapsed());
    (outcomes.len(), outcomes.into_iter().filter_map(Result::err).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_the_power_goes_what_was_acknowledged_is_there_and_nothing_is_half() {
    if !can_trace("power cuts") {
        return;
    }
    let folder = folder();
    let root = folder.path();
    let recorded = Recorded::start(root);
    let client = client();
    let asker = Asker::new(&client, recorded.server.address);
    let mut world = World::default();
    let mut marks = Vec::new();
    for step in LIFE {
        let request = asker.prepare(step).await.unwrap_or_else(|| panic!("{step:?} has nothing to do"));
        let before = recorded.tracer.count();
        let outcome = asker.send(request).await;
        assert!(outcome.is_done(), "{step:?}: {outcome:?}");
        // The bytes of a deleted release go behind the answer.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let after = world.after(step);
        marks.push((before, step, world, after.clone()));
        world = after;
    }
    let calls = recorded.end();

    let mut disk = Disk::new(root);
    let (mut cuts, mut step, mut acknowledged) = (Vec::new(), None, true);
    let mut marks = marks.into_iter().peekable();
    for (number, call) in calls.iter().enumerate() {
        if let Some(mark) = marks.next_if(|mark| mark.0 <= number) {
            (step, acknowledged) = (Some(mark), false);
        }
        disk.apply(call);
        let mut just_said = false;
        if let Some(Effect::Answered(200..=299)) = call.effect {
            just_said = !acknowledged;
            acknowledged = true;
        }
        if call.looks || call.effect.is_none() {
            continue;
        }
        let (possible, during) = match &step {
            None => (vec![World::default()], "the start".to_owned()),
            Some((_, step, _, after)) if acknowledged => {
                (vec![after.clone()], format!("{step:?}, acknowledged"))
            }
            Some((_, step, before, after)) => (vec![before.clone(), after.clone()], format!("{step:?}")),
        };
        let what = format!("after call {number}, `{}` of {during}", call.site);
        for fate in disk.fates(number as u64) {
            let most = just_said && fate.is_extreme();
            let cut = Cut { what: what.clone(), disk: disk.clone(), fate, possible: possible.clone() };
            cuts.push((most, cut));
        }
    }
    let (cases, faults) = check(cuts, 40 / scale().min(40)).await;
    Evidence {
        attack: "the power goes after any system call, and takes any part of what was not synced",
        on: "directory, recorded and replayed",
        cases,
        of: "disks",
        wrong: faults.len(),
        ..Evidence::default()
    }
    .judge(&faults);
}

/// What is done to a server at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Blow {
    at: usize,
    of: &'static str,
    act: Act,
    /// Whether it is at a sync.
    most: bool,
}

impl Blow {
    fn plan(self) -> Plan {
        Plan { at: self.at, of: self.of, looks: false, act: self.act }
    }
}

/// The calls that change something, or answer, of a flow that nothing happens to.
async fn rehearse(flow: &Flow, client: &reqwest::Client) -> Vec<String> {
    let folder = folder();
    let root = folder.path();
    let server = Server::start(root, &QUIET);
    let asker = Asker::new(client, server.address);
    set(flow.scene, &asker).await;
    let request = asker.prepare(&flow.step).await.unwrap();
    let tracer = Tracer::attach(server.id(), root, false, None);
    assert!(asker.send(request).await.is_done(), "{}", flow.name);
    changes(&tracer.finish())
}

fn changes(calls: &[Call]) -> Vec<String> {
    calls.iter().filter(|call| !call.looks).map(|call| call.site.clone()).collect()
}

/// At every sync of a name the server is killed; each kind of sync fails; and the server is killed at one in `every` call.
fn blows(sites: &[String], every: usize, known: &mut BTreeSet<(String, String)>) -> Vec<Blow> {
    let mut blows = Vec::new();
    for (index, site) in sites.iter().enumerate() {
        let at = index + 1;
        let (syncs, staged) = (site.starts_with("sync "), site.contains("/stage/"));
        if syncs && !staged || index % every == 0 {
            blows.push(Blow { at, of: "", act: Act::Kill, most: syncs });
        }
        let before = index.checked_sub(1).map_or("", |before| &sites[before]).to_owned();
        if syncs && known.insert((before, site.clone())) {
            blows.push(Blow { at, of: "", act: Act::Fail(Errno::EIO), most: true });
        }
    }
    blows
}

/// One of two servers on a directory is killed, or its disk fails once. Who then asks again, the other one if need be, whose
/// disk fails at each sync as well, is told at last that it is done; and the power goes.
async fn struck_then_cut(flow: &Flow, blow: Blow, client: &reqwest::Client) -> Vec<(bool, Cut)> {
    let folder = folder();
    let root = folder.path();
    let (first, second) = (Recorded::start(root), Recorded::start(root));
    let starts = (first.tracer.count(), second.tracer.count());
    let asker = Asker::new(client, first.server.address);
    let before = set(flow.scene, &asker).await;
    let request = asker.prepare(&flow.step).await.unwrap();
    first.tracer.plan(blow.plan());
    let again = request.try_clone().unwrap();
    let outcome = asker.send(request).await;
    let Some(hit) = first.tracer.hit() else { return Vec::new() };
    let (killed, done) = (blow.act == Act::Kill, outcome.is_done());
    let after = if done && !killed {
        // Its disk failed, and it says that it is done.
        before.after(&flow.step)
    } else {
        let asker = if killed { Asker::new(client, second.server.address) } else { asker };
        let (found, _) = asker.look().await.unwrap();
        let possible = if done { vec![before.after(&flow.step)] } else { before.doubtful(&flow.step) };
        let mut world =
            possible.into_iter().find(|world| world.looks_like(&found)).expect("tests of their own say more");
        for at in 1.. {
            second.tracer.plan(Plan { at, of: "sync ", looks: false, act: Act::Fail(Errno::EIO) });
            let repeated = asker.repeat(again.try_clone().unwrap(), &flow.step, &world).await;
            let (found, _) = asker.look().await.unwrap();
            if found.looks_like(&world.after(&flow.step)) {
                world = world.after(&flow.step);
            }
            match repeated {
                Ok(()) => break,
                Err(error) if at > 20 => panic!("{}: {error}", flow.name),
                Err(_) => {}
            }
        }
        world
    };
    let disk = Disk::of_two(root, starts, (&first.end(), &second.end()));
    let what = format!("{}, {:?} at call {}, `{hit}`; then said to be done", flow.name, blow.act, blow.at);
    cuts(&disk, blow, &what, &after)
}

/// Two servers are sent a package of one name. The first is killed when the name is there and not durable; so the other one,
/// which has begun to take it before, says that the name is taken; and the power goes.
async fn beaten_by_the_dead_then_cut(client: &reqwest::Client) -> Vec<(bool, Cut)> {
    let folder = folder();
    let root = folder.path();
    let (first, second) = (Recorded::start(root), Recorded::start(root));
    let starts = (first.tracer.count(), second.tracer.count());
    let (step, bytes) = (&LIFE[0], body(1, 5 * KIB));
    let (sender, body) = tokio::sync::mpsc::channel(1);
    let body = stream::unfold((body, bytes.clone()), |(mut body, all)| async move {
        let range: std::ops::Range<usize> = body.recv().await?;
        Some((Ok::<_, std::io::Error>(all.slice(range)), (body, all)))
    });
    let late = Asker::new(client, second.server.address);
    let late = late.request(reqwest::Method::PUT, "/assets/a.bin").body(reqwest::Body::wrap_stream(body));
    let late = tokio::spawn(late.send());
    sender.send(0..KIB).await.unwrap();
    let looked = |call: &Call| call.site.ends_with("srv/data/a.bin");
    eventually("it has looked whether the name is free", || second.tracer.made(looked));

    let at = Blow { at: 2, of: "sync srv/data", act: Act::Kill, most: true };
    first.tracer.plan(at.plan());
    let asker = Asker::new(client, first.server.address);
    let request = asker.prepare(step).await.unwrap();
    let _ = asker.send(request).await;
    assert_eq!(first.tracer.hit().as_deref(), Some("sync srv/data"));
    sender.send(KIB..5 * KIB).await.unwrap();
    drop(sender);
    assert_eq!(late.await.unwrap().unwrap().status(), 409);
    let disk = Disk::of_two(root, starts, (&first.end(), &second.end()));
    cuts(&disk, at, "beaten by a server that died", &World::default().after(step))
}

/// The ways in which a disk may be left on which this world was acknowledged.
fn cuts(disk: &Disk, blow: Blow, what: &str, world: &World) -> Vec<(bool, Cut)> {
    let fates = disk.fates(blow.at as u64).into_iter();
    let cut = |fate: Fate| {
        let most = blow.most && fate.is_extreme();
        (most, Cut { what: what.to_owned(), disk: disk.clone(), fate, possible: vec![world.clone()] })
    };
    fates.map(cut).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_server_or_a_failed_sync_left_is_durable_before_it_is_acknowledged() {
    if !can_trace("power cuts after kills and failed syncs") {
        return;
    }
    let client = &client();
    let every = 12 / scale().min(12);
    let mut tried = Vec::new();
    let mut known = BTreeSet::new();
    for flow in FLOWS {
        let blows = blows(&rehearse(flow, client).await, every, &mut known);
        tried.extend(blows.into_iter().map(|blow| (flow, blow)));
    }
    let staged = "sync srv/data/.release-server/stage/";
    tried.push((&HUGE, Blow { at: 1, of: staged, act: Act::Fail(Errno::EIO), most: true }));
    println!("{} blows", tried.len());
    let tried = stream::iter(tried).map(|(flow, blow)| struck_then_cut(flow, blow, client)).buffered(3);
    let mut cuts: Vec<Vec<(bool, Cut)>> = tried.collect().await;
    cuts.push(beaten_by_the_dead_then_cut(client).await);
    let (cases, faults) = check(cuts.into_iter().flatten().collect(), 8 / scale().min(8)).await;
    Evidence {
        attack: "killed, or a sync failed; asked again, acknowledged; then the power goes",
        on: "directory, recorded and replayed",
        cases,
        of: "disks",
        lost: faults.len(),
        ..Evidence::default()
    }
    .judge(&faults);
}

/// A server dies while it makes its directory, or gives up because a sync fails; another one finds some of it there, and
/// publishes.
async fn dead_at_start_then_cut(blow: Blow, client: &reqwest::Client) -> Vec<(bool, Cut)> {
    let folder = folder();
    let root = folder.path();
    let mut command = held_back(&command(&within(root), &QUIET, &["serve"]));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let tracer = Tracer::attach(child.id(), root, true, Some(blow.plan()));
    go(&mut child);
    eventually("it ends", || tracer.is_over());
    let hit = tracer.hit().unwrap();
    let mut calls = tracer.finish();
    // Who watched it has seen its end.
    let _ = child.wait();

    let second = Recorded::start(root);
    let asker = Asker::new(client, second.server.address);
    let mut world = World::default();
    for step in &LIFE[..1] {
        asker.perform(step).await;
        world = world.after(step);
    }
    calls.extend(second.end());
    let mut disk = Disk::new(root);
    for call in &calls {
        disk.apply(call);
    }
    cuts(&disk, blow, &format!("{:?} at the start, call {}, `{hit}`", blow.act, blow.at), &world)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_leaves_that_dies_at_its_start_is_durable_before_what_is_in_it_is_acknowledged() {
    if !can_trace("power cuts after kills at the start") {
        return;
    }
    let client = &client();
    let sites = {
        let folder = folder();
        changes(&Recorded::start(folder.path()).end())
    };
    let every = 12 / scale().min(12);
    let tried = stream::iter(blows(&sites, every, &mut BTreeSet::new()));
    let tried = tried.map(|blow| dead_at_start_then_cut(blow, client)).buffered(3);
    let cuts: Vec<Vec<(bool, Cut)>> = tried.collect().await;
    let (cases, faults) = check(cuts.into_iter().flatten().collect(), 8 / scale().min(8)).await;
    Evidence {
        attack: "killed, or a sync failed, at the start on a new directory; another one publishes; then the power goes",
        on: "directory, recorded and replayed",
        cases,
        of: "disks",
        lost: faults.len(),
        ..Evidence::default()
    }
    .judge(&faults);
}
