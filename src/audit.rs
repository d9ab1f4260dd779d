//! The audit log: who published, replaced, deleted or swept what, and who was refused. One line each, in one shape.
//!
//! - `event` is `audit`; `action` is `publish`, `replace`, `delete` or `sweep`, of a release `create` and `change` as
//!   well; `outcome` is
//!   - `done`: it has happened, and is durable;
//!   - `denied`: it was refused because of who asked (401, 403); nothing happened;
//!   - `failed`: the store or the server failed (503, 500); it may have happened all the same, so look.
//! - What the caller alone is to blame for (a name that is taken, a wrong digest) changed nothing, and has no line.
//! - The line is written by who does the work, in the task that ends even if the client leaves.
//! - `sha256` is of what was stored or removed, `previous_sha256` of what a replacement took the place of.

use std::net::IpAddr;

use crate::{
    digest::Digest,
    error::Error,
    packages::Package,
    releases::record::{Asset, Record},
};

/// Who acts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actor {
    /// The token's name or the JWT's subject; `None` if that is not known.
    pub caller: Option<String>,
    /// From where; `None` for the server itself.
    pub client: Option<IpAddr>,
}

impl Actor {
    /// What records call it.
    pub(crate) fn name(&self) -> &str {
        self.caller.as_deref().unwrap_or("unknown")
    }

    /// The server's own sweep.
    pub(crate) fn sweep() -> Self {
        Self { caller: Some("sweep".to_owned()), client: None }
    }
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Publish,
    Replace,
    Delete,
    Sweep,
    /// A draft.
    Create,
    /// Anything but its bytes.
    Change,
}

impl Action {
    fn text(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Sweep => "sweep",
            Self::Create => "create",
            Self::Change => "change",
        }
    }

    fn past(self) -> &'static str {
        match self {
            Self::Publish => "published",
            Self::Replace => "replaced",
            Self::Delete => "deleted",
            Self::Sweep => "removed",
            Self::Create => "created",
            Self::Change => "changed",
        }
    }
}

/// It has happened to `package`. `previous` is the digest of what it replaced, `reason` why it was swept.
pub(crate) fn done(
    actor: &Actor,
    action: Action,
    package: &Package,
    previous: Option<Digest>,
    reason: Option<&str>,
) {
    let (name, past) = (&package.name, action.past());
    let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    tracing::info!(
        event = "audit",
        action = action.text(),
        outcome = "done",
        "package.name" = %name,
        size_bytes = package.size,
        sha256 = package.sha256.map(tracing::field::display),
        previous_sha256 = previous.map(tracing::field::display),
        caller = actor.caller,
        client = actor.client.map(tracing::field::display),
        reason,
        "{past} `{name}`{why}"
    );
}

/// It has happened to a release, or to an asset of it. `previous` is what it replaced, `reason` why it was swept.
pub(crate) fn done_in(
    actor: &Actor,
    action: Action,
    record: &Record,
    asset: Option<&Asset>,
    previous: Option<&Asset>,
    reason: Option<&str>,
) {
    let (repository, tag, past) = (&record.repository, &record.tag_name, action.past());
    let of = asset.map(|asset| format!("`{}` of ", asset.name)).unwrap_or_default();
    let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    tracing::info!(
        event = "audit",
        action = action.text(),
        outcome = "done",
        repository,
        "release.id" = record.id.get(),
        "release.tag" = %tag,
        "asset.name" = asset.map(|asset| asset.name.as_str()),
        size_bytes = asset.map(|asset| asset.size),
        sha256 = asset.map(|asset| tracing::field::display(asset.sha256)),
        previous_sha256 = previous.map(|asset| tracing::field::display(asset.sha256)),
        caller = actor.caller,
        client = actor.client.map(tracing::field::display),
        reason,
        "{past} {of}release `{tag}` of `{repository}`{why}"
    );
}

/// It was refused because of who asked.
pub(crate) fn denied_in(actor: &Actor, action: Action, repository: &str, reason: &Error) {
    refused_in("denied", actor, action, repository, &reason.to_string());
}

/// It failed, and that was not the caller's fault. Anything else is none of ours.
pub(crate) fn failed_in(actor: &Actor, action: Action, repository: &str, error: &Error) {
    if matches!(error, Error::Unavailable(_) | Error::Internal(_)) {
        refused_in("failed", actor, action, repository, &error.to_string());
    }
}

fn refused_in(outcome: &str, actor: &Actor, action: Action, repository: &str, reason: &str) {
    let action = action.text();
    tracing::warn!(
        event = "audit",
        action,
        outcome,
        repository,
        caller = actor.caller,
        client = actor.client.map(tracing::field::display),
        reason,
        "{action} {outcome}"
    );
}

/// It was refused because of who asked. `name` is missing where a form has it.
pub(crate) fn denied(actor: &Actor, action: Action, name: Option<&str>, reason: &Error) {
    refused("denied", actor, action, name, &reason.to_string());
}

/// It failed, and that was not the caller's fault. Anything else is none of ours.
pub(crate) fn failed(actor: &Actor, action: Action, name: &str, error: &Error) {
    if matches!(error, Error::Unavailable(_) | Error::Internal(_)) {
        refused("failed", actor, action, Some(name), &error.to_string());
    }
}

fn refused(outcome: &str, actor: &Actor, action: Action, name: Option<&str>, reason: &str) {
    let action = action.text();
    tracing::warn!(
        event = "audit",
        action,
        outcome,
        "package.name" = name,
        caller = actor.caller,
        client = actor.client.map(tracing::field::display),
        reason,
        "{action} {outcome}"
    );
}
