//! Every request that the server makes of its store, and everything that can go wrong with it.
//!
//! Each flow (an upload, a publish, a sweep, …) runs once without a fault, and every request it makes is written down:
//! its operation, what kind of key it is about, the how many-eth of these it is. Then the flow runs afresh for each of
//! these requests and each [`Trouble`]: exactly that, at exactly that request. Whatever comes of it, this must hold:
//!
//! - It ends, within minutes of the store's time.
//! - Acknowledged, it is done: whole, with the right digest, on the replica that did it and on one that remembers
//!   nothing, and still so once a request that was late has landed.
//! - Refused, it is 503 (with `Retry-After`) or 409, and what is there is what was there before or what would have been
//!   after: nothing half. (The digest of bytes whose marker was not written is found by the hasher.)
//! - Sent again, it succeeds or is told that it is done already, within a few tries; a removal in doubt may keep its
//!   name for five minutes.
//! - A day and a sweep later nothing is left over: no intent, no marker of what is gone, no bytes that nothing names, no
//!   unfinished upload but one whose number never arrived.
//!
//! By default a part of the cases runs, spread so that every request is met; all of them with 16 rounds, and on both
//! engines with 32. `RELEASE_SERVER_TEST_FLOW` names some of the flows.
//!
//! ```console
//! $ RELEASE_SERVER_TEST_ROUNDS=32 RELEASE_SERVER_TEST_FLOW=publish cargo test --test s3 matrix -- --nocapture
//! ```

mod flows;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    pin::pin,
    sync::Mutex,
    thread,
    time::Duration,
};

use bytes::Bytes;
use chrono::TimeDelta;
use release_server::{hasher, packages::Packages, releases::Releases, storage::Storage, sweep};
use tokio::time::{sleep, timeout};

use crate::{
    contract::UPLOAD_MEMORY,
    evidence::Evidence,
    fake::{BUCKET, Engine, Fake, Fault, Gate, Object, Operation, Options},
    quick,
    replica::{Answer, Ask, Replica},
    view::View,
};
use flows::{FLOWS, Flow, Nature, Scene};

/// Of how many parts of the matrix one runs by default.
const PARTS: usize = 16;

/// How long a flow may take, on the clock of the store.
const FOREVER: Duration = Duration::from_mins(15);

/// How often what was refused is sent again.
const TRIES: usize = 8;

/// After how many of these so much time has passed that a removal in doubt is none any more.
const LATER: usize = 3;

/// What another has put there.
const RIVAL: &[u8] = b"a rival's bytes";
const RIVALS: &str = "a/prefix/app-1.0.0.zip";

/// What a flow does.
#[derive(Debug, Clone)]
enum Act {
    /// A client asks; a repeat of what is done already may get this status.
    Ask(Ask, Option<u16>),
    Sweep,
    Hash,
    Start,
}

/// What came of it.
#[derive(Debug)]
enum End {
    Answer(Answer),
    /// Nobody was promised anything; whether it went well.
    Silent(bool),
}

