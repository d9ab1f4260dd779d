//! An S3 of the tests' own, in memory, on a loopback port: it does what a real one does, and fails on demand.
//!
//! - Conditional writes, completions and reads are atomic: one lock is held while a request does its work.
//! - A request that has arrived whole does its work even if its client has gone, as with a real store.
//! - Every request must be signed, in its header or in a presigned URL.
//! - It can be stopped, which breaks every connection, and started again on its port with its contents.
//!
//! ```ignore
//! let fake = Fake::start().await;
//! fake.when([Operation::Put]).under("app-").then(Fault::LoseReply);
//! let gate = fake.when([Operation::Delete]).hold();
//! gate.arrived().await; // a DELETE waits, not applied
//! gate.release();
//! assert_eq!(fake.most_at_once(Operation::List), 1);
//! ```

#![allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]

mod bucket;
mod faults;
mod signature;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use axum::{
    body::Body,
    http::{HeaderMap, Request, Response, StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use futures_util::stream;
use headers::HeaderMapExt as _;
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use object_store::{ClientOptions, aws::AmazonS3Builder};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use bucket::Object;
use bucket::{Bucket, Call, Context, Refusal, element, xml};
pub(crate) use faults::{Fault, Gate, Operation, When};

/// The bucket there is.
pub(crate) const BUCKET: &str = "releases";

/// How often in a second a slow body moves on.
const TICKS: u32 = 50;

/// Whose ways the store has, where they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// Any key; DELETE heeds `If-Match`; a multipart object is dated by its begin.
    Aws,
    /// Refuses strange keys; DELETE ignores `If-Match`; a multipart object is dated by its end; an object hides what
    /// lies below its name from listings; unfinished uploads are listed by their exact key alone after a restart.
    MinIO,
}

/// What kind of store it is.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) engine: Engine,
    /// How many keys a page of a listing has, at most.
    pub(crate) page: usize,
    /// What a part must have that is not the last, in bytes.
    pub(crate) smallest_part: usize,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    /// How far its clock is ahead.
    pub(crate) clock_ahead: TimeDelta,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            engine: Engine::MinIO,
            page: 1000,
            smallest_part: 5 * 1024 * 1024,
            access_key: "an-access-key".into(),
            secret_key: "a-secret-key".into(),
            clock_ahead: TimeDelta::zero(),
        }
    }
}

/// A running store; dropped, it stops.
pub(crate) struct Fake {
    /// Where it answers, without the bucket.
    pub(crate) url: String,
    address: SocketAddr,
    store: Arc<Store>,
    running: Option<Running>,
}

struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Fake {
    /// A `MinIO`, so to speak, with an empty bucket.
    pub(crate) async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// A store of another kind.
    pub(crate) async fn with(options: Options) -> Self {
        crate::logs::subscribe();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let contents =
            Contents { buckets: [(BUCKET.into(), Bucket::default())].into(), ..Contents::default() };
        let store = Arc::new(Store { options, state: State(Mutex::new(contents)) });
        let mut fake = Self { url: format!("http://{address}"), address, store, running: None };
        fake.run(listener);
        fake
    }

    /// Breaks every connection and listens no more; what has not done its work by now never will.
    pub(crate) async fn stop(&mut self) {
        if let Some(Running { stop, tasks }) = self.running.take() {
            stop.cancel();
            tasks.close();
            tasks.wait().await;
        }
    }

    /// Starts again on the same port, with all that was stored.
    pub(crate) async fn start_again(&mut self) {
        self.stop().await;
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.run(listener);
    }

    fn run(&mut self, listener: TcpListener) {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let server = Server { store: Arc::clone(&self.store), stop: stop.clone(), tasks: tasks.clone() };
        self.store.lock().runs += 1;
        server.spawn(server.clone().accept(listener));
        self.running = Some(Running { stop, tasks });
    }

    /// A rule for requests of these kinds: `fake.when([Operation::Put]).times(2).then(Fault::LoseReply)`.
    pub(crate) fn when(&self, operations: impl IntoIterator<Item = Operation>) -> When<'_> {
        When::new(&self.store.state, operations)
    }

    /// Nothing goes wrong from now on; requests that wait at a gate still do.
    pub(crate) fn behave(&self) {
        self.store.lock().rules.clear();
    }

    /// Whether something that was to go wrong has not yet.
    pub(crate) fn has_pending_faults(&self) -> bool {
        self.store.lock().rules.iter().any(faults::Rule::is_pending)
    }

    /// How many requests of this kind have arrived.
    pub(crate) fn count(&self, operation: Operation) -> usize {
        self.store.lock().requests.iter().filter(|(kind, _)| *kind == operation).count()
    }

    /// Every request that has arrived, with its key, or the prefix of what it lists.
    pub(crate) fn requests(&self) -> Vec<(Operation, String)> {
        self.store.lock().requests.clone()
    }

    /// Forgets the requests so far, and how many there were at once.
    pub(crate) fn forget_requests(&self) {
        let mut contents = self.store.lock();
        contents.requests.clear();
        contents.at_once.values_mut().for_each(|gauge| gauge.most = gauge.now);
    }

    /// How many requests are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.store.lock().at_once.values().map(|gauge| gauge.now).sum()
    }

    /// How many requests of this kind were under way at a time, at most.
    pub(crate) fn most_at_once(&self, operation: Operation) -> usize {
        self.store.lock().at_once.get(&operation).map_or(0, |gauge| gauge.most)
    }

    /// Puts an object there behind the server's back.
    pub(crate) fn put(&self, key: &str, body: impl Into<Bytes>) {
        let object = Object::new(body.into(), HeaderMap::new(), self.store.now());
        self.store.lock().bucket().objects.insert(key.into(), object);
    }

    /// Takes an object away behind the server's back.
    pub(crate) fn remove(&self, key: &str) -> Option<Object> {
        self.store.lock().bucket().objects.remove(key)
    }

    /// Makes an object so much older.
    pub(crate) fn age(&self, key: &str, by: TimeDelta) {
        let mut contents = self.store.lock();
        contents.bucket().objects.get_mut(key).expect("an object of this key").modified -= by;
    }

    /// All that is stored, to be put back later.
    pub(crate) fn contents(&self) -> BTreeMap<String, Object> {
        self.store.lock().bucket().objects.clone()
    }

    /// Puts back what was stored then; there are no unfinished uploads.
    pub(crate) fn restore(&self, contents: &BTreeMap<String, Object>) {
        self.store.lock().bucket().restore(contents.clone());
    }

    /// What is stored under a key.
    pub(crate) fn object(&self, key: &str) -> Option<Object> {
        self.store.lock().bucket().objects.get(key).cloned()
    }

    /// Every key that begins so, in order.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let mut contents = self.store.lock();
        contents.bucket().objects.keys().filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    /// The keys of the multipart uploads that were neither completed nor aborted.
    pub(crate) fn unfinished_uploads(&self) -> Vec<String> {
        self.store.lock().bucket().unfinished()
    }

    /// A client that may do everything.
    pub(crate) fn client(&self) -> AmazonS3Builder {
        AmazonS3Builder::new()
            .with_endpoint(&self.url)
            .with_client_options(plain_http())
            .with_region("us-east-1")
            .with_bucket_name(BUCKET)
            .with_access_key_id(&self.store.options.access_key)
            .with_secret_access_key(&self.store.options.secret_key)
    }

    /// The same for a process, but for the bucket's name.
    pub(crate) fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", self.url.clone()),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", self.store.options.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.store.options.secret_key.clone()),
        ]
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.stop.cancel();
        }
    }
}

struct Store {
    options: Options,
    state: State,
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.state.lock()
    }

    fn now(&self) -> DateTime<Utc> {
        (Utc::now() + self.options.clock_ahead).trunc_subsecs(3)
    }
}

pub(crate) struct State(Mutex<Contents>);

impl State {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap()
    }
}

