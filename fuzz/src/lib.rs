//! What the targets share: the whole server as a function, on a store in memory, and requests written as text.
//!
//! A target's input is text that a person can read and write, so that a seed is a file and a finding explains itself.
//! After an input that changed something the store is made as it was: what an input does depends on nothing before it.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, OnceLock},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use release_server::{
    auth::Authenticator,
    config::{self, Config},
    http::serve::Draining,
    packages::Packages,
    releases::Releases,
    storage::Storage,
};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;
use tracing_subscriber::filter::LevelFilter;

/// May do everything.
pub const TOKEN: &str = "correct-horse";

/// The package that is always there, and its bytes.
pub const PACKAGE: &str = "app-1.0.0.tar.gz";

/// The bytes of [`PACKAGE`].
pub fn package_bytes() -> Vec<u8> {
    (0..1000_u16).map(|index| index.to_be_bytes()[1]).collect()
}

/// Settings that open as many ways as there are.
const SETTINGS: [(&str, &str); 7] = [
    ("AUTH_TOKEN", TOKEN),
    ("MAX_UPLOAD_BYTES", "65536"),
    ("MAX_PACKAGES", "10"),
    ("PACKAGE_REPOSITORY", "acme/packages"),
    ("AUTH__PRIVATE_REPOSITORIES", "secret/*"),
    // The peer of a request that came by no connection.
    ("SERVER__TRUSTED_PROXIES", "0.0.0.0/32"),
    ("LOG__LEVEL", "debug"),
];

/// The settings of the server, and others in the place of some.
pub fn config(others: &[(&str, &str)]) -> Config {
    let settings =
        SETTINGS.iter().chain(others).map(|(name, value)| ((*name).to_owned(), OsString::from(value)));
    config::load_from(settings, Path::new("/nonexistent/config.yaml")).expect("the settings are good").config
}

/// A server, and what it has.
pub struct Server {
    runtime: Runtime,
    app: Router,
    storage: Storage,
    known: Mutex<Known>,
}

/// What the store has whose names are not known beforehand; an input writes `$R`, `$D`, `$A` and `$E`.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The published release of `acme/app`, its tag `v1`.
    pub release: String,
    /// The draft of `acme/app`, its tag `v2`.
    pub draft: String,
    /// The asset of the published release.
    pub asset: String,
    /// The `ETag` of [`PACKAGE`].
    pub etag: String,
    /// The `Last-Modified` of [`PACKAGE`].
    pub modified: String,
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// A header that is there at most once; empty if it is not.
    pub fn header(&self, name: &str) -> &str {
        assert!(self.headers.get_all(name).iter().count() < 2, "several `{name}`: {self:?}");
        self.headers.get(name).map_or("", |value| value.to_str().expect("headers are ASCII"))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[must_use]
    pub fn ok(self) -> Self {
        assert!(self.status.is_success(), "{self:?}");
        self
    }
}

/// The server on a store that has one package, one published release with an asset, and one draft.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        // Every line is written, to nowhere: what formats a line is reached too.
        tracing_subscriber::fmt().json().with_max_level(LevelFilter::DEBUG).with_writer(std::io::sink).init();
        let server = Server::new();
        server.restore();
        server
    })
}

impl Server {
    fn new() -> Self {
        let config = config(&[]);
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let storage = Storage::memory(config.upload_memory_bytes);
        let packages = Packages::new(storage.clone(), &config);
        let releases = Releases::new(storage.clone(), &config);
        let auth =
            Authenticator::new(config.auth_token.as_ref(), &config.auth).expect("the settings are good");
        let local = SocketAddr::from(([127, 0, 0, 1], 8000));
        let app = release_server::http::app(
            packages,
            releases,
            Arc::new(auth),
            &config,
            local,
            Draining::default(),
        );
        Self { runtime, app, storage, known: Mutex::default() }
    }

