//! The harness: a server on a folder of its own, requests that read like a sentence, and answers to assert on.
//!
//! Most tests call the server as a function, without a port. [`Server::listen`] gives it one, where it matters how
//! bytes travel.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    future::{Future, IntoFuture},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::ConnectInfo,
    http::{HeaderMap, HeaderValue, Method, Request, header, request},
};
use release_server::{
    auth::Authenticator,
    config::{self, Config},
    hasher,
    http::{
        self,
        serve::{Draining, serve},
    },
    packages::Packages,
    releases::Releases,
    storage::Storage,
    sweep::{self, Swept},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};

use super::logs;

/// May do everything.
pub(crate) const TOKEN: &str = "correct-horse";

/// How long anything may take before a test gives up on it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Wednesday, 21 October 2015, 07:28:00 GMT: when files copied in by hand were last modified.
#[expect(clippy::duration_suboptimal_units, reason = "a Unix time is in seconds")]
pub(crate) const LONG_AGO: Duration = Duration::from_secs(1_445_412_480);

/// A server on a folder of its own, which goes with the last server on it.
pub(crate) struct Server {
    pub(crate) packages: Packages,
    pub(crate) releases: Releases,
    config: Config,
    app: Router,
    draining: Draining,
    /// Around the store, so that an escape from it is seen.
    folder: Arc<TempDir>,
}

impl Server {
    /// With the defaults and [`TOKEN`], on an empty store.
    pub(crate) fn start() -> Self {
        Self::configured(&[("AUTH_TOKEN", TOKEN)])
    }

    /// With these variables, on an empty store.
    pub(crate) fn configured(variables: &[(&str, &str)]) -> Self {
        let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).into()));
        let config = config::load_from(environment, Path::new("/nonexistent/config.yaml")).unwrap().config;
        Self::over(Arc::new(TempDir::new().unwrap()), config)
    }

    /// A server with other settings in the place of this one.
    pub(crate) fn with(self, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = self.config;
        change(&mut config);
        Self::over(self.folder, config)
    }

    /// The same on the same store, which remembers nothing.
    pub(crate) fn another(&self) -> Self {
        Self::over(Arc::clone(&self.folder), self.config.clone())
    }

    fn over(folder: Arc<TempDir>, config: Config) -> Self {
        logs::subscribe();
        let root = folder.path().join("store");
        fs::create_dir_all(&root).unwrap();
        let packages = Packages::new(Storage::directory(&root, config.upload_memory_bytes).unwrap(), &config);
        let auth = Authenticator::new(config.auth_token.as_ref(), &config.auth).unwrap();
        let local = SocketAddr::from(([127, 0, 0, 1], 8000));
        let draining = Draining::default();
        let releases = Releases::new(packages.storage().clone(), &config);
        let app =
            http::app(packages.clone(), releases.clone(), Arc::new(auth), &config, local, draining.clone());
        Self { packages, releases, config, app, draining, folder }
    }

    /// As after SIGTERM.
    pub(crate) async fn stop(&self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        serve(listener, self.app.clone(), &self.config.server, self.draining.clone(), async {}).await;
    }

    /// Serves on a port.
    pub(crate) async fn listen(&self) -> Port {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (app, limits, draining) = (self.app.clone(), self.config.server.clone(), self.draining.clone());
        let serving = tokio::spawn(async move {
            serve(listener, app, &limits, draining, std::future::pending()).await;
        });
        Port { address, serving }
    }

    pub(crate) fn get(&self, path: &str) -> Call<'_> {
        self.call(Method::GET, path)
    }

    pub(crate) fn head(&self, path: &str) -> Call<'_> {
        self.call(Method::HEAD, path)
    }

    /// Uploads a package, with [`TOKEN`].
    pub(crate) fn put(&self, name: &str, bytes: impl Into<Body>) -> Call<'_> {
        self.call(Method::PUT, &format!("/assets/{name}")).bearer(TOKEN).body(bytes)
    }

    /// Uploads a form, with [`TOKEN`].
    pub(crate) fn post(&self, path: &str, form: &Form) -> Call<'_> {
        self.call(Method::POST, path).bearer(TOKEN).header("content-type", Form::TYPE).body(form.body())
    }

    /// Deletes, with [`TOKEN`].
    pub(crate) fn delete(&self, path: &str) -> Call<'_> {
        self.call(Method::DELETE, path).bearer(TOKEN)
    }

    /// Any request, with no token.
    pub(crate) fn call(&self, method: Method, path: &str) -> Call<'_> {
        Call { app: &self.app, request: Request::builder().method(method).uri(path), body: Body::empty() }
    }

    /// The names that are listed.
    pub(crate) async fn names(&self) -> Vec<String> {
        let list = self.get("/packages").await.ok().json();
        list.as_array().unwrap().iter().map(|package| text(&package["name"])).collect()
    }

    /// A package as the list shows it.
    pub(crate) async fn listed(&self, name: &str) -> Value {
        let list = self.get("/packages").await.ok().json();
        let mut packages = list.as_array().unwrap().iter();
        packages
            .find(|package| package["name"] == name)
            .unwrap_or_else(|| panic!("`{name}` is not listed"))
            .clone()
    }

    /// Runs the background hasher until everything listed has its digest.
    pub(crate) async fn hashed(&self) {
        let hasher = tokio::spawn(hasher::run(self.packages.clone()));
        eventually("everything has a digest", async || {
            let list = self.get("/packages").await.ok().json();
            list.as_array().unwrap().iter().all(|package| package["sha256"].is_string())
        })
        .await;
        hasher.abort();
    }

    /// One pass of the sweep.
    pub(crate) async fn sweep(&self) -> Swept {
        sweep::both(&self.packages, &self.releases).await.unwrap().0
    }

    /// Where a package lies.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("store").join(name)
    }

    /// The folder around the store, where nothing of ours may ever be.
    pub(crate) fn outside(&self) -> &Path {
        self.folder.path()
    }

    /// A file copied in by hand, long ago.
    pub(crate) fn copy_in(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        modified(&path, LONG_AGO);
    }

    /// The names in the store's folder, without the server's own.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut names = entries(&self.path("."));
        names.retain(|name| name != ".release-server");
        names
    }

    /// The names of what is known of packages.
    pub(crate) fn markers(&self) -> Vec<String> {
        entries(&self.path(".release-server/packages"))
    }

    /// How many uploads are under way.
    pub(crate) fn staged(&self) -> usize {
        entries(&self.path(".release-server/stage")).len()
    }

    /// Nothing is listed, nothing lies in the store, and nothing is left of an upload.
    #[track_caller]
    pub(crate) fn assert_stored_nothing(&self) {
        assert_eq!(self.files(), [""; 0]);
        assert_eq!(self.markers(), [""; 0]);
        assert_eq!(self.staged(), 0);
    }

    /// The same, though the clearing up goes on behind the answer.
    pub(crate) async fn assert_stored_nothing_soon(&self) {
        eventually("nothing is left of the upload", async || self.staged() == 0).await;
        self.assert_stored_nothing();
    }
}