#[derive(Default)]
struct Contents {
    buckets: BTreeMap<String, Bucket>,
    rules: Vec<faults::Rule>,
    requests: Vec<(Operation, String)>,
    at_once: HashMap<Operation, Gauge>,
    runs: u64,
}

impl Contents {
    fn bucket(&mut self) -> &mut Bucket {
        self.buckets.get_mut(BUCKET).unwrap()
    }
}

#[derive(Default)]
struct Gauge {
    now: usize,
    most: usize,
}

/// A client's options for this store; without certificates, whose loading takes a tenth of a second.
pub(crate) fn plain_http() -> ClientOptions {
    ClientOptions::new().with_allow_http(true).with_no_system_certificates(true)
}

/// Counts a request as under way.
struct UnderWay {
    store: Arc<Store>,
    operation: Operation,
}

impl UnderWay {
    fn new(store: &Arc<Store>, operation: Operation) -> Self {
        let mut contents = store.lock();
        let gauge = contents.at_once.entry(operation).or_default();
        gauge.now += 1;
        gauge.most = gauge.most.max(gauge.now);
        Self { store: Arc::clone(store), operation }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.store.lock().at_once.entry(self.operation).or_default().now -= 1;
    }
}

/// The connection breaks here.
#[derive(Debug, thiserror::Error)]
#[error("the connection breaks")]
struct Broken;

/// One run of the store.
#[derive(Clone)]
struct Server {
    store: Arc<Store>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    /// Runs until it ends or the server stops.
    fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<Option<T>> {
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(task))
    }

    async fn accept(self, listener: TcpListener) -> io::Result<()> {
        loop {
            let (stream, _) = listener.accept().await?;
            self.spawn(self.clone().converse(stream));
        }
    }

    async fn converse(self, stream: TcpStream) -> hyper::Result<()> {
        stream.set_nodelay(true).unwrap();
        let service = service_fn(|request| self.clone().serve(request));
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await
    }

    async fn serve(self, request: Request<Incoming>) -> Result<Response<Body>, Broken> {
        let (head, mut body) = request.into_parts();
        let Some(mut call) = Call::new(head) else {
            let refused = Response::builder().status(StatusCode::NOT_IMPLEMENTED);
            return Ok(refused
                .body(xml("Error", &element("Code", "NotImplemented")).into_body().into())
                .unwrap());
        };
        let under_way = UnderWay::new(&self.store, call.operation);
        if call.operation == Operation::DeleteMany {
            // Its keys are in its body.
            call.body = receive(&mut body, None).await?;
        }
        let faults = self.faults(&call);
        if faults.iter().any(|fault| matches!(fault, Fault::Stall)) {
            std::future::pending::<()>().await;
        }
        let pace = faults.iter().find_map(|fault| match fault {
            Fault::SlowUpload(pace) => Some(*pace),
            _ => None,
        });
        if let Some(bytes) = faults.iter().find_map(|fault| match fault {
            Fault::CutUpload(bytes) => Some(*bytes),
            _ => None,
        }) {
            while call.body.len() < bytes {
                let Some(Ok(frame)) = body.frame().await else { break };
                call.body = [call.body, frame.into_data().unwrap_or_default()].concat().into();
            }
            return Err(Broken);
        }
        if call.operation != Operation::DeleteMany {
            call.body = receive(&mut body, pace).await?;
        }
        // A task of its own: the work is done whether the client waits for it or not.
        let store = Arc::clone(&self.store);
        let answer = self.spawn(async move {
            let answer = store.answer(call, faults).await;
            drop(under_way);
            answer
        });
        let mut response = answer.await.ok().flatten().ok_or(Broken)??;
        response.headers_mut().typed_insert(headers::Date::from(SystemTime::from(self.store.now())));
        Ok(response)
    }

    /// Notes the request, and what is to go wrong with it.
    fn faults(&self, call: &Call) -> Vec<Fault> {
        let keys = call.keys();
        let mut contents = self.store.lock();
        contents.requests.extend(keys.iter().map(|key| (call.operation, key.clone())).take(1));
        contents.rules.iter_mut().filter_map(|rule| rule.strike(call.operation, &keys)).collect()
    }
}

