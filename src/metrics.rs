//! Metrics: everything that is counted, under which name, and how it is asked for.
//!
//! - Off, as by default, a call here is one look at a `None`.
//! - On, a request costs a few atomic additions and the lock of one histogram: every series is looked up once and then
//!   kept, see `metrics/http.rs`. The client of Prometheus' own project it is, and not the `metrics` facade, because that
//!   keeps every observation of a histogram until somebody drains it.
//! - Labels have few values, all known here: a route is its template, never a path or a package.
//! - What a module counts anyway (listings, the cache) it keeps itself, and reports when a scrape comes.
//!
//! Names follow [Prometheus' conventions](https://prometheus.io/docs/practices/naming/): base units, in the name;
//! `_total` for counters. `docs/operating.md` has them in a table, which the tests compare with [`Metrics::described`].

mod http;

use std::{
    fmt,
    future::Future,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Metric, Registry},
};
use tokio::time::Instant;

use crate::{auth::Denied, config::Config, error::Error, retention::Reason};

/// Upper bounds of a histogram's buckets, in seconds: from a cached answer to a large upload.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// What stands before every name.
const PREFIX: &str = "release_server";

/// The type of [`Metrics::render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where things are counted, if they are. A copy counts at the same place.
#[derive(Clone, Copy, Default)]
pub struct Metrics(Option<&'static Inner>);

/// A gauge of seconds.
type Seconds = Gauge<f64, AtomicU64>;

struct Inner {
    registry: Registry,
    described: Vec<Described>,
    http: http::Http,
    read_only: Gauge,
    connections: Gauge,
    connections_limit: Gauge,
    connections_accepted: Counter,
    handshakes: Counters<Handshake>,
    reloads: Counters<Reload>,
    uploads: Counters<Upload>,
    uploaded_bytes: Counter,
    operations: Vec<OperationMetrics>,
    listing_requests: Counter,
    listing_flights: Counter,
    listing_proofs: Counter,
    cache: Counters<CacheLookup>,
    cache_bytes: Gauge,
    cache_limit: Gauge,
    listed: Stock,
    hidden: Stock,
    without_digest: Gauge,
    sweeps: Counters<Pass>,
    sweep_success: Seconds,
    sweep_duration: Seconds,
    sweep_kept: Gauge,
    removed: Counters<Removal>,
    removed_bytes: Counter,
    removal_failures: Counter,
    auth_failures: Counters<AuthFailure>,
    jwks: Counters<Refresh>,
    jwks_success: Seconds,
}

/// Packages of one kind, and their bytes.
struct Stock {
    packages: Gauge,
    bytes: Gauge,
}

/// One kind of storage operation.
struct OperationMetrics {
    duration: Histogram,
    outcomes: Counters<OperationOutcome>,
}

/// What a metric is called and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// As a query names it; a histogram without `_bucket`, `_sum` and `_count`.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
}