/// Names all of them once: as an enum, as a list, and for use without its name.
macro_rules! troubles {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What goes wrong with a request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        enum Trouble {
            $($(#[$doc])* $name,)*
        }

        use Trouble::{$($name),*};

        const TROUBLES: &[Trouble] = &[$($name),*];
    };
}

troubles! {
    /// The connection breaks before it is read.
    Dropped,
    /// The store is down when it comes, and back a second later.
    Refused,
    /// It does nothing, and no answer comes.
    Swallowed,
    /// Its connection breaks in the middle of its body.
    CutRequest,
    /// It does its work long after its sender gave up, but before that one sends it again …
    LateBeforeRepeat,
    /// … or after.
    LateAfterRepeat,
    /// It does its work, and no answer comes.
    Withheld,
    /// It does its work, and the connection breaks.
    ReplyLost,
    /// It does its work, and the answer says that it did not.
    FailedAfter,
    BusyAfter,
    /// The connection breaks in the middle of the answer.
    CutReply,
    /// The answer stops in the middle.
    StalledReply,
    /// It does nothing, and the answer is
    Error500,
    Busy503,
    Conflict409,
    Refused412,
    /// … 200, with an error inside.
    Inside200,
    /// It does nothing, nor does any after it until the flow ends.
    Outage,
    /// Another writes the very same name a moment before.
    Rival,
}

impl Trouble {
    /// Whether it can befall a request like this.
    fn befalls(self, request: Request, flow: &Flow) -> bool {
        use Operation::{Complete, CreateUpload, Get, List, Put, PutPart};
        match self {
            CutRequest => matches!(request.operation, Put | PutPart | Complete),
            CutReply | StalledReply => matches!(request.operation, Get | List | CreateUpload | Complete),
            Inside200 => request.operation == Complete,
            // What nobody else may have written.
            Rival => {
                matches!(request.operation, Put | Complete)
                    && request.class == "package"
                    && (flow.nature == Nature::Creates)
            }
            _ => true,
        }
    }
}

/// A request of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    operation: Operation,
    class: &'static str,
    /// How many of these were before.
    before: usize,
}

/// What a key is, or what lies below a listing's prefix.
fn class(key: &str) -> &'static str {
    let key = key.strip_prefix("a/prefix").unwrap_or(key).trim_matches('/');
    let parts: Vec<&str> = key.split('/').collect();
    match parts[..] {
        [""] => "root",
        [".release-server", "packages", ..] => "marker",
        [".release-server", "removing", ..] => "intent",
        [".release-server", "probe", ..] => "probe",
        [".release-server", ..] => "control",
        ["repos", _, _, "releases", ..] => "record",
        ["repos", _, _, "tags", ..] => "pointer",
        ["repos", _, _, "files", ..] => "bytes",
        ["repos", ..] => "folder",
        _ => "package",
    }
}

fn recorded(requests: &[(Operation, String)]) -> Vec<Request> {
    let mut seen: BTreeMap<(Operation, &'static str), usize> = BTreeMap::new();
    let number = |(operation, key): &(Operation, String)| {
        let (operation, class) = (*operation, class(key));
        let count = seen.entry((operation, class)).or_default();
        *count += 1;
        Request { operation, class, before: *count - 1 }
    };
    requests.iter().map(number).collect()
}

/// What a flow is without a fault.
struct Script {
    act: Act,
    contents: BTreeMap<String, Object>,
    requests: Vec<Request>,
    before: View,
    after: View,
    /// How many keys of each class there are a day and a sweep later.
    left: BTreeMap<&'static str, usize>,
    status: Option<u16>,
    body: Bytes,
}

/// What can be wrong with a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Lost,
    Wrong,
    Hung,
}

/// What came of the cases of a flow.
#[derive(Debug, Default)]
struct Figures {
    cases: usize,
    acknowledged: usize,
    /// By status; 0 is a body that broke off.
    refused: BTreeMap<u16, usize>,
    silent: usize,
    /// The most times that it was sent again.
    repeats: usize,
    problems: Vec<(Kind, String)>,
}

impl Figures {
    fn add(&mut self, other: Self) {
        self.cases += other.cases;
        self.acknowledged += other.acknowledged;
        for (status, count) in other.refused {
            *self.refused.entry(status).or_default() += count;
        }
        self.silent += other.silent;
        self.repeats = self.repeats.max(other.repeats);
        self.problems.extend(other.problems);
    }
}

/// A store and its replicas.
struct Lane {
    fake: Fake,
    storage: Storage,
    /// As another replica has it.
    other: Storage,
    variables: Vec<(String, String)>,
}