impl Store {
    async fn answer(&self, mut call: Call, faults: Vec<Fault>) -> Result<Response<Body>, Broken> {
        if let Err(refusal) = signature::verify(&call, &self.options, self.now()) {
            return Ok(refusal.answer(&call).map(Body::from));
        }
        for fault in &faults {
            match fault {
                Fault::Delay(time) => sleep(*time).await,
                Fault::Hold(turnstile) => turnstile.pass().await,
                Fault::Drop => return Err(Broken),
                Fault::Refuse(status, code) => return Ok(refuse(*status, code, &call)),
                Fault::ErrorInside200(code) => return Ok(refuse(200, code, &call)),
                Fault::IgnoreConditions => {
                    call.headers.remove(header::IF_MATCH);
                    call.headers.remove(header::IF_NONE_MATCH);
                }
                _ => {}
            }
        }
        let response = self.apply(&call);
        for fault in &faults {
            match fault {
                Fault::HoldReply(turnstile) => turnstile.pass().await,
                Fault::LoseReply => return Err(Broken),
                Fault::WithholdReply => std::future::pending().await,
                Fault::FailAfterwards(status, code) => return Ok(refuse(*status, code, &call)),
                _ => {}
            }
        }
        Ok(response.map(|body| send(body, &faults)))
    }

    /// Does the request's work, at one moment.
    fn apply(&self, call: &Call) -> Response<Bytes> {
        let mut contents = self.lock();
        // Read under the lock: what is written later is dated later.
        let context = Context { options: &self.options, now: self.now(), run: contents.runs };
        let answer = match contents.buckets.get_mut(&call.bucket) {
            Some(bucket) => bucket.apply(call, context),
            None => Err(Refusal(StatusCode::NOT_FOUND, "NoSuchBucket")),
        };
        answer.unwrap_or_else(|refusal| refusal.answer(call))
    }
}

fn refuse(status: u16, code: &'static str, call: &Call) -> Response<Body> {
    Refusal(StatusCode::from_u16(status).unwrap(), code).answer(call).map(Body::from)
}

/// Reads a body, at so many bytes a second; an error if the client left in the middle.
async fn receive(body: &mut Incoming, pace: Option<u64>) -> Result<Bytes, Broken> {
    let mut received = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let data = frame.map_err(|_| Broken)?.into_data().unwrap_or_default();
        if let Some(pace) = pace {
            sleep(Duration::from_micros(data.len() as u64 * 1_000_000 / pace)).await;
        }
        received.extend_from_slice(&data);
    }
    Ok(received.freeze())
}

/// How a body ends.
#[derive(Clone, Copy)]
enum End {
    Whole,
    Broken,
    Silent,
}

/// The body of an answer, whole and at once unless a fault is in the way.
fn send(mut body: Bytes, faults: &[Fault]) -> Body {
    let (mut pace, mut end) = (None, End::Whole);
    for fault in faults {
        match fault {
            Fault::SlowBody(bytes) => pace = Some(*bytes),
            Fault::CutBody(bytes) => (body, end) = (body.slice(..body.len().min(*bytes)), End::Broken),
            Fault::StallBody(bytes) => (body, end) = (body.slice(..body.len().min(*bytes)), End::Silent),
            _ => {}
        }
    }
    if pace.is_none() && matches!(end, End::Whole) {
        return body.into();
    }
    let each: usize = pace.map_or(64 * 1024, |pace| pace.div_ceil(TICKS.into())).try_into().unwrap();
    Body::from_stream(stream::try_unfold(body, move |mut rest| async move {
        if pace.is_some() || rest.is_empty() {
            // What went before leaves the machine before the connection breaks.
            sleep(Duration::from_secs(1) / TICKS).await;
        }
        if !rest.is_empty() {
            let piece = rest.split_to(each.min(rest.len()));
            return Ok(Some((piece, rest)));
        }
        match end {
            End::Whole => Ok(None),
            End::Broken => Err(Broken),
            End::Silent => std::future::pending().await,
        }
    }))
}