/// A value of a label that has few.
trait Label: Copy + 'static {
    const KEY: &'static str;
    /// The same, as a list.
    const KEYS: &'static [&'static str] = &[Self::KEY];
    const ALL: &'static [Self];
    fn text(self) -> &'static str;
    /// The place in [`Self::ALL`].
    fn index(self) -> usize;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $key:literal: $($variant:ident = $text:literal),+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the text of the label says it")]
        pub enum $name { $($variant),+ }

        impl Label for $name {
            const KEY: &'static str = $key;
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label!(
    /// How a TLS handshake ended.
    Handshake, "outcome": Completed = "completed", Failed = "failed", TimedOut = "timed_out"
);
label!(
    /// What became of a changed certificate.
    Reload, "outcome": Used = "used", Refused = "refused"
);
label!(
    /// How an upload ended.
    Upload, "outcome":
    Created = "created", Replaced = "replaced", Conflict = "conflict", Rejected = "rejected",
    Interrupted = "interrupted", Failed = "failed"
);
label!(
    /// What the storage was asked to do. `Begin` to `Abort` are the steps of an upload in parts.
    Operation, "operation":
    List = "list", Head = "head", Get = "get", Put = "put", Begin = "begin", Part = "part", Complete = "complete",
    Abort = "abort", Delete = "delete"
);
label!(
    /// What the storage answered.
    OperationOutcome, "outcome": Ok = "ok", Missing = "missing", Conflict = "conflict", Failed = "failed"
);
label!(
    /// Whether a package was in the cache.
    CacheLookup, "outcome": Hit = "hit", Miss = "miss"
);
label!(
    /// How a sweep ended.
    Pass, "outcome": Ok = "ok", Failed = "failed"
);
label!(
    /// Which setting made the sweep remove a package.
    Removal, "reason":
    MaxPackages = "max_packages", VersionsPerFamily = "versions_per_family", MaxAge = "max_age"
);
label!(
    /// Why a caller was refused.
    AuthFailure, "reason":
    Missing = "missing", Invalid = "invalid", Forbidden = "forbidden", CrossSite = "cross_site",
    Unavailable = "unavailable"
);
label!(
    /// What came of reading the key set of the tokens' issuer.
    Refresh, "outcome": Ok = "ok", Empty = "empty", Failed = "failed"
);

impl From<&Denied> for AuthFailure {
    fn from(denied: &Denied) -> Self {
        match denied {
            Denied::Missing => Self::Missing,
            Denied::Invalid(_) => Self::Invalid,
            Denied::Forbidden(_) | Denied::Hidden => Self::Forbidden,
            Denied::Unavailable => Self::Unavailable,
        }
    }
}

impl From<&Error> for Upload {
    fn from(error: &Error) -> Self {
        match error {
            Error::AlreadyExists(_) | Error::Changed(_) => Self::Conflict,
            Error::Unavailable(_) | Error::Internal(_) => Self::Failed,
            Error::Invalid(_)
            | Error::Unprocessable(_)
            | Error::Breach(_)
            | Error::NotFound(_)
            | Error::TooLarge(_)
            | Error::DigestMismatch { .. }
            | Error::ReadOnly
            | Error::Denied(_) => Self::Rejected,
        }
    }
}

impl<T> From<&object_store::Result<T>> for OperationOutcome {
    fn from(result: &object_store::Result<T>) -> Self {
        use object_store::Error;
        match result {
            // What is known already was asked for by its ETag.
            Ok(_) | Err(Error::NotModified { .. }) => Self::Ok,
            Err(Error::NotFound { .. }) => Self::Missing,
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Self::Conflict,
            Err(_) => Self::Failed,
        }
    }
}

/// A counter for each value of a label, all of which exist from the start: so that the first event is an increase.
struct Counters<L> {
    by_index: Vec<Counter>,
    label: std::marker::PhantomData<L>,
}

impl<L: Label> Counters<L> {
    fn get(&self, label: L) -> &Counter {
        &self.by_index[label.index()]
    }
}

/// Makes metrics and gives them their names.
struct Book {
    registry: Registry,
    described: Vec<Described>,
}

impl Book {
    fn add(
        &mut self,
        name: &str,
        kind: &'static str,
        labels: &'static [&'static str],
        help: &str,
        metric: impl Metric,
    ) {
        let suffix = if kind == "counter" { "_total" } else { "" };
        self.described.push(Described { name: format!("{PREFIX}_{name}{suffix}"), kind, labels });
        self.registry.register(name, help, metric);
    }

    fn counter(&mut self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.add(name, "counter", &[], help, counter.clone());
        counter
    }

    fn counters<L: Label>(&mut self, name: &str, help: &str) -> Counters<L> {
        let family = Family::<[(&'static str, &'static str); 1], Counter>::default();
        let by_index =
            L::ALL.iter().map(|label| family.get_or_create_owned(&[(L::KEY, label.text())])).collect();
        self.add(name, "counter", L::KEYS, help, family);
        Counters { by_index, label: Default::default() }
    }

    fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.add(name, "gauge", &[], help, gauge.clone());
        gauge
    }

    fn seconds(&mut self, name: &str, help: &str) -> Seconds {
        let gauge = Seconds::default();
        self.add(name, "gauge", &[], help, gauge.clone());
        gauge
    }

    fn operations(&mut self) -> Vec<OperationMetrics> {
        let durations =
            Family::<[(&'static str, &'static str); 1], Histogram>::new_with_constructor(histogram);
        let counts = Family::<[(&'static str, &'static str); 2], Counter>::default();
        let labels = |operation: Operation, outcome: OperationOutcome| {
            [(Operation::KEY, operation.text()), (OperationOutcome::KEY, outcome.text())]
        };
        let operations = Operation::ALL
            .iter()
            .map(|&operation| OperationMetrics {
                duration: durations.get_or_create_owned(&[(Operation::KEY, operation.text())]),
                outcomes: Counters {
                    by_index: OperationOutcome::ALL
                        .iter()
                        .map(|&outcome| counts.get_or_create_owned(&labels(operation, outcome)))
                        .collect(),
                    label: Default::default(),
                },
            })
            .collect();
        let labels = &[Operation::KEY, OperationOutcome::KEY];
        self.add(
            "storage_operations",
            "counter",
            labels,
            "What the storage was asked to do, retries within",
            counts,
        );
        self.add(
            "storage_operation_duration_seconds",
            "histogram",
            Operation::KEYS,
            "How long that took; for a get, to its first byte",
            durations,
        );
        operations
    }

    /// Listed and hidden packages.
    fn stocks(&mut self) -> [Stock; 2] {
        let packages = Family::<[(&'static str, &'static str); 1], Gauge>::default();
        let bytes = Family::<[(&'static str, &'static str); 1], Gauge>::default();
        let stocks = ["listed", "hidden"].map(|state| Stock {
            packages: packages.get_or_create_owned(&[("state", state)]),
            bytes: bytes.get_or_create_owned(&[("state", state)]),
        });
        self.add(
            "packages",
            "gauge",
            &["state"],
            "Packages that the last listing saw; the sweep removes hidden ones",
            packages,
        );
        self.add("package_bytes", "gauge", &["state"], "Their sizes", bytes);
        stocks
    }
}

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