impl Lane {
    async fn start(engine: Engine) -> Self {
        let fake = Fake::with(Options { engine, ..Options::default() }).await;
        let variables = fake.variables().map(|(name, value)| (name.to_owned(), value));
        // Loading them takes a while, and there is no TLS.
        let no_certificates = ("AWS_DISABLE_SYSTEM_CERTIFICATES".to_owned(), "true".to_owned());
        let variables: Vec<_> = variables.into_iter().chain([no_certificates]).collect();
        let open = || Storage::bucket(BUCKET, "a/prefix", variables.clone(), None, UPLOAD_MEMORY, false);
        let (storage, other) = (open().await.unwrap(), open().await.unwrap());
        Self { fake, storage, other, variables }
    }

    /// A replica that remembers nothing.
    fn fresh(&self, flow: &Flow) -> (Packages, Releases) {
        let config = flow.config();
        (Packages::new(self.other.clone(), &config), Releases::new(self.other.clone(), &config))
    }

    async fn view(&self, flow: &Flow) -> View {
        let (packages, releases) = self.fresh(flow);
        let mut view = View::of(&packages, &releases).await;
        // What retention hides is there until it is swept.
        if flow.nature == Nature::Sweeps {
            view.packages
                .extend(self.fake.keys("a/prefix/").into_iter().filter(|key| class(key) == "package"));
        }
        view
    }

    /// Lets what goes on behind an answer come to its end.
    async fn settle(&self) {
        for _ in 0..100 {
            sleep(Duration::from_secs(2)).await;
            if self.fake.under_way() == 0 {
                return;
            }
        }
    }

    /// Plays a flow once without a fault.
    async fn script(&self, flow: &Flow) -> Script {
        let layout = self.fake.contents().into_iter().filter(|(key, _)| key.ends_with("/layout-1"));
        self.fake.restore(&layout.collect());
        self.other.set_swept().await.unwrap();
        let (packages, releases) = self.fresh(flow);
        let act = (flow.prepare)(Scene { fake: &self.fake, packages, releases }).await;
        self.settle().await;
        let contents = self.fake.contents();
        let before = self.view(flow).await;
        let victim = Replica::new(&self.storage, flow.settings);
        self.fake.forget_requests();
        let end = perform(act.clone(), victim, self.variables.clone()).await;
        self.settle().await;
        let requests = recorded(&self.fake.requests());
        let after = self.view(flow).await;
        let (status, body) = match end {
            End::Answer(answer) => {
                assert!((200..300).contains(&answer.status) && answer.whole, "{}: {answer:?}", flow.name);
                (Some(answer.status), answer.body)
            }
            End::Silent(well) => {
                assert!(well, "{}", flow.name);
                (None, Bytes::new())
            }
        };
        self.a_day_later(flow).await;
        assert_eq!(self.view(flow).await, after, "{}", flow.name);
        Script { act, contents, requests, before, after, left: self.left(), status, body }
    }

