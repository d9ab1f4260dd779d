//! The sweep: removes what [`retention`](crate::retention) says, and clears up after uploads.
//!
//! - Any number of processes may sweep one store at once: each removal spares what changed since it was judged, and
//!   two sweepers that see the same thing remove the same thing.
//! - The first pass over a store only says what it would remove: a wrong setting on an old data directory costs
//!   nothing that way.
//! - What fails is logged and left to the next pass.

use std::time::Duration;

use chrono::Utc;
use tokio::time::Instant;

use crate::{
    audit::{self, Action, Actor},
    error::{Error, Result},
    metrics::Pass,
    packages::Packages,
    releases::{self, Releases},
    retention::{Verdict, decide},
};

/// How long after an upload the sweep waits for further ones.
const NUDGE_DELAY: Duration = Duration::from_secs(2);

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Packages kept.
    pub kept: usize,
    /// Packages removed; on a first pass, those that would be.
    pub removed: usize,
    /// Removals that failed; the next pass tries again.
    pub failed: usize,
    /// Whether this was the first pass over the store, which removes nothing.
    pub first: bool,
}

/// Sweeps every `interval` (give or take a tenth, so that replicas do not march in step), the packages after uploads
/// as well, for ever.
pub async fn run(packages: Packages, releases: Releases, interval: Duration) {
    loop {
        report(both(&packages, &releases).await);
        let jitter = tokio::time::sleep(interval.mul_f64(rand::random_range(0.9..1.1)));
        tokio::pin!(jitter);
        loop {
            tokio::select! {
                () = &mut jitter => break,
                () = packages.changed() => {
                    tokio::time::sleep(NUDGE_DELAY).await;
                    report(pass(&packages).await);
                }
            }
        }
    }
}

fn report<T>(swept: Result<T>) {
    if let Err(error) = swept {
        let error = error.with_causes();
        tracing::warn!(event = "sweep", error, "the sweep could not look at the store; it tries again");
    }
}

/// A pass over the packages, and one over the releases.
pub async fn both(packages: &Packages, releases: &Releases) -> Result<(Swept, releases::sweep::Swept)> {
    let swept = pass(packages).await?;
    Ok((swept, releases::sweep::pass(releases, swept.first).await?))
}

/// Judges every package and removes what goes.
pub async fn pass(packages: &Packages) -> Result<Swept> {
    packages.changeable()?;
    let began = Instant::now();
    let passed = judge_and_remove(packages).await;
    let outcome = match &passed {
        Ok(Swept { failed: 0, .. }) => Pass::Ok,
        _ => Pass::Failed,
    };
    packages.metrics().swept(outcome, began.elapsed(), passed.as_ref().ok().map(|swept| swept.kept));
    passed
}

async fn judge_and_remove(packages: &Packages) -> Result<Swept> {
    let (metrics, actor) = (packages.metrics(), Actor::sweep());
    let storage = packages.storage();
    let first = !storage.was_swept().await?;
    let listing = packages.fresh().await?;
    let candidates = listing.candidates();
    let mut swept = Swept { first, ..Swept::default() };
    let mut announced = None;
    for (package, decision) in listing.all().iter().zip(decide(&candidates, packages.policy(), Utc::now())) {
        let name = &package.name;
        // What only waits for its marker is named too: in a directory of old files that is all of them.
        if first && !decision.listed() {
            swept.removed += 1;
            tracing::warn!(
                event = "sweep",
                "package.name" = %name,
                reason = %decision.reason,
                "a later sweep removes `{name}`: {}",
                decision.reason
            );
            continue;
        }
        if decision.verdict != Verdict::Remove {
            swept.kept += 1;
            continue;
        }
        if announced.is_none() {
            announced = Some(storage.announce().await?);
        }
        match packages.remove(&listing, package).await {
            Ok(()) => {
                swept.removed += 1;
                metrics.removed(&decision.reason, package.size);
                audit::done(&actor, Action::Sweep, package, None, Some(&decision.to_string()));
            }
            // Somebody else was faster, or it was replaced: then it is not what was judged.
            Err(Error::NotFound(_) | Error::Changed(_)) => {}
            Err(error) => {
                swept.failed += 1;
                metrics.removal_failed();
                audit::failed(&actor, Action::Sweep, name.as_str(), &error);
                let error = error.with_causes();
                tracing::warn!(event = "sweep", "package.name" = %name, error, "cannot remove `{name}`");
            }
        }
    }
    drop(announced);
    if first {
        storage.set_swept().await?;
    }
    housekeep(packages).await?;
    Ok(swept)
}

/// Removes markers of what is gone, and what broken uploads left.
async fn housekeep(packages: &Packages) -> Result<()> {
    let storage = packages.storage();
    storage.clear_unfinished().await?;
    let listing = packages.fresh().await?;
    let stale = listing.stale_markers();
    if !stale.is_empty() {
        let _announced = storage.announce().await?;
        for marker in stale {
            storage.remove_marker(marker).await?;
        }
    }
    Ok(())
}