impl Inner {
    fn new() -> Self {
        let mut book = Book { registry: Registry::with_prefix(PREFIX), described: Vec::new() };
        let info = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        let name = format!("{PREFIX}_build_info");
        book.described.push(Described { name, kind: "gauge", labels: &["version"] });
        book.registry.register("build", "Which program this is", info);
        book.seconds("start_time_seconds", "When the server started, as a Unix time").set(unix_time());
        let read_only = book.gauge("read_only", "1 while nothing may be changed");
        let http = http::Http::new(&mut book);
        let connections = book.gauge("connections", "Open connections");
        let connections_limit = book.gauge("connections_limit", "How many there may be");
        let connections_accepted = book.counter("connections_accepted", "Connections that came in");
        let handshakes = book.counters("tls_handshakes", "TLS handshakes");
        let reloads = book.counters("tls_reloads", "Changed certificates");
        let uploads = book.counters("uploads", "Uploads");
        let uploaded_bytes = book.counter("uploaded_bytes", "Bytes of stored uploads");
        let operations = book.operations();
        let listing_requests = book.counter("listing_requests", "Requests for a listing of the store");
        let listing_flights =
            book.counter("listing_flights", "Looks at the store, each of which answers many of these");
        let listing_proofs = book.counter(
            "listing_proofs",
            "Looks at the store that were no listing: nobody had written since the last one",
        );
        let cache = book.counters("cache_requests", "Downloads of packages small enough for the cache");
        let cache_bytes = book.gauge("cache_bytes", "Bytes in the cache");
        let cache_limit = book.gauge("cache_limit_bytes", "How many there may be");
        let [listed, hidden] = book.stocks();
        let without_digest = book.gauge("packages_without_digest", "Packages that wait to be hashed");
        let sweeps = book.counters("sweeps", "Sweeps");
        let sweep_success = book.seconds(
            "sweep_last_success_timestamp_seconds",
            "When the last one succeeded, as a Unix time; 0: none since the start",
        );
        let sweep_duration = book.seconds("sweep_duration_seconds", "How long the last one took");
        let sweep_kept = book.gauge("sweep_kept_packages", "What the last one kept");
        let removed = book.counters("sweep_removed", "Packages that sweeps removed");
        let removed_bytes = book.counter("sweep_removed_bytes", "Their sizes");
        let removal_failures =
            book.counter("sweep_removal_failures", "Packages that sweeps could not remove");
        let auth_failures = book.counters("auth_failures", "Requests refused because of who sent them");
        let jwks = book.counters("jwks_refreshes", "Readings of the key set of the tokens' issuer");
        let jwks_success = book.seconds(
            "jwks_last_success_timestamp_seconds",
            "When it was last read, as a Unix time; 0: never",
        );
        Self {
            registry: book.registry,
            described: book.described,
            http,
            read_only,
            connections,
            connections_limit,
            connections_accepted,
            handshakes,
            reloads,
            uploads,
            uploaded_bytes,
            operations,
            listing_requests,
            listing_flights,
            listing_proofs,
            cache,
            cache_bytes,
            cache_limit,
            listed,
            hidden,
            without_digest,
            sweeps,
            sweep_success,
            sweep_duration,
            sweep_kept,
            removed,
            removed_bytes,
            removal_failures,
            auth_failures,
            jwks,
            jwks_success,
        }
    }
}

/// What the packages report when a scrape comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) listing_requests: u64,
    pub(crate) listing_flights: u64,
    pub(crate) listing_proofs: u64,
    pub(crate) cache_bytes: u64,
    pub(crate) listed: Amount,
    pub(crate) hidden: Amount,
    pub(crate) without_digest: usize,
}