    /// How many keys there are of each class.
    fn left(&self) -> BTreeMap<&'static str, usize> {
        let mut left = BTreeMap::new();
        let mut described = BTreeSet::new();
        for key in self.fake.keys("a/prefix/") {
            let class = class(&key);
            // Several markers of the same bytes are as good as one.
            let version =
                key.rsplit_once('/').map_or("", |(_, file)| file).split('.').take(2).collect::<String>();
            if class != "marker" || described.insert(version) {
                *left.entry(class).or_default() += 1;
            }
        }
        left
    }

    /// A day passes, and the sweep comes.
    async fn a_day_later(&self, flow: &Flow) {
        self.minutes_later();
        for key in self.fake.keys("a/prefix/repos/") {
            match class(&key) {
                "bytes" => self.fake.age(&key, TimeDelta::hours(25)),
                "record" => age_record(&self.fake, &key),
                _ => {}
            }
        }
        let (packages, releases) = self.fresh(flow);
        let _ = sweep::both(&packages, &releases).await;
    }

    /// Removals in doubt are over.
    fn minutes_later(&self) {
        for key in self.fake.keys("a/prefix/.release-server/removing/") {
            self.fake.age(&key, TimeDelta::minutes(6));
        }
    }

    /// Finds the digest of what has none.
    async fn hash(&self, flow: &Flow) {
        for key in self.fake.keys("a/prefix/").iter().filter(|key| class(key) == "package") {
            self.fake.age(key, TimeDelta::seconds(3));
        }
        let (packages, releases) = self.fresh(flow);
        let hashing = tokio::spawn(hasher::run(packages.clone()));
        for _ in 0..20 {
            sleep(Duration::from_secs(1)).await;
            if !View::of(&packages, &releases).await.is_unhashed() {
                break;
            }
        }
        hashing.abort();
    }

    /// Plays a flow with one fault, and judges what comes of it.
    async fn play(&mut self, flow: &Flow, script: &Script, request: Request, trouble: Trouble) -> Figures {
        let case = format!("{}: {trouble:?} at {request:?}", flow.name);
        let mut figures = Figures { cases: 1, ..Figures::default() };
        self.fake.restore(&script.contents);
        let victim = Replica::new(&self.storage, flow.settings);
        let gate = set(&self.fake, request, trouble);
        let Some(end) = self.attempt(&script.act, &victim, gate.as_ref(), trouble).await else {
            figures.problems.push((Kind::Hung, case));
            self.fake.behave();
            return figures;
        };
        let mut wrong = |kind, what: String| figures.problems.push((kind, format!("{case}: {what}")));
        // Some of it goes on behind the answer.
        sleep(Duration::from_secs(5)).await;
        if self.fake.has_pending_faults() {
            wrong(Kind::Wrong, "the request was not made".into());
        }
        self.fake.behave();
        // Those that are held do not come to their end before they are let go.
        let mut late = gate;
        if trouble != LateAfterRepeat {
            late = None;
            self.settle().await;
        }
        let acknowledged = match &end {
            End::Answer(answer) => Self::judge(flow, script, answer, trouble, &mut wrong),
            End::Silent(_) => false,
        };
        if acknowledged {
            let own = View::of(&victim.packages, &victim.releases).await;
            let fresh = self.view(flow).await;
            if fresh != script.after || own.releases != script.after.releases {
                let view = format!(
                    "acknowledged, and there are {fresh:#?} and {own:#?} instead of {:#?}",
                    script.after
                );
                wrong(Kind::Lost, view);
            }
        } else if trouble == Rival {
            let rival = self.view(flow).await;
            let digest = release_server::digest::Digest::of(RIVAL).to_string();
            self.hash(flow).await;
            if !self.view(flow).await.packages.iter().any(|line| line.ends_with(&digest)) {
                wrong(Kind::Lost, format!("the rival's bytes are gone: {rival:#?}"));
            }
        } else {
            let mut view = self.view(flow).await;
            if view.is_unhashed() && view != script.before {
                self.hash(flow).await;
                view = self.view(flow).await;
            }
            if view != script.before && view != script.after && !flow.is_alike(&view, &script.after) {
                wrong(Kind::Wrong, format!("it is half done: {view:#?}"));
            }
        }
        let repeats = if acknowledged || trouble == Rival {
            0
        } else {
            self.repeat(flow, script, &victim, &mut late, &mut wrong).await
        };
        if late.take().is_some() {
            self.settle().await;
        }
        if trouble != Rival {
            let mut view = self.view(flow).await;
            if view.is_unhashed() {
                self.hash(flow).await;
                view = self.view(flow).await;
            }
            if !flow.is_alike(&view, &script.after) {
                wrong(Kind::Lost, format!("in the end there are {view:#?} instead of {:#?}", script.after));
            }
            self.a_day_later(flow).await;
            self.check_left(flow, script, request, trouble, &mut wrong);
        }
        figures.repeats = repeats;
        match end {
            End::Answer(_) if acknowledged => figures.acknowledged += 1,
            End::Answer(answer) => {
                *figures.refused.entry(if answer.whole { answer.status } else { 0 }).or_default() += 1;
            }
            End::Silent(_) => figures.silent += 1,
        }
        figures
    }

    /// What comes of the flow, if it ends.
    async fn attempt(
        &mut self,
        act: &Act,
        victim: &Replica,
        gate: Option<&Gate>,
        trouble: Trouble,
    ) -> Option<End> {
        let mut acting = pin!(perform(act.clone(), victim.clone(), self.variables.clone()));
        let (fake, begun) = (&mut self.fake, Cell::new(false));
        let mut meddling = pin!(async {
            match (gate, trouble) {
                (Some(gate), Refused) => {
                    gate.arrived().await;
                    begun.set(true);
                    fake.stop().await;
                    sleep(Duration::from_secs(1)).await;
                    fake.start_again().await;
                }
                (Some(gate), Rival) => {
                    gate.arrived().await;
                    fake.put(RIVALS, RIVAL);
                    gate.release();
                }
                _ => {}
            }
        });
        let both = async {
            tokio::select! {
                biased;
                end = &mut acting => {
                    // The store is to come back also if nobody waits for it.
                    if begun.get() {
                        meddling.await;
                    }
                    end
                }
                () = &mut meddling => acting.await,
            }
        };
        timeout(FOREVER, both).await.ok()
    }

    /// Whether it was acknowledged; and whether it was answered as it should be.
    fn judge(
        flow: &Flow,
        script: &Script,
        answer: &Answer,
        trouble: Trouble,
        wrong: &mut impl FnMut(Kind, String),
    ) -> bool {
        let Answer { status, headers, body, whole } = answer;
        if Some(*status) == script.status && *whole {
            if trouble == Rival {
                wrong(Kind::Wrong, "it was told that it won over another".into());
            }
            if (flow.nature == Nature::Reads) && *body != script.body {
                wrong(Kind::Wrong, format!("it is told {body:?} instead of {:?}", script.body));
            }
            return true;
        }
        let right = match *status {
            _ if !whole => (flow.nature == Nature::Reads) && script.body.starts_with(body),
            503 => trouble != Rival && headers.get("retry-after").is_some_and(|after| after == "1"),
            409 => matches!(trouble, Conflict409 | Refused412 | Rival),
            _ => false,
        };
        if !right {
            wrong(Kind::Wrong, format!("refused with {status} {headers:?} {body:?}"));
        }
        false
    }

    /// Sends it again until it is done; how often that was.
    async fn repeat(
        &self,
        flow: &Flow,
        script: &Script,
        victim: &Replica,
        late: &mut Option<Gate>,
        wrong: &mut impl FnMut(Kind, String),
    ) -> usize {
        let mut last = None;
        for again in 1..=TRIES {
            if again > LATER {
                // Whatever was under way has landed by now.
                if late.take().is_some() {
                    self.settle().await;
                }
                self.minutes_later();
            }
            sleep(Duration::from_secs(1)).await;
            let acting = perform(script.act.clone(), victim.clone(), self.variables.clone());
            let Ok(end) = timeout(FOREVER, acting).await else {
                wrong(Kind::Hung, "sent again".into());
                return again;
            };
            self.settle_briefly().await;
            let done = match (&end, &script.act) {
                (End::Answer(answer), Act::Ask(_, already)) => {
                    answer.whole && (Some(answer.status) == script.status || Some(answer.status) == *already)
                }
                (End::Silent(well), _) => *well && flow.is_alike(&self.view(flow).await, &script.after),
                _ => false,
            };
            if done {
                return again;
            }
            last = Some(end);
        }
        wrong(Kind::Wrong, format!("sent again {TRIES} times it is still refused: {last:?}"));
        TRIES
    }

    /// Lets what goes on behind an answer begin.
    async fn settle_briefly(&self) {
        sleep(Duration::from_millis(200)).await;
    }

    /// Nothing is left over.
    fn check_left(
        &self,
        flow: &Flow,
        script: &Script,
        request: Request,
        trouble: Trouble,
        wrong: &mut impl FnMut(Kind, String),
    ) {
        let of_interest = |class: &&str| {
            // Locks on tags stay, what a starting server tried is in nobody's way, and who asks twice gets two drafts.
            let doubled = flow.nature == Nature::Doubles && *class == "record";
            !doubled && !matches!(*class, "pointer" | "probe" | "control")
        };
        let left = self.left();
        let classes: BTreeSet<_> = left.keys().chain(script.left.keys()).collect();
        for class in classes.into_iter().filter(|class| of_interest(class)) {
            if left.get(class) != script.left.get(class) {
                let keys: Vec<_> = self
                    .fake
                    .keys("a/prefix/")
                    .into_iter()
                    .filter(|key| crate::matrix::class(key) == *class)
                    .collect();
                wrong(Kind::Wrong, format!("left over: {keys:?}"));
            }
        }
        // What nobody was told the number of cannot be aborted, nor anything while the store is away or refuses it.
        let may_stay =
            matches!(request.operation, Operation::CreateUpload | Operation::Abort) || trouble == Outage;
        let unfinished = self.fake.unfinished_uploads();
        if !unfinished.is_empty() && !may_stay {
            wrong(Kind::Wrong, format!("unfinished after {trouble:?}: {unfinished:?}"));
        }
    }
}

