//! What the server computes, without a network or a disk: `cargo bench`.
//!
//! Whole requests go through the server as a function, over packages in memory: a listing is made for each, as always.

#![expect(clippy::unwrap_used, reason = "a benchmark may fail so")]

use std::{collections::HashMap, fmt::Write as _, net::SocketAddr, path::Path, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::ConnectInfo,
    http::{Request, StatusCode, header},
};
use chrono::{DateTime, TimeDelta, Utc};
use divan::{Bencher, black_box, counter::BytesCount};
use object_store::{ObjectMeta, path::Path as Key};
use release_server::{
    audit::Actor,
    auth::Authenticator,
    config,
    digest::Digest,
    http::{self, serve::Draining},
    marker::{Marker, Source},
    name::PackageName,
    packages::{Packages, assemble},
    releases::{
        Releases,
        change::NewRelease,
        id::ReleaseId,
        name::{Repository, TagName},
        record::{Asset, Record, now},
    },
    retention::{Policy, decide},
    storage::{Found, Storage},
};
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

const COUNTS: [usize; 3] = [10, 1_000, 10_000];

fn main() {
    divan::main();
}

fn package_name(number: usize) -> String {
    format!("spec-kit-template-agent{number:05}-sh-v0.0.{}.zip", number % 97)
}

fn time_of(number: usize) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap() + TimeDelta::seconds(i64::try_from(number).unwrap())
}

fn marker(number: usize) -> Marker {
    let name = package_name(number);
    let (etag, sha256) = (format!("\"{number:x}-18a7c9f2d3b4-5e6f\""), Digest::of(name.as_bytes()));
    Marker::new(&name, &etag, 1000, sha256, Source::Published, time_of(number))
}

/// So many packages, each with its marker.
fn found(count: usize) -> Found {
    let object = |number| ObjectMeta {
        location: Key::from(package_name(number)),
        last_modified: time_of(number),
        size: 1000,
        e_tag: Some(format!("\"{}\"", marker(number).etag)),
        version: None,
    };
    Found {
        objects: (0..count).map(object).collect(),
        markers: Arc::new((0..count).map(|number| marker(number).to_string()).collect()),
        skipped: 0,
        whole: true,
        generation: None,
    }
}

/// With rules of every kind, so that names are parsed.
fn policy(count: usize) -> Policy {
    Policy { max_packages: Some(count / 2), versions_per_family: 3, max_age: None }
}

#[divan::bench]
fn a_name_is_checked(bencher: Bencher<'_, '_>) {
    let name = package_name(7);
    bencher.bench(|| PackageName::for_upload(black_box(&name)));
}

#[divan::bench]
fn a_marker_is_read(bencher: Bencher<'_, '_>) {
    let name = marker(7).to_string();
    bencher.bench(|| Marker::parse(black_box(&name)));
}

#[divan::bench]
fn a_digest_of_1_mib(bencher: Bencher<'_, '_>) {
    let bytes = vec![7; 1 << 20];
    bencher.counter(BytesCount::of_slice(&bytes)).bench(|| Digest::of(black_box(&bytes)));
}

#[divan::bench(args = COUNTS)]
fn a_listing_is_assembled(bencher: Bencher<'_, '_>, count: usize) {
    let (found, policy, now) =
        (found(count), Policy { max_packages: Some(0), ..Policy::default() }, Utc::now());
    bencher.bench(|| assemble(black_box(&found), &HashMap::new(), &policy, now));
}

#[divan::bench(args = COUNTS)]
fn retention_decides(bencher: Bencher<'_, '_>, count: usize) {
    let (policy, now) = (policy(count), Utc::now());
    let listing = assemble(&found(count), &HashMap::new(), &policy, now).candidates();
    bencher.bench(|| decide(black_box(&listing), &policy, now).len());
}

/// The server over packages in memory.
struct Server {
    runtime: Runtime,
    app: Router,
}

impl Server {
    /// With so many packages, and a release with notes.
    fn start(count: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let app = runtime.block_on(Self::filled(count));
        Self { runtime, app }
    }

    async fn filled(count: usize) -> Router {
        let variables = [("MAX_PACKAGES".to_owned(), "0".into()), ("AUTH_TOKEN".to_owned(), "x".into())];
        let config = config::load_from(variables, Path::new("/nonexistent/config.yaml")).unwrap().config;
        let storage = Storage::memory(config.upload_memory_bytes);
        for number in 0..count {
            let name = PackageName::for_upload(&package_name(number)).unwrap();
            let mut upload = storage.upload(&name, false, Some(1000));
            upload.write(Bytes::from(vec![7; 1000])).await.unwrap();
            let sha256 = upload.digest().await.unwrap();
            let etag = upload.commit().await.unwrap().etag;
            let marker = Marker::new(name.as_str(), &etag, 1000, sha256, Source::Published, time_of(number));
            storage.put_marker(&marker).await.unwrap();
        }
        let releases = Releases::new(storage.clone(), &config);
        let release =
            NewRelease { body: Some(notes()), ..NewRelease::new(TagName::parse("v1.0.0").unwrap()) };
        let repository = Repository::parse("acme/app").unwrap();
        releases.create(&repository, release, &Actor::default()).await.unwrap();
        let auth = Authenticator::new(config.auth_token.as_ref(), &config.auth).unwrap();
        let local = SocketAddr::from(([127, 0, 0, 1], 8000));
        let packages = Packages::new(storage, &config);
        http::app(packages, releases, Arc::new(auth), &config, local, Draining::default())
    }