/// So many packages with so many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) packages: usize,
    pub(crate) bytes: u64,
}

/// An open connection; closed when dropped.
#[derive(Debug)]
pub(crate) struct Open(Metrics);

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(inner) = self.0.0 {
            inner.connections.dec();
        }
    }
}

/// An upload under way: counted once, as interrupted if nobody told its end before this is dropped.
#[derive(Debug)]
pub(crate) struct Receipt(Metrics);

impl Receipt {
    pub(crate) fn end(&mut self, outcome: Upload, stored_bytes: u64) {
        if let Some(inner) = self.0.0.take() {
            inner.uploads.get(outcome).inc();
            inner.uploaded_bytes.inc_by(stored_bytes);
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.end(Upload::Interrupted, 0);
    }
}

impl Metrics {
    /// Counts from here on. To be called once a process: what it counts with stays for good.
    pub fn on() -> Self {
        Self(Some(Box::leak(Box::new(Inner::new()))))
    }

    /// Every metric there is, in the order they are shown; none while off.
    pub fn described(self) -> &'static [Described] {
        self.0.map_or(&[], |inner| &inner.described)
    }

    /// All of them as `OpenMetrics` text.
    pub fn render(self) -> String {
        let mut text = String::new();
        if let Some(inner) = self.0 {
            // Writing to a `String` cannot fail.
            let _ = encode(&mut text, &inner.registry);
        }
        text
    }

    /// Tells what does not change while the server runs.
    pub fn configured(self, config: &Config) {
        let Some(inner) = self.0 else { return };
        inner.read_only.set(config.read_only.into());
        inner.connections_limit.set(signed(config.server.max_connections));
        inner.http.limit.set(signed(config.server.max_requests));
        inner.cache_limit.set(signed(config.cache.total_bytes));
    }

    pub(crate) fn is_on(self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn connected(self) -> Open {
        if let Some(inner) = self.0 {
            inner.connections.inc();
            inner.connections_accepted.inc();
        }
        Open(self)
    }

    pub(crate) fn handshake(self, outcome: Handshake) {
        if let Some(inner) = self.0 {
            inner.handshakes.get(outcome).inc();
        }
    }

    pub(crate) fn reload(self, outcome: Reload) {
        if let Some(inner) = self.0 {
            inner.reloads.get(outcome).inc();
        }
    }

    pub(crate) fn receiving(self) -> Receipt {
        Receipt(self)
    }

    /// Runs an operation of the storage, and notes how it ended and how long that took.
    pub(crate) async fn operation<T>(
        self,
        operation: Operation,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        if self.0.is_none() {
            return work.await;
        }
        let began = Instant::now();
        let result = work.await;
        self.operated(operation, (&result).into(), began.elapsed());
        result
    }

    pub(crate) fn operated(self, operation: Operation, outcome: OperationOutcome, took: Duration) {
        if let Some(inner) = self.0 {
            let metrics = &inner.operations[operation.index()];
            metrics.outcomes.get(outcome).inc();
            metrics.duration.observe(took.as_secs_f64());
        }
    }

    pub(crate) fn cache(self, lookup: CacheLookup) {
        if let Some(inner) = self.0 {
            inner.cache.get(lookup).inc();
        }
    }

    pub(crate) fn sampled(self, sample: &Sample) {
        let Some(inner) = self.0 else { return };
        inner.listing_requests.inner().store(sample.listing_requests, Relaxed);
        inner.listing_flights.inner().store(sample.listing_flights, Relaxed);
        inner.listing_proofs.inner().store(sample.listing_proofs, Relaxed);
        inner.cache_bytes.set(signed(sample.cache_bytes));
        for (stock, amount) in [(&inner.listed, sample.listed), (&inner.hidden, sample.hidden)] {
            stock.packages.set(signed(amount.packages));
            stock.bytes.set(signed(amount.bytes));
        }
        inner.without_digest.set(signed(sample.without_digest));
    }

    /// A sweep has removed a package.
    pub(crate) fn removed(self, reason: &Reason, bytes: u64) {
        let Some(inner) = self.0 else { return };
        inner.removed_bytes.inc_by(bytes);
        let setting = match reason {
            Reason::Count { .. } => Removal::MaxPackages,
            Reason::Version { .. } => Removal::VersionsPerFamily,
            Reason::Age { .. } => Removal::MaxAge,
            // Reasons to keep.
            Reason::NotCounted | Reason::Newest | Reason::NewestVersion(_) | Reason::Within(_) => return,
        };
        inner.removed.get(setting).inc();
    }

    pub(crate) fn removal_failed(self) {
        if let Some(inner) = self.0 {
            inner.removal_failures.inc();
        }
    }

    /// A sweep has ended, after so long; and so many packages were kept, if it got that far.
    pub(crate) fn swept(self, outcome: Pass, took: Duration, kept: Option<usize>) {
        let Some(inner) = self.0 else { return };
        inner.sweeps.get(outcome).inc();
        inner.sweep_duration.set(took.as_secs_f64());
        if let Some(kept) = kept {
            inner.sweep_kept.set(signed(kept));
        }
        if outcome == Pass::Ok {
            inner.sweep_success.set(unix_time());
        }
    }

    pub(crate) fn refused(self, reason: AuthFailure) {
        if let Some(inner) = self.0 {
            inner.auth_failures.get(reason).inc();
        }
    }

    pub(crate) fn key_set_read(self, outcome: Refresh) {
        let Some(inner) = self.0 else { return };
        inner.jwks.get(outcome).inc();
        if outcome != Refresh::Failed {
            inner.jwks_success.set(unix_time());
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "Metrics(on)" } else { "Metrics(off)" })
    }
}

