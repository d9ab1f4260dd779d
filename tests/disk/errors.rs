//! Every call on the disk fails once, with every error that a disk has: the answer says so calmly, the log says why,
//! nothing is half, nothing acknowledged is lost, and the next request succeeds.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::Value;

use futures_util::{StreamExt, stream};

use super::{
    evidence::Evidence,
    kill::{FLOWS, Flow, QUIET, folder, set},
    local::Local,
    process::{Server, scale},
    trace::{Act, Errno, Plan, Tracer, can_trace},
    world::{Asker, Outcome, Step, client},
};

/// The call is not made; and made, but said to have failed, as a network file system may.
const ACTS: [Act; 5] = [
    Act::Fail(Errno::EIO),
    Act::Fail(Errno::ENOSPC),
    Act::Fail(Errno::EMFILE),
    Act::Lie(Errno::EIO),
    Act::Fail(Errno::EACCES),
];

/// What a package must not be acknowledged without.
const ALWAYS: [&str; 2] =
    ["unlink .release-server/stage/", "link .release-server/stage/* .release-server/packages/"];

struct Case {
    hit: Option<String>,
    outcome: Outcome,
    wrong: Result<(), String>,
}

async fn case(flow: &Flow, plan: Plan, client: &reqwest::Client) -> Case {
    let folder = folder();
    let root = folder.path();
    let server = Server::start(root, &QUIET);
    let asker = Asker::new(client, server.address);
    let before = set(flow.scene, &asker).await;
    let request = asker.prepare(&flow.step).await.unwrap();
    let again = request.try_clone().unwrap();
    let tracer = Tracer::attach(server.id(), root, false, Some(plan));
    let outcome = asker.send(request).await;
    let hit = tracer.hit();
    tracer.finish();

    let wrong = async {
        // A conflict is no answer to a broken disk, and a refusal of the client's request is none either.
        let said = match &outcome {
            Outcome::Said(200..=299, _) => true,
            Outcome::Said(500 | 503 | 507, said) => {
                let calm = said["message"].as_str().ok_or("the answer has no message")?;
                if calm.contains("os error") || calm.contains(root.to_str().unwrap()) {
                    return Err(format!("the answer tells too much: {calm}"));
                }
                // Read by another thread, a moment later.
                let says_why = |line: &Value| {
                    let error = line["error"].as_str().unwrap_or_default();
                    error.contains("os error") || error.contains("would not show")
                };
                let deadline = Instant::now() + Duration::from_secs(2);
                while !server.logged("error").iter().any(says_why) {
                    if Instant::now() > deadline {
                        return Err(format!("the log does not say why: {:?}", server.logged("error")));
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                false
            }
            outcome => return Err(format!("answered {outcome:?}")),
        };
        if hit.is_none() && !said {
            return Err(format!("nothing failed, and it said {outcome:?}"));
        }
        let possible = if said { vec![before.after(&flow.step)] } else { before.doubtful(&flow.step) };
        let look = async |asker: &Asker| {
            let (found, unhashed) = asker.look().await?;
            if said && !unhashed.is_empty() {
                return Err(format!("acknowledged, and without a digest: {unhashed:?}"));
            }
            let world = possible.iter().find(|world| world.looks_like(&found)).cloned();
            world.ok_or_else(|| format!("there is {found:#?}\nwhich is none of {possible:#?}"))
        };
        // The server goes on, and nothing unfinished is left by one that lives.
        let world = look(&asker).await?;
        asker.repeat(again, &flow.step, &world).await?;
        drop(server);
        let restarted = Local::start(root, client).await;
        restarted.swept(root, &world.after(&flow.step)).await?;
        restarted.doctor().await
    };
    let wrong = wrong.await;
    Case { hit, outcome, wrong }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_fails_the_answer_is_calm_and_nothing_is_lost() {
    if !can_trace("errors of the disk") {
        return;
    }
    let client = &client();
    let every = 16 / scale().min(16);
    let (mut faults, mut cases) = (Vec::new(), 0);
    for (number, flow) in FLOWS.iter().enumerate() {
        let mut told: BTreeMap<String, usize> = BTreeMap::new();
        // Of each call another error, and all of them in many rounds.
        let acts = ACTS.len().min(scale());
        let points = (1 + number % every..).step_by(every);
        let always = ALWAYS.iter().filter(|_| matches!(flow.step, Step::Put { .. }));
        let always = always.map(|of| Plan { at: 1, of, looks: true, act: ACTS[0] });
        let tried = points.flat_map(|at| (0..acts).map(move |more| (at, ACTS[(at + more) % ACTS.len()])));
        let tried = tried.map(|(at, act)| Plan { at, of: "", looks: true, act });
        let mut tried = stream::iter(always.chain(tried))
            .map(|plan| async move { (plan, case(flow, plan, client).await) })
            .buffered(3);
        while let Some((Plan { at, act, .. }, Case { hit, outcome, wrong })) = tried.next().await {
            if let Err(wrong) = &wrong {
                println!("{}, call {at}, {hit:?} {act:?}: {wrong}", flow.name);
                faults.push(format!("{}, call {at}, {hit:?} {act:?}: {wrong}", flow.name));
            }
            if hit.is_none() {
                break;
            }
            cases += 1;
            let told = told.entry(match outcome {
                Outcome::Said(status, _) => status.to_string(),
                outcome => format!("{outcome:?}"),
            });
            *told.or_default() += 1;
        }
        println!("{}: {told:?}", flow.name);
    }
    Evidence {
        attack: "every call on the disk fails, with every error a disk has, or is made and said to have failed",
        on: "directory",
        cases,
        of: "failed calls",
        wrong: faults.len(),
        ..Evidence::default()
    }
    .judge(&faults);
}