/// A server's own port; it goes on until dropped.
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Port {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A request; awaiting it sends it.
pub(crate) struct Call<'a> {
    app: &'a Router,
    request: request::Builder,
    body: Body,
}

impl Call<'_> {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        self
    }

    pub(crate) fn bearer(mut self, token: &str) -> Self {
        let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        self.request.headers_mut().unwrap().insert(header::AUTHORIZATION, value);
        self
    }

    pub(crate) fn without_token(mut self) -> Self {
        self.request.headers_mut().unwrap().remove(header::AUTHORIZATION);
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    /// As if it came from this address.
    pub(crate) fn from(mut self, peer: &str) -> Self {
        let peer = SocketAddr::new(peer.parse::<IpAddr>().unwrap(), 40_000);
        self.request = self.request.extension(ConnectInfo(peer));
        self
    }
}

impl<'a> IntoFuture for Call<'a> {
    type Output = Answer;
    type IntoFuture = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        use tower::ServiceExt as _;

        let (app, request) = (self.app.clone(), self.request.body(self.body).unwrap());
        Box::pin(async move {
            let answer =
                tokio::time::timeout(DEADLINE, app.oneshot(request)).await.expect("no answer in time");
            let (head, body) = answer.unwrap().into_parts();
            let body = to_bytes(body, usize::MAX).await.expect("the answer broke off");
            Answer { status: head.status.as_u16(), headers: head.headers, body }
        })
    }
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{self:?}");
        self
    }

    /// An error in our shape, whose message has `words` in it.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, words: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/json", "{self:?}");
        let problem = self.json();
        let message = problem["message"].as_str().unwrap_or_default();
        assert!(message.contains(words), "`{words}` is not in `{message}`");
        assert!(!message.contains(char::is_control), "{message:?}");
        assert_eq!(problem["documentation_url"], "/docs");
    }

    /// A header that is there at most once; empty if it is not.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        assert!(self.headers.get_all(name).iter().count() < 2, "several `{name}`: {:?}", self.headers);
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A multipart form, written out by hand so that it can be wrong.
#[derive(Default)]
pub(crate) struct Form(Vec<u8>);

impl Form {
    pub(crate) const TYPE: &str = "multipart/form-data; boundary=limit";

    /// A form with one file, as `curl -F file=@NAME` sends it.
    pub(crate) fn file(name: &str, bytes: &[u8]) -> Self {
        Self::default().part(&format!("name=\"file\"; filename=\"{name}\""), bytes)
    }

    /// Adds a part with this disposition.
    pub(crate) fn part(mut self, disposition: &str, bytes: &[u8]) -> Self {
        let head = format!("--limit\r\nContent-Disposition: form-data; {disposition}\r\n\r\n");
        self.0.extend_from_slice(head.as_bytes());
        self.0.extend_from_slice(bytes);
        self.0.extend_from_slice(b"\r\n");
        self
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        [&self.0, b"--limit--\r\n".as_slice()].concat()
    }

    /// The form without its end.
    pub(crate) fn broken_off(self) -> Vec<u8> {
        self.0
    }
}

/// Waits until something holds; fails when the deadline passes.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Sets when a file was last modified, since 1970.
pub(crate) fn modified(path: &Path, time: Duration) {
    File::options().write(true).open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH + time).unwrap();
}

/// SHA-256 in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    release_server::digest::Digest::of(bytes).to_string()
}

/// A JSON string's text.
#[track_caller]
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

/// The names in a folder, sorted.
pub(crate) fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Every file below a folder: its bytes and when it was last modified. The server's own folder is left out.
pub(crate) fn snapshot(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() == ".release-server" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            files.extend(snapshot(&entry.path()));
        } else {
            let modified = entry.metadata().unwrap().modified().unwrap();
            files.insert(entry.path(), (fs::read(entry.path()).unwrap(), modified));
        }
    }
    files
}