    /// Sends a request and reads the answer.
    fn ask(&self, expected: StatusCode, path: &str, fields: &[(header::HeaderName, &str)]) -> Bytes {
        let mut request = Request::get(path).extension(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 4000))));
        for (name, value) in fields {
            request = request.header(name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        self.runtime.block_on(async {
            let answer = self.app.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), expected, "{path}");
            to_bytes(answer.into_body(), usize::MAX).await.unwrap()
        })
    }
}

/// As a release has them, some pages.
fn notes() -> String {
    let mut notes =
        String::from("## What's changed\n\n| file | for |\n|---|---|\n| `app.zip` | **all** |\n\n");
    for number in 0..200 {
        writeln!(notes, "* A fix of *number* {number} by @someone in https://example.com/pull/{number}")
            .unwrap();
    }
    notes
}

const HOST: (header::HeaderName, &str) = (header::HOST, "releases.example");

/// Nothing has changed: the listing is made anew and found to be the same, and the bytes of the last answer are sent.
#[divan::bench(args = COUNTS)]
fn latest_is_answered_again(bencher: Bencher<'_, '_>, count: usize) {
    let server = Server::start(count);
    bencher.bench_local(|| server.ask(StatusCode::OK, "/latest", &[HOST]));
}

/// The same for a base URL that is not known yet, so that its JSON is made.
#[divan::bench(args = COUNTS)]
fn latest_is_rendered(bencher: Bencher<'_, '_>, count: usize) {
    let server = Server::start(count);
    let mut hosts = 0;
    bencher
        .with_inputs(|| {
            hosts += 1;
            format!("host-{hosts}.example")
        })
        .bench_local_refs(|host| server.ask(StatusCode::OK, "/latest", &[(header::HOST, host)]));
}

#[divan::bench]
fn a_range_of_a_package(bencher: Bencher<'_, '_>) {
    let (server, path) = (Server::start(1), format!("/assets/{}", package_name(0)));
    let range = (header::RANGE, "bytes=100-199");
    bencher.bench_local(|| server.ask(StatusCode::PARTIAL_CONTENT, &path, &[HOST, range.clone()]));
}

#[divan::bench]
fn a_package_that_was_not_modified(bencher: Bencher<'_, '_>) {
    let (server, path) = (Server::start(1), format!("/assets/{}", package_name(0)));
    let condition = (header::IF_NONE_MATCH, "*");
    bencher.bench_local(|| server.ask(StatusCode::NOT_MODIFIED, &path, &[HOST, condition.clone()]));
}

#[divan::bench]
fn the_page_of_a_release_with_notes(bencher: Bencher<'_, '_>) {
    let server = Server::start(0);
    bencher.bench_local(|| server.ask(StatusCode::OK, "/acme/app/releases/tag/v1.0.0", &[HOST]));
}

/// A release of so many assets.
fn record(count: u16) -> Record {
    let id = ReleaseId::new(Utc::now(), 7);
    let fields = serde_json::json!({
        "id": id, "repository": "acme/app", "tag_name": "v1.0.0", "body": notes(), "published": true,
        "created_at": now(), "updated_at": now(), "author": "ci", "revision": 1, "edit": "x",
    });
    let mut record: Record = serde_json::from_value(fields).unwrap();
    for slot in 0..count {
        let name = format!("app-{slot}.tar.gz");
        record.assets.push(Asset {
            id: id.asset(slot),
            label: None,
            content_type: "application/gzip".into(),
            size: 1000,
            sha256: Digest::of(name.as_bytes()),
            key: format!("repos/acme/app/files/{id}/0123456789abcdef0123456789abcdef/{name}"),
            name,
            uploader: "ci".into(),
            created_at: now(),
            updated_at: now(),
            unknown: serde_json::Map::new(),
        });
    }
    record
}

#[divan::bench(args = [10, 34, 1_000])]
fn a_record_is_read(bencher: Bencher<'_, '_>, count: u16) {
    let text = serde_json::to_vec(&record(count)).unwrap();
    bencher.counter(BytesCount::of_slice(&text)).bench(|| serde_json::from_slice::<Record>(black_box(&text)));
}

/// A slot is taken, the revision raised, and all of it written.
#[divan::bench(args = [10, 34, 1_000])]
fn a_record_is_changed(bencher: Bencher<'_, '_>, count: u16) {
    let record = record(count);
    bencher.with_inputs(|| record.clone()).bench_values(|mut record| {
        record.take_slot().unwrap();
        serde_json::to_vec(&record.touched(now())).unwrap()
    });
}