    /// Makes the store what it is at the beginning.
    pub fn restore(&self) {
        self.runtime.block_on(self.storage.clear());
        let put = |path: &str, body: Vec<u8>| self.send(Method::PUT, path, body).ok();
        let post = |path: &str, body: Vec<u8>| self.send(Method::POST, path, body).ok().json();
        put(&format!("/assets/{PACKAGE}"), package_bytes());
        let package = self.send(Method::HEAD, &format!("/assets/{PACKAGE}"), Vec::new()).ok();
        let release = post("/repos/acme/app/releases", br#"{"tag_name": "v1", "body": "*Notes*"}"#.into());
        let asset =
            post(&format!("/repos/acme/app/releases/{}/assets?name=a.txt", release["id"]), b"asset".into());
        let draft = post("/repos/acme/app/releases", br#"{"tag_name": "v2", "draft": true}"#.into());
        *self.known.lock().expect("one thread") = Known {
            release: release["id"].to_string(),
            draft: draft["id"].to_string(),
            asset: asset["id"].to_string(),
            etag: package.header("etag").to_owned(),
            modified: package.header("last-modified").to_owned(),
        };
    }

    /// What is there now.
    pub fn known(&self) -> Known {
        self.known.lock().expect("one thread").clone()
    }

    /// The answer to a request with [`TOKEN`].
    pub fn send(&self, method: Method, target: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder().method(method).uri(target);
        let request = request.header(header::AUTHORIZATION, format!("Bearer {TOKEN}"));
        self.ask(request.body(body.into()).expect("a request"))
    }

    /// The answer to a request, which is a proper one whatever was asked.
    pub fn ask(&self, request: Request<Body>) -> Answer {
        let method = request.method().clone();
        let answer = self.runtime.block_on(async {
            let answer = self.app.clone().oneshot(request).await.expect("infallible");
            let (head, body) = answer.into_parts();
            let body = to_bytes(body, usize::MAX).await.expect("the answer is whole");
            Answer { status: head.status, headers: head.headers, body }
        });
        check(&method, &answer);
        answer
    }
}

/// What holds for every answer.
fn check(method: &Method, answer: &Answer) {
    let status = answer.status;
    assert!(!status.is_server_error() && !status.is_informational(), "{answer:?}");
    for (name, value) in &answer.headers {
        let plain = value.as_bytes().iter().all(|byte| (0x20..0x7f).contains(byte));
        assert!(plain, "`{name}` is not plain: {answer:?}");
    }
    assert!(!answer.header("x-request-id").is_empty(), "{answer:?}");
    assert_eq!(answer.header("x-content-type-options"), "nosniff", "{answer:?}");
    if matches!(status.as_u16(), 204 | 304) {
        assert!(answer.body.is_empty(), "{answer:?}");
        return;
    }
    // The connection leaves its body out.
    if method == Method::HEAD {
        return;
    }
    let length = answer.header("content-length");
    assert!(length.is_empty() || length == answer.body.len().to_string(), "{answer:?}");
    let content_type = answer.header("content-type");
    // Not what somebody uploaded, which is a file.
    if content_type.starts_with("application/json") && answer.header("content-disposition").is_empty() {
        answer.json();
    }
    if status.is_client_error() {
        assert!(content_type.starts_with("application/json"), "{answer:?}");
        let problem = answer.json();
        let message = problem["message"].as_str().expect("a problem has a message");
        assert!(!message.contains(char::is_control), "{message:?}");
    }
}

/// The text with what is known put in.
pub fn filled(text: &[u8], known: &Known) -> Vec<u8> {
    let mut filled = Vec::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte == b'$') {
        filled.extend_from_slice(&rest[..at]);
        let value = match rest.get(at + 1) {
            Some(b'R') => known.release.as_str(),
            Some(b'D') => &known.draft,
            Some(b'A') => &known.asset,
            Some(b'E') => &known.etag,
            Some(b'M') => &known.modified,
            Some(b'T') => TOKEN,
            _ => {
                filled.push(b'$');
                rest = &rest[at + 1..];
                continue;
            }
        };
        filled.extend_from_slice(value.as_bytes());
        rest = &rest[at + 2..];
    }
    filled.extend_from_slice(rest);
    filled
}

/// The lines up to an empty one, and what follows it.
pub fn head(text: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (line, after) = match rest.iter().position(|byte| *byte == b'\n') {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, &[][..]),
        };
        rest = after;
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    (lines, rest)
}

/// The header fields that lines `name: value` are; `None` if one could not be sent.
pub fn fields(lines: &[&[u8]]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        headers.append(name, value);
    }
    // As many as a connection takes.
    (headers.len() <= 100).then_some(headers)
}
