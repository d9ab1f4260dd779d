//! What goes wrong, and when: the rules a test sets, and the gates it opens.

use std::{fmt, sync::Arc, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::{sync::Semaphore, time::Instant};

/// What a request asks of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Operation {
    List,
    Get,
    Head,
    Put,
    Delete,
    /// `POST ?delete`; a rule for some keys meets it if one of its keys is among them.
    DeleteMany,
    CreateUpload,
    PutPart,
    ListParts,
    Complete,
    Abort,
    ListUploads,
    HeadBucket,
}

impl Operation {
    pub(crate) const ALL: [Self; 13] = [
        Self::List,
        Self::Get,
        Self::Head,
        Self::Put,
        Self::Delete,
        Self::DeleteMany,
        Self::CreateUpload,
        Self::PutPart,
        Self::ListParts,
        Self::Complete,
        Self::Abort,
        Self::ListUploads,
        Self::HeadBucket,
    ];
}

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Its body is not read and no answer ever comes.
    Stall,
    /// Its body is read at so many bytes a second.
    SlowUpload(u64),
    /// The connection breaks after so many bytes of its body; it does nothing.
    CutUpload(usize),
    /// It waits before it does its work.
    Delay(Duration),
    /// It waits at a gate before it does its work; see [`When::hold`].
    Hold(Turnstile),
    /// It does nothing, and the connection breaks.
    Drop,
    /// It does nothing, and this status with this error code is the answer.
    Refuse(u16, &'static str),
    /// It does nothing, and the answer is 200 with this error code in its body.
    ErrorInside200(&'static str),
    /// It does its work whatever `If-Match` and `If-None-Match` say.
    IgnoreConditions,
    /// It does its work, then waits at a gate; see [`When::hold_reply`].
    HoldReply(Turnstile),
    /// It does its work, then the connection breaks.
    LoseReply,
    /// It does its work, and no answer ever comes.
    WithholdReply,
    /// It does its work, then this status with this error code is the answer.
    FailAfterwards(u16, &'static str),
    /// The answer's body comes at so many bytes a second.
    SlowBody(u64),
    /// The connection breaks after so many bytes of the answer's body.
    CutBody(usize),
    /// After so many bytes of the answer's body no more come.
    StallBody(usize),
}

impl Fault {
    /// What a store says that is asked too often.
    pub(crate) const SLOW_DOWN: Self = Self::Refuse(503, "SlowDown");
    /// What AWS says to a conditional write that met another one under way.
    pub(crate) const CONFLICT: Self = Self::Refuse(409, "ConditionalRequestConflict");
    /// What a store says to a conditional write that came too late.
    pub(crate) const PRECONDITION: Self = Self::Refuse(412, "PreconditionFailed");
    /// What a policy says that does not allow this.
    pub(crate) const DENIED: Self = Self::Refuse(403, "AccessDenied");
}

/// Which requests a fault is for: the next one of these operations, unless said otherwise.
#[must_use]
pub(crate) struct When<'a> {
    rules: &'a super::State,
    rule: Rule,
}

impl<'a> When<'a> {
    pub(super) fn new(rules: &'a super::State, operations: impl IntoIterator<Item = Operation>) -> Self {
        let rule = Rule {
            operations: operations.into_iter().collect(),
            prefix: String::new(),
            matches: None,
            skip: 0,
            times: 1,
            onwards: false,
            struck: false,
            until: None,
            chance: None,
            fault: Fault::Stall,
        };
        Self { rules, rule }
    }

    /// Only those whose key (of a listing: whose prefix) begins so.
    pub(crate) fn under(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.rule.prefix);
        self
    }

    /// Only those whose key (of a listing: whose prefix) is such a one.
    pub(crate) fn matching(mut self, matches: impl Fn(&str) -> bool + Send + 'static) -> Self {
        self.rule.matches = Some(Box::new(matches));
        self
    }

    /// Not the first so many.
    pub(crate) fn after(mut self, skip: usize) -> Self {
        self.rule.skip = skip;
        self
    }

    /// So many, not one.
    pub(crate) fn times(mut self, times: usize) -> Self {
        self.rule.times = times;
        self
    }

    /// All from now on.
    pub(crate) fn always(self) -> Self {
        self.times(usize::MAX)
    }

    /// And everything else that comes after it.
    pub(crate) fn onwards(mut self) -> Self {
        self.rule.onwards = true;
        self
    }

    /// All of the next while.
    pub(crate) fn during(mut self, period: Duration) -> Self {
        self.rule.until = Some(Instant::now() + period);
        self.always()
    }

    /// All with this probability, the same ones each run if they come in the same order.
    pub(crate) fn with_chance(mut self, probability: f64, seed: u64) -> Self {
        self.rule.chance = Some((probability, SmallRng::seed_from_u64(seed)));
        self.always()
    }

    /// Sets the rule.
    pub(crate) fn then(mut self, fault: Fault) {
        self.rule.fault = fault;
        self.rules.lock().rules.push(self.rule);
    }

    /// They wait before they do their work until the test lets them go.
    pub(crate) fn hold(self) -> Gate {
        let turnstile = Turnstile::default();
        self.then(Fault::Hold(turnstile.clone()));
        Gate(turnstile)
    }

    /// They do their work, and their answers wait until the test lets them go.
    pub(crate) fn hold_reply(self) -> Gate {
        let turnstile = Turnstile::default();
        self.then(Fault::HoldReply(turnstile.clone()));
        Gate(turnstile)
    }
}

