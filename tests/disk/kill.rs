//! Killed at every system call that changes something, or says so to the client.

use std::{collections::BTreeMap, path::Path};

use futures_util::{StreamExt, stream};
use tempfile::TempDir;

use super::{
    evidence::Evidence,
    local::Local,
    process::{KIB, Server, scale},
    trace::{Act, Plan, Tracer, can_trace},
    world::{Asker, Outcome, Step, World, client},
};

/// Steps that set a scene, and the one during which the server is killed.
pub(crate) struct Flow {
    pub(crate) name: &'static str,
    pub(crate) scene: &'static [Step],
    pub(crate) step: Step,
}

const OLD: Step = Step::Put { name: "a.bin", seed: 1, size: 5 * KIB, overwrite: false };
const OTHER: Step = Step::Put { name: "b.bin", seed: 2, size: 3 * KIB, overwrite: false };
const V1: Step = Step::Release("v1");
const DRAFT: Step = Step::Draft("v2");
const ASSET: Step = Step::Attach { tag: "v2", name: "app.zip", seed: 3, size: 4 * KIB, replace: false };

/// One of each kind of change.
pub(crate) const FLOWS: &[Flow] = &[
    Flow { name: "a small upload", scene: &[OTHER], step: OLD },
    Flow {
        name: "a large upload",
        scene: &[OTHER],
        step: Step::Put { name: "large.bin", seed: 4, size: 700 * KIB, overwrite: false },
    },
    Flow {
        name: "an overwrite",
        scene: &[OTHER, OLD],
        step: Step::Put { name: "a.bin", seed: 5, size: 6 * KIB, overwrite: true },
    },
    Flow {
        name: "a large overwrite",
        scene: &[OLD, OTHER],
        step: Step::Put { name: "a.bin", seed: 6, size: 1200 * KIB, overwrite: true },
    },
    Flow { name: "a delete", scene: &[OLD, OTHER], step: Step::Delete("a.bin") },
    Flow { name: "a first draft", scene: &[], step: DRAFT },
    Flow { name: "a draft", scene: &[V1], step: DRAFT },
    Flow { name: "a release at one go", scene: &[V1], step: Step::Release("v2") },
    Flow { name: "an asset", scene: &[V1, DRAFT], step: ASSET },
    Flow {
        name: "a large asset",
        scene: &[V1, DRAFT],
        step: Step::Attach { tag: "v2", name: "app.zip", seed: 7, size: 1200 * KIB, replace: false },
    },
    Flow {
        name: "taking out an asset",
        scene: &[DRAFT, ASSET],
        step: Step::Detach { tag: "v2", name: "app.zip" },
    },
    Flow { name: "a publish", scene: &[V1, DRAFT, ASSET], step: Step::Publish("v2") },
    Flow { name: "an edit", scene: &[V1], step: Step::Notes { tag: "v1", text: "new" } },
    Flow { name: "a new tag", scene: &[V1], step: Step::Retag { tag: "v1", to: "v1.0" } },
    Flow {
        name: "deleting a release",
        scene: &[V1, DRAFT, ASSET, Step::Publish("v2")],
        step: Step::Withdraw("v2"),
    },
];

/// The settings of a server that does nothing by itself.
pub(crate) const QUIET: [(&str, &str); 2] = [("MAX_PACKAGES", "0"), ("RETENTION__INTERVAL", "off")];

/// A folder that is quick: what a process leaves when it is killed is the same on any file system.
pub(crate) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.unwrap()
}

/// Sets the scene on a server of its own.
pub(crate) async fn set(scene: &[Step], asker: &Asker) -> World {
    let mut world = World::default();
    for step in scene {
        asker.perform(step).await;
        world = world.after(step);
    }
    world
}

/// What a case came to.
struct Case {
    /// Where it was killed; `None` if the step was over before.
    hit: Option<String>,
    acknowledged: bool,
    wrong: Result<(), String>,
}

/// Kills the server at the call of this number, starts another, and looks.
async fn case(flow: &Flow, at: usize, client: &reqwest::Client) -> Case {
    let folder = folder();
    let root = folder.path();
    let server = Server::start(root, &QUIET);
    let asker = Asker::new(client, server.address);
    let before = set(flow.scene, &asker).await;
    let request = asker.prepare(&flow.step).await.unwrap();
    let plan = Plan { at, of: "", looks: false, act: Act::Kill };
    let tracer = Tracer::attach(server.id(), root, false, Some(plan));
    let again = request.try_clone().unwrap();
    let outcome = asker.send(request).await;
    if tracer.hit().is_none() {
        // What goes on behind the answer: the bytes of a deleted release.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let hit = tracer.hit();
    tracer.finish();
    drop(server);

    let acknowledged = outcome.is_done();
    let possible = if acknowledged { vec![before.after(&flow.step)] } else { before.doubtful(&flow.step) };
    let wrong = async {
        if hit.is_none() && !acknowledged || matches!(outcome, Outcome::Said(300.., _) | Outcome::Hung) {
            return Err(format!("answered {outcome:?}"));
        }
        let server = Local::start(root, client).await;
        let left = super::world::staged(root);
        if !left.is_empty() {
            return Err(format!("unfinished uploads are left after a start: {left:?}"));
        }
        let (found, unhashed) = server.asker.look().await?;
        let Some(world) = possible.iter().find(|world| world.looks_like(&found)) else {
            return Err(format!("there is {found:#?}\nwhich is none of {possible:#?}"));
        };
        // What was being written may have lost its marker, and gets it in the background.
        let hers = |name: &String| matches!(flow.step, Step::Put { name: written, .. } if written == name);
        if unhashed.iter().any(|name| acknowledged || !hers(name)) {
            return Err(format!("acknowledged, and without a digest: {unhashed:?}"));
        }
        server.asker.repeat(again, &flow.step, world).await?;
        let repeated = world.after(&flow.step);
        server.doctor().await?;
        server.swept(root, &repeated).await?;
        // Once more: the first pass over a store only looks.
        server.swept(root, &repeated).await?;
        Ok(())
    };
    let wrong = wrong.await;
    Case { hit, acknowledged, wrong }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_call_nothing_is_half_and_nothing_acknowledged_lost() {
    if !can_trace("kills at every system call") {
        return;
    }
    let mut faults = Vec::new();
    let mut cases = 0;
    let client = &client();
    for (number, flow) in FLOWS.iter().enumerate() {
        let mut sites = BTreeMap::new();
        // By default every third call, of each flow from another one on.
        let every = 3 / scale().min(3);
        let points = (1 + number % every..).step_by(every);
        let mut tried =
            stream::iter(points).map(|at| async move { (at, case(flow, at, client).await) }).buffered(3);
        let (mut kills, mut late) = (0, 0);
        while let Some((at, Case { hit, acknowledged, wrong })) = tried.next().await {
            if let Err(wrong) = &wrong {
                faults.push(format!("{}, killed at call {at}, {hit:?}: {wrong}", flow.name));
            }
            let Some(site) = hit else { break };
            kills += 1;
            late += usize::from(acknowledged);
            *sites.entry(site).or_insert(0) += 1;
        }
        println!("{}: killed at {kills} calls, {late} of them after the answer: {sites:?}", flow.name);
        assert!(kills > 0, "{}: there was nothing to kill it at", flow.name);
        cases += kills;
    }
    Evidence {
        attack: "killed at every system call of an upload, a delete, a publish and every other change",
        on: "directory",
        cases,
        of: "system calls",
        wrong: faults.len(),
        ..Evidence::default()
    }
    .judge(&faults);
}