/// As gauges count.
fn signed(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

fn unix_time() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a series as it is rendered.
    fn value(metrics: Metrics, series: &str) -> Option<f64> {
        let text = metrics.render();
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    #[test]
    fn off_nothing_is_counted_and_nothing_shown() {
        let metrics = Metrics::default();
        metrics.refused(AuthFailure::Missing);
        metrics.receiving().end(Upload::Created, 5);
        assert_eq!((metrics.render().as_str(), metrics.described()), ("", &[][..]));
    }

    #[test]
    fn fixed_series_are_there_before_anything_happens() {
        let metrics = Metrics::on();
        for series in [
            r#"release_server_uploads_total{outcome="created"}"#,
            r#"release_server_storage_operations_total{operation="list",outcome="failed"}"#,
            r#"release_server_auth_failures_total{reason="missing"}"#,
            "release_server_sweep_last_success_timestamp_seconds",
        ] {
            assert_eq!(value(metrics, series), Some(0.0), "{series}");
        }
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(value(metrics, &format!("release_server_build_info{{version=\"{version}\"}}")), Some(1.0));
    }

    #[test]
    fn an_upload_whose_end_nobody_told_was_interrupted() {
        let metrics = Metrics::on();
        drop(metrics.receiving());
        metrics.receiving().end(Upload::Created, 5);
        let uploads =
            |outcome| value(metrics, &format!("release_server_uploads_total{{outcome=\"{outcome}\"}}"));
        assert_eq!((uploads("interrupted"), uploads("created")), (Some(1.0), Some(1.0)));
        assert_eq!(value(metrics, "release_server_uploaded_bytes_total"), Some(5.0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_is_timed_and_its_answer_passed_on() {
        let metrics = Metrics::on();
        let missing =
            || object_store::Error::NotFound { path: "a".into(), source: "there is none".to_owned().into() };
        let answer = metrics
            .operation(Operation::Head, async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                Err::<(), _>(missing())
            })
            .await;
        assert!(matches!(answer, Err(object_store::Error::NotFound { .. })));
        let series = r#"release_server_storage_operations_total{operation="head",outcome="missing"}"#;
        assert_eq!(value(metrics, series), Some(1.0));
        let bucket = |le| {
            value(
                metrics,
                &format!(
                    "release_server_storage_operation_duration_seconds_bucket{{le=\"{le}\",operation=\"head\"}}"
                ),
            )
        };
        assert_eq!((bucket("1.0"), bucket("2.5")), (Some(0.0), Some(1.0)));
    }

    #[test]
    fn no_two_metrics_share_a_name() {
        let described = Metrics::on().described();
        let base = |described: &Described| described.name.trim_end_matches("_total").to_owned();
        let names: std::collections::BTreeSet<_> = described.iter().map(base).collect();
        assert_eq!(names.len(), described.len());
    }

    #[test]
    fn what_is_described_is_what_is_shown() {
        let metrics = Metrics::on();
        metrics.begin();
        metrics.end(&::http::Method::GET, Some("/latest"), None, Duration::ZERO, 0);
        metrics.received(&::http::Method::GET, Some("/latest"), 0);
        let text = metrics.render();
        for Described { name, kind, .. } in metrics.described() {
            let shown = name.strip_suffix("_total").filter(|_| *kind == "counter").unwrap_or(name);
            let kind = if shown.ends_with("build_info") { "info" } else { kind };
            let shown = shown.strip_suffix("_info").unwrap_or(shown);
            assert!(text.contains(&format!("# TYPE {shown} {kind}\n")), "{shown} {kind}\n{text}");
        }
    }
}