/// Does what a flow does, on the store that these variables name.
async fn perform(act: Act, victim: Replica, variables: Vec<(String, String)>) -> End {
    match act {
        Act::Ask(ask, _) => End::Answer(victim.ask(&ask).await),
        Act::Sweep => {
            let swept = sweep::both(&victim.packages, &victim.releases).await;
            End::Silent(swept.is_ok_and(|(packages, releases)| packages.failed + releases.failed == 0))
        }
        Act::Hash => {
            let hashing = tokio::spawn(hasher::run(victim.packages.clone()));
            sleep(Duration::from_mins(1)).await;
            hashing.abort();
            End::Silent(true)
        }
        Act::Start => {
            let started = Storage::bucket(BUCKET, "a/prefix", variables, None, UPLOAD_MEMORY, false).await;
            End::Silent(started.is_ok())
        }
    }
}

/// Sees to it that exactly this goes wrong with exactly this request.
fn set(fake: &Fake, request: Request, trouble: Trouble) -> Option<Gate> {
    let Request { operation, class: wanted, before } = request;
    let when = || fake.when([operation]).matching(move |key| class(key) == wanted).after(before);
    let fault = match trouble {
        Refused | LateBeforeRepeat | LateAfterRepeat | Rival => return Some(when().hold()),
        Withheld => return Some(when().hold_reply()),
        Outage => {
            when().onwards().then(Fault::Drop);
            return None;
        }
        Dropped => Fault::Drop,
        Swallowed => Fault::Stall,
        CutRequest => Fault::CutUpload(1),
        ReplyLost => Fault::LoseReply,
        FailedAfter => Fault::FailAfterwards(500, "InternalError"),
        BusyAfter => Fault::FailAfterwards(503, "SlowDown"),
        CutReply => Fault::CutBody(10),
        StalledReply => Fault::StallBody(10),
        Error500 => Fault::Refuse(500, "InternalError"),
        Busy503 => Fault::SLOW_DOWN,
        Conflict409 => Fault::CONFLICT,
        Refused412 => Fault::PRECONDITION,
        Inside200 => Fault::ErrorInside200("InternalError"),
    };
    when().then(fault);
    None
}

