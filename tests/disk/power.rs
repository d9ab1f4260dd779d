//! The power goes: what was acknowledged was synced, and what was not synced is never served half.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};

use super::{
    evidence::Evidence,
    kill::{FLOWS, Flow, QUIET, folder, set},
    local::Local,
    process::{KIB, Server, command, scale},
    trace::{Act, Call, Effect, Plan, Tracer, can_trace, go, held_back},
    tree::{Disk, Fate},
    world::{Asker, Step, World, client},
};

/// Every kind of change, one after the other, on one directory.
const LIFE: &[Step] = &[
    Step::Put { name: "a.bin", seed: 1, size: 5 * KIB, overwrite: false },
    Step::Put { name: "large.bin", seed: 2, size: 600 * KIB, overwrite: false },
    Step::Put { name: "a.bin", seed: 3, size: 6 * KIB, overwrite: true },
    Step::Draft("v1"),
    Step::Attach { tag: "v1", name: "app.zip", seed: 4, size: 4 * KIB, replace: false },
    Step::Publish("v1"),
    Step::Notes { tag: "v1", text: "new" },
    Step::Release("v2"),
    Step::Attach { tag: "v2", name: "app.zip", seed: 5, size: 3 * KIB, replace: false },
    Step::Attach { tag: "v2", name: "app.zip", seed: 6, size: 3 * KIB, replace: true },
    Step::Retag { tag: "v2", to: "v3" },
    Step::Put { name: "large.bin", seed: 7, size: 600 * KIB, overwrite: true },
    Step::Detach { tag: "v3", name: "app.zip" },
    Step::Withdraw("v1"),
    Step::Delete("a.bin"),
];

/// A server whose every call is kept, from its first on.
struct Recorded {
    server: Server,
    tracer: Tracer,
}

impl Recorded {
    fn start(root: &Path, plan: Option<Plan>) -> Self {
        let mut tracer = None;
        let command = held_back(&command(root, &QUIET, &["serve"]));
        let server = Server::spawn_watched(command, |child| {
            tracer = Some(Tracer::attach(child.id(), root, true, plan));
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
        let found = Local::start(folder.path(), client).await.settled().await;
        let found = found.map_err(|error| format!("{}, {}: {error}", self.what, self.fate.name))?;
        if self.possible.iter().any(|world| world.looks_like(&found)) {
            return Ok(());
        }
        let possible = &self.possible;
        Err(format!("{}, {}: there is {found:#?}\nwhich is none of {possible:#?}", self.what, self.fate.name))
    }
}

/// Checks every one in `every`; how many that were, and what is wrong.
async fn check(cuts: Vec<Cut>, every: usize) -> (usize, Vec<String>) {
    let client = &client();
    let begun = Instant::now();
    let all = cuts.len();
    let chosen: Vec<Cut> = cuts.into_iter().step_by(every.max(1)).collect();
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
    let recorded = Recorded::start(root, None);
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
        if let Some(Effect::Answered(200..=299)) = call.effect {
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
            cuts.push(Cut { what: what.clone(), disk: disk.clone(), fate, possible: possible.clone() });
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
    .record();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// A server is killed, another one is asked the same again and says it is done, and then the power goes.
async fn killed_then_cut(flow: &Flow, at: usize, client: &reqwest::Client) -> Option<Vec<Cut>> {
    let folder = folder();
    let root = folder.path();
    let first = Recorded::start(root, None);
    let asker = Asker::new(client, first.server.address);
    let before = set(flow.scene, &asker).await;
    let request = asker.prepare(&flow.step).await.unwrap();
    let plan = Plan { at, looks: false, act: Act::Kill };
    first.tracer.plan(plan);
    let again = request.try_clone().unwrap();
    let outcome = asker.send(request).await;
    let hit = first.tracer.hit()?;
    let mut calls = first.end();

    let second = Recorded::start(root, None);
    let asker = Asker::new(client, second.server.address);
    let (found, _) = asker.look().await.unwrap();
    let possible =
        if outcome.is_done() { vec![before.after(&flow.step)] } else { before.doubtful(&flow.step) };
    let world =
        possible.iter().find(|world| world.looks_like(&found)).expect("the kills' own test says more");
    asker.repeat(again, &flow.step, world).await.unwrap();
    let after = world.after(&flow.step);
    calls.extend(second.end());

    let mut disk = Disk::new(root);
    for call in &calls {
        disk.apply(call);
    }
    let what = format!("{}, killed at call {at}, `{hit}`, repeated, and said to be done", flow.name);
    let cut = |fate| Cut { what: what.clone(), disk: disk.clone(), fate, possible: vec![after.clone()] };
    Some(disk.fates(at as u64).into_iter().map(cut).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_server_left_is_durable_before_it_is_acknowledged() {
    if !can_trace("power cuts after kills") {
        return;
    }
    let client = client();
    let every = 12 / scale().min(12);
    let mut cuts = Vec::new();
    for (number, flow) in FLOWS.iter().enumerate() {
        let points = (1 + number % every..).step_by(every);
        let mut tried = stream::iter(points).map(|at| killed_then_cut(flow, at, &client)).buffered(3);
        while let Some(Some(more)) = tried.next().await {
            cuts.extend(more);
        }
    }
    let (cases, faults) = check(cuts, 8 / scale().min(8)).await;
    Evidence {
        attack: "killed, asked again, acknowledged; then the power goes",
        on: "directory, recorded and replayed",
        cases,
        of: "disks",
        lost: faults.len(),
        ..Evidence::default()
    }
    .record();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