type Matches = Box<dyn Fn(&str) -> bool + Send>;

pub(super) struct Rule {
    operations: Vec<Operation>,
    prefix: String,
    matches: Option<Matches>,
    skip: usize,
    times: usize,
    onwards: bool,
    struck: bool,
    until: Option<Instant>,
    chance: Option<(f64, SmallRng)>,
    fault: Fault,
}

impl Rule {
    /// Whether it has not met all the requests that it is for.
    pub(super) fn is_pending(&self) -> bool {
        self.times > 0
    }

    /// The fault, if it is this request's turn.
    pub(super) fn strike(&mut self, operation: Operation, keys: &[String]) -> Option<Fault> {
        if self.onwards && self.struck {
            return Some(self.fault.clone());
        }
        let meant = self.operations.contains(&operation)
            && keys.iter().any(|key| key.starts_with(&self.prefix))
            && self.matches.as_ref().is_none_or(|matches| keys.iter().any(|key| matches(key)))
            && self.until.is_none_or(|until| Instant::now() < until)
            && self.chance.as_mut().is_none_or(|(probability, random)| random.random_bool(*probability));
        if !meant || self.times == 0 {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times -= 1;
        self.struck = true;
        Some(self.fault.clone())
    }
}

/// Where requests wait for the test; dropped, it lets everything through.
pub(crate) struct Gate(Turnstile);

impl Gate {
    /// Waits until one more request stands before the gate.
    pub(crate) async fn arrived(&self) {
        self.0.0.arrivals.acquire().await.unwrap().forget();
    }

    /// Lets one request through.
    pub(crate) fn release(&self) {
        self.0.0.passes.add_permits(1);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.0.passes.close();
    }
}

/// The gate as the requests see it.
#[derive(Clone)]
pub(crate) struct Turnstile(Arc<Semaphores>);

struct Semaphores {
    arrivals: Semaphore,
    passes: Semaphore,
}

impl Turnstile {
    pub(super) async fn pass(&self) {
        self.0.arrivals.add_permits(1);
        // An error is an open gate.
        if let Ok(pass) = self.0.passes.acquire().await {
            pass.forget();
        }
    }
}

impl Default for Turnstile {
    fn default() -> Self {
        Self(Arc::new(Semaphores { arrivals: Semaphore::new(0), passes: Semaphore::new(0) }))
    }
}

impl fmt::Debug for Turnstile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turnstile")
    }
}