/// Makes a release's record look as if nobody had touched it for a day.
fn age_record(fake: &Fake, key: &str) {
    let Some(object) = fake.object(key) else { return };
    let mut record: serde_json::Value = serde_json::from_slice(&object.body).unwrap();
    let updated: chrono::DateTime<chrono::Utc> = record["updated_at"].as_str().unwrap().parse().unwrap();
    record["updated_at"] = (updated - TimeDelta::hours(25)).to_rfc3339().into();
    fake.put(key, record.to_string());
}

/// A flow, and so many parts of its cases.
type Job = (&'static Flow, usize);

/// What came of one: its flow, the number of requests that makes, and its cases.
type Done = (&'static str, usize, Figures);

/// Plays one job after the other.
fn work(engine: Engine, left: &Mutex<VecDeque<Job>>) -> Vec<Done> {
    quick::run(async {
        let mut lane = Lane::start(engine).await;
        let mut done = Vec::new();
        loop {
            let next = left.lock().unwrap().pop_front();
            let Some((flow, parts)) = next else { return done };
            let script = lane.script(flow).await;
            let mut figures = Figures::default();
            for (place, &request) in script.requests.iter().enumerate() {
                let troubles = TROUBLES.iter().copied().filter(|trouble| trouble.befalls(request, flow));
                for (index, trouble) in troubles.enumerate() {
                    // Along a diagonal, so that neighbours have other troubles.
                    if (number(flow) + place * 5 + index) % PARTS < parts {
                        figures.add(lane.play(flow, &script, request, trouble).await);
                    }
                }
            }
            done.push((flow.name, script.requests.len(), figures));
        }
    })
}

fn number(flow: &Flow) -> usize {
    FLOWS.iter().position(|other| other.name == flow.name).unwrap()
}

/// What is to be done on each engine: every other flow on this one, the others on that; then the other way round.
fn jobs(rounds: usize, only: &str) -> [(Engine, Mutex<VecDeque<Job>>); 2] {
    [(Engine::MinIO, 0), (Engine::Aws, 1)].map(|(engine, turn)| {
        let parts = |flow: &Flow| {
            let first = number(flow) % 2 == turn;
            if first { rounds.min(PARTS) } else { rounds.saturating_sub(PARTS).min(PARTS) }
        };
        let flows = FLOWS.iter().filter(|flow| flow.name.contains(only));
        let jobs = flows.map(|flow| (flow, parts(flow))).filter(|(_, parts)| *parts > 0);
        (engine, Mutex::new(jobs.collect()))
    })
}

#[test]
fn whatever_goes_wrong_with_a_request_nothing_is_lost_or_stuck() {
    let rounds: usize =
        std::env::var("RELEASE_SERVER_TEST_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let only = std::env::var("RELEASE_SERVER_TEST_FLOW").unwrap_or_default();
    let jobs = jobs(rounds, &only);
    // Much of the time a lane waits for nothing to happen.
    let lanes = thread::available_parallelism().map_or(2, usize::from).min(4);
    let mut done: Vec<Done> = thread::scope(|scope| {
        let engines = jobs.iter().flat_map(|(engine, left)| (0..lanes).map(move |_| (*engine, left)));
        let lanes: Vec<_> = engines.map(|(engine, left)| scope.spawn(move || work(engine, left))).collect();
        lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect()
    });
    done.sort_by_key(|(name, ..)| FLOWS.iter().position(|flow| flow.name == *name));

    let mut table = String::new();
    let mut all = Figures::default();
    let mut requests = 0;
    for (name, made, figures) in done {
        let Figures { cases, acknowledged, refused, silent, repeats, problems } = &figures;
        writeln!(
            table,
            "{name:40} {made:3} requests {cases:4} cases: {acknowledged} acknowledged, refused {refused:?}, {silent} silent, \
             at most {repeats} repeats, {} wrong",
            problems.len()
        )
        .unwrap();
        requests += made;
        all.add(figures);
    }
    println!("{table}{requests} requests, {} cases", all.cases);
    for (kind, problem) in &all.problems {
        println!("{kind:?}: {problem}");
    }
    let count = |kind| all.problems.iter().filter(|(other, _)| *other == kind).count();
    let evidence = Evidence {
        attack: "a fault at every request that a flow makes of its store",
        on: "S3, simulated",
        cases: all.cases,
        of: "faults",
        lost: count(Kind::Lost),
        wrong: count(Kind::Wrong),
        hung: count(Kind::Hung),
    };
    evidence.record();
    assert!(all.problems.is_empty(), "{} of {} cases", all.problems.len(), all.cases);
    assert!(all.acknowledged > 0 && all.silent > 0 && !all.refused.is_empty(), "{all:?}");
}
